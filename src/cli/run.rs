//! `run`: plan, then become rootlesskit, or stay with it.

use std::cell::RefCell;
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing::{info, warn};

use crate::check::{Found, Id};
use crate::cli::check;
use crate::cli::sources::layers;
use crate::cli::terminal;
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::look;
use crate::facts::places;
use crate::facts::probe;
use crate::facts::probe::ProbeDepth;
use crate::facts::{HostFacts, Person};
use crate::plan;
use crate::plan::{Api, InPlace, LaunchPlan};
use crate::settings::{OnHang, Settings};
use crate::stage::launch;
use crate::supervise;
use crate::supervise::{How, Notice, Verdict};
use crate::supervise::{Legacy, Outcome, RunDir, Task};
use crate::sys::sockets;

/// What a launch is asked for on the command line.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Whether to run without a supervisor, whatever the settings say.
    pub exec: bool,
    /// The arguments `KEY=VALUE` of `--set`.
    pub assignments: Vec<OsString>,
    /// The arguments for dockerd.
    pub words: Vec<OsString>,
    /// All arguments of our command line.
    pub arguments: Vec<OsString>,
    /// The level of messages that the user chose, also for the namespace stage.
    pub level: Option<LevelFilter>,
    /// Whether a person reads our messages, who needs less than a log.
    pub in_terminal: bool,
}

/// How long a fault of the host must last to count as permanent.
const SECOND_LOOK: Duration = Duration::from_secs(10);

/// Starts the daemon and supervises it, or replaces this process with rootlesskit.
pub fn run(environment: &Environment, request: &Request) -> Result<Exit, Error> {
    let (person, settings) = settle(environment, request)?;
    let runtime_dir = plan::refuse_person(&person)?.to_owned();
    let depth = ProbeDepth::Launch;
    let supervises = !request.exec && settings.supervise.value;
    if supervises && !supervise::pidfds_work() {
        warn!(
            "this kernel has no pidfd_open(2), or forbids it: the daemon runs without a supervisor"
        );
    }
    if !supervises || !supervise::pidfds_work() {
        let request = &Request { exec: true, ..request.clone() };
        let (plan, host) = plan_for(environment, request, person, &settings, depth)?;
        announce(&plan, &host);
        return Err(launch::exec(&plan));
    }
    supervise::hold_signals()?;
    let run_dir = RunDir::take(&places::run_dir(&runtime_dir))?;
    if request.in_terminal {
        terminal::open(environment);
    }
    let first = plan_for(environment, request, person, &settings, depth)?;
    announce(&first.0, &first.1);
    let passed = sockets::address(first.1.session.listen_fds.as_ref());
    let api = Api::decide(&settings, &first.1.session, passed);
    let shutdown = plan::shutdown_timeout(&settings, &first.1.session);
    terminal::tell_start(&described(&first), api.path());
    let data_root = first.1.session.places.data_root.clone();
    let begin = |task: Task<'_>| supervise::run(task, first, api, shutdown);
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

    fn plan_dockerd(&self, mtu: u32) -> Result<(InPlace, HostFacts), Error> {
        let (person, settings) = settle(self.environment, self.request)?;
        let depth = ProbeDepth::Launch;
        let host = look(self.environment, self.request, person, &settings, depth)?;
        let plan = InPlace::build(&settings, &host, mtu)?;
        Ok((plan, host))
    }

    fn find_fault(&self) -> Option<Exit> {
        let found = lasting_failures(self.environment, self.request);
        let exit = fault_exit(&found);
        self.faults.replace(found);
        exit
    }

    fn tell(&self, notice: Notice) {
        terminal::tell(notice);
    }
}

/// Takes the place of the supervisor that this process was, or, as a trial in a child of it, finds out
/// whether that would work. `descriptor` is where the old one hands over.
///
/// # Errors
/// What is handed over is not ours, or the settings are wrong by now.
pub fn take_over(
    environment: &Environment,
    request: &Request,
    is_trial: bool,
    descriptor: i32,
) -> Result<Exit, Error> {
    let legacy = Legacy::read(descriptor, is_trial)?;
    let (person, settings) = settle(environment, request)?;
    let runtime_dir = plan::refuse_person(&person)?.to_owned();
    if is_trial {
        return Ok(Exit::Good);
    }
    let run_dir = RunDir::resume(&places::run_dir(&runtime_dir), legacy.lock()?);
    terminal::tell_start("rootless Docker", legacy.socket());
    let data_root = legacy.data_root().to_owned();
    let begin = |task: Task<'_>| supervise::resume(task, legacy);
    stay(environment, request, &settings, run_dir, &data_root, begin)
}

/// Returns the checks that fail. Under a service manager, which would not try again, they must fail
/// twice: at boot, something may only be late.
fn lasting_failures(environment: &Environment, request: &Request) -> Vec<Found> {
    let find = || check::failures(environment, request).unwrap_or_default();
    let found = find();
    match fault_exit(&found) {
        Some(Exit::Prerequisite) if environment.has("NOTIFY_SOCKET") => {
            std::thread::sleep(SECOND_LOOK);
            find()
        }
        _ => found,
    }
}

/// Returns the exit code for faults that do not go away by themselves.
fn fault_exit(faults: &[Found]) -> Option<Exit> {
    match faults {
        [] => None,
        _ if faults.iter().any(|found| found.id == Id::DaemonConfig) => Some(Exit::Config),
        _ => Some(Exit::Prerequisite),
    }
}

/// Returns the end of the supervisor for its caller: the exit code, or what went wrong.
fn conclude(
    outcome: Outcome,
    faults: &[Found],
    data_root: &Path,
    request: &Request,
) -> Result<Exit, Error> {
    let ended = match outcome.how {
        _ if terminal::is_starting() => "Docker did not start".to_owned(),
        Some(How::Code(code)) => format!("rootless Docker ended with exit code {code}"),
        Some(how) => format!("rootless Docker was ended by {how}"),
        None => "rootless Docker was not started".to_owned(),
    };
    let failed = |what: &str| Error::new(Exit::Failed, what);
    let error = match outcome.verdict {
        Verdict::Stopped | Verdict::Idle => {
            terminal::tell_stopped();
            return Ok(Exit::Good);
        }
        Verdict::Permanent(exit) => match outcome.refusal {
            Some(refusal) => return Err(refusal),
            None => Error::new(exit, ended),
        },
        Verdict::Failed(_) if refuses_config(&outcome.log) => Error::new(Exit::Config, ended),
        // Codes with a meaning of ours must not be dockerd's: 2 is that of its panic.
        Verdict::Failed(Exit::Daemon(2..=6 | 78)) => failed(&ended),
        Verdict::Failed(exit) => Error::new(exit, ended),
        Verdict::TimedOut => {
            failed(&format!("rootless Docker did not start in its time: {}", outcome.phase))
                .hint("dockerd-rootless config explain supervise.start-timeout")
        }
        Verdict::Forced => {
            return Err(failed(
                "the daemon did not stop in time, and was killed with its containers",
            )
            .hint("dockerd-rootless run -- --shutdown-timeout=60"));
        }
        Verdict::Survivors => {
            return Err(failed("processes of rootless Docker survive SIGKILL").hint("they wait for the kernel, mostly for a file system that does not answer: ps -u $(id -u) -o pid,stat,wchan,args"));
        }
    };
    Err(with_last_words(error, &outcome.log, faults, data_root, request))
}

/// Adds what explains the daemon's failure: what it said last, what that means, and the checks that
/// fail. A person gets one line of it, and the log file has the others.
fn with_last_words(
    error: Error,
    log: &[String],
    faults: &[Found],
    data_root: &Path,
    request: &Request,
) -> Error {
    let known = crate::check::known_failure(log, data_root).filter(|_| faults.is_empty());
    let in_terminal = terminal::tell_failed();
    let error = match fatal_line(log).filter(|_| in_terminal || known.is_none()) {
        Some(line) => error.because(&io::Error::other(line)),
        None => error,
    };
    match known {
        Some((why, hint)) => error.because(&io::Error::other(why)).hint(hint),
        None if faults.is_empty() && refuses_config(log) => error.hint(
            "correct daemon.json, of which dockerd reads a copy: ${EDITOR:-vi} ~/.config/docker/daemon.json",
        ),
        None => check::explained(error, faults, request),
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

/// Returns what is started, for a person.
fn described((plan, host): &(LaunchPlan, HostFacts)) -> String {
    let version = host.tools.dockerd.known().and_then(|facts| facts.version);
    let version = version.map_or_else(String::new, |version| format!(" {version}"));
    let driver = plan.network.driver.word().display();
    format!("rootless Docker{version} ({driver})")
}

/// Logs what is odd about a plan, and what it decides.
fn announce(plan: &LaunchPlan, host: &HostFacts) {
    for warning in &plan.warnings {
        warn!("{}", warning.0);
    }
    info!("{}", summary(plan, host));
}

/// Returns one line on what is started.
fn summary(plan: &LaunchPlan, host: &HostFacts) -> String {
    let version = host.tools.rootlesskit.known().and_then(|facts| facts.version);
    let version = version.map_or_else(String::new, |version| format!(" {version}"));
    let chosen: Vec<String> =
        plan.reasons.iter().map(|reason| format!("{}={}", reason.key, reason.value)).collect();
    format!("starting {}{version}: {}", plan.rootlesskit.display(), chosen.join(" "))
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
