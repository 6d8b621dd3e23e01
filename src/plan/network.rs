//! Decides drivers and MTUs, each with its reason, and refuses what rootlesskit would refuse.
//! Mirrors the defaults of upstream's `contrib/dockerd-rootless.sh`.

use std::ffi::{OsStr, OsString};

use crate::error::Warning;
use crate::facts::{RootlesskitFacts, Slirp4netnsFacts, Tool, Tools, Version};
use crate::plan::refusal::{Fault, Refusal};
use crate::plan::{Reason, number};
use crate::settings::{
    Choice, Flags, Input, Mtu, NetworkDriver, Origin, PortDriver, Settings, Sourced, Value,
};

/// dockerd runs with a detached network namespace from this version on (moby 84aedb8055).
const DETACH_NETNS_SINCE: Version = Version(29, 5, 0);

/// The network driver that a port driver needs.
const NEEDS: [(PortDriver, NetworkDriver); 4] = [
    (PortDriver::Implicit, NetworkDriver::Pasta),
    (PortDriver::Pesto, NetworkDriver::Pasta),
    (PortDriver::Slirp4netns, NetworkDriver::Slirp4netns),
    (PortDriver::GvisorTapVsock, NetworkDriver::GvisorTapVsock),
];

/// The namespace's network, as it is once rootlesskit has read the user's own flags behind ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    pub driver: NetworkDriver,
    pub port_driver: PortDriver,
    /// The MTU of the namespace's interface in bytes.
    pub mtu: u32,
    pub detach_netns: bool,
    pub ipv6: bool,
    /// slirp4netns's sandbox: `true`, `false` or `auto`.
    pub sandbox: OsString,
    /// Whether a process of its own carries the packets between the namespace and the host.
    pub has_helper: bool,
    /// The ports that the user has rootlesskit publish.
    pub published: Vec<String>,
    /// The reasons, in the order of the decisions.
    pub reasons: Vec<Reason>,
    origins: Origins,
}

/// Where the values stand that may be refused.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origins {
    driver: Origin,
    port_driver: Origin,
    detach_netns: Origin,
    ipv6: Origin,
    sandbox: Origin,
    /// Whether the user names the driver's program himself.
    has_binary: bool,
}

impl Network {
    /// Decides, or finds no network driver that can be used.
    pub fn decide(settings: &Settings, tools: &Tools) -> Result<Self, Refusal> {
        let flags = tools.flags(settings);
        let given = by_flag(&flags, "net");
        let (driver, driver_from, driver_why) =
            settle(given, "--net", &settings.network_driver, || choose_driver(tools))?;
        let given = by_flag(&flags, "mtu");
        let (Mtu(mtu), _, mtu_why) = settle(given, "--mtu", &settings.mtu, || {
            Ok((Mtu(0), format!("the default for {}", driver.word().display())))
        })?;
        let mtu = if mtu == 0 { default_mtu(&driver) } else { mtu };
        let given = by_flag(&flags, "port-driver");
        let (port_driver, port_from, port_why) =
            settle(given, "--port-driver", &settings.port_driver, || {
                Ok(match driver {
                    NetworkDriver::Pasta => {
                        (PortDriver::Implicit, "pasta forwards ports by itself".to_owned())
                    }
                    _ => (
                        PortDriver::Builtin,
                        "the fastest that works with every network driver".to_owned(),
                    ),
                })
            })?;
        let (detach_netns, detach_from, detach_why) = decide_detach_netns(settings, tools, &flags);
        let by_flag = flags.value("slirp4netns-sandbox");
        let sandbox = by_flag.unwrap_or(OsStr::new(settings.slirp4netns_sandbox.value.word()));
        let reasons = vec![
            Reason::new("network.driver", driver.word(), driver_why),
            Reason::new("network.mtu", &number(mtu), mtu_why),
            Reason::new("network.port-driver", port_driver.word(), port_why),
            Reason::new("network.detach-netns", detach_netns.to_string().as_ref(), detach_why),
        ];
        let of = |flag: &'static str, origin: &Origin| match flags.has(&flag[2..]) {
            true => Origin::Flag(flag),
            false => origin.clone(),
        };
        let binary = format!("{}-binary", driver.word().display());
        Ok(Self {
            mtu,
            detach_netns,
            ipv6: flags.switch("ipv6").unwrap_or(settings.ipv6.value),
            sandbox: sandbox.to_owned(),
            has_helper: matches!(
                driver,
                NetworkDriver::Slirp4netns | NetworkDriver::Pasta | NetworkDriver::Vpnkit
            ),
            published: flags.published(),
            reasons,
            origins: Origins {
                driver: driver_from,
                port_driver: port_from,
                detach_netns: detach_from,
                ipv6: of("--ipv6", &settings.ipv6.origin),
                sandbox: of("--slirp4netns-sandbox", &settings.slirp4netns_sandbox.origin),
                has_binary: flags.has(&binary),
            },
            driver,
            port_driver,
        })
    }

    /// Whether we give rootlesskit `--detach-netns`; the user's own flag needs none beside it.
    pub(super) fn adds_detach_netns(&self) -> bool {
        self.detach_netns && !matches!(self.origins.detach_netns, Origin::Flag(_))
    }

    /// Returns what is odd: values that we cannot judge, or that have no effect or a bad one.
    pub fn warnings(&self, tools: &Tools) -> Vec<Warning> {
        let name = self.driver.word().display();
        let is_other = matches!(self.driver, NetworkDriver::Other(_));
        let has_ipv6 =
            is_other || matches!(self.driver, NetworkDriver::Slirp4netns | NetworkDriver::Pasta);
        let unknown = (is_other && tools.rootlesskit.known().is_none())
            .then(|| format!("network driver `{name}` is unknown to us; rootlesskit decides"));
        let ipv6 = (self.ipv6 && !has_ipv6)
            .then(|| format!("network.ipv6 has no effect with network driver `{name}`"));
        let warnings = unknown.into_iter().chain(ipv6).chain(self.fault_of_dockerd(tools));
        warnings.map(Warning).collect()
    }

    /// What keeps this dockerd from working with the network, as far as is known.
    fn fault_of_dockerd(&self, tools: &Tools) -> Option<String> {
        let version = tools.dockerd.known().and_then(|facts| facts.version)?;
        let is_too_old = self.detach_netns && version < DETACH_NETNS_SINCE;
        is_too_old.then(|| {
            format!(
                "the network namespace is detached, and dockerd {version} does not start in that \
                 ({DETACH_NETNS_SINCE} and later do)"
            )
        })
    }

    /// Refuses a network with which this dockerd would not start: a supervisor would start it
    /// again and again.
    pub fn refuse_old_dockerd(&self, tools: &Tools) -> Result<(), Refusal> {
        match self.fault_of_dockerd(tools) {
            None => Ok(()),
            Some(fault) => {
                refuse("network.detach-netns", &self.origins.detach_netns, "auto", fault)
            }
        }
    }

    /// Refuses what this rootlesskit would refuse later, or would fail over in silence.
    pub fn refuse_impossible(&self, tools: &Tools) -> Result<(), Refusal> {
        self.refuse_network(tools)?;
        self.refuse_ports(tools)?;
        self.refuse_missing_program(tools)
    }

    /// The part of [`Self::refuse_impossible`] that is about the network alone.
    pub fn refuse_network(&self, tools: &Tools) -> Result<(), Refusal> {
        let Origins { driver: from, detach_netns, ipv6, sandbox, .. } = &self.origins;
        if self.driver == NetworkDriver::Host {
            let what = "network driver `host` gives dockerd no network namespace, in which it may \
                        not set up a bridge (`docker run --net=host` needs network.detach-netns)";
            return refuse("network.driver", from, "auto", what.to_owned());
        }
        if let Some(rootlesskit) = tools.rootlesskit.known() {
            if let Some(what) =
                unknown_to(rootlesskit, "network", self.driver.word(), &rootlesskit.network_drivers)
            {
                return refuse("network.driver", from, "auto", what);
            }
            if self.adds_detach_netns() && !rootlesskit.flags.contains_key("detach-netns") {
                let version = version_of(rootlesskit);
                let what = format!(
                    "rootlesskit{version} does not know `--detach-netns` (2.0 and later do), which \
                     network.detach-netns asks for"
                );
                return refuse("network.detach-netns", detach_netns, "auto", what);
            }
        }
        if self.driver == NetworkDriver::Slirp4netns && self.detach_netns && self.sandbox == "true"
        {
            let what = "network.slirp4netns-sandbox `true` does not go with network.detach-netns \
                        (slirp4netns#317)";
            return refuse("network.slirp4netns-sandbox", sandbox, "auto", what.to_owned());
        }
        if self.driver == NetworkDriver::GvisorTapVsock && self.ipv6 {
            let what = "network driver `gvisor-tap-vsock` has no IPv6";
            return refuse("network.ipv6", ipv6, "false", what.to_owned());
        }
        Ok(())
    }

    /// The part of [`Self::refuse_impossible`] that is about ports.
    pub fn refuse_ports(&self, tools: &Tools) -> Result<(), Refusal> {
        let (net, port) = (self.driver.word().display(), self.port_driver.word());
        let needed = NEEDS.iter().find(|(driver, _)| *driver == self.port_driver);
        let rootlesskit = tools.rootlesskit.known();
        let unknown =
            rootlesskit.and_then(|facts| unknown_to(facts, "port", port, &facts.port_drivers));
        let port = port.display();
        let what = match needed {
            _ if unknown.is_some() => unknown,
            Some((_, needed)) if *needed != self.driver => {
                let needed = needed.word().display();
                Some(format!("port driver `{port}` needs network driver `{needed}`, not `{net}`"))
            }
            None if self.port_driver == PortDriver::Builtin
                && self.driver == NetworkDriver::Pasta =>
            {
                Some("port driver `builtin` does not go with network driver `pasta`".to_owned())
            }
            _ => None,
        };
        let refused = what.map(|what| {
            let origin = self.origins.port_driver.clone();
            let fault = Fault::Setting { key: "network.port-driver", origin, instead: "auto" };
            Refusal { what, fault, check: "port-driver" }
        });
        refused.map_or(Ok(()), Err)
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
        if !is_absent || self.origins.has_binary {
            return Ok(());
        }
        let name = self.driver.word().display();
        Err(Refusal {
            what: format!("network driver `{name}` is chosen, but `{name}` is not installed"),
            fault: Fault::Program {
                package,
                key: "network.driver",
                origin: self.origins.driver.clone(),
            },
            check: "network-driver",
        })
    }
}

/// Refuses a setting of the network.
fn refuse(
    key: &'static str,
    origin: &Origin,
    instead: &'static str,
    what: String,
) -> Result<(), Refusal> {
    let fault = Fault::Setting { key, origin: origin.clone(), instead };
    Err(Refusal { what, fault, check: "network-driver" })
}

/// Says that `rootlesskit` does not have the driver `word` among those that are `known`.
fn unknown_to(
    rootlesskit: &RootlesskitFacts,
    kind: &str,
    word: &OsStr,
    known: &[String],
) -> Option<String> {
    if known.is_empty() || known.iter().any(|name| word == name.as_str()) {
        return None;
    }
    // `host` is known, and would be refused next.
    let offered = known.iter().map(String::as_str).filter(|name| *name != "host");
    Some(format!(
        "rootlesskit{} does not know {kind} driver `{}`, only {}",
        version_of(rootlesskit),
        word.display(),
        offered.collect::<Vec<_>>().join(", ")
    ))
}

fn version_of(rootlesskit: &RootlesskitFacts) -> String {
    rootlesskit.version.map_or_else(String::new, |version| format!(" {version}"))
}

/// Returns the value that counts, its place, and why: that of the user's own flag, else that of
/// the setting, else what `decide` finds.
fn settle<T: Clone>(
    by_flag: Option<T>,
    flag: &'static str,
    setting: &Sourced<Choice<T>>,
    decide: impl FnOnce() -> Result<(T, String), Refusal>,
) -> Result<(T, Origin, String), Refusal> {
    let (value, origin) = match (by_flag, &setting.value) {
        (Some(value), _) => (value, Origin::Flag(flag)),
        (None, Choice::Fixed(value)) => (value.clone(), setting.origin.clone()),
        (None, Choice::Auto) => {
            let (value, why) = decide()?;
            return Ok((value, Origin::Default, why));
        }
    };
    let why = origin.to_string();
    Ok((value, origin, why))
}

/// Returns what the user's own flag `name` says.
fn by_flag<T: Value>(flags: &Flags<'_>, name: &str) -> Option<T> {
    T::read(&Input::Text(flags.value(name)?.to_owned())).ok()
}

/// The MTU in bytes that rootlesskit gives to `driver` by default.
fn default_mtu(driver: &NetworkDriver) -> u32 {
    match driver {
        NetworkDriver::Slirp4netns | NetworkDriver::Pasta | NetworkDriver::GvisorTapVsock => 65520,
        _ => 1500,
    }
}

/// Returns the first network driver that is installed and known, in upstream's order, and why.
fn choose_driver(tools: &Tools) -> Result<(NetworkDriver, String), Refusal> {
    let rootlesskit = tools.rootlesskit.known();
    // A rootlesskit that cannot be asked surely knows the drivers that it has had since 0.14.
    let knows = |name: &str| match rootlesskit {
        Some(facts) if !facts.network_drivers.is_empty() => {
            facts.network_drivers.iter().any(|driver| driver == name)
        }
        _ => matches!(name, "slirp4netns" | "vpnkit"),
    };
    let mut passed_over = Vec::new();
    match judge_slirp4netns(&tools.slirp4netns, knows("slirp4netns")) {
        Ok(why) => return Ok((NetworkDriver::Slirp4netns, why)),
        Err(why_not) => passed_over.push(why_not),
    }
    let candidates = [(NetworkDriver::Pasta, &tools.pasta), (NetworkDriver::Vpnkit, &tools.vpnkit)];
    for (driver, path) in candidates {
        let name = driver.word().display().to_string();
        let why_not = match path {
            None => format!("no {name} in PATH"),
            Some(path) if knows(&name) => {
                let why = format!("{name} is at {}; {}", path.display(), passed_over.join("; "));
                return Ok((driver, why));
            }
            Some(_) if rootlesskit.is_some() => format!("this rootlesskit does not know {name}"),
            Some(_) => format!("it is not known whether rootlesskit knows {name}"),
        };
        passed_over.push(why_not);
    }
    let passed_over = passed_over.join("; ");
    if knows("gvisor-tap-vsock") {
        let why = format!("it is part of this rootlesskit; {passed_over}");
        return Ok((NetworkDriver::GvisorTapVsock, why));
    }
    Err(Refusal {
        what: format!("no network driver can be used: {passed_over}"),
        fault: Fault::Program {
            package: Some("slirp4netns"),
            key: "network.driver",
            origin: Origin::Default,
        },
        check: "network-driver",
    })
}

/// Says why slirp4netns can be used, or why not.
fn judge_slirp4netns(tool: &Tool<Slirp4netnsFacts>, is_known: bool) -> Result<String, String> {
    let path = tool.path().ok_or("no slirp4netns in PATH")?.display();
    match tool {
        _ if !is_known => Err(format!("this rootlesskit does not know slirp4netns ({path})")),
        Tool::Found { facts, .. } if facts.netns_type => {
            let version = facts.version.map_or_else(String::new, |version| format!(" {version}"));
            Ok(format!("slirp4netns{version} at {path} has --netns-type"))
        }
        Tool::Unknown { why, .. } => Err(format!("slirp4netns at {path} cannot be asked: {why}")),
        _ => Err(format!("slirp4netns at {path} is older than 0.4.0: it has no --netns-type")),
    }
}

/// Decides whether to detach the network namespace, and why.
fn decide_detach_netns(
    settings: &Settings,
    tools: &Tools,
    flags: &Flags<'_>,
) -> (bool, Origin, String) {
    let setting = &settings.detach_netns;
    let explicit = match (flags.switch("detach-netns"), setting.value) {
        (Some(value), _) => Some((value, Origin::Flag("--detach-netns"))),
        (None, Choice::Fixed(value)) => Some((value, setting.origin.clone())),
        (None, Choice::Auto) => None,
    };
    if let Some((value, origin)) = explicit {
        let why = origin.to_string();
        return (value, origin, why);
    }
    let has_flag = tools.rootlesskit.known().map(|facts| facts.flags.contains_key("detach-netns"));
    let dockerd = tools.dockerd.known().and_then(|facts| facts.version);
    let (value, why) = match (has_flag, dockerd) {
        (None, _) => {
            (false, "it is not known whether this rootlesskit has --detach-netns".to_owned())
        }
        (Some(false), _) => (false, "this rootlesskit has no --detach-netns".to_owned()),
        (Some(true), None) => (false, "the version of dockerd is not known".to_owned()),
        (Some(true), Some(version)) if version < DETACH_NETNS_SINCE => {
            (false, format!("dockerd {version} is older than {DETACH_NETNS_SINCE}"))
        }
        (Some(true), Some(version)) => {
            (true, format!("this rootlesskit has --detach-netns and dockerd is {version}"))
        }
    };
    (value, Origin::Default, why)
}
