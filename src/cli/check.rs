//! `check`: read, try, judge, print.

use std::ffi::OsString;
use std::io;

use nix::unistd;

use crate::check;
use crate::check::survey;
use crate::check::trial;
use crate::check::trial::{inside, userns};
use crate::check::{CHECKS, Evidence, Named, Status};
use crate::cli::output;
use crate::cli::output::{Format, Whose};
use crate::cli::run::Request;
use crate::cli::sources::layers;
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::look;
use crate::facts::places;
use crate::facts::probe;
use crate::facts::probe::ProbeDepth;
use crate::facts::{HostFacts, Survey, Trials};
use crate::plan;
use crate::plan::TRIAL;
use crate::settings::Settings;
use crate::sys::elevate;

/// What to print.
#[derive(Clone, Copy)]
pub enum Output {
    /// What was found, in colours or not.
    Report(Format, bool),
    /// The commands alone.
    Fix(Whose),
}

/// Which checks count.
pub struct Choice<'a> {
    only: &'a [String],
    skip: &'a [String],
}

impl<'a> Choice<'a> {
    /// Those called `only`, or all but those called `skip`.
    ///
    /// # Errors
    /// Exit 2 for a name that no check has.
    pub fn new(only: &'a [String], skip: &'a [String]) -> Result<Self, Error> {
        let unknown = |name: &&String| CHECKS.iter().all(|check| check.name != name.as_str());
        match only.iter().chain(skip).find(unknown) {
            None => Ok(Self { only, skip }),
            Some(name) => {
                let nearest = CHECKS
                    .iter()
                    .map(|check| check.name)
                    .min_by_key(|known| strsim::levenshtein(known, name))
                    .filter(|known| strsim::levenshtein(known, name) <= 2);
                let hint = match nearest {
                    Some(known) => format!("did you mean `{known}`?"),
                    None => "`dockerd-rootless check --list` lists the checks".to_owned(),
                };
                Err(Error::new(Exit::Usage, format!("no check is called `{name}`")).hint(hint))
            }
        }
    }

    fn takes(&self, name: &str) -> bool {
        let is_in = |names: &[String]| names.iter().any(|one| one == name);
        if self.only.is_empty() { !is_in(self.skip) } else { is_in(self.only) }
    }
}

/// Everything that the checks judge, owned.
pub struct Examination {
    settings: Settings,
    host: HostFacts,
    survey: Survey,
    trials: Trials,
}

impl Examination {
    /// Reads and tries everything for a launch of `request`.
    ///
    /// # Errors
    /// Refuses root, and whatever is wrong with the settings.
    pub fn new(environment: &Environment, request: &Request) -> Result<Self, Error> {
        let person = look::person(environment);
        plan::refuse_root(&person)?;
        let settings = Settings::resolve(&layers(environment, &request.assignments)?)?;
        let settings = settings.with_args(&request.words);
        let (uid, gid) = (person.uid, unistd::getegid().as_raw());
        let host = probe::host(&settings, environment, person, ProbeDepth::Traceless)?;
        let find = |name: &str| {
            let (path, _) = places::search_path(environment);
            which::which_in(name, Some(path), "/").ok()
        };
        let rootlesskit = host.tools.rootlesskit.path();
        let subject = survey::Subject {
            uid,
            gid,
            name: None,
            own_runtime_dir: look::own_runtime_dir(uid),
            data_root: host.session.places.data_root.clone(),
            daemon_json: host.session.places.daemon_json.clone(),
            containerd_rootless: host.session.places.containerd_rootless.clone(),
            docker_config: environment.docker_config(),
            docker: find("docker"),
            rootlesskit: rootlesskit.and_then(|path| path.canonicalize().ok()),
        };
        let survey = survey::survey("/".as_ref(), &subject);
        let trials = trial::run(&settings, environment, &host, &survey);
        Ok(Self { settings, host, survey, trials })
    }

    /// What the checks see.
    pub fn evidence<'a>(&'a self, environment: &'a Environment) -> Evidence<'a> {
        Evidence {
            settings: &self.settings,
            environment,
            host: &self.host,
            survey: &self.survey,
            trials: &self.trials,
        }
    }
}

/// Checks, and prints what was found.
///
/// # Errors
/// Exit 4 if a check fails; whatever is wrong with the settings.
pub fn run(
    environment: &Environment,
    request: &Request,
    choice: &Choice<'_>,
    output: Output,
) -> Result<Exit, Error> {
    let examination = Examination::new(environment, request)?;
    let evidence = examination.evidence(environment);
    let mut findings: Vec<Named> = check::find_all(&evidence);
    findings.retain(|(name, _)| choice.takes(name));
    match output {
        Output::Report(Format::Text, colored) => {
            output::print(output::findings_text(&findings, colored))?;
        }
        Output::Report(Format::Json, _) => {
            output::print(output::findings_json(&findings, &evidence))?;
        }
        Output::Fix(whose) => {
            let (path, _) = places::search_path(environment);
            let elevate = elevate::here_document(elevate::has_sudo(&path));
            output::print(output::fix_script(&findings, whose, elevate))?;
        }
    }
    let failed = findings.iter().any(|(_, finding)| finding.status == Status::Fail);
    Ok(match failed {
        true => Exit::Prerequisite,
        false => Exit::Good,
    })
}

/// The checks that fail.
///
/// # Errors
/// Whatever is wrong with the settings.
pub fn failures(environment: &Environment, request: &Request) -> Result<Vec<Named>, Error> {
    let examination = Examination::new(environment, request)?;
    let mut findings = check::find_all(&examination.evidence(environment));
    findings.retain(|(_, finding)| finding.status == Status::Fail);
    Ok(findings)
}

/// `error`, with the checks that fail as its causes.
pub fn explained(error: Error, failures: &[Named]) -> Error {
    let error = failures.iter().fold(error, |error, (name, finding)| {
        let cause = format!("check `{name}`: {}", finding.summary);
        error.because(&io::Error::other(cause))
    });
    match failures {
        [] => error.hint("no check finds what explains it: the daemon's own last words may"),
        _ => error.hint("dockerd-rootless check --print-fix"),
    }
}

/// Prints the names of all checks.
///
/// # Errors
/// Fails only if standard output does.
pub fn list(format: Format) -> Result<Exit, Error> {
    match format {
        Format::Text => output::print(output::check_list_text()),
        Format::Json => output::print(output::check_list_json()),
    }?;
    Ok(Exit::Good)
}

/// Whether `word` begins the command line of a process that only tries something.
pub fn is_trial(word: &str) -> bool {
    [TRIAL, userns::NAMESPACE].contains(&word)
}

/// Is such a process.
///
/// # Errors
/// What could not be tried.
pub fn run_trial(word: &str, words: &[OsString], environment: &Environment) -> Result<(), Error> {
    match word {
        userns::NAMESPACE => userns::run(),
        _ => inside::run(words, environment),
    }
}
