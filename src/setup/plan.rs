//! Decides what is done, as a list of actions. An empty list means that all is as it should be.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::iter;
use std::path::{Path, PathBuf};

use crate::error::{Error, Exit};
use crate::facts::places;
use crate::setup::actions::{Action, CONTEXT};
use crate::setup::facts::{Manager, SetupFacts, UnitFacts, UnitFile};
use crate::setup::units::{
    Parameters, SERVICE, SOCKET, is_edited, parameters, render_service, render_socket, unit_path,
};
use crate::sys::elevate;
use crate::words::{self, quoted};

/// The client's own context, which always exists.
const DEFAULT_CONTEXT: &str = "default";

/// When a daemon on demand ends, unless a setting says so.
const IDLE_TIMEOUT: Action = Action::Set("supervise.idle-timeout", "300");

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
    /// Whether a unit stays that is not as we write it.
    pub keeps_edited: bool,
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
                start_by_hand(facts, &request.args)
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
        let kept = match &service.own {
            UnitFile::Text(text) => parameters(text),
            _ if service.packaged => Parameters::default(),
            _ => {
                let unit_dir = facts.home.unit_dir();
                let what = format!("no {SERVICE} is installed in `{}`", unit_dir.display());
                return Err(Error::new(Exit::Failed, what).hint("dockerd-rootless install"));
            }
        };
        if facts.manager != Manager::Answers {
            return Err(no_manager(facts));
        }
        let path = kept.path.map_or_else(|| facts.path.clone(), Into::into);
        let mut plan = Self::default();
        let wrote = plan.settle_units(facts, &path, &kept.args)?;
        if service.active && (wrote || facts.daemon.outdated || restart) {
            plan.restart(facts, restart);
        }
        Ok(plan)
    }

    /// Undoes an installation, whatever is missing on the host. Ends with 5 if the data are to go
    /// and a daemon uses them that no unit has started.
    pub fn uninstall(facts: &SetupFacts, purge_data: bool) -> Result<Self, Error> {
        let mut plan = Self::default();
        let answers = facts.manager == Manager::Answers;
        if daemon_runs(facts) && !(answers && facts.service.active) {
            let pid = facts.daemon.supervisor;
            let stop =
                pid.map_or("stop it where it was started".into(), |pid| format!("kill {pid}"));
            if purge_data {
                let what = "a daemon that no unit has started uses the data";
                return Err(Error::new(Exit::AlreadyRunning, what).hint(stop));
            }
            plan.note(format!("A daemon runs that no unit has started. To stop it: {stop}"));
        }
        // The socket first, since it would start the service again.
        let units = [(SOCKET, &facts.socket), (SERVICE, &facts.service)];
        for (name, unit) in units {
            plan.act(answers && unit.active, Action::Unit("stop", name));
        }
        for (name, unit) in units {
            if answers {
                plan.act(!unit.links.is_empty(), Action::Unit("disable", name));
            } else {
                plan.actions.extend(unit.links.iter().cloned().map(Action::Remove));
            }
        }
        for (name, unit) in units {
            plan.remove_unit(facts.home.unit_dir().join(name), unit);
        }
        let removes = plan.actions.iter().any(|action| matches!(action, Action::Remove(_)));
        plan.act(answers && removes, Action::Reload);
        plan.leave_context(facts);
        let (path, previous) = &facts.previous_context;
        plan.act(previous.is_some(), Action::Remove(path.clone()));
        plan.actions.extend(facts.answers.clone().filter(|_| purge_data).map(Action::Remove));
        Ok(plan)
    }

    fn act(&mut self, is_needed: bool, action: Action) {
        self.actions.extend(is_needed.then_some(action));
    }

    fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    fn install_units(&mut self, facts: &SetupFacts, request: &InstallRequest) -> Result<(), Error> {
        if facts.ends_at_logout && request.enable_linger {
            self.act(true, Action::EnableLinger(facts.home.user.clone()));
        } else if facts.ends_at_logout {
            let command = enable_linger_as_root(facts);
            self.note(format!("Docker stops when you log out. To keep it running: {command}"));
        }
        let wrote = self.settle_units(facts, &facts.path, &request.args)?;
        let (service, socket) = ((SERVICE, &facts.service), (SOCKET, &facts.socket));
        let is_on_demand = socket.1.enabled && !service.1.enabled;
        let on_demand = request.on_demand || (is_on_demand && !request.no_on_demand);
        let (wanted, unwanted) = if on_demand { (socket, service) } else { (service, socket) };
        self.act(on_demand && request.never_idle, IDLE_TIMEOUT);
        if !request.no_start {
            self.start(facts, on_demand, wrote);
        }
        // Behind the start: what does not start here need not be tried at each login.
        self.act(unwanted.1.enabled, Action::Unit("disable", unwanted.0));
        self.act(!wanted.1.enabled, Action::Unit("enable", wanted.0));
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
        } else if !service.active && !socket.active && daemon_runs(facts) {
            let pid = daemon.supervisor.map_or_else(String::new, |pid| format!(" (PID {pid})"));
            self.note(format!(
                "A daemon runs that no unit has started{pid}, so none is started. Once it has ended: systemctl --user start {unit}"
            ));
        } else if service.active || !socket.active || !on_demand {
            self.act(socket.active, Action::Unit("stop", SOCKET));
            self.act(service.active, Action::Unit("stop", SERVICE));
            self.act(true, Action::Unit("start", unit));
        }
    }

    fn restart(&mut self, facts: &SetupFacts, although_busy: bool) {
        let daemon = &facts.daemon;
        if !daemon.busy || although_busy {
            self.act(true, Action::Unit("restart", SERVICE));
        } else if daemon.outdated && daemon.answers && daemon.keeps_containers {
            self.act(true, Action::Replace);
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
        path: &OsStr,
        args: &[String],
    ) -> Result<bool, Error> {
        let SetupFacts { home, service, socket, .. } = facts;
        if [service, socket].iter().all(|unit| unit.packaged && unit.own == UnitFile::Absent) {
            return Ok(false);
        }
        let path = unit_path(&home.program, path);
        let text = render_service(&home.program, &path, args)?;
        let wrote = self.settle_unit(home.unit_dir().join(SERVICE), service, text);
        let wrote_socket = self.settle_unit(home.unit_dir().join(SOCKET), socket, render_socket());
        self.act(wrote || wrote_socket, Action::Reload);
        Ok(wrote)
    }

    fn settle_unit(&mut self, path: PathBuf, unit: &UnitFacts, text: String) -> bool {
        let is_new = !self.keeps(&path, &unit.own) && unit.own != UnitFile::Text(text.clone());
        self.act(is_new, Action::Write(path, text));
        is_new
    }

    fn remove_unit(&mut self, path: PathBuf, unit: &UnitFacts) {
        let goes = !self.keeps(&path, &unit.own) && unit.own != UnitFile::Absent;
        self.act(goes, Action::Remove(path));
    }

    /// Returns whether a file is not ours to change, and notes why.
    fn keeps(&mut self, path: &Path, file: &UnitFile) -> bool {
        let why = match file {
            UnitFile::Text(text) if is_edited(text) => "was edited".to_owned(),
            UnitFile::Other(what) => format!("is {what}"),
            _ => return false,
        };
        self.keeps_edited = true;
        self.note(format!("`{}` {why}, and is kept", path.display()));
        true
    }

    fn choose_context(&mut self, facts: &SetupFacts) {
        let client = &facts.client;
        let host = host(facts);
        let why = match (&client.program, &client.config_fault) {
            (None, _) => "there is no docker client in PATH".to_owned(),
            (_, Some(fault)) => format!("the docker client's config.json is not valid ({fault})"),
            _ => String::new(),
        };
        if !why.is_empty() {
            let instead = format!("To do without: export DOCKER_HOST={host}");
            return self.note(format!("No docker context is selected, since {why}. {instead}"));
        }
        match client.contexts.get(CONTEXT) {
            None => self.act(true, Action::PointContext("create", host)),
            Some(old) => self.act(*old != host, Action::PointContext("update", host)),
        }
        let current = client.current_context.as_deref().unwrap_or(DEFAULT_CONTEXT);
        let switch = Action::SelectContext(CONTEXT.to_owned(), Some(current.to_owned()));
        self.act(current != CONTEXT, switch);
    }

    fn leave_context(&mut self, facts: &SetupFacts) {
        let client = &facts.client;
        let Some(address) = client.contexts.get(CONTEXT).filter(|_| client.program.is_some())
        else {
            return;
        };
        if *address != host(facts) {
            let note = format!("The docker context `{CONTEXT}` is for {address}, and is kept");
            return self.note(note);
        }
        if client.current_context.as_deref() == Some(CONTEXT) {
            let previous = facts.previous_context.1.as_deref();
            let previous = previous.filter(|name| client.contexts.contains_key(*name));
            let name = previous.unwrap_or(DEFAULT_CONTEXT).to_owned();
            self.act(true, Action::SelectContext(name, None));
        }
        self.act(true, Action::RemoveContext);
    }
}

/// Returns whether a daemon runs, by a unit or not.
fn daemon_runs(facts: &SetupFacts) -> bool {
    facts.daemon.answers || facts.daemon.supervisor.is_some()
}

/// Returns the daemon's address.
pub fn host(facts: &SetupFacts) -> String {
    places::unix_url(&places::api_socket(&facts.home.runtime_dir)).display().to_string()
}

/// Returns the line that starts the daemon without systemd. A shell need not have the program's directory in
/// its PATH yet, and the other programs may lie there, too.
pub fn start_by_hand(facts: &SetupFacts, args: &[String]) -> String {
    let program = &facts.home.program;
    let line: Vec<_> = iter::once(program.into()).chain(args.iter().map(Into::into)).collect();
    let directory = quoted(program.parent().unwrap_or(Path::new("/")));
    format!("PATH={directory}:\"$PATH\" {}", words::join(&line).display())
}

/// Returns root's command that keeps the user manager.
pub fn enable_linger(facts: &SetupFacts) -> String {
    format!("loginctl enable-linger {}", quoted(facts.home.user.as_ref()))
}

/// Returns the user's line for that command.
pub fn enable_linger_as_root(facts: &SetupFacts) -> String {
    elevate::line(facts.has_sudo, &enable_linger(facts))
}

/// Returns the refusal of a user without a manager.
pub fn no_manager(facts: &SetupFacts) -> Error {
    let user = &facts.home.user;
    let what = format!("no user manager runs for `{user}`, so no unit can be installed");
    Error::new(Exit::Prerequisite, what).hint(enable_linger_as_root(facts))
}
