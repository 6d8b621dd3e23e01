//! `run`: plan, then become rootlesskit, or stay with it.

use std::cell::RefCell;
use std::path::Path;
use std::time::Duration;

use tracing::{info, warn};

use crate::check::{Found, Id, known_failure};
use crate::cli::check;
use crate::cli::request::Request;
use crate::cli::sources::layers;
use crate::cli::terminal;
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::probe::{self, ProbeDepth};
use crate::facts::{HostFacts, Lock, Person, Version, look, places};
use crate::plan::{self, Api, Daemon, LaunchPlan, Link};
use crate::settings::{OnHang, Settings};
use crate::stage::launch;
use crate::supervise::{self, How, Legacy, Notice, Outcome, RunDir, Task, Verdict};
use crate::sys::sockets;

/// How long a fault of the host must last to count as permanent.
const SECOND_LOOK: Duration = Duration::from_secs(10);

/// A launch, decided.
type Planned = (LaunchPlan, HostFacts);

/// Starts the daemon and supervises it, or replaces this process with rootlesskit.
pub fn run(environment: &Environment, request: &Request) -> Result<Exit, Error> {
    let run = Run::new(environment, request);
    let (person, settings) = run.settle()?;
    let person = make_runtime_dir(environment, person)?;
    if !request.exec && settings.supervise.value {
        if supervise::pidfds_work() {
            return run.supervise(person, &settings);
        }
        warn!(
            "this kernel has no pidfd_open(2), or forbids it: the daemon runs without a supervisor"
        );
    }
    let request = Request { exec: true, ..request.clone() };
    let run = Run::new(environment, &request);
    let planned = run.plan_for(person, &settings, ProbeDepth::Launch)?;
    announce(&planned);
    Err(launch::exec(&planned.0))
}

/// Makes `/run/user/UID` where only a launch could, and refuses what another user put there meanwhile.
pub(super) fn make_runtime_dir(environment: &Environment, person: Person) -> Result<Person, Error> {
    let made = look::make_runtime_dir(environment, person).map_err(|error| {
        Error::new(Exit::Prerequisite, "the runtime directory cannot be made").because(&error)
    })?;
    plan::refuse_person(&made)?;
    Ok(made)
}

/// Takes the place of the supervisor that this process was, or, as a trial in a child of it, finds out
/// whether that would work. `descriptor` is where the old one hands over.
pub fn take_over(
    environment: &Environment,
    request: &Request,
    is_trial: bool,
    descriptor: i32,
) -> Result<Exit, Error> {
    let legacy = Legacy::read(descriptor, is_trial)?;
    let run = Run::new(environment, request);
    let (person, settings) = run.settle()?;
    if is_trial {
        return Ok(Exit::Good);
    }
    let run_dir = places::run_dir(plan::refuse_person(&person)?);
    let run_dir = RunDir::resume(&run_dir, legacy.lock()?);
    let data_root = legacy.running.places.data_root.clone();
    terminal::reopen(environment, legacy.running.api.path().map(Path::to_owned));
    run.stay(&settings, run_dir, &data_root, |task| supervise::resume(task, legacy))
}

/// Reads settings and facts, and plans. This changes nothing.
pub fn prepare(
    environment: &Environment,
    request: &Request,
    depth: ProbeDepth,
) -> Result<Planned, Error> {
    Run::new(environment, request).plan(depth)
}

/// What a supervisor comes back to when it plans.
struct Run<'a> {
    environment: &'a Environment,
    request: &'a Request,
    /// The faults that were found last.
    faults: RefCell<Vec<Found>>,
}

impl<'a> Run<'a> {
    fn new(environment: &'a Environment, request: &'a Request) -> Self {
        Self { environment, request, faults: RefCell::default() }
    }

    /// Returns who asks, and the settings. Refuses users for whom no daemon can run, before programs
    /// are asked for them.
    fn settle(&self) -> Result<(Person, Settings), Error> {
        let person = look::person(self.environment);
        plan::refuse_person(&person)?;
        let layers = layers(self.environment, &self.request.assignments)?;
        Ok((person, Settings::resolve(&layers)?.with_args(&self.request.words)))
    }

    /// Returns what the launch will find, with the descriptors that a supervisor hands over.
    fn look(
        &self,
        person: Person,
        settings: &Settings,
        depth: ProbeDepth,
    ) -> Result<HostFacts, Error> {
        let mut host = probe::host(settings, self.environment, person, depth)?;
        if !self.request.exec && settings.supervise.value {
            if !plan::has_hosts(settings, &host.session) {
                let passed = host.session.listen_fds.take();
                host.session.listen_fds = passed.or_else(sockets::own);
            }
            host.session.keeper_fd = sockets::beside(host.session.listen_fds.as_ref());
        }
        Ok(host)
    }

    fn plan(&self, depth: ProbeDepth) -> Result<Planned, Error> {
        let (person, settings) = self.settle()?;
        self.plan_for(person, &settings, depth)
    }

    fn plan_for(
        &self,
        person: Person,
        settings: &Settings,
        depth: ProbeDepth,
    ) -> Result<Planned, Error> {
        let host = self.look(person, settings, depth)?;
        self.plan_on(host, settings)
    }

    fn plan_on(&self, host: HostFacts, settings: &Settings) -> Result<Planned, Error> {
        let supervised = !self.request.exec && settings.supervise.value;
        let mut plan = LaunchPlan::build(settings, &host, self.environment, supervised)?;
        if let Some(level) = self.request.level {
            let why = "the namespace stage logs at the same level".to_owned();
            plan.environment.set.insert("RUST_LOG", (level.to_string().into(), why));
        }
        Ok((plan, host))
    }

    /// Starts the daemon and stays with it.
    fn supervise(&self, person: Person, settings: &Settings) -> Result<Exit, Error> {
        supervise::hold_signals()?;
        let run_dir = RunDir::take(&places::run_dir(plan::refuse_person(&person)?))?;
        if self.request.in_terminal {
            terminal::open(self.environment);
        }
        let planned = self.plan_for(person, settings, ProbeDepth::Launch)?;
        announce(&planned);
        let session = &planned.1.session;
        let api = Api::decide(settings, session);
        let shutdown = plan::shutdown_timeout(settings, session);
        let docker =
            with_version("Docker", planned.1.tools.dockerd.known().and_then(|facts| facts.version));
        let driver = planned.0.network.driver.word();
        terminal::tell_start(&format!("rootless {docker} ({})", driver.display()), api.path());
        let data_root = session.places.data_root.clone();
        self.stay(settings, run_dir, &data_root, |task| {
            supervise::run(task, planned, api, shutdown)
        })
    }

    /// Stays with the daemon whose data are at `data_root`, which `begin` starts or finds.
    fn stay(
        &self,
        settings: &Settings,
        run_dir: RunDir,
        data_root: &Path,
        begin: impl FnOnce(Task<'_>) -> Result<Outcome, Error>,
    ) -> Result<Exit, Error> {
        let seconds = |value: u32| Duration::from_secs(value.into());
        let outcome = begin(Task {
            arguments: self.request.arguments.clone(),
            run_dir,
            data_lock: supervise::lock_data_root(data_root)?,
            caller: self,
            start: seconds(settings.start_timeout.value.0),
            probe: seconds(settings.probe_interval.value.0),
            idle: Some(seconds(settings.idle_timeout.value.0)).filter(|time| !time.is_zero()),
            replaces_hung: settings.on_hang.value == OnHang::Restart,
        })?;
        self.conclude(outcome, data_root)
    }

    /// Returns the exit code for the end of a supervisor, or what went wrong.
    fn conclude(&self, outcome: Outcome, data_root: &Path) -> Result<Exit, Error> {
        if let (Verdict::Permanent(_), Some(refusal)) = (outcome.verdict, outcome.refusal) {
            return Err(refusal);
        }
        let ended = match outcome.how {
            _ if terminal::is_starting() => "Docker did not start".to_owned(),
            Some(How::Code(code)) => format!("rootless Docker ended with exit code {code}"),
            Some(how) => format!("rootless Docker was ended by {how}"),
            None => "rootless Docker was not started".to_owned(),
        };
        let error = match outcome.verdict {
            Verdict::Stopped | Verdict::Idle => {
                terminal::tell_end(true);
                return Ok(Exit::Good);
            }
            Verdict::Forced => {
                let what = "the daemon did not stop in time, and was killed with its containers";
                let hint = "dockerd-rootless run -- --shutdown-timeout=60";
                return Err(Error::new(Exit::Failed, what).hint(hint));
            }
            Verdict::Survivors => {
                let what = "processes of rootless Docker survive SIGKILL: they wait for the kernel, mostly for a file system that does not answer";
                let hint = "ps -u $(id -u) -o pid,stat,wchan,args";
                return Err(Error::new(Exit::Failed, what).hint(hint));
            }
            Verdict::TimedOut => {
                let what = format!("rootless Docker did not start in its time: {}", outcome.phase);
                let hint = "dockerd-rootless config explain supervise.start-timeout";
                Error::new(Exit::Failed, what).hint(hint)
            }
            Verdict::Failed(_) if refuses_config(&outcome.log) => Error::new(Exit::Config, ended),
            // Codes with a meaning of ours must not be dockerd's: 2 is that of its panic.
            Verdict::Failed(Exit::Daemon(2..=6 | 78)) => Error::new(Exit::Failed, ended),
            Verdict::Permanent(exit) | Verdict::Failed(exit) => Error::new(exit, ended),
        };
        Err(self.explain(error, &outcome.log, data_root))
    }

    /// Adds what explains the daemon's failure: the line with which it gave up, and the checks that fail,
    /// or what its last lines mean.
    fn explain(&self, error: Error, log: &[String], data_root: &Path) -> Error {
        terminal::tell_end(false);
        let error = fatal_line(log).into_iter().fold(error, Error::cause);
        let faults = self.faults.borrow();
        match known_failure(log, data_root).filter(|_| faults.is_empty()) {
            Some((why, hint)) => error.cause(why).hint(hint),
            None if faults.is_empty() && refuses_config(log) => {
                error.hint("correct daemon.json: ${EDITOR:-vi} ~/.config/docker/daemon.json")
            }
            None => check::explained(error, &faults, self.request),
        }
    }
}

impl supervise::Caller for Run<'_> {
    fn plan_launch(&self) -> Result<Planned, Error> {
        self.plan(ProbeDepth::Launch)
    }

    fn plan_again(&self) -> Result<Planned, Error> {
        let (person, settings) = self.settle()?;
        let mut host = self.look(person, &settings, ProbeDepth::Launch)?;
        // What runs will have ended.
        host.session.state_dir.lock = Lock::Free;
        host.session.pid_files.clear();
        self.plan_on(host, &settings)
    }

    fn plan_dockerd(&self, link: &Link) -> Result<(Daemon, HostFacts), Error> {
        let (person, settings) = self.settle()?;
        let host = self.look(person, &settings, ProbeDepth::Launch)?;
        let config = places::daemon_config(&host.session.places.runtime_dir);
        Ok((Daemon::renew(&settings, &host, link, &config)?, host))
    }

    fn find_fault(&self) -> Option<Exit> {
        let find = || check::failures(self.environment, self.request).unwrap_or_default();
        let mut found = find();
        // A service manager would not try again, and at boot something may only be late.
        if fault_exit(&found) == Some(Exit::Prerequisite) && self.environment.has("NOTIFY_SOCKET") {
            supervise::wait_for_stop(SECOND_LOOK);
            found = find();
        }
        let exit = fault_exit(&found);
        self.faults.replace(found);
        exit
    }

    fn tell(&self, notice: Notice, text: &str) {
        terminal::tell(notice, text);
    }
}

/// Returns the exit code for faults that do not go away by themselves.
fn fault_exit(faults: &[Found]) -> Option<Exit> {
    match faults.iter().any(|found| found.id == Id::DaemonConfig) {
        true => Some(Exit::Config),
        false => faults.first().map(|_| Exit::Prerequisite),
    }
}

/// Returns whether dockerd says that it refuses its configuration file, as all versions do.
fn refuses_config(log: &[String]) -> bool {
    log.iter().any(|line| line.contains("unable to configure the Docker daemon with file"))
}

/// Returns the line with which dockerd, or rootlesskit, gave up: the last that is neither of their
/// logs nor of ours.
fn fatal_line(log: &[String]) -> Option<String> {
    let is_log = |line: &str| {
        line.starts_with("time=")
            || line.contains("[rootlesskit:")
            || line.starts_with("See '")
            || line.starts_with(|first: char| first.is_ascii_digit())
    };
    let fatal = log.iter().rfind(|line| !is_log(line)).map(|line| format!("dockerd: {line}"));
    fatal.or_else(|| log.last().cloned())
}

/// Logs what is odd about a plan, and what it decides.
fn announce((plan, host): &Planned) {
    for warning in &plan.warnings {
        warn!("{}", warning.0);
        terminal::tell_line(&format!("warning: {}", warning.0));
    }
    let version = host.tools.rootlesskit.known().and_then(|facts| facts.version);
    let program = with_version(&plan.rootlesskit.display().to_string(), version);
    let chosen = plan.reasons.iter().map(|reason| format!("{}={}", reason.key, reason.value));
    info!("starting {program}: {}", chosen.collect::<Vec<_>>().join(" "));
}

/// Returns `program` with its version, if that is known.
pub fn with_version(program: &str, version: Option<Version>) -> String {
    version.map_or_else(|| program.to_owned(), |version| format!("{program} {version}"))
}
