//! The socket outlives the daemon, is nobody else's, and is nobody's but the user's.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use super::{kill_dockerd, run, run_dir, status, status_command, wait_known, wait_other_dockerd};
use test_support::*;

#[test]
fn who_connects_while_the_daemon_is_dead_is_answered_by_the_next() {
    let user = TestUser::new();
    let mut daemon = run(&user).ready();
    let socket = daemon.docker.socket();
    let inode = fs::metadata(&socket).expect("the socket").ino();
    for restarts in 1..=3 {
        let old = kill_dockerd(&user);
        let answer = http::get_unix(&socket, "/_ping").expect("an answer");
        assert_eq!((answer.status, answer.body.as_str()), (200, "OK"));
        let status = wait_other_dockerd(&user, old);
        assert_eq!(status["replaced"], restarts);
        assert_eq!(status["restarts"], 0);
        assert_eq!(status["last_failure"], "dockerd was ended by SIGKILL");
    }
    assert_eq!(fs::metadata(&socket).expect("the socket").ino(), inode);
    assert_eq!(daemon.stop().code(), Some(0));
    assert_nothing_left(&user);
}

// --- Under load ---

/// Between two clients.
const INTERVAL: Duration = Duration::from_millis(10);

/// The longest pause before a restart, and a start.
const ANSWERED: Duration = Duration::from_secs(90);

#[test]
fn under_load_no_connection_is_refused_and_none_is_answered_wrongly() {
    kill_under_load(4);
}

/// The pauses between restarts grow: the tenth is half a minute.
#[test]
#[ignore = "slow"]
fn under_load_the_daemon_may_be_killed_ten_times() {
    kill_under_load(10);
}

/// What became of one request.
#[derive(Debug, PartialEq)]
enum Fate {
    Answered,
    /// The daemon that had it was killed.
    Cut,
    Refused(String),
    Wrong(String),
}

fn kill_under_load(kills: u32) {
    let user = TestUser::new();
    let mut daemon = run(&user).ready();
    let descriptors = || {
        let dir = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("the supervisor");
        // One may be closed meanwhile.
        let mut all: Vec<_> =
            dir.flatten().filter_map(|entry| fs::read_link(entry.path()).ok()).collect();
        all.sort();
        all
    };
    wait_known(&user);
    let before = descriptors();
    let load = Load::start(daemon.docker.socket());
    for _ in 0..kills {
        let old = kill_dockerd(&user);
        wait_other_dockerd(&user, old);
    }
    let fates = load.stop();
    let count = |fate: fn(&Fate) -> bool| fates.iter().filter(|one| fate(one)).count();
    let answered = count(|fate| *fate == Fate::Answered);
    let cut = count(|fate| *fate == Fate::Cut);
    println!("{kills} kills: {} requests, {answered} answered, {cut} cut off", fates.len());
    let bad: Vec<_> =
        fates.iter().filter(|fate| matches!(fate, Fate::Refused(_) | Fate::Wrong(_))).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(answered > cut, "{answered} answered, {cut} cut off");
    wait_known(&user);
    let mut after = descriptors();
    wait::poll(wait::PATIENCE, || {
        after = descriptors();
        (after.len() <= before.len()).then_some(())
    })
    .unwrap_or_else(|| panic!("descriptors: {before:#?}, later {after:#?}"));
    assert_eq!(daemon.stop().code(), Some(0));
    assert_nothing_left(&user);
}

/// A hundred clients a second.
struct Load {
    goes_on: Arc<AtomicBool>,
    clock: JoinHandle<Vec<JoinHandle<Fate>>>,
}

impl Load {
    fn start(socket: PathBuf) -> Self {
        let goes_on = Arc::new(AtomicBool::new(true));
        let continues = goes_on.clone();
        let clock = thread::spawn(move || {
            let begin = Instant::now();
            let mut clients = Vec::new();
            while continues.load(Ordering::Relaxed) {
                let socket = socket.clone();
                let client = thread::Builder::new()
                    .stack_size(128 * 1024)
                    .spawn(move || ask(&socket))
                    .expect("start a thread");
                clients.push(client);
                let next = INTERVAL * u32::try_from(clients.len()).expect("few");
                sleep(next.saturating_sub(begin.elapsed()));
            }
            clients
        });
        Self { goes_on, clock }
    }

    fn stop(self) -> Vec<Fate> {
        self.goes_on.store(false, Ordering::Relaxed);
        let clients = self.clock.join().expect("no panic");
        let fates = clients.into_iter().map(|client| client.join().expect("no panic"));
        fates.collect()
    }
}

/// One request on a connection of its own.
fn ask(socket: &Path) -> Fate {
    let mut stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error) => return Fate::Refused(error.to_string()),
    };
    stream.set_read_timeout(Some(ANSWERED)).expect("a timeout");
    let mut text = String::new();
    let asked = stream
        .write_all(b"GET /_ping HTTP/1.0\r\nHost: localhost\r\n\r\n")
        .and_then(|()| stream.read_to_string(&mut text));
    match asked {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Fate::Wrong(format!("not answered in {ANSWERED:?}"))
        }
        _ if text.starts_with("HTTP/1.0 200 OK\r\n") && text.ends_with("\r\n\r\nOK") => {
            Fate::Answered
        }
        _ if text.is_empty() => Fate::Cut,
        _ => Fate::Wrong(text),
    }
}

// --- Whose it is ---

#[test]
fn the_socket_and_our_directory_are_the_users_alone() {
    let user = TestUser::new();
    let mut daemon = run(&user).ready();
    let mode = |path: &Path| {
        let found = fs::metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(found.uid(), user.uid, "{}", path.display());
        assert_eq!(found.gid(), user.uid, "{}", path.display());
        found.permissions().mode() & 0o7777
    };
    assert_eq!(mode(&daemon.docker.socket()) & !0o600, 0);
    assert_eq!(mode(&user.runtime_dir), 0o700);
    assert_eq!(mode(&run_dir(&user)), 0o700);
    assert_eq!(status(&user).1["socket_of"], "supervisor");
    assert_eq!(daemon.stop().code(), Some(0));
    assert_nothing_left(&user);
}

#[test]
fn a_host_that_the_user_names_is_dockerds_own() {
    let user = TestUser::new();
    let file = user.home.join(".config/docker/daemon.json");
    let own = user.runtime_dir.join("own.sock");
    let url = format!("unix://{}", own.display());
    let by_words = run(&user).args(["-H", &url]);
    for launch in [by_words, run(&user)] {
        let mut daemon = launch.start();
        daemon.wait_ready_at(&own);
        let waited = status_command(&user, "--wait=30").output();
        assert!(waited.expect("run status").status.success());
        assert_eq!(status(&user).1["socket_of"], "dockerd");
        assert!(!daemon.docker.socket().exists());

        let old = kill_dockerd(&user);
        wait_other_dockerd(&user, old);
        daemon.wait_ready_at(&own);
        assert_eq!(daemon.stop().code(), Some(0));
        assert_nothing_left(&user);
        user.write(&file, format!(r#"{{"hosts": ["{url}"]}}"#));
    }
}

#[test]
fn a_socket_behind_an_absolute_link_is_found_in_the_namespace() {
    let user = TestUser::new();
    // `/var/run` leads to `/run`, of which the namespace has its own.
    let mut daemon = run(&user).args(["-H", "unix:///var/run/docker.sock"]).start();
    let waited = status_command(&user, "--wait=30").output();
    assert!(waited.expect("run status").status.success(), "{}", daemon.log());
    assert_eq!(daemon.stop().code(), Some(0));
    assert_nothing_left(&user);
}

#[test]
fn what_is_in_the_sockets_place_and_is_none_is_refused_and_untouched() {
    let user = TestUser::new();
    let socket = Docker(&user).socket();
    let precious = user.home.join("precious");
    user.write(&precious, "precious");
    let assert_refused = |what: &str| {
        let (code, message) = run(&user).refusal();
        assert_eq!(code, Some(1), "{what}: {message}");
        let path = socket.display().to_string();
        assert!(message.contains(&path) && message.contains("hint: "), "{what}: {message}");
    };

    user.write(&socket, "precious");
    assert_refused("a file");
    assert_eq!(fs::read_to_string(&socket).expect("the file"), "precious");
    fs::remove_file(&socket).expect("remove the file");

    user.make_dir(&socket);
    assert_refused("a directory");
    assert!(socket.is_dir());
    fs::remove_dir(&socket).expect("remove the directory");

    symlink(&precious, &socket).expect("make a link");
    assert_refused("a link");
    assert_eq!(fs::read_link(&socket).expect("the link"), precious);
    assert_eq!(fs::read_to_string(&precious).expect("the file"), "precious");
    fs::remove_file(&socket).expect("remove the link");
    assert_nothing_left(&user);
}

#[test]
fn the_socket_of_a_daemon_that_lives_is_refused_and_a_stale_one_is_replaced() {
    let user = TestUser::new();
    let socket = Docker(&user).socket();
    let listener = UnixListener::bind(&socket).expect("bind");
    std::os::unix::fs::chown(&socket, Some(user.uid), Some(user.uid)).expect("chown");
    let inode = fs::metadata(&socket).expect("the socket").ino();
    let (code, message) = run(&user).refusal();
    assert_eq!(code, Some(5), "{message}");
    assert!(message.contains(&socket.display().to_string()), "{message}");
    assert_eq!(fs::metadata(&socket).expect("the socket").ino(), inode);
    listener.set_nonblocking(true).expect("not to wait");
    listener.accept().expect("the question whether somebody listens");
    UnixStream::connect(&socket).expect("somebody listens");

    drop(listener);
    let mut daemon = run(&user).ready();
    assert_eq!(daemon.stop().code(), Some(0));
    assert_nothing_left(&user);
}

/// `--exec` leaves nobody who holds our lock.
#[test]
fn a_daemon_that_exec_has_started_is_refused_and_untouched() {
    let user = TestUser::new();
    let mut first = Launch::new(&user, Launcher::RunExec).ready();
    let (code, message) = run(&user).refusal();
    assert_eq!(code, Some(5), "{message}");
    assert!(message.contains(&first.pid().to_string()), "{message}");
    assert!(first.docker.answers());
    assert!(first.ended().is_none());
    first.stop();
    assert_nothing_left(&user);
}
