//! Performs the machine's effects. Starts everything, clears up behind it, and heals the network.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::error::Error;
use crate::facts::places::Places;
use crate::plan::Api;
use crate::stage::launch;
use crate::stage::orders::Order;
use crate::supervise::dockerd::write_config;
use crate::supervise::{
    Death, Effect, Event, How, Launch, MOMENT, NO_LOG, Notice, Running, Silence, State, Supervisor,
    Why, failed, helper, leftovers, notices, progress, run_dir, wait, wait_on,
};
use crate::sys::processes::{self, Identity};

/// How many of dockerd's dumps stay.
const DUMPS: usize = 2;

/// How long containers and plugins that a dead daemon left may take to end by themselves.
const GRACE: Duration = Duration::from_secs(10);

/// How often the network helper is started again before everything is.
const HEAL_ATTEMPTS: u8 = 2;

/// How long a network helper may take to be ready.
const HEALS: Duration = Duration::from_secs(5);

/// How long rootlesskit may take to end after its process in the namespaces, and the kernel's name
/// for that one.
const FALLS: Duration = Duration::from_secs(10);
const CHILD: &str = "exe";

/// What the service manager allows beyond the time for a start, for us to clear up.
const START_MARGIN: Duration = Duration::from_secs(30);

impl Supervisor<'_> {
    pub(super) fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Launch => self.launch(),
                Effect::Revive => self.revive(),
                Effect::Yield => self.yield_place(),
                Effect::End => self.end_in_order(),
                Effect::Dump => self.signal_daemon(Signal::SIGUSR1),
                Effect::KillDaemon => self.kill_daemon(),
                Effect::Kill => processes::signal_all(&processes::descendants(), Signal::SIGKILL),
                Effect::Clear => self.clear(),
                Effect::Arm(time) => self.arm(time),
                Effect::Disarm => self.deadline = None,
                Effect::Tell(notice) => self.tell(notice),
                Effect::Leave(verdict) => {
                    (self.over, self.outcome.verdict) = (true, verdict);
                }
            }
        }
    }

    pub(super) fn arm(&mut self, time: Duration) {
        self.deadline = Some(Instant::now() + time);
    }

    /// The time is over that was given. dockerd gets more as long as it does anything: slow is not
    /// dead.
    pub(super) fn too_late(&mut self) {
        let is_killed = matches!(self.machine.state, State::Replacing(Why::Hung | Why::Late));
        let is_awaited =
            matches!(self.machine.state, State::Starting | State::Reviving | State::Replacing(_));
        let has_more = is_awaited && !is_killed && !self.may_end_hung();
        if has_more && self.launch.daemon.is_some() {
            // Not longer than it takes to find that it hangs.
            self.arm(progress::HUNG / 2);
            return self.tell_slow();
        }
        self.deadline = None;
        self.raise(Event::Deadline);
    }

    /// Whether dockerd does nothing at all, and may end for that: the settings allow it, and its
    /// containers, for which it may be waiting, do not end with it.
    fn may_end_hung(&self) -> bool {
        let is_hung = self.launch.silence == Some(Silence::Hung);
        let is_wanted = matches!(self.machine.state, State::Replacing(_));
        let may_be_replaced =
            (self.task.replaces_hung || is_wanted) && self.running.keep.live_restore;
        is_hung && (may_be_replaced || !self.machine.has_answered)
    }

    fn launch(&mut self) {
        self.outcome.phase = "rootlesskit has not entered its namespaces";
        self.launch = Launch { begun: Some(SystemTime::now()), ..Launch::default() };
        if let Err(error) = self.try_launch() {
            self.death = format!("cannot launch: {error}");
            let (how, permanent) = (How::Code(error.exit().code()), Some(error.exit()));
            self.outcome.refusal = Some(error);
            self.raise(Event::Ended(Death { how, permanent, left: false }));
        }
    }

    fn try_launch(&mut self) -> Result<(), Error> {
        let planned = match self.planned.take() {
            Some(planned) => planned,
            None => {
                let planned = self.task.caller.plan_launch()?;
                let (api, shutdown) = (self.running.api.clone(), self.running.shutdown);
                self.running = Running::new(&planned, api, shutdown);
                planned
            }
        };
        let (plan, host) = planned;
        self.remake_places()?;
        // A unit's own limit does not know the setting.
        notices::extend(self.task.start + START_MARGIN);
        let Places { data_root, exec_root, daemon_json, .. } = &self.running.places;
        leftovers::kill_orphans(data_root, exec_root)?;
        leftovers::keep_last_dumps(exec_root, DUMPS);
        write_config(&self.running.keep, daemon_json)?;
        let errors = self.writer.try_clone().map_err(failed(NO_LOG))?;
        let (ours, keepers) = UnixStream::pair().map_err(failed("cannot reach the keeper"))?;
        let listeners: Vec<_> = self.listeners.iter().map(AsFd::as_fd).collect();
        let rootlesskit = launch::spawn(&plan, &listeners, keepers.as_fd(), errors)?.id();
        self.launch.rootlesskit = Some(rootlesskit);
        self.find_child(rootlesskit);
        self.status.network_driver = plan.network.driver.word().display().to_string();
        self.status.port_driver = plan.network.port_driver.word().display().to_string();
        self.status.clients = plan.network.source.seen.words();
        let version = host.tools.rootlesskit.known().and_then(|facts| facts.version);
        self.status.rootlesskit_version = version.map(|version| version.to_string());
        self.speak_with_keeper(ours).map_err(failed("cannot reach the keeper"))?;
        self.write_status();
        Ok(())
    }

    /// Finds rootlesskit's process in the namespaces, and watches it.
    fn find_child(&mut self, rootlesskit: u32) {
        let find = async move {
            while processes::read(rootlesskit).is_some_and(|parent| !parent.zombie) {
                let mut all = processes::all().into_iter();
                let child = all.find(|one| one.parent == rootlesskit && one.name == CHILD);
                if let Some(child) = child {
                    return Some(child.identity);
                }
                wait::sleep(MOMENT).await;
            }
            None
        };
        self.launch.tasks.when(find, |it, child| {
            if let Some(child) = child {
                it.watch_stage(child);
            }
        });
    }

    /// Watches a process that the namespaces depend on. rootlesskit may wait for ever for the word of
    /// one that has ended.
    pub(super) fn watch_stage(&mut self, identity: Identity) {
        let opened = processes::open(identity).and_then(wait_on);
        if let Err(error) = &opened
            && !processes::is_gone(error)
        {
            return debug!("cannot watch process {}: {error}", identity.pid);
        }
        let end = async move {
            if let Ok(fd) = opened {
                drop(fd.readable().await);
            }
            wait::sleep(FALLS).await;
        };
        self.launch.tasks.when(end, |it, ()| {
            let left = it.launch.rootlesskit.and_then(processes::read);
            if let Some(rootlesskit) = left.filter(|process| !process.zombie) {
                warn!("rootlesskit does not end after its child; killing it");
                processes::signal_one(rootlesskit.identity, Signal::SIGKILL);
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
            && (self.socket.is_none() || !path.exists())
        {
            let (listener, name) = run_dir::listen_at(path)?;
            (self.listeners, self.socket) = (vec![listener], Some(name));
        }
        Ok(())
    }

    /// Ends the namespaces, in which nothing useful runs any more, and then what is left of a launch:
    /// at once where no process makes use of the time.
    fn clear(&mut self) {
        if self.launch.rootlesskit.is_some() {
            return self.order(&Order::End);
        }
        processes::signal_all(&processes::descendants(), Signal::SIGTERM);
        self.launch.has_grace = true;
        self.launch.tasks.later(GRACE, |it| {
            it.launch.has_grace = false;
            it.look_whether_clear();
        });
        self.look_whether_clear();
    }

    pub(super) fn look_whether_clear(&mut self) {
        let is_clearing = matches!(self.machine.state, State::Clearing(..));
        if !is_clearing || self.launch.rootlesskit.is_some() {
            return;
        }
        let Places { state_dir, exec_root, .. } = &self.running.places;
        let left = processes::descendants();
        if !left.is_empty() {
            let ends = |process| leftovers::can_end_in_order(process, exec_root);
            if !self.launch.has_grace || !left.iter().any(ends) {
                processes::signal_all(&left, Signal::SIGKILL);
            }
            return;
        }
        if let Some(runtime_dir) = self.task.run_dir.path().parent() {
            let is_new = self.running.exec_root_is_new;
            leftovers::remove_files(state_dir, exec_root, runtime_dir, is_new);
        }
        if let (Some(begun), None) = (self.launch.begun, self.launch.keeper) {
            launch::remove_bind_directories(begun);
        }
        self.task.run_dir.forget_links();
        self.launch = Launch::default();
        self.raise(Event::Cleared);
    }

    /// Starts the network helper again, and everything if that has failed.
    pub(super) fn heal(&mut self) {
        if self.machine.state != State::Ready {
            return;
        }
        if self.launch.attempts == HEAL_ATTEMPTS {
            return self.raise(Event::RestartAll(Why::Helper));
        }
        self.launch.attempts += 1;
        self.tell(Notice::HelperLost);
        if let Err(error) = self.start_helper() {
            warn!("cannot restart the network helper: {error}");
            return self.heal();
        }
        self.write_status();
    }

    fn start_helper(&mut self) -> io::Result<()> {
        let lost = self.launch.lost.as_ref();
        let lost = lost.ok_or_else(|| io::Error::other("its arguments are not known"))?;
        if lost.holds_ports() {
            return Err(io::Error::other("it took the published ports with it"));
        }
        let starting = lost.start_again(Stdio::from(self.writer.try_clone()?))?;
        let started = processes::read(starting.pid).ok_or(io::ErrorKind::NotFound)?.identity;
        self.launch.healing = Some(started);
        if let Some(tells) = starting.tells {
            let ready = helper::is_ready(tells);
            self.launch.tasks.when(ready, move |it, is_ready| it.healed(started, is_ready));
        }
        self.launch.tasks.later(HEALS, move |it| it.healed(started, false));
        Ok(())
    }

    /// Takes what became of the network helper that is being started.
    pub(super) fn healed(&mut self, started: Identity, is_ready: bool) {
        if self.launch.healing.take_if(|now| *now == started).is_none() {
            return;
        }
        if !is_ready {
            processes::signal_one(started, Signal::SIGKILL);
            return self.heal();
        }
        (self.launch.lost, self.launch.attempts) = (None, 0);
        self.status.heals += 1;
        self.tell(Notice::HelperBack);
        self.look_after_helper();
        self.write_status();
    }
}
