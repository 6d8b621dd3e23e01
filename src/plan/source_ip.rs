//! Decides what address of their clients containers see at published ports. Who forwards a port decides it:
//! a program that takes the connection and makes another loses the address.

use std::path::PathBuf;

use crate::error::Warning;
use crate::facts::{HostFacts, Version};
use crate::plan::Reason;
use crate::plan::stage::Step;
use crate::settings::{PortDriver, Settings, SourceIp};

/// dockerd tells rootlesskit itself of published ports from this version on; before, its docker-proxy
/// did (moby dac7ffa340).
const ASKS_ROOTLESSKIT_SINCE: Version = Version(28, 0, 0);

/// rootlesskit's flag that keeps the address, from 3.0 on; it is on by default.
const TRANSPARENT: &str = "source-ip-transparent";

/// What containers see of a client on another host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Its own address.
    Client,
    /// Its own address over TCP, the bridge's over UDP.
    TcpClient,
    /// The address of the bridge in its place.
    Bridge,
    /// No port is published.
    None,
}

impl Seen {
    /// Says it in a sentence.
    pub fn words(self) -> String {
        let seen = match self {
            Self::Client => "the client's own address",
            Self::TcpClient => "the client's own address over TCP, the bridge's over UDP",
            Self::Bridge => "the bridge's address, not the client's",
            Self::None => "no client",
        };
        format!("containers see {seen}")
    }
}

/// The decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The port driver that it was decided for.
    pub driver: PortDriver,
    pub seen: Seen,
    /// Whether dockerd serves ports without docker-proxy.
    pub lacks_proxy: bool,
    /// Why `preserve` is impossible.
    pub(super) refused: Option<String>,
    /// What rootlesskit and dockerd get for it.
    pub(super) flag: Option<&'static str>,
    pub(super) daemon_arg: Option<&'static str>,
    /// Whether a start has to fail if rootlesskit cannot keep it.
    is_required: bool,
    /// What is odd.
    pub warning: Option<Warning>,
}

impl Source {
    /// Returns the stage's step that refuses what rootlesskit would fail over in silence.
    pub(super) fn steps(&self) -> Vec<Step> {
        self.is_required.then_some(Step::RequireSourceIp).into_iter().collect()
    }

    /// Decides for ports that `driver` forwards, and says why.
    pub(super) fn decide(
        settings: &Settings,
        host: &HostFacts,
        driver: &PortDriver,
    ) -> (Self, Reason) {
        let wish = settings.source_ip.value;
        let stated = states_proxy(settings, host);
        let (seen, why) = match driver {
            PortDriver::Implicit | PortDriver::Pesto | PortDriver::Slirp4netns => {
                (Seen::Client, format!("port driver {} keeps it", driver.word().display()))
            }
            PortDriver::Builtin => builtin(settings, host),
            PortDriver::None => (Seen::None, "no port is published".to_owned()),
            other => (
                Seen::Bridge,
                format!("port driver {} does not pass it on", other.word().display()),
            ),
        };
        let is_kept = matches!(seen, Seen::Client | Seen::TcpClient);
        let refused = (wish == SourceIp::Preserve && !is_kept).then(|| {
            let driver = driver.word().display();
            format!("network.source-ip is `preserve`, but port driver `{driver}` loses the client's address: {why}")
        });
        let turns_off = wish == SourceIp::Off && *driver == PortDriver::Builtin;
        let lacks_proxy = stated.map_or(seen == Seen::TcpClient, |has_proxy| !has_proxy);
        let source = Self {
            driver: driver.clone(),
            flag: (turns_off && knows_transparent(host)).then_some("--source-ip-transparent=false"),
            daemon_arg: (stated.is_none() && lacks_proxy).then_some("--userland-proxy=false"),
            warning: needs_proxy(host, driver).filter(|_| lacks_proxy).map(Warning),
            is_required: wish == SourceIp::Preserve && seen == Seen::TcpClient,
            seen,
            lacks_proxy,
            refused,
        };
        let value = if is_kept { "kept" } else { "lost" };
        let why = format!("{}: {why}", seen.words());
        (source, Reason::new("network.source-ip", value, why))
    }
}

/// Returns the port driver that keeps the address where `builtin` cannot, if it has to be kept, and why.
pub(super) fn choose_driver(settings: &Settings, host: &HostFacts) -> Option<(PortDriver, String)> {
    let is_wanted = settings.source_ip.value == SourceIp::Preserve;
    let (seen, why) = builtin(settings, host);
    let why = format!("builtin loses the client's address: {why}");
    (is_wanted && seen != Seen::TcpClient).then_some((PortDriver::Slirp4netns, why))
}

/// Says what containers see with `builtin`, and why. rootlesskit 3 connects to them from the client's
/// address, and docker-proxy, where it forwards the connection, connects from its own again.
fn builtin(settings: &Settings, host: &HostFacts) -> (Seen, String) {
    const BETWEEN: &str =
        "docker-proxy forwards the connection; IPv6 clients need it. `preserve` turns it off";
    let bridge = |why: &str| (Seen::Bridge, why.to_owned());
    let wish = settings.source_ip.value;
    if wish == SourceIp::Off {
        return bridge(&settings.source_ip.origin.to_string());
    }
    if let Some(lacks) = lacks(settings, host) {
        return bridge(&lacks);
    }
    match (wish, states_proxy(settings, host)) {
        (SourceIp::Preserve, Some(true)) => bridge("dockerd is told to use docker-proxy"),
        (SourceIp::Preserve, _) | (_, Some(false)) => {
            (Seen::TcpClient, "rootlesskit connects from it".to_owned())
        }
        _ => bridge(BETWEEN),
    }
}

/// Says what `builtin` lacks to keep the address, the first that is missing.
fn lacks(settings: &Settings, host: &HostFacts) -> Option<String> {
    let (tools, kernel) = (&host.tools, &host.kernel);
    if !knows_transparent(host) {
        return Some(
            "this rootlesskit has no --source-ip-transparent (3.0 and later do)".to_owned(),
        );
    }
    if tools.flags(settings).switch(TRANSPARENT) == Some(false) {
        return Some("rootlesskit.flags turn it off".to_owned());
    }
    if let Some(why) = needs_proxy(host, &PortDriver::Builtin) {
        return Some(why);
    }
    let has = |found: &Option<PathBuf>| found.is_some();
    let missing = [
        (dockerd_version(host).is_some(), "dockerd does not tell its version"),
        // rootlesskit 3.2 takes nft first, and iptables where there is no nft.
        (has(&tools.iptables), "there is no iptables for the rules of rootlesskit"),
        (has(&tools.ip), "there is no `ip` for the routes of rootlesskit"),
        (has(&tools.sysctl), "there is no `sysctl`, which rootlesskit runs"),
        (
            kernel.bridge_netfilter,
            "dockerd does not start without docker-proxy as long as br_netfilter is not loaded",
        ),
        (
            settings.args().switch("iptables") != Some(false)
                && !host.session.daemon_json.turns_off("iptables"),
            "dockerd runs with `--iptables=false`",
        ),
    ];
    missing.into_iter().find(|(is_there, _)| !is_there).map(|(_, why)| why.to_owned())
}

/// Says why this dockerd publishes no port without docker-proxy, if that is known.
fn needs_proxy(host: &HostFacts, driver: &PortDriver) -> Option<String> {
    let is_asked = matches!(driver, PortDriver::Builtin | PortDriver::Slirp4netns);
    let old = dockerd_version(host).filter(|own| is_asked && *own < ASKS_ROOTLESSKIT_SINCE)?;
    Some(format!("dockerd {old} opens ports only by docker-proxy (28.0 and later do without)"))
}

fn dockerd_version(host: &HostFacts) -> Option<Version> {
    host.tools.dockerd.known().and_then(|facts| facts.version)
}

/// Returns whether dockerd is told to use docker-proxy, by words or in its file.
fn states_proxy(settings: &Settings, host: &HostFacts) -> Option<bool> {
    const NAME: &str = "userland-proxy";
    settings.args().switch(NAME).or_else(|| host.session.daemon_json.switch(NAME))
}

fn knows_transparent(host: &HostFacts) -> bool {
    host.tools.rootlesskit.known().is_some_and(|facts| facts.flags.contains_key(TRANSPARENT))
}
