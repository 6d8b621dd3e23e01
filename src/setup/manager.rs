//! Talks to the user manager through systemctl(1), which stays the same between versions of systemd.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::error::{Error, Exit};
use crate::setup::facts::SetupFacts;
use crate::sys::process;

/// How long the manager may take for what starts and stops nothing.
pub const SOON: Duration = Duration::from_secs(30);

/// How long a unit may take to start or to stop: it has limits of its own, and containers may have
/// long times to stop.
pub const LATER: Duration = Duration::from_secs(900);

/// A way to the user manager.
#[derive(Clone)]
pub struct UserManager {
    pub systemctl: PathBuf,
    /// The directory in which the manager listens, `/run/user/UID`.
    pub runtime_dir: PathBuf,
    /// systemctl itself looks for units to enable here.
    pub config_home: PathBuf,
}

impl UserManager {
    /// Returns the way to the manager of the user of `facts`. Ends with 127 without systemctl.
    pub fn of(facts: &SetupFacts) -> Result<Self, Error> {
        let missing = || Error::new(Exit::NotFound, "the program `systemctl` is not found");
        let config_home = facts.unit_dir.ancestors().nth(2).unwrap_or(Path::new("/"));
        Ok(Self {
            systemctl: facts.home.program("systemctl").ok_or_else(missing)?,
            runtime_dir: facts.home.runtime_dir.clone(),
            config_home: config_home.to_owned(),
        })
    }

    /// Runs `systemctl --user` with `args`, and returns what it says.
    pub fn systemctl(&self, args: &[&str], time: Duration) -> io::Result<String> {
        process::succeed(self.command(&self.systemctl).arg("--user").args(args), time)
    }

    /// Returns a program that asks this manager, whatever the shell's variables say.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env("XDG_RUNTIME_DIR", &self.runtime_dir)
            .env("XDG_CONFIG_HOME", &self.config_home)
            .env_remove("DBUS_SESSION_BUS_ADDRESS");
        command
    }

    /// Waits until a new manager has started what it starts, including the bus. One that takes
    /// longer is taken as it is then.
    pub fn settle(&self) {
        let _ = self.systemctl(&["is-system-running", "--wait"], SOON);
    }

    /// Returns properties of `unit`, or of the manager itself if that is empty, by name; `None` if
    /// no manager answers.
    pub fn show(&self, unit: &str, properties: &str) -> Option<BTreeMap<String, String>> {
        let mut args = vec!["show", "--property", properties];
        args.extend(Some(unit).filter(|unit| !unit.is_empty()));
        let text = self.systemctl(&args, SOON).ok()?;
        let values = text.lines().filter_map(|line| line.split_once('='));
        Some(values.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}
