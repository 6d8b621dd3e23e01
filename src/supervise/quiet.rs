//! A timer and a connection that wake us for what is awaited and for nothing else: a supervisor that
//! has nothing to do must not keep a laptop's processor awake.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, send, socket,
};
use nix::sys::stat::Mode;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;

/// Waits for `time`. Tokio wakes up to two times before the end of a long one, whenever its wheel of
/// timers turns; it is asked only if the kernel has no timer for us.
pub async fn sleep(time: Duration) {
    // The kernel takes a timer of no time for none.
    if time.is_zero() {
        return;
    }
    match timer(time).and_then(crate::supervise::wait_on) {
        Ok(timer) => drop(timer.readable().await),
        Err(_) => tokio::time::sleep(time).await,
    }
}

fn timer(time: Duration) -> io::Result<OwnedFd> {
    let timer =
        TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
    let once = Expiration::OneShot(TimeSpec::from_duration(time));
    timer.set(once, TimerSetTimeFlags::empty())?;
    Ok(timer.into())
}

/// A connection to the daemon, for hyper. It waits for what there is to read alone: tokio's own is
/// woken as well when the daemon has read what was written.
pub struct Connection(AsyncFd<OwnedFd>);

impl Connection {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        crate::supervise::wait_on(connect_to(path)?).map(Self)
    }
}

/// Connects to the socket at `path`, whatever its length, and does not wait: where too many wait for
/// the listener already, the error is EAGAIN.
///
/// # Errors
/// What the system says.
pub fn connect_to(path: &Path) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match UnixAddr::new(path) {
        // A path that is good inside may be too long with `/proc/PID/root` in front of it.
        Err(Errno::ENAMETOOLONG) => {
            let found = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
            let link = format!("/proc/self/fd/{}", found.as_raw_fd());
            connect(fd.as_raw_fd(), &UnixAddr::new(link.as_str())?)?;
        }
        address => connect(fd.as_raw_fd(), &address?)?,
    }
    Ok(fd)
}

impl Read for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = [0; 4096];
        let wanted = bytes.len().min(buffer.remaining());
        loop {
            let mut guard = ready!(self.0.poll_read_ready(context))?;
            let read =
                guard.try_io(|fd| Ok(nix::unistd::read(fd.get_ref(), &mut bytes[..wanted])?));
            if let Ok(read) = read {
                buffer.put_slice(&bytes[..read?]);
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl Write for Connection {
    /// A request is small and the first thing on its connection: there is room for it.
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let sent = send(self.0.get_ref().as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL);
        Poll::Ready(Ok(sent?))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_socket_is_reached_however_long_its_path_is() {
        let root = tempfile::tempdir().expect("a directory");
        for length in [1, 60, 107, 200] {
            let name = "s".repeat(50);
            let short = root.path().join(&name);
            let listener = UnixListener::bind(&short).expect("a socket");
            listener.set_nonblocking(true).expect("a flag");
            let directory = root.path().join("d".repeat(length));
            fs::create_dir(&directory).expect("a directory");
            let path = directory.join(&name);
            fs::rename(short, &path).expect("a longer name");
            let _connected = connect_to(&path).expect("somebody listens");
            listener.accept().expect("it was connected");
            drop(listener);
            assert_eq!(connect_to(&path).err(), Some(Errno::ECONNREFUSED));
            assert_eq!(connect_to(&directory.join("missing")).err(), Some(Errno::ENOENT));
        }
    }
}
