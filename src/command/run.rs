//! `run`: plan, then become rootlesskit.

use std::ffi::OsString;

use tracing::level_filters::LevelFilter;
use tracing::{info, warn};

use super::layers;
use crate::environment::Environment;
use crate::error::Error;
use crate::os::launch;
use crate::os::probe::{self, Thoroughness};
use crate::plan::LaunchPlan;
use crate::report;
use crate::settings::Settings;

/// Launches the daemon with `words`. `level` is the one that the namespace stage is to log at.
///
/// # Errors
/// Returns only if the launch is refused or fails.
pub fn run(
    environment: &Environment,
    assignments: &[OsString],
    words: &[OsString],
    level: Option<LevelFilter>,
) -> Result<(), Error> {
    let (mut plan, host) = prepare(environment, assignments, words, Thoroughness::Launch)?;
    if let Some(level) = level {
        plan.environment.set.insert(
            "RUST_LOG",
            (level.to_string().into(), "the command line".to_owned()),
        );
    }
    for warning in &plan.warnings {
        warn!("{}", warning.0);
    }
    info!("{}", report::summary(&plan, &host));
    Err(launch::exec(&plan))
}

/// Settings, then facts, then the plan. Nothing is changed by that.
///
/// # Errors
/// Every refusal of [`LaunchPlan::build`], and whatever is wrong with the settings.
pub fn prepare(
    environment: &Environment,
    assignments: &[OsString],
    words: &[OsString],
    thoroughness: Thoroughness,
) -> Result<(LaunchPlan, crate::host::HostFacts), Error> {
    let settings = Settings::resolve(&layers(environment, assignments)?)?;
    let host = probe::host(&settings, environment, words, thoroughness)?;
    let plan = LaunchPlan::build(&settings, &host, environment, words)?;
    Ok((plan, host))
}
