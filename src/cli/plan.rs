//! `plan`: print what `run` would do.

use crate::cli::output;
use crate::cli::output::Format;
use crate::cli::run::{Request, prepare};
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::probe::ProbeDepth;

/// Prints the plan.
///
/// # Errors
/// Whatever would stop `run`.
pub fn run(environment: &Environment, request: &Request, format: Format) -> Result<Exit, Error> {
    let (plan, host) = prepare(environment, request, ProbeDepth::Report)?;
    output::print(match format {
        Format::Text => output::plan_text(&plan),
        Format::Json => output::plan_json(&plan, &host),
    })?;
    Ok(Exit::Good)
}
