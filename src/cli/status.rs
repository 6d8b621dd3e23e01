//! `status`: what the supervisor knows.

use std::time::Duration;

use crate::cli::output;
use crate::cli::output::Format;
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::look;
use crate::facts::places;
use crate::plan;
use crate::supervise;

#[derive(clap::Args)]
pub struct StatusOptions {
    /// Output format
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Wait until the daemon is ready, at most so many seconds (60)
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "60"
    )]
    wait: Option<u32>,
}

/// Prints what the supervisor knows; with `--wait`, when it is ready or the time is over. Returns
/// exit code 3 if it does not run, or is not ready in that time.
pub fn run(environment: &Environment, options: &StatusOptions) -> Result<Exit, Error> {
    let person = look::person(environment);
    let run_dir = places::run_dir(plan::refuse_person(&person)?);
    let status = match options.wait {
        None => supervise::read_status(&run_dir),
        Some(seconds) => supervise::wait_until_ready(&run_dir, Duration::from_secs(seconds.into())),
    };
    let needs_restart =
        status.as_ref().is_some_and(|status| !supervise::newer_programs(status).is_empty());
    output::print(match options.format {
        Format::Text => output::status_text(status.as_ref(), needs_restart),
        Format::Json => output::status_json(status.as_ref(), needs_restart),
    })?;
    Ok(match status {
        Some(status) if status.is_ready() => Exit::Good,
        _ => Exit::NotRunning,
    })
}
