//! What failures of programs mean, by what they say.

use std::path::{Path, PathBuf};

use crate::check::finding::{Finding, Id, Id::*};
use crate::check::fix::{Fix, quoted};

/// How many characters of a program's own words are quoted: in a summary, and in a reason.
const GIST: usize = 80;
const SAID: usize = 480;

/// A check, what is said in lowercase, what it means, and the setting that avoids it. From the
/// sources of rootlesskit (`pkg/parent`, `pkg/network`), slirp4netns (`sandbox.c`) and issues.
type Meaning = (Id, &'static [&'static str], &'static str, Option<Setting>);
type Setting = (&'static str, &'static str);

#[rustfmt::skip]
const MEANINGS: &[Meaning] = &[
    (NetworkDriver, &["pivot_root", "create_sandbox", "cannot mount tmpfs on /tmp"], "slirp4netns cannot enter its sandbox: a root file system in memory and LXD's AppArmor profile do not allow pivot_root(2) (moby#47803, slirp4netns#348)", Some(("network.slirp4netns-sandbox", "false"))),
    (NetworkDriver, &["ip rule [list]"], "the `ip` in PATH is BusyBox's, which makes no tap device: install iproute2", None),
    (NetworkDriver, &["seccomp"], "slirp4netns cannot install its seccomp filter", Some(("network.slirp4netns-seccomp", "false"))),
    (NetworkDriver, &["dual stack forward", "unable to add rule"], "pasta of 2026-05-07 cannot forward ports automatically (rootlesskit#591)", Some(SLIRP4NETNS)),
    (NetworkDriver, &["couldn't open user namespace"], "AppArmor does not let pasta into the user namespace: Ubuntu 23.10 and 24.04 lack its profile (Launchpad bug 2077158)", Some(SLIRP4NETNS)),
    (Rootlesskit, &["flag provided but not defined"], "this rootlesskit does not know a flag: `dockerd-rootless config explain rootlesskit.flags` shows what sets it", None),
    (Rootlesskit, &["bind: invalid argument"], "the path of a socket is too long", None),
    (Rootlesskit, &["did not end within"], "rootlesskit hangs when its child dies early or the path of a socket is too long", None),
];

const SLIRP4NETNS: Setting = ("network.driver", "slirp4netns");

/// Adds what a program's failure means to the finding of the check `id`, and what it said.
pub fn explain(mut finding: Finding, id: Id, text: &str) -> Finding {
    let said = cut(&without_values(text), SAID);
    if said != gist(text) {
        finding = finding.because(format!("it said: {said}"));
    }
    let lower = without_values(text).to_lowercase();
    let is_said = |signs: &[&str]| signs.iter().any(|sign| lower.contains(sign));
    let mut known = MEANINGS.iter().filter(|(own, signs, ..)| *own == id && is_said(signs));
    let Some((.., meaning, setting)) = known.next() else {
        return finding;
    };
    finding.fixes.extend(setting.map(|(key, value)| Fix::Set(key, value.to_owned())));
    finding.because(*meaning)
}

/// Returns the telling part of what rootlesskit and its network driver say: the parent's error, or
/// the last line.
pub fn gist(text: &str) -> String {
    let parts = || text.split('\n').flat_map(|line| line.split("; [rootlesskit:"));
    let is_parents = |part: &&str| {
        part.trim_start_matches("[rootlesskit:").starts_with("parent] error:")
            && !part.contains("child exited")
    };
    let told = parts().find(is_parents);
    let told = told.or(parts().filter(|part| !part.trim().is_empty()).last());
    let told = told.unwrap_or("no message");
    let told = told.split_once("] error: ").map_or(told, |(_, error)| error);
    cut(&without_values(told.split(" (it ended with").next().unwrap_or(told)), GIST)
}

/// Removes what Go prints of values, `&{…}`: rootlesskit names its network driver so.
fn without_values(text: &str) -> String {
    let mut parts = text.split("&{");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |kept, part| {
        let rest = part.rsplit_once('}').map_or("", |(_, rest)| rest);
        format!("{}{rest}", kept.trim_end())
    })
}

/// Puts `text` on one line of at most `max` characters.
fn cut(text: &str, max: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= max {
        return line;
    }
    line.chars().take(max - 1).collect::<String>().trim_end().to_owned() + "…"
}

/// Failures of dockerd that no check can see: what a line of its log says in lowercase, the place in
/// the data root, what is wrong with that, and what fixes it.
const KNOWN: [(&str, &str, &str, &str); 3] = [
    // libnetwork's `reservePools` takes the first address pool of a network that was stored before
    // it got one: a panic, from 20.10 on (github.com/docker/libnetwork, controller.go).
    (
        "libnetwork.(*controller).reservepools(",
        "network/files/local-kv.db",
        "holds half a network, and dockerd panics at every start: it was killed while it created or removed that network; without this file, the networks that you have created are lost, and images, containers and volumes stay",
        "mv PLACE PLACE.broken",
    ),
    ("no space left on device", "", "is on a disk that is full", "df -h PLACE; df -i PLACE"),
    (
        "disk quota exceeded",
        "",
        "is on a disk on which your quota is used up",
        "df -h PLACE; quota",
    ),
];

/// Finds the known failure in `log`, the last lines of the daemon with this `data_root`. Returns a
/// sentence and a hint with the command that fixes it.
pub fn known_failure(log: &[String], data_root: &Path) -> Option<(String, String)> {
    let root = data_root.display().to_string().to_lowercase();
    let (_, place, why, hint) = KNOWN.iter().find(|(said, place, ..)| {
        // A quota of namespaces says the same as a full disk.
        let is_it =
            |line: String| line.contains(said) && (!place.is_empty() || line.contains(&root));
        log.iter().any(|line| is_it(line.to_lowercase()))
    })?;
    // By its components, so that no slash is at the end.
    let place: PathBuf = data_root.join(place).components().collect();
    let sentence = format!("`{}` {why}", place.display());
    Some((sentence, hint.replace("PLACE", &quoted(place))))
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
        let place = "/d/docker/network/files/local-kv.db";
        assert_eq!(hint, format!("mv {place} {place}.broken"));
        assert_eq!(known("anything else"), None);
    }
}
