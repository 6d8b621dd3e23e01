//! Clears up behind a daemon that was killed: containers and shims in namespaces that no program can
//! reach any more, and files in the runtime directory. Only what is provably a dead daemon's goes.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
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

/// What dockerd leaves there and removes itself at its next start.
const KEPT: &str = "unmount-on-shutdown";

/// What its containerd leaves in a directory in there, beside the pipes of containers.
const CONTAINERD: [&str; 6] = [
    "daemon",
    "containerd.pid",
    "containerd.sock",
    "containerd.sock.ttrpc",
    "containerd-debug.sock",
    CONTAINERD_TOML,
];

/// containerd's configuration, which is written for each launch.
const CONTAINERD_TOML: &str = "containerd.toml";

/// The programs of a daemon that lives, by the kernel's names of at most 15 bytes. rootlesskit starts
/// itself again as `/proc/self/exe`.
const HEADS: [&str; 6] =
    ["dockerd", "containerd", "rootlesskit", "docker-rootless", "exe", "dockerd-rootles"];

/// How long the programs of a daemon that was killed may take to be gone.
const FALL: Duration = Duration::from_secs(2);

/// A process in a user namespace below ours.
struct Seen {
    process: Process,
    /// The inode of the outermost of its user namespaces below ours.
    namespace: u64,
    /// Whether its root is on a container's file system below the data root.
    is_container: bool,
    /// Whether it is a shim of the containerd in the exec root.
    is_shim: bool,
}

/// Kills what runs in the user namespaces of dead daemons: namespaces of ours with a container of
/// `data_root` or a shim of the containerd in `exec_root`, and without any program of a daemon. If
/// such a program lives, another daemon uses these directories: nothing is killed, and the error
/// names the program (exit 5).
pub fn kill_orphans(data_root: &Path, exec_root: &Path) -> Result<(), Error> {
    let data_roots = both_names(data_root);
    let look = || judge(look(&data_roots, exec_root));
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

/// Finds the processes in other namespaces of ours that have not ended.
fn look(data_roots: &[PathBuf], exec_root: &Path) -> Vec<Seen> {
    let see = |process: Process| {
        let pid = process.identity.pid;
        let namespace = namespace_below_ours(pid).ok()??;
        let (is_container, is_shim) = (is_container(pid, data_roots), is_shim(pid, exec_root));
        Some(Seen { process, namespace, is_container, is_shim })
    };
    processes::all().into_iter().filter(|process| !process.zombie).filter_map(see).collect()
}

/// Finds the processes to kill, or those that show that a daemon lives; a daemon in a container
/// does not.
fn judge(seen: Vec<Seen>) -> Result<Vec<Process>, Vec<Process>> {
    let is_daemons = |one: &&Seen| one.is_container || one.is_shim;
    let namespaces: BTreeSet<u64> =
        seen.iter().filter(is_daemons).map(|one| one.namespace).collect();
    let inside = seen.into_iter().filter(|one| namespaces.contains(&one.namespace));
    let is_head = |one: &Seen| !one.is_container && HEADS.contains(&one.process.name.as_str());
    let (heads, orphans): (Vec<_>, Vec<_>) = inside.partition(is_head);
    let processes = |found: Vec<Seen>| found.into_iter().map(|one| one.process).collect();
    if heads.is_empty() { Ok(processes(orphans)) } else { Err(processes(heads)) }
}

/// Returns the inode of the outermost user namespace of a process that is below our own, if that is
/// ours: a program in a container may have made another in there.
fn namespace_below_ours(pid: u32) -> io::Result<Option<u64>> {
    /// `_IO(0xb7, 0x2)` and `_IO(0xb7, 0x4)` of linux/nsfs.h (ioctl_ns(2)).
    const NS_GET_PARENT: libc::Ioctl = 0xb702;
    const NS_GET_OWNER_UID: libc::Ioctl = 0xb704;
    let own = fs::metadata("/proc/self/ns/user")?.ino();
    let mut file = File::open(format!("/proc/{pid}/ns/user"))?;
    if file.metadata()?.ino() == own {
        return Ok(None);
    }
    loop {
        // SAFETY: the call takes numbers, and returns a new descriptor that is only ours.
        let parent = Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_PARENT) })?;
        // SAFETY: as above.
        let parent = File::from(unsafe { OwnedFd::from_raw_fd(parent) });
        if parent.metadata()?.ino() == own {
            break;
        }
        file = parent;
    }
    let mut owner: libc::uid_t = 0;
    // SAFETY: the call writes one uid_t, to which the pointer leads.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_OWNER_UID, &raw mut owner) };
    Errno::result(done)?;
    Ok((owner == uid()).then_some(file.metadata()?.ino()))
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
/// `exec_root` counts only if it is the one below `runtime_dir`, on the same file system, and was a
/// daemon's before the launch, for which `is_daemons` vouches: a runtime directory in a home may
/// have the user's own `docker` in it.
pub fn remove_files(state_dir: &Path, exec_root: &Path, runtime_dir: &Path, is_daemons: bool) {
    remove_names(state_dir, &StateDir::ENTRIES, |name| name == StateDir::SUBDIRECTORY);
    let device = |path: &Path| fs::symlink_metadata(path).ok().map(|found| found.dev());
    let is_here = |path: &Path| !path.is_symlink() && device(path) == device(runtime_dir);
    if exec_root != runtime_dir.join("docker") || exec_root.is_symlink() {
        return;
    }
    let containerd = exec_root.join("containerd");
    if !is_daemons {
        // The launch has written it, and the next one must not take the directory for a daemon's.
        if is_here(exec_root) && is_here(&containerd) && has_configuration(exec_root) {
            remove_names(&containerd, &[CONTAINERD_TOML], |_| false);
        }
        return;
    }
    if is_here(exec_root) {
        if is_here(&containerd) {
            let pipes = container_names(&containerd);
            let names: Vec<&str> =
                CONTAINERD.into_iter().chain(pipes.iter().map(String::as_str)).collect();
            remove_names(&containerd, &names, |_| true);
        }
        if is_here(&exec_root.join("swarm")) {
            remove_names(&exec_root.join("swarm"), &["control.sock"], |_| false);
        }
        remove_names(exec_root, &EXEC_ROOT, |_| true);
    }
    let pid_file = runtime_dir.join("docker.pid");
    tell(&pid_file, fs::remove_file(&pid_file));
}

/// Finds the directories with the pipes of containers, which have the containers' names.
fn container_names(containerd: &Path) -> Vec<String> {
    let entries = fs::read_dir(containerd).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let is_id =
        |name: &String| name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    names.filter(is_id).collect()
}

/// Says whether what a launch is about to leave in `exec_root` may go afterwards: the directory is
/// missing, a daemon has made it, or nothing is in it but what stays of every daemon.
pub fn is_daemons(exec_root: &Path) -> bool {
    let is_kept = |name: &OsStr| is_dump(name) || name == KEPT;
    let holds_dumps = |entries: fs::ReadDir| {
        entries.into_iter().all(|entry| entry.is_ok_and(|entry| is_kept(&entry.file_name())))
    };
    match fs::read_dir(exec_root) {
        Err(error) => error.kind() == io::ErrorKind::NotFound,
        Ok(entries) => holds_dumps(entries) || has_configuration(exec_root),
    }
}

/// Says whether containerd's configuration in `exec_root` names its socket in there.
fn has_configuration(exec_root: &Path) -> bool {
    let containerd = exec_root.join("containerd");
    let text = files::read_regular(&containerd.join(CONTAINERD_TOML), 64 * 1024);
    let text = text.ok().flatten().unwrap_or_default();
    let socket = containerd.join("containerd.sock");
    let socket = socket.as_os_str().as_bytes();
    text.windows(socket.len()).any(|part| part == socket)
}

/// Removes these `names` from a directory, and the directory if it is empty then. A directory among
/// them goes with its contents if `may_hold` says so. What a link in its place leads to is never
/// touched: it is reached by its descriptor.
fn remove_names(directory: &Path, names: &[&str], may_hold: impl Fn(&str) -> bool) {
    let flags = (OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_PATH).bits();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(directory);
    let Ok(file) = opened else { return };
    let Ok(device) = file.metadata().map(|found| found.dev()) else { return };
    for name in names {
        let path = PathBuf::from(format!("/proc/self/fd/{}/{name}", file.as_raw_fd()));
        let removed = match fs::symlink_metadata(&path) {
            Ok(entry) if entry.is_dir() && may_hold(name) => {
                open_up(&path, device).and_then(|()| fs::remove_dir_all(&path))
            }
            Ok(_) => fs::remove_file(&path),
            Err(error) => Err(error),
        };
        tell(&directory.join(name), removed);
    }
    tell(directory, fs::remove_dir(directory));
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

/// Notes what stays, but not what was not there.
fn tell(path: &Path, removed: io::Result<()>) {
    if let Err(error) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        debug!("{} stays: {error}", path.display());
    }
}

/// Removes all but the `keep` newest of dockerd's dumps in `exec_root`, which is mostly in memory:
/// `goroutine-stacks-TIME.log` (moby, `pkg/stack`).
pub fn keep_last_dumps(exec_root: &Path, keep: usize) {
    let mut dumps = BTreeMap::new();
    for entry in fs::read_dir(exec_root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if is_dump(&name)
            && let Ok(found) = entry.metadata()
        {
            dumps.insert((found.mtime(), found.mtime_nsec(), name), entry.path());
        }
    }
    for path in dumps.values().take(dumps.len().saturating_sub(keep)) {
        tell(path, fs::remove_file(path));
    }
}

/// Says whether dockerd gives its dumps such a name.
fn is_dump(name: &OsStr) -> bool {
    let time = name.to_str().and_then(|name| name.strip_prefix("goroutine-stacks-"));
    time.is_some_and(|time| {
        time.starts_with(|first: char| first.is_ascii_digit()) && time.ends_with(".log")
    })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::fs::symlink;
    use std::process::{Command, Stdio};
    use std::time::SystemTime;

    use super::*;

    /// Writes a file, and makes the directories above it.
    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, text).expect("a file");
    }

    /// A process: its PID, user namespace, name, and role, if it has one.
    fn seen(line: &str) -> Seen {
        let fields: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| fields[at].parse().expect("a number");
        let process = Process::sample(number(0), 1, fields[2]);
        let has_role = |role: &str| fields.get(3) == Some(&role);
        let (is_container, is_shim) = (has_role("container"), has_role("shim"));
        Seen { process, namespace: number(1).into(), is_container, is_shim }
    }

    #[test]
    fn a_namespace_is_an_orphan_only_without_any_program_of_a_daemon() {
        const SHIM: &str = "50 2 containerd-shim shim";
        const CONTAINER: &str = "51 2 sleep container";
        // The PIDs to kill, or the program that lives.
        type Case = (&'static str, &'static [&'static str], Result<&'static [u32], u32>);
        #[rustfmt::skip]
        let cases: &[Case] = &[
            ("nothing", &[], Ok(&[])),
            ("another daemon elsewhere", &[SHIM, CONTAINER, "52 2 fuse-overlayfs", "60 3 dockerd"], Ok(&[50, 51, 52])),
            ("a daemon in a container", &[SHIM, "51 2 dockerd container"], Ok(&[50, 51])),
            ("containers without a shim", &["51 2 sleep container"], Ok(&[51])),
            ("dockerd lives", &[SHIM, CONTAINER, "60 2 dockerd"], Err(60)),
            ("containerd lives", &[SHIM, "60 2 containerd"], Err(60)),
            ("rootlesskit's child lives", &[CONTAINER, "60 2 exe"], Err(60)),
            ("a keeper lives", &[SHIM, "60 2 dockerd-rootles"], Err(60)),
        ];
        for (case, lines, expected) in cases {
            let pids = |found: Vec<Process>| -> Vec<u32> {
                found.iter().map(|process| process.identity.pid).collect()
            };
            let judged = judge(lines.iter().map(|line| seen(line)).collect());
            let expected = expected.map(<[u32]>::to_vec).map_err(|pid| vec![pid]);
            assert_eq!(judged.map(pids).map_err(pids), expected, "{case}");
        }
    }

    #[test]
    fn a_namespace_in_a_namespace_counts_as_the_outer_one() {
        let own = std::process::id();
        assert_eq!(namespace_below_ours(own).expect("our own"), None);
        let script = "stat -Lc %i /proc/self/ns/user; exec unshare -r sh -c 'echo; exec cat'";
        let mut inner = Command::new("unshare")
            .args(["-r", "sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare");
        let mut lines = BufReader::new(inner.stdout.take().expect("a pipe")).lines();
        let outer = lines.next().expect("a line").expect("text").parse().expect("an inode");
        lines.next().expect("it is inside").expect("text");
        assert_eq!(namespace_below_ours(inner.id()).expect("it runs"), Some(outer));
        drop(inner.stdin.take());
        inner.wait().expect("our child");
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
        assert!(is_daemons(&exec_root), "it is missing");
        write(&exec_root.join("goroutine-stacks-2026-11-27T090446Z.log"), "");
        write(&exec_root.join(KEPT), "");
        assert!(is_daemons(&exec_root), "it holds a dump and what stays");
        let containerd = exec_root.join("containerd");
        let socket = format!("address = '{}/containerd.sock'", containerd.display());
        let cases = [
            ("main.go", "package main", false),
            (CONTAINERD_TOML, "address = '/run/containerd.sock'", false),
            (CONTAINERD_TOML, &socket, true),
        ];
        for (name, text, expected) in cases {
            write(&containerd.join(name), text);
            assert_eq!(is_daemons(&exec_root), expected, "{name}: {text}");
        }
    }

    #[test]
    fn a_directory_of_the_users_own_stays_and_does_not_become_a_daemons() {
        let root = tempfile::tempdir().expect("a directory");
        let run = root.path();
        let own = [
            "docker/containerd/main.go",
            "docker/containerd/daemon/main.go",
            "docker/plugins/main.go",
            "docker/swarm/stack.yml",
            "docker.pid",
        ];
        own.iter().for_each(|name| write(&run.join(name), ""));
        let exec_root = run.join("docker");
        let before = is_daemons(&exec_root);
        assert!(!before);
        // A launch.
        let address = format!("address = '{}/containerd/containerd.sock'", exec_root.display());
        let configuration = exec_root.join("containerd/containerd.toml");
        write(&configuration, &address);
        remove_files(&run.join("dockerd-rootless"), &exec_root, run, before);
        for name in own {
            assert!(run.join(name).exists(), "{name}");
        }
        assert!(!is_daemons(&exec_root));

        // A daemon that was killed has left its own beside it.
        write(&configuration, &address);
        write(&run.join("docker/swarm/control.sock"), "");
        remove_files(&run.join("dockerd-rootless"), &exec_root, run, true);
        for name in [own[0], own[3]] {
            assert!(run.join(name).exists(), "{name}");
        }
        assert!(!run.join("docker/swarm/control.sock").exists());
    }

    #[test]
    fn a_directory_in_a_state_directory_stays() {
        let root = tempfile::tempdir().expect("a directory");
        let state_dir = root.path().join("state");
        for name in ["hosts/all.ini", "netns/a", "gvisortapvsock/a.sock"] {
            write(&state_dir.join(name), "");
        }
        remove_files(&state_dir, &root.path().join("docker"), root.path(), true);
        assert!(state_dir.join("hosts/all.ini").exists());
        assert!(state_dir.join("netns/a").exists());
        assert!(!state_dir.join("gvisortapvsock").exists());
    }

    #[test]
    fn known_names_go_and_what_links_lead_to_stays() {
        let root = tempfile::tempdir().expect("a directory");
        let pipe = format!("run/docker/containerd/{}/init-stdout", "0123456789abcdef".repeat(4));
        #[rustfmt::skip]
        let names = [
            "run/dockerd-rootless/lock", "run/dockerd-rootless/hosts", "run/docker/netns/a", "run/docker/stays",
            "run/docker/libnetwork/deep/a", "run/docker/containerd/containerd.sock",
            "run/docker/containerd/containerd.toml", "run/docker/swarm/control.sock", "run/docker/containerd/containerd.sock.ttrpc",
            "run/docker.pid", "precious/lock", "precious/daemon/photo", &pipe,
        ];
        names.iter().for_each(|name| write(&root.path().join(name), ""));
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
        assert_eq!(left(&run.join("docker")), ["stays"]);
        assert_eq!(left(&precious), ["daemon", "lock"]);

        // Directories that became links.
        symlink(&precious, run.join("docker/containerd")).expect("a link");
        symlink(&precious, run.join("dockerd-rootless")).expect("a link");
        remove_files(&run.join("dockerd-rootless"), &run.join("docker"), &run, true);
        assert_eq!(left(&precious), ["daemon", "lock"]);
        assert!(precious.join("daemon/photo").exists());
    }

    #[test]
    fn an_exec_root_goes_with_the_last_of_what_is_in_it() {
        let root = tempfile::tempdir().expect("a directory");
        let run = root.path();
        let containerd = run.join("docker/containerd");
        fs::create_dir_all(containerd.join("daemon")).expect("a directory");
        let socket = format!("address = '{}/containerd.sock'", containerd.display());
        write(&containerd.join("containerd.toml"), &socket);
        remove_files(&run.join("dockerd-rootless"), &run.join("docker"), run, true);
        assert_eq!(fs::read_dir(run).expect("a directory").count(), 0);
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
            ("goroutine-stacks-mine.log", 100, true),
            ("goroutine-stacks-2026-11-27T090446Z.log.gz", 100, true),
            ("daemon-data-2026-11-27T090446Z.log", 100, true),
        ];
        for (name, age, _) in files {
            let file = File::create(place(name)).expect("a file");
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).expect("a time");
        }
        keep_last_dumps(directory.path(), 2);
        for (name, _, stays) in files {
            assert_eq!(place(name).exists(), stays, "{name}");
        }
    }
}
