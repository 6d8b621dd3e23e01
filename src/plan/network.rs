//! Decides drivers and MTUs, each with its reason, and refuses what rootlesskit would refuse.
//! Mirrors the defaults of upstream's `contrib/dockerd-rootless.sh`.

use std::ffi::OsStr;
use std::path::PathBuf;

use crate::error::{Error, Exit, Warning};
use crate::facts::{HostFacts, RootlesskitFacts, Tool, Tools, Version};
use crate::plan::source_ip::{self, Source};
use crate::plan::{Link, Ports, Reason, addresses, api, fixed, install_hint};
use crate::settings::{Choice, NetworkDriver, Number, Origin, PortDriver, Settings, Subnet};

/// dockerd runs with a detached network namespace from this version on (moby 84aedb8055).
const DETACH_NETNS_SINCE: Version = Version(29, 5, 0);

/// The network driver that a port driver needs.
const NEEDS: [(PortDriver, NetworkDriver); 4] = [
    (PortDriver::Implicit, NetworkDriver::Pasta),
    (PortDriver::Pesto, NetworkDriver::Pasta),
    (PortDriver::Slirp4netns, NetworkDriver::Slirp4netns),
    (PortDriver::GvisorTapVsock, NetworkDriver::GvisorTapVsock),
];

/// Why a launch is refused, as data: a sentence for people, and what to change for programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// One sentence, lowercase, without a full stop.
    pub what: String,
    /// The setting at fault, and a value that works.
    pub key: &'static str,
    pub instead: &'static str,
    origin: Origin,
    exit: Exit,
    /// The package of Debian that has the missing program.
    package: Option<&'static str>,
}

impl Refusal {
    fn setting(
        key: &'static str,
        origin: &Origin,
        instead: &'static str,
        what: impl Into<String>,
    ) -> Self {
        let (what, origin) = (what.into(), origin.clone());
        Self { what, key, instead, origin, exit: Exit::Config, package: None }
    }

    fn program(what: String, package: Option<&'static str>, origin: &Origin) -> Self {
        let refusal = Self::setting("network.driver", origin, "auto", what);
        Self { exit: Exit::Prerequisite, package, ..refusal }
    }

    /// Returns the error that says so.
    pub(super) fn error(self, tools: &Tools) -> Error {
        let Self { what, key, instead, origin, exit, package } = self;
        let install = package.map(|package| install_hint(tools, package));
        let is_stated = origin != Origin::Default;
        let back = (is_stated || install.is_none()).then(|| origin.take_back(key, instead));
        let ways: Vec<String> = install.into_iter().chain(back).collect();
        let is_of_ports = ["network.port-driver", "network.source-ip"].contains(&key);
        let check = if is_of_ports { "port-driver" } else { "network-driver" };
        let error = Error::new(exit, what).hint(ways.join(", or: ")).check(check);
        if is_stated { error.cause(format!("{key} comes from the {origin}")) } else { error }
    }
}

/// The namespace's network, as it is once rootlesskit has read the user's own flags behind ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    pub driver: NetworkDriver,
    pub port_driver: PortDriver,
    /// The MTU of the namespace's interface in bytes.
    pub mtu: u32,
    /// The addresses of the namespace's network, if they are known.
    pub subnet: Option<Subnet>,
    pub detach_netns: bool,
    /// Whether a process of its own carries the packets between the namespace and the host.
    pub has_helper: bool,
    /// The ports that rootlesskit publishes from its start on: the user's, and ours for the API.
    pub published: Vec<String>,
    /// What becomes of the addresses of clients.
    pub source: Source,
    /// The port that we have it publish for `daemon.tcp`.
    pub api_port: Option<String>,
    /// The flag of the user's that publishes a port at which dockerd listens.
    published_api: Option<String>,
    /// The reasons, in the order of the decisions.
    pub reasons: Vec<Reason>,
    /// The settings, and the user's own flags where they win.
    pub settings: Settings,
    /// Whether the user names the driver's program.
    has_binary: bool,
}

impl Network {
    /// Decides, or finds no network driver that can be used.
    pub fn decide(settings: &Settings, host: &HostFacts) -> Result<Self, Refusal> {
        let tools = &host.tools;
        let flags = tools.flags(settings);
        let published_api = api::published_by_user(settings, &host.session, &flags.published());
        let settings = settings.clone().with_flags(&flags);
        let (driver, driver_why) = match fixed(&settings.network_driver) {
            Some(decided) => decided,
            None => choose_driver(tools)?,
        };
        let (Number(mtu), mtu_why) = fixed(&settings.mtu)
            .unwrap_or_else(|| (Number(0), format!("the default for {}", driver.word().display())));
        let mtu = if mtu == 0 { default_mtu(&driver) } else { mtu };
        let (port_driver, port_why) = fixed(&settings.port_driver)
            .unwrap_or_else(|| choose_port_driver(&settings, host, &driver));
        let (source, source_reason) = Source::decide(&settings, host, &port_driver);
        let (detach_netns, detach_why) = fixed(&settings.detach_netns)
            .unwrap_or_else(|| choose_detach_netns(tools, published_api.as_deref()));
        let api_port =
            api::publish(&settings, detach_netns, &port_driver).filter(|_| published_api.is_none());
        // What rootlesskit takes and we cannot read is not guessed at.
        let is_unread = flags.has("cidr") && !matches!(settings.cidr.origin, Origin::Flag(_));
        let chosen = addresses::choose(&settings, host, &driver).filter(|_| !is_unread);
        let (subnet, cidr_why) = chosen.unzip();
        let mut reasons = vec![
            Reason::new("network.driver", driver.word(), driver_why),
            Reason::new("network.mtu", mtu.to_string(), mtu_why),
            Reason::new("network.port-driver", port_driver.word(), port_why),
            source_reason,
            Reason::new("network.detach-netns", detach_netns.to_string(), detach_why),
        ];
        reasons.extend(
            subnet
                .zip(cidr_why)
                .map(|(subnet, why)| Reason::new("network.cidr", subnet.to_string(), why)),
        );
        if detach_netns {
            let why = "containers with it reach the host's 127.0.0.1, whatever network.host-loopback says";
            reasons.push(Reason::new("docker run --net=host", "the host's", why));
        }
        Ok(Self {
            mtu,
            subnet,
            detach_netns,
            has_helper: matches!(
                driver,
                NetworkDriver::Slirp4netns | NetworkDriver::Pasta | NetworkDriver::Vpnkit
            ),
            published: flags.published().into_iter().chain(api_port.clone()).collect(),
            source,
            api_port,
            published_api,
            reasons,
            has_binary: flags.has(&format!("{}-binary", driver.word().display())),
            settings,
            driver,
            port_driver,
        })
    }

    /// Whether we give rootlesskit `--detach-netns`; the user's own flag needs none beside it.
    pub(super) fn adds_detach_netns(&self) -> bool {
        self.detach_netns && !matches!(self.settings.detach_netns.origin, Origin::Flag(_))
    }

    /// Returns the network that we give rootlesskit by `--cidr`: what is stated, or not usual.
    pub(super) fn added_cidr(&self) -> Option<Subnet> {
        let is_flag = matches!(self.settings.cidr.origin, Origin::Flag(_));
        let is_usual = self.settings.cidr.value == Choice::Auto
            && self.subnet == addresses::usual(&self.driver);
        self.subnet.filter(|_| !is_flag && !is_usual)
    }

    /// Warns of addresses that `auto` has moved.
    pub(super) fn moved(&self) -> Option<Warning> {
        let reason = self.reasons.iter().find(|reason| reason.key == "network.cidr")?;
        let is_auto = self.settings.cidr.value == Choice::Auto;
        addresses::moved(self.subnet, &self.driver, &reason.why).filter(|_| is_auto)
    }

    /// Returns what dockerd must know of it.
    pub fn link(&self) -> Link {
        let Self { mtu, subnet, .. } = *self;
        let published = self.published.clone();
        let ports = match self.port_driver {
            _ if self.detach_netns => Ports::None,
            PortDriver::Builtin => Ports::FromInside,
            PortDriver::Implicit => Ports::All,
            _ => Ports::FromOutside,
        };
        let is_open = self.settings.host_loopback.value;
        let host = addresses::host_address(&self.driver, subnet).filter(|_| is_open);
        Link { mtu, subnet, host, ports, published }
    }

    /// Warns of a driver that neither we nor rootlesskit's `--help` can judge.
    pub(super) fn unknown_driver(&self, tools: &Tools) -> Option<Warning> {
        let NetworkDriver::Other(name) = &self.driver else { return None };
        let name = name.display();
        let what = format!("network driver `{name}` is unknown to us; rootlesskit decides");
        tools.rootlesskit.known().is_none().then_some(Warning(what))
    }

    /// Says what keeps this dockerd from starting with the network, as far as is known.
    pub(super) fn old_dockerd(&self, tools: &Tools) -> Option<Refusal> {
        let version = tools.dockerd.known().and_then(|facts| facts.version)?;
        let is_too_old = self.detach_netns && version < DETACH_NETNS_SINCE;
        let what = format!(
            "the network namespace is detached, and dockerd {version} does not start in that \
             ({DETACH_NETNS_SINCE} and later do)"
        );
        let origin = &self.settings.detach_netns.origin;
        is_too_old.then(|| Refusal::setting("network.detach-netns", origin, "auto", what))
    }

    /// Refuses what this rootlesskit would refuse later, or would fail over in silence, and a dockerd
    /// that does not start, which a supervisor would start again and again.
    pub(super) fn refuse_impossible(&self, tools: &Tools, supervised: bool) -> Result<(), Refusal> {
        self.refuse_network(tools)?;
        self.refuse_ports(tools)?;
        self.refuse_missing_program(tools)?;
        self.old_dockerd(tools).filter(|_| supervised).map_or(Ok(()), Err)
    }

    /// The part of [`Self::refuse_impossible`] that is about the network alone.
    pub fn refuse_network(&self, tools: &Tools) -> Result<(), Refusal> {
        let Settings { network_driver, detach_netns, slirp4netns_sandbox, ipv6, .. } =
            &self.settings;
        let refuse_driver = |what: String| {
            Err(Refusal::setting("network.driver", &network_driver.origin, "auto", what))
        };
        if self.driver == NetworkDriver::Host {
            let what = "network driver `host` gives dockerd no network namespace, in which it may \
                        not set up a bridge (`docker run --net=host` needs network.detach-netns)";
            return refuse_driver(what.to_owned());
        }
        if let Some(facts) = tools.rootlesskit.known() {
            let (name, word) = (name_of(facts), self.driver.word());
            if let Some(what) = unknown_to(&name, &facts.network_drivers, "network", word) {
                return refuse_driver(what);
            }
            if self.adds_detach_netns() && !facts.flags.contains_key("detach-netns") {
                let what = format!("{name} does not know `--detach-netns` (2.0 and later do)");
                return Err(Refusal::setting(
                    "network.detach-netns",
                    &detach_netns.origin,
                    "auto",
                    what,
                ));
            }
        }
        if let Some(port) = self.published_api.as_ref().filter(|_| self.detach_netns) {
            let what = format!(
                "the network namespace is detached, so dockerd itself listens on the host, and \
                 rootlesskit.flags publish the same port: {port}"
            );
            let key = "network.detach-netns";
            return Err(Refusal::setting(key, &detach_netns.origin, "auto", what));
        }
        let has_sandbox = slirp4netns_sandbox.value == Choice::Fixed(true);
        if self.driver == NetworkDriver::Slirp4netns && self.detach_netns && has_sandbox {
            let key = "network.slirp4netns-sandbox";
            let what =
                format!("{key} `true` does not go with network.detach-netns (slirp4netns#317)");
            return Err(Refusal::setting(key, &slirp4netns_sandbox.origin, "auto", what));
        }
        let Settings { cidr, .. } = &self.settings;
        let has_cidr = matches!(cidr.value, Choice::Fixed(_));
        // rootlesskit judges drivers that we do not know.
        let is_known = !matches!(self.driver, NetworkDriver::Other(_));
        if has_cidr && is_known && !addresses::takes_cidr(&self.driver) {
            let driver = self.driver.word().display();
            let what = format!("network driver `{driver}` does not take network.cidr");
            return Err(Refusal::setting("network.cidr", &cidr.origin, "auto", what));
        }
        if self.driver == NetworkDriver::GvisorTapVsock && ipv6.value {
            let what = "network driver `gvisor-tap-vsock` has no IPv6";
            return Err(Refusal::setting("network.ipv6", &ipv6.origin, "false", what));
        }
        Ok(())
    }

    /// The part of [`Self::refuse_impossible`] that is about ports.
    pub fn refuse_ports(&self, tools: &Tools) -> Result<(), Refusal> {
        let (net, port) = (self.driver.word().display(), self.port_driver.word());
        let unknown = |facts: &RootlesskitFacts| {
            unknown_to(&name_of(facts), &facts.port_drivers, "port", port)
        };
        let needed =
            NEEDS.iter().find(|(own, needed)| *own == self.port_driver && *needed != self.driver);
        let port = port.display();
        let what = if let Some(unknown) = tools.rootlesskit.known().and_then(unknown) {
            unknown
        } else if let Some((_, needed)) = needed {
            let needed = needed.word().display();
            format!("port driver `{port}` needs network driver `{needed}`, not `{net}`")
        } else if self.port_driver == PortDriver::Builtin && self.driver == NetworkDriver::Pasta {
            format!("port driver `{port}` does not go with network driver `{net}`")
        } else {
            return self.refuse_source();
        };
        Err(Refusal::setting(
            "network.port-driver",
            &self.settings.port_driver.origin,
            "auto",
            what,
        ))
    }

    /// Refuses to lose the addresses of clients that the user wants to keep. Another port driver may keep
    /// them.
    pub(super) fn refuse_source(&self) -> Result<(), Refusal> {
        let Some(what) = self.source.refused.clone() else { return Ok(()) };
        let Settings { port_driver, source_ip, .. } = &self.settings;
        let keeps = [NetworkDriver::Slirp4netns, NetworkDriver::Pasta].contains(&self.driver);
        Err(match port_driver.value != Choice::Auto && keeps {
            true => Refusal::setting("network.port-driver", &port_driver.origin, "auto", what),
            false => {
                let what = format!("{what} (network drivers slirp4netns and pasta keep it)");
                Refusal::setting("network.source-ip", &source_ip.origin, "auto", what)
            }
        })
    }

    /// Refuses a driver whose program is not installed.
    pub fn refuse_missing_program(&self, tools: &Tools) -> Result<(), Refusal> {
        let (is_absent, package) = match self.driver {
            NetworkDriver::Slirp4netns => (tools.slirp4netns == Tool::Absent, Some("slirp4netns")),
            NetworkDriver::Pasta => (tools.pasta.is_none(), Some("passt")),
            NetworkDriver::LxcUserNic => (tools.lxc_user_nic.is_none(), Some("lxc")),
            NetworkDriver::Vpnkit => (tools.vpnkit.is_none(), None),
            _ => (false, None),
        };
        if !is_absent || self.has_binary {
            return Ok(());
        }
        let name = self.driver.word().display();
        let what = format!("network driver `{name}` is chosen, but `{name}` is not installed");
        Err(Refusal::program(what, package, &self.settings.network_driver.origin))
    }
}

/// Says that the rootlesskit of this `name` lacks the driver `word` among its `own`.
fn unknown_to(name: &str, own: &[String], kind: &str, word: &OsStr) -> Option<String> {
    if own.is_empty() || own.iter().any(|own| word == own.as_str()) {
        return None;
    }
    // `host` is known, and would be refused next.
    let offered: Vec<_> = own.iter().map(String::as_str).filter(|name| *name != "host").collect();
    let (word, offered) = (word.display(), offered.join(", "));
    Some(format!("{name} does not know {kind} driver `{word}`, only {offered}"))
}

fn name_of(rootlesskit: &RootlesskitFacts) -> String {
    let version = rootlesskit.version;
    version.map_or_else(|| "rootlesskit".to_owned(), |version| format!("rootlesskit {version}"))
}

/// The MTU in bytes that rootlesskit gives to `driver` by default.
fn default_mtu(driver: &NetworkDriver) -> u32 {
    match driver {
        NetworkDriver::Slirp4netns | NetworkDriver::Pasta | NetworkDriver::GvisorTapVsock => 65520,
        _ => 1500,
    }
}

/// Returns the port driver that goes with `driver`, and why.
fn choose_port_driver(
    settings: &Settings,
    host: &HostFacts,
    driver: &NetworkDriver,
) -> (PortDriver, String) {
    let keeps_address = source_ip::choose_driver(settings, host);
    if let Some(chosen) = keeps_address.filter(|_| *driver == NetworkDriver::Slirp4netns) {
        return chosen;
    }
    let (chosen, why) = match driver {
        NetworkDriver::Pasta => (PortDriver::Implicit, "pasta forwards ports by itself"),
        _ => (PortDriver::Builtin, "the fastest that works with every network driver"),
    };
    (chosen, why.to_owned())
}

/// Returns the first network driver that is installed and known, in upstream's order, and why.
fn choose_driver(tools: &Tools) -> Result<(NetworkDriver, String), Refusal> {
    let rootlesskit = tools.rootlesskit.known();
    // A rootlesskit that cannot be asked surely knows the drivers that it has had since 0.14.
    let knows = |name: &OsStr| match rootlesskit {
        Some(facts) if !facts.network_drivers.is_empty() => {
            facts.network_drivers.iter().any(|driver| name == driver.as_str())
        }
        _ => name == "slirp4netns" || name == "vpnkit",
    };
    let in_path = |name: &str, path: &Option<PathBuf>| match path {
        Some(path) => Ok(format!("{name} is at {}", path.display())),
        None => Err(format!("no {name} in PATH")),
    };
    let candidates = [
        (NetworkDriver::Slirp4netns, judge_slirp4netns(tools)),
        (NetworkDriver::Pasta, in_path("pasta", &tools.pasta)),
        (NetworkDriver::Vpnkit, in_path("vpnkit", &tools.vpnkit)),
    ];
    let mut passed_over = Vec::new();
    for (driver, judged) in candidates {
        match judged {
            Ok(why) if knows(driver.word()) => {
                passed_over.insert(0, why);
                return Ok((driver, passed_over.join("; ")));
            }
            Ok(_) => {
                let unknown = match rootlesskit {
                    Some(_) => "this rootlesskit does not know",
                    None => "it is not known whether rootlesskit knows",
                };
                passed_over.push(format!("{unknown} {}", driver.word().display()));
            }
            Err(why_not) => passed_over.push(why_not),
        }
    }
    let passed_over = passed_over.join("; ");
    if knows(NetworkDriver::GvisorTapVsock.word()) {
        let why = format!("it is part of this rootlesskit; {passed_over}");
        return Ok((NetworkDriver::GvisorTapVsock, why));
    }
    let what = format!("no network driver can be used: {passed_over}");
    Err(Refusal::program(what, Some("slirp4netns"), &Origin::Default))
}

/// Says why slirp4netns can be used, or why not.
fn judge_slirp4netns(tools: &Tools) -> Result<String, String> {
    let path = tools.slirp4netns.path().ok_or("no slirp4netns in PATH")?.display();
    match tools.slirp4netns.known() {
        Some(facts) if facts.netns_type => {
            let version = facts.version.map_or_else(String::new, |version| format!(" {version}"));
            Ok(format!("slirp4netns{version} at {path} has --netns-type"))
        }
        Some(_) => {
            Err(format!("slirp4netns at {path} is older than 0.4.0: it has no --netns-type"))
        }
        None => Err(format!("slirp4netns at {path} cannot be asked")),
    }
}

/// Decides whether to detach the network namespace, and why.
fn choose_detach_netns(tools: &Tools, published_api: Option<&str>) -> (bool, String) {
    let has_flag = tools.rootlesskit.known().map(|facts| facts.flags.contains_key("detach-netns"));
    let dockerd = tools.dockerd.known().and_then(|facts| facts.version);
    if let (Some(true), Some(port)) = (has_flag, published_api) {
        let why = format!("rootlesskit publishes the API's port, as rootlesskit.flags say: {port}");
        return (false, why);
    }
    let why_not = match (has_flag, dockerd) {
        (Some(true), Some(version)) if version >= DETACH_NETNS_SINCE => {
            let why = format!("this rootlesskit has --detach-netns and dockerd is {version}");
            return (true, why);
        }
        (None, _) => "it is not known whether this rootlesskit has --detach-netns".to_owned(),
        (Some(false), _) => "this rootlesskit has no --detach-netns".to_owned(),
        (_, None) => match &tools.dockerd {
            Tool::Unknown { why, .. } => format!("the version of dockerd is not known: {why}"),
            _ => "the version of dockerd is not known".to_owned(),
        },
        (_, Some(version)) => format!("dockerd {version} is older than {DETACH_NETNS_SINCE}"),
    };
    (false, why_not)
}
