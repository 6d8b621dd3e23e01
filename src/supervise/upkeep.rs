//! Looks after a daemon that runs: whether it answers, and whether its helper and its files are there.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::plan::Api;
use crate::supervise::helper::Helper;
use crate::supervise::{
    Event, MOMENT, Silence, State, Supervisor, Tasks, containerd, health, idle, notices, run_dir,
    wait,
};
use crate::sys::{process, processes};

/// A daemon that did well for so long and dies has a failure of its own, not the last one again.
const SETTLED: Duration = Duration::from_secs(60);

impl Supervisor<'_> {
    /// Starts to ask dockerd whether it is well.
    pub(super) fn look_after(&mut self) {
        self.stop_asking();
        let (Some(api), Some((daemon, _))) = (self.api_path(), &self.launch.daemon) else {
            return;
        };
        let (daemon, interval) = (*daemon, self.task.probe);
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
            self.follow();
        }
    }

    /// Starts to follow what a daemon does that is up.
    pub(super) fn follow(&mut self) {
        self.watch_ports();
        let Some(after) = self.task.idle else { return };
        let (Api::Passed(Some(path)), Some((daemon, _))) = (&self.running.api, &self.launch.daemon)
        else {
            return;
        };
        let listeners = self.listeners.iter().filter_map(|fd| fd.try_clone().ok()).collect();
        let sender = self.launch.asking.sender();
        let is_idle = move || sender.send(|it| it.raise(Event::Idle));
        let watch = idle::watch(daemon.pid, path.clone(), listeners, after, is_idle);
        self.launch.asking.spawn(watch);
    }

    /// Asks dockerd nothing any more. A connection that it does not accept stays with the service
    /// manager's socket, and would start the daemon again.
    pub(super) fn stop_asking(&mut self) {
        self.launch.asking = Tasks::default();
        self.launch.ports.ticks = false;
    }

    /// Returns where the daemon's socket is, for us.
    pub(super) fn api_path(&self) -> Option<PathBuf> {
        match &self.running.api {
            Api::Own(path) | Api::Passed(Some(path)) => Some(path.clone()),
            // It may be in a directory of the namespace's own.
            Api::Daemon(Some(path)) => {
                let (daemon, _) = self.launch.daemon.as_ref()?;
                Some(containerd::seen_by(daemon.pid, path))
            }
            Api::Passed(None) | Api::Daemon(None) => None,
        }
    }

    /// Takes that dockerd answers, or what it does instead.
    pub(super) fn judge(&mut self, silence: Option<Silence>) {
        if let Some(silence) = silence {
            return self.judge_silence(silence);
        }
        if matches!(self.machine.state, State::Starting | State::Reviving) {
            return self.is_up();
        }
        self.launch.silence = None;
        if self.problems.remove("dockerd").is_some() {
            info!("dockerd answers again");
            self.write_status();
        }
        self.raise(Event::Healthy);
        self.find_helper();
        self.look_at_parts();
        self.check_ports();
        if self.machine.state == State::Ready && self.carrier_is_lost() {
            self.lose_helper();
        }
    }

    /// Tells dockerd's silence from its end.
    fn judge_silence(&mut self, silence: Silence) {
        let before = self.launch.silence.replace(silence);
        let is_extended = self.deadline.as_ref().is_some_and(|deadline| deadline.is_extended);
        if is_extended && self.may_end_hung() {
            return self.too_late();
        }
        // A user waits for its end, and it has nothing yet that must end in order.
        let may_be_killed = self.machine.owes_stop.is_some() && !self.machine.has_answered;
        if may_be_killed && matches!(silence, Silence::Still | Silence::Hung) {
            return self.raise(Event::Deadline);
        }
        if before == Some(silence) || !self.launch.has_answered {
            return;
        }
        if silence == Silence::Hung && self.task.replaces_hung {
            self.raise(Event::Hung);
        } else if matches!(self.machine.state, State::Ready | State::Healing(_)) {
            let what = notices::explain(silence, "dockerd");
            warn!("{what}");
            self.problems.insert("dockerd", what);
            self.write_status();
        }
    }

    /// dockerd answers for the first time.
    fn is_up(&mut self) {
        self.launch.phase = "dockerd answers";
        self.launch.silence = None;
        self.problems.clear();
        self.find_helper();
        if !self.launch.has_answered {
            self.launch.has_answered = true;
            process::trim();
            self.keep_places();
            self.watch_places();
            if self.running.has_helper && self.launch.helper.is_none() {
                warn!(
                    "cannot find the network helper process; it will not be restarted if it dies"
                );
            }
        }
        self.launch.settles = Some(Instant::now() + SETTLED);
        self.raise(Event::Answered);
        // It may have ended while nothing could be done about it.
        if self.launch.helper.is_none() && self.launch.lost.is_some() {
            self.raise(Event::HelperDied);
        }
        self.launch.ports.outlive();
        self.follow();
        self.tick();
        if let Some(api) = self.api_path() {
            let asked = async move { health::version(&api).await };
            self.launch.asking.when(asked, |it, version| {
                it.status.dockerd_version = version.or(it.status.dockerd_version.take());
                it.write_status();
            });
        }
    }

    /// Finds the network helper, and watches it.
    pub(super) fn find_helper(&mut self) {
        if self.running.has_helper
            && self.launch.helper.is_none()
            && self.launch.healing.is_none()
            && let Some(helper) = Helper::find(&processes::descendants())
        {
            self.watch_helper(helper);
            self.write_status();
        }
    }

    pub(super) fn watch_helper(&mut self, helper: Helper) {
        // It may only be the first of all to end.
        let gone = |it: &mut Supervisor<'_>| it.launch.tasks.later(MOMENT, |it| it.lose_helper());
        self.launch.tasks.watch(helper.identity, gone);
        self.launch.helper = Some(helper);
    }

    /// Remembers how the helper was started that has ended.
    fn lose_helper(&mut self) {
        if let Some(helper) = self.launch.helper.take() {
            self.launch.lost = Some(helper);
        }
        self.raise(Event::HelperDied);
    }

    /// Whether the namespace's interface has lost its helper, which for some time only the kernel
    /// knows. A detached network namespace is not the one whose /sys dockerd sees.
    fn carrier_is_lost(&self) -> bool {
        let Some((daemon, _)) = &self.launch.daemon else {
            return false;
        };
        if !self.running.has_helper || self.running.detach_netns {
            return false;
        }
        let carrier = Path::new("/sys/class/net/tap0/carrier");
        let carrier = fs::read_to_string(containerd::seen_by(daemon.pid, carrier));
        carrier.is_ok_and(|text| text.trim() == "0")
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
        let kept: Vec<PathBuf> =
            socket.into_iter().chain([self.running.places.state_dir.clone()]).collect();
        self.task.run_dir.keep_links(&kept);
    }

    /// Restores names that were removed. Where that fails, everything starts again.
    fn look_after_places(&mut self) {
        use State::{Clearing, Falling, Over, Stopping, Waiting};
        let is_ending =
            matches!(self.machine.state, Falling | Stopping(_) | Clearing(..) | Waiting | Over);
        let run_dir = &self.task.run_dir;
        let is_here = run_dir.is_there();
        if is_ending || !self.launch.has_answered || (is_here && run_dir.has_all()) {
            return;
        }
        match run_dir.link_back() {
            Ok(true) if is_here => {
                warn!("files in the runtime directory were deleted; restored them")
            }
            other => {
                debug!("what was removed does not come back: {other:?}");
                self.raise(Event::PlacesGone);
            }
        }
    }
}
