//! Processes of ours: tied to us, and bounded in time.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::{Pid, getppid};

/// How long a program may take that has little to do.
const BRIEFLY: Duration = Duration::from_secs(3);

/// How much of its output counts.
const OUTPUT_MAX: usize = 1024 * 1024;

/// Has the kernel kill this process when its parent ends.
///
/// # Errors
/// What the kernel says.
pub fn die_with_parent() -> nix::Result<()> {
    // SAFETY: the call takes numbers and touches no memory.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) }).map(drop)
}

/// Gives memory back that was needed to begin and is not needed any more. What stays for months must be
/// small.
pub fn trim() {
    // SAFETY: the call takes a number and touches no memory that is in use.
    unsafe { libc::malloc_trim(0) };
}

/// Has orphans below us become our children.
///
/// # Errors
/// What the kernel says.
pub fn adopt_orphans() -> nix::Result<()> {
    // SAFETY: the call takes numbers and touches no memory.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) }).map(drop)
}

/// Has the kernel kill what `command` starts when this process ends, and starts nothing if it has
/// ended meanwhile. What is started has no signal blocked, whatever we or our parent hold back.
pub fn tie(command: &mut Command) -> &mut Command {
    let parent = std::process::id();
    let tie = move || {
        die_with_parent()?;
        SigSet::empty().thread_set_mask()?;
        match u32::try_from(getppid().as_raw()) == Ok(parent) {
            true => Ok(()),
            false => Err(Errno::ESRCH.into()),
        }
    };
    // SAFETY: between fork and exec only system calls are made.
    unsafe { command.pre_exec(tie) }
}

/// Runs `command`, which ends soon, and returns all that it says on both its outputs.
///
/// # Errors
/// What the system says, or that it takes too long or says too much.
pub fn brief(command: &mut Command) -> io::Result<(ExitStatus, String)> {
    within(command, BRIEFLY)
}

/// The same for a command that may take `time` and has to succeed.
///
/// # Errors
/// As [`brief`], or what a command says that fails.
pub fn succeed(command: &mut Command, time: Duration) -> io::Result<String> {
    match within(command, time)? {
        (status, said) if status.success() => Ok(said),
        (_, said) => Err(io::Error::other(said.trim().to_owned())),
    }
}

/// The same for a command that may take `time`.
///
/// # Errors
/// As [`brief`].
pub fn within(command: &mut Command, time: Duration) -> io::Result<(ExitStatus, String)> {
    let (mut reader, writer) = io::pipe()?;
    let mut child = tie(command)
        // What it says is read by us as well.
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0)
        .spawn()?;
    // The command keeps the writing ends open otherwise.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let deadline = Instant::now() + time;
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    let complete = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut polled = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
        match poll(&mut polled, timeout) {
            Ok(0) => break false,
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        match reader.read(&mut buffer)? {
            0 => break true,
            count if text.len() + count > OUTPUT_MAX => break false,
            count => text.extend_from_slice(&buffer[..count]),
        }
    };
    if !complete && let Ok(group) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    let status = child.wait()?;
    match complete {
        true => Ok((status, String::from_utf8_lossy(&text).into_owned())),
        false => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("it did not end within {} s", time.as_secs()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_start_has_no_signal_blocked() {
        let mut held = SigSet::empty();
        held.add(Signal::SIGTERM);
        held.add(Signal::SIGCHLD);
        held.thread_block().expect("block");
        let said = succeed(Command::new("grep").args(["SigBlk", "/proc/self/status"]), BRIEFLY);
        assert_eq!(said.expect("grep").trim(), "SigBlk:\t0000000000000000");
    }
}
