//! Tries rootlesskit as a launch would run it, with our own trials in the daemon's place.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

use crate::check::survey::Survey;
use crate::check::trial::scratch::Scratch;
use crate::check::trial::{inside, is_usable};
use crate::check::trials::{Inside, Outcome};
use crate::environment::Environment;
use crate::facts::HostFacts;
use crate::plan::Trial;
use crate::settings::Settings;
use crate::sys::process::{self, Ran};

/// How long rootlesskit may take.
const PATIENCE: Duration = Duration::from_secs(8);

/// Returns what came of it. Where rootlesskit did not get inside, the trials are made without it.
pub fn run(
    settings: &Settings,
    environment: &Environment,
    host: &HostFacts,
    survey: &Survey,
) -> (Outcome, Option<Inside>) {
    let runtime_dir = host.session.person.runtime_dir.as_ref();
    let own = runtime_dir.map(|(path, _)| Scratch::path(path)).unwrap_or_default();
    let base = &survey.data_root.base;
    let overlay = if is_usable(base) { Scratch::path(base) } else { PathBuf::new() };
    let trial =
        Trial::build(settings, host, environment, &own.join("s"), overlay.clone().into_os_string());
    let trial = match trial {
        Ok(trial) => trial,
        Err(error) => return (Outcome::NotTried(error.to_string()), None),
    };
    let attempt = |program: &Path, args: &[OsString]| {
        let mut command = Command::new(program);
        command.args(args).env("PATH", &trial.search_path).env("TMPDIR", &own);
        attempt(&mut command, &own, &overlay)
    };
    match attempt(&trial.rootlesskit, &trial.args) {
        Ok(inside) => (Outcome::Works, Some(inside)),
        Err(outcome) => {
            let mut args = trial.inside.clone();
            args.insert(1, inside::ALONE.into());
            (outcome, attempt(&host.session.own_path, &args).ok())
        }
    }
}

/// Runs `command` with the directories of a trial; there may be none for an overlay.
fn attempt(command: &mut Command, own: &Path, overlay: &Path) -> Result<Inside, Outcome> {
    let not_tried = |error: io::Error| Outcome::NotTried(error.to_string());
    let _held = HeldSignals::hold();
    let _own = Scratch::new(own).map_err(not_tried)?;
    // The trial inside says what is wrong with this one.
    let _overlay = (!overlay.as_os_str().is_empty()).then(|| Scratch::new(overlay));
    let ran = process::run(command, PATIENCE).map_err(|error| Outcome::fails(error.to_string()))?;
    let is_good = ran.status.success() && ran.killed.is_none();
    let mut lines = ran.text.lines().rev();
    let inside = lines.find_map(|line| serde_json::from_str::<Inside>(line).ok());
    let mut inside = inside.filter(|_| is_good).ok_or_else(|| Outcome::fails(complaint(&ran)))?;
    // What opens nowhere is not installed.
    inside.certificates.retain(|path, _| File::open(path).is_ok());
    Ok(inside)
}

/// Returns the last lines of a program that failed, without its warnings, and how it ended.
fn complaint(ran: &Ran) -> String {
    let is_noise = |line: &str| {
        line.is_empty() || line.contains("level=warning") || line.contains("level=debug")
    };
    let text = ran.text.replace(|c: char| c.is_control() && c != '\n', "");
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !is_noise(line)).collect();
    let end = ran.killed.clone().unwrap_or_else(|| format!("it ended with {}", ran.status));
    match &lines[lines.len().saturating_sub(3)..] {
        [] => end,
        last => format!("{} ({end})", last.join("; ")),
    }
}

/// Holds back the signals that would end us while there are directories to remove.
struct HeldSignals(SigSet);

impl HeldSignals {
    fn hold() -> Option<Self> {
        let ends = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];
        let before = SigSet::thread_get_mask().ok()?;
        SigSet::from_iter(ends).thread_block().ok()?;
        Some(Self(before))
    }
}

impl Drop for HeldSignals {
    fn drop(&mut self) {
        let _ = self.0.thread_set_mask();
    }
}
