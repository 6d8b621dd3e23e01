//! `uninstall`: removes what `install` made. Data, edited files and programs are kept unless asked
//! for.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};

use crate::cli::setup::{SetupOutput, carry_out};
use crate::cli::sources::layers;
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::ask::ANSWERS;
use crate::facts::look;
use crate::fetch;
use crate::settings::Settings;
use crate::setup::{Action, Home, Manager, SetupFacts, SetupPlan, inspect, purge, stray_daemon};
use crate::words;

#[derive(Clone, Copy, clap::Args)]
pub struct UninstallOptions {
    /// Delete images, containers and volumes too; lists them and asks first
    #[arg(long)]
    pub purge_data: bool,
    /// Remove the programs that `fetch` installed, including this one
    #[arg(long)]
    pub remove_binaries: bool,
    /// Do not ask
    #[arg(short, long, requires = "purge_data")]
    pub yes: bool,
    #[command(flatten)]
    pub output: SetupOutput,
}

/// Uninstalls; `called` is the word that this program was called by. If the data cannot be deleted,
/// nothing is changed.
pub fn run(
    environment: &Environment,
    called: &OsStr,
    options: &UninstallOptions,
) -> Result<Exit, Error> {
    let facts = inspect(Home::find(environment, called)?);
    let removes = options.remove_binaries && fetch::is_installed(&facts.home.environment)?;
    if options.purge_data || removes {
        refuse_stray(&facts)?;
    }
    let mut plan = SetupPlan::uninstall(&facts);
    let data_root = data_root(&facts);
    if options.purge_data {
        purge_data(&facts, &data_root?, options, &mut plan)?;
    } else if let Some(data_root) = data_root.ok().filter(|data_root| data_root.exists()) {
        plan.notes.push(format!(
            "Images, containers and volumes are kept in `{}`. To delete them: dockerd-rootless uninstall --purge-data",
            data_root.display()
        ));
    }
    // Last, since deleting the data needs rootlesskit.
    if removes {
        let program = words::quoted(&facts.home.program);
        plan.actions.push(Action::Run(format!("{program} fetch --remove")));
    }
    carry_out(&facts, &plan, options.output, "Rootless Docker is uninstalled.")
}

/// Refuses to take data or programs from a daemon that stopping the unit would not stop (exit 5).
fn refuse_stray(facts: &SetupFacts) -> Result<(), Error> {
    match stray_daemon(facts) {
        None => Ok(()),
        Some(stop) => {
            let what = "a daemon runs that no unit has started; nothing is changed";
            Err(Error::new(Exit::AlreadyRunning, what).hint(stop))
        }
    }
}

/// Plans to delete the data, if the user agrees.
fn purge_data(
    facts: &SetupFacts,
    data_root: &Path,
    options: &UninstallOptions,
    plan: &mut SetupPlan,
) -> Result<(), Error> {
    // The unit's daemon is stopped first.
    if facts.manager != Manager::Answers || !facts.service.active {
        purge::refuse_used(data_root)?;
    }
    let Some((delete, listing)) = purge::measure(data_root, facts)? else { return Ok(()) };
    // If standard error is closed, the question cannot be answered either.
    let _ = write!(io::stderr(), "{listing}");
    if !options.output.dry_run && !options.yes {
        ask()?;
    }
    let answers = facts.home.environment.cache_home().map(|home| home.join(ANSWERS));
    plan.actions.push(delete);
    plan.actions.extend(answers.map(Action::Remove));
    Ok(())
}

/// Returns the data root of a launch by the unit.
fn data_root(facts: &SetupFacts) -> Result<PathBuf, Error> {
    let environment = &facts.home.environment;
    let settings = Settings::resolve(&layers(environment, &[])?)?;
    let args: Vec<OsString> = facts.kept().args.into_iter().map(OsString::from).collect();
    let person = look::person(environment);
    let session = look::session(&settings.with_args(&args), environment, person, None)?;
    Ok(session.places.data_root)
}

/// Asks whether to go on.
fn ask() -> Result<(), Error> {
    let mut answer = String::new();
    let _ = write!(io::stderr(), "Delete all of this? Type `yes`: ");
    let _ = io::stdin().lock().read_line(&mut answer);
    match answer.trim() {
        "yes" => Ok(()),
        _ => Err(Error::new(Exit::Failed, "nothing is changed: the answer was not `yes`")
            .hint("dockerd-rootless uninstall --purge-data --yes")),
    }
}
