//! `unshare`: a command that works on files as root of containers does, whether a daemon runs or not.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sched::{CloneFlags, setns};

use crate::cli::nsenter::become_command;
use crate::cli::run::make_runtime_dir;
use crate::cli::sources::layers;
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::look;
use crate::facts::places;
use crate::facts::probe::{self, ProbeDepth};
use crate::plan;
use crate::settings::Settings;
use crate::stage::nsenter;

/// How long rootlesskit may take for a user namespace.
const PATIENCE: Duration = Duration::from_secs(20);

/// A process in a user namespace that has the daemon's IDs.
pub struct Member {
    pub pid: u32,
    /// What ends the process when the last copy of it is closed; `None` if it is the daemon's.
    hold: Option<UnixStream>,
}

/// Finds the daemon's user namespace, or has rootlesskit make one: only rootlesskit knows all sources
/// of subordinate IDs.
pub fn member(environment: &Environment) -> Result<Member, Error> {
    let person = look::person(environment);
    let runtime_dir = plan::refuse_person(&person)?.to_owned();
    let settings = Settings::resolve(&layers(environment, &[])?)?;
    if let Ok(pid) = nsenter::find_child(&places::state_dir(&settings, None, &runtime_dir)) {
        return Ok(Member { pid, hold: None });
    }
    // rootlesskit would make it for all users to see.
    let person = make_runtime_dir(environment, person)?;
    let host = probe::host(&settings, environment, person, ProbeDepth::Launch)?;
    let rootlesskit = host.tools.rootlesskit.path().ok_or_else(|| {
        Error::new(Exit::NotFound, "rootlesskit is not installed").hint("dockerd-rootless check")
    })?;
    // `check` removes those of its own that no process has locked.
    let state_dir = runtime_dir.join(format!(".dru-{}", std::process::id()));
    hold(rootlesskit, &state_dir).map_err(|error| {
        Error::new(Exit::Prerequisite, "rootlesskit does not make a user namespace")
            .because(&error)
            .hint("dockerd-rootless check")
    })
}

/// Has `rootlesskit` make namespaces that stay until all copies of the stream are closed; it removes
/// `state_dir` then. It is not our child: a command that waits for all its children would wait for
/// ever.
fn hold(rootlesskit: &Path, state_dir: &Path) -> io::Result<Member> {
    let (mut own, other) = UnixStream::pair()?;
    own.set_read_timeout(Some(PATIENCE))?;
    let mut command = Command::new("sh");
    command
        // A shell gives /dev/null to what it starts in the background.
        .args(["-c", "exec 3<&0; \"$0\" \"$@\" <&3 3<&- &"])
        .arg(rootlesskit)
        .arg("--state-dir")
        .arg(state_dir)
        .args(["sh", "-c", "echo $$ && exec cat"])
        // Ctrl-C is for the command.
        .process_group(0)
        .stdout(OwnedFd::from(other.try_clone()?))
        .stderr(OwnedFd::from(other.try_clone()?))
        .stdin(OwnedFd::from(other));
    command.status()?;
    // It keeps the other end open otherwise.
    drop(command);
    let (mut said, mut buffer) = (String::new(), [0; 4096]);
    loop {
        let count = own.read(&mut buffer)?;
        if count == 0 {
            let last = said.lines().last().unwrap_or_default();
            return Err(io::Error::other(last.to_owned()));
        }
        said.push_str(&String::from_utf8_lossy(&buffer[..count]));
        let mut lines = said.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        if let Some(pid) = lines.find_map(|line| line.parse().ok()) {
            return Ok(Member { pid, hold: Some(own) });
        }
    }
}

/// Runs `words` as root of the user namespace, in place of this process; without any, the user's
/// shell.
pub fn run(environment: &Environment, words: &[OsString]) -> Result<Exit, Error> {
    let Member { pid, hold } = member(environment)?;
    let enter = || -> io::Result<()> {
        // The command inherits it.
        hold.iter().try_for_each(|hold| {
            fcntl(hold.as_fd(), FcntlArg::F_SETFD(FdFlag::empty())).map(drop)
        })?;
        Ok(setns(File::open(format!("/proc/{pid}/ns/user"))?, CloneFlags::CLONE_NEWUSER)?)
    };
    enter().map_err(|error| {
        let what = format!("the user namespace of process {pid} cannot be entered");
        Error::new(Exit::Failed, what).because(&error)
    })?;
    Err(become_command(environment, words))
}
