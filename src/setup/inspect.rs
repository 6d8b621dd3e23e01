//! Looks at what is installed for a user. Nothing is changed, and nothing that is wrong with the
//! host or the settings stops it: what is broken must be removable, too.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::check::survey;
use crate::facts::places;
use crate::facts::{ask, look};
use crate::setup::decide::beside;
use crate::setup::facts::{DaemonFacts, Home, Manager, Notes, SetupFacts, UnitFacts, UnitFile};
use crate::setup::manager::UserManager;
use crate::setup::units::{SERVICE, SOCKET, parameters};
use crate::supervise;
use crate::sys::{elevate, files};

/// The largest unit in bytes that is read.
const UNIT_MAX: u64 = 256 * 1024;

/// The states of a unit (`ActiveState`) while its daemon runs or is about to.
const ACTIVE: [&str; 3] = ["active", "activating", "reloading"];

/// The programs of a launch that PATH decides on.
const PROGRAMS: &str =
    "containerd docker-rootlesskit dockerd iptables newuidmap pasta rootlesskit runc slirp4netns";

/// Looks.
pub fn inspect(mut home: Home) -> SetupFacts {
    let booted = Path::new("/run/systemd/system").exists();
    let config_home = home.environment.config_home().unwrap_or_default();
    let user_manager = find_manager(&home, &config_home);
    let manager = match (&user_manager, booted) {
        (Some(_), _) => Manager::Answers,
        (None, true) => Manager::Silent,
        (None, false) => Manager::Absent,
    };
    let mut unit_dir = config_home.join("systemd/user");
    if let Some(manager) = &user_manager {
        // A manager's units have its directories, whatever the shell says.
        home.runtime_dir.clone_from(&manager.runtime_dir);
        unit_dir = find_unit_dir(manager, unit_dir, home.dir.join(".config/systemd/user"));
    }
    let unit = |name: &str| read_unit(user_manager.as_ref(), &unit_dir, name);
    let (service, socket) = (unit(SERVICE), unit(SOCKET));
    let kept = match &service.own {
        UnitFile::Text(text) => parameters(text).path.map(OsString::from),
        _ => None,
    };
    // As systemd names its files.
    let linger = Path::new("/var/lib/systemd/linger").join(home.user.replace('\\', "\\x5c"));
    let environment = &home.environment;
    let notes = environment.data_home().unwrap_or_default().join("dockerd-rootless/setup.json");
    let answers = environment.cache_home().map(|home| home.join(ask::ANSWERS));
    SetupFacts {
        manager,
        linger: booted.then(|| linger.exists()),
        has_sudo: elevate::has_sudo(&home.search_path),
        has_dbus: user_manager.is_some_and(|manager| {
            manager
                .show("dbus.socket", "LoadState")
                .is_some_and(|shown| shown["LoadState"] == "loaded")
        }),
        kept_path: kept.filter(|kept| leads_to_the_same(kept, &home.search_path)),
        client: survey::docker_client(
            home.program("docker").as_deref(),
            environment.docker_config().as_deref(),
        ),
        notes: (notes.clone(), read_notes(&notes).unwrap_or_default()),
        answers: answers.filter(|path| path.exists()),
        // A connection to a socket of the manager's starts the daemon.
        daemon: daemon(&home.runtime_dir, service.active, socket.active && !service.active),
        unit_dir,
        service,
        socket,
        home,
    }
}

/// Returns the user manager, if one answers.
fn find_manager(home: &Home, config_home: &Path) -> Option<UserManager> {
    let manager = UserManager {
        systemctl: home.program("systemctl")?,
        runtime_dir: look::own_runtime_dir(home.uid)?,
        config_home: config_home.to_owned(),
    };
    manager.settle();
    manager.show("", "Version").map(|_| manager)
}

/// Returns `wanted`, or `default` if the manager reads only that.
fn find_unit_dir(manager: &UserManager, wanted: PathBuf, default: PathBuf) -> PathBuf {
    let read = manager.show("", "UnitPath").unwrap_or_default();
    let Some(read) = read.get("UnitPath") else { return wanted };
    let reads = |directory: &Path| read.split_whitespace().any(|path| Path::new(path) == directory);
    if reads(&wanted) || !reads(&default) {
        return wanted;
    }
    let (wanted, default_shown) = (wanted.display(), default.display());
    warn!("the user manager reads no units in `{wanted}`; using `{default_shown}`");
    default
}

fn read_unit(manager: Option<&UserManager>, unit_dir: &Path, name: &str) -> UnitFacts {
    let shown = manager.and_then(|manager| manager.show(name, "ActiveState,FragmentPath"));
    let value = |property: &str| shown.as_ref().and_then(|shown| shown.get(property));
    let fragment = value("FragmentPath").map(Path::new).filter(|path| path.is_absolute());
    let links = links(unit_dir, name);
    let path = unit_dir.join(name);
    UnitFacts {
        own: read_file(&path),
        beside: read_file(&beside(&path)),
        packaged: fragment
            .filter(|path| !path.starts_with(unit_dir))
            .and_then(|path| packaged(path, name)),
        enabled: !links.is_empty() || !self::links("/etc/systemd/user".as_ref(), name).is_empty(),
        links,
        active: value("ActiveState").is_some_and(|state| ACTIVE.contains(&state.as_str())),
    }
}

fn read_file(path: &Path) -> UnitFile {
    match fs::read_link(path) {
        Ok(end) if end == Path::new("/dev/null") => return UnitFile::Masked,
        Ok(end) => return UnitFile::Other(format!("a link to `{}`", end.display())),
        Err(_) => {}
    }
    match files::read_regular(path, UNIT_MAX).map(|bytes| bytes.map(String::from_utf8)) {
        Ok(Some(Ok(text))) => UnitFile::Text(text),
        Ok(_) => UnitFile::Other("no text of a unit".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => UnitFile::Absent,
        Err(error) => UnitFile::Other(format!("not readable ({error})")),
    }
}

/// Returns the unit of a package or of the administrator, if it is one for this program.
fn packaged(path: &Path, name: &str) -> Option<String> {
    let text = String::from_utf8(files::read_regular(path, UNIT_MAX).ok()??).ok()?;
    let is_ours = |line: &str| {
        if name == SOCKET {
            return line == "ListenStream=%t/docker.sock";
        }
        let program =
            line.strip_prefix("ExecStart=").and_then(|exec| exec.split_whitespace().next());
        program.is_some_and(|program| program.trim_matches('"').ends_with("/dockerd-rootless"))
    };
    text.lines().any(|line| is_ours(line.trim())).then_some(text)
}

/// Returns the links below `directory` that start a unit with others.
fn links(directory: &Path, name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let is_of_links = |path: &PathBuf| {
        let extension = path.extension().and_then(OsStr::to_str);
        extension.is_some_and(|extension| ["wants", "requires"].contains(&extension))
    };
    let directories = entries.map(|entry| entry.path()).filter(is_of_links);
    let links = directories.map(|directory| directory.join(name));
    let mut links: Vec<_> = links.filter(|path| fs::symlink_metadata(path).is_ok()).collect();
    links.sort();
    links
}

/// Returns whether two PATHs lead to the same programs of a launch, by whatever directory.
fn leads_to_the_same(one: &OsStr, other: &OsStr) -> bool {
    let find = |name: &str, path: &OsStr| {
        let found = which::which_in(name, Some(path), "/").ok()?;
        found.canonicalize().ok()
    };
    PROGRAMS.split(' ').all(|name| find(name, one) == find(name, other))
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
pub(super) fn socket(runtime_dir: &Path) -> PathBuf {
    let status = supervise::read_status(&places::run_dir(runtime_dir));
    let named = status.and_then(|status| status.socket);
    named.unwrap_or_else(|| runtime_dir.join("docker.sock"))
}

fn read_notes(path: &Path) -> Option<Notes> {
    serde_json::from_slice(&files::read_regular(path, UNIT_MAX).ok()??).ok()
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
