//! The lines in a user's shell files that put the directory of programs into PATH: written once, and
//! taken out again so that every other byte stays what it was.

use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};
use tracing::warn;

use crate::environment::Environment;
use crate::facts::look;
use crate::sys::files;
use crate::words;

/// The first line of ours.
const BEGIN: &[u8] =
    b"# >>> dockerd-rootless >>> (`dockerd-rootless fetch --remove` takes this out)\n";
/// The last one.
const END: &[u8] = b"# <<< dockerd-rootless <<<\n";

/// The largest shell file in bytes that is edited.
const MAX: u64 = 1 << 20;

/// Returns the files that have our lines, or that lack them: `~/.profile`, which every login shell of the
/// family but bash's own reads, and those that exist of the ones that are read instead of it.
pub fn files(environment: &Environment, has_lines: bool) -> Vec<PathBuf> {
    let Some(home) = environment.absolute("HOME") else {
        return Vec::new();
    };
    let zsh = environment.absolute("ZDOTDIR").unwrap_or_else(|| home.clone());
    let mut found = vec![home.join(".profile")];
    let bash = [".bash_profile", ".bash_login", ".bashrc"].map(|name| home.join(name));
    let others = bash.into_iter().chain([".zprofile", ".zshrc"].map(|name| zsh.join(name)));
    found.extend(others.filter(|path| path.is_file()));
    let fish = environment.config_home().unwrap_or(home).join("fish");
    if fish.is_dir() {
        found.push(fish.join("conf.d/dockerd-rootless.fish"));
    }
    found.retain(|file| {
        let text = read(file).ok().flatten().unwrap_or_default();
        find(&text).is_some() == has_lines
    });
    found
}

/// Writes our lines for `directory` into `file`. Says whether it did.
pub fn add(file: &Path, directory: &Path) -> bool {
    let line = line(file, directory);
    let by_hand = format!("add this line to it yourself: {}", line.trim_end());
    edit(file, &by_hand, |text| add_to(text, &line))
}

/// Takes our lines out of `file`. Says whether it did.
pub fn remove(file: &Path) -> bool {
    edit(file, "remove our lines from it yourself", |text| remove_from(text.unwrap_or_default()))
}

/// Changes the text of `file`, whole or not at all. A link stays, and what it leads to keeps its mode. Where
/// that fails, `by_hand` says what to do.
fn edit(file: &Path, by_hand: &str, change: impl FnOnce(Option<&[u8]>) -> Vec<u8>) -> bool {
    let edited = read(file).and_then(|old| {
        let (new, end) = (change(old.as_deref()), files::end_of_links(file));
        let Ok(there) = fs::metadata(&end) else {
            return files::write_whole(&end, &new);
        };
        access(&end, AccessFlags::W_OK)?;
        // A replaced file would be ours from then on.
        if there.uid() != look::uid() {
            return Err(io::Error::other(format!("it belongs to user {}", there.uid())));
        }
        // Nothing but our lines was ever in it.
        if new.is_empty() && old.is_some_and(|old| old.starts_with(BEGIN)) {
            return fs::remove_file(&end);
        }
        files::replace(&end, Some(&there), &new)
    });
    if let Err(error) = &edited {
        warn!("cannot edit `{}` ({error}); {by_hand}", file.display());
    }
    edited.is_ok()
}

/// Reads `file`, `None` if it is missing.
fn read(file: &Path) -> io::Result<Option<Vec<u8>>> {
    match files::read_regular(file, MAX) {
        Ok(None) => Err(io::Error::other("it is larger than 1 MiB")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other,
    }
}

/// Returns the line that puts `directory` first in PATH, once, for the shell that reads `file`.
fn line(file: &Path, directory: &Path) -> String {
    let quoted = words::quoted(directory);
    if file.extension().is_some_and(|extension| extension == "fish") {
        return format!("contains -- {quoted} $PATH; or set -gx PATH {quoted} $PATH\n");
    }
    format!("case \":$PATH:\" in *:{quoted}:*) ;; *) PATH={quoted}:$PATH; export PATH ;; esac\n")
}

/// Returns `text` with our lines around `line` at its end. Where there is a file, a newline before them is
/// part of what is ours: it ends a last line that has none. So taking it out restores the file.
fn add_to(text: Option<&[u8]>, line: &str) -> Vec<u8> {
    let newline: &[u8] = if text.is_some() { b"\n" } else { b"" };
    [text.unwrap_or_default(), newline, BEGIN, line.as_bytes(), END].concat()
}

/// Returns `text` without our lines.
fn remove_from(text: &[u8]) -> Vec<u8> {
    let place = find(text).unwrap_or_default();
    [&text[..place.start], &text[place.end..]].concat()
}

/// Finds our lines, with the newline before them. A beginning without an end is not ours to cut.
fn find(text: &[u8]) -> Option<Range<usize>> {
    let find = |part: &[u8]| text.windows(part.len()).position(|window| window == part);
    let (begin, end) = (find(BEGIN)?, find(END)? + END.len());
    let has_newline = begin > 0 && text[begin - 1] == b'\n';
    (begin < end).then(|| begin - usize::from(has_newline)..end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn add(text: &[u8], directory: &str) -> Vec<u8> {
        add_to(Some(text), &line(Path::new(".profile"), Path::new(directory)))
    }

    #[test]
    fn lines_are_added_at_the_end() {
        let once = add(b"alias a=b", "/home/me/bin");
        let expected = [
            b"alias a=b\n".as_slice(),
            BEGIN,
            b"case \":$PATH:\" in *:/home/me/bin:*) ;; *) PATH=/home/me/bin:$PATH; export PATH ;; esac\n",
            END,
        ];
        assert_eq!(once, expected.concat());
        assert_eq!(remove_from(&once), b"alias a=b");
    }

    #[test]
    fn a_damaged_block_is_left_alone() {
        let damaged = [b"a\n", BEGIN, b"rest\n"].concat();
        assert_eq!(remove_from(&damaged), damaged);
    }

    proptest! {
        #[test]
        fn a_file_is_the_same_byte_for_byte_once_the_lines_are_out(
            text in proptest::collection::vec(any::<u8>(), 0..60), directory in "[^\n\0]{1,20}",
        ) {
            for file in [".profile", "x.fish"] {
                let line = line(Path::new(file), Path::new(&directory));
                let added = add_to(Some(&text), &line);
                prop_assert_eq!(&remove_from(&added), &text);
                prop_assert!(!added.starts_with(BEGIN));
                let made = add_to(None, &line);
                prop_assert!(made.starts_with(BEGIN) && remove_from(&made).is_empty());
            }
        }
    }
}
