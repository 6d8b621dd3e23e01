//! Tells what happens: in the log, in the status, to the service manager.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sd_notify::NotifyState;
use tracing::{debug, info, warn};

use super::{MOMENT, Supervisor, read_status};
use crate::supervise::{How, Notice, ProgramFile, State, Status, Then};

impl Supervisor<'_> {
    pub(super) fn tell(&mut self, notice: Notice) {
        let text = match notice {
            Notice::Up => "rootless Docker is ready".to_owned(),
            Notice::Died(_) => self.death.clone(),
            Notice::StartTimedOut => format!(
                "the start is given up after {} s: {}",
                self.task.start.as_secs(),
                self.launch.phase
            ),
            Notice::Hung => "dockerd does not answer any more: it is asked for a dump and killed".to_owned(),
            Notice::EngineLost => "dockerd answers, but its containerd does not".to_owned(),
            Notice::EngineHung => {
                "containerd is still not back: it is killed if it hangs".to_owned()
            }
            Notice::EngineBack => "containerd answers again".to_owned(),
            Notice::EngineGivenUp => "containerd did not come back: everything starts again".to_owned(),
            Notice::HelperLost => "the network helper ended: it is started again".to_owned(),
            Notice::HelperBack => "the network is back".to_owned(),
            Notice::HelperGivenUp => "the network does not come back: everything starts again".to_owned(),
            Notice::PlacesGone => "somebody has removed files of the daemon's in the runtime directory: everything starts again".to_owned(),
            Notice::Idle => "nobody uses the daemon: it ends until somebody does".to_owned(),
            Notice::Stopping => "rootless Docker is being stopped".to_owned(),
            Notice::Hurry => "asked a second time: everything is killed".to_owned(),
            Notice::StopTimedOut => "the daemon did not end in its time: everything is killed".to_owned(),
            Notice::Restarting(pause) => format!("the daemon starts again in {:.1} s", pause.as_secs_f64()),
        };
        match notice {
            Notice::Up
            | Notice::EngineBack
            | Notice::HelperBack
            | Notice::Idle
            | Notice::Stopping
            | Notice::Restarting(_) => info!("{text}"),
            _ => {
                warn!("{text}");
                if !matches!(notice, Notice::Died(_) | Notice::Hurry) {
                    self.note_failure(text.clone());
                }
            }
        }
        let status = NotifyState::Status(&text);
        match notice {
            Notice::Up => tell(&[NotifyState::Ready, status]),
            _ => tell(&[status]),
        }
    }

    pub(super) fn note_failure(&mut self, what: String) {
        self.status.last_failure = Some(what);
        self.status.last_failure_at = Some(now());
    }

    pub(super) fn write_status(&mut self) {
        let state = match self.machine.state {
            State::Starting if self.machine.restarts > 0 => "restarting",
            State::Starting => "starting",
            State::Ready => "ready",
            State::Degraded(_) => "degraded",
            State::Healing(_) => "healing",
            State::Stopping(Then::Leave(_)) => "stopping",
            State::Falling | State::Stopping(_) | State::Clearing(..) | State::Waiting => {
                "restarting"
            }
            State::Over => "stopping",
        };
        if self.status.state != state {
            self.status.state = state.to_owned();
            self.status.since = now();
        }
        let status = &mut self.status;
        status.rootlesskit = self.launch.rootlesskit;
        status.dockerd = self.launch.daemon_pid();
        status.containerd = self.launch.containerd;
        status.helper = self
            .launch
            .helper
            .as_ref()
            .map(|helper| helper.identity.pid);
        status.restarts = self.machine.restarts;
        status.heals = self.machine.heals;
        if let Err(error) = self.task.run_dir.write(&self.status) {
            debug!("the status cannot be written: {error}");
        }
    }
}

/// Tells the service manager, if there is one.
pub(super) fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!("the service manager cannot be told: {error}");
    }
}

pub(super) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// rootlesskit's code if a signal ended its child. The keeper tells of dockerd's signals otherwise.
const FLATTENED: u8 = 255;

/// How the daemon ended, or what took it along, by the way in which rootlesskit ended.
pub(super) fn death_of(end: How) -> String {
    match end {
        How::Signal(_) => format!("rootlesskit was ended by {end}, and the daemon with it"),
        How::Code(FLATTENED) => {
            "rootlesskit's child was ended by a signal, and the daemon with it".to_owned()
        }
        How::Code(code) => match How::passed_on(code) {
            how @ How::Code(_) => format!("the daemon ended with {how}"),
            how @ How::Signal(_) => format!("the daemon was ended by {how}"),
        },
    }
}

/// The file of a program.
pub(super) fn program_file(path: &Path) -> Option<ProgramFile> {
    let found = fs::metadata(path).ok()?;
    Some(ProgramFile {
        path: path.to_owned(),
        device: found.dev(),
        inode: found.ino(),
        changed: i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec()),
    })
}

/// Whether the programs on disk are others than those that run.
pub fn has_newer_programs(status: &Status) -> bool {
    let is_same = |own: &ProgramFile| program_file(&own.path).as_ref() == Some(own);
    !status.programs.iter().all(is_same)
}

/// Waits until the supervisor whose directory is `run_dir` is ready, or `time` is over; one that has
/// not begun yet is waited for too. Returns its status then.
pub fn wait_until_ready(run_dir: &Path, time: Duration) -> Option<Status> {
    let deadline = std::time::Instant::now() + time;
    loop {
        let status = read_status(run_dir);
        let is_over = std::time::Instant::now() >= deadline;
        if is_over || status.as_ref().is_some_and(Status::is_ready) {
            return status;
        }
        std::thread::sleep(MOMENT);
    }
}
