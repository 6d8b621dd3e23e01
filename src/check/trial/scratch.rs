//! A directory for a trial. It is removed when the trial is over; that of a check that was killed, by
//! the next check.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use nix::sys::signal::Signal;
use nix::unistd::{AccessFlags, access};

use crate::facts::look;
use crate::stage::launch;
use crate::sys::lock::{Lock, Refusal};
use crate::sys::processes::{self, Process};
use crate::sys::wait::MOMENT;

/// How the names of such directories begin. It is short: rootlesskit's sockets in it must not have
/// longer paths than those of a real launch.
const PREFIX: &str = ".drl-";

/// How often to make a directory that other checks take for a dead check's.
const ATTEMPTS: u8 = 16;

/// A directory of ours, locked while it is in use, removed with the value.
pub struct Scratch {
    path: PathBuf,
    _lock: Lock,
}

impl Scratch {
    /// Returns the path of this process's directory in `parent`.
    pub fn name(parent: &Path) -> PathBuf {
        parent.join(format!("{PREFIX}{}", std::process::id()))
    }

    /// Makes the directory `path`, and removes those of dead checks beside and above it. Above: the
    /// data root may not have existed then.
    pub fn new(path: &Path) -> io::Result<Self> {
        path.ancestors().skip(1).for_each(sweep);
        for _ in 0..ATTEMPTS {
            match DirBuilder::new().mode(0o700).create(path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            // Only a check that began at the same time, and took it for a dead one's, can hold the
            // lock; it removes the directory.
            match Lock::take_at(path, |path| File::open(path)) {
                Ok(lock) => return Ok(Self { path: path.to_owned(), _lock: lock }),
                Err(Refusal::Failed(error)) if error.kind() != io::ErrorKind::NotFound => {
                    let _ = fs::remove_dir(path);
                    return Err(error);
                }
                Err(_) => thread::sleep(MOMENT),
            }
        }
        Err(io::Error::other("other checks remove it again and again"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes the directories of dead checks in `parent`, if we can write there: those with such a
/// name that are ours and that no process has locked.
fn sweep(parent: &Path) {
    if access(parent, AccessFlags::W_OK).is_err() {
        return;
    }
    let uid = look::uid();
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_name().as_bytes().starts_with(PREFIX.as_bytes())
            && fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir() && found.uid() == uid)
            && let Ok(directory) = File::open(&path)
            && directory.try_lock().is_ok()
        {
            if let Ok(begin) = directory.metadata().and_then(|found| found.created()) {
                launch::remove_bind_directories(begin);
            }
            remove(&path);
        }
    }
}

/// Ends the processes whose TMPDIR is the directory `path` of ours, and removes it with all that is
/// in it. The kernel makes an overlay's inner work directory with no permissions at all, not even
/// for its owner.
fn remove(path: &Path) {
    let variable = [b"TMPDIR=", path.as_os_str().as_bytes()].concat();
    let is_trials = |process: &Process| {
        let environment = fs::read(format!("/proc/{}/environ", process.identity.pid));
        environment.unwrap_or_default().split(|byte| *byte == 0).any(|own| own == variable)
    };
    let left: Vec<Process> = processes::all().into_iter().filter(is_trials).collect();
    processes::signal_all(&left, Signal::SIGKILL);
    for attempt in ["a", "b"] {
        let inner = path.join(attempt).join("work/work");
        let _ = fs::set_permissions(inner, fs::Permissions::from_mode(0o700));
    }
    let _ = fs::remove_dir_all(path);
}
