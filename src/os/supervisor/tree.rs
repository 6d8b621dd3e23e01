//! The processes below us. We are a subreaper (prctl(2)), so that none of them leaves: a container's
//! shim that makes itself independent becomes our child.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use crate::supervise::How;

/// A process that cannot be taken for a later one of the same PID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// Its PID.
    pub pid: u32,
    /// When it began, in clock ticks since the boot.
    begin: u64,
}

/// A process, as `/proc/PID/stat` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Which one it is.
    pub identity: Identity,
    /// Its parent's PID.
    pub parent: u32,
    /// The kernel's name for it, of at most 15 bytes.
    pub name: String,
    /// Whether it has ended and waits for its parent.
    pub zombie: bool,
}

/// All processes of the host.
pub fn all() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(read).collect()
}

/// The process `pid`.
pub fn read(pid: u32) -> Option<Process> {
    parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Reads a line of proc_pid_stat(5). The name stands in parentheses and may hold any of them.
fn parse(pid: u32, text: &str) -> Option<Process> {
    let (name, rest) = text.split_once('(')?.1.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Some(Process {
        identity: Identity {
            pid,
            begin: fields.get(19)?.parse().ok()?,
        },
        parent: fields.get(1)?.parse().ok()?,
        name: name.to_owned(),
        zombie: matches!(*fields.first()?, "Z" | "X"),
    })
}

/// The processes below us, parents before their children.
pub fn descendants() -> Vec<Process> {
    below(std::process::id(), all())
}

fn below(root: u32, processes: Vec<Process>) -> Vec<Process> {
    let mut children: BTreeMap<u32, Vec<Process>> = BTreeMap::new();
    for process in processes {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found = Vec::new();
    let mut next = children.remove(&root).unwrap_or_default();
    while let Some(process) = next.pop() {
        next.extend(children.remove(&process.identity.pid).unwrap_or_default());
        found.push(process);
    }
    found
}

/// Whether a process has a handler for `signal`, by the mask of proc_pid_status(5).
pub fn catches(pid: u32, signal: Signal) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    caught(&text) & 1 << (signal as i32 - 1) != 0
}

fn caught(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

/// The program that a process runs, without what the kernel adds when the file is gone.
pub fn program(pid: u32) -> Option<PathBuf> {
    let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let text = path
        .to_str()
        .and_then(|text| text.strip_suffix(" (deleted)"));
    Some(text.map_or_else(|| path.clone(), PathBuf::from))
}

/// A descriptor of the process, which becomes readable when it ends.
///
/// # Errors
/// What the kernel says: ESRCH if it has ended and was reaped, or is another meanwhile.
pub fn open(identity: Identity) -> io::Result<OwnedFd> {
    // SAFETY: the call takes numbers and returns a new descriptor that nobody else owns.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, identity.pid, 0) })?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: as above.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    match read(identity.pid) {
        Some(process) if process.identity == identity => Ok(fd),
        _ => Err(Errno::ESRCH.into()),
    }
}

/// Signals the process that `fd` is of.
///
/// # Errors
/// What the kernel says.
pub fn signal(fd: &OwnedFd, signal: Signal) -> io::Result<()> {
    let (fd, number) = (fd.as_raw_fd(), signal as libc::c_int);
    // SAFETY: without information on the signal, the call takes numbers and touches no memory.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            fd,
            number,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    Ok(Errno::result(sent).map(drop)?)
}

/// Signals all of `processes` that are still there.
pub fn signal_all(processes: &[Process], number: Signal) {
    for process in processes.iter().filter(|process| !process.zombie) {
        // One that has ended meanwhile needs no signal.
        let _ = open(process.identity).and_then(|fd| signal(&fd, number));
    }
}

/// Reaps one child that has ended.
pub fn reap() -> Option<(u32, How)> {
    let ended = |pid: nix::unistd::Pid| u32::try_from(pid.as_raw()).ok();
    match waitpid(None, Some(WaitPidFlag::WNOHANG)).ok()? {
        WaitStatus::Exited(pid, code) => Some((
            ended(pid)?,
            How::Code(u8::try_from(code).unwrap_or(u8::MAX)),
        )),
        WaitStatus::Signaled(pid, signal, _) => {
            Some((ended(pid)?, How::Signal(u8::try_from(signal as i32).ok()?)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, parent: u32) -> Process {
        let identity = Identity { pid, begin: 1 };
        Process {
            identity,
            parent,
            name: String::new(),
            zombie: false,
        }
    }

    #[test]
    fn a_name_may_hold_anything() {
        let line = "7 (a) S (b) Z 3 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 1 2\n";
        let read = parse(7, line).expect("a line of stat");
        assert_eq!((read.name.as_str(), read.parent), ("a) S (b", 3));
        assert!(read.zombie);
        assert_eq!(
            read.identity,
            Identity {
                pid: 7,
                begin: 4711
            }
        );
        for line in ["", "7 (a", "7 (a) Z", "7 a Z 3"] {
            assert_eq!(parse(7, line), None, "{line}");
        }
    }

    #[test]
    fn a_mask_counts_signals_from_one() {
        let status = "SigIgn:\t0000000000000004\nSigCgt:\t0000000000004000\nCapInh:\t0\n";
        assert_eq!(caught(status), 1 << (Signal::SIGTERM as i32 - 1));
        assert_eq!(caught("SigIgn:\t4\n"), 0);
    }

    #[test]
    fn descendants_are_found_at_any_depth_and_nobody_else() {
        let all = vec![
            process(5, 4),
            process(2, 1),
            process(4, 2),
            process(3, 2),
            process(9, 8),
            // The kernel's own have no parent.
            process(0, 0),
        ];
        let mut pids: Vec<u32> = below(2, all)
            .iter()
            .map(|found| found.identity.pid)
            .collect();
        pids.sort_unstable();
        assert_eq!(pids, [3, 4, 5]);
    }
}

