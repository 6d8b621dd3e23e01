//! Decides what dockerd is told beyond the user's words: the containers' MTU, the passed sockets,
//! the iptables backend. Whatever the user says himself, in words or in `daemon.json`, stands.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::environment::Environment;
use crate::error::{Error, Exit, Warning};
use crate::facts::{HostFacts, Session, Tools};
use crate::plan::Reason;
use crate::plan::flags::DockerdWords;
use crate::plan::keep::Keep;
use crate::plan::places::Places;
use crate::plan::preflight::SOCKET_PATH_MAX;
use crate::plan::stage::{Family, Step};
use crate::settings::{Choice, Iptables, Settings};

/// dockerd's own default MTU in bytes (`DefaultNetworkMtu` of moby).
const DOCKERD_MTU: u32 = 1500;

/// The longest socket path in bytes that containerd takes (`sys.CreateUnixSocket`).
const CONTAINERD_SOCKET_PATH_MAX: usize = 104;

/// dockerd's own `--shutdown-timeout` in seconds, and the longest that we wait for.
const SHUTDOWN_TIMEOUT: u64 = 15;
const SHUTDOWN_TIMEOUT_MAX: u64 = 86_400;

/// What is decided of the daemon.
pub struct Daemon {
    /// Its words: ours, those of `daemon.args`, those of the command line.
    pub words: Vec<OsString>,
    /// What outlives it.
    pub keep: Keep,
    /// The steps that prepare its iptables.
    pub iptables: Vec<Step>,
    /// The reasons.
    pub reasons: Vec<Reason>,
    /// What is odd.
    pub warnings: Vec<Warning>,
}

impl Daemon {
    /// Decides. `words` are those of the command line, `mtu` is that of the namespace's interface in
    /// bytes, and `config` is where a supervisor would put a configuration file for dockerd.
    ///
    /// # Errors
    /// Fails if the legacy iptables is asked for and not installed (exit 4), and as
    /// [`Keep::decide`] does.
    pub fn decide(
        settings: &Settings,
        host: &HostFacts,
        mtu: u32,
        words: &[OsString],
        config: Option<&Path>,
    ) -> Result<Self, Error> {
        let user_words = crate::plan::stated_daemon_words(settings, words);
        let user = DockerdWords(&user_words);
        let mut warnings = Vec::new();
        let (mtu_words, mtu) = container_mtu(settings, host, mtu, user);
        let (host_words, hosts) = hosts(host, user, &mut warnings);
        let (iptables, backend) =
            iptables(settings, host, user).map_err(|error| error.check("netfilter"))?;
        let mut keep = Keep::default();
        let mut kept = None;
        if let Some(config) = config {
            let (decided, reason, odd) = Keep::decide(settings, host, user, config)?;
            keep = decided;
            kept = Some(reason);
            warnings.extend(odd);
        }
        Ok(Self {
            words: [mtu_words, host_words, keep.words(), keep.rest(user)].concat(),
            keep,
            iptables,
            reasons: [mtu].into_iter().chain(hosts).chain([backend]).chain(kept).collect(),
            warnings,
        })
    }
}

/// The words that give containers their MTU, and why. Unlike the namespace's own interface,
/// containers get 1500 from dockerd, and the two together cost most of the upload (moby#44750).
fn container_mtu(
    settings: &Settings,
    host: &HostFacts,
    own: u32,
    user: DockerdWords<'_>,
) -> (Vec<OsString>, Reason) {
    let (_, daemon_json) = &host.session.daemon_json;
    let reason =
        |value: &str, why: String| Reason::new("network.container-mtu", OsStr::new(value), why);
    let (mtu, why) = match settings.container_mtu.value {
        Choice::Fixed(mtu) => (mtu.0, settings.container_mtu.origin.to_string()),
        Choice::Auto => (
            own,
            "the same as the namespace's interface, so that nothing is cut up on the way"
                .to_owned(),
        ),
    };
    if mtu == 0 {
        return (Vec::new(), reason("dockerd's own", why));
    }
    if user.long("mtu").is_some() {
        return (Vec::new(), reason("dockerd's own", "the daemon's words have --mtu".to_owned()));
    }
    if daemon_json.may_set("mtu") {
        return (
            Vec::new(),
            reason(
                "dockerd's own",
                format!("`{}` sets mtu, or cannot be read", host.session.daemon_json.0.display()),
            ),
        );
    }
    let number = mtu.to_string();
    if mtu == DOCKERD_MTU {
        return (Vec::new(), reason(&number, format!("{why}; it is dockerd's default")));
    }
    let mut words = vec![OsString::from(format!("--mtu={mtu}"))];
    let knows_default_opts =
        host.tools.dockerd.known().is_some_and(|facts| facts.has_flag("default-network-opt"));
    let user_networks = if !knows_default_opts {
        "user-made networks keep 1500, as this dockerd has no --default-network-opt"
    } else if user.long("default-network-opt").is_some()
        || daemon_json.may_set("default-network-opts")
    {
        "user-made networks follow your own default-network-opts"
    } else {
        words.push(
            format!("--default-network-opt=bridge=com.docker.network.driver.mtu={mtu}").into(),
        );
        "user-made bridge networks too"
    };
    (words, reason(&number, format!("{why}; {user_networks}")))
}

/// The words that make dockerd take the passed sockets. Without them it would bind a socket of
/// its own over the manager's, and whoever is connected there would wait for ever.
fn hosts(
    host: &HostFacts,
    user: DockerdWords<'_>,
    warnings: &mut Vec<Warning>,
) -> (Vec<OsString>, Option<Reason>) {
    let Some(fds) = &host.session.listen_fds else {
        return (Vec::new(), None);
    };
    let (path, daemon_json) = &host.session.daemon_json;
    let reason = |value: &str, why: String| Some(Reason::new("hosts", OsStr::new(value), why));
    if user.has_hosts() {
        return (Vec::new(), reason("as given", "the daemon's words have -H".to_owned()));
    }
    if daemon_json.may_set("hosts") {
        warnings.push(Warning(format!(
            "the service manager passes {} socket(s), but `{}` sets hosts (or cannot be read): the passed sockets are served only if it names fd://",
            fds.count,
            path.display()
        )));
        return (
            Vec::new(),
            reason("as given", format!("`{}` sets hosts, or cannot be read", path.display())),
        );
    }
    (
        vec!["-H".into(), "fd://".into()],
        reason(
            "fd://",
            match fds.is_own {
                true => "the supervisor keeps the socket while the daemon restarts".to_owned(),
                false => format!("the service manager passes {} socket(s)", fds.count),
            },
        ),
    )
}

/// The daemon's socket, and who keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Api {
    /// The supervisor, at this path.
    Own(PathBuf),
    /// The service manager, at this path if it is one.
    Passed(Option<PathBuf>),
    /// The daemon, as its user said where to listen: at this path, if it is one.
    Daemon(Option<PathBuf>),
}

impl Api {
    /// Decides. `words` are the daemon's of the command line, and `passed` is where the first socket
    /// of the service manager is.
    pub fn decide(
        settings: &Settings,
        session: &Session,
        words: &[OsString],
        runtime_dir: &Path,
        passed: Option<PathBuf>,
    ) -> Self {
        let words = crate::plan::stated_daemon_words(settings, words);
        let user = DockerdWords(&words);
        let stated = user.value("host", Some(b'H'));
        let is_passed = session.listen_fds.as_ref().is_some_and(|fds| !fds.is_own);
        match stated.map(OsStr::as_bytes) {
            Some(host) if is_passed && host.starts_with(b"fd:") => Self::Passed(passed),
            Some(host) => {
                let path = host.strip_prefix(b"unix://").map(OsStr::from_bytes);
                Self::Daemon(path.map(PathBuf::from))
            }
            None if session.daemon_json.1.may_set("hosts") => Self::Daemon(None),
            None if is_passed => Self::Passed(passed),
            None => Self::Own(runtime_dir.join("docker.sock")),
        }
    }

    /// Where it is.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Own(path) => Some(path),
            Self::Passed(path) | Self::Daemon(path) => path.as_deref(),
        }
    }

    /// Where it is if it is the supervisor's.
    pub fn own(&self) -> Option<&Path> {
        match self {
            Self::Own(path) => Some(path),
            Self::Passed(_) | Self::Daemon(_) => None,
        }
    }

    /// Who keeps it.
    pub fn keeper(&self) -> &'static str {
        match self {
            Self::Own(_) => "supervisor",
            Self::Passed(_) => "service manager",
            Self::Daemon(_) => "dockerd",
        }
    }
}

/// Whether the user says where the daemon listens.
pub fn has_hosts(session: &Session, user: DockerdWords<'_>) -> bool {
    user.has_hosts() || session.daemon_json.1.may_set("hosts")
}

/// What dockerd itself gives containers to end when it does, before their own times count.
pub fn shutdown_timeout(session: &Session, user: DockerdWords<'_>) -> Duration {
    let stated = user.long("shutdown-timeout").flatten().and_then(OsStr::to_str);
    let seconds = match stated {
        Some(text) => text.parse().ok(),
        None => session.daemon_json.1.number("shutdown-timeout"),
    };
    // Less than none is for ever to dockerd.
    let seconds = seconds.map_or(SHUTDOWN_TIMEOUT, |seconds: i64| {
        u64::try_from(seconds).unwrap_or(SHUTDOWN_TIMEOUT_MAX)
    });
    Duration::from_secs(seconds.min(SHUTDOWN_TIMEOUT_MAX))
}

/// The steps that choose dockerd's iptables, and why.
fn iptables(
    settings: &Settings,
    host: &HostFacts,
    user: DockerdWords<'_>,
) -> Result<(Vec<Step>, Reason), Error> {
    let Tools { iptables, iptables_legacy, ip6tables_legacy, .. } = &host.tools;
    let (_, daemon_json) = &host.session.daemon_json;
    let asked = settings.iptables.value;
    let reason = |value: &str, why: String| Reason::new("daemon.iptables", OsStr::new(value), why);
    let by_path = |why: &str| Ok((Vec::new(), reason("path", why.to_owned())));
    if asked == Iptables::Path {
        return by_path(&settings.iptables.origin.to_string());
    }
    if asked == Iptables::Auto {
        let is_nft =
            |path: &PathBuf| path.file_name().is_some_and(|name| name == "xtables-nft-multi");
        let other_backend = |value: &OsStr| value != "iptables";
        if user.turns_off("iptables") || daemon_json.turns_off("iptables") {
            return by_path("dockerd is told to do without iptables");
        }
        if user.long("firewall-backend").flatten().is_some_and(other_backend)
            || daemon_json.may_set("firewall-backend")
        {
            return by_path("dockerd is told which firewall backend to use");
        }
        if iptables.as_ref().is_some_and(|path| !is_nft(path)) {
            return by_path("PATH has another iptables than the nft backend first");
        }
        if iptables_legacy.is_none() {
            return by_path("no iptables-legacy is installed");
        }
    }
    if !settings.copies_up("/run") {
        let why = "/run is not copied up, so there is no place of our own for the links";
        return match asked {
            Iptables::Legacy => {
                Err(Error::new(Exit::Config, format!("daemon.iptables is `legacy`, but {why}"))
                    .hint(
                        "add \"/run\" to rootlesskit.copy-up, or unset DOCKERD_ROOTLESS_IPTABLES",
                    ))
            }
            _ => by_path(why),
        };
    }
    let required = asked == Iptables::Legacy;
    if required && iptables_legacy.is_none() {
        return Err(Error::new(
            Exit::Prerequisite,
            "daemon.iptables is `legacy`, but no program `iptables-legacy` is in PATH",
        )
        .hint(
            "install it (Debian, Ubuntu: sudo apt-get install iptables), or unset DOCKERD_ROOTLESS_IPTABLES",
        ));
    }
    let step = |family, program: &Option<PathBuf>, required| {
        program.clone().map(|program| Step::LegacyIptables { family, program, required })
    };
    let steps = [
        step(Family::Ipv4, iptables_legacy, required),
        step(Family::Ipv6, ip6tables_legacy, false),
    ];
    let why = match asked {
        Iptables::Legacy => settings.iptables.origin.to_string(),
        _ => "it starts faster, and the namespace is private; the stage tries whether the kernel has it"
            .to_owned(),
    };
    Ok((steps.into_iter().flatten().collect(), reason("legacy", why)))
}

/// The longest sockets that dockerd will make by itself, each with the bytes that its path may
/// have. Sockets that a service manager passes take the place of its own.
pub fn sockets(
    session: &Session,
    user: DockerdWords<'_>,
    environment: &Environment,
    runtime_dir: &Path,
) -> Vec<(PathBuf, usize)> {
    let daemon_json = &session.daemon_json.1;
    let places = Places::find(user, daemon_json, environment, runtime_dir);
    let mut sockets = Vec::new();
    let is_made = session.listen_fds.as_ref().is_none_or(|fds| fds.is_own);
    if is_made && !has_hosts(session, user) {
        sockets.push((runtime_dir.join("docker.sock"), SOCKET_PATH_MAX));
    }
    if user.long("containerd").is_none() && !daemon_json.may_set("containerd") {
        let longest = places.exec_root.join("containerd/containerd-debug.sock");
        sockets.push((longest, CONTAINERD_SOCKET_PATH_MAX));
    }
    sockets
}
