//! Finds out whether a daemon is used, and ends one that is not, so that a client who comes just
//! then is served by the next one.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use crate::supervise::{health, ports};
use crate::sys::wait::{sleep, wait_on};
use crate::sys::{processes, unix_sockets};

/// How long a process may take to stop, and how often to look whether it has.
const STOPS: Duration = Duration::from_millis(200);
const LOOK: Duration = Duration::from_millis(1);

/// Calls `is_idle` when, for the time `after`, no container has run and no client was connected to
/// the socket at `path`, which `listeners` are and which the process `daemon` serves; and again as
/// long as that is so.
///
/// The containers of `docker build` are in no list of containers, but its client is connected, and
/// the daemon ends the build of a client that goes.
pub async fn watch(
    daemon: u32,
    path: PathBuf,
    listeners: Vec<OwnedFd>,
    after: Duration,
    is_idle: impl Fn() + Send,
) {
    // Each connection makes the listener readable once, also if the daemon accepts it.
    let Some(listener) = listeners.into_iter().find_map(|fd| wait_on(fd).ok()) else {
        return;
    };
    let process = processes::read(daemon).and_then(|found| processes::open(found.identity).ok());
    let Some(process) = process else { return };
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
                if !has_clients(daemon, &process, &path) && !health::is_busy(path.clone()).await {
                    is_idle();
                }
                // A client may have left just now.
                used = Instant::now();
            }
        }
    }
}

/// Says whether a client is connected to the process `pid` through the socket at `path`. Unknown
/// counts as yes.
fn has_clients(pid: u32, process: &OwnedFd, path: &Path) -> bool {
    let accepted = unix_sockets::accepted(pid, process, path);
    accepted.is_none_or(|count| count > health::own_connections())
}

/// Ends the daemon, process `pid`, in order, unless a client uses the socket at `path`, which
/// `listeners` are, or a container runs. Returns whether it ends.
///
/// It is stopped before the look, so that it accepts nobody behind it. On SIGTERM all versions of
/// dockerd close their listener before anything else: later clients stay with the service manager's
/// socket, for the next daemon.
pub async fn retire(pid: u32, process: &OwnedFd, path: &Path, listeners: &[OwnedFd]) -> bool {
    // Our own questions have been called off, and let go of their connections now.
    yield_now().await;
    if has_clients(pid, process, path) || processes::signal(process, Signal::SIGSTOP).is_err() {
        return false;
    }
    let deadline = Instant::now() + STOPS;
    while !processes::is_stopped(pid) && Instant::now() < deadline {
        sleep(LOOK).await;
    }
    // A client may have started a container and left since the daemon was asked. Who waits is looked at last,
    // so that as few clients as can be come after that.
    let is_free = processes::is_stopped(pid)
        && !processes::descendants().iter().any(ports::is_shim)
        && !has_clients(pid, process, path)
        && !unix_sockets::has_waiting(listeners);
    let ends = is_free && processes::signal(process, Signal::SIGTERM).is_ok();
    let _ = processes::signal(process, Signal::SIGCONT);
    ends
}
