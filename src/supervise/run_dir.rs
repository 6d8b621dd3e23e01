//! Our own directory while we run, with the lock, the notify socket and the status; and the API
//! socket.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::stat::{Mode, umask};
use tracing::debug;

use crate::error::{Error, Exit};
use crate::facts::look::uid;
use crate::supervise::Status;
use crate::sys::lock::{self, Lock, Refusal};
use crate::sys::{processes, unix_sockets};
use crate::words::quoted;

/// The socket's name in the supervisor's directory.
pub const CONTROL: &str = "control";

/// The names in our directory.
const LOCK: &str = "lock";
const NOTIFY: &str = "notify";
const STATUS: &str = "status.json";
const STATUS_NEW: &str = "status.json.new";
const DAEMON_JSON: &str = "daemon.json";
const KEPT: &str = "kept";

/// The lock in a data root.
pub const DATA_LOCK: &str = ".dockerd-rootless.lock";

/// Our directory, locked.
pub struct RunDir {
    path: PathBuf,
    lock: Option<Lock>,
    /// What has a second name in [`KEPT`], which is its place here.
    kept: Vec<PathBuf>,
}

/// The name of a socket, and its device and inode: another may have the name by now.
#[derive(Debug)]
pub struct Name(PathBuf, (u64, u64));

impl Name {
    pub fn of(path: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        Ok(Self(path.to_owned(), (found.dev(), found.ino())))
    }

    /// Says whether it still leads there.
    pub fn is_there(&self) -> bool {
        Self::of(&self.0).is_ok_and(|now| now.1 == self.1)
    }

    /// Removes it, if it still leads there.
    pub fn remove(&self) {
        if self.is_there() {
            let _ = fs::remove_file(&self.0);
        }
    }
}

impl RunDir {
    /// Makes `path` if it is missing, and takes its lock. Fails if it is not ours alone (exit 4),
    /// and if another instance holds the lock (exit 5).
    pub fn take(path: &Path) -> Result<Self, Error> {
        let mut run_dir = Self { path: path.to_owned(), lock: None, kept: Vec::new() };
        run_dir.renew()?;
        Ok(run_dir)
    }

    /// Goes on with the lock that another program in this process has taken.
    pub fn resume(path: &Path, lock: File) -> Self {
        Self { path: path.to_owned(), lock: Some(Lock(lock)), kept: Vec::new() }
    }

    pub fn lock_fd(&self) -> Option<RawFd> {
        self.lock.as_ref().map(|lock| lock.0.as_raw_fd())
    }

    /// Takes the lock once more, after the directory or what is in it was removed.
    pub fn renew(&mut self) -> Result<(), Error> {
        // The one that is held may still have its name.
        self.lock = None;
        let file = self.path.join(LOCK);
        while self.lock.is_none() {
            make_own(&self.path)?;
            self.lock = match Lock::take(&file) {
                Ok(lock) => Some(lock),
                // Another instance has just ended, and removed the directory.
                Err(Refusal::Failed(error)) if error.kind() == ErrorKind::NotFound => None,
                Err(Refusal::Failed(error)) => return Err(unusable(&self.path, &error)),
                Err(Refusal::Held(pid)) => {
                    let (by, shown) = (by(pid), file.display());
                    let what =
                        format!("dockerd-rootless is running already{by}: it holds `{shown}`");
                    return Err(
                        Error::new(Exit::AlreadyRunning, what).hint("dockerd-rootless status")
                    );
                }
            };
        }
        Ok(())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns where commands ask for something.
    pub fn control(&self) -> PathBuf {
        self.path.join(CONTROL)
    }

    /// Returns where the processes in the namespaces tell what they are.
    pub fn notify(&self) -> PathBuf {
        self.path.join(NOTIFY)
    }

    /// Writes the status. A reader sees the old one or the new one.
    pub fn write(&self, status: &Status) -> io::Result<()> {
        let new = self.path.join(STATUS_NEW);
        fs::write(&new, serde_json::to_vec(status)?)?;
        fs::rename(new, self.path.join(STATUS))
    }

    /// Says whether the lock is still the one that others find, and the daemon finds where to tell.
    pub fn is_there(&self) -> bool {
        self.is_ours() && self.notify().exists()
    }

    /// Says whether the directory is the one that we have locked: another instance may have made it
    /// again.
    fn is_ours(&self) -> bool {
        self.lock.as_ref().is_some_and(|lock| lock.is_at(&self.path.join(LOCK)))
    }

    /// Gives the files among `paths` and in the directories among them second names in here, in the
    /// place of those from an earlier call. On another file system, one has none.
    pub fn keep_links(&mut self, paths: &[PathBuf]) {
        self.forget_links();
        let directory = self.path.join(KEPT);
        if let Err(error) = make(&directory) {
            return debug!("cannot make `{}`: {error}", directory.display());
        }
        let inside = |path: &PathBuf| match fs::read_dir(path) {
            Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
            Err(_) => vec![path.clone()],
        };
        for path in paths.iter().flat_map(inside).filter(|path| !path.is_dir()) {
            match fs::hard_link(&path, directory.join(self.kept.len().to_string())) {
                Ok(()) => self.kept.push(path),
                Err(error) => debug!("`{}` has no second name: {error}", path.display()),
            }
        }
    }

    /// Gives what [`Self::keep_links`] has kept its first name again, where that is missing: its
    /// listener goes on. What was not kept may still be missing.
    pub fn link_back(&self) -> io::Result<()> {
        self.kept.iter().enumerate().try_for_each(|(index, path)| {
            path.parent().map_or(Ok(()), make)?;
            unless_there(fs::hard_link(self.path.join(KEPT).join(index.to_string()), path))
        })
    }

    /// Says whether all that is kept has its first name, or another program has that.
    pub fn has_all(&self) -> bool {
        self.kept.iter().all(|path| path.exists())
    }

    /// Finds a first name that leads to something of another program by now.
    pub fn replaced(&self) -> Option<&Path> {
        let is_replaced = |(index, path): &(usize, &PathBuf)| {
            let kept = Name::of(&self.path.join(KEPT).join(index.to_string()));
            matches!((Name::of(path), kept), (Ok(now), Ok(kept)) if now.1 != kept.1)
        };
        self.kept.iter().enumerate().find(is_replaced).map(|(_, path)| path.as_path())
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
        // The lock goes last: another instance may have files of these names from then on.
        for name in [STATUS, STATUS_NEW, NOTIFY, CONTROL, DAEMON_JSON, LOCK] {
            let _ = fs::remove_file(self.path.join(name));
        }
        let _ = fs::remove_dir(&self.path);
    }
}

fn unless_there(done: io::Result<()>) -> io::Result<()> {
    done.or_else(|error| if error.kind() == ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })
}

/// Makes the directory `path` for us alone, if it is missing.
fn make(path: &Path) -> io::Result<()> {
    unless_there(DirBuilder::new().mode(0o700).create(path))
}

fn unusable(path: &Path, error: &io::Error) -> Error {
    Error::new(Exit::Failed, format!("cannot use the directory `{}`", path.display()))
        .because(error)
        .check("runtime-dir")
}

/// Names a process in a message, if it is known.
fn by(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (PID {pid})"))
}

/// Makes the directory `path` if it is missing, and refuses one that is not ours alone.
fn make_own(path: &Path) -> Result<(), Error> {
    match make(path).and_then(|()| fs::symlink_metadata(path)) {
        Ok(found) if found.is_dir() && found.uid() == uid() && found.mode() & 0o077 == 0 => Ok(()),
        // Another instance has just ended, and removed it.
        Err(error)
            if error.kind() == ErrorKind::NotFound && path.parent().is_some_and(Path::exists) =>
        {
            Ok(())
        }
        Err(error) => Err(unusable(path, &error)),
        Ok(_) => {
            let what = format!("`{}` is not a directory of yours alone", path.display());
            Err(Error::new(Exit::Prerequisite, what).hint(format!("rm -r {}", quoted(path))))
        }
    }
}

/// Locks the data root of a daemon, which others may reach by way of another runtime directory
/// (exit 5 if they have). One that is missing is made with its parents, as dockerd makes it.
///
/// On a file system that cannot be written or knows no locks, there is none: [`RunDir`]'s comes first.
pub fn lock_data_root(data_root: &Path) -> Result<Option<Lock>, Error> {
    let shown = data_root.display();
    let made = DirBuilder::new().recursive(true).mode(0o710).create(data_root);
    let locked =
        made.map_err(Refusal::Failed).and_then(|()| Lock::take(&data_root.join(DATA_LOCK)));
    match locked {
        Ok(lock) => Ok(Some(lock)),
        Err(Refusal::Failed(error)) => {
            debug!("`{shown}` is not locked: {error}");
            Ok(None)
        }
        Err(Refusal::Held(pid)) => {
            let what = format!("another daemon{} runs on `{shown}`", by(pid));
            Err(Error::new(Exit::AlreadyRunning, what).hint(
                "use that daemon, or stop it first: systemctl --user stop docker, or kill the PID",
            ))
        }
    }
}

/// Says whether a supervisor holds the directory at `path`.
pub fn is_locked(path: &Path) -> bool {
    lock::is_held(&path.join(LOCK))
}

/// Reads the status of the instance that runs; without one, what is there is stale.
pub fn read_status(path: &Path) -> Option<Status> {
    let text = fs::read(path.join(STATUS)).ok()?;
    is_locked(path).then(|| serde_json::from_slice(&text).ok())?
}

/// Listens at `path`, for us alone, and returns the name as well. A socket without a listener
/// any more goes. Fails if a process listens there (exit 5), or if something else is there.
pub fn listen_at(path: &Path) -> Result<(OwnedFd, Name), Error> {
    let shown = path.display();
    let failed = |error: io::Error| {
        Error::new(Exit::Failed, format!("cannot make the socket `{shown}`"))
            .because(&error)
            .check("socket-path")
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => {
            let quoted = quoted(path);
            return Err(Error::new(Exit::Failed, format!("`{shown}` is not a socket"))
                .hint(format!("move it away: mv {quoted} {quoted}.old")));
        }
        Ok(_) => match listener(path) {
            Some(pid) => {
                let what = format!("another daemon{} listens on `{shown}`", by(pid));
                return Err(Error::new(Exit::AlreadyRunning, what)
                    .hint("stop it: systemctl --user stop docker"));
            }
            None => fs::remove_file(path).map_err(failed)?,
        },
    }
    // Nobody else can connect at any time.
    let usual = umask(Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(path);
    umask(usual);
    let listener = bound.and_then(|listener| Ok((listener.into(), Name::of(path)?)));
    listener.map_err(failed)
}

/// Finds the process that has made the socket at `path` listen, if that lives. It is unknown in
/// another PID namespace, and where too many clients wait already. Heirs of a supervisor that was
/// killed may hold its socket: they are ours to end, and count as no listener.
fn listener(path: &Path) -> Option<Option<u32>> {
    let peer = match unix_sockets::connect(path) {
        Ok(stream) => getsockopt(&stream, PeerCredentials).ok()?,
        Err(Errno::EAGAIN) => return Some(None),
        Err(_) => return None,
    };
    match u32::try_from(peer.pid()) {
        Ok(pid @ 1..) => processes::read(pid).filter(|process| !process.zombie).map(|_| Some(pid)),
        _ => Some(None),
    }
}

/// Watches the directories in which what the daemon needs has its name.
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
    use std::os::unix::net::UnixStream;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    use nix::sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
    };

    use super::*;

    /// A shell that listens at `path` and runs `script`, to whose programs it hands the socket.
    fn shell(path: &Path, script: &str) -> Child {
        let path = path.to_owned();
        let listen_there = move || {
            let nothing = SockFlag::empty();
            let fd = socket(AddressFamily::Unix, SockType::Stream, nothing, None)?;
            bind(fd.as_raw_fd(), &UnixAddr::new(&path)?)?;
            listen(&fd, Backlog::new(8)?)?;
            let _stays_open = fd.into_raw_fd();
            Ok(())
        };
        let mut shell = Command::new("sh");
        // SAFETY: between fork and exec system calls are made, and an address is copied.
        unsafe { shell.pre_exec(listen_there) };
        shell.args(["-c", script]).stdout(Stdio::piped()).spawn().expect("sh")
    }

    #[test]
    fn a_socket_is_taken_as_long_as_its_listener_lives() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("docker.sock");
        let mut owner = shell(&path, "sleep 600 >/dev/null & echo $!; exec sleep 600");
        let mut heir = String::new();
        let output = owner.stdout.take().expect("a pipe");
        BufReader::new(output).read_line(&mut heir).expect("a PID");
        let refused = listen_at(&path).expect_err("it lives");
        assert_eq!(refused.exit(), Exit::AlreadyRunning);
        let named = format!("(PID {})", owner.id());
        assert!(refused.to_string().contains(&named), "{refused}");

        owner.kill().expect("it is our child");
        owner.wait().expect("it ends");
        assert!(UnixStream::connect(&path).is_ok(), "its heir listens");
        let taken = listen_at(&path);
        let heir = processes::read(heir.trim().parse().expect("a PID")).expect("it lives");
        processes::signal_one(heir.identity, nix::sys::signal::SIGKILL);
        taken.expect("a free socket");
    }

    #[test]
    fn a_socket_is_ours_alone_and_goes_only_while_it_is_ours() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("docker.sock");
        let (fd, name) = listen_at(&path).expect("a free path");
        let mode = fs::metadata(&path).expect("a socket").mode();
        assert_eq!(mode & 0o7777, 0o600);
        // So many that no more can wait: this one does not wait for that to change.
        let busy = directory.path().join("busy.sock");
        let listener = UnixListener::bind(&busy).expect("a socket");
        listen(&listener, Backlog::new(0).expect("a number")).expect("a backlog");
        let mut waiting = Vec::new();
        while let Ok(stream) = unix_sockets::connect(&busy) {
            waiting.push(stream);
        }
        let refused = listen_at(&busy).expect_err("a listener is there");
        assert_eq!(refused.exit(), Exit::AlreadyRunning);

        fs::remove_file(&path).expect("ours");
        let _another = UnixListener::bind(&path).expect("a socket");
        name.remove();
        assert!(path.exists(), "it is another's by now");
        drop(fd);
        fs::remove_file(&path).expect("ours");
        let (_fd, name) = listen_at(&path).expect("a free path");
        name.remove();
        assert!(!path.exists());
    }

    #[test]
    fn removed_names_come_back_and_lead_to_the_same_listener() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("state")).expect("a directory");
        let mut run_dir = RunDir::take(&at("run")).expect("it is ours");
        run_dir.link_back().expect("nothing to do");
        let listener = UnixListener::bind(at("docker.sock")).expect("a socket");
        let inner = UnixListener::bind(at("state/api.sock")).expect("a socket");
        fs::write(at("state/child_pid"), "4711").expect("a file");
        let paths = [at("docker.sock"), at("state"), at("missing")];
        // A second time counts as the first.
        run_dir.keep_links(&paths);
        run_dir.keep_links(&paths);
        assert!(run_dir.has_all());

        fs::remove_file(at("docker.sock")).expect("ours");
        fs::remove_dir_all(at("state")).expect("ours");
        assert!(!run_dir.has_all());
        run_dir.link_back().expect("all is kept");
        assert!(run_dir.has_all());
        assert_eq!(run_dir.replaced(), None);
        for (path, listener) in [("docker.sock", &listener), ("state/api.sock", &inner)] {
            let _client = UnixStream::connect(at(path)).expect("it is there again");
            listener.set_nonblocking(true).expect("a flag");
            listener.accept().expect("the same listener");
        }
        let mode = fs::metadata(at("state")).expect("a directory").mode();
        assert_eq!(mode & 0o7777, 0o700);
        assert_eq!(fs::read(at("state/child_pid")).expect("a file"), b"4711");

        // What another has put there stays.
        fs::remove_file(at("docker.sock")).expect("ours");
        fs::write(at("docker.sock"), "another's").expect("a file");
        run_dir.link_back().expect("nothing fails");
        assert_eq!(run_dir.replaced(), Some(&*at("docker.sock")));
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
        let locked = lock_data_root(&data_root).expect("it is free");
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
        assert!(lock_data_root(&data_root).expect("it is free").is_some());

        // Where there can be none.
        let file = directory.path().join("file");
        fs::write(&file, "").expect("a file");
        for path in [file, "/proc".into(), "/proc/docker".into()] {
            let locked = lock_data_root(&path).expect("it is no reason to refuse");
            assert!(locked.is_none(), "{}", path.display());
        }
    }
}
