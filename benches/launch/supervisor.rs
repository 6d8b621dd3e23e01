//! What faults and idleness cost with a supervisor and without: upstream's unit and ours, each under a real
//! `systemd --user` of its own, in turn.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Bar, PEER, Peer, median, own_row, pss, row};
use test_support::command::run;
use test_support::user::PATH;
use test_support::*;

/// How often each fault is measured with each side.
const ROUNDS: usize = 5;

/// How long upstream's network is waited for: it does not come back.
const NEVER: Duration = Duration::from_secs(10);

/// How long a daemon is left alone before its memory is measured, and how long its wake-ups are counted.
const REST: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(60);

/// How many users have a daemon that nobody uses.
const USERS: usize = 20;

/// The name of our program's file.
const OWN: &str = "dockerd-rootless";

/// The port on which the peer listens.
const PORT: u16 = 8000;

/// How long a container's answer takes at most that needs nothing else.
const AT_ONCE: Duration = Duration::from_millis(50);

/// What is still on its way when a network helper is killed arrives within this time.
const IN_FLIGHT: Duration = Duration::from_millis(10);

/// Directives that upstream's setup tool and we have in common.
const COMMON: &str = "TimeoutSec=0\nLimitNOFILE=infinity\nLimitNPROC=infinity\nLimitCORE=infinity\nTasksMax=infinity\n\
    Delegate=yes\nKillMode=mixed\n";

/// What setuptool's docker.service of 20.10 to 27 has besides.
const UPSTREAM: &str =
    "Type=simple\nRestart=always\nRestartSec=2\nStartLimitBurst=3\nStartLimitInterval=60s\n";

const OURS: &str = "Type=notify\nRestart=on-failure\n";

/// The socket that starts our daemon on demand.
const SOCKET: &str =
    "[Socket]\nListenStream=%t/docker.sock\nSocketMode=0600\n[Install]\nWantedBy=sockets.target\n";

/// All rows of the section.
pub fn measure() {
    println!("\nsupervisor: upstream's unit and ours, each under systemd --user");
    let users = [TestUser::new(), TestUser::new()];
    let [upstream, ours] = [Launcher::Upstream, Launcher::Run];
    let sides = [Side::new(&users[0], upstream), Side::new(&users[1], ours)];
    death(&sides);
    restart(&sides);
    containerd(&sides);
    helper(&sides);
    idle(&sides[1]);
    drop(sides);
    unused();
}

/// A user, the user's manager, and the unit in it.
struct Side<'u> {
    user: &'u TestUser,
    launcher: Launcher,
    manager: UserManager<'u>,
    docker: Docker<'u>,
}

impl<'u> Side<'u> {
    /// Starts the unit, and makes the image.
    fn new(user: &'u TestUser, launcher: Launcher) -> Self {
        let manager = UserManager::start(user);
        manager.write_unit("docker.service", &unit(user, launcher));
        let side = Self { user, launcher, manager, docker: Docker(user) };
        side.restart();
        side.docker.import_image();
        side
    }

    /// Starts the unit anew, as if it had never failed.
    fn restart(&self) {
        self.manager.systemctl(&["reset-failed"]);
        self.manager.systemctl(&["restart", "docker.service"]);
        until_true("the daemon answers", || self.docker.answers());
    }

    /// The process of the container that serves a page.
    fn container(&self) -> String {
        self.docker.run("inspect --format {{.State.Pid}} web")
    }

    /// Has a container connect to the peer again and again: a connection that is lost is tried again by the kernel only
    /// after a second, so there is a new one all the time.
    fn call(&self) {
        let script = self.user.home.join("call.sh");
        let text = format!("while :; do nc -w 1 {PEER} {PORT} </dev/null & sleep 0.01; done\n");
        self.user.write(&script, text);
        self.docker.run(&format!(
            "run -d --stop-signal KILL --name caller --volume {}:/call.sh:ro {} sh /call.sh",
            script.display(),
            docker::IMAGE
        ));
    }

    /// The user's process that runs `program`, with `word` in its command line.
    fn process(&self, program: &str, word: &str) -> Pid {
        let all = process::list(self.user.uid, &self.user.subordinate);
        let found = all
            .iter()
            .find(|process| executes(process.pid, program) && process.command.contains(word));
        Pid::from_raw(found.unwrap_or_else(|| panic!("no {program}")).pid)
    }

    /// Kills the process that runs `program`, and returns when that was.
    fn kill(&self, program: &str) -> Instant {
        let pid = self.process(program, "");
        let begin = Instant::now();
        kill(pid, Signal::SIGKILL).unwrap_or_else(|e| panic!("{program}: {e}"));
        wait::until("it has ended", || is_over(pid).then_some(()));
        begin
    }
}

/// The service; upstream's as its setup tool writes it.
fn unit(user: &TestUser, launcher: Launcher) -> String {
    let program = launcher.install(user);
    let (more, words) = match launcher {
        Launcher::Upstream => (UPSTREAM, ""),
        _ => (OURS, " run"),
    };
    format!(
        "[Service]\nEnvironment=PATH={PATH}\nExecStart={}{words}\nExecReload=/bin/kill -s HUP $MAINPID\n{COMMON}{more}\
         [Install]\nWantedBy=default.target\n",
        program.display()
    )
}

fn executes(pid: i32, program: &str) -> bool {
    let path = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    path.file_name().is_some_and(|name| name == program)
}

/// Whether a process has ended; its parent may not have noticed.
fn is_over(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.starts_with(" Z"))
}

/// The median seconds of each side for what `time` does, in turn, each time with a unit that was started anew.
fn each_of(sides: &[Side<'_>; 2], mut time: impl FnMut(&Side<'_>) -> f64) -> [f64; 2] {
    let mut times: [Vec<f64>; 2] = Default::default();
    for _ in 0..ROUNDS {
        for (side, times) in sides.iter().zip(&mut times) {
            side.restart();
            times.push(time(side));
        }
    }
    times.map(median)
}

// --- The daemon dies ---

/// Times the way from SIGKILL of dockerd to the next answer: of the API, and of a container, which may have stayed.
fn death(sides: &[Side<'_>; 2]) {
    let [upstream, ours] = each_of(sides, |side| {
        let begin = side.kill("dockerd");
        until_true("the API answers again", || side.docker.answers());
        begin.elapsed().as_secs_f64()
    });
    let what = "SIGKILL of dockerd to the next API answer";
    row(what, "s", upstream, ours, Bar::AtMost(0.1));

    for side in sides {
        side.docker.assert_publishes(side.user.port(0), "--restart always");
    }
    let what = "  to the next answer of a restart=always container's port";
    port_again(sides, false, what);
    port_again(sides, true, "  the same, asked from the API's answer on");
    for side in sides {
        side.docker.run("rm -f web");
    }
}

/// Times the way from SIGKILL of dockerd to the next answer of a published port, for somebody who asks all the time, or
/// who waits for the API before. To ask all the time costs up to a second where the container starts anew: dockerd's proxy
/// takes the connection before the container has its address, and the kernel asks for the neighbour again only after a
/// second.
fn port_again(sides: &[Side<'_>; 2], after_api: bool, what: &str) {
    let mut stayed = Vec::new();
    let [upstream, ours] = each_of(sides, |side| {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, side.user.port(0)));
        until_true("the container answers", || has_page(address));
        let before = side.container();
        let begin = side.kill("dockerd");
        if after_api {
            until_true("the API answers again", || side.docker.answers());
        } else {
            // What carries its packets may outlive dockerd for a moment.
            until_true("the container does not answer", || !has_page(address));
        }
        until_true("the container answers again", || has_page(address));
        let time = begin.elapsed().as_secs_f64();
        until_true("the API answers again", || side.docker.answers());
        if side.container() == before {
            stayed.push(side.launcher);
        }
        time
    });
    row(what, "s", upstream, ours, Bar::AtMost(0.1));
    let [upstream, ours] = [&sides[0], &sides[1]].map(|side| {
        let count = stayed.iter().filter(|one| **one == side.launcher).count();
        format!("{count} of {ROUNDS}")
    });
    println!(
        "{:<62} upstream {upstream:>8} {:<6} ours {ours:>8}",
        "    the container is the same process", ""
    );
}

// --- The daemon starts again in place ---

/// Times how long a restart takes until the API answers: of upstream's unit, and of our dockerd alone.
fn restart(sides: &[Side<'_>; 2]) {
    let [upstream, ours] = each_of(sides, |side| {
        let begin = Instant::now();
        match side.launcher {
            Launcher::Upstream => {
                drop(side.manager.systemctl(&["restart", "docker.service"]));
            }
            launcher => {
                let program = launcher.install(side.user);
                run(side.user.brief_command(program).arg("restart"));
            }
        }
        until_true("the API answers again", || side.docker.answers());
        begin.elapsed().as_secs_f64()
    });
    let what = "restart (upstream's unit; ours in place) to the API's answer";
    row(what, "s", upstream, ours, Bar::None);
}

// --- containerd dies ---

/// Times the way from SIGKILL of containerd to the next container that runs.
fn containerd(sides: &[Side<'_>; 2]) {
    let [upstream, ours] = each_of(sides, |side| {
        let begin = side.kill("containerd");
        until_true("a container runs again", || {
            let mut command = side.user.brief_command("docker");
            let socket = side.docker.socket();
            command
                .args(["run", "--rm", docker::IMAGE, "true"])
                .env("DOCKER_HOST", format!("unix://{}", socket.display()));
            Told::by(&mut command).code == Some(0)
        });
        begin.elapsed().as_secs_f64()
    });
    let what = "SIGKILL of containerd to the next `docker run` that works";
    row(what, "s", upstream, ours, Bar::None);
}

/// Whether a container answers at once. A packet that is lost is sent again by the kernel only after a second: a
/// connection that waits for that is given up for a new one.
fn has_page(address: SocketAddr) -> bool {
    let ask = || -> io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, AT_ONCE)?;
        stream.set_read_timeout(Some(AT_ONCE))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.contains(docker::PAGE))
}

fn until_true(what: &str, mut condition: impl FnMut() -> bool) {
    wait::until(what, || condition().then_some(()));
}

// --- The network helper dies ---

/// Times the way from SIGKILL of the network helper to the next connection from a container to another host.
fn helper(sides: &[Side<'_>; 2]) {
    let peer = Peer::new(sides[0].user);
    let accepted = listen(&peer.namespace);
    let [upstream, ours] = sides;
    upstream.call();
    let outage = outage(upstream, &accepted, NEVER);
    assert_eq!(outage, None, "upstream's network comes back");
    ours.call();
    let outages = (0..ROUNDS).map(|_| {
        let outage = self::outage(ours, &accepted, wait::PATIENCE);
        outage.expect("the network comes back").as_secs_f64()
    });
    let outage = median(outages.collect());
    let what = "SIGKILL of slirp4netns to a container's next connection";
    let never = format!("> {}", NEVER.as_secs());
    own_row(what, &never, "s", outage, Bar::AtMost(1.0));
    // While somebody connects, so that the thread notices.
    drop(accepted);
    for side in sides {
        side.docker.run("rm -f caller");
    }
}

/// Kills the network helper, and tells for how long the peer was out of reach, if for less than `limit`.
fn outage(side: &Side<'_>, accepted: &Receiver<Instant>, limit: Duration) -> Option<Duration> {
    next_after(accepted, Instant::now(), wait::PATIENCE).expect("a connection before");
    let begin = side.kill("slirp4netns");
    let back = next_after(accepted, Instant::now() + IN_FLIGHT, limit)?;
    Some(back - begin)
}

/// Tells when somebody connects to [`PORT`] in a network namespace.
fn listen(namespace: &str) -> Receiver<Instant> {
    let namespace = Path::new("/run/netns").join(namespace);
    let (sender, accepted) = mpsc::channel();
    thread::spawn(move || {
        let namespace = File::open(namespace).expect("the namespace");
        setns(namespace, CloneFlags::CLONE_NEWNET).expect("enter it");
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).expect("listen");
        while listener.accept().is_ok() && sender.send(Instant::now()).is_ok() {}
    });
    accepted
}

/// The first connection after `since`, if it comes within `limit`.
fn next_after(accepted: &Receiver<Instant>, since: Instant, limit: Duration) -> Option<Instant> {
    let deadline = since + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let at = accepted.recv_timeout(left).ok()?;
        if at > since {
            return Some(at);
        }
    }
}

// --- Nothing happens ---

/// Measures the supervisor of a daemon that nobody uses, and its part in the namespaces. Upstream has neither.
fn idle(side: &Side<'_>) {
    side.restart();
    thread::sleep(REST);
    let supervisor = side.manager.property("docker.service", "MainPID");
    let supervisor: i32 = supervisor.parse().expect("a PID");
    let keeper = side.process(OWN, "namespace-stage").as_raw();
    let both = [supervisor, keeper];
    let shares = both.map(|pid| f64::from(pss(pid)));
    let rows = |what: &str, unit: &str, [supervisor, keeper]: [f64; 2], bar| {
        own_row(what, "-", unit, supervisor + keeper, bar);
        own_row("  of the supervisor", "-", unit, supervisor, Bar::None);
        let what = "  of the keeper, its part in the namespaces";
        own_row(what, "-", unit, keeper, Bar::None);
    };
    let most = Bar::AtMost(5.0 * 1024.0);
    rows("memory (PSS) of both processes of ours", "KiB", shares, most);

    let before = both.map(wake_ups);
    thread::sleep(IDLE);
    let after = both.map(wake_ups);
    let in_ten_seconds =
        [0, 1].map(|part| f64::from(after[part] - before[part]) * 10.0 / IDLE.as_secs_f64());
    let what = "wake-ups of both in 10 s, idle";
    rows(what, "times", in_ten_seconds, Bar::AtMost(1.0));
}

/// How often the threads of a process have waited.
fn wake_ups(pid: i32) -> u32 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the supervisor's threads");
    let waits = threads.flatten().map(|thread| {
        let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.and_then(|count| count.trim().parse::<u32>().ok()).expect("a count")
    });
    waits.sum()
}

// --- Nobody has come yet ---

/// Adds up what runs for users who have a daemon and have not used it yet: ours starts when somebody connects.
fn unused() {
    let users: Vec<TestUser> = (0..USERS).map(|_| TestUser::new()).collect();
    let managers: Vec<UserManager<'_>> = users.iter().map(UserManager::start).collect();
    for (user, manager) in users.iter().zip(&managers) {
        manager.write_unit("docker.socket", SOCKET);
        let service = format!("[Unit]\nRequires=docker.socket\n{}", unit(user, Launcher::Run));
        manager.write_unit("docker.service", &service);
        manager.systemctl(&["start", "docker.socket"]);
    }
    thread::sleep(REST);
    let ours = beside_systemd(&users);
    for (user, manager) in users.iter().zip(&managers) {
        manager.systemctl(&["stop", "docker.socket"]);
        manager.write_unit("docker.service", &unit(user, Launcher::Upstream));
        manager.systemctl(&["start", "docker.service"]);
        until_true("the daemon answers", || Docker(user).answers());
    }
    thread::sleep(REST);
    let upstream = beside_systemd(&users);
    let what = format!("memory (PSS) of {USERS} users' daemons that nobody has used yet");
    let upstream = format!("{upstream:.1}");
    own_row(&what, &upstream, "MiB", ours, Bar::AtMost(0.0));
}

/// The memory in MiB of the users' processes that are not systemd's.
fn beside_systemd(users: &[TestUser]) -> f64 {
    let all = users.iter().flat_map(|user| process::list(user.uid, &user.subordinate));
    let others = all.filter(|process| !executes(process.pid, "systemd"));
    let kib: u32 = others.map(|process| pss(process.pid)).sum();
    f64::from(kib) / 1024.0
}
