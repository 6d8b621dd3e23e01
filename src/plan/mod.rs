//! The launch, decided: rootlesskit's words, the environment's changes, the namespace stage and
//! the daemon's words, each choice with its reason. `run` executes exactly this value, and
//! `plan` prints it.
#![forbid(unsafe_code)]

mod daemon;
mod flags;
mod keep;
mod network;
mod places;
mod preflight;
mod stage;
mod trial;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::environment::Environment;
use crate::error::{Error, Exit, Warning};
use crate::facts::{
    HostFacts, ListenFds, PidFile, PidState, RootlesskitFacts, Session, Tool, Tools,
};
use crate::settings::{Origin, Settings};
pub use daemon::Api;
pub use flags::{DockerdWords, RootlesskitFlags};
pub use keep::{Engine, Keep, effective_config};
pub use network::Network;
pub use places::{Places, daemon_json};
pub use preflight::{
    refuse_foreign_state_dir, refuse_home, refuse_long_paths, refuse_person, refuse_root,
    refuse_runtime_dir, refuse_shared_runtime_dir,
};
pub use stage::{Family, STAGE, Stage, Step, TRIAL};
pub use trial::Trial;

/// Directories that Debian leaves out of users' PATH and that hold iptables and dockerd.
const SBIN: [&str; 2] = ["/usr/sbin", "/sbin"];

/// PATH when there is none, as the kernel's init and systemd have it.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Everything that a launch will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchPlan {
    /// Stale files that go first, and why they are stale.
    pub removals: Vec<(PathBuf, String)>,
    /// rootlesskit's absolute path.
    pub rootlesskit: PathBuf,
    /// rootlesskit's words, from the state directory to the command to run.
    pub words: Vec<OsString>,
    /// The changes to the environment.
    pub environment: EnvironmentChanges,
    /// The stage inside the namespaces.
    pub stage: Stage,
    /// Where passed sockets wait while rootlesskit starts.
    pub sockets: Option<ListenFds>,
    /// Where the daemon keeps its state while it runs.
    pub exec_root: PathBuf,
    /// Whether a process carries the packets between the namespace and the host.
    pub has_helper: bool,
    /// Whether containers have a network namespace of their own.
    pub detach_netns: bool,
    /// The MTU of the namespace's interface in bytes.
    pub mtu: u32,
    /// Ports that the user has rootlesskit publish, as rootlesskit's flag has them.
    pub published: Vec<String>,
    /// What outlives dockerd.
    pub keep: Keep,
    /// Why it is so.
    pub reasons: Vec<Reason>,
    /// What is odd.
    pub warnings: Vec<Warning>,
}

/// Variables to set and to unset, each with the reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvironmentChanges {
    /// Variables that get a value.
    pub set: BTreeMap<&'static str, (OsString, String)>,
    /// Variables that go.
    pub unset: BTreeMap<&'static str, String>,
}

/// Why a value is what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The setting.
    pub key: &'static str,
    /// The value.
    pub value: String,
    /// The reason, or the place that sets it.
    pub why: String,
}

impl Reason {
    fn new(key: &'static str, value: &OsStr, why: impl Into<String>) -> Self {
        Self { key, value: value.to_string_lossy().into_owned(), why: why.into() }
    }
}

/// The name of our own directory below the runtime directory.
const RUN_DIR: &str = "dockerd-rootless.run";

/// Our own directory while a supervisor runs.
pub fn run_dir(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join(RUN_DIR)
}

/// Where the daemon tells the supervisor that it is ready.
pub fn notify_socket(runtime_dir: &Path) -> PathBuf {
    run_dir(runtime_dir).join("notify")
}

/// Our configuration file for dockerd.
pub fn daemon_config(runtime_dir: &Path) -> PathBuf {
    run_dir(runtime_dir).join("daemon.json")
}

impl LaunchPlan {
    /// Decides everything. `words` are the daemon's words of the command line; `supervised` whether
    /// a supervisor stays.
    ///
    /// # Errors
    /// Every refusal: see [`preflight`], [`Network::decide`] and [`Network::refuse_impossible`].
    pub fn build(
        settings: &Settings,
        host: &HostFacts,
        environment: &Environment,
        words: &[OsString],
        supervised: bool,
    ) -> Result<Self, Error> {
        let HostFacts { tools, session, .. } = host;
        let runtime_dir = preflight::refuse_person(&session.person)?;
        let shared = preflight::refuse_shared_runtime_dir(&session.person)
            .map_err(|error| error.check("runtime-dir"))
            .err();
        if supervised && let Some(shared) = shared {
            return Err(shared);
        }
        let rootlesskit = required_program(
            &tools.rootlesskit,
            settings.rootlesskit_binary.value.as_deref(),
            "rootlesskit",
        )?;
        let flags = stated_flags(settings, tools)?;
        let network = Network::decide(settings, tools, &flags)?;
        let config = supervised.then(|| daemon_config(runtime_dir));
        let mtu = network.effective.mtu;
        let daemon = daemon::Daemon::decide(settings, host, mtu, words, config.as_deref())?;
        let mut sockets = sockets(settings, session, &network, environment, words, runtime_dir);
        if supervised {
            sockets.push((notify_socket(runtime_dir), preflight::SOCKET_PATH_MAX));
        }
        preflight::refuse_long_paths(&sockets).map_err(|error| error.check("socket-path"))?;
        preflight::refuse_foreign_state_dir(&session.state_dir, session.person.uid)
            .map_err(|error| error.check("state-dir"))?;
        preflight::refuse_second_instance(session)?;
        network.refuse_impossible(settings, tools, &flags)?;
        if supervised {
            network.refuse_old_dockerd(settings, tools)?;
        }
        let dockerd =
            required_program(&tools.dockerd, Some(&settings.daemon_binary.value), "dockerd")?;

        let stage = Stage {
            outside: session.user_namespace,
            keeper: session.keeper_fd.filter(|_| supervised),
            netns: network.effective.detach_netns.then(|| session.state_dir.path.join("netns")),
            steps: steps(settings, host, &daemon),
            daemon: std::iter::once(dockerd.as_os_str().to_owned()).chain(daemon.words).collect(),
        };
        let mut warnings = settings.warnings.clone();
        // As upstream's script has it, which takes such a directory.
        warnings.extend(shared.map(|error| Warning(error.to_string())));
        warnings.extend(network.warnings(settings, tools));
        warnings.extend(daemon.warnings);
        warnings.extend(host.exposed.iter().map(|program| {
            Warning(format!(
                "`{}` stands in a directory in which other users can put another program in its place",
                program.display()
            ))
        }));
        let mut removals = Vec::new();
        for file in &session.pid_files {
            let PidFile { path, state, .. } = file;
            match state {
                PidState::Stale(why) if file.is_daemons => {
                    removals.push((path.clone(), why.clone()));
                }
                PidState::Stale(why) => warnings.push(Warning(format!(
                    "`{}` is stale ({why}), and dockerd will not start over it: remove it",
                    path.display()
                ))),
                PidState::NoPid => warnings.push(Warning(format!(
                    "`{}` holds no PID, and the daemon will write over it or fail: move it away, or name another file with `--pidfile`",
                    path.display()
                ))),
                PidState::Absent | PidState::Running(_) => {}
            }
        }
        Ok(Self {
            removals,
            rootlesskit: rootlesskit.to_owned(),
            words: [
                rootlesskit_words(settings, &session.state_dir.path, &network, &session.own_path),
                stage.words(),
            ]
            .concat(),
            environment: environment_changes(settings, host, environment, runtime_dir, supervised),
            stage,
            sockets: session.listen_fds.clone(),
            exec_root: session.exec_root.clone(),
            has_helper: network.effective.has_helper(),
            detach_netns: network.effective.detach_netns,
            mtu,
            published: flags.published(),
            keep: daemon.keep,
            reasons: network.reasons.into_iter().chain(daemon.reasons).collect(),
            warnings,
        })
    }
}

/// Whether the user says where the daemon listens. `words` are the daemon's of the command line.
pub fn has_hosts(settings: &Settings, session: &Session, words: &[OsString]) -> bool {
    let words = stated_daemon_words(settings, words);
    daemon::has_hosts(session, DockerdWords(&words))
}

/// What dockerd itself gives containers to end when it does, before their own times count.
pub fn shutdown_timeout(settings: &Settings, session: &Session, words: &[OsString]) -> Duration {
    let words = stated_daemon_words(settings, words);
    daemon::shutdown_timeout(session, DockerdWords(&words))
}

/// A dockerd that starts in namespaces that there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InPlace {
    /// Its program and its words.
    pub command: Vec<OsString>,
    /// What outlives it.
    pub keep: Keep,
    /// What is odd.
    pub warnings: Vec<Warning>,
}

impl InPlace {
    /// Decides. The namespaces' interface has this `mtu` in bytes.
    ///
    /// # Errors
    /// As [`LaunchPlan::build`], for what concerns dockerd.
    pub fn build(
        settings: &Settings,
        host: &HostFacts,
        words: &[OsString],
        mtu: u32,
    ) -> Result<Self, Error> {
        let runtime_dir = preflight::refuse_person(&host.session.person)?;
        let named = &settings.daemon_binary.value;
        let dockerd = required_program(&host.tools.dockerd, Some(named), "dockerd")?;
        let config = daemon_config(runtime_dir);
        let daemon = daemon::Daemon::decide(settings, host, mtu, words, Some(&config))?;
        Ok(Self {
            command: std::iter::once(dockerd.as_os_str().to_owned()).chain(daemon.words).collect(),
            keep: daemon.keep,
            warnings: daemon.warnings,
        })
    }
}

impl LaunchPlan {
    /// What is decided of the setting `key`.
    pub fn decided(&self, key: &str) -> Option<String> {
        let reason = self.reasons.iter().find(|reason| reason.key == key);
        reason.map(|reason| reason.value.clone())
    }
}

/// The user's own flags for rootlesskit.
fn stated_flags<'a>(settings: &'a Settings, tools: &Tools) -> Result<RootlesskitFlags<'a>, Error> {
    let stated = &settings.rootlesskit_flags;
    let flags = RootlesskitFlags::read(&stated.value, tools.rootlesskit.known());
    match &flags.fault {
        None => Ok(flags),
        Some(fault) => {
            Err(Error::new(Exit::Config, format!("rootlesskit.flags ({}): {fault}", stated.origin))
                .hint("join a flag and its value by `=`, and quote values with blanks"))
        }
    }
}

/// The sockets that rootlesskit and dockerd will make, each with the bytes that its path may have.
pub fn sockets(
    settings: &Settings,
    session: &Session,
    network: &Network,
    environment: &Environment,
    words: &[OsString],
    runtime_dir: &Path,
) -> Vec<(PathBuf, usize)> {
    let words = stated_daemon_words(settings, words);
    let of_daemon = daemon::sockets(session, DockerdWords(&words), environment, runtime_dir);
    let mut sockets = preflight::rootlesskit_sockets(&session.state_dir.path, &network.effective);
    sockets.extend(of_daemon);
    sockets
}

/// rootlesskit's words, in upstream's order, up to the program that it runs.
fn rootlesskit_words(
    settings: &Settings,
    state_dir: &Path,
    network: &Network,
    own_path: &Path,
) -> Vec<OsString> {
    let flag = |name: &str, value: &OsStr| stage::assignment(&format!("--{name}"), value);
    let mut words = vec![
        flag("state-dir", state_dir.as_os_str()),
        flag("net", network.driver.word()),
        flag("mtu", OsStr::new(&network.mtu.to_string())),
        flag("slirp4netns-sandbox", OsStr::new(settings.slirp4netns_sandbox.value.word())),
        flag("slirp4netns-seccomp", OsStr::new(settings.slirp4netns_seccomp.value.word())),
    ];
    if !settings.host_loopback.value {
        words.push("--disable-host-loopback".into());
    }
    words.push(flag("port-driver", network.port_driver.word()));
    words.extend(settings.copy_up.value.0.iter().map(|path| flag("copy-up", path.as_os_str())));
    words.push(flag("propagation", OsStr::new(settings.propagation.value.word())));
    if settings.ipv6.value {
        words.push("--ipv6".into());
    }
    if network.detach_netns {
        words.push("--detach-netns".into());
    }
    words.extend(settings.rootlesskit_flags.value.iter().cloned());
    words.push(own_path.into());
    words
}

/// The stage's steps: upstream's, and ours.
fn steps(settings: &Settings, host: &HostFacts, daemon: &daemon::Daemon) -> Vec<Step> {
    let mut steps = Vec::new();
    if settings.copies_up("/run") {
        let hidden = ["/run/docker", "/run/containerd", "/run/xtables.lock", "/run/nri"];
        steps.extend(hidden.map(|path| Step::DropLink(path.into())));
    }
    if host.kernel.selinux && settings.copies_up("/run") {
        steps.push(Step::Label("/run".into()));
    }
    if settings.copies_up("/etc") {
        steps.push(Step::RebindBroken("/etc".into()));
    }
    steps.push(Step::Forward);
    steps.extend(daemon.iptables.iter().cloned());
    steps.extend(
        host.session
            .listen_fds
            .as_ref()
            .map(|fds| Step::TakeSockets { count: fds.count, from: fds.shelter }),
    );
    steps
}

/// What changes in the environment on the way to rootlesskit.
fn environment_changes(
    settings: &Settings,
    host: &HostFacts,
    environment: &Environment,
    runtime_dir: &Path,
    supervised: bool,
) -> EnvironmentChanges {
    let mut changes = EnvironmentChanges::default();
    if supervised {
        let why = "the supervisor passes on what the daemon tells".to_owned();
        let socket = notify_socket(runtime_dir).into_os_string();
        changes.set.insert("NOTIFY_SOCKET", (socket, why));
    }
    let (path, missing) = search_path(environment);
    if !missing.is_empty() {
        changes.set.insert(
            "PATH",
            (
                path,
                format!("dockerd finds iptables and modprobe in {} only", missing.join(" and ")),
            ),
        );
    }
    if host.session.person.runtime_dir_guessed {
        let why = "it was unset, and this directory is yours";
        changes.set.insert("XDG_RUNTIME_DIR", (runtime_dir.into(), why.to_owned()));
    }
    let proxies = [
        (
            "HTTP_PROXY",
            settings.http_proxy.value.as_ref().map(|url| &url.0),
            &settings.http_proxy.origin,
        ),
        (
            "HTTPS_PROXY",
            settings.https_proxy.value.as_ref().map(|url| &url.0),
            &settings.https_proxy.origin,
        ),
        ("NO_PROXY", settings.no_proxy.value.as_ref(), &settings.no_proxy.origin),
    ];
    for (name, value, origin) in proxies {
        if let (Some(value), false) = (value, matches!(origin, Origin::Variable(_))) {
            changes.set.insert(name, (value.clone(), origin.to_string()));
        }
    }
    let sockets = match &host.session.listen_fds {
        Some(fds) if fds.is_own => "the supervisor's own socket takes their place",
        Some(_) => "the sockets wait on high descriptors, out of rootlesskit's way",
        None => "it is meant for another process, or names sockets that are not there",
    };
    let gone = [
        ("LISTEN_FDS", sockets),
        ("LISTEN_PID", sockets),
        ("LISTEN_PIDFDID", sockets),
        ("LISTEN_FDNAMES", sockets),
        ("_DOCKERD_ROOTLESS_CHILD", "upstream's mark of its child; it means nothing here"),
        ("_DOCKERD_ROOTLESS_SELINUX", "upstream's mark of its child; it means nothing here"),
    ];
    let watchdog = "the service manager's watchdog is the supervisor's";
    let gone = gone.into_iter().chain(
        ["WATCHDOG_USEC", "WATCHDOG_PID"]
            .map(|name| (name, watchdog))
            .into_iter()
            .filter(|_| supervised),
    );
    changes.unset.extend(
        gone.filter(|(name, _)| environment.has(name)).map(|(name, why)| (name, why.to_owned())),
    );
    changes
}

/// PATH with the directories of [`SBIN`] that it lacks behind its own, and which these are.
pub fn search_path(environment: &Environment) -> (OsString, Vec<&'static str>) {
    let Some(path) = environment.get("PATH") else {
        return (DEFAULT_PATH.into(), SBIN.to_vec());
    };
    let present: Vec<PathBuf> = std::env::split_paths(path).collect();
    let missing: Vec<&str> = SBIN
        .into_iter()
        .filter(|dir| !present.iter().any(|present| present == Path::new(dir)))
        .collect();
    let mut extended = path.to_owned();
    for directory in &missing {
        extended.push(":");
        extended.push(directory);
    }
    (extended, missing)
}

/// The path of a program that must be there; `named` is what the user asked for.
fn required_program<'a, T>(
    tool: &'a Tool<T>,
    named: Option<&OsStr>,
    program: &'static str,
) -> Result<&'a Path, Error> {
    let section = if program == "dockerd" { "daemon" } else { program };
    let explain = format!("`dockerd-rootless config explain {section}.binary` shows who names it");
    match tool {
        Tool::Found { path, .. } => Ok(path),
        Tool::NotExecutable(path) => {
            let what = format!("`{}` cannot be executed", path.display());
            Err(Error::new(Exit::CannotRun, what).hint(explain).check(program))
        }
        Tool::Absent => Err(match named.filter(|name| *name != program) {
            Some(name) => Error::new(
                Exit::NotFound,
                format!("the program `{}` does not exist", name.display()),
            )
            .hint(explain)
            .check(program),
            None => {
                let package = if program == "dockerd" { "docker.io" } else { program };
                Error::new(Exit::Prerequisite, format!("no program `{program}` is in PATH"))
                    .hint(format!("install it (Debian, Ubuntu: sudo apt-get install {package})"))
                    .check(program)
            }
        }),
    }
}

/// The daemon's words that the user gave: those of `daemon.args`, then those of the command line.
pub fn stated_daemon_words(settings: &Settings, words: &[OsString]) -> Vec<OsString> {
    [&settings.daemon_args.value[..], words].concat()
}

/// The state directory that the user asks for: rootlesskit's own flag in `rootlesskit.flags` comes
/// after ours and counts. `None` means the default below the runtime directory.
pub fn stated_state_dir(
    settings: &Settings,
    rootlesskit: Option<&RootlesskitFacts>,
) -> Option<PathBuf> {
    let flags = RootlesskitFlags::read(&settings.rootlesskit_flags.value, rootlesskit);
    flags.value("state-dir").or(settings.state_dir.value.as_deref()).map(PathBuf::from)
}

#[cfg(test)]
mod tests;
