//! The questions, and how each is answered on a running daemon.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::unistd::{getegid, geteuid};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::oci::manifest::Kind;
use crate::verify::chain::{self, Chain, Form, Kit, Lie, Link};
use crate::verify::engine::{Engine, Failure, Fault};
use crate::verify::probe::{self, Facts, READY, Rates, Reached, TRAFFIC, WRITERS, plain};
use crate::verify::report::Row;
use crate::verify::{Event, Launch, kill};

/// The label of everything that a run makes.
pub const LABEL: &str = "dockerd-rootless.verify";

/// The port on which containers listen.
const PORT: &str = "7070";

/// How long to wait for an echo, and for a container that begins to listen.
const ECHO: Duration = Duration::from_secs(2);
const BEGIN: Duration = Duration::from_secs(10);

/// How long a daemon that failed may take to say that it is there: it may just be replaced.
const PING: Duration = Duration::from_secs(5);

/// The memory of the container that takes too much of it, in bytes.
const MEMORY: u64 = 32 << 20;

/// A question.
pub struct Check {
    pub group: &'static str,
    pub name: &'static str,
    pub question: &'static str,
    /// What to run where the answer is bad.
    pub next: &'static str,
    step: Step,
}

/// What is done to answer a few of them at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Look,
    Volume,
    Names,
    Reach,
    Speed,
    Ports,
    Limits,
    /// The way of images, which has a file of its own.
    Chain(Link),
    Socket,
    Start,
    Kill,
}

impl Check {
    /// Says whether it is asked only with `--images=all`.
    pub fn is_extra(&self) -> bool {
        self.group == FORMS
    }

    /// Returns what it asks of images.
    pub fn link(&self) -> Option<Link> {
        if let Step::Chain(link) = self.step { Some(link) } else { None }
    }
}

const fn accept(
    name: &'static str,
    question: &'static str,
    kind: Kind,
    has_type: bool,
    by_digest: bool,
) -> Check {
    let form = Form { kind, has_type, by_digest };
    check(FORMS, name, question, Step::Chain(Link::Accept(form)), STATUS)
}

const fn refuse(
    name: &'static str,
    question: &'static str,
    kind: Kind,
    by_digest: bool,
    lie: Lie,
) -> Check {
    let form = Form { kind, has_type: true, by_digest };
    check(FORMS, name, question, Step::Chain(Link::Refuse(form, lie)), STATUS)
}

const fn check(
    group: &'static str,
    name: &'static str,
    question: &'static str,
    step: Step,
    next: &'static str,
) -> Check {
    Check { group, name, question, next, step }
}

const USERS: &str = "Users and files";
const NETWORK: &str = "Network";
const PORTS: &str = "Published ports";
const LIMITS: &str = "Limits";
const SECURITY: &str = "Security";
const IMAGES: &str = "Images";
const FORMS: &str = "Forms of images";
const DAEMON: &str = "The daemon";

/// What to run where no check explains an answer.
const STATUS: &str = "dockerd-rootless status";

/// The one that is answered only where it is asked for.
pub const SURVIVAL: &str = "survival";

/// The questions, in the order in which they are answered.
#[rustfmt::skip]
pub const CHECKS: &[Check] = &[
    check(USERS, "user-ids", "which user of the host is root in a container?", Step::Look, "dockerd-rootless check --only subuid,subgid"),
    check(USERS, "file-owner", "who owns a file that a container writes into a volume?", Step::Volume, "dockerd-rootless check --only subuid,subgid"),
    check(USERS, "overlay", "can a container change, rename and remove files of its image?", Step::Look, "dockerd-rootless check --only overlay"),
    check(NETWORK, "names", "do containers find each other by name?", Step::Names, "dockerd-rootless check --only netfilter"),
    check(NETWORK, "dns", "does a name server answer a container?", Step::Reach, "dockerd-rootless check --only resolv-conf"),
    check(NETWORK, "outside", "does a container reach addresses outside?", Step::Reach, "dockerd-rootless check --only network-driver"),
    check(NETWORK, "host-loopback", "can a container reach what listens on the host's 127.0.0.1?", Step::Reach, "dockerd-rootless config explain network.host-loopback"),
    check(NETWORK, "host-docker-internal", "does host.docker.internal lead to the host?", Step::Reach, "dockerd-rootless check --only network-driver"),
    check(NETWORK, "ping", "can a container ping addresses outside?", Step::Reach, "dockerd-rootless check --only ping"),
    check(NETWORK, "mtu", "which MTU do the two network devices have?", Step::Look, "dockerd-rootless config explain network.mtu"),
    check(NETWORK, "speed", "how fast is the network, out and in?", Step::Speed, "dockerd-rootless check --only network-driver"),
    check(PORTS, "localhost", "does a published port answer on 127.0.0.1, and which client does the container see?", Step::Ports, "dockerd-rootless check --only port-driver"),
    check(PORTS, "tcp4", "the same on the host's own address", Step::Ports, "dockerd-rootless check --only port-driver"),
    check(PORTS, "tcp6", "the same on ::1", Step::Ports, "dockerd-rootless check --only ipv6,port-driver"),
    check(PORTS, "udp", "the same over UDP", Step::Ports, "dockerd-rootless check --only port-driver"),
    check(LIMITS, "memory", "is a container killed that takes more memory than --memory?", Step::Limits, "dockerd-rootless check --only cgroup"),
    check(LIMITS, "cpu", "does --cpus hold?", Step::Limits, "dockerd-rootless check --only cgroup"),
    check(LIMITS, "pids", "does --pids-limit hold?", Step::Limits, "dockerd-rootless check --only cgroup"),
    check(LIMITS, "open-files", "how many files may a container open?", Step::Look, "dockerd-rootless check --only limits"),
    check(SECURITY, "seccomp", "are system calls filtered?", Step::Look, "docker info --format '{{.SecurityOptions}}'"),
    check(IMAGES, "load", "does docker load take an image?", Step::Chain(Link::Load), STATUS),
    check(IMAGES, "pull", "does it pull all kinds of images, by tag and by digest?", Step::Chain(Link::Pull), "dockerd-rootless verify --images all"),
    check(IMAGES, "push", "does a pushed image arrive as predicted?", Step::Chain(Link::Push), STATUS),
    check(IMAGES, "layer-reuse", "is a shared layer fetched only once?", Step::Chain(Link::Reuse), STATUS),
    check(IMAGES, "run", "does a pulled image run?", Step::Chain(Link::Run), STATUS),
    accept("schema2-tag", "is Docker's manifest pulled and run?", Kind::Schema2, true, false),
    accept("schema2-digest", "the same by digest", Kind::Schema2, true, true),
    accept("list-tag", "is Docker's manifest list pulled and run?", Kind::List, true, false),
    accept("list-digest", "the same by digest", Kind::List, true, true),
    accept("oci-tag", "is an OCI manifest pulled and run?", Kind::OciManifest, true, false),
    accept("oci-digest", "the same by digest", Kind::OciManifest, true, true),
    accept("oci-untyped-tag", "the same without a mediaType in it", Kind::OciManifest, false, false),
    accept("oci-untyped-digest", "the same by digest", Kind::OciManifest, false, true),
    accept("index-tag", "is an OCI index pulled and run?", Kind::OciIndex, true, false),
    accept("index-digest", "the same by digest", Kind::OciIndex, true, true),
    accept("index-untyped-tag", "the same without a mediaType in it", Kind::OciIndex, false, false),
    accept("index-untyped-digest", "the same by digest", Kind::OciIndex, false, true),
    refuse("refuse-digest", "is an image refused that has not the digest asked for?", Kind::OciManifest, true, Lie::Digest),
    refuse("refuse-child", "is a list refused whose image has another digest?", Kind::OciIndex, false, Lie::Child),
    refuse("refuse-layer", "is a layer refused that is corrupt?", Kind::Schema2, false, Lie::Layer),
    refuse("refuse-config", "is a config refused that was altered?", Kind::OciManifest, false, Lie::Config),
    refuse("refuse-platform", "is a list refused that has no image for this host?", Kind::List, false, Lie::Platform),
    refuse("refuse-ambiguous", "is a manifest refused that is a list, too?", Kind::OciManifest, false, Lie::Ambiguous),
    check(DAEMON, "docker-sock", "does -v /var/run/docker.sock:/var/run/docker.sock work?", Step::Socket, STATUS),
    check(DAEMON, "start-time", "how long does a container take to start, run and end?", Step::Start, STATUS),
    check(DAEMON, SURVIVAL, "do containers live on when dockerd is killed? (only with --disruptive)", Step::Kill, STATUS),
];

/// A run of `verify` on one daemon.
pub struct Run {
    pub engine: Engine,
    /// What `/info` says.
    pub info: Value,
    /// The image of our own program.
    pub image: String,
    /// A directory of the user's for a volume.
    pub scratch: PathBuf,
    /// The daemon's socket on the host.
    pub socket: PathBuf,
    /// How the daemon was launched, if it is ours.
    pub launch: Option<Launch>,
    pub kit: Kit,
    /// The registry that the daemon reaches, or why there is none.
    pub chain: Result<Chain, String>,
}

pub type Rows = Result<Vec<Row>, Failure>;

impl Run {
    /// Answers the questions with these names, and tells each question and its answer.
    pub async fn answer(&self, names: &[&str], mut tell: impl FnMut(Event)) {
        let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
        let mut done: Vec<Step> = Vec::new();
        let mut missing = "no answer came";
        let mut is_gone = false;
        for check in CHECKS.iter().filter(|check| names.contains(&check.name)) {
            tell(Event::Asked(check));
            if !is_gone && !done.contains(&check.step) {
                done.push(check.step);
                let found = self.perform(check).await.unwrap_or_else(|failure| {
                    let of_step = CHECKS.iter().filter(|other| other.step == check.step);
                    is_gone = true;
                    of_step.map(|other| Row::refused(other.name, &failure)).collect()
                });
                rows.extend(found.into_iter().map(|row| (row.name, row)));
                if self.engine.is_stopped() {
                    return;
                }
                is_gone = is_gone && !self.is_there().await;
                missing = if is_gone { "dockerd does not answer any more" } else { missing };
            }
            let row = rows.remove(check.name);
            tell(Event::Answered(row.unwrap_or_else(|| Row::skip(check.name, missing))));
        }
    }

    async fn is_there(&self) -> bool {
        self.engine.with_patience(PING).get("ask the daemon", "/_ping").await.is_ok()
    }

    async fn perform(&self, check: &Check) -> Rows {
        match check.step {
            Step::Look => self.look().await,
            Step::Volume => self.volume().await,
            Step::Names => self.names().await,
            Step::Reach => self.reach().await,
            Step::Speed => self.speed().await,
            Step::Ports => self.ports().await,
            Step::Limits => self.limits().await,
            Step::Chain(link) => chain::answer(self, check.name, link).await,
            Step::Socket => self.docker_sock().await,
            Step::Start => self.start_time().await,
            Step::Kill => kill::answer(self).await,
        }
    }

    /// Describes a container of ours that does what `words` say.
    pub fn spec(&self, words: &[&str], host: Value) -> Value {
        json!({
            "Image": self.image,
            "Cmd": words,
            "Labels": {LABEL: self.kit.nonce},
            "HostConfig": host,
        })
    }

    pub fn name(&self, purpose: &str) -> String {
        format!("verify-{}-{purpose}", self.kit.nonce)
    }

    /// Runs an image, and returns the word in it.
    pub async fn say(&self, purpose: &str, image: &str) -> Result<String, Failure> {
        let mut spec = self.spec(&["say"], json!({}));
        spec["Image"] = json!(image);
        self.read(purpose, &spec).await
    }

    /// Runs a container, and reads what it tells.
    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        purpose: &str,
        words: &[&str],
        host: Value,
    ) -> Result<T, Failure> {
        self.read(purpose, &self.spec(words, host)).await
    }

    async fn read<T: serde::de::DeserializeOwned>(
        &self,
        purpose: &str,
        spec: &Value,
    ) -> Result<T, Failure> {
        let ran = self.engine.run(&self.name(purpose), spec).await?;
        serde_json::from_str(ran.stdout.lines().last().unwrap_or_default()).map_err(|_| Failure {
            asked: format!("run the container `{purpose}`"),
            said: format!("exit code {}: {}{}", ran.code, ran.stdout, ran.stderr),
            fault: Fault::Lost,
        })
    }

    /// Starts a container that listens, and waits until it does.
    async fn listen(&self, purpose: &str, host: Value) -> Result<String, Failure> {
        let mut spec = self.spec(&["listen", PORT], host);
        spec["ExposedPorts"] = json!({format!("{PORT}/tcp"): {}, format!("{PORT}/udp"): {}});
        let id = self.engine.start(&self.name(purpose), &spec).await?;
        let began = Instant::now();
        loop {
            let (stdout, stderr) = self.engine.logs(&id).await?;
            if stdout.lines().any(|line| line == READY) {
                return Ok(id);
            }
            if began.elapsed() > BEGIN {
                let error = io::Error::other(stdout + &stderr);
                return Err(Failure::own("get a container to listen", &error));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn look(&self) -> Rows {
        let facts: Facts = self.ask("look", &["look"], json!({})).await?;
        let outer: Facts = self.ask("look-host", &["look"], json!({"NetworkMode": "host"})).await?;
        let driver = self.info["Driver"].as_str().unwrap_or_default();
        let overlay = match &facts.overlay {
            None => Row::pass("overlay", format!("yes ({driver}, {})", facts.root)),
            Some(why) => Row::fail("overlay", format!("{driver}: {why}"), "all three work"),
        };
        let is_unconfined = self.info["SecurityOptions"].to_string().contains("unconfined");
        let seccomp = match facts.seccomp.as_str() {
            "2" => Row::pass("seccomp", "yes, by a filter"),
            _ if is_unconfined => Row::info("seccomp", "no: dockerd's profile is `unconfined`"),
            mode => Row::fail("seccomp", format!("no (mode {mode})"), "mode 2, a filter"),
        };
        let (soft, hard) = facts.open_files;
        let open_files = match soft == hard {
            true => soft.to_string(),
            false => format!("{soft}, and {hard} where it asks for more"),
        };
        let configured =
            self.launch.as_ref().and_then(|launch| launch.option("--mtu")?.parse().ok());
        Ok(vec![
            user_ids(&facts.uid_map),
            overlay,
            seccomp,
            Row::pass("open-files", open_files),
            mtu(&facts.mtu, &outer.mtu, configured),
        ])
    }

    async fn volume(&self) -> Rows {
        let mount = json!({"Type": "bind", "Source": self.scratch, "Target": "/volume"});
        let spec = self.spec(&["write", "/volume"], json!({"Mounts": [mount]}));
        let ran = self.engine.run(&self.name("volume"), &spec).await?;
        let owner = |uid: u32| Ok(std::fs::metadata(self.scratch.join(uid.to_string()))?.uid());
        let owners: io::Result<Vec<u32>> = WRITERS.into_iter().map(owner).collect();
        let Ok(owners) = owners else {
            let answer = format!("no file is there: {}", ran.stderr.trim());
            return Ok(vec![Row::fail("file-owner", answer, "two files in the volume")]);
        };
        let answer = format!("root's: {}; user 1000's: {}", user(owners[0]), user(owners[1]));
        Ok(vec![match owners[0] == geteuid().as_raw() {
            true => Row::pass("file-owner", answer),
            false => Row::fail("file-owner", answer, "what root writes belongs to you"),
        }])
    }

    async fn names(&self) -> Rows {
        let network = self.name("network");
        let spec = json!({"Name": network, "Labels": {LABEL: self.kit.nonce}});
        self.engine.post("create a network", "/networks/create", &spec).await?;
        let host = json!({"NetworkMode": network});
        self.listen("peer", host.clone()).await?;
        let target = format!("tcp:{}:{PORT}", self.name("peer"));
        let reached: Reached = self.ask("names", &["reach", &target], host).await?;
        Ok(vec![match &reached[&target] {
            Ok(_) => Row::pass("names", "yes, on a network that you create"),
            Err(why) => Row::fail("names", why, "one container reaches the other by its name"),
        }])
    }

    async fn reach(&self) -> Rows {
        let listener = |address: IpAddr| async move {
            let listener = TcpListener::bind((address, 0)).await?;
            Ok((listener.local_addr()?.port(), listener))
        };
        let own = outside_address();
        let (open, _open) =
            listener(own.unwrap_or(Ipv4Addr::LOCALHOST.into())).await.map_err(host)?;
        let (closed, _closed) = listener(Ipv4Addr::LOCALHOST.into()).await.map_err(host)?;
        let gateway = self.launch.as_ref().map_or(Ipv4Addr::new(10, 0, 2, 2), Launch::gateway);
        let own_text = own.map(|own| own.to_string()).unwrap_or_default();
        let loopback = format!("tcp:{gateway}:{closed}");
        let outside = format!("tcp:{own_text}:{open}");
        let internal = [closed, open].map(|port| format!("tcp:host.docker.internal:{port}"));
        let ping = format!("ping:{own_text}");
        let words = ["reach", "dns:", &outside, &loopback, &internal[0], &internal[1], &ping];
        let hosts = json!({"ExtraHosts": ["host.docker.internal:host-gateway"]});
        let reached: Reached = self.ask("reach", &words, hosts).await?;
        let has = |target: &str| reached[target].is_ok();
        let why = |target: &str| reached[target].clone().err().unwrap_or_default();
        let is_open = has(&loopback);
        let dns = match &reached["dns:"] {
            Ok(server) => Row::pass("dns", format!("yes ({server})")),
            Err(why) => no_dns(why).await,
        };
        if own.is_none() {
            let skip =
                |name| Row::skip(name, "this host has no address but its loopback addresses");
            let rest = ["outside", "host-docker-internal", "ping"].map(skip);
            return Ok([dns, self.host_loopback(is_open, gateway)]
                .into_iter()
                .chain(rest)
                .collect());
        }
        if !has(&outside) {
            let row = Row::fail("outside", why(&outside), format!("{own_text} is reached"));
            let skip = |name| Row::skip(name, "a container reaches nothing outside");
            let rest = ["host-loopback", "host-docker-internal", "ping"].map(skip);
            return Ok([dns, row].into_iter().chain(rest).collect());
        }
        let instead = match is_open {
            true => format!("use {gateway}, or set host-gateway-ip to it in daemon.json"),
            false => format!("use {own_text} for what listens there"),
        };
        let internal = match internal.iter().any(|target| has(target)) {
            true => Row::pass(
                "host-docker-internal",
                "yes, with --add-host host.docker.internal:host-gateway",
            ),
            false => {
                Row::info("host-docker-internal", format!("no ({}): {instead}", why(&internal[0])))
            }
        };
        let ping = match reached[&ping].is_ok() {
            true => Row::pass("ping", "yes"),
            false => no_ping(&why(&ping)),
        };
        let outside = Row::pass("outside", format!("yes ({own_text})"));
        Ok(vec![dns, outside, self.host_loopback(is_open, gateway), internal, ping])
    }

    /// Compares what is with what the daemon was launched with.
    fn host_loopback(&self, is_open: bool, gateway: Ipv4Addr) -> Row {
        let word = |is_open| if is_open { "open" } else { "closed" };
        let answer = match is_open {
            true => format!("open: {gateway} is the host's 127.0.0.1"),
            false => "closed".to_owned(),
        };
        let Some(launch) = &self.launch else { return Row::info("host-loopback", answer) };
        let opens = launch.option("--disable-host-loopback").is_none();
        match opens == is_open {
            true => {
                Row::pass("host-loopback", format!("{answer} (network.host-loopback = {opens})"))
            }
            false => Row::fail("host-loopback", answer, word(opens)),
        }
    }

    async fn speed(&self) -> Rows {
        let Some(address) = outside_address() else {
            let why = "this host has no address but its loopback addresses";
            return Ok(vec![Row::skip("speed", why)]);
        };
        let listener = TcpListener::bind((address, 0)).await.map_err(host)?;
        let target = listener.local_addr().map_err(host)?.to_string();
        let peer = tokio::spawn(async move { serve_traffic(&listener).await });
        let words = ["measure", &target];
        let rates: Result<Rates, Failure> = self.ask("speed", &words, json!({})).await;
        peer.abort();
        let (out, back) = rates.map(|rates| (rates.out / 1e6, rates.back / 1e6))?;
        Ok(vec![Row::pass("speed", format!("{out:.0} MB/s out, {back:.0} MB/s in"))])
    }

    async fn ports(&self) -> Rows {
        let key = |protocol: &str| format!("{PORT}/{protocol}");
        let bindings = json!({"PortBindings": {key("tcp"): [{}], key("udp"): [{}]}});
        let id = self.listen("ports", bindings).await?;
        let found = self.engine.inspect(&id).await?;
        let port = |protocol: &str, is_six: bool| {
            let bindings = found["NetworkSettings"]["Ports"][key(protocol)].as_array()?;
            let mut own = bindings.iter().filter(|binding| {
                binding["HostIp"].as_str().is_some_and(|ip| ip.contains(':') == is_six)
            });
            own.next()?["HostPort"].as_str()?.parse::<u16>().ok()
        };
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        let own = outside_address().unwrap_or(loopback);
        let ways = [
            ("localhost", "tcp", loopback),
            ("tcp4", "tcp", own),
            ("tcp6", "tcp", Ipv6Addr::LOCALHOST.into()),
            ("udp", "udp", own),
        ];
        let driver = self.launch.as_ref().and_then(|launch| launch.option("--port-driver"));
        let is_slirp4netns = driver == Some("slirp4netns");
        let mut rows = Vec::new();
        for (name, protocol, address) in ways {
            let Some(port) = port(protocol, address.is_ipv6()) else {
                rows.push(Row::skip(name, "dockerd publishes no port for it"));
                continue;
            };
            let target = SocketAddr::new(address, port);
            let late = |_| Err(io::ErrorKind::TimedOut.into());
            let answered = timeout(ECHO, echo(target, protocol)).await.unwrap_or_else(late);
            rows.push(match answered {
                Ok(seen) if seen == address.to_string() => {
                    Row::pass(name, format!("open; the container sees the client itself ({seen})"))
                }
                Ok(seen) => {
                    let answer = format!("open; the container sees {seen} instead of {address}");
                    Row::pass(name, answer)
                }
                Err(_) if protocol == "tcp" && address.is_ipv6() && is_slirp4netns => {
                    Row::info(name, "closed, as always with network.port-driver = slirp4netns")
                }
                Err(error) => {
                    let answer = format!("{target}: {}", plain(&error));
                    Row::fail(name, answer, "the container answers")
                }
            });
        }
        Ok(rows)
    }

    async fn limits(&self) -> Rows {
        let text = |key: &str, other| self.info[key].as_str().unwrap_or(other).to_owned();
        let why = format!(
            "dockerd has no such limit (cgroup v{}, driver {}): see dockerd-rootless check --only cgroup",
            text("CgroupVersion", "1"),
            text("CgroupDriver", "none")
        );
        let has = |key: &str| self.info[key] == true;
        let mut rows = vec![match has("MemoryLimit") {
            true => self.memory().await?,
            false => Row::skip("memory", &why),
        }];
        let (cpu, pids) = (has("CpuCfsQuota"), has("PidsLimit"));
        if !cpu && !pids {
            rows.extend(["cpu", "pids"].map(|name| Row::skip(name, &why)));
            return Ok(rows);
        }
        let host = json!({"NanoCpus": if cpu { 500_000_000 } else { 0 }, "PidsLimit": if pids { 64 } else { 0 }});
        let facts: Facts = self.ask("limits", &["look"], host).await?;
        let wanted = [("cpu", cpu, "cpu.max", "50000 100000"), ("pids", pids, "pids.max", "64")];
        rows.extend(wanted.map(|(name, has, file, wanted)| match facts.limits.get(file) {
            _ if !has => Row::skip(name, &why),
            Some(found) if found == wanted => Row::pass(name, format!("yes ({file} is {found})")),
            found => {
                let found = found.map_or("missing", String::as_str);
                Row::fail(name, format!("no ({file} is {found})"), format!("{file} is {wanted}"))
            }
        }));
        Ok(rows)
    }

    async fn memory(&self) -> Result<Row, Failure> {
        let host = json!({"Memory": MEMORY, "MemorySwap": MEMORY});
        let ran = self.engine.run(&self.name("memory"), &self.spec(&["fill"], host)).await?;
        let limit = MEMORY >> 20;
        Ok(match ran.is_oom_killed || ran.code == 137 {
            true => Row::pass("memory", format!("yes, killed at {limit} MiB")),
            false => {
                let answer = format!("no, it took more than {limit} MiB (exit code {})", ran.code);
                Row::fail("memory", answer, "the kernel kills it")
            }
        })
    }

    async fn docker_sock(&self) -> Rows {
        const PASTED: &str = "/var/run/docker.sock";
        let own = self.socket.display().to_string();
        let mut said = Vec::new();
        for (at, source) in [PASTED, &own].into_iter().enumerate() {
            // Unlike `-v`, this makes no directory where nothing is.
            let mount = json!({"Type": "bind", "Source": source, "Target": PASTED});
            let host = json!({"Mounts": [mount]});
            let asked: Result<String, Failure> =
                self.ask(&format!("socket-{at}"), &["ask", PASTED], host).await;
            match asked {
                Ok(answer) if answer.contains(" 200 ") => {
                    return Ok(vec![match at {
                        0 => Row::pass("docker-sock", "yes"),
                        _ => Row::info("docker-sock", format!("no, but -v {own}:{PASTED} does")),
                    }]);
                }
                Ok(answer) => said.push(answer),
                Err(failure) => said.push(failure.said),
            }
        }
        Ok(vec![Row::fail("docker-sock", said.join("; "), "the daemon answers in a container")])
    }

    async fn start_time(&self) -> Rows {
        let began = Instant::now();
        let said = self.say("start", &self.image).await?;
        let took = began.elapsed().as_millis();
        Ok(vec![match said == self.kit.nonce {
            true => Row::pass("start-time", format!("{took} ms")),
            false => Row::fail("start-time", format!("it says `{said}`"), &self.kit.nonce),
        }])
    }

    /// Removes all that has the label of this run, and returns what it could not.
    pub async fn clean_up(&self, patience: Duration) -> Vec<Failure> {
        let engine = self.engine.with_patience(patience);
        let filter =
            format!("filters=%7B%22label%22%3A%5B%22{LABEL}%3D{}%22%5D%7D", self.kit.nonce);
        let lists = [
            ("containers", format!("/containers/json?all=1&{filter}"), "?force=1&v=1"),
            ("networks", format!("/networks?{filter}"), ""),
            ("images", format!("/images/json?all=1&{filter}"), "?force=1"),
        ];
        let mut failures = Vec::new();
        for (what, list, how) in lists {
            let found = match engine.get(&format!("list our {what}"), &list).await {
                Ok(found) => found,
                Err(failure) => return vec![failure],
            };
            for id in found.as_array().into_iter().flatten().filter_map(|one| one["Id"].as_str()) {
                let asked = format!("remove {id} of the {what}");
                let removed = engine.delete(&asked, &format!("/{what}/{id}{how}")).await;
                failures.extend(removed.err());
                if failures.last().is_some_and(|failure| failure.fault == Fault::Late) {
                    return failures;
                }
            }
        }
        failures
    }
}

fn host(error: io::Error) -> Failure {
    Failure::own("get a listener on this host", &error)
}

/// Names a user of the host.
fn user(uid: u32) -> String {
    if uid == geteuid().as_raw() { "you".to_owned() } else { format!("uid {uid}") }
}

/// Says which users of the host the users of a container are.
fn user_ids(map: &[(u64, u64, u64)]) -> Row {
    let outside = |inside: u64| {
        let row = map.iter().find(|(first, _, count)| (*first..first + count).contains(&inside))?;
        u32::try_from(row.1 + inside - row.0).ok()
    };
    let name = |inside| outside(inside).map_or_else(|| "missing".to_owned(), user);
    let count: u64 = map.iter().map(|row| row.2).sum();
    let answer = format!("root is {}; user 1000 is {}; {count} ids in all", name(0), name(1000));
    match outside(0) == Some(geteuid().as_raw()) && count > 65535 {
        true => Row::pass("user-ids", answer),
        false => Row::fail("user-ids", answer, "root is you, and 65536 ids or more"),
    }
}

/// Compares the MTU of a container with that of the device to the outside, and that with the one
/// that was configured.
fn mtu(
    inner: &BTreeMap<String, u32>,
    outer: &BTreeMap<String, u32>,
    configured: Option<u32>,
) -> Row {
    let is_inner =
        |name: &str| ["lo", "docker", "br-", "veth"].iter().any(|own| name.starts_with(own));
    let container = inner.iter().find(|(name, _)| *name != "lo");
    let outside = outer.iter().find(|(name, _)| !is_inner(name));
    let text = |found: Option<(&String, &u32)>| {
        found.map_or_else(|| "none".to_owned(), |(name, mtu)| format!("{name} {mtu}"))
    };
    let answer = format!("container {}, outside {}", text(container), text(outside));
    match (container, outside) {
        (Some((_, inner)), Some((_, outer))) if inner > outer => {
            Row::fail("mtu", answer, "the container's is not larger")
        }
        (_, Some((_, outer))) if configured.is_some_and(|configured| configured != *outer) => {
            let configured = configured.unwrap_or_default();
            Row::fail("mtu", answer, format!("{configured} to the outside, as configured"))
        }
        _ => Row::pass("mtu", answer),
    }
}

/// Says whether the host has a name server that answers, where a container has none.
async fn no_dns(why: &str) -> Row {
    let own = spawn_blocking(|| probe::reach(&["dns:"])).await.unwrap_or_default();
    match own.get("dns:") {
        Some(Ok(server)) => {
            Row::fail("dns", why, format!("an answer, as the host has from {server}"))
        }
        _ => Row::skip("dns", "no name server answers the host either"),
    }
}

/// Says why a container cannot ping: slirp4netns and pasta do so by sockets of the user's.
fn no_ping(why: &str) -> Row {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ping_group_range").unwrap_or_default();
    let range = range.split_whitespace().collect::<Vec<_>>().join(" ");
    let gid = getegid().as_raw();
    let bounds: Vec<u32> = range.split(' ').filter_map(|bound| bound.parse().ok()).collect();
    match bounds[..] {
        [first, last] if !(first..=last).contains(&gid) => {
            let next = "see dockerd-rootless check --only ping";
            Row::skip(
                "ping",
                format!("ping_group_range ({range}) excludes your group {gid}: {next}"),
            )
        }
        _ => Row::fail("ping", why, "an answer"),
    }
}

/// Returns the address that this host has on its way outside. Nothing is sent.
fn outside_address() -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // An address for documentation.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    let own = socket.local_addr().ok()?.ip();
    (!own.is_loopback()).then_some(own)
}

/// Asks a container that listens which address its client has.
async fn echo(target: SocketAddr, protocol: &str) -> io::Result<String> {
    let mut buffer = [0; 64];
    let count = if protocol == "udp" {
        let socket = UdpSocket::bind((target.ip(), 0)).await?;
        socket.connect(target).await?;
        socket.send(b"hello").await?;
        socket.recv(&mut buffer).await?
    } else {
        let mut stream = TcpStream::connect(target).await?;
        stream.write_all(b"hello").await?;
        stream.read(&mut buffer).await?
    };
    match count {
        0 => Err(io::Error::other("the connection is closed at once")),
        _ => Ok(String::from_utf8_lossy(&buffer[..count]).into_owned()),
    }
}

/// Reads what a container sends, and sends as much back.
async fn serve_traffic(listener: &TcpListener) -> io::Result<()> {
    let (mut stream, _) = listener.accept().await?;
    tokio::io::copy(&mut (&mut stream).take(TRAFFIC as u64), &mut tokio::io::sink()).await?;
    stream.write_all(b"!").await?;
    stream.read_exact(&mut [0]).await?;
    let block = vec![0; 256 << 10];
    for _ in 0..TRAFFIC / block.len() {
        stream.write_all(&block).await?;
    }
    stream.flush().await
}
