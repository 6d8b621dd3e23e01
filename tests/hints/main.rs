//! Mistakes, and what the program says of them: the message names the object and the value, and the hint is pasted as it
//! is printed by the user who was told, after which the start or the command works. Where a hint holds no command, it is
//! advice, and the row says so.
//!
//! A mistake is made in a room: root's files, the programs and the network there are the room's own.

mod shell;

use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shell::{Mistake, Then, play};
use test_support::docker::IMAGE;
use test_support::room::OWN_PLACES;
use test_support::*;

const START: Mistake = Mistake {
    what: "",
    root: "",
    files: &[],
    profile: "",
    command: "dockerd-rootless",
    code: 4,
    names: &[],
    then: Then::Starts,
};

#[rustfmt::skip]
const HOST: &[Mistake] = &[
    Mistake { what: "no subordinate ids", root: "sed -i /^@USER@:/d /etc/subuid /etc/subgid",
        names: &["/etc/subuid"], ..START },
    Mistake { what: "newuidmap without power", root: "chmod u-s /usr/bin/newuidmap", names: &["newuidmap"], ..START },
    Mistake { what: "a closed tun device",
        root: "mknod -m 600 /mnt/tun c 10 200; mount --bind /mnt/tun /dev/net/tun", names: &["/dev/net/tun"], ..START },
    Mistake { what: "no network helper", root: "hide slirp4netns pasta vpnkit", names: &["slirp4netns"], ..START },
    Mistake { what: "no rootlesskit", root: "hide rootlesskit", names: &["rootlesskit"], ..START },
    Mistake { what: "no dockerd", root: "hide dockerd", names: &["dockerd"], ..START },
    Mistake { what: "no newuidmap", root: "hide newuidmap newgidmap", names: &["newuidmap"], ..START },
    Mistake { what: "no iptables", root: "hide iptables ip6tables iptables-legacy ip6tables-legacy iptables-nft ip6tables-nft nft",
        names: &["iptables"], ..START },
];

#[rustfmt::skip]
const PLACES: &[Mistake] = &[
    Mistake { what: "HOME is not set", profile: "unset HOME", names: &["HOME"], ..START },
    Mistake { what: "HOME of another user", profile: "export HOME=/root", names: &["/root"], ..START },
    Mistake { what: "HOME is no directory", profile: "export HOME=/nowhere", names: &["/nowhere"], then: Then::Advice(&["HOME"]), ..START },
    Mistake { what: "root's runtime directory", profile: "export XDG_RUNTIME_DIR=/run/user/0",
        names: &["/run/user/0"], then: Then::Advice(&["/run/user/@UID@"]), ..START },
    Mistake { what: "a runtime directory of another user", root: "mkdir -m 700 /mnt/other; chown 1 /mnt/other",
        profile: "export XDG_RUNTIME_DIR=/mnt/other", names: &["/mnt/other"], then: Then::Advice(&["/run/user/@UID@"]), ..START },
    Mistake { what: "no runtime directory", root: "rm -r /run/user/@UID@", profile: "unset XDG_RUNTIME_DIR",
        names: &["XDG_RUNTIME_DIR"], ..START },
    Mistake { what: "a runtime directory for everybody", profile: "chmod 777 $XDG_RUNTIME_DIR",
        names: &["/run/user/@UID@", "0777"], ..START },
    Mistake { what: "a runtime directory with too long a name",
        profile: "d=$HOME/$(printf %090d 0); mkdir -p -m 700 $d; export XDG_RUNTIME_DIR=$d", code: 78,
        names: &["107"], then: Then::Advice(&["XDG_RUNTIME_DIR"]), ..START },
    Mistake { what: "a state directory with files", profile: "export DOCKERD_ROOTLESS_ROOTLESSKIT_STATE_DIR=$HOME", code: 78,
        names: &["@HOME@"], then: Then::Advice(&["rootlesskit.state-dir"]), ..START },
];

#[rustfmt::skip]
const SETTINGS: &[Mistake] = &[
    Mistake { what: "a value without quotes", files: &[(CONFIG, "[network]\nport-driver = slirp\n")], code: 78,
        names: &["config.toml:2"], then: Then::Advice(&["key = value"]), ..START },
    Mistake { what: "a colon", files: &[(CONFIG, "[network]\nmtu: 1400\n")], code: 78,
        names: &["config.toml:2"], then: Then::Advice(&["key = value"]), ..START },
    Mistake { what: "a misspelt section", files: &[(CONFIG, "[netwrk]\nmtu = 1400\n")], code: 78,
        names: &["config.toml:", "netwrk"], then: Then::Advice(&["network"]), ..START },
    Mistake { what: "a misspelt key", files: &[(CONFIG, "[network]\ndrivr = 'slirp4netns'\n")], code: 78,
        names: &["config.toml:2", "network.drivr"], then: Then::Advice(&["network.driver"]), ..START },
    Mistake { what: "a driver that is none, in the file", files: &[(CONFIG, "[network]\nport-driver = 'slirp'\n")], code: 78,
        names: &["slirp"], ..START },
    Mistake { what: "a driver that is none, in a variable", profile: "export DOCKERD_ROOTLESS_ROOTLESSKIT_NET=foo", code: 78,
        names: &["foo"], ..START },
    Mistake { what: "an MTU that is no number", profile: "export DOCKERD_ROOTLESS_ROOTLESSKIT_MTU=big", code: 78,
        names: &["DOCKERD_ROOTLESS_ROOTLESSKIT_MTU", "big"], ..START },
    Mistake { what: "a misspelt variable", profile: "export DOCKERD_ROOTLESS_ROOTLESSKIT_NETT=pasta", code: 78,
        names: &["DOCKERD_ROOTLESS_ROOTLESSKIT_NETT"], ..START },
    Mistake { what: "a misspelt key on the command line", command: "dockerd-rootless run --set network.drivr=slirp4netns", code: 2,
        names: &["network.drivr"], then: Then::Advice(&["network.driver"]), ..START },
    Mistake { what: "daemon.json with a comma too many", files: &[(DAEMON_JSON, "{\"debug\": true,}\n")], code: 78,
        names: &["daemon.json", "line 1 column 16"], then: Then::Advice(&[]), ..START },
];

#[rustfmt::skip]
const COMMANDS: &[Mistake] = &[
    Mistake { what: "a second start", profile: "dockerd-rootless >/dev/null 2>&1 & dockerd-rootless status --wait=30 >/dev/null", code: 5,
        names: &["running", "PID"], then: Then::Answers, ..START },
    Mistake { what: "a misspelt command", command: "dockerd-rootless chek", code: 2, names: &["chek"], then: Then::Advice(&["check"]), ..START },
    Mistake { what: "a misspelt check", command: "dockerd-rootless check --only hoem", code: 2, names: &["hoem"],
        then: Then::Advice(&["home"]), ..START },
];

const CONFIG: &str = ".config/dockerd-rootless/config.toml";
const DAEMON_JSON: &str = ".config/docker/daemon.json";

#[test]
fn what_is_wrong_with_the_host_is_fixed_by_the_hint() {
    play(HOST);
}

#[test]
fn a_wrong_directory_is_fixed_by_the_hint() {
    play(PLACES);
}

#[test]
fn a_wrong_setting_is_fixed_by_the_hint() {
    play(SETTINGS);
}

#[test]
fn a_wrong_command_is_fixed_by_the_hint() {
    play(COMMANDS);
}

#[test]
fn a_port_below_1024_is_opened_by_the_fix_of_its_check() {
    let user = TestUser::new();
    let program = Launcher::Run.install(&user);
    let room = Room::apart(&user, OWN_PLACES);
    let mut daemon = room.command(&program).spawn().expect("the launcher");
    Told::by(room.command(&program).args(["status", "--wait=30"])).good();
    let docker = Docker(&user);
    docker.import_image();
    let publish = || {
        let words = ["run", "--rm", "-p", "80:80", IMAGE, "true"];
        let host = format!("unix://{}", docker.socket().display());
        Told::by(user.command("docker").args(words).env("DOCKER_HOST", host))
    };
    let refused = publish();
    assert!(
        refused.code != Some(0) && refused.stderr.contains("privileged port 80"),
        "{refused:?}"
    );

    let mut check = room.command(&program);
    let told = Told::by(check.args(["check", "--only", "privileged-ports"])).good().stdout;
    let mut lines = told.lines();
    let fix = lines.find_map(|line| line.trim().strip_prefix("fix (root):")).expect(&told);
    Told::by(room.root("sh").args(["-ec", fix])).good();
    publish().good();
    kill(Pid::from_raw(daemon.id().cast_signed()), Signal::SIGTERM).expect("it runs");
    assert!(daemon.wait().expect("it ends").success());
    assert_nothing_left(&user);
}

#[test]
fn root_is_refused_and_told_who_may_start_it() {
    let user = TestUser::new();
    let program = Launcher::Run.install(&user);
    let lines = [
        "dockerd-rootless.sh",
        "dockerd-rootless",
        "dockerd-rootless run --exec",
        "dockerd-rootless plan",
        "dockerd-rootless check",
        "dockerd-rootless check --format json",
        "dockerd-rootless check --print-fix",
        "dockerd-rootless install",
        "dockerd-rootless upgrade",
        "dockerd-rootless uninstall",
    ];
    for line in lines {
        for sudo in ["", &user.name] {
            let mut words = line.split(' ');
            let mut command = Command::new(program.with_file_name(words.next().expect("a name")));
            let told = Told::by(command.args(words).env("SUDO_USER", sudo).env("HOME", "/nowhere"));
            assert_eq!((told.code, &*told.stdout), (Some(1), ""), "{line}: {told:?}");
            let is_told = told.stderr.contains("error: ") && told.stderr.contains("\nhint: ");
            assert!(is_told && told.stderr.contains("root"), "{line}: {told:?}");
        }
    }
}
