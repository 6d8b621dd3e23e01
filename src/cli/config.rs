//! `config`: show settings and where they come from, and edit the user's file.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::cli::output;
use crate::cli::output::Format;
use crate::cli::sources::{config_paths, layers, read_file, user_config};
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::look;
use crate::settings;
use crate::settings::{Edited, Key, Layer, Settings, statements};
use crate::sys::files;

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
    output::print(match format {
        Format::Text => output::settings_text(&settings, origin),
        Format::Json => output::settings_json(&settings),
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
    let key = find_key(name)?;
    let layers = layers(environment, assignments)?;
    let settings = Settings::resolve(&layers)?;
    output::print(match format {
        Format::Text => output::explain_text(key, &layers, &settings),
        Format::Json => output::explain_json(key, &layers, &settings),
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
    output::print(match format {
        Format::Text => output::check_text(&files, &settings.warnings),
        Format::Json => output::check_json(&files, &settings.warnings),
    })
}

/// `config path`: the files, lowest first.
///
/// # Errors
/// Fails only if standard output does.
pub fn path(environment: &Environment, format: Format) -> Result<(), Error> {
    let paths = config_paths(environment);
    output::print(match format {
        Format::Text => output::paths_text(&paths),
        Format::Json => output::paths_json(&paths),
    })
}

/// `config set KEY VALUE`; without a value `config unset KEY`. The user's file alone is read and
/// judged, so that it can be edited whatever is wrong elsewhere.
///
/// # Errors
/// Exit 2 for an unknown key; whatever is wrong with the value or the file. The file is then what
/// it was.
pub fn edit(
    environment: &Environment,
    assignments: &[OsString],
    name: &str,
    value: Option<&OsStr>,
    format: Format,
) -> Result<(), Error> {
    let key = find_key(name)?;
    let path = user_file(environment)?;
    let above = [Layer::from_environment(environment), Layer::from_assignments(assignments)?];
    let (edited, changed) = change(&path, key, value)?;
    if let Some(winner) = statements(&above, key.name).last() {
        warn!(
            "`{name}`: what counts is the {}, not the file: see `dockerd-rootless config explain {name}`",
            winner.origin
        );
    }
    let value = edited.shown.as_deref();
    output::print(match format {
        Format::Text => output::edit_text(key, value, &path, changed),
        Format::Json => output::edit_json(key, value, &path, changed),
    })
}

/// Sets `name` to `value` in the user's file, and prints nothing.
///
/// # Errors
/// As [`edit`].
pub fn set(environment: &Environment, name: &str, value: &str) -> Result<(), Error> {
    let path = user_file(environment)?;
    change(&path, find_key(name)?, Some(OsStr::new(value))).map(drop)
}

/// The user's file.
fn user_file(environment: &Environment) -> Result<PathBuf, Error> {
    user_config(environment).ok_or_else(|| {
        let what = "there is no place for your configuration file: HOME is not set";
        Error::new(Exit::Config, what).hint("export HOME=/path/to/your/home")
    })
}

/// Edits the file `path`. Returns what that made of it, and whether it is another text than before.
fn change(path: &Path, key: &Key, value: Option<&OsStr>) -> Result<(Edited, bool), Error> {
    let before = files::read_config(path, look::uid())?.unwrap_or_default();
    let edited = settings::edit(path, &before, key, value)?;
    let changed = edited.text != before;
    if changed {
        files::write_config(path, &edited.text, look::uid())?;
    }
    Ok((edited, changed))
}

/// The key called `name`, or the nearest as a hint.
fn find_key(name: &str) -> Result<&'static Key, Error> {
    Key::find(name)
        .map_err(|nearest| Error::new(Exit::Usage, format!("unknown key `{name}`")).hint(nearest))
}
