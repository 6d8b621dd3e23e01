//! Published ports, and the processes that they depend on: those that forward, and the shims of
//! containers. A port is lost when what served it is gone and its container still publishes it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::supervise::health::{self, Forwarded, Published};
use crate::supervise::{ASK_AGAIN, Event, State, Supervisor, Why};
use crate::sys::processes::{self, Identity, Process};
use crate::sys::wait;

/// How often the processes are looked at as long as a port is published.
const TICK: Duration = Duration::from_millis(1500);

/// Containers start and end in crowds.
const SETTLE: Duration = Duration::from_millis(200);

/// How long a container may take from its ports to its start.
const STARTS: Duration = Duration::from_secs(10);

/// How long dockerd is left alone after it was replaced for a port, at least and at most.
const REPAIR_MIN: Duration = Duration::from_secs(2);
const REPAIR_MAX: Duration = Duration::from_secs(120);

/// The process that listens for a port in the namespaces, and one that waits for it there and does
/// not end with it, by the kernel's names of at most 15 bytes.
const SERVER: &str = "docker-proxy";
const WAITER: &str = "rootlesskit-doc";

/// containerd's namespace for plugins of dockerd (moby's `DefaultPluginNamespace`).
const PLUGINS: &str = "plugins.moby";

/// The kernel's name for a shim.
const SHIM: &str = "containerd-shim";

/// What is known of published ports.
#[derive(Default)]
pub struct Ports {
    /// What containers publish.
    published: BTreeSet<Published>,
    /// What rootlesskit forwards and no container publishes, and since when that is so.
    unpublished: BTreeMap<u64, Instant>,
    /// The processes that forward, whether they serve a port themselves, and which.
    proxies: BTreeMap<Identity, (bool, Published)>,
    /// The containers' shims.
    shims: BTreeSet<Identity>,
    /// Whether processes forward at all: dockerd can do without them.
    has_proxies: bool,
    /// Ports of containers that rootlesskit has forwarded.
    forwarded: BTreeSet<Published>,
    /// Ports that were lost at the last look.
    suspected: BTreeSet<Published>,
    /// Processes that were stopped then.
    stopped: BTreeSet<Identity>,
    /// Whether the next look at the processes is on its way.
    pub(super) ticks: bool,
    /// When dockerd was replaced for a port, and how long it is left alone from then on.
    repaired: Option<(Instant, Duration)>,
    /// Asks for the list; `true` if dockerd is to finish what it does first.
    ask: Option<mpsc::UnboundedSender<bool>>,
}

impl Ports {
    /// Returns what rootlesskit forwards for others than containers. For a container that starts it
    /// forwards before dockerd lists it.
    pub fn foreign(&self) -> BTreeSet<u64> {
        let since = self.unpublished.iter();
        since.filter(|(_, since)| since.elapsed() >= STARTS).map(|(id, _)| *id).collect()
    }

    /// Forgets what ends with a dockerd.
    pub fn outlive(&mut self) {
        self.proxies.clear();
        self.suspected.clear();
        self.stopped.clear();
    }

    /// Finds the published ports that are lost, when rootlesskit forwards `now`.
    fn lost(&self, now: Option<&Forwarded>) -> BTreeSet<Published> {
        let serves =
            |port: &Published| self.proxies.values().any(|(serves, own)| *serves && own == port);
        let forwards = |port: &Published| now.is_none_or(|now| now.values().any(|own| own == port));
        let is_lost = |port: &&Published| {
            (self.has_proxies && !serves(port))
                || (self.forwarded.contains(*port) && !forwards(port))
        };
        self.published.iter().filter(is_lost).cloned().collect()
    }

    /// Takes what rootlesskit forwards.
    fn note_forwarded(&mut self, forwarded: Forwarded) {
        self.unpublished.retain(|id, _| forwarded.contains_key(id));
        for (id, port) in forwarded {
            if self.published.contains(&port) {
                self.unpublished.remove(&id);
                self.forwarded.insert(port);
            } else {
                self.unpublished.entry(id).or_insert_with(Instant::now);
            }
        }
    }

    /// Finds the processes that forward, and the shims.
    fn find_processes(&mut self) {
        self.proxies.clear();
        self.shims.clear();
        for process in processes::descendants().iter().filter(|process| !process.zombie) {
            let (identity, name) = (process.identity, process.name.as_str());
            if is_shim(process) {
                self.shims.insert(identity);
            } else if matches!(name, SERVER | WAITER)
                && let Some(port) = port_of(&processes::words(identity.pid))
            {
                self.proxies.insert(identity, (name == SERVER, port));
            }
        }
        self.has_proxies |= !self.proxies.is_empty();
    }
}

/// Says whether a process is a shim that has not ended.
pub fn is_shim(process: &Process) -> bool {
    !process.zombie && process.name == SHIM
}

/// Says whether a process is the shim of one of dockerd's plugins, which are containers of another
/// kind: dockerd leaves them alone when it ends and was started with live-restore, whatever it was
/// told later.
pub fn is_plugin(process: &Process) -> bool {
    is_shim_of(process, &[PLUGINS])
}

/// Says whether a process is the shim of a container that has one of these `names`.
pub fn is_shim_of(process: &Process, names: &[impl AsRef<OsStr>]) -> bool {
    let words = || processes::words(process.identity.pid);
    is_shim(process) && words().iter().any(|word| names.iter().any(|name| name.as_ref() == word))
}

/// Says whether the user has rootlesskit publish this port.
pub fn is_explicit(flags: &[String], port: &Published) -> bool {
    flags.iter().any(|flag| parse_flag(flag).as_ref() == Some(port))
}

/// Parses `[ADDRESS:]PORT:[ADDRESS:]PORT[/PROTOCOL]`: the first port is the host's.
fn parse_flag(flag: &str) -> Option<Published> {
    let (ports, protocol) = flag.rsplit_once('/').unwrap_or((flag, "tcp"));
    // An IPv6 address stands in brackets.
    let ports = match ports.starts_with('[') {
        true => ports.split_once(']')?.1,
        false => ports,
    };
    let number = ports.split(':').find_map(|part| part.parse().ok())?;
    Some((protocol.trim_end_matches(['4', '6']).to_owned(), number))
}

/// Reads the port from the arguments of a process that forwards: `-proto tcp … -host-port 8080 …`.
fn port_of(words: &[OsString]) -> Option<Published> {
    let pairs = words.windows(2).filter_map(|pair| Some((pair[0].to_str()?, pair[1].to_str()?)));
    let value = |name: &str| pairs.clone().find(|(flag, _)| flag.trim_start_matches('-') == name);
    Some((value("proto")?.1.to_owned(), value("host-port")?.1.parse().ok()?))
}

impl Supervisor<'_> {
    /// Returns where rootlesskit takes requests.
    pub(super) fn rootlesskit_api(&self) -> PathBuf {
        self.running.places.state_dir.join("api.sock")
    }

    /// Begins to follow what containers publish.
    pub(super) fn watch_ports(&mut self) {
        let Some(api) = self.api_path() else {
            return;
        };
        let inputs = self.launch.asking.sender();
        let (ask, mut asked) = mpsc::unbounded_channel();
        self.launch.ports.ask = Some(ask.clone());
        let daemon = api.clone();
        self.launch.asking.spawn(async move {
            let changed = || {
                let _ = ask.send(false);
            };
            loop {
                changed();
                if let Err(error) = health::watch_containers(&daemon, changed).await {
                    debug!("dockerd does not tell its events: {error}");
                }
                wait::sleep(ASK_AGAIN).await;
            }
        });
        let rootlesskit = self.rootlesskit_api();
        self.launch.asking.spawn(async move {
            while let Some(mut carefully) = asked.recv().await {
                wait::sleep(SETTLE).await;
                while let Ok(also) = asked.try_recv() {
                    carefully |= also;
                }
                if carefully && health::settle(&api).await.is_err() {
                    continue;
                }
                if let Ok(published) = health::published(&api).await {
                    let forwarded = health::forwarded(&rootlesskit).await.ok();
                    inputs.send(|it| it.judge_ports(published, forwarded));
                }
            }
        });
        if !self.launch.ports.published.is_empty() {
            self.tick_later();
        }
    }

    fn ask_for_ports(&self, carefully: bool) {
        if let Some(ask) = &self.launch.ports.ask {
            let _ = ask.send(carefully);
        }
    }

    /// Looks again whether ports are there, if any is published.
    pub(super) fn check_ports(&self) {
        if !self.launch.ports.published.is_empty() {
            self.ask_for_ports(false);
        }
    }

    /// Takes what containers publish and rootlesskit forwards, and repairs what is lost.
    pub(super) fn judge_ports(
        &mut self,
        published: BTreeSet<Published>,
        forwarded: Option<Forwarded>,
    ) {
        let ports = &mut self.launch.ports;
        let begins = ports.published.is_empty() && !published.is_empty();
        ports.published = published;
        ports.forwarded.retain(|port| ports.published.contains(port));
        ports.find_processes();
        let lost = ports.lost(forwarded.as_ref());
        if let Some(forwarded) = forwarded {
            ports.note_forwarded(forwarded);
        }
        // A container that just ends has lost its port as well: look twice.
        let certain = lost.intersection(&ports.suspected);
        let certain: Vec<_> =
            certain.map(|(protocol, number)| format!("{number}/{protocol}")).collect();
        ports.suspected = lost;
        if !certain.is_empty() {
            self.repair(&certain.join(", "));
        } else if !self.launch.ports.suspected.is_empty() {
            self.ask_for_ports(true);
        } else if self.problems.remove("ports").is_some() {
            self.write_status();
        }
        if begins {
            self.tick_later();
        }
    }

    /// Has dockerd in place put ports back, unless it was in vain just now.
    fn repair(&mut self, lost: &str) {
        let what = format!("the published port {lost} does not answer: what served it is gone");
        let now = Instant::now();
        let wait = match self.launch.ports.repaired {
            Some((last, wait)) if now < last + wait => None,
            Some((last, wait)) if now < last + wait * 4 => Some((wait * 2).min(REPAIR_MAX)),
            _ => Some(REPAIR_MIN),
        };
        if self.problems.insert("ports", what.clone()).is_none() {
            warn!("{what}");
        }
        self.note_failure(what);
        self.write_status();
        match wait {
            Some(wait) if self.machine.state == State::Ready => {
                self.launch.ports.repaired = Some((now, wait));
                self.raise(Event::Replace(Why::Ports));
            }
            _ => self.tick_later(),
        }
    }

    /// Looks at the processes that the network and the ports depend on.
    pub(super) fn tick(&mut self) {
        self.look_at_parts();
        let ports = &mut self.launch.ports;
        let lacks_shim = !ports.shims.iter().all(|shim| processes::is_there(*shim));
        let lacks_proxy = !ports.proxies.keys().all(|proxy| processes::is_there(*proxy));
        let is_stopped = |proxy: &&Identity| processes::is_stopped(proxy.pid);
        let stopped: BTreeSet<Identity> =
            ports.proxies.keys().filter(is_stopped).copied().collect();
        let stuck: Vec<Identity> = stopped.intersection(&ports.stopped).copied().collect();
        let asks = lacks_shim || lacks_proxy || !ports.suspected.is_empty() || !stuck.is_empty();
        ports.stopped = stopped;
        // They hold ports that others are to have, and do not hear of another signal.
        if !stuck.is_empty() {
            warn!(
                "{} process(es) that forward published ports are stopped: replacing them",
                stuck.len()
            );
            stuck.iter().for_each(|proxy| processes::signal_one(*proxy, Signal::SIGKILL));
        }
        if asks {
            self.ask_for_ports(true);
        }
        if lacks_shim {
            self.launch.tasks.later(ASK_AGAIN, |it| it.end_orphans(&[]));
        }
        if !self.launch.ports.published.is_empty() {
            self.tick_later();
        }
    }

    fn tick_later(&mut self) {
        if !std::mem::replace(&mut self.launch.ports.ticks, true) {
            self.launch.asking.later(TICK, |it| {
                it.launch.ports.ticks = false;
                it.tick();
            });
        }
    }

    /// Tells of a part that is stopped.
    pub(super) fn look_at_parts(&mut self) {
        let launch = &self.launch;
        let (ports, network) = ("published ports do not answer", "containers have no network");
        let parts = [
            ("rootlesskit", launch.rootlesskit, ports),
            ("rootlesskit's child", launch.child.map(|one| one.pid), ports),
            ("the keeper", launch.keeper.map(|one| one.pid), "nothing that ends starts again"),
            ("containerd", launch.engine.map(|one| one.pid), "no container starts or stops"),
            ("the network helper", launch.helper.as_ref().map(|one| one.identity.pid), network),
        ];
        let before = self.problems.len();
        let mut has_changed = false;
        for (name, pid, means) in parts {
            let Some(pid) = pid else { continue };
            if !processes::is_stopped(pid) {
                self.problems.remove(name);
            } else if !self.problems.contains_key(name) {
                let what = format!("{name} is stopped, and {means}: kill -CONT {pid}");
                warn!("{what}");
                self.problems.insert(name, what);
                has_changed = true;
            }
        }
        if has_changed || self.problems.len() != before {
            self.write_status();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_the_user_has_rootlesskit_publish_is_told_from_dockerds() {
        let flags = [
            "0.0.0.0:8080:80/tcp".to_owned(),
            "[::1]:53:53/udp".to_owned(),
            "0.0.0.0:90:10.0.2.100:91/tcp4".to_owned(),
            "7000:70/tcp".to_owned(),
        ];
        for (proto, parent_port, expected) in [
            ("tcp", 8080, true),
            ("udp", 8080, false),
            ("tcp", 80, false),
            ("udp", 53, true),
            ("tcp", 90, true),
            ("tcp", 91, false),
            ("tcp", 7000, true),
            ("tcp", 70, false),
        ] {
            assert_eq!(
                is_explicit(&flags, &(proto.to_owned(), parent_port)),
                expected,
                "{parent_port}/{proto}"
            );
        }
    }

    #[test]
    fn who_forwards_says_for_what() {
        let port_of =
            |line: &str| port_of(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        let line = "docker-proxy -proto tcp -host-ip 0.0.0.0 -host-port 8080 -container-port 80";
        assert_eq!(port_of(line), Some(("tcp".to_owned(), 8080)));
        for other in ["docker-proxy", "", "x -proto tcp -host-port many", "x -proto tcp -host-port"]
        {
            assert_eq!(port_of(other), None, "{other}");
        }
    }
}
