//! A host on 10.0.2.0/24, as QEMU and VirtualBox make it, with a route into 172.17.0.0/16, as VPNs have it.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_support::docker::{IMAGE, PAGE};
use test_support::process::{self, Background};
use test_support::*;

/// The host's own addresses, one of its neighbours, and one behind that.
const HOST: &str = "10.0.2.15/24";
const NEIGHBOUR: &str = "10.0.2.77";
const BEHIND: &str = "172.17.4.9";

/// Serves the page in `room` at `address` until the value goes.
fn serve(user: &TestUser, room: &Room<'_>, address: &str) -> Background {
    user.write(&user.home.join("www/index.html"), PAGE);
    let mut server = room.root("busybox");
    server.args(["httpd", "-f", "-p", &format!("{address}:80"), "-h"]).arg(user.home.join("www"));
    Background::start(&mut server)
}

/// Has a new container fetch the page of `server`.
fn assert_reached(daemon: &Daemon<'_>, server: &str) {
    let named = format!("run --rm --add-host host.docker.internal:host-gateway {IMAGE}");
    let told = daemon.docker.run(&format!("{named} wget -q -O- http://{server}/"));
    assert_eq!(told, PAGE, "{server}");
}

/// Finds slirp4netns.
fn helper(user: &TestUser) -> Option<i32> {
    let all = process::list(user.uid, &user.subordinate);
    let helper = all.iter().find(|process| process.command.starts_with("slirp4netns "));
    helper.map(|process| process.pid)
}

#[test]
fn containers_reach_what_the_host_reaches_where_it_has_their_usual_addresses_itself() {
    let user = TestUser::new();
    let far = Room::apart(&user, "");
    let host = Room::apart(
        &user,
        &format!(
            "ip link add eth0 type veth peer name eth0 netns {}
            ip addr add {HOST} dev eth0
            ip link set eth0 up
            ip route add default via {NEIGHBOUR}
            ip route add 172.17.4.0/24 via {NEIGHBOUR}",
            far.pid()
        ),
    );
    for words in
        ["addr add 10.0.2.77/24 dev eth0", "addr add 172.17.4.9/32 dev lo", "link set eth0 up"]
    {
        command::run(far.root("ip").args(words.split(' ')));
    }
    let _servers = [
        serve(&user, &far, NEIGHBOUR),
        serve(&user, &far, BEHIND),
        serve(&user, &host, "127.0.0.1"),
    ];
    let mut daemon = Launch::new(&user, Launcher::Run)
        .room(&host)
        .env("DOCKERD_ROOTLESS_ROOTLESSKIT_DISABLE_HOST_LOOPBACK", "false")
        .ready();
    daemon.docker.import_image();
    for server in [NEIGHBOUR, BEHIND, "host.docker.internal"] {
        assert_reached(&daemon, server);
    }
    let addresses = daemon.docker.container("ip -4 addr show dev eth0");
    assert!(addresses.contains("inet 10.191.0."), "{addresses}");

    // The helper that takes another's place has the same addresses.
    let first = helper(&user).expect("a helper");
    kill(Pid::from_raw(first), Signal::SIGKILL).expect("kill the helper");
    wait::until("another helper", || helper(&user).filter(|pid| *pid != first));
    for server in [NEIGHBOUR, "host.docker.internal"] {
        assert_reached(&daemon, server);
    }
    assert_eq!(daemon.stop().code(), Some(0));
    assert_nothing_left(&user);
}

#[test]
fn check_says_which_addresses_it_avoids_and_warns_of_stated_ones() {
    let user = TestUser::new();
    let script = format!(
        "ip link add eth0 type veth peer name eth1\nip link set eth1 up\nip addr add {HOST} dev eth0\nip link set eth0 up"
    );
    let host = Room::apart(&user, &script);
    let program = Launcher::Run.install(&user);
    for (words, status, says) in [
        (&[][..], "ok", "the host does not use 10.190.2.0/24 and 172.17.0.0/16"),
        (
            &["--set", "network.cidr=10.0.2.0/24"],
            "warn",
            "the network of the namespace is 10.0.2.0/24, and the host uses 10.0.2.0/24 itself",
        ),
    ] {
        let mut check = host.command(&program);
        check.args(["check", "--only", "addresses", "--format", "json"]).args(words);
        let told = Told::by(&mut check).check("addresses");
        assert_eq!((told["status"].as_str(), told["summary"].as_str()), (Some(status), Some(says)));
    }
}
