//! Runs rootlesskit as a child and stays with it: passes signals on, and tells how it ended.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use tracing::warn;

use super::launch;
use crate::error::{Error, Exit};
use crate::plan::LaunchPlan;

/// The signals that mean the daemon.
const PASSED_ON: [Signal; 6] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// Those of them that ask it to end.
const ENDING: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT];

/// After how many milliseconds to look whether rootlesskit, which was asked to end, waits in vain,
/// and how often it has to be found so.
const LOOK: u16 = 500;
const LOOKS: u8 = 4;

/// How the daemon ended.
pub struct Ended {
    /// Its code, or 128 and the signal's number.
    pub exit: Exit,
    /// Whether somebody asked us for it by a signal.
    pub asked_for: bool,
}

/// Does what `plan` says, and waits until the daemon has ended.
///
/// # Errors
/// Fails if rootlesskit cannot be started.
pub fn attend(plan: &LaunchPlan) -> Result<Ended, Error> {
    let failed =
        |error: &io::Error| Error::new(Exit::Failed, "signals cannot be received").because(error);
    let mut signals = SigSet::from_iter(PASSED_ON);
    signals.add(Signal::SIGCHLD);
    // Before the child: none may be lost. A new process begins without the mask.
    let mask = signals
        .thread_swap_mask(SigmaskHow::SIG_BLOCK)
        .map_err(|errno| failed(&errno.into()))?;
    let receiver = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)
        .map_err(|errno| failed(&errno.into()))?;
    let mut child = launch::spawn(plan)?;
    let asked_for = wait(&receiver, &child).map_err(|error| failed(&error))?;
    let status = child.wait().map_err(|error| failed(&error))?;
    if asked_for.is_none() {
        // Nobody is to wait for us on account of a daemon that is gone.
        mask.thread_set_mask()
            .map_err(|errno| failed(&errno.into()))?;
    }
    Ok(Ended {
        exit: Exit::Daemon(code(status, asked_for)),
        asked_for: asked_for.is_some(),
    })
}

/// Passes signals on until `child` has ended. Returns the last one that asked for it.
fn wait(receiver: &SignalFd, child: &Child) -> io::Result<Option<Signal>> {
    let own = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    let mut asked_for = None;
    let mut in_vain = 0;
    while waitid(Id::Pid(pid(child)), own)? == WaitStatus::StillAlive {
        let timeout = asked_for.map_or(PollTimeout::NONE, |_| PollTimeout::from(LOOK));
        let mut polled = [PollFd::new(receiver.as_fd(), PollFlags::POLLIN)];
        match poll(&mut polled, timeout) {
            Err(Errno::EINTR) => continue,
            Ok(0) => {
                in_vain = if waits_in_vain(child) { in_vain + 1 } else { 0 };
                if in_vain >= LOOKS {
                    warn!("rootlesskit waits for a child that is gone, and is killed");
                    pass_on(child, Signal::SIGKILL);
                }
                continue;
            }
            other => other?,
        };
        let info = receiver.read_signal()?;
        match info.and_then(|info| signal_of(info.ssi_signo)) {
            None | Some(Signal::SIGCHLD) => {}
            Some(signal) => {
                if ENDING.contains(&signal) {
                    asked_for = Some(signal);
                }
                pass_on(child, signal);
            }
        }
    }
    Ok(asked_for)
}

/// Whether rootlesskit's process in the namespaces, which runs the daemon, is gone. While it
/// starts, rootlesskit waits for a word of that one without a deadline, and hears no signal.
fn waits_in_vain(child: &Child) -> bool {
    let field = |status: &str, name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|value| value.trim().to_owned())
    };
    let parent = child.id().to_string();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut statuses =
        entries.filter_map(|entry| fs::read_to_string(entry.path().join("status")).ok());
    // It is started as /proc/self/exe.
    !statuses.any(|status| {
        field(&status, "PPid:").as_ref() == Some(&parent)
            && field(&status, "Name:").as_deref() == Some("exe")
            && field(&status, "State:").is_some_and(|state| !state.starts_with(['Z', 'X']))
    })
}

fn signal_of(number: u32) -> Option<Signal> {
    Signal::try_from(i32::try_from(number).ok()?).ok()
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

fn pass_on(child: &Child, signal: Signal) {
    // It is our child and not reaped: the PID is its own.
    let _ = kill(pid(child), signal);
}

/// The exit code. Of a daemon that was asked to end before it could do so in order, rootlesskit
/// only tells that it failed; the signal says more.
fn code(status: ExitStatus, asked_for: Option<Signal>) -> u8 {
    let code = match (status.code(), asked_for) {
        (Some(0), _) => Some(0),
        (_, Some(signal)) => Some(128 + signal as i32),
        (code, None) => code.or_else(|| status.signal().map(|signal| 128 + signal)),
    };
    code.and_then(|code| u8::try_from(code).ok())
        .unwrap_or(u8::MAX)
}
