//! What the service manager above is told.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use super::{kill_dockerd, pid_of, run, status, wait_other_dockerd};
use test_support::*;

/// A service manager's end of sd_notify(3).
struct Manager(UnixDatagram);

impl Manager {
    fn new(user: &TestUser) -> Self {
        let path = Self::path(user);
        let socket = UnixDatagram::bind(&path).expect("bind");
        fs::set_permissions(path, fs::Permissions::from_mode(0o666)).expect("open the socket");
        Self(socket)
    }

    fn path(user: &TestUser) -> std::path::PathBuf {
        user.home.join("manager.sock")
    }

    /// The next message; `None` if there is none for now.
    fn next(&self, time: Duration) -> Option<String> {
        let mut buffer = [0; 4096];
        self.0.set_read_timeout(Some(time)).expect("a timeout");
        match self.0.recv(&mut buffer) {
            Ok(length) => Some(String::from_utf8_lossy(&buffer[..length]).into_owned()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => None,
            Err(e) => panic!("receive: {e}"),
        }
    }

    /// Waits for a message with the line `wanted`, and returns all until then.
    fn wait(&self, wanted: &str) -> Vec<String> {
        let deadline = Instant::now() + wait::PATIENCE;
        let mut messages = Vec::new();
        while let Some(message) =
            self.next(deadline.saturating_duration_since(Instant::now()).max(MOMENT))
        {
            let is_it = message.lines().any(|line| line.starts_with(wanted));
            messages.push(message);
            if is_it {
                return messages;
            }
        }
        panic!("waited in vain for {wanted}: {messages:#?}")
    }
}

/// The shortest time that a socket can be told to wait.
const MOMENT: Duration = Duration::from_millis(1);

#[test]
fn a_manager_is_told_when_the_daemon_is_ready_that_it_is_well_and_when_it_stops() {
    let user = TestUser::new();
    let manager = Manager::new(&user);
    let mut daemon = run(&user)
        .env("NOTIFY_SOCKET", Manager::path(&user))
        .env("WATCHDOG_USEC", "4000000")
        .start();
    let before = manager.wait("READY=1");
    let told = status(&user).1;
    assert!(daemon.docker.answers(), "{before:#?}");
    // dockerd and everything that it needs is there by then.
    assert!(pid_of(&told, "dockerd").is_some(), "{told}");
    assert!(before.iter().any(|message| message.contains("STATUS=")), "{before:#?}");
    // The unit's own limit does not know `supervise.start-timeout`, which is 60 s.
    assert!(
        before.iter().any(|message| message.contains("EXTEND_TIMEOUT_USEC=90000000")),
        "{before:#?}"
    );

    // The watchdog guards us, and hears of us twice in its time.
    for _ in 0..4 {
        manager.wait("WATCHDOG=1");
    }

    let old = kill_dockerd(&user);
    let died = manager.wait("STATUS=dockerd was ended by SIGKILL");
    assert!(!died.iter().any(|message| message.contains("READY=1")), "{died:#?}");
    manager.wait("READY=1");
    wait_other_dockerd(&user, old);

    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    manager.wait("STOPPING=1");
    assert_eq!(daemon.wait_exit().code(), Some(0));
    assert_nothing_left(&user);
}

#[test]
fn a_unit_is_active_when_the_daemon_answers_and_stays_so_when_it_is_killed() {
    let user = TestUser::new();
    let manager = UserManager::start(&user);
    let docker = Docker(&user);
    manager.write_unit(
        "docker.service",
        &format!(
            "[Service]\nExecStart={}\nExecReload=/bin/kill -s HUP $MAINPID\nType=notify\nNotifyAccess=main\n\
             KillMode=mixed\nWatchdogSec=4\nEnvironment=PATH={}\n",
            Launcher::Run.install(&user).display(),
            user::PATH
        ),
    );
    let property = |name| manager.property("docker.service", name);
    manager.systemctl(&["start", "docker.service"]);
    assert_eq!(property("ActiveState"), "active");
    assert!(docker.answers());
    assert_eq!(property("StatusText"), "rootless Docker is ready");
    let main = property("MainPID");

    for _ in 0..2 {
        let old = kill_dockerd(&user);
        assert_eq!(property("ActiveState"), "active");
        let answer = http::get_unix(&docker.socket(), "/_ping")
            .expect("the socket waits for the next daemon");
        assert_eq!((answer.status, answer.body.as_str()), (200, "OK"));
        wait_other_dockerd(&user, old);
    }
    // The watchdog is fed.
    for _ in 0..3 {
        let last = property("WatchdogTimestampMonotonic");
        wait::until("the watchdog hears of us again", || {
            (property("WatchdogTimestampMonotonic") != last).then_some(())
        });
    }
    assert_eq!(property("ActiveState"), "active");
    assert_eq!(property("MainPID"), main);
    assert_eq!(property("NRestarts"), "0");

    manager.systemctl(&["stop", "docker.service"]);
    assert_eq!(property("Result"), "success");
    manager.stop();
    assert_nothing_left(&user);
}
