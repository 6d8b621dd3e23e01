//! The daemon's own configuration file, as far as it decides what may stand on the command line:
//! dockerd refuses a directive that is given in both places.

use serde_json::{Map, Value};

/// What `daemon.json` holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DaemonJson {
    /// There is none.
    Absent,
    /// It cannot be read or understood, and why; dockerd will say more.
    Unknown(String),
    Read(Map<String, Value>),
}

impl DaemonJson {
    /// Reads the text of the file; blank text says nothing, as dockerd has it.
    pub fn parse(text: &str) -> Self {
        let text = text.trim_start_matches('\u{feff}').trim();
        if text.is_empty() {
            return Self::Absent;
        }
        serde_json::from_str(text).map_or_else(|error| Self::Unknown(error.to_string()), Self::Read)
    }

    /// Says whether what the file says is known.
    pub fn is_read(&self) -> bool {
        !matches!(self, Self::Unknown(_))
    }

    /// Says whether the file sets `key`, or may set it for all we know.
    pub fn may_set(&self, key: &str) -> bool {
        !self.is_read() || self.any(key).is_some()
    }

    /// Says whether the file says `false` to `key`.
    pub fn turns_off(&self, key: &str) -> bool {
        self.switch(key) == Some(false)
    }

    /// Returns what the file says of `key`, which is a switch: on unless it is literally `false`.
    pub fn switch(&self, key: &str) -> Option<bool> {
        self.any(key).map(|value| *value != false)
    }

    /// Returns the text that the file gives to `key`.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.top()?.get(key)?.as_str()
    }

    /// Returns the texts of the list that the file gives to `key`.
    pub fn texts(&self, key: &str) -> impl Iterator<Item = &str> {
        let list = self.top().and_then(|top| top.get(key)?.as_array());
        list.into_iter().flatten().filter_map(|value| value.as_str())
    }

    /// Returns the whole number that the file gives to `key`.
    pub fn number(&self, key: &str) -> Option<i64> {
        self.top()?.get(key)?.as_i64()
    }

    fn top(&self) -> Option<&Map<String, Value>> {
        match self {
            Self::Read(top) => Some(top),
            Self::Absent | Self::Unknown(_) => None,
        }
    }

    /// Finds `key` at the top or one level below: dockerd compares both with its flags.
    fn any(&self, key: &str) -> Option<&Value> {
        let top = self.top()?;
        let mut nested = top.values().filter_map(|value| value.as_object()?.get(key));
        top.get(key).or_else(|| nested.next())
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
