//! dockerd in namespaces that stay: how it starts, reads its configuration, ends, and starts again.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::socket::{MsgFlags, recv};
use nix::sys::statvfs::statvfs;
use sd_notify::NotifyState;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::error::{Error, Exit};
use crate::plan::{Keep, effective_config};
use crate::stage::orders::{self, Inbox, Order};
use crate::supervise::health::{self, StopTimes};
use crate::supervise::ports::is_explicit;
use crate::supervise::{
    Ask, Death, Event, How, Limit, State, Supervisor, Then, UNLIMITED, dice, notices, progress,
    snapshot, wait,
};
use crate::sys::{files, process, processes};

/// The largest `daemon.json` in bytes that is read.
const DAEMON_JSON_MAX: u64 = 1024 * 1024;

/// How many bytes dockerd needs in its data root to note what becomes of its containers.
const ROOM: u64 = 1024 * 1024;

/// How long the keeper may take to take an order.
const TAKES: Duration = Duration::from_secs(2);

/// What a daemon may need beyond its containers' time, to end.
pub(super) const STOP_MARGIN: Duration = Duration::from_secs(10);

/// What dockerd allows beyond a container's own time.
const CONTAINER_MARGIN: Duration = Duration::from_secs(5);

impl Supervisor<'_> {
    /// Receives what the keeper reports, and keeps our end of the connection.
    pub(super) fn speak_with_keeper(&mut self, ours: UnixStream) -> io::Result<()> {
        ours.set_nonblocking(false)?;
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

    /// Gives the keeper an order. A keeper that is gone takes its namespaces along, which is seen.
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

    /// Ends the namespaces, in which nothing useful runs any more.
    pub(super) fn end_namespaces(&self) {
        if self.launch.rootlesskit.is_some() {
            self.order(&Order::End);
        }
    }

    /// Starts dockerd again. What rootlesskit forwarded for the last one goes first: the next one
    /// could not have the ports.
    pub(super) fn revive(&mut self) {
        self.launch.silence = None;
        self.launch.phase = "dockerd has not started again";
        // A stop needs a dockerd, as well as it can run.
        if self.machine.owes_stop.is_none()
            && let Some(why) = self.no_room()
        {
            return self.wait_for_room(why);
        }
        if let Err(error) = self.renew_daemon() {
            warn!("dockerd starts with its last settings: {error}");
        }
        self.note_program(snapshot::DOCKERD);
        let socket = self.rootlesskit_api();
        let stated = self.running.published.clone();
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

    /// Says why dockerd would not find room for what it notes of its containers: it would forget them.
    fn no_room(&self) -> Option<String> {
        let data_root = &self.running.places.data_root;
        let found = statvfs(data_root).ok()?;
        let bytes = found.blocks_available() * found.fragment_size();
        let has_inodes = found.files() == 0 || found.files_available() > 0;
        (bytes < ROOM || !has_inodes).then(|| {
            let shown = data_root.display();
            format!(
                "there is no room in `{shown}`: dockerd waits for some; containers keep running"
            )
        })
    }

    /// Lets the machine try again later.
    fn wait_for_room(&mut self, why: String) {
        self.note_failure(why.clone());
        self.death = why;
        let how = How::Code(1);
        self.raise(Event::DaemonEnded(Death { how, permanent: None, left: true, dice: dice() }));
    }

    /// Plans dockerd anew, as its settings and its program are now. On an error the last plan holds.
    fn renew_daemon(&mut self) -> Result<(), Error> {
        self.remake_places()?;
        let (plan, host) = self.task.caller.plan_dockerd(self.running.mtu)?;
        for warning in &plan.warnings {
            warn!("{}", warning.0);
        }
        let json = &host.session.places.daemon_json;
        if !host.session.daemon_json.is_read() {
            return Err(Error::new(Exit::Config, format!("cannot read `{}`", json.display())));
        }
        // containerd outlives dockerd.
        if plan.keep.engine.is_some() != self.running.keep.engine.is_some() {
            let what = "a change of containerd needs `dockerd-rootless restart --all`";
            return Err(Error::new(Exit::Config, what));
        }
        self.running.places.daemon_json.clone_from(json);
        self.write_config(plan.keep.config.as_deref(), plan.keep.live_restore)?;
        let engine = self.running.keep.engine.take();
        self.running.keep = Keep { engine, ..plan.keep };
        self.running.command = plan.command;
        Ok(())
    }

    /// Writes our configuration file for dockerd, from what the user's says now.
    pub(super) fn write_config(&self, to: Option<&Path>, live_restore: bool) -> Result<(), Error> {
        let Some(to) = to else {
            return Ok(());
        };
        let source = &self.running.places.daemon_json;
        let text = match files::read_regular(source, DAEMON_JSON_MAX) {
            Ok(Some(bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
            Ok(None) => return Err(unusable(source, &io::Error::other("it is too large"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(unusable(source, &error)),
        };
        write_effective(to, source, &text, live_restore)
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
            && let Err(error) = processes::signal(fd, signal)
        {
            debug!("{signal} to {}: {error}", identity.pid);
        }
    }

    pub(super) fn kill_daemon(&mut self) {
        self.stop_asking();
        self.end = progress::HUNG;
        self.signal_daemon(Signal::SIGKILL);
    }

    /// Has dockerd read its configuration again. A file that it could not read is not passed on: it
    /// would keep its old one, and so do we.
    fn reload(&mut self) {
        if let Ok((plan, _)) = self.task.caller.plan_dockerd(self.running.mtu) {
            let keep = &mut self.running.keep;
            keep.live_restore = plan.keep.live_restore && keep.config.is_some();
        }
        let keep = &self.running.keep;
        match self.write_config(keep.config.as_deref(), keep.live_restore) {
            Ok(()) => self.signal_daemon(Signal::SIGHUP),
            Err(error) => warn!("dockerd keeps its configuration: {}", error.render().trim()),
        }
    }

    /// Has dockerd end. Its containers stay; a debugger or SIGSTOP must not keep it.
    fn yield_place(&mut self) {
        if !self.running.keep.live_restore {
            return self.prepare_end();
        }
        self.stop_asking();
        self.end = progress::HUNG;
        self.signal_daemon(Signal::SIGTERM);
        self.signal_daemon(Signal::SIGCONT);
        let Some((identity, _)) = self.launch.daemon else {
            return;
        };
        let sender = self.launch.asking.sender();
        self.launch.asking.spawn(async move {
            let mut watch = progress::Watch::new(identity);
            loop {
                wait::sleep(progress::LOOK).await;
                let silence = watch.look();
                sender.send(move |it| it.judge(Some(silence)));
            }
        });
    }

    /// Asks which containers have to end, and how long they may take.
    fn prepare_end(&mut self) {
        if let State::Stopping(Then::Leave(_)) = self.machine.state {
            notices::tell_manager(&[NotifyState::Stopping]);
        }
        self.stop_asking();
        self.end = UNLIMITED;
        if !self.launch.has_answered {
            // It has no containers yet, and rootlesskit might wait for ever for what it has started.
            processes::signal_all(&processes::descendants(), Signal::SIGKILL);
            return self.end_now(self.running.shutdown);
        }
        match self.api_path() {
            None => self.keep_no_container(None),
            Some(api) => {
                let asked = async move { health::stop_timeouts(&api).await };
                self.launch.asking.when(asked, |it, times| it.keep_no_container(times));
            }
        }
    }

    /// Has dockerd end its containers, if there are any. `times` are theirs, if they are known.
    fn keep_no_container(&mut self, times: Option<StopTimes>) {
        let shutdown = self.running.shutdown;
        let longest = match &times {
            None | Some(StopTimes::Unlimited) => UNLIMITED,
            Some(StopTimes::None) => shutdown,
            Some(StopTimes::Longest(time)) => shutdown.max(*time + CONTAINER_MARGIN),
        };
        let limit = longest.min(UNLIMITED) + STOP_MARGIN;
        if !self.running.keep.live_restore || times == Some(StopTimes::None) {
            return self.end_now(limit);
        }
        if let Err(error) = self.turn_live_restore_off() {
            warn!("{}", error.render().trim());
        }
        self.signal_daemon(Signal::SIGCONT);
        self.signal_daemon(Signal::SIGHUP);
        let api = self.api_path();
        let asked = async move {
            match &api {
                Some(api) => health::live_restore_is_off(api).await,
                None => false,
            }
        };
        self.launch.asking.when(asked, move |it, is_off| {
            if !is_off {
                warn!("dockerd has not confirmed that it will stop its containers");
            }
            it.end_now(limit);
        });
    }

    /// Writes that containers end with dockerd, whatever has become of the user's own file.
    fn turn_live_restore_off(&self) -> Result<(), Error> {
        let config = self.running.keep.config.as_deref();
        self.write_config(config, false).or_else(|error| {
            let Some(path) = config else {
                return Ok(());
            };
            let ours = fs::read_to_string(path).map_err(|_| error)?;
            write_effective(path, path, &ours, false)
        })
    }

    /// Has dockerd end with its containers, which may take `time`.
    fn end_now(&mut self, time: Duration) {
        notices::extend(time);
        self.end = time;
        if let Some(deadline) = &mut self.deadline
            && matches!(deadline.limit, Limit::Stop | Limit::Yield)
        {
            deadline.at = Instant::now() + time;
        }
        self.signal_daemon(Signal::SIGTERM);
        self.signal_daemon(Signal::SIGCONT);
    }

    /// Refuses a restart that would end in a dockerd that does not start.
    pub(super) fn try_daemon(&self) -> Result<(), Error> {
        let (plan, host) = self.task.caller.plan_dockerd(self.running.mtu)?;
        let (path, json) = (&host.session.places.daemon_json, &host.session.daemon_json);
        if !json.is_read() {
            let read = files::read_regular(path, DAEMON_JSON_MAX);
            let error = read.err().unwrap_or_else(|| io::Error::other("it is not JSON"));
            return Err(unusable(path, &error));
        }
        let dockerd = host.tools.dockerd.known();
        if !dockerd.is_some_and(|facts| facts.has_flag("validate")) {
            return Ok(());
        }
        // Ours has yet to be written.
        let is_ours = |arg: &&OsString| arg.as_encoded_bytes().starts_with(b"--config-file=");
        let mut command = Command::new(&plan.command[0]);
        command.args(plan.command[1..].iter().filter(|arg| !is_ours(arg))).arg("--validate");
        if path.exists() {
            let mut arg = OsString::from("--config-file=");
            arg.push(path);
            command.arg(arg);
        }
        match process::brief(&mut command) {
            Ok((status, said)) if !status.success() => {
                Err(Error::new(Exit::Config, "dockerd refuses its configuration")
                    .because(&io::Error::other(said.trim().to_owned())))
            }
            _ => Ok(()),
        }
    }
}

/// Writes what the configuration `text` of `source` and `live_restore` say together.
fn write_effective(to: &Path, source: &Path, text: &str, live_restore: bool) -> Result<(), Error> {
    let text = effective_config(text, live_restore).map_err(|error| unusable(source, &error))?;
    // Our directory may have been deleted.
    if let Some(directory) = to.parent() {
        let _ = DirBuilder::new().mode(0o700).create(directory);
    }
    files::write_whole(to, text.as_bytes()).map_err(|error| unusable(to, &error))
}

fn unusable(path: &Path, error: &dyn std::error::Error) -> Error {
    let what = format!("dockerd cannot use `{}`", path.display());
    Error::new(Exit::Config, what).because(error)
}
