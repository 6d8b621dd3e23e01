//! `status`: what the supervisor knows, and what users of the daemon feel.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::check::survey;
use crate::cli::messages::Messages;
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
const UNSUPERVISED: &str = "running";
const NOT_RUNNING: &str = "not running";

/// What is said of a dockerd that was not asked, or gave no answer.
const SILENCE: &str = "not asked, or no answer: images, containers and limits are not known";

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

/// The rows for people: a label, and a text of values. A row whose first value is null is not shown; one
/// whose only value is a list is shown for each of its elements.
const ROWS: &[(&str, &str)] = &[
    ("address", "{api} ({client})"),
    ("service", "{service}"),
    ("network", "{network_driver}, ports: {port_driver}; MTU {mtu}, containers {container_mtu}"),
    ("dockerd", "{silence}"),
    ("images", "{storage_driver} ({image_store} image store)"),
    ("data", "{data_root}; file system: {disk}"),
    ("containers", "{containers}"),
    ("ports", "{ports}"),
    ("limits", "{limits}"),
    ("restarts", "{restarted}"),
    ("problem", "{problems}"),
    ("note", "{restart_due}"),
];

/// Prints the status; with `--wait`, when the daemon is ready or the time is over. Returns exit code 3
/// unless the daemon takes orders.
pub fn run(
    environment: &Environment,
    options: &StatusOptions,
    messages: &Messages,
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
    let report = gather(environment, &status, is_up && is_asked);
    let text = text(&report, messages.is_verbose(), messages.colored(environment, &io::stdout()));
    output::tell(options.format, report, text)?;
    Ok(if is_up { Exit::Good } else { Exit::NotRunning })
}

/// Finds a daemon that has no supervisor: of `run --exec`, or of upstream's script.
fn find_unsupervised(environment: &Environment, runtime_dir: &Path) -> Option<Status> {
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

/// Returns all that is known, and null for what is not; `asks` is whether to ask dockerd, too.
fn gather(environment: &Environment, status: &Status, asks: bool) -> Value {
    let ask = |path| supervise::query(status.socket.as_ref()?, path).ok();
    let info = if asks { ask("/info") } else { None };
    let answer = |path| info.as_ref().and_then(|_| ask(path));
    let [bridge, containers] = ["/networks/bridge", "/containers/json"].map(answer);
    let is_known = info.is_some();
    let info = info.unwrap_or_default();
    let arguments = status.rootlesskit.map(|pid| fs::read(format!("/proc/{pid}/cmdline")));
    let arguments = arguments.and_then(Result::ok).unwrap_or_default();
    let arguments = String::from_utf8_lossy(&arguments);
    let flag = |name| arguments.split('\0').find_map(|word| word.strip_prefix(name));
    let api = status.socket.as_ref().map(|path| places::unix_url(path).display().to_string());
    let has_newer = !supervise::newer_programs(status).is_empty();
    let is_supervised = status.supervisor > 0;
    let fate = match status.keeps_containers {
        true => "; they survive a restart of dockerd",
        false => "; they stop with dockerd",
    };
    let mut report = json!(status);
    let more = json!({
        "since": Some(status.since).filter(|since| *since > 0),
        "supervisor": is_supervised.then_some(status.supervisor),
        "client": api.as_deref().map(|api| client(environment, api)),
        "silence": (api.is_some() && !is_known).then_some(SILENCE),
        "api": api,
        "service": service(environment, status.supervisor),
        "network_driver": flag("--net="),
        "port_driver": flag("--port-driver="),
        "mtu": flag("--mtu=").and_then(|mtu| mtu.parse::<u32>().ok()),
        "container_mtu": bridge.map(|bridge| container_mtu(&bridge)),
        "dockerd_version": status.dockerd_version.as_deref().or(info["ServerVersion"].as_str()),
        "storage_driver": info["Driver"],
        "image_store": is_known.then(|| image_store(&info)),
        "data_root": info["DockerRootDir"],
        "disk": info["DockerRootDir"].as_str().and_then(|path| disk(Path::new(path))),
        "containers": info["ContainersRunning"].as_u64().map(|count| format!("{count} running{fate}")),
        "ports": containers.as_ref().and_then(Value::as_array).map(|all| published(all)),
        "limits": is_known.then(|| limits(&info)),
        "restarted": is_supervised.then(|| restarted(status)),
        "restart_needed": has_newer,
        "restart_due": restart_due(environment, status, has_newer),
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        report[key] = value.clone();
    }
    report
}

/// Says which daemon `docker` talks to, where ours is at `api`.
fn client(environment: &Environment, api: &str) -> String {
    let client = survey::docker_client(None, environment.docker_config().as_deref());
    let text = |name| environment.get(name).map(|value| value.to_string_lossy().into_owned());
    let named = text("DOCKER_CONTEXT").or(client.current_context);
    let context = named.unwrap_or_else(|| "default".to_owned());
    let host = text("DOCKER_HOST").or_else(|| client.contexts.get(&context).cloned());
    match host.as_deref() == Some(api) {
        true => format!("docker context `{context}`, in use"),
        false => format!("`docker` uses context `{context}`, not this"),
    }
}

fn container_mtu(bridge: &Value) -> u32 {
    let mtu = bridge["Options"]["com.docker.network.driver.mtu"].as_str();
    mtu.and_then(|mtu| mtu.parse().ok()).unwrap_or(1500)
}

fn image_store(info: &Value) -> &'static str {
    match info["DriverStatus"].to_string().contains("io.containerd.snapshotter") {
        true => "containerd",
        false => "dockerd",
    }
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
    match (&status.last_failure, status.last_failure_at) {
        (Some(failure), Some(at)) => format!("{count}, {} ago: {failure}", ago(at)),
        _ => count.to_string(),
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

/// Says how full the file system of `path` is, if it answers.
fn disk(path: &Path) -> Option<String> {
    let found = files::file_system(path)?;
    let gib = |blocks: u64| (blocks * found.fragment_size()) as f64 / f64::from(1 << 30);
    let [total, free] = [gib(found.blocks()), gib(found.blocks_free())];
    Some(format!("{:.1} of {total:.1} GiB used", total - free))
}

/// Returns the ports that `containers` publish. dockerd lists each twice, for IPv4 and IPv6.
fn published(containers: &[Value]) -> BTreeSet<String> {
    let ports = containers.iter().flat_map(|container| {
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

/// Returns why a restart is due.
fn restart_due(environment: &Environment, status: &Status, has_newer: bool) -> Vec<String> {
    let newer = "programs on disk are newer than those that run: dockerd-rootless restart";
    let dockerd = status.dockerd.and_then(processes::read);
    let started = dockerd.and_then(|process| process.identity.since());
    let changed = |path: &Path| fs::metadata(path).and_then(|found| found.modified()).ok();
    let mut files = config_paths(environment);
    files.extend(environment.config_home().map(|home| home.join("docker/daemon.json")));
    files.retain(|file| started.is_some() && changed(file) > started);
    let changed = files.iter().map(|file| {
        let file = file.display();
        format!("`{file}` changed after the start: dockerd-rootless restart (for the network: restart --all)")
    });
    has_newer.then(|| newer.to_owned()).into_iter().chain(changed).collect()
}

/// Returns the report for people.
fn text(report: &Value, is_verbose: bool, is_colored: bool) -> String {
    let (mark, color) = match report["state"].as_str() {
        Some(NOT_RUNNING) => ("○", 0),
        Some("ready" | UNSUPERVISED) => ("●", 32),
        _ => ("●", 33),
    };
    let mark = match is_colored {
        true => format!("\u{1b}[{color}m{mark}\u{1b}[0m"),
        false => mark.to_owned(),
    };
    let mut text = format!("{mark} {}\n", headline(report));
    let mut add = |label: &str, value: &str| text += &format!("  {label:<11} {value}\n");
    for (label, template) in ROWS {
        let parts: Vec<&str> = template.split(['{', '}']).collect();
        match &report[parts[1]] {
            Value::Null => {}
            Value::Array(values) => values.iter().for_each(|value| add(label, &shown(value))),
            _ => add(label, &fill(&parts, report)),
        }
    }
    for part in ["supervisor", "rootlesskit", "keeper", "dockerd", "containerd", "helper"] {
        if is_verbose && report[part].is_number() {
            add(part, &format!("PID {}", report[part]));
        }
    }
    text
}

/// Puts the values of `report` in the place of every second part, which is a key.
fn fill(parts: &[&str], report: &Value) -> String {
    let parts = parts.iter().enumerate();
    parts
        .map(|(at, part)| if at % 2 == 1 { shown(&report[*part]) } else { (*part).to_owned() })
        .collect()
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "unknown".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn headline(report: &Value) -> String {
    let state = match report["state"].as_str().unwrap_or_default() {
        NOT_RUNNING if report["service"].is_null() => {
            "not running            start: dockerd-rootless          as a service: dockerd-rootless install".to_owned()
        }
        NOT_RUNNING => "not running            start: systemctl --user start docker".to_owned(),
        UNSUPERVISED => format!("running (PID {}), not supervised", report["rootlesskit"]),
        state => format!("{state} for {}", ago(report["since"].as_u64().unwrap_or(0))),
    };
    match report["dockerd_version"].as_str() {
        Some(version) => {
            format!(
                "{state:<22} Docker {version}, rootlesskit {}",
                shown(&report["rootlesskit_version"])
            )
        }
        None => state,
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
