//! `upgrade`: updates the installed units to what this program would write.

use std::ffi::OsStr;

use crate::cli::setup::{SetupOutput, carry_out};
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
    carry_out(&facts, &plan, options.output, "The service is that of this version.")
}
