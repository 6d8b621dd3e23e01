//! Docker's version numbers, and the newest of those that a directory's index names.
#![forbid(unsafe_code)]

use std::fmt;

use crate::fetch::Package;

/// A version as in the names of Docker's tarballs: `29.6.2`, `25.0.0-beta.3`. The fields are in the
/// order in which they decide which is newer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    numbers: Vec<u64>,
    is_release: bool,
    pre_release: Vec<Piece>,
    text: String,
}

/// One piece of a pre-release, in the order of semantic versioning.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Piece {
    Number(u64),
    Word(String),
}

impl Version {
    /// Reads numbers with dots between them, then perhaps `-` and a pre-release. Nothing else gets
    /// into a path or an address.
    pub fn parse(text: &str) -> Option<Self> {
        let mut halves = text.splitn(2, '-');
        let numbers: Vec<u64> = halves.next()?.split('.').map(number).collect::<Option<_>>()?;
        let pre_release: Vec<Piece> = match halves.next() {
            Some(pieces) => pieces.split('.').map(piece).collect::<Option<_>>()?,
            None => Vec::new(),
        };
        let is_release = pre_release.is_empty();
        let is_plausible = text.len() <= 64 && (2..=4).contains(&numbers.len());
        is_plausible.then(|| Self { numbers, is_release, pre_release, text: text.to_owned() })
    }
}

fn number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

fn piece(text: &str) -> Option<Piece> {
    let is_word = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let word = is_word.then(|| Piece::Word(text.to_owned()));
    number(text).map(Piece::Number).or(word)
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

/// Returns the versions of which `index`, a directory's HTML or a list of names, has both tarballs,
/// oldest first.
pub fn versions_in_index(index: &str) -> Vec<Version> {
    let [mut versions, extras] = Package::ALL.map(|package| versions_of(package, index));
    versions.retain(|version| extras.contains(version));
    versions.sort();
    versions.dedup();
    versions
}

fn versions_of(package: Package, index: &str) -> Vec<Version> {
    let prefix = format!("{}-", package.name());
    // A name is in quotes in a link, and between tags in what is shown.
    let names = index.split(['"', '\'', '<', '>', '/', ' ', '\n', '\r']);
    names
        .filter_map(|name| name.strip_prefix(&*prefix)?.strip_suffix(".tgz"))
        .filter_map(Version::parse)
        .collect()
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
        let versions = versions_in_index(index);
        assert_eq!(versions, [version("28.5.2"), version("29.1.0")]);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC{0,40}") {
            if let Some(version) = Version::parse(&text) {
                prop_assert_eq!(version.to_string(), &*text);
                prop_assert!(!text.contains(['/', ' ']));
            }
        }
    }
}
