//! `check`: reads, tries, judges, prints.

use std::io::{self, Write};
use std::process::Command;
use std::time::Instant;

use clap::Args;
use nix::unistd;
use tracing::level_filters::LevelFilter;

use crate::check::survey::{Survey, survey};
use crate::check::trial;
use crate::check::trials::Trials;
use crate::check::{self, Evidence, Found, Id, Status};
use crate::cli::output::{self, CheckStyle, Format, Whose};
use crate::cli::request::Request;
use crate::cli::sources::layers;
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::HostFacts;
use crate::facts::look;
use crate::facts::places;
use crate::facts::probe::{self, ProbeDepth};
use crate::plan;
use crate::settings::Settings;
use crate::sys::{elevate, process, terminal};
use crate::words;

/// The options of `check`.
#[derive(Args)]
pub struct CheckOptions {
    /// How to print
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Print only the commands that fix what was found: root's, yours, or both
    #[arg(
        long,
        value_enum,
        value_name = "WHOSE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "both",
        conflicts_with = "format"
    )]
    print_fix: Option<Whose>,
    /// Report only these checks, separated by commas
    #[arg(long, value_name = "NAME", value_delimiter = ',', hide_possible_values = true)]
    only: Vec<Id>,
    /// Report all but these checks, separated by commas
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        hide_possible_values = true,
        conflicts_with = "only"
    )]
    skip: Vec<Id>,
    /// Treat failures of these checks as warnings that do not count
    #[arg(long, value_name = "NAME", value_delimiter = ',', hide_possible_values = true)]
    ignore: Vec<Id>,
    /// Fail for warnings, too
    #[arg(long)]
    strict: bool,
    /// Print only problems and the summary, one line each
    #[arg(long, conflicts_with = "print_fix")]
    short: bool,
    /// Print how long asking, reading and trying took
    #[arg(long)]
    timings: bool,
    /// List the names of all checks and what they are about
    #[arg(long, conflicts_with_all = ["print_fix", "only", "skip", "ignore"])]
    list: bool,
}

/// Everything that the checks judge, owned.
pub struct Examination {
    settings: Settings,
    host: HostFacts,
    survey: Survey,
    trials: Trials,
    /// How long it took to ask, to read and to try, in words.
    timings: String,
}

impl Examination {
    /// Reads and tries everything for a launch of `request`. Refuses root.
    pub fn new(environment: &Environment, request: &Request) -> Result<Self, Error> {
        let start = Instant::now();
        let person = look::person(environment);
        plan::refuse_root(&person)?;
        let uid = person.uid;
        let settings = Settings::resolve(&layers(environment, &request.assignments)?)?;
        let settings = settings.with_args(&request.words);
        let host = probe::host(&settings, environment, person, ProbeDepth::Traceless)?;
        let programs = Instant::now();
        let (path, _) = places::search_path(environment);
        let gid = unistd::getegid().as_raw();
        let mut survey = survey("/".as_ref(), &host, environment, gid, account_name(uid));
        survey.own_runtime_dir = look::own_runtime_dir(uid);
        survey.docker_client.program = which::which_in("docker", Some(path), "/").ok();
        let files = Instant::now();
        let trials = trial::run(&settings, environment, &host, &survey);
        let timings = format!(
            "asking programs {:.3} s, reading files {:.3} s, trying {:.3} s",
            (programs - start).as_secs_f64(),
            (files - programs).as_secs_f64(),
            files.elapsed().as_secs_f64(),
        );
        Ok(Self { settings, host, survey, trials, timings })
    }

    /// Returns what the checks see.
    pub fn evidence<'a>(&'a self, environment: &'a Environment) -> Evidence<'a> {
        let Self { settings, host, survey, trials, .. } = self;
        Evidence { settings, environment, host, survey, trials }
    }
}

/// Returns the name of user `uid`, which a directory service may know.
fn account_name(uid: u32) -> Option<String> {
    let asked = process::brief(Command::new("getent").args(["passwd", &uid.to_string()]));
    let (status, text) = asked.ok()?;
    let name = text.split(':').next().filter(|_| status.success());
    name.map(str::to_owned)
}

/// Checks, and prints what was found. Ends with 4 if a check fails.
pub fn run(
    environment: &Environment,
    options: &CheckOptions,
    request: &Request,
    colored: bool,
) -> Result<Exit, Error> {
    let CheckOptions { only, skip, ignore, .. } = options;
    if options.list {
        let (object, text) = (output::check_list_json(), output::check_list_text());
        return output::tell(options.format, object, text).map(|()| Exit::Good);
    }
    let examination = Examination::new(environment, request)?;
    let evidence = examination.evidence(environment);
    let mut found = check::run(&evidence);
    found.retain(|found| !skip.contains(&found.id));
    found.retain(|found| only.is_empty() || only.contains(&found.id));
    for found in found.iter_mut().filter(|found| ignore.contains(&found.id)) {
        found.status = found.status.min(Status::Warn);
    }
    let style = CheckStyle {
        colored,
        width: terminal::width(),
        short: options.short,
        verbose: request.level.is_some_and(|level| level >= LevelFilter::DEBUG),
        whole: only.is_empty() && skip.is_empty(),
        print_fix: command(request, " --print-fix"),
    };
    let (path, _) = places::search_path(environment);
    let elevate = elevate::here_document(elevate::has_sudo(&path));
    if let Some(whose) = options.print_fix {
        output::print(output::fix_script(&found, whose, elevate))?;
    } else {
        let object = output::findings_json(&found, &evidence);
        output::tell(options.format, object, output::findings_text(&found, &style))?;
    }
    if options.timings {
        let _ = writeln!(io::stderr(), "time: {}", examination.timings);
    }
    let least = if options.strict { Status::Warn } else { Status::Fail };
    let counts = |found: &Found| found.status >= least && !ignore.contains(&found.id);
    Ok(if found.iter().any(counts) { Exit::Prerequisite } else { Exit::Good })
}

/// Returns the command that checks what `request` asks for.
pub fn command(request: &Request, options: &str) -> String {
    let set =
        request.assignments.iter().map(|own| format!(" --set {}", words::quote(own).display()));
    let args = match request.words.is_empty() {
        true => String::new(),
        false => format!(" -- {}", words::join(&request.words).display()),
    };
    format!("dockerd-rootless check{options}{}{args}", set.collect::<String>())
}

/// Returns the checks that fail.
pub fn failures(environment: &Environment, request: &Request) -> Result<Vec<Found>, Error> {
    let examination = Examination::new(environment, request)?;
    let mut found = check::run(&examination.evidence(environment));
    found.retain(|found| found.status == Status::Fail);
    Ok(found)
}

/// Adds the checks that fail to `error` as its causes, and the command that fixes them.
pub fn explained(error: Error, failures: &[Found], request: &Request) -> Error {
    let error = failures.iter().fold(error, |error, Found { id, summary, .. }| {
        error.because(&io::Error::other(format!("check `{id}`: {summary}")))
    });
    match failures {
        [] => error.hint("no check explains this; see the daemon's last messages above"),
        _ => error.hint(command(request, " --print-fix")),
    }
}
