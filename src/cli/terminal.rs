//! `run` in a terminal: what a person needs to know, while everything else goes to a log file.

use std::env;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{self, dup2_stderr};

use crate::environment::Environment;
use crate::supervise::{self, Notice};
use crate::sys::files;
use crate::words;

/// How long the log file grows before it begins anew, in bytes.
const LOG_MAX: u64 = 16 * 1024 * 1024;

/// How often the length of the log file is looked at.
const LOOK: Duration = Duration::from_secs(60);

/// The terminal, while standard error is the log file.
static SCREEN: Mutex<Option<Screen>> = Mutex::new(None);

fn screen() -> MutexGuard<'static, Option<Screen>> {
    SCREEN.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Screen {
    /// What was standard error.
    terminal: OwnedFd,
    log: PathBuf,
    /// The socket that docker clients connect to, if it is known.
    socket: Option<PathBuf>,
    /// Since when the last line waits for its end.
    open: Option<Instant>,
    was_ready: bool,
    is_stopping: bool,
    /// How a shell calls this program.
    program: String,
}

/// Makes standard error the log file, and keeps the terminal. Without a place for a log file all stays
/// as it is.
pub fn open(environment: &Environment) {
    *screen() = Screen::open(environment).ok();
}

/// Finds the terminal again, if a program that this one has replaced called [`open`]. `socket` is where
/// docker clients connect to.
pub fn reopen(environment: &Environment, socket: Option<PathBuf>) {
    *screen() = Screen::reopen(environment, socket).ok();
}

/// Makes standard error the terminal again.
pub fn close() {
    if let Some(mut screen) = screen().take() {
        screen.print_line("");
        let _ = dup2_stderr(&screen.terminal);
    }
}

/// Returns whether a person waits for the start.
pub fn is_starting() -> bool {
    screen().as_ref().is_some_and(|screen| screen.open.is_some() && !screen.was_ready)
}

/// Says that the daemon, which `what` describes and which listens at `socket`, starts.
pub fn tell_start(what: &str, socket: Option<&Path>) {
    if let Some(screen) = &mut *screen() {
        screen.socket = socket.map(Path::to_owned);
        screen.begin(&format!("Starting {what} … "));
    }
}

/// Says how the start or the stop ended.
pub fn tell_end(is_good: bool) {
    if let Some(screen) = &mut *screen() {
        match is_good {
            true => screen.end("stopped after"),
            false => screen.print(&format!("failed (log: {})\n", screen.log.display())),
        }
        screen.open = None;
    }
}

/// Says `line`, which the log has too.
pub fn tell_line(line: &str) {
    if let Some(screen) = &mut *screen() {
        screen.print_line(&format!("{line}\n"));
    }
}

/// Says what happens, which `text` describes.
pub fn tell(notice: Notice, text: &str) {
    let Some(screen) = &mut *screen() else { return };
    match notice {
        // It was asked to stop before it was ready.
        Notice::Up if screen.is_stopping => {}
        Notice::Up if screen.was_ready => screen.print_line("Docker is ready again.\n"),
        Notice::Up => screen.tell_ready(),
        Notice::RestartingAll(_) => screen.begin("\nStopping containers, to restart everything … "),
        // One that was on its way stops when it is up, and is told to once more.
        Notice::Stopping if screen.is_stopping => {}
        Notice::Stopping => {
            screen.is_stopping = true;
            screen.begin("\n");
            // dockerd answers in its own time, and the stop must not wait for that.
            let socket = screen.socket.clone();
            thread::spawn(move || tell_stopping(socket.as_deref()));
        }
        // A start that fails tells why at its end.
        _ if screen.was_ready => screen.print_line(&format!("{text}\n")),
        _ => {}
    }
}

/// Says how many containers are stopped.
fn tell_stopping(socket: Option<&Path>) {
    let listed = socket.and_then(|socket| supervise::query(socket, "/containers/json").ok());
    let what = match listed.and_then(|listed| Some(listed.as_array()?.len())) {
        None | Some(0) => "Stopping".to_owned(),
        Some(1) => "Stopping 1 container (Ctrl-C again kills it)".to_owned(),
        Some(count) => format!("Stopping {count} containers (Ctrl-C again kills them)"),
    };
    if let Some(screen) = screen().as_mut().filter(|screen| screen.open.is_some()) {
        screen.print(&format!("{what} … "));
    }
}

impl Screen {
    fn open(environment: &Environment) -> io::Result<Self> {
        let log = log_path(environment)?;
        let file = create_log(&log)?;
        let terminal = io::stderr().as_fd().try_clone_to_owned()?;
        dup2_stderr(&file)?;
        Ok(Self { program: own_name(environment), ..Self::new(terminal, log, file) })
    }

    fn reopen(environment: &Environment, socket: Option<PathBuf>) -> io::Result<Self> {
        let log = log_path(environment)?;
        let file = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        let [named, held] = [fs::metadata(&log)?, file.metadata()?];
        if (named.dev(), named.ino()) != (held.dev(), held.ino()) {
            return Err(io::ErrorKind::NotFound.into());
        }
        // Without a terminal, the log file is bounded all the same.
        let terminal = OpenOptions::new().write(true).open("/dev/tty");
        let terminal = terminal.or_else(|_| file.try_clone())?;
        Ok(Self { socket, was_ready: true, ..Self::new(terminal.into(), log, file) })
    }

    /// Keeps `terminal`, and the length of `file`, which is at `log`.
    fn new(terminal: OwnedFd, log: PathBuf, file: File) -> Self {
        let path = log.clone();
        thread::spawn(move || bound(&path, &file));
        let (socket, open, program) = (None, None, String::new());
        Self { terminal, log, socket, open, was_ready: false, is_stopping: false, program }
    }

    /// Prints `text`, unless the terminal is stopped (Ctrl-S): the daemon does not wait for it.
    fn print(&self, text: &str) {
        let mut polled = [PollFd::new(self.terminal.as_fd(), PollFlags::POLLOUT)];
        if poll(&mut polled, PollTimeout::ZERO) == Ok(1) {
            let _ = unistd::write(&self.terminal, text.as_bytes());
        }
    }

    /// Prints `line` on a line of its own.
    fn print_line(&mut self, line: &str) {
        let end = if self.open.take().is_some() { "\n" } else { "" };
        self.print(&format!("{end}{line}"));
    }

    fn begin(&mut self, line: &str) {
        self.print_line(line);
        self.open = Some(Instant::now());
    }

    fn end(&mut self, what: &str) {
        let time = self.open.take().map_or(0.0, |begun| begun.elapsed().as_secs_f64());
        self.print(&format!("{what} {time:.1} s\n"));
    }

    fn tell_ready(&mut self) {
        self.was_ready = true;
        self.end("ready in");
        if let Some(socket) = &self.socket {
            let socket = words::quoted(socket);
            self.print(&format!("\n  In another terminal:  export DOCKER_HOST=unix://{socket}"));
        }
        let (program, log) = (&self.program, self.log.display());
        self.print(&format!(
            "\n  To keep it running:   {program} install\n  \
               Log:                  {log} (-v shows it here)\n\n\
             Press Ctrl-C to stop.\n"
        ));
    }
}

/// Returns how a shell calls this program: by its name, if PATH leads to it.
fn own_name(environment: &Environment) -> String {
    const NAME: &str = "dockerd-rootless";
    let own = env::current_exe().unwrap_or_else(|_| NAME.into());
    let found = which::which_in(NAME, environment.get("PATH"), "/").ok();
    match found.and_then(|path| path.canonicalize().ok()).is_some_and(|path| path == own) {
        true => NAME.to_owned(),
        false => words::quoted(&own),
    }
}

fn log_path(environment: &Environment) -> io::Result<PathBuf> {
    let state_home = environment.state_home().ok_or(io::ErrorKind::NotFound)?;
    Ok(state_home.join("dockerd-rootless/docker.log"))
}

/// Creates the log file; the one of the last start gets another name.
fn create_log(path: &Path) -> io::Result<File> {
    let directory = path.parent().ok_or(io::ErrorKind::NotFound)?;
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    files::if_there(fs::rename(path, path.with_extension("log.1")))?;
    OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)
}

/// Copies and empties the log file when it is long: all that write to it have it open, and append.
fn bound(path: &Path, file: &File) {
    loop {
        thread::sleep(LOOK);
        if file.metadata().is_ok_and(|found| found.len() > LOG_MAX) {
            let _ = fs::copy(path, path.with_extension("log.1")).and_then(|_| file.set_len(0));
        }
    }
}
