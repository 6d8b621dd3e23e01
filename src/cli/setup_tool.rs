//! The name `dockerd-rootless-setuptool.sh`: upstream's setup tool, with its arguments, its exit
//! codes and its block of commands for root (moby's `contrib/dockerd-rootless-setuptool.sh`).

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::Path;

use clap::Parser;

use crate::check::{Found, Id};
use crate::cli::install::Preflight;
use crate::cli::output;
use crate::cli::setup::perform;
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::setup;
use crate::setup::{Action, CONTEXT, Home, InstallRequest, Manager, SERVICE, SetupPlan, inspect};
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
            let asked_for_help = usage.exit_code() == 0;
            // If the output is closed, the exit code still tells.
            let _ = usage.print();
            return Ok(if asked_for_help { Exit::Good } else { Exit::Failed });
        }
    };
    let called = args.first().cloned().unwrap_or_default();
    let done = match tool.command.first().and_then(|command| command.to_str()) {
        Some("check") => check(&tool, environment),
        Some("install") => install(&tool, environment, &called),
        Some("uninstall") => uninstall(environment, &called),
        Some("nsenter") => crate::cli::nsenter::run(environment, &tool.command[1..]).map(drop),
        _ => {
            let command = tool.command.first();
            let what = command.map(|command| format!("unknown command `{}`", command.display()));
            let what = what.unwrap_or_else(|| "no command is given".to_owned());
            let hint = "`dockerd-rootless-setuptool.sh --help` shows the usage";
            Err(Error::new(Exit::Failed, what).hint(hint))
        }
    };
    let Err(error) = done else { return Ok(Exit::Good) };
    let rendered = error.render();
    rendered.lines().for_each(|line| complain("ERROR", line.trim_start_matches("error: ")));
    Ok(Exit::Failed)
}

fn check(tool: &SetupTool, environment: &Environment) -> Result<(), Error> {
    require(tool, &Preflight::here(environment, tool.skip_iptables)?)?;
    print("[INFO] Requirements are satisfied\n")
}

/// Refuses, and prints what to run, if something is missing.
fn require(tool: &SetupTool, preflight: &Preflight) -> Result<(), Error> {
    let rootful = preflight.rootful.iter().filter(|_| !tool.force);
    let findings: Vec<_> = preflight.failures.iter().chain(rootful).cloned().collect();
    if findings.is_empty() {
        return Ok(());
    }
    for Found { id, summary, reasons, .. } in &findings {
        for sentence in std::iter::once(summary).chain(reasons) {
            complain("ERROR", &format!("{id}: {sentence}"));
        }
    }
    print(output::setup_instructions(&findings))?;
    let counts = |id| findings.iter().any(|found| found.id == id);
    let ignore = if counts(Id::Netfilter) {
        "; --skip-iptables ignores `netfilter`"
    } else if counts(Id::RootfulDocker) {
        "; --force ignores `rootful-docker`"
    } else {
        ""
    };
    let hint = format!("run the commands above and this tool again{ignore}");
    Err(Error::new(Exit::Failed, "missing system requirements").hint(hint))
}

fn install(tool: &SetupTool, environment: &Environment, called: &OsStr) -> Result<(), Error> {
    let facts = inspect(Home::find(environment, called)?);
    let preflight = Preflight::of(&facts, tool.skip_iptables)?;
    require(tool, &preflight)?;
    let request = InstallRequest { args: preflight.args, ..InstallRequest::default() };
    let plan = SetupPlan::install(&facts, &request)?;
    let (units, contexts) = by_subject(&plan);
    for action in units {
        match action {
            Action::Write(path, _) => say(format_args!("Creating {}", path.display())),
            Action::Unit("start", unit) => say(format_args!("starting systemd service {unit}")),
            _ => {}
        }
        perform(&facts, action)?;
    }
    plan.notes.iter().for_each(|note| complain("WARNING", note));
    let bin = facts.home.program.parent().unwrap_or(Path::new("/")).display();
    let linger = setup::enable_linger(&facts);
    if facts.manager == Manager::Answers {
        setup::show_service(&facts);
        say(format_args!("Installed {SERVICE} successfully."));
        say(format_args!(
            "To control {SERVICE}, run: `systemctl --user (start|stop|restart) {SERVICE}`"
        ));
        say(format_args!("To run {SERVICE} on system startup, run: `sudo {linger}`\n"));
    } else {
        let line = setup::start_by_hand(&facts, &request.args);
        say(format_args!(
            "systemd not detected, dockerd-rootless needs to be started manually:\n\n{line}\n"
        ));
    }
    if facts.client.contexts.contains_key(CONTEXT) {
        say(format_args!("CLI context \"{CONTEXT}\" already exists"));
    }
    for action in contexts {
        if matches!(action, Action::PointContext("create", _)) {
            say(format_args!("Creating CLI context \"{CONTEXT}\""));
        }
        perform(&facts, action)?;
    }
    if facts.client.program.is_some() {
        say(format_args!("Using CLI context \"{CONTEXT}\"\n"));
    }
    let host = setup::host(&facts);
    say(format_args!(
        "Make sure the following environment variable(s) are set (or add them to ~/.bashrc):\nexport PATH={bin}:$PATH\n"
    ));
    say(format_args!(
        "Some applications may require the following environment variable too:\nexport DOCKER_HOST={host}\n"
    ));
    Ok(())
}

fn uninstall(environment: &Environment, called: &OsStr) -> Result<(), Error> {
    let facts = inspect(Home::find(environment, called)?);
    let plan = SetupPlan::uninstall(&facts, false)?;
    let (units, contexts) = by_subject(&plan);
    units.iter().try_for_each(|action| perform(&facts, action))?;
    plan.notes.iter().for_each(|note| complain("WARNING", note));
    if facts.manager == Manager::Answers {
        say(format_args!("Uninstalled {SERVICE}"));
    } else {
        say("systemd not detected, dockerd-rootless needs to be stopped manually");
    }
    for action in contexts {
        perform(&facts, action)?;
        match action {
            Action::RemoveContext => say(format_args!("Deleted CLI context \"{CONTEXT}\"")),
            Action::UseContext(name, _) => {
                say(format_args!("Configured CLI to use the \"{name}\" context."));
            }
            _ => {}
        }
    }
    say(
        "\n[INFO] Make sure to unset or update the environment PATH, DOCKER_HOST, and DOCKER_CONTEXT environment variables if you have added them to `~/.bashrc`.",
    );
    say("This uninstallation tool does NOT remove Docker binaries and data.");
    say("To remove data, run: `dockerd-rootless uninstall --purge-data`");
    Ok(())
}

/// Splits the actions: those on units, and from the first one on the docker client on.
fn by_subject(plan: &SetupPlan) -> (&[Action], &[Action]) {
    let first = plan.actions.iter().position(Action::is_about_client);
    plan.actions.split_at(first.unwrap_or(plan.actions.len()))
}

/// Prints a line of upstream's. If standard output is closed, the exit code still tells.
fn say(line: impl std::fmt::Display) {
    let _ = print(format!("[INFO] {line}\n"));
}

/// Prints a line on standard error in upstream's style.
fn complain(level: &str, line: &str) {
    let _ = writeln!(io::stderr(), "[{level}] {line}");
}
