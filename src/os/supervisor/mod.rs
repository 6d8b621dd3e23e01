//! Stays with the daemon: performs what `supervise::Machine` decides, and brings it what happens.
//! One thread waits for events; nothing in here decides.

mod health;
mod helper;
mod idle;
mod log;
mod look;
mod news;
pub mod notify;
mod perform;
mod places;
mod quiet;
mod remains;
mod tree;

use std::collections::VecDeque;
use std::io::{self, PipeWriter};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{SigSet, Signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use super::{process, sockets};
use crate::error::{Error, Exit};
use crate::host::HostFacts;
use crate::plan::{Api, LaunchPlan};
use crate::supervise::{Ask, Death, Effect, Event, How, Machine, State, Status, Verdict};
use health::Health;
pub use health::{answers, runs_containers};
use helper::Helper;
pub use news::{has_newer_programs, wait_until_ready};
use notify::Message;
pub use places::{RunDir, read_status};

/// How long containers that a dead daemon leaves may take to end by themselves.
const GRACE: Duration = Duration::from_millis(100);

/// What the service manager allows beyond the time for a start, for us to clear up.
const START_MARGIN: Duration = Duration::from_secs(30);

/// What a daemon may need beyond its containers' time, to end.
const STOP_MARGIN: Duration = Duration::from_secs(10);

/// How long to ask a daemon again that is not well.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// When everything goes, one part goes first: how long to wait before that is news.
const MOMENT: Duration = Duration::from_millis(20);

/// A daemon that did well for so long and dies has a failure of its own, not the last one again.
const SETTLED: Duration = Duration::from_secs(60);

/// What the daemon gets for its containerd, for a dump, and what is killed to be gone.
const ENGINE: Duration = Duration::from_secs(15);
const HEAL: Duration = Duration::from_secs(5);
const FALL: Duration = Duration::from_secs(1);
const DUMP: Duration = Duration::from_secs(1);
const CLEAR: Duration = Duration::from_secs(5);

/// What can be sent to the supervisor.
const SIGNALS: [Signal; 5] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
];

/// What the supervisor is to do.
pub struct Task<'a> {
    /// Our directory, locked.
    pub run_dir: RunDir,
    /// The first plan, and what it was made from.
    pub first: (LaunchPlan, HostFacts),
    /// Makes the plan of a later launch.
    pub prepare: &'a dyn Fn() -> Result<(LaunchPlan, HostFacts), Error>,
    /// Finds the code to end with if the host has a fault that does not go away by itself.
    pub find_fault: &'a dyn Fn() -> Option<Exit>,
    /// The daemon's socket.
    pub api: Api,
    /// How long the daemon may take to answer.
    pub start: Duration,
    /// How often it is asked how it is.
    pub probe: Duration,
    /// After what time without containers and clients it ends.
    pub idle: Option<Duration>,
    /// What dockerd itself takes to end before containers' own times count.
    pub shutdown: Duration,
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
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failed("the event loop cannot be made", &error))?;
    runtime.block_on(async {
        let (inputs, received) = mpsc::unbounded_channel();
        let (machine, effects) = Machine::start();
        let supervisor = Supervisor::new(task, machine, inputs)?;
        Ok(supervisor.work(received, effects).await)
    })
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

/// What happens outside.
enum Input {
    Signal(Signal),
    Message(Message),
    /// rootlesskit's own child is there.
    Child(u32, tree::Identity),
    /// A process of this launch has ended.
    Gone(u32, Who),
    Health(u32, Health),
    HelperReady(u32, bool),
    HelperStaysGone(u32),
    Places,
    PlacesLater(u32),
    Idle(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Daemon,
    Containerd,
    Helper,
}

/// One launch.
#[derive(Default)]
struct Launch {
    rootlesskit: Option<u32>,
    daemon: Option<(u32, OwnedFd)>,
    containerd: Option<u32>,
    helper: Option<Helper>,
    lost: Option<Helper>,
    wants_helper: bool,
    healing: Option<u32>,
    is_ready: bool,
    has_answered: bool,
    /// When it will have done well for long.
    settles: Option<Instant>,
    phase: &'static str,
    poke: Option<mpsc::UnboundedSender<()>>,
    /// What connects to the daemon.
    asking: Vec<AbortHandle>,
    /// Ended with the launch.
    tasks: JoinSet<()>,
}

struct Supervisor<'a> {
    task: Task<'a>,
    machine: Machine,
    inputs: UnboundedSender<Input>,
    /// What the machine is to take next.
    raised: VecDeque<Event>,
    launch: Launch,
    /// Counts launches, so that what concerns an earlier one is told from what concerns this one.
    number: u32,
    deadline: Option<Instant>,
    grace: Option<Instant>,
    listeners: Vec<OwnedFd>,
    log: log::Log,
    writer: PipeWriter,
    status: Status,
    last: Option<How>,
    /// How the last launch ended, in words.
    death: String,
    refusal: Option<Error>,
    over: Option<Verdict>,
    messages: Option<JoinHandle<()>>,
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
        let listeners = match (&task.api, &task.first.0.sockets) {
            (Api::Own(path), Some(_)) => vec![places::listen_at(path)?],
            (_, Some(fds)) => sockets::adopt(fds.count)
                .map_err(|errno| failed("the passed sockets cannot be kept", &errno.into()))?,
            (_, None) => Vec::new(),
        };
        let (log, writer) =
            log::Log::start().map_err(|error| failed("the log cannot be passed on", &error))?;
        let mut supervisor = Self {
            status: Status {
                supervisor: std::process::id(),
                socket: task.api.path().map(Path::to_owned),
                socket_of: task.api.keeper().to_owned(),
                ..Status::default()
            },
            task,
            machine,
            inputs,
            raised: VecDeque::new(),
            launch: Launch::default(),
            number: 0,
            deadline: None,
            grace: None,
            listeners,
            log,
            writer,
            last: None,
            death: String::new(),
            refusal: None,
            over: None,
            messages: None,
        };
        supervisor
            .listen()
            .map_err(|error| failed("signals and messages cannot be received", &error))?;
        Ok(supervisor)
    }

    /// Has signals and the daemon's messages arrive.
    fn listen(&mut self) -> io::Result<()> {
        for name in SIGNALS.into_iter().chain([Signal::SIGCHLD]) {
            let mut stream = signal(SignalKind::from_raw(name as i32))?;
            let inputs = self.inputs.clone();
            tokio::spawn(async move {
                while stream.recv().await.is_some() && inputs.send(Input::Signal(name)).is_ok() {}
            });
        }
        // Those that were held back come now.
        SigSet::from_iter(SIGNALS).thread_unblock()?;
        self.receive_messages()
    }

    fn receive_messages(&mut self) -> io::Result<()> {
        let receiver = notify::Receiver::bind(&self.task.run_dir.notify())?;
        let inputs = self.inputs.clone();
        let task = tokio::spawn(async move {
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
        });
        if let Some(old) = self.messages.replace(task) {
            old.abort();
        }
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
            let never = Instant::now() + Duration::from_secs(86400);
            tokio::select! {
                biased;
                Some(input) = received.recv() => self.take(input),
                () = sleep_until(self.grace.unwrap_or(never)), if self.grace.is_some() => {
                    self.grace = None;
                    self.look_whether_clear();
                }
                () = sleep_until(self.deadline.unwrap_or(never)), if self.deadline.is_some() => {
                    self.deadline = None;
                    self.raise(Event::Deadline);
                }
            }
        }
    }

    /// Has the machine take `event` when it is done with what came before.
    fn raise(&mut self, event: Event) {
        self.raised.push_back(event);
    }

    async fn tell_machine(&mut self, event: Event) {
        // Nobody has to wake for that before it matters.
        if self
            .launch
            .settles
            .take_if(|time| *time <= Instant::now())
            .is_some()
        {
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
            Input::Signal(_) => self.ask(Ask::Dump),
            Input::Message(message) => self.hear(&message),
            Input::Child(number, identity) if number == self.number => {
                self.watch(identity, Who::Daemon);
            }
            Input::Gone(number, who) if number == self.number => match who {
                Who::Daemon => self.raise(Event::DaemonDied),
                Who::Containerd => {
                    self.launch.containerd = None;
                    self.poke();
                }
                // It may only be the first of all to go.
                Who::Helper => self.later(MOMENT, Input::HelperStaysGone(number)),
            },
            Input::HelperStaysGone(number) if number == self.number => {
                self.launch.helper_is_gone();
                self.raise(Event::HelperDied);
            }
            Input::Places => self.later(MOMENT, Input::PlacesLater(self.number)),
            Input::Health(number, health) if number == self.number => self.judge(health),
            Input::HelperReady(pid, is_ready) if self.launch.healing == Some(pid) => {
                self.healed(is_ready);
            }
            Input::PlacesLater(number)
                if number == self.number && self.launch.has_answered && self.places_are_gone() =>
            {
                self.raise(Event::PlacesGone);
            }
            Input::Idle(number) if number == self.number => self.raise(Event::Idle),
            _ => {}
        }
    }

    fn hear(&mut self, message: &Message) {
        if message.is_daemon() && self.launch.daemon.is_none() {
            let process = tree::read(message.pid);
            let opened = process
                .as_ref()
                .and_then(|process| tree::open(process.identity).ok());
            if let Some(fd) = opened {
                self.launch.daemon = Some((message.pid, fd));
                if let Some(process) = process {
                    self.watch(process.identity, Who::Daemon);
                }
                self.launch.phase = "dockerd has not said that it is ready";
                self.write_status();
            }
        } else if message.is_ready()
            && self.launch.daemon_pid() == Some(message.pid)
            && !self.launch.is_ready
        {
            self.launch.is_ready = true;
            self.launch.phase = "dockerd is ready and does not answer";
            self.look_after();
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

    /// Asks the daemon how it is, at once.
    fn poke(&self) {
        if let Some(poke) = &self.launch.poke {
            let _ = poke.send(());
        }
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
        let is_expected = matches!(
            self.machine.state,
            State::Stopping(_) | State::Clearing(..) | State::Over
        );
        let has_answered = self.launch.has_answered;
        let permanent = match how {
            _ if is_expected || has_answered || how == How::Code(0) => None,
            // The namespace stage has said why.
            How::Code(4) => Some(Exit::Prerequisite),
            How::Code(78) => Some(Exit::Config),
            How::Code(126) => Some(Exit::CannotRun),
            How::Code(127) => Some(Exit::NotFound),
            _ => (self.task.find_fault)(),
        };
        self.death = news::death_of(end);
        if !is_expected && how != How::Code(0) {
            self.note_failure(self.death.clone());
        }
        self.last = Some(how);
        let death = Death {
            how,
            permanent,
            dice: dice(),
        };
        self.raise(Event::Ended(death));
    }

    fn healed(&mut self, is_ready: bool) {
        let pid = self.launch.healing.take();
        match is_ready {
            true => {
                self.find_processes();
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
        if let Some(path) = self.task.api.own() {
            let _ = std::fs::remove_file(path);
        }
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

    fn daemon_pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(|(pid, _)| *pid)
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
