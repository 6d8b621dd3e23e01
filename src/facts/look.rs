//! Looks at the session: who runs us, and what lies in the places that a launch will use. Nothing
//! is changed by looking.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd;
use nix::unistd::AccessFlags;

use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::places::user_runtime_dir;
use crate::facts::{
    Ancestor, Certificates, DaemonJson, Directory, Lock, Person, PidFile, PidState, Places,
    Process, RootlesskitFacts, Session, StateDir, routes,
};
use crate::settings::{Settings, Subnet};
use crate::sys::wait::MOMENT;
use crate::sys::{files, lock, processes, sockets};

/// The largest pid file in bytes: a PID and blanks.
const PID_FILE_MAX: u64 = 64;

/// How long a daemon whose rootlesskit is gone may take to end.
const FALL: Duration = Duration::from_secs(2);

/// The largest `daemon.json` in bytes that is read.
const DAEMON_JSON_MAX: u64 = 1024 * 1024;

/// The largest routing table in bytes that is read: thousands of routes.
const ADDRESSES_MAX: u64 = 1024 * 1024;

/// What dockerd keeps below its data root while it is a member of a swarm (moby's
/// `daemon/cluster`).
const SWARM_STATE: &str = "swarm/docker-state.json";

/// The effective user id.
pub fn uid() -> u32 {
    unistd::geteuid().as_raw()
}

/// Looks who runs us, and where.
pub fn person(environment: &Environment) -> Person {
    let uid = uid();
    let explicit = environment.get("XDG_RUNTIME_DIR").map(PathBuf::from);
    let runtime_dir_guessed = explicit.is_none();
    let path = explicit.unwrap_or_else(|| user_runtime_dir(uid));
    let directory = match directory(&path) {
        Directory::Missing if is_makeable(&path, uid) => Directory::Makeable,
        found => found,
    };
    let is_ours = match directory {
        Directory::Present { owner, .. } => owner == uid,
        _ => directory == Directory::Makeable,
    };
    let home = environment.get("HOME").map(PathBuf::from);
    let holds_home = home.as_deref().is_some_and(|home| real(home).starts_with(real(&path)));
    let found = home.as_deref().map(fs::metadata);
    let is_there = found.as_ref().is_some_and(|found| matches!(found, Ok(found) if found.is_dir()));
    let is_anothers = matches!(found, Some(Ok(found)) if found.uid() != uid);
    Person {
        uid,
        runtime_dir_holds_home: holds_home,
        ancestors: ancestors(&path),
        own_home: home.as_deref().filter(|_| is_anothers).and_then(|home| own_home(uid, home)),
        home: home.map(|home| (home, is_there)),
        runtime_dir: (!runtime_dir_guessed || is_ours).then_some((path, directory)),
        runtime_dir_guessed,
    }
}

/// Whether the missing directory `path` is the runtime directory of user `uid`, and we can make it.
/// systemd-logind keeps its parent for root alone.
fn is_makeable(path: &Path, uid: u32) -> bool {
    let parent = path.parent().filter(|_| path == user_runtime_dir(uid));
    parent.is_some_and(|parent| unistd::access(parent, AccessFlags::W_OK).is_ok())
}

/// Makes the runtime directory of `person`, if a launch does that, and looks again: another user may
/// have been first.
pub fn make_runtime_dir(environment: &Environment, person: Person) -> io::Result<Person> {
    let Some((path, Directory::Makeable)) = &person.runtime_dir else {
        return Ok(person);
    };
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(self::person(environment)),
    }
}

/// The home of user `uid` in `/etc/passwd`, if `home` is another that he cannot write.
fn own_home(uid: u32, home: &Path) -> Option<PathBuf> {
    unistd::access(home, AccessFlags::W_OK).err()?;
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let uid = uid.to_string();
    users.lines().map(|line| line.split(':').collect()).find_map(|fields: Vec<&str>| {
        (*fields.get(2)? == uid).then(|| fields.get(5).map(PathBuf::from))?
    })
}

/// The directories above `path`, by its name and with all links followed. What cannot be looked at is
/// left out, for then `path` cannot be reached either.
fn ancestors(path: &Path) -> Vec<Ancestor> {
    let overflow = fs::read_to_string("/proc/sys/kernel/overflowuid");
    let unknown = overflow.ok().and_then(|text| text.trim().parse().ok());
    let unknown = unknown.unwrap_or(65534);
    let real = real(path);
    let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
    above.extend(real.ancestors().skip(1));
    above.sort_unstable();
    above.dedup();
    let look = |path: &Path| {
        let metadata = fs::metadata(path).ok()?;
        Some(Ancestor {
            path: path.to_owned(),
            owner: Some(metadata.uid()).filter(|uid| *uid != unknown),
            group: metadata.gid(),
            mode: metadata.mode() & 0o7777,
        })
    };
    above.into_iter().filter_map(look).collect()
}

/// Returns `/run/user/UID`, if it is a directory of `uid` that no other user can write.
pub fn own_runtime_dir(uid: u32) -> Option<PathBuf> {
    let path = user_runtime_dir(uid);
    let is_own = matches!(directory(&path), Directory::Present { owner, mode } if owner == uid && mode & 0o022 == 0);
    is_own.then_some(path)
}

/// Looks at what a launch of `person` will meet. Fails only if `/proc` does not tell who we are.
pub fn session(
    settings: &Settings,
    environment: &Environment,
    person: Person,
    rootlesskit: Option<&RootlesskitFacts>,
) -> Result<Session, Error> {
    let proc_error = |what: &str, error: &io::Error| {
        Error::new(Exit::Failed, format!("`{what}` cannot be read"))
            .because(error)
            .hint("mount a proc file system on /proc")
    };
    let user_namespace =
        user_namespace().map_err(|error| proc_error("/proc/self/ns/user", &error))?;
    let own_path = std::env::current_exe().map_err(|error| proc_error("/proc/self/exe", &error))?;

    let runtime_dir = person.runtime_dir.as_ref().map(|(path, _)| path.clone()).unwrap_or_default();
    let (places, daemon_json) =
        Places::find(settings, rootlesskit, environment, runtime_dir, read_daemon_json);
    let home = person.home.as_ref().map(|(path, _)| path.as_path());
    let own = [&*places.runtime_dir, &*places.data_root, &*places.exec_root];
    let precious: Vec<&Path> = home.into_iter().chain(own).collect();
    let (state_path, state_dir) = look_at_state_dir(&places.state_dir, person.uid, &precious);
    let daemon_name = Path::new(&settings.daemon_binary.value).file_name().unwrap_or_default();
    let has_rootlesskit = state_dir.lock != Lock::Free;
    let pid_file = |path: PathBuf, programs: &[&OsStr]| {
        let judge = |pid| judge_pid(pid, person.uid, programs, has_rootlesskit);
        look_at_pid_file(path, &places.runtime_dir, judge)
    };
    Ok(Session {
        state_dir,
        containerd_rootless: lock(&places.containerd_rootless.join("lock")),
        pid_files: vec![
            pid_file(places.pid_file.clone(), &[OsStr::new("dockerd"), daemon_name]),
            pid_file(places.containerd().join("containerd.pid"), &[OsStr::new("containerd")]),
        ],
        has_swarm: places.data_root.join(SWARM_STATE).exists(),
        certificates: certificates(settings, environment, &daemon_json),
        daemon_json,
        listen_fds: sockets::passed(environment),
        keeper_fd: None,
        user_namespace,
        own_path,
        person,
        places: Places { state_dir: state_path, ..places },
    })
}

/// Looks for dockerd's certificates where its options or its variables name them.
fn certificates(settings: &Settings, environment: &Environment, json: &DaemonJson) -> Certificates {
    let variable = |name| environment.get(name).map(PathBuf::from);
    let home = || Some(variable("HOME")?.join(".docker"));
    let directory = variable("DOCKER_CERT_PATH").or_else(|| variable("DOCKER_CONFIG"));
    let directory = directory.or_else(home).unwrap_or_default();
    let names =
        [("tlscacert", "ca.pem"), ("tlscert", "cert.pem"), ("tlskey", "key.pem")].into_iter();
    let files = names.map(|(option, name)| {
        let stated = settings.args().value(option).or_else(|| json.text(option).map(OsStr::new));
        stated.map_or_else(|| directory.join(name), PathBuf::from)
    });
    // Without these words dockerd listens at its socket only.
    let has_hosts = settings.tcp.value.is_some()
        || settings.args().values("host").next().is_some()
        || json.texts("hosts").next().is_some();
    Certificates { missing: files.filter(|file| has_hosts && !file.exists()).collect() }
}

/// The inode of the user namespace that we are in.
pub fn user_namespace() -> io::Result<u64> {
    fs::metadata("/proc/self/ns/user").map(|metadata| metadata.ino())
}

/// Looks what is at `path`.
fn directory(path: &Path) -> Directory {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Directory::Missing,
        Err(error) => Directory::Unknown(error.to_string()),
        Ok(metadata) if metadata.is_symlink() => Directory::Symlink,
        Ok(metadata) if !metadata.is_dir() => Directory::NotADirectory,
        Ok(metadata) => {
            Directory::Present { owner: metadata.uid(), mode: metadata.mode() & 0o7777 }
        }
    }
}

/// Looks at a state directory, and returns its absolute path too. `precious` are directories that
/// it must not be or hold.
fn look_at_state_dir(stated: &Path, uid: u32, precious: &[&Path]) -> (PathBuf, StateDir) {
    let unjudged = |why: &str| {
        let directory = Directory::Unknown(why.to_owned());
        let state_dir = StateDir { directory, holds: None, foreign: Vec::new(), lock: Lock::Free };
        (stated.to_owned(), state_dir)
    };
    // rootlesskit takes `a/..` away by the letter (Go's filepath.Abs), and the kernel by what `a`
    // is: what we would look at is not what it would delete.
    if stated.components().any(|part| part == Component::ParentDir) {
        return unjudged("it holds `..`, which the kernel and rootlesskit read in different ways");
    }
    let Ok(base) = std::env::current_dir()
        .or_else(|error| stated.is_absolute().then(PathBuf::new).ok_or(error))
    else {
        return unjudged("it is relative, and the working directory is gone");
    };
    // By its components, so that a slash at the end does not make a directory of a link to one.
    let path: PathBuf = base.join(stated).components().collect();
    let mut directory = directory(&path);
    let mut foreign = Vec::new();
    if matches!(directory, Directory::Present { owner, .. } if owner == uid) {
        match read_entries(&path) {
            Ok((entries, has_lock)) => foreign = StateDir::foreign(&entries, has_lock),
            Err(error) => directory = Directory::Unknown(error.to_string()),
        }
    }
    let real_path = real(&path);
    let holds = precious.iter().find(|precious| real(precious).starts_with(&real_path));
    let holds = holds.map(|precious| (*precious).to_owned());
    let lock = lock(&path.join("lock"));
    (path, StateDir { directory, holds, foreign, lock })
}

/// `path` with all links followed, as far as it exists.
fn real(path: &Path) -> PathBuf {
    let mut ancestors = path.ancestors();
    let found = ancestors.find_map(|ancestor| Some((ancestor, ancestor.canonicalize().ok()?)));
    let Some((ancestor, real)) = found else {
        return path.to_owned();
    };
    path.strip_prefix(ancestor).map_or(real.clone(), |rest| real.join(rest))
}

/// Reads the names in a state directory, which of them are directories, and whether rootlesskit's
/// lock is among them.
fn read_entries(path: &Path) -> io::Result<(Vec<(OsString, bool)>, bool)> {
    let entries = fs::read_dir(path)?.map(|entry| {
        let entry = entry?;
        Ok((entry.file_name(), entry.file_type()?.is_dir()))
    });
    let entries = entries.collect::<io::Result<_>>()?;
    let lock = fs::symlink_metadata(path.join("lock"));
    Ok((entries, lock.is_ok_and(|lock| lock.is_file() && lock.len() == 0)))
}

/// Whether a process holds the lock file `path`, as flock(2) has it. rootlesskit takes the lock
/// again right after, so this look decides nothing; it gives the better message.
pub fn lock(path: &Path) -> Lock {
    let Ok((file, metadata)) = files::open_regular(path) else {
        return Lock::Free;
    };
    // To try the lock is to hold it for a moment, in which another launch would fail: try only
    // if the kernel names a holder. Its device numbers are not those of stat(2) everywhere
    // (btrfs), so a file of the same number elsewhere makes us try as well.
    let Some(holder) = lock::holder(&metadata) else {
        return Lock::Free;
    };
    let deadline = Instant::now() + FALL;
    while file.try_lock_shared().is_err() {
        // One that is being killed lets go of it in a moment.
        if !processes::is_ending(holder) || Instant::now() >= deadline {
            return Lock::Held(holder);
        }
        thread::sleep(MOMENT);
    }
    Lock::Free
}

/// Looks at a pid file and at the process that it names. An empty one names none, and is in a daemon's
/// way as well.
fn look_at_pid_file(path: PathBuf, runtime_dir: &Path, judge: impl Fn(u32) -> PidState) -> PidFile {
    let text = files::read_regular(&path, PID_FILE_MAX)
        .map(|bytes| bytes.and_then(|bytes| String::from_utf8(bytes).ok()));
    let state = match text.as_ref().map(|text| text.as_deref().map(str::trim)) {
        Ok(Some("")) => PidState::Stale("it is empty".to_owned()),
        Ok(Some(digits)) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            match digits.parse() {
                Ok(pid) => judge(pid),
                Err(_) => PidState::Stale(format!("no process {digits} exists")),
            }
        }
        // What holds no PID is not ours to judge: the daemon will say what it thinks of it.
        _ => PidState::Absent,
    };
    let is_named = ["docker.pid", "containerd.pid"].map(OsStr::new);
    let is_named = path.file_name().is_some_and(|name| is_named.contains(&name));
    let is_below =
        || Some(path.parent()?.canonicalize().ok()?.starts_with(runtime_dir.canonicalize().ok()?));
    PidFile { is_daemons: is_named && is_below() == Some(true), path, state }
}

/// Judges the process `pid`. One without its rootlesskit is about to end, and has a moment for that.
fn judge_pid(pid: u32, uid: u32, programs: &[&OsStr], has_rootlesskit: bool) -> PidState {
    let judge = || PidState::judge(pid, process(pid), uid, programs);
    match (judge(), processes::read(pid)) {
        (PidState::Running(_), Some(found)) if !has_rootlesskit => {
            processes::wait_for_end(&[found.identity], FALL);
            judge()
        }
        (state, _) => state,
    }
}

/// Reads the process `pid`. The name of its program says more than the kernel's 15 bytes, but is for the
/// owner only.
fn process(pid: u32) -> Option<Process> {
    let found = processes::read(pid)?;
    let program = processes::program(pid);
    let name = program.as_deref().and_then(Path::file_name).map(OsStr::to_string_lossy);
    Some(Process {
        program: name.map_or(found.name, Cow::into_owned),
        uid: fs::metadata(format!("/proc/{pid}")).ok()?.uid(),
        zombie: found.zombie,
    })
}

/// Reads the addresses that the host below `root` uses; `None` if its routes cannot be read.
pub fn addresses(root: &Path) -> Option<Vec<Subnet>> {
    let read = |path: &str| {
        let bytes = files::read_regular(&root.join(path), ADDRESSES_MAX).ok()??;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    let mut found = routes::parse_fib_trie(&read("proc/net/fib_trie")?);
    found.extend(routes::parse_name_servers(&read("etc/resolv.conf").unwrap_or_default()));
    Some(found)
}

/// Reads the daemon's configuration file.
pub fn read_daemon_json(path: &Path) -> DaemonJson {
    match files::read_regular(path, DAEMON_JSON_MAX) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => DaemonJson::Absent,
        Err(error) => DaemonJson::Unknown(error.to_string()),
        Ok(None) => {
            DaemonJson::Unknown(format!("it is larger than {} KiB", DAEMON_JSON_MAX / 1024))
        }
        Ok(Some(bytes)) => DaemonJson::parse(&String::from_utf8_lossy(&bytes)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn only_a_daemons_pid_file_in_the_runtime_directory_may_go() {
        let root = tempfile::tempdir().expect("a directory");
        let at = |name: &str| root.path().join(name);
        let run = at("run");
        fs::create_dir_all(run.join("docker/containerd")).expect("a directory");
        fs::create_dir(at("home")).expect("a directory");
        symlink(at("home"), run.join("out")).expect("a link");
        symlink(&run, at("home/in")).expect("a link");
        let long = "7".repeat(65);
        let stale = |why: &str| PidState::Stale(why.to_owned());
        let gone = || stale("no process 4294967295 exists");
        let cases = [
            ("run/docker.pid", "4294967295", gone(), true),
            ("run/docker.pid", " 4294967295\n", gone(), true),
            ("run/docker.pid", "", stale("it is empty"), true),
            ("run/docker/containerd/containerd.pid", "4294967295", gone(), true),
            ("home/in/docker.pid", "4294967295", gone(), true),
            ("run/docker.pid", "99999999999", stale("no process 99999999999 exists"), true),
            ("run/docker.pid", "-1", PidState::Absent, true),
            ("run/docker.pid", "my notes", PidState::Absent, true),
            ("run/docker.pid", &long, PidState::Absent, true),
            ("run/my.pid", "4294967295", gone(), false),
            ("run/../home/docker.pid", "4294967295", gone(), false),
            ("run/out/docker.pid", "4294967295", gone(), false),
            ("home/thesis.txt", "my thesis", PidState::Absent, false),
        ];
        let judge = |pid| judge_pid(pid, uid(), &[OsStr::new("dockerd")], true);
        for (name, text, state, is_daemons) in cases {
            let path = at(name);
            fs::write(&path, text).expect("a file");
            let found = look_at_pid_file(path.clone(), &run, judge);
            let expected = PidFile { path, state, is_daemons };
            assert_eq!(found, expected, "{name}: {text}");
        }
        let missing = look_at_pid_file(run.join("missing"), &run, judge);
        assert_eq!(missing.state, PidState::Absent);
    }

    #[test]
    fn a_daemon_without_its_rootlesskit_is_waited_for() {
        let directory = tempfile::tempdir().expect("a directory");
        let program = directory.path().join("dockerd");
        // By another process: what a parallel test forks may hold our descriptor of the copy.
        let copied = Command::new("cp").arg("/bin/sh").arg(&program).status();
        assert!(copied.is_ok_and(|status| status.success()));
        let mut dockerd = Command::new(&program)
            .args(["-c", "read line; true"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("a shell");
        let pid = dockerd.id();
        let judge =
            |has_rootlesskit| judge_pid(pid, uid(), &[OsStr::new("dockerd")], has_rootlesskit);
        assert_eq!(judge(true), PidState::Running(pid));
        let orphaned = std::thread::scope(|scope| {
            let judged = scope.spawn(|| judge(false));
            dockerd.kill().expect("it is there");
            judged.join().expect("no panic")
        });
        assert_eq!(orphaned, PidState::Stale(format!("process {pid} has ended")));
        dockerd.wait().expect("our child");
    }

    #[test]
    fn a_runtime_directory_knows_what_is_above_it_and_in_it() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().expect("a directory");
        let root = root.path().canonicalize().expect("it is there");
        let at = |name: &str| root.join(name);
        fs::create_dir_all(at("real/deep/run")).expect("a directory");
        fs::create_dir(at("names")).expect("a directory");
        symlink(at("real/deep"), at("names/link")).expect("a link");
        fs::set_permissions(at("real"), fs::Permissions::from_mode(0o777)).expect("open");
        let person = |home: &Path| {
            person(&Environment::from_iter([
                ("HOME", home.to_owned()),
                ("XDG_RUNTIME_DIR", at("names/link/run")),
            ]))
        };
        let found = person(&at("real"));
        assert!(!found.runtime_dir_holds_home);
        let faults: Vec<&Path> = found
            .ancestors
            .iter()
            .filter(|above| above.fault(uid()).is_some() && above.path.starts_with(&root))
            .map(|above| &*above.path)
            .collect();
        assert_eq!(faults, [at("real")], "{:?}", found.ancestors);
        for home in ["real/deep/run", "real/deep/run/home", "names/link/run"] {
            assert!(person(&at(home)).runtime_dir_holds_home, "{home}");
        }
    }
}
