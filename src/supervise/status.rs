//! What the supervisor knows, in the file that `status` reads.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// All that `status` tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// `starting`, `ready`, `degraded` (what is wrong is in `problems`), `healing` (the network helper
    /// is being started again), `replacing` (dockerd alone is being started again), `restarting`
    /// (everything is) or `stopping`.
    pub state: String,
    /// Since when it is in this state, in seconds since 1970.
    pub since: u64,
    /// The PID of the supervisor.
    pub supervisor: u32,
    /// The PID of rootlesskit.
    pub rootlesskit: Option<u32>,
    /// The PID of the keeper, our process in the namespaces.
    pub keeper: Option<u32>,
    /// The PID of the daemon.
    pub dockerd: Option<u32>,
    /// The PID of the daemon's containerd.
    pub containerd: Option<u32>,
    /// The PID of the network helper.
    pub helper: Option<u32>,
    /// The daemon's socket, if it is known.
    pub socket: Option<PathBuf>,
    /// Who keeps that socket: `supervisor`, `service manager` or `dockerd`.
    pub socket_of: String,
    /// The network driver.
    pub network_driver: String,
    /// The port driver.
    pub port_driver: String,
    /// What the daemon says of its version.
    pub dockerd_version: Option<String>,
    /// rootlesskit's version.
    pub rootlesskit_version: Option<String>,
    /// Whether containers go on running while dockerd is replaced.
    pub keeps_containers: bool,
    /// What is wrong while the daemon runs, a sentence each.
    pub problems: Vec<String>,
    /// How often everything was started again, containers included.
    pub restarts: u32,
    /// How often dockerd alone was started again.
    pub replaced: u32,
    /// How often the network helper was started again.
    pub heals: u32,
    /// Why the daemon ended the last time, or the network helper.
    pub last_failure: Option<String>,
    /// When that was, in seconds since 1970.
    pub last_failure_at: Option<u64>,
    /// The files of the programs that run.
    pub programs: Vec<ProgramFile>,
}

impl Status {
    /// Whether the daemon takes orders: what is degraded or healing does.
    pub fn is_ready(&self) -> bool {
        ["ready", "degraded", "healing"].contains(&self.state.as_str())
    }
}

/// A program's file, as it was when it was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramFile {
    /// Which program it is: `rootlesskit`, `dockerd`, `containerd`, or `supervisor`, which is this one.
    #[serde(default)]
    pub part: String,
    /// Its path.
    pub path: PathBuf,
    /// The file system that it is on.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// When it was last changed, in nanoseconds since 1970.
    pub changed: i128,
}
