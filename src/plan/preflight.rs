//! The refusals before anything is touched, each with its own sentence.

use std::path::{Path, PathBuf};

use crate::error::{Error, Exit};
use crate::facts::places::user_runtime_dir;
use crate::facts::{Directory, Lock, Person, PidState, Session, StateDir};
use crate::plan::network::Network;
use crate::settings::{NetworkDriver, PortDriver};
use crate::words::quoted;

/// The longest path in bytes that a Unix socket can have (`sun_path` less its NUL, unix(7)).
pub const SOCKET_PATH_MAX: usize = 107;

/// Refuses root, a bad home and a bad runtime directory; returns the latter.
pub fn refuse_person(person: &Person) -> Result<&Path, Error> {
    refuse_root(person)?;
    refuse_home(person).map_err(|error| error.check("home"))?;
    refuse_runtime_dir(person).map_err(|error| error.check("runtime-dir"))
}

fn missing(what: String, hint: impl Into<String>) -> Error {
    Error::new(Exit::Prerequisite, what).hint(hint)
}

/// Refuses root, who has a daemon of his own (exit 1).
pub fn refuse_root(person: &Person) -> Result<(), Error> {
    if person.uid != 0 {
        return Ok(());
    }
    let what = "rootless Docker must be started by an unprivileged user, not by root (uid 0)";
    let hint = "leave out `sudo`, or log in as the user who will own the daemon; `dockerd` itself is the daemon of root";
    Err(Error::new(Exit::Failed, what).hint(hint))
}

/// Refuses a home that is not there, or that is another user's.
pub fn refuse_home(person: &Person) -> Result<(), Error> {
    let Some((home, is_directory)) = &person.home else {
        let hint = "export HOME=$(getent passwd $(id -u) | cut -d: -f6)";
        return Err(missing("HOME is not set".to_owned(), hint));
    };
    let shown = home.display();
    if let Some(own) = person.own_home.as_ref().filter(|own| *own != home) {
        let what = format!("HOME is `{shown}`, yours is `{}`", own.display());
        return Err(missing(what, format!("export HOME={}", quoted(own))));
    }
    if !is_directory {
        let what = format!("HOME `{shown}` is not a directory");
        return Err(missing(what, "create it, or set HOME to your home directory"));
    }
    Ok(())
}

/// Says why `directory` is no directory of user `uid`, if it is none.
fn fault_of(directory: &Directory, uid: u32) -> Option<String> {
    match directory {
        Directory::Makeable => None,
        Directory::Missing => Some("does not exist".to_owned()),
        Directory::Unknown(reason) => Some(format!("cannot be judged: {reason}")),
        Directory::Symlink => Some("is a symbolic link".to_owned()),
        Directory::NotADirectory => Some("is not a directory".to_owned()),
        Directory::Present { owner, .. } => {
            (*owner != uid).then(|| format!("belongs to user {owner}, not to you (user {uid})"))
        }
    }
}

/// Refuses a runtime directory that another user could tamper with; returns it.
pub fn refuse_runtime_dir(person: &Person) -> Result<&Path, Error> {
    let uid = person.uid;
    let usual = user_runtime_dir(uid);
    let Some((path, directory)) = &person.runtime_dir else {
        let what = format!(
            "XDG_RUNTIME_DIR is not set, and {} is not a directory of yours",
            usual.display()
        );
        let hint = format!(
            "log in through a session of systemd-logind, or as root: loginctl enable-linger {uid}; \
             without systemd: mkdir -p -m 0700 ~/.docker/run && export XDG_RUNTIME_DIR=~/.docker/run"
        );
        return Err(missing(what, hint));
    };
    let is_anothers = path.parent() == usual.parent() && *path != usual;
    let shown = format!("XDG_RUNTIME_DIR `{}`", path.display());
    let is_writable = |mode: u32| mode & 0o022 != 0;
    let mut above = person.ancestors.iter();
    let (what, hint) = match (fault_of(directory, uid), directory) {
        _ if !path.is_absolute() => {
            (format!("{shown} is not an absolute path"), name_own_directory(uid))
        }
        (Some(fault), Directory::Missing) if !is_anothers => {
            (format!("{shown} {fault}"), format!("mkdir -m 0700 {}", quoted(path)))
        }
        (Some(fault), Directory::Present { .. }) => {
            (format!("{shown} {fault}: {TAMPER}"), name_own_directory(uid))
        }
        (Some(fault), _) => (format!("{shown} {fault}"), name_own_directory(uid)),
        (None, Directory::Present { mode, .. }) if is_writable(*mode) => (
            format!("{shown} can be written by others (mode {mode:04o}): {TAMPER}"),
            format!("chmod 0700 {}", quoted(path)),
        ),
        (None, _) => match above.find_map(|above| Some((&above.path, above.fault(uid)?))) {
            None => return Ok(path),
            Some((above, fault)) => (
                format!("`{}` above {shown} {fault}: {TAMPER}", above.display()),
                name_own_directory(uid),
            ),
        },
    };
    Err(missing(what, hint))
}

const TAMPER: &str = "another user could take the daemon's socket over there";

fn name_own_directory(uid: u32) -> String {
    format!(
        "name a directory of your own, of mode 0700: usually {}; after `su` or `sudo`, \
         XDG_RUNTIME_DIR may still be that of the other user",
        user_runtime_dir(uid).display()
    )
}

/// Refuses a runtime directory that a supervisor does not use: others can look into it, or what a
/// daemon leaves cannot be told from its user's files.
pub fn refuse_shared_runtime_dir(person: &Person) -> Result<(), Error> {
    let Some((path, Directory::Present { mode, .. })) = &person.runtime_dir else {
        return Ok(());
    };
    let shown = format!("XDG_RUNTIME_DIR `{}`", path.display());
    if mode & 0o077 != 0 {
        let what = format!("{shown} is open to others (mode {mode:04o}): it must be yours alone");
        return Err(missing(what, format!("chmod 0700 {}", quoted(path))));
    }
    if person.runtime_dir_holds_home {
        let what =
            format!("{shown} is or holds your home: what a daemon leaves is removed from it");
        return Err(missing(what, name_own_directory(person.uid)));
    }
    Ok(())
}

/// Returns the sockets that rootlesskit makes, each with the bytes that its path may have.
pub fn rootlesskit_sockets(state_dir: &Path, network: &Network) -> Vec<(PathBuf, usize)> {
    let of_ports = match network.port_driver {
        PortDriver::Builtin => Some(".bp.sock"),
        PortDriver::Slirp4netns => Some(".s4nn.sock"),
        _ => None,
    };
    let of_network = match network.driver {
        NetworkDriver::Vpnkit => Some("vpnkit-ethernet.sock"),
        NetworkDriver::GvisorTapVsock => Some("gvisortapvsock/tap.sock"),
        _ => None,
    };
    let names = ["api.sock"].into_iter().chain(of_ports).chain(of_network);
    names.map(|name| (state_dir.join(name), SOCKET_PATH_MAX)).collect()
}

/// Refuses a socket whose path does not fit (exit 78): rootlesskit would wait for ever. `sockets`
/// have a limit in bytes each.
pub fn refuse_long_paths(sockets: &[(PathBuf, usize)]) -> Result<(), Error> {
    let too_long = |(path, limit): &&(PathBuf, usize)| path.as_os_str().len() > *limit;
    let Some((path, limit)) = sockets.iter().find(too_long) else {
        return Ok(());
    };
    let (name, length) = (path.display(), path.as_os_str().len());
    let what =
        format!("the socket path `{name}` is too long: {length} bytes, the limit is {limit}");
    let hint = "set XDG_RUNTIME_DIR (or rootlesskit.state-dir, or dockerd's --exec-root) to a \
                shorter path";
    Err(Error::new(Exit::Config, what).hint(hint).check("socket-path"))
}

/// Refuses a state directory that rootlesskit may not delete, for that is what it does (exit 78).
pub fn refuse_foreign_state_dir(path: &Path, state_dir: &StateDir, uid: u32) -> Result<(), Error> {
    let fault = match (&state_dir.holds, fault_of(&state_dir.directory, uid)) {
        (Some(held), _) => format!("is or holds `{}`", held.display()),
        (None, _) if state_dir.directory == Directory::Missing => return Ok(()),
        (None, Some(fault)) => fault,
        (None, None) => match state_dir.foreign.first() {
            None => return Ok(()),
            Some(name) => format!("holds what rootlesskit did not make: `{}`", name.display()),
        },
    };
    let what = format!(
        "the state directory `{}` {fault}; rootlesskit would delete it with all its contents",
        path.display()
    );
    let hint = "name a directory that does not exist yet, or none: \
                `dockerd-rootless config explain rootlesskit.state-dir` shows what sets it, and so \
                may `--state-dir` in rootlesskit.flags";
    Err(Error::new(Exit::Config, what).hint(hint).check("state-dir"))
}

/// Refuses a second instance on the same state directory or with the same pid file (exit 5).
pub fn refuse_second_instance(session: &Session) -> Result<(), Error> {
    let running = session.pid_files.iter().find_map(|file| match file.state {
        PidState::Running(pid) => Some((pid, file.path.display())),
        _ => None,
    });
    let what = if let Lock::Held(pid) = session.state_dir.lock {
        let path = session.places.state_dir.display();
        format!("rootless Docker is already running (PID {pid}) with the state directory `{path}`")
    } else if let Some((pid, path)) = running {
        format!("the daemon is already running (PID {pid}), says `{path}`")
    } else if let Lock::Held(pid) = session.containerd_rootless {
        let what = format!(
            "containerd-rootless is running (PID {pid}) on `{}`, and does not go with a daemon of \
             the same user (moby#52171)",
            session.places.containerd_rootless.display()
        );
        let hint = "stop it first: systemctl --user stop containerd, or kill the PID";
        return Err(Error::new(Exit::AlreadyRunning, what).hint(hint).check("containerd-rootless"));
    } else {
        return Ok(());
    };
    let hint = "use the daemon that runs, or stop it first: systemctl --user stop docker, or kill \
                the PID";
    Err(Error::new(Exit::AlreadyRunning, what).hint(hint))
}
