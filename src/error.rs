//! The one error type: a sentence that names the object and the value, the causes below it, a
//! hint that mends it, and the exit code it ends in.
#![forbid(unsafe_code)]

use std::fmt;

/// How the program ends, as users and units see it. The daemon's own code passes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Something failed that has no code of its own.
    Failed = 1,
    /// The command line is off.
    Usage = 2,
    /// A prerequisite of the host or the session is missing.
    Prerequisite = 4,
    /// Another instance holds what this one needs.
    AlreadyRunning = 5,
    /// A setting is wrong (`EX_CONFIG` of `sysexits.h`).
    Config = 78,
    /// A program was found and could not be executed, as shells report it.
    CannotRun = 126,
    /// A program that was named does not exist, as shells report it.
    NotFound = 127,
}

/// A failure, ready to be printed by [`Error::render`].
#[derive(Debug)]
pub struct Error {
    exit: Exit,
    message: String,
    causes: Vec<String>,
    hint: Option<String>,
}

impl Error {
    /// A failure that ends in `exit`; `message` is a lowercase sentence without a full stop.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            exit,
            message,
            causes: Vec::new(),
            hint: None,
        }
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

    /// Adds what the reader can do: a command to paste, or the setting to change.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The code to end with.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// The lines for standard error: `error: …`, `cause: …` for each cause, `hint: …`.
    pub fn render(&self) -> String {
        let causes = self.causes.iter().map(|cause| format!("cause: {cause}\n"));
        let hint = self.hint.iter().map(|hint| format!("hint: {hint}\n"));
        let first = format!("error: {}\n", self.message);
        std::iter::once(first).chain(causes).chain(hint).collect()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// What is odd but does not stop a launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_sentence_causes_and_hint_in_this_order() {
        let cause = std::io::Error::other("disk on fire");
        let error = Error::new(Exit::Config, "cannot read `x`")
            .because(&cause)
            .hint("buy water");
        assert_eq!(
            error.render(),
            "error: cannot read `x`\ncause: disk on fire\nhint: buy water\n"
        );
        assert_eq!(error.exit() as u8, 78);
    }
}
