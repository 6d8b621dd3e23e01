//! What runs beside the daemon: the system-wide daemon, a rootless containerd, the docker client.

use crate::check::finding::{Evidence, Finding};
use crate::check::fix::{Fix, quoted};
use crate::check::packages::Package;
use crate::check::trials::RootfulSocket;
use crate::facts::Lock;

/// `rootful-docker`: the system-wide daemon is out of this user's reach.
pub fn rootful_docker(evidence: &Evidence<'_>) -> Finding {
    let Some(RootfulSocket { path, writable, mode, owner, group }) =
        &evidence.trials.rootful_socket
    else {
        return Finding::ok("no system-wide Docker is running");
    };
    let shown = path.display();
    if !writable {
        return Finding::ok(format!("you cannot write `{shown}`"));
    }
    let account = &evidence.survey.account;
    let mut finding = Finding::problem(format!(
        "you can also control the system-wide Docker (`{shown}` is writable)"
    ))
    .because("this makes you as powerful as root, and a `docker` without a context talks to it");
    if *owner == account.uid && *owner != 0 {
        finding = finding.root(format!("chown root {}", quoted(path)));
    }
    if mode & 0o002 != 0 {
        finding = finding.root(format!("chmod o-w {}", quoted(path)));
    }
    if let (true, Some(name)) = (mode & 0o020 != 0 && account.groups.contains(group), &account.name)
    {
        let (name, group) = (quoted(name), quoted(group));
        let leave = match evidence.survey.release.is_like("alpine") {
            true => format!("delgroup {name} {group}"),
            false => format!("gpasswd --delete {name} {group}"),
        };
        finding = finding
            .because(format!(
                "you are in group `{group}`; sessions keep a group until the next login"
            ))
            .root(format!("if id -nG {name} | tr ' ' '\\n' | grep -Fqx {group}; then {leave}; fi"));
    }
    match finding.fixes.is_empty() {
        true => finding.tell(format!("an access list may allow it: `getfacl {shown}`")),
        false => finding,
    }
}

/// `containerd-rootless`: none runs in this user's namespaces (moby#52171). Its lock decides:
/// upstream's tools refuse for a mere directory, even to uninstall.
pub fn containerd_rootless(evidence: &Evidence<'_>) -> Finding {
    let session = &evidence.host.session;
    let (path, lock) = (&session.places.containerd_rootless, &session.containerd_rootless);
    let shown = path.display();
    let (directory, lock_file) = (quoted(path), quoted(path.join("lock")));
    match lock {
        Lock::Held(pid) => Finding::problem(format!("containerd-rootless is running (PID {pid}) on `{shown}`"))
            .because("a user cannot run both it and rootless Docker (moby#52171); its containers end with it")
            .user("systemctl --user stop containerd.service || true")
            // The PID is only good as long as the lock is held.
            .user(format!("[ ! -e {lock_file} ] || flock -n {lock_file} true || {{ kill {pid}; timeout 20 flock {lock_file} true || [ ! -e {lock_file} ]; }}")),
        Lock::Free if evidence.survey.containerd_rootless_exists => {
            let finding = Finding::warn(format!("`{shown}` is a leftover of a containerd-rootless that does not run any more"));
            let runtime_dir = evidence.host.session.person.runtime_dir.as_ref();
            // What a variable names may hold other things.
            match runtime_dir.is_some_and(|(own, _)| own.join("containerd-rootless") == *path) {
                true => finding.user(format!("[ ! -e {directory} ] || flock -n {lock_file} rm -r {directory}")),
                false => finding.tell("look into it before you remove it: `CONTAINERD_ROOTLESS_ROOTLESSKIT_STATE_DIR` names it"),
            }
        }
        Lock::Free => Finding::ok("no containerd-rootless"),
    }
}

/// `docker-cli`: the client is installed.
pub fn docker_cli(evidence: &Evidence<'_>) -> Finding {
    match &evidence.survey.docker_client.program {
        Some(program) => Finding::ok(format!("docker at `{}`", program.display())),
        None => {
            Finding::problem("no program `docker` in PATH").fix(Fix::Package(Package::DockerCli))
        }
    }
}

/// `docker-context`: `docker` talks to this user's daemon. The client takes `DOCKER_HOST`, else
/// `DOCKER_CONTEXT`, else `currentContext`, else root's socket (docker/cli `cli/command/cli.go`).
pub fn docker_context(evidence: &Evidence<'_>) -> Finding {
    let client = &evidence.survey.docker_client;
    if client.program.is_none() {
        return Finding::skip("no program `docker` in PATH");
    }
    let Some((runtime_dir, _)) = &evidence.host.session.person.runtime_dir else {
        return Finding::untried("the daemon's socket is unknown");
    };
    let ours = format!("unix://{}", runtime_dir.join("docker.sock").display());
    let variable = |name| Some(evidence.environment.get(name)?.to_string_lossy().into_owned());
    if let Some(address) = variable("DOCKER_HOST") {
        if address == ours {
            return Finding::ok("`docker` talks to your daemon (DOCKER_HOST)");
        }
        return point_at(
            evidence,
            &ours,
            unset(
                elsewhere(&format!("to `{address}` (DOCKER_HOST), not to your daemon"), &ours),
                "DOCKER_HOST",
            ),
        );
    }
    if let Some(fault) = &client.config_fault {
        return Finding::problem(format!("docker's config.json cannot be read: {fault}"));
    }
    let stated = variable("DOCKER_CONTEXT");
    let name = stated.clone().or(client.current_context.clone()).unwrap_or_default();
    let finding = match (name.as_str(), client.contexts.get(&name)) {
        ("" | "default", _) => elsewhere("to the system-wide daemon, not to yours", &ours),
        (_, Some(address)) if *address == ours => {
            return Finding::ok(format!("`docker` talks to your daemon (context `{name}`)"));
        }
        (_, Some(address)) => {
            elsewhere(&format!("to `{address}` (context `{name}`), not to your daemon"), &ours)
        }
        (_, None) => elsewhere(&format!("to no daemon: context `{name}` does not exist"), &ours),
    };
    point_at(
        evidence,
        &ours,
        if stated.is_some() { unset(finding, "DOCKER_CONTEXT") } else { finding },
    )
}

fn elsewhere(to: &str, ours: &str) -> Finding {
    Finding::problem(format!("`docker` talks {to}")).because(format!("your daemon is at {ours}"))
}

/// Makes a context that leads to `ours` the client's choice.
fn point_at(evidence: &Evidence<'_>, ours: &str, finding: Finding) -> Finding {
    let client = &evidence.survey.docker_client;
    let current = client.current_context.as_deref().unwrap_or_default();
    if client.contexts.get(current).is_some_and(|to| to == ours) {
        return finding;
    }
    // A broken context must not prevent its repair.
    let docker = "docker --context=default context";
    let host = quoted(format!("host={ours}"));
    let ready = client.contexts.iter().find(|(_, to)| *to == ours);
    match ready {
        Some((name, _)) => finding.user(format!("{docker} use {}", quoted(name))),
        None if client.contexts.contains_key("rootless") => finding
            .user(format!("{docker} update rootless --docker {host}"))
            .user(format!("{docker} use rootless")),
        None => finding
            .user(format!("{docker} inspect rootless >/dev/null 2>&1 || {docker} create rootless --docker {host}"))
            .user(format!("{docker} use rootless")),
    }
}

/// Removes a variable.
fn unset(finding: Finding, name: &str) -> Finding {
    finding
        .because(format!("remove {name} from your shell's start-up file as well"))
        .user(format!("unset {name}"))
}
