//! What a supervisor left that was killed: containers and their shims in namespaces that nobody can
//! reach any more, and files.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, fstat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use tracing::warn;

use crate::error::{Error, Exit};
use crate::facts::{StateDir, unescaped};
use crate::sys::files;
use crate::sys::processes;
use crate::sys::processes::Process;

/// What dockerd leaves in its directory.
const EXEC_ROOT: [&str; 5] = ["libnetwork", "netns", "runtime-runc", "plugins", "metrics.sock"];

/// What its containerd leaves in a directory in there.
const CONTAINERD: [&str; 3] = ["daemon", "containerd.pid", "containerd.sock"];

/// The programs of a daemon that lives. rootlesskit starts itself again as `/proc/self/exe`.
const HEADS: [&str; 6] =
    ["dockerd", "containerd", "rootlesskit", "docker-rootlesskit", "exe", "dockerd-rootless"];

/// How long the programs of a daemon that was killed may take to be gone.
const FALL: Duration = Duration::from_secs(2);

/// A process that has not ended, and what it is to the daemon whose remains are looked for.
struct Seen {
    process: Process,
    /// The inode of its user namespace, if we may know it.
    namespace: Option<u64>,
    role: Role,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Its root is on a container's file system below the data root.
    Container,
    /// It is a shim of the containerd in the exec root.
    Shim,
    Other,
}

/// Kills what runs in the user namespaces of daemons that are gone: those of ours with a container of
/// `data_root` or a shim of the containerd in `exec_root`, and without any program of a daemon.
/// Returns how many processes that are.
///
/// # Errors
/// If such a program lives, somebody else uses these directories: nothing is killed, and the error
/// names it (exit 5).
pub fn kill_orphans(data_root: &Path, exec_root: &Path) -> Result<usize, Error> {
    let mut data_roots = vec![data_root.to_owned()];
    // dockerd follows links, and containerd below it does not.
    data_roots.extend(data_root.canonicalize().ok());
    let own = namespace_of("self");
    let look = || judge(&look(&data_roots, exec_root, own), own);
    let mut left = look();
    if let Err(heads) = &left {
        // Where a supervisor was just killed, the kernel is still ending what hangs on it.
        let heads: Vec<_> = heads.iter().map(|head| head.identity).collect();
        if processes::wait_for_end(&heads, FALL) {
            left = look();
        }
    }
    let doomed = left.map_err(|heads| {
        let (pid, name) = (heads[0].identity.pid, &heads[0].name);
        let shown = data_root.display();
        Error::new(
            Exit::AlreadyRunning,
            format!("another daemon runs on `{shown}`: process {pid} ({name}) belongs to it"),
        )
        .hint(format!("use that daemon, or stop it first: kill {pid}"))
    })?;
    for process in &doomed {
        let (pid, name) = (process.identity.pid, &process.name);
        warn!("process {pid} ({name}) was left by a daemon that is gone, and is killed");
    }
    processes::signal_all(&doomed, Signal::SIGKILL);
    Ok(doomed.len())
}

/// The processes of the host that have not ended. Only namespaces of ours have roles in them.
fn look(data_roots: &[PathBuf], exec_root: &Path, own: Option<u64>) -> Vec<Seen> {
    let see = |process: Process| {
        let pid = process.identity.pid;
        let namespace = namespace_of(&pid.to_string());
        let is_of_ours = || {
            namespace.is_some_and(|inode| owner_of(pid, inode) == Some(crate::facts::look::uid()))
        };
        let role = match namespace {
            None => Role::Other,
            _ if namespace == own || !is_of_ours() => Role::Other,
            Some(_) if is_shim(pid, exec_root) => Role::Shim,
            Some(_) if is_container(pid, data_roots) => Role::Container,
            Some(_) => Role::Other,
        };
        Seen { process, namespace, role }
    };
    let all = processes::all().into_iter();
    all.filter(|process| !process.zombie).map(see).collect()
}

/// The processes to kill, or those that show that a daemon lives. A daemon in a container is none.
/// `own` is our user namespace.
fn judge(seen: &[Seen], own: Option<u64>) -> Result<Vec<Process>, Vec<Process>> {
    let namespaces_of = |which: &dyn Fn(&Seen) -> bool| -> BTreeSet<u64> {
        let found = seen.iter().filter(|one| which(one));
        found.filter_map(|one| one.namespace).collect()
    };
    let is_in = |one: &Seen, namespaces: &BTreeSet<u64>| {
        one.namespace.is_some_and(|inode| namespaces.contains(&inode))
    };
    let orphaned = namespaces_of(&|one| one.role != Role::Other);
    // A program in a container may have made a namespace of its own, in that of the daemon.
    let mut near = orphaned.clone();
    let mut parents = BTreeSet::new();
    loop {
        let inside = seen.iter().filter(|one| is_in(one, &near));
        parents.extend(inside.map(|one| one.process.parent));
        let is_parent = |one: &Seen| parents.contains(&one.process.identity.pid);
        let above = namespaces_of(&|one| is_parent(one) && one.namespace != own);
        if above.is_subset(&near) {
            break;
        }
        near.extend(above);
    }
    let may_be_head = |one: &&Seen| {
        let pid = one.process.identity.pid;
        // rootlesskit, and a supervisor that has adopted shims. We are one ourselves.
        let is_above = parents.contains(&pid) && pid != std::process::id();
        is_above || is_in(one, &near)
    };
    let heads: Vec<Process> = seen
        .iter()
        .filter(may_be_head)
        .filter(|one| one.role != Role::Container && is_head(&one.process.name))
        .map(|one| one.process.clone())
        .collect();
    let doomed = seen.iter().filter(|one| is_in(one, &orphaned));
    match heads.is_empty() {
        true => Ok(doomed.map(|one| one.process.clone()).collect()),
        false => Err(heads),
    }
}

/// Whether a process of this name is a program of a daemon: the kernel keeps 15 bytes of a name.
fn is_head(name: &str) -> bool {
    HEADS.iter().any(|head| head[..head.len().min(15)] == *name)
}

/// The inode of a process's user namespace, if we may know it.
fn namespace_of(process: &str) -> Option<u64> {
    fs::metadata(format!("/proc/{process}/ns/user")).ok().map(|found| found.ino())
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

/// What runs in containers below the process `keeper` whose shims are gone, so that they have become
/// its own children, and in those whose first processes are `forgotten`.
pub fn orphans(keeper: u32, data_root: &Path, forgotten: &[u32]) -> Vec<Process> {
    let mut data_roots = vec![data_root.to_owned()];
    data_roots.extend(data_root.canonicalize().ok());
    let all = processes::all();
    let is_orphan = |process: &&Process| {
        let pid = process.identity.pid;
        let is_alone = process.parent == keeper || forgotten.contains(&pid);
        is_alone && !process.zombie && is_container(pid, &data_roots)
    };
    let first: Vec<Process> = all.iter().filter(is_orphan).cloned().collect();
    let below = first.iter().flat_map(|process| {
        processes::below(process.identity.pid, all.clone(), &mut BTreeSet::new())
    });
    first.iter().cloned().chain(below).collect()
}

/// Whether `process`, which a daemon has left, would do something about SIGTERM: one of a container's
/// that has a handler, for a shim has nothing to save, and the first process of a container without a
/// handler does not even end.
pub fn can_end_in_order(process: &Process, exec_root: &Path) -> bool {
    let pid = process.identity.pid;
    !process.zombie && processes::catches(pid, Signal::SIGTERM) && !is_shim(pid, exec_root)
}

/// Whether a process is a shim of the containerd below `exec_root`.
fn is_shim(pid: u32, exec_root: &Path) -> bool {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = words.split(|byte| *byte == 0);
    let is_shim =
        words.next().is_some_and(|word| word.windows(15).any(|part| part == b"containerd-shim"));
    let address = exec_root.join("containerd/containerd.sock");
    is_shim && words.any(|word| word == address.as_os_str().as_bytes())
}

/// Whether the root of a process is that of a container of the daemon with one of these data roots.
pub fn is_container(pid: u32, data_roots: &[PathBuf]) -> bool {
    let table = fs::read(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    let table = String::from_utf8_lossy(&table);
    let root = table.lines().find(|line| line.split(' ').nth(4) == Some("/"));
    root.is_some_and(|root| is_below(root, data_roots))
}

/// Whether a line of proc_pid_mountinfo(5) names something below one of `data_roots`: overlay2 and
/// fuse-overlayfs name the layers, vfs is a bind mount.
fn is_below(line: &str, data_roots: &[PathBuf]) -> bool {
    let mut parts = line.split([' ', ',', '=', ':']).map(unescaped);
    parts.any(|part| {
        let part = Path::new(&part);
        let is_in = |root: &PathBuf| part.starts_with(root) && part != root;
        data_roots.iter().any(is_in)
    })
}

/// Removes what rootlesskit and dockerd leave when they are killed, by the names that they give, and
/// follows no link. `exec_root` counts only if it is the one below `runtime_dir`, and a daemon has made
/// it: a runtime directory in a home may have somebody's own `docker` in it. `is_new` says that
/// it was not there before our first launch.
pub fn remove_files(state_dir: &Path, exec_root: &Path, runtime_dir: &Path, is_new: bool) {
    if let Some(directory) = Directory::open(state_dir) {
        for (name, _) in StateDir::ENTRIES {
            directory.forget(name);
        }
        forget(state_dir, fs::remove_dir(state_dir));
    }
    let Some(runtime) = Directory::open(runtime_dir) else {
        return;
    };
    if exec_root != runtime_dir.join("docker") || !(is_new || is_dockerds(exec_root)) {
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
            for name in containerd.names().iter().filter(|name| is_container_id(name)) {
                containerd.forget(name);
            }
        }
    }
    runtime.forget_file("docker.pid");
}

/// Whether a daemon has made `exec_root`: containerd's configuration in there names its socket in there,
/// or a file its PID.
fn is_dockerds(exec_root: &Path) -> bool {
    let containerd = exec_root.join("containerd");
    let read = |name: &str, limit: u64| {
        let bytes = files::read_regular(&containerd.join(name), limit);
        bytes.ok().flatten().unwrap_or_default()
    };
    let configuration = read("containerd.toml", 64 * 1024);
    let socket = containerd.join("containerd.sock");
    let socket = socket.as_os_str().as_bytes();
    let pid = read("containerd.pid", 64);
    let is_number = !pid.is_empty() && pid.iter().all(u8::is_ascii_digit);
    is_number || configuration.windows(socket.len()).any(|part| part == socket)
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
            Ok((found, fd)) => Some(Self { fd, path, device: found.st_dev }),
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
        fchmodat(AT_FDCWD, link.as_str(), Mode::S_IRWXU, FchmodatFlags::FollowSymlink)
    }

    fn names(&self) -> Vec<String> {
        let Ok(mut listing) =
            Dir::openat(&self.fd, ".", OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        else {
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
    fn a_namespace_is_an_orphan_only_without_any_program_of_a_daemon() {
        use Role::{Container, Other, Shim};
        // PID, parent, user namespace, name, role. 1 is the host's namespace, 2 the daemon's.
        type Row = (u32, u32, u64, &'static str, Role);
        const INIT: Row = (1, 0, 1, "systemd", Other);
        const SHIM: Row = (50, 1, 2, "containerd-shim", Shim);
        const CONTAINER: Row = (51, 50, 2, "sleep", Container);
        const HELPER: Row = (52, 1, 2, "fuse-overlayfs", Other);
        type Case = (&'static str, &'static [Row], Result<&'static [u32], u32>);
        let cases: &[Case] = &[
            ("nothing", &[INIT], Ok(&[])),
            (
                "orphans, and another daemon elsewhere",
                &[
                    INIT,
                    SHIM,
                    CONTAINER,
                    HELPER,
                    (60, 1, 3, "dockerd", Other),
                    (61, 1, 1, "rootlesskit", Other),
                ],
                Ok(&[50, 51, 52]),
            ),
            (
                "a daemon in a container",
                &[INIT, SHIM, (51, 50, 2, "dockerd", Container)],
                Ok(&[50, 51]),
            ),
            ("containers without a shim", &[INIT, (51, 1, 2, "sleep", Container)], Ok(&[51])),
            ("dockerd lives", &[INIT, SHIM, CONTAINER, (60, 1, 2, "dockerd", Other)], Err(60)),
            ("containerd lives", &[INIT, SHIM, (60, 1, 2, "containerd", Other)], Err(60)),
            ("rootlesskit's child lives", &[INIT, CONTAINER, (60, 1, 2, "exe", Other)], Err(60)),
            ("a keeper lives", &[INIT, SHIM, (60, 1, 2, "dockerd-rootles", Other)], Err(60)),
            (
                "rootlesskit lives",
                &[INIT, SHIM, (60, 70, 2, "sh", Other), (70, 1, 1, "docker-rootless", Other)],
                Err(70),
            ),
            (
                "a container's own namespace in that of a daemon that lives",
                &[
                    INIT,
                    (50, 1, 2, "containerd-shim", Other),
                    (51, 50, 3, "bwrap", Container),
                    (60, 1, 2, "dockerd", Other),
                ],
                Err(60),
            ),
            (
                "a supervisor lives that has adopted a shim",
                &[INIT, (50, 70, 2, "containerd-shim", Shim), (70, 1, 1, "dockerd-rootles", Other)],
                Err(70),
            ),
        ];
        for (case, rows, expected) in cases {
            let seen: Vec<Seen> = rows
                .iter()
                .map(|(pid, parent, namespace, name, role)| Seen {
                    process: Process::sample(*pid, *parent, name),
                    namespace: Some(*namespace),
                    role: *role,
                })
                .collect();
            let pids = |found: Vec<Process>| -> Vec<u32> {
                found.iter().map(|process| process.identity.pid).collect()
            };
            let judged = judge(&seen, Some(1)).map(pids).map_err(pids);
            let expected = expected.map(<[u32]>::to_vec).map_err(|pid| vec![pid]);
            assert_eq!(judged, expected, "{case}");
        }
    }

    #[test]
    fn a_containers_root_is_known_by_its_line_of_mountinfo() {
        let roots = [PathBuf::from("/home/u/a b"), PathBuf::from("/srv/data")];
        let overlay = |layers: &str| format!("99 1 0:5 / / rw - overlay overlay rw,{layers}");
        let cases = [
            (overlay("lowerdir=/srv/data/overlay2/l/A:/x"), true),
            (overlay("lowerdir=/x:/srv/data/overlay2/l/A"), true),
            (overlay(r"upperdir=/home/u/a\040b/overlay2/A/diff"), true),
            (overlay("lowerdir=/srv/data2/overlay2/l/A"), false),
            (overlay("lowerdir=/other/srv/data/overlay2"), false),
            ("99 1 0:5 /srv/data/vfs/dir/A / rw - ext4 /dev/a rw".into(), true),
            ("99 1 0:5 /srv/data / rw - ext4 /dev/a rw".into(), false),
            ("99 1 0:5 / / rw - ext4 /dev/a rw".into(), false),
        ];
        for (line, expected) in cases {
            assert_eq!(is_below(&line, &roots), expected, "{line}");
        }
    }

    #[test]
    fn an_exec_root_is_a_daemons_by_what_its_containerd_wrote() {
        let root = tempfile::tempdir().expect("a directory");
        let exec_root = root.path().join("docker");
        let containerd = exec_root.join("containerd");
        fs::create_dir_all(&containerd).expect("a directory");
        let socket = format!("address = '{}/containerd.sock'", containerd.display());
        let cases = [
            ("main.go", "package main", false),
            ("containerd.toml", "address = '/run/containerd.sock'", false),
            ("containerd.toml", &socket, true),
            ("containerd.pid", "", false),
            ("containerd.pid", "my notes", false),
            ("containerd.pid", "4711", true),
        ];
        for (name, text, expected) in cases {
            let path = containerd.join(name);
            fs::write(&path, text).expect("a file");
            assert_eq!(is_dockerds(&exec_root), expected, "{name}: {text}");
            // What it guards.
            let plugin = exec_root.join("plugins/mine/main.go");
            fs::create_dir_all(plugin.parent().expect("a parent")).expect("a directory");
            fs::write(&plugin, "").expect("a file");
            let state_dir = root.path().join("dockerd-rootless");
            remove_files(&state_dir, &exec_root, root.path(), false);
            assert_eq!(plugin.exists(), !expected, "{name}: {text}");
            let _ = fs::remove_file(path);
        }
    }

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
        remove_files(&run.join("dockerd-rootless"), &run.join("docker"), &run, true);
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
        remove_files(&run.join("dockerd-rootless"), &run.join("docker"), &run, true);
        assert_eq!(left(&precious), ["daemon", "lock"]);
        assert!(precious.join("daemon/photo").exists());
    }
}
