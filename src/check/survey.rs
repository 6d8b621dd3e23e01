//! Reads what `check` looks at beyond a launch's facts: the distribution, the kernel's limits,
//! mounts, accounts, links. Files only explain; whether a thing works is tried. All of it lies
//! below a root directory: `/` on a host, a tree of files in a test.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;

use crate::environment::Environment;
use crate::facts::places::user_runtime_dir;
use crate::facts::{DockerClient, HostFacts, Mounts, parse_id_map};
use crate::sys::files;
use crate::words;

/// The largest file in bytes that is read; `/etc/subuid` of a server with 100,000 users fits.
const TEXT_MAX: u64 = 16 * 1024 * 1024;

/// How many IDs the first user namespace has.
const ALL_IDS: u64 = 4_294_967_295;

/// The bit of CAP_SYS_ADMIN (capabilities(7)).
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// How many links the kernel follows.
const LINKS_MAX: usize = 40;

/// The quotas of the namespaces that rootlesskit, dockerd and containers create
/// (Documentation/admin-guide/sysctl/user.rst).
pub const QUOTAS: [&str; 7] = [
    "user.max_user_namespaces",
    "user.max_mnt_namespaces",
    "user.max_net_namespaces",
    "user.max_pid_namespaces",
    "user.max_ipc_namespaces",
    "user.max_uts_namespaces",
    "user.max_cgroup_namespaces",
];

/// The settings of the kernel that checks look at, apart from quotas.
const SYSCTLS: [&str; 5] = [
    "kernel.apparmor_restrict_unprivileged_userns",
    "kernel.unprivileged_userns_clone",
    "net.bridge.bridge-nf-call-iptables",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
];

/// The storage drivers that keep a directory of their name in the data root.
const STORAGE_DRIVERS: [&str; 6] = ["btrfs", "fuse-overlayfs", "overlay", "overlay2", "vfs", "zfs"];

/// Everything that was read.
pub struct Survey {
    pub release: Release,
    /// The kernel's release, such as `6.1.0-18-amd64`.
    pub kernel: String,
    /// Settings that exist, by their names in sysctl(8).
    pub sysctls: BTreeMap<&'static str, String>,
    pub account: Account,
    /// The text of `/etc/subuid`, or why it cannot be read.
    pub subuid: Result<String, String>,
    pub subgid: Result<String, String>,
    /// The source other than files that nsswitch.conf(5) names for subordinate IDs.
    pub subid_source: Option<String>,
    /// Whether the kernel loads modules.
    pub modules: bool,
    pub mounts: Mounts,
    pub surroundings: Surroundings,
    pub apparmor: AppArmor,
    pub cgroup: Cgroup,
    pub systemd: Systemd,
    /// `/run/user/UID`, if it is a directory of this user that no other user can write.
    pub own_runtime_dir: Option<PathBuf>,
    pub resolv_conf: LinkChain,
    pub data_root: DataRoot,
    pub docker_client: DockerClient,
    /// Now, by which lists get old.
    pub now: SystemTime,
    pub gpu: Gpu,
    /// Kernel keys in use and their limit, bytes in use and their limit.
    pub keys: Option<[u64; 4]>,
}

impl Survey {
    pub fn sysctl(&self, name: &str) -> Option<&str> {
        self.sysctls.get(name).map(String::as_str)
    }

    pub fn sysctl_number(&self, name: &str) -> Option<u64> {
        self.sysctl(name)?.parse().ok()
    }
}

/// What os-release(5) says.
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
pub struct Surroundings {
    /// The IDs of this user namespace: the first here, the first outside, and how many.
    pub uids: Vec<(u64, u64, u64)>,
    pub gids: Vec<(u64, u64, u64)>,
    /// Whether root of this session, or of this container, may have CAP_SYS_ADMIN.
    pub sys_admin: bool,
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

pub struct AppArmor {
    /// The file that gives this rootlesskit the right to create user namespaces.
    pub profile: Option<PathBuf>,
    /// rootlesskit's file, links followed: profiles go by that path.
    pub rootlesskit: Option<PathBuf>,
}

pub struct Cgroup {
    /// 2 for the unified hierarchy, 1 for the others, hybrid ones included.
    pub version: Option<u8>,
    /// The controllers that reach the user manager; version 2 only.
    pub delegated: Option<Vec<String>>,
}

pub struct Systemd {
    /// Whether the host was booted with it (sd_booted(3)).
    pub booted: bool,
    /// Whether the user manager of this user listens.
    pub manager: bool,
    /// Whether the user lingers; `None` if that cannot be known.
    pub linger: Option<bool>,
    /// Whether `dbus.socket` is installed among the units of users.
    pub dbus_unit: bool,
}

/// What containers would need for a GPU.
pub struct Gpu {
    /// Whether the driver of an NVIDIA GPU is loaded.
    pub nvidia: bool,
    /// The configuration of NVIDIA's container toolkit, and whether it says `no-cgroups = true`.
    pub toolkit: Option<(PathBuf, bool)>,
    /// The files that describe devices (CDI), and whether they describe an NVIDIA GPU.
    pub specs: Vec<(PathBuf, bool)>,
}

pub struct LinkChain {
    /// The paths from the first on; the last is no link.
    pub hops: Vec<PathBuf>,
    pub text: Option<String>,
}

pub struct DataRoot {
    pub path: PathBuf,
    /// Its nearest ancestor that exists, links followed; itself if it does.
    pub base: PathBuf,
    pub drivers_with_data: Vec<&'static str>,
}

/// Reads everything below `root` for a user whose group is `gid`, and whom something else than
/// `/etc/passwd` may know by `name`. The docker client and the user's own runtime directory are left
/// out.
pub fn survey(
    root: &Path,
    host: &HostFacts,
    environment: &Environment,
    gid: u32,
    name: Option<String>,
) -> Survey {
    let tree = Tree(root);
    let (uid, places) = (host.session.person.uid, &host.session.places);
    let account = tree.account(uid, gid, name);
    let sysctl = |name: &&'static str| {
        let value = tree.line(&format!("/proc/sys/{}", name.replace('.', "/")))?;
        Some((*name, value))
    };
    let docker_config = environment.docker_config();
    Survey {
        release: tree.release(),
        kernel: tree.line("/proc/sys/kernel/osrelease").unwrap_or_default(),
        sysctls: SYSCTLS.iter().chain(&QUOTAS).filter_map(sysctl).collect(),
        subuid: tree.optional("/etc/subuid"),
        subgid: tree.optional("/etc/subgid"),
        subid_source: tree.subid_source(),
        modules: tree.exists("/proc/modules"),
        mounts: Mounts::parse(&tree.text("/proc/self/mountinfo").unwrap_or_default()),
        surroundings: tree.surroundings(),
        apparmor: tree.apparmor(host.tools.rootlesskit.path()),
        cgroup: tree.cgroup(uid),
        systemd: tree.systemd(uid, account.name.as_deref()),
        resolv_conf: LinkChain {
            hops: tree.hops(Path::new("/etc/resolv.conf")),
            text: tree.text("/etc/resolv.conf"),
        },
        data_root: tree.data_root(&places.data_root),
        docker_client: tree.docker_client(None, docker_config.as_deref()),
        gpu: tree.gpu(environment, &places.runtime_dir),
        keys: tree.keys(uid),
        own_runtime_dir: None,
        now: SystemTime::now(),
        account,
    }
}

/// Reads the settings of the docker client `program` in `directory`.
pub fn docker_client(program: Option<&Path>, directory: Option<&Path>) -> DockerClient {
    Tree("/".as_ref()).docker_client(program.map(Path::to_owned), directory)
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

    /// Reads a file that may be missing.
    fn optional(&self, path: &str) -> Result<String, String> {
        match self.read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            read => read.map_err(|error| error.to_string()),
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

    fn release(&self) -> Release {
        let text = self.text("/etc/os-release").or_else(|| self.text("/usr/lib/os-release"));
        Release::parse(&text.unwrap_or_default())
    }

    fn account(&self, uid: u32, gid: u32, name: Option<String>) -> Account {
        // A name, an ID, and a group's members.
        let entries = |path: &str| -> Vec<(String, u32, String)> {
            let text = self.text(path).unwrap_or_default();
            let lines = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
            let entry = |fields: Vec<&str>| {
                let id = fields.get(2)?.parse().ok()?;
                Some((fields[0].to_owned(), id, fields.get(3)?.to_string()))
            };
            lines.filter_map(entry).collect()
        };
        let users = entries("/etc/passwd");
        let local = users.into_iter().find(|(_, id, _)| *id == uid).map(|(name, ..)| name);
        let is_local = local.is_some();
        let name = local.or(name);
        let groups = entries("/etc/group");
        let is_own = |(_, id, members): &&(String, u32, String)| {
            *id == gid || members.split(',').any(|member| Some(member) == name.as_deref())
        };
        Account {
            uid,
            gid,
            is_local,
            groups: groups.iter().filter(is_own).map(|(name, ..)| name.clone()).collect(),
            all_groups: groups.into_iter().rev().map(|(name, gid, _)| (gid, name)).collect(),
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
        let status: Vec<&str> = status.split_whitespace().collect();
        let says = |pair: [&str; 2]| status.windows(2).any(|own| own == pair);
        let [uids, gids] = ["uid_map", "gid_map"].map(|name| self.id_map(name));
        let bounds = status.windows(2).find(|pair| pair[0] == "CapBnd:").map(|pair| pair[1]);
        let bounds = bounds.and_then(|set| u64::from_str_radix(set, 16).ok());
        // Written by the kubelet; CRI-O also makes podman's file.
        let hosts = self.text("/etc/hosts").unwrap_or_default();
        let is_pod = hosts.starts_with("# Kubernetes-managed hosts file");
        let container = self
            .line("/run/systemd/container")
            .or_else(|| is_pod.then(|| "kubernetes".to_owned()))
            .or_else(|| self.exists("/run/.containerenv").then(|| "podman".to_owned()))
            .or_else(|| self.exists("/.dockerenv").then(|| "docker".to_owned()));
        let mounts = self.text("/proc/self/mountinfo").unwrap_or_default();
        let kernel = self.line("/proc/sys/kernel/osrelease").unwrap_or_default();
        Surroundings {
            container,
            chroot: !mounts.is_empty() && Mounts::parse(&mounts).of(Path::new("/")).is_none(),
            nested: uids.iter().any(|range| *range != (0, 0, ALL_IDS)),
            uids,
            gids,
            sys_admin: bounds.is_none_or(|set| set & CAP_SYS_ADMIN != 0),
            wsl: kernel.to_lowercase().contains("microsoft"),
            no_new_privs: says(["NoNewPrivs:", "1"]),
            seccomp: says(["Seccomp:", "2"]),
        }
    }

    /// Returns the ranges of a map in `/proc/self`: the first ID here, that outside, and how many.
    fn id_map(&self, name: &str) -> Vec<(u64, u64, u64)> {
        parse_id_map(&self.text(format!("/proc/self/{name}")).unwrap_or_default())
    }

    /// Looks for a profile of `rootlesskit`.
    fn apparmor(&self, rootlesskit: Option<&Path>) -> AppArmor {
        let rootlesskit = rootlesskit.map(|path| self.real(path).unwrap_or(path.to_owned()));
        let directory = Path::new("/etc/apparmor.d");
        let names_it = |path: &PathBuf| {
            let text = self.text(path).unwrap_or_default();
            let mut words = text.split_whitespace().map(|word| Path::new(word.trim_matches('"')));
            text.contains("userns") && words.any(|word| Some(word) == rootlesskit.as_deref())
        };
        let mut profiles = self.entries(directory).into_iter().map(|name| directory.join(name));
        AppArmor { profile: profiles.find(names_it), rootlesskit }
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
        let root = "/sys/fs/cgroup";
        let version = match self.exists(format!("{root}/cgroup.controllers")) {
            true => Some(2),
            false => (!self.entries(root).is_empty()).then_some(1),
        };
        let manager = format!("{root}/user.slice/user-{uid}.slice/user@{uid}.service");
        let delegated = self.line(&format!("{manager}/cgroup.controllers"));
        let names = |line: String| line.split_whitespace().map(str::to_owned).collect();
        Cgroup { version, delegated: delegated.map(names) }
    }

    fn systemd(&self, uid: u32, name: Option<&str>) -> Systemd {
        let booted = self.exists("/run/systemd/system");
        // `DOMAIN\user` is escaped as C does it, like all names that systemd turns into files.
        let name = name.filter(|_| booted).map(|name| name.replace('\\', "\\x5c"));
        let units = ["/usr/lib", "/lib", "/etc"];
        Systemd {
            booted,
            manager: self.exists(user_runtime_dir(uid).join("systemd/private")),
            linger: name.map(|name| self.exists(format!("/var/lib/systemd/linger/{name}"))),
            dbus_unit: units.iter().any(|at| self.exists(format!("{at}/systemd/user/dbus.socket"))),
        }
    }

    fn data_root(&self, path: &Path) -> DataRoot {
        let has_data =
            |driver: &&str| self.entries(path.join(driver)).iter().any(|name| name != "l");
        DataRoot {
            path: path.to_owned(),
            base: path.ancestors().find_map(|path| self.real(path)).unwrap_or("/".into()),
            drivers_with_data: STORAGE_DRIVERS.into_iter().filter(has_data).collect(),
        }
    }

    /// Follows all links of a path that exists.
    fn real(&self, path: &Path) -> Option<PathBuf> {
        let (root, real) = (self.0.canonicalize().ok()?, self.at(path).canonicalize().ok()?);
        Some(Path::new("/").join(real.strip_prefix(root).ok()?))
    }

    fn docker_client(&self, program: Option<PathBuf>, directory: Option<&Path>) -> DockerClient {
        let mut client = DockerClient { program, ..DockerClient::default() };
        let Some(directory) = directory else {
            return client;
        };
        let json =
            |path: &Path| -> io::Result<Value> { Ok(serde_json::from_str(&self.read(path)?)?) };
        match json(&directory.join("config.json")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => client.config_fault = Some(error.to_string()),
            Ok(config) => {
                client.current_context = config["currentContext"].as_str().map(str::to_owned)
            }
        }
        let metas = directory.join("contexts/meta");
        for entry in self.entries(&metas) {
            let meta = json(&metas.join(entry).join("meta.json")).unwrap_or_default();
            let host = meta["Endpoints"]["docker"]["Host"].as_str();
            if let (Some(name), Some(host)) = (meta["Name"].as_str(), host) {
                client.contexts.insert(name.to_owned(), host.to_owned());
            }
        }
        client
    }

    fn gpu(&self, environment: &Environment, runtime_dir: &Path) -> Gpu {
        // Other than for most programs, an unset variable means /etc here (nvidia-container-toolkit).
        let base = environment.absolute("XDG_CONFIG_HOME").unwrap_or("/etc".into());
        let config = base.join("nvidia-container-runtime/config.toml");
        let no_cgroups = |text: String| {
            let table = text.parse::<toml::Table>().ok()?;
            table.get("nvidia-container-cli")?.get("no-cgroups")?.as_bool()
        };
        let toolkit = self.text(&config).map(|text| (config, no_cgroups(text) == Some(true)));
        let own = environment.config_home().map(|home| home.join("cdi"));
        let directories = [Some("/etc/cdi".into()), Some("/var/run/cdi".into()), own]
            .into_iter()
            .flatten()
            .chain([runtime_dir.join("cdi")]);
        let files = directories.flat_map(|directory| {
            let names = self.entries(&directory).into_iter();
            names.map(move |name| directory.join(name))
        });
        let is_spec =
            |path: &PathBuf| path.extension().is_some_and(|kind| kind == "json" || kind == "yaml");
        let spec = |path: PathBuf| {
            let text = self.text(&path).unwrap_or_default();
            (path, text.contains("nvidia.com/gpu"))
        };
        let specs = files.filter(is_spec).map(spec).collect();
        Gpu { nvidia: self.exists("/dev/nvidiactl"), toolkit, specs }
    }

    /// Reads a line such as ` 1000:    12 12/12 8/200 214/20000` (proc_key-users(5)).
    fn keys(&self, uid: u32) -> Option<[u64; 4]> {
        let text = self.text("/proc/key-users")?;
        let line = text.lines().find_map(|line| line.trim().strip_prefix(&format!("{uid}:")))?;
        let pairs = line.split_whitespace().skip(2).flat_map(|pair| pair.split('/'));
        let numbers: Vec<u64> = pairs.filter_map(|number| number.parse().ok()).collect();
        numbers.try_into().ok()
    }
}

/// Resolves `.` and `..` by the letter: no directory above is a link worth following.
fn without_dots(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::from("/"), |clean, part| match part {
        Component::ParentDir => clean.parent().unwrap_or(&clean).to_owned(),
        part => clean.join(part),
    })
}
