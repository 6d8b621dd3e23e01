//! The launch, decided: rootlesskit's arguments, the environment's changes, the namespace stage and
//! the daemon's arguments, each choice with its reason. `run` executes exactly this value, and
//! `plan` prints it.
#![forbid(unsafe_code)]

mod addresses;
mod api;
mod daemon;
mod keep;
mod misspelt;
mod network;
mod preflight;
mod source_ip;
mod stage;
mod trial;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::environment::Environment;
use crate::error::{Error, Exit, Warning};
use crate::facts::places::{Places, daemon_config, notify_socket, search_path};
use crate::facts::{HostFacts, PidFile, PidState, Session, Tool, Tools};
use crate::settings::{Choice, Number, Origin, PortDriver, Settings, Sourced, assignment};
use crate::sys::elevate;
use crate::sys::sockets::ListenFds;
pub use addresses::{Link, docker0, host_address, taken, takes_cidr, usual};
pub use api::{Api, Ports, has_hosts};
pub use daemon::{Daemon, shutdown_timeout};
pub use keep::{Engine, Keep, effective_config};
pub use network::{Network, Refusal};
pub use preflight::{
    refuse_foreign_state_dir, refuse_home, refuse_long_paths, refuse_person, refuse_root,
    refuse_runtime_dir, refuse_shared_runtime_dir,
};
pub use source_ip::{Seen, Source};
pub use stage::{DOCKER_SOCKET, Family, STAGE, Stage, Step, TRIAL};
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
    pub unset: BTreeMap<&'static str, &'static str>,
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
    fn new(key: &'static str, value: impl AsRef<OsStr>, why: impl Into<String>) -> Self {
        Self { key, value: value.as_ref().to_string_lossy().into_owned(), why: why.into() }
    }
}

/// Returns the value that the user decided, and where.
fn fixed<T: Clone>(setting: &Sourced<Choice<T>>) -> Option<(T, String)> {
    match &setting.value {
        Choice::Fixed(value) => Some((value.clone(), setting.origin.to_string())),
        Choice::Auto => None,
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
        let (rootlesskit, network) = admit(settings, host)?;
        let mut warnings = settings.warnings.clone();
        match preflight::refuse_shared_runtime_dir(&session.person) {
            Err(error) if supervised => return Err(error.check("runtime-dir")),
            // Upstream's script takes such a directory.
            shared => warnings.extend(shared.err().map(|error| Warning(error.to_string()))),
        }
        let Places { runtime_dir, state_dir, .. } = &session.places;
        refuse_places(settings, session, &network, supervised)?;
        network.refuse_impossible(tools, supervised).map_err(|refusal| refusal.error(tools))?;
        let config = supervised.then(|| daemon_config(runtime_dir));
        let (link, source) = (network.link(), &network.source);
        let daemon = Daemon::decide(settings, host, &link, source, config.as_deref())?;
        let (iptables, backend) = daemon::iptables(settings, host)?;
        let stage = Stage {
            keeper: session.keeper_fd.filter(|_| supervised),
            outside: session.user_namespace,
            netns: network.detach_netns.then(|| state_dir.join("netns")),
            steps: [steps(settings, host, &network.port_driver, &iptables), network.source.steps()]
                .concat(),
            daemon: daemon.command,
        };
        let own = network.api_port.iter().map(|port| format!("--publish={port}").into());
        let flags: Vec<OsString> = own.chain(settings.rootlesskit_flags.value.clone()).collect();
        let mut args = rootlesskit_args(settings, &network, state_dir, &flags, &session.own_path);
        args.extend(stage.words());
        let mut reasons = [network.reasons.clone(), daemon.reasons].concat();
        reasons.push(backend);
        warnings.extend(network.unknown_driver(tools));
        warnings.extend(network.moved());
        warnings.extend(network.old_dockerd(tools).map(|refusal| Warning(refusal.what)));
        warnings.extend(network.source.warning.clone());
        warnings.extend(daemon.warnings);
        warnings.extend(host.exposed.iter().map(|program| {
            let program = program.display();
            Warning(format!("`{program}` is in a directory in which other users can replace it"))
        }));
        let (removals, stale) = stale_files(session);
        warnings.extend(stale);
        Ok(Self {
            removals,
            rootlesskit,
            args,
            environment: environment_changes(settings, host, environment, supervised),
            stage,
            sockets: session.listen_fds.clone(),
            keep: daemon.keep,
            reasons,
            warnings,
            network,
        })
    }
}

/// Returns rootlesskit's path and the network. Refuses a bad user, home, runtime directory,
/// rootlesskit and flags.
fn admit(settings: &Settings, host: &HostFacts) -> Result<(PathBuf, Network), Error> {
    let tools = &host.tools;
    refuse_person(&host.session.person)?;
    let named = settings.rootlesskit_binary.value.as_deref();
    let rootlesskit = required_program(tools, &tools.rootlesskit, named, "rootlesskit")?;
    if let Some(fault) = tools.flags(settings).fault {
        let origin = &settings.rootlesskit_flags.origin;
        return Err(Error::new(Exit::Config, format!("rootlesskit.flags ({origin}): {fault}"))
            .hint("join a flag and its value by `=`, and quote values with blanks"));
    }
    let network = Network::decide(settings, host).map_err(|refusal| refusal.error(tools))?;
    Ok((rootlesskit.to_owned(), network))
}

/// Refuses paths at which rootlesskit, dockerd or the supervisor could not begin.
fn refuse_places(
    settings: &Settings,
    session: &Session,
    network: &Network,
    supervised: bool,
) -> Result<(), Error> {
    let Places { runtime_dir, state_dir, .. } = &session.places;
    let mut sockets = sockets(settings, session, network);
    if supervised {
        sockets.push((notify_socket(runtime_dir), preflight::SOCKET_PATH_MAX));
    }
    refuse_long_paths(&sockets)?;
    refuse_foreign_state_dir(state_dir, &session.state_dir, session.person.uid)?;
    preflight::refuse_second_instance(session)
}

/// Returns the pid files that name no process of ours, and why: those that may go, and warnings of
/// the others. dockerd does not start over one whose PID another process has.
fn stale_files(session: &Session) -> (Vec<(PathBuf, String)>, Vec<Warning>) {
    let (mut removals, mut warnings) = (Vec::new(), Vec::new());
    for PidFile { path, state, is_daemons } in &session.pid_files {
        match state {
            PidState::Stale(why) if *is_daemons => removals.push((path.clone(), why.clone())),
            PidState::Stale(why) => warnings.push(Warning(format!(
                "`{}` is stale ({why}), and dockerd may not start over it: remove it",
                path.display()
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
        Choice::Fixed(Number(mtu)) => mtu,
        Choice::Auto => network.mtu,
    };
    let mut args = vec![
        assignment("--state-dir", state_dir.as_os_str()),
        assignment("--net", network.driver.word()),
        format!("--mtu={mtu}").into(),
        assignment("--slirp4netns-sandbox", settings.slirp4netns_sandbox.value.word().as_ref()),
        assignment("--slirp4netns-seccomp", settings.slirp4netns_seccomp.value.word().as_ref()),
    ];
    if let Some(subnet) = network.added_cidr() {
        args.push(format!("--cidr={subnet}").into());
    }
    if !settings.host_loopback.value {
        args.push("--disable-host-loopback".into());
    }
    args.push(assignment("--port-driver", network.port_driver.word()));
    args.extend(network.source.flag.map(OsString::from));
    let copied = settings.copy_up.value.iter();
    args.extend(copied.map(|path| assignment("--copy-up", path.as_os_str())));
    args.push(assignment("--propagation", settings.propagation.value.word()));
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

/// Returns the stage's steps: upstream's, and ours.
fn steps(
    settings: &Settings,
    host: &HostFacts,
    ports: &PortDriver,
    iptables: &[Step],
) -> Vec<Step> {
    let mut steps = Vec::new();
    if settings.copies_up("/run") {
        let hidden = ["/run/docker", "/run/containerd", "/run/xtables.lock", "/run/nri"];
        steps.extend(hidden.map(|path| Step::DropLink(path.into())));
        steps.push(Step::docker_socket(Api::decide(settings, &host.session).path()));
    }
    if host.kernel.selinux && settings.copies_up("/run") {
        steps.push(Step::Label("/run".into()));
    }
    if settings.copies_up("/etc") {
        steps.push(Step::RebindBroken("/etc".into()));
    }
    let cdi = [("/etc", "/etc/cdi"), ("/run", "/run/cdi")].into_iter();
    let cdi = cdi.filter(|(parent, _)| settings.copies_up(parent));
    steps.extend(cdi.map(|(_, path)| Step::BindOriginal(path.into())));
    steps.push(Step::Forward);
    steps.push(Step::local_ports(host.session.person.uid, ports));
    steps.extend_from_slice(iptables);
    let fds = host.session.listen_fds.iter();
    steps.extend(fds.map(|fds| Step::TakeSockets { count: fds.count, from: fds.shelter }));
    steps
}

/// The kernels that let users mount overlays, on which SELinux denies every new file
/// (moby#42333). Older ones with the first change of it, such as RHEL 8's, have the second, too.
const UNLABELLED_OVERLAY: Range<(u32, u32)> = (5, 11)..(5, 13);

/// What is unset, whether only under a supervisor, and why.
const UNSET: [(&str, bool, &str); 8] = [
    ("LISTEN_FDS", false, SOCKETS),
    ("LISTEN_PID", false, SOCKETS),
    ("LISTEN_PIDFDID", false, SOCKETS),
    ("LISTEN_FDNAMES", false, SOCKETS),
    ("_DOCKERD_ROOTLESS_CHILD", false, MARK),
    (SELINUX_MARK, false, "dockerd need not avoid overlay mounts on this kernel"),
    ("WATCHDOG_USEC", true, WATCHDOG),
    ("WATCHDOG_PID", true, WATCHDOG),
];
/// The variable by which dockerd takes no overlay mounts (moby's `SupportsOverlay`).
const SELINUX_MARK: &str = "_DOCKERD_ROOTLESS_SELINUX";
const SOCKETS: &str = "passed sockets cross rootlesskit on high descriptors";
const MARK: &str = "upstream's mark of its child; it means nothing here";
const WATCHDOG: &str = "the service manager's watchdog is the supervisor's";

/// Decides what changes in the environment on the way to rootlesskit.
fn environment_changes(
    settings: &Settings,
    host: &HostFacts,
    environment: &Environment,
    supervised: bool,
) -> EnvironmentChanges {
    let session = &host.session;
    let mut set = BTreeMap::new();
    let mut change = |name, value: OsString, why: String| drop(set.insert(name, (value, why)));
    let runtime_dir = &session.places.runtime_dir;
    if supervised {
        let why = "the supervisor passes on what the daemon tells";
        change("NOTIFY_SOCKET", notify_socket(runtime_dir).into(), why.to_owned());
    }
    let is_unlabelled = |version| UNLABELLED_OVERLAY.contains(version);
    if host.kernel.selinux && host.kernel.version.as_ref().is_some_and(is_unlabelled) {
        let why =
            "overlay mounts fail under SELinux before kernel 5.13: dockerd takes another driver";
        change(SELINUX_MARK, "1".into(), why.to_owned());
    }
    let (path, missing) = search_path(environment);
    if !missing.is_empty() {
        let why = format!("dockerd finds iptables and modprobe in {} only", missing.join(" and "));
        change("PATH", path, why);
    }
    if session.person.runtime_dir_guessed {
        let why = "it was unset, and this directory is yours";
        change("XDG_RUNTIME_DIR", runtime_dir.into(), why.to_owned());
    }
    let (http, https, no) = (&settings.http_proxy, &settings.https_proxy, &settings.no_proxy);
    for (name, value, origin) in [
        ("HTTP_PROXY", http.value.as_ref().map(|url| &url.0), &http.origin),
        ("HTTPS_PROXY", https.value.as_ref().map(|url| &url.0), &https.origin),
        ("NO_PROXY", no.value.as_ref(), &no.origin),
    ] {
        // A variable is there already.
        if let Some(value) = value.filter(|_| !matches!(origin, Origin::Variable(_))) {
            change(name, value.clone(), origin.to_string());
        }
    }
    let unset = UNSET.iter().filter(|(name, only, _)| {
        (supervised || !only) && environment.has(name) && !set.contains_key(name)
    });
    let unset = unset.map(|(name, _, why)| (*name, *why)).collect();
    EnvironmentChanges { set, unset }
}

/// Returns the path of a program that must be there; `named` is what the user asked for.
fn required_program<'a, T>(
    tools: &Tools,
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
                .hint(install_hint(tools, package))
        }
    };
    Err(error.check(program))
}

/// Returns how to install a package of Debian.
fn install_hint(tools: &Tools, package: &str) -> String {
    let command = elevate::line(tools.has_sudo, &format!("apt-get install {package}"));
    format!("install it (Debian, Ubuntu: {command})")
}

#[cfg(test)]
mod tests;
