//! rootlesskit with all that a launch would give it, and our own trials in the daemon's place.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::check::survey::Survey;
use crate::check::trial::scratch::Scratch;
use crate::check::trial::{HeldSignals, inside, is_usable};
use crate::check::trials::{Inside, Outcome};
use crate::environment::Environment;
use crate::error::Error;
use crate::facts::HostFacts;
use crate::plan::Trial;
use crate::settings::Settings;
use crate::stage::launch;
use crate::sys::process;
use crate::sys::process::Ran;

/// How long rootlesskit may take.
const PATIENCE: Duration = Duration::from_secs(8);

/// How much of a line is reported.
const LINE_MAX: usize = 4096;

/// A trial of rootlesskit.
pub struct Chain<'a> {
    trial: Result<Trial, Error>,
    own_path: &'a Path,
    /// The directories of the trial; the first is for temporary files.
    scratch: Vec<PathBuf>,
}

impl<'a> Chain<'a> {
    pub fn new(
        settings: &Settings,
        environment: &Environment,
        host: &'a HostFacts,
        survey: &Survey,
    ) -> Self {
        let base = &survey.data_root.base;
        let overlay = is_usable(base).then(|| Scratch::name(base));
        let own = host.session.person.runtime_dir.as_ref().map(|(path, _)| Scratch::name(path));
        let state_dir = own.as_ref().map(|own| own.join("s")).unwrap_or_default();
        let subject = overlay.clone().unwrap_or_default().into();
        let trial = Trial::build(settings, host, environment, &state_dir, subject);
        let scratch = own.into_iter().chain(overlay).collect();
        Self { trial, own_path: &host.session.own_path, scratch }
    }

    /// Returns what came of it. Where rootlesskit did not get inside, the trials are made without it.
    pub fn run(&self) -> (Outcome, Option<Inside>) {
        let trial = match &self.trial {
            Err(error) => return (Outcome::NotTried(error.to_string()), None),
            Ok(trial) => trial,
        };
        let held = HeldSignals::hold();
        let begin = SystemTime::now();
        let outcome = match self.attempt(&trial.rootlesskit, &trial.args, &trial.search_path) {
            Ok(inside) => return (Outcome::Works, Some(inside)),
            Err(outcome) => outcome,
        };
        launch::remove_bind_directories(begin);
        // A signal that came meanwhile ends us here.
        drop(held);
        let _held = HeldSignals::hold();
        let mut args = trial.inside.clone();
        args.insert(1, inside::ALONE.into());
        let alone = self.attempt(self.own_path, &args, &trial.search_path);
        (outcome, alone.ok())
    }

    fn attempt(&self, program: &Path, args: &[OsString], path: &OsStr) -> Result<Inside, Outcome> {
        let not_tried = |error: io::Error| Outcome::NotTried(error.to_string());
        let Some((own, others)) = self.scratch.split_first() else {
            return Err(Outcome::default());
        };
        let _own = Scratch::new(own).map_err(not_tried)?;
        // Inside it shows what is missing of the others.
        let _others: Vec<_> = others.iter().map(|path| Scratch::new(path)).collect();
        let mut command = Command::new(program);
        command.args(args).env("PATH", path).env("TMPDIR", own);
        let ran = process::run(&mut command, PATIENCE)
            .map_err(|error| Outcome::fails(error.to_string()))?;
        let mut lines = ran.text.lines().rev();
        let inside = lines.find_map(|line| serde_json::from_str::<Inside>(line).ok());
        let is_good = ran.status.success() && ran.killed.is_none();
        let mut inside =
            inside.filter(|_| is_good).ok_or_else(|| Outcome::fails(complaint(&ran)))?;
        // What opens nowhere is not installed.
        inside.certificates.retain(|path, _| File::open(path).is_ok());
        Ok(inside)
    }
}

/// Returns what a program that failed says of it: its last lines, without what it only warns of, and
/// how it ended.
fn complaint(Ran { status, text, killed }: &Ran) -> String {
    let end = match (killed, status.code()) {
        (Some(why), _) => why.clone(),
        (None, Some(0)) => "it printed no result".to_owned(),
        (None, Some(code)) => format!("it ended with exit code {code}"),
        (None, None) => format!("it was ended by {status}"),
    };
    let is_news = |line: &String| {
        !line.is_empty() && !line.contains("level=warning") && !line.contains("level=debug")
    };
    let short = |line: &str| -> String {
        line.trim().chars().filter(|c| !c.is_control()).take(LINE_MAX).collect()
    };
    let lines: Vec<String> = text.lines().map(short).filter(is_news).collect();
    let last = lines[lines.len().saturating_sub(3)..].join("; ");
    if last.is_empty() { end } else { format!("{last} ({end})") }
}
