//! `plan`: print what `run` would execute, and why.

use std::ffi::{OsStr, OsString};
use std::fmt::{Display, Write};

use serde_json::{Value, json};

use crate::cli::output::{self, Format, json_word, tool_json};
use crate::cli::request::Request;
use crate::cli::run::{prepare, with_version};
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::HostFacts;
use crate::facts::probe::ProbeDepth;
use crate::plan::LaunchPlan;
use crate::settings::ProxyUrl;
use crate::words;

/// Prints the plan, or fails as `run` would; `verbose` adds the command line, the variables and the
/// steps.
pub fn run(
    environment: &Environment,
    request: &Request,
    format: Format,
    verbose: bool,
) -> Result<Exit, Error> {
    let (plan, host) = prepare(environment, request, ProbeDepth::Report)?;
    let mut text = text(&plan, &host);
    match verbose {
        true => text += &details(&plan),
        false => text += "Commands and steps: dockerd-rootless plan -v\n",
    }
    output::tell(format, json(&plan, &host), text)?;
    Ok(Exit::Good)
}

/// Returns the plan for people.
fn text(plan: &LaunchPlan, host: &HostFacts) -> String {
    let tools = &host.tools;
    let dockerd = tools.dockerd.known().and_then(|facts| facts.version);
    let rootlesskit = tools.rootlesskit.known().and_then(|facts| facts.version);
    let mut text = format!(
        "{} in namespaces of {}\n\n",
        with_version("dockerd", dockerd),
        with_version("rootlesskit", rootlesskit)
    );
    for reason in &plan.reasons {
        let _ = writeln!(text, "  {:<26} {:<12} {}", reason.key, reason.value, reason.why);
    }
    let data_root = host.session.places.data_root.display();
    let _ = writeln!(text, "  {:<26} {data_root}\n", "data root");
    let removals = plan.removals.iter().map(|(path, why)| format!("{}: {why}", path.display()));
    text += &section("Stale files to remove first:", removals);
    text + &section("Warnings:", plan.warnings.iter().map(|warning| &warning.0))
}

/// Returns rows below a title, and nothing without any.
fn section<T: Display>(title: &str, rows: impl IntoIterator<Item = T>) -> String {
    let rows: String = rows.into_iter().map(|row| format!("  {row}\n")).collect();
    if rows.is_empty() { rows } else { format!("{title}\n{rows}\n") }
}

/// Returns the command, the variables and the steps.
fn details(plan: &LaunchPlan) -> String {
    let args = plan.args.iter().map(|word| words::quote(word));
    let command = [words::quote(plan.rootlesskit.as_os_str())].into_iter().chain(args);
    let command = command.collect::<Vec<_>>().join(OsStr::new(" \\\n    "));
    let set = plan.environment.set.iter().map(|(name, (value, why))| {
        format!("{name}={}: {why}", words::quote(&shown(name, value)).display())
    });
    let unset = plan.environment.unset.iter().map(|(name, why)| format!("{name} is unset: {why}"));
    let execute = format!("execute {}", words::join(&plan.stage.daemon).display());
    let steps = plan.stage.steps.iter().map(|step| step.explain()).chain([execute]);
    let steps = steps.enumerate().map(|(at, step)| format!("{}. {step}", at + 1));
    section("Command:", [command.display()])
        + &section("Environment:", set.chain(unset))
        + &section("Inside the namespaces:", steps)
}

/// Returns the value of a variable, without the password of a proxy's address.
fn shown(name: &str, value: &OsStr) -> OsString {
    match name {
        "HTTP_PROXY" | "HTTPS_PROXY" => ProxyUrl(value.to_owned()).redacted().into(),
        _ => value.to_owned(),
    }
}

/// Returns the plan for programs.
fn json(plan: &LaunchPlan, host: &HostFacts) -> Value {
    let tools = &host.tools;
    let words = |words: &[OsString]| words.iter().map(|word| json_word(word)).collect::<Value>();
    let argv = [&[plan.rootlesskit.clone().into_os_string()], &*plan.args].concat();
    let set = plan.environment.set.iter().map(
        |(name, (value, why))| json!({"name": name, "value": json_word(&shown(name, value)), "reason": why}),
    );
    let unset = plan.environment.unset.iter();
    let unset = unset.map(|(name, why)| json!({"name": name, "reason": why}));
    let steps = plan.stage.steps.iter();
    let steps = steps.map(|step| json!({"word": json_word(&step.word()), "what": step.explain()}));
    let removals = plan.removals.iter();
    let removals =
        removals.map(|(path, why)| json!({"path": json_word(path.as_os_str()), "reason": why}));
    json!({
        "argv": words(&argv),
        "environment": {"set": set.collect::<Value>(), "unset": unset.collect::<Value>()},
        "remove": removals.collect::<Value>(),
        "steps": steps.collect::<Value>(),
        "daemon": words(&plan.stage.daemon),
        "reasons": plan.reasons,
        "warnings": plan.warnings,
        "host": {
            "rootlesskit": tool_json(&tools.rootlesskit, |facts| facts.version),
            "dockerd": tool_json(&tools.dockerd, |facts| facts.version),
        },
    })
}
