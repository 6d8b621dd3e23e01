//! Sockets that a service manager passes (sd_listen_fds(3)), carried across rootlesskit.
//!
//! rootlesskit before 2.2 knows nothing of them, and its own pipes become descriptors 3 and 4 of
//! its child. Go's runtime leaves other descriptors alone, so the sockets wait on high ones while
//! rootlesskit starts, and the namespace stage moves them back.

use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::libc;
use nix::sys::resource::{Resource, getrlimit};

use crate::environment::Environment;
use crate::host::ListenFds;

/// The first descriptor that a service manager passes (`SD_LISTEN_FDS_START`).
const FIRST: RawFd = 3;

/// Descriptors from here on are sheltered. When Go starts a program it uses some just above the
/// highest that it hands over, which are its first few, so keep a distance.
const SHELTER: RawFd = 200;

/// The sockets that were passed to this very process, and where they can wait. Variables that
/// were meant for another process (`LISTEN_PID`) count as none.
pub fn passed(environment: &Environment) -> Option<ListenFds> {
    let number = |name| environment.get(name)?.to_str()?.parse::<u32>().ok();
    let (pid, count) = (number("LISTEN_PID")?, number("LISTEN_FDS")?);
    let width = RawFd::try_from(count).ok().filter(|width| *width > 0)?;
    if pid != std::process::id() || (FIRST..FIRST.saturating_add(width)).any(|fd| !is_open(fd)) {
        return None;
    }
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    let limit = RawFd::try_from(limit).unwrap_or(RawFd::MAX);
    let highest = limit.saturating_sub(width);
    let lowest = SHELTER.min(highest);
    let is_free = |first: &RawFd| (*first..*first + width).all(|fd| !is_open(fd));
    let shelter = (lowest..=highest).find(is_free)?;
    Some(ListenFds {
        count,
        shelter: u32::try_from(shelter).ok()?,
    })
}

/// Moves the passed sockets to their shelter, where they survive `exec`.
///
/// # Errors
/// What the kernel says.
pub fn shelter(fds: &ListenFds) -> nix::Result<()> {
    move_block(FIRST, fds.shelter, fds.count)
}

/// Moves the sockets from their shelter back to where a daemon looks for them.
///
/// # Errors
/// What the kernel says.
pub fn take(count: u32, from: u32) -> nix::Result<()> {
    let from = RawFd::try_from(from).map_err(|_| Errno::EBADF)?;
    move_block(from, u32::try_from(FIRST).map_err(|_| Errno::EBADF)?, count)
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
