//! The refusals before anything is touched, in this order, each with its own sentence.

use std::path::{Path, PathBuf};

use crate::error::{Error, Exit};
use crate::facts::{Directory, Lock, Person, PidState, Session, StateDir};
use crate::plan::network::Effective;
use crate::settings::{NetworkDriver, PortDriver};

/// The longest path in bytes that a Unix socket can have (`sun_path` less its NUL, unix(7)).
pub const SOCKET_PATH_MAX: usize = 107;

/// The user, the home and the runtime directory.
///
/// # Errors
/// Refuses root (exit 1), and what [`refuse_home`] and [`refuse_runtime_dir`] refuse.
pub fn refuse_person(person: &Person) -> Result<&Path, Error> {
    refuse_root(person)?;
    refuse_home(person).map_err(|error| error.check("home"))?;
    refuse_runtime_dir(person).map_err(|error| error.check("runtime-dir"))
}

/// The home must be there.
///
/// # Errors
/// Exit 4.
pub fn refuse_home(person: &Person) -> Result<(), Error> {
    let refuse = |what: String, hint: &str| Err(Error::new(Exit::Prerequisite, what).hint(hint));
    match &person.home {
        None => refuse("HOME is not set".to_owned(), "export HOME=/path/to/your/home"),
        Some((home, false)) => refuse(
            format!("HOME `{}` is not a directory", home.display()),
            "create it, or set HOME to your home directory",
        ),
        Some((_, true)) => Ok(()),
    }
}

/// The runtime directory, in which nobody else may write.
///
/// # Errors
/// Refuses every directory that another user could tamper with (exit 4).
pub fn refuse_runtime_dir(person: &Person) -> Result<&Path, Error> {
    let refuse = |what: String, hint: String| Err(Error::new(Exit::Prerequisite, what).hint(hint));
    let uid = person.uid;
    let Some((path, directory)) = &person.runtime_dir else {
        return refuse(
            format!("XDG_RUNTIME_DIR is not set, and /run/user/{uid} is not a directory of yours"),
            format!(
                "log in through a session of systemd-logind, or as root: loginctl enable-linger {uid}; without systemd: mkdir -p -m 0700 ~/.docker/run && export XDG_RUNTIME_DIR=~/.docker/run"
            ),
        );
    };
    let own_directory =
        format!("name a directory of your own, of mode 0700: usually /run/user/{uid}");
    let shown = path.display();
    if !path.is_absolute() {
        return refuse(
            format!("XDG_RUNTIME_DIR `{shown}` is not an absolute path"),
            own_directory.clone(),
        );
    }
    let tamper = "another user could take the daemon's socket over there";
    match directory {
        Directory::Missing => refuse(
            format!("XDG_RUNTIME_DIR `{shown}` does not exist"),
            format!("mkdir -m 0700 {}", quoted(path)),
        ),
        Directory::Unknown(reason) => refuse(
            format!("XDG_RUNTIME_DIR `{shown}` cannot be looked at: {reason}"),
            own_directory.clone(),
        ),
        Directory::Symlink => refuse(
            format!(
                "XDG_RUNTIME_DIR `{shown}` is a symbolic link, which can be made to point elsewhere"
            ),
            "set XDG_RUNTIME_DIR to the directory itself".to_owned(),
        ),
        Directory::NotADirectory => {
            refuse(format!("XDG_RUNTIME_DIR `{shown}` is not a directory"), own_directory.clone())
        }
        Directory::Present { owner, .. } if *owner != uid => refuse(
            format!(
                "XDG_RUNTIME_DIR `{shown}` belongs to user {owner}, not to you (user {uid}): {tamper}"
            ),
            format!("{own_directory}; after `su` or `sudo` it is still that of the other user"),
        ),
        Directory::Present { mode, .. } if mode & 0o022 != 0 => refuse(
            format!(
                "XDG_RUNTIME_DIR `{shown}` can be written by others (mode {mode:04o}): {tamper}"
            ),
            format!("chmod 0700 {}", quoted(path)),
        ),
        Directory::Present { .. } => {
            let mut faults = person
                .ancestors
                .iter()
                .filter_map(|above| Some((above.path.display(), above.fault(uid)?)));
            match faults.next() {
                None => Ok(path),
                Some((above, fault)) => refuse(
                    format!("`{above}` above XDG_RUNTIME_DIR `{shown}` {fault}: {tamper}"),
                    own_directory.clone(),
                ),
            }
        }
    }
}

/// A runtime directory that a supervisor does not use: others can look into it, or what a daemon leaves
/// cannot be told from its user's files.
///
/// # Errors
/// Exit 4.
pub fn refuse_shared_runtime_dir(person: &Person) -> Result<(), Error> {
    let refuse = |what: String, hint: String| Err(Error::new(Exit::Prerequisite, what).hint(hint));
    let Some((path, Directory::Present { mode, .. })) = &person.runtime_dir else {
        return Ok(());
    };
    let shown = path.display();
    if mode & 0o077 != 0 {
        return refuse(
            format!(
                "XDG_RUNTIME_DIR `{shown}` is open to others (mode {mode:04o}): it must be yours alone"
            ),
            format!("chmod 0700 {}", quoted(path)),
        );
    }
    if person.runtime_dir_holds_home {
        return refuse(
            format!(
                "XDG_RUNTIME_DIR `{shown}` is or holds your home: what a daemon leaves is removed from it"
            ),
            format!("name a directory of your own, of mode 0700: usually /run/user/{}", person.uid),
        );
    }
    Ok(())
}

/// Root, who has a daemon of his own.
///
/// # Errors
/// Exit 1.
pub fn refuse_root(person: &Person) -> Result<(), Error> {
    if person.uid != 0 {
        return Ok(());
    }
    Err(Error::new(
        Exit::Failed,
        "rootless Docker must be started by an unprivileged user, not by root (uid 0)",
    )
    .hint("log in as the user that is to own the daemon; `dockerd` itself is the daemon of root"))
}

/// The sockets that rootlesskit will make, each with the bytes that its path may have.
pub fn rootlesskit_sockets(state_dir: &Path, network: &Effective) -> Vec<(PathBuf, usize)> {
    let mut names = vec!["api.sock"];
    match network.port_driver {
        PortDriver::Builtin => names.push(".bp.sock"),
        PortDriver::Slirp4netns => names.push(".s4nn.sock"),
        _ => {}
    }
    match network.driver {
        NetworkDriver::Vpnkit => names.push("vpnkit-ethernet.sock"),
        NetworkDriver::GvisorTapVsock => names.push("gvisortapvsock/tap.sock"),
        _ => {}
    }
    names.into_iter().map(|name| (state_dir.join(name), SOCKET_PATH_MAX)).collect()
}

/// Every socket that will be made must have a path that fits: rootlesskit would wait for ever.
/// `sockets` have a limit in bytes each.
///
/// # Errors
/// Names the path and its length (exit 78).
pub fn refuse_long_paths(sockets: &[(PathBuf, usize)]) -> Result<(), Error> {
    let too_long = |(path, limit): &&(PathBuf, usize)| path.as_os_str().len() > *limit;
    let Some((path, limit)) = sockets.iter().find(too_long) else {
        return Ok(());
    };
    let (shown, length) = (path.display(), path.as_os_str().len());
    Err(Error::new(
        Exit::Config,
        format!("the socket path `{shown}` has {length} bytes, and {limit} are the most"),
    )
    .hint("set XDG_RUNTIME_DIR (or rootlesskit.state-dir, or dockerd's --exec-root) to a shorter path"))
}

/// The state directory must be one that rootlesskit may delete, for that is what it does.
///
/// # Errors
/// Exit 78, and nothing is touched.
pub fn refuse_foreign_state_dir(state_dir: &StateDir, uid: u32) -> Result<(), Error> {
    let path = state_dir.path.display();
    let refuse = |what: String| {
        Err(Error::new(
            Exit::Config,
            format!(
                "the state directory `{path}` {what}; rootlesskit would delete it with all its contents"
            ),
        )
        .hint(
            "name a directory that does not exist yet, or none: \
             `dockerd-rootless config explain rootlesskit.state-dir` shows who sets it, and so may \
             `--state-dir` in rootlesskit.flags",
        ))
    };
    if let Some(held) = &state_dir.holds {
        return refuse(format!("is or holds `{}`", held.display()));
    }
    match &state_dir.directory {
        Directory::Missing => Ok(()),
        Directory::Unknown(reason) => refuse(format!("cannot be judged: {reason}")),
        Directory::Symlink => refuse("is a symbolic link".to_owned()),
        Directory::NotADirectory => refuse("is not a directory".to_owned()),
        Directory::Present { owner, .. } if *owner != uid => {
            refuse(format!("belongs to user {owner}, not to you (user {uid})"))
        }
        Directory::Present { .. } if state_dir.foreign.is_empty() => Ok(()),
        Directory::Present { .. } => {
            let names =
                state_dir.foreign.iter().take(3).map(|name| format!("`{}`", name.display()));
            let names: Vec<String> = names.collect();
            let more = match state_dir.foreign.len() - names.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            refuse(format!("holds what rootlesskit did not make: {}{more}", names.join(", ")))
        }
    }
}

/// Nobody else may run on the same state directory or with the same pid file.
///
/// # Errors
/// Exit 5, and names the PID.
pub fn refuse_second_instance(session: &Session) -> Result<(), Error> {
    let already = |what: String| {
        Err(Error::new(Exit::AlreadyRunning, what).hint(
            "use the daemon that runs, or stop it first: systemctl --user stop docker, or kill the PID",
        ))
    };
    if let Lock::Held(pid) = session.state_dir.lock {
        return already(format!(
            "rootless Docker is already running (PID {pid}) with the state directory `{}`",
            session.state_dir.path.display()
        ));
    }
    for file in &session.pid_files {
        if let PidState::Running(pid) = file.state {
            return already(format!(
                "the daemon is already running (PID {pid}), says `{}`",
                file.path.display()
            ));
        }
    }
    match &session.containerd_rootless {
        (_, Lock::Free) => Ok(()),
        (path, Lock::Held(pid)) => Err(Error::new(
            Exit::AlreadyRunning,
            format!(
                "containerd-rootless is running (PID {pid}) on `{}`, and does not go with a daemon of \
                 the same user (moby#52171)",
                path.display()
            ),
        )
        .hint("stop it first: systemctl --user stop containerd, or kill the PID")
        .check("containerd-rootless")),
    }
}

/// `path` for a command to paste.
fn quoted(path: &Path) -> String {
    crate::words::quote(path.as_os_str()).display().to_string()
}
