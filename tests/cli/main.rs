//! The built binary as people and programs meet it: hostile files, results and messages, exit codes, the cache.
//!
//! No daemon runs here. Stubs stand in for rootlesskit, dockerd and slirp4netns and note that they were called; our program
//! is always run by a user without rights, and under a deadline. Its command lines are written as one would type them.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, geteuid, mkfifo};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use test_support::{stubs, wait};

/// A user without rights, if the tests run as root: `run` and `plan` refuse root.
const NOBODY: u32 = 65534;

/// Neither root nor the one who runs our program.
const STRANGER: u32 = 1;

/// In seconds; what takes as long ends in exit 124 and fails the test.
const DEADLINE: &str = "30";

/// The commands that read settings.
const READERS: [&str; 4] = ["run", "plan", "config show", "config check"];

type Variables = BTreeMap<OsString, OsString>;

/// The folder of one test: our program under both names, stubs, a home, a runtime directory, what the stubs noted.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        let bench =
            Self(tempfile::Builder::new().prefix("drl-cli").tempdir().expect("a temporary folder"));
        chmod(bench.0.path(), 0o755);
        for folder in ["home", "home/.config", "home/.config/dockerd-rootless", "run", "record"] {
            bench.folder(folder);
        }
        bench.copy(env!("CARGO_BIN_EXE_dockerd-rootless"), "bin/dockerd-rootless");
        symlink("dockerd-rootless", bench.path("bin/dockerd-rootless.sh")).expect("a link");
        bench.stub("stubs/rootlesskit", &bench.rootlesskit("exit 1"));
        bench.stub("stubs/dockerd", "");
        bench.stub("stubs/slirp4netns", "echo slirp4netns --netns-type=TYPE");
        // No other program of the host is in PATH, so that none decides a test.
        fs::create_dir(bench.path("called")).expect("a folder");
        for program in ["sh", "cat", "sleep"] {
            symlink(Path::new("/bin").join(program), bench.path("called").join(program))
                .expect(program);
        }
        bench
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    /// Makes a folder of the user's own.
    fn folder(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).expect(name);
        chmod(&path, 0o700);
        give(&path, NOBODY);
        path
    }

    /// The user's configuration file with this text.
    fn configure(&self, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path("home/.config/dockerd-rootless/config.toml");
        write(&path, text);
        path
    }

    /// Makes a program that notes its name and first word, then does what `body` says.
    fn stub(&self, name: impl AsRef<Path>, body: &str) {
        let calls = self.path("record/calls");
        let script = format!("#!/bin/sh\necho \"${{0##*/}} $1\" >>{}\n{body}\n", calls.display());
        stubs::install("/dev/stdin", &self.path(name), script.as_bytes());
    }

    fn copy(&self, program: &str, name: &str) {
        stubs::install(program, &self.path(name), b"");
    }

    /// A rootlesskit that does `help` when it is asked, and else records its words and variables.
    fn rootlesskit(&self, help: &str) -> String {
        stubs::rootlesskit(&self.path("record"), help)
    }

    fn variables(&self) -> Variables {
        let search = [self.path("stubs"), self.path("called")];
        Variables::from([
            ("HOME".into(), self.path("home").into()),
            ("PATH".into(), std::env::join_paths(search).expect("a PATH")),
            ("PWD".into(), self.0.path().into()),
            ("XDG_RUNTIME_DIR".into(), self.path("run").into()),
        ])
    }

    /// Our program under `name`, started through the words of `wrapper`.
    fn program(&self, wrapper: &[&str], name: &str) -> Command {
        let mut command = Command::new("/usr/bin/timeout");
        command.args(["--kill-after=1", DEADLINE]).args(wrapper).arg(self.path("bin").join(name));
        command.env_clear().envs(self.variables()).current_dir(self.0.path()).stdin(Stdio::null());
        if geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// Our program as typed in `line`: variables, then words.
    fn command(&self, line: &str) -> Command {
        typed(self.program(&[], "dockerd-rootless"), line)
    }

    fn tell(&self, line: &str) -> Told {
        told(&mut self.command(line))
    }

    /// What was called since this was asked last, a line each.
    fn calls(&self) -> String {
        let path = self.path("record/calls");
        let calls = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(path);
        calls
    }

    /// The words that rootlesskit was started with, its own path first.
    fn recorded_words(&self) -> Vec<OsString> {
        stubs::words(&self.path("record")).expect("a record, as rootlesskit was started")
    }

    fn recorded_variables(&self) -> Variables {
        stubs::variables(&self.path("record")).expect("a record, as rootlesskit was started")
    }
}

/// `command` with what `line` says as one types it into a shell: variables first, then words.
fn typed(mut command: Command, line: &str) -> Command {
    let words = shlex::split(line).unwrap_or_else(|| panic!("{line}"));
    let is_variable = |word: &&String| {
        word.split('=').next().is_some_and(|name| name.len() < word.len() && !name.starts_with('-'))
    };
    let count = words.iter().take_while(is_variable).count();
    command
        .envs(words[..count].iter().filter_map(|word| word.split_once('=')))
        .args(&words[count..]);
    command
}

/// How a command ended and what it printed.
#[derive(Debug)]
struct Told {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn told(command: &mut Command) -> Told {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let told = Told {
        code: output.status.code(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    };
    assert!(!told.stderr.contains("panicked"), "{command:?}: {told:?}");
    told
}

impl Told {
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The programs and questions in the messages of level debug.
    fn asked(&self) -> Vec<&str> {
        let asked = self.stderr.lines().filter_map(|line| line.split_once("asking "));
        asked.map(|(_, what)| what.rsplit('/').next().unwrap_or(what)).collect()
    }
}

/// The cases of a table that went wrong; all of them are named at the end.
#[derive(Default)]
struct Wrong(Vec<String>);

impl Wrong {
    fn unless(&mut self, right: bool, case: impl FnOnce() -> String) {
        if !right {
            self.0.push(case());
        }
    }

    fn end(self) {
        assert!(self.0.is_empty(), "{} wrong:\n{}", self.0.len(), self.0.join("\n"));
    }
}

/// Makes `path` itself, not what it links to, the property of `user`, if we can.
fn give(path: &Path, user: u32) {
    if geteuid().is_root() {
        lchown(path, Some(user), Some(user)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}

/// Writes a file of the user's own.
fn write(path: &Path, content: impl AsRef<[u8]>) {
    fs::write(path, content).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    give(path, NOBODY);
    chmod(path, 0o644);
}

fn write_mode(path: &Path, content: &str, mode: u32) {
    write(path, content);
    chmod(path, mode);
}

/// Writes a file of `user`'s.
fn write_as(path: &Path, content: &str, user: u32) {
    write(path, content);
    give(path, user);
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode))
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        .permissions()
        .mode()
        & 0o7777
}

fn fifo(path: &Path) {
    mkfifo(path, Mode::S_IRWXU).expect("mkfifo");
    give(path, NOBODY);
}

fn link(target: &str, path: &Path) {
    symlink(target, path).expect("a link");
}

/// The rows of a table of files, and those that only root can make if we are root.
fn with_those_of_root<T>(
    rows: &'static [T],
    of_root: &'static [T],
) -> impl Iterator<Item = &'static T> {
    let makes = geteuid().is_root();
    if !makes {
        println!("not root: files of other users and groups are not tried");
    }
    rows.iter().chain(of_root.iter().filter(move |_| makes))
}

/// A configuration file: what it is, how it is made, and what is said of it beside its name; empty if it is fine.
type Candidate = (&'static str, fn(&Path), &'static str);

const FINE: &str = "[network]\ncontainer-mtu = 1400\n";

#[rustfmt::skip]
const CANDIDATES: &[Candidate] = &[
    ("absent", |_| (), ""),
    ("empty", |path| write(path, ""), ""),
    ("64 KiB", |path| write(path, "#".repeat(64 * 1024)), ""),
    ("larger", |path| write(path, "#".repeat(64 * 1024 + 1)), "is larger than 64 KiB"),
    ("a FIFO", fifo, "not a regular file"),
    ("a directory", |path| fs::create_dir(path).expect("mkdir"), "not a regular file"),
    ("a device", |path| link("/dev/zero", path), "not a regular file"),
    ("a link to nothing", |path| link("nothing", path), ""),
    ("a link in a circle", |path| link("config.toml", path), "symbolic links"),
    ("a link to a good file", |path| { write(&path.with_file_name("good"), FINE); link("good", path) }, ""),
    ("a link to a bad file", |path| { write(&path.with_file_name("bad"), "x"); link("bad", path) }, ":1: "),
    ("world-writable", |path| write_mode(path, FINE, 0o646), "can be written by others (mode 0646)"),
    ("unreadable", |path| write_mode(path, FINE, 0), "Permission denied"),
    ("malformed", |path| write(path, "[network]\n\nmtu 1500\n"), ":3: "),
    ("a key twice", |path| write(path, "[network]\nmtu = 1\nmtu = 2\n"), ":3: duplicate key"),
    ("an unknown key", |path| write(path, "[network]\n\ndrivr = 'x'\n"), ":3: unknown key `network.drivr`"),
    ("no section", |path| write(path, "# x\nmtu = 1500\n"), ":2: unknown key `mtu`"),
    ("an unknown section", |path| write(path, "\n[networks]\nmtu = 1500\n"), "unknown key `networks"),
    ("an unknown section, empty", |path| write(path, "\n[networks]\n"), ":2: unknown key `networks`"),
    ("a wrong type", |path| write(path, "[network]\nipv6 = 'true'\n"), ":2: `network.ipv6`: expected true or false"),
    ("a wrong value", |path| write(path, "[network]\nmtu = 65522\n"), ":2: `network.mtu`: expected a whole number"),
    ("not UTF-8", |path| write(path, b"[daemon]\nbinary = '\xff'\n"), "is not UTF-8 text"),
    ("a NUL", |path| write(path, "[daemon]\n\0\n"), ":2: "),
];

#[rustfmt::skip]
const CANDIDATES_OF_ROOT: &[Candidate] = &[
    ("another user's", |path| write_as(path, FINE, STRANGER), "belongs to user 1, neither to root nor to you (user 65534)"),
    ("root's", |path| write_as(path, FINE, 0), ""),
    ("writable by a foreign group", |path| {
        write_mode(path, FINE, 0o664);
        lchown(path, None, Some(STRANGER)).expect("chgrp");
    }, "can be written by others (mode 0664)"),
    ("writable by the user's own group", |path| write_mode(path, FINE, 0o664), ""),
];

#[test]
fn a_hostile_configuration_file_is_named_and_nothing_is_executed() {
    let bench = Bench::new();
    let mut wrong = Wrong::default();
    for (what, make, said) in with_those_of_root(CANDIDATES, CANDIDATES_OF_ROOT) {
        for (variable, below) in
            [("HOME", ".config/dockerd-rootless"), ("XDG_CONFIG_HOME", "dockerd-rootless")]
        {
            let home = bench.folder(&format!("{what} by {variable}"));
            let file = home.join(below).join("config.toml");
            fs::create_dir_all(home.join(below)).expect("a folder");
            make(&file);
            for line in READERS {
                let told = told(bench.command(line).env(variable, &home));
                let calls = bench.calls();
                let right = if said.is_empty() {
                    told.code == Some(0)
                } else {
                    let named = told.stderr.starts_with("error: ")
                        && told.stderr.contains(&*file.to_string_lossy());
                    let silent = told.stdout.is_empty() && calls.is_empty();
                    told.code == Some(78) && named && told.stderr.contains(said) && silent
                };
                wrong.unless(right, || {
                    format!("{what} by {variable}, {line}: {told:?}, called: {calls:?}")
                });
            }
        }
    }
    wrong.end();
}

#[test]
fn a_link_into_another_folder_is_followed_and_a_relative_xdg_config_home_ignored() {
    let bench = Bench::new();
    write(&bench.path("home/elsewhere"), FINE);
    let file = bench.path("home/.config/dockerd-rootless/config.toml");
    link("../../elsewhere", &file);
    for config_home in ["", "home/nowhere", ".", "~/.config"] {
        let told = bench
            .tell(&format!("XDG_CONFIG_HOME='{config_home}' config explain network.container-mtu"));
        assert!(
            told.stdout.contains(&format!("-> {}:2: `1400`", file.display())),
            "{config_home:?}: {told:?}"
        );
    }
}

#[test]
fn a_nul_in_any_string_is_refused_with_its_line_and_key() {
    let bench = Bench::new();
    let mut wrong = Wrong::default();
    for (key, value) in [
        ("network.driver", r#""a\u0000b""#),
        ("network.port-driver", r#""a\u0000b""#),
        ("rootlesskit.binary", r#""a\u0000b""#),
        ("rootlesskit.state-dir", r#""/a\u0000b""#),
        ("rootlesskit.copy-up", r#"["/a\u0000b"]"#),
        ("rootlesskit.propagation", r#""rslave\u0000""#),
        ("rootlesskit.flags", r#"["--a\u0000b"]"#),
        ("daemon.binary", r#""a\u0000b""#),
        ("daemon.args", r#"["a\u0000b"]"#),
        ("daemon.iptables", r#""path\u0000""#),
        ("proxy.http", r#""a\u0000b""#),
        ("proxy.no", r#""a\u0000b""#),
    ] {
        let file = bench.configure(format!("\n{key} = {value}\n"));
        let place = format!("{}:2: `{key}`", file.display());
        for line in READERS {
            let told = bench.tell(line);
            let right =
                told.code == Some(78) && told.stderr.contains(&place) && bench.calls().is_empty();
            wrong.unless(right, || format!("{key}, {line}: {told:?}"));
        }
    }
    wrong.end();
}

#[test]
fn the_hint_for_a_file_that_others_can_write_can_be_pasted() {
    let bench = Bench::new();
    let home = bench.folder("it's $(id)");
    let file = home.join("dockerd-rootless/config.toml");
    fs::create_dir(home.join("dockerd-rootless")).expect("a folder");
    write_mode(&file, FINE, 0o666);
    let check = || told(bench.command("config check").env("XDG_CONFIG_HOME", &home));
    let refused = check();
    let (_, hint) = refused.stderr.split_once("hint: ").unwrap_or_else(|| panic!("{refused:?}"));
    let pasted = Command::new("sh").args(["-c", hint]).output().expect("sh");
    assert_eq!(check().code, Some(0), "{refused:?}, pasted: {pasted:?}");
}

#[rustfmt::skip]
const FRAGMENTS: &[&str] = &[
    "[network]", "[proxy]\n", "[[daemon]]", "network", "mtu", "driver", "http", "args", "copy-up", "\n", "\r\n", " = ", ".", ",",
    "[", "]", "{", "}", "\"", "\"\"\"", "'", "#", "\\", "\\u0000", "\0", "\u{feff}", "é", "\x1b", "auto", "true", "1500", "-1",
    "0x10", "1e400", "99999999999999999999", "1979-05-27", "nan", "\"pasta\"", "['/x']",
];

#[test]
fn any_bytes_as_configuration_file_are_valid_or_refused() {
    let bench = Bench::new();
    let fragments = proptest::collection::vec(proptest::sample::select(FRAGMENTS), 0..40);
    let any = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..2000),
        fragments.prop_map(|fragments| fragments.concat().into_bytes()),
    ];
    let config = Config { cases: 200, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&any, |bytes| {
        bench.configure(bytes);
        let told = bench.tell("config check");
        prop_assert!(matches!(told.code, Some(0 | 78)), "{told:?}");
        prop_assert!(told.stdout.is_empty() != told.stderr.is_empty(), "{told:?}");
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn what_config_show_prints_is_a_configuration_file_of_the_same_settings() {
    let bench = Bench::new();
    // Quotes, backslashes, a hash, a tab and a newline must survive.
    let set = r#"config --set 'network.driver=a "driver"' --set network.mtu=0 --set network.container-mtu=1400
        --set network.slirp4netns-sandbox=false --set network.host-loopback=true --set "rootlesskit.binary=/a\\b'c"
        --set 'rootlesskit.state-dir=/tmp/#	é' --set "rootlesskit.copy-up=/etc '/a b'" --set rootlesskit.propagation=private
        --set "rootlesskit.flags=--cidr=10.0.3.0/24 --x='\"
	'" --set "daemon.args='' '[x]' \"it's\"" --set daemon.iptables=path --set proxy.http=http://proxy:3128 --set proxy.no=a,b"#;
    let shown = bench.tell(&format!("{set} show"));
    assert_eq!(shown.code, Some(0), "{shown:?}");
    let values = |line: &str| -> Vec<Value> {
        let rows = bench.tell(line).json()["settings"].as_array().expect("settings").clone();
        rows.iter().map(|row| json!([row["key"], row["value"]])).collect()
    };
    let from_words = values(&format!("{set} show --format json"));
    bench.configure(&shown.stdout);
    assert_eq!(bench.tell("config show").stdout, shown.stdout);
    assert_eq!(values("config show --format json"), from_words);
}

#[test]
fn config_show_says_where_each_value_comes_from() {
    let bench = Bench::new();
    let file = bench.configure("[network]\nmtu = 1500\nipv6 = true\n\n[proxy]\nno = 'intern'\n");
    let show = |how| {
        bench.tell(&format!(
            "DOCKERD=mine DOCKERD_ROOTLESS_CONTAINER_MTU= config --set network.ipv6=0 show {how}"
        ))
    };
    let (text, object) = (show("--origin").stdout, show("--format json").json());
    assert_eq!(object["schema"], 1, "{object}");
    let rows = object["settings"].as_array().expect("settings");
    for (key, value, origin) in [
        ("network.mtu", Some("1500"), format!("{}:2", file.display())),
        ("network.container-mtu", Some("\"auto\""), "default".into()),
        ("network.ipv6", Some("false"), "command line".into()),
        ("daemon.binary", Some("\"mine\""), "environment variable DOCKERD".into()),
        ("proxy.http", None, "default".into()),
        ("proxy.no", Some("\"intern\""), format!("{}:6", file.display())),
    ] {
        let typed: Option<Value> =
            value.map(|value| serde_json::from_str(value).expect("JSON as well as TOML"));
        let row = json!({"key": key, "value": typed, "origin": origin});
        assert!(rows.contains(&row), "{row} in {object}");
        let name = key.split_once('.').expect("section.key").1;
        let value = value.map_or(format!("# {name}: none"), |value| format!("{name} = {value}"));
        assert!(text.contains(&format!("\n{value}  # {origin}\n")), "{row} in {text}");
    }
}

/// A bench with this file of the system, in a folder that is to stand on /etc.
fn bench_with_etc(text: &str) -> Bench {
    let bench = Bench::new();
    let file = bench.folder("etc/dockerd-rootless").join("config.toml");
    chmod(&bench.path("etc/dockerd-rootless"), 0o755);
    write_as(&file, text, 0);
    bench
}

/// Runs our program in a mount namespace in which the bench's `etc` is /etc, so that no file of the host is touched. Root
/// makes it as root; anybody else in a user namespace, which makes him root as far as our program can see.
fn tell_with_etc(bench: &Bench, line: &str) -> Told {
    let (unshare, as_user) = if geteuid().is_root() {
        ("--mount", format!("/usr/bin/setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups"))
    } else {
        ("--mount --map-root-user", String::new())
    };
    let script = format!(
        "/usr/bin/unshare {unshare} /bin/sh -ec '/bin/mount --bind etc /etc; exec {as_user} \"$0\" \"$@\"' \"$0\" \"$@\""
    );
    let mut command = typed(bench.program(&["/bin/sh", "-c", &script], "dockerd-rootless"), line);
    if geteuid().is_root() {
        command.uid(0).gid(0);
    }
    told(&mut command)
}

#[test]
fn config_explain_names_all_five_layers_in_order_and_marks_the_one_that_counts() {
    let bench = bench_with_etc("[network]\nmtu = 1401\n");
    let user = bench.configure("[network]\n\nmtu = 1402\n");
    let layers = [
        "default: auto".to_owned(),
        "/etc/dockerd-rootless/config.toml:2: `1401`".into(),
        format!("{}:3: `1402`", user.display()),
        "environment variable DOCKERD_ROOTLESS_ROOTLESSKIT_MTU: `1403`".into(),
        "command line: `1404`".into(),
    ];
    let variable = "DOCKERD_ROOTLESS_ROOTLESSKIT_MTU=1403";
    for (highest, line) in [
        (1, "HOME=/nowhere config"),
        (2, "config"),
        (3, &format!("{variable} config")),
        (4, &format!("{variable} config --set network.mtu=1404")),
    ] {
        let told = tell_with_etc(&bench, &format!("{line} explain network.mtu"));
        let list = told
            .stdout
            .split_once("set by, lowest first:\n")
            .unwrap_or_else(|| panic!("{told:?}"))
            .1;
        let mark = |at| if at == highest { "->" } else { "  " };
        let expected = layers[..=highest]
            .iter()
            .enumerate()
            .map(|(at, layer)| format!("{} {layer}", mark(at)));
        let starts = list.lines().zip(expected).all(|(line, expected)| line.starts_with(&expected));
        assert!(starts && list.lines().count() == highest + 1, "{line}: {told:?}");
    }
}

#[test]
fn the_systems_file_counts_once_where_it_is_the_users_file_too() {
    let told = tell_with_etc(
        &bench_with_etc(FINE),
        "XDG_CONFIG_HOME=/etc config explain network.container-mtu",
    );
    assert_eq!(told.stdout.matches("-> ").count(), 1, "{told:?}");
}

#[test]
fn a_broken_file_of_the_system_stops_every_user() {
    let bench = bench_with_etc("[network]\nmtu = 'big'\n");
    bench.configure("[network]\nmtu = 1400\n");
    for line in ["config show", "config check"] {
        let told = tell_with_etc(&bench, line);
        let named = told.stderr.contains("/etc/dockerd-rootless/config.toml:2: `network.mtu`");
        assert!(told.code == Some(78) && named, "{told:?}");
    }
}

#[test]
fn an_unknown_key_is_told_which_one_may_be_meant() {
    let bench = Bench::new();
    let mut wrong = Wrong::default();
    for (name, hint) in [
        ("driver", "did you mean `network.driver`?"),
        ("network.container_mtu", "did you mean `network.container-mtu`?"),
        ("rootlesskit.mtu", "did you mean `network.mtu`?"),
        ("network.drivr", "did you mean `network.driver`?"),
        ("network.detatch-netns", "did you mean `network.detach-netns`?"),
        ("daemon.arg", "did you mean `daemon.args`?"),
        ("qqqqqqqqqqqqqqqq", "`dockerd-rootless config show` lists the keys"),
    ] {
        let told = bench.tell(&format!("config explain {name}"));
        let right = told.code == Some(2)
            && told.stderr == format!("error: unknown key `{name}`\nhint: {hint}\n");
        wrong.unless(right, || format!("{name}, {hint}: {told:?}"));
    }
    wrong.end();
}

#[test]
fn config_path_and_check_name_the_files() {
    let bench = Bench::new();
    let system = "/etc/dockerd-rootless/config.toml";
    let file = bench.path("home/.config/dockerd-rootless/config.toml");
    let shown = file.display();
    assert_eq!(bench.tell("config path").stdout, format!("{system}\n{shown}\n"));
    assert_eq!(bench.tell("HOME= config path").stdout, format!("{system}\n"));

    let absent = bench.tell("config check");
    assert!(
        absent.stdout.contains(&format!("{shown}: absent\nenvironment: valid\n")),
        "{absent:?}"
    );
    bench.configure(FINE);
    let odd = "DOCKERD_ROOTLESS_ROOTLESSKIT_DISABLE_HOST_LOOPBACK";
    let valid = bench.tell(&format!("{odd}=0 config check"));
    assert!(
        valid.stdout.contains(&format!("{shown}: valid\nenvironment: valid\nwarning: `{odd}`")),
        "{valid:?}"
    );
    let bad = bench.tell("DOCKERD_ROOTLESS_ROOTLESSKIT_MTU=big config check");
    let said = "error: `DOCKERD_ROOTLESS_ROOTLESSKIT_MTU`: expected a whole number";
    assert!(
        bad.code == Some(78) && bad.stdout.is_empty() && bad.stderr.starts_with(said),
        "{bad:?}"
    );
}

/// The files in `folder`, each with what changes when somebody writes, replaces or only touches it.
fn traces(folder: &Path) -> BTreeMap<OsString, (u64, i64, i64)> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    entries
        .map(|entry| {
            let entry = entry.expect("an entry");
            let metadata = entry.metadata().expect("metadata");
            let trace = (metadata.ino(), metadata.ctime(), metadata.ctime_nsec());
            (entry.file_name(), trace)
        })
        .collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn config_set_makes_the_file_once_and_config_unset_takes_the_key_out() {
    let bench = Bench::new();
    let home = bench.folder("empty");
    let file = home.join(".config/dockerd-rootless/config.toml");
    let folder = file.parent().expect("a folder");
    let shown = file.display();
    let tell = |line: &str| {
        let told = told(bench.command(line).env("HOME", &home));
        assert!(told.code == Some(0) && told.stderr.is_empty(), "{told:?}");
        told
    };
    let result = |key: &str, value: Value, changed: bool| {
        let path = file.to_str().expect("UTF-8");
        json!({"schema": 1, "key": key, "value": value, "path": path, "changed": changed})
    };

    let nothing = tell("config unset network.mtu");
    assert_eq!(nothing.stdout, format!("network.mtu is not set in {shown} (unchanged)\n"));
    assert!(!home.join(".config").exists());

    let set = "config set network.slirp4netns-sandbox false";
    let line = format!("network.slirp4netns-sandbox = false in {shown}");
    assert_eq!(tell(set).stdout, format!("{line}\n"));
    assert_eq!(read(&file), "[network]\nslirp4netns-sandbox = false\n");
    assert_eq!((mode(&home.join(".config")), mode(folder), mode(&file)), (0o700, 0o700, 0o600));
    let explained = tell("config explain network.slirp4netns-sandbox").stdout;
    assert!(explained.contains(&format!("-> {shown}:2: `false`")), "{explained}");

    let before = traces(folder);
    assert_eq!(tell(set).stdout, format!("{line} (unchanged)\n"));
    let again = tell(&format!("{set} --format json")).json();
    assert_eq!(again, result("network.slirp4netns-sandbox", json!(false), false));
    assert_eq!(traces(folder), before);

    let list = tell("config --format=json set daemon.args \"--label 'a b'\"").json();
    assert_eq!(list, result("daemon.args", json!(["--label", "a b"]), true));
    let ours = tell("config set daemon.args --format json -- --log-level=debug").json();
    assert_eq!(ours, result("daemon.args", json!(["--log-level=debug"]), true));
    let sandbox = "[network]\nslirp4netns-sandbox = false\n";
    assert_eq!(read(&file), format!("{sandbox}\n[daemon]\nargs = [\"--log-level=debug\"]\n"));
    let unset = tell("config unset daemon.args --format json").json();
    assert_eq!(unset, result("daemon.args", Value::Null, true));
    assert_eq!(read(&file), format!("{sandbox}\n[daemon]\n"));
    assert_eq!(traces(folder).len(), 1, "nothing is left beside the file");
}

#[test]
fn config_set_keeps_links_modes_and_every_other_byte() {
    let bench = Bench::new();
    let mut wrong = Wrong::default();
    let text = "# mine\r\n[network]\r\nmtu = 1500 # why\r\n";
    for (target, mode_before) in [
        (None, 0o640),
        (Some("../../managed/config"), 0o600),
        (Some("../../managed/link"), 0o644),
        (Some("../../managed/new"), 0o600),
    ] {
        let home = bench.folder(&format!("home of {target:?}"));
        for folder in ["managed", ".config", ".config/dockerd-rootless"] {
            fs::create_dir(home.join(folder)).expect(folder);
            give(&home.join(folder), NOBODY);
        }
        let file = home.join(".config/dockerd-rootless/config.toml");
        link("config", &home.join("managed/link"));
        if target != Some("../../managed/new") {
            let managed = home.join("managed/config");
            let real = if target.is_some() { &managed } else { &file };
            write(real, text);
            chmod(real, mode_before);
        }
        if let Some(target) = target {
            link(target, &file);
        }
        let told = told(bench.command("config set network.mtu 9000").env("HOME", &home));
        let expected = match target {
            Some("../../managed/new") => "[network]\nmtu = 9000\n".to_owned(),
            _ => text.replace("1500", "9000"),
        };
        let real = fs::canonicalize(&file).expect("a file");
        let right = told.code == Some(0)
            && read(&file) == expected
            && mode(&real) == mode_before
            && fs::read_link(&file).ok() == target.map(PathBuf::from)
            && fs::read_link(home.join("managed/link")).is_ok()
            && traces(file.parent().expect("a folder")).len() == 1;
        wrong.unless(right, || format!("{target:?}: {told:?}, {:?}", read(&file)));
    }
    wrong.end();
}

#[test]
fn config_set_gives_no_other_group_what_was_meant_for_one() {
    if !geteuid().is_root() {
        println!("not root: skipped");
        return;
    }
    let bench = Bench::new();
    let owners = |path: &Path| {
        let metadata = fs::metadata(path).expect("metadata");
        (metadata.uid(), metadata.gid(), mode(path))
    };
    for (user, group, before, after) in [
        (NOBODY, NOBODY, 0o664, 0o664),
        (NOBODY, STRANGER, 0o640, 0o600),
        (NOBODY, STRANGER, 0o604, 0o644),
        (0, 0, 0o664, 0o644),
    ] {
        let file = bench.configure(FINE);
        lchown(&file, Some(user), Some(group)).expect("chown");
        chmod(&file, before);
        let told = bench.tell("config set network.mtu 1500");
        assert_eq!(told.code, Some(0), "{told:?}");
        assert_eq!(owners(&file), (NOBODY, NOBODY, after), "{user}:{group} {before:o}");
        assert_eq!(bench.tell("config check").code, Some(0));
    }
}

#[test]
fn a_file_that_config_set_cannot_write_stays_what_it_is() {
    let bench = Bench::new();
    let closed = bench.folder("closed");
    let managed = closed.join("managed");
    write(&managed, FINE);
    write(&closed.join("config.toml"), FINE);
    let file = bench.path("home/.config/dockerd-rootless/config.toml");
    link("../../../closed/managed", &file);
    let below = bench.folder("below");
    symlink(&closed, below.join("dockerd-rootless")).expect("a link");
    chmod(&closed, 0o500);
    let before = traces(&closed);
    let mut wrong = Wrong::default();
    let shown = bench.0.path().display();
    for (line, hint) in [
        (
            "config set network.mtu 1500",
            format!(
                "it is a link to `{shown}/home/.config/dockerd-rootless/../../../closed/managed`: "
            ),
        ),
        (
            "XDG_CONFIG_HOME=ROOT/below config unset network.container-mtu",
            format!("ls -ld {shown}/below/dockerd-rootless\n"),
        ),
        (
            "XDG_CONFIG_HOME=ROOT/closed/x config set network.mtu 1500",
            format!("ls -ld {shown}/closed\n"),
        ),
    ] {
        let told = bench.tell(&line.replace("ROOT", &shown.to_string()));
        let right = told.code == Some(1)
            && told.stdout.is_empty()
            && told.stderr.contains("` cannot be written\ncause: Permission denied")
            && told.stderr.contains(&format!("\nhint: {hint}"));
        wrong.unless(right && traces(&closed) == before, || format!("{line}, {hint}: {told:?}"));
    }
    wrong.end();
}

#[test]
fn what_config_set_refuses_leaves_the_file_as_it_was() {
    let bench = Bench::new();
    let file = bench.configure(FINE);
    let folder = file.parent().expect("a folder");
    let before = traces(folder);
    let mut wrong = Wrong::default();
    for (line, code, said) in [
        (
            "config set network.mtu big",
            78,
            "error: `network.mtu`: expected a whole number of bytes from 0 to 65521, or auto, got `big`\n",
        ),
        ("config set network.mtu ''", 78, "got ``"),
        ("config set network.ipv6 auto", 78, "expected true or false, got `auto`"),
        ("config set daemon.binary ''", 78, "expected a string that is not empty"),
        ("config set daemon.args \"'a\"", 78, "a single quote is not closed"),
        ("config set rootlesskit.copy-up etc", 78, "`etc` is not absolute"),
        (
            "config set network.mut 1",
            2,
            "error: unknown key `network.mut`\nhint: did you mean `network.mtu`?\n",
        ),
        ("config unset mtu", 2, "error: unknown key `mtu`\nhint: did you mean `network.mtu`?\n"),
        ("config set network.mtu", 2, "VALUE"),
        ("config set daemon.args -D -H fd://", 2, "-H"),
        ("config set network.mtu 1 --set network.mut=1", 2, "`--set network.mut`: unknown key"),
        ("HOME= config set network.mtu 1", 78, "HOME is not set\nhint: export HOME="),
        ("HOME=home config unset network.mtu", 78, "HOME is not set\nhint: export HOME="),
    ] {
        let told = bench.tell(line);
        let right = told.code == Some(code) && told.stderr.contains(said) && told.stdout.is_empty();
        wrong.unless(right && traces(folder) == before, || {
            format!("{line}, {code}, {said}: {told:?}")
        });
    }
    let bytes = OsStr::from_bytes(b"/\xff");
    let told_bytes = told(bench.command("config set daemon.binary").arg(bytes));
    let said = "error: `daemon.binary`: the value is not UTF-8 text\n";
    wrong.unless(told_bytes.code == Some(78) && told_bytes.stderr.starts_with(said), || {
        format!("{told_bytes:?}")
    });
    let large = told(bench.command("config set proxy.no").arg("x".repeat(64 * 1024)));
    let said = "` would be larger than 64 KiB\n";
    wrong.unless(large.code == Some(78) && large.stderr.contains(said), || format!("{large:?}"));
    wrong.unless(traces(folder) == before, || "the file was touched".into());
    wrong.end();
}

#[test]
fn config_set_edits_no_file_that_is_not_valid() {
    let bench = Bench::new();
    let mut wrong = Wrong::default();
    for (what, make, said) in with_those_of_root(CANDIDATES, CANDIDATES_OF_ROOT) {
        let said = if *what == "64 KiB" { "would be larger" } else { said };
        let home = bench.folder(what);
        let folder = bench.folder(&format!("{what}/dockerd-rootless"));
        let file = folder.join("config.toml");
        make(&file);
        let before = traces(&folder);
        for line in ["config set network.port-driver none", "config unset network.port-driver"] {
            if *what == "64 KiB" && line.contains("unset") {
                continue;
            }
            let tell = |line| told(bench.command(line).env("XDG_CONFIG_HOME", &home));
            let told = tell(line);
            let right = if said.is_empty() {
                told.code == Some(0) && tell("config check").code == Some(0)
            } else {
                let named = told.stderr.contains(&*file.to_string_lossy());
                told.code == Some(78)
                    && named
                    && told.stderr.contains(said)
                    && told.stdout.is_empty()
                    && traces(&folder) == before
            };
            wrong.unless(right, || format!("{what}, {line}: {told:?}"));
        }
    }
    wrong.end();
}

#[test]
fn config_set_mends_what_is_wrong_with_its_key_whatever_is_wrong_elsewhere() {
    let bench = bench_with_etc("[network]\nmtu = 'big'\n");
    let file = bench.configure("[network]\nmtu = 65522 # x\n");
    let told = tell_with_etc(&bench, "DOCKERD_ROOTLESS_IPV6=maybe config set network.mtu 0");
    assert!(told.code == Some(0) && told.stderr.is_empty(), "{told:?}");
    assert_eq!(read(&file), "[network]\nmtu = 0 # x\n");
}

#[test]
fn config_set_warns_when_a_higher_place_counts() {
    let bench = Bench::new();
    let variable = "DOCKERD_ROOTLESS_ROOTLESSKIT_MTU";
    for (line, place) in [
        ("config set network.mtu 1500 --format json", None),
        ("DOCKERD=x config set network.mtu 1500 --format json", None),
        (
            "DOCKERD_ROOTLESS_ROOTLESSKIT_MTU=9 config set network.mtu 1500 --format json",
            Some(format!("environment variable {variable}")),
        ),
        (
            "DOCKERD_ROOTLESS_ROOTLESSKIT_MTU=9 config unset network.mtu --format json",
            Some(format!("environment variable {variable}")),
        ),
        (
            "DOCKERD_ROOTLESS_ROOTLESSKIT_MTU=9 config --set network.mtu=9 set network.mtu 1500 --format json",
            Some("command line".into()),
        ),
    ] {
        let told = bench.tell(line);
        assert_eq!(told.json()["key"], "network.mtu", "{line}: {told:?}");
        let said = place.map_or(String::new(), |place| format!(
            "WARN `network.mtu`: what counts is the {place}, not the file: see `dockerd-rootless config explain network.mtu`\n"
        ));
        let right = told.stderr.ends_with(&said) && told.stderr.is_empty() == said.is_empty();
        assert!(told.code == Some(0) && right, "{line}: {told:?}");
    }
}

#[test]
fn config_set_stores_the_password_of_a_proxy_and_does_not_show_it() {
    let bench = Bench::new();
    for format in ["text", "json"] {
        let line = format!(
            "RUST_LOG=trace config set proxy.http http://me:{PASSWORD}@proxy --format {format}"
        );
        let told = bench.tell(&line);
        let shown = [&*told.stdout, &told.stderr].concat();
        assert!(told.stdout.contains("http://***@proxy") && !shown.contains(PASSWORD), "{told:?}");
    }
    bench.tell("run");
    let expected = format!("http://me:{PASSWORD}@proxy");
    let got = bench.recorded_variables();
    assert_eq!(got.get(OsStr::new("HTTP_PROXY")), Some(&expected.into()));
}

#[test]
fn root_makes_no_file_that_the_owner_of_the_home_could_not_read() {
    if !geteuid().is_root() {
        println!("not root: skipped");
        return;
    }
    let bench = Bench::new();
    let home = bench.folder("other");
    let as_root = |line: &str| told(bench.command(line).env("HOME", &home).uid(0).gid(0));
    let told = as_root("config set network.mtu 1500");
    let said = format!(
        "is not made by root: `{}` belongs to user {NOBODY}\nhint: do this as user {NOBODY}\n",
        home.display()
    );
    assert!(told.code == Some(78) && told.stderr.ends_with(&said), "{told:?}");
    assert!(traces(&home).is_empty());
    give(&home, 0);
    assert_eq!(as_root("config set network.mtu 1500").code, Some(0));
}

#[test]
fn who_reads_while_config_set_writes_sees_a_whole_file() {
    let bench = Bench::new();
    let [short, long] = ["a".to_owned(), "b".repeat(16 * 1024)];
    let file = bench.configure("");
    let set = |value: &str| bench.tell(&format!("config set proxy.no {value}"));
    set(&short);
    let texts = [&short, &long].map(|value| format!("[proxy]\nno = \"{value}\"\n"));
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                assert!(texts.contains(&read(&file)), "half a file");
            }
        });
        let values = [&long, &short].into_iter().cycle().take(20);
        let codes: Vec<_> = values.map(|value| set(value).code).collect();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        reader.join().expect("whole files");
        assert_eq!(codes, [Some(0); 20]);
    });
}

/// A word of the plan in JSON: a string, or bytes that are not UTF-8.
fn word(value: &Value) -> OsString {
    let bytes = || {
        serde_json::from_value(value["bytes"].clone()).unwrap_or_else(|e| panic!("{value}: {e}"))
    };
    value.as_str().map_or_else(|| OsString::from_vec(bytes()), OsString::from)
}

fn words(value: &Value) -> Vec<OsString> {
    value.as_array().unwrap_or_else(|| panic!("{value} is no array")).iter().map(word).collect()
}

fn variables(pairs: &[(&str, &[u8])]) -> Variables {
    pairs.iter().map(|(name, value)| (name.into(), OsStr::from_bytes(value).to_owned())).collect()
}

/// Plans and runs the launch of `daemon_words` with `options` and more `variables`, through `wrapper`, and compares what
/// rootlesskit gets with what the plan says; where no option is given, also under the name of upstream's script.
fn assert_planned(
    bench: &Bench,
    wrapper: &[&str],
    options: &str,
    variables: &Variables,
    daemon_words: &[OsString],
) {
    let launch = |name: &str, line: &str| {
        let told =
            told(typed(bench.program(wrapper, name), line).args(daemon_words).envs(variables));
        assert_eq!(told.code, Some(0), "{name} {line}: {told:?}");
        told
    };
    for mode in ["", "--exec"] {
        let plan =
            launch("dockerd-rootless", &format!("plan {mode} --format json {options} --")).json();
        let (argv, daemon) = (words(&plan["argv"]), words(&plan["daemon"]));
        assert!(
            plan["schema"] == 1 && argv.ends_with(&daemon) && daemon.ends_with(daemon_words),
            "{plan}"
        );
        let changes = &plan["environment"];
        let mut expected = bench.variables();
        expected.extend(variables.clone());
        for change in changes["unset"].as_array().expect("unset") {
            expected.remove(&word(&change["name"]));
        }
        for change in changes["set"].as_array().expect("set") {
            expected.insert(word(&change["name"]), word(&change["value"]));
        }
        let run = format!("run {mode} {options} --");
        let drop_in = options.is_empty() && mode == "--exec";
        let drop_in = drop_in.then_some(("dockerd-rootless.sh", ""));
        for (name, line) in [("dockerd-rootless", &*run)].into_iter().chain(drop_in) {
            launch(name, line);
            assert_eq!(bench.recorded_words(), argv, "{name} {line}");
            assert_eq!(
                bench.recorded_variables(),
                expected,
                "{name} {line}, and the plan says {changes}"
            );
        }
    }
}

#[test]
fn the_words_of_the_plan_are_those_that_rootlesskit_gets() {
    let bench = Bench::new();
    bench.configure("[rootlesskit]\nflags = ['--debug', '--ifname=a *']\n[daemon]\nargs = ['--label', \"a\\nb\"]\n");
    let daemon = Path::new(OsStr::from_bytes(b"odd \xff/dockerd"));
    bench.stub(daemon, "");
    let given = variables(&[
        ("DOCKERD", bench.path(daemon).as_os_str().as_bytes()),
        ("DOCKERD_ROOTLESS_ROOTLESSKIT_NET", b"driver \xff"),
        ("UNRELATED", b"a *\n\xff"),
        ("EMPTY", b""),
        ("_DOCKERD_ROOTLESS_CHILD", b"1"),
    ]);
    let odd: [&[u8]; 9] = [
        b"-H",
        b"fd://",
        b"a b",
        b"/et*",
        b"$(id)`id`\"'\\",
        b"line\nline",
        b"\xff\xfe",
        b"--",
        b"",
    ];
    assert_planned(&bench, &[], "", &given, &odd.map(|word| OsStr::from_bytes(word).to_owned()));
}

#[test]
fn the_plan_tells_of_passed_sockets() {
    let bench = Bench::new();
    let passing = "LISTEN_PID=$$ LISTEN_FDS=2 exec \"$0\" \"$@\" 3</dev/null 4</dev/null";
    assert_planned(&bench, &["/bin/sh", "-c", passing], "", &Variables::new(), &[]);
    let words = bench.recorded_words();
    assert!(words.ends_with(&["-H".into(), "fd://".into()]), "{words:?}");
}

#[test]
fn the_proxies_of_the_plan_are_those_that_rootlesskit_gets() {
    let bench = Bench::new();
    bench.configure("[proxy]\nhttp = 'http://proxy:3128'\nhttps = 'proxy'\nno = 'a b,*.intern'\n");
    assert_planned(&bench, &[], "", &Variables::new(), &[]);
}

#[test]
fn a_search_path_with_odd_bytes_is_planned_as_it_is_used() {
    let bench = Bench::new();
    for folder in [&b"/a b'"[..], b"/\xff"] {
        let path = [bench.variables()[OsStr::new("PATH")].as_bytes(), b":", folder].concat();
        assert_planned(&bench, &[], "", &variables(&[("PATH", &path)]), &[]);
    }
}

#[test]
fn a_level_for_the_namespace_stage_is_planned_too() {
    assert_planned(&Bench::new(), &[], "-v", &Variables::new(), &[]);
}

#[test]
fn each_failure_has_its_exit_code() {
    let bench = Bench::new();
    bench.folder("empty");
    write(&bench.path("text"), "not a program");
    let mut wrong = Wrong::default();
    for (line, code, said) in [
        ("frobnicate", 2, "frobnicate"),
        ("config", 2, "Usage: "),
        ("config --bogus", 2, "--bogus"),
        ("config explain", 2, "KEY"),
        ("config unset", 2, "KEY"),
        ("run --color=sometimes", 2, "sometimes"),
        ("run --log-level=loud", 2, "loud"),
        ("plan --format=xml", 2, "xml"),
        ("run --set network.mtu", 2, "expected KEY=VALUE"),
        ("run --set network.mut=1", 2, "unknown key"),
        ("run --set network.mtu=big", 78, "`network.mtu`: expected"),
        ("PATH=ROOT/empty run", 4, "no program `rootlesskit` is in PATH"),
        ("PATH=ROOT/empty plan", 4, "no program `rootlesskit` is in PATH"),
        ("run --set rootlesskit.binary=/nonexistent", 127, "`/nonexistent`"),
        ("run --set rootlesskit.binary=nonexistent", 127, "`nonexistent`"),
        ("run --set rootlesskit.binary=ROOT/text", 126, "/text`"),
        ("run --set rootlesskit.binary=ROOT/empty", 126, "/empty`"),
        ("DOCKERD=/nonexistent run", 127, "`/nonexistent`"),
        ("DOCKERD=/nonexistent plan", 127, "`/nonexistent`"),
        ("DOCKERD=ROOT/text run", 126, "/text`"),
        ("HOME= run", 4, "HOME is not set"),
        ("HOME=/nonexistent run", 4, "HOME `/nonexistent`"),
        ("XDG_RUNTIME_DIR=/nonexistent run", 4, "XDG_RUNTIME_DIR `/nonexistent`"),
    ] {
        let told = bench.tell(&line.replace("ROOT", &bench.0.path().display().to_string()));
        let right = told.code == Some(code) && told.stderr.contains(said) && told.stdout.is_empty();
        wrong.unless(right, || format!("{line} is not {code}, {said}: {told:?}"));
        wrong
            .unless(!bench.path("record/words").exists(), || format!("{line} started rootlesskit"));
    }
    wrong.end();
}

#[test]
fn an_option_that_is_none_of_ours_is_dockerds() {
    let bench = Bench::new();
    for (line, expected) in [
        ("--frobnicate", "--frobnicate"),
        ("run --frobnicate --exec", "--frobnicate --exec"),
        ("--exec -- --help", "--help"),
        ("-D --version", "-D --version"),
        ("-vD", "-vD"),
        ("--log-level=debug -D --log-level=fatal", "-D --log-level=fatal"),
    ] {
        let told = bench.tell(line);
        assert_eq!(told.code, Some(0), "{line}: {told:?}");
        let recorded = bench.recorded_words().join(OsStr::new(" "));
        let (_, daemon) = recorded
            .to_str()
            .and_then(|line| line.split_once("/dockerd --mtu=65520 "))
            .expect("dockerd");
        // The supervisor keeps the socket.
        let daemon = daemon.strip_prefix("-H fd:// ").unwrap_or(daemon);
        assert_eq!(daemon, expected, "{line}");
    }
}

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
    assert_eq!(first.asked(), [&of_elf[..], &["pasta --version"]].concat());
    let kept = read_json(&cache);
    let keys: Vec<&str> =
        kept["answers"].as_object().expect("answers").keys().map(String::as_str).collect();
    let stubs = bench.path("stubs");
    assert_eq!(keys, of_elf.map(|question| format!("{}/{question}", stubs.display())));
    assert_eq!((mode(&cache), mode(cache.parent().expect("a folder"))), (0o600, 0o700));

    let second = plan();
    assert_eq!(second.asked(), ["pasta --version"], "a script is asked each time");
    assert_eq!(second.stdout, first.stdout);

    let swap = "cp -p slirp4netns new && mv new slirp4netns";
    assert!(
        Command::new("sh").args(["-c", swap]).current_dir(&stubs).status().expect("sh").success()
    );
    let asked = ["slirp4netns --help", "slirp4netns --version", "pasta --version"];
    assert_eq!(plan().asked(), asked, "it has the same size and date, and is another file");
}

/// The kept answers with a lie in them: slirp4netns is too old.
fn forge(cache: &Path) -> String {
    let mut kept = read_json(cache);
    let mut answers = kept["answers"].as_object_mut().expect("answers").iter_mut();
    let (_, answer) =
        answers.find(|(key, _)| key.ends_with("slirp4netns --help")).expect("slirp4netns's");
    answer[1] = json!(false);
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
    let honest = bench.tell("plan").stdout;
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
            told.code == Some(0) && told.stdout == honest && told.stderr.is_empty(),
            "{place}: {told:?}"
        );
    }
}

/// Commands that may name a proxy, with room for more words behind the first.
#[rustfmt::skip]
const PROXY_READERS: [&str; 9] = [
    "plan SET", "plan SET --format json", "run SET --exec", "config SET show", "config SET show --origin",
    "config SET show --format json", "config SET explain proxy.http", "config SET explain proxy.https", "config SET check",
];

const PASSWORD: &str = "hunter2";

#[test]
fn the_password_of_a_proxy_is_handed_on_and_never_shown() {
    let bench = Bench::new();
    let mut wrong = Wrong::default();
    for url in [
        "http://me:hunter2@proxy:3128",
        "me:hunter2@proxy:3128",
        "http://me:hunter2@x@proxy",
        "http://me:x/hunter2@proxy",
        "http://hunter2@proxy",
        "socks5://:hunter2@[::1]:1",
    ] {
        for source in ["file", "HTTP_PROXY=", "http_proxy=", "HTTPS_PROXY=", "--set proxy.https="] {
            bench.configure(if source == "file" {
                format!("[proxy]\nhttp = '{url}'\n")
            } else {
                String::new()
            });
            let given = |kind: bool| {
                if kind { format!("{source}'{url}'") } else { String::new() }
            };
            let (variable, set) = (
                given(source.ends_with("Y=") || source.ends_with("y=")),
                given(source.starts_with("--")),
            );
            for line in PROXY_READERS {
                let told =
                    bench.tell(&format!("RUST_LOG=trace {variable} {}", line.replace("SET", &set)));
                let shown = [&*told.stdout, &told.stderr].concat();
                let right = told.code == Some(0) && !shown.contains(PASSWORD);
                wrong.unless(right, || format!("{url} by {source}, {line}: {told:?}"));
            }
            let got = bench.recorded_variables();
            wrong.unless(got.values().any(|value| value == url), || {
                format!("{url} by {source} did not arrive: {got:?}")
            });
        }
    }
    wrong.end();
}

#[test]
fn a_proxys_user_is_shown_as_stars_and_the_rest_as_it_is() {
    let bench = Bench::new();
    let mut wrong = Wrong::default();
    // As a setting, the stars would replace the password in whoever saves the output as a file.
    for (url, shown) in [
        (
            "http://me:hunter2@proxy:3128",
            "# http = \"http://***@proxy:3128\", its password not shown",
        ),
        ("me:hunter2@proxy:3128", "# http = \"***@proxy:3128\", its password not shown"),
        ("proxy:3128", "http = \"proxy:3128\""),
    ] {
        let told = bench.tell(&format!("HTTP_PROXY={url} config show"));
        wrong.unless(told.stdout.contains(&format!("\n{shown}\n")), || format!("{url}: {told:?}"));
    }
    wrong.end();
}

#[test]
fn an_error_about_a_proxy_keeps_its_password() {
    let bench = Bench::new();
    let mut wrong = Wrong::default();
    for value in [
        "['http://me:hunter2@proxy']",
        r#""http://me:hunter2@proxy\u0000""#,
        "'hunter2@proxy",
        "http://hunter2@proxy",
    ] {
        bench.configure(format!("[proxy]\nhttp = {value}\n"));
        for line in PROXY_READERS {
            let told = bench.tell(&line.replace("SET", ""));
            let right = told.code == Some(78) && !told.stderr.contains(PASSWORD);
            wrong.unless(right, || format!("{value}, {line}: {told:?}"));
        }
    }
    bench.configure("");
    for line in [
        "plan --set proxy.htp=http://me:hunter2@proxy",
        "plan --set proxy.http:http://me:hunter2@proxy",
    ] {
        let told = bench.tell(line);
        wrong.unless(told.code == Some(2) && !told.stderr.contains(PASSWORD), || {
            format!("{line}: {told:?}")
        });
    }
    wrong.end();
}

#[test]
fn results_go_to_standard_output_and_messages_to_standard_error() {
    let bench = Bench::new();
    for line in [
        "plan",
        "plan --format json",
        "config show",
        "config show --format json",
        "config explain network.mtu",
        "config check",
        "config path",
        "config set network.mtu 1500",
        "config unset network.mtu",
        "--help",
        "--version",
        "run --help",
    ] {
        let told = bench.tell(line);
        assert!(
            told.code == Some(0) && !told.stdout.is_empty() && told.stderr.is_empty(),
            "{line}: {told:?}"
        );
    }
    for line in [
        "plan",
        "config show",
        "config explain network.mtu",
        "config check",
        "config path",
        "config set network.mtu 1500",
        "config unset network.mtu",
    ] {
        let object = bench.tell(&format!("{line} --format json")).json();
        assert_eq!(object["schema"], 1, "{line}: {object}");
    }
    let launch = bench.tell("run");
    assert!(launch.stdout.is_empty() && launch.stderr.contains("INFO starting "), "{launch:?}");
    let verbose = bench.tell("plan --format json -vv");
    assert!(
        verbose.json()["schema"] == 1 && verbose.stderr.contains("DEBUG asking "),
        "{verbose:?}"
    );
}

#[test]
fn levels_come_from_the_command_line_then_from_rust_log() {
    let bench = Bench::new();
    for (line, expected) in [
        ("run", "INFO"),
        ("run -v", "DEBUG INFO"),
        ("-v run", "DEBUG INFO"),
        ("-v plan", "DEBUG"),
        ("--color never --log-level=debug plan", "DEBUG"),
        ("run -vv", "DEBUG INFO"),
        ("run --log-level debug", "DEBUG INFO"),
        ("run --log-level=warn", ""),
        ("RUST_LOG=debug run", "DEBUG INFO"),
        ("RUST_LOG=error run", ""),
        ("RUST_LOG=error run -v", "DEBUG INFO"),
        ("RUST_LOG=trace run --log-level=error -v", ""),
    ] {
        let told = bench.tell(line);
        let seen: Vec<&str> =
            ["DEBUG", "INFO"].into_iter().filter(|level| told.stderr.contains(level)).collect();
        assert_eq!(seen.join(" "), expected, "{line}: {told:?}");
    }
    // The variable is not ours alone: what we cannot read in it is no reason not to start.
    let misread = bench.tell("RUST_LOG='nonsense=[' run");
    let said = "WARN `RUST_LOG`: `nonsense=[` is not understood";
    assert!(
        misread.code == Some(0) && misread.stderr.contains(said) && misread.stderr.contains("INFO"),
        "{misread:?}"
    );
}

#[test]
fn colours_are_for_terminals_and_for_those_who_ask() {
    let bench = Bench::new();
    let mut wrong = Wrong::default();
    for (line, colored) in [
        ("run", false),
        ("CLICOLOR_FORCE=1 run", true),
        ("CLICOLOR_FORCE=0 run", false),
        ("CLICOLOR_FORCE=1 NO_COLOR=1 run", false),
        ("CLICOLOR_FORCE=1 NO_COLOR= run", true),
        ("NO_COLOR=1 run --color always", true),
        ("CLICOLOR_FORCE=1 run --color=never", false),
        ("config --bogus", false),
        ("CLICOLOR_FORCE=1 config --bogus", true),
        ("CLICOLOR_FORCE=1 NO_COLOR=1 config --bogus", false),
        ("CLICOLOR_FORCE=1 config --color=never --bogus", false),
        ("config --color=always --bogus", true),
    ] {
        let told = bench.tell(line);
        wrong.unless(told.stderr.contains('\x1b') == colored, || {
            format!("{line}, {colored}: {told:?}")
        });
    }
    let terminal = ["/usr/bin/script", "--quiet", "--return", "/dev/null", "--command"];
    for (variable, colored) in [("TERM=xterm", true), ("NO_COLOR=1", false)] {
        let told = told(&mut typed(bench.program(&terminal, "dockerd-rootless"), variable));
        let right = told.stdout.contains("starting") && told.stdout.contains('\x1b') == colored;
        wrong.unless(right, || format!("on a terminal with {variable}: {told:?}"));
    }
    wrong.end();
}

#[test]
fn messages_have_a_time_unless_the_journal_adds_it() {
    let bench = Bench::new();
    let plain = bench.tell("run").stderr;
    assert!(plain.starts_with("20") && plain.contains("INFO starting"), "{plain}");
    let journal = bench.tell("JOURNAL_STREAM=8:1 run").stderr;
    assert!(journal.trim_start().starts_with("INFO starting"), "{journal}");
}

/// Streams that cannot be written: a reader that is gone, a full device.
fn broken_streams() -> [(&'static str, Stdio); 2] {
    let (_, writer) = io::pipe().expect("a pipe");
    let full = File::options().write(true).open("/dev/full").expect("/dev/full");
    [("a pipe without a reader", writer.into()), ("/dev/full", full.into())]
}

#[test]
fn a_reader_who_has_seen_enough_is_no_failure_and_a_full_disk_is_one() {
    let bench = Bench::new();
    for line in [
        "plan",
        "plan --format json",
        "config show",
        "config path",
        "config explain network.mtu",
        "config set network.mtu 1500",
    ] {
        for ((what, stream), code) in broken_streams().into_iter().zip([0, 1]) {
            let mut command = bench.command(line);
            let child = command.stdout(stream).stderr(Stdio::piped()).spawn();
            let output = child.and_then(Child::wait_with_output).expect("started");
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{line} into {what}: {stderr}");
            assert_eq!(stderr.is_empty(), code == 0, "{line} into {what}: {stderr}");
        }
    }
}

#[test]
fn messages_that_cannot_be_written_change_neither_the_exit_code_nor_the_launch() {
    let bench = Bench::new();
    let mut wrong = Wrong::default();
    for (line, code) in [
        ("run -vv", 0),
        ("DOCKERD_ROOTLESS_ROOTLESSKIT_MTU=big run", 78),
        ("DOCKERD_ROOTLESS_ROOTLESSKIT_MTU=big config check", 78),
        ("config explain x", 2),
        ("config --bogus", 2),
    ] {
        for (what, stream) in broken_streams() {
            let status =
                bench.command(line).stderr(stream).stdout(Stdio::null()).status().expect("started");
            wrong.unless(status.code() == Some(code), || {
                format!("{line} into {what}: {status}, not {code}")
            });
        }
    }
    wrong.end();
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
        ("while echo x; do :; done", "its answer has no end"),
    ] {
        bench.stub("stubs/rootlesskit", &bench.rootlesskit(help));
        let plan = bench.tell("plan --format json").json();
        assert_eq!(
            plan["host"]["tools"]["rootlesskit"]["found"]["answer"]["unknown"], why,
            "{help}"
        );
    }
}
