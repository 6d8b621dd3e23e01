//! Asks the daemon how it is, through its API.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode};
use serde::Deserialize;
use tokio::time::timeout;

use super::quiet::Connection;

/// How long a healthy daemon may take to answer.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// How long one may take that is well.
const SOON: Duration = Duration::from_millis(500);

/// How long a daemon that is asked for its containers may take in all.
const PATIENCE_WITH_CONTAINERS: Duration = Duration::from_secs(2);

/// dockerd's own time for a container that has none of its own, in seconds.
const STOP_TIMEOUT: i64 = 10;

/// The most that an answer may hold, in bytes.
const ANSWER_MAX: usize = 8 * 1024 * 1024;

/// Whether we have connected to the daemon since [`was_us`] was asked.
static CONNECTED: AtomicBool = AtomicBool::new(false);

/// Whether we have connected to the daemon since this was asked the last time: our own questions do
/// not count as use.
pub fn was_us() -> bool {
    CONNECTED.swap(false, Ordering::Relaxed)
}

/// What the daemon says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// All is well, and this is the daemon's version.
    Good(Option<String>),
    /// It answers, and its containerd does not.
    NoEngine,
    /// It does not answer.
    NoAnswer,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    version: String,
    #[serde(default)]
    components: Vec<Component>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Component {
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    config: Config,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    stop_timeout: Option<i64>,
}

/// Asks the daemon at `socket`. `/_ping` alone says little: it is answered while containerd is gone.
/// A daemon that is well is asked one question, for each of them wakes it and us.
pub async fn ask(socket: &Path) -> Health {
    if let Ok(Ok(body)) = timeout(SOON, get(socket, "/version")).await {
        return judge(&body);
    }
    let ping = timeout(PATIENCE - SOON, get(socket, "/_ping"));
    let version = timeout(PATIENCE - SOON, get(socket, "/version"));
    match tokio::join!(ping, version) {
        (_, Ok(Ok(body))) => judge(&body),
        (Ok(Ok(_)), _) => Health::NoEngine,
        _ => Health::NoAnswer,
    }
}

/// What the answer to `/version` says.
fn judge(body: &[u8]) -> Health {
    match serde_json::from_slice::<Version>(body) {
        Ok(told) if told.components.iter().any(|part| part.name == "containerd") => {
            Health::Good(Some(told.version))
        }
        _ => Health::NoEngine,
    }
}

/// How long the containers that run may take to end, in seconds: the longest of their own times, or
/// `None` if one has no end. No container, or a daemon that does not say, is 0.
pub async fn stop_timeout(socket: &Path) -> Option<u64> {
    let asked = timeout(PATIENCE_WITH_CONTAINERS, stop_timeouts(socket)).await;
    let times = asked.ok().and_then(Result::ok).unwrap_or_default();
    let times = times.into_iter().map(|time| u64::try_from(time).ok());
    times
        .collect::<Option<Vec<u64>>>()
        .map(|all| all.into_iter().max().unwrap_or(0))
}

async fn stop_timeouts(socket: &Path) -> io::Result<Vec<i64>> {
    let listed: Vec<Listed> = parse(&get(socket, "/containers/json").await?)?;
    let mut times = Vec::new();
    for container in listed {
        let path = format!("/containers/{}/json", container.id);
        let inspected: Inspected = parse(&get(socket, &path).await?)?;
        times.push(inspected.config.stop_timeout.unwrap_or(STOP_TIMEOUT));
    }
    Ok(times)
}

/// Whether a daemon answers at `socket`, for one who has no event loop.
pub fn answers(socket: &Path) -> bool {
    let ping = async { timeout(PATIENCE, get(socket, "/_ping")).await };
    matches!(wait_for(ping), Some(Ok(Ok(_))))
}

/// As [`is_busy`], for one who has no event loop.
pub fn runs_containers(socket: &Path) -> bool {
    wait_for(is_busy(socket.to_owned())).unwrap_or(true)
}

fn wait_for<T>(what: impl Future<Output = T>) -> Option<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.ok().map(|runtime| runtime.block_on(what))
}

/// Whether any container runs, is paused or restarts. A daemon that does not say counts as busy.
pub async fn is_busy(socket: PathBuf) -> bool {
    let filter = "/containers/json?filters=%7B%22status%22%3A%5B%22running%22%2C%22paused%22%2C%22restarting%22%5D%7D";
    let answer = timeout(PATIENCE, get(&socket, filter)).await;
    let listed = answer
        .ok()
        .and_then(Result::ok)
        .and_then(|body| parse::<Vec<Listed>>(&body).ok());
    listed.is_none_or(|containers| !containers.is_empty())
}

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    serde_json::from_slice(body).map_err(io::Error::other)
}

/// The body of a good answer.
async fn get(socket: &Path, path: &str) -> io::Result<Bytes> {
    CONNECTED.store(true, Ordering::Relaxed);
    let (mut sender, connection) = http1::handshake(Connection::open(socket)?)
        .await
        .map_err(io::Error::other)?;
    let request = Request::get(path)
        .header("Host", "docker")
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let exchange = async {
        let answer = sender
            .send_request(request)
            .await
            .map_err(io::Error::other)?;
        if answer.status() != StatusCode::OK {
            return Err(io::Error::other(answer.status().to_string()));
        }
        let body = http_body_util::Limited::new(answer.into_body(), ANSWER_MAX);
        let body = body.collect().await.map_err(io::Error::other)?;
        Ok(body.to_bytes())
    };
    tokio::select! {
        answer = exchange => answer,
        ended = connection => {
            Err(ended.err().map_or_else(|| io::Error::other("the connection was closed"), io::Error::other))
        }
    }
}
