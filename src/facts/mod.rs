//! What the machine said, as plain data: tools and what they know, the session, the kernel.
//! Nothing here looks at anything; [`crate::facts::probe`] does.
#![forbid(unsafe_code)]

pub mod ask;
mod daemon_json;
pub mod look;
pub mod places;
pub mod probe;
pub mod routes;
#[cfg(test)]
pub mod samples;
mod session;
mod survey;
mod tools;

pub use daemon_json::DaemonJson;
pub use places::Places;
pub use session::{
    Ancestor, Certificates, Directory, Lock, Person, PidFile, PidState, Process, Session, StateDir,
};
pub use survey::{DockerClient, Mount, Mounts, parse_id_map, unescaped};
pub use tools::{
    DockerdFacts, RootlesskitFacts, Slirp4netnsFacts, Told, Tool, Tools, Version,
    parse_dockerd_flags, parse_pasta_version, parse_slirp4netns_netns_type,
};

use std::path::PathBuf;

use crate::settings::Subnet;

/// Everything that is known of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    pub tools: Tools,
    /// The user's session and what lies in it.
    pub session: Session,
    pub kernel: Kernel,
    /// The addresses that the host uses, if they can be read.
    pub addresses: Option<Vec<Subnet>>,
    /// Programs of a launch that users other than root could replace.
    pub exposed: Vec<PathBuf>,
}

/// What the kernel has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    pub ipv6: bool,
    /// Whether selinuxfs is mounted, which is what `selinuxenabled` looks for.
    pub selinux: bool,
    /// Whether br_netfilter is loaded, which root alone can do.
    pub bridge_netfilter: bool,
    /// Such as `(6, 1)`.
    pub version: Option<(u32, u32)>,
}

impl Kernel {
    /// Reads the version in a kernel's release, such as `6.1.0-18-amd64`.
    pub fn parse_version(release: &str) -> Option<(u32, u32)> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    }
}
