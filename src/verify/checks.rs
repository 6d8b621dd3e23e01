//! The questions, and how each is answered on a running daemon.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use crate::oci::manifest::Kind;
use crate::verify::chain::{self, Chain, Form, Kit, Lie, Link};
use crate::verify::engine::{Engine, Failure};
use crate::verify::probe::{Facts, Rates, Seen, TRAFFIC, Task};
use crate::verify::report::Row;

/// The label of everything that a run makes.
pub const LABEL: &str = "dockerd-rootless.verify";

/// The port on which containers listen.
const PORT: u16 = 7070;

/// How long to wait for a connection or a line of a container.
const PATIENCE: Duration = Duration::from_secs(5);

/// The memory of the container that takes too much of it, in bytes.
const MEMORY: u64 = 32 << 20;

/// A question.
pub struct Check {
    pub name: &'static str,
    pub group: &'static str,
    pub question: &'static str,
    step: Step,
}

/// What is done to answer a few of them at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Look,
    Volume,
    Limits,
    Names,
    Reach,
    Ports,
    Speed,
    Socket,
    Start,
    /// The way of images, which has a file of its own.
    Chain(Link),
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
    check(FORMS, name, question, Step::Chain(Link::Accept(Form { kind, has_type, by_digest })))
}

const fn refuse(
    name: &'static str,
    question: &'static str,
    kind: Kind,
    by_digest: bool,
    lie: Lie,
) -> Check {
    let form = Form { kind, has_type: true, by_digest };
    check(FORMS, name, question, Step::Chain(Link::Refuse(form, lie)))
}

const fn check(
    group: &'static str,
    name: &'static str,
    question: &'static str,
    step: Step,
) -> Check {
    Check { name, group, question, step }
}

const USERS: &str = "Users and files";
const NETWORK: &str = "Network";
const PORTS: &str = "Published ports";
const LIMITS: &str = "Limits";
const SECURITY: &str = "Security";
const DAEMON: &str = "The daemon";
const IMAGES: &str = "Images";
const FORMS: &str = "Forms of images";

/// The questions, in the order in which they are answered.
#[rustfmt::skip]
pub const CHECKS: &[Check] = &[
    check(USERS, "user-ids", "which user of the host is root in a container?", Step::Look),
    check(USERS, "file-owner", "who owns a file that a container writes into a volume?", Step::Volume),
    check(USERS, "overlay", "can a container change, rename and remove files of its image?", Step::Look),
    check(NETWORK, "dns", "do containers find each other by name?", Step::Names),
    check(NETWORK, "outside", "does a container reach addresses outside?", Step::Reach),
    check(NETWORK, "host-loopback", "can a container reach what listens on the host's 127.0.0.1?", Step::Reach),
    check(NETWORK, "host-docker-internal", "does host.docker.internal lead to the host?", Step::Reach),
    check(NETWORK, "mtu", "which MTU do the two network devices have?", Step::Look),
    check(NETWORK, "speed", "how fast is it, out and in?", Step::Speed),
    check(NETWORK, "ping", "may a container send an echo request?", Step::Look),
    check(PORTS, "tcp4", "is a published port open, and which source address does the container see?", Step::Ports),
    check(PORTS, "tcp6", "the same over IPv6", Step::Ports),
    check(PORTS, "udp", "the same over UDP", Step::Ports),
    check(LIMITS, "memory", "is a container killed that takes more memory than --memory?", Step::Limits),
    check(LIMITS, "cpu", "does --cpus hold?", Step::Limits),
    check(LIMITS, "pids", "does --pids-limit hold?", Step::Limits),
    check(LIMITS, "open-files", "how many files may a container open?", Step::Look),
    check(SECURITY, "seccomp", "are system calls filtered?", Step::Look),
    check(DAEMON, "docker-sock", "does -v /var/run/docker.sock:/var/run/docker.sock work?", Step::Socket),
    check(DAEMON, "start-time", "how long does a container take to start, run and end?", Step::Start),
    check(IMAGES, "load", "does docker load take an image?", Step::Chain(Link::Load)),
    check(IMAGES, "pull", "does it pull all kinds of images, by tag and by digest?", Step::Chain(Link::Pull)),
    check(IMAGES, "push", "does a pushed image arrive as predicted?", Step::Chain(Link::Push)),
    check(IMAGES, "layer-reuse", "is a shared layer fetched only once?", Step::Chain(Link::Reuse)),
    check(IMAGES, "run", "does a pulled image run?", Step::Chain(Link::Run)),
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
    /// Whether the settings open the host's loopback addresses to containers.
    pub host_loopback: bool,
    /// Whether the port driver publishes ports over IPv6.
    pub ipv6_ports: bool,
    pub kit: Kit,
    /// The registry that the daemon reaches, or why there is none.
    pub chain: Result<Chain, String>,
}

pub type Rows = Result<Vec<Row>, Failure>;

impl Run {
    /// Answers the questions with these names, and hands each answer to `tell`.
    pub async fn answer(&self, names: &[&str], mut tell: impl FnMut(Row)) {
        let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
        let mut done: Vec<Step> = Vec::new();
        for check in CHECKS.iter().filter(|check| names.contains(&check.name)) {
            if !done.contains(&check.step) {
                done.push(check.step);
                match self.perform(check).await {
                    Ok(found) => rows.extend(found.into_iter().map(|row| (row.name, row))),
                    Err(failure) => {
                        let of_step = CHECKS.iter().filter(|other| other.step == check.step);
                        rows.extend(
                            of_step.map(|other| (other.name, Row::refused(other.name, &failure))),
                        );
                    }
                }
            }
            let row = rows.remove(check.name);
            tell(row.unwrap_or_else(|| Row::skip(check.name, "the container does not tell")));
        }
    }

    async fn perform(&self, check: &Check) -> Rows {
        match check.step {
            Step::Look => self.look().await,
            Step::Volume => self.volume().await,
            Step::Limits => self.limits().await,
            Step::Names => self.names().await,
            Step::Reach => self.reach().await,
            Step::Ports => self.ports().await,
            Step::Speed => self.speed().await,
            Step::Socket => self.socket().await,
            Step::Start => self.start().await,
            Step::Chain(link) => chain::answer(self, check.name, link).await,
        }
    }

    /// Describes a container of ours that does `task`.
    fn spec(&self, task: &Task, host: Value) -> Value {
        json!({
            "Image": self.image,
            "Cmd": task.words(),
            "Labels": {LABEL: self.kit.nonce},
            "HostConfig": host,
        })
    }

    fn name(&self, purpose: &str) -> String {
        format!("verify-{}-{purpose}", self.kit.nonce)
    }

    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        purpose: &str,
        task: &Task,
        host: Value,
    ) -> Result<T, Failure> {
        self.read(purpose, &self.spec(task, host)).await
    }

    async fn read<T: serde::de::DeserializeOwned>(
        &self,
        purpose: &str,
        spec: &Value,
    ) -> Result<T, Failure> {
        let ran = self.engine.run(&self.name(purpose), spec).await?;
        serde_json::from_str(ran.stdout.lines().last().unwrap_or_default()).map_err(|_| Failure {
            asked: format!("read what the container `{purpose}` found"),
            said: format!("exit code {}: {}{}", ran.code, ran.stdout, ran.stderr),
        })
    }

    async fn look(&self) -> Rows {
        let facts: Facts = self.ask("look", &Task::Look, json!({})).await?;
        let outer: Facts =
            self.ask("look-host", &Task::Look, json!({"NetworkMode": "host"})).await?;
        let driver = self.info["Driver"].as_str().unwrap_or_default();
        let overlay = match &facts.overlay {
            None => Row::pass("overlay", format!("yes ({driver}, {})", facts.root)),
            Some(why) => Row::fail("overlay", format!("{driver}: {why}"), "all three work")
                .next("dockerd-rootless check --only storage-driver"),
        };
        let seccomp = match facts.seccomp.as_str() {
            "2" => Row::pass("seccomp", "yes, by a filter"),
            mode => Row::fail("seccomp", format!("no (mode {mode})"), "mode 2, a filter")
                .next("docker info --format '{{.SecurityOptions}}'"),
        };
        let ping = match &facts.ping {
            None => Row::pass("ping", "yes"),
            Some(why) => {
                Row::fail("ping", why, "an answer").next("dockerd-rootless check --only ping")
            }
        };
        let (soft, hard) = facts.open_files;
        Ok(vec![
            user_ids(&facts.uid_map),
            overlay,
            seccomp,
            ping,
            Row::pass("open-files", format!("{soft}, and {hard} if it asks")),
            mtu(&facts.mtu, &outer.mtu),
        ])
    }

    async fn volume(&self) -> Rows {
        let host = json!({"Binds": [format!("{}:/volume", self.scratch.display())]});
        let root: Vec<(String, u32)> = vec![("root".to_owned(), 0), ("user 1000".to_owned(), 1000)];
        let mut owners = Vec::new();
        for (who, uid) in root {
            let path = format!("/volume/{uid}");
            let spec = self.spec(&Task::Write(path, uid), host.clone());
            let ran = self.engine.run(&self.name(&format!("volume-{uid}")), &spec).await?;
            let found = std::fs::metadata(self.scratch.join(uid.to_string()));
            match found {
                Ok(found) => owners.push((who, found.uid())),
                Err(_) => {
                    let answer = format!("{who} writes no file: {}", ran.stderr.trim());
                    return Ok(vec![Row::fail("file-owner", answer, "a file in the volume")]);
                }
            }
        }
        let own = nix::unistd::geteuid().as_raw();
        let text = |(who, uid): &(String, u32)| match *uid == own {
            true => format!("{who}: you"),
            false => format!("{who}: uid {uid}"),
        };
        let answer: Vec<String> = owners.iter().map(text).collect();
        let answer = answer.join("; ");
        Ok(vec![match owners[0].1 == own {
            true => Row::pass("file-owner", answer),
            false => Row::fail("file-owner", answer, "what root writes belongs to you"),
        }])
    }

    async fn limits(&self) -> Rows {
        let supported = |key: &str| self.info[key] == true;
        let version = self.info["CgroupVersion"].as_str().unwrap_or("1");
        let driver = self.info["CgroupDriver"].as_str().unwrap_or("none");
        let why = format!("dockerd cannot limit it: cgroup v{version}, driver {driver}");
        let mut rows = Vec::new();
        if supported("MemoryLimit") {
            let host = json!({"Memory": MEMORY, "MemorySwap": MEMORY});
            let ran = self.engine.run(&self.name("memory"), &self.spec(&Task::Fill, host)).await?;
            let limit = MEMORY >> 20;
            rows.push(match ran.is_oom_killed || ran.code == 137 {
                true => Row::pass("memory", format!("yes, killed at {limit} MiB")),
                false => {
                    let answer =
                        format!("no, it took more than {limit} MiB (exit code {})", ran.code);
                    Row::fail("memory", answer, "the kernel kills it")
                        .next("dockerd-rootless check --only cgroup")
                }
            });
        } else {
            rows.push(Row::skip("memory", &why));
        }
        let (cpu, pids) = (supported("CpuCfsQuota"), supported("PidsLimit"));
        let mut host = json!({});
        if cpu {
            host["NanoCpus"] = json!(500_000_000);
        }
        if pids {
            host["PidsLimit"] = json!(64);
        }
        let facts: Facts = self.ask("limits", &Task::Look, host).await?;
        rows.push(match cpu {
            false => Row::skip("cpu", &why),
            true => read_back("cpu", cpu_quota(&facts.limits), 0.5),
        });
        rows.push(match pids {
            false => Row::skip("pids", why),
            true => {
                let found =
                    ["pids.max", "pids/pids.max"].iter().find_map(|file| facts.limits.get(*file));
                read_back("pids", found.and_then(|text| text.parse().ok()), 64.0)
            }
        });
        Ok(rows)
    }

    async fn names(&self) -> Rows {
        let network = self.name("network");
        let spec = json!({"Name": network, "Labels": {LABEL: self.kit.nonce}});
        self.engine.post("create a network", "/networks/create", &spec).await?;
        let host = json!({"NetworkMode": network});
        let peer = self.name("peer");
        let id = self.engine.start(&peer, &self.spec(&Task::Listen(PORT), host.clone())).await?;
        self.wait_for(&id, |line| line == "\"ready\"").await?;
        let address = format!("{peer}:{PORT}");
        let found: BTreeMap<String, Option<String>> =
            self.ask("names", &Task::Reach(vec![address.clone()]), host).await?;
        Ok(vec![match found.get(&address) {
            Some(None) => Row::pass("dns", "yes, on a network of their own"),
            Some(Some(why)) => Row::fail("dns", why, format!("`{peer}` answers")),
            None => Row::skip("dns", "the container does not tell"),
        }])
    }

    async fn reach(&self) -> Rows {
        let open = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(own)?;
        let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(own)?;
        let port =
            |listener: &TcpListener| listener.local_addr().map(|own| own.port()).map_err(own);
        let (open, closed) = (port(&open)?, port(&closed)?);
        let outside = outside_address().map(|address| format!("{address}:{open}"));
        let internal = format!("host.docker.internal:{open}");
        // The address of the host as slirp4netns and pasta have it.
        let loopback = [format!("10.0.2.2:{closed}"), format!("host.docker.internal:{closed}")];
        let all = outside.iter().chain([&internal]).chain(&loopback).cloned().collect();
        let host = json!({"ExtraHosts": ["host.docker.internal:host-gateway"]});
        let found: BTreeMap<String, Option<String>> =
            self.ask("reach", &Task::Reach(all), host).await?;
        let outcome = |address: &String| found.get(address).cloned().flatten();
        let reached = |address: &String| found.get(address) == Some(&None);
        let outside = match &outside {
            None => Row::skip("outside", "this host has no address but its loopback addresses"),
            Some(address) if reached(address) => Row::pass("outside", format!("yes ({address})")),
            Some(address) => {
                let why = outcome(address).unwrap_or_default();
                Row::fail("outside", format!("{address}: {why}"), "a connection")
                    .next("dockerd-rootless check --only network-driver")
            }
        };
        let is_open = loopback.iter().any(reached);
        let (answer, expected) = (open_or_closed(is_open), open_or_closed(self.host_loopback));
        let setting = format!("{answer}, network.host-loopback = {}", self.host_loopback);
        let loopback = match is_open == self.host_loopback {
            true => Row::pass("host-loopback", setting),
            false => Row::fail("host-loopback", answer, expected)
                .next("dockerd-rootless config explain network.host-loopback"),
        };
        let internal = match outcome(&internal) {
            None => Row::info(
                "host-docker-internal",
                "yes, with --add-host host.docker.internal:host-gateway",
            ),
            Some(why) => Row::info("host-docker-internal", format!("no: {why}")),
        };
        Ok(vec![outside, loopback, internal])
    }

    async fn ports(&self) -> Rows {
        let key = |protocol: &str| format!("{PORT}/{protocol}");
        let host = json!({"PortBindings": {key("tcp"): [{}], key("udp"): [{}]}});
        let mut spec = self.spec(&Task::Listen(PORT), host);
        spec["ExposedPorts"] = json!({key("tcp"): {}, key("udp"): {}});
        let id = self.engine.start(&self.name("ports"), &spec).await?;
        self.wait_for(&id, |line| line == "\"ready\"").await?;
        let found =
            self.engine.get("inspect the container", &format!("/containers/{id}/json")).await?;
        let port = |protocol: &str, is_six: bool| {
            let bindings = found["NetworkSettings"]["Ports"][key(protocol)].as_array()?;
            let mut own = bindings.iter().filter(|binding| {
                binding["HostIp"].as_str().is_some_and(|ip| ip.contains(':') == is_six)
            });
            own.next()?["HostPort"].as_str()?.parse::<u16>().ok()
        };
        let own = outside_address().unwrap_or(Ipv4Addr::LOCALHOST.into());
        let six = IpAddr::from(Ipv6Addr::LOCALHOST);
        let ways = [
            ("tcp4", "tcp", own, port("tcp", false)),
            ("tcp6", "tcp", six, port("tcp", true)),
            ("udp", "udp", own, port("udp", false)),
        ];
        let mut rows = Vec::new();
        let mut before = 0;
        for (name, protocol, address, port) in ways {
            let Some(port) = port else {
                rows.push(Row::skip(name, "dockerd publishes no port for it"));
                continue;
            };
            let target = SocketAddr::new(address, port);
            let is_udp = protocol == "udp";
            let echoed = spawn_blocking(move || echo(target, is_udp)).await;
            let answer = match echoed {
                Ok(Ok(())) => {
                    let (seen, count) = self.seen(&id, before).await?;
                    before = count;
                    seen.map_or_else(
                        || Row::skip(name, "the container does not tell who came"),
                        |seen| source(name, address, seen.source),
                    )
                }
                Ok(Err(_)) if name == "tcp6" && !self.ipv6_ports => {
                    Row::info(name, "closed: with network.port-driver = slirp4netns it always is")
                }
                Ok(Err(error)) => Row::fail(name, format!("{target}: {error}"), "an echo")
                    .next("dockerd-rootless check --only port-driver"),
                Err(_) => Row::skip(name, "it was not tried"),
            };
            rows.push(answer);
        }
        Ok(rows)
    }

    /// Reads the line of the client that came after `before` others, and how many there are now.
    async fn seen(&self, id: &str, before: usize) -> Result<(Option<Seen>, usize), Failure> {
        let lines = |stdout: &str| {
            stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (stdout, _) = self.engine.logs(id).await?;
            let all: Vec<Seen> = lines(&stdout);
            if all.len() > before || Instant::now() > deadline {
                return Ok((all.get(before).cloned(), all.len()));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn speed(&self) -> Rows {
        let Some(address) = outside_address() else {
            return Ok(vec![Row::skip(
                "speed",
                "this host has no address but its loopback addresses",
            )]);
        };
        let listener = TcpListener::bind((address, 0)).map_err(own)?;
        let target = listener.local_addr().map_err(own)?;
        let peer = std::thread::spawn(move || serve_traffic(&listener));
        let rates = self.ask("speed", &Task::Measure(target.to_string()), json!({})).await;
        // A container that never came would leave it waiting.
        drop(TcpStream::connect(target));
        let _ = spawn_blocking(move || peer.join()).await;
        let Rates { out, back } = rates?;
        let megabytes = |rate: f64| rate / 1e6;
        let (out, back) = (megabytes(out), megabytes(back));
        Ok(vec![Row::pass("speed", format!("{out:.0} MB/s out, {back:.0} MB/s in"))])
    }

    async fn socket(&self) -> Rows {
        const PASTED: &str = "/var/run/docker.sock";
        let mut said = Vec::new();
        for source in [PASTED, &self.socket.display().to_string()] {
            let host = json!({"Binds": [format!("{source}:{PASTED}")]});
            let answer: Result<String, Failure> = self
                .ask(&format!("socket-{}", said.len()), &Task::Ask(PASTED.to_owned()), host)
                .await;
            match answer {
                Ok(answer) if answer.contains(" 200 ") => {
                    let row = match source == PASTED {
                        true => Row::pass("docker-sock", "yes"),
                        false => Row::info("docker-sock", format!("no; -v {source}:{PASTED} does")),
                    };
                    return Ok(vec![row]);
                }
                Ok(answer) => said.push(answer),
                Err(failure) => said.push(failure.said),
            }
        }
        let answer = said.join("; ");
        Ok(vec![Row::fail("docker-sock", answer, "the daemon answers in a container")])
    }

    async fn start(&self) -> Rows {
        let began = Instant::now();
        let said = self.say("start", &self.image).await?;
        let took = began.elapsed().as_millis();
        Ok(vec![match said == self.kit.nonce {
            true => Row::pass("start-time", format!("{took} ms")),
            false => Row::fail("start-time", format!("it says `{said}`"), &self.kit.nonce),
        }])
    }

    /// Runs an image, and returns the word in it.
    pub async fn say(&self, purpose: &str, image: &str) -> Result<String, Failure> {
        let mut spec = self.spec(&Task::Say, json!({}));
        spec["Image"] = json!(image);
        self.read(purpose, &spec).await
    }

    /// Waits until a container has printed a line.
    async fn wait_for(&self, id: &str, is_it: impl Fn(&str) -> bool) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (stdout, stderr) = self.engine.logs(id).await?;
            if stdout.lines().any(&is_it) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let said = format!("{stdout}{stderr}");
                return Err(Failure { asked: "wait for the container".to_owned(), said });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Removes all that has the label of this run.
    pub async fn clean_up(&self) -> Vec<Failure> {
        let filter =
            format!("filters=%7B%22label%22%3A%5B%22{LABEL}%3D{}%22%5D%7D", self.kit.nonce);
        let lists = [
            ("containers", format!("/containers/json?all=1&{filter}"), "?force=1&v=1"),
            ("networks", format!("/networks?{filter}"), ""),
            ("images", format!("/images/json?all=1&{filter}"), "?force=1"),
        ];
        let mut failures = Vec::new();
        for (what, list, how) in lists {
            let found = match self.engine.get(&format!("list the {what}"), &list).await {
                Ok(found) => found,
                Err(failure) => {
                    failures.push(failure);
                    continue;
                }
            };
            for id in found.as_array().into_iter().flatten().filter_map(|one| one["Id"].as_str()) {
                let path = format!("/{what}/{id}{how}");
                let asked = format!("remove {id} of the {what}");
                failures.extend(self.engine.delete(&asked, &path).await.err());
            }
        }
        failures
    }
}

fn own(error: std::io::Error) -> Failure {
    Failure { asked: "listen on this host".to_owned(), said: error.to_string() }
}

fn open_or_closed(is_open: bool) -> &'static str {
    if is_open { "open" } else { "closed" }
}

/// Says which users of the host the users of a container are.
fn user_ids(map: &[(u64, u64, u64)]) -> Row {
    let own = u64::from(nix::unistd::geteuid().as_raw());
    let outside = |inside: u64| {
        let row = map.iter().find(|(first, _, count)| (*first..first + count).contains(&inside))?;
        Some(row.1 + inside - row.0)
    };
    let count: u64 = map.iter().map(|row| row.2).sum();
    let Some(root) = outside(0) else {
        return Row::fail("user-ids", "the container has no root", "a row for user 0");
    };
    let user = outside(1000).map_or_else(|| "none".to_owned(), |uid| uid.to_string());
    let who = if root == own { "you".to_owned() } else { format!("uid {root}") };
    let answer = format!("root is {who}; user 1000 is uid {user}; {count} ids in all");
    if root == own && count > 65535 {
        Row::pass("user-ids", answer)
    } else {
        Row::fail("user-ids", answer, "root is you, and 65536 ids and more")
            .next("dockerd-rootless check --only subids")
    }
}

/// Compares the MTU of a container with that of the device to the outside.
fn mtu(inner: &BTreeMap<String, u32>, outer: &BTreeMap<String, u32>) -> Row {
    let container = inner.iter().find(|(name, _)| *name != "lo");
    let is_inner = |name: &str| {
        name == "lo"
            || name.starts_with("docker")
            || name.starts_with("br-")
            || name.starts_with("veth")
    };
    let outside = outer.iter().find(|(name, _)| !is_inner(name));
    let text = |found: Option<(&String, &u32)>| {
        found.map_or_else(|| "none".to_owned(), |(name, mtu)| format!("{name} {mtu}"))
    };
    let answer = format!("container {}, outside {}", text(container), text(outside));
    match (container, outside) {
        (Some((_, inner)), Some((_, outer))) if inner > outer => {
            Row::fail("mtu", answer, "the container's is not larger")
                .next("dockerd-rootless config explain network.mtu")
        }
        _ => Row::pass("mtu", answer),
    }
}

fn cpu_quota(limits: &BTreeMap<String, String>) -> Option<f64> {
    let number = |file: &str| limits.get(file)?.parse::<f64>().ok();
    let v2 = || {
        let (quota, period) = limits.get("cpu.max")?.split_once(' ')?;
        Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok()?)
    };
    v2().or_else(|| Some(number("cpu/cpu.cfs_quota_us")? / number("cpu/cpu.cfs_period_us")?))
}

fn read_back(name: &'static str, found: Option<f64>, expected: f64) -> Row {
    match found {
        Some(found) if found == expected => Row::pass(name, format!("yes, {found} is set")),
        found => {
            let answer =
                found.map_or_else(|| "no limit is set".to_owned(), |found| found.to_string());
            Row::fail(name, answer, expected.to_string())
                .next("dockerd-rootless check --only cgroup")
        }
    }
}

/// Tells which address a container saw of a client with this one.
fn source(name: &'static str, client: IpAddr, seen: IpAddr) -> Row {
    match client == seen {
        true => {
            Row::pass(name, format!("open; the container sees the client's own address ({seen})"))
        }
        false => Row::pass(
            name,
            format!("open; the container sees {seen} instead of the client's {client}"),
        ),
    }
}

/// Returns the address that this host has on its way outside. Nothing is sent.
fn outside_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // An address for documentation, which no network has.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    let own = socket.local_addr().ok()?.ip();
    (!own.is_loopback()).then_some(own)
}

/// Sends a word to a listener, and waits for its echo.
fn echo(target: SocketAddr, is_udp: bool) -> std::io::Result<()> {
    let mut buffer = [0; 5];
    if is_udp {
        let socket = UdpSocket::bind((target.ip(), 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(target)?;
        socket.send(b"hello")?;
        socket.recv(&mut buffer)?;
    } else {
        let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"hello")?;
        stream.read_exact(&mut buffer)?;
    }
    match &buffer == b"hello" {
        true => Ok(()),
        false => Err(std::io::Error::other("it answers something else")),
    }
}

/// Reads what a container sends, and sends as much back.
fn serve_traffic(listener: &TcpListener) -> std::io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    std::io::copy(&mut (&stream).take(TRAFFIC as u64), &mut std::io::sink())?;
    stream.write_all(b"!")?;
    stream.read_exact(&mut [0])?;
    let block = vec![0; 256 << 10];
    for _ in 0..TRAFFIC / block.len() {
        stream.write_all(&block)?;
    }
    Ok(())
}
