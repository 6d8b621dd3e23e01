//! Tries what rootlesskit does first: to create a user namespace and others inside, and to map IDs into
//! it.

use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::ptr;

use nix::libc;
use nix::sched::{CloneFlags, unshare};

use crate::check::subids::own_ranges;
use crate::check::survey::Survey;
use crate::check::trial::{failure, succeeds};
use crate::check::trials::{IdMapper, Outcome};
use crate::plan::TRIAL;
use crate::sys::process;

/// Why nothing was tried in a namespace that could not be created.
pub const NONE: &str = "no user namespace can be created";

/// Returns what came of the namespaces, and of mapping each kind of IDs.
pub fn run(ids: &[Ids; 2]) -> [Outcome; 3] {
    match Sleeper::start() {
        Ok(sleeper) => {
            let [uid_map, gid_map] = ids.each_ref().map(|ids| ids.map(sleeper.0.id()));
            [Outcome::Works, uid_map, gid_map]
        }
        Err(error) => {
            let none = || Outcome::NotTried(NONE.to_owned());
            [failure(&error), none(), none()]
        }
    }
}

/// A process of ours in new namespaces that does nothing. It ends with the value.
struct Sleeper(Child);

impl Sleeper {
    fn start() -> io::Result<Self> {
        let enter = || {
            unshare(CloneFlags::CLONE_NEWUSER)?;
            Ok(unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)?)
        };
        let mut command = Command::new("/proc/self/exe");
        // SAFETY: between fork and exec only system calls are made.
        unsafe { process::tie(command.arg(TRIAL)).pre_exec(enter) }.spawn().map(Self)
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What is known of one kind of IDs.
pub struct Ids {
    /// newuidmap or newgidmap.
    pub program: Option<IdMapper>,
    /// What getsubids prints, if the IDs come from elsewhere than files.
    pub getsubids: Option<String>,
    own: u32,
    /// The first ID and the count of each range that rootlesskit would map.
    ranges: Vec<(u32, u32)>,
}

impl Ids {
    pub fn look(name: &str, search_path: &OsStr, survey: &Survey) -> Self {
        let account = &survey.account;
        let (option, own, file) = match name {
            "newuidmap" => (None, account.uid, &survey.subuid),
            _ => (Some("-g"), account.gid, &survey.subgid),
        };
        let getsubids = survey.subid_source.as_ref().and_then(|_| {
            let program = which::which_in("getsubids", Some(search_path), "/").ok()?;
            let mut command = Command::new(program);
            command.args(option).arg(account.display_name());
            let (status, text) = process::brief(&mut command).ok()?;
            status.success().then_some(text)
        });
        let ranges = own_ranges(survey, file, getsubids.as_deref(), own);
        Self { program: id_mapper(name, search_path, survey), getsubids, own, ranges }
    }

    /// Maps the user's own ID to 0 and the ranges to what follows, as rootlesskit does.
    fn map(&self, pid: u32) -> Outcome {
        let Some(program) = &self.program else {
            return Outcome::NotTried("the program is not installed".to_owned());
        };
        if self.ranges.is_empty() {
            return Outcome::NotTried("there are no subordinate IDs to map".to_owned());
        }
        let mut args = vec![pid, 0, self.own, 1];
        let mut next = 1;
        for (first, count) in &self.ranges {
            args.extend([next, *first, *count]);
            next += count;
        }
        succeeds(Command::new(&program.path).args(args.iter().map(u32::to_string)))
    }
}

/// Looks at newuidmap or newgidmap.
fn id_mapper(name: &str, path: &OsStr, survey: &Survey) -> Option<IdMapper> {
    let look = |path: PathBuf| {
        let path = path.canonicalize().ok()?;
        let metadata = fs::metadata(&path).ok()?;
        let mount = survey.mounts.of(&path);
        let nosuid = mount.filter(|mount| mount.options.iter().any(|option| option == "nosuid"));
        Some(IdMapper {
            owner: metadata.uid(),
            mode: metadata.mode() & 0o7777,
            file_capability: has_file_capability(&path),
            nosuid: nosuid.map(|mount| mount.point.clone()),
            shadowed: None,
            path,
        })
    };
    let mut all = which::which_in_all(name, Some(path), "/").ok()?.filter_map(look);
    let mut first = all.next()?;
    let mut others = all.filter(|other| other.path != first.path && other.has_power());
    first.shadowed = others.next().map(|other| other.path);
    Some(first)
}

fn has_file_capability(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    let name = c"security.capability".as_ptr();
    // SAFETY: both strings end in NUL, and the kernel writes nothing where there is no room.
    unsafe { libc::getxattr(path.as_ptr(), name, ptr::null_mut(), 0) > 0 }
}
