//! What an installation, an upgrade or a removal does, as data.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

/// The docker client's context for the rootless daemon, as upstream's setup tool calls it.
pub const CONTEXT: &str = "rootless";

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum Action {
    /// Keeps the user manager without a session (loginctl(1)).
    EnableLinger {
        user: String,
    },
    Write {
        #[serde(serialize_with = "lossy")]
        path: PathBuf,
        #[serde(skip)]
        text: String,
    },
    Remove {
        #[serde(serialize_with = "lossy")]
        path: PathBuf,
        /// Whether the directory goes too, if it is empty then.
        #[serde(skip)]
        with_directory: bool,
    },
    /// Lets the user manager read its units again.
    Reload,
    Enable {
        unit: &'static str,
    },
    Disable {
        unit: &'static str,
    },
    /// Starts a unit and waits until it is ready.
    Start {
        unit: &'static str,
    },
    Stop {
        unit: &'static str,
    },
    Restart {
        unit: &'static str,
    },
    /// Replaces dockerd and the supervisor; containers keep running.
    Replace,
    /// Changes the user's configuration file.
    Set {
        key: &'static str,
        value: &'static str,
    },
    CreateContext {
        host: String,
    },
    UpdateContext {
        host: String,
    },
    UseContext {
        name: String,
        /// The context to note for the removal.
        #[serde(skip_serializing_if = "Option::is_none")]
        previous: Option<String>,
    },
    RemoveContext,
    /// Removes the programs that `fetch` installed.
    RemovePrograms,
    DeleteData {
        #[serde(serialize_with = "lossy")]
        root: PathBuf,
        /// What goes in it.
        #[serde(skip)]
        entries: Vec<PathBuf>,
    },
}

impl Action {
    /// Returns whether it changes the docker client and not units.
    pub fn is_about_client(&self) -> bool {
        use Action::*;
        matches!(
            self,
            CreateContext { .. } | UpdateContext { .. } | UseContext { .. } | RemoveContext
        )
    }

    /// Returns what it does, as in "would write FILE".
    pub fn imperative(&self) -> String {
        let (verb, _, object) = self.words();
        format!("{verb} {object}")
    }

    /// Returns what it did, as in "Wrote FILE".
    pub fn past(&self) -> String {
        let (_, verb, object) = self.words();
        let restores = "uninstall restores it";
        match self {
            Self::UseContext { previous: Some(was), .. } => {
                format!("{verb} {object} (was `{was}`; {restores})")
            }
            _ => format!("{verb} {object}"),
        }
    }

    /// Returns the verb, its past tense, and the object.
    fn words(&self) -> (&'static str, &'static str, String) {
        let shown = |path: &Path| path.display().to_string();
        let context = || format!("docker context `{CONTEXT}`");
        match self {
            Self::EnableLinger { user } => ("enable", "Enabled", format!("lingering for {user}")),
            Self::Write { path, .. } => ("write", "Wrote", shown(path)),
            Self::Remove { path, .. } => ("remove", "Removed", shown(path)),
            Self::Reload => ("reload", "Reloaded", "systemd's user units".to_owned()),
            Self::Enable { unit } => ("enable", "Enabled", (*unit).to_owned()),
            Self::Disable { unit } => ("disable", "Disabled", (*unit).to_owned()),
            Self::Start { unit } => ("start", "Started", (*unit).to_owned()),
            Self::Stop { unit } => ("stop", "Stopped", (*unit).to_owned()),
            Self::Restart { unit } => ("restart", "Restarted", (*unit).to_owned()),
            Self::Replace => {
                let what = "dockerd and the supervisor; containers keep running";
                ("replace", "Replaced", what.to_owned())
            }
            Self::Set { key, value } => {
                ("set", "Set", format!("{key} to {value} in your configuration file"))
            }
            Self::CreateContext { host } => {
                ("create", "Created", format!("{} for {host}", context()))
            }
            Self::UpdateContext { host } => {
                ("point", "Pointed", format!("{} to {host}", context()))
            }
            Self::UseContext { name, .. } => {
                ("switch", "Switched", format!("the docker context to `{name}`"))
            }
            Self::RemoveContext => ("remove", "Removed", context()),
            Self::RemovePrograms => {
                ("remove", "Removed", "the programs that `fetch` installed".to_owned())
            }
            Self::DeleteData { root, .. } => {
                ("delete", "Deleted", format!("the data in {}", shown(root)))
            }
        }
    }
}

/// Writes a path as a string, also where it is not UTF-8.
fn lossy<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}
