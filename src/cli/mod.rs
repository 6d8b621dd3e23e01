//! The command line: which tool the name says, and which command the words say.

mod check;
mod config;
mod drop_in;
mod fetch;
mod install;
mod messages;
mod nsenter;
pub mod output;
mod plan;
mod restart;
mod run;
mod setup;
mod setup_tool;
mod sources;
mod stage;
mod status;
mod terminal;
mod uninstall;
mod upgrade;

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, ColorChoice, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::check::trial::inside;
use crate::cli::install::InstallOptions;
use crate::cli::messages::{Form, Messages};
use crate::cli::output::Format;
use crate::cli::run::Request;
use crate::cli::uninstall::UninstallOptions;
use crate::cli::upgrade::UpgradeOptions;
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::look;
use crate::plan::{STAGE, TRIAL};
use crate::supervise::TAKE_OVER;
use crate::words;

#[derive(Parser)]
#[command(name = "dockerd-rootless", version, about = "Run Docker without root")]
struct Cli<C: Subcommand> {
    #[command(flatten)]
    messages: Messages,
    #[command(subcommand)]
    command: C,
}

/// What `--help` prints.
const HELP: &str = "\
Run Docker without root

Usage: dockerd-rootless [OPTIONS] [COMMAND]
       dockerd-rootless [run] [OPTIONS] [--] [DOCKERD_OPTIONS]...

Daemon:    run        Start the daemon in the foreground (default)
           status     Show whether the daemon runs, and how to use it
           restart    Replace dockerd without stopping containers
           nsenter    Run a command in the daemon's namespaces
Set up:    check      Find problems and print commands that fix them
           install    Install and start the systemd user service
           upgrade    Update the installed service
           uninstall  Remove the service; keep images
           fetch      Download Docker's static binaries
Settings:  config     Show, check and change settings
           plan       Print what `run` would execute, and why

Options:
  -v, --verbose            Print more; -vv prints even more
      --log-level <LEVEL>  Minimum level of messages to print: error, warn, info, debug or trace
      --color <WHEN>       When to use colors: auto, always or never
  -h, --help               Print help; `dockerd-rootless help COMMAND` for a command
  -V, --version            Print version

Examples:
  dockerd-rootless check
  dockerd-rootless install
  dockerd-rootless run -- --data-root /big/disk

Docs: https://docs.docker.com/engine/security/rootless/
Exit codes: dockerd-rootless help exit-codes
";

/// What `help exit-codes` prints.
const EXIT_CODES: &str = "\
  0  success
  1  failed
  2  wrong usage
  3  the daemon is not running, or not ready
  4  a requirement of the host or the session is missing: see `dockerd-rootless check`
  5  another daemon is running already
  6  a download is not what it should be (checksum, archive, redirect)
 78  a setting is wrong
126  a program cannot be executed
127  a program does not exist

`run` ends with dockerd's own code, and with 128 and the number of the signal that ended it.
";

/// Commands of other tools that people look for here, and what to use instead.
const ELSEWHERE: &[(&str, &str)] = &[
    ("start", "systemctl --user start docker"),
    ("stop", "systemctl --user stop docker"),
    ("enable", "systemctl --user enable docker"),
    ("disable", "systemctl --user disable docker"),
    ("reload", "systemctl --user reload docker"),
    ("logs", "journalctl --user -u docker"),
    ("log", "journalctl --user -u docker"),
];

/// The one command that must start fast: it is parsed without knowing the others' options.
#[derive(Subcommand)]
enum Launching {
    /// Start the daemon in the foreground (default)
    #[command(override_usage = "dockerd-rootless [run] [OPTIONS] [--] [DOCKERD_OPTIONS]...")]
    #[command(after_help = "\
Put our options first. Everything from the first option that is not ours, or after `--`,\n\
goes to dockerd unchanged.")]
    Run {
        /// Replace this process with rootlesskit, without a supervisor
        #[arg(long)]
        exec: bool,
        #[command(flatten)]
        launch: Launch,
    },
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Launching(Launching),
    /// Print what `run` would execute, and why
    Plan {
        /// Print what `run --exec` would execute
        #[arg(long)]
        exec: bool,
        /// Output format
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
        #[command(flatten)]
        launch: Launch,
    },
    /// Find problems and print commands that fix them
    #[command(after_help = "\
Tries what a start with these options needs, and leaves nothing behind. A check ends as\n\
`ok`, `warn` (works, with a drawback), `FAIL` (Docker does not work) or `skip` (not\n\
checked). Exit code 4 if a check fails, else 0.")]
    Check {
        #[command(flatten)]
        options: Box<check::CheckOptions>,
        #[command(flatten)]
        launch: Launch,
    },
    /// Show whether the daemon runs, and how to use it
    #[command(
        after_help = "With -v also its processes. Exit code 0 if the daemon is ready, 3 if it is not."
    )]
    Status(status::StatusOptions),
    /// Replace dockerd without stopping containers
    #[command(after_help = "\
The new dockerd is the one on disk, with the current settings. Clients wait meanwhile.\n\
Exit code 3 if the daemon does not run.")]
    Restart {
        /// Stop containers and restart everything, including the network and containerd
        #[arg(long)]
        all: bool,
    },
    /// Install and start the systemd user service
    #[command(after_help = "\
Also sets up a context for the docker client. Anything already in place is left alone.\n\
If you edited a unit, it is kept and ours is saved next to it as `.new`.")]
    Install(InstallOptions),
    /// Update the installed service
    #[command(
        after_help = "Restarts the daemon if no container runs. Drop-ins and edited units are left alone."
    )]
    Upgrade(UpgradeOptions),
    /// Remove the service; keep images
    #[command(after_help = "Edited files and programs stay, too.")]
    Uninstall(UninstallOptions),
    /// Run a command in the daemon's namespaces
    #[command(after_help = "Without COMMAND, runs your shell.")]
    Nsenter {
        /// The command and its arguments
        #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
    /// Download Docker's static binaries
    #[command(after_help = fetch::EXAMPLES)]
    Fetch(Box<fetch::FetchOptions>),
    /// Show, check and change settings
    Config(config::ConfigOptions),
}

#[derive(Args)]
struct Launch {
    #[command(flatten)]
    assignments: Assignments,
    /// Options for dockerd
    #[arg(value_name = "DOCKERD_OPTIONS", trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

impl Launch {
    fn request(self, exec: bool, messages: &Messages) -> Request {
        Request {
            exec,
            assignments: self.assignments.assignments,
            words: self.words,
            level: messages.level(),
            ..Request::default()
        }
    }
}

#[derive(Args, Default)]
struct Assignments {
    /// Set KEY for this call, whatever other sources say
    #[arg(long = "set", value_name = "KEY=VALUE")]
    assignments: Vec<OsString>,
}

/// Runs what `words`, the program's name first, ask for. A launch that succeeds does not return.
pub fn run(words: Vec<OsString>, environment: &Environment) -> Result<Exit, Error> {
    let ended = run_as_called(words, environment);
    terminal::close();
    ended
}

fn run_as_called(words: Vec<OsString>, environment: &Environment) -> Result<Exit, Error> {
    let word = words.get(1).and_then(|word| word.to_str()).unwrap_or_default();
    if word == STAGE {
        Messages::default().start(environment, Form::Log);
        return stage::run(&words[2..], environment);
    }
    if word == TRIAL {
        return inside::run(&words[2..], environment).map(|()| Exit::Good);
    }
    if word == TAKE_OVER {
        return take_over(&words, environment);
    }
    match words.first().and_then(|name| Path::new(name).file_name()?.to_str()) {
        Some("dockerd-rootless.sh") => {
            Messages::default().start(environment, Form::Log);
            drop_in::run(&words[1..], environment)
        }
        Some("dockerd-rootless-setuptool.sh") => {
            Messages::default().start(environment, Form::Plain);
            setup_tool::run(&words, environment)
        }
        _ => run_command(words, environment),
    }
}

/// Takes the place of a supervisor: `PROGRAM TAKE_OVER MODE DESCRIPTOR ARGUMENTS...`.
fn take_over(words: &[OsString], environment: &Environment) -> Result<Exit, Error> {
    let [program, _, mode, descriptor, arguments @ ..] = words else {
        return Err(Error::new(Exit::Usage, format!("`{TAKE_OVER}` lacks arguments")));
    };
    let line = std::iter::once(program).chain(arguments).cloned().collect();
    let Cli { messages, command } = parse::<Launching>(with_default_command(line).0)?;
    terminal::reopen(environment);
    let request = launching(command, arguments, environment, &messages);
    let descriptor = descriptor.to_str().and_then(|number| number.parse().ok());
    run::take_over(environment, &request, mode == "try", descriptor.unwrap_or(-1))
}

fn run_command(words: Vec<OsString>, environment: &Environment) -> Result<Exit, Error> {
    let called = words.first().cloned().unwrap_or_default();
    let arguments = words.get(1..).unwrap_or_default().to_vec();
    let (words, command) = with_default_command(words);
    if command.as_deref() == Some(OsStr::new("run")) {
        let Cli { messages, command } = parse::<Launching>(words)?;
        refuse_sudo(environment, &arguments)?;
        return run::run(environment, &launching(command, &arguments, environment, &messages));
    }
    if command.as_deref() == Some(OsStr::new("help"))
        && arguments.last().is_some_and(|topic| topic == "exit-codes")
    {
        return output::print(EXIT_CODES).map(|()| Exit::Good);
    }
    let Cli { messages, command } = parse::<Command>(words)?;
    if !matches!(command, Command::Launching(_)) {
        messages.start(environment, Form::Plain);
    }
    if !matches!(command, Command::Config(_) | Command::Fetch(_)) {
        refuse_sudo(environment, &arguments)?;
    }
    match command {
        Command::Launching(command) => {
            run::run(environment, &launching(command, &arguments, environment, &messages))
        }
        Command::Plan { exec, format, launch } => {
            let verbose = messages.is_verbose();
            plan::run(environment, &launch.request(exec, &messages), format, verbose)
        }
        Command::Check { options, launch } => {
            let colored = messages.colored(environment, &io::stdout());
            let request = launch.request(false, &messages);
            check::run(environment, &options, &request, colored)
        }
        Command::Status(options) => status::run(environment, &options, &messages),
        Command::Restart { all } => restart::run(environment, all),
        Command::Install(options) => install::run(environment, &called, &options),
        Command::Upgrade(options) => upgrade::run(environment, &called, &options),
        Command::Uninstall(options) => uninstall::run(environment, &called, &options),
        Command::Nsenter { words } => nsenter::run(environment, &words),
        Command::Fetch(options) => fetch::run(environment, &options),
        Command::Config(options) => config::run(environment, &options),
    }
}

/// Refuses a user who became root for this command.
fn refuse_sudo(environment: &Environment, arguments: &[OsString]) -> Result<(), Error> {
    if environment.get("SUDO_USER").is_none() || look::uid() != 0 {
        return Ok(());
    }
    let what = "rootless Docker runs as your own user: do not use sudo for it";
    let command = words::join([&"dockerd-rootless".into()].into_iter().chain(arguments));
    Err(Error::new(Exit::Failed, what).hint(command.display().to_string()))
}

/// Understands `words`. Help goes to standard output, and a usage error to standard error, with exit
/// code 2.
fn parse<C: Subcommand>(words: Vec<OsString>) -> Result<Cli<C>, Error> {
    let command = Cli::<C>::command().color(colors_of_usage(&words)).override_help(HELP);
    let parsed = command.try_get_matches_from(words);
    parsed.and_then(|matches| Cli::from_arg_matches(&matches)).map_err(|usage| {
        match (usage.kind(), usage.get(ContextKind::InvalidSubcommand)) {
            (ErrorKind::InvalidSubcommand, Some(ContextValue::String(name))) => unknown(name),
            _ => usage.exit(),
        }
    })
}

/// Returns the error for a command that does not exist.
fn unknown(name: &str) -> Error {
    let error = Error::new(Exit::Usage, format!("unknown command `{name}`"));
    if let Some((_, instead)) = ELSEWHERE.iter().find(|(other, _)| *other == name) {
        return error.hint(*instead);
    }
    let all = Cli::<Command>::command();
    let near = all.get_subcommands().map(|command| command.get_name().to_owned());
    let near = near.map(|command| (strsim::damerau_levenshtein(&command, name), command)).min();
    match near {
        Some((0..=2, command)) => error.hint(format!("dockerd-rootless {command} --help")),
        _ => error.hint("dockerd-rootless --help"),
    }
}

/// Starts messages, and returns what is asked of a launch; `arguments` are those of the whole command
/// line.
fn launching(
    Launching::Run { exec, launch }: Launching,
    arguments: &[OsString],
    environment: &Environment,
    messages: &Messages,
) -> Request {
    let in_terminal = !exec && !messages.is_verbose() && io::stderr().is_terminal();
    let in_terminal = in_terminal || terminal::is_open();
    messages.start(environment, if in_terminal { Form::LogFile } else { Form::Log });
    let arguments = arguments.to_vec();
    Request { arguments, in_terminal, ..launch.request(exec, messages) }
}

/// Returns what `--color` says, for usage errors too.
fn colors_of_usage(words: &[OsString]) -> ColorChoice {
    let ours = words.iter().take_while(|word| *word != "--").map(|word| word.as_bytes());
    let line = ours.collect::<Vec<_>>().join(&b'=');
    let says = |choice: &[u8]| line.windows(choice.len()).any(|window| window == choice);
    if says(b"--color=never") {
        ColorChoice::Never
    } else if says(b"--color=always") {
        ColorChoice::Always
    } else {
        ColorChoice::Auto
    }
}

/// Puts `run` before the words where they name no command: none at all, or options first. A command
/// behind global options counts: `-v plan` must not start a daemon with the argument `plan`.
///
/// Returns the words, and the command unless they ask for help or the version.
fn with_default_command(mut words: Vec<OsString>) -> (Vec<OsString>, Option<OsString>) {
    let mut rest = words.iter().skip(1);
    let first = loop {
        match rest.next() {
            Some(word) => match word.as_bytes() {
                b"-v" | b"-vv" | b"--verbose" => {}
                b"--log-level" | b"--color" => drop(rest.next()),
                word if word.starts_with(b"--log-level=") || word.starts_with(b"--color=") => {}
                b"-h" | b"--help" | b"-V" | b"--version" => return (words, None),
                word if word.starts_with(b"-") => break None,
                _ => break Some(word.clone()),
            },
            None => break None,
        }
    };
    let command = first.unwrap_or_else(|| {
        words.insert(words.len().min(1), "run".into());
        "run".into()
    });
    (words, Some(command))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::ffi::OsStringExt;

    fn understand<C: Subcommand>(words: &[&str]) -> C {
        let words = std::iter::once("dockerd-rootless")
            .chain(words.iter().copied())
            .map(OsString::from)
            .collect();
        let (words, _) = with_default_command(words);
        let understood = Cli::try_parse_from(words);
        understood.unwrap_or_else(|error| panic!("{error}")).command
    }

    #[test]
    fn the_command_line_is_consistent() {
        let command = Cli::<Command>::command();
        for command in command.get_subcommands() {
            let about = command.get_about().expect("a sentence").to_string();
            let row = format!(" {:10} {about}\n", command.get_name());
            assert!(HELP.contains(&row), "no row `{row}` in:\n{HELP}");
        }
        command.debug_assert();
    }

    #[test]
    fn our_options_come_first_and_the_rest_is_dockerds() {
        let cases: &[(&[&str], bool, &[&str])] = &[
            (&[], false, &[]),
            (&["-D"], false, &["-D"]),
            (&["--exec"], true, &[]),
            (&["run", "--exec", "--", "--exec"], true, &["--exec"]),
            (&["run", "-H", "fd://", "--exec"], false, &["-H", "fd://", "--exec"]),
            (&["--data-root=/x", "-v", "--"], false, &["--data-root=/x", "-v", "--"]),
            (&["--", "-v", "--log-level", "x"], false, &["-v", "--log-level", "x"]),
            (&["run", "--", "--", "a"], false, &["--", "a"]),
            (&["-v", "--set", "network.mtu=1500", "--mtu=9"], false, &["--mtu=9"]),
        ];
        for (words, expected_exec, expected_words) in cases {
            let expected = expected_words.iter().map(OsString::from).collect();
            let Command::Launching(among_all) = understand(words) else {
                panic!("{words:?} is `run`")
            };
            for Launching::Run { exec, launch } in [among_all, understand(words)] {
                assert_eq!((exec, &launch.words), (*expected_exec, &expected), "{words:?}");
            }
        }
    }

    #[test]
    fn a_command_is_found_behind_options_on_messages() {
        for words in [
            &["-v", "plan"][..],
            &["--color=never", "-vv", "plan"],
            &["--log-level", "debug", "plan"],
        ] {
            assert!(matches!(understand(words), Command::Plan { .. }), "{words:?}");
        }
        assert!(matches!(understand(&["-v"]), Command::Launching(_)));
    }

    proptest! {
        #[test]
        fn any_bytes_behind_two_dashes_are_dockerds(
            words in proptest::collection::vec(proptest::collection::vec(1u8..=255, 0..12), 0..6)
        ) {
            let words: Vec<OsString> = words.into_iter().map(OsString::from_vec).collect();
            let line = ["dockerd-rootless", "run", "--"].map(OsString::from).into_iter().chain(words.clone());
            let Launching::Run { launch, .. } = Cli::try_parse_from(line).unwrap().command;
            prop_assert_eq!(launch.words, words);
        }
    }
}
