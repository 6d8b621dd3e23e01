//! The network driver, the tun device, and the port driver.

use crate::check::evidence::Evidence;
use crate::check::failures::{self, gist};
use crate::check::finding::{Finding, Id};
use crate::check::fix::Fix;
use crate::check::packages::Package;
use crate::check::trials::Outcome;
use crate::plan::Refusal;
use crate::settings::NetworkDriver;

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
fn complete(evidence: &Evidence<'_>, finding: Finding) -> Finding {
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

/// `port-driver`: it fits the network driver, and these versions publish ports with it.
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
    let what = format!("port driver `{port}` with network driver `{net}`");
    let Some(bad) = failures::bad_pair(evidence, &network) else {
        return Finding::ok(what);
    };
    let finding = match bad.total {
        true => Finding::problem(format!("{what} publishes no ports with these versions")),
        false => Finding::warn(format!("{what} does not publish all ports with these versions")),
    };
    let (key, value) = bad.setting;
    complete(evidence, finding.because(bad.what).fix(Fix::Set(key, value.to_owned())))
}
