//! The network helper: the process that carries the packets between the namespace and the host.
//! rootlesskit does not notice when it dies (slirp4netns#341), and it can be started again against
//! the same namespace.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::fcntl::{FcntlArg, fcntl};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::sys::processes::{self, Identity, Process};
use crate::sys::{process, sockets};

/// The programs, as the kernel names their processes. pasta is passt's program under another name,
/// and has variants for processors.
const NAMES: [&str; 4] = ["slirp4netns", "pasta", "passt", "vpnkit"];

/// pasta's arguments for staying in the foreground: it goes to the background when it is ready,
/// unless it is told to stay.
const FOREGROUND: [&str; 2] = ["--foreground", "-f"];

/// A network helper, and how it was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Helper {
    pub identity: Identity,
    program: PathBuf,
    words: Vec<OsString>,
}

/// A network helper that was started again.
pub struct Starting {
    pub pid: u32,
    /// Where it writes a byte when it is ready. pasta has no such thing: what was started ends with
    /// 0 then.
    pub tells: Option<pipe::Receiver>,
}

impl Helper {
    /// Finds the helper among `processes`.
    pub fn find(processes: &[Process]) -> Option<Self> {
        let is_helper = |process: &&Process| {
            !process.zombie && NAMES.iter().any(|name| process.name.starts_with(name))
        };
        processes.iter().filter(is_helper).find_map(|process| {
            let identity = process.identity;
            // One that is just ending has no arguments.
            let words = processes::words(identity.pid);
            let first = PathBuf::from(words.first()?);
            // pasta does not show its program even to its owner.
            let program = processes::program(identity.pid).unwrap_or(first);
            Some(Self { identity, program, words })
        })
    }

    /// Says whether the helper alone knows the ports that containers publish, so that another would
    /// not have them.
    pub fn holds_ports(&self) -> bool {
        self.words.iter().any(|word| word.as_bytes().starts_with(b"--api-socket"))
    }

    /// Starts it again with its own arguments. `stderr` takes its messages.
    pub fn start_again(&self, stderr: Stdio) -> io::Result<Starting> {
        let (sender, receiver) = pipe::pipe()?;
        let sender = sender.into_blocking_fd()?;
        let mut command = Command::new(&self.program);
        if let Some((name, words)) = self.words.split_first() {
            command.arg0(name);
            command.args(words.iter().filter(|word| !FOREGROUND.iter().any(|own| word == own)));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).process_group(0);
        let ready = self.ready_fd();
        // Another number than the low one that the helper knows.
        let sender = fcntl(&sender, FcntlArg::F_DUPFD_CLOEXEC(200))?;
        // SAFETY: the descriptor is new, and only ours.
        let sender = unsafe { OwnedFd::from_raw_fd(sender) };
        if let Some(number) = ready {
            // SAFETY: between fork and exec only system calls are made.
            unsafe { command.pre_exec(sockets::hand_over(&[sender.as_fd()], number)) };
        }
        let child = process::tie(&mut command).spawn()?;
        Ok(Starting { pid: child.id(), tells: ready.map(|_| receiver) })
    }

    /// Finds the descriptor on which it tells that it is ready: `-r N`, `--ready-fd N` or
    /// `--ready-fd=N`.
    fn ready_fd(&self) -> Option<u32> {
        let mut words = self.words.iter().filter_map(|word| word.to_str());
        let value = words.find_map(|word| match word {
            "-r" | "--ready-fd" => Some(None),
            word => word.strip_prefix("--ready-fd=").map(Some),
        })?;
        value.or_else(|| words.next())?.parse().ok()
    }
}

/// Waits until the helper says that it is ready, or ends.
pub async fn is_ready(mut tells: pipe::Receiver) -> bool {
    matches!(tells.read(&mut [0]).await, Ok(1))
}
