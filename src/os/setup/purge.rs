//! Deletes the daemon's data. Most of the files belong to subordinate ids, so that only the user
//! namespace can reach them: rootlesskit makes one, as upstream advises (`rootlesskit rm -rf`).

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::find;
use super::manager::LATER;
use crate::error::{Error, Exit};
use crate::host::{Mounts, SetupFacts};
use crate::os::process;

/// What dockerd keeps in its data root, whatever its storage driver. Other files there are not its
/// own.
const ENTRIES: [&str; 23] = [
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

/// Without these a directory is no data root: dockerd makes them at its first start.
const MARKS: [&str; 3] = ["containers", "image", "volumes"];

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
    if home.starts_with(&root)
        || !MARKS
            .iter()
            .all(|mark| names.iter().any(|name| name == mark))
    {
        return Err(refuse("it does not look like one"));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounts = Mounts::parse(&mounts);
    let inside = |point: &&Path| point.starts_with(&root) && *point != root;
    if let Some(point) = mounts.0.iter().map(|mount| &*mount.point).find(inside) {
        return Err(refuse(&format!("`{}` is mounted in it", point.display())));
    }
    let is_own = |name: &&OsString| ENTRIES.iter().any(|own| *name == *own);
    let own: Vec<PathBuf> = names
        .iter()
        .filter(is_own)
        .map(|name| root.join(name))
        .collect();
    let said = inside_namespace(facts, &root, "du", &["-sk", "--"], &own)?;
    let sizes = said.lines().filter_map(|line| {
        let (size, path) = line.split_once('\t')?;
        Some((PathBuf::from(path), size.parse().ok()?))
    });
    let entries: Vec<(PathBuf, u64)> = sizes.collect();
    match entries.len() == own.len() {
        true => Ok(Some(Data {
            is_shared: own.len() < names.len(),
            entries,
            root,
        })),
        false => Err(no_way(&root, &io::Error::other(said.trim().to_owned()))),
    }
}

/// Deletes `entries` of the data root `root`, and that too if it is empty then.
///
/// # Errors
/// Exit 4 if no user namespace can be entered; what `rm` says.
pub fn delete(facts: &SetupFacts, root: &Path, entries: &[PathBuf]) -> Result<(), Error> {
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
        return Err(no_way(
            root,
            &io::Error::other("rootlesskit is not in PATH"),
        ));
    };
    let mut command = Command::new(rootlesskit);
    command
        .env("PATH", &facts.search_path)
        .arg(program)
        .args(words)
        .args(paths);
    process::succeed(&mut command, LATER).map_err(|error| no_way(root, &error))
}

fn no_way(root: &Path, error: &io::Error) -> Error {
    let what = format!(
        "the data in `{}` cannot be reached: they belong to subordinate ids",
        root.display()
    );
    Error::new(Exit::Prerequisite, what)
        .because(error)
        .hint(format!(
            "dockerd-rootless check; or have root delete them: sudo rm -rf --one-file-system {}",
            shown(root)
        ))
}

fn shown(path: &Path) -> String {
    crate::words::quote(path.as_os_str())
        .to_string_lossy()
        .into_owned()
}
