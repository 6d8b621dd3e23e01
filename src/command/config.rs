//! `config`: show settings and where they come from.

use std::ffi::OsString;

use super::{config_paths, layers, read_file};
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::report::{self, Format};
use crate::settings::{Key, Settings};

/// `config show [--origin]`.
///
/// # Errors
/// Whatever is wrong with the settings.
pub fn show(
    environment: &Environment,
    assignments: &[OsString],
    origin: bool,
    format: Format,
) -> Result<(), Error> {
    let settings = Settings::resolve(&layers(environment, assignments)?)?;
    report::print(&match format {
        Format::Text => report::settings_text(&settings, origin),
        Format::Json => report::settings_json(&settings),
    })
}

/// `config explain KEY`.
///
/// # Errors
/// Exit 2 for an unknown key; whatever is wrong with the settings.
pub fn explain(
    environment: &Environment,
    assignments: &[OsString],
    name: &str,
) -> Result<(), Error> {
    let key = Key::find(name).map_err(|nearest| {
        Error::new(Exit::Usage, format!("unknown key `{name}`")).hint(nearest)
    })?;
    let layers = layers(environment, assignments)?;
    let settings = Settings::resolve(&layers)?;
    report::print(report::explain_text(key, &layers, &settings))
}

/// `config check`: one line per file and what is odd, or the first error.
///
/// # Errors
/// Whatever is wrong with the settings.
pub fn check(environment: &Environment, assignments: &[OsString]) -> Result<(), Error> {
    let mut lines = String::new();
    for path in config_paths(environment) {
        let state = if read_file(&path)?.is_some() {
            "valid"
        } else {
            "absent"
        };
        lines.push_str(&format!("{}: {state}\n", path.display()));
    }
    let settings = Settings::resolve(&layers(environment, assignments)?)?;
    lines.push_str("environment: valid\n");
    lines.extend(
        settings
            .warnings
            .iter()
            .map(|warning| format!("warning: {}\n", warning.0)),
    );
    report::print(lines.as_bytes())
}

/// `config path`: the files, lowest first.
///
/// # Errors
/// Fails only if standard output does.
pub fn path(environment: &Environment) -> Result<(), Error> {
    let lines: String = config_paths(environment)
        .iter()
        .map(|path| format!("{}\n", path.display()))
        .collect();
    report::print(lines.as_bytes())
}
