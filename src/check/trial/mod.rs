//! Tries what a launch needs, so that nothing is left behind, also by one who is killed.

pub mod inside;
pub mod namespace;
mod scratch;
pub mod watch;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use nix::errno::Errno;
use nix::libc;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};

use crate::environment::Environment;
use crate::facts::places;
use crate::facts::{
    Failure, HostFacts, IdMapper, Inside, Outcome, RootfulSocket, SubIds, Survey, TextFile, Trials,
};
use crate::plan::Trial;
use crate::settings::Settings;
use crate::sys::process::brief;
use crate::sys::unix_sockets;
use inside::Subject;
use namespace::{Namespace, map_words};
use scratch::Scratch;
pub use scratch::remove_bind_directories;
use watch::Watched;

/// Where distributions keep the certificates of authorities; Go looks in these places.
const CERTIFICATES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The rootful daemon's socket.
const ROOTFUL_SOCKET: &str = "/var/run/docker.sock";

/// Tries everything for a launch.
pub fn run(
    settings: &Settings,
    environment: &Environment,
    host: &HostFacts,
    survey: &Survey,
) -> Trials {
    let (search_path, _) = places::search_path(environment);
    let namespace = Namespace::start();
    let chain = Chain::start(settings, environment, host, survey);
    let find = |name: &str| which::which_in(name, Some(&search_path), "/").ok();

    let name = survey.account.shown();
    let getsubids = |words: &[&str]| {
        let (status, text) = brief(Command::new(find("getsubids")?).args(words).arg(&name)).ok()?;
        Some(if status.success() { Ok(text) } else { Err(text) })
    };
    let getsubids_uid = getsubids(&[]);
    let getsubids_gid = getsubids(&["-g"]);
    let (newuidmap, newgidmap) = (
        id_mapper("newuidmap", &search_path, survey),
        id_mapper("newgidmap", &search_path, survey),
    );
    let uid_ranges = ranges(survey, &survey.subuid, getsubids_uid.as_ref());
    let gid_ranges = ranges(survey, &survey.subgid, getsubids_gid.as_ref());
    let map = |pid: u32| {
        let map = |program: &Option<IdMapper>, own: u32, ranges: &[(u32, u32)]| match program {
            None => Outcome::NotTried("the program is not installed".to_owned()),
            Some(_) if ranges.is_empty() => {
                Outcome::NotTried("there are no subordinate ids to map".to_owned())
            }
            Some(program) => {
                succeeds(Command::new(&program.path).args(map_words(pid, own, ranges)))
            }
        };
        (
            map(&newuidmap, survey.account.uid, &uid_ranges),
            map(&newgidmap, survey.account.gid, &gid_ranges),
        )
    };
    let tried_namespace = match namespace.and_then(|namespace| namespace.finish(map)) {
        Ok(tried) => tried,
        Err(error) => namespace::Tried {
            user_namespace: Outcome::NotTried(error.to_string()),
            ..namespace::Tried::default()
        },
    };

    let runtime_dir = host.session.person.runtime_dir.as_ref().map(|(path, _)| path);
    let manager = PathBuf::from(format!("/run/user/{}", survey.account.uid));
    let base = &survey.data_root.base;
    let open =
        |path: &str| tried_io(OpenOptions::new().read(true).write(true).open(path).map(drop));
    let (rootlesskit, inside) = chain.finish();
    Trials {
        user_namespace: tried_namespace.user_namespace,
        capabilities: tried_namespace.capabilities,
        uid_map: tried_namespace.uid_map,
        gid_map: tried_namespace.gid_map,
        newuidmap,
        newgidmap,
        getsubids_uid,
        getsubids_gid,
        rootlesskit,
        inside,
        tun: open("/dev/net/tun"),
        fuse: open("/dev/fuse"),
        bus: listens(&bus_path(environment).unwrap_or_else(|| manager.join("bus"))),
        manager: listens(&manager.join("systemd/private")),
        rootful_socket: rootful_socket(survey),
        home_writable: host
            .session
            .person
            .home
            .as_ref()
            .is_some_and(|(home, _)| access(home, AccessFlags::W_OK).is_ok()),
        data_root_writable: access(base, AccessFlags::W_OK | AccessFlags::X_OK).is_ok(),
        runtime_dir_free: runtime_dir
            .and_then(|path| statvfs(path).ok())
            .map(|found| found.blocks_available() * found.fragment_size()),
        open_files: getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(_, hard)| hard),
        fuse_overlayfs: find("fuse-overlayfs"),
    }
}

/// rootlesskit with all that a launch would give it, and our own trials in the daemon's place.
struct Chain<'a> {
    watcher: Result<Child, Outcome>,
    trial: Option<Trial>,
    scratch: Vec<PathBuf>,
    host: &'a HostFacts,
}

impl<'a> Chain<'a> {
    fn start(
        settings: &Settings,
        environment: &Environment,
        host: &'a HostFacts,
        survey: &Survey,
    ) -> Self {
        let pid = std::process::id();
        let base = &survey.data_root.base;
        let overlay = access(base, AccessFlags::W_OK | AccessFlags::X_OK)
            .is_ok()
            .then(|| Scratch::name(base, pid));
        let runtime_dir = host.session.person.runtime_dir.as_ref();
        let own = runtime_dir.map(|(path, _)| Scratch::name(path, pid));
        let state_dir = own.as_ref().map(|own| own.join("s")).unwrap_or_default();
        let subject = Subject {
            scratch: overlay.clone(),
            certificates: CERTIFICATES
                .iter()
                .map(PathBuf::from)
                .filter(|path| File::open(path).is_ok())
                .collect(),
        };
        let subject = serde_json::to_string(&subject).unwrap_or_default();
        let trial = Trial::build(settings, host, environment, &state_dir, subject.into());
        let scratch: Vec<PathBuf> = own.into_iter().chain(overlay).collect();
        let watcher = match &trial {
            Err(error) => Err(Outcome::NotTried(error.to_string())),
            Ok(trial) => {
                watch::start(&scratch, &trial.rootlesskit, &trial.args, &trial.search_path)
                    .map_err(|error| Outcome::NotTried(error.to_string()))
            }
        };
        Self { watcher, trial: trial.ok(), scratch, host }
    }

    /// What came of it. Where rootlesskit did not get inside, the trials are made without it.
    fn finish(self) -> (Outcome, Option<Inside>) {
        let outcome = match self.watcher.map(watch::finish) {
            Err(not_tried) => not_tried,
            Ok(Err(error)) => Outcome::NotTried(error.to_string()),
            Ok(Ok(watched)) => match serde_json::from_str(&watched.stdout) {
                Ok(inside) if watched.status.is_empty() => return (Outcome::Works, Some(inside)),
                _ => Outcome::fails(complaint(&watched)),
            },
        };
        let alone = self.trial.and_then(|trial| {
            let own = &self.host.session.own_path;
            let mut words = trial.inside;
            words.insert(1, inside::ALONE.into());
            let watcher = watch::start(&self.scratch, own, &words, &trial.search_path).ok()?;
            serde_json::from_str(&watch::finish(watcher).ok()?.stdout).ok()
        });
        (outcome, alone)
    }
}

/// What a program that failed says of it: its last lines, without what it only warns of.
fn complaint(watched: &Watched) -> String {
    let is_news = |line: &&str| {
        !line.is_empty() && !line.contains("level=warning") && !line.contains("level=debug")
    };
    let lines: Vec<&str> = watched.stderr.lines().map(str::trim).filter(is_news).collect();
    let last = lines[lines.len().saturating_sub(3)..].join("; ");
    match (last.is_empty(), watched.status.is_empty()) {
        (true, true) => "it printed nothing".to_owned(),
        (true, false) => watched.status.clone(),
        (false, true) => last,
        (false, false) => format!("{last} ({})", watched.status),
    }
}

/// The ranges of subordinate ids that rootlesskit would map: the first id and the count of each.
fn ranges(
    survey: &Survey,
    file: &TextFile,
    getsubids: Option<&Result<String, String>>,
) -> Vec<(u32, u32)> {
    let (name, number) = (survey.account.shown(), survey.account.uid.to_string());
    let lines = match (getsubids, file) {
        (Some(Ok(text)), _) => SubIds::parse_getsubids(&name, text),
        (_, TextFile::Text(text)) => SubIds::parse(text),
        _ => SubIds::default(),
    };
    let own = lines.0.into_iter().filter(|line| line.owner == name || line.owner == number);
    own.filter_map(|line| {
        let ids = line.ids.ok()?;
        let count = ids.end.saturating_sub(ids.start);
        Some((u32::try_from(ids.start).ok()?, u32::try_from(count).ok()?))
    })
    .collect()
}

/// Looks at newuidmap or newgidmap.
fn id_mapper(name: &str, search_path: &OsStr, survey: &Survey) -> Option<IdMapper> {
    let mut all = which::which_in_all(name, Some(search_path), "/")
        .ok()?
        .filter_map(|path| path.canonicalize().ok());
    let capability = if name == "newuidmap" { CAP_SETUID } else { CAP_SETGID };
    let look = |path: PathBuf| {
        let metadata = fs::metadata(&path).ok()?;
        let nosuid = survey
            .mounts
            .of(&path)
            .filter(|mount| mount.options.iter().any(|option| option == "nosuid"));
        Some(IdMapper {
            owner: metadata.uid(),
            mode: metadata.mode() & 0o7777,
            file_capability: has_file_capability(&path, capability),
            nosuid: nosuid.map(|mount| mount.point.clone()),
            shadowed: None,
            path,
        })
    };
    let mut first = look(all.next()?)?;
    first.shadowed = all
        .filter_map(look)
        .find(|other| other.path != first.path && other.has_power())
        .map(|other| other.path);
    Some(first)
}

/// `CAP_SETGID` and `CAP_SETUID` of linux/capability.h.
const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;

/// Whether a file has the capability, permitted and effective (`struct vfs_cap_data`).
fn has_file_capability(path: &Path, capability: u32) -> bool {
    let Ok(path) = std::ffi::CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    let mut data = [0u8; 24];
    // SAFETY: both strings end in NUL, and the kernel writes at most `data.len()` bytes.
    let count = unsafe {
        libc::getxattr(
            path.as_ptr(),
            c"security.capability".as_ptr(),
            data.as_mut_ptr().cast(),
            data.len(),
        )
    };
    let word = |at: usize| u32::from_le_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]]);
    count >= 20 && word(0) & 1 == 1 && word(4) & (1 << capability) != 0
}

/// Where `DBUS_SESSION_BUS_ADDRESS` says that the bus is.
fn bus_path(environment: &Environment) -> Option<PathBuf> {
    let address = environment.get("DBUS_SESSION_BUS_ADDRESS")?.to_str()?;
    let path = address.strip_prefix("unix:path=")?;
    Some(path.split([',', ';']).next()?.into())
}

/// Whether somebody listens on the socket `path`. The kernel tells: a connection would start what
/// systemd has put behind it.
fn listens(path: &Path) -> Outcome {
    if !path.exists() {
        return Outcome::fails(format!("`{}` does not exist", path.display()));
    }
    let Ok(table) = unix_sockets::table() else {
        return Outcome::NotTried("/proc/net/unix cannot be read".to_owned());
    };
    match unix_sockets::listens(&table, path) {
        true => Outcome::Works,
        false => Outcome::fails(format!("nobody listens on `{}`", path.display())),
    }
}

fn rootful_socket(survey: &Survey) -> Option<RootfulSocket> {
    let path = Path::new(ROOTFUL_SOCKET);
    let metadata = fs::metadata(path).ok()?;
    let group = survey.account.all_groups.get(&metadata.gid());
    Some(RootfulSocket {
        writable: access(path, AccessFlags::W_OK).is_ok(),
        mode: metadata.mode() & 0o7777,
        owner: metadata.uid(),
        group: group.cloned().unwrap_or_else(|| metadata.gid().to_string()),
        path: path.to_owned(),
    })
}

/// What came of a system call.
fn tried(result: nix::Result<()>) -> Outcome {
    tried_io(result.map_err(io::Error::from))
}

fn tried_io(result: io::Result<()>) -> Outcome {
    match result {
        Ok(()) => Outcome::Works,
        Err(error) => Outcome::Fails(Failure {
            errno: error.raw_os_error().map(|code| format!("{:?}", Errno::from_raw(code))),
            text: error.to_string(),
        }),
    }
}

/// Runs `command` and says what it complains of in its first line, behind what modprobe(8) says: a
/// user's iptables calls it in vain, and goes on.
fn succeeds(command: &mut Command) -> Outcome {
    match brief(command) {
        Err(error) => tried_io(Err(error)),
        Ok((status, _)) if status.success() => Outcome::Works,
        Ok((status, text)) => {
            let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
            let said =
                lines().find(|line| !line.starts_with("modprobe: ")).or_else(|| lines().next());
            Outcome::fails(said.map_or_else(|| status.to_string(), str::to_owned))
        }
    }
}
