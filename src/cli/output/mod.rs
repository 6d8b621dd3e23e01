//! Renders results, for people and for programs.
#![forbid(unsafe_code)]

mod check;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use serde_json::{Value, json};

use crate::error::Error;
use crate::facts::HostFacts;
use crate::plan::LaunchPlan;
pub use crate::sys::stdout::print;
use crate::words;
pub use check::{
    check_list_json, check_list_text, findings_json, findings_text, fix_script, setup_instructions,
};

/// How results are printed: text for people, or one JSON object.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Text,
    Json,
}

/// Whose commands are printed: to paste as they are, for a shell of root, or for the user's.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Whose {
    Both,
    Root,
    User,
}

/// The version of every object that is printed as JSON.
pub const SCHEMA: u32 = 1;

/// One line on what is started.
pub fn summary(plan: &LaunchPlan, host: &HostFacts) -> String {
    let version = host.tools.rootlesskit.known().and_then(|facts| facts.version);
    let version = version.map_or_else(String::new, |version| format!(" {version}"));
    let chosen: Vec<String> =
        plan.reasons.iter().map(|reason| format!("{}={}", reason.key, reason.value)).collect();
    format!("starting {}{version}: {}", plan.rootlesskit.display(), chosen.join(" "))
}

/// The plan for people: commands as they would be typed, any bytes.
pub fn plan_text(plan: &LaunchPlan) -> Vec<u8> {
    let mut text = Vec::new();
    let mut line = |indent: usize, words: &OsStr| {
        text.extend(std::iter::repeat_n(b' ', indent));
        text.extend(words.as_bytes());
        text.push(b'\n');
    };
    line(0, OsStr::new("command:"));
    let mut command = words::quote(plan.rootlesskit.as_os_str());
    let mut indent = 2;
    for word in &plan.args {
        command.push(" \\");
        line(indent, &command);
        command = words::quote(word);
        indent = 4;
    }
    line(indent, &command);
    let section = |title: &str, rows: Vec<String>, line: &mut dyn FnMut(usize, &OsStr)| {
        if !rows.is_empty() {
            line(0, OsStr::new(title));
            rows.iter().for_each(|row| line(2, OsStr::new(row)));
        }
    };
    let removals = plan.removals.iter().map(|(path, why)| format!("{}: {why}", path.display()));
    section("stale files to remove first:", removals.collect(), &mut line);
    let set = plan.environment.set.iter().map(|(name, (value, why))| {
        format!("{name}={}: {why}", words::quote(&shown(name, value)).display())
    });
    let unset = plan.environment.unset.iter().map(|(name, why)| format!("{name} is unset: {why}"));
    section("environment:", set.chain(unset).collect(), &mut line);
    let steps = plan
        .stage
        .steps
        .iter()
        .enumerate()
        .map(|(at, step)| format!("{}. {}", at + 1, step.explain()));
    let last = format!(
        "{}. execute {}",
        plan.stage.steps.len() + 1,
        words::join(&plan.stage.daemon).display()
    );
    section("inside the namespaces:", steps.chain([last]).collect(), &mut line);
    let reasons = plan
        .reasons
        .iter()
        .map(|reason| format!("{} = {}: {}", reason.key, reason.value, reason.why));
    section("why:", reasons.collect(), &mut line);
    section(
        "warnings:",
        plan.warnings.iter().map(|warning| warning.0.clone()).collect(),
        &mut line,
    );
    text
}

/// The value of a variable, without the password that a proxy's address may hold.
fn shown(name: &str, value: &OsStr) -> std::ffi::OsString {
    use crate::settings::ProxyUrl;
    match name {
        "HTTP_PROXY" | "HTTPS_PROXY" => ProxyUrl(value.to_owned()).redacted().into(),
        _ => value.to_owned(),
    }
}

/// The plan for programs.
pub fn plan_json(plan: &LaunchPlan, host: &HostFacts) -> Vec<u8> {
    let argv = std::iter::once(plan.rootlesskit.as_os_str())
        .chain(plan.args.iter().map(|word| word.as_os_str()));
    let set = plan.environment.set.iter().map(
        |(name, (value, why))| json!({"name": name, "value": json_word(&shown(name, value)), "reason": why}),
    );
    let unset =
        plan.environment.unset.iter().map(|(name, why)| json!({"name": name, "reason": why}));
    let steps = plan
        .stage
        .steps
        .iter()
        .map(|step| json!({"word": json_word(&step.word()), "what": step.explain()}));
    let reasons = plan
        .reasons
        .iter()
        .map(|reason| json!({"key": reason.key, "value": reason.value, "reason": reason.why}));
    let removals = plan
        .removals
        .iter()
        .map(|(path, why)| json!({"path": json_word(path.as_os_str()), "reason": why}));
    json_line(json!({
        "schema": SCHEMA,
        "argv": argv.map(json_word).collect::<Vec<_>>(),
        "environment": {"set": set.collect::<Vec<_>>(), "unset": unset.collect::<Vec<_>>()},
        "remove": removals.collect::<Vec<_>>(),
        "steps": steps.collect::<Vec<_>>(),
        "daemon": plan.stage.daemon.iter().map(|word| json_word(word)).collect::<Vec<_>>(),
        "reasons": reasons.collect::<Vec<_>>(),
        "warnings": plan.warnings.iter().map(|warning| &warning.0).collect::<Vec<_>>(),
        "host": {"tools": tools_json(host), "kernel": host.kernel},
    }))
}

/// The tools, as far as they can be named in JSON.
fn tools_json(host: &HostFacts) -> Value {
    serde_json::to_value(&host.tools).unwrap_or_else(|error| json!({"unknown": error.to_string()}))
}

/// Returns a word as a JSON string, or as `{"bytes": [...]}` if it is not UTF-8.
pub fn json_word(word: &OsStr) -> Value {
    word.to_str().map_or_else(|| json!({"bytes": word.as_bytes()}), |text| json!(text))
}

/// Writes `value`, an object, with the schema's version to standard output.
pub fn print_json(mut value: Value) -> Result<(), Error> {
    value["schema"] = json!(SCHEMA);
    print(json_line(value))
}

/// Returns one object on one line.
pub fn json_line(value: Value) -> Vec<u8> {
    format!("{value}\n").into_bytes()
}
