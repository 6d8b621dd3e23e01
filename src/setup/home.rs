//! The user's home, program and user manager, also under su(1) and sudo(8), where variables are
//! missing or still another user's (docker/docs#14491).

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{self, Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tracing::warn;

use crate::environment::Environment;
use crate::error::Error;
use crate::facts::{look, places};
use crate::plan;
use crate::setup::facts::Home;
use crate::sys::process;

/// How long the user manager may take for what starts and stops nothing.
pub const SOON: Duration = Duration::from_secs(30);

impl Home {
    /// Finds the home of the user who called this program by the word `called`. Refuses root (exit
    /// 1) and a user without a home (exit 4).
    pub fn find(environment: &Environment, called: &OsStr) -> Result<Self, Error> {
        let uid = look::uid();
        let (user, home) = account(uid).unwrap_or_else(|| (uid.to_string(), None));
        let environment = at_login(environment.clone(), uid, home);
        let person = look::person(&environment);
        plan::refuse_root(&person)?;
        plan::refuse_home(&person)?;
        let (search_path, _) = places::search_path(&environment);
        Ok(Self {
            uid,
            user,
            dir: environment.get("HOME").map(PathBuf::from).unwrap_or_default(),
            runtime_dir: person
                .runtime_dir
                .map_or_else(|| places::user_runtime_dir(uid), |(path, _)| path),
            config_home: environment.config_home().unwrap_or_default(),
            program: own_program(&search_path, called),
            search_path,
            environment,
        })
    }

    /// Returns the path of the program `name`: in PATH, or beside this program, whose directory a
    /// shell need not have in its PATH yet.
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        let found = which::which_in(name, Some(&self.search_path), "/").ok();
        found.or_else(|| Some(self.program.with_file_name(name)).filter(|beside| beside.is_file()))
    }

    /// Returns the directory of the user's own units.
    pub fn unit_dir(&self) -> PathBuf {
        self.config_home.join("systemd/user")
    }

    /// Returns a tool that talks to the user manager and the user's own client settings, whatever the
    /// shell's variables say.
    pub fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(self.program(name).unwrap_or_else(|| name.into()));
        command
            .env("HOME", &self.dir)
            .env("XDG_RUNTIME_DIR", places::user_runtime_dir(self.uid))
            .env("XDG_CONFIG_HOME", &self.config_home)
            .env("DOCKER_CONTEXT", "default")
            .env_remove("DOCKER_HOST")
            .env_remove("DBUS_SESSION_BUS_ADDRESS");
        command
    }

    pub fn systemctl(&self, verb: &str) -> Command {
        let mut command = self.tool("systemctl");
        command.args(["--user", verb]);
        command
    }

    /// Returns a property of `unit`, or of the manager itself; `None` if no manager answers.
    pub fn property(&self, unit: Option<&str>, name: &str) -> Option<String> {
        let mut show = self.systemctl("show");
        let said = process::succeed(show.args(["--value", "--property", name]).args(unit), SOON);
        said.ok().map(|value| value.trim().to_owned())
    }
}

/// Corrects the environment's home and runtime directory to those of a login.
fn at_login(mut environment: Environment, uid: u32, home: Option<PathBuf>) -> Environment {
    let is_own = |path: &Path| fs::metadata(path).is_ok_and(|found| found.uid() == uid);
    for (name, own) in [("HOME", home), ("XDG_RUNTIME_DIR", look::own_runtime_dir(uid))] {
        let Some(own) = own else { continue };
        let set = environment.get(name).map(PathBuf::from);
        if let Some(set) = set {
            if is_own(&set) || !is_own(&own) {
                continue;
            }
            let (set, own) = (set.display(), own.display());
            warn!("{name} `{set}` is not yours, as after `su` or `sudo`; using `{own}`");
        }
        environment = environment.with(name, own);
    }
    environment
}

/// Returns the user's name and home (passwd(5)), from the file or a directory service.
fn account(uid: u32) -> Option<(String, Option<PathBuf>)> {
    let uid = uid.to_string();
    let asked = process::brief(Command::new("getent").args(["passwd", &uid]));
    let text = asked.map(|(_, text)| text).or_else(|_| fs::read_to_string("/etc/passwd")).ok()?;
    let mut accounts = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let fields = accounts.find(|fields| fields.get(2) == Some(&uid.as_str()))?;
    Some((fields[0].to_owned(), fields.get(5).map(PathBuf::from)))
}

/// Returns the path by which units start this program: the name that the user knows, which may be a
/// link that an upgrade points elsewhere.
fn own_program(search_path: &OsStr, called: &OsStr) -> PathBuf {
    let directory = env::current_dir().unwrap_or_default();
    let found = which::which_in(called, Some(search_path), directory).ok();
    let mut named = found.and_then(|found| path::absolute(found).ok()).unwrap_or_default();
    if named.extension() == Some("sh".as_ref()) {
        // By this name of upstream's, it is another tool.
        named.set_file_name("dockerd-rootless");
    }
    match env::current_exe() {
        Ok(real) if !named.canonicalize().is_ok_and(|found| found == real) => real,
        _ => named,
    }
}
