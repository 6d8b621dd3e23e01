//! `config`: show settings and where they come from, and edit the user's file.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::cli::output::{self, Format, print};
use crate::cli::sources::{config_paths, layers, read_file, user_config};
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::{look, places};
use crate::plan;
use crate::settings::{self, Key, Layer, Settings, statements};
use crate::supervise;
use crate::sys::files;

#[derive(Args)]
pub struct ConfigOptions {
    /// Set KEY for this call, whatever other sources say
    #[arg(long = "set", value_name = "KEY=VALUE", global = true)]
    assignments: Vec<OsString>,
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
        /// Output format
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Print every source that sets KEY, and which one wins
    Explain {
        /// For example network.driver
        key: String,
    },
    /// Validate all configuration sources
    Check,
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
    let ConfigOptions { assignments, command } = options;
    let layers = || layers(environment, assignments);
    match command {
        Command::Show { origin, format } => show(&layers()?, *origin, *format),
        Command::Explain { key } => explain(find_key(key)?, &layers()?),
        Command::Check => check(environment, &layers()?),
        Command::Path => path(environment),
        Command::Set { key, value } => edit(environment, assignments, find_key(key)?, Some(value)),
        Command::Unset { key } => edit(environment, assignments, find_key(key)?, None),
    }?;
    Ok(Exit::Good)
}

/// Prints all settings; what is not set is a comment, or `null`.
fn show(layers: &[Layer], with_origin: bool, format: Format) -> Result<(), Error> {
    let mut rows = Vec::new();
    let mut text = String::new();
    let mut section = "";
    for (key, value, origin) in Settings::resolve(layers)?.show() {
        let json = value.as_deref().and_then(json_of_toml);
        rows.push(json!({"key": key.name, "value": json, "origin": origin.to_string()}));
        if key.section() != section {
            let blank = if section.is_empty() { "" } else { "\n" };
            section = key.section();
            text += &format!("{blank}[{section}]\n");
        }
        let name = &key.name[section.len() + 1..];
        text += &match value {
            // Pasted as a setting, the stars would replace the password.
            Some(value) if section == "proxy" && value.contains("***@") => {
                format!("# {name} = {value}, its password not shown")
            }
            Some(value) => format!("{name} = {value}"),
            None => format!("# {name}: {}", key.default),
        };
        text += &if with_origin { format!("  # {origin}\n") } else { "\n".to_owned() };
    }
    output::tell(format, json!({"settings": rows}), text)
}

/// Returns a value in TOML syntax as JSON.
fn json_of_toml(value: &str) -> Option<Value> {
    let table: toml::Table = format!("value = {value}").parse().ok()?;
    serde_json::to_value(table.get("value")?).ok()
}

/// Prints what `key` does, who sets it, and which source wins.
fn explain(key: &Key, layers: &[Layer]) -> Result<(), Error> {
    Settings::resolve(layers)?;
    let mut text = format!("{}\n  {}\n  allowed: {}\n", key.name, key.summary, key.expected);
    if !key.variables.is_empty() {
        text += &format!("  environment: {}\n", key.variables.join(", "));
    }
    text += "set by, lowest first:\n";
    let mut set = vec![format!("default: {}", key.default)];
    let stated = statements(layers, key.name);
    set.extend(
        stated.map(|(input, origin)| format!("{origin}: {}", settings::shown(key.name, input))),
    );
    for (at, line) in set.iter().enumerate() {
        let mark = if at + 1 == set.len() { "->" } else { "  " };
        text += &format!("{mark} {line}\n");
    }
    print(text)
}

/// Prints which files exist and what is odd, or fails with the first error.
fn check(environment: &Environment, layers: &[Layer]) -> Result<(), Error> {
    let mut text = String::new();
    for path in config_paths(environment) {
        let state = if read_file(&path)?.is_some() { "valid" } else { "absent" };
        text += &format!("{}: {state}\n", path.display());
    }
    text += "environment: valid\n";
    for warning in Settings::resolve(layers)?.warnings {
        text += &format!("warning: {}\n", warning.0);
    }
    print(text)
}

/// Prints the paths of the files, lowest first.
fn path(environment: &Environment) -> Result<(), Error> {
    let paths = config_paths(environment).into_iter();
    let lines = paths.flat_map(|path| [path.into_os_string(), "\n".into()]);
    print(lines.collect::<OsString>().as_bytes())
}

/// Sets `key` in the user's file, or removes it without a value. Only that file is read and judged, so
/// that it can be edited whatever is wrong elsewhere. If this fails, the file is unchanged.
fn edit(
    environment: &Environment,
    assignments: &[OsString],
    key: &Key,
    value: Option<&OsString>,
) -> Result<(), Error> {
    let (name, path) = (key.name, user_file(environment)?);
    let above = [Layer::from_environment(environment), Layer::from_assignments(assignments)?];
    let before = files::read_config(&path, look::uid())?.unwrap_or_default();
    let edited = settings::edit(&path, &before, key, value.map(OsString::as_os_str))?;
    let is_changed = edited.text != before;
    if is_changed {
        files::write_config(&path, &edited.text, look::uid())?;
    }
    if let Some((_, origin)) = statements(&above, name).last() {
        warn!(
            "`{name}`: the {origin} wins over the file: see `dockerd-rootless config explain {name}`"
        );
    }
    if is_changed && is_running(environment) {
        info!("To apply it: {}", restart_for(key));
    }
    let path = path.display();
    print(match (edited.shown, is_changed) {
        (Some(value), true) => format!("{name} = {value} in {path}\n"),
        (Some(value), false) => format!("{name} = {value} in {path} (unchanged)\n"),
        (None, true) => format!("Removed {name} from {path}\n"),
        (None, false) => format!("{name} is not set in {path} (unchanged)\n"),
    })
}

/// Returns whether a supervisor runs.
fn is_running(environment: &Environment) -> bool {
    let person = look::person(environment);
    let runtime_dir = plan::refuse_person(&person).ok();
    runtime_dir.is_some_and(|path| supervise::read_status(&places::run_dir(path)).is_some())
}

/// Returns the least command after which a daemon that runs uses the new value of `key`.
fn restart_for(key: &Key) -> &'static str {
    match (key.section(), key.name) {
        // Without a detached network namespace, rootlesskit publishes it.
        (_, "daemon.tcp") => "dockerd-rootless restart --all (stops containers)",
        ("daemon", _) | (_, "network.container-mtu") => "dockerd-rootless restart",
        ("supervise", _) => "stop the daemon and start it again",
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

/// Returns the key called `name`, or the nearest as a hint.
fn find_key(name: &str) -> Result<&'static Key, Error> {
    Key::find(name)
        .map_err(|nearest| Error::new(Exit::Usage, format!("unknown key `{name}`")).hint(nearest))
}
