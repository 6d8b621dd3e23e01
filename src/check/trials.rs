//! The results of trying each thing that a launch needs once, for real, where that leaves no trace.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The result of one trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Works,
    Fails(Failure),
    /// It was not tried, and why.
    NotTried(String),
}

/// Why something does not work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The name of the system's error, such as `EPERM`, if a system call failed.
    #[serde(default)]
    pub errno: Option<String>,
    /// What failed, without a full stop.
    pub text: String,
}

impl Default for Outcome {
    fn default() -> Self {
        Self::NotTried("there was no reason to".to_owned())
    }
}

impl Outcome {
    /// Returns a failure that is no error of the system.
    pub fn fails(text: impl Into<String>) -> Self {
        Self::Fails(Failure { errno: None, text: text.into() })
    }

    pub fn works(&self) -> bool {
        *self == Self::Works
    }

    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Fails(failure) => Some(failure),
            _ => None,
        }
    }
}

/// Everything that was tried.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Trials {
    /// A user namespace is created, and a mount and a network namespace inside.
    pub user_namespace: Outcome,
    pub newuidmap: Option<IdMapper>,
    pub newgidmap: Option<IdMapper>,
    /// newuidmap maps the subordinate user IDs into the new namespace.
    pub uid_map: Outcome,
    pub gid_map: Outcome,
    /// What `getsubids USER` prints, if the IDs come from elsewhere than files.
    pub getsubids_uid: Option<String>,
    /// What `getsubids -g USER` prints.
    pub getsubids_gid: Option<String>,
    /// rootlesskit runs a command in its namespaces, with the network of the plan.
    pub rootlesskit: Outcome,
    /// What was tried inside of namespaces; `None` if none could be created.
    pub inside: Option<Inside>,
    pub tun: Outcome,
    pub fuse: Outcome,
    /// A process listens on the socket of the user's bus.
    pub bus: Outcome,
    /// The user manager listens.
    pub manager: Outcome,
    pub rootful_socket: Option<RootfulSocket>,
    pub home_writable: bool,
    /// Whether the data root, or the nearest directory above it that exists, can be written.
    pub data_root_writable: bool,
    /// Free bytes there, 0 if there is no free inode.
    pub data_root_free: Option<u64>,
    /// Free bytes in the runtime directory.
    pub runtime_dir_free: Option<u64>,
    /// The highest number of open files that a process may ask for.
    pub open_files: Option<u64>,
    pub fuse_overlayfs: Option<PathBuf>,
    /// dockerd accepts its configuration file, if it has the flag `--validate`.
    pub validate: Outcome,
}

/// newuidmap or newgidmap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct IdMapper {
    /// Its path, links followed.
    pub path: PathBuf,
    pub owner: u32,
    pub mode: u32,
    pub file_capability: bool,
    /// The mount point, if that mount is `nosuid`.
    #[serde(default)]
    pub nosuid: Option<PathBuf>,
    /// Another one further behind in PATH that looks as if it worked.
    #[serde(default)]
    pub shadowed: Option<PathBuf>,
}

impl IdMapper {
    /// Returns whether it looks as if it worked.
    pub fn has_power(&self) -> bool {
        let is_setuid_root = self.owner == 0 && self.mode & 0o4000 != 0;
        self.nosuid.is_none() && (self.file_capability || is_setuid_root)
    }
}

/// The socket of the system-wide daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RootfulSocket {
    pub path: PathBuf,
    /// Whether this user can write it.
    pub writable: bool,
    pub mode: u32,
    /// The name of its group, or the number.
    pub group: String,
}

/// What was tried inside of namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Inside {
    /// Kinds of network devices that were made, `bridge` and `veth`.
    pub devices: BTreeMap<String, Outcome>,
    /// The firewall programs, in the order of PATH.
    pub firewalls: Vec<Firewall>,
    /// The rules and routes with which rootlesskit keeps the addresses of clients.
    pub source_ip: Outcome,
    /// A /proc for a new PID namespace, which each container gets.
    pub proc: Outcome,
    /// An overlay mount on the file system of the data root.
    pub overlay: Outcome,
    /// Files with CA certificates that open outside, and whether they open inside.
    pub certificates: BTreeMap<PathBuf, bool>,
    /// Whether the network namespace has IPv6.
    pub ipv6: bool,
}

/// A firewall program that took, or did not take, the rules that dockerd makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Firewall {
    /// `iptables`, `iptables-legacy`, `ip6tables`, `ip6tables-legacy` or `nft`.
    pub name: String,
    pub path: PathBuf,
    /// Whether dockerd will call it.
    pub chosen: bool,
    pub outcome: Outcome,
}
