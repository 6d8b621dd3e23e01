//! Plain `run` under signals: it stays as the daemon's supervisor, and what is sent to it means the daemon.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use test_support::*;

/// What dockerd says for each signal that it gets.
const HEARD: &str = "Processing signal ";

fn run(user: &TestUser) -> Launch<'_> {
    Launch::new(user, Launcher::Run)
}

fn assert_tree_gone(user: &TestUser, what: &str) {
    let processes = || process::list(user.uid, &user.subordinate);
    let gone = wait::poll(wait::PATIENCE, || processes().is_empty().then_some(()));
    assert!(gone.is_some(), "{what}: {:#?}", processes());
}

#[test]
fn sigterm_and_sigint_stop_the_daemon_in_order() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let user = TestUser::new();
        let mut daemon = run(&user).ready();
        daemon.docker.import_image();
        daemon.docker.serve("web", "");
        daemon.signal(signal);
        assert_eq!(daemon.wait_exit().code(), Some(0), "{signal}");
        assert_nothing_left(&user);
        let log = daemon.log();
        assert_eq!(log.matches(HEARD).count(), 1, "{log}");
        assert!(!log.contains("\nerror: "), "what is asked for is no error: {log}");
    }
}

#[test]
fn sighup_has_the_daemon_read_its_configuration_anew() {
    let user = TestUser::new();
    let file = user.home.join(".config/docker/daemon.json");
    user.write(&file, r#"{"labels": ["a=1"]}"#);
    let mut daemon = run(&user).ready();
    user.write(&file, r#"{"labels": ["a=2"]}"#);
    daemon.signal(Signal::SIGHUP);
    wait::until("the daemon has the new label", || {
        let labels = daemon.docker.run("info --format {{.Labels}}");
        (labels == "[a=2]").then_some(())
    });
    assert!(daemon.ended().is_none());
    assert_eq!(daemon.stop().code(), Some(0));
    assert_nothing_left(&user);
}

#[test]
fn sigkill_takes_the_whole_tree() {
    let user = TestUser::new();
    let mut daemon = run(&user).ready();
    daemon.docker.import_image();
    daemon.kill();
    assert_tree_gone(&user, "SIGKILL");
    let mut daemon = run(&user).ready();
    assert_eq!(daemon.stop().code(), Some(0));
}

/// `run` in a process group of its own, its output in a file.
fn in_own_group(user: &TestUser) -> (Child, std::path::PathBuf) {
    let log = user.home.join("group.log");
    let output = File::create(&log).expect("create the log");
    let mut command = user.command(Launcher::Run.install(user));
    let child = command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("duplicate a descriptor"))
        .stderr(output)
        .spawn()
        .expect("start the launcher");
    (child, log)
}

fn ended(child: &mut Child, what: &str) -> ExitStatus {
    wait::poll(wait::PATIENCE, || child.try_wait().expect("wait for the launcher"))
        .unwrap_or_else(|| panic!("{what}: it is still there"))
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().expect("a pid is positive"))
}

#[test]
fn a_signal_to_the_whole_group_reaches_the_daemon_once() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let user = TestUser::new();
        let docker = Docker(&user);
        let (mut child, log) = in_own_group(&user);
        wait::until("the daemon answers", || docker.answers().then_some(()));
        killpg(pid(&child), signal).expect("it is our child's");
        assert_eq!(ended(&mut child, "a signal").code(), Some(0), "{signal}");
        let log = std::fs::read_to_string(log).expect("read the log");
        assert_eq!(log.matches(HEARD).count(), 1, "{signal}: {log}");
        assert_nothing_left(&user);
    }
}

#[test]
fn sigkill_to_the_whole_group_takes_the_whole_tree() {
    let user = TestUser::new();
    let docker = Docker(&user);
    let (mut child, _) = in_own_group(&user);
    wait::until("the daemon answers", || docker.answers().then_some(()));
    killpg(pid(&child), Signal::SIGKILL).expect("it is our child's");
    ended(&mut child, "SIGKILL");
    assert_tree_gone(&user, "SIGKILL to the group");
}

#[test]
fn control_c_on_a_terminal_reaches_the_daemon_once() {
    let user = TestUser::new();
    let docker = Docker(&user);
    let log = user.home.join("terminal.log");
    let mut child = user
        .command("script")
        .args(["--quiet", "--return", "--flush", "--command"])
        .arg(format!("exec {} -v", Launcher::Run.install(&user).display()))
        .arg(&log)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("script(1)");
    wait::until("the daemon answers", || docker.answers().then_some(()));
    let mut keyboard = child.stdin.take().expect("a pipe");
    keyboard.write_all(b"\x03").expect("type");
    let status = ended(&mut child, "Ctrl-C");
    let log = std::fs::read_to_string(log).expect("read the log");
    assert_eq!(status.code(), Some(0), "{log}");
    assert_eq!(log.matches(HEARD).count(), 1, "{log}");
    assert_nothing_left(&user);
}

/// rootlesskit hangs for ever at some of these moments, since it waits without a deadline for a child that is gone.
#[test]
fn a_signal_at_any_moment_of_the_start_ends_it() {
    let user = TestUser::new();
    Launcher::Run.install(&user);
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGKILL] {
        for moment in (0..20).map(|n| Duration::from_millis(10) * n) {
            let (mut child, log) = in_own_group(&user);
            sleep(moment);
            kill(pid(&child), signal).expect("it is our child");
            let what = format!("{signal} at {moment:?}");
            let status = ended(&mut child, &what);
            assert_tree_gone(&user, &what);
            let asked = 128 + signal as i32;
            let shown = std::os::unix::process::ExitStatusExt::signal(&status);
            let code = status.code().or(shown.map(|signal| 128 + signal)).expect("an end");
            let log = std::fs::read_to_string(log).expect("read the log");
            assert!(code == 0 || code == asked, "{what}: {code}: {log}");
        }
    }
    let mut daemon = run(&user).ready();
    assert_eq!(daemon.stop().code(), Some(0));
}
