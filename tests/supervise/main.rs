//! The supervisor as its users meet it: plain `run` and a unit of a real `systemd --user`, with the real programs.

mod handover;
mod instances;
mod kills;
mod manager;
mod on_demand;
mod replace;
mod status;
mod stop;
mod sweeps;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use test_support::*;

fn run(user: &TestUser) -> Launch<'_> {
    Launch::new(user, Launcher::Run)
}

/// `status` with further `words`, split at white space.
fn status_command(user: &TestUser, words: &str) -> Command {
    let mut command = user.brief_command(Launcher::Run.install(user));
    command.arg("status").args(words.split_whitespace());
    command
}

/// What `status --format json` says, and its exit code.
fn status(user: &TestUser) -> (Option<i32>, Value) {
    let Output { status, stdout, .. } =
        status_command(user, "--format json").output().expect("run status");
    let told = serde_json::from_slice(&stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&stdout)));
    (status.code(), told)
}

/// Waits for a status with which `holds`.
fn wait_status(user: &TestUser, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    wait::until(what, || Some(status(user).1).filter(&holds))
}

/// A PID that the status tells.
fn pid_of(status: &Value, who: &str) -> Option<i32> {
    i32::try_from(status[who].as_i64()?).ok()
}

/// Kills the daemon and returns when it is gone; the supervisor may be about to start another.
fn kill_dockerd(user: &TestUser) -> i32 {
    let dockerd = wait::until("status names dockerd", || pid_of(&status(user).1, "dockerd"));
    kill(Pid::from_raw(dockerd), Signal::SIGKILL).expect("it is there");
    let processes = || process::list(user.uid, &user.subordinate);
    wait::until("SIGKILL ends it", || {
        let is_gone = processes().iter().all(|process| process.pid != dockerd);
        is_gone.then_some(())
    });
    dockerd
}

/// Waits until another dockerd than `old` is up.
fn wait_other_dockerd(user: &TestUser, old: i32) -> Value {
    wait_status(user, "another dockerd is up", |status| {
        status["state"] == "ready" && pid_of(status, "dockerd") != Some(old)
    })
}

/// Waits until the supervisor knows all processes that it looks after, and watches the network helper. It
/// hears of the others' ends.
fn wait_known(user: &TestUser) -> Value {
    let watched = |status: &Value| {
        let watched = watched_by(pid_of(status, "supervisor")?);
        pid_of(status, "containerd")?;
        pid_of(status, "dockerd")?;
        watched.contains(&pid_of(status, "helper")?).then_some(())
    };
    wait_status(user, "all is known and watched", |status| {
        watched(status).is_some() && !status["dockerd_version"].is_null()
    })
}

/// The processes of which a process has pidfds.
fn watched_by(pid: i32) -> Vec<i32> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("the supervisor");
    descriptors
        .flatten()
        // One may be closed meanwhile.
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .filter_map(|info| {
            let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"))?;
            pid.trim().parse().ok()
        })
        .collect()
}

/// Our own directory while we run.
fn run_dir(user: &TestUser) -> PathBuf {
    user.runtime_dir.join("dockerd-rootless.run")
}
