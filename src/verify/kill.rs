//! `--disruptive`: kills dockerd, and looks what becomes of a container and of the API.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::supervise::{self, DOCKERD};
use crate::sys::processes::{self, Identity};
use crate::sys::unix_sockets;
use crate::sys::wait::wait_on;
use crate::verify::checks::{LABEL, Rows, Run, SURVIVAL};
use crate::verify::engine::Failure;
use crate::verify::report::Row;

/// How long dockerd may be away.
const AWAY: Duration = Duration::from_secs(60);

/// How long a process may take to end after SIGKILL.
const END: Duration = Duration::from_secs(5);

/// The daemon of a supervisor of ours.
struct Victim {
    status: supervise::Status,
    process: OwnedFd,
}

/// Answers the question.
pub async fn answer(run: &Run<'_>) -> Rows {
    let victim = match find(run) {
        Ok(victim) => victim,
        Err(why) => return Ok(vec![Row::skip(SURVIVAL, why)]),
    };
    let spec = run.spec(&["wait"], json!({}));
    let id = run.engine.start(&run.name(SURVIVAL), &spec).await?;
    let before = life(&run.engine.inspect(&id).await?);
    if let Some(why) = harm(run, &victim).await? {
        return Ok(vec![Row::skip(SURVIVAL, why)]);
    }
    let pid = victim.status.dockerd.unwrap_or_default();
    tracing::warn!("dockerd (process {pid}) is killed now");
    let failure = |error: io::Error| Failure::own("end", &error);
    let began = Instant::now();
    processes::signal(&victim.process, Signal::SIGKILL).map_err(failure)?;
    let ended = wait_on(victim.process).map_err(failure)?;
    let _ = timeout(END, ended.readable()).await;
    while run.engine.get("come back", "/_ping").await.is_err() {
        if began.elapsed() > AWAY {
            let answer = format!("the API is away for more than {} s", AWAY.as_secs());
            return Ok(vec![Row::fail(SURVIVAL, answer, "dockerd is started again")]);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let away = format!("the API was away for {:.2} s", began.elapsed().as_secs_f64());
    let after = life(&run.engine.inspect(&id).await?);
    let is_alive = before.1.is_some_and(processes::is_there);
    Ok(vec![match (before == after && is_alive, victim.status.keeps_containers) {
        (true, _) => Row::pass(SURVIVAL, format!("yes, the same processes; {away}")),
        (false, false) => Row::info(SURVIVAL, format!("no, they stop with dockerd; {away}")),
        (false, true) => {
            let answer = format!("no, the container is another process or none; {away}");
            Row::fail(SURVIVAL, answer, "the container is the same process")
        }
    }])
}

/// Finds dockerd, or says why none is proven to be ours.
fn find(run: &Run<'_>) -> Result<Victim, &'static str> {
    let run_dir = run.launch.as_ref().and_then(|launch| launch.run_dir.as_deref());
    let status = run_dir.and_then(supervise::read_status).ok_or("no supervisor runs dockerd")?;
    if status.state != "ready" || status.socket.as_deref() != Some(run.socket) {
        return Err("the supervisor says that dockerd is not ready");
    }
    let found = status.dockerd.and_then(processes::read).ok_or("dockerd is being replaced")?;
    let process = processes::open(found.identity).map_err(|_| "dockerd is being replaced")?;
    // The descriptor holds the process: what is true of its number now is true of it.
    let own = fs::metadata(format!("/proc/{}", found.identity.pid)).map(|of| of.uid()).ok();
    let mut parent = Some(found.parent);
    while let Some(pid) = parent.filter(|pid| *pid > 1 && *pid != status.supervisor) {
        parent = processes::read(pid).map(|above| above.parent);
    }
    let is_ours = own == Some(geteuid().as_raw()) && parent == Some(status.supervisor);
    match is_ours && found.name == DOCKERD {
        true => Ok(Victim { status, process }),
        false => Err("the process that the supervisor names is not below it"),
    }
}

/// Says whom the death of dockerd would harm.
async fn harm(run: &Run<'_>, victim: &Victim) -> Result<Option<&'static str>, Failure> {
    let list = run.engine.get("list the containers", "/containers/json").await?;
    let is_other = |one: &&Value| one["Labels"][LABEL] != run.kit.nonce.as_str();
    let others: Vec<&Value> = list.as_array().into_iter().flatten().filter(is_other).collect();
    let keeps = victim.status.keeps_containers && run.info["LiveRestoreEnabled"] == true;
    if !others.is_empty() && !keeps {
        return Ok(Some("containers of yours run, and would stop with dockerd"));
    }
    if others.iter().any(|one| one["State"] != "running") {
        return Ok(Some("a container of yours is paused or restarts"));
    }
    let pid = victim.status.dockerd.unwrap_or_default();
    let Some(listeners) = unix_sockets::listeners(pid, &victim.process) else {
        return Ok(Some("whether clients are connected to dockerd is unknown"));
    };
    if listeners.into_iter().any(|listener| is_elsewhere(listener, run.socket)) {
        return Ok(Some("dockerd listens at another address, too, and may have clients there"));
    }
    let own = [victim.status.supervisor, std::process::id()];
    Ok(match unix_sockets::accepted(pid, &victim.process, run.socket, &own) {
        Some(0) if others.is_empty() => None,
        Some(0) => {
            tracing::warn!("{} of your containers live on without dockerd", others.len());
            None
        }
        Some(_) => Some("a client is connected to dockerd, and would lose its work"),
        None => Some("whether clients are connected to dockerd is unknown"),
    })
}

/// Says whether clients of the API may come by a listener that is not at `own`.
fn is_elsewhere(listener: OwnedFd, own: &Path) -> bool {
    let listener = UnixListener::from(listener);
    // dockerd also serves plugins, the hooks of the runtime and the names of containers.
    if let Ok(address) = listener.local_addr() {
        return address.as_pathname().is_none_or(|path| {
            let is_hook = path.parent().is_some_and(|parent| parent.ends_with("libnetwork"));
            path != own && !is_hook && !path.ends_with("metrics.sock")
        });
    }
    let address = TcpListener::from(OwnedFd::from(listener)).local_addr();
    !address.is_ok_and(|address| address.ip() == Ipv4Addr::new(127, 0, 0, 11))
}

/// Returns what says that a container is still the same one.
fn life(inspected: &Value) -> (Value, Option<Identity>) {
    let pid = inspected["State"]["Pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    let process = pid.and_then(processes::read).map(|process| process.identity);
    (inspected["State"]["StartedAt"].clone(), process)
}
