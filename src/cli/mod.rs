//! The command line: which tool the name says, and which command the words say.

mod check;
mod config;
mod drop_in;
mod fetch;
mod install;
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
mod uninstall;
mod upgrade;

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use clap::{Args, ColorChoice, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use tracing::level_filters::LevelFilter;
use tracing::warn;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

use crate::cli::install::InstallOptions;
use crate::cli::output::{Format, Whose};
use crate::cli::run::Request;
use crate::cli::uninstall::UninstallOptions;
use crate::cli::upgrade::UpgradeOptions;
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::plan::STAGE;
use crate::supervise::TAKE_OVER;
use crate::sys::stderr;

#[derive(Parser)]
#[command(name = "dockerd-rootless", version, about = "Starts rootless Docker")]
struct Cli<C: Subcommand> {
    #[command(flatten)]
    messages: Messages,
    #[command(subcommand)]
    command: C,
}

/// How much is said, and how.
#[derive(Args, Default)]
struct Messages {
    /// Say more; twice: still more
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    /// Say what is at least this important: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", global = true)]
    log_level: Option<LevelFilter>,
    /// When to use colours
    #[arg(long, value_enum, default_value = "auto", global = true)]
    color: Color,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum Color {
    #[default]
    Auto,
    Always,
    Never,
}

/// The one command that is in a hurry: the others' options need not be known to understand it.
#[derive(Subcommand)]
enum Launching {
    /// Launch the daemon (the default)
    ///
    /// Our options come first. From the first word that is none of them, or from `--` on, all
    /// words are dockerd's, unchanged.
    Run {
        /// Become rootlesskit: nothing of this program stays
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
        /// What `run --exec` would execute
        #[arg(long)]
        exec: bool,
        /// How to print
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
        #[command(flatten)]
        launch: Launch,
    },
    /// Find out what stands in the way of rootless Docker, and print the commands that mend it
    ///
    /// Tries what a launch with these options would need, and leaves nothing behind. Each check ends
    /// as `ok`, `warn` (works, with a drawback), `FAIL` (stands in the way) or `skip` (nothing to
    /// look at, or no way to look). Ends with 4 if one fails, else with 0.
    Check {
        /// How to print
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
        /// Print nothing but the commands that mend what was found: root's, yours, or both
        #[arg(
            long,
            value_enum,
            value_name = "WHOSE",
            num_args = 0..=1,
            require_equals = true,
            default_missing_value = "both",
            conflicts_with = "format"
        )]
        print_fix: Option<Whose>,
        /// Report only the checks of these names, with commas between them
        #[arg(long, value_name = "NAME", value_delimiter = ',')]
        only: Vec<String>,
        /// Report all but the checks of these names, with commas between them
        #[arg(long, value_name = "NAME", value_delimiter = ',', conflicts_with = "only")]
        skip: Vec<String>,
        /// Print the names of all checks and what they are about, and check nothing
        #[arg(long, conflicts_with_all = ["print_fix", "only", "skip"])]
        list: bool,
        #[command(flatten)]
        launch: Launch,
    },
    /// Tell how the daemon is: its state, processes, versions, restarts
    ///
    /// Ends with 0 if it is ready, and with 3 if it is not.
    Status {
        /// How to print
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
        /// Wait until it is ready, for at most so many seconds (60)
        #[arg(
            long,
            value_name = "SECONDS",
            num_args = 0..=1,
            require_equals = true,
            default_missing_value = "60"
        )]
        wait: Option<u32>,
    },
    /// Replace dockerd with the one on disk, and leave containers alone
    ///
    /// dockerd reads its settings anew. Clients wait meanwhile. Ends with 3 if nothing runs.
    Restart {
        /// Stop containers in order and restart everything, the network and containerd included
        #[arg(long)]
        all: bool,
    },
    /// Install the units, start the daemon, and have the docker client find it
    ///
    /// What is so already is left alone. A unit that you have edited is kept, and ours laid beside
    /// it.
    Install(InstallOptions),
    /// Bring the installed units to what this version writes
    ///
    /// The daemon restarts if no container runs. Drop-ins and edited units are left alone.
    Upgrade(UpgradeOptions),
    /// Remove what `install` has made; data, edited files and programs stay
    Uninstall(UninstallOptions),
    /// Run a command, or your shell, in the namespaces of the daemon
    Nsenter {
        /// The command
        #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
    /// Get Docker's static programs, checked, and switch between versions of them
    #[command(after_help = fetch::EXAMPLES)]
    Fetch(Box<fetch::FetchOptions>),
    /// Show, check and change settings
    Config {
        #[command(flatten)]
        assignments: Assignments,
        /// How to print
        #[arg(long, value_enum, default_value = "text", global = true)]
        format: Format,
        #[command(subcommand)]
        command: Config,
    },
}

#[derive(Args)]
struct Launch {
    #[command(flatten)]
    assignments: Assignments,
    /// Options of dockerd
    #[arg(value_name = "DOCKERD_OPTIONS", trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

impl Launch {
    fn request(self, exec: bool, level: Option<LevelFilter>) -> Request {
        Request {
            exec,
            assignments: self.assignments.assignments,
            words: self.words,
            level,
            ..Request::default()
        }
    }
}

#[derive(Args)]
struct Assignments {
    /// Set a key over all other places that set it
    #[arg(long = "set", value_name = "KEY=VALUE", global = true)]
    assignments: Vec<OsString>,
}

#[derive(Subcommand)]
enum Config {
    /// Print all settings as a configuration file
    Show {
        /// Say where each value comes from
        #[arg(long)]
        origin: bool,
    },
    /// Print every place that sets KEY, and which one counts
    Explain {
        /// Such as network.driver
        key: String,
    },
    /// Read all places and say whether they are valid
    Check,
    /// Print where configuration files are looked for
    Path,
    /// Write a value into your configuration file
    ///
    /// VALUE is read as `--set KEY=VALUE` reads it. One that may be taken for an option of ours
    /// stands behind `--`.
    Set {
        /// Such as network.driver
        key: String,
        /// Such as pasta
        #[arg(allow_hyphen_values = true)]
        value: OsString,
    },
    /// Take a key out of your configuration file
    Unset {
        /// Such as network.driver
        key: String,
    },
}

/// Runs what `words`, the program's name first, ask for.
///
/// # Errors
/// The error to print and to end with. A launch that succeeds does not return.
pub fn run(words: Vec<OsString>, environment: &Environment) -> Result<Exit, Error> {
    if words.get(1).is_some_and(|word| word == STAGE) {
        start_messages(&Messages::default(), environment);
        return stage::run(&words[2..], environment);
    }
    if let Some(word) = words.get(1).and_then(|word| word.to_str())
        && check::is_trial(word)
    {
        return check::run_trial(word, &words[2..], environment).map(|()| Exit::Good);
    }
    let name = words.first().and_then(|name| Path::new(name).file_name());
    if name == Some(OsStr::new("dockerd-rootless.sh")) {
        start_messages(&Messages::default(), environment);
        return drop_in::run(&words[1..], environment);
    }
    if name == Some(OsStr::new("dockerd-rootless-setuptool.sh")) {
        start_messages(&Messages::default(), environment);
        return setup_tool::run(&words, environment);
    }
    if let [program, word, mode, descriptor, arguments @ ..] = &words[..]
        && word == TAKE_OVER
    {
        let line = std::iter::once(program).chain(arguments).cloned().collect();
        let Cli { messages, command } = parse::<Launching>(with_default_command(line).0);
        let level = start_messages(&messages, environment);
        let descriptor = descriptor.to_str().and_then(|number| number.parse().ok());
        let request = launching(command, arguments, level);
        let (is_trial, descriptor) = (mode == "try", descriptor.unwrap_or(-1));
        return run::take_over(environment, &request, is_trial, descriptor);
    }
    let called = words.first().cloned().unwrap_or_default();
    let arguments = words.get(1..).unwrap_or_default().to_vec();
    let (words, command) = with_default_command(words);
    if command.is_some_and(|command| command == "run") {
        let Cli { messages, command } = parse::<Launching>(words);
        let level = start_messages(&messages, environment);
        return run::run(environment, &launching(command, &arguments, level));
    }
    let Cli { messages, command } = parse::<Command>(words);
    let level = start_messages(&messages, environment);
    let colored_results = colored(messages.color, environment, &io::stdout());
    match command {
        Command::Launching(command) => {
            return run::run(environment, &launching(command, &arguments, level));
        }
        Command::Plan { exec, format, launch } => {
            plan::run(environment, &launch.request(exec, level), format)?;
        }
        Command::Check { format, print_fix, only, skip, list, launch } => {
            let choice = check::Choice::new(&only, &skip)?;
            let output = match print_fix {
                Some(whose) => check::Output::Fix(whose),
                None => check::Output::Report(format, colored_results),
            };
            return match list {
                true => check::list(format),
                false => check::run(environment, &launch.request(false, level), &choice, output),
            };
        }
        Command::Status { format, wait } => {
            let wait = wait.map(|seconds| Duration::from_secs(seconds.into()));
            return status::run(environment, wait, format);
        }
        Command::Restart { all } => return restart::run(environment, all),
        Command::Install(options) => {
            return install::run(environment, &called, &options);
        }
        Command::Upgrade(options) => {
            return upgrade::run(environment, &called, &options);
        }
        Command::Uninstall(options) => {
            return uninstall::run(environment, &called, &options);
        }
        Command::Nsenter { words } => return nsenter::run(environment, &words),
        Command::Fetch(options) => return fetch::run(environment, &options),
        Command::Config { assignments: Assignments { assignments }, format, command } => {
            match command {
                Config::Show { origin } => {
                    config::show(environment, &assignments, origin, format)?;
                }
                Config::Explain { key } => {
                    config::explain(environment, &assignments, &key, format)?;
                }
                Config::Check => config::check(environment, &assignments, format)?,
                Config::Path => config::path(environment, format)?,
                Config::Set { key, value } => {
                    config::edit(environment, &assignments, &key, Some(&value), format)?;
                }
                Config::Unset { key } => {
                    config::edit(environment, &assignments, &key, None, format)?;
                }
            }
        }
    }
    Ok(Exit::Good)
}

/// Understands `words`, or ends with what is wrong about them, or with the help that they ask for.
fn parse<C: Subcommand>(words: Vec<OsString>) -> Cli<C> {
    let command = Cli::<C>::command().color(colors_of_usage(&words));
    let parsed = command.try_get_matches_from(words);
    match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(usage) => usage.exit(),
    }
}

/// What is asked of a launch, with the words of the whole command line.
fn launching(
    Launching::Run { exec, launch }: Launching,
    arguments: &[OsString],
    level: Option<LevelFilter>,
) -> Request {
    Request { arguments: arguments.to_vec(), ..launch.request(exec, level) }
}

/// What `--color` says before the words are understood: the errors about them have colours too.
fn colors_of_usage(words: &[OsString]) -> ColorChoice {
    let ours = words.iter().take_while(|word| *word != "--").map(|word| word.as_bytes());
    let line = ours.collect::<Vec<_>>().join(&b'=');
    let says = |choice: &[u8]| line.windows(choice.len()).any(|window| window == choice);
    match () {
        () if says(b"--color=never") => ColorChoice::Never,
        () if says(b"--color=always") => ColorChoice::Always,
        () => ColorChoice::Auto,
    }
}

/// Puts `run` before the words where they name no command: none at all, or options first.
///
/// Options on messages may come before a command, which is looked for behind them: nobody who
/// types `-v plan` wants to start a daemon with the word `plan`.
///
/// Returns the words, and the command if they name one.
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

/// Whether what goes to `stream` has colours.
fn colored(color: Color, environment: &Environment, stream: &impl IsTerminal) -> bool {
    match (color, environment.get("NO_COLOR"), environment.get("CLICOLOR_FORCE")) {
        (Color::Always, ..) => true,
        (Color::Never, ..) | (Color::Auto, Some(_), _) => false,
        (Color::Auto, None, Some(force)) if force != "0" => true,
        (Color::Auto, None, _) => stream.is_terminal(),
    }
}

/// Sends messages to standard error. Returns the level if the user chose one on the command line.
fn start_messages(messages: &Messages, environment: &Environment) -> Option<LevelFilter> {
    let chosen = messages.log_level.or(match messages.verbose {
        0 => None,
        1 => Some(LevelFilter::DEBUG),
        _ => Some(LevelFilter::TRACE),
    });
    let default = Targets::new().with_default(LevelFilter::INFO);
    let stated = environment.get("RUST_LOG").map(|text| (text, text.to_string_lossy().parse()));
    let (filter, misread) = match (chosen, stated) {
        (Some(level), _) => (Targets::new().with_default(level), None),
        (None, None) => (default, None),
        (None, Some((_, Ok(filter)))) => (filter, None),
        // The variable is not ours alone, and other programs read more into it.
        (None, Some((text, Err::<Targets, _>(error)))) => (default, Some((text, error))),
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(|| stderr::Writer)
        .with_ansi(colored(messages.color, environment, &io::stderr()))
        .with_target(false);
    let registry = tracing_subscriber::registry();
    // The journal adds the time itself.
    if environment.has("JOURNAL_STREAM") {
        registry.with(lines.without_time().with_filter(filter)).init();
    } else {
        registry.with(lines.with_filter(filter)).init();
    }
    if let Some((text, error)) = misread {
        warn!("`RUST_LOG`: `{}` is not understood ({error}); it counts as `info`", text.display());
    }
    chosen
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
