//! The hidden command that rootlesskit runs inside its namespaces.

use std::ffi::OsString;

use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::plan::Stage;
use crate::stage::{keeper, namespace};

/// Performs the stage that `args` describe and becomes the daemon, or stays as its parent.
pub fn run(args: &[OsString], environment: &Environment) -> Result<Exit, Error> {
    let stage = Stage::parse(args)?;
    let prepared = namespace::prepare(&stage, environment)?;
    match stage.keeper {
        Some(control) => keeper::keep(prepared, control, environment),
        None => Err(namespace::execute(prepared.command(&stage.daemon))),
    }
}
