//! The one error type: a sentence that names the object and the value, the causes below it, a
//! hint that fixes it, and the exit code it ends in.
#![forbid(unsafe_code)]

use std::fmt;

/// How the program ends, as users and units see it. The daemon's own code passes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All is good: 0.
    Good,
    /// Something failed that has no code of its own: 1.
    Failed,
    /// The command line is off: 2.
    Usage,
    /// Nothing is running that could be asked: 3.
    NotRunning,
    /// A prerequisite of the host or the session is missing: 4.
    Prerequisite,
    /// Another instance holds what this one needs: 5.
    AlreadyRunning,
    /// What was fetched is not what it should be: a checksum, a hostile archive, a redirect away
    /// from https: 6.
    Integrity,
    /// A setting is wrong: 78 (`EX_CONFIG` of `sysexits.h`).
    Config,
    /// A program was found and could not be executed: 126, as shells report it.
    CannotRun,
    /// A program that was named does not exist: 127, as shells report it.
    NotFound,
    /// The daemon's own code, or 128 and the number of the signal that ended it.
    Daemon(u8),
}

impl Exit {
    /// The number that the program ends with.
    pub fn code(self) -> u8 {
        match self {
            Self::Good => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotRunning => 3,
            Self::Prerequisite => 4,
            Self::AlreadyRunning => 5,
            Self::Integrity => 6,
            Self::Config => 78,
            Self::CannotRun => 126,
            Self::NotFound => 127,
            Self::Daemon(code) => code,
        }
    }
}

/// A failure, ready to be printed by [`Error::render`].
#[derive(Debug)]
pub struct Error {
    exit: Exit,
    message: String,
    causes: Vec<String>,
    hint: Option<String>,
    check: Option<&'static str>,
}

impl Error {
    /// A failure that ends in `exit`; `message` is a lowercase sentence without a full stop.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { exit, message, causes: Vec::new(), hint: None, check: None }
    }

    /// Adds what lies below: the error itself and every source of it.
    pub fn because(mut self, cause: &dyn std::error::Error) -> Self {
        let mut next = Some(cause);
        while let Some(error) = next {
            self.causes.push(error.to_string());
            next = error.source();
        }
        self
    }

    /// Adds a cause in words.
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Adds what the reader can do: a command to paste, or the setting to change.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Names the check that explains it.
    pub fn check(mut self, name: &'static str) -> Self {
        self.check = Some(name);
        self
    }

    /// The code to end with.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// The lines for standard error: `error: …`, `cause: …` for each cause, `hint: …`, `check: …`.
    pub fn render(&self) -> String {
        let causes = self.causes.iter().map(|cause| line("cause", cause));
        let hint = self.hint.iter().map(|hint| line("hint", hint));
        let check =
            self.check.iter().map(|name| format!("check: dockerd-rootless check --only {name}\n"));
        let first = line("error", &self.message);
        let rest = causes.chain(hint).chain(check);
        std::iter::once(first).chain(rest).collect()
    }
}

/// One labelled text. It may quote what programs and files of others say, and a terminal must not
/// take that for orders, nor a reader a line of it for one of ours.
fn line(label: &str, text: &str) -> String {
    let text = text.trim_end().replace('\n', "\n  ");
    let text = text.replace(|c: char| c.is_control() && c != '\n', " ");
    format!("{label}: {text}\n")
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// What is odd but does not stop a launch.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Warning(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_sentence_causes_and_hint_in_this_order() {
        let cause = std::io::Error::other("disk on fire");
        let error = Error::new(Exit::Config, "cannot read `x`").because(&cause).hint("buy water");
        assert_eq!(
            error.render(),
            "error: cannot read `x`\ncause: disk on fire\nhint: buy water\n"
        );
        assert_eq!(error.exit().code(), 78);
    }

    #[test]
    fn what_others_say_is_no_order_for_a_terminal_and_no_line_of_ours() {
        let cause = std::io::Error::other("\u{1b}]0;owned\u{7}\r\nhint: rm -rf ~\n");
        let error = Error::new(Exit::Failed, "cannot read `a\nb`").because(&cause);
        assert_eq!(
            error.render(),
            "error: cannot read `a\n  b`\ncause:  ]0;owned  \n  hint: rm -rf ~\n"
        );
    }
}
