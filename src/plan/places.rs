//! Where dockerd keeps its things: its words say so, else `daemon.json`, else the defaults that it
//! has when it runs in rootlesskit (moby's `homedir` and `config_unix.go`).

use std::path::{Path, PathBuf};

use crate::environment::Environment;
use crate::facts::DaemonJson;
use crate::plan::flags::DockerdWords;

/// The daemon's places.
pub struct Places {
    /// Its pid file.
    pub pid_file: PathBuf,
    /// Its state while it runs, containerd's included.
    pub exec_root: PathBuf,
    /// Images, containers and volumes.
    pub data_root: PathBuf,
}

impl Places {
    /// Finds them.
    pub fn find(
        words: DockerdWords<'_>,
        json: &DaemonJson,
        environment: &Environment,
        runtime_dir: &Path,
    ) -> Self {
        let place = |name: &str, letter: Option<u8>, default: PathBuf| {
            let stated = words.value(name, letter).map(PathBuf::from);
            stated.or_else(|| json.text(name).map(PathBuf::from)).unwrap_or(default)
        };
        let data_home = environment.data_home().unwrap_or_default();
        Self {
            pid_file: place("pidfile", Some(b'p'), runtime_dir.join("docker.pid")),
            exec_root: place("exec-root", None, runtime_dir.join("docker")),
            data_root: place("data-root", Some(b'g'), data_home.join("docker")),
        }
    }
}

/// The daemon's configuration file.
pub fn daemon_json(words: DockerdWords<'_>, environment: &Environment) -> PathBuf {
    let stated = words.long("config-file").flatten().map(PathBuf::from);
    let default = || Some(environment.config_home()?.join("docker/daemon.json"));
    stated.or_else(default).unwrap_or_default()
}
