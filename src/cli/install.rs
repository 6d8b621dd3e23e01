//! `install`: the units, the daemon and the docker client's context.

use std::ffi::{OsStr, OsString};

use tracing::warn;

use crate::check;
use crate::check::{Named, Status};
use crate::cli::check::{Examination, explained};
use crate::cli::run::Request;
use crate::cli::setup::{Manner, await_answer, carry_out, report, say};
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::{Manager, SetupFacts};
use crate::settings::Layer;
use crate::setup::{InstallRequest, SetupPlan};
use crate::setup::{at_home, look, wait_for_manager};

/// The words for dockerd of one that does without iptables, as upstream's setup tool has them.
const WITHOUT_IPTABLES: &str = "--iptables=false";

/// What `install` is asked for on the command line.
#[derive(Clone, Copy, clap::Args)]
pub struct InstallOptions {
    /// Start the daemon when somebody connects, and end it when nobody uses it
    #[arg(long, conflicts_with = "no_on_demand")]
    pub on_demand: bool,
    /// Have the daemon always run again, after --on-demand
    #[arg(long)]
    pub no_on_demand: bool,
    /// Start nothing
    #[arg(long)]
    pub no_start: bool,
    /// Leave the docker client's settings alone
    #[arg(long)]
    pub no_context: bool,
    /// Keep the daemon when you log out, and have it start at boot (loginctl enable-linger)
    #[arg(long)]
    pub enable_linger: bool,
    /// Go on although a check fails, or root's Docker obeys you too
    #[arg(short, long)]
    pub force: bool,
    /// Go on without iptables; if they do not work here, containers have no network of their own
    #[arg(long)]
    pub skip_iptables: bool,
    /// How it is done and told.
    #[command(flatten)]
    pub manner: Manner,
}

/// Installs; `called` is the word that this program was called by.
///
/// # Errors
/// Exit 4 if something stands in the way; that of the action that fails.
pub fn run(
    environment: &Environment,
    called: &OsStr,
    options: &InstallOptions,
) -> Result<Exit, Error> {
    let login = at_home(environment);
    let facts = look(&login, called)?;
    let dry_run = options.manner.dry_run;
    let mut done = Vec::new();
    // Much of what is checked comes with the user manager.
    if facts.manager == Manager::Silent {
        let linger =
            InstallRequest { enable_linger: options.enable_linger, ..InstallRequest::default() };
        let first = SetupPlan::install(&facts, &linger)?;
        if dry_run {
            report(&first, options.manner, "")?;
            return Ok(Exit::Good);
        }
        carry_out(&login, &facts, &first, &say)?;
        wait_for_manager(&facts)?;
        done = first.actions;
    }
    // It has brought the runtime directory with it.
    let environment = &at_home(environment);
    let facts = match done.is_empty() {
        true => facts,
        false => look(environment, called)?,
    };
    let obstacles = Obstacles::find(environment, &facts, options.skip_iptables)?;
    if options.force {
        for (name, finding) in obstacles.counting(false) {
            warn!("check `{name}`: {}", finding.summary);
        }
    } else {
        obstacles.refuse()?;
    }
    let request = InstallRequest {
        on_demand: match (options.on_demand, options.no_on_demand) {
            (false, false) => None,
            (on_demand, _) => Some(on_demand),
        },
        no_start: options.no_start,
        no_context: options.no_context,
        enable_linger: options.enable_linger,
        words: obstacles.words(),
        never_idle: obstacles.never_idle,
    };
    let mut plan = SetupPlan::install(&facts, &request)?;
    plan.notes.extend(unseen_variables(environment));
    if !dry_run {
        carry_out(environment, &facts, &plan, &say)?;
        // One that ran before may still be on its way.
        if facts.service.active && !options.no_start {
            await_answer(environment, &facts)?;
        }
    }
    plan.actions.splice(0..0, done);
    report(&plan, options.manner, &result(&facts, options))?;
    Ok(Exit::Good)
}

/// What the user can do now.
fn result(facts: &SetupFacts, options: &InstallOptions) -> String {
    let socket = facts.runtime_dir.join("docker.sock");
    let docker = match (&facts.client.program, options.no_context) {
        (Some(_), false) => "docker info".to_owned(),
        _ => format!("export DOCKER_HOST=unix://{}", socket.display()),
    };
    match facts.manager {
        Manager::Answers if options.no_start => {
            "rootless Docker is installed; to start it: systemctl --user start docker".to_owned()
        }
        Manager::Answers => format!("rootless Docker is installed and answers: {docker}"),
        _ => "rootless Docker is set up as far as that can be done without systemd".to_owned(),
    }
}

/// The variables of this shell that the service does not have, or that lead the client elsewhere.
fn unseen_variables(environment: &Environment) -> Vec<String> {
    let layer = Layer::from_environment(environment);
    let note = |(key, variable): (&str, &str)| {
        format!(
            "{variable} is set here and not in the service; to have the setting there: dockerd-rootless config set {key} VALUE"
        )
    };
    let settings = layer.variables().map(note);
    let overriding = ["DOCKER_HOST", "DOCKER_CONTEXT"]
        .into_iter()
        .filter(|name| environment.get(name).is_some())
        .map(|name| {
            format!("{name} is set here, and counts more than the docker context: unset {name}")
        });
    settings.chain(overriding).collect()
}

/// What stands in the way.
pub struct Obstacles {
    findings: Vec<Named>,
    skip_iptables: bool,
    /// Whether no setting says when an idle daemon ends.
    pub never_idle: bool,
}

impl Obstacles {
    /// Checks the host as the service will find it: without the settings of this shell's variables,
    /// unless there is no manager, so that the daemon is started from a shell.
    ///
    /// # Errors
    /// Whatever is wrong with the settings.
    pub fn find(
        environment: &Environment,
        facts: &SetupFacts,
        skip_iptables: bool,
    ) -> Result<Self, Error> {
        let variables = Layer::from_environment(environment);
        let environment = match facts.manager {
            Manager::Answers => &variables
                .variables()
                .fold(environment.clone(), |rest, (_, name)| rest.without(name)),
            _ => environment,
        };
        Self::here(environment, skip_iptables)
    }

    /// Checks the host as a launch from this shell will find it.
    ///
    /// # Errors
    /// Whatever is wrong with the settings.
    pub fn here(environment: &Environment, skip_iptables: bool) -> Result<Self, Error> {
        let examination = Examination::new(environment, &Request::default())?;
        let evidence = examination.evidence(environment);
        Ok(Self {
            findings: check::find_all(&evidence),
            skip_iptables,
            never_idle: evidence.settings.idle_timeout.value.0 == 0,
        })
    }

    /// Those that count: what fails, and a rootful daemon within reach unless that is to be ignored.
    pub fn counting(&self, ignore_rootful: bool) -> impl Iterator<Item = &Named> {
        self.findings.iter().filter(move |(name, finding)| match *name {
            "netfilter" if self.skip_iptables => false,
            "rootful-docker" => finding.status >= Status::Warn && !ignore_rootful,
            _ => finding.status == Status::Fail,
        })
    }

    /// The words for dockerd that the user wants what fails here ignored with.
    pub fn words(&self) -> Vec<OsString> {
        let fails =
            |(name, finding): &Named| *name == "netfilter" && finding.status == Status::Fail;
        let without = self.skip_iptables && self.findings.iter().any(fails);
        without.then(|| WITHOUT_IPTABLES.into()).into_iter().collect()
    }

    fn refuse(&self) -> Result<(), Error> {
        let counting: Vec<Named> = self.counting(false).cloned().collect();
        if counting.is_empty() {
            return Ok(());
        }
        let what = "rootless Docker is not installed: the host is not ready for it";
        let error = explained(Error::new(Exit::Prerequisite, what), &counting);
        let only_rootful = counting.iter().all(|(name, _)| *name == "rootful-docker");
        Err(match only_rootful {
            true => error.hint("to have both: dockerd-rootless install --force"),
            false => error,
        })
    }
}
