//! A directory for a trial. It is removed when the trial is over; that of a check that was killed, by
//! the next check.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use nix::unistd::{AccessFlags, access};

use crate::facts::look;
use crate::stage::launch;
use crate::sys::lock::Lock;
use crate::sys::processes::{self, Process};

/// How the names begin. It is short: rootlesskit's sockets must not have longer paths here than those
/// of a real launch.
const PREFIX: &str = ".drl-";

/// How often to make a directory that other checks take for a dead check's.
const ATTEMPTS: u8 = 3;

/// A directory of ours, locked while it is in use, removed with the value.
pub struct Scratch {
    path: PathBuf,
    begin: SystemTime,
    /// The directory above, if it was made for this one.
    made: Option<PathBuf>,
    _lock: Lock,
}

impl Scratch {
    /// Returns the path of this process's directory in `parent`.
    pub fn path(parent: &Path) -> PathBuf {
        parent.join(format!("{PREFIX}{}", std::process::id()))
    }

    /// Makes the directory `path`, and removes those of dead checks beside it. Those above it, too:
    /// the data root may not have existed then.
    pub fn new(path: &Path) -> io::Result<Self> {
        path.ancestors().skip(1).for_each(sweep);
        let made = path.parent().filter(|above| !above.exists()).map(Path::to_owned);
        let begin = SystemTime::now();
        for _ in 0..ATTEMPTS {
            DirBuilder::new().recursive(true).mode(0o700).create(path)?;
            // Another check may remove it before it is locked.
            if let Ok(lock) = Lock::take_at(path, |path| File::open(path)) {
                return Ok(Self { path: path.to_owned(), begin, made, _lock: lock });
            }
        }
        Err(io::Error::other(format!("`{}` cannot be locked", path.display())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.path, self.begin);
        // A start that uses it now has put something into it.
        let _ = self.made.as_ref().map(fs::remove_dir);
    }
}

/// Removes the directories of dead checks in `parent`, if we can write there: those with such a
/// name that are ours and that no process has locked.
fn sweep(parent: &Path) {
    if access(parent, AccessFlags::W_OK).is_err() {
        return;
    }
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_own = |found: fs::Metadata| found.is_dir() && found.uid() == look::uid();
        if entry.file_name().as_bytes().starts_with(PREFIX.as_bytes())
            && entry.metadata().is_ok_and(is_own)
            && let Ok(directory) = File::open(&path)
            && directory.try_lock().is_ok()
        {
            let begin = directory.metadata().and_then(|found| found.created());
            remove(&path, begin.unwrap_or(UNIX_EPOCH));
        }
    }
}

/// Ends the processes whose TMPDIR is the directory `path` of ours, and removes it with all that is
/// in it, and what a rootlesskit that began then has left in /tmp.
fn remove(path: &Path, begin: SystemTime) {
    let variable = [b"TMPDIR=", path.as_os_str().as_bytes()].concat();
    let is_trials = |process: &Process| {
        let environment = fs::read(format!("/proc/{}/environ", process.identity.pid));
        environment.unwrap_or_default().split(|byte| *byte == 0).any(|own| own == variable)
    };
    let left: Vec<Process> = processes::all().into_iter().filter(is_trials).collect();
    processes::signal_all(&left, Signal::SIGKILL);
    launch::remove_bind_directories(begin);
    // The kernel makes an overlay's inner work directory without permissions even for its owner.
    for attempt in ["a", "b"] {
        let inner = path.join(attempt).join("work/work");
        let _ = fs::set_permissions(inner, fs::Permissions::from_mode(0o700));
    }
    let _ = fs::remove_dir_all(path);
}
