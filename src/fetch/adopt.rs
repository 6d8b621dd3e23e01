//! Programs that lay in the user's directory before ours: they become a set of their own, and come
//! back as they were.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::error::Error;
use crate::fetch::archive::sum_of;
use crate::fetch::failpoint;
use crate::fetch::manifest::Manifest;
use crate::fetch::programs::all_names;
use crate::fetch::state::State;
use crate::fetch::store::{Place, Store, beside, failed, make_dir, remove_if_there, replace_link};
use crate::sys::files;

/// In a set of adopted programs: what is put back as it was.
const RESTORE: &str = ".restore";

impl Store {
    /// Makes a set of all that `bin_dir` has of our names now. Those of somebody else are kept as
    /// they were, to be put back one day.
    ///
    /// # Errors
    /// Names what cannot be copied.
    pub fn adopt(&self, bin_dir: &Path, foreign: &[&'static str]) -> Result<String, Error> {
        let staging = self.stage()?;
        let restore = staging.path().join(RESTORE);
        make_dir(&restore, 0o755)?;
        let mut manifest = Manifest::default();
        for name in all_names() {
            let path = bin_dir.join(name);
            let staged = staging.path().join(name);
            let kept = if foreign.contains(&name) {
                let kept = restore.join(name);
                keep(&path, &kept).map_err(|error| failed(&path, "cannot be kept", &error))?;
                match fs::read_link(&kept) {
                    Ok(target) => symlink(bin_dir.join(target), &staged),
                    Err(_) => keep(&kept, &staged),
                }
            } else if path.exists() {
                let real = path.canonicalize();
                real.and_then(|real| keep(&real, &staged))
            } else {
                continue;
            };
            kept.map_err(|error| failed(&path, "cannot be kept", &error))?;
            // What a link leads to is not ours to vouch for.
            if !staged.is_symlink() {
                let (mut file, _) = files::open_regular(&staged)
                    .map_err(|error| failed(&path, "cannot be read", &error))?;
                let sum =
                    sum_of(&mut file).map_err(|error| failed(&path, "cannot be read", &error))?;
                manifest.programs.insert(name.to_owned(), sum);
            }
        }
        let (name, _) = self.place(staging, "adopted", &manifest)?;
        failpoint::pass("adopted-placed");
        Ok(name)
    }

    /// Puts links of ours in the places of `foreign`, which the set in use holds as well.
    ///
    /// # Errors
    /// Names what cannot be replaced.
    pub fn take_places(&self, bin_dir: &Path, foreign: &[&'static str]) -> Result<(), Error> {
        for name in foreign {
            replace_link(&bin_dir.join(name), &self.link_text(name))?;
            failpoint::pass("adopted-link");
        }
        Ok(())
    }

    /// Puts what was adopted back, or shows that nothing is there: programs switch at once.
    ///
    /// # Errors
    /// Names what cannot be changed.
    pub fn restore(&self, state: &State) -> Result<(), Error> {
        let adopted = state.adopted.iter().rev().filter(|name| self.set(name).is_dir());
        let adopted: Vec<&String> = adopted.collect();
        match adopted.first() {
            Some(last) => self.point("current", last)?,
            None => remove_if_there(&self.root.join("current"))?,
        }
        failpoint::pass("remove-switched");
        for name in all_names() {
            let path = state.bin_dir.join(name);
            if self.look(&state.bin_dir, name) != Place::Ours {
                continue;
            }
            let kept = adopted.iter().map(|set| self.set(set).join(RESTORE).join(name));
            let kept = kept.into_iter().find(|kept| kept.symlink_metadata().is_ok());
            match kept {
                Some(kept) => put_back(&kept, &path)
                    .map_err(|error| failed(&path, "cannot be put back", &error))?,
                None => remove_if_there(&path)?,
            }
            failpoint::pass("remove-links");
        }
        Ok(())
    }

    /// What [`Store::restore`] would put back.
    pub fn kept(&self, state: &State) -> Vec<&'static str> {
        let is_kept = |name: &&str| {
            let mut sets = state.adopted.iter();
            sets.any(|set| self.set(set).join(RESTORE).join(name).symlink_metadata().is_ok())
        };
        all_names().filter(is_kept).collect()
    }
}

/// Makes `to` the same as `from`: the very same file where the file system can, else a copy.
fn keep(from: &Path, to: &Path) -> io::Result<()> {
    if let Ok(target) = fs::read_link(from) {
        return symlink(target, to);
    }
    fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(drop))
}

/// Moves `kept` over `path`, in one step.
fn put_back(kept: &Path, path: &Path) -> io::Result<()> {
    // Of two names of one file the one with the link over it stays: a copy that is moved works
    // everywhere, and a file system of its own is rare.
    fs::rename(kept, path).or_else(|_| {
        let beside = beside(path);
        let _ = fs::remove_file(&beside);
        keep(kept, &beside).and_then(|()| fs::rename(&beside, path))
    })
}
