//! A launch that fails names the check that explains it.

use std::fs::File;
use std::process::Command;

use test_support::leftovers::assert_unchanged;
use test_support::room::OWN_PLACES;
use test_support::*;

/// The names behind `check: dockerd-rootless check --only` in what a launch said.
fn named(told: &Told) -> Vec<&str> {
    let line =
        |line: &'_ str| line.strip_prefix("check: dockerd-rootless check --only ").map(str::len);
    let lines = told.stderr.lines();
    lines.filter_map(|text| Some(&text[text.len() - line(text)?..])).collect()
}

#[test]
fn a_launch_that_is_refused_names_the_check_that_fails() {
    let user = TestUser::new();
    let binary = Launcher::Run.install(&user);
    let few = user.home.join("few");
    user.make_dir(&few);
    for program in
        ["/usr/bin/rootlesskit", "/usr/bin/newuidmap", "/usr/bin/newgidmap", "/usr/bin/getsubids"]
    {
        command::run(user.command("ln").args(["-s", program]).arg(&few));
    }
    let deep = user.home.join("d".repeat(90));
    user.make_dir(&deep);
    command::run(user.command("chmod").arg("700").arg(&deep));
    let open = user.home.join("open");
    user.make_dir(&open);
    command::run(user.command("chmod").arg("777").arg(&open));
    let link = user.home.join("link");
    command::run(user.command("ln").arg("-s").arg(&user.runtime_dir).arg(&link));
    let lock = user.home.join("containerd/lock");
    user.write(&lock, "");
    let held = File::open(&lock).expect("open the lock");
    held.lock().expect("hold the lock");
    let folder = few.display();
    let cases = [
        ("home", 4, "-u HOME".to_owned()),
        ("home", 4, "HOME=/nowhere".to_owned()),
        ("runtime-dir", 4, "XDG_RUNTIME_DIR=/tmp".to_owned()),
        ("runtime-dir", 4, format!("XDG_RUNTIME_DIR={}", open.display())),
        ("runtime-dir", 4, format!("XDG_RUNTIME_DIR={}", link.display())),
        ("runtime-dir", 4, "XDG_RUNTIME_DIR=/run".to_owned()),
        ("runtime-dir", 4, "XDG_RUNTIME_DIR=/nowhere".to_owned()),
        ("runtime-dir", 4, "XDG_RUNTIME_DIR=relative".to_owned()),
        ("socket-path", 78, format!("XDG_RUNTIME_DIR={}", deep.display())),
        ("rootlesskit", 4, "PATH=/nowhere".to_owned()),
        ("dockerd", 127, "DOCKERD=/nowhere/dockerd".to_owned()),
        ("dockerd", 126, "DOCKERD=/etc/passwd".to_owned()),
        ("network-driver", 4, format!("PATH={folder}")),
        ("network-driver", 4, "DOCKERD_ROOTLESS_ROOTLESSKIT_NET=vpnkit".to_owned()),
        ("network-driver", 78, "DOCKERD_ROOTLESS_ROOTLESSKIT_NET=host".to_owned()),
        (
            "port-driver",
            78,
            "DOCKERD_ROOTLESS_ROOTLESSKIT_PORT_DRIVER=implicit DOCKERD_ROOTLESS_ROOTLESSKIT_NET=slirp4netns".to_owned(),
        ),
        ("state-dir", 78, format!("DOCKERD_ROOTLESS_ROOTLESSKIT_STATE_DIR={}", user.home.display())),
        (
            "containerd-rootless",
            5,
            format!("CONTAINERD_ROOTLESS_ROOTLESSKIT_STATE_DIR={}", user.home.join("containerd").display()),
        ),
    ];
    let mut wrong = Vec::new();
    for (name, code, variables) in cases {
        let before = Snapshot::usual(&user);
        let with = |words: &[&str]| {
            let mut command = user.command("env");
            command.args(variables.split(' ')).arg(&binary).args(words);
            Told::by(&mut command)
        };
        for words in [&["run"][..], &["run", "--exec"]] {
            let launch = with(words);
            if named(&launch) != [name] {
                wrong.push(format!("{variables}: {name} is not named by {words:?}: {launch:?}"));
            }
            if !(launch.stderr.starts_with("error: ") || launch.stderr.contains("\nerror: "))
                || !launch.stderr.contains("\nhint: ")
                || launch.code != Some(code)
            {
                wrong.push(format!("{variables}: expected {code}: {launch:?}"));
            }
        }
        let check = with(&["check", "--only", name]);
        if check.code != Some(4) {
            wrong.push(format!("{variables}: {name} finds nothing: {check:?}"));
        }
        let _ = std::fs::remove_dir_all(user.home.join(".cache/dockerd-rootless"));
        let _ = std::fs::remove_dir(user.home.join(".cache"));
        assert_unchanged(&before, &variables, || Snapshot::usual(&user));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What dockerd leaves when it fails early, and the answers of programs, which every launch keeps.
fn remove_what_is_dockerds(user: &TestUser) {
    let in_home = [".local", ".cache", ".config/docker/key.json"].map(|name| user.home.join(name));
    let in_runtime = ["docker", "runc", "docker.sock"].map(|name| user.runtime_dir.join(name));
    command::run(Command::new("rm").arg("-rf").args(in_home).args(in_runtime));
}

#[test]
fn a_daemon_that_fails_is_explained_by_the_check_that_fails() {
    let cases = [
        ("subuid", "sed -i /^USER:/d /etc/subuid", ""),
        ("newuidmap", "chmod u-s /usr/bin/newuidmap", ""),
        ("tun-device", "mknod -m 600 /mnt/tun c 10 200; mount --bind /mnt/tun /dev/net/tun", ""),
        ("netfilter", "rm -f /usr/sbin/*tables* /usr/sbin/nft /usr/sbin/*-nft*", ""),
        ("daemon-config", "", "{\"debug\": true,}"),
    ];
    for (name, prepare, config) in cases {
        let user = TestUser::new();
        let binary = Launcher::Run.install(&user);
        let room =
            Room::new(&user, &format!("{OWN_PLACES}{}", prepare.replace("USER", &user.name)));
        user.make_dir(&user.home.join(".config/docker"));
        if !config.is_empty() {
            user.write(&user.home.join(".config/docker/daemon.json"), config);
        }
        let launch = |words: &[&str]| {
            let mut command = room.command("timeout");
            command.args(["--kill-after=1", "60"]).arg(&binary).args(words);
            let told = Told::by(&mut command);
            remove_what_is_dockerds(&user);
            told
        };
        let before = Snapshot::usual(&user);
        let exec = launch(&["run", "--exec"]);
        let told = launch(&["run"]);
        assert_eq!(exec.code, Some(1), "{name}: {exec:?}");
        let code = if name == "daemon-config" { 78 } else { 4 };
        assert_eq!(told.code, Some(code), "{name}: {told:?}");
        assert!(told.stderr.contains(&format!("cause: check `{name}`: ")), "{name}: {told:?}");
        let end = told.stderr.lines().last().expect("a line");
        assert_eq!(end, "hint: dockerd-rootless check --print-fix", "{name}: {told:?}");
        assert!(
            told.stderr.contains("error: rootless Docker ended with exit code"),
            "{name}: {told:?}"
        );
        assert_unchanged(&before, name, || Snapshot::usual(&user));
    }
}

#[test]
fn a_daemon_that_fails_for_reasons_of_its_own_is_not_explained_wrongly() {
    let user = TestUser::new();
    let mut command = user.brief_command(Launcher::Run.install(&user));
    let told = Told::by(command.args(["--", "--log-level=nonsense"]));
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(told.stderr.contains("hint: no check explains this"), "{told:?}");
    assert!(!told.stderr.contains("cause: check"), "{told:?}");
}

#[test]
fn the_hint_of_a_launch_that_fails_checks_the_same_launch() {
    let user = TestUser::new();
    let binary = Launcher::Run.install(&user);
    let mut command = user.brief_command(&binary);
    let told =
        Told::by(command.args(["run", "--set", "network.mtu=1400", "--data-root", "/root/x"]));
    let end = told.stderr.lines().last().expect("a line");
    let expected =
        "hint: dockerd-rootless check --print-fix --set network.mtu=1400 -- --data-root /root/x";
    assert_eq!(end, expected, "{told:?}");
    assert!(
        told.stderr.contains("cause: check `overlay`: the data root `/root/x` cannot be written"),
        "{told:?}"
    );
    remove_what_is_dockerds(&user);
    let words = end.split(' ').skip(3).filter(|word| *word != "--print-fix");
    let check = Told::by(user.command(&binary).arg("check").args(words));
    assert_eq!(check.code, Some(4), "{check:?}");
    assert!(check.stdout.contains("choose a data root of your own"), "{check:?}");
}
