//! What is to be done, as a list. An empty list means that all is as it should be.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::{Error, Exit};
use crate::facts::{Manager, SetupFacts, UnitFacts, UnitFile};
use crate::setup::unit::{
    Author, Parameters, SERVICE, SOCKET, identify, kept_parameters, render_service, render_socket,
    unit_path,
};
use crate::words::quote;

/// The docker client's context for the rootless daemon, as upstream's setup tool calls it.
pub const CONTEXT: &str = "rootless";

/// The client's own context, which always exists.
const DEFAULT_CONTEXT: &str = "default";

/// After what time without use a daemon on demand ends, unless a setting says so.
const IDLE_TIMEOUT: (&str, &str) = ("supervise.idle-timeout", "300");

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Have the user manager stay without a session (loginctl(1)).
    EnableLinger,
    /// Write a unit's file.
    WriteUnit {
        /// Where.
        path: PathBuf,
        /// What.
        text: String,
    },
    /// Remove a unit's file, or a link that starts it with others.
    RemoveUnit(PathBuf),
    /// Have the user manager read its units anew.
    Reload,
    /// Have a unit start with others.
    Enable(&'static str),
    /// Have it not start with others.
    Disable(&'static str),
    /// Start a unit and wait until it is ready.
    Start(&'static str),
    /// Stop a unit.
    Stop(&'static str),
    /// Restart a unit and wait until it is ready.
    Restart(&'static str),
    /// Replace dockerd and the supervisor that run; containers go on running.
    Replace,
    /// Give a setting a value in the user's configuration file.
    Set(&'static str, &'static str),
    /// Note which context was chosen.
    KeepContext(String),
    /// Make the context for the daemon at this address.
    CreateContext(String),
    /// Give the context this address.
    UpdateContext(String),
    /// Choose a context.
    UseContext(String),
    /// Remove the context.
    RemoveContext,
    /// Remove what was noted.
    Forget,
    /// Remove the file with programs' answers, and its directory unless that holds more.
    RemoveAnswers(PathBuf),
    /// Remove the programs that `fetch` has brought.
    RemovePrograms,
    /// Delete the daemon's data.
    DeleteData {
        /// The data root.
        root: PathBuf,
        /// What goes in it.
        entries: Vec<PathBuf>,
    },
}

impl Action {
    /// Whether it is about the docker client and not about units.
    pub fn is_about_client(&self) -> bool {
        matches!(
            self,
            Self::KeepContext(_)
                | Self::CreateContext(_)
                | Self::UpdateContext(_)
                | Self::UseContext(_)
                | Self::RemoveContext
                | Self::Forget
        )
    }

    /// What it does, as the end of a sentence that begins with "to".
    pub fn explain(&self) -> String {
        match self {
            Self::EnableLinger => "let the user manager stay without a session".to_owned(),
            Self::WriteUnit { path, .. } => format!("write `{}`", path.display()),
            Self::RemoveUnit(path) | Self::RemoveAnswers(path) => {
                format!("remove `{}`", path.display())
            }
            Self::Reload => "let the user manager read its units anew".to_owned(),
            Self::Enable(unit) => format!("enable {unit}"),
            Self::Disable(unit) => format!("disable {unit}"),
            Self::Start(unit) => format!("start {unit}"),
            Self::Stop(unit) => format!("stop {unit}"),
            Self::Restart(unit) => format!("restart {unit}"),
            Self::Replace => {
                "replace dockerd and the supervisor, and leave containers alone".to_owned()
            }
            Self::Set(key, value) => format!("set {key} to {value} in your configuration file"),
            Self::KeepContext(name) => format!("note that the docker context was `{name}`"),
            Self::CreateContext(host) => {
                format!("create the docker context `{CONTEXT}` for {host}")
            }
            Self::UpdateContext(host) => format!("lead the docker context `{CONTEXT}` to {host}"),
            Self::UseContext(name) => format!("use the docker context `{name}`"),
            Self::RemoveContext => format!("remove the docker context `{CONTEXT}`"),
            Self::Forget => "remove what the installation has noted".to_owned(),
            Self::RemovePrograms => "remove the programs that `fetch` has brought".to_owned(),
            Self::DeleteData { root, .. } => format!("delete the data in `{}`", root.display()),
        }
    }
}

/// What `install` is asked for.
#[derive(Clone, Debug, Default)]
pub struct InstallRequest {
    /// Whether the daemon runs on demand only; `None` leaves it as it is.
    pub on_demand: Option<bool>,
    /// Whether nothing is to be started.
    pub no_start: bool,
    /// Whether the docker client's settings are left alone.
    pub no_context: bool,
    /// Whether the user manager is to stay without a session.
    pub enable_linger: bool,
    /// Words for dockerd.
    pub words: Vec<OsString>,
    /// Whether no setting says when an idle daemon ends.
    pub never_idle: bool,
}

/// What `upgrade` is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct UpgradeRequest {
    /// Whether the daemon is restarted although containers run.
    pub restart: bool,
}

/// What `uninstall` is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct UninstallRequest {
    /// Whether the daemon's data go too, which nobody may use then.
    pub purge_data: bool,
}

/// What is to be done, and what the user should know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetupPlan {
    /// In this order.
    pub actions: Vec<Action>,
    /// Sentences without a full stop.
    pub notes: Vec<String>,
}

impl SetupPlan {
    /// What installs the units and the context.
    ///
    /// # Errors
    /// Exit 4 if systemd runs the host and no user manager answers; exit 1 if the unit is masked or
    /// cannot be written.
    pub fn install(facts: &SetupFacts, request: &InstallRequest) -> Result<Self, Error> {
        let mut plan = Self::default();
        match facts.manager {
            Manager::Answers => {
                if request.enable_linger && facts.linger == Some(false) {
                    plan.actions.push(Action::EnableLinger);
                }
                plan.install_units(facts, request)?;
            }
            Manager::Silent if request.enable_linger => {
                plan.actions.push(Action::EnableLinger);
                plan.notes
                    .push("what else is to be done shows when the user manager answers".to_owned());
                return Ok(plan);
            }
            Manager::Silent => return Err(no_manager(facts)),
            Manager::Absent => {
                plan.notes.push(format!(
                    "this host has no systemd, so nothing starts the daemon for you; to start it: {}",
                    start_by_hand(facts, &request.words)
                ));
            }
        }
        if !request.no_context {
            plan.choose_context(facts);
        }
        if facts.manager == Manager::Answers
            && facts.linger == Some(false)
            && !request.enable_linger
        {
            plan.notes.push(format!(
                "the daemon stops when you log out; to keep it, and to have it start at boot: {}",
                as_root(facts, &enable_linger(facts))
            ));
        }
        Ok(plan)
    }

    /// What brings the units that are installed to the state of this program.
    ///
    /// # Errors
    /// Exit 1 if none is installed; exit 4 if no user manager answers.
    pub fn upgrade(facts: &SetupFacts, request: UpgradeRequest) -> Result<Self, Error> {
        let installed = match &facts.service.own {
            UnitFile::Text(text) => Some(text),
            _ => facts.service.packaged.as_ref().map(|(_, text)| text),
        };
        let Some(installed) = installed else {
            let what = format!("no {SERVICE} is installed in `{}`", facts.unit_dir.display());
            return Err(Error::new(Exit::Failed, what).hint("dockerd-rootless install"));
        };
        if facts.manager != Manager::Answers {
            return Err(no_manager(facts));
        }
        let (path, words) = kept_parameters(installed);
        let path = path.map_or_else(|| facts.search_path.clone(), OsString::from);
        let mut plan = Self::default();
        let wrote = plan.settle_units(facts, &path, words)?;
        if facts.service.active && (wrote || facts.daemon.outdated) {
            plan.restart(facts, request.restart);
        } else if request.restart && facts.service.active {
            plan.actions.push(Action::Restart(SERVICE));
        }
        Ok(plan)
    }

    /// What undoes an installation. Nothing that is missing on the host stops it.
    ///
    /// # Errors
    /// Exit 5 if the data are to go and a daemon uses them that no unit has started.
    pub fn uninstall(facts: &SetupFacts, request: UninstallRequest) -> Result<Self, Error> {
        let mut plan = Self::default();
        let answers = facts.manager == Manager::Answers;
        let runs = facts.daemon.supervisor.is_some() || facts.daemon.answers;
        if runs && !(answers && facts.service.active) {
            let what = "a daemon runs that no unit has started";
            let stop = facts.daemon.supervisor.map_or_else(
                || "end it where it was started".to_owned(),
                |pid| format!("kill {pid}"),
            );
            if request.purge_data {
                let what = format!("{what}, and it uses the data");
                return Err(Error::new(Exit::AlreadyRunning, what).hint(stop));
            }
            plan.notes.push(format!("{what}; to stop it: {stop}"));
        }
        let units = [(SOCKET, &facts.socket), (SERVICE, &facts.service)];
        // The socket first, which would start the service again.
        for (name, _) in units.iter().filter(|(_, unit)| answers && unit.active) {
            plan.actions.push(Action::Stop(name));
        }
        for (name, unit) in units {
            if answers && !unit.links.is_empty() {
                plan.actions.push(Action::Disable(name));
            } else {
                plan.actions.extend(unit.links.iter().cloned().map(Action::RemoveUnit));
            }
        }
        for (name, unit) in units {
            plan.remove_unit(facts, name, unit);
        }
        let removes = |action: &Action| matches!(action, Action::RemoveUnit(_));
        if answers && plan.actions.iter().any(removes) {
            plan.actions.push(Action::Reload);
        }
        plan.leave_context(facts);
        if facts.kept != Default::default() {
            plan.actions.push(Action::Forget);
        }
        if request.purge_data {
            plan.actions.extend(facts.answers.clone().map(Action::RemoveAnswers));
        }
        Ok(plan)
    }

    fn install_units(&mut self, facts: &SetupFacts, request: &InstallRequest) -> Result<(), Error> {
        // Another shell's PATH is no reason to change what works.
        let path = facts.kept_path.as_ref().unwrap_or(&facts.search_path);
        let wrote = self.settle_units(facts, path, request.words.clone())?;
        let (service, socket) = (&facts.service, &facts.socket);
        let on_demand = request.on_demand.unwrap_or(socket.enabled && !service.enabled);
        let (wanted, unwanted) = match on_demand {
            true => ((SOCKET, socket), (SERVICE, service)),
            false => ((SERVICE, service), (SOCKET, socket)),
        };
        if on_demand && request.never_idle {
            let (key, value) = IDLE_TIMEOUT;
            self.actions.push(Action::Set(key, value));
        }
        if !request.no_start {
            self.start(facts, on_demand, wrote);
        }
        // Behind the start: what does not start here need not be tried at each login.
        if unwanted.1.enabled {
            self.actions.push(Action::Disable(unwanted.0));
        }
        if !wanted.1.enabled {
            self.actions.push(Action::Enable(wanted.0));
        }
        Ok(())
    }

    /// Adds what makes the daemon run, or wait for its first client.
    fn start(&mut self, facts: &SetupFacts, on_demand: bool, wrote: bool) {
        let (service, socket) = (&facts.service, &facts.socket);
        let wanted = match on_demand {
            true => (SOCKET, socket),
            false => (SERVICE, service),
        };
        // Who listens at the socket's path is decided when the daemon starts.
        let is_other_way = service.active && socket.active != on_demand;
        match () {
            () if is_other_way && facts.daemon.busy => self.notes.push(format!(
                "{}, so the daemon goes on as it was started; to change that: systemctl --user stop {SERVICE} {SOCKET} && systemctl --user start {}",
                why_busy(facts),
                wanted.0
            )),
            () if is_other_way || (socket.active && !on_demand) => {
                for (name, _) in [(SOCKET, socket), (SERVICE, service)].iter().filter(|(_, unit)| unit.active) {
                    self.actions.push(Action::Stop(name));
                }
                self.actions.push(Action::Start(wanted.0));
            }
            () if service.active => {
                if wrote || facts.daemon.outdated {
                    self.restart(facts, false);
                }
            }
            () if wanted.1.active => {}
            () if facts.daemon.answers || facts.daemon.supervisor.is_some() => {
                let who = facts.daemon.supervisor.map_or_else(String::new, |pid| format!(" (PID {pid})"));
                self.notes.push(format!(
                    "a daemon runs that no unit has started{who}, so none is started; once it has ended: systemctl --user start {}",
                    wanted.0
                ));
            }
            () => self.actions.push(Action::Start(wanted.0)),
        }
    }

    fn restart(&mut self, facts: &SetupFacts, although_busy: bool) {
        let daemon = &facts.daemon;
        match daemon.busy && !although_busy {
            true if daemon.outdated && daemon.answers && daemon.keeps_containers => {
                self.actions.push(Action::Replace);
            }
            true => self.notes.push(format!(
                "{}, so the daemon goes on as it was started; to restart it with them: systemctl --user restart {SERVICE}",
                why_busy(facts)
            )),
            false => self.actions.push(Action::Restart(SERVICE)),
        }
    }

    /// Brings both files to what they should be. Returns whether one was written that counts.
    fn settle_units(
        &mut self,
        facts: &SetupFacts,
        path: &OsString,
        words: Vec<OsString>,
    ) -> Result<bool, Error> {
        let is_packaged =
            |unit: &UnitFacts| unit.own == UnitFile::Absent && unit.packaged.is_some();
        if is_packaged(&facts.service) && is_packaged(&facts.socket) {
            return Ok(false);
        }
        let (path, dropped) = unit_path(&facts.program, path);
        for directory in dropped {
            self.notes.push(format!(
                "the unit's PATH is without `{}`, which systemd does not take",
                directory.display()
            ));
        }
        let service = render_service(&Parameters {
            program: facts.program.clone(),
            words,
            path,
            has_dbus: facts.has_dbus,
        })?;
        let wrote = [
            self.settle_unit(facts, SERVICE, &facts.service, service)?,
            self.settle_unit(facts, SOCKET, &facts.socket, render_socket())?,
        ];
        if wrote.contains(&true) {
            self.actions.push(Action::Reload);
        }
        Ok(wrote[0])
    }

    fn settle_unit(
        &mut self,
        facts: &SetupFacts,
        name: &'static str,
        unit: &UnitFacts,
        text: String,
    ) -> Result<bool, Error> {
        let path = facts.unit_dir.join(name);
        let shown = path.display();
        match &unit.own {
            UnitFile::Masked => {
                let what = format!("{name} is masked: `{shown}` is a link to /dev/null");
                Err(Error::new(Exit::Failed, what).hint(format!("systemctl --user unmask {name}")))
            }
            UnitFile::Text(old) if *old == text => Ok(false),
            UnitFile::Text(old) if identify(old) == Author::Somebody => {
                let beside = beside(&path);
                self.notes.push(format!(
                    "`{shown}` is not as we write it, and stays; what we would write is beside it: diff {} {}",
                    quoted(&path),
                    quoted(&beside)
                ));
                if unit.beside != UnitFile::Text(text.clone()) {
                    self.actions.push(Action::WriteUnit { path: beside, text });
                }
                Ok(false)
            }
            UnitFile::Other(what) => {
                self.notes.push(format!("`{shown}` is {what}, and stays"));
                Ok(false)
            }
            UnitFile::Absent | UnitFile::Text(_) => {
                self.actions.push(Action::WriteUnit { path, text });
                Ok(true)
            }
        }
    }

    fn remove_unit(&mut self, facts: &SetupFacts, name: &str, unit: &UnitFacts) {
        let path = facts.unit_dir.join(name);
        match &unit.own {
            UnitFile::Text(text) if identify(text) == Author::Somebody => {
                self.notes.push(format!("`{}` is not as we write it, and stays", path.display()))
            }
            UnitFile::Text(_) => self.actions.push(Action::RemoveUnit(path.clone())),
            UnitFile::Other(what) => {
                self.notes.push(format!("`{}` is {what}, and stays", path.display()))
            }
            UnitFile::Absent | UnitFile::Masked => {}
        }
        if let UnitFile::Text(text) = &unit.beside
            && identify(text) == Author::Us
        {
            self.actions.push(Action::RemoveUnit(beside(&path)));
        }
    }

    fn choose_context(&mut self, facts: &SetupFacts) {
        let client = &facts.client;
        let host = host(facts);
        if client.program.is_none() {
            self.notes.push(format!(
                "there is no docker client in PATH; where there is one: docker context create {CONTEXT} --docker host={host} && docker context use {CONTEXT}"
            ));
            return;
        }
        if let Some(fault) = &client.config_fault {
            self.notes.push(format!(
                "the docker client's config.json is not understood ({fault}), so no context is chosen; with `export DOCKER_HOST={host}` it does without"
            ));
            return;
        }
        match client.contexts.get(CONTEXT) {
            None => self.actions.push(Action::CreateContext(host)),
            Some(old) if *old != host => self.actions.push(Action::UpdateContext(host)),
            Some(_) => {}
        }
        let current = client.current_context.as_deref().unwrap_or(DEFAULT_CONTEXT);
        if current != CONTEXT {
            if facts.kept.previous_context.as_deref() != Some(current) {
                self.actions.push(Action::KeepContext(current.to_owned()));
            }
            self.actions.push(Action::UseContext(CONTEXT.to_owned()));
        }
    }

    fn leave_context(&mut self, facts: &SetupFacts) {
        let client = &facts.client;
        let Some(address) = client.contexts.get(CONTEXT) else {
            return;
        };
        if *address != host(facts) {
            self.notes
                .push(format!("the docker context `{CONTEXT}` leads to {address}, and stays"));
            return;
        }
        if client.program.is_none() {
            self.notes.push(format!(
                "there is no docker client in PATH, so the context `{CONTEXT}` stays; where there is one: docker context use {DEFAULT_CONTEXT} && docker context rm {CONTEXT}"
            ));
            return;
        }
        if client.current_context.as_deref() == Some(CONTEXT) {
            let previous = facts.kept.previous_context.as_deref();
            let previous = previous.filter(|name| client.contexts.contains_key(*name));
            let next = previous.unwrap_or(DEFAULT_CONTEXT).to_owned();
            self.actions.push(Action::UseContext(next));
        }
        self.actions.push(Action::RemoveContext);
    }
}

/// Where a new version of an edited unit is laid: systemd reads no file of that name.
pub fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// Why a daemon counts as busy.
fn why_busy(facts: &SetupFacts) -> &'static str {
    match facts.daemon.answers {
        true => "containers run",
        false => "the daemon does not answer, and containers may run",
    }
}

/// The daemon's address.
fn host(facts: &SetupFacts) -> String {
    format!("unix://{}", facts.runtime_dir.join("docker.sock").display())
}

/// The line that starts the daemon without systemd.
pub fn start_by_hand(facts: &SetupFacts, words: &[OsString]) -> String {
    let (path, _) = unit_path(&facts.program, &facts.search_path);
    let mut line = vec![OsString::from(format!("PATH={path}")), facts.program.clone().into()];
    line.extend_from_slice(words);
    crate::words::join(&line).to_string_lossy().into_owned()
}

/// The command that has the user manager stay.
pub fn enable_linger(facts: &SetupFacts) -> String {
    format!("loginctl enable-linger {}", quoted(facts.user.as_ref()))
}

/// The line by which the user has root run `command`.
pub fn as_root(facts: &SetupFacts, command: &str) -> String {
    match facts.has_sudo {
        true => format!("sudo {command}"),
        false => format!("su root -c {}", quoted(command.as_ref())),
    }
}

fn no_manager(facts: &SetupFacts) -> Error {
    let what =
        format!("no user manager runs for `{}`, so that no unit can be installed", facts.user);
    Error::new(Exit::Prerequisite, what).hint(format!(
        "have root start it, once and for all: {}",
        as_root(facts, &enable_linger(facts))
    ))
}

fn quoted(path: &Path) -> String {
    quote(path.as_os_str()).to_string_lossy().into_owned()
}
