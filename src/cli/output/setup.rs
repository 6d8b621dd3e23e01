//! What is installed or removed, for people and for programs.

use serde_json::json;

use crate::cli::output::{SCHEMA, json_line};
use crate::setup::SetupPlan;

/// The plan for people: what would be done, or `result` when it is done.
pub fn setup_text(plan: &SetupPlan, dry_run: bool, result: &str) -> String {
    match dry_run {
        true if plan.actions.is_empty() => "nothing is to be done\n".to_owned(),
        true => {
            let line = |action: &crate::setup::Action| format!("would {}\n", action.explain());
            plan.actions.iter().map(line).collect()
        }
        false if plan.actions.is_empty() => format!("nothing was to be done: {result}\n"),
        false => format!("{result}\n"),
    }
}

/// The plan for programs.
pub fn setup_json(plan: &SetupPlan, dry_run: bool) -> Vec<u8> {
    let actions: Vec<String> = plan.actions.iter().map(|action| action.explain()).collect();
    json_line(json!({
        "schema": SCHEMA,
        "changed": !actions.is_empty(),
        "dry_run": dry_run,
        "actions": actions,
        "notes": plan.notes,
    }))
}
