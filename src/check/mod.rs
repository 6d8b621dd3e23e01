//! Judges a host: what stands in the way of rootless Docker, why, and which commands mend it.
//! From plain data to plain data; what was tried and read is in [`Evidence`].

mod daemon;
mod distro;
mod engine;
mod idmap;
mod last_words;
mod limits;
mod namespaces;
mod neighbours;
mod netfilter;
mod places;
mod session;
mod storage;
mod subids;
pub mod survey;
pub mod trial;

use serde::Serialize;

use crate::environment::Environment;
use crate::facts::{HostFacts, Outcome, Survey, Trials};
use crate::settings::Settings;
pub use last_words::known_failure;

/// What the checks judge.
#[derive(Clone, Copy)]
pub struct Evidence<'a> {
    /// What the user asked for.
    pub settings: &'a Settings,
    /// The variables.
    pub environment: &'a Environment,
    /// What decides a launch.
    pub host: &'a HostFacts,
    /// What was read beyond that.
    pub survey: &'a Survey,
    /// What was tried.
    pub trials: &'a Trials,
}

impl Evidence<'_> {
    /// Why nothing was tried in namespaces, as the end of a sentence.
    fn why_not_inside(&self) -> String {
        let trials = self.trials;
        let refused = trials.user_namespace.failure().or_else(|| trials.capabilities.failure());
        match (refused, &trials.rootlesskit) {
            (None, Outcome::NotTried(why)) => why.clone(),
            (None, Outcome::Fails(_)) => "see `rootlesskit`".to_owned(),
            _ => "see `user-namespaces`".to_owned(),
        }
    }
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Nothing is to be done.
    Ok,
    /// It could not be looked at, or there is nothing to look at; the reason says which.
    Skip,
    /// It works, with a drawback.
    Warn,
    /// Rootless Docker will not start, or will not do what it is for.
    Fail,
}

/// Commands to paste, root's and the user's apart. Each may be run twice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Fix {
    /// For root.
    pub root: Vec<String>,
    /// For the user.
    pub user: Vec<String>,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How it ended.
    pub status: Status,
    /// One sentence, lowercase, without a full stop.
    pub summary: String,
    /// Why, in as many sentences as it takes; empty if the summary says all.
    pub reasons: Vec<String>,
    /// What mends it, or, where nothing is wrong, what would give more.
    pub fix: Fix,
}

impl Finding {
    fn new(status: Status, summary: impl Into<String>) -> Self {
        Self { status, summary: summary.into(), reasons: Vec::new(), fix: Fix::default() }
    }

    /// All is well.
    pub fn ok(summary: impl Into<String>) -> Self {
        Self::new(Status::Ok, summary)
    }

    /// It was not looked at.
    pub fn skip(summary: impl Into<String>) -> Self {
        Self::new(Status::Skip, summary)
    }

    /// There is a drawback.
    pub fn warn(summary: impl Into<String>) -> Self {
        Self::new(Status::Warn, summary)
    }

    /// It stands in the way.
    pub fn fail(summary: impl Into<String>) -> Self {
        Self::new(Status::Fail, summary)
    }

    /// Adds a reason.
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reasons.push(reason.into());
        self
    }

    /// Adds a command for root.
    pub fn root(mut self, command: impl Into<String>) -> Self {
        self.fix.root.push(command.into());
        self
    }

    /// Adds a command for the user.
    pub fn user(mut self, command: impl Into<String>) -> Self {
        self.fix.user.push(command.into());
        self
    }
}

/// A check: its name, what it is about, and how it judges.
pub struct Check {
    /// The stable name, kebab-case.
    pub name: &'static str,
    /// What it is about, for `--list`.
    pub about: &'static str,
    /// Judges.
    pub find: fn(&Evidence<'_>) -> Finding,
}

impl Check {
    const fn new(
        name: &'static str,
        about: &'static str,
        find: fn(&Evidence<'_>) -> Finding,
    ) -> Self {
        Self { name, about, find }
    }
}

/// A check's name and what it found.
pub type Named = (&'static str, Finding);

/// Judges everything, in the order of [`CHECKS`].
pub fn find_all(evidence: &Evidence<'_>) -> Vec<Named> {
    let find = |check: &Check| {
        let mut finding = (check.find)(evidence);
        name_ourselves(evidence, &mut finding.fix.user);
        (check.name, finding)
    };
    CHECKS.iter().map(find).collect()
}

/// Puts our own path in front of the commands that are ours, unless a shell finds us by name:
/// whoever tries a download out pastes them too.
fn name_ourselves(evidence: &Evidence<'_>, commands: &mut [String]) {
    const NAME: &str = "dockerd-rootless";
    let own = &evidence.host.session.own_path;
    // Without PATH, shells look where distributions put programs.
    let path = evidence.environment.get("PATH");
    let path = path.unwrap_or("/usr/local/bin:/usr/bin:/bin".as_ref());
    if std::env::split_paths(path).any(|directory| directory.join(NAME) == *own) {
        return;
    }
    let own = crate::words::quote(own.as_os_str());
    for command in commands {
        if let Some(words) = command.strip_prefix("dockerd-rootless ") {
            *command = format!("{} {words}", own.display());
        }
    }
}

/// Those of the checks called `names` that fail. What is only a consequence of theirs
/// points at them.
fn failing(evidence: &Evidence<'_>, names: &[&'static str]) -> Vec<&'static str> {
    let fails = |name: &&str| {
        let check = CHECKS.iter().find(|check| check.name == *name);
        check.is_some_and(|check| (check.find)(evidence).status == Status::Fail)
    };
    names.iter().copied().filter(fails).collect()
}

/// The names of checks for a sentence: "see `a` and `b`".
fn see(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match &names[..] {
        [] => String::new(),
        [one] => format!("see {one}"),
        [first @ .., last] => format!("see {} and {last}", first.join(", ")),
    }
}

/// `text` on one line and not longer than `max` characters.
fn cut(text: &str, max: usize) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ");
    if line.chars().count() <= max {
        return line;
    }
    line.chars().take(max - 1).collect::<String>().trim_end().to_owned() + "…"
}

/// All checks, in the order in which a launch needs things.
pub const CHECKS: &[Check] = &[
    Check::new(
        "user-namespaces",
        "whether user namespaces can be made, with capabilities inside",
        namespaces::user_namespaces,
    ),
    Check::new(
        "user-namespace-quota",
        "how many namespaces you may make",
        namespaces::user_namespace_quota,
    ),
    Check::new("subuid", "your subordinate user ids", subids::subuid),
    Check::new("subgid", "your subordinate group ids", subids::subgid),
    Check::new("newuidmap", "the program that maps subordinate user ids", idmap::newuidmap),
    Check::new("newgidmap", "the program that maps subordinate group ids", idmap::newgidmap),
    Check::new("rootlesskit", "the program that makes the namespaces", engine::rootlesskit),
    Check::new("dockerd", "the daemon's program", engine::dockerd),
    Check::new("network-driver", "the way out of the network namespace", engine::network_driver),
    Check::new(
        "tun-device",
        "whether `/dev/net/tun` opens, which network drivers need",
        engine::tun_device,
    ),
    Check::new("port-driver", "how published ports get in", engine::port_driver),
    Check::new(
        "netfilter",
        "the firewall rules and network devices that containers need",
        netfilter::netfilter,
    ),
    Check::new("overlay", "whether images can be stored in layers", storage::overlay),
    Check::new("cgroup", "whether limits of CPU, memory and processes hold", session::cgroup),
    Check::new("dbus", "whether dockerd reaches your bus", session::dbus),
    Check::new(
        "systemd-user",
        "whether a user manager can start the daemon",
        session::systemd_user,
    ),
    Check::new("linger", "whether the daemon outlives the session", session::linger),
    Check::new(
        "runtime-dir",
        "whether the runtime directory is safe and has room",
        places::runtime_dir,
    ),
    Check::new("home", "whether the home is there when the daemon starts", places::home),
    Check::new("state-dir", "whether rootlesskit may have its state directory", places::state_dir),
    Check::new("socket-path", "whether the paths of all sockets fit", places::socket_path),
    Check::new("resolv-conf", "whether names are resolved in the namespace", places::resolv_conf),
    Check::new("etc-links", "whether CA certificates open in the namespace", places::etc_links),
    Check::new(
        "rootful-docker",
        "whether root's daemon is within your reach",
        neighbours::rootful_docker,
    ),
    Check::new(
        "containerd-rootless",
        "whether a rootless containerd of yours is in the way",
        neighbours::containerd_rootless,
    ),
    Check::new("docker-cli", "the program `docker`", neighbours::docker_cli),
    Check::new(
        "docker-context",
        "which daemon a plain `docker` reaches",
        neighbours::docker_context,
    ),
    Check::new("daemon-config", "whether dockerd takes its `daemon.json`", daemon::daemon_config),
    Check::new("privileged-ports", "which ports can be published", limits::privileged_ports),
    Check::new("ping", "whether containers can ping", limits::ping),
    Check::new("ipv6", "IPv6 for containers", limits::ipv6),
    Check::new("limits", "kernel keys, open files and inotify instances", limits::limits),
    Check::new("selinux", "what SELinux changes", limits::selinux),
    Check::new("proxy", "whether the daemon reaches its proxy", limits::proxy),
];

#[cfg(test)]
mod hosts;
#[cfg(test)]
mod tests;
