//! `netfilter`: network devices and firewall rules, as dockerd creates them in its namespace.

use crate::check::finding::{Evidence, Finding};
use crate::check::fix::Fix;
use crate::check::packages::Package;
use crate::check::trials::{Failure, Firewall, Inside, Outcome};
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

/// The modules that root has to load, by what a program talks to; the kernel loads the others by
/// itself. The legacy ones are those that moby's `docs/rootless.md` names for openSUSE 15.
const NFT: &[&str] = &["nf_tables"];
const NFT_COMPAT: &[&str] = &["nf_tables", "nft_compat"];
const LEGACY: &[&str] = &["ip_tables", "iptable_mangle", "iptable_nat", "iptable_filter"];

/// The modules of the devices that cannot be created: bridge, veth.
const DEVICES: [(&str, &[&str]); 2] = [("bridge", &["bridge"]), ("veth", &["veth"])];

/// Judges devices and rules by what was tried inside.
pub fn netfilter(evidence: &Evidence<'_>) -> Finding {
    let Some(inside) = &evidence.trials.inside else {
        return Finding::untried("no namespace to try it in");
    };
    if let Some(finding) = devices(inside) {
        return finding;
    }
    if evidence.daemon_option("firewall-backend", None).as_deref() == Some("nftables") {
        return nftables(evidence, inside);
    }
    if evidence.daemon_turns_off("iptables") {
        return Finding::warn("dockerd is told not to use iptables").because(
            "containers reach no other hosts, and published ports work only through docker-proxy",
        );
    }
    iptables(evidence, inside)
}

/// Returns what is wrong with the network devices, if anything is.
fn devices(inside: &Inside) -> Option<Finding> {
    for (kind, modules) in DEVICES {
        match inside.devices.get(kind) {
            Some(Outcome::Works) => {}
            Some(Outcome::Fails(failure)) => {
                let finding =
                    Finding::problem(format!("no network device of kind {kind}: {}", failure.text));
                let missing = failure.errno.as_deref() == Some("EOPNOTSUPP") || is_missing(failure);
                return Some(if missing { finding.fix(Fix::Modules(modules)) } else { finding });
            }
            _ => {
                return Some(Finding::untried(format!(
                    "a network device of kind {kind} was not tried"
                )));
            }
        }
    }
    None
}

/// Judges dockerd's own backend, which calls `nft` (29 and later); it never chooses that itself.
fn nftables(evidence: &Evidence<'_>, inside: &Inside) -> Finding {
    let why = "dockerd is told to use the firewall backend nftables";
    match inside.firewalls.iter().find(|own| own.name == "nft") {
        None => {
            Finding::problem("no `nft` in PATH").because(why).fix(Fix::Package(Package::Nftables))
        }
        Some(nft) => match &nft.outcome {
            Outcome::Fails(failure) => {
                explain(evidence, fails(nft, failure).because(why), failure, NFT)
            }
            outcome => plain(nft, outcome),
        },
    }
}

/// Judges the backends that dockerd finds under the name of iptables.
fn iptables(evidence: &Evidence<'_>, inside: &Inside) -> Finding {
    let is_ipv4 = |own: &&Firewall| own.name.starts_with("iptables");
    let ipv4: Vec<&Firewall> = inside.firewalls.iter().filter(is_ipv4).collect();
    if ipv4.is_empty() {
        return Finding::problem("no `iptables` in PATH").fix(Fix::Package(Package::Iptables));
    }
    let Some(chosen) = ipv4.iter().find(|own| own.chosen) else {
        return other_backend(evidence, &ipv4, Finding::problem("dockerd will find no `iptables`"));
    };
    match &chosen.outcome {
        Outcome::Works => ipv6(evidence, inside, chosen),
        Outcome::Fails(failure) if ipv4.iter().any(|own| own.outcome.works()) => {
            other_backend(evidence, &ipv4, fails(chosen, failure))
        }
        Outcome::Fails(failure) => {
            explain(evidence, fails(chosen, failure), failure, modules_of(evidence, chosen))
        }
        outcome => plain(chosen, outcome),
    }
}

/// Reports a backend that works or was not tried.
fn plain(firewall: &Firewall, outcome: &Outcome) -> Finding {
    let path = firewall.path.display();
    match outcome {
        Outcome::NotTried(why) => {
            Finding::untried(format!("the rules of `{path}` were not tried: {why}"))
        }
        _ => Finding::ok(format!("bridge, veth and the rules of `{path}` work")),
    }
}

fn fails(firewall: &Firewall, failure: &Failure) -> Finding {
    Finding::problem(format!("`{}` cannot create rules: {}", firewall.path.display(), failure.text))
}

/// Judges IPv6's rules, which only matter to those who ask for IPv6.
fn ipv6(evidence: &Evidence<'_>, inside: &Inside, chosen: &Firewall) -> Finding {
    let is_ipv6 = |own: &&Firewall| own.chosen && own.name.starts_with("ip6tables");
    let mut own = inside.firewalls.iter().filter(is_ipv6);
    let failure = own.find_map(|own| Some((own, own.outcome.failure()?)));
    let asked = evidence.settings.ipv6.value
        || evidence.settings.args().long("ip6tables").is_some()
        || evidence.host.session.daemon_json.may_set("ip6tables");
    match failure {
        Some((own, failure)) if asked && !evidence.daemon_turns_off("ip6tables") => {
            Finding::warn(format!("`{}` cannot create rules: {}", own.path.display(), failure.text))
        }
        _ => plain(chosen, &chosen.outcome),
    }
}

/// Chooses another backend that works.
fn other_backend(evidence: &Evidence<'_>, ipv4: &[&Firewall], finding: Finding) -> Finding {
    let Some(other) = ipv4.iter().find(|own| !own.chosen && own.outcome.works()) else {
        return finding;
    };
    let value = if other.name == "iptables" { Iptables::Path } else { Iptables::Legacy };
    let finding = finding.because(format!("`{}` works", other.path.display()));
    if value == Iptables::Legacy && !evidence.settings.copies_up("/run") {
        return finding
            .tell("add \"/run\" to rootlesskit.copy-up, so that daemon.iptables can choose it");
    }
    finding.fix(Fix::Set("daemon.iptables", value.word().to_owned()))
}

/// Returns the modules of a backend: the links of `iptables` end in the program of its backend.
fn modules_of(evidence: &Evidence<'_>, firewall: &Firewall) -> &'static [&'static str] {
    let program = evidence.host.tools.iptables.as_deref().unwrap_or(&firewall.path);
    let name = program.file_name().unwrap_or_default();
    let is_nft = name == "xtables-nft-multi" || name == "iptables-nft";
    if firewall.name == "iptables" && is_nft { NFT_COMPAT } else { LEGACY }
}

/// Says why no backend works, and what provides one.
fn explain(
    evidence: &Evidence<'_>,
    finding: Finding,
    failure: &Failure,
    modules: &'static [&'static str],
) -> Finding {
    let survey = evidence.survey;
    if !is_missing(failure) {
        if evidence.host.kernel.selinux && failure.text.contains("ermission denied") {
            return finding.tell(
                "SELinux may deny it (moby#41230): as root, see `ausearch -m AVC -ts recent`",
            );
        }
        return finding;
    }
    let is_rhel_10 = survey.release.enterprise_linux().is_some_and(|major| major >= 10);
    let on_the_host = !survey.surroundings.wsl && survey.surroundings.container.is_none();
    if !is_rhel_10 || !on_the_host || modules == NFT {
        return finding.fix(Fix::Modules(modules));
    }
    if modules == LEGACY {
        let finding = finding.because("RHEL 10 has no legacy tables, only nf_tables (moby#49020): remove this `iptables` from PATH");
        return finding.fix(Fix::Package(Package::Iptables));
    }
    // The match `addrtype` is in a package that iptables does not bring (docker-ce-packaging#1340).
    finding
        .because("RHEL 10 has `xt_addrtype` in the package kernel-modules-extra; if that is gone for this kernel, update the kernel and reboot")
        .root(format!("dnf install -y kernel-modules-extra-{}", survey.kernel))
        .fix(Fix::Modules(&["xt_addrtype"]))
}

/// Returns whether the kernel lacks something, rather than denies it.
fn is_missing(failure: &Failure) -> bool {
    MISSING.iter().any(|sign| failure.text.contains(sign))
}
