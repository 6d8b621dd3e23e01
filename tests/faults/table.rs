//! The table of what happened, written anew with each row that is done: `FAULTS_TABLE` names the file.

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::fs;
use std::sync::Mutex;
use std::time::Duration;

use test_support::client::Count;

const FILE: &str = "FAULTS_TABLE";

const HEAD: &str = "\
# Faults

`make faults` plays these faults and writes this page. Every row uses the real programs: an
unprivileged user's daemon, and if the row is about a running daemon, a container that publishes a
port. Every row ends with a stop that leaves no process, mount, directory, socket or descriptor, and
with a start that runs a container. \"Upstream\" is the `dockerd-rootless.sh` of
the installed packages, with the same fault in the same run. Neither has a service manager, except in
F41.

Detected: from the fault to the message that names it. Recovered: from the fault to the next answer
of the API, or of the part that failed. \"Not within\" says how long the test waited. Each figure is a single measurement.

Containers: \"same process\" if the container's process is the one from before the fault. A container
is lost if it has ended and no other runs, or if no API is left that could reach it. Requests refused:
from the fault on, a client asks `/_ping` up to a hundred times a second; a refused connection and a
wrong answer count. A connection that was open when dockerd died is counted apart, as cut.

| | Fault | | What happened | Detected after | Recovered after | Containers | Requests refused |
|---|---|---|---|---|---|---|---|
";

const TAIL: &str = "
Not played here:

- F17, a logout without linger, needs a booted systemd with logind. `check` warns about it (`linger`).
  A logout sends SIGTERM to the daemon, and every row ends with that.
- F32 to F39 are faults of the installer and of the unit that it writes: `tests/fetch/` and
  `tests/install/` play them.
";

static ROWS: Mutex<BTreeMap<u8, String>> = Mutex::new(BTreeMap::new());

/// A fault, and what came of it.
pub struct Row {
    pub number: u8,
    pub fault: String,
    pub ours: Side,
    pub upstream: Option<Side>,
}

/// What came of a fault with one launcher.
pub struct Side {
    pub happened: String,
    pub detected: Time,
    pub recovered: Time,
    pub containers: Containers,
    /// `None` where no daemon runs that could be asked.
    pub requests: Option<Count>,
}

/// What became of the container that ran before the fault.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Containers {
    Same,
    Restarted,
    Lost,
    /// There was none.
    NoMatter,
}

/// When something came.
#[derive(Clone, Copy)]
pub enum Time {
    After(Duration),
    /// It did not come while somebody looked for so long.
    NotWithin(Duration),
    /// There is nothing that could come.
    NoMatter,
}

impl Side {
    /// What happened, where nothing could be detected or recover, and nothing ran.
    pub fn told(happened: impl Into<String>) -> Self {
        Self {
            happened: happened.into(),
            detected: Time::NoMatter,
            recovered: Time::NoMatter,
            containers: Containers::NoMatter,
            requests: None,
        }
    }

    pub fn detected(mut self, time: Time) -> Self {
        self.detected = time;
        self
    }

    pub fn recovered(mut self, time: Time) -> Self {
        self.recovered = time;
        self
    }

    /// A launch that was refused after this time.
    pub fn refused(happened: impl Into<String>, after: Duration) -> Self {
        Self::told(happened).detected(Time::After(after))
    }
}

/// Whether somebody wants the table.
pub fn is_wanted() -> bool {
    env::var_os(FILE).is_some()
}

/// Adds a row.
pub fn write(row: Row) {
    let file = env::var_os(FILE).expect("a table is wanted");
    let mut rows = ROWS.lock().expect("no other row has failed to be written");
    rows.insert(row.number, row.to_string());
    let body: String = rows.values().map(String::as_str).collect();
    fs::write(&file, format!("{HEAD}{body}{TAIL}"))
        .unwrap_or_else(|e| panic!("{}: {e}", file.display()));
}

impl fmt::Display for Row {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "| F{} | {} | ours | {} |", self.number, self.fault, self.ours)?;
        match &self.upstream {
            Some(upstream) => writeln!(out, "| | | upstream | {upstream} |"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let happened = self.happened.replace('|', "\\|").replace('\n', " ");
        write!(
            out,
            "{happened} | {} | {} | {} | ",
            self.detected, self.recovered, self.containers
        )?;
        match self.requests {
            Some(count) => write!(out, "{count}"),
            None => write!(out, "–"),
        }
    }
}

impl fmt::Display for Containers {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Same => "same process",
            Self::Restarted => "restarted",
            Self::Lost => "lost",
            Self::NoMatter => "–",
        })
    }
}

impl fmt::Display for Time {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::After(time) => write!(out, "{:.2} s", time.as_secs_f64()),
            Self::NotWithin(time) => write!(out, "not within {} s", time.as_secs()),
            Self::NoMatter => write!(out, "–"),
        }
    }
}
