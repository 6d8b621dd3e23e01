//! What is installed for a user, and what there is to install it with.

use std::ffi::OsString;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::facts::DockerClient;

/// Everything that an installation looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetupFacts {
    /// The user's name, or number if nothing tells the name.
    pub user: String,
    /// The home.
    pub home: PathBuf,
    /// Where the daemon's socket is to be.
    pub runtime_dir: PathBuf,
    /// Who starts units.
    pub manager: Manager,
    /// Whether the user manager stays without a session; `None` if that cannot be known.
    pub linger: Option<bool>,
    /// Whether there is a sudo(8).
    pub has_sudo: bool,
    /// Whether the user manager has a unit `dbus.socket`.
    pub has_dbus: bool,
    /// This program, by the path that is to stand in the unit.
    pub program: PathBuf,
    /// The PATH of the shell that asks.
    pub search_path: OsString,
    /// The PATH of the installed service, if it leads to the same programs.
    pub kept_path: Option<OsString>,
    /// Where the user's own units are.
    pub unit_dir: PathBuf,
    /// `docker.service`.
    pub service: UnitFacts,
    /// `docker.socket`.
    pub socket: UnitFacts,
    /// The daemon that runs.
    pub daemon: DaemonFacts,
    /// The docker client's settings.
    pub client: DockerClient,
    /// What an earlier installation has noted.
    pub kept: Kept,
    /// The file in which programs' answers are kept, if there is one.
    pub answers: Option<PathBuf>,
}

/// Who starts units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manager {
    /// A user manager that answers.
    Answers,
    /// None answers, on a host that was booted with systemd.
    Silent,
    /// This host has no systemd.
    Absent,
}

/// A unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnitFacts {
    /// The user's own file.
    pub own: UnitFile,
    /// What stands beside it under the name with `.new`.
    pub beside: UnitFile,
    /// The text of the file that a package or the administrator has put among the units of users.
    pub packaged: Option<(PathBuf, String)>,
    /// The user's links that start it with others.
    pub links: Vec<PathBuf>,
    /// Whether it is started with others, be it by such a link or by the administrator's.
    pub enabled: bool,
    /// Whether it runs, or is about to.
    pub active: bool,
}

/// What stands where a unit's file is looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum UnitFile {
    /// Nothing.
    #[default]
    Absent,
    /// A file with this text.
    Text(String),
    /// A link to `/dev/null`: the unit is masked (systemctl(1)).
    Masked,
    /// A link to this file, or something else that is not a file with text.
    Other(String),
}

/// The daemon that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DaemonFacts {
    /// The PID of a supervisor.
    pub supervisor: Option<u32>,
    /// Whether the programs on disk are others than those that run.
    pub outdated: bool,
    /// Whether containers go on running while dockerd and the supervisor are replaced.
    pub keeps_containers: bool,
    /// Whether somebody answers at the socket.
    pub answers: bool,
    /// Whether a container runs, or may: a daemon that does not answer counts as busy.
    pub busy: bool,
}

/// What an installation notes for the one who undoes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kept {
    /// The docker client's context before ours was chosen.
    pub previous_context: Option<String>,
}
