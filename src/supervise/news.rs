//! Tells what happens: in the log, in the status, to the service manager.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sd_notify::NotifyState;
use tracing::{debug, info, warn};

use crate::supervise::{How, Notice, ProgramFile, State, Status, Then, Why};
use crate::supervise::{MOMENT, Silence, Supervisor, progress, read_status};

impl Supervisor<'_> {
    pub(super) fn tell(&mut self, notice: Notice) {
        (self.task.tell)(notice);
        let text = match notice {
            Notice::Died => self.death.clone(),
            Notice::StartTimedOut => format!("{notice}: {}", self.launch.phase),
            Notice::Reviving(_) if self.daemon.live_restore => {
                format!("{notice}; containers keep running")
            }
            _ => notice.to_string(),
        };
        match notice {
            Notice::Up
            | Notice::AnswersAgain
            | Notice::Replacing(Why::Asked)
            | Notice::HelperBack
            | Notice::Idle
            | Notice::Stopping
            | Notice::RestartingAll
            | Notice::Reviving(_)
            | Notice::Restarting(_) => info!("{text}"),
            _ => {
                warn!("{text}");
                if !matches!(notice, Notice::Died | Notice::Hurry | Notice::Replacing(_)) {
                    self.note_failure(text.clone());
                }
            }
        }
        if notice == Notice::EngineDied {
            self.problems.insert("containerd", text.clone());
        }
        let status = NotifyState::Status(&text);
        match notice {
            Notice::Up => tell(&[NotifyState::Ready, status]),
            _ => tell(&[status]),
        }
    }

    /// Says that dockerd takes its time, and has it.
    pub(super) fn tell_slow(&mut self) {
        let silence = self.launch.silence.unwrap_or(Silence::Busy);
        let text = format!("{}; it gets more time", explain(silence, "dockerd"));
        info!("{text}");
        extend(progress::HUNG * 3);
        tell(&[NotifyState::Status(&text)]);
    }

    pub(super) fn note_failure(&mut self, what: String) {
        self.status.last_failure = Some(what);
        self.status.last_failure_at = Some(now());
    }

    /// Notes the files of the programs that run.
    pub(super) fn note_programs(&mut self) {
        let (plan, host) = &self.task.first;
        let engine = self.daemon.keep.engine.iter();
        let programs = [
            ("rootlesskit", &*plan.rootlesskit),
            (DOCKERD, Path::new(&self.daemon.command[0])),
            (SUPERVISOR, &*host.session.own_path),
        ];
        self.status.programs = programs
            .into_iter()
            .chain(engine.map(|engine| ("containerd", Path::new(&engine.command[0]))))
            .filter_map(|(part, path)| program_file(part, path))
            .collect();
    }

    /// Notes the file of this `part` alone, which has taken the place of another.
    pub(super) fn note_program(&mut self, part: &str) {
        let path = match part {
            SUPERVISOR => &*self.task.first.1.session.own_path,
            _ => Path::new(&self.daemon.command[0]),
        };
        let programs = &mut self.status.programs;
        programs.retain(|program| program.part != part);
        programs.extend(program_file(part, path));
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
        if self.status.state != state {
            self.status.state = state.to_owned();
            self.status.since = now();
        }
        let status = &mut self.status;
        let daemon = self.launch.daemon.as_ref();
        status.rootlesskit = self.launch.rootlesskit;
        status.keeper = self.launch.keeper.map(|keeper| keeper.pid);
        status.dockerd = daemon.map(|(identity, _)| identity.pid);
        status.containerd = self.launch.engine.map(|engine| engine.pid);
        status.helper = self.launch.helper.as_ref().map(|helper| helper.identity.pid);
        status.keeps_containers = self.daemon.live_restore;
        status.problems = self.problems.values().cloned().collect();
        status.restarts = self.machine.restarts;
        status.replaced = self.machine.replaced;
        status.heals = self.machine.heals;
        if let Err(error) = self.task.run_dir.write(&self.status) {
            debug!("the status cannot be written: {error}");
        }
    }
}

/// What a process does instead of an answer.
pub(super) fn explain(silence: Silence, who: &str) -> String {
    match silence {
        Silence::Busy => format!("{who} works and has not answered yet"),
        Silence::Pressure => {
            format!("{who} does not answer: the machine is short of processor time, memory or disk")
        }
        Silence::Stopped => {
            format!(
                "{who} does not answer: it is stopped, frozen or traced (kill -CONT, or end the debugger)"
            )
        }
        Silence::Still => format!("{who} does not answer, and does nothing"),
        Silence::Hung => format!(
            "{who} does not answer, and has done nothing at all for {} s",
            progress::HUNG.as_secs()
        ),
    }
}

/// Has the service manager wait so long, if there is one. The protocol has 71 minutes at most.
pub(super) fn extend(time: Duration) {
    let usec = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::ExtendTimeoutUsec(usec)]);
}

/// Tells the service manager, if there is one.
pub(super) fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!("the service manager cannot be told: {error}");
    }
}

pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
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

/// The parts that can be replaced in place: this program, and dockerd.
pub const SUPERVISOR: &str = "supervisor";
/// See [`SUPERVISOR`].
pub const DOCKERD: &str = "dockerd";

/// The file of the program that is this `part`.
fn program_file(part: &str, path: &Path) -> Option<ProgramFile> {
    let found = fs::metadata(path).ok()?;
    Some(ProgramFile {
        part: part.to_owned(),
        path: path.to_owned(),
        device: found.dev(),
        inode: found.ino(),
        changed: i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec()),
    })
}

/// The parts whose programs are others on disk than those that run.
pub fn newer_programs(status: &Status) -> Vec<String> {
    let is_other = |own: &&ProgramFile| program_file(&own.part, &own.path).as_ref() != Some(*own);
    let others = status.programs.iter().filter(is_other);
    others.map(|own| own.part.clone()).collect()
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
