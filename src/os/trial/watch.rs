//! Runs a program for a trial so that nothing of it stays, also when the one who wanted the trial
//! is killed in the middle: a process of its own, out of reach of a terminal's signals, ends
//! everything below itself and removes the directories.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, setsid};
use serde::{Deserialize, Serialize};

use super::scratch::Scratch;
use crate::error::{Error, Exit};
use crate::os::process;

/// The first word of the watcher's command line.
pub const WATCH: &str = "trial-watch";

/// How long a watched program may take, and how long its leftovers may take to end.
const PATIENCE: Duration = Duration::from_secs(8);
const ENDING: Duration = Duration::from_secs(2);

/// How long to wait before looking again, in milliseconds.
const TICK: u8 = 2;

/// How much of what a program says is kept.
const OUTPUT_MAX: usize = 64 * 1024;

/// What a watched program did.
#[derive(Debug, Serialize, Deserialize)]
pub struct Watched {
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
    /// How it ended, in words; empty if well.
    pub status: String,
}

/// Starts a watcher of `program`. `scratch` are the directories that it makes first, of which
/// the first is the program's `TMPDIR`.
///
/// # Errors
/// What the system says.
pub fn start(
    scratch: &[PathBuf],
    program: &Path,
    words: &[OsString],
    search_path: &OsStr,
) -> io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg(WATCH)
        .args(scratch)
        .arg("--")
        .arg(program)
        .args(words);
    command
        .env("PATH", search_path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
}

/// What the watcher that was started says in the end.
///
/// # Errors
/// What the system says, or that the watcher was killed.
pub fn finish(watcher: Child) -> io::Result<Watched> {
    let stdin = watcher.stdin;
    let mut text = Vec::new();
    let mut stdout = watcher
        .stdout
        .ok_or_else(|| io::Error::other("it has no output"))?;
    // The watcher keeps its own deadlines.
    stdout.read_to_end(&mut text)?;
    drop(stdin);
    serde_json::from_slice(&text).map_err(|_| io::Error::other("the watcher was killed"))
}

/// The watcher: makes the directories, runs the program, ends and removes everything, and prints a
/// [`Watched`]. Standard input that is closed means that nobody wants to know any more.
///
/// # Errors
/// Names what could not be done.
pub fn run(words: &[OsString]) -> Result<(), Error> {
    let fails = |error: &io::Error| Error::new(Exit::Failed, "the trial failed").because(error);
    let separator = words.iter().position(|word| word == "--");
    let Some((scratch @ [_, ..], [_, program, rest @ ..])) = separator.map(|at| words.split_at(at))
    else {
        return Err(Error::new(
            Exit::Usage,
            format!("`{WATCH}` is not for people"),
        ));
    };
    detach().map_err(|errno| fails(&errno.into()))?;
    let own = scratch.first().map(PathBuf::from).unwrap_or_default();
    let first = Scratch::new(&own).map_err(|error| fails(&error))?;
    // The program says what it misses of the others.
    let others: Vec<_> = scratch[1..]
        .iter()
        .map(|path| Scratch::new(Path::new(path)))
        .collect();
    let (output, errors) = (own.join("output"), own.join("errors"));
    let start = || {
        let mut command = Command::new(program);
        command
            .args(rest)
            .env("TMPDIR", &own)
            .stdin(Stdio::null())
            .stdout(File::create(&output)?)
            .stderr(File::create(&errors)?);
        // SAFETY: between fork and exec only this system call is made.
        unsafe { command.pre_exec(|| process::die_with_parent().map_err(io::Error::from)) };
        command.spawn()
    };
    let status = start().and_then(watch);
    end_descendants();
    let watched = Watched {
        stdout: tail(&output),
        stderr: tail(&errors),
        status: status.unwrap_or_else(|error| error.to_string()),
    };
    drop((first, others));
    let text = serde_json::to_vec(&watched).map_err(|error| fails(&error.into()))?;
    crate::report::print(text)
}

/// Leaves the session and survives what ends the others, until all is cleaned up.
fn detach() -> nix::Result<()> {
    setsid()?;
    // SAFETY: the call takes numbers and touches no memory.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) })?;
    extern "C" fn nothing(_: libc::c_int) {}
    // A handler, since what is ignored would be ignored by the program as well.
    let action = SigAction::new(
        SigHandler::Handler(nothing),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGPIPE,
    ] {
        // SAFETY: the handler does nothing, which is safe at any moment.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

/// Waits until `child` is through, the deadline passes, or nobody waits any more. Says how it ended;
/// nothing if well.
fn watch(mut child: Child) -> io::Result<String> {
    let deadline = Instant::now() + PATIENCE;
    let stdin = io::stdin();
    let ended = loop {
        if let Some(status) = child.try_wait()? {
            return Ok(describe(status));
        }
        if Instant::now() > deadline {
            break format!(
                "it was still at it after {} s, and was ended",
                PATIENCE.as_secs()
            );
        }
        let mut closed = [PollFd::new(stdin.as_fd(), PollFlags::empty())];
        match poll(&mut closed, PollTimeout::from(TICK)) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => break "nobody waited for it any more".to_owned(),
            Err(errno) => return Err(errno.into()),
        }
    };
    child.kill()?;
    child.wait()?;
    Ok(ended)
}

fn describe(status: ExitStatus) -> String {
    match status.signal() {
        None if status.success() => String::new(),
        None => format!(
            "it ended with exit code {}",
            status.code().unwrap_or_default()
        ),
        Some(signal) => format!("it was ended by signal {signal}"),
    }
}

/// What is in the file `path`, from its end.
fn tail(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let from = bytes.len().saturating_sub(OUTPUT_MAX);
    String::from_utf8_lossy(&bytes[from..]).into_owned()
}

/// Ends and reaps all that is still below this process. What a helper leaves behind by going into
/// the background (pasta does) has become our child.
fn end_descendants() {
    let deadline = Instant::now() + ENDING;
    while Instant::now() < deadline {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => return,
            Ok(WaitStatus::StillAlive) => {
                for child in children() {
                    let _ = kill(child, Signal::SIGKILL);
                }
                let _ = poll(&mut [], PollTimeout::from(TICK));
            }
            _ => {}
        }
    }
}

/// The processes whose parent this one is.
fn children() -> Vec<Pid> {
    let own = std::process::id().to_string();
    let is_child = |pid: &i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        parent.is_some_and(|parent| parent.trim() == own)
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(is_child)
        .map(Pid::from_raw)
        .collect()
}
