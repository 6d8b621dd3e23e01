//! `status`: what the supervisor knows, and what users of the daemon feel.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{fs, io, thread};

use nix::sys::statvfs::statvfs;
use serde::Serialize;
use serde_json::{Value, json};

use crate::check::survey;
use crate::cli::docker;
use crate::cli::messages::Messages;
use crate::cli::output::{Format, print, print_json};
use crate::cli::sources::{config_paths, layers};
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::{Lock, look, places};
use crate::plan;
use crate::settings::Settings;
use crate::supervise::{self, Status};
use crate::sys::tree;

/// How long a file system may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

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

/// All that is printed. What is not known is null.
#[derive(Default, Serialize)]
struct Report {
    #[serde(flatten)]
    status: Status,
    /// The daemon's address for clients.
    api: Option<String>,
    docker_context: Option<String>,
    /// Whether `docker` in this shell talks to this daemon.
    is_in_use: Option<bool>,
    service: Option<Service>,
    mtu: Option<u32>,
    container_mtu: Option<u32>,
    storage_driver: Option<String>,
    image_store: Option<&'static str>,
    data_root: Option<PathBuf>,
    disk: Option<Disk>,
    containers_running: Option<u64>,
    ports: Option<BTreeSet<String>>,
    /// The options of `docker run` that have an effect.
    limits: Option<Vec<&'static str>>,
    cgroup_version: Option<String>,
    restart_needed: bool,
    /// Why a restart is due.
    restart_due: Vec<String>,
}

/// The systemd user service.
#[derive(Serialize)]
struct Service {
    unit: PathBuf,
    enabled: bool,
    /// Whether the daemon is this service's.
    active: bool,
    linger: Option<bool>,
}

/// The file system of the data root, in bytes.
#[derive(Serialize)]
struct Disk {
    used: u64,
    total: u64,
}

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
    let report = Report::gather(environment, status, is_json);
    match options.format {
        Format::Json => print_json(report.json()),
        Format::Text => {
            let is_colored = messages.colored(environment, &io::stdout());
            print(report.text(messages.is_verbose(), is_colored))
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

impl Report {
    fn gather(environment: &Environment, status: Option<Status>, is_json: bool) -> Self {
        let mut report = Self { service: service(environment), ..Self::default() };
        let Some(status) = status else {
            report.status.state = "not running".to_owned();
            return report;
        };
        report.restart_needed = !supervise::newer_programs(&status).is_empty();
        report.restart_due = restart_due(environment, &status, report.restart_needed);
        report.api = status.socket.as_ref().map(|path| format!("unix://{}", path.display()));
        if let Some(service) = &mut report.service {
            let cgroup = fs::read_to_string(format!("/proc/{}/cgroup", status.supervisor));
            service.active = cgroup.is_ok_and(|text| text.contains("/docker.service"));
        }
        report.status = status;
        report.read_arguments();
        report.find_client(environment);
        // Each question keeps a daemon alive that ends when nobody uses it, and a hung one has no answer.
        let is_on_demand = report.status.socket_of == "service manager";
        let is_silent = report.status.problems.iter().any(|text| text.starts_with("dockerd "));
        let is_up = report.status.is_ready() || report.status.state == UNSUPERVISED;
        if is_up && !is_silent && !(is_json && is_on_demand) {
            report.ask();
        }
        report
    }

    /// Reads rootlesskit's arguments.
    fn read_arguments(&mut self) {
        let pid = self.status.rootlesskit.unwrap_or_default();
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        let value = |flag| line.split('\0').find_map(|word| word.strip_prefix(flag));
        self.mtu = value("--mtu=").and_then(|mtu| mtu.parse().ok());
        if self.status.network_driver.is_empty() {
            self.status.network_driver = value("--net=").unwrap_or_default().to_owned();
            self.status.port_driver = value("--port-driver=").unwrap_or_default().to_owned();
        }
    }

    /// Finds which daemon `docker` talks to.
    fn find_client(&mut self, environment: &Environment) {
        let client = survey::docker_client(None, environment.docker_config().as_deref());
        let text = |name| environment.get(name).map(|value| value.to_string_lossy().into_owned());
        let named = text("DOCKER_CONTEXT").or(client.current_context);
        let context = named.unwrap_or_else(|| "default".to_owned());
        let host = text("DOCKER_HOST").or_else(|| client.contexts.get(&context).cloned());
        self.is_in_use = Some(host.is_some() && host == self.api);
        self.docker_context = Some(context);
    }

    /// Asks dockerd what it alone knows.
    fn ask(&mut self) -> Option<()> {
        let socket = self.status.socket.clone()?;
        let info = docker::ask(&socket, "/info").ok()?;
        let text = |name: &str| info[name].as_str().map(str::to_owned);
        self.status.dockerd_version = text("ServerVersion");
        self.storage_driver = text("Driver");
        let is_containerds = info["DriverStatus"].to_string().contains("io.containerd.snapshotter");
        self.image_store = Some(if is_containerds { "containerd" } else { "dockerd" });
        self.data_root = text("DockerRootDir").map(PathBuf::from);
        self.disk = self.data_root.clone().and_then(disk);
        self.containers_running = info["ContainersRunning"].as_u64();
        self.cgroup_version = text("CgroupVersion");
        let works = info["CgroupDriver"] != "none";
        let limits = [
            ("--memory", "MemoryLimit"),
            ("--cpus", "CpuCfsQuota"),
            ("--cpuset-cpus", "CPUSet"),
            ("--pids-limit", "PidsLimit"),
        ];
        let limits = limits.into_iter().filter(|(_, key)| works && info[*key] == true);
        self.limits = Some(limits.map(|(option, _)| option).collect());
        let bridge = docker::ask(&socket, "/networks/bridge").ok()?;
        let mtu = bridge["Options"]["com.docker.network.driver.mtu"].as_str();
        self.container_mtu = mtu.and_then(|mtu| mtu.parse().ok()).or(Some(1500));
        let listed = docker::ask(&socket, "/containers/json").ok()?;
        self.ports = Some(listed.as_array()?.iter().flat_map(published).collect());
        Some(())
    }

    fn json(&self) -> Value {
        let mut value = json!(self);
        for key in ["since", "supervisor", "network_driver", "port_driver", "socket_of"] {
            if value[key] == 0 || value[key] == "" {
                value[key] = Value::Null;
            }
        }
        value
    }

    fn text(&self, is_verbose: bool, is_colored: bool) -> String {
        let status = &self.status;
        let color = match &*status.state {
            "ready" | UNSUPERVISED => 32,
            "not running" => 0,
            _ => 33,
        };
        let mark = if color == 0 { "○" } else { "●" };
        let mark = match is_colored && color != 0 {
            true => format!("\u{1b}[{color}m{mark}\u{1b}[0m"),
            false => mark.to_owned(),
        };
        let mut text = format!("{mark} {}\n", self.headline());
        let processes = if is_verbose { self.processes() } else { Vec::new() };
        for (name, value) in self.rows().into_iter().chain(processes) {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                let _ = writeln!(text, "  {name:<11} {value}");
            }
        }
        text
    }

    fn headline(&self) -> String {
        let status = &self.status;
        let state = match &*status.state {
            "not running" => {
                let start = match &self.service {
                    Some(_) => "systemctl --user start docker",
                    None => "dockerd-rootless          as a service: dockerd-rootless install",
                };
                return format!("not running            start: {start}");
            }
            UNSUPERVISED => {
                let pid = status.rootlesskit.unwrap_or_default();
                format!("running (PID {pid}), not supervised")
            }
            state => format!("{state} for {}", ago(status.since)),
        };
        let versions =
            [("Docker", &status.dockerd_version), ("rootlesskit", &status.rootlesskit_version)];
        let versions = versions
            .into_iter()
            .filter_map(|(program, version)| Some(format!("{program} {}", version.as_ref()?)));
        format!("{state:<22} {}", versions.collect::<Vec<_>>().join(", ")).trim_end().to_owned()
    }

    fn rows(&self) -> Vec<(&'static str, Option<String>)> {
        let status = &self.status;
        if status.state == "not running" {
            return vec![("service", self.service.as_ref().map(Service::text))];
        }
        let failure = status.last_failure.as_ref().map(|what| {
            let when = status.last_failure_at.map(|at| format!("{} ago: ", ago(at)));
            format!("; last {}{what}", when.unwrap_or_default())
        });
        let count = |count: u32, what: &str| (count > 0).then(|| format!("{what} {count}"));
        let counts = [
            count(status.restarts, "everything"),
            count(status.replaced, "dockerd"),
            count(status.heals, "network"),
        ];
        let counts = counts.into_iter().flatten().collect::<Vec<_>>().join(", ");
        let restarts = if counts.is_empty() { "none".to_owned() } else { counts };
        let restarts = format!("{restarts}{}", failure.unwrap_or_default());
        let mut rows = vec![
            ("address", self.api.as_ref().map(|api| format!("{api}{}", self.client()))),
            ("service", self.service.as_ref().map(Service::text)),
            ("network", Some(self.network())),
            (
                "images",
                self.storage_driver.as_ref().map(|driver| {
                    format!("{driver} ({} image store)", self.image_store.unwrap_or_default())
                }),
            ),
            (
                "data",
                self.data_root.as_ref().map(|path| {
                    let disk = self.disk.as_ref().map(Disk::text).unwrap_or_default();
                    format!("{}{disk}", path.display())
                }),
            ),
            (
                "containers",
                self.containers_running.map(|count| format!("{count} running{}", self.keeps())),
            ),
            (
                "ports",
                self.ports
                    .as_ref()
                    .map(|ports| ports.iter().map(String::as_str).collect::<Vec<_>>().join(", ")),
            ),
            ("limits", self.limits.as_ref().map(|limits| self.limits_text(limits))),
            ("restarts", (status.supervisor != 0).then_some(restarts)),
        ];
        if self.containers_running.is_none() {
            let silent = "does not answer: images, containers and limits are not known";
            rows.push(("dockerd", Some(silent.to_owned())));
        }
        rows.extend(status.problems.iter().map(|problem| ("problem", Some(problem.clone()))));
        rows.extend(self.restart_due.iter().map(|due| ("note", Some(due.clone()))));
        rows
    }

    fn processes(&self) -> Vec<(&'static str, Option<String>)> {
        let status = &self.status;
        let supervisor = Some(status.supervisor).filter(|pid| *pid != 0);
        [
            ("supervisor", supervisor),
            ("rootlesskit", status.rootlesskit),
            ("keeper", status.keeper),
            ("dockerd", status.dockerd),
            ("containerd", status.containerd),
            ("helper", status.helper),
        ]
        .map(|(name, pid)| (name, pid.map(|pid| format!("PID {pid}"))))
        .into_iter()
        .chain([("socket of", Some(status.socket_of.clone()))])
        .collect()
    }

    fn client(&self) -> String {
        match (&self.docker_context, self.is_in_use) {
            (Some(context), Some(true)) => format!(" (docker context `{context}`, in use)"),
            (Some(context), Some(false)) => {
                format!(" (`docker` uses context `{context}`, not this)")
            }
            _ => String::new(),
        }
    }

    fn network(&self) -> String {
        let Status { network_driver, port_driver, .. } = &self.status;
        let known = |mtu: Option<u32>| mtu.map_or("unknown".to_owned(), |mtu| mtu.to_string());
        let [mtu, containers] = [self.mtu, self.container_mtu].map(known);
        format!("{network_driver}, ports: {port_driver}; MTU {mtu}, containers {containers}")
    }

    fn keeps(&self) -> &'static str {
        match (self.status.supervisor, self.status.keeps_containers) {
            (0, _) => "",
            (_, true) => "; they survive a restart of dockerd",
            (_, false) => "; they stop with dockerd",
        }
    }

    fn limits_text(&self, limits: &[&str]) -> String {
        match (limits, self.cgroup_version.as_deref()) {
            ([], Some("2")) => {
                "no effect: systemd delegates no cgroup controllers to you".to_owned()
            }
            ([], _) => "no effect: they need cgroup v2".to_owned(),
            _ => limits.join(" "),
        }
    }
}

impl Service {
    fn text(&self) -> String {
        let enabled = if self.enabled { "enabled" } else { "not enabled" };
        let linger = match self.linger {
            Some(true) => "; starts at boot (linger)",
            Some(false) => "; stops at logout (no linger)",
            None => "",
        };
        let other = if self.active { "" } else { "; this daemon is not the service's" };
        format!("docker.service, {enabled}{linger}{other}")
    }
}

impl Disk {
    fn text(&self) -> String {
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        format!("; file system: {:.1} of {:.1} GiB used", gib(self.used), gib(self.total))
    }
}

/// Finds the installed service, without a question to systemd.
fn service(environment: &Environment) -> Option<Service> {
    let units = environment.config_home()?.join("systemd/user");
    let unit = units.join("docker.service");
    if !unit.exists() {
        return None;
    }
    let wants = ["default.target.wants/docker.service", "sockets.target.wants/docker.socket"];
    let enabled = wants.iter().any(|link| fs::symlink_metadata(units.join(link)).is_ok());
    let user = environment.get("USER").or_else(|| environment.get("LOGNAME"));
    let linger = user.map(|user| Path::new("/var/lib/systemd/linger").join(user).exists());
    Some(Service { unit, enabled, active: false, linger })
}

/// Returns how full the file system of `path` is; one that does not answer has no answer.
fn disk(path: PathBuf) -> Option<Disk> {
    let (answer, asked) = mpsc::channel();
    thread::spawn(move || answer.send(statvfs(&path)));
    let found = asked.recv_timeout(PATIENCE).ok()?.ok()?;
    let size = found.fragment_size();
    let [total, free] = [found.blocks(), found.blocks_free()].map(|blocks| blocks * size);
    Some(Disk { used: total.saturating_sub(free), total })
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
fn restart_due(environment: &Environment, status: &Status, is_newer: bool) -> Vec<String> {
    let mut due = Vec::new();
    if is_newer {
        due.push(
            "programs on disk are newer than those that run: dockerd-rootless restart".to_owned(),
        );
    }
    let started = status.dockerd.and_then(tree::read).and_then(|process| process.identity.since());
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
fn ago(at: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(at, |now| now.as_secs());
    match now.saturating_sub(at) {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86400),
    }
}
