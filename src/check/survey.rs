//! Reads what `check` looks at beyond a launch's facts: the distribution, the kernel's limits,
//! mounts, accounts, links. Files only explain; whether a thing works is tried. All of it lies
//! below a root directory: `/` on a host, a tree of files in a test.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use crate::facts::{DockerClient, Mounts};
use crate::sys::files;
use crate::words;

/// The largest file in bytes that is read; `/etc/subuid` of a server with 100,000 users fits.
const TEXT_MAX: u64 = 16 * 1024 * 1024;

/// How many links the kernel follows.
const LINKS_MAX: usize = 40;

/// The settings of the kernel that checks look at.
const SYSCTLS: [&str; 13] = [
    "fs.inotify.max_user_instances",
    "kernel.apparmor_restrict_unprivileged_userns",
    "kernel.unprivileged_userns_clone",
    "net.bridge.bridge-nf-call-iptables",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "user.max_cgroup_namespaces",
    "user.max_ipc_namespaces",
    "user.max_mnt_namespaces",
    "user.max_net_namespaces",
    "user.max_pid_namespaces",
    "user.max_user_namespaces",
    "user.max_uts_namespaces",
];

/// The storage drivers that keep a directory of their name in the data root.
const STORAGE_DRIVERS: [&str; 6] = ["btrfs", "fuse-overlayfs", "overlay", "overlay2", "vfs", "zfs"];

/// Everything that was read.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    pub release: Release,
    /// The kernel's release, such as `6.1.0-18-amd64`.
    pub kernel: String,
    /// Settings by their names in sysctl(8). One that is absent is not in the map, which is not
    /// the same as a zero.
    pub sysctls: BTreeMap<String, String>,
    pub account: Account,
    pub subuid: TextFile,
    pub subgid: TextFile,
    /// The source other than files that nsswitch.conf(5) names for subordinate IDs.
    pub subid_source: Option<String>,
    /// Whether the kernel loads modules.
    pub modules: bool,
    pub mounts: Mounts,
    pub surroundings: Surroundings,
    pub apparmor: AppArmor,
    pub cgroup: Cgroup,
    pub systemd: Systemd,
    /// `/run/user/UID`, if it is a directory of this user that nobody else can write.
    pub own_runtime_dir: Option<PathBuf>,
    pub resolv_conf: LinkChain,
    pub data_root: DataRoot,
    pub docker_client: DockerClient,
    /// Kernel keys in use and their limit, bytes in use and their limit.
    pub keys: Option<[u64; 4]>,
    /// The text of the daemon's configuration file, if it can be read.
    pub daemon_json: Option<String>,
    pub containerd_rootless_exists: bool,
}

impl Survey {
    pub fn sysctl(&self, name: &str) -> Option<&str> {
        self.sysctls.get(name).map(String::as_str)
    }

    pub fn sysctl_number(&self, name: &str) -> Option<u64> {
        self.sysctl(name)?.parse().ok()
    }

    /// Returns the kernel's version, such as `(6, 1)`.
    pub fn kernel_version(&self) -> Option<(u32, u32)> {
        let mut numbers = self.kernel.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    }

    /// Returns whether this session is in a container of a manager named so.
    pub fn is_container_of(&self, names: &[&str]) -> bool {
        let container = self.surroundings.container.as_deref();
        container.is_some_and(|own| names.iter().any(|name| own.starts_with(name)))
    }
}

/// A text file that was looked for; bytes that are not UTF-8 are replaced.
#[derive(Clone, Debug, Default)]
pub enum TextFile {
    #[default]
    Absent,
    Unreadable(String),
    Text(String),
}

/// What os-release(5) says.
#[derive(Clone, Debug, Default)]
pub struct Release {
    pub id: String,
    pub id_like: Vec<String>,
    pub version_id: String,
    pub pretty_name: String,
}

impl Release {
    pub fn parse(text: &str) -> Self {
        let value = |name: &str| {
            let prefix = format!("{name}=");
            let stated = text.lines().find_map(|line| line.trim().strip_prefix(&prefix))?;
            let word = words::split(stated.as_ref()).ok()?.into_iter().next()?;
            Some(word.to_string_lossy().into_owned())
        };
        let value = |name: &str| value(name).unwrap_or_default();
        Self {
            id: value("ID"),
            id_like: value("ID_LIKE").split_whitespace().map(str::to_owned).collect(),
            version_id: value("VERSION_ID"),
            pretty_name: value("PRETTY_NAME"),
        }
    }

    /// Returns whether it is the distribution `id` or descends from it.
    pub fn is_like(&self, id: &str) -> bool {
        self.id == id || self.id_like.iter().any(|like| like == id)
    }

    /// Returns the version as numbers; a missing minor number is 0.
    pub fn version(&self) -> Option<(u32, u32)> {
        let (major, minor) = self.version_id.split_once('.').unwrap_or((&self.version_id, "0"));
        Some((major.parse().ok()?, minor.parse().ok()?))
    }

    /// Returns the major version if it is RHEL or a distribution that follows it.
    pub fn enterprise_linux(&self) -> Option<u32> {
        // Oracle Linux only says that it is like Fedora; Amazon Linux counts on its own.
        let follows = self.is_like("rhel") || self.is_like("centos") || self.id == "ol";
        let follows = follows && self.id != "amzn" && self.id != "fedora";
        follows.then(|| self.version().map(|(major, _)| major)).flatten()
    }
}

#[derive(Clone, Debug, Default)]
pub struct Account {
    pub uid: u32,
    pub gid: u32,
    /// The name, if one is known; it may hold a backslash (`DOMAIN\user`).
    pub name: Option<String>,
    /// Whether `/etc/passwd` has it.
    pub is_local: bool,
    pub groups: Vec<String>,
    /// All groups of the host.
    pub all_groups: BTreeMap<u32, String>,
}

impl Account {
    /// Returns the name, or the number where there is none.
    pub fn display_name(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.uid.to_string())
    }
}

/// What this process is in.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The container manager, such as `docker` or `lxc`.
    pub container: Option<String>,
    pub chroot: bool,
    /// Whether the user namespace is not the host's first.
    pub nested: bool,
    /// Whether this is the Windows Subsystem for Linux.
    pub wsl: bool,
    pub no_new_privs: bool,
    pub seccomp: bool,
}

#[derive(Clone, Debug, Default)]
pub struct AppArmor {
    /// The file that gives this rootlesskit the right to create user namespaces.
    pub profile: Option<PathBuf>,
    /// rootlesskit's file, links followed: profiles go by that path.
    pub rootlesskit: Option<PathBuf>,
    /// Whether the parser is 4.0 or later and knows the rule `userns`.
    pub knows_userns: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Cgroup {
    /// 2 for the unified hierarchy, 1 for the others, hybrid ones included.
    pub version: Option<u8>,
    /// The controllers that reach the user manager; version 2 only.
    pub delegated: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default)]
pub struct Systemd {
    /// Whether the host was booted with it (sd_booted(3)).
    pub booted: bool,
    /// Whether the user manager of this user listens.
    pub manager: bool,
    /// Whether the user lingers; `None` if that cannot be known.
    pub linger: Option<bool>,
    /// Whether `dbus.socket` is installed among the units of users.
    pub dbus_unit: bool,
    /// Whether the user manager waits for mounts when the host boots.
    pub awaits_mounts: bool,
}

#[derive(Clone, Debug, Default)]
pub struct LinkChain {
    /// The paths from the first on; the last is no link.
    pub hops: Vec<PathBuf>,
    pub ends_in_file: bool,
    pub text: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct DataRoot {
    pub path: PathBuf,
    /// Its nearest ancestor that exists, links followed; itself if it does.
    pub base: PathBuf,
    pub drivers_with_data: Vec<String>,
}

/// Whose session is surveyed, and where its things are.
pub struct Subject {
    pub uid: u32,
    pub gid: u32,
    /// The name, if something else than `/etc/passwd` knows it.
    pub name: Option<String>,
    pub own_runtime_dir: Option<PathBuf>,
    pub data_root: PathBuf,
    pub daemon_json: PathBuf,
    /// The state directory of a containerd-rootless.
    pub containerd_rootless: PathBuf,
    /// The docker client's directory of settings.
    pub docker_config: Option<PathBuf>,
    pub docker: Option<PathBuf>,
    /// Where rootlesskit is, links followed.
    pub rootlesskit: Option<PathBuf>,
}

/// Reads everything for `subject` below `root`.
pub fn survey(root: &Path, subject: &Subject) -> Survey {
    let tree = Tree(root);
    let account = tree.account(subject);
    let restricted = "kernel.apparmor_restrict_unprivileged_userns";
    let sysctls: BTreeMap<String, String> = SYSCTLS
        .into_iter()
        .filter_map(|name| {
            // Dots part the words of a name, and are none of the file's but in names of devices.
            let value = tree.line(&format!("/proc/sys/{}", name.replace('.', "/")))?;
            Some((name.to_owned(), value))
        })
        .collect();
    Survey {
        release: tree.release(),
        kernel: tree.line("/proc/sys/kernel/osrelease").unwrap_or_default(),
        subuid: tree.text_file("/etc/subuid"),
        subgid: tree.text_file("/etc/subgid"),
        subid_source: tree.subid_source(),
        modules: tree.exists("/proc/modules"),
        mounts: Mounts::parse(&tree.text("/proc/self/mountinfo").unwrap_or_default()),
        surroundings: tree.surroundings(),
        apparmor: tree.apparmor(
            subject.rootlesskit.as_deref(),
            sysctls.get(restricted).is_some_and(|value| value != "0"),
        ),
        cgroup: tree.cgroup(subject.uid),
        systemd: tree.systemd(subject.uid, account.name.as_deref()),
        resolv_conf: tree.links(Path::new("/etc/resolv.conf")),
        data_root: tree.data_root(&subject.data_root),
        docker_client: tree
            .docker_client(subject.docker.as_deref(), subject.docker_config.as_deref()),
        keys: tree.keys(subject.uid),
        daemon_json: tree.text(&subject.daemon_json),
        containerd_rootless_exists: tree.exists(&subject.containerd_rootless),
        own_runtime_dir: subject.own_runtime_dir.clone(),
        sysctls,
        account,
    }
}

/// Reads the settings of the docker client `program` in `directory`.
pub fn docker_client(program: Option<&Path>, directory: Option<&Path>) -> DockerClient {
    Tree("/".as_ref()).docker_client(program, directory)
}

/// A tree of files that stands for the host's.
struct Tree<'a>(&'a Path);

impl Tree<'_> {
    fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn exists(&self, path: impl AsRef<Path>) -> bool {
        fs::symlink_metadata(self.at(path)).is_ok()
    }

    fn read(&self, path: impl AsRef<Path>) -> io::Result<String> {
        // The kernel would follow an absolute link out of the tree.
        let end = self.hops(path.as_ref()).pop().unwrap_or_default();
        match files::read_regular(&self.at(end), TEXT_MAX)? {
            Some(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            None => Err(io::Error::other("it is too large")),
        }
    }

    fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        self.read(path).ok()
    }

    /// Reads the only line of a file of the kernel's.
    fn line(&self, path: &str) -> Option<String> {
        self.text(path).map(|text| text.trim().to_owned())
    }

    fn text_file(&self, path: &str) -> TextFile {
        match self.read(path) {
            Ok(text) => TextFile::Text(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => TextFile::Absent,
            Err(error) => TextFile::Unreadable(error.to_string()),
        }
    }

    /// Follows the links from `path` on; the last is none.
    fn hops(&self, path: &Path) -> Vec<PathBuf> {
        let mut hops = vec![path.to_owned()];
        while hops.len() <= LINKS_MAX {
            let last = &hops[hops.len() - 1];
            let Ok(target) = fs::read_link(self.at(last)) else {
                break;
            };
            let joined = last.parent().unwrap_or(Path::new("/")).join(target);
            hops.push(without_dots(&joined));
        }
        hops
    }

    fn links(&self, path: &Path) -> LinkChain {
        let hops = self.hops(path);
        let ends_in_file = hops.last().is_some_and(|end| self.at(end).is_file());
        LinkChain { hops, ends_in_file, text: self.text(path) }
    }

    fn release(&self) -> Release {
        let text = self.text("/etc/os-release").or_else(|| self.text("/usr/lib/os-release"));
        Release::parse(&text.unwrap_or_default())
    }

    fn account(&self, subject: &Subject) -> Account {
        let entries = |path: &str| -> Vec<(u32, String, String)> {
            let text = self.text(path).unwrap_or_default();
            let entry = |line: &str| {
                let mut fields = line.split(':');
                let name = fields.next()?.to_owned();
                let id = fields.nth(1)?.parse().ok()?;
                Some((id, name, fields.next().unwrap_or_default().to_owned()))
            };
            text.lines().filter_map(entry).collect()
        };
        let users = entries("/etc/passwd");
        let groups = entries("/etc/group");
        let name = users
            .iter()
            .find(|(uid, ..)| *uid == subject.uid)
            .map(|(_, name, _)| name.clone())
            .or_else(|| subject.name.clone());
        let is_member = |(gid, _, members): &&(u32, String, String)| {
            *gid == subject.gid
                || name.as_ref().is_some_and(|name| members.split(',').any(|member| member == name))
        };
        Account {
            uid: subject.uid,
            gid: subject.gid,
            is_local: users.iter().any(|(uid, ..)| *uid == subject.uid),
            groups: groups.iter().filter(is_member).map(|(_, name, _)| name.clone()).collect(),
            all_groups: groups.into_iter().rev().map(|(gid, name, _)| (gid, name)).collect(),
            name,
        }
    }

    /// Returns what `subid:` in nsswitch.conf(5) names beside the files (shadow 4.9 and later).
    fn subid_source(&self) -> Option<String> {
        let text = self.text("/etc/nsswitch.conf")?;
        let sources = text.lines().find_map(|line| line.trim().strip_prefix("subid:"))?;
        sources.split_whitespace().find(|source| *source != "files").map(str::to_owned)
    }

    fn surroundings(&self) -> Surroundings {
        let status = self.text("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::trim)
        };
        let map = self.text("/proc/self/uid_map");
        let first = "0 0 4294967295";
        let container = self
            .line("/run/systemd/container")
            .or_else(|| self.exists("/run/.containerenv").then(|| "podman".to_owned()))
            .or_else(|| self.exists("/.dockerenv").then(|| "docker".to_owned()));
        let mounts = Mounts::parse(&self.text("/proc/self/mountinfo").unwrap_or_default());
        Surroundings {
            container,
            chroot: !mounts.0.is_empty()
                && !mounts.0.iter().any(|mount| mount.point == Path::new("/")),
            nested: map.is_some_and(|map| !map.split_whitespace().eq(first.split(' '))),
            wsl: self
                .line("/proc/sys/kernel/osrelease")
                .is_some_and(|kernel| kernel.to_lowercase().contains("microsoft")),
            no_new_privs: field("NoNewPrivs:") == Some("1"),
            seccomp: field("Seccomp:") == Some("2"),
        }
    }

    /// Looks for a profile of `rootlesskit` only where it matters.
    fn apparmor(&self, rootlesskit: Option<&Path>, restricted: bool) -> AppArmor {
        let names_it = |path: &Path, program: &Path| {
            let text = self.text(path).unwrap_or_default();
            let program = program.to_string_lossy();
            let is_word = |word: &str| word.trim_matches('"') == program;
            text.contains("userns") && text.split_whitespace().any(is_word)
        };
        let profile = rootlesskit.filter(|_| restricted).and_then(|program| {
            let mut entries = self.entries("/etc/apparmor.d");
            entries.retain(|name| names_it(&Path::new("/etc/apparmor.d").join(name), program));
            Some(Path::new("/etc/apparmor.d").join(entries.first()?))
        });
        AppArmor {
            profile,
            rootlesskit: rootlesskit.map(Path::to_owned),
            knows_userns: self.exists("/etc/apparmor.d/abi/4.0"),
        }
    }

    /// Returns the names in a directory, in order.
    fn entries(&self, path: impl AsRef<Path>) -> Vec<std::ffi::OsString> {
        let mut names: Vec<_> = fs::read_dir(self.at(path))
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.file_name()))
            .collect();
        names.sort();
        names
    }

    fn cgroup(&self, uid: u32) -> Cgroup {
        let controllers = |path: String| {
            let text = self.line(&path)?;
            Some(text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        };
        let available = controllers("/sys/fs/cgroup/cgroup.controllers".to_owned());
        let manager = format!("/sys/fs/cgroup/user.slice/user-{uid}.slice/user@{uid}.service");
        let version = match &available {
            Some(_) => Some(2),
            None => (!self.entries("/sys/fs/cgroup").is_empty()).then_some(1),
        };
        Cgroup { version, delegated: controllers(format!("{manager}/cgroup.controllers")) }
    }

    fn systemd(&self, uid: u32, name: Option<&str>) -> Systemd {
        let booted = self.exists("/run/systemd/system");
        // `DOMAIN\user` is escaped as C does it, like all names that systemd turns into files.
        let name = name.map(|name| name.replace('\\', "\\x5c"));
        let linger = name.map(|name| self.exists(format!("/var/lib/systemd/linger/{name}")));
        Systemd {
            booted,
            manager: self.exists(format!("/run/user/{uid}/systemd/private")),
            linger: linger.filter(|_| booted),
            awaits_mounts: self.awaits_mounts(uid),
            dbus_unit: ["/usr/lib/systemd/user", "/lib/systemd/user", "/etc/systemd/user"]
                .iter()
                .any(|directory| self.exists(format!("{directory}/dbus.socket"))),
        }
    }

    /// Returns whether the user manager waits for mounts when the host boots.
    fn awaits_mounts(&self, uid: u32) -> bool {
        let directory = PathBuf::from(format!("/etc/systemd/system/user@{uid}.service.d"));
        let mut texts =
            self.entries(&directory).into_iter().map(|name| self.text(directory.join(name)));
        texts.any(|text| text.is_some_and(|text| text.contains("RequiresMountsFor=")))
    }

    fn data_root(&self, path: &Path) -> DataRoot {
        let there = path.ancestors().find_map(|ancestor| {
            // In a tree that stands for a host its own root must not show.
            let real = self.at(ancestor).canonicalize().ok()?;
            let root = self.0.canonicalize().ok()?;
            Some(Path::new("/").join(real.strip_prefix(root).ok()?))
        });
        let has_data = |driver: &&str| {
            let entries = self.entries(path.join(*driver));
            entries.iter().any(|name| name != OsStr::new("l"))
        };
        DataRoot {
            path: path.to_owned(),
            base: there.unwrap_or_else(|| PathBuf::from("/")),
            drivers_with_data: STORAGE_DRIVERS
                .into_iter()
                .filter(has_data)
                .map(str::to_owned)
                .collect(),
        }
    }

    fn docker_client(&self, program: Option<&Path>, directory: Option<&Path>) -> DockerClient {
        let mut client =
            DockerClient { program: program.map(Path::to_owned), ..DockerClient::default() };
        let Some(directory) = directory else {
            return client;
        };
        match self.read(directory.join("config.json")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => client.config_fault = Some(error.to_string()),
            Ok(text) => match serde_json::from_str::<Value>(&text) {
                Err(error) => client.config_fault = Some(error.to_string()),
                Ok(config) => {
                    client.current_context = config["currentContext"].as_str().map(str::to_owned)
                }
            },
        }
        let metas = directory.join("contexts/meta");
        for entry in self.entries(&metas) {
            let text = self.text(metas.join(entry).join("meta.json")).unwrap_or_default();
            let meta: Value = serde_json::from_str(&text).unwrap_or_default();
            let host = meta["Endpoints"]["docker"]["Host"].as_str();
            if let (Some(name), Some(host)) = (meta["Name"].as_str(), host) {
                client.contexts.insert(name.to_owned(), host.to_owned());
            }
        }
        client
    }

    /// Reads a line such as ` 1000:    12 12/12 8/200 214/20000` (proc_key-users(5)).
    fn keys(&self, uid: u32) -> Option<[u64; 4]> {
        let text = self.text("/proc/key-users")?;
        let line = text.lines().find_map(|line| line.trim().strip_prefix(&format!("{uid}:")))?;
        let mut fields = line.split_whitespace().skip(2);
        let mut pair = || {
            let (used, limit) = fields.next()?.split_once('/')?;
            Some((used.parse().ok()?, limit.parse().ok()?))
        };
        let ((keys, max_keys), (bytes, max_bytes)) = (pair()?, pair()?);
        Some([keys, max_keys, bytes, max_bytes])
    }
}

/// Resolves `.` and `..` by the letter: no directory above is a link worth following.
fn without_dots(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::from("/"), |clean, part| match part {
        Component::ParentDir => clean.parent().unwrap_or(&clean).to_owned(),
        part => clean.join(part),
    })
}
