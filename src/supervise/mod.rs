//! Stays with the daemon: performs what [`Machine`] decides, and tells it what happens. One thread
//! waits for events; nothing in here decides.

mod containerd;
mod control;
mod dockerd;
mod hand_over;
mod health;
mod helper;
mod launching;
mod leftovers;
mod log;
mod machine;
mod notices;
mod ports;
mod progress;
mod run_dir;
mod snapshot;
mod tasks;
mod upkeep;

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, SystemTime};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, Signal::*};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use sd_notify::NotifyState;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use crate::error::{Error, Exit};
use crate::facts::HostFacts;
use crate::facts::places::Places;
use crate::plan::{Api, Daemon, Keep, LaunchPlan, Link};
use crate::stage::orders::{Report, Sibling};
use crate::sys::lock::Lock;
use crate::sys::notify::{self, Message};
pub use crate::sys::processes::pidfds_work;
use crate::sys::processes::{self, Identity, Process};
use crate::sys::wait::{self, MOMENT, wait_on};
use crate::sys::{process, sockets};
pub use control::{refresh, restart_all};
pub use hand_over::{Legacy, TAKE_OVER, resume};
pub use health::{answers, query, runs_containers};
use helper::Helper;
pub use leftovers::is_container;
use machine::{Death, Effect, Event, Machine, State, Then, Why};
pub use machine::{How, Notice, Verdict};
use progress::Silence;
pub use run_dir::{DATA_LOCK, RunDir, lock_data_root, read_status};
pub use snapshot::{DOCKERD, Status, newer_programs, wait_until_ready};
use tasks::Tasks;

/// A daemon that did well for so long and dies has a failure of its own, not the last one again.
const SETTLED: Duration = Duration::from_secs(60);

/// No limit, for practical purposes.
const UNLIMITED: Duration = Duration::from_secs(86_400);

/// How long to wait before a part that is not well is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What can be sent to the supervisor. SIGUSR2 has no meaning, and would end it.
const SIGNALS: [Signal; 7] = [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGCHLD];

/// The command that runs a supervisor. It plans with the settings, the programs and the host as they
/// are now.
pub trait Caller {
    fn plan_launch(&self) -> Result<(LaunchPlan, HostFacts), Error>;

    /// Plans a launch in the place of what runs.
    fn plan_again(&self) -> Result<(LaunchPlan, HostFacts), Error>;

    /// Plans a dockerd in namespaces with this network.
    fn plan_dockerd(&self, link: &Link) -> Result<(Daemon, HostFacts), Error>;

    /// Returns the code to end with if the host has a fault that lasts.
    fn find_fault(&self) -> Option<Exit>;

    /// Tells the user what happens, beside the log.
    fn tell(&self, notice: Notice, text: &str);
}

/// What the supervisor works with.
pub struct Task<'a> {
    /// Those of our own command line.
    pub arguments: Vec<OsString>,
    /// Our directory, locked.
    pub run_dir: RunDir,
    /// The data root's lock, where there can be one.
    pub data_lock: Option<Lock>,
    pub caller: &'a dyn Caller,
    /// How long dockerd may take to start.
    pub start: Duration,
    /// How often dockerd is asked whether it is well.
    pub probe: Duration,
    /// After what time without containers and clients it ends.
    pub idle: Option<Duration>,
    /// Whether a dockerd that hangs is replaced.
    pub replaces_hung: bool,
}

/// What runs was started with this, whatever the settings say by now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Running {
    pub api: Api,
    /// How long dockerd itself takes to end before containers' own times count.
    shutdown: Duration,
    pub places: Places,
    /// Whether the exec root was missing before the launch, or a daemon's.
    exec_root_is_new: bool,
    #[serde(flatten)]
    link: Link,
    has_helper: bool,
    /// Whether dockerd serves ports without docker-proxy.
    #[serde(default)]
    lacks_proxy: bool,
    /// dockerd's program and arguments.
    command: Vec<OsString>,
    keep: Keep,
}

impl Running {
    fn new((plan, host): &(LaunchPlan, HostFacts), api: Api, shutdown: Duration) -> Self {
        Self {
            api,
            shutdown,
            places: host.session.places.clone(),
            exec_root_is_new: leftovers::is_daemons(&host.session.places.exec_root),
            link: plan.network.link(),
            has_helper: plan.network.has_helper,
            lacks_proxy: plan.network.source.lacks_proxy,
            command: plan.stage.daemon.clone(),
            keep: plan.keep.clone(),
        }
    }
}

/// How it ended.
#[derive(Debug, Default)]
pub struct Outcome {
    pub verdict: Verdict,
    /// How the daemon ended at last, if it did.
    pub how: Option<How>,
    /// How far a start had come.
    pub phase: &'static str,
    /// Why a later launch was refused.
    pub refusal: Option<Error>,
    /// The last lines that the daemon wrote.
    pub log: Vec<String>,
}

/// Starts what is `planned`, and stays with it until it is over.
pub fn run(
    task: Task<'_>,
    planned: (LaunchPlan, HostFacts),
    api: Api,
    shutdown: Duration,
) -> Result<Outcome, Error> {
    process::adopt_orphans().map_err(failed("cannot adopt orphans"))?;
    processes::remember_earlier();
    let running = Running::new(&planned, api, shutdown);
    event_loop()?.block_on(async {
        let (machine, effects) = Machine::start(task.start);
        let supervisor = io::pipe().and_then(|pipe| Supervisor::new(task, running, machine, pipe));
        let mut supervisor = supervisor.map_err(failed(NO_LOG))?;
        if let Some(fds) = planned.0.sockets.as_ref().filter(|fds| !fds.is_own) {
            let kept = sockets::adopt(fds.count);
            supervisor.listeners = kept.map_err(failed("cannot keep the passed sockets"))?;
        }
        supervisor.planned = Some(planned);
        supervisor.listen()?;
        Ok(supervisor.work(effects).await)
    })
}

const NO_LOG: &str = "cannot pass the daemon's log on";

fn event_loop() -> Result<tokio::runtime::Runtime, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(failed("cannot make the event loop"))
}

/// Returns what makes an error of a cause: `what` has failed.
fn failed<E: std::error::Error>(what: &str) -> impl Fn(E) -> Error {
    move |cause| Error::new(Exit::Failed, what).because(&cause)
}

/// Holds the signals back that the supervisor receives later, while it prepares.
pub fn hold_signals() -> Result<(), Error> {
    SigSet::from_iter(SIGNALS).thread_block().map_err(failed("cannot hold signals back"))
}

/// Waits for `time`, or until a signal that [`hold_signals`] holds back asks us to end.
pub fn wait_for_stop(time: Duration) {
    let ends = SigSet::from_iter([SIGTERM, SIGINT, SIGQUIT]);
    let Ok(signals) = SignalFd::with_flags(&ends, SfdFlags::SFD_CLOEXEC) else { return };
    let time = PollTimeout::try_from(time).unwrap_or(PollTimeout::ZERO);
    let _ = poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], time);
}

/// One launch: namespaces, and what runs in them.
#[derive(Default, Serialize, Deserialize)]
struct Launch {
    /// When rootlesskit was started.
    begun: Option<SystemTime>,
    rootlesskit: Option<u32>,
    keeper: Option<Identity>,
    daemon: Option<Identity>,
    engine: Option<Identity>,
    /// rootlesskit's process in the namespaces.
    child: Option<Identity>,
    helper: Option<Helper>,
    /// A helper that has ended.
    lost: Option<Helper>,
    /// The helper that is being started, and for which time in a row.
    healing: Option<Identity>,
    attempts: u8,
    has_answered: bool,
    /// Our connection to the keeper.
    #[serde(skip)]
    control: Option<UnixStream>,
    /// What dockerd does instead of an answer.
    #[serde(skip)]
    silence: Option<Silence>,
    /// When it will have done well for long.
    #[serde(skip)]
    settles: Option<Instant>,
    /// Whether what is left may end by itself.
    #[serde(skip)]
    has_grace: bool,
    #[serde(skip)]
    ports: ports::Ports,
    /// Tasks of this dockerd.
    #[serde(skip)]
    asking: Tasks,
    #[serde(skip)]
    tasks: Tasks,
}

struct Supervisor<'a> {
    task: Task<'a>,
    running: Running,
    /// The plan of the first launch.
    planned: Option<(LaunchPlan, HostFacts)>,
    machine: Machine,
    /// What the machine takes next.
    raised: VecDeque<Event>,
    launch: Launch,
    tasks: Tasks,
    /// When the time is over that the machine has given.
    deadline: Option<Instant>,
    listeners: Vec<OwnedFd>,
    /// The name of our own socket.
    socket: Option<run_dir::Name>,
    log: log::Log,
    /// The pipe to which the daemon writes.
    reader: PipeReader,
    writer: PipeWriter,
    status: Status,
    /// What is wrong while the daemon runs, by what it is about.
    problems: BTreeMap<&'static str, String>,
    /// Requests that wait, and the one that is being done, with how often dockerd had been replaced and
    /// everything restarted before.
    requests: VecDeque<(String, UnixStream)>,
    begun: Option<(UnixStream, (u32, u32))>,
    /// How the daemon ended, in words.
    death: String,
    owes_reload: bool,
    over: bool,
    outcome: Outcome,
}

impl<'a> Supervisor<'a> {
    fn new(
        task: Task<'a>,
        running: Running,
        machine: Machine,
        (reader, writer): (PipeReader, PipeWriter),
    ) -> io::Result<Self> {
        Ok(Self {
            task,
            running,
            planned: None,
            machine,
            raised: VecDeque::new(),
            launch: Launch::default(),
            tasks: Tasks::default(),
            deadline: None,
            listeners: Vec::new(),
            socket: None,
            log: log::Log::resume(reader.try_clone()?)?,
            reader,
            writer,
            status: Status::default(),
            problems: BTreeMap::new(),
            requests: VecDeque::new(),
            begun: None,
            death: String::new(),
            owes_reload: false,
            over: false,
            outcome: Outcome::default(),
        })
    }

    /// Receives signals, what the processes below us tell, and what users ask for.
    fn listen(&mut self) -> Result<(), Error> {
        hold_signals()?;
        let receiver = notify::Receiver::bind(&self.task.run_dir.notify());
        let receiver = receiver.map_err(failed("cannot receive messages"))?;
        self.tasks.stop();
        self.feed_watchdog();
        self.receive_signals().map_err(failed("cannot receive signals"))?;
        let sender = self.tasks.sender();
        self.tasks.spawn(async move {
            loop {
                match receiver.next().await {
                    Ok(message) => sender.send(move |it| it.hear(&message)),
                    Err(error) => return warn!("the notify socket fails: {error}"),
                }
            }
        });
        self.receive_requests().map_err(failed("cannot receive requests"))
    }

    fn receive_signals(&mut self) -> io::Result<()> {
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&SigSet::from_iter(SIGNALS), flags)?;
        let fd = signals.as_fd().try_clone_to_owned()?;
        let read = move |_: &OwnedFd| {
            let info = signals.read_signal()?.ok_or(io::ErrorKind::WouldBlock)?;
            Ok(Signal::try_from(info.ssi_signo.cast_signed())?)
        };
        self.tasks.read(fd, read, |it, signal| it.obey(signal))
    }

    /// Works until it is over, from these effects on.
    async fn work(mut self, effects: Vec<Effect>) -> Outcome {
        self.perform(effects);
        loop {
            while let Some(event) = self.raised.pop_front() {
                self.tell_machine(event);
            }
            if self.over {
                return self.leave();
            }
            self.serve_requests();
            if !self.raised.is_empty() {
                continue;
            }
            let deadline = self.deadline.unwrap_or_else(|| Instant::now() + UNLIMITED);
            tokio::select! {
                biased;
                Some(act) = self.tasks.next() => act(&mut self),
                Some(act) = self.launch.tasks.next() => act(&mut self),
                Some(act) = self.launch.asking.next() => act(&mut self),
                () = sleep_until(deadline), if self.deadline.is_some() => self.too_late(),
            }
        }
    }

    /// Tells the service manager that we live. Whether the daemon does is told in other ways.
    fn feed_watchdog(&mut self) {
        if let Some(time) = sd_notify::watchdog_enabled() {
            notices::tell_manager(&[NotifyState::Watchdog]);
            self.tasks.later(time / 2, |it| it.feed_watchdog());
        }
    }

    /// Queues `event` for the machine.
    fn raise(&mut self, event: Event) {
        self.raised.push_back(event);
    }

    fn tell_machine(&mut self, event: Event) {
        self.settle();
        let before = self.machine.clone();
        let effects = self.machine.on(event);
        self.perform(effects);
        if before != self.machine {
            debug!("{:?} -> {:?} on {event:?}", before.state, self.machine.state);
            self.write_status();
        }
    }

    /// Forgets the failures of a daemon that did well since. Nothing has to wake for that before it
    /// matters.
    fn settle(&mut self) {
        if self.launch.settles.take_if(|time| *time <= Instant::now()).is_some() {
            self.machine.failures = 0;
        }
    }

    fn obey(&mut self, signal: Signal) {
        match signal {
            SIGCHLD => self.reap(),
            SIGTERM | SIGINT => self.raise(Event::Stop),
            SIGHUP if self.machine.state == State::Ready => self.reload(),
            // dockerd's handler comes late: it would die of the signal.
            SIGHUP => self.owes_reload = true,
            SIGUSR1 => self.signal_daemon(SIGUSR1),
            SIGQUIT => {
                self.signal_daemon(SIGUSR1);
                self.raise(Event::Stop);
            }
            _ => {}
        }
    }

    /// Takes what a process below us says of itself.
    fn hear(&mut self, message: &Message) {
        let sender = processes::read(message.pid).filter(|process| !process.zombie);
        let Some(Process { identity, parent, .. }) = sender else { return };
        match message.text.as_str() {
            notify::KEEPER => {
                self.launch.keeper = Some(identity);
                self.launch.child = processes::read(parent).map(|parent| parent.identity);
                self.watch_stage(identity);
                self.start_engine();
                self.order_daemon();
            }
            notify::ENGINE => {
                self.launch.engine = Some(identity);
                self.write_status();
            }
            notify::DAEMON => {
                self.launch.daemon = Some(identity);
                self.outcome.phase = "dockerd does not answer";
                self.look_after();
                self.write_status();
                self.raise(Event::Announced);
            }
            // This one has no API that we could ask.
            _ if message.is_ready() && self.api_path().is_none() => self.judge(None),
            _ => {}
        }
    }

    /// Takes what the keeper reports.
    fn learn(&mut self, report: Report) {
        match report {
            Report::EngineUp => self.engine_is_up(),
            Report::Ended(Sibling::Engine, code) => {
                self.launch.engine = None;
                debug!("containerd ended: {}", How::passed_on(code));
                // It outlives all that dockerd does, and dockerd needs it even to end.
                if !matches!(self.machine.state, State::Clearing(..)) {
                    self.tell(Notice::EngineDied);
                    self.settle();
                    let pause = self.machine.pause();
                    self.launch.tasks.later(pause, |it| it.start_engine());
                    self.write_status();
                }
            }
            Report::Ended(Sibling::Daemon, code) => {
                let how = How::passed_on(code);
                self.stop_asking();
                self.launch.daemon = None;
                self.death = match how {
                    How::Code(0) => "dockerd exited without being asked (exit code 0)".into(),
                    How::Code(_) => format!("dockerd ended with {how}"),
                    How::Signal(_) => format!("dockerd was ended by {how}"),
                };
                let death = self.death_of(how);
                self.raise(Event::DaemonEnded(death));
            }
        }
    }

    fn reap(&mut self) {
        while let Some((pid, how)) = processes::reap() {
            if self.launch.rootlesskit == Some(pid) {
                self.launch.rootlesskit = None;
                self.ended(how);
            } else if let Some(started) = self.launch.healing.filter(|now| now.pid == pid) {
                // pasta goes to the background when it is ready.
                self.healed(started, how == How::Code(0));
            }
        }
        self.look_whether_clear();
    }

    /// rootlesskit has ended.
    fn ended(&mut self, end: How) {
        self.stop_asking();
        // The end of dockerd has been told.
        if !matches!(self.machine.state, State::Stopping(_) | State::Clearing(..)) {
            self.death = notices::death_of(end);
        }
        let death = self.death_of(match end {
            How::Code(code) => How::passed_on(code),
            How::Signal(_) => end,
        });
        self.raise(Event::Ended(death));
    }

    /// Finds out about the end of dockerd, or of everything.
    fn death_of(&mut self, how: How) -> Death {
        let is_expected = matches!(self.machine.state, State::Stopping(_) | State::Clearing(..));
        let permanent = match how {
            _ if is_expected || self.machine.has_answered || how == How::Code(0) => None,
            // The namespace stage has said why.
            How::Code(code @ (4 | 78 | 126 | 127)) => Some(Exit::Daemon(code)),
            _ => self.task.caller.find_fault(),
        };
        self.outcome.how = Some(how);
        let is_left = |process| ports::is_shim(process) && !ports::is_plugin(process);
        let left = self.engine_is_reachable() && processes::descendants().iter().any(is_left);
        Death { how, permanent, left }
    }

    /// Says what is left to say.
    fn leave(mut self) -> Outcome {
        if let Some(name) = &self.socket {
            name.remove();
        }
        // No daemon comes that would accept them, and the service manager would start us again at once.
        let is_passed = matches!(self.running.api, Api::Passed(_));
        if is_passed && matches!(self.outcome.verdict, Verdict::Permanent(_)) {
            sockets::turn_away(&self.listeners);
        }
        // An instance that waits for our directory finds the data free.
        self.task.data_lock = None;
        self.disappoint();
        // The last lines count that the daemon has written.
        self.log.stop();
        self.outcome.log = self.log.last();
        self.outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_that_is_asked_for_ends_a_wait() {
        let (begin, time) = (Instant::now(), Duration::from_secs(60));
        let waits = std::thread::spawn(move || {
            hold_signals().expect("a mask");
            nix::sys::signal::raise(SIGTERM).expect("to this thread");
            wait_for_stop(time);
        });
        waits.join().expect("no panic");
        assert!(begin.elapsed() < time);
    }
}
