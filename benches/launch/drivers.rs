//! What containers see and reach, by network driver and port driver: a row of `docs/networking.md` for each pair that
//! this host has.

use std::{fs, thread};

use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use test_support::command::run;
use test_support::*;

use crate::path;

/// Every pair that a user can choose.
const PAIRS: [(&str, &str); 7] = [
    ("slirp4netns", "builtin"),
    ("slirp4netns", "slirp4netns"),
    ("pasta", "implicit"),
    ("gvisor-tap-vsock", "builtin"),
    ("gvisor-tap-vsock", "gvisor-tap-vsock"),
    ("vpnkit", "builtin"),
    ("lxc-user-nic", "builtin"),
];

/// The questions of `verify` that are the columns.
const QUESTIONS: [(&str, &str); 7] = [
    ("tcp4", "address of a client at the host's own"),
    ("localhost", "of one at 127.0.0.1"),
    ("tcp6", "over IPv6"),
    ("host-docker-internal", "the host's loopback"),
    ("ping", "ping"),
    ("mtu", "MTU"),
    ("speed", "MB/s"),
];

/// Prints the table, with host loopback and IPv6 on, from a host with its own network, in which everyone may ping.
pub fn measure() {
    let host = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        for line in [
            "link set lo up",
            "link add eth0 type veth peer name eth1",
            "link set eth1 up",
            "addr add 203.0.113.1/24 dev eth0",
            "addr add 2001:db8::1/64 dev eth0 nodad",
            "link set eth0 up",
            "route add default via 203.0.113.254",
        ] {
            run(std::process::Command::new("ip").args(line.split(' ')));
        }
        fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").expect("the sysctl");
        let heads = QUESTIONS.map(|(_, head)| head).join(" | ");
        println!("| network driver | port driver | {heads} |");
        println!("|---|---|{}", "---|".repeat(QUESTIONS.len()));
        for (network, port) in PAIRS {
            println!("| {network} | {port} | {} |", cells(network, port).join(" | "));
        }
    });
    host.join().expect("the table");
}

/// What `verify` answers for a pair, or why no daemon starts with it.
fn cells(network: &str, port: &str) -> Vec<String> {
    let user = TestUser::new();
    let program = Launcher::Run.install(&user);
    let path = path();
    let variables = [
        ("PATH", path.as_str()),
        ("DOCKERD_ROOTLESS_ROOTLESSKIT_NET", network),
        ("DOCKERD_ROOTLESS_ROOTLESSKIT_PORT_DRIVER", port),
        ("DOCKERD_ROOTLESS_ROOTLESSKIT_DISABLE_HOST_LOOPBACK", "false"),
        // rootlesskit refuses this driver with IPv6.
        ("DOCKERD_ROOTLESS_IPV6", if network == "gvisor-tap-vsock" { "false" } else { "true" }),
    ];
    let plan = command::Told::by(user.command(&program).arg("plan").envs(variables));
    if plan.code != Some(0) {
        return vec![format!("not here: {}", plan.stderr.lines().next().unwrap_or_default())];
    }
    let launch = Launch::new(&user, Launcher::Run);
    let launch = variables.iter().fold(launch, |launch, (name, value)| launch.env(name, value));
    let mut daemon = launch.ready();
    let only = QUESTIONS.map(|(name, _)| name).join(",");
    let words = ["verify", "--format", "json", "--only", &only];
    let told = command::Told::by(user.brief_command(&program).args(words).envs(variables));
    daemon.stop();
    QUESTIONS.map(|(name, _)| cell(&told.check(name))).to_vec()
}

/// The part of an answer that fits a table.
fn cell(row: &Value) -> String {
    let word = |key: &str| row[key].as_str().unwrap_or_default();
    let answer = word("answer").trim_start_matches("open; the container sees ");
    let (short, _) = answer.split_once(", not ").unwrap_or((answer, ""));
    match word("status") {
        "pass" => short.to_owned(),
        status => format!("{status}: {short}"),
    }
}
