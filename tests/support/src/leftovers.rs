//! The oracle: what a daemon that was stopped has left behind.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{TestUser, process, wait};

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
    let temporary = temporary_files(user.uid).into_iter().filter(|path| !is_stack_dump(path));
    let files = runtime_files(&user.runtime_dir).into_iter().chain(temporary);
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
    let dirs = [user.home.display().to_string(), format!("/user/{}", user.uid)];
    let of_user = |line: &str| {
        line.split([' ', ',', '=', ':']).any(|word| dirs.iter().any(|dir| passes(word, dir)))
    };
    let mut mounts = BTreeSet::new();
    for pid in process::pids() {
        let table = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        mounts
            .extend(table.lines().filter(|line| of_user(line)).map(|line| format!("mount {line}")));
    }
    mounts
}

/// Whether `dir` is a part of `path`, up to a whole component.
fn passes(path: &str, dir: &str) -> bool {
    path.split(dir).skip(1).any(|rest| rest.is_empty() || rest.starts_with('/'))
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
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.starts_with("containerd.") && name.ends_with(".stacks.log")
}

/// All that a program of `user` could leave: what there is of it at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<String, String>);

/// Where any user may write, or where programs keep what they share.
const SHARED: [&str; 5] = ["/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run"];

/// What the kernel counts for itself.
const COUNTERS: [&str; 2] = ["nf_conntrack_count", "fib_multipath_hash_seed"];

impl Snapshot {
    /// Of the user's processes and their namespaces, of all mounts of the host's and those of the user in any namespace, of
    /// the files in `directories`, and the user's in shared places, of the kernel's switches for networks and namespaces.
    pub fn of<P: AsRef<Path>>(user: &TestUser, directories: impl IntoIterator<Item = P>) -> Self {
        let mut all = BTreeMap::new();
        for process in process::list(user.uid, &user.subordinate) {
            let namespaces = ["user", "mnt", "net", "pid"].map(|kind| {
                let link = fs::read_link(format!("/proc/{}/ns/{kind}", process.pid));
                link.unwrap_or_default().display().to_string()
            });
            let value = format!("{} in {}", process.command, namespaces.join(" "));
            all.insert(format!("process {}", process.pid), value);
        }
        // Not those by which root keeps network namespaces under names, as other tests do.
        let table = read("/proc/self/mountinfo");
        let of_host = table.lines().filter(|line| !line.contains("/run/netns"));
        let of_host = of_host.map(|line| format!("mount {line}"));
        all.extend(of_host.chain(mounts(user)).map(|line| (line, String::new())));
        for directory in directories {
            files(directory.as_ref(), &mut all, |_| true);
        }
        let owned = |uid: u32| uid == user.uid || user.subordinate.contains(&uid);
        for directory in SHARED {
            files(Path::new(directory), &mut all, |found| owned(found.uid()));
        }
        for directory in ["/proc/sys/net", "/proc/sys/user"] {
            switches(Path::new(directory), &mut all);
        }
        Self(all)
    }

    /// Of the user's home and runtime directory, and all else.
    pub fn usual(user: &TestUser) -> Self {
        Self::of(user, [&user.home, &user.runtime_dir])
    }

    /// What differs from `before`, a line each.
    pub fn since(&self, before: &Self) -> Vec<String> {
        let new = self.0.iter().filter(|(name, _)| !before.0.contains_key(*name));
        let gone = before.0.iter().filter(|(name, _)| !self.0.contains_key(*name));
        let changed = self.0.iter().filter_map(|(name, value)| {
            let old = before.0.get(name).filter(|old| *old != value)?;
            Some(format!("changed: {name}: {old} -> {value}"))
        });
        let new = new.map(|(name, value)| format!("new: {name} {value}"));
        let gone = gone.map(|(name, value)| format!("gone: {name} {value}"));
        new.chain(gone).chain(changed).collect()
    }
}

/// Fails if `now` does not become what it was `before` until the last processes must be through.
pub fn assert_unchanged(before: &Snapshot, what: &str, now: impl Fn() -> Snapshot) {
    let mut differs = Vec::new();
    wait::poll(GRACE, || {
        differs = now().since(before);
        differs.is_empty().then_some(())
    });
    assert!(differs.is_empty(), "{what}:\n  {}", differs.join("\n  "));
}

/// Notes all below `directory` whose owner counts. A directory changes its size and its time when something comes and goes.
fn files(
    directory: &Path,
    all: &mut BTreeMap<String, String>,
    counts: impl Fn(&fs::Metadata) -> bool + Copy,
) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(found) = fs::symlink_metadata(&path) else {
            continue;
        };
        if counts(&found) {
            let mut value = format!("{:o} {}:{}", found.mode(), found.uid(), found.gid());
            if !found.is_dir() {
                value +=
                    &format!(" {} bytes {}.{}", found.size(), found.mtime(), found.mtime_nsec());
            }
            all.insert(format!("file {}", path.display()), value);
        }
        if found.is_dir() {
            files(&path, all, counts);
        }
    }
}

/// Notes the kernel's switches below `directory`, but those of single network devices, which others make and remove.
fn switches(directory: &Path, all: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let of_device = ["conf", "neigh"].iter().any(|parent| directory.ends_with(parent))
            && !["all", "default", "lo"].contains(&name.as_str());
        if of_device || COUNTERS.contains(&name.as_str()) {
            continue;
        }
        match fs::read_to_string(&path) {
            Ok(value) => drop(all.insert(format!("switch {}", path.display()), value)),
            Err(_) => switches(&path, all),
        }
    }
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
