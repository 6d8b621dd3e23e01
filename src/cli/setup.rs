//! What `install`, `upgrade` and `uninstall` have in common: carry out a plan, and report it.

use std::io::{self, IsTerminal, Write};

use serde_json::json;

use crate::cli::fetch;
use crate::cli::output::{Format, print, print_json};
use crate::error::Error;
use crate::setup::{self, Action, SetupFacts, SetupPlan};

#[derive(Clone, Copy, clap::Args)]
pub struct SetupOutput {
    /// Print what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// How to print
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
}

/// Carries out `plan` unless it is a dry run, and prints a line for each action.
pub fn carry_out(facts: &SetupFacts, plan: &SetupPlan, output: SetupOutput) -> Result<(), Error> {
    let mark = if io::stdout().is_terminal() { "✓ " } else { "" };
    let home = format!(" {}/", facts.home.dir.display());
    for action in &plan.actions {
        let mut line = format!("would {}", action.imperative());
        if !output.dry_run {
            perform(facts, action)?;
            line = format!("{mark}{}", action.past());
        }
        if output.format == Format::Text {
            print(line.replace(&home, " ~/") + "\n")?;
        }
    }
    Ok(())
}

fn perform(facts: &SetupFacts, action: &Action) -> Result<(), Error> {
    match action {
        Action::RemovePrograms => fetch::remove(&facts.home.environment, false).map(drop),
        other => setup::perform(facts, other),
    }
}

/// Prints the notes of `plan` and `result`, the sentence for people when all is done; for programs,
/// all of it as one object.
pub fn report(plan: &SetupPlan, output: SetupOutput, result: &str) -> Result<(), Error> {
    let is_unchanged = plan.actions.is_empty();
    if output.format == Format::Json {
        return print_json(json!({
            "changed": !is_unchanged,
            "dry_run": output.dry_run,
            "actions": plan.actions.iter().map(Action::json).collect::<Vec<_>>(),
            "notes": plan.notes,
        }));
    }
    for note in &plan.notes {
        // If standard error is closed, standard output and the exit code still tell.
        let _ = writeln!(io::stderr(), "! {note}");
    }
    match (output.dry_run, is_unchanged) {
        (true, true) => print("Nothing to do.\n"),
        (true, false) => Ok(()),
        (false, true) => print(format!("{result}\n")),
        (false, false) => print(format!("\n{result}\n")),
    }
}
