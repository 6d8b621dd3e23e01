//! Docker's static programs, without root: a plan of steps, which are performed or just printed.
//!
//! The server's layout, `linux/static/CHANNEL/ARCH/docker-VERSION.tgz` and
//! `docker-rootless-extras-VERSION.tgz`, is that of `rootless-install.sh` in docker/docker-install.

mod archive;
mod checksum;
mod download;
mod plan;
mod prove;
pub mod shell_files;
mod source;
mod store;

pub use download::Client;
pub use plan::{Made, Step, fetch, install, is_installed, perform, removal, roll_back};
pub use prove::prove;
pub use source::Request;
pub use store::{Store, at, check_writable};

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
    /// Lists both.
    pub const ALL: [Self; 2] = [Self::Docker, Self::Extras];

    /// Returns its name, which is also that of the directory inside.
    pub fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Extras => "docker-rootless-extras",
        }
    }

    /// Names the tarball of `version`.
    pub fn file(self, version: &Version) -> String {
        let text = match &*version.text {
            // It was built again (docker-install#558).
            "29.4.2" => "29.4.2-2",
            text => text,
        };
        format!("{}-{text}.tgz", self.name())
    }

    /// Lists the programs that it must hold.
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

    /// Lists all programs that it may hold: some versions have more than the required ones.
    pub fn programs(self) -> impl Iterator<Item = &'static str> {
        let optional = match self {
            Self::Docker => ["containerd-shim", "ctr"],
            Self::Extras => ["rootlesskit-docker-proxy", "vpnkit"],
        };
        self.required().iter().copied().chain(optional)
    }
}

/// Lists every name that may be a link of ours in the directory of programs.
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

/// A version as in the names of Docker's tarballs: `29.6.2`, `25.0.0-beta.3`. A newer one is greater.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pieces: Vec<Piece>,
    pub text: String,
}

/// What is between dots and dashes. A release, which just ends, is newer than what precedes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Piece {
    Word(String),
    End,
    Number(u64),
}

impl Version {
    /// Reads at least two numbers, then perhaps a pre-release. Nothing else gets into a path or an address.
    pub fn parse(text: &str) -> Option<Self> {
        let mut pieces: Vec<Piece> = text.split(['.', '-']).map(piece).collect::<Option<_>>()?;
        let is_plausible = matches!(pieces[..], [Piece::Number(_), Piece::Number(_), ..]);
        pieces.push(Piece::End);
        (is_plausible && text.len() <= 64).then(|| Self { pieces, text: text.to_owned() })
    }
}

fn piece(text: &str) -> Option<Piece> {
    let is_word = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let word = || Piece::Word(text.to_owned());
    is_word.then(|| text.parse().map_or_else(|_| word(), Piece::Number))
}

/// Returns the newest version of which `index`, a directory's HTML or a list of names, has both tarballs.
pub fn newest_in(index: &str) -> Option<Version> {
    let versions = |package: Package| {
        // A name is in quotes in a link, and between tags in what is shown.
        let names = index.split(['"', '\'', '<', '>', '/', ' ', '\n', '\r']);
        names.filter_map(move |name| {
            let version = name.strip_prefix(package.name())?.strip_prefix('-')?;
            Version::parse(version.strip_suffix(".tgz")?)
        })
    };
    let extras: Vec<Version> = versions(Package::Extras).collect();
    versions(Package::Docker).filter(|version| extras.contains(version)).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn version(text: &str) -> Version {
        Version::parse(text).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn versions_are_ordered_by_number() {
        let ordered = [
            "19.03.15",
            "20.10.9",
            "20.10.24",
            "29.0.0-beta.3",
            "29.0.0-rc.1",
            "29.0.0-rc.10",
            "29.0.0",
            "29.6.10",
        ];
        for pair in ordered.windows(2) {
            assert!(version(pair[0]) < version(pair[1]), "{pair:?}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "", "29", "latest", "../29.1", "29.1/..", "29.1 ", "29.-1", "29..1", "29.1-",
            "29.1-a b", "29.1-x/y", "+29.1.0",
        ] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_index_of_a_mirror_names_versions() {
        let index = r#"<a href="docker-29.1.0.tgz">docker-29.1.0.tgz</a>
            <a href="docker-rootless-extras-29.1.0.tgz">docker-rootless-extras-29.1.0.tgz</a>
            <a href="/linux/docker-28.5.2.tgz">x</a><a href='docker-rootless-extras-28.5.2.tgz'>x</a>
            <a href="docker-30.0.0.tgz">no extras yet</a> <a href="docker-..tgz">odd</a>"#;
        assert_eq!(newest_in(index), Some(version("29.1.0")));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC{0,40}") {
            if let Some(version) = Version::parse(&text) {
                prop_assert_eq!(&version.text, &text);
                prop_assert!(!text.contains(['/', ' ']));
            }
        }
    }
}
