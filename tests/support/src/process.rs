//! Processes as /proc shows them, picked by uid. A program's name is never asked for: other things run on the host too.

use std::fs;
use std::ops::Range;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait;

/// One process of a test user.
#[derive(Debug)]
pub struct Process {
    pub pid: i32,
    pub command: String,
}

/// The processes that run under `uid` or one of `subordinate`. Zombies are over: either PID 1 has yet to reap them, which
/// it does late here, or their parent is on the list itself.
pub fn list(uid: u32, subordinate: &Range<u32>) -> Vec<Process> {
    pids()
        .filter_map(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let owned = field(&status, "Uid:")?
                .split_whitespace()
                .filter_map(|word| word.parse().ok())
                .any(|id: u32| id == uid || subordinate.contains(&id));
            let over = field(&status, "State:")?.starts_with(['Z', 'X']);
            (owned && !over).then(|| Process { pid, command: command_line(pid, &status) })
        })
        .collect()
}

/// A helper of a test that runs beside it and is killed when the value goes.
pub struct Background(Child);

impl Background {
    pub fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap_or_else(|e| panic!("{command:?}: {e}")))
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Sends a signal and returns how the helper ends.
    pub fn end_by(&mut self, signal: Signal) -> ExitStatus {
        let pid = Pid::from_raw(self.0.id().try_into().expect("a pid is positive"));
        kill(pid, signal).expect("it is there");
        wait::until("the helper ends", || self.0.try_wait().expect("wait for the helper"))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// SIGKILL to all of them until none is left (a process may fork while the list is read); what would not die is returned.
pub fn kill_all(uid: u32, subordinate: &Range<u32>) -> Vec<Process> {
    let mut last = Vec::new();
    wait::poll(wait::PATIENCE, || {
        last = list(uid, subordinate);
        for process in &last {
            // It may have ended since it was listed.
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
        last.is_empty().then_some(())
    });
    last
}

/// All process ids of the host.
pub fn pids() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc")
        .expect("read /proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn field<'s>(status: &'s str, name: &str) -> Option<&'s str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

fn command_line(pid: i32, status: &str) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    if words.is_empty() {
        return format!("[{}]", field(status, "Name:").unwrap_or_default());
    }
    String::from_utf8_lossy(&words).replace('\0', " ")
}
