//! Whether rootlesskit and dockerd are there and run.

use std::ffi::OsStr;

use crate::check::evidence::Evidence;
use crate::check::failures::{self, gist};
use crate::check::finding::{Finding, Id};
use crate::check::fix::Fix;
use crate::check::known;
use crate::check::packages::Package;
use crate::check::trials::Outcome;
use crate::facts::{Tool, Version};

/// `rootlesskit`: it is there, and runs a command in namespaces as the plan has them.
pub fn rootlesskit(evidence: &Evidence<'_>) -> Finding {
    let tool = &evidence.host.tools.rootlesskit;
    let Some(path) = tool.path() else {
        let named = evidence.settings.rootlesskit_binary.value.as_deref();
        return missing(named, "rootlesskit", "rootlesskit.binary", Package::Rootlesskit);
    };
    if let Some(fault) = evidence.flags().fault {
        return Finding::problem(format!("rootlesskit.flags cannot be used: {fault}"))
            .tell("`dockerd-rootless config explain rootlesskit.flags` shows what sets them");
    }
    let what = format!("`{}`{}", path.display(), display(evidence.rootlesskit_version()));
    let mut finding = match &evidence.trials.rootlesskit {
        Outcome::Fails(failure) => {
            let finding = Finding::failed_trial(format!("{what} fails: {}", gist(&failure.text)));
            failures::explain(finding, Id::Rootlesskit, &failure.text)
        }
        outcome => Finding::tried(outcome, format!("{what} starts")),
    };
    if let Tool::Unknown { why, .. } = tool {
        finding = finding.because(format!("it does not tell its version: {why}"));
    }
    finding
}

/// `dockerd`.
pub fn dockerd(evidence: &Evidence<'_>) -> Finding {
    match &evidence.host.tools.dockerd {
        Tool::Found { path, facts } => {
            let what = format!("dockerd{} at `{}`", display(facts.version), path.display());
            known::with_holes(evidence, Finding::ok(what))
        }
        Tool::Unknown { path, why } => {
            Finding::skip(format!("`{}` does not tell its options: {why}", path.display()))
        }
        Tool::Absent | Tool::NotExecutable(_) => {
            let named = &*evidence.settings.daemon_binary.value;
            missing(Some(named), "dockerd", "daemon.binary", Package::Dockerd)
        }
    }
}

/// Reports a program that is absent or is no program.
fn missing(named: Option<&OsStr>, name: &str, key: &'static str, package: Package) -> Finding {
    let Some(named) = named.filter(|named| *named != name) else {
        return Finding::problem(format!("no program `{name}` in PATH")).fix(Fix::Package(package));
    };
    let named = named.display();
    Finding::problem(format!("`{named}`, which {key} names, does not exist or is not executable"))
        .fix(Fix::Set(key, name.to_owned()))
}

fn display(version: Option<Version>) -> String {
    version.map_or_else(String::new, |version| format!(" {version}"))
}
