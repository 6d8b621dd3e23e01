//! The directory in which sets of programs are side by side, and the links that lead to one of them.
//!
//! A program in the user's directory is a link to `current/NAME`, and `current` is a link to a set. So one
//! rename switches all programs at once, and back. There are never more than two sets: the previous one is
//! the other.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::unistd::{AccessFlags, access};

use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::fetch::{OWN, Version, all_names};
use crate::sys::lock::{Lock, Refusal};
use crate::words;

/// The set of programs that were in the directory before the first fetch.
pub const BEFORE: &str = "before";

/// What is appended to the name of a program that was in the way.
pub const ASIDE: &str = ".before-dockerd-rootless";

/// What is in the place of a link of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum There {
    Nothing,
    OurLink,
    /// A file or link that is not ours.
    Program,
    /// Anything else.
    Other,
}

/// Where everything goes.
pub struct Store {
    pub root: PathBuf,
    /// The directory that has our links already.
    pub linked: Option<PathBuf>,
    /// The directory for links: that one, unless another is asked for.
    pub bin_dir: PathBuf,
}

impl Store {
    pub fn find(environment: &Environment, bin_dir: Option<PathBuf>) -> Result<Self, Error> {
        let root = environment.data_home().map(|data| data.join(OWN)).ok_or_else(|| {
            let what = "there is no place for programs: HOME is not set";
            Error::new(Exit::Failed, what).hint("export HOME=~")
        })?;
        let linked = fs::read_link(root.join("bin")).ok();
        let bin_dir = bin_dir.or_else(|| linked.clone()).unwrap_or_default();
        Ok(Self { root, linked, bin_dir })
    }

    /// Makes our directory if it is missing, and locks it without waiting. Deletes what interrupted runs left.
    pub fn lock(&self) -> Result<Lock, Error> {
        make_dir(&self.root, 0o700)?;
        let path = self.root.join("lock");
        let lock = match Lock::take(&path) {
            Err(Refusal::Failed(error)) => return at(&path, Err(error)),
            Err(Refusal::Held(pid)) => {
                let holder =
                    pid.map_or("another process".to_owned(), |pid| format!("process {pid}"));
                let what = format!("{holder} is fetching or removing programs already");
                let hint = "wait until it has ended, then run this again";
                return Err(Error::new(Exit::AlreadyRunning, what).hint(hint));
            }
            Ok(lock) => lock,
        };
        for name in ["staging", "trash", "download", "new-link"] {
            remove_tree(&self.root.join(name))?;
        }
        for name in self.names(There::OurLink, ASIDE) {
            remove_tree(&self.aside(name))?;
        }
        Ok(lock)
    }

    /// Returns the set in use.
    pub fn current(&self) -> Option<String> {
        let target = fs::read_link(self.root.join("current")).ok()?;
        let name = target.strip_prefix("versions").ok()?.to_str()?.to_owned();
        self.set(&name).is_dir().then_some(name)
    }

    /// Returns where the set `name` is.
    pub fn set(&self, name: &str) -> PathBuf {
        self.root.join("versions").join(name)
    }

    /// Lists all sets but those that `keep` names. What is not named like a set is none.
    pub fn sets_but(&self, keep: &[Option<&str>]) -> Vec<String> {
        let entries = fs::read_dir(self.root.join("versions")).into_iter().flatten().flatten();
        let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let names = directories.filter_map(|entry| entry.file_name().into_string().ok());
        let is_set = |name: &str| {
            let parts = name.rsplit_once('-');
            name == BEFORE || parts.is_some_and(|(version, _)| Version::parse(version).is_some())
        };
        names.filter(|name| is_set(name) && !keep.contains(&Some(name))).collect()
    }

    /// Returns the place of a link of ours.
    pub fn bin(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }

    /// Returns where the program `name` is while ours is in its place.
    pub fn aside(&self, name: &str) -> PathBuf {
        self.bin_dir.join(format!("{name}{ASIDE}"))
    }

    fn link_text(&self, name: &str) -> PathBuf {
        self.root.join("current").join(name)
    }

    /// Lists the names of ours with this in their place, if `suffix` is appended.
    pub fn names(&self, there: There, suffix: &str) -> Vec<&'static str> {
        let look = |name: &str| self.look(&self.bin_dir.join(format!("{name}{suffix}")), name);
        // Without a directory for links nothing outside is ours.
        all_names().filter(|name| self.bin_dir.is_absolute() && look(name) == there).collect()
    }

    fn look(&self, path: &Path, name: &str) -> There {
        match path.symlink_metadata() {
            Err(_) => There::Nothing,
            Ok(_) if fs::read_link(path).is_ok_and(|text| text == self.link_text(name)) => {
                There::OurLink
            }
            Ok(there) if there.is_file() || there.is_symlink() => There::Program,
            Ok(_) => There::Other,
        }
    }

    /// Makes `staging` the set `name`, written to the disk before anything leads to it.
    pub fn place(&self, name: &str) -> Result<(), Error> {
        let (staging, place) = (self.root.join("staging"), self.set(name));
        make_dir(&self.root.join("versions"), 0o755)?;
        let renamed = sync(&staging).and_then(|()| fs::rename(&staging, &place));
        at(&place, renamed.and_then(|()| sync(&self.root.join("versions"))))
    }

    /// Makes `set` the current one: links first, which lead nowhere or to the old set until one rename; then
    /// links of programs that it lacks go.
    pub fn switch(&self, set: &str) -> Result<(), Error> {
        self.record()?;
        for name in self.names(There::Nothing, "") {
            if self.set(set).join(name).exists() {
                link(&self.bin(name), &self.link_text(name))?;
            }
        }
        self.point("current", &Path::new("versions").join(set))?;
        let mut links = self.names(There::OurLink, "").into_iter();
        links.try_for_each(|name| match self.link_text(name).exists() {
            true => Ok(()),
            false => remove_tree(&self.bin(name)),
        })
    }

    /// Notes where links are, before there are any.
    fn record(&self) -> Result<(), Error> {
        make_dir(&self.bin_dir, 0o755)?;
        self.point("bin", &self.bin_dir)
    }

    /// Points the link `name` at `target`, in one step.
    fn point(&self, name: &str, target: &Path) -> Result<(), Error> {
        let new = self.root.join("new-link");
        link(&new, target)?;
        at(&self.root, fs::rename(&new, self.root.join(name)).and_then(|()| sync(&self.root)))
    }

    /// Puts links in the places of programs, which are renamed. They stay in use as a set, so that all
    /// switch at once.
    pub fn set_aside(&self, names: &[&str]) -> Result<(), Error> {
        self.record()?;
        if self.current().is_none_or(|set| set == BEFORE) {
            self.use_aside(names)?;
        }
        for name in names {
            let (path, aside) = (self.bin(name), self.aside(name));
            remove_tree(&aside)?;
            link(&aside, &self.link_text(name))?;
            // In one step, if the file system can.
            let exchange = RenameFlags::RENAME_EXCHANGE;
            if renameat2(AT_FDCWD, &aside, AT_FDCWD, &path, exchange).is_err() {
                at(&path, fs::rename(&path, &aside))?;
                link(&path, &self.link_text(name))?;
            }
        }
        Ok(())
    }

    /// Makes the set of programs that are or will be set aside the current one.
    fn use_aside(&self, names: &[&str]) -> Result<(), Error> {
        let before = self.set(BEFORE);
        make_dir(&before, 0o755)?;
        for name in names {
            remove_tree(&before.join(name))?;
            link(&before.join(name), &self.aside(name))?;
        }
        self.point("current", &Path::new("versions").join(BEFORE))
    }

    /// Renames programs back that were set aside.
    pub fn put_back(&self, names: &[&str]) -> Result<(), Error> {
        self.use_aside(names)?;
        names
            .iter()
            .try_for_each(|name| at(&self.bin(name), fs::rename(self.aside(name), self.bin(name))))
    }

    /// Removes links of ours, of which all lead nowhere first.
    pub fn unlink(&self, names: &[&str]) -> Result<(), Error> {
        if self.current().as_deref() != Some(BEFORE) {
            remove_tree(&self.root.join("current"))?;
        }
        names.iter().try_for_each(|name| remove_tree(&self.bin(name)))
    }

    /// Removes the set `name`, which vanishes in one step.
    pub fn remove_set(&self, name: &str) -> Result<(), Error> {
        let trash = self.root.join("trash");
        at(&self.root, fs::rename(self.set(name), &trash))?;
        remove_tree(&trash)
    }

    /// Removes all that is ours. Files that are not ours keep their directory.
    pub fn remove(&self) -> Result<(), Error> {
        remove_tree(&self.root.join("current"))?;
        self.sets_but(&[]).iter().try_for_each(|set| self.remove_set(set))?;
        let _ = fs::remove_dir(self.root.join("versions"));
        ["bin", "lock"].iter().try_for_each(|name| remove_tree(&self.root.join(name)))?;
        let _ = fs::remove_dir(&self.root);
        Ok(())
    }
}

/// Adds to a failure which file it is about, and a command that shows more.
pub fn at<T>(path: &Path, result: io::Result<T>) -> Result<T, Error> {
    result.map_err(|error| {
        let place = words::quoted(path.parent().unwrap_or(path));
        let hint = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => format!("df -h {place}"),
            _ => format!("ls -ld {place}"),
        };
        let what = format!("cannot use `{}`", path.display());
        Error::new(Exit::Failed, what).because(&error).hint(hint)
    })
}

fn link(path: &Path, target: &Path) -> Result<(), Error> {
    at(path, symlink(target, path))
}

/// Makes a directory and those above it, if they are missing.
pub fn make_dir(path: &Path, mode: u32) -> Result<(), Error> {
    at(path, DirBuilder::new().recursive(true).mode(mode).create(path))
}

/// Fails if `path`, or the part of it that exists, cannot be written: before anything is downloaded.
pub fn check_writable(path: &Path) -> Result<(), Error> {
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let allowed = access(&there.join("."), AccessFlags::W_OK | AccessFlags::X_OK);
    at(there, allowed.map_err(io::Error::from))
}

/// Removes a file, a link or a directory with all that is in it, if it is there.
pub fn remove_tree(path: &Path) -> Result<(), Error> {
    at(
        path,
        match path.symlink_metadata() {
            Ok(there) if there.is_dir() => fs::remove_dir_all(path),
            Ok(_) => fs::remove_file(path),
            Err(_) => Ok(()),
        },
    )
}

/// Writes a file or a directory to the disk.
pub fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_set_of_ours_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let home = directory.path().to_str().expect("UTF-8");
        let environment = Environment::from_iter([("HOME", home)]);
        let store = Store::find(&environment, None).expect("places");
        for set in ["29.1.0-0123abcd", "before", "photos", "../../29.1.0-0123abcd"] {
            let program = store.set(set).join("dockerd");
            fs::create_dir_all(program.parent().expect("a parent")).expect("a directory");
            fs::write(program, "program").expect("a file");
        }
        symlink("../../29.1.0-0123abcd", store.set("29.2.0-0123abcd")).expect("a link");
        store.remove().expect("removed");
        let entries = fs::read_dir(store.root.join("versions")).expect("sets").flatten();
        let mut left: Vec<_> = entries.map(|entry| entry.file_name()).collect();
        left.sort();
        assert_eq!(left, ["29.2.0-0123abcd", "photos"]);
        assert!(store.set("../../29.1.0-0123abcd/dockerd").exists());
    }
}
