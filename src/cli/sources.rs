//! Where settings come from: configuration files, the environment, the command line.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::environment::Environment;
use crate::error::Error;
use crate::facts::look;
use crate::settings::{Layer, SYSTEM_CONFIG};
use crate::sys::files;

/// Returns the path of the user's configuration file.
pub(super) fn user_config(environment: &Environment) -> Option<PathBuf> {
    Some(environment.config_home()?.join("dockerd-rootless/config.toml"))
}

/// Returns the paths of configuration files, lowest first.
pub(super) fn config_paths(environment: &Environment) -> Vec<PathBuf> {
    let mut paths = vec![PathBuf::from(SYSTEM_CONFIG)];
    paths.extend(user_config(environment));
    paths.dedup();
    paths
}

/// Reads one configuration file, if it exists.
pub(super) fn read_file(path: &Path) -> Result<Option<Layer>, Error> {
    files::read_config(path, look::uid())?.map(|text| Layer::from_toml(path, &text)).transpose()
}

/// Reads all sources, lowest first.
pub(super) fn layers(
    environment: &Environment,
    assignments: &[OsString],
) -> Result<Vec<Layer>, Error> {
    Layer::refuse_misspelt(environment)?;
    let mut layers = Vec::new();
    for path in config_paths(environment) {
        layers.extend(read_file(&path)?);
    }
    layers.push(Layer::from_environment(environment));
    layers.push(Layer::from_assignments(assignments)?);
    Ok(layers)
}
