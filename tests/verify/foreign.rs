//! `verify` and daemons that are not its user's, or not rootless: it says what it found, and asks
//! for nothing else.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use test_support::*;

/// A daemon that answers `/info` with this, and notes what it is asked.
fn pretend(socket: &Path, info: &'static str) -> Arc<Mutex<Vec<String>>> {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let listener = UnixListener::bind(socket).expect("a socket");
    let notes = Arc::clone(&asked);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, notes) = (stream.expect("a client"), Arc::clone(&notes));
            thread::spawn(move || answer(stream, info, &notes));
        }
    });
    asked
}

fn answer(mut stream: UnixStream, info: &str, notes: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream.try_clone().expect("a copy")).lines();
    // Who only connects says nothing.
    let Some(Ok(first)) = lines.next() else { return };
    notes.lock().expect("no panic").push(first);
    // The head of the request is read to its end: a socket that is closed before is reset.
    lines.find(|line| line.as_ref().map_or(true, String::is_empty));
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", info.len());
    stream.write_all(format!("{head}{info}").as_bytes()).expect("it reads");
}

#[test]
fn a_daemon_that_is_rootful_podmans_or_another_users_is_left_alone() {
    let user = TestUser::new();
    let program = launcher::install_stripped(&user);
    const ROOTFUL: &str =
        r#"{"DockerRootDir":"/var/lib/docker","SecurityOptions":["name=seccomp"]}"#;
    const ROOTLESS: &str = r#"{"DockerRootDir":"/x","SecurityOptions":["name=rootless"]}"#;
    const PODMAN: &str =
        r#"{"DockerRootDir":"/x","BuildahVersion":"1.28","SecurityOptions":["name=rootless"]}"#;
    let cases = [
        ("rootful", ROOTFUL, user.uid, "is the socket of a dockerd that is not rootless", true),
        ("podman", PODMAN, user.uid, "is the socket of podman", true),
        (
            "other",
            r#"{"hello":1}"#,
            user.uid,
            "is the socket of a program that is no dockerd",
            true,
        ),
        ("root", ROOTLESS, 0, "belongs to uid 0, not to you", false),
    ];
    for (name, info, owner, says, is_asked) in cases {
        let socket: PathBuf = user.home.join(name);
        let asked = pretend(&socket, info);
        chown(&socket, Some(owner), Some(owner)).expect("chown");
        fs::set_permissions(&socket, Permissions::from_mode(0o666)).expect("open it");
        let mut command = user.brief_command(&program);
        command.arg("verify").env("DOCKER_HOST", format!("unix://{}", socket.display()));
        let told = Told::by(&mut command);
        assert_eq!(told.code, Some(3), "{name}: {told:?}");
        assert!(told.stderr.contains(says), "{name}: {told:?}");
        assert!(told.stderr.contains("nothing is tried there"), "{name}: {told:?}");
        let expected: &[&str] = if is_asked { &["GET /info HTTP/1.1"] } else { &[] };
        assert_eq!(*asked.lock().expect("no panic"), expected, "{name}");
    }
}
