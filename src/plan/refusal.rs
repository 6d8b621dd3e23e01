//! Why a launch is refused, as data: a sentence for people, and what to change for programs.

use crate::error::{Error, Exit};
use crate::settings::Origin;

/// A launch that cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// One sentence, lowercase, without a full stop.
    pub what: String,
    /// What is at fault. A check offers its fix by this, never by the sentence.
    pub fault: Fault,
    /// The check that explains it.
    pub check: &'static str,
}

/// What is at fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The setting `key`, which comes from `origin`; the value `instead` works.
    Setting { key: &'static str, origin: Origin, instead: &'static str },
    /// A program is missing, which this package of Debian has. The setting `key`, which comes from
    /// `origin`, asks for it.
    Program { package: Option<&'static str>, key: &'static str, origin: Origin },
}

impl Refusal {
    /// Returns the error that says so.
    pub fn error(self) -> Error {
        let Self { what, fault, check } = self;
        match fault {
            Fault::Setting { key, origin, instead } => {
                let error = Error::new(Exit::Config, what).hint(origin.take_back(key, instead));
                match origin {
                    Origin::Default => error,
                    origin => error.cause(format!("{key} comes from the {origin}")),
                }
            }
            Fault::Program { package, key, origin } => {
                let install = match package {
                    Some(package) => {
                        format!("install it (Debian, Ubuntu: sudo apt-get install {package})")
                    }
                    None => "install it".to_owned(),
                };
                let hint = match origin {
                    Origin::Default => install,
                    origin => format!("{install}, or: {}", origin.take_back(key, "auto")),
                };
                Error::new(Exit::Prerequisite, what).hint(hint)
            }
        }
        .check(check)
    }
}
