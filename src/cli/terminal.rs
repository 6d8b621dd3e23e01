//! `run` in a terminal: what a person needs to know, while everything else goes to a log file.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use nix::unistd::dup2_stderr;
use serde_json::Value;

use crate::environment::Environment;
use crate::supervise::{self, Notice};
use crate::words;

/// How much the log file holds before it becomes the previous one.
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
    terminal: File,
    /// The same without waiting: a terminal may be stopped (Ctrl-S), and the daemon must not.
    prompt: File,
    log: PathBuf,
    /// The socket that docker clients connect to, if it is known.
    socket: Option<PathBuf>,
    /// Whether the last line waits for its end.
    is_open: bool,
    /// Warnings during the start. They are for the log alone if it fails.
    held: String,
    was_ready: bool,
    is_stopping: bool,
    /// When the last step began: the start, or the stop.
    since: Instant,
}

/// Writes warnings to the terminal, if they do not go there anyway.
pub struct Writer;

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(screen) = &mut *screen() {
            let line = String::from_utf8_lossy(bytes);
            if screen.is_starting() {
                screen.held += &line;
            } else {
                screen.end_line();
                screen.print(&line);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes standard error the log file, and keeps the terminal for [`tell`]. Without a place for a log
/// file all stays as it is.
pub fn open(environment: &Environment) {
    *screen() = Screen::open(environment).ok();
}

/// Finds the terminal again, after [`open`] was called by a program that this one has replaced.
pub fn reopen(environment: &Environment) {
    *screen() = Screen::reopen(environment).ok().flatten();
}

/// Returns whether a person waits for the start.
pub fn is_starting() -> bool {
    screen().as_ref().is_some_and(Screen::is_starting)
}

/// Returns whether standard error is the log file.
pub fn is_open() -> bool {
    screen().is_some()
}

/// Makes standard error the terminal again.
pub fn close() {
    if let Some(mut screen) = screen().take() {
        screen.end_line();
        let _ = dup2_stderr(&screen.terminal);
    }
}

/// Says that the daemon, which `what` describes and which listens at `socket`, starts.
pub fn tell_start(what: &str, socket: Option<&Path>) {
    if let Some(screen) = &mut *screen() {
        screen.socket = socket.map(Path::to_owned);
        if !screen.was_ready {
            screen.begin(&format!("Starting {what} … "));
        }
    }
}

/// Says that the daemon stopped as it was told.
pub fn tell_stopped() {
    if let Some(screen) = &mut *screen() {
        screen.end("stopped after {}\n");
    }
}

/// Says that the daemon failed, and where its log is. Returns whether there is a terminal for it.
pub fn tell_failed() -> bool {
    let Some(screen) = &mut *screen() else { return false };
    let log = screen.log.display().to_string();
    screen.end(&format!("failed (log: {log})\n"));
    true
}

/// Says what happens.
pub fn tell(notice: Notice) {
    let Some(screen) = &mut *screen() else { return };
    match notice {
        // It was asked to stop before it was ready.
        Notice::Up if screen.is_stopping => {}
        Notice::Up if screen.was_ready => screen.print("Docker is ready again.\n"),
        Notice::Up => screen.tell_ready(),
        Notice::Reviving(_) | Notice::Restarting(_) => screen.print_held(),
        Notice::RestartingAll(_) => screen.begin("\nStopping containers, to restart everything … "),
        Notice::Stopping => {
            screen.is_stopping = true;
            screen.begin("\n");
            // dockerd answers in its own time, and nothing must wait for that here.
            let socket = screen.socket.clone();
            thread::spawn(move || tell_stopping(socket.as_deref()));
        }
        _ => {}
    }
}

/// Says how many containers are stopped.
fn tell_stopping(socket: Option<&Path>) {
    let listed = socket.and_then(|socket| supervise::query(socket, "/containers/json").ok());
    let count = listed.as_ref().and_then(Value::as_array).map(Vec::len);
    let what = match count {
        None | Some(0) => "Stopping".to_owned(),
        Some(1) => "Stopping 1 container (Ctrl-C again kills it)".to_owned(),
        Some(count) => format!("Stopping {count} containers (Ctrl-C again kills them)"),
    };
    if let Some(screen) = &mut *screen()
        && screen.is_open
    {
        screen.print(&format!("{what} … "));
    }
}

impl Screen {
    fn open(environment: &Environment) -> io::Result<Self> {
        let log = log_path(environment).ok_or(io::ErrorKind::NotFound)?;
        let file = create_log(&log)?;
        let terminal = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        let screen = Self::new(terminal, log, file.try_clone()?)?;
        dup2_stderr(&file)?;
        Ok(screen)
    }

    fn reopen(environment: &Environment) -> io::Result<Option<Self>> {
        let log = log_path(environment).ok_or(io::ErrorKind::NotFound)?;
        let file = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        if !is_at(&file, &log)? {
            return Ok(None);
        }
        let terminal = OpenOptions::new().write(true).open("/dev/tty")?;
        Ok(Some(Self { was_ready: true, ..Self::new(terminal, log, file)? }))
    }

    /// Takes `terminal`, and keeps `file`, which is at `log`, at its length.
    fn new(terminal: File, log: PathBuf, file: File) -> io::Result<Self> {
        let path = log.clone();
        let prompt = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(format!("/proc/self/fd/{}", terminal.as_raw_fd()))
            // After su(1), the terminal is still the other user's.
            .or_else(|_| terminal.try_clone())?;
        thread::spawn(move || bound(&file, &path));
        Ok(Self {
            terminal,
            prompt,
            log,
            socket: None,
            is_open: false,
            held: String::new(),
            was_ready: false,
            is_stopping: false,
            since: Instant::now(),
        })
    }

    /// Prints `text`. Where nobody sees it, nothing is lost that the log does not have.
    fn print(&mut self, text: &str) {
        let _ = self.prompt.write_all(text.as_bytes());
    }

    fn is_starting(&self) -> bool {
        self.is_open && !self.was_ready
    }

    fn print_held(&mut self) {
        let held = std::mem::take(&mut self.held);
        if !held.is_empty() {
            self.end_line();
            self.print(&held);
        }
    }

    fn begin(&mut self, line: &str) {
        self.end_line();
        self.print(line);
        self.is_open = true;
        self.since = Instant::now();
    }

    fn end(&mut self, result: &str) {
        let seconds = self.since.elapsed().as_secs_f64();
        self.is_open = false;
        self.print(&result.replace("{}", &format!("{seconds:.1} s")));
    }

    fn end_line(&mut self) {
        if std::mem::take(&mut self.is_open) {
            self.print("\n");
        }
    }

    fn tell_ready(&mut self) {
        self.print_held();
        self.was_ready = true;
        self.end("ready in {}\n\n");
        if let Some(socket) = &self.socket {
            let socket = words::quote(socket.as_os_str());
            let socket = socket.display();
            self.print(&format!("  In another terminal:  export DOCKER_HOST=unix://{socket}\n"));
        }
        let log = self.log.display();
        self.print(&format!(
            "  To keep it running:   dockerd-rootless install\n  \
               Log:                  {log} (-v shows it here)\n\n\
             Press Ctrl-C to stop.\n"
        ));
    }
}

/// Returns where the log file is.
fn log_path(environment: &Environment) -> Option<PathBuf> {
    Some(environment.state_home()?.join("dockerd-rootless/docker.log"))
}

/// Creates the log file; the one of the last start gets another name.
fn create_log(path: &Path) -> io::Result<File> {
    let directory = path.parent().ok_or(io::ErrorKind::NotFound)?;
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    match fs::rename(path, previous(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)
}

fn previous(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

/// Returns whether `path` is still the name of `file`.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let [named, held] = [fs::metadata(path)?, file.metadata()?];
    Ok((named.dev(), named.ino()) == (held.dev(), held.ino()))
}

/// Copies the log file to the previous one. That may be the log of another daemon, which this one
/// renamed: its name is taken, and its text is left alone.
fn keep(file: &File, path: &Path) -> io::Result<()> {
    match fs::remove_file(previous(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::copy(format!("/proc/self/fd/{}", file.as_raw_fd()), previous(path)).map(drop)
}

/// Keeps the log file at its length. Who writes to it has it open: it is copied and emptied. One that
/// another daemon renamed is only emptied.
fn bound(file: &File, path: &Path) {
    loop {
        thread::sleep(LOOK);
        let is_long = file.metadata().is_ok_and(|found| found.len() > LOG_MAX);
        if is_long && (!is_at(file, path).unwrap_or(false) || keep(file, path).is_ok()) {
            let _ = file.set_len(0);
        }
    }
}
