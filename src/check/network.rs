//! The network driver, the tun device, and the port driver.

use crate::check::evidence::Evidence;
use crate::check::failures::{self, gist};
use crate::check::finding::{Finding, Id};
use crate::check::fix::Fix;
use crate::check::packages::Package;
use crate::check::trials::Outcome;
use crate::error::Warning;
use crate::plan::{self, Network, Refusal, Seen};
use crate::settings::{Choice, NetworkDriver, Origin, SourceIp, Subnet};

/// What rootlesskit says when its network driver fails.
const BLAMED: [&str; 4] =
    ["failed to setup network", "slirp4netns failed", "pasta failed", "create_sandbox failed"];

/// `tun-device`.
pub fn tun_device(evidence: &Evidence<'_>) -> Finding {
    // lxc-user-nic creates a veth pair. A driver that is still to be installed needs the device, too.
    let needs_none = |driver| matches!(driver, NetworkDriver::LxcUserNic | NetworkDriver::Host);
    if evidence.network().is_ok_and(|network| needs_none(network.driver)) {
        return Finding::skip("this network driver does not use /dev/net/tun");
    }
    let Outcome::Fails(failure) = &evidence.trials.tun else {
        return Finding::tried(&evidence.trials.tun, "/dev/net/tun opens");
    };
    let finding = Finding::problem(format!("/dev/net/tun cannot be opened: {}", failure.text));
    match (failure.errno.as_deref(), &evidence.survey.surroundings.container) {
        (Some("EACCES"), _) => finding
            .root("chmod 0666 /dev/net/tun")
            .root("[ ! -d /etc/udev/rules.d ] || echo 'KERNEL==\"tun\", MODE=\"0666\", OPTIONS+=\"static_node=net/tun\"' >/etc/udev/rules.d/90-dockerd-rootless-tun.rules"),
        (_, Some(manager)) => {
            finding.tell(format!("start this container of {manager} with `--device /dev/net/tun`"))
        }
        _ => finding.fix(Fix::Modules(&["tun"])),
    }
}

/// `network-driver`: one is chosen, its program is there, and rootlesskit starts with it.
pub fn network_driver(evidence: &Evidence<'_>) -> Finding {
    let tools = &evidence.host.tools;
    let network = match evidence.network() {
        Ok(network) => network,
        Err(refusal) => {
            return Finding::problem(refusal.what).fix(Fix::Package(Package::Slirp4netns));
        }
    };
    if let Err(refusal) = network.refuse_network(tools) {
        return undo(refusal);
    }
    if let Err(refusal) = network.refuse_missing_program(tools) {
        let package = match network.driver {
            NetworkDriver::Slirp4netns => Package::Slirp4netns,
            NetworkDriver::Pasta => Package::Passt,
            _ => return undo(refusal),
        };
        return Finding::problem(refusal.what).fix(Fix::Package(package));
    }
    let name = network.driver.word().display();
    match &evidence.trials.rootlesskit {
        Outcome::Works => Finding::ok(format!("network driver `{name}` starts")),
        Outcome::Fails(failure) if BLAMED.iter().any(|said| failure.text.contains(said)) => {
            let what = format!("network driver `{name}` fails: {}", gist(&failure.text));
            let finding = Finding::failed_trial(what);
            complete(evidence, failures::explain(finding, Id::NetworkDriver, &failure.text))
        }
        _ => Finding::untried(format!("network driver `{name}` was not tried")),
    }
}

/// Installs slirp4netns, where the advice is to choose it.
pub fn complete(evidence: &Evidence<'_>, finding: Finding) -> Finding {
    let is_advice = |fix: &Fix| matches!(fix, Fix::Set("network.driver", _));
    let is_absent = evidence.host.tools.slirp4netns.path().is_none();
    if is_absent && finding.fixes.iter().any(is_advice) {
        return finding.fix(Fix::Package(Package::Slirp4netns));
    }
    finding
}

/// Undoes the setting that a launch is refused for.
fn undo(refusal: Refusal) -> Finding {
    Finding::problem(refusal.what).fix(Fix::Set(refusal.key, refusal.instead.to_owned()))
}

/// `port-driver`: it fits the network driver.
pub fn port_driver(evidence: &Evidence<'_>) -> Finding {
    let tools = &evidence.host.tools;
    let network = match evidence.network() {
        Ok(network) if network.refuse_network(tools).is_ok() => network,
        _ => return Finding::untried("no network driver can be used"),
    };
    if let Err(refusal) = network.refuse_ports(tools) {
        return undo(refusal);
    }
    let (net, port) = (network.driver.word().display(), network.port_driver.word().display());
    source_ip(evidence, &network, format!("port driver `{port}` with network driver `{net}`"))
}

/// `addresses`: the host itself uses none of those that the containers' networks have.
pub fn addresses(evidence: &Evidence<'_>) -> Finding {
    let (host, settings) = (evidence.host, evidence.settings);
    let Ok(network) = evidence.network() else {
        return Finding::untried("no network driver is chosen");
    };
    if host.addresses.is_none() {
        return Finding::skip("the routes of this host cannot be read");
    }
    let collides = |subnet: Option<Subnet>| Some((subnet?, plan::taken(host, subnet?)?));
    let problem = |name: &str, (own, used): (Subnet, Subnet)| {
        Finding::problem(format!("{name} is {own}, and the host uses {used} itself"))
            .because("containers do not reach hosts whose addresses are in both")
    };
    if let Some(both) = collides(network.subnet) {
        let finding = problem("the network of the namespace", both);
        let cidr = &network.settings.cidr;
        return match (plan::takes_cidr(&network.driver), &cidr.origin) {
            (false, _) => finding.fix(Fix::Set("network.driver", "auto".to_owned())),
            (_, Origin::Flag(_)) => finding.tell("take `--cidr` out of rootlesskit.flags"),
            _ if cidr.value == Choice::Auto => finding.tell(
                "state a network that is free: dockerd-rootless config set network.cidr NETWORK",
            ),
            _ => finding.fix(Fix::Set("network.cidr", "auto".to_owned())),
        };
    }
    let stated = evidence.daemon_option("bip");
    if let Some(both) = collides(stated.as_deref().and_then(Subnet::around)) {
        return problem("docker0, by dockerd's option `bip`,", both)
            .tell("without `bip`, docker0 gets addresses that the host does not use");
    }
    let docker0 = plan::docker0(settings, host, &network.link()).ok();
    let own = network.subnet.into_iter().chain(docker0).map(|own| own.to_string());
    let own = own.collect::<Vec<_>>().join(" and ");
    if own.is_empty() {
        return Finding::skip("the containers' addresses are stated");
    }
    let finding = Finding::ok(format!("the host does not use {own}"));
    match network.reasons.iter().find(|reason| reason.key == "network.cidr") {
        Some(reason) if network.subnet != plan::usual(&network.driver) => {
            finding.because(&reason.why)
        }
        _ => finding,
    }
}

/// Says what containers see of clients, and whether rootlesskit could make the rules for it.
fn source_ip(evidence: &Evidence<'_>, network: &Network, what: String) -> Finding {
    let source = &network.source;
    if let Some(Warning(warning)) = &source.warning {
        return Finding::problem(format!("{what} publishes no ports"))
            .because(warning)
            .because("take `userland-proxy` out of dockerd's options");
    }
    let inside = evidence.trials.inside.as_ref().filter(|_| source.seen == Seen::TcpClient);
    if let Some(Outcome::Fails(failure)) = inside.map(|inside| &inside.source_ip) {
        let summary = format!("{what}: containers would not see the addresses of clients");
        let (key, value) = match network.driver {
            NetworkDriver::Slirp4netns => ("network.port-driver", "slirp4netns"),
            _ => ("network.source-ip", "auto"),
        };
        return match evidence.settings.source_ip.value {
            SourceIp::Preserve => Finding::problem(summary)
                .because(&failure.text)
                .fix(Fix::Set(key, value.to_owned())),
            _ => Finding::warn(summary).because(&failure.text),
        };
    }
    Finding::ok(what).because(source.seen.words())
}
