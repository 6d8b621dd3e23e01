//! `fetch`: Docker's static programs, side by side in versions, with one switch between them.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::cli::output;
use crate::cli::output::Format;
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::{look, places};
use crate::fetch::download::Client;
use crate::fetch::perform::{Performer, Places};
use crate::fetch::plan::{self, Action, Facts};
use crate::fetch::shell_files;
use crate::fetch::source::Request;
use crate::fetch::store::{check_writable, failed};
use crate::supervise;

pub use crate::fetch::remove;

/// What follows the options in the help.
pub const EXAMPLES: &str = "\
A flag wins over its variable. FORCE_ROOTLESS_INSTALL and SKIP_IPTABLES become --force and
--skip-iptables of `install`. Ends with 6 if a checksum or a tarball is wrong.";

/// The options of `fetch`.
#[derive(Args)]
pub struct FetchOptions {
    /// A version, or `latest` for the newest on the mirror [default: the newest with a built-in checksum]
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
    /// One of Docker's channels [variable CHANNEL; default: stable]
    #[arg(long, value_name = "NAME")]
    channel: Option<String>,
    /// Another server than Docker's, with or without /linux/static [variable DOCKERD_ROOTLESS_MIRROR]
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// Use archives from DIR, without network access
    #[arg(long, value_name = "DIR", conflicts_with = "mirror")]
    offline: Option<PathBuf>,
    /// Where links to the programs are made [variable DOCKER_BIN; default: ~/bin]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// The SHA-256 sum that an archive must have; once for each
    #[arg(long, value_name = "FILE=SUM")]
    sha256: Vec<String>,
    /// A list of such sums, as sha256sum writes it
    #[arg(long, value_name = "FILE")]
    checksums: Option<PathBuf>,
    /// Accept archives without a known checksum (dangerous: the network can replace them)
    #[arg(long)]
    insecure_no_checksum: bool,
    /// Use http, too (dangerous: the network can read and replace what is downloaded)
    #[arg(long)]
    insecure_http: bool,
    /// How many seconds a server may be silent
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = clap::value_parser!(u16).range(1..))]
    timeout: u16,
    /// Do not add the directory to PATH in shell files
    #[arg(long)]
    no_modify_path: bool,
    /// Switch to the previous version; run again to switch back
    #[arg(long, conflicts_with_all = ["remove", "version", "offline"])]
    rollback: bool,
    /// Undo all that fetch did: links, programs, lines in shell files
    #[arg(long, conflicts_with_all = ["version", "offline", "install"])]
    remove: bool,
    /// Then run `dockerd-rootless install` with the arguments after `--`
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
    install_args: Vec<OsString>,
}

/// Looks, plans, and performs the plan or prints it.
pub fn run(environment: &Environment, options: &FetchOptions) -> Result<Exit, Error> {
    let places = Places::find(environment)?;
    let is_fetch = !options.remove && !options.rollback;
    let bin_dir = if is_fetch { Some(options.bin_dir(environment, &places)?) } else { None };
    if options.remove {
        refuse_in_use(environment)?;
    }
    if let Some(bin_dir) = &bin_dir {
        check_writable(bin_dir)?;
    }
    let has_store = places.store.root.symlink_metadata().is_ok();
    let is_locked = !options.dry_run && (is_fetch || has_store);
    let _lock = if is_locked { Some(places.store.lock()?) } else { None };
    let mut facts = places.look(bin_dir.as_deref())?;
    let mut version = None;
    let mut client = None;
    let plan = if options.remove {
        plan::remove(&facts)
    } else if options.rollback {
        plan::roll_back(&facts)?
    } else {
        let asks = client.insert(Client::find(environment, options.insecure_http, options.timeout));
        let (wanted, tarballs) = options.request(environment).resolve(asks)?;
        let files = shell_files::candidates(environment);
        let is_needed =
            !options.no_modify_path && !shell_files::is_in_path(environment, &facts.bin_dir);
        places.look_for(&mut facts, &tarballs, files.into_iter().filter(|_| is_needed))?;
        let mut plan = plan::fetch(&facts, &wanted, tarballs)?;
        if options.install {
            plan.push(Action::Install(options.install_args(environment)));
        }
        version = Some(wanted.to_string());
        plan
    };
    let performer = Performer::new(&places, &facts, client.as_ref());
    carry_out(options, &facts, version, &plan, performer)
}

impl FetchOptions {
    /// Returns where the links are made, which must be a directory that PATH can hold.
    fn bin_dir(&self, environment: &Environment, places: &Places) -> Result<PathBuf, Error> {
        let named =
            self.bin_dir.clone().or_else(|| environment.get("DOCKER_BIN").map(PathBuf::from));
        let default =
            || environment.absolute("HOME").unwrap_or(places.store.root.clone()).join("bin");
        let named = named.unwrap_or_else(default);
        let path =
            std::path::absolute(&named).map_err(|error| failed(&named, "is not a path", &error))?;
        match path.to_str() {
            Some(text) if !text.contains([':', '\n']) => Ok(path),
            _ => {
                let shown = path.display();
                let what = format!(
                    "`{shown}` cannot be in PATH: it holds a colon or a newline, or is not UTF-8"
                );
                Err(Error::new(Exit::Usage, what).hint("name another directory: --bin-dir DIR"))
            }
        }
    }

    fn request(&self, environment: &Environment) -> Request<'_> {
        let text = |name| environment.get(name).map(|value| value.to_string_lossy().into_owned());
        let channel = self.channel.clone().or_else(|| text("CHANNEL"));
        Request {
            version: self.version.as_deref(),
            channel: channel.unwrap_or_else(|| "stable".to_owned()),
            mirror: self.mirror.clone().or_else(|| text("DOCKERD_ROOTLESS_MIRROR")),
            offline: self.offline.as_deref(),
            sha256: &self.sha256,
            checksums: self.checksums.as_deref(),
            insecure_no_checksum: self.insecure_no_checksum,
            insecure_http: self.insecure_http,
        }
    }

    /// Returns the arguments for `dockerd-rootless`: upstream's two variables become options.
    fn install_args(&self, environment: &Environment) -> Vec<OsString> {
        let variables =
            [("FORCE_ROOTLESS_INSTALL", "--force"), ("SKIP_IPTABLES", "--skip-iptables")];
        let set = variables.into_iter().filter(|(variable, option)| {
            environment.get(variable).is_some() && self.install_args.iter().all(|arg| arg != option)
        });
        let options = set.map(|(_, option)| option.into());
        [OsString::from("install")]
            .into_iter()
            .chain(options)
            .chain(self.install_args.clone())
            .collect()
    }
}

/// Refuses to remove the programs of a daemon that runs: it starts containers with them.
fn refuse_in_use(environment: &Environment) -> Result<(), Error> {
    let runtime_dir = look::person(environment).runtime_dir;
    let status = runtime_dir.and_then(|(path, _)| supervise::read_status(&places::run_dir(&path)));
    match status {
        None => Ok(()),
        Some(status) => {
            let pid = status.supervisor;
            let what = format!("rootless Docker is running with these programs (PID {pid})");
            Err(Error::new(Exit::AlreadyRunning, what)
                .hint("dockerd-rootless uninstall --remove-binaries"))
        }
    }
}

/// Performs `plan`, or prints it.
fn carry_out(
    options: &FetchOptions,
    facts: &Facts,
    version: Option<String>,
    plan: &[Action],
    mut performer: Performer<'_>,
) -> Result<Exit, Error> {
    let is_text = options.format == Format::Text;
    let (mut done, mut is_changed) = (Vec::new(), false);
    for action in plan {
        if options.dry_run || performer.perform(action)? {
            let line = action.explain(!options.dry_run);
            if is_text {
                output::print(format!("{}{line}\n", if options.dry_run { "would " } else { "" }))?;
            }
            done.push(line);
            is_changed |= !matches!(action, Action::Get(_) | Action::Install(_));
        }
    }
    if is_text && done.is_empty() {
        let version = version
            .as_ref()
            .map_or(String::new(), |version| format!(": Docker {version} is in use"));
        output::print(format!("nothing to do{version}\n"))?;
    }
    if !is_text {
        let ready = facts.ready.as_ref().map(|ready| ready.set.clone());
        let object = json!({
            "schema": 1,
            "changed": is_changed,
            "dry_run": options.dry_run,
            "version": version,
            "set": performer.set().or(ready),
            "bin_dir": facts.bin_dir.to_string_lossy(),
            "actions": done,
        });
        output::print(format!("{object:#}\n"))?;
    }
    Ok(Exit::Good)
}
