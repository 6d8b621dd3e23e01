//! `fetch`: Docker's static programs, side by side in versions, with one switch between them.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::cli::output;
use crate::cli::output::Format;
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::{look, places};
use crate::fetch::{self, Client, Made, Request, Step, Store, Version};
use crate::setup::SERVICE;
use crate::supervise;

/// What follows the options in the help.
pub const EXAMPLES: &str = "\
A flag wins over its variable. FORCE_ROOTLESS_INSTALL and SKIP_IPTABLES become --force and
--skip-iptables of `install`. Ends with 6 if a checksum or a tarball is wrong.";

/// The options of `fetch`.
#[derive(Args)]
pub struct FetchOptions {
    #[command(flatten)]
    request: Request,
    /// Where links to the programs are made [variable DOCKER_BIN; default: ~/bin]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
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
    /// Then restart and verify the daemon; go back to the version before if that fails
    #[arg(long, conflicts_with_all = ["remove", "install"])]
    verify: bool,
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

/// Plans, and performs the plan or prints it.
pub fn run(environment: &Environment, options: &FetchOptions) -> Result<Exit, Error> {
    let is_fetch = !options.remove && !options.rollback;
    let bin_dir = is_fetch.then(|| options.bin_dir(environment)).transpose()?;
    if options.remove {
        refuse_in_use(environment)?;
    }
    bin_dir.as_deref().map(fetch::check_writable).transpose()?;
    let store = Store::find(environment, bin_dir)?;
    let is_locked = !options.dry_run && (is_fetch || store.root.exists());
    let _lock = is_locked.then(|| store.lock()).transpose()?;
    if options.remove {
        let steps = fetch::removal(&store, environment);
        return carry_out(options, &store, steps, Made::default(), None);
    }
    if options.rollback {
        let (mut steps, made) = fetch::roll_back(&store)?;
        options.add_proof(environment, &store, &mut steps);
        return carry_out(options, &store, steps, made, None);
    }
    let client = Client::find(environment, &options.request);
    let (version, tarballs) = options.request.resolve(environment, &client)?;
    let path = environment.get("PATH").unwrap_or_default();
    let is_in_path = std::env::split_paths(path).any(|entry| entry == store.bin_dir);
    let shell_files = match options.no_modify_path || is_in_path {
        true => Vec::new(),
        false => fetch::shell_files::files(environment, false),
    };
    let (mut steps, made) = fetch::fetch(&store, &client, &version, &tarballs, shell_files)?;
    if options.install {
        steps.push(fetch::install(&store, options.install_args(environment)));
    }
    options.add_proof(environment, &store, &mut steps);
    carry_out(options, &store, steps, made, Some(&version))
}

impl FetchOptions {
    /// Returns where the links are made, which must be a directory that PATH can hold.
    fn bin_dir(&self, environment: &Environment) -> Result<PathBuf, Error> {
        let variable = || environment.get("DOCKER_BIN").map(PathBuf::from);
        let default = || environment.absolute("HOME").map(|home| home.join("bin"));
        let named = self.bin_dir.clone().or_else(variable).or_else(default).unwrap_or_default();
        let path = fetch::at(&named, std::path::absolute(&named))?;
        if path.to_str().is_some_and(|text| !text.contains([':', '\n'])) {
            return Ok(path);
        }
        let shown = path.display();
        let what =
            format!("`{shown}` cannot be in PATH: it holds a colon or a newline, or is not UTF-8");
        Err(Error::new(Exit::Usage, what).hint("name another directory: --bin-dir DIR"))
    }

    /// Adds to `steps` that the daemon is verified, if that is asked for.
    fn add_proof<'s>(
        &self,
        environment: &Environment,
        store: &'s Store,
        steps: &mut Vec<Step<'s>>,
    ) {
        let runtime_dir = look::person(environment).runtime_dir.map(|(path, _)| path);
        let run_dir = places::run_dir(&runtime_dir.unwrap_or_default());
        if self.verify {
            fetch::prove(store, run_dir, self.format == Format::Json, steps);
        }
    }

    /// Returns the arguments for `dockerd-rootless`: upstream's two variables become options.
    fn install_args(&self, environment: &Environment) -> Vec<OsString> {
        let mut args = vec![OsString::from("install")];
        for (variable, option) in
            [("FORCE_ROOTLESS_INSTALL", "--force"), ("SKIP_IPTABLES", "--skip-iptables")]
        {
            if environment.get(variable).is_some() && !self.install_args.contains(&option.into()) {
                args.push(option.into());
            }
        }
        args.extend(self.install_args.iter().cloned());
        args
    }
}

/// Refuses to remove the programs of a daemon that runs: it starts containers with them.
fn refuse_in_use(environment: &Environment) -> Result<(), Error> {
    let runtime_dir = look::person(environment).runtime_dir;
    let status = runtime_dir.and_then(|(path, _)| supervise::read_status(&places::run_dir(&path)));
    let Some(status) = status else {
        return Ok(());
    };
    let pid = status.supervisor;
    let what = format!("rootless Docker is running with these programs (PID {pid})");
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let hint = match cgroup.contains(&format!("/{SERVICE}")) {
        true => "dockerd-rootless uninstall --remove-binaries".to_owned(),
        false => format!("kill {pid}"),
    };
    Err(Error::new(Exit::AlreadyRunning, what).hint(hint))
}

/// Performs `steps`, or prints them.
fn carry_out(
    options: &FetchOptions,
    store: &Store,
    steps: Vec<Step<'_>>,
    made: Made,
    version: Option<&Version>,
) -> Result<Exit, Error> {
    let is_text = options.format == Format::Text;
    let would = if options.dry_run { "would " } else { "" };
    let mut done = Vec::new();
    let made = fetch::perform(steps, options.dry_run, made, |line| {
        if is_text {
            output::print(format!("{would}{line}\n"))?;
        }
        done.push(line);
        Ok(())
    })?;
    let version = version.map(|version| &*version.text);
    let object = json!({
        "changed": made.is_changed,
        "dry_run": options.dry_run,
        "version": version,
        "set": made.set,
        "bin_dir": store.bin_dir.to_string_lossy(),
        "actions": done,
    });
    let text = match version {
        _ if !done.is_empty() => String::new(),
        None => "nothing to do\n".to_owned(),
        Some(version) => format!("nothing to do: Docker {version} is in use\n"),
    };
    output::tell(options.format, object, text).map(|()| Exit::Good)
}
