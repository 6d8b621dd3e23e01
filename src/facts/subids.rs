//! `/etc/subuid` and `/etc/subgid`, read the way that newuidmap reads them, and what two readers
//! see differently.

use std::ops::Range;

/// The lines that say something, in the file's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubIds(pub Vec<SubIdLine>);

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubIdLine {
    /// Its number, from 1 on.
    pub number: usize,
    /// Its text.
    pub text: String,
    /// The name or the number of the user; empty if there is none.
    pub owner: String,
    /// The number of its fields.
    pub fields: usize,
    /// The ids, or why no meaning can be made out.
    pub ids: Result<Range<u64>, String>,
    /// What is wrong with the form of a line that has a meaning.
    pub flaw: Option<Flaw>,
}

/// What is wrong with a line that has a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Blanks or a carriage return at its ends: newuidmap passes over it.
    Blanks,
    /// More than three fields: rootlesskit refuses the file; newuidmap took it up to shadow 4.13 at
    /// least.
    Fields,
    /// A number such as `0x186A0`, `0100000` or ` 100000`, which newuidmap reads with strtoul(3)
    /// and rootlesskit as a decimal number.
    Number,
}

impl SubIds {
    /// Reads a file (subuid(5)). Blank lines and comments say nothing: newuidmap passes over what
    /// it does not understand, and rootlesskit's `idtools.go` knows them.
    pub fn parse(text: &str) -> Self {
        let lines = text.split('\n').enumerate().filter_map(|(at, line)| {
            let trimmed = line.trim_matches(is_space);
            (!trimmed.is_empty() && !trimmed.starts_with('#'))
                .then(|| SubIdLine::parse(at + 1, line))
        });
        Self(lines.collect())
    }

    /// Reads what getsubids(1) prints for `owner`, lines such as `0: u 100000 65536`.
    pub fn parse_getsubids(owner: &str, text: &str) -> Self {
        let lines = text.lines().enumerate().filter_map(|(at, line)| {
            let mut words = line.split_whitespace().rev();
            let count: u64 = words.next()?.parse().ok()?;
            let first: u64 = words.next()?.parse().ok()?;
            Some(SubIdLine {
                number: at + 1,
                text: line.to_owned(),
                owner: owner.to_owned(),
                fields: 3,
                ids: Ok(first..first.saturating_add(count)),
                flaw: None,
            })
        });
        Self(lines.collect())
    }
}

impl SubIdLine {
    fn parse(number: usize, line: &str) -> Self {
        let trimmed = line.trim_matches(is_space);
        let fields: Vec<&str> = trimmed.split(':').collect();
        let owner = fields[0].trim_matches(is_space);
        let ids = match fields[..] {
            _ if owner.is_empty() => Err("it names no user".to_owned()),
            [_, first, count, ..] => range(first, count),
            _ => Err(match fields.len() {
                1 => "it has 1 field instead of 3".to_owned(),
                some => format!("it has {some} fields instead of 3"),
            }),
        };
        let plain = fields[1..].iter().take(2).all(|field| is_plain(field));
        let flaw = if trimmed != line || owner != fields[0] {
            Some(Flaw::Blanks)
        } else if fields.len() > 3 {
            Some(Flaw::Fields)
        } else if !plain {
            Some(Flaw::Number)
        } else {
            None
        };
        Self {
            number,
            text: line.to_owned(),
            owner: owner.to_owned(),
            fields: fields.len(),
            flaw: flaw.filter(|_| ids.is_ok()),
            ids,
        }
    }
}

fn range(first: &str, count: &str) -> Result<Range<u64>, String> {
    let number = |field: &str| {
        let number = strtoul(field.trim_matches(is_space));
        number.ok_or_else(|| format!("`{}` is no number", field.escape_debug()))
    };
    let first = number(first)?;
    Ok(first..first.saturating_add(number(count)?))
}

/// A number as strtoul(3) reads it when it is to find out the base by itself.
fn strtoul(text: &str) -> Option<u64> {
    let digits = text.strip_prefix('+').unwrap_or(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let hex = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let (digits, base) = match hex {
        Some(digits) => (digits, 16),
        None if digits.starts_with('0') => (digits, 8),
        None => (digits, 10),
    };
    // from_str_radix would take a second sign.
    let all_digits = digits.chars().all(|c| c.is_digit(base));
    u64::from_str_radix(digits, base).ok().filter(|_| all_digits)
}

/// Whether everybody reads the same number.
fn is_plain(field: &str) -> bool {
    field.bytes().all(|byte| byte.is_ascii_digit()) && (field == "0" || !field.starts_with('0'))
}

/// What isspace(3) takes for a blank, which is also sed's `[[:space:]]`.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t'..='\r')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_lines_as_newuidmap_does() {
        let owned = |owner: &str, ids, flaw| Some((owner.to_owned(), Ok(ids), flaw));
        let senseless =
            |owner: &str, why: &str| Some((owner.to_owned(), Err(why.to_owned()), None));
        let blanks = Some(Flaw::Blanks);
        let number = Some(Flaw::Number);
        for (text, expected) in [
            ("u:100000:65536", owned("u", 100_000..165_536, None)),
            ("u:0:1", owned("u", 0..1, None)),
            ("D\\u:100000:1", owned("D\\u", 100_000..100_001, None)),
            ("u:100000:65536\r", owned("u", 100_000..165_536, blanks)),
            ("u:100000:65536 ", owned("u", 100_000..165_536, blanks)),
            ("\tu:100000:65536", owned("u", 100_000..165_536, blanks)),
            ("u :100000:65536", owned("u", 100_000..165_536, blanks)),
            ("u: 100000:65536", owned("u", 100_000..165_536, number)),
            ("u:100000 :65536", owned("u", 100_000..165_536, number)),
            ("u:0x186A0:65536", owned("u", 100_000..165_536, number)),
            ("u:+100000:65536", owned("u", 100_000..165_536, number)),
            ("u:0100000:65536", owned("u", 32_768..98_304, number)),
            ("u:100000:65536:x", owned("u", 100_000..165_536, Some(Flaw::Fields))),
            ("u:1:18446744073709551615", owned("u", 1..u64::MAX, None)),
            ("", None),
            (" \t\r", None),
            ("# u:100000:65536", None),
            (" #", None),
            ("u", senseless("u", "it has 1 field instead of 3")),
            ("u:1", senseless("u", "it has 2 fields instead of 3")),
            (":1:2", senseless("", "it names no user")),
            ("u:x:2", senseless("u", "`x` is no number")),
            ("u::2", senseless("u", "`` is no number")),
            ("u:-1:2", senseless("u", "`-1` is no number")),
            ("u:0x:2", senseless("u", "`0x` is no number")),
            ("u:0x+1:2", senseless("u", "`0x+1` is no number")),
            ("u:09:2", senseless("u", "`09` is no number")),
            ("u:1:18446744073709551616", senseless("u", "`18446744073709551616` is no number")),
        ] {
            let line = SubIds::parse(text).0.pop();
            let seen = line.map(|line| (line.owner, line.ids, line.flaw));
            assert_eq!(seen, expected, "{text:?}");
        }
    }

    #[test]
    fn counts_lines_as_an_editor_does() {
        let lines = SubIds::parse("#\n\nu:1:2\nv:3:4").0;
        let seen: Vec<_> = lines.iter().map(|line| (line.number, line.text.as_str())).collect();
        assert_eq!(seen, [(3, "u:1:2"), (4, "v:3:4")]);
    }

    #[test]
    fn reads_what_getsubids_prints() {
        let lines =
            SubIds::parse_getsubids("D\\u", "0: D\\u 100000 65536\n1: D\\u 300000 1\n?\n").0;
        let ids: Vec<_> = lines.into_iter().map(|line| line.ids).collect();
        assert_eq!(ids, [Ok(100_000..165_536), Ok(300_000..300_001)]);
    }

    proptest! {
        #[test]
        fn takes_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let text = String::from_utf8_lossy(&bytes);
            for line in SubIds::parse(&text).0 {
                prop_assert_eq!(text.split('\n').nth(line.number - 1), Some(line.text.as_str()));
            }
            SubIds::parse_getsubids("u", &text);
        }
    }
}
