//! Decides: a state and an event give the next state and what follows. There is no clock and no I/O
//! in here. The supervisor that drives the machine measures time, rolls the dice and performs the
//! effects.
//!
//! Two things can start again. dockerd alone is replaced in place: containerd, the containers and
//! the network stay. Everything starts again only when the namespaces have ended, or when a user
//! asks for it.

use std::fmt;
use std::time::Duration;

use crate::error::Exit;
pub use crate::sys::processes::How;
use Effect::*;
use State::*;

/// The pause before the second restart in a row; the first comes at once.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// The longest pause, before jitter.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How often a network helper is started again before everything is.
const HEAL_ATTEMPTS: u8 = 2;

/// How often everything is killed before the survivors are reported.
const KILL_ATTEMPTS: u8 = 3;

/// Where the daemon is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// rootlesskit was started, and dockerd has not answered yet.
    #[default]
    Starting,
    /// dockerd answers, and the network has its helper.
    Ready,
    /// The network helper is being started again, for the attempt of this number.
    Healing(u8),
    /// dockerd hangs, and has a moment to write what its goroutines do.
    Dumping,
    /// dockerd was asked to end, or killed, and starts again in place after this pause.
    Replacing(Duration),
    /// A pause before dockerd starts again in place.
    Pausing,
    /// dockerd was started again in place, and has not answered yet.
    Reviving,
    /// The namespaces have ended, and rootlesskit is about to.
    Falling,
    /// dockerd was asked to end with its containers, which get their time.
    Stopping(Then),
    /// The rest is being ended; everything was killed so often already.
    Clearing(Then, u8),
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Stopped,
    /// The daemon was idle; the service manager holds its socket.
    Idle,
    /// It was asked to, and the daemon did not end in time and was killed.
    Forced,
    /// The daemon cannot run until the cause is fixed.
    Permanent(Exit),
    /// The daemon failed before it ever answered.
    Failed(Exit),
    /// The daemon did not answer in time, and never had before.
    TimedOut,
    Survivors,
}

/// How the daemon ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Death {
    /// How dockerd or rootlesskit ended.
    pub how: How,
    /// The code to end with if a check finds a cause that lasts.
    pub permanent: Option<Exit>,
    /// Whether containers still run.
    pub left: bool,
    /// For the jitter of the pause, from 0 to 255.
    pub dice: u8,
}

/// What happens to the daemon, or what a user asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// dockerd's process is there.
    Announced,
    Answered,
    /// It has done well for a minute: a failure from now on is no repetition.
    Settled,
    DaemonEnded(Death),
    EngineEnded,
    /// A process that the namespaces depend on has ended.
    Fell,
    /// rootlesskit has ended, and with it the namespaces.
    Ended(Death),
    /// Nothing of the daemon's is left.
    Cleared,
    Stop,
    /// dockerd has to be replaced in place.
    Replace(Why),
    RestartAll,
    /// dockerd has to read its configuration again.
    Reload,
    /// dockerd has to write what its goroutines do, and then to end.
    Dump,
    /// dockerd answers no request and does nothing at all.
    Hung,
    Healthy,
    HelperDied,
    /// The network helper that was started again is ready.
    HelperBack,
    /// The network helper that was started again failed.
    HelperFailed,
    /// A socket or a directory that the daemon needs is gone.
    PlacesGone,
    /// No container runs, and no client has used the daemon for long.
    Idle,
    /// A client has begun to use the daemon that was ending as idle.
    StillUsed,
    /// The time that [`Effect::Arm`] gave is over.
    Deadline,
}

/// Why dockerd is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Asked,
    /// A published port does not answer.
    Ports,
    /// containerd has forgotten containers that ran.
    Forgotten,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Launch,
    Revive,
    StartEngine(Duration),
    Ask(Ask),
    /// Ask an idle daemon to end without taking another connection.
    Retire,
    /// End containerd and the namespaces.
    EndNamespaces,
    KillDaemon,
    /// Kill every process of ours.
    Kill,
    /// End what a daemon left that has ended, and raise [`Event::Cleared`].
    Clear,
    Heal,
    /// Raise [`Event::Deadline`] when the time is over, instead of any time given before.
    Arm(Limit),
    Disarm,
    /// Tell it in the log, in the status and to the service manager.
    Tell(Notice),
    Leave(Verdict),
}

/// What dockerd is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// SIGTERM: end, and leave the containers alone if they are kept.
    Yield,
    /// The same, with the containers in order. A daemon that is not up yet is killed with the rest.
    End,
    /// SIGHUP: read the configuration again.
    Reload,
    /// SIGUSR1: write what all goroutines do.
    Dump,
}

/// A time that is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Until dockerd's process is there.
    Start,
    /// To dockerd, to answer. It is over only when dockerd does nothing.
    Answer,
    /// To dockerd, to end and leave its containers. It is over only when dockerd does nothing.
    Yield,
    /// To a network helper, until it is ready.
    Heal,
    /// To dockerd and its containers, to end.
    Stop,
    /// To rootlesskit, to end after the daemon.
    Fall,
    /// To a daemon that hangs, to write what it does.
    Dump,
    /// To processes that were killed, to be gone.
    Clear,
    /// Before the next start.
    Pause(Duration),
}

impl Limit {
    /// Returns how long it is, where a start may take `start` and an end `end`.
    pub fn length(self, start: Duration, end: Duration) -> Duration {
        match self {
            Self::Start | Self::Answer => start,
            Self::Yield | Self::Stop => end,
            Self::Heal | Self::Clear => Duration::from_secs(5),
            Self::Fall => Duration::from_secs(10),
            Self::Dump => Duration::from_secs(1),
            Self::Pause(pause) => pause,
        }
    }
}

/// What is worth telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    Up,
    /// dockerd died, or everything.
    Died,
    StartTimedOut,
    Hung,
    AnswersAgain,
    Replacing(Why),
    EngineDied,
    HelperLost,
    HelperBack,
    HelperGivenUp,
    PlacesGone,
    Idle,
    Stopping,
    RestartingAll,
    Hurry,
    StopTimedOut,
    /// dockerd starts again in place, after this pause.
    Reviving(Duration),
    /// Everything starts again, after this pause.
    Restarting(Duration),
}

impl fmt::Display for Notice {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Up => "rootless Docker is ready",
            Self::Died => "the daemon ended",
            Self::StartTimedOut => "the start took too long",
            Self::Hung => "replacing dockerd when it has written its goroutines",
            Self::AnswersAgain => "dockerd answers again; keeping it",
            Self::Replacing(Why::Asked) => "replacing dockerd",
            Self::Replacing(Why::Ports) => "replacing dockerd to restore published ports",
            Self::Replacing(Why::Forgotten) => "replacing dockerd to restart lost containers",
            Self::EngineDied => "containerd ended; restarting it",
            Self::HelperLost => "the network helper ended; restarting it",
            Self::HelperBack => "the network is back",
            Self::HelperGivenUp => "the network helper keeps failing; restarting everything",
            Self::PlacesGone => {
                "files in the runtime directory were deleted; restarting everything"
            }
            Self::Idle => "idle: stopping the daemon until the next connection",
            Self::Stopping => "stopping rootless Docker",
            Self::RestartingAll => "restarting rootless Docker",
            Self::Hurry => "asked to stop again; killing everything",
            Self::StopTimedOut => "the daemon did not stop in time; killing everything",
            Self::Reviving(pause) => return write!(out, "restarting dockerd{}", After(*pause)),
            Self::Restarting(pause) => {
                return write!(out, "restarting everything{}", After(*pause));
            }
        })
    }
}

/// A pause, in words.
struct After(Duration);

impl fmt::Display for After {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Duration::ZERO => Ok(()),
            pause => write!(out, " in {:.1} s", pause.as_secs_f64()),
        }
    }
}

/// The machine: its state, and what it remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    pub state: State,
    /// Whether the daemon has ever answered.
    pub has_answered: bool,
    /// Whether dockerd's process is there.
    is_announced: bool,
    /// Whether dockerd has to read its configuration again as soon as it can.
    owes_reload: bool,
    /// What follows a stop that dockerd must be up for.
    pub owes_stop: Option<Then>,
    /// Whether a dockerd that left containers was started once more to stop them.
    stops_again: bool,
    /// Failures in a row.
    failures: u32,
    /// Ends of containerd in a row.
    engine_failures: u32,
    /// How often everything was started again.
    pub restarts: u32,
    /// How often dockerd was replaced in place.
    pub replaced: u32,
    /// How often a network helper was started again with success.
    pub heals: u32,
}

impl Machine {
    /// Returns a machine whose first launch is under way, and the effects of that.
    pub fn start() -> (Self, Vec<Effect>) {
        (Self::default(), vec![Launch, Arm(Limit::Start)])
    }

    /// Returns a machine whose daemon is up, and has been replaced, restarted and healed so often.
    pub fn resume(restarts: u32, replaced: u32, heals: u32) -> Self {
        let up = Self { state: Ready, has_answered: true, is_announced: true, ..Self::default() };
        Self { restarts, replaced, heals, ..up }
    }

    /// Takes `event` and returns what follows, in this order.
    pub fn on(&mut self, event: Event) -> Vec<Effect> {
        match (self.state, event) {
            (Clearing(then, kills), _) => self.while_clearing(then, kills, event),
            (Waiting, _) => self.while_waiting(event),
            (Over, _) => vec![],
            (Falling, _) => self.while_falling(event),
            // containerd outlives all that dockerd does, and dockerd needs it even to end.
            (_, Event::EngineEnded) => self.start_engine(),
            (Stopping(then), _) => self.while_stopping(then, event),
            (_, Event::Ended(death)) => self.died(death),
            (_, Event::Fell) => self.enter(Falling, &[Arm(Limit::Fall)]),
            (Ready | Healing(_), _) => self.while_up(event),
            _ => self.while_coming(event),
        }
    }

    /// dockerd starts, or is being replaced.
    fn while_coming(&mut self, event: Event) -> Vec<Effect> {
        match (self.state, event) {
            (Starting | Reviving, Event::Announced) => {
                self.is_announced = true;
                vec![Arm(Limit::Answer)]
            }
            (Starting | Reviving, Event::Answered) => self.up(Notice::Up),
            (Dumping, Event::Healthy) => self.up(Notice::AnswersAgain),
            (Starting, Event::PlacesGone) => {
                let then = self.again(0);
                self.kill(Notice::PlacesGone, then)
            }
            (Pausing, Event::Deadline | Event::Replace(_)) => self.revive(),
            (_, Event::DaemonEnded(death)) => self.daemon_ended(death),
            (_, Event::Stop | Event::Dump) => self.stop_later(event),
            (_, Event::Reload) => {
                // dockerd's handler comes late: it would die of the signal.
                self.owes_reload = true;
                vec![]
            }
            (_, Event::Deadline) => self.too_late(),
            _ => vec![],
        }
    }

    /// Ready or healing.
    fn while_up(&mut self, event: Event) -> Vec<Effect> {
        match (self.state, event) {
            (_, Event::DaemonEnded(death)) => self.daemon_ended(death),
            (_, Event::Stop) => self.stop(LEAVE, Notice::Stopping),
            (_, Event::Dump) => {
                let stop = self.stop(LEAVE, Notice::Stopping);
                [Ask(Ask::Dump)].into_iter().chain(stop).collect()
            }
            (_, Event::Settled) => {
                (self.failures, self.engine_failures) = (0, 0);
                vec![]
            }
            (_, Event::Reload) => vec![Ask(Ask::Reload)],
            (_, Event::PlacesGone) => self.restart(Notice::PlacesGone),
            (_, Event::Hung) => {
                self.enter(Dumping, &[Tell(Notice::Hung), Ask(Ask::Dump), Arm(Limit::Dump)])
            }
            (Ready, Event::Replace(why)) => self.enter(
                Replacing(Duration::ZERO),
                &[Tell(Notice::Replacing(why)), Ask(Ask::Yield), Arm(Limit::Yield)],
            ),
            (_, Event::RestartAll) => {
                self.restarts += 1;
                self.stop(Then::Again(Duration::ZERO), Notice::RestartingAll)
            }
            (Ready, Event::Idle) => self.enter(
                Stopping(Then::Leave(Verdict::Idle)),
                &[Tell(Notice::Idle), Retire, Arm(Limit::Stop)],
            ),
            (Ready, Event::HelperDied) => {
                self.enter(Healing(1), &[Tell(Notice::HelperLost), Heal, Arm(Limit::Heal)])
            }
            (Healing(attempt), _) => self.while_healing(attempt, event),
            _ => vec![],
        }
    }

    fn while_healing(&mut self, attempt: u8, event: Event) -> Vec<Effect> {
        match event {
            Event::HelperBack => {
                self.heals += 1;
                self.enter(Ready, &[Disarm, Tell(Notice::HelperBack)])
            }
            Event::HelperDied | Event::HelperFailed | Event::Deadline
                if attempt < HEAL_ATTEMPTS =>
            {
                self.enter(Healing(attempt + 1), &[Heal, Arm(Limit::Heal)])
            }
            Event::HelperDied | Event::HelperFailed | Event::Deadline => {
                self.restart(Notice::HelperGivenUp)
            }
            _ => vec![],
        }
    }

    fn while_falling(&mut self, event: Event) -> Vec<Effect> {
        let then = match event {
            Event::Ended(death) => return self.died(death),
            Event::Stop | Event::Dump => LEAVE,
            // rootlesskit does not notice.
            Event::Deadline if self.has_answered => self.again(0),
            Event::Deadline => Then::Leave(Verdict::Failed(Exit::Failed)),
            _ => return vec![],
        };
        self.kill_all(then, 1)
    }

    fn while_stopping(&mut self, then: Then, event: Event) -> Vec<Effect> {
        match event {
            Event::Ended(_) => self.clear(then),
            // It ended before it knew that its containers have to end: the next one stops them.
            Event::DaemonEnded(death) if death.left && !self.stops_again => {
                self.stops_again = true;
                self.owes_stop = Some(then);
                self.revive()
            }
            Event::DaemonEnded(_) => {
                self.enter(Clearing(then, 0), &[EndNamespaces, Arm(Limit::Fall)])
            }
            Event::Fell => self.enter(Clearing(then, 0), &[Arm(Limit::Fall)]),
            Event::StillUsed if then == Then::Leave(Verdict::Idle) => self.enter(Ready, &[Disarm]),
            Event::Stop if then == LEAVE => self.kill(Notice::Hurry, then),
            Event::Stop => self.enter(Stopping(LEAVE), &[]),
            Event::Dump => self.enter(Stopping(LEAVE), &[Ask(Ask::Dump)]),
            Event::Deadline => self.kill(Notice::StopTimedOut, forced(then)),
            _ => vec![],
        }
    }

    fn while_clearing(&mut self, then: Then, kills: u8, event: Event) -> Vec<Effect> {
        match (event, then) {
            (Event::Ended(_), _) => vec![Clear, Arm(Limit::Clear)],
            (Event::Cleared, Then::Leave(verdict)) => self.leave(verdict),
            (Event::Cleared, Then::Again(Duration::ZERO)) => self.launch(),
            (Event::Cleared, Then::Again(pause)) => {
                self.enter(Waiting, &[Arm(Limit::Pause(pause))])
            }
            (Event::Stop | Event::Dump, Then::Again(_)) => self.enter(Clearing(LEAVE, kills), &[]),
            (Event::Deadline, _) if kills < KILL_ATTEMPTS => self.kill_all(then, kills + 1),
            // A survivor waits for the kernel, mostly for a file system. Everything starts again when
            // that is over.
            (Event::Deadline, Then::Again(_)) if self.has_answered => {
                vec![Kill, Arm(Limit::Clear)]
            }
            (Event::Deadline, _) => self.enter(Over, &[Leave(Verdict::Survivors)]),
            _ => vec![],
        }
    }

    fn while_waiting(&mut self, event: Event) -> Vec<Effect> {
        match event {
            Event::Deadline | Event::RestartAll | Event::Replace(_) => self.launch(),
            Event::Stop | Event::Dump => self.leave(Verdict::Stopped),
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

    fn launch(&mut self) -> Vec<Effect> {
        self.is_announced = false;
        self.enter(Starting, &[Launch, Arm(Limit::Start)])
    }

    /// Starts dockerd in place.
    fn revive(&mut self) -> Vec<Effect> {
        self.is_announced = false;
        self.replaced += 1;
        self.enter(Reviving, &[Revive, Arm(Limit::Start)])
    }

    /// Does what was asked for while dockerd could not do it.
    fn up(&mut self, notice: Notice) -> Vec<Effect> {
        self.state = Ready;
        self.has_answered = true;
        let reload = std::mem::take(&mut self.owes_reload).then_some(Ask(Ask::Reload));
        let owed = match self.owes_stop.take() {
            Some(then) => self.stop(then, Notice::Stopping),
            None => reload.into_iter().collect(),
        };
        [Disarm, Tell(notice)].into_iter().chain(owed).collect()
    }

    /// dockerd has ended, and the namespaces have not.
    fn daemon_ended(&mut self, death: Death) -> Vec<Effect> {
        if !self.has_answered {
            return self.died(death);
        }
        // No other dockerd is left that could stop the containers in order.
        if let (Reviving, Some(then)) = (self.state, self.owes_stop) {
            return self.kill(Notice::StopTimedOut, forced(then));
        }
        let mut effects = vec![];
        let mut pause = self.pause(death.dice);
        match self.state {
            Replacing(given) => pause = given,
            _ => {
                self.failures += 1;
                effects.push(Tell(Notice::Died));
                effects.push(Tell(Notice::Reviving(pause)));
            }
        }
        let follows = match pause.is_zero() || self.owes_stop.is_some() {
            true => self.revive(),
            false => self.enter(Pausing, &[Arm(Limit::Pause(pause))]),
        };
        effects.extend(follows);
        effects
    }

    /// A daemon that comes, or ends to be replaced, is late and does nothing.
    fn too_late(&mut self) -> Vec<Effect> {
        let comes = matches!(self.state, Starting | Reviving);
        match (self.state, self.owes_stop) {
            // It has had nothing to stop yet.
            (Starting, Some(then)) => {
                self.owes_stop = None;
                return self.stop(then, Notice::Stopping);
            }
            (Reviving, Some(then)) => {
                return self.kill(Notice::StopTimedOut, forced(then));
            }
            (Starting, _) if !self.has_answered => {
                return self.kill(Notice::StartTimedOut, Then::Leave(Verdict::TimedOut));
            }
            (Starting, _) if !self.is_announced => {
                let then = self.again(0);
                return self.kill(Notice::StartTimedOut, then);
            }
            (Replacing(_), _) => {}
            _ => {
                self.state = Replacing(self.pause(0));
                self.failures += 1;
            }
        }
        let told = comes.then_some(Tell(Notice::StartTimedOut));
        told.into_iter().chain([KillDaemon, Arm(Limit::Yield)]).collect()
    }

    /// Stops a daemon that is on its way as soon as it is up: only then can it stop its containers.
    fn stop_later(&mut self, event: Event) -> Vec<Effect> {
        if self.owes_stop.is_some() {
            return self.kill(Notice::Hurry, LEAVE);
        }
        if self.state == Starting && !self.is_announced {
            return self.stop(LEAVE, Notice::Stopping);
        }
        self.owes_stop = Some(LEAVE);
        let mut effects = vec![Tell(Notice::Stopping)];
        if event == Event::Dump {
            effects.push(Ask(Ask::Dump));
        }
        if self.state == Pausing {
            effects.extend(self.revive());
        }
        effects
    }

    /// Everything ended by itself.
    fn died(&mut self, death: Death) -> Vec<Effect> {
        let exit = Exit::Daemon(death.how.code());
        let owed = self.owes_stop.take();
        let then = match (death.permanent, death.how) {
            _ if let Some(then) = owed => then,
            _ if self.has_answered => self.again(death.dice),
            // In order, as `--version` does.
            (_, How::Code(0)) => LEAVE,
            (Some(exit), _) => Then::Leave(Verdict::Permanent(exit)),
            // What it says of itself before it was ever up it would say again.
            (None, How::Code(_)) => Then::Leave(Verdict::Failed(exit)),
            (None, How::Signal(_)) => self.again(death.dice),
        };
        let mut effects = vec![];
        if owed.is_none() && (self.has_answered || death.how != How::Code(0)) {
            effects.push(Tell(Notice::Died));
        }
        if let Then::Again(pause) = then {
            effects.push(Tell(Notice::Restarting(pause)));
        }
        effects.extend(self.clear(then));
        effects
    }

    fn start_engine(&mut self) -> Vec<Effect> {
        let pause = doubled(self.engine_failures);
        self.engine_failures += 1;
        vec![Tell(Notice::EngineDied), StartEngine(pause)]
    }

    fn stop(&mut self, then: Then, why: Notice) -> Vec<Effect> {
        self.enter(Stopping(then), &[Tell(why), Ask(Ask::End), Arm(Limit::Stop)])
    }

    /// Ends the daemon in order, to start everything again.
    fn restart(&mut self, why: Notice) -> Vec<Effect> {
        let then = self.again(0);
        self.stop(then, why)
    }

    fn kill(&mut self, why: Notice, then: Then) -> Vec<Effect> {
        self.owes_stop = None;
        [Tell(why)].into_iter().chain(self.kill_all(then, 1)).collect()
    }

    fn kill_all(&mut self, then: Then, kills: u8) -> Vec<Effect> {
        self.enter(Clearing(then, kills), &[Kill, Arm(Limit::Clear)])
    }

    /// Clears up behind rootlesskit, or has it end first.
    fn clear(&mut self, then: Then) -> Vec<Effect> {
        self.enter(Clearing(then, 0), &[EndNamespaces, Clear, Arm(Limit::Fall)])
    }

    /// Counts a restart of everything.
    fn again(&mut self, dice: u8) -> Then {
        let pause = self.pause(dice);
        self.failures += 1;
        self.restarts += 1;
        Then::Again(pause)
    }

    /// Returns the pause before the next restart: none for the first in a row, then twice as long
    /// each time, and a quarter more or less by `dice`.
    fn pause(&self, dice: u8) -> Duration {
        doubled(self.failures).mul_f64(0.75 + 0.5 * f64::from(dice) / 255.0)
    }
}

/// What follows a stop that a user asked for.
const LEAVE: Then = Then::Leave(Verdict::Stopped);

/// Returns what follows a stop that took too long.
fn forced(then: Then) -> Then {
    match then {
        Then::Leave(_) => Then::Leave(Verdict::Forced),
        Then::Again(_) => then,
    }
}

/// Returns the pause after so many failures in a row, without jitter.
fn doubled(failures: u32) -> Duration {
    match failures.min(16) {
        0 => Duration::ZERO,
        failures => PAUSE_MIN.saturating_mul(1 << (failures - 1)).min(PAUSE_MAX),
    }
}

#[cfg(test)]
mod tests;
