//! dockerd is replaced under running containers, and so is the supervisor's own program.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Output;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{pid_of, run, status, wait_known, wait_status};
use test_support::docker::PAGE;
use test_support::*;

/// A container that publishes a port, and the process that it is.
fn serve(daemon: &Daemon<'_>, port: u16) -> String {
    daemon.docker.import_image();
    daemon.docker.serve("web", &format!("-p 127.0.0.1:{port}:80 --restart always"));
    container(daemon)
}

fn container(daemon: &Daemon<'_>) -> String {
    daemon.docker.run("inspect --format {{.State.Pid}} web")
}

fn ours(user: &TestUser, line: &str) -> Output {
    user.brief_command(Launcher::Run.install(user))
        .args(line.split_whitespace())
        .output()
        .expect("our program")
}

/// What a command prints that succeeds.
fn done(user: &TestUser, line: &str) -> String {
    let output = ours(user, line);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{line}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The code and the words of one that is refused.
fn refused(user: &TestUser, line: &str) -> (Option<i32>, String) {
    let output = ours(user, line);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said)
}

const SAME: [&str; 5] = ["supervisor", "rootlesskit", "keeper", "containerd", "helper"];

fn assert_same(before: &Value, after: &Value) {
    for part in SAME {
        assert_eq!(before[part], after[part], "{part}");
    }
}

#[test]
fn dockerd_is_replaced_under_a_container_and_its_clients() {
    let user = TestUser::new();
    let port = user.port(0);
    let mut daemon = run(&user).ready();
    let process = serve(&daemon, port);
    let before = wait_known(&user);
    let inode = fs::metadata(daemon.docker.socket()).expect("the socket").ino();
    for count in 1..=3 {
        assert_eq!(done(&user, "restart"), "dockerd was replaced; containers were not touched\n");
        let after = status(&user).1;
        assert_same(&before, &after);
        assert_ne!(before["dockerd"], after["dockerd"]);
        assert_eq!(after["replaced"], count);
        assert_eq!(after["restarts"], 0);
        assert_eq!(container(&daemon), process);
        Docker::assert_answers(port);
        let page = daemon.docker.run("exec web wget -q -O - http://127.0.0.1/");
        assert_eq!(page, PAGE);
    }
    assert_eq!(fs::metadata(daemon.docker.socket()).expect("the socket").ino(), inode);
    assert_eq!(daemon.stop().code(), Some(0));
    assert_nothing_left(&user);
    assert_eq!(refused(&user, "restart").0, Some(3));
}

#[test]
fn a_configuration_that_dockerd_could_not_read_replaces_nothing() {
    let user = TestUser::new();
    let mut daemon = run(&user).ready();
    let before = wait_known(&user);
    let json = user.home.join(".config/docker/daemon.json");
    user.write(&json, "{\"debug\": true,}");
    let (code, said) = refused(&user, "restart");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("daemon.json"), "{said}");
    assert_eq!(status(&user).1["dockerd"], before["dockerd"]);
    user.write(&json, "{\"labels\": [\"colour=blue\"]}");
    done(&user, "restart");
    assert_eq!(daemon.docker.run("info --format {{.Labels}}"), "[colour=blue]");
    assert_eq!(daemon.stop().code(), Some(0));
    assert_nothing_left(&user);
}

#[test]
fn everything_restarts_in_order_when_that_is_asked_for() {
    let user = TestUser::new();
    let mut daemon = run(&user).ready();
    let process = serve(&daemon, user.port(0));
    let before = wait_known(&user);
    assert_eq!(done(&user, "restart --all"), "rootless Docker was restarted\n");
    let after = wait_known(&user);
    assert_eq!(before["supervisor"], after["supervisor"]);
    assert_ne!(before["rootlesskit"], after["rootlesskit"]);
    assert_eq!(after["restarts"], 1);
    wait::until("the container is back", || (container(&daemon) != process).then_some(()));
    Docker::assert_answers(user.port(0));
    assert_eq!(daemon.stop().code(), Some(0));
    assert_nothing_left(&user);
}

#[test]
fn a_start_that_would_be_refused_stops_nothing() {
    let user = TestUser::new();
    let mut daemon = run(&user).ready();
    let before = wait_known(&user);
    let file = user.home.join(".config/dockerd-rootless/config.toml");
    user.make_dir(file.parent().expect("a directory"));
    user.write(&file, "[daemon]\ntcp = '127.0.0.1:2376'\n");
    let (code, said) = refused(&user, "restart --all");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("ca.pem`, which does not exist") && said.contains("hint: "), "{said}");
    let after = status(&user).1;
    assert_same(&before, &after);
    assert_eq!((&before["dockerd"], &after["restarts"]), (&after["dockerd"], &0.into()));
    assert_eq!(daemon.stop().code(), Some(0));
    assert_nothing_left(&user);
}

/// Puts another file in the place of our program, as package managers do it.
fn renew(user: &TestUser) {
    let own = Launcher::Run.install(user);
    let new = own.with_extension("new");
    launcher::install(&own, &new);
    fs::rename(&new, &own).expect("replace the program");
}

#[test]
fn a_new_version_of_ours_takes_over_and_nothing_notices() {
    let user = TestUser::new();
    let port = user.port(0);
    let mut daemon = run(&user).ready();
    let process = serve(&daemon, port);
    let before = wait_known(&user);
    let inode = fs::metadata(daemon.docker.socket()).expect("the socket").ino();
    for _ in 0..2 {
        renew(&user);
        assert_eq!(status(&user).1["restart_needed"], true);
        assert_eq!(
            done(&user, "restart"),
            "this version of dockerd-rootless has taken over\n\
             dockerd was replaced; containers were not touched\n"
        );
        let after = wait_status(&user, "it is ready", |told| told["state"] == "ready");
        assert_same(&before, &after);
        assert_eq!(after["restart_needed"], false);
        assert_eq!(container(&daemon), process);
        Docker::assert_answers(port);
    }
    assert_eq!(fs::metadata(daemon.docker.socket()).expect("the socket").ino(), inode);
    // It knows all that it must look after.
    let old = super::kill_dockerd(&user);
    super::wait_other_dockerd(&user, old);
    assert_eq!(container(&daemon), process);
    let helper = pid_of(&before, "helper").expect("a helper");
    kill(Pid::from_raw(helper), Signal::SIGKILL).expect("it is there");
    wait_status(&user, "the network is back", |told| told["heals"] == 1);
    assert_eq!(daemon.stop().code(), Some(0));
    assert_nothing_left(&user);
}

#[test]
fn what_cannot_take_over_leaves_the_old_one_at_work() {
    let user = TestUser::new();
    let mut daemon = run(&user).ready();
    let before = wait_known(&user);
    // By hand nothing is handed over, and what another process hands over is none.
    for line in [
        "supervisor-take-over go 1",
        "supervisor-take-over go 77",
        "supervisor-take-over try 0",
        "supervisor-take-over",
    ] {
        let (code, said) = refused(&user, line);
        assert_eq!(code, Some(2), "{line}: {said}");
    }
    // A program that understands nothing of it.
    let stranger = user.home.join("stranger");
    fs::copy("/bin/false", &stranger).expect("a program");
    let control = user.runtime_dir.join("dockerd-rootless.run/control");
    let asked = format!("take-over {}", stranger.display());
    let said = ask(&control, &asked);
    assert!(said.starts_with("refused: "), "{said}");
    for nonsense in ["", "take-over", "restart everything", "take-over relative"] {
        let said = ask(&control, nonsense);
        assert!(said.starts_with("refused: "), "{nonsense}: {said}");
    }
    let after = status(&user).1;
    assert_same(&before, &after);
    assert_eq!(before["dockerd"], after["dockerd"]);
    assert!(daemon.docker.answers());
    assert_eq!(daemon.stop().code(), Some(0));
    assert_nothing_left(&user);
}

/// A line to the supervisor, and its answer.
fn ask(control: &Path, line: &str) -> String {
    use std::io::{BufRead, BufReader, Write};
    let mut stream = std::os::unix::net::UnixStream::connect(control).expect("the supervisor");
    writeln!(stream, "{line}").expect("it listens");
    let mut said = String::new();
    BufReader::new(stream).read_line(&mut said).expect("an answer");
    said
}

/// The file is whole or not there at all times, and a service manager's unit keeps its process.
#[test]
fn an_upgrade_replaces_both_under_running_containers() {
    let user = TestUser::new();
    let manager = UserManager::start(&user);
    let docker = Docker(&user);
    done(&user, "install");
    docker.import_image();
    docker.serve("web", "--restart always");
    let process = docker.run("inspect --format {{.State.Pid}} web");
    let main = manager.property("docker.service", "MainPID");
    let before = wait_status(&user, "it is ready", |told| told["state"] == "ready");
    renew(&user);
    done(&user, "upgrade");
    let after = wait_status(&user, "it is ready", |told| told["state"] == "ready");
    assert_same(&before, &after);
    assert_ne!(before["dockerd"], after["dockerd"]);
    assert_eq!(after["restart_needed"], false);
    assert_eq!(docker.run("inspect --format {{.State.Pid}} web"), process);
    assert_eq!(manager.property("docker.service", "MainPID"), main);
    assert_eq!(manager.property("docker.service", "NRestarts"), "0");
    assert_eq!(manager.property("docker.service", "ActiveState"), "active");
    manager.systemctl(&["stop", "docker.service"]);
    manager.stop();
    assert_nothing_left(&user);
}
