//! Carries out what was decided, one action after the other.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::look;
use crate::facts::{Kept, SetupFacts};
use crate::plan;
use crate::setup;
use crate::setup::look::socket;
use crate::setup::manager::{LATER, SOON, UserManager};
use crate::setup::{Action, CONTEXT, SOCKET};
use crate::setup::{find, purge};
use crate::supervise;
use crate::sys::{files, process};
use tracing::info;

/// Where an installation's notes are, below the user's data.
pub const KEPT: &str = "dockerd-rootless/setup.json";

/// How long a user manager may take to come, and a daemon whose unit is there to answer.
const MANAGER: Duration = Duration::from_secs(20);
const ANSWER: Duration = Duration::from_secs(60);

/// How long to look again.
const MOMENT: Duration = Duration::from_millis(20);

/// How many of the last lines of the journal tell why a unit did not start.
const LINES: &str = "--lines=20";

/// What is said of a daemon whose unit is there and that does not answer.
const SILENT: &str = "nobody answers at its socket";

/// What a setting is changed with, by its key and value.
pub type SetSetting<'a> = Box<dyn Fn(&str, &str) -> Result<(), Error> + 'a>;

/// What the programs are removed with.
pub type RemovePrograms<'a> = Box<dyn Fn() -> Result<(), Error> + 'a>;

/// One who installs.
pub struct Installer<'a> {
    /// The environment of a login.
    pub environment: &'a Environment,
    /// What there is.
    pub facts: &'a SetupFacts,
    /// Changes a setting.
    pub set: SetSetting<'a>,
    /// Removes the programs that `fetch` has brought.
    pub remove_programs: RemovePrograms<'a>,
}

impl Installer<'_> {
    /// Carries out `action`.
    ///
    /// # Errors
    /// Names what failed and what its program said. Actions before it stay done: the next
    /// installation goes on from there.
    pub fn perform(&self, action: &Action) -> Result<(), Error> {
        let what = action.explain();
        match action {
            Action::EnableLinger => self.enable_linger(),
            Action::WriteUnit { path, text } => files::write_whole(path, text.as_bytes())
                .map_err(|error| file_error(&what, &error, path)),
            Action::RemoveUnit(path) => match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(file_error(&what, &error, path))
                }
                _ => Ok(()),
            },
            Action::Reload => self.systemctl(&what, &["daemon-reload"], SOON),
            Action::Enable(unit) => self.systemctl(&what, &["enable", unit], SOON),
            Action::Disable(unit) => self.systemctl(&what, &["disable", unit], SOON),
            Action::Stop(unit) => self.systemctl(&what, &["stop", unit], LATER),
            Action::Start(unit) => self.start(&what, "start", unit),
            Action::Restart(unit) => self.start(&what, "restart", unit),
            Action::Replace => {
                let run_dir = plan::run_dir(&self.facts.runtime_dir);
                let done = supervise::refresh(&run_dir)?;
                done.iter().for_each(|line| info!("{line}"));
                Ok(())
            }
            Action::Set(key, value) => (self.set)(key, value),
            Action::KeepContext(name) => self.keep(name),
            Action::CreateContext(host) => {
                let endpoint = format!("host={host}");
                let words = ["context", "create", CONTEXT, "--docker", &endpoint];
                self.docker(&what, &[&words[..], &["--description", "Rootless mode"]].concat())
            }
            Action::UpdateContext(host) => {
                let endpoint = format!("host={host}");
                self.docker(&what, &["context", "update", CONTEXT, "--docker", &endpoint])
            }
            Action::UseContext(name) => self.docker(&what, &["context", "use", name]),
            Action::RemoveContext => self.docker(&what, &["context", "rm", "-f", CONTEXT]),
            Action::Forget => {
                if let Some(path) = self.kept_path() {
                    forget(&path);
                }
                Ok(())
            }
            Action::RemoveAnswers(path) => {
                forget(path);
                Ok(())
            }
            Action::RemovePrograms => (self.remove_programs)(),
            Action::DeleteData { root, entries } => purge::delete(self.facts, root, entries),
        }
    }

    fn enable_linger(&self) -> Result<(), Error> {
        let failed = |error: &dyn std::error::Error| {
            let what = format!("`{}` cannot be made to linger", self.facts.user);
            let root = setup::as_root(self.facts, &setup::enable_linger(self.facts));
            Error::new(Exit::Prerequisite, what)
                .because(error)
                .hint(format!("have root do it: {root}"))
        };
        let Some(loginctl) = find("loginctl", self.facts) else {
            return Err(failed(&io::Error::other("loginctl is not in PATH")));
        };
        let words = ["--no-ask-password", "enable-linger", &self.facts.user];
        process::succeed(Command::new(loginctl).args(words), SOON)
            .map(drop)
            .map_err(|error| failed(&error))
    }

    /// Starts or restarts a unit, and waits until the daemon answers.
    fn start(&self, what: &str, word: &str, unit: &str) -> Result<(), Error> {
        let manager = UserManager::of(self.facts)?;
        // A unit that has failed too often is not started again before that is forgotten.
        let _ = manager.systemctl(["reset-failed", unit], SOON);
        match manager.systemctl([word, unit], LATER) {
            // A unit that somebody has written may be active before its daemon is.
            Ok(_) if self.answers() => Ok(()),
            Ok(_) => Err(self.why(what, unit, SILENT)),
            Err(error) => Err(self.why(what, unit, &error.to_string())),
        }
    }

    /// Waits until the service, which runs, answers.
    ///
    /// # Errors
    /// Why it does not.
    pub fn await_answer(&self) -> Result<(), Error> {
        match self.answers() {
            true => Ok(()),
            false => Err(self.why("reach the daemon", setup::SERVICE, SILENT)),
        }
    }

    fn answers(&self) -> bool {
        let deadline = Instant::now() + ANSWER;
        loop {
            match supervise::answers(&socket(&self.facts.runtime_dir)) {
                true => return true,
                false if Instant::now() >= deadline => return false,
                false => std::thread::sleep(MOMENT),
            }
        }
    }

    /// Why a unit does not start, in the words of the manager, the unit and its journal.
    fn why(&self, what: &str, unit: &str, said: &str) -> Error {
        // The service fails when its socket starts it.
        let service = setup::SERVICE;
        let manager = UserManager::of(self.facts).ok();
        let code = manager.as_ref().and_then(|manager| {
            let shown = manager.show(&[service], &["ExecMainStatus"])?;
            shown.first()?.first()?.parse().ok()
        });
        let exit = match code {
            Some(4) => Exit::Prerequisite,
            Some(5) => Exit::AlreadyRunning,
            Some(78) => Exit::Config,
            _ => Exit::Failed,
        };
        let journal =
            manager.zip(find("journalctl", self.facts)).and_then(|(manager, journalctl)| {
                let mut journalctl = manager.command(&journalctl);
                let words =
                    ["--user", "--unit", service, "--no-pager", "--quiet", "--output=cat", LINES];
                process::brief(journalctl.args(words)).ok()
            });
        let lines = journal.filter(|(status, _)| status.success()).map(|(_, text)| text);
        let error = Error::new(exit, format!("could not {what}"));
        let error = said
            .lines()
            .chain(lines.as_deref().unwrap_or_default().lines())
            .filter(|line| !line.trim().is_empty())
            .fold(error, |error, line| error.because(&io::Error::other(line.to_owned())));
        let hint = match unit == SOCKET {
            true => format!("systemctl --user status {SOCKET} {service}"),
            false => "dockerd-rootless check".to_owned(),
        };
        error.hint(format!("journalctl --user --unit {service}; {hint}"))
    }

    fn systemctl(&self, what: &str, words: &[&str], time: Duration) -> Result<(), Error> {
        let ran = UserManager::of(self.facts)?.systemctl(words, time);
        let line = || format!("systemctl --user {}", words.join(" "));
        ran.map(drop).map_err(|error| failed(what, &error).hint(line()))
    }

    /// Runs the docker client, which must not ask the daemon that variables name.
    fn docker(&self, what: &str, words: &[&str]) -> Result<(), Error> {
        let program = self.facts.client.program.as_deref().unwrap_or(Path::new("docker"));
        let mut docker = Command::new(program);
        docker
            .arg("--context=default")
            .args(words)
            .env("HOME", &self.facts.home)
            .env_remove("DOCKER_HOST")
            .env_remove("DOCKER_CONTEXT");
        let line = || format!("docker {}", words.join(" "));
        process::succeed(&mut docker, SOON)
            .map(drop)
            .map_err(|error| failed(what, &error).hint(line()))
    }

    fn keep(&self, context: &str) -> Result<(), Error> {
        let kept = Kept { previous_context: Some(context.to_owned()) };
        let path = self.kept_path().unwrap_or_default();
        serde_json::to_vec(&kept)
            .map_err(io::Error::from)
            .and_then(|text| files::write_whole(&path, &text))
            .map_err(|error| file_error("note the docker context", &error, &path))
    }

    fn kept_path(&self) -> Option<PathBuf> {
        Some(self.environment.data_home()?.join(KEPT))
    }
}

/// Removes a file of ours, and its directory unless that holds more.
fn forget(path: &Path) {
    let _ = fs::remove_file(path);
    let _ = path.parent().map(fs::remove_dir);
}

fn failed(what: &str, error: &io::Error) -> Error {
    Error::new(Exit::Failed, format!("could not {what}")).because(error)
}

fn file_error(what: &str, error: &io::Error, path: &Path) -> Error {
    let place = path.parent().unwrap_or(path);
    let place = crate::words::quote(place.as_os_str());
    failed(what, error).hint(format!("ls -ld {}", place.display()))
}

/// Shows how the service is and what the docker client says of itself and the daemon, in their own
/// words. What they cannot show is no failure.
pub fn show_service(facts: &SetupFacts) {
    if let Ok(manager) = UserManager::of(facts) {
        let mut status = manager.command(&manager.systemctl);
        let words = ["--user", "--no-pager", "--full", "status", setup::SERVICE];
        let _ = process::tie(status.args(words)).status();
    }
    if let Some(docker) = &facts.client.program {
        let socket = facts.runtime_dir.join("docker.sock");
        let host = format!("unix://{}", socket.display());
        let mut version = Command::new(docker);
        let _ = process::tie(version.arg("version").env("DOCKER_HOST", host)).status();
    }
}

/// Waits until the user's manager, which was told to come, takes orders.
///
/// # Errors
/// Exit 4 if it does not.
pub fn wait_for_manager(facts: &SetupFacts) -> Result<(), Error> {
    let uid = look::uid();
    let mut manager = UserManager::of(facts)?;
    let deadline = Instant::now() + MANAGER;
    while Instant::now() < deadline {
        if let Some(runtime_dir) = look::own_runtime_dir(uid) {
            manager.runtime_dir = runtime_dir;
            if manager.show(&[setup::SERVICE], &["Id"]).is_some() {
                return Ok(());
            }
        }
        std::thread::sleep(MOMENT);
    }
    let what =
        format!("the user manager of `{}` has not come within {} s", facts.user, MANAGER.as_secs());
    let hint = format!("systemctl status user@{uid}.service");
    Err(Error::new(Exit::Prerequisite, what).hint(hint))
}
