//! `status`: what it says at each time, and its exit code.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{
    kill_dockerd, pid_of, run, run_dir, status, status_command, wait_known, wait_other_dockerd,
    wait_status,
};
use test_support::*;

/// All fields of the JSON, in the order of the alphabet.
const FIELDS: [&str; 35] = [
    "address",
    "client",
    "clients",
    "containerd",
    "containers",
    "data",
    "dockerd",
    "dockerd_version",
    "heals",
    "helper",
    "images",
    "keeper",
    "keeps_containers",
    "last_failure",
    "last_failure_at",
    "limits",
    "network",
    "network_driver",
    "notes",
    "port_driver",
    "ports",
    "problems",
    "replaced",
    "restart_needed",
    "restarted",
    "restarts",
    "rootlesskit",
    "rootlesskit_version",
    "schema",
    "service",
    "since",
    "socket",
    "socket_of",
    "state",
    "supervisor",
];

fn text(user: &TestUser) -> (Option<i32>, String) {
    let Output { status, stdout, .. } = status_command(user, "").output().expect("run status");
    (status.code(), String::from_utf8(stdout).expect("text in UTF-8"))
}

/// The exit code of `status --wait=SECONDS`.
fn wait_for(user: &TestUser, seconds: u32) -> Option<i32> {
    let output = status_command(user, &format!("--wait={seconds}")).output();
    output.expect("run status").status.code()
}

fn assert_not_running(user: &TestUser) {
    let (code, told) = status(user);
    assert_eq!((code, &told["state"]), (Some(3), &json!("not running")));
    let (code, shown) = text(user);
    assert!(code == Some(3) && shown.starts_with("○ not running  "), "{shown}");
}

#[test]
fn it_tells_who_runs_and_its_code_whether_that_is_ready() {
    let user = TestUser::new();
    assert_not_running(&user);
    let mut daemon = run(&user).ready();
    let waited = status_command(&user, "--wait").output().expect("run status");
    assert_eq!(waited.status.code(), Some(0));
    let told = wait_known(&user);
    let fields: Vec<&String> = told.as_object().expect("an object").keys().collect();
    assert_eq!(fields, FIELDS);
    assert_eq!(told["state"], "ready");
    assert_eq!(told["supervisor"], daemon.pid().as_raw());
    assert_eq!(told["socket"], json!(daemon.docker.socket()));
    assert_eq!(
        [&told["restarts"], &told["heals"], &told["restart_needed"], &told["last_failure"]],
        [&json!(0), &json!(0), &json!(false), &Value::Null]
    );
    for (field, name) in [
        ("supervisor", "dockerd-rootles"),
        ("rootlesskit", "rootlesskit"),
        ("keeper", "dockerd-rootles"),
        ("dockerd", "dockerd"),
        ("containerd", "containerd"),
        ("helper", "slirp4netns"),
    ] {
        let pid = pid_of(&told, field).unwrap_or_else(|| panic!("{field}: {told}"));
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).expect("a process");
        assert_eq!(comm.trim_end(), name, "{field}");
    }
    let version = daemon.docker.run("version --format {{.Server.Version}}");
    assert_eq!(told["dockerd_version"], version);

    let (code, shown) = text(&user);
    assert_eq!(code, Some(0));
    let (headline, rows) = shown.split_once('\n').expect("lines");
    assert!(headline.starts_with("● ready for "), "{shown}");
    assert!(headline.contains(&format!(" Docker {version}, rootlesskit ")), "{shown}");
    let names: Vec<&str> = rows.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let expected = [
        "address",
        "client",
        "network",
        "images",
        "data",
        "containers",
        "clients",
        "limits",
        "restarted",
    ];
    assert_eq!(names, expected, "{shown}");

    let old = kill_dockerd(&user);
    wait_other_dockerd(&user, old);
    assert!(text(&user).1.contains(" ago: dockerd was ended by SIGKILL"), "{:?}", text(&user));
    assert_eq!(daemon.stop().code(), Some(0));
    assert_not_running(&user);
    assert_nothing_left(&user);
}

/// It asks all the time whether somebody is there, and is not in the way of whoever comes.
#[test]
fn wait_outlasts_a_start() {
    let user = TestUser::new();
    for _ in 0..3 {
        let mut waiting: Vec<_> = (0..4)
            .map(|_| {
                let mut command = status_command(&user, "--wait=60 --format json");
                command.stdout(Stdio::piped()).spawn().expect("run status")
            })
            .collect();
        let mut daemon = run(&user).start();
        for waiting in waiting.drain(..) {
            let output = waiting.wait_with_output().expect("wait for status");
            assert_eq!(output.status.code(), Some(0), "{}", daemon.log());
            let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            assert_eq!(told["state"], "ready");
            assert_eq!(told["supervisor"], daemon.pid().as_raw());
        }
        assert_eq!(daemon.stop().code(), Some(0));
        assert_nothing_left(&user);
    }
}

/// A script in dockerd's place, which is never ready.
fn never_ready(user: &TestUser) -> Launch<'_> {
    let stub = user.home.join("never-ready");
    user.write(&stub, "#!/bin/sh\nexec sleep infinity\n");
    test_support::command::run(Command::new("chmod").arg("+x").arg(&stub));
    run(user).env("DOCKERD", stub)
}

#[test]
fn a_daemon_that_is_not_ready_is_told_from_one_that_does_not_run() {
    let user = TestUser::new();
    let mut daemon = never_ready(&user).start();
    wait_status(&user, "dockerd is there", |told| !told["dockerd"].is_null());
    let (code, told) = status(&user);
    assert_eq!((code, &told["state"]), (Some(3), &json!("starting")));
    assert_eq!(wait_for(&user, 1), Some(3));
    assert_eq!(daemon.stop().code(), Some(0));
    assert_not_running(&user);
    assert_nothing_left(&user);
}

#[test]
fn a_start_that_takes_too_long_is_given_up_and_the_stage_is_named() {
    let user = TestUser::new();
    let mut daemon =
        never_ready(&user).env("DOCKERD_ROOTLESS_SUPERVISE_START_TIMEOUT", "1").start();
    // It does nothing at all, which is certain after half a minute only.
    let ended = wait::poll(wait::PATIENCE * 3, || daemon.ended());
    let message = daemon.log();
    let code = ended.and_then(|status| status.code());
    assert_eq!(code, Some(1), "{message}");
    assert!(message.contains("it gets more time"), "{message}");
    assert!(message.contains("dockerd does not answer"), "{message}");
    assert_nothing_left(&user);
}

#[test]
fn what_a_killed_supervisor_has_left_counts_for_nothing() {
    let user = TestUser::new();
    let mut daemon = run(&user).ready();
    wait_status(&user, "it is ready", |told| told["state"] == "ready");
    daemon.kill();
    assert!(run_dir(&user).join("status.json").exists());
    assert_not_running(&user);
    let mut daemon = run(&user).ready();
    assert_eq!(daemon.stop().code(), Some(0));
    assert_nothing_left(&user);
}

#[test]
fn programs_that_were_replaced_on_disk_need_a_restart() {
    let user = TestUser::new();
    let own = user.home.join("bin/dockerd");
    user.make_dir(&user.home.join("bin"));
    launcher::install(Path::new("/usr/sbin/dockerd"), &own);
    let mut daemon = run(&user).env("DOCKERD", &own).ready();
    wait_status(&user, "it is ready", |told| told["state"] == "ready");
    assert_eq!(status(&user).1["restart_needed"], false);

    // As package managers do it.
    let new = own.with_extension("new");
    launcher::install(&own, &new);
    fs::rename(&new, &own).expect("replace the program");
    let (code, told) = status(&user);
    assert_eq!((code, &told["restart_needed"]), (Some(0), &json!(true)));
    let (_, shown) = text(&user);
    assert!(shown.contains("notes       programs on disk are newer"), "{shown}");

    kill_dockerd(&user);
    wait_status(&user, "the new one runs", |told| {
        told["state"] == "ready" && told["restart_needed"] == false
    });
    fs::remove_file(&own).expect("remove the program");
    assert_eq!(status(&user).1["restart_needed"], true);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait_exit().code(), Some(0));
    assert_nothing_left(&user);
}
