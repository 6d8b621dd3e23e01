//! What a launch is asked for.

use std::ffi::OsString;

use tracing::level_filters::LevelFilter;

/// What a launch is asked for on the command line.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Request {
    /// Set KEY for this call, whatever other sources say
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub assignments: Vec<OsString>,
    /// Options for dockerd
    #[arg(value_name = "DOCKERD_OPTIONS", trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<OsString>,
    /// Whether to run without a supervisor, whatever the settings say.
    #[arg(skip)]
    pub exec: bool,
    /// All arguments of our command line.
    #[arg(skip)]
    pub arguments: Vec<OsString>,
    /// The level of messages that the user chose, also for the namespace stage.
    #[arg(skip)]
    pub level: Option<LevelFilter>,
    /// Whether a person reads our messages, who needs less than a log.
    #[arg(skip)]
    pub in_terminal: bool,
}
