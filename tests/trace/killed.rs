//! `check` ended from outside, at any moment.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::check;
use test_support::leftovers::assert_unchanged;
use test_support::*;

const STEP: Duration = Duration::from_millis(5);

/// How long an undisturbed check takes, at the most of three; it passes.
fn usual_time(command: impl Fn() -> Command) -> Duration {
    let take = |_| {
        let start = Instant::now();
        let told = Told::by(&mut command());
        assert_eq!(told.code, Some(0), "{told:?}");
        start.elapsed()
    };
    (0..3).map(take).max().expect("three")
}

/// From 0 to `end`, `step` apart; further apart on a busy machine, where a check takes its time.
fn moments(end: Duration, step: Duration) -> impl Iterator<Item = Duration> {
    let step = step.max(end / 40);
    (0..).map(move |n| step * n).take_while(move |moment| *moment <= end)
}

/// Starts `command` in a process group of its own and waits until it is so old as to be disturbed.
fn until(moment: Duration, mut command: Command) -> Child {
    let start = Instant::now();
    let child = command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    sleep(moment.saturating_sub(start.elapsed()));
    child
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().expect("a pid is positive"))
}

/// Disturbs a check as `disturb` does at each of many moments, `step` apart, after each of which all must be as before.
fn sweep(step: Duration, what: &str, disturb: impl Fn(&mut Child)) {
    sweep_with(step, what, disturb, |_| {});
}

/// The same for what cannot be held back: the directories of the trial may stay, until the next check.
fn sweep_killed(step: Duration, what: &str, disturb: impl Fn(&mut Child)) {
    sweep_with(step, what, disturb, |user| {
        let processes = || process::list(user.uid, &user.subordinate);
        wait::until("all processes end", || processes().is_empty().then_some(()));
        Told::by(&mut check(user, "")).good();
    });
}

fn sweep_with(step: Duration, what: &str, disturb: impl Fn(&mut Child), then: impl Fn(&TestUser)) {
    let user = TestUser::new();
    let end = usual_time(|| check(&user, ""));
    let before = Snapshot::usual(&user);
    for moment in moments(end, step) {
        let mut child = until(moment, check(&user, ""));
        disturb(&mut child);
        child.wait().expect("wait for the check");
        then(&user);
        assert_unchanged(&before, &format!("{what} at {moment:?} of {end:?}"), || {
            Snapshot::usual(&user)
        });
    }
}

fn to_process(signal: Signal) -> impl Fn(&mut Child) {
    move |child| kill(pid(child), signal).expect("it is our child")
}

#[test]
fn sigkill_at_any_moment_leaves_no_process_and_nothing_after_the_next_check() {
    sweep_killed(STEP * 2, "SIGKILL", to_process(Signal::SIGKILL));
}

#[test]
fn sigterm_at_any_moment_leaves_nothing() {
    sweep(STEP * 3, "SIGTERM", to_process(Signal::SIGTERM));
}

#[test]
fn sigint_at_any_moment_leaves_nothing() {
    sweep(STEP * 3, "SIGINT", to_process(Signal::SIGINT));
}

#[test]
fn sigkill_to_the_group_at_any_moment_leaves_nothing_after_the_next_check() {
    sweep_killed(STEP * 3, "SIGKILL to the group", |child| {
        killpg(pid(child), Signal::SIGKILL).expect("it is our child's");
    });
}

#[test]
fn sigint_to_the_group_as_from_a_terminal_leaves_nothing() {
    sweep(STEP * 4, "SIGINT to the group", |child| {
        killpg(pid(child), Signal::SIGINT).expect("it is our child's");
    });
}

#[test]
fn an_output_that_is_closed_early_is_no_failure_and_leaves_nothing() {
    sweep(STEP * 8, "closed output", |child| {
        drop(child.stdout.take());
        assert_eq!(child.wait().expect("wait for the check").code(), Some(0));
    });
}

/// What a trial's directories are called.
fn is_scratch(name: &str) -> bool {
    name.starts_with(".drl-")
}

/// The trials' directories in `directories`, and the names of all else.
fn entries(directories: &[PathBuf]) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let list = |directory: &PathBuf| {
        let entries =
            std::fs::read_dir(directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
        entries.map(|entry| entry.expect("an entry").path()).collect::<Vec<_>>()
    };
    let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    directories.iter().flat_map(list).partition(|path| is_scratch(&name(path)))
}

/// SIGKILL to all processes of the user at once, so that nobody is left to clean up: only what the next check removes may
/// stay. `directories` are those in which trials make theirs.
fn sweep_all(user: &TestUser, directories: &[PathBuf], command: impl Fn() -> Command) {
    let end = usual_time(&command);
    let (scratch, others) = entries(directories);
    assert_eq!(scratch, Vec::<PathBuf>::new());
    let outside = || Snapshot::of(user, [""; 0]);
    let without_scratch = |snapshot: &Snapshot, before: &Snapshot| {
        let news = snapshot.since(before);
        let is_below =
            |line: &String| line.contains("/.drl-") || line.contains("/tmp/rootlesskit-b");
        news.into_iter().filter(|line| !is_below(line)).collect::<Vec<_>>()
    };
    let before = outside();
    let mut seen = [0; 2];
    for moment in moments(end, STEP * 4) {
        let mut child = until(moment, command());
        let immortal = process::kill_all(user.uid, &user.subordinate);
        assert!(immortal.is_empty(), "{immortal:?}");
        child.wait().expect("wait for the check");
        let (scratch, now) = entries(directories);
        assert_eq!(now, others, "killed at {moment:?} of {end:?}");
        assert_eq!(
            without_scratch(&outside(), &before),
            [""; 0],
            "killed at {moment:?} of {end:?}"
        );
        for (count, directory) in seen.iter_mut().zip(directories) {
            *count += scratch.iter().filter(|path| path.starts_with(directory)).count();
        }
        let next = Told::by(&mut command());
        assert_eq!(next.code, Some(0), "after {moment:?}: {next:?}");
        assert_eq!(
            entries(directories),
            (vec![], others.clone()),
            "after the check after {moment:?}"
        );
        assert_unchanged(&before, &format!("after the check after {moment:?}"), outside);
    }
    assert!(seen.iter().all(|count| *count > 0), "never anything to remove: {seen:?}");
}

#[test]
fn the_next_check_removes_what_one_left_whose_processes_were_all_killed() {
    let user = TestUser::new();
    let directories = [user.runtime_dir.clone(), user.home.clone()];
    sweep_all(&user, &directories, || check(&user, ""));
}

#[test]
fn the_same_with_a_data_root_of_its_own_file_system() {
    let user = TestUser::new();
    let root = user.home.join("data");
    user.make_dir(&root);
    let room = Room::new(
        &user,
        &format!("mount -t tmpfs -o uid={0},gid={0},mode=700 tmpfs {1}", user.uid, root.display()),
    );
    let binary = Launcher::Run.install(&user);
    let command = || {
        let mut command = room.command(&binary);
        command.args(["check", "--", "--data-root"]).arg(&root);
        command
    };
    let directories = [user.runtime_dir.clone(), room.outside(&root)];
    sweep_all(&user, &directories, command);
    let before = Snapshot::of(&user, &directories);
    let end = usual_time(command);
    for moment in moments(end, STEP * 4) {
        let mut child = until(moment, command());
        child.kill().expect("it is our child");
        child.wait().expect("wait for the check");
        let processes = || process::list(user.uid, &user.subordinate);
        wait::until("all processes end", || processes().is_empty().then_some(()));
        Told::by(&mut command()).good();
        assert_unchanged(&before, &format!("SIGKILL at {moment:?} of {end:?}"), || {
            Snapshot::of(&user, &directories)
        });
    }
}

#[test]
fn what_was_left_in_the_home_is_removed_when_the_data_root_is_there_meanwhile() {
    let user = TestUser::new();
    Launcher::Run.install(&user);
    let left = user.home.join(".drl-4194305");
    user.make_dir(&left.join("a/work/work"));
    command::run(user.command("chmod").arg("0").arg(left.join("a/work/work")));
    user.make_dir(&user.home.join(".local/share/docker"));
    assert_eq!(Told::by(&mut check(&user, "")).code, Some(0));
    assert!(!left.exists());
}

#[test]
fn what_only_looks_like_a_trials_directory_stays() {
    let user = TestUser::new();
    Launcher::Run.install(&user);
    let file = user.home.join(".drl-file");
    user.write(&file, "mine");
    let strangers = user.home.join(".drl-strangers");
    std::fs::create_dir(&strangers).expect("make root's directory");
    let link = user.home.join(".drl-link");
    let kept = user.home.join("kept");
    user.write(&kept.join("file"), "mine");
    std::os::unix::fs::symlink(&kept, &link).expect("make a link");
    let locked = user.home.join(".drl-locked");
    user.make_dir(&locked);
    let _lock = {
        let directory = std::fs::File::open(&locked).expect("open the directory");
        directory.lock().expect("lock the directory");
        directory
    };
    assert_eq!(Told::by(&mut check(&user, "")).code, Some(0));
    for path in [file, strangers, link, kept.join("file"), locked] {
        assert!(path.symlink_metadata().is_ok(), "{}", path.display());
    }
}
