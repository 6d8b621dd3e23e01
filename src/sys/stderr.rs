//! Standard error. One who stays writes through a queue that a thread empties
//! ([`crate::supervise`]'s log): whoever reads our messages may be slow or stopped, and nothing else
//! may wait for that. Who ends soon writes directly.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{SFlag, fstat};

/// How much may wait to be read, a line of the daemon's that comes included, in bytes.
pub const DAEMON_MAX: usize = 256 * 1024;

/// The same for a line of ours: we say little, and it matters.
const OWN_MAX: usize = DAEMON_MAX + 64 * 1024;

/// How much is written at once: a pipe that takes anything takes so much (`PIPE_BUF`, pipe(7)).
const PART: usize = 4096;

/// An empty queue keeps no more memory than this.
const KEPT: usize = 16 * 1024;

/// Where our messages go while somebody empties it.
static QUEUE: Mutex<Option<Arc<Queue>>> = Mutex::new(None);

/// What messages are written to, each by one call.
pub struct Writer;

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &*lock(&QUEUE) {
            Some(queue) => {
                queue.push(bytes, OWN_MAX);
                queue.wake();
                Ok(bytes.len())
            }
            None => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Has messages go to `queue`, or directly to standard error again.
pub fn redirect(queue: Option<Arc<Queue>>) {
    *lock(&QUEUE) = queue;
}

/// Lines that wait to be read.
pub struct Queue {
    waiting: Mutex<Waiting>,
    waker: PipeWriter,
}

#[derive(Default)]
struct Waiting {
    bytes: VecDeque<u8>,
    /// How many lines found no room since the last that did.
    dropped: usize,
    is_woken: bool,
    is_closed: bool,
}

impl Queue {
    /// A queue, and what becomes readable when somebody is to look at it.
    ///
    /// # Errors
    /// What the system says.
    pub fn new() -> io::Result<(Self, PipeReader)> {
        let (reader, waker) = io::pipe()?;
        let waiting = Mutex::default();
        Ok((Self { waiting, waker }, reader))
    }

    /// Appends `line`, unless more than `max` bytes would wait then.
    pub fn push(&self, line: &[u8], max: usize) {
        let mut waiting = lock(&self.waiting);
        if waiting.bytes.len() + line.len() > max {
            waiting.dropped += 1;
            return;
        }
        waiting.tell_dropped();
        waiting.bytes.extend(line);
    }

    /// Has who empties it look.
    pub fn wake(&self) {
        let mut waiting = lock(&self.waiting);
        if !waiting.is_woken {
            // The pipe holds one byte at most, so that this never waits.
            waiting.is_woken = (&self.waker).write_all(b"\n").is_ok();
        }
    }

    /// Says that nothing comes any more.
    pub fn close(&self) {
        lock(&self.waiting).is_closed = true;
        self.wake();
    }

    /// Takes note of a call of [`wake`](Self::wake), which made `reader` readable. Returns whether
    /// the queue is closed.
    pub fn woken(&self, reader: &mut PipeReader) -> bool {
        let mut waiting = lock(&self.waiting);
        waiting.is_woken = false;
        let _ = reader.read(&mut [0]);
        waiting.is_closed
    }

    /// How many bytes wait.
    pub fn length(&self) -> usize {
        lock(&self.waiting).bytes.len()
    }

    /// Writes some of it to `target`, which can take some. Returns whether it took any. Where nobody
    /// listens any more, nothing waits any longer.
    pub fn write_to(&self, target: &Target) -> bool {
        let mut part = [0; PART];
        let part = {
            let waiting = lock(&self.waiting);
            let (front, _) = waiting.bytes.as_slices();
            let count = front.len().min(PART);
            part[..count].copy_from_slice(&front[..count]);
            &part[..count]
        };
        let written = target.write(part);
        let mut waiting = lock(&self.waiting);
        match written {
            Ok(count) => drop(waiting.bytes.drain(..count)),
            Err(Errno::EAGAIN | Errno::EINTR) => return false,
            Err(_) => waiting.bytes.clear(),
        }
        if waiting.bytes.is_empty() {
            waiting.bytes.shrink_to(KEPT);
            waiting.tell_dropped();
        }
        true
    }
}

impl Waiting {
    fn tell_dropped(&mut self) {
        match std::mem::take(&mut self.dropped) {
            0 => {}
            1 => self.bytes.extend(b"1 line was dropped, because nobody read it\n"),
            count => {
                let notice = format!("{count} lines were dropped, because nobody read them\n");
                self.bytes.extend(notice.as_bytes());
            }
        }
    }
}

/// A descriptor that is written to without waiting.
pub struct Target {
    fd: OwnedFd,
    is_socket: bool,
}

impl Target {
    /// `shared` as it is, for others may use it as well: a pipe or a terminal is opened anew where
    /// that is allowed, since `O_NONBLOCK` would concern all of them.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(shared: BorrowedFd<'_>) -> io::Result<Self> {
        let mode = fstat(shared)?.st_mode;
        let kind = SFlag::from_bits_truncate(mode) & SFlag::S_IFMT;
        let own = match kind {
            SFlag::S_IFIFO | SFlag::S_IFCHR => OpenOptions::new()
                .write(true)
                .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
                .open(format!("/proc/self/fd/{}", shared.as_raw_fd()))
                .ok(),
            _ => None,
        };
        Ok(Self {
            fd: match own {
                Some(own) => own.into(),
                None => shared.try_clone_to_owned()?,
            },
            is_socket: kind == SFlag::S_IFSOCK,
        })
    }

    fn write(&self, bytes: &[u8]) -> nix::Result<usize> {
        match self.is_socket {
            true => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                send(self.fd.as_raw_fd(), bytes, flags)
            }
            false => nix::unistd::write(&self.fd, bytes),
        }
    }
}

impl AsFd for Target {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Nothing that is done under these locks leaves anything half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
