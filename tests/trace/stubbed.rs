//! `check` with programs that hang, flood or fail in the place of those that a launch needs.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::check_with;
use test_support::leftovers::assert_unchanged;
use test_support::*;

/// The longest that a check takes with a program that hangs: a program that is asked for its help has 5 s, and then one that
/// is tried 8 s. The rest is for a busy machine.
const PATIENCE: Duration = Duration::from_secs(5 + 8 + 6);

/// A user with a folder of stubs that are found first.
struct Stubs {
    user: TestUser,
    before: Snapshot,
    bin: PathBuf,
}

impl Stubs {
    /// Puts a script with this `body` in the place of `program`.
    fn new(program: &str, body: &str) -> Self {
        let user = TestUser::new();
        let bin = user.home.join("stubs");
        Launcher::Run.install(&user);
        let stub = bin.join(program);
        user.write(&stub, format!("#!/bin/sh\n{body}\n"));
        command::run(user.command("chmod").arg("755").arg(&stub));
        Self { before: Snapshot::usual(&user), user, bin }
    }

    fn command(&self, words: &str) -> std::process::Command {
        let path = format!("PATH={}:{}", self.bin.display(), user::PATH);
        check_with(&self.user, &[path], words)
    }

    /// Checks, in time, and leaves nothing.
    fn tell(&self, words: &str) -> Told {
        let start = Instant::now();
        let told = Told::by(&mut self.command(words));
        let took = start.elapsed();
        assert!(took < PATIENCE, "{took:?}: {told:?}");
        assert_unchanged(&self.before, &format!("after {told:?}"), || Snapshot::usual(&self.user));
        assert_eq!(told.code, Some(4), "{told:?}");
        told
    }
}

/// The real program answers questions; what follows is for the trial.
fn answering(program: &str, then: &str) -> String {
    format!("case $1 in --help|--version) exec {program} \"$1\";; esac\n{then}")
}

/// What does not need the program that fails is judged all the same.
fn assert_judged_alone(told: &Told) {
    for name in ["netfilter", "overlay", "etc-links", "user-namespaces"] {
        assert_eq!(told.status(name), "ok", "{name}: {:#}", told.check(name));
    }
}

fn text(check: &serde_json::Value) -> String {
    format!("{} {}", check["summary"], check["reason"])
}

#[test]
fn a_rootlesskit_that_hangs_is_ended_and_said_to_hang() {
    for body in [
        answering("/usr/bin/rootlesskit", "sleep 1000 & sleep 1000"),
        // In the background of a session of its own, and deaf.
        answering(
            "/usr/bin/rootlesskit",
            "trap '' TERM INT HUP; setsid sh -c 'trap \"\" TERM; sleep 1000' & wait",
        ),
    ] {
        let told = Stubs::new("rootlesskit", &body).tell("--format json");
        assert_eq!(told.status("rootlesskit"), "fail", "{told:?}");
        let said = text(&told.check("rootlesskit"));
        assert!(said.contains("did not end within 8 s"), "{said}");
        assert_judged_alone(&told);
    }
}

#[test]
fn one_that_hangs_whatever_it_is_asked_is_named_by_the_setting_too() {
    let stubs = Stubs::new("hangs", "sleep 1000");
    let words = format!("--format json --set rootlesskit.binary={}/hangs", stubs.bin.display());
    let told = stubs.tell(&words);
    let check = told.check("rootlesskit");
    assert_eq!(check["status"], "fail", "{check:#}");
    for part in ["/hangs", "did not end within 8 s", "did not end within 5 s"] {
        assert!(text(&check).contains(part), "{part}: {check:#}");
    }
}

#[test]
fn one_that_floods_its_output_is_ended_at_once() {
    for body in ["yes", "yes >&2", "yes & yes >&2", "exec head -c 100000000 /dev/zero"] {
        let body = answering("/usr/bin/rootlesskit", body);
        let stubs = Stubs::new("rootlesskit", &body);
        let start = Instant::now();
        let told = stubs.tell("--format json");
        assert!(start.elapsed() < Duration::from_secs(8), "{body}: {:?}", start.elapsed());
        let check = told.check("rootlesskit");
        assert_eq!(check["status"], "fail", "{body}: {check:#}");
        assert!(text(&check).contains("printed more than"), "{body}: {check:#}");
        assert_judged_alone(&told);
    }
}

#[test]
fn what_a_failing_rootlesskit_says_is_told_and_cannot_forge_a_result() {
    let body = answering(
        "/usr/bin/rootlesskit",
        "echo '{\"devices\":{}}'; printf 'no \\033[31mluck\\n' >&2; exit 7",
    );
    let told = Stubs::new("rootlesskit", &body).tell("--format json");
    let check = told.check("rootlesskit");
    assert_eq!(check["status"], "fail", "{check:#}");
    assert!(text(&check).contains("luck (it ended with exit status: 7)"), "{check:#}");
    assert_judged_alone(&told);
    let shown = Stubs::new("rootlesskit", &body).tell("--color never").stdout;
    assert!(shown.contains("luck") && !shown.contains('\x1b'), "{shown}");
}

#[test]
fn a_newuidmap_that_hangs_fails_and_is_ended() {
    let mut stubs = Stubs::new("newuidmap", "sleep 1000");
    // It looks as if it had the power: of a script the kernel ignores that.
    let stub = stubs.bin.join("newuidmap");
    command::run(std::process::Command::new("chown").arg("root").arg(&stub));
    command::run(std::process::Command::new("chmod").arg("4755").arg(&stub));
    stubs.before = Snapshot::usual(&stubs.user);
    let told = stubs.tell("--format json");
    assert_eq!(told.status("newuidmap"), "fail", "{:#}", told.check("newuidmap"));
    assert_eq!(told.check("rootlesskit")["summary"], "see `newuidmap`");
    let said = text(&told.check("newuidmap"));
    assert!(said.contains("did not end within 3 s"), "{said}");
    assert_judged_alone(&told);
}

#[test]
fn a_slirp4netns_that_fails_at_once_is_explained() {
    let body = answering("/usr/bin/slirp4netns", "echo 'cannot open the moon' >&2; exit 1");
    let told = Stubs::new("slirp4netns", &body).tell("--format json");
    let failed = told.with_status("fail");
    assert_eq!(failed, ["network-driver"]);
    let said = text(&told.check("network-driver"));
    assert!(said.contains("slirp4netns failed"), "{said}");
    assert_eq!(told.check("rootlesskit")["summary"], "see `network-driver`");
    assert_judged_alone(&told);
}

#[test]
fn killed_while_a_program_hangs_it_leaves_no_process_and_nothing_after_the_next_check() {
    let hanging = [
        ("rootlesskit", answering("/usr/bin/rootlesskit", "exec sleep 1000"), "sleep 1000"),
        ("rootlesskit", "exec sleep 1000".to_owned(), "sleep 1000"),
        ("newuidmap", "exec sleep 1000".to_owned(), "sleep 1000"),
    ];
    for (program, body, sign) in hanging {
        let stubs = Stubs::new(program, &body);
        let mut child = stubs
            .command("")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start the check");
        let user = &stubs.user;
        wait::until("the stub hangs", || {
            let all = process::list(user.uid, &user.subordinate);
            all.iter().any(|process| process.command.trim() == sign).then_some(())
        });
        let pid = Pid::from_raw(child.id().try_into().expect("a pid is positive"));
        kill(pid, Signal::SIGKILL).expect("it is our child");
        child.wait().expect("wait for the check");
        let all_end = || {
            let processes = || process::list(user.uid, &user.subordinate);
            wait::until("all processes end", || processes().is_empty().then_some(()));
        };
        // What rootlesskit has started may outlive it, and directories may stay, until the next check.
        if program == "rootlesskit" {
            all_end();
        }
        Told::by(&mut super::check(user, "")).good();
        all_end();
        assert_unchanged(&stubs.before, &format!("{program}: {body}"), || Snapshot::usual(user));
    }
}
