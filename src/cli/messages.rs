//! Messages on standard error: which ones, in what form, in colours or not.

use std::fmt;
use std::io::{self, IsTerminal};

use clap::{Args, ColorChoice};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, layer};
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry;
use tracing_subscriber::registry::LookupSpan;

use crate::environment::Environment;
use crate::sys::stderr;

/// The options that every command has.
#[derive(Args, Default)]
#[command(next_help_heading = "Global options")]
pub struct Messages {
    /// Print more; -vv prints even more
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    /// Minimum level of messages to print: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", global = true)]
    log_level: Option<LevelFilter>,
    /// When to use colors
    #[arg(long, value_name = "WHEN", default_value = "auto", global = true)]
    color: ColorChoice,
}

/// Who reads the messages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A log: each line has a time and a level.
    Log,
    /// The same, without colours: the file that stands for a terminal.
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
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            _ if environment.get("NO_COLOR").is_some() => false,
            _ if forced => true,
            _ if says("CLICOLOR", "0") || says("TERM", "dumb") => false,
            _ => stream.is_terminal(),
        }
    }

    /// Starts to send messages to standard error.
    pub fn start(&self, environment: &Environment, form: Form) {
        let named = environment.get("RUST_LOG").map(|text| text.to_string_lossy());
        let filter = match (self.level(), named) {
            (Some(level), _) => Targets::new().with_default(level),
            // Other programs use this variable too, and read more into it.
            (None, Some(text)) => text.parse().unwrap_or_else(|_| info()),
            (None, None) => info(),
        };
        let colored = self.colored(environment, &io::stderr()) && form != Form::LogFile;
        let lines = layer().with_writer(|| stderr::Writer).with_ansi(colored).with_target(false);
        let lines = match form {
            Form::Plain => lines.event_format(Plain).boxed(),
            // The journal adds the time itself.
            _ if environment.has("JOURNAL_STREAM") => lines.without_time().boxed(),
            _ => lines.boxed(),
        };
        registry().with(lines.with_filter(filter)).init();
    }
}

fn info() -> Targets {
    Targets::new().with_default(LevelFilter::INFO)
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
        writer.write_str(match *event.metadata().level() {
            Level::ERROR => "error: ",
            Level::WARN => "warning: ",
            Level::INFO => "",
            Level::DEBUG => "debug: ",
            Level::TRACE => "trace: ",
        })?;
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}
