//! The command line: which tool the name says, and which command the words say.

mod check;
mod config;
mod drop_in;
mod fetch;
mod from_rootful;
mod ids;
mod install;
mod messages;
mod nsenter;
pub mod output;
mod plan;
mod request;
mod restart;
mod run;
mod setup;
mod setup_tool;
mod sources;
mod status;
mod terminal;
mod uninstall;
mod unshare;
mod upgrade;
mod verify;

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::check::trial::inside;
use crate::cli::messages::{Form, Messages};
use crate::cli::output::Format;
use crate::cli::request::Request;
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::plan::{STAGE, Stage, TRIAL};
use crate::stage::{keeper, namespace};
use crate::supervise::TAKE_OVER;
use crate::verify::listen::{self, LISTEN};
use crate::verify::probe::{self, PROBE};

#[derive(Parser)]
#[command(name = "dockerd-rootless", version, about = "Run Docker without root")]
#[command(override_usage = USAGE, after_help = HELP)]
struct Cli<C: Subcommand> {
    #[command(flatten)]
    messages: Messages,
    #[command(subcommand)]
    command: C,
}

const USAGE: &str = "dockerd-rootless [OPTIONS] [COMMAND]
       dockerd-rootless [run] [OPTIONS] [--] [DOCKERD_OPTIONS]...";

/// What follows the commands and options in the help.
const HELP: &str = "\
Examples:
  dockerd-rootless check
  dockerd-rootless install
  dockerd-rootless run -- --data-root /big/disk

Exit codes:
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
`run` ends with dockerd's own code, or with 128 and the number of the signal that ended it.

Docs: https://docs.docker.com/engine/security/rootless/";

/// Commands of other tools that people look for here, and what to use instead.
const ELSEWHERE: &[(&str, &str)] = &[
    ("start", "systemctl --user start docker"),
    ("stop", "systemctl --user stop docker"),
    ("enable", "systemctl --user enable docker"),
    ("disable", "systemctl --user disable docker"),
    ("reload", "systemctl --user reload docker"),
    ("logs", "journalctl --user -u docker"),
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
        request: Request,
    },
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Launching(Launching),
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
    /// Run a command in the daemon's namespaces
    #[command(after_help = "Without COMMAND, runs your shell.")]
    Nsenter {
        /// The command and its arguments
        #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
    /// Show which user of this host a container's user is, and who owns a file
    #[command(after_help = "\
Of a link, it is the owner of the link itself. A user that containers do not have is `nobody` there.\n\
The daemon need not run.\n\n\
Examples:
  dockerd-rootless ids                 # the whole map
  dockerd-rootless ids 1000 ./volume   # one ID both ways, and the owner of a file")]
    Ids(ids::IdsOptions),
    /// Run a command on files as root of containers
    #[command(after_help = "\
For files that containers leave in volumes and other directories of yours:\n\
`dockerd-rootless unshare -- rm -r ./volume`. It sees the files, mounts and network of this host; the\n\
daemon need not run. `nsenter` runs a command in the mounts and network of a daemon that runs.\n\
Without COMMAND, runs your shell. Ends with the command's exit code.")]
    Unshare {
        /// The command and its arguments
        #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
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
        request: Request,
    },
    /// Answer what a running daemon can do, by trying it in containers
    #[command(after_help = "\
Makes its own image and needs no registry. Everything it makes is removed at the end, and nothing\n\
of yours is changed. A daemon that hangs ends it within 40 s. Exit code 0 if all is good, 1 if an\n\
answer is bad or something is left, 3 if no rootless daemon of yours runs.")]
    Verify(verify::VerifyOptions),
    /// Install and start the systemd user service
    #[command(after_help = "\
Also sets up a context for the docker client. Anything already in place is left alone,\n\
and so is a unit that you edited.")]
    Install(install::InstallOptions),
    /// Update the installed service
    #[command(
        after_help = "Restarts the daemon if no container runs. Drop-ins and edited units are left alone."
    )]
    Upgrade(upgrade::UpgradeOptions),
    /// Remove the service; keep images
    #[command(after_help = "Edited files and programs stay, too.")]
    Uninstall(uninstall::UninstallOptions),
    /// Download Docker's static binaries
    #[command(after_help = fetch::EXAMPLES)]
    Fetch(Box<fetch::FetchOptions>),
    /// Show, check and change settings
    Config(config::ConfigOptions),
    /// Print what `run` would execute, and why
    Plan {
        /// Print what `run --exec` would execute
        #[arg(long)]
        exec: bool,
        /// Output format
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
        #[command(flatten)]
        request: Request,
    },
}

/// Runs what `words`, the program's name first, ask for. A launch that succeeds does not return.
pub fn run(words: Vec<OsString>, environment: &Environment) -> Result<Exit, Error> {
    let ended = run_as_called(words, environment);
    terminal::close();
    ended
}

fn run_as_called(words: Vec<OsString>, environment: &Environment) -> Result<Exit, Error> {
    let start = |form| Messages::default().start(environment, form);
    match words.get(1).and_then(|word| word.to_str()) {
        Some(STAGE) => {
            start(Form::Log);
            return run_stage(&words[2..], environment);
        }
        Some(TAKE_OVER) => return take_over(&words, environment),
        Some(LISTEN) => return listen::run(&words[2..]),
        Some(PROBE) => return probe::run(&words[2..]),
        Some(TRIAL) => return inside::run(&words[2..], environment).map(|()| Exit::Good),
        _ => {}
    }
    match words.first().and_then(|name| Path::new(name).file_name()?.to_str()) {
        Some("dockerd-rootless.sh") => {
            start(Form::Log);
            drop_in::run(&words[1..], environment)
        }
        Some("dockerd-rootless-setuptool.sh") => {
            start(Form::Plain);
            setup_tool::run(&words, environment)
        }
        _ => run_command(words, environment),
    }
}

/// Performs the stage in the namespaces that `args` describe and becomes the daemon, or stays as its
/// parent.
fn run_stage(args: &[OsString], environment: &Environment) -> Result<Exit, Error> {
    let stage = Stage::parse(args)?;
    let prepared = namespace::prepare(&stage, environment)?;
    match stage.keeper {
        Some(control) => keeper::keep(prepared, control, environment),
        None => Err(namespace::execute(prepared.command(&stage.daemon))),
    }
}

/// Takes the place of a supervisor: `PROGRAM TAKE_OVER MODE DESCRIPTOR ARGUMENTS...`.
fn take_over(words: &[OsString], environment: &Environment) -> Result<Exit, Error> {
    let [program, _, mode, descriptor, arguments @ ..] = words else {
        return Err(Error::new(Exit::Usage, format!("`{TAKE_OVER}` lacks arguments")));
    };
    let mut line = [std::slice::from_ref(program), arguments].concat();
    find_command(&mut line);
    let Cli { messages, command } = parse::<Launching>(line)?;
    let request = launch(command, arguments, environment, &messages);
    let descriptor = descriptor.to_str().and_then(|number| number.parse().ok());
    run::take_over(environment, &request, mode == "try", descriptor.unwrap_or(-1))
}

fn run_command(mut words: Vec<OsString>, environment: &Environment) -> Result<Exit, Error> {
    let called = words.first().cloned().unwrap_or_default();
    let arguments = words.get(1..).unwrap_or_default().to_vec();
    if find_command(&mut words) == "run" {
        let Cli { messages, command } = parse::<Launching>(words)?;
        return run::run(environment, &launch(command, &arguments, environment, &messages));
    }
    let Cli { messages, command } = parse::<Command>(words)?;
    messages.start(environment, Form::Plain);
    let level = messages.level();
    match command {
        Command::Launching(_) => Err(unknown("run")),
        Command::Status(options) => status::run(environment, &options, messages.is_verbose()),
        Command::Restart { all } => restart::run(environment, all),
        Command::Nsenter { words } => nsenter::run(environment, &words),
        Command::Ids(options) => ids::run(environment, &options),
        Command::Unshare { words } => unshare::run(environment, &words),
        Command::Check { options, request } => {
            let colored = messages.colored(environment, &io::stdout());
            check::run(environment, &options, &Request { level, ..request }, colored)
        }
        Command::Verify(options) => {
            let colored = messages.colored(environment, &io::stdout());
            verify::run(environment, &options, colored)
        }
        Command::Install(options) => install::run(environment, &called, &options),
        Command::Upgrade(options) => upgrade::run(environment, &called, &options),
        Command::Uninstall(options) => uninstall::run(environment, &called, &options),
        Command::Fetch(options) => fetch::run(environment, &options),
        Command::Config(options) => config::run(environment, &options),
        Command::Plan { exec, format, request } => {
            let request = Request { exec, level, ..request };
            plan::run(environment, &request, format, messages.is_verbose())
        }
    }
}

/// Understands `words`. Help goes to standard output, and a usage error to standard error, with exit
/// code 2.
fn parse<C: Subcommand>(words: Vec<OsString>) -> Result<Cli<C>, Error> {
    let parsed = Cli::<C>::command().try_get_matches_from(words);
    parsed.and_then(|matches| Cli::from_arg_matches(&matches)).map_err(|usage| {
        match usage.get(ContextKind::InvalidSubcommand) {
            Some(ContextValue::String(name)) => unknown(name),
            _ => usage.exit(),
        }
    })
}

/// Returns the error for a command that does not exist.
fn unknown(name: &str) -> Error {
    let all = Cli::<Command>::command();
    let names = all.get_subcommands().map(clap::Command::get_name);
    let near = names.map(|own| (strsim::damerau_levenshtein(own, name), own)).min();
    let hint = match (ELSEWHERE.iter().find(|(other, _)| *other == name), near) {
        (Some((_, instead)), _) => (*instead).to_owned(),
        (None, Some((0..=2, own))) => format!("dockerd-rootless {own} --help"),
        _ => "dockerd-rootless --help".to_owned(),
    };
    Error::new(Exit::Usage, format!("unknown command `{name}`")).hint(hint)
}

/// Starts messages, and returns what is asked of a launch; `arguments` are those of the whole command
/// line.
fn launch(
    Launching::Run { exec, request }: Launching,
    arguments: &[OsString],
    environment: &Environment,
    messages: &Messages,
) -> Request {
    let in_terminal = !exec && !messages.is_verbose() && io::stderr().is_terminal();
    messages.start(environment, if in_terminal { Form::LogFile } else { Form::Log });
    let (arguments, level) = (arguments.to_vec(), messages.level());
    Request { exec, arguments, level, in_terminal, ..request }
}

/// Returns the command, behind global options: `-v plan` must not start a daemon with the argument
/// `plan`. Puts `run` before the words where they name none: no words at all, or other options first;
/// `dockerd` is `run --`.
fn find_command(words: &mut Vec<OsString>) -> OsString {
    let mut at = 1;
    while let Some(word) = words.get(at).map(|word| word.as_bytes()) {
        match word {
            b"-v" | b"-vv" | b"--verbose" => at += 1,
            b"--log-level" | b"--color" => at += 2,
            _ if word.starts_with(b"--log-level=") || word.starts_with(b"--color=") => at += 1,
            b"-h" | b"--help" | b"-V" | b"--version" => return words[at].clone(),
            _ if word.starts_with(b"-") => break,
            // As images are run: `docker run IMAGE dockerd --debug`.
            b"dockerd" => {
                words.splice(at..=at, ["run", "--"].map(OsString::from));
                return "run".into();
            }
            _ => return words[at].clone(),
        }
    }
    words.insert(words.len().min(1), "run".into());
    "run".into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::ffi::OsStringExt;

    fn understand<C: Subcommand>(words: &[&str]) -> C {
        let words = std::iter::once("dockerd-rootless").chain(words.iter().copied());
        let mut words = words.map(OsString::from).collect();
        find_command(&mut words);
        let understood = Cli::try_parse_from(words);
        understood.unwrap_or_else(|error| panic!("{error}")).command
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::<Command>::command().debug_assert();
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
            (&["dockerd"], false, &[]),
            (&["-v", "dockerd", "--exec", "-D"], false, &["--exec", "-D"]),
            (&["run", "dockerd"], false, &["dockerd"]),
            (&["-v", "--set", "network.mtu=1500", "--mtu=9"], false, &["--mtu=9"]),
        ];
        for (words, expected_exec, expected_words) in cases {
            let expected = expected_words.iter().map(OsString::from).collect();
            let Command::Launching(among_all) = understand(words) else {
                panic!("{words:?} is `run`")
            };
            for Launching::Run { exec, request } in [among_all, understand(words)] {
                assert_eq!((exec, &request.words), (*expected_exec, &expected), "{words:?}");
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
            let Launching::Run { request, .. } = Cli::try_parse_from(line).unwrap().command;
            prop_assert_eq!(request.words, words);
        }
    }
}
