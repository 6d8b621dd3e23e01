//! Something is wrong with what the launcher is told.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::play;
use super::scene::{Busy, refusal, start_upstream};
use super::table::Side;
use test_support::command::run;
use test_support::*;

const MTU: &str = "DOCKERD_ROOTLESS_ROOTLESSKIT_MTU";
const NET: &str = "DOCKERD_ROOTLESS_ROOTLESSKIT_NET";
const FLAGS: &str = "DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS";

fn fine(happened: &str) -> Side {
    Side::told(happened)
}

/// A program that leaves a mark when somebody executes it, and where the mark is.
fn trap(user: &TestUser) -> (PathBuf, PathBuf) {
    let [text, program, mark] = ["trap.sh", "trap", "mark"].map(|name| user.home.join(name));
    user.write(&text, format!("#!/bin/sh\ntouch {}\n", mark.display()));
    launcher::install(&text, &program);
    (program, mark)
}

#[test]
fn f25_hostile_values() {
    play(
        25,
        "values with blanks, line breaks, `$()`, `*` and bytes that are not UTF-8",
        |user| {
            let (program, mark) = trap(user);
            let value = format!("1500 {}", program.display());
            let (code, log, time) = refusal(&Launch::new(user, Launcher::Run).env(MTU, value));
            assert_eq!(code, Some(78), "{log}");
            assert!(log.contains(MTU), "{log}");
            assert!(!mark.exists(), "it was executed");
            let words: [&[u8]; 3] = [
                b"--label=blanks=two  words",
                b"--label=shell=$(touch mark) `id` /e* 'x' \\",
                b"--label=lines=one\ntwo",
            ];
            let launch = Launch::new(user, Launcher::Run).args(words.map(OsStr::from_bytes));
            let busy = Busy::from(user, &launch);
            let labels = busy.daemon.docker.run("info --format {{.Labels}}");
            for label in ["blanks=two  words", "$(touch mark) `id` /e* 'x' \\", "one\ntwo"] {
                assert!(labels.contains(label), "{label}: {labels}");
            }
            busy.over();
            let words = [OsStr::from_bytes(b"--label=a=\xff\xfe")];
            let mut daemon = Launch::new(user, Launcher::Run).args(words).ready();
            assert_eq!(daemon.stop().code(), Some(0));
            assert!(!mark.exists(), "it was executed");
            Side::refused(
                "an MTU with a command in it is refused (exit 78); dockerd's arguments arrive unchanged",
                time,
            )
        },
        Some(|user| {
            let (program, mark) = trap(user);
            let value = format!("1500 {}", program.display());
            let mut daemon = Launch::new(user, Launcher::Upstream).env(MTU, value).start();
            let status = daemon.wait_exit();
            fine(&format!("the command in the MTU is executed: {} ({status})", mark.exists()))
        }),
    );
}

#[test]
fn f26_long_values() {
    const KIB: usize = 1024;
    fn word(user: &TestUser, length: usize) -> Launch<'_> {
        Launch::new(user, Launcher::Run).args([format!("--label=a={}", "x".repeat(length))])
    }
    play(
        26,
        "a value of 120 KiB, arguments of 1.8 MiB, a configuration file of 1 MiB",
        |user| {
            let busy = Busy::from(user, &word(user, 120 * KIB));
            let labels = busy.daemon.docker.run("info --format {{.Labels}}");
            assert!(labels.len() > 120 * KIB, "{}", labels.len());
            busy.over();

            let words = (0..15).map(|n| format!("--label={n}={}", "x".repeat(124 * KIB)));
            let launch = Launch::new(user, Launcher::Run)
                .args(words)
                .env(FLAGS, format!("--copy-up=/{}", "x".repeat(120 * KIB)));
            let (code, log, time) = refusal(&launch);
            assert_eq!(code, Some(126), "{}", log.len());
            assert!(
                log.contains("cannot be executed") && log.contains("too long"),
                "{}",
                log.len()
            );
            assert_nothing_left(user);

            let file = user.home.join(".config/dockerd-rootless/config.toml");
            user.write(&file, format!("# {}\n", "x".repeat(1024 * KIB)));
            let (code, log, _) = refusal(&Launch::new(user, Launcher::Run));
            assert_eq!(code, Some(78), "{log}");
            assert!(log.contains("larger than 64 KiB"), "{log}");
            fs::remove_file(file).expect("remove it");
            Side::refused(
                "the first arrives, the others are refused with the reason (exit 126, 78)",
                time,
            )
        },
        None,
    );
}

#[test]
fn f27_bad_words() {
    play(
        27,
        "values that are not allowed (`NET=bogus`, `MTU=abc`)",
        |user| {
            let cases = [
                (NET, "bogus", "slirp4netns"),
                (MTU, "abc", "65521"),
                ("DOCKERD_ROOTLESS_ROOTLESSKIT_PORT_DRIVER", "bogus", "builtin"),
                ("DOCKERD_ROOTLESS_ROOTLESSKIT_SLIRP4NETNS_SANDBOX", "maybe", "auto"),
            ];
            let mut longest = Duration::ZERO;
            for (name, value, allowed) in cases {
                let (code, log, time) = refusal(&Launch::new(user, Launcher::Run).env(name, value));
                assert_eq!(code, Some(78), "{name}={value}: {log}");
                assert!(log.contains(allowed) && log.contains(value), "{name}={value}: {log}");
                longest = longest.max(time);
            }
            Side::refused("refused, with the allowed values (exit 78)", longest)
        },
        Some(|user| start_upstream(&Launch::new(user, Launcher::Upstream).env(NET, "bogus")).1),
    );
}

#[test]
fn f28_a_leaked_variable() {
    const CHILD: &str = "_DOCKERD_ROOTLESS_CHILD";
    play(
        28,
        "`_DOCKERD_ROOTLESS_CHILD=1` in the environment",
        |user| {
            let busy = Busy::from(user, &Launch::new(user, Launcher::Run).env(CHILD, "1"));
            busy.assert_whole();
            busy.over();
            fine("it starts: the variable has no effect")
        },
        Some(|user| start_upstream(&Launch::new(user, Launcher::Upstream).env(CHILD, "1")).1),
    );
}

#[test]
fn f29_configuration_files() {
    play(
        29,
        "a configuration file that is malformed, of 1 GiB, a FIFO, a loop of links, writable by all, another user's",
        |user| {
            let file = user.home.join(".config/dockerd-rootless/config.toml");
            let mut longest = Duration::ZERO;
            let mut refused = |case: &str, word: &str| {
                let (code, log, time) = refusal(&Launch::new(user, Launcher::Run));
                assert_eq!(code, Some(78), "{case}: {log}");
                assert!(log.contains("config.toml") && log.contains(word), "{case}: {log}");
                longest = longest.max(time);
                fs::remove_file(&file).expect("remove it");
            };
            user.write(&file, "[network]\nmtu = = 1\n");
            refused("malformed", "2");
            user.write(&file, "");
            fs::OpenOptions::new()
                .write(true)
                .open(&file)
                .and_then(|file| file.set_len(1 << 30))
                .expect("make it large");
            refused("1 GiB", "larger than");
            run(Command::new("mkfifo").arg("--mode=0600").arg(&file));
            refused("a FIFO", "");
            symlink(&file, &file).expect("make a link");
            refused("a loop", "");
            user.write(&file, "");
            fs::set_permissions(&file, Permissions::from_mode(0o666)).expect("open it");
            refused("open to all", "0666");
            user.write(&file, "");
            chown(&file, Some(65534), None).expect("give it away");
            refused("another's", "65534");
            Side::refused("each is refused with the reason (exit 78)", longest)
        },
        None,
    );
}

/// The first program of its name counts, as everywhere; what counts is that nobody has to guess which one it was.
#[test]
fn f30_another_program_first_in_path() {
    fn hijacked<'u>(user: &'u TestUser, launcher: Launcher) -> (Launch<'u>, PathBuf, PathBuf) {
        let (program, mark) = trap(user);
        let place = user.home.join("first");
        user.make_dir(&place);
        let first = place.join("rootlesskit");
        launcher::install(&program, &first);
        let path = format!("{}:{}", place.display(), user::PATH);
        (Launch::new(user, launcher).env("PATH", path), first, mark)
    }
    play(
        30,
        "another `rootlesskit` first in PATH",
        |user| {
            let (launch, first, mark) = hijacked(user, Launcher::Run);
            let (_, log, time) = refusal(&launch);
            assert!(log.contains(&format!("starting {}", first.display())), "{log}");
            assert!(mark.exists(), "it was not started: {log}");
            let warning = format!("`{}` is in a directory in which other users", first.display());
            assert!(!log.contains(&warning), "{log}");
            let place = first.parent().expect("a directory");
            fs::set_permissions(place, Permissions::from_mode(0o777)).expect("open it");
            let (_, log, _) = refusal(&launch);
            assert!(log.contains(&warning), "{log}");
            Side::refused(
                "it is started, and its whole path is named; a warning follows if its directory is writable by all",
                time,
            )
        },
        Some(|user| {
            let (launch, first, mark) = hijacked(user, Launcher::Upstream);
            let mut daemon = launch.start();
            let status = daemon.wait_exit();
            let names = daemon.log().contains(&first.display().to_string());
            fine(&format!(
                "it is started: {} ({status}); its path is named: {names}",
                mark.exists()
            ))
        }),
    );
}
