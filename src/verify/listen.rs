//! A listener in the network that the daemon lives in: its 127.0.0.1 is not the host's, unless its
//! network is detached. A child enters the namespaces, which takes a process with one thread, and
//! hands the listener back.

use std::ffi::OsString;
use std::io::{self, Read};
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::error::{Error, Exit};
use crate::stage::nsenter;
use crate::sys::process;
use crate::sys::unix_sockets::{receive_descriptor, send_descriptor};

/// The words of the command line that are this child's: `verify-listen STATE_DIR`.
pub const LISTEN: &str = "verify-listen";

/// How long the child may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Opens a free port on 127.0.0.1 as the daemon with this state directory sees it.
pub fn open(state_dir: &Path) -> io::Result<TcpListener> {
    let (own, other) = UnixStream::pair()?;
    own.set_read_timeout(Some(PATIENCE))?;
    let mut command = Command::new("/proc/self/exe");
    command.arg(LISTEN).arg(state_dir).stdin(OwnedFd::from(other));
    let mut child = process::tie(command.stdout(Stdio::null()).stderr(Stdio::piped())).spawn()?;
    // It keeps the other end open otherwise, and the end of the child would not be seen.
    drop(command);
    let received = receive_descriptor(own.as_fd());
    if received.is_err() {
        child.kill()?;
    }
    child.wait()?;
    match received? {
        Some(listener) => Ok(listener.into()),
        None => {
            let mut said = String::new();
            child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut said)).transpose()?;
            let first = said.lines().next().unwrap_or_default();
            Err(io::Error::other(first.trim_start_matches("error: ").to_owned()))
        }
    }
}

/// Is the child.
pub fn run(words: &[OsString]) -> Result<Exit, Error> {
    let [state_dir] = words else {
        return Err(Error::new(Exit::Usage, "this command is a part of `verify`"));
    };
    nsenter::enter(Path::new(state_dir))?;
    let send = || {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        send_descriptor(io::stdin().as_fd(), listener.as_fd())
    };
    let failed = |error: io::Error| Error::new(Exit::Failed, "cannot listen").because(&error);
    send().map(|()| Exit::Good).map_err(failed)
}
