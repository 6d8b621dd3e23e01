//! Whether rootlesskit and dockerd are there and run.

use std::ffi::OsStr;

use crate::check::failures::{self, gist};
use crate::check::finding::{Evidence, Finding, Id};
use crate::check::fix::Fix;
use crate::check::packages::Package;
use crate::check::trials::Outcome;
use crate::facts::{Tool, Version};

/// `rootlesskit`: it is there, and runs a command in namespaces as the plan has them.
pub fn rootlesskit(evidence: &Evidence<'_>) -> Finding {
    let Some(path) = evidence.host.tools.rootlesskit.path() else {
        let named = evidence.settings.rootlesskit_binary.value.as_deref();
        let not_executable = matches!(evidence.host.tools.rootlesskit, Tool::NotExecutable(_));
        return missing(
            named,
            "rootlesskit",
            "rootlesskit.binary",
            not_executable,
            Package::Rootlesskit,
        );
    };
    if let Some(fault) = evidence.flags().fault {
        return Finding::problem(format!("rootlesskit.flags cannot be used: {fault}"))
            .tell("`dockerd-rootless config explain rootlesskit.flags` shows what sets them");
    }
    let (version, silent) = match &evidence.host.tools.rootlesskit {
        Tool::Unknown { why, .. } => (String::new(), Some(why)),
        tool => (display(tool.known().and_then(|facts| facts.version)), None),
    };
    let what = format!("`{}`{version}", path.display());
    let finding = match &evidence.trials.rootlesskit {
        Outcome::Works => Finding::ok(format!("{what} starts")),
        Outcome::NotTried(why) => Finding::untried(format!("{what} was not tried: {why}")),
        Outcome::Fails(failure) => {
            let finding = Finding::failed_trial(format!("{what} fails: {}", gist(&failure.text)));
            failures::explain(finding, Id::Rootlesskit, &failure.text)
        }
    };
    match silent {
        Some(reason) => finding.because(format!("it does not tell its version: {reason}")),
        None => finding,
    }
}

/// `dockerd`.
pub fn dockerd(evidence: &Evidence<'_>) -> Finding {
    match &evidence.host.tools.dockerd {
        Tool::Found { path, facts } => {
            Finding::ok(format!("dockerd{} at `{}`", display(facts.version), path.display()))
        }
        Tool::Unknown { path, why } => {
            Finding::skip(format!("`{}` does not tell its options: {why}", path.display()))
        }
        tool => {
            let named = Some(evidence.settings.daemon_binary.value.as_os_str());
            let not_executable = matches!(tool, Tool::NotExecutable(_));
            missing(named, "dockerd", "daemon.binary", not_executable, Package::Dockerd)
        }
    }
}

/// Reports a program that is absent or is no program.
fn missing(
    named: Option<&OsStr>,
    program: &str,
    key: &'static str,
    not_executable: bool,
    package: Package,
) -> Finding {
    let Some(name) = named.filter(|name| *name != program) else {
        return Finding::problem(format!("no program `{program}` in PATH"))
            .fix(Fix::Package(package));
    };
    let fault = if not_executable { "is not executable" } else { "does not exist" };
    Finding::problem(format!("the program `{}` {fault}", name.display()))
        .because(format!("{key} names it"))
        .fix(Fix::Set(key, program.to_owned()))
}

fn display(version: Option<Version>) -> String {
    version.map_or_else(String::new, |version| format!(" {version}"))
}
