//! What `install --from-rootful` prints, pasted between a system-wide daemon of the test's own and a rootless one.

use nix::sys::signal::Signal;
use test_support::docker::IMAGE;
use test_support::process::Background;
use test_support::room::{OWN_PLACES, OWN_RUN};
use test_support::*;

/// The system-wide daemon's options: nothing of the host's is touched.
const ROOTFUL: [&str; 6] = [
    "--host=unix:///mnt/docker.sock",
    "--data-root=/mnt/data",
    "--exec-root=/mnt/exec",
    "--pidfile=/mnt/docker.pid",
    "--iptables=false",
    "--bridge=none",
];

/// A setuid env(1) stands in for sudo(8), because some hosts lack it.
const SUDO: &str = "rm -f /usr/bin/sudo\ncp /usr/bin/env /usr/bin/sudo\nchmod 4755 /usr/bin/sudo\n";

#[test]
fn images_and_volumes_of_a_system_wide_daemon_move_with_their_owners() {
    let user = TestUser::new();
    let program = Launcher::Run.install(&user);
    let room = Room::apart(&user, &format!("{OWN_PLACES}{OWN_RUN}{SUDO}"));
    let mut rootful = Background::start(room.root("dockerd").args(ROOTFUL));
    let socket = room.outside("/mnt/docker.sock".as_ref());
    wait::until("the system-wide daemon answers", || http::ping(&socket).then_some(()));
    let docker = Docker(&user);
    let fill = format!(
        "export DOCKER_HOST=unix:///mnt/docker.sock
         docker import {} {IMAGE}
         docker tag {IMAGE} {IMAGE}:2
         docker volume create --label kind=test full
         docker volume create --opt type=tmpfs --opt device=tmpfs optioned
         cd /mnt/data/volumes/full/_data
         mkdir deep; echo text >deep/file
         chown -R 999:998 deep; chmod 0640 deep/file; chown 33 .",
        docker.write_image().display()
    );
    Told::by(room.root("sh").args(["-euc", &fill])).good();
    let mut rootless = Background::start(room.command(&program).arg("run"));
    Told::by(room.command(&program).args(["status", "--wait=30"])).good();

    let words = ["install", "--from-rootful=/mnt/docker.sock"];
    let script = Told::by(room.command(&program).args(words)).good().stdout;
    let (script, rest) = script.split_once("# When all of that works").expect(&script);
    assert!(
        rest.ends_with("\n#     sudo systemctl disable --now docker.service docker.socket\n"),
        "{rest}"
    );
    assert!(rest.lines().skip(1).all(|line| line.starts_with('#')), "no paste does it: {rest}");
    let mut shell = room.command("timeout");
    let told = Told::by(shell.args(["--kill-after=1", "120", "sh", "-euc", script])).good();
    assert!(told.stdout.contains("skipped, because it has options: optioned\n"), "{told:?}");
    let mut shell = room.command("timeout");
    let told = Told::by(shell.args(["--kill-after=1", "120", "sh", "-euc", script])).good();
    let skipped = "skipped, because you have a volume of this name: full\n";
    assert!(told.stdout.contains(skipped), "a second paste overwrites nothing: {told:?}");

    let images = docker.run("image ls --format {{.Repository}}:{{.Tag}}");
    let mut images: Vec<&str> = images.lines().collect();
    images.sort_unstable();
    assert_eq!(images, ["busybox:2", "busybox:latest"]);
    assert_eq!(docker.run("volume ls --quiet --filter label=kind=test"), "full");
    let list = format!("run --rm --network none --volume full:/v {IMAGE} ls -ln /v /v/deep");
    let list = docker.run(&list);
    let owners: Vec<Vec<&str>> =
        list.lines().map(|line| line.split_whitespace().collect()).collect();
    let is_there = |mode: &str, name: &str| {
        owners.iter().any(|words| {
            words.first() == Some(&mode)
                && words.get(2..4) == Some(&["999", "998"])
                && words.last() == Some(&name)
        })
    };
    assert!(is_there("drwxr-xr-x", "deep") && is_there("-rw-r-----", "file"), "{list}");
    let own = docker.run(&format!("run --rm --network none --volume full:/v {IMAGE} ls -lnd /v"));
    assert_eq!(own.split_whitespace().nth(2), Some("33"), "{own}");

    assert!(rootless.end_by(Signal::SIGTERM).success());
    assert!(rootful.end_by(Signal::SIGTERM).success());
    assert_nothing_left(&user);
}
