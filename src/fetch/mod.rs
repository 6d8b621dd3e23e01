//! Getting Docker's static programs: what is asked for, whom to trust, what is taken. Pure; the
//! acts are in `os::fetch`.
//!
//! The layout of the server, `linux/static/CHANNEL/ARCH/docker-VERSION.tgz` and
//! `docker-rootless-extras-VERSION.tgz`, is that of `rootless-install.sh` in docker/docker-install.

pub mod checksum;
pub mod manifest;
pub mod path_lines;
pub mod programs;
mod url;
mod version;

pub use checksum::{Sum, Voucher};
pub use url::{Policy, Url};
pub use version::{Version, versions_in_index};

/// Where Docker's own server is.
pub const DOCKERS_MIRROR: &str = "https://download.docker.com";

/// One of the two tarballs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Package {
    /// dockerd, the client, containerd, runc.
    Docker,
    /// rootlesskit and upstream's scripts.
    Extras,
}

impl Package {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Docker, Self::Extras];

    /// The name, which is also that of the directory inside.
    pub fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Extras => "docker-rootless-extras",
        }
    }

    /// The name of the tarball of `version`.
    pub fn file(self, version: &Version) -> String {
        format!("{}-{version}.tgz", self.name())
    }
}

/// Docker's name of the architecture that this program was built for; where Docker has none, the
/// compiler's.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "arm" if cfg!(target_abi = "eabihf") => "armhf",
        "arm" => "armel",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// The directory of a channel on a mirror, below its root.
pub fn directory(channel: &str, architecture: &str) -> String {
    format!("linux/static/{channel}/{architecture}")
}

/// Whether `channel` may stand in an address: `stable`, `test`, `nightly`, or whatever a mirror
/// has of that kind.
pub fn is_channel(channel: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !channel.is_empty() && channel.bytes().all(plain) && !channel.starts_with('.')
}

mod adopt;
pub mod archive;
pub mod download;
pub mod failpoint;
pub mod http;
pub mod lock;
mod names;
pub mod shell_files;
pub mod state;
pub mod store;
