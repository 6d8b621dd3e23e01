//! Reads command lines of other programs: which flags a user's arguments give to rootlesskit and
//! to dockerd, and what they end up meaning.

use std::ffi::{OsStr, OsString};
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;

/// rootlesskit's flags that take no value, from 0.14 to 3.1.
#[rustfmt::skip]
const ROOTLESSKIT_SWITCHES: &[&str] = &[
    "debug", "help", "h", "version", "v", "disable-host-loopback", "ipv6", "pidns", "cgroupns", "utsns", "ipcns",
    "detach-netns", "source-ip-transparent",
];

/// dockerd's short flags, their long names, and whether each is a switch.
const DOCKERD_SHORT: [(u8, &str, bool); 9] = [
    (b'D', "debug", true),
    (b'H', "host", false),
    (b'b', "bridge", false),
    (b'g', "data-root", false),
    (b'h', "help", true),
    (b'l', "log-level", false),
    (b'p', "pidfile", false),
    (b's', "storage-driver", false),
    (b'v', "version", true),
];

/// One flag, without its dashes.
#[derive(Debug, PartialEq, Eq)]
struct Flag<'a> {
    name: &'a str,
    value: Option<&'a OsStr>,
    /// The next argument, which is the value if the flag is no switch.
    next: Option<&'a OsStr>,
}

/// Flags in the order given; the last of a name counts.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Flags<'a> {
    list: Vec<Flag<'a>>,
    /// What is wrong with them, as the end of a sentence.
    pub fault: Option<String>,
}

impl<'a> Flags<'a> {
    /// Reads `args` as rootlesskit does (urfave/cli, on Go's `flag`): one or two dashes, `=` or the
    /// next argument for a value. `is_switch` knows the flags without a value of this rootlesskit.
    pub fn of_rootlesskit(args: &'a [OsString], is_switch: impl Fn(&str) -> bool) -> Self {
        let mut flags = Self::default();
        let mut rest = args.iter();
        while let Some(arg) = rest.next() {
            let shown = arg.display();
            let Some((name, mut value)) = flag_of(arg) else {
                flags.fault = Some(format!(
                    "`{shown}` is no flag, and rootlesskit would run it instead of the daemon"
                ));
                return flags;
            };
            if value.is_none() && !ROOTLESSKIT_SWITCHES.contains(&name) && !is_switch(name) {
                value = rest.next().map(OsString::as_os_str);
                if value.is_none() {
                    flags.fault = Some(format!("`{shown}` lacks its value"));
                    return flags;
                }
            }
            flags.list.push(Flag { name, value, next: None });
        }
        flags.fault = flags.fault_of_state_dir(args);
        flags
    }

    /// Reads `args` as dockerd does (pflag). It takes no positional ones, so what does not start
    /// with a dash is a value.
    pub fn of_dockerd(args: &'a [OsString]) -> Self {
        let mut list = Vec::new();
        for (at, arg) in args.iter().enumerate() {
            let next = args.get(at + 1).map(OsString::as_os_str);
            match arg.as_bytes() {
                [b'-', b'-', ..] => {
                    list.extend(flag_of(arg).map(|(name, value)| Flag { name, value, next }));
                }
                [b'-', letters @ ..] => list.extend(short_flags(letters, next)),
                _ => {}
            }
        }
        Self { list, fault: None }
    }

    /// Returns the value of the last flag called `name`.
    pub fn value(&self, name: &str) -> Option<&'a OsStr> {
        self.last(name).and_then(|flag| flag.value.or(flag.next))
    }

    /// Returns the values of all flags called `name`.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &'a OsStr> {
        let named = self.list.iter().filter(move |flag| flag.name == name);
        named.filter_map(|flag| flag.value.or(flag.next))
    }

    /// Whether the switch `name` is given, and how: `--name=false` turns it off.
    pub fn switch(&self, name: &str) -> Option<bool> {
        // What Go's `strconv.ParseBool` takes for false.
        let off = ["0", "f", "F", "false", "FALSE", "False"];
        self.last(name)
            .map(|flag| !flag.value.is_some_and(|value| off.iter().any(|off| value == *off)))
    }

    /// Whether the flag is given, with a value or without.
    pub fn has(&self, name: &str) -> bool {
        self.last(name).is_some()
    }

    /// Returns the flags as arguments again, without those of `names`.
    pub fn without(&self, names: &[&str]) -> Vec<OsString> {
        let kept = self.list.iter().filter(|flag| !names.contains(&flag.name));
        kept.map(|flag| match flag.value {
            Some(value) => assignment(&format!("--{}", flag.name), value),
            None => format!("--{}", flag.name).into(),
        })
        .collect()
    }

    /// Returns the ports that rootlesskit publishes.
    pub fn published(&self) -> Vec<String> {
        let published = self.list.iter().filter(|flag| ["p", "publish"].contains(&flag.name));
        published.filter_map(|flag| Some(flag.value?.to_str()?.to_owned())).collect()
    }

    fn last(&self, name: &str) -> Option<&Flag<'a>> {
        self.list.iter().rfind(|flag| flag.name == name)
    }

    /// rootlesskit deletes its state directory, so there must be no doubt which one it is: each
    /// argument that looks like the flag must have been read as one. A switch that is newer than this
    /// program would otherwise hide it, by being taken for a flag with a value.
    fn fault_of_state_dir(&self, args: &[OsString]) -> Option<String> {
        let names_it = |arg: &&OsString| flag_of(arg).is_some_and(|(name, _)| name == "state-dir");
        let read: Vec<_> = self.list.iter().filter(|flag| flag.name == "state-dir").collect();
        if args.iter().filter(names_it).count() != read.len() {
            return Some("it is not clear whether `--state-dir` is a flag or a value".to_owned());
        }
        let is_empty = read.iter().any(|flag| flag.value.is_some_and(OsStr::is_empty));
        is_empty.then(|| "`--state-dir` has an empty value".to_owned())
    }
}

/// A port that rootlesskit publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedPort {
    /// The host's address; none stands for all.
    pub address: Option<IpAddr>,
    pub host: u16,
    /// The port in the namespace.
    pub inside: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
}

impl PublishedPort {
    /// Parses `[ADDRESS:]PORT:[ADDRESS:]PORT[/PROTOCOL]`: the host's side comes first.
    pub fn parse(flag: &str) -> Option<Self> {
        let (ports, protocol) = flag.rsplit_once('/').unwrap_or((flag, "tcp"));
        // An IPv6 address stands in brackets.
        let (address, ports) = match ports.strip_prefix('[') {
            Some(rest) => rest.split_once("]:")?,
            None if ports.starts_with(':') || ports.contains('.') => ports.split_once(':')?,
            None => ("", ports),
        };
        let (host, inside) = ports.split_once(':')?;
        let inside = inside.rsplit_once(':').map_or(inside, |(_, port)| port);
        Some(Self {
            address: address.parse().ok(),
            host: host.parse().ok()?,
            inside: inside.parse().ok()?,
            protocol: protocol.trim_end_matches(['4', '6']).to_owned(),
        })
    }
}

/// Reads the `letters` of dockerd's short flags behind one dash: switches, then one with a value.
fn short_flags<'a>(letters: &'a [u8], next: Option<&'a OsStr>) -> Vec<Flag<'a>> {
    let mut flags = Vec::new();
    for (at, letter) in letters.iter().enumerate() {
        let Some((_, name, is_switch)) = DOCKERD_SHORT.iter().find(|(own, ..)| own == letter)
        else {
            break;
        };
        let rest = &letters[at + 1..];
        let attached = Some(rest).filter(|rest| !rest.is_empty() && !is_switch);
        let value = rest.strip_prefix(b"=").or(attached).map(OsStr::from_bytes);
        flags.push(Flag { name, value, next });
        if value.is_some() || !is_switch {
            break;
        }
    }
    flags
}

/// Returns the name of a flag and the value behind its `=`, if `arg` is a flag at all.
pub fn flag_of(arg: &OsStr) -> Option<(&str, Option<&OsStr>)> {
    let rest = arg.as_bytes().strip_prefix(b"-")?;
    let flag = OsStr::from_bytes(rest.strip_prefix(b"-").unwrap_or(rest));
    let (name, value) = match split_assignment(flag) {
        Some((name, value)) => (name, Some(value)),
        None => (flag.to_str()?, None),
    };
    (!name.is_empty()).then_some((name, value))
}

/// Returns `name=value`, any bytes.
pub fn assignment(name: &str, value: &OsStr) -> OsString {
    [name.as_ref(), "=".as_ref(), value].into_iter().collect()
}

/// Splits `name=value`.
pub fn split_assignment(word: &OsStr) -> Option<(&str, &OsStr)> {
    let at = word.as_bytes().iter().position(|byte| *byte == b'=')?;
    let (name, value) = word.as_bytes().split_at(at);
    Some((std::str::from_utf8(name).ok()?, OsStr::from_bytes(&value[1..])))
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
            let flags = Flags::of_rootlesskit(&args, |_| false);
            assert_eq!(flags.value("state-dir").and_then(OsStr::to_str), *state_dir, "{line:?}");
            assert_eq!(flags.fault.as_deref(), *fault, "{line:?}");
        }
        for (line, expected) in
            [("", None), ("--ipv6", Some(true)), ("--ipv6=false", Some(false)), ("-ipv6=1", Some(true))]
        {
            assert_eq!(Flags::of_rootlesskit(&args(line), |_| false).switch("ipv6"), expected, "{line:?}");
        }
    }

    #[rustfmt::skip]
    #[test]
    fn finds_hosts_in_every_spelling_of_pflag() {
        for line in [
            "-H fd://", "-Hfd://", "-H=fd://", "-DH fd://", "--host=fd://", "--host fd://", "-D --mtu 1 -H x",
        ] {
            assert!(Flags::of_dockerd(&args(line)).has("host"), "{line}");
        }
        for line in ["", "-D", "--hostess x", "-l H", "-lH", "--label=-H", "--host-gateway-ip=::1"] {
            assert!(!Flags::of_dockerd(&args(line)).has("host"), "{line}");
        }
    }

    #[test]
    fn finds_values_and_switches_of_dockerd() {
        let line = args("--mtu 1 --mtu=2 --iptables --iptables=false --pidfile /a");
        let read = Flags::of_dockerd(&line);
        let cases = [("mtu", Some("2")), ("pidfile", Some("/a")), ("exec-root", None)];
        for (name, expected) in cases {
            assert_eq!(read.value(name), expected.map(OsStr::new), "{name}");
        }
        for (line, expected) in
            [("-p /a", "/a"), ("-p=/a", "/a"), ("-Dp/a", "/a"), ("--pidfile /b -p /a", "/a")]
        {
            let line = args(line);
            let value = Flags::of_dockerd(&line).value("pidfile");
            assert_eq!(value, Some(OsStr::new(expected)), "{line:?}");
        }
        assert_eq!(read.switch("iptables"), Some(false));
        let on = args("--iptables=false --iptables -vD=false");
        let on = Flags::of_dockerd(&on);
        assert_eq!(on.switch("iptables"), Some(true));
        assert_eq!((on.switch("version"), on.switch("debug")), (Some(true), Some(false)));
    }
}
