//! The questions, and how each is answered on a running daemon.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::{getegid, geteuid};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use crate::oci::manifest::Kind;
use crate::verify::chain::{self, Chain, Form, Kit, Lie, Link};
use crate::verify::engine::{Engine, Failure, Fault, LATES};
use crate::verify::probe::{self, Device, Facts, READY, Reached, VOLUME, WRITERS, plain};
use crate::verify::report::{Row, Status};
use crate::verify::{Event, Launch, kill};

/// The label of everything that a run makes.
pub const LABEL: &str = "dockerd-rootless.verify";

/// The port on which containers listen.
const PORT: &str = "7070";

/// How long a published port may take to open (pasta looks once a second), and a container to listen.
const OPEN: Duration = Duration::from_secs(3);
const BEGIN: Duration = Duration::from_secs(10);

/// How long to wait before something is asked again.
const MOMENT: Duration = Duration::from_millis(20);

/// How long a daemon that failed may take to say that it is there: it may just be replaced.
const PING: Duration = Duration::from_secs(5);

/// The memory of the container that takes too much of it, in bytes.
const MEMORY: u64 = 32 << 20;

const NO_ADDRESS: &str = "this host has no address but its loopback addresses";
const NO_IPTABLES: &str = "dockerd runs with `--iptables=false`: containers reach nothing outside";

/// A word of the program itself.
pub type Text = &'static str;

/// A question.
#[derive(Serialize)]
pub struct Check {
    pub group: Text,
    pub name: Text,
    pub question: Text,
    #[serde(skip)]
    pub step: Step,
    /// What to run where the answer is bad.
    #[serde(skip)]
    pub next: Text,
}

/// What is done to answer a few of them at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Look,
    Names,
    Reach,
    Speed,
    Ports,
    Limits,
    Load,
    /// The way of images, which has a file of its own.
    Chain(Link),
    Socket,
    Start,
    Kill,
}

const fn check(group: Text, name: Text, question: Text, step: Step, next: Text) -> Check {
    Check { group, name, question, step, next }
}

const fn accept(name: Text, question: Text, kind: Kind, has_type: bool, by_digest: bool) -> Check {
    let form = Form { kind, has_type, by_digest };
    check(FORMS, name, question, Step::Chain(Link::Accept(form)), STATUS)
}

const fn refuse(name: Text, question: Text, kind: Kind, by_digest: bool, lie: Lie) -> Check {
    let form = Form { kind, has_type: true, by_digest };
    check(FORMS, name, question, Step::Chain(Link::Refuse(form, lie)), STATUS)
}

/// The group that is asked only with `--images=all`.
pub const FORMS: Text = "Forms of images";

/// What to run where no check explains an answer.
pub const STATUS: Text = "dockerd-rootless status";

/// The one that is answered only where it is asked for.
pub const SURVIVAL: Text = "survival";

/// The questions, in the order in which they are answered.
#[rustfmt::skip]
pub const CHECKS: &[Check] = &[
    check("Users and files", "user-ids", "which user of the host is root in a container?", Step::Look, "dockerd-rootless check --only subuid,subgid"),
    check("Users and files", "file-owner", "who owns a file that a container writes into a volume?", Step::Look, "dockerd-rootless check --only subuid,subgid"),
    check("Users and files", "overlay", "can a container change, rename and remove files of its image?", Step::Look, "dockerd-rootless check --only overlay"),
    check("Network", "names", "do containers find each other by name?", Step::Names, "dockerd-rootless check --only netfilter"),
    check("Network", "dns", "does a name server answer a container?", Step::Reach, "dockerd-rootless check --only resolv-conf"),
    check("Network", "outside", "does a container reach addresses outside?", Step::Reach, "dockerd-rootless check --only network-driver"),
    check("Network", "host-loopback", "can a container reach what listens on the host's 127.0.0.1?", Step::Reach, "dockerd-rootless config explain network.host-loopback"),
    check("Network", "host-docker-internal", "does host.docker.internal lead to the host?", Step::Reach, "dockerd-rootless check --only network-driver"),
    check("Network", "ping", "can a container ping addresses outside?", Step::Reach, "dockerd-rootless check --only ping"),
    check("Network", "mtu", "which MTU do the two network devices have?", Step::Look, "dockerd-rootless config explain network.mtu"),
    check("Network", "speed", "how fast is the network, out and in?", Step::Speed, "dockerd-rootless check --only network-driver"),
    check("Published ports", "localhost", "does a published port answer on 127.0.0.1, and which client is seen?", Step::Ports, "dockerd-rootless check --only port-driver"),
    check("Published ports", "tcp4", "does a published port answer on the host's own address, and which client is seen?", Step::Ports, "dockerd-rootless check --only port-driver"),
    check("Published ports", "tcp6", "does a published port answer on ::1, and which client is seen?", Step::Ports, "dockerd-rootless check --only ipv6,port-driver"),
    check("Published ports", "udp", "does a published UDP port answer, and which client is seen?", Step::Ports, "dockerd-rootless check --only port-driver"),
    check("Limits", "memory", "is a container killed that takes more memory than --memory?", Step::Limits, "dockerd-rootless check --only cgroup"),
    check("Limits", "cpu", "does --cpus hold?", Step::Limits, "dockerd-rootless check --only cgroup"),
    check("Limits", "pids", "does --pids-limit hold?", Step::Limits, "dockerd-rootless check --only cgroup"),
    check("Limits", "open-files", "how many files may a container open?", Step::Look, "dockerd-rootless check --only limits"),
    check("Security", "seccomp", "are system calls filtered?", Step::Look, "docker info --format '{{.SecurityOptions}}'"),
    check("Images", "load", "does docker load take an image?", Step::Load, STATUS),
    check("Images", "pull", "does it pull all kinds of images, by tag and by digest?", Step::Chain(Link::Pull), "dockerd-rootless verify --images all"),
    check("Images", "push", "does a pushed image arrive as predicted?", Step::Chain(Link::Push), STATUS),
    check("Images", "layer-reuse", "is a shared layer fetched only once?", Step::Chain(Link::Reuse), STATUS),
    check("Images", "run", "does a pulled image run?", Step::Chain(Link::Run), STATUS),
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
    check("The daemon", "docker-sock", "does -v /var/run/docker.sock:/var/run/docker.sock work?", Step::Socket, STATUS),
    check("The daemon", "start-time", "how long does a container take to start, run and end?", Step::Start, STATUS),
    check("The daemon", SURVIVAL, "do containers live on when dockerd is killed? (only with --disruptive)", Step::Kill, STATUS),
];

/// A run of `verify` on one daemon.
pub struct Run<'r> {
    /// The daemon's socket.
    pub socket: &'r Path,
    /// How the daemon was launched, if it is ours.
    pub launch: Option<Launch>,
    pub engine: Engine,
    /// What `/info` says.
    pub info: Value,
    /// The image of our own program.
    pub image: String,
    /// A directory of the user's for a volume.
    pub scratch: PathBuf,
    pub kit: Kit,
    /// The registry that the daemon reaches, or why there is none.
    pub chain: Result<Chain, String>,
}

pub type Rows = Result<Vec<Row>, Failure>;

impl Run<'_> {
    /// Answers the questions with these names, and tells each question and its answer. None is
    /// asked if the image was not `loaded`.
    pub async fn answer(
        &self,
        names: &[&str],
        loaded: Result<(), Failure>,
        mut tell: impl FnMut(Event),
    ) {
        let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
        let mut done: Vec<Step> = Vec::new();
        let checks = || CHECKS.iter().filter(|check| names.contains(&check.name));
        let mut over = None;
        if let Err(failure) = loaded {
            over = Some("dockerd has not loaded the image of `verify`");
            let row = |check: &Check| (check.name, Row::refused(check.name, &failure));
            rows.extend(checks().find(|one| one.name == "load").or(checks().next()).map(row));
        }
        for check in checks() {
            if self.engine.is_stopped() {
                return;
            }
            tell(Event::Asked(check));
            if over.is_none() && !done.contains(&check.step) {
                done.push(check.step);
                match self.perform(check).await {
                    Ok(found) => rows.extend(found.into_iter().map(|row| (row.name, row))),
                    Err(failure) => {
                        let of_step = CHECKS.iter().filter(|other| other.step == check.step);
                        let refused =
                            of_step.map(|one| (one.name, Row::refused(one.name, &failure)));
                        rows.extend(refused);
                        let engine = Engine::new(self.socket, PING);
                        if engine.get("answer", "/_ping").await.is_err() {
                            over = Some("dockerd does not answer any more");
                        }
                    }
                }
                if self.engine.lates() >= LATES {
                    over = over.or(Some("dockerd was too slow twice before"));
                }
                if self.engine.is_stopped() {
                    return;
                }
            }
            let none = || Row::skip(check.name, over.unwrap_or("no answer came"));
            let mut row = rows.remove(check.name).unwrap_or_else(none);
            (row.group, row.question) = (check.group, check.question);
            if row.status == Status::Fail {
                row.next = row.next.or(Some(check.next));
            }
            tell(Event::Answered(row));
        }
    }

    async fn perform(&self, check: &Check) -> Rows {
        match check.step {
            Step::Look => self.look().await,
            Step::Names => self.names().await,
            Step::Reach => self.reach().await,
            Step::Speed => self.speed().await,
            Step::Ports => self.ports().await,
            Step::Limits => self.limits().await,
            Step::Load => chain::load(self).await,
            Step::Chain(link) => chain::answer(self, check.name, link).await,
            Step::Socket => self.docker_sock().await,
            Step::Start => self.start_time().await,
            Step::Kill => kill::answer(self).await,
        }
    }

    /// Describes a container of ours that does what `words` say.
    pub fn spec(&self, words: &[&str], mut host: Value) -> Value {
        // What daemon.json names instead may be a log server, or a log that cannot be read.
        host["LogConfig"] = json!({"Type": "json-file"});
        let labels = json!({LABEL: self.kit.nonce});
        json!({"Image": self.image, "Cmd": words, "Labels": labels, "HostConfig": host})
    }

    /// Names a container or a network of ours.
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
    async fn ask<T: DeserializeOwned>(
        &self,
        purpose: &str,
        words: &[&str],
        host: Value,
    ) -> Result<T, Failure> {
        self.read(purpose, &self.spec(words, host)).await
    }

    async fn read<T: DeserializeOwned>(&self, purpose: &str, spec: &Value) -> Result<T, Failure> {
        let ran = self.engine.run(&self.name(purpose), spec).await?;
        serde_json::from_str(ran.stdout.lines().last().unwrap_or_default()).map_err(|_| {
            let said = format!("exit code {}: {}{}", ran.code, ran.stdout, ran.stderr);
            Failure { asked: format!("run the container `{purpose}`"), said, fault: Fault::Refused }
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
            sleep(MOMENT).await;
        }
    }

    async fn look(&self) -> Rows {
        let mount = json!({"Type": "bind", "Source": self.scratch, "Target": VOLUME});
        let facts: Facts = self.ask("look", &["look"], json!({"Mounts": [mount]})).await?;
        let outer: Facts = self.ask("look-host", &["look"], json!({"NetworkMode": "host"})).await?;
        let driver = self.info["Driver"].as_str().unwrap_or_default();
        let overlay = match &facts.overlay {
            None => format!("yes ({driver}, {})", facts.root),
            Some(why) => format!("{driver}: {why}"),
        };
        let is_unconfined = self.info["SecurityOptions"].to_string().contains("unconfined");
        let seccomp = match facts.seccomp.as_str() {
            // A filter may come from what started the daemon.
            mode if is_unconfined => {
                let answer = format!("dockerd's profile is `unconfined` (mode {mode})");
                Row::info("seccomp", answer)
            }
            "2" => Row::pass("seccomp", "yes, by a filter"),
            mode => Row::fail("seccomp", format!("no (mode {mode})"), "mode 2, a filter"),
        };
        let open_files = match facts.open_files {
            (soft, hard) if soft == hard => soft.to_string(),
            (soft, hard) => format!("{soft}, and {hard} where it asks for more"),
        };
        // rootlesskit takes 0 for its own choice.
        let configured =
            self.option("--mtu").and_then(|mtu| mtu.parse().ok()).filter(|mtu| *mtu > 0);
        Ok(vec![
            user_ids(&facts.uid_map),
            self.file_owner(facts.volume),
            Row::judge("overlay", facts.overlay.is_none(), overlay, "all three work"),
            seccomp,
            Row::pass("open-files", open_files),
            mtu(facts.device, outer.device, configured),
        ])
    }

    /// Looks who owns the files that a container has written into the volume.
    fn file_owner(&self, failure: Option<String>) -> Row {
        let owner = |uid: u32| Ok(std::fs::metadata(self.scratch.join(uid.to_string()))?.uid());
        let owners: io::Result<Vec<u32>> = WRITERS.into_iter().map(owner).collect();
        let (Ok(owners), None) = (owners, &failure) else {
            let why = failure.unwrap_or_else(|| "no file is there".to_owned());
            return Row::fail("file-owner", why, "a container writes into the volume");
        };
        let answer = format!("root's: {}; user 1000's: {}", user(owners[0]), user(owners[1]));
        let is_own = owners[0] == geteuid().as_raw();
        Row::judge("file-owner", is_own, answer, "what root writes belongs to you")
    }

    /// Returns the value of an option that rootlesskit was started with.
    fn option(&self, name: &str) -> Option<&str> {
        self.launch.as_ref()?.option(name)
    }

    /// Reports that containers reach nothing outside, unless dockerd's settings say so.
    fn unreached(&self, name: Text, why: String, expected: &str) -> Row {
        match &self.launch {
            Some(Launch { has_iptables: false, .. }) => Row::skip(name, NO_IPTABLES),
            _ => Row::fail(name, why, expected),
        }
    }

    async fn names(&self) -> Rows {
        let network = self.name("network");
        let spec = json!({"Name": network, "Labels": {LABEL: self.kit.nonce}});
        self.engine.post("create a network", "/networks/create", &spec).await?;
        let host = json!({"NetworkMode": network});
        self.listen("peer", host.clone()).await?;
        let target = format!("tcp:{}:{PORT}", self.name("peer"));
        let [reached]: [Reached; 1] = self.ask("names", &["reach", &target], host).await?;
        Ok(vec![match reached {
            Ok(_) => Row::pass("names", "yes, on a network that you create"),
            Err(why) => Row::fail("names", why, "one container reaches the other by its name"),
        }])
    }

    async fn reach(&self) -> Rows {
        let address = outside_address();
        let own = address.unwrap_or(Ipv4Addr::LOCALHOST.into());
        let (open, _open) = listener(own).await?;
        let (closed, _closed) = listener(Ipv4Addr::LOCALHOST.into()).await?;
        let gateway = self.launch.as_ref().and_then(Launch::gateway);
        let gateway = gateway.unwrap_or(Ipv4Addr::new(10, 0, 2, 2));
        let outside = format!("tcp:{own}:{open}");
        let loopback = format!("tcp:{gateway}:{closed}");
        let internal = [closed, open].map(|port| format!("tcp:host.docker.internal:{port}"));
        let ping = format!("ping:{own}");
        let words = ["reach", "dns:", &outside, &loopback, &internal[0], &internal[1], &ping];
        let hosts = json!({"ExtraHosts": ["host.docker.internal:host-gateway"]});
        let [dns, outside, loopback, by_loopback, by_address, ping]: [Reached; 6] =
            self.ask("reach", &words, hosts).await?;
        let dns = match dns {
            Ok(server) => Row::pass("dns", format!("yes ({server})")),
            Err(why) => self.no_dns(why).await,
        };
        let (outside, lacks) = match (address, outside) {
            (None, _) => (Row::skip("outside", NO_ADDRESS), Some(NO_ADDRESS)),
            (_, Ok(_)) => (Row::pass("outside", format!("yes ({own})")), None),
            (_, Err(why)) => {
                let row = self.unreached("outside", why, &format!("{own} is reached"));
                (row, Some("a container reaches nothing outside"))
            }
        };
        if let Some(why) = lacks {
            let skip = |name| Row::skip(name, why);
            let rest = ["host-loopback", "host-docker-internal", "ping"].map(skip);
            return Ok([dns, outside].into_iter().chain(rest).collect());
        }
        let instead = match loopback {
            Ok(_) => format!("use {gateway}, or set host-gateway-ip to it in daemon.json"),
            Err(_) => format!("use {own} for what listens there"),
        };
        let internal = match by_loopback.or_else(|why| by_address.map_err(|_| why)) {
            Ok(_) => Row::pass(
                "host-docker-internal",
                "yes, with --add-host host.docker.internal:host-gateway",
            ),
            Err(why) => Row::info("host-docker-internal", format!("no ({why}): {instead}")),
        };
        let ping = match ping {
            Ok(_) => Row::pass("ping", "yes"),
            Err(why) => no_ping(why, own).await,
        };
        Ok(vec![dns, outside, self.host_loopback(loopback.is_ok(), gateway), internal, ping])
    }

    /// Says whether the host has a name server that answers, where a container has none.
    async fn no_dns(&self, why: String) -> Row {
        match reach_from_host("dns:".to_owned()).await {
            Ok(server) => {
                self.unreached("dns", why, &format!("an answer, as the host has from {server}"))
            }
            Err(_) => Row::skip("dns", "no name server answers the host either"),
        }
    }

    /// Compares what is with what the daemon was launched with.
    fn host_loopback(&self, is_open: bool, gateway: Ipv4Addr) -> Row {
        let answer = match is_open {
            true => format!("open: {gateway} is the host's 127.0.0.1"),
            false => "closed".to_owned(),
        };
        if self.launch.is_none() {
            return Row::info("host-loopback", answer);
        }
        if self.option("--net") == Some("lxc-user-nic") {
            return Row::info("host-loopback", format!("{answer}, as always with lxc-user-nic"));
        }
        let opens = self.option("--disable-host-loopback").is_none();
        let answer = format!("{answer} (network.host-loopback = {opens})");
        let expected = if opens { "open" } else { "closed" };
        Row::judge("host-loopback", opens == is_open, answer, expected)
    }

    async fn speed(&self) -> Rows {
        let Some(address) = outside_address() else {
            return Ok(vec![Row::skip("speed", NO_ADDRESS)]);
        };
        let failure = |error: io::Error| Failure::own("get a listener on this host", &error);
        let listener = std::net::TcpListener::bind((address, 0)).map_err(failure)?;
        let target = listener.local_addr().map_err(failure)?.to_string();
        let peer = spawn_blocking(move || {
            let out = probe::receive(listener.accept()?.0)?;
            probe::send(listener.accept()?.0)?;
            Ok::<f64, io::Error>(out)
        });
        let back: Result<f64, String> = self.ask("speed", &["measure", &target], json!({})).await?;
        let rates = match back {
            Ok(back) => peer.await.map_err(io::Error::other).flatten().map(|out| (out, back)),
            Err(why) => Err(io::Error::other(why)),
        };
        Ok(vec![match rates.map_err(|error| plain(&error)) {
            Ok((out, back)) => Row::pass("speed", format!("{out:.0} MB/s out, {back:.0} MB/s in")),
            Err(why) => self.unreached("speed", why, "data in both directions"),
        }])
    }

    async fn ports(&self) -> Rows {
        if self.option("--port-driver") == Some("none") {
            let skip = |name| Row::skip(name, "network.port-driver = none publishes no port");
            return Ok(["localhost", "tcp4", "tcp6", "udp"].map(skip).into());
        }
        let key = |protocol: &str| format!("{PORT}/{protocol}");
        let bindings = json!({"PortBindings": {key("tcp"): [{}], key("udp"): [{}]}});
        let id = self.listen("ports", bindings).await?;
        let found = self.engine.inspect(&id).await?;
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        let own = outside_address().unwrap_or(loopback);
        let mut rows = Vec::new();
        for (name, protocol, address) in [
            ("localhost", "tcp", loopback),
            ("tcp4", "tcp", own),
            ("tcp6", "tcp", Ipv6Addr::LOCALHOST.into()),
            ("udp", "udp", own),
        ] {
            let bindings = found["NetworkSettings"]["Ports"][key(protocol)].as_array();
            let read = |binding: &Value| {
                let ip: IpAddr = binding["HostIp"].as_str()?.parse().ok()?;
                Some(SocketAddr::new(ip, binding["HostPort"].as_str()?.parse().ok()?))
            };
            let is_own = |bound: &SocketAddr| bound.is_ipv6() == address.is_ipv6();
            let bound = bindings.into_iter().flatten().filter_map(read).find(is_own);
            rows.push(match bound.map(|bound| (bound.ip(), bound.port())) {
                _ if std::net::TcpListener::bind((address, 0)).is_err() => {
                    Row::skip(name, format!("this host has no address {address}"))
                }
                None => Row::skip(name, "dockerd publishes no port for it"),
                Some((ip, port)) if ip.is_unspecified() || ip == address => {
                    self.port(name, SocketAddr::new(address, port), protocol).await
                }
                Some((ip, _)) => Row::skip(name, format!("dockerd publishes ports on {ip} only")),
            });
        }
        Ok(rows)
    }

    /// Says which client a container sees at a published port.
    async fn port(&self, name: Text, target: SocketAddr, protocol: &str) -> Row {
        let began = Instant::now();
        let answered = loop {
            let late = |_| Err(io::ErrorKind::TimedOut.into());
            let answered = timeout(OPEN, echo(target, protocol)).await.unwrap_or_else(late);
            if answered.is_ok() || began.elapsed() > OPEN {
                break answered;
            }
            sleep(MOMENT).await;
        };
        let client = target.ip().to_string();
        match answered {
            Ok(seen) if seen == client => {
                Row::pass(name, format!("open; the container sees the client itself ({seen})"))
            }
            Ok(seen) => Row::pass(name, format!("open; the container sees {seen}, not {client}")),
            Err(_) if name == "tcp6" && self.option("--port-driver") == Some("slirp4netns") => {
                Row::info(name, "closed, as always with network.port-driver = slirp4netns")
            }
            Err(error) => {
                Row::fail(name, format!("{target}: {}", plain(&error)), "the container answers")
            }
        }
    }

    async fn limits(&self) -> Rows {
        let text = |key: &str, other| self.info[key].as_str().unwrap_or(other).to_owned();
        let (version, driver) = (text("CgroupVersion", "1"), text("CgroupDriver", "none"));
        let next = "see dockerd-rootless check --only cgroup";
        let why = format!("dockerd has no such limit (cgroup v{version}, driver {driver}): {next}");
        let has = |key: &str| self.info[key] == true;
        let mut rows = vec![match has("MemoryLimit") {
            true => self.memory().await?,
            false => Row::skip("memory", &why),
        }];
        for (name, key, host, file, wanted) in [
            (
                "cpu",
                "CpuCfsQuota",
                json!({"CgroupnsMode": "private", "NanoCpus": 500_000_000}),
                "cpu.max",
                "50000 100000",
            ),
            (
                "pids",
                "PidsLimit",
                json!({"CgroupnsMode": "private", "PidsLimit": 64}),
                "pids.max",
                "64",
            ),
        ] {
            if !has(key) {
                rows.push(Row::skip(name, &why));
                continue;
            }
            let facts: Facts = self.ask(name, &["look"], host).await?;
            let found = facts.limits.get(file).map_or("missing", String::as_str);
            let expected = format!("{file} is {wanted}");
            rows.push(Row::judge(name, found == wanted, format!("{file} is {found}"), &expected));
        }
        Ok(rows)
    }

    async fn memory(&self) -> Result<Row, Failure> {
        let host = json!({"Memory": MEMORY, "MemorySwap": MEMORY});
        let ran = self.engine.run(&self.name("memory"), &self.spec(&["fill"], host)).await?;
        // Only the kernel sends SIGKILL to it.
        let (limit, is_killed) = (MEMORY >> 20, ran.code == 137);
        let answer = match is_killed {
            true => format!("yes, killed at {limit} MiB"),
            false => format!("no, it took more than {limit} MiB (exit code {})", ran.code),
        };
        Ok(Row::judge("memory", is_killed, answer, "the kernel kills it"))
    }

    async fn docker_sock(&self) -> Rows {
        const PASTED: &str = "/var/run/docker.sock";
        let own = self.socket.display().to_string();
        let instead = format!("no, but -v {own}:{PASTED} does");
        let mut said = Vec::new();
        for (source, row) in
            [(PASTED, Row::pass("docker-sock", "yes")), (&own, Row::info("docker-sock", instead))]
        {
            // Unlike `-v`, this makes no directory where nothing is.
            let mount = json!({"Type": "bind", "Source": source, "Target": PASTED});
            let purpose = format!("socket-{}", said.len());
            let host = json!({"Mounts": [mount]});
            let asked: Result<String, _> = self.ask(&purpose, &["ask", PASTED], host).await;
            match asked.unwrap_or_else(|failure| failure.said) {
                answer if answer.contains(" 200 ") => return Ok(vec![row]),
                answer => said.push(answer),
            }
        }
        Ok(vec![Row::fail("docker-sock", said.join("; "), "the daemon answers in a container")])
    }

    async fn start_time(&self) -> Rows {
        let began = Instant::now();
        let said = self.say("start", &self.image).await?;
        let (took, is_good) = (began.elapsed().as_millis(), said == self.kit.nonce);
        let answer = if is_good { format!("{took} ms") } else { format!("it says `{said}`") };
        Ok(vec![Row::judge("start-time", is_good, answer, &self.kit.nonce)])
    }

    /// Removes all that has the label of this run, and returns what it could not.
    pub async fn clean_up(&self, patience: Duration) -> Result<(), Failure> {
        let engine = Engine::new(self.socket, patience);
        let filter =
            format!("filters=%7B%22label%22%3A%5B%22{LABEL}%3D{}%22%5D%7D", self.kit.nonce);
        let mut failure = Ok(());
        for (what, list, how) in [
            ("containers", "/containers/json?all=1&", "?force=1&v=1"),
            ("networks", "/networks?", ""),
            ("images", "/images/json?all=1&", "?force=1"),
        ] {
            let listed = engine.get(&format!("list {what}"), &format!("{list}{filter}")).await;
            let found = listed.unwrap_or_else(|error| {
                failure = failure.clone().and(Err(error));
                Value::Null
            });
            for id in found.as_array().into_iter().flatten().filter_map(|one| one["Id"].as_str()) {
                let asked = format!("remove {id} of the {what}");
                match engine.delete(&asked, &format!("/{what}/{id}{how}")).await {
                    Err(late) if late.fault == Fault::Late => return Err(late),
                    removed => failure = failure.and(removed),
                }
            }
        }
        failure
    }
}

async fn listener(address: IpAddr) -> Result<(u16, TcpListener), Failure> {
    let listen = async {
        let listener = TcpListener::bind((address, 0)).await?;
        Ok((listener.local_addr()?.port(), listener))
    };
    listen.await.map_err(|error| Failure::own("get a listener on this host", &error))
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
    let is_good = outside(0) == Some(geteuid().as_raw()) && count > 65535;
    Row::judge("user-ids", is_good, answer, "root is you, and 65536 ids or more")
}

/// Compares the MTU of a container's device with that of the device to the outside, and that with
/// the one that was configured.
fn mtu(inner: Option<Device>, outer: Option<Device>, wanted: Option<u32>) -> Row {
    let (Some((inner, inner_mtu)), Some((outer, outer_mtu))) = (inner, outer) else {
        return Row::skip("mtu", "no route leads outside");
    };
    let is_good = inner_mtu <= outer_mtu && wanted.is_none_or(|wanted| wanted == outer_mtu);
    let wanted = wanted.unwrap_or(outer_mtu);
    let expected = format!("{wanted} outside, and no more in the container");
    let answer = format!("container {inner} {inner_mtu}, outside {outer} {outer_mtu}");
    Row::judge("mtu", is_good, answer, &expected)
}

/// Tries on the host what a container has tried.
async fn reach_from_host(target: String) -> Reached {
    let tried = spawn_blocking(move || probe::reach(&[&target]).remove(0)).await;
    tried.unwrap_or_else(|error| Err(error.to_string()))
}

/// Says why a container cannot ping: slirp4netns and pasta do so by sockets of the user's.
async fn no_ping(why: String, own: IpAddr) -> Row {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ping_group_range").unwrap_or_default();
    let bounds: Vec<u32> = range.split_whitespace().flat_map(str::parse).collect();
    let gid = getegid().as_raw();
    if bounds.len() < 2 || (bounds[0]..=bounds[1]).contains(&gid) {
        return match reach_from_host(format!("ping:{own}")).await {
            Ok(_) => Row::fail("ping", why, "an answer, as the host has"),
            Err(_) => Row::skip("ping", "the host does not answer itself either"),
        };
    }
    let range = format!("ping_group_range ({} {})", bounds[0], bounds[1]);
    let next = "see dockerd-rootless check --only ping";
    Row::skip("ping", format!("{range} excludes your group {gid}: {next}"))
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
