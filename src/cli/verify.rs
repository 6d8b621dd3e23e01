//! `verify`: proves the daemon that runs.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::cli::output::{Format, print};
use crate::cli::sources::layers;
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::look;
use crate::facts::places;
use crate::plan;
use crate::settings::{Choice, PortDriver, Settings};
use crate::supervise;
use crate::verify;
use crate::verify::{CHECKS, Check, Lie, Row, Status};

/// The words of the command line that are a container's.
pub const PROBE: &str = "verify-probe";

#[derive(clap::Args)]
pub struct VerifyOptions {
    /// Output format
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Answer only these questions
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,
    /// Leave these questions out
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    skip: Vec<String>,
    /// How many forms of image to try
    #[arg(long, value_enum, value_name = "WHICH", default_value = "core")]
    images: Images,
    /// Serve images that are wrong in this way, to see that it is noticed
    #[arg(long, hide = true, value_name = "HOW", value_parser = Lie::parse)]
    lie: Option<Lie>,
    /// List the questions
    #[arg(long)]
    list: bool,
}

/// Which forms of image are tried.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Images {
    Core,
    All,
}

/// Answers the questions.
pub fn run(environment: &Environment, options: &VerifyOptions) -> Result<Exit, Error> {
    let names = selected(options)?;
    if options.list {
        let width = names.iter().map(|name| name.len()).max().unwrap_or_default();
        let chosen = CHECKS.iter().filter(|check| names.contains(&check.name));
        let line = |check: &Check| format!("{:width$}  {}\n", check.name, check.question);
        return print(chosen.map(line).collect::<String>()).map(|()| Exit::Good);
    }
    let person = look::person(environment);
    let runtime_dir = plan::refuse_person(&person)?;
    let settings = Settings::resolve(&layers(environment, &[])?)?;
    let request = verify::Request {
        socket: socket(environment).unwrap_or_else(|| places::api_socket(runtime_dir)),
        scratch: environment.absolute("HOME").unwrap_or_default(),
        host_loopback: settings.host_loopback.value,
        ipv6_ports: !is_slirp4netns(runtime_dir, &settings),
        state_dir: state_dir(environment, &settings, runtime_dir),
        lie: options.lie,
        names,
    };
    let mut rows = Vec::new();
    let mut daemon = None;
    let is_text = options.format == Format::Text;
    let width = request.names.iter().map(|name| name.len()).max().unwrap_or_default();
    let exit = verify::run(
        &request,
        |found| {
            if is_text {
                let _ = print(format!(
                    "dockerd {} ({}, {} image store)\n",
                    found.version, found.storage_driver, found.image_store
                ));
            }
            daemon = Some(json!({
                "version": found.version,
                "storage_driver": found.storage_driver,
                "image_store": found.image_store,
            }));
        },
        |row| {
            if is_text {
                let _ = print(text(&row, width));
            }
            rows.push(row);
        },
    )?;
    let count = |status| rows.iter().filter(|row| row.status == status).count();
    let counts = [Status::Pass, Status::Fail, Status::Skip, Status::Info].map(count);
    match options.format {
        Format::Json => print(json!({"daemon": daemon, "checks": rows}).to_string())?,
        Format::Text => {
            let [pass, fail, skip, info] = counts;
            print(format!(
                "{pass} passed, {fail} failed, {skip} skipped, {info} for information\n"
            ))?;
        }
    }
    Ok(exit)
}

fn text(row: &Row, width: usize) -> String {
    let word = match row.status {
        Status::Pass => "pass",
        Status::Info => "info",
        Status::Skip => "skip",
        Status::Fail => "FAIL",
    };
    let mut text = format!("{word}  {:width$}  {}\n", row.name, row.answer);
    let more = [("expected", &row.expected), ("dockerd says", &row.said), ("next", &row.next)];
    for (label, value) in more.iter().filter(|_| row.status == Status::Fail) {
        if let Some(value) = value {
            text += &format!("      {label}: {value}\n");
        }
    }
    text
}

/// Returns the questions that are asked for.
fn selected(options: &VerifyOptions) -> Result<Vec<&'static str>, Error> {
    let known: BTreeSet<&str> = CHECKS.iter().map(|check| check.name).collect();
    if let Some(unknown) =
        options.only.iter().chain(&options.skip).find(|name| !known.contains(name.as_str()))
    {
        let what = format!("no question is called `{unknown}`");
        return Err(Error::new(Exit::Usage, what).hint("dockerd-rootless verify --list"));
    }
    let is_extra = |check: &&Check| options.images == Images::All || !check.is_extra();
    let is_offered = |check: &&Check| !options.only.is_empty() || is_extra(check);
    let is_selected = |name: &&str| {
        (options.only.is_empty() || options.only.iter().any(|only| only == name))
            && !options.skip.iter().any(|skip| skip == name)
    };
    Ok(CHECKS.iter().filter(is_offered).map(|check| check.name).filter(is_selected).collect())
}

/// Returns the socket that DOCKER_HOST names.
fn socket(environment: &Environment) -> Option<PathBuf> {
    let host = environment.get("DOCKER_HOST")?.to_str()?;
    host.strip_prefix("unix://").map(PathBuf::from)
}

/// Says whether slirp4netns publishes ports: for the supervisor's daemon, else by the settings.
fn is_slirp4netns(runtime_dir: &Path, settings: &Settings) -> bool {
    let by_settings = settings.port_driver.value == Choice::Fixed(PortDriver::Slirp4netns);
    let status = supervise::read_status(&places::run_dir(runtime_dir));
    status.map_or(by_settings, |status| status.port_driver == "slirp4netns")
}

/// Returns the state directory of our own daemon, unless DOCKER_HOST names another one.
fn state_dir(
    environment: &Environment,
    settings: &Settings,
    runtime_dir: &Path,
) -> Result<PathBuf, String> {
    match environment.get("DOCKER_HOST") {
        Some(host) if host != places::unix_url(&places::api_socket(runtime_dir)) => {
            Err(format!("it is not your own daemon: DOCKER_HOST is `{}`", host.display()))
        }
        _ => Ok(places::state_dir(settings, None, runtime_dir)),
    }
}

/// Does what a container of `verify` is asked for.
pub fn probe(words: &[OsString]) -> Result<Exit, Error> {
    let words: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    verify::probe::run(&words)
}
