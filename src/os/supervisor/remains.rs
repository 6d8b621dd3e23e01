//! What a supervisor left that was killed: containers and their shims in namespaces that nobody can
//! reach any more, and files.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use nix::libc;
use nix::sys::signal::Signal;
use tracing::warn;

use super::tree::{self, Process};

/// rootlesskit's files in its state directory, with those of its port drivers.
const STATE_FILES: [&str; 8] = [
    "lock",
    "api.sock",
    "child_pid",
    ".bp.sock",
    ".bp-ready.pipe",
    "netns",
    ".s4nn.sock",
    "pasta.pid",
];

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
    for name in STATE_FILES {
        forget(&state_dir.join(name), fs::remove_file(state_dir.join(name)));
    }
    forget(state_dir, fs::remove_dir(state_dir));
    if exec_root != runtime_dir.join("docker") || exec_root.is_symlink() {
        return;
    }
    for name in [
        "containerd/daemon",
        "libnetwork",
        "netns",
        "runtime-runc",
        "plugins",
        "metrics.sock",
        "containerd/containerd.pid",
    ] {
        let path = exec_root.join(name);
        let removed = match path.symlink_metadata() {
            // dockerd makes some that even their owner cannot enter.
            Ok(found) if found.is_dir() => {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o700))
                    .and_then(|()| fs::remove_dir_all(&path))
            }
            Ok(_) => fs::remove_file(&path),
            Err(error) => Err(error),
        };
        forget(&path, removed);
    }
    forget(
        &runtime_dir.join("docker.pid"),
        fs::remove_file(runtime_dir.join("docker.pid")),
    );
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
