//! `status`: what the supervisor knows, and what users of the daemon feel.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::check::survey;
use crate::cli::output::{self, Format};
use crate::cli::sources::{config_paths, layers};
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::{Lock, look, places};
use crate::plan;
use crate::settings::Settings;
use crate::supervise::{self, Status};
use crate::sys::{files, processes};

/// The states without a supervisor.
pub(super) const UNSUPERVISED: &str = "running";
const NOT_RUNNING: &str = "not running";

#[derive(clap::Args)]
pub struct StatusOptions {
    /// Output format
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Wait until the daemon is ready, at most so many seconds (60)
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "60"
    )]
    wait: Option<u32>,
}

/// Options of `docker run` that may have no effect, and whether they do as dockerd calls it.
const LIMITS: &[(&str, &str)] = &[
    ("--memory", "MemoryLimit"),
    ("--cpus", "CpuCfsQuota"),
    ("--cpuset-cpus", "CPUSet"),
    ("--pids-limit", "PidsLimit"),
];

/// The keys that people see, in this order.
const ROWS: &[&str] = &[
    "address",
    "client",
    "service",
    "network",
    "images",
    "data",
    "containers",
    "ports",
    "clients",
    "limits",
    "restarted",
    "problems",
    "notes",
];

/// Prints the status; with `--wait`, when the daemon is ready or the time is over. Returns exit code 3
/// unless the daemon takes orders.
pub fn run(
    environment: &Environment,
    options: &StatusOptions,
    is_verbose: bool,
) -> Result<Exit, Error> {
    let person = look::person(environment);
    let runtime_dir = plan::refuse_person(&person)?;
    let run_dir = places::run_dir(runtime_dir);
    let wait = Duration::from_secs(options.wait.unwrap_or(0).into());
    let status = find_unsupervised(environment, runtime_dir)
        .or_else(|| supervise::wait_until_ready(&run_dir, wait))
        .unwrap_or_else(|| Status { state: NOT_RUNNING.to_owned(), ..Status::default() });
    let is_up = status.is_ready() || status.state == UNSUPERVISED;
    // Each question keeps a daemon running that stops when it is idle: a program asks again and again.
    let is_asked = options.format == Format::Text || status.socket_of != "service manager";
    // Nor is one asked that has a problem: each question would look like work of a dockerd that hangs.
    let is_asked = is_asked && status.problems.is_empty();
    let report = gather(environment, &status, is_up && is_asked);
    let text = text(&report, is_verbose);
    output::tell(options.format, report, text)?;
    Ok(if is_up { Exit::Good } else { Exit::NotRunning })
}

/// Finds a daemon that has no supervisor: of `run --exec`, or of upstream's script.
pub(super) fn find_unsupervised(environment: &Environment, runtime_dir: &Path) -> Option<Status> {
    if supervise::read_status(&places::run_dir(runtime_dir)).is_some() {
        return None;
    }
    let settings = Settings::resolve(&layers(environment, &[]).ok()?).ok()?;
    let state_dir = places::state_dir(&settings, None, runtime_dir);
    let Lock::Held(pid) = look::lock(&state_dir.join("lock")) else { return None };
    Some(Status {
        state: UNSUPERVISED.to_owned(),
        rootlesskit: Some(pid),
        socket: Some(places::api_socket(runtime_dir)),
        socket_of: "dockerd".to_owned(),
        ..Status::default()
    })
}

/// Returns what the supervisor knows and what users of the daemon feel, and null for what is not known.
/// `asks` is whether to ask dockerd, too.
fn gather(environment: &Environment, status: &Status, asks: bool) -> Value {
    let ask = |path| supervise::query(status.socket.as_ref()?, path).ok();
    let info = if asks { ask("/info") } else { None };
    let answer = |path| info.as_ref().and_then(|_| ask(path));
    let [bridge, listed] = ["/networks/bridge", "/containers/json"].map(answer);
    let address = status.socket.as_ref().map(|path| places::unix_url(path).display().to_string());
    let has_newer = !supervise::newer_programs(status).is_empty();
    let fate = match status.keeps_containers {
        true => "they survive a restart of dockerd",
        false => "they stop with dockerd",
    };
    let mut report = json!(status);
    let rows = json!({
        "client": address.as_deref().map(|address| client(environment, address)),
        "address": address,
        "service": service(environment, status.supervisor),
        "network": network(status, bridge.as_ref()),
        "images": info.as_ref().map(|info| format!("{} ({} image store)", shown(&info["Driver"]), store(info))),
        "data": info.as_ref().map(data),
        "containers": info.as_ref().map(|info| format!("{} running; {fate}", shown(&info["ContainersRunning"]))),
        "ports": listed.as_ref().map(ports),
        "limits": info.as_ref().map(limits),
        "restarted": (status.supervisor > 0).then(|| restarted(status)),
        "notes": notes(environment, status, has_newer, info.is_some()),
        "restart_needed": has_newer,
    });
    for (key, value) in rows.as_object().into_iter().flatten() {
        report[key] = value.clone();
    }
    if let Some(info) = &info {
        report["dockerd_version"] = info["ServerVersion"].clone();
    }
    for key in ["since", "supervisor", "network_driver", "port_driver", "clients", "socket_of"] {
        if report[key] == 0 || report[key] == "" {
            report[key] = Value::Null;
        }
    }
    report
}

/// Says which daemon `docker` talks to, where ours is at `address`.
fn client(environment: &Environment, address: &str) -> String {
    let client = survey::docker_client(None, environment.docker_config().as_deref());
    let text = |name| environment.get(name).map(|value| value.to_string_lossy().into_owned());
    let named = text("DOCKER_CONTEXT").or(client.current_context);
    let context = named.unwrap_or_else(|| "default".to_owned());
    let host = text("DOCKER_HOST").or_else(|| client.contexts.get(&context).cloned());
    match host.as_deref() == Some(address) {
        true => format!("docker context `{context}`, in use"),
        false => format!("`docker` uses context `{context}`, not this"),
    }
}

/// Describes the installed service, without a question to systemd; `supervisor` may be its process.
fn service(environment: &Environment, supervisor: u32) -> Option<String> {
    let units = environment.config_home()?.join("systemd/user");
    if !units.join("docker.service").exists() {
        return None;
    }
    let wants = ["default.target.wants/docker.service", "sockets.target.wants/docker.socket"];
    let is_enabled = wants.iter().any(|link| fs::symlink_metadata(units.join(link)).is_ok());
    let cgroup = fs::read_to_string(format!("/proc/{supervisor}/cgroup")).unwrap_or_default();
    let user = environment.get("USER").or_else(|| environment.get("LOGNAME")).unwrap_or_default();
    let enabled = if is_enabled { "enabled" } else { "not enabled" };
    let linger = match Path::new("/var/lib/systemd/linger").join(user).is_file() {
        true => "starts at boot (linger)",
        false => "stops at logout (no linger)",
    };
    let other = if cgroup.contains("/docker.service") { "" } else { "; not running" };
    Some(format!("docker.service, {enabled}; {linger}{other}"))
}

/// Says what rootlesskit's arguments make of the network, and the MTU of dockerd's `bridge`.
fn network(status: &Status, bridge: Option<&Value>) -> Option<String> {
    let line = fs::read(format!("/proc/{}/cmdline", status.rootlesskit?)).ok()?;
    let line = String::from_utf8_lossy(&line);
    let flag = |name| line.split('\0').find_map(|word| word.strip_prefix(name)).unwrap_or("?");
    let containers = bridge.map_or("?", |bridge| {
        bridge["Options"]["com.docker.network.driver.mtu"].as_str().unwrap_or("1500")
    });
    let [net, ports, mtu] = ["--net=", "--port-driver=", "--mtu="].map(flag);
    Some(format!("{net}, ports: {ports}; MTU {mtu}, containers {containers}"))
}

/// Says where the data are, and how full their file system is, if it answers.
fn data(info: &Value) -> String {
    let root = shown(&info["DockerRootDir"]);
    match files::file_system(Path::new(&root)) {
        Some(found) => {
            let gib = |blocks: u64| (blocks * found.fragment_size()) as f64 / f64::from(1 << 30);
            let [total, free] = [gib(found.blocks()), gib(found.blocks_free())];
            format!("{root}; file system: {:.1} of {total:.1} GiB used", total - free)
        }
        None => root,
    }
}

fn store(info: &Value) -> &'static str {
    match info["DriverStatus"].to_string().contains("io.containerd.snapshotter") {
        true => "containerd",
        false => "dockerd",
    }
}

/// Returns the published ports of the `listed` containers. dockerd has each twice, for IPv4 and IPv6.
fn ports(listed: &Value) -> BTreeSet<String> {
    let ports = listed.as_array().into_iter().flatten().flat_map(|container| {
        let name = container["Names"][0].as_str().unwrap_or_default().trim_start_matches('/');
        let ports = container["Ports"].as_array().into_iter().flatten();
        ports.filter_map(move |port| {
            let address = port["IP"].as_str().filter(|ip| !["0.0.0.0", "::"].contains(ip));
            let address = address.map_or_else(String::new, |ip| format!("{ip}:"));
            let (public, private) = (port["PublicPort"].as_u64()?, port["PrivatePort"].as_u64()?);
            Some(format!("{address}{public}->{private}/{} ({name})", shown(&port["Type"])))
        })
    });
    ports.collect()
}

/// Returns the options of `docker run` that have an effect, or why none has.
fn limits(info: &Value) -> String {
    let works = |key: &str| info["CgroupDriver"] != "none" && info[key] == true;
    let works = LIMITS.iter().filter(|(_, key)| works(key)).map(|(option, _)| *option);
    match works.collect::<Vec<_>>().join(" ") {
        works if !works.is_empty() => works,
        _ if info["CgroupVersion"] == "2" => {
            "no effect: systemd delegates no cgroup controllers to you".to_owned()
        }
        _ => "no effect: they need cgroup v2".to_owned(),
    }
}

/// Says how often something was restarted, and why the last time.
fn restarted(status: &Status) -> String {
    let count = status.restarts + status.replaced + status.heals;
    let last = status.last_failure_at.zip(status.last_failure.as_ref());
    let last = last.map(|(at, failure)| format!("; {} ago: {failure}", ago(at)));
    format!("{count} times{}", last.unwrap_or_default())
}

/// Returns why a restart is due, and whether dockerd is silent.
fn notes(
    environment: &Environment,
    status: &Status,
    has_newer: bool,
    is_answered: bool,
) -> Vec<String> {
    let dockerd = status.dockerd.and_then(processes::read);
    let started = dockerd.and_then(|process| process.identity.since());
    let changed = |file: &PathBuf| fs::metadata(file).and_then(|found| found.modified()).ok();
    let mut files = config_paths(environment);
    files.extend(environment.config_home().map(|home| home.join("docker/daemon.json")));
    let stale = files.iter().find(|file| started.is_some() && changed(file) > started);
    let stale = stale.map(|file| format!("`{}` changed after the start: dockerd-rootless restart (for the network: restart --all)", file.display()));
    let newer = "programs on disk are newer than those that run: dockerd-rootless restart";
    let newer = has_newer.then(|| newer.to_owned());
    let is_silent = status.socket.is_some() && !is_answered;
    let silent = is_silent.then(|| "dockerd was not asked, or did not answer".to_owned());
    [stale, newer, silent].into_iter().flatten().collect()
}

/// Returns the report for people.
fn text(report: &Value, is_verbose: bool) -> String {
    let mut text = headline(report);
    let mut add = |label: &str, value: &str| text += &format!("  {label:<11} {value}\n");
    for label in ROWS {
        match &report[*label] {
            Value::Null => {}
            Value::Array(values) => values.iter().for_each(|value| add(label, &shown(value))),
            value => add(label, &shown(value)),
        }
    }
    for part in ["supervisor", "rootlesskit", "keeper", "dockerd", "containerd", "helper"] {
        if is_verbose && report[part].is_number() {
            add(part, &format!("PID {}", report[part]));
        }
    }
    text
}

fn headline(report: &Value) -> String {
    let state = match report["state"].as_str().unwrap_or_default() {
        NOT_RUNNING if report["service"].is_null() => {
            let start = "start: dockerd-rootless          as a service: dockerd-rootless install";
            return format!("○ {NOT_RUNNING:<22} {start}\n");
        }
        NOT_RUNNING => {
            return format!("○ {NOT_RUNNING:<22} start: systemctl --user start docker\n");
        }
        UNSUPERVISED => format!("running (PID {}), not supervised", report["rootlesskit"]),
        state => format!("{state} for {}", ago(report["since"].as_u64().unwrap_or_default())),
    };
    match &report["dockerd_version"] {
        Value::Null => format!("● {state}\n"),
        version => format!(
            "● {state:<22} Docker {}, rootlesskit {}\n",
            shown(version),
            shown(&report["rootlesskit_version"])
        ),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "unknown".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Returns how long ago a time in seconds since 1970 is.
fn ago(at: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(at, |now| now.as_secs());
    match now.saturating_sub(at) {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86400),
    }
}
