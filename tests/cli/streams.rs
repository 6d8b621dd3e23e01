//! Results and messages: where they go, their levels, colours and times.

use std::fs::File;
use std::io;
use std::process::{Child, Stdio};

use super::{Bench, Wrong, told, typed};

#[test]
fn results_go_to_standard_output_and_messages_to_standard_error() {
    let bench = Bench::new();
    for line in [
        "plan",
        "plan --format json",
        "config show",
        "config show --format json",
        "config explain network.mtu",
        "config check",
        "config path",
        "config set network.mtu 1500",
        "config unset network.mtu",
        "--help",
        "--version",
        "help",
        "run --help",
    ] {
        let told = bench.tell(line);
        assert!(
            told.code == Some(0) && !told.stdout.is_empty() && told.stderr.is_empty(),
            "{line}: {told:?}"
        );
    }
    for line in ["plan", "config show"] {
        let object = bench.tell(&format!("{line} --format json")).json();
        assert_eq!(object["schema"], 1, "{line}: {object}");
    }
    let launch = bench.tell("run");
    assert!(launch.stdout.is_empty() && launch.stderr.contains("INFO starting "), "{launch:?}");
    let verbose = bench.tell("plan --format json -vv");
    assert!(
        verbose.json()["schema"] == 1 && verbose.stderr.contains("debug: asking "),
        "{verbose:?}"
    );
}

#[test]
fn levels_come_from_the_command_line_then_from_rust_log() {
    let bench = Bench::new();
    for (line, expected) in [
        ("run", "INFO"),
        ("run -v", "DEBUG INFO"),
        ("-v run", "DEBUG INFO"),
        ("-v plan", "debug"),
        ("--color never --log-level=debug plan", "debug"),
        ("run -vv", "DEBUG INFO"),
        ("run --log-level debug", "DEBUG INFO"),
        ("run --log-level=warn", ""),
        ("RUST_LOG=debug run", "DEBUG INFO"),
        ("RUST_LOG=error run", ""),
        ("RUST_LOG=error run -v", "DEBUG INFO"),
        ("RUST_LOG=trace run --log-level=error -v", ""),
    ] {
        let told = bench.tell(line);
        let seen: Vec<&str> = ["DEBUG", "debug", "INFO"]
            .into_iter()
            .filter(|level| told.stderr.contains(level))
            .collect();
        assert_eq!(seen.join(" "), expected, "{line}: {told:?}");
    }
    // The variable is not ours alone: what we cannot read in it is no reason not to start.
    let misread = bench.tell("RUST_LOG='nonsense=[' run");
    assert!(misread.code == Some(0) && misread.stderr.contains("INFO"), "{misread:?}");
}

#[test]
fn colours_are_for_terminals_and_for_those_who_ask() {
    let bench = Bench::new();
    let mut wrong = Wrong::default();
    for (line, colored) in [
        ("run", false),
        ("CLICOLOR_FORCE=1 run", true),
        ("CLICOLOR_FORCE=0 run", false),
        ("CLICOLOR_FORCE=1 NO_COLOR=1 run", false),
        ("CLICOLOR_FORCE=1 NO_COLOR= run", true),
        ("NO_COLOR=1 run --color always", true),
        ("CLICOLOR_FORCE=1 run --color=never", false),
        ("config --bogus", false),
        ("CLICOLOR_FORCE=1 config --bogus", true),
        ("CLICOLOR_FORCE=1 NO_COLOR=1 config --bogus", false),
    ] {
        let told = bench.tell(line);
        wrong.unless(told.stderr.contains('\x1b') == colored, || {
            format!("{line}, {colored}: {told:?}")
        });
    }
    let terminal = ["/usr/bin/script", "--quiet", "--return", "/dev/null", "--command"];
    for (variables, colored) in [
        ("TERM=xterm", true),
        ("TERM=xterm CLICOLOR=1", true),
        ("TERM=xterm NO_COLOR=1", false),
        ("TERM=xterm CLICOLOR=0", false),
        ("TERM=dumb", false),
    ] {
        let told = told(&mut typed(bench.program(&terminal, "dockerd-rootless -v"), variables));
        let right = told.stdout.contains("starting") && told.stdout.contains('\x1b') == colored;
        wrong.unless(right, || format!("on a terminal with {variables}: {told:?}"));
    }
    wrong.end();
}

#[test]
fn messages_have_a_time_unless_the_journal_adds_it() {
    let bench = Bench::new();
    let plain = bench.tell("run").stderr;
    assert!(plain.starts_with("20") && plain.contains("INFO starting"), "{plain}");
    let journal = bench.tell("JOURNAL_STREAM=8:1 run").stderr;
    assert!(journal.trim_start().starts_with("INFO starting"), "{journal}");
}

/// Streams that cannot be written: a reader that is gone, a full device.
fn broken_streams() -> [(&'static str, Stdio); 2] {
    let (_, writer) = io::pipe().expect("a pipe");
    let full = File::options().write(true).open("/dev/full").expect("/dev/full");
    [("a pipe without a reader", writer.into()), ("/dev/full", full.into())]
}

#[test]
fn a_reader_who_has_seen_enough_is_no_failure_and_a_full_disk_is_one() {
    let bench = Bench::new();
    for line in [
        "plan",
        "plan --format json",
        "config show",
        "config path",
        "config explain network.mtu",
        "config set network.mtu 1500",
    ] {
        for ((what, stream), code) in broken_streams().into_iter().zip([0, 1]) {
            let mut command = bench.command(line);
            let child = command.stdout(stream).stderr(Stdio::piped()).spawn();
            let output = child.and_then(Child::wait_with_output).expect("started");
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{line} into {what}: {stderr}");
            assert_eq!(stderr.is_empty(), code == 0, "{line} into {what}: {stderr}");
        }
    }
}

#[test]
fn messages_that_cannot_be_written_change_neither_the_exit_code_nor_the_launch() {
    let bench = Bench::new();
    let mut wrong = Wrong::default();
    for (line, code) in [
        ("run -vv", 0),
        ("DOCKERD_ROOTLESS_ROOTLESSKIT_MTU=big run", 78),
        ("DOCKERD_ROOTLESS_ROOTLESSKIT_MTU=big config check", 78),
        ("config explain x", 2),
        ("config --bogus", 2),
    ] {
        for (what, stream) in broken_streams() {
            let status =
                bench.command(line).stderr(stream).stdout(Stdio::null()).status().expect("started");
            wrong.unless(status.code() == Some(code), || {
                format!("{line} into {what}: {status}, not {code}")
            });
        }
    }
    wrong.end();
}
