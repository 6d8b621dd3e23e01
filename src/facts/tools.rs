//! The programs that a launch needs, and what they say of themselves in `--help` and `--version`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::settings::{Flags, Settings};

/// The programs by role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tools {
    /// `docker-rootlesskit` or `rootlesskit`.
    pub rootlesskit: Tool<RootlesskitFacts>,
    pub dockerd: Tool<DockerdFacts>,
    /// The containerd that dockerd would start.
    pub containerd: Option<PathBuf>,
    pub slirp4netns: Tool<Slirp4netnsFacts>,
    pub pasta: Option<PathBuf>,
    /// What pasta calls its version, if it was asked.
    pub pasta_version: Option<String>,
    pub vpnkit: Option<PathBuf>,
    /// lxc-user-nic, in the places where rootlesskit looks for it.
    pub lxc_user_nic: Option<PathBuf>,
    /// The `iptables` that PATH has, all links followed.
    pub iptables: Option<PathBuf>,
    /// By which dockerd enters a detached network namespace.
    pub nsenter: Option<PathBuf>,
    pub iptables_legacy: Option<PathBuf>,
    pub ip6tables_legacy: Option<PathBuf>,
    /// What dockerd, containerd and runc call their versions, if they were asked.
    pub told: Vec<Told>,
    /// What rootlesskit calls to keep the addresses of clients.
    pub ip: Option<PathBuf>,
    pub sysctl: Option<PathBuf>,
    /// Whether hints may say `sudo`.
    pub has_sudo: bool,
}

impl Tools {
    /// Reads the user's own flags for rootlesskit, as this one does.
    pub fn flags<'a>(&self, settings: &'a Settings) -> Flags<'a> {
        crate::facts::places::flags(settings, self.rootlesskit.known())
    }
}

/// The line in which a program tells its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub program: &'static str,
    pub path: PathBuf,
    pub line: String,
}

/// A program: absent, or found and asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Tool<T> {
    #[default]
    Absent,
    /// What is named is there, and is no program, or not for us.
    NotExecutable(PathBuf),
    Found {
        path: PathBuf,
        facts: T,
    },
    /// It cannot be asked, which is not absent.
    Unknown {
        path: PathBuf,
        why: String,
    },
}

impl<T> Tool<T> {
    /// Returns the program at `path`, if there is one, with its answer.
    pub fn new(path: Option<PathBuf>, answer: Option<Result<T, String>>) -> Self {
        match path.zip(answer) {
            None => Self::Absent,
            Some((path, Ok(facts))) => Self::Found { path, facts },
            Some((path, Err(why))) => Self::Unknown { path, why },
        }
    }

    /// Returns where the program is.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Absent | Self::NotExecutable(_) => None,
            Self::Found { path, .. } | Self::Unknown { path, .. } => Some(path),
        }
    }

    /// Returns what is known of it.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Found { facts, .. } => Some(facts),
            _ => None,
        }
    }
}

/// `MAJOR.MINOR.PATCH`; what follows it is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version(pub u32, pub u32, pub u32);

impl Version {
    /// The first version number in `text`, such as the one in `Docker version 20.10.24+dfsg1,`.
    pub fn find(text: &str) -> Option<Self> {
        text.split_whitespace().find_map(|word| {
            let word = word.trim_start_matches('v');
            let end = word.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(word.len());
            let mut numbers = word[..end].split('.').map(str::parse);
            let (major, minor) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
            Some(Self(major, minor, numbers.next().and_then(Result::ok).unwrap_or(0)))
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// What `rootlesskit --help` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootlesskitFacts {
    pub version: Option<Version>,
    /// Its flags without dashes, and whether each takes a value.
    pub flags: BTreeMap<String, bool>,
    pub network_drivers: Vec<String>,
    pub port_drivers: Vec<String>,
}

impl RootlesskitFacts {
    /// Reads the help text; `None` if it is not rootlesskit's.
    pub fn parse(help: &str) -> Option<Self> {
        let options = help.split_once("OPTIONS:")?.1;
        let mut facts = Self {
            version: help
                .split_once("VERSION:")
                .and_then(|(_, rest)| Version::find(rest.lines().nth(1)?)),
            flags: BTreeMap::new(),
            network_drivers: Vec::new(),
            port_drivers: Vec::new(),
        };
        for line in options.lines().map(str::trim_start).filter(|line| line.starts_with("--")) {
            // Two blanks end the names, as in `--publish value, -p value    publish ports`.
            let (names, description) = line.split_once("  ").unwrap_or((line, ""));
            for name in names.split(", ") {
                let (name, value) = name
                    .trim_start_matches('-')
                    .split_once(' ')
                    .unwrap_or((name.trim_start_matches('-'), ""));
                facts.flags.insert(name.to_owned(), !value.is_empty());
            }
            match names.split(' ').next() {
                Some("--net") => facts.network_drivers = bracketed(description),
                Some("--port-driver") => facts.port_drivers = bracketed(description),
                _ => {}
            }
        }
        facts.flags.contains_key("net").then_some(facts)
    }
}

/// The names in the first brackets of `description`, without remarks such as `(experimental)`.
fn bracketed(description: &str) -> Vec<String> {
    let inside = description
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'))
        .map_or("", |(inside, _)| inside);
    let names =
        inside.split(',').filter_map(|item| item.split(['(', ' ']).find(|part| !part.is_empty()));
    names.map(str::to_owned).collect()
}

/// What dockerd says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerdFacts {
    /// Its version, if it was asked for it: it takes 30 ms to answer, and only detach-netns
    /// depends on the version.
    pub version: Option<Version>,
    /// Its flags without dashes; those that take a value end in `=`.
    pub flags: Vec<String>,
}

impl DockerdFacts {
    /// Whether it has the flag `--name`.
    pub fn has_flag(&self, name: &str) -> bool {
        self.flags.iter().any(|flag| flag.strip_suffix('=').unwrap_or(flag) == name)
    }
}

/// Reads the flags in `dockerd --help`; `None` if it is not dockerd's help. A line that begins with
/// a dash begins a flag, any other goes on describing one.
pub fn parse_dockerd_flags(help: &str) -> Option<Vec<String>> {
    let lines = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    let mut flags = Vec::new();
    for line in lines {
        // Two blanks end the names and the kind of the value, as in `-H, --host list   Daemon`.
        let names = line.split_once("  ").map_or(line, |(names, _)| names);
        let (names, kinds): (Vec<&str>, Vec<&str>) = names
            .split([' ', ','])
            .filter(|part| !part.is_empty())
            .partition(|part| part.starts_with('-'));
        let equals = if kinds.is_empty() { "" } else { "=" };
        flags.extend(names.iter().map(|name| format!("{}{equals}", name.trim_start_matches('-'))));
    }
    flags.contains(&"exec-root=".to_owned()).then_some(flags)
}

/// What slirp4netns says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slirp4netnsFacts {
    /// Its version, if it was asked for it.
    pub version: Option<Version>,
    /// Whether it has `--netns-type`: it is 0.4.0 or later then, which rootlesskit needs.
    pub netns_type: bool,
}

/// Whether `slirp4netns --help` names `--netns-type`; `None` if it is not slirp4netns's help.
pub fn parse_slirp4netns_netns_type(help: &str) -> Option<bool> {
    let mut words = help.split(|c: char| c.is_whitespace() || c == '=');
    help.contains("slirp4netns").then(|| words.any(|word| word == "--netns-type"))
}

/// Reads `pasta --version`: its first line, such as `pasta 0.0~git20230309.7c7625d-1`.
pub fn parse_pasta_version(version: &str) -> Option<String> {
    version.lines().next().filter(|line| line.starts_with("pasta")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A help text of rootlesskit's layout, with the drivers and flags of one age.
    fn help(version: &str, networks: &str, ports: &str, more: &str) -> String {
        format!(
            "NAME:\n   rootlesskit - x\n\nVERSION:\n   {version}\n\nDESCRIPTION:\n     rootlesskit --net=x\n\n\
             OPTIONS:\n  Misc:                  \n    --debug              x (default: false)\n    --help, -h           x\n  \
             Network:               \n    --net value          x [{networks}] (default: \"host\")\n{more}  \
             Port:                  \n    --port-driver value  x [{ports}] (default: \"none\")\n    \
             --publish value, -p value    x\n"
        )
    }

    #[test]
    fn reads_rootlesskit_help_of_three_ages() {
        let detach = "    --detach-netns       x (default: false)\n";
        for (version, lists, more, networks, ports) in [
            (
                Version(1, 1, 0),
                [
                    "host, slirp4netns, vpnkit, lxc-user-nic(experimental)",
                    "none, builtin, slirp4netns",
                ],
                "",
                "host slirp4netns vpnkit lxc-user-nic",
                "none builtin slirp4netns",
            ),
            (
                Version(2, 0, 2),
                ["host, pasta(experimental), slirp4netns", "none, implicit (for pasta), builtin"],
                detach,
                "host pasta slirp4netns",
                "none implicit builtin",
            ),
            (
                Version(3, 0, 1),
                [
                    "host, none, gvisor-tap-vsock(experimental)",
                    "none, gvisor-tap-vsock(experimental)",
                ],
                detach,
                "host none gvisor-tap-vsock",
                "none gvisor-tap-vsock",
            ),
        ] {
            let help = help(&version.to_string(), lists[0], lists[1], more);
            let facts = RootlesskitFacts::parse(&help).expect("help of rootlesskit");
            assert_eq!(facts.version, Some(version));
            assert_eq!(facts.network_drivers.join(" "), networks, "network drivers of {version}");
            assert_eq!(facts.port_drivers.join(" "), ports, "port drivers of {version}");
            let takes_value = |flag: &str| facts.flags.get(flag).copied();
            let detaches = (!more.is_empty()).then_some(false);
            assert_eq!(takes_value("detach-netns"), detaches, "detach-netns of {version}");
            assert_eq!(["debug", "p"].map(takes_value), [Some(false), Some(true)], "{version}");
        }
        assert_eq!(RootlesskitFacts::parse("usage: something else"), None);
    }

    #[test]
    fn reads_dockerds_flags() {
        let help = "Options:\n  -H, --host list   Daemon socket(s)\n      --exec-root string\n      --mtu int  Set\n      --debug   Enable\n                 as --tls does\n";
        let flags = parse_dockerd_flags(help).expect("dockerd");
        assert_eq!(flags, ["H=", "host=", "exec-root=", "mtu=", "debug"]);
        let facts = DockerdFacts { version: None, flags };
        assert!(facts.has_flag("mtu") && !facts.has_flag("m"));
        assert_eq!(parse_dockerd_flags("Usage: true [ignored]"), None);
    }

    #[test]
    fn slirp4netns_is_new_enough_by_its_flag_alone() {
        let usage = "Usage: slirp4netns [OPTION]... PID TAPNAME\n";
        assert_eq!(parse_slirp4netns_netns_type(&format!("{usage}-c, --configure")), Some(false));
        assert_eq!(
            parse_slirp4netns_netns_type(&format!("{usage}--netns-type=TYPE  specify")),
            Some(true)
        );
        assert_eq!(parse_slirp4netns_netns_type(""), None);
    }

    #[test]
    fn finds_versions_in_prose() {
        let cases = [
            ("Docker version 29.5.2, build abc", Some(Version(29, 5, 2))),
            ("rootlesskit version v3.1.0-beta.0", Some(Version(3, 1, 0))),
            ("2.0", Some(Version(2, 0, 0))),
            ("no number 7 here", None),
        ];
        for (text, version) in cases {
            assert_eq!(Version::find(text), version, "{text}");
        }
    }
}
