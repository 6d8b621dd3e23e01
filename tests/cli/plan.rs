//! `plan` tells what a launch does, and exit codes tell how it fails.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use serde_json::Value;

use super::{Bench, Variables, Wrong, told, typed, write};

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
        ("frobnicate", 2, "hint: dockerd-rootless --help\n"),
        ("instal", 2, "hint: dockerd-rootless install --help\n"),
        ("start", 2, "hint: systemctl --user start docker\n"),
        ("stop", 2, "hint: systemctl --user stop docker\n"),
        ("logs", 2, "hint: journalctl --user -u docker\n"),
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
