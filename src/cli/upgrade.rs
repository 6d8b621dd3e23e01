//! `upgrade`: the installed units brought to what this program would write.

use std::ffi::OsStr;

use crate::cli::setup::{Manner, carry_out, report, say};
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::setup::{SetupPlan, UpgradeRequest};
use crate::setup::{at_home, look};

/// What `upgrade` is asked for on the command line.
#[derive(Clone, Copy, clap::Args)]
pub struct UpgradeOptions {
    /// Restart the daemon although containers run, which end with it
    #[arg(long)]
    pub restart: bool,
    /// How it is done and told.
    #[command(flatten)]
    pub manner: Manner,
}

/// Upgrades; `called` is the word that this program was called by.
///
/// # Errors
/// Exit 1 if nothing is installed, exit 4 if no user manager answers; that of the action that fails.
pub fn run(
    environment: &Environment,
    called: &OsStr,
    options: &UpgradeOptions,
) -> Result<Exit, Error> {
    let environment = &at_home(environment);
    let facts = look(environment, called)?;
    let request = UpgradeRequest { restart: options.restart };
    let plan = SetupPlan::upgrade(&facts, request)?;
    if !options.manner.dry_run {
        carry_out(environment, &facts, &plan, &say)?;
    }
    report(&plan, options.manner, "the units are up to date")?;
    Ok(Exit::Good)
}
