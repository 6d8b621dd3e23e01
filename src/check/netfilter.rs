//! Firewall rules and network devices, as dockerd makes them in its namespace.

use std::ffi::OsStr;

use crate::check::distro;
use crate::check::distro::{Package, load_modules};
use crate::check::{Evidence, Finding};
use crate::facts::{Failure, Firewall, Inside, Outcome};
use crate::settings::DockerdArgs;
use crate::settings::{Iptables, Origin};

/// What a kernel says of a thing that it does not have, in the words of iptables, nft and ip.
const MISSING: [&str; 7] = [
    "do you need to insmod",
    "does not exist",
    "No such file or directory",
    "not supported",
    "missing kernel module",
    "Could not fetch rule set generation id",
    "Unknown device type",
];

/// `netfilter`: a bridge, a veth, and a rule of network address translation.
pub fn netfilter(evidence: &Evidence<'_>) -> Finding {
    let Some(inside) = &evidence.trials.inside else {
        let why = evidence.why_not_inside();
        return Finding::skip(format!("there is no namespace to try it in: {why}"));
    };
    let words = evidence.settings.args();
    if let Some(finding) = devices(evidence, inside) {
        return finding;
    }
    if wants_nftables(evidence, words) {
        return nftables(evidence, inside);
    }
    if turns_off(evidence, words, "iptables") {
        return Finding::warn("dockerd is told to do without iptables")
            .because("containers reach nothing beyond their bridge, as nothing translates their addresses")
            .because("published ports work only through docker-proxy");
    }
    iptables(evidence, words, inside)
}

/// Whether the words or `daemon.json` say `false` to `key`.
fn turns_off(evidence: &Evidence<'_>, words: DockerdArgs<'_>, key: &str) -> bool {
    words.turns_off(key) || evidence.host.session.daemon_json.turns_off(key)
}

/// Whether dockerd is told to write its rules by nft (29 and later); it never chooses that itself.
fn wants_nftables(evidence: &Evidence<'_>, words: DockerdArgs<'_>) -> bool {
    let stated = words.long("firewall-backend").flatten();
    let in_file = || {
        let text = evidence.host.session.daemon_json.text("firewall-backend");
        text.map(OsStr::new)
    };
    stated.or_else(in_file).is_some_and(|backend| backend == "nftables")
}

/// What is wrong with the network devices, if anything is.
fn devices(evidence: &Evidence<'_>, inside: &Inside) -> Option<Finding> {
    let outcome = |kind: &str| inside.devices.get(kind);
    let failed: Vec<(&str, &Failure)> = ["bridge", "veth"]
        .into_iter()
        .filter_map(|kind| Some((kind, outcome(kind)?.failure()?)))
        .collect();
    if let [(_, first), ..] = failed[..] {
        let kinds: Vec<&str> = failed.iter().map(|(kind, _)| *kind).collect();
        let what = format!("no network device of kind {}: {}", kinds.join(" and "), first.text);
        let finding = Finding::fail(what)
            .because("each container gets a veth, and each of dockerd's networks a bridge");
        let missing = matches!(first.errno.as_deref(), Some("EOPNOTSUPP")) || is_missing(first);
        return Some(if missing {
            from_kernel(evidence, finding, "devices", &kinds)
        } else {
            finding
        });
    }
    let untried = ["bridge", "veth"].into_iter().find_map(|kind| match outcome(kind) {
        Some(Outcome::NotTried(why)) => Some(format!("a {kind} was not tried: {why}")),
        None => Some(format!("a {kind} was not tried")),
        _ => None,
    });
    untried.map(Finding::skip)
}

/// dockerd's own backend: it calls `nft`.
fn nftables(evidence: &Evidence<'_>, inside: &Inside) -> Finding {
    let Some(nft) = inside.firewalls.iter().find(|own| own.name == "nft") else {
        let finding = Finding::fail("no `nft` is in PATH")
            .because("dockerd is told to use the firewall backend nftables");
        return distro::install_for(finding, &evidence.survey.release, Package::Nftables);
    };
    match &nft.outcome {
        Outcome::Works => works(nft),
        Outcome::NotTried(why) => untried(nft, why),
        Outcome::Fails(failure) => {
            let finding =
                fails(nft, failure).because("dockerd is told to use the firewall backend nftables");
            explain(evidence, finding, failure, Backend::Nft)
        }
    }
}

/// The backends that dockerd meets under the name of iptables.
fn iptables(evidence: &Evidence<'_>, words: DockerdArgs<'_>, inside: &Inside) -> Finding {
    let ipv4: Vec<&Firewall> =
        inside.firewalls.iter().filter(|own| own.name.starts_with("iptables")).collect();
    if ipv4.is_empty() {
        let finding = Finding::fail("no `iptables` is in PATH")
            .because("dockerd makes the containers' network by it, and does not start without it");
        return distro::install_for(finding, &evidence.survey.release, Package::Iptables);
    }
    let Some(chosen) = ipv4.iter().find(|own| own.chosen) else {
        let finding = Finding::fail("dockerd will find no `iptables`");
        return other_backend(evidence, &ipv4, finding).unwrap_or_else(|finding| finding);
    };
    match &chosen.outcome {
        Outcome::Works => ipv6(evidence, words, inside, chosen),
        Outcome::NotTried(why) => untried(chosen, why),
        Outcome::Fails(failure) => {
            let finding = fails(chosen, failure);
            other_backend(evidence, &ipv4, finding).unwrap_or_else(|finding| {
                explain(evidence, finding, failure, Backend::of(evidence, chosen))
            })
        }
    }
}

fn works(firewall: &Firewall) -> Finding {
    Finding::ok(format!("bridge, veth and the rules of `{}` work", firewall.path.display()))
}

fn fails(firewall: &Firewall, failure: &Failure) -> Finding {
    Finding::fail(format!(
        "the rules of `{}` do not work: {}",
        firewall.path.display(),
        failure.text
    ))
}

fn untried(firewall: &Firewall, why: &str) -> Finding {
    Finding::skip(format!("the rules of `{}` were not tried: {why}", firewall.path.display()))
}

/// IPv6's rules count for who asked for IPv6.
fn ipv6(
    evidence: &Evidence<'_>,
    words: DockerdArgs<'_>,
    inside: &Inside,
    chosen: &Firewall,
) -> Finding {
    let failure = inside
        .firewalls
        .iter()
        .filter(|own| own.chosen && own.name.starts_with("ip6tables"))
        .find_map(|own| Some((own, own.outcome.failure()?)));
    let Some((own, failure)) = failure else {
        return works(chosen);
    };
    let daemon_json = &evidence.host.session.daemon_json;
    let asked = evidence.settings.ipv6.value
        || words.long("ip6tables").is_some()
        || daemon_json.may_set("ip6tables");
    if !asked || turns_off(evidence, words, "ip6tables") {
        return works(chosen).because(format!(
            "the IPv6 rules of `{}` do not work, which nobody asks for: {}",
            own.path.display(),
            failure.text
        ));
    }
    Finding::warn(format!(
        "the IPv6 rules of `{}` do not work: {}",
        own.path.display(),
        failure.text
    ))
    .because("containers get no IPv6 network")
}

/// `finding` with the setting that chooses another backend, if one works; else `finding` again.
fn other_backend(
    evidence: &Evidence<'_>,
    ipv4: &[&Firewall],
    finding: Finding,
) -> Result<Finding, Finding> {
    let Some(other) = ipv4.iter().find(|own| !own.chosen && own.outcome.works()) else {
        return Err(finding);
    };
    let value = if other.name == "iptables" { Iptables::Path } else { Iptables::Legacy };
    let value = value.word();
    let finding = finding.because(format!("`{}` would work", other.path.display()));
    if value == "legacy" && !evidence.settings.copies_up("/run") {
        return Ok(finding
            .because("daemon.iptables can choose it only with \"/run\" in rootlesskit.copy-up"));
    }
    Ok(match &evidence.settings.iptables.origin {
        Origin::Variable(_) | Origin::CommandLine | Origin::Flag(_) => finding.because(format!(
            "set daemon.iptables to `{value}`, which is now set by the {}",
            evidence.settings.iptables.origin
        )),
        Origin::Default | Origin::File(..) => {
            let program = crate::words::quote(evidence.host.session.own_path.as_os_str());
            finding.user(format!("{} config set daemon.iptables {value}", program.display()))
        }
    })
}

/// Which part of the kernel a program talks to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Backend {
    /// iptables over nf_tables.
    NftCompat,
    /// The old tables.
    Legacy,
    /// nf_tables alone.
    Nft,
}

impl Backend {
    /// What `firewall` uses: the links of `iptables` end in the program of its backend.
    fn of(evidence: &Evidence<'_>, firewall: &Firewall) -> Self {
        let program = evidence.host.tools.iptables.as_deref().unwrap_or(&firewall.path);
        let name = program.file_name().unwrap_or_default();
        let is_nft = name == "xtables-nft-multi" || name == "iptables-nft";
        if firewall.name == "iptables" && is_nft { Self::NftCompat } else { Self::Legacy }
    }

    /// The modules that have to be loaded by root; the kernel loads the others by itself. The
    /// legacy ones are those that moby's `docs/rootless.md` names for openSUSE 15.
    fn modules(self) -> &'static [&'static str] {
        match self {
            Self::NftCompat => &["nf_tables", "nft_compat"],
            Self::Legacy => &["ip_tables", "iptable_mangle", "iptable_nat", "iptable_filter"],
            Self::Nft => &["nf_tables"],
        }
    }
}

/// Why no backend works, and what brings one.
fn explain(
    evidence: &Evidence<'_>,
    finding: Finding,
    failure: &Failure,
    backend: Backend,
) -> Finding {
    let survey = evidence.survey;
    if !is_missing(failure) {
        if evidence.host.kernel.selinux && failure.text.contains("ermission denied") {
            return finding.because(
                "SELinux may refuse it (moby#41230): `ausearch -m AVC -ts recent` shows it to root",
            );
        }
        return finding;
    }
    let finding = finding.because("the kernel lacks what the rules need");
    let major = distro::enterprise_linux(&survey.release);
    let on_the_host = !survey.surroundings.wsl && survey.surroundings.container.is_none();
    if let Some(10..) = major.filter(|_| on_the_host) {
        return enterprise_linux_10(evidence, finding, backend);
    }
    from_kernel(evidence, finding, "netfilter", backend.modules())
}

/// RHEL 10 has no legacy tables (moby#49020), and the match `addrtype` of dockerd's rules only in
/// a package that iptables no longer brings (docker-ce-packaging#1340).
fn enterprise_linux_10(evidence: &Evidence<'_>, finding: Finding, backend: Backend) -> Finding {
    let survey = evidence.survey;
    match backend {
        Backend::Legacy => {
            let finding =
                finding.because("RHEL 10 and later have no legacy tables, only nf_tables");
            let in_the_way = evidence.host.tools.iptables.as_deref().filter(|program| {
                !program.starts_with("/usr/sbin") && !program.starts_with("/usr/bin")
            });
            let finding = match in_the_way {
                Some(program) => finding.because(format!(
                    "`{}`, which PATH leads to first, has to go out of it",
                    program.display()
                )),
                None => finding,
            };
            distro::install_for(finding, &survey.release, Package::Iptables)
        }
        Backend::Nft => from_kernel(evidence, finding, "netfilter", backend.modules()),
        Backend::NftCompat => {
            let finding = finding
                .because("RHEL 10 and later have `xt_addrtype` in the package kernel-modules-extra")
                .because(
                    "if that package is gone for this kernel, update the kernel with it and reboot",
                )
                .root(format!("dnf install -y kernel-modules-extra-{}", survey.kernel));
            load_modules(finding, &survey.release, "netfilter", &["xt_addrtype"])
        }
    }
}

/// What brings modules into the kernel, by who owns the kernel.
pub(super) fn from_kernel(
    evidence: &Evidence<'_>,
    finding: Finding,
    purpose: &str,
    modules: &[&str],
) -> Finding {
    let survey = evidence.survey;
    let names = modules.join(", ");
    if survey.surroundings.wsl {
        return finding.because(format!(
            "Windows brings the kernel, and older ones lack {names}: run `wsl --update` and then \
             `wsl --shutdown` in Windows"
        ));
    }
    if survey.surroundings.container.is_some() {
        return finding
            .because(format!("the modules {names} have to be loaded on the container's host"));
    }
    if !survey.modules {
        return finding
            .because(format!("this kernel loads no modules: it has to be built with {names}"));
    }
    let finding = if survey.release.is_like("arch") {
        finding.because("after an update of the kernel, its modules are missing until a reboot")
    } else {
        finding
    };
    load_modules(finding, &survey.release, purpose, modules)
}

/// Whether the kernel lacks something, rather than refuses it.
fn is_missing(failure: &Failure) -> bool {
    MISSING.iter().any(|sign| failure.text.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;
    use crate::check::tests::Sample;
    use crate::facts::{DaemonJson, Release};
    use crate::settings::Settings;

    const NO_LEGACY: &str =
        "can't initialize iptables table `nat': Table does not exist (do you need to insmod?)";
    const NO_NFT: &str = "RULE_APPEND failed (No such file or directory): rule in chain PREROUTING";

    fn firewalls(sample: &mut Sample) -> &mut Vec<Firewall> {
        &mut sample.trials.inside.as_mut().expect("healthy").firewalls
    }

    /// The healthy host with these programs: name, whether dockerd takes it, and its failure.
    fn with(programs: &[(&str, bool, Option<&str>)]) -> Sample {
        let mut sample = Sample::healthy();
        *firewalls(&mut sample) = programs
            .iter()
            .map(|(name, chosen, failure)| Firewall {
                name: (*name).to_owned(),
                path: format!("/usr/sbin/{name}").into(),
                chosen: *chosen,
                outcome: failure.map_or(Outcome::Works, Outcome::fails),
            })
            .collect();
        sample
    }

    fn has(finding: &Finding, reason: &str) -> bool {
        finding.reasons.iter().any(|own| own.contains(reason))
    }

    #[test]
    fn a_healthy_host_names_the_program_that_works() {
        let finding = netfilter(&Sample::healthy().evidence());
        assert_eq!(
            finding,
            Finding::ok("bridge, veth and the rules of `/usr/sbin/iptables-legacy` work")
        );
    }

    #[test]
    fn what_was_not_tried_is_skipped() {
        let mut sample = Sample::healthy();
        firewalls(&mut sample)[1].outcome = Outcome::NotTried("no time".to_owned());
        let finding = netfilter(&sample.evidence());
        assert_eq!(finding.status, Status::Skip);
        assert!(finding.summary.ends_with("no time"));
        let inside = sample.trials.inside.as_mut().expect("healthy");
        inside.devices.remove("veth");
        let finding = netfilter(&sample.evidence());
        assert_eq!(finding, Finding::skip("a veth was not tried"));
        sample.trials.inside = None;
        let finding = netfilter(&sample.evidence());
        assert_eq!(finding.status, Status::Skip);
        assert!(finding.summary.contains("user-namespaces"));
    }

    #[test]
    fn devices_fail_by_name_and_get_modules_only_where_the_kernel_lacks_them() {
        let cases = [
            ("RTNETLINK answers: Operation not supported", vec!["modprobe -a veth"]),
            ("RTNETLINK answers: Operation not permitted", vec![]),
        ];
        for (text, commands) in cases {
            let mut sample = Sample::healthy();
            let inside = sample.trials.inside.as_mut().expect("healthy");
            inside.devices.insert("veth".to_owned(), Outcome::fails(text));
            let finding = netfilter(&sample.evidence());
            assert_eq!(finding.status, Status::Fail);
            assert!(finding.summary.contains("of kind veth"), "{finding:?}");
            let root: Vec<&String> = finding.fix.root.iter().skip(1).collect();
            assert_eq!(root, commands.iter().collect::<Vec<_>>(), "{text}");
        }
    }

    #[test]
    fn without_iptables_the_package_is_named() {
        let finding = netfilter(&with(&[]).evidence());
        assert_eq!(finding.status, Status::Fail);
        assert_eq!(finding.summary, "no `iptables` is in PATH");
        assert_eq!(finding.fix.root, ["apt-get install -y iptables"]);
    }

    #[test]
    fn a_backend_that_works_is_chosen_by_our_own_setting() {
        let cases = [
            (with(&[("iptables", true, Some(NO_NFT)), ("iptables-legacy", false, None)]), "legacy"),
            (
                with(&[("iptables", false, None), ("iptables-legacy", true, Some(NO_LEGACY))]),
                "path",
            ),
            (with(&[("iptables", false, None)]), "path"),
        ];
        for (mut sample, value) in cases {
            let finding = netfilter(&sample.evidence());
            assert_eq!(finding.status, Status::Fail);
            assert!(finding.fix.root.is_empty());
            assert_eq!(
                finding.fix.user,
                [format!("/usr/bin/dockerd-rootless config set daemon.iptables {value}")]
            );
            // The variable would win over the file.
            sample.settings.iptables.origin = Origin::Variable("DOCKERD_ROOTLESS_IPTABLES");
            let finding = netfilter(&sample.evidence());
            assert_eq!(finding.fix, Default::default());
            assert!(has(&finding, "DOCKERD_ROOTLESS_IPTABLES"), "{finding:?}");
        }
    }

    #[test]
    fn modules_go_by_the_backend() {
        let both = [("iptables", true, Some(NO_NFT)), ("iptables-legacy", false, Some(NO_LEGACY))];
        let finding = netfilter(&with(&both).evidence());
        assert_eq!(finding.status, Status::Fail);
        assert_eq!(
            finding.fix.root,
            [
                "tee /etc/modules-load.d/rootless-netfilter.conf >/dev/null <<'EOT'\nnf_tables\nnft_compat\nEOT",
                "modprobe -a nf_tables nft_compat"
            ]
        );
        let mut suse = with(&[("iptables", true, Some(NO_LEGACY))]);
        suse.survey.release =
            Release::parse("ID=opensuse-leap\nID_LIKE='suse opensuse'\nVERSION_ID=15.1");
        suse.host.tools.iptables = Some("/usr/sbin/xtables-legacy-multi".into());
        let finding = netfilter(&suse.evidence());
        assert_eq!(
            finding.fix.root[1],
            "modprobe -a ip_tables iptable_mangle iptable_nat iptable_filter"
        );
    }

    #[test]
    fn red_hat_10_needs_another_package() {
        let mut sample = with(&[(
            "iptables",
            true,
            Some("Warning: Extension addrtype revision 0 not supported, missing kernel module?"),
        )]);
        sample.survey.release =
            Release::parse("ID=almalinux\nID_LIKE='rhel centos fedora'\nVERSION_ID=10.2");
        sample.survey.kernel = "6.12.0-55.el10.x86_64".to_owned();
        let finding = netfilter(&sample.evidence());
        assert_eq!(
            finding.fix.root[0],
            "dnf install -y kernel-modules-extra-6.12.0-55.el10.x86_64"
        );
        assert_eq!(finding.fix.root[2], "modprobe -a xt_addrtype");
        sample.host.tools.iptables = Some("/usr/local/sbin/xtables-legacy-multi".into());
        let finding = netfilter(&sample.evidence());
        assert_eq!(finding.fix.root, ["dnf install -y iptables-nft"]);
    }

    #[test]
    fn no_module_is_asked_of_a_kernel_that_is_not_ours() {
        type Case = (fn(&mut Sample), &'static str);
        let cases: [Case; 4] = [
            (|s| s.survey.modules = false, "loads no modules"),
            (|s| s.survey.surroundings.wsl = true, "wsl --update"),
            (|s| s.survey.surroundings.container = Some("lxc".to_owned()), "container's host"),
            (|s| s.survey.release = Release::parse("ID=nixos"), "boot.kernelModules"),
        ];
        for (spoil, reason) in cases {
            let mut sample = with(&[("iptables", true, Some(NO_NFT))]);
            spoil(&mut sample);
            let finding = netfilter(&sample.evidence());
            assert_eq!(finding.status, Status::Fail);
            assert_eq!(finding.fix, Default::default(), "{reason}");
            assert!(has(&finding, reason), "{finding:?}");
        }
    }

    #[test]
    fn a_refusal_is_no_missing_module() {
        let mut sample = with(&[(
            "iptables",
            true,
            Some("can't open lock file /run/xtables.lock: Permission denied"),
        )]);
        assert_eq!(netfilter(&sample.evidence()).fix, Default::default());
        sample.host.kernel.selinux = true;
        let finding = netfilter(&sample.evidence());
        assert_eq!(finding.status, Status::Fail);
        assert!(has(&finding, "moby#41230"));
    }

    #[test]
    fn who_does_without_iptables_is_told_what_that_means() {
        let mut by_words = with(&[]);
        by_words.settings.dockerd_args = vec!["--iptables=false".into()];
        let mut by_file = with(&[]);
        by_file.host.session.daemon_json = DaemonJson::parse(r#"{"iptables": false}"#);
        for sample in [by_words, by_file] {
            let finding = netfilter(&sample.evidence());
            assert_eq!(finding.status, Status::Warn);
            assert!(has(&finding, "beyond their bridge") && has(&finding, "docker-proxy"));
        }
    }

    #[test]
    fn the_nftables_backend_needs_nft_and_no_iptables() {
        let mut sample = with(&[("iptables", true, Some(NO_LEGACY)), ("nft", false, None)]);
        sample.settings.dockerd_args = vec!["--firewall-backend=nftables".into()];
        let finding = netfilter(&sample.evidence());
        assert_eq!(finding, Finding::ok("bridge, veth and the rules of `/usr/sbin/nft` work"));
        sample.settings.dockerd_args.clear();
        sample.host.session.daemon_json = DaemonJson::parse(r#"{"firewall-backend": "nftables"}"#);
        assert_eq!(netfilter(&sample.evidence()).status, Status::Ok);
        firewalls(&mut sample)[1].outcome = Outcome::fails("Protocol not supported");
        let finding = netfilter(&sample.evidence());
        assert_eq!(finding.status, Status::Fail);
        assert_eq!(finding.fix.root[1], "modprobe -a nf_tables");
        firewalls(&mut sample).truncate(1);
        let finding = netfilter(&sample.evidence());
        assert_eq!(finding.summary, "no `nft` is in PATH");
        assert_eq!(finding.fix.root, ["apt-get install -y nftables"]);
        sample.settings.dockerd_args = vec!["--firewall-backend=iptables".into()];
        assert!(netfilter(&sample.evidence()).summary.contains("iptables"));
    }

    #[test]
    fn ipv6_rules_count_for_who_asks_for_ipv6() {
        let programs = [("iptables", true, None), ("ip6tables", true, Some(NO_NFT))];
        let mut sample = with(&programs);
        let finding = netfilter(&sample.evidence());
        assert_eq!(finding.status, Status::Ok);
        assert!(has(&finding, "nobody asks for"));
        sample.host.session.daemon_json = DaemonJson::parse(r#"{"ip6tables": true}"#);
        let finding = netfilter(&sample.evidence());
        assert_eq!(finding.status, Status::Warn);
        assert!(finding.summary.contains("/usr/sbin/ip6tables"));
        sample.host.session.daemon_json = DaemonJson::parse(r#"{"ip6tables": false}"#);
        assert_eq!(netfilter(&sample.evidence()).status, Status::Ok);
        sample.host.session.daemon_json = DaemonJson::Absent;
        sample.settings = Settings::resolve(&[]).expect("defaults");
        sample.settings.ipv6.value = true;
        assert_eq!(netfilter(&sample.evidence()).status, Status::Warn);
    }
}
