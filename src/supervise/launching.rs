//! Performs the machine's effects. Starts everything, clears up behind it, and heals the network.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use sd_notify::NotifyState;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::error::{Error, Exit};
use crate::facts::places::Places;
use crate::plan::Api;
use crate::stage::launch;
use crate::supervise::{
    Deadline, Death, Effect, Event, How, Launch, Limit, MOMENT, Running, Silence, State,
    Supervisor, dice, failed, helper, idle, leftovers, notices, ports, progress, run_dir,
};
use crate::sys::processes;

/// How many of dockerd's dumps stay.
const DUMPS: usize = 2;

/// How long containers that a dead daemon left may take to end by themselves.
const GRACE: Duration = Duration::from_millis(100);

/// The same for dockerd's plugins. dockerd itself gives them as much.
const PLUGIN_GRACE: Duration = Duration::from_secs(10);

/// What the service manager allows beyond the time for a start, for us to clear up.
const START_MARGIN: Duration = Duration::from_secs(30);

/// rootlesskit starts itself again, as /proc/self/exe.
const CHILD: &str = "exe";

impl Supervisor<'_> {
    pub(super) async fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Launch => self.launch(),
                Effect::Revive => self.revive(),
                Effect::StartEngine(pause) => {
                    self.launch.tasks.later(pause, |it| it.start_engine())
                }
                Effect::Ask(ask) => self.ask(ask),
                Effect::Retire => self.retire().await,
                Effect::EndNamespaces => self.end_namespaces(),
                Effect::KillDaemon => self.kill_daemon(),
                Effect::Kill => processes::signal_all(&processes::descendants(), Signal::SIGKILL),
                Effect::Clear => self.clear(),
                Effect::Heal => self.heal(),
                Effect::Arm(limit) => self.arm(limit, limit.length(self.task.start, self.end)),
                Effect::Disarm => self.deadline = None,
                Effect::Tell(notice) => self.tell(notice),
                Effect::Leave(verdict) => self.over = Some(verdict),
            }
        }
    }

    fn arm(&mut self, limit: Limit, time: Duration) {
        self.deadline = Some(Deadline { at: Instant::now() + time, limit, is_extended: false });
    }

    /// The time is over that was given. dockerd gets more as long as it does anything: slow is not
    /// dead.
    pub(super) fn too_late(&mut self) {
        let may_go_on = self.launch.daemon.is_some() && !self.may_end_hung();
        if let Some(deadline) = &mut self.deadline
            && matches!(deadline.limit, Limit::Answer | Limit::Yield)
            && may_go_on
        {
            deadline.at = Instant::now() + progress::HUNG;
            deadline.is_extended = true;
            return self.tell_slow();
        }
        self.deadline = None;
        self.raise(Event::Deadline);
    }

    /// Whether dockerd does nothing at all, and may end for that: the settings allow it, and its
    /// containers, for which it may be waiting, do not end with it.
    pub(super) fn may_end_hung(&self) -> bool {
        let is_hung = self.launch.silence == Some(Silence::Hung);
        let is_wanted = matches!(self.machine.state, State::Replacing(_));
        let may_be_replaced =
            (self.task.replaces_hung || is_wanted) && self.running.keep.live_restore;
        is_hung && (may_be_replaced || !self.machine.has_answered)
    }

    fn launch(&mut self) {
        self.launch = Launch {
            begun: Some(SystemTime::now()),
            phase: "rootlesskit has not entered its namespaces",
            ..Launch::default()
        };
        if let Err(error) = self.try_launch() {
            self.death = format!("cannot launch: {error}");
            self.note_failure(self.death.clone());
            let exit = error.exit();
            let permanent = Some(exit).filter(|exit| *exit != Exit::Failed);
            self.refusal = Some(error);
            let how = How::Code(exit.code());
            self.raise(Event::Ended(Death { how, permanent, left: false, dice: dice() }));
        }
    }

    fn try_launch(&mut self) -> Result<(), Error> {
        let is_first = self.planned.is_some();
        let planned = match self.planned.take() {
            Some(planned) => planned,
            None => {
                let planned = self.task.caller.plan_launch()?;
                self.remake_places()?;
                let Running { api, shutdown, exec_root_is_new, .. } = self.running.clone();
                let running = Running::new(&planned, api, shutdown);
                self.running = Running { exec_root_is_new, ..running };
                planned
            }
        };
        let (plan, host) = planned;
        leftovers::kill_orphans(&self.running.places.data_root, &self.running.places.exec_root)?;
        let keep = &self.running.keep;
        self.write_config(keep.config.as_deref(), keep.live_restore)?;
        let errors = self.writer.try_clone().map_err(failed(crate::supervise::NO_LOG))?;
        let (ours, keepers) = UnixStream::pair().map_err(failed("cannot reach the keeper"))?;
        let listeners: Vec<_> = self.listeners.iter().map(AsFd::as_fd).collect();
        let child = launch::spawn(&plan, &listeners, keepers.as_fd(), errors)?.id();
        self.launch.rootlesskit = Some(child);
        if is_first {
            // A unit's own limit does not know the setting.
            notices::extend(self.task.start + START_MARGIN);
        }
        self.status.network_driver = plan.network.driver.word().display().to_string();
        self.status.port_driver = plan.network.port_driver.word().display().to_string();
        let version = host.tools.rootlesskit.known().and_then(|facts| facts.version);
        self.status.rootlesskit_version = version.map(|version| version.to_string());
        leftovers::keep_last_dumps(&self.running.places.exec_root, DUMPS);
        self.note_programs();
        self.find_child(child);
        self.speak_with_keeper(ours).map_err(failed("cannot reach the keeper"))?;
        self.write_status();
        Ok(())
    }

    /// Finds rootlesskit's process in the namespaces, and watches it. If it ends early, rootlesskit
    /// waits for its word for ever.
    fn find_child(&mut self, rootlesskit: u32) {
        let find = async move {
            while let Some(parent) = processes::read(rootlesskit).filter(|parent| !parent.zombie) {
                let is_child = |process: &processes::Process| {
                    process.parent == parent.identity.pid && process.name == CHILD
                };
                if let Some(child) = processes::all().into_iter().find(is_child) {
                    return Some(child.identity);
                }
                crate::supervise::wait::sleep(MOMENT).await;
            }
            None
        };
        self.launch.tasks.when(find, |it, child| {
            it.launch.child = child;
            if let Some(child) = child {
                it.launch.tasks.watch(child, |it| it.raise(Event::Fell));
            }
        });
    }

    /// Makes our directory and our socket again if they were deleted.
    pub(super) fn remake_places(&mut self) -> Result<(), Error> {
        if !self.task.run_dir.is_there() {
            self.task.run_dir.renew()?;
            self.listen()?;
        }
        if let Api::Own(path) = &self.running.api
            && !path.exists()
        {
            let (listener, name) = run_dir::listen_at(path)?;
            (self.listeners, self.socket) = (vec![listener], Some(name));
        }
        Ok(())
    }

    /// Asks an idle daemon to end.
    async fn retire(&mut self) {
        self.stop_asking();
        self.end = self.running.shutdown + crate::supervise::dockerd::STOP_MARGIN;
        let is_free = match (&self.launch.daemon, &self.running.api) {
            (Some((identity, fd)), Api::Passed(Some(path))) => {
                idle::retire(identity.pid, fd, path, &self.listeners).await
            }
            _ => false,
        };
        if is_free {
            return notices::tell_manager(&[NotifyState::Stopping]);
        }
        self.look_after();
        self.follow();
        self.raise(Event::StillUsed);
    }

    /// Ends what is left of a launch that is over: first in a friendly way, and soon in the other; at
    /// once where no process makes use of the time.
    fn clear(&mut self) {
        if self.launch.rootlesskit.is_some() {
            return;
        }
        let left = processes::descendants();
        processes::signal_all(&left, Signal::SIGTERM);
        let exec_root = &self.running.places.exec_root;
        if left.iter().any(|process| leftovers::can_end_in_order(process, exec_root)) {
            let has_plugin = left.iter().any(ports::is_plugin);
            let grace = if has_plugin { PLUGIN_GRACE } else { GRACE };
            self.launch.has_grace = true;
            self.launch.tasks.later(grace, |it| {
                it.launch.has_grace = false;
                it.look_whether_clear();
            });
        }
        self.look_whether_clear();
    }

    pub(super) fn look_whether_clear(&mut self) {
        let is_clearing = matches!(self.machine.state, State::Clearing(..));
        if !is_clearing || self.launch.rootlesskit.is_some() {
            return;
        }
        let left = processes::descendants();
        if !left.is_empty() {
            if !self.launch.has_grace {
                processes::signal_all(&left, Signal::SIGKILL);
            }
            return;
        }
        if let Some(runtime_dir) = self.task.run_dir.path().parent() {
            let Places { state_dir, exec_root, .. } = &self.running.places;
            let is_new = self.running.exec_root_is_new;
            leftovers::remove_files(state_dir, exec_root, runtime_dir, is_new);
        }
        if let (Some(begun), None) = (self.launch.begun, self.launch.keeper) {
            launch::remove_bind_directories(begun);
        }
        self.task.run_dir.forget_links();
        self.launch = Launch { phase: self.launch.phase, ..Launch::default() };
        self.raise(Event::Cleared);
    }

    fn heal(&mut self) {
        let lost = self.launch.lost.as_ref().map(|helper| helper.identity);
        let started = self.launch.healing.take().and_then(processes::read);
        let started = started.map(|process| process.identity);
        for old in lost.into_iter().chain(started).filter(|old| processes::is_there(*old)) {
            processes::signal_one(old, Signal::SIGKILL);
        }
        let starting = match &self.launch.lost {
            None => Err(io::Error::other("its arguments are not known")),
            Some(helper) if helper.holds_ports() => {
                Err(io::Error::other("it took the published ports with it"))
            }
            Some(helper) => {
                self.writer.try_clone().and_then(|errors| helper.start_again(Stdio::from(errors)))
            }
        };
        match starting {
            Ok(starting) => {
                let pid = starting.pid;
                self.launch.healing = Some(pid);
                if let Some(tells) = starting.tells {
                    self.launch.tasks.when(helper::is_ready(tells), move |it, is_ready| {
                        if it.launch.healing == Some(pid) {
                            it.healed(is_ready);
                        }
                    });
                }
            }
            Err(error) => {
                warn!("cannot restart the network helper: {error}");
                self.raise(Event::HelperFailed);
            }
        }
    }

    pub(super) fn healed(&mut self, is_ready: bool) {
        let pid = self.launch.healing.take();
        if is_ready {
            self.find_helper();
        } else {
            debug!("the network helper {pid:?} failed");
        }
        self.raise(if is_ready { Event::HelperBack } else { Event::HelperFailed });
        self.write_status();
    }
}
