//! Looks at what is installed for a user, also under su(1) and sudo(8), where variables are missing or
//! still another user's (docker/docs#14491). Nothing is changed, and nothing that is wrong with the
//! host or the settings stops it: what is broken must be removable, too.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{self, Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tracing::warn;

use crate::check::survey;
use crate::environment::Environment;
use crate::error::Error;
use crate::facts::{look, places};
use crate::setup::facts::{DaemonFacts, Home, Manager, SetupFacts, UnitFacts};
use crate::setup::units::{SERVICE, SOCKET};
use crate::sys::{elevate, process};
use crate::{plan, supervise};

/// How long the user manager may take for what starts and stops nothing.
const SOON: Duration = Duration::from_secs(30);

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
        let set = environment.get(name).map(PathBuf::from);
        let is_wrong = |own: &PathBuf| set.as_deref().is_none_or(|set| !is_own(set) && is_own(own));
        let Some(own) = own.filter(is_wrong) else { continue };
        if let Some(set) = set {
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

/// Looks.
pub fn inspect(mut home: Home) -> SetupFacts {
    let booted = Path::new("/run/systemd/system").exists();
    let manager = match home.property(None, "UnitPath") {
        Some(read) => {
            follow_manager(&mut home, &read);
            Manager::Answers
        }
        None if booted => Manager::Silent,
        None => Manager::Absent,
    };
    let [service, socket] = [SERVICE, SOCKET].map(|name| read_unit(&home, name));
    // As systemd names its files.
    let linger = Path::new("/var/lib/systemd/linger").join(home.user.replace('\\', "\\x5c"));
    let environment = &home.environment;
    let data_home = environment.data_home().unwrap_or_default();
    let previous = data_home.join("dockerd-rootless/previous-context");
    let docker = home.program("docker");
    SetupFacts {
        manager,
        ends_at_logout: booted && !linger.exists(),
        has_sudo: elevate::has_sudo(&home.search_path),
        client: survey::docker_client(docker.as_deref(), environment.docker_config().as_deref()),
        previous_context: (previous.clone(), fs::read_to_string(previous).ok()),
        // A connection to a socket of the manager's starts the daemon.
        daemon: daemon(&home.runtime_dir, service.active, socket.active && !service.active),
        service,
        socket,
        home,
    }
}

/// Takes the directories of the user manager, which reads units in those of `read`: its units have
/// them, whatever the shell says.
fn follow_manager(home: &mut Home, read: &str) {
    home.runtime_dir = places::user_runtime_dir(home.uid);
    let places = [home.config_home.clone(), home.dir.join(".config")];
    let is_read = |place: &PathBuf| {
        let units = place.join("systemd/user");
        read.split_whitespace().any(|directory| Path::new(directory) == units)
    };
    home.config_home = places.iter().find(|place| is_read(place)).unwrap_or(&places[0]).clone();
}

fn read_unit(home: &Home, name: &str) -> UnitFacts {
    let unit_dir = home.unit_dir();
    let property = |property| home.property(Some(name), property).unwrap_or_default();
    let fragment = PathBuf::from(property("FragmentPath"));
    let targets = ["default.target.wants", "sockets.target.wants"];
    let links = targets.map(|target| unit_dir.join(target).join(name)).into_iter();
    UnitFacts {
        own: read_file(&unit_dir.join(name)),
        // Both templates say so; a package's units have no stamp.
        packaged: !fragment.starts_with(&unit_dir)
            && fs::read_to_string(&fragment)
                .is_ok_and(|text| text.contains(" `dockerd-rootless install")),
        links: links.filter(|link| link.is_symlink()).collect(),
        active: ["active", "activating", "reloading"].contains(&&*property("ActiveState")),
    }
}

fn read_file(path: &Path) -> Option<String> {
    match path.symlink_metadata().ok()?.is_file() {
        true => Some(fs::read_to_string(path).unwrap_or_default()),
        false => Some(String::new()),
    }
}

/// Looks at the daemon of this session. `runs` says whether its unit does, and `would_start` whether
/// a connection would start it.
fn daemon(runtime_dir: &Path, runs: bool, would_start: bool) -> DaemonFacts {
    let status = supervise::read_status(&places::run_dir(runtime_dir));
    let socket = socket(runtime_dir);
    let answers = !would_start && supervise::answers(&socket);
    // A daemon may be slow, or listen where nothing tells.
    let may_be_busy = runs || status.is_some();
    let known = status.as_ref();
    DaemonFacts {
        busy: if answers { supervise::runs_containers(&socket) } else { may_be_busy },
        outdated: known.is_some_and(|status| !supervise::newer_programs(status).is_empty()),
        keeps_containers: known.is_some_and(|status| status.keeps_containers),
        supervisor: known.map(|status| status.supervisor),
        answers,
    }
}

/// Returns the socket that the supervisor names, or the usual one.
pub fn socket(runtime_dir: &Path) -> PathBuf {
    let status = supervise::read_status(&places::run_dir(runtime_dir));
    let named = status.and_then(|status| status.socket);
    named.unwrap_or_else(|| places::api_socket(runtime_dir))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_daemon_that_does_not_answer_is_busy_while_its_unit_runs() {
        let directory = tempfile::tempdir().expect("a directory");
        let busy = |runs| daemon(directory.path(), runs, false).busy;
        // It listens elsewhere.
        assert!(busy(true));
        assert!(!busy(false));
        // It accepts no connections any more.
        drop(UnixListener::bind(directory.path().join("docker.sock")).expect("a socket"));
        assert!(busy(true));
        assert!(!busy(false));
    }
}
