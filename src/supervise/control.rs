//! What users ask of a supervisor that runs, at the socket in its directory: a request in a line, and
//! the answer in another when it is done. Requests are done one at a time.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::error::{Error, Exit};
use crate::supervise::snapshot::{DOCKERD, SUPERVISOR};
use crate::supervise::tasks::Sender;
use crate::supervise::{
    Event, MOMENT, State, Supervisor, Why, failed, newer_programs, read_status,
};

/// How long a request may take to arrive, and how many bytes it may have.
const ARRIVES: Duration = Duration::from_secs(5);
const REQUEST_MAX: u64 = 8192;

/// How long dockerd may take to be replaced, or the supervisor.
const IN_PLACE: Duration = Duration::from_secs(300);

/// The socket's name in the supervisor's directory.
pub const SOCKET: &str = "control";

/// What a refusal begins with.
const REFUSED: &str = "refused: ";

/// What a user can ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Replace dockerd in place.
    Restart,
    /// End everything in order and start it again.
    RestartAll,
    /// Put the program at this path in the supervisor's place.
    TakeOver(PathBuf),
}

/// A wish, and where the answer goes.
pub struct Request {
    wish: Wish,
    stream: UnixStream,
}

/// Answers in a line, for which a socket has room.
fn answer(stream: &UnixStream, said: &str) {
    if let Err(error) = stream.try_write(format!("{said}\n").as_bytes()) {
        debug!("a request is not answered: {error}");
    }
}

/// A request that is being done.
pub struct Begun {
    request: Request,
    /// How often dockerd had been replaced before, and everything restarted.
    before: (u32, u32),
}

impl Wish {
    fn line(&self) -> String {
        match self {
            Self::Restart => "restart".to_owned(),
            Self::RestartAll => "restart-all".to_owned(),
            Self::TakeOver(path) => format!("take-over {}", path.display()),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("restart", "") => Some(Self::Restart),
            ("restart-all", "") => Some(Self::RestartAll),
            ("take-over", path) if path.starts_with('/') => Some(Self::TakeOver(path.into())),
            _ => None,
        }
    }
}

/// Listens at `path`, in the place of what is there: the directory is ours alone. Returns what hands
/// requests over to `requests`.
pub fn listen(
    path: &Path,
    requests: Sender,
) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path)?;
    Ok(async move {
        loop {
            match listener.accept().await {
                // A request survives the socket that it came by.
                Ok((stream, _)) => drop(tokio::spawn(read(stream, requests.clone()))),
                Err(error) => return warn!("the control socket fails: {error}"),
            }
        }
    })
}

async fn read(mut stream: UnixStream, requests: Sender) {
    let mut line = String::new();
    let mut reading = tokio::io::BufReader::new((&mut stream).take(REQUEST_MAX));
    if !matches!(timeout(ARRIVES, reading.read_line(&mut line)).await, Ok(Ok(_))) {
        return debug!("a request did not arrive");
    }
    requests.send(move |it| match Wish::parse(line.trim_end()) {
        Some(wish) => it.requests.push_back(Request { wish, stream }),
        None => {
            answer(&stream, &format!("{REFUSED}unknown request `{}`", line.trim_end()));
        }
    });
}

impl Supervisor<'_> {
    /// Answers what is done, and begins what can be begun.
    pub(super) fn serve_requests(&mut self) {
        let counts = (self.machine.replaced, self.machine.restarts);
        let is_up = self.machine.state == State::Ready;
        if let Some(begun) = self.begun.take_if(|begun| is_up && begun.before != counts) {
            let done = match counts.1 == begun.before.1 {
                true if self.running.keep.live_restore => {
                    "dockerd was replaced; containers were not touched"
                }
                true => "dockerd was restarted",
                false => "rootless Docker was restarted",
            };
            answer(&begun.request.stream, done);
        }
        // A pause need not be waited for.
        let is_free = matches!(self.machine.state, State::Ready | State::Pausing | State::Waiting);
        if self.begun.is_some() || !is_free || !self.raised.is_empty() {
            return;
        }
        let Some(request) = self.requests.pop_front() else {
            return;
        };
        match self.begin(&request.wish) {
            Ok(event) => {
                self.raise(event);
                self.begun = Some(Begun { request, before: counts });
            }
            Err(error) => {
                let said = error.render().lines().collect::<Vec<_>>().join("; ");
                let said = said.strip_prefix("error: ").unwrap_or(&said);
                answer(&request.stream, &format!("{REFUSED}{said}"));
            }
        }
    }

    /// Returns what a wish means, unless it would end badly.
    fn begin(&mut self, wish: &Wish) -> Result<Event, Error> {
        match wish {
            Wish::Restart => self.try_daemon().map(|()| Event::Replace(Why::Asked)),
            Wish::RestartAll => Ok(Event::RestartAll),
            Wish::TakeOver(program) => Err(self.hand_over(program)),
        }
    }

    /// Refuses all requests that are still waiting.
    pub(super) fn disappoint(&mut self) {
        let begun = self.begun.take().map(|begun| begun.request);
        for request in self.requests.drain(..).chain(begun) {
            answer(&request.stream, &format!("{REFUSED}rootless Docker was stopped"));
        }
    }
}

/// Asks the supervisor whose directory is `run_dir`, and waits for its answer for at most `time`.
///
/// # Errors
/// Exit 3 if no supervisor runs, exit 1 if it refuses or does not answer in that time.
pub fn ask(run_dir: &Path, wish: &Wish, time: Duration) -> Result<String, Error> {
    let unanswered =
        |error| failed("the supervisor has not answered")(error).hint("dockerd-rootless status");
    let mut stream = net::UnixStream::connect(run_dir.join(SOCKET)).map_err(|error| {
        Error::new(Exit::NotRunning, "no supervisor of rootless Docker is running")
            .because(&error)
            .hint("systemctl --user start docker, or: dockerd-rootless")
    })?;
    stream
        .set_read_timeout(Some(time))
        .and_then(|()| writeln!(stream, "{}", wish.line()))
        .map_err(unanswered)?;
    let mut said = String::new();
    BufReader::new(stream).read_line(&mut said).map_err(unanswered)?;
    match said.trim_end().strip_prefix(REFUSED) {
        Some(why) => Err(Error::new(Exit::Failed, why.to_owned())),
        // The program that was asked is another by now, and has no such connection.
        None if said.is_empty() && matches!(wish, Wish::TakeOver(_)) => Ok(String::new()),
        None if said.is_empty() => Err(unanswered(io::ErrorKind::UnexpectedEof.into())),
        None => Ok(said.trim_end().to_owned()),
    }
}

/// Has the supervisor whose directory is `run_dir` replace dockerd, and itself first if its program on
/// disk has changed. Returns what was done.
///
/// # Errors
/// As [`ask`].
pub fn refresh(run_dir: &Path) -> Result<Vec<String>, Error> {
    let newer = || read_status(run_dir).map_or_else(Vec::new, |status| newer_programs(&status));
    let is_outdated = || newer().iter().any(|part| part == SUPERVISOR);
    let mut done = Vec::new();
    if is_outdated() {
        let failed = failed("this program cannot take over from the supervisor that runs");
        let own = std::env::current_exe().map_err(&failed)?;
        ask(run_dir, &Wish::TakeOver(own), IN_PLACE)?;
        let deadline = Instant::now() + IN_PLACE;
        while is_outdated() {
            if Instant::now() >= deadline {
                return Err(failed(io::ErrorKind::TimedOut.into()));
            }
            std::thread::sleep(MOMENT);
        }
        done.push("this version of dockerd-rootless has taken over".to_owned());
    }
    done.push(ask(run_dir, &Wish::Restart, IN_PLACE)?);
    let rest: Vec<String> = newer().into_iter().filter(|part| part != DOCKERD).collect();
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

    #[test]
    fn wishes_are_read_as_they_were_written() {
        for wish in
            [Wish::Restart, Wish::RestartAll, Wish::TakeOver("/usr/bin/dockerd rootless".into())]
        {
            assert_eq!(Wish::parse(&wish.line()), Some(wish));
        }
        for line in ["", "restart now", "take-over", "take-over relative", "RESTART"] {
            assert_eq!(Wish::parse(line), None, "{line}");
        }
    }
}
