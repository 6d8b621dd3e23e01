//! Whether anybody uses the daemon, and how to end it so that nobody who comes just then is lost.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until};

use crate::supervise::{health, ports};
use crate::sys::processes;
use crate::sys::unix_sockets;

/// How long a process may take to stop.
const STOPS: Duration = Duration::from_millis(200);

/// How often to look.
const LOOK: Duration = Duration::from_millis(1);

/// Says `is_idle` when, for the time `after`, no container has run and nobody was connected to the
/// socket at `path`, which `listeners` are and which the process `daemon` serves; and again as long
/// as that is so.
///
/// The containers of `docker build` are in no list of containers. Who waits for a build is
/// connected, and the daemon ends the build of a client that goes.
pub async fn watch(
    daemon: u32,
    path: PathBuf,
    listeners: Vec<OwnedFd>,
    after: Duration,
    is_idle: impl Fn() + Send,
) {
    // Every connection wakes the one who waits for the edge, also if the daemon accepts it.
    let Some(listener) = listeners.into_iter().find_map(|fd| crate::supervise::wait_on(fd).ok())
    else {
        return;
    };
    let process =
        processes::read(daemon).and_then(|process| processes::open(process.identity).ok());
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
                let is_used =
                    has_clients(daemon, &process, &path) || health::is_busy(path.clone()).await;
                if !is_used {
                    is_idle();
                }
                // Who has been connected may have left just now.
                used = Instant::now();
            }
        }
    }
}

/// Whether anybody but us is connected to the socket at `path`, or to the process `pid` through it.
fn has_clients(pid: u32, process: &OwnedFd, path: &Path) -> bool {
    let own = health::own_connections();
    unix_sockets::connections(&unix_sockets::table().unwrap_or_default(), path) > own
        || unix_sockets::accepted(pid, process, path) > own
}

/// Ends the daemon, process `pid`, in order, unless somebody is connected to the socket at `path` or
/// a container runs. Returns whether it ends.
///
/// It is stopped before the look, so that it cannot accept anybody behind it, and hears of nobody
/// from then on. On SIGTERM all versions of dockerd close their listener before anything else: who
/// connects meanwhile stays with the service manager's socket, for the next daemon.
pub async fn retire(pid: u32, process: &OwnedFd, path: &Path) -> bool {
    // Our own questions have been called off, and let go of their connections now.
    yield_now().await;
    if has_clients(pid, process, path) || processes::signal(process, Signal::SIGSTOP).is_err() {
        return false;
    }
    let deadline = Instant::now() + STOPS;
    while !is_stopped(pid) && Instant::now() < deadline {
        sleep(LOOK).await;
    }
    let sockets = unix_sockets::listeners(&unix_sockets::table().unwrap_or_default(), path);
    let listeners: Vec<RawFd> = unix_sockets::descriptors(pid)
        .filter(|(_, what)| sockets.contains(what))
        .map(|(number, _)| number)
        .collect();
    // A client may have started a container and left since the daemon was asked.
    let is_free = is_stopped(pid)
        && !listeners.is_empty()
        && !has_clients(pid, process, path)
        && !unix_sockets::has_waiting(process, &listeners)
        && !processes::descendants().iter().any(ports::is_shim);
    let ends = is_free
        && (deafen(pid, process, &listeners).is_ok() || forbid_descriptors(pid).is_ok())
        && processes::signal(process, Signal::SIGTERM).is_ok();
    let _ = processes::signal(process, Signal::SIGCONT);
    ends
}

/// Has the process, which is stopped, not hear of those who connect to `listeners`: they are taken out
/// of its epoll instance, with which Go waits for them, and which minds no missing one when it closes
/// them.
///
/// # Errors
/// What the kernel says: ENOSYS before Linux 5.6, or that it waits in another way.
fn deafen(pid: u32, process: &OwnedFd, listeners: &[RawFd]) -> nix::Result<()> {
    let instances: Vec<RawFd> = unix_sockets::descriptors(pid)
        .filter(|(_, what)| what.as_os_str() == "anon_inode:[eventpoll]")
        .map(|(number, _)| number)
        .collect();
    let deafen = || {
        // An instance knows a file by its number as well. In a table of its own, a thread can have any.
        unshare(CloneFlags::CLONE_FILES)?;
        for number in listeners {
            let listener = unix_sockets::copy_of(process, *number)?;
            let remove = |instance: &RawFd| {
                let instance = unix_sockets::copy_of(process, *instance)?;
                let above = fcntl(&instance, FcntlArg::F_DUPFD_CLOEXEC(*number + 1))?;
                // SAFETY: dup2 takes numbers, and the table of this thread is nobody else's.
                Errno::result(unsafe { libc::dup2(listener.as_raw_fd(), *number) })?;
                let (del, none) = (libc::EPOLL_CTL_DEL, std::ptr::null_mut());
                // SAFETY: a removal reads no event.
                Errno::result(unsafe { libc::epoll_ctl(above, del, *number, none) })
            };
            let removed: Vec<_> = instances.iter().map(remove).collect();
            if !removed.iter().any(nix::Result::is_ok) {
                return Err(Errno::ENOENT);
            }
        }
        Ok(())
    };
    thread::scope(|scope| scope.spawn(deafen).join()).unwrap_or(Err(Errno::EIO))
}

/// Whether all threads of a process are stopped.
fn is_stopped(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads
        .filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok())
        .all(|stat| stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" T")))
}

/// Has every attempt of `pid` to open something fail: `accept` too, but also what it does to clear up.
/// That is left to its next start and to us then.
fn forbid_descriptors(pid: u32) -> nix::Result<()> {
    let pid = i32::try_from(pid).map_err(|_| Errno::ESRCH)?;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one rlimit, to which the pointer leads, and reads none.
    let got = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut limit) };
    Errno::result(got)?;
    limit.rlim_cur = 0;
    // SAFETY: the kernel reads one rlimit, to which the pointer leads, and writes none.
    let set =
        unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) };
    Errno::result(set).map(drop)
}
