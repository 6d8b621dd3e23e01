//! Carries out what was decided, one action after the other.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{Error, Exit};
use crate::setup::facts::{Home, SetupFacts};
use crate::setup::inspect::socket;
use crate::setup::plan::{Action, enable_linger};
use crate::setup::purge::{self, LATER};
use crate::setup::units::SERVICE;
use crate::supervise;
use crate::sys::wait::MOMENT;
use crate::sys::{files, process};
use crate::words::{self, quoted};

/// How long a daemon whose unit is there may take to answer.
const ANSWER: Duration = Duration::from_secs(60);

/// Carries out `action`. Actions before it stay done: the next installation goes on from there.
pub fn perform(facts: &SetupFacts, action: &Action) -> Result<(), Error> {
    let home = &facts.home;
    let list = |path: &Path| format!("ls -ld {}", quoted(path.parent().unwrap_or(path)));
    let (done, hint) = match action {
        Action::Write(path, text) => (files::write_whole(path, text.as_bytes()), list(path)),
        Action::Remove(path) => (remove(path), list(path)),
        // Where the user may not do this, root can.
        Action::Run(line) if line.starts_with("loginctl ") => {
            (run(home, line), enable_linger(facts))
        }
        Action::Run(line) | Action::Replace(line) => (run(home, line), line.clone()),
        Action::Start(verb, unit) => return start(home, verb, unit),
        Action::DeleteData(root, entries) => return purge::delete(facts, root, entries),
    };
    let what = format!("could not {}", action.imperative());
    done.map_err(|error| Error::new(Exit::Failed, what).because(&error).hint(hint))
}

fn run(home: &Home, line: &str) -> io::Result<()> {
    let words = words::split(line.as_ref()).map_err(io::Error::other)?;
    let mut command = home.tool(&words[0].to_string_lossy());
    process::succeed(command.args(&words[1..]), LATER).map(drop)
}

/// Removes a file, and its directory with the last one.
fn remove(path: &Path) -> io::Result<()> {
    files::if_there(fs::remove_file(path))?;
    let _ = path.parent().map(fs::remove_dir);
    Ok(())
}

/// Starts or restarts a unit, and waits until the daemon answers.
fn start(home: &Home, verb: &str, unit: &str) -> Result<(), Error> {
    // A unit that has failed too often does not start before that is reset.
    let _ = process::succeed(home.systemctl("reset-failed").arg(unit), LATER);
    let started = process::succeed(home.systemctl(verb).arg(unit), LATER);
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
    let mut journal = home.tool("journalctl");
    journal.args(["--user", "--unit", SERVICE, "--quiet", "--output=cat", "--lines=20"]);
    let lines = process::brief(&mut journal).map(|(_, lines)| lines).unwrap_or_default();
    // If a socket cannot be started, the service that it starts has failed.
    let code = home.property(Some(SERVICE), "ExecMainStatus").and_then(|code| code.parse().ok());
    let exit = code.filter(|code| [4, 5, 78].contains(code)).map_or(Exit::Failed, Exit::Daemon);
    Error::new(exit, format!("could not start {unit}"))
        .cause(format!("{said}\n{lines}"))
        .hint(format!("journalctl --user --unit {SERVICE}; dockerd-rootless check"))
}
