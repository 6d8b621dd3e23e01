//! Running a program to its end.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// How a program ended and what it said.
#[derive(Debug)]
pub struct Told {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Told {
    /// By `command`, which has nobody to ask.
    pub fn by(command: &mut Command) -> Self {
        let output = command.stdin(Stdio::null()).output();
        output.unwrap_or_else(|e| panic!("{command:?}: {e}")).into()
    }

    /// The same of a command that must end with 0.
    pub fn good(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// The object that it has printed.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Returns the check called `name` of a report in JSON.
    pub fn check(&self, name: &str) -> Value {
        let report = self.json();
        let checks = report["checks"].as_array().expect("checks").iter();
        let found = checks.filter(|check| check["name"] == name).collect::<Vec<_>>();
        assert_eq!(found.len(), 1, "{name}: {self:?}");
        found[0].clone()
    }

    pub fn status(&self, name: &str) -> String {
        self.check(name)["status"].as_str().expect("a status").to_owned()
    }

    /// Returns the names of the checks with this status.
    pub fn with_status(&self, status: &str) -> Vec<String> {
        let report = self.json();
        let checks = report["checks"].as_array().expect("checks").iter();
        checks
            .filter(|check| check["status"] == status)
            .map(|check| check["name"].as_str().expect("a name").to_owned())
            .collect()
    }

    /// Returns the actions of a report in JSON, each as its name and what it acts on.
    pub fn actions(&self) -> Vec<String> {
        let report = self.json();
        let actions = report["actions"].as_array().expect("actions").iter();
        let actions: Vec<String> = actions
            .map(|action| {
                let values = action.as_object().expect("an object").values();
                let words: Vec<&str> =
                    values.map(|value| value.as_str().expect("a string")).collect();
                words.join(" ")
            })
            .collect();
        assert_eq!(report["changed"], !actions.is_empty(), "{self:?}");
        actions
    }
}

impl From<Output> for Told {
    fn from(output: Output) -> Self {
        let [stdout, stderr] = [output.stdout, output.stderr]
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Self { code: output.status.code(), stdout, stderr }
    }
}

/// Runs `command` to its end and returns what it printed, without the last newline; fails the test if it fails.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let [stdout, stderr] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(output.status.success(), "{command:?}: {}\n{stderr}", output.status);
    stdout.trim_end().to_owned()
}
