//! `netfilter`: network devices and firewall rules, as dockerd creates them in its namespace.

use crate::check::evidence::Evidence;
use crate::check::finding::{Finding, Status};
use crate::check::fix::Fix;
use crate::check::namespaces::suspects;
use crate::check::packages::Package;
use crate::check::trials::{Failure, Firewall, Outcome};
use crate::settings::Iptables;

/// What iptables, nft and ip say of a thing that the kernel does not have.
const MISSING: [&str; 7] = [
    "do you need to insmod",
    "does not exist",
    "No such file or directory",
    "not supported",
    "missing kernel module",
    "Could not fetch rule set generation id",
    "Unknown device type",
];

type Modules = &'static [&'static str];

/// The modules that root has to load, by what a program talks to; the kernel loads the others by
/// itself. The legacy ones are those that moby's `docs/rootless.md` names for openSUSE 15.
const NFT: Modules = &["nf_tables"];
const NFT_COMPAT: Modules = &["nf_tables", "nft_compat"];
const LEGACY: Modules = &["ip_tables", "iptable_mangle", "iptable_nat", "iptable_filter"];

/// Judges devices and rules by what was tried inside.
pub fn netfilter(evidence: &Evidence<'_>) -> Finding {
    let Some(inside) = &evidence.trials.inside else {
        return Finding::untried("no namespace to try it in");
    };
    let devices: [(&str, Modules); 2] = [("bridge", &["bridge"]), ("veth", &["veth"])];
    for (kind, modules) in devices {
        if let Some(Outcome::Fails(failure)) = inside.devices.get(kind) {
            let what = format!("no network device of kind {kind}: {}", failure.text);
            return explain(evidence, Finding::problem(what), modules);
        }
    }
    let detaches = evidence.network().is_ok_and(|network| network.detach_netns);
    if detaches && evidence.host.tools.nsenter.is_none() {
        let what = "no `nsenter` in PATH, by which dockerd enters a detached network namespace";
        return Finding::problem(what).fix(Fix::Package(Package::UtilLinux));
    }
    if evidence.daemon_option("firewall-backend").as_deref() == Some("nftables") {
        return match inside.firewalls.iter().find(|own| own.name == "nft") {
            None => Finding::problem("dockerd is told to use nftables, and no `nft` is in PATH")
                .fix(Fix::Package(Package::Nftables)),
            Some(nft) => judge(evidence, nft, NFT),
        };
    }
    if evidence.daemon_turns_off("iptables") {
        return Finding::warn("dockerd is told not to use iptables").because(
            "containers reach no other hosts, and published ports work only through docker-proxy",
        );
    }
    iptables(evidence, &inside.firewalls)
}

/// Judges the backends that dockerd finds under the name of iptables.
fn iptables(evidence: &Evidence<'_>, firewalls: &[Firewall]) -> Finding {
    let named = |name| firewalls.iter().filter(move |own| own.name.starts_with(name));
    let Some(chosen) = named("iptables").find(|own| own.chosen) else {
        return Finding::problem("no `iptables` in PATH").fix(Fix::Package(Package::Iptables));
    };
    if let Outcome::Fails(failure) = &chosen.outcome {
        let Some(other) = named("iptables").find(|own| own.outcome.works()) else {
            return judge(evidence, chosen, modules_of(evidence, chosen));
        };
        let value = if other.name == "iptables" { Iptables::Path } else { Iptables::Legacy };
        return fails(chosen, failure)
            .because(format!("`{}` works", other.path.display()))
            .fix(Fix::Set("daemon.iptables", value.word().display().to_string()));
    }
    // IPv6's rules only matter to those who ask for IPv6.
    if evidence.settings.ipv6.value
        && let Some(own) = named("ip6tables").find(|own| own.chosen)
        && let Outcome::Fails(failure) = &own.outcome
    {
        return Finding { status: Status::Warn, ..fails(own, failure) };
    }
    judge(evidence, chosen, LEGACY)
}

fn fails(firewall: &Firewall, failure: &Failure) -> Finding {
    Finding::problem(format!("`{}` cannot create rules: {}", firewall.path.display(), failure.text))
}

fn judge(evidence: &Evidence<'_>, firewall: &Firewall, modules: Modules) -> Finding {
    if let Outcome::Fails(failure) = &firewall.outcome {
        return explain(evidence, fails(firewall, failure), modules);
    }
    let works = format!("bridge, veth and the rules of `{}` work", firewall.path.display());
    Finding::tried(&firewall.outcome, works)
}

/// Returns the modules of a backend: the links of `iptables` end in the program of its backend.
fn modules_of(evidence: &Evidence<'_>, firewall: &Firewall) -> Modules {
    let program = evidence.host.tools.iptables.as_deref().unwrap_or(&firewall.path);
    let is_nft = program.ends_with("xtables-nft-multi") || program.ends_with("iptables-nft");
    if firewall.name == "iptables" && is_nft { NFT_COMPAT } else { LEGACY }
}

/// Says why something failed, and what provides what the kernel lacks.
fn explain(evidence: &Evidence<'_>, finding: Finding, modules: Modules) -> Finding {
    let survey = evidence.survey;
    if finding.summary.contains("ermission denied") {
        // Of SELinux: moby#41230.
        return suspects(evidence, finding);
    }
    if !MISSING.iter().any(|sign| finding.summary.contains(sign)) {
        return finding;
    }
    let is_host = !survey.surroundings.wsl && survey.surroundings.container.is_none();
    if modules == NFT_COMPAT && is_host && survey.release.enterprise_linux() >= Some(10) {
        // The match `addrtype` is in a package that iptables does not bring (docker-ce-packaging#1340).
        return finding
            .because("RHEL 10 has `xt_addrtype` in the package kernel-modules-extra; if that is gone for this kernel, update the kernel and reboot")
            .root(format!("dnf install -y kernel-modules-extra-{}", survey.kernel))
            .fix(Fix::Modules(&["xt_addrtype"]));
    }
    finding.fix(Fix::Modules(modules))
}
