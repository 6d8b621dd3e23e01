//! Tells what happens: in the log, in the status, and to the service manager.

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::{debug, info, warn};

use crate::supervise::{How, Notice, Silence, Supervisor, Why, progress, snapshot};

/// rootlesskit's code if a signal ended its child. The keeper tells of dockerd's signals otherwise.
const FLATTENED: u8 = 255;

impl Supervisor<'_> {
    pub(super) fn tell(&mut self, notice: Notice) {
        self.task.caller.tell(notice);
        let text = match notice {
            Notice::Died => self.death.clone(),
            Notice::Hung => format!("{}; {notice}", explain(Silence::Hung, "dockerd")),
            Notice::StartTimedOut => format!("{notice}: {}", self.launch.phase),
            Notice::Reviving(_) if self.running.keep.live_restore => {
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
            Notice::Died | Notice::Hurry | Notice::Replacing(_) => warn!("{text}"),
            _ => {
                warn!("{text}");
                self.note_failure(text.clone());
            }
        }
        if notice == Notice::EngineDied {
            self.problems.insert("containerd", text.clone());
        }
        let ready = (notice == Notice::Up).then_some(NotifyState::Ready);
        let states: Vec<_> = ready.into_iter().chain([NotifyState::Status(&text)]).collect();
        tell_manager(&states);
    }

    /// Says that dockerd takes its time, and has it.
    pub(super) fn tell_slow(&mut self) {
        let silence = self.launch.silence.unwrap_or(Silence::Busy);
        let text = format!("{}; it gets more time", explain(silence, "dockerd"));
        info!("{text}");
        extend(progress::HUNG * 3);
        tell_manager(&[NotifyState::Status(&text)]);
    }

    pub(super) fn note_failure(&mut self, what: String) {
        self.status.last_failure = Some(what);
        self.status.last_failure_at = Some(snapshot::now());
    }
}

/// Says what a program does instead of an answer.
pub(super) fn explain(silence: Silence, who: &str) -> String {
    let hung = progress::HUNG.as_secs();
    match silence {
        Silence::Busy => format!("{who} is working and has not answered yet"),
        Silence::Pressure => {
            format!("{who} does not answer: the machine is short of processor time, memory or disk")
        }
        Silence::Stopped => format!(
            "{who} does not answer: it is stopped, frozen or traced (kill -CONT, or end the debugger)"
        ),
        Silence::Still => format!("{who} does not answer and does nothing"),
        Silence::Hung => format!("{who} does not answer and has done nothing at all for {hung} s"),
    }
}

/// Says how the daemon ended, or what took it along, by the way in which rootlesskit ended.
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

/// Has the service manager wait so long, if there is one. The protocol has 71 minutes at most.
pub(super) fn extend(time: Duration) {
    let usec = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
    tell_manager(&[NotifyState::ExtendTimeoutUsec(usec)]);
}

/// Tells the service manager, if there is one.
pub(super) fn tell_manager(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!("cannot tell the service manager: {error}");
    }
}
