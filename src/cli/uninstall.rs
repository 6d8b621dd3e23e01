//! `uninstall`: what `install` has made goes. Data, edited files and binaries stay unless told.

use std::ffi::OsStr;
use std::io::{self, BufRead, IsTerminal, Write};

use tracing::warn;

use crate::cli::fetch;
use crate::cli::setup::{Manner, carry_out, report, say};
use crate::cli::sources::layers;
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::look;
use crate::facts::{Manager, Session, SetupFacts, UnitFile};
use crate::settings::Settings;
use crate::setup;
use crate::setup::purge;
use crate::setup::purge::Data;
use crate::setup::{Action, SetupPlan, UninstallRequest};
use crate::setup::{at_home, look};

/// What `uninstall` is asked for on the command line.
#[derive(Clone, Copy, clap::Args)]
pub struct UninstallOptions {
    /// Delete images, containers and volumes too; lists them and asks first
    #[arg(long)]
    pub purge_data: bool,
    /// Remove the programs that `fetch` has brought, this one among them
    #[arg(long)]
    pub remove_binaries: bool,
    /// Do not ask
    #[arg(short, long, requires = "purge_data")]
    pub yes: bool,
    /// How it is done and told.
    #[command(flatten)]
    pub manner: Manner,
}

/// Uninstalls; `called` is the word that this program was called by.
///
/// # Errors
/// That of the action that fails. Whatever stands in the way of the data stops it before anything
/// is changed.
pub fn run(
    environment: &Environment,
    called: &OsStr,
    options: &UninstallOptions,
) -> Result<Exit, Error> {
    let environment = &at_home(environment);
    let facts = look(environment, called)?;
    let request = UninstallRequest { purge_data: options.purge_data };
    let mut plan = SetupPlan::uninstall(&facts, request)?;
    let session = session(environment, &facts);
    if options.purge_data {
        let session = session?;
        let stops = facts.manager == Manager::Answers && facts.service.active;
        if !stops {
            purge::refuse_used(&session)?;
        }
        if let Some(data) = purge::measure(&session.data_root, &facts)? {
            tell(&data);
            if !options.manner.dry_run && !options.yes {
                ask()?;
            }
            if data.is_shared {
                let root = data.root.display();
                plan.notes.push(format!("other files in `{root}` stay"));
            }
            let entries = data.entries.into_iter().map(|(path, _)| path).collect();
            let root = data.root;
            plan.actions.push(Action::DeleteData { root, entries });
        }
    } else if let Some(data_root) =
        session.ok().map(|session| session.data_root).filter(|path| path.exists())
    {
        plan.notes.push(format!(
            "images, containers and volumes stay in `{}`; to delete them: dockerd-rootless uninstall --purge-data",
            data_root.display()
        ));
    }
    // Last, for deleting the data takes rootlesskit.
    let has_programs = !fetch::remove(environment, true)?.is_empty();
    match (has_programs, options.remove_binaries) {
        (false, _) => {}
        (true, true) => plan.actions.push(Action::RemovePrograms),
        (true, false) => plan.notes.push(
            "the programs that `fetch` has brought stay; to remove them: dockerd-rootless uninstall --remove-binaries".to_owned(),
        ),
    }
    if !options.manner.dry_run {
        carry_out(environment, &facts, &plan, &say)?;
    }
    report(&plan, options.manner, "rootless Docker is uninstalled")?;
    Ok(Exit::Good)
}

/// What a launch would meet, by the settings and the words in the unit.
fn session(environment: &Environment, facts: &SetupFacts) -> Result<Session, Error> {
    let settings = Settings::resolve(&layers(environment, &[])?)?;
    let words = match &facts.service.own {
        UnitFile::Text(text) => setup::kept_parameters(text).1,
        _ => Vec::new(),
    };
    let person = look::person(environment);
    look::session(&settings, environment, &words, person, None)
}

/// Lists what would go.
fn tell(data: &Data) {
    let mebibytes =
        |kibibytes: u64| format!("{}.{} MiB", kibibytes / 1024, kibibytes % 1024 * 10 / 1024);
    for (path, size) in &data.entries {
        warn!("{:>14}  {}", mebibytes(*size), path.display());
    }
    let size = data.entries.iter().map(|(_, size)| size).sum();
    warn!("{:>14}  in all", mebibytes(size));
}

/// Asks whether to go on.
fn ask() -> Result<(), Error> {
    if !io::stdin().is_terminal() {
        let what = "the data are not deleted: nobody can be asked";
        return Err(
            Error::new(Exit::Usage, what).hint("dockerd-rootless uninstall --purge-data --yes")
        );
    }
    let mut answer = String::new();
    let asked = write!(io::stderr(), "Delete all of this? Type `yes`: ");
    asked
        .and_then(|()| io::stdin().lock().read_line(&mut answer))
        .map_err(|error| Error::new(Exit::Failed, "nobody can be asked").because(&error))?;
    match answer.trim() {
        "yes" => Ok(()),
        _ => Err(Error::new(Exit::Failed, "nothing is changed: the answer was not `yes`")),
    }
}
