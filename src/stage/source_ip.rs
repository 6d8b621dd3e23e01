//! Tries what rootlesskit 3 does so that containers see the addresses of clients. It does so at the first
//! connection, and says nothing if it fails.

use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};

use crate::sys::process;

/// rootlesskit's commands (`pkg/port/builtin/child`), those for IPv4.
const COMMANDS: [&str; 5] = [
    "ip route add local default dev lo table 100",
    "ip rule add fwmark 100 lookup 100 priority 100",
    "sysctl -q -w net.ipv4.tcp_fwmark_accept=1",
    "iptables -t mangle -A OUTPUT -p tcp -m addrtype ! --src-type LOCAL -j CONNMARK --set-mark 100",
    "iptables -t mangle -A PREROUTING -p tcp -m connmark --mark 100 -j MARK --set-mark 100",
];

/// How long one may take.
const TIME: Duration = Duration::from_secs(10);

/// Runs the commands in a network namespace that ends with the trial. They are found in our own PATH, which
/// is rootlesskit's.
pub fn probe_source_ip() -> Result<(), String> {
    let trial = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|errno| format!("no namespace: {}", errno.desc()))?;
        COMMANDS.iter().try_for_each(|line| {
            let mut words = line.split(' ');
            let mut command = Command::new(words.next().unwrap_or_default());
            let ran = process::succeed(command.args(words), TIME);
            ran.map(drop).map_err(|error| format!("`{line}` fails: {error}"))
        })
    });
    trial.join().unwrap_or_else(|_| Err("the trial panicked".to_owned()))
}
