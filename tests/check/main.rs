//! `check` on a real host: nothing fails on the host as it is. Then one thing after another is broken for real, found
//! under its name, fixed by the commands that are printed, run as they are printed and twice, and found in order.

use std::os::unix::net::UnixListener;

use std::process::Command;

use test_support::command::run;
use test_support::scene::{Report, Scene, Stage};
use test_support::*;

#[test]
fn nothing_fails_on_the_host_as_it_is() {
    let user = TestUser::new();
    let output = check(&user, &["--format", "json"]);
    assert_eq!(output.failed(), [""; 0]);
    assert_eq!(output.exit, 0);
    assert_eq!(output.json["counts"]["fail"], 0);
}

#[test]
fn what_has_drawbacks_on_the_host_as_it_is_is_mended_too() {
    let user = TestUser::new();
    let scene = Scene::new(&user).on(Stage::Network);
    // Not what needs another boot or a login, or is the whole host's.
    let words = ["--skip", "cgroup,systemd-user,linger,dbus,limits"];
    let story =
        scene.assert_mended("docker-context", "warn", "talks to the system-wide daemon", &words);
    story.before.assert("ping", "warn", "cannot ping");
    story.assert_content(&["docker-context", "ping"]);
}

#[test]
fn a_user_without_subordinate_ids_gets_some() {
    let user = TestUser::new();
    Scene::new(&user).fault("sed -i \"/^$USER:/d\" /etc/subuid").assert_mended_alone(
        "subuid",
        "fail",
        "has no line for",
    );
}

#[test]
fn a_thousand_ids_become_enough() {
    let user = TestUser::new();
    Scene::new(&user)
        .fault("sed -i \"s/^\\($USER:.*\\):65536$/\\1:1000/\" /etc/subuid")
        .assert_mended_alone("subuid", "fail", "1000 subordinate user IDs instead of 65536");
}

#[test]
fn ranges_that_overlap_are_seen() {
    let user = TestUser::new();
    let start = user.subordinate.start + 1000;
    // rootlesskit drops exact repetitions from 1.1.1 on.
    let twice = match run(Command::new("rootlesskit").arg("--version")).contains(" 1.1.0") {
        true => "fail",
        false => "warn",
    };
    for (fault, status) in [
        ("grep \"^$USER:\" /etc/subuid >/mnt/line; cat /mnt/line >>/etc/subuid".to_owned(), twice),
        (format!("echo \"$USER:{start}:65536\" >>/etc/subuid"), "fail"),
        (format!("echo 'daemon:{start}:65536' >>/etc/subuid"), "warn"),
    ] {
        let story = Scene::new(&user).fault(fault).play("apart", &["--only", "subuid"]);
        story.before.assert("subuid", status, "overlap");
    }
}

#[test]
fn newuidmap_gets_its_power_back() {
    let user = TestUser::new();
    Scene::new(&user).fault("overlay /usr/bin; chmod 0755 /usr/bin/newuidmap").assert_mended_alone(
        "newuidmap",
        "fail",
        "has no power to map IDs",
    );
}

#[test]
fn a_session_without_new_privileges_is_seen() {
    let user = TestUser::new();
    let story =
        Scene::new(&user).privileges("--no-new-privs").play("apart", &["--only", "newuidmap"]);
    story.before.assert("newuidmap", "fail", "no_new_privs is set");
}

#[test]
fn a_quota_of_no_user_namespaces_is_raised() {
    let user = TestUser::new();
    let story = Scene::new(&user)
        .on(Stage::Users)
        .fault("echo 0 >/proc/sys/user/max_user_namespaces")
        .assert_mended_alone("user-namespaces", "fail", "no user namespace can be created");
    story.before.assert("user-namespace-quota", "fail", "`user.max_user_namespaces` is 0");
    story.assert_content(&["user-namespace-quota", "rootlesskit"]);
}

#[test]
fn a_tun_device_that_is_roots_alone_is_opened() {
    let user = TestUser::new();
    Scene::new(&user)
        .fault("mount -t tmpfs tmpfs /dev/net; mknod -m 0600 /dev/net/tun c 10 200")
        .assert_mended_alone("tun-device", "fail", "Permission denied");
}

#[test]
fn a_runtime_directory_for_everybody_is_closed() {
    let user = TestUser::new();
    Scene::new(&user).fault("chmod 1777 \"$XDG_RUNTIME_DIR\"").assert_mended_alone(
        "runtime-dir",
        "fail",
        "1777",
    );
}

#[test]
fn a_socket_path_of_108_bytes_is_shortened() {
    let user = TestUser::new();
    let longest = check(&user, &["--format", "json", "--only", "socket-path"]);
    let summary = longest.finding("socket-path")["summary"].as_str().expect("a summary").to_owned();
    let longest: usize = summary.split(' ').find_map(|word| word.parse().ok()).expect(&summary);
    let beyond = longest - user.runtime_dir.as_os_str().len();
    let of_length = |length: usize| {
        let name = "x".repeat(length - beyond - user.home.as_os_str().len() - 1);
        let dir = user.home.join(name);
        user.make_dir(&dir);
        run(user.command("chmod").arg("0700").arg(&dir));
        format!("export XDG_RUNTIME_DIR={}", dir.display())
    };
    // containerd, whose path is the longest, takes no more.
    let fits = Scene::new(&user).profile(of_length(104)).play("apart", &["--only", "socket-path"]);
    fits.before.assert("socket-path", "ok", "104 bytes");
    Scene::new(&user).profile(of_length(108)).assert_mended_alone(
        "socket-path",
        "fail",
        "108 bytes",
    );
}

#[test]
fn a_rootful_docker_that_the_user_can_write_is_taken_out_of_reach() {
    let user = TestUser::new();
    let socket = user.home.join("rootful.sock");
    let _daemon = UnixListener::bind(&socket).expect("listen");
    Scene::new(&user)
        .fault(
            "mkdir /mnt/run; mount -t tmpfs -o mode=0755 tmpfs /mnt/run; mkdir -p \"/mnt$XDG_RUNTIME_DIR\"
             mount --bind \"$XDG_RUNTIME_DIR\" \"/mnt$XDG_RUNTIME_DIR\"; touch /mnt/run/docker.sock
             mount --bind \"$HOME/rootful.sock\" /mnt/run/docker.sock; mount -n --move /mnt/run /run
             chown root:root /run/docker.sock; chmod 0666 /run/docker.sock",
        )
        .assert_mended_alone("rootful-docker", "warn", "(`/var/run/docker.sock` is writable)");
}

#[test]
fn a_running_containerd_rootless_is_seen() {
    let user = TestUser::new();
    // As containerd-rootless.sh starts it, with a program that tells when it is there.
    let fault = "mkfifo \"$dir/up\"; chmod 0666 \"$dir/up\"
        as_user 'rootlesskit --state-dir=\"$XDG_RUNTIME_DIR/containerd-rootless\" sh -c \"echo >$dir/up; exec sleep 600\" &'
        timeout 30 cat \"$dir/up\"";
    let words = ["--only", "containerd-rootless"];
    let story = Scene::new(&user).fault(fault).play("apart", &words);
    story.before.assert("containerd-rootless", "fail", "is running (PID");
}

#[test]
fn a_comma_too_many_in_daemon_json_is_named_by_line_and_column() {
    let user = TestUser::new();
    let file = user.home.join(".config/docker/daemon.json");
    user.write(&file, "{\n  \"debug\": true,\n  \"log-level\": \"info\",\n}\n");
    let report = check(&user, &["--format", "json", "--only", "daemon-config"]);
    report.assert("daemon-config", "fail", "trailing comma at line 4 column 1");
    user.write(&file, "{\n  \"debug\": true,\n  \"log-level\": \"info\"\n}\n");
    let report = check(&user, &["--format", "json", "--only", "daemon-config"]);
    report.assert("daemon-config", "ok", "is valid");
}

#[test]
fn a_full_disk_is_called_a_full_disk() {
    let user = TestUser::new();
    let data_root = user.home.join(".local/share/docker");
    user.make_dir(&data_root);
    let fault = "mount -t tmpfs -o size=64k,uid=$(id -u $USER) tmpfs \"$HOME/.local/share/docker\"";
    let story = Scene::new(&user).fault(fault).play("apart", &["--only", "overlay"]);
    story.before.assert("overlay", "fail", "the disk of the data root is full");
    assert_eq!(story.file("fix.root") + &story.file("fix.user"), "");
}

#[test]
fn iptables_is_installed() {
    let user = TestUser::new();
    Scene::new(&user)
        .fault(
            "overlay /usr; overlay /var; dpkg --force-depends --remove iptables
             [ -n \"$(find /var/lib/apt/lists -name '*_Packages*')\" ] || apt-get -qq update",
        )
        .assert_mended_alone("netfilter", "fail", "no `iptables` in PATH");
}

#[test]
fn a_data_root_without_overlays_is_left() {
    let user = TestUser::new();
    let data_root = user.home.join(".local/share/docker");
    user.make_dir(&data_root);
    // The other data root lies below /var/lib, which is in the user's home for this time.
    user.make_dir(&user.home.join("lib"));
    let scene = Scene::new(&user).fault(
        "mkdir -p /mnt/lower /mnt/upper /mnt/work; chown \"$USER\" /mnt/upper
         mount -t overlay -o lowerdir=/mnt/lower,upperdir=/mnt/upper,workdir=/mnt/work overlay \"$HOME/.local/share/docker\"
         mount --bind \"$HOME/lib\" /var/lib",
    );
    let story =
        scene.assert_mended_alone("overlay", "fail", "(overlay): dockerd would silently copy");
    story.after.assert("overlay", "ok", "/var/lib/dockerd-rootless");
}

#[test]
fn a_user_bus_is_started() {
    let user = TestUser::new();
    let manager = UserManager::start(&user);
    manager.systemctl(&["start", "default.target"]);
    manager.systemctl(&["stop", "dbus.socket", "dbus.service"]);
    let scene = Scene::new(&user).on(Stage::Manager(&manager));
    let story = scene.play("apart", &["--only", "dbus"]);
    let status = story.before.finding("dbus")["status"].as_str().expect("a status").to_owned();
    story.before.assert("dbus", &status, "there is no user bus");
    assert!(["warn", "fail"].contains(&&*status), "{status}");
    story.assert_idle_twice();
    story.assert_content(&["dbus"]);
    manager.stop();
}

#[test]
fn a_resolv_conf_out_of_etc_is_seen_without_the_sandbox() {
    let user = TestUser::new();
    Scene::new(&user)
        .profile("export DOCKERD_ROOTLESS_ROOTLESSKIT_DETACH_NETNS=false")
        .fault("cp -L /etc/resolv.conf /mnt/; ln -sf /mnt/resolv.conf /etc/resolv.conf")
        .assert_mended_alone(
            "resolv-conf",
            "fail",
            "cannot see `/mnt/resolv.conf` from its sandbox",
        );
}

#[test]
fn both_scripts_in_one_are_pasted_by_a_user_with_sudo_and_by_one_without() {
    for (profile, begins) in [
        ("PATH=$HOME/stub:$PATH", "sudo sh -eux <<'ROOT'\n"),
        ("PATH=/usr/bin:/bin", "su root -c 'PATH="),
    ] {
        let user = TestUser::new();
        let sudo = user.home.join("stub/sudo");
        user.write(&sudo, "#!/bin/sh\nexec \"$@\"\n");
        run(user.command("chmod").arg("0755").arg(&sudo));
        let scene = Scene::new(&user).profile(profile).fault(
            "sed -i \"/^$USER:/d\" /etc/subuid
             mount -t tmpfs tmpfs /dev/net; mknod -m 0600 /dev/net/tun c 10 200
             chmod 1777 \"$XDG_RUNTIME_DIR\"",
        );
        let faults = ["subuid", "tun-device", "runtime-dir"];
        let story = scene.play("together", &["--only", &faults.join(",")]);
        for name in faults {
            story.before.assert(name, "fail", "");
        }
        let script = story.file("fix.both");
        assert!(script.starts_with(begins), "{script}");
        assert!(script.contains("<<'ROOT'\n"), "{script}");
        story.assert_content(&faults);
    }
}

/// A check on the host itself.
fn check(user: &TestUser, words: &[&str]) -> Report {
    let output = user
        .brief_command(Launcher::Run.install(user))
        .arg("check")
        .args(words)
        .output()
        .expect("check");
    Report {
        exit: output.status.code().expect("an exit code"),
        json: serde_json::from_slice(&output.stdout).expect("an object"),
    }
}
