//! What users ask of a supervisor that runs, at the socket in its directory: a request in a line, and
//! the answer in another when it is done. Requests are done one at a time.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt};
use tokio::net::UnixListener;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::error::{Error, Exit};
use crate::supervise::snapshot::{DOCKERD, SUPERVISOR};
use crate::supervise::tasks::Sender;
use crate::supervise::{
    Event, MOMENT, State, Supervisor, Why, failed, newer_programs, read_status, run_dir,
};
use crate::sys::processes;

/// How long a request may take to arrive, and how many bytes it may have.
const ARRIVES: Duration = Duration::from_secs(5);
const REQUEST_MAX: u64 = 8192;

/// How long dockerd may take to be replaced, or the supervisor; and everything, with its containers.
const IN_PLACE: Duration = Duration::from_secs(300);
const ALL: Duration = Duration::from_secs(3600);

/// How long a supervisor that was taken over may take to listen again.
const TAKES_OVER: Duration = Duration::from_secs(10);

/// What a refusal begins with.
const REFUSED: &str = "refused: ";

/// Answers in a line, for which a socket has room.
pub(super) fn answer(mut stream: &UnixStream, said: &str) {
    if let Err(error) = stream.write_all(format!("{said}\n").as_bytes()) {
        debug!("a request is not answered: {error}");
    }
}

/// Receives a request, which its sender writes as soon as it has connected.
async fn receive(mut stream: tokio::net::UnixStream, requests: Sender) {
    let mut line = String::new();
    let mut reading = tokio::io::BufReader::new((&mut stream).take(REQUEST_MAX));
    match timeout(ARRIVES, reading.read_line(&mut line)).await {
        Ok(Ok(_)) if let Ok(stream) = stream.into_std() => {
            requests.send(move |it| it.requests.push_back((line, stream)));
        }
        other => debug!("a request did not arrive: {other:?}"),
    }
}

impl Supervisor<'_> {
    /// Receives requests, in the place of what is there: the directory is ours alone.
    pub(super) fn receive_requests(&mut self) -> io::Result<()> {
        let path = self.task.run_dir.control();
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(path)?;
        let sender = self.tasks.sender();
        self.tasks.spawn(async move {
            loop {
                match listener.accept().await {
                    // A request survives the socket that it came by.
                    Ok((stream, _)) => drop(tokio::spawn(receive(stream, sender.clone()))),
                    Err(error) => return warn!("the control socket fails: {error}"),
                }
            }
        });
        Ok(())
    }

    /// Answers what is done, and begins what can be begun.
    pub(super) fn serve_requests(&mut self) {
        let counts = (self.machine.replaced, self.machine.restarts);
        let is_up = self.machine.state == State::Ready;
        if let Some((stream, before)) = self.begun.take_if(|(_, before)| is_up && *before != counts)
        {
            let done = match counts.1 == before.1 {
                true if self.running.keep.live_restore => {
                    "dockerd was replaced; containers were not touched"
                }
                true => "dockerd was restarted",
                false => "rootless Docker was restarted",
            };
            answer(&stream, done);
        }
        // A pause need not be waited for.
        let is_free = matches!(self.machine.state, State::Ready | State::Pausing | State::Waiting);
        if self.begun.is_some() || !is_free {
            return;
        }
        let Some((line, stream)) = self.requests.pop_front() else { return };
        match self.begin(line.trim_end(), &stream) {
            Ok(event) => {
                self.raise(event);
                self.begun = Some((stream, counts));
            }
            Err(error) => {
                let said = error.render().trim_end().replace('\n', "; ");
                let said = said.strip_prefix("error: ").unwrap_or(&said);
                answer(&stream, &format!("{REFUSED}{said}"));
            }
        }
    }

    /// Returns what a request means, unless it would end badly.
    fn begin(&mut self, line: &str, stream: &UnixStream) -> Result<Event, Error> {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("restart", "") => self.try_daemon().map(|()| Event::Replace(Why::Asked)),
            ("restart-all", "") if self.machine.state == State::Pausing => {
                Err(Error::new(Exit::Failed, "only a dockerd that is up can stop its containers")
                    .hint("wait for it: dockerd-rootless status --wait=60"))
            }
            ("restart-all", "") => self.try_all().map(|()| Event::RestartAll(Why::Asked)),
            ("take-over", path) if path.starts_with('/') => {
                Err(self.hand_over(Path::new(path), stream))
            }
            _ => Err(Error::new(Exit::Usage, format!("unknown request `{line}`"))),
        }
    }

    /// Refuses all requests that are still waiting.
    pub(super) fn disappoint(&mut self) {
        let begun = self.begun.take().map(|(stream, _)| stream);
        let waiting = self.requests.drain(..).map(|(_, stream)| stream);
        for stream in waiting.chain(begun) {
            answer(&stream, &format!("{REFUSED}rootless Docker was stopped"));
        }
    }
}

/// Asks the supervisor whose directory is `run_dir`, and waits for its answer for at most `time`: exit 3
/// if none runs. What a take-over has lost was never begun, and is asked again.
fn ask(run_dir: &Path, line: &str, time: Duration) -> Result<String, Error> {
    let mut until = None;
    loop {
        let asked = UnixStream::connect(run_dir.join(run_dir::CONTROL));
        let is_connected = asked.is_ok();
        let error = match asked.and_then(|stream| exchange(stream, line, time)) {
            Ok(said) => {
                return match said.trim_end().strip_prefix(REFUSED) {
                    Some(why) => Err(Error::new(Exit::Failed, why)),
                    None => Ok(said.trim_end().to_owned()),
                };
            }
            Err(error) => error,
        };
        let until = *until.get_or_insert_with(|| Instant::now() + TAKES_OVER);
        if is_lost(&error) && Instant::now() < until && run_dir::is_locked(run_dir) {
            thread::sleep(MOMENT);
            continue;
        }
        return Err(match is_connected {
            false => Error::new(Exit::NotRunning, "no supervisor of rootless Docker is running")
                .because(&error)
                .hint("systemctl --user start docker, or: dockerd-rootless"),
            true => {
                failed("the supervisor has not answered")(error).hint("dockerd-rootless status")
            }
        });
    }
}

fn exchange(mut stream: UnixStream, line: &str, time: Duration) -> io::Result<String> {
    stream.set_read_timeout(Some(time))?;
    writeln!(stream, "{line}")?;
    let mut said = String::new();
    match BufReader::new(stream).read_line(&mut said)? {
        0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it has ended without an answer")),
        _ => Ok(said),
    }
}

fn is_lost(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotFound, UnexpectedEof};
    matches!(
        error.kind(),
        BrokenPipe | ConnectionRefused | ConnectionReset | NotFound | UnexpectedEof
    )
}

/// Has the supervisor whose directory is `run_dir` stop everything in order and start it again. Returns
/// what was done.
pub fn restart_all(run_dir: &Path) -> Result<String, Error> {
    ask(run_dir, "restart-all", ALL)
}

/// Returns the path that the supervisor was started by. It may be a link that leads to another
/// version later.
fn started_by(run_dir: &Path) -> Option<PathBuf> {
    let words = processes::words(read_status(run_dir)?.supervisor);
    words.into_iter().next().map(PathBuf::from)
}

/// Has the supervisor whose directory is `run_dir` replace dockerd, and itself first if its program on
/// disk has changed. Returns what was done.
pub fn refresh(run_dir: &Path) -> Result<Vec<String>, Error> {
    let newer = || read_status(run_dir).map_or_else(Vec::new, |status| newer_programs(&status));
    let mut done = Vec::new();
    if newer().contains(&SUPERVISOR) {
        let own = std::env::current_exe().map_err(failed("cannot find this program"))?;
        let is_own = |name: &PathBuf| name.canonicalize().is_ok_and(|it| it == own);
        // A relative name has its meaning only in the directory of its shell.
        let program = started_by(run_dir).filter(|name| name.is_absolute() && is_own(name));
        let program = program.unwrap_or(own);
        done.push(ask(run_dir, &format!("take-over {}", program.display()), IN_PLACE)?);
    }
    done.push(ask(run_dir, "restart", IN_PLACE)?);
    let rest: Vec<_> = newer().into_iter().filter(|part| *part != DOCKERD).collect();
    if !rest.is_empty() {
        done.push(format!(
            "{} on disk is newer than what runs; to use it, and stop containers for it: dockerd-rootless restart --all",
            rest.join(" and ")
        ));
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::lock::Lock;
    use std::os::unix::net::UnixListener;

    #[test]
    fn what_a_take_over_has_lost_is_asked_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        let listener = UnixListener::bind(path.join(run_dir::CONTROL)).expect("a socket");
        let server = thread::spawn(move || {
            // Two supervisors go without an answer, the second when it has read the request.
            drop(listener.accept().expect("a client"));
            for said in ["", "done\n", "", "refused: no\n", ""] {
                let (stream, _) = listener.accept().expect("a client");
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).expect("a request");
                assert_eq!(line, "restart\n");
                (&stream).write_all(said.as_bytes()).expect("it waits");
            }
        });
        let lock = Lock::take(&path.join("lock")).expect("it is free");
        let ask = || ask(path, "restart", Duration::from_secs(60));
        assert_eq!(ask().expect("an answer"), "done");
        assert!(ask().expect_err("a refusal").render().contains("no"));
        drop(lock);
        assert_eq!(ask().expect_err("it is gone").exit(), Exit::Failed);
        server.join().expect("no panic");
        assert_eq!(ask().expect_err("none runs").exit(), Exit::NotRunning);
    }
}
