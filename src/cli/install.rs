//! `install`: the units, the daemon and the docker client's context.

use std::ffi::OsStr;
use std::path::PathBuf;

use crate::check::{self, Found, Id, Status};
use crate::cli::check::{Examination, explained};
use crate::cli::from_rootful;
use crate::cli::request::Request;
use crate::cli::setup::{SetupOutput, carry_out};
use crate::cli::verify;
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::settings::Layer;
use crate::setup::{self, Home, InstallRequest, Manager, SetupPlan, inspect};

#[derive(clap::Args)]
pub struct InstallOptions {
    #[command(flatten)]
    request: InstallRequest,
    /// Install even if a check fails
    #[arg(short, long)]
    force: bool,
    /// Install without iptables; if they do not work here, containers have no network of their own
    #[arg(long)]
    skip_iptables: bool,
    /// Then verify the daemon, if it runs
    #[arg(long, conflicts_with_all = ["dry_run", "format"])]
    verify: bool,
    /// Print the commands that move images, volumes and projects of the system-wide Docker to yours,
    /// and do nothing
    #[arg(long, exclusive = true, value_name = "SOCKET", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "/var/run/docker.sock")]
    from_rootful: Option<PathBuf>,
    #[command(flatten)]
    output: SetupOutput,
}

/// Installs; `called` is the word that this program was called by.
pub fn run(
    environment: &Environment,
    called: &OsStr,
    options: &InstallOptions,
) -> Result<Exit, Error> {
    if let Some(socket) = &options.from_rootful {
        return from_rootful::run(environment, called, socket);
    }
    let facts = inspect(Home::find(environment, called)?);
    // Much of what is checked comes with the user manager.
    if facts.manager == Manager::Silent {
        return Err(setup::no_manager(&facts));
    }
    let mut request = options.request.clone();
    let problems =
        problems(&of_service(&facts.home.environment), options.skip_iptables, &mut request)?;
    if !options.force && problems.iter().any(|found| found.id != Id::RootfulDocker) {
        let what = "not installing: the host is not ready for rootless Docker";
        let error = Error::new(Exit::Prerequisite, what);
        return Err(explained(error, &problems, &Request::default()));
    }
    let mut plan = SetupPlan::install(&facts, &request)?;
    plan.notes.extend(problems.iter().map(|found| format!("{}: {}", found.id, found.summary)));
    plan.notes.extend(unseen_variables(&facts.home.environment));
    let runs = facts.manager == Manager::Answers && !request.no_start;
    let has_context = facts.client.program.is_some() && !request.no_context;
    let done = match (runs, has_context) {
        (true, true) => "Rootless Docker is ready. Try:  docker run --rm hello-world",
        (true, false) => "Rootless Docker is ready. How to use it:  dockerd-rootless status",
        (false, _) => "Rootless Docker is set up.",
    };
    let done = carry_out(&facts, &plan, options.output, done)?;
    match options.verify {
        true => verify::afterwards(&of_service(&facts.home.environment), runs),
        false => Ok(done),
    }
}

/// Returns notes on the variables of this shell that the service does not have, or that lead the
/// client elsewhere.
fn unseen_variables(environment: &Environment) -> Vec<String> {
    let settings = Layer::from_environment(environment);
    let unseen = settings.variables().map(|(key, name)| {
        format!("{name} is set in this shell only. To set it for the service: dockerd-rootless config set {key} VALUE")
    });
    let overriding = ["DOCKER_HOST", "DOCKER_CONTEXT"].into_iter();
    let overriding = overriding
        .filter(|name| environment.get(name).is_some())
        .map(|name| format!("{name} is set, and overrides the docker context: unset {name}"));
    unseen.chain(overriding).collect()
}

/// Returns the environment without the settings of this shell's variables: the service does not
/// have them.
pub fn of_service(environment: &Environment) -> Environment {
    let settings = Layer::from_environment(environment);
    settings.variables().fold(environment.clone(), |rest, (_, name)| rest.without(name))
}

/// Returns the checks that fail, and `rootful-docker` if it warns, and completes `request` by what
/// the checks have seen. Iptables that fail and are skipped become an argument for dockerd.
pub fn problems(
    environment: &Environment,
    skip_iptables: bool,
    request: &mut InstallRequest,
) -> Result<Vec<Found>, Error> {
    let examination = Examination::new(environment, &Request::default())?;
    let evidence = examination.evidence(environment);
    request.never_idle = evidence.settings.idle_timeout.value.0 == 0;
    let mut found = check::run(&evidence);
    found.retain(|found| match found.id {
        Id::RootfulDocker => found.status >= Status::Warn,
        _ => found.status == Status::Fail,
    });
    let count = found.len();
    found.retain(|found| !skip_iptables || found.id != Id::Netfilter);
    if found.len() < count {
        request.args.push("--iptables=false".to_owned());
    }
    Ok(found)
}
