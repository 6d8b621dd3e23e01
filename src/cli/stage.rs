//! The hidden command that rootlesskit runs inside its namespaces.

use std::ffi::OsString;

use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::plan::Stage;
use crate::stage::namespace;

/// Performs the stage that `words` describe, and becomes the daemon or stays as its parent.
pub fn run(words: &[OsString], environment: &Environment) -> Result<Exit, Error> {
    namespace::perform(&Stage::parse(words)?, environment)
}
