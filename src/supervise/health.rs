//! Asks dockerd about itself and its containers, and rootlesskit about its ports, through their
//! APIs.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::net;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Take};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep_until, timeout};

use crate::supervise::UNLIMITED;
use crate::supervise::progress::{self, Silence};
use crate::sys::processes::Identity;
use crate::sys::unix_sockets;
use crate::sys::wait::sleep;

/// How long the daemon may take to answer a question that something depends on.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long it may take for the others: what `status` shows, all containers in turn, rootlesskit.
const BRIEFLY: Duration = Duration::from_secs(2);

/// How long to wait before a request that failed is made again.
const AGAIN: Duration = Duration::from_millis(500);

/// dockerd's own time for a container that has none of its own, in seconds.
const STOP_TIMEOUT: i64 = 10;

/// The most that an answer may hold, in bytes.
const ANSWER_MAX: u64 = 8 * 1024 * 1024;

/// `{"status":["running","paused","restarting"]}`.
const BUSY: &str = "/containers/json?filters=%7B%22status%22%3A%5B%22running%22%2C%22paused%22%2C%22restarting%22%5D%7D";

/// `{"type":["container","network"],"event":["start","die","connect","disconnect"]}`.
const EVENTS: &str = "GET /events?filters=%7B%22type%22%3A%5B%22container%22%2C%22network%22%5D%2C%22event%22%3A%5B%22start%22%2C%22die%22%2C%22connect%22%2C%22disconnect%22%5D%7D";

/// Whether we have connected to the daemon since [`was_us`] was called, and how many connections to
/// it are ours.
static CONNECTED: AtomicBool = AtomicBool::new(false);
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// Says whether we have connected to the daemon since the last call: our own questions do not count
/// as use.
pub fn was_us() -> bool {
    CONNECTED.swap(false, Ordering::Relaxed)
}

/// Counts the connections to the daemon that are ours.
pub fn own_connections() -> usize {
    OPEN.load(Ordering::Relaxed)
}

/// A port of the host: the protocol and the number.
pub type Published = (String, u16);

/// The ports that rootlesskit forwards, by its own numbers.
pub type Forwarded = BTreeMap<u64, Published>;

/// Asks dockerd, the process `daemon`, at `socket`, until it answers anything. While it does not,
/// `tell` gets the reason every [`progress::LOOK`]. A late answer is an answer, and no failure is a
/// verdict.
pub async fn await_answer(socket: &Path, daemon: Identity, tell: impl Fn(Silence)) {
    let mut watch = progress::Watch::new(daemon);
    let asked = async {
        while Answer::begin(socket, "GET /_ping", Some(Own::count())).await.is_err() {
            sleep(AGAIN).await;
        }
    };
    tokio::pin!(asked);
    let mut look = Instant::now() + progress::LOOK;
    loop {
        tokio::select! {
            () = &mut asked => return,
            () = sleep_until(look) => tell(watch.look()),
        }
        look = Instant::now() + progress::LOOK;
    }
}

/// Asks for dockerd's version. dockerd runs several programs before it answers, which says nothing
/// of its health.
pub async fn version(socket: &Path) -> Option<String> {
    Some(get(socket, "/version").await.ok()?["Version"].as_str()?.to_owned())
}

/// Waits until dockerd says that it would stop its containers; `false` if it does not say so in
/// time.
pub async fn live_restore_is_off(socket: &Path) -> bool {
    let asked = async {
        while get(socket, "/info").await.ok().is_none_or(|info| info["LiveRestoreEnabled"] == true)
        {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, asked).await.is_ok()
}

/// Asks how long the running containers may take to end; `None` if the daemon does not say.
pub async fn stop_timeout(socket: &Path) -> Option<Duration> {
    let asked = async {
        let mut longest = Duration::ZERO;
        for container in list(socket).await.ok()? {
            let time = inspect(socket, &container).await.ok()?["Config"]["StopTimeout"].as_i64();
            // Less than none is for ever.
            let time = u64::try_from(time.unwrap_or(STOP_TIMEOUT)).map(Duration::from_secs);
            longest = longest.max(time.unwrap_or(UNLIMITED)).min(UNLIMITED);
        }
        Some(longest)
    };
    timeout(BRIEFLY, asked).await.ok()?
}

/// Finds the running containers whose tasks containerd has forgotten, with their first processes:
/// dockerd says so when it is asked for their processes. Where runc has no cgroups it fails to list
/// them in another way.
pub async fn forgotten(socket: &Path) -> io::Result<Vec<(String, u32)>> {
    let mut forgotten = Vec::new();
    for container in list(socket).await? {
        let request = format!("GET /containers/{}/top", id_of(&container));
        let asked = ask(socket, &request, Some(Own::count()));
        let (status, said) = timeout(PATIENCE, asked).await??;
        if status != 404 || !String::from_utf8_lossy(&said).contains("task") {
            continue;
        }
        let pid = inspect(socket, &container).await?["State"]["Pid"].as_u64();
        if let Some(pid @ 1..) = pid.and_then(|pid| u32::try_from(pid).ok()) {
            forgotten.push((id_of(&container).to_owned(), pid));
        }
    }
    Ok(forgotten)
}

/// Asks for the ports that containers publish.
pub async fn published(socket: &Path) -> io::Result<BTreeSet<Published>> {
    Ok(list(socket).await?.iter().flat_map(ports_of).collect())
}

/// Waits until dockerd has finished what it does to containers that publish ports: it lists one
/// that ends until that is cleared up, and does not answer about it meanwhile.
pub async fn settle(socket: &Path) -> io::Result<()> {
    for container in list(socket).await?.iter().filter(|one| !ports_of(one).is_empty()) {
        // A container that is gone by now has ended.
        let _ = timeout(PATIENCE, inspect(socket, container)).await?;
    }
    Ok(())
}

/// Calls `changed` whenever containers start, end, or change networks, until the daemon ends the
/// connection.
pub async fn watch_containers(socket: &Path, changed: impl Fn()) -> io::Result<()> {
    let mut events = Answer::begin(socket, EVENTS, Some(Own::count())).await?;
    while events.body.read_until(b'\n', &mut Vec::new()).await? > 0 {
        changed();
    }
    Ok(())
}

/// Asks whether any container runs, is paused or restarts. A daemon that does not say counts as
/// busy.
pub async fn is_busy(socket: PathBuf) -> bool {
    let listed = timeout(PATIENCE, get(&socket, BUSY)).await.ok().and_then(Result::ok);
    listed.as_ref().and_then(Value::as_array).is_none_or(|containers| !containers.is_empty())
}

/// Does the same for a command, which has no event loop.
pub fn runs_containers(socket: &Path) -> bool {
    block_on(PATIENCE, async { Ok(is_busy(socket.to_owned()).await) }).unwrap_or(true)
}

/// Says whether a daemon answers at `socket`, for a command.
pub fn answers(socket: &Path) -> bool {
    matches!(block_on(PATIENCE, ask(socket, "GET /_ping", None)), Ok((200, _)))
}

/// Asks the daemon at `socket` for `path`, such as `/info`, for a command.
pub fn query(socket: &Path, path: &str) -> io::Result<Value> {
    block_on(BRIEFLY, get(socket, path))
}

fn block_on<T>(time: Duration, what: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { timeout(time, what).await? })
}

/// Asks rootlesskit, whose API is at `socket`, for the ports that it forwards.
pub async fn forwarded(socket: &Path) -> io::Result<Forwarded> {
    let listed = json(timeout(BRIEFLY, ask(socket, "GET /v1/ports", None)).await??)?;
    Ok(listed.as_array().into_iter().flatten().filter_map(forwarded_port).collect())
}

fn forwarded_port(port: &Value) -> Option<(u64, Published)> {
    let spec = &port["spec"];
    // `tcp4` and `tcp6` are `tcp` to dockerd.
    let protocol = spec["proto"].as_str()?.trim_end_matches(['4', '6']);
    let number = u16::try_from(spec["parentPort"].as_u64()?).ok()?;
    Some((port["id"].as_u64()?, (protocol.to_owned(), number)))
}

/// Has rootlesskit stop forwarding the port of this number.
pub async fn forget_port(socket: &Path, id: u64) -> io::Result<()> {
    let request = format!("DELETE /v1/ports/{id}");
    match timeout(BRIEFLY, ask(socket, &request, None)).await?? {
        (200..300, _) => Ok(()),
        (status, _) => Err(io::Error::other(format!("it answers {status}"))),
    }
}

async fn list(socket: &Path) -> io::Result<Vec<Value>> {
    Ok(serde_json::from_value(get(socket, "/containers/json").await?)?)
}

async fn inspect(socket: &Path, container: &Value) -> io::Result<Value> {
    get(socket, &format!("/containers/{}/json", id_of(container))).await
}

fn id_of(container: &Value) -> &str {
    container["Id"].as_str().unwrap_or_default()
}

fn ports_of(container: &Value) -> Vec<Published> {
    let read = |port: &Value| {
        let number = u16::try_from(port["PublicPort"].as_u64()?).ok()?;
        (number > 0).then_some((port["Type"].as_str()?.to_owned(), number))
    };
    container["Ports"].as_array().into_iter().flatten().filter_map(read).collect()
}

/// Returns the JSON of dockerd's good answer.
async fn get(socket: &Path, path: &str) -> io::Result<Value> {
    let request = format!("GET {path}");
    json(timeout(progress::HUNG, ask(socket, &request, Some(Own::count()))).await??)
}

fn json((status, body): (u16, Vec<u8>)) -> io::Result<Value> {
    match status {
        200 => Ok(serde_json::from_slice(&body)?),
        _ => Err(io::Error::other(format!("it answers {status}"))),
    }
}

/// Returns the status and the body of any answer.
async fn ask(socket: &Path, request: &str, own: Option<Own>) -> io::Result<(u16, Vec<u8>)> {
    let mut answer = Answer::begin(socket, request, own).await?;
    let mut body = Vec::new();
    answer.body.read_to_end(&mut body).await?;
    Ok((answer.status, body))
}

/// An answer by HTTP/1.0 whose head has arrived: its connection is for this one alone.
struct Answer {
    status: u16,
    body: BufReader<Take<UnixStream>>,
    _own: Option<Own>,
}

impl Answer {
    /// Sends a request, and waits for the head of the answer.
    async fn begin(socket: &Path, request: &str, own: Option<Own>) -> io::Result<Self> {
        let stream = net::UnixStream::from(unix_sockets::connect(socket)?);
        let mut stream = UnixStream::from_std(stream)?;
        let request = format!("{request} HTTP/1.0\r\nHost: docker\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut body = BufReader::new(stream.take(ANSWER_MAX));
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if body.read_line(&mut head).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { status, body, _own: own })
    }
}

/// A connection of ours to the daemon, as long as it is open.
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::thread;

    use super::*;
    use serde_json::json;

    #[test]
    fn ports_are_read_as_dockerd_and_rootlesskit_list_them() {
        let container = json!({"Ports": [
            {"PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
            {"PrivatePort": 81, "Type": "tcp"},
        ]});
        assert_eq!(ports_of(&container), [("tcp".to_owned(), 8080)]);
        for (protocol, port, expected) in [
            ("tcp", json!(8080), Some(("tcp".to_owned(), 8080))),
            ("udp6", json!(53), Some(("udp".to_owned(), 53))),
            ("tcp4", json!(70000), None),
        ] {
            let listed = json!({"id": 7, "spec": {"proto": protocol, "parentPort": port}});
            let read = forwarded_port(&listed).map(|(_, port)| port);
            assert_eq!(read, expected, "{listed}");
        }
    }

    #[test]
    fn only_what_has_a_whole_head_is_an_answer() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("docker.sock");
        let listener = net::UnixListener::bind(&path).expect("a socket");
        for (said, expected) in [
            ("HTTP/1.0 200 OK\r\nServer: x\r\n\r\n[7]", Some(json!([7]))),
            ("HTTP/1.0 404 Not Found\r\n\r\n[7]", None),
            ("HTTP/1.0 200 OK\r\nServer", None),
            ("HTTP/1.0 200 OK\r\n\r\n[7", None),
            ("HTTP/1.0 many\r\n\r\n", None),
            ("\r\n\r\n", None),
            ("", None),
        ] {
            let asked = thread::scope(|scope| {
                scope.spawn(|| {
                    let (mut stream, _) = listener.accept().expect("a client");
                    let mut request = [0; 256];
                    let count = stream.read(&mut request).expect("a request");
                    assert!(request[..count].starts_with(b"GET /info HTTP/1.0\r\n"));
                    stream.write_all(said.as_bytes()).expect("it reads");
                });
                query(&path, "/info").ok()
            });
            assert_eq!(asked, expected, "{said}");
        }
    }
}
