//! Asks a daemon through its API: what `docker` asks, without that program.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::verify::probe::plain;

/// How many answers may be late before nothing more is asked: whatever hangs, a run has an end.
pub const LATES: u32 = 2;

/// What the daemon, or the way to it, refused.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What was asked, such as `start the container`.
    pub asked: String,
    /// The daemon's own words.
    pub said: String,
    pub fault: Fault,
}

/// How an answer fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The daemon said no.
    Refused,
    /// Nothing is there.
    Missing,
    /// It did not come in time.
    Late,
    /// It did not come at all.
    Lost,
}

impl Failure {
    /// Reports what this host, not the daemon, does not do.
    pub fn own(asked: &str, error: &io::Error) -> Self {
        Self { asked: asked.to_owned(), said: plain(error), fault: Fault::Lost }
    }
}

/// A daemon.
#[derive(Clone)]
pub struct Engine {
    socket: PathBuf,
    /// How long one answer may take.
    patience: Duration,
    /// Whether to ask no more.
    stops: watch::Sender<bool>,
    /// How many answers did not come in time.
    lates: Arc<AtomicU32>,
}

/// How a container ended, and what it printed.
pub struct Ran {
    pub code: i64,
    pub stdout: String,
    pub stderr: String,
}

impl Engine {
    /// Names the daemon that listens at `socket`.
    pub fn new(socket: &Path, patience: Duration) -> Self {
        let (stops, lates) = (watch::Sender::new(false), Arc::default());
        Self { socket: socket.to_owned(), patience, stops, lates }
    }

    /// Ends what only waits and reads, and refuses all that is asked from now on. What the daemon
    /// makes at the moment is made to the end, or it would appear when all else is removed.
    pub fn stop(&self) {
        self.stops.send_replace(true);
    }

    pub fn is_stopped(&self) -> bool {
        *self.stops.borrow()
    }

    /// Returns how many answers did not come in time.
    pub fn lates(&self) -> u32 {
        self.lates.load(Ordering::Relaxed)
    }

    /// Notes that one more answer did not come in time.
    pub fn note_late(&self) {
        self.lates.fetch_add(1, Ordering::Relaxed);
    }

    /// Gets `path`, such as `/info`.
    pub async fn get(&self, asked: &str, path: &str) -> Result<Value, Failure> {
        let bytes = self.send(asked, Method::GET, path, None, Bytes::new()).await?;
        Ok(serde_json::from_slice(&bytes).unwrap_or_default())
    }

    /// Posts `body` to `path`.
    pub async fn post(&self, asked: &str, path: &str, body: &Value) -> Result<Value, Failure> {
        let kind = Some(("Content-Type", "application/json"));
        let bytes = self.send(asked, Method::POST, path, kind, body.to_string().into()).await?;
        Ok(serde_json::from_slice(&bytes).unwrap_or_default())
    }

    /// Deletes `path`. What is gone already is no failure.
    pub async fn delete(&self, asked: &str, path: &str) -> Result<(), Failure> {
        match self.send(asked, Method::DELETE, path, None, Bytes::new()).await {
            Ok(_) | Err(Failure { fault: Fault::Missing, .. }) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// Loads an archive of images.
    pub async fn load(&self, archive: Vec<u8>) -> Result<(), Failure> {
        let kind = Some(("Content-Type", "application/x-tar"));
        let path = "/images/load?quiet=1";
        self.send("load the image", Method::POST, path, kind, archive.into()).await.map(drop)
    }

    /// Pulls `image`, which names a tag or a digest.
    pub async fn pull(&self, image: &str) -> Result<(), Failure> {
        let path = format!("/images/create?fromImage={image}");
        self.post(&format!("pull `{image}`"), &path, &json!({})).await.map(drop)
    }

    /// Pushes `repository:tag`. Daemons want credentials, be they empty.
    pub async fn push(&self, repository: &str, tag: &str) -> Result<(), Failure> {
        let path = format!("/images/{repository}/push?tag={tag}");
        let nobody = Some(("X-Registry-Auth", "e30="));
        let asked = format!("push `{repository}:{tag}`");
        self.send(&asked, Method::POST, &path, nobody, Bytes::new()).await.map(drop)
    }

    /// Gives an image another name.
    pub async fn tag(&self, image: &str, repository: &str, tag: &str) -> Result<(), Failure> {
        let path = format!("/images/{image}/tag?repo={repository}&tag={tag}");
        self.post(&format!("tag `{image}`"), &path, &json!({})).await.map(drop)
    }

    /// Creates and starts a container, waits until it has ended, and reads what it printed.
    pub async fn run(&self, name: &str, spec: &Value) -> Result<Ran, Failure> {
        let id = self.start(name, spec).await?;
        let path = format!("/containers/{id}/wait");
        let waited = self.post("wait for a container", &path, &json!({})).await?;
        let (stdout, stderr) = self.logs(&id).await?;
        Ok(Ran { code: waited["StatusCode"].as_i64().unwrap_or(-1), stdout, stderr })
    }

    /// Creates and starts a container, and returns its ID.
    pub async fn start(&self, name: &str, spec: &Value) -> Result<String, Failure> {
        let path = format!("/containers/create?name={name}");
        let created = self.post("create a container", &path, spec).await?;
        let id = created["Id"].as_str().unwrap_or(name).to_owned();
        let path = format!("/containers/{id}/start");
        self.post("start a container", &path, &json!({})).await?;
        Ok(id)
    }

    /// Inspects a container.
    pub async fn inspect(&self, id: &str) -> Result<Value, Failure> {
        self.get("inspect the container", &format!("/containers/{id}/json")).await
    }

    /// Reads what a container has printed on its two outputs.
    pub async fn logs(&self, id: &str) -> Result<(String, String), Failure> {
        let path = format!("/containers/{id}/logs?stdout=1&stderr=1");
        let asked = "read the container's log";
        self.send(asked, Method::GET, &path, None, Bytes::new()).await.map(|bytes| outputs(&bytes))
    }

    async fn send(
        &self,
        asked: &str,
        method: Method,
        path: &str,
        header: Option<(&str, &str)>,
        body: Bytes,
    ) -> Result<Bytes, Failure> {
        let request = Request::builder().method(&method).uri(path).header("Host", "docker");
        let request =
            header.into_iter().fold(request, |all, (name, value)| all.header(name, value));
        let failure = |said, fault| Failure { asked: asked.to_owned(), said, fault };
        let request = request.body(Full::new(body));
        let request = request.map_err(|error| failure(error.to_string(), Fault::Lost))?;
        let only_waits = method == Method::GET || path.ends_with("/wait");
        if self.lates() >= LATES {
            return Err(failure("dockerd was late before".to_owned(), Fault::Late));
        }
        let mut stops = self.stops.subscribe();
        let answered = tokio::select! {
            biased;
            _ = stops.wait_for(|stops| *stops), if only_waits || self.is_stopped() => {
                return Err(failure("it was interrupted".to_owned(), Fault::Lost));
            }
            answered = timeout(self.patience, self.exchange(request)) => answered,
        };
        match answered {
            Ok(Ok((status, body))) if status.is_success() => match refusal(&body) {
                Some(said) if method == Method::POST => Err(failure(said, Fault::Refused)),
                _ => Ok(body),
            },
            Ok(Ok((StatusCode::NOT_FOUND, body))) => Err(failure(message(&body), Fault::Missing)),
            Ok(Ok((_, body))) => Err(failure(message(&body), Fault::Refused)),
            Ok(Err(said)) => Err(failure(said, Fault::Lost)),
            Err(_) => {
                self.note_late();
                let said = format!("no answer within {} s", self.patience.as_secs());
                Err(failure(said, Fault::Late))
            }
        }
    }

    /// Makes one request on a connection of its own.
    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), String> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| error.to_string())?;
        let text = |error: hyper::Error| error.to_string();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
        tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(text)?;
        let status = answer.status();
        Ok((status, answer.into_body().collect().await.map_err(text)?.to_bytes()))
    }
}

/// Reads the daemon's word on why it refuses.
fn message(body: &[u8]) -> String {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let said = answer["message"].as_str().map(str::to_owned);
    said.unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned())
}

/// Finds the failure in a stream of progress, which comes with status 200.
fn refusal(stream: &[u8]) -> Option<String> {
    let lines = serde_json::Deserializer::from_slice(stream).into_iter::<Value>().flatten();
    let mut faults = lines.filter_map(|line| {
        let said = line["errorDetail"]["message"].as_str().or(line["error"].as_str())?;
        Some(said.to_owned())
    });
    faults.next()
}

/// Takes the two outputs of a container apart: each part comes after a head of eight bytes, of
/// which the first is the output and the last four are the length.
fn outputs(mut bytes: &[u8]) -> (String, String) {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    while let Some((&[output, _, _, _, a, b, c, d], rest)) = bytes.split_first_chunk() {
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let (part, rest) = rest.split_at(length.min(rest.len()));
        if output == 2 { &mut stderr } else { &mut stdout }.extend_from_slice(part);
        bytes = rest;
    }
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (text(stdout), text(stderr))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_found_among_the_progress() {
        let late =
            "{\"status\":\"Pulling\"}\r\n{\"errorDetail\":{\"message\":\"m\"},\"error\":\"e\"}";
        for (stream, expected) in [
            ("{\"status\":\"Pulling\"}\r\n{\"status\":\"Done\"}\r\n", None),
            (late, Some("m")),
            ("{\"error\":\"manifest unknown\"}", Some("manifest unknown")),
            ("\x01\0", None),
        ] {
            assert_eq!(refusal(stream.as_bytes()).as_deref(), expected, "{stream}");
        }
    }

    #[test]
    fn the_outputs_of_a_container_are_taken_apart() {
        let bytes = b"\x01\0\0\0\0\0\0\x02ab\x02\0\0\0\0\0\0\x01!\x01\0\0\0\0\0\0\x01c\x01\0\0";
        assert_eq!(outputs(bytes), ("abc".to_owned(), "!".to_owned()));
    }
}
