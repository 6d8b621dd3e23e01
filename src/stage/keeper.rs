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
use tracing::warn;

use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::plan::Engine;
use crate::stage::namespace::{self, Prepared};
use crate::stage::orders::{self, Inbox, Order, Report, Sibling};
use crate::sys::{files, notify, process, processes, sockets};

/// How often a containerd that starts is tried, in milliseconds, and for how long.
const TRY_ENGINE: u8 = 4;
const ENGINE_STARTS: Duration = Duration::from_secs(10);

/// Stays until the supervisor says [`Order::End`] at the connection with this descriptor.
pub fn keep(prepared: Prepared, control: u32, environment: &Environment) -> Result<Exit, Error> {
    run(prepared, control, environment)
        .map_err(|error| Error::new(Exit::Failed, "the keeper failed").because(&error))
}

fn run(prepared: Prepared, control: u32, environment: &Environment) -> io::Result<Exit> {
    process::adopt_orphans()?;
    let control = RawFd::try_from(control).map_err(io::Error::other)?;
    // SAFETY: the supervisor has left a descriptor of this number to us alone.
    let control = unsafe { OwnedFd::from_raw_fd(control) };
    fcntl(&control, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // rootlesskit passes signals on. None is meant for us: the supervisor signals dockerd itself, and
    // a signal to rootlesskit must not end containers.
    let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&SigSet::all(), flags)?;
    process::trim();
    let mut keeper = Keeper {
        prepared,
        environment,
        mask,
        control: control.into(),
        siblings: Vec::new(),
        awaited: None,
        ordered: None,
        ends: false,
    };
    keeper.announce(notify::KEEPER)?;
    keeper.work(&signals)
}

struct Keeper<'a> {
    prepared: Prepared,
    environment: &'a Environment,
    /// The signals that are blocked for others.
    mask: SigSet,
    control: UnixStream,
    /// What runs, and the files that name it.
    siblings: Vec<(Sibling, u32, PathBuf)>,
    /// Where a containerd that starts will take connections, and until when that is awaited.
    awaited: Option<(PathBuf, Instant)>,
    /// A dockerd that waits for it, and the file that will name it.
    ordered: Option<(PathBuf, Vec<OsString>)>,
    /// Whether nothing starts any more.
    ends: bool,
}

impl Keeper<'_> {
    fn work(&mut self, signals: &SignalFd) -> io::Result<Exit> {
        let mut inbox = Inbox::default();
        while !self.ends || !self.siblings.is_empty() {
            let timeout = self.awaited.as_ref().map_or(PollTimeout::NONE, |_| TRY_ENGINE.into());
            let mut polled = [signals.as_fd(), self.control.as_fd()]
                .map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            match poll(&mut polled, timeout) {
                Err(Errno::EINTR) => continue,
                polled => polled?,
            };
            let [has_signal, has_order] = polled.map(|polled| polled.any() == Some(true));
            while has_signal && let Some(info) = signals.read_signal()? {
                match Signal::try_from(info.ssi_signo.cast_signed()) {
                    Ok(Signal::SIGCHLD) => self.reap()?,
                    Ok(signal @ (Signal::SIGTERM | Signal::SIGINT)) => warn!(
                        "ignoring {signal} to rootlesskit; to stop the daemon: \
                         systemctl --user stop docker, or signal the supervisor"
                    ),
                    _ => {}
                }
            }
            if has_order {
                let mut piece = [0; 4096];
                match self.control.read(&mut piece)? {
                    // Without a supervisor all of this ends with us.
                    0 => return Ok(Exit::Failed),
                    count => inbox.fill(&piece[..count]),
                }
            }
            while let Some(order) = inbox.receive() {
                self.obey(order)?;
            }
            self.look_for_engine()?;
        }
        Ok(Exit::Good)
    }

    fn obey(&mut self, order: Order) -> io::Result<()> {
        match order {
            Order::Engine(engine) if !self.ends && !self.has(Sibling::Engine) => {
                match self.start_engine(&engine) {
                    Ok(()) => self.awaited = Some((engine.socket, Instant::now() + ENGINE_STARTS)),
                    Err(error) => {
                        warn!("containerd cannot be started: {error}");
                        self.tell(Report::Ended(Sibling::Engine, 126))?;
                    }
                }
            }
            Order::Daemon { pid_file, command } if !self.ends && !self.has(Sibling::Daemon) => {
                self.ordered = Some((pid_file.into(), command));
            }
            Order::End => {
                self.ends = true;
                self.ordered = None;
                for (_, pid, _) in &self.siblings {
                    // None is reaped yet, so that the number is its own.
                    let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM);
                }
            }
            Order::Engine(_) | Order::Daemon { .. } => {}
        }
        Ok(())
    }

    fn has(&self, sibling: Sibling) -> bool {
        self.siblings.iter().any(|(own, ..)| *own == sibling)
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
            self.start(&command, Sibling::Daemon, pid_file)?;
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
        let pid_file = directory.join("containerd.pid");
        let pid = self.start(&engine.command, Sibling::Engine, pid_file.clone())?;
        fs::write(pid_file, pid.to_string())
    }

    /// Starts a sibling, which ends with us.
    fn start(
        &mut self,
        command: &[OsString],
        sibling: Sibling,
        pid_file: PathBuf,
    ) -> io::Result<u32> {
        let parent = Pid::this();
        // SAFETY: there is no other thread, so that the child may do all that we may.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => {
                let pid = child.as_raw().cast_unsigned();
                self.siblings.push((sibling, pid, pid_file));
                Ok(pid)
            }
            ForkResult::Child => {
                let error = self.become_sibling(command, sibling, parent);
                let error = error.unwrap_or_else(|error| {
                    Error::new(Exit::Failed, "a program cannot be started").because(&error)
                });
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
        let socket = self.environment.get("NOTIFY_SOCKET");
        socket.map_or(Ok(()), |socket| notify::announce(socket, what))
    }

    fn reap(&mut self) -> io::Result<()> {
        while let Some((pid, how)) = processes::reap() {
            if let Some(index) = self.siblings.iter().position(|(_, own, _)| *own == pid) {
                let (sibling, _, pid_file) = self.siblings.remove(index);
                forget_pid(&pid_file, pid);
                self.tell(Report::Ended(sibling, how.code()))?;
            }
        }
        if !self.has(Sibling::Engine) {
            self.awaited = None;
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
