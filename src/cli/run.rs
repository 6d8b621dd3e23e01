//! `run`: plan, then become rootlesskit, or stay with it.

use std::cell::RefCell;
use std::ffi::OsString;
use std::path::Path;
use std::thread;
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing::{info, warn};

use crate::check::{Found, Id, known_failure};
use crate::cli::check;
use crate::cli::sources::layers;
use crate::cli::terminal;
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::probe::{self, ProbeDepth};
use crate::facts::{HostFacts, Person, look, places};
use crate::plan::{self, Api, Daemon, LaunchPlan};
use crate::settings::{OnHang, Settings};
use crate::stage::launch;
use crate::supervise::{self, How, Legacy, Notice, Outcome, RunDir, Task, Verdict};
use crate::sys::sockets;

/// What a launch is asked for on the command line.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Request {
    /// Set KEY for this call, whatever other sources say
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub assignments: Vec<OsString>,
    /// Options for dockerd
    #[arg(value_name = "DOCKERD_OPTIONS", trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<OsString>,
    /// Whether to run without a supervisor, whatever the settings say.
    #[arg(skip)]
    pub exec: bool,
    /// All arguments of our command line.
    #[arg(skip)]
    pub arguments: Vec<OsString>,
    /// The level of messages that the user chose, also for the namespace stage.
    #[arg(skip)]
    pub level: Option<LevelFilter>,
    /// Whether a person reads our messages, who needs less than a log.
    #[arg(skip)]
    pub in_terminal: bool,
}

/// How long a fault of the host must last to count as permanent.
const SECOND_LOOK: Duration = Duration::from_secs(10);

/// Starts the daemon and supervises it, or replaces this process with rootlesskit.
pub fn run(environment: &Environment, request: &Request) -> Result<Exit, Error> {
    let (person, settings) = settle(environment, request)?;
    let runtime_dir = plan::refuse_person(&person)?.to_owned();
    let is_wanted = !request.exec && settings.supervise.value;
    if !is_wanted || !supervise::pidfds_work() {
        let request = Request { exec: true, ..request.clone() };
        let (plan, host) = plan_for(environment, &request, person, &settings, ProbeDepth::Launch)?;
        if is_wanted {
            warn!(
                "this kernel has no pidfd_open(2), or forbids it: the daemon runs without a supervisor"
            );
        }
        announce(&plan, &host);
        return Err(launch::exec(&plan));
    }
    supervise::hold_signals()?;
    let run_dir = RunDir::take(&places::run_dir(&runtime_dir))?;
    if request.in_terminal {
        terminal::open(environment);
    }
    let planned = plan_for(environment, request, person, &settings, ProbeDepth::Launch)?;
    let (plan, HostFacts { session, .. }) = &planned;
    announce(plan, &planned.1);
    let api = Api::decide(&settings, session, sockets::address(session.listen_fds.as_ref()));
    let shutdown = plan::shutdown_timeout(&settings, session);
    terminal::tell_start(&describe(&planned), api.path());
    let data_root = session.places.data_root.clone();
    let begin = |task: Task<'_>| supervise::run(task, planned, api, shutdown);
    stay(environment, request, &settings, run_dir, &data_root, begin)
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
    let (person, settings) = settle(environment, request)?;
    let runtime_dir = plan::refuse_person(&person)?;
    if is_trial {
        return Ok(Exit::Good);
    }
    let run_dir = RunDir::resume(&places::run_dir(runtime_dir), legacy.lock()?);
    let data_root = legacy.running.places.data_root.clone();
    let begin = |task: Task<'_>| supervise::resume(task, legacy);
    stay(environment, request, &settings, run_dir, &data_root, begin)
}

/// Stays with the daemon whose data are at `data_root`, which `begin` starts or finds.
fn stay(
    environment: &Environment,
    request: &Request,
    settings: &Settings,
    run_dir: RunDir,
    data_root: &Path,
    begin: impl FnOnce(Task<'_>) -> Result<Outcome, Error>,
) -> Result<Exit, Error> {
    let caller = Run { environment, request, faults: RefCell::default() };
    let seconds = |value: u32| Duration::from_secs(value.into());
    let outcome = begin(Task {
        arguments: request.arguments.clone(),
        run_dir,
        data_lock: supervise::lock_data_root(data_root)?,
        caller: &caller,
        start: seconds(settings.start_timeout.value.0),
        probe: seconds(settings.probe_interval.value.0),
        idle: Some(seconds(settings.idle_timeout.value.0)).filter(|time| !time.is_zero()),
        replaces_hung: settings.on_hang.value == OnHang::Restart,
    })?;
    conclude(outcome, &caller.faults.into_inner(), data_root, request)
}

/// What a supervisor comes back to when it plans.
struct Run<'a> {
    environment: &'a Environment,
    request: &'a Request,
    /// The faults that were found last.
    faults: RefCell<Vec<Found>>,
}

impl supervise::Caller for Run<'_> {
    fn plan_launch(&self) -> Result<(LaunchPlan, HostFacts), Error> {
        prepare(self.environment, self.request, ProbeDepth::Launch)
    }

    fn plan_dockerd(&self, mtu: u32) -> Result<(Daemon, HostFacts), Error> {
        let (person, settings) = settle(self.environment, self.request)?;
        let host = look(self.environment, self.request, person, &settings, ProbeDepth::Launch)?;
        let config = places::daemon_config(&host.session.places.runtime_dir);
        let plan = Daemon::decide(&settings, &host, mtu, Some(&config))?;
        Ok((plan, host))
    }

    fn find_fault(&self) -> Option<Exit> {
        let find = || check::failures(self.environment, self.request).unwrap_or_default();
        let mut found = find();
        // A service manager would not try again, and at boot something may only be late.
        if fault_exit(&found) == Some(Exit::Prerequisite) && self.environment.has("NOTIFY_SOCKET") {
            thread::sleep(SECOND_LOOK);
            found = find();
        }
        let exit = fault_exit(&found);
        self.faults.replace(found);
        exit
    }

    fn tell(&self, notice: Notice) {
        terminal::tell(notice);
    }
}

/// Returns the exit code for faults that do not go away by themselves.
fn fault_exit(faults: &[Found]) -> Option<Exit> {
    match faults.iter().any(|found| found.id == Id::DaemonConfig) {
        true => Some(Exit::Config),
        false => faults.first().map(|_| Exit::Prerequisite),
    }
}

/// Returns the exit code for the end of a supervisor, or what went wrong.
fn conclude(
    outcome: Outcome,
    faults: &[Found],
    data_root: &Path,
    request: &Request,
) -> Result<Exit, Error> {
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
            terminal::tell_stopped();
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
        // Codes with a meaning of ours must not be dockerd's: 2 is that of its panic.
        Verdict::Failed(Exit::Daemon(2..=6 | 78)) => Error::new(Exit::Failed, ended),
        Verdict::Permanent(exit) | Verdict::Failed(exit) => Error::new(exit, ended),
    };
    Err(explain(error, &outcome.log, faults, data_root, request))
}

/// Adds what explains the daemon's failure: the checks that fail, or what dockerd's last lines mean, and
/// in a terminal the last one of them.
fn explain(
    error: Error,
    log: &[String],
    faults: &[Found],
    data_root: &Path,
    request: &Request,
) -> Error {
    let known = known_failure(log, data_root).filter(|_| faults.is_empty());
    let in_terminal = terminal::tell_failed();
    let error = match fatal_line(log).filter(|_| in_terminal || known.is_none()) {
        Some(line) => error.cause(line),
        None => error,
    };
    match known {
        Some((why, hint)) => error.cause(why).hint(hint),
        None => check::explained(error, faults, request),
    }
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

/// Returns what is started, for a person.
fn describe((plan, host): &(LaunchPlan, HostFacts)) -> String {
    let version = host.tools.dockerd.known().and_then(|facts| facts.version);
    let version = version.map_or_else(String::new, |version| format!(" {version}"));
    format!("rootless Docker{version} ({})", plan.network.driver.word().display())
}

/// Logs what is odd about a plan, and what it decides.
fn announce(plan: &LaunchPlan, host: &HostFacts) {
    for warning in &plan.warnings {
        warn!("{}", warning.0);
    }
    let version = host.tools.rootlesskit.known().and_then(|facts| facts.version);
    let version = version.map_or_else(String::new, |version| format!(" {version}"));
    let chosen: Vec<String> =
        plan.reasons.iter().map(|reason| format!("{}={}", reason.key, reason.value)).collect();
    info!("starting {}{version}: {}", plan.rootlesskit.display(), chosen.join(" "));
}

/// Reads settings and facts, and plans. This changes nothing.
pub fn prepare(
    environment: &Environment,
    request: &Request,
    depth: ProbeDepth,
) -> Result<(LaunchPlan, HostFacts), Error> {
    let (person, settings) = settle(environment, request)?;
    plan_for(environment, request, person, &settings, depth)
}

/// Returns who asks, and the settings. Refuses users for whom no daemon can run, before programs are
/// asked for them.
fn settle(environment: &Environment, request: &Request) -> Result<(Person, Settings), Error> {
    let person = look::person(environment);
    plan::refuse_person(&person)?;
    let settings = Settings::resolve(&layers(environment, &request.assignments)?)?;
    Ok((person, settings.with_args(&request.words)))
}

/// Returns what the launch will find, with the descriptors that a supervisor hands over.
fn look(
    environment: &Environment,
    request: &Request,
    person: Person,
    settings: &Settings,
    depth: ProbeDepth,
) -> Result<HostFacts, Error> {
    let mut host = probe::host(settings, environment, person, depth)?;
    if request.exec || !settings.supervise.value {
        return Ok(host);
    }
    if !plan::has_hosts(settings, &host.session) {
        let passed = host.session.listen_fds.take();
        host.session.listen_fds = passed.or_else(sockets::own);
    }
    host.session.keeper_fd = sockets::beside(host.session.listen_fds.as_ref());
    Ok(host)
}

fn plan_for(
    environment: &Environment,
    request: &Request,
    person: Person,
    settings: &Settings,
    depth: ProbeDepth,
) -> Result<(LaunchPlan, HostFacts), Error> {
    let supervised = !request.exec && settings.supervise.value;
    let host = look(environment, request, person, settings, depth)?;
    let mut plan = LaunchPlan::build(settings, &host, environment, supervised)?;
    if let Some(level) = request.level {
        let why = "the namespace stage logs at the same level".to_owned();
        plan.environment.set.insert("RUST_LOG", (level.to_string().into(), why));
    }
    Ok((plan, host))
}
