//! `config set` and `config unset`: what they write, and what they leave alone.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, lchown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use super::files::{CANDIDATES, CANDIDATES_OF_ROOT, FINE, bench_with_etc, tell_with_etc};
use super::proxies::PASSWORD;
use super::{
    Bench, NOBODY, STRANGER, Wrong, chmod, give, link, mode, told, with_those_of_root, write,
};

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
    assert_eq!(traces(folder), before);

    let list = tell("config set daemon.args \"--label 'a b'\"").stdout;
    assert_eq!(list, format!("daemon.args = [\"--label\", \"a b\"] in {shown}\n"));
    let ours = tell("config set daemon.args -- --log-level=debug").stdout;
    assert_eq!(ours, format!("daemon.args = [\"--log-level=debug\"] in {shown}\n"));
    let sandbox = "[network]\nslirp4netns-sandbox = false\n";
    assert_eq!(read(&file), format!("{sandbox}\n[daemon]\nargs = [\"--log-level=debug\"]\n"));
    let removed = tell("config unset daemon.args").stdout;
    assert_eq!(removed, format!("Removed daemon.args from {shown}\n"));
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
        ("config --set network.mut=1 set network.mtu 1", 2, "`--set network.mut`: unknown key"),
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
        ("config set network.mtu 1500", None),
        ("DOCKERD=x config set network.mtu 1500", None),
        (
            "DOCKERD_ROOTLESS_ROOTLESSKIT_MTU=9 config set network.mtu 1500",
            Some(format!("environment variable {variable}")),
        ),
        (
            "DOCKERD_ROOTLESS_ROOTLESSKIT_MTU=9 config unset network.mtu",
            Some(format!("environment variable {variable}")),
        ),
        (
            "DOCKERD_ROOTLESS_ROOTLESSKIT_MTU=9 config --set network.mtu=9 set network.mtu 1500",
            Some("command line".into()),
        ),
    ] {
        let told = bench.tell(line);
        assert!(told.stdout.contains("network.mtu"), "{line}: {told:?}");
        let said = place.map_or(String::new(), |place| format!(
            "warning: `network.mtu`: the {place} wins over the file: see `dockerd-rootless config explain network.mtu`\n"
        ));
        let right = told.stderr.ends_with(&said) && told.stderr.is_empty() == said.is_empty();
        assert!(told.code == Some(0) && right, "{line}: {told:?}");
    }
}

#[test]
fn config_set_stores_the_password_of_a_proxy_and_does_not_show_it() {
    let bench = Bench::new();
    let line = format!("RUST_LOG=trace config set proxy.http http://me:{PASSWORD}@proxy");
    let told = bench.tell(&line);
    let shown = [&*told.stdout, &told.stderr].concat();
    assert!(told.stdout.contains("http://***@proxy") && !shown.contains(PASSWORD), "{told:?}");
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
