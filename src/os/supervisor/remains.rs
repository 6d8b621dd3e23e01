//! What a supervisor left that was killed: containers and their shims in namespaces that nobody can
//! reach any more, and files.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, fstat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use tracing::warn;

use super::tree::{self, Process};
use crate::host::StateDir;

/// What dockerd leaves in its directory.
const EXEC_ROOT: [&str; 5] = [
    "libnetwork",
    "netns",
    "runtime-runc",
    "plugins",
    "metrics.sock",
];

/// What its containerd leaves in a directory in there.
const CONTAINERD: [&str; 3] = ["daemon", "containerd.pid", "containerd.sock"];

/// Kills what runs in the user namespaces of daemons that are gone: those with a process that has
/// its root on a container's file system below `data_root`, or that is a shim of the containerd in
/// `exec_root`. Nothing of a daemon that lives can be meant: we hold its lock. Returns how many.
pub fn kill_orphans(data_root: &Path, exec_root: &Path) -> usize {
    let own = namespace_of("self");
    let all: Vec<(Process, u64)> = tree::all()
        .into_iter()
        .filter(|process| !process.zombie)
        .filter_map(|process| {
            let namespace = namespace_of(&process.identity.pid.to_string())?;
            (Some(namespace) != own).then_some((process, namespace))
        })
        .collect();
    let is_ours = |process: &Process| {
        let pid = process.identity.pid;
        is_shim(pid, exec_root) || is_container(pid, data_root)
    };
    let namespaces: BTreeSet<u64> = all
        .iter()
        .filter(|(process, namespace)| {
            owner_of(process.identity.pid, *namespace) == Some(crate::os::session::uid())
                && is_ours(process)
        })
        .map(|(_, namespace)| *namespace)
        .collect();
    let doomed: Vec<Process> = all
        .into_iter()
        .filter(|(_, namespace)| namespaces.contains(namespace))
        .map(|(process, _)| process)
        .collect();
    for process in &doomed {
        let (pid, name) = (process.identity.pid, &process.name);
        warn!("process {pid} ({name}) was left by a daemon that is gone, and is killed");
    }
    tree::signal_all(&doomed, Signal::SIGKILL);
    doomed.len()
}

/// The inode of a process's user namespace, if we may know it.
fn namespace_of(process: &str) -> Option<u64> {
    fs::metadata(format!("/proc/{process}/ns/user"))
        .ok()
        .map(|found| found.ino())
}

/// Who owns the user namespace of `pid`, if it is still `namespace`.
fn owner_of(pid: u32, namespace: u64) -> Option<u32> {
    let file = File::open(format!("/proc/{pid}/ns/user")).ok()?;
    if file.metadata().ok()?.ino() != namespace {
        return None;
    }
    let mut owner: libc::uid_t = 0;
    // SAFETY: NS_GET_OWNER_UID (ioctl_ns(2)) writes one uid_t, to which the pointer leads.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_OWNER_UID, &raw mut owner) };
    (done == 0).then_some(owner)
}

/// `_IO(0xb7, 0x4)` of linux/nsfs.h.
const NS_GET_OWNER_UID: libc::Ioctl = 0xb704;

/// Whether `process`, which a daemon has left, would do something about SIGTERM: one of a container's
/// that has a handler, for a shim has nothing to save, and the first process of a container without a
/// handler does not even end.
pub fn can_end_in_order(process: &Process, exec_root: &Path) -> bool {
    let pid = process.identity.pid;
    !process.zombie && tree::catches(pid, Signal::SIGTERM) && !is_shim(pid, exec_root)
}

/// Whether a process is a shim of the containerd below `exec_root`.
fn is_shim(pid: u32, exec_root: &Path) -> bool {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = words.split(|byte| *byte == 0);
    let is_shim = words
        .next()
        .is_some_and(|word| word.windows(15).any(|part| part == b"containerd-shim"));
    let address = exec_root.join("containerd/containerd.sock");
    is_shim && words.any(|word| word == address.as_os_str().as_bytes())
}

/// Whether the root of a process is that of a container of the daemon with this `data_root`.
fn is_container(pid: u32, data_root: &Path) -> bool {
    let table = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    let Some(root) = table
        .lines()
        .find(|line| line.split(' ').nth(4) == Some("/"))
    else {
        return false;
    };
    // overlay2 and fuse-overlayfs name the layers, vfs is a bind mount.
    let below = format!("{}/", data_root.display());
    root.split([' ', ',', '=', ':'])
        .any(|part| part.starts_with(&below))
}

/// Removes what rootlesskit and dockerd leave when they are killed, by the names that they give, and
/// follows no link. `exec_root` counts only if it is the one below `runtime_dir`.
pub fn remove_files(state_dir: &Path, exec_root: &Path, runtime_dir: &Path) {
    if let Some(directory) = Directory::open(state_dir) {
        for (name, _) in StateDir::ENTRIES {
            directory.forget(name);
        }
        forget(state_dir, fs::remove_dir(state_dir));
    }
    let Some(runtime) = Directory::open(runtime_dir) else {
        return;
    };
    if exec_root != runtime_dir.join("docker") {
        return;
    }
    if let Some(exec_root) = runtime.enter("docker") {
        for name in EXEC_ROOT {
            exec_root.forget(name);
        }
        if let Some(containerd) = exec_root.enter("containerd") {
            for name in CONTAINERD {
                containerd.forget(name);
            }
            // The pipes of containers, each in a directory that has the container's name.
            for name in containerd
                .names()
                .iter()
                .filter(|name| is_container_id(name))
            {
                containerd.forget(name);
            }
        }
    }
    runtime.forget_file("docker.pid");
}

fn is_container_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A directory that is ours, entered by its name alone: what a link leads to is never touched.
struct Directory {
    fd: OwnedFd,
    path: PathBuf,
    device: u64,
}

impl Directory {
    fn open(path: &Path) -> Option<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let opened = nix::fcntl::open(path, flags, Mode::empty());
        Self::judge(opened, path.to_owned())
    }

    /// The directory `name` in this one, if it is on the same file system.
    fn enter(&self, name: &str) -> Option<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let opened = openat(&self.fd, name, flags, Mode::empty());
        Self::judge(opened, self.path.join(name)).filter(|inner| inner.device == self.device)
    }

    fn judge(opened: nix::Result<OwnedFd>, path: PathBuf) -> Option<Self> {
        let opened = opened.and_then(|fd| Ok((fstat(&fd)?, fd)));
        match opened {
            Ok((found, fd)) => Some(Self {
                fd,
                path,
                device: found.st_dev,
            }),
            Err(errno) => {
                forget(&path, Err(errno.into()));
                None
            }
        }
    }

    /// dockerd makes directories that even their owner cannot enter.
    fn open_up(&self, name: &str) -> nix::Result<()> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&self.fd, name, flags, Mode::empty())?;
        // With a descriptor of this kind chmod(2) works by its link alone.
        let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
        fchmodat(
            AT_FDCWD,
            link.as_str(),
            Mode::S_IRWXU,
            FchmodatFlags::FollowSymlink,
        )
    }

    fn names(&self) -> Vec<String> {
        let Ok(mut listing) = Dir::openat(
            &self.fd,
            ".",
            OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        ) else {
            return Vec::new();
        };
        let names = listing.iter().flatten();
        names
            .filter_map(|entry| Some(entry.file_name().to_str().ok()?.to_owned()))
            .filter(|name| name != "." && name != "..")
            .collect()
    }

    /// Removes a file, whatever it is, but no directory.
    fn forget_file(&self, name: &str) {
        let removed = unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir);
        forget(&self.path.join(name), removed.map_err(io::Error::from));
    }

    /// Removes a file, or a directory with all that is in it and on the same file system.
    fn forget(&self, name: &str) {
        match unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR) => {
                if let Err(errno) = self.open_up(name) {
                    forget(&self.path.join(name), Err(errno.into()));
                }
                if let Some(inner) = self.enter(name) {
                    for name in inner.names() {
                        inner.forget(&name);
                    }
                }
                let removed = unlinkat(&self.fd, name, UnlinkatFlags::RemoveDir);
                forget(&self.path.join(name), removed.map_err(io::Error::from));
            }
            removed => forget(&self.path.join(name), removed.map_err(io::Error::from)),
        }
    }
}

/// Tells of a file that stays, but not of one that was not there.
fn forget(path: &Path, removed: io::Result<()>) {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::debug!("{} stays: {error}", path.display());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn known_names_go_and_what_links_lead_to_stays() {
        let root = tempfile::tempdir().expect("a directory");
        let write = |name: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            fs::write(path, "").expect("a file");
        };
        let id = "0123456789abcdef".repeat(4);
        for name in [
            "run/dockerd-rootless/lock",
            "run/dockerd-rootless/hosts",
            "run/docker/netns/a",
            "run/docker/libnetwork/deep/a",
            "run/docker/stays",
            "run/docker/containerd/containerd.sock",
            "run/docker/containerd/stays",
            "run/docker.pid",
            "precious/lock",
            "precious/daemon/photo",
        ] {
            write(name);
        }
        write(&format!("run/docker/containerd/{id}/init-stdout"));
        let run = root.path().join("run");
        let precious = root.path().join("precious");
        let closed = run.join("docker/runtime-runc");
        fs::create_dir(&closed).expect("a directory");
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).expect("closed");
        symlink(&precious, run.join("docker/plugins")).expect("a link");
        symlink(&precious, run.join("docker/netns/link")).expect("a link");
        remove_files(&run.join("dockerd-rootless"), &run.join("docker"), &run);
        let left = |directory: &Path| {
            let mut names: Vec<_> = fs::read_dir(directory)
                .expect("a directory")
                .map(|entry| entry.expect("an entry").file_name())
                .collect();
            names.sort();
            names
        };
        assert_eq!(left(&run), ["docker"]);
        assert_eq!(left(&run.join("docker")), ["containerd", "stays"]);
        assert_eq!(left(&run.join("docker/containerd")), ["stays"]);
        assert_eq!(left(&precious), ["daemon", "lock"]);

        // Directories that became links.
        fs::remove_dir_all(run.join("docker/containerd")).expect("removed");
        symlink(&precious, run.join("docker/containerd")).expect("a link");
        symlink(&precious, run.join("dockerd-rootless")).expect("a link");
        remove_files(&run.join("dockerd-rootless"), &run.join("docker"), &run);
        assert_eq!(left(&precious), ["daemon", "lock"]);
        assert!(precious.join("daemon/photo").exists());
    }
}
