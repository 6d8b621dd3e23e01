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
    /// Uses a context, and notes the one before for the removal.
    UseContext(String, Option<String>),
    RemoveContext,
    /// Removes the programs that `fetch` installed.
    RemovePrograms,
    /// Deletes these entries of a data root.
    DeleteData(PathBuf, Vec<PathBuf>),
}

impl Action {
    /// Returns whether it changes the docker client and not units.
    pub fn is_about_client(&self) -> bool {
        use Action::*;
        matches!(self, PointContext(..) | UseContext(..) | RemoveContext)
    }

    /// Returns what it does, as in "would write FILE".
    pub fn imperative(&self) -> String {
        let (verb, _, _, object) = self.parts();
        format!("{verb} {object}")
    }

    /// Returns what it did, as in "Wrote FILE".
    pub fn past(&self) -> String {
        let (verb, _, _, object) = self.parts();
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
        let (verb, key, name, _) = self.parts();
        json!({"action": verb, key: name})
    }

    /// Returns the verb, the kind and the name of what it acts on, and both in words.
    fn parts(&self) -> (&'static str, &'static str, String, String) {
        let named =
            |verb: &'static str, key, name: &str| (verb, key, name.to_owned(), name.to_owned());
        let path = |verb, path: &PathBuf| named(verb, "path", &path.display().to_string());
        let context = |verb: &'static str, name: &str, rest: String| {
            let to = if verb == "switch" { "to " } else { "" };
            (verb, "context", name.to_owned(), format!("{to}docker context `{name}`{rest}"))
        };
        match self {
            Self::EnableLinger(user) => {
                ("enable", "linger", user.clone(), format!("lingering for {user}"))
            }
            Self::Write(file, _) => path("write", file),
            Self::Remove(file) => path("remove", file),
            Self::Reload => named("reload", "units", "systemd's user units"),
            Self::Unit(verb, unit) => named(verb, "unit", unit),
            Self::Replace => named("replace", "processes", "dockerd and the supervisor"),
            Self::Set(key, value) => {
                let words = format!("{key} to {value} in your configuration file");
                ("set", "key", (*key).to_owned(), words)
            }
            Self::PointContext(verb, host) => context(verb, CONTEXT, format!(" for {host}")),
            Self::UseContext(name, previous) => {
                let rest = previous.as_ref().map_or_else(String::new, |previous| {
                    format!(" (was `{previous}`; uninstall restores it)")
                });
                context("switch", name, rest)
            }
            Self::RemoveContext => context("remove", CONTEXT, String::new()),
            Self::RemovePrograms => named("remove", "programs", "what `fetch` installed"),
            Self::DeleteData(root, _) => {
                let root = root.display().to_string();
                ("delete", "path", root.clone(), format!("the data in {root}"))
            }
        }
    }
}
