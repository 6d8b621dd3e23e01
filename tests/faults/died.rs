//! One of the programs is killed.

use std::time::Instant;

use nix::sys::signal::{Signal, kill};

use super::play;
use super::scene::{
    Busy, LOOK, Part, find, refusal, runs, start_upstream, until_reaped, until_said,
};
use super::table::{Side, Time};
use test_support::*;

/// Kills a part whose end takes the namespaces with it, and all that is in them.
fn killed(user: &TestUser, part: Part, cause: &str) -> Side {
    let busy = Busy::new(user, Launcher::Run);
    let before = busy.pid(Part::Dockerd);
    let moment = busy.kill(part);
    let detected = busy.until_said(cause, moment);
    let recovered = busy.until_answers(moment);
    busy.assert_whole();
    busy.assert_told(cause, [1, 0, 0]);
    assert_ne!(busy.pid(Part::Dockerd), before);
    busy.end("everything was cleared and restarted, the container too")
        .detected(detected)
        .recovered(recovered)
}

/// Ends dockerd alone, which is put back under its containers.
fn replaced(user: &TestUser, signal: Signal, cause: &str) -> Side {
    let busy = Busy::new(user, Launcher::Run);
    let before = busy.pid(Part::Dockerd);
    let moment = busy.signal(Part::Dockerd, signal);
    let detected = busy.until_said(cause, moment);
    busy.until_another(Part::Dockerd, before);
    let recovered = busy.until_answers(moment);
    busy.assert_told(cause, [0, 1, 0]);
    busy.end_untouched("dockerd alone restarted; the container kept running")
        .detected(detected)
        .recovered(recovered)
}

fn signalled_upstream(user: &TestUser, part: Part, signal: Signal) -> Side {
    let busy = Busy::new(user, Launcher::Upstream);
    let pid = busy.pid(part);
    let moment = busy.signal(part, signal);
    wait::until("what is signalled ends", || (!runs(pid)).then_some(()));
    busy.look(moment)
}

#[test]
fn f1_dockerd() {
    play(
        1,
        "SIGKILL of dockerd",
        |user| replaced(user, Signal::SIGKILL, "dockerd was ended by SIGKILL"),
        Some(|user| signalled_upstream(user, Part::Dockerd, Signal::SIGKILL)),
    );
}

#[test]
fn f51_dockerd_is_asked_to_end() {
    play(
        51,
        "SIGTERM to dockerd from another program",
        |user| replaced(user, Signal::SIGTERM, "dockerd exited without being asked (exit code 0)"),
        Some(|user| signalled_upstream(user, Part::Dockerd, Signal::SIGTERM)),
    );
}

#[test]
fn f52_rootlesskit_is_asked_to_end() {
    play(
        52,
        "SIGTERM to rootlesskit from another program",
        |user| {
            let busy = Busy::new(user, Launcher::Run);
            let moment = busy.signal(Part::Rootlesskit, Signal::SIGTERM);
            let detected = busy.until_said("ignoring SIGTERM to rootlesskit", moment);
            busy.assert_counts([0, 0, 0]);
            busy.end_untouched("ignored; the log says how to stop the daemon").detected(detected)
        },
        Some(|user| signalled_upstream(user, Part::Rootlesskit, Signal::SIGTERM)),
    );
}

#[test]
fn f2_rootlesskit() {
    play(
        2,
        "SIGKILL of rootlesskit",
        |user| killed(user, Part::Rootlesskit, "rootlesskit was ended by SIGKILL"),
        Some(|user| signalled_upstream(user, Part::Rootlesskit, Signal::SIGKILL)),
    );
}

#[test]
fn f3_rootlesskits_child() {
    play(
        3,
        "SIGKILL of rootlesskit's child in the namespaces",
        |user| killed(user, Part::RootlesskitChild, "rootlesskit's child was ended by a signal"),
        Some(|user| signalled_upstream(user, Part::RootlesskitChild, Signal::SIGKILL)),
    );
}

#[test]
fn f4_slirp4netns() {
    play(
        4,
        "SIGKILL of slirp4netns",
        |user| {
            let busy = Busy::new(user, Launcher::Run);
            assert!(busy.has_network());
            let (dockerd, helper) = (busy.pid(Part::Dockerd), busy.pid(Part::Slirp4netns));
            let moment = busy.kill(Part::Slirp4netns);
            let detected = busy.until_said("the network helper ended", moment);
            wait::until("the container has a network", || busy.has_network().then_some(()));
            let recovered = Time::After(moment.elapsed());
            busy.assert_whole();
            busy.assert_told("network helper ended", [0, 0, 1]);
            assert_eq!(busy.pid(Part::Dockerd), dockerd);
            assert_ne!(busy.pid(Part::Slirp4netns), helper);
            busy.end_untouched("slirp4netns restarted; the container kept running")
                .detected(detected)
                .recovered(recovered)
        },
        Some(|user| {
            let busy = Busy::new(user, Launcher::Upstream);
            assert!(busy.has_network());
            let moment = busy.kill(Part::Slirp4netns);
            let back = wait::poll(LOOK, || busy.has_network().then(|| moment.elapsed()));
            let answers = busy.daemon.docker.answers();
            let helper = find(user, Part::Slirp4netns);
            busy.tell(format!(
                "the API answers: {answers}; slirp4netns runs: {}; containers have a network: {}",
                helper.is_some(),
                back.is_some()
            ))
            .recovered(back.map_or(Time::NotWithin(LOOK), Time::After))
        }),
    );
}

/// Where rootlesskit knows no pasta, nothing of it can die: the launch is refused.
#[test]
fn f5_pasta() {
    play(
        5,
        "SIGKILL of pasta",
        |user| {
            let launch =
                Launch::new(user, Launcher::Run).env("DOCKERD_ROOTLESS_ROOTLESSKIT_NET", "pasta");
            let help = command::run(user.command("rootlesskit").arg("--help"));
            if !help.contains("pasta") {
                let (code, log, time) = refusal(&launch);
                assert_eq!(code, Some(78), "{log}");
                assert!(log.contains("pasta") && log.contains("rootlesskit"), "{log}");
                return Side::refused(
                    "this rootlesskit does not support pasta: the launch is refused (exit 78)",
                    time,
                );
            }
            let daemon = launch.ready();
            daemon.docker.import_image();
            // pasta takes what comes to the host's loopback to another address of the namespace.
            daemon.docker.run("run -d --stop-signal KILL --name web busybox sleep 1000");
            let begin = daemon.docker.run("inspect --format {{.State.StartedAt}} web");
            let helper = find(user, Part::Pasta).expect("pasta");
            let moment = Instant::now();
            kill(helper, Signal::SIGKILL).expect("it is there");
            let detected = until_said(&daemon, "the network helper ended", moment);
            let recovered = until_said(&daemon, "the network is back", moment);
            assert_ne!(find(user, Part::Pasta), Some(helper));
            assert_eq!(daemon.docker.run("inspect --format {{.State.StartedAt}} web"), begin);
            let mut daemon = daemon;
            assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.log());
            Side::told("pasta was started again; the container never stopped")
                .detected(detected)
                .recovered(recovered)
        },
        None,
    );
}

#[test]
fn f8_containerd() {
    play(
        8,
        "SIGKILL of containerd",
        |user| {
            let busy = Busy::new(user, Launcher::Run);
            let before = busy.pid(Part::Containerd);
            let moment = busy.kill(Part::Containerd);
            let detected = busy.until_said("containerd ended; restarting it", moment);
            busy.until_another(Part::Containerd, before);
            wait::until("the container is reached", || busy.has_network().then_some(()));
            let recovered = Time::After(moment.elapsed());
            assert_eq!(busy.status()["restarts"], 0);
            busy.end(
                "containerd restarts at once; dockerd restarts containers that it has forgotten",
            )
            .detected(detected)
            .recovered(recovered)
        },
        Some(|user| {
            let busy = Busy::new(user, Launcher::Upstream);
            let before = busy.pid(Part::Containerd);
            let moment = busy.kill(Part::Containerd);
            busy.until_another(Part::Containerd, before);
            wait::until("the container is reached", || busy.has_network().then_some(()));
            busy.tell("dockerd starts containerd again").recovered(Time::After(moment.elapsed()))
        }),
    );
}

#[test]
fn f9_the_supervisor() {
    play(
        9,
        "SIGKILL of the launcher",
        |user| {
            let mut busy = Busy::new(user, Launcher::Run);
            let dockerd = busy.pid(Part::Dockerd);
            let moment = Instant::now();
            busy.daemon.kill();
            wait::until("dockerd ends with it", || (!runs(dockerd)).then_some(()));
            let next = Launch::new(user, Launcher::Run).ready();
            let recovered = Time::After(moment.elapsed());
            let log = next.log();
            assert!(log.contains("was left by a daemon that is gone"), "{log}");
            let next = Busy::adopt(user, next);
            next.assert_whole();
            next.over();
            Side::told("dockerd ends too; the next start kills the containers in the dead namespaces and starts them again").recovered(recovered)
        },
        Some(|user| {
            let mut busy = Busy::new(user, Launcher::Upstream);
            let dockerd = busy.pid(Part::Dockerd);
            busy.daemon.kill();
            until_reaped(dockerd);
            let left = || process::list(user.uid, &user.subordinate).len();
            let orphans = left();
            let (next, side) = start_upstream(&Launch::new(user, Launcher::Upstream));
            let shims = process::list(user.uid, &user.subordinate)
                .iter()
                .filter(|process| process.command.contains("containerd-shim"))
                .count();
            drop(next);
            Side::told(format!(
                    "{orphans} processes stay in the dead namespaces; the next start: {}; then {shims} shims run for one container",
                    side.happened
                )).recovered(side.recovered)
        }),
    );
}
