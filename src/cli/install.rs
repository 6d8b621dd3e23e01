//! `install`: the units, the daemon and the docker client's context.

use std::ffi::OsStr;

use crate::check;
use crate::check::{Found, Id, Status};
use crate::cli::check::{Examination, explained};
use crate::cli::run::Request;
use crate::cli::setup::{SetupOutput, carry_out, report};
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::places;
use crate::settings::Layer;
use crate::setup;
use crate::setup::{
    Action, Home, InstallRequest, Manager, SERVICE, SetupFacts, SetupPlan, inspect,
};
use crate::supervise;

/// The argument for dockerd of a host without iptables, as in upstream's setup tool.
const WITHOUT_IPTABLES: &str = "--iptables=false";

#[derive(Clone, Copy, clap::Args)]
pub struct InstallOptions {
    /// Start the daemon at the first connection, and stop it when it is idle
    #[arg(long, conflicts_with = "no_on_demand")]
    pub on_demand: bool,
    /// Undo --on-demand: keep the daemon running
    #[arg(long)]
    pub no_on_demand: bool,
    /// Start nothing
    #[arg(long)]
    pub no_start: bool,
    /// Leave the docker client's settings alone
    #[arg(long)]
    pub no_context: bool,
    /// Keep the daemon running when you log out, and start it at boot (loginctl enable-linger)
    #[arg(long)]
    pub enable_linger: bool,
    /// Install even if a check fails
    #[arg(short, long)]
    pub force: bool,
    /// Install without iptables; if they do not work here, containers have no network of their own
    #[arg(long)]
    pub skip_iptables: bool,
    #[command(flatten)]
    pub output: SetupOutput,
}

/// Installs; `called` is the word that this program was called by.
pub fn run(
    environment: &Environment,
    called: &OsStr,
    options: &InstallOptions,
) -> Result<Exit, Error> {
    let mut facts = inspect(Home::find(environment, called)?);
    let mut done = Vec::new();
    // Much of what is checked comes with the user manager.
    if facts.manager == Manager::Silent {
        if !options.enable_linger {
            return Err(setup::no_manager(&facts));
        }
        let mut first = SetupPlan::default();
        first.actions.push(Action::EnableLinger(facts.home.user.clone()));
        first.notes.push("The other steps can be shown once the user manager runs".to_owned());
        carry_out(&facts, &first, options.output)?;
        if options.output.dry_run {
            report(&first, options.output, "")?;
            return Ok(Exit::Good);
        }
        setup::wait_for_manager(&facts.home)?;
        done = first.actions;
        // It has brought the runtime directory with it.
        facts = inspect(Home::find(environment, called)?);
    }
    let preflight = Preflight::of(&facts, options.skip_iptables)?;
    if !options.force {
        preflight.refuse()?;
    }
    let on_demand = options.on_demand || options.no_on_demand;
    let request = InstallRequest {
        on_demand: on_demand.then_some(options.on_demand),
        no_start: options.no_start,
        no_context: options.no_context,
        enable_linger: options.enable_linger,
        args: preflight.args.clone(),
        never_idle: preflight.never_idle,
    };
    let mut plan = SetupPlan::install(&facts, &request)?;
    let findings = preflight.failures.iter().chain(&preflight.rootful);
    plan.notes.extend(findings.map(|found| format!("{}: {}", found.id, found.summary)));
    plan.notes.extend(unseen_variables(&facts.home.environment));
    carry_out(&facts, &plan, options.output)?;
    // A daemon that ran before may still be starting.
    if facts.service.active && !options.no_start && !options.output.dry_run {
        setup::await_answer(&facts, SERVICE)?;
    }
    plan.actions.splice(0..0, done);
    report(&plan, options.output, &result(&facts, &plan, options))?;
    Ok(Exit::Good)
}

/// Says what the user can do now.
fn result(facts: &SetupFacts, plan: &SetupPlan, options: &InstallOptions) -> String {
    let unchanged = plan.actions.is_empty() && !plan.keeps_edited;
    let before = if unchanged { "Already up to date. " } else { "" };
    if facts.manager != Manager::Answers {
        return format!("{before}Rootless Docker is set up, except for what needs systemd.");
    }
    if options.no_start {
        let start = "systemctl --user start docker";
        return format!("{before}Rootless Docker is installed. To start it:  {start}");
    }
    let status = supervise::read_status(&places::run_dir(&facts.home.runtime_dir));
    let version = status.and_then(|status| status.dockerd_version).unwrap_or_default();
    let version = version.split('+').next().map(|version| format!("Docker {version}"));
    let docker = version.as_deref().map_or("", str::trim_end);
    let next = if facts.client.program.is_some() && !options.no_context {
        "Try:  docker run --rm hello-world".to_owned()
    } else {
        format!("To use it:  export DOCKER_HOST={}", setup::host(facts))
    };
    format!("{before}Rootless {docker} is ready. {next}")
}

/// Returns notes on the variables of this shell that the service does not have, or that lead the
/// client elsewhere.
fn unseen_variables(environment: &Environment) -> Vec<String> {
    let settings = Layer::from_environment(environment);
    let unseen = settings.variables().map(|(key, name)| {
        format!("{name} is set in this shell only. To set it for the service: dockerd-rootless config set {key} VALUE")
    });
    let overriding = ["DOCKER_HOST", "DOCKER_CONTEXT"].into_iter();
    let overriding = overriding.filter(|name| environment.get(name).is_some());
    let overriding = overriding
        .map(|name| format!("{name} is set, and overrides the docker context: unset {name}"));
    unseen.chain(overriding).collect()
}

/// What the checks say before an installation.
pub struct Preflight {
    pub failures: Vec<Found>,
    /// Set if the user can also control the system-wide Docker.
    pub rootful: Option<Found>,
    /// The arguments for dockerd that let it start although a check fails.
    pub args: Vec<String>,
    /// Whether no setting says when an idle daemon ends.
    pub never_idle: bool,
}

impl Preflight {
    /// Checks the host as the service will find it: without the settings of this shell's variables,
    /// unless there is no manager, so that the daemon is started from a shell.
    pub fn of(facts: &SetupFacts, skip_iptables: bool) -> Result<Self, Error> {
        let mut environment = facts.home.environment.clone();
        if facts.manager == Manager::Answers {
            let settings = Layer::from_environment(&facts.home.environment);
            environment =
                settings.variables().fold(environment, |rest, (_, name)| rest.without(name));
        }
        Self::here(&environment, skip_iptables)
    }

    /// Checks the host as a launch from this shell will find it.
    pub fn here(environment: &Environment, skip_iptables: bool) -> Result<Self, Error> {
        let examination = Examination::new(environment, &Request::default())?;
        let evidence = examination.evidence(environment);
        let mut findings = check::run(&evidence);
        findings.retain(|found| found.status >= Status::Warn);
        let at = findings.iter().position(|found| found.id == Id::RootfulDocker);
        let rootful = at.map(|at| findings.remove(at));
        findings.retain(|found| found.status == Status::Fail);
        let count = findings.len();
        findings.retain(|found| !skip_iptables || found.id != Id::Netfilter);
        let without_iptables = findings.len() < count;
        Ok(Self {
            failures: findings,
            rootful,
            args: without_iptables.then(|| WITHOUT_IPTABLES.to_owned()).into_iter().collect(),
            never_idle: evidence.settings.idle_timeout.value.0 == 0,
        })
    }

    fn refuse(&self) -> Result<(), Error> {
        if self.failures.is_empty() {
            return Ok(());
        }
        let what = "not installing: the host is not ready for rootless Docker";
        let error = Error::new(Exit::Prerequisite, what);
        Err(explained(error, &self.failures, &Request::default()))
    }
}
