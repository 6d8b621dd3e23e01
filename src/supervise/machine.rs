//! A state and an event give the next state and what is to be done. There is no clock and no I/O in
//! here: whoever drives the machine measures time, throws the dice and performs the effects.
//!
//! Two things can start again. dockerd alone is replaced in place: containerd, the containers and
//! the network stay. Everything starts again only when the namespaces have ended, or when somebody
//! asks for it.

use std::fmt;
use std::time::Duration;

use crate::error::Exit;

/// The pause before the second restart in a row; the first comes at once.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// The longest pause, before jitter.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How often a network helper is started again before everything is.
const HEAL_ATTEMPTS: u8 = 2;

/// How often everything is killed before the survivors are reported.
const KILL_ATTEMPTS: u8 = 3;

/// Where the daemon is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// rootlesskit was started, and dockerd has not answered yet.
    Starting,
    /// dockerd answers, and the network has its helper.
    Ready,
    /// The network helper is being started again, for the attempt of this number.
    Healing(u8),
    /// dockerd hangs, and has a moment to write what it does.
    Dumping,
    /// dockerd was asked to end, or killed, to be started again in place after a pause.
    Replacing(Duration),
    /// A pause before dockerd starts again in place.
    Pausing,
    /// dockerd was started again in place, and has not answered yet.
    Reviving,
    /// The namespaces have ended, and rootlesskit is about to.
    Falling,
    /// dockerd was asked to end with its containers, which get their time.
    Stopping(Then),
    /// dockerd has ended or must not go on, and what is left is ended; everything was killed so often
    /// already.
    Clearing(Then, u8),
    /// A pause before everything starts again.
    Waiting,
    /// Nothing is left to do.
    Over,
}

/// What follows when nothing of the daemon is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The supervisor ends.
    Leave(Verdict),
    /// Everything starts again, after a pause.
    Again(Duration),
}

/// Why the supervisor ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was asked to.
    Stopped,
    /// Nobody uses the daemon; the service manager holds its socket.
    Idle,
    /// It was asked to, and the daemon did not end in its time and was killed.
    Forced,
    /// The daemon cannot run until the cause is fixed.
    Permanent(Exit),
    /// The daemon failed before it ever answered.
    Failed(Exit),
    /// The daemon did not answer in its time, and never had before.
    TimedOut,
    /// Processes survive SIGKILL.
    Survivors,
}

/// How the daemon ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Death {
    /// How dockerd ended, or rootlesskit.
    pub how: How,
    /// The code to end with if a check finds a cause that does not go away by itself.
    pub permanent: Option<Exit>,
    /// Whether containers still run.
    pub left: bool,
    /// For the jitter of the pause, from 0 to 255.
    pub dice: u8,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// With a code of its own.
    Code(u8),
    /// By the signal of this number.
    Signal(u8),
}

impl How {
    /// What the code of a process says that passes another's end on: above 128 a signal.
    pub fn passed_on(code: u8) -> Self {
        match code {
            129..=192 => Self::Signal(code - 128),
            _ => Self::Code(code),
        }
    }

    /// The code of a shell for it.
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(number) => 128 + number,
        }
    }
}

/// What happens to the daemon, or what somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// dockerd's process is there.
    Announced,
    /// dockerd has answered a request.
    Answered,
    /// It has done well for a minute: a failure from now on is no repetition.
    Settled,
    /// dockerd has ended.
    DaemonEnded(Death),
    /// containerd has ended.
    EngineEnded,
    /// A process that the namespaces depend on has ended.
    Fell,
    /// rootlesskit has ended, and with it the namespaces.
    Ended(Death),
    /// Nothing of the daemon's is left.
    Cleared,
    /// Somebody wants it to end.
    Stop,
    /// dockerd is to be replaced in place.
    Replace(Why),
    /// Somebody wants everything to start again.
    RestartAll,
    /// Somebody wants it to read its configuration anew.
    Reload,
    /// Somebody wants to know what it is doing, and then wants it to end.
    Dump,
    /// It answers no request and does nothing at all.
    Hung,
    /// It answers.
    Healthy,
    /// The network helper has ended.
    HelperDied,
    /// The network helper that was started again is ready.
    HelperBack,
    /// The network helper that was started again failed.
    HelperFailed,
    /// A socket or a directory that the daemon needs is gone.
    PlacesGone,
    /// No container runs, and nobody has used the daemon for long.
    Idle,
    /// Somebody has begun to use the daemon that was to end as idle.
    StillUsed,
    /// The time that [`Effect::Arm`] gave is over.
    Deadline,
}

/// Why dockerd is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Somebody asked for it.
    Asked,
    /// A published port does not answer.
    Ports,
    /// containerd does not know containers any more that ran.
    Forgotten,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Start rootlesskit.
    Launch,
    /// Start dockerd in place.
    Revive,
    /// Start containerd in place, after a pause.
    StartEngine(Duration),
    /// Signal dockerd.
    Ask(Ask),
    /// Ask an idle daemon to end without taking another connection.
    Retire,
    /// End containerd and the namespaces, which nothing needs any more.
    EndNamespaces,
    /// Kill dockerd alone.
    KillDaemon,
    /// Kill everything that is ours.
    Kill,
    /// End what is left behind a daemon that has ended, and say [`Event::Cleared`].
    Clear,
    /// Start the network helper again.
    Heal,
    /// Say [`Event::Deadline`] when the time is over, instead of any time given before.
    Arm(Limit),
    /// Forget the time that was given.
    Disarm,
    /// Say so, in the log and in the status.
    Tell(Notice),
    /// End.
    Leave(Verdict),
}

/// What dockerd is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// SIGTERM: end, and leave the containers alone if they are to be kept.
    Yield,
    /// The same, with the containers in order. A daemon that is not there yet is killed with all the
    /// rest.
    End,
    /// SIGHUP: read the configuration anew.
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
    /// To what was killed, to be gone.
    Clear,
    /// Before the next start.
    Pause(Duration),
}

/// What is worth telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The daemon is up.
    Up,
    /// dockerd died, or everything.
    Died,
    /// dockerd was not there in the time for its start, or does nothing.
    StartTimedOut,
    /// dockerd answers no request and does nothing.
    Hung,
    /// It answers again.
    AnswersAgain,
    /// dockerd is replaced in place.
    Replacing(Why),
    /// containerd has ended.
    EngineDied,
    /// The network helper has ended.
    HelperLost,
    /// The network is back.
    HelperBack,
    /// The network helper does not come back.
    HelperGivenUp,
    /// A socket or a directory that the daemon needs is gone.
    PlacesGone,
    /// Nobody uses the daemon.
    Idle,
    /// It ends.
    Stopping,
    /// It ends, to start again.
    RestartingAll,
    /// It is killed, as somebody is in a hurry.
    Hurry,
    /// It did not end in its time.
    StopTimedOut,
    /// dockerd starts again in place, after this pause.
    Reviving(Duration),
    /// Everything starts again, after this pause.
    Restarting(Duration),
}

impl fmt::Display for How {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(out, "exit code {code}"),
            Self::Signal(number) => match SIGNALS.iter().find(|(own, _)| own == number) {
                Some((_, name)) => write!(out, "{name}"),
                None => write!(out, "signal {number}"),
            },
        }
    }
}

/// The signals that end daemons, by their numbers on Linux.
const SIGNALS: [(u8, &str); 9] = [
    (1, "SIGHUP"),
    (2, "SIGINT"),
    (3, "SIGQUIT"),
    (4, "SIGILL"),
    (6, "SIGABRT"),
    (7, "SIGBUS"),
    (9, "SIGKILL"),
    (11, "SIGSEGV"),
    (15, "SIGTERM"),
];

/// The machine: its state, and what it remembers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The state.
    pub state: State,
    /// Whether the daemon has ever answered.
    pub has_answered: bool,
    /// Whether dockerd's process is there.
    pub is_announced: bool,
    /// Whether the configuration is to be read anew as soon as dockerd can.
    pub owes_reload: bool,
    /// What is to follow a stop that dockerd must be up for.
    pub owes_stop: Option<Then>,
    /// Whether a dockerd that left containers was started once more to stop them.
    pub stops_again: bool,
    /// Failures in a row.
    pub failures: u32,
    /// Ends of containerd in a row.
    pub engine_failures: u32,
    /// How often everything was started again.
    pub restarts: u32,
    /// How often dockerd was replaced in place.
    pub replaced: u32,
    /// How often a network helper was started again with success.
    pub heals: u32,
}

impl Machine {
    /// A machine whose first launch is under way, and the effects of that.
    pub fn start() -> (Self, Vec<Effect>) {
        let machine = Self {
            state: State::Starting,
            has_answered: false,
            is_announced: false,
            owes_reload: false,
            owes_stop: None,
            stops_again: false,
            failures: 0,
            engine_failures: 0,
            restarts: 0,
            replaced: 0,
            heals: 0,
        };
        (machine, vec![Effect::Launch, Effect::Arm(Limit::Start)])
    }

    /// A machine whose daemon is up, and has been replaced, restarted and healed so often.
    pub fn resume(restarts: u32, replaced: u32, heals: u32) -> Self {
        Self {
            state: State::Ready,
            has_answered: true,
            is_announced: true,
            restarts,
            replaced,
            heals,
            ..Self::start().0
        }
    }

    /// Takes `event` and returns what is to be done, in this order.
    pub fn on(&mut self, event: Event) -> Vec<Effect> {
        match (self.state, event) {
            (State::Clearing(then, kills), _) => self.while_clearing(then, kills, event),
            (State::Waiting, _) => self.while_waiting(event),
            (State::Over, _) => Vec::new(),
            (State::Falling, _) => self.while_falling(event),
            // containerd outlives all that dockerd does, and dockerd needs it even to end.
            (_, Event::EngineEnded) => self.start_engine(),
            (State::Stopping(then), _) => self.while_stopping(then, event),
            (_, Event::Ended(death)) => self.died(death),
            (_, Event::Fell) => self.fall(),
            (State::Ready | State::Healing(_), _) => self.while_up(event),
            _ => self.while_coming(event),
        }
    }

    /// dockerd is not up, and is to be: starting, or being replaced.
    fn while_coming(&mut self, event: Event) -> Vec<Effect> {
        match (self.state, event) {
            (State::Starting | State::Reviving, Event::Announced) => {
                self.is_announced = true;
                vec![Effect::Arm(Limit::Answer)]
            }
            (State::Starting | State::Reviving, Event::Answered) => self.up(),
            (_, Event::DaemonEnded(death)) => self.daemon_ended(death),
            (_, Event::Stop | Event::Dump) => self.stop_later(event),
            (_, Event::Reload) => {
                // dockerd's handler comes late: it would die of the signal.
                self.owes_reload = true;
                Vec::new()
            }
            (State::Dumping, Event::Healthy) => {
                self.state = State::Ready;
                let told = [Effect::Disarm, Effect::Tell(Notice::AnswersAgain)];
                told.into_iter().chain(self.owed()).collect()
            }
            (State::Starting, Event::PlacesGone) => {
                let then = self.again(self.pause(0));
                self.kill(Notice::PlacesGone, then)
            }
            (State::Pausing, Event::Deadline) => self.revive(),
            (State::Pausing, Event::Replace(_)) => self.revive(),
            (_, Event::Deadline) => self.too_late(),
            _ => Vec::new(),
        }
    }

    /// Ready or healing.
    fn while_up(&mut self, event: Event) -> Vec<Effect> {
        match (self.state, event) {
            (_, Event::DaemonEnded(death)) => self.daemon_ended(death),
            (_, Event::Stop) => self.stop(Then::Leave(Verdict::Stopped), Notice::Stopping),
            (_, Event::Dump) => self.dump(),
            (_, Event::Settled) => {
                self.failures = 0;
                self.engine_failures = 0;
                Vec::new()
            }
            (_, Event::Reload) => vec![Effect::Ask(Ask::Reload)],
            (_, Event::PlacesGone) => self.restart(Notice::PlacesGone),
            (_, Event::Hung) => {
                self.state = State::Dumping;
                vec![Effect::Tell(Notice::Hung), Effect::Ask(Ask::Dump), Effect::Arm(Limit::Dump)]
            }
            (State::Ready, Event::Replace(why)) => {
                self.state = State::Replacing(Duration::ZERO);
                vec![
                    Effect::Tell(Notice::Replacing(why)),
                    Effect::Ask(Ask::Yield),
                    Effect::Arm(Limit::Yield),
                ]
            }
            (_, Event::RestartAll) => {
                self.restarts += 1;
                self.stop(Then::Again(Duration::ZERO), Notice::RestartingAll)
            }
            (State::Ready, Event::Idle) => {
                self.state = State::Stopping(Then::Leave(Verdict::Idle));
                vec![Effect::Tell(Notice::Idle), Effect::Retire, Effect::Arm(Limit::Stop)]
            }
            (State::Ready, Event::HelperDied) => {
                self.state = State::Healing(1);
                vec![Effect::Tell(Notice::HelperLost), Effect::Heal, Effect::Arm(Limit::Heal)]
            }
            (State::Healing(_), Event::HelperBack) => {
                self.state = State::Ready;
                self.heals += 1;
                vec![Effect::Disarm, Effect::Tell(Notice::HelperBack)]
            }
            (
                State::Healing(attempt),
                Event::HelperDied | Event::HelperFailed | Event::Deadline,
            ) => match attempt < HEAL_ATTEMPTS {
                true => {
                    self.state = State::Healing(attempt + 1);
                    vec![Effect::Heal, Effect::Arm(Limit::Heal)]
                }
                false => self.restart(Notice::HelperGivenUp),
            },
            _ => Vec::new(),
        }
    }

    fn while_falling(&mut self, event: Event) -> Vec<Effect> {
        match event {
            Event::Ended(death) => self.died(death),
            Event::Stop | Event::Dump => {
                self.state = State::Clearing(Then::Leave(Verdict::Stopped), 1);
                vec![Effect::Kill, Effect::Arm(Limit::Clear)]
            }
            // rootlesskit does not notice.
            Event::Deadline => {
                let then = match self.has_answered {
                    true => self.again(self.pause(0)),
                    false => Then::Leave(Verdict::Failed(Exit::Failed)),
                };
                self.state = State::Clearing(then, 1);
                vec![Effect::Kill, Effect::Arm(Limit::Clear)]
            }
            _ => Vec::new(),
        }
    }

    fn while_stopping(&mut self, then: Then, event: Event) -> Vec<Effect> {
        match event {
            Event::Ended(_) => self.clear(then),
            // It ended before it knew that its containers are to end: the next one stops them.
            Event::DaemonEnded(death) if death.left && !self.stops_again => {
                self.stops_again = true;
                self.owes_stop = Some(then);
                self.revive()
            }
            Event::DaemonEnded(_) => {
                self.state = State::Clearing(then, 0);
                vec![Effect::EndNamespaces, Effect::Arm(Limit::Fall)]
            }
            Event::Fell => {
                self.state = State::Clearing(then, 0);
                vec![Effect::Arm(Limit::Fall)]
            }
            Event::StillUsed if then == Then::Leave(Verdict::Idle) => {
                self.state = State::Ready;
                vec![Effect::Disarm]
            }
            Event::Stop | Event::Dump if then != Then::Leave(Verdict::Stopped) => {
                self.state = State::Stopping(Then::Leave(Verdict::Stopped));
                match event {
                    Event::Dump => vec![Effect::Ask(Ask::Dump)],
                    _ => Vec::new(),
                }
            }
            Event::Stop => self.kill(Notice::Hurry, then),
            Event::Dump => vec![Effect::Ask(Ask::Dump)],
            Event::Deadline => self.kill(Notice::StopTimedOut, forced(then)),
            _ => Vec::new(),
        }
    }

    fn while_clearing(&mut self, then: Then, kills: u8, event: Event) -> Vec<Effect> {
        match event {
            Event::Ended(_) => vec![Effect::Clear, Effect::Arm(Limit::Clear)],
            Event::Cleared => match then {
                Then::Leave(verdict) => {
                    self.state = State::Over;
                    vec![Effect::Disarm, Effect::Leave(verdict)]
                }
                Then::Again(Duration::ZERO) => self.launch(),
                Then::Again(pause) => {
                    self.state = State::Waiting;
                    vec![Effect::Arm(Limit::Pause(pause))]
                }
            },
            Event::Stop | Event::Dump => {
                if let Then::Again(_) = then {
                    self.state = State::Clearing(Then::Leave(Verdict::Stopped), kills);
                }
                Vec::new()
            }
            Event::Deadline if kills < KILL_ATTEMPTS => {
                self.state = State::Clearing(then, kills + 1);
                vec![Effect::Kill, Effect::Arm(Limit::Clear)]
            }
            // What survives waits for the kernel, mostly for a file system. Who waits with it starts
            // again when that is over.
            Event::Deadline if self.has_answered && matches!(then, Then::Again(_)) => {
                vec![Effect::Kill, Effect::Arm(Limit::Clear)]
            }
            Event::Deadline => {
                self.state = State::Over;
                vec![Effect::Leave(Verdict::Survivors)]
            }
            _ => Vec::new(),
        }
    }

    fn while_waiting(&mut self, event: Event) -> Vec<Effect> {
        match event {
            Event::Deadline | Event::RestartAll | Event::Replace(_) => self.launch(),
            Event::Stop | Event::Dump => {
                self.state = State::Over;
                vec![Effect::Disarm, Effect::Leave(Verdict::Stopped)]
            }
            _ => Vec::new(),
        }
    }

    fn launch(&mut self) -> Vec<Effect> {
        self.state = State::Starting;
        self.is_announced = false;
        vec![Effect::Launch, Effect::Arm(Limit::Start)]
    }

    /// Starts dockerd in place.
    fn revive(&mut self) -> Vec<Effect> {
        self.state = State::Reviving;
        self.is_announced = false;
        self.replaced += 1;
        vec![Effect::Revive, Effect::Arm(Limit::Start)]
    }

    fn up(&mut self) -> Vec<Effect> {
        self.state = State::Ready;
        self.has_answered = true;
        let told = [Effect::Disarm, Effect::Tell(Notice::Up)];
        told.into_iter().chain(self.owed()).collect()
    }

    /// What was asked for while dockerd could not do it.
    fn owed(&mut self) -> Vec<Effect> {
        let reload = std::mem::take(&mut self.owes_reload).then_some(Effect::Ask(Ask::Reload));
        match self.owes_stop.take() {
            Some(then) => self.stop(then, Notice::Stopping),
            None => reload.into_iter().collect(),
        }
    }

    /// dockerd has ended, and the namespaces have not.
    fn daemon_ended(&mut self, death: Death) -> Vec<Effect> {
        if !self.has_answered {
            return self.died(death);
        }
        // Nobody is left who could stop the containers in order.
        if let (State::Reviving, Some(then)) = (self.state, self.owes_stop) {
            return self.kill(Notice::StopTimedOut, forced(then));
        }
        let mut effects = Vec::new();
        let pause = match self.state {
            State::Replacing(pause) => pause,
            _ => {
                let pause = self.pause(death.dice);
                self.failures += 1;
                effects.push(Effect::Tell(Notice::Died));
                effects.push(Effect::Tell(Notice::Reviving(pause)));
                pause
            }
        };
        match pause.is_zero() || self.owes_stop.is_some() {
            true => effects.extend(self.revive()),
            false => {
                self.state = State::Pausing;
                effects.push(Effect::Arm(Limit::Pause(pause)));
            }
        }
        effects
    }

    /// A daemon that comes, or ends to be replaced, is late and does nothing.
    fn too_late(&mut self) -> Vec<Effect> {
        let comes = matches!(self.state, State::Starting | State::Reviving);
        match (self.state, self.owes_stop) {
            // It has had nothing to stop yet.
            (State::Starting, Some(then)) => {
                self.owes_stop = None;
                return self.stop(then, Notice::Stopping);
            }
            (State::Reviving, Some(then)) => {
                return self.kill(Notice::StopTimedOut, forced(then));
            }
            _ => {}
        }
        if self.state == State::Starting && !(self.has_answered && self.is_announced) {
            let then = match self.has_answered {
                true => self.again(self.pause(0)),
                false => Then::Leave(Verdict::TimedOut),
            };
            return self.kill(Notice::StartTimedOut, then);
        }
        if !matches!(self.state, State::Replacing(_)) {
            self.state = State::Replacing(self.pause(0));
            self.failures += 1;
        }
        let told = comes.then_some(Effect::Tell(Notice::StartTimedOut));
        told.into_iter().chain([Effect::KillDaemon, Effect::Arm(Limit::Yield)]).collect()
    }

    /// Stops a daemon that is on its way as soon as it is up: only then can it stop its containers.
    fn stop_later(&mut self, event: Event) -> Vec<Effect> {
        let then = Then::Leave(Verdict::Stopped);
        if self.owes_stop.is_some() {
            return self.kill(Notice::Hurry, then);
        }
        if self.state == State::Starting && !self.is_announced {
            return self.stop(then, Notice::Stopping);
        }
        self.owes_stop = Some(then);
        let mut effects = vec![Effect::Tell(Notice::Stopping)];
        if event == Event::Dump {
            effects.push(Effect::Ask(Ask::Dump));
        }
        if self.state == State::Pausing {
            effects.extend(self.revive());
        }
        effects
    }

    /// Everything ended by itself.
    fn died(&mut self, death: Death) -> Vec<Effect> {
        let exit = Exit::Daemon(death.how.code());
        let then = match (death.permanent, death.how, self.owes_stop) {
            (.., Some(then)) => then,
            _ if self.has_answered => self.again(self.pause(death.dice)),
            // In order, as `--version` does.
            (_, How::Code(0), _) => Then::Leave(Verdict::Stopped),
            (Some(exit), ..) => Then::Leave(Verdict::Permanent(exit)),
            // What it says of itself before it was ever up it would say again.
            (None, How::Code(_), _) => Then::Leave(Verdict::Failed(exit)),
            (None, How::Signal(_), _) => self.again(self.pause(death.dice)),
        };
        let mut effects = Vec::new();
        if self.owes_stop.take().is_none() && (self.has_answered || death.how != How::Code(0)) {
            effects.push(Effect::Tell(Notice::Died));
        }
        if let Then::Again(pause) = then {
            effects.push(Effect::Tell(Notice::Restarting(pause)));
        }
        effects.extend(self.clear(then));
        effects
    }

    fn start_engine(&mut self) -> Vec<Effect> {
        let pause = match self.engine_failures {
            0 => Duration::ZERO,
            before => doubled(before),
        };
        self.engine_failures += 1;
        vec![Effect::Tell(Notice::EngineDied), Effect::StartEngine(pause)]
    }

    fn fall(&mut self) -> Vec<Effect> {
        self.state = State::Falling;
        vec![Effect::Arm(Limit::Fall)]
    }

    fn stop(&mut self, then: Then, why: Notice) -> Vec<Effect> {
        self.state = State::Stopping(then);
        vec![Effect::Tell(why), Effect::Ask(Ask::End), Effect::Arm(Limit::Stop)]
    }

    fn dump(&mut self) -> Vec<Effect> {
        let mut effects = vec![Effect::Ask(Ask::Dump)];
        effects.extend(self.stop(Then::Leave(Verdict::Stopped), Notice::Stopping));
        effects
    }

    /// Ends the daemon in order, to start everything again.
    fn restart(&mut self, why: Notice) -> Vec<Effect> {
        let then = self.again(self.pause(0));
        self.stop(then, why)
    }

    fn kill(&mut self, why: Notice, then: Then) -> Vec<Effect> {
        self.owes_stop = None;
        self.state = State::Clearing(then, 1);
        vec![Effect::Tell(why), Effect::Kill, Effect::Arm(Limit::Clear)]
    }

    /// Clears up behind rootlesskit, or has it end first.
    fn clear(&mut self, then: Then) -> Vec<Effect> {
        self.state = State::Clearing(then, 0);
        vec![Effect::EndNamespaces, Effect::Clear, Effect::Arm(Limit::Fall)]
    }

    /// Counts a restart of everything after `pause`.
    fn again(&mut self, pause: Duration) -> Then {
        self.failures += 1;
        self.restarts += 1;
        Then::Again(pause)
    }

    /// The pause before the next restart: none for the first in a row, then twice as long each
    /// time, and a quarter more or less by `dice`.
    fn pause(&self, dice: u8) -> Duration {
        match self.failures {
            0 => Duration::ZERO,
            before => doubled(before).mul_f64(0.75 + 0.5 * f64::from(dice) / 255.0),
        }
    }
}

/// What becomes of a stop that took too long.
fn forced(then: Then) -> Then {
    match then {
        Then::Leave(_) => Then::Leave(Verdict::Forced),
        Then::Again(_) => then,
    }
}

/// The pause after so many failures in a row, without jitter.
fn doubled(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    PAUSE_MIN.saturating_mul(1 << doublings).min(PAUSE_MAX)
}

#[cfg(test)]
mod tests;
