//! A new version of this program takes the place of the supervisor that runs: the process, its
//! children, its descriptors and the API's socket stay, and the program is another. What the next one
//! must know travels as JSON in a file that has no name.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::info;

use crate::error::{Error, Exit};
use crate::supervise::control::answer;
use crate::supervise::ports::Ports;
use crate::supervise::{
    Launch, Machine, Outcome, Running, State, Status, Supervisor, Task, event_loop, failed, log,
    process, run_dir,
};
use crate::sys::processes::{self, Identity};

/// The command that takes over. Nobody types it.
pub const TAKE_OVER: &str = "supervisor-take-over";

/// The version of what is handed over, and of what the supervisor and the keeper say to each other.
const FORMAT: u32 = 3;

/// What the next one must know.
#[derive(Deserialize)]
pub struct Legacy {
    format: u32,
    /// The process that hands over, which is the one that takes over.
    supervisor: Identity,
    earlier: Vec<Identity>,
    launch: Launch,
    pub running: Running,
    status: Status,
    /// What rootlesskit forwards for others than containers.
    #[serde(default)]
    foreign: BTreeSet<u64>,
    /// Of our lock, of the connection to the keeper, of both ends of the log's pipe, and of the
    /// connection to the client that waits for the answer.
    descriptors: [RawFd; 5],
    listeners: Vec<RawFd>,
}

impl Supervisor<'_> {
    /// Becomes `program`, if that understands what it is handed over. Returns only if nothing comes of
    /// it, and then all is as it was.
    pub(super) fn hand_over(&mut self, program: &Path, client: &UnixStream) -> Error {
        let Err(error) = self.try_hand_over(program, client);
        let what = format!("`{}` cannot take over", program.display());
        failed(&what)(error)
    }

    fn try_hand_over(&mut self, program: &Path, client: &UnixStream) -> io::Result<Infallible> {
        let busy = || io::Error::other("something is being started or healed just now");
        let (legacy, mut descriptors) = self.legacy(client).ok_or_else(busy)?;
        let file = File::from(memfd_create("hand-over", MFdFlags::MFD_CLOEXEC)?);
        serde_json::to_writer(&file, &legacy)?;
        let number = file.as_raw_fd();
        let mut trial = self.successor(program, number, "try");
        // SAFETY: between fork and exec only system calls are made.
        unsafe { trial.pre_exec(move || keep_open(number, true)) };
        match process::brief(&mut trial)? {
            (status, _) if status.success() => {}
            (_, said) => return Err(io::Error::other(said.trim().to_owned())),
        }
        info!("{} takes over", program.display());
        self.log.stop();
        descriptors.push(number);
        let kept = descriptors.iter().try_for_each(|fd| keep_open(*fd, true));
        let done = kept.and_then(|()| Err(self.successor(program, number, "go").exec()));
        descriptors.iter().for_each(|fd| drop(keep_open(*fd, false)));
        self.log = log::Log::resume(self.reader.try_clone()?)?;
        done
    }

    fn successor(&self, program: &Path, number: RawFd, mode: &str) -> Command {
        let mut command = Command::new(program);
        command
            .args([TAKE_OVER, mode, &number.to_string()])
            .args(&self.task.arguments)
            .stdin(Stdio::null());
        command
    }

    /// Returns what the next one must know, a [`Legacy`], and the descriptors that it needs; `None` while
    /// something is under way that it could not go on with.
    fn legacy(&self, client: &UnixStream) -> Option<(Value, Vec<RawFd>)> {
        let launch = &self.launch;
        // What has ended may have said so already, to us alone.
        launch.daemon.filter(|daemon| processes::is_there(*daemon))?;
        launch.keeper.filter(|keeper| processes::is_there(*keeper))?;
        launch.rootlesskit.and_then(processes::read).filter(|process| !process.zombie)?;
        let has_engine = launch.engine.is_none_or(processes::is_there);
        if self.machine.state != State::Ready || launch.healing.is_some() || !has_engine {
            return None;
        }
        let ours = [
            self.task.run_dir.lock_fd()?,
            launch.control.as_ref()?.as_raw_fd(),
            self.reader.as_raw_fd(),
            self.writer.as_raw_fd(),
            client.as_raw_fd(),
        ];
        let listeners: Vec<RawFd> = self.listeners.iter().map(AsRawFd::as_raw_fd).collect();
        let legacy = json!({
            "format": FORMAT,
            "supervisor": processes::read(std::process::id())?.identity,
            "earlier": processes::earlier(),
            // A path need not be text.
            "launch": serde_json::to_value(launch).ok()?,
            "running": serde_json::to_value(&self.running).ok()?,
            "status": serde_json::to_value(&self.status).ok()?,
            "foreign": launch.ports.foreign(),
            "descriptors": ours,
            "listeners": listeners,
        });
        Some((legacy, [&ours[..], &listeners].concat()))
    }

    /// Looks after a daemon that another program has started in this process.
    fn go_on(&mut self, client: &UnixStream) {
        if let Some(helper) = self.launch.helper.take() {
            self.watch_helper(helper);
        }
        for identity in [self.launch.keeper, self.launch.child].into_iter().flatten() {
            self.watch_stage(identity);
        }
        self.keep_places();
        self.watch_places();
        self.look_after();
        self.write_status();
        info!("this version has taken over");
        answer(client, "this version of dockerd-rootless has taken over");
        // What ended meanwhile has said so to no program.
        self.reap();
    }
}

impl Legacy {
    /// Reads what a supervisor hands over at the descriptor `number`, or refuses it (exit 2). In a trial
    /// it is another process that reads.
    pub fn read(number: RawFd, is_trial: bool) -> Result<Self, Error> {
        let refuse = |cause: &dyn std::error::Error| {
            Error::new(Exit::Usage, format!("`{TAKE_OVER}`: cannot read what is handed over"))
                .because(cause)
                .hint("only a supervisor runs this command; use: dockerd-rootless restart")
        };
        if number < 3 {
            return Err(refuse(&io::Error::other("no supervisor hands over anything")));
        }
        let mut file = File::from(take(number).map_err(|error| refuse(&error))?);
        let mut text = String::new();
        let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
        read.map_err(|error| refuse(&error))?;
        let legacy: Self = serde_json::from_str(&text).map_err(|error| refuse(&error))?;
        let own = match is_trial {
            true => std::os::unix::process::parent_id(),
            false => std::process::id(),
        };
        let own = processes::read(own).map(|process| process.identity);
        if legacy.format != FORMAT || own != Some(legacy.supervisor) {
            let refused = refuse(&io::Error::other("it is another version's or another process's"));
            return Err(refused.hint("dockerd-rootless restart --all"));
        }
        Ok(legacy)
    }

    /// Takes the lock of our directory.
    pub fn lock(&self) -> Result<File, Error> {
        take(self.descriptors[0])
            .map(File::from)
            .map_err(failed("the lock of our directory is lost"))
    }

    fn adopt(self, task: Task<'_>) -> io::Result<(Supervisor<'_>, UnixStream)> {
        let Status { restarts, replaced, .. } = self.status;
        let [_, control, reader, writer, client] = self.descriptors;
        let pipe = (take(reader)?.into(), take(writer)?.into());
        let machine = Machine::resume(task.start, restarts, replaced);
        let mut supervisor = Supervisor::new(task, self.running, machine, pipe)?;
        let own = supervisor.running.api.own();
        supervisor.socket = own.and_then(|path| run_dir::Name::of(path).ok());
        supervisor.listeners = self.listeners.into_iter().map(take).collect::<Result<_, _>>()?;
        supervisor.status = self.status;
        supervisor.launch = Launch { ports: Ports::resume(self.foreign), ..self.launch };
        supervisor.outcome.phase = "dockerd answers";
        supervisor.speak_with_keeper(take(control)?.into())?;
        Ok((supervisor, take(client)?.into()))
    }
}

/// Continues where another program has stopped, in the same process.
pub fn resume(task: Task<'_>, legacy: Legacy) -> Result<Outcome, Error> {
    processes::restore_earlier(&legacy.earlier);
    event_loop()?.block_on(async {
        let (mut supervisor, client) =
            legacy.adopt(task).map_err(failed("cannot look after the daemon"))?;
        supervisor.listen()?;
        supervisor.go_on(&client);
        Ok(supervisor.work(Vec::new()).await)
    })
}

/// Has a descriptor survive the execution that follows, or not.
fn keep_open(number: RawFd, stays: bool) -> io::Result<()> {
    let flags = if stays { FdFlag::empty() } else { FdFlag::FD_CLOEXEC };
    Ok(fcntl(borrow(number), FcntlArg::F_SETFD(flags)).map(drop)?)
}

fn borrow(number: RawFd) -> BorrowedFd<'static> {
    // SAFETY: the number comes from a description of what is open; if it is not, the kernel says so.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// Takes a descriptor over, which nothing that is started inherits.
fn take(number: RawFd) -> io::Result<OwnedFd> {
    keep_open(number, false)?;
    // SAFETY: it is open, and was left to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
