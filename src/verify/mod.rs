//! Proves a running daemon: what its users ask, answered with values, and the way of images.

mod chain;
mod checks;
mod engine;
pub mod listen;
pub mod probe;
pub mod registry;
mod report;

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use serde_json::Value;

pub use chain::Lie;
pub use checks::{CHECKS, Check};
pub use report::{Row, Status};

use crate::error::{Error, Exit};
use crate::oci::build;
use crate::oci::manifest::Kind;
use crate::oci::serve::Registry;
use crate::sys::wait::wait_on;
use crate::verify::chain::{Chain, Kit};
use crate::verify::checks::Run;
use crate::verify::engine::{Engine, Failure};
use crate::verify::registry::Shared;

/// How long the daemon may take to say what it is.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// How long one answer of the daemon may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is asked for.
pub struct Request {
    /// The daemon's socket.
    pub socket: PathBuf,
    /// A directory of the user's, below which a volume is made.
    pub scratch: PathBuf,
    pub host_loopback: bool,
    /// Whether the port driver publishes ports over IPv6.
    pub ipv6_ports: bool,
    /// The state directory of our own daemon, or why the network of this one is not entered.
    pub state_dir: Result<PathBuf, String>,
    /// What the registry does wrong.
    pub lie: Option<Lie>,
    /// The questions to answer.
    pub names: Vec<&'static str>,
}

/// The daemon that was found.
pub struct Daemon {
    pub version: String,
    /// `graph driver` or `containerd`.
    pub image_store: &'static str,
    pub storage_driver: String,
}

/// Answers the questions. `found` gets the daemon first, and `tell` each answer as it comes.
/// Exit 3 if no rootless daemon answers, 1 if an answer is bad.
pub fn run(
    request: &Request,
    found: impl FnOnce(&Daemon),
    mut tell: impl FnMut(Row),
) -> Result<Exit, Error> {
    let failed = |error: io::Error| Error::new(Exit::Failed, "cannot verify").because(&error);
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    signals.thread_block().map_err(|errno| failed(errno.into()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(failed)?;
    runtime.block_on(async {
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let fd = SignalFd::with_flags(&signals, flags).map_err(|errno| failed(errno.into()))?;
        let signal = wait_on(fd.into()).map_err(failed)?;
        let engine = Engine::new(&request.socket, PATIENCE);
        let info = meet(&Engine::new(&request.socket, FIRST_ANSWER), &request.socket).await?;
        found(&describe(&info));
        let kit = Kit::new(nonce().map_err(failed)?).map_err(failed)?;
        let scratch = Scratch::new(&request.scratch, &kit.nonce).map_err(failed)?;
        let image = kit.image(Kind::Schema2, &kit.nonce).map_err(failed)?;
        let name = format!("verify.localhost/{}:latest", kit.nonce);
        let archive = build::archive_of(&image, &name).map_err(failed)?;
        let run = Run {
            engine,
            info,
            image: name,
            chain: open(request, &kit),
            kit,
            scratch: scratch.0.clone(),
            socket: request.socket.clone(),
            host_loopback: request.host_loopback,
            ipv6_ports: request.ipv6_ports,
        };
        let mut is_good = true;
        let answers = async {
            run.engine.load(archive).await?;
            run.answer(&request.names, |row| {
                is_good &= row.status != Status::Fail;
                tell(row);
            })
            .await;
            Ok::<(), Failure>(())
        };
        let ended = tokio::select! {
            ended = answers => Some(ended),
            _ = signal.readable() => None,
        };
        let left = run.clean_up().await;
        for failure in &left {
            tracing::warn!("{failure}");
        }
        match ended {
            None => Ok(Exit::Daemon(130)),
            Some(Err(failure)) => Err(refused(&failure)),
            Some(Ok(())) => Ok(if is_good && left.is_empty() { Exit::Good } else { Exit::Failed }),
        }
    })
}

fn refused(failure: &Failure) -> Error {
    Error::new(Exit::Failed, format!("cannot {}", failure.asked)).cause(failure.said.clone())
}

/// Asks the daemon what it is. Only a rootless dockerd is verified.
async fn meet(engine: &Engine, socket: &Path) -> Result<Value, Error> {
    let shown = socket.display();
    tokio::net::UnixStream::connect(socket).await.map_err(|error| {
        let what = format!("no daemon listens at `{shown}`");
        Error::new(Exit::NotRunning, what).because(&error).hint("dockerd-rootless status")
    })?;
    let info = engine.get("ask the daemon", "/info").await.map_err(|failure| {
        let what = format!("the daemon at `{shown}` does not answer");
        Error::new(Exit::Failed, what).cause(failure.said).hint("dockerd-rootless status")
    })?;
    let options = info["SecurityOptions"].as_array().into_iter().flatten();
    let is_rootless =
        options.filter_map(Value::as_str).any(|option| option.contains("name=rootless"));
    let is_podman = info["DockerRootDir"].as_str().is_none() || info["BuildahVersion"].is_string();
    if is_rootless && !is_podman {
        return Ok(info);
    }
    let found = if is_podman { "podman" } else { "a dockerd that is not rootless" };
    let what = format!("`{shown}` is the socket of {found}: nothing is tried there");
    Err(Error::new(Exit::NotRunning, what).hint("dockerd-rootless status"))
}

fn describe(info: &Value) -> Daemon {
    let text = |key: &str| info[key].as_str().unwrap_or_default().to_owned();
    Daemon {
        version: text("ServerVersion"),
        image_store: if is_containerd(info) { "containerd" } else { "graph driver" },
        storage_driver: text("Driver"),
    }
}

/// Says whether the daemon keeps images in containerd's store.
fn is_containerd(info: &Value) -> bool {
    info["DriverStatus"].to_string().contains("io.containerd.snapshotter")
}

/// Returns a word that no other run has.
fn nonce() -> io::Result<String> {
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    Ok(uuid.chars().filter(char::is_ascii_hexdigit).take(12).collect())
}

/// Opens the registry where the daemon reaches it, or says why it is not opened.
fn open(request: &Request, kit: &Kit) -> Result<Chain, String> {
    let open = |state_dir: &PathBuf| {
        let listener = listen::open(state_dir)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Shared::new(Registry::default());
        tokio::spawn(registry::serve(tokio::net::TcpListener::from_std(listener)?, shared.clone()));
        Ok(Chain::new(address, shared, kit, request.lie))
    };
    let no_network = |error: io::Error| format!("the daemon's network cannot be entered: {error}");
    open(request.state_dir.as_ref().map_err(String::clone)?).map_err(no_network)
}

/// A directory that goes when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(parent: &Path, nonce: &str) -> io::Result<Self> {
        let path = parent.join(format!(".dockerd-rootless-verify-{nonce}"));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The files in it are of other users, the directory is ours.
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!("`{}` is left: {error}", self.0.display());
        }
    }
}
