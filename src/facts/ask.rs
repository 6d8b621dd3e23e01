//! Asks programs for their `--help` and `--version`, once per program file: the answers are kept
//! in the user's cache, as we understand them, since dockerd alone takes 30 ms to answer.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use tracing::{debug, warn};

use crate::environment::Environment;
use crate::sys::files;
use crate::sys::process::Running;
use crate::words;

/// Where the answers are kept, below the user's cache.
pub const ANSWERS: &str = "dockerd-rootless/programs.json";

/// How long a program may take to answer.
const DEADLINE: Duration = Duration::from_secs(5);
const CACHE_MAX: u64 = 256 * 1024;

/// How many programs in a row are looked at: wrappers, and what they execute.
const WRAPPERS_MAX: u32 = 4;

/// The largest script in bytes that is read.
const SCRIPT_MAX: u64 = 64 * 1024;

/// The version of this program and of what it keeps.
const WRITER: &str = concat!(env!("CARGO_PKG_VERSION"), "/2");

/// A program's file as it was when the program answered. A program that is replaced, be it by one
/// of the same size and date, has another inode or another change time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
    modified: (i64, i64),
}

impl Identity {
    /// The identity of a program whose answers can be kept: an ELF file. What a script answers
    /// depends on more than the script.
    fn of(path: &Path) -> io::Result<Option<Self>> {
        let (mut file, metadata) = files::open_regular(path)?;
        let mut magic = [0; 4];
        let is_elf = file.read_exact(&mut magic).is_ok() && magic == *b"\x7fELF";
        Ok(is_elf.then(|| Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }))
    }
}

/// The kept answers.
#[derive(Default, Serialize, Deserialize)]
struct Kept {
    /// Another one may ask, or understand, in other ways.
    writer: String,
    /// By program and question. A launch reads only those that it needs.
    answers: BTreeMap<String, (Identity, Box<RawValue>)>,
}

/// The programs' answers, of this launch and of earlier ones.
pub struct ProbeCache {
    search_path: OsString,
    file: Option<PathBuf>,
    kept: Kept,
    is_changed: bool,
}

/// A question that was put to a program.
pub struct Question {
    /// The program and the question: its answer is kept under this.
    what: String,
    /// The program's file, if its answer can be kept.
    identity: Option<Identity>,
    state: State,
}

enum State {
    Kept(Box<RawValue>),
    /// It is not asked, and why.
    Refused(String),
    /// It is being answered.
    Asked(io::Result<Running>),
}

impl ProbeCache {
    /// Opens the cache, for programs that find others in `search_path`.
    pub fn open(environment: &Environment, search_path: OsString, uid: u32) -> Self {
        let file = environment.cache_home().map(|home| home.join(ANSWERS));
        let kept = file.as_deref().and_then(|path| read_kept(path, uid)).unwrap_or_default();
        Self { search_path, file, kept, is_changed: false }
    }

    /// Begins to ask the program `path`; several programs answer at the same time.
    pub fn ask(&self, path: &Path, question: &str) -> Question {
        // A program that may be run but not read is asked each time.
        let identity = Identity::of(path).unwrap_or_default();
        let what = format!("{} {question}", path.display());
        if let Some((kept, facts)) = self.kept.answers.get(&what)
            && identity.as_ref() == Some(kept)
        {
            return Question { what, identity, state: State::Kept(facts.clone()) };
        }
        debug!("asking {what}");
        let mut command = Command::new(path);
        command.arg(question).env("PATH", &self.search_path);
        let state = State::Asked(Running::ask(&mut command, DEADLINE));
        Question { what, identity, state }
    }

    /// As [`Self::ask`], but a script is not asked: what it does with a question is its author's
    /// business, and one that stands in for a daemon may well start it. The program that a wrapper
    /// executes is asked for it.
    pub fn ask_binary(&self, path: &Path, question: &str) -> Question {
        let mut program = path.to_owned();
        let mut why_not = format!("{WRAPPERS_MAX} or more wrappers call each other");
        for _ in 0..WRAPPERS_MAX {
            why_not = match Identity::of(&program) {
                Ok(Some(_)) => return self.ask(&program, question),
                Ok(None) => match executed_by(&program) {
                    Some(next) => {
                        program = next;
                        continue;
                    }
                    None => "it is a script that does not end in `exec /… \"$@\"`".to_owned(),
                },
                Err(error) => format!("its file cannot be read: {error}"),
            };
            break;
        }
        Question { what: String::new(), identity: None, state: State::Refused(why_not) }
    }

    /// Returns what the program answered, as `parse` understands it, or why that is not known.
    pub fn answer<T: Serialize + DeserializeOwned>(
        &mut self,
        question: Question,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, String> {
        let process = match question.state {
            State::Kept(facts) => {
                return serde_json::from_str(facts.get()).map_err(|error| error.to_string());
            }
            State::Refused(why) => return Err(why),
            State::Asked(process) => process,
        };
        let text = process.and_then(Running::answer).map_err(|error| {
            let what = &question.what;
            warn!("`{what}` does not tell what the program can do: {error}");
            error.to_string()
        })?;
        let facts = parse(&text).ok_or("its answer is not understood")?;
        if let (Some(identity), Ok(kept)) = (question.identity, to_raw_value(&facts)) {
            self.kept.answers.insert(question.what, (identity, kept));
            self.is_changed = true;
        }
        Ok(facts)
    }

    /// Keeps what was learnt. A home that cannot be written only costs time at the next launch.
    pub fn keep(mut self) {
        let (true, Some(file)) = (self.is_changed, &self.file) else {
            return;
        };
        WRITER.clone_into(&mut self.kept.writer);
        if let Err(error) = write_kept(file, &self.kept) {
            debug!("{} is not written: {error}", file.display());
        }
    }
}

/// Returns the program that the script `path` executes with its own arguments.
fn executed_by(path: &Path) -> Option<PathBuf> {
    let bytes = files::read_regular(path, SCRIPT_MAX).ok()??;
    target_of(std::str::from_utf8(&bytes).ok()?)
}

/// Returns the program that `script` ends in, if it is named by its whole path, gets the arguments,
/// and is the only one that the script executes: makeWrapper of nixpkgs writes such scripts.
fn target_of(script: &str) -> Option<PathBuf> {
    let lines = script.lines().map(str::trim).filter(|line| !line.is_empty());
    let code: Vec<&str> = lines.filter(|line| !line.starts_with('#')).collect();
    let (last, above) = code.split_last()?;
    if above.iter().any(|line| line.split_whitespace().any(|word| word == "exec")) {
        return None;
    }
    let words = words::split(last.strip_prefix("exec ")?.as_ref()).ok()?;
    let name = if words.first()? == "-a" { 2 } else { 0 };
    let (program, rest) = words.get(name..)?.split_first()?;
    let is_path = program.to_str()?.starts_with('/') && !program.to_str()?.contains(['$', '`']);
    (is_path && rest.last()? == "$@").then(|| program.into())
}

/// Reads the kept answers, if the file is `uid`'s own and no other user can write it.
fn read_kept(path: &Path, uid: u32) -> Option<Kept> {
    let (file, metadata) = files::open_regular(path).ok()?;
    if metadata.uid() != uid || metadata.mode() & 0o022 != 0 {
        debug!("{} is not used: others can write it", path.display());
        return None;
    }
    let bytes = files::read_up_to(file, CACHE_MAX).ok()??;
    let kept: Kept = serde_json::from_slice(&bytes).ok()?;
    (kept.writer == WRITER).then_some(kept)
}

fn write_kept(path: &Path, kept: &Kept) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    files::replace(path, None, &serde_json::to_vec(kept)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrapper_stands_for_the_program_that_it_executes() {
        let nix = "#! /nix/store/b-bash-5.2/bin/bash -e\nPATH=${PATH:+':'$PATH':'}\nPATH='/nix/store/r-runc/bin'$PATH\nexport PATH\nexec ";
        let cases = [
            (
                r#""/nix/store/m-moby-29.5.2/libexec/docker/dockerd"  "$@" "#,
                Some("/nix/store/m-moby-29.5.2/libexec/docker/dockerd"),
            ),
            (
                r#"-a "$0" "/nix/store/d/.dockerd-wrapped"  "$@""#,
                Some("/nix/store/d/.dockerd-wrapped"),
            ),
            (r#"/opt/dockerd --experimental "$@""#, Some("/opt/dockerd")),
            (r#"/opt/dockerd"#, None),
            (r#"dockerd "$@""#, None),
            (r#""$HOME/dockerd" "$@""#, None),
            ("/opt/a \"$@\"\nexec /opt/b \"$@\"", None),
            ("/opt/a \"$@\" || true\necho done", None),
        ];
        for (line, program) in cases {
            let found = target_of(&format!("{nix}{line}\n"));
            assert_eq!(found.as_deref(), program.map(Path::new), "{line}");
        }
    }
}
