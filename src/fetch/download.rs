//! A tarball from a server into a file: hashed on its way, resumed where it broke off, tried again
//! a few times.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tracing::{info, warn};

use crate::error::{Error, Exit};
use crate::fetch::archive::hash_rest;
use crate::fetch::failpoint;
use crate::fetch::http::{Answer, Client, Failure, broken};
use crate::fetch::store::failed;
use crate::fetch::{Sum, Url};
use crate::sys::files;

/// The largest tarball in bytes; Docker's have less than 100 MB.
pub const ARCHIVE_MAX: u64 = 1 << 30;

/// How long to wait before each further try.
const PAUSES: [Duration; 3] =
    [Duration::from_millis(200), Duration::from_millis(600), Duration::from_millis(1800)];

/// Bytes that are read, hashed and written at once.
const CHUNK: usize = 256 * 1024;

/// A server that sends fewer bytes than this in the time that it may be silent counts as silent.
const TRICKLE: u64 = 1024;

/// How far a download is, for whoever shows it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes that are here.
    pub done: AtomicU64,
    /// Bytes that there will be; 0 as long as nobody knows.
    pub total: AtomicU64,
}

/// What to download, and what it must be.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Where it is.
    pub url: &'a Url,
    /// The sum that it must have; without one anything is taken.
    pub sum: Option<Sum>,
    /// How long the server may be silent.
    pub stall: Duration,
}

/// Downloads into `path`, where an earlier try may have left a beginning.
///
/// # Errors
/// Exit 6 if the sum is another or the file too large, and nothing is left; exit 1 if it could not
/// be had, and what is here stays for the next try.
pub fn download(
    client: &Client<'_>,
    wanted: &Wanted<'_>,
    path: &Path,
    progress: &Progress,
) -> Result<(File, Sum), Error> {
    let file = files::open_own(path).map_err(|error| failed(path, "cannot be opened", &error))?;
    let mut partial = Partial::new(file, path, wanted.sum.is_some())?;
    let mut tries = PAUSES.iter();
    loop {
        let attempt = partial.attempt(client, wanted, progress);
        let error = match attempt {
            Ok(()) => match partial.finish(wanted)? {
                Some(sum) => return Ok((partial.file, sum)),
                // The beginning was of another file. What comes now is whole.
                None => continue,
            },
            Err(Failure::Passing(error)) => error,
            Err(other) => return Err(other.into_error()),
        };
        let Some(pause) = tries.next() else {
            let hint = "is the network up? doing this again goes on where this ended";
            return Err(error.hint(hint));
        };
        warn!("{error}; tries again");
        thread::sleep(*pause);
    }
}

/// A file of which the first bytes are here and hashed.
struct Partial<'a> {
    file: File,
    path: &'a Path,
    hash: Sha256,
    length: u64,
    /// What identifies the file that these bytes are of.
    validator: Option<String>,
    /// Whether the first bytes are from an earlier run, so that only the sum tells if they fit.
    inherited: bool,
}

impl<'a> Partial<'a> {
    /// Takes over what an earlier run left, if a sum will tell whether it fits.
    fn new(file: File, path: &'a Path, sum_is_known: bool) -> Result<Self, Error> {
        let mut partial =
            Self { file, path, hash: Sha256::new(), length: 0, validator: None, inherited: false };
        if sum_is_known {
            let length = hash_rest(&mut partial.file, &mut partial.hash);
            partial.length = length.map_err(|error| failed(path, "cannot be read", &error))?;
            partial.inherited = partial.length > 0;
        } else {
            partial.start_over()?;
        }
        Ok(partial)
    }

    fn start_over(&mut self) -> Result<(), Error> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(|error| failed(self.path, "cannot be emptied", &error))?;
        self.hash = Sha256::new();
        self.length = 0;
        self.validator = None;
        self.inherited = false;
        Ok(())
    }

    /// Asks for what is missing and takes it.
    fn attempt(
        &mut self,
        client: &Client<'_>,
        wanted: &Wanted<'_>,
        progress: &Progress,
    ) -> Result<(), Failure> {
        // Without a validator nobody knows whether the rest would be of the same file.
        if self.length > 0 && self.validator.is_none() && !self.inherited {
            self.start_over().map_err(Failure::Lasting)?;
        }
        let answer = match client.ask(wanted.url, self.length, self.validator.as_deref()) {
            // Most likely there is no byte behind those that are here already.
            Err(Failure::Passing(error)) if self.length > 0 && self.inherited => {
                if wanted.sum.is_some_and(|sum| sum == self.sum()) {
                    return Ok(());
                }
                self.start_over().map_err(Failure::Lasting)?;
                return Err(Failure::Passing(error));
            }
            other => other?,
        };
        if answer.offset == 0 && self.length > 0 {
            self.start_over().map_err(Failure::Lasting)?;
        } else if self.length > 0 {
            info!("{} goes on at byte {}", wanted.url, self.length);
        }
        self.validator.clone_from(&answer.validator);
        progress.total.store(answer.length.unwrap_or(0), Ordering::Relaxed);
        self.take(answer, wanted, progress)
    }

    fn take(
        &mut self,
        answer: Answer,
        wanted: &Wanted<'_>,
        progress: &Progress,
    ) -> Result<(), Failure> {
        let length = answer.length;
        let mut reader = answer.into_reader();
        let mut chunk = vec![0; CHUNK];
        let mut window = (Instant::now(), self.length);
        loop {
            let count = match reader.read(&mut chunk) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Failure::Passing(broken(wanted.url, &error))),
            };
            if count == 0 {
                break;
            }
            failpoint::pass("downloading");
            self.length += count as u64;
            if self.length > ARCHIVE_MAX {
                let _ = self.start_over();
                let what = format!("`{}` has more than {} MiB", wanted.url, ARCHIVE_MAX >> 20);
                return Err(Failure::Lasting(Error::new(Exit::Integrity, what)));
            }
            self.hash.update(&chunk[..count]);
            if let Err(error) = self.file.write_all(&chunk[..count]) {
                // On a full disk what is here would only be in the way.
                let _ = self.start_over();
                return Err(Failure::Lasting(failed(self.path, "cannot be written", &error)));
            }
            progress.done.store(self.length, Ordering::Relaxed);
            if window.0.elapsed() >= wanted.stall {
                if self.length - window.1 < TRICKLE {
                    let slow = io::Error::new(io::ErrorKind::TimedOut, "next to nothing comes");
                    return Err(Failure::Passing(broken(wanted.url, &slow)));
                }
                window = (Instant::now(), self.length);
            }
        }
        match length {
            Some(length) if length != self.length => {
                let short = io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("{} of {length} bytes are here", self.length),
                );
                Err(Failure::Passing(broken(wanted.url, &short)))
            }
            _ => Ok(()),
        }
    }

    fn sum(&self) -> Sum {
        Sum(self.hash.clone().finalize().into())
    }

    /// The sum, if it is the one that is wanted; `None` if it is worth to download all of it again.
    fn finish(&mut self, wanted: &Wanted<'_>) -> Result<Option<Sum>, Error> {
        let sum = self.sum();
        if wanted.sum.is_none_or(|expected| expected == sum) {
            return Ok(Some(sum));
        }
        let again = self.inherited;
        self.start_over()?;
        if again {
            warn!("{}: what an earlier run left does not fit; downloads all of it", wanted.url);
            return Ok(None);
        }
        let expected = wanted.sum.map_or_else(String::new, |sum| sum.to_string());
        let what = format!("`{}` has the SHA-256 sum `{sum}` instead of `{expected}`", wanted.url);
        Err(Error::new(Exit::Integrity, what)
            .hint("nothing was changed; take another mirror: --mirror URL"))
    }
}
