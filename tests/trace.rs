//! `check` and plain `run` beside the real programs, as an unprivileged user: what they leave, whom they disturb, and how
//! they end, on whichever way.

mod support;

#[path = "trace/explains.rs"]
mod explains;
#[path = "trace/killed.rs"]
mod killed;
#[path = "trace/left.rs"]
mod left;
#[path = "trace/options.rs"]
mod options;
#[path = "trace/setup_tool.rs"]
mod setup_tool;
#[path = "trace/signals.rs"]
mod signals;
#[path = "trace/stubs.rs"]
mod stubbed;

use std::process::Command;

use serde_json::Value;
use support::*;

impl Told {
    /// A check of the report in JSON.
    fn check(&self, name: &str) -> Value {
        let report = self.json();
        let checks = report["checks"].as_array().expect("checks").iter();
        let found = checks.filter(|check| check["name"] == name).collect::<Vec<_>>();
        assert_eq!(found.len(), 1, "{name}: {self:?}");
        found[0].clone()
    }

    fn status(&self, name: &str) -> String {
        self.check(name)["status"].as_str().expect("a status").to_owned()
    }

    /// The names of the checks with this status.
    fn with_status(&self, status: &str) -> Vec<String> {
        let report = self.json();
        let checks = report["checks"].as_array().expect("checks").iter();
        checks
            .filter(|check| check["status"] == status)
            .map(|check| check["name"].as_str().expect("a name").to_owned())
            .collect()
    }
}

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
