//! The name `dockerd-rootless-setuptool.sh`: upstream's setup tool, with its words, its exit codes
//! and its block of commands for root (moby's `contrib/dockerd-rootless-setuptool.sh`).

use std::ffi::OsString;

use clap::Parser;
use tracing::error;

use super::check::Examination;
use super::run::Request;
use crate::check::{self, Named, Status};
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::report;

/// Upstream's options; they may stand on either side of the command.
#[derive(Parser)]
#[command(
    name = "dockerd-rootless-setuptool.sh",
    about = "Sets up rootless Docker",
    // As getopt(1) reads them: a part that is clear is enough, and twice is once.
    infer_long_args = true,
    args_override_self = true
)]
struct SetupTool {
    /// Ignore rootful Docker (/var/run/docker.sock)
    #[arg(short, long)]
    force: bool,
    /// Ignore missing iptables
    #[arg(long)]
    skip_iptables: bool,
    /// check: find out what is missing. Words behind it mean nothing
    command: Vec<OsString>,
}

/// Runs what `words`, the program's name first, ask for.
///
/// # Errors
/// Exit 1 for whatever upstream's tool ends with 1 for.
pub fn run(words: &[OsString], environment: &Environment) -> Result<Exit, Error> {
    let tool = match SetupTool::try_parse_from(words) {
        Ok(tool) => tool,
        Err(usage) => {
            let asked_for_help = usage.exit_code() == 0;
            // Where nobody listens, the exit code still says it.
            let _ = usage.print();
            return Ok(if asked_for_help {
                Exit::Good
            } else {
                Exit::Failed
            });
        }
    };
    let wrong = |what: String| {
        Err(Error::new(Exit::Failed, what)
            .hint("`dockerd-rootless-setuptool.sh --help` shows the usage"))
    };
    match tool.command.first() {
        None => wrong("no command is given".to_owned()),
        Some(command) if command == "check" => tool_check(&tool, environment),
        Some(command) => wrong(format!("unknown command `{}`", command.display())),
    }
}

/// `check`: satisfied, or what to run.
fn tool_check(tool: &SetupTool, environment: &Environment) -> Result<Exit, Error> {
    let examination = Examination::new(environment, &Request::default())?;
    let evidence = examination.evidence(environment);
    let mut findings = check::find_all(&evidence);
    findings.retain(|finding| counts(finding, tool));
    if findings.is_empty() {
        report::print("[INFO] Requirements are satisfied\n")?;
        return Ok(Exit::Good);
    }
    for (name, finding) in &findings {
        error!("{name}: {}", finding.summary);
        for reason in &finding.reasons {
            error!("{name}: {reason}");
        }
    }
    report::print(report::setup_instructions(&findings))?;
    let name = |name: &str| findings.iter().any(|(own, _)| *own == name);
    let hint = match () {
        () if name("netfilter") => {
            "run the commands above and this tool again; --skip-iptables ignores `netfilter`"
        }
        () if name("rootful-docker") => {
            "run the commands above and this tool again; --force ignores `rootful-docker`"
        }
        () => "run the commands above and this tool again",
    };
    Err(Error::new(Exit::Failed, "missing system requirements").hint(hint))
}

/// Whether upstream's tool would refuse for it: what fails, and a rootful daemon within reach.
fn counts((name, finding): &Named, tool: &SetupTool) -> bool {
    match *name {
        "netfilter" if tool.skip_iptables => false,
        "rootful-docker" => finding.status >= Status::Warn && !tool.force,
        _ => finding.status == Status::Fail,
    }
}
