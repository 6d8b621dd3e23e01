//! `ids` and `unshare`: owners of files as this host and as containers see them, beside a daemon and without one.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};

use test_support::docker::IMAGE;
use test_support::*;

fn tell(user: &TestUser, words: &[&str]) -> Told {
    let mut command = user.brief_command(Launcher::Run.install(user));
    Told::by(command.args(words).current_dir(&user.home))
}

#[test]
fn files_of_a_containers_user_are_told_and_changed_beside_a_daemon_and_without_one() {
    let user = TestUser::new();
    let mut daemon = Launch::new(&user, Launcher::Run).ready();
    daemon.docker.import_image();
    let volume = user.home.join("volume");
    user.make_dir(&volume);
    let container = format!("run --rm --network none --volume {}:/v {IMAGE}", volume.display());
    for words in ["cp /www/index.html /v/file", "busybox chown 999:998 /v/file"] {
        daemon.docker.run(&format!("{container} {words}"));
    }
    let file = volume.join("file");
    let of = |id: u32| user.subordinate.start + id - 1;
    let owners = || fs::metadata(&file).map(|found| (found.uid(), found.gid())).expect("a file");
    assert_eq!(owners(), (of(999), of(998)));

    for with_daemon in [true, false] {
        if !with_daemon {
            assert_eq!(daemon.stop().code(), Some(0));
        }
        let map = tell(&user, &["ids"]).good().stdout;
        let line = format!("  {:<14} {}-{}\n", "1-65536", of(1), of(65_536));
        assert_eq!(map.matches(&line).count(), 2, "{map}");

        let told = tell(&user, &["ids", "volume/file", "999"]).good().stdout;
        let expected = [
            format!(
                "volume/file: uid {}, gid {} on this host, uid 999, gid 998 in containers",
                of(999),
                of(998)
            ),
            format!("999 in containers is uid {0}, gid {0} on this host", of(999)),
            "999 on this host is uid nobody, gid nobody in containers\n".to_owned(),
        ];
        assert_eq!(told, expected.join("\n"));
        let json = tell(&user, &["ids", "--format=json", "volume/file"]).good().json();
        assert_eq!(json["ids"][0]["container"]["uid"], 999, "{json}");
        assert_eq!(json["ids"][0]["host"]["gid"], of(998), "{json}");

        tell(&user, &["unshare", "--", "chown", "5:6", "volume/file"]).good();
        assert_eq!(owners(), (of(5), of(6)));
        tell(&user, &["unshare", "chown", "999:998", "volume/file"]).good();
    }

    let closed = volume.join("closed");
    DirBuilder::new().mode(0o700).create(&closed).expect("a directory");
    fs::write(closed.join("data"), "x").expect("a file");
    chown(&closed, Some(of(999)), Some(of(999))).expect("root");
    let plain = Told::by(user.command("rm").arg("-r").arg(&closed));
    assert_eq!(plain.code, Some(1), "{plain:?}");
    tell(&user, &["unshare", "--", "rm", "-r", "volume/closed", "volume/file"]).good();
    assert_eq!(fs::read_dir(&volume).expect("the volume").count(), 0);
    assert_nothing_left(&user);
}

#[test]
fn unshare_ends_as_its_command_and_a_file_that_is_missing_hides_no_other() {
    let user = TestUser::new();
    let cases: [(&[&str], i32, &str); 4] = [
        (&["sh", "-c", "exit 7"], 7, ""),
        (&["/nowhere"], 127, "`/nowhere` cannot be executed"),
        (&["/etc/passwd"], 126, "`/etc/passwd` cannot be executed"),
        (&["sh", "-c", "id -u >&2"], 0, "0\n"),
    ];
    for (words, code, said) in cases {
        let told = tell(&user, &[&["unshare", "--"], words].concat());
        assert_eq!((told.code, &*told.stdout), (Some(code), ""), "{words:?}: {told:?}");
        let is_told =
            if said.is_empty() { told.stderr.is_empty() } else { told.stderr.contains(said) };
        assert!(is_told, "{words:?}: {told:?}");
    }
    let program = Launcher::Run.install(&user);
    let line = format!("echo word | {} unshare -- cat", program.display());
    assert_eq!(Told::by(user.brief_command("sh").args(["-c", &line])).good().stdout, "word\n");

    let told = tell(&user, &["ids", "missing", "/etc/passwd"]);
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(told.stderr.contains("`missing` cannot be read"), "{told:?}");
    let line = "/etc/passwd: uid 0, gid 0 on this host, uid nobody, gid nobody in containers\n";
    assert_eq!(told.stdout, line);
    assert_nothing_left(&user);
}
