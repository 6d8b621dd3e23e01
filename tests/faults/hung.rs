//! One of the programs is there and does nothing.

use std::time::Instant;

use nix::sys::signal::Signal;

use super::play;
use super::scene::{Busy, LOOK, Part};
use super::support::*;
use super::table::{Side, Time};

const PROBE_INTERVAL: &str = "DOCKERD_ROOTLESS_SUPERVISE_PROBE_INTERVAL";

/// Our launcher, which asks the daemon every second how it is.
fn attentive(user: &TestUser) -> Busy<'_> {
    let launch = Launch::new(user, Launcher::Run).env(PROBE_INTERVAL, "1");
    Busy::from(user, &launch)
}

#[test]
#[ignore = "slow: make faults runs it"]
fn f6_dockerd() {
    play(
        6,
        "dockerd hangs (SIGSTOP), asked every second",
        |user| {
            let busy = attentive(user);
            let hung = busy.pid(Part::Dockerd);
            let moment = busy.halt(Part::Dockerd);
            let detected = busy.until_said("dockerd does not answer any more", moment);
            wait::until("the one that hangs is killed", || {
                busy.find(Part::Dockerd)
                    .is_some_and(|pid| pid != hung)
                    .then_some(())
            });
            let recovered = busy.until_answers(moment);
            busy.assert_whole();
            busy.assert_told("dockerd does not answer any more", 1, 0);
            busy.over();
            Side {
                happened: "killed after a request had no answer for 5 s, and started again"
                    .to_owned(),
                detected,
                recovered,
            }
        },
        Some(|user| {
            let busy = Busy::new(user, Launcher::Upstream);
            let moment = busy.halt(Part::Dockerd);
            busy.look(moment)
        }),
    );
}

#[test]
#[ignore = "slow: make faults runs it"]
fn f7_containerd() {
    play(
        7,
        "containerd hangs (SIGSTOP), asked every second",
        |user| {
            let busy = attentive(user);
            let begin = busy.begin_of_container();
            let moment = busy.halt(Part::Containerd);
            let detected = busy.until_said("but its containerd does not", moment);
            assert_eq!(busy.status()["state"], "degraded");
            busy.until_said("it is killed if it hangs", moment);
            let recovered = busy.until_said("containerd answers again", moment);
            busy.assert_whole();
            busy.assert_told("containerd is still not back", 0, 0);
            assert_eq!(busy.begin_of_container(), begin);
            busy.over();
            Side {
                happened: "reported as degraded; killed when dockerd had not mended it in 15 s, which dockerd then did; the container never stopped".to_owned(),
                detected,
                recovered,
            }
        },
        Some(|user| {
            let busy = Busy::new(user, Launcher::Upstream);
            let moment = busy.halt(Part::Containerd);
            let back = wait::poll(LOOK * 6, || {
                let version = http::get_unix(&busy.daemon.docker.socket(), "/version").ok()?;
                let names_it = version.body.contains("\"containerd\"");
                names_it.then(|| moment.elapsed())
            });
            let pings = busy.daemon.docker.answers();
            Side {
                happened: format!(
                    "`_ping` is answered: {pings}; `/version` names a containerd again: {}",
                    back.is_some()
                ),
                detected: Time::NoMatter,
                recovered: back.map_or(Time::NotWithin(LOOK * 6), Time::After),
            }
        }),
    );
}

#[test]
#[ignore = "slow: make faults runs it"]
fn f23_a_stop_that_is_not_heard() {
    const LIMIT: &str = "--shutdown-timeout=1";
    play(
        23,
        "SIGTERM to a launcher whose dockerd does not react (`--shutdown-timeout=1`)",
        |user| {
            let launch = Launch::new(user, Launcher::Run).args([LIMIT]);
            let mut busy = Busy::from(user, &launch);
            busy.halt(Part::Dockerd);
            let moment = Instant::now();
            let status = busy.daemon.stop();
            let log = busy.daemon.log();
            assert_eq!(status.code(), Some(1), "{log}");
            assert!(log.contains("the daemon did not end in its time"), "{log}");
            Side {
                happened: "killed with its containers at its deadline (exit 1)".to_owned(),
                detected: Time::After(moment.elapsed()),
                recovered: Time::NoMatter,
            }
        },
        Some(|user| {
            let launch = Launch::new(user, Launcher::Upstream).args([LIMIT]);
            let mut busy = Busy::from(user, &launch);
            busy.halt(Part::Dockerd);
            busy.daemon.signal(Signal::SIGTERM);
            let end = wait::poll(LOOK * 6, || busy.daemon.ended());
            Side {
                happened: format!("the script ends: {}", end.is_some()),
                detected: Time::NoMatter,
                recovered: Time::NoMatter,
            }
        }),
    );
}
