//! One at a time: a lock that ends with the process that holds it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::error::{Error, Exit};
use crate::sys::files;

/// How often another's removal of the file may come between.
const TRIES: usize = 10;

/// The lock, held until this is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock `path`, without waiting.
    ///
    /// # Errors
    /// Exit 5 names the process that has it; exit 1 if the file cannot be made.
    pub fn take(path: &Path) -> Result<Self, Error> {
        let shown = path.display();
        for _ in 0..TRIES {
            let mut file = files::open_own(path).map_err(|error| {
                Error::new(Exit::Failed, format!("the lock `{shown}` cannot be made"))
                    .because(&error)
            })?;
            let mut holder = String::new();
            let _ = Read::by_ref(&mut file).take(32).read_to_string(&mut holder);
            let mut locked = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(locked) => locked,
                Err((_, Errno::EWOULDBLOCK)) => {
                    let holder = match holder.trim() {
                        "" => "another process".to_owned(),
                        pid => format!("process {pid}"),
                    };
                    let what = format!(
                        "{holder} is fetching or removing programs already (it holds `{shown}`)"
                    );
                    return Err(Error::new(Exit::AlreadyRunning, what)
                        .hint("wait until it has ended, then do this again"));
                }
                Err((_, error)) => {
                    let what = format!("the lock `{shown}` cannot be taken");
                    return Err(Error::new(Exit::Failed, what).because(&error));
                }
            };
            // Whoever had it may have removed the file, and a third may have made another.
            if is_at(&locked, path) {
                // Only for others to read: a full disk does not matter.
                let _ = write_pid(&mut locked);
                return Ok(Self { _file: locked });
            }
        }
        let what = format!("the lock `{shown}` is removed again and again");
        Err(Error::new(Exit::Failed, what))
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let there = path.symlink_metadata();
    let ours = file.metadata();
    matches!((there, ours), (Ok(there), Ok(ours)) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()))
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "{}", std::process::id())
}
