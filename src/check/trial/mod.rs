//! Tries what a launch needs, so that nothing is left behind.

pub mod inside;
pub mod parts;
mod scratch;
mod whole;

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{AccessFlags, access};

use crate::check::survey::Survey;
use crate::check::trials::{Failure, Outcome, RootfulSocket, Trials};
use crate::environment::Environment;
use crate::facts::{DaemonJson, HostFacts, Tool, places};
use crate::settings::Settings;
use crate::sys::{files, process, unix_sockets};
use parts::Ids;

/// The rootful daemon's socket.
const ROOTFUL_SOCKET: &str = "/var/run/docker.sock";

/// Tries everything for a launch: rootlesskit as a whole and, if that does not work, its parts.
pub fn run(
    settings: &Settings,
    environment: &Environment,
    host: &HostFacts,
    survey: &Survey,
) -> Trials {
    let (search_path, _) = places::search_path(environment);
    let ids = ["newuidmap", "newgidmap"].map(|name| Ids::look(name, &search_path, survey));
    let (rootlesskit, inside) = whole::run(settings, environment, host, survey);
    // AppArmor goes by the path of the program: rootlesskit counts, not this program.
    let [user_namespace, uid_map, gid_map] = match &rootlesskit {
        Outcome::Works => [(); 3].map(|()| Outcome::Works),
        _ => parts::run(&ids),
    };
    let [uids, gids] = ids;
    let person = &host.session.person;
    let manager = places::user_runtime_dir(survey.account.uid);
    let bus = bus_path(environment).unwrap_or_else(|| manager.join("bus"));
    let open = |path: &str| tried(OpenOptions::new().read(true).write(true).open(path).map(drop));
    let can_write = |path: &Path| access(path, AccessFlags::W_OK).is_ok();
    Trials {
        user_namespace,
        uid_map,
        gid_map,
        newuidmap: uids.program,
        newgidmap: gids.program,
        getsubids_uid: uids.getsubids,
        getsubids_gid: gids.getsubids,
        rootlesskit,
        inside,
        tun: open("/dev/net/tun"),
        fuse: open("/dev/fuse"),
        bus: listens(&bus),
        manager: listens(&manager.join("systemd/private")),
        rootful_socket: rootful_socket(survey),
        home_writable: person.home.as_ref().is_some_and(|(home, _)| can_write(home)),
        data_root_writable: is_usable(&survey.data_root.base),
        data_root_free: files::free(&survey.data_root.base),
        runtime_dir_free: person.runtime_dir.as_ref().and_then(|(path, _)| files::free(path)),
        validate: validate(settings, &search_path, host),
        open_files: getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(_, hard)| hard),
        fuse_overlayfs: which::which_in("fuse-overlayfs", Some(search_path), "/").ok(),
    }
}

/// Returns the bus's socket by `DBUS_SESSION_BUS_ADDRESS`.
fn bus_path(environment: &Environment) -> Option<PathBuf> {
    let address = environment.get("DBUS_SESSION_BUS_ADDRESS")?.to_str()?;
    let path = address.strip_prefix("unix:path=")?;
    Some(path.split([',', ';']).next()?.into())
}

/// Asks the kernel whether a process listens on the socket `path`: a connection would start the unit
/// that systemd keeps it for.
fn listens(path: &Path) -> Outcome {
    match unix_sockets::table() {
        _ if !path.exists() => Outcome::fails(format!("`{}` does not exist", path.display())),
        Err(error) => Outcome::NotTried(error.to_string()),
        Ok(table) if unix_sockets::listens(&table, path) => Outcome::Works,
        Ok(_) => Outcome::fails(format!("no process listens on `{}`", path.display())),
    }
}

fn rootful_socket(survey: &Survey) -> Option<RootfulSocket> {
    let path = Path::new(ROOTFUL_SOCKET);
    let metadata = fs::metadata(path).ok()?;
    let group = survey.account.all_groups.get(&metadata.gid());
    Some(RootfulSocket {
        writable: access(path, AccessFlags::W_OK).is_ok(),
        mode: metadata.mode() & 0o7777,
        group: group.cloned().unwrap_or_else(|| metadata.gid().to_string()),
        path: path.to_owned(),
    })
}

/// Asks dockerd whether it accepts its configuration file beside its arguments; versions before 23
/// cannot tell.
fn validate(settings: &Settings, search_path: &OsStr, host: &HostFacts) -> Outcome {
    let session = &host.session;
    let Tool::Found { facts, path } = &host.tools.dockerd else {
        return Outcome::default();
    };
    if session.daemon_json == DaemonJson::Absent || !facts.has_flag("validate") {
        return Outcome::default();
    }
    let mut command = Command::new(path);
    command.args(&settings.dockerd_args).arg("--validate");
    command.arg("--config-file").arg(&session.places.daemon_json);
    // It also looks for docker-proxy, as it will when it starts.
    match process::brief(command.env("PATH", search_path)) {
        Ok((status, _)) if status.success() => Outcome::Works,
        Ok((_, text)) => Outcome::fails(text.trim()),
        // It may only be slow.
        Err(error) => Outcome::NotTried(error.to_string()),
    }
}

fn is_usable(directory: &Path) -> bool {
    access(directory, AccessFlags::W_OK | AccessFlags::X_OK).is_ok()
}

/// Returns what came of a system call.
fn tried(result: Result<(), impl Into<io::Error>>) -> Outcome {
    result.map_or_else(|error| failure(&error.into()), |()| Outcome::Works)
}

fn failure(error: &io::Error) -> Outcome {
    Outcome::Fails(Failure {
        errno: error.raw_os_error().map(|code| format!("{:?}", Errno::from_raw(code))),
        text: error.to_string(),
    })
}

/// Runs `command`, and returns what it complains of in its first line, after what modprobe(8) says: a
/// user's iptables calls it in vain, and goes on.
fn succeeds(command: &mut Command) -> Outcome {
    let (status, text) = match process::brief(command) {
        Err(error) => return failure(&error),
        Ok((status, _)) if status.success() => return Outcome::Works,
        Ok(ended) => ended,
    };
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let said = lines.find(|line| !line.starts_with("modprobe: "));
    Outcome::fails(said.map_or_else(|| status.to_string(), str::to_owned))
}
