//! What `install`, `upgrade` and `uninstall` have in common: carry out a plan, and report it.

use std::io::{self, IsTerminal, Write};

use serde_json::json;

use crate::cli::output::{Format, print, tell};
use crate::error::{Error, Exit};
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

/// Carries out `plan` unless it is a dry run, and prints a line for each action, the notes, and
/// `done`, the sentence for people; for programs, all of it as one object.
pub fn carry_out(
    facts: &SetupFacts,
    plan: &SetupPlan,
    output: SetupOutput,
    done: &str,
) -> Result<Exit, Error> {
    let (is_text, is_dry) = (output.format == Format::Text, output.dry_run);
    let mark = if io::stdout().is_terminal() { "✓ " } else { "" };
    let home = format!(" {}/", facts.home.dir.display());
    for action in &plan.actions {
        if !is_dry {
            setup::perform(facts, action)?;
        }
        if is_text {
            let would = || format!("would {}", action.imperative());
            let line = if is_dry { would() } else { format!("{mark}{}", action.past()) };
            print(line.replace(&home, " ~/") + "\n")?;
        }
    }
    if is_text {
        // If standard error is closed, standard output and the exit code still tell.
        plan.notes.iter().for_each(|note| drop(writeln!(io::stderr(), "! {note}")));
    }
    let json = json!({
        "changed": !plan.actions.is_empty(),
        "dry_run": is_dry,
        "actions": plan.actions.iter().map(Action::json).collect::<Vec<_>>(),
        "notes": plan.notes,
    });
    let text = match (is_dry, plan.actions.is_empty()) {
        (true, true) => "Nothing to do.\n".to_owned(),
        (true, false) => String::new(),
        (false, true) => format!("Already up to date. {done}\n"),
        (false, false) => format!("\n{done}\n"),
    };
    tell(output.format, json, text).map(|()| Exit::Good)
}
