//! Looks after a daemon that runs: how it is, and whether its processes and places are there.

use std::fs;
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::warn;

use super::health::Health;
use super::helper::Helper;
use super::{
    ASK_AGAIN, Input, MOMENT, SETTLED, Supervisor, Who, health, idle, places, quiet, tree, wait_on,
};
use crate::plan::Api;
use crate::supervise::{Event, State};

/// rootlesskit starts itself again, as /proc/self/exe.
const CHILD: &str = "exe";

impl Supervisor<'_> {
    /// Begins to ask the daemon how it is.
    pub(super) fn look_after(&mut self) {
        let (number, inputs) = (self.number, self.inputs.clone());
        // The service manager hears of us when the daemon has answered.
        let watchdog = sd_notify::watchdog_enabled().map(|time| time / 2);
        let interval = watchdog.map_or(self.task.probe, |time| time.min(self.task.probe));
        let api = self.api_path();
        let (poke, mut poked) = mpsc::unbounded_channel();
        self.launch.poke = Some(poke);
        let asking = self.launch.tasks.spawn(async move {
            loop {
                let health = match api.as_deref().filter(|path| path.exists()) {
                    Some(path) => health::ask(path).await,
                    None => Health::Good(None),
                };
                let pause = match health {
                    Health::Good(_) => interval,
                    _ => ASK_AGAIN,
                };
                if inputs.send(Input::Health(number, health)).is_err() {
                    return;
                }
                // Whether the time is over or somebody wants to know: it is asked.
                tokio::select! {
                    () = quiet::sleep(pause) => {}
                    _ = poked.recv() => {}
                }
            }
        });
        self.launch.asking = vec![asking];
        if let (Some(after), Api::Passed(Some(path))) = (self.task.idle, &self.task.api) {
            let listeners = self
                .listeners
                .iter()
                .filter_map(|fd| fd.try_clone().ok())
                .collect();
            let inputs = self.inputs.clone();
            let watch = idle::watch(path.clone(), listeners, after, move || {
                let _ = inputs.send(Input::Idle(number));
            });
            let asking = self.launch.tasks.spawn(watch);
            self.launch.asking.push(asking);
        }
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
                let pid = self.launch.daemon_pid()?;
                let inside = path.strip_prefix("/").ok()?;
                Some(PathBuf::from(format!("/proc/{pid}/root")).join(inside))
            }
            Api::Passed(None) | Api::Daemon(None) => None,
        }
    }

    pub(super) fn judge(&mut self, health: Health) {
        if !self.launch.has_answered && health != Health::NoAnswer {
            self.launch.has_answered = true;
            self.launch.phase = "dockerd answers";
            self.find_processes();
            self.watch_places();
            self.raise(Event::Answered);
            self.launch.settles = Some(Instant::now() + SETTLED);
            if self.launch.wants_helper && self.launch.helper.is_none() {
                warn!("the network helper is not found: it cannot be looked after");
            }
        }
        match health {
            Health::Good(version) => {
                self.find_processes();
                if let Some(version) =
                    version.filter(|new| self.status.dockerd_version.as_ref() != Some(new))
                {
                    self.status.dockerd_version = Some(version);
                    self.write_status();
                }
                if self.carrier_is_lost() {
                    self.launch.helper_is_gone();
                    self.raise(Event::HelperDied);
                }
                self.raise(Event::Healthy);
            }
            Health::NoEngine => self.raise(Event::NoEngine),
            Health::NoAnswer => self.raise(Event::NoAnswer),
        }
    }

    /// Finds the processes that matter, and watches them.
    pub(super) fn find_processes(&mut self) {
        if self.launch.containerd.is_some()
            && (self.launch.helper.is_some() || !self.launch.wants_helper)
        {
            return;
        }
        let processes = tree::descendants();
        let daemon = self.launch.daemon_pid();
        if self.launch.containerd.is_none() {
            let containerd = processes.iter().find(|process| {
                process.name == "containerd" && Some(process.parent) == daemon && !process.zombie
            });
            if let Some(process) = containerd {
                self.launch.containerd = Some(process.identity.pid);
                self.watch(process.identity, Who::Containerd);
            }
        }
        if self.launch.helper.is_none()
            && self.launch.healing.is_none()
            && let Some(helper) = Helper::find(&processes)
        {
            self.watch(helper.identity, Who::Helper);
            self.launch.helper = Some(helper);
        }
        self.write_status();
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

    /// Says when the process has ended.
    pub(super) fn watch(&mut self, identity: tree::Identity, who: Who) {
        let (number, inputs) = (self.number, self.inputs.clone());
        self.launch.tasks.spawn(async move {
            if let Ok(fd) = tree::open(identity).and_then(wait_on) {
                let _ = fd.readable().await;
            }
            let _ = inputs.send(Input::Gone(number, who));
        });
    }

    /// Whether the namespace's interface has lost its helper, which for some time only the kernel
    /// knows.
    pub(super) fn carrier_is_lost(&self) -> bool {
        let Some(pid) = self
            .launch
            .daemon_pid()
            .filter(|_| self.launch.wants_helper)
        else {
            return false;
        };
        let carrier = fs::read_to_string(format!("/proc/{pid}/root/sys/class/net/tap0/carrier"));
        self.machine.state == State::Ready && carrier.is_ok_and(|text| text.trim() == "0")
    }

    /// Watches the names of what the daemon needs.
    pub(super) fn watch_places(&mut self) {
        let runtime_dir = self.task.run_dir.path().parent().map(Path::to_owned);
        let directories: Vec<&Path> = runtime_dir
            .as_deref()
            .into_iter()
            .chain([self.task.run_dir.path()])
            .collect();
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

    pub(super) fn places_are_gone(&self) -> bool {
        let socket = self.task.api.own().is_some_and(|path| !path.exists());
        let state = !self.task.first.1.session.state_dir.path.exists();
        socket || state || !self.task.run_dir.is_there()
    }
}
