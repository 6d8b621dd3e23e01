//! What an installation, an upgrade or a removal does, as data.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// The docker client's context for the rootless daemon, as upstream's setup tool calls it.
pub const CONTEXT: &str = "rootless";

/// One step.
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
    CreateContext(String),
    UpdateContext(String),
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
        matches!(self, CreateContext(_) | UpdateContext(_) | UseContext(..) | RemoveContext)
    }

    /// Returns what it does, as in "would write FILE".
    pub fn imperative(&self) -> String {
        let (verb, ..) = self.parts();
        format!("{verb} {}", self.object())
    }

    /// Returns what it did, as in "Wrote FILE".
    pub fn past(&self) -> String {
        let (verb, ..) = self.parts();
        let past = match verb {
            "set" => "Set".to_owned(),
            "stop" => "Stopped".to_owned(),
            "write" => "Wrote".to_owned(),
            regular => {
                let end = if regular.ends_with('e') { "d" } else { "ed" };
                format!("{}{}{end}", regular[..1].to_uppercase(), &regular[1..])
            }
        };
        format!("{past} {}", self.object())
    }

    /// Returns it for programs: the verb, and what it acts on.
    pub fn json(&self) -> Value {
        let (verb, key, object) = self.parts();
        json!({"action": verb, key: object})
    }

    fn object(&self) -> String {
        let (_, key, object) = self.parts();
        match (self, key) {
            (Self::CreateContext(host) | Self::UpdateContext(host), _) => {
                format!("docker context `{object}` for {host}")
            }
            (Self::UseContext(_, Some(before)), _) => {
                format!("to docker context `{object}` (was `{before}`; uninstall restores it)")
            }
            (Self::UseContext(..), _) => format!("to docker context `{object}`"),
            (Self::Set(_, value), _) => format!("{object} to {value} in your configuration file"),
            (Self::DeleteData(..), _) => format!("the data in {object}"),
            (_, "context") => format!("docker context `{object}`"),
            (_, "linger") => format!("lingering for {object}"),
            (_, _) => object,
        }
    }

    /// Returns the verb, the kind of what it acts on, and that.
    fn parts(&self) -> (&'static str, &'static str, String) {
        let text = |path: &Path| path.display().to_string();
        let own = CONTEXT.to_owned();
        match self {
            Self::EnableLinger(user) => ("enable", "linger", user.clone()),
            Self::Write(path, _) => ("write", "path", text(path)),
            Self::Remove(path) => ("remove", "path", text(path)),
            Self::Reload => ("reload", "units", "systemd's user units".to_owned()),
            Self::Unit(verb, unit) => (verb, "unit", (*unit).to_owned()),
            Self::Replace => ("replace", "processes", "dockerd and the supervisor".to_owned()),
            Self::Set(key, _) => ("set", "key", (*key).to_owned()),
            Self::CreateContext(_) => ("create", "context", own),
            Self::UpdateContext(_) => ("update", "context", own),
            Self::UseContext(name, _) => ("switch", "context", name.clone()),
            Self::RemoveContext => ("remove", "context", own),
            Self::RemovePrograms => ("remove", "programs", "what `fetch` installed".to_owned()),
            Self::DeleteData(root, _) => ("delete", "path", text(root)),
        }
    }
}
