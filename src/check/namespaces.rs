//! User namespaces: whether they can be made, what may be done inside, and how many there may be.

use std::path::Path;

use crate::check::distro;
use crate::check::distro::{set_sysctl, write_file};
use crate::check::engine::gist;
use crate::check::{Evidence, Finding};
use crate::facts::{Failure, Outcome};

/// What RHEL's documentation and upstream's setup tool set.
const ENOUGH_NAMESPACES: u64 = 28_633;

/// Below this rootlesskit warns (`pkg/parent/warn.go`).
const FEW_NAMESPACES: u64 = 1024;

/// The quotas of the namespaces that rootlesskit, dockerd and containers make
/// (Documentation/admin-guide/sysctl/user.rst).
const QUOTAS: [&str; 7] = [
    "user.max_user_namespaces",
    "user.max_mnt_namespaces",
    "user.max_net_namespaces",
    "user.max_pid_namespaces",
    "user.max_ipc_namespaces",
    "user.max_uts_namespaces",
    "user.max_cgroup_namespaces",
];

/// `user-namespaces`: a namespace is made, and its owner makes others inside.
pub fn user_namespaces(evidence: &Evidence<'_>) -> Finding {
    let trials = evidence.trials;
    let failure = trials.user_namespace.failure().or_else(|| trials.capabilities.failure());
    // AppArmor goes by the path of the program: what counts is rootlesskit, not this program.
    if trials.rootlesskit.works() {
        let finding = Finding::ok("rootlesskit makes user namespaces, with capabilities inside");
        return match failure {
            None => finding,
            Some(Failure { text, .. }) => finding.because(format!(
                "this program may not ({text}), which only keeps checks from trying things inside"
            )),
        };
    }
    if let Some(failure) = trials.user_namespace.failure() {
        let what = format!("no user namespace can be made: {}", failure.text);
        return explain(evidence, failure, &what);
    }
    if let Some(failure) = trials.capabilities.failure() {
        let what = format!("a user namespace can be made, but not used: {}", failure.text);
        return explain(evidence, failure, &what);
    }
    // This program may, by a profile of its own, and rootlesskit has none.
    let stopped = trials.rootlesskit.failure().filter(|failure| {
        apparmor_restricts(evidence)
            && evidence.survey.apparmor.profile.is_none()
            && stopped_by_apparmor(failure)
    });
    if let Some(failure) = stopped {
        let what = format!("rootlesskit makes no user namespace: {}", gist(&failure.text));
        return apparmor(evidence, Finding::fail(what));
    }
    match (&trials.user_namespace, &trials.capabilities) {
        (Outcome::NotTried(why), _) | (_, Outcome::NotTried(why)) => {
            Finding::skip(format!("no user namespace was tried: {why}"))
        }
        _ => Finding::ok("user namespaces can be made, with capabilities inside"),
    }
}

/// The cause behind the system's error, and what mends it.
fn explain(evidence: &Evidence<'_>, failure: &Failure, what: &str) -> Finding {
    match failure.errno.as_deref() {
        Some("ENOSPC" | "EUSERS") => exhausted(evidence, Finding::fail(what)),
        Some("EINVAL" | "ENOSYS") => unsupported(evidence, Finding::fail(what)),
        _ => denied(evidence, failure, Finding::fail(what)),
    }
}

/// ENOSPC, and EUSERS before Linux 4.9: a quota, or 32 namespaces one in another.
fn exhausted(evidence: &Evidence<'_>, finding: Finding) -> Finding {
    let survey = evidence.survey;
    let zero = quotas_of_none(evidence);
    if !zero.is_empty() {
        return zero.into_iter().fold(finding, |finding, name| {
            raise(evidence, finding.because(format!("`{name}` is 0")), name)
        });
    }
    if survey.surroundings.nested {
        return finding.because(
            "this session is in a user namespace itself, and the quotas of the outer one count as \
             well: raise `user.max_user_namespaces` there, as it cannot be raised from here",
        );
    }
    match survey.sysctl_number(QUOTAS[0]) {
        Some(limit) => {
            let more = limit.saturating_mul(2).max(ENOUGH_NAMESPACES).to_string();
            let finding = finding.because(format!(
                "all of the {limit} user namespaces of `{}` are in use, or 32 lie in one another",
                QUOTAS[0]
            ));
            set_sysctl(finding, &survey.release, QUOTAS[0], &more)
        }
        None => finding.because(format!("`{}` cannot be read", QUOTAS[0])),
    }
}

/// The quotas that are 0.
fn quotas_of_none(evidence: &Evidence<'_>) -> Vec<&'static str> {
    QUOTAS.into_iter().filter(|name| evidence.survey.sysctl_number(name) == Some(0)).collect()
}

/// EINVAL and ENOSYS: the kernel has none, or is RHEL 7's, which says EINVAL to a quota of 0 as well
/// (moby/buildkit#1188).
fn unsupported(evidence: &Evidence<'_>, finding: Finding) -> Finding {
    if needs_boot_word(evidence) {
        return with_boot_word(evidence, finding);
    }
    if !quotas_of_none(evidence).is_empty() {
        return exhausted(evidence, finding);
    }
    let finding = finding.because("the kernel has no user namespaces (CONFIG_USER_NS)");
    // WSL 1 says that it is Linux 4.4, and WSL 2 began with 4.19.
    if evidence.survey.surroundings.wsl && evidence.survey.kernel_version() == Some((4, 4)) {
        return finding
            .because("WSL 1 has none: run `wsl --set-version DISTRIBUTION 2` in Windows");
    }
    finding
}

/// RHEL and CentOS 7.5 and older make no user namespaces unless the boot line says so.
fn needs_boot_word(evidence: &Evidence<'_>) -> bool {
    let survey = evidence.survey;
    distro::enterprise_linux_7_minor(&survey.release, &survey.kernel)
        .is_some_and(|minor| minor <= 5)
        && !survey.boot_words.split_whitespace().any(|word| word == "user_namespace.enable=1")
}

fn with_boot_word(evidence: &Evidence<'_>, finding: Finding) -> Finding {
    let finding = finding
        .because("RHEL and CentOS 7.5 and older need `user_namespace.enable=1` on the boot line")
        .because("the host has to be rebooted for it")
        .root("grubby --update-kernel=ALL --args=user_namespace.enable=1");
    raise(evidence, finding, QUOTAS[0])
}

/// EPERM and EACCES: causes that are certain each with its remedy, or else all suspects.
fn denied(evidence: &Evidence<'_>, failure: &Failure, mut finding: Finding) -> Finding {
    let survey = evidence.survey;
    let surroundings = &survey.surroundings;
    let mut certain = false;
    if survey.sysctl_number("kernel.unprivileged_userns_clone") == Some(0) {
        certain = true;
        finding = finding.because(unprivileged_userns_clone(evidence));
        finding = set_sysctl(finding, &survey.release, "kernel.unprivileged_userns_clone", "1");
    }
    if needs_boot_word(evidence) {
        certain = true;
        finding = with_boot_word(evidence, finding);
    }
    if surroundings.chroot && failure.errno.as_deref() != Some("EACCES") {
        certain = true;
        finding = finding.because(
            "this session is in a chroot(2), where the kernel makes no user namespace: log in \
             outside of it, or enter the tree by pivot_root(2), as systemd-nspawn does",
        );
    }
    if apparmor_restricts(evidence) && surroundings.container.is_none() {
        return apparmor(evidence, finding);
    }
    if certain {
        return finding;
    }
    suspects(evidence, finding)
}

/// Why `kernel.unprivileged_userns_clone` is 0.
fn unprivileged_userns_clone(evidence: &Evidence<'_>) -> String {
    let release = &evidence.survey.release;
    let whose = match (release.id.as_str(), release.version()) {
        ("debian", Some((major @ 9..=10, _))) => format!(", the default of Debian {major}"),
        _ if release.is_like("arch") => ", the default of Arch's hardened kernel".to_owned(),
        _ => String::new(),
    };
    format!("`kernel.unprivileged_userns_clone` is 0{whose}")
}

/// What may be behind a refusal where nothing says so for certain.
fn suspects(evidence: &Evidence<'_>, finding: Finding) -> Finding {
    let surroundings = &evidence.survey.surroundings;
    let mut found = Vec::new();
    if let Some(manager) = &surroundings.container {
        found.push(format!(
            "this is a container, and its manager does not allow it: {}",
            container_option(manager)
        ));
    } else if surroundings.seccomp {
        found.push(
            "a seccomp filter is at work: look for `RestrictNamespaces=` and `SystemCallFilter=` \
             in the unit that this session runs in"
                .to_owned(),
        );
    }
    if surroundings.nested {
        found.push(
            "this session is in a user namespace itself, which may lack this user's ids: \
             compare /proc/self/uid_map"
                .to_owned(),
        );
    }
    if evidence.host.kernel.selinux {
        found.push(
            "SELinux may refuse it: `ausearch -m AVC -ts recent` shows it to root".to_owned(),
        );
    }
    if found.is_empty() {
        found.push(
            "a security module or a patch of the kernel refuses it; dmesg may say which".to_owned(),
        );
    }
    found.into_iter().fold(finding, Finding::because)
}

/// What a container's manager is to be told.
fn container_option(manager: &str) -> &'static str {
    match manager {
        "docker" => {
            "start it with `--security-opt seccomp=unconfined --security-opt apparmor=unconfined \
             --security-opt systempaths=unconfined`, or with `--privileged`"
        }
        "podman" => {
            "start it with `--security-opt seccomp=unconfined --security-opt label=disable \
             --security-opt unmask=ALL`, or with `--privileged`"
        }
        "lxc" | "lxd" | "incus" => {
            "set `security.nesting=true` on it (Incus, LXD), or `features: nesting=1` (Proxmox VE)"
        }
        "kubernetes" | "kubepods" => {
            "give it `securityContext` with `seccompProfile` and `appArmorProfile` of type \
             `Unconfined` and `procMount: Unmasked`, or `privileged: true`"
        }
        _ => "its seccomp filter has to let clone(2), unshare(2) and mount(2) pass",
    }
}

/// Whether Ubuntu's restriction is on (23.10 and later).
fn apparmor_restricts(evidence: &Evidence<'_>) -> bool {
    evidence
        .survey
        .sysctl_number("kernel.apparmor_restrict_unprivileged_userns")
        .is_some_and(|value| value != 0)
}

/// Whether rootlesskit met what AppArmor's restriction does to it: its child cannot be executed
/// (rootlesskit#421).
fn stopped_by_apparmor(failure: &Failure) -> bool {
    failure.text.contains("fork/exec")
}

/// AppArmor lets only programs with a profile of their own make user namespaces.
fn apparmor(evidence: &Evidence<'_>, finding: Finding) -> Finding {
    let apparmor = &evidence.survey.apparmor;
    let finding = finding.because(
        "`kernel.apparmor_restrict_unprivileged_userns` is on: AppArmor lets only programs with a \
         profile use user namespaces (Ubuntu 23.10 and later)",
    );
    let program =
        apparmor.rootlesskit.as_deref().or_else(|| evidence.host.tools.rootlesskit.path());
    let Some(program) = program else {
        return finding.because("there is no rootlesskit yet, which would need the profile");
    };
    if let Some(profile) = &apparmor.profile {
        return load_profile(evidence, finding, profile);
    }
    let finding = finding.because(format!("no profile is for `{}`", program.display()));
    if !apparmor.knows_userns {
        return finding.because(
            "AppArmor's parser is older than 4.0 and knows no such profile: upgrade apparmor",
        );
    }
    match profile_for(program) {
        Some((file, text)) => {
            finding.root(write_file(&file, &text)).root(format!("apparmor_parser -r {file}"))
        }
        None => {
            finding.because("its path cannot be written in a profile: move it to a plainer one")
        }
    }
}

/// A profile is there; whether it is at work is known only if rootlesskit was tried.
fn load_profile(evidence: &Evidence<'_>, finding: Finding, profile: &Path) -> Finding {
    let shown = profile.display();
    if evidence.trials.rootlesskit.failure().is_some_and(stopped_by_apparmor) {
        let file = crate::words::quote(profile.as_os_str());
        return finding
            .because(format!("`{shown}` allows it, but is not loaded"))
            .root(format!("apparmor_parser -r {}", file.display()));
    }
    Finding::skip("this program may not make user namespaces, and rootlesskit could not be tried")
        .because(format!("`{shown}` lets rootlesskit make them; see `rootlesskit`"))
}

/// The file and the text of a profile for `program`, named as Ubuntu names them. Paths are
/// patterns there (apparmor.d(5)), so that what is not plain is left to a person.
fn profile_for(program: &Path) -> Option<(String, String)> {
    let path = program.to_str()?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if !path.starts_with('/') || !path.chars().all(is_plain) {
        return None;
    }
    let name = path.trim_start_matches('/').replace('/', ".");
    let text = format!(
        "abi <abi/4.0>,\ninclude <tunables/global>\n\n{path} flags=(unconfined) {{\n  userns,\n  \
         include if exists <local/{name}>\n}}"
    );
    Some((format!("/etc/apparmor.d/{name}"), text))
}

/// `user-namespace-quota`: the limits of `/proc/sys/user`.
pub fn user_namespace_quota(evidence: &Evidence<'_>) -> Finding {
    let survey = evidence.survey;
    if survey.sysctl_number(QUOTAS[0]).is_none() {
        return Finding::skip(match survey.kernel_version() {
            Some(version) if version < (4, 9) => {
                format!("kernel {} has no `{}`", survey.kernel, QUOTAS[0])
            }
            _ => format!("`{}` cannot be read", QUOTAS[0]),
        });
    }
    let limits = QUOTAS.map(|name| (name, survey.sysctl_number(name)));
    let low: Vec<(&str, u64)> = limits
        .into_iter()
        .filter_map(|(name, limit)| Some((name, limit?)))
        .filter(|(_, limit)| *limit < FEW_NAMESPACES)
        .collect();
    let shown: Vec<String> =
        low.iter().map(|(name, limit)| format!("`{name}` is {limit}")).collect();
    let finding = if low.is_empty() {
        return Finding::ok(format!(
            "`{}` is {}",
            QUOTAS[0],
            survey.sysctl(QUOTAS[0]).unwrap_or_default()
        ));
    } else if low.iter().any(|(_, limit)| *limit == 0) {
        Finding::fail(shown.join(", "))
    } else {
        Finding::warn(shown.join(", ")).because(
            "each container takes one of each kind, and does not start once one kind is used up",
        )
    };
    low.into_iter().fold(finding, |finding, (name, _)| raise(evidence, finding, name))
}

/// `finding` with the commands that raise the quota `name`.
fn raise(evidence: &Evidence<'_>, finding: Finding, name: &str) -> Finding {
    let enough = ENOUGH_NAMESPACES.to_string();
    set_sysctl(finding, &evidence.survey.release, name, &enough)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;
    use crate::check::tests::Sample;
    use crate::facts::Release;

    fn fails(errno: &str) -> Outcome {
        Outcome::Fails(Failure { errno: Some(errno.to_owned()), text: format!("unshare: {errno}") })
    }

    /// A host without user namespaces, by `errno`, for us and for rootlesskit.
    fn sample(errno: &str) -> Sample {
        let mut sample = Sample::healthy();
        sample.trials.user_namespace = fails(errno);
        sample.trials.capabilities = Outcome::NotTried("no namespace".to_owned());
        sample.trials.rootlesskit = Outcome::fails(
            "failed to start the child: fork/exec /proc/self/exe: permission denied",
        );
        sample
    }

    fn set(sample: &mut Sample, name: &str, value: &str) {
        sample.survey.sysctls.insert(name.to_owned(), value.to_owned());
    }

    fn ubuntu(errno: &str) -> Sample {
        let mut sample = sample(errno);
        sample.survey.release = Release::parse("ID=ubuntu\nID_LIKE=debian\nVERSION_ID=24.04");
        sample.survey.apparmor.enabled = true;
        sample.survey.apparmor.knows_userns = true;
        set(&mut sample, "kernel.apparmor_restrict_unprivileged_userns", "1");
        sample
    }

    #[track_caller]
    fn failed_with(sample: &Sample, reason: &str) -> Finding {
        let finding = user_namespaces(&sample.evidence());
        assert_eq!(finding.status, Status::Fail, "{finding:?}");
        assert!(
            finding.reasons.iter().any(|own| own.contains(reason)),
            "{reason:?} is not in {finding:?}"
        );
        finding
    }

    #[test]
    fn a_healthy_host_passes_and_what_was_not_tried_does_not() {
        let mut sample = Sample::healthy();
        assert_eq!(user_namespaces(&sample.evidence()).status, Status::Ok);
        sample.trials.rootlesskit = Outcome::NotTried("it is missing".to_owned());
        assert_eq!(user_namespaces(&sample.evidence()).status, Status::Ok);
        sample.trials.capabilities = Outcome::NotTried("no time".to_owned());
        let finding = user_namespaces(&sample.evidence());
        assert_eq!(finding.status, Status::Skip);
        assert!(finding.summary.contains("no time"));
    }

    #[test]
    fn rootlesskit_counts_more_than_this_program() {
        let mut sample = ubuntu("EPERM");
        sample.trials.rootlesskit = Outcome::Works;
        let finding = user_namespaces(&sample.evidence());
        assert_eq!(finding.status, Status::Ok);
        assert!(finding.reasons[0].contains("unshare: EPERM"));
    }

    #[test]
    fn debians_switch_is_turned_on() {
        let mut sample = sample("EPERM");
        sample.survey.release = Release::parse("ID=debian\nVERSION_ID=10");
        set(&mut sample, "kernel.unprivileged_userns_clone", "0");
        let finding = failed_with(&sample, "is 0, the default of Debian 10");
        assert_eq!(
            finding.fix.root[1],
            "sysctl -p /etc/sysctl.d/99-zz-kernel.unprivileged_userns_clone.conf"
        );
        assert!(finding.fix.root[0].contains("\nkernel.unprivileged_userns_clone = 1\n"));
    }

    #[test]
    fn no_space_is_a_quota() {
        let mut at_zero = sample("ENOSPC");
        set(&mut at_zero, "user.max_user_namespaces", "0");
        at_zero.survey.surroundings.nested = true;
        let finding = failed_with(&at_zero, "`user.max_user_namespaces` is 0");
        assert!(finding.fix.root[0].contains("\nuser.max_user_namespaces = 28633\n"));

        let used_up = sample("EUSERS");
        let finding = failed_with(&used_up, "all of the 63000");
        assert!(finding.fix.root[0].contains("= 126000\n"));

        let mut nested = sample("ENOSPC");
        nested.survey.surroundings.nested = true;
        assert_eq!(failed_with(&nested, "outer").fix, Default::default());

        let mut inside = Sample::healthy();
        inside.trials.rootlesskit = Outcome::default();
        inside.trials.capabilities = fails("ENOSPC");
        set(&mut inside, "user.max_net_namespaces", "0");
        let finding = failed_with(&inside, "`user.max_net_namespaces` is 0");
        assert!(finding.fix.root[0].contains("max_net_namespaces = 28633"));
    }

    #[test]
    fn ubuntu_needs_a_profile_for_this_rootlesskit() {
        for (path, name) in [
            ("/usr/bin/rootlesskit", "usr.bin.rootlesskit"),
            ("/home/u/bin/rootlesskit", "home.u.bin.rootlesskit"),
        ] {
            let mut sample = ubuntu("EACCES");
            sample.survey.apparmor.rootlesskit = Some(path.into());
            let finding = failed_with(&sample, path);
            assert_eq!(
                finding.fix.root,
                [
                    format!(
                        "tee /etc/apparmor.d/{name} >/dev/null <<'EOT'\nabi <abi/4.0>,\ninclude \
                         <tunables/global>\n\n{path} flags=(unconfined) {{\n  userns,\n  include if \
                         exists <local/{name}>\n}}\nEOT"
                    ),
                    format!("apparmor_parser -r /etc/apparmor.d/{name}")
                ]
            );
        }
    }

    #[test]
    fn capabilities_that_ubuntu_takes_away_need_the_same_profile() {
        let mut sample = ubuntu("EPERM");
        sample.trials.user_namespace = Outcome::Works;
        sample.trials.capabilities = fails("EPERM");
        let finding = failed_with(&sample, "apparmor_restrict_unprivileged_userns");
        assert!(finding.summary.contains("but not used"));
        assert!(finding.fix.root[0].contains("/usr/bin/rootlesskit flags=(unconfined)"));

        // This program has a profile of its own, and rootlesskit none.
        sample.trials.capabilities = Outcome::Works;
        let finding = failed_with(&sample, "apparmor_restrict_unprivileged_userns");
        assert!(finding.summary.contains("fork/exec"));
        sample.trials.rootlesskit = Outcome::fails("newuidmap failed");
        assert_eq!(user_namespaces(&sample.evidence()).status, Status::Ok);
    }

    #[test]
    fn a_profile_that_is_there_is_loaded_or_taken_for_loaded() {
        let mut sample = ubuntu("EACCES");
        sample.survey.apparmor.profile = Some("/etc/apparmor.d/rootlesskit".into());
        let finding = failed_with(&sample, "not loaded");
        assert_eq!(finding.fix.root, ["apparmor_parser -r /etc/apparmor.d/rootlesskit"]);
        sample.trials.rootlesskit = Outcome::fails("newuidmap failed");
        let finding = user_namespaces(&sample.evidence());
        assert_eq!(finding.status, Status::Skip);
        assert_eq!(finding.fix, Default::default());
    }

    #[test]
    fn no_profile_is_printed_that_would_not_parse() {
        let mut old_parser = ubuntu("EACCES");
        old_parser.survey.apparmor.knows_userns = false;
        assert_eq!(failed_with(&old_parser, "older than 4.0").fix, Default::default());
        let mut odd = ubuntu("EACCES");
        odd.survey.apparmor.rootlesskit = Some("/home/u x/{a}/rootlesskit".into());
        assert_eq!(failed_with(&odd, "plainer").fix, Default::default());
        let mut container = ubuntu("EPERM");
        container.survey.surroundings.container = Some("lxc".to_owned());
        let finding = failed_with(&container, "security.nesting=true");
        assert_eq!(finding.fix, Default::default());
    }

    #[test]
    fn old_enterprise_linux_needs_a_boot_word_and_newer_a_quota() {
        let mut sample = sample("EINVAL");
        sample.survey.release = Release::parse("ID=centos\nID_LIKE='rhel fedora'\nVERSION_ID=7");
        sample.survey.kernel = "3.10.0-862.el7.x86_64".to_owned();
        set(&mut sample, "user.max_user_namespaces", "0");
        let finding = failed_with(&sample, "7.5 and older");
        assert_eq!(
            finding.fix.root[0],
            "grubby --update-kernel=ALL --args=user_namespace.enable=1"
        );
        assert!(finding.fix.root[1].contains("= 28633"));
        sample.survey.boot_words = "ro user_namespace.enable=1 quiet".to_owned();
        let finding = failed_with(&sample, "is 0");
        assert!(finding.fix.root[0].starts_with("tee /etc/sysctl.d/"));
        sample.survey.boot_words.clear();
        sample.survey.kernel = "3.10.0-1160.el7.x86_64".to_owned();
        for errno in ["EINVAL", "ENOSPC"] {
            sample.trials.user_namespace = fails(errno);
            let finding = failed_with(&sample, "is 0");
            assert!(finding.fix.root[0].starts_with("tee /etc/sysctl.d/"));
            assert_eq!(finding.reasons.len(), 1, "{finding:?}");
        }
        set(&mut sample, "user.max_user_namespaces", "28633");
        sample.trials.user_namespace = fails("EINVAL");
        assert_eq!(failed_with(&sample, "CONFIG_USER_NS").fix, Default::default());
    }

    #[test]
    fn what_cannot_be_mended_from_inside_is_said_without_a_command() {
        type Case = (fn(&mut Sample), &'static str);
        let cases: [Case; 7] = [
            (|s| s.survey.surroundings.chroot = true, "chroot(2)"),
            (|s| s.survey.surroundings.container = Some("docker".to_owned()), "seccomp=unconfined"),
            (|s| s.survey.surroundings.container = Some("podman".to_owned()), "unmask=ALL"),
            (|s| s.survey.surroundings.seccomp = true, "RestrictNamespaces="),
            (|s| s.survey.surroundings.nested = true, "uid_map"),
            (|s| s.host.kernel.selinux = true, "SELinux"),
            (|_| (), "security module"),
        ];
        for (spoil, reason) in cases {
            let mut sample = sample("EPERM");
            spoil(&mut sample);
            assert_eq!(failed_with(&sample, reason).fix, Default::default(), "{reason}");
        }
    }

    #[test]
    fn only_the_first_wsl_is_to_be_replaced() {
        let mut sample = sample("EINVAL");
        sample.survey.surroundings.wsl = true;
        sample.survey.kernel = "4.4.0-19041-Microsoft".to_owned();
        failed_with(&sample, "wsl --set-version");
        sample.survey.kernel = "6.6.87.2-microsoft-standard-WSL2".to_owned();
        assert_eq!(failed_with(&sample, "CONFIG_USER_NS").reasons.len(), 1);
    }

    #[test]
    fn quotas_fail_at_zero_and_warn_when_low() {
        let cases = [
            ("user.max_user_namespaces", "0", Status::Fail),
            ("user.max_net_namespaces", "0", Status::Fail),
            ("user.max_net_namespaces", "1023", Status::Warn),
            ("user.max_net_namespaces", "1024", Status::Ok),
        ];
        for (name, value, status) in cases {
            let mut sample = Sample::healthy();
            set(&mut sample, name, value);
            let finding = user_namespace_quota(&sample.evidence());
            assert_eq!(finding.status, status, "{name} {value}");
            if status != Status::Ok {
                assert_eq!(finding.summary, format!("`{name}` is {value}"));
                assert!(finding.fix.root[0].contains(&format!("\n{name} = 28633\n")));
            }
        }
    }

    #[test]
    fn a_quota_that_is_absent_is_not_a_zero() {
        let mut sample = Sample::healthy();
        sample.survey.sysctls.remove("user.max_net_namespaces");
        assert_eq!(user_namespace_quota(&sample.evidence()).status, Status::Ok);
        sample.survey.sysctls.remove("user.max_user_namespaces");
        let finding = user_namespace_quota(&sample.evidence());
        assert_eq!(finding.status, Status::Skip);
        assert!(finding.summary.contains("cannot be read"));
        sample.survey.kernel = "4.4.0-1-generic".to_owned();
        let finding = user_namespace_quota(&sample.evidence());
        assert!(finding.summary.contains("4.4.0-1-generic has no"));
    }
}
