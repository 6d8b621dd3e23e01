//! Carries out what was decided, one action after the other.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tracing::info;

use crate::error::{Error, Exit};
use crate::facts::look;
use crate::facts::places;
use crate::settings::{self, Key};
use crate::setup::actions::{Action, CONTEXT};
use crate::setup::decide::{enable_linger_as_root, host, quoted};
use crate::setup::facts::{Notes, SetupFacts};
use crate::setup::inspect::socket;
use crate::setup::manager::{LATER, SOON, UserManager};
use crate::setup::purge;
use crate::setup::units::{SERVICE, SOCKET};
use crate::supervise;
use crate::sys::wait::MOMENT;
use crate::sys::{files, process};

/// How long a user manager may take to come, and a daemon whose unit is there to answer.
const MANAGER: Duration = Duration::from_secs(20);
const ANSWER: Duration = Duration::from_secs(60);

/// What is said of a daemon whose unit is there and that does not answer.
const SILENT: &str = "its socket does not answer";

/// Carries out `action`. Actions before it stay done: the next installation goes on from there.
/// `RemovePrograms` is the command's business.
pub fn perform(facts: &SetupFacts, action: &Action) -> Result<(), Error> {
    let what = action.imperative();
    let docker = |args: &[&str]| docker(facts, &what, args);
    match action {
        Action::EnableLinger(user) => enable_linger(facts, user),
        Action::Write(path, text) => written(&what, path, text),
        Action::Remove(path) => removed(&what, path),
        Action::Reload => systemctl(facts, &what, &["daemon-reload"], SOON),
        Action::Unit(verb @ ("start" | "restart"), unit) => start(facts, &what, verb, unit),
        Action::Unit("stop", unit) => systemctl(facts, &what, &["stop", unit], LATER),
        Action::Unit(verb, unit) => systemctl(facts, &what, &[verb, unit], SOON),
        Action::Replace => {
            let done = supervise::refresh(&places::run_dir(&facts.home.runtime_dir))?;
            done.iter().for_each(|line| info!("{line}"));
            Ok(())
        }
        Action::Set(key, value) => set(facts, key, value),
        Action::CreateContext(host) => {
            let host = format!("--docker=host={host}");
            docker(&["context", "create", CONTEXT, &host, "--description=Rootless mode"])
        }
        Action::UpdateContext(host) => {
            docker(&["context", "update", CONTEXT, &format!("--docker=host={host}")])
        }
        Action::UseContext(name, previous) => {
            if previous.is_some() {
                let notes = Notes { previous_context: previous.clone() };
                let text = serde_json::to_string(&notes).unwrap_or_default();
                written("note the docker context", &facts.notes.0, &text)?;
            }
            docker(&["context", "use", name])
        }
        Action::RemoveContext => docker(&["context", "rm", "-f", CONTEXT]),
        Action::RemovePrograms => Ok(()),
        Action::DeleteData(root, entries) => purge::delete(facts, root, entries),
    }
}

fn systemctl(facts: &SetupFacts, what: &str, args: &[&str], time: Duration) -> Result<(), Error> {
    let ran = UserManager::of(facts)?.systemctl(args, time);
    let line = || format!("systemctl --user {}", args.join(" "));
    ran.map(drop).map_err(|error| failed(what, &error).hint(line()))
}

/// Waits until the service, which runs, answers.
pub fn await_answer(facts: &SetupFacts) -> Result<(), Error> {
    if answers(facts) { Ok(()) } else { Err(why(facts, "reach the daemon", SERVICE, SILENT)) }
}

fn answers(facts: &SetupFacts) -> bool {
    wait_until(ANSWER, || supervise::answers(&socket(&facts.home.runtime_dir)))
}

fn wait_until(time: Duration, is_so: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + time;
    loop {
        if is_so() {
            return true;
        } else if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(MOMENT);
    }
}

fn enable_linger(facts: &SetupFacts, user: &str) -> Result<(), Error> {
    let loginctl = facts.home.program("loginctl").unwrap_or_else(|| "loginctl".into());
    let args = ["--no-ask-password", "enable-linger", user];
    process::succeed(Command::new(loginctl).args(args), SOON).map(drop).map_err(|error| {
        let what = format!("could not enable lingering for `{user}`");
        let error = Error::new(Exit::Prerequisite, what).because(&error);
        error.hint(enable_linger_as_root(facts))
    })
}

/// Starts or restarts a unit, and waits until the daemon answers.
fn start(facts: &SetupFacts, what: &str, verb: &str, unit: &str) -> Result<(), Error> {
    let manager = UserManager::of(facts)?;
    // A unit that has failed too often does not start before that is reset.
    let _ = manager.systemctl(&["reset-failed", unit], SOON);
    match manager.systemctl(&[verb, unit], LATER) {
        // A unit that was edited may be active before its daemon is.
        Ok(_) if answers(facts) => Ok(()),
        Ok(_) => Err(why(facts, what, unit, SILENT)),
        Err(error) => Err(why(facts, what, unit, &error.to_string())),
    }
}

/// Explains why a unit does not start: `said`, the unit's exit code and its journal's last lines.
fn why(facts: &SetupFacts, what: &str, unit: &str, said: &str) -> Error {
    // If a socket cannot be started, the service that it starts has failed.
    let manager = UserManager::of(facts).ok();
    let shown = manager.as_ref().and_then(|manager| manager.show(SERVICE, "ExecMainStatus"));
    let exit = match shown.and_then(|shown| shown.get("ExecMainStatus")?.parse().ok()) {
        Some(4) => Exit::Prerequisite,
        Some(5) => Exit::AlreadyRunning,
        Some(78) => Exit::Config,
        _ => Exit::Failed,
    };
    let journal =
        manager.zip(facts.home.program("journalctl")).and_then(|(manager, journalctl)| {
            let mut journalctl = manager.command(&journalctl);
            let args = ["--user", "--unit", SERVICE, "--no-pager", "--quiet", "--output=cat"];
            process::brief(journalctl.args(args).arg("--lines=20")).ok()
        });
    let journal = journal.filter(|(status, _)| status.success()).map(|(_, text)| text);
    let lines = said.lines().chain(journal.as_deref().unwrap_or_default().lines());
    let error = Error::new(exit, format!("could not {what}"));
    let error = lines
        .filter(|line| !line.trim().is_empty())
        .fold(error, |error, line| error.because(&io::Error::other(line.to_owned())));
    let look = if unit == SOCKET {
        format!("systemctl --user status {SOCKET} {SERVICE}")
    } else {
        "dockerd-rootless check".to_owned()
    };
    error.hint(format!("journalctl --user --unit {SERVICE}; {look}"))
}

/// Runs the docker client, which must not ask the daemon that variables name.
fn docker(facts: &SetupFacts, what: &str, args: &[&str]) -> Result<(), Error> {
    let program = facts.client.program.as_deref().unwrap_or(Path::new("docker"));
    let mut docker = Command::new(program);
    docker
        .arg("--context=default")
        .args(args)
        .env("HOME", &facts.home.dir)
        .env_remove("DOCKER_HOST")
        .env_remove("DOCKER_CONTEXT");
    let line = || {
        let args: Vec<String> = args.iter().map(|arg| quoted(arg.as_ref())).collect();
        format!("docker {}", args.join(" "))
    };
    process::succeed(&mut docker, SOON).map(drop).map_err(|error| failed(what, &error).hint(line()))
}

/// Changes a setting in the user's configuration file.
fn set(facts: &SetupFacts, key: &str, value: &str) -> Result<(), Error> {
    let key = Key::find(key).map_err(|nearest| Error::new(Exit::Usage, nearest))?;
    let config_home = facts.home.environment.config_home().unwrap_or_default();
    let path = config_home.join("dockerd-rootless/config.toml");
    let before = files::read_config(&path, facts.home.uid)?.unwrap_or_default();
    let edited = settings::edit(&path, &before, key, Some(value.as_ref()))?;
    files::write_config(&path, &edited.text, facts.home.uid)
}

fn written(what: &str, path: &Path, text: &str) -> Result<(), Error> {
    files::write_whole(path, text.as_bytes()).map_err(|error| file_error(what, &error, path))
}

fn removed(what: &str, path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(file_error(what, &error, path));
        }
        _ => {}
    }
    // A directory of our own goes with the last file.
    let own = path.parent().filter(|directory| directory.ends_with("dockerd-rootless"));
    let _ = own.map(fs::remove_dir);
    Ok(())
}

fn failed(what: &str, error: &io::Error) -> Error {
    Error::new(Exit::Failed, format!("could not {what}")).because(error)
}

fn file_error(what: &str, error: &io::Error, path: &Path) -> Error {
    failed(what, error).hint(format!("ls -ld {}", quoted(path.parent().unwrap_or(path))))
}

/// Shows the service's status and what the docker client says of itself and the daemon, in their own
/// words. What they cannot show is no failure.
pub fn show_service(facts: &SetupFacts) {
    if let Ok(manager) = UserManager::of(facts) {
        let mut status = manager.command(&manager.systemctl);
        let args = ["--user", "--no-pager", "--full", "status", SERVICE];
        let _ = process::tie(status.args(args)).status();
    }
    if let Some(docker) = &facts.client.program {
        let mut version = Command::new(docker);
        let _ = process::tie(version.arg("version").env("DOCKER_HOST", host(facts))).status();
    }
}

/// Waits until the user's manager, which lingering starts, answers.
pub fn wait_for_manager(facts: &SetupFacts) -> Result<(), Error> {
    let uid = facts.home.uid;
    let manager = UserManager::of(facts)?;
    let has_come = || {
        let runtime_dir = look::own_runtime_dir(uid).unwrap_or_default();
        UserManager { runtime_dir, ..manager.clone() }.show("", "Version").is_some()
    };
    if wait_until(MANAGER, has_come) {
        return Ok(());
    }
    let (user, seconds) = (&facts.home.user, MANAGER.as_secs());
    let what = format!("the user manager of `{user}` did not start within {seconds} s");
    let hint = format!("systemctl status user@{uid}.service");
    Err(Error::new(Exit::Prerequisite, what).hint(hint))
}
