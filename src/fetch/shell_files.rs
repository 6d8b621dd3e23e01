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
use crate::fetch::plan::ShellFile;
use crate::sys::files;

/// The first line of ours.
const BEGIN: &[u8] =
    b"# >>> dockerd-rootless >>> (`dockerd-rootless fetch --remove` takes this out)\n";
/// The last one.
const END: &[u8] = b"# <<< dockerd-rootless <<<\n";

/// The largest shell file in bytes that is edited.
const MAX: u64 = 1 << 20;

/// Returns the files that get the lines: `~/.profile`, which every login shell of the family but
/// bash's own reads, and those that exist of the ones that are read instead of it.
pub fn candidates(environment: &Environment) -> Vec<PathBuf> {
    let Some(home) = environment.absolute("HOME") else {
        return Vec::new();
    };
    let zsh = environment.absolute("ZDOTDIR").unwrap_or_else(|| home.clone());
    let mut found = vec![home.join(".profile")];
    let bash = [".bash_profile", ".bash_login", ".bashrc"].map(|name| home.join(name));
    let others = bash.into_iter().chain([".zprofile", ".zshrc"].map(|name| zsh.join(name)));
    found.extend(others.filter(|path| path.is_file()));
    if let Some(fish) = environment.config_home().map(|config| config.join("fish"))
        && fish.is_dir()
    {
        found.push(fish.join("conf.d/dockerd-rootless.fish"));
    }
    // The state can hold no other.
    found.retain(|path| path.to_str().is_some());
    found
}

/// Says whether `directory` is in PATH already.
pub fn is_in_path(environment: &Environment, directory: &Path) -> bool {
    let path = environment.get("PATH").unwrap_or_default();
    std::env::split_paths(path).any(|entry| entry == directory)
}

/// Says whether `file` lacks our lines for `directory`.
pub fn lacks(file: &Path, directory: &str) -> bool {
    let text = read(file).unwrap_or_default();
    add_to(&text, &line(file, directory)) != text
}

/// Says whether `file` has lines of ours, or is an empty one that we made.
pub fn has_traces(file: &ShellFile) -> bool {
    read(&file.path).is_ok_and(|text| {
        remove_from(&text) != text || (file.created && text.is_empty() && file.path.is_file())
    })
}

/// Writes our lines for `directory` into `file`. Where it cannot be written, the line to add is shown
/// instead. Says whether it was written.
pub fn add(file: &Path, directory: &str) -> bool {
    let line = line(file, directory);
    edit(file, |text| add_to(text, &line)).unwrap_or_else(|error| {
        let file = file.display();
        warn!("cannot edit `{file}` ({error}); add this line to it yourself: {}", line.trim_end());
        false
    })
}

/// Takes our lines out of `file`, and removes it if we made it and nothing else is in it. Says
/// whether it did.
pub fn remove(file: &ShellFile) -> bool {
    let path = &file.path;
    let edited = edit(path, remove_from).and_then(|edited| {
        let is_empty =
            path.symlink_metadata().is_ok_and(|there| there.is_file() && there.len() == 0);
        if file.created && is_empty {
            fs::remove_file(path)?;
        }
        Ok(edited || is_empty)
    });
    edited.unwrap_or_else(|error| {
        warn!("cannot edit `{}` ({error}); remove our lines from it yourself", path.display());
        false
    })
}

/// Reads `file`; one that is missing is empty.
fn read(file: &Path) -> io::Result<Vec<u8>> {
    match files::read_regular(file, MAX) {
        Ok(text) => text.ok_or_else(|| io::Error::other("it is larger than 1 MiB")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Changes the text of `file`, whole or not at all. A link stays, and what it leads to keeps its
/// owner and mode. Says whether it changed.
fn edit(file: &Path, change: impl FnOnce(&[u8]) -> Vec<u8>) -> io::Result<bool> {
    let text = read(file)?;
    let edited = change(&text);
    if edited == text {
        return Ok(false);
    }
    let end = files::end_of_links(file);
    let old = fs::metadata(&end).ok();
    if let Some(old) = &old {
        access(&end, AccessFlags::W_OK)?;
        if old.uid() != look::uid() {
            return Err(io::Error::other(format!("it belongs to user {}", old.uid())));
        }
    } else if let Some(directory) = end.parent() {
        fs::create_dir_all(directory)?;
    }
    files::replace(&end, old.as_ref(), &edited)?;
    Ok(true)
}

/// Returns the line that puts `directory` first in PATH, once, for the shell that reads `file`.
fn line(file: &Path, directory: &str) -> String {
    let is_fish = file.extension().is_some_and(|extension| extension == "fish");
    let quoted = quote(directory, is_fish);
    if is_fish {
        return format!("contains -- {quoted} $PATH; or set -gx PATH {quoted} $PATH\n");
    }
    // Inside of the pattern the quotes also take the meaning from `*` and `?`.
    format!("case \":$PATH:\" in *:{quoted}:*) ;; *) PATH={quoted}:$PATH; export PATH ;; esac\n")
}

/// Puts `text` in single quotes, in which nothing has a meaning but the quote itself (in fish a
/// backslash as well).
fn quote(text: &str, is_fish: bool) -> String {
    let inner = match is_fish {
        true => text.replace('\\', r"\\").replace('\'', r"\'"),
        false => text.replace('\'', r"'\''"),
    };
    format!("'{inner}'")
}

/// Returns `text` with our lines around `line` at its end, instead of any that are there already.
///
/// A newline comes before them and is part of what is ours: it ends a last line that has none, and
/// is a blank line elsewhere. So taking it out restores the file either way.
fn add_to(text: &[u8], line: &str) -> Vec<u8> {
    let mut edited = remove_from(text);
    // What follows ours keeps following it.
    let place = find(text).map_or(edited.len(), |place| place.start);
    let newline: &[u8] = if place == 0 { b"" } else { b"\n" };
    let block = [newline, BEGIN, line.as_bytes(), END].concat();
    edited.splice(place..place, block);
    edited
}

/// Returns `text` without our lines.
fn remove_from(text: &[u8]) -> Vec<u8> {
    let mut text = text.to_vec();
    while let Some(place) = find(&text) {
        text.drain(place);
    }
    text
}

/// Finds our lines, with the newline before them. Only whole lines count, and a beginning without an
/// end is not ours to cut.
fn find(text: &[u8]) -> Option<Range<usize>> {
    let starts_line = |at: usize| at == 0 || text[at - 1] == b'\n';
    let begin = positions(text, BEGIN).find(|at| starts_line(*at))?;
    let inside = begin + BEGIN.len();
    let end = positions(&text[inside..], END).find(|at| starts_line(inside + at))?;
    Some(begin.saturating_sub(1)..inside + end + END.len())
}

fn positions(text: &[u8], part: &[u8]) -> impl Iterator<Item = usize> {
    let windows = text.windows(part.len()).enumerate();
    windows.filter(move |(_, window)| *window == part).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn add(text: &[u8], directory: &str) -> Vec<u8> {
        add_to(text, &line(Path::new(".profile"), directory))
    }

    #[test]
    fn lines_are_added_once_and_at_the_end() {
        let once = add(b"alias a=b", "/home/me/bin");
        let expected = [
            b"alias a=b\n".as_slice(),
            BEGIN,
            b"case \":$PATH:\" in *:'/home/me/bin':*) ;; *) PATH='/home/me/bin':$PATH; export PATH ;; esac\n",
            END,
        ];
        assert_eq!(once, expected.concat());
        assert_eq!(add(&once, "/home/me/bin"), once);
        assert_eq!(remove_from(&once), b"alias a=b");
    }

    #[test]
    fn another_directory_takes_the_place_of_the_first() {
        let first = [&*add(b"a\n", "/one"), b"behind\n"].concat();
        let second = add(&first, "/two");
        assert_eq!(remove_from(&second), b"a\nbehind\n");
        let text = String::from_utf8(second).expect("text");
        assert!(!text.contains("/one") && text.ends_with("behind\n"), "{text}");
    }

    #[test]
    fn a_damaged_block_is_left_alone() {
        let damaged = [b"a\n", BEGIN, b"rest\n"].concat();
        assert_eq!(remove_from(&damaged), damaged);
    }

    #[test]
    fn quotes_are_safe_in_either_shell() {
        assert_eq!(quote("/a 'b\\$c", false), r"'/a '\''b\$c'");
        assert_eq!(quote("/a 'b\\$c", true), r"'/a \'b\\$c'");
    }

    proptest! {
        #[test]
        fn a_file_is_the_same_byte_for_byte_once_the_lines_are_out(
            text in proptest::collection::vec(any::<u8>(), 0..60), directory in "[^\n\0]{1,20}",
        ) {
            for file in [".profile", "x.fish"] {
                let line = line(Path::new(file), &directory);
                let added = add_to(&text, &line);
                prop_assert_eq!(&add_to(&added, &line), &added);
                prop_assert_eq!(&remove_from(&added), &text);
            }
        }
    }
}
