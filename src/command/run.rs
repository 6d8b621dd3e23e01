//! `run`: plan, then become rootlesskit.

use std::ffi::OsString;

use tracing::level_filters::LevelFilter;
use tracing::{info, warn};

use super::layers;
use crate::environment::Environment;
use crate::error::Error;
use crate::host::HostFacts;
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

/// Launches the daemon.
///
/// # Errors
/// Returns only if the launch is refused or fails.
pub fn run(environment: &Environment, request: &Request) -> Result<(), Error> {
    let (plan, host) = prepare(environment, request, Thoroughness::Launch)?;
    for warning in &plan.warnings {
        warn!("{}", warning.0);
    }
    info!("{}", report::summary(&plan, &host));
    Err(launch::exec(&plan))
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
