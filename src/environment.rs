//! The process environment, captured once and handed along as data.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// Variables by name. An empty variable counts as unset, as `${VAR:=default}` treats it in the
/// script that this program replaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// The value of `name`, unless it is unset or empty.
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    /// Returns the names that begin with `prefix`, of variables that are not empty.
    pub fn names<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        let from = self.0.range(OsString::from(prefix)..);
        let named =
            from.filter(|(_, value)| !value.is_empty()).map_while(|(name, _)| name.to_str());
        named.take_while(move |name| name.starts_with(prefix))
    }

    /// The value of `name` as a path, if it is an absolute one: the XDG base directory
    /// specification tells programs to ignore others.
    pub fn absolute(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from).filter(|path| path.is_absolute())
    }

    /// Where a user's settings live: `$XDG_CONFIG_HOME`, else `~/.config`.
    pub fn config_home(&self) -> Option<PathBuf> {
        self.base_directory("XDG_CONFIG_HOME", ".config")
    }

    /// Where a user's caches live: `$XDG_CACHE_HOME`, else `~/.cache`.
    pub fn cache_home(&self) -> Option<PathBuf> {
        self.base_directory("XDG_CACHE_HOME", ".cache")
    }

    /// Where a user's logs live: `$XDG_STATE_HOME`, else `~/.local/state`.
    pub fn state_home(&self) -> Option<PathBuf> {
        self.base_directory("XDG_STATE_HOME", ".local/state")
    }

    /// Where a user's data live: `$XDG_DATA_HOME`, else `~/.local/share`.
    pub fn data_home(&self) -> Option<PathBuf> {
        self.base_directory("XDG_DATA_HOME", ".local/share")
    }

    /// Where the docker client's settings live: `$DOCKER_CONFIG`, else `~/.docker`.
    pub fn docker_config(&self) -> Option<PathBuf> {
        let stated = self.get("DOCKER_CONFIG").map(PathBuf::from);
        stated.or_else(|| Some(self.absolute("HOME")?.join(".docker")))
    }

    fn base_directory(&self, name: &str, below_home: &str) -> Option<PathBuf> {
        self.absolute(name).or_else(|| Some(self.absolute("HOME")?.join(below_home)))
    }

    /// The same variables, and `name` with this `value`.
    pub fn with(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.0.insert(name.into(), value.into());
        self
    }

    /// The same variables without `name`.
    pub fn without(mut self, name: &str) -> Self {
        self.0.remove(OsStr::new(name));
        self
    }

    /// Whether `name` is there at all, be it empty.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(OsStr::new(name))
    }
}

impl<K: Into<OsString>, V: Into<OsString>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}
