//! What the user asked for: five layers (defaults, the system's file, the user's file, the
//! environment, the command line) resolved into one [`Settings`], in which every value remembers
//! where it came from.
#![forbid(unsafe_code)]

mod args;
mod edit;
mod layer;
mod subnet;
mod value;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::error::{Error, Exit, Warning};
pub use args::{Flags, PublishedPort, assignment, flag_of, split_assignment};
pub use edit::{Edited, edit};
pub use layer::{Layer, Origin};
pub use subnet::Subnet;
pub use value::{
    Choice, Input, Iptables, Mtu, NetworkDriver, Number, OnHang, PortDriver, Propagation, ProxyUrl,
    Seconds, SourceIp, Value,
};

/// The system's configuration file.
pub const SYSTEM_CONFIG: &str = "/etc/dockerd-rootless/config.toml";

/// A value and the place that it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sourced<T> {
    pub value: T,
    pub origin: Origin,
}

/// What is known of a key apart from its value.
#[derive(Debug)]
pub struct Key {
    /// The name in TOML: `section.key`.
    pub name: &'static str,
    /// The variables that set it; the first that is set counts.
    pub variables: &'static [&'static str],
    pub summary: &'static str,
    /// The allowed values.
    pub expected: &'static str,
    pub default: &'static str,
}

impl Key {
    /// Returns the name of its section.
    pub fn section(&self) -> &'static str {
        self.name.split('.').next().unwrap_or_default()
    }

    /// Returns the key called `name`, or a hint: the key that is meant, or where to find the keys.
    pub fn find(name: &str) -> Result<&'static Self, String> {
        if let Some(key) = KEYS.iter().find(|key| key.name == name) {
            return Ok(key);
        }
        let last = |name: &str| name.rsplit('.').next().unwrap_or_default().replace('_', "-");
        let distance = |key: &&Self| match last(key.name) == last(name) {
            true => 0,
            false => strsim::levenshtein(key.name, name),
        };
        let near = KEYS.iter().min_by_key(distance).filter(|key| distance(key) <= 2);
        Err(near.map_or_else(
            || "`dockerd-rootless config show` lists the keys".to_owned(),
            |key| format!("did you mean `{}`?", key.name),
        ))
    }
}

macro_rules! settings {
    ($($field:ident: $kind:ty = $name:literal, [$($variable:literal),*], $default:expr, $default_text:literal, $summary:literal;)+) => {
        /// Every setting, valid, with its origin.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Settings {
            $(#[doc = $summary] pub $field: Sourced<$kind>,)+
            /// All of dockerd's arguments: those of `daemon.args`, then those of the command line.
            pub dockerd_args: Vec<OsString>,
            /// What is odd about the values without being wrong.
            pub warnings: Vec<Warning>,
        }

        /// The keys in the order of the documentation.
        pub const KEYS: &[Key] = &[$(Key {
            name: $name,
            variables: &[$($variable),*],
            summary: $summary,
            expected: <$kind as Value>::EXPECTED,
            default: $default_text,
        }),+];

        impl Settings {
            /// Joins `layers`, lowest first. Every value of every layer must be valid, also one
            /// that a higher layer hides.
            pub fn resolve(layers: &[Layer]) -> Result<Self, Error> {
                let mut settings = Self {
                    $($field: resolve_key(layers, $name, || $default)?,)+
                    dockerd_args: Vec::new(),
                    warnings: layers.iter().flat_map(|layer| layer.warnings.iter().cloned()).collect(),
                };
                settings.dockerd_args.clone_from(&settings.daemon_args.value);
                Ok(settings)
            }

            /// Key by key: the value in TOML syntax, if it has one, and its origin.
            pub fn show(&self) -> Vec<(&'static Key, Option<String>, &Origin)> {
                let shown = [$((self.$field.value.show(), &self.$field.origin)),+];
                KEYS.iter().zip(shown).map(|(key, (value, origin))| (key, value, origin)).collect()
            }
        }
    };
}

settings! {
    network_driver: Choice<NetworkDriver> = "network.driver", ["DOCKERD_ROOTLESS_ROOTLESSKIT_NET"],
        Choice::Auto, "auto: slirp4netns, else pasta, vpnkit, gvisor-tap-vsock, of those that are installed and that this rootlesskit knows",
        "The network driver of rootlesskit.";
    mtu: Choice<Mtu> = "network.mtu", ["DOCKERD_ROOTLESS_ROOTLESSKIT_MTU"],
        Choice::Auto, "auto: 65520 for slirp4netns, pasta and gvisor-tap-vsock, else 1500",
        "The MTU of the namespace's own interface in bytes; 0 leaves it to the driver.";
    container_mtu: Choice<Mtu> = "network.container-mtu", ["DOCKERD_ROOTLESS_CONTAINER_MTU"],
        Choice::Auto, "auto: the same as network.mtu",
        "The MTU of containers' networks in bytes, handed to dockerd unless it was given one; 0 leaves it to dockerd.";
    port_driver: Choice<PortDriver> = "network.port-driver", ["DOCKERD_ROOTLESS_ROOTLESSKIT_PORT_DRIVER"],
        Choice::Auto, "auto: implicit for pasta, else builtin",
        "The port driver of rootlesskit.";
    cidr: Choice<Subnet> = "network.cidr", ["DOCKERD_ROOTLESS_CIDR"],
        Choice::Auto, "auto: 10.0.2.0/24, or another where the host uses that itself",
        "The addresses of the namespace's own network (slirp4netns, pasta and gvisor-tap-vsock only).";
    source_ip: SourceIp = "network.source-ip", ["DOCKERD_ROOTLESS_SOURCE_IP"],
        SourceIp::Auto, "auto: kept where the port driver keeps it by itself",
        "Whether containers see the addresses of their clients; preserve does what is needed for it, or refuses to start.";
    slirp4netns_sandbox: Choice<bool> = "network.slirp4netns-sandbox", ["DOCKERD_ROOTLESS_ROOTLESSKIT_SLIRP4NETNS_SANDBOX"],
        Choice::Auto, "auto: rootlesskit decides",
        "Whether slirp4netns gets a mount namespace of its own.";
    slirp4netns_seccomp: Choice<bool> = "network.slirp4netns-seccomp", ["DOCKERD_ROOTLESS_ROOTLESSKIT_SLIRP4NETNS_SECCOMP"],
        Choice::Auto, "auto: rootlesskit decides",
        "Whether slirp4netns is confined by seccomp.";
    host_loopback: bool = "network.host-loopback", ["DOCKERD_ROOTLESS_ROOTLESSKIT_DISABLE_HOST_LOOPBACK"],
        false, "false",
        "Whether containers reach the host's 127.0.0.1 through the gateway; the variable says the opposite, and only its literal `false` opens it.";
    detach_netns: Choice<bool> = "network.detach-netns", ["DOCKERD_ROOTLESS_ROOTLESSKIT_DETACH_NETNS"],
        Choice::Auto, "auto: on when this rootlesskit has the flag and dockerd is 29.5 or later",
        "Whether the daemon stays in the host's network namespace and only containers use the detached one.";
    ipv6: bool = "network.ipv6", ["DOCKERD_ROOTLESS_IPV6"],
        false, "false",
        "Whether the namespace gets IPv6 routing (slirp4netns and pasta only).";
    rootlesskit_binary: Option<OsString> = "rootlesskit.binary", [],
        None, "docker-rootlesskit, else rootlesskit, from PATH",
        "The rootlesskit program: a path, or a name looked up in PATH.";
    state_dir: Option<OsString> = "rootlesskit.state-dir", ["DOCKERD_ROOTLESS_ROOTLESSKIT_STATE_DIR"],
        None, "$XDG_RUNTIME_DIR/dockerd-rootless",
        "rootlesskit's state directory. rootlesskit deletes it with all its contents: it must be new, empty, or left by rootlesskit.";
    copy_up: Vec<PathBuf> = "rootlesskit.copy-up", [],
        vec!["/etc".into(), "/run".into()], "[\"/etc\", \"/run\"]",
        "Directories that become writable inside the namespace.";
    propagation: Propagation = "rootlesskit.propagation", [],
        Propagation::Rslave, "rslave",
        "How mounts of the host reach the namespace.";
    rootlesskit_flags: Vec<OsString> = "rootlesskit.flags", ["DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS"],
        Vec::new(), "none",
        "Further flags of rootlesskit, behind ours; the variable is split into words as a shell does.";
    daemon_binary: OsString = "daemon.binary", ["DOCKERD"],
        OsString::from("dockerd"), "dockerd",
        "The daemon: a path, or a name looked up in PATH.";
    daemon_args: Vec<OsString> = "daemon.args", [],
        Vec::new(), "none",
        "Options of dockerd; those of the command line come after.";
    tcp: Option<SocketAddr> = "daemon.tcp", [],
        None, "none",
        "A TCP address of the API, with TLS: where clients on other hosts connect. dockerd listens there, or rootlesskit publishes it.";
    tcp_insecure: bool = "daemon.tcp-insecure", [],
        false, "false",
        "Whether the API may be on TCP without TLS where other hosts reach it: anyone who reaches it can act as you.";
    iptables: Iptables = "daemon.iptables", ["DOCKERD_ROOTLESS_IPTABLES"],
        Iptables::Auto, "auto: legacy where the namespace's kernel has it, else what PATH has",
        "Which iptables backend dockerd finds first in its PATH.";
    supervise: bool = "supervise.enable", ["DOCKERD_ROOTLESS_SUPERVISE_ENABLE"],
        true, "true",
        "Whether a supervisor stays, which keeps the daemon and its network alive; otherwise `run` becomes rootlesskit, as `run --exec` does.";
    idle_timeout: Seconds<0> = "supervise.idle-timeout", ["DOCKERD_ROOTLESS_SUPERVISE_IDLE_TIMEOUT"],
        Number(0), "0",
        "After how many seconds without containers and clients everything ends, until the service manager's socket is used again; 0 for never.";
    start_timeout: Seconds<1> = "supervise.start-timeout", ["DOCKERD_ROOTLESS_SUPERVISE_START_TIMEOUT"],
        Number(60), "60",
        "How many seconds rootlesskit may take until dockerd starts; a dockerd that takes longer to answer is only reported, as long as it works.";
    probe_interval: Seconds<1> = "supervise.probe-interval", ["DOCKERD_ROOTLESS_SUPERVISE_PROBE_INTERVAL"],
        Number(30), "30",
        "Every how many seconds the daemon is asked how it is.";
    keep_containers: Choice<bool> = "supervise.keep-containers", ["DOCKERD_ROOTLESS_SUPERVISE_KEEP_CONTAINERS"],
        Choice::Auto, "auto: true, unless live-restore is stated to be false, a swarm exists, or containerd is stated to be another's",
        "Whether containers keep running while dockerd is replaced (dockerd's live-restore).";
    on_hang: OnHang = "supervise.on-hang", ["DOCKERD_ROOTLESS_SUPERVISE_ON_HANG"],
        OnHang::Restart, "restart",
        "What follows when dockerd answers no request and does nothing at all for 30 seconds: dockerd alone is restarted, or it is only reported.";
    http_proxy: Option<ProxyUrl> = "proxy.http", ["HTTP_PROXY", "http_proxy"],
        None, "none",
        "The proxy of the daemon's own http requests.";
    https_proxy: Option<ProxyUrl> = "proxy.https", ["HTTPS_PROXY", "https_proxy"],
        None, "none",
        "The proxy of the daemon's own https requests.";
    no_proxy: Option<OsString> = "proxy.no", ["NO_PROXY", "no_proxy"],
        None, "none",
        "Hosts that are reached without a proxy, separated by commas.";
}

impl Settings {
    /// Adds dockerd's arguments of the command line.
    pub fn with_args(mut self, args: &[OsString]) -> Self {
        self.dockerd_args.extend_from_slice(args);
        self
    }

    /// Reads dockerd's arguments, all that the user gave.
    pub fn args(&self) -> Flags<'_> {
        Flags::of_dockerd(&self.dockerd_args)
    }

    /// Returns the settings as rootlesskit has them: the user's own `flags` come after ours and win.
    pub fn with_flags(mut self, flags: &Flags<'_>) -> Self {
        override_by(&mut self.network_driver, flags, "--net");
        override_by(&mut self.mtu, flags, "--mtu");
        override_by(&mut self.cidr, flags, "--cidr");
        override_by(&mut self.port_driver, flags, "--port-driver");
        override_by(&mut self.slirp4netns_sandbox, flags, "--slirp4netns-sandbox");
        // Those without a value of their own: Go reads more words for true and false than we do.
        if let Some(value) = flags.switch("detach-netns") {
            let (value, origin) = (Choice::Fixed(value), Origin::Flag("--detach-netns"));
            self.detach_netns = Sourced { value, origin };
        }
        if let Some(value) = flags.switch("disable-host-loopback") {
            let origin = Origin::Flag("--disable-host-loopback");
            self.host_loopback = Sourced { value: !value, origin };
        }
        if let Some(value) = flags.switch("ipv6") {
            self.ipv6 = Sourced { value, origin: Origin::Flag("--ipv6") };
        }
        self
    }

    /// Whether `directory` becomes writable inside the namespaces.
    pub fn copies_up(&self, directory: &str) -> bool {
        self.copy_up.value.iter().any(|path| path == Path::new(directory))
    }
}

/// Replaces a setting by what `flag` says, if it is given.
fn override_by<T: Value>(setting: &mut Sourced<T>, flags: &Flags<'_>, flag: &'static str) {
    let word = flags.value(flag.trim_start_matches('-'));
    if let Some(Ok(value)) = word.map(|word| T::read(&Input::Text(word.to_owned()))) {
        *setting = Sourced { value, origin: Origin::Flag(flag) };
    }
}

/// Returns what `layers`, lowest first, say on the key called `name`, and where.
pub fn statements<'a>(
    layers: &'a [Layer],
    name: &'a str,
) -> impl Iterator<Item = &'a (Input, Origin)> {
    layers.iter().filter_map(move |layer| layer.values.get(name))
}

/// Returns what a layer says of the key called `name`, for people. A proxy's address may hold a
/// password.
pub fn shown(name: &str, input: &Input) -> String {
    match name {
        "proxy.http" | "proxy.https" => "a value that is not shown".to_owned(),
        _ => input.describe(),
    }
}

/// Reads every layer's say on `name` and keeps the highest.
fn resolve_key<T: Value>(
    layers: &[Layer],
    name: &str,
    default: impl FnOnce() -> T,
) -> Result<Sourced<T>, Error> {
    let mut winner = None;
    for (input, origin) in statements(layers, name) {
        let wrong = |reason: Option<String>| {
            let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
            let what = format!("expected {}, got {}{reason}", T::EXPECTED, shown(name, input));
            wrong_value(name, origin, &what)
        };
        winner = Some(Sourced { value: T::read(input).map_err(wrong)?, origin: origin.clone() });
    }
    Ok(winner.unwrap_or_else(|| Sourced { value: default(), origin: Origin::Default }))
}

/// Returns the error for a value of the key called `name` that is not allowed.
fn wrong_value(name: &str, origin: &Origin, what: &str) -> Error {
    let explain = format!("dockerd-rootless config explain {name}");
    let (place, hint) = match origin {
        Origin::Variable(variable) => (format!("`{variable}`"), format!("unset {variable}")),
        Origin::File(path, _) if path == Path::new(SYSTEM_CONFIG) => {
            (format!("{origin}: `{name}`"), explain)
        }
        Origin::File(..) => {
            (format!("{origin}: `{name}`"), format!("dockerd-rootless config unset {name}"))
        }
        // A word of `--set` or of `config set`.
        _ => (format!("`{name}`"), explain),
    };
    Error::new(Exit::Config, format!("{place}: {what}")).hint(hint)
}

#[cfg(test)]
mod tests;
