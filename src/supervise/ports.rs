//! Published ports, and the processes that they depend on. A port is lost when the process that served
//! it is gone and its container still publishes it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::settings::PublishedPort;
use crate::supervise::health::{self, Forwarded, Published};
use crate::supervise::{ASK_AGAIN, Event, State, Supervisor, Why, wait};
use crate::sys::processes::{self, Identity, Process};

/// How often the processes are looked at as long as a port is published.
const TICK: Duration = Duration::from_millis(1500);

/// Containers start and end in crowds.
const SETTLE: Duration = Duration::from_millis(200);

/// How long a container may take from its ports to its start.
const STARTS: Duration = Duration::from_secs(10);

/// How long dockerd is left alone after it was replaced for a port, at least and at most.
const REPAIR_MIN: Duration = Duration::from_secs(2);
const REPAIR_MAX: Duration = Duration::from_secs(120);

/// The kernel's names of the process that listens for a port in the namespaces, and of a shim.
const SERVER: &str = "docker-proxy";
const SHIM: &str = "containerd-shim";

/// containerd's namespace for plugins of dockerd (moby's `DefaultPluginNamespace`).
const PLUGINS: &str = "plugins.moby";

/// What is known of published ports.
#[derive(Default)]
pub struct Ports {
    /// What containers publish.
    published: BTreeSet<Published>,
    /// What rootlesskit forwards and no container publishes, and since when that is so.
    unpublished: BTreeMap<u64, Instant>,
    /// The processes that serve ports. dockerd can do without them.
    servers: BTreeMap<Identity, Published>,
    /// Those of them that were stopped at the last look.
    stopped: BTreeSet<Identity>,
    /// The shims at the last look: a container without one cannot be reached.
    shims: Vec<Identity>,
    /// Ports whose server is gone, and whether the last look has confirmed that.
    lost: BTreeMap<Published, bool>,
    /// Whether the next question for ports is on its way.
    is_due: bool,
    /// Whether the next look at the processes is.
    ticks: bool,
    /// Whether containers without a shim have been asked to end.
    pub(super) ends_orphans: bool,
    /// When dockerd was replaced for a port, and how long it is left alone from then on.
    repaired: Option<(Instant, Duration)>,
}

impl Ports {
    /// Begins with a daemon that another program has started in this process, which knew of these
    /// foreign ports.
    pub fn resume(foreign: BTreeSet<u64>) -> Self {
        let now = Instant::now();
        let since = now.checked_sub(STARTS).unwrap_or(now);
        let unpublished = foreign.into_iter().map(|id| (id, since)).collect();
        Self { unpublished, ..Self::default() }
    }

    /// Returns what rootlesskit forwards for others than containers. For a container that starts it
    /// forwards before dockerd lists it.
    pub fn foreign(&self) -> BTreeSet<u64> {
        let since = self.unpublished.iter();
        since.filter(|(_, since)| since.elapsed() >= STARTS).map(|(id, _)| *id).collect()
    }

    /// Takes that what was on its way is called off.
    pub fn rest(&mut self) {
        (self.is_due, self.ticks) = (false, false);
    }

    /// Takes that what serves ports has ended with a dockerd: the next one restores them.
    pub fn outlive(&mut self) {
        self.lost.extend(std::mem::take(&mut self.servers).into_values().map(|port| (port, false)));
        self.lost.values_mut().for_each(|is_confirmed| *is_confirmed = false);
    }

    /// Takes what rootlesskit forwards while containers publish these ports.
    fn note_forwarded(&mut self, published: &BTreeSet<Published>, forwarded: Forwarded) {
        let known = std::mem::take(&mut self.unpublished);
        let unpublished = forwarded.into_iter().filter(|(_, port)| !published.contains(port));
        self.unpublished = unpublished
            .map(|(id, _)| (id, known.get(&id).copied().unwrap_or_else(Instant::now)))
            .collect();
    }

    /// Takes what containers publish and which processes serve ports, and returns the ports that are
    /// certainly lost. A container that just ends has lost its port as well: it takes two looks.
    fn judge(
        &mut self,
        published: BTreeSet<Published>,
        servers: BTreeMap<Identity, Published>,
    ) -> Vec<Published> {
        let before = std::mem::replace(&mut self.servers, servers);
        for (server, port) in before {
            if !self.servers.contains_key(&server) {
                self.lost.entry(port).or_default();
            }
        }
        let is_served = |port: &Published| self.servers.values().any(|served| served == port);
        self.lost.retain(|port, _| published.contains(port) && !is_served(port));
        self.published = published;
        let confirm = |(port, is_confirmed): (&Published, &mut bool)| {
            std::mem::replace(is_confirmed, true).then(|| port.clone())
        };
        self.lost.iter_mut().filter_map(confirm).collect()
    }
}

/// Finds the processes that serve ports.
fn find_servers() -> BTreeMap<Identity, Published> {
    let descendants = processes::descendants().into_iter();
    let servers = descendants.filter(|process| process.name == SERVER && !process.zombie);
    let serve = |process: Process| {
        Some((process.identity, port_of(&processes::words(process.identity.pid))?))
    };
    servers.filter_map(serve).collect()
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
    let mut published = flags.iter().filter_map(|flag| PublishedPort::parse(flag));
    published.any(|own| (&own.protocol, own.host) == (&port.0, port.1))
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
        let Some(api) = self.api_path() else { return };
        let sender = self.launch.asking.sender();
        self.launch.asking.spawn(async move {
            let changed = || sender.send(|it| it.look_at_ports());
            loop {
                changed();
                if let Err(error) = health::watch_containers(&api, changed).await {
                    debug!("dockerd does not tell its events: {error}");
                }
                wait::sleep(ASK_AGAIN).await;
            }
        });
    }

    /// Asks soon what containers publish, and looks for containers that have lost their shim.
    fn look_at_ports(&mut self) {
        if !std::mem::replace(&mut self.launch.ports.is_due, true) {
            self.launch.asking.later(SETTLE, |it| it.ask_for_ports());
            self.launch.tasks.later(ASK_AGAIN, |it| it.end_orphans(&[]));
        }
    }

    fn ask_for_ports(&mut self) {
        self.launch.ports.is_due = false;
        let Some(api) = self.api_path() else { return };
        let rootlesskit = self.rootlesskit_api();
        let carefully = !self.launch.ports.lost.is_empty();
        let asked = async move {
            if carefully {
                health::settle(&api).await?;
            }
            let published = health::published(&api).await?;
            io::Result::Ok((published, health::forwarded(&rootlesskit).await.ok()))
        };
        self.launch.asking.when(asked, |it, found| {
            if let Ok((published, forwarded)) = found {
                it.judge_ports(published, forwarded);
            }
        });
    }

    /// Takes what containers publish and what rootlesskit forwards, if it says so, and repairs what is
    /// lost.
    fn judge_ports(&mut self, published: BTreeSet<Published>, forwarded: Option<Forwarded>) {
        let ports = &mut self.launch.ports;
        if let Some(forwarded) = forwarded {
            ports.note_forwarded(&published, forwarded);
        }
        ports.shims = processes::descendants()
            .iter()
            .filter(|process| is_shim(process))
            .map(|process| process.identity)
            .collect();
        if self.running.lacks_proxy {
            // What served a port of the dockerd before needs no successor.
            ports.lost.clear();
        }
        let lost = ports.judge(published, find_servers());
        if !lost.is_empty() {
            self.repair(&lost);
        } else if !self.launch.ports.lost.is_empty() {
            self.look_at_ports();
        } else {
            self.set_problem("ports", None);
        }
        self.tick_later();
    }

    /// Has dockerd in place put ports back, unless it was in vain just now.
    fn repair(&mut self, lost: &[Published]) {
        let ports: Vec<_> = lost.iter().map(|(name, number)| format!("{number}/{name}")).collect();
        let ports = ports.join(", ");
        let what = format!("the published port {ports} does not answer: what served it is gone");
        if self.problems.insert("ports", what.clone()).is_none() {
            warn!("{what}");
        }
        self.note_failure(what);
        self.write_status();
        let now = Instant::now();
        let wait = match self.launch.ports.repaired {
            Some((last, wait)) if now < last + wait => return,
            Some((last, wait)) if now < last + wait * 4 => (wait * 2).min(REPAIR_MAX),
            _ => REPAIR_MIN,
        };
        if self.machine.state == State::Ready {
            self.launch.ports.repaired = Some((now, wait));
            self.raise(Event::Replace(Why::Ports));
        }
    }

    /// Looks at the processes that the network and the ports depend on.
    pub(super) fn tick(&mut self) {
        self.look_at_parts();
        let Ports { servers, shims, stopped, lost, .. } = &mut self.launch.ports;
        let now: BTreeSet<Identity> =
            servers.keys().filter(|server| processes::is_stopped(server.pid)).copied().collect();
        // It holds a port that another needs, and hears no other signal.
        for server in now.intersection(stopped) {
            warn!("process {} that serves a published port is stopped: replacing it", server.pid);
            processes::signal_one(*server, Signal::SIGKILL);
        }
        *stopped = now;
        let mut all = servers.keys().chain(&*shims);
        if !lost.is_empty() || !all.all(|process| processes::is_there(*process)) {
            self.look_at_ports();
        }
        self.tick_later();
    }

    fn tick_later(&mut self) {
        let ports = &mut self.launch.ports;
        if !ports.published.is_empty() && !std::mem::replace(&mut ports.ticks, true) {
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
        for (name, pid, means) in parts {
            let Some(pid) = pid else { continue };
            let what = || format!("{name} is stopped, and {means}: kill -CONT {pid}");
            self.set_problem(name, processes::is_stopped(pid).then(what));
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
        for (proto, number, expected) in [
            ("tcp", 8080, true),
            ("udp", 8080, false),
            ("tcp", 80, false),
            ("udp", 53, true),
            ("tcp", 90, true),
            ("tcp", 91, false),
            ("tcp", 7000, true),
            ("tcp", 70, false),
        ] {
            let port = (proto.to_owned(), number);
            assert_eq!(is_explicit(&flags, &port), expected, "{port:?}");
        }
    }

    fn ports(numbers: &[u16]) -> BTreeSet<Published> {
        numbers.iter().map(|number| ("tcp".to_owned(), *number)).collect()
    }

    fn servers(numbers: &[u16]) -> BTreeMap<Identity, Published> {
        let server = |port: Published| (Process::sample(port.1.into(), 1, SERVER).identity, port);
        ports(numbers).into_iter().map(server).collect()
    }

    #[test]
    fn a_port_is_lost_if_nothing_serves_it_again() {
        let lost = |numbers: &[u16]| ports(numbers).into_iter().collect::<Vec<_>>();
        let mut known = Ports::default();
        assert_eq!(known.judge(ports(&[80, 81, 82, 83]), servers(&[80, 81, 82])), lost(&[]));
        // Without a server from the start, something else serves it.
        assert_eq!(known.judge(ports(&[80, 81, 82, 83]), servers(&[80, 81, 82])), lost(&[]));
        // The next dockerd restores one port, and a container has ended. After a restart in vain it
        // takes two looks again.
        for _ in 0..2 {
            known.outlive();
            for expected in [lost(&[]), lost(&[81])] {
                assert_eq!(known.judge(ports(&[80, 81, 83]), servers(&[80])), expected);
            }
        }
        assert_eq!(known.judge(ports(&[80, 81, 83]), servers(&[80, 81])), lost(&[]));
        for expected in [lost(&[]), lost(&[80])] {
            assert_eq!(known.judge(ports(&[80, 81, 83]), servers(&[81])), expected);
        }
    }

    #[test]
    fn a_port_that_no_container_publishes_for_long_is_foreign() {
        let port = |number| ("tcp".to_owned(), number);
        let forwarded = || Forwarded::from([(1, port(80)), (2, port(90))]);
        let long_ago = Instant::now().checked_sub(STARTS).expect("a time");
        let mut known = Ports::default();
        known.note_forwarded(&ports(&[80]), forwarded());
        assert_eq!(known.foreign(), BTreeSet::new());
        known.unpublished.insert(2, long_ago);
        known.note_forwarded(&ports(&[80]), forwarded());
        assert_eq!(known.foreign(), BTreeSet::from([2]));
        assert_eq!(Ports::resume(known.foreign()).foreign(), known.foreign());
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
