//! The directory in which sets of programs lie side by side, and the links that lead to one of them.
//!
//! A program in the user's directory is a link to `current/NAME`, and `current` is a link to a set.
//! So one rename switches all programs at once, and back.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::unistd::{AccessFlags, access};
use sha2::{Digest, Sha256};

use crate::error::{Error, Exit};
use crate::fetch::Sum;
use crate::fetch::archive::sum_of;
use crate::fetch::failpoint;
use crate::fetch::lock::Lock;
use crate::fetch::manifest::{Manifest, set_name};
use crate::fetch::programs::all_names;
use crate::fetch::state::{State, Switching};
use crate::sys::files;
use crate::words;

/// The name of a set's manifest.
const MANIFEST: &str = "manifest";

/// The largest manifest in bytes.
const MANIFEST_MAX: u64 = 64 * 1024;

/// The prefix of what is not finished.
const STAGING: &str = "staging-";

/// Our directory.
#[derive(Clone, Debug)]
pub struct Store {
    pub(super) root: PathBuf,
}

/// What lies in the place of a link of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Empty,
    Ours,
    Foreign,
}

/// A directory below the store that goes with this value, unless it was made a set.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

impl Staging {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open directory, for writing below it whatever becomes of its name.
    ///
    /// # Errors
    /// Names it.
    pub fn open(&self) -> Result<File, Error> {
        File::open(&self.path).map_err(|error| failed(&self.path, "cannot be opened", &error))
    }
}

impl Store {
    /// The one at `root`, which need not be there.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Whether there is anything.
    pub fn exists(&self) -> bool {
        self.root.symlink_metadata().is_ok()
    }

    /// Makes our directory if it is missing, and takes the lock in it.
    ///
    /// # Errors
    /// Exit 5 if another process has it; exit 1 names what cannot be made.
    pub fn lock(&self) -> Result<Lock, Error> {
        make_dir(&self.root, 0o700)?;
        Lock::take(&self.root.join("lock"))
    }

    /// What was done outside.
    ///
    /// # Errors
    /// As [`State::read`].
    pub fn read_state(&self) -> Result<Option<State>, Error> {
        State::read(&self.root.join("state.json"))
    }

    /// Notes what is about to be done outside.
    ///
    /// # Errors
    /// As [`State::write`].
    pub fn write_state(&self, state: &State) -> Result<(), Error> {
        state.write(&self.root.join("state.json"))
    }

    /// The set that is in use.
    pub fn current(&self) -> Option<String> {
        self.set_at("current")
    }

    /// The set that was in use before.
    pub fn previous(&self) -> Option<String> {
        self.set_at("previous")
    }

    fn set_at(&self, link: &str) -> Option<String> {
        let target = fs::read_link(self.root.join(link)).ok()?;
        let name = target.strip_prefix("versions").ok()?.to_str()?.to_owned();
        self.set(&name).is_dir().then_some(name)
    }

    /// Where the set `name` is.
    pub fn set(&self, name: &str) -> PathBuf {
        self.root.join("versions").join(name)
    }

    /// Ends what a killed run began: a switch that was made is made known, and what was not
    /// finished is removed.
    ///
    /// # Errors
    /// Names what cannot be changed.
    pub fn recover(&self) -> Result<Option<State>, Error> {
        let mut state = self.read_state()?;
        if let Some(state) = &mut state
            && let Some(switching) = state.switching.take()
        {
            if self.current().as_ref() == Some(&switching.to)
                && let Some(from) = &switching.from
                && *from != switching.to
            {
                self.point("previous", from)?;
            }
            self.write_state(state)?;
        }
        for entry in fs::read_dir(&self.root).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if name.to_string_lossy().starts_with(STAGING) {
                let path = entry.path();
                let removed = if path.is_dir() && !path.is_symlink() {
                    fs::remove_dir_all(&path)
                } else {
                    fs::remove_file(&path)
                };
                removed.map_err(|error| failed(&path, "cannot be removed", &error))?;
            }
        }
        Ok(state)
    }

    /// A new empty directory.
    ///
    /// # Errors
    /// Names it.
    pub fn stage(&self) -> Result<Staging, Error> {
        let path = self.root.join(format!("{STAGING}{}", std::process::id()));
        make_dir(&path, 0o755)?;
        failpoint::pass("staging-made");
        Ok(Staging { path })
    }

    /// Makes the staged programs a set, named for `version` and what they are, and returns the name;
    /// an equal one that is there and in order stays. Whether there was none.
    ///
    /// # Errors
    /// Names what cannot be written or moved.
    pub fn place(
        &self,
        staging: Staging,
        version: &str,
        manifest: &Manifest,
    ) -> Result<(String, bool), Error> {
        let text = manifest.render();
        let name = set_name(version, &Sum(Sha256::digest(&text).into()));
        let place = self.set(&name);
        let file = staging.path.join(MANIFEST);
        fs::write(&file, &text).map_err(|error| failed(&file, "cannot be written", &error))?;
        sync(&staging.path)?;
        make_dir(&self.root.join("versions"), 0o755)?;
        let is_there = place.symlink_metadata().is_ok();
        if is_there && self.is_whole(&name) {
            return Ok((name, false));
        }
        // Damaged: the new one takes its place at once, and the old one goes with the staging.
        let moved = if is_there {
            renameat2(AT_FDCWD, &staging.path, AT_FDCWD, &place, RenameFlags::RENAME_EXCHANGE)
                .map_err(io::Error::from)
        } else {
            fs::rename(&staging.path, &place)
        };
        moved.map_err(|error| failed(&place, "cannot be put into its place", &error))?;
        sync_dir(&self.root.join("versions"))?;
        failpoint::pass("set-placed");
        Ok((name, true))
    }

    /// What the manifest of the set `name` says.
    pub fn manifest(&self, name: &str) -> Option<Manifest> {
        let bytes = files::read_regular(&self.set(name).join(MANIFEST), MANIFEST_MAX).ok()??;
        Manifest::parse(&String::from_utf8(bytes).ok()?)
    }

    /// Whether every program of the set `name` is what its manifest says.
    pub fn is_whole(&self, name: &str) -> bool {
        let set = self.set(name);
        let matches = |program: &str, sum: &Sum| {
            let (mut file, _) = files::open_regular(&set.join(program)).ok()?;
            Some(sum_of(&mut file).ok()? == *sum)
        };
        self.manifest(name).is_some_and(|manifest| {
            let mut programs = manifest.programs.iter();
            programs.all(|(program, sum)| matches(program, sum) == Some(true))
        })
    }

    /// The names that the set `name` has of those that may be links of ours.
    pub fn programs(&self, name: &str) -> Vec<&'static str> {
        let set = self.set(name);
        let has = |program: &&str| set.join(program).symlink_metadata().is_ok();
        all_names().filter(has).collect()
    }

    /// What the link for `program` says.
    pub(super) fn link_text(&self, program: &str) -> PathBuf {
        self.root.join("current").join(program)
    }

    pub(super) fn look(&self, bin_dir: &Path, program: &str) -> Place {
        let path = bin_dir.join(program);
        match path.symlink_metadata() {
            Err(_) => Place::Empty,
            Ok(_) if fs::read_link(&path).is_ok_and(|text| text == self.link_text(program)) => {
                Place::Ours
            }
            Ok(_) => Place::Foreign,
        }
    }

    /// Which programs in `bin_dir` are links of ours, and lead somewhere.
    pub fn links(&self, bin_dir: &Path) -> Vec<&'static str> {
        let ours = all_names().filter(|name| self.look(bin_dir, name) == Place::Ours);
        ours.filter(|name| bin_dir.join(name).exists()).collect()
    }

    /// Which names of ours in `bin_dir` are somebody else's files.
    ///
    /// # Errors
    /// Names what is in the way and neither a file nor a link.
    pub fn foreign(&self, bin_dir: &Path) -> Result<Vec<&'static str>, Error> {
        let foreign = all_names().filter(|name| self.look(bin_dir, name) == Place::Foreign);
        let foreign: Vec<_> = foreign.collect();
        let odd = foreign.iter().map(|name| bin_dir.join(name)).find(|path| {
            let metadata = path.symlink_metadata();
            metadata.is_ok_and(|metadata| !metadata.is_file() && !metadata.is_symlink())
        });
        match odd {
            None => Ok(foreign),
            Some(path) => {
                let what =
                    format!("`{}` is in the way: it is neither a file nor a link", path.display());
                let hint = format!("mv {} elsewhere", words::quote(path.as_os_str()).display());
                Err(Error::new(Exit::Failed, what).hint(hint))
            }
        }
    }

    /// Makes the set `to` the one in use: links first, which lead nowhere or to the old set until
    /// the one rename; then links of programs that it lacks go.
    ///
    /// # Errors
    /// Names what cannot be changed. The old set is then still in use.
    pub fn activate(&self, state: &mut State, to: &str) -> Result<bool, Error> {
        let bin_dir = state.bin_dir.clone();
        let linked = self.make_links(&bin_dir, to);
        let switched = linked.and_then(|made| {
            failpoint::pass("links-made");
            let from = self.current();
            if from.as_deref() == Some(to) {
                return Ok(made);
            }
            state.switching = Some(Switching { from: from.clone(), to: to.to_owned() });
            self.write_state(state)?;
            self.point("current", to)?;
            failpoint::pass("switched");
            if let Some(from) = from {
                self.point("previous", &from)?;
            }
            failpoint::pass("previous-set");
            state.switching = None;
            self.write_state(state)?;
            Ok(true)
        });
        let dropped = self.drop_dangling(&bin_dir);
        let changed = switched?;
        dropped?;
        failpoint::pass("links-dropped");
        Ok(changed)
    }

    fn make_links(&self, bin_dir: &Path, set: &str) -> Result<bool, Error> {
        let mut made = false;
        for name in self.programs(set) {
            if self.look(bin_dir, name) == Place::Empty {
                let path = bin_dir.join(name);
                symlink(self.link_text(name), &path)
                    .map_err(|error| failed(&path, "cannot be made", &error))?;
                made = true;
                failpoint::pass("link-made");
            }
        }
        Ok(made)
    }

    /// Removes links of ours in `bin_dir` that lead nowhere.
    ///
    /// # Errors
    /// Names what cannot be removed.
    pub fn drop_dangling(&self, bin_dir: &Path) -> Result<(), Error> {
        for name in all_names() {
            let path = bin_dir.join(name);
            let target = self.root.join("current").join(name);
            if self.look(bin_dir, name) == Place::Ours && target.symlink_metadata().is_err() {
                fs::remove_file(&path)
                    .map_err(|error| failed(&path, "cannot be removed", &error))?;
            }
        }
        Ok(())
    }

    /// Points the link `link` at the set `name`, in one step.
    ///
    /// # Errors
    /// Names the link.
    pub fn point(&self, link: &str, name: &str) -> Result<(), Error> {
        replace_link(&self.root.join(link), &Path::new("versions").join(name))?;
        sync_dir(&self.root)
    }

    /// Removes all sets but those in `keep`. What has no manifest of ours is no set.
    ///
    /// # Errors
    /// Names what cannot be removed.
    pub fn prune(&self, keep: &[String]) -> Result<(), Error> {
        let entries = fs::read_dir(self.root.join("versions"));
        for entry in entries.into_iter().flatten().flatten() {
            let (name, path) = (entry.file_name(), entry.path());
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if !is_directory || keep.iter().any(|kept| name == **kept) {
                continue;
            }
            let removed = match name.to_str().and_then(|name| self.manifest(name)) {
                Some(_) => remove_set(&path),
                None => Ok(()),
            };
            removed.map_err(|error| failed(&path, "cannot be removed", &error))?;
            // Whoever was killed before this has left it empty.
            let _ = fs::remove_dir(&path);
        }
        Ok(())
    }

    /// Exchanges the sets in use and before, in one step, and returns the one that is now in use.
    ///
    /// # Errors
    /// Says so if there is none to go back to.
    pub fn roll_back(&self, state: &mut State) -> Result<String, Error> {
        let (Some(current), Some(previous)) = (self.current(), self.previous()) else {
            let what = "there is no earlier version to go back to";
            return Err(
                Error::new(Exit::Failed, what).hint("dockerd-rootless fetch --version VERSION")
            );
        };
        if current == previous {
            let what = format!("the earlier version is `{previous}`, which is in use already");
            return Err(
                Error::new(Exit::Failed, what).hint("dockerd-rootless fetch --version VERSION")
            );
        }
        self.activate(state, &previous)?;
        failpoint::pass("rolled-back");
        Ok(previous)
    }

    /// Removes all that is ours, the state last; the lock must be held. Files that are not ours
    /// keep their directory.
    ///
    /// # Errors
    /// Names what cannot be removed.
    pub fn remove(&self) -> Result<(), Error> {
        for name in ["current", "previous"] {
            remove_if_there(&self.root.join(name))?;
        }
        self.prune(&[])?;
        failpoint::pass("remove-sets");
        let _ = fs::remove_dir(self.root.join("versions"));
        remove_if_there(&self.root.join("state.json"))?;
        remove_if_there(&self.root.join("lock"))?;
        let _ = fs::remove_dir(&self.root);
        Ok(())
    }
}

/// Copies this very program into `directory` under the name `name`.
///
/// # Errors
/// Names what cannot be read or written.
pub fn copy_ourselves(directory: &Path, name: &str) -> Result<Sum, Error> {
    let own = Path::new("/proc/self/exe");
    let to = directory.join(name);
    fs::copy(own, &to)
        .and_then(|_| fs::set_permissions(&to, Permissions::from_mode(0o755)))
        .and_then(|()| sum_of(&mut File::open(&to)?))
        .map_err(|error| failed(&to, "cannot be written", &error))
}

/// The sum of this very program.
///
/// # Errors
/// Fails where `/proc` is not mounted.
pub fn own_sum() -> Result<Sum, Error> {
    let own = Path::new("/proc/self/exe");
    let sum = File::open(own).and_then(|mut file| sum_of(&mut file));
    sum.map_err(|error| failed(own, "cannot be read", &error))
}

/// Makes `name` in `directory` a link to its neighbour `target`.
///
/// # Errors
/// Names the link.
pub fn link_beside(directory: &Path, name: &str, target: &str) -> Result<(), Error> {
    let path = directory.join(name);
    symlink(target, &path).map_err(|error| failed(&path, "cannot be made", &error))
}

/// Makes a directory and those above it, if they are missing.
///
/// # Errors
/// Names it.
pub fn make_dir(path: &Path, mode: u32) -> Result<(), Error> {
    let made = DirBuilder::new().recursive(true).mode(mode).create(path);
    made.map_err(|error| failed(path, "cannot be made", &error))
}

/// Finds out now whether `path`, or what is there of it, can be written to: before anything is
/// downloaded.
///
/// # Errors
/// Names the directory that cannot.
pub fn check_writable(path: &Path) -> Result<(), Error> {
    let there = path.ancestors().find(|path| path.symlink_metadata().is_ok());
    let there = there.unwrap_or(Path::new("/"));
    if !there.is_dir() {
        let error = io::Error::from(io::ErrorKind::NotADirectory);
        return Err(failed(path, "cannot be made", &error));
    }
    let writable = access(there, AccessFlags::W_OK | AccessFlags::X_OK);
    writable.map_err(|error| failed(there, "cannot be written to", &error.into()))
}

/// An error about a file, with a command that shows more.
pub fn failed(path: &Path, what: &str, error: &io::Error) -> Error {
    let quoted = words::quote(path.parent().unwrap_or(path).as_os_str());
    let quoted = quoted.display();
    let hint = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!("make room: df -h {quoted}")
        }
        _ => format!("ls -ld {quoted}"),
    };
    let what = format!("`{}` {what}", path.display());
    Error::new(Exit::Failed, what).because(error).hint(hint)
}

/// Removes what is in a set, and last the manifest, without which nobody would go on with it.
fn remove_set(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            _ if entry.file_name() == MANIFEST => {}
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    fs::remove_file(path.join(MANIFEST))
}

pub(super) fn remove_if_there(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed(path, "cannot be removed", &error))
        }
        _ => Ok(()),
    }
}

/// Makes the link `path` say `text`, whatever file or link was there, in one step.
pub(super) fn replace_link(path: &Path, text: &Path) -> Result<(), Error> {
    let beside = beside(path);
    let _ = fs::remove_file(&beside);
    let replaced = symlink(text, &beside).and_then(|()| fs::rename(&beside, path));
    replaced.map_err(|error| {
        let _ = fs::remove_file(&beside);
        failed(path, "cannot be replaced", &error)
    })
}

/// A name in the same directory that nobody else has.
pub(super) fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{STAGING}dockerd-rootless"));
    path.with_file_name(name)
}

/// Has the kernel write a directory's files, and the directory, before anything leads to them.
fn sync(directory: &Path) -> Result<(), Error> {
    let entries =
        fs::read_dir(directory).map_err(|error| failed(directory, "cannot be read", &error))?;
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_symlink() || path.is_dir() {
            continue;
        }
        let synced = File::open(&path).and_then(|file| file.sync_all());
        synced.map_err(|error| failed(&path, "cannot be written", &error))?;
    }
    sync_dir(directory)
}

fn sync_dir(directory: &Path) -> Result<(), Error> {
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|error| failed(directory, "cannot be written", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_set_of_ours_stays_where_sets_are_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().join("store");
        let write = |path: &Path, text: &[u8]| {
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            fs::write(path, text).expect("a file");
        };
        let manifest = Manifest::default().render();
        for set in ["old", "new", "../../elsewhere"] {
            let set = root.join("versions").join(set);
            write(&set.join("dockerd"), b"program");
            write(&set.join(".restore/dockerd"), b"program");
            write(&set.join(MANIFEST), manifest.as_bytes());
        }
        fs::create_dir(root.join("versions/emptied")).expect("a directory");
        write(&root.join("versions/photos/one.jpg"), b"dear");
        symlink("../../elsewhere", root.join("versions/link")).expect("a link");
        let store = Store::new(root.clone());
        let left = || {
            let entries = fs::read_dir(root.join("versions")).expect("sets").flatten();
            let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
            names.sort();
            names
        };
        store.prune(&["new".to_owned()]).expect("pruned");
        assert_eq!(left(), ["link", "new", "photos"]);
        store.remove().expect("removed");
        assert_eq!(left(), ["link", "photos"]);
        assert!(directory.path().join("elsewhere/dockerd").exists());
    }
}
