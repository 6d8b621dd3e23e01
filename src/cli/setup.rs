//! What `install`, `upgrade` and `uninstall` have in common: print the plan, or carry it out.

use tracing::{info, warn};

use crate::cli::output;
use crate::cli::output::Format;
use crate::cli::{config, fetch};
use crate::environment::Environment;
use crate::error::Error;
use crate::facts::SetupFacts;
use crate::setup::Installer;
use crate::setup::{Action, SetupPlan};

/// How it is done and told.
#[derive(Clone, Copy, clap::Args)]
pub struct Manner {
    /// Print what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// How to print
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
}

/// Carries out `plan`, calling `announce` before each action.
///
/// # Errors
/// That of the action that fails.
pub fn carry_out(
    environment: &Environment,
    facts: &SetupFacts,
    plan: &SetupPlan,
    announce: &dyn Fn(&Action),
) -> Result<(), Error> {
    let installer = installer(environment, facts);
    for action in &plan.actions {
        announce(action);
        installer.perform(action)?;
    }
    Ok(())
}

/// Waits until the service, which runs, answers.
///
/// # Errors
/// Why it does not.
pub fn await_answer(environment: &Environment, facts: &SetupFacts) -> Result<(), Error> {
    installer(environment, facts).await_answer()
}

fn installer<'a>(environment: &'a Environment, facts: &'a SetupFacts) -> Installer<'a> {
    Installer {
        environment,
        facts,
        set: Box::new(|key, value| config::set(environment, key, value)),
        remove_programs: Box::new(|| fetch::remove(environment, false).map(drop)),
    }
}

/// Says on standard error what is done.
pub fn say(action: &Action) {
    info!("{}", action.explain());
}

/// Prints `plan`, which was carried out unless it is only to be printed, with `result`: the sentence
/// for people when all is done.
///
/// # Errors
/// Fails only if standard output does.
pub fn report(plan: &SetupPlan, manner: Manner, result: &str) -> Result<(), Error> {
    match manner.format {
        Format::Json => output::print(output::setup_json(plan, manner.dry_run)),
        Format::Text => {
            for note in &plan.notes {
                warn!("{note}");
            }
            output::print(output::setup_text(plan, manner.dry_run, result))
        }
    }
}
