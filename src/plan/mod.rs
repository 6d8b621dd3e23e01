//! The launch, decided: rootlesskit's arguments, the environment's changes, the namespace stage and
//! the daemon's arguments, each choice with its reason. `run` executes exactly this value, and
//! `plan` prints it.
#![forbid(unsafe_code)]

mod daemon;
mod keep;
mod misspelt;
mod network;
mod preflight;
mod refusal;
mod stage;
mod trial;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::environment::Environment;
use crate::error::{Error, Exit, Warning};
use crate::facts::places::{daemon_config, notify_socket, search_path};
use crate::facts::{HostFacts, PidFile, PidState, Session, Tool};
use crate::settings::{Choice, Mtu, Origin, Settings, assignment};
use crate::sys::sockets::ListenFds;
pub use daemon::{Api, has_hosts, shutdown_timeout};
pub use keep::{Engine, Keep, effective_config};
pub use network::Network;
pub use preflight::{
    refuse_foreign_state_dir, refuse_home, refuse_long_paths, refuse_person, refuse_root,
    refuse_runtime_dir, refuse_shared_runtime_dir,
};
pub use refusal::{Fault, Refusal};
pub use stage::{Family, STAGE, Stage, Step, TRIAL};
pub use trial::Trial;

/// Everything that a launch will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchPlan {
    /// Stale files that go first, and why they are stale.
    pub removals: Vec<(PathBuf, String)>,
    /// rootlesskit's absolute path.
    pub rootlesskit: PathBuf,
    /// rootlesskit's arguments, from the state directory to the command to run.
    pub args: Vec<OsString>,
    pub environment: EnvironmentChanges,
    /// The stage inside the namespaces.
    pub stage: Stage,
    /// Where passed sockets wait while rootlesskit starts.
    pub sockets: Option<ListenFds>,
    /// Where the daemon keeps its state while it runs.
    pub exec_root: PathBuf,
    pub network: Network,
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
    pub set: BTreeMap<&'static str, (OsString, String)>,
    pub unset: BTreeMap<&'static str, String>,
}

/// Why a value is what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// The setting.
    pub key: &'static str,
    pub value: String,
    /// The reason, or the place that sets it.
    #[serde(rename = "reason")]
    pub why: String,
}

impl Reason {
    fn new(key: &'static str, value: &OsStr, why: impl Into<String>) -> Self {
        Self { key, value: value.to_string_lossy().into_owned(), why: why.into() }
    }
}

fn number(number: u32) -> OsString {
    number.to_string().into()
}

/// A launch that nothing in the settings or in the programs forbids, so far.
struct Admitted<'a> {
    runtime_dir: &'a Path,
    rootlesskit: &'a Path,
    network: Network,
    daemon: daemon::Daemon,
}

impl<'a> Admitted<'a> {
    /// Decides network and daemon, and refuses a bad user, home, runtime directory, rootlesskit and
    /// arguments. `config` is where a supervisor would put a configuration file for dockerd.
    fn new(
        settings: &'a Settings,
        host: &'a HostFacts,
        config: Option<&Path>,
    ) -> Result<Self, Error> {
        let runtime_dir = preflight::refuse_person(&host.session.person)?;
        let named = settings.rootlesskit_binary.value.as_deref();
        let rootlesskit = required_program(&host.tools.rootlesskit, named, "rootlesskit")?;
        if let Some(fault) = host.tools.flags(settings).fault {
            let origin = &settings.rootlesskit_flags.origin;
            return Err(Error::new(Exit::Config, format!("rootlesskit.flags ({origin}): {fault}"))
                .hint("join a flag and its value by `=`, and quote values with blanks"));
        }
        let network = Network::decide(settings, &host.tools).map_err(Refusal::error)?;
        let daemon = daemon::Daemon::decide(settings, host, network.mtu, config)?;
        Ok(Self { runtime_dir, rootlesskit, network, daemon })
    }

    /// Returns the stage that ends in `command`.
    fn stage(
        &self,
        settings: &Settings,
        host: &HostFacts,
        state_dir: &Path,
        command: Vec<OsString>,
    ) -> Stage {
        Stage {
            keeper: None,
            outside: host.session.user_namespace,
            netns: self.network.detach_netns.then(|| state_dir.join("netns")),
            steps: steps(settings, host, &self.daemon),
            daemon: command,
        }
    }
}

impl LaunchPlan {
    /// Decides everything, or refuses. `supervised` is whether a supervisor stays.
    pub fn build(
        settings: &Settings,
        host: &HostFacts,
        environment: &Environment,
        supervised: bool,
    ) -> Result<Self, Error> {
        let HostFacts { tools, session, .. } = host;
        let shared = preflight::refuse_shared_runtime_dir(&session.person);
        let shared = shared.map_err(|error| error.check("runtime-dir")).err();
        let config = supervised.then(|| daemon_config(&session.places.runtime_dir));
        let admitted = Admitted::new(settings, host, config.as_deref())?;
        if supervised && let Some(shared) = shared {
            return Err(shared);
        }
        let Admitted { runtime_dir, network, .. } = &admitted;
        let mut sockets = sockets(settings, session, network);
        sockets
            .extend(supervised.then(|| (notify_socket(runtime_dir), preflight::SOCKET_PATH_MAX)));
        preflight::refuse_long_paths(&sockets)?;
        let state_dir = &session.places.state_dir;
        refuse_foreign_state_dir(state_dir, &session.state_dir, session.person.uid)?;
        preflight::refuse_second_instance(session)?;
        network.refuse_impossible(tools).map_err(Refusal::error)?;
        if supervised {
            network.refuse_old_dockerd(tools).map_err(Refusal::error)?;
        }
        let command = daemon_command(settings, host, &admitted.daemon)?;
        let stage = Stage {
            keeper: session.keeper_fd.filter(|_| supervised),
            ..admitted.stage(settings, host, state_dir, command)
        };
        let flags = &settings.rootlesskit_flags.value;
        let mut args = rootlesskit_args(settings, network, state_dir, flags, &session.own_path);
        args.extend(stage.words());
        let (removals, stale) = judge_pid_files(&session.pid_files);
        let environment = environment_changes(settings, host, environment, supervised);
        let Admitted { rootlesskit, network, daemon, .. } = admitted;
        let exposed = host.exposed.iter().map(|program| {
            let program = program.display();
            Warning(format!("`{program}` is in a directory in which other users can replace it"))
        });
        // As upstream's script has it, which takes such a directory.
        let shared = shared.map(|error| Warning(error.to_string()));
        let warnings = settings.warnings.iter().cloned().chain(shared);
        let warnings = warnings.chain(network.warnings(tools)).chain(daemon.warnings);
        Ok(Self {
            removals,
            rootlesskit: rootlesskit.to_owned(),
            args,
            environment,
            stage,
            sockets: session.listen_fds.clone(),
            exec_root: session.places.exec_root.clone(),
            keep: daemon.keep,
            reasons: network.reasons.iter().cloned().chain(daemon.reasons).collect(),
            warnings: warnings.chain(exposed).chain(stale).collect(),
            network,
        })
    }
}

/// A dockerd that starts in namespaces that there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InPlace {
    /// Its program and its arguments.
    pub command: Vec<OsString>,
    /// What outlives it.
    pub keep: Keep,
    /// What is odd.
    pub warnings: Vec<Warning>,
}

impl InPlace {
    /// Decides as [`LaunchPlan::build`], for what concerns dockerd. The namespaces' interface has
    /// this `mtu` in bytes.
    pub fn build(settings: &Settings, host: &HostFacts, mtu: u32) -> Result<Self, Error> {
        let config = daemon_config(preflight::refuse_person(&host.session.person)?);
        let daemon = daemon::Daemon::decide(settings, host, mtu, Some(&config))?;
        Ok(Self {
            command: daemon_command(settings, host, &daemon)?,
            keep: daemon.keep,
            warnings: daemon.warnings,
        })
    }
}

/// Returns dockerd and its arguments.
fn daemon_command(
    settings: &Settings,
    host: &HostFacts,
    daemon: &daemon::Daemon,
) -> Result<Vec<OsString>, Error> {
    let named = &settings.daemon_binary.value;
    let dockerd = required_program(&host.tools.dockerd, Some(named), "dockerd")?;
    misspelt::refuse_misspelt(&settings.dockerd_args, host.tools.dockerd.known())?;
    let args = daemon.args.iter().cloned();
    Ok(std::iter::once(dockerd.as_os_str().to_owned()).chain(args).collect())
}

/// Returns the stale files that may go, and warns of those that may not.
fn judge_pid_files(files: &[PidFile]) -> (Vec<(PathBuf, String)>, Vec<Warning>) {
    let (mut removals, mut warnings) = (Vec::new(), Vec::new());
    for PidFile { path, state, is_daemons } in files {
        let name = path.display();
        match state {
            PidState::Stale(why) if *is_daemons => removals.push((path.clone(), why.clone())),
            PidState::Stale(why) => warnings.push(Warning(format!(
                "`{name}` is stale ({why}), and dockerd will not start over it: remove it"
            ))),
            PidState::NoPid => warnings.push(Warning(format!(
                "`{name}` holds no PID, and the daemon will write over it or fail: move it away, or \
                 name another file with `--pidfile`"
            ))),
            PidState::Absent | PidState::Running(_) => {}
        }
    }
    (removals, warnings)
}

/// Returns the sockets that rootlesskit and dockerd make, each with the bytes that its path may
/// have.
pub fn sockets(settings: &Settings, session: &Session, network: &Network) -> Vec<(PathBuf, usize)> {
    let mut sockets = preflight::rootlesskit_sockets(&session.places.state_dir, network);
    sockets.extend(daemon::sockets(settings, session));
    sockets
}

/// Returns rootlesskit's arguments, in upstream's order, up to the program that it runs. `flags`
/// are the user's own.
fn rootlesskit_args(
    settings: &Settings,
    network: &Network,
    state_dir: &Path,
    flags: &[OsString],
    own_path: &Path,
) -> Vec<OsString> {
    // An explicit 0 leaves it to rootlesskit.
    let mtu = match settings.mtu.value {
        Choice::Fixed(Mtu(mtu)) => mtu,
        Choice::Auto => network.mtu,
    };
    let mut args = vec![
        assignment("--state-dir", state_dir.as_os_str()),
        assignment("--net", network.driver.word()),
        assignment("--mtu", &number(mtu)),
        assignment("--slirp4netns-sandbox", settings.slirp4netns_sandbox.value.word().as_ref()),
        assignment("--slirp4netns-seccomp", settings.slirp4netns_seccomp.value.word().as_ref()),
    ];
    if !settings.host_loopback.value {
        args.push("--disable-host-loopback".into());
    }
    args.push(assignment("--port-driver", network.port_driver.word()));
    let copied = settings.copy_up.value.iter();
    args.extend(copied.map(|path| assignment("--copy-up", path.as_os_str())));
    args.push(assignment("--propagation", settings.propagation.value.word().as_ref()));
    if settings.ipv6.value {
        args.push("--ipv6".into());
    }
    if network.adds_detach_netns() {
        args.push("--detach-netns".into());
    }
    args.extend_from_slice(flags);
    args.push(own_path.into());
    args
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
    let fds = host.session.listen_fds.iter();
    steps.extend(fds.map(|fds| Step::TakeSockets { count: fds.count, from: fds.shelter }));
    steps
}

/// Decides what changes in the environment on the way to rootlesskit.
fn environment_changes(
    settings: &Settings,
    host: &HostFacts,
    environment: &Environment,
    supervised: bool,
) -> EnvironmentChanges {
    let session = &host.session;
    let runtime_dir = &session.places.runtime_dir;
    let (path, missing) = search_path(environment);
    let set = |condition: bool, name, value: OsString, why: String| {
        condition.then_some((name, (value, why)))
    };
    let proxy = |name, value: Option<&OsString>, origin: &Origin| {
        // A variable is there already.
        let value = value.filter(|_| !matches!(origin, Origin::Variable(_)))?;
        Some((name, (value.clone(), origin.to_string())))
    };
    let (http, https) = (&settings.http_proxy, &settings.https_proxy);
    let set = [
        set(
            supervised,
            "NOTIFY_SOCKET",
            notify_socket(runtime_dir).into(),
            "the supervisor passes on what the daemon tells".to_owned(),
        ),
        set(
            !missing.is_empty(),
            "PATH",
            path,
            format!("dockerd finds iptables and modprobe in {} only", missing.join(" and ")),
        ),
        set(
            session.person.runtime_dir_guessed,
            "XDG_RUNTIME_DIR",
            runtime_dir.into(),
            "it was unset, and this directory is yours".to_owned(),
        ),
        proxy("HTTP_PROXY", http.value.as_ref().map(|url| &url.0), &http.origin),
        proxy("HTTPS_PROXY", https.value.as_ref().map(|url| &url.0), &https.origin),
        proxy("NO_PROXY", settings.no_proxy.value.as_ref(), &settings.no_proxy.origin),
    ];
    let sockets = match &session.listen_fds {
        Some(fds) if fds.is_own => "the supervisor's own socket takes their place",
        Some(_) => "the sockets wait on high descriptors, out of rootlesskit's way",
        None => "it is meant for another process, or names sockets that are not there",
    };
    let mark = "upstream's mark of its child; it means nothing here";
    let watchdog = "the service manager's watchdog is the supervisor's";
    let unset = [
        (true, "LISTEN_FDS", sockets),
        (true, "LISTEN_PID", sockets),
        (true, "LISTEN_PIDFDID", sockets),
        (true, "LISTEN_FDNAMES", sockets),
        (true, "_DOCKERD_ROOTLESS_CHILD", mark),
        (true, "_DOCKERD_ROOTLESS_SELINUX", mark),
        (supervised, "WATCHDOG_USEC", watchdog),
        (supervised, "WATCHDOG_PID", watchdog),
    ];
    let unset = unset.into_iter().filter(|(applies, name, _)| *applies && environment.has(name));
    EnvironmentChanges {
        set: set.into_iter().flatten().collect(),
        unset: unset.map(|(_, name, why)| (name, why.to_owned())).collect(),
    }
}

/// Returns the path of a program that must be there; `named` is what the user asked for.
fn required_program<'a, T>(
    tool: &'a Tool<T>,
    named: Option<&OsStr>,
    program: &'static str,
) -> Result<&'a Path, Error> {
    let (section, package) =
        if program == "dockerd" { ("daemon", "docker.io") } else { (program, program) };
    let explain = format!("dockerd-rootless config explain {section}.binary");
    let error = match (tool, named.filter(|name| *name != program)) {
        (Tool::Found { path, .. } | Tool::Unknown { path, .. }, _) => return Ok(path),
        (Tool::NotExecutable(path), _) => {
            let what = format!("`{}` cannot be executed", path.display());
            Error::new(Exit::CannotRun, what).hint(explain)
        }
        (Tool::Absent, Some(name)) => {
            let what = format!("the program `{}` does not exist", name.display());
            Error::new(Exit::NotFound, what).hint(explain)
        }
        (Tool::Absent, None) => {
            Error::new(Exit::Prerequisite, format!("no program `{program}` is in PATH"))
                .hint(format!("install it (Debian, Ubuntu: sudo apt-get install {package})"))
        }
    };
    Err(error.check(program))
}

#[cfg(test)]
mod tests;
