//! Processes, as `/proc` shows them and as pidfds reach them: a PID alone may be another process's
//! by now.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tracing::warn;

/// A process that cannot be taken for a later one of the same PID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Identity {
    pub pid: u32,
    /// When it began, in clock ticks since the boot.
    begin: u64,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// With a code of its own.
    Code(u8),
    /// By the signal of this number.
    Signal(u8),
}

impl How {
    /// Reads the code of a process that passes on how another ended: above 128 it is a signal.
    pub fn passed_on(code: u8) -> Self {
        match code {
            129..=192 => Self::Signal(code - 128),
            _ => Self::Code(code),
        }
    }

    /// Returns the code that a shell gives it.
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(number) => 128 + number,
        }
    }
}

impl fmt::Display for How {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(out, "exit code {code}"),
            Self::Signal(number) => match Signal::try_from(i32::from(*number)) {
                Ok(signal) => write!(out, "{signal}"),
                Err(_) => write!(out, "signal {number}"),
            },
        }
    }
}

impl Identity {
    /// Returns when it began.
    pub fn since(&self) -> Option<SystemTime> {
        let uptime = fs::read_to_string("/proc/uptime").ok()?;
        let uptime: f64 = uptime.split(' ').next()?.parse().ok()?;
        // What /proc shows of time to programs is in hundredths of a second (proc_pid_stat(5)).
        let begin = self.begin as f64 / 100.0;
        SystemTime::now().checked_sub(Duration::from_secs_f64((uptime - begin).max(0.0)))
    }
}

/// A process, as `/proc/PID/stat` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub identity: Identity,
    pub parent: u32,
    /// The kernel's name for it, of at most 15 bytes.
    pub name: String,
    /// Whether it has ended and waits for its parent.
    pub zombie: bool,
    /// Whether it is ending (`PF_EXITING`).
    exits: bool,
}

/// Reads all processes of the host.
pub fn all() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(read).collect()
}

/// Reads the process `pid`.
pub fn read(pid: u32) -> Option<Process> {
    look(pid).ok()
}

fn look(pid: u32) -> io::Result<Process> {
    // A program may give itself a name that is no text.
    let line = fs::read(format!("/proc/{pid}/stat"))?;
    parse(pid, &String::from_utf8_lossy(&line)).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Parses a line of proc_pid_stat(5). The name stands in parentheses and may hold any of them.
fn parse(pid: u32, text: &str) -> Option<Process> {
    let (name, rest) = text.split_once('(')?.1.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Some(Process {
        identity: Identity { pid, begin: fields.get(19)?.parse().ok()? },
        parent: fields.get(1)?.parse().ok()?,
        name: name.to_owned(),
        zombie: matches!(*fields.first()?, "Z" | "X"),
        exits: fields.get(6)?.parse::<u32>().ok()? & 0x4 != 0,
    })
}

/// Reads the arguments of a process, its program's name first. A process that has ended has none.
pub fn words(pid: u32) -> Vec<OsString> {
    let text = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = text.split_inclusive(|byte| *byte == 0);
    words
        .map(|word| OsString::from_vec(word.strip_suffix(b"\0").unwrap_or(word).to_vec()))
        .collect()
}

/// Returns the program that a process runs, without what the kernel adds when the file is gone.
pub fn program(pid: u32) -> Option<PathBuf> {
    let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let text = path.to_str().and_then(|text| text.strip_suffix(" (deleted)"));
    Some(text.map_or_else(|| path.clone(), PathBuf::from))
}

/// Returns the files that a process has open, as far as we may look.
pub fn open_files(pid: u32) -> impl Iterator<Item = PathBuf> {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    files.filter_map(|file| fs::read_link(file.path()).ok())
}

/// Says whether the process `pid` has ended, ends, or has SIGKILL coming.
pub fn is_ending(pid: u32) -> bool {
    read(pid).is_none_or(|process| process.zombie || process.exits)
        || has_signal(&status(pid), &["SigPnd:", "ShdPnd:"], Signal::SIGKILL)
}

/// Says whether a process has a handler for `signal`.
pub fn catches(pid: u32, signal: Signal) -> bool {
    has_signal(&status(pid), &["SigCgt:"], signal)
}

fn status(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default()
}

/// Says whether one of these masks of proc_pid_status(5) has `signal`.
fn has_signal(status: &str, masks: &[&str], signal: Signal) -> bool {
    let bit = 1_u64 << (signal as i32 - 1);
    status.lines().any(|line| {
        let mask = masks.iter().find_map(|mask| line.strip_prefix(mask));
        let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        mask.is_some_and(|mask| mask & bit != 0)
    })
}

/// Reads the states of the threads of a process, as proc_pid_stat(5) has them.
pub fn states(pid: u32) -> Vec<char> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let stats = threads.filter_map(|thread| fs::read(thread.path().join("stat")).ok());
    let state = |stat: Vec<u8>| {
        let stat = String::from_utf8_lossy(&stat).into_owned();
        stat.rsplit_once(')')?.1.trim_start().chars().next()
    };
    stats.filter_map(state).collect()
}

/// Says whether all threads of a process are stopped or traced.
pub fn is_stopped(pid: u32) -> bool {
    let states = states(pid);
    !states.is_empty() && states.iter().all(|state| matches!(state, 'T' | 't'))
}

/// Says whether this very process has not ended.
pub fn is_there(identity: Identity) -> bool {
    read(identity.pid).is_some_and(|now| now.identity == identity && !now.zombie)
}

/// The processes that were below us before we started any, and what these have started since: a
/// shell that has become us by `exec` may have started some.
static EARLIER: Mutex<BTreeSet<Identity>> = Mutex::new(BTreeSet::new());

fn lock_earlier() -> MutexGuard<'static, BTreeSet<Identity>> {
    EARLIER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Remembers the processes that are below us now, which are not ours.
pub fn remember_earlier() {
    let found = below(std::process::id(), all(), &mut BTreeSet::new());
    *lock_earlier() = found.iter().map(|process| process.identity).collect();
}

/// Returns what [`remember_earlier`] has remembered.
pub fn earlier() -> Vec<Identity> {
    lock_earlier().iter().copied().collect()
}

/// Remembers what another program in this process has remembered.
pub fn restore_earlier(identities: &[Identity]) {
    *lock_earlier() = identities.iter().copied().collect();
}

/// Finds the processes below us, parents before their children, without those of
/// [`remember_earlier`] and what these start. We are a subreaper (prctl(2)): a shim that makes
/// itself independent becomes our child.
pub fn descendants() -> Vec<Process> {
    below(std::process::id(), all(), &mut lock_earlier())
}

/// Finds what is below `root` and not below one of `earlier`. What those have started by now joins
/// them, for when its parent ends, it becomes a child of `root`.
pub fn below(root: u32, processes: Vec<Process>, earlier: &mut BTreeSet<Identity>) -> Vec<Process> {
    let mut children: BTreeMap<u32, Vec<Process>> = BTreeMap::new();
    for process in processes {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found = Vec::new();
    let mut next = children.remove(&root).unwrap_or_default();
    while let Some(process) = next.pop() {
        let inner = children.remove(&process.identity.pid).unwrap_or_default();
        if earlier.contains(&process.identity) {
            earlier.extend(inner.iter().map(|process| process.identity));
        } else {
            found.push(process);
        }
        next.extend(inner);
    }
    found
}

/// Says whether this kernel, and whatever filters its calls, lets us have and use pidfds: Linux 5.3
/// and later do, gVisor and old seccomp profiles do not.
pub fn pidfds_work() -> bool {
    let tried = pidfd(std::process::id()).and_then(|fd| send(&fd, 0));
    let errno = tried.err().and_then(|error| error.raw_os_error());
    !matches!(errno, Some(libc::ENOSYS | libc::EPERM | libc::EACCES))
}

/// Opens a pidfd of the process, which becomes readable when that ends. Only an error that
/// [`is_gone`] tells that it has ended.
pub fn open(identity: Identity) -> io::Result<OwnedFd> {
    let fd = pidfd(identity.pid)?;
    match look(identity.pid) {
        Ok(process) if process.identity == identity => Ok(fd),
        Err(error) if !is_gone(&error) && error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Err(Errno::ESRCH.into()),
    }
}

/// Says whether an error of [`open`] or [`signal`] means that the process has ended.
pub fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ESRCH)
}

fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes numbers and returns a new descriptor without another owner.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Waits until all of `processes` have ended, and says whether they have within `limit`. A process
/// that cannot be watched counts as alive.
pub fn wait_for_end(processes: &[Identity], limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    processes.iter().all(|identity| {
        let fd = match open(*identity) {
            Ok(fd) => fd,
            Err(error) => return is_gone(&error),
        };
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout) {
                Err(Errno::EINTR) => {}
                polled => return polled == Ok(1),
            }
        }
    })
}

/// Signals the process that `fd` is of.
pub fn signal(fd: &OwnedFd, signal: Signal) -> io::Result<()> {
    send(fd, signal as libc::c_int)
}

fn send(fd: &OwnedFd, number: libc::c_int) -> io::Result<()> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: without information on the signal, the call takes numbers and touches no memory.
    let sent =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd.as_raw_fd(), number, no_info, 0) };
    Ok(Errno::result(sent).map(drop)?)
}

/// Signals the process `identity`, if it is still there: never another one that has its PID now.
pub fn signal_one(identity: Identity, number: Signal) {
    match open(identity).and_then(|fd| signal(&fd, number)) {
        Err(error) if !is_gone(&error) => {
            warn!("cannot send {number} to process {}: {error}", identity.pid);
        }
        _ => {}
    }
}

/// Signals all of `processes` that are still there.
pub fn signal_all(processes: &[Process], number: Signal) {
    for process in processes.iter().filter(|process| !process.zombie) {
        signal_one(process.identity, number);
    }
}

/// Reaps one child that has ended.
pub fn reap() -> Option<(u32, How)> {
    reap_of(-1)
}

/// Reaps a child as waitpid(2) selects it. nix takes a real-time signal, which has no name, for an
/// error.
fn reap_of(which: libc::pid_t) -> Option<(u32, How)> {
    let mut status = 0;
    // SAFETY: the call writes one integer, to which the pointer leads.
    let pid = unsafe { libc::waitpid(which, &raw mut status, libc::WNOHANG) };
    let pid = u32::try_from(pid).ok().filter(|pid| *pid != 0)?;
    let number = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
    Some(match libc::WIFEXITED(status) {
        true => (pid, How::Code(number(libc::WEXITSTATUS(status)))),
        false => (pid, How::Signal(number(libc::WTERMSIG(status)))),
    })
}

#[cfg(test)]
impl Process {
    /// One for tests.
    pub fn sample(pid: u32, parent: u32, name: &str) -> Self {
        let identity = Identity { pid, begin: 1 };
        Self { identity, parent, name: name.to_owned(), zombie: false, exits: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let line = "7 (a) S (b) Z 3 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 1 2\n";
        let read = parse(7, line).expect("a line of stat");
        assert_eq!((read.name.as_str(), read.parent), ("a) S (b", 3));
        assert!(read.zombie);
        assert_eq!(read.identity, Identity { pid: 7, begin: 4711 });
        for line in ["", "7 (a", "7 (a) Z", "7 a Z 3"] {
            assert_eq!(parse(7, line), None, "{line}");
        }
    }

    #[test]
    fn a_process_that_ends_is_told_from_one_that_lives() {
        let lives = "7 (a) S 3 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 1 2\n";
        assert!(parse(7, lives).is_some_and(|process| !process.exits));
        let exits = lives.replace("4194560", "4194564");
        assert!(parse(7, &exits).is_some_and(|process| process.exits));
        assert!(!is_ending(std::process::id()));
    }

    #[test]
    fn masks_count_signals_from_one() {
        let status = "ShdPnd:\t0000000000000100\nSigIgn:\t4\nSigCgt:\t0000000000004000\n";
        for (mask, signal, expected) in [
            ("SigCgt:", Signal::SIGTERM, true),
            ("SigCgt:", Signal::SIGKILL, false),
            ("ShdPnd:", Signal::SIGKILL, true),
            ("SigPnd:", Signal::SIGKILL, false),
        ] {
            assert_eq!(has_signal(status, &[mask], signal), expected, "{mask} {signal}");
        }
    }

    #[test]
    fn descendants_are_found_at_any_depth_and_nobody_else() {
        // The kernel's own have no parent.
        let pairs = [(5, 4), (2, 1), (4, 2), (3, 2), (9, 8), (0, 0)];
        let all = || pairs.map(|(pid, parent)| Process::sample(pid, parent, "")).to_vec();
        let another_4 = Identity { pid: 4, begin: 2 };
        let this_4 = Process::sample(4, 2, "").identity;
        for (earlier, expected) in
            [(None, vec![3, 4, 5]), (Some(this_4), vec![3]), (Some(another_4), vec![3, 4, 5])]
        {
            let mut earlier = earlier.into_iter().collect();
            let mut pids: Vec<u32> =
                below(2, all(), &mut earlier).iter().map(|found| found.identity.pid).collect();
            pids.sort_unstable();
            assert_eq!(pids, expected, "{earlier:?}");
            // Their parents end, and they become children of ours.
            let orphans = vec![Process::sample(5, 2, ""), Process::sample(3, 2, "")];
            let left = below(2, orphans, &mut earlier).len();
            assert_eq!(left, expected.iter().filter(|pid| **pid != 4).count());
        }
    }

    /// A shell that runs `script`.
    fn shell(script: &str) -> (std::process::Child, Identity) {
        let mut shell = std::process::Command::new("sh");
        let child = shell.args(["-c", script]).spawn().expect("sh");
        let identity = read(child.id()).expect("it is not reaped").identity;
        (child, identity)
    }

    #[test]
    fn how_a_child_ended_is_known_for_all_codes_and_signals() {
        for (script, expected) in [
            ("exit 0", How::Code(0)),
            ("exit 255", How::Code(255)),
            ("kill -9 $$", How::Signal(9)),
            ("kill -34 $$", How::Signal(34)),
            ("kill -64 $$", How::Signal(64)),
        ] {
            let (child, identity) = shell(script);
            assert!(wait_for_end(&[identity], Duration::from_secs(60)));
            let number = libc::pid_t::try_from(child.id()).expect("small");
            assert_eq!(reap_of(number), Some((child.id(), expected)), "{script}");
            assert_eq!(reap_of(number), None, "it was reaped");
        }
    }

    #[test]
    fn a_code_above_128_is_a_signal_that_was_passed_on() {
        for (code, how) in [
            (0, How::Code(0)),
            (1, How::Code(1)),
            (128, How::Code(128)),
            (137, How::Signal(9)),
            (143, How::Signal(15)),
            (255, How::Code(255)),
        ] {
            assert_eq!(How::passed_on(code), how);
            assert_eq!(how.code(), code);
        }
        assert_eq!(How::Signal(9).to_string(), "SIGKILL");
        assert_eq!(How::Signal(42).to_string(), "signal 42");
        assert_eq!(How::Code(3).to_string(), "exit code 3");
    }

    #[test]
    fn a_process_is_waited_for_and_signalled_by_what_it_is() {
        assert!(pidfds_work());
        let (mut child, identity) = shell("exec sleep 600");
        let another = Identity { begin: identity.begin + 1, ..identity };
        assert!(is_gone(&open(another).expect_err("it is another")));
        signal_one(another, Signal::SIGKILL);
        assert!(!wait_for_end(&[another, identity], Duration::from_millis(20)));
        signal_one(identity, Signal::SIGKILL);
        assert!(wait_for_end(&[another, identity], Duration::from_secs(60)));
        child.wait().expect("our child");
        assert!(is_gone(&open(identity).expect_err("it is gone")));
    }
}
