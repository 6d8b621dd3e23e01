//! `config`: show settings and where they come from, and edit the user's file.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::cli::output::{self, Format, json_word};
use crate::cli::sources::{config_paths, layers, read_file, user_config};
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::{look, places};
use crate::plan;
use crate::settings::{self, Key, Layer, Origin, Settings, statements};
use crate::supervise;
use crate::sys::files;
use crate::words;

#[derive(Args)]
pub struct ConfigOptions {
    /// Set KEY for this call, whatever other sources say
    #[arg(long = "set", value_name = "KEY=VALUE", global = true)]
    assignments: Vec<OsString>,
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

/// What a command tells: an object for programs, and the text for people.
type Told = Result<(Value, String), Error>;

pub fn run(environment: &Environment, options: ConfigOptions) -> Result<Exit, Error> {
    let ConfigOptions { assignments, format, command } = options;
    let layers = || layers(environment, &assignments);
    let (object, text) = match command {
        Command::Show { origin } => show(&layers()?, origin),
        Command::Explain { key } => explain(find_key(&key)?, &layers()?),
        Command::Check => check(environment, &layers()?),
        Command::Path => return path(environment, format),
        Command::Set { key, value } => {
            edit(environment, &assignments, find_assigned(&key, &value)?, Some(&value))
        }
        Command::Unset { key } => edit(environment, &assignments, find_key(&key)?, None),
    }?;
    output::tell(format, object, text)?;
    Ok(Exit::Good)
}

/// Tells all settings; what is not set is a comment, or `null`.
fn show(layers: &[Layer], with_origin: bool) -> Told {
    let mut rows = Vec::new();
    let mut text = String::new();
    let mut section = "";
    for (key, value, origin) in Settings::resolve(layers)?.show() {
        let json = value.as_deref().and_then(json_of_toml);
        rows.push(json!({"key": key.name, "value": json, "origin": origin.to_string()}));
        if key.section() != section {
            let blank = if section.is_empty() { "" } else { "\n" };
            section = key.section();
            let _ = writeln!(text, "{blank}[{section}]");
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
    Ok((json!({"settings": rows}), text))
}

/// Returns a value in TOML syntax as JSON.
fn json_of_toml(value: &str) -> Option<Value> {
    let table: toml::Table = format!("value = {value}").parse().ok()?;
    serde_json::to_value(table.get("value")?).ok()
}

/// Tells what `key` does, who sets it, and which source wins.
fn explain(key: &Key, layers: &[Layer]) -> Told {
    Settings::resolve(layers)?;
    let mut set = vec![(&Origin::Default, key.default.to_owned())];
    set.extend(statements(layers, key.name).map(|own| (own.origin, own.shown(key.name))));
    let winner = set[set.len() - 1].0;
    let mut text = format!("{}\n  {}\n  allowed: {}\n", key.name, key.summary, key.expected);
    if !key.variables.is_empty() {
        let _ = writeln!(text, "  environment: {}", key.variables.join(", "));
    }
    text += "set by, lowest first:\n";
    for (origin, value) in &set {
        let mark = if *origin == winner { "->" } else { "  " };
        let _ = writeln!(text, "{mark} {origin}: {value}");
    }
    let rows = set[1..].iter();
    let rows = rows.map(|(origin, value)| json!({"origin": origin.to_string(), "value": value}));
    let object = json!({
        "key": key.name,
        "summary": key.summary,
        "allowed": key.expected,
        "environment": key.variables,
        "default": key.default,
        "set": rows.collect::<Value>(),
        "winner": winner.to_string(),
    });
    Ok((object, text))
}

/// Tells which files exist and what is odd, or fails with the first error.
fn check(environment: &Environment, layers: &[Layer]) -> Told {
    let mut rows = Vec::new();
    let mut text = String::new();
    for path in config_paths(environment) {
        let exists = read_file(&path)?.is_some();
        let _ = writeln!(text, "{}: {}", path.display(), if exists { "valid" } else { "absent" });
        rows.push(json!({"path": json_word(path.as_os_str()), "exists": exists}));
    }
    text += "environment: valid\n";
    let warnings = Settings::resolve(layers)?.warnings;
    for warning in &warnings {
        let _ = writeln!(text, "warning: {}", warning.0);
    }
    Ok((json!({"files": rows, "warnings": warnings}), text))
}

/// Prints the files, lowest first.
fn path(environment: &Environment, format: Format) -> Result<Exit, Error> {
    let paths = config_paths(environment);
    let object = paths.iter().map(|path| json_word(path.as_os_str())).collect::<Value>();
    let lines = paths.into_iter().flat_map(|path| [path.into_os_string(), "\n".into()]);
    let lines = lines.collect::<OsString>();
    output::tell(format, json!({"paths": object}), lines.as_bytes())?;
    Ok(Exit::Good)
}

/// Sets `key` in the user's file, or removes it without a value. Only that file is read and judged, so
/// that it can be edited whatever is wrong elsewhere. If this fails, the file is unchanged.
fn edit(
    environment: &Environment,
    assignments: &[OsString],
    key: &Key,
    value: Option<&OsStr>,
) -> Told {
    let (name, path) = (key.name, user_file(environment)?);
    let above = [Layer::from_environment(environment), Layer::from_assignments(assignments)?];
    let before = files::read_config(&path, look::uid())?.unwrap_or_default();
    let edited = settings::edit(&path, &before, key, value)?;
    let changed = edited.text != before;
    if changed {
        files::write_config(&path, &edited.text, look::uid())?;
    }
    if let Some(winner) = statements(&above, name).last() {
        let origin = winner.origin;
        warn!(
            "`{name}`: the {origin} wins over the file: see `dockerd-rootless config explain {name}`"
        );
    }
    if changed && is_running(environment) {
        info!("To apply it: {}", restart_for(key));
    }
    let value = edited.shown.as_deref();
    let file = path.display();
    let text = match (value, changed) {
        (Some(value), true) => format!("{name} = {value} in {file}\n"),
        (Some(value), false) => format!("{name} = {value} in {file} (unchanged)\n"),
        (None, true) => format!("Removed {name} from {file}\n"),
        (None, false) => format!("{name} is not set in {file} (unchanged)\n"),
    };
    let (value, path) = (value.and_then(json_of_toml), json_word(path.as_os_str()));
    Ok((json!({"key": name, "value": value, "path": path, "changed": changed}), text))
}

/// Returns whether a supervisor runs.
fn is_running(environment: &Environment) -> bool {
    let person = look::person(environment);
    let runtime_dir = plan::refuse_person(&person).ok();
    runtime_dir.is_some_and(|path| supervise::read_status(&places::run_dir(path)).is_some())
}

/// Returns the least command after which a daemon that runs uses the new value of `key`.
fn restart_for(key: &Key) -> &'static str {
    match key.section() {
        "daemon" => "dockerd-rootless restart",
        _ if key.name == "network.container-mtu" => "dockerd-rootless restart",
        "supervise" => "stop the daemon and start it again",
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

/// Returns the key called `name` for `value`. For `config set network driver=pasta`, the hint is what that
/// means.
fn find_assigned(name: &str, value: &OsStr) -> Result<&'static Key, Error> {
    find_key(name).map_err(|error| {
        let text = value.to_string_lossy();
        let (key, value) = text.split_once('=').unwrap_or_default();
        match Key::find(&format!("{name}.{key}")) {
            Ok(key) => {
                let value = words::quote(value.as_ref());
                error.hint(format!("dockerd-rootless config set {} {}", key.name, value.display()))
            }
            Err(_) => error,
        }
    })
}
