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
use crate::sys::files;

/// The largest `child_pid` in bytes.
const PID_MAX: u64 = 64;

/// Enters the namespaces of the rootlesskit with this state directory. This process has one thread.
/// Exit 3 if nothing runs.
pub fn enter(state_dir: &Path) -> Result<(), Error> {
    let pid = find_child(state_dir).map_err(|why| {
        let what =
            format!("no rootless Docker runs in the state directory `{}`", state_dir.display());
        Error::new(Exit::NotRunning, what).because(&why).hint("dockerd-rootless status")
    })?;
    let mut namespaces =
        vec![("user", CloneFlags::CLONE_NEWUSER), ("mnt", CloneFlags::CLONE_NEWNS)];
    // With detached network, the daemon's own one is the host's.
    if !state_dir.join("netns").exists() {
        namespaces.insert(1, ("net", CloneFlags::CLONE_NEWNET));
    }
    let open = |(name, flag)| Ok((File::open(format!("/proc/{pid}/ns/{name}"))?, flag));
    let enter = || -> io::Result<()> {
        let opened = namespaces.into_iter().map(open).collect::<io::Result<Vec<_>>>()?;
        let directory = env::current_dir();
        opened.into_iter().try_for_each(|(file, flag)| setns(file, flag))?;
        // The mount namespace has put us at its root.
        directory.and_then(env::set_current_dir).or_else(|_| env::set_current_dir("/"))
    };
    enter().map_err(|error| {
        let what = format!("the namespaces of process {pid} cannot be entered");
        Error::new(Exit::Failed, what).because(&error)
    })
}

/// Returns the PID of the child of the rootlesskit with this state directory, or says why there is none.
pub fn find_child(state_dir: &Path) -> io::Result<u32> {
    let file = state_dir.join("child_pid");
    let text = files::read_regular(&file, PID_MAX)?;
    let name = file.display();
    // A file that was left may name another process of the user's, in other namespaces.
    if look::lock(&state_dir.join("lock")) == Lock::Free {
        return Err(io::Error::other(format!("`{name}` is stale: rootlesskit holds no lock")));
    }
    let text = text.and_then(|text| String::from_utf8(text).ok());
    let pid = text.and_then(|text| text.trim().parse().ok());
    let pid: u32 = pid.ok_or_else(|| io::Error::other(format!("`{name}` holds no PID")))?;
    let inode = fs::metadata(format!("/proc/{pid}/ns/user"))?.ino();
    let owner = fs::metadata(format!("/proc/{pid}"))?.uid();
    if inode == look::user_namespace()? || owner != look::uid() {
        let what = format!("process {pid} is not rootlesskit's child: the file is stale");
        return Err(io::Error::other(what));
    }
    Ok(pid)
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
            let refused = enter(state_dir.path()).expect_err("the lock is free");
            assert_eq!(refused.exit(), Exit::NotRunning);
            assert!(refused.render().contains("holds no lock"), "{refused:?}");
        }
    }
}
