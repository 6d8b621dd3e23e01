//! Looks after a daemon that runs: whether it answers, whether its helper and its files are there, and
//! whether anything uses it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use sd_notify::NotifyState;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use crate::plan::Api;
use crate::supervise::dockerd::STOP_MARGIN;
use crate::supervise::helper::Helper;
use crate::supervise::{
    Event, MOMENT, SETTLED, Silence, State, Supervisor, Tasks, Why, containerd, health, notices,
    ports, run_dir, wait, wait_on,
};
use crate::sys::processes::{self, Identity};
use crate::sys::{process, unix_sockets};
use crate::words::quoted;

/// How long a process may take to stop, and how often to look whether it has.
const STOPS: Duration = Duration::from_millis(200);
const LOOK: Duration = Duration::from_millis(1);

impl Supervisor<'_> {
    /// Starts to ask dockerd whether it is well.
    pub(super) fn look_after(&mut self) {
        self.stop_asking();
        let (Some(api), Some(daemon)) = (self.api_path(), self.launch.daemon) else { return };
        let interval = self.task.probe;
        let sender = self.launch.asking.sender();
        self.launch.asking.spawn(async move {
            loop {
                let silent = |silence| sender.send(move |it| it.judge(Some(silence)));
                health::await_answer(&api, daemon, silent).await;
                sender.send(|it| it.judge(None));
                wait::sleep(interval).await;
            }
        });
        if self.machine.state == State::Ready {
            self.watch_ports();
            self.watch_use();
        }
    }

    /// Asks dockerd nothing any more. A connection that it does not accept stays with the service
    /// manager's socket, and would start the daemon again.
    pub(super) fn stop_asking(&mut self) {
        self.launch.asking = Tasks::default();
        self.launch.ports.rest();
    }

    /// Returns where the daemon's socket is, for us.
    pub(super) fn api_path(&self) -> Option<PathBuf> {
        match &self.running.api {
            // It may be in a directory of the namespace's own.
            Api::Daemon(Some(path)) => Some(containerd::seen_by(self.launch.daemon?.pid, path)),
            api => api.path().map(Path::to_owned),
        }
    }

    /// Takes that dockerd answers, or what it does instead.
    pub(super) fn judge(&mut self, silence: Option<Silence>) {
        if let Some(silence) = silence {
            return self.judge_silence(silence);
        }
        self.launch.silence = None;
        if matches!(self.machine.state, State::Starting | State::Reviving) {
            return self.is_up();
        }
        if self.machine.state == State::Replacing(Why::Hung) {
            self.raise(Event::Answered);
        }
        if self.problems.remove("dockerd").is_some() {
            info!("dockerd answers again");
            self.write_status();
        }
        if self.machine.state == State::Ready && std::mem::take(&mut self.owes_reload) {
            self.reload();
        }
        self.look_after_helper();
        self.look_after_places();
        self.look_at_parts();
    }

    /// Tells dockerd's silence from its end.
    fn judge_silence(&mut self, silence: Silence) {
        let before = self.launch.silence.replace(silence);
        // A user waits for its end, and it has nothing yet that must end in order.
        let may_be_killed = self.machine.owes_stop.is_some() && !self.machine.has_answered;
        if may_be_killed && matches!(silence, Silence::Still | Silence::Hung) {
            return self.raise(Event::Deadline);
        }
        if before == Some(silence) || self.machine.state != State::Ready {
            return;
        }
        if silence == Silence::Hung && self.task.replaces_hung {
            return self.raise(Event::Replace(Why::Hung));
        }
        self.set_problem("dockerd", Some(notices::explain(silence)));
    }

    /// dockerd answers for the first time.
    fn is_up(&mut self) {
        self.outcome.phase = "dockerd answers";
        self.problems.clear();
        if !self.launch.has_answered {
            self.launch.has_answered = true;
            process::trim();
            self.keep_places();
            self.watch_places();
        }
        self.launch.settles = Some(Instant::now() + SETTLED);
        self.raise(Event::Answered);
        // What was lost on the way is restored then.
        self.launch.asking.later(MOMENT, |it| it.judge(None));
        self.launch.ports.outlive();
        self.watch_ports();
        self.watch_use();
        self.tick();
        if let Some(api) = self.api_path() {
            let asked = async move { health::version(&api).await };
            self.launch.asking.when(asked, |it, version| {
                it.status.dockerd_version = version.or(it.status.dockerd_version.take());
                it.write_status();
            });
        }
    }

    /// Finds the network helper, and watches it. Sees also the end of one that could not be watched.
    pub(super) fn look_after_helper(&mut self) {
        let launch = &self.launch;
        match &launch.helper {
            _ if !self.running.has_helper || launch.healing.is_some() => {}
            Some(helper) if processes::is_there(helper.identity) => {}
            Some(helper) => self.lose_helper(helper.identity),
            None if launch.lost.is_some() => self.heal(),
            None => {
                if let Some(helper) = Helper::find(&processes::descendants()) {
                    self.watch_helper(helper);
                    self.write_status();
                }
            }
        }
    }

    pub(super) fn watch_helper(&mut self, helper: Helper) {
        let identity = helper.identity;
        match processes::open(identity).and_then(wait_on) {
            Ok(fd) => {
                let end = async move {
                    drop(fd.readable().await);
                    // It may only be the first of all to end.
                    wait::sleep(MOMENT).await;
                };
                self.launch.tasks.when(end, move |it, ()| it.lose_helper(identity));
            }
            Err(error) => debug!("cannot watch the network helper: {error}"),
        }
        self.launch.helper = Some(helper);
    }

    /// Remembers how the helper was started that has ended.
    fn lose_helper(&mut self, identity: Identity) {
        if let Some(helper) = self.launch.helper.take_if(|helper| helper.identity == identity) {
            self.launch.lost = Some(helper);
            self.heal();
        }
    }

    /// Watches the names of what the daemon needs.
    pub(super) fn watch_places(&mut self) {
        let run_dir = self.task.run_dir.path();
        let directories: Vec<&Path> = run_dir.parent().into_iter().chain([run_dir]).collect();
        let watched = run_dir::watch(&directories).and_then(|fd| {
            // What happened does not matter: we look.
            let read = |fd: &OwnedFd| Ok(nix::unistd::read(fd, &mut [0; 4096])?);
            self.launch.tasks.read(fd, read, |it, _| {
                it.launch.tasks.later(MOMENT, |it| it.look_after_places());
            })
        });
        if let Err(error) = watched {
            warn!("cannot watch the runtime directory: {error}");
        }
    }

    /// Keeps what must not lose its name, so that it can get it back.
    pub(super) fn keep_places(&mut self) {
        let socket = self.running.api.own().map(Path::to_owned);
        let state_dir = self.running.places.state_dir.clone();
        let kept: Vec<PathBuf> = socket.into_iter().chain([state_dir]).collect();
        self.task.run_dir.keep_links(&kept);
    }

    /// Restores names that were removed. Where that fails, everything starts again. What another
    /// program has put in their place stays.
    fn look_after_places(&mut self) {
        self.tell_replaced();
        let run_dir = &self.task.run_dir;
        let is_here = run_dir.is_there();
        if self.machine.state != State::Ready || (is_here && run_dir.has_all()) {
            return;
        }
        match run_dir.link_back() {
            Ok(()) if is_here => {
                warn!("files in the runtime directory were deleted; restored them")
            }
            other => {
                debug!("what was removed does not come back: {other:?}");
                self.raise(Event::RestartAll(Why::Places));
            }
        }
    }

    /// Tells of a name that another program has by now.
    fn tell_replaced(&mut self) {
        // We may have made our socket again.
        let is_ours = |path: &&Path| {
            Some(*path) == self.running.api.own()
                && self.socket.as_ref().is_some_and(run_dir::Name::is_there)
        };
        let replaced = self.task.run_dir.replaced().filter(|path| !is_ours(path)).map(|path| {
            let (shown, quoted) = (path.display(), quoted(path));
            format!("another program has put its own file in the place of `{shown}`: rm {quoted}")
        });
        self.set_problem("places", replaced);
    }

    /// Has the daemon end when, for the time of the settings, no container has run and no client was
    /// connected to the service manager's socket.
    ///
    /// The containers of `docker build` are in no list of containers, but its client is connected, and
    /// the daemon ends the build of a client that goes.
    pub(super) fn watch_use(&mut self) {
        let (Some(after), Api::Passed(Some(path))) = (self.task.idle, &self.running.api) else {
            return;
        };
        // Each connection makes the listener readable once, also if the daemon accepts it.
        let listener = self.listeners.first().and_then(|fd| wait_on(fd.try_clone().ok()?).ok());
        let Some(listener) = listener else { return };
        let path = path.clone();
        let sender = self.launch.asking.sender();
        self.launch.asking.spawn(async move {
            let mut used = Instant::now();
            loop {
                tokio::select! {
                    guard = listener.readable() => {
                        let Ok(mut guard) = guard else { return };
                        guard.clear_ready();
                        if !health::was_us() {
                            used = Instant::now();
                        }
                    }
                    () = sleep_until(used + after) => {
                        if !health::is_busy(path.clone()).await {
                            sender.send(|it| it.retire());
                        }
                        // A client may have left just now.
                        used = Instant::now();
                    }
                }
            }
        });
    }

    /// Has the daemon end in order, unless a client is connected or a container runs.
    ///
    /// It is stopped before the look, so that it accepts no client behind it. On SIGTERM all versions of
    /// dockerd close their listener before anything else: later clients stay with the service manager's
    /// socket, for the next daemon.
    fn retire(&mut self) {
        let (State::Ready, Some(daemon)) = (self.machine.state, self.launch.daemon) else { return };
        let (Api::Passed(Some(path)), Ok(process)) = (&self.running.api, processes::open(daemon))
        else {
            return;
        };
        let pid = daemon.pid;
        if has_clients(pid, &process, path) || processes::signal(&process, Signal::SIGSTOP).is_err()
        {
            return;
        }
        let deadline = Instant::now() + STOPS;
        while !processes::is_stopped(pid) && Instant::now() < deadline {
            thread::sleep(LOOK);
        }
        // A client may have started a container and left since the daemon was asked. Who waits is
        // looked at last, so that as few clients as can be come after that.
        let is_free = processes::is_stopped(pid)
            && !processes::descendants().iter().any(ports::is_shim)
            && !has_clients(pid, &process, path)
            && !unix_sockets::has_waiting(&self.listeners);
        let ends = is_free && processes::signal(&process, Signal::SIGTERM).is_ok();
        let _ = processes::signal(&process, Signal::SIGCONT);
        if ends {
            self.stop_asking();
            self.arm(self.running.shutdown + STOP_MARGIN);
            notices::tell_manager(&[NotifyState::Stopping]);
            self.raise(Event::Idle);
        }
    }
}

/// Says whether a client is connected to the process `pid` through the socket at `path`. Unknown
/// counts as yes.
fn has_clients(pid: u32, process: &OwnedFd, path: &Path) -> bool {
    let accepted = unix_sockets::accepted(pid, process, path, &[]);
    accepted.is_none_or(|count| count > health::own_connections())
}
