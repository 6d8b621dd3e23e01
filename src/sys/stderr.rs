//! Standard error. A supervisor writes through a pipe that a thread empties (its log): a slow or
//! stopped reader of our messages must not hold anything else up. A command that ends soon writes
//! directly.

use std::fs::OpenOptions;
use std::io::{self, PipeWriter, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Mutex, PoisonError};

use nix::libc;
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{SFlag, fstat};

/// Where our messages go while a thread passes them on.
static PIPE: Mutex<Option<PipeWriter>> = Mutex::new(None);

/// What messages are written to, each by one call.
pub struct Writer;

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &*PIPE.lock().unwrap_or_else(PoisonError::into_inner) {
            // Without room for it, the message is lost: nothing waits.
            Some(pipe) => {
                nix::unistd::write(pipe, bytes).map_or(Ok(bytes.len()), |_| Ok(bytes.len()))
            }
            None => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Has messages go to `pipe`, which must not block, or directly to standard error again.
pub fn redirect(pipe: Option<PipeWriter>) {
    *PIPE.lock().unwrap_or_else(PoisonError::into_inner) = pipe;
}

/// A descriptor that is written to without waiting.
pub struct Target {
    fd: OwnedFd,
    is_socket: bool,
}

impl Target {
    /// Takes `shared` as it is, for others may use it as well: a pipe or a terminal is opened anew
    /// where that is allowed, since `O_NONBLOCK` would concern all of them.
    pub fn new(shared: BorrowedFd<'_>) -> io::Result<Self> {
        let mode = fstat(shared)?.st_mode;
        let kind = SFlag::from_bits_truncate(mode) & SFlag::S_IFMT;
        let anew = match kind {
            SFlag::S_IFIFO | SFlag::S_IFCHR => OpenOptions::new()
                .write(true)
                .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
                .open(format!("/proc/self/fd/{}", shared.as_raw_fd()))
                .ok(),
            _ => None,
        };
        let fd = anew.map_or_else(|| shared.try_clone_to_owned(), |file| Ok(file.into()))?;
        Ok(Self { fd, is_socket: kind == SFlag::S_IFSOCK })
    }

    pub fn write(&self, bytes: &[u8]) -> nix::Result<usize> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match self.is_socket {
            true => send(self.fd.as_raw_fd(), bytes, flags),
            false => nix::unistd::write(&self.fd, bytes),
        }
    }
}

impl AsFd for Target {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
