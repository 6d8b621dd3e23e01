//! Looks at what is installed for a user. Nothing is changed, and nothing that is wrong with the
//! host or the settings stops it: what is broken must be removable, too.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::check::survey;
use crate::facts::places;
use crate::setup::facts::{DaemonFacts, Home, Manager, SetupFacts, UnitFacts, UnitFile};
use crate::setup::units::{SERVICE, SOCKET};
use crate::supervise;
use crate::sys::{elevate, process};

/// Looks.
pub fn inspect(mut home: Home) -> SetupFacts {
    let booted = Path::new("/run/systemd/system").exists();
    let manager = match home.property(None, "UnitPath") {
        Some(read) => {
            follow_manager(&mut home, &read);
            Manager::Answers
        }
        None if booted => Manager::Silent,
        None => Manager::Absent,
    };
    let [service, socket] = [SERVICE, SOCKET].map(|name| read_unit(&home, name));
    // As systemd names its files.
    let linger = Path::new("/var/lib/systemd/linger").join(home.user.replace('\\', "\\x5c"));
    let environment = &home.environment;
    let data_home = environment.data_home().unwrap_or_default();
    let previous = data_home.join("dockerd-rootless/previous-context");
    let docker = home.program("docker");
    SetupFacts {
        manager,
        ends_at_logout: booted && !linger.exists(),
        has_sudo: elevate::has_sudo(&home.search_path),
        client: survey::docker_client(docker.as_deref(), environment.docker_config().as_deref()),
        previous_context: (previous.clone(), fs::read_to_string(previous).ok()),
        // A connection to a socket of the manager's starts the daemon.
        daemon: daemon(&home.runtime_dir, service.active, socket.active && !service.active),
        service,
        socket,
        home,
    }
}

/// Takes the directories of the user manager, which reads units in those of `read`: its units have
/// them, whatever the shell says.
fn follow_manager(home: &mut Home, read: &str) {
    // A new manager must have started what it starts, including the bus.
    let mut settle = home.systemctl("is-system-running");
    let _ = process::succeed(settle.arg("--wait"), super::home::SOON);
    home.runtime_dir = places::user_runtime_dir(home.uid);
    let default = home.dir.join(".config");
    let reads = |config_home: &Path| {
        let units = config_home.join("systemd/user");
        read.split_whitespace().any(|directory| Path::new(directory) == units)
    };
    if !reads(&home.config_home) && reads(&default) {
        home.config_home = default;
    }
}

fn read_unit(home: &Home, name: &str) -> UnitFacts {
    let unit_dir = home.unit_dir();
    let property = |property| home.property(Some(name), property).unwrap_or_default();
    let fragment = PathBuf::from(property("FragmentPath"));
    let targets = ["default.target.wants", "sockets.target.wants"];
    let links = targets.map(|target| unit_dir.join(target).join(name)).into_iter();
    UnitFacts {
        own: read_file(&unit_dir.join(name)),
        packaged: !fragment.starts_with(&unit_dir) && is_for_us(&fragment),
        links: links.filter(|link| link.is_symlink()).collect(),
        active: ["active", "activating", "reloading"].contains(&&*property("ActiveState")),
    }
}

fn read_file(path: &Path) -> UnitFile {
    match fs::read_to_string(path) {
        _ if path.is_symlink() => UnitFile::Other,
        Ok(text) => UnitFile::Text(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => UnitFile::Absent,
        Err(_) => UnitFile::Other,
    }
}

/// Returns whether a unit of a package or of the administrator starts this program or listens for it.
fn is_for_us(path: &Path) -> bool {
    fs::read_to_string(path).unwrap_or_default().lines().any(|line| {
        let program = line.strip_prefix("ExecStart=").and_then(|exec| exec.split(' ').next());
        line == "ListenStream=%t/docker.sock"
            || program.is_some_and(|path| path.trim_matches('"').ends_with("/dockerd-rootless"))
    })
}

/// Looks at the daemon of this session. `runs` says whether its unit does, and `would_start` whether
/// a connection would start it.
fn daemon(runtime_dir: &Path, runs: bool, would_start: bool) -> DaemonFacts {
    let status = supervise::read_status(&places::run_dir(runtime_dir));
    let socket = socket(runtime_dir);
    let answers = !would_start && supervise::answers(&socket);
    // A daemon may be slow, or listen where nothing tells.
    let may_be_busy = runs || status.is_some();
    let known = status.as_ref();
    DaemonFacts {
        busy: if answers { supervise::runs_containers(&socket) } else { may_be_busy },
        outdated: known.is_some_and(|status| !supervise::newer_programs(status).is_empty()),
        keeps_containers: known.is_some_and(|status| status.keeps_containers),
        supervisor: known.map(|status| status.supervisor),
        answers,
    }
}

/// Returns the socket that the supervisor names, or the usual one.
pub fn socket(runtime_dir: &Path) -> PathBuf {
    let status = supervise::read_status(&places::run_dir(runtime_dir));
    let named = status.and_then(|status| status.socket);
    named.unwrap_or_else(|| places::api_socket(runtime_dir))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_daemon_that_does_not_answer_is_busy_while_its_unit_runs() {
        let directory = tempfile::tempdir().expect("a directory");
        let busy = |runs| daemon(directory.path(), runs, false).busy;
        // It listens elsewhere.
        assert!(busy(true));
        assert!(!busy(false));
        // It accepts no connections any more.
        drop(UnixListener::bind(directory.path().join("docker.sock")).expect("a socket"));
        assert!(busy(true));
        assert!(!busy(false));
    }
}
