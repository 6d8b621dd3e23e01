//! The keeper: the process in the namespaces that stays. Below it containerd, dockerd and the
//! containers' shims live side by side. It starts the first two when the supervisor says so, reaps,
//! and reports each end: rootlesskit would make 255 of every signal. It decides nothing.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{ForkResult, Pid, fork, getppid};
use tracing::{debug, warn};

use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::plan::Engine;
use crate::stage::namespace;
use crate::stage::namespace::Prepared;
use crate::stage::orders;
use crate::stage::orders::{Inbox, Order, Report, Sibling};
use crate::sys::{files, process, sockets};
use crate::sys::{notify, processes};

/// What rootlesskit passes on. None of it is meant for us: the supervisor signals dockerd itself, and
/// a signal to rootlesskit must not end containers.
const PASSED_ON: [Signal; 6] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// How often a containerd that starts is tried, and for how long.
const TRY_ENGINE: Duration = Duration::from_millis(4);
const ENGINE_STARTS: Duration = Duration::from_secs(10);

/// Stays until the supervisor says [`Order::End`] at the connection with this descriptor.
pub fn keep(prepared: Prepared, control: u32, environment: &Environment) -> Result<Exit, Error> {
    run(prepared, control, environment)
        .map_err(|error| Error::new(Exit::Failed, "the keeper failed").because(&error))
}

fn run(prepared: Prepared, control: u32, environment: &Environment) -> io::Result<Exit> {
    process::adopt_orphans()?;
    let control = adopt(control)?;
    let signals = SigSet::from_iter(PASSED_ON.into_iter().chain([Signal::SIGCHLD]));
    let mask = signals.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let receiver = SignalFd::with_flags(&signals, flags)?;
    let mut keeper = Keeper {
        prepared,
        environment,
        mask,
        control,
        inbox: Inbox::default(),
        engine: None,
        awaited: None,
        daemon: None,
        ordered: None,
        ends: false,
    };
    process::trim();
    keeper.announce(notify::KEEPER)?;
    keeper.work(&receiver)
}

/// The connection that crossed rootlesskit; nothing that is started here inherits it.
fn adopt(number: u32) -> io::Result<UnixStream> {
    let number = RawFd::try_from(number).map_err(io::Error::other)?;
    // SAFETY: the supervisor has left a descriptor of this number to us alone.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(fd.into())
}

struct Keeper<'a> {
    prepared: Prepared,
    environment: &'a Environment,
    /// The signals that are blocked for others.
    mask: SigSet,
    control: UnixStream,
    inbox: Inbox,
    /// containerd, and the file that names it.
    engine: Option<(u32, PathBuf)>,
    /// Where a containerd that starts will take connections, and until when that is awaited.
    awaited: Option<(PathBuf, Instant)>,
    /// dockerd, and the file that names it.
    daemon: Option<(u32, PathBuf)>,
    /// A dockerd that is to start.
    ordered: Option<(PathBuf, Vec<OsString>)>,
    /// Whether nothing starts any more.
    ends: bool,
}

impl Keeper<'_> {
    fn work(&mut self, receiver: &SignalFd) -> io::Result<Exit> {
        loop {
            if self.ends && self.engine.is_none() && self.daemon.is_none() {
                return Ok(Exit::Good);
            }
            let (has_signal, has_order) = self.wait(receiver)?;
            while has_signal && let Some(info) = receiver.read_signal()? {
                match Signal::try_from(info.ssi_signo.cast_signed()) {
                    Ok(Signal::SIGCHLD) => self.reap()?,
                    Ok(signal @ (Signal::SIGTERM | Signal::SIGINT)) => warn!(
                        "ignoring {signal} to rootlesskit; to stop the daemon: \
                         systemctl --user stop docker, or signal the supervisor"
                    ),
                    other => debug!("ignoring a signal to rootlesskit: {other:?}"),
                }
            }
            if has_order {
                let mut piece = [0; 4096];
                match self.control.read(&mut piece)? {
                    // Without a supervisor all of this ends with us.
                    0 => return Ok(Exit::Failed),
                    count => self.inbox.fill(&piece[..count]),
                }
            }
            while let Some(order) = self.inbox.receive() {
                self.obey(order)?;
            }
            self.look_for_engine()?;
        }
    }

    /// Waits for a signal or an order.
    fn wait(&self, receiver: &SignalFd) -> io::Result<(bool, bool)> {
        let timeout = match self.awaited {
            Some(_) => PollTimeout::try_from(TRY_ENGINE).unwrap_or(PollTimeout::ZERO),
            None => PollTimeout::NONE,
        };
        let mut fds =
            [receiver.as_fd(), self.control.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut fds, timeout) {
            Ok(_) => Ok((fds[0].any() == Some(true), fds[1].any() == Some(true))),
            Err(Errno::EINTR) => Ok((false, false)),
            Err(errno) => Err(errno.into()),
        }
    }

    fn obey(&mut self, order: Order) -> io::Result<()> {
        match order {
            Order::Engine(engine) if self.engine.is_none() && !self.ends => {
                match self.start_engine(&engine) {
                    Ok(()) => self.awaited = Some((engine.socket, Instant::now() + ENGINE_STARTS)),
                    Err(error) => {
                        warn!("containerd cannot be started: {error}");
                        self.tell(Report::Ended(Sibling::Engine, 126))?;
                    }
                }
            }
            Order::Daemon { pid_file, command } if self.daemon.is_none() && !self.ends => {
                self.ordered = Some((pid_file.into(), command));
            }
            Order::End => {
                self.ends = true;
                self.ordered = None;
                for (pid, _) in self.daemon.iter().chain(&self.engine) {
                    // Neither is reaped yet, so that the number is its own.
                    let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM);
                }
            }
            Order::Engine(_) | Order::Daemon { .. } => {}
        }
        Ok(())
    }

    /// Looks whether a containerd that starts takes connections, and starts the dockerd that waits
    /// for it.
    fn look_for_engine(&mut self) -> io::Result<()> {
        if let Some((socket, until)) = &self.awaited {
            if UnixStream::connect(socket).is_err() && Instant::now() < *until {
                return Ok(());
            }
            self.awaited = None;
            self.tell(Report::EngineUp)?;
        }
        if let Some((pid_file, command)) = self.ordered.take() {
            let pid = self.start(&command, Sibling::Daemon)?;
            self.daemon = Some((pid, pid_file));
        }
        Ok(())
    }

    /// Starts containerd as dockerd does, in the same places.
    fn start_engine(&mut self, engine: &Engine) -> io::Result<()> {
        let directory = engine.config_file.parent().unwrap_or(Path::new("/"));
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        // Only the containerd that starts next reads it.
        fs::write(&engine.config_file, &engine.config)?;
        let _ = fs::remove_file(&engine.socket);
        let pid = self.start(&engine.command, Sibling::Engine)?;
        let pid_file = directory.join("containerd.pid");
        fs::write(&pid_file, pid.to_string())?;
        self.engine = Some((pid, pid_file));
        Ok(())
    }

    /// Starts a sibling, which ends with us.
    fn start(&self, command: &[OsString], sibling: Sibling) -> io::Result<u32> {
        let parent = Pid::this();
        // SAFETY: there is no other thread, so that the child may do all that we may.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(child.as_raw().cast_unsigned()),
            ForkResult::Child => {
                let error = match self.become_sibling(command, sibling, parent) {
                    Ok(error) => error,
                    Err(error) => {
                        Error::new(Exit::Failed, "a program cannot be started").because(&error)
                    }
                };
                eprint!("{}", error.render());
                std::process::exit(error.exit().code().into());
            }
        }
    }

    fn become_sibling(
        &self,
        command: &[OsString],
        sibling: Sibling,
        parent: Pid,
    ) -> io::Result<Error> {
        process::die_with_parent()?;
        if getppid() != parent {
            return Err(Errno::ESRCH.into());
        }
        self.mask.thread_set_mask()?;
        let mut command = self.prepared.command(command);
        match sibling {
            Sibling::Daemon => self.announce(notify::DAEMON)?,
            Sibling::Engine => {
                self.announce(notify::ENGINE)?;
                // As the containerd that dockerd starts.
                umask(Mode::empty());
                command.env_remove("NOTIFY_SOCKET").env_remove("LISTEN_FDS");
                sockets::forget(self.prepared.listen_fds)?;
            }
        }
        Ok(namespace::execute(command))
    }

    fn announce(&self, what: &str) -> io::Result<()> {
        match self.environment.get("NOTIFY_SOCKET") {
            Some(socket) => notify::announce(socket, what),
            None => Ok(()),
        }
    }

    fn reap(&mut self) -> io::Result<()> {
        while let Some((pid, how)) = processes::reap() {
            for (sibling, known) in
                [(Sibling::Engine, &mut self.engine), (Sibling::Daemon, &mut self.daemon)]
            {
                if let Some((_, pid_file)) = known.take_if(|(own, _)| *own == pid) {
                    forget_pid(&pid_file, pid);
                    let report = Report::Ended(sibling, how.code());
                    self.control.write_all(&orders::line(&report)?)?;
                }
            }
            if self.engine.is_none() {
                self.awaited = None;
            }
        }
        Ok(())
    }

    fn tell(&mut self, report: Report) -> io::Result<()> {
        self.control.write_all(&orders::line(&report)?)
    }
}

/// Removes the file that names a process of ours that has ended: another of the same number would be
/// taken for it.
fn forget_pid(pid_file: &Path, pid: u32) {
    let named = files::read_regular(pid_file, 64).ok().flatten();
    if named.is_some_and(|text| text.trim_ascii() == pid.to_string().as_bytes()) {
        let _ = fs::remove_file(pid_file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_goes_only_with_the_process_that_it_names() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("docker.pid");
        for (text, stays) in [("7", false), ("7\n", false), ("77", true), ("thesis", true)] {
            fs::write(&path, text).expect("a file");
            forget_pid(&path, 7);
            assert_eq!(path.exists(), stays, "{text}");
        }
    }
}
