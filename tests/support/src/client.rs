//! A client that asks the daemon again and again whether it is there.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::Duration;

/// Between two questions, and how long it may take until the client notices that it is to end.
const PAUSE: Duration = Duration::from_millis(10);

/// What became of the questions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Count {
    pub answered: u32,
    /// Nobody has taken the connection, or the answer was wrong.
    pub refused: u32,
    /// The connection was taken, and ended without an answer.
    pub cut: u32,
}

/// The client; it ends with the value. A question that waits for its answer then does not count.
pub struct Client {
    done: Arc<AtomicBool>,
    asking: Option<JoinHandle<Count>>,
}

enum Came {
    Answer,
    Refusal,
    Cut,
    Nothing,
}

impl Client {
    pub fn start(socket: PathBuf) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let is_done = Arc::clone(&done);
        let asking = thread::spawn(move || {
            let mut count = Count::default();
            while !is_done.load(Ordering::Relaxed) {
                match ask(&socket, &is_done) {
                    Came::Answer => count.answered += 1,
                    Came::Refusal => count.refused += 1,
                    Came::Cut => count.cut += 1,
                    Came::Nothing => {}
                }
                sleep(PAUSE);
            }
            count
        });
        Self { done, asking: Some(asking) }
    }

    /// Ends the client.
    pub fn count(mut self) -> Count {
        self.end().expect("it was not asked before")
    }

    fn end(&mut self) -> Option<Count> {
        self.done.store(true, Ordering::Relaxed);
        self.asking.take().map(|asking| asking.join().expect("the client"))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.end();
    }
}

/// One question, which waits for its answer as long as it takes.
fn ask(socket: &Path, is_done: &AtomicBool) -> Came {
    let Ok(mut stream) = UnixStream::connect(socket) else {
        return Came::Refusal;
    };
    stream.set_read_timeout(Some(PAUSE)).expect("a timeout");
    if stream.write_all(b"GET /_ping HTTP/1.0\r\nHost: localhost\r\n\r\n").is_err() {
        return Came::Cut;
    }
    let mut answer = Vec::new();
    loop {
        match stream.read_to_end(&mut answer) {
            Ok(_) if answer.is_empty() => return Came::Cut,
            Ok(_) if answer.starts_with(b"HTTP/1.0 200 ") => return Came::Answer,
            Ok(_) => return Came::Refusal,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if is_done.load(Ordering::Relaxed) {
                    return Came::Nothing;
                }
            }
            Err(_) => return Came::Cut,
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cut {
            0 => write!(out, "{}", self.refused),
            cut => write!(out, "{} ({cut} cut)", self.refused),
        }
    }
}
