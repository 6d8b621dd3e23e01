//! `restart`: asks the supervisor to replace dockerd, or to start everything again.

use crate::cli::output;
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::{look, places};
use crate::plan;
use crate::supervise;

/// Replaces dockerd in place, and the supervisor if its program on disk changed. With `all`, stops
/// everything in order and starts it again. Prints what was done.
pub fn run(environment: &Environment, all: bool) -> Result<Exit, Error> {
    let person = look::person(environment);
    let run_dir = places::run_dir(plan::refuse_person(&person)?);
    let done = match all {
        true => vec![supervise::restart_all(&run_dir)?],
        false => supervise::refresh(&run_dir)?,
    };
    output::print(done.join("\n") + "\n")?;
    Ok(Exit::Good)
}
