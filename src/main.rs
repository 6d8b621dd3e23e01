//! Captures words and variables, runs the command, prints the one error, ends with its code.

use std::process::ExitCode;

use dockerd_rootless::{cli, environment::Environment};

fn main() -> ExitCode {
    let environment: Environment = std::env::vars_os().collect();
    match cli::run(std::env::args_os().collect(), &environment) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("{}", error.render());
            ExitCode::from(error.exit() as u8)
        }
    }
}
