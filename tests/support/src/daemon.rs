//! One start of the launcher: what it is given, and the running daemon that comes of it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{self, SigHandler, Signal, kill};
use nix::unistd::Pid;

use crate::command::run;
use crate::{Docker, Launcher, Room, TestUser, http, wait};

/// The words, the environment and the host that one start of the launcher finds.
pub struct Launch<'u> {
    user: &'u TestUser,
    launcher: Launcher,
    args: Vec<OsString>,
    /// `None` takes a variable away.
    env: Vec<(String, Option<OsString>)>,
    prepare: Option<String>,
    room: Option<&'u Room<'u>>,
}

impl<'u> Launch<'u> {
    pub fn new(user: &'u TestUser, launcher: Launcher) -> Self {
        Self { user, launcher, args: Vec::new(), env: Vec::new(), prepare: None, room: None }
    }

    /// Adds words for dockerd.
    pub fn args<S: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(words.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.to_owned(), Some(value.as_ref().to_owned())));
        self
    }

    pub fn env_remove(mut self, name: &str) -> Self {
        self.env.push((name.to_owned(), None));
        self
    }

    /// A shell script that root runs in a private mount namespace, in which the launcher then starts.
    pub fn prepare(mut self, script: impl Into<String>) -> Self {
        self.prepare = Some(script.into());
        self
    }

    /// Starts the launcher in a room.
    pub fn room(mut self, room: &'u Room<'u>) -> Self {
        self.room = Some(room);
        self
    }

    /// Starts the launcher and returns at once.
    pub fn start(&self) -> Daemon<'u> {
        let log = (1..)
            .map(|n| self.user.home.join(format!("start-{n}.log")))
            .find(|path| !path.exists())
            .expect("a free name");
        let output = File::create_new(&log).unwrap_or_else(|e| panic!("{}: {e}", log.display()));
        let errors = output.try_clone().expect("duplicate the log's descriptor");
        let mut command = self.command();
        // A script that runs the suite in the background has it ignore these.
        let listen = || {
            for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
                // SAFETY: the default action is no code of ours.
                unsafe { signal::signal(signal, SigHandler::SigDfl) }?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec only system calls are made.
        unsafe { command.pre_exec(listen) };
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Daemon { docker: Docker(self.user), child, log }
    }

    /// Starts the launcher and returns when the daemon answers.
    pub fn ready(&self) -> Daemon<'u> {
        let mut daemon = self.start();
        daemon.wait_ready();
        daemon
    }

    /// Starts the launcher, which must end by itself: its exit code and what it said.
    pub fn refusal(&self) -> (Option<i32>, String) {
        let mut daemon = self.start();
        let status = daemon.wait_exit();
        (status.code(), daemon.log())
    }

    fn command(&self) -> Command {
        let program = self.launcher.install(self.user);
        let mut command = match (&self.prepare, self.room) {
            (Some(script), _) => self.user.command_after(script, program),
            (None, Some(room)) => room.command(program),
            (None, None) => self.user.command(program),
        };
        command.args(self.launcher.words()).args(&self.args);
        for (name, value) in &self.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }
}

/// A launcher that was started, and whatever it became. It is killed when the value goes.
pub struct Daemon<'u> {
    pub docker: Docker<'u>,
    child: Child,
    log: PathBuf,
}

impl Daemon<'_> {
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().expect("a pid is positive"))
    }

    /// All that the launcher and the daemon have written so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).expect("read the daemon's log")).into_owned()
    }

    /// Waits for the API's first answer.
    pub fn wait_ready(&mut self) {
        self.wait_ready_at(&self.docker.socket());
    }

    pub fn wait_ready_at(&mut self, socket: &Path) {
        let answer = wait::poll(wait::PATIENCE, || {
            if let Some(status) = self.ended() {
                panic!("ended before it answered ({status}):\n{}", self.log());
            }
            http::ping(socket).then_some(())
        });
        assert!(
            answer.is_some(),
            "no answer on {} in {:?}:\n{}",
            socket.display(),
            wait::PATIENCE,
            self.log()
        );
    }

    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("wait for the launcher")
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap_or_else(|e| panic!("{signal} to {}: {e}", self.pid()));
    }

    pub fn wait_exit(&mut self) -> ExitStatus {
        wait::poll(wait::PATIENCE, || self.ended())
            .unwrap_or_else(|| panic!("still there after {:?}:\n{}", wait::PATIENCE, self.log()))
    }

    /// SIGTERM to the launcher's process, as a terminal's user or a service manager stops it.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait_exit()
    }

    /// SIGKILL to the launcher's process alone.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        assert_eq!(self.wait_exit().signal(), Some(Signal::SIGKILL as i32));
    }

    /// The directory that rootlesskit keeps while it runs.
    pub fn state_dir(&self) -> PathBuf {
        self.docker.0.runtime_dir.join("dockerd-rootless")
    }

    /// Runs a shell command of the host in the daemon's mount and network namespaces and returns what it printed.
    pub fn inside(&self, script: &str) -> String {
        let child = child_pid(&self.state_dir()).to_string();
        run(Command::new("nsenter")
            .args(["--mount", "--net", "--target", &child, "sh", "-ec", script]))
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.log());
        }
    }
}

/// The PID that rootlesskit has written into its state directory.
pub fn child_pid(state_dir: &Path) -> i32 {
    let file = state_dir.join("child_pid");
    wait::until("rootlesskit writes child_pid", || {
        fs::read_to_string(&file).ok()?.trim().parse().ok()
    })
}
