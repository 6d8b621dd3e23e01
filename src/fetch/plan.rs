//! Decides what a run does: facts → a list of actions, which `--dry-run` prints and any other run
//! performs.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Exit};
use crate::fetch::checksum::{Sum, Voucher};
use crate::fetch::download::Url;
use crate::fetch::{OWN, Package, Version};
use crate::words;

/// The set of programs that were in the directory before the first fetch.
pub const BEFORE: &str = "before";

/// What is appended to the name of a program that was in the way.
pub const ASIDE: &str = ".before-dockerd-rootless";

/// What was done outside of our directory. It is written before the act.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Where the links to the programs are.
    pub bin_dir: PathBuf,
    /// The shell files that have, or may have, our lines.
    pub shell_files: Vec<ShellFile>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShellFile {
    pub path: PathBuf,
    /// Whether it was not there before.
    pub created: bool,
}

/// Where a tarball is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    File(PathBuf),
    Server(Url),
}

/// One tarball.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tarball {
    pub package: Package,
    pub file: String,
    pub source: Source,
    pub sum: Option<(Sum, Voucher)>,
}

impl fmt::Display for Tarball {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::File(path) => write!(out, "`{}` ", path.display())?,
            Source::Server(url) => write!(out, "`{url}` ")?,
        }
        match &self.sum {
            Some((sum, voucher)) => write!(out, "with the SHA-256 sum {sum} of {voucher}"),
            None => out.write_str("WITHOUT A CHECKSUM"),
        }
    }
}

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

/// A set that holds the wanted programs, undamaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    pub set: String,
    pub programs: Vec<&'static str>,
}

/// What is installed, and what is around it.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Our directory, and whether there is one.
    pub store: PathBuf,
    pub has_store: bool,
    pub bin_dir: PathBuf,
    pub state: Option<State>,
    pub current: Option<String>,
    pub previous: Option<String>,
    pub sets: Vec<String>,
    pub ready: Option<Ready>,
    /// What interrupted runs left in the store.
    pub leftovers: Vec<PathBuf>,
    /// What each name of ours is in `bin_dir`.
    pub programs: Vec<(&'static str, There)>,
    /// The programs that were set aside.
    pub aside: Vec<&'static str>,
    /// The shell files that lack our lines.
    pub lacking: Vec<ShellFile>,
    /// The shell files that have them.
    pub edited: Vec<ShellFile>,
    /// Where downloads are kept, if there are any.
    pub downloads: Option<PathBuf>,
}

impl Facts {
    fn names(&self, there: There) -> Vec<&'static str> {
        let found = self.programs.iter().filter(|(_, found)| *found == there);
        found.map(|(name, _)| *name).collect()
    }
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Deletes what interrupted runs left.
    Clean(Vec<PathBuf>),
    Get(Tarball),
    /// Makes a set of this version from the tarballs.
    Unpack(Version),
    /// Writes the state.
    Record(State),
    /// Renames programs that are in the way, and puts links in their places.
    SetAside(Vec<&'static str>),
    /// Switches to this set, or to the one that was unpacked.
    Use(Option<String>, String),
    AddToPath(PathBuf, PathBuf),
    Prune(Vec<String>),
    /// Switches to the programs that were set aside, and renames them back.
    PutBack(Vec<&'static str>),
    Unlink(Vec<&'static str>),
    RemoveFromPath(ShellFile),
    DeleteStore(PathBuf),
    DeleteDownloads(PathBuf),
    /// Becomes `dockerd-rootless install` with these arguments.
    Install(Vec<OsString>),
}

impl Action {
    /// Says what will be done, or with `is_done` what was.
    pub fn explain(&self, is_done: bool) -> String {
        let (verb, object) = match self {
            Self::Clean(_) => ("delete", "what an interrupted run left".to_owned()),
            Self::Get(tarball) => ("fetch", tarball.to_string()),
            Self::Unpack(version) => ("unpack", format!("Docker {version}")),
            Self::Record(_) => ("record", "in state.json what changes outside".to_owned()),
            Self::SetAside(names) => ("rename", format!("{} to NAME{ASIDE}", names.join(", "))),
            Self::Use(_, name) => ("switch", format!("to {name}")),
            Self::AddToPath(file, bin_dir) => {
                ("add", format!("`{}` to PATH in `{}`", bin_dir.display(), file.display()))
            }
            Self::Prune(sets) => ("delete", format!("older programs: {}", sets.join(", "))),
            Self::PutBack(names) => ("restore", names.join(", ")),
            Self::Unlink(names) => ("remove", format!("links: {}", names.join(", "))),
            Self::RemoveFromPath(file) => {
                ("remove", format!("our lines in `{}`", file.path.display()))
            }
            Self::DeleteStore(store) => {
                ("delete", format!("the programs in `{}`", store.display()))
            }
            Self::DeleteDownloads(path) => ("delete", format!("downloads in `{}`", path.display())),
            Self::Install(args) => ("run", format!("`{OWN} {}`", words::join(args).display())),
        };
        let ending = match (is_done, verb.ends_with('e')) {
            (false, _) => "",
            (true, true) => "d",
            (true, false) => "ed",
        };
        format!("{verb}{ending} {object}")
    }
}

/// Plans to have `version` in use, from `tarballs` unless it is here.
pub fn fetch(
    facts: &Facts,
    version: &Version,
    tarballs: [Tarball; 2],
) -> Result<Vec<Action>, Error> {
    refuse(facts)?;
    let mut actions = Vec::new();
    if !facts.leftovers.is_empty() {
        actions.push(Action::Clean(facts.leftovers.clone()));
    }
    if facts.ready.is_none() {
        actions.extend(tarballs.map(Action::Get));
        actions.push(Action::Unpack(version.clone()));
    }
    let state = record(facts);
    if facts.state.as_ref() != Some(&state) {
        actions.push(Action::Record(state));
    }
    let foreign = facts.names(There::Program);
    if !foreign.is_empty() {
        actions.push(Action::SetAside(foreign));
    }
    let target = facts.ready.as_ref().map(|ready| ready.set.clone());
    let absent = facts.names(There::Nothing);
    let lacks_links = |ready: &Ready| ready.programs.iter().any(|name| absent.contains(name));
    let is_in_use = target.is_some()
        && target == facts.current
        && !facts.ready.as_ref().is_some_and(lacks_links);
    let keep = [&facts.current, if is_in_use { &facts.previous } else { &target }];
    let mut old = facts.sets.clone();
    old.retain(|set| !keep.contains(&&Some(set.clone())));
    if !is_in_use {
        let name = format!("Docker {version} in `{}`", facts.bin_dir.display());
        actions.push(Action::Use(target, name));
    }
    for file in &facts.lacking {
        actions.push(Action::AddToPath(file.path.clone(), facts.bin_dir.clone()));
    }
    if !old.is_empty() {
        actions.push(Action::Prune(old));
    }
    Ok(actions)
}

/// Refuses what a fetch cannot change.
fn refuse(facts: &Facts) -> Result<(), Error> {
    if let Some(state) = &facts.state
        && state.bin_dir != facts.bin_dir
    {
        let [old, new] = [&state.bin_dir, &facts.bin_dir].map(|path| path.display());
        let what = format!("the links are in `{old}`; they cannot also be in `{new}`");
        return Err(Error::new(Exit::Usage, what).hint("dockerd-rootless fetch --remove"));
    }
    match facts.names(There::Other).first() {
        None => Ok(()),
        Some(name) => {
            let path = facts.bin_dir.join(name);
            let what = format!("`{}` is neither a file nor a link", path.display());
            let quoted = words::quote(path.as_os_str());
            let quoted = quoted.display();
            Err(Error::new(Exit::Failed, what).hint(format!("mv {quoted} {quoted}.old")))
        }
    }
}

/// Returns the state after the fetch.
fn record(facts: &Facts) -> State {
    let mut state = facts.state.clone().unwrap_or_default();
    state.bin_dir.clone_from(&facts.bin_dir);
    for file in &facts.lacking {
        if !state.shell_files.iter().any(|known| known.path == file.path) {
            state.shell_files.push(file.clone());
        }
    }
    state
}

/// Plans to exchange the current and the previous version.
pub fn roll_back(facts: &Facts) -> Result<Vec<Action>, Error> {
    match (&facts.current, &facts.previous) {
        (Some(current), Some(previous)) if current != previous && facts.state.is_some() => {
            let name = match &**previous {
                BEFORE => format!("the programs that were in `{}` before", facts.bin_dir.display()),
                set => format!("Docker {}", set.rsplit_once('-').map_or(set, |(name, _)| name)),
            };
            Ok(vec![Action::Use(Some(previous.clone()), name)])
        }
        _ => {
            let what = "there is no earlier version to go back to";
            Err(Error::new(Exit::Failed, what).hint("dockerd-rootless fetch --version latest"))
        }
    }
}

/// Plans to undo all that fetches did.
pub fn remove(facts: &Facts) -> Vec<Action> {
    let free = [facts.names(There::OurLink), facts.names(There::Nothing)].concat();
    let mut aside = facts.aside.clone();
    aside.retain(|name| free.contains(name));
    let mut links = facts.names(There::OurLink);
    links.retain(|name| !aside.contains(name));
    let mut actions = Vec::new();
    if !aside.is_empty() {
        actions.push(Action::PutBack(aside));
    }
    if !links.is_empty() {
        actions.push(Action::Unlink(links));
    }
    actions.extend(facts.edited.iter().cloned().map(Action::RemoveFromPath));
    if facts.has_store {
        actions.push(Action::DeleteStore(facts.store.clone()));
    }
    actions.extend(facts.downloads.clone().map(Action::DeleteDownloads));
    actions
}
