//! Docker's static programs, without root: facts → a plan → `perform`.
//!
//! The server's layout, `linux/static/CHANNEL/ARCH/docker-VERSION.tgz` and
//! `docker-rootless-extras-VERSION.tgz`, is that of `rootless-install.sh` in docker/docker-install.

pub mod archive;
pub mod checksum;
pub mod download;
mod lock;
pub mod perform;
pub mod plan;
pub mod shell_files;
pub mod source;
pub mod store;
mod version;

pub use perform::remove;
pub use version::{Version, versions_in_index};

/// The name of this program, which every set of programs holds.
pub const OWN: &str = "dockerd-rootless";
/// Upstream's scripts, which links to this program replace.
pub const SCRIPTS: [&str; 2] = ["dockerd-rootless.sh", "dockerd-rootless-setuptool.sh"];

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

    /// Returns its name, which is also that of the directory inside.
    pub fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Extras => "docker-rootless-extras",
        }
    }

    /// Returns the name of the tarball of `version`.
    pub fn file(self, version: &Version) -> String {
        format!("{}-{version}.tgz", self.name())
    }

    /// The programs that it must hold.
    pub fn required(self) -> &'static [&'static str] {
        match self {
            Self::Docker => &[
                "containerd",
                "containerd-shim-runc-v2",
                "docker",
                "docker-init",
                "docker-proxy",
                "dockerd",
                "runc",
            ],
            Self::Extras => &["rootlesskit"],
        }
    }

    /// Those that some versions have: containerd-shim until 20.10, rootlesskit-docker-proxy until 27.
    pub fn optional(self) -> &'static [&'static str] {
        match self {
            Self::Docker => &["containerd-shim", "ctr"],
            Self::Extras => &["rootlesskit-docker-proxy", "vpnkit"],
        }
    }

    /// Returns all programs that it may hold.
    pub fn programs(self) -> impl Iterator<Item = &'static str> {
        self.required().iter().chain(self.optional()).copied()
    }
}

/// Returns every name that may be a link of ours in the directory of programs.
pub fn all_names() -> impl Iterator<Item = &'static str> {
    Package::ALL.into_iter().flat_map(Package::programs).chain([OWN]).chain(SCRIPTS)
}

/// Returns Docker's name of the architecture that this program was built for.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "arm" if cfg!(target_abi = "eabihf") => "armhf",
        "arm" => "armel",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// Returns the directory of a channel below the root of a mirror.
pub fn directory(channel: &str, architecture: &str) -> String {
    format!("linux/static/{channel}/{architecture}")
}
