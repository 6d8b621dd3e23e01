//! Tarballs that nobody should unpack: exit 6, and all is as it was.

use dockerd_rootless::fetch::Package::Docker;
use tar::EntryType;

use super::release::{DOCKER, Release, Tarball, gzip, script};
use super::scene::{NEW, OLD, Scene};

/// Serves `bytes` as the docker tarball of `NEW`, with the right sum: whoever made it meant it.
#[track_caller]
fn assert_refused(scene: &Scene, what: &str, bytes: Vec<u8>, says: &str) {
    let release = Release { docker: bytes, ..Release::new(NEW) };
    release.publish(&scene.mirror);
    let before = scene.tree();
    let ended = scene.fetch(&format!("--version {NEW}"));
    eprintln!("{what}: {}", ended.stderr);
    ended.assert(6, says);
    assert_eq!(scene.tree(), before, "{what}");
    assert!(!std::path::Path::new("/tmp/dockerd-rootless-evil").exists(), "{what}");
}

/// A tarball in which `add` replaces dockerd.
fn with(add: impl FnOnce(&mut Tarball)) -> Vec<u8> {
    let mut tarball = Tarball::good_but("dockerd");
    add(&mut tarball);
    tarball.finish()
}

fn entry(name: &str, kind: EntryType, mode: u32, link: &str) -> Vec<u8> {
    with(|tarball| tarball.entry(name, kind, mode, link, 0, b""))
}

#[test]
fn entries_that_would_leave_or_harm_the_directory_are_refused() {
    use EntryType as E;
    let scene = Scene::have(OLD);
    let cases = [
        ("a parent", entry("docker/../../dockerd", E::Regular, 0o755, ""), "is not directly in"),
        ("only a parent", entry("../dockerd", E::Regular, 0o755, ""), "is not directly in"),
        (
            "an absolute name",
            entry("/tmp/dockerd-rootless-evil", E::Regular, 0o755, ""),
            "is not directly in",
        ),
        (
            "a link out",
            entry("docker/dockerd", E::Symlink, 0o777, "/bin/sh"),
            "is not a regular file",
        ),
        (
            "a link that something is written through",
            with(|tarball| {
                tarball.entry(
                    "docker/dockerd",
                    E::Symlink,
                    0o777,
                    "/tmp/dockerd-rootless-evil",
                    0,
                    b"",
                );
                tarball.file("docker/dockerd", b"evil");
            }),
            "is not a regular file",
        ),
        ("a linked directory", entry("docker", E::Symlink, 0o777, "/tmp"), "is not a regular file"),
        (
            "a hard link",
            entry("docker/dockerd", E::Link, 0o755, "/etc/passwd"),
            "is not a regular file",
        ),
        (
            "a character device",
            entry("docker/dockerd", E::Char, 0o666, ""),
            "is not a regular file",
        ),
        ("a block device", entry("docker/dockerd", E::Block, 0o666, ""), "is not a regular file"),
        ("a FIFO", entry("docker/dockerd", E::Fifo, 0o666, ""), "is not a regular file"),
        (
            "a sparse file",
            entry("docker/dockerd", E::GNUSparse, 0o755, ""),
            "is not a regular file",
        ),
        ("setuid", entry("docker/dockerd", E::Regular, 0o4755, ""), "setuid"),
        ("setgid", entry("docker/dockerd", E::Regular, 0o2755, ""), "setuid, setgid"),
        ("setuid of what is not taken", entry("docker/other", E::Regular, 0o4755, ""), "setuid"),
        (
            "a name twice",
            with(|tarball| {
                tarball.file("docker/dockerd", b"one");
                tarball.file("docker/dockerd", b"two");
            }),
            "the program `dockerd` twice",
        ),
        (
            "another directory",
            with(|tarball| tarball.directory("docker/cli-plugins/")),
            "is not a regular file",
        ),
        (
            "a long name of GNU",
            with(|tarball| {
                tarball.entry("././@LongLink", E::GNULongName, 0o644, "", 12, b"../dockerd\0\0");
                tarball.file("docker/dockerd", b"x");
            }),
            "is not a regular file",
        ),
        (
            "too many entries",
            with(|tarball| {
                (0..300).for_each(|number| tarball.file(&format!("docker/n{number}"), b""));
            }),
            "more than 200 entries",
        ),
    ];
    for (what, bytes, says) in cases {
        assert_refused(&scene, what, bytes, says);
    }
    assert_eq!(scene.version().as_deref(), Some(OLD));
}

#[test]
fn a_bomb_is_not_unpacked() {
    let scene = Scene::have(OLD);
    let ten_gigabytes = 10 << 30;
    let one = with(|tarball| {
        tarball.entry("docker/dockerd", EntryType::Regular, 0o755, "", ten_gigabytes, b"")
    });
    assert_refused(&scene, "ten gigabytes", one, "is not below 512 MiB");
    let hidden = with(|tarball| {
        tarball.entry("docker/other", EntryType::Regular, 0o755, "", ten_gigabytes, b"")
    });
    assert_refused(&scene, "ten gigabytes of what is not taken", hidden, "is not below 512 MiB");
}

#[test]
fn what_is_damaged_or_incomplete_is_refused() {
    let scene = Scene::have(OLD);
    let whole = Tarball::good_but("").finish();
    let half = Release::new(NEW).docker;
    let without = |name: &str| Tarball::good_but(name).finish();
    let mut wrong_header = Tarball::good_but("").raw();
    wrong_header[148] ^= 1;
    let mut flipped = half.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0xff;
    let cases = [
        ("half of it", half[..half.len() / 2].to_vec(), "is damaged"),
        ("all but the last byte", half[..half.len() - 1].to_vec(), "is damaged"),
        ("another byte", flipped, "is damaged"),
        ("something behind it", [&*whole, b"#!/bin/sh\n"].concat(), "is damaged"),
        ("a wrong sum in a header", gzip(&wrong_header), "is damaged"),
        ("a page of HTML", b"<html>404 not found</html>".to_vec(), "is damaged"),
        ("nothing", Vec::new(), ""),
        ("no dockerd", without("dockerd"), "lacks the program `dockerd`"),
        ("no runc", without("runc"), "lacks the program `runc`"),
    ];
    for (what, bytes, says) in cases {
        assert_refused(&scene, what, bytes, says);
    }
}

#[test]
fn modes_are_ours_and_a_header_of_pax_does_no_harm() {
    let scene = Scene::new();
    let mut tarball = Tarball::new();
    // Other names than those that are judged have no effect.
    let record = b"30 mtime=1700000000.123456789\n19 path=../dockerd\n";
    for program in DOCKER {
        tarball.entry("pax", EntryType::XHeader, 0o644, "", record.len() as u64, record);
        let content = script(program, NEW);
        tarball.entry(
            &format!("docker/{program}"),
            EntryType::Regular,
            0o222,
            "",
            content.len() as u64,
            &content,
        );
    }
    let release = Release { docker: tarball.finish(), ..Release::new(NEW) };
    release.publish(&scene.mirror);
    scene.fetch(&format!("--version {NEW}")).assert(0, NEW);
    assert_eq!(scene.version().as_deref(), Some(NEW));
    let set = std::fs::canonicalize(scene.bin().join("dockerd")).expect("a program");
    let set = set.strip_prefix(&scene.user.home).expect("below");
    let tree = scene.tree();
    assert!(tree[set].starts_with(&format!("100755 {} ", scene.user.uid)), "{}", tree[set]);
    assert_eq!(release.file(Docker), format!("docker-{NEW}.tgz"));
}
