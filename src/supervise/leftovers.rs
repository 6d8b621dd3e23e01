//! Clears up behind a daemon that was killed: containers and shims in namespaces that nobody can
//! reach any more, and files in the runtime directory. Only what is provably a dead daemon's goes.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::signal::Signal;
use tracing::{debug, warn};

use crate::error::{Error, Exit};
use crate::facts::look::uid;
use crate::facts::{StateDir, unescaped};
use crate::sys::files;
use crate::sys::processes::{self, Process};

/// What dockerd leaves in its directory.
const EXEC_ROOT: [&str; 5] = ["libnetwork", "netns", "runtime-runc", "plugins", "metrics.sock"];

/// What its containerd leaves in a directory in there.
const CONTAINERD: [&str; 3] = ["daemon", "containerd.pid", "containerd.sock"];

/// The programs of a daemon that lives. rootlesskit starts itself again as `/proc/self/exe`.
const HEADS: [&str; 6] =
    ["dockerd", "containerd", "rootlesskit", "docker-rootlesskit", "exe", "dockerd-rootless"];

/// How long the programs of a daemon that was killed may take to be gone.
const FALL: Duration = Duration::from_secs(2);

/// How dockerd names a dump: `goroutine-stacks-TIME.log` (moby, `pkg/stack`), with a time of these
/// characters.
const DUMP: (&str, &str, &str) = ("goroutine-stacks-", "0123456789-+TZ", ".log");

/// A process that has not ended, and its role in the daemon whose leftovers are looked for.
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

/// Kills what runs in the user namespaces of dead daemons: namespaces of ours with a container of
/// `data_root` or a shim of the containerd in `exec_root`, and without any program of a daemon. If
/// such a program lives, another daemon uses these directories: nothing is killed, and the error
/// names the program (exit 5).
pub fn kill_orphans(data_root: &Path, exec_root: &Path) -> Result<(), Error> {
    let data_roots = both_names(data_root);
    let own = namespace_of("self");
    let look = || judge(&look(&data_roots, exec_root, own), own);
    let found = look().or_else(|heads| {
        // Where a supervisor was just killed, the kernel is still ending what depends on it.
        let heads_now: Vec<_> = heads.iter().map(|head| head.identity).collect();
        if processes::wait_for_end(&heads_now, FALL) { look() } else { Err(heads) }
    });
    let orphans = found.map_err(|heads| {
        let (pid, name) = (heads[0].identity.pid, &heads[0].name);
        let shown = data_root.display();
        let what =
            format!("another daemon runs on `{shown}`: process {pid} ({name}) belongs to it");
        Error::new(Exit::AlreadyRunning, what)
            .hint(format!("use that daemon, or stop it first: kill {pid}"))
    })?;
    for process in &orphans {
        let (pid, name) = (process.identity.pid, &process.name);
        warn!("process {pid} ({name}) was left by a daemon that is gone: killing it");
    }
    processes::signal_all(&orphans, Signal::SIGKILL);
    Ok(())
}

/// The data root as it is named and as it is: dockerd follows links, and containerd below it does
/// not.
fn both_names(data_root: &Path) -> Vec<PathBuf> {
    [data_root.to_owned()].into_iter().chain(data_root.canonicalize().ok()).collect()
}

/// Finds the processes of the host that have not ended. Only those in other namespaces of ours have
/// roles.
fn look(data_roots: &[PathBuf], exec_root: &Path, own: Option<u64>) -> Vec<Seen> {
    let see = |process: Process| {
        let pid = process.identity.pid;
        let namespace = namespace_of(&pid.to_string()).filter(|_| !process.zombie);
        let is_of_ours = |inode| Some(inode) != own && owner_of(pid, inode) == Some(uid());
        let role = match namespace {
            Some(inode) if !is_of_ours(inode) => Role::Other,
            Some(_) if is_shim(pid, exec_root) => Role::Shim,
            Some(_) if is_container(pid, data_roots) => Role::Container,
            _ => Role::Other,
        };
        Seen { process, namespace, role }
    };
    processes::all().into_iter().filter(|process| !process.zombie).map(see).collect()
}

/// Finds the processes to kill, or those that show that a daemon lives; a daemon in a container
/// does not. `own` is our user namespace.
fn judge(seen: &[Seen], own: Option<u64>) -> Result<Vec<Process>, Vec<Process>> {
    let is_in = |one: &Seen, namespaces: &BTreeSet<u64>| {
        one.namespace.is_some_and(|inode| namespaces.contains(&inode))
    };
    let with_role = seen.iter().filter(|one| one.role != Role::Other);
    let orphaned: BTreeSet<u64> = with_role.filter_map(|one| one.namespace).collect();
    // A program in a container may have made a namespace of its own, in that of the daemon.
    let mut near = orphaned.clone();
    let mut parents = BTreeSet::new();
    loop {
        let inside = seen.iter().filter(|one| is_in(one, &near));
        parents.extend(inside.map(|one| one.process.parent));
        let above = seen.iter().filter(|one| parents.contains(&one.process.identity.pid));
        let before = near.len();
        near.extend(above.filter(|one| one.namespace != own).filter_map(|one| one.namespace));
        if near.len() == before {
            break;
        }
    }
    let is_head = |one: &&Seen| {
        let (pid, name) = (one.process.identity.pid, &one.process.name);
        // rootlesskit, or a supervisor that has adopted shims. We are one ourselves.
        let is_above = parents.contains(&pid) && pid != std::process::id();
        // The kernel keeps 15 bytes of a name.
        let is_named = HEADS.iter().any(|head| head[..head.len().min(15)] == **name);
        is_named && one.role != Role::Container && (is_above || is_in(one, &near))
    };
    let processes = |found: Vec<&Seen>| found.into_iter().map(|one| one.process.clone()).collect();
    let heads: Vec<&Seen> = seen.iter().filter(is_head).collect();
    match heads.is_empty() {
        true => Ok(processes(seen.iter().filter(|one| is_in(one, &orphaned)).collect())),
        false => Err(processes(heads)),
    }
}

/// Returns the inode of a process's user namespace, if we may know it.
fn namespace_of(process: &str) -> Option<u64> {
    fs::metadata(format!("/proc/{process}/ns/user")).ok().map(|found| found.ino())
}

/// Returns the owner of the user namespace of `pid`, if it is still `namespace`.
fn owner_of(pid: u32, namespace: u64) -> Option<u32> {
    /// `_IO(0xb7, 0x4)` of linux/nsfs.h.
    const NS_GET_OWNER_UID: libc::Ioctl = 0xb704;
    let file = File::open(format!("/proc/{pid}/ns/user")).ok()?;
    let is_same = file.metadata().ok()?.ino() == namespace;
    let mut owner: libc::uid_t = 0;
    // SAFETY: NS_GET_OWNER_UID (ioctl_ns(2)) writes one uid_t, to which the pointer leads.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_OWNER_UID, &raw mut owner) };
    (is_same && done == 0).then_some(owner)
}

/// Finds what runs in containers below the process `keeper` whose shims are gone, so that they have
/// become its own children, and in those whose first processes are `forgotten`.
pub fn orphans(keeper: u32, data_root: &Path, forgotten: &[u32]) -> Vec<Process> {
    let data_roots = both_names(data_root);
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

/// Says whether a process that a daemon has left would do something about SIGTERM: one in a
/// container that has a handler. A shim has nothing to save, and a container's first process
/// without a handler does not even end.
pub fn can_end_in_order(process: &Process, exec_root: &Path) -> bool {
    let pid = process.identity.pid;
    !process.zombie && processes::catches(pid, Signal::SIGTERM) && !is_shim(pid, exec_root)
}

/// Says whether a process is a shim of the containerd below `exec_root`.
fn is_shim(pid: u32, exec_root: &Path) -> bool {
    let words = processes::words(pid);
    let program = words.first().map(|word| word.to_string_lossy());
    let address = exec_root.join("containerd/containerd.sock");
    program.is_some_and(|program| program.contains("containerd-shim"))
        && words.iter().any(|word| word == address.as_os_str())
}

/// Says whether the root of a process is that of a container of a daemon with one of these data
/// roots.
pub fn is_container(pid: u32, data_roots: &[PathBuf]) -> bool {
    let table = fs::read(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    let table = String::from_utf8_lossy(&table);
    let root = table.lines().find(|line| line.split(' ').nth(4) == Some("/"));
    root.is_some_and(|root| is_below(root, data_roots))
}

/// Says whether a line of proc_pid_mountinfo(5) names something below one of `data_roots`: overlay2
/// and fuse-overlayfs name the layers, vfs is a bind mount.
fn is_below(line: &str, data_roots: &[PathBuf]) -> bool {
    let mut parts = line.split([' ', ',', '=', ':']).map(unescaped);
    parts.any(|part| {
        let part = Path::new(&part);
        data_roots.iter().any(|root| part.starts_with(root) && part != root)
    })
}

/// Removes what rootlesskit and dockerd leave when they are killed, by the names that they give.
/// `exec_root` counts only if it is the one below `runtime_dir`, and a daemon has made it, for
/// which `is_new` vouches: a runtime directory in a home may have the user's own `docker` in it.
pub fn remove_files(state_dir: &Path, exec_root: &Path, runtime_dir: &Path, is_new: bool) {
    if let Some(directory) = Directory::open(state_dir) {
        StateDir::ENTRIES.iter().for_each(|name| directory.remove(name));
        tell(state_dir, fs::remove_dir(state_dir));
    }
    if exec_root != runtime_dir.join("docker") || !(is_new || is_dockerds(exec_root)) {
        return;
    }
    // What is mounted there is not the daemon's.
    let Some(runtime) = Directory::open(runtime_dir) else { return };
    let is_same = |directory: &Directory| directory.device == runtime.device;
    if let Some(directory) = Directory::open(exec_root).filter(is_same) {
        EXEC_ROOT.iter().for_each(|name| directory.remove(name));
        if let Some(containerd) =
            Directory::open(&directory.place.join("containerd")).filter(is_same)
        {
            CONTAINERD.iter().for_each(|name| containerd.remove(name));
            // The pipes of containers, each in a directory that has the container's name.
            for entry in fs::read_dir(&containerd.place).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let is_id = |name: &&str| {
                    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
                };
                name.to_str().filter(is_id).inspect(|name| containerd.remove(name));
            }
        }
    }
    let pid_file = runtime_dir.join("docker.pid");
    tell(&pid_file, fs::remove_file(&pid_file));
}

/// Says whether a daemon has made `exec_root`: containerd's configuration in there names its socket
/// in there, or a file its PID.
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

/// A directory, reached by its descriptor: what a link in its place leads to is never touched.
struct Directory {
    _file: File,
    place: PathBuf,
    device: u64,
}

impl Directory {
    fn open(path: &Path) -> Option<Self> {
        let flags = (OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_PATH).bits();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
        let place = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        Some(Self { device: file.metadata().ok()?.dev(), _file: file, place })
    }

    /// Removes a file, or a directory with all that is in it, unless that reaches into another file
    /// system.
    fn remove(&self, name: &str) {
        let path = self.place.join(name);
        let removed = match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => {
                open_up(&path, self.device).and_then(|()| fs::remove_dir_all(&path))
            }
            Ok(_) => fs::remove_file(&path),
            Err(error) => Err(error),
        };
        tell(&path, removed);
    }
}

/// Makes the directories in and at `path` accessible, for dockerd makes some that even their owner
/// cannot enter. Fails if one is on another file system than `device`.
fn open_up(path: &Path, device: u64) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    if found.dev() != device {
        return Err(io::Error::other("it is on another file system"));
    }
    if !found.is_dir() {
        return Ok(());
    }
    if found.mode() & 0o700 != 0o700 {
        fs::set_permissions(path, Permissions::from_mode(0o700))?;
    }
    fs::read_dir(path)?.try_for_each(|entry| open_up(&entry?.path(), device))
}

/// Tells of a file that stays, but not of one that was not there.
fn tell(path: &Path, removed: io::Result<()>) {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            debug!("{} stays: {error}", path.display());
        }
        _ => {}
    }
}

/// Removes all but the `keep` newest of dockerd's dumps in `exec_root`, which is mostly in memory.
/// Only files of ours count, and no link is followed.
pub fn keep_last_dumps(exec_root: &Path, keep: usize) {
    let (begin, time, end) = DUMP;
    let is_dump = |name: &str| {
        let between = name.strip_prefix(begin).and_then(|rest| rest.strip_suffix(end));
        between.is_some_and(|found| !found.is_empty() && found.chars().all(|c| time.contains(c)))
    };
    let entries = fs::read_dir(exec_root).into_iter().flatten().flatten();
    let mut dumps: Vec<_> = entries
        .filter(|entry| entry.file_name().to_str().is_some_and(is_dump))
        .filter_map(|entry| Some((entry.metadata().ok()?, entry.path())))
        .filter(|(found, _)| found.is_file() && found.uid() == uid())
        .map(|(found, path)| ((found.mtime(), found.mtime_nsec()), path))
        .collect();
    dumps.sort();
    dumps.truncate(dumps.len().saturating_sub(keep));
    dumps.iter().for_each(|(_, path)| tell(path, fs::remove_file(path)));
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::time::SystemTime;

    use super::*;

    /// A process: its PID, parent, user namespace (1 is the host's, 2 the daemon's), name, and
    /// role, if it has one.
    fn seen(line: &str) -> Seen {
        let fields: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| fields[at].parse().expect("a number");
        let role = match fields.get(4) {
            Some(&"container") => Role::Container,
            Some(&"shim") => Role::Shim,
            _ => Role::Other,
        };
        let process = Process::sample(number(0), number(1), fields[3]);
        Seen { process, namespace: Some(number(2).into()), role }
    }

    #[test]
    fn a_namespace_is_an_orphan_only_without_any_program_of_a_daemon() {
        const SHIM: &str = "50 1 2 containerd-shim shim";
        const CONTAINER: &str = "51 50 2 sleep container";
        // The PIDs to kill, or the program that lives.
        type Case = (&'static str, &'static [&'static str], Result<&'static [u32], u32>);
        #[rustfmt::skip]
        let cases: &[Case] = &[
            ("nothing", &[], Ok(&[])),
            ("another daemon elsewhere", &[SHIM, CONTAINER, "52 1 2 fuse-overlayfs", "60 1 3 dockerd", "61 1 1 rootlesskit"], Ok(&[50, 51, 52])),
            ("a daemon in a container", &[SHIM, "51 50 2 dockerd container"], Ok(&[50, 51])),
            ("containers without a shim", &["51 1 2 sleep container"], Ok(&[51])),
            ("dockerd lives", &[SHIM, CONTAINER, "60 1 2 dockerd"], Err(60)),
            ("containerd lives", &[SHIM, "60 1 2 containerd"], Err(60)),
            ("rootlesskit's child lives", &[CONTAINER, "60 1 2 exe"], Err(60)),
            ("a keeper lives", &[SHIM, "60 1 2 dockerd-rootles"], Err(60)),
            ("rootlesskit lives", &[SHIM, "60 70 2 sh", "70 1 1 docker-rootless"], Err(70)),
            ("a container's own namespace", &["50 1 2 containerd-shim", "51 50 3 bwrap container", "60 1 2 dockerd"], Err(60)),
            ("a supervisor lives", &["50 70 2 containerd-shim shim", "70 1 1 dockerd-rootles"], Err(70)),
        ];
        for (case, lines, expected) in cases {
            let all: Vec<Seen> =
                ["1 0 1 systemd"].iter().chain(*lines).map(|line| seen(line)).collect();
            let pids = |found: Vec<Process>| -> Vec<u32> {
                found.iter().map(|process| process.identity.pid).collect()
            };
            let judged = judge(&all, Some(1)).map(pids).map_err(pids);
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
        let pipe = format!("run/docker/containerd/{}/init-stdout", "0123456789abcdef".repeat(4));
        #[rustfmt::skip]
        let names = [
            "run/dockerd-rootless/lock", "run/dockerd-rootless/hosts", "run/docker/netns/a", "run/docker/stays",
            "run/docker/libnetwork/deep/a", "run/docker/containerd/containerd.sock", "run/docker/containerd/stays",
            "run/docker.pid", "precious/lock", "precious/daemon/photo", &pipe,
        ];
        names.iter().for_each(|name| write(name));
        let run = root.path().join("run");
        let precious = root.path().join("precious");
        let closed = run.join("docker/runtime-runc");
        fs::create_dir(&closed).expect("a directory");
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).expect("closed");
        symlink(&precious, run.join("docker/plugins")).expect("a link");
        symlink(&precious, run.join("docker/netns/link")).expect("a link");
        remove_files(&run.join("dockerd-rootless"), &run.join("docker"), &run, true);
        let left = |directory: &Path| {
            let entries = fs::read_dir(directory).expect("a directory").flatten();
            let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
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

    #[test]
    fn the_last_dumps_stay_and_nothing_else_is_touched() {
        let directory = tempfile::tempdir().expect("a directory");
        let place = |name: &str| directory.path().join(name);
        // The time of the file counts, for a clock may have been set.
        let files = [
            ("goroutine-stacks-2026-11-27T090446Z.log", 40, false),
            ("goroutine-stacks-2026-11-27T100446+0100.log", 30, false),
            ("goroutine-stacks-2026-11-27T110446-0330.log", 20, true),
            ("goroutine-stacks-1970-01-01T000000Z.log", 10, true),
            ("goroutine-stacks-.log", 100, true),
            ("goroutine-stacks-mine.log", 100, true),
            ("goroutine-stacks-2026-11-27T090446Z.log.gz", 100, true),
            ("daemon-data-2026-11-27T090446Z.log", 100, true),
        ];
        for (name, age, _) in files {
            let file = File::create(place(name)).expect("a file");
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).expect("a time");
        }
        let link = place("goroutine-stacks-2026-11-27T080446Z.log");
        symlink(place("goroutine-stacks-mine.log"), &link).expect("a link");
        let in_its_place = place("goroutine-stacks-2026-11-27T070446Z.log");
        fs::create_dir(&in_its_place).expect("a directory");
        keep_last_dumps(directory.path(), 2);
        for (name, _, stays) in files {
            assert_eq!(place(name).exists(), stays, "{name}");
        }
        assert!(link.is_symlink() && in_its_place.is_dir());
    }
}
