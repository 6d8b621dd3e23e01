//! Stays with the daemon: performs what `supervise::Machine` decides, and brings it what happens.
//! One thread waits for events; nothing in here decides.

mod control;
mod dumps;
mod engine;
mod hand_over;
mod health;
mod helper;
mod idle;
mod in_place;
mod log;
mod look;
mod machine;
mod news;
mod perform;
mod places;
mod ports;
mod progress;
pub mod quiet;
mod remains;
mod requests;
mod status;

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, PipeWriter};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{SigSet, Signal};
use sd_notify::NotifyState;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use crate::error::{Error, Exit};
use crate::facts::HostFacts;
use crate::plan::{Api, InPlace, Keep, LaunchPlan};
use crate::stage::orders::{Inbox, Report, Sibling};
use crate::sys::notify::{self, Message};
pub use crate::sys::tree::pidfds_work;
use crate::sys::tree::{self, Identity};
use crate::sys::{process, sockets};
pub use control::{Wish, ask as request, refresh};
pub use hand_over::{Legacy, TAKE_OVER, resume};
use health::{Forwarded, Published};
pub use health::{answers, runs_containers};
use helper::Helper;
pub use machine::{
    Ask, Death, Effect, Event, How, Limit, Machine, Notice, State, Then, Verdict, Why,
};
pub use news::{newer_programs, wait_until_ready};
pub use places::{RunDir, lock_data_root, read_status};
use progress::Silence;
pub use remains::is_container;
pub use status::{ProgramFile, Status};

/// How long containers that a dead daemon leaves may take to end by themselves.
const GRACE: Duration = Duration::from_millis(100);

/// How long dockerd's plugins may take, which dockerd itself gives as much.
const PLUGIN_GRACE: Duration = Duration::from_secs(10);

/// What the service manager allows beyond the time for a start, for us to clear up.
const START_MARGIN: Duration = Duration::from_secs(30);

/// What a daemon may need beyond its containers' time, to end.
const STOP_MARGIN: Duration = Duration::from_secs(10);

/// No limit, for practical purposes.
const UNLIMITED: Duration = Duration::from_secs(86_400);

/// How long to wait before a part is asked again that is not well.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// When everything goes, one part goes first: how long to wait before that is news.
pub const MOMENT: Duration = Duration::from_millis(20);

/// A daemon that did well for so long and dies has a failure of its own, not the last one again.
const SETTLED: Duration = Duration::from_secs(60);

/// How long parts get.
const HEAL: Duration = Duration::from_secs(5);
const FALL: Duration = Duration::from_secs(10);
const DUMP: Duration = Duration::from_secs(1);
const CLEAR: Duration = Duration::from_secs(5);

/// What can be sent to the supervisor. SIGUSR2 means nothing, and would end it.
const SIGNALS: [Signal; 6] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// What the supervisor is to do.
pub struct Task<'a> {
    /// The words of our own command line.
    pub arguments: Vec<OsString>,
    /// Our directory, locked.
    pub run_dir: RunDir,
    /// The data root's lock, where there can be one.
    pub data_lock: Option<File>,
    /// The first plan, and what it was made from.
    pub first: (LaunchPlan, HostFacts),
    /// Makes the plan of a later launch.
    pub prepare: &'a dyn Fn() -> Result<(LaunchPlan, HostFacts), Error>,
    /// Makes the plan of a dockerd in namespaces whose interface has this MTU in bytes.
    pub in_place: &'a dyn Fn(u32) -> Result<(InPlace, HostFacts), Error>,
    /// Tells the user what happens, beside the log.
    pub tell: &'a dyn Fn(Notice),
    /// Finds the code to end with if the host has a fault that does not go away by itself.
    pub find_fault: &'a dyn Fn() -> Option<Exit>,
    /// The daemon's socket.
    pub api: Api,
    /// How long dockerd may take to be there.
    pub start: Duration,
    /// How often the daemon is asked how it is.
    pub probe: Duration,
    /// After what time without containers and clients it ends.
    pub idle: Option<Duration>,
    /// What dockerd itself takes to end before containers' own times count.
    pub shutdown: Duration,
    /// Whether a dockerd that hangs is replaced.
    pub replaces_hung: bool,
}

/// How it ended.
#[derive(Debug)]
pub struct Outcome {
    /// Why.
    pub verdict: Verdict,
    /// How the daemon ended at last, if it did.
    pub how: Option<How>,
    /// How far a start had come.
    pub phase: &'static str,
    /// What a later launch was refused for.
    pub refusal: Option<Error>,
    /// The last lines that the daemon wrote.
    pub log: Vec<String>,
}

/// Stays with the daemon until it is over.
///
/// # Errors
/// What the system says if it cannot be begun; no daemon runs then.
pub fn run(task: Task<'_>) -> Result<Outcome, Error> {
    let failed =
        |what: &str, error: &io::Error| Error::new(Exit::Failed, what.to_owned()).because(error);
    process::adopt_orphans().map_err(|errno| failed("orphans cannot be adopted", &errno.into()))?;
    tree::remember_earlier();
    event_loop()?.block_on(async {
        let (inputs, received) = mpsc::unbounded_channel();
        let (machine, effects) = Machine::start();
        let supervisor = Supervisor::new(task, machine, inputs)?;
        Ok(supervisor.work(received, effects).await)
    })
}

fn event_loop() -> Result<tokio::runtime::Runtime, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime
        .map_err(|error| Error::new(Exit::Failed, "the event loop cannot be made").because(&error))
}

/// Has the signals that the supervisor takes wait until it can: the host is looked at before.
///
/// # Errors
/// What the kernel says.
pub fn hold_signals() -> Result<(), Error> {
    SigSet::from_iter(SIGNALS)
        .thread_block()
        .map_err(|errno| Error::new(Exit::Failed, "signals cannot be held back").because(&errno))
}

/// Lets those come that were held back, and those that our parent had blocked.
fn release_signals() -> nix::Result<()> {
    SigSet::from_iter(SIGNALS.into_iter().chain([Signal::SIGCHLD])).thread_unblock()
}

/// What happens outside.
enum Input {
    Signal(Signal),
    Message(Message),
    Report(u32, Report),
    /// rootlesskit's own child is there.
    Child(u32, Identity),
    /// A process that the namespaces depend on has ended.
    Fell(u32),
    HelperGone(u32),
    HelperReady(u32, bool),
    HelperStaysGone(u32),
    /// What dockerd says, or does instead.
    Health(u32, Health),
    /// What containerd does instead of an answer, if it does not answer.
    Engine(u32, Option<Silence>),
    /// dockerd's version.
    Version(u32, String),
    /// How long containers may take to end, if dockerd says so.
    StopAsked(u32, Option<health::StopTimes>),
    /// dockerd can be asked to end with its containers, which may take so long.
    StopReady(u32, Duration),
    /// What rootlesskit forwarded for the last dockerd is cleared.
    PortsCleared(u32),
    /// What containers publish, and what rootlesskit forwards, if it says so.
    Ports(u32, Vec<Published>, Option<Vec<Forwarded>>),
    /// The parts are to be looked at.
    Tick(u32),
    /// Containers may run that containerd does not know, these among them.
    Orphans(u32, Vec<health::Forgotten>),
    /// They have ended.
    OrphansEnded(u32),
    StartEngine(u32),
    Places,
    PlacesLater(u32),
    Idle(u32),
    Request(control::Request),
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Good,
    Silent(Silence),
}

/// One launch: namespaces, and what runs in them.
#[derive(Default)]
struct Launch {
    /// When rootlesskit was started.
    begun: Option<SystemTime>,
    rootlesskit: Option<u32>,
    keeper: Option<Identity>,
    /// Our connection to the keeper.
    control: Option<UnixStream>,
    daemon: Option<(Identity, OwnedFd)>,
    engine: Option<Identity>,
    /// rootlesskit's process in the namespaces.
    child: Option<Identity>,
    helper: Option<Helper>,
    lost: Option<Helper>,
    wants_helper: bool,
    healing: Option<u32>,
    has_answered: bool,
    /// What dockerd does instead of an answer.
    silence: Option<Silence>,
    /// The time that dockerd has got more of.
    overdue: Option<Limit>,
    /// When it will have done well for long.
    settles: Option<Instant>,
    phase: &'static str,
    ports: ports::Ports,
    /// Ended with dockerd.
    asking: Vec<AbortHandle>,
    /// Ended with the launch.
    tasks: JoinSet<()>,
}

/// What dockerd is started with.
struct Daemon {
    command: Vec<OsString>,
    keep: Keep,
    /// Whether it leaves its containers alone when it ends.
    live_restore: bool,
}

struct Supervisor<'a> {
    task: Task<'a>,
    machine: Machine,
    inputs: UnboundedSender<Input>,
    /// What the machine is to take next.
    raised: VecDeque<Event>,
    launch: Launch,
    daemon: Daemon,
    /// Counts launches, so that what concerns an earlier one is told from what concerns this one.
    number: u32,
    /// The same for dockerd.
    turn: u32,
    /// When what was given is over, and what that was.
    deadline: Option<(Instant, Limit)>,
    grace: Option<Instant>,
    /// When the service manager is to hear of us.
    watchdog: Option<Instant>,
    listeners: Vec<OwnedFd>,
    /// The name of our own.
    socket: Option<places::Name>,
    /// Whether the daemon's directory was not there before we began.
    exec_root_is_new: bool,
    log: log::Log,
    writer: PipeWriter,
    status: Status,
    /// What is wrong while the daemon runs, by what it is about.
    problems: BTreeMap<&'static str, String>,
    /// Requests that wait, and the one that is being done.
    requests: VecDeque<control::Request>,
    begun: Option<requests::Begun>,
    last: Option<How>,
    /// How the daemon ended, in words.
    death: String,
    refusal: Option<Error>,
    over: Option<Verdict>,
    messages: Vec<JoinHandle<()>>,
}

impl<'a> Supervisor<'a> {
    fn new(
        task: Task<'a>,
        machine: Machine,
        inputs: UnboundedSender<Input>,
    ) -> Result<Self, Error> {
        let failed = |what: &str, error: &io::Error| {
            Error::new(Exit::Failed, what.to_owned()).because(error)
        };
        let mut socket = None;
        let listeners = match (&task.api, &task.first.0.sockets) {
            (Api::Own(path), Some(_)) => {
                let (listener, name) = places::listen_at(path)?;
                socket = Some(name);
                vec![listener]
            }
            (_, Some(fds)) => sockets::adopt(fds.count)
                .map_err(|errno| failed("the passed sockets cannot be kept", &errno.into()))?,
            (_, None) => Vec::new(),
        };
        let (log, writer) =
            log::Log::start().map_err(|error| failed("the log cannot be passed on", &error))?;
        let mut supervisor = Self::assemble(task, machine, inputs, listeners, log, writer);
        supervisor.socket = socket;
        supervisor
            .listen()
            .map_err(|error| failed("signals and messages cannot be received", &error))?;
        Ok(supervisor)
    }

    /// Puts it together. Nothing arrives yet.
    fn assemble(
        task: Task<'a>,
        machine: Machine,
        inputs: UnboundedSender<Input>,
        listeners: Vec<OwnedFd>,
        log: log::Log,
        writer: PipeWriter,
    ) -> Self {
        let plan = &task.first.0;
        let exec_root_is_new = !plan.exec_root.exists();
        Self {
            status: Status {
                supervisor: std::process::id(),
                socket: task.api.path().map(Path::to_owned),
                socket_of: task.api.keeper().to_owned(),
                ..Status::default()
            },
            daemon: Daemon {
                command: plan.stage.daemon.clone(),
                keep: plan.keep.clone(),
                live_restore: plan.keep.live_restore,
            },
            task,
            machine,
            inputs,
            raised: VecDeque::new(),
            launch: Launch::default(),
            number: 0,
            turn: 0,
            deadline: None,
            grace: None,
            watchdog: sd_notify::watchdog_enabled().map(|_| Instant::now()),
            listeners,
            socket: None,
            exec_root_is_new,
            log,
            writer,
            problems: BTreeMap::new(),
            requests: VecDeque::new(),
            begun: None,
            last: None,
            death: String::new(),
            refusal: None,
            over: None,
            messages: Vec::new(),
        }
    }

    /// Has signals and messages arrive.
    fn listen(&mut self) -> io::Result<()> {
        for name in SIGNALS.into_iter().chain([Signal::SIGCHLD]) {
            let mut stream = signal(SignalKind::from_raw(name as i32))?;
            let inputs = self.inputs.clone();
            tokio::spawn(async move {
                while stream.recv().await.is_some() && inputs.send(Input::Signal(name)).is_ok() {}
            });
        }
        release_signals()?;
        self.receive_messages()
    }

    /// Has what the processes below us tell arrive, and what people ask for.
    fn receive_messages(&mut self) -> io::Result<()> {
        for old in self.messages.drain(..) {
            old.abort();
        }
        let receiver = notify::Receiver::bind(&self.task.run_dir.notify())?;
        let inputs = self.inputs.clone();
        self.messages.push(tokio::spawn(async move {
            loop {
                match receiver.next().await {
                    Ok(message) => {
                        if inputs.send(Input::Message(message)).is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        warn!("the notify socket fails: {error}");
                        return;
                    }
                }
            }
        }));
        let listener = control::bind(&self.task.run_dir.control())?;
        let (requests, mut requested) = mpsc::unbounded_channel();
        let inputs = self.inputs.clone();
        self.messages.push(tokio::spawn(async move {
            while let Some(request) = requested.recv().await {
                if inputs.send(Input::Request(request)).is_err() {
                    return;
                }
            }
        }));
        self.messages.push(tokio::spawn(async move {
            if let Err(error) = control::listen(listener, requests).await {
                warn!("the control socket fails: {error}");
            }
        }));
        Ok(())
    }

    /// Until it is over. `received` is where all inputs arrive, and `effects` is what to begin with.
    async fn work(
        mut self,
        mut received: UnboundedReceiver<Input>,
        effects: Vec<Effect>,
    ) -> Outcome {
        self.perform(effects).await;
        loop {
            while let Some(event) = self.raised.pop_front() {
                self.tell_machine(event).await;
            }
            if self.over.is_some() {
                return self.leave();
            }
            self.serve_requests();
            if !self.raised.is_empty() {
                continue;
            }
            let never = Instant::now() + UNLIMITED;
            let deadline = self.deadline.map(|(time, _)| time);
            tokio::select! {
                biased;
                Some(input) = received.recv() => self.take(input),
                () = sleep_until(self.grace.unwrap_or(never)), if self.grace.is_some() => {
                    self.grace = None;
                    self.look_whether_clear();
                }
                () = sleep_until(deadline.unwrap_or(never)), if deadline.is_some() => self.too_late(),
                () = sleep_until(self.watchdog.unwrap_or(never)), if self.watchdog.is_some() => {
                    self.feed_watchdog();
                }
            }
        }
    }

    /// The watchdog is ours: that the daemon is well is told in other ways.
    fn feed_watchdog(&mut self) {
        news::tell(&[NotifyState::Watchdog]);
        let time = sd_notify::watchdog_enabled();
        self.watchdog = time.map(|time| Instant::now() + time / 2);
    }

    /// Has the machine take `event` when it is done with what came before.
    fn raise(&mut self, event: Event) {
        self.raised.push_back(event);
    }

    async fn tell_machine(&mut self, event: Event) {
        // Nobody has to wake for that before it matters.
        if self.launch.settles.take_if(|time| *time <= Instant::now()).is_some() {
            self.machine.on(Event::Settled);
        }
        let before = self.machine.state;
        let effects = self.machine.on(event);
        if before != self.machine.state {
            debug!("{before:?} -> {:?} on {event:?}", self.machine.state);
        }
        self.perform(effects).await;
        if before != self.machine.state {
            self.write_status();
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Signal(Signal::SIGCHLD) => self.reap(),
            Input::Signal(Signal::SIGTERM | Signal::SIGINT) => self.raise(Event::Stop),
            Input::Signal(Signal::SIGHUP) => self.raise(Event::Reload),
            Input::Signal(Signal::SIGQUIT) => self.raise(Event::Dump),
            Input::Signal(Signal::SIGUSR1) => self.ask(Ask::Dump),
            Input::Message(message) => self.hear(&message),
            Input::Request(request) => self.requests.push_back(request),
            Input::Places => self.later(MOMENT, Input::PlacesLater(self.number)),
            Input::HelperReady(pid, is_ready) if self.launch.healing == Some(pid) => {
                self.healed(is_ready);
            }
            Input::Report(number, report) if number == self.number => self.learn(report),
            Input::Child(number, child) if number == self.number => {
                self.launch.child = Some(child);
                self.watch(child, Input::Fell(number));
            }
            Input::Fell(number) if number == self.number => self.raise(Event::Fell),
            // It may only be the first of all to go.
            Input::HelperGone(number) if number == self.number => {
                self.later(MOMENT, Input::HelperStaysGone(number));
            }
            Input::HelperStaysGone(number) if number == self.number => {
                self.launch.helper_is_gone();
                self.raise(Event::HelperDied);
            }
            Input::PlacesLater(number) if number == self.number && self.launch.has_answered => {
                self.look_after_places();
            }
            Input::StartEngine(number) if number == self.number => self.start_engine(),
            Input::Orphans(number, forgotten) if number == self.number => {
                self.end_orphans(&forgotten);
            }
            Input::OrphansEnded(number) if number == self.number => {
                self.raise(Event::Replace(Why::Forgotten));
            }
            Input::Health(turn, health) if turn == self.turn => self.judge(health),
            Input::Engine(turn, silence) if turn == self.turn => self.judge_engine(silence),
            Input::Version(turn, version) if turn == self.turn => {
                self.status.dockerd_version = Some(version);
                self.write_status();
            }
            Input::StopAsked(turn, times) if turn == self.turn => self.keep_no_container(times),
            Input::StopReady(turn, time) if turn == self.turn => self.end_now(time),
            Input::PortsCleared(turn) if turn == self.turn => self.order_daemon(),
            Input::Ports(turn, published, forwarded) if turn == self.turn => {
                self.judge_ports(published, forwarded);
            }
            Input::Tick(turn) if turn == self.turn => self.tick(),
            Input::Idle(turn) if turn == self.turn => self.raise(Event::Idle),
            _ => {}
        }
    }

    /// What a process below us says of itself.
    fn hear(&mut self, message: &Message) {
        let sender = || tree::read(message.pid).filter(|process| !process.zombie);
        if message.is(notify::KEEPER) {
            if let Some(keeper) = sender() {
                self.launch.keeper = Some(keeper.identity);
                self.watch(keeper.identity, Input::Fell(self.number));
                self.start_engine();
                self.order_daemon();
            }
        } else if message.is(notify::ENGINE) {
            self.launch.engine = sender().map(|process| process.identity);
            self.write_status();
        } else if message.is(notify::DAEMON) {
            let opened = sender().and_then(|process| {
                let fd = tree::open(process.identity).ok()?;
                Some((process.identity, fd))
            });
            if let Some((identity, fd)) = opened {
                self.launch.daemon = Some((identity, fd));
                self.launch.phase = "dockerd does not answer";
                self.look_after(identity);
                self.write_status();
                self.raise(Event::Announced);
            }
        } else if message.is_ready() && self.api_path().is_none() && self.is_daemons(message.pid) {
            // Nobody can ask this one.
            let _ = self.inputs.send(Input::Health(self.turn, Health::Good));
        }
    }

    /// Whether a process is dockerd, or one of its own: a script may stand in its place.
    fn is_daemons(&self, pid: u32) -> bool {
        let daemon = self.launch.daemon.as_ref().map(|(identity, _)| identity.pid);
        let ancestors =
            std::iter::successors(Some(pid), |pid| tree::read(*pid).map(|process| process.parent));
        daemon.is_some() && ancestors.take(16).any(|pid| Some(pid) == daemon)
    }

    /// What the keeper reports.
    fn learn(&mut self, report: Report) {
        match report {
            Report::EngineUp => self.engine_is_up(),
            Report::Ended(Sibling::Engine, code) => {
                self.launch.engine = None;
                debug!("containerd ended: {}", How::passed_on(code));
                self.raise(Event::EngineEnded);
            }
            Report::Ended(Sibling::Daemon, code) => {
                let how = How::passed_on(code);
                self.stop_asking();
                self.launch.daemon = None;
                self.turn += 1;
                self.death = match how {
                    How::Code(0) => "dockerd ended in order, and not because of us".to_owned(),
                    How::Code(_) => format!("dockerd ended with {how}"),
                    How::Signal(_) => format!("dockerd was ended by {how}"),
                };
                let death = self.death_of(how);
                self.raise(Event::DaemonEnded(death));
            }
        }
    }

    /// Has `input` arrive later, unless the launch is over by then.
    fn later(&mut self, time: Duration, input: Input) {
        let inputs = self.inputs.clone();
        self.launch.tasks.spawn(async move {
            quiet::sleep(time).await;
            let _ = inputs.send(input);
        });
    }

    fn reap(&mut self) {
        while let Some((pid, how)) = tree::reap() {
            if self.launch.rootlesskit == Some(pid) {
                self.launch.rootlesskit = None;
                self.ended(how);
            } else if self.launch.healing == Some(pid) {
                let is_background = how == How::Code(0);
                self.healed(is_background);
            }
        }
        self.look_whether_clear();
    }

    /// rootlesskit has ended.
    fn ended(&mut self, end: How) {
        let how = match end {
            How::Code(code) => How::passed_on(code),
            How::Signal(_) => end,
        };
        self.stop_asking();
        self.turn += 1;
        // The end of dockerd has been told.
        let is_known =
            matches!(self.machine.state, State::Stopping(_) | State::Clearing(..) | State::Over);
        if !is_known {
            self.death = news::death_of(end);
        }
        let death = self.death_of(how);
        self.raise(Event::Ended(death));
    }

    /// What is known of the end of dockerd, or of everything.
    fn death_of(&mut self, how: How) -> Death {
        let is_expected = matches!(
            self.machine.state,
            State::Stopping(_) | State::Clearing(..) | State::Replacing(_) | State::Over
        );
        if !is_expected && (self.machine.has_answered || how != How::Code(0)) {
            self.note_failure(self.death.clone());
        }
        let permanent = match how {
            _ if is_expected || self.machine.has_answered || how == How::Code(0) => None,
            // The namespace stage has said why.
            How::Code(4) => Some(Exit::Prerequisite),
            How::Code(78) => Some(Exit::Config),
            How::Code(126) => Some(Exit::CannotRun),
            How::Code(127) => Some(Exit::NotFound),
            _ => (self.task.find_fault)(),
        };
        self.last = Some(how);
        Death {
            how,
            permanent,
            left: self.engine_is_reachable()
                && tree::descendants()
                    .iter()
                    .any(|process| ports::is_shim(process) && !ports::is_plugin(process)),
            dice: dice(),
        }
    }

    /// Whether another dockerd could reach containerd and so the containers: its socket may have lost
    /// its name.
    fn engine_is_reachable(&self) -> bool {
        let Some(engine) = &self.daemon.keep.engine else {
            return true;
        };
        let keeper = self.launch.keeper.map(|keeper| keeper.pid);
        let inside = engine.socket.strip_prefix("/").unwrap_or(&engine.socket);
        keeper.is_some_and(|pid| Path::new(&format!("/proc/{pid}/root")).join(inside).exists())
    }

    fn healed(&mut self, is_ready: bool) {
        let pid = self.launch.healing.take();
        match is_ready {
            true => {
                self.find_helper();
                self.raise(Event::HelperBack);
            }
            false => {
                debug!("the network helper {pid:?} failed");
                self.raise(Event::HelperFailed);
            }
        }
        self.write_status();
    }

    /// What is left to say.
    fn leave(&mut self) -> Outcome {
        if let Some(name) = &self.socket {
            name.remove();
        }
        // Nobody comes who would accept them, and the service manager would start us again at once.
        let is_passed = matches!(self.task.api, Api::Passed(_));
        if is_passed && matches!(self.over, Some(Verdict::Permanent(_))) {
            sockets::turn_away(&self.listeners);
        }
        // Whoever waits for our directory finds the data free.
        self.task.data_lock = None;
        self.disappoint();
        // The last lines count that the daemon has written.
        self.log.stop();
        Outcome {
            verdict: self.over.unwrap_or(Verdict::Stopped),
            how: self.last,
            phase: self.launch.phase,
            refusal: self.refusal.take(),
            log: self.log.last(),
        }
    }
}

impl Launch {
    /// Remembers how the helper was started that is gone.
    fn helper_is_gone(&mut self) {
        if let Some(helper) = self.helper.take() {
            self.lost = Some(helper);
        }
    }
}

/// Waits for a descriptor to become readable.
fn wait_on(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the value owns the descriptor, which stays open as long as it is registered.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(Into::into)
}

/// For jitter: any number will do.
fn dice() -> u8 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos().to_le_bytes()[1])
}
