//! Decides the addresses of the namespace's network and of docker0, so that containers reach what
//! the host reaches: where the host uses the usual ones itself, others are taken.

use std::ffi::OsString;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::error::Warning;
use crate::facts::HostFacts;
use crate::plan::daemon::stated;
use crate::plan::{Ports, Reason, fixed};
use crate::settings::NetworkDriver::{self, GvisorTapVsock, Pasta, Slirp4netns, Vpnkit};
use crate::settings::{Settings, Subnet};

/// What the network of a namespace may be, the usual one first. dockerd makes no network of its own
/// in any of them.
const NETWORKS: [Subnet; 4] = [
    Subnet::new([10, 0, 2, 0], 24),
    Subnet::new([10, 190, 2, 0], 24),
    Subnet::new([172, 16, 2, 0], 24),
    Subnet::new([198, 18, 2, 0], 24),
];

/// The only one of vpnkit.
const VPNKIT: Subnet = Subnet::new([192, 168, 65, 0], 24);

/// What docker0 may have, dockerd's own choice first. The others are outside of dockerd's pools, whose
/// networks users have: dockerd does not start with a docker0 over one of them.
const BRIDGES: [Subnet; 3] = [
    Subnet::new([172, 17, 0, 0], 16),
    Subnet::new([10, 191, 0, 0], 16),
    Subnet::new([198, 19, 0, 0], 16),
];

const ALL_TAKEN: &str = "the host uses every alternative network, too";

/// Options that set docker0's network: dockerd's flag and its key in `daemon.json`.
const SAY_BRIDGE: [(&str, &str); 5] = [
    ("bip", "bip"),
    ("bridge", "bridge"),
    ("fixed-cidr", "fixed-cidr"),
    ("default-gateway", "default-gateway"),
    ("default-address-pool", "default-address-pools"),
];

/// What says where `host-gateway` leads. The second key is that of dockerd 28 and later.
const SAY_GATEWAY: [(&str, &str); 2] =
    [("host-gateway-ip", "host-gateway-ip"), ("host-gateway-ip", "host-gateway-ips")];

/// What dockerd is told of the namespace's network. It stays valid while the namespace exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The MTU of the namespace's interface in bytes.
    pub mtu: u32,
    /// Its addresses, if they are known. Older supervisors do not hand them over.
    #[serde(default)]
    pub subnet: Option<Subnet>,
    /// The address that leads to the host's 127.0.0.1, if that is open.
    #[serde(default)]
    pub host: Option<Ipv4Addr>,
    #[serde(default)]
    pub ports: Ports,
    /// The ports that rootlesskit publishes from its start on: the user's, and ours for the API.
    pub published: Vec<String>,
}

/// Returns whether rootlesskit takes `--cidr` with `driver`.
pub fn takes_cidr(driver: &NetworkDriver) -> bool {
    matches!(driver, Slirp4netns | Pasta | GvisorTapVsock)
}

/// Returns the network of `driver` where nothing else is said.
pub fn usual(driver: &NetworkDriver) -> Option<Subnet> {
    match driver {
        Vpnkit => Some(VPNKIT),
        driver => takes_cidr(driver).then_some(NETWORKS[0]),
    }
}

/// Returns the address in `subnet` that leads to the host's 127.0.0.1 where that is open.
pub fn host_address(driver: &NetworkDriver, subnet: Option<Subnet>) -> Option<Ipv4Addr> {
    match driver {
        // rootlesskit 3.0 has this address in its source, whatever the network is.
        GvisorTapVsock => Some(NETWORKS[0].address(1)),
        Slirp4netns | Pasta | Vpnkit => subnet.map(|subnet| subnet.address(2)),
        _ => None,
    }
}

/// Returns the largest network that the host uses in `subnet`.
pub fn taken(host: &HostFacts, subnet: Subnet) -> Option<Subnet> {
    let used = host.addresses.iter().flatten().copied();
    used.filter(|used| used.overlaps(subnet)).min()
}

/// Decides the network of a namespace with `driver`, and why.
pub(super) fn choose(
    settings: &Settings,
    host: &HostFacts,
    driver: &NetworkDriver,
) -> Option<(Subnet, String)> {
    if let Some(stated) = fixed(&settings.cidr) {
        return Some(stated);
    }
    let usual = usual(driver)?;
    let used = taken(host, usual);
    let free = NETWORKS.into_iter().find(|subnet| taken(host, *subnet).is_none());
    Some(match (used, free) {
        _ if !takes_cidr(driver) => (usual, format!("the only one of {}", driver.word().display())),
        _ if host.addresses.is_none() => (usual, "the host's routes cannot be read".to_owned()),
        (None, _) => (usual, "the driver's own, and the host does not use it".to_owned()),
        (Some(used), Some(free)) => (free, format!("the host uses {used} itself")),
        (Some(_), None) => (usual, ALL_TAKEN.to_owned()),
    })
}

/// Warns of a network that is not the usual one: users may have written its addresses down.
pub(super) fn moved(subnet: Option<Subnet>, driver: &NetworkDriver, why: &str) -> Option<Warning> {
    let (own, usual) = (subnet?, usual(driver)?);
    let [host, dns] = [2, 3].map(|number| (usual.address(number), own.address(number)));
    (own != usual).then(|| {
        Warning(format!(
            "the namespace's network is {own}, because {why}: what was {} is {}, and {} is {}; `network.cidr = {usual}` keeps the old ones",
            host.0, host.1, dns.0, dns.1
        ))
    })
}

/// Decides docker0's network; `Err` says why dockerd decides it.
pub fn docker0(settings: &Settings, host: &HostFacts, link: &Link) -> Result<Subnet, String> {
    if let Some(why) = stated(settings, &host.session, &SAY_BRIDGE) {
        return Err(why);
    }
    let is_free = |bridge: &Subnet| {
        taken(host, *bridge).is_none() && link.subnet.is_none_or(|own| !own.overlaps(*bridge))
    };
    BRIDGES.into_iter().find(is_free).ok_or_else(|| ALL_TAKEN.to_owned())
}

/// Returns the argument that gives docker0 other addresses than dockerd's own, and why; `None` if
/// the host does not use those.
pub(super) fn bridge(
    settings: &Settings,
    host: &HostFacts,
    link: &Link,
) -> Option<(Option<OsString>, Reason)> {
    let used = taken(host, BRIDGES[0])?;
    Some(match docker0(settings, host, link) {
        Ok(bridge) => {
            let bip = format!("{}/{}", bridge.address(1), bridge.bits);
            let why = format!("the host uses {used} itself, and docker0 would be {}", BRIDGES[0]);
            (Some(format!("--bip={bip}").into()), Reason::new("bip", bip, why))
        }
        Err(why) => (None, Reason::new("bip", "dockerd's own", why)),
    })
}

/// Returns the argument that has `host-gateway` lead to the host's 127.0.0.1, and why; `None` if
/// that is closed.
pub(super) fn host_gateway(
    settings: &Settings,
    host: &HostFacts,
    link: &Link,
) -> Option<(Option<OsString>, Reason)> {
    const KEY: &str = SAY_GATEWAY[0].0;
    let address = link.host?.to_string();
    let own = |why: String| Some((None, Reason::new(KEY, "dockerd's own", why)));
    if let Some(why) = stated(settings, &host.session, &SAY_GATEWAY) {
        return own(why);
    }
    if !host.tools.dockerd.known().is_some_and(|facts| facts.has_flag(KEY)) {
        return own(
            "it is not known whether dockerd has the option (20.10 and later do)".to_owned()
        );
    }
    let why = "the host's 127.0.0.1, for `--add-host host.docker.internal:host-gateway`";
    Some((Some(format!("--{KEY}={address}").into()), Reason::new(KEY, address, why)))
}
