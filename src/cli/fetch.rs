//! `fetch`: Docker's static programs, side by side in versions, with one switch between them.

mod progress;
mod source;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tracing::info;

use crate::cli::output;
use crate::cli::output::Format;
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::look;
use crate::facts::places;
use crate::fetch::Sum;
use crate::fetch::archive::{sum_of, unpack};
use crate::fetch::download::{Progress, Wanted, download};
use crate::fetch::failpoint;
use crate::fetch::http::Client;
use crate::fetch::manifest::Manifest;
use crate::fetch::programs::{OWN, SCRIPTS};
use crate::fetch::shell_files;
use crate::fetch::state::{ShellFile, State};
use crate::fetch::store;
use crate::fetch::store::{Staging, Store, check_writable, failed};
use crate::supervise;
use crate::sys::files;
use source::{Archive, Place, Plan};

/// What stands below the options.
pub const EXAMPLES: &str = "\
A flag wins over its variable. FORCE_ROOTLESS_INSTALL and SKIP_IPTABLES become --force and
--skip-iptables of `install`. Ends with 6 if something is not what it should be.";

/// The options of `fetch`.
#[derive(Args)]
pub struct FetchOptions {
    /// Which version: a number, or `latest` for the newest on the mirror (the newest that is known here)
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
    /// Which of Docker's channels (variable CHANNEL, else stable)
    #[arg(long, value_name = "NAME")]
    channel: Option<String>,
    /// Where Docker's directory `linux/static` is (variable DOCKERD_ROOTLESS_MIRROR, else Docker's server)
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// Take the tarballs from a directory, and ask nobody
    #[arg(long, value_name = "DIR", conflicts_with = "mirror")]
    offline: Option<PathBuf>,
    /// Where links to the programs are made (variable DOCKER_BIN, else ~/bin)
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// The SHA-256 sum that a tarball must have; once for each
    #[arg(long, value_name = "FILE=SUM")]
    sha256: Vec<String>,
    /// A list of such sums, as sha256sum writes it
    #[arg(long, value_name = "FILE")]
    checksums: Option<PathBuf>,
    /// Take tarballs for which no sum is known. Whoever is on the way can put in what he likes
    #[arg(long)]
    insecure_no_checksum: bool,
    /// Ask servers over http, too. Whoever is on the way sees and may change what comes
    #[arg(long)]
    insecure_http: bool,
    /// How many seconds a server may be silent
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = clap::value_parser!(u16).range(1..))]
    timeout: u16,
    /// Leave the shell files alone
    #[arg(long)]
    no_modify_path: bool,
    /// Go back to the version before; a second time: forward again
    #[arg(long, conflicts_with_all = ["remove", "version", "offline"])]
    rollback: bool,
    /// Undo all that fetch did: links, programs, lines in shell files
    #[arg(long, conflicts_with_all = ["version", "offline", "install"])]
    remove: bool,
    /// Then run `dockerd-rootless install` with the words behind `--`
    #[arg(long, conflicts_with = "rollback")]
    install: bool,
    /// Print what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// How to print
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Options of `dockerd-rootless install`
    #[arg(value_name = "INSTALL_OPTIONS", last = true, requires = "install")]
    words: Vec<OsString>,
}

/// What was done, or would be.
#[derive(Default)]
struct Outcome {
    changed: bool,
    version: Option<String>,
    set: Option<String>,
    actions: Vec<String>,
}

/// `fetch` with all its forms.
///
/// # Errors
/// Exit 6 for what is not what it should be, 5 if another is at it, 2 for odd options, else 1.
pub fn run(environment: &Environment, options: &FetchOptions) -> Result<Exit, Error> {
    let home = Home::find(environment, options)?;
    let outcome = if options.remove {
        refuse_in_use(environment)?;
        let actions = remove(environment, options.dry_run)?;
        Outcome { changed: !actions.is_empty(), actions, ..Outcome::default() }
    } else if options.rollback {
        home.roll_back(options)?
    } else {
        home.fetch(environment, options)?
    };
    if options.format == Format::Text || !options.install || options.dry_run {
        print(&home, options, &outcome)?;
    }
    match options.install {
        true => home.install(environment, options),
        false => Ok(Exit::Good),
    }
}

/// A daemon that runs starts containers with these programs.
fn refuse_in_use(environment: &Environment) -> Result<(), Error> {
    let runtime_dir = look::person(environment).runtime_dir;
    let status = runtime_dir.and_then(|(path, _)| supervise::read_status(&places::run_dir(&path)));
    match status {
        None => Ok(()),
        Some(status) => {
            let pid = status.supervisor;
            let what = format!("rootless Docker runs (PID {pid}), and with these programs");
            Err(Error::new(Exit::AlreadyRunning, what)
                .hint("dockerd-rootless uninstall --remove-binaries"))
        }
    }
}

/// Undoes all that `fetch` did, and returns what that was: one line each, for people. With
/// `dry_run` nothing is touched. What lay in the place of our links before is put back.
///
/// # Errors
/// Exit 5 if another is at it; names what cannot be removed, and a second run goes on from there.
pub fn remove(environment: &Environment, dry_run: bool) -> Result<Vec<String>, Error> {
    let store = Store::new(store_root(environment)?);
    let downloads = downloads(environment);
    let mut removed = Vec::new();
    if store.exists() {
        let _lock = (!dry_run).then(|| store.lock()).transpose()?;
        let state = if dry_run { store.read_state()? } else { store.recover()? };
        if let Some(state) = &state {
            let kept = store.kept(state);
            for name in store.links(&state.bin_dir) {
                let path = state.bin_dir.join(name);
                removed.push(match kept.contains(&name) {
                    true => {
                        format!("link `{}`, in favour of what was there before", path.display())
                    }
                    false => format!("link `{}`", path.display()),
                });
            }
            let edited = state.shell_files.iter().filter(|file| shell_files::has_lines(&file.path));
            removed.extend(edited.map(|file| format!("our lines in `{}`", file.path.display())));
            if !dry_run {
                store.restore(state)?;
                for file in &state.shell_files {
                    shell_files::remove(file);
                }
            }
        }
        if state.is_some() || store.current().is_some() {
            removed.push(format!("programs in `{}`", store.set("").display()));
        }
        if !dry_run {
            store.remove()?;
        }
    }
    if let Some(downloads) = downloads.filter(|downloads| downloads.is_dir()) {
        removed.push(format!("downloads in `{}`", downloads.display()));
        if !dry_run {
            let gone = std::fs::remove_dir_all(&downloads);
            gone.map_err(|error| failed(&downloads, "cannot be removed", &error))?;
            let _ = downloads.parent().map(std::fs::remove_dir);
        }
    }
    Ok(removed)
}

fn store_root(environment: &Environment) -> Result<PathBuf, Error> {
    let data = environment.data_home().ok_or_else(|| {
        let what = "there is no place for programs: HOME is not set";
        Error::new(Exit::Failed, what).hint("export HOME=/path/to/your/home")
    })?;
    Ok(data.join(OWN))
}

fn downloads(environment: &Environment) -> Option<PathBuf> {
    Some(environment.cache_home()?.join(OWN).join("downloads"))
}

/// Where things are to be.
struct Home {
    store: Store,
    bin_dir: PathBuf,
    downloads: PathBuf,
}

impl Home {
    fn find(environment: &Environment, options: &FetchOptions) -> Result<Self, Error> {
        let root = store_root(environment)?;
        let stated =
            options.bin_dir.clone().or_else(|| Some(PathBuf::from(environment.get("DOCKER_BIN")?)));
        let bin_dir = match stated.or_else(|| Some(environment.absolute("HOME")?.join("bin"))) {
            Some(stated) => std::path::absolute(&stated)
                .map_err(|error| failed(&stated, "is no path", &error))?,
            None => root.join("bin"),
        };
        // PATH has no way to say so.
        if bin_dir.as_os_str().as_encoded_bytes().iter().any(|byte| b":\n".contains(byte)) {
            let what =
                format!("`{}` cannot be in PATH: it holds a colon or a newline", bin_dir.display());
            return Err(Error::new(Exit::Usage, what).hint("take another directory: --bin-dir DIR"));
        }
        let downloads = downloads(environment).unwrap_or_else(|| root.join("downloads"));
        Ok(Self { store: Store::new(root), bin_dir, downloads })
    }

    /// The version that is asked for, in use.
    fn fetch(&self, environment: &Environment, options: &FetchOptions) -> Result<Outcome, Error> {
        check_writable(&self.bin_dir)?;
        let _lock = match options.dry_run {
            true => None,
            false => Some(self.store.lock()?),
        };
        let state = match options.dry_run {
            true => self.store.read_state()?,
            false => self.store.recover()?,
        };
        if let Some(state) = &state
            && state.bin_dir != self.bin_dir
        {
            let what = format!(
                "the links are in `{}` and cannot also be in `{}`",
                state.bin_dir.display(),
                self.bin_dir.display()
            );
            return Err(
                Error::new(Exit::Usage, what).hint("first: dockerd-rootless fetch --remove")
            );
        }
        let mut state = state.unwrap_or_else(|| State::new(&self.bin_dir));
        let client = source::client(environment, options);
        let plan = source::plan(environment, options, &client)?;
        let foreign = self.store.foreign(&self.bin_dir)?;
        let mut outcome = Outcome { version: Some(plan.version.to_string()), ..Outcome::default() };
        let there = self.has(&plan)?;
        if options.dry_run {
            self.describe(environment, options, &plan, there.as_deref(), &foreign, &mut outcome);
            return Ok(outcome);
        }
        let set = match there {
            Some(set) => set,
            None => {
                let (set, is_new) = self.make_set(&client, options, &plan)?;
                if is_new {
                    let [docker, extras] = &plan.archives;
                    let what = format!("unpacked {} and {}", docker.file, extras.file);
                    outcome.actions.push(what);
                }
                set
            }
        };
        let activated = self.activate(&mut state, &set, &foreign, &mut outcome);
        if activated.is_err() && self.store.current().as_deref() != Some(&*set) {
            // Nothing leads to it. Should that fail as well, the next run does it.
            let _ = self.prune(&state);
        }
        activated?;
        if !options.no_modify_path {
            self.edit_shell_files(environment, &mut state, &mut outcome)?;
        }
        self.prune(&state)?;
        failpoint::pass("pruned");
        let _ = std::fs::remove_dir_all(&self.downloads);
        outcome.changed = !outcome.actions.is_empty();
        outcome.set = Some(set);
        Ok(outcome)
    }

    /// The set that is the wanted one already, if all sums are known and everything is in order.
    fn has(&self, plan: &Plan) -> Result<Option<String>, Error> {
        let own = store::own_sum()?;
        let candidates = [self.store.current(), self.store.previous()];
        for set in candidates.into_iter().flatten() {
            let Some(manifest) = self.store.manifest(&set) else {
                continue;
            };
            let known = plan.archives.iter().all(|archive| {
                archive
                    .sum
                    .is_some_and(|(sum, _)| manifest.archives.get(&archive.file) == Some(&sum))
            });
            if known && manifest.programs.get(OWN) == Some(&own) && self.store.is_whole(&set) {
                return Ok(Some(set));
            }
        }
        Ok(None)
    }

    /// Downloads, checks and unpacks both tarballs.
    fn make_set(
        &self,
        client: &Client<'_>,
        options: &FetchOptions,
        plan: &Plan,
    ) -> Result<(String, bool), Error> {
        let staging = self.store.stage()?;
        let progress = [Progress::default(), Progress::default()];
        let stop = mpsc::channel::<()>();
        let (archives, programs) = thread::scope(|scope| {
            let (stopper, stopped) = stop;
            if io::stderr().is_terminal() {
                scope.spawn(|| progress::show(stopped, &progress, plan));
            }
            let jobs = plan.archives.iter().zip(&progress).map(|(archive, progress)| {
                let staging = &staging;
                scope.spawn(move || self.get(client, options, archive, progress, staging))
            });
            let jobs: Vec<_> = jobs.collect();
            let results = jobs.into_iter().map(|job| {
                job.join()
                    .unwrap_or_else(|_| Err(Error::new(Exit::Failed, "a thread ended too early")))
            });
            let results: Vec<_> = results.collect();
            drop(stopper);
            let mut archives = BTreeMap::new();
            let mut programs = BTreeMap::new();
            for (archive, result) in plan.archives.iter().zip(results) {
                let (sum, found) = result?;
                archives.insert(archive.file.clone(), sum);
                programs.extend(found);
            }
            Ok::<_, Error>((archives, programs))
        })?;
        let mut programs = programs;
        programs.insert(OWN.to_owned(), store::copy_ourselves(staging.path(), OWN)?);
        for script in SCRIPTS {
            store::link_beside(staging.path(), script, OWN)?;
        }
        failpoint::pass("unpacked");
        let manifest = Manifest { archives, programs };
        self.store.place(staging, plan.version.as_str(), &manifest)
    }

    /// One tarball: its sum, and those of its programs, which are in the staging directory then.
    fn get(
        &self,
        client: &Client<'_>,
        options: &FetchOptions,
        archive: &Archive,
        progress: &Progress,
        staging: &Staging,
    ) -> Result<(Sum, BTreeMap<String, Sum>), Error> {
        let expected = archive.sum.map(|(sum, _)| sum);
        let (file, sum, shown) = match &archive.place {
            Place::File(path) => {
                let (file, sum) = read_local(path, expected)?;
                (file, sum, path.display().to_string())
            }
            Place::Server(url) => {
                store::make_dir(&self.downloads, 0o700)?;
                let wanted = Wanted {
                    url,
                    sum: expected,
                    stall: Duration::from_secs(options.timeout.into()),
                };
                let path = self.downloads.join(&archive.file);
                let (file, sum) = download(client, &wanted, &path, progress)?;
                (file, sum, url.to_string())
            }
        };
        failpoint::pass("downloaded");
        let directory = staging.open()?;
        let programs = unpack(file, &shown, archive.package, sum, &directory);
        // What is refused once is not worth to be kept.
        if programs.as_ref().is_err_and(|error| error.exit() == Exit::Integrity) {
            let _ = std::fs::remove_file(self.downloads.join(&archive.file));
        }
        Ok((sum, programs?))
    }

    /// Puts the set in use. Somebody else's programs become a set of their own before.
    fn activate(
        &self,
        state: &mut State,
        set: &str,
        foreign: &[&'static str],
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        store::make_dir(&self.bin_dir, 0o755)?;
        if !foreign.is_empty() {
            let adopted = self.store.adopt(&self.bin_dir, foreign)?;
            state.adopted.retain(|name| *name != adopted);
            state.adopted.push(adopted.clone());
            self.store.write_state(state)?;
            self.store.activate(state, &adopted)?;
            self.store.take_places(&self.bin_dir, foreign)?;
            let what = format!("took over {} in `{}`", foreign.join(", "), self.bin_dir.display());
            info!("{what}; --rollback uses, and --remove puts back, what was there");
            outcome.actions.push(what);
        }
        self.store.write_state(state)?;
        failpoint::pass("state-written");
        if self.store.activate(state, set)? {
            outcome
                .actions
                .push(format!("linked the programs of {set} in `{}`", self.bin_dir.display()));
        }
        Ok(())
    }

    fn edit_shell_files(
        &self,
        environment: &Environment,
        state: &mut State,
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        if shell_files::is_in_path(environment, &self.bin_dir) {
            return Ok(());
        }
        for path in shell_files::candidates(environment) {
            if !shell_files::lacks(&path, self.bin_dir.as_os_str()) {
                continue;
            }
            let known = state.shell_files.iter().find(|file| file.path == path);
            let file = match known {
                Some(file) => file.clone(),
                None => {
                    let file = ShellFile { created: path.symlink_metadata().is_err(), path };
                    state.shell_files.push(file.clone());
                    self.store.write_state(state)?;
                    file
                }
            };
            if shell_files::add(&file, self.bin_dir.as_os_str()) {
                outcome.actions.push(format!(
                    "added `{}` to PATH in `{}`",
                    self.bin_dir.display(),
                    file.path.display()
                ));
            }
        }
        Ok(())
    }

    fn prune(&self, state: &State) -> Result<(), Error> {
        let used = [self.store.current(), self.store.previous()];
        let keep: Vec<String> =
            used.into_iter().flatten().chain(state.adopted.iter().cloned()).collect();
        self.store.prune(&keep)
    }

    fn roll_back(&self, options: &FetchOptions) -> Result<Outcome, Error> {
        let mut outcome = Outcome::default();
        if !self.store.exists() {
            let what = "there is no earlier version to go back to: nothing was fetched yet";
            return Err(Error::new(Exit::Failed, what).hint("dockerd-rootless fetch"));
        }
        if options.dry_run {
            let previous = self.store.previous().unwrap_or_default();
            outcome.actions.push(format!("switch to {previous}"));
            outcome.changed = !previous.is_empty();
            outcome.set = Some(previous);
            return Ok(outcome);
        }
        let _lock = self.store.lock()?;
        let state = self.store.recover()?;
        let mut state = state.unwrap_or_else(|| State::new(&self.bin_dir));
        let set = self.store.roll_back(&mut state)?;
        outcome.actions.push(format!("switched to {set}"));
        outcome.changed = true;
        outcome.set = Some(set);
        Ok(outcome)
    }

    /// What a run would do.
    fn describe(
        &self,
        environment: &Environment,
        options: &FetchOptions,
        plan: &Plan,
        there: Option<&str>,
        foreign: &[&str],
        outcome: &mut Outcome,
    ) {
        let actions = &mut outcome.actions;
        if there.is_none() {
            for archive in &plan.archives {
                let voucher = archive.sum.map_or_else(
                    || "without a checksum".to_owned(),
                    |(sum, voucher)| format!("with the SHA-256 sum {sum} of {voucher}"),
                );
                actions.push(format!("get {} {voucher}", archive.place));
            }
        }
        if !foreign.is_empty() {
            actions.push(format!(
                "take over {} in `{}`",
                foreign.join(", "),
                self.bin_dir.display()
            ));
        }
        if there.is_none() || there != self.store.current().as_deref() {
            actions.push(format!(
                "link the programs of {} in `{}`",
                plan.version,
                self.bin_dir.display()
            ));
        }
        if !options.no_modify_path && !shell_files::is_in_path(environment, &self.bin_dir) {
            let candidates = shell_files::candidates(environment).into_iter();
            let lacking =
                candidates.filter(|path| shell_files::lacks(path, self.bin_dir.as_os_str()));
            actions.extend(lacking.map(|path| {
                format!("add `{}` to PATH in `{}`", self.bin_dir.display(), path.display())
            }));
        }
        outcome.set = there.map(str::to_owned);
        outcome.changed = !actions.is_empty();
        if options.install {
            let words = install_words(environment, options);
            let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
            actions.push(format!("run `{OWN} {}`", words.join(" ")));
        }
    }

    /// Becomes the installer of what is now in place.
    fn install(&self, environment: &Environment, options: &FetchOptions) -> Result<Exit, Error> {
        if options.dry_run {
            return Ok(Exit::Good);
        }
        let program = self.bin_dir.join(OWN);
        let path = environment.get("PATH").unwrap_or_default();
        let path = std::iter::once(self.bin_dir.clone()).chain(std::env::split_paths(path));
        let path = std::env::join_paths(path).unwrap_or_default();
        let error = Command::new(&program)
            .args(install_words(environment, options))
            .env("PATH", path)
            .exec();
        let what = format!("`{}` cannot be run", program.display());
        Err(Error::new(Exit::CannotRun, what).because(&error))
    }
}

/// The words for `dockerd-rootless`: upstream's two variables become options.
fn install_words(environment: &Environment, options: &FetchOptions) -> Vec<OsString> {
    let mut words = vec![OsString::from("install")];
    for (variable, option) in
        [("FORCE_ROOTLESS_INSTALL", "--force"), ("SKIP_IPTABLES", "--skip-iptables")]
    {
        let is_there = options.words.iter().any(|word| word == option);
        if environment.get(variable).is_some() && !is_there {
            words.push(option.into());
        }
    }
    words.extend(options.words.iter().cloned());
    words
}

/// A tarball that is here, with its sum.
fn read_local(path: &Path, expected: Option<Sum>) -> Result<(File, Sum), Error> {
    let opened = files::open_regular(path).and_then(|(mut file, _)| {
        let sum = sum_of(&mut file)?;
        Ok((file, sum))
    });
    let (file, sum) = opened.map_err(|error| failed(path, "cannot be read", &error))?;
    match expected {
        Some(expected) if expected != sum => {
            let what =
                format!("`{}` has the SHA-256 sum `{sum}` instead of `{expected}`", path.display());
            Err(Error::new(Exit::Integrity, what).hint("nothing was changed; get the file anew"))
        }
        _ => Ok((file, sum)),
    }
}

fn print(home: &Home, options: &FetchOptions, outcome: &Outcome) -> Result<(), Error> {
    let text = match options.format {
        Format::Text => {
            let mut lines = outcome.actions.clone();
            if !outcome.changed && outcome.actions.is_empty() {
                lines.push("nothing to do".to_owned());
            }
            if options.remove {
                lines = lines
                    .into_iter()
                    .map(|line| match outcome.changed {
                        true if options.dry_run => format!("would remove: {line}"),
                        true => format!("removed: {line}"),
                        false => line,
                    })
                    .collect();
            } else if let Some(version) = &outcome.version {
                let verb = if options.dry_run { "would be" } else { "is" };
                lines.push(format!("Docker {version} {verb} in `{}`", home.bin_dir.display()));
            }
            lines.join("\n") + "\n"
        }
        Format::Json => {
            let object = json!({
                "schema": 1,
                "changed": outcome.changed,
                "dry_run": options.dry_run,
                "version": outcome.version,
                "set": outcome.set,
                "bin_dir": home.bin_dir.to_string_lossy(),
                "actions": outcome.actions,
            });
            format!("{object:#}\n")
        }
    };
    output::print(text)
}
