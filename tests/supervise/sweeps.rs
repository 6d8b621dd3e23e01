//! Every moment of a start, and many starts.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::{run, wait_known};
use test_support::*;

/// How far into a start.
const END: Duration = Duration::from_millis(600);

#[test]
fn a_signal_at_some_moments_of_the_start_ends_it() {
    sweep(Duration::from_millis(50));
}

#[test]
#[ignore = "slow"]
fn a_signal_at_any_moment_of_the_start_ends_it() {
    sweep(Duration::from_millis(5));
}

fn sweep(step: Duration) {
    let user = TestUser::new();
    let (mut starts, mut early) = (0, 0);
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        for moment in (0..).map(|n| step * n).take_while(|moment| *moment <= END) {
            let what = format!("{signal} after {moment:?}");
            let mut daemon = run(&user).start();
            sleep(moment);
            daemon.signal(signal);
            let status = match signal {
                Signal::SIGHUP => end_after_reload(&mut daemon, &what),
                _ => daemon.wait_exit(),
            };
            // Before the supervisor has begun, the signal ends what it was sent to.
            let is_early = status.signal() == Some(signal as i32);
            assert!(status.code() == Some(0) || is_early, "{what}: {status}: {}", daemon.log());
            remove_dumps(&user);
            assert_nothing_left(&user);
            starts += 1;
            early += i32::from(is_early);
        }
    }
    println!("{starts} starts, {early} ended before the supervisor had begun");
    let mut daemon = run(&user).ready();
    assert_eq!(daemon.stop().code(), Some(0));
    assert_nothing_left(&user);
}

/// Waits until it is ready or has ended, and stops it.
fn end_after_reload(daemon: &mut Daemon, what: &str) -> ExitStatus {
    let ended = wait::until(what, || match daemon.ended() {
        Some(status) => Some(Some(status)),
        None => daemon.docker.answers().then_some(None),
    });
    ended.unwrap_or_else(|| {
        daemon.signal(Signal::SIGTERM);
        daemon.wait_exit()
    })
}

/// What dockerd writes on SIGQUIT, where it wants it.
fn remove_dumps(user: &TestUser) {
    let entries = fs::read_dir(user.runtime_dir.join("docker")).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        let name = path.file_name().expect("a name").to_string_lossy();
        if name.starts_with("goroutine-stacks-") {
            fs::remove_file(&path).expect("remove the dump");
        }
    }
}

#[test]
fn a_few_starts_and_stops_let_nothing_grow() {
    start_and_stop(5);
}

#[test]
#[ignore = "slow"]
fn a_hundred_starts_and_stops_let_nothing_grow() {
    start_and_stop(100);
}

fn start_and_stop(times: u32) {
    let user = TestUser::new();
    // The first makes what stays.
    cycle(&user, &Counts::new());
    let (running, left) = cycle(&user, &Counts::new());
    println!("{running:?}, {left:?}");
    for n in 1..=times {
        let (_, now) = cycle(&user, &running);
        assert_eq!(now, left, "cycle {n}");
    }
}

pub type Counts = BTreeMap<&'static str, usize>;

/// Starts and stops the daemon, and counts what there is when it runs and when it has ended. What runs is to come down to
/// `most`: a question to the daemon has descriptors for a moment.
fn cycle(user: &TestUser, most: &Counts) -> (Counts, Counts) {
    let mut daemon = run(user).ready();
    wait_known(user);
    let mut running = count_running(&daemon);
    wait::poll(wait::PATIENCE, || {
        running = count_running(&daemon);
        let is_more = |(what, count)| most.get(what).is_some_and(|most| count > most);
        (!running.iter().any(is_more)).then_some(())
    })
    .unwrap_or_else(|| panic!("{running:?} is more than {most:?}"));
    assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.log());
    assert_nothing_left(user);
    (running, count_left(user))
}

/// What there is of the user's while the daemon runs.
pub fn count_running(daemon: &Daemon) -> Counts {
    let user = daemon.docker.0;
    let child = daemon::child_pid(&daemon.state_dir());
    let mounts = fs::read_to_string(format!("/proc/{child}/mountinfo")).expect("the namespace");
    let descriptors = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("the supervisor");
    BTreeMap::from([
        ("processes", process::list(user.uid, &user.subordinate).len()),
        ("mounts inside", mounts.lines().count()),
        ("descriptors", descriptors.count()),
    ])
}

/// What there is when it has ended.
fn count_left(user: &TestUser) -> Counts {
    let host = fs::read_to_string("/proc/self/mountinfo").expect("the host's mounts");
    BTreeMap::from([
        ("mounts", host.lines().count()),
        ("files in the runtime directory", files(&user.runtime_dir)),
        ("files in the data root", files(&user.home.join(".local/share/docker"))),
        ("files in /tmp", leftovers::temporary_files(user.uid).len()),
    ])
}

fn files(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let counts = entries.map(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => 1 + files(&entry.path()),
        _ => 1,
    });
    counts.sum()
}
