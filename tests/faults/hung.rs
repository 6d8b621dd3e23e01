//! One of the programs is there and does nothing, or takes its time.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::play;
use super::scene::{Busy, LOOK, Part, remove_dumps, status};
use super::table::{Side, Time};
use test_support::authz::{Authz, Verdict};
use test_support::command::run;
use test_support::process::Background;
use test_support::*;

const PROBE_INTERVAL: &str = "DOCKERD_ROOTLESS_SUPERVISE_PROBE_INTERVAL";
const ON_HANG: &str = "DOCKERD_ROOTLESS_SUPERVISE_ON_HANG";

/// What is said of a process that cannot do anything.
const STOPPED: &str = "it is stopped, frozen or traced";

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
        "dockerd is stopped by SIGSTOP until SIGCONT, probed every second",
        |user| {
            let busy = attentive(user);
            let before = busy.pid(Part::Dockerd);
            let moment = busy.halt(Part::Dockerd);
            let detected = busy.until_degraded(STOPPED, moment);
            busy.go_on(Part::Dockerd);
            busy.until_state("ready");
            let recovered = busy.until_answers(moment);
            assert_eq!(busy.pid(Part::Dockerd), before);
            busy.assert_counts([0, 0, 0]);
            busy.end_untouched("reported with the command that continues it, and left alone")
                .detected(detected)
                .recovered(recovered)
        },
        Some(|user| {
            let busy = Busy::new(user, Launcher::Upstream);
            let moment = busy.halt(Part::Dockerd);
            sleep(LOOK);
            busy.go_on(Part::Dockerd);
            let recovered = busy.until_answers(moment);
            busy.tell("nothing is reported").recovered(recovered)
        }),
    );
}

/// dockerd stands still for so long.
fn slow(user: &TestUser, launcher: Launcher, time: Duration) -> Side {
    let busy = match launcher {
        Launcher::Run => attentive(user),
        _ => Busy::new(user, launcher),
    };
    let before = busy.pid(Part::Dockerd);
    let moment = busy.halt(Part::Dockerd);
    sleep(time);
    busy.go_on(Part::Dockerd);
    let recovered = busy.until_answers(moment);
    assert_eq!(busy.pid(Part::Dockerd), before);
    if launcher == Launcher::Upstream {
        return busy.tell("the answer comes late").recovered(recovered);
    }
    busy.assert_counts([0, 0, 0]);
    busy.end_untouched("the answer comes late; nothing is done").recovered(recovered)
}

#[test]
#[ignore = "slow: make faults runs it"]
fn f43_seven_seconds() {
    const TIME: Duration = Duration::from_secs(7);
    play(
        43,
        "dockerd answers 7 s late, probed every second",
        |user| slow(user, Launcher::Run, TIME),
        Some(|user| slow(user, Launcher::Upstream, TIME)),
    );
}

#[test]
#[ignore = "slow: make faults runs it"]
fn f44_forty_seconds() {
    const TIME: Duration = Duration::from_secs(40);
    play(
        44,
        "dockerd answers 40 s late, probed every second",
        |user| slow(user, Launcher::Run, TIME),
        Some(|user| slow(user, Launcher::Upstream, TIME)),
    );
}

#[test]
fn f45_forbidden() {
    play(
        45,
        "an authorization plugin makes dockerd answer 403 to everything, probed every second",
        |user| {
            let plugin = Authz::start(user);
            let launch = plugin.launch(user, Launcher::Run).env(PROBE_INTERVAL, "1");
            let busy = Busy::from(user, &launch);
            let before = busy.pid(Part::Dockerd);
            plugin.say(Verdict::Deny);
            // The launcher's own: nobody else asks.
            wait::until("the daemon is asked how it is", || (plugin.asked() > 3).then_some(()));
            assert!(!busy.daemon.docker.answers());
            plugin.say(Verdict::Allow);
            assert_eq!(busy.pid(Part::Dockerd), before);
            busy.assert_counts([0, 0, 0]);
            assert!(!busy.daemon.log().contains("does not answer"), "{}", busy.daemon.log());
            busy.end_untouched("a 403 is an answer: nothing is done")
        },
        Some(|user| {
            let plugin = Authz::start(user);
            let busy = Busy::from(user, &plugin.launch(user, Launcher::Upstream));
            plugin.say(Verdict::Deny);
            assert!(!busy.daemon.docker.answers());
            plugin.say(Verdict::Allow);
            busy.tell("nothing is done")
        }),
    );
}

/// A launch for which `/version` takes so many seconds: dockerd runs `docker-init --version` for it.
fn slow_version<'u>(user: &'u TestUser, launcher: Launcher, seconds: u32) -> (Launch<'u>, PathBuf) {
    let (place, mark) = (user.home.join("first"), user.home.join("asked"));
    let program = place.join("docker-init");
    user.write(
        &program,
        format!(
            "#!/bin/sh\necho >>{}\nsleep {seconds}\nexec /usr/bin/docker-init \"$@\"\n",
            mark.display()
        ),
    );
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("make it a program");
    let path = format!("{}:{}", place.display(), user::PATH);
    (Launch::new(user, launcher).env("PATH", path), mark)
}

#[test]
fn f46_a_slow_version() {
    const SECONDS: u32 = 8;
    play(
        46,
        "`/version` takes 8 s (a slow `docker-init`), probed every second",
        |user| {
            let (launch, mark) = slow_version(user, Launcher::Run, SECONDS);
            let moment = Instant::now();
            let daemon = launch.env(PROBE_INTERVAL, "1").ready();
            let status = wait::until("it is ready", || {
                Some(status(user)).filter(|status| status["state"] == "ready")
            });
            let recovered = Time::After(moment.elapsed());
            assert!(status["dockerd_version"].is_null(), "{status:#}");
            wait::until("docker-init is asked", || mark.exists().then_some(()));
            let busy = Busy::of(user, daemon);
            wait::until("the version is told", || {
                busy.status()["dockerd_version"].is_string().then_some(())
            });
            busy.assert_counts([0, 0, 0]);
            assert!(!busy.daemon.log().contains("does not answer"), "{}", busy.daemon.log());
            let side = busy.end_untouched("ready without it; the version follows when it is known");
            side.recovered(recovered)
        },
        Some(|user| {
            let (launch, _) = slow_version(user, Launcher::Upstream, SECONDS);
            let moment = Instant::now();
            let busy = Busy::from(user, &launch);
            busy.tell("it is not asked").recovered(Time::After(moment.elapsed()))
        }),
    );
}

/// A tracer that has stopped all threads of a process; they go on when the value goes. Only the thread that has made it
/// can end it.
struct Tracer(Vec<Pid>);

impl Tracer {
    fn attach(pid: Pid) -> Self {
        let mut tracer = Self(Vec::new());
        let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
        for thread in threads.flatten() {
            let name = thread.file_name().into_string().expect("a number");
            let thread = Pid::from_raw(name.parse().expect("a number"));
            ptrace::attach(thread).expect("trace it");
            tracer.0.push(thread);
            waitpid(thread, Some(WaitPidFlag::__WALL)).expect("it stops");
        }
        tracer
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        for thread in &self.0 {
            let _ = ptrace::detach(*thread, None);
        }
    }
}

#[test]
#[ignore = "slow: make faults runs it"]
fn f47_traced() {
    play(
        47,
        "a debugger stops dockerd (ptrace), probed every second",
        |user| {
            let busy = attentive(user);
            let before = busy.pid(Part::Dockerd);
            let moment = busy.moment();
            let tracer = Tracer::attach(before);
            let detected = busy.until_degraded(STOPPED, moment);
            drop(tracer);
            busy.until_state("ready");
            let recovered = busy.until_answers(moment);
            assert_eq!(busy.pid(Part::Dockerd), before);
            busy.assert_counts([0, 0, 0]);
            busy.end_untouched("reported with the command that continues it, and left alone")
                .detected(detected)
                .recovered(recovered)
        },
        None,
    );
}

/// A group of processes that the kernel has frozen; they go on, and the group goes, with the value.
struct Frozen(PathBuf);

impl Frozen {
    fn new(user: &TestUser) -> Self {
        let group = Self(PathBuf::from("/sys/fs/cgroup/freezer").join(&user.name));
        fs::create_dir(&group.0).expect("make a cgroup");
        for process in process::list(user.uid, &user.subordinate) {
            fs::write(group.0.join("cgroup.procs"), process.pid.to_string()).expect("move it");
        }
        fs::write(group.0.join("freezer.state"), "FROZEN").expect("freeze");
        wait::until("all are frozen", || {
            let state = fs::read_to_string(group.0.join("freezer.state")).ok()?;
            (state.trim() == "FROZEN").then_some(())
        });
        group
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("freezer.state"), "THAWED");
        wait::poll(wait::PATIENCE, || {
            let pids = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
            for pid in pids.lines() {
                // It may have ended.
                let _ = fs::write("/sys/fs/cgroup/freezer/cgroup.procs", pid);
            }
            fs::remove_dir(&self.0).is_ok().then_some(())
        });
    }
}

#[test]
#[ignore = "slow: make faults runs it"]
fn f48_all_frozen() {
    const TIME: Duration = Duration::from_secs(20);
    fn thaw(busy: &Busy, user: &TestUser) -> Time {
        let moment = busy.moment();
        let frozen = Frozen::new(user);
        sleep(TIME);
        drop(frozen);
        busy.until_answers(moment)
    }
    play(
        48,
        "everything is frozen for 20 s (cgroup freezer), then thawed, probed every second",
        |user| {
            let busy = attentive(user);
            let before = busy.pid(Part::Dockerd);
            let recovered = thaw(&busy, user);
            assert_eq!(busy.pid(Part::Dockerd), before);
            busy.assert_counts([0, 0, 0]);
            busy.end_untouched("it continues as before").recovered(recovered)
        },
        Some(|user| {
            let busy = Busy::new(user, Launcher::Upstream);
            let recovered = thaw(&busy, user);
            busy.tell("it continues as before").recovered(recovered)
        }),
    );
}

#[test]
#[ignore = "slow: make faults runs it"]
fn f49_no_processor_time() {
    const LOOPS: usize = 32;
    const TIME: Duration = Duration::from_secs(30);
    fn load(user: &TestUser) -> Vec<Background> {
        let busy_loop = || {
            let mut command = user.command("sh");
            command.args(["-c", "while :; do :; done"]);
            Background::start(&mut command)
        };
        (0..LOOPS).map(|_| busy_loop()).collect()
    }
    play(
        49,
        "32 busy loops on two processors for 30 s, from before the start, probed every second",
        |user| {
            let loops = load(user);
            let busy = attentive(user);
            let before = busy.pid(Part::Dockerd);
            busy.moment();
            sleep(TIME);
            assert_eq!(busy.pid(Part::Dockerd), before);
            busy.assert_counts([0, 0, 0]);
            drop(loops);
            busy.end_untouched("it starts and keeps running")
        },
        Some(|user| {
            let loops = load(user);
            let busy = Busy::new(user, Launcher::Upstream);
            busy.moment();
            sleep(TIME);
            drop(loops);
            busy.tell("it starts and keeps running")
        }),
    );
}

/// A file system whose writers the kernel keeps waiting as long as the value lives.
struct Stall(PathBuf);

impl Stall {
    fn new(mounted: PathBuf) -> Self {
        run(Command::new("fsfreeze").arg("--freeze").arg(&mounted));
        Self(mounted)
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        let thawed = Command::new("fsfreeze").arg("--unfreeze").arg(&self.0).status();
        assert!(thawed.is_ok_and(|status| status.success()), "{} stays frozen", self.0.display());
    }
}

#[test]
#[ignore = "slow: make faults runs it"]
fn f50_no_disk() {
    const TIME: Duration = Duration::from_secs(45);
    fn own_disk<'u>(user: &'u TestUser, launcher: Launcher) -> Launch<'u> {
        let data = user.home.join(".local/share/docker");
        user.make_dir(&data);
        let image = user.home.join("disk");
        Launch::new(user, launcher).prepare(format!(
            "truncate -s 256M {0}; mkfs.ext4 -q {0}; mount -o loop {0} {1}; chown {2}:{2} {1}; rmdir {1}/lost+found",
            image.display(),
            data.display(),
            user.uid,
        ))
    }
    /// Who wants something of the disk has it when the disk is back.
    fn stall(user: &TestUser, busy: &Busy) -> Time {
        let data = user.home.join(".local/share/docker");
        let root = format!("/proc/{}/root", busy.pid(Part::Rootlesskit));
        let moment = busy.moment();
        let stall = Stall::new(PathBuf::from(format!("{root}{}", data.display())));
        let socket = format!("unix://{}", busy.daemon.docker.socket().display());
        let mut create = user
            .brief_command("/usr/bin/docker")
            .args(["create", docker::IMAGE, "true"])
            .env("DOCKER_HOST", socket)
            .spawn()
            .expect("docker(1)");
        sleep(TIME);
        drop(stall);
        let status = wait::until("the disk is back", || create.try_wait().expect("docker(1)"));
        assert!(status.success(), "{status}");
        Time::After(moment.elapsed())
    }
    play(
        50,
        "the disk of the data root stalls for 45 s (fsfreeze) while a client creates a container",
        |user| {
            let launch = own_disk(user, Launcher::Run).env(PROBE_INTERVAL, "1");
            let busy = Busy::from(user, &launch);
            let before = busy.pid(Part::Dockerd);
            let recovered = stall(user, &busy);
            assert_eq!(busy.pid(Part::Dockerd), before);
            busy.assert_counts([0, 0, 0]);
            busy.end_untouched("nothing is done; the request completes when the disk is back")
                .recovered(recovered)
        },
        Some(|user| {
            let busy = Busy::from(user, &own_disk(user, Launcher::Upstream));
            let recovered = stall(user, &busy);
            busy.tell("the request completes when the disk is back").recovered(recovered)
        }),
    );
}

/// dockerd waits for a plugin, which never answers.
#[test]
#[ignore = "slow: make faults runs it"]
fn f53_hung() {
    fn hang<'u>(user: &'u TestUser, plugin: &Authz, on_hang: &str) -> (Busy<'u>, Instant) {
        let launch = plugin.launch(user, Launcher::Run);
        let launch = launch.env(PROBE_INTERVAL, "1").env(ON_HANG, on_hang);
        let busy = Busy::from(user, &launch);
        plugin.say(Verdict::Nothing);
        (busy, Instant::now())
    }
    const SAID: &str = "has done nothing at all for 30 s";
    play(
        53,
        "dockerd hangs: it waits for an authorization plugin that never answers, probed every second",
        |user| {
            let plugin = Authz::start(user);
            let (busy, moment) = hang(user, &plugin, "report");
            let before = busy.pid(Part::Dockerd);
            busy.until_degraded(SAID, moment);
            assert_eq!(busy.pid(Part::Dockerd), before);
            plugin.say(Verdict::Allow);
            busy.until_state("ready");
            busy.assert_counts([0, 0, 0]);
            busy.end_untouched("");

            let next = plugin.launch(user, Launcher::Run).env(PROBE_INTERVAL, "1").ready();
            let busy = Busy::adopt(user, next);
            let before = busy.pid(Part::Dockerd);
            plugin.say(Verdict::Nothing);
            let moment = Instant::now();
            let detected = busy.until_said(SAID, moment);
            busy.until_another(Part::Dockerd, before);
            plugin.say(Verdict::Allow);
            let recovered = busy.until_answers(moment);
            busy.assert_told(SAID, [0, 1, 0]);
            let dumps = remove_dumps(user);
            assert!(dumps > 0, "{}", busy.daemon.log());
            busy.end_untouched(
                "dockerd alone is replaced after it did nothing for 30 s, and its goroutines are dumped first; with `on-hang = \"report\"` it is only reported",
            )
            .detected(detected)
            .recovered(recovered)
        },
        Some(|user| {
            let plugin = Authz::start(user);
            let busy = Busy::from(user, &plugin.launch(user, Launcher::Upstream));
            plugin.say(Verdict::Nothing);
            let moment = Instant::now();
            let socket = busy.daemon.docker.socket();
            let back = wait::poll(LOOK * 12, || http::ping(&socket).then(|| moment.elapsed()));
            busy.tell("nothing is reported, and nothing is done")
                .recovered(back.map_or(Time::NotWithin(LOOK * 12), Time::After))
        }),
    );
}

#[test]
#[ignore = "slow: make faults runs it"]
fn f7_containerd() {
    play(
        7,
        "containerd is stopped by SIGSTOP until SIGCONT, probed every second",
        |user| {
            let busy = attentive(user);
            let before = busy.pid(Part::Containerd);
            let moment = busy.halt(Part::Containerd);
            let detected = busy.until_degraded("containerd is stopped", moment);
            busy.go_on(Part::Containerd);
            busy.until_state("ready");
            let recovered = Time::After(moment.elapsed());
            assert_eq!(busy.pid(Part::Containerd), before);
            busy.assert_counts([0, 0, 0]);
            busy.end_untouched("reported with the command that continues it, and left alone")
                .detected(detected)
                .recovered(recovered)
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
            busy.tell(format!(
                "`_ping` is answered: {pings}; `/version` names a containerd again: {}",
                back.is_some()
            ))
            .recovered(back.map_or(Time::NotWithin(LOOK * 6), Time::After))
        }),
    );
}

#[test]
fn f23_a_stop_that_is_not_heard() {
    const LIMIT: &str = "--shutdown-timeout=1";
    play(
        23,
        "SIGTERM to a launcher whose dockerd is stopped by SIGSTOP (`--shutdown-timeout=1`)",
        |user| {
            let launch = Launch::new(user, Launcher::Run).args([LIMIT]);
            let mut busy = Busy::from(user, &launch);
            let dockerd = busy.pid(Part::Dockerd);
            kill(dockerd, Signal::SIGSTOP).expect("it is there");
            let moment = Instant::now();
            let status = busy.daemon.stop();
            let log = busy.daemon.log();
            assert_eq!(status.code(), Some(0), "{log}");
            Side::told("dockerd is continued (SIGCONT) and stops in order (exit 0)")
                .detected(Time::After(moment.elapsed()))
        },
        Some(|user| {
            let launch = Launch::new(user, Launcher::Upstream).args([LIMIT]);
            let mut busy = Busy::from(user, &launch);
            busy.halt(Part::Dockerd);
            busy.daemon.signal(Signal::SIGTERM);
            let end = wait::poll(LOOK * 6, || busy.daemon.ended());
            busy.tell(format!("the script ends: {}", end.is_some()))
        }),
    );
}
