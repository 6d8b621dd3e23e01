//! What `verify` answers: a row for each question.
#![forbid(unsafe_code)]

use serde::Serialize;

use crate::verify::checks::{STATUS, Text};
use crate::verify::engine::{Failure, Fault};

/// What came of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Pass,
    Fail,
    Skip,
    Info,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    pub name: Text,
    pub group: Text,
    pub question: Text,
    pub status: Status,
    /// The value, or what came in its place.
    pub answer: String,
    /// What should have come, of a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// The daemon's own words.
    #[serde(rename = "daemon_says", skip_serializing_if = "Option::is_none")]
    pub said: Option<String>,
    /// What to run next, of a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<Text>,
}

impl Row {
    fn new(name: Text, status: Status, answer: impl Into<String>) -> Self {
        let (group, question, answer) = ("", "", answer.into());
        Self { name, group, question, status, answer, expected: None, said: None, next: None }
    }

    pub fn pass(name: Text, answer: impl Into<String>) -> Self {
        Self::new(name, Status::Pass, answer)
    }

    pub fn info(name: Text, answer: impl Into<String>) -> Self {
        Self::new(name, Status::Info, answer)
    }

    pub fn skip(name: Text, why: impl Into<String>) -> Self {
        Self::new(name, Status::Skip, why)
    }

    /// Reports what came in place of what is `expected`.
    pub fn fail(name: Text, answer: impl Into<String>, expected: impl Into<String>) -> Self {
        let expected = Some(expected.into());
        Self { expected, ..Self::new(name, Status::Fail, answer) }
    }

    /// Passes if the answer is good, and fails else.
    pub fn judge(name: Text, is_good: bool, answer: impl Into<String>, expected: &str) -> Self {
        if is_good { Self::pass(name, answer) } else { Self::fail(name, answer, expected) }
    }

    /// Reports what the daemon refused.
    pub fn refused(name: Text, failure: &Failure) -> Self {
        let answer = format!("dockerd does not {}", failure.asked);
        let is_away = matches!(failure.fault, Fault::Late | Fault::Lost);
        let next = is_away.then_some(STATUS);
        Self { next, ..Self::fail(name, answer, "it does").said(&failure.said) }
    }

    /// Adds the daemon's own words.
    pub fn said(self, said: impl Into<String>) -> Self {
        Self { said: Some(said.into()), ..self }
    }
}
