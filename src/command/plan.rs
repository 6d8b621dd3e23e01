//! `plan`: print what `run` would do.

use std::ffi::OsString;

use super::run::prepare;
use crate::environment::Environment;
use crate::error::Error;
use crate::os::probe::Thoroughness;
use crate::report::{self, Format};

/// Prints the plan for the daemon's `words`.
///
/// # Errors
/// Whatever would stop `run`.
pub fn run(
    environment: &Environment,
    assignments: &[OsString],
    words: &[OsString],
    format: Format,
) -> Result<(), Error> {
    let (plan, host) = prepare(environment, assignments, words, Thoroughness::Report)?;
    report::print(&match format {
        Format::Text => report::plan_text(&plan),
        Format::Json => report::plan_json(&plan, &host),
    })
}
