//! `supervise.idle-timeout` with a socket of the service manager: nothing runs while nobody uses it, and nobody notices.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

use test_support::*;

const SOCKET: &str = "[Socket]\nListenStream=%t/docker.sock\nSocketMode=0600\nRemoveOnStop=yes\n";

/// What the units are told.
const IDLE: Duration = Duration::from_secs(2);

/// What the supervisor says when it stops an idle daemon.
const ENDS: &str = "idle: stopping the daemon";

/// How dockerd notes, with `--debug`, that it is asked for the containers that run.
const ASKED: &str = "/containers/json?filters=";

/// The units, of which only the socket is started.
fn start(user: &TestUser) -> UserManager<'_> {
    let manager = UserManager::start(user);
    manager.write_unit("docker.socket", SOCKET);
    manager.write_unit(
        "docker.service",
        &format!(
            "[Unit]\nRequires=docker.socket\n\
             [Service]\nExecStart={} run --set supervise.idle-timeout={} -- --debug\nType=notify\n\
             NotifyAccess=main\nKillMode=mixed\nEnvironment=PATH={}\n",
            Launcher::Run.install(user).display(),
            IDLE.as_secs(),
            user::PATH
        ),
    );
    manager.systemctl(&["start", "docker.socket"]);
    assert_eq!(state(&manager), "inactive");
    manager
}

fn state(manager: &UserManager) -> String {
    manager.property("docker.service", "ActiveState")
}

fn main_pid(manager: &UserManager) -> String {
    manager.property("docker.service", "MainPID")
}

fn wait_state(manager: &UserManager, wanted: &str) {
    wait::until(&format!("docker.service is {wanted}"), || {
        (state(manager) == wanted).then_some(())
    });
}

fn ping(docker: &Docker) {
    let answer = http::get_unix(&docker.socket(), "/_ping").expect("an answer");
    assert_eq!((answer.status, answer.body.as_str()), (200, "OK"));
}

fn end(manager: UserManager, user: &TestUser) {
    manager.systemctl(&["stop", "docker.socket", "docker.service"]);
    assert_eq!(manager.property("docker.service", "Result"), "success");
    assert_eq!(manager.property("docker.service", "NRestarts"), "0");
    let log = manager.log();
    assert!(!log.contains("too many open files"), "dockerd can clear up: {log}");
    manager.stop();
    assert_nothing_left(user);
}

#[test]
fn the_daemon_ends_when_nobody_uses_it_and_the_next_connection_starts_it() {
    let user = TestUser::new();
    let manager = start(&user);
    let docker = Docker(&user);
    ping(&docker);
    wait_state(&manager, "active");
    docker.import_image();
    docker.run("run -d --name busy busybox sleep infinity");
    let first = main_pid(&manager);

    let asked = || manager.log().matches(ASKED).count();
    let before = asked();
    wait::until("the supervisor asks three times what runs", || {
        (asked() >= before + 3).then_some(())
    });
    assert_eq!(main_pid(&manager), first);
    assert_eq!(state(&manager), "active");

    docker.run("rm -f busy");
    // dockerd 20.10 keeps its end of such a client's connection.
    docker.run("run --rm busybox true");
    wait_state(&manager, "inactive");
    assert_eq!(manager.property("docker.service", "Result"), "success");
    assert_eq!(manager.property("docker.socket", "ActiveState"), "active");
    let log = manager.log();
    assert!(log.contains(ENDS), "{log}");
    let left = process::list(user.uid, &user.subordinate);
    let left: Vec<_> = left
        .iter()
        .filter(|process| {
            !process.command.contains("systemd") && !process.command.contains("dbus-daemon")
        })
        .filter(|process| process.command != "(sd-pam)")
        .collect();
    assert!(left.is_empty(), "{left:#?}");

    assert_eq!(docker.run("images --quiet").lines().count(), 1);
    wait_state(&manager, "active");
    assert_ne!(main_pid(&manager), first);
    end(manager, &user);
}

/// The time is the matter itself: nothing happens in it.
#[test]
fn a_client_that_is_connected_keeps_the_daemon() {
    let user = TestUser::new();
    let manager = start(&user);
    let docker = Docker(&user);
    ping(&docker);
    wait_state(&manager, "active");
    let first = main_pid(&manager);
    let socket = docker.socket();
    let here = || UnixStream::connect(&socket).expect("connect");
    // As from a sandbox, or `ip netns exec`.
    let from_another_network = || {
        let connect = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            here()
        };
        thread::scope(|scope| scope.spawn(connect).join().expect("no panic"))
    };
    for connect in [&here as &dyn Fn() -> UnixStream, &from_another_network] {
        let mut events = connect();
        events.write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("ask");
        sleep(4 * IDLE);
        assert_eq!(state(&manager), "active");
        assert_eq!(main_pid(&manager), first);
    }
    wait_state(&manager, "inactive");
    end(manager, &user);
}

#[test]
fn who_comes_while_the_daemon_ends_is_answered_by_the_next() {
    let user = TestUser::new();
    let manager = start(&user);
    let docker = Docker(&user);
    for delay in (0..8).map(|n| Duration::from_millis(40) * n) {
        let ends = || manager.log().matches(ENDS).count();
        let before = ends();
        ping(&docker);
        // Where the last daemon has answered just before it ended, none has been started.
        wait::until("the daemon ends", || {
            (ends() > before || state(&manager) == "inactive").then_some(())
        });
        sleep(delay);
    }
    ping(&docker);
    end(manager, &user);
}

/// The supervisor decides two seconds after the last use: clients come well before that, just then, and while the daemon
/// ends.
#[test]
fn nobody_who_comes_at_the_edge_is_lost() {
    let user = TestUser::new();
    let manager = start(&user);
    let docker = Docker(&user);
    let around = (0..15).map(|n| 1900 + 400 * n / 14);
    let at = (0..15).map(|n| 1996 + 2 * n);
    for moment in around.chain(at).map(Duration::from_millis) {
        ping(&docker);
        let begin = Instant::now();
        let clients: Vec<_> = (0..8)
            .map(|n| moment + n * Duration::from_millis(2))
            .map(|moment| {
                let socket = docker.socket();
                let client = thread::spawn(move || {
                    sleep(moment.saturating_sub(begin.elapsed()));
                    http::get_unix(&socket, "/_ping").map(|answer| (answer.status, answer.body))
                });
                (moment, client)
            })
            .collect();
        for (moment, client) in clients {
            let answer = client.join().expect("no panic");
            let answer = answer.unwrap_or_else(|e| panic!("{moment:?}: {e}\n{}", manager.log()));
            assert_eq!(answer, (200, "OK".to_owned()), "{moment:?}");
        }
    }
    wait_state(&manager, "inactive");
    println!("ended {} times in 30 rounds", manager.log().matches(ENDS).count());
    end(manager, &user);
}
