//! Asks dockerd how it is, through its API, and containerd through its own.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use tokio::time::{Instant, sleep_until, timeout};

use crate::supervise::UNLIMITED;
use crate::supervise::progress;
use crate::supervise::progress::Silence;
use crate::supervise::quiet;
use crate::supervise::quiet::Connection;
use crate::sys::processes::Identity;

/// How long one who has no event loop waits for an answer.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait before a request that failed is made again.
const AGAIN: Duration = Duration::from_millis(500);

/// How long a daemon that is asked for its containers may take in all.
const PATIENCE_WITH_CONTAINERS: Duration = Duration::from_secs(2);

/// How long dockerd may take to read a configuration that turns live-restore off.
const PATIENCE_WITH_RELOAD: Duration = Duration::from_secs(5);

/// dockerd's own time for a container that has none of its own, in seconds.
const STOP_TIMEOUT: i64 = 10;

/// The most that an answer may hold, in bytes.
const ANSWER_MAX: usize = 8 * 1024 * 1024;

/// Whether we have connected to the daemon since [`was_us`] was asked.
static CONNECTED: AtomicBool = AtomicBool::new(false);

/// How many connections of ours to the daemon are open.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// Whether we have connected to the daemon since this was asked the last time: our own questions do
/// not count as use.
pub fn was_us() -> bool {
    CONNECTED.swap(false, Ordering::Relaxed)
}

/// How many connections to the daemon are ours.
pub fn own_connections() -> usize {
    OPEN.load(Ordering::Relaxed)
}

/// A connection of ours, as long as it is open.
struct Own;

impl Own {
    fn count() -> Self {
        CONNECTED.store(true, Ordering::Relaxed);
        OPEN.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    version: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Info {
    #[serde(default)]
    live_restore_enabled: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
    #[serde(default)]
    ports: Vec<ListedPort>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListedPort {
    #[serde(default)]
    public_port: u16,
    #[serde(rename = "Type")]
    protocol: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    config: Config,
    #[serde(default)]
    state: Option<InspectedState>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedState {
    #[serde(default)]
    pid: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    stop_timeout: Option<i64>,
}

/// A port of the host that a container publishes: the protocol and the number.
pub type Published = (String, u16);

/// Asks dockerd, the process `daemon`, at `socket`, until it answers anything. While it does not,
/// `tell` hears why, every [`progress::LOOK`]. An answer that comes late is an answer.
pub async fn await_answer(socket: &Path, daemon: Identity, tell: impl Fn(Silence)) {
    let mut watch = progress::Watch::new(daemon);
    let mut look = Instant::now() + progress::LOOK;
    let asked = async {
        // Whatever fails, here or there, is no verdict: it is asked again.
        while request(Target::Daemon(socket), Method::GET, "/_ping").await.is_err() {
            quiet::sleep(AGAIN).await;
        }
    };
    tokio::pin!(asked);
    loop {
        tokio::select! {
            () = &mut asked => return,
            () = sleep_until(look) => {
                tell(watch.look());
                look = Instant::now() + progress::LOOK;
            }
        }
    }
}

/// dockerd's version. It asks several programs before it answers, which says nothing of its health.
pub async fn version(socket: &Path) -> Option<String> {
    let asked = timeout(progress::HUNG, get(Target::Daemon(socket), "/version")).await;
    Some(parse::<Version>(&asked.ok()?.ok()?).ok()?.version)
}

/// Waits until dockerd says that it would not leave its containers alone any more; `false` if it does
/// not say so in its time.
pub async fn live_restore_is_off(socket: &Path) -> bool {
    let asked = async {
        loop {
            let info = get(Target::Daemon(socket), "/info").await;
            let info = info.and_then(|body| parse::<Info>(&body));
            if info.is_ok_and(|info| !info.live_restore_enabled) {
                return;
            }
            quiet::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE_WITH_RELOAD, asked).await.is_ok()
}

/// How long the containers that run may take to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopTimes {
    /// No container runs.
    None,
    /// So long at most.
    Longest(Duration),
    /// One of them has all the time that it wants.
    Unlimited,
}

/// Asks how long the containers that run may take to end; `None` if the daemon does not say.
pub async fn stop_timeouts(socket: &Path) -> Option<StopTimes> {
    let asked = timeout(PATIENCE_WITH_CONTAINERS, list_stop_timeouts(socket)).await;
    Some(longest(&asked.ok()?.ok()?))
}

/// The longest of these times in seconds. Less than none is for ever.
fn longest(times: &[i64]) -> StopTimes {
    let known: Option<Vec<u64>> = times.iter().map(|time| u64::try_from(*time).ok()).collect();
    match known {
        None => StopTimes::Unlimited,
        Some(times) => times.into_iter().max().map_or(StopTimes::None, |seconds| {
            StopTimes::Longest(Duration::from_secs(seconds.min(UNLIMITED.as_secs())))
        }),
    }
}

async fn list_stop_timeouts(socket: &Path) -> io::Result<Vec<i64>> {
    let target = Target::Daemon(socket);
    let listed: Vec<Listed> = parse(&get(target, "/containers/json").await?)?;
    let mut times = Vec::new();
    for container in listed {
        let path = format!("/containers/{}/json", container.id);
        let inspected: Inspected = parse(&get(target, &path).await?)?;
        times.push(inspected.config.stop_timeout.unwrap_or(STOP_TIMEOUT));
    }
    Ok(times)
}

/// A container that runs, and that containerd does not know any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forgotten {
    /// Its id.
    pub id: String,
    /// Its first process, as dockerd sees it.
    pub pid: u32,
}

/// The containers that run and whose tasks containerd has forgotten: dockerd says so when it is asked
/// for their processes. Where runc has no cgroups it fails to list them in another way.
///
/// # Errors
/// What came instead.
pub async fn forgotten(socket: &Path) -> io::Result<Vec<Forgotten>> {
    let target = Target::Daemon(socket);
    let listed: Vec<Listed> = parse(&get(target, "/containers/json").await?)?;
    let mut forgotten = Vec::new();
    for Listed { id, .. } in listed {
        let path = format!("/containers/{id}/top");
        let asked = timeout(PATIENCE, request(target, Method::GET, &path)).await?;
        let (answer, _open) = asked?;
        if answer.status() != StatusCode::NOT_FOUND {
            continue;
        }
        let body = http_body_util::Limited::new(answer.into_body(), ANSWER_MAX);
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        if !String::from_utf8_lossy(&body).contains("task") {
            continue;
        }
        let inspected: Inspected = parse(&get(target, &format!("/containers/{id}/json")).await?)?;
        if let Some(pid @ 1..) = inspected.state.map(|state| state.pid) {
            forgotten.push(Forgotten { id, pid });
        }
    }
    Ok(forgotten)
}

/// The ports that containers publish.
///
/// # Errors
/// What came instead.
pub async fn published(socket: &Path) -> io::Result<Vec<Published>> {
    let listed: Vec<Listed> = parse(&get(Target::Daemon(socket), "/containers/json").await?)?;
    let ports = listed.into_iter().flat_map(|container| container.ports);
    let mut ports: Vec<Published> = ports
        .filter(|port| port.public_port > 0)
        .map(|port| (port.protocol, port.public_port))
        .collect();
    ports.sort();
    ports.dedup();
    Ok(ports)
}

/// Waits until dockerd is through with what it is doing to containers that publish ports: it lists one
/// that ends until that is cleared up, and is silent about it meanwhile.
///
/// # Errors
/// What came instead.
pub async fn settle(socket: &Path) -> io::Result<()> {
    let target = Target::Daemon(socket);
    let listed: Vec<Listed> = parse(&get(target, "/containers/json").await?)?;
    let publishes = |container: &&Listed| container.ports.iter().any(|port| port.public_port > 0);
    for container in listed.iter().filter(publishes) {
        let path = format!("/containers/{}/json", container.id);
        // One that is gone by now has ended.
        let _ = timeout(PATIENCE, get(target, &path)).await?;
    }
    Ok(())
}

/// Calls `changed` whenever containers start, end, or change networks, until the daemon ends the
/// connection.
///
/// # Errors
/// What came instead.
pub async fn watch_containers(socket: &Path, changed: impl Fn()) -> io::Result<()> {
    let filters = "%7B%22type%22%3A%5B%22container%22%2C%22network%22%5D%2C%22event%22%3A%5B%22start%22%2C%22die%22%2C%22connect%22%2C%22disconnect%22%5D%7D";
    let path = format!("/events?filters={filters}");
    let (answer, _open) = request(Target::Daemon(socket), Method::GET, &path).await?;
    let mut body = answer.into_body();
    while let Some(frame) = body.frame().await {
        frame.map_err(io::Error::other)?;
        changed();
    }
    Ok(())
}

/// Whether a daemon answers at `socket`, for one who has no event loop.
pub fn answers(socket: &Path) -> bool {
    let ping = async { timeout(PATIENCE, get(Target::Daemon(socket), "/_ping")).await };
    matches!(wait_for(ping), Some(Ok(Ok(_))))
}

/// As [`is_busy`], for one who has no event loop.
pub fn runs_containers(socket: &Path) -> bool {
    wait_for(is_busy(socket.to_owned())).unwrap_or(true)
}

fn wait_for<T>(what: impl Future<Output = T>) -> Option<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.ok().map(|runtime| runtime.block_on(what))
}

/// Whether any container runs, is paused or restarts. A daemon that does not say counts as busy.
pub async fn is_busy(socket: PathBuf) -> bool {
    let filter = "/containers/json?filters=%7B%22status%22%3A%5B%22running%22%2C%22paused%22%2C%22restarting%22%5D%7D";
    let answer = timeout(PATIENCE, get(Target::Daemon(&socket), filter)).await;
    let listed = answer.ok().and_then(Result::ok).and_then(|body| parse::<Vec<Listed>>(&body).ok());
    listed.is_none_or(|containers| !containers.is_empty())
}

/// What rootlesskit forwards, by its own number.
#[derive(Clone, Debug, Deserialize)]
pub struct Forwarded {
    /// rootlesskit's number for it.
    pub id: u64,
    /// What is forwarded.
    pub spec: ForwardedPort,
}

/// A port of the host, as rootlesskit has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ForwardedPort {
    /// `tcp`, `udp`, or with `4` or `6` behind it.
    pub proto: String,
    /// The number on the host.
    pub parent_port: u16,
}

impl ForwardedPort {
    /// The port as dockerd names it.
    pub fn published(&self) -> Published {
        let proto = self.proto.trim_end_matches(['4', '6']);
        (proto.to_owned(), self.parent_port)
    }
}

/// What rootlesskit, whose API is at `socket`, forwards.
///
/// # Errors
/// What came instead.
pub async fn forwarded(socket: &Path) -> io::Result<Vec<Forwarded>> {
    let listed = timeout(PATIENCE_WITH_CONTAINERS, get(Target::Other(socket), "/v1/ports")).await;
    parse(&listed.map_err(io::Error::from)??)
}

/// Has rootlesskit forward nothing under the number `id` any more.
///
/// # Errors
/// What came instead.
pub async fn forget_port(socket: &Path, id: u64) -> io::Result<()> {
    let path = format!("/v1/ports/{id}");
    let asked = request(Target::Other(socket), Method::DELETE, &path);
    let (answer, _open) = timeout(PATIENCE_WITH_CONTAINERS, asked).await??;
    match answer.status().is_success() {
        true => Ok(()),
        false => Err(io::Error::other(answer.status().to_string())),
    }
}

/// Whom a request goes to: only those to the daemon count as use of it.
#[derive(Clone, Copy)]
enum Target<'a> {
    Daemon(&'a Path),
    Other(&'a Path),
}

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    serde_json::from_slice(body).map_err(io::Error::other)
}

/// The body of a good answer.
async fn get(target: Target<'_>, path: &str) -> io::Result<Bytes> {
    let (answer, _open) = request(target, Method::GET, path).await?;
    if answer.status() != StatusCode::OK {
        return Err(io::Error::other(answer.status().to_string()));
    }
    let body = http_body_util::Limited::new(answer.into_body(), ANSWER_MAX);
    let body = body.collect().await.map_err(io::Error::other)?;
    Ok(body.to_bytes())
}

/// Keeps a connection open as long as its answer is read.
struct Open(tokio::task::JoinHandle<()>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Any answer.
async fn request(
    target: Target<'_>,
    method: Method,
    path: &str,
) -> io::Result<(Response<Incoming>, Open)> {
    let (socket, own) = match target {
        Target::Daemon(socket) => (socket, Some(Own::count())),
        Target::Other(socket) => (socket, None),
    };
    let (mut sender, connection) =
        http1::handshake(Connection::open(socket)?).await.map_err(io::Error::other)?;
    let open = Open(tokio::spawn(async move {
        let _own = own;
        let _ = connection.await;
    }));
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("Host", "docker")
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let answer = sender.send_request(request).await;
    Ok((answer.map_err(io::Error::other)?, open))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_time_counts_and_no_time_is_too_long() {
        for (times, expected) in [
            (&[][..], StopTimes::None),
            (&[10, 300, 0], StopTimes::Longest(Duration::from_secs(300))),
            (&[10, -1], StopTimes::Unlimited),
            (&[i64::MAX], StopTimes::Longest(UNLIMITED)),
        ] {
            assert_eq!(longest(times), expected, "{times:?}");
        }
    }
}
