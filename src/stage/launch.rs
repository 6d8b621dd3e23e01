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
use crate::sys::{process, sockets};

/// Does what `plan` says and executes rootlesskit in this process: nothing of ours stays. Returns
/// only if something fails.
pub fn exec(plan: &LaunchPlan) -> Error {
    let sheltered = plan.sockets.iter().try_for_each(|fds| {
        sockets::shelter(fds).map_err(|error| {
            let what = format!(
                "{} passed socket(s) cannot be moved to descriptor {}",
                fds.count, fds.shelter
            );
            Error::new(Exit::Failed, what).because(&error)
        })
    });
    match sheltered.and_then(|()| command(plan)) {
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
    let listeners = plan.sockets.iter().map(|fds| (listeners, fds.shelter));
    let control = [control];
    let control = plan.stage.keeper.map(|fd| (&control[..], fd));
    for (fds, first) in listeners.chain(control) {
        let give = sockets::hand_over(fds, first);
        // SAFETY: between fork and exec only system calls are made.
        unsafe { command.pre_exec(give) };
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
        let removed = fs::remove_file(path);
        if let Err(error) = removed.or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        }) {
            let what = format!("the stale file `{}` cannot be removed", path.display());
            return Err(Error::new(Exit::Failed, what).because(&error));
        }
    }
    let mut command = Command::new(&plan.rootlesskit);
    command.args(&plan.args);
    for name in plan.environment.unset.keys() {
        command.env_remove(name);
    }
    for (name, (value, _)) in &plan.environment.set {
        command.env(name, value);
    }
    Ok(command)
}

/// The error for a `program` that could not be executed, with the shell's exit codes.
pub fn exec_error(program: &OsStr, error: &io::Error) -> Error {
    let exit =
        if error.kind() == io::ErrorKind::NotFound { Exit::NotFound } else { Exit::CannotRun };
    let failed =
        Error::new(exit, format!("`{}` cannot be executed", program.display())).because(error);
    match error.raw_os_error() {
        Some(nix::libc::E2BIG) => failed.hint(
            "an argument or a variable is too long, or all of them together are: shorten them",
        ),
        _ => failed,
    }
}

/// How the names of rootlesskit's directories in /tmp begin: of its copy-up, and of its sysfs.
const BIND_NAMES: [&[u8]; 2] = [b"rootlesskit-b", b"rksys"];

/// Longer than rootlesskit takes to begin.
const BEGINS: Duration = Duration::from_secs(60);

/// Removes the empty directories that a rootlesskit left in /tmp which began at `begin` and was killed
/// early. Its copy-up makes them there whatever TMPDIR says (`pkg/copyup/tmpfssymlink`), and removes
/// them a moment later.
pub fn remove_bind_directories(begin: SystemTime) {
    let own = crate::facts::look::uid();
    let times = begin..begin + BEGINS;
    for entry in fs::read_dir("/tmp").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_named = BIND_NAMES.iter().any(|own| name.as_bytes().starts_with(own));
        let is_its = |found: &fs::Metadata| {
            found.uid() == own && found.modified().is_ok_and(|time| times.contains(&time))
        };
        if is_named && entry.metadata().is_ok_and(|found| is_its(&found)) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}
