//! `restart`: asks the supervisor to replace dockerd, or to start everything again.

use std::time::Duration;

use crate::cli::output;
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::look;
use crate::facts::places;
use crate::plan;
use crate::supervise;
use crate::supervise::Wish;

/// How long everything may take, including containers.
const ALL: Duration = Duration::from_secs(3600);

/// Replaces dockerd in place, and the supervisor if its program on disk changed. With `all`, stops
/// everything in order and starts it again. Prints what was done.
pub fn run(environment: &Environment, all: bool) -> Result<Exit, Error> {
    let person = look::person(environment);
    let run_dir = places::run_dir(plan::refuse_person(&person)?);
    let done = match all {
        true => vec![supervise::request(&run_dir, &Wish::RestartAll, ALL)?],
        false => supervise::refresh(&run_dir)?,
    };
    output::print(done.iter().map(|line| format!("{line}\n")).collect::<String>())?;
    Ok(Exit::Good)
}
