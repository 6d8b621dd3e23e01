//! Asks a daemon through its API: what `docker` asks, without that program.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// What the daemon, or the way to it, refused.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What was asked, such as `start the container`.
    pub asked: String,
    /// The daemon's own words.
    pub said: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "cannot {}: {}", self.asked, self.said)
    }
}

impl std::error::Error for Failure {}

/// A daemon.
#[derive(Clone, Debug)]
pub struct Engine {
    socket: PathBuf,
    /// How long one answer may take.
    patience: Duration,
}

/// What a container printed and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    pub id: String,
    pub code: i64,
    pub is_oom_killed: bool,
    pub stdout: String,
    pub stderr: String,
}

impl Engine {
    /// Names the daemon that listens at `socket`.
    pub fn new(socket: &Path, patience: Duration) -> Self {
        Self { socket: socket.to_owned(), patience }
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
        match self.exchange(Method::DELETE, path, None, Bytes::new()).await {
            Ok((status, _)) if status.is_success() || status == StatusCode::NOT_FOUND => Ok(()),
            Ok((_, body)) => Err(Failure { asked: asked.to_owned(), said: message(&body) }),
            Err(said) => Err(Failure { asked: asked.to_owned(), said }),
        }
    }

    /// Loads an archive of images.
    pub async fn load(&self, archive: Vec<u8>) -> Result<(), Failure> {
        let kind = Some(("Content-Type", "application/x-tar"));
        self.progress("load the image", "/images/load?quiet=1", kind, archive.into()).await
    }

    /// Pulls `image`, which names a tag or a digest.
    pub async fn pull(&self, image: &str) -> Result<(), Failure> {
        let path = format!("/images/create?fromImage={}", escaped(image));
        self.progress(&format!("pull `{image}`"), &path, None, Bytes::new()).await
    }

    /// Pushes `repository:tag`. Daemons want credentials, be they empty.
    pub async fn push(&self, repository: &str, tag: &str) -> Result<(), Failure> {
        let path = format!("/images/{repository}/push?tag={tag}");
        let nobody = Some(("X-Registry-Auth", "e30="));
        self.progress(&format!("push `{repository}:{tag}`"), &path, nobody, Bytes::new()).await
    }

    /// Gives an image another name.
    pub async fn tag(&self, image: &str, repository: &str, tag: &str) -> Result<(), Failure> {
        let path = format!("/images/{image}/tag?repo={}&tag={tag}", escaped(repository));
        self.post(&format!("tag `{image}`"), &path, &json!({})).await.map(drop)
    }

    /// Says whether there is something at `path`.
    pub async fn has(&self, path: &str) -> Result<bool, Failure> {
        let failure = |said| Failure { asked: format!("get {path}"), said };
        match self.exchange(Method::GET, path, None, Bytes::new()).await.map_err(failure)? {
            (status, _) if status.is_success() => Ok(true),
            (StatusCode::NOT_FOUND, _) => Ok(false),
            (_, body) => Err(failure(message(&body))),
        }
    }

    /// Creates and starts a container, waits until it has ended, and reads what it printed.
    pub async fn run(&self, name: &str, spec: &Value) -> Result<Ran, Failure> {
        let id = self.start(name, spec).await?;
        self.finish(&id).await
    }

    /// Creates and starts a container.
    pub async fn start(&self, name: &str, spec: &Value) -> Result<String, Failure> {
        let created = self
            .post(
                &format!("create the container `{name}`"),
                &format!("/containers/create?name={name}"),
                spec,
            )
            .await?;
        let id = created["Id"].as_str().unwrap_or(name).to_owned();
        self.post(
            &format!("start the container `{name}`"),
            &format!("/containers/{id}/start"),
            &json!({}),
        )
        .await?;
        Ok(id)
    }

    /// Waits until a container has ended, and reads what it printed.
    pub async fn finish(&self, id: &str) -> Result<Ran, Failure> {
        let waited = self
            .post("wait for the container", &format!("/containers/{id}/wait"), &json!({}))
            .await?;
        let state = self.get("inspect the container", &format!("/containers/{id}/json")).await?;
        let (stdout, stderr) = self.logs(id).await?;
        Ok(Ran {
            id: id.to_owned(),
            code: waited["StatusCode"].as_i64().unwrap_or(-1),
            is_oom_killed: state["State"]["OOMKilled"] == true,
            stdout,
            stderr,
        })
    }

    /// Reads what a container has printed on its two outputs.
    pub async fn logs(&self, id: &str) -> Result<(String, String), Failure> {
        let path = format!("/containers/{id}/logs?stdout=1&stderr=1");
        let bytes =
            self.send("read the container's log", Method::GET, &path, None, Bytes::new()).await?;
        Ok(outputs(&bytes))
    }

    /// Posts what takes a while; the daemon tells of its progress, and of a failure among it.
    async fn progress(
        &self,
        asked: &str,
        path: &str,
        header: Option<(&str, &str)>,
        body: Bytes,
    ) -> Result<(), Failure> {
        let bytes = self.send(asked, Method::POST, path, header, body).await?;
        match fault(&bytes) {
            None => Ok(()),
            Some(said) => Err(Failure { asked: asked.to_owned(), said }),
        }
    }

    async fn send(
        &self,
        asked: &str,
        method: Method,
        path: &str,
        header: Option<(&str, &str)>,
        body: Bytes,
    ) -> Result<Bytes, Failure> {
        match self.exchange(method, path, header, body).await {
            Ok((status, body)) if status.is_success() => Ok(body),
            Ok((_, body)) => Err(Failure { asked: asked.to_owned(), said: message(&body) }),
            Err(said) => Err(Failure { asked: asked.to_owned(), said }),
        }
    }

    /// Makes one request on a connection of its own.
    async fn exchange(
        &self,
        method: Method,
        path: &str,
        header: Option<(&str, &str)>,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), String> {
        let exchange = async {
            let stream =
                UnixStream::connect(&self.socket).await.map_err(|error| error.to_string())?;
            let text = |error: hyper::Error| error.to_string();
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
            let driver = tokio::spawn(connection);
            let mut request = Request::builder().method(method).uri(path).header("Host", "docker");
            if let Some((name, value)) = header {
                request = request.header(name, value);
            }
            let request = request.body(Full::new(body)).map_err(|error| error.to_string())?;
            let answer = sender.send_request(request).await.map_err(text)?;
            let status = answer.status();
            let body = answer.into_body().collect().await.map_err(text)?.to_bytes();
            driver.abort();
            Ok((status, body))
        };
        let late = || format!("no answer within {} s", self.patience.as_secs());
        timeout(self.patience, exchange).await.map_err(|_| late())?
    }
}

/// Reads the daemon's word on why it refuses.
fn message(body: &[u8]) -> String {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let said = answer["message"].as_str().map(str::to_owned);
    said.unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned())
}

/// Finds the failure in a stream of progress, which comes with status 200.
fn fault(stream: &[u8]) -> Option<String> {
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

/// Writes what may not stand in a query as it is.
fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'/' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    text.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_found_among_the_progress() {
        let good = "{\"status\":\"Pulling\"}\r\n{\"status\":\"Done\"}\r\n";
        let bad =
            "{\"status\":\"Pulling\"}\r\n{\"errorDetail\":{\"message\":\"m\"},\"error\":\"e\"}";
        let old = "{\"error\":\"manifest unknown\"}";
        for (stream, expected) in
            [(good, None), (bad, Some("m")), (old, Some("manifest unknown")), ("", None)]
        {
            assert_eq!(fault(stream.as_bytes()).as_deref(), expected, "{stream}");
        }
    }

    #[test]
    fn the_outputs_of_a_container_are_taken_apart() {
        let bytes = b"\x01\0\0\0\0\0\0\x02ab\x02\0\0\0\0\0\0\x01!\x01\0\0\0\0\0\0\x01c\x01\0\0";
        assert_eq!(outputs(bytes), ("abc".to_owned(), "!".to_owned()));
    }

    #[test]
    fn an_image_by_digest_stands_in_a_query() {
        assert_eq!(escaped("127.0.0.1:5/a@sha256:00"), "127.0.0.1%3A5/a%40sha256%3A00");
    }
}
