//! Messages on standard error: which ones, in what form, in colours or not.

use std::fmt;
use std::io::{self, IsTerminal};

use clap::{Args, ValueEnum};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber, warn};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, layer};
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry::LookupSpan;

use crate::cli::terminal;
use crate::environment::Environment;
use crate::sys::stderr;

/// The options that every command has.
#[derive(Args, Default)]
pub struct Messages {
    /// Print more; -vv prints even more
    #[arg(short, long, action = clap::ArgAction::Count, global = true, help_heading = "Global options")]
    verbose: u8,
    /// Minimum level of messages to print: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", global = true, help_heading = "Global options")]
    log_level: Option<LevelFilter>,
    /// When to use colors
    #[arg(
        long,
        value_enum,
        value_name = "WHEN",
        default_value = "auto",
        global = true,
        help_heading = "Global options"
    )]
    color: Color,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum Color {
    #[default]
    Auto,
    Always,
    Never,
}

/// Who reads the messages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A log: each line has a time and a level.
    Log,
    /// A log file, and a person who sees warnings alone.
    LogFile,
    /// A person who has run a command.
    Plain,
}

impl Messages {
    /// Returns whether the user asked for more.
    pub fn is_verbose(&self) -> bool {
        self.verbose > 0
    }

    /// Returns the level that the user chose on the command line.
    pub fn level(&self) -> Option<LevelFilter> {
        self.log_level.or(match self.verbose {
            0 => None,
            1 => Some(LevelFilter::DEBUG),
            _ => Some(LevelFilter::TRACE),
        })
    }

    /// Returns whether what goes to `stream` has colours.
    pub fn colored(&self, environment: &Environment, stream: &impl IsTerminal) -> bool {
        let says = |name: &str, value: &str| environment.get(name).is_some_and(|set| set == value);
        let forced = environment.get("CLICOLOR_FORCE").is_some_and(|force| force != "0");
        match self.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto if environment.get("NO_COLOR").is_some() => false,
            Color::Auto if forced => true,
            Color::Auto if says("CLICOLOR", "0") || says("TERM", "dumb") => false,
            Color::Auto => stream.is_terminal(),
        }
    }

    /// Starts to send messages to standard error.
    pub fn start(&self, environment: &Environment, form: Form) {
        let default = Targets::new().with_default(LevelFilter::INFO);
        let stated = environment.get("RUST_LOG").map(|text| (text, text.to_string_lossy().parse()));
        let (filter, misread) = match (self.level(), stated) {
            (Some(level), _) => (Targets::new().with_default(level), None),
            (None, None) => (default, None),
            (None, Some((_, Ok(filter)))) => (filter, None),
            // Other programs use this variable too, and read more into it.
            (None, Some((text, Err::<Targets, _>(error)))) => (default, Some((text, error))),
        };
        let colored = self.colored(environment, &io::stderr()) && form != Form::LogFile;
        let lines = layer().with_writer(|| stderr::Writer).with_ansi(colored).with_target(false);
        let registry = tracing_subscriber::registry();
        match form {
            Form::Plain => registry.with(lines.event_format(Plain).with_filter(filter)).init(),
            // The journal adds the time itself.
            _ if environment.has("JOURNAL_STREAM") => {
                registry.with(lines.without_time().with_filter(filter)).init();
            }
            Form::Log => registry.with(lines.with_filter(filter)).init(),
            Form::LogFile => {
                let warnings = layer()
                    .with_writer(|| terminal::Writer)
                    .with_ansi(self.colored(environment, &io::stderr()))
                    .event_format(Plain)
                    .with_filter(LevelFilter::WARN);
                registry.with(lines.with_filter(filter)).with(warnings).init();
            }
        }
        if let Some((text, error)) = misread {
            let text = text.display();
            warn!("`RUST_LOG`: `{text}` is not understood ({error}); using `info`");
        }
    }
}

/// Lines for a person: no time, and a label only where it matters.
struct Plain;

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let (label, color) = match *event.metadata().level() {
            Level::ERROR => ("error: ", 31),
            Level::WARN => ("warning: ", 33),
            Level::INFO => ("", 0),
            Level::DEBUG => ("debug: ", 34),
            Level::TRACE => ("trace: ", 35),
        };
        match writer.has_ansi_escapes() && !label.is_empty() {
            true => write!(writer, "\u{1b}[{color}m{label}\u{1b}[0m")?,
            false => writer.write_str(label)?,
        }
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}
