//! `config`: show settings and where they come from, and edit the user's file.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::cli::Assignments;
use crate::cli::output::{Format, json_word, print, print_json};
use crate::cli::sources::{config_paths, layers, read_file, user_config};
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::look;
use crate::facts::places;
use crate::settings::{self, Edited, Key, Layer, Origin, Settings, statements};
use crate::sys::files;
use crate::words;
use crate::{plan, supervise};

#[derive(Args)]
pub struct ConfigOptions {
    #[command(flatten)]
    assignments: Assignments,
    /// Output format
    #[arg(
        long,
        value_enum,
        default_value = "text",
        global = true,
        help_heading = "Global options"
    )]
    format: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print all settings as a configuration file
    #[command(after_help = "`dockerd-rootless plan` shows what `auto` means on this host.")]
    Show {
        /// Print where each value comes from
        #[arg(long)]
        origin: bool,
        #[command(flatten)]
        assignments: Assignments,
    },
    /// Print every source that sets KEY, and which one wins
    Explain {
        /// For example network.driver
        key: String,
        #[command(flatten)]
        assignments: Assignments,
    },
    /// Validate all configuration sources
    Check {
        #[command(flatten)]
        assignments: Assignments,
    },
    /// Print the paths of configuration files
    Path,
    /// Write a value into your configuration file
    #[command(after_help = "Put `--` before a value that starts with a dash.")]
    Set {
        /// For example network.driver
        key: String,
        /// For example pasta
        #[arg(allow_hyphen_values = true)]
        value: OsString,
    },
    /// Remove a key from your configuration file
    Unset {
        /// For example network.driver
        key: String,
    },
}

pub fn run(environment: &Environment, options: &ConfigOptions) -> Result<Exit, Error> {
    let ConfigOptions { assignments, format, command } = options;
    let layers = |more: &Assignments| {
        layers(environment, &[&*assignments.assignments, &more.assignments].concat())
    };
    match command {
        Command::Show { origin, assignments } => show(&layers(assignments)?, *origin, *format),
        Command::Explain { key, assignments } => explain(key, &|| layers(assignments), *format),
        Command::Check { assignments } => check(environment, &|| layers(assignments), *format),
        Command::Path => path(environment, *format),
        Command::Set { key, value } => {
            edit(environment, &assignments.assignments, key, Some(value), *format)
        }
        Command::Unset { key } => edit(environment, &assignments.assignments, key, None, *format),
    }?;
    Ok(Exit::Good)
}

/// Prints all settings; what is not set is a comment, or `null`.
fn show(layers: &[Layer], origin: bool, format: Format) -> Result<(), Error> {
    let settings = Settings::resolve(layers)?;
    let shown = settings.show().into_iter();
    if format == Format::Json {
        let rows = shown.map(|(key, value, origin)| {
            let value = value.as_deref().and_then(json_of_toml);
            json!({"key": key.name, "value": value, "origin": origin.to_string()})
        });
        return print_json(json!({"settings": rows.collect::<Vec<_>>()}));
    }
    let mut text = String::new();
    let mut section = "";
    for (key, value, source) in shown {
        let (this, name) = key.name.split_once('.').unwrap_or(("", key.name));
        if this != section {
            let blank = if section.is_empty() { "" } else { "\n" };
            let _ = writeln!(text, "{blank}[{this}]");
            section = this;
        }
        let remark = if origin { format!("  # {source}") } else { String::new() };
        let _ = match value {
            // Pasted as a setting, the stars would replace the password.
            Some(value) if this == "proxy" && value.contains("***@") => {
                writeln!(text, "# {name} = {value}, its password not shown{remark}")
            }
            Some(value) => writeln!(text, "{name} = {value}{remark}"),
            None => writeln!(text, "# {name}: {}{remark}", key.default),
        };
    }
    print(text)
}

/// Returns a value in TOML syntax as JSON.
fn json_of_toml(value: &str) -> Option<Value> {
    let table: toml::Table = format!("value = {value}").parse().ok()?;
    serde_json::to_value(table.get("value")?).ok()
}

/// Reads all sources.
type Read<'a> = &'a dyn Fn() -> Result<Vec<Layer>, Error>;

/// Prints what a key does, who sets it, and which source wins.
fn explain(name: &str, read: Read<'_>, format: Format) -> Result<(), Error> {
    let key = find_key(name)?;
    let layers = read()?;
    let settings = Settings::resolve(&layers)?;
    let mut shown = settings.show().into_iter();
    let winner = shown.find(|(shown, ..)| shown.name == key.name).map(|(_, _, origin)| origin);
    let set = statements(&layers, key.name);
    let set = set.map(|statement| (statement.origin, statement.shown(key.name)));
    if format == Format::Json {
        let set = set.map(|(origin, value)| json!({"origin": origin.to_string(), "value": value}));
        return print_json(json!({
            "key": key.name,
            "summary": key.summary,
            "allowed": key.expected,
            "environment": key.variables,
            "default": key.default,
            "set": set.collect::<Vec<_>>(),
            "winner": winner.map(ToString::to_string),
        }));
    }
    let mut text = format!("{}\n  {}\n  allowed: {}\n", key.name, key.summary, key.expected);
    if !key.variables.is_empty() {
        let _ = writeln!(text, "  environment: {}", key.variables.join(", "));
    }
    text += "set by, lowest first:\n";
    for (origin, value) in [(&Origin::Default, key.default.to_owned())].into_iter().chain(set) {
        let mark = if winner == Some(origin) { "->" } else { "  " };
        let _ = writeln!(text, "{mark} {origin}: {value}");
    }
    print(text)
}

/// Prints which files exist and what is odd, or fails with the first error.
fn check(environment: &Environment, read: Read<'_>, format: Format) -> Result<(), Error> {
    let mut files = Vec::new();
    for path in config_paths(environment) {
        let exists = read_file(&path)?.is_some();
        files.push((path, exists));
    }
    let settings = Settings::resolve(&read()?)?;
    let warnings: Vec<&str> = settings.warnings.iter().map(|warning| &*warning.0).collect();
    if format == Format::Json {
        let files = files
            .iter()
            .map(|(path, exists)| json!({"path": json_word(path.as_os_str()), "exists": exists}));
        return print_json(json!({"files": files.collect::<Vec<_>>(), "warnings": warnings}));
    }
    let mut text = String::new();
    for (path, exists) in files {
        let state = if exists { "valid" } else { "absent" };
        let _ = writeln!(text, "{}: {state}", path.display());
    }
    text += "environment: valid\n";
    for warning in warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    print(text)
}

/// Prints the files, lowest first.
fn path(environment: &Environment, format: Format) -> Result<(), Error> {
    let paths = config_paths(environment);
    if format == Format::Json {
        let paths = paths.iter().map(|path| json_word(path.as_os_str()));
        return print_json(json!({"paths": paths.collect::<Vec<_>>()}));
    }
    let lines = paths.into_iter().flat_map(|path| [path.into_os_string(), "\n".into()]);
    print(lines.collect::<OsString>().as_encoded_bytes())
}

/// Sets a key in the user's file, or removes it without a value. Only that file is read and judged, so
/// that it can be edited whatever is wrong elsewhere. If this fails, the file is unchanged.
fn edit(
    environment: &Environment,
    assignments: &[OsString],
    name: &str,
    value: Option<&OsStr>,
    format: Format,
) -> Result<(), Error> {
    let key = find_key(name).map_err(|error| match assigned(name, value) {
        Some((key, value)) => {
            let value = words::quote(value).display().to_string();
            let hint = format!("dockerd-rootless config set {} {value}", key.name);
            Error::new(Exit::Usage, error.to_string()).hint(hint)
        }
        None => error,
    })?;
    let path = user_file(environment)?;
    let above = [Layer::from_environment(environment), Layer::from_assignments(assignments)?];
    let (edited, changed) = change(&path, key, value)?;
    if let Some(winner) = statements(&above, key.name).last() {
        warn!(
            "`{name}`: the {} wins over the file: see `dockerd-rootless config explain {name}`",
            winner.origin
        );
    }
    if changed && runs(environment) {
        info!("To apply it: {}", restart_for(name));
    }
    let value = edited.shown.as_deref();
    if format == Format::Json {
        return print_json(json!({
            "key": name,
            "value": value.and_then(json_of_toml),
            "path": json_word(path.as_os_str()),
            "changed": changed,
        }));
    }
    let path = path.display();
    print(match (value, changed) {
        (Some(value), true) => format!("{name} = {value} in {path}\n"),
        (Some(value), false) => format!("{name} = {value} in {path} (unchanged)\n"),
        (None, true) => format!("Removed {name} from {path}\n"),
        (None, false) => format!("{name} is not set in {path} (unchanged)\n"),
    })
}

/// Returns whether a supervisor runs.
fn runs(environment: &Environment) -> bool {
    let person = look::person(environment);
    let runtime_dir = plan::refuse_person(&person).ok();
    runtime_dir.is_some_and(|path| supervise::read_status(&places::run_dir(path)).is_some())
}

/// Returns the least command after which a daemon that runs uses the new value of the key `name`.
fn restart_for(name: &str) -> &'static str {
    match name.split_once('.') {
        Some(("daemon", _)) | Some(("network", "container-mtu")) => "dockerd-rootless restart",
        Some(("supervise", _)) => "stop the daemon and start it again",
        _ => "dockerd-rootless restart --all (stops containers)",
    }
}

/// Returns the path of the user's file.
fn user_file(environment: &Environment) -> Result<PathBuf, Error> {
    user_config(environment).ok_or_else(|| {
        let what = "the path of your configuration file is not known: HOME is not set";
        let hint = "export HOME=$(getent passwd $(id -u) | cut -d: -f6)";
        Error::new(Exit::Config, what).hint(hint)
    })
}

/// Edits the file `path`. Returns its new content, and whether that differs from the old.
fn change(path: &Path, key: &Key, value: Option<&OsStr>) -> Result<(Edited, bool), Error> {
    let before = files::read_config(path, look::uid())?.unwrap_or_default();
    let edited = settings::edit(path, &before, key, value)?;
    let changed = edited.text != before;
    if changed {
        files::write_config(path, &edited.text, look::uid())?;
    }
    Ok((edited, changed))
}

/// Returns the key called `name`, or an error with the nearest as a hint.
/// What `config set network driver=pasta` means: a key of the section, and its value.
fn assigned<'a>(section: &str, value: Option<&'a OsStr>) -> Option<(&'static Key, &'a OsStr)> {
    let bytes = value?.as_bytes();
    let equals = bytes.iter().position(|byte| *byte == b'=')?;
    let name = format!("{section}.{}", std::str::from_utf8(&bytes[..equals]).ok()?);
    Some((Key::find(&name).ok()?, OsStr::from_bytes(&bytes[equals + 1..])))
}

/// Returns the key called `name`, or the nearest as a hint.
fn find_key(name: &str) -> Result<&'static Key, Error> {
    Key::find(name)
        .map_err(|nearest| Error::new(Exit::Usage, format!("unknown key `{name}`")).hint(nearest))
}
