//! dockerd in namespaces that stay: how it starts, reads its configuration, ends, and starts again.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::socket::{MsgFlags, recv};
use sd_notify::NotifyState;
use tracing::{debug, warn};

use crate::error::{Error, Exit};
use crate::facts::HostFacts;
use crate::plan::{Keep, effective_config};
use crate::stage::orders::{self, Inbox, Order};
use crate::supervise::ports::is_explicit;
use crate::supervise::{
    Death, Event, How, State, Supervisor, Then, UNLIMITED, health, notices, progress, wait,
};
use crate::sys::{files, process, processes};

/// How long the keeper may take to read an order.
const TAKES: Duration = Duration::from_secs(2);

/// The largest `daemon.json` in bytes that is read.
const DAEMON_JSON_MAX: u64 = 1024 * 1024;

/// How many bytes dockerd needs in its data root to note what becomes of its containers.
const ROOM: u64 = 1024 * 1024;

/// What a daemon may need beyond its containers' time, to end.
pub(super) const STOP_MARGIN: Duration = Duration::from_secs(10);

/// What dockerd allows beyond a container's own time.
const CONTAINER_MARGIN: Duration = Duration::from_secs(5);

impl Supervisor<'_> {
    /// Receives what the keeper reports, and keeps our end of the connection.
    pub(super) fn speak_with_keeper(&mut self, ours: UnixStream) -> io::Result<()> {
        ours.set_nonblocking(false)?;
        // An order may be longer than the buffer of the connection.
        ours.set_write_timeout(Some(TAKES))?;
        let mut inbox = Inbox::default();
        let read = move |fd: &OwnedFd| {
            loop {
                if let Some(report) = inbox.receive() {
                    return Ok(report);
                }
                let mut piece = [0; 4096];
                match recv(fd.as_raw_fd(), &mut piece, MsgFlags::MSG_DONTWAIT)? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    count => inbox.fill(&piece[..count]),
                }
            }
        };
        self.launch.tasks.read(ours.try_clone()?.into(), read, |it, report| it.learn(report))?;
        self.launch.control = Some(ours);
        Ok(())
    }

    /// Gives the keeper an order. A keeper that is gone takes its namespaces along.
    pub(super) fn order(&self, order: &Order) {
        if let Some(mut control) = self.launch.control.as_ref()
            && let Err(error) = orders::line(order).and_then(|line| control.write_all(&line))
        {
            warn!("the keeper takes no order: {error}");
        }
    }

    pub(super) fn order_daemon(&self) {
        let pid_file = self.running.places.pid_file.clone().into();
        self.order(&Order::Daemon { pid_file, command: self.running.command.clone() });
    }

    /// Starts dockerd again. What rootlesskit forwarded for the last one goes first: the next one
    /// could not have the ports.
    pub(super) fn revive(&mut self) {
        self.launch.silence = None;
        self.outcome.phase = "dockerd has not started again";
        // A stop needs a dockerd, as well as it can run.
        if self.machine.owes_stop.is_none() && self.lacks_room() {
            let shown = self.running.places.data_root.display();
            self.death = format!(
                "there is no room in `{shown}`: dockerd waits for some; containers keep running"
            );
            let death = Death { how: How::Code(1), permanent: None, left: true };
            return self.raise(Event::DaemonEnded(death));
        }
        if let Err(error) = self.renew_daemon() {
            warn!("dockerd starts with its last settings: {error}");
        }
        let socket = self.rootlesskit_api();
        let stated = self.running.link.published.clone();
        let foreign = self.launch.ports.foreign();
        let clear = async move {
            for (id, port) in health::forwarded(&socket).await.unwrap_or_default() {
                let is_dockerds = !foreign.contains(&id) && !is_explicit(&stated, &port);
                if is_dockerds && let Err(error) = health::forget_port(&socket, id).await {
                    debug!("rootlesskit keeps port {}: {error}", port.1);
                }
            }
        };
        self.launch.tasks.when(clear, |it, ()| it.order_daemon());
    }

    /// Whether dockerd would find no room for what it notes of its containers: it would forget them.
    fn lacks_room(&self) -> bool {
        files::free(&self.running.places.data_root).is_some_and(|bytes| bytes < ROOM)
    }

    /// Plans dockerd anew, as its settings and its program are now. On an error the last plan holds.
    fn renew_daemon(&mut self) -> Result<(), Error> {
        self.remake_places()?;
        let (plan, host) = self.task.caller.plan_dockerd(&self.running.link)?;
        for warning in &plan.warnings {
            warn!("{}", warning.0);
        }
        // containerd outlives dockerd.
        if plan.keep.engine.is_some() != self.running.keep.engine.is_some() {
            let what = "a change of containerd needs `dockerd-rootless restart --all`";
            return Err(Error::new(Exit::Config, what));
        }
        let json = &host.session.places.daemon_json;
        write_config(&plan.keep, json)?;
        self.running.places.daemon_json.clone_from(json);
        let engine = self.running.keep.engine.take();
        self.running.keep = Keep { engine, ..plan.keep };
        self.running.command = plan.command;
        self.running.lacks_proxy = plan.source.lacks_proxy;
        // Another port driver comes with another launch only, and a rootlesskit that was installed since, too.
        let version = host.tools.rootlesskit.known().and_then(|facts| facts.version);
        if plan.source.driver.word() == self.status.port_driver.as_str()
            && version.map(|version| version.to_string()) == self.status.rootlesskit_version
        {
            self.status.clients = plan.source.seen.words();
        }
        Ok(())
    }

    pub(super) fn signal_daemon(&self, signal: Signal) {
        if let Some(daemon) = self.launch.daemon {
            processes::signal_one(daemon, signal);
        }
    }

    pub(super) fn kill_daemon(&mut self) {
        self.arm(progress::HUNG);
        self.signal_daemon(Signal::SIGKILL);
    }

    /// Has dockerd read its configuration again. A file that it could not read is not passed on: it
    /// would keep its old one, and so do we.
    pub(super) fn reload(&mut self) {
        let keep = &mut self.running.keep;
        if let Ok((plan, _)) = self.task.caller.plan_dockerd(&self.running.link) {
            // This dockerd may not read a file of ours.
            keep.live_restore = plan.keep.live_restore && keep.config.is_some();
        }
        match write_config(keep, &self.running.places.daemon_json) {
            Ok(()) => self.signal_daemon(Signal::SIGHUP),
            Err(error) => warn!("dockerd keeps its configuration: {}", error.render().trim()),
        }
    }

    /// Has dockerd end. Its containers stay, if they are kept: then one that hangs is found.
    pub(super) fn yield_place(&mut self) {
        if !self.running.keep.live_restore {
            return self.end_in_order();
        }
        self.stop_asking();
        self.end_within(progress::HUNG);
        let Some(daemon) = self.launch.daemon else { return };
        let sender = self.launch.asking.sender();
        self.launch.asking.spawn(async move {
            let mut watch = progress::Watch::new(daemon);
            loop {
                wait::sleep(progress::LOOK).await;
                let silence = watch.look();
                sender.send(move |it| it.judge(Some(silence)));
            }
        });
    }

    /// Has dockerd end with its containers, and asks first how long these may take.
    pub(super) fn end_in_order(&mut self) {
        if let State::Stopping(Then::Leave(_)) = self.machine.state {
            notices::tell_manager(&[NotifyState::Stopping]);
        }
        self.stop_asking();
        self.arm(UNLIMITED);
        if !self.launch.has_answered {
            // It has no containers yet, and rootlesskit might wait for ever for what it has started.
            processes::signal_all(&processes::descendants(), Signal::SIGKILL);
            return self.end_within(self.running.shutdown);
        }
        let Some(api) = self.api_path() else { return self.keep_no_container(None) };
        let asked = async move { health::stop_timeout(&api).await };
        self.launch.asking.when(asked, |it, time| it.keep_no_container(time));
    }

    /// Has dockerd end its containers, which may take `time`, if that is known.
    fn keep_no_container(&mut self, time: Option<Duration>) {
        let known = time.map(|time| self.running.shutdown.max(time + CONTAINER_MARGIN));
        let limit = STOP_MARGIN + known.unwrap_or(UNLIMITED);
        let Keep { live_restore, config, .. } = &self.running.keep;
        let Some(config) = config.as_deref().filter(|_| *live_restore) else {
            return self.end_within(limit);
        };
        // What dockerd has read last is not broken, whatever has become of the user's own file.
        let source = if config.exists() { config } else { &self.running.places.daemon_json };
        if let Err(error) = write_effective(config, source, false) {
            warn!("{error}");
        }
        self.signal_daemon(Signal::SIGCONT);
        self.signal_daemon(Signal::SIGHUP);
        let Some(api) = self.api_path() else { return self.end_within(limit) };
        let asked = async move { health::live_restore_is_off(&api).await };
        self.launch.asking.when(asked, move |it, is_off| {
            if !is_off {
                warn!("dockerd has not confirmed that it will stop its containers");
            }
            it.end_within(limit);
        });
    }

    /// Has dockerd end, which may take `time`. A debugger or SIGSTOP must not keep it.
    fn end_within(&mut self, time: Duration) {
        // It may have been killed since its containers' times were asked for.
        if matches!(self.machine.state, State::Stopping(_) | State::Replacing(_)) {
            notices::extend(time);
            self.arm(time);
            self.signal_daemon(Signal::SIGTERM);
            self.signal_daemon(Signal::SIGCONT);
        }
    }

    /// Refuses a restart that would end in a dockerd that does not start.
    pub(super) fn try_daemon(&self) -> Result<(), Error> {
        let (plan, host) = self.task.caller.plan_dockerd(&self.running.link)?;
        validate(&plan.command, &host)
    }

    /// Refuses a restart of everything that would end in none.
    pub(super) fn try_all(&self) -> Result<(), Error> {
        let (plan, host) = self.task.caller.plan_again()?;
        validate(&plan.stage.daemon, &host)
    }
}

/// Has dockerd itself judge its configuration, if it can.
fn validate(daemon: &[OsString], host: &HostFacts) -> Result<(), Error> {
    let path = &host.session.places.daemon_json;
    effective(path, false)?;
    let dockerd = host.tools.dockerd.known();
    if !dockerd.is_some_and(|facts| facts.has_flag("validate")) {
        return Ok(());
    }
    // Ours has yet to be written.
    let is_ours = |arg: &&OsString| arg.as_encoded_bytes().starts_with(b"--config-file=");
    let mut command = Command::new(&daemon[0]);
    command.args(daemon[1..].iter().filter(|arg| !is_ours(arg))).arg("--validate");
    if path.exists() {
        command.arg("--config-file").arg(path);
    }
    match process::brief(&mut command) {
        Ok((status, said)) if !status.success() => {
            Err(Error::new(Exit::Config, "dockerd refuses its configuration").cause(said.trim()))
        }
        _ => Ok(()),
    }
}

/// Writes the configuration file that `keep` has for dockerd, from the user's at `source`.
pub(super) fn write_config(keep: &Keep, source: &Path) -> Result<(), Error> {
    keep.config.as_deref().map_or(Ok(()), |to| write_effective(to, source, keep.live_restore))
}

fn write_effective(to: &Path, source: &Path, live_restore: bool) -> Result<(), Error> {
    let text = effective(source, live_restore)?;
    // Our directory may have been deleted.
    if let Some(directory) = to.parent() {
        let _ = DirBuilder::new().mode(0o700).create(directory);
    }
    files::write_whole(to, text.as_bytes()).map_err(unusable(to))
}

/// Returns what the file `source` and `live_restore` say together.
fn effective(source: &Path, live_restore: bool) -> Result<String, Error> {
    let text = match files::read_regular(source, DAEMON_JSON_MAX) {
        Ok(Some(bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
        Ok(None) => return Err(unusable(source)(io::Error::other("it is too large"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(unusable(source)(error)),
    };
    effective_config(&text, live_restore).map_err(unusable(source))
}

fn unusable<E: std::error::Error>(path: &Path) -> impl Fn(E) -> Error {
    let what = format!("dockerd cannot use `{}`", path.display());
    move |cause| Error::new(Exit::Config, what.clone()).because(&cause)
}
