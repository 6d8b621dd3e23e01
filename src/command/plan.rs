//! `plan`: print what `run` would do.

use super::run::{Request, prepare};
use crate::environment::Environment;
use crate::error::Error;
use crate::os::probe::Thoroughness;
use crate::report::{self, Format};

/// Prints the plan.
///
/// # Errors
/// Whatever would stop `run`.
pub fn run(environment: &Environment, request: &Request, format: Format) -> Result<(), Error> {
    let (plan, host) = prepare(environment, request, Thoroughness::Report)?;
    report::print(match format {
        Format::Text => report::plan_text(&plan),
        Format::Json => report::plan_json(&plan, &host),
    })
}
