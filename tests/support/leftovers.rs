//! The oracle: what a daemon that was stopped has left behind.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{TestUser, process, wait};

/// The last processes are on their way out when the launcher is gone, and nobody tells when they are through.
const GRACE: Duration = Duration::from_secs(5);

/// Fails with the list of everything that is left of `user`'s daemon.
pub fn assert_nothing_left(user: &TestUser) {
    let mut left = Vec::new();
    wait::poll(GRACE, || {
        left = leftovers(user);
        left.is_empty().then_some(())
    });
    assert!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
}

/// Everything that is left of `user`'s daemon: processes, mounts, and files in the runtime directory and /tmp.
pub fn leftovers(user: &TestUser) -> Vec<String> {
    let mut left: Vec<String> = processes(user);
    left.extend(mounts(user));
    let temporary = temporary_files(user.uid)
        .into_iter()
        .filter(|path| !is_stack_dump(path));
    let files = runtime_files(&user.runtime_dir)
        .into_iter()
        .chain(temporary);
    left.extend(files.map(|path| format!("file {}", path.display())));
    left
}

fn processes(user: &TestUser) -> Vec<String> {
    process::list(user.uid, &user.subordinate)
        .iter()
        .map(|process| format!("process {} {}", process.pid, process.command))
        .collect()
}

/// Mounts on, or of, the user's directories in the mount namespace of any process that still runs.
fn mounts(user: &TestUser) -> BTreeSet<String> {
    // In the namespace the runtime directory is /run/.ro<number>/user/UID.
    let dirs = [
        user.home.display().to_string(),
        format!("/user/{}", user.uid),
    ];
    let of_user = |line: &str| {
        line.split([' ', ',', '=', ':'])
            .any(|word| dirs.iter().any(|dir| passes(word, dir)))
    };
    let mut mounts = BTreeSet::new();
    for pid in process::pids() {
        let table = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        mounts.extend(
            table
                .lines()
                .filter(|line| of_user(line))
                .map(|line| format!("mount {line}")),
        );
    }
    mounts
}

/// Whether `dir` is a part of `path`, up to a whole component.
fn passes(path: &str, dir: &str) -> bool {
    path.split(dir)
        .skip(1)
        .any(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What dockerd leaves in `$XDG_RUNTIME_DIR` after a clean stop, with upstream's script as with ours, besides directories
/// below `docker/`.
const OF_DOCKERD: [&str; 5] = [
    // Its containerd's.
    "docker/containerd/containerd.toml",
    "docker/containerd/containerd-debug.sock",
    "docker/containerd/containerd.sock.ttrpc",
    // Made where the data root is on a private mount, for dockerd then mounts it onto itself, shared. At its end it takes
    // that mount, and this file, for another's if the private one shows but a part of its file system: a bind mount or a
    // subvolume (`shouldUnmountRoot` in moby's daemon/daemon_linux.go). The next start does with it as with none.
    "docker/unmount-on-shutdown",
    // Empty. runc makes it whatever it is asked, and dockerd asks it for its features from version 25 on.
    "runc",
];

/// Every file and directory in the runtime directory but those of dockerd.
fn runtime_files(dir: &Path) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    walk(dir, &mut paths);
    paths.retain(|path| {
        let relative = path.strip_prefix(dir).expect("below the directory");
        let of_dockerd = path.is_dir() && relative.starts_with("docker")
            || OF_DOCKERD.iter().any(|file| relative == Path::new(file));
        !of_dockerd
    });
    paths
}

fn walk(dir: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), paths);
        }
        paths.push(entry.path());
    }
}

/// What `uid` owns in /tmp: rootlesskit and slirp4netns make their directories there.
pub fn temporary_files(uid: u32) -> Vec<PathBuf> {
    fs::read_dir("/tmp")
        .expect("read /tmp")
        .flatten()
        .filter(|entry| entry.metadata().is_ok_and(|metadata| metadata.uid() == uid))
        .map(|entry| entry.path())
        .collect()
}

/// On a busy machine dockerd 20.10 loses patience with its containerd after a tenth of a second, has it write its stacks
/// to `/tmp/containerd.PID.stacks.log`, and starts another.
fn is_stack_dump(path: &Path) -> bool {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    name.starts_with("containerd.") && name.ends_with(".stacks.log")
}
