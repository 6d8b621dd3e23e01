//! An authorization plugin: dockerd asks it about each request of a client before and after it does what was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};

use crate::command::run;
use crate::{Launch, Launcher, TestUser};

/// What the plugin says to requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    Allow,
    /// dockerd answers 403.
    Deny,
    /// The request waits for another verdict.
    Nothing,
}

/// The plugin; it allows everything when the value goes, and takes no more questions.
pub struct Authz {
    state: Arc<(Mutex<State>, Condvar)>,
    socket: PathBuf,
    listening: Option<JoinHandle<()>>,
}

struct State {
    verdict: Verdict,
    /// How many questions were asked since the last verdict.
    asked: u32,
    is_over: bool,
}

impl Authz {
    /// A plugin for daemons of `user`, which allows everything.
    pub fn start(user: &TestUser) -> Self {
        let socket = user.home.join("judge.sock");
        let listener = UnixListener::bind(&socket).expect("listen");
        run(Command::new("chmod").arg("0666").arg(&socket));
        let state = Arc::new((
            Mutex::new(State { verdict: Verdict::Allow, asked: 0, is_over: false }),
            Condvar::new(),
        ));
        let asked = Arc::clone(&state);
        let listening = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if lock(&asked).is_over {
                    return;
                }
                let asked = Arc::clone(&asked);
                thread::spawn(move || answer(&stream, &asked));
            }
        });
        Self { state, socket, listening: Some(listening) }
    }

    /// A launch whose dockerd asks the plugin.
    pub fn launch<'u>(&self, user: &'u TestUser, launcher: Launcher) -> Launch<'u> {
        Launch::new(user, launcher)
            .prepare(format!(
                "mount -t tmpfs tmpfs /etc/docker; mkdir /etc/docker/plugins; echo unix://{} >/etc/docker/plugins/judge.spec",
                self.socket.display()
            ))
            .args(["--authorization-plugin=judge"])
    }

    pub fn say(&self, verdict: Verdict) {
        let mut state = lock(&self.state);
        state.verdict = verdict;
        state.asked = 0;
        self.state.1.notify_all();
    }

    /// How many questions were asked since the last verdict.
    pub fn asked(&self) -> u32 {
        lock(&self.state).asked
    }
}

impl Drop for Authz {
    fn drop(&mut self) {
        lock(&self.state).is_over = true;
        self.say(Verdict::Allow);
        let _ = UnixStream::connect(&self.socket);
        if let Some(listening) = self.listening.take() {
            let _ = listening.join();
        }
    }
}

fn lock(state: &(Mutex<State>, Condvar)) -> std::sync::MutexGuard<'_, State> {
    state.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Answers one question.
fn answer(mut stream: &UnixStream, state: &(Mutex<State>, Condvar)) {
    let Some(path) = read_question(stream) else {
        return;
    };
    let body = match path.as_str() {
        "/Plugin.Activate" => r#"{"Implements": ["authz"]}"#,
        _ => {
            let mut state_now = lock(state);
            state_now.asked += 1;
            while state_now.verdict == Verdict::Nothing {
                state_now = state.1.wait(state_now).expect("no other thread panics");
            }
            match state_now.verdict {
                Verdict::Deny => r#"{"Allow": false, "Msg": "not today"}"#,
                _ => r#"{"Allow": true}"#,
            }
        }
    };
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.plugins.v1.1+json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
}

/// The path of a question, which is read to its end.
fn read_question(stream: &UnixStream) -> Option<String> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim().to_lowercase().split_once(':') {
            Some(("content-length", value)) => length = value.trim().parse().ok()?,
            Some(_) => {}
            None => break,
        }
    }
    reader.read_exact(&mut vec![0; length]).ok()?;
    Some(first.split(' ').nth(1)?.to_owned())
}
