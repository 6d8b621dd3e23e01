//! `-v /var/run/docker.sock:/var/run/docker.sock`, as people paste it: whose daemon answers there, and
//! after what.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use test_support::docker::IMAGE;
use test_support::room::OWN_RUN;
use test_support::*;

const PASTED: &str = "-v /var/run/docker.sock:/var/run/docker.sock";

/// The daemon's first answer to a client in the container `client`.
fn ask(docker: &Docker<'_>) -> String {
    docker.run("exec client /verify verify-probe ask /var/run/docker.sock")
}

fn ours(program: &Path, user: &TestUser, words: &str) -> Told {
    Told::by(user.brief_command(program).args(words.split(' '))).good()
}

/// The PID of the dockerd that is up, if there is one.
fn dockerd(program: &Path, user: &TestUser) -> Option<i32> {
    let status = Told::by(user.brief_command(program).args(["status", "--format", "json"]));
    let status: Value = serde_json::from_str(&status.stdout).ok()?;
    let pid = i32::try_from(status["dockerd"].as_i64()?).ok();
    pid.filter(|_| status["state"] == "ready")
}

#[test]
fn a_client_in_a_container_reaches_each_dockerd_through_the_mount_that_it_has() {
    let user = TestUser::new();
    let program = launcher::install_stripped(&user);
    // What stands for a system-wide daemon's socket must not be what containers get.
    let rootful = format!("{OWN_RUN}echo rootful > /run/docker.sock");
    let mut daemon = Launch::new(&user, Launcher::Run).prepare(rootful).ready();
    let docker = Docker(&user);
    docker.import_image();
    let program_mount = format!("-v {}:/verify:ro", program.display());
    docker.run(&format!(
        "run -d --name client --restart always --stop-signal KILL {PASTED} {program_mount} {IMAGE} \
         sleep 86400"
    ));
    let process = || docker.run("inspect --format {{.State.Pid}} client");
    let first = process();
    assert!(ask(&docker).contains(" 200 "), "{}", ask(&docker));

    ours(&program, &user, "restart");
    assert!(ask(&docker).contains(" 200 "), "after `restart`: {}", ask(&docker));

    let old = wait::until("dockerd is up", || dockerd(&program, &user));
    kill(Pid::from_raw(old), Signal::SIGKILL).expect("it is there");
    wait::until("another dockerd", || dockerd(&program, &user).filter(|pid| *pid != old));
    assert!(ask(&docker).contains(" 200 "), "after a crash: {}", ask(&docker));

    fs::remove_file(docker.socket()).expect("it is there");
    wait::until("the socket is back", || docker.answers().then_some(()));
    assert!(ask(&docker).contains(" 200 "), "after `rm`: {}", ask(&docker));
    assert_eq!(process(), first, "no container was touched");

    ours(&program, &user, "restart --all");
    wait::until("the container is back", || (process() != first).then_some(()));
    assert!(ask(&docker).contains(" 200 "), "after a start: {}", ask(&docker));

    assert_eq!(daemon.stop().code(), Some(0));
    assert_nothing_left(&user);
}

#[test]
fn a_socket_that_the_user_names_is_what_containers_get() {
    let user = TestUser::new();
    let program = launcher::install_stripped(&user);
    let own = user.runtime_dir.join("own.sock");
    let named = format!(r#"{{"hosts": ["unix://{}"]}}"#, own.display());
    user.write(&user.home.join(".config/docker/daemon.json"), named);
    let mut daemon = Launch::new(&user, Launcher::Run).start();
    daemon.wait_ready_at(&own);
    let mut verify: Command = user.brief_command(&program);
    verify.args(["verify", "--only", "docker-sock", "--format", "json"]);
    let told = Told::by(verify.env("DOCKER_HOST", format!("unix://{}", own.display())));
    assert_eq!(told.status("docker-sock"), "pass", "{told:?}");
    assert_eq!(daemon.stop().code(), Some(0));
    assert_nothing_left(&user);
}
