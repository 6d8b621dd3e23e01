//! Deletes the daemon's data. Most of the files belong to subordinate ids, so that only the user
//! namespace can reach them: rootlesskit makes one, as upstream advises (`rootlesskit rm -rf`).

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::slice;
use std::time::Duration;

use crate::error::{Error, Exit};
use crate::facts::Mounts;
use crate::setup::facts::SetupFacts;
use crate::setup::plan::Action;
use crate::supervise::{self, DATA_LOCK};
use crate::sys::{lock, process, processes};
use crate::words::quoted;

/// How long an action may take: a unit has limits of its own, and containers may have long times to
/// stop.
pub const LATER: Duration = Duration::from_secs(900);

/// What dockerd keeps in its data root, whatever its storage driver. Other files there are the
/// user's.
const ENTRIES: &str = ".dockerd-rootless.lock aufs btrfs builder buildkit containerd containers \
    devicemapper engine-id fuse-overlayfs image network nuke-graph-directory.sh overlay overlay2 \
    plugins rootfs runtimes swarm tmp trust vfs volumes zfs";

/// A data root has one of each. dockerd 29.0 to 29.2 makes no `image` where containerd stores images.
const MARKS: [&[&str]; 3] = [&["containers"], &["volumes"], &["containerd", "engine-id", "image"]];

/// Returns what deletes the daemon's data and a list of what they take; `None` if there are none.
/// Refuses what is no data root or has something mounted in it (exit 1), and ends with 4 if no user
/// namespace can be entered.
pub fn measure(data_root: &Path, facts: &SetupFacts) -> Result<Option<(Action, String)>, Error> {
    let refuse = |why: &str| {
        let what = format!("not deleting the data root `{}`: {why}", data_root.display());
        Error::new(Exit::Failed, what).hint(format!("ls -la {}", quoted(data_root)))
    };
    let unread = |error: io::Error| refuse("it cannot be read").because(&error);
    if !data_root.try_exists().map_err(unread)? {
        return Ok(None);
    }
    let root = data_root.canonicalize().map_err(unread)?;
    let entries = fs::read_dir(&root).map_err(unread)?.map(|entry| Ok(entry?.file_name()));
    let names: Vec<OsString> = entries.collect::<io::Result<_>>().map_err(unread)?;
    if names.is_empty() {
        return Ok(None);
    }
    let home = facts.home.dir.canonicalize().unwrap_or_default();
    if home.starts_with(&root) || !is_data_root(&names) {
        return Err(refuse("it does not look like one"));
    }
    let mounts = fs::read("/proc/self/mountinfo").map_err(unread)?;
    let mounts = Mounts::parse(&String::from_utf8_lossy(&mounts));
    let inside = |point: &&Path| point.starts_with(&root) && *point != root;
    if let Some(point) = mounts.0.iter().map(|mount| &*mount.point).find(inside) {
        return Err(refuse(&format!("`{}` is mounted in it", point.display())));
    }
    let is_own = |name: &&OsString| ENTRIES.split_whitespace().any(|own| *name == own);
    let entries: Vec<PathBuf> = names.iter().filter(is_own).map(|name| root.join(name)).collect();
    let mut listing = inside_namespace(facts, &root, &["du", "-sch", "--"], &entries)?;
    if entries.len() < names.len() {
        listing += &format!("Other files in `{}` are kept\n", root.display());
    }
    Ok(Some((Action::DeleteData(root, entries), listing)))
}

/// Returns whether a directory with these `names` is a data root.
fn is_data_root(names: &[OsString]) -> bool {
    let has = |mark: &&str| names.iter().any(|name| name == mark);
    MARKS.iter().all(|marks| marks.iter().any(has))
}

/// Refuses to delete data that are in use (exit 5): a supervisor has locked them, a process has a file
/// in `root` open, or is in a container of it. So it also finds a daemon that does not answer or listens
/// elsewhere.
pub fn refuse_used(root: &Path) -> Result<(), Error> {
    let root = root.canonicalize().unwrap_or_else(|_| root.to_owned());
    let refuse = |user: &str, hint: String| {
        let what = format!("not deleting the data in `{}`: {user} uses them", root.display());
        Err(Error::new(Exit::AlreadyRunning, what).hint(hint))
    };
    // Also where /proc does not show the processes of others.
    let lock = root.join(DATA_LOCK);
    if lock::is_held(&lock) {
        return refuse("a supervisor", format!("fuser -v {}", quoted(&lock)));
    }
    let uses_it = |pid: &u32| {
        processes::open_files(*pid).any(|file| file.starts_with(&root))
            || supervise::is_container(*pid, slice::from_ref(&root))
    };
    let mut pids = processes::all().into_iter().map(|process| process.identity.pid);
    match pids.find(uses_it) {
        Some(pid) => refuse(&format!("process {pid}"), format!("ps -fp {pid}")),
        None => Ok(()),
    }
}

/// Deletes `entries` of the data root `root`, and that too if it is empty then.
pub(super) fn delete(facts: &SetupFacts, root: &Path, entries: &[PathBuf]) -> Result<(), Error> {
    // The unit has been stopped meanwhile. Another daemon may have the same data.
    refuse_used(root)?;
    inside_namespace(facts, root, &["rm", "-rf", "--"], entries)?;
    // A file system of its own, or with other files in it, is kept.
    let _ = fs::remove_dir(root);
    Ok(())
}

/// Runs a program on `paths` in a user namespace.
fn inside_namespace(
    facts: &SetupFacts,
    root: &Path,
    program: &[&str],
    paths: &[PathBuf],
) -> Result<String, Error> {
    let mut rootlesskits = ["docker-rootlesskit", "rootlesskit"].iter();
    let rootlesskit = rootlesskits.find_map(|name| facts.home.program(name));
    let mut command = Command::new(rootlesskit.unwrap_or("rootlesskit".into()));
    command.env("PATH", &facts.home.search_path).args(program).args(paths);
    process::succeed(&mut command, LATER).map_err(|error| {
        let what = format!("cannot reach the data in `{}` of subordinate ids", root.display());
        Error::new(Exit::Prerequisite, what).because(&error).hint("dockerd-rootless check")
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_data_root_is_known_by_what_every_dockerd_makes() {
        let cases: [(&[&str], bool); 6] = [
            (&["containers", "image", "volumes"], true),
            (&["containers", "containerd", "rootfs", "volumes"], true),
            (&["containers", "engine-id", "volumes"], true),
            (&["containers", "volumes", "thesis.tex"], false),
            (&["image", "volumes"], false),
            (&[], false),
        ];
        for (names, expected) in cases {
            let owned: Vec<OsString> = names.iter().map(OsString::from).collect();
            assert_eq!(is_data_root(&owned), expected, "{names:?}");
        }
    }

    #[test]
    fn data_with_an_open_file_or_a_lock_are_in_use() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().canonicalize().expect("a path");
        refuse_used(&root).expect("not in use");
        let open = File::create(root.join("meta.db")).expect("a file");
        assert_eq!(refuse_used(&root).expect_err("in use").exit(), Exit::AlreadyRunning);
        drop(open);
        let lock = lock::Lock::take(&root.join(DATA_LOCK)).expect("it is free");
        let refused = refuse_used(&root).expect_err("in use");
        assert_eq!(refused.exit(), Exit::AlreadyRunning);
        assert!(refused.to_string().contains("a supervisor uses them"), "{refused}");
        drop(lock);
        refuse_used(&root).expect("not in use");
    }
}
