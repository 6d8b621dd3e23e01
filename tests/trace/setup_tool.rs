//! `dockerd-rootless-setuptool.sh check`: upstream's contract, and upstream's own script beside ours in the same situations.
//! The numbers S1, S2, ... are those of docs/upstream-behaviour.md.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use test_support::launcher::SETUP_TOOL;
use test_support::leftovers::assert_unchanged;
use test_support::room::{OWN_PLACES, OWN_RUN};
use test_support::*;

const UPSTREAM: &str = "/usr/share/docker.io/contrib/dockerd-rootless-setuptool.sh";

const SATISFIED: &str = "Requirements are satisfied";

const BEGIN: &str = "########## BEGIN ##########\nsudo sh -eux <<EOF\n";
const END: &str = "EOF\n########## END ##########\n";

/// A host on which both tools are run.
struct Host<'u> {
    room: Room<'u>,
    bin: PathBuf,
}

impl<'u> Host<'u> {
    /// The test host with what the shell script `prepare` changes; `USER` in it is the user's name.
    fn new(user: &'u TestUser, prepare: &str) -> Self {
        let bin = Launcher::Run.install(user).parent().expect("a folder").to_owned();
        let prepare =
            prepare.replace("USER", &user.name).replace("HOME", &user.home.display().to_string());
        Self { room: Room::new(user, &format!("{OWN_PLACES}{prepare}")), bin }
    }

    /// `tool` with `variables` as for env(1), and `words`.
    fn tell(&self, tool: &Path, variables: &str, words: &str) -> Told {
        // Upstream's script looks for its launcher in PATH.
        let path = format!("PATH={}:{}", self.bin.display(), user::PATH);
        let mut command = self.room.command("env");
        let (unset, set): (Vec<&str>, _) =
            variables.split_whitespace().partition(|word| word.starts_with("--unset="));
        command.args(unset).arg(path).args(set).arg(tool).args(words.split_whitespace());
        Told::by(&mut command)
    }

    fn ours(&self, variables: &str, words: &str) -> Told {
        self.tell(&self.bin.join(SETUP_TOOL), variables, words)
    }

    fn upstreams(&self, variables: &str, words: &str) -> Told {
        self.tell(Path::new(UPSTREAM), variables, words)
    }

    /// Runs as root what was printed to be pasted, with a sudo that needs no password.
    fn paste(&self, script: &str) {
        let sudo = "sudo() { \"$@\"; }\n";
        command::run(self.room.root("sh").args(["-euc", &format!("{sudo}{script}")]));
    }
}

/// The block to paste, its frame included.
fn block(told: &Told) -> &str {
    let begin = told.stdout.find(BEGIN).unwrap_or_else(|| panic!("no block: {told:?}"));
    let length = told.stdout[begin..].find(END).unwrap_or_else(|| panic!("no end: {told:?}"));
    &told.stdout[begin..begin + length + END.len()]
}

#[test]
fn a_host_that_has_all_is_told_so_on_standard_output() {
    let user = TestUser::new();
    let host = Host::new(&user, "");
    let before = Snapshot::usual(&user);
    for words in [
        "check",
        "--force check",
        "check -f",
        "--skip-iptables check",
        "check --skip-iptables -f",
        "-f -f check",
    ] {
        let told = host.ours("", words);
        let said = (told.code, told.stdout.as_str(), told.stderr.as_str());
        assert_eq!(said, (Some(0), "[INFO] Requirements are satisfied\n", ""), "{words}");
        assert_unchanged(&before, words, || Snapshot::usual(&user));
    }
}

#[test]
fn what_is_missing_is_printed_in_upstreams_frame_and_mends_it_when_run_as_printed() {
    let user = TestUser::new();
    let cases = [
        ("sed -i /^USER:/d /etc/subuid", vec!["subuid"]),
        ("sed -i /^USER:/d /etc/subuid /etc/subgid", vec!["subuid", "subgid"]),
        ("sed -i 's/^\\(USER:.*\\):65536$/\\1:1000/' /etc/subuid", vec!["subuid"]),
        ("chmod u-s /usr/bin/newuidmap /usr/bin/newgidmap", vec!["newuidmap", "newgidmap"]),
    ];
    for (prepare, names) in cases {
        let host = Host::new(&user, prepare);
        let before = Snapshot::usual(&user);
        let told = host.ours("", "check");
        assert_eq!(told.code, Some(1), "{prepare}: {told:?}");
        assert!(told.stderr.contains("[ERROR] missing system requirements"), "{prepare}: {told:?}");
        for name in names {
            assert!(told.stderr.contains(&format!("[ERROR] {name}: ")), "{prepare}: {told:?}");
            assert!(block(&told).contains(&format!("\n# {name}: ")), "{prepare}: {told:?}");
        }
        assert_unchanged(&before, prepare, || Snapshot::usual(&user));
        // Twice, since it may be pasted twice.
        host.paste(block(&told));
        host.paste(block(&told));
        let mended = host.ours("", "check");
        assert!(
            mended.code == Some(0) && mended.stdout.contains(SATISFIED),
            "{prepare}: {mended:?} after {told:?}"
        );
        assert!(!mended.stdout.contains("BEGIN"), "{prepare}: {mended:?}");
    }
}

#[test]
fn a_rootful_daemon_within_reach_stops_it_unless_forced() {
    let user = TestUser::new();
    let host = Host::new(&user, OWN_RUN);
    let socket = host.room.outside(Path::new("/run/docker.sock"));
    let _daemon = UnixListener::bind(&socket).expect("listen");
    let mode = |mode| {
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(mode)).expect("chmod")
    };
    mode(0o666);
    let told = host.ours("", "check");
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(
        told.stderr.contains("rootful-docker: ") && told.stderr.contains("--force"),
        "{told:?}"
    );
    for words in ["--force check", "check -f"] {
        assert_eq!(host.ours("", words).code, Some(0), "{words}");
    }
    mode(0o660);
    assert_eq!(
        host.ours("", "check").code,
        Some(0),
        "one that it cannot write is none of its business"
    );
}

#[test]
fn usage_is_upstreams() {
    let user = TestUser::new();
    let host = Host::new(&user, "");
    let cases = [
        ("", 1),
        ("--force", 1),
        ("frobnicate", 1),
        ("--bogus check", 1),
        ("check --bogus", 1),
        ("-x", 1),
        ("--force=yes check", 1),
        ("--help", 0),
        ("-h", 0),
        ("check --help", 0),
        ("--skip-iptables check further words", 0),
        ("--skip-ipt --fo check", 0),
        ("-f --force --skip-iptables check", 0),
        ("--skip-iptables -- check", 0),
        ("-- --skip-iptables check", 1),
    ];
    let mut wrong = Vec::new();
    for (words, code) in cases {
        let (ours, upstreams) = (host.ours("", words), host.upstreams("", words));
        if (ours.code, upstreams.code) != (Some(code), Some(code)) {
            wrong.push(format!("{words}: {ours:?}, upstream {upstreams:?}"));
        }
        let is_help = words.contains('h') && words.contains('-') && words.ends_with(['h', 'p']);
        if is_help
            && !["--force", "--skip-iptables", "check"]
                .iter()
                .all(|word| ours.stdout.contains(word))
        {
            wrong.push(format!("{words}: {ours:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A situation: what root changes, variables, words, upstream's exit code and ours, and why they differ.
type Situation = (&'static str, &'static str, &'static str, i32, i32, &'static str);

const SITUATIONS: &[Situation] = &[
    ("", "", "check", 1, 0, "S1"),
    ("", "", "--skip-iptables check", 0, 0, ""),
    ("sed -i /^USER:/d /etc/subuid", "", "--skip-iptables check", 1, 1, ""),
    ("sed -i /^USER:/d /etc/subgid", "", "--skip-iptables check", 1, 1, ""),
    ("rm /usr/bin/newuidmap", "", "--skip-iptables check", 1, 1, ""),
    ("rm -f /usr/sbin/*tables* /usr/sbin/nft", "", "check", 1, 1, ""),
    ("rm -f /usr/sbin/*tables* /usr/sbin/nft", "", "--skip-iptables check", 0, 0, ""),
    ("", "--unset=HOME", "--skip-iptables check", 1, 1, ""),
    ("", "HOME=/nowhere", "--skip-iptables check", 1, 1, ""),
    ("", "HOME=/usr", "--skip-iptables check", 1, 1, ""),
    ("", "--unset=XDG_RUNTIME_DIR", "--skip-iptables check", 0, 0, ""),
    ("", "", "check --skip-iptables", 0, 0, ""),
    // The trial of S2, S3: what is there and does not do.
    (
        "sed -i 's/^\\(USER:.*\\):65536$/\\1:1000/' /etc/subuid",
        "",
        "--skip-iptables check",
        0,
        1,
        "S2",
    ),
    ("sed -i 's/^USER:.*/&\\n&/' /etc/subuid", "", "--skip-iptables check", 0, 1, "S2"),
    ("rm /usr/bin/newgidmap", "", "--skip-iptables check", 0, 1, "S3"),
    ("chmod u-s /usr/bin/newuidmap", "", "--skip-iptables check", 0, 1, "S3"),
    ("rm /usr/bin/rootlesskit", "", "--skip-iptables check", 0, 1, "S4"),
    ("rm /usr/bin/slirp4netns /usr/bin/pasta*", "", "--skip-iptables check", 0, 1, "S4"),
    ("rm /usr/sbin/dockerd", "", "--skip-iptables check", 0, 1, "S4"),
    (
        "mknod -m 600 /mnt/tun c 10 200; mount --bind /mnt/tun /dev/net/tun",
        "",
        "--skip-iptables check",
        0,
        1,
        "S4",
    ),
    ("", "XDG_RUNTIME_DIR=/var/tmp", "--skip-iptables check", 0, 1, "S5"),
    (
        "mkdir -p HOME/.config/docker; echo '{,}' >HOME/.config/docker/daemon.json",
        "",
        "--skip-iptables check",
        0,
        1,
        "S6",
    ),
    ("", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "--skip-iptables check", 1, 0, "S7"),
];

#[test]
fn in_the_same_situation_upstreams_script_ends_with_the_same_code_or_it_is_documented_why_not() {
    let docs = include_str!("../../docs/upstream-behaviour.md");
    let mut wrong = Vec::new();
    for (prepare, variables, words, upstream, own, reason) in SITUATIONS {
        let user = TestUser::new();
        let host = Host::new(&user, prepare);
        let (upstreams, ours) = (host.upstreams(variables, words), host.ours(variables, words));
        // Scripts and programs that are newer than Debian 12's are right more often.
        let agree = upstreams.code == ours.code && matches!(ours.code, Some(0 | 1));
        if !agree && (upstreams.code, ours.code) != (Some(*upstream), Some(*own)) {
            wrong.push(format!("[{prepare}] [{variables}] {words}: expected {upstream}, {own}:\n  {upstreams:?}\n  {ours:?}"));
        }
        for (who, told) in [("upstream", &upstreams), ("ours", &ours)] {
            let satisfied = told.stdout.contains(SATISFIED);
            let has_block = told.stdout.contains(BEGIN);
            if satisfied != (told.code == Some(0)) || has_block && told.code != Some(1) {
                wrong.push(format!("[{prepare}] [{variables}] {words}: {who}: {told:?}"));
            }
        }
        let is_documented = docs.contains(&format!("**{reason}. "));
        assert_eq!(upstream == own, reason.is_empty(), "{prepare} {variables} {words}");
        assert!(reason.is_empty() || is_documented, "{reason} is not in the documentation");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_dead_and_a_live_containerd_rootless_are_told_apart() {
    let user = TestUser::new();
    let host = Host::new(&user, "");
    let directory = user.runtime_dir.join("containerd-rootless");
    let lock = directory.join("lock");
    user.write(&lock, "");
    assert_eq!(host.ours("", "check").code, Some(0), "S8: it is stale");
    let held = File::open(&lock).expect("open the lock");
    held.lock().expect("hold the lock");
    let told = host.ours("", "--force check");
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(told.stderr.contains("containerd-rootless: "), "{told:?}");
}

#[test]
fn root_is_refused() {
    let user = TestUser::new();
    let host = Host::new(&user, "");
    let tool = host.bin.join(SETUP_TOOL);
    for tool in [tool.as_path(), Path::new(UPSTREAM)] {
        let mut command = Command::new(tool);
        let told = Told::by(command.arg("check").env("HOME", "/nowhere"));
        assert_eq!(told.code, Some(1), "{}: {told:?}", tool.display());
        assert_eq!(told.stdout, "", "{}", tool.display());
    }
}
