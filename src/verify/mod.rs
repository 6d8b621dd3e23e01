//! Proves a running daemon: what its users ask, answered with values, and the way of images.

mod chain;
mod checks;
mod engine;
mod kill;
pub mod listen;
pub mod probe;
pub mod registry;
mod report;

use std::cell::{Cell, RefCell};
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use serde_json::{Value, json};
use tokio::net::{TcpListener, UnixStream};
use tokio::time::timeout;

pub use chain::Lie;
pub use checks::{CHECKS, Check, FORMS, SURVIVAL};
pub use report::{Row, Status};

use crate::error::{Error, Exit};
use crate::oci::build;
use crate::oci::manifest::Kind;
use crate::plan;
use crate::settings::{Input, NetworkDriver, Value as _};
use crate::sys::wait::wait_on;
use crate::verify::chain::{Chain, Kit};
use crate::verify::checks::{LABEL, Run};
use crate::verify::engine::{Engine, Failure, Fault};
use crate::verify::registry::Shared;

/// How long one answer of the daemon may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long one answer may take while everything is removed.
const REMOVAL: Duration = Duration::from_secs(10);

/// What is asked for.
pub struct Request<'r> {
    /// The daemon's socket.
    pub socket: PathBuf,
    /// How long it may take to say what it is.
    pub first_answer: Duration,
    /// A directory of the user's, below which a volume is made.
    pub scratch: PathBuf,
    /// Finds out how the daemon was launched, if it is ours.
    pub launch: &'r dyn Fn() -> Result<Option<Launch>, Error>,
    /// What the registry does wrong.
    pub lie: Option<Lie>,
    /// The questions to answer.
    pub names: Vec<&'static str>,
}

/// How a daemon of ours was launched.
pub struct Launch {
    /// rootlesskit's arguments.
    pub words: Vec<String>,
    /// The supervisor's directory, if there is a supervisor.
    pub run_dir: Option<PathBuf>,
    /// Whether dockerd may use iptables, without which containers reach nothing outside.
    pub has_iptables: bool,
}

impl Launch {
    /// Returns the value of rootlesskit's option `name`.
    fn option(&self, name: &str) -> Option<&str> {
        let mut values = self.words.iter().filter_map(|word| word.strip_prefix(name));
        values.next_back().map(|value| value.trim_start_matches('='))
    }

    /// Returns the address that leads to the host's 127.0.0.1 where that is open.
    fn gateway(&self) -> Option<Ipv4Addr> {
        let driver = NetworkDriver::read(&Input::Text(self.option("--net")?.into())).ok()?;
        let stated = self.option("--cidr").and_then(|cidr| cidr.parse().ok());
        plan::host_address(&driver, stated.or_else(|| plan::usual(&driver)))
    }
}

/// What happens, as it happens.
pub enum Event {
    /// A daemon is there: its version, its storage driver and its image store.
    Found(Value),
    Asked(&'static Check),
    Answered(Row),
}

/// Answers the questions, and hands everything that happens to `tell`. Exit 3 if no rootless daemon
/// answers, 1 if an answer is bad or something is left, and 128 and its number after a signal.
pub fn run(request: &Request<'_>, tell: impl FnMut(Event)) -> Result<Exit, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(failed)?;
    let ended = runtime.block_on(perform(request, tell));
    // A lookup in a thread may take longer than anyone wants to wait.
    runtime.shutdown_background();
    ended
}

fn failed(error: io::Error) -> Error {
    Error::new(Exit::Failed, "cannot verify the daemon").because(&error)
}

/// Returns what waits for the first signal to end, and how to end then. A second one ends us at once.
fn signal() -> io::Result<impl Future<Output = Exit>> {
    let mask = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    mask.thread_block()?;
    let fd = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    let fd = wait_on(fd.into())?;
    Ok(async move {
        let _ = fd.readable().await;
        // It begins with the number, which fits into a byte.
        let mut info = [0; 128];
        let _ = nix::unistd::read(&fd, &mut info);
        let _ = mask.thread_unblock();
        Exit::Daemon(128 + info.iter().take(4).sum::<u8>())
    })
}

async fn perform(request: &Request<'_>, tell: impl FnMut(Event)) -> Result<Exit, Error> {
    let tell = RefCell::new(tell);
    let mut signal = pin!(signal().map_err(failed)?);
    let engine = Engine::new(&request.socket, request.first_answer);
    let info = tokio::select! {
        info = meet(&engine, request) => info?,
        exit = &mut signal => return Ok(exit),
    };
    // Only now: a daemon that sleeps is launched by the first question.
    let launch = (request.launch)()?;
    tell.borrow_mut()(Event::Found(describe(&info)));
    let (run, archive) = begin(request, launch, info).map_err(failed)?;
    let is_good = Cell::new(true);
    let mut answers = pin!(async {
        let loaded = run.engine.load(archive).await;
        let judge = |event| {
            if let Event::Answered(Row { status: Status::Fail, .. }) = &event {
                is_good.set(false);
            }
            tell.borrow_mut()(event);
        };
        run.answer(&request.names, loaded, judge).await;
    });
    let interrupted = tokio::select! {
        () = &mut answers => None,
        exit = &mut signal => {
            run.engine.stop();
            // What dockerd makes meanwhile may appear later.
            if timeout(REMOVAL, answers).await.is_err() {
                run.engine.note_late();
            }
            Some(exit)
        }
    };
    let mut is_clean = false;
    let interrupted = tokio::select! {
        is_done = clean_up(&run) => { is_clean = is_done; interrupted }
        // After a first one, a signal ends us by itself.
        exit = signal, if interrupted.is_none() => {
            tracing::warn!("a signal ends the clean-up; to remove what is left: {}", removal(&run));
            Some(exit)
        }
    };
    let is_good = is_good.get() && is_clean;
    Ok(interrupted.unwrap_or(if is_good { Exit::Good } else { Exit::Failed }))
}

/// Makes what a run needs on the host, and returns the archive to load.
fn begin<'r>(
    request: &'r Request<'_>,
    launch: Option<Launch>,
    info: Value,
) -> io::Result<(Run<'r>, Vec<u8>)> {
    let kit = Kit::new(nonce()?)?;
    let image = kit.image(Kind::Schema2, &kit.nonce)?;
    let name = format!("verify.localhost/{}:latest", kit.nonce);
    let archive = build::archive_of(&image, &name)?;
    let scratch = request.scratch.join(format!(".dockerd-rootless-verify-{}", kit.nonce));
    fs::DirBuilder::new().mode(0o700).create(&scratch)?;
    let run = Run {
        engine: Engine::new(&request.socket, PATIENCE),
        info,
        image: name,
        chain: open(launch.as_ref(), request.lie, &kit),
        kit,
        scratch,
        socket: &request.socket,
        launch,
    };
    Ok((run, archive))
}

/// Removes all that the run has made, and says whether that is so.
async fn clean_up(run: &Run<'_>) -> bool {
    // The files in it are of other users, the directory is ours.
    let scratch = fs::remove_dir_all(&run.scratch);
    if let Err(error) = &scratch {
        tracing::warn!("`{}` is left: {error}", run.scratch.display());
    }
    let mut removed = run.clean_up(REMOVAL).await;
    if run.engine.lates() > 0 && removed.is_ok() {
        removed = run.clean_up(REMOVAL).await;
        let hint = removal(run);
        tracing::warn!("dockerd was late: what it makes later is removed by: {hint}");
    }
    let Err(Failure { asked, said, .. }) = removed else { return scratch.is_ok() };
    let hint = removal(run);
    tracing::warn!("dockerd does not {asked}: {said}; to remove what is left: {hint}");
    false
}

/// Returns the commands that remove what a run has left.
fn removal(run: &Run) -> String {
    let filter = format!("--filter label={LABEL}={}", run.kit.nonce);
    format!(
        "docker rm -fv $(docker ps -aq {filter}); docker network prune -f {filter}; \
         docker image prune -af {filter}"
    )
}

/// Asks the daemon what it is. Nothing is tried but on a rootless dockerd of the user's own.
async fn meet(engine: &Engine, request: &Request<'_>) -> Result<Value, Error> {
    let socket = &request.socket;
    let shown = socket.display();
    let refuse = |exit, what: String| Error::new(exit, what).hint("dockerd-rootless status");
    let own = nix::unistd::geteuid().as_raw();
    if let Some(uid) = fs::metadata(socket).map(|of| of.uid()).ok().filter(|uid| *uid != own) {
        let what = format!("`{shown}` belongs to uid {uid}, not to you: nothing is tried there");
        return Err(refuse(Exit::NotRunning, what));
    }
    if let Ok(Err(error)) = timeout(request.first_answer, UnixStream::connect(socket)).await {
        let what = format!("no daemon listens at `{shown}`");
        return Err(refuse(Exit::NotRunning, what).because(&error));
    }
    let info = engine.get("answer", "/info").await.map_err(|failure| {
        let (exit, what) = match failure.fault {
            Fault::Late => (Exit::Failed, format!("the daemon at `{shown}` does not answer")),
            Fault::Missing => {
                (Exit::NotRunning, format!("what listens at `{shown}` is no dockerd"))
            }
            _ => (Exit::Failed, format!("the daemon at `{shown}` does not say what it is")),
        };
        refuse(exit, what).cause(failure.said)
    })?;
    match foreign(&info) {
        None => Ok(info),
        Some(found) => {
            let what = format!("`{shown}` is the socket of {found}: nothing is tried there");
            Err(refuse(Exit::NotRunning, what))
        }
    }
}

/// Names what is no rootless dockerd.
fn foreign(info: &Value) -> Option<&'static str> {
    let options = info["SecurityOptions"].as_array().into_iter().flatten();
    let is_rootless =
        options.filter_map(Value::as_str).any(|option| option.starts_with("name=rootless"));
    if info["BuildahVersion"].is_string() {
        Some("podman")
    } else if info["DockerRootDir"].is_null() {
        Some("a program that is no dockerd")
    } else {
        (!is_rootless).then_some("a dockerd that is not rootless")
    }
}

fn describe(info: &Value) -> Value {
    let store = if is_containerd(info) { "containerd" } else { "graph driver" };
    let (version, driver) = (&info["ServerVersion"], &info["Driver"]);
    json!({"version": version, "storage_driver": driver, "image_store": store})
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
fn open(launch: Option<&Launch>, lie: Option<Lie>, kit: &Kit) -> Result<Chain, String> {
    let state_dir = launch.and_then(|launch| launch.option("--state-dir"));
    let state_dir = state_dir.ok_or("whose network the daemon has is unknown")?;
    let open = || {
        let listener = listen::open(Path::new(state_dir))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Shared::default();
        shared.with(|registry| registry.put_blob(kit.program.blob.clone()));
        tokio::spawn(registry::serve(TcpListener::from_std(listener)?, shared.clone()));
        Ok(Chain { address, shared, lie })
    };
    open().map_err(|error: io::Error| format!("the daemon's network cannot be entered: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_launch_says_where_the_host_is() {
        for (word, expected) in [
            ("--net=slirp4netns", "10.0.2.2"),
            ("--net=gvisor-tap-vsock", "10.0.2.1"),
            ("--net=vpnkit", "192.168.65.2"),
            ("--net=pasta --cidr=10.9.0.0/16", "10.9.0.2"),
        ] {
            let words = word.split(' ').map(str::to_owned).collect();
            let launch = Launch { words, run_dir: None, has_iptables: true };
            let found = launch.gateway().map(|address| address.to_string());
            assert_eq!(found.as_deref(), Some(expected), "{word}");
        }
    }
}
