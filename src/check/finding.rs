//! What checks say.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::check::fix::Fix;
use crate::check::trials::Outcome;

/// A check. Its name is the kebab-case form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Id {
    UserNamespaces,
    UserNamespaceQuota,
    Subuid,
    Subgid,
    Newuidmap,
    Newgidmap,
    RuntimeDir,
    Home,
    StateDir,
    TunDevice,
    NetworkDriver,
    PortDriver,
    Addresses,
    SocketPath,
    ContainerdRootless,
    Rootlesskit,
    Dockerd,
    DaemonConfig,
    Netfilter,
    ResolvConf,
    PrivilegedPorts,
    Ping,
    Ipv6,
    Proxy,
    Overlay,
    EtcLinks,
    Cgroup,
    Limits,
    Gpu,
    Dbus,
    SystemdUser,
    Linger,
    RootfulDocker,
    DockerCli,
    DockerContext,
}

impl fmt::Display for Id {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.to_possible_value();
        out.pad(name.as_ref().map_or("", |name| name.get_name()))
    }
}

/// What a check is about, in the order of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Category {
    Kernel,
    Identity,
    Places,
    Programs,
    Network,
    Storage,
    Resources,
    Service,
    Client,
}

/// How a check ended, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    Ok,
    /// There was nothing to look at, or no way to look; the summary says which.
    Skip,
    /// It works, with a drawback.
    Warn,
    /// Rootless Docker will not start, or not do what it is for.
    Fail,
}

/// What a check found.
#[derive(Debug)]
pub struct Finding {
    pub status: Status,
    /// One sentence, lowercase, without a full stop.
    pub summary: String,
    /// Why, in as many sentences as it takes.
    pub reasons: Vec<String>,
    /// What fixes it or, where nothing is wrong, what would give more.
    pub fixes: Vec<Fix>,
    /// Whether a failed check that this one needs explains it: then it only points there.
    pub is_consequence: bool,
}

impl Finding {
    fn new(status: Status, summary: impl Into<String>) -> Self {
        let (reasons, fixes) = (Vec::new(), Vec::new());
        Self { status, summary: summary.into(), reasons, fixes, is_consequence: false }
    }

    pub fn ok(summary: impl Into<String>) -> Self {
        Self::new(Status::Ok, summary)
    }

    /// Reports that there is nothing to look at.
    pub fn skip(summary: impl Into<String>) -> Self {
        Self::new(Status::Skip, summary)
    }

    /// Reports that there was no way to look, which a failed check may explain.
    pub fn untried(summary: impl Into<String>) -> Self {
        Self { is_consequence: true, ..Self::skip(summary) }
    }

    pub fn warn(summary: impl Into<String>) -> Self {
        Self::new(Status::Warn, summary)
    }

    /// Reports a problem, as severe as the list says of the check.
    pub fn problem(summary: impl Into<String>) -> Self {
        Self::new(Status::Fail, summary)
    }

    /// Reports a trial that failed, which a failed check may explain.
    pub fn failed_trial(summary: impl Into<String>) -> Self {
        Self { is_consequence: true, ..Self::problem(summary) }
    }

    /// Reports a trial that has not failed: that it `works`, or why it was not made.
    pub fn tried(outcome: &Outcome, works: impl Into<String>) -> Self {
        match outcome {
            Outcome::NotTried(why) => Self::untried(format!("not tried: {why}")),
            _ => Self::ok(works),
        }
    }

    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reasons.push(reason.into());
        self
    }

    pub fn fix(mut self, fix: Fix) -> Self {
        self.fixes.push(fix);
        self
    }

    pub fn root(self, command: impl Into<String>) -> Self {
        self.fix(Fix::Root(command.into()))
    }

    pub fn user(self, command: impl Into<String>) -> Self {
        self.fix(Fix::User(command.into()))
    }

    pub fn tell(self, sentence: impl Into<String>) -> Self {
        self.fix(Fix::Tell(sentence.into()))
    }
}

/// Returns a sentence that points to checks.
pub fn see(ids: &[Id]) -> String {
    let names: Vec<String> = ids.iter().map(|id| format!("`{id}`")).collect();
    format!("see {}", names.join(", "))
}
