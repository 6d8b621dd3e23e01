//! `status`: what the supervisor knows.

use std::time::Duration;

use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::os::{session, supervisor};
use crate::plan;
use crate::report::{self, Format};

/// Prints what the supervisor knows; with `wait`, when it is ready or the time is over.
///
/// # Errors
/// Exit 3 if it does not run, or is not ready in that time.
pub fn run(
    environment: &Environment,
    wait: Option<Duration>,
    format: Format,
) -> Result<Exit, Error> {
    let person = session::person(environment);
    let run_dir = plan::run_dir(plan::refuse_person(&person)?);
    let status = match wait {
        None => supervisor::read_status(&run_dir),
        Some(time) => supervisor::wait_until_ready(&run_dir, time),
    };
    let needs_restart =
        status.as_ref().is_some_and(|status| !supervisor::newer_programs(status).is_empty());
    report::print(match format {
        Format::Text => report::status_text(status.as_ref(), needs_restart),
        Format::Json => report::status_json(status.as_ref(), needs_restart),
    })?;
    Ok(match status {
        Some(status) if status.is_ready() => Exit::Good,
        _ => Exit::NotRunning,
    })
}
