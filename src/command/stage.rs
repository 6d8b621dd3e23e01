//! The hidden command that rootlesskit runs inside its namespaces.

use std::ffi::OsString;

use crate::environment::Environment;
use crate::error::Error;
use crate::os::namespace;
use crate::plan::Stage;

/// Performs the stage that `words` describe and becomes the daemon.
///
/// # Errors
/// Returns only if a step fails, or if this is not the inside of a namespace.
pub fn run(words: &[OsString], environment: &Environment) -> Result<(), Error> {
    Err(namespace::perform(&Stage::parse(words)?, environment))
}
