//! Decides drivers and MTUs, each with its reason, and refuses what rootlesskit would refuse.
//! Mirrors the defaults of upstream's `contrib/dockerd-rootless.sh`.

use std::ffi::OsStr;

use crate::error::{Error, Exit, Warning};
use crate::facts::{Answer, RootlesskitFacts, Tool, Tools, Version};
use crate::plan::Reason;
use crate::plan::flags::RootlesskitFlags;
use crate::settings::{Choice, Mtu, NetworkDriver, Origin, PortDriver, Settings, Sourced, Switch};

/// dockerd runs with a detached network namespace from this version on (moby 84aedb8055).
const DETACH_NETNS_SINCE: Version = Version(29, 5, 0);

/// The network of the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// `--net`.
    pub driver: NetworkDriver,
    /// `--mtu`.
    pub mtu: u32,
    /// `--port-driver`.
    pub port_driver: PortDriver,
    /// Whether `--detach-netns` is given by us.
    pub detach_netns: bool,
    /// What holds once rootlesskit has read the user's own flags behind ours.
    pub effective: Effective,
    /// The reasons, in the order of the decisions.
    pub reasons: Vec<Reason>,
    /// How the reader takes back what was stated.
    take_back: TakeBack,
}

/// For hints: the beginning of a sentence, by where the value stands.
#[derive(Clone, Debug, PartialEq, Eq)]
struct TakeBack {
    driver: String,
    port_driver: String,
    detach_netns: String,
}

/// What rootlesskit ends up with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// The network driver.
    pub driver: NetworkDriver,
    /// The port driver.
    pub port_driver: PortDriver,
    /// The MTU of the namespace's interface in bytes.
    pub mtu: u32,
    /// Whether the network namespace is detached.
    pub detach_netns: bool,
}

impl Effective {
    /// Whether a process of its own carries the packets between the namespace and the host.
    pub fn has_helper(&self) -> bool {
        matches!(
            self.driver,
            NetworkDriver::Slirp4netns | NetworkDriver::Pasta | NetworkDriver::Vpnkit
        )
    }
}

impl Network {
    /// Decides.
    ///
    /// # Errors
    /// Fails if no network driver can be used (exit 4) or the user asks for `host` (exit 78).
    pub fn decide(
        settings: &Settings,
        tools: &Tools,
        flags: &RootlesskitFlags<'_>,
    ) -> Result<Self, Error> {
        let (driver, driver_why) = stated_or(&settings.network_driver, || choose_driver(tools))
            .map_err(|error| error.check("network-driver"))?;
        let (Mtu(mtu), mtu_why) = stated_or(&settings.mtu, || {
            let why = format!("the default for {}", driver.word().display());
            Ok((Mtu(default_mtu(&driver)), why))
        })?;
        let (port_driver, port_why) = stated_or(&settings.port_driver, || {
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
        let (detach_netns, detach_why) = decide_detach_netns(settings, tools);
        let stated_mtu =
            flags.value("mtu").and_then(OsStr::to_str).and_then(|text| text.parse().ok());
        let effective_driver =
            flags.value("net").map_or_else(|| driver.clone(), NetworkDriver::from_word);
        let effective = Effective {
            mtu: match stated_mtu.unwrap_or(mtu) {
                0 => default_mtu(&effective_driver),
                stated => stated,
            },
            port_driver: flags
                .value("port-driver")
                .map_or_else(|| port_driver.clone(), PortDriver::from_word),
            detach_netns: flags.switch("detach-netns").unwrap_or(detach_netns),
            driver: effective_driver,
        };
        let reasons = vec![
            Reason::new("network.driver", driver.word(), driver_why),
            Reason::new("network.mtu", OsStr::new(&mtu.to_string()), mtu_why),
            Reason::new("network.port-driver", port_driver.word(), port_why),
            Reason::new("network.detach-netns", OsStr::new(&detach_netns.to_string()), detach_why),
        ];
        let take_back = |key: &str, origin: &Origin, flag: &str| match origin {
            _ if flags.value(flag).is_some() || flags.switch(flag).is_some() => {
                format!("take `--{flag}` out of rootlesskit's flags")
            }
            Origin::Variable(name) => format!("unset {name}"),
            Origin::File(..) => format!("take {key} out of {origin}"),
            Origin::CommandLine => format!("leave out `--set {key}`"),
            Origin::Default => format!("set {key}"),
        };
        let take_back = TakeBack {
            driver: take_back("network.driver", &settings.network_driver.origin, "net"),
            port_driver: take_back(
                "network.port-driver",
                &settings.port_driver.origin,
                "port-driver",
            ),
            detach_netns: take_back(
                "network.detach-netns",
                &settings.detach_netns.origin,
                "detach-netns",
            ),
        };
        Ok(Self { driver, mtu, port_driver, detach_netns, effective, reasons, take_back })
    }

    /// What is odd: values that nobody here can judge, or that will have no effect or a bad one.
    pub fn warnings(&self, settings: &Settings, tools: &Tools) -> Vec<Warning> {
        let mut warnings = Vec::new();
        let Effective { driver, .. } = &self.effective;
        let shown = driver.word().display();
        if matches!(driver, NetworkDriver::Other(_)) && tools.rootlesskit.known().is_none() {
            warnings.push(format!(
                "network driver `{shown}` is not one that this program knows; rootlesskit decides"
            ));
        }
        let has_ipv6 = matches!(
            driver,
            NetworkDriver::Slirp4netns | NetworkDriver::Pasta | NetworkDriver::Other(_)
        );
        if settings.ipv6.value && !has_ipv6 {
            warnings.push(format!("network.ipv6 has no effect with network driver `{shown}`"));
        }
        warnings.extend(self.fault_of_dockerd(tools));
        warnings.into_iter().map(Warning).collect()
    }

    /// What keeps this dockerd from working with the network, as far as is known.
    fn fault_of_dockerd(&self, tools: &Tools) -> Option<String> {
        let version = tools.dockerd.known().and_then(|facts| facts.version)?;
        let is_too_old = self.effective.detach_netns && version < DETACH_NETNS_SINCE;
        is_too_old.then(|| {
            format!(
                "the network namespace is detached, which dockerd {version} does not know: \
                 it will not start ({DETACH_NETNS_SINCE} and later will)"
            )
        })
    }

    /// Refuses a network with which this dockerd would not start: a supervisor would start it again
    /// and again.
    ///
    /// # Errors
    /// Exit 78.
    pub fn refuse_old_dockerd(&self, settings: &Settings, tools: &Tools) -> Result<(), Error> {
        let Some(fault) = self.fault_of_dockerd(tools) else {
            return Ok(());
        };
        let hint = match &settings.detach_netns.origin {
            Origin::Variable(name) => format!("unset {name}"),
            Origin::File(..) => "dockerd-rootless config set network.detach-netns auto".to_owned(),
            _ => "leave network.detach-netns at auto, and --detach-netns out of rootlesskit.flags"
                .to_owned(),
        };
        Err(Error::new(Exit::Config, fault).hint(hint).check("network-driver"))
    }

    /// Refuses what this rootlesskit would refuse later, or would fail over in silence.
    ///
    /// # Errors
    /// Exit 78 for combinations, exit 4 for a driver whose program is missing.
    pub fn refuse_impossible(
        &self,
        settings: &Settings,
        tools: &Tools,
        flags: &RootlesskitFlags<'_>,
    ) -> Result<(), Error> {
        let of_network = |error: Error| error.check("network-driver");
        self.refuse_network(settings, tools, flags).map_err(of_network)?;
        self.refuse_ports(tools).map_err(|error| error.check("port-driver"))?;
        self.refuse_missing_program(tools, flags).map_err(of_network)
    }

    /// The part of [`Self::refuse_impossible`] that is about the network alone.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn refuse_network(
        &self,
        settings: &Settings,
        tools: &Tools,
        flags: &RootlesskitFlags<'_>,
    ) -> Result<(), Error> {
        self.refuse_host()?;
        self.refuse_unknown_network(tools)?;
        self.refuse_unknown_detach(tools, flags)?;
        self.refuse_network_combination(settings, flags)
    }

    /// The part of [`Self::refuse_impossible`] that is about ports.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn refuse_ports(&self, tools: &Tools) -> Result<(), Error> {
        self.refuse_unknown_port(tools)?;
        self.refuse_port_combination()
    }

    fn refuse_host(&self) -> Result<(), Error> {
        if self.effective.driver == NetworkDriver::Host {
            return refuse(
                "network driver `host` gives dockerd no network namespace, in which it may not set up a bridge".to_owned(),
                &format!(
                    "{}, or choose slirp4netns or pasta; `docker run --net=host` needs network.detach-netns",
                    self.take_back.driver
                ),
            );
        }
        Ok(())
    }

    /// Refuses port drivers that do not go with the network driver.
    fn refuse_port_combination(&self) -> Result<(), Error> {
        let Effective { driver, port_driver, .. } = &self.effective;
        let (net, port) = (driver.word().display(), port_driver.word().display());
        let use_builtin = format!("{} to use `builtin`", self.take_back.port_driver);
        if *port_driver == PortDriver::Implicit && *driver != NetworkDriver::Pasta {
            return refuse(
                format!("port driver `implicit` needs network driver `pasta`, not `{net}`"),
                &use_builtin,
            );
        }
        if *port_driver == PortDriver::Pesto && *driver != NetworkDriver::Pasta {
            return refuse(
                format!("port driver `pesto` needs network driver `pasta`, not `{net}`"),
                &use_builtin,
            );
        }
        let goes_with_pasta = matches!(
            port_driver,
            PortDriver::Implicit | PortDriver::None | PortDriver::Pesto | PortDriver::Other(_)
        );
        if *driver == NetworkDriver::Pasta && !goes_with_pasta {
            return refuse(
                format!(
                    "network driver `pasta` needs port driver `implicit`, `pesto` or `none`, not `{port}`"
                ),
                &format!("{} to use `implicit`", self.take_back.port_driver),
            );
        }
        if *port_driver == PortDriver::Slirp4netns && *driver != NetworkDriver::Slirp4netns {
            return refuse(
                format!(
                    "port driver `slirp4netns` needs network driver `slirp4netns`, not `{net}`"
                ),
                &use_builtin,
            );
        }
        let none_goes_with = matches!(port_driver, PortDriver::None | PortDriver::Builtin);
        if driver.word() == "none" && !none_goes_with {
            return refuse(
                format!(
                    "network driver `none` needs port driver `none` or `builtin`, not `{port}`"
                ),
                &use_builtin,
            );
        }
        if *port_driver == PortDriver::GvisorTapVsock && *driver != NetworkDriver::GvisorTapVsock {
            return refuse(
                format!(
                    "port driver `gvisor-tap-vsock` needs the network driver of that name, not `{net}`"
                ),
                &use_builtin,
            );
        }
        Ok(())
    }

    /// Refuses settings of the network that do not go with its driver.
    fn refuse_network_combination(
        &self,
        settings: &Settings,
        flags: &RootlesskitFlags<'_>,
    ) -> Result<(), Error> {
        let Effective { driver, detach_netns, .. } = &self.effective;
        let sandbox = flags
            .value("slirp4netns-sandbox")
            .unwrap_or_else(|| OsStr::new(settings.slirp4netns_sandbox.value.word()));
        if *driver == NetworkDriver::Slirp4netns && *detach_netns && sandbox == "true" {
            return refuse(
                "network.slirp4netns-sandbox `true` does not go with network.detach-netns (slirp4netns#317)"
                    .to_owned(),
                "set one of network.slirp4netns-sandbox and network.detach-netns to false",
            );
        }
        if *driver == NetworkDriver::GvisorTapVsock
            && flags.switch("ipv6").unwrap_or(settings.ipv6.value)
        {
            return refuse(
                "network driver `gvisor-tap-vsock` has no IPv6".to_owned(),
                "set network.ipv6 to false, or choose slirp4netns or pasta",
            );
        }
        Ok(())
    }

    /// Refuses a network driver that this rootlesskit does not have, by its own account.
    fn refuse_unknown_network(&self, tools: &Tools) -> Result<(), Error> {
        let Some(rootlesskit) = tools.rootlesskit.known() else {
            return Ok(());
        };
        refuse_unknown_driver(
            "network",
            self.effective.driver.word(),
            rootlesskit,
            &rootlesskit.network_drivers,
            &self.take_back.driver,
        )
    }

    /// The same for a port driver.
    fn refuse_unknown_port(&self, tools: &Tools) -> Result<(), Error> {
        let Some(rootlesskit) = tools.rootlesskit.known() else {
            return Ok(());
        };
        refuse_unknown_driver(
            "port",
            self.effective.port_driver.word(),
            rootlesskit,
            &rootlesskit.port_drivers,
            &self.take_back.port_driver,
        )
    }

    /// The same for detach-netns.
    fn refuse_unknown_detach(
        &self,
        tools: &Tools,
        flags: &RootlesskitFlags<'_>,
    ) -> Result<(), Error> {
        let Some(rootlesskit) = tools.rootlesskit.known() else {
            return Ok(());
        };
        if self.effective.detach_netns
            && flags.switch("detach-netns").is_none()
            && !rootlesskit.flags.contains_key("detach-netns")
        {
            let what = format!(
                "rootlesskit{} does not know `--detach-netns`, which network.detach-netns asks for",
                shown_version(rootlesskit)
            );
            return Err(Error::new(Exit::Config, what).hint(format!(
                "{}, or install rootlesskit 2.0 or later",
                self.take_back.detach_netns
            )));
        }
        Ok(())
    }

    /// Refuses a driver whose program is not installed.
    ///
    /// # Errors
    /// Exit 4.
    pub(crate) fn refuse_missing_program(
        &self,
        tools: &Tools,
        flags: &RootlesskitFlags<'_>,
    ) -> Result<(), Error> {
        let (absent, package) = match self.effective.driver {
            NetworkDriver::Slirp4netns => (tools.slirp4netns == Tool::Absent, "slirp4netns"),
            NetworkDriver::Pasta => (tools.pasta.is_none(), "passt"),
            NetworkDriver::LxcUserNic => (tools.lxc_user_nic.is_none(), "lxc"),
            NetworkDriver::Vpnkit => (tools.vpnkit.is_none(), ""),
            _ => (false, ""),
        };
        let program = self.effective.driver.word().display();
        if !absent || flags.value(&format!("{program}-binary")).is_some() {
            return Ok(());
        }
        let install = match package {
            "" => "install it".to_owned(),
            package => format!("install it (Debian, Ubuntu: sudo apt-get install {package})"),
        };
        Err(Error::new(
            Exit::Prerequisite,
            format!(
                "network driver `{program}` is chosen, but its program `{program}` is not installed"
            ),
        )
        .hint(format!("{install}, or {}", self.take_back.driver)))
    }
}

fn refuse(what: String, hint: &str) -> Result<(), Error> {
    Err(Error::new(Exit::Config, what).hint(hint))
}

fn shown_version(rootlesskit: &RootlesskitFacts) -> String {
    rootlesskit.version.map_or_else(String::new, |version| format!(" {version}"))
}

/// Refuses the driver `word` if it is not among those that are `known`.
fn refuse_unknown_driver(
    kind: &str,
    word: &OsStr,
    rootlesskit: &RootlesskitFacts,
    known: &[String],
    take_back: &str,
) -> Result<(), Error> {
    if known.is_empty() || known.iter().any(|name| word == name.as_str()) {
        return Ok(());
    }
    // `host` is known and would be refused in turn.
    let offered: Vec<&str> =
        known.iter().map(String::as_str).filter(|name| *name != "host").collect();
    let what = format!(
        "rootlesskit{} does not know {kind} driver `{}`, only {}",
        shown_version(rootlesskit),
        word.display(),
        offered.join(", ")
    );
    Err(Error::new(Exit::Config, what)
        .hint(format!("{take_back} to use one of these, or install a later rootlesskit")))
}

/// The value that is stated, or else the one that `decide` finds; and why.
fn stated_or<T: Clone>(
    stated: &Sourced<Choice<T>>,
    decide: impl FnOnce() -> Result<(T, String), Error>,
) -> Result<(T, String), Error> {
    match &stated.value {
        Choice::Fixed(value) => Ok((value.clone(), stated.origin.to_string())),
        Choice::Auto => decide(),
    }
}

/// The MTU in bytes that rootlesskit gives to `driver` by default.
fn default_mtu(driver: &NetworkDriver) -> u32 {
    match driver {
        NetworkDriver::Slirp4netns | NetworkDriver::Pasta | NetworkDriver::GvisorTapVsock => 65520,
        _ => 1500,
    }
}

/// The first network driver that is installed and known, in upstream's order, and why.
fn choose_driver(tools: &Tools) -> Result<(NetworkDriver, String), Error> {
    let rootlesskit = tools.rootlesskit.known();
    // A rootlesskit that cannot be asked surely knows the drivers that it has had since 0.14.
    let knows = |name: &str| match rootlesskit {
        Some(facts) if !facts.network_drivers.is_empty() => {
            facts.network_drivers.iter().any(|driver| driver == name)
        }
        _ => matches!(name, "slirp4netns" | "vpnkit"),
    };
    let mut passed_over = Vec::new();
    if let Tool::Found { path, answer } = &tools.slirp4netns {
        let path = path.display();
        match answer {
            _ if !knows("slirp4netns") => {
                passed_over.push(format!("this rootlesskit does not know slirp4netns ({path})"))
            }
            Answer::Known(facts) if facts.netns_type => {
                let version =
                    facts.version.map_or_else(String::new, |version| format!(" {version}"));
                return Ok((
                    NetworkDriver::Slirp4netns,
                    format!("slirp4netns{version} at {path} has --netns-type"),
                ));
            }
            Answer::Known(_) => passed_over
                .push(format!("slirp4netns at {path} is older than 0.4.0: it has no --netns-type")),
            Answer::Unknown(reason) => {
                passed_over.push(format!("slirp4netns at {path} cannot be asked: {reason}"))
            }
        }
    } else {
        passed_over.push("no slirp4netns in PATH".to_owned());
    }
    let candidates = [
        (NetworkDriver::Pasta, tools.pasta.as_deref()),
        (NetworkDriver::Vpnkit, tools.vpnkit.as_deref()),
    ];
    for (driver, path) in candidates {
        let name = driver.word().to_string_lossy().into_owned();
        match path {
            None => passed_over.push(format!("no {name} in PATH")),
            Some(_) if !knows(&name) => passed_over.push(match rootlesskit {
                Some(_) => format!("this rootlesskit does not know {name}"),
                None => format!("it is not known whether rootlesskit knows {name}"),
            }),
            Some(path) => {
                return Ok((
                    driver,
                    format!("{name} is at {}; {}", path.display(), passed_over.join("; ")),
                ));
            }
        }
    }
    if knows("gvisor-tap-vsock") {
        return Ok((
            NetworkDriver::GvisorTapVsock,
            format!("it is part of this rootlesskit; {}", passed_over.join("; ")),
        ));
    }
    Err(Error::new(
        Exit::Prerequisite,
        format!("no network driver can be used: {}", passed_over.join("; ")),
    )
    .hint("install slirp4netns 0.4.0 or later (Debian, Ubuntu: sudo apt-get install slirp4netns)"))
}

/// Whether to detach the network namespace, and why.
fn decide_detach_netns(settings: &Settings, tools: &Tools) -> (bool, String) {
    let stated = settings.detach_netns.origin.to_string();
    match settings.detach_netns.value {
        Switch::On => return (true, stated),
        Switch::Off => return (false, stated),
        Switch::Auto => {}
    }
    let has_flag = tools.rootlesskit.known().map(|facts| facts.flags.contains_key("detach-netns"));
    let dockerd = tools.dockerd.known().and_then(|facts| facts.version);
    match (has_flag, dockerd) {
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
    }
}
