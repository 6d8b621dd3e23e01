//! Starts and stops: two at once, signals at any moment, many of them, on demand, and those that must fail.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use super::play;
use super::scene::{
    Busy, Container, LOOK, Part, empty, find, last_words, refusal, remove_dumps, runs,
    start_upstream, until_said,
};
use super::table::{Side, Time};
use test_support::*;

#[test]
fn f18_two_launches() {
    play(
        18,
        "a second launch",
        |user| {
            let busy = Busy::new(user, Launcher::Run);
            busy.moment();
            let (code, log, time) = refusal(&Launch::new(user, Launcher::Run));
            assert_eq!(code, Some(5), "{log}");
            assert!(log.contains(&busy.daemon.pid().to_string()), "{log}");
            busy.end_untouched("refused with the PID of the first (exit 5), which keeps running")
                .detected(Time::After(time))
        },
        Some(|user| {
            let busy = Busy::new(user, Launcher::Upstream);
            let moment = busy.moment();
            let mut second = Launch::new(user, Launcher::Upstream).start();
            let status = second.wait_exit();
            let time = moment.elapsed();
            let answers = busy.daemon.docker.answers();
            busy.tell(format!(
                "{status}, and the log says: {}; the first answers: {answers}",
                last_words(&second.log())
            ))
            .detected(Time::After(time))
        }),
    );
}

/// The first 600 ms of a start.
fn moments() -> impl Iterator<Item = Duration> {
    (0..=12).map(|n| Duration::from_millis(50) * n)
}

/// Signals a launch at each moment; how many did not end within [`LOOK`], and the longest time of those that did.
fn sweep(user: &TestUser, launcher: Launcher, signals: &[Signal]) -> (usize, usize, Duration) {
    let (mut starts, mut hanging, mut longest) = (0, 0, Duration::ZERO);
    for signal in signals {
        for moment in moments() {
            let mut daemon = Launch::new(user, launcher).start();
            sleep(moment);
            daemon.signal(*signal);
            let since = Instant::now();
            let ended = wait::poll(LOOK, || daemon.ended());
            starts += 1;
            match ended {
                Some(_) => longest = longest.max(since.elapsed()),
                None => hanging += 1,
            }
            if launcher == Launcher::Run {
                let status =
                    ended.unwrap_or_else(|| panic!("{signal} at {moment:?}: {}", daemon.log()));
                let killed = status.signal();
                // Before our own program was there to receive it.
                let is_early = killed == Some(*signal as i32);
                assert!(
                    status.code() == Some(0) || is_early,
                    "{signal} at {moment:?}: {status}: {}",
                    daemon.log()
                );
                assert_nothing_left(user);
            } else {
                drop(daemon);
                process::kill_all(user.uid, &user.subordinate);
                empty(&user.runtime_dir);
            }
        }
    }
    (starts, hanging, longest)
}

#[test]
#[ignore = "slow: make faults runs it"]
fn f20_ended_while_it_starts() {
    const SIGNALS: [Signal; 2] = [Signal::SIGTERM, Signal::SIGINT];
    fn side(counts: (usize, usize, Duration)) -> Side {
        let (starts, hanging, longest) = counts;
        Side::told(format!(
            "{hanging} of {starts} starts hung; the others exited in {:.2} s at most",
            longest.as_secs_f64()
        ))
    }
    play(
        20,
        "SIGTERM, SIGINT every 50 ms in the first 600 ms of a start",
        |user| side(sweep(user, Launcher::Run, &SIGNALS)),
        Some(|user| side(sweep(user, Launcher::Upstream, &SIGNALS))),
    );
}

#[test]
#[ignore = "slow: make faults runs it"]
fn f21_sighup_while_it_starts() {
    play(
        21,
        "SIGHUP every 50 ms in the first 600 ms of a start",
        |user| {
            let mut reloads = 0;
            for moment in moments() {
                let mut daemon = Launch::new(user, Launcher::Run).start();
                sleep(moment);
                daemon.signal(Signal::SIGHUP);
                let ready = wait::until("it is ready or ended", || {
                    let ended = daemon.ended().map(|_| false);
                    ended.or_else(|| daemon.docker.answers().then_some(true))
                });
                if ready {
                    until_said(&daemon, "Got signal to reload configuration", Instant::now());
                    reloads += 1;
                    assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.log());
                } else {
                    // Before our own program was there to receive it.
                    let status = daemon.wait_exit();
                    let killed = status.signal();
                    assert_eq!(killed, Some(Signal::SIGHUP as i32), "{moment:?}: {}", daemon.log());
                }
                assert_nothing_left(user);
            }
            assert!(reloads >= 10, "{reloads}");
            Side::told(format!(
                "{reloads} of 13 waited until dockerd was ready and then reloaded it, the others came before the program ran"
            ))
        },
        Some(|user| {
            let mut dead = 0;
            for moment in moments() {
                let mut daemon = Launch::new(user, Launcher::Upstream).start();
                sleep(moment);
                daemon.signal(Signal::SIGHUP);
                let ended = wait::poll(LOOK, || {
                    let ended = daemon.ended().map(|_| true);
                    ended.or_else(|| daemon.docker.answers().then_some(false))
                });
                dead += usize::from(ended != Some(false));
                drop(daemon);
                process::kill_all(user.uid, &user.subordinate);
                // Nor is it what the one before has left that ends the next.
                empty(&user.runtime_dir);
            }
            Side::told(format!("{dead} of 13 starts did not survive it"))
        }),
    );
}

#[test]
fn f22_sigquit() {
    play(
        22,
        "SIGQUIT",
        |user| {
            let mut busy = Busy::new(user, Launcher::Run);
            let moment = Instant::now();
            busy.daemon.signal(Signal::SIGQUIT);
            let status = busy.daemon.wait_exit();
            let time = moment.elapsed();
            let log = busy.daemon.log();
            assert_eq!(status.code(), Some(0), "{log}");
            assert!(log.contains("goroutine"), "{log}");
            // What was asked for stays.
            assert_eq!(remove_dumps(user), 1);
            Side::refused("dockerd dumps its goroutines, then it stops (exit 0)", time)
        },
        Some(|user| {
            let mut busy = Busy::new(user, Launcher::Upstream);
            let moment = Instant::now();
            busy.daemon.signal(Signal::SIGQUIT);
            wait::poll(LOOK, || busy.daemon.ended());
            busy.look(moment)
        }),
    );
}

/// What `times` starts and stops add to the user's processes, mounts and files.
fn growth(user: &TestUser, launcher: Launcher, times: usize) -> Vec<String> {
    let now = || {
        let of_user =
            [user.runtime_dir.clone(), user.home.join(".local"), user.home.join(".config")];
        Snapshot::of(user, of_user)
    };
    let once = || {
        let mut daemon = Launch::new(user, launcher).ready();
        daemon.stop();
    };
    once();
    let before = now();
    for _ in 0..times {
        once();
    }
    let mut new = Vec::new();
    wait::poll(LOOK, || {
        let all = now().since(&before);
        new = all.into_iter().filter(|line| line.starts_with("new: ")).collect();
        new.is_empty().then_some(())
    });
    new
}

#[test]
#[ignore = "slow: make faults runs it"]
fn f24_many_starts() {
    play(
        24,
        "100 starts and stops, one after another",
        |user| {
            let moment = Instant::now();
            let new = growth(user, Launcher::Run, 100);
            assert!(new.is_empty(), "{new:#?}");
            Side::told(format!(
                "no leftover process, mount or file; {:.2} s each",
                moment.elapsed().as_secs_f64() / 101.0
            ))
        },
        Some(|user| {
            let moment = Instant::now();
            let new = growth(user, Launcher::Upstream, 100);
            Side::told(format!(
                "{} leftover processes, mounts and files; {:.2} s each",
                new.len(),
                moment.elapsed().as_secs_f64() / 101.0
            ))
        }),
    );
}

/// A socket of the service manager's and a service that runs `command` for it.
fn on_demand<'u>(user: &'u TestUser, command: &str, kind: &str) -> UserManager<'u> {
    let manager = UserManager::start(user);
    manager.write_unit(
        "docker.socket",
        "[Socket]\nListenStream=%t/docker.sock\nSocketMode=0600\nRemoveOnStop=yes\n",
    );
    manager.write_unit(
        "docker.service",
        &format!(
            "[Unit]\nRequires=docker.socket\n\
             [Service]\nExecStart={command}\nType={kind}\nNotifyAccess=all\nKillMode=mixed\n\
             Environment=PATH={}\n",
            user::PATH
        ),
    );
    manager.systemctl(&["start", "docker.socket"]);
    manager
}

#[test]
fn f41_socket_activation() {
    play(
        41,
        "the first request on a socket from systemd, and one after SIGKILL of dockerd",
        |user| {
            let command = Launcher::Run.install(user).display().to_string();
            let manager = on_demand(user, &command, "notify");
            let docker = Docker(user);
            let moment = Instant::now();
            assert!(docker.answers());
            let first = moment.elapsed();
            docker.import_image();
            docker.assert_publishes(user.port(0), "--restart always");
            let container = Container::find(&docker, "web").expect("it runs");
            let dockerd = find(user, Part::Dockerd).expect("dockerd");
            let moment = Instant::now();
            kill(dockerd, Signal::SIGKILL).expect("it is there");
            wait::until("it ends", || (!runs(dockerd)).then_some(()));
            // Not one is refused: the socket stays with systemd.
            assert_eq!(docker.run("version --format {{.Server.Os}}"), "linux");
            let recovered = Time::After(moment.elapsed());
            Docker::assert_answers(user.port(0));
            assert_eq!(Container::find(&docker, "web"), Some(container));
            manager.systemctl(&["stop", "docker.service", "docker.socket"]);
            assert_eq!(manager.property("docker.service", "Result"), "success");
            assert_eq!(manager.property("docker.service", "NRestarts"), "0");
            manager.stop();
            Side::told(format!("both are answered, the first after {:.2} s", first.as_secs_f64()))
                .recovered(recovered)
        },
        Some(|user| {
            let script = Launcher::Upstream.install(user).display().to_string();
            let manager = on_demand(user, &format!("{script} -H fd://"), "simple");
            let moment = Instant::now();
            let answer = wait::poll(LOOK, || Docker(user).answers().then_some(()));
            let (answers, time) = (answer.is_some(), moment.elapsed());
            let state = manager.property("docker.service", "ActiveState");
            Side::told(format!(
                "the first is answered: {answers}; the unit is {state}, and the log says: {}",
                last_words(&manager.log())
            ))
            .recovered(match answers {
                true => Time::After(time),
                false => Time::NotWithin(LOOK),
            })
        }),
    );
}

const BROKEN: &str = "{\"debug\": tru";

#[test]
fn f42_a_broken_configuration() {
    play(
        42,
        "daemon.json is broken, at a start and when dockerd is killed later",
        |user| {
            let file = user.home.join(".config/docker/daemon.json");
            user.write(&file, BROKEN);
            let (code, log, time) = refusal(&Launch::new(user, Launcher::Run));
            assert_eq!(code, Some(78), "{log}");
            assert!(log.contains("daemon.json"), "{log}");
            assert_nothing_left(user);
            fs::remove_file(&file).expect("remove it");

            let busy = Busy::new(user, Launcher::Run);
            user.write(&file, BROKEN);
            let before = busy.pid(Part::Dockerd);
            let moment = busy.kill(Part::Dockerd);
            busy.until_said("dockerd starts with its last settings", moment);
            busy.until_another(Part::Dockerd, before);
            busy.until_answers(moment);
            busy.assert_told("dockerd was ended by SIGKILL", [0, 1, 0]);
            fs::remove_file(&file).expect("remove it");
            busy.end_untouched("at a start: exits at once and names the file and the fault (exit 78), without a loop; later: dockerd starts with its last good configuration, and the log says why")
                .detected(Time::After(time))
        },
        Some(|user| {
            let file = user.home.join(".config/docker/daemon.json");
            user.write(&file, BROKEN);
            start_upstream(&Launch::new(user, Launcher::Upstream)).1
        }),
    );
}
