//! A state and an event give the next state and what is to be done. There is no clock and no I/O in
//! here: whoever drives the machine measures time, throws the dice and performs the effects.

use std::fmt;
use std::time::Duration;

use crate::error::Exit;

/// The pause before the second restart in a row; the first comes at once.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// The longest pause, before jitter.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How often a network helper is started again before everything is.
const HEAL_ATTEMPTS: u8 = 2;

/// How often the daemon gets time to mend its containerd before everything starts again.
const ENGINE_ATTEMPTS: u8 = 2;

/// How often everything is killed before the survivors are reported.
const KILL_ATTEMPTS: u8 = 3;

/// Where the daemon is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// rootlesskit was started, and the daemon has not answered yet.
    Starting,
    /// The daemon answers, its containerd too, and the network has its helper.
    Ready,
    /// The daemon answers, and its containerd does not: the daemon has its time to mend that, for
    /// the attempt of this number.
    Degraded(u8),
    /// The network helper is being started again, for the attempt of this number.
    Healing(u8),
    /// The daemon has ended, and rootlesskit is about to: what goes with it is no news.
    Falling,
    /// The daemon was asked to end, and its containers get their time.
    Stopping(Then),
    /// The daemon has ended or must not go on, and what is left is ended; everything was killed so
    /// often already.
    Clearing(Then, u8),
    /// A pause before the next start.
    Waiting,
    /// Nothing is left to do.
    Over,
}

/// What follows when nothing of the daemon is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The supervisor ends.
    Leave(Verdict),
    /// The daemon starts again, after a pause.
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
    /// The daemon cannot run until somebody mends the cause.
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
    /// How rootlesskit ended, with the daemon's own end in its code.
    pub how: How,
    /// The code to end with if a check finds a cause that does not go away by itself.
    pub permanent: Option<Exit>,
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
    /// The daemon has said READY and has answered a request.
    Answered,
    /// It has done well for a minute: a failure from now on is no repetition.
    Settled,
    /// The daemon has ended.
    DaemonDied,
    /// rootlesskit has ended, and with it the daemon.
    Ended(Death),
    /// Nothing of the daemon's is left.
    Cleared,
    /// Somebody wants it to end.
    Stop,
    /// Somebody wants it to read its configuration anew.
    Reload,
    /// Somebody wants to know what it is doing, and then wants it to end.
    Dump,
    /// It answers, and its containerd too.
    Healthy,
    /// It answers, and its containerd does not.
    NoEngine,
    /// It does not answer.
    NoAnswer,
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

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Start rootlesskit.
    Launch,
    /// Signal the daemon.
    Ask(Ask),
    /// Ask an idle daemon to end without taking another connection.
    Retire,
    /// Kill everything that is ours.
    Kill,
    /// End what is left behind a daemon that has ended, and say [`Event::Cleared`].
    Clear,
    /// Start the network helper again.
    Heal,
    /// Kill the daemon's containerd, if it is still there.
    KillEngine,
    /// Say [`Event::Deadline`] when the time is over, instead of any time given before.
    Arm(Limit),
    /// Forget the time that was given.
    Disarm,
    /// The service manager may know that all is well.
    Alive,
    /// Say so, in the log and in the status.
    Tell(Notice),
    /// End.
    Leave(Verdict),
}

/// What the daemon is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// SIGTERM: end, in order. A daemon that is not there yet is killed with all the rest.
    End,
    /// SIGHUP: read the configuration anew.
    Reload,
    /// SIGUSR1: write what all goroutines do.
    Dump,
}

/// A time that is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// To the daemon, until it answers.
    Start,
    /// To the daemon, to mend its containerd by itself.
    Engine,
    /// To a network helper, until it is ready.
    Heal,
    /// To the daemon and its containers, to end.
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
    /// The daemon died.
    Died(How),
    /// The daemon did not answer in the time for its start.
    StartTimedOut,
    /// The daemon does not answer any more.
    Hung,
    /// Its containerd does not answer.
    EngineLost,
    /// Its containerd is killed, if it is still there.
    EngineHung,
    /// Its containerd answers again.
    EngineBack,
    /// Its containerd did not come back.
    EngineGivenUp,
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
    /// It is killed, as somebody is in a hurry.
    Hurry,
    /// It did not end in its time.
    StopTimedOut,
    /// It starts again after this pause.
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
    /// Whether the configuration is to be read anew as soon as the daemon can.
    pub owes_reload: bool,
    /// Restarts in a row.
    pub failures: u32,
    /// Restarts in all.
    pub restarts: u32,
    /// How often a network helper was started again with success.
    pub heals: u32,
}

impl Machine {
    /// A machine whose first launch is under way, and the effects of that.
    pub fn start() -> (Self, Vec<Effect>) {
        let machine = Self {
            state: State::Starting,
            has_answered: false,
            owes_reload: false,
            failures: 0,
            restarts: 0,
            heals: 0,
        };
        (machine, vec![Effect::Launch, Effect::Arm(Limit::Start)])
    }

    /// Takes `event` and returns what is to be done, in this order.
    pub fn on(&mut self, event: Event) -> Vec<Effect> {
        match self.state {
            State::Starting => self.while_starting(event),
            State::Ready | State::Degraded(_) | State::Healing(_) => self.while_up(event),
            State::Falling => self.while_falling(event),
            State::Stopping(then) => self.while_stopping(then, event),
            State::Clearing(then, kills) => self.while_clearing(then, kills, event),
            State::Waiting => self.while_waiting(event),
            State::Over => Vec::new(),
        }
    }

    fn while_starting(&mut self, event: Event) -> Vec<Effect> {
        match event {
            Event::Answered => {
                self.state = State::Ready;
                self.has_answered = true;
                let mut effects = vec![Effect::Disarm, Effect::Tell(Notice::Up), Effect::Alive];
                if std::mem::take(&mut self.owes_reload) {
                    effects.push(Effect::Ask(Ask::Reload));
                }
                effects
            }
            Event::Ended(death) => self.died(death),
            Event::DaemonDied => self.fall(),
            Event::Stop => self.stop(),
            Event::Dump => self.dump(),
            Event::Reload => {
                // dockerd's handler comes late: it would die of the signal.
                self.owes_reload = true;
                Vec::new()
            }
            Event::PlacesGone => {
                let then = self.again(self.pause(0));
                self.kill(Notice::PlacesGone, then)
            }
            Event::Deadline => {
                let then = match self.has_answered {
                    true => self.again(self.pause(0)),
                    false => Then::Leave(Verdict::TimedOut),
                };
                self.kill(Notice::StartTimedOut, then)
            }
            Event::Settled
            | Event::Cleared
            | Event::Healthy
            | Event::NoEngine
            | Event::NoAnswer
            | Event::HelperDied
            | Event::HelperBack
            | Event::HelperFailed
            | Event::Idle
            | Event::StillUsed => Vec::new(),
        }
    }

    /// Ready, degraded or healing.
    fn while_up(&mut self, event: Event) -> Vec<Effect> {
        match (self.state, event) {
            (_, Event::Ended(death)) => self.died(death),
            (_, Event::DaemonDied) => self.fall(),
            (_, Event::Stop) => self.stop(),
            (_, Event::Dump) => self.dump(),
            (_, Event::Settled) => {
                self.failures = 0;
                Vec::new()
            }
            (_, Event::Reload) => vec![Effect::Ask(Ask::Reload)],
            (_, Event::PlacesGone) => self.restart(Notice::PlacesGone),
            (_, Event::NoAnswer) => {
                self.state = State::Clearing(self.again(self.pause(0)), 0);
                vec![
                    Effect::Tell(Notice::Hung),
                    Effect::Ask(Ask::Dump),
                    Effect::Arm(Limit::Dump),
                ]
            }
            (State::Ready, Event::Healthy) => vec![Effect::Alive],
            (State::Ready, Event::NoEngine) => {
                self.state = State::Degraded(1);
                vec![Effect::Tell(Notice::EngineLost), Effect::Arm(Limit::Engine)]
            }
            (State::Ready, Event::Idle) => {
                self.state = State::Stopping(Then::Leave(Verdict::Idle));
                vec![
                    Effect::Tell(Notice::Idle),
                    Effect::Retire,
                    Effect::Arm(Limit::Stop),
                ]
            }
            (State::Degraded(_), Event::Healthy) => {
                self.state = State::Ready;
                vec![
                    Effect::Disarm,
                    Effect::Tell(Notice::EngineBack),
                    Effect::Alive,
                ]
            }
            // dockerd waits for its containerd to end, and so does not mend one that hangs. No
            // container ends with it.
            (State::Degraded(attempt), Event::Deadline) if attempt < ENGINE_ATTEMPTS => {
                self.state = State::Degraded(attempt + 1);
                vec![
                    Effect::Tell(Notice::EngineHung),
                    Effect::KillEngine,
                    Effect::Arm(Limit::Engine),
                ]
            }
            // Without it nobody can stop a container: to ask for that would be in vain.
            (State::Degraded(_), Event::Deadline) => {
                let then = self.again(Duration::ZERO);
                self.kill(Notice::EngineGivenUp, then)
            }
            (State::Ready | State::Degraded(_), Event::HelperDied) => {
                self.state = State::Healing(1);
                vec![
                    Effect::Tell(Notice::HelperLost),
                    Effect::Heal,
                    Effect::Arm(Limit::Heal),
                ]
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
            Event::DaemonDied => {
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
            Event::Deadline => {
                let then = match then {
                    Then::Leave(_) => Then::Leave(Verdict::Forced),
                    Then::Again(_) => then,
                };
                self.kill(Notice::StopTimedOut, then)
            }
            _ => Vec::new(),
        }
    }

    fn while_clearing(&mut self, then: Then, kills: u8, event: Event) -> Vec<Effect> {
        match event {
            // One that hung has ended after all, or one was killed.
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
            Event::Deadline => {
                self.state = State::Over;
                vec![Effect::Leave(Verdict::Survivors)]
            }
            _ => Vec::new(),
        }
    }

    fn while_waiting(&mut self, event: Event) -> Vec<Effect> {
        match event {
            Event::Deadline => self.launch(),
            Event::Stop | Event::Dump => {
                self.state = State::Over;
                vec![Effect::Disarm, Effect::Leave(Verdict::Stopped)]
            }
            _ => Vec::new(),
        }
    }

    fn launch(&mut self) -> Vec<Effect> {
        self.state = State::Starting;
        vec![Effect::Launch, Effect::Arm(Limit::Start)]
    }

    /// The daemon ended by itself.
    fn died(&mut self, death: Death) -> Vec<Effect> {
        let exit = Exit::Daemon(death.how.code());
        let then = match (death.permanent, death.how) {
            // In order, as `--version` does, or because somebody has asked dockerd itself to end.
            (_, How::Code(0)) => Then::Leave(Verdict::Stopped),
            (Some(exit), _) => Then::Leave(Verdict::Permanent(exit)),
            // What it says of itself before it was ever up it would say again.
            (None, How::Code(_)) if !self.has_answered => Then::Leave(Verdict::Failed(exit)),
            _ => self.again(self.pause(death.dice)),
        };
        let mut effects = Vec::new();
        if death.how != How::Code(0) {
            effects.push(Effect::Tell(Notice::Died(death.how)));
        }
        if let Then::Again(pause) = then {
            effects.push(Effect::Tell(Notice::Restarting(pause)));
        }
        effects.extend(self.clear(then));
        effects
    }

    fn fall(&mut self) -> Vec<Effect> {
        self.state = State::Falling;
        vec![Effect::Arm(Limit::Fall)]
    }

    fn stop(&mut self) -> Vec<Effect> {
        self.state = State::Stopping(Then::Leave(Verdict::Stopped));
        vec![
            Effect::Tell(Notice::Stopping),
            Effect::Ask(Ask::End),
            Effect::Arm(Limit::Stop),
        ]
    }

    fn dump(&mut self) -> Vec<Effect> {
        let mut effects = vec![Effect::Ask(Ask::Dump)];
        effects.extend(self.stop());
        effects
    }

    /// Ends the daemon in order, to start it again.
    fn restart(&mut self, why: Notice) -> Vec<Effect> {
        self.state = State::Stopping(self.again(self.pause(0)));
        vec![
            Effect::Tell(why),
            Effect::Ask(Ask::End),
            Effect::Arm(Limit::Stop),
        ]
    }

    fn kill(&mut self, why: Notice, then: Then) -> Vec<Effect> {
        self.state = State::Clearing(then, 1);
        vec![Effect::Tell(why), Effect::Kill, Effect::Arm(Limit::Clear)]
    }

    fn clear(&mut self, then: Then) -> Vec<Effect> {
        self.state = State::Clearing(then, 0);
        vec![Effect::Clear, Effect::Arm(Limit::Clear)]
    }

    /// Counts a restart after `pause`.
    fn again(&mut self, pause: Duration) -> Then {
        self.failures += 1;
        self.restarts += 1;
        Then::Again(pause)
    }

    /// The pause before the next restart: none for the first in a row, then twice as long each
    /// time, and a quarter more or less by `dice`.
    fn pause(&self, dice: u8) -> Duration {
        let Some(doublings) = self.failures.checked_sub(1) else {
            return Duration::ZERO;
        };
        let pause = PAUSE_MIN
            .saturating_mul(1 << doublings.min(16))
            .min(PAUSE_MAX);
        pause.mul_f64(0.75 + 0.5 * f64::from(dice) / 255.0)
    }
}

#[cfg(test)]
mod tests;
