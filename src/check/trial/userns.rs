//! Tries to make a user namespace and to map the subordinate ids into it. A process of its own makes
//! the namespace, since there is no way back; newuidmap and newgidmap are run on it from outside, as
//! rootlesskit does.

use std::ffi::{CString, OsStr};
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::libc;
use nix::sched::{CloneFlags, unshare};

use crate::check::subids::own_ranges;
use crate::check::survey::Survey;
use crate::check::trial::{succeeds, tried};
use crate::check::trials::{IdMapper, Outcome};
use crate::error::Error;
use crate::sys::{process, stdout};

/// The first word of the namespace's command line.
pub const NAMESPACE: &str = "trial-namespace";

/// Why nothing was tried in a namespace that could not be made.
pub const NONE: &str = "no user namespace can be made";

/// Makes a namespace, maps ids as `map` does, which is given the process's PID, and returns what came
/// of both, and whether the owner may make other namespaces in it.
pub fn try_namespace<T>(map: impl FnOnce(u32) -> T) -> io::Result<(Outcome, Option<(T, Outcome)>)> {
    let mut command = Command::new("/proc/self/exe");
    command.arg(NAMESPACE).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = process::tie(&mut command).spawn()?;
    let (orders, answers) = (child.stdin.take(), child.stdout.take());
    let talk = || {
        let (mut orders, answers) = orders.zip(answers).ok_or(io::ErrorKind::BrokenPipe)?;
        let mut answers = BufReader::new(answers).lines();
        let mut answer = || {
            let line = answers.next().unwrap_or(Err(io::ErrorKind::UnexpectedEof.into()))?;
            serde_json::from_str(&line).map_err(io::Error::from)
        };
        let made: Outcome = answer()?;
        if !made.works() {
            return Ok((made, None));
        }
        let mapped = map(child.id());
        orders.write_all(b"\n")?;
        Ok((made, Some((mapped, answer()?))))
    };
    let tried = talk();
    let _ = child.kill();
    let _ = child.wait();
    tried
}

/// Is the process: makes the namespace, says so, waits until it is mapped, and tries what it may do.
pub fn run() -> Result<(), Error> {
    let made = tried(unshare(CloneFlags::CLONE_NEWUSER));
    say(&made)?;
    let is_mapped = io::stdin().read(&mut [0]).is_ok_and(|count| count > 0);
    if !made.works() || !is_mapped {
        return Ok(());
    }
    say(&tried(unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)))
}

fn say(outcome: &Outcome) -> Result<(), Error> {
    stdout::print(format!("{}\n", serde_json::json!(outcome)))
}

/// What is known of one kind of ids.
pub struct Ids {
    /// newuidmap or newgidmap.
    pub program: Option<IdMapper>,
    pub getsubids: Option<Result<String, String>>,
    own: u32,
    /// The first id and the count of each range that rootlesskit would map.
    ranges: Vec<(u32, u32)>,
}

impl Ids {
    pub fn look(name: &str, search_path: &OsStr, survey: &Survey) -> Self {
        let account = &survey.account;
        let user = account.display_name();
        let (option, own, file, capability) = if name == "newuidmap" {
            (None, account.uid, &survey.subuid, CAP_SETUID)
        } else {
            (Some("-g"), account.gid, &survey.subgid, CAP_SETGID)
        };
        let getsubids = which::which_in("getsubids", Some(search_path), "/").ok();
        let getsubids = getsubids.and_then(|program| {
            let (status, text) =
                process::brief(Command::new(program).args(option).arg(&user)).ok()?;
            Some(if status.success() { Ok(text) } else { Err(text) })
        });
        let ranges = own_ranges(survey, file, getsubids.as_ref());
        Self { program: id_mapper(name, capability, search_path, survey), getsubids, own, ranges }
    }

    /// Maps the ids into the namespace of a process.
    pub fn map(&self, pid: u32) -> Outcome {
        let Some(program) = &self.program else {
            return Outcome::NotTried("the program is not installed".to_owned());
        };
        if self.ranges.is_empty() {
            return Outcome::NotTried("there are no subordinate ids to map".to_owned());
        }
        // The user's own id becomes 0, and the ranges what follows, as with rootlesskit.
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
fn id_mapper(name: &str, capability: u32, path: &OsStr, survey: &Survey) -> Option<IdMapper> {
    let look = |path: PathBuf| {
        let path = path.canonicalize().ok()?;
        let metadata = fs::metadata(&path).ok()?;
        let mount = survey.mounts.of(&path);
        let nosuid = mount.filter(|mount| mount.options.iter().any(|option| option == "nosuid"));
        Some(IdMapper {
            owner: metadata.uid(),
            mode: metadata.mode() & 0o7777,
            file_capability: has_file_capability(&path, capability),
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

/// `CAP_SETGID` and `CAP_SETUID` of linux/capability.h.
const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;

/// Returns whether a file has the capability, permitted and effective (`struct vfs_cap_data`).
fn has_file_capability(path: &Path, capability: u32) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
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
