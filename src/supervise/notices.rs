//! Tells what happens: in the log, in the status, and to the service manager.

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::{debug, info, warn};

use crate::supervise::{How, Notice, Silence, Supervisor, Why, progress, snapshot};

/// rootlesskit's code if a signal ended its child. The keeper tells of dockerd's signals otherwise.
const FLATTENED: u8 = 255;

impl Supervisor<'_> {
    pub(super) fn tell(&mut self, notice: Notice) {
        let text = self.sentence(notice);
        self.task.caller.tell(notice, &text);
        match notice {
            Notice::Up
            | Notice::Replacing(Why::Asked | Why::Ports | Why::Forgotten)
            | Notice::HelperBack
            | Notice::Idle
            | Notice::Stopping
            | Notice::RestartingAll(Why::Asked) => info!("{text}"),
            _ => warn!("{text}"),
        }
        match notice {
            Notice::Died | Notice::Reviving(_) | Notice::Restarting(_) => {
                self.note_failure(self.death.clone());
            }
            Notice::StartTimedOut
            | Notice::Replacing(Why::Hung)
            | Notice::HelperLost
            | Notice::RestartingAll(Why::Places) => {
                self.note_failure(text.clone());
            }
            Notice::EngineDied => {
                self.note_failure(text.clone());
                self.problems.insert("containerd", text.clone());
            }
            _ => {}
        }
        let ready = (notice == Notice::Up).then_some(NotifyState::Ready);
        let states: Vec<_> = ready.into_iter().chain([NotifyState::Status(&text)]).collect();
        tell_manager(&states);
    }

    fn sentence(&self, notice: Notice) -> String {
        let (death, phase) = (&self.death, self.outcome.phase);
        let kept = if self.running.keep.live_restore { "; containers keep running" } else { "" };
        match notice {
            Notice::Died => death.clone(),
            Notice::Reviving(pause) => format!("{death}; restarting dockerd{}{kept}", after(pause)),
            Notice::Restarting(pause) => format!("{death}; restarting everything{}", after(pause)),
            Notice::StartTimedOut => format!("the start took too long: {phase}"),
            Notice::Replacing(Why::Hung) => {
                let what = explain(Silence::Hung);
                format!("{what}; replacing dockerd when it has written its goroutines")
            }
            Notice::Replacing(_) => "replacing dockerd".into(),
            Notice::Up => "rootless Docker is ready".into(),
            Notice::EngineDied => "containerd ended; restarting it".into(),
            Notice::HelperLost => "the network helper ended; restarting it".into(),
            Notice::HelperBack => "the network is back".into(),
            Notice::RestartingAll(Why::Helper) => {
                "the network helper keeps failing; restarting everything".into()
            }
            Notice::RestartingAll(Why::Places) => {
                "files in the runtime directory were deleted; restarting everything".into()
            }
            Notice::RestartingAll(_) => "restarting rootless Docker".into(),
            Notice::Idle => "idle: stopping the daemon until the next connection".into(),
            Notice::Stopping => "stopping rootless Docker".into(),
            Notice::Hurry => "asked to stop again; killing everything".into(),
            Notice::StopTimedOut => "the daemon did not stop in time; killing everything".into(),
        }
    }

    /// Says that dockerd takes its time, and has it.
    pub(super) fn tell_slow(&mut self) {
        let silence = self.launch.silence.unwrap_or(Silence::Busy);
        let text = format!("{}; it gets more time", explain(silence));
        info!("{text}");
        extend(progress::HUNG * 3);
        tell_manager(&[NotifyState::Status(&text)]);
    }

    /// Says and shows what is wrong about a part, or that nothing is any more.
    pub(super) fn set_problem(&mut self, about: &'static str, what: Option<String>) {
        if self.problems.get(about) == what.as_ref() {
            return;
        }
        match what {
            None => drop(self.problems.remove(about)),
            Some(what) => {
                warn!("{what}");
                self.problems.insert(about, what);
            }
        }
        self.write_status();
    }

    pub(super) fn note_failure(&mut self, what: String) {
        self.status.last_failure = Some(what);
        self.status.last_failure_at = Some(snapshot::now());
    }
}

fn after(pause: Duration) -> String {
    match pause {
        Duration::ZERO => String::new(),
        pause => format!(" in {:.1} s", pause.as_secs_f64()),
    }
}

/// Says what dockerd does instead of an answer.
pub(super) fn explain(silence: Silence) -> String {
    let hung = progress::HUNG.as_secs();
    match silence {
        Silence::Busy => "dockerd is working and has not answered yet".to_owned(),
        Silence::Stopped => "dockerd does not answer: it is stopped, frozen or traced (kill -CONT, or end the debugger)".to_owned(),
        Silence::Still => "dockerd does not answer and does nothing".to_owned(),
        Silence::Hung => format!("dockerd does not answer and has done nothing at all for {hung} s"),
    }
}

/// Says how the daemon ended, by the way in which rootlesskit did.
pub(super) fn death_of(end: How) -> String {
    match end {
        How::Signal(_) => format!("rootlesskit was ended by {end}, and the daemon with it"),
        How::Code(FLATTENED) => {
            "rootlesskit's child was ended by a signal, and the daemon with it".to_owned()
        }
        How::Code(code) => format!("the daemon ended with {}", How::passed_on(code)),
    }
}

/// Has the service manager wait so long. The protocol has 71 minutes at most.
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
