//! Decides what dockerd is told beyond the user's arguments: the containers' MTU, the passed
//! sockets, the iptables backend. What the user says himself, in arguments or in `daemon.json`,
//! counts more.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Exit, Warning};
use crate::facts::places::api_socket;
use crate::facts::{HostFacts, Session, Tools};
use crate::plan::keep::Keep;
use crate::plan::preflight::SOCKET_PATH_MAX;
use crate::plan::stage::{Family, Step};
use crate::plan::{Reason, number};
use crate::settings::{Choice, Flags, Iptables, Settings};

/// dockerd's own default MTU in bytes (`DefaultNetworkMtu` of moby).
const DOCKERD_MTU: u32 = 1500;

/// The longest socket path in bytes that containerd takes (`sys.CreateUnixSocket`).
const CONTAINERD_SOCKET_PATH_MAX: usize = 104;

/// dockerd's own `--shutdown-timeout` in seconds, and the longest that we wait for.
const SHUTDOWN_TIMEOUT: u64 = 15;
const SHUTDOWN_TIMEOUT_MAX: u64 = 86_400;

/// What is decided of the daemon.
pub struct Daemon {
    /// Its arguments: ours, then the user's.
    pub args: Vec<OsString>,
    /// What outlives it.
    pub keep: Keep,
    /// The steps that prepare its iptables.
    pub iptables: Vec<Step>,
    pub reasons: Vec<Reason>,
    pub warnings: Vec<Warning>,
}

impl Daemon {
    /// Decides. `mtu` is that of the namespace's interface in bytes, and `config` is where a
    /// supervisor would put a configuration file for dockerd.
    pub fn decide(
        settings: &Settings,
        host: &HostFacts,
        mtu: u32,
        config: Option<&Path>,
    ) -> Result<Self, Error> {
        let mut warnings = Vec::new();
        let (mtu_args, mtu) = container_mtu(settings, host, mtu);
        let (host_args, hosts) = hosts(settings, host, &mut warnings);
        warnings.extend(open_port(&settings.args()));
        let (iptables, backend) =
            iptables(settings, host).map_err(|error| error.check("netfilter"))?;
        let (keep, kept) = match config {
            None => (Keep::default(), None),
            Some(config) => {
                let (keep, reason, odd) = Keep::decide(settings, host, config)?;
                warnings.extend(odd);
                (keep, Some(reason))
            }
        };
        Ok(Self {
            args: [mtu_args, host_args, keep.args(), keep.rest(&settings.dockerd_args)].concat(),
            keep,
            iptables,
            reasons: [mtu].into_iter().chain(hosts).chain([backend]).chain(kept).collect(),
            warnings,
        })
    }
}

/// Returns the arguments that give containers their MTU, and why. Unlike the namespace's own
/// interface, containers get 1500 from dockerd, and the two together cost most of the upload
/// (moby#44750).
fn container_mtu(settings: &Settings, host: &HostFacts, own: u32) -> (Vec<OsString>, Reason) {
    let Session { daemon_json, places, .. } = &host.session;
    let args = settings.args();
    let reason = |value: &OsStr, why: String| Reason::new("network.container-mtu", value, why);
    let (mtu, why) = match settings.container_mtu.value {
        Choice::Fixed(mtu) => (mtu.0, settings.container_mtu.origin.to_string()),
        Choice::Auto => {
            let why = "the same as the namespace's interface, so that no packet is cut on the way";
            (own, why.to_owned())
        }
    };
    let left = if mtu == 0 {
        Some(why.clone())
    } else if args.has("mtu") {
        Some("dockerd's arguments have --mtu".to_owned())
    } else if daemon_json.may_set("mtu") {
        Some(format!("`{}` sets mtu, or cannot be read", places.daemon_json.display()))
    } else {
        None
    };
    if let Some(why) = left {
        return (Vec::new(), reason("dockerd's own".as_ref(), why));
    }
    if mtu == DOCKERD_MTU {
        return (Vec::new(), reason(&number(mtu), format!("{why}; it is dockerd's default")));
    }
    let mut ours = vec![OsString::from(format!("--mtu={mtu}"))];
    let dockerd = host.tools.dockerd.known();
    let user_networks = if !dockerd.is_some_and(|facts| facts.has_flag("default-network-opt")) {
        "user-made networks keep 1500, as this dockerd has no --default-network-opt"
    } else if args.has("default-network-opt") || daemon_json.may_set("default-network-opts") {
        "user-made networks follow your own default-network-opts"
    } else {
        let option = format!("--default-network-opt=bridge=com.docker.network.driver.mtu={mtu}");
        ours.push(option.into());
        "user-made bridge networks too"
    };
    (ours, reason(&number(mtu), format!("{why}; {user_networks}")))
}

/// Returns the arguments that make dockerd take the passed sockets. Without them it would bind a
/// socket of its own over the manager's, and clients that are connected there would wait for ever.
fn hosts(
    settings: &Settings,
    host: &HostFacts,
    warnings: &mut Vec<Warning>,
) -> (Vec<OsString>, Option<Reason>) {
    let Session { daemon_json, places, listen_fds, .. } = &host.session;
    let Some(fds) = listen_fds else {
        return (Vec::new(), None);
    };
    let json = places.daemon_json.display();
    let (args, value, why) = if settings.args().has("host") {
        (vec![], "as given", "dockerd's arguments have -H".to_owned())
    } else if daemon_json.may_set("hosts") {
        warnings.push(Warning(format!(
            "the service manager passes {} socket(s), but `{json}` sets hosts (or cannot be read): \
             dockerd serves them only if it names fd://",
            fds.count
        )));
        (vec![], "as given", format!("`{json}` sets hosts, or cannot be read"))
    } else if fds.is_own {
        let why = "the supervisor keeps the socket while the daemon restarts";
        (vec!["-H".into(), "fd://".into()], "fd://", why.to_owned())
    } else {
        let why = format!("the service manager passes {} socket(s)", fds.count);
        (vec!["-H".into(), "fd://".into()], "fd://", why)
    };
    (args, Some(Reason::new("hosts", value.as_ref(), why)))
}

/// Warns of a TCP port without TLS that others reach.
fn open_port(args: &Flags<'_>) -> Option<Warning> {
    let is_open = |host: &&OsStr| {
        let host = host.as_bytes().strip_prefix(b"tcp://");
        host.is_some_and(|host| {
            ![&b"127."[..], b"localhost", b"[::1]"].iter().any(|own| host.starts_with(own))
        })
    };
    let host = args.value("host").filter(is_open)?.display();
    (args.switch("tlsverify") != Some(true)).then(|| {
        Warning(format!(
            "dockerd listens on `{host}` without --tlsverify: all who reach it can act as you"
        ))
    })
}

/// The daemon's socket, and who keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Api {
    /// The supervisor, at this path.
    Own(PathBuf),
    /// The service manager, at this path if it is one.
    Passed(Option<PathBuf>),
    /// The daemon, as its user said where to listen: at this path, if it is one.
    Daemon(Option<PathBuf>),
}

impl Api {
    /// Decides. `passed` is where the first socket of the service manager is.
    pub fn decide(settings: &Settings, session: &Session, passed: Option<PathBuf>) -> Self {
        let args = settings.args();
        let explicit = args.value("host");
        let is_passed = session.listen_fds.as_ref().is_some_and(|fds| !fds.is_own);
        match explicit.map(OsStr::as_bytes) {
            Some(host) if is_passed && host.starts_with(b"fd:") => Self::Passed(passed),
            Some(host) => {
                let path = host.strip_prefix(b"unix://").map(OsStr::from_bytes);
                Self::Daemon(path.map(PathBuf::from))
            }
            None if session.daemon_json.may_set("hosts") => Self::Daemon(None),
            None if is_passed => Self::Passed(passed),
            None => Self::Own(api_socket(&session.places.runtime_dir)),
        }
    }

    /// Returns its path.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Own(path) => Some(path),
            Self::Passed(path) | Self::Daemon(path) => path.as_deref(),
        }
    }

    /// Returns its path if it is the supervisor's.
    pub fn own(&self) -> Option<&Path> {
        match self {
            Self::Own(path) => Some(path),
            Self::Passed(_) | Self::Daemon(_) => None,
        }
    }

    /// Names who keeps it.
    pub fn keeper(&self) -> &'static str {
        match self {
            Self::Own(_) => "supervisor",
            Self::Passed(_) => "service manager",
            Self::Daemon(_) => "dockerd",
        }
    }
}

/// Whether the user says where the daemon listens.
pub fn has_hosts(settings: &Settings, session: &Session) -> bool {
    settings.args().has("host") || session.daemon_json.may_set("hosts")
}

/// How long dockerd itself lets containers end when it does, before their own times count.
pub fn shutdown_timeout(settings: &Settings, session: &Session) -> Duration {
    let args = settings.args();
    let explicit = args.value("shutdown-timeout").and_then(OsStr::to_str);
    let seconds = match explicit {
        Some(text) => text.parse().ok(),
        None => session.daemon_json.number("shutdown-timeout"),
    };
    // To dockerd a negative number is for ever.
    let seconds = seconds.map_or(SHUTDOWN_TIMEOUT, |seconds: i64| {
        u64::try_from(seconds).unwrap_or(SHUTDOWN_TIMEOUT_MAX)
    });
    Duration::from_secs(seconds.min(SHUTDOWN_TIMEOUT_MAX))
}

/// Returns the steps that choose dockerd's iptables, and why.
fn iptables(settings: &Settings, host: &HostFacts) -> Result<(Vec<Step>, Reason), Error> {
    let Tools { iptables_legacy, ip6tables_legacy, .. } = &host.tools;
    let (asked, origin) = (settings.iptables.value, &settings.iptables.origin);
    let reason = |value: &str, why: String| Reason::new("daemon.iptables", value.as_ref(), why);
    let by_path = match asked {
        Iptables::Path => Some(origin.to_string()),
        Iptables::Auto => decided_elsewhere(settings, host).map(str::to_owned),
        Iptables::Legacy => None,
    };
    if let Some(why) = by_path {
        return Ok((Vec::new(), reason("path", why)));
    }
    let is_required = asked == Iptables::Legacy;
    if is_required && !settings.copies_up("/run") {
        let what = format!("daemon.iptables is `legacy`, but {NO_PLACE}");
        return Err(
            Error::new(Exit::Config, what).hint(origin.take_back("daemon.iptables", "auto"))
        );
    }
    if is_required && iptables_legacy.is_none() {
        let what = "daemon.iptables is `legacy`, but no program `iptables-legacy` is in PATH";
        let hint = format!(
            "install it (Debian, Ubuntu: sudo apt-get install iptables), or: {}",
            origin.take_back("daemon.iptables", "auto")
        );
        return Err(Error::new(Exit::Prerequisite, what).hint(hint));
    }
    let step = |family, program: &Option<PathBuf>, required| {
        program.clone().map(|program| Step::LegacyIptables { family, program, required })
    };
    let steps = [
        step(Family::Ipv4, iptables_legacy, is_required),
        step(Family::Ipv6, ip6tables_legacy, false),
    ];
    let why = match asked {
        Iptables::Legacy => origin.to_string(),
        _ => "it starts faster, and the namespace is private; the stage tries whether the kernel \
              has it"
            .to_owned(),
    };
    Ok((steps.into_iter().flatten().collect(), reason("legacy", why)))
}

const NO_PLACE: &str = "/run is not copied up, so there is no place of our own for the links";

/// Says why `auto` leaves iptables to PATH, if it does.
fn decided_elsewhere(settings: &Settings, host: &HostFacts) -> Option<&'static str> {
    let Tools { iptables, iptables_legacy, .. } = &host.tools;
    let (args, json) = (settings.args(), &host.session.daemon_json);
    let is_nft = |path: &PathBuf| path.file_name().is_some_and(|name| name == "xtables-nft-multi");
    let has_backend = args.value("firewall-backend").is_some_and(|value| value != "iptables")
        || json.may_set("firewall-backend");
    if args.switch("iptables") == Some(false) || json.turns_off("iptables") {
        Some("dockerd is told to do without iptables")
    } else if has_backend {
        Some("dockerd is told which firewall backend to use")
    } else if iptables.as_ref().is_some_and(|path| !is_nft(path)) {
        Some("PATH has another iptables than the nft backend first")
    } else if iptables_legacy.is_none() {
        Some("no iptables-legacy is installed")
    } else {
        (!settings.copies_up("/run")).then_some(NO_PLACE)
    }
}

/// Returns the longest sockets that dockerd will make by itself, each with the bytes that its path
/// may have. Sockets that a service manager passes take the place of its own.
pub fn sockets(settings: &Settings, session: &Session) -> Vec<(PathBuf, usize)> {
    let mut sockets = Vec::new();
    let is_made = session.listen_fds.as_ref().is_none_or(|fds| fds.is_own);
    if is_made && !has_hosts(settings, session) {
        sockets.push((api_socket(&session.places.runtime_dir), SOCKET_PATH_MAX));
    }
    let is_foreign = settings.args().has("containerd") || session.daemon_json.may_set("containerd");
    if !is_foreign {
        let longest = session.places.containerd().join("containerd-debug.sock");
        sockets.push((longest, CONTAINERD_SOCKET_PATH_MAX));
    }
    sockets
}
