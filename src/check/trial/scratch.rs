//! A directory for a trial, which is gone when the trial is over, and at the latest when the next
//! one begins.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{AccessFlags, access};

/// The names of such directories begin so. It is short: rootlesskit's sockets in it must not have
/// longer paths than those of a real launch.
const PREFIX: &str = ".drl-";

/// How the names of rootlesskit's directories in /tmp begin: of its copy-up, and of its sysfs.
const OWN_NAMES: [&[u8]; 2] = [b"rootlesskit-b", b"rksys"];

/// Longer than a trial takes, its deadlines included.
const LONGEST: Duration = Duration::from_secs(60);

/// How often to make a directory that others take for a dead one's.
const ATTEMPTS: u8 = 16;

/// A directory of ours, locked as long as it is in use, removed with the value.
pub struct Scratch {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Scratch {
    /// The name of the directory that process `pid` makes in `parent`.
    pub fn name(parent: &Path, pid: u32) -> PathBuf {
        parent.join(format!("{PREFIX}{pid}"))
    }

    /// Makes the directory `path`, and removes those beside and above it that a process left which
    /// was killed together with its watcher. Above: the data root may not have existed then.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(path: &Path) -> io::Result<Self> {
        for ancestor in path.ancestors().skip(1) {
            sweep(ancestor);
        }
        for _ in 0..ATTEMPTS {
            DirBuilder::new().mode(0o700).create(path)?;
            match lock(path) {
                Ok(Some(lock)) => {
                    return Ok(Self { path: path.to_owned(), _lock: lock });
                }
                Ok(None) => {}
                Err(error) => {
                    let _ = fs::remove_dir(path);
                    return Err(error);
                }
            }
        }
        Err(io::Error::other("others remove it again and again"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = remove(&self.path);
    }
}

/// Locks a directory just made; `None` if a trial that began at the same time took it for that of
/// a dead one and removed it.
fn lock(path: &Path) -> io::Result<Option<Flock<File>>> {
    let directory = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    // Only such a trial can hold the lock, and not for long.
    let lock = Flock::lock(directory, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    let identity = |found: fs::Metadata| (found.dev(), found.ino());
    let own = identity(lock.metadata()?);
    let is_there = fs::symlink_metadata(path).is_ok_and(|found| identity(found) == own);
    Ok(is_there.then_some(lock))
}

/// Removes the directories of dead trials in `parent`, if we can write there: those called so,
/// ours, and locked by nobody.
fn sweep(parent: &Path) {
    let own = crate::facts::look::uid();
    if access(parent, AccessFlags::W_OK).is_err() {
        return;
    }
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_named = entry.file_name().as_bytes().starts_with(PREFIX.as_bytes());
        let path = entry.path();
        let is_own =
            || fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir() && found.uid() == own);
        if is_named
            && is_own()
            && let Ok(directory) = File::open(&path)
            && let Ok(lock) = Flock::lock(directory, FlockArg::LockExclusiveNonblock)
        {
            if let Ok(begin) = lock.metadata().and_then(|found| found.created()) {
                remove_bind_directories(begin);
            }
            let _ = remove(&path);
        }
    }
}

/// Removes the empty directories that a rootlesskit which was killed while it began, at `begin`,
/// left in /tmp: its copy-up makes them there whatever TMPDIR says (`pkg/copyup/tmpfssymlink`), and
/// removes them a moment later. What was made after a trial's longest time is another's.
pub fn remove_bind_directories(begin: SystemTime) {
    let own = crate::facts::look::uid();
    let times = begin..begin + LONGEST;
    for entry in fs::read_dir("/tmp").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_named = OWN_NAMES.iter().any(|own| name.as_bytes().starts_with(own));
        let is_trials = |found: &fs::Metadata| {
            found.uid() == own && found.modified().is_ok_and(|time| times.contains(&time))
        };
        if is_named && entry.metadata().is_ok_and(|found| is_trials(&found)) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Removes a directory that we made with all that is in it. The kernel makes an overlay's inner
/// work directory with no permissions at all, not even for its owner.
fn remove(path: &Path) -> io::Result<()> {
    let attempts = ["a", "b"].map(|attempt| path.join(attempt).join("work/work"));
    for inner in attempts.iter().filter(|inner| inner.is_dir()) {
        fs::set_permissions(inner, fs::Permissions::from_mode(0o700))?;
    }
    fs::remove_dir_all(path)
}
