//! `nsenter`: a command inside the daemon's namespaces.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::cli::sources::layers;
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::look;
use crate::facts::places;
use crate::plan;
use crate::settings::Settings;
use crate::stage::{launch, nsenter};

/// Runs `words` inside the namespaces in place of this process; without any, the user's shell.
pub fn run(environment: &Environment, words: &[OsString]) -> Result<Exit, Error> {
    let person = look::person(environment);
    let runtime_dir = plan::refuse_person(&person)?;
    let settings = Settings::resolve(&layers(environment, &[])?)?;
    let state_dir = places::state_dir(&settings, None, runtime_dir);
    nsenter::enter(&state_dir)?;
    Err(become_command(environment, words))
}

/// Becomes the command `words`, or the user's shell without any. Returns only if that fails.
pub fn become_command(environment: &Environment, words: &[OsString]) -> Error {
    let shell = environment.get("SHELL").unwrap_or("/bin/sh".as_ref());
    let (program, rest) = match words.split_first() {
        Some((program, rest)) => (program.as_os_str(), rest),
        None => (shell, &[][..]),
    };
    let (path, _) = places::search_path(environment);
    let error = Command::new(program).args(rest).env("PATH", path).exec();
    launch::exec_error(program, &error)
}
