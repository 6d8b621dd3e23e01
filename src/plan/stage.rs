//! The namespace stage: what is done inside rootlesskit's namespaces before dockerd takes over.
//! The steps are a list, and the list travels as words of the command line that rootlesskit
//! runs, so that what `plan` prints is what the stage is told.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::error::{Error, Exit};
use crate::settings::assignment;

/// The first word of the stage's command line.
pub const STAGE: &str = "namespace-stage";

/// The first word of a trial's command line, which is the stage's otherwise.
pub const TRIAL: &str = "namespace-trial";

/// The word that has the stage stay, with the descriptor of its connection to the supervisor.
const KEEPER: &str = "keeper";

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

/// An Internet protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// One thing to do in the namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Unlink what copy-up made of the host's entry, so that dockerd makes its own there.
    DropLink(PathBuf),
    /// Give a directory the SELinux label that iptables needs (moby#41230).
    Label(PathBuf),
    /// Bind the originals over directories in which copy-up broke links (rootlesskit#225).
    RebindBroken(PathBuf),
    /// Let the network namespace forward IPv4, and IPv6 if it has that.
    Forward,
    /// Put the legacy backend of a family first in dockerd's PATH, if the kernel has it.
    LegacyIptables {
        /// The family.
        family: Family,
        /// The program.
        program: PathBuf,
        /// Whether it is an error if the kernel has it not.
        required: bool,
    },
    /// Move sockets from the descriptors where they crossed rootlesskit to 3 and following.
    TakeSockets {
        /// How many.
        count: u32,
        /// The first of them.
        from: u32,
    },
}

impl Step {
    /// The step as a word of the command line.
    pub fn word(&self) -> OsString {
        let (name, value): (&str, OsString) = match self {
            Self::DropLink(path) => ("drop-link", path.into()),
            Self::Label(path) => ("selinux-label", path.into()),
            Self::RebindBroken(path) => ("rebind-broken", path.into()),
            Self::Forward => ("forward", "ipv4,ipv6".into()),
            Self::LegacyIptables { family, program, required } => (
                match (family, required) {
                    (Family::Ipv4, false) => "prefer-iptables",
                    (Family::Ipv6, false) => "prefer-ip6tables",
                    (Family::Ipv4, true) => "require-iptables",
                    (Family::Ipv6, true) => "require-ip6tables",
                },
                program.into(),
            ),
            Self::TakeSockets { count, from } => ("listen-fds", format!("{count}@{from}").into()),
        };
        assignment(name, &value)
    }

    /// Reads a word that [`Self::word`] wrote.
    fn parse(name: &str, value: &OsStr) -> Option<Self> {
        let path = || PathBuf::from(value);
        let legacy = |family, required| Self::LegacyIptables { family, program: path(), required };
        Some(match name {
            "drop-link" => Self::DropLink(path()),
            "selinux-label" => Self::Label(path()),
            "rebind-broken" => Self::RebindBroken(path()),
            "forward" if value == "ipv4,ipv6" => Self::Forward,
            "prefer-iptables" => legacy(Family::Ipv4, false),
            "prefer-ip6tables" => legacy(Family::Ipv6, false),
            "require-iptables" => legacy(Family::Ipv4, true),
            "require-ip6tables" => legacy(Family::Ipv6, true),
            "listen-fds" => {
                let (count, from) = value.to_str()?.split_once('@')?;
                Self::TakeSockets { count: count.parse().ok()?, from: from.parse().ok()? }
            }
            _ => return None,
        })
    }

    /// What the step does and why, for people.
    pub fn explain(&self) -> String {
        match self {
            Self::DropLink(path) => {
                format!(
                    "drop {} if copy-up linked it to the host's, so that the daemon makes its own",
                    path.display()
                )
            }
            Self::Label(path) => {
                format!("label {} for iptables, since the host has SELinux enabled", path.display())
            }
            Self::RebindBroken(path) => {
                format!(
                    "bind the originals over directories of {} whose links copy-up broke",
                    path.display()
                )
            }
            Self::Forward => {
                "turn on IPv4 forwarding, and IPv6 forwarding where there is IPv6".to_owned()
            }
            Self::LegacyIptables { family, program, required } => format!(
                "put {} first in the daemon's PATH if the namespace's kernel has its {} tables{}",
                program.display(),
                match family {
                    Family::Ipv4 => "IPv4",
                    Family::Ipv6 => "IPv6",
                },
                if *required { ", fail otherwise" } else { "; else PATH decides" }
            ),
            Self::TakeSockets { count, from } => {
                format!("move {count} socket(s) that were handed over from descriptor {from} to 3")
            }
        }
    }
}

impl Stage {
    /// The words behind the program's own path, as rootlesskit is to run them.
    pub fn words(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> =
            vec![STAGE.into(), format!("outside={}", self.outside).into()];
        let keeper = self.keeper.map(|fd| format!("{KEEPER}={fd}").into());
        words.extend(keeper);
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
        let end = words
            .iter()
            .position(|word| word == "--")
            .ok_or_else(|| wrong("the word `--` is missing"))?;
        let daemon = words[end + 1..].to_vec();
        if daemon.is_empty() {
            return Err(wrong("no daemon is named behind `--`"));
        }
        let mut stage = Self { outside: 0, keeper: None, netns: None, steps: Vec::new(), daemon };
        for word in &words[..end] {
            let unknown = || wrong(&format!("unknown word `{}`", word.display()));
            let bytes = word.as_bytes();
            let equals = bytes.iter().position(|byte| *byte == b'=').ok_or_else(unknown)?;
            let name = std::str::from_utf8(&bytes[..equals]).map_err(|_| unknown())?;
            let value = OsStr::from_bytes(&bytes[equals + 1..]);
            let text = value.to_str();
            match name {
                "outside" => {
                    let inode = text.and_then(|text| text.parse().ok());
                    stage.outside = inode.ok_or_else(unknown)?;
                }
                KEEPER => {
                    let fd = text.and_then(|text| text.parse().ok());
                    stage.keeper = Some(fd.ok_or_else(unknown)?);
                }
                "netns" => stage.netns = Some(PathBuf::from(value)),
                _ => stage.steps.push(Step::parse(name, value).ok_or_else(unknown)?),
            }
        }
        if stage.outside == 0 {
            return Err(wrong("the word `outside=INODE` is missing"));
        }
        Ok(stage)
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
            any_word().prop_map(|word| Step::Label(word.into())),
            any_word().prop_map(|word| Step::RebindBroken(word.into())),
            Just(Step::Forward),
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
