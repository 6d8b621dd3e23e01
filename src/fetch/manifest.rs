//! The list of what lies in a set of programs, as it is written beside them. A set is named for its
//! version and for what this list says, so that two sets of one name are the same.
//!
//! One line each: `archive SUM FILE` for what it was made from, `program SUM NAME` for what it holds.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::fetch::Sum;

/// The first line, without which a file is no manifest of ours.
const HEADER: &str = "# dockerd-rootless set 1";

/// What a set of programs holds, and what it was made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The sums of the tarballs by their names.
    pub archives: BTreeMap<String, Sum>,
    /// The sums of the programs by their names.
    pub programs: BTreeMap<String, Sum>,
}

impl Manifest {
    /// Reads what [`Manifest::render`] wrote; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut manifest = Self::default();
        for line in text.strip_prefix(HEADER)?.strip_prefix('\n')?.lines() {
            let mut words = line.splitn(3, ' ');
            let (kind, sum, name) = (words.next()?, Sum::parse(words.next()?)?, words.next()?);
            let list = match kind {
                "archive" => &mut manifest.archives,
                "program" => &mut manifest.programs,
                _ => return None,
            };
            if name.contains('/') || list.insert(name.to_owned(), sum).is_some() {
                return None;
            }
        }
        Some(manifest)
    }

    /// The text for the file.
    pub fn render(&self) -> String {
        let mut text = format!("{HEADER}\n");
        let lists = [("archive", &self.archives), ("program", &self.programs)];
        for (kind, list) in lists {
            for (name, sum) in list {
                let _ = writeln!(text, "{kind} {sum} {name}");
            }
        }
        text
    }
}

/// The name of the set of `version` whose manifest has this sum: content-addressed, so that it is
/// never changed, only replaced.
pub fn set_name(version: &str, manifest: &Sum) -> String {
    let digits = manifest.to_string();
    format!("{version}-{}", &digits[..8])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_manifest_is_refused() {
        let sum = Sum([1; 32]);
        for text in [
            String::new(),
            HEADER.to_owned(),
            format!("program {sum} dockerd\n"),
            format!("{HEADER}\nprogram {sum} ../dockerd\n"),
            format!("{HEADER}\nprogram {sum} a\nprogram {sum} a\n"),
            format!("{HEADER}\nprogram 00 a\n"),
            format!("{HEADER}\nlink {sum} a\n"),
        ] {
            assert_eq!(Manifest::parse(&text), None, "{text}");
        }
    }

    #[test]
    fn a_set_is_named_for_its_version_and_content() {
        assert_eq!(set_name("29.6.2", &Sum([0xab; 32])), "29.6.2-abababab");
    }

    proptest! {
        #[test]
        fn a_manifest_is_read_as_it_is_written(
            archives in proptest::collection::btree_map("[a-z0-9.-]{1,20}", any::<[u8; 32]>(), 0..4),
            programs in proptest::collection::btree_map("[a-z0-9.-]{1,20}", any::<[u8; 32]>(), 0..4),
        ) {
            let sums = |list: BTreeMap<String, [u8; 32]>| list.into_iter().map(|(name, sum)| (name, Sum(sum))).collect();
            let manifest = Manifest { archives: sums(archives), programs: sums(programs) };
            prop_assert_eq!(Manifest::parse(&manifest.render()), Some(manifest));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in "(# dockerd-rootless set 1\n)?\\PC{0,80}") {
            let _ = Manifest::parse(&text);
        }
    }
}
