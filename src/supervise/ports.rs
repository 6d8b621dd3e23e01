//! Published ports, and the processes that they depend on: who forwards for them, and the shims of
//! containers. A port is lost when whoever served it is gone and its container still publishes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::supervise::health;
use crate::supervise::health::{Forwarded, ForwardedPort, Published};
use crate::supervise::{ASK_AGAIN, Supervisor, progress, quiet};
use crate::supervise::{Event, State, Why};
use crate::sys::processes;
use crate::sys::processes::{Identity, Process};

/// How often the processes are looked at as long as a port is published.
const TICK: Duration = Duration::from_millis(1500);

/// Containers start and end in crowds.
const SETTLE: Duration = Duration::from_millis(200);

/// How long a container may take from its ports to its start.
const STARTS: Duration = Duration::from_secs(10);

/// How long dockerd is left alone that was replaced for a port, at least and at most.
const REPAIR_MIN: Duration = Duration::from_secs(2);
const REPAIR_MAX: Duration = Duration::from_secs(120);

/// Who forwards for a port in the namespace, by the kernel's names of at most 15 bytes.
const PROXIES: [&str; 2] = ["docker-proxy", "rootlesskit-doc"];

/// containerd's namespace for plugins of dockerd (moby's `DefaultPluginNamespace`).
const PLUGINS: &[u8] = b"plugins.moby";

/// The kernel's name for a shim.
const SHIM: &str = "containerd-shim";

/// What is known.
#[derive(Default)]
pub struct Ports {
    /// What containers publish.
    published: Vec<Published>,
    /// What rootlesskit forwards and no container publishes, and since when that is so.
    unpublished: BTreeMap<u64, Instant>,
    /// The processes that forward, and for what.
    proxies: BTreeMap<Identity, Published>,
    /// What a process listens for in the namespaces.
    served: BTreeSet<Published>,
    /// The containers' shims.
    shims: BTreeSet<Identity>,
    /// Whether processes forward at all: dockerd can do without them.
    has_proxies: bool,
    /// Ports of containers that rootlesskit has forwarded.
    forwarded: BTreeSet<Published>,
    /// Ports that were lost when somebody looked the last time.
    suspected: BTreeSet<Published>,
    /// Processes that stood still then.
    stood: BTreeSet<Identity>,
    /// Whether the next look at the processes is on its way.
    pub(super) ticks: bool,
    /// When dockerd was replaced for a port, and how long it is left alone from then on.
    repaired: Option<(Instant, Duration)>,
    /// Wakes whoever asks for the list; `true` if dockerd is to be through with what it does first.
    ask: Option<mpsc::UnboundedSender<bool>>,
}

impl Ports {
    /// What rootlesskit forwards for others than containers. For a container that starts it forwards
    /// before dockerd lists it.
    pub fn foreign(&self) -> BTreeSet<u64> {
        let since = self.unpublished.iter();
        since.filter(|(_, since)| since.elapsed() >= STARTS).map(|(id, _)| *id).collect()
    }

    /// What matters beyond the dockerd that has ended.
    pub fn outlive(&mut self) {
        self.proxies.clear();
        self.suspected.clear();
        self.stood.clear();
    }
}

/// Whether a process is a shim that has not ended.
pub fn is_shim(process: &Process) -> bool {
    !process.zombie && process.name == SHIM
}

/// Whether a process is the shim of one of dockerd's plugins, which are containers of another kind:
/// dockerd leaves them alone when it ends and was started with live-restore, whatever it was told later.
pub fn is_plugin(process: &Process) -> bool {
    let words = fs::read(format!("/proc/{}/cmdline", process.identity.pid)).unwrap_or_default();
    is_shim(process) && words.split(|byte| *byte == 0).any(|word| word == PLUGINS)
}

/// Whether a process is the shim of a container with one of these `ids`.
pub fn is_shim_of(process: &Process, ids: &[String]) -> bool {
    let words = fs::read(format!("/proc/{}/cmdline", process.identity.pid)).unwrap_or_default();
    let mut words = words.split(|byte| *byte == 0);
    is_shim(process) && words.any(|word| ids.iter().any(|id| id.as_bytes() == word))
}

/// Whether the user has rootlesskit publish a port: `[ADDRESS:]PORT:[ADDRESS:]PORT/PROTOCOL`.
pub fn is_stated(flags: &[String], port: &ForwardedPort) -> bool {
    flags.iter().any(|flag| {
        let (addresses, proto) = flag.rsplit_once('/').unwrap_or((flag, "tcp"));
        let parts = split_ports(addresses);
        let parent = match parts.len() {
            2 => parts.first(),
            _ => parts.get(1),
        };
        let number = parent.and_then(|part| part.parse().ok());
        (proto.trim_end_matches(['4', '6']).to_owned(), number.unwrap_or(0)) == port.published()
    })
}

/// Splits at colons that do not stand in brackets.
fn split_ports(text: &str) -> Vec<&str> {
    let mut depth = 0;
    text.split(|letter| {
        match letter {
            '[' => depth += 1,
            ']' => depth -= 1,
            _ => {}
        }
        letter == ':' && depth == 0
    })
    .collect()
}

/// The port in the words of a process that forwards: `-proto tcp … -host-port 8080 …`.
fn port_of(words: &[u8]) -> Option<Published> {
    let words: Vec<&str> =
        words.split(|byte| *byte == 0).filter_map(|word| std::str::from_utf8(word).ok()).collect();
    let value = |name: &str| {
        let at = words.iter().position(|word| word.trim_start_matches('-') == name)?;
        words.get(at + 1)
    };
    Some(((*value("proto")?).to_owned(), value("host-port")?.parse().ok()?))
}

impl Supervisor<'_> {
    /// Where rootlesskit takes requests.
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
        let events = ask.clone();
        self.launch.ports.ask = Some(ask);
        let daemon = api.clone();
        self.launch.asking.spawn(async move {
            loop {
                let changed = || {
                    let _ = events.send(false);
                };
                changed();
                if let Err(error) = health::watch_containers(&daemon, changed).await {
                    debug!("dockerd's events are not to be had: {error}");
                }
                quiet::sleep(ASK_AGAIN).await;
            }
        });
        let rootlesskit = self.rootlesskit_api();
        self.launch.asking.spawn(async move {
            while let Some(mut carefully) = asked.recv().await {
                quiet::sleep(SETTLE).await;
                while let Ok(also) = asked.try_recv() {
                    carefully |= also;
                }
                if carefully && health::settle(&api).await.is_err() {
                    continue;
                }
                let Ok(published) = health::published(&api).await else {
                    continue;
                };
                let forwarded = health::forwarded(&rootlesskit).await.ok();
                inputs.send(|it| it.judge_ports(published, forwarded));
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

    /// Takes what containers publish and rootlesskit forwards.
    pub(super) fn judge_ports(
        &mut self,
        published: Vec<Published>,
        forwarded: Option<Vec<Forwarded>>,
    ) {
        let begins = self.launch.ports.published.is_empty() && !published.is_empty();
        self.find_proxies();
        let ports = &mut self.launch.ports;
        let now: Option<BTreeSet<Published>> =
            forwarded.as_ref().map(|all| all.iter().map(|port| port.spec.published()).collect());
        let is_lost = |port: &&Published| {
            let is_served = ports.served.contains(port) || !ports.has_proxies;
            let is_forwarded = now.as_ref().is_none_or(|now| now.contains(port))
                || !ports.forwarded.contains(port);
            !(is_served && is_forwarded)
        };
        let lost: BTreeSet<Published> = published.iter().filter(is_lost).cloned().collect();
        if let Some(forwarded) = &forwarded {
            let is_there = |id: &u64| forwarded.iter().any(|port| port.id == *id);
            ports.unpublished.retain(|id, _| is_there(id));
        }
        for port in forwarded.iter().flatten() {
            match published.contains(&port.spec.published()) {
                true => drop(ports.unpublished.remove(&port.id)),
                false => drop(ports.unpublished.entry(port.id).or_insert_with(Instant::now)),
            }
        }
        ports.forwarded.extend(now.into_iter().flatten());
        ports.forwarded.retain(|port| published.contains(port));
        ports.published = published;
        // A container that just ends has lost its port as well: look twice.
        let certain: Vec<String> = lost
            .intersection(&ports.suspected)
            .map(|(proto, number)| format!("{number}/{proto}"))
            .collect();
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

    /// Finds who forwards, and the shims.
    fn find_proxies(&mut self) {
        let processes = processes::descendants();
        let ports = &mut self.launch.ports;
        ports.shims = processes
            .iter()
            .filter(|process| is_shim(process))
            .map(|process| process.identity)
            .collect();
        let proxies = |names: &'static [&str]| {
            let is_proxy = |process: &&Process| !process.zombie && names.contains(&&*process.name);
            processes.iter().filter(is_proxy).filter_map(|process| {
                let words = fs::read(format!("/proc/{}/cmdline", process.identity.pid)).ok()?;
                Some((process.identity, port_of(&words)?))
            })
        };
        ports.proxies = proxies(&PROXIES).collect();
        // The other kind waits for this one, and does not end with it.
        ports.served = proxies(&PROXIES[..1]).map(|(_, port)| port).collect();
        ports.has_proxies |= !ports.proxies.is_empty();
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
        let ports = &self.launch.ports;
        let is_gone = |identity: &&Identity| {
            processes::read(identity.pid).is_none_or(|now| now.identity != **identity || now.zombie)
        };
        let lacks_shim = ports.shims.iter().any(|shim| is_gone(&shim));
        let lacks_proxy = ports.proxies.keys().any(|proxy| is_gone(&proxy));
        if lacks_shim || lacks_proxy || !ports.suspected.is_empty() {
            self.ask_for_ports(true);
        }
        let standing: BTreeSet<Identity> =
            ports.proxies.keys().filter(|proxy| stands(proxy)).copied().collect();
        let stuck: Vec<Process> = standing
            .intersection(&ports.stood)
            .filter_map(|proxy| processes::read(proxy.pid))
            .filter(|process| ports.proxies.contains_key(&process.identity))
            .collect();
        // It holds the port that another one is to have, and does not hear of another signal.
        if !stuck.is_empty() {
            warn!(
                "{} process(es) that forward for published ports stand still, and are replaced",
                stuck.len()
            );
            processes::signal_all(&stuck, Signal::SIGKILL);
            self.ask_for_ports(true);
        }
        self.launch.ports.stood = standing;
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

    /// Tells of a part that somebody has stopped: nothing gets through it.
    pub(super) fn look_at_parts(&mut self) {
        let rootlesskit = self.launch.rootlesskit.and_then(processes::read);
        let helper = self.launch.helper.as_ref().map(|helper| helper.identity);
        let parts = [
            (
                "rootlesskit",
                rootlesskit.map(|process| process.identity),
                "published ports do not answer",
            ),
            ("rootlesskit's child", self.launch.child, "published ports do not answer"),
            ("the keeper", self.launch.keeper, "nothing that ends starts again"),
            ("the network helper", helper, "containers have no network"),
        ];
        let mut has_changed = false;
        for (name, identity, means) in parts {
            let stopped = identity.filter(stands);
            let what = stopped.map(|identity| {
                format!("{name} is stopped, and {means}: kill -CONT {}", identity.pid)
            });
            has_changed |= match what {
                Some(what) if !self.problems.contains_key(name) => {
                    warn!("{what}");
                    self.problems.insert(name, what);
                    true
                }
                Some(_) => false,
                None => self.problems.remove(name).is_some(),
            };
        }
        if has_changed {
            self.write_status();
        }
    }
}

/// Whether a process is stopped or traced.
fn stands(identity: &Identity) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", identity.pid)).unwrap_or_default();
    matches!(progress::state(&stat), Some('T' | 't'))
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
            ("tcp4", 8080, true),
            ("udp", 8080, false),
            ("tcp", 80, false),
            ("udp6", 53, true),
            ("tcp", 90, true),
            ("tcp", 91, false),
            ("tcp", 7000, true),
            ("tcp", 70, false),
        ] {
            let port = ForwardedPort { proto: proto.to_owned(), parent_port };
            assert_eq!(is_stated(&flags, &port), expected, "{parent_port}/{proto}");
        }
    }

    #[test]
    fn who_forwards_says_for_what() {
        let words = b"/usr/bin/docker-proxy\0-proto\0tcp\0-host-ip\x000.0.0.0\0-host-port\x008080\0-container-port\x0080\0";
        assert_eq!(port_of(words), Some(("tcp".to_owned(), 8080)));
        for other in [&b"docker-proxy\0"[..], b"", b"x\0-proto\0tcp\0-host-port\0many\0"] {
            assert_eq!(port_of(other), None);
        }
    }
}
