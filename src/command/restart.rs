//! `restart`: has the supervisor replace dockerd, or start everything again.

use std::time::Duration;

use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::os::supervisor::{self, Wish};
use crate::os::session;
use crate::plan;
use crate::report;

/// How long dockerd may take to be replaced, and how long everything may take, containers included.
const IN_PLACE: Duration = Duration::from_secs(300);
const ALL: Duration = Duration::from_secs(3600);

/// Replaces dockerd in place, or with `all` stops everything in order and starts it again. Prints what
/// was done.
///
/// # Errors
/// Exit 3 if no supervisor runs; exit 1 if it refuses, with the reason.
pub fn run(environment: &Environment, all: bool) -> Result<Exit, Error> {
    let person = session::person(environment);
    let run_dir = plan::run_dir(plan::refuse_person(&person)?);
    let (wish, time) = match all {
        true => (Wish::RestartAll, ALL),
        false => (Wish::Restart, IN_PLACE),
    };
    let done = supervisor::request(&run_dir, &wish, time)?;
    report::print(format!("{done}\n"))?;
    Ok(Exit::Good)
}
