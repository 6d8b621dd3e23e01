//! Becomes rootlesskit.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, PipeWriter};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use nix::sys::signal::{self, SigHandler, Signal};
use tracing::info;

use crate::error::{Error, Exit};
use crate::plan::LaunchPlan;
use crate::sys::{files, process, sockets};

/// Does what `plan` says and executes rootlesskit in this process: nothing of ours stays. Returns
/// only if something fails.
pub fn exec(plan: &LaunchPlan) -> Error {
    if let Some(fds) = &plan.sockets
        && let Err(error) = sockets::shelter(fds)
    {
        let what = format!("passed sockets cannot be moved to descriptor {}", fds.shelter);
        return Error::new(Exit::Failed, what).because(&error);
    }
    match command(plan) {
        Err(error) => error,
        Ok(mut command) => exec_error(plan.rootlesskit.as_os_str(), &command.exec()),
    }
}

/// Does what `plan` says and starts rootlesskit as a child, which ends with us, in a process group
/// of its own. It gets `listeners` and the keeper's end of our connection, `control`, and writes what
/// it says to `log`. It has nothing of our terminal: a terminal stops a background group that reads
/// from it, or writes to it under `stty tostop`.
pub fn spawn(
    plan: &LaunchPlan,
    listeners: &[BorrowedFd<'_>],
    control: BorrowedFd<'_>,
    log: PipeWriter,
) -> Result<Child, Error> {
    let mut command = command(plan)?;
    let failed = |error: io::Error| exec_error(plan.rootlesskit.as_os_str(), &error);
    let stdout = log.try_clone().map_err(failed)?;
    let control = [control];
    let listeners = plan.sockets.iter().map(|fds| (listeners, fds.shelter));
    for (fds, first) in listeners.chain(plan.stage.keeper.map(|fd| (&control[..], fd))) {
        // SAFETY: between fork and exec only system calls are made.
        unsafe { command.pre_exec(sockets::hand_over(fds, first)) };
    }
    // nohup(1) and background jobs of scripts ignore these, which is inherited: dockerd would never
    // hear of a reload.
    let listen = || {
        for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
            // SAFETY: the default action is no code of ours.
            unsafe { signal::signal(signal, SigHandler::SigDfl) }?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made.
    unsafe { command.pre_exec(listen) };
    process::tie(&mut command)
        // A terminal and `kill %1` signal a whole group. What means the daemon is to reach it once,
        // by us: rootlesskit passes on as well, and dockerd takes a third SIGINT for impatience.
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(log)
        .spawn()
        .map_err(failed)
}

/// Removes what is stale, and returns rootlesskit's command.
fn command(plan: &LaunchPlan) -> Result<Command, Error> {
    for (path, why) in &plan.removals {
        info!("removing the stale file {}: {why}", path.display());
        files::if_there(fs::remove_file(path)).map_err(|error| {
            let what = format!("the stale file `{}` cannot be removed", path.display());
            Error::new(Exit::Failed, what).because(&error)
        })?;
    }
    let mut command = Command::new(&plan.rootlesskit);
    command.args(&plan.args);
    for name in plan.environment.unset.keys() {
        command.env_remove(name);
    }
    command.envs(plan.environment.set.iter().map(|(name, (value, _))| (name, value)));
    Ok(command)
}

/// The error for a `program` that could not be executed, with the shell's exit codes.
pub fn exec_error(program: &OsStr, error: &io::Error) -> Error {
    let is_missing = error.kind() == io::ErrorKind::NotFound;
    let exit = if is_missing { Exit::NotFound } else { Exit::CannotRun };
    let what = format!("`{}` cannot be executed", program.display());
    let failed = Error::new(exit, what).because(error);
    if error.kind() != io::ErrorKind::ArgumentListTooLong {
        return failed;
    }
    failed.hint("an argument or a variable is too long, or all of them together are: shorten them")
}

/// Removes the empty directories that a rootlesskit left in /tmp which began at `begin` and was killed
/// early: of its copy-up, which are there whatever TMPDIR says (`pkg/copyup/tmpfssymlink`), and of its
/// sysfs. It removes them itself within the minute.
pub fn remove_bind_directories(begin: SystemTime) {
    let own = crate::facts::look::uid();
    let times = begin..begin + Duration::from_secs(60);
    for entry in fs::read_dir("/tmp").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_named = [&b"rootlesskit-b"[..], b"rksys"]
            .iter()
            .any(|begin| name.as_bytes().starts_with(begin));
        let is_its = |found: fs::Metadata| {
            found.uid() == own && found.modified().is_ok_and(|time| times.contains(&time))
        };
        if is_named && entry.metadata().is_ok_and(is_its) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}
