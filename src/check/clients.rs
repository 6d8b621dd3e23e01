//! What runs beside the daemon: the system-wide daemon, a rootless containerd, the docker client.

use crate::check::evidence::Evidence;
use crate::check::finding::Finding;
use crate::check::fix::{Fix, quoted};
use crate::check::packages::Package;
use crate::check::trials::RootfulSocket;
use crate::facts::Lock;

/// `rootful-docker`: the system-wide daemon is out of this user's reach.
pub fn rootful_docker(evidence: &Evidence<'_>) -> Finding {
    let Some(RootfulSocket { path, writable, mode, group, .. }) = &evidence.trials.rootful_socket
    else {
        return Finding::ok("no system-wide Docker is running");
    };
    let (shown, account) = (path.display(), &evidence.survey.account);
    if !writable {
        return Finding::ok(format!("you cannot write `{shown}`"));
    }
    let mut finding = Finding::problem(format!(
        "you can also control the system-wide Docker (`{shown}` is writable)"
    ))
    .because("this makes you as powerful as root, and a `docker` without a context talks to it");
    if mode & 0o002 != 0 {
        finding = finding.root(format!("chmod o-w {}", quoted(path)));
    }
    if mode & 0o020 != 0 && account.groups.contains(group) {
        let (name, group) = (quoted(account.display_name()), quoted(group));
        // The second is Alpine's, and both fail where the user has left the group.
        finding = finding
            .because(format!(
                "you are in group `{group}`; sessions keep a group until the next login"
            ))
            .root(format!("gpasswd --delete {name} {group} || delgroup {name} {group} || true"));
    }
    if finding.fixes.is_empty() {
        return finding.tell(format!("`ls -l {shown}` and `getfacl {shown}` show what allows it"));
    }
    finding
}

/// `containerd-rootless`: none runs in this user's namespaces (moby#52171). Its lock decides:
/// upstream's tools refuse for a mere directory, even to uninstall.
pub fn containerd_rootless(evidence: &Evidence<'_>) -> Finding {
    let session = &evidence.host.session;
    let Lock::Held(pid) = session.containerd_rootless else {
        return Finding::ok("no containerd-rootless is running");
    };
    let path = session.places.containerd_rootless.display();
    Finding::problem(format!("containerd-rootless is running (PID {pid}) on `{path}`"))
        .because("a user cannot run both it and rootless Docker (moby#52171); its containers end with it")
        .tell(format!("`systemctl --user stop containerd.service` ends it, or else `kill {pid}`"))
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
    if let Some(fault) = &client.config_fault {
        return Finding::problem(format!("docker's config.json cannot be read: {fault}"));
    }
    let ours = format!("unix://{}", runtime_dir.join("docker.sock").display());
    let variable = |name| Some(evidence.environment.get(name)?.to_string_lossy().into_owned());
    let (host, context) = (variable("DOCKER_HOST"), variable("DOCKER_CONTEXT"));
    let current = client.current_context.clone().unwrap_or_default();
    let name = context.as_ref().unwrap_or(&current);
    let (address, how) = match &host {
        Some(address) => (Some(address), "DOCKER_HOST".to_owned()),
        None => (client.contexts.get(name), format!("context `{name}`")),
    };
    let to = match address {
        Some(address) if *address == ours => {
            return Finding::ok(format!("`docker` talks to your daemon ({how})"));
        }
        Some(address) => format!("`{address}` ({how})"),
        None if name.is_empty() || name == "default" => "the system-wide daemon".to_owned(),
        None => format!("{how}, which does not exist"),
    };
    let mut finding = Finding::problem(format!("`docker` talks to {to}, not to your daemon"))
        .because(format!("your daemon is at {ours}"));
    for (name, value) in [("DOCKER_HOST", host), ("DOCKER_CONTEXT", context)] {
        if value.is_some() {
            finding = finding
                .because(format!("remove {name} from your shell's start-up file as well"))
                .user(format!("unset {name}"));
        }
    }
    if client.contexts.get(&current) == Some(&ours) {
        return finding;
    }
    // A broken context must not prevent its repair.
    let docker = "docker --context=default context";
    if let Some((name, _)) = client.contexts.iter().find(|(_, to)| **to == ours) {
        return finding.user(format!("{docker} use {}", quoted(name)));
    }
    let name = client.free_context();
    let host = quoted(format!("host={ours}"));
    finding
        .user(format!(
            "{docker} inspect {name} >/dev/null 2>&1 || {docker} create {name} --docker {host}"
        ))
        .user(format!("{docker} use {name}"))
}
