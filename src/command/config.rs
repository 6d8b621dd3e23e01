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
    report::print(match format {
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
    format: Format,
) -> Result<(), Error> {
    let key = Key::find(name).map_err(|nearest| {
        Error::new(Exit::Usage, format!("unknown key `{name}`")).hint(nearest)
    })?;
    let layers = layers(environment, assignments)?;
    let settings = Settings::resolve(&layers)?;
    report::print(match format {
        Format::Text => report::explain_text(key, &layers, &settings),
        Format::Json => report::explain_json(key, &layers, &settings),
    })
}

/// `config check`: which files there are and what is odd, or the first error.
///
/// # Errors
/// Whatever is wrong with the settings.
pub fn check(
    environment: &Environment,
    assignments: &[OsString],
    format: Format,
) -> Result<(), Error> {
    let mut files = Vec::new();
    for path in config_paths(environment) {
        let exists = read_file(&path)?.is_some();
        files.push((path, exists));
    }
    let settings = Settings::resolve(&layers(environment, assignments)?)?;
    report::print(match format {
        Format::Text => report::check_text(&files, &settings.warnings),
        Format::Json => report::check_json(&files, &settings.warnings),
    })
}

/// `config path`: the files, lowest first.
///
/// # Errors
/// Fails only if standard output does.
pub fn path(environment: &Environment, format: Format) -> Result<(), Error> {
    let paths = config_paths(environment);
    report::print(match format {
        Format::Text => report::paths_text(&paths),
        Format::Json => report::paths_json(&paths),
    })
}
