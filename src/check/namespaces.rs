//! Whether user namespaces can be created, and how many.

use std::path::Path;

use crate::check::evidence::Evidence;
use crate::check::finding::Finding;
use crate::check::fix::{Fix, quoted};
use crate::check::survey::QUOTAS;
use crate::check::trials::{Failure, Outcome};

/// What RHEL's documentation and upstream's setup tool set.
const ENOUGH: u64 = 28_633;

/// Below this rootlesskit warns (`pkg/parent/warn.go`).
const FEW: u64 = 1024;

/// What a container's manager must be told, by the beginning of its name.
const CONTAINERS: &[(&str, &str)] = &[
    (
        "docker",
        "start it with `--security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined`, or with `--privileged`",
    ),
    (
        "podman",
        "start it with `--security-opt seccomp=unconfined --security-opt label=disable --security-opt unmask=ALL`, or with `--privileged`",
    ),
    ("lx", "set `security.nesting=true` on it (LXD), or `features: nesting=1` (Proxmox VE)"),
    ("incus", "set `security.nesting=true` on it"),
    (
        "kube",
        "give it a `securityContext` with `privileged: true`, or with `procMount: Unmasked` and `seccompProfile: {type: Unconfined}` in a pod with `hostUsers: false`",
    ),
    ("", "let its seccomp filter pass clone(2), unshare(2) and mount(2)"),
];

/// Ubuntu's restriction (23.10 and later).
const APPARMOR: &str = "kernel.apparmor_restrict_unprivileged_userns";

/// `user-namespaces`: one is created, and its owner creates others inside.
pub fn user_namespaces(evidence: &Evidence<'_>) -> Finding {
    let proc = evidence.trials.inside.as_ref().and_then(|inside| inside.proc.failure());
    match (&evidence.trials.user_namespace, proc) {
        (Outcome::Fails(failure), _) => explain(evidence, failure),
        (_, Some(failure)) => {
            let what = format!("a container's /proc cannot be mounted: {}", failure.text);
            let why = "parts of this /proc are hidden or read-only";
            suspects(evidence, Finding::problem(what).because(why))
        }
        (outcome, None) => Finding::tried(outcome, "user namespaces, with capabilities inside"),
    }
}

/// Finds the cause behind the system's error.
fn explain(evidence: &Evidence<'_>, failure: &Failure) -> Finding {
    let survey = evidence.survey;
    let finding = Finding::problem(format!("no user namespace can be created: {}", failure.text));
    let clone = "kernel.unprivileged_userns_clone";
    match failure.errno.as_deref() {
        Some("ENOSPC" | "EUSERS") => exhausted(evidence, finding),
        Some("EINVAL" | "ENOSYS") => finding
            .tell("the kernel has no user namespaces (CONFIG_USER_NS); WSL 1 has none either"),
        _ if survey.sysctl_number(clone) == Some(0) => raise(finding, clone, 1),
        Some("EPERM") if survey.surroundings.chroot => finding.tell("this session is in a chroot(2), where the kernel creates no user namespace: log in outside of it, or enter the tree with systemd-nspawn"),
        _ if apparmor_restricts(evidence) && survey.surroundings.container.is_none() => {
            apparmor(evidence, finding)
        }
        _ => suspects(evidence, finding),
    }
}

/// Raises the quota that is used up.
fn exhausted(evidence: &Evidence<'_>, finding: Finding) -> Finding {
    let survey = evidence.survey;
    if survey.surroundings.nested {
        return finding.tell("this session is in a user namespace itself: raise `user.max_user_namespaces` in the outer one");
    }
    let name = QUOTAS[0];
    let limit = survey.sysctl_number(name).unwrap_or_default();
    let why = format!("all {limit} user namespaces of `{name}` are in use, or 32 are nested");
    raise(finding.because(why), name, limit.saturating_mul(2).max(ENOUGH))
}

fn raise(finding: Finding, name: &'static str, value: u64) -> Finding {
    finding.fix(Fix::Sysctl(name, value.to_string()))
}

/// Lists what may be behind a refusal where nothing says so for certain.
pub fn suspects(evidence: &Evidence<'_>, mut finding: Finding) -> Finding {
    let surroundings = &evidence.survey.surroundings;
    if let Some(manager) = &surroundings.container {
        let option = CONTAINERS.iter().find(|(name, _)| manager.starts_with(name));
        let option = option.map_or("", |(_, option)| option);
        finding = finding
            .tell(format!("this is a container of {manager}, which does not allow it: {option}"));
    } else if surroundings.seccomp {
        finding = finding.tell("a seccomp filter is active: look for `RestrictNamespaces=` and `SystemCallFilter=` in the unit of this session");
    }
    if surroundings.nested {
        finding = finding.tell("this session is in a user namespace itself, which may lack your IDs: compare /proc/self/uid_map");
    }
    if evidence.host.kernel.selinux {
        finding = finding.tell("SELinux may deny it: as root, see `ausearch -m AVC -ts recent`");
    }
    if finding.fixes.is_empty() {
        return finding.tell("a security module or a patch of the kernel denies it: see dmesg");
    }
    finding
}

fn apparmor_restricts(evidence: &Evidence<'_>) -> bool {
    evidence.survey.sysctl_number(APPARMOR).is_some_and(|value| value != 0)
}

/// Gives rootlesskit the AppArmor profile without which it may not create user namespaces.
fn apparmor(evidence: &Evidence<'_>, finding: Finding) -> Finding {
    let own = &evidence.survey.apparmor;
    let finding = finding.because(format!("`{APPARMOR}` is on: only programs with an AppArmor profile may use user namespaces (Ubuntu 23.10 and later)"));
    let program = own.rootlesskit.as_deref().or_else(|| evidence.host.tools.rootlesskit.path());
    let Some(program) = program.and_then(Path::to_str) else {
        return finding.tell("install rootlesskit first: it needs the profile");
    };
    if let Some(profile) = &own.profile {
        let shown = profile.display();
        return match &evidence.trials.rootlesskit {
            // Its child could not be executed (rootlesskit#421).
            Outcome::Fails(failure) if failure.text.contains("fork/exec") => finding
                .because(format!("`{shown}` allows it, but is not loaded"))
                .root(format!("apparmor_parser -r {}", quoted(profile))),
            _ => Finding::skip(format!(
                "`{shown}` allows rootlesskit to create user namespaces, which was not tried"
            )),
        };
    }
    // Named as Ubuntu names them.
    let name = program.trim_start_matches('/').replace('/', ".");
    let file = format!("/etc/apparmor.d/{name}");
    let text = format!(
        "abi <abi/4.0>,\ninclude <tunables/global>\n{program} flags=(unconfined) {{\n  userns,\n  include if exists <local/{name}>\n}}"
    );
    let load = format!("apparmor_parser -r {}", quoted(&file));
    finding.because(format!("no profile is for `{program}`")).fix(Fix::File(file, text)).root(load)
}

/// `user-namespace-quota`: the limits in `/proc/sys/user`.
pub fn user_namespace_quota(evidence: &Evidence<'_>) -> Finding {
    let quota = |name| Some((name, evidence.survey.sysctl_number(name)?));
    let Some((name, limit)) = quota(QUOTAS[0]) else {
        return Finding::skip(format!("`{}` cannot be read", QUOTAS[0]));
    };
    let low: Vec<(&str, u64)> =
        QUOTAS.into_iter().filter_map(quota).filter(|(_, limit)| *limit < FEW).collect();
    let shown: Vec<String> =
        low.iter().map(|(name, limit)| format!("`{name}` is {limit}")).collect();
    let finding = match low.iter().map(|(_, limit)| limit).min() {
        None => Finding::ok(format!("`{name}` is {limit}")),
        Some(0) => Finding::problem(shown.join(", ")),
        Some(_) => Finding::warn(shown.join(", ")),
    };
    low.into_iter().fold(finding, |finding, (name, _)| raise(finding, name, ENOUGH))
}
