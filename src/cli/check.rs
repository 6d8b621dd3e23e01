//! `check`: reads, tries, judges, prints.

use std::io::{self, Write};
use std::time::Instant;

use clap::Args;
use nix::unistd;
use tracing::level_filters::LevelFilter;

use crate::check::survey::{self, Survey};
use crate::check::trial;
use crate::check::trials::Trials;
use crate::check::{self, CHECKS, Evidence, Found, Id, Status};
use crate::cli::output::{self, CheckStyle, Format, Whose};
use crate::cli::run::Request;
use crate::cli::sources::layers;
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::HostFacts;
use crate::facts::look;
use crate::facts::places;
use crate::facts::probe::{self, ProbeDepth};
use crate::plan;
use crate::settings::Settings;
use crate::sys::{elevate, terminal};
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
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Report all but these checks, separated by commas
    #[arg(long, value_name = "NAME", value_delimiter = ',', conflicts_with = "only")]
    skip: Vec<String>,
    /// Treat failures of these checks as warnings that do not count
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    ignore: Vec<String>,
    /// Fail for warnings, too
    #[arg(long)]
    strict: bool,
    /// Print only problems and the summary, one line each
    #[arg(long, conflicts_with = "print_fix")]
    short: bool,
    /// Print how long reading, trying and judging took
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
    /// How long it took to read and to try, in words.
    timings: Vec<String>,
}

impl Examination {
    /// Reads and tries everything for a launch of `request`. Refuses root.
    pub fn new(environment: &Environment, request: &Request) -> Result<Self, Error> {
        let start = Instant::now();
        let person = look::person(environment);
        plan::refuse_root(&person)?;
        let settings = Settings::resolve(&layers(environment, &request.assignments)?)?;
        let (uid, gid) = (person.uid, unistd::getegid().as_raw());
        let settings = settings.with_args(&request.words);
        let host = probe::host(&settings, environment, person, ProbeDepth::Traceless)?;
        let programs = Instant::now();
        let (path, _) = places::search_path(environment);
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
            docker: which::which_in("docker", Some(path), "/").ok(),
            rootlesskit: rootlesskit.and_then(|path| path.canonicalize().ok()),
        };
        let survey = survey::survey("/".as_ref(), &subject);
        let files = Instant::now();
        let trials = trial::run(&settings, environment, &host, &survey);
        let timings = vec![
            format!("asking programs {:.3} s", (programs - start).as_secs_f64()),
            format!("reading files {:.3} s", (files - programs).as_secs_f64()),
            format!("trying {:.3} s", files.elapsed().as_secs_f64()),
        ];
        Ok(Self { settings, host, survey, trials, timings })
    }

    /// Returns what the checks see.
    pub fn evidence<'a>(&'a self, environment: &'a Environment) -> Evidence<'a> {
        let Self { settings, host, survey, trials, .. } = self;
        Evidence { settings, environment, host, survey, trials }
    }
}

/// Checks, and prints what was found. Ends with 4 if a check fails.
pub fn run(
    environment: &Environment,
    options: &CheckOptions,
    request: &Request,
    colored: bool,
) -> Result<Exit, Error> {
    let [only, skip, ignore] =
        [&options.only, &options.skip, &options.ignore].map(|names| find(names));
    let (only, skip, ignore) = (only?, skip?, ignore?);
    if options.list {
        output::print(match options.format {
            Format::Text => output::check_list_text().into_bytes(),
            Format::Json => output::check_list_json(),
        })?;
        return Ok(Exit::Good);
    }
    let examination = Examination::new(environment, request)?;
    let evidence = examination.evidence(environment);
    let start = Instant::now();
    let mut found = check::run(&evidence);
    let mut timings = examination.timings.clone();
    timings.push(format!("judging {:.3} s", start.elapsed().as_secs_f64()));
    found.retain(|found| match options.only.is_empty() {
        true => !skip.contains(&found.id),
        false => only.contains(&found.id),
    });
    for found in found.iter_mut().filter(|found| ignore.contains(&found.id)) {
        found.ignored = true;
        found.status = found.status.min(Status::Warn);
    }
    let style = CheckStyle {
        colored,
        width: terminal::width(),
        short: options.short,
        verbose: request.level.is_some_and(|level| level >= LevelFilter::DEBUG),
        whole: options.only.is_empty() && options.skip.is_empty(),
        print_fix: command(request, " --print-fix"),
    };
    let (path, _) = places::search_path(environment);
    let elevate = elevate::here_document(elevate::has_sudo(&path));
    output::print(match (options.print_fix, options.format) {
        (Some(whose), _) => output::fix_script(&found, whose, elevate).into_bytes(),
        (None, Format::Text) => output::findings_text(&found, &style).into_bytes(),
        (None, Format::Json) => output::findings_json(&found, &evidence),
    })?;
    if options.timings {
        let _ = writeln!(io::stderr(), "time: {}", timings.join(", "));
    }
    let least = if options.strict { Status::Warn } else { Status::Fail };
    let counts = |found: &Found| found.status >= least && !found.ignored;
    Ok(if found.iter().any(counts) { Exit::Prerequisite } else { Exit::Good })
}

/// Finds the checks of these names.
fn find(names: &[String]) -> Result<Vec<Id>, Error> {
    let ids = || CHECKS.iter().map(|check| check.id);
    let find = |name: &String| {
        ids().find(|id| id.to_string() == *name).ok_or_else(|| {
            let near = ids().map(|id| (strsim::levenshtein(&id.to_string(), name), id));
            let hint = match near.min_by_key(|(distance, _)| *distance) {
                Some((..=2, id)) => format!("did you mean `{id}`?"),
                _ => "`dockerd-rootless check --list` lists the checks".to_owned(),
            };
            Error::new(Exit::Usage, format!("no check is called `{name}`")).hint(hint)
        })
    };
    names.iter().map(find).collect()
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
