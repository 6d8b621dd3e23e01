//! Whether anybody uses the daemon, and how to end it so that nobody who comes just then is lost.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep, sleep_until};

use super::{health, tree};
use crate::os::unix_sockets;

/// How long a process may take to stop.
const STOPS: Duration = Duration::from_millis(200);

/// Says `is_idle` when, for the time `after`, no container has run and nobody was connected to the
/// socket at `path`, which `listeners` are; and again as long as that is so.
pub async fn watch(
    path: PathBuf,
    listeners: Vec<OwnedFd>,
    after: Duration,
    is_idle: impl Fn() + Send,
) {
    // Every connection wakes the one who waits for the edge, also if the daemon accepts it.
    let Some(listener) = listeners.into_iter().find_map(|fd| super::wait_on(fd).ok()) else {
        return;
    };
    let mut used = Instant::now();
    loop {
        tokio::select! {
            guard = listener.readable() => {
                let Ok(mut guard) = guard else { return };
                guard.clear_ready();
                if !health::was_us() {
                    used = Instant::now();
                }
            }
            () = sleep_until(used + after) => {
                let is_used = connections(&path) > 0 || health::is_busy(path.clone()).await;
                if !is_used {
                    is_idle();
                }
                // Who has been connected may have left just now.
                used = Instant::now();
            }
        }
    }
}

/// How many are connected to the socket at `path`.
fn connections(path: &Path) -> usize {
    unix_sockets::connections(&unix_sockets::table().unwrap_or_default(), path)
}

/// Ends the daemon, process `pid`, in order, unless somebody is connected to the socket at `path`.
/// It is stopped before the look, so that it cannot accept anybody behind it, and may open no
/// descriptor from then on: `accept` fails, and who connects stays with the socket, for the next
/// daemon. Returns whether it ends.
pub async fn retire(pid: u32, fd: &OwnedFd, path: &Path) -> bool {
    if tree::signal(fd, Signal::SIGSTOP).is_err() {
        return false;
    }
    let deadline = Instant::now() + STOPS;
    while !is_stopped(pid) && Instant::now() < deadline {
        sleep(Duration::from_millis(1)).await;
    }
    let ends = is_stopped(pid)
        && connections(path) == 0
        && forbid_descriptors(pid).is_ok()
        && tree::signal(fd, Signal::SIGTERM).is_ok();
    let _ = tree::signal(fd, Signal::SIGCONT);
    ends
}

/// Whether all threads of a process are stopped.
fn is_stopped(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    threads
        .filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok())
        .all(|stat| {
            stat.rsplit_once(')')
                .is_some_and(|(_, rest)| rest.starts_with(" T"))
        })
}

/// Has every attempt of `pid` to open something fail.
fn forbid_descriptors(pid: u32) -> nix::Result<()> {
    let pid = i32::try_from(pid).map_err(|_| Errno::ESRCH)?;
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes one rlimit, to which the pointer leads, and reads none.
    let got = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut limit) };
    Errno::result(got)?;
    limit.rlim_cur = 0;
    // SAFETY: the kernel reads one rlimit, to which the pointer leads, and writes none.
    let set = unsafe {
        libc::prlimit(
            pid,
            libc::RLIMIT_NOFILE,
            &raw const limit,
            std::ptr::null_mut(),
        )
    };
    Errno::result(set).map(drop)
}
