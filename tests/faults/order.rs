//! Stops, and what comes after: containers end in order, and whoever starts the daemon next finds all that there was.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::sys::signal::Signal;

use super::play;
use super::scene::{Busy, Container, LOOK, Part, refusal, status};
use super::table::{Containers, Side, Time};
use test_support::docker::{IMAGE, PAGE};
use test_support::*;

const KEEP: &str = "DOCKERD_ROOTLESS_SUPERVISE_KEEP_CONTAINERS";

/// Starts a container named `name`, with a process that takes two seconds to write a file when it is asked to end.
/// The file's path is returned.
fn start_writer(docker: &Docker, name: &str, words: &str) -> PathBuf {
    let user = docker.0;
    let out = user.home.join(name);
    user.make_dir(&out);
    user.write(
        &out.join("run"),
        "trap 'sleep 2; echo >/out/ended; exit' TERM\necho >/out/started\nsleep infinity &\nwait\n",
    );
    docker.run(&format!(
        "run -d -v {}:/out --name {name} {words} {IMAGE} sh /out/run",
        out.display()
    ));
    until_started(&out);
    out.join("ended")
}

/// Waits until the process of the container listens that has this directory, and forgets that.
fn until_started(out: &Path) {
    let file = out.join("started");
    wait::until("the container's process listens", || file.exists().then_some(()));
    fs::remove_file(file).expect("remove it");
}

#[test]
fn f58_a_stop_is_in_order() {
    fn stop(user: &TestUser, launcher: Launcher) -> (bool, bool, bool) {
        let mut busy = Busy::new(user, launcher);
        let docker = &busy.daemon.docker;
        let ended = start_writer(docker, "always", "--restart always");
        start_writer(docker, "once", "");
        docker.run(&format!("run --name over --restart on-failure {IMAGE} true"));
        busy.daemon.stop();
        let handled = ended.exists();
        let next = Launch::new(user, launcher).ready();
        let comes_back = wait::poll(wait::PATIENCE, || Container::find(&next.docker, "always"));
        let stays = ["once", "over"]
            .map(|name| Container::find(&next.docker, name))
            .iter()
            .all(Option::is_none);
        until_started(&user.home.join("always"));
        next.docker.run("rm -f always once over");
        let next = Busy::adopt(user, next);
        next.over();
        (handled, comes_back.is_some(), stays)
    }
    play(
        58,
        "a stop with a container whose handler takes 2 s, and the next start",
        |user| {
            assert_eq!(stop(user, Launcher::Run), (true, true, true));
            Side::told(
                "the handler runs to its end; `restart=always` is back after the next start, containers without a policy and exited ones are not",
            )
        },
        Some(|user| {
            let (handled, comes_back, stays) = stop(user, Launcher::Upstream);
            Side::told(format!(
                "the handler runs to its end: {handled}; `restart=always` is back: {comes_back}; the others are not: {stays}"
            ))
        }),
    );
}

/// A stop while dockerd is dead, on its way, or was killed twice and has to wait.
#[test]
fn f59_a_stop_without_a_daemon() {
    play(
        59,
        "SIGTERM to the launcher just after SIGKILL of dockerd, once and twice",
        |user| {
            let mut longest = Time::NoMatter;
            for kills in [1, 2] {
                let mut busy = match kills {
                    1 => Busy::new(user, Launcher::Run),
                    _ => Busy::adopt(user, Launch::new(user, Launcher::Run).ready()),
                };
                let ended = start_writer(&busy.daemon.docker, "writer", "");
                for kill in 0..kills {
                    let moment = Instant::now();
                    if kill > 0 {
                        busy.until_answers(moment);
                    }
                    busy.kill(Part::Dockerd);
                }
                let moment = Instant::now();
                let status = busy.daemon.stop();
                assert_eq!(status.code(), Some(0), "{}", busy.daemon.log());
                assert!(ended.exists(), "{}", busy.daemon.log());
                longest = Time::After(moment.elapsed());
                assert_nothing_left(user);
                let mut next = Launch::new(user, Launcher::Run).ready();
                next.docker.run("rm -f writer");
                fs::remove_dir_all(ended.parent().expect("a directory")).expect("remove it");
                assert_eq!(next.stop().code(), Some(0));
            }
            Side::told("dockerd starts once more to stop the containers; the handler runs to its end (exit 0)")
                .detected(longest)
        },
        Some(|user| {
            let mut busy = Busy::new(user, Launcher::Upstream);
            let ended = start_writer(&busy.daemon.docker, "writer", "");
            busy.kill(Part::Dockerd);
            let status = busy.daemon.wait_exit();
            Side::told(format!(
                "the script had already exited ({status}); the handler runs to its end: {}",
                ended.exists()
            ))
        }),
    );
}

/// With live-restore off, containers end with dockerd, in their own time.
#[test]
fn f60_containers_that_are_not_kept() {
    play(
        60,
        "`dockerd-rootless restart` when containers are not kept (`keep-containers = false`, and `live-restore: false` in daemon.json)",
        |user| {
            let json = user.home.join(".config/docker/daemon.json");
            for by_setting in [true, false] {
                let mut launch = Launch::new(user, Launcher::Run);
                match by_setting {
                    true => launch = launch.env(KEEP, "false"),
                    false => user.write(&json, r#"{"live-restore": false}"#),
                }
                let mut daemon = launch.ready();
                if by_setting {
                    daemon.docker.import_image();
                }
                let ended = start_writer(&daemon.docker, "writer", "--restart always");
                let before = Container::find(&daemon.docker, "writer").expect("it runs");
                let told = status(user);
                assert_eq!(told["keeps_containers"], false, "{told:#}");
                let mut command = user.brief_command(Launcher::Run.install(user));
                command::run(command.arg("restart"));
                assert!(ended.exists(), "{}", daemon.log());
                until_started(&user.home.join("writer"));
                let after = Container::find(&daemon.docker, "writer").expect("it runs");
                assert_ne!(after.pid, before.pid);
                let told = status(user);
                assert_eq!(
                    (&told["restarts"], &told["replaced"]),
                    (&0.into(), &1.into()),
                    "{told:#}"
                );
                daemon.docker.run("rm -f writer");
                fs::remove_dir_all(user.home.join("writer")).expect("remove it");
                assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.log());
                assert_nothing_left(user);
            }
            fs::remove_file(&json).expect("remove it");
            Side {
                containers: Containers::Restarted,
                ..Side::told(
                    "the containers stop within their timeouts, and their restart policies start them again; the namespaces stay",
                )
            }
        },
        None,
    );
}

/// A container that has been told to write into a volume.
fn fill(docker: &Docker) {
    docker.run("volume create kept");
    docker.run(&format!("run --name writes -v kept:/kept {IMAGE} cp /www/index.html /kept/page"));
}

/// The image, the volume and the containers that [`fill`] has made, and the one that comes back.
fn assert_finds(docker: &Docker) {
    assert!(!docker.run(&format!("images --quiet {IMAGE}")).is_empty());
    let page = docker.run(&format!("run --rm -v kept:/kept {IMAGE} cat /kept/page"));
    assert_eq!(page, PAGE);
    let state = docker.run("inspect --format {{.State.Status}} writes");
    assert_eq!(state, "exited");
    Docker::assert_answers(docker.0.port(0));
}

#[test]
fn f61_upstream_takes_over() {
    play(
        61,
        "upstream's script and ours in turn on the same data",
        |user| {
            let mut busy = Busy::new(user, Launcher::Run);
            fill(&busy.daemon.docker);
            for launcher in [Launcher::Upstream, Launcher::Run, Launcher::Upstream, Launcher::Run] {
                busy.daemon.stop();
                assert_nothing_left(user);
                busy = Busy::adopt(user, Launch::new(user, launcher).ready());
                assert_finds(&busy.daemon.docker);
            }
            busy.over();
            Side::told(
                "both find images, containers and volumes; `restart=always` is back each time",
            )
        },
        None,
    );
}

/// Another runtime directory, and the same home.
#[test]
fn f62_the_same_data_twice() {
    fn elsewhere<'u>(user: &'u TestUser, launcher: Launcher) -> Launch<'u> {
        let other = user.home.join("other-runtime-dir");
        user.make_dir(&other);
        command::run(user.command("chmod").arg("0700").arg(&other));
        Launch::new(user, launcher).env("XDG_RUNTIME_DIR", other)
    }
    play(
        62,
        "a second launch with another runtime directory and the same data",
        |user| {
            let busy = Busy::new(user, Launcher::Run);
            busy.moment();
            let (code, log, time) = refusal(&elsewhere(user, Launcher::Run));
            assert_eq!(code, Some(5), "{log}");
            assert!(log.contains(".local/share/docker"), "{log}");
            busy.assert_counts([0, 0, 0]);
            busy.end_untouched("refused with the data directory (exit 5); the first keeps running")
                .detected(Time::After(time))
        },
        Some(|user| {
            let busy = Busy::new(user, Launcher::Upstream);
            busy.moment();
            let mut second = elsewhere(user, Launcher::Upstream).start();
            let socket = user.home.join("other-runtime-dir/docker.sock");
            let came = wait::poll(LOOK * 2, || {
                let answers = http::ping(&socket).then(|| "it starts too".to_owned());
                answers.or_else(|| second.ended().map(|status| status.to_string()))
            });
            let runs = |name| Container::find(&busy.daemon.docker, name).is_some();
            let first = runs("web");
            second.signal(Signal::SIGTERM);
            wait::poll(LOOK * 2, || second.ended());
            let later = runs("web");
            busy.tell(format!(
                "{}; the first one's container runs: {first}, and when the second has stopped: {later}",
                came.unwrap_or_else(|| "neither an answer nor an end".to_owned())
            ))
        }),
    );
}
