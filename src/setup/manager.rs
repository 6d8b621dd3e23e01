//! Talks to the user manager through systemctl(1), which is what stays the same between versions of
//! systemd.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::error::{Error, Exit};
use crate::facts::SetupFacts;
use crate::setup::find;
use crate::sys::process;

/// How long the manager may take for what starts and stops nothing.
pub const SOON: Duration = Duration::from_secs(30);

/// How long a unit may take to start or to stop, for which it has limits of its own; containers may
/// have long times to stop.
pub const LATER: Duration = Duration::from_secs(900);

/// A way to the user manager.
pub struct UserManager {
    /// The program systemctl.
    pub systemctl: PathBuf,
    /// The directory in which the manager listens, `/run/user/UID`.
    pub runtime_dir: PathBuf,
    /// Where its user's settings are: systemctl itself looks for units to enable there.
    pub config_home: PathBuf,
}

impl UserManager {
    /// The way to the manager of whom `facts` are about.
    ///
    /// # Errors
    /// Exit 127 without systemctl.
    pub fn of(facts: &SetupFacts) -> Result<Self, Error> {
        let missing = || Error::new(Exit::NotFound, "the program `systemctl` is not found");
        let config_home = facts.unit_dir.ancestors().nth(2);
        Ok(Self {
            systemctl: find("systemctl", facts).ok_or_else(missing)?,
            runtime_dir: facts.runtime_dir.clone(),
            config_home: config_home.unwrap_or(Path::new("/")).to_owned(),
        })
    }

    /// Runs `systemctl --user` with `words`, and returns what it says.
    ///
    /// # Errors
    /// What it says if it fails, what the system says, or that it takes longer than `time`.
    pub fn systemctl<S: AsRef<OsStr>>(
        &self,
        words: impl IntoIterator<Item = S>,
        time: Duration,
    ) -> io::Result<String> {
        process::succeed(self.command(&self.systemctl).arg("--user").args(words), time)
    }

    /// A program that asks this manager, whatever the shell's variables name.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env("XDG_RUNTIME_DIR", &self.runtime_dir)
            .env("XDG_CONFIG_HOME", &self.config_home)
            .env_remove("DBUS_SESSION_BUS_ADDRESS");
        command
    }

    /// Waits until a manager that has just come has started what it starts, the bus among it. One
    /// that takes longer is taken as it is then.
    pub fn settle(&self) {
        let _ = self.systemctl(["is-system-running", "--wait"], SOON);
    }

    /// The directories in which the manager looks for units; its variables may be others than those
    /// of a shell.
    pub fn unit_path(&self) -> Option<Vec<PathBuf>> {
        let paths = self.show(&[], &["UnitPath"])?;
        let paths = paths.first()?.first()?.split_whitespace().map(PathBuf::from);
        Some(paths.collect())
    }

    /// `properties` of `units`, or of the manager itself if there are none: a list of values for
    /// each unit in that order; `None` if no manager answers.
    pub fn show(&self, units: &[&str], properties: &[&str]) -> Option<Vec<Vec<String>>> {
        let mut words = vec!["show".to_owned()];
        words.extend(properties.iter().map(|name| format!("--property={name}")));
        words.extend(units.iter().map(|name| (*name).to_owned()));
        let text = self.systemctl(words, SOON).ok()?;
        // A unit a paragraph, and the properties in an order of the manager's.
        let value = |paragraph: &str, name: &str| {
            let mut lines = paragraph.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
        };
        let units = text.split("\n\n").map(|paragraph| {
            let values = properties.iter().map(|name| value(paragraph, name));
            values.map(Option::unwrap_or_default).collect()
        });
        Some(units.collect())
    }
}
