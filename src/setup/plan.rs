//! Decides what is done, as a list of actions. An empty list means that all is as it should be.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::error::{Error, Exit};
use crate::facts::places;
use crate::setup::facts::{Manager, SetupFacts, UnitFacts};
use crate::setup::units::{SERVICE, SOCKET, is_edited, render_service, render_socket, unit_path};
use crate::sys::elevate;
use crate::words::quoted;

/// The docker client's context for the rootless daemon, as upstream's setup tool calls it.
const CONTEXT: &str = "rootless";

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Writes a text.
    Write(PathBuf, String),
    Remove(PathBuf),
    /// Runs this command line.
    Run(String),
    /// Replaces dockerd and the supervisor by this command line.
    Replace(String),
    /// Has systemctl(1) `start` or `restart` a unit, and waits for the daemon.
    Start(&'static str, &'static str),
    /// Deletes these entries of a data root.
    DeleteData(PathBuf, Vec<PathBuf>),
}

impl Action {
    /// Returns the verb, its past tense, and the kind and the name of what it acts on.
    fn parts(&self) -> (&'static str, &'static str, &'static str, String) {
        let path = |path: &PathBuf| path.display().to_string();
        match self {
            Self::Write(file, _) => ("write", "Wrote", "path", path(file)),
            Self::Remove(file) => ("remove", "Removed", "path", path(file)),
            Self::Run(line) => ("run", "Ran", "command", line.clone()),
            Self::Replace(_) => {
                let what = "dockerd; containers keep running".to_owned();
                ("replace", "Replaced", "programs", what)
            }
            Self::Start("start", unit) => ("start", "Started", "unit", (*unit).to_owned()),
            Self::Start(_, unit) => ("restart", "Restarted", "unit", (*unit).to_owned()),
            Self::DeleteData(root, _) => ("delete", "Deleted", "data", path(root)),
        }
    }

    /// Returns what it does, as in "would write FILE".
    pub fn imperative(&self) -> String {
        let (verb, _, _, name) = self.parts();
        format!("{verb} {name}")
    }

    /// Returns what it did, as in "Wrote FILE".
    pub fn past(&self) -> String {
        let (_, past, _, name) = self.parts();
        format!("{past} {name}")
    }

    /// Returns it for programs: the verb, and what it acts on.
    pub fn json(&self) -> Value {
        let (verb, _, kind, name) = self.parts();
        json!({"action": verb, kind: name})
    }
}

/// What `install` is asked for.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct InstallRequest {
    /// Start the daemon at the first connection, and stop it when it is idle
    #[arg(long, conflicts_with = "no_on_demand")]
    pub on_demand: bool,
    /// Undo --on-demand: keep the daemon running
    #[arg(long)]
    pub no_on_demand: bool,
    /// Start nothing
    #[arg(long)]
    pub no_start: bool,
    /// Leave the docker client's settings alone
    #[arg(long)]
    pub no_context: bool,
    /// Keep the daemon running when you log out, and start it at boot (loginctl enable-linger)
    #[arg(long)]
    pub enable_linger: bool,
    /// Arguments for dockerd.
    #[arg(skip)]
    pub args: Vec<String>,
    /// Whether no setting says when an idle daemon ends.
    #[arg(skip)]
    pub never_idle: bool,
}

/// What is done, and what the user should know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetupPlan {
    /// In this order.
    pub actions: Vec<Action>,
    /// Sentences without a full stop.
    pub notes: Vec<String>,
}

impl SetupPlan {
    /// Installs the units and the context. Ends with 4 if systemd runs the host and no user manager
    /// answers; with 1 if no unit can start this program.
    pub fn install(facts: &SetupFacts, request: &InstallRequest) -> Result<Self, Error> {
        let mut plan = Self::default();
        match facts.manager {
            Manager::Silent => return Err(no_manager(facts)),
            Manager::Absent => plan.note(format!(
                "This host has no systemd, so nothing starts Docker for you. To start it: {}",
                start_by_hand(&facts.home.program, &request.args)
            )),
            Manager::Answers => plan.install_units(facts, request)?,
        }
        if !request.no_context {
            plan.choose_context(facts);
        }
        Ok(plan)
    }

    /// Updates the installed units. Ends with 1 if none is installed, with 4 if no user manager
    /// answers.
    pub fn upgrade(facts: &SetupFacts, restart: bool) -> Result<Self, Error> {
        let service = &facts.service;
        if !service.packaged && service.own.is_none() {
            let what = format!("{SERVICE} is not installed");
            return Err(Error::new(Exit::Failed, what).hint("dockerd-rootless install"));
        }
        if facts.manager != Manager::Answers {
            return Err(no_manager(facts));
        }
        let mut plan = Self::default();
        let wrote = plan.settle_units(facts, true, &facts.kept().args)?;
        if service.active && (wrote || facts.daemon.outdated || restart) {
            plan.restart(facts, restart);
        }
        Ok(plan)
    }

    /// Undoes an installation, whatever is missing on the host.
    pub fn uninstall(facts: &SetupFacts) -> Self {
        let mut plan = Self::default();
        let answers = facts.manager == Manager::Answers;
        plan.notes.extend(stray_daemon(facts).map(stray_note));
        // The socket first, since it would start the service again.
        for (name, unit) in [(SOCKET, &facts.socket), (SERVICE, &facts.service)] {
            plan.systemctl(answers && unit.active, &format!("stop {name}"));
            plan.actions.extend(unit.links.iter().cloned().map(Action::Remove));
            let path = facts.home.unit_dir().join(name);
            let goes = unit.own.is_some() && !plan.keeps(&path, unit);
            plan.act(goes, Action::Remove(path));
        }
        let removes = plan.actions.iter().any(|action| matches!(action, Action::Remove(_)));
        plan.systemctl(answers && removes, "daemon-reload");
        plan.leave_context(facts);
        let (path, previous) = &facts.previous_context;
        plan.act(previous.is_some(), Action::Remove(path.clone()));
        plan
    }

    fn act(&mut self, is_needed: bool, action: Action) {
        self.actions.extend(is_needed.then_some(action));
    }

    fn run(&mut self, line: String) {
        self.actions.push(Action::Run(line));
    }

    fn systemctl(&mut self, is_needed: bool, args: &str) {
        self.act(is_needed, Action::Run(format!("systemctl --user {args}")));
    }

    fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    fn install_units(&mut self, facts: &SetupFacts, request: &InstallRequest) -> Result<(), Error> {
        if facts.ends_at_logout && request.enable_linger {
            let user = quoted(facts.home.user.as_ref());
            let line = format!("loginctl --no-ask-password enable-linger {user}");
            self.run(line);
        } else if facts.ends_at_logout {
            let command = enable_linger(facts);
            self.note(format!("Docker stops when you log out. To keep it running: {command}"));
        }
        // Another shell's PATH is no reason to change what works.
        let wrote = self.settle_units(facts, facts.service.active, &request.args)?;
        let [service, socket] = [&facts.service, &facts.socket].map(|unit| !unit.links.is_empty());
        let on_demand = request.on_demand || (socket && !service && !request.no_on_demand);
        if on_demand && request.never_idle {
            let program = quoted(&facts.home.program);
            let line = format!("{program} config set supervise.idle-timeout 300");
            self.run(line);
        }
        if !request.no_start {
            self.start(facts, on_demand, wrote);
        }
        // Behind the start: what does not start here need not be tried at each login.
        self.systemctl(on_demand && service, "disable docker.service");
        self.systemctl(!on_demand && socket, "disable docker.socket");
        self.systemctl(on_demand && !socket, "enable docker.socket");
        self.systemctl(!on_demand && !service, "enable docker.service");
        Ok(())
    }

    /// Makes the daemon run, or wait for its first client.
    fn start(&mut self, facts: &SetupFacts, on_demand: bool, wrote: bool) {
        let (service, socket, daemon) = (&facts.service, &facts.socket, &facts.daemon);
        let unit = if on_demand { SOCKET } else { SERVICE };
        // Whether systemd listens at the socket is decided when the daemon starts.
        if service.active && socket.active == on_demand {
            if wrote || daemon.outdated {
                self.restart(facts, false);
            }
        } else if service.active && daemon.busy {
            let command = format!("stop {SERVICE} {SOCKET} && systemctl --user start {unit}");
            self.keep_running(&command);
        } else if let (false, Some(stop)) = (socket.active, stray_daemon(facts)) {
            self.note(stray_note(stop));
        } else if service.active || !socket.active || !on_demand {
            self.systemctl(socket.active, "stop docker.socket");
            self.systemctl(service.active, "stop docker.service");
            self.act(true, Action::Start("start", unit));
        }
    }

    fn restart(&mut self, facts: &SetupFacts, although_busy: bool) {
        let daemon = &facts.daemon;
        if !daemon.busy || although_busy {
            self.act(true, Action::Start("restart", SERVICE));
        } else if daemon.outdated && daemon.answers && daemon.keeps_containers {
            let line = format!("{} restart", quoted(&facts.home.program));
            self.act(true, Action::Replace(line));
        } else {
            self.keep_running(&format!("restart {SERVICE}"));
        }
    }

    fn keep_running(&mut self, command: &str) {
        self.note(format!(
            "Containers run, or may: the daemon keeps running as it was started. To change that, and stop them: systemctl --user {command}"
        ));
    }

    /// Brings both files to what they should be. Returns whether the service was written.
    fn settle_units(
        &mut self,
        facts: &SetupFacts,
        keeps_path: bool,
        args: &[String],
    ) -> Result<bool, Error> {
        let SetupFacts { home, service, socket, .. } = facts;
        if [service, socket].iter().all(|unit| unit.packaged && unit.own.is_none()) {
            return Ok(false);
        }
        let kept = facts.kept().path.filter(|_| keeps_path).map(OsString::from);
        let path = unit_path(&home.program, kept.as_ref().unwrap_or(&home.search_path));
        let text = render_service(&home.program, &path, args)?;
        let wrote = self.settle_unit(home.unit_dir().join(SERVICE), service, text);
        let wrote_socket = self.settle_unit(home.unit_dir().join(SOCKET), socket, render_socket());
        self.systemctl(wrote || wrote_socket, "daemon-reload");
        Ok(wrote)
    }

    fn settle_unit(&mut self, path: PathBuf, unit: &UnitFacts, text: String) -> bool {
        let is_new = !self.keeps(&path, unit) && unit.own.as_ref() != Some(&text);
        self.act(is_new, Action::Write(path, text));
        is_new
    }

    /// Returns whether a file is not ours to change, and says so.
    fn keeps(&mut self, path: &Path, unit: &UnitFacts) -> bool {
        let is_kept = unit.own.as_deref().is_some_and(is_edited);
        if is_kept {
            self.note(format!("`{}` was edited or is a link, and is kept", path.display()));
        }
        is_kept
    }

    fn choose_context(&mut self, facts: &SetupFacts) {
        let client = &facts.client;
        let host = host(facts);
        let fault = match (&client.program, &client.config_fault) {
            (None, _) => Some("there is no docker client in PATH".to_owned()),
            (_, fault) => fault.as_ref().map(|fault| format!("config.json is not valid ({fault})")),
        };
        if let Some(fault) = fault {
            let instead = format!("To do without: export DOCKER_HOST={host}");
            return self.note(format!("No docker context is selected: {fault}. {instead}"));
        }
        let name = own_context(facts).map_or_else(|| client.free_context(), str::to_owned);
        if !client.contexts.contains_key(&name) {
            if let Some(address) = client.contexts.get(CONTEXT) {
                self.note(format!("{}; this daemon's is `{name}`", kept_context(address)));
            }
            let docker = quoted(format!("host={host}").as_ref());
            self.run(format!("docker context create {name} --docker {docker}"));
        }
        let current = client.current_context.as_deref().unwrap_or("default");
        if current != name {
            let (file, _) = &facts.previous_context;
            self.act(true, Action::Write(file.clone(), current.to_owned()));
            self.run(format!("docker context use {name}"));
        }
    }

    fn leave_context(&mut self, facts: &SetupFacts) {
        let client = &facts.client;
        if client.program.is_none() {
            return;
        }
        let Some(ours) = own_context(facts) else {
            let kept = client.contexts.get(CONTEXT).map(|address| kept_context(address));
            return self.notes.extend(kept);
        };
        if client.current_context.as_deref() == Some(ours) {
            let previous = facts.previous_context.1.as_deref();
            let previous = previous.filter(|name| client.contexts.contains_key(*name));
            let name = quoted(previous.unwrap_or("default").as_ref());
            self.run(format!("docker context use {name}"));
        }
        self.run(format!("docker context rm -f {ours}"));
    }
}

/// Returns the docker client's context that an installation has made.
fn own_context(facts: &SetupFacts) -> Option<&str> {
    let host = host(facts);
    let is_own = |name: &str| {
        name.strip_prefix(CONTEXT).is_some_and(|rest| {
            rest.is_empty()
                || rest.strip_prefix('-').is_some_and(|number| number.parse::<u32>().is_ok())
        })
    };
    let mut contexts = facts.client.contexts.iter();
    contexts.find(|(name, to)| **to == host && is_own(name)).map(|(name, _)| name.as_str())
}

fn kept_context(address: &str) -> String {
    format!("The docker context `{CONTEXT}` is for {address}, and is kept")
}

/// Returns how to stop a daemon that no unit has started, if one runs.
pub fn stray_daemon(facts: &SetupFacts) -> Option<String> {
    let daemon = &facts.daemon;
    let is_units = facts.manager == Manager::Answers && facts.service.active;
    let runs = (daemon.answers || daemon.supervisor.is_some()) && !is_units;
    let stop = daemon.supervisor.map(|pid| format!("kill {pid}"));
    runs.then(|| stop.unwrap_or_else(|| "stop it where it was started".to_owned()))
}

fn stray_note(stop: String) -> String {
    format!("A daemon runs that no unit has started. To stop it: {stop}")
}

/// Returns the daemon's address.
pub fn host(facts: &SetupFacts) -> String {
    places::unix_url(&places::api_socket(&facts.home.runtime_dir)).display().to_string()
}

/// Returns the line that starts the daemon without systemd. A shell need not have the program's
/// directory in its PATH yet, and the other programs may lie there, too.
fn start_by_hand(program: &Path, args: &[String]) -> String {
    let directory = quoted(program.parent().unwrap_or(Path::new("/")));
    let line = format!("PATH={directory}:\"$PATH\" {} {}", quoted(program), args.join(" "));
    line.trim_end().to_owned()
}

/// Returns the user's line that keeps the user manager, as root.
pub fn enable_linger(facts: &SetupFacts) -> String {
    let user = quoted(facts.home.user.as_ref());
    elevate::line(facts.has_sudo, &format!("loginctl enable-linger {user}"))
}

/// Returns the refusal of a user without a manager.
pub fn no_manager(facts: &SetupFacts) -> Error {
    let user = &facts.home.user;
    let what = format!("no user manager runs for `{user}`, so no unit can be installed");
    Error::new(Exit::Prerequisite, what).hint(enable_linger(facts))
}
