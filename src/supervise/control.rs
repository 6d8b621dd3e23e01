//! What people ask of a supervisor that runs, at the socket in its directory: a word and what belongs
//! to it in a line, and the answer in another when it is done.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::debug;

use crate::error::{Error, Exit};
use crate::supervise::{news, read_status};

/// How long a request may take to arrive, and how many bytes it may have.
const ARRIVES: Duration = Duration::from_secs(5);
const REQUEST_MAX: u64 = 8192;

/// How long dockerd may take to be replaced, or the supervisor.
const IN_PLACE: Duration = Duration::from_secs(300);

/// The socket's name in the supervisor's directory.
pub const SOCKET: &str = "control";

/// The word in front of an answer that is none.
const REFUSED: &str = "refused: ";

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// dockerd is replaced in place.
    Restart,
    /// Everything ends in order and starts again.
    RestartAll,
    /// The program at this path takes the supervisor's place.
    TakeOver(PathBuf),
}

/// A wish, and who waits for the answer.
pub struct Request {
    /// What is wished.
    pub wish: Wish,
    /// Where the answer goes: what was done, or why it is not.
    pub answer: oneshot::Sender<Result<String, String>>,
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

/// Listens at `path`, in the place of what is there: the directory is ours alone.
///
/// # Errors
/// What the system says.
pub fn bind(path: &Path) -> io::Result<OwnedFd> {
    let _ = std::fs::remove_file(path);
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener.into())
}

/// Hands over what arrives at `listener`.
///
/// # Errors
/// What the system says.
pub async fn listen(listener: OwnedFd, requests: mpsc::UnboundedSender<Request>) -> io::Result<()> {
    let listener = UnixListener::from_std(std::os::unix::net::UnixListener::from(listener))?;
    loop {
        let (stream, _) = listener.accept().await?;
        let requests = requests.clone();
        tokio::spawn(async move {
            if let Err(error) = serve(stream, &requests).await {
                debug!("a request was not served: {error}");
            }
        });
    }
}

async fn serve(
    mut stream: UnixStream,
    requests: &mpsc::UnboundedSender<Request>,
) -> io::Result<()> {
    let (reading, mut writing) = stream.split();
    let mut line = String::new();
    let mut reading = tokio::io::BufReader::new(reading.take(REQUEST_MAX));
    timeout(ARRIVES, reading.read_line(&mut line)).await??;
    let said = match Wish::parse(line.trim_end()) {
        None => format!("{REFUSED}`{}` is no request", line.trim_end()),
        Some(wish) => {
            let (answer, answered) = oneshot::channel();
            let _ = requests.send(Request { wish, answer });
            match answered.await {
                Ok(Ok(done)) => done,
                Ok(Err(why)) => format!("{REFUSED}{why}"),
                Err(_) => format!("{REFUSED}the supervisor ended"),
            }
        }
    };
    writing.write_all(format!("{said}\n").as_bytes()).await
}

/// Asks the supervisor whose directory is `run_dir`, and waits for its answer for at most `time`.
///
/// # Errors
/// Exit 3 if no supervisor runs, exit 1 if it refuses or does not answer in that time.
pub fn ask(run_dir: &Path, wish: &Wish, time: Duration) -> Result<String, Error> {
    let failed = |error: io::Error| {
        Error::new(Exit::Failed, "the supervisor has not answered")
            .because(&error)
            .hint("dockerd-rootless status")
    };
    let mut stream =
        std::os::unix::net::UnixStream::connect(run_dir.join(SOCKET)).map_err(|error| {
            Error::new(Exit::NotRunning, "no supervisor of rootless Docker is running")
                .because(&error)
                .hint("systemctl --user start docker, or: dockerd-rootless")
        })?;
    stream
        .set_read_timeout(Some(time))
        .and_then(|()| writeln!(stream, "{}", wish.line()))
        .map_err(failed)?;
    let mut said = String::new();
    BufReader::new(stream).read_line(&mut said).map_err(failed)?;
    match said.trim_end().strip_prefix(REFUSED) {
        Some(why) => Err(Error::new(Exit::Failed, why.to_owned())),
        // The program that was asked is another by now, and has no such connection.
        None if said.is_empty() && matches!(wish, Wish::TakeOver(_)) => Ok(String::new()),
        None if said.is_empty() => Err(failed(io::ErrorKind::UnexpectedEof.into())),
        None => Ok(said.trim_end().to_owned()),
    }
}

/// Has the supervisor whose directory is `run_dir` replace dockerd, and itself first if its program is
/// another on disk. Returns what was done.
///
/// # Errors
/// As [`ask`].
pub fn refresh(run_dir: &Path) -> Result<Vec<String>, Error> {
    let newer =
        || read_status(run_dir).map_or_else(Vec::new, |status| news::newer_programs(&status));
    let is_newer = |part: &str| newer().iter().any(|newer| newer == part);
    let mut done = Vec::new();
    if is_newer(news::SUPERVISOR) {
        let failed = |why: &dyn std::error::Error| {
            Error::new(Exit::Failed, "this program cannot take over from the supervisor that runs")
                .because(why)
        };
        let own = std::env::current_exe().map_err(|error| failed(&error))?;
        ask(run_dir, &Wish::TakeOver(own), IN_PLACE)?;
        let deadline = Instant::now() + IN_PLACE;
        while is_newer(news::SUPERVISOR) {
            if Instant::now() >= deadline {
                return Err(failed(&io::Error::from(io::ErrorKind::TimedOut)));
            }
            std::thread::sleep(crate::supervise::MOMENT);
        }
        done.push("this version of dockerd-rootless has taken over".to_owned());
    }
    done.push(ask(run_dir, &Wish::Restart, IN_PLACE)?);
    let rest: Vec<String> = newer().into_iter().filter(|part| part != news::DOCKERD).collect();
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
