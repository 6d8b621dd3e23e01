//! Decides: a state and an event give the next state and what follows, without clock and I/O.
//!
//! Two things can start again. dockerd alone is replaced in place: containerd, the containers and
//! the network stay. Everything starts again only when the namespaces have ended, or when a user
//! asks for it.

use std::time::Duration;

use crate::error::Exit;
pub use crate::sys::processes::How;
use Effect::*;
use State::*;

/// The pause before the second restart in a row, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How long rootlesskit may take to end after the daemon.
const FALL: Duration = Duration::from_secs(10);

/// How long processes that were killed may take to be gone.
const CLEAR: Duration = Duration::from_secs(15);

/// How long a dockerd that hangs may take to write what its goroutines do.
const DUMP: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// rootlesskit was started, and dockerd has not answered yet.
    #[default]
    Starting,
    Ready,
    /// dockerd was asked to end, or killed, and starts again in place.
    Replacing(Why),
    /// A pause before that.
    Pausing,
    /// dockerd was started again in place, and has not answered yet.
    Reviving,
    /// dockerd was asked to end with its containers.
    Stopping(Then),
    /// The rest is being ended; whether everything was killed already.
    Clearing(Then, bool),
    /// A pause before everything starts again.
    Waiting,
    Over,
}

/// What follows when nothing of the daemon is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Leave(Verdict),
    /// Everything starts again, after a pause.
    Again(Duration),
}

/// Why the supervisor ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    #[default]
    Stopped,
    /// The daemon was idle; the service manager holds its socket.
    Idle,
    /// It was asked to, and the daemon did not end in time and was killed.
    Forced,
    /// The daemon cannot run until the cause is fixed.
    Permanent(Exit),
    /// The daemon failed, or did not answer in time, before it ever answered.
    Failed(Exit),
    TimedOut,
    Survivors,
}

/// How dockerd or rootlesskit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Death {
    pub how: How,
    /// The code to end with if the cause lasts.
    pub permanent: Option<Exit>,
    /// Whether containers still run.
    pub left: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// dockerd's process is there.
    Announced,
    Answered,
    DaemonEnded(Death),
    /// rootlesskit has ended, and with it the namespaces.
    Ended(Death),
    /// Nothing of the daemon's is left.
    Cleared,
    Stop,
    Replace(Why),
    RestartAll(Why),
    /// Nothing has used the daemon for long, and it was asked to end.
    Idle,
    /// The time that [`Effect::Arm`] gave is over.
    Deadline,
}

/// Why dockerd is replaced, or everything started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Asked,
    /// A published port does not answer.
    Ports,
    /// containerd has forgotten containers that ran.
    Forgotten,
    /// It answers no request and does nothing at all.
    Hung,
    /// It did not answer in time after its start.
    Late,
    /// A socket or a directory that the daemon needs is gone.
    Places,
    /// The network helper cannot be started again.
    Helper,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Launch,
    Revive,
    /// Have dockerd end, and leave the containers alone if they are kept.
    Yield,
    /// Have dockerd end with its containers in order. One that is not up yet is killed.
    End,
    Dump,
    KillDaemon,
    /// Kill every process of ours.
    Kill,
    /// End the namespaces, and what a daemon left that has ended; then raise [`Event::Cleared`].
    Clear,
    /// Raise [`Event::Deadline`] when the time is over, instead of any time given before. Where dockerd
    /// has to end, what performs that knows the time.
    Arm(Duration),
    Disarm,
    Tell(Notice),
    Leave(Verdict),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    Up,
    /// The daemon died, and does not start again.
    Died,
    StartTimedOut,
    Replacing(Why),
    EngineDied,
    HelperLost,
    HelperBack,
    Idle,
    Stopping,
    RestartingAll(Why),
    Hurry,
    StopTimedOut,
    /// dockerd, or everything, died, and starts again after this pause.
    Reviving(Duration),
    Restarting(Duration),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    pub state: State,
    /// How long dockerd's process may take to be there, and then dockerd to answer.
    start: Duration,
    /// Whether the daemon has ever answered.
    pub has_answered: bool,
    is_announced: bool,
    /// What follows a stop that dockerd must be up for.
    pub owes_stop: Option<Then>,
    /// Whether a dockerd that left containers was started once more to stop them.
    stops_again: bool,
    /// Failures in a row.
    pub failures: u32,
    /// How often everything was started again, and dockerd alone.
    pub restarts: u32,
    pub replaced: u32,
}

impl Machine {
    /// Returns a machine whose first launch is under way, and the effects of that.
    pub fn start(start: Duration) -> (Self, Vec<Effect>) {
        (Self { start, ..Self::default() }, vec![Launch, Arm(start)])
    }

    /// Returns a machine whose daemon is up, and has been restarted and replaced so often.
    pub fn resume(start: Duration, restarts: u32, replaced: u32) -> Self {
        let up = Self { state: Ready, has_answered: true, is_announced: true, ..Self::default() };
        Self { start, restarts, replaced, ..up }
    }

    /// Takes `event` and returns what follows, in this order.
    pub fn on(&mut self, event: Event) -> Vec<Effect> {
        match (self.state, event) {
            (Clearing(then, is_killed), _) => self.while_clearing(then, is_killed, event),
            (Waiting, _) => self.while_waiting(event),
            (Over, _) => vec![],
            (Stopping(then), _) => self.while_stopping(then, event),
            (_, Event::Ended(death)) => self.died(death),
            (_, Event::DaemonEnded(death)) => self.daemon_ended(death),
            (_, Event::Stop) if self.owes_stop == Some(LEAVE) => self.kill(Notice::Hurry, LEAVE),
            (_, Event::Stop) => self.stop(),
            (Ready, _) => self.while_up(event),
            _ => self.while_coming(event),
        }
    }

    fn while_coming(&mut self, event: Event) -> Vec<Effect> {
        match (self.state, event) {
            (Starting | Reviving, Event::Announced) => {
                self.is_announced = true;
                vec![Arm(self.start)]
            }
            // One that answers while it writes its dump does not hang.
            (Starting | Reviving | Replacing(Why::Hung), Event::Answered) => self.up(),
            (Pausing, Event::Deadline | Event::Replace(_)) => self.revive(),
            (_, Event::Deadline) => self.too_late(),
            _ => vec![],
        }
    }

    fn while_up(&mut self, event: Event) -> Vec<Effect> {
        match event {
            Event::Replace(why) => {
                let told = Tell(Notice::Replacing(why));
                match why {
                    Why::Hung => self.enter(Replacing(why), &[told, Dump, Arm(DUMP)]),
                    _ => self.enter(Replacing(why), &[told, Yield]),
                }
            }
            Event::RestartAll(why) => self.restart(why),
            Event::Idle => self.enter(Stopping(Then::Leave(Verdict::Idle)), &[Tell(Notice::Idle)]),
            _ => vec![],
        }
    }

    fn while_stopping(&mut self, then: Then, event: Event) -> Vec<Effect> {
        match event {
            // It ended before it knew that its containers have to end: the next one stops them.
            Event::DaemonEnded(death) if death.left && !self.stops_again => {
                self.stops_again = true;
                self.owes_stop = Some(then);
                self.revive()
            }
            Event::DaemonEnded(_) | Event::Ended(_) => self.clear(then),
            Event::Stop if then == LEAVE => self.kill(Notice::Hurry, then),
            Event::Stop => self.enter(Stopping(LEAVE), &[]),
            Event::Deadline => self.kill(Notice::StopTimedOut, forced(then)),
            _ => vec![],
        }
    }

    fn while_clearing(&mut self, then: Then, is_killed: bool, event: Event) -> Vec<Effect> {
        match (event, then) {
            (Event::Ended(_), _) => vec![Clear, Arm(CLEAR)],
            (Event::Cleared, Then::Leave(verdict)) => self.leave(verdict),
            (Event::Cleared, Then::Again(pause)) => self.enter(Waiting, &[Arm(pause)]),
            (Event::Stop, Then::Again(_)) => self.enter(Clearing(LEAVE, is_killed), &[]),
            // A survivor waits for the kernel, mostly for a file system. Everything starts again when
            // that is over.
            (Event::Deadline, Then::Again(_)) if is_killed && self.has_answered => {
                self.kill_all(then)
            }
            (Event::Deadline, _) if is_killed => self.leave(Verdict::Survivors),
            (Event::Deadline, _) => self.kill_all(then),
            _ => vec![],
        }
    }

    fn while_waiting(&mut self, event: Event) -> Vec<Effect> {
        match event {
            Event::Deadline | Event::RestartAll(_) | Event::Replace(_) => {
                self.is_announced = false;
                self.stops_again = false;
                self.enter(Starting, &[Launch, Arm(self.start)])
            }
            Event::Stop => self.leave(Verdict::Stopped),
            _ => vec![],
        }
    }

    fn enter(&mut self, state: State, effects: &[Effect]) -> Vec<Effect> {
        self.state = state;
        effects.to_vec()
    }

    fn leave(&mut self, verdict: Verdict) -> Vec<Effect> {
        self.enter(Over, &[Disarm, Leave(verdict)])
    }

    fn revive(&mut self) -> Vec<Effect> {
        self.is_announced = false;
        self.replaced += 1;
        self.enter(Reviving, &[Revive, Arm(self.start)])
    }

    /// Does what was asked for while dockerd could not do it.
    fn up(&mut self) -> Vec<Effect> {
        self.state = Ready;
        self.has_answered = true;
        let owed = self.owes_stop.take().map(|then| self.end(then, Notice::Stopping));
        let owed = owed.unwrap_or_default();
        [Disarm, Tell(Notice::Up)].into_iter().chain(owed).collect()
    }

    fn daemon_ended(&mut self, death: Death) -> Vec<Effect> {
        if !self.has_answered {
            return self.died(death);
        }
        // No other dockerd is left that could stop the containers in order.
        if let (Reviving, Some(then)) = (self.state, self.owes_stop) {
            return self.kill(Notice::StopTimedOut, forced(then));
        }
        let (told, pause) = match self.state {
            Replacing(Why::Hung | Why::Late) => (None, self.pause()),
            Replacing(_) => (None, Duration::ZERO),
            _ => {
                let pause = self.pause();
                (Some(Tell(Notice::Reviving(pause))), pause)
            }
        };
        let follows = match self.owes_stop {
            Some(_) => self.revive(),
            None => self.enter(Pausing, &[Arm(pause)]),
        };
        told.into_iter().chain(follows).collect()
    }

    /// A daemon that comes, or ends to be replaced, is late and does nothing.
    fn too_late(&mut self) -> Vec<Effect> {
        match (self.state, self.owes_stop) {
            // It has had nothing to stop yet.
            (Starting, Some(then)) => {
                self.owes_stop = None;
                self.end(then, Notice::Stopping)
            }
            (Reviving, Some(then)) => self.kill(Notice::StopTimedOut, forced(then)),
            (Starting, None) if !self.has_answered => {
                self.kill(Notice::StartTimedOut, Then::Leave(Verdict::TimedOut))
            }
            (Starting, None) if !self.is_announced => {
                let then = self.again();
                self.kill(Notice::StartTimedOut, then)
            }
            (Replacing(_), _) => vec![KillDaemon],
            _ => self.enter(Replacing(Why::Late), &[Tell(Notice::StartTimedOut), KillDaemon]),
        }
    }

    fn died(&mut self, death: Death) -> Vec<Effect> {
        let owed = self.owes_stop.take();
        let then = match (owed, death.permanent, death.how) {
            (Some(then), ..) => then,
            _ if self.has_answered => self.again(),
            // In order, as `--version` does.
            (.., How::Code(0)) => LEAVE,
            (_, Some(exit), _) => Then::Leave(Verdict::Permanent(exit)),
            // What it says of itself before it was ever up it would say again.
            (.., How::Code(code)) => Then::Leave(Verdict::Failed(Exit::Daemon(code))),
            (.., How::Signal(_)) => self.again(),
        };
        let told = match then {
            _ if owed.is_some() || then == LEAVE => None,
            Then::Again(pause) => Some(Tell(Notice::Restarting(pause))),
            Then::Leave(_) => Some(Tell(Notice::Died)),
        };
        told.into_iter().chain(self.clear(then)).collect()
    }

    /// Ends the daemon in order. One that is on its way can stop its containers when it is up.
    fn stop(&mut self) -> Vec<Effect> {
        if self.state == Ready || (self.state == Starting && !self.is_announced) {
            return self.end(LEAVE, Notice::Stopping);
        }
        self.owes_stop = Some(LEAVE);
        let revived = if self.state == Pausing { self.revive() } else { vec![] };
        [Tell(Notice::Stopping)].into_iter().chain(revived).collect()
    }

    fn end(&mut self, then: Then, why: Notice) -> Vec<Effect> {
        self.enter(Stopping(then), &[Tell(why), End])
    }

    fn restart(&mut self, why: Why) -> Vec<Effect> {
        self.restarts += 1;
        let pause = if why == Why::Asked { Duration::ZERO } else { self.pause() };
        self.end(Then::Again(pause), Notice::RestartingAll(why))
    }

    fn kill(&mut self, why: Notice, then: Then) -> Vec<Effect> {
        self.owes_stop = None;
        [Tell(why)].into_iter().chain(self.kill_all(then)).collect()
    }

    fn kill_all(&mut self, then: Then) -> Vec<Effect> {
        self.enter(Clearing(then, true), &[Kill, Arm(CLEAR)])
    }

    /// Clears up behind rootlesskit, or has it end first.
    fn clear(&mut self, then: Then) -> Vec<Effect> {
        self.enter(Clearing(then, false), &[Clear, Arm(FALL)])
    }

    fn again(&mut self) -> Then {
        self.restarts += 1;
        Then::Again(self.pause())
    }

    /// Counts a failure, and returns the pause behind it: none for the first in a row, then twice as
    /// long each time.
    pub fn pause(&mut self) -> Duration {
        let before = self.failures;
        self.failures = before.saturating_add(1);
        match before.min(16) {
            0 => Duration::ZERO,
            before => PAUSE_MIN.saturating_mul(1 << (before - 1)).min(PAUSE_MAX),
        }
    }
}

/// What follows a stop that a user asked for.
const LEAVE: Then = Then::Leave(Verdict::Stopped);

fn forced(then: Then) -> Then {
    match then {
        Then::Leave(_) => Then::Leave(Verdict::Forced),
        Then::Again(_) => then,
    }
}

#[cfg(test)]
mod tests;
