//! Where everything of a launch is: computed once, from the settings and the environment.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::environment::Environment;
use crate::facts::{DaemonJson, RootlesskitFacts};
use crate::settings::{Flags, Settings};

/// The paths of a launch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places {
    /// Empty if there is none.
    pub runtime_dir: PathBuf,
    /// rootlesskit's.
    pub state_dir: PathBuf,
    pub containerd_rootless: PathBuf,
    /// dockerd's configuration file.
    pub daemon_json: PathBuf,
    /// dockerd's.
    pub pid_file: PathBuf,
    /// The daemon's state while it runs, containerd's included.
    pub exec_root: PathBuf,
    /// Images, containers and volumes.
    pub data_root: PathBuf,
}

impl Places {
    /// Finds the places: dockerd's arguments say so, else `daemon.json`, which `read` reads, else
    /// the defaults that dockerd has in rootlesskit (moby's `homedir` and `config_unix.go`).
    pub fn find(
        settings: &Settings,
        rootlesskit: Option<&RootlesskitFacts>,
        environment: &Environment,
        runtime_dir: PathBuf,
        read: impl FnOnce(&Path) -> DaemonJson,
    ) -> (Self, DaemonJson) {
        let args = settings.args();
        let explicit = args.value("config-file").map(PathBuf::from);
        let config_home = || Some(environment.config_home()?.join("docker/daemon.json"));
        let daemon_json = explicit.or_else(config_home).unwrap_or_default();
        let json = read(&daemon_json);
        let place = |name: &str, default: PathBuf| {
            let explicit = args.value(name).map(PathBuf::from);
            explicit.or_else(|| json.text(name).map(PathBuf::from)).unwrap_or(default)
        };
        let containerd_rootless = environment.get("CONTAINERD_ROOTLESS_ROOTLESSKIT_STATE_DIR");
        let data_home = environment.data_home().unwrap_or_default();
        let places = Self {
            state_dir: state_dir(settings, rootlesskit, &runtime_dir),
            containerd_rootless: containerd_rootless
                .map_or_else(|| runtime_dir.join("containerd-rootless"), PathBuf::from),
            pid_file: place("pidfile", runtime_dir.join("docker.pid")),
            exec_root: place("exec-root", runtime_dir.join("docker")),
            data_root: place("data-root", data_home.join("docker")),
            daemon_json,
            runtime_dir,
        };
        (places, json)
    }

    /// The directory of containerd that dockerd starts, or we in its place.
    pub fn containerd(&self) -> PathBuf {
        self.exec_root.join("containerd")
    }
}

/// rootlesskit's state directory: its own flag in `rootlesskit.flags` comes after ours and counts.
pub fn state_dir(
    settings: &Settings,
    rootlesskit: Option<&RootlesskitFacts>,
    runtime_dir: &Path,
) -> PathBuf {
    let flags = flags(settings, rootlesskit);
    let explicit = flags.value("state-dir").or(settings.state_dir.value.as_deref());
    explicit.map_or_else(|| runtime_dir.join("dockerd-rootless"), PathBuf::from)
}

/// Reads the user's own flags for `rootlesskit`, as that does.
pub fn flags<'a>(settings: &'a Settings, rootlesskit: Option<&RootlesskitFacts>) -> Flags<'a> {
    Flags::of_rootlesskit(&settings.rootlesskit_flags.value, |name| {
        rootlesskit.is_some_and(|facts| facts.flags.get(name) == Some(&false))
    })
}

/// The runtime directory that systemd-logind makes for a user.
pub fn user_runtime_dir(uid: u32) -> PathBuf {
    PathBuf::from(format!("/run/user/{uid}"))
}

/// Where the API is unless the user says otherwise.
pub fn api_socket(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("docker.sock")
}

/// Our own directory while a supervisor runs.
pub fn run_dir(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("dockerd-rootless.run")
}

/// Where the daemon tells the supervisor that it is ready.
pub fn notify_socket(runtime_dir: &Path) -> PathBuf {
    run_dir(runtime_dir).join("notify")
}

/// Our configuration file for dockerd.
pub fn daemon_config(runtime_dir: &Path) -> PathBuf {
    run_dir(runtime_dir).join("daemon.json")
}

/// Returns the address of a socket as clients take it: `unix://PATH`.
pub fn unix_url(socket: &Path) -> OsString {
    let mut url = OsString::from("unix://");
    url.push(socket);
    url
}

/// Directories that Debian leaves out of users' PATH and that hold iptables and dockerd.
const SBIN: [&str; 2] = ["/usr/sbin", "/sbin"];

/// PATH when there is none, as the kernel's init and systemd have it.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Returns PATH with the directories of [`SBIN`] that it lacks behind its own, and which these are.
pub fn search_path(environment: &Environment) -> (OsString, Vec<&'static str>) {
    let Some(path) = environment.get("PATH") else {
        return (DEFAULT_PATH.into(), SBIN.to_vec());
    };
    let parts = path.as_bytes().split(|byte| *byte == b':');
    let present: Vec<&Path> = parts.map(|part| Path::new(OsStr::from_bytes(part))).collect();
    let missing: Vec<&str> =
        SBIN.into_iter().filter(|sbin| !present.contains(&Path::new(sbin))).collect();
    let mut extended = path.to_owned();
    for directory in &missing {
        extended.push(":");
        extended.push(directory);
    }
    (extended, missing)
}
