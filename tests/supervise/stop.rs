//! The end, as it is asked for.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{kill_dockerd, run, wait_status};
use test_support::*;

/// Starts a container whose process runs the shell script `handler` when it is asked to end; `words` are further options
/// of `docker run`. What it writes to `/out` is in the returned directory.
fn start_container(docker: &Docker, handler: &str, words: &str) -> std::path::PathBuf {
    let user = docker.0;
    let out = user.home.join("out");
    user.make_dir(&out);
    user.write(
        &out.join("run"),
        format!("trap '{handler}' TERM\necho >/out/started\nsleep infinity &\nwait\n"),
    );
    docker.import_image();
    docker.run(&format!("run -d -v {}:/out {words} {} sh /out/run", out.display(), docker::IMAGE));
    wait::until("the container's process listens", || out.join("started").exists().then_some(()));
    out
}

#[test]
fn containers_get_their_own_time() {
    let user = TestUser::new();
    let mut daemon = run(&user).ready();
    let out = start_container(&daemon.docker, "sleep 3; echo >/out/ended; exit", "");
    assert_eq!(daemon.stop().code(), Some(0));
    assert!(out.join("ended").exists(), "{}", daemon.log());
    assert_nothing_left(&user);
}

/// dockerd's own is 15 s.
#[test]
#[ignore = "slow"]
fn a_containers_time_may_be_longer_than_dockerds() {
    let user = TestUser::new();
    let mut daemon = run(&user).args(["--shutdown-timeout", "1"]).ready();
    let handler = "sleep 17; echo >/out/ended; exit";
    let out = start_container(&daemon.docker, handler, "--stop-timeout 20");
    assert_eq!(daemon.stop().code(), Some(0));
    assert!(out.join("ended").exists(), "{}", daemon.log());
    assert_nothing_left(&user);
}

/// The container would take longer than the test waits.
#[test]
fn a_second_term_hurries() {
    let user = TestUser::new();
    let mut daemon = run(&user).ready();
    let handler = "echo >/out/asked; sleep infinity";
    let out = start_container(&daemon.docker, handler, "--stop-timeout 300");
    daemon.signal(Signal::SIGTERM);
    wait::until("the container is asked", || out.join("asked").exists().then_some(()));
    assert!(daemon.ended().is_none());
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait_exit().code(), Some(0), "{}", daemon.log());
    assert!(daemon.log().contains("asked to stop again"), "{}", daemon.log());
    assert_nothing_left(&user);
}

#[test]
fn quit_has_the_daemon_say_what_it_does_and_stops_it() {
    let user = TestUser::new();
    let mut daemon = run(&user).ready();
    let out = start_container(&daemon.docker, "echo >/out/ended; exit", "");
    daemon.signal(Signal::SIGQUIT);
    assert_eq!(daemon.wait_exit().code(), Some(0), "{}", daemon.log());
    assert!(out.join("ended").exists(), "{}", daemon.log());
    let dumps = remove_dumps(&user);
    assert_eq!(dumps.len(), 1, "{}", daemon.log());
    assert!(dumps[0].contains("goroutine "), "{}", dumps[0]);
    assert_nothing_left(&user);
}

#[test]
fn usr1_has_the_daemon_say_what_it_does_and_go_on() {
    let user = TestUser::new();
    let mut daemon = run(&user).ready();
    wait_status(&user, "it is ready", |told| told["state"] == "ready");
    daemon.signal(Signal::SIGUSR1);
    wait::until("the dump is there", || (!remove_dumps(&user).is_empty()).then_some(()));
    assert!(daemon.docker.answers());
    assert_eq!(daemon.stop().code(), Some(0));
    assert_nothing_left(&user);
}

/// dockerd's handler is installed last: the signal would kill it.
#[test]
fn a_reload_during_the_start_is_held_back() {
    let user = TestUser::new();
    let reloads = "Got signal to reload configuration";
    for times in [1, 3] {
        let mut daemon = run(&user).start();
        wait_status(&user, "it starts", |told| told["state"] == "starting");
        for _ in 0..times {
            daemon.signal(Signal::SIGHUP);
        }
        wait::until("dockerd reloads", || daemon.log().contains(reloads).then_some(()));
        assert!(daemon.docker.answers());
        let told = wait_status(&user, "it is ready", |told| told["state"] == "ready");
        assert_eq!(told["restarts"], 0, "{}", daemon.log());
        assert_eq!(told["replaced"], 0, "{}", daemon.log());
        assert_eq!(daemon.log().matches(reloads).count(), 1);
        assert_eq!(daemon.stop().code(), Some(0));
        assert_nothing_left(&user);
    }
}

/// What dockerd writes when it is asked for it; it stays there, by dockerd's own will.
fn remove_dumps(user: &TestUser) -> Vec<String> {
    let entries = fs::read_dir(user.runtime_dir.join("docker")).expect("dockerd's directory");
    let dumps = entries.flatten().map(|entry| entry.path()).filter(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("goroutine-stacks-"))
    });
    dumps
        .filter_map(|path| {
            let text = fs::read_to_string(&path).expect("read the dump");
            // dockerd makes it first and fills it then.
            (!text.is_empty()).then(|| {
                fs::remove_file(&path).expect("remove the dump");
                text
            })
        })
        .collect()
}

/// As with `ssh-agent & exec dockerd-rootless` in a script: it is a child of the same process.
#[test]
fn what_a_shell_has_started_before_it_became_us_lives_on() {
    let user = TestUser::new();
    let file = user.home.join("earlier.pid");
    let mut daemon = run(&user)
        .prepare(format!(
            "setpriv --reuid {0} --regid {0} --clear-groups sleep 600 >/dev/null 2>&1 </dev/null & echo $! >{1}",
            user.name,
            file.display()
        ))
        .ready();
    let earlier = fs::read_to_string(&file).expect("a PID");
    let earlier: i32 = earlier.trim().parse().expect("a PID");
    kill_dockerd(&user);
    daemon.wait_ready();
    assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.log());
    // A process that has ended has no words.
    let words = fs::read(format!("/proc/{earlier}/cmdline")).expect("it lives");
    assert!(words.starts_with(b"sleep"));
    kill(Pid::from_raw(earlier), Signal::SIGKILL).expect("it lives");
    wait::until("it ends", || kill(Pid::from_raw(earlier), None).is_err().then_some(()));
    assert_nothing_left(&user);
}
