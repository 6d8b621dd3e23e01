//! The network helper: the process that carries the packets between the namespace and the host.
//! rootlesskit does not notice when it dies (slirp4netns#341), and it can be started again against
//! the same namespace.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::libc;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::sys::process;
use crate::sys::processes;
use crate::sys::processes::{Identity, Process};

/// The programs, as the kernel names their processes. pasta is passt's program under another name,
/// and has variants for processors.
const NAMES: [&str; 4] = ["slirp4netns", "pasta", "passt", "vpnkit"];

/// pasta's words for staying in the foreground.
const FOREGROUND: [&[u8]; 2] = [b"--foreground", b"-f"];

/// A network helper, and how it was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Helper {
    /// Which process it is.
    pub identity: Identity,
    program: PathBuf,
    words: Vec<OsString>,
}

/// A network helper that was started again.
pub struct Starting {
    /// What was started.
    pub pid: u32,
    /// Where it writes a byte when it is ready. pasta has no such thing: it goes to the background
    /// then, and what was started ends with 0.
    pub tells: Option<pipe::Receiver>,
}

impl Helper {
    /// The helper among `processes`.
    pub fn find(processes: &[Process]) -> Option<Self> {
        let is_helper = |process: &&Process| {
            !process.zombie && NAMES.iter().any(|name| process.name.starts_with(name))
        };
        processes.iter().filter(is_helper).find_map(|process| {
            let pid = process.identity.pid;
            let text = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let words: Vec<OsString> = text
                .strip_suffix(b"\0")?
                .split(|byte| *byte == 0)
                .map(|word| OsString::from_vec(word.to_vec()))
                .collect();
            Some(Self {
                identity: process.identity,
                // pasta does not show its program even to its owner.
                program: processes::program(pid).unwrap_or_else(|| PathBuf::from(&words[0])),
                words,
            })
        })
    }

    /// Whether the ports that containers publish are known to the helper alone, so that another
    /// would not have them.
    pub fn holds_ports(&self) -> bool {
        self.words.iter().any(|word| word.as_bytes().starts_with(b"--api-socket"))
    }

    /// Starts it again with its own words. `stderr` takes what it says.
    ///
    /// # Errors
    /// What the system says.
    pub fn start_again(&self, stderr: Stdio) -> io::Result<Starting> {
        let (sender, receiver) = pipe::pipe()?;
        let sender = sender.into_blocking_fd()?;
        let mut command = Command::new(&self.program);
        if let Some((name, words)) = self.words.split_first() {
            // pasta goes to the background when it is ready, unless it is told to stay.
            let words = words.iter().filter(|word| !FOREGROUND.contains(&word.as_bytes()));
            command.arg0(name).args(words);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).process_group(0);
        let ready = self.ready_fd();
        if let Some(number) = ready {
            let from = sender.as_raw_fd();
            let give = move || hand_over(from, number).map_err(io::Error::from);
            // SAFETY: between fork and exec one system call is made.
            unsafe { command.pre_exec(give) };
        }
        let child = process::tie(&mut command).spawn()?;
        Ok(Starting { pid: child.id(), tells: ready.map(|_| receiver) })
    }

    /// The descriptor on which it tells that it is ready.
    fn ready_fd(&self) -> Option<i32> {
        let mut words = self.words.iter().map(|word| word.as_bytes());
        let value = words.find_map(|word| match word {
            b"-r" | b"--ready-fd" => Some(None),
            word => word.strip_prefix(b"--ready-fd=").map(|value| Some(value.to_vec())),
        })?;
        let value = match value {
            Some(value) => value,
            None => words.next()?.to_vec(),
        };
        std::str::from_utf8(&value).ok()?.parse().ok()
    }
}

/// Makes the descriptor `from` be `to` behind the execution that follows.
fn hand_over(from: i32, to: i32) -> nix::Result<()> {
    let done = match from == to {
        // SAFETY: the call takes numbers and touches no memory.
        true => unsafe { libc::fcntl(from, libc::F_SETFD, 0) },
        // SAFETY: as above.
        false => unsafe { libc::dup2(from, to) },
    };
    Errno::result(done).map(drop)
}

/// Waits until the helper says that it is ready, or ends.
pub async fn is_ready(mut tells: pipe::Receiver) -> bool {
    matches!(tells.read(&mut [0]).await, Ok(1))
}
