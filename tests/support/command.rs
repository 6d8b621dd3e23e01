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
