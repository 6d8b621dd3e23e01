//! `upgrade`: updates the installed units to what this program would write.

use std::ffi::OsStr;

use crate::cli::install::of_service;
use crate::cli::setup::{SetupOutput, carry_out};
use crate::cli::verify;
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::setup::{Home, SetupPlan, inspect};

#[derive(Clone, Copy, clap::Args)]
pub struct UpgradeOptions {
    /// Restart the daemon even if containers run; they stop
    #[arg(long)]
    pub restart: bool,
    /// Then verify the daemon, if it runs
    #[arg(long, conflicts_with_all = ["dry_run", "format"])]
    pub verify: bool,
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
    let done = carry_out(&facts, &plan, options.output, "The service is that of this version.")?;
    match options.verify {
        true => {
            let runs = facts.service.active || facts.socket.active;
            verify::afterwards(&of_service(&facts.home.environment), runs)
        }
        false => Ok(done),
    }
}
