//! `check` and plain `run` beside the real programs, as an unprivileged user: what they leave, whom they disturb, and how
//! they end, on whichever way.

mod explains;
mod killed;
mod left;
mod options;
mod setup_tool;
mod signals;
mod stubbed;

use std::process::Command;

use test_support::*;

/// The same with `variables`, which may name another PATH.
fn check_with(user: &TestUser, variables: &[String], words: &str) -> Command {
    let mut command = user.command("env");
    command
        .args(variables)
        .arg(Launcher::Run.install(user))
        .arg("check")
        .args(words.split_whitespace());
    command
}

/// `dockerd-rootless check` with further `words`, split at white space.
fn check(user: &TestUser, words: &str) -> Command {
    let mut command = user.command(Launcher::Run.install(user));
    command.arg("check").args(words.split_whitespace());
    command
}
