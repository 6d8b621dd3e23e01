//! What is installed for a user, and what there is to install it with.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::path::PathBuf;

use crate::environment::Environment;
use crate::facts::DockerClient;
use crate::setup::units::{Parameters, parameters};

/// A user's login: what a shell under su(1) or sudo(8) says differently is corrected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Home {
    pub uid: u32,
    /// The user's name, or number if the host knows no name.
    pub user: String,
    pub dir: PathBuf,
    /// Where the daemon's socket goes.
    pub runtime_dir: PathBuf,
    /// Where the user manager and we read the user's settings.
    pub config_home: PathBuf,
    /// This program, by the path that the unit names.
    pub program: PathBuf,
    pub search_path: OsString,
    pub environment: Environment,
}

/// Everything that decides what is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetupFacts {
    pub home: Home,
    pub manager: Manager,
    /// Whether the user manager ends with the user's last session.
    pub ends_at_logout: bool,
    pub has_sudo: bool,
    pub service: UnitFacts,
    pub socket: UnitFacts,
    pub daemon: DaemonFacts,
    pub client: DockerClient,
    /// The file that names the docker client's context before ours, and what it says.
    pub previous_context: (PathBuf, Option<String>),
}

impl SetupFacts {
    /// Returns what the installed service was written with.
    pub fn kept(&self) -> Parameters {
        self.service.own.as_deref().map(parameters).unwrap_or_default()
    }
}

/// Whether a user manager starts units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manager {
    Answers,
    /// None answers, on a host that was booted with systemd.
    Silent,
    /// This host has no systemd.
    #[default]
    Absent,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnitFacts {
    /// The text of the user's own file: empty if it is a link or cannot be read.
    pub own: Option<String>,
    /// Whether a package or an administrator has a unit for this program.
    pub packaged: bool,
    /// The user's links that start it at login.
    pub links: Vec<PathBuf>,
    /// Whether it runs, or is about to.
    pub active: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DaemonFacts {
    /// The supervisor's PID.
    pub supervisor: Option<u32>,
    /// Whether the programs on disk are newer than those that run.
    pub outdated: bool,
    /// Whether containers keep running while dockerd and the supervisor are replaced.
    pub keeps_containers: bool,
    pub answers: bool,
    /// Whether a container runs, or may: a daemon that does not answer counts as busy.
    pub busy: bool,
}
