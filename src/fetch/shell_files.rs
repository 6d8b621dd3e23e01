//! The user's shell files: which of them get the lines for PATH, and the careful edit.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};
use tracing::warn;

use crate::environment::Environment;
use crate::facts::look;
use crate::fetch::failpoint;
use crate::fetch::path_lines;
use crate::fetch::path_lines::Shell;
use crate::fetch::state::ShellFile;
use crate::sys::files;

/// The largest shell file in bytes that is edited.
const MAX: u64 = 1 << 20;

/// Ours alone, in fish's directory of such pieces.
const FISH_FILE: &str = "conf.d/dockerd-rootless.fish";

/// The files that get the lines: `~/.profile`, which every login shell of the family but bash's own
/// reads, and whatever else is there that is read instead of it.
pub fn candidates(environment: &Environment) -> Vec<PathBuf> {
    let Some(home) = environment.absolute("HOME") else {
        return Vec::new();
    };
    let zsh = environment.absolute("ZDOTDIR").unwrap_or_else(|| home.clone());
    let others = [
        home.join(".bash_profile"),
        home.join(".bash_login"),
        home.join(".bashrc"),
        zsh.join(".zprofile"),
        zsh.join(".zshrc"),
    ];
    let mut found = vec![home.join(".profile")];
    found.extend(others.into_iter().filter(|path| path.is_file()));
    if let Some(fish) = environment.config_home().map(|config| config.join("fish"))
        && fish.is_dir()
    {
        found.push(fish.join(FISH_FILE));
    }
    found
}

/// Whether `directory` is in PATH already.
pub fn is_in_path(environment: &Environment, directory: &Path) -> bool {
    let path = environment.get("PATH").unwrap_or_default();
    std::env::split_paths(path).any(|entry| entry == directory)
}

/// Whether `file` lacks our lines for `directory`.
pub fn lacks(file: &Path, directory: &OsStr) -> bool {
    let text = read(file).unwrap_or_default().unwrap_or_default();
    path_lines::add(&text, shell_of(file), directory) != text
}

/// Writes our lines for `directory` into `file`. Whether they were not there before; where it
/// cannot be written, the line to add is shown instead.
pub fn add(file: &ShellFile, directory: &OsStr) -> bool {
    let shell = shell_of(&file.path);
    let edited = edit(&file.path, |text| path_lines::add(text, shell, directory));
    failpoint::pass("shell-file-edited");
    edited.unwrap_or_else(|error| {
        let line = path_lines::line(shell, directory);
        warn!(
            "`{}` cannot be edited ({error}); add this line to it yourself: {}",
            file.path.display(),
            String::from_utf8_lossy(&line).trim_end()
        );
        false
    })
}

/// Takes our lines out of `file`, and the file away if we made it and nothing else is in it.
/// Whether there were any.
pub fn remove(file: &ShellFile) -> bool {
    let removed = edit(&file.path, path_lines::remove).and_then(|edited| {
        let is_empty = fs::symlink_metadata(&file.path)
            .is_ok_and(|metadata| metadata.is_file() && metadata.len() == 0);
        if file.created && is_empty {
            fs::remove_file(&file.path)?;
        }
        Ok(edited)
    });
    removed.unwrap_or_else(|error| {
        warn!(
            "`{}` cannot be edited ({error}); take our lines out of it yourself",
            file.path.display()
        );
        false
    })
}

/// Whether `file` has lines of ours.
pub fn has_lines(file: &Path) -> bool {
    read(file).ok().flatten().is_some_and(|text| path_lines::remove(&text) != text)
}

fn shell_of(file: &Path) -> Shell {
    match file.extension() {
        Some(extension) if extension == "fish" => Shell::Fish,
        _ => Shell::Posix,
    }
}

/// The bytes of `file`; `None` if there is none.
fn read(file: &Path) -> io::Result<Option<Vec<u8>>> {
    match files::read_regular(file, MAX) {
        Ok(Some(text)) => Ok(Some(text)),
        Ok(None) => Err(io::Error::other("it is larger than 1 MiB")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Changes the text of `file`, whole or not at all. A link stays, and what it leads to keeps its
/// owner and mode. Whether it changed.
fn edit(file: &Path, change: impl FnOnce(&[u8]) -> Vec<u8>) -> io::Result<bool> {
    let there = read(file)?;
    let text = there.as_deref().unwrap_or_default();
    let edited = change(text);
    if edited == text {
        return Ok(false);
    }
    let end = files::end_of_links(file);
    let old = fs::metadata(&end).ok();
    if let Some(old) = &old {
        access(&end, AccessFlags::W_OK)?;
        if old.uid() != look::uid() {
            let owner = format!("it belongs to user {}", old.uid());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, owner));
        }
    } else if let Some(directory) = end.parent() {
        fs::create_dir_all(directory)?;
    }
    files::replace(&end, old.as_ref(), &edited)?;
    Ok(true)
}
