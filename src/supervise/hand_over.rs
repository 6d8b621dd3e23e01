//! A new version of this program takes the place of the supervisor that runs: the process, its
//! children, its descriptors and the API's socket stay, and the program is another. What the next one
//! must know travels as JSON in a file that has no name.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::error::{Error, Exit};
use crate::plan::{Engine, LaunchPlan};
use crate::supervise::helper::Helper;
use crate::supervise::{
    Daemon, Input, Launch, Outcome, Supervisor, Task, hold_signals, log, process,
};
use crate::supervise::{Event, Machine, State, Status};
use crate::sys::tree;
use crate::sys::tree::Identity;

/// The command that takes over. Nobody types it.
pub const TAKE_OVER: &str = "supervisor-take-over";

/// What is handed over and understood. Another number is another arrangement, here or between us and
/// the keeper.
const FORMAT: u32 = 1;

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
    exec_root_is_new: bool,
    status: Status,
    plan: Running,
}

/// What the launch that runs was made with, whatever the settings say by now.
#[derive(Serialize, Deserialize)]
struct Running {
    rootlesskit: PathBuf,
    exec_root: PathBuf,
    data_root: PathBuf,
    state_dir: PathBuf,
    mtu: u32,
    has_helper: bool,
    detach_netns: bool,
    published: Vec<String>,
    engine: Option<Engine>,
    config: Option<PathBuf>,
    live_restore: bool,
    command: Vec<String>,
}

impl Supervisor<'_> {
    /// Becomes `program`, if that understands what it is handed over.
    ///
    /// # Errors
    /// Returns only if nothing comes of it, and then all is as it was.
    pub(super) fn hand_over(&mut self, program: &Path) -> Error {
        match self.try_hand_over(program) {
            Err(error) => error,
            Ok(never) => match never {},
        }
    }

    fn try_hand_over(&mut self, program: &Path) -> Result<std::convert::Infallible, Error> {
        let failed = |error: &dyn std::error::Error| {
            let what = format!("`{}` cannot take over", program.display());
            Error::new(Exit::Failed, what).because(error)
        };
        let busy = || failed(&io::Error::other("something is being started or healed just now"));
        let mut legacy = self.legacy(0).ok_or_else(busy)?;
        let file =
            memfd_create("hand-over", MFdFlags::MFD_CLOEXEC).map_err(|errno| failed(&errno))?;
        let mut file = File::from(file);
        write(&mut file, &legacy).map_err(|error| failed(&error))?;
        let number = file.as_raw_fd();
        let mut trial = self.successor(program, number, "try");
        let give = move || keep_open(number);
        // SAFETY: between fork and exec only system calls are made.
        unsafe { trial.pre_exec(give) };
        match process::brief(&mut trial) {
            Ok((status, _)) if status.success() => {}
            Ok((_, said)) => return Err(failed(&io::Error::other(said.trim().to_owned()))),
            Err(error) => return Err(failed(&error)),
        }
        info!("{} takes over", program.display());
        hold_signals()?;
        let Some(reader) = self.log.stop() else {
            return Err(failed(&io::Error::other("the log has been stopped")));
        };
        legacy.log = reader.as_raw_fd();
        let fds = legacy.descriptors();
        let done = write(&mut file, &legacy).and_then(|()| {
            fds.iter().chain([&number]).try_for_each(|fd| keep_open(*fd))?;
            Err::<(), _>(self.successor(program, number, "go").exec())
        });
        let error = done.err().unwrap_or_else(|| io::ErrorKind::Other.into());
        for fd in fds {
            let _ = fcntl(borrow(fd), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
        }
        match log::Log::resume(reader) {
            Ok(log) => self.log = log,
            Err(error) => warn!("what the daemon writes is lost: {error}"),
        }
        let _ = crate::supervise::release_signals();
        Err(failed(&error))
    }

    fn successor(&self, program: &Path, number: RawFd, mode: &str) -> Command {
        let mut command = Command::new(program);
        command
            .args([TAKE_OVER, mode, &number.to_string()])
            .args(&self.task.arguments)
            .stdin(Stdio::null());
        command
    }

    /// What the next one must know; `None` while something is under way that it could not go on with.
    fn legacy(&self, log: RawFd) -> Option<Legacy> {
        let launch = &self.launch;
        let (plan, host) = &self.task.first;
        if self.machine.state != State::Ready || launch.healing.is_some() {
            return None;
        }
        let text = |word: &OsString| word.to_str().map(str::to_owned);
        Some(Legacy {
            format: FORMAT,
            supervisor: tree::read(std::process::id())?.identity,
            earlier: tree::earlier(),
            rootlesskit: tree::read(launch.rootlesskit?)?.identity,
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
            exec_root_is_new: self.exec_root_is_new,
            status: self.status.clone(),
            plan: Running {
                rootlesskit: plan.rootlesskit.clone(),
                exec_root: plan.exec_root.clone(),
                data_root: host.session.places.data_root.clone(),
                state_dir: host.session.places.state_dir.clone(),
                mtu: plan.network.mtu,
                has_helper: plan.network.has_helper,
                detach_netns: plan.network.detach_netns,
                published: plan.network.published.clone(),
                engine: self.daemon.keep.engine.clone(),
                config: self.daemon.keep.config.clone(),
                live_restore: self.daemon.live_restore,
                command: self.daemon.command.iter().map(text).collect::<Option<_>>()?,
            },
        })
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
                .hint("a supervisor runs this command, and nobody else: dockerd-rootless restart")
        };
        let is_open = fcntl(borrow(number), FcntlArg::F_GETFD).is_ok();
        if number < 3 || !is_open {
            return Err(refuse("nothing is handed over"));
        }
        // SAFETY: it is open, and nothing else in this program owns it.
        let mut file = File::from(unsafe { OwnedFd::from_raw_fd(number) });
        let mut text = String::new();
        let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
        read.map_err(|error| refuse("what is handed over cannot be read").because(&error))?;
        let format = serde_json::from_str::<Format>(&text)
            .map_err(|error| refuse("what is handed over is not understood").because(&error))?;
        if format.format != FORMAT {
            return Err(refuse("what is handed over is of another version"));
        }
        let legacy: Self = serde_json::from_str(&text)
            .map_err(|error| refuse("what is handed over is not understood").because(&error))?;
        let own = match is_trial {
            true => std::os::unix::process::parent_id(),
            false => std::process::id(),
        };
        let is = |identity: Identity| {
            tree::read(identity.pid).is_some_and(|process| process.identity == identity)
        };
        let of_rootlesskit = tree::read(legacy.rootlesskit.pid);
        let is_own_child = of_rootlesskit
            .is_some_and(|process| process.identity == legacy.rootlesskit && process.parent == own);
        let is_ours = legacy.supervisor.pid == own && is(legacy.supervisor) && is_own_child;
        if !is_ours || !is(legacy.keeper) || !is(legacy.daemon) {
            return Err(refuse("what is handed over is another process's, or stale"));
        }
        Ok(legacy)
    }

    /// Where rootlesskit's state directory is.
    pub fn state_dir(&self) -> &Path {
        &self.plan.state_dir
    }

    /// The lock of our directory.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn lock(&self) -> io::Result<File> {
        Ok(File::from(take(self.lock)?))
    }

    /// Has `plan` be the one of the launch that runs.
    pub fn settle(&self, plan: &mut LaunchPlan) {
        let running = &self.plan;
        plan.rootlesskit.clone_from(&running.rootlesskit);
        plan.exec_root.clone_from(&running.exec_root);
        plan.network.mtu = running.mtu;
        plan.network.has_helper = running.has_helper;
        plan.network.detach_netns = running.detach_netns;
        plan.network.published.clone_from(&running.published);
        plan.keep.engine.clone_from(&running.engine);
        plan.keep.config.clone_from(&running.config);
        plan.keep.live_restore = running.live_restore;
        plan.stage.daemon = running.command.iter().map(OsString::from).collect();
    }

    /// Where the data of the daemon that runs are.
    pub fn data_root(&self) -> &Path {
        &self.plan.data_root
    }

    fn descriptors(&self) -> Vec<RawFd> {
        let single = [self.lock, self.control, self.log, self.log_writer];
        self.listeners.iter().copied().chain(single).collect()
    }
}

/// The part that stays the same in all arrangements.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// Goes on where another program has stopped, in the same process.
///
/// # Errors
/// What the system says if that cannot be; the kernel ends the daemon with us then.
pub fn resume(task: Task<'_>, legacy: Legacy) -> Result<Outcome, Error> {
    let failed =
        |what: &str, error: &io::Error| Error::new(Exit::Failed, what.to_owned()).because(error);
    tree::restore_earlier(&legacy.earlier);
    let runtime = crate::supervise::event_loop()?;
    runtime.block_on(async {
        let (inputs, received) = mpsc::unbounded_channel();
        let status = &legacy.status;
        let machine = Machine::resume(status.restarts, status.replaced, status.heals);
        let taken = |number| take(number).map_err(|error| failed("a descriptor is lost", &error));
        let listeners = legacy.listeners.iter().map(|fd| taken(*fd));
        let listeners = listeners.collect::<Result<Vec<_>, _>>()?;
        let writer = io::PipeWriter::from(taken(legacy.log_writer)?);
        let log = log::Log::resume(taken(legacy.log)?.into())
            .map_err(|error| failed("the log cannot be passed on", &error))?;
        let control = UnixStream::from(taken(legacy.control)?);
        let mut supervisor = Supervisor::assemble(task, machine, inputs, listeners, log, writer);
        supervisor.exec_root_is_new = legacy.exec_root_is_new;
        supervisor
            .adopt(legacy, control)
            .map_err(|error| failed("the daemon cannot be looked after", &error))?;
        Ok(supervisor.work(received, Vec::new()).await)
    })
}

impl Supervisor<'_> {
    /// Looks after a daemon that another program has started in this process.
    fn adopt(&mut self, legacy: Legacy, control: UnixStream) -> io::Result<()> {
        self.number = 1;
        self.turn = 1;
        self.status = Status { supervisor: std::process::id(), ..legacy.status };
        self.socket = self.task.api.own().and_then(crate::supervise::places::Name::of_socket);
        self.daemon = Daemon {
            command: self.task.first.0.stage.daemon.clone(),
            live_restore: legacy.plan.live_restore,
            keep: self.task.first.0.keep.clone(),
        };
        let daemon = tree::open(legacy.daemon)?;
        self.launch = Launch {
            rootlesskit: Some(legacy.rootlesskit.pid),
            child: legacy.child,
            keeper: Some(legacy.keeper),
            daemon: Some((legacy.daemon, daemon)),
            engine: legacy.engine,
            wants_helper: legacy.plan.has_helper,
            has_answered: true,
            phase: "dockerd answers",
            ..Launch::default()
        };
        self.listen()?;
        self.speak_with_keeper(control)?;
        self.watch(legacy.keeper, Input::Fell(self.number));
        if let Some(child) = legacy.child {
            self.watch(child, Input::Fell(self.number));
        }
        match legacy.helper {
            Some(helper) if tree::is_there(helper.identity) => {
                self.watch(helper.identity, Input::HelperGone(self.number));
                self.launch.helper = Some(helper);
            }
            lost => {
                self.launch.lost = lost;
                if self.launch.wants_helper {
                    self.raise(Event::HelperDied);
                }
            }
        }
        self.keep_places();
        self.watch_places();
        self.look_after(legacy.daemon);
        self.note_program(crate::supervise::news::SUPERVISOR);
        self.write_status();
        info!("this version has taken over");
        // What ended meanwhile has said so to nobody.
        let _ = self.inputs.send(Input::Signal(nix::sys::signal::Signal::SIGCHLD));
        Ok(())
    }
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
    // SAFETY: whoever calls has found it in a description of what is open; if it is not, the kernel
    // says so.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// Takes a descriptor over, which nothing that is started inherits.
fn take(number: RawFd) -> io::Result<OwnedFd> {
    fcntl(borrow(number), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: it is open, and was left to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
