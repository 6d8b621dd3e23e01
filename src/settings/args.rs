//! Reads command lines of other programs: which flags a user's arguments give to rootlesskit and
//! to dockerd, and what they end up meaning.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// rootlesskit's flags that take no value, from 0.14 to 3.1.
#[rustfmt::skip]
const ROOTLESSKIT_SWITCHES: &[&str] = &[
    "debug", "help", "h", "version", "v", "disable-host-loopback", "ipv6", "pidns", "cgroupns", "utsns", "ipcns",
    "detach-netns", "source-ip-transparent",
];

/// Flags of rootlesskit in the order given, as its own parser reads them (urfave/cli, on Go's
/// `flag`): one or two dashes, `=` or the next argument for a value; the last of a name counts.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RootlesskitFlags<'a> {
    flags: Vec<(&'a str, Option<&'a OsStr>)>,
    /// What is wrong with them, as the end of a sentence.
    pub fault: Option<String>,
}

impl<'a> RootlesskitFlags<'a> {
    /// Reads `args`. `is_switch` knows the flags without a value of this very rootlesskit.
    pub fn read(args: &'a [OsString], is_switch: impl Fn(&str) -> bool) -> Self {
        let mut flags = Vec::new();
        let mut rest = args.iter();
        let mut fault = None;
        while let Some(arg) = rest.next() {
            let Some((name, mut value)) = flag_of(arg) else {
                let arg = arg.display();
                fault = Some(format!(
                    "`{arg}` is no flag, and rootlesskit would run it instead of the daemon"
                ));
                break;
            };
            if value.is_none() && !ROOTLESSKIT_SWITCHES.contains(&name) && !is_switch(name) {
                value = rest.next().map(OsString::as_os_str);
                if value.is_none() {
                    fault = Some(format!("`{}` lacks its value", arg.display()));
                    break;
                }
            }
            flags.push((name, value));
        }
        let fault = fault.or_else(|| fault_of_state_dir(&flags, args));
        Self { flags, fault }
    }

    /// Returns the flags as arguments again, without those of `names`.
    pub fn without(&self, names: &[&str]) -> Vec<OsString> {
        let kept = self.flags.iter().filter(|(name, _)| !names.contains(name));
        kept.map(|(name, value)| match value {
            Some(value) => assignment(&format!("--{name}"), value),
            None => format!("--{name}").into(),
        })
        .collect()
    }

    /// Returns the value of the last flag called `name`.
    pub fn value(&self, name: &str) -> Option<&'a OsStr> {
        self.last(name)?
    }

    /// Whether the switch `name` is given, and how: `--name=false` turns it off.
    pub fn switch(&self, name: &str) -> Option<bool> {
        let value = self.last(name)?;
        Some(!value.is_some_and(|value| is_false(value.as_bytes())))
    }

    /// Whether the flag is given, with a value or without.
    pub fn has(&self, name: &str) -> bool {
        self.last(name).is_some()
    }

    /// Returns the ports that rootlesskit publishes.
    pub fn published(&self) -> Vec<String> {
        let flags = self.flags.iter();
        let values = flags.filter(|(name, _)| ["p", "publish"].contains(name));
        values.filter_map(|(_, value)| Some(value.as_ref()?.to_str()?.to_owned())).collect()
    }

    fn last(&self, name: &str) -> Option<Option<&'a OsStr>> {
        self.flags.iter().rev().find(|(flag, _)| *flag == name).map(|(_, value)| *value)
    }
}

/// rootlesskit deletes its state directory, so there must be no doubt which one it is: each
/// argument that looks like the flag must have been read as one. A switch that is newer than this
/// program would otherwise hide it, by being taken for a flag with a value.
fn fault_of_state_dir(flags: &[(&str, Option<&OsStr>)], args: &[OsString]) -> Option<String> {
    let names_it = |arg: &&OsString| flag_of(arg).is_some_and(|(name, _)| name == "state-dir");
    let read = flags.iter().filter(|(name, _)| *name == "state-dir");
    if args.iter().filter(names_it).count() != read.clone().count() {
        return Some("it is not clear whether `--state-dir` is a flag or a value".to_owned());
    }
    let mut values = read.filter_map(|(_, value)| *value);
    values.any(OsStr::is_empty).then(|| "`--state-dir` has an empty value".to_owned())
}

/// The name of a flag and the value behind its `=`, if `arg` is a flag at all.
fn flag_of(arg: &OsStr) -> Option<(&str, Option<&OsStr>)> {
    let bytes = arg.as_bytes();
    let dashes = bytes.iter().take(2).take_while(|byte| **byte == b'-').count();
    let flag = &bytes[dashes..];
    let (name, value) = match flag.iter().position(|byte| *byte == b'=') {
        Some(at) => (&flag[..at], Some(OsStr::from_bytes(&flag[at + 1..]))),
        None => (flag, None),
    };
    let name = std::str::from_utf8(name).ok()?;
    (dashes > 0 && !name.is_empty()).then_some((name, value))
}

/// What Go's `strconv.ParseBool` takes for false.
fn is_false(value: &[u8]) -> bool {
    matches!(value, b"0" | b"f" | b"F" | b"false" | b"FALSE" | b"False")
}

/// Returns `name=value`, any bytes.
pub fn assignment(name: &str, value: &OsStr) -> OsString {
    let mut arg = OsString::from(name);
    arg.push("=");
    arg.push(value);
    arg
}

/// dockerd's arguments. It takes no positional ones, so what does not start with a dash is a value.
#[derive(Clone, Copy, Debug)]
pub struct DockerdArgs<'a>(pub &'a [OsString]);

impl<'a> DockerdArgs<'a> {
    /// Returns the value of the last `--name`, `Some(None)` if it has none.
    pub fn long(self, name: &str) -> Option<Option<&'a OsStr>> {
        let (at, rest) = self.last(name)?;
        Some(match rest.split_first() {
            Some((_, value)) => Some(OsStr::from_bytes(value)),
            None => self.0.get(at + 1).map(OsString::as_os_str),
        })
    }

    /// Returns the value of the last `-x`, behind it or behind the switches `D`, `v` and `h`.
    pub fn short(self, letter: u8) -> Option<&'a OsStr> {
        self.0.iter().enumerate().rev().find_map(|(at, arg)| {
            let letters = arg.as_bytes().strip_prefix(b"-")?;
            let first = letters.iter().position(|other| !b"Dvh".contains(other))?;
            if letters[first] != letter {
                return None;
            }
            match letters[first + 1..].strip_prefix(b"=").unwrap_or(&letters[first + 1..]) {
                [] => self.0.get(at + 1).map(OsString::as_os_str),
                value => Some(OsStr::from_bytes(value)),
            }
        })
    }

    /// Returns the value of `--name`, or of its short form if it has one.
    pub fn value(self, name: &str, letter: Option<u8>) -> Option<&'a OsStr> {
        self.long(name).flatten().or_else(|| self.short(letter?))
    }

    /// Whether they say where to listen.
    pub fn has_hosts(self) -> bool {
        self.long("host").is_some() || self.short(b'H').is_some()
    }

    /// What the last `--name` says, which is a switch.
    pub fn switch(self, name: &str) -> Option<bool> {
        let (_, rest) = self.last(name)?;
        Some(!rest.split_first().is_some_and(|(_, value)| is_false(value)))
    }

    /// Whether `--name` is turned off by `--name=false`.
    pub fn turns_off(self, name: &str) -> bool {
        self.switch(name) == Some(false)
    }

    /// Whether the short switch `letter` is given, alone or beside others of `D`, `v` and `h`.
    pub fn has_letter(self, letter: u8) -> bool {
        let is_switch = |other: &&u8| b"Dvh".contains(other);
        self.0.iter().any(|arg| {
            let letters = arg.as_bytes().strip_prefix(b"-").unwrap_or_default();
            letters.iter().take_while(is_switch).any(|own| *own == letter)
        })
    }

    /// Returns the arguments without the flag `valued` and its value, and without these `switches`.
    pub fn without(self, valued: &str, switches: &[&str]) -> Vec<OsString> {
        let mut kept = Vec::new();
        let mut args = self.0.iter();
        while let Some(arg) = args.next() {
            match behind(arg.as_bytes(), valued) {
                Some(b"") => drop(args.next()),
                Some(_) => {}
                None if switches.iter().any(|name| behind(arg.as_bytes(), name).is_some()) => {}
                None => kept.push(arg.clone()),
            }
        }
        kept
    }

    /// Where the last `--name` is, and what follows it.
    fn last(self, name: &str) -> Option<(usize, &'a [u8])> {
        let mut args = self.0.iter().enumerate().rev();
        args.find_map(|(at, arg)| Some((at, behind(arg.as_bytes(), name)?)))
    }
}

/// What follows `--name` in `arg`: nothing, or `=` and a value.
fn behind<'a>(arg: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let rest = arg.strip_prefix(b"--")?.strip_prefix(name.as_bytes())?;
    (rest.is_empty() || rest[0] == b'=').then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Vec<OsString> {
        line.split(' ').filter(|arg| !arg.is_empty()).map(OsString::from).collect()
    }

    #[rustfmt::skip]
    #[test]
    fn reads_rootlesskit_flags_as_go_does() {
        let evil = Some("`evil` is no flag, and rootlesskit would run it instead of the daemon");
        let dashes = Some("`--` is no flag, and rootlesskit would run it instead of the daemon");
        let dash = Some("`-` is no flag, and rootlesskit would run it instead of the daemon");
        let unclear = Some("it is not clear whether `--state-dir` is a flag or a value");
        let cases: &[(&str, Option<&str>, Option<&str>)] = &[
            ("", None, None),
            ("--state-dir=/a", Some("/a"), None),
            ("-state-dir /a --debug", Some("/a"), None),
            ("--state-dir /a --state-dir=/b", Some("/b"), None),
            ("-p 0.0.0.0:80:80/tcp --state-dir=/a", Some("/a"), None),
            ("--debug evil", None, evil),
            ("-- --debug", None, dashes),
            ("-", None, dash),
            ("--debug --cidr", None, Some("`--cidr` lacks its value")),
            ("--state-dir", None, Some("`--state-dir` lacks its value")),
            ("--state-dir=", Some(""), Some("`--state-dir` has an empty value")),
            ("--newer-switch --state-dir=/a", None, unclear),
            ("--state-dir --state-dir=/a", Some("--state-dir=/a"), unclear),
        ];
        for (line, state_dir, fault) in cases {
            let args = args(line);
            let flags = RootlesskitFlags::read(&args, |_| false);
            assert_eq!(flags.value("state-dir").and_then(OsStr::to_str), *state_dir, "{line:?}");
            assert_eq!(flags.fault.as_deref(), *fault, "{line:?}");
        }
        for (line, expected) in
            [("", None), ("--ipv6", Some(true)), ("--ipv6=false", Some(false)), ("-ipv6=1", Some(true))]
        {
            assert_eq!(RootlesskitFlags::read(&args(line), |_| false).switch("ipv6"), expected, "{line:?}");
        }
    }

    #[rustfmt::skip]
    #[test]
    fn finds_hosts_in_every_spelling_of_pflag() {
        for line in [
            "-H fd://", "-Hfd://", "-H=fd://", "-DH fd://", "--host=fd://", "--host fd://", "-D --mtu 1 -H x",
        ] {
            assert!(DockerdArgs(&args(line)).has_hosts(), "{line}");
        }
        for line in ["", "-D", "--hostess x", "-l H", "-lH", "--label=-H", "--host-gateway-ip=::1"] {
            assert!(!DockerdArgs(&args(line)).has_hosts(), "{line}");
        }
    }

    #[test]
    fn finds_values_and_switches_of_dockerd() {
        let line = args("--mtu 1 --mtu=2 --iptables --iptables=false --pidfile /a");
        let read = DockerdArgs(&line);
        assert_eq!(read.long("mtu"), Some(Some(OsStr::new("2"))));
        assert_eq!(read.long("pidfile"), Some(Some(OsStr::new("/a"))));
        assert_eq!(read.long("exec-root"), None);
        for (line, expected) in
            [("-p /a", "/a"), ("-p=/a", "/a"), ("-Dp/a", "/a"), ("--pidfile /b -p /a", "/b")]
        {
            let line = args(line);
            let value = DockerdArgs(&line).value("pidfile", Some(b'p'));
            assert_eq!(value, Some(OsStr::new(expected)), "{line:?}");
        }
        assert!(read.turns_off("iptables") && !read.turns_off("mtu"));
        assert!(!DockerdArgs(&args("--iptables=false --iptables")).turns_off("iptables"));
    }
}
