//! Finds the user's home, runtime directory and program, also under su(1) and sudo(8), where
//! variables are missing or still another user's (docker/docs#14491).

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tracing::warn;

use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::places;
use crate::facts::{Directory, look};
use crate::plan;
use crate::setup::facts::Home;
use crate::sys::process;

/// The names of this program by which it is another tool.
const OTHER_NAMES: [&str; 2] = ["dockerd-rootless.sh", "dockerd-rootless-setuptool.sh"];

impl Home {
    /// Finds the home of the user who called this program by the word `called`. Refuses root (exit
    /// 1) and a user without a home (exit 4).
    pub fn find(environment: &Environment, called: &OsStr) -> Result<Self, Error> {
        let uid = look::uid();
        let account = account(uid);
        let environment = at_login(environment, uid, account.as_deref());
        let person = look::person(&environment);
        plan::refuse_root(&person)?;
        plan::refuse_home(&person)?;
        let (search_path, _) = places::search_path(&environment);
        let runtime_dir = person.runtime_dir.map(|(path, _)| path);
        let name = account.and_then(|fields| fields.into_iter().next());
        Ok(Self {
            uid,
            user: name.unwrap_or_else(|| uid.to_string()),
            dir: environment.get("HOME").map(PathBuf::from).unwrap_or_default(),
            runtime_dir: runtime_dir.unwrap_or_else(|| PathBuf::from(format!("/run/user/{uid}"))),
            program: own_program(&search_path, called)?,
            search_path,
            environment,
        })
    }

    /// Returns the path of the program `name`: in PATH, or beside this program, whose directory a
    /// shell need not have in its PATH yet.
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        let beside = self.program.with_file_name(name);
        let found = which::which_in(name, Some(&self.search_path), "/").ok();
        found.or_else(|| beside.is_file().then_some(beside))
    }
}

/// Returns the environment as a login of `uid` has it.
fn at_login(environment: &Environment, uid: u32, account: Option<&[String]>) -> Environment {
    let is_own = |path: &Path| fs::metadata(path).is_ok_and(|found| found.uid() == uid);
    let mut environment = environment.clone();
    let set = environment.get("HOME").map(PathBuf::from);
    if !set.as_deref().is_some_and(is_own)
        && let Some(home) = account.and_then(|fields| fields.get(5))
        && (set.is_none() || is_own(home.as_ref()))
    {
        if let Some(set) = set {
            warn!("HOME `{}` is not yours, as after `sudo`; using `{home}`", set.display());
        }
        environment = environment.with("HOME", home);
    }
    let Some(own) = look::own_runtime_dir(uid) else {
        return environment;
    };
    let person = look::person(&environment);
    match person.runtime_dir.filter(|_| !person.runtime_dir_guessed) {
        Some((_, Directory::Present { owner, .. })) if owner == uid => return environment,
        Some((path, _)) => warn!(
            "XDG_RUNTIME_DIR `{}` is not yours, as after `su` and `sudo`; using `{}`",
            path.display(),
            own.display()
        ),
        None => {}
    }
    environment.with("XDG_RUNTIME_DIR", own)
}

/// Returns the fields of the user's account (passwd(5)), from the file or a directory service.
fn account(uid: u32) -> Option<Vec<String>> {
    let uid = uid.to_string();
    let asked = process::brief(Command::new("getent").args(["passwd", &uid]));
    let text = asked.map(|(_, text)| text).or_else(|_| fs::read_to_string("/etc/passwd")).ok()?;
    let mut accounts = text.lines().map(|line| line.split(':').map(str::to_owned));
    accounts.find(|fields| fields.clone().nth(2).as_ref() == Some(&uid)).map(Iterator::collect)
}

/// Returns the path by which units start this program: the name that the user knows, which may be a
/// link that an upgrade points elsewhere.
fn own_program(search_path: &OsStr, called: &OsStr) -> Result<PathBuf, Error> {
    let real = std::env::current_exe().map_err(|error| {
        Error::new(Exit::Failed, "`/proc/self/exe` cannot be read").because(&error)
    })?;
    let called = if called.as_bytes().contains(&b'/') {
        std::path::absolute(called).ok()
    } else {
        which::which_in(called, Some(search_path), "/").ok()
    };
    let is_other = |path: &Path| {
        path.file_name().is_some_and(|name| OTHER_NAMES.iter().any(|other| name == *other))
    };
    let plain = |path: PathBuf| path.with_file_name("dockerd-rootless");
    let named = called.map(|path| if is_other(&path) { plain(path) } else { path });
    let is_it = |path: &PathBuf| path.canonicalize().is_ok_and(|found| found == real);
    let program = named.filter(is_it).unwrap_or(real);
    if !is_other(&program) {
        return Ok(program);
    }
    let what = format!("under the name `{}` the program is another tool", program.display());
    let (from, to) = (super::quoted(&program), super::quoted(&plain(program)));
    let hint = format!("mv {from} {to} && ln -s dockerd-rootless {from}");
    Err(Error::new(Exit::Failed, what).hint(hint))
}
