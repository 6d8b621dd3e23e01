//! Decides where dockerd listens: its socket and who keeps that, and TCP. Without a detached network
//! namespace rootlesskit publishes a TCP port; with one, dockerd itself listens on the host.

use std::ffi::{OsStr, OsString};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Exit, Warning};
use crate::facts::Session;
use crate::facts::places::{api_socket, unix_url};
use crate::plan::{Link, Reason};
use crate::settings::{PortDriver, PublishedPort, Settings};

/// dockerd's TCP port where none is stated (`DefaultHTTPPort` of moby).
const DEFAULT_PORT: u16 = 2375;

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
    /// Decides.
    pub fn decide(settings: &Settings, session: &Session) -> Self {
        let passed = session.listen_fds.as_ref().filter(|fds| !fds.is_own);
        let passed = passed.map(|fds| fds.path.clone());
        if !has_hosts(settings, session) {
            let own = || Self::Own(api_socket(&session.places.runtime_dir));
            return passed.map_or_else(own, Self::Passed);
        }
        let stated: Vec<&[u8]> = stated_hosts(settings, session).map(OsStr::as_bytes).collect();
        let path = |host: &&[u8]| {
            let path = Path::new(OsStr::from_bytes(host.strip_prefix(b"unix://")?));
            path.is_absolute().then(|| path.to_owned())
        };
        match passed {
            Some(passed) if stated.iter().any(|host| host.starts_with(b"fd:")) => {
                Self::Passed(passed)
            }
            _ => Self::Daemon(stated.iter().find_map(path)),
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
        self.path().filter(|_| matches!(self, Self::Own(_)))
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

/// The hosts that the user names, in dockerd's arguments or in `daemon.json`.
fn stated_hosts<'a>(
    settings: &'a Settings,
    session: &'a Session,
) -> impl Iterator<Item = &'a OsStr> {
    let args = settings.args();
    let args: Vec<&OsStr> = args.values("host").collect();
    args.into_iter().chain(session.daemon_json.texts("hosts").map(OsStr::new))
}

/// An address at which dockerd listens by TCP, in its network namespace.
struct Listener {
    /// A name is one of this host's.
    address: Option<IpAddr>,
    port: u16,
}

impl Listener {
    /// Parses a host as dockerd does: TCP is the default, and `localhost` its address.
    fn parse(host: &OsStr) -> Option<Self> {
        let host = host.to_string_lossy();
        // A word that looks like an option is a slip, which dockerd names.
        let host = Some(host.trim()).filter(|host| !host.is_empty() && !host.starts_with('-'))?;
        let url = match host.split_once("://") {
            Some((protocol, url)) => (protocol == "tcp").then_some(url)?,
            None => host,
        };
        let address = url.split(['/', '?', '#']).next().unwrap_or_default();
        let (address, port) = match address.rsplit_once(':') {
            Some((address, port)) if !port.ends_with(']') => (address, port),
            _ => (address, ""),
        };
        // dockerd itself refuses a port that is no number.
        let port = port.parse().unwrap_or(DEFAULT_PORT);
        let address = match address.trim_matches(['[', ']']) {
            "" | "localhost" => Some(Ipv4Addr::LOCALHOST.into()),
            address => address.parse().ok(),
        };
        Some(Self { address, port })
    }

    fn is_loopback(&self) -> bool {
        self.address.is_some_and(|address| address.is_loopback())
    }

    /// Whether the host cannot have both this listener and a published port.
    fn collides(&self, port: &PublishedPort) -> bool {
        let is_any = |address: Option<IpAddr>| address.is_none_or(|it| it.is_unspecified());
        let overlaps = self.address == port.address || is_any(self.address) || is_any(port.address);
        port.protocol == "tcp" && port.host == self.port && overlaps
    }
}

impl From<SocketAddr> for Listener {
    fn from(address: SocketAddr) -> Self {
        Self { address: Some(address.ip()), port: address.port() }
    }
}

/// Returns the flag among `published` that takes the address and port at which the user has dockerd
/// listen.
pub(super) fn published_by_user(
    settings: &Settings,
    session: &Session,
    published: &[String],
) -> Option<String> {
    let stated = stated_hosts(settings, session).filter_map(Listener::parse);
    let listeners: Vec<_> = stated.chain(settings.tcp.value.map(Listener::from)).collect();
    let is_of_api = |port| listeners.iter().any(|listener| listener.collides(&port));
    published.iter().find(|flag| PublishedPort::parse(flag).is_some_and(is_of_api)).cloned()
}

/// Returns the port that rootlesskit has to publish for `daemon.tcp`, if it has to.
pub(super) fn publish(
    settings: &Settings,
    detach_netns: bool,
    port_driver: &PortDriver,
) -> Option<String> {
    let address = settings.tcp.value.filter(|_| !detach_netns)?;
    let port = address.port();
    match port_driver {
        // pasta forwards every port that is open inside.
        PortDriver::Implicit => None,
        // From rootlesskit 2.3.2 on it would connect inside to the host's address.
        PortDriver::Builtin => Some(format!("{address}:127.0.0.1:{port}/tcp")),
        _ => Some(format!("{address}:{port}/tcp")),
    }
}

/// How a port of the host leads to dockerd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ports {
    /// dockerd is on the host itself.
    None,
    /// rootlesskit connects inside, from 127.0.0.1.
    #[default]
    FromInside,
    /// Packets arrive at the namespace's interface.
    FromOutside,
    /// The same, and without being asked: pasta forwards every port that is open inside.
    All,
}

/// Returns where dockerd listens for `daemon.tcp`.
fn own_listener(address: SocketAddr, link: &Link) -> SocketAddr {
    let inside = match link.ports {
        Ports::None => return address,
        Ports::FromInside => Ipv4Addr::LOCALHOST,
        Ports::All if address.ip().is_loopback() => return address,
        Ports::FromOutside | Ports::All => Ipv4Addr::UNSPECIFIED,
    };
    (inside, address.port()).into()
}

/// Returns the arguments that say where dockerd listens, and why. It takes the passed sockets:
/// without them it would bind a socket of its own over the manager's, and clients that are connected
/// there would wait for ever.
pub(super) fn hosts(
    settings: &Settings,
    session: &Session,
    link: &Link,
) -> Result<Option<(Vec<OsString>, Reason)>, Error> {
    let json = session.places.daemon_json.display();
    let in_json = session.daemon_json.may_set("hosts");
    let socket = if settings.args().has("host") {
        Err("dockerd's arguments have -H".to_owned())
    } else if in_json {
        Err(format!("`{json}` sets hosts, or cannot be read, and must name fd://"))
    } else {
        Ok(match &session.listen_fds {
            Some(fds) if fds.is_own => {
                let why = "the supervisor keeps the socket while the daemon restarts";
                ("fd://".into(), why.to_owned())
            }
            Some(fds) => {
                let why = format!("the service manager passes {} socket(s)", fds.count);
                ("fd://".into(), why)
            }
            None => {
                let socket = unix_url(&api_socket(&session.places.runtime_dir));
                (socket, "daemon.tcp would replace the socket".to_owned())
            }
        })
    };
    let Some(address) = settings.tcp.value else {
        return Ok(session.listen_fds.is_some().then(|| match socket {
            Ok((socket, why)) => {
                let reason = Reason::new("hosts", &socket, why);
                (vec!["-H".into(), socket], reason)
            }
            Err(why) => (Vec::new(), Reason::new("hosts", "as given", why)),
        }));
    };
    if in_json {
        let what = format!("daemon.tcp is set, and `{json}` sets hosts, or cannot be read");
        let origin = &settings.tcp.origin;
        let hint =
            format!("name all of them there, and: {}", origin.take_back("daemon.tcp", "none"));
        return Err(Error::new(Exit::Config, what).hint(hint));
    }
    let ip = address.ip();
    if link.ports == Ports::All && !ip.is_loopback() && !ip.is_unspecified() {
        let what = format!(
            "daemon.tcp is {address}, and pasta opens the port on every address of the host"
        );
        let every = format!("0.0.0.0:{}", address.port());
        let hint = settings.tcp.origin.take_back("daemon.tcp", &every);
        return Err(Error::new(Exit::Config, what).hint(format!("if you want that: {hint}")));
    }
    Ok(Some(with_tcp(settings, session, link, address, socket.ok())))
}

/// Returns the arguments for `daemon.tcp`, beside those for the `socket` that is not stated.
fn with_tcp(
    settings: &Settings,
    session: &Session,
    link: &Link,
    address: SocketAddr,
    socket: Option<(OsString, String)>,
) -> (Vec<OsString>, Reason) {
    let host: OsString = format!("tcp://{}", own_listener(address, link)).into();
    let mut args: Vec<OsString> = Vec::new();
    for host in socket.map(|(socket, _)| socket).into_iter().chain([host]) {
        args.extend(["-H".into(), host]);
    }
    if tls_stated(settings, session).is_none() {
        args.push(if settings.tcp_insecure.value { "--tls=false" } else { "--tlsverify" }.into());
    }
    let who = match link.ports {
        Ports::None => "dockerd itself listens on the host",
        Ports::All => "pasta forwards it",
        Ports::FromInside | Ports::FromOutside => "rootlesskit publishes it",
    };
    (
        args,
        Reason::new("daemon.tcp", address.to_string(), format!("{}; {who}", settings.tcp.origin)),
    )
}

/// Says whether the user wants clients to be verified, if that is stated.
fn tls_stated(settings: &Settings, session: &Session) -> Option<bool> {
    let (args, json) = (settings.args(), &session.daemon_json);
    let stated = |name: &str| args.switch(name).or_else(|| json.switch(name));
    // dockerd verifies with `--tls`, too, unless told not to.
    stated("tlsverify").or_else(|| stated("tls"))
}

/// Who reaches a listener.
enum Reach {
    Hosts,
    Users,
    Containers,
    Both,
}

fn reach(listener: &Listener, link: &Link) -> Option<Reach> {
    let is_open = matches!(link.ports, Ports::None | Ports::All);
    let published = link.published.iter().filter_map(|flag| PublishedPort::parse(flag));
    let published: Vec<_> = published
        .filter(|port| port.protocol == "tcp" && port.inside == listener.port)
        .map(|port| port.address.is_some_and(|address| address.is_loopback()))
        .collect();
    let is_local = match is_open {
        true => listener.is_loopback(),
        false => published.iter().all(|is_local| *is_local),
    };
    match (is_local, listener.is_loopback(), is_open || !published.is_empty()) {
        (false, ..) => Some(Reach::Hosts),
        (true, true, is_reached) => is_reached.then_some(Reach::Users),
        (true, false, true) => Some(Reach::Both),
        (true, false, false) => Some(Reach::Containers),
    }
}

/// Refuses a TCP port without TLS that other hosts reach, unless that is stated, and TLS without its
/// files; warns of a port without TLS that others reach.
pub(super) fn judge_tcp(
    settings: &Settings,
    session: &Session,
    link: &Link,
) -> Result<Vec<Warning>, Error> {
    let stated = tls_stated(settings, session);
    // `DOCKER_TLS_VERIFY` is for clients: dockerd still listens without TLS.
    let by_default = settings.tcp.value.is_some() && !settings.tcp_insecure.value;
    let own = settings.tcp.value.map(|address| own_listener(address, link).into());
    let listeners = stated_hosts(settings, session).filter_map(Listener::parse).chain(own);
    let mut warnings = Vec::new();
    for listener in listeners {
        if stated.unwrap_or(by_default) {
            refuse_missing_certificates(session)?;
            continue;
        }
        let Some(reach) = reach(&listener, link) else { continue };
        let who = match reach {
            Reach::Hosts => "other hosts",
            Reach::Users => "all users of this host",
            Reach::Containers => "containers",
            Reach::Both => "containers and all users of this host",
        };
        let port = listener.port;
        let what = format!(
            "{who} reach the API on TCP port {port} without --tlsverify, and can act as you"
        );
        // `--tls=false` is dockerd's own word for it.
        let is_allowed = settings.tcp_insecure.value || stated.is_some();
        if matches!(reach, Reach::Hosts) && !is_allowed {
            let hint = "name certificates with --tlsverify, or give dockerd --tls=false, or: \
                        dockerd-rootless config set daemon.tcp-insecure true";
            return Err(Error::new(Exit::Config, what).hint(hint));
        }
        warnings.push(Warning(what));
    }
    Ok(warnings)
}

fn refuse_missing_certificates(session: &Session) -> Result<(), Error> {
    let Some(path) = session.certificates.missing.first() else { return Ok(()) };
    let what = format!("the API on TCP needs `{}`, which does not exist", path.display());
    let hint = "make ca.pem, cert.pem and key.pem there, or name others with --tlscacert, \
                --tlscert and --tlskey";
    Err(Error::new(Exit::Config, what).hint(hint))
}
