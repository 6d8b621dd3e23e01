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
# Faults, and what came of them

`make faults` plays these faults and writes this page. Each row was played with the real programs:
an unprivileged user's daemon, with a container that publishes a port where the row is about a
daemon that runs. Each ended in a stop after which no process, mount, directory, socket or
descriptor was left, and in a start that ran a container. \"Upstream\" is the `dockerd-rootless.sh` of
the installed packages, put through the same fault in the same run; neither had a service manager,
but in F41.

Detected: from the fault to the message that names it. Recovered: from the fault to the next answer
of the API, or of what had failed. \"Not within\" is how long somebody looked. Single measurements.

Containers: whether the container's process is the one from before the fault. It is lost when it has
ended and no other runs, or when no API is left through which anybody could reach it. Requests
refused: a client asks `/_ping` again and again from the fault on, a hundred times a second at most;
refused is a connection that nobody takes, or a wrong answer. A connection that is open when dockerd
dies ends with it, which is told apart as cut.

| | Fault | | What happened | Detected after | Recovered after | Containers | Requests refused |
|---|---|---|---|---|---|---|---|
";

const TAIL: &str = "
What is not played here:

- F17, a logout without linger: it takes a booted systemd with logind. `check` warns (`linger`), and
  the stop by SIGTERM that a logout is to the daemon is in every row.
- F32 to F39 are faults of the installer and of the unit that it writes: `tests/fetch.rs` and
  `tests/install.rs` play them.
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
