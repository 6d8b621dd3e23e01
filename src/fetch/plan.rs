//! Plans a run as a list of steps, which `--dry-run` prints and any other run performs.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use sha2::{Digest, Sha256};

use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::fetch::archive::{hexadecimal, sum_of, unpack};
use crate::fetch::download::Client;
use crate::fetch::prove::Found;
use crate::fetch::source::Tarball;
use crate::fetch::store::{ASIDE, Store, There, at, make_dir, remove_tree, sync};
use crate::fetch::{OWN, SCRIPTS, Version, shell_files};
use crate::words;

/// This very program.
pub(super) const OURSELVES: &str = "/proc/self/exe";

/// One thing to do: a verb, its object, and what does it, and says whether that changed anything.
pub type Step<'a> = (&'static str, String, Act<'a>);
type Act<'a> = Box<dyn FnOnce(&mut Made) -> Result<bool, Error> + 'a>;

/// What steps hand on to later ones.
#[derive(Default)]
pub struct Made {
    /// The tarballs that are here, with their sums.
    tarballs: Vec<(File, String)>,
    /// The set that is or will be in use.
    pub set: Option<String>,
    /// The set that was in use before it, if that was another.
    pub(super) replaced: Option<String>,
    /// What `verify` has found before the switch.
    pub(super) earlier: Option<Found>,
    pub is_changed: bool,
}

pub(super) fn step<'a>(
    verb: &'static str,
    object: String,
    act: impl FnOnce(&mut Made) -> Result<bool, Error> + 'a,
) -> Step<'a> {
    (verb, object, Box::new(act))
}

/// Performs `steps`, or does nothing with `dry_run`. Hands what was, or would be, done to `tell`.
pub fn perform(
    steps: Vec<Step<'_>>,
    dry_run: bool,
    mut made: Made,
    mut tell: impl FnMut(String) -> Result<(), Error>,
) -> Result<Made, Error> {
    for (verb, object, act) in steps {
        if dry_run {
            tell(format!("{verb} {object}"))?;
        } else if act(&mut made)? {
            tell(format!("{}ed {object}", verb.trim_end_matches('e')))?;
        } else {
            continue;
        }
        made.is_changed |= !["fetch", "run", "test"].contains(&verb);
    }
    Ok(made)
}

/// Plans to have `version` in use, from `tarballs` unless it is here; and our lines in `shell_files`.
pub fn fetch<'a>(
    store: &'a Store,
    client: &'a Client,
    version: &'a Version,
    tarballs: &'a [Tarball; 2],
    shell_files: Vec<PathBuf>,
) -> Result<(Vec<Step<'a>>, Made), Error> {
    refuse(store)?;
    let sums: Option<Vec<&str>> = tarballs.iter().map(|tarball| tarball.known_sum()).collect();
    let wanted = sums.map(|sums| set_name(version, &sums)).transpose()?;
    let current = store.current();
    let is_ready = wanted.as_ref().is_some_and(|set| store.set(set).exists());
    let mut steps = Vec::new();
    if !is_ready {
        for tarball in tarballs {
            steps.push(step("fetch", tarball.to_string(), |made| {
                made.tarballs.push(tarball.get(&store.root.join("download"), client)?);
                Ok(true)
            }));
        }
        let object = format!("Docker {}", version.text);
        let staging = store.root.join("staging");
        steps.push(step("unpack", object, move |made| {
            let unpacked = unpack_all(store, &staging, version, tarballs, made);
            unpacked.inspect_err(|_| drop(remove_tree(&staging)))
        }));
    }
    let foreign = store.names(There::Program, "");
    if !foreign.is_empty() {
        let object = format!("{} to NAME{ASIDE}", foreign.join(", "));
        steps.push(step("rename", object, move |_| store.set_aside(&foreign).map(|()| true)));
    }
    let old = store.sets_but(&[current.as_deref(), wanted.as_deref()]);
    if !old.is_empty() && wanted != current {
        let object = format!("older programs: {}", old.join(", "));
        steps.push(step("delete", object, |made| {
            // Without known sums only now is it clear which set is wanted: it may be the previous one.
            let current = store.current();
            let old = store.sets_but(&[current.as_deref(), made.set.as_deref()]);
            // The same again leaves the previous one alone.
            let is_needed = made.set != current && !old.is_empty();
            old.iter().filter(|_| is_needed).try_for_each(|set| store.remove_set(set))?;
            Ok(is_needed)
        }));
    }
    let absent = store.names(There::Nothing, "");
    let lacks_link = |set: &String| absent.iter().any(|name| store.set(set).join(name).exists());
    if !is_ready || wanted != current || wanted.as_ref().is_some_and(lacks_link) {
        let object = format!("to Docker {} in `{}`", version.text, store.bin_dir.display());
        steps.push(step("switch", object, |made| switch(store, made)));
    }
    for file in shell_files {
        let object = format!("`{}` to PATH in `{}`", store.bin_dir.display(), file.display());
        steps.push(step("add", object, move |_| Ok(shell_files::add(&file, &store.bin_dir))));
    }
    Ok((steps, Made { set: wanted, ..Made::default() }))
}

/// Refuses what a fetch cannot change.
fn refuse(store: &Store) -> Result<(), Error> {
    if let Some(old) = store.linked.as_ref().filter(|old| **old != store.bin_dir) {
        let [old, new] = [old, &store.bin_dir].map(|path| path.display());
        let what = format!("the links are in `{old}`; they cannot also be in `{new}`");
        return Err(Error::new(Exit::Usage, what).hint("dockerd-rootless fetch --remove"));
    }
    let Some(name) = store.names(There::Other, "").pop() else {
        return Ok(());
    };
    let path = store.bin(name);
    let what = format!("`{}` is neither a file nor a link", path.display());
    let path = words::quoted(&path);
    Err(Error::new(Exit::Failed, what).hint(format!("mv {path} {path}.old")))
}

/// Names a set of `version` by what it is made from: the sums of the tarballs, and ours.
fn set_name(version: &Version, sums: &[&str]) -> Result<String, Error> {
    let own = File::open(OURSELVES).and_then(|file| sum_of(&file));
    let own = at(Path::new(OURSELVES), own)?;
    let hash = hexadecimal(&Sha256::digest(format!("{} {own}", sums.join(" "))));
    Ok(format!("{}-{}", version.text, &hash[..8]))
}

/// Makes a set of both tarballs, unless it is here.
fn unpack_all(
    store: &Store,
    staging: &Path,
    version: &Version,
    tarballs: &[Tarball; 2],
    made: &mut Made,
) -> Result<bool, Error> {
    let sums: Vec<&str> = made.tarballs.iter().map(|(_, sum)| &**sum).collect();
    let name = set_name(version, &sums)?;
    let is_here = store.set(&name).exists();
    if !is_here {
        make_dir(staging, 0o755)?;
        thread::scope(|scope| {
            let mut jobs = Vec::new();
            for (tarball, (file, _)) in tarballs.iter().zip(&made.tarballs) {
                let unpack = move || unpack(file, &tarball.file, tarball.package, staging);
                jobs.push(scope.spawn(unpack));
            }
            jobs.into_iter().try_for_each(|job| job.join().unwrap_or_else(|why| resume_unwind(why)))
        })?;
        let copied = fs::copy(OURSELVES, staging.join(OWN))
            .and_then(|_| SCRIPTS.iter().try_for_each(|script| symlink(OWN, staging.join(script))))
            .and_then(|()| sync(&staging.join(OWN)));
        at(staging, copied)?;
    }
    made.set = Some(name);
    Ok(!is_here)
}

/// Switches to the set that was made, or found.
fn switch(store: &Store, made: &mut Made) -> Result<bool, Error> {
    let set = made.set.as_deref().unwrap_or_default();
    // Only now: programs that were set aside have become a set meanwhile.
    let before = store.current();
    made.replaced = before.clone().filter(|before| before != set);
    if store.root.join("staging").exists() {
        store.place(set)?;
    }
    store.switch(set)?;
    Ok(made.tarballs.is_empty() || before.as_deref() != Some(set))
}

/// Plans to become the installer of what is in place then.
pub fn install(store: &Store, args: Vec<OsString>) -> Step<'_> {
    let object = format!("`{OWN} {}`", words::join(&args).display());
    step("run", object, move |_| {
        let program = store.bin(OWN);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = [store.bin_dir.clone()].into_iter().chain(std::env::split_paths(&path));
        let path = std::env::join_paths(path).unwrap_or_default();
        at(&program, Err(Command::new(&program).args(args).env("PATH", path).exec()))
    })
}

/// Plans to exchange the current and the previous version.
pub fn roll_back(store: &Store) -> Result<(Vec<Step<'_>>, Made), Error> {
    let current = store.current();
    let previous = store.sets_but(&[current.as_deref()]).pop();
    let (Some(previous), Some(_)) = (previous, current) else {
        let what = "there is no earlier version to go back to";
        return Err(Error::new(Exit::Failed, what).hint("dockerd-rootless fetch --version latest"));
    };
    let object = format!("to {}", name_of(store, &previous));
    let step = step("switch", object, |made| switch(store, made));
    Ok((vec![step], Made { set: Some(previous), ..Made::default() }))
}

/// Names a set for people.
pub(super) fn name_of(store: &Store, set: &str) -> String {
    match set.rsplit_once('-') {
        Some((version, _)) => format!("Docker {version}"),
        None => format!("the programs that were in `{}` before", store.bin_dir.display()),
    }
}

/// Says whether there is anything that `fetch` did.
pub fn is_installed(environment: &Environment) -> Result<bool, Error> {
    Ok(!removal(&Store::find(environment, None)?, environment).is_empty())
}

/// Plans to undo all that fetches did.
pub fn removal<'a>(store: &'a Store, environment: &Environment) -> Vec<Step<'a>> {
    let [mut links, absent] = [There::OurLink, There::Nothing].map(|there| store.names(there, ""));
    let mut aside = store.names(There::Program, ASIDE);
    aside.retain(|name| links.contains(name) || absent.contains(name));
    links.retain(|name| !aside.contains(name));
    let mut steps = Vec::new();
    if !aside.is_empty() {
        steps.push(step("restore", aside.join(", "), move |_| {
            store.put_back(&aside).map(|()| true)
        }));
    }
    if !links.is_empty() {
        let object = format!("links: {}", links.join(", "));
        steps.push(step("remove", object, move |_| store.unlink(&links).map(|()| true)));
    }
    for file in shell_files::files(environment, true) {
        let object = format!("our lines in `{}`", file.display());
        steps.push(step("remove", object, move |_| Ok(shell_files::remove(&file))));
    }
    if store.root.exists() {
        let object = format!("`{}`", store.root.display());
        steps.push(step("delete", object, |_| store.remove().map(|()| true)));
    }
    steps
}
