//! The rooms of the house: which may use which, and which files only think.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms from the bottom to the top: each uses only those before it.
const ROOMS: [&str; 15] = [
    "error",
    "words",
    "environment",
    "sys",
    "settings",
    "facts",
    "plan",
    "stage",
    "supervise",
    "check",
    "setup",
    "fetch",
    "oci",
    "verify",
    "cli",
];

/// Arrows up that are left: the room, and what it uses.
const LEFT: &[(&str, &str)] = &[("sys", "supervise")];

/// Files and directories that only think, without those that look or act.
const PURE: &[(&str, &[&str])] = &[
    ("src/error.rs", &[]),
    ("src/words.rs", &[]),
    ("src/environment.rs", &[]),
    ("src/settings", &[]),
    ("src/plan", &[]),
    ("src/facts", &["ask.rs", "look.rs", "probe.rs"]),
    ("src/supervise/machine.rs", &[]),
    ("src/check", &["mod.rs", "survey.rs", "trial"]),
    ("src/setup", &["inspect.rs", "perform.rs", "purge.rs"]),
    ("src/fetch/checksum.rs", &[]),
    ("src/oci", &[]),
    ("src/verify/report.rs", &[]),
];

/// What a file that only thinks does not name.
const IMPURE: [&str; 8] = [
    "std::fs",
    "std::process",
    "std::net::Tcp",
    "std::net::Udp",
    "env::var",
    "env::current",
    "env::args",
    " nix::",
];

/// Returns the source files below `path`, or the file itself.
fn sources(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else {
        return if path.is_file() { vec![path.to_owned()] } else { Vec::new() };
    };
    entries.flat_map(|entry| sources(&entry.expect("an entry").path())).collect()
}

/// Returns the code of a file, without comments and without its tests.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("a source file");
    let code = text.split("\n#[cfg(test)]\n").next().unwrap_or_default();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn is_test(path: &Path) -> bool {
    path.iter().any(|part| {
        ["tests.rs", "tests", "samples.rs", "hosts.rs"].iter().any(|name| part == *name)
    })
}

/// Returns the rooms that `code` names as `crate::ROOM`, alone or in braces.
fn named(code: &str) -> BTreeSet<&'static str> {
    let of = |part: &str, room: &str| {
        let rest = part.strip_prefix(room)?;
        Some(!rest.starts_with(|next: char| next.is_alphanumeric() || next == '_'))
    };
    let is_named = |room: &str| {
        code.split("crate::").skip(1).any(|part| match part.strip_prefix('{') {
            Some(list) => {
                let list = list.split('}').next().unwrap_or_default();
                list.split(',').any(|part| of(part.trim(), room) == Some(true))
            }
            None => of(part, room) == Some(true),
        })
    };
    ROOMS.into_iter().filter(|room| is_named(room)).collect()
}

#[test]
fn every_room_uses_only_those_below_it() {
    let mut up = BTreeSet::new();
    for (height, room) in ROOMS.iter().enumerate() {
        let paths = [format!("src/{room}"), format!("src/{room}.rs")];
        let files = paths.iter().flat_map(|path| sources(Path::new(path)));
        for file in files.filter(|file| !is_test(file)) {
            for used in named(&code(&file)) {
                let is_up = ROOMS.iter().position(|room| *room == used) > Some(height);
                if is_up && !LEFT.contains(&(room, used)) {
                    up.insert(format!("{} uses {used}", file.display()));
                }
            }
        }
    }
    assert!(up.is_empty(), "arrows up: {up:#?}");
}

#[test]
fn pure_files_name_nothing_of_the_system() {
    let mut impure = Vec::new();
    for (path, but) in PURE {
        assert!(Path::new(path).exists(), "{path} has moved");
        for file in sources(Path::new(path)).into_iter().filter(|file| !is_test(file)) {
            if but.iter().any(|name| file.iter().any(|part| part == *name)) {
                continue;
            }
            let code = code(&file);
            let named = IMPURE.iter().filter(|name| code.contains(**name));
            impure.extend(named.map(|name| format!("{} names {name}", file.display())));
        }
    }
    assert!(impure.is_empty(), "{impure:#?}");
}
