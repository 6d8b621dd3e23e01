//! One run at a time: a lock that ends with the process that holds it.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::error::{Error, Exit};
use crate::fetch::store::{Store, failed, make_dir};
use crate::sys::files;

impl Store {
    /// Makes our directory if it is missing, and takes the lock in it without waiting. Fails with
    /// exit 5 if another process has it.
    pub fn lock(&self) -> Result<Flock<File>, Error> {
        let path = self.root.join("lock");
        loop {
            make_dir(&self.root, 0o700)?;
            let mut file =
                files::open_own(&path).map_err(|error| failed(&path, "cannot be made", &error))?;
            let mut holder = String::new();
            let _ = Read::by_ref(&mut file).take(32).read_to_string(&mut holder);
            let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => lock,
                Err((_, Errno::EWOULDBLOCK)) => {
                    let holder = holder.trim();
                    let what = format!("process {holder} is fetching or removing programs already");
                    return Err(Error::new(Exit::AlreadyRunning, what)
                        .hint("wait until it has ended, then run this again"));
                }
                Err((_, error)) => return Err(failed(&path, "cannot be locked", &error.into())),
            };
            // The last holder may have removed the file.
            let there = path.symlink_metadata().map(|there| there.ino());
            if lock.metadata().map(|ours| ours.ino()).ok() == there.ok() {
                // For others to read only: a full disk does not matter.
                let _ = lock.set_len(0).and_then(|()| lock.rewind());
                let _ = writeln!(lock, "{}", std::process::id());
                return Ok(lock);
            }
        }
    }
}
