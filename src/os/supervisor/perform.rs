//! Does what the machine decides.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use sd_notify::NotifyState;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::super::launch;
use super::{
    CLEAR, DUMP, ENGINE, FALL, GRACE, HEAL, Input, Launch, START_MARGIN, STOP_MARGIN, Supervisor,
    dice, health, helper, idle, news, places, remains, tree,
};
use crate::error::{Error, Exit};
use crate::plan::Api;
use crate::supervise::{Ask, Death, Effect, Event, How, Limit, State};

impl Supervisor<'_> {
    pub(super) async fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Launch => self.launch(),
                Effect::Ask(Ask::End) => self.end().await,
                Effect::Ask(other) => self.ask(other),
                Effect::Retire => self.retire().await,
                Effect::Kill => tree::signal_all(&tree::descendants(), Signal::SIGKILL),
                Effect::Clear => self.clear(),
                Effect::Heal => self.heal(),
                Effect::KillEngine => {
                    let engine = self.launch.containerd.and_then(tree::read);
                    tree::signal_all(engine.as_slice(), Signal::SIGKILL);
                }
                // The end of the daemon arms it, when the containers were asked.
                Effect::Arm(Limit::Stop) => {}
                Effect::Arm(limit) => self.deadline = Some(Instant::now() + self.length(limit)),
                Effect::Disarm => self.deadline = None,
                Effect::Alive => news::tell(&[NotifyState::Watchdog]),
                Effect::Tell(notice) => self.tell(notice),
                Effect::Leave(verdict) => self.over = Some(verdict),
            }
        }
    }

    pub(super) fn length(&self, limit: Limit) -> Duration {
        match limit {
            Limit::Start => self.task.start,
            Limit::Engine => ENGINE,
            Limit::Heal => HEAL,
            Limit::Stop => self.task.shutdown + STOP_MARGIN,
            Limit::Fall => FALL,
            Limit::Dump => DUMP,
            Limit::Clear => CLEAR,
            Limit::Pause(pause) => pause,
        }
    }

    pub(super) fn launch(&mut self) {
        self.number += 1;
        self.launch = Launch {
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
                dice: dice(),
            };
            self.refusal = Some(error);
            self.raise(Event::Ended(death));
        }
    }

    pub(super) fn try_launch(&mut self) -> Result<(), Error> {
        if self.number > 1 {
            self.task.first = (self.task.prepare)()?;
            self.remake_places()?;
        }
        let (plan, host) = &self.task.first;
        let exec_root = &plan.exec_root;
        remains::kill_orphans(&host.session.data_root, exec_root);
        let errors = self.writer.try_clone().map_err(|error| {
            Error::new(Exit::Failed, "the daemon's messages cannot be passed on").because(&error)
        })?;
        let listeners: Vec<_> = self.listeners.iter().map(AsFd::as_fd).collect();
        let child = launch::spawn(plan, &listeners, errors.into())?;
        self.launch.rootlesskit = Some(child.id());
        self.launch.wants_helper = plan.has_helper;
        if self.number == 1 {
            // A unit's own limit does not know the setting.
            let limit = self.task.start + START_MARGIN;
            let usec = u32::try_from(limit.as_micros()).unwrap_or(u32::MAX);
            news::tell(&[NotifyState::ExtendTimeoutUsec(usec)]);
        }
        let programs = [
            &plan.rootlesskit,
            Path::new(&plan.stage.daemon[0]),
            &host.session.own_path,
        ];
        self.status.programs = programs
            .into_iter()
            .filter_map(news::program_file)
            .collect();
        self.status.network_driver = plan.decided("network.driver").unwrap_or_default();
        self.status.port_driver = plan.decided("network.port-driver").unwrap_or_default();
        let version = host
            .tools
            .rootlesskit
            .known()
            .and_then(|facts| facts.version);
        self.status.rootlesskit_version = version.map(|version| version.to_string());
        self.find_child(child.id());
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
            self.listeners = vec![places::listen_at(path)?];
        }
        Ok(())
    }

    pub(super) fn ask(&self, ask: Ask) {
        let signal = match ask {
            Ask::End => Signal::SIGTERM,
            Ask::Reload => Signal::SIGHUP,
            Ask::Dump => Signal::SIGUSR1,
        };
        if let Some((pid, fd)) = &self.launch.daemon
            && let Err(error) = tree::signal(fd, signal)
        {
            debug!("{signal} to {pid}: {error}");
        }
    }

    /// Asks the daemon to end, and gives its containers their time. One that is not there yet has
    /// none, and rootlesskit might wait for ever for what it has started.
    pub(super) async fn end(&mut self) {
        news::tell(&[NotifyState::Stopping]);
        if self.launch.daemon.is_none() {
            tree::signal_all(&tree::descendants(), Signal::SIGKILL);
        }
        let mut longest = self.task.shutdown;
        if let Some(path) = self.api_path().filter(|_| self.launch.has_answered) {
            // dockerd allows five seconds more than a container.
            match health::stop_timeout(&path).await {
                Some(seconds) => longest = longest.max(Duration::from_secs(seconds + 5)),
                None => longest = Duration::from_secs(86400),
            }
        }
        let limit = longest + STOP_MARGIN;
        let usec = u32::try_from(limit.as_micros()).unwrap_or(u32::MAX);
        news::tell(&[NotifyState::ExtendTimeoutUsec(usec)]);
        self.deadline = Some(Instant::now() + limit);
        self.ask(Ask::End);
    }

    /// Asks an idle daemon to end. It is stopped for a moment, in which nobody who is connected can
    /// be overlooked, and cannot open anything from then on: a connection stays with the socket.
    pub(super) async fn retire(&mut self) {
        self.stop_asking();
        let is_free = match (&self.launch.daemon, &self.task.api) {
            (Some((pid, fd)), Api::Passed(Some(path))) => idle::retire(*pid, fd, path).await,
            _ => false,
        };
        match is_free {
            true => {
                self.deadline = Some(Instant::now() + self.length(Limit::Stop));
                news::tell(&[NotifyState::Stopping]);
            }
            false => {
                self.look_after();
                self.raise(Event::StillUsed);
            }
        }
    }

    /// Ends what is left of a launch that is over: first in a friendly way, and soon in the other; at
    /// once where nobody makes use of the time.
    pub(super) fn clear(&mut self) {
        let left = tree::descendants();
        let exec_root = &self.task.first.0.exec_root;
        let can_end = |process| remains::can_end_in_order(process, exec_root);
        tree::signal_all(&left, Signal::SIGTERM);
        if left.iter().any(can_end) {
            self.grace = Some(Instant::now() + GRACE);
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
            remains::remove_files(&host.session.state_dir.path, &plan.exec_root, runtime_dir);
        }
        // What this launch was asked for, it is not asked any more.
        self.launch = Launch {
            phase: self.launch.phase,
            ..Launch::default()
        };
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
            Some(_) => Err(io::Error::other(
                "the ports that containers publish went with it",
            )),
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
