//! What the supervisor knows, in the file that `status` reads.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tracing::debug;

use crate::supervise::{MOMENT, State, Supervisor, Then, read_status};
use crate::sys::processes::{self, Identity};

/// The parts that can be replaced in place.
pub const SUPERVISOR: &str = "supervisor";
pub const DOCKERD: &str = "dockerd";

/// What `status` tells. Times are in seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// `starting`, `ready`, `degraded` (see `problems`), `healing` (the network helper is being
    /// restarted), `replacing` (dockerd alone is), `restarting` (everything is) or `stopping`.
    pub state: String,
    /// Since when it is in this state.
    pub since: u64,
    /// The PIDs.
    pub supervisor: u32,
    pub rootlesskit: Option<u32>,
    pub keeper: Option<u32>,
    pub dockerd: Option<u32>,
    pub containerd: Option<u32>,
    pub helper: Option<u32>,
    pub socket: Option<PathBuf>,
    /// What keeps that socket: `supervisor`, `service manager` or `dockerd`.
    pub socket_of: String,
    pub network_driver: String,
    pub port_driver: String,
    /// What containers see of clients at published ports.
    pub clients: String,
    pub dockerd_version: Option<String>,
    pub rootlesskit_version: Option<String>,
    /// Whether containers keep running while dockerd is replaced.
    pub keeps_containers: bool,
    /// What is wrong while the daemon runs, a sentence each.
    pub problems: Vec<String>,
    /// How often everything was restarted, dockerd alone, and the network helper.
    pub restarts: u32,
    pub replaced: u32,
    pub heals: u32,
    /// Why the daemon or the network helper ended the last time, and when.
    pub last_failure: Option<String>,
    pub last_failure_at: Option<u64>,
}

impl Status {
    /// Whether the daemon takes requests.
    pub fn is_ready(&self) -> bool {
        ["ready", "degraded", "healing"].contains(&self.state.as_str())
    }
}

impl Supervisor<'_> {
    pub(super) fn write_status(&mut self) {
        let state = match self.machine.state {
            State::Starting if self.machine.restarts > 0 => "restarting",
            State::Starting => "starting",
            State::Ready if self.launch.healing.is_some() => "healing",
            State::Ready if self.problems.is_empty() => "ready",
            State::Ready => "degraded",
            State::Replacing(_) | State::Pausing | State::Reviving => "replacing",
            State::Stopping(Then::Leave(_)) | State::Over => "stopping",
            State::Stopping(_) | State::Clearing(..) | State::Waiting => "restarting",
        };
        let (status, launch) = (&mut self.status, &self.launch);
        if status.state != state {
            status.state = state.to_owned();
            status.since = now();
        }
        let pid = |identity: Option<Identity>| identity.map(|identity| identity.pid);
        status.supervisor = std::process::id();
        status.socket = self.running.api.path().map(Into::into);
        status.socket_of = self.running.api.keeper().to_owned();
        status.rootlesskit = launch.rootlesskit;
        status.keeper = pid(launch.keeper);
        status.dockerd = pid(launch.daemon);
        status.containerd = pid(launch.engine);
        status.helper = pid(launch.helper.as_ref().map(|helper| helper.identity));
        status.keeps_containers = self.running.keep.live_restore;
        status.problems = self.problems.values().cloned().collect();
        status.restarts = self.machine.restarts;
        status.replaced = self.machine.replaced;
        if let Err(error) = self.task.run_dir.write(status) {
            debug!("cannot write the status: {error}");
        }
    }
}

/// Returns the time in seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Returns the parts whose programs on disk differ from those that run.
pub fn newer_programs(status: &Status) -> Vec<&'static str> {
    let parts = [
        ("rootlesskit", status.rootlesskit),
        (DOCKERD, status.dockerd),
        (SUPERVISOR, Some(status.supervisor)),
        ("containerd", status.containerd),
    ];
    let is_supervised = status.supervisor > 0;
    let newer = parts.into_iter().filter(|(_, pid)| is_supervised && pid.is_some_and(is_outdated));
    newer.map(|(part, _)| part).collect()
}

/// Says whether the program of a process is no longer the file of its name. Unknown counts as no.
fn is_outdated(pid: u32) -> bool {
    let program = processes::program(pid);
    // The path that it was started by may be a link, which leads to another version by now. Where a
    // script names itself in place of the program that it becomes, it leads to the script.
    let is_same_name = |path: &PathBuf| {
        let leads_to = path.canonicalize().unwrap_or_else(|_| path.clone());
        program.as_ref().and_then(|program| program.file_name()) == leads_to.file_name()
    };
    let started = processes::words(pid).into_iter().next().map(PathBuf::from);
    let path = started.filter(|path| path.is_absolute() && is_same_name(path)).or(program.clone());
    let (Ok(running), Some(path)) = (fs::metadata(format!("/proc/{pid}/exe")), path) else {
        return false;
    };
    fs::metadata(path).map_or(true, |now| (now.dev(), now.ino()) != (running.dev(), running.ino()))
}

/// Waits until the supervisor whose directory is `run_dir` is ready, or `time` is over, and returns its
/// status then.
pub fn wait_until_ready(run_dir: &Path, time: Duration) -> Option<Status> {
    let deadline = Instant::now() + time;
    loop {
        let status = read_status(run_dir);
        if Instant::now() >= deadline || status.as_ref().is_some_and(Status::is_ready) {
            return status;
        }
        std::thread::sleep(MOMENT);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_program_is_outdated_if_its_name_leads_to_another_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        for version in ["1", "2"] {
            fs::create_dir(at(version)).expect("a directory");
            // By another process: what a parallel test forks may hold our descriptor of the copy.
            let copied =
                Command::new("cp").arg("/bin/sleep").arg(at(version).join("sleep")).status();
            assert!(copied.is_ok_and(|status| status.success()));
        }
        symlink(at("1/sleep"), at("sleep")).expect("a link");
        fs::write(at("wrapper"), "#!/bin/sh\n").expect("a file");
        let run = |name: &str| {
            let mut command = Command::new(at("1/sleep"));
            command.arg0(at(name)).arg("600").spawn().expect("sleep")
        };
        let mut linked = run("sleep");
        let mut wrapped = run("wrapper");
        assert_eq!([&linked, &wrapped].map(|child| is_outdated(child.id())), [false, false]);
        fs::remove_file(at("sleep")).expect("a link");
        symlink(at("2/sleep"), at("sleep")).expect("a link");
        assert_eq!([&linked, &wrapped].map(|child| is_outdated(child.id())), [true, false]);
        fs::rename(at("2/sleep"), at("1/sleep")).expect("a file");
        assert_eq!([&linked, &wrapped].map(|child| is_outdated(child.id())), [true, true]);
        for child in [&mut linked, &mut wrapped] {
            child.kill().expect("our child");
            child.wait().expect("it ends");
        }
    }
}
