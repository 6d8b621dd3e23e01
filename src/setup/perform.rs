//! Carries out what was decided, one action after the other.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tracing::info;

use crate::error::{Error, Exit};
use crate::facts::places;
use crate::setup::actions::{Action, CONTEXT};
use crate::setup::facts::{Home, SetupFacts};
use crate::setup::inspect::socket;
use crate::setup::plan::enable_linger_as_root;
use crate::setup::purge;
use crate::setup::units::{SERVICE, SOCKET};
use crate::supervise;
use crate::sys::wait::MOMENT;
use crate::sys::{files, process};
use crate::words::{self, quoted};

/// How long an action may take: a unit has limits of its own, and containers may have long times to
/// stop.
pub const LATER: Duration = Duration::from_secs(900);

/// How long a daemon whose unit is there may take to answer.
const ANSWER: Duration = Duration::from_secs(60);

/// Carries out `action`. Actions before it stay done: the next installation goes on from there.
/// `RemovePrograms` is the command's business.
pub fn perform(facts: &SetupFacts, action: &Action) -> Result<(), Error> {
    let home = &facts.home;
    let docker = |args: &[&str]| docker(facts, args);
    let (done, hint) = match action {
        Action::EnableLinger(user) => {
            let mut loginctl = Command::new(home.program("loginctl").unwrap_or("loginctl".into()));
            loginctl.args(["--no-ask-password", "enable-linger", user]);
            (run(&mut loginctl), enable_linger_as_root(facts))
        }
        Action::Write(path, text) => (files::write_whole(path, text.as_bytes()), list(path)),
        Action::Remove(path) => (remove(path), list(path)),
        Action::Reload => systemctl(home, &["daemon-reload"]),
        Action::Unit(verb @ ("start" | "restart"), unit) => return start(home, verb, unit),
        Action::Unit(verb, unit) => systemctl(home, &[verb, unit]),
        Action::PointContext(verb, host) => {
            let host = format!("--docker=host={host}");
            docker(&["context", verb, CONTEXT, &host, "--description=Rootless mode"])
        }
        Action::SelectContext(name, previous) => {
            let (file, _) = &facts.previous_context;
            match previous.as_ref().map(|name| files::write_whole(file, name.as_bytes())) {
                Some(Err(error)) => (Err(error), list(file)),
                _ => docker(&["context", "use", name]),
            }
        }
        Action::RemoveContext => docker(&["context", "rm", "-f", CONTEXT]),
        Action::Replace => return replace(home),
        Action::Set(key, value) => {
            let mut config = Command::new(&home.program);
            config.env("HOME", &home.dir).env("XDG_CONFIG_HOME", &home.config_home);
            let done = run(config.args(["config", "set", key, value]));
            (done, format!("dockerd-rootless config set {key} {value}"))
        }
        Action::DeleteData(root, entries) => return purge::delete(facts, root, entries),
        Action::RemovePrograms => return Ok(()),
    };
    let exit = match action {
        Action::EnableLinger(_) => Exit::Prerequisite,
        _ => Exit::Failed,
    };
    let what = format!("could not {}", action.imperative());
    done.map_err(|error| Error::new(exit, what).because(&error).hint(hint))
}

fn run(command: &mut Command) -> io::Result<()> {
    process::succeed(command, LATER).map(drop)
}

/// Returns the command that shows why a file cannot be changed.
fn list(path: &Path) -> String {
    format!("ls -ld {}", quoted(path.parent().unwrap_or(path)))
}

fn systemctl(home: &Home, args: &[&str]) -> (io::Result<()>, String) {
    let done = run(home.manager_tool("systemctl").args(args));
    (done, format!("systemctl --user {}", args.join(" ")))
}

/// Runs the docker client, which must not ask the daemon that variables name.
fn docker(facts: &SetupFacts, args: &[&str]) -> (io::Result<()>, String) {
    let mut docker = Command::new(facts.client.program.as_deref().unwrap_or("docker".as_ref()));
    docker
        .arg("--context=default")
        .args(args)
        .env("HOME", &facts.home.dir)
        .env_remove("DOCKER_HOST")
        .env_remove("DOCKER_CONTEXT");
    let words: Vec<_> = args.iter().map(Into::into).collect();
    (run(&mut docker), format!("docker {}", words::join(&words).display()))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // A directory of our own goes with the last file.
    let own = path.parent().filter(|directory| directory.ends_with("dockerd-rootless"));
    let _ = own.map(fs::remove_dir);
    Ok(())
}

fn replace(home: &Home) -> Result<(), Error> {
    let done = supervise::refresh(&places::run_dir(&home.runtime_dir))?;
    done.iter().for_each(|line| info!("{line}"));
    Ok(())
}

/// Starts or restarts a unit, and waits until the daemon answers.
fn start(home: &Home, verb: &str, unit: &str) -> Result<(), Error> {
    // A unit that has failed too often does not start before that is reset.
    let _ = systemctl(home, &["reset-failed", unit]);
    let (started, _) = systemctl(home, &[verb, unit]);
    started.map_err(|error| why(home, unit, &error.to_string()))?;
    // A unit that was edited may be active before its daemon is.
    let deadline = Instant::now() + ANSWER;
    while !supervise::answers(&socket(&home.runtime_dir)) {
        if Instant::now() >= deadline {
            return Err(why(home, unit, "its socket does not answer"));
        }
        std::thread::sleep(MOMENT);
    }
    Ok(())
}

/// Explains why a unit does not start: `said`, the service's exit code and its journal's last lines.
fn why(home: &Home, unit: &str, said: &str) -> Error {
    // If a socket cannot be started, the service that it starts has failed.
    let code = home.property(Some(SERVICE), "ExecMainStatus").and_then(|code| code.parse().ok());
    let exit = code.filter(|code| [4, 5, 78].contains(code)).map_or(Exit::Failed, Exit::Daemon);
    let error = Error::new(exit, format!("could not start {unit}")).cause(said);
    let mut journal = home.manager_tool("journalctl");
    journal.args(["--unit", SERVICE, "--no-pager", "--quiet", "--output=cat", "--lines=20"]);
    let error = match process::brief(&mut journal) {
        Ok((_, lines)) if !lines.trim().is_empty() => error.cause(lines),
        _ => error,
    };
    let look = match unit {
        SOCKET => "systemctl --user status docker.socket docker.service",
        _ => "dockerd-rootless check",
    };
    error.hint(format!("journalctl --user --unit {SERVICE}; {look}"))
}
