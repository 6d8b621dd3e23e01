//! One run at a time: a lock that ends with the process that holds it.

use std::io;

use crate::error::{Error, Exit};
use crate::fetch::store::{Store, failed, make_dir};
use crate::sys::lock::{Lock, Refusal};

impl Store {
    /// Makes our directory if it is missing, and takes the lock in it without waiting. Fails with
    /// exit 5 if another process has it.
    pub fn lock(&self) -> Result<Lock, Error> {
        let path = self.root.join("lock");
        loop {
            make_dir(&self.root, 0o700)?;
            match Lock::take(&path) {
                Ok(lock) => return Ok(lock),
                // The last holder may have removed the directory.
                Err(Refusal::Failed(error)) if error.kind() == io::ErrorKind::NotFound => {}
                Err(Refusal::Failed(error)) => {
                    return Err(failed(&path, "cannot be locked", &error));
                }
                Err(Refusal::Held(pid)) => {
                    let holder = pid.map_or_else(
                        || "another process".to_owned(),
                        |pid| format!("process {pid}"),
                    );
                    let what = format!("{holder} is fetching or removing programs already");
                    return Err(Error::new(Exit::AlreadyRunning, what)
                        .hint("wait until it has ended, then run this again"));
                }
            }
        }
    }
}
