//! The commands: here the pure rooms and the edge meet.

pub mod check;
pub mod config;
pub mod drop_in;
pub mod fetch;
pub mod install;
pub mod nsenter;
pub mod plan;
pub mod restart;
pub mod run;
mod setup;
pub mod setup_tool;
pub mod stage;
pub mod status;
pub mod uninstall;
pub mod upgrade;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::environment::Environment;
use crate::error::Error;
use crate::os::{files, session};
use crate::settings::Layer;

/// The system's configuration file.
const SYSTEM_CONFIG: &str = "/etc/dockerd-rootless/config.toml";

/// The user's configuration file, wherever that is to be.
fn user_config(environment: &Environment) -> Option<PathBuf> {
    let home = environment.config_home()?;
    Some(home.join("dockerd-rootless/config.toml"))
}

/// Where configuration files are looked for, lowest first.
fn config_paths(environment: &Environment) -> Vec<PathBuf> {
    let user = user_config(environment);
    std::iter::once(PathBuf::from(SYSTEM_CONFIG))
        .chain(user.filter(|path| path != Path::new(SYSTEM_CONFIG)))
        .collect()
}

/// Reads one configuration file; one that does not exist says nothing.
fn read_file(path: &Path) -> Result<Option<Layer>, Error> {
    files::read_config(path, session::uid())?.map(|text| Layer::from_toml(path, &text)).transpose()
}

/// What all sources say, lowest first.
fn layers(environment: &Environment, assignments: &[OsString]) -> Result<Vec<Layer>, Error> {
    let mut layers = Vec::new();
    for path in config_paths(environment) {
        layers.extend(read_file(&path)?);
    }
    layers.push(Layer::from_environment(environment));
    layers.push(Layer::from_assignments(assignments)?);
    Ok(layers)
}
