//! `status`: what the supervisor knows, and what users of the daemon feel.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{fs, io};

use serde_json::{Value, json};

use crate::check::survey;
use crate::cli::messages::Messages;
use crate::cli::output::{Format, print, print_json};
use crate::cli::sources::{config_paths, layers};
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::{Lock, look, places};
use crate::plan;
use crate::settings::Settings;
use crate::supervise::{self, Status};
use crate::sys::{files, processes};

/// The state of a daemon that runs without a supervisor.
const UNSUPERVISED: &str = "running";

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

/// What is printed beside what the supervisor knows; null where it is not known.
const KEYS: &str = "api docker_context is_in_use service mtu container_mtu storage_driver image_store data_root \
                    disk containers_running ports limits cgroup_version restart_due";

/// Options of `docker run` that may have no effect, and whether they do as dockerd calls it.
const LIMITS: &[(&str, &str)] = &[
    ("--memory", "MemoryLimit"),
    ("--cpus", "CpuCfsQuota"),
    ("--cpuset-cpus", "CPUSet"),
    ("--pids-limit", "PidsLimit"),
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
    let is_json = options.format == Format::Json;
    let unsupervised = find_unsupervised(environment, runtime_dir, &run_dir);
    let status = match (unsupervised, options.wait) {
        (Some(status), _) => Some(status),
        (None, None) => supervise::read_status(&run_dir),
        (None, Some(seconds)) => {
            supervise::wait_until_ready(&run_dir, Duration::from_secs(seconds.into()))
        }
    };
    let is_good =
        status.as_ref().is_some_and(|status| status.is_ready() || status.state == UNSUPERVISED);
    let report = gather(environment, status, is_json);
    match options.format {
        Format::Json => print_json(report),
        Format::Text => {
            let is_colored = messages.colored(environment, &io::stdout());
            print(text(&report, messages.is_verbose(), is_colored))
        }
    }?;
    Ok(if is_good { Exit::Good } else { Exit::NotRunning })
}

/// Finds a daemon that has no supervisor: of `run --exec`, or of upstream's script.
fn find_unsupervised(
    environment: &Environment,
    runtime_dir: &Path,
    run_dir: &Path,
) -> Option<Status> {
    if supervise::read_status(run_dir).is_some() {
        return None;
    }
    let settings = Settings::resolve(&layers(environment, &[]).ok()?).ok()?;
    let state_dir = places::state_dir(&settings, None, runtime_dir);
    let Lock::Held(pid) = look::lock(&state_dir.join("lock")) else { return None };
    Some(Status {
        state: UNSUPERVISED.to_owned(),
        rootlesskit: Some(pid),
        socket: Some(runtime_dir.join("docker.sock")),
        socket_of: "dockerd".to_owned(),
        ..Status::default()
    })
}

/// Returns all that is known.
fn gather(environment: &Environment, status: Option<Status>, is_json: bool) -> Value {
    let runs = status.is_some();
    let nothing = || Status { state: "not running".to_owned(), ..Status::default() };
    let status = status.unwrap_or_else(nothing);
    let mut report = json!(status);
    for key in KEYS.split(' ') {
        report[key] = Value::Null;
    }
    report["service"] = json!(service(environment, status.supervisor));
    let due = restart_due(environment, &status);
    report["restart_needed"] = json!(!supervise::newer_programs(&status).is_empty());
    report["restart_due"] = json!(due);
    if runs {
        report["api"] =
            json!(status.socket.as_ref().map(|path| format!("unix://{}", path.display())));
        add_arguments(&mut report);
        add_client(&mut report, environment);
    }
    // Each question keeps a daemon running that stops when it is idle, and a hung one has no answer.
    let is_on_demand = status.socket_of == "service manager";
    let is_silent = status.problems.iter().any(|text| text.starts_with("dockerd "));
    let is_up = status.is_ready() || status.state == UNSUPERVISED;
    if let Some(socket) = &status.socket
        && is_up
        && !is_silent
        && !(is_json && is_on_demand)
    {
        add_answers(&mut report, socket);
    }
    for key in ["since", "supervisor", "network_driver", "port_driver", "socket_of"] {
        if report[key] == 0 || report[key] == "" {
            report[key] = Value::Null;
        }
    }
    report
}

/// Adds what rootlesskit's arguments say.
fn add_arguments(report: &mut Value) {
    let line = fs::read(format!("/proc/{}/cmdline", report["rootlesskit"])).unwrap_or_default();
    let line = String::from_utf8_lossy(&line);
    let value = |flag| line.split('\0').find_map(|word| word.strip_prefix(flag));
    report["mtu"] = json!(value("--mtu=").and_then(|mtu| mtu.parse::<u32>().ok()));
    if report["network_driver"] == "" {
        report["network_driver"] = json!(value("--net="));
        report["port_driver"] = json!(value("--port-driver="));
    }
}

/// Adds which daemon `docker` talks to.
fn add_client(report: &mut Value, environment: &Environment) {
    let client = survey::docker_client(None, environment.docker_config().as_deref());
    let text = |name| environment.get(name).map(|value| value.to_string_lossy().into_owned());
    let named = text("DOCKER_CONTEXT").or(client.current_context);
    let context = named.unwrap_or_else(|| "default".to_owned());
    let host = text("DOCKER_HOST").or_else(|| client.contexts.get(&context).cloned());
    report["is_in_use"] = json!(host.is_some() && report["api"] == json!(host));
    report["docker_context"] = json!(context);
}

/// Adds what dockerd alone knows, as far as it answers.
fn add_answers(report: &mut Value, socket: &Path) {
    let Ok(info) = supervise::query(socket, "/info") else { return };
    let store = info["DriverStatus"].to_string().contains("io.containerd.snapshotter");
    let limits =
        LIMITS.iter().filter(|(_, key)| info["CgroupDriver"] != "none" && info[*key] == true);
    report["dockerd_version"] = info["ServerVersion"].clone();
    report["storage_driver"] = info["Driver"].clone();
    report["image_store"] = json!(if store { "containerd" } else { "dockerd" });
    report["data_root"] = info["DockerRootDir"].clone();
    report["disk"] = json!(info["DockerRootDir"].as_str().and_then(|path| disk(Path::new(path))));
    report["containers_running"] = info["ContainersRunning"].clone();
    report["cgroup_version"] = info["CgroupVersion"].clone();
    report["limits"] = limits.map(|(option, _)| *option).collect();
    if let Ok(bridge) = supervise::query(socket, "/networks/bridge") {
        let mtu = bridge["Options"]["com.docker.network.driver.mtu"].as_str();
        report["container_mtu"] = json!(mtu.and_then(|mtu| mtu.parse().ok()).unwrap_or(1500));
    }
    if let Ok(Value::Array(containers)) = supervise::query(socket, "/containers/json") {
        report["ports"] = json!(containers.iter().flat_map(published).collect::<BTreeSet<_>>());
    }
}

/// Returns the report for people.
fn text(report: &Value, is_verbose: bool, is_colored: bool) -> String {
    let (mark, color) = match report["state"].as_str() {
        Some("not running") => ("○", 0),
        Some("ready" | UNSUPERVISED) => ("●", 32),
        _ => ("●", 33),
    };
    let mark = match is_colored {
        true => format!("\u{1b}[{color}m{mark}\u{1b}[0m"),
        false => mark.to_owned(),
    };
    let mut rows = if report["state"] == "not running" {
        vec![("service", service_text(&report["service"]))]
    } else {
        rows(report)
    };
    if is_verbose {
        let parts = ["supervisor", "rootlesskit", "keeper", "dockerd", "containerd", "helper"];
        let known = parts.into_iter().filter(|part| report[*part].is_number());
        rows.extend(known.map(|part| (part, format!("PID {}", report[part]))));
        rows.push(("socket of", joined(&report["socket_of"])));
    }
    let rows = rows.into_iter().filter(|(_, value)| !value.is_empty());
    let rows = rows.map(|(name, value)| format!("  {name:<11} {value}\n"));
    format!("{mark} {}\n{}", headline(report), rows.collect::<String>())
}

/// Returns a string as it is, and a list with blanks between.
fn joined(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(joined).collect::<Vec<_>>().join(" "),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn headline(report: &Value) -> String {
    let state = match joined(&report["state"]).as_str() {
        "not running" if report["service"].is_null() => {
            return "not running            start: dockerd-rootless          as a service: dockerd-rootless install".to_owned();
        }
        "not running" => {
            return "not running            start: systemctl --user start docker".to_owned();
        }
        UNSUPERVISED => format!("running (PID {}), not supervised", report["rootlesskit"]),
        state => format!("{state} for {}", ago(&report["since"])),
    };
    let version = |program: &str, key: &str| {
        report[key].as_str().map(|version| format!("{program} {version}"))
    };
    let versions =
        [version("Docker", "dockerd_version"), version("rootlesskit", "rootlesskit_version")];
    let versions = versions.into_iter().flatten().collect::<Vec<_>>().join(", ");
    format!("{state:<22} {versions}").trim_end().to_owned()
}

fn rows(report: &Value) -> Vec<(&'static str, String)> {
    let text = |key: &str| joined(&report[key]);
    let context = text("docker_context");
    let client = match report["is_in_use"] == true {
        true => format!("docker context `{context}`, in use"),
        false => format!("`docker` uses context `{context}`, not this"),
    };
    let mut rows = vec![
        ("address", format!("{} ({client})", text("api"))),
        ("service", service_text(&report["service"])),
        ("network", network_text(report)),
    ];
    if report["containers_running"].is_null() {
        let silent = "not asked, or no answer: images, containers and limits are not known";
        rows.push(("dockerd", silent.to_owned()));
    } else {
        let keeps = match (report["supervisor"].is_null(), report["keeps_containers"] == true) {
            (true, _) => "",
            (_, true) => "; they survive a restart of dockerd",
            (_, false) => "; they stop with dockerd",
        };
        let store = format!("{} ({} image store)", text("storage_driver"), text("image_store"));
        let disk = disk_text(&report["disk"]);
        rows.push(("images", store));
        rows.push(("data", format!("{}{disk}", text("data_root"))));
        rows.push(("containers", format!("{} running{keeps}", report["containers_running"])));
        rows.push(("ports", text("ports")));
        rows.push(("limits", limits_text(report)));
    }
    if !report["supervisor"].is_null() {
        rows.push(("restarts", restarts_text(report)));
    }
    for (name, key) in [("problem", "problems"), ("note", "restart_due")] {
        let each = report[key].as_array().into_iter().flatten();
        rows.extend(each.map(|sentence| (name, joined(sentence))));
    }
    rows
}

fn network_text(report: &Value) -> String {
    let known = |key: &str| match &report[key] {
        Value::Null => "unknown".to_owned(),
        value => joined(value),
    };
    let [driver, ports] = ["network_driver", "port_driver"].map(known);
    let [mtu, containers] = ["mtu", "container_mtu"].map(known);
    format!("{driver}, ports: {ports}; MTU {mtu}, containers {containers}")
}

fn limits_text(report: &Value) -> String {
    match (joined(&report["limits"]), report["cgroup_version"].as_str()) {
        (limits, _) if !limits.is_empty() => limits,
        (_, Some("2")) => "no effect: systemd delegates no cgroup controllers to you".to_owned(),
        _ => "no effect: they need cgroup v2".to_owned(),
    }
}

fn restarts_text(report: &Value) -> String {
    let counts = [("everything", "restarts"), ("dockerd", "replaced"), ("network", "heals")];
    let counts = counts.into_iter().filter(|(_, key)| report[*key] != 0);
    let counts = counts.map(|(what, key)| format!("{what} {}", report[key]));
    let mut text = counts.collect::<Vec<_>>().join(", ");
    if text.is_empty() {
        text.push_str("none");
    }
    if let Some(failure) = report["last_failure"].as_str() {
        text += &format!("; {} ago: {failure}", ago(&report["last_failure_at"]));
    }
    text
}

fn service_text(service: &Value) -> String {
    if service.is_null() {
        return String::new();
    }
    let enabled = if service["enabled"] == true { "enabled" } else { "not enabled" };
    let linger = match service["linger"].as_bool() {
        Some(true) => "; starts at boot (linger)",
        Some(false) => "; stops at logout (no linger)",
        None => "",
    };
    let other = if service["active"] == true { "" } else { "; not running" };
    format!("docker.service, {enabled}{linger}{other}")
}

fn disk_text(disk: &Value) -> String {
    let gib = |key: &str| disk[key].as_f64().map(|bytes| bytes / f64::from(1 << 30));
    match (gib("used"), gib("total")) {
        (Some(used), Some(total)) => format!("; file system: {used:.1} of {total:.1} GiB used"),
        _ => String::new(),
    }
}

/// Finds the installed service, without a question to systemd; `supervisor` may be its process.
fn service(environment: &Environment, supervisor: u32) -> Option<Value> {
    let units = environment.config_home()?.join("systemd/user");
    if !units.join("docker.service").exists() {
        return None;
    }
    let wants = ["default.target.wants/docker.service", "sockets.target.wants/docker.socket"];
    let enabled = wants.iter().any(|link| fs::symlink_metadata(units.join(link)).is_ok());
    let cgroup = fs::read_to_string(format!("/proc/{supervisor}/cgroup")).unwrap_or_default();
    let user = environment.get("USER").or_else(|| environment.get("LOGNAME"));
    let linger = user.map(|user| Path::new("/var/lib/systemd/linger").join(user).exists());
    Some(json!({
        "unit": units.join("docker.service").to_string_lossy(),
        "enabled": enabled,
        "active": cgroup.contains("/docker.service"),
        "linger": linger,
    }))
}

/// Returns how full the file system of `path` is, in bytes, if it answers.
fn disk(path: &Path) -> Option<Value> {
    let found = files::file_system(path)?;
    let size = found.fragment_size();
    let [total, free] = [found.blocks(), found.blocks_free()].map(|blocks| blocks * size);
    Some(json!({"used": total.saturating_sub(free), "total": total}))
}

/// Returns the ports that `container` publishes. dockerd lists each twice, for IPv4 and IPv6.
fn published(container: &Value) -> Vec<String> {
    let name = container["Names"][0].as_str().unwrap_or_default().trim_start_matches('/');
    let ports = container["Ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ports = ports.iter().filter_map(|port| {
        let address = port["IP"].as_str().filter(|ip| !["0.0.0.0", "::"].contains(ip));
        let address = address.map_or_else(String::new, |ip| format!("{ip}:"));
        let (public, private) = (port["PublicPort"].as_u64()?, port["PrivatePort"].as_u64()?);
        let protocol = port["Type"].as_str().unwrap_or_default();
        Some(format!("{address}{public}->{private}/{protocol} ({name})"))
    });
    ports.collect()
}

/// Returns why a restart is due.
fn restart_due(environment: &Environment, status: &Status) -> Vec<String> {
    let mut due = Vec::new();
    if !supervise::newer_programs(status).is_empty() {
        due.push(
            "programs on disk are newer than those that run: dockerd-rootless restart".to_owned(),
        );
    }
    let started =
        status.dockerd.and_then(processes::read).and_then(|process| process.identity.since());
    let mut files = config_paths(environment);
    files.extend(environment.config_home().map(|home| home.join("docker/daemon.json")));
    let changed = |path: &PathBuf| fs::metadata(path).and_then(|found| found.modified()).ok();
    for file in files {
        if started.is_some_and(|started| changed(&file).is_some_and(|changed| changed > started)) {
            let file = file.display();
            due.push(format!(
                "`{file}` changed after the start: dockerd-rootless restart (for the network: restart --all)"
            ));
        }
    }
    due
}

/// Returns how long ago a time in seconds since 1970 is.
fn ago(at: &Value) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    match now.saturating_sub(at.as_u64().unwrap_or(now)) {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86400),
    }
}
