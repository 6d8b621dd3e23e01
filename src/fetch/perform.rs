//! Looks at what is installed, and performs what was planned.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::fetch::archive::{Sums, sum_of, unpack};
use crate::fetch::checksum::Sum;
use crate::fetch::download::Client;
use crate::fetch::plan::{self, Action, BEFORE, Facts, ShellFile, Source, Tarball, There};
use crate::fetch::store::{
    Manifest, Store, aside, failed, link, make_dir, remove_if_there, remove_tree,
};
use crate::fetch::{OWN, SCRIPTS, all_names, shell_files};
use crate::sys::files;

/// Where everything goes.
pub struct Places {
    pub store: Store,
    pub downloads: PathBuf,
}

impl Places {
    /// Finds them below the home.
    pub fn find(environment: &Environment) -> Result<Self, Error> {
        let Some(data) = environment.data_home() else {
            let what = "there is no place for programs: HOME is not set";
            return Err(Error::new(Exit::Failed, what).hint("export HOME=~"));
        };
        let root = data.join(OWN);
        let cache = environment.cache_home().map_or_else(|| root.clone(), |home| home.join(OWN));
        Ok(Self { store: Store { root }, downloads: cache.join("downloads") })
    }

    /// Looks at what is installed in `bin_dir`, unless the state says where the links are.
    pub fn look(&self, bin_dir: Option<&Path>) -> Result<Facts, Error> {
        let store = &self.store;
        store.refuse_earlier()?;
        let state = store.read_state()?;
        let known = state.as_ref().map(|state| state.bin_dir.clone());
        let bin_dir = bin_dir.map(Path::to_owned).or(known).unwrap_or_default();
        let ours = |name: &&str| store.look(&aside(&bin_dir, name), name) == There::Program;
        // Without a state nothing outside is ours.
        let names = || all_names().filter(|_| bin_dir.is_absolute());
        let edited = state.iter().flat_map(|state| &state.shell_files);
        Ok(Facts {
            has_store: store.root.symlink_metadata().is_ok(),
            current: store.set_at("current"),
            previous: store.set_at("previous"),
            sets: store.sets(),
            leftovers: store.leftovers(),
            programs: names().map(|name| (name, store.look(&bin_dir.join(name), name))).collect(),
            aside: names().filter(ours).collect(),
            edited: edited.filter(|file| shell_files::has_traces(file)).cloned().collect(),
            downloads: Some(self.downloads.clone()).filter(|downloads| downloads.is_dir()),
            store: store.root.clone(),
            bin_dir,
            state,
            ..Facts::default()
        })
    }

    /// Adds what a fetch of `tarballs` has to know.
    pub fn look_for(
        &self,
        facts: &mut Facts,
        tarballs: &[Tarball; 2],
        shell_files: impl IntoIterator<Item = PathBuf>,
    ) -> Result<(), Error> {
        let own = File::open("/proc/self/exe").and_then(|file| sum_of(&file));
        let own =
            own.map_err(|error| failed(Path::new("/proc/self/exe"), "cannot be read", &error))?;
        let sums =
            tarballs.iter().map(|tarball| Some((tarball.file.clone(), tarball.sum.clone()?.0)));
        if let Some(archives) = sums.collect::<Option<Sums>>() {
            facts.ready = self.store.find(&archives, &Sums::from([(OWN.to_owned(), own)]));
        }
        let directory = facts.bin_dir.to_str().unwrap_or_default();
        let lacking = shell_files.into_iter().filter(|file| shell_files::lacks(file, directory));
        let file = |path: PathBuf| ShellFile { created: path.symlink_metadata().is_err(), path };
        facts.lacking = lacking.map(file).collect();
        Ok(())
    }
}

/// Undoes all that `fetch` did, and returns what that was, or with `dry_run` would be: one line each.
pub fn remove(environment: &Environment, dry_run: bool) -> Result<Vec<String>, Error> {
    let places = Places::find(environment)?;
    let has_store = places.store.root.symlink_metadata().is_ok();
    let _lock = if has_store && !dry_run { Some(places.store.lock()?) } else { None };
    let facts = places.look(None)?;
    let mut performer = Performer::new(&places, &facts, None);
    let mut done = Vec::new();
    for action in plan::remove(&facts) {
        if dry_run || performer.perform(&action)? {
            done.push(action.explain(!dry_run));
        }
    }
    Ok(done)
}

/// Performs actions.
pub struct Performer<'a> {
    places: &'a Places,
    bin_dir: &'a Path,
    client: Option<&'a Client>,
    /// The tarballs that are here and checked.
    tarballs: Vec<(Tarball, File, Sum)>,
    /// The set that was unpacked.
    set: Option<String>,
}

impl<'a> Performer<'a> {
    pub fn new(places: &'a Places, facts: &'a Facts, client: Option<&'a Client>) -> Self {
        Self { places, bin_dir: &facts.bin_dir, client, tarballs: Vec::new(), set: None }
    }

    /// Returns the set that was unpacked or switched to.
    pub fn set(self) -> Option<String> {
        self.set
    }

    /// Performs `action`, and says whether it changed anything.
    pub fn perform(&mut self, action: &Action) -> Result<bool, Error> {
        let store = &self.places.store;
        match action {
            Action::Clean(leftovers) => leftovers.iter().try_for_each(|path| remove_tree(path))?,
            Action::Get(tarball) => self.get(tarball)?,
            Action::Unpack(version) => {
                let unpacked = self.unpack(&version.to_string());
                // What is refused once is not worth keeping.
                if unpacked.as_ref().map_or_else(|error| error.exit() == Exit::Integrity, |_| true)
                {
                    let _ = fs::remove_dir_all(&self.places.downloads);
                }
                if unpacked.is_err() {
                    remove_tree(&store.root.join("staging"))?;
                }
                let (set, is_new) = unpacked?;
                self.set = Some(set);
                return Ok(is_new);
            }
            Action::Record(state) => store.write_state(state)?,
            Action::SetAside(names) => self.set_aside(names)?,
            Action::Use(set, _) => return self.activate(set.as_ref()),
            Action::AddToPath(file, bin_dir) => {
                return Ok(shell_files::add(file, bin_dir.to_str().unwrap_or_default()));
            }
            Action::Prune(sets) => {
                let used = ["current", "previous"].map(|link| store.set_at(link));
                let unused =
                    sets.iter().filter(|set| !used.iter().flatten().any(|used| used == *set));
                unused.into_iter().try_for_each(|set| store.remove_set(set))?;
            }
            Action::PutBack(names) => {
                store.point_at_aside(self.bin_dir, names)?;
                for name in names {
                    let path = self.bin_dir.join(name);
                    fs::rename(aside(self.bin_dir, name), &path)
                        .map_err(|error| failed(&path, "cannot be put back", &error))?;
                }
            }
            Action::Unlink(names) => {
                if store.set_at("current").as_deref() != Some(BEFORE) {
                    remove_if_there(&store.root.join("current"))?;
                }
                names.iter().try_for_each(|name| remove_if_there(&self.bin_dir.join(name)))?;
            }
            Action::RemoveFromPath(file) => return Ok(shell_files::remove(file)),
            Action::DeleteStore(_) => {
                // An interrupted run may have left a link where it would have set a program aside.
                for name in all_names() {
                    let aside = aside(self.bin_dir, name);
                    if store.look(&aside, name) == There::OurLink {
                        remove_if_there(&aside)?;
                    }
                }
                store.remove()?;
            }
            Action::DeleteDownloads(downloads) => {
                remove_tree(downloads)?;
                let _ = downloads.parent().map(fs::remove_dir);
            }
            Action::Install(args) => return Err(self.install(args)),
        }
        Ok(true)
    }

    fn get(&mut self, tarball: &Tarball) -> Result<(), Error> {
        let expected = tarball.sum.as_ref().map(|(sum, _)| sum);
        let (file, sum) = match (&tarball.source, self.client) {
            (Source::Server(url), Some(client)) => {
                make_dir(&self.places.downloads, 0o700)?;
                client.tarball(url, &self.places.downloads.join(&tarball.file), expected)?
            }
            (Source::Server(_), None) => return Ok(()),
            (Source::File(path), _) => read(path, expected)?,
        };
        self.tarballs.push((tarball.clone(), file, sum));
        Ok(())
    }

    /// Makes a set of both tarballs, and returns its name and whether there was none.
    fn unpack(&self, version: &str) -> Result<(String, bool), Error> {
        let store = &self.places.store;
        let staging = store.stage()?;
        let open = File::open(&staging);
        let directory = &open.map_err(|error| failed(&staging, "cannot be opened", &error))?;
        let results: Vec<Result<Sums, Error>> = thread::scope(|scope| {
            let jobs = self.tarballs.iter().map(|(tarball, file, sum)| {
                scope.spawn(move || unpack(file, &tarball.file, tarball.package, sum, directory))
            });
            let jobs: Vec<_> = jobs.collect();
            let panicked = |_| Err(Error::new(Exit::Failed, "unpacking ended too early"));
            jobs.into_iter().map(|job| job.join().unwrap_or_else(panicked)).collect()
        });
        let archives = self.tarballs.iter();
        let archives = archives.map(|(tarball, _, sum)| (tarball.file.clone(), sum.clone()));
        let mut manifest = Manifest { archives: archives.collect(), programs: Sums::new() };
        for programs in results {
            manifest.programs.extend(programs?);
        }
        manifest.programs.insert(OWN.to_owned(), copy_ourselves(&staging.join(OWN))?);
        SCRIPTS.iter().try_for_each(|script| link(&staging, script, Path::new(OWN)))?;
        store.place(version, &manifest)
    }

    fn set_aside(&self, names: &[&'static str]) -> Result<(), Error> {
        let store = &self.places.store;
        make_dir(self.bin_dir, 0o755)?;
        if store.set_at("current").is_none_or(|set| set == BEFORE) {
            let is_aside =
                |name: &&str| store.look(&aside(self.bin_dir, name), name) == There::Program;
            let all = all_names().filter(|name| names.contains(name) || is_aside(name));
            store.point_at_aside(self.bin_dir, &all.collect::<Vec<_>>())?;
        }
        names.iter().try_for_each(|name| store.set_aside(self.bin_dir, name))
    }

    /// Switches to `set`, or to the one that was unpacked. That goes again if it cannot be used.
    fn activate(&mut self, set: Option<&String>) -> Result<bool, Error> {
        let store = &self.places.store;
        let Some(target) = set.or(self.set.as_ref()) else {
            return Ok(false);
        };
        let before = store.set_at("current");
        let activated = store.activate(self.bin_dir, target);
        if activated.is_err() && store.set_at("current").as_ref() != Some(target) && set.is_none() {
            let _ = store.remove_set(target);
        }
        let is_switched = set.is_some() || before.as_ref() != Some(target);
        self.set = Some(target.clone());
        activated.map(|()| is_switched)
    }

    /// Becomes the installer of what is now in place.
    fn install(&self, args: &[std::ffi::OsString]) -> Error {
        let program = self.bin_dir.join(OWN);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = [self.bin_dir.to_owned()].into_iter().chain(std::env::split_paths(&path));
        let path = std::env::join_paths(path).unwrap_or_default();
        let error = Command::new(&program).args(args).env("PATH", path).exec();
        Error::new(Exit::CannotRun, format!("`{}` cannot be run", program.display()))
            .because(&error)
    }
}

/// Opens a tarball that is here, and returns it with its sum.
fn read(path: &Path, expected: Option<&Sum>) -> Result<(File, Sum), Error> {
    let opened = files::open_regular(path).and_then(|(file, _)| Ok((sum_of(&file)?, file)));
    let (sum, file) = opened.map_err(|error| failed(path, "cannot be read", &error))?;
    match expected {
        Some(expected) if *expected != sum => {
            let path = path.display();
            let what = format!("`{path}` has the SHA-256 sum `{sum}` instead of `{expected}`");
            Err(Error::new(Exit::Integrity, what).hint("nothing was changed; get the file again"))
        }
        _ => Ok((file, sum)),
    }
}

/// Copies this very program to `path`, and returns its sum.
fn copy_ourselves(path: &Path) -> Result<Sum, Error> {
    fs::copy("/proc/self/exe", path)
        .and_then(|_| fs::set_permissions(path, Permissions::from_mode(0o755)))
        .and_then(|()| sum_of(&File::open(path)?))
        .map_err(|error| failed(path, "cannot be written", &error))
}
