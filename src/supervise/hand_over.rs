//! A new version of this program takes the place of the supervisor that runs: the process, its
//! children, its descriptors and the API's socket stay, and the program is another. What the next one
//! must know travels as JSON in a file that has no name.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, PipeWriter, Read, Seek, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::{info, warn};

use crate::error::{Error, Exit};
use crate::supervise::helper::Helper;
use crate::supervise::{
    Event, Launch, Machine, NO_LOG, Outcome, Running, State, Status, Supervisor, Task, event_loop,
    failed, log, process, run_dir, snapshot,
};
use crate::sys::processes::{self, Identity};

/// The command that takes over. Nobody types it.
pub const TAKE_OVER: &str = "supervisor-take-over";

/// The arrangement of what is handed over, and of what the supervisor and the keeper say to each other.
const FORMAT: u32 = 2;

/// What the next one must know.
#[derive(Serialize, Deserialize)]
pub struct Legacy {
    format: u32,
    /// The process that hands over, which is the one that takes over.
    supervisor: Identity,
    earlier: Vec<Identity>,
    rootlesskit: Identity,
    child: Option<Identity>,
    keeper: Identity,
    daemon: Identity,
    engine: Option<Identity>,
    helper: Option<Helper>,
    lock: RawFd,
    control: RawFd,
    listeners: Vec<RawFd>,
    log: RawFd,
    log_writer: RawFd,
    status: Status,
    running: Running,
}

impl Supervisor<'_> {
    /// Becomes `program`, if that understands what it is handed over. Returns only if nothing comes of
    /// it, and then all is as it was.
    pub(super) fn hand_over(&mut self, program: &Path) -> Error {
        let Err(error) = self.try_hand_over(program);
        let what = format!("`{}` cannot take over", program.display());
        failed(&what)(error)
    }

    fn try_hand_over(&mut self, program: &Path) -> io::Result<Infallible> {
        let busy = || io::Error::other("something is being started or healed just now");
        let mut legacy = self.legacy(0).ok_or_else(busy)?;
        let mut file = File::from(memfd_create("hand-over", MFdFlags::MFD_CLOEXEC)?);
        write(&mut file, &legacy)?;
        let number = file.as_raw_fd();
        let mut trial = self.successor(program, number, "try");
        // SAFETY: between fork and exec only system calls are made.
        unsafe { trial.pre_exec(move || keep_open(number)) };
        match process::brief(&mut trial)? {
            (status, _) if status.success() => {}
            (_, said) => return Err(io::Error::other(said.trim().to_owned())),
        }
        info!("{} takes over", program.display());
        let stopped = || io::Error::other("the log has been stopped");
        let reader = self.log.stop().ok_or_else(stopped)?;
        legacy.log = reader.as_raw_fd();
        let fds = legacy.descriptors();
        let done = write(&mut file, &legacy).and_then(|()| {
            fds.iter().chain([&number]).try_for_each(|fd| keep_open(*fd))?;
            Err(self.successor(program, number, "go").exec())
        });
        for fd in fds {
            let _ = fcntl(borrow(fd), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
        }
        match log::Log::resume(reader) {
            Ok(log) => self.log = log,
            Err(error) => warn!("what the daemon writes is lost: {error}"),
        }
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

    /// Returns what the next one must know; `None` while something is under way that it could not go
    /// on with.
    fn legacy(&self, log: RawFd) -> Option<Legacy> {
        let launch = &self.launch;
        let has_engine = launch.engine.is_none_or(processes::is_there);
        if self.machine.state != State::Ready || launch.healing.is_some() || !has_engine {
            return None;
        }
        Some(Legacy {
            format: FORMAT,
            supervisor: processes::read(std::process::id())?.identity,
            earlier: processes::earlier(),
            rootlesskit: processes::read(launch.rootlesskit?)?.identity,
            child: launch.child,
            keeper: launch.keeper?,
            daemon: launch.daemon.as_ref()?.0,
            engine: launch.engine,
            helper: launch.helper.clone(),
            lock: self.task.run_dir.lock_fd()?,
            control: launch.control.as_ref()?.as_raw_fd(),
            listeners: self.listeners.iter().map(AsRawFd::as_raw_fd).collect(),
            log,
            log_writer: self.writer.as_raw_fd(),
            status: self.status.clone(),
            running: self.running.clone(),
        })
    }

    /// Looks after a daemon that another program has started in this process.
    fn adopt(&mut self, legacy: Legacy, control: UnixStream) -> io::Result<()> {
        self.status = Status { supervisor: std::process::id(), ..legacy.status };
        self.socket = self.running.api.own().and_then(|path| run_dir::Name::of(path).ok());
        self.launch = Launch {
            rootlesskit: Some(legacy.rootlesskit.pid),
            child: legacy.child,
            keeper: Some(legacy.keeper),
            daemon: Some((legacy.daemon, processes::open(legacy.daemon)?)),
            engine: legacy.engine,
            has_answered: true,
            phase: "dockerd answers",
            ..Launch::default()
        };
        self.speak_with_keeper(control)?;
        for identity in [Some(legacy.keeper), legacy.child].into_iter().flatten() {
            self.launch.tasks.watch(identity, |it| it.raise(Event::Fell));
        }
        match legacy.helper {
            Some(helper) if processes::is_there(helper.identity) => {
                self.watch_helper(helper);
            }
            lost => {
                self.launch.lost = lost;
                if self.running.has_helper {
                    self.raise(Event::HelperDied);
                }
            }
        }
        if legacy.engine.is_some_and(|engine| !processes::is_there(engine)) {
            self.launch.engine = None;
            self.raise(Event::EngineEnded);
        }
        self.keep_places();
        self.watch_places();
        self.look_after();
        self.note_program(snapshot::SUPERVISOR);
        self.write_status();
        info!("this version has taken over");
        // What ended meanwhile has said so to nobody.
        self.reap();
        Ok(())
    }
}

impl Legacy {
    /// Reads what a supervisor hands over at the descriptor `number`. In a trial it is another process
    /// that reads.
    ///
    /// # Errors
    /// Exit 2 if it is none, of another arrangement, or that of another process.
    pub fn read(number: RawFd, is_trial: bool) -> Result<Self, Error> {
        let refuse = |why: &str| {
            Error::new(Exit::Usage, format!("`{TAKE_OVER}`: {why}"))
                .hint("only a supervisor runs this command; use: dockerd-rootless restart")
        };
        if number < 3 || fcntl(borrow(number), FcntlArg::F_GETFD).is_err() {
            return Err(refuse("nothing is handed over"));
        }
        // SAFETY: it is open, and nothing else in this program owns it.
        let mut file = File::from(unsafe { OwnedFd::from_raw_fd(number) });
        let mut text = String::new();
        let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
        read.map_err(|error| refuse("cannot read what is handed over").because(&error))?;
        let unknown = |error| refuse("cannot understand what is handed over").because(&error);
        let value: Value = serde_json::from_str(&text).map_err(unknown)?;
        if value["format"] != FORMAT {
            let refused = refuse("what is handed over is of another version");
            return Err(refused.hint("dockerd-rootless restart --all"));
        }
        let legacy: Self = serde_json::from_value(value).map_err(unknown)?;
        let own = match is_trial {
            true => std::os::unix::process::parent_id(),
            false => std::process::id(),
        };
        let known = [legacy.supervisor, legacy.rootlesskit, legacy.keeper, legacy.daemon];
        let is_known = |identity: &Identity| {
            processes::read(identity.pid).is_some_and(|process| process.identity == *identity)
        };
        let parent = processes::read(legacy.rootlesskit.pid).map(|process| process.parent);
        let is_ours = legacy.supervisor.pid == own && parent == Some(own);
        if !is_ours || !known.iter().all(is_known) {
            return Err(refuse("what is handed over belongs to another process, or is stale"));
        }
        Ok(legacy)
    }

    /// Takes the lock of our directory.
    pub fn lock(&self) -> Result<File, Error> {
        take(self.lock).map(File::from).map_err(failed("the lock of our directory is lost"))
    }

    /// Returns where the data of the daemon that runs are.
    pub fn data_root(&self) -> &Path {
        &self.running.places.data_root
    }

    /// Returns where that daemon listens, if it is known.
    pub fn socket(&self) -> Option<&Path> {
        self.running.api.path()
    }

    fn descriptors(&self) -> Vec<RawFd> {
        let single = [self.lock, self.control, self.log, self.log_writer];
        self.listeners.iter().copied().chain(single).collect()
    }
}

/// Continues where another program has stopped, in the same process.
pub fn resume(task: Task<'_>, legacy: Legacy) -> Result<Outcome, Error> {
    processes::restore_earlier(&legacy.earlier);
    event_loop()?.block_on(async {
        let Status { restarts, replaced, heals, .. } = legacy.status;
        let machine = Machine::resume(restarts, replaced, heals);
        let taken = |number| take(number).map_err(failed("a descriptor is lost"));
        let listeners = legacy.listeners.iter().map(|fd| taken(*fd)).collect::<Result<_, _>>()?;
        let writer = PipeWriter::from(taken(legacy.log_writer)?);
        let log = log::Log::resume(taken(legacy.log)?.into()).map_err(failed(NO_LOG))?;
        let control = UnixStream::from(taken(legacy.control)?);
        let running = legacy.running.clone();
        let mut supervisor = Supervisor::new(task, running, machine, listeners, log, writer);
        supervisor.listen()?;
        supervisor.adopt(legacy, control).map_err(failed("cannot look after the daemon"))?;
        Ok(supervisor.work(Vec::new()).await)
    })
}

fn write(file: &mut File, legacy: &Legacy) -> io::Result<()> {
    let text = serde_json::to_vec(legacy)?;
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(&text)
}

/// Has a descriptor survive the execution that follows.
fn keep_open(number: RawFd) -> io::Result<()> {
    Ok(fcntl(borrow(number), FcntlArg::F_SETFD(FdFlag::empty())).map(drop)?)
}

fn borrow(number: RawFd) -> BorrowedFd<'static> {
    // SAFETY: the number comes from a description of what is open; if it is not, the kernel says so.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// Takes a descriptor over, which nothing that is started inherits.
fn take(number: RawFd) -> io::Result<OwnedFd> {
    fcntl(borrow(number), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: it is open, and was left to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
