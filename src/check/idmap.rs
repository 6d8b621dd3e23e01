//! newuidmap and newgidmap: whether they are there, have their power, and map IDs.

use std::path::Path;

use crate::check::finding::{Evidence, Finding};
use crate::check::fix::{Fix, quoted};
use crate::check::packages::Package;
use crate::check::trials::{Failure, IdMapper, Outcome};

/// Where only root puts programs.
const SYSTEM_DIRECTORIES: [&str; 6] =
    ["/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/local/sbin"];

/// `newuidmap`.
pub fn newuidmap(evidence: &Evidence<'_>) -> Finding {
    let trials = evidence.trials;
    judge(evidence, "newuidmap", "cap_setuid", &trials.newuidmap, &trials.uid_map)
}

/// `newgidmap`.
pub fn newgidmap(evidence: &Evidence<'_>) -> Finding {
    let trials = evidence.trials;
    judge(evidence, "newgidmap", "cap_setgid", &trials.newgidmap, &trials.gid_map)
}

fn judge(
    evidence: &Evidence<'_>,
    name: &str,
    capability: &str,
    mapper: &Option<IdMapper>,
    map: &Outcome,
) -> Finding {
    let Some(mapper) = mapper else {
        return Finding::problem(format!("no `{name}` in PATH")).fix(Fix::Package(Package::Uidmap));
    };
    let path = mapper.path.display();
    match map {
        Outcome::Works if mapper.file_capability => {
            Finding::ok(format!("`{path}` works (file capability)"))
        }
        Outcome::Works => Finding::ok(format!("`{path}` works (setuid root)")),
        _ if evidence.survey.surroundings.no_new_privs => no_new_privs(evidence, mapper),
        _ if !mapper.has_power() => powerless(evidence, capability, mapper),
        Outcome::Fails(failure) => refused(evidence, mapper, failure),
        Outcome::NotTried(why) => Finding::untried(format!("`{path}` was not tried: {why}")),
    }
}

/// Reports one that cannot do its work.
fn powerless(evidence: &Evidence<'_>, capability: &str, mapper: &IdMapper) -> Finding {
    let path = mapper.path.display();
    let mut finding = Finding::problem(format!("`{path}` has no power to map IDs"));
    if !mapper.is_privileged() {
        finding = finding.because(format!("it must be setuid root or have the file capability {capability}; it belongs to user {} and has mode {:04o}", mapper.owner, mapper.mode));
    }
    if let Some(point) = &mapper.nosuid {
        finding = finding.because(format!("`{}` is mounted with nosuid", point.display()));
    }
    let directory = mapper.path.parent().unwrap_or(Path::new("/"));
    let is_roots = SYSTEM_DIRECTORIES.iter().any(|system| directory == Path::new(system));
    if !is_roots || (mapper.owner != 0 && directory.starts_with("/usr/local")) {
        return step_aside(evidence, mapper, finding);
    }
    if !mapper.is_privileged() {
        let path = quoted(&mapper.path);
        finding =
            finding.root(format!("chown root:root {path}")).root(format!("chmod 4755 {path}"));
    }
    match &mapper.nosuid {
        Some(point) => finding
            .because("remove `nosuid` from its line in /etc/fstab as well, or it comes back")
            .root(format!("mount -o remount,suid {}", quoted(point))),
        None => finding,
    }
}

/// Takes a copy that can never have the power out of the way of one that has.
fn step_aside(evidence: &Evidence<'_>, mapper: &IdMapper, finding: Finding) -> Finding {
    let own = mapper.owner == evidence.survey.account.uid;
    let directory = mapper.path.parent().unwrap_or(&mapper.path).display();
    let finding = match &mapper.shadowed {
        None => finding.fix(Fix::Package(Package::Uidmap)),
        Some(good) => {
            finding.because(format!("`{}` would work, and comes later in PATH", good.display()))
        }
    };
    if own {
        // Neither shells nor rootlesskit take what is not executable; the file stays.
        finding.user(format!("chmod a-x {}", quoted(&mapper.path)))
    } else {
        finding.tell(format!("put the system's directory before `{directory}` in PATH"))
    }
}

/// Reports one that has its power and failed all the same.
fn refused(evidence: &Evidence<'_>, mapper: &IdMapper, failure: &Failure) -> Finding {
    let finding =
        Finding::failed_trial(format!("`{}` maps no IDs: {}", mapper.path.display(), failure.text));
    if evidence.survey.surroundings.nested {
        return finding.tell("this session is in a user namespace itself, which must contain the IDs: compare /proc/self/uid_map");
    }
    if evidence.survey.surroundings.container.is_some() {
        return finding.tell("start the container with the capabilities setuid and setgid");
    }
    if evidence.host.kernel.selinux {
        return finding.tell("SELinux may deny it: as root, see `ausearch -m AVC -ts recent`");
    }
    finding
}

/// Reports no_new_privs: processes keep it (PR_SET_NO_NEW_PRIVS(2const)), so only another session
/// helps.
fn no_new_privs(evidence: &Evidence<'_>, mapper: &IdMapper) -> Finding {
    let path = mapper.path.display();
    let finding = Finding::problem(format!("`{path}` has no power in this session: no_new_privs is set"))
        .because("start Docker from a session without it; a unit sets it with `NoNewPrivileges=`, `SystemCallFilter=` or other sandbox options, a container with `no-new-privileges`");
    let check = format!("{} check", quoted(&evidence.host.session.own_path));
    match &evidence.survey.account.name {
        _ if evidence.survey.systemd.manager => {
            finding.user(format!("systemd-run --user --wait --pipe --quiet {check}"))
        }
        Some(name) => finding.root(format!("su -l {} -c {}", quoted(name), quoted(check))),
        None => finding,
    }
}
