//! Enters the namespaces of a daemon that runs, as upstream's `dockerd-rootless-setuptool.sh
//! nsenter` does: the user and the mount namespace, and the network unless that is detached.

use std::env;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sched::{CloneFlags, setns};

use crate::error::{Error, Exit};
use crate::facts::Lock;
use crate::facts::look;

/// The largest `child_pid` in bytes.
const PID_MAX: u64 = 64;

/// Enters the namespaces whose state directory of rootlesskit's is `state_dir`. This process has one
/// thread.
///
/// # Errors
/// Exit 3 if nothing runs, exit 1 with what the kernel says.
pub fn enter(state_dir: &Path) -> Result<(), Error> {
    let file = state_dir.join("child_pid");
    let not_running = |why: &dyn std::error::Error| {
        let what =
            format!("no rootless Docker runs in the state directory `{}`", state_dir.display());
        Error::new(Exit::NotRunning, what).because(why).hint("dockerd-rootless status")
    };
    let text =
        crate::sys::files::read_regular(&file, PID_MAX).map_err(|error| not_running(&error))?;
    // A file that was left may name another process of the user's, in other namespaces.
    if look::lock(&state_dir.join("lock")) == Lock::Free {
        let why = format!("`{}` is stale: rootlesskit holds no lock", file.display());
        return Err(not_running(&io::Error::other(why)));
    }
    let pid: Option<u32> = text
        .and_then(|text| String::from_utf8(text).ok())
        .and_then(|text| text.trim().parse().ok());
    let Some(pid) = pid else {
        let why = format!("`{}` holds no PID", file.display());
        return Err(not_running(&io::Error::other(why)));
    };
    let other = |path: &str| -> io::Result<(File, bool)> {
        let namespace = File::open(format!("/proc/{pid}/ns/{path}"))?;
        let own = fs::metadata(format!("/proc/self/ns/{path}"))?;
        let is_other = namespace.metadata()?.ino() != own.ino();
        Ok((namespace, is_other))
    };
    let (user, is_other) = other("user").map_err(|error| not_running(&error))?;
    let owner = fs::metadata(format!("/proc/{pid}")).map_err(|error| not_running(&error))?.uid();
    if !is_other || owner != look::uid() {
        let why = format!("process {pid} is not rootlesskit's child: the file is stale");
        return Err(not_running(&io::Error::other(why)));
    }
    // With detached network, the daemon's own one is the host's.
    let detached = state_dir.join("netns").exists();
    let mut namespaces = vec![("user", CloneFlags::CLONE_NEWUSER, user)];
    for (name, flag) in [("net", CloneFlags::CLONE_NEWNET), ("mnt", CloneFlags::CLONE_NEWNS)] {
        if name == "net" && detached {
            continue;
        }
        let (namespace, _) = other(name).map_err(|error| not_running(&error))?;
        namespaces.push((name, flag, namespace));
    }
    let directory = env::current_dir();
    for (name, flag, namespace) in namespaces {
        setns(namespace, flag).map_err(|errno| {
            let what = format!("the {name} namespace of process {pid} cannot be entered");
            Error::new(Exit::Failed, what).because(&errno)
        })?;
    }
    // The mount namespace has put us at its root.
    let back = directory.and_then(env::set_current_dir);
    back.or_else(|_| env::set_current_dir("/")).map_err(|error| {
        Error::new(Exit::Failed, "there is no working directory in the namespaces").because(&error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_left_leads_nowhere() {
        let state_dir = tempfile::tempdir().expect("a directory");
        fs::write(state_dir.path().join("child_pid"), "1").expect("a file");
        for has_lock in [false, true] {
            if has_lock {
                File::create(state_dir.path().join("lock")).expect("a lock");
            }
            let refused = enter(state_dir.path()).expect_err("nobody holds the lock");
            assert_eq!(refused.exit(), Exit::NotRunning);
            assert!(refused.render().contains("holds no lock"), "{refused:?}");
        }
    }
}
