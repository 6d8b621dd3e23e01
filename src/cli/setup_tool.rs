//! The name `dockerd-rootless-setuptool.sh`: upstream's setup tool, with its arguments, its exit
//! codes and its block of commands for root (moby's `contrib/dockerd-rootless-setuptool.sh`).

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::Path;

use clap::Parser;

use crate::check::{Found, Id};
use crate::cli::install::{of_service, problems};
use crate::cli::output;
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::setup::{
    self, Home, InstallRequest, Manager, SERVICE, SetupFacts, SetupPlan, inspect, perform,
};
use crate::sys::stdout::print;

/// Upstream's options; they may stand on either side of the command.
#[derive(Parser)]
#[command(
    name = "dockerd-rootless-setuptool.sh",
    about = "Sets up rootless Docker",
    // As getopt(1) reads them: an abbreviation is enough, and twice is once.
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
    /// check, install, uninstall, or nsenter with a command behind it
    command: Vec<OsString>,
}

/// Runs `args`, the program's name first. Each failure ends with 1, as upstream's.
pub fn run(args: &[OsString], environment: &Environment) -> Result<Exit, Error> {
    let tool = match SetupTool::try_parse_from(args) {
        Ok(tool) => tool,
        Err(usage) => {
            // If the output is closed, the exit code still tells.
            let _ = usage.print();
            return Ok(if usage.exit_code() == 0 { Exit::Good } else { Exit::Failed });
        }
    };
    let called = args.first().cloned().unwrap_or_default();
    let done = match tool.command.first().map(|command| command.to_string_lossy()).as_deref() {
        Some("check") => {
            require(&tool, environment).and_then(|_| print("[INFO] Requirements are satisfied\n"))
        }
        Some("install") => install(&tool, environment, &called),
        Some("uninstall") => uninstall(environment, &called),
        Some("nsenter") => crate::cli::nsenter::run(environment, &tool.command[1..]).map(drop),
        command => {
            let what = format!("unknown command `{}`", command.unwrap_or_default());
            let hint = "`dockerd-rootless-setuptool.sh --help` shows the usage";
            Err(Error::new(Exit::Failed, what).hint(hint))
        }
    };
    let Err(error) = done else { return Ok(Exit::Good) };
    error.render().lines().for_each(|line| complain("ERROR", line.trim_start_matches("error: ")));
    Ok(Exit::Failed)
}

/// Refuses, and prints what to run, if something is missing for a daemon with this environment.
fn require(tool: &SetupTool, environment: &Environment) -> Result<InstallRequest, Error> {
    let mut request = InstallRequest::default();
    let mut findings = problems(environment, tool.skip_iptables, &mut request)?;
    findings.retain(|found| !tool.force || found.id != Id::RootfulDocker);
    if findings.is_empty() {
        return Ok(request);
    }
    for Found { id, summary, reasons, .. } in &findings {
        for sentence in std::iter::once(summary).chain(reasons) {
            complain("ERROR", &format!("{id}: {sentence}"));
        }
    }
    print(output::setup_instructions(&findings))?;
    let hint = "run the commands above and this tool again; --skip-iptables ignores `netfilter`, --force ignores `rootful-docker`";
    Err(Error::new(Exit::Failed, "missing system requirements").hint(hint))
}

fn install(tool: &SetupTool, environment: &Environment, called: &OsStr) -> Result<(), Error> {
    let facts = inspect(Home::find(environment, called)?);
    let request = require(tool, &of_service(&facts.home.environment))?;
    carry_out(&facts, &SetupPlan::install(&facts, &request)?)?;
    if facts.manager == Manager::Answers {
        let linger = setup::enable_linger(&facts);
        say(&format!(
            "Installed {SERVICE} successfully.\n\
            [INFO] To control {SERVICE}, run: `systemctl --user (start|stop|restart) {SERVICE}`\n\
            [INFO] To run {SERVICE} on system startup, run: `{linger}`\n"
        ));
    }
    let bin = facts.home.program.parent().unwrap_or(Path::new("/")).display();
    let host = setup::host(&facts);
    say(&format!(
        "Make sure the following environment variable(s) are set (or add them to ~/.bashrc):\n\
        export PATH={bin}:$PATH\n\n\
        [INFO] Some applications may require the following environment variable too:\n\
        export DOCKER_HOST={host}\n"
    ));
    Ok(())
}

fn uninstall(environment: &Environment, called: &OsStr) -> Result<(), Error> {
    let facts = inspect(Home::find(environment, called)?);
    carry_out(&facts, &SetupPlan::uninstall(&facts))?;
    say(&format!(
        "Uninstalled {SERVICE}\n\n\
        [INFO] Make sure to unset or update the environment PATH, DOCKER_HOST, and DOCKER_CONTEXT environment variables if you have added them to `~/.bashrc`.\n\
        [INFO] This uninstallation tool does NOT remove Docker binaries and data.\n\
        [INFO] To remove data, run: `dockerd-rootless uninstall --purge-data`"
    ));
    Ok(())
}

/// Performs the actions of `plan`, and prints each, and the notes.
fn carry_out(facts: &SetupFacts, plan: &SetupPlan) -> Result<(), Error> {
    for action in &plan.actions {
        perform(facts, action)?;
        say(&action.past());
    }
    plan.notes.iter().for_each(|note| complain("WARNING", note));
    Ok(())
}

/// Prints a line of upstream's. If standard output is closed, the exit code still tells.
fn say(line: &str) {
    let _ = print(format!("[INFO] {line}\n"));
}

/// Prints a line on standard error in upstream's style.
fn complain(level: &str, line: &str) {
    let _ = writeln!(io::stderr(), "[{level}] {line}");
}
