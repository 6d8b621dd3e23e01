//! What the supervisor knows, in the file that `status` reads.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tracing::debug;

use crate::supervise::{MOMENT, State, Supervisor, Then, read_status};

/// The parts that can be replaced in place.
pub const SUPERVISOR: &str = "supervisor";
pub const DOCKERD: &str = "dockerd";

/// What `status` tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// `starting`, `ready`, `degraded` (see `problems`), `healing` (the network helper is being
    /// restarted), `replacing` (dockerd alone is), `restarting` (everything is) or `stopping`.
    pub state: String,
    /// Since when it is in this state, in seconds since 1970.
    pub since: u64,
    /// The processes.
    pub supervisor: u32,
    pub rootlesskit: Option<u32>,
    pub keeper: Option<u32>,
    pub dockerd: Option<u32>,
    pub containerd: Option<u32>,
    pub helper: Option<u32>,
    /// The daemon's socket, if it is known.
    pub socket: Option<PathBuf>,
    /// What keeps that socket: `supervisor`, `service manager` or `dockerd`.
    pub socket_of: String,
    pub network_driver: String,
    pub port_driver: String,
    pub dockerd_version: Option<String>,
    pub rootlesskit_version: Option<String>,
    /// Whether containers keep running while dockerd is replaced.
    pub keeps_containers: bool,
    /// What is wrong while the daemon runs, a sentence each.
    pub problems: Vec<String>,
    /// How often everything was restarted, containers included.
    pub restarts: u32,
    /// How often dockerd alone was.
    pub replaced: u32,
    /// How often the network helper was.
    pub heals: u32,
    /// Why the daemon or the network helper ended the last time.
    pub last_failure: Option<String>,
    /// When that was, in seconds since 1970.
    pub last_failure_at: Option<u64>,
    pub programs: Vec<ProgramFile>,
}

impl Status {
    /// Whether the daemon takes requests.
    pub fn is_ready(&self) -> bool {
        ["ready", "degraded", "healing"].contains(&self.state.as_str())
    }
}

/// The file of a program that runs, as it was when the program started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramFile {
    /// `rootlesskit`, `dockerd`, `containerd`, or `supervisor`, which is this program.
    #[serde(default)]
    pub part: String,
    pub path: PathBuf,
    pub device: u64,
    pub inode: u64,
    /// When it was last changed, in nanoseconds since 1970.
    pub changed: i128,
}

impl ProgramFile {
    fn find(part: &str, path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        Some(Self {
            part: part.to_owned(),
            path: path.to_owned(),
            device: found.dev(),
            inode: found.ino(),
            changed: i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec()),
        })
    }
}

impl Supervisor<'_> {
    /// Notes the files of all programs that run.
    pub(super) fn note_programs(&mut self) {
        self.status.programs.clear();
        for part in ["rootlesskit", DOCKERD, SUPERVISOR, "containerd"] {
            self.note_program(part);
        }
    }

    /// Notes the file of this `part` alone.
    pub(super) fn note_program(&mut self, part: &str) {
        let path = match part {
            DOCKERD => Some(PathBuf::from(&self.running.command[0])),
            SUPERVISOR => std::env::current_exe().ok(),
            "containerd" => {
                self.running.keep.engine.as_ref().map(|engine| PathBuf::from(&engine.command[0]))
            }
            _ => Some(self.running.rootlesskit.clone()),
        };
        let programs = &mut self.status.programs;
        programs.retain(|program| program.part != part);
        programs.extend(path.and_then(|path| ProgramFile::find(part, &path)));
    }

    pub(super) fn write_status(&mut self) {
        let state = match self.machine.state {
            State::Starting if self.machine.restarts > 0 => "restarting",
            State::Starting => "starting",
            State::Ready if self.problems.is_empty() => "ready",
            State::Ready => "degraded",
            State::Healing(_) => "healing",
            State::Dumping | State::Replacing(_) | State::Pausing | State::Reviving => "replacing",
            State::Stopping(Then::Leave(_)) | State::Over => "stopping",
            State::Falling | State::Stopping(_) | State::Clearing(..) | State::Waiting => {
                "restarting"
            }
        };
        let (status, launch) = (&mut self.status, &self.launch);
        if status.state != state {
            status.state = state.to_owned();
            status.since = now();
        }
        status.rootlesskit = launch.rootlesskit;
        status.keeper = launch.keeper.map(|keeper| keeper.pid);
        status.dockerd = launch.daemon.as_ref().map(|(identity, _)| identity.pid);
        status.containerd = launch.engine.map(|engine| engine.pid);
        status.helper = launch.helper.as_ref().map(|helper| helper.identity.pid);
        status.keeps_containers = self.running.keep.live_restore;
        status.problems = self.problems.values().cloned().collect();
        status.restarts = self.machine.restarts;
        status.replaced = self.machine.replaced;
        status.heals = self.machine.heals;
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
pub fn newer_programs(status: &Status) -> Vec<String> {
    let is_other =
        |own: &&ProgramFile| ProgramFile::find(&own.part, &own.path).as_ref() != Some(own);
    status.programs.iter().filter(is_other).map(|own| own.part.clone()).collect()
}

/// Waits until the supervisor whose directory is `run_dir` is ready, or `time` is over. A supervisor
/// that has not begun yet is waited for too. Returns its status then.
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
