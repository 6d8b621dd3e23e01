//! What an installation, an upgrade or a removal does, as data.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use serde_json::{Value, json};

/// The docker client's context for the rootless daemon, as upstream's setup tool calls it.
pub const CONTEXT: &str = "rootless";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Keeps the manager of this user without a session (loginctl(1)).
    EnableLinger(String),
    /// Writes a text.
    Write(PathBuf, String),
    Remove(PathBuf),
    /// Lets the user manager read its units again.
    Reload,
    /// Tells systemctl(1) to `enable`, `disable`, `start`, `stop` or `restart` a unit.
    Unit(&'static str, &'static str),
    /// Replaces dockerd and the supervisor; containers keep running.
    Replace,
    /// Gives a setting a value in the user's configuration file.
    Set(&'static str, &'static str),
    /// Has `create` or `update` lead our context to this address.
    PointContext(&'static str, String),
    /// Selects a context, and notes the one before for the removal.
    SelectContext(String, Option<String>),
    RemoveContext,
    /// Removes the programs that `fetch` installed.
    RemovePrograms,
    /// Deletes these entries of a data root.
    DeleteData(PathBuf, Vec<PathBuf>),
}

impl Action {
    /// Returns what it does, as in "would write FILE".
    pub fn imperative(&self) -> String {
        let (verb, kind, name) = self.parts();
        match kind {
            "linger" => format!("{verb} lingering for {name}"),
            "key" => format!("{verb} {name} in your configuration file"),
            "context" => format!("{verb} docker context `{name}`"),
            "data" => format!("{verb} the data in {name}"),
            _ => format!("{verb} {name}"),
        }
    }

    /// Returns what it did, as in "Wrote FILE".
    pub fn past(&self) -> String {
        let text = self.imperative();
        let (verb, object) = text.split_once(' ').unwrap_or_default();
        let past = match verb {
            "set" => "set".to_owned(),
            "stop" => "stopped".to_owned(),
            "write" => "wrote".to_owned(),
            regular => format!("{}ed", regular.trim_end_matches('e')),
        };
        format!("{}{} {object}", past[..1].to_uppercase(), &past[1..])
    }

    /// Returns it for programs: the verb, and what it acts on.
    pub fn json(&self) -> Value {
        let (verb, kind, name) = self.parts();
        json!({"action": verb, kind: name})
    }

    /// Returns the verb, and the kind and the name of what it acts on.
    fn parts(&self) -> (&'static str, &'static str, String) {
        let path = |path: &PathBuf| path.display().to_string();
        match self {
            Self::EnableLinger(user) => ("enable", "linger", user.clone()),
            Self::Write(file, _) => ("write", "path", path(file)),
            Self::Remove(file) => ("remove", "path", path(file)),
            Self::Reload => ("reload", "units", "systemd's user units".to_owned()),
            Self::Unit(verb, unit) => (verb, "unit", (*unit).to_owned()),
            Self::Replace => ("replace", "processes", "dockerd and the supervisor".to_owned()),
            Self::Set(key, _) => ("set", "key", (*key).to_owned()),
            Self::PointContext(verb, _) => (verb, "context", CONTEXT.to_owned()),
            Self::SelectContext(name, _) => ("select", "context", name.clone()),
            Self::RemoveContext => ("remove", "context", CONTEXT.to_owned()),
            Self::RemovePrograms => ("remove", "programs", "what `fetch` installed".to_owned()),
            Self::DeleteData(root, _) => ("delete", "data", path(root)),
        }
    }
}
