//! Runs rootlesskit as a child and stays with it: passes signals on, and tells how it ended.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

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
    let mut asked_for = false;
    loop {
        let info = receiver
            .read_signal()
            .map_err(|errno| failed(&errno.into()))?;
        match info.and_then(|info| signal_of(info.ssi_signo)) {
            None => {}
            Some(Signal::SIGCHLD) => {
                if let Some(status) = child.try_wait().map_err(|error| failed(&error))? {
                    if !asked_for {
                        // Nobody is to wait for us on account of a daemon that is gone.
                        mask.thread_set_mask()
                            .map_err(|errno| failed(&errno.into()))?;
                    }
                    let exit = Exit::Daemon(code(status));
                    return Ok(Ended { exit, asked_for });
                }
            }
            Some(signal) => {
                asked_for |= ENDING.contains(&signal);
                pass_on(&child, signal);
            }
        }
    }
}

fn signal_of(number: u32) -> Option<Signal> {
    Signal::try_from(i32::try_from(number).ok()?).ok()
}

fn pass_on(child: &Child, signal: Signal) {
    if let Ok(pid) = i32::try_from(child.id()) {
        // It is our child and not reaped: the PID is its own.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

fn code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok())
        .unwrap_or(u8::MAX)
}
