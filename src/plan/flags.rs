//! Reads command lines of other programs: which flags a user's words give to rootlesskit and to
//! dockerd, and what they end up meaning.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use crate::facts::RootlesskitFacts;

/// rootlesskit's flags that take no value, from 0.14 to 3.1.
const ROOTLESSKIT_SWITCHES: &[&str] = &[
    "debug",
    "help",
    "h",
    "version",
    "v",
    "disable-host-loopback",
    "ipv6",
    "pidns",
    "cgroupns",
    "utsns",
    "ipcns",
    "detach-netns",
    "source-ip-transparent",
];

/// Flags of rootlesskit in the order given, as its own parser reads them (urfave/cli, on Go's
/// `flag`): one or two dashes, `=` or the next word for a value, and the last of a name counts.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RootlesskitFlags<'a> {
    flags: Vec<(&'a str, Option<&'a OsStr>)>,
    /// What is wrong with the words, as a sentence's end.
    pub fault: Option<String>,
}

impl<'a> RootlesskitFlags<'a> {
    /// Reads `words`; `facts` add the switches of this very rootlesskit.
    pub fn read(words: &'a [OsString], facts: Option<&RootlesskitFacts>) -> Self {
        let is_switch = |name: &str| {
            ROOTLESSKIT_SWITCHES.contains(&name)
                || facts.is_some_and(|facts| facts.flags.get(name) == Some(&false))
        };
        let mut reading = Self::default();
        let mut rest = words.iter();
        while let Some(word) = rest.next() {
            let Some((name, value)) = flag_of(word) else {
                reading.fault = Some(format!(
                    "`{}` is no flag, and rootlesskit would run it instead of the daemon",
                    word.display()
                ));
                break;
            };
            let value = match value {
                None if !is_switch(name) => match rest.next() {
                    None => {
                        reading.fault = Some(format!("`{}` lacks its value", word.display()));
                        break;
                    }
                    next => next.map(OsString::as_os_str),
                },
                stated => stated,
            };
            reading.flags.push((name, value));
        }
        if reading.fault.is_none() {
            reading.fault = reading.fault_of_state_dir(words);
        }
        reading
    }

    /// rootlesskit deletes its state directory, so there must be no doubt which one it is: each
    /// word that looks like the flag must have been read as one. A switch that is newer than this
    /// program would otherwise hide it, by being taken for a flag with a value.
    fn fault_of_state_dir(&self, words: &[OsString]) -> Option<String> {
        let names_it = |word: &OsString| flag_of(word).is_some_and(|(name, _)| name == "state-dir");
        let looks_like_it = words.iter().filter(|word| names_it(word)).count();
        let read = self.flags.iter().filter(|(name, _)| *name == "state-dir");
        if looks_like_it != read.clone().count() {
            return Some(
                "it is not clear whether `--state-dir` is a flag or a value in it".to_owned(),
            );
        }
        let mut values = read.filter_map(|(_, value)| *value);
        values.any(OsStr::is_empty).then(|| "`--state-dir` has an empty value".to_owned())
    }

    /// The flags as words again, without those of `names`.
    pub fn without(&self, names: &[&str]) -> Vec<OsString> {
        let kept = self.flags.iter().filter(|(name, _)| !names.contains(name));
        kept.map(|(name, value)| {
            let mut word = OsString::from(format!("--{name}"));
            if let Some(value) = value {
                word.push("=");
                word.push(value);
            }
            word
        })
        .collect()
    }

    /// The value that the last flag called `name` has.
    pub fn value(&self, name: &str) -> Option<&'a OsStr> {
        self.flags.iter().rev().find(|(flag, _)| *flag == name)?.1
    }

    /// The ports that rootlesskit is to publish.
    pub fn published(&self) -> Vec<String> {
        let flags = self.flags.iter();
        let values = flags.filter(|(name, _)| ["p", "publish"].contains(name));
        values.filter_map(|(_, value)| Some(value.as_ref()?.to_str()?.to_owned())).collect()
    }

    /// Whether the switch `name` is given, and how: `--name=false` and the like turn it off.
    pub fn switch(&self, name: &str) -> Option<bool> {
        let (_, value) = self.flags.iter().rev().find(|(flag, _)| *flag == name)?;
        Some(!value.is_some_and(|value| {
            matches!(value.as_bytes(), b"0" | b"f" | b"F" | b"false" | b"FALSE" | b"False")
        }))
    }
}

/// The name of a flag and the value behind its `=`, if `word` is a flag at all.
fn flag_of(word: &OsStr) -> Option<(&str, Option<&OsStr>)> {
    let bytes = word.as_bytes();
    let dashes = bytes.iter().take(2).take_while(|byte| **byte == b'-').count();
    let flag = &bytes[dashes..];
    let (name, value) = match flag.iter().position(|byte| *byte == b'=') {
        Some(at) => (&flag[..at], Some(OsStr::from_bytes(&flag[at + 1..]))),
        None => (flag, None),
    };
    let name = std::str::from_utf8(name).ok()?;
    (dashes > 0 && !name.is_empty()).then_some((name, value))
}

/// dockerd's words. It takes no positional ones, so what does not start with a dash is a value.
#[derive(Clone, Copy, Debug)]
pub struct DockerdWords<'a>(pub &'a [OsString]);

impl<'a> DockerdWords<'a> {
    /// The value of the last `--name`, `Some(None)` if it has none.
    pub fn long(self, name: &str) -> Option<Option<&'a OsStr>> {
        let mut found = None;
        for (at, word) in self.0.iter().enumerate() {
            let Some(rest) = word
                .as_bytes()
                .strip_prefix(b"--")
                .and_then(|rest| rest.strip_prefix(name.as_bytes()))
            else {
                continue;
            };
            match rest.first() {
                Some(b'=') => found = Some(Some(OsStr::from_bytes(&rest[1..]))),
                None => found = Some(self.0.get(at + 1).map(OsString::as_os_str)),
                Some(_) => {}
            }
        }
        found
    }

    /// The value of the last `-x`, behind it or behind the switches `D`, `v` and `h`.
    pub fn short(self, letter: u8) -> Option<&'a OsStr> {
        let mut found = None;
        for (at, word) in self.0.iter().enumerate() {
            let Some(letters) =
                word.as_bytes().strip_prefix(b"-").filter(|rest| rest.first() != Some(&b'-'))
            else {
                continue;
            };
            let first = letters.iter().position(|other| !b"Dvh".contains(other));
            let Some(first) = first.filter(|first| letters[*first] == letter) else {
                continue;
            };
            let value = letters[first + 1..].strip_prefix(b"=").unwrap_or(&letters[first + 1..]);
            found = match value {
                [] => self.0.get(at + 1).map(OsString::as_os_str),
                value => Some(OsStr::from_bytes(value)),
            };
        }
        found
    }

    /// The value of `--name`, or of its short form if it has one.
    pub fn value(self, name: &str, letter: Option<u8>) -> Option<&'a OsStr> {
        self.long(name).flatten().or_else(|| self.short(letter?))
    }

    /// Whether the words say where to listen.
    pub fn has_hosts(self) -> bool {
        self.long("host").is_some() || self.short(b'H').is_some()
    }

    /// What the last `--name` says, which is a switch.
    pub fn switch(self, name: &str) -> Option<bool> {
        let mut words = self.0.iter().rev().map(|word| word.as_bytes());
        let last = words.find_map(|word| behind(word, name))?;
        Some(!matches!(last, b"=false" | b"=0" | b"=f" | b"=F" | b"=False" | b"=FALSE"))
    }

    /// Whether `--name` is turned off by `--name=false`.
    pub fn turns_off(self, name: &str) -> bool {
        self.switch(name) == Some(false)
    }

    /// Whether the short switch `letter` is given, alone or beside others of `D`, `v` and `h`.
    pub fn has_letter(self, letter: u8) -> bool {
        let is_switch = |other: &&u8| b"Dvh".contains(other);
        self.0.iter().any(|word| {
            let letters = word.as_bytes().strip_prefix(b"-").unwrap_or_default();
            letters.iter().take_while(is_switch).any(|own| *own == letter)
        })
    }

    /// The words without the flag `valued` and its value, and without these `switches`.
    pub fn without(self, valued: &str, switches: &[&str]) -> Vec<OsString> {
        let mut kept = Vec::new();
        let mut words = self.0.iter();
        while let Some(word) = words.next() {
            match behind(word.as_bytes(), valued) {
                Some(b"") => drop(words.next()),
                Some(_) => {}
                None if switches.iter().any(|name| behind(word.as_bytes(), name).is_some()) => {}
                None => kept.push(word.clone()),
            }
        }
        kept
    }
}

/// What stands behind `--name` in `word`: nothing, or `=` and a value.
fn behind<'a>(word: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let rest = word.strip_prefix(b"--")?.strip_prefix(name.as_bytes())?;
    (rest.is_empty() || rest[0] == b'=').then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').filter(|word| !word.is_empty()).map(OsString::from).collect()
    }

    #[test]
    fn reads_rootlesskit_flags_as_go_does() {
        let evil = Some("`evil` is no flag, and rootlesskit would run it instead of the daemon");
        let unclear = Some("it is not clear whether `--state-dir` is a flag or a value in it");
        let cases: &[(&str, Option<&str>, Option<&str>)] = &[
            ("", None, None),
            ("--state-dir=/a", Some("/a"), None),
            ("-state-dir /a --debug", Some("/a"), None),
            ("--state-dir /a --state-dir=/b", Some("/b"), None),
            ("-p 0.0.0.0:80:80/tcp --state-dir=/a", Some("/a"), None),
            ("--debug evil", None, evil),
            (
                "-- --debug",
                None,
                Some("`--` is no flag, and rootlesskit would run it instead of the daemon"),
            ),
            ("-", None, Some("`-` is no flag, and rootlesskit would run it instead of the daemon")),
            ("--debug --cidr", None, Some("`--cidr` lacks its value")),
            ("--state-dir", None, Some("`--state-dir` lacks its value")),
            ("--state-dir=", Some(""), Some("`--state-dir` has an empty value")),
            ("--newer-switch --state-dir=/a", None, unclear),
            ("--state-dir --state-dir=/a", Some("--state-dir=/a"), unclear),
        ];
        for (line, state_dir, fault) in cases {
            let words = words(line);
            let flags = RootlesskitFlags::read(&words, None);
            assert_eq!(
                flags.value("state-dir").and_then(OsStr::to_str),
                *state_dir,
                "state dir of {line:?}"
            );
            assert_eq!(flags.fault.as_deref(), *fault, "fault of {line:?}");
        }
    }

    #[test]
    fn switches_can_be_turned_off() {
        for (line, expected) in [
            ("", None),
            ("--ipv6", Some(true)),
            ("--ipv6=false", Some(false)),
            ("-ipv6=1", Some(true)),
        ] {
            assert_eq!(
                RootlesskitFlags::read(&words(line), None).switch("ipv6"),
                expected,
                "{line:?}"
            );
        }
    }

    #[test]
    fn finds_hosts_in_every_spelling_of_pflag() {
        for line in [
            "-H fd://",
            "-Hfd://",
            "-H=fd://",
            "-DH fd://",
            "--host=fd://",
            "--host fd://",
            "-D --mtu 1 -H x",
        ] {
            assert!(DockerdWords(&words(line)).has_hosts(), "{line}");
        }
        for line in ["", "-D", "--hostess x", "-l H", "-lH", "--label=-H", "--host-gateway-ip=::1"]
        {
            assert!(!DockerdWords(&words(line)).has_hosts(), "{line}");
        }
    }

    #[test]
    fn finds_values_and_switches_of_dockerd() {
        let line = words("--mtu 1 --mtu=2 --iptables --iptables=false --pidfile /a");
        let read = DockerdWords(&line);
        assert_eq!(read.long("mtu"), Some(Some(OsStr::new("2"))));
        assert_eq!(read.long("pidfile"), Some(Some(OsStr::new("/a"))));
        assert_eq!(read.long("exec-root"), None);
        for (line, expected) in
            [("-p /a", "/a"), ("-p=/a", "/a"), ("-Dp/a", "/a"), ("--pidfile /b -p /a", "/b")]
        {
            assert_eq!(
                DockerdWords(&words(line)).value("pidfile", Some(b'p')),
                Some(OsStr::new(expected)),
                "{line}"
            );
        }
        assert!(read.turns_off("iptables") && !read.turns_off("mtu"));
        assert!(!DockerdWords(&words("--iptables=false --iptables")).turns_off("iptables"));
    }
}
