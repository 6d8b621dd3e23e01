//! SHA-256 sums: reading them, and the table that is built in.
#![forbid(unsafe_code)]

/// The sums that are built in, with a note on where they are from.
pub const TABLE: &str = include_str!("../../install/checksums.txt");

/// How the line with the table's date begins.
const DATE: &str = "# Brought up to date on ";

/// The name of a file, perhaps with directories before it, and its sum.
pub type Line = (String, String);

/// Reads 64 hexadecimal digits, and returns them in lower case.
pub fn parse(text: &str) -> Option<String> {
    let is_sum = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_sum.then(|| text.to_ascii_lowercase())
}

/// Reads a list as sha256sum writes it, with blank lines and comments. Fails with the first bad line.
pub fn parse_list(text: &str) -> Result<Vec<Line>, String> {
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    lines.map(|line| parse_line(line).ok_or_else(|| line.to_owned())).collect()
}

fn parse_line(line: &str) -> Option<Line> {
    let (sum, name) = line.split_once(char::is_whitespace)?;
    // A star marks a file that was read in binary mode.
    let name = name.trim().trim_start_matches('*');
    (!name.is_empty()).then_some((name.to_owned(), parse(sum)?))
}

/// Returns the sum of the file whose path is `name`, or ends in it.
pub fn find(lines: &[Line], name: &str) -> Option<String> {
    let is_it = |path: &str| {
        path.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
    };
    lines.iter().find(|(path, _)| is_it(path)).map(|(_, sum)| sum.clone())
}

/// Returns the day of the table, as `2026-11-21`.
pub fn table_date() -> &'static str {
    TABLE.lines().find_map(|line| line.strip_prefix(DATE)).unwrap_or_default()
}

/// Returns the newest version of which the table has both tarballs in `directory`, which is `CHANNEL/ARCH`.
pub fn newest_in_table(directory: &str) -> Option<super::Version> {
    let prefix = format!("  {directory}/");
    let names = TABLE.lines().filter_map(|line| Some(line.split_once(&prefix)?.1));
    super::newest_in(&names.collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::Package;
    use proptest::prelude::*;

    const ONE: &str = "b0df4a43a98d7ecb708acbdb5a34a3416e13b6e39bcbbdf296f51f0f3442b29f";

    #[test]
    fn every_line_of_the_table_is_read_and_its_newest_version_is_complete() {
        let table = parse_list(TABLE).expect("a list");
        assert!(table.len() > 50);
        for architecture in ["x86_64", "aarch64"] {
            let directory = format!("stable/{architecture}");
            let newest = newest_in_table(&directory).expect("a version");
            for package in Package::ALL {
                let file = package.file(&newest);
                assert!(find(&table, &format!("{directory}/{file}")).is_some(), "{file}");
            }
        }
        assert_eq!(newest_in_table("test/x86_64"), None);
        let is_digit = |c: char| c.is_ascii_digit();
        assert_eq!(table_date().replace(is_digit, "0"), "0000-00-00");
        assert_eq!(find(&table, "stable/x86_64/docker-29.6.1.tgz").as_deref(), Some(ONE));
        assert_eq!(find(&table, "test/x86_64/docker-29.6.1.tgz"), None);
    }

    #[test]
    fn lists_of_sha256sum_are_read() {
        let text = format!("# a note\n\n{ONE}  a.tgz\r\n{ONE} *./dir/b.tgz\n");
        let lines = parse_list(&text).expect("a list");
        for (name, sum) in [("a.tgz", Some(ONE)), ("b.tgz", Some(ONE)), ("tgz", None)] {
            assert_eq!(find(&lines, name).as_deref(), sum);
        }
        assert_eq!(parse_list("x  a\n"), Err("x  a".to_owned()));
        assert_eq!(parse_list(&format!("\n{ONE}\n")), Err(ONE.to_owned()));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC{0,80}") {
            let _ = (parse(&text), parse_list(&text));
        }
    }
}
