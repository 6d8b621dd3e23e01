//! The name `dockerd-rootless-setuptool.sh`: upstream's setup tool, with its words, its exit codes
//! and its block of commands for root (moby's `contrib/dockerd-rootless-setuptool.sh`).

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::Parser;
use tracing::{error, warn};

use crate::check::Named;
use crate::cli::install::Obstacles;
use crate::cli::output;
use crate::cli::setup::carry_out;
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::Manager;
use crate::setup;
use crate::setup::{Action, CONTEXT, InstallRequest, SERVICE, SetupPlan, UninstallRequest};
use crate::setup::{at_home, look, show_service};

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
    /// check, install, uninstall, or nsenter with a command behind it
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
            return Ok(if asked_for_help { Exit::Good } else { Exit::Failed });
        }
    };
    let wrong = |what: String| {
        Err(Error::new(Exit::Failed, what)
            .hint("`dockerd-rootless-setuptool.sh --help` shows the usage"))
    };
    let called = words.first().cloned().unwrap_or_default();
    let done = match tool.command.first().and_then(|command| command.to_str()) {
        Some("check") => return tool_check(&tool, environment),
        Some("install") => install(&tool, environment, &called),
        Some("uninstall") => uninstall(environment, &called),
        Some("nsenter") => crate::cli::nsenter::run(environment, &tool.command[1..]),
        None if tool.command.is_empty() => wrong("no command is given".to_owned()),
        _ => wrong(format!("unknown command `{}`", tool.command[0].display())),
    };
    // Upstream's tool knows no other code.
    done.map_err(|error| error.ending_in(Exit::Failed))
}

/// `check`: satisfied, or what to run.
fn tool_check(tool: &SetupTool, environment: &Environment) -> Result<Exit, Error> {
    require(tool, &Obstacles::here(environment, tool.skip_iptables)?)?;
    output::print("[INFO] Requirements are satisfied\n")?;
    Ok(Exit::Good)
}

/// Refuses, with what is to be run, if something is missing.
fn require(tool: &SetupTool, obstacles: &Obstacles) -> Result<(), Error> {
    let findings: Vec<Named> = obstacles.counting(tool.force).cloned().collect();
    if findings.is_empty() {
        return Ok(());
    }
    for (name, finding) in &findings {
        error!("{name}: {}", finding.summary);
        for reason in &finding.reasons {
            error!("{name}: {reason}");
        }
    }
    output::print(output::setup_instructions(&findings))?;
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

/// `install`: as ours, in upstream's words.
fn install(tool: &SetupTool, environment: &Environment, called: &OsStr) -> Result<Exit, Error> {
    let environment = &at_home(environment);
    let facts = look(environment, called)?;
    let obstacles = Obstacles::find(environment, &facts, tool.skip_iptables)?;
    require(tool, &obstacles)?;
    let request = InstallRequest { words: obstacles.words(), ..InstallRequest::default() };
    let plan = SetupPlan::install(&facts, &request)?;
    let (units, contexts) = by_subject(&plan);
    let announce = |action: &Action| match action {
        Action::WriteUnit { path, .. } => say(&format!("Creating {}", path.display())),
        Action::Start(unit) => say(&format!("starting systemd service {unit}")),
        Action::CreateContext(_) => say(&format!("Creating CLI context \"{CONTEXT}\"")),
        _ => {}
    };
    carry_out(environment, &facts, &units, &announce)?;
    for note in &plan.notes {
        warn!("{note}");
    }
    if facts.manager == Manager::Answers {
        show_service(&facts);
        say(&format!("Installed {SERVICE} successfully."));
        say(&format!(
            "To control {SERVICE}, run: `systemctl --user (start|stop|restart) {SERVICE}`"
        ));
        say(&format!(
            "To run {SERVICE} on system startup, run: `sudo {}`\n",
            setup::enable_linger(&facts)
        ));
    } else {
        say(&format!(
            "systemd not detected, dockerd-rootless needs to be started manually:\n\n{}\n",
            setup::start_by_hand(&facts, &request.words)
        ));
    }
    if facts.client.contexts.contains_key(CONTEXT) {
        say(&format!("CLI context \"{CONTEXT}\" already exists"));
    }
    carry_out(environment, &facts, &contexts, &announce)?;
    if facts.client.program.is_some() {
        say(&format!("Using CLI context \"{CONTEXT}\"\n"));
    }
    let bin = facts.program.parent().unwrap_or(Path::new("/"));
    say(&format!(
        "Make sure the following environment variable(s) are set (or add them to ~/.bashrc):\nexport PATH={}:$PATH\n",
        bin.display()
    ));
    say(&format!(
        "Some applications may require the following environment variable too:\nexport DOCKER_HOST=unix://{}\n",
        facts.runtime_dir.join("docker.sock").display()
    ));
    Ok(Exit::Good)
}

/// `uninstall`: as ours, in upstream's words, and whatever is missing.
fn uninstall(environment: &Environment, called: &OsStr) -> Result<Exit, Error> {
    let environment = &at_home(environment);
    let facts = look(environment, called)?;
    let plan = SetupPlan::uninstall(&facts, UninstallRequest::default())?;
    let (units, contexts) = by_subject(&plan);
    carry_out(environment, &facts, &units, &|_| {})?;
    for note in &plan.notes {
        warn!("{note}");
    }
    match facts.manager {
        Manager::Answers => say(&format!("Uninstalled {SERVICE}")),
        _ => say("systemd not detected, dockerd-rootless needs to be stopped manually"),
    }
    carry_out(environment, &facts, &contexts, &|_| {})?;
    for action in &contexts.actions {
        match action {
            Action::RemoveContext => say(&format!("Deleted CLI context \"{CONTEXT}\"")),
            Action::UseContext(name) => {
                say(&format!("Configured CLI to use the \"{name}\" context."));
            }
            _ => {}
        }
    }
    say(
        "\n[INFO] Make sure to unset or update the environment PATH, DOCKER_HOST, and DOCKER_CONTEXT environment variables if you have added them to `~/.bashrc`.",
    );
    say("This uninstallation tool does NOT remove Docker binaries and data.");
    say("To remove data, run: `dockerd-rootless uninstall --purge-data`");
    Ok(Exit::Good)
}

/// The plan's two halves: what is about units, and what is about the docker client.
fn by_subject(plan: &SetupPlan) -> (SetupPlan, SetupPlan) {
    let (contexts, units) = plan.actions.iter().cloned().partition(Action::is_about_client);
    let half = |actions| SetupPlan { actions, notes: Vec::new() };
    (half(units), half(contexts))
}

/// A line of upstream's, which go to standard output. Where nobody listens, the exit code still
/// tells.
fn say(line: &str) {
    let _ = output::print(format!("[INFO] {line}\n"));
}
