//! Renders results, for people and for programs.
#![forbid(unsafe_code)]

mod check;
mod setup;
mod status;

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::error::{Error, Exit, Warning};
use crate::facts::HostFacts;
use crate::plan::LaunchPlan;
use crate::settings::{Key, Layer, Origin, Settings, statements};
use crate::words;
pub use check::{
    check_list_json, check_list_text, findings_json, findings_text, fix_script, setup_instructions,
};
pub use setup::{setup_json, setup_text};
pub use status::{status_json, status_text};

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One object, for programs.
    Json,
}

/// Whose commands are printed.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Whose {
    /// Root's and the user's, to paste as they are.
    Both,
    /// Root's, for a shell of root.
    Root,
    /// The user's.
    User,
}

/// The version of every object that is printed as JSON.
const SCHEMA: u32 = 1;

/// Writes a result to standard output. A reader that has seen enough is no failure.
///
/// # Errors
/// Fails if the output cannot be written.
pub fn print(bytes: impl AsRef<[u8]>) -> Result<(), Error> {
    match io::stdout().write_all(bytes.as_ref()).and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::new(Exit::Failed, "standard output cannot be written").because(&error))
        }
        _ => Ok(()),
    }
}

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
    for word in &plan.words {
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
        .chain(plan.words.iter().map(|word| word.as_os_str()));
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

/// A word as a JSON string, or as `{"bytes": [...]}` if it is not UTF-8.
fn json_word(word: &OsStr) -> Value {
    word.to_str().map_or_else(|| json!({"bytes": word.as_bytes()}), |text| json!(text))
}

/// One object on one line.
fn json_line(value: Value) -> Vec<u8> {
    format!("{value}\n").into_bytes()
}

/// All settings as a configuration file; what is unset stands there as a comment.
pub fn settings_text(settings: &Settings, with_origin: bool) -> Vec<u8> {
    let mut text = String::new();
    let mut section = "";
    for (key, value, origin) in settings.show() {
        let (this, name) = key.name.split_once('.').unwrap_or(("", key.name));
        if this != section {
            let blank = if section.is_empty() { "" } else { "\n" };
            let _ = writeln!(text, "{blank}[{this}]");
            section = this;
        }
        let remark = if with_origin { format!("  # {origin}") } else { String::new() };
        let _ = match value {
            // As a setting it would replace the password by stars.
            Some(value) if this == "proxy" && value.contains("***@") => {
                writeln!(text, "# {name} = {value}, its password not shown{remark}")
            }
            Some(value) => writeln!(text, "{name} = {value}{remark}"),
            None => writeln!(text, "# {name}: {}{remark}", key.default),
        };
    }
    text.into_bytes()
}

/// All settings for programs; `null` for what is unset.
pub fn settings_json(settings: &Settings) -> Vec<u8> {
    let shown = settings.show().into_iter();
    let rows = shown
        .map(|(key, value, origin)| json!({"key": key.name, "value": value.and_then(|value| json_of_toml(&value)), "origin": origin.to_string()}));
    json_line(json!({"schema": SCHEMA, "settings": rows.collect::<Vec<_>>()}))
}

/// A value in TOML syntax as JSON.
fn json_of_toml(value: &str) -> Option<Value> {
    let table: toml::Table = format!("value = {value}").parse().ok()?;
    serde_json::to_value(table.get("value")?).ok()
}

/// What a key does, who sets it, and whose word counts.
pub fn explain_text(key: &Key, layers: &[Layer], settings: &Settings) -> Vec<u8> {
    let mut text = format!("{}\n  {}\n  allowed: {}\n", key.name, key.summary, key.expected);
    if !key.variables.is_empty() {
        let _ = writeln!(text, "  environment: {}", key.variables.join(", "));
    }
    let winner = winner_of(key, settings);
    let mark = |wins: bool| if wins { "->" } else { "  " };
    let _ = writeln!(text, "set by, lowest first:");
    let by_default = winner == Some(&Origin::Default);
    let _ = writeln!(text, "{} default: {}", mark(by_default), key.default);
    for statement in statements(layers, key.name) {
        let value = statement.shown(key.name);
        let _ = writeln!(
            text,
            "{} {}: {value}",
            mark(winner == Some(statement.origin)),
            statement.origin
        );
    }
    text.into_bytes()
}

/// The same for programs.
pub fn explain_json(key: &Key, layers: &[Layer], settings: &Settings) -> Vec<u8> {
    let said = statements(layers, key.name).map(|statement| {
        let value = statement.shown(key.name);
        json!({"origin": statement.origin.to_string(), "value": value})
    });
    json_line(json!({
        "schema": SCHEMA,
        "key": key.name,
        "summary": key.summary,
        "allowed": key.expected,
        "environment": key.variables,
        "default": key.default,
        "set": said.collect::<Vec<_>>(),
        "winner": winner_of(key, settings).map(ToString::to_string),
    }))
}

/// The place whose word on `key` counts.
fn winner_of<'a>(key: &Key, settings: &'a Settings) -> Option<&'a Origin> {
    let mut shown = settings.show().into_iter();
    shown.find(|(shown, ..)| shown.name == key.name).map(|(_, _, origin)| origin)
}

/// Which of the configuration files there are, all valid, and what is odd.
pub fn check_text(files: &[(PathBuf, bool)], warnings: &[Warning]) -> Vec<u8> {
    let state = |exists: bool| if exists { "valid" } else { "absent" };
    let files =
        files.iter().map(|(path, exists)| format!("{}: {}\n", path.display(), state(*exists)));
    let warnings = warnings.iter().map(|warning| format!("warning: {}\n", warning.0));
    files
        .chain(["environment: valid\n".to_owned()])
        .chain(warnings)
        .collect::<String>()
        .into_bytes()
}

/// The same for programs.
pub fn check_json(files: &[(PathBuf, bool)], warnings: &[Warning]) -> Vec<u8> {
    let files = files
        .iter()
        .map(|(path, exists)| json!({"path": json_word(path.as_os_str()), "exists": exists}));
    let warnings: Vec<&String> = warnings.iter().map(|warning| &warning.0).collect();
    json_line(json!({"schema": SCHEMA, "files": files.collect::<Vec<_>>(), "warnings": warnings}))
}

/// What the configuration file `path` says of a key after an edit.
pub fn edit_text(key: &Key, value: Option<&str>, path: &Path, changed: bool) -> Vec<u8> {
    let says = value.map_or("is not set".to_owned(), |value| format!("= {value}"));
    let unchanged = if changed { "" } else { " (unchanged)" };
    let (name, path) = (key.name, path.display());
    format!("{name} {says} in {path}{unchanged}\n").into_bytes()
}

/// The same for programs.
pub fn edit_json(key: &Key, value: Option<&str>, path: &Path, changed: bool) -> Vec<u8> {
    json_line(json!({
        "schema": SCHEMA,
        "key": key.name,
        "value": value.and_then(json_of_toml),
        "path": json_word(path.as_os_str()),
        "changed": changed,
    }))
}

/// The configuration files, one a line.
pub fn paths_text(paths: &[PathBuf]) -> Vec<u8> {
    paths.iter().flat_map(|path| [path.as_os_str().as_bytes(), b"\n"].concat()).collect()
}

/// The same for programs.
pub fn paths_json(paths: &[PathBuf]) -> Vec<u8> {
    let paths: Vec<Value> = paths.iter().map(|path| json_word(path.as_os_str())).collect();
    json_line(json!({"schema": SCHEMA, "paths": paths}))
}
