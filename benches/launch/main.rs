//! `make bench`: upstream's script and ours in turn, on the same host, in one run. Prints medians, ratios, and whether the
//! bars are met; fails for none of them. `cargo bench --bench launch -- supervisor` measures what is named alone, and
//! `make bench ROOT=DIR` measures all in the root directory of another release. With `PROGRAMS=DIR` the sections
//! `throughput` and `drivers` take the programs in that directory first.
//!
//! It needs root: for throw-away users, and for a network namespace that stands for another host.

mod drivers;
mod fetch;
mod supervisor;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use test_support::command::run;
use test_support::process::Background;
use test_support::user::PATH;
use test_support::*;

/// How often a daemon is started for each row of start-up times.
const STARTS: usize = 15;

/// How long a daemon that answers runs before it is stopped.
const SETTLES: Duration = Duration::from_millis(200);

/// How often, and for how many seconds, each side sends and receives.
const TRANSFERS: usize = 3;
const SECONDS: u32 = 4;

/// What is measured, by name.
const SECTIONS: [(&str, fn()); 8] = [
    ("check", || checks(&TestUser::new())),
    ("instructions", || instructions(&TestUser::new())),
    ("start", || start_up(&TestUser::new())),
    ("memory", || memory(&TestUser::new())),
    ("throughput", || throughput(&TestUser::new())),
    ("drivers", drivers::measure),
    ("supervisor", supervisor::measure),
    ("fetch", fetch::measure),
];

fn main() {
    user::become_root();
    // cargo adds an option of its own.
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    println!("{}", versions());
    for (name, measure) in SECTIONS {
        if wanted.is_empty() || wanted.iter().any(|word| word == name) {
            measure();
        }
    }
}

/// What was measured, and on what.
fn versions() -> String {
    let first_line = |program: &str| {
        let output = Command::new(program).arg("--version").output();
        let text = output
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
            .unwrap_or_default();
        text.lines().next().unwrap_or("?").to_owned()
    };
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let release = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .unwrap_or("?")
        .trim_matches('"')
        .to_owned();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let size =
        fs::metadata(env!("CARGO_BIN_EXE_dockerd-rootless")).map_or(0, |metadata| metadata.size());
    format!(
        "{release}, kernel {}, {processors} processors\n{}\n{}\n{}\nour binary: {size} bytes\n",
        kernel.trim(),
        first_line("dockerd"),
        first_line("rootlesskit"),
        first_line("slirp4netns"),
    )
}

/// The middle of `values`.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What a figure of ours has to be.
#[derive(Clone, Copy)]
enum Bar {
    None,
    AtMost(f64),
    AtLeast(f64),
}

impl Bar {
    /// A figure and whether it meets the bar. A figure that is printed is never nearer to the bar than the one that was measured.
    fn judge(self, figure: f64) -> String {
        let thousandths = figure * 1000.0;
        let (shown, bar, is_met) = match self {
            Self::None => return format!("{figure:.3}"),
            Self::AtMost(most) => (thousandths.ceil(), format!("<= {most}"), figure <= most),
            Self::AtLeast(least) => (thousandths.floor(), format!(">= {least}"), figure >= least),
        };
        let verdict = if is_met { "met" } else { "MISSED" };
        format!("{:.3}, bar {bar}: {verdict}", shown / 1000.0)
    }
}

/// One row: a figure of each side, and ours as a share of upstream's, which has a bar.
fn row(what: &str, unit: &str, upstream: f64, ours: f64, bar: Bar) {
    let ratio = bar.judge(ours / upstream);
    println!(
        "{what:<62} upstream {upstream:>8.3} {unit:<6} ours {ours:>8.3} {unit:<6} ratio {ratio}"
    );
}

/// One row of a figure that upstream has not, or has nothing of, and its bar.
fn own_row(what: &str, upstream: &str, unit: &str, ours: f64, bar: Bar) {
    let judged = bar.judge(ours);
    println!("{what:<62} upstream {upstream:>8} {unit:<6} ours {ours:>8.3} {unit:<6} {judged}");
}

/// The PATH of daemons: `PROGRAMS=DIR` names a directory with other versions of the programs.
fn path() -> String {
    std::env::var("PROGRAMS").map_or(PATH.to_owned(), |first| format!("{first}:{PATH}"))
}

/// The release of this host: `12` of Debian.
fn release() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim_matches('"').to_owned()
    };
    format!("{} {}", value("ID="), value("VERSION_ID="))
}

// --- Instructions until rootlesskit is executed ---

/// Counts what the processor executes in user mode, in the launcher and in all that it starts.
/// Ours has met these programs before, as at every launch but the first after an upgrade; that
/// one cannot be counted this way (dockerd would take minutes to answer) and is timed below.
fn instructions(user: &TestUser) {
    run(user.command(Launcher::Run.install(user)).arg("plan"));
    let [upstream, script, own] =
        [Launcher::Upstream, Launcher::Script, Launcher::RunExec].map(|launcher| {
            let thousands = count_instructions(user, launcher) / 1000;
            f64::from(u32::try_from(thousands).expect("below 4e12")) / 1000.0
        });
    row("instructions until rootlesskit is executed", "M", upstream, script, Bar::AtMost(0.33));
    row("  the same, as `dockerd-rootless run --exec`", "M", upstream, own, Bar::AtMost(0.33));
}

/// Ours remembers what programs say of themselves; this takes it back to the first launch.
fn forget_programs(user: &TestUser) {
    let _ = fs::remove_dir_all(user.home.join(".cache/dockerd-rootless"));
}

/// Steps through a launch until rootlesskit is executed, and ends it there.
fn count_instructions(user: &TestUser, launcher: Launcher) -> u64 {
    let program = launcher.install(user);
    let mut command = user.command(&program);
    command.args(launcher.words());
    let rootlesskit = fs::canonicalize("/usr/bin/rootlesskit").expect("rootlesskit");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: between fork and exec only this system call is made.
    unsafe { command.pre_exec(|| ptrace::traceme().map_err(std::io::Error::from)) };
    #[expect(
        clippy::zombie_processes,
        reason = "it is reaped by its PID, among those that it starts"
    )]
    let child = command.spawn().expect("the launcher");
    let root = Pid::from_raw(i32::try_from(child.id()).expect("a PID"));
    let options = Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL;
    // setpriv, which changes the user, comes first and is not counted.
    let counted_from = if launcher == Launcher::Upstream {
        fs::canonicalize("/bin/sh").expect("sh")
    } else {
        program.canonicalize().expect("ours")
    };
    let mut counting = false;
    let mut count = 0;
    let mut configured = false;
    loop {
        let status = waitpid(None, Some(WaitPidFlag::__WALL)).expect("a traced process");
        let (pid, signal) = match status {
            WaitStatus::Exited(pid, code) if pid == root => {
                panic!("the launcher ended with {code} before rootlesskit")
            }
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => continue,
            WaitStatus::PtraceEvent(pid, _, event) => {
                if event == ptrace::Event::PTRACE_EVENT_EXEC as i32 {
                    let executed = fs::read_link(format!("/proc/{pid}/exe")).expect("its program");
                    if pid == root && executed == rootlesskit {
                        ptrace::kill(root).expect("end it");
                        waitpid(root, Some(WaitPidFlag::__WALL)).expect("reap it");
                        return count;
                    }
                    counting |= executed == counted_from;
                }
                (pid, None)
            }
            WaitStatus::Stopped(pid, Signal::SIGTRAP) => {
                if !configured {
                    ptrace::setoptions(pid, options).expect("PTRACE_SETOPTIONS");
                    configured = true;
                }
                count += u64::from(counting);
                (pid, None)
            }
            // A new process begins with this stop.
            WaitStatus::Stopped(pid, Signal::SIGSTOP) => (pid, None),
            WaitStatus::Stopped(pid, signal) => (pid, Some(signal)),
            other => panic!("{other:?}"),
        };
        // Until the launcher itself is there nothing is counted, so nothing needs steps.
        let go_on = if counting { ptrace::step(pid, signal) } else { ptrace::cont(pid, signal) };
        if let Err(error) = go_on {
            assert_eq!(error, nix::errno::Errno::ESRCH, "only a process that is gone cannot go on");
        }
    }
}

// --- The check ---

/// Upstream's setup tool, of which `check` is the part that is compared.
const SETUP_TOOL: &str = "/usr/share/docker.io/contrib/dockerd-rootless-setuptool.sh";

/// Times the whole check, both sides in turn. Upstream's looks for dockerd-rootless.sh in PATH, and
/// without --skip-iptables for modules that a kernel may have built in.
fn checks(user: &TestUser) {
    let program = Launcher::Script.install(user);
    let ours = Launcher::Run.install(user);
    let path = format!("{}:{PATH}", program.parent().expect("a directory").display());
    let mut upstream = user.command(SETUP_TOOL);
    upstream.args(["check", "--skip-iptables"]).env("PATH", path);
    let mut ours = user.command(ours);
    ours.arg("check");
    let mut times: [Vec<f64>; 2] = Default::default();
    for _ in 0..STARTS {
        times[0].push(seconds(&mut upstream));
        times[1].push(seconds(&mut ours));
    }
    let [upstream, ours] = times.map(median);
    row("the whole check", "s", upstream, ours, Bar::None);
}

/// Seconds that a command takes, which must succeed.
fn seconds(command: &mut Command) -> f64 {
    let begin = Instant::now();
    run(command);
    begin.elapsed().as_secs_f64()
}

// --- From the launch to the first answer ---

/// What a start may take of upstream's time, by release: dockerd from 24 on waits a second for a containerd of its own.
const STARTS_WITHIN: [(&str, f64); 2] = [("debian 12", 0.62), ("debian 13", 0.25)];

/// Times the way from the launch to the first answer of the API, and from SIGTERM to the end, the variants in turn.
fn start_up(user: &TestUser) {
    let launch = |launcher| Launch::new(user, launcher);
    let path = || {
        launch(Launcher::Run)
            .env("DOCKERD_ROOTLESS_IPTABLES", "path")
            .env("DOCKERD_ROOTLESS_CONTAINER_MTU", "1500")
    };
    // The first start makes the data root, which later ones find.
    start_and_stop(&launch(Launcher::Upstream));
    start_and_stop(&launch(Launcher::Run));
    let mut starts: [Vec<f64>; 5] = Default::default();
    let mut stops: [Vec<f64>; 5] = Default::default();
    for _ in 0..STARTS {
        let launches =
            [launch(Launcher::Upstream), launch(Launcher::Run), path(), launch(Launcher::Script)];
        for (side, launch) in launches.iter().enumerate() {
            let (start, stop) = start_and_stop(launch);
            starts[side].push(start);
            stops[side].push(stop);
        }
        forget_programs(user);
        starts[4].push(start_and_stop(&launch(Launcher::Run)).0);
    }
    let release = release();
    let within = STARTS_WITHIN.iter().find(|(name, _)| *name == release);
    let bar = within.map_or(Bar::None, |(_, ratio)| Bar::AtMost(*ratio));
    let [upstream, run, path, script, cold] = starts.map(median);
    let start = |what: &str, ours, bar| row(what, "s", upstream, ours, bar);
    start("start to the first API answer, defaults", run, bar);
    start("  the same iptables backend and MTU", path, Bar::None);
    let first = "  defaults, the first time that these programs are met";
    start(first, cold, Bar::None);
    start("  defaults, as `dockerd-rootless.sh`", script, Bar::None);
    let [upstream, run, _, script, _] = stops.map(|stops| {
        let some = (!stops.is_empty()).then(|| median(stops));
        some.unwrap_or_default()
    });
    row("stop (SIGTERM to the end), defaults", "s", upstream, run, Bar::AtMost(0.1));
    let what = "  as `dockerd-rootless.sh`";
    row(what, "s", upstream, script, Bar::None);
}

/// Seconds until the API answers, and from SIGTERM to the end of a daemon that is ready.
fn start_and_stop(launch: &Launch<'_>) -> (f64, f64) {
    let begin = Instant::now();
    let mut daemon = launch.start();
    let socket = daemon.docker.socket();
    while !http::ping(&socket) {
        assert!(begin.elapsed() < Duration::from_secs(60), "no answer:\n{}", daemon.log());
        std::thread::sleep(Duration::from_millis(1));
    }
    let start = begin.elapsed().as_secs_f64();
    // The supervisor has its own look at what answers, and a daemon that is not ready yet ends in another way.
    std::thread::sleep(SETTLES);
    let begin = Instant::now();
    daemon.stop();
    (start, begin.elapsed().as_secs_f64())
}

// --- Memory that stays ours ---

/// Adds up the proportional share of memory of the processes that still run the launcher.
fn memory(user: &TestUser) {
    let kib = [Launcher::Upstream, Launcher::Script].map(|launcher| {
        let program = launcher.install(user).canonicalize().expect("the launcher");
        let name = program.file_name().expect("a name").to_owned();
        let mut daemon = Launch::new(user, launcher).ready();
        let own = process::list(user.uid, &user.subordinate).into_iter().filter(|process| {
            let exe = fs::read_link(format!("/proc/{}/exe", process.pid)).unwrap_or_default();
            let is_script = fs::read(format!("/proc/{}/cmdline", process.pid))
                .unwrap_or_default()
                .split(|byte| *byte == 0)
                .nth(1)
                == Some(program.as_os_str().as_encoded_bytes())
                && exe.file_name().is_some_and(|name| name == "dash" || name == "sh");
            exe.file_name() == Some(&name) || is_script
        });
        let shares = own.map(|process| pss(process.pid)).sum::<u32>();
        daemon.stop();
        f64::from(shares)
    });
    let what = "memory that stays the launcher's, as `dockerd-rootless.sh`";
    own_row(what, &kib[0].to_string(), "KiB", kib[1], Bar::None);
}

/// The proportional set size of a process in KiB.
fn pss(pid: i32) -> u32 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

// --- Throughput of containers ---

/// Another host: a network namespace with an address, a cable to it, and an iperf3 that listens.
struct Peer {
    namespace: String,
    _server: Background,
}

/// Addresses for documentation (RFC 5737), which no real host has.
const HERE: &str = "203.0.113.1";
const PEER: &str = "203.0.113.2";

impl Peer {
    fn new(user: &TestUser) -> Self {
        let namespace = user.name.clone();
        let ip = |line: &str| run(Command::new("ip").args(line.split(' ')));
        ip(&format!("netns add {namespace}"));
        let route = run(Command::new("ip").args(["route", "show", "to", "match", PEER]));
        assert!(!route.contains("203.0.113"), "{PEER} is in use here: {route}");
        ip(&format!("link add drl-bench type veth peer name eth0 netns {namespace}"));
        ip(&format!("addr add {HERE}/30 dev drl-bench"));
        ip("link set drl-bench up");
        ip(&format!("-n {namespace} addr add {PEER}/30 dev eth0"));
        ip(&format!("-n {namespace} link set eth0 up"));
        let server = Background::start(
            Command::new("ip")
                .args(["netns", "exec", &namespace, "iperf3", "--server"])
                .stdout(Stdio::null()),
        );
        Self { namespace, _server: server }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The cable goes with the namespace.
        let _ = Command::new("ip").args(["netns", "del", &self.namespace]).status();
        let _ =
            Command::new("ip").args(["link", "del", "drl-bench"]).stderr(Stdio::null()).status();
    }
}

/// Sends from a container to another host, and back, with each launcher in turn.
fn throughput(user: &TestUser) {
    let _peer = Peer::new(user);
    let launchers = [Launcher::Upstream, Launcher::Script];
    let mut upload: [Vec<f64>; 2] = Default::default();
    let mut download: [Vec<f64>; 2] = Default::default();
    for round in 0..TRANSFERS {
        for (side, launcher) in launchers.into_iter().enumerate() {
            let mut daemon = Launch::new(user, launcher).env("PATH", path()).ready();
            if round == 0 && side == 0 {
                daemon.docker.import_image();
            }
            upload[side].push(gigabits(&daemon, ""));
            download[side].push(gigabits(&daemon, " --reverse"));
            daemon.stop();
        }
    }
    let [upstream, ours] = upload.map(median);
    row("upload from a container to another host", "Gbit/s", upstream, ours, Bar::AtLeast(4.0));
    let [upstream, ours] = download.map(median);
    row("download from another host to a container", "Gbit/s", upstream, ours, Bar::None);
}

/// Gbit/s between a container and the peer, by the receiver's count. The container borrows the host's iperf3.
fn gigabits(daemon: &Daemon<'_>, more: &str) -> f64 {
    let words = format!(
        "run --rm --volume /:/host:ro --tmpfs /host/tmp busybox chroot /host iperf3 --client {PEER} --time {SECONDS} --json{more}"
    );
    let report: serde_json::Value =
        serde_json::from_str(&daemon.docker.run(&words)).expect("iperf3's report");
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
    bits.unwrap_or_else(|| panic!("no figure in {report}")) / 1e9
}
