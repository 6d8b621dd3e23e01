//! Answers of programs: kept until a program is replaced, and waited for no longer than five seconds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use test_support::wait;

use super::{
    Bench, STRANGER, Wrong, asked, chmod, fifo, link, mode, told, with_those_of_root, write,
    write_as, write_mode,
};

/// A bench with real programs, whose answers are kept, and where they are kept.
fn bench_of_real_programs() -> (Bench, PathBuf) {
    let bench = Bench::new();
    for program in ["rootlesskit", "slirp4netns"] {
        bench.copy(&format!("/usr/bin/{program}"), &format!("stubs/{program}"));
    }
    let cache = bench.path("home/.cache/dockerd-rootless/programs.json");
    (bench, cache)
}

fn read_json(path: &Path) -> Value {
    let bytes = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn answers_of_elf_programs_are_kept_until_the_program_is_replaced() {
    let (bench, cache) = bench_of_real_programs();
    bench.stub("stubs/pasta", "echo pasta 1");
    let plan = || bench.tell("plan --log-level debug");
    let of_elf = ["rootlesskit --help", "slirp4netns --help", "slirp4netns --version"];
    let first = plan();
    assert_eq!(asked(&first), [&of_elf[..], &["pasta --version"]].concat());
    let kept = read_json(&cache);
    let keys: Vec<&str> =
        kept["answers"].as_object().expect("answers").keys().map(String::as_str).collect();
    let stubs = bench.path("stubs");
    assert_eq!(keys, of_elf.map(|question| format!("{}/{question}", stubs.display())));
    assert_eq!((mode(&cache), mode(cache.parent().expect("a folder"))), (0o600, 0o700));

    let second = plan();
    assert_eq!(asked(&second), ["pasta --version"], "a script is asked each time");
    assert_eq!(second.stdout, first.stdout);

    let swap = "cp -p slirp4netns new && mv new slirp4netns";
    assert!(
        Command::new("sh").args(["-c", swap]).current_dir(&stubs).status().expect("sh").success()
    );
    let asked = ["slirp4netns --help", "slirp4netns --version", "pasta --version"];
    assert_eq!(super::asked(&plan()), asked, "it has the same size and date, and is another file");
}

/// The kept answers with a lie in them: slirp4netns is too old.
fn forge(cache: &Path) -> String {
    let mut kept = read_json(cache);
    let mut answers = kept["answers"].as_object_mut().expect("answers").iter_mut();
    let (_, answer) =
        answers.find(|(key, _)| key.ends_with("slirp4netns --help")).expect("slirp4netns's");
    answer[1] = json!("slirp4netns without options");
    kept.to_string()
}

/// A cache that must not be believed: what it is, and how it is made of forged text.
type Cache = (&'static str, fn(&Path, &str));

#[rustfmt::skip]
const CACHES: &[Cache] = &[
    ("world-writable", |path, text| write_mode(path, text, 0o602)),
    ("group-writable", |path, text| write_mode(path, text, 0o620)),
    ("unreadable", |path, text| write_mode(path, text, 0)),
    ("cut off", |path, text| write(path, &text[..text.len() / 2])),
    ("of another shape", |path, _| write(path, "{\"writer\": 1, \"answers\": []}")),
    ("of another version", |path, text| write(path, text.replace(env!("CARGO_PKG_VERSION"), "0.0.0"))),
    ("not UTF-8", |path, _| write(path, b"\xff\0")),
    ("huge", |path, text| write(path, format!("{text}{}", " ".repeat(256 * 1024)))),
    ("deep", |path, _| write(path, "[".repeat(100_000))),
    ("a FIFO", |path, _| fifo(path)),
    ("a link to nothing", |path, _| link("nothing", path)),
    ("a directory", |path, _| fs::create_dir(path).expect("mkdir")),
];

const CACHES_OF_ROOT: &[Cache] = &[("another user's", |path, text| write_as(path, text, STRANGER))];

#[test]
fn a_cache_that_is_not_the_users_own_is_passed_over_in_silence_and_made_anew() {
    let (bench, cache) = bench_of_real_programs();
    let folder = cache.parent().expect("a folder");
    let honest = bench.tell("plan").stdout;
    let forged = forge(&cache);
    write_mode(&cache, &forged, 0o600);
    assert_eq!(
        bench.tell("plan").code,
        Some(4),
        "a lie of the user's own is believed, or else this test shows nothing"
    );

    let mut wrong = Wrong::default();
    for (what, make) in with_those_of_root(CACHES, CACHES_OF_ROOT) {
        fs::remove_file(&cache).expect("the cache");
        make(&cache, &forged);
        let told = bench.tell("plan");
        let harmless = told.code == Some(0) && told.stdout == honest && told.stderr.is_empty();
        wrong.unless(harmless, || format!("{what}: {told:?}"));
        if cache.is_dir() {
            fs::remove_dir(&cache).expect("the directory");
            bench.tell("plan");
        }
        wrong.unless(cache.is_file() && mode(&cache) == 0o600, || format!("{what}: no new cache"));
        let files = fs::read_dir(folder).expect("the folder").count();
        wrong.unless(files == 1, || format!("{what}: {files} files in the folder"));
    }
    wrong.end();
}

#[test]
fn a_cache_that_cannot_be_written_does_no_harm() {
    let (bench, _) = bench_of_real_programs();
    // The data root is below HOME.
    let decided = |plan: &str| {
        plan.lines()
            .filter(|line| !line.contains("data root"))
            .map(String::from)
            .collect::<Vec<_>>()
    };
    let honest = decided(&bench.tell("plan").stdout);
    chmod(&bench.folder("closed"), 0o500);
    for place in [
        "XDG_CACHE_HOME=closed",
        "XDG_CACHE_HOME=closed/below",
        "XDG_CACHE_HOME=bin/dockerd-rootless",
        "HOME=closed",
    ] {
        let (variable, below) = place.split_once('=').expect("a variable");
        let told = told(bench.command("plan").env(variable, bench.path(below)));
        assert!(
            told.code == Some(0) && decided(&told.stdout) == honest && told.stderr.is_empty(),
            "{place}: {told:?}"
        );
    }
}

/// Launches a rootlesskit that does `help` when it is asked, which writes the PIDs of its processes to PIDS, and returns
/// how long that took. It must be started all the same, and none of these processes may be left.
fn launch_with_help(help: &str) -> Duration {
    let bench = Bench::new();
    let pids = bench.path("record/pids");
    bench.stub(
        "stubs/rootlesskit",
        &bench.rootlesskit(&help.replace("PIDS", &pids.display().to_string())),
    );
    let start = Instant::now();
    let told = bench.tell("run --exec -- -D");
    let took = start.elapsed();
    let noted = fs::read_to_string(pids).expect("PIDs");
    // What has lost its parent is a zombie until PID 1 reaps it, in its own time.
    let lives = |pid: &&str| {
        fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
    };
    let left = || noted.split_whitespace().filter(lives).collect::<Vec<_>>();
    let over = wait::poll(Duration::from_secs(2), || left().is_empty().then_some(()));
    let survivors = left();
    for pid in &survivors {
        let _ = kill(Pid::from_raw(pid.parse().expect("a PID")), Signal::SIGKILL);
    }
    assert!(over.is_some(), "of {noted:?} {survivors:?} are left");
    assert_eq!((told.code, bench.recorded_words().pop()), (Some(0), Some("-D".into())), "{told:?}");
    took
}

fn assert_five_seconds(took: Duration) {
    assert!((Duration::from_secs(5)..Duration::from_secs(15)).contains(&took), "{took:?}");
}

#[test]
fn a_rootlesskit_that_does_not_answer_is_killed_after_five_seconds_and_used_all_the_same() {
    assert_five_seconds(launch_with_help("echo $$ >PIDS; exec sleep 60"));
}

#[test]
fn children_of_a_rootlesskit_that_does_not_answer_are_killed_too() {
    assert_five_seconds(launch_with_help("sleep 60 & echo $$ $! >PIDS; wait"));
}

#[test]
fn a_rootlesskit_that_drips_its_answer_has_five_seconds_in_all() {
    assert_five_seconds(launch_with_help("echo $$ >PIDS; while echo OPTIONS:; do sleep 1; done"));
}

#[test]
fn a_rootlesskit_that_never_stops_talking_is_cut_off_at_once() {
    let took = launch_with_help("echo $$ >PIDS; while echo OPTIONS:; do :; done");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn the_plan_says_why_nothing_is_known_of_a_rootlesskit() {
    let bench = Bench::new();
    for (help, why) in [
        ("exit 3", "its answer is not understood"),
        ("while echo x; do :; done", "it printed more than 1 MiB"),
    ] {
        bench.stub("stubs/rootlesskit", &bench.rootlesskit(help));
        let plan = bench.tell("plan --format json").json();
        assert_eq!(plan["host"]["rootlesskit"]["unknown"], why, "{help}");
    }
}
