//! What containers reach others by: published ports, the network, their shims.

use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::play;
use super::scene::{Busy, LOOK, Part, find_all};
use super::table::{Containers, Side, Time};
use test_support::*;

/// Whether the published port has the page.
fn port_answers(user: &TestUser) -> bool {
    let address = std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, user.port(0)));
    http::get_tcp(address, "/").is_ok_and(|page| page.body.trim_end() == docker::PAGE)
}

/// Kills who forwards for the published port, which has another process afterwards.
fn forwarder(user: &TestUser, part: Part) -> (Time, Time) {
    let busy = Busy::new(user, Launcher::Run);
    let before = busy.pid(part);
    let moment = busy.signal(part, Signal::SIGKILL);
    let detected = busy.until_said("does not answer: what served it is gone", moment);
    busy.until_another(part, before);
    Docker::assert_answers(user.port(0));
    let recovered = Time::After(moment.elapsed());
    let status = busy.until_state("ready");
    assert_eq!(status["restarts"], 0, "{status:#}");
    busy.end_untouched("");
    assert_nothing_left(user);
    (detected, recovered)
}

fn forwarder_upstream(user: &TestUser) -> Side {
    let busy = Busy::new(user, Launcher::Upstream);
    let moment = busy.signal(Part::DockerProxy, Signal::SIGKILL);
    let back = wait::poll(LOOK, || port_answers(user).then(|| moment.elapsed()));
    busy.tell(format!("the port answers: {}", back.is_some()))
        .recovered(back.map_or(Time::NotWithin(LOOK), Time::After))
}

#[test]
fn f54_a_ports_process_is_killed() {
    play(
        54,
        "SIGKILL of docker-proxy, and of rootlesskit-docker-proxy",
        |user| {
            forwarder(user, Part::RootlesskitProxy);
            let (detected, recovered) = forwarder(&TestUser::new(), Part::DockerProxy);
            let told = "dockerd is replaced, which restores the port; the container kept running";
            let side = Side { containers: Containers::Same, ..Side::told(told) };
            side.detected(detected).recovered(recovered)
        },
        Some(forwarder_upstream),
    );
}

/// Processes that go on when the value goes.
struct Halted(Vec<Pid>);

impl Drop for Halted {
    fn drop(&mut self) {
        for pid in &self.0 {
            let _ = kill(*pid, Signal::SIGCONT);
        }
    }
}

#[test]
fn f56_parts_stand_still() {
    const PARTS: [(Part, &str); 3] = [
        (Part::Rootlesskit, "rootlesskit is stopped"),
        (Part::RootlesskitChild, "rootlesskit's child is stopped"),
        (Part::Slirp4netns, "the network helper is stopped"),
    ];
    play(
        56,
        "SIGSTOP of rootlesskit, its child and slirp4netns, one after the other, until SIGCONT",
        |user| {
            let busy = Busy::new(user, Launcher::Run);
            let (mut detected, mut recovered) = (Time::NoMatter, Time::NoMatter);
            for (part, cause) in PARTS {
                let moment = busy.halt(part);
                let halted = Halted(vec![busy.pid(part)]);
                detected = busy.until_degraded(cause, moment);
                let moment = Instant::now();
                drop(halted);
                busy.until_state("ready");
                recovered = Time::After(moment.elapsed());
                Docker::assert_answers(user.port(0));
                assert!(busy.has_network());
            }
            busy.assert_counts([0, 0, 0]);
            busy.end_untouched(
                "each is reported with the command that continues it, and left alone",
            )
            .detected(detected)
            .recovered(recovered)
        },
        Some(|user| {
            let busy = Busy::new(user, Launcher::Upstream);
            let pids = PARTS.map(|(part, _)| busy.pid(part));
            let halted = Halted(pids.to_vec());
            for (part, _) in PARTS {
                busy.halt(part);
            }
            let log = busy.daemon.log().len();
            let back = wait::poll(LOOK, || port_answers(user).then_some(()));
            let says = busy.daemon.log().len() > log;
            drop(halted);
            busy.tell(format!("the port answers: {}; anything is said: {says}", back.is_some()))
        }),
    );
}

/// A shim that ends leaves its container, which nobody reaches any more.
#[test]
fn f57_a_shim_is_asked_to_end() {
    fn reached(busy: &Busy, moment: Instant) -> Option<Time> {
        wait::poll(LOOK * 6, || busy.has_network().then(|| Time::After(moment.elapsed())))
    }
    play(
        57,
        "SIGTERM of a container's shim",
        |user| {
            let busy = Busy::new(user, Launcher::Run);
            let moment = busy.signal(Part::Shim, Signal::SIGTERM);
            let recovered = reached(&busy, moment).expect("the container is reached");
            Docker::assert_answers(user.port(0));
            assert_eq!(find_all(user, Part::Shim).len(), 1);
            assert_eq!(busy.status()["restarts"], 0);
            busy.end("the rest of the container is ended, and its restart policy starts it again")
                .recovered(recovered)
        },
        Some(|user| {
            let busy = Busy::new(user, Launcher::Upstream);
            let moment = busy.signal(Part::Shim, Signal::SIGTERM);
            let recovered = reached(&busy, moment);
            busy.tell(format!("the container answers: {}", recovered.is_some()))
                .recovered(recovered.unwrap_or(Time::NotWithin(LOOK * 6)))
        }),
    );
}
