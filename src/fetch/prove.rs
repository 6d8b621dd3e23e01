//! Proves the programs that a fetch has switched to, by the daemon that runs with them. If that
//! fails, those that were in use before come back.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tracing::warn;

use crate::error::{Error, Exit};
use crate::fetch::OWN;
use crate::fetch::plan::{OURSELVES, Step, name_of, step};
use crate::fetch::store::{Store, at};
use crate::supervise;

/// Plans to restart the daemon whose supervisor has the directory `run_dir`, and to verify it.
/// What that prints goes to standard error with `is_quiet`.
pub fn prove(store: &Store, run_dir: PathBuf, is_quiet: bool) -> Step<'_> {
    let before = store.current();
    let object = format!("the daemon with `{OWN} verify`");
    step("test", object, move |_| {
        if !runs_with(store, &run_dir) {
            warn!("nothing was verified: no daemon runs with these programs yet");
            warn!("once it does: {OWN} verify");
            return Ok(false);
        }
        let failure = match tell(store, "restart", is_quiet)? {
            0 => match tell(store, "verify", is_quiet)? {
                0 => return Ok(true),
                1 => "verify",
                code => {
                    warn!("nothing was verified: `{OWN} verify` ended with {code}");
                    return Ok(false);
                }
            },
            _ => "restart",
        };
        Err(go_back(store, before.as_deref(), failure, is_quiet))
    })
}

/// Says whether the programs in our directories are those of the dockerd that runs. Another daemon
/// says nothing about them, and is left alone.
fn runs_with(store: &Store, run_dir: &Path) -> bool {
    let pid = supervise::read_status(run_dir).and_then(|status| status.dockerd);
    let program = pid.and_then(|pid| fs::read_link(format!("/proc/{pid}/exe")).ok());
    let ours = [store.root.join("versions"), store.bin_dir.clone()];
    let mut ours = ours.iter().filter_map(|path| path.canonicalize().ok());
    program.is_some_and(|program| ours.any(|ours| program.starts_with(ours)))
}

/// Runs a command of our program that is in use now, and returns how it ends.
fn tell(store: &Store, word: &str, is_quiet: bool) -> Result<i32, Error> {
    let own = store.bin(OWN);
    let program = if own.exists() { own } else { PathBuf::from(OURSELVES) };
    let mut command = Command::new(&program);
    command.arg(word).env_remove("DOCKER_HOST").stdin(Stdio::null());
    if is_quiet {
        command.stdout(io::stderr());
    }
    Ok(at(&program, command.status())?.code().unwrap_or(-1))
}

/// Switches to the set that was in use before, restarts the daemon on it, and says so.
fn go_back(store: &Store, before: Option<&str>, failed: &str, is_quiet: bool) -> Error {
    let set = store.current().unwrap_or_default();
    let now = name_of(store, &set);
    let Some(before) = before.filter(|before| *before != set) else {
        let what = format!("`{OWN} {failed}` fails with {now}, which was in use before");
        return Error::new(Exit::Failed, what).hint(format!("{OWN} check"));
    };
    let back = name_of(store, before);
    let what = format!("`{OWN} {failed}` fails with {now}; {back} is in use again");
    let error = Error::new(Exit::Failed, what).hint(format!("{OWN} status"));
    match store.switch(before).and_then(|()| tell(store, "restart", is_quiet)) {
        Ok(0) => error,
        Ok(code) => error.cause(format!("`{OWN} restart` with it ends with {code}")),
        Err(why) => why,
    }
}
