//! A daemon at work, its parts, and what can be seen of it while something goes wrong.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::table::{Containers, Side, Time};
use test_support::client::Client;
use test_support::command::run;
use test_support::docker::PAGE;
use test_support::*;

/// How long somebody looks at upstream's launcher for what might yet come.
pub const LOOK: Duration = Duration::from_secs(5);

/// How often everything was started again, dockerd alone, and the network helper.
pub type Counts = [u64; 3];

/// For what comes when a process has done nothing for long.
const LONG: Duration = Duration::from_secs(180);

/// slirp4netns itself answers at this address: who reaches it has a helper.
const GATEWAY: &str = "10.0.2.2";

/// A part of a running daemon, by the kernel's name for its process.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    Rootlesskit,
    /// rootlesskit's second process, in the namespaces.
    RootlesskitChild,
    Dockerd,
    Containerd,
    Slirp4netns,
    Pasta,
    DockerProxy,
    /// rootlesskit's, which runs the other.
    RootlesskitProxy,
    Shim,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Rootlesskit => "rootlesskit",
            Self::RootlesskitChild => "exe",
            Self::Dockerd => "dockerd",
            Self::Containerd => "containerd",
            Self::Slirp4netns => "slirp4netns",
            Self::Pasta => "pasta",
            // The kernel's names have 15 bytes.
            Self::DockerProxy => "docker-proxy",
            Self::RootlesskitProxy => "rootlesskit-doc",
            Self::Shim => "containerd-shim",
        }
    }

    /// pasta's program has variants for processors: `pasta.avx2`.
    fn is_named(self, name: &str) -> bool {
        name.split('.').next() == Some(self.name())
    }
}

/// A daemon whose one container serves a page behind a port of the host, and comes back with the daemon.
pub struct Busy<'u> {
    pub daemon: Daemon<'u>,
    user: &'u TestUser,
    /// What the launcher's process had open.
    descriptors: Vec<String>,
    /// The container as it began.
    container: Container,
    /// Who asks from the fault on.
    client: RefCell<Option<Client>>,
}

/// A container as dockerd tells of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    pub pid: Pid,
    begin: String,
}

impl Container {
    /// `None` if it does not run.
    pub fn find(docker: &Docker, name: &str) -> Option<Self> {
        const FORMAT: &str = "{{.State.Running}},{{.State.Pid}},{{.State.StartedAt}}";
        let told = docker.run(&format!("inspect --format {FORMAT} {name}"));
        let mut fields = told.split(',');
        let runs = fields.next() == Some("true");
        let pid = Pid::from_raw(fields.next()?.parse().ok()?);
        let begin = fields.next()?.to_owned();
        (runs && self::runs(pid)).then_some(Self { pid, begin })
    }
}

impl<'u> Busy<'u> {
    pub fn new(user: &'u TestUser, launcher: Launcher) -> Self {
        Self::from(user, &Launch::new(user, launcher))
    }

    pub fn from(user: &'u TestUser, launch: &Launch<'u>) -> Self {
        Self::of(user, launch.ready())
    }

    /// Gives a daemon that runs something to do.
    pub fn of(user: &'u TestUser, daemon: Daemon<'u>) -> Self {
        daemon.docker.import_image();
        let port = user.port(0);
        daemon.docker.serve("web", &format!("-p 127.0.0.1:{port}:80 --restart always"));
        Self::adopt(user, daemon)
    }

    /// A daemon that has its container from the one before.
    pub fn adopt(user: &'u TestUser, daemon: Daemon<'u>) -> Self {
        Docker::assert_answers(user.port(0));
        let descriptors = settled_descriptors(user, &daemon);
        let container = Container::find(&daemon.docker, "web").expect("it runs");
        Self { daemon, user, descriptors, container, client: RefCell::default() }
    }

    /// The moment of a fault, from which on a client asks.
    pub fn moment(&self) -> Instant {
        let mut client = self.client.borrow_mut();
        client.get_or_insert_with(|| Client::start(self.daemon.docker.socket()));
        Instant::now()
    }

    pub fn pid(&self, part: Part) -> Pid {
        find(self.user, part).unwrap_or_else(|| panic!("no {part:?}:\n{}", self.daemon.log()))
    }

    /// SIGKILL to a part; returns when it has ended, and the moment of the signal.
    pub fn kill(&self, part: Part) -> Instant {
        let pid = self.pid(part);
        let moment = self.signal(part, Signal::SIGKILL);
        wait::until("what is killed ends", || (!runs(pid)).then_some(()));
        moment
    }

    pub fn find(&self, part: Part) -> Option<Pid> {
        find(self.user, part)
    }

    /// Waits for another process than `old` in its place.
    pub fn until_another(&self, part: Part, old: Pid) -> Pid {
        wait::until("another one is there", || self.find(part).filter(|pid| *pid != old))
    }

    /// Signals a part; the moment of it.
    pub fn signal(&self, part: Part, signal: Signal) -> Instant {
        let pid = self.pid(part);
        let moment = self.moment();
        kill(pid, signal).expect("it is there");
        moment
    }

    /// SIGSTOP to a part; the moment of it.
    pub fn halt(&self, part: Part) -> Instant {
        self.signal(part, Signal::SIGSTOP)
    }

    /// SIGCONT to a part.
    pub fn go_on(&self, part: Part) {
        self.signal(part, Signal::SIGCONT);
    }

    /// Waits for `text` in the log; how long that took since `moment`.
    pub fn until_said(&self, text: &str, moment: Instant) -> Time {
        until_said(&self.daemon, text, moment)
    }

    /// Waits for the API's next answer.
    pub fn until_answers(&self, moment: Instant) -> Time {
        wait::until("the API answers", || self.daemon.docker.answers().then_some(()));
        Time::After(moment.elapsed())
    }

    /// What `status` tells.
    pub fn status(&self) -> Value {
        status(self.user)
    }

    /// Waits until `status` has `state`.
    pub fn until_state(&self, state: &str) -> Value {
        wait::poll(wait::PATIENCE * 2, || {
            Some(self.status()).filter(|status| status["state"] == state)
        })
        .unwrap_or_else(|| panic!("never {state}: {:#}", self.status()))
    }

    /// What became of the container.
    pub fn containers(&self) -> Containers {
        let docker = &self.daemon.docker;
        match docker.answers().then(|| Container::find(docker, "web")).flatten() {
            Some(container) if container == self.container => Containers::Same,
            Some(_) => Containers::Restarted,
            None => Containers::Lost,
        }
    }

    /// Whether the container reaches the network helper.
    pub fn has_network(&self) -> bool {
        let socket = format!("unix://{}", self.daemon.docker.socket().display());
        let mut command = self.user.brief_command("/usr/bin/docker");
        command
            .args(["exec", "web", "ping", "-c", "1", "-W", "1", GATEWAY])
            .env("DOCKER_HOST", socket);
        command.output().expect("docker(1)").status.success()
    }

    /// Fails unless all is as if nothing had happened: one daemon that is ready, its container, nothing of the one before.
    pub fn assert_whole(&self) {
        self.until_state("ready");
        Docker::assert_answers(self.user.port(0));
        let page = self.daemon.docker.run("exec web wget -q -O - http://127.0.0.1/");
        assert_eq!(page, PAGE);
        let namespaces =
            wait::poll(wait::PATIENCE, || (namespaces(self.user).len() == 1).then_some(()));
        assert!(
            namespaces.is_some(),
            "remains of another daemon: {:#?}",
            process::list(self.user.uid, &self.user.subordinate)
        );
        let supervisor = self.daemon.pid();
        wait::until("no child is left as a zombie", || {
            zombies_of(supervisor).is_empty().then_some(())
        });
        let mut open = Vec::new();
        wait::poll(wait::PATIENCE, || {
            open = descriptors(supervisor);
            (open.len() <= self.descriptors.len()).then_some(())
        });
        assert!(
            open.len() <= self.descriptors.len(),
            "more is open than before: {open:#?} against {:#?}",
            self.descriptors
        );
    }

    /// Fails unless `status` names `cause` as the last failure, and these counts.
    pub fn assert_told(&self, cause: &str, counts: Counts) {
        let status = self.status();
        let told = status["last_failure"].as_str().unwrap_or_default();
        assert!(told.contains(cause), "{cause}: {status:#}");
        self.assert_counts(counts);
    }

    /// Fails unless `status` counts so many restarts of everything, of dockerd, and heals of the network.
    pub fn assert_counts(&self, [restarts, replaced, heals]: Counts) {
        let status = self.status();
        let told = ["restarts", "replaced", "heals"].map(|name| status[name].as_u64());
        assert_eq!(
            told,
            [restarts, replaced, heals].map(Some),
            "{status:#}\n{}",
            self.daemon.log()
        );
    }

    /// Waits until `status` tells of a problem that holds `text`; how long that took since `moment`.
    pub fn until_degraded(&self, text: &str, moment: Instant) -> Time {
        wait::poll(LONG, || {
            let status = self.status();
            let problems = status["problems"].as_array()?;
            let is_told =
                problems.iter().any(|what| what.as_str().is_some_and(|what| what.contains(text)));
            (is_told && status["state"] == "degraded").then_some(())
        })
        .unwrap_or_else(|| panic!("never told: {text}\n{}", self.daemon.log()));
        Time::After(moment.elapsed())
    }

    /// What happened, and what became of the container and of the client since the fault.
    pub fn tell(&self, happened: impl Into<String>) -> Side {
        let containers = self.containers();
        let client = self.client.borrow_mut().take();
        Side { containers, requests: client.map(Client::count), ..Side::told(happened) }
    }

    /// The same, after which our daemon is stopped. It must not have refused anybody, and all must be as before.
    pub fn end(self, happened: impl Into<String>) -> Side {
        self.assert_whole();
        let side = self.tell(happened);
        if let Some(count) = side.requests {
            assert_eq!(count.refused, 0, "{count:?}\n{}", self.daemon.log());
        }
        self.over();
        side
    }

    /// The same, and the container must not have been touched.
    pub fn end_untouched(self, happened: impl Into<String>) -> Side {
        let side = self.end(happened);
        assert_eq!(side.containers, Containers::Same);
        side
    }

    /// Stops the daemon, which must end well.
    pub fn over(mut self) {
        let status = self.daemon.stop();
        assert_eq!(status.code(), Some(0), "{}", self.daemon.log());
    }

    /// What becomes of upstream's launcher after a fault at `moment` that takes the API away.
    pub fn look(mut self, moment: Instant) -> Side {
        let back = wait::poll(LOOK, || self.daemon.docker.answers().then_some(()));
        let end = match self.daemon.ended() {
            Some(status) => format!("the script ended ({status})"),
            None => "the script runs on".to_owned(),
        };
        let left = process::list(self.user.uid, &self.user.subordinate).len();
        let files = ["docker.pid", "docker.sock"]
            .into_iter()
            .filter(|name| self.user.runtime_dir.join(name).exists())
            .collect::<Vec<_>>()
            .join(" and ");
        let files = match files.as_str() {
            "" => String::new(),
            files => format!(", {files} left"),
        };
        let container = match runs(self.container.pid) {
            true => ", among them the container's",
            false => "",
        };
        match back {
            Some(()) => self
                .tell(format!("{end}, the API is back"))
                .recovered(Time::After(moment.elapsed())),
            None => self
                .tell(format!("{end}, nothing restarts it; {left} processes{container}{files}"))
                .recovered(Time::NotWithin(LOOK)),
        }
    }
}

/// What `dockerd-rootless status` tells `user`.
pub fn status(user: &TestUser) -> Value {
    let output = user
        .brief_command(Launcher::Run.install(user))
        .args(["status", "--format", "json"])
        .output()
        .expect("status");
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// Waits for `text` in a daemon's log; how long that took since `moment`.
pub fn until_said(daemon: &Daemon, text: &str, moment: Instant) -> Time {
    wait::poll(LONG, || daemon.log().contains(text).then_some(()))
        .unwrap_or_else(|| panic!("never said: {text}\n{}", daemon.log()));
    Time::After(moment.elapsed())
}

/// The first process of a user that is `part`.
pub fn find(user: &TestUser, part: Part) -> Option<Pid> {
    find_all(user, part).into_iter().next()
}

/// All processes of a user that are `part`, but what one of them has forked and what has yet to become another program.
pub fn find_all(user: &TestUser, part: Part) -> Vec<Pid> {
    let is_part = |pid: i32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| part.is_named(name.trim()))
    };
    let is_first = |pid: &i32| stat(*pid).is_some_and(|(parent, _)| !is_part(parent));
    let all = process::list(user.uid, &user.subordinate);
    let pids = all.iter().map(|process| process.pid);
    let found = pids.filter(|pid| is_part(*pid)).filter(is_first);
    found.map(Pid::from_raw).collect()
}

/// Whether a process has not ended, nor is a zombie.
pub fn runs(pid: Pid) -> bool {
    stat(pid.as_raw()).is_some_and(|(_, state)| !["Z", "X"].contains(&state.as_str()))
}

/// The parent of a process and its state.
fn stat(pid: i32) -> Option<(i32, String)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.to_owned();
    Some((fields.next()?.parse().ok()?, state))
}

fn zombies_of(parent: Pid) -> Vec<i32> {
    process::pids()
        .filter(|pid| stat(*pid).is_some_and(|(of, state)| of == parent.as_raw() && state == "Z"))
        .collect()
}

/// What the launcher's process has open when it has found the network helper, which it watches.
fn settled_descriptors(user: &TestUser, daemon: &Daemon) -> Vec<String> {
    // The others are the keeper and rootlesskit's child.
    const WATCHED: usize = 3;
    // Upstream's has no status, and becomes rootlesskit.
    let is_ours = status(user)["state"] != "not running";
    wait::until("the launcher watches the network helper", || {
        let open = descriptors(daemon.pid());
        let watched = open.iter().filter(|link| link.contains("pidfd")).count();
        (!is_ours || watched == WATCHED).then_some(open)
    })
}

/// What a process has open.
fn descriptors(pid: Pid) -> Vec<String> {
    let directory = format!("/proc/{pid}/fd");
    let links = fs::read_dir(&directory).expect("it runs").flatten();
    links.filter_map(|link| Some(fs::read_link(link.path()).ok()?.display().to_string())).collect()
}

/// The user namespaces of a user's processes, but the host's.
fn namespaces(user: &TestUser) -> BTreeSet<String> {
    let namespace = |pid: &str| {
        let link = fs::read_link(format!("/proc/{pid}/ns/user")).ok()?;
        Some(link.display().to_string())
    };
    let host = namespace("self");
    process::list(user.uid, &user.subordinate)
        .iter()
        .filter_map(|process| namespace(&process.pid.to_string()))
        .filter(|found| Some(found) != host.as_ref())
        .collect()
}

/// How long `launch` took to be refused, with its code and what it said.
pub fn refusal(launch: &Launch) -> (Option<i32>, String, Duration) {
    let moment = Instant::now();
    let (code, log) = launch.refusal();
    (code, log, moment.elapsed())
}

/// What comes of a start of upstream's launcher, at `moment`: it answers, it ends, or neither.
pub fn start_upstream<'u>(launch: &Launch<'u>) -> (Option<Daemon<'u>>, Side) {
    let moment = Instant::now();
    let mut daemon = launch.start();
    enum Came {
        Answer,
        End(ExitStatus),
    }
    let came = wait::poll(LOOK * 2, || {
        let answer = daemon.docker.answers().then_some(Came::Answer);
        answer.or_else(|| daemon.ended().map(Came::End))
    });
    match came {
        Some(Came::Answer) => {
            (Some(daemon), Side::told("it starts").recovered(Time::After(moment.elapsed())))
        }
        Some(Came::End(status)) => {
            let said = last_words(&daemon.log());
            (None, Side::refused(format!("{status}, and the log says: {said}"), moment.elapsed()))
        }
        None => (
            Some(daemon),
            Side::told("it hangs: no answer, no exit")
                .detected(Time::NotWithin(LOOK * 2))
                .recovered(Time::NotWithin(LOOK * 2)),
        ),
    }
}

/// What the log says last of the failure, but that rootlesskit's child has ended.
pub fn last_words(log: &str) -> String {
    let is_passed_on = |line: &&str| {
        line.starts_with("[rootlesskit:") && (line.contains("exited") || line.contains("command ["))
    };
    let line = log.lines().rev().find(|line| !is_passed_on(line));
    let short: String = line.unwrap_or_default().trim().chars().take(160).collect();
    format!("`{}`", short.replace('`', "'"))
}

/// Waits until a process that has ended was reaped: upstream takes a zombie for one that runs, and the first process of
/// the host may be late.
pub fn until_reaped(pid: Pid) {
    wait::until("an orphan is reaped", || {
        (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    });
}

/// Removes all that is in a directory, as root.
pub fn empty(directory: &Path) {
    run(Command::new("find").arg(directory).args(["-mindepth", "1", "-delete"]));
}

/// Removes the dumps that dockerd has written; how many there were.
pub fn remove_dumps(user: &TestUser) -> usize {
    let entries = fs::read_dir(user.runtime_dir.join("docker")).expect("dockerd's directory");
    let dumps: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.display().to_string().contains("goroutine-stacks"))
        .collect();
    for dump in &dumps {
        fs::remove_file(dump).expect("remove it");
    }
    dumps.len()
}
