//! What stands beside the daemon: root's daemon, a rootless containerd, the docker client.

use std::path::Path;

use crate::check::distro::Package;
use crate::check::engine::package_of;
use crate::check::{Evidence, Finding};
use crate::facts::{Lock, RootfulSocket};

/// The address of root's daemon, which the client takes by default.
const ROOTFUL: &str = "unix:///var/run/docker.sock";

/// `rootful-docker`: root's daemon is out of this user's reach. Upstream's setup tool refuses to go
/// on otherwise; a command without a context would reach root's daemon.
pub fn rootful_docker(evidence: &Evidence<'_>) -> Finding {
    let Some(socket) = &evidence.trials.rootful_socket else {
        return Finding::ok("no socket of a rootful daemon is there");
    };
    let RootfulSocket { mode, owner, group, .. } = socket;
    let path = socket.path.display();
    if !socket.writable {
        return Finding::ok(format!("you cannot write `{path}`"));
    }
    let account = &evidence.survey.account;
    let mut finding = Finding::warn(format!(
        "you can write `{path}`: root's daemon obeys you, and may be taken for yours"
    ))
    .because("whoever can write it is as good as root on this host")
    .because(
        "a `docker` without a context reaches root's daemon instead of yours, and upstream's setup \
         tool refuses to go on",
    );
    let by_group = mode & 0o020 != 0 && account.groups.contains(group);
    let before = finding.fix.clone();
    if *owner == account.uid && *owner != 0 {
        finding = finding.root(format!("chown root {}", quoted(&socket.path)));
    }
    if mode & 0o002 != 0 {
        finding = finding.root(format!("chmod o-w {}", quoted(&socket.path)));
    }
    if let (true, Some(name)) = (by_group, &account.name) {
        let (name, group) = (quoted(name), quoted(group));
        let leave = match evidence.survey.release.is_like("alpine") {
            true => format!("delgroup {name} {group}"),
            false => format!("gpasswd --delete {name} {group}"),
        };
        finding = finding
            .because(format!(
                "your membership in group `{group}` lets you; sessions keep a group until the next login"
            ))
            .root(format!(
                "if id -nG {name} | tr ' ' '\\n' | grep -Fqx {group}; then {leave}; fi"
            ));
    }
    if finding.fix == before {
        finding = finding.because(format!(
            "neither its owner nor its mode lets you; an access list may: `getfacl {path}`"
        ));
    }
    finding
}

/// `containerd-rootless`: none is running on this user's namespaces (moby#52171). Its lock decides:
/// upstream's tools refuse for a mere directory, even to uninstall.
pub fn containerd_rootless(evidence: &Evidence<'_>) -> Finding {
    let session = &evidence.host.session;
    let (path, lock) = (&session.places.containerd_rootless, &session.containerd_rootless);
    let shown = path.display();
    let directory = quoted(path);
    let lock_file = quoted(path.join("lock"));
    match lock {
        Lock::Held(pid) => Finding::fail(format!(
            "containerd-rootless is running (PID {pid}) on `{shown}`"
        ))
        .because("a user cannot have both it and rootless Docker (moby#52171)")
        .because("its containers end with it")
        .user("systemctl --user stop containerd.service || true")
        // The PID is only good as long as the lock is held.
        .user(format!(
            "[ ! -e {lock_file} ] || flock -n {lock_file} true || {{ kill {pid}; timeout 20 flock {lock_file} true || [ ! -e {lock_file} ]; }}"
        )),
        Lock::Free if evidence.survey.containerd_rootless_exists => {
            let finding = Finding::warn(format!(
                "`{shown}` was left by a containerd-rootless that runs no more"
            ))
            .because("this program does not mind, but upstream's tools refuse to go on (moby#52171)");
            let runtime_dir = &evidence.host.session.person.runtime_dir;
            let is_default = runtime_dir
                .as_ref()
                .is_some_and(|(directory, _)| directory.join("containerd-rootless") == *path);
            // What a variable names may hold other things.
            match is_default {
                true => finding.user(format!(
                    "[ ! -e {directory} ] || flock -n {lock_file} rm -r {directory}"
                )),
                false => finding.because(
                    "`CONTAINERD_ROOTLESS_ROOTLESSKIT_STATE_DIR` names it: look into it before you remove it",
                ),
            }
        }
        Lock::Free => Finding::ok("no containerd-rootless is there"),
    }
}

/// `docker-cli`: the client is installed.
pub fn docker_cli(evidence: &Evidence<'_>) -> Finding {
    match &evidence.survey.docker_client.program {
        Some(program) => Finding::ok(format!("`docker` is at `{}`", program.display())),
        None => package_of(
            evidence,
            Finding::warn("no program `docker` is in PATH")
                .because("the daemon runs without it; other programs may use its socket"),
            Package::DockerCli,
        ),
    }
}

/// `docker-context`: a plain `docker` reaches this user's daemon. The client takes `DOCKER_HOST`,
/// else `DOCKER_CONTEXT`, else `currentContext`, else root's socket (docker/cli
/// `cli/command/cli.go`).
pub fn docker_context(evidence: &Evidence<'_>) -> Finding {
    let client = &evidence.survey.docker_client;
    if client.program.is_none() {
        return Finding::skip("no program `docker` is in PATH");
    }
    let Some((runtime_dir, _)) = &evidence.host.session.person.runtime_dir else {
        return Finding::skip("the daemon's socket is not known: see `runtime-dir`");
    };
    let ours = format!("unix://{}", runtime_dir.join("docker.sock").display());
    let is_ours = |address: &str| address == ours;
    let variable = |name| {
        let value = evidence.environment.get(name)?;
        Some(value.to_string_lossy().into_owned())
    };
    if let Some(address) = variable("DOCKER_HOST") {
        if is_ours(&address) {
            return Finding::ok(format!("`DOCKER_HOST` leads to `{ours}`"));
        }
        let finding = Finding::warn(format!(
            "a plain `docker` reaches `{address}`, which `DOCKER_HOST` says, and not your daemon"
        ))
        .because(format!("your daemon is at `{ours}`"));
        return point_at(evidence, &ours, unset(finding, "DOCKER_HOST"));
    }
    if let Some(fault) = &client.config_fault {
        return Finding::warn(format!("the client's config.json is not understood: {fault}"))
            .because("the client warns and forgets its context");
    }
    let (name, from) = match variable("DOCKER_CONTEXT") {
        Some(name) => (name, "`DOCKER_CONTEXT`"),
        None => (client.current_context.clone().unwrap_or_default(), "`currentContext`"),
    };
    let finding = match (name.as_str(), client.contexts.get(&name)) {
        ("" | "default", _) => {
            Finding::warn("a plain `docker` looks for root's daemon, and not for yours")
                .because(format!("root's is at `{ROOTFUL}`, yours at `{ours}`"))
        }
        (_, Some(address)) if is_ours(address) => {
            return Finding::ok(format!("context `{name}` leads to `{ours}`"));
        }
        (_, Some(address)) => Finding::warn(format!(
            "context `{name}`, which {from} says, leads to `{address}`, and not to your daemon"
        ))
        .because(format!("your daemon is at `{ours}`")),
        (_, None) => Finding::warn(format!("context `{name}`, which {from} says, does not exist")),
    };
    let finding = match from {
        "`DOCKER_CONTEXT`" => unset(finding, "DOCKER_CONTEXT"),
        _ => finding,
    };
    point_at(evidence, &ours, finding)
}

/// Adds the commands after which the client's own choice is a context that leads to `ours`.
fn point_at(evidence: &Evidence<'_>, ours: &str, finding: Finding) -> Finding {
    let client = &evidence.survey.docker_client;
    let host = quoted(format!("host={ours}"));
    let current = client.current_context.as_deref().unwrap_or_default();
    if client.contexts.get(current).is_some_and(|to| to == ours) {
        return finding;
    }
    let ready = client.contexts.iter().find(|(_, to)| *to == ours);
    // As upstream's tool does: a context that is broken must not be in the way of its repair.
    let docker = "docker --context=default context";
    let (name, finding) = match ready {
        Some((name, _)) => (name.as_str(), finding),
        None => (
            "rootless",
            finding.user(format!(
                "if {docker} inspect rootless >/dev/null 2>&1; then {docker} update rootless --docker {host}; \
                 else {docker} create rootless --docker {host}; fi"
            )),
        ),
    };
    finding.user(format!("{docker} use {}", quoted(name)))
}

/// Adds what takes back a variable.
fn unset(finding: Finding, name: &str) -> Finding {
    finding
        .because(format!(
            "`{name}` counts more than the client's own choice; take it out of your shell's start-up \
             file as well"
        ))
        .user(format!("unset {name}"))
}

fn quoted(word: impl AsRef<Path>) -> String {
    crate::words::quote(word.as_ref().as_os_str()).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;
    use crate::check::tests::Sample;

    fn socket(mode: u32, owner: u32, group: &str) -> Sample {
        let mut sample = Sample::healthy();
        sample.trials.rootful_socket = Some(RootfulSocket {
            path: "/run/docker.sock".into(),
            writable: true,
            mode,
            owner,
            group: group.to_owned(),
        });
        sample
    }

    #[test]
    fn roots_socket_is_taken_out_of_reach_by_what_gives_it() {
        let leave =
            "if id -nG u | tr ' ' '\\n' | grep -Fqx docker; then gpasswd --delete u docker; fi";
        let cases: [(u32, u32, &[&str], &[&str]); 5] = [
            (0o660, 0, &["u", "docker"], &[leave]),
            (0o666, 0, &["u"], &["chmod o-w /run/docker.sock"]),
            (0o600, 1000, &["u"], &["chown root /run/docker.sock"]),
            (0o666, 0, &["docker"], &["chmod o-w /run/docker.sock", leave]),
            (0o660, 0, &["u"], &[]),
        ];
        for (mode, owner, groups, commands) in cases {
            let mut sample = socket(mode, owner, "docker");
            sample.survey.account.groups = groups.iter().map(|group| (*group).to_owned()).collect();
            let finding = rootful_docker(&sample.evidence());
            assert_eq!(finding.status, Status::Warn, "{mode:o}");
            assert_eq!(finding.fix.root, commands, "{mode:o} {owner} {groups:?}");
            assert!(finding.fix.user.is_empty());
        }
        let mut sample = socket(0o660, 0, "docker");
        sample.survey.release.id = "alpine".to_owned();
        sample.survey.account.groups.push("docker".to_owned());
        assert!(rootful_docker(&sample.evidence()).fix.root[0].contains("delgroup u docker"));
    }

    #[test]
    fn a_socket_of_others_is_fine() {
        let mut sample = socket(0o660, 0, "docker");
        sample.trials.rootful_socket.as_mut().expect("set").writable = false;
        assert_eq!(rootful_docker(&sample.evidence()).status, Status::Ok);
        assert_eq!(rootful_docker(&Sample::healthy().evidence()).status, Status::Ok);
    }

    #[test]
    fn the_lock_of_containerd_rootless_decides() {
        let directory = "/run/user/1000/containerd-rootless";
        let mut sample = Sample::healthy();
        assert_eq!(containerd_rootless(&sample.evidence()).status, Status::Ok);
        sample.survey.containerd_rootless_exists = true;
        let finding = containerd_rootless(&sample.evidence());
        assert_eq!(finding.status, Status::Warn);
        assert_eq!(
            finding.fix.user,
            [format!("[ ! -e {directory} ] || flock -n {directory}/lock rm -r {directory}")]
        );
        sample.host.session.places.containerd_rootless = "/home/u/mine".into();
        assert_eq!(containerd_rootless(&sample.evidence()).fix, Default::default());
        sample.host.session.places.containerd_rootless = directory.into();
        sample.host.session.containerd_rootless = Lock::Held(4711);
        let finding = containerd_rootless(&sample.evidence());
        assert_eq!(finding.status, Status::Fail);
        assert!(finding.summary.contains("PID 4711"), "{}", finding.summary);
        assert!(finding.fix.user[1].contains("kill 4711"), "{:?}", finding.fix);
    }

    #[test]
    fn a_missing_client_is_a_drawback() {
        let mut sample = Sample::healthy();
        assert_eq!(docker_cli(&sample.evidence()).summary, "`docker` is at `/usr/bin/docker`");
        sample.survey.docker_client.program = None;
        let finding = docker_cli(&sample.evidence());
        assert_eq!(finding.status, Status::Warn);
        assert_eq!(finding.fix.root, ["apt-get install -y docker.io"]);
        assert_eq!(docker_context(&sample.evidence()).status, Status::Skip);
    }

    #[test]
    fn a_plain_docker_reaches_this_users_daemon() {
        let ours = "unix:///run/user/1000/docker.sock";
        let docker = "docker --context=default context";
        let make = format!(
            "if {docker} inspect rootless >/dev/null 2>&1; then {docker} update rootless --docker host={ours}; \
             else {docker} create rootless --docker host={ours}; fi"
        );
        let choose = |name: &str| format!("{docker} use {name}");
        let unset = |name: &str| format!("unset {name}");
        type Case<'a> = (
            &'a [(&'a str, &'a str)],
            Option<&'a str>,
            &'a [(&'a str, &'a str)],
            Option<Vec<String>>,
        );
        let cases: &[Case<'_>] = &[
            (&[], Some("rootless"), &[("rootless", ours)], None),
            (&[("DOCKER_HOST", ours)], None, &[], None),
            (&[("DOCKER_CONTEXT", "mine")], None, &[("mine", ours)], None),
            (&[], None, &[], Some(vec![make.clone(), choose("rootless")])),
            (&[], Some("default"), &[("rootless", ours)], Some(vec![choose("rootless")])),
            (&[], Some("gone"), &[("a b", ours)], Some(vec![choose("'a b'")])),
            (
                &[],
                Some("rootless"),
                &[("rootless", "unix:///run/user/7/docker.sock")],
                Some(vec![make.clone(), choose("rootless")]),
            ),
            (
                &[("DOCKER_HOST", "tcp://x:2375")],
                Some("rootless"),
                &[("rootless", ours)],
                Some(vec![unset("DOCKER_HOST")]),
            ),
            (
                &[("DOCKER_CONTEXT", "default")],
                None,
                &[],
                Some(vec![unset("DOCKER_CONTEXT"), make.clone(), choose("rootless")]),
            ),
        ];
        for (variables, current, contexts, commands) in cases {
            let mut sample = Sample::healthy();
            sample.environment = variables.iter().copied().collect();
            sample.survey.docker_client.current_context = current.map(str::to_owned);
            sample.survey.docker_client.contexts =
                contexts.iter().map(|(name, to)| ((*name).to_owned(), (*to).to_owned())).collect();
            let finding = docker_context(&sample.evidence());
            let status = commands.as_ref().map_or(Status::Ok, |_| Status::Warn);
            let what = format!("{variables:?} {current:?} {contexts:?}");
            assert_eq!(finding.status, status, "{what}");
            assert_eq!(finding.fix.user, commands.clone().unwrap_or_default(), "{what}");
        }
    }
}
