//! The lines in a user's shell files that put the directory of programs into PATH: written once,
//! and taken out again so that every other byte stays what it was.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;

/// The first line of what is ours.
const BEGIN: &[u8] =
    b"# >>> dockerd-rootless >>> (`dockerd-rootless fetch --remove` takes this out)\n";
/// The last one.
const END: &[u8] = b"# <<< dockerd-rootless <<<\n";

/// What reads the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shell {
    /// sh, and what is like it: bash, zsh, dash.
    Posix,
    /// fish.
    Fish,
}

/// The line that puts `directory` first in PATH, once.
pub fn line(shell: Shell, directory: &OsStr) -> Vec<u8> {
    let quoted = quote(shell, directory);
    let quoted = &*quoted;
    match shell {
        // Inside of the pattern the quotes also take the meaning from `*` and `?`.
        Shell::Posix => [
            b"case \":$PATH:\" in *:",
            quoted,
            b":*) ;; *) PATH=",
            quoted,
            b":$PATH; export PATH ;; esac\n",
        ]
        .concat(),
        Shell::Fish => {
            [b"contains -- ", quoted, b" $PATH; or set -gx PATH ", quoted, b" $PATH\n"].concat()
        }
    }
}

/// In single quotes, as the shell reads them: nothing in them has a meaning but the quote itself
/// (in fish a backslash as well).
fn quote(shell: Shell, word: &OsStr) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for &byte in word.as_bytes() {
        match (byte, shell) {
            (b'\'', Shell::Posix) => quoted.extend(b"'\\''"),
            (b'\'' | b'\\', Shell::Fish) => quoted.extend([b'\\', byte]),
            _ => quoted.push(byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

/// `text` with our lines for `directory` at its end, instead of any that are there already.
///
/// A newline comes before them and is part of what is ours: it ends a last line that has none, and
/// is a blank line elsewhere. So taking it out restores the file either way.
pub fn add(text: &[u8], shell: Shell, directory: &OsStr) -> Vec<u8> {
    let block = [BEGIN, &line(shell, directory), END].concat();
    let mut edited = remove(text);
    let place = find(text);
    match place {
        // What stands behind ours stays behind it.
        Some(place) => {
            let block = [leading(place.start), &*block].concat();
            edited.splice(place.start..place.start, block);
        }
        None => {
            let newline = leading(edited.len());
            edited.extend(newline.iter().chain(&block));
        }
    }
    edited
}

fn leading(offset: usize) -> &'static [u8] {
    if offset == 0 { b"" } else { b"\n" }
}

/// `text` without our lines.
pub fn remove(text: &[u8]) -> Vec<u8> {
    let mut text = text.to_vec();
    while let Some(place) = find(&text) {
        text.drain(place);
    }
    text
}

/// Where our lines stand, with the newline before them. Only whole lines count, and a beginning
/// without an end is not ours to cut.
fn find(text: &[u8]) -> Option<Range<usize>> {
    let starts_line = |at: usize| at == 0 || text[at - 1] == b'\n';
    let begin = positions(text, BEGIN).find(|at| starts_line(*at))?;
    let inside = begin + BEGIN.len();
    let end = positions(&text[inside..], END).find(|at| starts_line(inside + at))?;
    Some(begin.saturating_sub(1)..inside + end + END.len())
}

fn positions(text: &[u8], word: &[u8]) -> impl Iterator<Item = usize> {
    let windows = text.windows(word.len()).enumerate();
    windows.filter(move |(_, window)| *window == word).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_are_added_once_and_at_the_end() {
        let once = add(b"alias a=b", Shell::Posix, OsStr::new("/home/me/bin"));
        let expected = [
            b"alias a=b\n".as_slice(),
            BEGIN,
            b"case \":$PATH:\" in *:'/home/me/bin':*) ;; *) PATH='/home/me/bin':$PATH; export PATH ;; esac\n",
            END,
        ];
        assert_eq!(once, expected.concat());
        assert_eq!(add(&once, Shell::Posix, OsStr::new("/home/me/bin")), once);
        assert_eq!(remove(&once), b"alias a=b");
    }

    #[test]
    fn another_directory_takes_the_place_of_the_first() {
        let first = add(b"a\n", Shell::Posix, OsStr::new("/one"));
        let first = [&*first, b"behind\n"].concat();
        let second = add(&first, Shell::Posix, OsStr::new("/two"));
        assert_eq!(remove(&second), b"a\nbehind\n");
        let text = String::from_utf8(second).expect("text");
        assert!(!text.contains("/one") && text.ends_with("behind\n"), "{text}");
    }

    #[test]
    fn a_damaged_block_is_left_alone() {
        let damaged = [b"a\n", BEGIN, b"rest\n"].concat();
        assert_eq!(remove(&damaged), damaged);
    }

    #[test]
    fn quotes_are_safe_in_either_shell() {
        let odd = OsStr::new("/a 'b\\$c");
        assert_eq!(quote(Shell::Posix, odd), b"'/a '\\''b\\$c'");
        assert_eq!(quote(Shell::Fish, odd), b"'/a \\'b\\\\$c'");
    }

    proptest! {
        #[test]
        fn a_file_is_the_same_byte_for_byte_once_the_lines_are_out(
            text in proptest::collection::vec(any::<u8>(), 0..60),
            directory in proptest::collection::vec(1u8..=255, 1..20),
        ) {
            let directory = OsStr::from_bytes(&directory);
            for shell in [Shell::Posix, Shell::Fish] {
                let added = add(&text, shell, directory);
                prop_assert_eq!(&add(&added, shell, directory), &added);
                prop_assert_eq!(&remove(&added), &text);
            }
        }
    }
}
