//! The daemon's own configuration file, as far as it decides what may stand on the command line:
//! dockerd refuses a directive that is given in both places.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::{Map, Value};

/// What `daemon.json` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DaemonJson {
    /// There is none.
    Absent,
    /// It cannot be read or understood, and why; dockerd will say more.
    Unknown(String),
    /// The keys at its top and one level below: dockerd compares both with its flags.
    Keys {
        /// All keys.
        set: BTreeSet<String>,
        /// The keys that are literally `false`, such as `iptables`.
        off: BTreeSet<String>,
        /// The keys at the top that hold text, such as `data-root`.
        texts: BTreeMap<String, String>,
        /// The keys at the top that hold a whole number, such as `shutdown-timeout`.
        numbers: BTreeMap<String, i64>,
    },
}

impl DaemonJson {
    /// Reads the text of the file; blank text says nothing, as dockerd has it.
    pub fn parse(text: &str) -> Self {
        let text = text.trim_start_matches('\u{feff}').trim();
        if text.is_empty() {
            return Self::Absent;
        }
        let object: Map<String, Value> = match serde_json::from_str(text) {
            Ok(object) => object,
            Err(error) => return Self::Unknown(error.to_string()),
        };
        let nested = object.values().filter_map(Value::as_object).flatten();
        let all: Vec<(&String, &Value)> = object.iter().chain(nested).collect();
        let text_of =
            |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
        Self::Keys {
            set: all.iter().map(|(key, _)| (*key).clone()).collect(),
            off: all
                .iter()
                .filter(|(_, value)| **value == false)
                .map(|(key, _)| (*key).clone())
                .collect(),
            texts: object.iter().filter_map(text_of).collect(),
            numbers: object
                .iter()
                .filter_map(|(key, value)| Some((key.clone(), value.as_i64()?)))
                .collect(),
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

    /// Whether what the file says is known.
    pub fn is_read(&self) -> bool {
        !matches!(self, Self::Unknown(_))
    }

    /// Whether the file says `false` to `key`.
    pub fn turns_off(&self, key: &str) -> bool {
        matches!(self, Self::Keys { off, .. } if off.contains(key))
    }

    /// What the file says of `key`, which is a switch.
    pub fn switch(&self, key: &str) -> Option<bool> {
        matches!(self, Self::Keys { set, .. } if set.contains(key)).then(|| !self.turns_off(key))
    }

    /// The text that the file gives to `key`.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self {
            Self::Keys { texts, .. } => texts.get(key).map(String::as_str),
            Self::Absent | Self::Unknown(_) => None,
        }
    }
}

impl DaemonJson {
    /// The whole number that the file gives to `key`.
    pub fn number(&self, key: &str) -> Option<i64> {
        match self {
            Self::Keys { numbers, .. } => numbers.get(key).copied(),
            Self::Absent | Self::Unknown(_) => None,
        }
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

    #[test]
    fn nested_keys_count_and_blank_text_says_nothing() {
        let json =
            DaemonJson::parse(r#"{"x": {"mtu": 1400, "iptables": false}, "data-root": "/d"}"#);
        assert!(json.may_set("mtu") && json.turns_off("iptables"));
        assert_eq!((json.text("data-root"), json.text("x")), (Some("/d"), None));
        for text in ["", " \n", "\u{feff}"] {
            assert_eq!(DaemonJson::parse(text), DaemonJson::Absent, "{text:?}");
        }
        assert!(!DaemonJson::parse("{}").may_set("mtu"));
    }
}
