//! Configuration files: hostile ones, and what `config` tells of them.

use std::fs;
use std::os::unix::fs::lchown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::unistd::geteuid;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use super::{
    Bench, NOBODY, READERS, STRANGER, Told, Wrong, chmod, fifo, link, told, typed,
    with_those_of_root, write, write_as, write_mode,
};

/// A configuration file: what it is, how it is made, and what is said of it beside its name; empty if it is fine.
pub type Candidate = (&'static str, fn(&Path), &'static str);

pub const FINE: &str = "[network]\ncontainer-mtu = 1400\n";

#[rustfmt::skip]
pub const CANDIDATES: &[Candidate] = &[
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
pub const CANDIDATES_OF_ROOT: &[Candidate] = &[
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
pub fn bench_with_etc(text: &str) -> Bench {
    let bench = Bench::new();
    let file = bench.folder("etc/dockerd-rootless").join("config.toml");
    chmod(&bench.path("etc/dockerd-rootless"), 0o755);
    write_as(&file, text, 0);
    bench
}

/// Runs our program in a mount namespace in which the bench's `etc` is /etc, so that no file of the host is touched. Root
/// makes it as root; anybody else in a user namespace, which makes him root as far as our program can see.
pub fn tell_with_etc(bench: &Bench, line: &str) -> Told {
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
