//! `upgrade`: updates the installed units to what this program would write.

use std::ffi::OsStr;

use crate::cli::setup::{SetupOutput, carry_out, report};
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::setup::{Home, SetupPlan, inspect};

#[derive(Clone, Copy, clap::Args)]
pub struct UpgradeOptions {
    /// Restart the daemon even if containers run; they stop
    #[arg(long)]
    pub restart: bool,
    #[command(flatten)]
    pub output: SetupOutput,
}

/// Upgrades; `called` is the word that this program was called by.
pub fn run(
    environment: &Environment,
    called: &OsStr,
    options: &UpgradeOptions,
) -> Result<Exit, Error> {
    let facts = inspect(Home::find(environment, called)?);
    let plan = SetupPlan::upgrade(&facts, options.restart)?;
    carry_out(&facts, &plan, options.output)?;
    let result = match (plan.keeps_edited, plan.actions.is_empty()) {
        (true, _) => "Your own version of a unit is kept; everything else is up to date.",
        (false, true) => "Already up to date.",
        (false, false) => "The units are up to date.",
    };
    report(&plan, options.output, result)?;
    Ok(Exit::Good)
}
