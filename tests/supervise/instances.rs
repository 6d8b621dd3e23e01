//! One supervisor at a time.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::ExitStatus;

use nix::sys::signal::Signal;

use super::run;
use test_support::*;

#[test]
fn of_two_launches_at_once_one_wins_and_the_other_names_it() {
    let user = TestUser::new();
    let launch = run(&user);
    for round in 0..20 {
        assert_one_wins(&user, &launch, round);
    }
}

/// Two at once: the one that gives up names the other, which leaves nothing when it is stopped.
fn assert_one_wins(user: &TestUser, launch: &Launch<'_>, round: u32) {
    let mut both = vec![launch.start(), launch.start()];
    let (loser, ended) = wait::until("one gives up", || {
        both.iter_mut().enumerate().find_map(|(n, daemon)| Some((n, daemon.ended()?)))
    });
    let said = both.remove(loser).log();
    assert_refused(&both[0], ended, &said, round);
    stop(&mut both[0], round);
    assert_nothing_left(user);
}

/// A lock that names who is dead, and then whoever got it first.
#[test]
fn what_a_killed_supervisor_has_left_names_nobody() {
    let user = TestUser::new();
    let launch = run(&user);
    for round in 0..5 {
        let mut first = launch.start();
        wait::until("the lock is taken", || {
            fs::read_to_string(super::run_dir(&user).join("lock"))
                .is_ok_and(|text| text.trim() == first.pid().to_string())
                .then_some(())
        });
        first.kill();
        assert_one_wins(&user, &launch, round);
    }
}

/// One leaves and others come: nobody takes the lock that is just being removed.
#[test]
fn who_comes_while_the_first_leaves_is_alone_or_refused() {
    let user = TestUser::new();
    let launch = run(&user);
    let mut first = launch.ready();
    for round in 0..5 {
        first.signal(Signal::SIGTERM);
        let mut refused = 0;
        let next = loop {
            let mut next = launch.start();
            // Either it is refused, or it is ready some time.
            let ended = wait::until("it is ready or refused", || match next.ended() {
                Some(status) => Some(Some(status)),
                None => (first.ended().is_some() && next.docker.answers()).then_some(None),
            });
            match ended {
                None => break next,
                Some(status) => {
                    assert_eq!(status.code(), Some(5), "round {round}: {}", next.log());
                    refused += 1;
                }
            }
        };
        println!("round {round}: {refused} were refused");
        assert_eq!(first.wait_exit().code(), Some(0));
        let (code, told) = super::status(&user);
        assert_eq!(told["supervisor"], next.pid().as_raw(), "round {round}: {code:?}");
        first = next;
    }
    stop(&mut first, 5);
    assert_nothing_left(&user);
}

fn assert_refused(winner: &Daemon, ended: ExitStatus, said: &str, round: u32) {
    assert_eq!(ended.code(), Some(5), "round {round}: {said}");
    let named = format!("(PID {})", winner.pid());
    assert!(said.contains(&named), "round {round}: no {named} in: {said}");
}

fn stop(daemon: &mut Daemon, round: u32) {
    daemon.signal(Signal::SIGTERM);
    let ended = daemon.wait_exit();
    assert_eq!(ended.code(), Some(0), "round {round}: {}", daemon.log());
}

/// The same data root by way of another runtime directory, as in a login without logind.
#[test]
fn a_launch_in_another_runtime_directory_harms_no_container() {
    let user = TestUser::new();
    let other = user.home.join("run");
    user.make_dir(&other);
    fs::set_permissions(&other, Permissions::from_mode(0o700)).expect("close it");
    for (launcher, named) in
        [(Launcher::Run, "another daemon (PID "), (Launcher::RunExec, "process ")]
    {
        let mut first = Launch::new(&user, launcher).ready();
        first.docker.import_image();
        first.docker.serve("web", "");
        let pid = || first.docker.run("inspect -f {{.State.Pid}} web");
        let before = pid();
        let (code, said) = run(&user).env("XDG_RUNTIME_DIR", &other).refusal();
        assert_eq!(code, Some(5), "{launcher:?}: {said}");
        assert!(said.contains(named), "{launcher:?}: {said}");
        assert_eq!(pid(), before, "{launcher:?}: the container runs on");
        first.docker.run("rm -f web");
        assert_eq!(first.stop().code(), Some(0), "{launcher:?}");
    }
    assert_nothing_left(&user);
}
