//! What `check` leaves: nothing, alone and beside others.

use std::fs;
use std::process::{Child, Command, Stdio};

use super::{check, check_with};
use test_support::leftovers::assert_unchanged;
use test_support::*;

fn start(mut command: Command) -> Child {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

fn assert_passes(told: &Told) {
    assert_eq!(told.code, Some(0), "{told:?}");
    assert_eq!(told.with_status("fail"), [""; 0], "{told:?}");
}

#[test]
fn the_snapshot_sees_all_that_can_be_left() {
    let user = TestUser::new();
    let before = Snapshot::usual(&user);
    let room = Room::new(&user, "");
    let sleeper = process::Background::start(user.command("unshare").args([
        "--user",
        "--map-root-user",
        "--mount",
        "sleep",
        "60",
    ]));
    wait::until("unshare executes sleep", || {
        let line = fs::read(format!("/proc/{}/cmdline", sleeper.pid())).ok()?;
        line.starts_with(b"sleep").then_some(())
    });
    user.write(&user.home.join(".cache/dockerd-rootless/programs.json"), "{}");
    user.write(&user.runtime_dir.join("socket"), "");
    let dump = std::path::PathBuf::from(format!("/tmp/trace-{}", user.name));
    user.write(&dump, "");
    let mount = user.home.join("mount");
    user.make_dir(&mount);
    command::run(room.root("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&mount));
    let seen = Snapshot::usual(&user).since(&before).join("\n");
    for sign in [
        format!("new: process {} sleep 60", sleeper.pid()),
        format!("new: file {}", dump.display()),
        format!("new: file {}/socket", user.runtime_dir.display()),
        "programs.json".to_owned(),
        format!("{} ", mount.display()),
    ] {
        assert!(seen.contains(&sign), "no {sign} in:\n{seen}");
    }
}

#[test]
fn a_check_leaves_nothing() {
    let user = TestUser::new();
    let docker = user.home.join(".local/share/docker");
    for case in ["no data root yet", "with a data root"] {
        if case == "with a data root" {
            user.make_dir(&docker.join("overlay2"));
        }
        check(&user, "");
        let before = Snapshot::usual(&user);
        for words in ["--format json", "", "--print-fix", "--only overlay", "--list"] {
            let told = Told::by(&mut check(&user, words));
            assert_eq!(told.code, Some(0), "{case}: {words}: {told:?}");
            assert_unchanged(&before, &format!("{case}: after `check {words}`"), || {
                Snapshot::usual(&user)
            });
        }
    }
}

#[test]
fn what_an_earlier_launch_has_kept_is_used_and_stays_as_it_is() {
    let user = TestUser::new();
    let binary = Launcher::Run.install(&user);
    command::run(user.command(&binary).arg("plan"));
    let before = Snapshot::usual(&user);
    assert_passes(&Told::by(&mut check(&user, "--format json")));
    assert_unchanged(&before, "after `check`", || Snapshot::usual(&user));
}

#[test]
fn a_check_that_fails_leaves_nothing() {
    let user = TestUser::new();
    user.write(&user.home.join(".config/docker/daemon.json"), "{,}");
    for (name, words, path) in
        [("daemon-config", "", user::PATH), ("rootlesskit", "--format json", "/nowhere")]
    {
        let mut command = check_with(&user, &[format!("PATH={path}")], words);
        let before = Snapshot::usual(&user);
        let told = Told::by(&mut command);
        assert_eq!(told.code, Some(4), "{name}: {told:?}");
        assert!(told.stdout.contains(name), "{name}: {told:?}");
        assert_unchanged(&before, name, || Snapshot::usual(&user));
    }
}

#[test]
fn two_checks_at_the_same_time_both_pass() {
    let user = TestUser::new();
    check(&user, "");
    let before = Snapshot::usual(&user);
    for pair in 0..5 {
        let both = [(); 2].map(|()| start(check(&user, "--format json")));
        for child in both {
            let told = Told::from(child.wait_with_output().expect("wait for a check"));
            assert!(told.code == Some(0), "pair {pair}: {told:?}");
            assert_passes(&told);
            assert_eq!(told.status("overlay"), "ok", "pair {pair}: {told:?}");
        }
        assert_unchanged(&before, &format!("after pair {pair}"), || Snapshot::usual(&user));
    }
}

#[test]
fn a_check_beside_a_daemon_passes_and_the_daemon_does_not_notice() {
    let user = TestUser::new();
    let mut daemon = Launch::new(&user, Launcher::Run).ready();
    daemon.docker.import_image();
    daemon.docker.assert_publishes(user.port(0), "");
    let look = || {
        daemon
            .docker
            .run("inspect --format {{.State.Pid}},{{.State.StartedAt}},{{.RestartCount}} web")
    };
    let container = look();
    let network = || {
        daemon.inside("ip -4 -o address; for f in legacy nft; do iptables-$f-save | sed '/^[#:]/d'; done; cat /proc/sys/net/ipv4/ip_forward")
    };
    let (log, network_before) = (daemon.log(), network());
    let before = Snapshot::usual(&user);
    let told = Told::by(&mut check(&user, "--format json"));
    assert_passes(&told);
    for name in ["rootlesskit", "netfilter", "overlay", "state-dir", "socket-path"] {
        assert_eq!(told.status(name), "ok", "{name}: {told:?}");
    }
    assert_unchanged(&before, "after `check`", || Snapshot::usual(&user));
    assert_eq!(look(), container);
    assert_eq!(network(), network_before);
    assert_eq!(daemon.log(), log, "the daemon has something to say");
    assert!(daemon.docker.run("ps --format {{.Names}}").contains("web"));
    Docker::assert_answers(user.port(0));
    assert_eq!(daemon.docker.container("cat /www/index.html"), docker::PAGE);
    assert_eq!(daemon.stop().code(), Some(0));
    assert_nothing_left(&user);
}
