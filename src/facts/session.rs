//! The user's session: who runs us, and what lies in the places that a launch will use.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::facts::{DaemonJson, Places};
use crate::sys::sockets::ListenFds;

/// Who runs us, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// The effective user id.
    pub uid: u32,
    /// `$HOME`, and whether a directory is there.
    pub home: Option<(PathBuf, bool)>,
    /// The user's home in the user database, if `$HOME` is another's.
    pub own_home: Option<PathBuf>,
    /// `$XDG_RUNTIME_DIR`, or `/run/user/UID` if that variable is unset and the directory is
    /// ours or can be made; with what is there.
    pub runtime_dir: Option<(PathBuf, Directory)>,
    /// Whether the runtime directory was found without the variable.
    pub runtime_dir_guessed: bool,
    /// Whether it is or holds the home, all links followed.
    pub runtime_dir_holds_home: bool,
    /// The directories above it, by its name and with all links followed.
    pub ancestors: Vec<Ancestor>,
}

/// A directory above the runtime directory: a user who can rename what is in it can put another
/// one in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ancestor {
    pub path: PathBuf,
    /// Its owner, if this user namespace knows him: in a container it may not.
    pub owner: Option<u32>,
    pub group: u32,
    /// Its permission bits.
    pub mode: u32,
}

impl Ancestor {
    /// Says what lets another than root and user `uid` put something else below, if anything does.
    pub fn fault(&self, uid: u32) -> Option<String> {
        // A group of one's own, by the convention that its number is the user's, is only that user.
        let own_group = self.owner == Some(self.group);
        let is_open = self.mode & 0o002 != 0 || (self.mode & 0o020 != 0 && !own_group);
        let is_sticky = self.mode & 0o1000 != 0;
        match self.owner {
            Some(owner) if owner != 0 && owner != uid => Some(format!("belongs to user {owner}")),
            owner if is_open && !(is_sticky && owner.is_some()) => {
                Some(format!("can be written by others (mode {:04o})", self.mode))
            }
            _ => None,
        }
    }
}

/// What a launch will meet in the places that it uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub person: Person,
    pub places: Places,
    /// The state directory that rootlesskit will be given.
    pub state_dir: StateDir,
    /// The lock of a containerd-rootless of the same user.
    pub containerd_rootless: Lock,
    /// The pid files that dockerd and its containerd refuse to start over.
    pub pid_files: Vec<PidFile>,
    pub daemon_json: DaemonJson,
    pub certificates: Certificates,
    /// Whether the daemon is a member of a swarm, which does not go with live-restore.
    pub has_swarm: bool,
    /// Sockets that a service manager passed.
    pub listen_fds: Option<ListenFds>,
    /// The number that the keeper's end of our connection gets on its way through rootlesskit.
    pub keeper_fd: Option<u32>,
    /// The inode of our user namespace.
    pub user_namespace: u64,
    /// This program's own file.
    pub own_path: PathBuf,
}

/// What dockerd would find to serve its API with TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificates {
    /// Which of the three files do not exist, if dockerd is told where to listen.
    pub missing: Vec<PathBuf>,
}

/// What is found where a directory is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Directory {
    Missing,
    /// It is missing, and a launch makes it: `/run/user/UID` where its parent lets us, as in containers.
    Makeable,
    /// It cannot be looked at, and why.
    Unknown(String),
    Symlink,
    NotADirectory,
    Present {
        owner: u32,
        /// Its permission bits.
        mode: u32,
    },
}

/// The state directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDir {
    pub directory: Directory,
    /// The home, the runtime directory, or a directory of the daemon's that it is or holds, all
    /// links followed.
    pub holds: Option<PathBuf>,
    /// The names in it that rootlesskit did not make, in order.
    pub foreign: Vec<OsString>,
    pub lock: Lock,
}

/// A lock file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lock {
    /// No process holds it, or it does not exist.
    Free,
    /// The process of this PID holds it.
    Held(u32),
}

/// A running process, as `/proc` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// The file name of its program.
    pub program: String,
    /// Its real user id.
    pub uid: u32,
    /// Whether it has ended and only waits to be reaped.
    pub zombie: bool,
}

/// A file that names a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PidFile {
    pub path: PathBuf,
    pub state: PidState,
    /// Whether it is `docker.pid` or `containerd.pid` in the runtime directory or below, all links
    /// to there followed: only such a one may be removed.
    pub is_daemons: bool,
}

/// What a pid file names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PidState {
    /// There is no file, or it holds no PID.
    Absent,
    /// The program is running, as us, and this is its PID.
    Running(u32),
    /// The file is stale: the sentence says why.
    Stale(String),
}

impl PidState {
    /// Judges a pid file that names `pid`, which `process` is: it counts only if it exists, is no
    /// zombie, belongs to `uid` and runs one of `programs` (dockerd itself asks no more than
    /// whether the PID exists, and so refuses for ever once it is recycled).
    pub fn judge(pid: u32, process: Option<Process>, uid: u32, programs: &[&OsStr]) -> Self {
        match process {
            None => Self::Stale(format!("no process {pid} exists")),
            Some(process) if process.zombie => Self::Stale(format!("process {pid} has ended")),
            Some(process) if process.uid != uid => {
                Self::Stale(format!("process {pid} belongs to user {}", process.uid))
            }
            Some(process) if !programs.iter().any(|name| is_program(&process.program, name)) => {
                Self::Stale(format!("process {pid} is `{}`", process.program))
            }
            Some(_) => Self::Running(pid),
        }
    }
}

/// Whether `running` is `name`; the kernel keeps only the first 15 bytes of a name.
fn is_program(running: &str, name: &OsStr) -> bool {
    let name = name.as_bytes();
    running.as_bytes() == name || (running.len() == 15 && name.starts_with(running.as_bytes()))
}

impl StateDir {
    /// What rootlesskit makes in its state directory, from 0.14 to 3.1. Its lock goes last.
    pub const ENTRIES: [&str; 11] = [
        "child_pid",
        "netns",
        "resolv.conf",
        "hosts",
        "api.sock",
        ".bp.sock",
        ".s4nn.sock",
        "vpnkit-ethernet.sock",
        ".bp-ready.pipe",
        Self::SUBDIRECTORY,
        "lock",
    ];

    /// The only one of them that is a directory.
    pub const SUBDIRECTORY: &str = "gvisortapvsock";

    /// Returns the names among `entries` that are not rootlesskit's; each entry says whether it is a
    /// directory. Its lock comes first and goes last, so that without one nothing here is its own: a
    /// lone `hosts` is a file of the user's.
    pub fn foreign(entries: &[(OsString, bool)], has_lock: bool) -> Vec<OsString> {
        let is_own = |name: &OsString, is_directory: bool| {
            let is_known = Self::ENTRIES.iter().any(|own| name == own);
            has_lock && is_known && (!is_directory || name == Self::SUBDIRECTORY)
        };
        let foreign = entries.iter().filter(|(name, is_directory)| !is_own(name, *is_directory));
        foreign.map(|(name, _)| name.clone()).collect::<BTreeSet<_>>().into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_counts_only_for_a_live_process_of_ours_that_runs_the_program() {
        let process =
            |program: &str, uid, zombie| Some(Process { program: program.to_owned(), uid, zombie });
        let stale = |why: &str| PidState::Stale(why.to_owned());
        let cases = [
            (process("dockerd", 1000, false), PidState::Running(7)),
            (process("my-docker-daemo", 1000, false), PidState::Running(7)),
            (process("dockerd", 1000, true), stale("process 7 has ended")),
            (process("sleep", 1000, false), stale("process 7 is `sleep`")),
            (process("systemd", 0, false), stale("process 7 belongs to user 0")),
            (process("dockerd", 1001, false), stale("process 7 belongs to user 1001")),
            (None, stale("no process 7 exists")),
        ];
        for (process, expected) in cases {
            let programs = [OsStr::new("dockerd"), OsStr::new("my-docker-daemon")];
            let judged = PidState::judge(7, process.clone(), 1000, &programs);
            assert_eq!(judged, expected, "{process:?}");
        }
    }

    #[test]
    fn a_directory_above_is_safe_if_no_other_user_can_rename_what_is_in_it() {
        let cases = [
            (Some(0), 0, 0o755, None),
            (Some(1000), 1000, 0o711, None),
            (Some(0), 0, 0o1777, None),
            (Some(1000), 1000, 0o775, None),
            (None, 65534, 0o755, None),
            (Some(0), 0, 0o777, Some("can be written by others (mode 0777)")),
            (Some(0), 100, 0o775, Some("can be written by others (mode 0775)")),
            (Some(1000), 100, 0o770, Some("can be written by others (mode 0770)")),
            (Some(1001), 1001, 0o755, Some("belongs to user 1001")),
            (Some(1001), 1001, 0o1777, Some("belongs to user 1001")),
            (None, 65534, 0o1777, Some("can be written by others (mode 1777)")),
        ];
        for (owner, group, mode, expected) in cases {
            let ancestor = Ancestor { path: "/a".into(), owner, group, mode };
            assert_eq!(ancestor.fault(1000).as_deref(), expected, "{ancestor:?}");
        }
    }

    #[test]
    fn only_a_directory_with_rootlesskits_lock_is_rootlesskits() {
        let cases: [(&[&str], bool, &[&str]); 7] = [
            (&[], false, &[]),
            (&["lock", "child_pid", "api.sock", ".bp-ready.pipe", "gvisortapvsock/"], true, &[]),
            (&["lock", "hosts/", "netns/"], true, &["hosts", "netns"]),
            (&["lock/"], true, &["lock"]),
            (&["hosts"], false, &["hosts"]),
            (&["lock", "hosts"], false, &["hosts", "lock"]),
            (&["lock", "thesis.tex"], true, &["thesis.tex"]),
        ];
        for (names, has_lock, foreign) in cases {
            let entry = |name: &&str| (name.trim_end_matches('/').into(), name.ends_with('/'));
            let entries: Vec<_> = names.iter().map(entry).collect();
            assert_eq!(StateDir::foreign(&entries, has_lock), foreign, "{names:?}");
        }
    }
}
