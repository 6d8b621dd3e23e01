//! containerd in namespaces that stay: how it starts, and what it has forgotten.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use crate::stage::orders::Order;
use crate::supervise::{
    ASK_AGAIN, Event, SETTLED, State, Supervisor, Why, health, leftovers, ports, wait, wait_on,
};
use crate::sys::processes::{self, Process};

/// How often dockerd is asked what a new containerd does not know, a second later each time.
const FORGOTTEN_ROUNDS: u32 = 4;

/// How long dockerd may take to stop what containerd has forgotten before that is killed: dockerd's
/// own default for a container.
const ORPHANS: Duration = Duration::from_secs(10);

/// How long a shim gets to see that its container has ended.
const SHIM: Duration = Duration::from_millis(300);

impl Supervisor<'_> {
    pub(super) fn start_engine(&self) {
        if let Some(engine) = &self.running.keep.engine {
            self.order(&Order::Engine(engine.clone()));
        }
    }

    /// Whether another dockerd could reach containerd and so the containers: its socket may have lost
    /// its name.
    pub(super) fn engine_is_reachable(&self) -> bool {
        let Some(engine) = &self.running.keep.engine else { return true };
        self.launch.keeper.is_some_and(|keeper| seen_by(keeper.pid, &engine.socket).exists())
    }

    /// containerd takes connections again. What it does not know any more is found.
    pub(super) fn engine_is_up(&mut self) {
        self.problems.remove("containerd");
        if self.launch.has_answered {
            info!("containerd runs again");
            self.look_for_forgotten();
        }
        if self.machine.state == State::Ready {
            self.launch.settles = Some(Instant::now() + SETTLED);
            self.look_after();
        }
        self.write_status();
    }

    /// Asks dockerd which of its containers containerd does not know any more.
    fn look_for_forgotten(&mut self) {
        let Some(api) = self.api_path() else {
            return self.launch.tasks.later(ASK_AGAIN, |it| it.end_orphans(&[]));
        };
        let sender = self.launch.tasks.sender();
        self.launch.tasks.spawn(async move {
            // dockerd may not have reached the new containerd yet.
            for round in 1..=FORGOTTEN_ROUNDS {
                wait::sleep(ASK_AGAIN * round).await;
                let forgotten = health::forgotten(&api).await.unwrap_or_else(|error| {
                    debug!("dockerd does not say what containerd has forgotten: {error}");
                    Vec::new()
                });
                let is_last = !forgotten.is_empty();
                sender.send(move |it| it.end_orphans(&forgotten));
                if is_last {
                    return;
                }
            }
        });
    }

    /// Ends containers whose shim is gone, and those that are `forgotten`. Nothing can reach them any
    /// more: containerd does not know them, and dockerd will say that they have ended.
    pub(super) fn end_orphans(&mut self, forgotten: &[(String, u32)]) {
        let Some(keeper) = self.launch.keeper else { return };
        // Those that are asked to end already have their time.
        if forgotten.is_empty() && self.launch.ports.ends_orphans {
            return;
        }
        let (ids, pids): (Vec<_>, Vec<_>) = forgotten.iter().cloned().unzip();
        let orphans = leftovers::orphans(keeper.pid, &self.running.places.data_root, &pids);
        if orphans.is_empty() {
            return;
        }
        for Process { identity, name, .. } in &orphans {
            let pid = identity.pid;
            warn!("containerd lost the container of process {pid} ({name}); ending it");
        }
        self.launch.ports.ends_orphans = true;
        processes::signal_all(&orphans, Signal::SIGTERM);
        let exec_root = &self.running.places.exec_root;
        let can_end = |orphan: &Process| leftovers::can_end_in_order(orphan, exec_root);
        let (waits, rest): (Vec<_>, Vec<_>) = orphans.into_iter().partition(can_end);
        processes::signal_all(&rest, Signal::SIGKILL);
        let ended = async move {
            let all = async {
                for process in &waits {
                    if let Ok(fd) = processes::open(process.identity).and_then(wait_on) {
                        let _ = fd.readable().await;
                    }
                }
            };
            let _ = timeout(ORPHANS, all).await;
            processes::signal_all(&waits, Signal::SIGKILL);
            // The shim sees its container end, and is useless then.
            wait::sleep(SHIM).await;
            let mut shims = processes::descendants();
            shims.retain(|process| ports::is_shim_of(process, &ids));
            processes::signal_all(&shims, Signal::SIGKILL);
        };
        self.launch.tasks.when(ended, |it, ()| {
            it.launch.ports.ends_orphans = false;
            it.raise(Event::Replace(Why::Forgotten));
        });
    }
}

/// Returns where we find what the process `pid` sees at `path`. An absolute link, such as `/var/run`,
/// would lead into our own root: the directory is resolved before.
pub(super) fn seen_by(pid: u32, path: &Path) -> PathBuf {
    let directory = path.parent().and_then(|directory| directory.canonicalize().ok());
    let real = directory.zip(path.file_name()).map(|(directory, name)| directory.join(name));
    let path = real.as_deref().unwrap_or(path);
    let inside = path.strip_prefix("/").unwrap_or(path);
    Path::new("/proc").join(pid.to_string()).join("root").join(inside)
}
