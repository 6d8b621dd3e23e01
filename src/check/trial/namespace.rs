//! Tries to make a user namespace and to have the subordinate ids mapped into it. A process of its
//! own makes the namespace, for the way in is a way of no return; newuidmap and newgidmap are run
//! on it from outside, as rootlesskit does.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};
use serde::{Deserialize, Serialize};

use crate::check::trial::{tried, tried_io};
use crate::error::{Error, Exit};
use crate::facts::Outcome;
use crate::sys::process;

/// The first word of the namespace's command line.
pub const NAMESPACE: &str = "trial-namespace";

/// Why nothing was tried in a namespace that could not be made.
pub const NONE: &str = "no user namespace can be made";

/// What comes of it.
#[derive(Default, Serialize, Deserialize)]
pub struct Tried {
    /// The namespace is made.
    pub user_namespace: Outcome,
    /// Its owner may make other namespaces in it.
    pub capabilities: Outcome,
    /// User ids are mapped.
    pub uid_map: Outcome,
    /// Group ids are mapped.
    pub gid_map: Outcome,
}

/// A process in a new user namespace.
pub struct Namespace {
    process: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Namespace {
    /// Starts it.
    ///
    /// # Errors
    /// What the system says.
    pub fn start() -> io::Result<Self> {
        let mut process = Command::new("/proc/self/exe")
            .arg(NAMESPACE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let missing = || io::Error::other("it has no pipes");
        Ok(Self {
            orders: process.stdin.take(),
            answers: BufReader::new(process.stdout.take().ok_or_else(missing)?),
            process,
        })
    }

    /// Maps ids as `map` does, which is given the process's PID, and says what came of everything.
    ///
    /// # Errors
    /// What the system says, or that the process was killed.
    pub fn finish(mut self, map: impl FnOnce(u32) -> (Outcome, Outcome)) -> io::Result<Tried> {
        let none = || Outcome::NotTried(NONE.to_owned());
        let mut tried = Tried {
            user_namespace: self.answer()?,
            capabilities: none(),
            uid_map: none(),
            gid_map: none(),
        };
        if tried.user_namespace.works() {
            (tried.uid_map, tried.gid_map) = map(self.process.id());
            if let Some(mut orders) = self.orders.take() {
                orders.write_all(b"\n")?;
            }
            tried.capabilities = self.answer()?;
        }
        Ok(tried)
    }

    fn answer(&mut self) -> io::Result<Outcome> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        serde_json::from_str(&line).map_err(io::Error::from)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The process: makes the namespace, says so, waits until it is mapped, and tries what it may do.
///
/// # Errors
/// Fails if nobody listens.
pub fn run() -> Result<(), Error> {
    let fails = |error: io::Error| Error::new(Exit::Failed, "the trial failed").because(&error);
    process::die_with_parent().map_err(|errno| fails(errno.into()))?;
    let (uid, gid) = (geteuid(), getegid());
    let made = tried(unshare(CloneFlags::CLONE_NEWUSER));
    say(&made).map_err(fails)?;
    let mut order = [0];
    if !made.works() || io::stdin().read(&mut order).map_err(fails)? == 0 {
        return Ok(());
    }
    let is_mapped = |file: &str| fs::read_to_string(file).is_ok_and(|map| !map.is_empty());
    let own = || -> io::Result<()> {
        if !is_mapped("/proc/self/gid_map") {
            fs::write("/proc/self/setgroups", "deny")?;
            fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
        }
        if !is_mapped("/proc/self/uid_map") {
            fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
        }
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)?;
        Ok(())
    };
    say(&tried_io(own())).map_err(fails)
}

fn say(outcome: &Outcome) -> io::Result<()> {
    let mut line = serde_json::to_vec(outcome)?;
    line.push(b'\n');
    io::stdout().write_all(&line)?;
    io::stdout().flush()
}

/// The words for newuidmap or newgidmap that map `own` to 0 and `ranges` to what follows, as
/// rootlesskit gives them.
pub fn map_words(pid: u32, own: u32, ranges: &[(u32, u32)]) -> Vec<String> {
    let mut words = vec![pid, 0, own, 1];
    let mut next = 1;
    for (first, count) in ranges {
        words.extend([next, *first, *count]);
        next += count;
    }
    words.iter().map(u32::to_string).collect()
}
