//! Runs a program for a trial so that nothing of it stays, also when the one who wanted the trial
//! is killed in the middle: a process of its own, out of reach of a terminal's signals, ends
//! everything below itself and removes the directories.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, setsid};
use serde::{Deserialize, Serialize};

use crate::check::trial::scratch;
use crate::check::trial::scratch::Scratch;
use crate::error::{Error, Exit};
use crate::sys::process;

/// The first word of the watcher's command line.
pub const WATCH: &str = "trial-watch";

/// How long a watched program may take, and how long its leftovers may take to end.
const PATIENCE: Duration = Duration::from_secs(8);
const ENDING: Duration = Duration::from_secs(2);

/// How long to wait before looking again, in milliseconds.
const TICK: u8 = 2;

/// How much of what a program says is kept, and with how much it is through.
const OUTPUT_MAX: usize = 64 * 1024;
const FLOOD: usize = 16 * 1024 * 1024;

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
    command.arg(WATCH).args(scratch).arg("--").arg(program).args(words);
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
pub fn finish(mut watcher: Child) -> io::Result<Watched> {
    // It is what the watcher watches, and stays open until that is through.
    let _stdin = watcher.stdin.take();
    let mut text = Vec::new();
    let mut stdout = watcher.stdout.take().ok_or_else(|| io::Error::other("it has no output"))?;
    // The watcher keeps its own deadlines.
    stdout.read_to_end(&mut text)?;
    watcher.wait()?;
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
        return Err(Error::new(Exit::Usage, format!("`{WATCH}` is not for people")));
    };
    detach().map_err(|errno| fails(&errno.into()))?;
    let own = scratch.first().map(PathBuf::from).unwrap_or_default();
    let first = Scratch::new(&own).map_err(|error| fails(&error))?;
    // The program says what it misses of the others.
    let others: Vec<_> = scratch[1..].iter().map(|path| Scratch::new(Path::new(path))).collect();
    let mut command = Command::new(program);
    command
        .args(rest)
        .env("TMPDIR", &own)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let begin = SystemTime::now();
    let child = process::tie(&mut command).spawn();
    let watched = child.and_then(watch).unwrap_or_else(|error| Watched {
        stdout: String::new(),
        stderr: String::new(),
        status: error.to_string(),
    });
    end_descendants();
    if !watched.status.is_empty() {
        scratch::remove_bind_directories(begin);
    }
    drop((first, others));
    let text = serde_json::to_vec(&watched).map_err(|error| fails(&error.into()))?;
    crate::cli::output::print(text)
}

/// Leaves the session and survives what ends the others, until all is cleaned up.
fn detach() -> nix::Result<()> {
    setsid()?;
    process::adopt_orphans()?;
    extern "C" fn nothing(_: libc::c_int) {}
    // A handler, since what is ignored would be ignored by the program as well.
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::SA_RESTART, SigSet::empty());
    for signal in
        [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGPIPE]
    {
        // SAFETY: the handler does nothing, which is safe at any moment.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

/// Waits until `child` is through, the deadline passes, or nobody waits any more.
fn watch(mut child: Child) -> io::Result<Watched> {
    let mut outputs = [
        Output::new(child.stdout.take().map(OwnedFd::from)),
        Output::new(child.stderr.take().map(OwnedFd::from)),
    ];
    let status = wait(&mut child, &mut outputs)?;
    let [stdout, stderr] = outputs.map(Output::end);
    Ok(Watched { stdout, stderr, status })
}

/// Says how `child` ended, or why it was ended; nothing if well.
fn wait(child: &mut Child, outputs: &mut [Output; 2]) -> io::Result<String> {
    let deadline = Instant::now() + PATIENCE;
    let ended = loop {
        if let Some(status) = child.try_wait()? {
            return Ok(describe(status));
        }
        if Instant::now() > deadline {
            break format!("it did not end within {} s", PATIENCE.as_secs());
        }
        if outputs.iter().any(|output| output.count > FLOOD) {
            break format!("it did not stop talking after {} MiB", FLOOD >> 20);
        }
        if is_closed(&io::stdin(), outputs)? {
            break "nobody waited for it any more".to_owned();
        }
    };
    child.kill()?;
    child.wait()?;
    Ok(ended)
}

/// Reads what comes within a tick. Says whether the other end of `listener` is closed.
fn is_closed(listener: &impl AsFd, outputs: &mut [Output; 2]) -> io::Result<bool> {
    let mut polled = vec![PollFd::new(listener.as_fd(), PollFlags::empty())];
    let open = outputs.iter().filter_map(|output| output.stream.as_ref());
    polled.extend(open.map(|stream| PollFd::new(stream.as_fd(), PollFlags::POLLIN)));
    match poll(&mut polled, PollTimeout::from(TICK)) {
        Err(Errno::EINTR) => return Ok(false),
        other => other?,
    };
    let is_closed = polled[0].any() == Some(true);
    for output in outputs {
        output.take()?;
    }
    Ok(is_closed)
}

/// What a program says, from its end.
struct Output {
    stream: Option<File>,
    text: Vec<u8>,
    count: usize,
}

impl Output {
    fn new(stream: Option<OwnedFd>) -> Self {
        Self { stream: stream.map(File::from), text: Vec::new(), count: 0 }
    }

    /// Takes what is there now, at most as much as a pipe holds; says how much it was.
    fn take(&mut self) -> io::Result<usize> {
        let Some(stream) = &mut self.stream else {
            return Ok(0);
        };
        let mut polled = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
        match poll(&mut polled, PollTimeout::ZERO) {
            Ok(0) | Err(Errno::EINTR) => return Ok(0),
            other => other?,
        };
        let mut buffer = [0; OUTPUT_MAX];
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            self.stream = None;
        }
        self.count += count;
        self.text.extend_from_slice(&buffer[..count]);
        self.text.drain(..self.text.len().saturating_sub(OUTPUT_MAX));
        Ok(count)
    }

    /// All of it. What a program of the background says later (pasta stays, and holds the stream)
    /// is not waited for.
    fn end(mut self) -> String {
        while self.count <= FLOOD && self.take().is_ok_and(|count| count > 0) {}
        String::from_utf8_lossy(&self.text).into_owned()
    }
}

fn describe(status: ExitStatus) -> String {
    match status.signal() {
        None if status.success() => String::new(),
        None => format!("it ended with exit code {}", status.code().unwrap_or_default()),
        Some(signal) => format!("it was ended by signal {signal}"),
    }
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
