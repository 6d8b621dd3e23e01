//! Processes of ours: tied to us, and bounded in time.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
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
pub fn brief(command: &mut Command) -> io::Result<(ExitStatus, String)> {
    within(command, BRIEFLY)
}

/// Runs a command that may take `time` and has to succeed. Its error is what it says.
pub fn succeed(command: &mut Command, time: Duration) -> io::Result<String> {
    match within(command, time)? {
        (status, said) if status.success() => Ok(said),
        (_, said) => Err(io::Error::other(said.trim().to_owned())),
    }
}

/// Runs a command that may take `time`, and returns all that it says on both its outputs.
pub fn within(command: &mut Command, time: Duration) -> io::Result<(ExitStatus, String)> {
    let (reader, writer) = io::pipe()?;
    // What it says is read by us as well.
    command.env("LC_ALL", "C").stdout(writer.try_clone()?).stderr(writer);
    let mut running = Running::start(command, reader.into(), time)?;
    let said = running.read();
    if said.is_err() {
        running.kill();
    }
    let status = running.child.wait()?;
    Ok((status, said?))
}

/// A child in a group of its own, of which we read until a deadline.
pub struct Running {
    child: Child,
    output: File,
    time: Duration,
    deadline: Instant,
}

impl Running {
    /// Starts `command`, which may take `time`, to read what it says on its standard output alone.
    pub fn ask(command: &mut Command, time: Duration) -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        command.stdout(writer).stderr(Stdio::null());
        Self::start(command, reader.into(), time)
    }

    fn start(command: &mut Command, output: OwnedFd, time: Duration) -> io::Result<Self> {
        let child = tie(command).stdin(Stdio::null()).process_group(0).spawn()?;
        // The command keeps the writing ends open otherwise.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self { child, output: output.into(), time, deadline: Instant::now() + time })
    }

    /// Returns what it says. One that has closed its output has said all; one that has not must not
    /// outlive us, and neither must what it started.
    pub fn answer(mut self) -> io::Result<String> {
        let said = self.read();
        self.kill();
        self.child.wait()?;
        said
    }

    fn kill(&self) {
        if let Ok(group) = i32::try_from(self.child.id()) {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
    }

    /// Reads to the end, at most [`OUTPUT_MAX`] bytes and until the deadline.
    fn read(&mut self) -> io::Result<String> {
        let mut text = Vec::new();
        let mut buffer = [0; 16 * 1024];
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.output.as_fd(), PollFlags::POLLIN)], timeout) {
                // The supervisor is told when a child ends.
                Err(Errno::EINTR) => continue,
                Ok(0) => {
                    let what = format!("it did not end within {} s", self.time.as_secs());
                    return Err(io::Error::new(io::ErrorKind::TimedOut, what));
                }
                other => other?,
            };
            match self.output.read(&mut buffer)? {
                0 => return Ok(String::from_utf8_lossy(&text).into_owned()),
                count => text.extend_from_slice(&buffer[..count]),
            }
            if text.len() > OUTPUT_MAX {
                return Err(io::Error::other("its output has no end"));
            }
        }
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
