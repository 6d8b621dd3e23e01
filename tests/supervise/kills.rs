//! dockerd and containerd end at any moment, again and again, under containers that publish ports.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::sweeps::{Counts, count_running};
use super::{pid_of, run, status, wait_status};
use test_support::client::Client;
use test_support::docker::IMAGE;
use test_support::*;

/// How many containers there are.
const CONTAINERS: u16 = 10;

/// After so many ends in a row the pauses are long: then the daemon is stopped and started again.
const KILLS_IN_A_ROW: u32 = 7;

/// Numbers that nobody foresees; the first is printed, so that a run that has failed can be played again.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let seed = RandomState::new().build_hasher().finish();
        println!("the dice begin with {seed}");
        Self(seed)
    }

    /// A time below `limit`.
    fn time(&mut self, limit: Duration) -> Duration {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let share = f64::from(u32::try_from(self.0 >> 32).expect("half of it"));
        limit.mul_f64(share / f64::from(u32::MAX))
    }

    /// Yes once in `times`.
    fn is_one_of(&mut self, times: u32) -> bool {
        self.time(Duration::from_secs(times.into())) < Duration::from_secs(1)
    }
}

/// Makes containers that come back with the daemon.
fn make_containers(docker: &Docker, count: u16) {
    docker.import_image();
    for number in 0..count {
        let port = docker.0.port(number);
        docker.serve(&name(number), &format!("-p 127.0.0.1:{port}:80 --restart always"));
    }
}

fn name(number: u16) -> String {
    format!("web{number}")
}

/// The processes of the containers, all of which answer at their ports.
fn containers(docker: &Docker, count: u16) -> Vec<Pid> {
    let names: Vec<String> = (0..count).map(name).collect();
    let pids = wait::until("all containers run", || {
        let told = docker.run(&format!("inspect --format {{{{.State.Pid}}}} {}", names.join(" ")));
        let pids = told.lines().map(|line| line.parse().ok());
        let pids: Vec<i32> = pids.collect::<Option<_>>()?;
        (!pids.contains(&0)).then_some(pids)
    });
    (0..count).for_each(|number| Docker::assert_answers(docker.0.port(number)));
    pids.into_iter().map(Pid::from_raw).collect()
}

/// SIGKILL to what `status` calls `who`, if it is there.
fn kill_part(user: &TestUser, who: &str) -> bool {
    let pid = pid_of(&status(user).1, who);
    // It may end just now.
    pid.is_some_and(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok())
}

/// Waits until everything is as it was: the same containers, and no more of anything than before.
fn assert_same(daemon: &Daemon, before: &[Pid], most: &Counts, what: &str) {
    let user = daemon.docker.0;
    wait_status(user, what, |status| status["state"] == "ready");
    let count = u16::try_from(before.len()).expect("few");
    let now = containers(&daemon.docker, count);
    assert_eq!(now, before, "{what}: {}", daemon.log());
    let mut running = Counts::new();
    wait::poll(wait::PATIENCE, || {
        running = count_running(daemon);
        let is_more =
            |(what, count): (&&str, &usize)| most.get(what).is_none_or(|most| count > most);
        (!running.iter().any(is_more)).then_some(())
    })
    .unwrap_or_else(|| panic!("{what}: {running:?} is more than {most:?}"));
}

/// Starts the daemon, kills dockerd a few times, and stops it; at each stage perhaps once more.
fn kill_dockerd_at_any_time(user: &TestUser, count: u16, kills: u32, dice: &mut Dice) -> u32 {
    let (start, heal, stop, gap) = (600, 60, 150, 400);
    let mut killed = 0;
    let mut daemon = run(user).start();
    if dice.is_one_of(2) {
        sleep(dice.time(Duration::from_millis(start)));
        killed += u32::from(kill_part(user, "dockerd"));
    }
    daemon.wait_ready();
    wait_status(user, "it is ready", |status| status["state"] == "ready");
    if daemon.docker.run("images --quiet").is_empty() {
        make_containers(&daemon.docker, count);
    }
    let before = containers(&daemon.docker, count);
    let most = count_running(&daemon);
    let client = Client::start(daemon.docker.socket());
    while killed < kills {
        if dice.is_one_of(4) {
            kill_part(user, "helper");
            sleep(dice.time(Duration::from_millis(heal)));
        }
        sleep(dice.time(Duration::from_millis(gap)));
        killed += u32::from(kill_part(user, "dockerd"));
    }
    let count = client.count();
    assert_eq!(count.refused, 0, "{count:?}: {}", daemon.log());
    assert_same(&daemon, &before, &most, "after the kills");
    daemon.signal(Signal::SIGTERM);
    if dice.is_one_of(2) {
        sleep(dice.time(Duration::from_millis(stop)));
        killed += u32::from(kill_part(user, "dockerd"));
    }
    assert_eq!(daemon.wait_exit().code(), Some(0), "{}", daemon.log());
    assert_nothing_left(user);
    killed
}

#[test]
fn dockerd_is_killed_a_few_times() {
    kill_dockerd_at_any_time(&TestUser::new(), 2, 3, &mut Dice::new());
}

#[test]
#[ignore = "slow"]
fn dockerd_is_killed_two_hundred_times() {
    let (user, mut dice) = (TestUser::new(), Dice::new());
    let mut killed = 0;
    while killed < 200 {
        killed += kill_dockerd_at_any_time(&user, CONTAINERS, KILLS_IN_A_ROW, &mut dice);
        println!("{killed} kills");
    }
}

/// The same with containerd. What it forgets where there are no cgroups is started again, by policy.
fn kill_containerd(user: &TestUser, count: u16, kills: u32, dice: &mut Dice) {
    let mut daemon = run(user).ready();
    wait_status(user, "it is ready", |status| status["state"] == "ready");
    if daemon.docker.run("images --quiet").is_empty() {
        make_containers(&daemon.docker, count);
    }
    let before = containers(&daemon.docker, count);
    let most = count_running(&daemon);
    let mut killed = 0;
    while killed < kills {
        sleep(dice.time(Duration::from_millis(400)));
        killed += u32::from(kill_part(user, "containerd"));
    }
    wait_status(user, "containerd is there again", |status| {
        status["state"] == "ready" && pid_of(status, "containerd").is_some()
    });
    for number in 0..count {
        let told = wait::until("the container is reached", || {
            let mut command = user.brief_command("/usr/bin/docker");
            let socket = format!("unix://{}", daemon.docker.socket().display());
            command.args(["exec", &name(number), "echo", "there"]).env("DOCKER_HOST", socket);
            let output = command.output().expect("docker(1)");
            output.status.success().then_some(output.stdout)
        });
        assert_eq!(told, b"there\n");
    }
    assert_same(&daemon, &before, &most, "after the kills");
    assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.log());
    assert_nothing_left(user);
}

#[test]
fn containerd_is_killed_a_few_times() {
    kill_containerd(&TestUser::new(), 2, 2, &mut Dice::new());
}

#[test]
#[ignore = "slow"]
fn containerd_is_killed_fifty_times() {
    let (user, mut dice) = (TestUser::new(), Dice::new());
    for _ in 0..50_u32.div_ceil(KILLS_IN_A_ROW) {
        kill_containerd(&user, CONTAINERS, KILLS_IN_A_ROW, &mut dice);
    }
}

/// Runs the CLI with `words` until `done`, and counts in `good` how often it succeeded. A command that is under way when
/// dockerd is replaced may end with it, but none may fail to connect.
fn repeat(user: &TestUser, words: &[&str], socket: &Path, good: &AtomicU32, done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        let mut command = user.brief_command("/usr/bin/docker");
        command.args(words).env("DOCKER_HOST", format!("unix://{}", socket.display()));
        let told = Told::by(&mut command);
        assert!(!told.stderr.contains("Cannot connect"), "{told:?}");
        good.fetch_add(u32::from(told.code == Some(0)), Ordering::Relaxed);
    }
}

/// Replaces dockerd in place while clients use it, each of which succeeds before the next time.
fn restart_under_clients(times: u32, count: u16) {
    let (user, mut dice) = (TestUser::new(), Dice::new());
    let mut daemon = run(&user).ready();
    make_containers(&daemon.docker, count);
    wait_status(&user, "it is ready", |status| status["state"] == "ready");
    let before = containers(&daemon.docker, count);
    let most = count_running(&daemon);
    let socket = daemon.docker.socket();
    let image = user.home.join("image.tar").display().to_string();
    let commands = [["import", &image, IMAGE], ["exec", "web0", "true"]];
    let client = Client::start(socket.clone());
    let good = [AtomicU32::new(0), AtomicU32::new(0)];
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for (words, good) in commands.iter().zip(&good) {
            scope.spawn(|| repeat(&user, words, &socket, good, &done));
        }
        // Whatever comes of it, the clients end.
        let restarts = catch_unwind(AssertUnwindSafe(|| {
            for _ in 0..times {
                let last = good.each_ref().map(|good| good.load(Ordering::Relaxed));
                wait::until("both clients succeed", || {
                    let now = good.each_ref().map(|good| good.load(Ordering::Relaxed));
                    (now[0] > last[0] && now[1] > last[1]).then_some(())
                });
                sleep(dice.time(Duration::from_millis(300)));
                let mut command = user.brief_command(Launcher::Run.install(&user));
                Told::by(command.arg("restart")).good();
            }
        }));
        done.store(true, Ordering::Relaxed);
        restarts.expect("each restart");
    });
    let count = client.count();
    println!("{good:?} commands succeeded, {count:?}");
    assert_eq!(count.refused, 0, "{count:?}: {}", daemon.log());
    assert_eq!(status(&user).1["replaced"], times, "{}", daemon.log());
    assert_same(&daemon, &before, &most, "after the restarts");
    assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.log());
    assert_nothing_left(&user);
}

#[test]
fn dockerd_is_replaced_a_few_times_under_clients() {
    restart_under_clients(2, 2);
}

#[test]
#[ignore = "slow"]
fn dockerd_is_replaced_fifty_times_under_clients() {
    restart_under_clients(50, CONTAINERS);
}
