//! Sockets that a service manager passes (sd_listen_fds(3)), carried across rootlesskit.
//!
//! rootlesskit before 2.2 knows nothing of them, and its own pipes become descriptors 3 and 4 of
//! its child. Go's runtime leaves other descriptors alone, so the sockets wait on high ones while
//! rootlesskit starts, and the namespace stage moves them back.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{UnixAddr, accept, getsockname};

use crate::environment::Environment;

/// Sockets passed by a service manager (sd_listen_fds(3)), or kept by a supervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenFds {
    /// How many, from descriptor 3 on.
    pub count: u32,
    /// The first of as many free descriptors, high enough to cross rootlesskit.
    pub shelter: u32,
    /// Whether it is the supervisor that keeps them, and no service manager.
    pub is_own: bool,
    /// Where the first that a service manager passed is, if it has a path.
    pub path: Option<PathBuf>,
}

/// The first descriptor that a service manager passes (`SD_LISTEN_FDS_START`).
const FIRST: RawFd = 3;

/// Descriptors from here on are sheltered. When Go starts a program it uses some just above the
/// highest that it hands over, which are its first few, so keep a distance.
const SHELTER: RawFd = 200;

/// The socket of a supervisor that keeps it: one, which no service manager has passed.
pub fn own() -> Option<ListenFds> {
    Some(ListenFds { count: 1, shelter: shelter_for(1)?, is_own: true, path: None })
}

/// A number for the keeper's end of our connection, on its way through rootlesskit beside `sockets`.
pub fn beside(sockets: Option<&ListenFds>) -> Option<u32> {
    match sockets {
        None => shelter_for(1),
        Some(fds) => {
            let next = fds.shelter.checked_add(fds.count)?;
            let is_free = |fd: &u32| RawFd::try_from(*fd).is_ok_and(|fd| !is_open(fd));
            (next..next + 100).find(is_free)
        }
    }
}

/// The sockets that were passed to this very process, and where they can wait. Variables that
/// were meant for another process (`LISTEN_PID`) count as none.
pub fn passed(environment: &Environment) -> Option<ListenFds> {
    let number = |name| environment.get(name)?.to_str()?.parse::<u32>().ok();
    let (pid, count) = (number("LISTEN_PID")?, number("LISTEN_FDS")?);
    let width = RawFd::try_from(count).ok().filter(|width| *width > 0)?;
    if pid != std::process::id() || (FIRST..FIRST.saturating_add(width)).any(|fd| !is_open(fd)) {
        return None;
    }
    let path = getsockname::<UnixAddr>(FIRST).ok().and_then(|name| name.path().map(PathBuf::from));
    Some(ListenFds { count, shelter: shelter_for(width)?, is_own: false, path })
}

/// The first of `width` free descriptors, high enough to cross rootlesskit.
fn shelter_for(width: RawFd) -> Option<u32> {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    let limit = RawFd::try_from(limit).unwrap_or(RawFd::MAX);
    let highest = limit.saturating_sub(width);
    let lowest = SHELTER.min(highest);
    let is_free = |first: &RawFd| (*first..*first + width).all(|fd| !is_open(fd));
    u32::try_from((lowest..=highest).find(is_free)?).ok()
}

/// Takes the passed sockets over: they stay at their numbers, and only those that are handed over
/// survive `exec`.
pub fn adopt(count: u32) -> nix::Result<Vec<OwnedFd>> {
    let width = RawFd::try_from(count).map_err(|_| Errno::EBADF)?;
    (FIRST..FIRST.saturating_add(width))
        .map(|fd| {
            close_on_exec(fd)?;
            // SAFETY: it is open, and nothing in this program owns it: the service manager passed it
            // by number.
            Ok(unsafe { OwnedFd::from_raw_fd(fd) })
        })
        .collect()
}

/// Closes the connections that wait at `listeners`, when we leave for good: no process will accept
/// them, the clients wait, and for each the service manager would start us again at once.
pub fn turn_away(listeners: &[OwnedFd]) {
    for listener in listeners {
        // No more than may wait there, for others go on connecting.
        for _ in 0..libc::SOMAXCONN {
            let mut waits = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
            if !matches!(poll(&mut waits, PollTimeout::ZERO), Ok(1..)) {
                break;
            }
            let Ok(connection) = accept(listener.as_raw_fd()) else {
                break;
            };
            // SAFETY: it is open, and only ours.
            drop(unsafe { OwnedFd::from_raw_fd(connection) });
        }
    }
}

/// What `exec` is preceded by so that `fds` have the numbers from `first` on behind it.
pub fn hand_over(
    fds: &[BorrowedFd<'_>],
    first: u32,
) -> impl FnMut() -> io::Result<()> + Send + Sync + 'static {
    let from: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    move || {
        for (to, from) in (first..).zip(&from) {
            let to = RawFd::try_from(to).map_err(|_| Errno::EBADF)?;
            // SAFETY: dup2 takes numbers and touches no memory.
            Errno::result(unsafe { libc::dup2(*from, to) })?;
        }
        Ok(())
    }
}

/// Moves the passed sockets to their shelter, where they survive `exec`.
pub fn shelter(fds: &ListenFds) -> nix::Result<()> {
    move_block(FIRST, fds.shelter, fds.count)
}

/// Moves the sockets from their shelter back to where a daemon looks for them.
pub fn take(count: u32, from: u32) -> nix::Result<()> {
    let from = RawFd::try_from(from).map_err(|_| Errno::EBADF)?;
    move_block(from, u32::try_from(FIRST).map_err(|_| Errno::EBADF)?, count)
}

/// Has the next program not get the `count` sockets that a daemon would.
pub fn forget(count: u32) -> nix::Result<()> {
    let width = RawFd::try_from(count).map_err(|_| Errno::EBADF)?;
    (FIRST..FIRST.saturating_add(width)).try_for_each(close_on_exec)
}

fn close_on_exec(fd: RawFd) -> nix::Result<()> {
    // SAFETY: the call takes numbers and touches no memory.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) }).map(drop)
}

/// Moves `count` descriptors. The blocks do not overlap, and the new ones survive `exec`.
fn move_block(from: RawFd, to: u32, count: u32) -> nix::Result<()> {
    let to = RawFd::try_from(to).map_err(|_| Errno::EBADF)?;
    for offset in 0..RawFd::try_from(count).map_err(|_| Errno::EBADF)? {
        // SAFETY: dup2 and close take numbers and touch no memory. Nothing in this program owns
        // these descriptors: they were passed by the service manager, by number.
        Errno::result(unsafe { libc::dup2(from + offset, to + offset) })?;
        // SAFETY: as above.
        Errno::result(unsafe { libc::close(from + offset) })?;
    }
    Ok(())
}

/// Whether descriptor `fd` is open.
fn is_open(fd: RawFd) -> bool {
    // SAFETY: F_GETFD takes a number and touches no memory.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_GETFD) }).is_ok()
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::time::Duration;

    use super::*;

    #[test]
    fn waiting_clients_are_turned_away_at_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("docker.sock");
        let listeners = [UnixListener::bind(&path).expect("a socket").into()];
        let mut clients: Vec<UnixStream> =
            (0..3).map(|_| UnixStream::connect(&path).expect("a connection")).collect();
        turn_away(&listeners);
        for client in &mut clients {
            client.set_read_timeout(Some(Duration::from_secs(5))).expect("a limit");
            assert_eq!(client.read(&mut [0]).expect("an end"), 0);
        }
    }
}
