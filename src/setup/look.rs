//! Looks at what is installed for a user. Nothing is changed by looking, and nothing that is wrong
//! with the host or the settings is in the way: what is broken must come off, too.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tracing::warn;

use crate::check::survey;
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::{DaemonFacts, Directory, Kept, Manager, SetupFacts, UnitFacts, UnitFile};
use crate::facts::{ask, look};
use crate::plan;
use crate::setup::find_beside;
use crate::setup::manager::UserManager;
use crate::setup::perform::KEPT;
use crate::setup::{SERVICE, SOCKET, kept_parameters};
use crate::supervise;
use crate::sys::{files, process};

/// The largest unit in bytes that is read.
const UNIT_MAX: u64 = 256 * 1024;

/// What a unit does, as `ActiveState` has it, while its daemon is there or is to come.
const ACTIVE: [&str; 3] = ["active", "activating", "reloading"];

/// The programs that PATH decides on.
const PROGRAMS: [&str; 9] = [
    "containerd",
    "docker-rootlesskit",
    "dockerd",
    "iptables",
    "newuidmap",
    "pasta",
    "rootlesskit",
    "runc",
    "slirp4netns",
];

/// The names of this program by which it is another tool.
const OTHER_NAMES: [&str; 2] = ["dockerd-rootless.sh", "dockerd-rootless-setuptool.sh"];

/// The environment as a login of this user's would give it: under su(1) and sudo(8) variables are
/// missing, or are still those of somebody else (docker/docs#14491).
pub fn at_home(environment: &Environment) -> Environment {
    let uid = look::uid();
    let mut environment = environment.clone();
    let is_own = |path: &Path| fs::metadata(path).is_ok_and(|found| found.uid() == uid);
    let stated = environment.get("HOME").map(PathBuf::from);
    if !stated.as_deref().is_some_and(is_own)
        && let Some(home) = passwd(uid).and_then(|fields| fields.get(5).cloned())
        && (stated.is_none() || is_own(home.as_ref()))
    {
        if let Some(stated) = stated {
            warn!("HOME `{}` is not yours, as after `sudo`; `{home}` is taken", stated.display());
        }
        environment = environment.with("HOME", home);
    }
    let Some(own) = look::own_runtime_dir(uid) else {
        return environment;
    };
    let person = look::person(&environment);
    match person.runtime_dir.filter(|_| !person.runtime_dir_guessed) {
        Some((_, Directory::Present { owner, .. })) if owner == uid => return environment,
        Some((path, _)) => warn!(
            "XDG_RUNTIME_DIR `{}` is not yours, as after `su` and `sudo`; `{}` is taken",
            path.display(),
            own.display()
        ),
        None => {}
    }
    environment.with("XDG_RUNTIME_DIR", own)
}

/// The fields of the user's line among the accounts, be they in a file or a directory service.
fn passwd(uid: u32) -> Option<Vec<String>> {
    let own = |text: &str| {
        let mut lines = text.lines().map(|line| line.split(':').map(str::to_owned));
        lines.find(|fields| fields.clone().nth(2) == Some(uid.to_string())).map(Iterator::collect)
    };
    let file = fs::read("/etc/passwd").unwrap_or_default();
    own(&String::from_utf8_lossy(&file)).or_else(|| {
        let mut getent = Command::new("getent");
        let (_, text) = process::brief(getent.args(["passwd", &uid.to_string()])).ok()?;
        own(&text)
    })
}

/// The path by which units are to start this program, which was called by the word `called`: the
/// name that the user knows it by, which may be a link that an upgrade leads elsewhere.
///
/// # Errors
/// Exit 1 if all its names make it another tool.
pub fn own_program(environment: &Environment, called: &OsStr) -> Result<PathBuf, Error> {
    let failed = |error: &io::Error| {
        Error::new(Exit::Failed, "`/proc/self/exe` cannot be read").because(error)
    };
    let real = std::env::current_exe().map_err(|error| failed(&error))?;
    let (path, _) = plan::search_path(environment);
    let called = match called.as_bytes().contains(&b'/') {
        true => std::path::absolute(called).ok(),
        false => which::which_in(called, Some(path), "/").ok(),
    };
    let is_other = |path: &Path| {
        path.file_name().is_some_and(|name| OTHER_NAMES.iter().any(|other| name == *other))
    };
    let named = called.map(|path| match is_other(&path) {
        true => path.with_file_name("dockerd-rootless"),
        false => path,
    });
    let is_it = |path: &PathBuf| path.canonicalize().is_ok_and(|found| found == real);
    let program = named.filter(is_it).unwrap_or(real);
    if is_other(&program) {
        let what = format!("under the name `{}` the program is another tool", program.display());
        let beside = program.with_file_name("dockerd-rootless");
        return Err(Error::new(Exit::Failed, what).hint(format!(
            "mv {0} {1} && ln -s dockerd-rootless {0}",
            program.display(),
            beside.display()
        )));
    }
    Ok(program)
}

/// Looks.
///
/// # Errors
/// Exit 1 for root, exit 4 without a home; what [`own_program`] says.
pub fn look(environment: &Environment, called: &OsStr) -> Result<SetupFacts, Error> {
    let person = look::person(environment);
    plan::refuse_root(&person)?;
    plan::refuse_home(&person)?;
    let home = environment.get("HOME").map(PathBuf::from).unwrap_or_default();
    let uid = person.uid;
    let (search_path, _) = plan::search_path(environment);
    let program = own_program(environment, called)?;
    let find = |name: &str| find_beside(name, &search_path, &program);
    let own_runtime_dir = look::own_runtime_dir(uid);
    let manager = find("systemctl").zip(own_runtime_dir.clone());
    let manager = manager.map(|(systemctl, runtime_dir)| UserManager {
        systemctl,
        runtime_dir,
        config_home: environment.config_home().unwrap_or_default(),
    });
    let shown = manager.as_ref().and_then(|manager| {
        manager.settle();
        manager
            .show(&[SERVICE, SOCKET, "dbus.socket"], &["ActiveState", "FragmentPath", "LoadState"])
    });
    let booted = Path::new("/run/systemd/system").exists();
    let state = match (&shown, booted) {
        (Some(_), _) => Manager::Answers,
        (None, true) => Manager::Silent,
        (None, false) => Manager::Absent,
    };
    // A manager's units have its directory, whatever the shell says.
    let stated = person.runtime_dir.map(|(path, _)| path);
    let default = PathBuf::from(format!("/run/user/{uid}"));
    let runtime_dir =
        own_runtime_dir.filter(|_| state == Manager::Answers).or(stated).unwrap_or(default);

    let unit_dir = environment.config_home().unwrap_or_default().join("systemd/user");
    let default_dir = home.join(".config/systemd/user");
    let read = manager.as_ref().and_then(UserManager::unit_path);
    let reads = |directory: &Path| {
        read.as_ref().is_none_or(|read| read.iter().any(|path| path == directory))
    };
    let unit_dir = match reads(&unit_dir) || !reads(&default_dir) {
        true => unit_dir,
        false => {
            warn!(
                "the user manager reads no units in `{}`, so `{}` is taken",
                unit_dir.display(),
                default_dir.display()
            );
            default_dir
        }
    };
    let none = vec![Vec::new(); 3];
    let shown = shown.unwrap_or(none);
    let value = |unit: usize, property: usize| {
        let values = shown.get(unit).and_then(|values| values.get(property));
        values.map_or("", String::as_str)
    };
    let unit = |number: usize, name: &str| {
        let links = links(&unit_dir, name);
        let fragment = Some(PathBuf::from(value(number, 1))).filter(|path| path.is_absolute());
        UnitFacts {
            own: read_unit(&unit_dir.join(name)),
            beside: read_unit(&crate::setup::beside(&unit_dir.join(name))),
            packaged: fragment
                .filter(|path| !path.starts_with(&unit_dir))
                .and_then(|path| packaged(path, name)),
            enabled: !links.is_empty()
                || !self::links("/etc/systemd/user".as_ref(), name).is_empty(),
            links,
            active: ACTIVE.contains(&value(number, 0)),
        }
    };
    let (service, socket) = (unit(0, SERVICE), unit(1, SOCKET));
    let kept_path = match &service.own {
        UnitFile::Text(text) => kept_parameters(text).0.map(OsString::from),
        _ => None,
    };
    let kept_path = kept_path.filter(|kept| leads_to_the_same(kept, &search_path));
    let user = passwd(uid).and_then(|fields| fields.into_iter().next());
    let user = user.unwrap_or_else(|| uid.to_string());
    // As systemd names its files.
    let linger = Path::new("/var/lib/systemd/linger").join(user.replace('\\', "\\x5c"));
    // To connect to a socket of the manager's starts the daemon.
    let would_start = socket.active && !service.active;
    Ok(SetupFacts {
        linger: (state != Manager::Absent && booted).then(|| linger.exists()),
        has_sudo: find("sudo").is_some(),
        has_dbus: value(2, 2) == "loaded",
        client: survey::docker_client(
            find("docker").as_deref(),
            environment.docker_config().as_deref(),
        ),
        kept: read_kept(environment),
        answers: environment
            .cache_home()
            .map(|home| home.join(ask::ANSWERS))
            .filter(|path| path.exists()),
        daemon: daemon(&runtime_dir, service.active, would_start),
        user,
        home,
        runtime_dir,
        manager: state,
        program,
        search_path,
        kept_path,
        unit_dir,
        service,
        socket,
    })
}

/// Whether two PATHs lead to the same programs of a launch, by whatever name of a directory.
fn leads_to_the_same(one: &OsStr, other: &OsStr) -> bool {
    let find = |name: &str, path: &OsStr| {
        let found = which::which_in(name, Some(path), "/").ok()?;
        found.canonicalize().ok()
    };
    PROGRAMS.iter().all(|name| find(name, one) == find(name, other))
}

fn read_unit(path: &Path) -> UnitFile {
    let other = |what: &str| UnitFile::Other(what.to_owned());
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => UnitFile::Absent,
        Err(error) => other(&format!("not to be looked at ({error})")),
        Ok(metadata) if metadata.is_symlink() => match fs::read_link(path) {
            Ok(end) if end == Path::new("/dev/null") => UnitFile::Masked,
            Ok(end) => other(&format!("a link to `{}`", end.display())),
            Err(error) => other(&format!("a link that cannot be read ({error})")),
        },
        Ok(_) => {
            match files::read_regular(path, UNIT_MAX).map(|bytes| bytes.map(String::from_utf8)) {
                Ok(Some(Ok(text))) => UnitFile::Text(text),
                Ok(Some(Err(_))) => other("not UTF-8 text"),
                Ok(None) => other("larger than a unit"),
                Err(error) => other(&format!("not to be read ({error})")),
            }
        }
    }
}

/// The unit of a package or of the administrator, if it is one for this program.
fn packaged(path: PathBuf, name: &str) -> Option<(PathBuf, String)> {
    let bytes = files::read_regular(&path, UNIT_MAX).ok()??;
    let text = String::from_utf8(bytes).ok()?;
    let is_ours = |line: &str| match name {
        SERVICE => line
            .strip_prefix("ExecStart=")
            .and_then(|words| words.split_whitespace().next())
            .is_some_and(|program| program.trim_matches('"').ends_with("/dockerd-rootless")),
        _ => line == "ListenStream=%t/docker.sock",
    };
    text.lines().any(|line| is_ours(line.trim())).then_some((path, text))
}

/// The links below `directory` that start a unit with others.
fn links(directory: &Path, name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let is_of_links = |path: &PathBuf| {
        let extension = path.extension().and_then(OsStr::to_str);
        extension.is_some_and(|extension| ["wants", "requires"].contains(&extension))
    };
    let mut links: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(is_of_links)
        .map(|path| path.join(name))
        .filter(|path| fs::symlink_metadata(path).is_ok())
        .collect();
    links.sort();
    links
}

/// The daemon in this session. `runs` says whether its unit does, and `would_start` whether a
/// connection would start it.
fn daemon(runtime_dir: &Path, runs: bool, would_start: bool) -> DaemonFacts {
    let status = supervise::read_status(&plan::run_dir(runtime_dir));
    let socket = socket(runtime_dir);
    let answers = !would_start && supervise::answers(&socket);
    DaemonFacts {
        // A daemon may be slow, or listen where nothing tells.
        busy: match answers {
            true => supervise::runs_containers(&socket),
            false => runs || status.is_some(),
        },
        outdated: status
            .as_ref()
            .is_some_and(|status| !supervise::newer_programs(status).is_empty()),
        keeps_containers: status.as_ref().is_some_and(|status| status.keeps_containers),
        supervisor: status.map(|status| status.supervisor),
        answers,
    }
}

/// Where the daemon is asked: at the socket that its supervisor names, or at the usual one.
pub(super) fn socket(runtime_dir: &Path) -> PathBuf {
    let status = supervise::read_status(&plan::run_dir(runtime_dir));
    let named = status.and_then(|status| status.socket);
    named.unwrap_or_else(|| runtime_dir.join("docker.sock"))
}

fn read_kept(environment: &Environment) -> Kept {
    let path = environment.data_home().map(|home| home.join(KEPT));
    let bytes = path.and_then(|path| files::read_regular(&path, UNIT_MAX).ok()?);
    bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
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
        // Nobody accepts any more.
        drop(UnixListener::bind(directory.path().join("docker.sock")).expect("a socket"));
        assert!(busy(true));
        assert!(!busy(false));
    }
}
