//! Stays with the daemon: performs what `supervise::Machine` decides, and brings it what happens.
//! One thread waits for events; nothing in here decides.

mod health;
mod helper;
mod idle;
mod log;
pub mod notify;
mod places;
mod remains;
mod tree;

use std::fs;
use std::io::{self, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use sd_notify::NotifyState;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::{launch, sockets};
use crate::error::{Error, Exit};
use crate::host::HostFacts;
use crate::plan::{Api, LaunchPlan};
use crate::supervise::{
    Ask, Death, Effect, Event, How, Limit, Machine, Notice, ProgramFile, State, Status, Then,
    Verdict,
};
use health::Health;
use helper::Helper;
use notify::Message;
pub use places::{RunDir, read_status};

/// How long containers that a dead daemon leaves may take to end by themselves.
const GRACE: Duration = Duration::from_millis(100);

/// What a daemon may need beyond its containers' time, to end.
const STOP_MARGIN: Duration = Duration::from_secs(10);

/// How long to ask a daemon again that is not well.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// When everything goes, one part goes first: how long to wait before that is news.
const MOMENT: Duration = Duration::from_millis(20);

/// What the daemon gets for its containerd, for a dump, and what is killed to be gone.
const ENGINE: Duration = Duration::from_secs(15);
const HEAL: Duration = Duration::from_secs(5);
const FALL: Duration = Duration::from_secs(1);
const DUMP: Duration = Duration::from_secs(1);
const CLEAR: Duration = Duration::from_secs(5);

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
    tree::adopt_orphans().map_err(|errno| failed("orphans cannot be adopted", &errno.into()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failed("the event loop cannot be made", &error))?;
    runtime.block_on(async {
        let mut supervisor = Supervisor::new(task)?;
        Ok(supervisor.work().await)
    })
}

/// What happens outside.
enum Input {
    Signal(Signal),
    Message(Message),
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
    answered: Option<Instant>,
    phase: &'static str,
    poke: Option<mpsc::UnboundedSender<()>>,
    /// Ended with the launch.
    tasks: JoinSet<()>,
}

struct Supervisor<'a> {
    task: Task<'a>,
    machine: Machine,
    inputs: UnboundedSender<Input>,
    received: Option<UnboundedReceiver<Input>>,
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
    refusal: Option<Error>,
    over: Option<Verdict>,
    watched: Option<JoinHandle<()>>,
}

impl<'a> Supervisor<'a> {
    fn new(task: Task<'a>) -> Result<Self, Error> {
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
        let (inputs, received) = mpsc::unbounded_channel();
        let (machine, _) = Machine::start();
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
            received: Some(received),
            launch: Launch::default(),
            number: 0,
            deadline: None,
            grace: None,
            listeners,
            log,
            writer,
            last: None,
            refusal: None,
            over: None,
            watched: None,
        };
        supervisor
            .listen()
            .map_err(|error| failed("signals and messages cannot be received", &error))?;
        Ok(supervisor)
    }

    /// Has signals and the daemon's messages arrive.
    fn listen(&mut self) -> io::Result<()> {
        let kinds = [
            (SignalKind::terminate(), Signal::SIGTERM),
            (SignalKind::interrupt(), Signal::SIGINT),
            (SignalKind::hangup(), Signal::SIGHUP),
            (SignalKind::quit(), Signal::SIGQUIT),
            (SignalKind::user_defined1(), Signal::SIGUSR1),
            (SignalKind::child(), Signal::SIGCHLD),
        ];
        for (kind, name) in kinds {
            let mut stream = signal(kind)?;
            let inputs = self.inputs.clone();
            tokio::spawn(async move {
                while stream.recv().await.is_some() && inputs.send(Input::Signal(name)).is_ok() {}
            });
        }
        self.receive_messages()
    }

    fn receive_messages(&mut self) -> io::Result<()> {
        let receiver = notify::Receiver::bind(&self.task.run_dir.notify())?;
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
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
        Ok(())
    }

    /// Until it is over.
    async fn work(&mut self) -> Outcome {
        let mut received = self.received.take();
        let (machine, effects) = Machine::start();
        self.machine = machine;
        self.perform(effects).await;
        while self.over.is_none() {
            let next = async {
                match &mut received {
                    Some(received) => received.recv().await,
                    None => None,
                }
            };
            let never = Instant::now() + Duration::from_secs(86400);
            tokio::select! {
                biased;
                input = next => if let Some(input) = input { self.take(input).await },
                () = sleep_until(self.grace.unwrap_or(never)), if self.grace.is_some() => {
                    self.grace = None;
                    self.clear(Signal::SIGKILL).await;
                }
                () = sleep_until(self.deadline.unwrap_or(never)), if self.deadline.is_some() => {
                    self.deadline = None;
                    self.on(Event::Deadline).await;
                }
            }
        }
        self.leave()
    }

    /// Tells the machine, and does what it says.
    async fn on(&mut self, event: Event) {
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

    async fn take(&mut self, input: Input) {
        match input {
            Input::Signal(Signal::SIGCHLD) => self.reap().await,
            Input::Signal(Signal::SIGTERM | Signal::SIGINT) => self.on(Event::Stop).await,
            Input::Signal(Signal::SIGHUP) => self.on(Event::Reload).await,
            Input::Signal(Signal::SIGQUIT) => self.on(Event::Dump).await,
            Input::Signal(_) => self.ask(Ask::Dump),
            Input::Message(message) => self.hear(&message).await,
            Input::Gone(number, who) if number == self.number => match who {
                Who::Daemon => self.on(Event::DaemonDied).await,
                Who::Containerd => {
                    self.launch.containerd = None;
                    self.poke();
                }
                // It may only be the first of all to go.
                Who::Helper => self.later(Input::HelperStaysGone(number)),
            },
            Input::HelperStaysGone(number) if number == self.number => {
                self.launch.helper_is_gone();
                self.on(Event::HelperDied).await;
            }
            Input::Places => self.later(Input::PlacesLater(self.number)),
            Input::Health(number, health) if number == self.number => self.judge(health).await,
            Input::HelperReady(pid, is_ready) if self.launch.healing == Some(pid) => {
                self.healed(is_ready).await;
            }
            Input::PlacesLater(number)
                if number == self.number
                    && self.launch.answered.is_some()
                    && self.places_are_gone() =>
            {
                self.on(Event::PlacesGone).await;
            }
            Input::Idle(number) if number == self.number => self.on(Event::Idle).await,
            _ => {}
        }
    }

    async fn hear(&mut self, message: &Message) {
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

    /// Begins to ask the daemon how it is.
    fn look_after(&mut self) {
        let (number, interval, inputs) = (self.number, self.task.probe, self.inputs.clone());
        let api = self.api_path();
        let (poke, mut poked) = mpsc::unbounded_channel();
        self.launch.poke = Some(poke);
        self.launch.tasks.spawn(async move {
            loop {
                let health = match api.as_deref().filter(|path| path.exists()) {
                    Some(path) => health::ask(path).await,
                    None => Health::Good(None),
                };
                let pause = match health {
                    Health::Good(_) => interval,
                    _ => ASK_AGAIN,
                };
                if inputs.send(Input::Health(number, health)).is_err() {
                    return;
                }
                // Whether the time is over or somebody wants to know: it is asked.
                let _ = timeout(pause, poked.recv()).await;
            }
        });
        if let (Some(after), Api::Passed(Some(path))) = (self.task.idle, &self.task.api) {
            let listeners = self
                .listeners
                .iter()
                .filter_map(|fd| fd.try_clone().ok())
                .collect();
            let inputs = self.inputs.clone();
            let watch = idle::watch(path.clone(), listeners, after, move || {
                let _ = inputs.send(Input::Idle(number));
            });
            self.launch.tasks.spawn(watch);
        }
    }

    /// Where the daemon's socket is, for us.
    fn api_path(&self) -> Option<PathBuf> {
        match &self.task.api {
            Api::Own(path) | Api::Passed(Some(path)) => Some(path.clone()),
            Api::Daemon(Some(path)) => {
                // It may be in a directory of the namespace's own.
                let pid = self.launch.daemon_pid()?;
                let inside = path.strip_prefix("/").ok()?;
                Some(PathBuf::from(format!("/proc/{pid}/root")).join(inside))
            }
            Api::Passed(None) | Api::Daemon(None) => None,
        }
    }

    async fn judge(&mut self, health: Health) {
        if self.launch.answered.is_none() && health != Health::NoAnswer {
            self.launch.answered = Some(Instant::now());
            self.launch.phase = "dockerd answers";
            self.find_processes();
            self.watch_places();
            self.on(Event::Answered).await;
            if self.launch.wants_helper && self.launch.helper.is_none() {
                self.on(Event::HelperDied).await;
            }
        }
        match health {
            Health::Good(version) => {
                self.find_processes();
                if let Some(version) =
                    version.filter(|new| self.status.dockerd_version.as_ref() != Some(new))
                {
                    self.status.dockerd_version = Some(version);
                    self.write_status();
                }
                if self.carrier_is_lost() {
                    self.launch.helper_is_gone();
                    self.on(Event::HelperDied).await;
                }
                self.on(Event::Healthy).await;
            }
            Health::NoEngine => self.on(Event::NoEngine).await,
            Health::NoAnswer => self.on(Event::NoAnswer).await,
        }
    }

    /// Finds the processes that matter, and watches them.
    fn find_processes(&mut self) {
        if self.launch.containerd.is_some()
            && (self.launch.helper.is_some() || !self.launch.wants_helper)
        {
            return;
        }
        let processes = tree::descendants();
        let daemon = self.launch.daemon_pid();
        if self.launch.containerd.is_none() {
            let containerd = processes.iter().find(|process| {
                process.name == "containerd" && Some(process.parent) == daemon && !process.zombie
            });
            if let Some(process) = containerd {
                self.launch.containerd = Some(process.identity.pid);
                self.watch(process.identity, Who::Containerd);
            }
        }
        if self.launch.helper.is_none()
            && self.launch.healing.is_none()
            && let Some(helper) = Helper::find(&processes)
        {
            self.watch(helper.identity, Who::Helper);
            self.launch.helper = Some(helper);
        }
        self.write_status();
    }

    /// Says when the process has ended.
    fn watch(&mut self, identity: tree::Identity, who: Who) {
        let (number, inputs) = (self.number, self.inputs.clone());
        self.launch.tasks.spawn(async move {
            if let Ok(fd) = tree::open(identity).and_then(wait_on) {
                let _ = fd.readable().await;
            }
            let _ = inputs.send(Input::Gone(number, who));
        });
    }

    /// Whether the namespace's interface has lost its helper, which for some time only the kernel
    /// knows.
    fn carrier_is_lost(&self) -> bool {
        let Some(pid) = self
            .launch
            .daemon_pid()
            .filter(|_| self.launch.wants_helper)
        else {
            return false;
        };
        let carrier = fs::read_to_string(format!("/proc/{pid}/root/sys/class/net/tap0/carrier"));
        self.machine.state == State::Ready && carrier.is_ok_and(|text| text.trim() == "0")
    }

    /// Has `input` arrive a moment later, when whatever belongs to it has arrived too.
    fn later(&mut self, input: Input) {
        let inputs = self.inputs.clone();
        self.launch.tasks.spawn(async move {
            sleep(MOMENT).await;
            let _ = inputs.send(input);
        });
    }

    /// Asks the daemon how it is, at once.
    fn poke(&self) {
        if let Some(poke) = &self.launch.poke {
            let _ = poke.send(());
        }
    }

    async fn reap(&mut self) {
        while let Some((pid, how)) = tree::reap() {
            if self.launch.rootlesskit == Some(pid) {
                self.launch.rootlesskit = None;
                self.ended(how).await;
            } else if self.launch.healing == Some(pid) {
                let is_background = how == How::Code(0);
                self.healed(is_background).await;
            }
        }
        self.look_whether_clear().await;
    }

    /// rootlesskit has ended.
    async fn ended(&mut self, how: How) {
        let how = match how {
            How::Code(code) => How::passed_on(code),
            How::Signal(_) => how,
        };
        let is_expected = matches!(
            self.machine.state,
            State::Stopping(_) | State::Clearing(..) | State::Over
        );
        let has_answered = self.launch.answered.is_some();
        let permanent = match how {
            _ if is_expected || has_answered || how == How::Code(0) => None,
            // The namespace stage has said why.
            How::Code(4) => Some(Exit::Prerequisite),
            How::Code(78) => Some(Exit::Config),
            How::Code(126) => Some(Exit::CannotRun),
            How::Code(127) => Some(Exit::NotFound),
            _ => (self.task.find_fault)(),
        };
        if !is_expected && how != How::Code(0) {
            self.note_failure(death_of(how));
        }
        self.last = Some(how);
        let death = Death {
            how,
            healthy: self
                .launch
                .answered
                .map_or(Duration::ZERO, |since| since.elapsed()),
            permanent,
            dice: dice(),
        };
        self.on(Event::Ended(death)).await;
    }

    async fn healed(&mut self, is_ready: bool) {
        let pid = self.launch.healing.take();
        match is_ready {
            true => {
                self.find_processes();
                self.on(Event::HelperBack).await;
            }
            false => {
                debug!("the network helper {pid:?} failed");
                self.on(Event::HelperFailed).await;
            }
        }
        self.write_status();
    }

    async fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Launch => Box::pin(self.launch()).await,
                Effect::Ask(Ask::End) => self.end().await,
                Effect::Ask(other) => self.ask(other),
                Effect::Retire => Box::pin(self.retire()).await,
                Effect::Kill => tree::signal_all(&tree::descendants(), Signal::SIGKILL),
                Effect::Clear => Box::pin(self.clear(Signal::SIGTERM)).await,
                Effect::Heal => Box::pin(self.heal()).await,
                // The end of the daemon arms it, when the containers were asked.
                Effect::Arm(Limit::Stop) => {}
                Effect::Arm(limit) => self.deadline = Some(Instant::now() + self.length(limit)),
                Effect::Disarm => self.deadline = None,
                Effect::Alive => tell(&[NotifyState::Watchdog]),
                Effect::Tell(notice) => self.tell(notice),
                Effect::Leave(verdict) => self.over = Some(verdict),
            }
        }
    }

    fn length(&self, limit: Limit) -> Duration {
        match limit {
            Limit::Start => self.task.start,
            Limit::Engine => ENGINE,
            Limit::Heal => HEAL,
            Limit::Stop => self.task.shutdown + STOP_MARGIN,
            Limit::Fall => FALL,
            Limit::Dump => DUMP,
            Limit::Clear => CLEAR,
            Limit::Pause(pause) => pause,
        }
    }

    async fn launch(&mut self) {
        self.number += 1;
        self.launch = Launch {
            phase: "rootlesskit has not entered its namespaces",
            ..Launch::default()
        };
        if let Err(error) = self.try_launch() {
            warn!("{error}");
            let death = Death {
                how: How::Code(error.exit().code()),
                healthy: Duration::ZERO,
                permanent: Some(error.exit()),
                dice: 0,
            };
            self.refusal = Some(error);
            Box::pin(self.on(Event::Ended(death))).await;
        }
    }

    fn try_launch(&mut self) -> Result<(), Error> {
        if self.number > 1 {
            self.task.first = (self.task.prepare)()?;
            if !self.task.run_dir.is_there() {
                self.remake_places()?;
            }
        }
        let (plan, host) = &self.task.first;
        let exec_root = &plan.exec_root;
        remains::kill_orphans(&host.session.data_root, exec_root);
        let errors = self.writer.try_clone().map_err(|error| {
            Error::new(Exit::Failed, "the daemon's messages cannot be passed on").because(&error)
        })?;
        let listeners: Vec<_> = self.listeners.iter().map(AsFd::as_fd).collect();
        let child = launch::spawn(plan, &listeners, errors.into())?;
        self.launch.rootlesskit = Some(child.id());
        self.launch.wants_helper = plan.has_helper;
        let programs = [&plan.rootlesskit, Path::new(&plan.stage.daemon[0])];
        self.status.programs = programs.into_iter().filter_map(program_file).collect();
        self.status.network_driver = plan.decided("network.driver").unwrap_or_default();
        self.status.port_driver = plan.decided("network.port-driver").unwrap_or_default();
        let version = host
            .tools
            .rootlesskit
            .known()
            .and_then(|facts| facts.version);
        self.status.rootlesskit_version = version.map(|version| version.to_string());
        self.write_status();
        Ok(())
    }

    /// Makes our directory and our socket again, of which somebody has removed the names.
    fn remake_places(&mut self) -> Result<(), Error> {
        let path = self.task.run_dir.path().to_owned();
        self.task.run_dir = RunDir::take(&path)?;
        self.receive_messages().map_err(|error| {
            Error::new(Exit::Failed, "messages cannot be received").because(&error)
        })?;
        if let Api::Own(path) = &self.task.api
            && !path.exists()
        {
            self.listeners = vec![places::listen_at(path)?];
        }
        Ok(())
    }

    /// Watches the names of what the daemon needs.
    fn watch_places(&mut self) {
        let runtime_dir = self.task.run_dir.path().parent().map(Path::to_owned);
        let directories: Vec<&Path> = runtime_dir
            .as_deref()
            .into_iter()
            .chain([self.task.run_dir.path()])
            .collect();
        let inputs = self.inputs.clone();
        let watch = places::watch(&directories).and_then(wait_on);
        match watch {
            Ok(watch) => {
                let task = tokio::spawn(async move {
                    while let Ok(mut guard) = watch.readable().await {
                        // What happened does not count: somebody looks.
                        while nix::unistd::read(watch.get_ref(), &mut [0; 4096]).is_ok() {}
                        guard.clear_ready();
                        if inputs.send(Input::Places).is_err() {
                            return;
                        }
                    }
                });
                if let Some(old) = self.watched.replace(task) {
                    old.abort();
                }
            }
            Err(error) => warn!("the runtime directory cannot be watched: {error}"),
        }
    }

    fn places_are_gone(&self) -> bool {
        let socket = self.task.api.own().is_some_and(|path| !path.exists());
        let state = !self.task.first.1.session.state_dir.path.exists();
        socket || state || !self.task.run_dir.is_there()
    }

    fn ask(&self, ask: Ask) {
        let signal = match ask {
            Ask::End => Signal::SIGTERM,
            Ask::Reload => Signal::SIGHUP,
            Ask::Dump => Signal::SIGUSR1,
        };
        if let Some((pid, fd)) = &self.launch.daemon
            && let Err(error) = tree::signal(fd, signal)
        {
            debug!("{signal} to {pid}: {error}");
        }
    }

    /// Asks the daemon to end, and gives its containers their time. One that is not there yet has
    /// none, and rootlesskit might wait for ever for what it has started.
    async fn end(&mut self) {
        tell(&[NotifyState::Stopping]);
        if self.launch.daemon.is_none() {
            tree::signal_all(&tree::descendants(), Signal::SIGKILL);
        }
        let mut longest = self.task.shutdown;
        if let Some(path) = self.api_path().filter(|_| self.launch.answered.is_some()) {
            // dockerd allows five seconds more than a container.
            match health::stop_timeout(&path).await {
                Some(seconds) => longest = longest.max(Duration::from_secs(seconds + 5)),
                None => longest = Duration::from_secs(86400),
            }
        }
        let limit = longest + STOP_MARGIN;
        let usec = u32::try_from(limit.as_micros()).unwrap_or(u32::MAX);
        tell(&[NotifyState::ExtendTimeoutUsec(usec)]);
        self.deadline = Some(Instant::now() + limit);
        self.ask(Ask::End);
    }

    /// Asks an idle daemon to end. It is stopped for a moment, in which nobody who is connected can
    /// be overlooked, and cannot open anything from then on: a connection stays with the socket.
    async fn retire(&mut self) {
        let is_free = match (&self.launch.daemon, &self.task.api) {
            (Some((pid, fd)), Api::Passed(Some(path))) => idle::retire(*pid, fd, path).await,
            _ => false,
        };
        match is_free {
            true => {
                self.deadline = Some(Instant::now() + self.length(Limit::Stop));
                tell(&[NotifyState::Stopping]);
            }
            false => Box::pin(self.on(Event::StillUsed)).await,
        }
    }

    /// Ends what is left of a launch that is over: first in a friendly way, and soon in the other.
    async fn clear(&mut self, signal: Signal) {
        let left = tree::descendants();
        tree::signal_all(&left, signal);
        if signal == Signal::SIGTERM && !left.is_empty() {
            self.grace = Some(Instant::now() + GRACE);
        }
        Box::pin(self.look_whether_clear()).await;
    }

    async fn look_whether_clear(&mut self) {
        let is_clearing = matches!(self.machine.state, State::Clearing(..));
        if !is_clearing || self.launch.rootlesskit.is_some() {
            return;
        }
        let left = tree::descendants();
        if !left.is_empty() {
            if self.grace.is_none() {
                tree::signal_all(&left, Signal::SIGKILL);
            }
            return;
        }
        self.grace = None;
        let (plan, host) = &self.task.first;
        if let Some(runtime_dir) = self.task.run_dir.path().parent() {
            remains::remove_files(&host.session.state_dir.path, &plan.exec_root, runtime_dir);
        }
        // What this launch was asked for, it is not asked any more.
        self.launch = Launch {
            phase: self.launch.phase,
            ..Launch::default()
        };
        self.number += 1;
        Box::pin(self.on(Event::Cleared)).await;
    }

    async fn heal(&mut self) {
        if let Some(old) = self.launch.healing.take() {
            let old: Vec<_> = tree::read(old).into_iter().collect();
            tree::signal_all(&old, Signal::SIGKILL);
        }
        let lost = self.launch.lost.as_ref();
        let alive: Vec<_> = lost
            .and_then(|helper| tree::read(helper.identity.pid))
            .into_iter()
            .filter(|process| lost.is_some_and(|helper| helper.identity == process.identity))
            .collect();
        tree::signal_all(&alive, Signal::SIGKILL);
        let errors = self.writer.try_clone().map(Stdio::from);
        let started = match &self.launch.lost {
            Some(helper) if !helper.holds_ports() => {
                errors.and_then(|errors| helper.start_again(errors))
            }
            Some(_) => Err(io::Error::other(
                "the ports that containers publish went with it",
            )),
            None => Err(io::Error::other("how it was started is not known")),
        };
        match started {
            Ok(starting) => {
                let pid = starting.pid;
                self.launch.healing = Some(pid);
                if let Some(tells) = starting.tells {
                    let inputs = self.inputs.clone();
                    self.launch.tasks.spawn(async move {
                        let is_ready = helper::is_ready(tells).await;
                        let _ = inputs.send(Input::HelperReady(pid, is_ready));
                    });
                }
            }
            Err(error) => {
                warn!("the network helper cannot be started again: {error}");
                Box::pin(self.on(Event::HelperFailed)).await;
            }
        }
    }

    fn tell(&mut self, notice: Notice) {
        let text = match notice {
            Notice::Up => "rootless Docker is ready".to_owned(),
            Notice::Died(how) => death_of(how),
            Notice::StartTimedOut => format!(
                "the start is given up after {} s: {}",
                self.task.start.as_secs(),
                self.launch.phase
            ),
            Notice::Hung => "dockerd does not answer any more: it is asked for a dump and killed".to_owned(),
            Notice::EngineLost => "dockerd answers, but its containerd does not".to_owned(),
            Notice::EngineBack => "containerd answers again".to_owned(),
            Notice::EngineGivenUp => "containerd did not come back: everything starts again".to_owned(),
            Notice::HelperLost => "the network helper ended: it is started again".to_owned(),
            Notice::HelperBack => "the network is back".to_owned(),
            Notice::HelperGivenUp => "the network does not come back: everything starts again".to_owned(),
            Notice::PlacesGone => "somebody has removed files of the daemon's in the runtime directory: everything starts again".to_owned(),
            Notice::Idle => "nobody uses the daemon: it ends until somebody does".to_owned(),
            Notice::Stopping => "rootless Docker is being stopped".to_owned(),
            Notice::Hurry => "asked a second time: everything is killed".to_owned(),
            Notice::StopTimedOut => "the daemon did not end in its time: everything is killed".to_owned(),
            Notice::Restarting(pause) => format!("the daemon starts again in {:.1} s", pause.as_secs_f64()),
        };
        match notice {
            Notice::Up
            | Notice::EngineBack
            | Notice::HelperBack
            | Notice::Idle
            | Notice::Stopping
            | Notice::Restarting(_) => info!("{text}"),
            _ => {
                warn!("{text}");
                if !matches!(notice, Notice::Died(_) | Notice::Hurry) {
                    self.note_failure(text.clone());
                }
            }
        }
        let status = NotifyState::Status(&text);
        match notice {
            Notice::Up => tell(&[NotifyState::Ready, status]),
            _ => tell(&[status]),
        }
    }

    fn note_failure(&mut self, what: String) {
        self.status.last_failure = Some(what);
        self.status.last_failure_at = Some(now());
    }

    fn write_status(&mut self) {
        let state = match self.machine.state {
            State::Starting if self.machine.restarts > 0 => "restarting",
            State::Starting => "starting",
            State::Ready => "ready",
            State::Degraded => "degraded",
            State::Healing(_) => "healing",
            State::Stopping(Then::Leave(_)) => "stopping",
            State::Falling | State::Stopping(_) | State::Clearing(..) | State::Waiting => {
                "restarting"
            }
            State::Over => "stopping",
        };
        if self.status.state != state {
            self.status.state = state.to_owned();
            self.status.since = now();
        }
        let status = &mut self.status;
        status.rootlesskit = self.launch.rootlesskit;
        status.dockerd = self.launch.daemon_pid();
        status.containerd = self.launch.containerd;
        status.helper = self
            .launch
            .helper
            .as_ref()
            .map(|helper| helper.identity.pid);
        status.restarts = self.machine.restarts;
        status.heals = self.machine.heals;
        if let Err(error) = self.task.run_dir.write(&self.status) {
            debug!("the status cannot be written: {error}");
        }
    }

    /// What is left to say.
    fn leave(&mut self) -> Outcome {
        if let Some(path) = self.task.api.own() {
            let _ = fs::remove_file(path);
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

/// Tells the service manager, if there is one.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!("the service manager cannot be told: {error}");
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// For jitter: any number will do.
fn dice() -> u8 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos().to_le_bytes()[1])
}

fn death_of(how: How) -> String {
    match how {
        How::Code(_) => format!("the daemon ended with {how}"),
        How::Signal(_) => format!("the daemon was ended by {how}"),
    }
}

/// The file of a program.
fn program_file(path: &Path) -> Option<ProgramFile> {
    let found = fs::metadata(path).ok()?;
    Some(ProgramFile {
        path: path.to_owned(),
        device: found.dev(),
        inode: found.ino(),
        changed: i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec()),
    })
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

/// Whether the programs on disk are others than those that run.
pub fn has_newer_programs(status: &Status) -> bool {
    let is_same = |own: &ProgramFile| program_file(&own.path).as_ref() == Some(own);
    !status.programs.iter().all(is_same)
}
