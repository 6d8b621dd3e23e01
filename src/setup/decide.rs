//! Decides what is done, as a list of actions. An empty list means that all is as it should be.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::iter;
use std::path::{Path, PathBuf};

use crate::error::{Error, Exit};
use crate::setup::actions::{Action, CONTEXT};
use crate::setup::facts::{Manager, Notes, SetupFacts, UnitFacts, UnitFile};
use crate::setup::units::{
    Author, SERVICE, SOCKET, identify, parameters, render_service, render_socket, unit_path,
};
use crate::sys::elevate;
use crate::words;

/// The client's own context, which always exists.
const DEFAULT_CONTEXT: &str = "default";

/// When a daemon on demand ends, unless a setting says so.
const IDLE_TIMEOUT: Action = Action::Set("supervise.idle-timeout", "300");

/// What `install` is asked for.
#[derive(Clone, Debug, Default)]
pub struct InstallRequest {
    /// Whether the daemon runs on demand only; `None` leaves it as it is.
    pub on_demand: Option<bool>,
    pub no_start: bool,
    /// Whether the docker client's settings are left alone.
    pub no_context: bool,
    pub enable_linger: bool,
    /// Arguments for dockerd.
    pub args: Vec<String>,
    /// Whether no setting says when an idle daemon ends.
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
    /// answers; with 1 if the unit is masked or cannot be written.
    pub fn install(facts: &SetupFacts, request: &InstallRequest) -> Result<Self, Error> {
        let mut plan = Self::default();
        let would_stop = facts.manager == Manager::Answers && facts.linger == Some(false);
        match facts.manager {
            Manager::Silent => return Err(no_manager(facts)),
            Manager::Absent => plan.note(format!(
                "This host has no systemd, so nothing starts Docker for you. To start it: {}",
                start_by_hand(facts, &request.args)
            )),
            Manager::Answers => {
                let linger = Action::EnableLinger(facts.home.user.clone());
                plan.act(would_stop && request.enable_linger, linger);
                plan.install_units(facts, request)?;
            }
        }
        if !request.no_context {
            plan.choose_context(facts);
        }
        if would_stop && !request.enable_linger {
            plan.note(format!(
                "Docker stops when you log out. To keep it running: {}",
                enable_linger_as_root(facts)
            ));
        }
        Ok(plan)
    }

    /// Updates the installed units. Ends with 1 if none is installed, with 4 if no user manager
    /// answers.
    pub fn upgrade(facts: &SetupFacts, restart: bool) -> Result<Self, Error> {
        let UnitFacts { own, packaged, active, .. } = &facts.service;
        let own = if let UnitFile::Text(text) = own { Some(text) } else { None };
        let Some(installed) = own.or(packaged.as_ref()) else {
            let what = format!("no {SERVICE} is installed in `{}`", facts.unit_dir.display());
            return Err(Error::new(Exit::Failed, what).hint("dockerd-rootless install"));
        };
        if facts.manager != Manager::Answers {
            return Err(no_manager(facts));
        }
        let kept = parameters(installed);
        let path = kept.path.map_or_else(|| facts.home.search_path.clone(), Into::into);
        let mut plan = Self::default();
        let wrote = plan.settle_units(facts, &path, &kept.args)?;
        if *active && (wrote || facts.daemon.outdated || restart) {
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
            plan.act(answers && !unit.links.is_empty(), Action::Unit("disable", name));
            let links = unit.links.iter().filter(|_| !answers).cloned();
            plan.actions.extend(links.map(Action::Remove));
        }
        for (name, unit) in units {
            plan.remove_unit(&facts.unit_dir.join(name), unit);
        }
        let removes = plan.actions.iter().any(|action| matches!(action, Action::Remove(_)));
        plan.act(answers && removes, Action::Reload);
        plan.leave_context(facts);
        let (path, notes) = &facts.notes;
        plan.act(*notes != Notes::default(), Action::Remove(path.clone()));
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
        // Another shell's PATH is no reason to change what works.
        let path = facts.kept_path.as_ref().unwrap_or(&facts.home.search_path);
        let wrote = self.settle_units(facts, path, &request.args)?;
        let (service, socket) = ((SERVICE, &facts.service), (SOCKET, &facts.socket));
        let on_demand = request.on_demand.unwrap_or(socket.1.enabled && !service.1.enabled);
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
        let is_other_way = service.active && socket.active != on_demand;
        if is_other_way && daemon.busy {
            self.keep_running(
                facts,
                &format!("stop {SERVICE} {SOCKET} && systemctl --user start {unit}"),
            );
        } else if is_other_way || (socket.active && !on_demand) {
            self.act(socket.active, Action::Unit("stop", SOCKET));
            self.act(service.active, Action::Unit("stop", SERVICE));
            self.act(true, Action::Unit("start", unit));
        } else if service.active {
            if wrote || daemon.outdated {
                self.restart(facts, false);
            }
        } else if !socket.active && daemon_runs(facts) {
            let pid = daemon.supervisor.map_or_else(String::new, |pid| format!(" (PID {pid})"));
            self.note(format!(
                "A daemon runs that no unit has started{pid}, so none is started. Once it has ended: systemctl --user start {unit}"
            ));
        } else {
            self.act(!socket.active, Action::Unit("start", unit));
        }
    }

    fn restart(&mut self, facts: &SetupFacts, although_busy: bool) {
        let daemon = &facts.daemon;
        if !daemon.busy || although_busy {
            self.act(true, Action::Unit("restart", SERVICE));
        } else if daemon.outdated && daemon.answers && daemon.keeps_containers {
            self.act(true, Action::Replace);
        } else {
            self.keep_running(facts, &format!("restart {SERVICE}"));
        }
    }

    fn keep_running(&mut self, facts: &SetupFacts, command: &str) {
        let why = if facts.daemon.answers {
            "Containers run"
        } else {
            "The daemon does not answer, and containers may run"
        };
        self.note(format!(
            "{why}, so the daemon keeps running as it was started. To change that, and stop them: systemctl --user {command}"
        ));
    }

    /// Brings both files to what they should be. Returns whether the service was written.
    fn settle_units(
        &mut self,
        facts: &SetupFacts,
        path: &OsStr,
        args: &[String],
    ) -> Result<bool, Error> {
        let is_packaged =
            |unit: &UnitFacts| unit.own == UnitFile::Absent && unit.packaged.is_some();
        if is_packaged(&facts.service) && is_packaged(&facts.socket) {
            return Ok(false);
        }
        let program = &facts.home.program;
        let (path, dropped) = unit_path(program, path);
        for directory in dropped {
            let directory = directory.display();
            self.note(format!("`{directory}` is left out of the unit's PATH: systemd refuses it"));
        }
        let text = render_service(program, &path, args, facts.has_dbus)?;
        let service = self.settle_unit(facts, SERVICE, &facts.service, text)?;
        let socket = self.settle_unit(facts, SOCKET, &facts.socket, render_socket())?;
        self.act(service || socket, Action::Reload);
        Ok(service)
    }

    fn settle_unit(
        &mut self,
        facts: &SetupFacts,
        name: &str,
        unit: &UnitFacts,
        text: String,
    ) -> Result<bool, Error> {
        let path = facts.unit_dir.join(name);
        if unit.own == UnitFile::Masked {
            let what = format!("{name} is masked: `{}` is a link to /dev/null", path.display());
            let hint = format!("systemctl --user unmask {name}");
            return Err(Error::new(Exit::Failed, what).hint(hint));
        }
        let new = UnitFile::Text(text.clone());
        let Some(why) = why_kept(&unit.own) else {
            let is_new = unit.own != new;
            self.act(is_new, Action::Write(path, text));
            return Ok(is_new);
        };
        let beside = beside(&path);
        self.keep(&path, &why);
        self.note(format!("To see what is new: diff {} {}", quoted(&path), quoted(&beside)));
        self.act(unit.beside != new, Action::Write(beside, text));
        Ok(false)
    }

    fn remove_unit(&mut self, path: &Path, unit: &UnitFacts) {
        match why_kept(&unit.own) {
            Some(why) => self.keep(path, &why),
            None => {
                let is_file = matches!(unit.own, UnitFile::Text(_));
                self.act(is_file, Action::Remove(path.to_owned()));
            }
        }
        if let UnitFile::Text(text) = &unit.beside {
            self.act(identify(text) == Author::Us, Action::Remove(beside(path)));
        }
    }

    fn keep(&mut self, path: &Path, why: &str) {
        self.keeps_edited = true;
        self.note(format!("`{}` {why}, and is kept", path.display()));
    }

    fn choose_context(&mut self, facts: &SetupFacts) {
        let client = &facts.client;
        let host = host(facts);
        if client.program.is_none() {
            return self.note(format!(
                "There is no docker client in PATH. Once there is one: docker context create {CONTEXT} --docker host={host} && docker context use {CONTEXT}"
            ));
        }
        if let Some(fault) = &client.config_fault {
            return self.note(format!(
                "The docker client's config.json is not valid ({fault}), so no context is chosen. Without a context: export DOCKER_HOST={host}"
            ));
        }
        match client.contexts.get(CONTEXT) {
            None => self.act(true, Action::CreateContext(host)),
            Some(old) => self.act(*old != host, Action::UpdateContext(host)),
        }
        let current = client.current_context.as_deref().unwrap_or(DEFAULT_CONTEXT);
        let switch = Action::UseContext(CONTEXT.to_owned(), Some(current.to_owned()));
        self.act(current != CONTEXT, switch);
    }

    fn leave_context(&mut self, facts: &SetupFacts) {
        let client = &facts.client;
        let Some(address) = client.contexts.get(CONTEXT) else {
            return;
        };
        if *address != host(facts) {
            return self
                .note(format!("The docker context `{CONTEXT}` is for {address}, and is kept"));
        }
        if client.program.is_none() {
            return self.note(format!(
                "There is no docker client in PATH, so the context `{CONTEXT}` is kept. Once there is one: docker context use {DEFAULT_CONTEXT} && docker context rm {CONTEXT}"
            ));
        }
        if client.current_context.as_deref() == Some(CONTEXT) {
            let previous = facts.notes.1.previous_context.as_deref();
            let previous = previous.filter(|name| client.contexts.contains_key(*name));
            let name = previous.unwrap_or(DEFAULT_CONTEXT).to_owned();
            self.act(true, Action::UseContext(name, None));
        }
        self.act(true, Action::RemoveContext);
    }
}

/// Returns why a file is not ours to change.
fn why_kept(file: &UnitFile) -> Option<String> {
    match file {
        UnitFile::Text(text) if identify(text) == Author::User => Some("was edited".to_owned()),
        UnitFile::Other(what) => Some(format!("is {what}")),
        _ => None,
    }
}

/// Returns where the new version of an edited unit is written: systemd reads no file of that name.
pub fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// Returns whether a daemon runs, by a unit or not.
fn daemon_runs(facts: &SetupFacts) -> bool {
    facts.daemon.answers || facts.daemon.supervisor.is_some()
}

/// Returns the daemon's address.
pub fn host(facts: &SetupFacts) -> String {
    format!("unix://{}", facts.home.runtime_dir.join("docker.sock").display())
}

/// Returns the line that starts the daemon without systemd. A shell need not have the program's directory in
/// its PATH yet, and the other programs may lie there, too.
pub fn start_by_hand(facts: &SetupFacts, args: &[String]) -> String {
    let program = &facts.home.program;
    let line: Vec<_> = iter::once(program.into()).chain(args.iter().map(Into::into)).collect();
    let directory = quoted(program.parent().unwrap_or(Path::new("/")));
    format!("PATH={directory}:\"$PATH\" {}", words::join(&line).to_string_lossy())
}

/// Returns root's command that keeps the user manager.
pub fn enable_linger(facts: &SetupFacts) -> String {
    format!("loginctl enable-linger {}", quoted(facts.home.user.as_ref()))
}

/// Returns the user's line for that command.
pub(super) fn enable_linger_as_root(facts: &SetupFacts) -> String {
    elevate::line(facts.has_sudo, &enable_linger(facts))
}

/// Returns the refusal of a user without a manager.
pub fn no_manager(facts: &SetupFacts) -> Error {
    let user = &facts.home.user;
    let what = format!("no user manager runs for `{user}`, so no unit can be installed");
    Error::new(Exit::Prerequisite, what).hint(enable_linger_as_root(facts))
}

pub(super) fn quoted(path: &Path) -> String {
    words::quote(path.as_os_str()).to_string_lossy().into_owned()
}
