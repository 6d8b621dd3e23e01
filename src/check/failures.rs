//! What failures of programs mean, by what they say, and versions that are known to be bad.

use std::path::Path;

use crate::check::finding::{Evidence, Finding, Id, Id::*};
use crate::check::fix::{Fix, quoted};
use crate::facts::{Tools, Version};
use crate::plan::Network;
use crate::settings::{NetworkDriver, PortDriver};

/// How long a program's own words may get in a summary, and in a reason.
const GIST: usize = 80;
const SAID: usize = 480;

/// A check, what is said in lowercase, what it means, and the setting that avoids it. From the
/// sources of rootlesskit (`pkg/parent`, `pkg/network`), slirp4netns (`sandbox.c`) and issues.
type Meaning = (Id, &'static str, &'static str, Option<(&'static str, &'static str)>);

#[rustfmt::skip]
const MEANINGS: &[Meaning] = &[
    (NetworkDriver, "pivot_root", NO_PIVOT, WITHOUT_SANDBOX),
    (NetworkDriver, "create_sandbox", NO_PIVOT, WITHOUT_SANDBOX),
    (NetworkDriver, "cannot mount tmpfs on /tmp", NO_PIVOT, WITHOUT_SANDBOX),
    (NetworkDriver, "seccomp", "slirp4netns cannot install its seccomp filter", Some(("network.slirp4netns-seccomp", "false"))),
    (NetworkDriver, "dual stack forward", PASTA_FORWARDS, NOT_PASTA),
    (NetworkDriver, "unable to add rule", PASTA_FORWARDS, NOT_PASTA),
    (NetworkDriver, "couldn't open user namespace", "AppArmor does not let pasta into the user namespace: Ubuntu 23.10 and 24.04 lack its profile (Launchpad bug 2077158)", NOT_PASTA),
    (Rootlesskit, "fork/exec", "the user namespace could not be created", None),
    (Rootlesskit, "newuidmap", "the user IDs could not be mapped", None),
    (Rootlesskit, "newgidmap", "the group IDs could not be mapped", None),
    (Rootlesskit, "subuid/gid parsing", "a line of /etc/subuid or /etc/subgid is malformed", None),
    (Rootlesskit, "flag provided but not defined", "this rootlesskit does not know a flag: `dockerd-rootless config explain rootlesskit.flags` shows what sets it", None),
    (Rootlesskit, "another rootlesskit is running", "rootless Docker is running with the same state directory", None),
    (Rootlesskit, "bind: invalid argument", "the path of a socket is too long", None),
    (Rootlesskit, "no space left on device", "a file system or a quota is full", None),
    (Rootlesskit, "did not end within", "rootlesskit hangs when its child dies early or the path of a socket is too long", None),
];

const NO_PIVOT: &str = "slirp4netns cannot enter its sandbox: a root file system in memory and LXD's AppArmor profile do not allow pivot_root(2) (moby#47803, slirp4netns#348)";
const PASTA_FORWARDS: &str =
    "pasta of 2026-05-07 cannot forward ports automatically (rootlesskit#591)";
const WITHOUT_SANDBOX: Option<(&str, &str)> = Some(("network.slirp4netns-sandbox", "false"));
const NOT_PASTA: Option<(&str, &str)> = Some(("network.driver", "slirp4netns"));

/// Adds what a program's failure means to the finding of the check `id`, and what it said.
pub fn explain(finding: Finding, id: Id, text: &str) -> Finding {
    let lower = text.to_lowercase();
    let said = cut(&without_values(text), SAID);
    let mut finding = match said == gist(text) {
        true => finding,
        false => finding.because(format!("it said: {said}")),
    };
    let mut known = MEANINGS.iter().filter(|(own, said, ..)| *own == id && lower.contains(said));
    if let Some((.., meaning, setting)) = known.next() {
        finding = finding.because(*meaning);
        if let Some((key, value)) = setting {
            finding = finding.fix(Fix::Set(key, (*value).to_owned()));
        }
    }
    finding
}

/// Returns the telling part of what rootlesskit and its network driver say: the parent's error, or
/// the last line, without the values that Go prints.
pub fn gist(text: &str) -> String {
    let parts = text.split('\n').flat_map(|line| line.split("; [rootlesskit:")).map(str::trim);
    let parts: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
    let is_parents = |part: &&&str| {
        let part = part.trim_start_matches("[rootlesskit:");
        part.starts_with("parent] error:") && !part.contains("child exited")
    };
    let told = parts.iter().find(is_parents).or(parts.last()).unwrap_or(&"no message");
    let told = told.split_once("] error: ").map_or(*told, |(_, error)| error);
    cut(&without_values(told.split(" (it ended with").next().unwrap_or(told)), GIST)
}

/// Removes what Go prints of values, `&{…}`: rootlesskit names its network driver so.
fn without_values(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some((before, value)) = rest.split_once("&{") {
        let mut depth = 1;
        let end = value.find(|c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            depth == 0
        });
        kept.push_str(before.trim_end());
        rest = end.map_or("", |at| &value[at + 1..]);
    }
    kept + rest
}

/// Puts `text` on one line of at most `max` characters.
fn cut(text: &str, max: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= max {
        return line;
    }
    line.chars().take(max - 1).collect::<String>().trim_end().to_owned() + "…"
}

/// A pair of versions that does not publish all ports.
pub struct BadPair {
    applies: fn(&Tools, &Network) -> bool,
    /// Whether no port at all can be published.
    pub total: bool,
    pub what: &'static str,
    /// The setting that avoids it.
    pub setting: (&'static str, &'static str),
}

/// Regressions, each with its issue. Those without a version that fixes them (moby#52903,
/// moby#53153: a race for ephemeral ports) are not here.
#[rustfmt::skip]
const BAD_PAIRS: &[BadPair] = &[
    BadPair {
        applies: |tools, network| is_slirp(network) && dockerd_in(tools, (20, 10, 6), (28, 0, 0)) && rootlesskit_before(tools, (0, 14, 3)),
        total: true,
        what: "dockerd 20.10.6 and later asks for IPv6 ports too, which rootlesskit before 0.14.3 cannot publish (moby#42355, rootlesskit#249)",
        setting: BUILTIN,
    },
    BadPair {
        applies: |tools, network| is_slirp(network) && dockerd_in(tools, (28, 0, 0), (28, 0, 1)),
        total: true,
        what: "dockerd 28.0.0 publishes no ports with it, 28.0.1 does (moby#49499)",
        setting: BUILTIN,
    },
    BadPair {
        applies: |tools, network| is_slirp(network) && dockerd_in(tools, (29, 0, 0), (29, 1, 2)),
        total: true,
        what: "dockerd 29.0.0 to 29.1.1 fails with `address already in use` for every port (moby#51591)",
        setting: BUILTIN,
    },
    BadPair {
        applies: |tools, network| network.driver == NetworkDriver::Pasta && pasta_date(tools).is_some_and(|date| date >= 20_241_030) && rootlesskit_before(tools, (2, 3, 2)),
        total: false,
        what: "connections to a port that is published on 127.0.0.1 only are reset: pasta of 2024-10-30 and later needs rootlesskit 2.3.2 (rootlesskit#482, moby#48838)",
        setting: ("network.driver", "slirp4netns"),
    },
];

const BUILTIN: (&str, &str) = ("network.port-driver", "builtin");

fn is_slirp(network: &Network) -> bool {
    network.port_driver == PortDriver::Slirp4netns
}

fn dockerd_in(tools: &Tools, first: (u32, u32, u32), fixed: (u32, u32, u32)) -> bool {
    let version = tools.dockerd.known().and_then(|facts| facts.version);
    version.is_some_and(|Version(a, b, c)| (first..fixed).contains(&(a, b, c)))
}

fn rootlesskit_before(tools: &Tools, fixed: (u32, u32, u32)) -> bool {
    let version = tools.rootlesskit.known().and_then(|facts| facts.version);
    version.is_some_and(|Version(a, b, c)| (a, b, c) < fixed)
}

/// Returns the date in pasta's version as a number such as 20241030. Upstream writes
/// `2024_10_30.ee7d0b6`, Debian `0.0~git20230309.7c7625d-1`, Fedora `0^20241030.gee7d0b6-1.fc41`.
fn pasta_date(tools: &Tools) -> Option<u32> {
    let version = tools.pasta_version.as_deref()?.replace('_', "");
    let mut runs = version.split(|c: char| !c.is_ascii_digit());
    runs.find(|run| run.len() == 8 && run.starts_with("20"))?.parse().ok()
}

/// Finds the regression that the host has with this network.
pub fn bad_pair(evidence: &Evidence<'_>, network: &Network) -> Option<&'static BadPair> {
    BAD_PAIRS.iter().find(|pair| (pair.applies)(&evidence.host.tools, network))
}

/// A failure of dockerd that no check can see.
struct Known {
    /// What a line of its log says, in lowercase.
    said: &'static str,
    /// The file or directory in the data root that it is about.
    place: &'static str,
    why: &'static str,
    /// What fixes it; PLACE stands for the path.
    hint: &'static str,
}

#[rustfmt::skip]
const KNOWN: &[Known] = &[
    // libnetwork's `reservePools` takes the first address pool of a network that was stored before
    // it got one: a panic, from 20.10 on (github.com/docker/libnetwork, controller.go).
    Known {
        said: "libnetwork.(*controller).reservepools(",
        place: "network/files/local-kv.db",
        why: "holds half a network, and dockerd panics at every start: it was killed while it created or removed that network",
        hint: "mv PLACE PLACE.broken (the networks that you have created are lost; images, containers and volumes stay)",
    },
    Known { said: "no space left on device", place: "", why: "is on a disk that is full", hint: "df -h PLACE; df -i PLACE" },
    Known { said: "disk quota exceeded", place: "", why: "is on a disk on which your quota is used up", hint: "df -h PLACE; quota" },
];

/// Finds the known failure in `log`, the last lines of the daemon with this `data_root`. Returns a
/// sentence and a hint with the command that fixes it.
pub fn known_failure(log: &[String], data_root: &Path) -> Option<(String, String)> {
    let root = data_root.display().to_string().to_lowercase();
    let is_said = |known: &&Known| {
        // A quota of namespaces says the same as a full disk.
        let is_disk = known.place.is_empty();
        let mut lines = log.iter().map(|line| line.to_lowercase());
        lines.any(|line| line.contains(known.said) && (!is_disk || line.contains(&root)))
    };
    KNOWN.iter().find(is_said).map(|known| {
        let place =
            if known.place.is_empty() { data_root.to_owned() } else { data_root.join(known.place) };
        let sentence = format!("`{}` {}", place.display(), known.why);
        (sentence, known.hint.replace("PLACE", &quoted(place)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_messages_becomes_a_sentence() {
        let cases = [
            (
                "open: Permission denied; [rootlesskit:parent] error: failed to setup network &{logWriter:0xc0 \
                 infoMu:{w:{state:0} readerWait:0} info:<nil>}: setting up tap tap0: exit status 1; \
                 [rootlesskit:child ] error: parsing message from fd 3: EOF (it ended with exit code 1)",
                "failed to setup network: setting up tap tap0: exit status 1",
            ),
            (
                "cause: No space left on device; [rootlesskit:child ] error: command x exited; \
                 [rootlesskit:parent] error: child exited: exit status 1 (it ended with exit code 1)",
                "child exited: exit status 1",
            ),
            ("\n", "no message"),
            ("half a value &{x", "half a value"),
        ];
        for (text, expected) in cases {
            assert_eq!(gist(text), expected);
        }
        assert_eq!(gist(&"ä".repeat(200)).chars().count(), GIST);
    }

    #[test]
    fn a_full_disk_is_told_from_a_used_up_quota_of_namespaces() {
        let known = |line: &str| known_failure(&[line.to_owned()], Path::new("/d/docker"));
        let (why, hint) = known("mkdir /d/docker/tmp: no space left on device").expect("known");
        assert_eq!(why, "`/d/docker` is on a disk that is full");
        assert_eq!(hint, "df -h /d/docker; df -i /d/docker");
        assert_eq!(known("fork/exec /proc/self/exe: no space left on device"), None);
        let (why, hint) =
            known("\tgithub.com/docker/libnetwork.(*controller).reservePools(0x0)").expect("known");
        assert!(why.starts_with("`/d/docker/network/files/local-kv.db` holds half a network"));
        assert!(hint.starts_with("mv /d/docker/network/files/local-kv.db /d/docker/network"));
        assert_eq!(known("anything else"), None);
    }
}
