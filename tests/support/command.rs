//! Running a program that has to succeed.

use std::process::Command;

/// Runs `command` to its end and returns what it printed, without the last newline; fails the test if it fails.
pub fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let [stdout, stderr] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{stderr}",
        output.status
    );
    stdout.trim_end().to_owned()
}
