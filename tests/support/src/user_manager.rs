//! A real `systemd --user` for a test user on a host whose PID 1 is not systemd.
//!
//! It gets a mount namespace in which `/run/systemd` is its own (that is where `sd_booted` looks) and a cgroup of its own
//! in the hierarchies that it manages. The user's end removes it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use crate::command::run;
use crate::{TestUser, wait};

const SYSTEMD: &str = "/lib/systemd/systemd";

/// Where a user's own units are, below the home.
const UNITS: &str = ".config/systemd/user";

/// cgroup v1 with systemd's own hierarchies, or v2.
const HIERARCHIES: [&str; 3] =
    ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"];

pub struct UserManager<'u> {
    user: &'u TestUser,
    process: Child,
}

impl<'u> UserManager<'u> {
    /// Starts the manager and returns when it takes orders.
    pub fn start(user: &'u TestUser) -> Self {
        Self::start_with(user, Path::new("/usr/lib/systemd/user"))
    }

    /// The same with units of packages in `packaged`.
    pub fn start_with(user: &'u TestUser, packaged: &Path) -> Self {
        assert!(Path::new(SYSTEMD).exists(), "{SYSTEMD} is missing: apt-get install systemd");
        // Without a journal the units' output goes where the manager's goes.
        user.write(
            &user.home.join(".config/systemd/user.conf"),
            "[Manager]\nDefaultStandardOutput=inherit\n",
        );
        let join: String = cgroups(&user.name)
            .map(|dir| {
                format!(
                    "mkdir {0}; chown -R {1}: {0}; echo $$ >{0}/cgroup.procs\n",
                    dir.display(),
                    user.name
                )
            })
            .collect();
        let prepare =
            format!("mount -t tmpfs tmpfs /run/systemd; mkdir /run/systemd/system\n{join}");
        let output = File::create(log_file(user)).expect("create the manager's log");
        // Not /etc/systemd/user: sockets of other packages (gpg-agent, debconf) are none of ours.
        let units = [&user.home.join(UNITS), packaged, Path::new("/usr/lib/systemd/user")]
            .map(|path| path.display().to_string())
            .join(":");
        let process = user
            .command_after(&prepare, SYSTEMD)
            .arg("--user")
            .env("SYSTEMD_UNIT_PATH", units)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("duplicate the log's descriptor"))
            .stderr(output)
            .spawn()
            .expect("start systemd --user");
        let mut manager = Self { user, process };
        wait::until("systemd --user opens its socket", || {
            if let Some(status) = manager.process.try_wait().expect("wait for systemd --user") {
                panic!("systemd --user ended: {status}\n{}", manager.log());
            }
            user.runtime_dir.join("systemd/private").exists().then_some(())
        });
        manager
    }

    /// The process id of the manager, whose mount namespace is its own.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Writes a unit file; `daemon-reload` is included.
    pub fn write_unit(&self, name: &str, text: &str) {
        self.user.write(&self.user.home.join(UNITS).join(name), text);
        self.systemctl(&["daemon-reload"]);
    }

    /// Runs `systemctl --user`, which must succeed, and returns what it printed.
    pub fn systemctl(&self, words: &[&str]) -> String {
        run(self.user.brief_command("systemctl").arg("--user").args(words))
    }

    /// One property of a unit.
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.systemctl(&["show", "--value", "--property", name, unit])
    }

    /// What the manager and its units have written.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(log_file(self.user)).unwrap_or_default()).into_owned()
    }

    /// Ends the manager as a logout does, after which logind removes what is the manager's in the runtime directory.
    pub fn stop(mut self) {
        self.systemctl(&["exit"]);
        let status = wait::until("systemd --user ends", || {
            self.process.try_wait().expect("wait for systemd --user")
        });
        assert!(status.success(), "{status}");
        fs::remove_dir_all(self.user.runtime_dir.join("systemd"))
            .expect("remove the manager's files");
        // Where dbus-user-session is installed, the manager has listened for the bus.
        let _ = fs::remove_file(self.user.runtime_dir.join("bus"));
    }
}

impl Drop for UserManager<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", log_file(self.user).display(), self.log());
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Removes the cgroups of a user of whom no process is left; says what would not go.
pub fn remove_cgroups(user: &str) -> Vec<String> {
    cgroups(user)
        .filter(|dir| dir.exists())
        // The kernel lets go of a cgroup a moment after its last process.
        .filter(|dir| wait::poll(wait::PATIENCE, || remove_cgroup(dir).ok()).is_none())
        .map(|dir| format!("cannot remove {}", dir.display()))
        .collect()
}

/// A directory of the user's in each hierarchy that a systemd manages here.
fn cgroups(user: &str) -> impl Iterator<Item = PathBuf> {
    HIERARCHIES
        .map(Path::new)
        .into_iter()
        .filter(|root| root.join("cgroup.procs").exists())
        .map(move |root| root.join(user))
}

fn log_file(user: &TestUser) -> PathBuf {
    user.home.join("systemd.log")
}

/// A cgroup's files go with its directory, its children do not.
fn remove_cgroup(dir: &Path) -> std::io::Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    fs::remove_dir(dir)
}
