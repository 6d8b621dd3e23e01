//! Deletes the daemon's data. Most of the files belong to subordinate ids, so that only the user
//! namespace can reach them: rootlesskit makes one, as upstream advises (`rootlesskit rm -rf`).

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Exit};
use crate::facts::{Lock, Mounts, PidState, Session, SetupFacts};
use crate::setup::as_root;
use crate::setup::find;
use crate::setup::manager::LATER;
use crate::supervise;
use crate::sys::process;

/// What dockerd keeps in its data root, whatever its storage driver. Other files there are not its
/// own.
const ENTRIES: [&str; 24] = [
    ".dockerd-rootless.lock",
    "aufs",
    "btrfs",
    "builder",
    "buildkit",
    "containerd",
    "containers",
    "devicemapper",
    "engine-id",
    "fuse-overlayfs",
    "image",
    "network",
    "nuke-graph-directory.sh",
    "overlay",
    "overlay2",
    "plugins",
    "rootfs",
    "runtimes",
    "swarm",
    "tmp",
    "trust",
    "vfs",
    "volumes",
    "zfs",
];

/// Without both of these a directory is no data root: dockerd makes them at its first start.
const MARKS: [&str; 2] = ["containers", "volumes"];

/// And without one of these: dockerd 29.0 to 29.2 makes no `image` where containerd stores images.
const FURTHER_MARKS: [&str; 3] = ["containerd", "engine-id", "image"];

/// The daemon's data.
pub struct Data {
    /// The data root, links followed.
    pub root: PathBuf,
    /// What the daemon has made there, and how much each takes, in KiB.
    pub entries: Vec<(PathBuf, u64)>,
    /// Whether other files are there, which stay.
    pub is_shared: bool,
}

/// Measures what is in the data root `stated`; `None` if there is nothing.
///
/// # Errors
/// Exit 1 if it is no data root, or something is mounted in it; exit 4 if no user namespace can be
/// entered.
pub fn measure(stated: &Path, facts: &SetupFacts) -> Result<Option<Data>, Error> {
    let refuse = |why: &str| {
        let what = format!("the data root `{}` is not deleted: {why}", stated.display());
        Error::new(Exit::Failed, what).hint(format!("ls -la {}", shown(stated)))
    };
    let root = match stated.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|error| refuse("it cannot be looked at").because(&error))?,
    };
    let names: Vec<OsString> = fs::read_dir(&root)
        .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect())
        .map_err(|error| refuse("it cannot be read").because(&error))?;
    if names.is_empty() {
        return Ok(None);
    }
    let home = facts.home.canonicalize().unwrap_or_default();
    if home.starts_with(&root) || !is_data_root(&names) {
        return Err(refuse("it does not look like one"));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounts = Mounts::parse(&mounts);
    let inside = |point: &&Path| point.starts_with(&root) && *point != root;
    if let Some(point) = mounts.0.iter().map(|mount| &*mount.point).find(inside) {
        return Err(refuse(&format!("`{}` is mounted in it", point.display())));
    }
    let is_own = |name: &&OsString| ENTRIES.iter().any(|own| *name == *own);
    let own: Vec<PathBuf> = names.iter().filter(is_own).map(|name| root.join(name)).collect();
    let said = inside_namespace(facts, &root, "du", &["-sk", "--"], &own)?;
    let sizes = said.lines().filter_map(|line| {
        let (size, path) = line.split_once('\t')?;
        Some((PathBuf::from(path), size.parse().ok()?))
    });
    let entries: Vec<(PathBuf, u64)> = sizes.collect();
    match entries.len() == own.len() {
        true => Ok(Some(Data { is_shared: own.len() < names.len(), entries, root })),
        false => Err(no_way(facts, &root, &io::Error::other(said.trim().to_owned()))),
    }
}

/// Whether a directory with these `names` is a data root.
fn is_data_root(names: &[OsString]) -> bool {
    let has = |mark: &&str| names.iter().any(|name| name == *mark);
    MARKS.iter().all(&has) && FURTHER_MARKS.iter().any(has)
}

/// Refuses to delete data that are in use, be it by a daemon that does not answer, listens elsewhere
/// or has another runtime directory.
///
/// # Errors
/// Exit 5 with the process that uses them.
pub fn refuse_used(session: &Session) -> Result<(), Error> {
    let root = session.data_root.as_path();
    let root = root.canonicalize().unwrap_or_else(|_| root.to_owned());
    let by_file = session.pid_files.iter().find_map(|file| match file.state {
        PidState::Running(pid) => Some(pid),
        _ => None,
    });
    let by_lock = || match session.state_dir.lock {
        Lock::Held(pid) => Some(pid),
        Lock::Free => None,
    };
    refuse(&root, by_file.or_else(by_lock).or_else(|| user_of(&root)))
}

fn refuse(root: &Path, user: Option<u32>) -> Result<(), Error> {
    user.map_or(Ok(()), |pid| {
        let what =
            format!("the data in `{}` are not deleted: process {pid} uses them", root.display());
        Err(Error::new(Exit::AlreadyRunning, what)
            .hint(format!("see what it is, and stop it: ps -fp {pid}")))
    })
}

/// A process whose root, or a file that it has open, is in `root`, as far as we may know.
fn user_of(root: &Path) -> Option<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.find(|pid| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
        let mut files = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
        files.any(|file| file.starts_with(root))
            || supervise::is_container(*pid, &[root.to_owned()])
    })
}

/// Deletes `entries` of the data root `root`, and that too if it is empty then.
///
/// # Errors
/// Exit 5 if a process uses them; exit 4 if no user namespace can be entered; what `rm` says.
pub fn delete(facts: &SetupFacts, root: &Path, entries: &[PathBuf]) -> Result<(), Error> {
    // The unit has been stopped meanwhile. Another daemon may have the same data.
    refuse(root, user_of(root))?;
    inside_namespace(facts, root, "rm", &["-rf", "--"], entries)?;
    // A file system of its own, or with other files in it, stays.
    let _ = fs::remove_dir(root);
    Ok(())
}

/// Runs a program on `paths` in a user namespace.
fn inside_namespace(
    facts: &SetupFacts,
    root: &Path,
    program: &str,
    words: &[&str],
    paths: &[PathBuf],
) -> Result<String, Error> {
    let Some(rootlesskit) =
        find("docker-rootlesskit", facts).or_else(|| find("rootlesskit", facts))
    else {
        return Err(no_way(facts, root, &io::Error::other("rootlesskit is not in PATH")));
    };
    let mut command = Command::new(rootlesskit);
    command.env("PATH", &facts.search_path).arg(program).args(words).args(paths);
    process::succeed(&mut command, LATER).map_err(|error| no_way(facts, root, &error))
}

fn no_way(facts: &SetupFacts, root: &Path, error: &io::Error) -> Error {
    let what = format!(
        "the data in `{}` cannot be reached: they belong to subordinate ids",
        root.display()
    );
    Error::new(Exit::Prerequisite, what).because(error).hint(format!(
        "dockerd-rootless check; or have root delete them: {}",
        as_root(facts, &format!("rm -rf --one-file-system {}", shown(root)))
    ))
}

fn shown(path: &Path) -> String {
    crate::words::quote(path.as_os_str()).to_string_lossy().into_owned()
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
    fn data_with_an_open_file_are_in_use() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().canonicalize().expect("a path");
        assert_eq!(user_of(&root), None);
        let open = File::create(root.join("meta.db")).expect("a file");
        assert!(user_of(&root).is_some());
        let refused = refuse(&root, user_of(&root)).expect_err("in use");
        assert_eq!(refused.exit(), Exit::AlreadyRunning);
        drop(open);
    }
}
