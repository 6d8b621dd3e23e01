//! Does what the machine decides, but for what concerns dockerd and containerd in place.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::SystemTime;

use nix::sys::signal::Signal;
use sd_notify::NotifyState;
use tokio::time::Instant;
use tracing::warn;

use crate::check::trial::remove_bind_directories;
use crate::error::{Error, Exit};
use crate::plan::Api;
use crate::stage::launch;
use crate::supervise::{
    CLEAR, DUMP, Daemon, FALL, GRACE, HEAL, Input, Launch, PLUGIN_GRACE, START_MARGIN, Supervisor,
    dice, dumps, helper, idle, news, places, ports, progress, remains,
};
use crate::supervise::{Death, Effect, Event, How, Limit, State};
use crate::sys::tree;

/// How many of dockerd's dumps stay.
const DUMPS: usize = 2;

impl Supervisor<'_> {
    pub(super) async fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Launch => self.launch(),
                Effect::Revive => self.revive(),
                Effect::StartEngine(pause) => self.later(pause, Input::StartEngine(self.number)),
                Effect::Ask(ask) => self.ask(ask),
                Effect::Retire => self.retire().await,
                Effect::EndNamespaces => self.end_namespaces(),
                Effect::KillDaemon => self.kill_daemon(),
                Effect::Kill => tree::signal_all(&tree::descendants(), Signal::SIGKILL),
                Effect::Clear => self.clear(),
                Effect::Heal => self.heal(),
                // What the containers need is asked first.
                Effect::Arm(Limit::Stop) => {}
                Effect::Arm(limit) => self.arm(limit),
                Effect::Disarm => self.deadline = None,
                Effect::Tell(notice) => self.tell(notice),
                Effect::Leave(verdict) => self.over = Some(verdict),
            }
        }
    }

    fn arm(&mut self, limit: Limit) {
        let time = match limit {
            Limit::Start | Limit::Answer => self.task.start,
            Limit::Yield => progress::HUNG,
            Limit::Heal => HEAL,
            Limit::Stop => self.task.shutdown + crate::supervise::STOP_MARGIN,
            Limit::Fall => FALL,
            Limit::Dump => DUMP,
            Limit::Clear => CLEAR,
            Limit::Pause(pause) => pause,
        };
        self.deadline = Some((Instant::now() + time, limit));
    }

    /// The time is over that was given. dockerd gets more as long as it does anything: slow is not
    /// dead.
    pub(super) fn too_late(&mut self) {
        let Some((_, limit)) = self.deadline.take() else {
            return;
        };
        let waits_for_dockerd = matches!(limit, Limit::Answer | Limit::Yield);
        if waits_for_dockerd && self.launch.daemon.is_some() && !self.may_end_hung() {
            self.tell_slow();
            self.launch.overdue = Some(limit);
            self.deadline = Some((Instant::now() + progress::HUNG, limit));
            return;
        }
        self.raise(Event::Deadline);
    }

    /// Whether dockerd does nothing at all, and nobody says that it is to be left alone, nor that its
    /// containers, for which it may be waiting, end with it.
    pub(super) fn may_end_hung(&self) -> bool {
        let is_hung = self.launch.silence == Some(progress::Silence::Hung);
        let is_wanted = matches!(self.machine.state, State::Replacing(_));
        let may_be_replaced = (self.task.replaces_hung || is_wanted) && self.daemon.live_restore;
        is_hung && (may_be_replaced || !self.machine.has_answered)
    }

    pub(super) fn launch(&mut self) {
        self.number += 1;
        self.turn += 1;
        self.launch = Launch {
            begun: Some(SystemTime::now()),
            phase: "rootlesskit has not entered its namespaces",
            ..Launch::default()
        };
        if let Err(error) = self.try_launch() {
            self.death = format!("the launch is refused: {error}");
            self.note_failure(self.death.clone());
            let exit = error.exit();
            let death = Death {
                how: How::Code(exit.code()),
                permanent: Some(exit).filter(|exit| *exit != Exit::Failed),
                left: false,
                dice: dice(),
            };
            self.refusal = Some(error);
            self.raise(Event::Ended(death));
        }
    }

    fn try_launch(&mut self) -> Result<(), Error> {
        let failed = |error: &dyn std::error::Error| {
            Error::new(Exit::Failed, "the daemon's messages cannot be passed on").because(error)
        };
        if self.number > 1 {
            self.task.first = (self.task.prepare)()?;
            self.remake_places()?;
            let plan = &self.task.first.0;
            self.daemon = Daemon {
                command: plan.stage.daemon.clone(),
                keep: plan.keep.clone(),
                live_restore: plan.keep.live_restore,
            };
        }
        let (plan, host) = &self.task.first;
        remains::kill_orphans(&host.session.places.data_root, &plan.exec_root)?;
        self.write_config(self.daemon.live_restore)?;
        let (plan, host) = &self.task.first;
        let errors = self.writer.try_clone().map_err(|error| failed(&error))?;
        let (ours, keepers) = UnixStream::pair().map_err(|error| failed(&error))?;
        let listeners: Vec<_> = self.listeners.iter().map(AsFd::as_fd).collect();
        let child = launch::spawn(plan, &listeners, keepers.as_fd(), errors)?;
        self.launch.rootlesskit = Some(child.id());
        self.launch.wants_helper = plan.network.has_helper;
        if self.number == 1 {
            // A unit's own limit does not know the setting.
            news::extend(self.task.start + START_MARGIN);
        }
        self.status.network_driver = plan.network.driver.word().display().to_string();
        self.status.port_driver = plan.network.port_driver.word().display().to_string();
        let version = host.tools.rootlesskit.known().and_then(|facts| facts.version);
        self.status.rootlesskit_version = version.map(|version| version.to_string());
        dumps::keep_last_dumps(&plan.exec_root, DUMPS);
        self.note_programs();
        self.find_child(child.id());
        self.speak_with_keeper(ours).map_err(|error| failed(&error))?;
        self.write_status();
        Ok(())
    }

    /// Makes our directory and our socket again, if somebody has removed their names.
    pub(super) fn remake_places(&mut self) -> Result<(), Error> {
        if !self.task.run_dir.is_there() {
            self.task.run_dir.renew()?;
            self.receive_messages().map_err(|error| {
                Error::new(Exit::Failed, "messages cannot be received").because(&error)
            })?;
        }
        if let Api::Own(path) = &self.task.api
            && !path.exists()
        {
            let (listener, name) = places::listen_at(path)?;
            (self.listeners, self.socket) = (vec![listener], Some(name));
        }
        Ok(())
    }

    /// Asks an idle daemon to end.
    async fn retire(&mut self) {
        self.stop_asking();
        let is_free = match (&self.launch.daemon, &self.task.api) {
            (Some((identity, fd)), Api::Passed(Some(path))) => {
                idle::retire(identity.pid, fd, path).await
            }
            _ => false,
        };
        match is_free {
            true => {
                self.arm(Limit::Stop);
                news::tell(&[NotifyState::Stopping]);
            }
            false => {
                if let Some((identity, _)) = &self.launch.daemon {
                    self.look_after(*identity);
                    self.follow();
                }
                self.raise(Event::StillUsed);
            }
        }
    }

    /// Ends what is left of a launch that is over: first in a friendly way, and soon in the other; at
    /// once where nobody makes use of the time.
    fn clear(&mut self) {
        if self.launch.rootlesskit.is_some() {
            return;
        }
        let left = tree::descendants();
        let exec_root = &self.task.first.0.exec_root;
        let can_end = |process| remains::can_end_in_order(process, exec_root);
        let grace = match left.iter().any(ports::is_plugin) {
            true => PLUGIN_GRACE,
            false => GRACE,
        };
        tree::signal_all(&left, Signal::SIGTERM);
        if left.iter().any(can_end) {
            self.grace = Some(Instant::now() + grace);
        }
        self.look_whether_clear();
    }

    pub(super) fn look_whether_clear(&mut self) {
        let is_clearing = matches!(self.machine.state, State::Clearing(..));
        if !is_clearing || self.launch.rootlesskit.is_some() {
            return;
        }
        let left = tree::descendants();
        if !left.is_empty() {
            if self.grace.is_none() {
                tree::signal_all(&left, Signal::SIGKILL);
            }
            return;
        }
        self.grace = None;
        let (plan, host) = &self.task.first;
        if let Some(runtime_dir) = self.task.run_dir.path().parent() {
            let state_dir = &host.session.places.state_dir;
            let is_new = self.exec_root_is_new;
            remains::remove_files(state_dir, &plan.exec_root, runtime_dir, is_new);
        }
        if let (Some(begun), None) = (self.launch.begun, self.launch.keeper) {
            remove_bind_directories(begun);
        }
        self.task.run_dir.forget_links();
        // What this launch was asked for, it is not asked any more.
        self.launch = Launch { phase: self.launch.phase, ..Launch::default() };
        self.number += 1;
        self.raise(Event::Cleared);
    }

    pub(super) fn heal(&mut self) {
        if let Some(old) = self.launch.healing.take() {
            let old: Vec<_> = tree::read(old).into_iter().collect();
            tree::signal_all(&old, Signal::SIGKILL);
        }
        let lost = self.launch.lost.as_ref();
        let alive: Vec<_> = lost
            .and_then(|helper| tree::read(helper.identity.pid))
            .into_iter()
            .filter(|process| lost.is_some_and(|helper| helper.identity == process.identity))
            .collect();
        tree::signal_all(&alive, Signal::SIGKILL);
        let errors = self.writer.try_clone().map(Stdio::from);
        let started = match &self.launch.lost {
            Some(helper) if !helper.holds_ports() => {
                errors.and_then(|errors| helper.start_again(errors))
            }
            Some(_) => Err(io::Error::other("the ports that containers publish went with it")),
            None => Err(io::Error::other("how it was started is not known")),
        };
        match started {
            Ok(starting) => {
                let pid = starting.pid;
                self.launch.healing = Some(pid);
                if let Some(tells) = starting.tells {
                    let inputs = self.inputs.clone();
                    self.launch.tasks.spawn(async move {
                        let is_ready = helper::is_ready(tells).await;
                        let _ = inputs.send(Input::HelperReady(pid, is_ready));
                    });
                }
            }
            Err(error) => {
                warn!("the network helper cannot be started again: {error}");
                self.raise(Event::HelperFailed);
            }
        }
    }
}
