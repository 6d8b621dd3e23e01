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
    let ran = run(command, time)?;
    ran.killed.map_or(Ok((ran.status, ran.text)), |why| Err(timed_out(why)))
}

fn timed_out(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, why)
}

/// What a bounded command did.
pub struct Ran {
    pub status: ExitStatus,
    /// What it printed.
    pub text: String,
    /// Why it was killed.
    pub killed: Option<String>,
}

/// Runs `command`, and kills its process group if it takes longer than `time` or prints too much.
pub fn run(command: &mut Command, time: Duration) -> io::Result<Ran> {
    let (reader, writer) = io::pipe()?;
    // We parse what it prints.
    command.env("LC_ALL", "C").stdout(writer.try_clone()?).stderr(writer);
    Running::start(command, reader.into(), time)?.finish(true)
}

/// A child in its own process group, whose output we read until a deadline.
pub struct Running {
    child: Child,
    output: File,
    time: Duration,
}

impl Running {
    /// Starts `command`, which may take `time`; only its standard output is read.
    pub fn ask(command: &mut Command, time: Duration) -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        command.stdout(writer).stderr(Stdio::null());
        Self::start(command, reader.into(), time)
    }

    fn start(command: &mut Command, output: OwnedFd, time: Duration) -> io::Result<Self> {
        let child = tie(command).stdin(Stdio::null()).process_group(0).spawn()?;
        // The command keeps the writing ends open otherwise.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self { child, output: output.into(), time })
    }

    /// Returns what it prints until it closes its output, and kills what still runs then.
    pub fn answer(self) -> io::Result<String> {
        let ran = self.finish(false)?;
        ran.killed.map_or(Ok(ran.text), |why| Err(timed_out(why)))
    }

    /// Reads until the child has ended, or just until its output is closed if it need not end by itself.
    fn finish(mut self, has_to_end: bool) -> io::Result<Ran> {
        let deadline = Instant::now() + self.time;
        let mut text = Vec::new();
        let mut buffer = [0; 16 * 1024];
        let mut is_open = true;
        let mut pause = 1u8;
        let killed = loop {
            let mut polled = [PollFd::new(self.output.as_fd(), PollFlags::POLLIN)];
            match poll(&mut polled[..usize::from(is_open)], PollTimeout::from(pause)) {
                // The supervisor receives a signal when a child ends.
                Err(Errno::EINTR) => continue,
                // A process that it started in the background may hold its output open.
                Ok(0) if has_to_end && self.child.try_wait()?.is_some() => break None,
                Ok(0) => pause = (pause * 2).min(50),
                other => {
                    other?;
                    let count = self.output.read(&mut buffer)?;
                    is_open = count > 0;
                    text.extend_from_slice(&buffer[..count]);
                }
            }
            if !is_open && (!has_to_end || self.child.try_wait()?.is_some()) {
                break None;
            } else if text.len() > OUTPUT_MAX {
                break Some(format!("it printed more than {} MiB", OUTPUT_MAX >> 20));
            } else if Instant::now() >= deadline {
                break Some(format!("it did not end within {} s", self.time.as_secs()));
            }
        };
        if (killed.is_some() || !has_to_end)
            && let Ok(group) = i32::try_from(self.child.id())
        {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
        let status = self.child.wait()?;
        Ok(Ran { status, text: String::from_utf8_lossy(&text).into_owned(), killed })
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
