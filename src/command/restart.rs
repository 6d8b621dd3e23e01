//! `restart`: has the supervisor replace dockerd, or start everything again.

use std::path::Path;
use std::time::Duration;

use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::os::session;
use crate::os::supervisor::{self, Wish};
use crate::plan;
use crate::report;
use crate::supervise::Status;

/// How long a new version may take to look after the daemon.
const TAKES_OVER: Duration = Duration::from_secs(20);

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
    let own = std::env::current_exe().ok();
    let before = supervisor::read_status(&run_dir);
    let newer = before.map_or_else(Vec::new, |status| supervisor::newer_programs(&status));
    if !all && let Some(own) = own.filter(|own| newer.contains(own)) {
        take_over(&run_dir, &own)?;
        report::print("this version of dockerd-rootless has taken over\n")?;
    }
    let done = supervisor::request(&run_dir, &wish, time)?;
    report::print(format!("{done}\n"))?;
    Ok(Exit::Good)
}

/// Has the program `own` take the place of the supervisor that runs.
///
/// # Errors
/// Exit 1 if it is refused; the old one goes on then.
pub fn take_over(run_dir: &Path, own: &Path) -> Result<(), Error> {
    let wish = Wish::TakeOver(own.to_owned());
    supervisor::request(run_dir, &wish, IN_PLACE)?;
    let is_new = |status: &Status| !supervisor::newer_programs(status).contains(&own.to_owned());
    match supervisor::wait_for_status(run_dir, TAKES_OVER, is_new) {
        true => Ok(()),
        false => Err(Error::new(
            Exit::Failed,
            format!("`{}` has not taken over", own.display()),
        )
        .hint("dockerd-rootless status")),
    }
}
