//! SHA-256 sums: reading and writing them, the table that is built in, and which source counts.
#![forbid(unsafe_code)]

use std::fmt;

use crate::fetch::Version;

/// The sums that are built in, with a note on where they are from.
const TABLE: &str = include_str!("../../install/checksums.txt");

/// How the line with the table's date begins.
const DATE: &str = "# Brought up to date on ";

/// A SHA-256 sum.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sum(pub [u8; 32]);

impl Sum {
    /// Reads 64 hexadecimal digits of either case.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        let mut sum = [0; 32];
        if digits.len() != 64 {
            return None;
        }
        for (byte, pair) in sum.iter_mut().zip(digits.chunks(2)) {
            let [high, low] = [pair[0], pair[1]].map(|digit| char::from(digit).to_digit(16));
            *byte = u8::try_from(high? * 16 + low?).ok()?;
        }
        Some(Self(sum))
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

impl fmt::Debug for Sum {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// Who vouches for a sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voucher {
    /// `--sha256`.
    Word,
    /// `--checksums`.
    File,
    /// The table in this program.
    Table,
    /// A file beside the tarball: that tells damage, not a server that means harm.
    Beside,
}

impl fmt::Display for Voucher {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Word => "`--sha256`",
            Self::File => "`--checksums`",
            Self::Table => "the built-in table",
            Self::Beside => "the `.sha256` file beside it",
        })
    }
}

/// One line of a list: a sum and the name of a file, perhaps with directories before it.
pub type Line = (String, Sum);

/// Reads a list in the format of sha256sum. Blank lines and those that begin with `#` are skipped.
///
/// # Errors
/// The number of the first line that is none, from 1 on, and the line.
pub fn parse_list(text: &str) -> Result<Vec<Line>, (usize, String)> {
    let lines = text.lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    lines
        .map(|(number, line)| {
            let parsed = line.split_once(char::is_whitespace).and_then(|(sum, name)| {
                // A star marks a file that was read in binary mode.
                let name = name.trim().trim_start_matches('*');
                let name = name.trim_start_matches("./");
                (!name.is_empty()).then_some((name.to_owned(), Sum::parse(sum)?))
            });
            parsed.ok_or_else(|| (number + 1, line.to_owned()))
        })
        .collect()
}

/// Reads what stands in the file `NAME.sha256`: a sum alone, or a list that names `file`.
pub fn parse_beside(text: &str, file: &str) -> Option<Sum> {
    let text = text.trim();
    Sum::parse(text).or_else(|| find(&parse_list(text).ok()?, file))
}

/// The sum that `lines` hold for `file`, by its last name.
pub fn find(lines: &[Line], file: &str) -> Option<Sum> {
    let last = |name: &str| name.rsplit('/').next() == Some(file);
    lines.iter().find(|(name, _)| last(name)).map(|(_, sum)| *sum)
}

/// The sum that is built in for `file` of this channel and architecture.
pub fn find_in_table(channel: &str, architecture: &str, file: &str) -> Option<Sum> {
    let name = format!("{channel}/{architecture}/{file}");
    let lines = parse_list(TABLE).ok()?;
    lines.into_iter().find(|(line, _)| *line == name).map(|(_, sum)| sum)
}

/// The day on which the table was brought up to date, as `2026-11-21`.
pub fn table_date() -> &'static str {
    let mut lines = TABLE.lines();
    lines.find_map(|line| line.strip_prefix(DATE)).unwrap_or_default()
}

/// The newest version of which the table has every package for this channel and architecture.
pub fn newest_in_table(channel: &str, architecture: &str) -> Option<Version> {
    let prefix = format!("{channel}/{architecture}/");
    let lines = parse_list(TABLE).ok()?;
    let names = lines.iter().filter_map(|(name, _)| name.strip_prefix(&*prefix));
    let names = names.collect::<Vec<_>>().join("\n");
    crate::fetch::version::versions_in_index(&names).pop()
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
            let newest = newest_in_table("stable", architecture).expect("a version");
            for package in super::super::Package::ALL {
                let file = package.file(&newest);
                assert!(find_in_table("stable", architecture, &file).is_some(), "{file}");
            }
        }
        assert_eq!(newest_in_table("test", "x86_64"), None);
        let is_digit = |c: char| c.is_ascii_digit();
        assert_eq!(table_date().replace(is_digit, "0"), "0000-00-00");
        let known = find_in_table("stable", "x86_64", "docker-29.6.1.tgz");
        assert_eq!(known, Sum::parse(ONE));
        assert_eq!(find_in_table("test", "x86_64", "docker-29.6.1.tgz"), None);
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
        fn a_sum_is_read_as_it_is_written(bytes: [u8; 32]) {
            prop_assert_eq!(Sum::parse(&Sum(bytes).to_string()), Some(Sum(bytes)));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC{0,80}") {
            let _ = (Sum::parse(&text), parse_list(&text), parse_beside(&text, "a"));
        }
    }
}
