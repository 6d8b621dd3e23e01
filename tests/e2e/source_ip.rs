//! The address of a client on another host, as a container sees it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Stdio;

use test_support::docker::IMAGE;
use test_support::user::PATH;
use test_support::*;

/// The client's address as the kernel writes it at the end of one in /proc/net/tcp6, and that of the bridge.
const CLIENT: &str = "0207630A";
const BRIDGE: &str = "010011AC";

/// Asks the container behind the port until it answers, and returns the address that it saw.
fn seen(client: &Room<'_>) -> String {
    let ask = || {
        let mut nc = client.root("busybox");
        nc.args(["nc", "-w", "3", "10.99.7.1", "8080"]).stdin(Stdio::null());
        let table = String::from_utf8(nc.output().ok()?.stdout).ok()?;
        // Its number, its own address, the other's, and the state: established, or the client has said all.
        let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let is_open = |line: &Vec<&str>| {
            let state = line.get(3).is_some_and(|state| ["01", "08"].contains(state));
            state && line[1].ends_with(":0050")
        };
        let other = lines.filter(is_open).find_map(|line| line[2].split_once(':'))?.0;
        Some(other[other.len().checked_sub(8)?..].to_owned())
    };
    wait::until("a published port answers", ask)
}

#[test]
fn a_container_sees_the_client_that_status_says_and_preserve_keeps_it() {
    for (wish, is_kept) in [("auto", false), ("preserve", true)] {
        let user = TestUser::new();
        let client = Room::apart(&user, "");
        let script = format!(
            "ip link add eth0 type veth peer name eth0 netns {}
            ip addr add 10.99.7.1/24 dev eth0
            ip link set eth0 up",
            client.pid()
        );
        let host = Room::apart(&user, &script);
        for words in ["addr add 10.99.7.2/24 dev eth0", "link set eth0 up"] {
            command::run(client.root("ip").args(words.split(' ')));
        }
        let launch = Launch::new(&user, Launcher::Run).room(&host);
        let mut daemon = launch.env("DOCKERD_ROOTLESS_SOURCE_IP", wish).ready();
        daemon.docker.import_image();
        let listen = "nc -ll -p 80 -e cat /proc/net/tcp /proc/net/tcp6";
        daemon.docker.run(&format!("run -d --stop-signal KILL -p 8080:80 {IMAGE} {listen}"));
        assert_eq!(seen(&client), if is_kept { CLIENT } else { BRIDGE }, "{wish}");

        let program = Launcher::Run.install(&user);
        let status = Told::by(user.command(&program).args(["status", "--format", "json"])).json();
        let said = status["clients"].as_str().expect("what containers see");
        assert_eq!(said.contains("the client's own address"), is_kept, "{said}");
        assert_eq!(daemon.stop().code(), Some(0));
        assert_nothing_left(&user);
    }
}

/// rootlesskit itself falls back in silence, at the first connection.
#[test]
fn the_stage_refuses_where_the_address_cannot_be_kept() {
    let user = TestUser::new();
    let program = Launcher::Run.install(&user);
    let broken = user.home.join("broken");
    let iptables = broken.join("iptables");
    user.write(&iptables, "#!/bin/sh\necho no mangle here >&2\nexit 3\n");
    fs::set_permissions(&iptables, fs::Permissions::from_mode(0o755)).expect("executable");
    let outside = fs::metadata("/proc/self/ns/user").expect("our user namespace").ino();
    let stage = |path: &str| {
        let mut rootlesskit = user.brief_command("rootlesskit");
        rootlesskit.args(["--net=slirp4netns", "--disable-host-loopback"]).arg(&program);
        let outside = format!("outside={outside}");
        rootlesskit.args(["namespace-stage", &outside, "require=source-ip", "--", "/bin/true"]);
        Told::by(rootlesskit.env("PATH", path))
    };
    stage(PATH).good();
    let refused = stage(&format!("{}:{PATH}", broken.display()));
    assert_eq!(refused.code, Some(78), "{refused:?}");
    assert!(refused.stderr.contains("fails: no mangle here"), "{refused:?}");
    assert_nothing_left(&user);
}
