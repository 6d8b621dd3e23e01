//! What `install`, `upgrade` and `uninstall` have in common: carry out a plan, and report it.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::cli::fetch;
use crate::cli::output::{Format, SCHEMA, json_line};
use crate::error::Error;
use crate::setup;
use crate::setup::{Action, SetupFacts, SetupPlan};
use crate::sys::stdout::print;

/// What takes at least this long is reported with its time.
const NOTICEABLE: Duration = Duration::from_millis(100);

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
        let begin = Instant::now();
        let mut line = if output.dry_run {
            format!("would {}", action.imperative())
        } else {
            perform(facts, action)?;
            format!("{mark}{}", action.past())
        };
        if begin.elapsed() >= NOTICEABLE {
            line += &format!(" ({:.1} s)", begin.elapsed().as_secs_f32());
        }
        if output.format == Format::Text {
            print(line.replace(&home, " ~/") + "\n")?;
        }
    }
    Ok(())
}

/// Performs one action.
pub fn perform(facts: &SetupFacts, action: &Action) -> Result<(), Error> {
    match action {
        Action::RemovePrograms => fetch::remove(&facts.home.environment, false).map(drop),
        other => setup::perform(facts, other),
    }
}

/// Prints what the user should know of `plan` and `result`, the sentence for people when all is
/// done; for programs, all of it as one object.
pub fn report(plan: &SetupPlan, output: SetupOutput, result: &str) -> Result<(), Error> {
    if output.format == Format::Json {
        return print(json_line(json!({
            "schema": SCHEMA,
            "changed": !plan.actions.is_empty(),
            "dry_run": output.dry_run,
            "actions": plan.actions.iter().map(Action::json).collect::<Vec<_>>(),
            "notes": plan.notes,
        })));
    }
    for note in &plan.notes {
        // If standard error is closed, standard output and the exit code still tell.
        let _ = writeln!(io::stderr(), "! {note}");
    }
    if !output.dry_run {
        let blank = if plan.actions.is_empty() { "" } else { "\n" };
        return print(format!("{blank}{result}\n"));
    }
    print(if plan.actions.is_empty() { "Nothing to do.\n" } else { "" })
}
