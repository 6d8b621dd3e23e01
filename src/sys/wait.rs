//! Waits in an event loop for a descriptor or a time, and wakes for nothing else: an idle
//! supervisor must not keep a laptop's processor awake. Tokio's own timer wakes up to three times
//! for a long one, whenever its wheel turns.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// When everything ends, one part ends first: how long to wait before that counts.
pub const MOMENT: Duration = Duration::from_millis(20);

/// Registers a descriptor that is waited for until it is readable.
pub fn wait_on(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the value owns the descriptor, which stays open as long as it is registered.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(Into::into)
}

/// Sleeps for `time`, with tokio's timer only if the kernel has none for us.
pub async fn sleep(time: Duration) {
    let timer = || {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let once = Expiration::OneShot(TimeSpec::from_duration(time));
        timer.set(once, TimerSetTimeFlags::empty())?;
        wait_on(timer.into())
    };
    // The kernel takes a timer of no time for none.
    match timer() {
        Ok(timer) if !time.is_zero() => drop(timer.readable().await),
        _ => tokio::time::sleep(time).await,
    }
}
