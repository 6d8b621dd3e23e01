//! What an installation, an upgrade or a removal does, as data.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use serde_json::{Value, json};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Writes a text.
    Write(PathBuf, String),
    Remove(PathBuf),
    /// Runs this command line.
    Run(String),
    /// Has systemctl(1) `start` or `restart` a unit, and waits for the daemon.
    Start(&'static str, &'static str),
    /// Replaces dockerd and the supervisor; containers keep running.
    Replace,
    /// Removes the programs that `fetch` installed.
    RemovePrograms,
    /// Deletes these entries of a data root.
    DeleteData(PathBuf, Vec<PathBuf>),
}

impl Action {
    /// Returns the verb, its past tense, and the kind and the name of what it acts on.
    fn parts(&self) -> (&'static str, &'static str, &'static str, String) {
        let path = |path: &PathBuf| path.display().to_string();
        match self {
            Self::Write(file, _) => ("write", "Wrote", "path", path(file)),
            Self::Remove(file) => ("remove", "Removed", "path", path(file)),
            Self::Run(line) => ("run", "Ran", "command", line.clone()),
            Self::Start("start", unit) => ("start", "Started", "unit", (*unit).to_owned()),
            Self::Start(_, unit) => ("restart", "Restarted", "unit", (*unit).to_owned()),
            Self::Replace => {
                ("replace", "Replaced", "processes", "dockerd and the supervisor".to_owned())
            }
            Self::RemovePrograms => {
                ("remove", "Removed", "programs", "what `fetch` installed".to_owned())
            }
            Self::DeleteData(root, _) => ("delete", "Deleted", "data", path(root)),
        }
    }

    /// Returns what it does, as in "would write FILE".
    pub fn imperative(&self) -> String {
        let (verb, _, _, name) = self.parts();
        format!("{verb} {name}")
    }

    /// Returns what it did, as in "Wrote FILE".
    pub fn past(&self) -> String {
        let (_, past, _, name) = self.parts();
        format!("{past} {name}")
    }

    /// Returns it for programs: the verb, and what it acts on.
    pub fn json(&self) -> Value {
        let (verb, _, kind, name) = self.parts();
        json!({"action": verb, kind: name})
    }
}
