//! The daemon's own configuration file, as far as it decides what may stand on the command line:
//! dockerd refuses a directive that is given in both places.

use std::collections::BTreeSet;

use serde::Serialize;

/// What `daemon.json` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DaemonJson {
    /// There is none.
    Absent,
    /// It cannot be read or understood, and why; dockerd will say more.
    Unknown(String),
    /// The keys at its top, and of them those that are `false`.
    Keys {
        /// All keys.
        set: BTreeSet<String>,
        /// The keys that are literally `false`, such as `iptables`.
        off: BTreeSet<String>,
    },
}

impl DaemonJson {
    /// Reads the text of the file.
    pub fn parse(text: &str) -> Self {
        match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text) {
            Err(error) => Self::Unknown(error.to_string()),
            Ok(object) => Self::Keys {
                off: object
                    .iter()
                    .filter(|(_, value)| **value == false)
                    .map(|(key, _)| key.clone())
                    .collect(),
                set: object.into_iter().map(|(key, _)| key).collect(),
            },
        }
    }

    /// Whether the file sets `key`, or may set it for all we know.
    pub fn may_set(&self, key: &str) -> bool {
        match self {
            Self::Absent => false,
            Self::Unknown(_) => true,
            Self::Keys { set, .. } => set.contains(key),
        }
    }

    /// Whether the file says `false` to `key`.
    pub fn turns_off(&self, key: &str) -> bool {
        matches!(self, Self::Keys { off, .. } if off.contains(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_is_set_and_what_is_off() {
        let json = DaemonJson::parse(r#"{"mtu": 1400, "iptables": false, "hosts": []}"#);
        assert!(json.may_set("mtu") && json.may_set("hosts") && !json.may_set("debug"));
        assert!(json.turns_off("iptables") && !json.turns_off("mtu"));
    }

    #[test]
    fn an_unreadable_file_may_set_anything() {
        let json = DaemonJson::parse(r#"{"mtu": 1400,}"#);
        assert!(matches!(json, DaemonJson::Unknown(_)));
        assert!(json.may_set("mtu") && !json.turns_off("iptables"));
        assert!(!DaemonJson::Absent.may_set("mtu"));
    }
}
