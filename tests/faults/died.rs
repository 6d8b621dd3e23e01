//! One of the programs is killed.

use std::time::Instant;

use nix::sys::signal::{Signal, kill};

use super::play;
use super::scene::{
    Busy, LOOK, Part, find, refusal, runs, start_upstream, until_reaped, until_said,
};
use super::support::*;
use super::table::{Side, Time};

/// Kills a part whose end takes the daemon with it.
fn killed(user: &TestUser, part: Part, cause: &str) -> Side {
    let busy = Busy::new(user, Launcher::Run);
    let before = busy.pid(Part::Dockerd);
    let moment = busy.kill(part);
    let detected = busy.until_said(cause, moment);
    let recovered = busy.until_answers(moment);
    busy.assert_whole();
    busy.assert_told(cause, 1, 0);
    assert_ne!(busy.pid(Part::Dockerd), before);
    busy.over();
    Side {
        happened: "all of it was cleared and started again, and the container with it".to_owned(),
        detected,
        recovered,
    }
}

fn killed_upstream(user: &TestUser, part: Part) -> Side {
    let busy = Busy::new(user, Launcher::Upstream);
    let moment = busy.kill(part);
    busy.look(moment)
}

#[test]
fn f1_dockerd() {
    play(
        1,
        "SIGKILL of dockerd",
        |user| killed(user, Part::Dockerd, "the daemon was ended by SIGKILL"),
        Some(|user| killed_upstream(user, Part::Dockerd)),
    );
}

#[test]
fn f2_rootlesskit() {
    play(
        2,
        "SIGKILL of rootlesskit",
        |user| killed(user, Part::Rootlesskit, "rootlesskit was ended by SIGKILL"),
        Some(|user| killed_upstream(user, Part::Rootlesskit)),
    );
}

#[test]
fn f3_rootlesskits_child() {
    play(
        3,
        "SIGKILL of rootlesskit's child in the namespaces",
        |user| {
            killed(
                user,
                Part::RootlesskitChild,
                "rootlesskit's child was ended by a signal",
            )
        },
        Some(|user| killed_upstream(user, Part::RootlesskitChild)),
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
            let begin = busy.begin_of_container();
            let (dockerd, helper) = (busy.pid(Part::Dockerd), busy.pid(Part::Slirp4netns));
            let moment = busy.kill(Part::Slirp4netns);
            let detected = busy.until_said("the network helper ended", moment);
            wait::until("the container has a network", || {
                busy.has_network().then_some(())
            });
            let recovered = Time::After(moment.elapsed());
            busy.assert_whole();
            busy.assert_told("network helper ended", 0, 1);
            assert_eq!(busy.begin_of_container(), begin);
            assert_eq!(busy.pid(Part::Dockerd), dockerd);
            assert_ne!(busy.pid(Part::Slirp4netns), helper);
            busy.over();
            Side {
                happened: "slirp4netns was started again; the container never stopped".to_owned(),
                detected,
                recovered,
            }
        },
        Some(|user| {
            let busy = Busy::new(user, Launcher::Upstream);
            assert!(busy.has_network());
            let moment = busy.kill(Part::Slirp4netns);
            let back = wait::poll(LOOK, || busy.has_network().then(|| moment.elapsed()));
            let answers = busy.daemon.docker.answers();
            let helper = find(user, Part::Slirp4netns);
            Side {
                happened: format!(
                    "the API answers: {answers}; slirp4netns runs: {}; containers have a network: {}",
                    helper.is_some(),
                    back.is_some()
                ),
                detected: Time::NoMatter,
                recovered: back.map_or(Time::NotWithin(LOOK), Time::After),
            }
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
                assert!(
                    log.contains("pasta") && log.contains("rootlesskit"),
                    "{log}"
                );
                return Side::refused(
                    "this rootlesskit knows no pasta: the launch is refused (exit 78)",
                    time,
                );
            }
            let daemon = launch.ready();
            daemon.docker.import_image();
            // pasta takes what comes to the host's loopback to another address of the namespace.
            daemon
                .docker
                .run("run -d --stop-signal KILL --name web busybox sleep 1000");
            let begin = daemon
                .docker
                .run("inspect --format {{.State.StartedAt}} web");
            let helper = find(user, Part::Pasta).expect("pasta");
            let moment = Instant::now();
            kill(helper, Signal::SIGKILL).expect("it is there");
            let detected = until_said(&daemon, "the network helper ended", moment);
            let recovered = until_said(&daemon, "the network is back", moment);
            assert_ne!(find(user, Part::Pasta), Some(helper));
            assert_eq!(
                daemon
                    .docker
                    .run("inspect --format {{.State.StartedAt}} web"),
                begin
            );
            let mut daemon = daemon;
            assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.log());
            Side {
                happened: "pasta was started again; the container never stopped".to_owned(),
                detected,
                recovered,
            }
        },
        None,
    );
}

#[test]
#[ignore = "slow: make faults runs it"]
fn f8_containerd() {
    play(
        8,
        "SIGKILL of containerd",
        |user| {
            let busy = Busy::new(user, Launcher::Run);
            let begin = busy.begin_of_container();
            let moment = busy.kill(Part::Containerd);
            let detected = busy.until_said("but its containerd does not", moment);
            assert_eq!(busy.status()["state"], "degraded");
            busy.until_said("containerd answers again", moment);
            let recovered = Time::After(moment.elapsed());
            busy.assert_whole();
            busy.assert_told("containerd does not", 0, 0);
            assert_eq!(busy.begin_of_container(), begin);
            busy.over();
            Side {
                happened:
                    "reported as degraded until dockerd had mended it; the container never stopped"
                        .to_owned(),
                detected,
                recovered,
            }
        },
        Some(|user| {
            let busy = Busy::new(user, Launcher::Upstream);
            let moment = busy.kill(Part::Containerd);
            assert!(busy.daemon.docker.answers());
            wait::until("dockerd starts containerd again", || {
                find(user, Part::Containerd)
            });
            wait::until("the container answers", || busy.has_network().then_some(()));
            Side {
                happened: "`_ping` is answered all the while; dockerd mends it".to_owned(),
                detected: Time::NoMatter,
                recovered: Time::After(moment.elapsed()),
            }
        }),
    );
}

#[test]
fn f9_the_supervisor() {
    play(
        9,
        "SIGKILL of the launcher's own process",
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
            Side {
                happened: "dockerd ends with it; the next start kills the containers of the dead namespaces and runs them again".to_owned(),
                detected: Time::NoMatter,
                recovered,
            }
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
            Side {
                happened: format!(
                    "{orphans} processes stay in the dead namespaces; the next start: {}; then {shims} shims run for one container",
                    side.happened
                ),
                detected: Time::NoMatter,
                recovered: side.recovered,
            }
        }),
    );
}
