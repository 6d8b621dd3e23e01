//! Looks after a daemon that runs: how it is, and whether its processes and places are there.

use std::fs;
use std::path::{Path, PathBuf};

use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::plan::Api;
use crate::supervise::helper::Helper;
use crate::supervise::{Event, State};
use crate::supervise::{
    Health, Input, MOMENT, SETTLED, Silence, Supervisor, engine, health, idle, news, places, quiet,
    wait_on,
};
use crate::sys::process;
use crate::sys::tree;
use crate::sys::tree::Identity;

/// After how many questions to dockerd containerd is asked one.
const ENGINE_ROUNDS: u32 = 4;

/// rootlesskit starts itself again, as /proc/self/exe.
const CHILD: &str = "exe";

impl Supervisor<'_> {
    /// Begins to ask dockerd, the process `daemon`, and containerd how they are.
    pub(super) fn look_after(&mut self, daemon: Identity) {
        self.stop_asking();
        let Some(api) = self.api_path() else {
            return;
        };
        let (turn, inputs) = (self.turn, self.inputs.clone());
        let interval = self.task.probe;
        let engine = self.engine();
        let asking = self.launch.tasks.spawn(async move {
            let tell = |input| drop(inputs.send(input));
            for round in 0_u32.. {
                health::await_answer(&api, daemon, |silence| {
                    tell(Input::Health(turn, Health::Silent(silence)));
                })
                .await;
                tell(Input::Health(turn, Health::Good));
                // It wakes more often for the one question than dockerd for the other.
                if let Some((identity, socket)) = &engine
                    && round.is_multiple_of(ENGINE_ROUNDS)
                {
                    engine::await_answer(*identity, socket, |silence| {
                        tell(Input::Engine(turn, Some(silence)));
                    })
                    .await;
                    tell(Input::Engine(turn, None));
                }
                quiet::sleep(interval).await;
            }
        });
        self.launch.asking.push(asking);
        if self.machine.state == State::Ready {
            self.follow();
        }
    }

    /// containerd, and where it listens as it sees it.
    fn engine(&self) -> Option<(Identity, PathBuf)> {
        let socket = self.daemon.keep.engine.as_ref()?.socket.clone();
        Some((self.launch.engine?, socket))
    }

    /// Follows what a daemon does that is up.
    pub(super) fn follow(&mut self) {
        self.watch_ports();
        let Some(after) = self.task.idle else { return };
        let (Api::Passed(Some(path)), Some((daemon, _))) = (&self.task.api, &self.launch.daemon)
        else {
            return;
        };
        let listeners = self.listeners.iter().filter_map(|fd| fd.try_clone().ok()).collect();
        let (turn, inputs) = (self.turn, self.inputs.clone());
        let watch = idle::watch(daemon.pid, path.clone(), listeners, after, move || {
            let _ = inputs.send(Input::Idle(turn));
        });
        let asking = self.launch.tasks.spawn(watch);
        self.launch.asking.push(asking);
    }

    /// Asks the daemon nothing any more. A connection that nobody accepts stays with the service
    /// manager's socket, and would start the daemon again.
    pub(super) fn stop_asking(&mut self) {
        for task in self.launch.asking.drain(..) {
            task.abort();
        }
    }

    /// Where the daemon's socket is, for us.
    pub(super) fn api_path(&self) -> Option<PathBuf> {
        match &self.task.api {
            Api::Own(path) | Api::Passed(Some(path)) => Some(path.clone()),
            Api::Daemon(Some(path)) => {
                // It may be in a directory of the namespace's own.
                let (daemon, _) = self.launch.daemon.as_ref()?;
                let inside = path.strip_prefix("/").ok()?;
                Some(PathBuf::from(format!("/proc/{}/root", daemon.pid)).join(inside))
            }
            Api::Passed(None) | Api::Daemon(None) => None,
        }
    }

    pub(super) fn judge(&mut self, health: Health) {
        if let Health::Silent(silence) = health {
            return self.judge_silence(silence);
        }
        if matches!(self.machine.state, State::Starting | State::Reviving) {
            return self.is_up();
        }
        self.judge_answer();
        self.find_helper();
        self.look_at_parts();
        self.check_ports();
        if self.machine.state == State::Ready && self.carrier_is_lost() {
            self.launch.helper_is_gone();
            self.raise(Event::HelperDied);
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
            if self.launch.wants_helper && self.launch.helper.is_none() {
                warn!(
                    "cannot find the network helper process; it will not be restarted if it dies"
                );
            }
        }
        self.launch.settles = Some(Instant::now() + SETTLED);
        self.raise(Event::Answered);
        // It may have gone while nobody could do anything about it.
        if self.launch.helper.is_none() && self.launch.lost.is_some() {
            self.raise(Event::HelperDied);
        }
        self.launch.ports.outlive();
        self.follow();
        self.tick();
        if let Some(api) = self.api_path() {
            let (turn, inputs) = (self.turn, self.inputs.clone());
            let asking = self.launch.tasks.spawn(async move {
                if let Some(version) = health::version(&api).await {
                    let _ = inputs.send(Input::Version(turn, version));
                }
            });
            self.launch.asking.push(asking);
        }
    }

    /// What containerd does instead of an answer. No container runs through it: it is told, and left
    /// alone.
    pub(super) fn judge_engine(&mut self, silence: Option<Silence>) {
        let Some(silence) = silence else {
            if self.problems.remove("containerd").is_some() {
                info!("containerd answers again");
                self.write_status();
            }
            return;
        };
        let what = news::explain(silence, "containerd");
        if self.problems.get("containerd") != Some(&what) {
            warn!("{what}");
            self.problems.insert("containerd", what);
            self.write_status();
        }
    }

    /// Finds the network helper, and watches it.
    pub(super) fn find_helper(&mut self) {
        if self.launch.wants_helper
            && self.launch.helper.is_none()
            && self.launch.healing.is_none()
            && let Some(helper) = Helper::find(&tree::descendants())
        {
            self.watch(helper.identity, Input::HelperGone(self.number));
            self.launch.helper = Some(helper);
            self.write_status();
        }
    }

    /// Finds rootlesskit's process in the namespaces, and watches it. If it ends early, rootlesskit
    /// waits for a word of it for ever.
    pub(super) fn find_child(&mut self, rootlesskit: u32) {
        let (number, inputs) = (self.number, self.inputs.clone());
        self.launch.tasks.spawn(async move {
            while let Some(parent) = tree::read(rootlesskit).filter(|parent| !parent.zombie) {
                let child = tree::all()
                    .into_iter()
                    .find(|process| process.parent == parent.identity.pid && process.name == CHILD);
                if let Some(child) = child {
                    let _ = inputs.send(Input::Child(number, child.identity));
                    return;
                }
                quiet::sleep(MOMENT).await;
            }
        });
    }

    /// Has `input` arrive when the process has ended.
    pub(super) fn watch(&mut self, identity: Identity, input: Input) {
        let inputs = self.inputs.clone();
        self.launch.tasks.spawn(async move {
            match tree::open(identity).and_then(wait_on) {
                Ok(fd) => drop(fd.readable().await),
                Err(error) if tree::is_gone(&error) => {}
                // It cannot be watched for a cause of ours, which does not say that it has ended.
                Err(error) => {
                    debug!("process {} is watched by its name: {error}", identity.pid);
                    while tree::read(identity.pid).is_some_and(|now| now.identity == identity) {
                        quiet::sleep(SETTLED / 60).await;
                    }
                }
            }
            let _ = inputs.send(input);
        });
    }

    /// Whether the namespace's interface has lost its helper, which for some time only the kernel
    /// knows. A detached network namespace is not the one whose /sys dockerd sees.
    fn carrier_is_lost(&self) -> bool {
        let Some((daemon, _)) = &self.launch.daemon else {
            return false;
        };
        if !self.launch.wants_helper || self.task.first.0.network.detach_netns {
            return false;
        }
        let carrier = format!("/proc/{}/root/sys/class/net/tap0/carrier", daemon.pid);
        fs::read_to_string(carrier).is_ok_and(|text| text.trim() == "0")
    }

    /// Watches the names of what the daemon needs.
    pub(super) fn watch_places(&mut self) {
        let runtime_dir = self.task.run_dir.path().parent().map(Path::to_owned);
        let directories: Vec<&Path> =
            runtime_dir.as_deref().into_iter().chain([self.task.run_dir.path()]).collect();
        let inputs = self.inputs.clone();
        let watch = places::watch(&directories).and_then(wait_on);
        match watch {
            Ok(watch) => {
                self.launch.tasks.spawn(async move {
                    while let Ok(mut guard) = watch.readable().await {
                        // What happened does not count: somebody looks.
                        while nix::unistd::read(watch.get_ref(), &mut [0; 4096]).is_ok() {}
                        guard.clear_ready();
                        if inputs.send(Input::Places).is_err() {
                            return;
                        }
                    }
                });
            }
            Err(error) => warn!("the runtime directory cannot be watched: {error}"),
        }
    }

    /// Keeps what must not lose its name, so that it can get it back.
    pub(super) fn keep_places(&mut self) {
        let socket = self.task.api.own().map(Path::to_owned);
        let state_dir = self.task.first.1.session.places.state_dir.clone();
        let kept: Vec<PathBuf> = socket.into_iter().chain([state_dir]).collect();
        self.task.run_dir.keep_links(&kept);
    }

    /// Gives names back that somebody has removed. Where that cannot be, everything starts again.
    pub(super) fn look_after_places(&mut self) {
        let is_ending = matches!(
            self.machine.state,
            State::Falling
                | State::Stopping(_)
                | State::Clearing(..)
                | State::Waiting
                | State::Over
        );
        if is_ending {
            return;
        }
        let run_dir = &self.task.run_dir;
        let is_here = run_dir.is_there();
        if is_here && run_dir.has_all() {
            return;
        }
        match run_dir.link_back() {
            Ok(true) if is_here => {
                warn!("files in the runtime directory were deleted; restored them");
            }
            other => {
                debug!("what was removed does not come back: {other:?}");
                self.raise(Event::PlacesGone);
            }
        }
    }
}
