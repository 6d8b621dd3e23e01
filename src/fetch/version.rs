//! Docker's version numbers, and the newest of those that a mirror's directory index names.
#![forbid(unsafe_code)]

use std::cmp::Ordering;
use std::fmt;

use crate::fetch::Package;

/// A version as it stands in the names of Docker's tarballs: `29.6.2`, `25.0.0-beta.3`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    text: String,
    numbers: Vec<u64>,
    pre_release: Option<Vec<Piece>>,
}

/// One piece of a pre-release, in the order in which semantic versioning sorts them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Piece {
    Number(u64),
    Word(String),
}

impl Version {
    /// Reads a version: numbers with dots between them, then perhaps `-` and a pre-release. `None`
    /// for anything else, so that nothing odd gets into a path or an address.
    pub fn parse(text: &str) -> Option<Self> {
        let (numbers, pre_release) = match text.split_once('-') {
            Some((numbers, rest)) => (numbers, Some(rest)),
            None => (text, None),
        };
        let numbers: Vec<u64> = numbers.split('.').map(number).collect::<Option<_>>()?;
        let pre_release = pre_release
            .map(|rest| rest.split('.').map(piece).collect::<Option<Vec<_>>>())
            .map_or(Some(None), |pieces| pieces.map(Some))?;
        (text.len() <= 64 && (2..=4).contains(&numbers.len())).then(|| Self {
            text: text.to_owned(),
            numbers,
            pre_release,
        })
    }

    /// The text that was read.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

fn number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

fn piece(text: &str) -> Option<Piece> {
    let is_word = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    match number(text) {
        Some(number) => Some(Piece::Number(number)),
        None => is_word.then(|| Piece::Word(text.to_owned())),
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// By number; a pre-release comes before its release.
impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        let pre_releases = || match (&self.pre_release, &other.pre_release) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (Some(ours), Some(theirs)) => ours.cmp(theirs),
        };
        let numbers = self.numbers.cmp(&other.numbers);
        numbers.then_with(pre_releases).then_with(|| self.text.cmp(&other.text))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

/// The versions of which `index`, the HTML of a directory on a mirror, names every package, oldest
/// first.
pub fn versions_in_index(index: &str) -> Vec<Version> {
    let [first, others @ ..] = Package::ALL;
    let mut versions = names_in_index(index, first);
    for other in others {
        let those = names_in_index(index, other);
        versions.retain(|version| those.contains(version));
    }
    versions.sort();
    versions.dedup();
    versions
}

fn names_in_index(index: &str, package: Package) -> Vec<Version> {
    let prefix = format!("{}-", package.name());
    index
        // Names stand in quotes in a link and between tags in what is shown.
        .split(['"', '\'', '<', '>', '/', ' ', '\n', '\r'])
        .filter_map(|word| word.strip_prefix(&*prefix)?.strip_suffix(".tgz"))
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
    fn what_is_no_version_is_refused() {
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
                prop_assert_eq!(version.as_str(), &*text);
                prop_assert!(!text.contains(['/', ' ']));
            }
        }
    }
}
