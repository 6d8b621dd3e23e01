//! dockerd and containerd in namespaces that stay: how they start, end, and start again.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::statvfs::statvfs;
use sd_notify::NotifyState;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::error::{Error, Exit};
use crate::plan::effective_config;
use crate::stage::orders;
use crate::stage::orders::Order;
use crate::supervise::ports::is_stated;
use crate::supervise::{
    ASK_AGAIN, Daemon, Health, Inbox, Input, STOP_MARGIN, Silence, Supervisor, UNLIMITED, dice,
    health, news, remains, wait_on,
};
use crate::supervise::{Ask, Death, Event, How, Limit, State, Then};
use crate::sys::tree;
use crate::sys::{files, process};

/// The largest `daemon.json` in bytes that is read.
const DAEMON_JSON_MAX: u64 = 1024 * 1024;

/// How often dockerd is asked what a new containerd does not know, a second later each time.
const FORGOTTEN_ROUNDS: u32 = 4;

/// How long a shim gets to see that its container has ended.
const SHIM: Duration = Duration::from_millis(300);

/// How many bytes dockerd needs in its data root to note what becomes of its containers.
const ROOM: u64 = 1024 * 1024;

/// How long the keeper may take to take an order.
const TAKES: Duration = Duration::from_secs(2);

/// How long dockerd may take to stop what containerd has forgotten before that is killed: dockerd's
/// own default for a container.
const ORPHANS: Duration = Duration::from_secs(10);

impl Supervisor<'_> {
    /// Has what the keeper reports arrive, and keeps our end of the connection.
    pub(super) fn speak_with_keeper(&mut self, ours: UnixStream) -> io::Result<()> {
        ours.set_nonblocking(true)?;
        let reading = wait_on(ours.try_clone()?.into())?;
        let (number, inputs) = (self.number, self.inputs.clone());
        self.launch.tasks.spawn(async move {
            let mut inbox = Inbox::default();
            while let Ok(mut guard) = reading.readable().await {
                let filled = guard.try_io(|fd| {
                    let mut bytes = [0; 4096];
                    let count = nix::unistd::read(fd.get_ref(), &mut bytes)?;
                    inbox.fill(&bytes[..count])
                });
                match filled {
                    Ok(Ok(true)) => {}
                    Ok(_) => return,
                    Err(_) => continue,
                }
                while let Some(report) = inbox.report() {
                    if inputs.send(Input::Report(number, report)).is_err() {
                        return;
                    }
                }
            }
        });
        self.launch.control = Some(ours);
        Ok(())
    }

    /// Gives the keeper an order. One that is gone takes its namespaces with it, which is seen.
    fn order(&self, order: &Order) {
        let Some(control) = &self.launch.control else {
            return;
        };
        let sent = orders::order(order).and_then(|bytes| send(control, &bytes));
        if let Err(error) = sent {
            warn!("the keeper takes no order: {error}");
        }
    }

    pub(super) fn start_engine(&self) {
        if let Some(engine) = &self.daemon.keep.engine {
            self.order(&Order::Engine(engine.clone()));
        }
    }

    pub(super) fn order_daemon(&self) {
        self.order(&Order::Daemon {
            pid_file: self.task.first.1.session.places.pid_file.clone(),
            command: self.daemon.command.clone(),
        });
    }

    /// Ends the namespaces, in which nothing runs any more that anybody needs.
    pub(super) fn end_namespaces(&mut self) {
        if self.launch.rootlesskit.is_some() {
            self.order(&Order::End);
        }
    }

    /// Starts dockerd again. What rootlesskit forwarded for the last one goes first: the next one
    /// could not have the ports.
    pub(super) fn revive(&mut self) {
        self.turn += 1;
        self.launch.silence = None;
        self.launch.overdue = None;
        self.launch.phase = "dockerd has not started again";
        // Whoever wants everything to stop needs a dockerd for that, as well as it can.
        if self.machine.owes_stop.is_none()
            && let Some(why) = self.no_room()
        {
            return self.wait_for_room(why);
        }
        if let Err(error) = self.renew_daemon() {
            warn!("dockerd starts with what it was last told: {error}");
        }
        self.note_program(news::DOCKERD);
        let (turn, inputs) = (self.turn, self.inputs.clone());
        let socket = self.rootlesskit_api();
        let stated = self.task.first.0.network.published.clone();
        let foreign = self.launch.ports.foreign();
        self.launch.tasks.spawn(async move {
            for port in health::forwarded(&socket).await.unwrap_or_default() {
                let is_dockerds = !foreign.contains(&port.id) && !is_stated(&stated, &port.spec);
                if is_dockerds && let Err(error) = health::forget_port(&socket, port.id).await {
                    debug!("rootlesskit keeps port {}: {error}", port.spec.parent_port);
                }
            }
            let _ = inputs.send(Input::PortsCleared(turn));
        });
    }

    /// Why dockerd would not find room for what it notes of its containers. It would forget them.
    fn no_room(&self) -> Option<String> {
        let data_root = &self.task.first.1.session.places.data_root;
        let found = statvfs(data_root).ok()?;
        let bytes = found.blocks_available() * found.fragment_size();
        let has_inodes = found.files() == 0 || found.files_available() > 0;
        (bytes < ROOM || !has_inodes).then(|| {
            format!(
                "there is no room in `{}`: dockerd waits for some, and containers go on",
                data_root.display()
            )
        })
    }

    /// Lets the machine try again later.
    fn wait_for_room(&mut self, why: String) {
        self.death = why;
        self.note_failure(self.death.clone());
        self.raise(Event::DaemonEnded(Death {
            how: How::Code(1),
            permanent: None,
            left: true,
            dice: dice(),
        }));
    }

    /// Plans dockerd anew, as its settings and its program are now.
    ///
    /// # Errors
    /// Why that cannot be; what it was last told holds.
    fn renew_daemon(&mut self) -> Result<(), Error> {
        self.remake_places()?;
        let (plan, host) = (self.task.in_place)(self.task.first.0.network.mtu)?;
        for warning in &plan.warnings {
            warn!("{}", warning.0);
        }
        let json = &host.session.daemon_json;
        if !json.is_read() {
            let what = format!("`{}` cannot be read", host.session.places.daemon_json.display());
            return Err(Error::new(Exit::Config, what));
        }
        let live_restore = plan.keep.live_restore;
        let before = std::mem::replace(
            &mut self.daemon,
            Daemon { command: plan.command, keep: plan.keep, live_restore },
        );
        if let Err(error) = self.write_config(live_restore) {
            self.daemon = before;
            return Err(error);
        }
        // containerd outlives dockerd, and only everything together changes it.
        if self.daemon.keep.engine.is_some() != before.keep.engine.is_some() {
            let engine = before.keep.engine.clone();
            self.daemon = before;
            self.daemon.keep.engine = engine;
            let what = "whose containerd is used has changed: `dockerd-rootless restart --all`";
            return Err(Error::new(Exit::Config, what));
        }
        self.daemon.keep.engine = before.keep.engine;
        Ok(())
    }

    /// Writes our configuration file for dockerd, from what the user's says now.
    ///
    /// # Errors
    /// What is wrong with the user's, or what the system says.
    pub(super) fn write_config(&self, live_restore: bool) -> Result<(), Error> {
        let Some(path) = &self.daemon.keep.config else {
            return Ok(());
        };
        let source = &self.task.first.1.session.places.daemon_json;
        let failed = |path: &Path, error: &dyn std::error::Error| {
            let what = format!("`{}` cannot be used for dockerd", path.display());
            Error::new(Exit::Config, what).because(error)
        };
        let text = match files::read_regular(source, DAEMON_JSON_MAX) {
            Ok(Some(bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
            Ok(None) => return Err(failed(source, &io::Error::other("it is too large"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed(source, &error)),
        };
        let text = effective_config(&text, live_restore).map_err(|error| failed(source, &error))?;
        // Somebody may have removed our directory, which nobody else looks into.
        if let Some(directory) = path.parent() {
            let _ = DirBuilder::new().mode(0o700).create(directory);
        }
        files::write_whole(path, text.as_bytes()).map_err(|error| failed(path, &error))
    }

    pub(super) fn ask(&mut self, ask: Ask) {
        match ask {
            Ask::Yield => self.yield_place(),
            Ask::End => self.prepare_end(),
            Ask::Reload => self.reload(),
            Ask::Dump => self.signal_daemon(Signal::SIGUSR1),
        }
    }

    fn signal_daemon(&self, signal: Signal) {
        if let Some((identity, fd)) = &self.launch.daemon
            && let Err(error) = tree::signal(fd, signal)
        {
            debug!("{signal} to {}: {error}", identity.pid);
        }
    }

    pub(super) fn kill_daemon(&mut self) {
        self.stop_asking();
        self.signal_daemon(Signal::SIGKILL);
    }

    /// Has dockerd read its configuration anew. A file that it could not read is not passed on: it
    /// would keep its old one, and so do we.
    fn reload(&mut self) {
        let planned = (self.task.in_place)(self.task.first.0.network.mtu);
        if let Ok((plan, _)) = planned {
            self.daemon.live_restore = plan.keep.live_restore && self.daemon.keep.config.is_some();
        }
        match self.write_config(self.daemon.live_restore) {
            Ok(()) => self.signal_daemon(Signal::SIGHUP),
            Err(error) => warn!("dockerd keeps its configuration: {}", error.render().trim()),
        }
    }

    /// Has dockerd end. What it leaves alone stays; who traces or has stopped it must not keep it.
    fn yield_place(&mut self) {
        if !self.daemon.live_restore {
            return self.prepare_end();
        }
        self.stop_asking();
        self.signal_daemon(Signal::SIGTERM);
        self.signal_daemon(Signal::SIGCONT);
        if let Some((identity, _)) = self.launch.daemon {
            self.watch_silence(identity);
        }
    }

    /// Asks which containers there are to end, and how long they may take.
    fn prepare_end(&mut self) {
        if let State::Stopping(Then::Leave(_)) = self.machine.state {
            news::tell(&[NotifyState::Stopping]);
        }
        self.stop_asking();
        self.deadline = None;
        if !self.launch.has_answered {
            // It has no containers yet, and rootlesskit might wait for ever for what it has started.
            tree::signal_all(&tree::descendants(), Signal::SIGKILL);
            return self.end_now(self.task.shutdown);
        }
        let Some(api) = self.api_path() else {
            return self.keep_no_container(None);
        };
        let (turn, inputs) = (self.turn, self.inputs.clone());
        self.launch.tasks.spawn(async move {
            let _ = inputs.send(Input::StopAsked(turn, health::stop_timeouts(&api).await));
        });
    }

    /// Has dockerd not leave its containers alone any more, if there are any. `times` are theirs, if
    /// they are known.
    pub(super) fn keep_no_container(&mut self, times: Option<health::StopTimes>) {
        // dockerd allows five seconds more than a container.
        let longest = match &times {
            None | Some(health::StopTimes::Unlimited) => UNLIMITED,
            Some(health::StopTimes::None) => self.task.shutdown,
            Some(health::StopTimes::Longest(time)) => {
                self.task.shutdown.max(*time + Duration::from_secs(5))
            }
        };
        let limit = longest.min(UNLIMITED) + STOP_MARGIN;
        if !self.daemon.live_restore || times == Some(health::StopTimes::None) {
            return self.end_now(limit);
        }
        if let Err(error) = self.turn_live_restore_off() {
            warn!("{}", error.render().trim());
        }
        self.signal_daemon(Signal::SIGCONT);
        self.signal_daemon(Signal::SIGHUP);
        let api = self.api_path();
        let (turn, inputs) = (self.turn, self.inputs.clone());
        self.launch.tasks.spawn(async move {
            let is_off = match &api {
                Some(api) => health::live_restore_is_off(api).await,
                None => false,
            };
            if !is_off {
                warn!("dockerd has not said that it will stop its containers");
            }
            let _ = inputs.send(Input::StopReady(turn, limit));
        });
    }

    /// Writes that containers end with dockerd, whatever has become of the user's own file.
    fn turn_live_restore_off(&self) -> Result<(), Error> {
        self.write_config(false).or_else(|error| {
            let Some(path) = &self.daemon.keep.config else {
                return Ok(());
            };
            let ours = fs::read_to_string(path).map_err(|_| error)?;
            let failed = |error: &dyn std::error::Error| {
                let what = format!("`{}` cannot be written", path.display());
                Error::new(Exit::Failed, what).because(error)
            };
            let text = effective_config(&ours, false).map_err(|error| failed(&error))?;
            files::write_whole(path, text.as_bytes()).map_err(|error| failed(&error))
        })
    }

    /// Has dockerd end with its containers, which may take `limit`.
    pub(super) fn end_now(&mut self, limit: Duration) {
        news::extend(limit);
        let kind = match self.machine.state {
            State::Stopping(_) => Limit::Stop,
            _ => Limit::Yield,
        };
        self.deadline = Some((Instant::now() + limit, kind));
        self.signal_daemon(Signal::SIGTERM);
        self.signal_daemon(Signal::SIGCONT);
    }

    /// containerd takes connections again: whoever it does not know any more is found.
    pub(super) fn engine_is_up(&mut self) {
        self.problems.remove("containerd");
        if self.launch.has_answered {
            info!("containerd is there again");
            self.look_for_forgotten();
        }
        if let (State::Ready, Some((identity, _))) = (self.machine.state, &self.launch.daemon) {
            self.look_after(*identity);
        }
        self.write_status();
    }

    /// Asks dockerd which of its containers containerd does not know any more.
    fn look_for_forgotten(&mut self) {
        let Some(api) = self.api_path() else {
            return self.later(ASK_AGAIN, Input::Orphans(self.number, Vec::new()));
        };
        let (number, inputs) = (self.number, self.inputs.clone());
        self.launch.tasks.spawn(async move {
            // dockerd may not be through to the new containerd yet.
            for round in 1..=FORGOTTEN_ROUNDS {
                crate::supervise::quiet::sleep(ASK_AGAIN * round).await;
                let forgotten = health::forgotten(&api).await.unwrap_or_else(|error| {
                    debug!("dockerd does not say what containerd has forgotten: {error}");
                    Vec::new()
                });
                let is_found = !forgotten.is_empty();
                if inputs.send(Input::Orphans(number, forgotten)).is_err() || is_found {
                    return;
                }
            }
        });
    }

    /// Ends containers whose shim is gone, and those that are `forgotten`. Nobody can reach them any
    /// more: containerd does not know them, and dockerd will say that they have ended.
    pub(super) fn end_orphans(&mut self, forgotten: &[health::Forgotten]) {
        let Some(keeper) = self.launch.keeper else {
            return;
        };
        let data_root = &self.task.first.1.session.places.data_root;
        let pids: Vec<u32> = forgotten.iter().map(|container| container.pid).collect();
        let orphans = remains::orphans(keeper.pid, data_root, &pids);
        if orphans.is_empty() {
            return;
        }
        for orphan in &orphans {
            let (pid, name) = (orphan.identity.pid, &orphan.name);
            warn!(
                "containerd has forgotten the container of process {pid} ({name}), which is ended"
            );
        }
        tree::signal_all(&orphans, Signal::SIGTERM);
        let exec_root = &self.task.first.0.exec_root;
        let can_end = |orphan: &&tree::Process| remains::can_end_in_order(orphan, exec_root);
        let (waits, rest): (Vec<_>, Vec<_>) = orphans.iter().partition(can_end);
        let rest: Vec<tree::Process> = rest.into_iter().cloned().collect();
        let waits: Vec<tree::Process> = waits.into_iter().cloned().collect();
        tree::signal_all(&rest, Signal::SIGKILL);
        let (number, inputs) = (self.number, self.inputs.clone());
        let ids: Vec<String> = forgotten.iter().map(|one| one.id.clone()).collect();
        self.launch.tasks.spawn(async move {
            let all = async {
                for process in &waits {
                    if let Ok(fd) = tree::open(process.identity).and_then(wait_on) {
                        let _ = fd.readable().await;
                    }
                }
            };
            let _ = tokio::time::timeout(ORPHANS, all).await;
            tree::signal_all(&waits, Signal::SIGKILL);
            // The shim sees its container end, and then nobody needs it.
            crate::supervise::quiet::sleep(SHIM).await;
            let shims = tree::descendants().into_iter();
            let shims = shims.filter(|process| crate::supervise::ports::is_shim_of(process, &ids));
            tree::signal_all(&shims.collect::<Vec<_>>(), Signal::SIGKILL);
            let _ = inputs.send(Input::OrphansEnded(number));
        });
    }

    /// Refuses a restart that would end in a dockerd that does not start.
    ///
    /// # Errors
    /// Why it would not.
    pub(super) fn try_daemon(&self) -> Result<(), Error> {
        let (plan, host) = (self.task.in_place)(self.task.first.0.network.mtu)?;
        let (path, json) = (&host.session.places.daemon_json, &host.session.daemon_json);
        let source = files::read_regular(path, DAEMON_JSON_MAX);
        if !json.is_read() {
            let error = source.map_or_else(|error| error, |_| io::Error::other("it is no JSON"));
            let what = format!("dockerd could not read `{}`", path.display());
            return Err(Error::new(Exit::Config, what).because(&error));
        }
        let dockerd = host.tools.dockerd.known();
        if !dockerd.is_some_and(|facts| facts.has_flag("validate")) {
            return Ok(());
        }
        let mut command = Command::new(&plan.command[0]);
        // Ours has yet to be written.
        let words = plan.command[1..]
            .iter()
            .filter(|word| !word.as_encoded_bytes().starts_with(b"--config-file="));
        command.args(words).arg("--validate");
        if path.exists() {
            let mut word = OsString::from("--config-file=");
            word.push(path);
            command.arg(word);
        }
        match process::brief(&mut command) {
            Ok((status, said)) if !status.success() => {
                Err(Error::new(Exit::Config, "dockerd refuses its configuration")
                    .because(&io::Error::other(said.trim().to_owned())))
            }
            _ => Ok(()),
        }
    }

    /// Tells dockerd's silence from its end.
    pub(super) fn judge_silence(&mut self, silence: Silence) {
        let before = self.launch.silence.replace(silence);
        let is_overdue = self.launch.overdue.is_some()
            && self.deadline.map(|(_, limit)| limit) == self.launch.overdue;
        if is_overdue && self.may_end_hung() {
            return self.too_late();
        }
        // Somebody waits for its end, and it has nothing yet that must end in order.
        let is_wanted_gone = self.machine.owes_stop.is_some() && !self.machine.has_answered;
        if is_wanted_gone && matches!(silence, Silence::Still | Silence::Hung) {
            return self.raise(Event::Deadline);
        }
        if before == Some(silence) || !self.launch.has_answered {
            return;
        }
        let what = news::explain(silence, "dockerd");
        match silence {
            Silence::Hung if self.task.replaces_hung => self.raise(Event::Hung),
            _ if matches!(self.machine.state, State::Ready | State::Healing(_)) => {
                warn!("{what}");
                self.problems.insert("dockerd", what);
                self.write_status();
            }
            _ => {}
        }
    }

    pub(super) fn judge_answer(&mut self) {
        self.launch.silence = None;
        if self.problems.remove("dockerd").is_some() {
            info!("dockerd answers again");
            self.write_status();
        }
        self.raise(Event::Healthy);
    }

    /// Watches what dockerd does while it ends.
    fn watch_silence(&mut self, identity: tree::Identity) {
        let (turn, inputs) = (self.turn, self.inputs.clone());
        let watching = self.launch.tasks.spawn(async move {
            let mut watch = crate::supervise::progress::Watch::new(identity);
            loop {
                crate::supervise::quiet::sleep(crate::supervise::progress::LOOK).await;
                let silence = Health::Silent(watch.look());
                if inputs.send(Input::Health(turn, silence)).is_err() {
                    return;
                }
            }
        });
        self.launch.asking.push(watching);
    }
}

/// Writes all of `bytes` to the keeper, which reads whenever it is there.
fn send(mut control: &UnixStream, bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    let until = std::time::Instant::now() + TAKES;
    while !rest.is_empty() {
        match control.write(rest) {
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Err(error) => {
                let left = until.saturating_duration_since(std::time::Instant::now());
                let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
                let mut polled = [PollFd::new(control.as_fd(), PollFlags::POLLOUT)];
                if poll(&mut polled, timeout)? == 0 {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}
