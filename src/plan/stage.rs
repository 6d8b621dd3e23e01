//! The namespace stage: what is done inside rootlesskit's namespaces before dockerd takes over.
//! The steps are a list, and the list travels as words of the command line that rootlesskit
//! runs, so that what `plan` prints is what the stage is told.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::error::{Error, Exit};
use crate::settings::{PortDriver, assignment, split_assignment};

/// The first word of the stage's command line.
pub const STAGE: &str = "namespace-stage";

/// The first word of a trial's command line, which is the stage's otherwise.
pub const TRIAL: &str = "namespace-trial";

/// Where most of what is pasted looks for the daemon's socket, as `/var/run` is a link to `/run`.
pub const DOCKER_SOCKET: &str = "/run/docker.sock";

/// The first port that the kernel gives out by itself, and one below its range: pasta of 2026
/// forwards no port of the host's range by itself.
const FIRST_PORT: u16 = 32768;
const FIRST_PORT_OF_PASTA: u16 = 20480;

/// How many random ports dockerd has below [`FIRST_PORT`].
const RANDOM_PORTS: u16 = 1024;

/// Everything that the namespace stage is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// The inode of the user namespace outside. The stage touches nothing when it is still in it.
    pub outside: u64,
    /// The descriptor at which the supervisor speaks to a stage that stays: the keeper, which starts
    /// containerd and dockerd as often as they are needed, in the same namespaces.
    pub keeper: Option<u32>,
    /// The detached network namespace, when the containers' network is not the stage's own.
    pub netns: Option<PathBuf>,
    /// What to do, in this order.
    pub steps: Vec<Step>,
    /// The daemon's absolute path and its words.
    pub daemon: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Ipv4,
    Ipv6,
}

/// One thing to do in the namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Unlink what copy-up made of the host's entry, so that dockerd makes its own there.
    DropLink(PathBuf),
    /// Let `/run/docker.sock` lead to the daemon's socket, for containers that mount it.
    LinkSocket(PathBuf),
    /// Give a directory the SELinux label that iptables needs (moby#41230).
    Label(PathBuf),
    /// Bind the originals over directories in which copy-up broke links (rootlesskit#225).
    RebindBroken(PathBuf),
    /// Bind the original over a directory that copy-up made a link, for programs that follow none.
    BindOriginal(PathBuf),
    /// Let the network namespace forward IPv4, and IPv6 if it has that.
    Forward,
    /// Let the kernel's own choice of ports begin at this one, and with it dockerd's.
    LocalPorts(u16),
    /// Put the legacy backend of a family first in dockerd's PATH, if the kernel has it;
    /// fail otherwise if it is required.
    LegacyIptables { family: Family, program: PathBuf, required: bool },
    /// Fail unless rootlesskit can keep the addresses of clients in this network namespace.
    RequireSourceIp,
    /// Move sockets from the descriptors where they crossed rootlesskit, `from` and following, to 3
    /// and following.
    TakeSockets { count: u32, from: u32 },
}

impl Step {
    /// Lets [`DOCKER_SOCKET`] lead to the daemon's socket, or at least not to another daemon's.
    pub(super) fn docker_socket(socket: Option<&Path>) -> Self {
        let own = [DOCKER_SOCKET, "/var/run/docker.sock"].map(Path::new);
        match socket.filter(|path| !own.contains(path)) {
            Some(path) => Self::LinkSocket(path.to_owned()),
            None => Self::DropLink(DOCKER_SOCKET.into()),
        }
    }

    /// Has dockerd of this user begin its random ports at a place of its own. Each daemon counts up from
    /// the first port, and rootlesskit binds it on the host, which all users share (moby#53153).
    pub(super) fn local_ports(uid: u32, driver: &PortDriver) -> Self {
        // The golden ratio keeps any run of successive numbers well apart (Knuth 6.4). 13 bits of it
        // leave the kernel at least 24576 ports, which connections to published ports need.
        let [high, low, ..] = uid.wrapping_mul(0x9E37_79B9).to_be_bytes();
        let first = match driver {
            PortDriver::Implicit => FIRST_PORT_OF_PASTA,
            _ => FIRST_PORT,
        };
        Self::LocalPorts(first + (u16::from_be_bytes([high, low]) >> 3))
    }

    /// Returns the ports that no connection takes by itself, where `first` is below the usual range: people
    /// publish 25565 or 27017. dockerd 29.6 and later take none of them as random ports either.
    pub fn ports_kept_free(first: u16) -> Option<String> {
        (first < FIRST_PORT).then(|| format!("{}-{}", first + RANDOM_PORTS, FIRST_PORT - 1))
    }

    /// Returns its name, its value, and what it is for.
    fn parts(&self) -> (&'static str, OsString, &'static str) {
        match self {
            Self::DropLink(path) => ("drop-link", path.into(), "the daemon makes its own there"),
            Self::LinkSocket(path) => {
                ("link-socket", path.into(), "containers that mount /var/run/docker.sock get it")
            }
            Self::Label(path) => ("selinux-label", path.into(), "iptables needs it under SELinux"),
            Self::RebindBroken(path) => {
                ("rebind-broken", path.into(), "copy-up broke links in its directories")
            }
            Self::BindOriginal(path) => {
                ("bind-original", path.into(), "dockerd before 29.2 follows no link to CDI devices")
            }
            Self::Forward => ("forward", "ipv4,ipv6".into(), "containers reach other hosts"),
            Self::LocalPorts(first) => {
                let why = "each user's random ports start at another port";
                ("local-ports", format!("{first}-{}", u16::MAX).into(), why)
            }
            Self::LegacyIptables { family, program, required } => {
                let name = match (family, required) {
                    (Family::Ipv4, false) => "prefer-iptables",
                    (Family::Ipv6, false) => "prefer-ip6tables",
                    (Family::Ipv4, true) => "require-iptables",
                    (Family::Ipv6, true) => "require-ip6tables",
                };
                (
                    name,
                    program.into(),
                    "it is first in the daemon's PATH if the kernel has its tables",
                )
            }
            Self::RequireSourceIp => {
                ("require", "source-ip".into(), "the rules and routes of rootlesskit are tried")
            }
            Self::TakeSockets { count, from } => {
                let value = format!("{count}@{from}").into();
                ("listen-fds", value, "sockets move from these descriptors to 3 and following")
            }
        }
    }

    /// Returns the step as a word of the command line.
    pub fn word(&self) -> OsString {
        let (name, value, _) = self.parts();
        assignment(name, &value)
    }

    /// Says what the step does and why.
    pub fn explain(&self) -> String {
        let (_, _, why) = self.parts();
        format!("{}: {why}", self.word().display())
    }

    /// Reads a word that [`Self::word`] wrote.
    fn parse(name: &str, value: &OsStr) -> Option<Self> {
        let path = || PathBuf::from(value);
        let legacy = |family, required| Self::LegacyIptables { family, program: path(), required };
        Some(match name {
            "drop-link" => Self::DropLink(path()),
            "link-socket" => Self::LinkSocket(path()),
            "selinux-label" => Self::Label(path()),
            "rebind-broken" => Self::RebindBroken(path()),
            "bind-original" => Self::BindOriginal(path()),
            "forward" if value == "ipv4,ipv6" => Self::Forward,
            "local-ports" => {
                let (first, _) = value.to_str()?.split_once('-')?;
                Self::LocalPorts(first.parse().ok()?)
            }
            "prefer-iptables" => legacy(Family::Ipv4, false),
            "prefer-ip6tables" => legacy(Family::Ipv6, false),
            "require-iptables" => legacy(Family::Ipv4, true),
            "require-ip6tables" => legacy(Family::Ipv6, true),
            "require" if value == "source-ip" => Self::RequireSourceIp,
            "listen-fds" => {
                let (count, from) = value.to_str()?.split_once('@')?;
                Self::TakeSockets { count: count.parse().ok()?, from: from.parse().ok()? }
            }
            _ => return None,
        })
    }
}

impl Stage {
    /// Returns the words behind the program's own path, as rootlesskit runs them.
    pub fn words(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> =
            vec![STAGE.into(), format!("outside={}", self.outside).into()];
        words.extend(self.keeper.map(|fd| format!("keeper={fd}").into()));
        words.extend(self.netns.iter().map(|path| assignment("netns", path.as_os_str())));
        words.extend(self.steps.iter().map(Step::word));
        words.push("--".into());
        words.extend(self.daemon.iter().cloned());
        words
    }

    /// Reads the words behind [`STAGE`].
    pub fn parse(words: &[OsString]) -> Result<Self, Error> {
        let wrong = |what: &str| {
            Error::new(Exit::Usage, format!("`{STAGE}`: {what}"))
                .hint("this command is run by rootlesskit, not by hand: use `dockerd-rootless run`")
        };
        let mut parts = words.splitn(2, |word| word == "--");
        let options = parts.next().unwrap_or_default();
        let daemon = parts.next().unwrap_or_default().to_vec();
        let mut stage = Self { outside: 0, keeper: None, netns: None, steps: Vec::new(), daemon };
        for word in options {
            let is_known = split_assignment(word).and_then(|(name, value)| stage.take(name, value));
            is_known.ok_or_else(|| wrong(&format!("unknown word `{}`", word.display())))?;
        }
        if stage.outside == 0 || stage.daemon.is_empty() {
            return Err(wrong("expected outside=INODE ... -- DAEMON"));
        }
        Ok(stage)
    }

    /// Takes one word in; `None` if it is unknown.
    fn take(&mut self, name: &str, value: &OsStr) -> Option<()> {
        match name {
            "outside" => self.outside = value.to_str()?.parse().ok()?,
            "keeper" => self.keeper = Some(value.to_str()?.parse().ok()?),
            "netns" => self.netns = Some(PathBuf::from(value)),
            _ => self.steps.push(Step::parse(name, value)?),
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::ffi::OsStringExt;

    fn any_word() -> impl Strategy<Value = OsString> {
        proptest::collection::vec(1u8..=255, 0..30).prop_map(OsString::from_vec)
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            any_word().prop_map(|word| Step::DropLink(word.into())),
            any_word().prop_map(|word| Step::LinkSocket(word.into())),
            any_word().prop_map(|word| Step::Label(word.into())),
            any_word().prop_map(|word| Step::RebindBroken(word.into())),
            any_word().prop_map(|word| Step::BindOriginal(word.into())),
            Just(Step::Forward),
            any::<u16>().prop_map(Step::LocalPorts),
            Just(Step::RequireSourceIp),
            (any::<bool>(), any_word(), any::<bool>()).prop_map(|(v6, word, required)| {
                Step::LegacyIptables {
                    family: if v6 { Family::Ipv6 } else { Family::Ipv4 },
                    program: word.into(),
                    required,
                }
            }),
            (any::<u32>(), any::<u32>())
                .prop_map(|(count, from)| Step::TakeSockets { count, from }),
        ]
    }

    proptest! {
        #[test]
        fn the_stage_reads_back_what_the_plan_wrote(
            outside in 1u64..,
            keeper in any::<Option<u32>>(),
            netns in proptest::option::of(any_word().prop_map(PathBuf::from)),
            steps in proptest::collection::vec(any_step(), 0..8),
            daemon in proptest::collection::vec(any_word(), 1..6),
        ) {
            let stage = Stage { outside, keeper, netns, steps, daemon };
            let words = stage.words();
            prop_assert_eq!(&words[0], STAGE);
            prop_assert_eq!(Stage::parse(&words[1..]).unwrap(), stage);
        }
    }

    fn first_ports(uids: impl Iterator<Item = u32>, driver: &PortDriver) -> Vec<u16> {
        let mut ports: Vec<u16> = uids
            .map(|uid| match Step::local_ports(uid, driver) {
                Step::LocalPorts(first) => first,
                other => panic!("{other:?}"),
            })
            .collect();
        ports.sort_unstable();
        ports
    }

    #[test]
    fn users_have_room_for_random_ports_before_they_meet() {
        for (users, room) in [(2, 3_100), (5, 1_100), (20, 280), (50, 100)] {
            for first in (1_000..2_000).chain([60_000, 1_207_600_011, u32::MAX - users]) {
                let ports = first_ports(first..first + users, &PortDriver::Builtin);
                let nearest = ports.windows(2).map(|pair| pair[1] - pair[0]).min();
                assert!(nearest >= Some(room), "{users} users from {first}: {nearest:?}");
            }
        }
        for (driver, first) in [(PortDriver::Builtin, 32768), (PortDriver::Implicit, 20480)] {
            let all = first_ports(0..100_000, &driver);
            assert_eq!((all[0], all[all.len() - 1]), (first, first + 8191));
        }
        for (first, kept) in [
            (20480, Some("21504-32767")),
            (28671, Some("29695-32767")),
            (32768, None),
            (40959, None),
        ] {
            assert_eq!(Step::ports_kept_free(first).as_deref(), kept, "{first}");
        }
    }

    #[test]
    fn refuses_words_that_no_plan_writes() {
        for line in [
            "",
            "outside=1",
            "outside=1 --",
            "-- dockerd",
            "outside=x -- dockerd",
            "outside=1 rm=/ -- dockerd",
        ] {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let error = Stage::parse(&words).expect_err(line);
            assert_eq!(error.exit(), Exit::Usage, "{line}");
        }
    }
}
