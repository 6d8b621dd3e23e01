//! The process in the namespaces that stays as the daemon's parent: rootlesskit makes 255 of every
//! signal that ends its child, and so nobody outside would know how the daemon ended.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::Command;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getppid};
use tracing::debug;

use super::supervisor::notify;
use super::{namespace, process};
use crate::environment::Environment;
use crate::error::{Error, Exit};

/// What rootlesskit passes on, and we too. The supervisor signals the daemon itself.
const PASSED_ON: [Signal; 6] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// Starts the daemon and stays until it has ended, to end as it did: with its code, or with 128 and
/// the number of its signal.
///
/// # Errors
/// What the system says.
pub fn keep(command: Command, environment: &Environment) -> Result<Exit, Error> {
    let failed =
        |error: io::Error| Error::new(Exit::Failed, "the daemon cannot be kept").because(&error);
    let mut signals = SigSet::from_iter(PASSED_ON);
    signals.add(Signal::SIGCHLD);
    let mask = signals
        .thread_swap_mask(SigmaskHow::SIG_BLOCK)
        .map_err(|errno| failed(errno.into()))?;
    let receiver = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)
        .map_err(|errno| failed(errno.into()))?;
    let parent = Pid::this();
    // SAFETY: there is no other thread, so that the child may do all that we may.
    match unsafe { fork() }.map_err(|errno| failed(errno.into()))? {
        ForkResult::Child => {
            process::die_with_parent().map_err(|errno| failed(errno.into()))?;
            if getppid() != parent {
                return Err(failed(Errno::ESRCH.into()));
            }
            mask.thread_set_mask()
                .map_err(|errno| failed(errno.into()))?;
            if let Some(socket) = environment.get("NOTIFY_SOCKET") {
                notify::announce(socket).map_err(failed)?;
            }
            Err(namespace::execute(command))
        }
        ForkResult::Parent { child } => {
            // What the daemon was handed over is not ours.
            drop(command);
            wait(&receiver, child).map_err(failed)
        }
    }
}

fn wait(receiver: &SignalFd, daemon: Pid) -> io::Result<Exit> {
    let mut ends = false;
    loop {
        wait_readable(receiver.as_fd())?;
        let info = receiver.read_signal()?;
        let signal =
            info.and_then(|info| Signal::try_from(i32::try_from(info.ssi_signo).ok()?).ok());
        match signal {
            None => {}
            Some(Signal::SIGCHLD) => match waitpid(daemon, Some(WaitPidFlag::WNOHANG))? {
                WaitStatus::Exited(_, code) => {
                    return Ok(Exit::Daemon(u8::try_from(code).unwrap_or(u8::MAX)));
                }
                WaitStatus::Signaled(_, signal, _) => {
                    return Ok(Exit::Daemon(
                        u8::try_from(128 + signal as i32).unwrap_or(u8::MAX),
                    ));
                }
                _ => {}
            },
            // dockerd takes the third of these for impatience, and may get one by itself.
            Some(Signal::SIGTERM | Signal::SIGINT) if ends => {}
            Some(signal) => {
                ends |= matches!(signal, Signal::SIGTERM | Signal::SIGINT);
                if let Err(errno) = kill(daemon, signal) {
                    debug!("{signal} to {daemon}: {errno}");
                }
            }
        }
    }
}

fn wait_readable(fd: BorrowedFd<'_>) -> io::Result<()> {
    loop {
        match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            other => return Ok(other.map(drop)?),
        }
    }
}
