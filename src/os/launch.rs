//! Becomes rootlesskit.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use tracing::info;

use super::sockets;
use crate::error::{Error, Exit};
use crate::plan::LaunchPlan;

/// Does what `plan` says and executes rootlesskit in this process: nothing of ours stays.
///
/// # Errors
/// Returns only if something fails.
pub fn exec(plan: &LaunchPlan) -> Error {
    for (path, why) in &plan.removals {
        info!("removing the stale file {}: {why}", path.display());
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Error::new(
                    Exit::Failed,
                    format!("the stale file `{}` cannot be removed", path.display()),
                )
                .because(&error);
            }
            _ => {}
        }
    }
    if let Some(fds) = &plan.sockets
        && let Err(error) = sockets::shelter(fds)
    {
        return Error::new(
            Exit::Failed,
            format!(
                "{} passed socket(s) cannot be moved to descriptor {}",
                fds.count, fds.shelter
            ),
        )
        .because(&error);
    }
    let mut command = Command::new(&plan.rootlesskit);
    command.args(&plan.words);
    for name in plan.environment.unset.keys() {
        command.env_remove(name);
    }
    for (name, (value, _)) in &plan.environment.set {
        command.env(name, value);
    }
    exec_error(plan.rootlesskit.as_os_str(), &command.exec())
}

/// The error for a `program` that could not be executed, with the shell's exit codes.
pub fn exec_error(program: &OsStr, error: &io::Error) -> Error {
    let exit = if error.kind() == io::ErrorKind::NotFound {
        Exit::NotFound
    } else {
        Exit::CannotRun
    };
    let failed =
        Error::new(exit, format!("`{}` cannot be executed", program.display())).because(error);
    match error.raw_os_error() {
        Some(nix::libc::E2BIG) => failed.hint(
            "an argument or a variable is too long, or all of them together are: shorten them",
        ),
        _ => failed,
    }
}
