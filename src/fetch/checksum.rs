//! SHA-256 sums: reading them, and the table that is built in.
#![forbid(unsafe_code)]

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::fetch::{Version, versions_in_index};

/// The sums that are built in, with a note on where they are from.
const TABLE: &str = include_str!("../../install/checksums.txt");

/// How the line with the table's date begins.
const DATE: &str = "# Brought up to date on ";

/// A SHA-256 sum: 64 hexadecimal digits in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sum(String);

impl Sum {
    /// Reads 64 digits of either case.
    pub fn parse(text: &str) -> Option<Self> {
        let is_sum = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_sum.then(|| Self(text.to_ascii_lowercase()))
    }

    /// Ends `hash`.
    pub fn of(hash: Sha256) -> Self {
        Self(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// Where a sum is from, the most trusted first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voucher {
    /// `--sha256`.
    Option,
    /// `--checksums`.
    List,
    /// The table in this program.
    Table,
    /// The file beside the tarball: that detects damage, not a malicious server.
    Beside,
}

impl fmt::Display for Voucher {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Option => "`--sha256`",
            Self::List => "`--checksums`",
            Self::Table => "the built-in table",
            Self::Beside => "the `.sha256` file beside it",
        })
    }
}

/// One line of a list: the name of a file, perhaps with directories before it, and its sum.
pub type Line = (String, Sum);

/// Reads a list in the format of sha256sum, without blank lines and those that begin with `#`. Fails
/// with the number of the first line that is none, and the line.
pub fn parse_list(text: &str) -> Result<Vec<Line>, (usize, String)> {
    let lines = text.lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    lines
        .map(|(number, line)| parse_line(line).ok_or_else(|| (number + 1, line.to_owned())))
        .collect()
}

fn parse_line(line: &str) -> Option<Line> {
    let (sum, name) = line.split_once(char::is_whitespace)?;
    // A star marks a file that was read in binary mode.
    let name = name.trim().trim_start_matches('*').trim_start_matches("./");
    (!name.is_empty()).then_some((name.to_owned(), Sum::parse(sum)?))
}

/// Reads the file `NAME.sha256`: a sum alone, or a list that names `file`.
pub fn parse_beside(text: &str, file: &str) -> Option<Sum> {
    Sum::parse(text.trim()).or_else(|| find(&parse_list(text).ok()?, file))
}

/// Returns the sum that `lines` hold for `file`, by its last name.
pub fn find(lines: &[Line], file: &str) -> Option<Sum> {
    let found = lines.iter().find(|(name, _)| name.rsplit('/').next() == Some(file));
    found.map(|(_, sum)| sum.clone())
}

/// Returns the built-in sum of `file` in `directory`, which is `CHANNEL/ARCH`.
pub fn find_in_table(directory: &str, file: &str) -> Option<Sum> {
    let name = format!("{directory}/{file}");
    parse_list(TABLE).ok()?.into_iter().find(|(line, _)| *line == name).map(|(_, sum)| sum)
}

/// Returns the day of the table, as `2026-11-21`.
pub fn table_date() -> &'static str {
    TABLE.lines().find_map(|line| line.strip_prefix(DATE)).unwrap_or_default()
}

/// Returns the newest version of which the table has both tarballs in `directory`.
pub fn newest_in_table(directory: &str) -> Option<Version> {
    let prefix = format!("  {directory}/");
    let names = TABLE.lines().filter_map(|line| Some(line.split_once(&*prefix)?.1));
    versions_in_index(&names.collect::<Vec<_>>().join("\n")).pop()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ONE: &str = "b0df4a43a98d7ecb708acbdb5a34a3416e13b6e39bcbbdf296f51f0f3442b29f";

    #[test]
    fn every_line_of_the_table_is_read_and_its_newest_version_is_complete() {
        assert!(parse_list(TABLE).is_ok_and(|lines| lines.len() > 50));
        for architecture in ["x86_64", "aarch64"] {
            let directory = format!("stable/{architecture}");
            let newest = newest_in_table(&directory).expect("a version");
            for package in super::super::Package::ALL {
                let file = package.file(&newest);
                assert!(find_in_table(&directory, &file).is_some(), "{file}");
            }
        }
        assert_eq!(newest_in_table("test/x86_64"), None);
        let is_digit = |c: char| c.is_ascii_digit();
        assert_eq!(table_date().replace(is_digit, "0"), "0000-00-00");
        let known = find_in_table("stable/x86_64", "docker-29.6.1.tgz");
        assert_eq!(known, Sum::parse(ONE));
        assert_eq!(find_in_table("test/x86_64", "docker-29.6.1.tgz"), None);
    }

    #[test]
    fn lists_of_sha256sum_are_read() {
        let text = format!("# a note\n\n{ONE}  a.tgz\r\n{ONE} *./dir/b.tgz\n");
        let lines = parse_list(&text).expect("a list");
        assert_eq!(find(&lines, "a.tgz"), Sum::parse(ONE));
        assert_eq!(find(&lines, "b.tgz"), Sum::parse(ONE));
        assert_eq!(find(&lines, "tgz"), None);
        assert_eq!(parse_list("x  a\n"), Err((1, "x  a".to_owned())));
        assert_eq!(parse_list(&format!("\n{ONE}\n")), Err((2, ONE.to_owned())));
    }

    #[test]
    fn a_file_beside_holds_a_sum_alone_or_with_the_name() {
        assert_eq!(parse_beside(&format!("{ONE}\n"), "a"), Sum::parse(ONE));
        assert_eq!(parse_beside(&format!("{ONE}  a\n"), "a"), Sum::parse(ONE));
        assert_eq!(parse_beside(&format!("{ONE}  b\n"), "a"), None);
        assert_eq!(parse_beside("<html>not found</html>", "a"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC{0,80}") {
            let _ = (Sum::parse(&text), parse_list(&text), parse_beside(&text, "a"));
        }
    }
}
