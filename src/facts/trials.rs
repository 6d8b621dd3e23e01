//! What came of trying: each thing that a launch needs was done once, for real, where that leaves
//! no trace.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What came of one trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It works.
    Works,
    /// It does not.
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
    /// What failed, in the words of who tried, without a full stop.
    pub text: String,
}

impl Default for Outcome {
    fn default() -> Self {
        Self::NotTried("there was no reason to".to_owned())
    }
}

impl Outcome {
    /// A failure in words.
    pub fn fails(text: impl Into<String>) -> Self {
        Self::Fails(Failure { errno: None, text: text.into() })
    }

    /// Whether it works.
    pub fn works(&self) -> bool {
        *self == Self::Works
    }

    /// The failure, if it was tried and failed.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Fails(failure) => Some(failure),
            Self::Works | Self::NotTried(_) => None,
        }
    }
}

/// Everything that was tried.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Trials {
    /// A user namespace of our own is made: unshare(2).
    pub user_namespace: Outcome,
    /// What the new namespace's owner may do inside: make a mount and a network namespace.
    pub capabilities: Outcome,
    /// The program that maps user ids.
    pub newuidmap: Option<IdMapper>,
    /// The program that maps group ids.
    pub newgidmap: Option<IdMapper>,
    /// The subordinate user ids are mapped into the new namespace by newuidmap.
    pub uid_map: Outcome,
    /// The same for group ids.
    pub gid_map: Outcome,
    /// What `getsubids USER` prints, if it is installed.
    pub getsubids_uid: Option<Result<String, String>>,
    /// What `getsubids -g USER` prints.
    pub getsubids_gid: Option<Result<String, String>>,
    /// rootlesskit runs a command in its namespaces, with the network of the plan.
    pub rootlesskit: Outcome,
    /// What was tried inside of namespaces; `None` if none could be made.
    pub inside: Option<Inside>,
    /// `/dev/net/tun` opens.
    pub tun: Outcome,
    /// `/dev/fuse` opens.
    pub fuse: Outcome,
    /// The user's bus takes a connection.
    pub bus: Outcome,
    /// The user manager takes a connection.
    pub manager: Outcome,
    /// The rootful daemon's socket can be written by this user.
    pub rootful_socket: Option<RootfulSocket>,
    /// Whether the home can be written.
    pub home_writable: bool,
    /// Whether the data root, or the nearest directory above it that exists, can be written.
    pub data_root_writable: bool,
    /// Free bytes in the runtime directory.
    pub runtime_dir_free: Option<u64>,
    /// The highest number of open files that a process may ask for.
    pub open_files: Option<u64>,
    /// Where fuse-overlayfs is.
    pub fuse_overlayfs: Option<PathBuf>,
}

/// newuidmap or newgidmap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct IdMapper {
    /// Where it is, links followed.
    pub path: PathBuf,
    /// Its owner.
    pub owner: u32,
    /// Its permission bits.
    pub mode: u32,
    /// Whether it has the capability that it needs as a file capability.
    pub file_capability: bool,
    /// The mount point, if that mount is `nosuid`.
    #[serde(default)]
    pub nosuid: Option<PathBuf>,
    /// Another one further behind in PATH that would work by its looks.
    #[serde(default)]
    pub shadowed: Option<PathBuf>,
}

impl IdMapper {
    /// Whether it can do its work by its looks.
    pub fn has_power(&self) -> bool {
        let is_root_setuid = self.owner == 0 && self.mode & 0o4000 != 0;
        self.nosuid.is_none() && (is_root_setuid || self.file_capability)
    }
}

/// The socket of the rootful daemon, as far as this user can write it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RootfulSocket {
    /// Its path.
    pub path: PathBuf,
    /// Whether this user can write it.
    pub writable: bool,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner.
    pub owner: u32,
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
    /// An overlay mount on the file system of the data root.
    pub overlay: Overlay,
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
    /// Where it is.
    pub path: PathBuf,
    /// Whether it is what dockerd will call.
    pub chosen: bool,
    /// What came of it.
    pub outcome: Outcome,
}

/// An overlay mount with a lower, an upper and a work directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Overlay {
    /// With the option `userxattr` (kernel 5.11 and later).
    pub userxattr: Outcome,
    /// Without it, which kernels of Ubuntu and of Debian 10 allow.
    pub plain: Outcome,
    /// Whether layers can be compared natively: a directory below cannot be renamed.
    pub native_diff: Option<bool>,
}
