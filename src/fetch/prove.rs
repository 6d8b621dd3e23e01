//! Proves the programs that a fetch has switched to, by the daemon that runs with them. If that
//! fails, those that were in use before come back.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use tracing::warn;

use crate::error::{Error, Exit};
use crate::fetch::OWN;
use crate::fetch::plan::{Made, OURSELVES, Step, name_of, step};
use crate::fetch::store::{Store, at};
use crate::supervise::{self, DOCKERD, Status};

/// What `verify` finds.
pub struct Found {
    code: i32,
    /// The questions that fail.
    failed: BTreeSet<String>,
}

/// Adds to `steps` to restart the daemon whose supervisor has the directory `run_dir`, and to
/// verify it, before the switch and after it. What that prints goes to standard error with
/// `is_quiet`.
pub fn prove<'a>(store: &'a Store, run_dir: PathBuf, is_quiet: bool, steps: &mut Vec<Step<'a>>) {
    for (_, _, act) in steps.iter_mut().filter(|(verb, ..)| *verb == "switch") {
        let switch = std::mem::replace(act, Box::new(|_| Ok(false)));
        let run_dir = run_dir.clone();
        *act = Box::new(move |made| {
            let is_new = store.current().is_some() && store.current() != made.set;
            // What fails already is no fault of the new version.
            if is_new && running(store, &run_dir).is_some_and(|status| !is_busy(&status)) {
                warn!("the daemon that runs is verified before the switch");
                made.earlier = Some(verify(|_| ())?);
            }
            switch(made)
        });
    }
    let object = format!("the daemon with `{OWN} verify`");
    steps.push(step("test", object, move |made| test(store, &run_dir, is_quiet, made)));
}

/// Restarts the daemon if its programs have changed, and verifies it.
fn test(store: &Store, run_dir: &Path, is_quiet: bool, made: &Made) -> Result<bool, Error> {
    let Some(status) = running(store, run_dir) else {
        warn!("nothing was verified: no daemon runs with these programs yet");
        warn!("once it does: {OWN} verify");
        return Ok(false);
    };
    if made.replaced.is_some() || supervise::newer_programs(&status).contains(&DOCKERD) {
        if is_busy(&status) {
            warn!("nothing was verified: containers run, and would stop if dockerd was restarted");
            warn!("once they may stop: {OWN} restart && {OWN} verify");
            return Ok(false);
        }
        if restart(store, is_quiet)? != 0 {
            return Err(go_back(store, run_dir, made, "restart", is_quiet));
        }
    }
    // The answer counts also where no one reads it any more.
    let found = verify(|line| {
        let _ = match is_quiet {
            true => writeln!(io::stderr(), "{line}"),
            false => writeln!(io::stdout(), "{line}"),
        };
    })?;
    let newer = supervise::read_status(run_dir).map(|status| supervise::newer_programs(&status));
    if let Some(newer) = newer.filter(|newer| !newer.is_empty()) {
        warn!("not verified: the new {}, since the old one still runs", newer.join(" and "));
        warn!("to stop containers and verify all: {OWN} restart --all && {OWN} verify");
    }
    match found.code {
        0 => Ok(true),
        _ if found.is_as_bad_as(made.earlier.as_ref()) => {
            let now = name_of(store, made.set.as_deref().unwrap_or_default());
            let what = format!("`{OWN} verify` fails with {now}, as it did before; {now} stays");
            Err(Error::new(Exit::Failed, what).hint(format!("{OWN} check")))
        }
        _ => Err(go_back(store, run_dir, made, "verify", is_quiet)),
    }
}

impl Found {
    /// Says whether all that fails failed before.
    fn is_as_bad_as(&self, earlier: Option<&Self>) -> bool {
        // Without a question that fails, the daemon could not be asked at all.
        let is_known = |earlier: &Self| match self.failed.is_empty() {
            true => earlier.code != 0 && earlier.failed.is_empty(),
            false => self.failed.is_subset(&earlier.failed),
        };
        earlier.is_some_and(is_known)
    }
}

/// Returns the status of the daemon if the dockerd that runs is a program in our directories.
/// Another daemon says nothing about them, and is left alone.
fn running(store: &Store, run_dir: &Path) -> Option<Status> {
    let status = supervise::read_status(run_dir)?;
    let program = fs::read_link(format!("/proc/{}/exe", status.dockerd?)).ok()?;
    let ours = [store.root.join("versions"), store.bin_dir.clone()];
    let mut ours = ours.iter().filter_map(|path| path.canonicalize().ok());
    ours.any(|ours| program.starts_with(ours)).then_some(status)
}

/// Says whether a restart of dockerd would stop containers.
fn is_busy(status: &Status) -> bool {
    let runs = || status.socket.as_deref().is_none_or(supervise::runs_containers);
    !status.keeps_containers && runs()
}

/// Has the program that is in use now restart dockerd, and returns how that ends.
fn restart(store: &Store, is_quiet: bool) -> Result<i32, Error> {
    let own = store.bin(OWN);
    let program = if own.exists() { own } else { PathBuf::from(OURSELVES) };
    let mut command = Command::new(&program);
    command.arg("restart").env_remove("DOCKER_HOST").stdin(Stdio::null());
    if is_quiet {
        command.stdout(io::stderr());
    }
    at(&program, command.status()).map(code)
}

/// Verifies the daemon with this very program, since an earlier one may not know how. Hands each
/// line that it prints to `tell`.
fn verify(tell: impl Fn(&str)) -> Result<Found, Error> {
    let mut command = Command::new(OURSELVES);
    command.arg("verify").env_remove("DOCKER_HOST").env_remove("CLICOLOR_FORCE");
    let program = Path::new(OURSELVES);
    let mut child = at(program, command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn())?;
    let lines = child.stdout.take().map(|stdout| BufReader::new(stdout).lines());
    let mut failed = BTreeSet::new();
    for line in lines.into_iter().flatten().map_while(Result::ok) {
        tell(&line);
        let name = line.strip_prefix("FAIL  ").and_then(|row| row.split(' ').next());
        failed.extend(name.map(str::to_owned));
    }
    let code = code(at(program, child.wait())?);
    // SIGHUP, SIGINT and SIGTERM say nothing about the daemon.
    if let code @ (129 | 130 | 143) = code {
        let error = Error::new(Exit::Daemon(code as u8), "nothing was verified: a signal came");
        return Err(error.hint(format!("{OWN} verify")));
    }
    Ok(Found { code, failed })
}

/// Returns how a process ended, as shells do.
fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// Switches to the set that was in use before, restarts the daemon on it, and says so.
fn go_back(store: &Store, run_dir: &Path, made: &Made, failed: &str, is_quiet: bool) -> Error {
    let now = name_of(store, made.set.as_deref().unwrap_or_default());
    let Some(before) = made.replaced.as_deref() else {
        let what = format!("`{OWN} {failed}` fails with {now}, which was in use before");
        return Error::new(Exit::Failed, what).hint(format!("{OWN} check"));
    };
    let back = name_of(store, before);
    let what = format!("`{OWN} {failed}` fails with {now}; {back} is in use again");
    let error = Error::new(Exit::Failed, what).hint(format!("{OWN} status"));
    if let Err(why) = store.switch(before) {
        return why;
    }
    if running(store, run_dir).is_some_and(|status| is_busy(&status)) {
        let error = error.cause("dockerd was not restarted with it: containers would stop");
        return error.hint(format!("once they may stop: {OWN} restart"));
    }
    match restart(store, is_quiet) {
        Ok(0) => error,
        Ok(code) => error.cause(format!("`{OWN} restart` with it ends with {code}")),
        Err(why) => why,
    }
}
