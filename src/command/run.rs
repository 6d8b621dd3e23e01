//! `run`: plan, then become rootlesskit, or stay with it.

use std::ffi::OsString;

use tracing::level_filters::LevelFilter;
use tracing::{info, warn};

use super::layers;
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::host::HostFacts;
use crate::os::attend::attend;
use crate::os::probe::{self, Thoroughness};
use crate::os::{launch, session};
use crate::plan::{self, LaunchPlan};
use crate::report;
use crate::settings::Settings;

/// What a launch is asked for on the command line.
#[derive(Debug, Default)]
pub struct Request {
    /// The `KEY=VALUE` words of `--set`.
    pub assignments: Vec<OsString>,
    /// The daemon's words.
    pub words: Vec<OsString>,
    /// The level that the user chose for messages, the namespace stage's included.
    pub level: Option<LevelFilter>,
}

/// Becomes the daemon's launcher: nothing of ours stays.
///
/// # Errors
/// Returns only if the launch is refused or fails.
pub fn exec(environment: &Environment, request: &Request) -> Result<Exit, Error> {
    Err(launch::exec(&announced(environment, request)?))
}

/// Launches the daemon and stays with it. One that fails is explained by the checks.
///
/// # Errors
/// The launch is refused, or the daemon failed.
pub fn run(environment: &Environment, request: &Request) -> Result<Exit, Error> {
    let ended = attend(&announced(environment, request)?)?;
    if ended.exit.code() == 0 || ended.asked_for {
        return Ok(ended.exit);
    }
    Err(super::check::explain(environment, request, ended.exit))
}

/// The plan, with what is odd about it and what is decided said.
fn announced(environment: &Environment, request: &Request) -> Result<LaunchPlan, Error> {
    let (plan, host) = prepare(environment, request, Thoroughness::Launch)?;
    for warning in &plan.warnings {
        warn!("{}", warning.0);
    }
    info!("{}", report::summary(&plan, &host));
    Ok(plan)
}

/// Settings, then facts, then the plan. Nothing is changed by that, and nothing is asked or
/// written for somebody who will be refused.
///
/// # Errors
/// Every refusal of [`LaunchPlan::build`], and whatever is wrong with the settings.
pub fn prepare(
    environment: &Environment,
    request: &Request,
    thoroughness: Thoroughness,
) -> Result<(LaunchPlan, HostFacts), Error> {
    let person = session::person(environment);
    plan::refuse_person(&person)?;
    let settings = Settings::resolve(&layers(environment, &request.assignments)?)?;
    let host = probe::host(&settings, environment, &request.words, person, thoroughness)?;
    let mut plan = LaunchPlan::build(&settings, &host, environment, &request.words)?;
    if let Some(level) = request.level {
        let why = "so that the namespace stage says as much".to_owned();
        plan.environment
            .set
            .insert("RUST_LOG", (level.to_string().into(), why));
    }
    Ok((plan, host))
}
