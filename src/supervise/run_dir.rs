//! Our own directory while we run: the lock, the notify socket and the status; and the API socket.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
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
use tracing::debug;

use crate::error::{Error, Exit};
use crate::facts::look;
use crate::supervise::Status;
use crate::supervise::quiet;
use crate::sys::files;
use crate::sys::processes;

/// The names in our directory.
const LOCK: &str = "lock";
const NOTIFY: &str = "notify";
const STATUS: &str = "status.json";
const STATUS_NEW: &str = "status.json.new";
const DAEMON_JSON: &str = "daemon.json";
const KEPT: &str = "kept";

/// The lock in a data root.
const DATA_LOCK: &str = ".dockerd-rootless.lock";

/// How many connections may wait while the daemon restarts.
const BACKLOG: i32 = 4096;

/// Our directory, locked.
pub struct RunDir {
    path: PathBuf,
    lock: Option<File>,
    /// What has a second name in [`KEPT`], which is its place here.
    kept: Vec<Name>,
}

/// A name, and what it led to: somebody may remove it, and make something else there.
#[derive(Clone, Debug)]
pub struct Name {
    path: PathBuf,
    /// The device and the inode.
    file: (u64, u64),
}

impl Name {
    fn of(path: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), file: (found.dev(), found.ino()) })
    }

    /// The name of a socket of ours.
    pub fn of_socket(path: &Path) -> Option<Self> {
        Self::of(path).ok()
    }

    /// Whether it still leads there.
    pub fn is_there(&self) -> bool {
        Self::of(&self.path).is_ok_and(|now| now.file == self.file)
    }

    /// Removes it, if it still leads there.
    pub fn remove(&self) {
        if self.is_there() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl RunDir {
    /// Makes `path` if it is missing, and takes its lock.
    ///
    /// # Errors
    /// Fails if it is not ours alone (exit 4), and if another instance holds the lock (exit 5).
    pub fn take(path: &Path) -> Result<Self, Error> {
        Ok(Self { lock: Some(lock(path)?), path: path.to_owned(), kept: Vec::new() })
    }

    /// The same with the lock that another program in this process has taken.
    pub fn resume(path: &Path, lock: File) -> Self {
        Self { path: path.to_owned(), lock: Some(lock), kept: Vec::new() }
    }

    /// The lock's descriptor.
    pub fn lock_fd(&self) -> Option<RawFd> {
        self.lock.as_ref().map(AsRawFd::as_raw_fd)
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

    /// Where people ask for something.
    pub fn control(&self) -> PathBuf {
        self.path.join(crate::supervise::control::SOCKET)
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
        let named = Name::of(&self.path.join(LOCK)).ok();
        held.is_some_and(|held| named.is_some_and(|named| named.file == (held.dev(), held.ino())))
    }

    /// Gives the sockets, pipes and files among `paths` and in the directories among them second
    /// names in here, in the place of those from an earlier call. What cannot have one, as on
    /// another file system, has none.
    pub fn keep_links(&mut self, paths: &[PathBuf]) {
        self.forget_links();
        let directory = self.path.join(KEPT);
        if let Err(error) = DirBuilder::new().mode(0o700).create(&directory) {
            debug!("{} cannot be made: {error}", directory.display());
            return;
        }
        let inside = |path: &PathBuf| match fs::read_dir(path) {
            Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
            Err(_) => vec![path.clone()],
        };
        for path in paths.iter().flat_map(inside) {
            let kind = fs::symlink_metadata(&path).map(|found| found.file_type());
            if !kind.is_ok_and(|kind| kind.is_file() || kind.is_socket() || kind.is_fifo()) {
                continue;
            }
            let second = directory.join(self.kept.len().to_string());
            match fs::hard_link(&path, second).and_then(|()| Name::of(&path)) {
                Ok(name) => self.kept.push(name),
                Err(error) => debug!("{} has no second name: {error}", path.display()),
            }
        }
    }

    /// Gives what [`Self::keep_links`] has kept its first name again, where that is missing: whoever
    /// listens there goes on. Says whether all names lead where they did; what was not kept may
    /// still be missing.
    ///
    /// # Errors
    /// What the system says.
    pub fn link_back(&self) -> io::Result<bool> {
        for (index, name) in self.kept.iter().enumerate() {
            if let Some(parent) = name.path.parent()
                && let Err(error) = DirBuilder::new().mode(0o700).create(parent)
                && error.kind() != io::ErrorKind::AlreadyExists
            {
                return Err(error);
            }
            match fs::hard_link(self.path.join(KEPT).join(index.to_string()), &name.path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                linked => linked?,
            }
        }
        Ok(self.kept.iter().all(Name::is_there))
    }

    /// Whether all that is kept has its first name.
    pub fn has_all(&self) -> bool {
        self.kept.iter().all(Name::is_there)
    }

    /// Forgets what [`Self::keep_links`] has kept, and what a killed supervisor has.
    pub fn forget_links(&mut self) {
        self.kept.clear();
        let _ = fs::remove_dir_all(self.path.join(KEPT));
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if !self.is_ours() {
            return;
        }
        self.forget_links();
        for name in
            [STATUS, STATUS_NEW, NOTIFY, crate::supervise::control::SOCKET, DAEMON_JSON, LOCK]
        {
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
    let is_ours = found.is_dir() && found.uid() == crate::facts::look::uid();
    if !is_ours || found.mode() & 0o077 != 0 {
        return Err(Error::new(
            Exit::Prerequisite,
            format!("`{}` is not a directory of yours alone", path.display()),
        )
        .hint(format!("rm -r {}", path.display())));
    }
    Ok(())
}

/// Locks the data root of a daemon, which others may reach by way of another runtime directory. A
/// directory that is missing is made with its parents, as dockerd makes it. The lock holds as long as
/// the file is open, which no program inherits.
///
/// Where there can be no lock, as on a file system that cannot be written or knows none, there is
/// none: this is a belt beside [`RunDir`]'s braces.
///
/// # Errors
/// If somebody holds it (exit 5).
pub fn lock_data_root(data_root: &Path) -> Result<Option<File>, Error> {
    let shown = data_root.display();
    let made = DirBuilder::new().recursive(true).mode(0o710).create(data_root);
    let opened = made.and_then(|()| files::open_own(&data_root.join(DATA_LOCK)));
    let locked = opened.map(|file| (file.try_lock(), file));
    match locked {
        Ok((Ok(()), file)) => Ok(Some(file)),
        Ok((Err(TryLockError::WouldBlock), file)) => {
            let holder = file.metadata().ok();
            let holder = holder.and_then(|found| look::lock_holder(&found));
            let by = holder.map_or_else(String::new, |pid| format!(" (PID {pid})"));
            Err(Error::new(
                Exit::AlreadyRunning,
                format!("another daemon{by} runs on `{shown}`"),
            )
            .hint(
                "use that daemon, or stop it first: systemctl --user stop docker, or kill the PID",
            ))
        }
        Ok((Err(TryLockError::Error(error)), _)) | Err(error) => {
            debug!("{shown} is not locked: {error}");
            Ok(None)
        }
    }
}

/// A lock on a whole file. It is a process's (fcntl(2)): the kernel tells whose, before anything is
/// written, and whoever asks takes nothing.
fn exclusive() -> flock {
    flock { l_type: F_WRLCK as i16, l_whence: SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 }
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

/// Listens at `path`, for us alone. A socket at which nobody listens any more goes. Returns the name
/// as well, for when it is to go.
///
/// # Errors
/// Fails if somebody listens there (exit 5), or if something else is there.
pub fn listen_at(path: &Path) -> Result<(OwnedFd, Name), Error> {
    let failed = |error: io::Error| {
        Error::new(Exit::Failed, format!("the socket `{}` cannot be made", path.display()))
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
                let by = match pid {
                    0 => String::new(),
                    pid => format!(" (PID {pid})"),
                };
                return Err(Error::new(
                    Exit::AlreadyRunning,
                    format!("another daemon{by} listens on `{}`", path.display()),
                )
                .hint("stop it: systemctl --user stop docker"));
            }
            None => fs::remove_file(path).map_err(failed)?,
        },
    }
    let listen = || -> nix::Result<OwnedFd> {
        let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        // Before it has a name, so that at no time others can connect. The name gets what the mask
        // leaves of this mode.
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        fchmod(&fd, mode)?;
        let usual = umask(Mode::all() & !mode);
        let bound = UnixAddr::new(path).and_then(|address| bind(fd.as_raw_fd(), &address));
        umask(usual);
        bound?;
        listen(&fd, Backlog::new(BACKLOG)?)?;
        Ok(fd)
    };
    let fd = listen().map_err(|errno| failed(errno.into()))?;
    Ok((fd, Name::of(path).map_err(failed)?))
}

/// The process that has made the socket at `path` listen, if somebody does and that process lives; 0
/// for one in another PID namespace, and where too many wait for it already. Heirs of a supervisor
/// that was killed may hold its socket for a moment, or longer: they are ours to end.
fn listener(path: &Path) -> Option<i32> {
    let found = match quiet::connect_to(path) {
        Ok(stream) => getsockopt(&stream, PeerCredentials).ok()?,
        Err(Errno::EAGAIN) => return Some(0),
        Err(_) => return None,
    };
    let Ok(number @ 1..) = u32::try_from(found.pid()) else {
        return Some(0);
    };
    // Another user's has the PID of one that is gone.
    let is_alive = processes::read(number).is_some_and(|process| !process.zombie)
        && fs::metadata(format!("/proc/{number}")).is_ok_and(|now| now.uid() == found.uid());
    is_alive.then_some(found.pid())
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
    use std::os::unix::net::{UnixListener, UnixStream};
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
        shell.args(["-c", script]).stdout(Stdio::piped()).spawn().expect("sh")
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

    #[test]
    fn a_socket_is_ours_alone_and_goes_only_while_it_is_ours() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("docker.sock");
        let (fd, name) = listen_at(&path).expect("nobody is there");
        let mode = fs::metadata(&path).expect("a socket").mode();
        assert_eq!(mode & 0o7777, 0o600);
        // So many that no more can wait: nobody waits for that to change.
        let busy = directory.path().join("busy.sock");
        let listener = UnixListener::bind(&busy).expect("a socket");
        listen(&listener, Backlog::new(0).expect("a number")).expect("a backlog");
        let mut waiting = Vec::new();
        while let Ok(stream) = quiet::connect_to(&busy) {
            waiting.push(stream);
        }
        let refused = listen_at(&busy).expect_err("somebody listens");
        assert_eq!(refused.exit(), Exit::AlreadyRunning);

        fs::remove_file(&path).expect("ours");
        let _another = UnixListener::bind(&path).expect("a socket");
        name.remove();
        assert!(path.exists(), "it is another's by now");
        drop(fd);
        fs::remove_file(&path).expect("ours");
        let (_fd, name) = listen_at(&path).expect("nobody is there");
        name.remove();
        assert!(!path.exists());
    }

    #[test]
    fn removed_names_come_back_and_lead_to_the_same_listener() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("state")).expect("a directory");
        let mut run_dir = RunDir::take(&at("run")).expect("it is ours");
        assert!(run_dir.link_back().expect("nothing to do"));
        let listener = UnixListener::bind(at("docker.sock")).expect("a socket");
        let inner = UnixListener::bind(at("state/api.sock")).expect("a socket");
        fs::write(at("state/child_pid"), "4711").expect("a file");
        let paths = [at("docker.sock"), at("state"), at("missing")];
        // A second time counts as the first.
        run_dir.keep_links(&paths);
        run_dir.keep_links(&paths);
        assert!(run_dir.link_back().expect("nothing to do"));

        fs::remove_file(at("docker.sock")).expect("ours");
        fs::remove_dir_all(at("state")).expect("ours");
        assert!(run_dir.link_back().expect("all is kept"));
        for (path, listener) in [("docker.sock", &listener), ("state/api.sock", &inner)] {
            let _client = UnixStream::connect(at(path)).expect("it is there again");
            listener.set_nonblocking(true).expect("a flag");
            listener.accept().expect("the same listener");
        }
        let mode = fs::metadata(at("state")).expect("a directory").mode();
        assert_eq!(mode & 0o7777, 0o700);
        assert_eq!(fs::read(at("state/child_pid")).expect("a file"), b"4711");

        // What somebody else has put there stays.
        fs::remove_file(at("docker.sock")).expect("ours");
        fs::write(at("docker.sock"), "another's").expect("a file");
        assert!(!run_dir.link_back().expect("nothing fails"));
        assert_eq!(fs::read(at("docker.sock")).expect("a file"), b"another's");

        // Without what was kept there is no way.
        fs::remove_dir_all(at("run/kept")).expect("ours");
        fs::remove_file(at("docker.sock")).expect("ours");
        run_dir.link_back().expect_err("it is gone");
        run_dir.keep_links(&paths);
        drop(run_dir);
        assert!(!at("run").exists());
    }

    #[test]
    fn a_data_root_is_one_daemons() {
        let directory = tempfile::tempdir().expect("a directory");
        let data_root = directory.path().join("share/docker");
        let locked = lock_data_root(&data_root).expect("nobody has it");
        assert!(locked.is_some());
        let mode = fs::metadata(&data_root).expect("a directory").mode();
        assert_eq!(mode & 0o7777, 0o710);
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&data_root, &link).expect("a link");
        for path in [&data_root, &link] {
            let refused = lock_data_root(path).expect_err("we have it");
            assert_eq!(refused.exit(), Exit::AlreadyRunning);
            let named = format!("(PID {})", std::process::id());
            assert!(refused.to_string().contains(&named), "{refused}");
        }
        drop(locked);
        assert!(lock_data_root(&data_root).expect("nobody has it").is_some());

        // Where there can be none.
        let file = directory.path().join("file");
        fs::write(&file, "").expect("a file");
        for path in [file, "/proc".into(), "/proc/docker".into()] {
            let locked = lock_data_root(&path).expect("it is no reason to refuse");
            assert!(locked.is_none(), "{}", path.display());
        }
    }
}
