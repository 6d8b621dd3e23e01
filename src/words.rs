//! Words of command lines: any bytes but NUL, split and quoted as a POSIX shell would.
#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// Splits `line` at blanks as a shell splits words: single and double quotes and backslashes are
/// respected; nothing is expanded, and `#` is a character like any other.
///
/// Crates that split words drop everything behind a `#` as a comment, which a shell does not do
/// to the value of a variable: that would lose flags in silence, so this is our own.
pub fn split(line: &OsStr) -> Result<Vec<OsString>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut bytes = line.as_bytes().iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b' ' | b'\t' | b'\n' => words.extend(word.take()),
            b'\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match bytes.next().ok_or("a single quote is not closed")? {
                        b'\'' => break,
                        other => word.push(other),
                    }
                }
            }
            b'"' => {
                let word = word.get_or_insert_default();
                loop {
                    match bytes.next().ok_or("a double quote is not closed")? {
                        b'"' => break,
                        b'\\' => match bytes.next().ok_or("a double quote is not closed")? {
                            escaped @ (b'"' | b'\\' | b'$' | b'`') => word.push(escaped),
                            b'\n' => {}
                            other => word.extend([b'\\', other]),
                        },
                        other => word.push(other),
                    }
                }
            }
            b'\\' => match bytes.next().ok_or("a backslash ends the text")? {
                b'\n' => {}
                other => word.get_or_insert_default().push(other),
            },
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Ok(words.into_iter().map(OsString::from_vec).collect())
}

/// `word` as one would type it into a shell; bytes that are not UTF-8 stay what they are.
pub fn quote(word: &OsStr) -> OsString {
    let bytes = word.as_bytes();
    // shlex also quotes `=`, which is no more than noise in a list of flags.
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_@%+=:,./-".contains(byte);
    if !bytes.is_empty() && bytes[0] != b'=' && bytes.iter().all(is_plain) {
        return word.to_owned();
    }
    let quoted = shlex::bytes::Quoter::new().allow_nul(true).quote(bytes);
    OsString::from_vec(quoted.map_or_else(|_| bytes.to_vec(), std::borrow::Cow::into_owned))
}

/// Returns `path` as one would type it into a command.
pub fn quoted(path: &Path) -> String {
    quote(path.as_os_str()).display().to_string()
}

/// `words` as one would type them, with a blank between.
pub fn join<'a>(words: impl IntoIterator<Item = &'a OsString>) -> OsString {
    let quoted: Vec<OsString> = words.into_iter().map(|word| quote(word)).collect();
    quoted.join(OsStr::new(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn splits_as_a_shell_does() {
        let cases: &[(&str, Result<&[&str], &str>)] = &[
            ("", Ok(&[])),
            ("  a\t b\nc ", Ok(&["a", "b", "c"])),
            ("-p '127.0.0.1:80 x'", Ok(&["-p", "127.0.0.1:80 x"])),
            (r#"--a="b c"d"#, Ok(&["--a=b cd"])),
            (r#""a\"b\\c\d""#, Ok(&[r#"a"b\c\d"#])),
            (r"a\ b \'c", Ok(&["a b", "'c"])),
            ("a\\\nb", Ok(&["ab"])),
            ("'' \"\"", Ok(&["", ""])),
            ("#a b#c", Ok(&["#a", "b#c"])),
            ("$HOME *", Ok(&["$HOME", "*"])),
            ("'a", Err("a single quote is not closed")),
            ("\"a\\", Err("a double quote is not closed")),
            ("a\\", Err("a backslash ends the text")),
        ];
        for (line, expected) in cases {
            let expected =
                expected.map(|words| words.iter().map(OsString::from).collect::<Vec<_>>());
            assert_eq!(split(OsStr::new(line)), expected, "splitting {line:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_quoted_splits_back_into_the_same_words(
            words in proptest::collection::vec(proptest::collection::vec(1u8..=255, 0..20), 0..8)
        ) {
            let words: Vec<OsString> = words.into_iter().map(OsString::from_vec).collect();
            prop_assert_eq!(split(&join(&words)), Ok(words));
        }
    }
}
