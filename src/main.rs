//! Captures arguments and variables, runs the command, prints its error, ends with its code.

use std::io::{self, Write};
use std::process::ExitCode;

use dockerd_rootless::{cli, environment::Environment};

fn main() -> ExitCode {
    let environment: Environment = std::env::vars_os().collect();
    match cli::run(std::env::args_os().collect(), &environment) {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(error) => {
            // Without a reader, the exit code still tells.
            let _ = io::stderr().write_all(error.render().as_bytes());
            ExitCode::from(error.exit().code())
        }
    }
}
