//! A mount namespace that a test has prepared and in which it runs several programs, one after the other.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::{TestUser, user};

/// Gives the room a copy of `/etc`, made while no other test changes the users there, and a `/usr/bin` and `/usr/sbin` of
/// its own, which show the host's until they are written to.
pub const OWN_PLACES: &str = "mount -t tmpfs tmpfs /mnt
mkdir /mnt/etc
flock --timeout 60 \"$LOCK\" cp -a /etc/. /mnt/etc
mount --bind /mnt/etc /etc
for place in usr/bin usr/sbin; do
    mkdir -p /mnt/$place/upper /mnt/$place/work
    mount -t overlay overlay -o lowerdir=/$place,upperdir=/mnt/$place/upper,workdir=/mnt/$place/work /$place
done
";

/// Gives the room a `/run` of its own, in which nothing but the users' runtime directories is the host's.
pub const OWN_RUN: &str = "mkdir -p /mnt/users
mount --rbind /run/user /mnt/users
mount -t tmpfs -o mode=0755 tmpfs /run
mkdir /run/user
mount --rbind /mnt/users /run/user
";

/// The namespace; it goes with the value.
pub struct Room<'u> {
    user: &'u TestUser,
    keeper: Child,
    /// Options of nsenter(1).
    namespaces: &'static [&'static str],
}

impl<'u> Room<'u> {
    /// Makes a namespace and has root run the shell script `prepare` in it.
    pub fn new(owner: &'u TestUser, prepare: &str) -> Self {
        Self::with(owner, prepare, &["--mount"])
    }

    /// The same with a network of its own, whose settings it may change.
    pub fn apart(owner: &'u TestUser, prepare: &str) -> Self {
        Self::with(owner, &format!("ip link set lo up\n{prepare}"), &["--mount", "--net"])
    }

    fn with(owner: &'u TestUser, prepare: &str, namespaces: &'static [&'static str]) -> Self {
        let mut keeper = Command::new("unshare")
            .args(namespaces)
            .args(["--propagation", "private", "sh", "-ec"])
            .arg(format!("{prepare}\necho ready\nexec sleep infinity"))
            .env("LOCK", user::LOCK)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare(1)");
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().expect("a pipe"))
            .read_line(&mut line)
            .expect("read what the script says");
        let room = Self { user: owner, keeper, namespaces };
        assert_eq!(line, "ready\n", "the script failed: {prepare}");
        room
    }

    /// The process that keeps the namespaces.
    pub fn pid(&self) -> u32 {
        self.keeper.id()
    }

    /// A command as the user in the room, with a login's environment; its PID is the program's.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let outside = self.user.command(program);
        let mut command = self.root(outside.get_program());
        command.args(outside.get_args()).env_clear();
        command.envs(outside.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command
    }

    /// A command as root in the room.
    pub fn root(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(self.namespaces)
            .args(["--target", &self.keeper.id().to_string()])
            .arg("--")
            .arg(program);
        command
    }

    /// Where `path` of the room is seen from outside.
    pub fn outside(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.keeper.id()));
        root.join(path.strip_prefix("/").expect("an absolute path"))
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}
