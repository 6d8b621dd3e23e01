//! A throw-away unprivileged user with subordinate ids, a home and a runtime directory, all of which go with the value.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::command::run;
use crate::process as host_process;
use crate::{leftovers, user_manager};

/// What a Debian user's service manager gives to its services; `env` changes it for one command.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Users are named `drl<pid of the suite>n<number>`, so that a later run can remove those of a run that was killed.
const PREFIX: &str = "drl";

/// useradd and userdel rewrite the same five files; they queue up here rather than at each other's locks.
pub const LOCK: &str = "/run/lock/dockerd-rootless-tests.lock";

const TUN: &str = "/dev/net/tun";

pub struct TestUser {
    pub name: String,
    pub uid: u32,
    pub subordinate: Range<u32>,
    pub home: PathBuf,
    /// `/run/user/UID`, unless a test moves it to a place below.
    pub runtime_dir: PathBuf,
}

impl TestUser {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        static PREPARE: Once = Once::new();
        PREPARE.call_once(|| {
            become_root();
            open_tun();
            remove_users_of_killed_runs();
        });
        let name = format!("{PREFIX}{}n{}", process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        {
            let _lock = lock();
            run(Command::new("useradd").args(["--create-home", "--shell", "/bin/sh", &name]));
        }
        let user = Self::look_up(&name);
        fs::create_dir_all(&user.runtime_dir).expect("make the runtime directory");
        fs::set_permissions(&user.runtime_dir, Permissions::from_mode(0o700))
            .expect("close the runtime directory");
        user.own(&user.runtime_dir);
        user
    }

    /// A command as this user with a login's environment and nothing of ours.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", &self.name, "--regid", &self.name, "--init-groups", "--"])
            .arg(program);
        self.set_environment(&mut command);
        command
    }

    /// The same with a deadline of a minute, for programs that wait for others.
    pub fn brief_command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.command("timeout");
        command.args(["--kill-after=1", "60"]).arg(program);
        command
    }

    /// A command as this user in a mount namespace of its own, in which root has run the shell script `prepare` before.
    pub fn command_after(&self, prepare: &str, program: impl AsRef<OsStr>) -> Command {
        let script = format!(
            "{prepare}\nexec setpriv --reuid {0} --regid {0} --init-groups -- \"$@\"",
            self.name
        );
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-ec", &script, "sh"])
            .arg(program);
        self.set_environment(&mut command);
        command
    }

    /// Writes a file into the user's home or runtime directory, with the directories above it.
    pub fn write(&self, path: &Path, content: impl AsRef<[u8]>) {
        self.make_dir(path.parent().expect("a file has a directory"));
        fs::write(path, content).unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
        self.own(path);
    }

    /// Makes a directory, and those above it, as the user's.
    pub fn make_dir(&self, path: &Path) {
        run(self.command("mkdir").arg("-p").arg(path));
    }

    /// A host port that no other test user has, outside the range from which the kernel hands out ports itself.
    pub fn port(&self, number: u16) -> u16 {
        assert!(number < 16, "a user has 16 ports");
        10_000 + u16::try_from(self.uid % 1_250).expect("small") * 16 + number
    }

    fn own(&self, path: &Path) {
        chown(path, Some(self.uid), Some(self.uid))
            .unwrap_or_else(|e| panic!("chown {}: {e}", path.display()));
    }

    fn set_environment(&self, command: &mut Command) {
        command
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", &self.home)
            .env("USER", &self.name)
            .env("LOGNAME", &self.name)
            .env("XDG_RUNTIME_DIR", &self.runtime_dir);
    }

    fn look_up(name: &str) -> Self {
        let passwd = fs::read_to_string("/etc/passwd").expect("read /etc/passwd");
        let uid = passwd
            .lines()
            .find_map(|line| {
                line.strip_prefix(name)?.strip_prefix(":x:")?.split(':').next()?.parse().ok()
            })
            .unwrap_or_else(|| panic!("no user {name}"));
        let subuid = fs::read_to_string("/etc/subuid").expect("read /etc/subuid");
        let subordinate = subuid
            .lines()
            .find_map(|line| {
                let (start, count) = line.strip_prefix(name)?.strip_prefix(':')?.split_once(':')?;
                let start: u32 = start.parse().ok()?;
                Some(start..start + count.parse::<u32>().ok()?)
            })
            .unwrap_or_else(|| {
                panic!("useradd gave {name} no subordinate ids: apt-get install uidmap")
            });
        Self {
            name: name.to_owned(),
            uid,
            subordinate,
            home: Path::new("/home").join(name),
            runtime_dir: runtime_dir(uid),
        }
    }
}

impl Drop for TestUser {
    fn drop(&mut self) {
        let immortal = host_process::kill_all(self.uid, &self.subordinate);
        let mut failures: Vec<String> =
            immortal.iter().map(|process| format!("cannot kill {process:?}")).collect();
        let own = [runtime_dir(self.uid), self.home.clone()];
        for path in own.into_iter().chain(leftovers::temporary_files(self.uid)) {
            let removed =
                if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            if let Err(e) = removed
                && e.kind() != io::ErrorKind::NotFound
            {
                failures.push(format!("cannot remove {}: {e}", path.display()));
            }
        }
        failures.extend(user_manager::remove_cgroups(&self.name));
        let _lock = lock();
        // Forced: userdel takes a zombie that PID 1 has not reaped for a process of the user.
        match Command::new("userdel").args(["--force", &self.name]).output() {
            Ok(output) if output.status.success() => {}
            other => failures.push(format!("userdel: {other:?}")),
        }
        if !failures.is_empty() {
            eprintln!("{}: {}", self.name, failures.join("; "));
        }
    }
}

/// Starts the suite again through sudo unless root runs it: only root makes users.
pub fn become_root() {
    if nix::unistd::geteuid().is_root() {
        return;
    }
    // The suite captures what goes through `eprintln!`, and would lose it here.
    let _ = writeln!(io::stderr(), "tests: this suite makes users; sudo starts it again as root");
    let program = env::current_exe().expect("the suite's own path");
    let mut sudo = Command::new("sudo");
    let failure = sudo.args(["-E", "--"]).arg(program).args(env::args_os().skip(1)).exec();
    // Not as a panic, which every test of the suite would repeat in its own words.
    let _ = writeln!(io::stderr(), "tests: sudo: {failure}; run this as root: make test");
    process::exit(1);
}

fn runtime_dir(uid: u32) -> PathBuf {
    PathBuf::from(format!("/run/user/{uid}"))
}

fn lock() -> File {
    let file = File::create(LOCK).unwrap_or_else(|e| panic!("{LOCK}: {e}"));
    file.lock().unwrap_or_else(|e| panic!("{LOCK}: {e}"));
    file
}

/// slirp4netns opens the tun device as the user. Where udev runs it is 0666; where it does not, we say so and make it so.
fn open_tun() {
    let metadata = fs::metadata(TUN).unwrap_or_else(|e| panic!("{TUN}: {e}; modprobe tun"));
    if metadata.permissions().mode() & 0o006 != 0o006 {
        eprintln!(
            "note: {TUN} was closed to plain users; it is 0666 from now on, as udev would make it"
        );
        fs::set_permissions(TUN, Permissions::from_mode(0o666))
            .unwrap_or_else(|e| panic!("{TUN}: {e}"));
    }
}

fn remove_users_of_killed_runs() {
    let passwd = fs::read_to_string("/etc/passwd").expect("read /etc/passwd");
    let names = passwd.lines().filter_map(|line| line.split(':').next());
    for name in names {
        let suite: Option<u32> = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('n'))
            .and_then(|(pid, _)| pid.parse().ok());
        if suite.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            drop(TestUser::look_up(name));
        }
    }
}
