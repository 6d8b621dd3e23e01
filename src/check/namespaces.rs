//! Whether user namespaces can be created, and how many.

use std::path::Path;

use crate::check::failures::gist;
use crate::check::finding::{Evidence, Finding};
use crate::check::fix::{Fix, quoted};
use crate::check::trials::{Failure, Outcome};

/// What RHEL's documentation and upstream's setup tool set.
const ENOUGH: u64 = 28_633;

/// Below this rootlesskit warns (`pkg/parent/warn.go`).
const FEW: u64 = 1024;

/// The quotas of the namespaces that rootlesskit, dockerd and containers create
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
        "give it a `securityContext` with `seccompProfile` and `appArmorProfile` of type `Unconfined` and `procMount: Unmasked`, or `privileged: true`",
    ),
    ("", "let its seccomp filter pass clone(2), unshare(2) and mount(2)"),
];

/// `user-namespaces`: one is created, and its owner creates others inside.
pub fn user_namespaces(evidence: &Evidence<'_>) -> Finding {
    let trials = evidence.trials;
    // AppArmor goes by the path of the program: rootlesskit counts, not this program.
    if trials.rootlesskit.works() {
        return Finding::ok("rootlesskit creates user namespaces, with capabilities inside");
    }
    if let Some(failure) = trials.user_namespace.failure() {
        return explain(evidence, failure, "no user namespace can be created");
    }
    if let Some(failure) = trials.capabilities.failure() {
        return explain(evidence, failure, "a user namespace can be created, but not used");
    }
    let is_stopped = |failure: &&Failure| {
        apparmor_restricts(evidence)
            && evidence.survey.apparmor.profile.is_none()
            && stopped_by_apparmor(failure)
    };
    // This program may, by a profile of its own, and rootlesskit has none.
    if let Some(failure) = trials.rootlesskit.failure().filter(is_stopped) {
        let what = format!("rootlesskit cannot create user namespaces: {}", gist(&failure.text));
        return apparmor(evidence, Finding::problem(what));
    }
    match (&trials.user_namespace, &trials.capabilities) {
        (Outcome::NotTried(why), _) | (_, Outcome::NotTried(why)) => {
            Finding::untried(format!("no user namespace was tried: {why}"))
        }
        _ => Finding::ok("user namespaces can be created, with capabilities inside"),
    }
}

/// Finds the cause behind the system's error.
fn explain(evidence: &Evidence<'_>, failure: &Failure, what: &str) -> Finding {
    let finding = Finding::problem(format!("{what}: {}", failure.text));
    let zero = QUOTAS.iter().any(|name| evidence.survey.sysctl_number(name) == Some(0));
    match failure.errno.as_deref() {
        Some("ENOSPC" | "EUSERS") => exhausted(evidence, finding),
        // RHEL 7 says EINVAL to a quota of 0 as well (moby/buildkit#1188).
        Some("EINVAL" | "ENOSYS") if zero => exhausted(evidence, finding),
        Some("EINVAL" | "ENOSYS") => finding
            .tell("the kernel has no user namespaces (CONFIG_USER_NS); WSL 1 has none either"),
        _ => denied(evidence, failure, finding),
    }
}

/// Explains ENOSPC: a quota, or 32 namespaces inside each other.
fn exhausted(evidence: &Evidence<'_>, mut finding: Finding) -> Finding {
    let survey = evidence.survey;
    let zero = QUOTAS.iter().filter(|name| survey.sysctl_number(name) == Some(0));
    for name in zero.clone() {
        finding = raise(finding.because(format!("`{name}` is 0")), name, ENOUGH);
    }
    if zero.count() > 0 {
        return finding;
    }
    if survey.surroundings.nested {
        return finding.tell("this session is in a user namespace itself: raise `user.max_user_namespaces` in the outer one");
    }
    let limit = survey.sysctl_number(QUOTAS[0]).unwrap_or_default();
    let finding = finding.because(format!(
        "all {limit} user namespaces of `{}` are in use, or 32 lie inside each other",
        QUOTAS[0]
    ));
    raise(finding, QUOTAS[0], limit.saturating_mul(2).max(ENOUGH))
}

fn raise(finding: Finding, name: &'static str, value: u64) -> Finding {
    finding.fix(Fix::Sysctl(name, value.to_string()))
}

/// Explains EPERM and EACCES: causes that are certain, or else all suspects.
fn denied(evidence: &Evidence<'_>, failure: &Failure, mut finding: Finding) -> Finding {
    let survey = evidence.survey;
    let before = finding.fixes.len();
    let clone = "kernel.unprivileged_userns_clone";
    if survey.sysctl_number(clone) == Some(0) {
        finding = raise(finding.because(format!("`{clone}` is 0")), clone, 1);
    }
    if survey.surroundings.chroot && failure.errno.as_deref() != Some("EACCES") {
        finding = finding.tell("this session is in a chroot(2), where the kernel creates no user namespace: log in outside of it, or enter the tree with systemd-nspawn");
    }
    if apparmor_restricts(evidence) && survey.surroundings.container.is_none() {
        return apparmor(evidence, finding);
    }
    if finding.fixes.len() > before { finding } else { suspects(evidence, finding) }
}

/// Lists what may be behind a refusal where nothing says so for certain.
fn suspects(evidence: &Evidence<'_>, mut finding: Finding) -> Finding {
    let surroundings = &evidence.survey.surroundings;
    if let Some(manager) = &surroundings.container {
        let (_, option) =
            CONTAINERS.iter().find(|(name, _)| manager.starts_with(name)).expect("a last row");
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
    match finding.fixes.is_empty() {
        true => finding.tell("a security module or a patch of the kernel denies it: see dmesg"),
        false => finding,
    }
}

/// Returns whether Ubuntu's restriction is on (23.10 and later).
fn apparmor_restricts(evidence: &Evidence<'_>) -> bool {
    let restricts = evidence.survey.sysctl_number("kernel.apparmor_restrict_unprivileged_userns");
    restricts.is_some_and(|value| value != 0)
}

/// Returns whether rootlesskit's child could not be executed, as under AppArmor's restriction
/// (rootlesskit#421).
fn stopped_by_apparmor(failure: &Failure) -> bool {
    failure.text.contains("fork/exec")
}

/// Explains that only programs with an AppArmor profile may create user namespaces.
fn apparmor(evidence: &Evidence<'_>, finding: Finding) -> Finding {
    let apparmor = &evidence.survey.apparmor;
    let finding = finding.because("`kernel.apparmor_restrict_unprivileged_userns` is on: only programs with an AppArmor profile may use user namespaces (Ubuntu 23.10 and later)");
    let tools = &evidence.host.tools;
    let Some(program) = apparmor.rootlesskit.as_deref().or_else(|| tools.rootlesskit.path()) else {
        return finding.tell("install rootlesskit first: it needs the profile");
    };
    if let Some(profile) = &apparmor.profile {
        return load_profile(evidence, finding, profile);
    }
    if !apparmor.knows_userns {
        return finding.tell(
            "AppArmor's parser is older than 4.0 and knows no such profile: upgrade apparmor",
        );
    }
    match profile_for(program) {
        Some((file, text)) => finding
            .because(format!("no profile is for `{}`", program.display()))
            .fix(Fix::File(file.clone(), text))
            .root(format!("apparmor_parser -r {file}")),
        None => {
            finding.tell(format!("move `{}` to a path that a profile can name", program.display()))
        }
    }
}

/// Loads a profile that is there. Whether it is active is only known if rootlesskit was tried.
fn load_profile(evidence: &Evidence<'_>, finding: Finding, profile: &Path) -> Finding {
    let shown = profile.display();
    if evidence.trials.rootlesskit.failure().is_some_and(stopped_by_apparmor) {
        let finding = finding.because(format!("`{shown}` allows it, but is not loaded"));
        return finding.root(format!("apparmor_parser -r {}", quoted(profile)));
    }
    Finding::skip("this program may not create user namespaces, and rootlesskit was not tried")
        .because(format!("`{shown}` allows rootlesskit to create them"))
}

/// Returns the file and the text of a profile for `program`, named as Ubuntu names them. Paths are
/// patterns there (apparmor.d(5)), so a path that is not plain gets none.
fn profile_for(program: &Path) -> Option<(String, String)> {
    let path = program.to_str()?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if !path.starts_with('/') || !path.chars().all(is_plain) {
        return None;
    }
    let name = path.trim_start_matches('/').replace('/', ".");
    let text = format!(
        "abi <abi/4.0>,\ninclude <tunables/global>\n{path} flags=(unconfined) {{\n  userns,\n  include if exists <local/{name}>\n}}"
    );
    Some((format!("/etc/apparmor.d/{name}"), text))
}

/// `user-namespace-quota`: the limits in `/proc/sys/user`.
pub fn user_namespace_quota(evidence: &Evidence<'_>) -> Finding {
    let survey = evidence.survey;
    let Some(limit) = survey.sysctl_number(QUOTAS[0]) else {
        return Finding::skip(format!("`{}` cannot be read", QUOTAS[0]));
    };
    let quotas = QUOTAS.into_iter().filter_map(|name| Some((name, survey.sysctl_number(name)?)));
    let low: Vec<(&str, u64)> = quotas.filter(|(_, limit)| *limit < FEW).collect();
    let summary: Vec<String> =
        low.iter().map(|(name, limit)| format!("`{name}` is {limit}")).collect();
    let finding = match low.iter().map(|(_, limit)| limit).min() {
        None => return Finding::ok(format!("`{}` is {limit}", QUOTAS[0])),
        Some(0) => Finding::problem(summary.join(", ")),
        Some(_) => Finding::warn(summary.join(", ")),
    };
    low.into_iter().fold(finding, |finding, (name, _)| raise(finding, name, ENOUGH))
}
