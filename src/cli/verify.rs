//! `verify`: proves the daemon that runs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use serde_json::{Value, json};
use tracing::warn;

use crate::cli::output::{self, Format, one_line, paint, plural, wrap};
use crate::cli::status::{UNSUPERVISED, find_unsupervised};
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::{look, places};
use crate::plan;
use crate::settings::Flags;
use crate::supervise;
use crate::sys::{processes, terminal};
use crate::verify::{self, CHECKS, Check, Event, FORMS, Launch, Lie, Row, SURVIVAL, Status};

/// The word, the mark and the color of each status, in their order.
const STATUSES: [(&str, &str, u8); 4] =
    [("pass", "✓", 32), ("FAIL", "✗", 31), ("skip", "-", 36), ("info", "i", 34)];

#[derive(Default, clap::Args)]
pub struct VerifyOptions {
    /// Output format
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Answer only these questions, separated by commas
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = names())]
    #[arg(hide_possible_values = true)]
    only: Vec<String>,
    /// Answer all but these questions, separated by commas
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = names())]
    #[arg(hide_possible_values = true)]
    skip: Vec<String>,
    /// How many forms of image to try
    #[arg(long, value_enum, value_name = "WHICH", default_value = "core")]
    images: Images,
    /// Also kill dockerd, and see whether containers live on; not while it would harm your own
    #[arg(long)]
    disruptive: bool,
    /// Serve images that are wrong in this way, to see that it is noticed
    #[arg(long, hide = true, value_name = "HOW", value_enum)]
    lie: Option<Lie>,
    /// List the questions
    #[arg(long)]
    list: bool,
}

fn names() -> PossibleValuesParser {
    PossibleValuesParser::new(CHECKS.iter().map(|check| check.name))
}

/// Which forms of image are tried.
#[derive(Default, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Images {
    #[default]
    Core,
    All,
}

/// Answers the questions.
pub fn run(
    environment: &Environment,
    options: &VerifyOptions,
    colored: bool,
) -> Result<Exit, Error> {
    let checks = selected(options)?;
    if options.list {
        let line = |check: &&Check| format!("{:21} {}\n", check.name, check.question);
        let text: String = checks.iter().map(line).collect();
        return output::tell(options.format, json!({"checks": checks}), text).map(|()| Exit::Good);
    }
    let person = look::person(environment);
    let runtime_dir = plan::refuse_person(&person)?;
    let socket = socket(environment, runtime_dir)?;
    let status = find_launched(environment, runtime_dir);
    let is_up = status.is_some_and(|status| status.state == UNSUPERVISED || status.is_ready());
    // Who connects to the socket of a daemon that is not up may start it.
    let first_answer = Duration::from_secs(if is_up { 10 } else { 60 });
    let launch = || {
        let launch = launch(environment, runtime_dir, &socket);
        let is_supervised = launch.as_ref().is_some_and(|launch| launch.run_dir.is_some());
        if options.disruptive && !is_supervised {
            let what = "`--disruptive` kills dockerd, and no supervisor would start it again";
            return Err(Error::new(Exit::Failed, what).hint("dockerd-rootless status"));
        }
        Ok(launch)
    };
    let request = verify::Request {
        socket: socket.clone(),
        first_answer,
        scratch: environment.absolute("HOME").unwrap_or_default(),
        launch: &launch,
        lie: options.lie,
        names: checks.iter().map(|check| check.name).collect(),
    };
    let mut screen = Screen {
        is_text: options.format == Format::Text,
        colored,
        width: terminal::width(),
        ..Screen::default()
    };
    let exit = verify::run(&request, |event| screen.show(event))?;
    output::tell(options.format, screen.object(), screen.end())?;
    Ok(exit)
}

/// What is shown while the questions are answered.
#[derive(Default)]
struct Screen {
    is_text: bool,
    colored: bool,
    /// The terminal's width; plain lines without one.
    width: Option<usize>,
    daemon: Value,
    /// The group whose heading was shown last.
    group: &'static str,
    rows: Vec<Row>,
}

impl Screen {
    fn show(&mut self, event: Event) {
        let text = match event {
            Event::Found(daemon) => {
                let [version, driver, store] = ["version", "storage_driver", "image_store"]
                    .map(|key| daemon[key].as_str().unwrap_or_default());
                let text = format!("dockerd {version} ({driver}, {store} image store)\n");
                self.daemon = daemon;
                text
            }
            Event::Asked(check) => self.question(check),
            Event::Answered(row) => {
                let text = self.row(&row);
                self.rows.push(row);
                text
            }
        };
        if self.is_text {
            // What is read by no one any more is cleaned up all the same.
            let _ = output::print(text);
        }
    }

    /// Renders a question in a line that its answer overwrites.
    fn question(&self, check: &Check) -> String {
        let Some(width) = self.width else { return String::new() };
        let question: String = check.question.chars().take(width.saturating_sub(4)).collect();
        // Before it kills dockerd, it says so in a line of its own.
        let end = if check.name == SURVIVAL { "\n" } else { "" };
        format!("\r\u{1b}[K  {question}{end}")
    }

    fn row(&mut self, row: &Row) -> String {
        let (word, mark, color) = STATUSES[row.status as usize];
        let mark = if self.width.is_some() { mark } else { word };
        let head = format!("{mark}  {:20}  ", row.name);
        let answer = one_line(&row.answer);
        let text = match self.width {
            None => format!("{head}{answer}\n"),
            Some(width) => {
                let group = std::mem::replace(&mut self.group, row.group);
                let heading = if group == self.group { "" } else { &format!("{}\n", self.group) };
                format!("\r\u{1b}[K{heading}{}", wrap(&head, 25, &answer, width))
            }
        };
        if self.colored { paint(&text, mark, color) } else { text }
    }

    /// Renders the problems with the next steps, and the summary.
    fn end(&self) -> String {
        let mut text = String::from(if self.width.is_some() { "\r\u{1b}[K" } else { "" });
        let failed = self.rows.iter().filter(|row| row.status == Status::Fail).collect::<Vec<_>>();
        // What the daemon refuses for many is told once.
        let is_same = |one: &&Row, other: &&Row| one.said.is_some() && one.answer == other.answer;
        for rows in failed.chunk_by(is_same) {
            let names = rows.iter().map(|row| row.name).collect::<Vec<_>>().join(", ");
            let (row, word) = (rows[0], |text: &Option<String>| text.clone().unwrap_or_default());
            let question = if rows.len() == 1 { row.question } else { "" };
            text += "\n";
            for (head, value) in [
                ("", format!("{names}: {question}")),
                ("  expected:     ", word(&row.expected)),
                ("  came:         ", row.answer.clone()),
                ("  dockerd says: ", word(&row.said)),
            ] {
                if !value.is_empty() {
                    let width = self.width.unwrap_or(usize::MAX);
                    text += &wrap(head, head.len(), &one_line(&value), width);
                }
            }
            // A command is pasted: it is never broken.
            text += &format!("  next:         {}\n", row.next.unwrap_or_default());
        }
        let [pass, fail, skip, info] = self.counts();
        let counted = plural(self.rows.len(), "question");
        let good = format!("{pass} passed, {fail} failed, {skip} skipped, {info} for information");
        text + &format!("\n{counted}: {good}\n")
    }

    fn counts(&self) -> [usize; 4] {
        [Status::Pass, Status::Fail, Status::Skip, Status::Info]
            .map(|status| self.rows.iter().filter(|row| row.status == status).count())
    }

    fn object(&self) -> Value {
        let [pass, fail, skip, info] = self.counts();
        let counts = json!({"pass": pass, "fail": fail, "skip": skip, "info": info});
        json!({"daemon": self.daemon, "checks": self.rows, "counts": counts})
    }
}

/// Returns the questions that are asked for.
fn selected(options: &VerifyOptions) -> Result<Vec<&'static Check>, Error> {
    let VerifyOptions { only, skip, .. } = options;
    if !options.disruptive && only.iter().any(|name| name == SURVIVAL) {
        let what = format!("`{SURVIVAL}` kills dockerd, and needs `--disruptive`");
        let hint = format!("dockerd-rootless verify --only {SURVIVAL} --disruptive");
        return Err(Error::new(Exit::Usage, what).hint(hint));
    }
    let is_in = |names: &[String], check: &Check| names.iter().any(|name| name == check.name);
    let is_selected = |check: &&Check| {
        let is_extra = check.group == FORMS && options.images == Images::Core;
        let is_offered = !is_extra && (options.disruptive || check.name != SURVIVAL);
        !is_in(skip, check) && (is_in(only, check) || only.is_empty() && is_offered)
    };
    Ok(CHECKS.iter().filter(is_selected).collect())
}

/// Returns the socket that DOCKER_HOST names, else the own daemon's.
fn socket(environment: &Environment, runtime_dir: &Path) -> Result<PathBuf, Error> {
    let Some(host) = environment.get("DOCKER_HOST").filter(|host| !host.is_empty()) else {
        let status = supervise::read_status(&places::run_dir(runtime_dir));
        let own = status.and_then(|status| status.socket);
        return Ok(own.unwrap_or_else(|| places::api_socket(runtime_dir)));
    };
    let path = host.to_str().and_then(|host| host.strip_prefix("unix://")).map(PathBuf::from);
    path.ok_or_else(|| {
        let what = format!(
            "`DOCKER_HOST` is `{}`, no socket of this host: nothing is tried there",
            host.display()
        );
        Error::new(Exit::NotRunning, what).hint("env -u DOCKER_HOST dockerd-rootless verify")
    })
}

/// Returns the status of a daemon of ours, with or without a supervisor.
fn find_launched(environment: &Environment, runtime_dir: &Path) -> Option<supervise::Status> {
    let supervised = supervise::read_status(&places::run_dir(runtime_dir));
    supervised.or_else(|| find_unsupervised(environment, runtime_dir))
}

/// Finds out how the daemon at `socket` was launched, if it is ours.
fn launch(environment: &Environment, runtime_dir: &Path, socket: &Path) -> Option<Launch> {
    let status = find_launched(environment, runtime_dir)?;
    let is_supervised = status.state != UNSUPERVISED;
    let words = processes::words(status.rootlesskit?);
    let text = |word: &OsString| word.to_string_lossy().into_owned();
    (status.socket.as_deref() == Some(socket)).then(|| Launch {
        // Its own program comes first, and after its options the one that it runs.
        words: words.iter().skip(1).map(text).take_while(|word| word.starts_with('-')).collect(),
        run_dir: is_supervised.then(|| places::run_dir(runtime_dir)),
        has_iptables: has_iptables(environment, &status),
    })
}

/// Reads in dockerd's words, which rootlesskit's end with, and in its `daemon.json` whether it may
/// use iptables.
fn has_iptables(environment: &Environment, status: &supervise::Status) -> bool {
    let words = status.dockerd.or(status.rootlesskit).map(processes::words).unwrap_or_default();
    let flags = Flags::of_dockerd(&words);
    let config_home = || Some(environment.config_home()?.join("docker/daemon.json"));
    let json = flags.value("config-file").map(PathBuf::from).or_else(config_home);
    let json = look::read_daemon_json(&json.unwrap_or_default());
    flags.switch("iptables") != Some(false) && !json.turns_off("iptables")
}

/// Verifies what a command has set up. Where no daemon runs, says how to do it later, unless the
/// command `has_started` one.
pub fn afterwards(environment: &Environment, has_started: bool) -> Result<Exit, Error> {
    match run(&environment.clone().without("DOCKER_HOST"), &VerifyOptions::default(), false) {
        Err(error) if error.exit() == Exit::NotRunning && !has_started => {
            warn!("nothing was verified: no rootless daemon runs yet");
            warn!("once it does: dockerd-rootless verify");
            Ok(Exit::Good)
        }
        ended => ended,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn each_next_step_of_ours_is_a_command_that_is_understood() {
        for check in CHECKS.iter().filter(|check| check.next.starts_with("dockerd-rootless ")) {
            let parsed = Cli::<Command>::try_parse_from(check.next.split(' '));
            assert!(parsed.is_ok(), "{}: {}", check.name, check.next);
        }
    }

    #[test]
    fn a_terminal_gets_groups_and_a_refusal_for_many_once() {
        let mut screen = Screen { width: Some(60), ..Screen::default() };
        let row = |name, status, answer: &str, said: Option<&str>| Row {
            group: "Network",
            question: "is it so?",
            said: said.map(str::to_owned),
            next: (status == Status::Fail).then_some("dockerd-rootless status"),
            ..Row { status, ..Row::fail(name, answer, "it does") }
        };
        let mut text = String::new();
        for row in [
            row("one", Status::Pass, "yes", None),
            row("two", Status::Fail, "dockerd does not start a container", Some("no\u{1b}[2J")),
            row("three", Status::Fail, "dockerd does not start a container", Some("no, too")),
        ] {
            text += &screen.row(&row);
            screen.rows.push(row);
        }
        text += &screen.end();
        assert_eq!(
            text.replace("\r\u{1b}[K", ""),
            "Network\n\
             ✓  one                   yes\n\
             ✗  two                   dockerd does not start a container\n\
             ✗  three                 dockerd does not start a container\n\
             \n\
             two, three:\n  \
               expected:     it does\n  \
               came:         dockerd does not start a container\n  \
               dockerd says: no [2J\n  \
               next:         dockerd-rootless status\n\
             \n\
             3 questions: 1 passed, 2 failed, 0 skipped, 0 for information\n"
        );
    }
}
