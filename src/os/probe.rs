//! Gathers [`HostFacts`]: asks the tools, reads `/proc`, looks at the places that a launch uses.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd;

use super::ask::Asker;
use super::{files, sockets};
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::host::{
    Answer, DaemonJson, Directory, DockerdFacts, HostFacts, Kernel, Lock, PidFile, PidState,
    Process, RootlesskitFacts, Session, Slirp4netnsFacts, StateDir, Tool, Tools, Version,
    parse_dockerd_flags, parse_pasta_version, parse_slirp4netns_netns_type,
};
use crate::plan::{self, DockerdWords};
use crate::settings::Settings;

/// Where rootlesskit looks for lxc-user-nic, and nowhere else.
const LXC_USER_NIC: [&str; 4] = [
    "/usr/libexec/lxc/lxc-user-nic",
    "/usr/lib/x86_64-linux-gnu/lxc/lxc-user-nic",
    "/usr/lib/aarch64-linux-gnu/lxc/lxc-user-nic",
    "/usr/lib/lxc/lxc-user-nic",
];

/// The largest pid file in bytes: a PID and blanks.
const PID_FILE_MAX: u64 = 64;

/// The largest `daemon.json` in bytes that is read.
const DAEMON_JSON_MAX: u64 = 1024 * 1024;

/// The effective user id.
pub fn uid() -> u32 {
    unistd::geteuid().as_raw()
}

/// How much to find out about the tools.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Thoroughness {
    /// What decides the launch.
    Launch,
    /// What a person wants to see as well, such as versions. It decides nothing.
    Report,
}

/// Everything about the host that decides a launch with these `words` for dockerd.
///
/// # Errors
/// Fails only if `/proc` does not tell who we are.
pub fn host(
    settings: &Settings,
    environment: &Environment,
    words: &[OsString],
    thoroughness: Thoroughness,
) -> Result<HostFacts, Error> {
    let daemon_words = plan::stated_daemon_words(settings, words);
    Ok(HostFacts {
        tools: tools(settings, environment, thoroughness),
        session: session(settings, environment, DockerdWords(&daemon_words))?,
        kernel: kernel(),
    })
}

/// Looks the tools up and asks them, all at the same time.
fn tools(settings: &Settings, environment: &Environment, thoroughness: Thoroughness) -> Tools {
    let (search_path, _) = plan::search_path(environment);
    let find = |name: &OsStr| which::which_in(name, Some(&search_path), current_directory()).ok();
    let find_named = |name: &str| find(OsStr::new(name));
    let mut asker = Asker::new(environment, search_path.clone(), uid());

    let rootlesskit = match &settings.rootlesskit_binary.value {
        Some(name) => find(name),
        None => find_named("docker-rootlesskit").or_else(|| find_named("rootlesskit")),
    };
    let dockerd = find(&settings.daemon_binary.value);
    let slirp4netns = find_named("slirp4netns");
    let pasta = find_named("pasta");
    // dockerd takes the longest: it is asked first.
    let flags = dockerd
        .as_deref()
        .map(|path| asker.ask_binary::<Vec<String>>(path, "--help"));
    let help = rootlesskit
        .as_deref()
        .map(|path| asker.ask::<RootlesskitFacts>(path, "--help"));
    let netns_type = slirp4netns
        .as_deref()
        .map(|path| asker.ask::<bool>(path, "--help"));
    let help = help.map(|question| asker.answer(question, RootlesskitFacts::parse));
    let detaches =
        !matches!(&help, Some(Answer::Known(facts)) if !facts.flags.contains_key("detach-netns"));
    let report = thoroughness == Thoroughness::Report;
    let mut version_of = |path: Option<&Path>, wanted: bool| {
        let question = asker.ask_binary::<Version>(path.filter(|_| wanted)?, "--version");
        asker.answer(question, Version::find).known()
    };
    let dockerd_version = version_of(dockerd.as_deref(), detaches || report);
    let slirp4netns_version = version_of(slirp4netns.as_deref(), report);
    let pasta_version = pasta
        .as_deref()
        .filter(|_| report)
        .map(|path| asker.ask::<String>(path, "--version"));
    let flags = flags.map(|question| {
        let answer = asker.answer(question, parse_dockerd_flags);
        answer.map(|flags| DockerdFacts {
            version: dockerd_version,
            flags,
        })
    });
    let netns_type = netns_type.map(|question| {
        let answer = asker.answer(question, parse_slirp4netns_netns_type);
        answer.map(|netns_type| Slirp4netnsFacts {
            version: slirp4netns_version,
            netns_type,
        })
    });
    let tools = Tools {
        rootlesskit: Tool::new(rootlesskit, help),
        dockerd: Tool::new(dockerd, flags),
        slirp4netns: Tool::new(slirp4netns, netns_type),
        pasta,
        pasta_version: pasta_version
            .and_then(|question| asker.answer(question, parse_pasta_version).known()),
        vpnkit: find_named("vpnkit"),
        lxc_user_nic: LXC_USER_NIC
            .iter()
            .map(PathBuf::from)
            .find(|path| path.exists()),
        iptables: find_named("iptables").and_then(|path| path.canonicalize().ok()),
        iptables_legacy: find_named("iptables-legacy"),
        ip6tables_legacy: find_named("ip6tables-legacy"),
    };
    asker.keep();
    tools
}

/// The working directory, to which relative names of programs refer.
fn current_directory() -> PathBuf {
    std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"))
}

/// The user, and what lies in the places that the launch will use.
fn session(
    settings: &Settings,
    environment: &Environment,
    words: DockerdWords<'_>,
) -> Result<Session, Error> {
    let uid = uid();
    let proc_error = |what: &str, error: &io::Error| {
        Error::new(Exit::Failed, format!("`{what}` cannot be read"))
            .because(error)
            .hint("mount a proc file system on /proc")
    };
    let user_namespace =
        user_namespace().map_err(|error| proc_error("/proc/self/ns/user", &error))?;
    let own_path = std::env::current_exe().map_err(|error| proc_error("/proc/self/exe", &error))?;

    let guess = || {
        let path = PathBuf::from(format!("/run/user/{uid}"));
        let directory = directory(&path);
        matches!(directory, Directory::Present { owner, .. } if owner == uid)
            .then_some((path, directory))
    };
    let stated = environment.get("XDG_RUNTIME_DIR").map(PathBuf::from);
    let runtime_dir_guessed = stated.is_none();
    let runtime_dir = match stated {
        Some(path) => Some((path.clone(), directory(&path))),
        None => guess(),
    };
    let below = |name: &str| {
        runtime_dir
            .as_ref()
            .map_or_else(|| PathBuf::from(name), |(path, _)| path.join(name))
    };

    let state_dir = plan::stated_state_dir(settings).unwrap_or_else(|| below("dockerd-rootless"));
    let containerd_rootless = environment
        .get("CONTAINERD_ROOTLESS_ROOTLESSKIT_STATE_DIR")
        .map_or_else(|| below("containerd-rootless"), PathBuf::from);
    let pid_file = words
        .long("pidfile")
        .flatten()
        .map_or_else(|| below("docker.pid"), PathBuf::from);
    let exec_root = words
        .long("exec-root")
        .flatten()
        .map_or_else(|| below("docker"), PathBuf::from);
    let daemon_name = Path::new(&settings.daemon_binary.value)
        .file_name()
        .unwrap_or(OsStr::new("dockerd"));
    let daemon_json = words.long("config-file").flatten().map(PathBuf::from);
    let daemon_json =
        daemon_json.or_else(|| Some(environment.config_home()?.join("docker/daemon.json")));
    let daemon_json = daemon_json.unwrap_or_default();
    let home = environment.get("HOME").map(Path::new);
    let precious: Vec<&Path> = home
        .into_iter()
        .chain(runtime_dir.as_ref().map(|(path, _)| path.as_path()))
        .collect();
    Ok(Session {
        uid,
        home: environment
            .get("HOME")
            .map(|home| (PathBuf::from(home), Path::new(home).is_dir())),
        state_dir: look_at_state_dir(current_directory().join(state_dir), &precious),
        containerd_rootless: (
            containerd_rootless.clone(),
            lock(&containerd_rootless.join("lock")),
        ),
        pid_files: vec![
            look_at_pid_file(
                pid_file,
                &below(""),
                uid,
                &[OsStr::new("dockerd"), daemon_name],
            ),
            look_at_pid_file(
                exec_root.join("containerd/containerd.pid"),
                &below(""),
                uid,
                &[OsStr::new("containerd")],
            ),
        ],
        daemon_json: (daemon_json.clone(), read_daemon_json(&daemon_json)),
        listen_fds: sockets::passed(environment),
        runtime_dir,
        runtime_dir_guessed,
        user_namespace,
        own_path,
    })
}

/// The inode of the user namespace that we are in.
pub fn user_namespace() -> io::Result<u64> {
    fs::metadata("/proc/self/ns/user").map(|metadata| metadata.ino())
}

/// What stands at `path`.
fn directory(path: &Path) -> Directory {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Directory::Missing,
        Err(error) => Directory::Unknown(error.to_string()),
        Ok(metadata) if metadata.is_symlink() => Directory::Symlink,
        Ok(metadata) if !metadata.is_dir() => Directory::NotADirectory,
        Ok(metadata) => Directory::Present {
            owner: metadata.uid(),
            mode: metadata.mode() & 0o7777,
        },
    }
}

/// Looks at a state directory and changes nothing in it. `precious` are the directories of the
/// session.
fn look_at_state_dir(path: PathBuf, precious: &[&Path]) -> StateDir {
    let mut directory = directory(&path);
    let mut entries = Vec::new();
    if matches!(directory, Directory::Present { .. }) {
        match read_entries(&path) {
            Ok(found) => entries = found,
            Err(error) => directory = Directory::Unknown(error.to_string()),
        }
    }
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let real_path = real(&path);
    StateDir {
        lock: lock(&path.join("lock")),
        holds_session: precious
            .iter()
            .any(|precious| real(precious).starts_with(&real_path)),
        foreign: StateDir::foreign(&entries),
        path,
        directory,
    }
}

/// The names in a directory and their kinds, as `find -type` has them. A directory counts as one
/// of rootlesskit's only as long as it holds nothing but sockets.
fn read_entries(path: &Path) -> io::Result<Vec<(OsString, char)>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let file_type = entry.file_type()?;
        let kind = match () {
            () if file_type.is_file() => 'f',
            () if file_type.is_socket() => 's',
            () if file_type.is_fifo() => 'p',
            () if file_type.is_dir()
                && read_entries(&entry.path())?
                    .iter()
                    .all(|(_, kind)| *kind == 's') =>
            {
                'd'
            }
            () => '?',
        };
        entries.push((entry.file_name(), kind));
    }
    Ok(entries)
}

/// Whether somebody holds the lock file `path`, as flock(2) has it. rootlesskit takes the lock
/// again right after, so this look decides nothing; it gives the better message.
fn lock(path: &Path) -> Lock {
    let Ok((file, metadata)) = files::open_regular(path) else {
        return Lock::Free;
    };
    // To try the lock is to hold it for a moment, in which another launch would fail: try only
    // if the kernel names somebody. Its device numbers are not those of stat(2) everywhere
    // (btrfs), so a file of the same number elsewhere makes us try as well.
    let Some(holder) = lock_holder(&metadata) else {
        return Lock::Free;
    };
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_released_at_once) => Lock::Free,
        Err(_) => Lock::Held(holder),
    }
}

/// The PID in `/proc/locks` that holds a lock on a file with this `metadata`.
fn lock_holder(metadata: &fs::Metadata) -> Option<u32> {
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let inode = format!(":{}", metadata.ino());
    // `1: FLOCK  ADVISORY  WRITE 4711 00:2f:42 0 EOF`
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_it = fields.get(1) == Some(&"FLOCK") && fields.get(5)?.ends_with(&inode);
        is_it.then(|| fields[4].parse().ok())?
    })
}

/// Looks at a pid file and at the process that it names. One that names none is in a daemon's way
/// as well; it is stale only below the runtime directory, for elsewhere it may be anything.
fn look_at_pid_file(path: PathBuf, runtime_dir: &Path, uid: u32, programs: &[&OsStr]) -> PidFile {
    let text = match files::read_regular(&path, PID_FILE_MAX) {
        // What cannot be read is not ours to judge: the daemon will say what it thinks of it.
        Err(_) => {
            return PidFile {
                path,
                state: PidState::Absent,
            };
        }
        Ok(text) => text.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
    };
    let state = match text.and_then(|text| text.trim().parse().ok()) {
        Some(pid) => PidState::judge(pid, process(pid), uid, programs),
        None if path.starts_with(runtime_dir) => PidState::Stale("it holds no PID".to_owned()),
        None => PidState::Absent,
    };
    PidFile { path, state }
}

/// The process `pid`, as `/proc` names it.
fn process(pid: u32) -> Option<Process> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.split_whitespace().next())
    };
    let program = fs::read_link(format!("/proc/{pid}/exe")).ok();
    let program = program.and_then(|path| {
        path.file_name()
            .map(|name| name.to_string_lossy().into_owned())
    });
    Some(Process {
        // The name of the file says more than the kernel's 15 bytes, but is for the owner only.
        program: program.map_or_else(
            || field("Name:").unwrap_or_default().to_owned(),
            |name| name.trim_end_matches(" (deleted)").to_owned(),
        ),
        uid: field("Uid:")?.parse().ok()?,
        zombie: field("State:")? == "Z",
    })
}

/// Reads the daemon's configuration file.
fn read_daemon_json(path: &Path) -> DaemonJson {
    match files::read_regular(path, DAEMON_JSON_MAX) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => DaemonJson::Absent,
        Err(error) => DaemonJson::Unknown(error.to_string()),
        Ok(None) => {
            DaemonJson::Unknown(format!("it is larger than {} KiB", DAEMON_JSON_MAX / 1024))
        }
        Ok(Some(bytes)) => DaemonJson::parse(&String::from_utf8_lossy(&bytes)),
    }
}

/// The kernel's switches.
fn kernel() -> Kernel {
    let read = |name: &str| {
        let text = fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?;
        Some(text.trim().to_owned())
    };
    Kernel {
        unprivileged_userns_clone: read("kernel/unprivileged_userns_clone"),
        apparmor_restrict_unprivileged_userns: read("kernel/apparmor_restrict_unprivileged_userns"),
        max_user_namespaces: read("user/max_user_namespaces"),
        ip_unprivileged_port_start: read("net/ipv4/ip_unprivileged_port_start"),
        ipv6: Path::new("/proc/sys/net/ipv6").exists(),
        selinux: File::open("/sys/fs/selinux/enforce").is_ok(),
    }
}
