//! Something is wrong with the files and directories that the daemon needs.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::signal::Signal;

use super::play;
use super::scene::{
    Busy, LOOK, Part, empty, find_all, last_words, refusal, start_upstream, status, until_reaped,
};
use super::table::{Side, Time};
use test_support::command::run;
use test_support::process::Background;
use test_support::*;

/// Kills everything of a user at one moment, and puts his runtime directory back as it was just before.
fn lose_power(user: &TestUser) {
    let copy = user.home.join("runtime-dir");
    run(Command::new("cp").arg("-a").args([&user.runtime_dir, &copy]));
    let immortal = process::kill_all(user.uid, &user.subordinate);
    assert!(immortal.is_empty(), "{immortal:?}");
    empty(&user.runtime_dir);
    run(Command::new("cp").arg("-a").arg(copy.join(".")).arg(&user.runtime_dir));
}

#[test]
fn f10_power_loss() {
    play(
        10,
        "power loss: everything killed, pid files, lock, sockets and state directory left",
        |user| {
            let busy = Busy::new(user, Launcher::Run);
            lose_power(user);
            drop(busy);
            let moment = Instant::now();
            let daemon = Launch::new(user, Launcher::Run).ready();
            let recovered = Time::After(moment.elapsed());
            let log = daemon.log();
            assert!(log.contains("removing the stale file"), "{log}");
            let busy = Busy::adopt(user, daemon);
            busy.assert_whole();
            busy.over();
            Side::told("stale files are named and removed; it starts, with the container")
                .recovered(recovered)
        },
        Some(|user| {
            let busy = Busy::new(user, Launcher::Upstream);
            let dockerd = busy.pid(Part::Dockerd);
            lose_power(user);
            drop(busy);
            until_reaped(dockerd);
            start_upstream(&Launch::new(user, Launcher::Upstream)).1
        }),
    );
}

/// Lets both pid files name a process that is another.
fn recycle(user: &TestUser, pid: u32) {
    for file in ["docker.pid", "docker/containerd/containerd.pid"] {
        user.write(&user.runtime_dir.join(file), pid.to_string());
    }
}

#[test]
fn f11_recycled_pids() {
    play(
        11,
        "docker.pid and containerd.pid name another running process",
        |user| {
            let other = Background::start(user.command("sleep").arg("infinity"));
            let mut recovered = Time::NoMatter;
            for pid in [1, other.pid()] {
                recycle(user, pid);
                let moment = Instant::now();
                let mut daemon = Launch::new(user, Launcher::Run).ready();
                recovered = Time::After(moment.elapsed());
                let log = daemon.log();
                assert!(log.contains(&format!("process {pid}")), "{log}");
                assert_eq!(daemon.stop().code(), Some(0), "{log}");
            }
            drop(other);
            Side::told("recognised as another program's PID, named and removed")
                .recovered(recovered)
        },
        Some(|user| {
            let other = Background::start(user.command("sleep").arg("infinity"));
            recycle(user, other.pid());
            start_upstream(&Launch::new(user, Launcher::Upstream)).1
        }),
    );
}

#[test]
fn f12_a_full_runtime_directory() {
    fn full<'u>(user: &'u TestUser, launcher: Launcher) -> Launch<'u> {
        Launch::new(user, launcher).prepare(format!(
            "mount -t tmpfs -o size=4k,mode=0700,uid={0},gid={0} tmpfs {1}",
            user.uid,
            user.runtime_dir.display()
        ))
    }
    play(
        12,
        "no space in the runtime directory (a tmpfs of 4 KiB)",
        |user| {
            let (code, log, time) = refusal(&full(user, Launcher::Run));
            assert_ne!(code, Some(0), "{log}");
            let error = log.split("error: ").last().expect("the end");
            let path = user.runtime_dir.display().to_string();
            assert!(error.contains(&path), "{log}");
            assert!(error.to_lowercase().contains("no space left"), "{log}");
            Side::refused("exits with the path and the cause", time)
        },
        Some(|user| start_upstream(&full(user, Launcher::Upstream)).1),
    );
}

/// A launch whose data root has so much room.
fn small<'u>(user: &'u TestUser, launcher: Launcher, size: &str) -> Launch<'u> {
    let data = user.home.join(".local/share/docker");
    user.make_dir(&data);
    Launch::new(user, launcher).prepare(format!(
        "mount -t tmpfs -o size={size},mode=0710,uid={0},gid={0} tmpfs {1}",
        user.uid,
        data.display()
    ))
}

/// Has the container fill the data root.
fn fill(user: &TestUser, busy: &Busy) {
    let filled = user
        .brief_command("/usr/bin/docker")
        .args(["exec", "web", "sh", "-c", "yes >/big"])
        .env("DOCKER_HOST", format!("unix://{}", busy.daemon.docker.socket().display()))
        .output()
        .expect("docker(1)");
    let message = String::from_utf8_lossy(&filled.stderr);
    assert!(message.contains("No space left on device"), "{message}");
}

#[test]
fn f13_a_full_data_root() {
    play(
        13,
        "no space in the data root, from the start (64 KiB) and later (24 MiB)",
        |user| {
            let (code, log, time) = refusal(&small(user, Launcher::Run, "64k"));
            // A check finds the cause too.
            assert_eq!(code, Some(4), "{log}");
            let said = log.lines().any(|line| {
                line.contains("cause: dockerd: ") && line.contains("no space left on device")
            });
            assert!(said, "{log}");
            assert_eq!(log.matches("msg=\"Starting up\"").count(), 1, "{log}");
            assert_nothing_left(user);

            let busy = Busy::from(user, &small(user, Launcher::Run, "24m"));
            fill(user, &busy);
            busy.assert_counts([0, 0, 0]);
            busy.end_untouched("at the start: exits with dockerd's message and the check that explains it (exit 4), without a loop; later: the container gets the error and the daemon keeps running")
                .detected(Time::After(time))
        },
        Some(|user| start_upstream(&small(user, Launcher::Upstream, "64k")).1),
    );
}

#[test]
fn f14_a_read_only_home() {
    fn read_only<'u>(user: &'u TestUser, launcher: Launcher) -> Launch<'u> {
        let data = user.home.join("data");
        user.make_dir(&data);
        Launch::new(user, launcher)
            .prepare(format!(
                "mount --bind {0} {0}; mount --bind {0}/data {0}/data; mount -o remount,bind,ro {0}",
                user.home.display()
            ))
            .env("XDG_CONFIG_HOME", data.join("config"))
            .args(["--data-root", data.to_str().expect("a plain path")])
    }
    play(
        14,
        "a read-only home, the data elsewhere",
        |user| {
            let moment = Instant::now();
            let daemon = read_only(user, Launcher::Run).ready();
            let recovered = Time::After(moment.elapsed());
            let busy = Busy::of(user, daemon);
            busy.assert_whole();
            busy.over();
            Side::told("it starts").recovered(recovered)
        },
        Some(|user| start_upstream(&read_only(user, Launcher::Upstream)).1),
    );
}

#[test]
fn f65_no_socket() {
    play(
        65,
        "`rm` of docker.sock",
        |user| {
            let busy = Busy::new(user, Launcher::Run);
            let before = busy.pid(Part::Dockerd);
            let moment = Instant::now();
            fs::remove_file(busy.daemon.docker.socket()).expect("it is there");
            let detected = busy.until_said(REMOVED, moment);
            let recovered = busy.until_answers(moment);
            busy.moment();
            assert_eq!(busy.pid(Part::Dockerd), before);
            busy.assert_counts([0, 0, 0]);
            busy.end_untouched("restored; nothing restarts").detected(detected).recovered(recovered)
        },
        Some(|user| {
            let busy = Busy::new(user, Launcher::Upstream);
            let moment = busy.moment();
            fs::remove_file(busy.daemon.docker.socket()).expect("it is there");
            busy.look(moment)
        }),
    );
}

/// What is said of files that were deleted.
const REMOVED: &str = "files in the runtime directory were deleted";

#[test]
#[ignore = "slow: make faults runs it"]
fn f15_an_emptied_runtime_directory() {
    play(
        15,
        "`rm -rf` of all that is in the runtime directory",
        |user| {
            let busy = Busy::new(user, Launcher::Run);
            let moment = busy.moment();
            empty(&user.runtime_dir);
            let detected = busy.until_said(REMOVED, moment);
            let recovered = busy.until_answers(moment);
            busy.assert_whole();
            busy.assert_told(REMOVED, [1, 0, 0]);
            let side = busy
                .tell("stopped and started again, with the container: what leads to it was removed too")
                .detected(detected)
                .recovered(recovered);
            busy.over();
            side
        },
        Some(|user| {
            let mut busy = Busy::new(user, Launcher::Upstream);
            let moment = busy.moment();
            empty(&user.runtime_dir);
            let back = wait::poll(LOOK, || busy.daemon.docker.answers().then(|| moment.elapsed()));
            let runs = busy.find(Part::Dockerd).is_some();
            let code = busy.daemon.stop().code();
            Side::told(format!(
                "dockerd keeps running: {runs}; its API answers: {}; a stop ends with {code:?}",
                back.is_some()
            ))
            .recovered(back.map_or(Time::NotWithin(LOOK), Time::After))
        }),
    );
}

#[test]
fn f16_a_runtime_directory_of_others() {
    play(
        16,
        "the runtime directory is writable by all (1777), or root's",
        |user| {
            let open = |mode| {
                fs::set_permissions(&user.runtime_dir, Permissions::from_mode(mode))
                    .expect("change the mode");
            };
            let own = |uid| chown(&user.runtime_dir, Some(uid), None).expect("change the owner");
            let refused = || {
                let (code, log, time) = refusal(&Launch::new(user, Launcher::Run));
                assert_eq!(code, Some(4), "{log}");
                assert!(log.contains("XDG_RUNTIME_DIR") && log.contains("hint: "), "{log}");
                time
            };
            open(0o1777);
            let time = refused();
            open(0o700);
            own(0);
            refused();
            own(user.uid);
            Side::refused("refused with a hint (exit 4)", time)
        },
        Some(|user| {
            fs::set_permissions(&user.runtime_dir, Permissions::from_mode(0o1777))
                .expect("change the mode");
            start_upstream(&Launch::new(user, Launcher::Upstream)).1
        }),
    );
}

/// The daemon fails at each start, after which its remains are removed while somebody swaps directories in there for
/// links to a place of value.
#[test]
#[ignore = "slow: make faults runs it"]
fn f31_links_in_the_way() {
    play(
        31,
        "directories are swapped for links to another place while they are cleared",
        |user| {
            const NAMES: [&str; 3] = ["docker/containerd", "docker/libnetwork", "docker/netns"];
            let precious = user.home.join("precious");
            let canaries = ["daemon/photo", "photo", "containerd.sock"];
            for name in canaries {
                user.write(&precious.join(name), "");
            }
            for name in NAMES {
                user.write(&user.runtime_dir.join(name).join("remains"), "");
                let link = user.home.join(name.replace('/', "-"));
                symlink(&precious, link).expect("make a link");
            }
            let done = AtomicBool::new(false);
            let mut cleared = 0;
            let swapped = thread::scope(|scope| {
                let swapper = scope.spawn(|| {
                    let mut swaps = 0_u32;
                    while !done.load(Ordering::Relaxed) {
                        for name in NAMES {
                            let one = user.runtime_dir.join(name);
                            let other = user.home.join(name.replace('/', "-"));
                            // Fails while another name leads elsewhere.
                            if renameat2(
                                AT_FDCWD,
                                &one,
                                AT_FDCWD,
                                &other,
                                RenameFlags::RENAME_EXCHANGE,
                            )
                            .is_ok()
                            {
                                swaps += 1;
                            }
                        }
                    }
                    swaps
                });
                // Not ours, which removes what has its socket's name, as that of dockerd does.
                let launch = Launch::new(user, Launcher::Run).args(["--containerd=/run/x.sock"]);
                let launch = launch.env("DOCKERD", "false");
                for _ in 0..20 {
                    let (code, log) = launch.refusal();
                    assert_ne!(code, Some(0), "{log}");
                    cleared += u32::from(log.contains("rootless Docker ended"));
                }
                done.store(true, Ordering::Relaxed);
                swapper.join().expect("swap")
            });
            assert!(swapped > 100, "{swapped} swaps");
            assert!(cleared > 0, "nothing was ever cleared");
            for name in canaries {
                assert!(precious.join(name).exists(), "{name} is gone");
            }
            empty(&user.runtime_dir);
            Side::told(format!(
                "{cleared} starts were cleared through {swapped} swaps; the links' targets are intact"
            ))
        },
        None,
    );
}

#[test]
fn f40_the_sockets_permissions() {
    fn seen(busy: &Busy) -> (u32, u32, u32) {
        let found = fs::metadata(busy.daemon.docker.socket()).expect("a socket");
        (found.mode() & 0o7777, found.uid(), found.gid())
    }
    play(
        40,
        "the socket's owner and mode",
        |user| {
            let busy = Busy::new(user, Launcher::Run);
            assert_eq!(seen(&busy), (0o600, user.uid, user.uid));
            let above = fs::metadata(&user.runtime_dir).expect("a directory").mode();
            assert_eq!(above & 0o7777, 0o700);
            busy.over();
            Side::told("mode 0600, the user's")
        },
        Some(|user| {
            let busy = Busy::new(user, Launcher::Upstream);
            let (mode, _, gid) = seen(&busy);
            let whose = match user.subordinate.contains(&gid) {
                true => "a subordinate group of the namespace",
                false => "the user's group",
            };
            Side::told(format!("mode {mode:04o}, {whose}"))
        }),
    );
}

/// A start while the last daemon is still on its way out.
#[test]
fn f19_a_start_before_the_end() {
    play(
        19,
        "a start while the old daemon is stopping",
        |user| {
            let mut busy = Busy::new(user, Launcher::Run);
            let moment = Instant::now();
            busy.daemon.signal(Signal::SIGTERM);
            let mut refused = 0;
            let launch = Launch::new(user, Launcher::Run);
            let daemon = wait::until("the old one makes room", || {
                let mut daemon = launch.start();
                let ended = wait::until("it answers or ends", || {
                    let ended = daemon.ended();
                    let ready = status(user)["supervisor"] == daemon.pid().as_raw();
                    ended.map(Some).or(ready.then_some(None))
                });
                match ended {
                    Some(status) => {
                        assert_eq!(status.code(), Some(5), "{}", daemon.log());
                        refused += 1;
                        None
                    }
                    None => Some(daemon),
                }
            });
            assert_eq!(busy.daemon.wait_exit().code(), Some(0));
            let mut next = daemon;
            next.wait_ready();
            let recovered = Time::After(moment.elapsed());
            assert_eq!(find_all(user, Part::Dockerd).len(), 1);
            let next = Busy::adopt(user, next);
            next.assert_whole();
            next.over();
            assert!(refused > 0, "the old one was not there any more");
            Side::told(
                "refused (exit 5) until the old one is gone, then it starts; there are never two daemons",
            )
            .recovered(recovered)
        },
        Some(|user| {
            let busy = Busy::new(user, Launcher::Upstream);
            busy.daemon.signal(Signal::SIGTERM);
            let launch = Launch::new(user, Launcher::Upstream);
            let moment = Instant::now();
            let mut daemon = launch.start();
            let end = wait::poll(LOOK, || daemon.ended());
            let happened = match end {
                Some(status) => {
                    format!("{status}, and the log says: {}", last_words(&daemon.log()))
                }
                None => format!("it starts; its API answers: {}", daemon.docker.answers()),
            };
            Side::told(happened).detected(Time::After(moment.elapsed()))
        }),
    );
}

/// dockerd writes when it starts. What it cannot write of a container it would forget.
#[test]
fn f63_no_room_for_a_while() {
    play(
        63,
        "the data root is full and dockerd is killed; later there is room",
        |user| {
            let busy = Busy::from(user, &small(user, Launcher::Run, "24m"));
            fill(user, &busy);
            let moment = busy.kill(Part::Dockerd);
            let detected = busy.until_said("there is no room in", moment);
            let data = user.home.join(".local/share/docker");
            busy.daemon.inside(&format!("find {} -name big -delete", data.display()));
            let recovered = busy.until_answers(moment);
            assert_eq!(busy.status()["restarts"], 0);
            busy.end_untouched("dockerd waits until there is room; the container kept running")
                .detected(detected)
                .recovered(recovered)
        },
        Some(|user| {
            let busy = Busy::from(user, &small(user, Launcher::Upstream, "24m"));
            fill(user, &busy);
            let moment = busy.kill(Part::Dockerd);
            busy.look(moment)
        }),
    );
}

/// As while a package is unpacked.
#[test]
fn f64_an_empty_program() {
    play(
        64,
        "dockerd's file on disk is empty and dockerd is killed; later the file is good",
        |user| {
            let (program, empty) = (user.home.join("first/dockerd"), user.home.join("empty"));
            user.make_dir(program.parent().expect("a directory"));
            user.write(&empty, "");
            fs::set_permissions(&empty, Permissions::from_mode(0o755)).expect("make it a program");
            // At no moment is there nothing.
            let become_link = |to: &Path| {
                let next = user.home.join("first/next");
                symlink(to, &next).expect("make a link");
                fs::rename(next, &program).expect("put it in its place");
            };
            let good = which("dockerd");
            become_link(&good);
            let path = format!("{}:{}", user.home.join("first").display(), user::PATH);
            let busy = Busy::from(user, &Launch::new(user, Launcher::Run).env("PATH", path));
            become_link(&empty);
            let moment = busy.kill(Part::Dockerd);
            // For execvp(3) it is a script without a word, which ends well.
            let detected =
                busy.until_said("dockerd exited without being asked (exit code 0)", moment);
            become_link(&good);
            let recovered = busy.until_answers(moment);
            assert_eq!(busy.status()["restarts"], 0);
            busy.end_untouched("it is started until that works; the container kept running")
                .detected(detected)
                .recovered(recovered)
        },
        None,
    );
}

/// The first program of this name in [`user::PATH`].
fn which(name: &str) -> PathBuf {
    let places = user::PATH.split(':').map(|place| Path::new(place).join(name));
    places.into_iter().find(|path| path.exists()).expect("it is installed")
}
