//! Locks that end with the process that holds them (flock(2)), on files and directories whose names
//! others may remove or give to something else meanwhile.

use std::fs::{self, File, Metadata, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;

use nix::libc;

use crate::sys::files;
use crate::sys::wait::MOMENT;

/// How often to try a lock that a reader may hold for a moment, or whose name is just being
/// removed.
const TRIES: u8 = 10;

/// A lock that is held.
#[derive(Debug)]
pub struct Lock(pub File);

/// The reason why a lock is not taken.
#[derive(Debug)]
pub enum Refusal {
    /// This process holds it, if the kernel tells.
    Held(Option<u32>),
    Failed(io::Error),
}

impl Lock {
    /// Locks the file `path`, which is made if it is missing, and writes our PID into it.
    pub fn take(path: &Path) -> Result<Self, Refusal> {
        let mut lock = Self::take_at(path, files::open_own)?;
        // Only for others to read: a full disk does not matter.
        let _ = lock.0.set_len(0).and_then(|()| writeln!(lock.0, "{}", std::process::id()));
        Ok(lock)
    }

    /// Locks what `open` opens at `path`, and what is still there when it is locked.
    pub fn take_at(path: &Path, open: impl Fn(&Path) -> io::Result<File>) -> Result<Self, Refusal> {
        for _ in 0..TRIES {
            let file = open(path).map_err(Refusal::Failed)?;
            let found = file.metadata().map_err(Refusal::Failed)?;
            match file.try_lock() {
                Ok(()) => {
                    let lock = Self(file);
                    if lock.is_at(path) {
                        return Ok(lock);
                    }
                }
                Err(TryLockError::Error(error)) => return Err(Refusal::Failed(error)),
                Err(TryLockError::WouldBlock) => match holder(&found) {
                    Some(pid) => return Err(Refusal::Held(Some(pid))),
                    None => thread::sleep(MOMENT),
                },
            }
        }
        Err(Refusal::Held(None))
    }

    /// Says whether `path` leads to what is locked.
    pub fn is_at(&self, path: &Path) -> bool {
        let id = |found: io::Result<Metadata>| found.map(|found| (found.dev(), found.ino())).ok();
        let own = id(self.0.metadata());
        own.is_some() && own == id(fs::symlink_metadata(path))
    }
}

/// Says whether a process holds the lock `path`.
pub fn is_held(path: &Path) -> bool {
    let locked = File::open(path).map(|file| file.try_lock_shared());
    matches!(locked, Ok(Err(TryLockError::WouldBlock)))
}

/// Finds the process that holds a lock on the file with this metadata alone, in proc_locks(5).
pub fn holder(found: &Metadata) -> Option<u32> {
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let inode = format!(":{}", found.ino());
    let device = format!("{:02x}:{:02x}:", libc::major(found.dev()), libc::minor(found.dev()));
    // `1: FLOCK  ADVISORY  WRITE 4711 00:2f:42 0 EOF`
    let rows = locks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let on_inode = rows.filter(|fields| {
        matches!(fields[..], [_, "FLOCK", _, "WRITE", _, file, ..] if file.ends_with(&inode))
    });
    // Some file systems have another device in here than stat(2) tells.
    let row = on_inode.max_by_key(|fields| fields[5].starts_with(&device))?;
    row[4].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_one_holders_and_follows_its_name() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("lock");
        assert!(!is_held(&path));
        let lock = Lock::take(&path).expect("it is free");
        assert_eq!(fs::read_to_string(&path).expect("text"), format!("{}\n", std::process::id()));
        let refused = Lock::take(&path).expect_err("it is held");
        assert!(matches!(refused, Refusal::Held(Some(pid)) if pid == std::process::id()));
        assert!(is_held(&path) && lock.is_at(&path));
        fs::remove_file(&path).expect("ours");
        assert!(!lock.is_at(&path));
        let other = Lock::take(&path).expect("a new file is free");
        drop(lock);
        assert!(is_held(&path));
        drop(other);
        assert!(!is_held(&path));
        let _reader = File::open(&path).map(|file| file.lock_shared().map(|()| file));
        Lock::take(directory.path().join("missing/lock").as_path()).expect_err("no directory");
    }
}
