//! Our own directory while we run: the lock, the notify socket and the status; and the API socket.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{F_UNLCK, F_WRLCK, SEEK_SET, flock};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, getsockopt, listen, socket,
};
use nix::sys::stat::{Mode, fchmod, umask};

use super::tree;
use crate::error::{Error, Exit};
use crate::supervise::Status;

/// The names in our directory.
const LOCK: &str = "lock";
const NOTIFY: &str = "notify";
const STATUS: &str = "status.json";
const STATUS_NEW: &str = "status.json.new";

/// How many connections may wait while the daemon restarts.
const BACKLOG: i32 = 4096;

/// Our directory, locked.
pub struct RunDir {
    path: PathBuf,
    lock: Option<File>,
}

impl RunDir {
    /// Makes `path` if it is missing, and takes its lock.
    ///
    /// # Errors
    /// Fails if it is not ours alone (exit 4), and if another instance holds the lock (exit 5).
    pub fn take(path: &Path) -> Result<Self, Error> {
        Ok(Self {
            lock: Some(lock(path)?),
            path: path.to_owned(),
        })
    }

    /// The same once more, after somebody has removed it or what is in it.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub fn renew(&mut self) -> Result<(), Error> {
        // The one that is held may still have its name.
        self.lock = None;
        self.lock = Some(lock(&self.path)?);
        Ok(())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the daemon tells that it is ready.
    pub fn notify(&self) -> PathBuf {
        self.path.join(NOTIFY)
    }

    /// Writes the status. A reader sees the old one or the new one.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&self, status: &Status) -> io::Result<()> {
        let new = self.path.join(STATUS_NEW);
        fs::write(&new, serde_json::to_vec(status)?)?;
        fs::rename(new, self.path.join(STATUS))
    }

    /// Whether the lock is still the one that others find, and the daemon finds where to tell.
    pub fn is_there(&self) -> bool {
        self.is_ours() && self.path.join(NOTIFY).exists()
    }

    /// Whether the lock's name leads to what we have locked: the directory may have been removed,
    /// and made again by another instance.
    fn is_ours(&self) -> bool {
        let held = self.lock.as_ref().and_then(|lock| lock.metadata().ok());
        let named = fs::symlink_metadata(self.path.join(LOCK)).ok();
        let identity = |found: fs::Metadata| (found.dev(), found.ino());
        held.is_some() && held.map(identity) == named.map(identity)
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if !self.is_ours() {
            return;
        }
        for name in [STATUS, STATUS_NEW, NOTIFY, LOCK] {
            let _ = fs::remove_file(self.path.join(name));
        }
        let _ = fs::remove_dir(&self.path);
    }
}

/// Makes the directory `path` if it is missing, and takes the lock in it.
fn lock(path: &Path) -> Result<File, Error> {
    let failed = |what: &str, error: &io::Error| {
        Error::new(Exit::Failed, format!("`{}` {what}", path.display()))
            .because(error)
            .check("runtime-dir")
    };
    loop {
        make_own(path, failed)?;
        let opened = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(path.join(LOCK));
        let mut lock = match opened {
            Ok(lock) => lock,
            // Another instance has just ended, and removed the directory.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed("cannot be locked", &error)),
        };
        match fcntl(&lock, FcntlArg::F_SETLK(&exclusive())) {
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::EACCES) => match holder(&lock) {
                Some(pid) => return Err(already_running(path, pid)),
                None => continue,
            },
            Err(errno) => return Err(failed("cannot be locked", &errno.into())),
        }
        // One who ends removes the file while it holds the lock: it may be nobody's by now.
        let found = fs::symlink_metadata(path.join(LOCK)).map(|found| found.ino());
        let own = lock.metadata().map(|own| own.ino());
        if found.ok() != own.ok() {
            continue;
        }
        lock.set_len(0)
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(|error| failed("cannot be written", &error))?;
        return Ok(lock);
    }
}

/// Makes the directory `path` if it is missing, and sees that it is ours alone.
fn make_own(path: &Path, failed: impl Fn(&str, &io::Error) -> Error) -> Result<(), Error> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(failed("cannot be made", &error));
        }
        _ => {}
    }
    let found = match fs::symlink_metadata(path) {
        // Another instance has just ended, and removed it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(|error| failed("cannot be read", &error))?,
    };
    let is_ours = found.is_dir() && found.uid() == crate::os::session::uid();
    if !is_ours || found.mode() & 0o077 != 0 {
        return Err(Error::new(
            Exit::Prerequisite,
            format!("`{}` is not a directory of yours alone", path.display()),
        )
        .hint(format!("rm -r {}", path.display())));
    }
    Ok(())
}

/// A lock on a whole file. It is a process's (fcntl(2)): the kernel tells whose, before anything is
/// written, and whoever asks takes nothing.
fn exclusive() -> flock {
    flock {
        l_type: F_WRLCK as i16,
        l_whence: SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// The process that has the lock, if one does.
fn holder(lock: &File) -> Option<i32> {
    let mut found = exclusive();
    fcntl(lock, FcntlArg::F_GETLK(&mut found)).ok()?;
    (i32::from(found.l_type) != F_UNLCK).then_some(found.l_pid)
}

/// The status of the instance that runs, if one does; what is there otherwise was left.
pub fn read_status(path: &Path) -> Option<Status> {
    holder(&File::open(path.join(LOCK)).ok()?)?;
    serde_json::from_slice(&fs::read(path.join(STATUS)).ok()?).ok()
}

/// The error for a second instance.
fn already_running(path: &Path, pid: i32) -> Error {
    Error::new(
        Exit::AlreadyRunning,
        format!(
            "dockerd-rootless is running already (PID {pid}): it holds `{}`",
            path.join(LOCK).display()
        ),
    )
    .hint("dockerd-rootless status")
}

/// Listens at `path`, for us alone or stricter. A socket at which nobody listens any more goes.
///
/// # Errors
/// Fails if somebody listens there (exit 5), or if something else is there.
pub fn listen_at(path: &Path) -> Result<OwnedFd, Error> {
    let failed = |error: io::Error| {
        Error::new(
            Exit::Failed,
            format!("the socket `{}` cannot be made", path.display()),
        )
        .because(&error)
        .check("socket-path")
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(Error::new(
                Exit::Failed,
                format!("`{}` is in the way, and is no socket", path.display()),
            )
            .hint(format!("move it away: mv {0} {0}.old", path.display())));
        }
        Ok(_) => match listener(path) {
            Some(pid) => {
                return Err(Error::new(
                    Exit::AlreadyRunning,
                    format!("another daemon (PID {pid}) listens on `{}`", path.display()),
                )
                .hint("stop it: systemctl --user stop docker"));
            }
            None => fs::remove_file(path).map_err(failed)?,
        },
    }
    let listen = || -> nix::Result<OwnedFd> {
        let fd = socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        // Before it has a name, so that at no time others can connect. The name gets what the mask
        // leaves of this mode.
        let mode = Mode::from_bits_truncate(0o660);
        fchmod(&fd, mode)?;
        let usual = umask(Mode::all() & !mode);
        let bound = UnixAddr::new(path).and_then(|address| bind(fd.as_raw_fd(), &address));
        umask(usual);
        bound?;
        listen(&fd, Backlog::new(BACKLOG)?)?;
        Ok(fd)
    };
    listen().map_err(|errno| failed(errno.into()))
}

/// The process that has made the socket at `path` listen, if somebody does and that process lives; 0
/// for one in another PID namespace. Heirs of a supervisor that was killed may hold its socket for a
/// moment, or longer: they are ours to end.
fn listener(path: &Path) -> Option<i32> {
    let stream = UnixStream::connect(path).ok()?;
    let pid = getsockopt(&stream, PeerCredentials).ok()?.pid();
    let Ok(number @ 1..) = u32::try_from(pid) else {
        return Some(0);
    };
    tree::read(number)
        .filter(|process| !process.zombie)
        .map(|_| pid)
}

/// Watches the directories in which what the daemon needs has its name.
///
/// # Errors
/// What the system says.
pub fn watch(directories: &[&Path]) -> io::Result<OwnedFd> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    let flags = AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_UNMOUNT
        | AddWatchFlags::IN_ONLYDIR;
    for directory in directories {
        inotify.add_watch(*directory, flags)?;
    }
    inotify.as_fd().try_clone_to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::fd::IntoRawFd;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A shell that listens at `path` and runs `script`, to whose programs it hands the socket.
    fn shell(path: &Path, script: &str) -> Child {
        let path = path.to_owned();
        let listen_there = move || {
            let nothing = SockFlag::empty();
            let fd = socket(AddressFamily::Unix, SockType::Stream, nothing, None)?;
            bind(fd.as_raw_fd(), &UnixAddr::new(&path)?)?;
            listen(&fd, Backlog::new(1)?)?;
            let _stays_open = fd.into_raw_fd();
            Ok(())
        };
        let mut shell = Command::new("sh");
        // SAFETY: between fork and exec system calls are made, and an address is copied.
        unsafe { shell.pre_exec(listen_there) };
        shell
            .args(["-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh")
    }

    #[test]
    fn a_socket_is_somebodys_as_long_as_the_one_lives_who_listens() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("docker.sock");
        let mut owner = shell(&path, "exec sleep 600");
        let refused = listen_at(&path).expect_err("it lives");
        assert_eq!(refused.exit(), Exit::AlreadyRunning);
        let named = format!("(PID {})", owner.id());
        assert!(refused.to_string().contains(&named), "{refused}");
        owner.kill().expect("it is our child");
        owner.wait().expect("it ends");
        fs::remove_file(&path).expect("the socket");

        let mut owner = shell(&path, "sleep 600 >/dev/null & echo $!");
        let mut heir = String::new();
        let output = owner.stdout.take().expect("a pipe");
        BufReader::new(output).read_line(&mut heir).expect("a PID");
        owner.wait().expect("it ends");
        assert!(UnixStream::connect(&path).is_ok(), "its heir listens");
        let taken = listen_at(&path);
        let heir = heir.trim().parse().expect("a PID");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(heir), nix::sys::signal::SIGKILL)
            .expect("it is ours");
        taken.expect("nobody's socket");
    }
}
