//! Asks programs for their `--help` and `--version`, once per program file: the answers are kept
//! in the user's cache, since dockerd alone takes 30 ms to answer.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use tracing::{debug, warn};

use crate::environment::Environment;
use crate::facts::Answer;
use crate::sys::{files, process};

/// Where the answers are kept, below the user's cache.
pub const ANSWERS: &str = "dockerd-rootless/programs.json";

/// How long a program may take to answer, and how much it may say.
const DEADLINE: Duration = Duration::from_secs(5);
const ANSWER_MAX: usize = 256 * 1024;
const CACHE_MAX: u64 = 256 * 1024;

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
    /// The version of this program that wrote them: another may read other facts.
    writer: String,
    /// By program and question, since a question is asked only where its answer is needed.
    answers: BTreeMap<String, (Identity, Box<RawValue>)>,
}

/// Asks programs and remembers what they say.
pub struct Asker {
    search_path: OsString,
    cache: Option<PathBuf>,
    kept: Kept,
    news: bool,
}

/// A question that was put to a program.
pub enum Question<T> {
    /// Its answer was kept, or it cannot be asked.
    Settled(Answer<T>),
    /// It is being answered.
    Asked {
        /// The program and the question.
        what: String,
        /// What to keep the answer under, if it can be kept.
        key: Option<(String, Identity)>,
        /// The process that answers.
        process: io::Result<Child>,
        /// When to give up.
        deadline: Instant,
    },
}

impl Asker {
    /// An asker with the answers of earlier launches, for programs that find others in
    /// `search_path`.
    pub fn new(environment: &Environment, search_path: OsString, uid: u32) -> Self {
        let cache = environment.cache_home().map(|home| home.join(ANSWERS));
        let kept = cache.as_deref().and_then(|path| read_kept(path, uid)).unwrap_or_default();
        Self { search_path, cache, kept, news: false }
    }

    /// Begins to ask the program `path`; several programs answer at the same time.
    pub fn ask<T: DeserializeOwned>(&self, path: &Path, question: &str) -> Question<T> {
        // A program that may be run but not read is asked each time.
        self.ask_identified(path, Identity::of(path).unwrap_or_default(), question)
    }

    fn ask_identified<T: DeserializeOwned>(
        &self,
        path: &Path,
        identity: Option<Identity>,
        question: &str,
    ) -> Question<T> {
        let key = path.to_str().map(|path| format!("{path} {question}"));
        let key = key.zip(identity);
        if let Some((key, identity)) = &key
            && let Some((kept, facts)) = self.kept.answers.get(key)
            && kept == identity
            && let Ok(facts) = serde_json::from_str(facts.get())
        {
            return Question::Settled(Answer::Known(facts));
        }
        let what = format!("{} {question}", path.display());
        debug!("asking {what}");
        let mut command = Command::new(path);
        command.arg(question).env("PATH", &self.search_path).process_group(0);
        let process = process::tie(&mut command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        Question::Asked { what, key, process, deadline: Instant::now() + DEADLINE }
    }

    /// As [`Self::ask`], but a script is not asked: what it does with a question is its author's
    /// business, and one that stands in for a daemon may well start it.
    pub fn ask_binary<T: DeserializeOwned>(&self, path: &Path, question: &str) -> Question<T> {
        match Identity::of(path) {
            Ok(identity @ Some(_)) => self.ask_identified(path, identity, question),
            Ok(None) => {
                Question::Settled(Answer::Unknown("it is a script, which is not asked".to_owned()))
            }
            Err(error) => {
                Question::Settled(Answer::Unknown(format!("its file cannot be read: {error}")))
            }
        }
    }

    /// What the program answered, as `parse` understands it.
    pub fn answer<T: Serialize>(
        &mut self,
        question: Question<T>,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Answer<T> {
        let (what, key, process, deadline) = match question {
            Question::Settled(answer) => return answer,
            Question::Asked { what, key, process, deadline } => (what, key, process, deadline),
        };
        let text = match process.and_then(|process| read_answer(process, deadline)) {
            Ok(text) => text,
            Err(error) => {
                warn!("`{what}` does not tell what the program can do: {error}");
                return Answer::Unknown(error.to_string());
            }
        };
        let Some(facts) = parse(&text) else {
            return Answer::Unknown("its answer is not understood".to_owned());
        };
        if let (Some((key, identity)), Ok(raw)) = (key, to_raw_value(&facts)) {
            self.kept.answers.insert(key, (identity, raw));
            self.news = true;
        }
        Answer::Known(facts)
    }

    /// Keeps what was learnt. A home that cannot be written only costs time at the next launch.
    pub fn keep(mut self) {
        let (true, Some(cache)) = (self.news, &self.cache) else {
            return;
        };
        env!("CARGO_PKG_VERSION").clone_into(&mut self.kept.writer);
        if let Err(error) = write_kept(cache, &self.kept) {
            debug!("{} is not written: {error}", cache.display());
        }
    }
}

/// Reads the kept answers, if the file is `uid`'s own and nobody else can write it.
fn read_kept(path: &Path, uid: u32) -> Option<Kept> {
    let (file, metadata) = files::open_regular(path).ok()?;
    if metadata.uid() != uid || metadata.mode() & 0o022 != 0 {
        debug!("{} is passed over: others can write it", path.display());
        return None;
    }
    let bytes = files::read_up_to(file, CACHE_MAX).ok()??;
    serde_json::from_slice(&bytes)
        .ok()
        .filter(|kept: &Kept| kept.writer == env!("CARGO_PKG_VERSION"))
}

/// Writes the kept answers beside the file and moves them over it.
fn write_kept(path: &Path, kept: &Kept) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let beside = directory.join(format!("programs.json.{}", std::process::id()));
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&beside)?;
    let written =
        serde_json::to_writer(&mut file, kept).map_err(io::Error::from).and_then(|()| file.flush());
    written.and_then(|()| fs::rename(&beside, path)).inspect_err(|_| {
        let _ = fs::remove_file(&beside);
    })
}

/// What `child` writes, at the latest until `deadline`.
fn read_answer(mut child: Child, deadline: Instant) -> io::Result<String> {
    let text = read_stdout(&mut child, deadline);
    // A program that has closed its output has said all; one that has not must not outlive us,
    // and neither must what it started.
    if let Ok(group) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    child.wait()?;
    text
}

fn read_stdout(child: &mut Child, deadline: Instant) -> io::Result<String> {
    let mut stdout = child.stdout.take().ok_or_else(|| io::Error::other("it has no output"))?;
    let mut text = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)], timeout) {
            // The supervisor is told when a child ends.
            Err(Errno::EINTR) => continue,
            Ok(0) => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("it did not answer within {} s", DEADLINE.as_secs()),
                ));
            }
            other => other?,
        };
        match stdout.read(&mut buffer)? {
            0 => return Ok(String::from_utf8_lossy(&text).into_owned()),
            count => text.extend_from_slice(&buffer[..count]),
        }
        if text.len() > ANSWER_MAX {
            return Err(io::Error::other("its answer has no end"));
        }
    }
}
