//! newuidmap and newgidmap: whether they are there, have their power, and map IDs.

use crate::check::evidence::Evidence;
use crate::check::finding::Finding;
use crate::check::fix::{Fix, quoted};
use crate::check::namespaces::suspects;
use crate::check::packages::Package;
use crate::check::trials::{IdMapper, Outcome};

/// `newuidmap`.
pub fn newuidmap(evidence: &Evidence<'_>) -> Finding {
    judge(evidence, "newuidmap", &evidence.trials.newuidmap, &evidence.trials.uid_map)
}

/// `newgidmap`.
pub fn newgidmap(evidence: &Evidence<'_>) -> Finding {
    judge(evidence, "newgidmap", &evidence.trials.newgidmap, &evidence.trials.gid_map)
}

fn judge(evidence: &Evidence<'_>, name: &str, mapper: &Option<IdMapper>, map: &Outcome) -> Finding {
    let Some(mapper) = mapper else {
        return Finding::problem(format!("no `{name}` in PATH")).fix(Fix::Package(Package::Uidmap));
    };
    let path = mapper.path.display();
    match map {
        Outcome::Works => Finding::ok(format!("`{path}` works")),
        // A process keeps it (PR_SET_NO_NEW_PRIVS(2const)), so only another session helps.
        _ if evidence.survey.surroundings.no_new_privs => {
            Finding::problem(format!("`{path}` has no power in this session: no_new_privs is set"))
                .tell("start Docker from a session without it; a unit sets it with `NoNewPrivileges=`, `SystemCallFilter=` or other sandbox options, a container with `no-new-privileges`")
        }
        _ if !mapper.has_power() => powerless(mapper),
        Outcome::Fails(failure) => {
            let what = format!("`{path}` maps no IDs: {}", failure.text);
            let finding = Finding::failed_trial(what);
            match evidence.survey.surroundings.sys_admin {
                false if mapper.mode & 0o4000 != 0 => bounded(finding, name, mapper),
                _ => suspects(evidence, finding),
            }
        }
        Outcome::NotTried(_) => Finding::tried(map, ""),
    }
}

/// Explains a setuid program in a container without CAP_SYS_ADMIN: it works for root, who is not the
/// owner of the new namespace. With a file capability it works for the owner.
fn bounded(finding: Finding, name: &str, mapper: &IdMapper) -> Finding {
    let (path, capability) =
        (quoted(&mapper.path), name.trim_start_matches("new").trim_end_matches("map"));
    finding
        .because("it is setuid, and this container has no CAP_SYS_ADMIN")
        .tell(format!("build the image with `RUN chmod u-s {path} && setcap cap_set{capability}+ep {path}`, or start the container with `--cap-add SYS_ADMIN`"))
}

/// Gives a program of the system its power; another one must not stand before that in PATH.
fn powerless(mapper: &IdMapper) -> Finding {
    let path = mapper.path.display();
    let finding = Finding::problem(format!("`{path}` has no power to map IDs"));
    let finding = finding.because(format!(
        "it must be setuid root or have a file capability; it belongs to user {} and has mode {:04o}",
        mapper.owner, mapper.mode
    ));
    if let Some(good) = &mapper.shadowed {
        let good = good.display();
        return finding.tell(format!(
            "`{good}` would work, and comes later in PATH: put its directory first"
        ));
    }
    let is_systems = ["/usr", "/bin", "/sbin"].iter().any(|top| mapper.path.starts_with(top));
    if mapper.owner != 0 || !is_systems {
        return finding.fix(Fix::Package(Package::Uidmap));
    }
    match &mapper.nosuid {
        None => finding.root(format!("chmod 4755 {}", quoted(&mapper.path))),
        Some(point) => finding
            .because("remove `nosuid` from its line in /etc/fstab as well, or it comes back")
            .root(format!("mount -o remount,suid {}", quoted(point))),
    }
}
