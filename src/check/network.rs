//! The network driver, the tun device, and the port driver.

use crate::check::failures::{self, gist};
use crate::check::finding::{Evidence, Finding, Id};
use crate::check::fix::Fix;
use crate::check::packages::Package;
use crate::check::trials::Outcome;
use crate::plan::Fault;
use crate::settings::{Choice, NetworkDriver, Origin};

/// What rootlesskit says when its network driver fails.
const BLAMED: [&str; 4] =
    ["failed to setup network", "slirp4netns failed", "pasta failed", "create_sandbox failed"];

/// Returns whether a network driver opens `/dev/net/tun`; an unknown one may.
fn needs_tun(driver: &NetworkDriver) -> bool {
    match driver {
        // It creates a veth pair.
        NetworkDriver::LxcUserNic | NetworkDriver::Host => false,
        NetworkDriver::Other(name) => name != "none",
        _ => true,
    }
}

/// `tun-device`.
pub fn tun_device(evidence: &Evidence<'_>) -> Finding {
    // A driver that is still to be installed needs it, too.
    if let Ok(network) = evidence.network()
        && !needs_tun(&network.driver)
    {
        return Finding::skip("this network driver does not use /dev/net/tun");
    }
    let failure = match &evidence.trials.tun {
        Outcome::Works => return Finding::ok("/dev/net/tun opens"),
        Outcome::NotTried(why) => {
            return Finding::untried(format!("/dev/net/tun was not tried: {why}"));
        }
        Outcome::Fails(failure) => failure,
    };
    let finding = Finding::problem(format!("/dev/net/tun cannot be opened: {}", failure.text));
    match (failure.errno.as_deref(), &evidence.survey.surroundings.container) {
        (Some("EACCES"), _) => finding
            .root("chmod 0666 /dev/net/tun")
            .root("[ ! -d /etc/udev/rules.d ] || echo 'KERNEL==\"tun\", MODE=\"0666\", OPTIONS+=\"static_node=net/tun\"' >/etc/udev/rules.d/90-dockerd-rootless-tun.rules"),
        (_, Some(manager)) => {
            finding.tell(format!("start this container of {manager} with `--device /dev/net/tun`"))
        }
        (Some("ENOENT" | "ENODEV" | "ENXIO"), None) => finding
            // A kernel without modules may have tun built in: only the file is missing then.
            .root("modprobe tun || [ -e /sys/class/misc/tun ]")
            .root("[ -c /dev/net/tun ] || { mkdir -p /dev/net && mknod -m 0666 /dev/net/tun c 10 200; }")
            .root("mkdir -p /etc/modules-load.d && echo tun >/etc/modules-load.d/dockerd-rootless-tun.conf"),
        _ => finding,
    }
}

/// `network-driver`: one is chosen, its program is there, and rootlesskit starts with it.
pub fn network_driver(evidence: &Evidence<'_>) -> Finding {
    let tools = &evidence.host.tools;
    let slirp4netns = Fix::Package(Package::Slirp4netns);
    let network = match evidence.network() {
        Ok(network) => network,
        Err(refusal) => return Finding::problem(refusal.what).fix(slirp4netns),
    };
    let refused =
        network.refuse_network(tools).and_then(|()| network.refuse_missing_program(tools));
    if let Err(refusal) = refused {
        let finding = Finding::problem(refusal.what);
        return match (refusal.fault, &network.driver) {
            (Fault::Program { .. }, NetworkDriver::Slirp4netns) => finding.fix(slirp4netns),
            (Fault::Program { .. }, NetworkDriver::Pasta) => {
                finding.fix(Fix::Package(Package::Passt))
            }
            (fault, _) => undo(finding, &fault),
        };
    }
    let name = network.driver.word().display();
    match &evidence.trials.rootlesskit {
        Outcome::Works => Finding::ok(format!("network driver `{name}` starts")),
        Outcome::Fails(failure) if BLAMED.iter().any(|said| failure.text.contains(said)) => {
            let what = format!("network driver `{name}` fails: {}", gist(&failure.text));
            let finding = Finding::failed_trial(what);
            instead(evidence, failures::explain(finding, Id::NetworkDriver, &failure.text))
        }
        _ => Finding::untried(format!("network driver `{name}` was not tried")),
    }
}

/// Replaces the advice to choose slirp4netns where that cannot be chosen.
fn instead(evidence: &Evidence<'_>, mut finding: Finding) -> Finding {
    let tools = &evidence.host.tools;
    let is_advice = |fix: &Fix| matches!(fix, Fix::Set("network.driver", _));
    if !finding.fixes.iter().any(is_advice) {
        return finding;
    }
    if !tools.slirp4netns.known().is_some_and(|facts| facts.netns_type) {
        finding.fixes.retain(|fix| !is_advice(fix));
        return finding.fix(Fix::Package(Package::Slirp4netns));
    }
    // `implicit` and `pesto` are pasta's and would be refused.
    match evidence.settings.port_driver.value {
        Choice::Auto => finding,
        Choice::Fixed(_) => finding.fix(Fix::Set("network.port-driver", "auto".to_owned())),
    }
}

/// Undoes the setting that a launch is refused for.
fn undo(finding: Finding, fault: &Fault) -> Finding {
    match fault {
        Fault::Setting { origin: Origin::Flag(flag), .. }
        | Fault::Program { origin: Origin::Flag(flag), .. } => {
            finding.tell(format!("remove `{flag}` from rootlesskit.flags"))
        }
        Fault::Setting { key, instead, .. } => finding.fix(Fix::Set(key, (*instead).to_owned())),
        Fault::Program { key, .. } => finding.fix(Fix::Set(key, "auto".to_owned())),
    }
}

/// `port-driver`: it fits the network driver, and these versions publish ports with it.
pub fn port_driver(evidence: &Evidence<'_>) -> Finding {
    let (settings, tools, flags) = (evidence.settings, &evidence.host.tools, evidence.flags());
    let Ok(network) = evidence.network() else {
        return Finding::untried("no network driver is chosen");
    };
    let is_default = settings.port_driver.value == Choice::Auto && !flags.has("port-driver");
    if is_default && network.refuse_network(tools).is_err() {
        return Finding::untried("the network driver is refused");
    }
    if let Err(refusal) = network.refuse_ports(tools) {
        return undo(Finding::problem(refusal.what), &refusal.fault);
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
    let finding = finding.because(bad.what);
    match flags.has("port-driver") || flags.has("net") {
        true => finding.tell("rootlesskit.flags name the driver and win: change it there"),
        false => instead(evidence, finding.fix(Fix::Set(key, value.to_owned()))),
    }
}
