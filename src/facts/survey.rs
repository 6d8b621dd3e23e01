//! What `check` reads beyond a launch's facts: the distribution, the kernel's limits, mounts,
//! accounts, links. Files only explain; whether a thing works is in [`crate::facts::Trials`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Everything that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// The distribution.
    pub release: Release,
    /// `/proc/sys/kernel/osrelease`, such as `6.1.0-18-amd64`.
    pub kernel: String,
    /// `/proc/cmdline`.
    pub boot_words: String,
    /// The kernel's settings by their names in sysctl(8); one that is absent or cannot be read is
    /// not in the map, which is not the same as a zero.
    pub sysctls: BTreeMap<String, String>,
    /// Whose session it is.
    pub account: Account,
    /// `/etc/subuid`.
    pub subuid: TextFile,
    /// `/etc/subgid`.
    pub subgid: TextFile,
    /// Whether `/etc/nsswitch.conf` sends the subordinate ids to another place than these files.
    pub subids_from_elsewhere: Option<String>,
    /// Whether the kernel loads modules: `/proc/modules` exists.
    pub modules: bool,
    /// What is mounted where.
    pub mounts: Mounts,
    /// What this process is in.
    pub surroundings: Surroundings,
    /// AppArmor's profiles.
    pub apparmor: AppArmor,
    /// `/sys/module/overlay/parameters/permit_mounts_in_userns`, which Debian 10 has.
    pub overlay_permit_mounts: Option<String>,
    /// Control groups.
    pub cgroup: Cgroup,
    /// The user manager's places.
    pub systemd: Systemd,
    /// `/run/user/UID`, if it is a directory of this user that nobody else can write.
    pub own_runtime_dir: Option<PathBuf>,
    /// The links from `/etc/resolv.conf` on, and where they end.
    pub resolv_conf: LinkChain,
    /// What lies in the data root.
    pub data_root: DataRoot,
    /// The docker client's settings.
    pub docker_client: DockerClient,
    /// `/proc/key-users`: keys in use and their limit, bytes in use and their limit.
    pub keys: Option<(u64, u64, u64, u64)>,
    /// The text of the daemon's configuration file, as far as it can be read and is UTF-8.
    pub daemon_json_text: Option<String>,
    /// Whether the directory of a containerd-rootless exists; its lock is in the session.
    pub containerd_rootless_exists: bool,
}

impl Survey {
    /// The kernel's setting of this name, such as `user.max_user_namespaces`.
    pub fn sysctl(&self, name: &str) -> Option<&str> {
        self.sysctls.get(name).map(String::as_str)
    }

    /// The same as a number.
    pub fn sysctl_number(&self, name: &str) -> Option<u64> {
        self.sysctl(name)?.parse().ok()
    }

    /// The kernel's version, such as `(6, 1)`.
    pub fn kernel_version(&self) -> Option<(u32, u32)> {
        let mut numbers = self.kernel.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    }
}

/// A text file that was looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TextFile {
    /// There is none.
    #[default]
    Absent,
    /// It cannot be read, and why.
    Unreadable(String),
    /// Its text; bytes that are not UTF-8 are replaced.
    Text(String),
}

/// What os-release(5) says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Release {
    /// `ID`, such as `debian`.
    pub id: String,
    /// `ID_LIKE`, such as `rhel centos fedora`.
    pub id_like: Vec<String>,
    /// `VERSION_ID`, such as `12` or `24.04`.
    pub version_id: String,
    /// `PRETTY_NAME`.
    pub pretty_name: String,
}

impl Release {
    /// Reads the file's text.
    pub fn parse(text: &str) -> Self {
        let values: BTreeMap<&str, String> = text
            .lines()
            .filter_map(|line| line.trim().split_once('='))
            .map(|(name, value)| (name, unquoted(value)))
            .collect();
        let value = |name: &str| values.get(name).cloned().unwrap_or_default();
        Self {
            id: value("ID"),
            id_like: value("ID_LIKE").split_whitespace().map(str::to_owned).collect(),
            version_id: value("VERSION_ID"),
            pretty_name: value("PRETTY_NAME"),
        }
    }

    /// Whether it is the distribution `id` or descends from it.
    pub fn is_like(&self, id: &str) -> bool {
        self.id == id || self.id_like.iter().any(|like| like == id)
    }

    /// `VERSION_ID` as numbers; a missing minor number is 0.
    pub fn version(&self) -> Option<(u32, u32)> {
        let (major, minor) = self.version_id.split_once('.').unwrap_or((&self.version_id, "0"));
        Some((major.parse().ok()?, minor.parse().ok()?))
    }
}

/// A value of os-release(5), as a shell would read it.
fn unquoted(value: &str) -> String {
    crate::words::split(value.as_ref())
        .ok()
        .and_then(|words| words.into_iter().next())
        .map_or_else(String::new, |word| word.to_string_lossy().into_owned())
}

/// A user's account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// The name, if one is known; it may hold a backslash (`DOMAIN\user`).
    pub name: Option<String>,
    /// The names of the groups.
    pub groups: Vec<String>,
    /// All user ids in `/etc/passwd` with their names.
    pub users: BTreeMap<u32, String>,
    /// All group ids in `/etc/group` with their names.
    pub all_groups: BTreeMap<u32, String>,
}

impl Account {
    /// The name, or the number where there is none.
    pub fn shown(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.uid.to_string())
    }
}

/// One mount of `/proc/self/mountinfo`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// Where it is.
    pub point: PathBuf,
    /// The file system's type, such as `ext4` or `nfs4`.
    pub kind: String,
    /// The options of this mount, such as `rw` and `nosuid`.
    pub options: Vec<String>,
    /// What is mounted.
    pub source: String,
}

/// The mounts, in the kernel's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mounts(pub Vec<Mount>);

impl Mounts {
    /// Reads `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
    pub fn parse(text: &str) -> Self {
        let mount = |line: &str| {
            let (left, right) = line.split_once(" - ")?;
            let fields: Vec<&str> = left.split(' ').collect();
            let mut rest = right.split(' ');
            Some(Mount {
                point: unescaped(fields.get(4)?).into(),
                options: fields.get(5)?.split(',').map(str::to_owned).collect(),
                kind: rest.next()?.to_owned(),
                source: rest.next()?.to_owned(),
            })
        };
        Self(text.lines().filter_map(mount).collect())
    }

    /// The mount that holds `path`, which is absolute and free of links: the last of the longest.
    pub fn of(&self, path: &Path) -> Option<&Mount> {
        self.0
            .iter()
            .filter(|mount| path.starts_with(&mount.point))
            .max_by_key(|mount| mount.point.components().count())
    }
}

/// Blanks and the like stand as `\040` there.
pub fn unescaped(field: &str) -> OsString {
    let mut bytes = Vec::new();
    let mut rest = field.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| first == b'\\');
        let byte = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &tail[3..] } else { tail };
    }
    OsString::from_vec(bytes)
}

/// What this process is in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The container manager, such as `docker` or `lxc`, if there are signs of one.
    pub container: Option<String>,
    /// Whether the root directory is no mount, as in a chroot.
    pub chroot: bool,
    /// Whether the user namespace is not the host's first.
    pub nested: bool,
    /// Whether a kernel of the Windows Subsystem for Linux runs.
    pub wsl: bool,
    /// Whether no_new_privs is set: set-user-ID programs are powerless.
    pub no_new_privs: bool,
    /// Whether a seccomp filter is at work.
    pub seccomp: bool,
}

/// What is known of AppArmor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppArmor {
    /// `/sys/module/apparmor/parameters/enabled` says so.
    pub enabled: bool,
    /// The file in `/etc/apparmor.d` that gives this rootlesskit the right to make user namespaces.
    pub profile: Option<PathBuf>,
    /// rootlesskit's file, links followed: profiles go by that path.
    pub rootlesskit: Option<PathBuf>,
    /// Whether `/etc/apparmor.d/abi/4.0` exists: the parser is 4.0 or later and knows the rule
    /// `userns`.
    pub knows_userns: bool,
}

/// Control groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroup {
    /// 2 for the unified hierarchy, 1 for the others, hybrid ones included; `None` without any.
    pub version: Option<u8>,
    /// Whether `/sys/fs/cgroup/unified` stands beside the old hierarchies.
    pub hybrid: bool,
    /// The controllers of the host's root; version 2 only.
    pub available: Vec<String>,
    /// The controllers that reach the user manager; version 2 only.
    pub delegated: Option<Vec<String>>,
}

/// What is there of systemd.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Systemd {
    /// Whether the host was booted with it: `/run/systemd/system` exists (sd_booted(3)).
    pub booted: bool,
    /// Whether the user manager of this user listens: `/run/user/UID/systemd/private` exists.
    pub manager: bool,
    /// Whether `/run/user/UID/bus` exists.
    pub bus: bool,
    /// Whether the user lingers; `None` if that cannot be known.
    pub linger: Option<bool>,
    /// Whether `dbus.socket` is installed among the units of users.
    pub dbus_unit: bool,
    /// The paths in `RequiresMountsFor=` of the drop-ins of `user@UID.service` and `user@.service`
    /// below `/etc/systemd/system`: what the user manager waits for when the host boots.
    pub awaited_mounts: Vec<PathBuf>,
}

/// A chain of links.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkChain {
    /// The paths from the first on; the last is no link.
    pub hops: Vec<PathBuf>,
    /// Whether a file is at its end.
    pub ends_in_file: bool,
    /// What the file holds, if it can be read.
    pub text: Option<String>,
}

/// The daemon's data root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataRoot {
    /// Where it is, absolute.
    pub path: PathBuf,
    /// Its nearest ancestor that exists, links followed; itself if it does.
    pub base: PathBuf,
    /// The storage drivers whose directories hold something.
    pub drivers_with_data: Vec<String>,
}

/// The docker client's settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DockerClient {
    /// Where `docker` is.
    pub program: Option<PathBuf>,
    /// `currentContext` of its `config.json`.
    pub current_context: Option<String>,
    /// Why `config.json` is not understood.
    pub config_fault: Option<String>,
    /// The contexts and the addresses that they stand for.
    pub contexts: BTreeMap<String, String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_os_release() {
        let release = Release::parse(
            "# x\nPRETTY_NAME=\"Rocky Linux 9.4 (Blue Onyx)\"\nID=\"rocky\"\nID_LIKE='rhel centos fedora'\nVERSION_ID=\"9.4\"\n",
        );
        assert_eq!(release.pretty_name, "Rocky Linux 9.4 (Blue Onyx)");
        assert!(
            release.is_like("rocky") && release.is_like("fedora") && !release.is_like("debian")
        );
        assert_eq!(release.version(), Some((9, 4)));
        assert_eq!(Release::parse("ID=debian\nVERSION_ID=12").version(), Some((12, 0)));
        assert_eq!(Release::parse("ID=arch\n").version(), None);
    }

    #[test]
    fn finds_the_mount_of_a_path() {
        let mounts = Mounts::parse(
            "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
             30 27 0:50 / /home rw,nosuid shared:5 master:1 - nfs4 srv:/home rw,vers=4\n\
             31 27 0:51 / /mnt/my\\040disk rw - xfs /dev/vdb rw\n\
             32 27 0:52 / /home rw - tmpfs over rw\nnonsense\n",
        );
        let kind = |path: &str| mounts.of(Path::new(path)).map(|mount| mount.kind.as_str());
        assert_eq!(kind("/homely"), Some("ext4"));
        assert_eq!(kind("/home/u"), Some("tmpfs"), "the last one covers the others");
        assert_eq!(kind("/mnt/my disk/x"), Some("xfs"));
        assert_eq!(mounts.0.len(), 4);
        assert_eq!(mounts.0[1].options, ["rw", "nosuid"]);
    }

    #[test]
    fn reads_the_kernels_version() {
        for (text, version) in [
            ("6.1.0-18-amd64", Some((6, 1))),
            ("3.10.0-957.el7.x86_64", Some((3, 10))),
            ("5.15.153.1-microsoft-standard-WSL2", Some((5, 15))),
            ("", None),
        ] {
            let survey = Survey { kernel: text.to_owned(), ..Survey::default() };
            assert_eq!(survey.kernel_version(), version, "{text:?}");
        }
    }
}
