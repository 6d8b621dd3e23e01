//! The directory in which sets of programs are side by side, and the links that lead to one of them.
//!
//! A program in the user's directory is a link to `current/NAME`, and `current` is a link to a set.
//! So one rename switches all programs at once, and back.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::unistd::{AccessFlags, access};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Exit};
use crate::fetch::archive::{Sums, sum_of};
use crate::fetch::checksum::Sum;
use crate::fetch::plan::{ASIDE, BEFORE, Ready, State, There};
use crate::fetch::{OWN, all_names};
use crate::sys::files;
use crate::words;

/// The largest file of ours in bytes.
const FILE_MAX: u64 = 1 << 20;

/// What a set holds, and what it was made from. Without this file a directory is no set.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Manifest {
    pub archives: Sums,
    pub programs: Sums,
}

/// Our directory.
pub struct Store {
    pub root: PathBuf,
}

impl Store {
    /// Reads what was done outside.
    pub fn read_state(&self) -> Result<Option<State>, Error> {
        let path = self.root.join("state.json");
        let refuse = |cause: &dyn std::error::Error| {
            let quoted = words::quote(path.as_os_str());
            let quoted = quoted.display();
            let what = format!(
                "`{}` is damaged; remove the links and PATH lines that it lists yourself",
                path.display()
            );
            let hint = format!("mv {quoted} {quoted}.damaged");
            Error::new(Exit::Integrity, what).because(cause).hint(hint)
        };
        match files::read_regular(&path, FILE_MAX) {
            Ok(bytes) => serde_json::from_slice(&bytes.unwrap_or_default())
                .map(Some)
                .map_err(|error| refuse(&error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(refuse(&error)),
        }
    }

    /// Refuses what an earlier build made, whose manifests are text: it alone can put back the
    /// programs that it keeps in its sets.
    pub fn refuse_earlier(&self) -> Result<(), Error> {
        let entries = fs::read_dir(self.root.join("versions")).into_iter().flatten().flatten();
        let is_earlier = |set: &PathBuf| {
            let manifest = files::read_regular(&set.join("manifest"), FILE_MAX).ok().flatten();
            let is_text = manifest.is_some_and(|text| text.starts_with(b"# dockerd-rootless set"));
            is_text || set.join(".restore").symlink_metadata().is_ok()
        };
        let sets: Vec<_> = entries.map(|entry| entry.path()).filter(is_earlier).collect();
        let Some(first) = sets.first() else {
            return Ok(());
        };
        let program = sets.iter().map(|set| set.join(OWN)).find(|program| program.is_file());
        let hint = match program {
            Some(program) => {
                format!("{} fetch --remove", words::quote(program.as_os_str()).display())
            }
            None => format!("ls -lA {}", words::quote(first.as_os_str()).display()),
        };
        let what = format!(
            "`{}` was made by an earlier dockerd-rootless, which alone can remove it",
            self.root.display()
        );
        Err(Error::new(Exit::Failed, what).hint(hint))
    }

    /// Writes what is about to be done outside.
    pub fn write_state(&self, state: &State) -> Result<(), Error> {
        let path = self.root.join("state.json");
        let text = serde_json::to_vec_pretty(state).map_err(io::Error::from);
        let old = fs::metadata(&path).ok();
        text.and_then(|text| files::replace(&path, old.as_ref(), &text))
            .map_err(|error| failed(&path, "cannot be written", &error))
    }

    /// Returns the set that `current` or `previous` leads to.
    pub fn set_at(&self, link: &str) -> Option<String> {
        let target = fs::read_link(self.root.join(link)).ok()?;
        let name = target.strip_prefix("versions").ok()?.to_str()?.to_owned();
        self.set(&name).is_dir().then_some(name)
    }

    /// Returns where the set `name` is.
    pub fn set(&self, name: &str) -> PathBuf {
        self.root.join("versions").join(name)
    }

    /// Returns the names of all sets. What has no manifest of ours is no set, unless it is empty: a
    /// removal that was interrupted leaves that.
    pub fn sets(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root.join("versions")).into_iter().flatten().flatten();
        let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let names = directories.filter_map(|entry| entry.file_name().into_string().ok());
        let is_empty =
            |name: &str| fs::read_dir(self.set(name)).is_ok_and(|mut set| set.next().is_none());
        names.filter(|name| self.manifest(name).is_some() || is_empty(name)).collect()
    }

    fn manifest(&self, set: &str) -> Option<Manifest> {
        let bytes = files::read_regular(&self.set(set).join("manifest"), FILE_MAX).ok()??;
        serde_json::from_slice(&bytes).ok()
    }

    /// Says whether every program of `set` is what its manifest says.
    fn is_whole(&self, set: &str) -> bool {
        let matches = |program: &str, sum: &Sum| {
            let opened = files::open_regular(&self.set(set).join(program));
            opened.and_then(|(file, _)| sum_of(&file)).is_ok_and(|found| found == *sum)
        };
        self.manifest(set).is_some_and(|manifest| {
            manifest.programs.iter().all(|(program, sum)| matches(program, sum))
        })
    }

    /// Finds the set that was made from these `archives` and has these `programs`, undamaged.
    pub fn find(&self, archives: &Sums, programs: &Sums) -> Option<Ready> {
        let has = |set: &String| {
            self.manifest(set).is_some_and(|manifest| {
                let mut programs = programs.iter();
                manifest.archives == *archives
                    && programs.all(|(name, sum)| manifest.programs.get(name) == Some(sum))
            })
        };
        let mut sets = ["current", "previous"].into_iter().filter_map(|link| self.set_at(link));
        let set = sets.find(|set| has(set) && self.is_whole(set))?;
        Some(Ready { programs: self.programs(&set), set })
    }

    fn programs(&self, set: &str) -> Vec<&'static str> {
        let set = self.set(set);
        all_names().filter(|name| set.join(name).symlink_metadata().is_ok()).collect()
    }

    fn link_text(&self, program: &str) -> PathBuf {
        self.root.join("current").join(program)
    }

    /// Says what is at `path`, where a link to `program` would be.
    pub fn look(&self, path: &Path, program: &str) -> There {
        match path.symlink_metadata() {
            Err(_) => There::Nothing,
            Ok(there) if there.is_symlink() => match fs::read_link(path) {
                Ok(text) if text == self.link_text(program) => There::OurLink,
                _ => There::Program,
            },
            Ok(there) if there.is_file() => There::Program,
            Ok(_) => There::Other,
        }
    }

    /// Returns what interrupted runs left: a set, a link or a state that was not finished.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let is_ours = |name: &str| name.starts_with("staging") || name.starts_with("state.json.");
        let left = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_ours));
        left.map(|entry| entry.path()).collect()
    }

    /// Makes a new empty directory for a set, instead of one that is left.
    pub fn stage(&self) -> Result<PathBuf, Error> {
        let path = self.root.join("staging");
        remove_tree(&path)?;
        make_dir(&path, 0o755)?;
        Ok(path)
    }

    /// Makes the staged programs a set, named for `version` and what they are, and returns the name;
    /// an equal one that is there and undamaged stays. Says whether there was none.
    pub fn place(&self, version: &str, manifest: &Manifest) -> Result<(String, bool), Error> {
        let staging = self.root.join("staging");
        let file = staging.join("manifest");
        let text = serde_json::to_vec_pretty(manifest).unwrap_or_default();
        let sum = Sum::of(Sha256::new_with_prefix(&text)).to_string();
        let name = match version {
            BEFORE => version.to_owned(),
            _ => format!("{version}-{}", &sum[..8]),
        };
        fs::write(&file, &text).map_err(|error| failed(&file, "cannot be written", &error))?;
        sync(&staging)?;
        make_dir(&self.root.join("versions"), 0o755)?;
        let place = self.set(&name);
        let is_there = place.symlink_metadata().is_ok();
        let is_new = version == BEFORE || !is_there || !self.is_whole(&name);
        if is_new {
            // A damaged set gives its place to the new one in one step.
            let moved = match is_there {
                true => exchange(&staging, &place).or_else(|_| {
                    fs::remove_dir_all(&place).and_then(|()| fs::rename(&staging, &place))
                }),
                false => fs::rename(&staging, &place),
            };
            moved.map_err(|error| failed(&place, "cannot be replaced", &error))?;
            sync_dir(&self.root.join("versions"))?;
        }
        remove_tree(&staging)?;
        Ok((name, is_new))
    }

    /// Makes `set` the current one: links first, which lead nowhere or to the old set until one
    /// rename; then links of programs that it lacks go. The old set becomes the previous one.
    pub fn activate(&self, bin_dir: &Path, set: &str) -> Result<(), Error> {
        make_dir(bin_dir, 0o755)?;
        let switched = self.make_links(bin_dir, set).and_then(|()| self.switch(set));
        let dropped = self.drop_dangling(bin_dir);
        switched.and(dropped)
    }

    fn make_links(&self, bin_dir: &Path, set: &str) -> Result<(), Error> {
        for name in self.programs(set) {
            let path = bin_dir.join(name);
            if self.look(&path, name) == There::Nothing {
                symlink(self.link_text(name), &path)
                    .map_err(|error| failed(&path, "cannot be made", &error))?;
            }
        }
        Ok(())
    }

    fn switch(&self, set: &str) -> Result<(), Error> {
        let [current, previous] = ["current", "previous"].map(|link| self.root.join(link));
        match self.set_at("current") {
            Some(now) if now == set => return Ok(()),
            Some(now) => {
                self.point("previous", set)?;
                if exchange(&current, &previous).is_err() {
                    self.point("current", set)?;
                    self.point("previous", &now)?;
                }
            }
            None => self.point("current", set)?,
        }
        sync_dir(&self.root)
    }

    /// Points the link `link` at `set`, in one step.
    pub fn point(&self, link: &str, set: &str) -> Result<(), Error> {
        let path = self.root.join(link);
        if self.set_at(link).as_deref() == Some(set) {
            return Ok(());
        }
        let beside = self.root.join("staging-link");
        remove_if_there(&beside)?;
        symlink(Path::new("versions").join(set), &beside)
            .and_then(|()| fs::rename(&beside, &path))
            .map_err(|error| failed(&path, "cannot be replaced", &error))
    }

    fn drop_dangling(&self, bin_dir: &Path) -> Result<(), Error> {
        for name in all_names() {
            let path = bin_dir.join(name);
            let leads_nowhere = self.link_text(name).symlink_metadata().is_err();
            if leads_nowhere && self.look(&path, name) == There::OurLink {
                remove_if_there(&path)?;
            }
        }
        Ok(())
    }

    /// Makes the set of the programs that `names` say, which are set aside or will be, the current
    /// one: so all switch at once.
    pub fn point_at_aside(&self, bin_dir: &Path, names: &[&str]) -> Result<(), Error> {
        let staging = self.stage()?;
        for name in names {
            link(&staging, name, &aside(bin_dir, name))?;
        }
        self.place(BEFORE, &Manifest::default())?;
        self.point("current", BEFORE)?;
        sync_dir(&self.root)
    }

    /// Puts a link in the place of the program `name`, which is renamed, in one step.
    pub fn set_aside(&self, bin_dir: &Path, name: &str) -> Result<(), Error> {
        let [path, aside] = [bin_dir.join(name), aside(bin_dir, name)];
        remove_if_there(&aside)?;
        symlink(self.link_text(name), &aside)
            .and_then(|()| exchange(&path, &aside))
            .or_else(|_| {
                fs::rename(&path, &aside).and_then(|()| symlink(self.link_text(name), &path))
            })
            .map_err(|error| failed(&path, "cannot be renamed", &error))
    }

    /// Removes the set `name`, its manifest last, without which no run would go on with it.
    pub fn remove_set(&self, name: &str) -> Result<(), Error> {
        let set = self.set(name);
        let failed = |error| failed(&set, "cannot be removed", &error);
        for entry in fs::read_dir(&set).map_err(failed)?.flatten() {
            if entry.file_name() != "manifest" {
                remove_tree(&entry.path())?;
            }
        }
        remove_if_there(&set.join("manifest"))?;
        fs::remove_dir(&set).map_err(failed)
    }

    /// Removes all that is ours, the state last. Files that are not ours keep their directory.
    pub fn remove(&self) -> Result<(), Error> {
        for link in ["current", "previous"] {
            remove_if_there(&self.root.join(link))?;
        }
        self.leftovers().iter().try_for_each(|path| remove_tree(path))?;
        self.sets().iter().try_for_each(|set| self.remove_set(set))?;
        let _ = fs::remove_dir(self.root.join("versions"));
        remove_if_there(&self.root.join("state.json"))?;
        remove_if_there(&self.root.join("lock"))?;
        let _ = fs::remove_dir(&self.root);
        Ok(())
    }
}

/// Returns where the program `name` is while ours is in its place.
pub fn aside(bin_dir: &Path, name: &str) -> PathBuf {
    bin_dir.join(format!("{name}{ASIDE}"))
}

/// Makes `name` in `directory` a link to `target`.
pub fn link(directory: &Path, name: &str, target: &Path) -> Result<(), Error> {
    let path = directory.join(name);
    symlink(target, &path).map_err(|error| failed(&path, "cannot be made", &error))
}

/// Exchanges two names in one step. Not every file system can.
fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    Ok(renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE)?)
}

/// Makes a directory and those above it, if they are missing.
pub fn make_dir(path: &Path, mode: u32) -> Result<(), Error> {
    let made = DirBuilder::new().recursive(true).mode(mode).create(path);
    made.map_err(|error| failed(path, "cannot be made", &error))
}

/// Fails if `path`, or the part of it that exists, cannot be written: before anything is downloaded.
pub fn check_writable(path: &Path) -> Result<(), Error> {
    let mut ancestors = path.ancestors();
    let there = ancestors.find(|path| path.symlink_metadata().is_ok()).unwrap_or(Path::new("/"));
    let is_writable = match there.is_dir() {
        true => access(there, AccessFlags::W_OK | AccessFlags::X_OK),
        false => Err(nix::Error::ENOTDIR),
    };
    is_writable.map_err(|error| failed(there, "cannot be written to", &error.into()))
}

/// Returns an error about a file, with a command that shows more.
pub fn failed(path: &Path, what: &str, error: &io::Error) -> Error {
    let quoted = words::quote(path.parent().unwrap_or(path).as_os_str());
    let quoted = quoted.display();
    let hint = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => format!("df -h {quoted}"),
        _ => format!("ls -ld {quoted}"),
    };
    Error::new(Exit::Failed, format!("`{}` {what}", path.display())).because(error).hint(hint)
}

pub fn remove_if_there(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed(path, "cannot be removed", &error))
        }
        _ => Ok(()),
    }
}

/// Removes a file, a link or a directory with all that is in it, if it is there.
pub fn remove_tree(path: &Path) -> Result<(), Error> {
    match fs::symlink_metadata(path) {
        Ok(there) if there.is_dir() => {
            fs::remove_dir_all(path).map_err(|error| failed(path, "cannot be removed", &error))
        }
        _ => remove_if_there(path),
    }
}

/// Writes a directory's files, and the directory, to the disk before anything leads to them.
fn sync(directory: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            sync_dir(&entry.path())?;
        }
    }
    sync_dir(directory)
}

fn sync_dir(path: &Path) -> Result<(), Error> {
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|error| failed(path, "cannot be written", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_set_of_ours_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store { root: directory.path().join("store") };
        let write = |path: &Path, text: &str| {
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            fs::write(path, text).expect("a file");
        };
        for set in ["old", "new", "../../elsewhere"] {
            write(&store.set(set).join("dockerd"), "program");
            write(&store.set(set).join("manifest"), r#"{"archives": {}, "programs": {}}"#);
        }
        fs::create_dir(store.set("emptied")).expect("a directory");
        write(&store.set("photos").join("one.jpg"), "dear");
        write(&store.set("odd").join("manifest"), "not ours");
        symlink("../../elsewhere", store.set("link")).expect("a link");
        store.remove().expect("removed");
        let entries = fs::read_dir(store.root.join("versions")).expect("sets").flatten();
        let mut left: Vec<_> = entries.map(|entry| entry.file_name()).collect();
        left.sort();
        assert_eq!(left, ["link", "odd", "photos"]);
        assert!(directory.path().join("elsewhere/dockerd").exists());
    }

    #[test]
    fn what_an_earlier_build_made_is_refused() {
        for (file, text) in [("manifest", "# dockerd-rootless set 1\n"), (".restore/dockerd", "")] {
            let directory = tempfile::tempdir().expect("a directory");
            let store = Store { root: directory.path().to_owned() };
            assert!(store.refuse_earlier().is_ok());
            let path = store.set("adopted-00").join(file);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            fs::write(path, text).expect("a file");
            let error = store.refuse_earlier().expect_err("refused");
            assert!(error.render().contains("hint: ls -lA "), "{}", error.render());
            fs::write(store.set("adopted-00").join(OWN), "").expect("a file");
            let error = store.refuse_earlier().expect_err("refused").render();
            assert!(error.contains("adopted-00/dockerd-rootless fetch --remove"), "{error}");
        }
    }

    #[test]
    fn a_damaged_state_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store { root: directory.path().to_owned() };
        assert_eq!(store.read_state().expect("none"), None);
        for text in ["", "{", "{\"bin_dir\": 1}"] {
            fs::write(store.root.join("state.json"), text).expect("written");
            let error = store.read_state().expect_err("refused");
            assert_eq!(error.exit(), Exit::Integrity);
            assert!(error.render().contains("state.json"), "{}", error.render());
        }
    }
}
