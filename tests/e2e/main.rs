//! The launcher with the real rootlesskit, newuidmap, slirp4netns and dockerd, as an unprivileged user.
//!
//! `E2E_LAUNCHER=upstream` runs the same tests against upstream's script.

mod addresses;
mod ids;
mod rootful;
mod source_ip;
mod status;
mod tcp;
mod terminal;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use test_support::command::run;
use test_support::daemon::child_pid;
use test_support::docker::{IMAGE, PAGE};
use test_support::process::Background;
use test_support::*;

/// Exec mode under our own name: what a test starts that is not about the name.
fn exec(user: &TestUser) -> Launch<'_> {
    Launch::new(user, Launcher::RunExec)
}

// --- A day in its life ---

#[test]
fn a_published_port_answers_and_images_outlive_a_restart_and_a_stop_leaves_nothing() {
    for launcher in [Launcher::Run, Launcher::Script] {
        let user = TestUser::new();
        let mut daemon = Launch::new(&user, launcher).ready();
        daemon.docker.import_image();
        daemon.docker.assert_publishes(user.port(0), "");
        assert_eq!(daemon.stop().code(), Some(0), "{launcher:?}");
        assert_nothing_left(&user);

        let mut daemon = Launch::new(&user, launcher).ready();
        assert_eq!(daemon.docker.container("cat /www/index.html"), PAGE);
        assert_eq!(daemon.stop().code(), Some(0), "{launcher:?}");
        assert_nothing_left(&user);
    }
}

#[test]
fn random_ports_of_several_users_do_not_collide() {
    let users = [(); 3].map(|()| TestUser::new());
    let mut daemons = users.each_ref().map(|user| Launch::new(user, Launcher::Run).start());
    for daemon in &mut daemons {
        daemon.wait_ready();
        daemon.docker.import_image();
        // dockerd tries ten ports at most, so two users who begin at the same one would meet.
        daemon.docker.serve("web", "-P --expose 80-91");
    }
    for daemon in &mut daemons {
        let published = daemon.docker.run("port web 80");
        let port = published.lines().find_map(|line| line.rsplit(':').next()?.parse().ok());
        Docker::assert_answers(port.unwrap_or_else(|| panic!("{published}")));
        assert_eq!(daemon.stop().code(), Some(0));
    }
    users.iter().for_each(assert_nothing_left);
}

#[test]
fn the_oracle_sees_what_a_running_daemon_has() {
    let user = TestUser::new();
    let daemon = exec(&user).ready();
    let seen = leftovers::leftovers(&user).join("\n");
    let state_dir = daemon.state_dir();
    for sign in
        ["process ", "mount ", "docker.pid", "docker.sock", &state_dir.display().to_string()]
    {
        assert!(seen.contains(sign), "no {sign} in:\n{seen}");
    }
}

#[test]
fn killing_the_launcher_takes_the_whole_tree_with_it() {
    let user = TestUser::new();
    let mut daemon = exec(&user).ready();
    daemon.kill();
    let processes = || process::list(user.uid, &user.subordinate);
    let gone = wait::poll(wait::PATIENCE, || processes().is_empty().then_some(()));
    assert!(gone.is_some(), "{:#?}", processes());

    // What the kill left in the runtime directory is not in the way of the next start. One file is dockerd's for ever.
    let mut daemon = exec(&user).ready();
    daemon.stop();
    fs::remove_dir_all(user.runtime_dir.join("docker/libnetwork"))
        .expect("remove the socket of the killed dockerd");
    assert_nothing_left(&user);
}

// --- Configuration ---

#[test]
fn the_users_daemon_json_is_obeyed_and_its_mtu_wins() {
    let user = TestUser::new();
    user.write(
        &user.home.join(".config/docker/daemon.json"),
        r#"{"mtu": 1400, "labels": ["a=b"], "debug": true}"#,
    );
    let daemon = exec(&user).ready();
    assert_eq!(daemon.docker.run("info --format {{.Labels}},{{.Debug}}"), "[a=b],true");
    daemon.docker.import_image();
    assert_eq!(container_mtu(&daemon), "1400");
}

#[test]
fn the_hosts_of_daemon_json_are_listened_on() {
    let user = TestUser::new();
    let socket = user.runtime_dir.join("other.sock");
    user.write(
        &user.home.join(".config/docker/daemon.json"),
        format!(r#"{{"hosts": ["unix://{}"]}}"#, socket.display()),
    );
    let mut daemon = exec(&user).start();
    daemon.wait_ready_at(&socket);
    daemon.stop();
    assert_nothing_left(&user);
}

#[test]
fn containers_have_the_mtu_of_the_tap_or_the_one_asked_for() {
    let user = TestUser::new();
    let mut daemon = exec(&user).ready();
    daemon.docker.import_image();
    assert_eq!(container_mtu(&daemon), "65520");
    daemon.stop();

    let mut daemon = exec(&user).env("DOCKERD_ROOTLESS_CONTAINER_MTU", "1500").ready();
    assert_eq!(container_mtu(&daemon), "1500");
    daemon.stop();

    let daemon = exec(&user).args(["--mtu=1300"]).ready();
    assert_eq!(container_mtu(&daemon), "1300");
}

fn container_mtu(daemon: &Daemon) -> String {
    daemon.docker.container("cat /sys/class/net/eth0/mtu")
}

#[test]
fn user_made_networks_have_that_mtu_too_where_dockerd_takes_a_default_for_them() {
    let user = TestUser::new();
    let takes_default =
        run(user.command("dockerd").arg("--help")).contains("--default-network-opt");
    let daemon = exec(&user).ready();
    daemon.docker.import_image();
    daemon.docker.run("network create plain");
    daemon.docker.run("network create --opt com.docker.network.driver.mtu=1400 own");
    let default = if takes_default { "65520" } else { "1500" };
    for (network, mtu) in [("plain", default), ("own", "1400")] {
        let container = format!("run --rm --network {network} {IMAGE}");
        assert_eq!(
            daemon.docker.run(&format!("{container} cat /sys/class/net/eth0/mtu")),
            mtu,
            "{network}, and dockerd takes a default: {takes_default}"
        );
    }
}

#[test]
fn words_for_dockerd_arrive_unchanged() {
    let words: [&[u8]; 9] = [
        b"--label=two words",
        b"/e*",
        b"",
        b"$(touch broken) `id` $HOME",
        b"line\nbreak\n",
        b"not utf-8: \xff\xfe",
        b"'\"\\",
        b"--",
        b" leading and trailing ",
    ];
    for launcher in [Launcher::Script, Launcher::RunExec] {
        let user = TestUser::new();
        let record = user.home.join("record");
        let [text, dockerd] = ["text", "dockerd"].map(|name| user.home.join(name));
        user.write(&text, "#!/bin/sh\ncat /proc/$$/cmdline >\"$RECORD\"\nexit 7\n");
        launcher::install(&text, &dockerd);
        let (code, log) = Launch::new(&user, launcher)
            .env("DOCKERD", &dockerd)
            .env("RECORD", &record)
            .args(words.map(OsStr::from_bytes))
            .refusal();
        assert_eq!(code, Some(7), "{launcher:?}: the daemon's own code\n{log}");
        let recorded = fs::read(&record).unwrap_or_else(|e| panic!("{launcher:?}: {e}\n{log}"));
        let recorded: Vec<&[u8]> =
            recorded.strip_suffix(b"\0").expect("words").split(|&byte| byte == 0).collect();
        assert!(recorded.ends_with(&words), "{launcher:?}: {recorded:?}\n{log}");
    }
}

#[test]
fn a_leaked_child_variable_changes_nothing() {
    let user = TestUser::new();
    let mut daemon =
        Launch::new(&user, Launcher::Script).env("_DOCKERD_ROOTLESS_CHILD", "1").ready();
    assert_eq!(daemon.stop().code(), Some(0));
    assert_nothing_left(&user);
}

// --- Odd hosts ---

#[test]
fn a_space_in_the_runtime_directory_does_no_harm() {
    let mut user = TestUser::new();
    user.runtime_dir = user.runtime_dir.join("run time");
    user.make_dir(&user.runtime_dir);
    let mut daemon =
        Launch::new(&user, Launcher::Script).env("XDG_RUNTIME_DIR", &user.runtime_dir).ready();
    daemon.docker.import_image();
    assert_eq!(daemon.docker.container("echo hello"), "hello");
    daemon.stop();
    assert_nothing_left(&user);
}

#[test]
fn a_host_without_ipv6_starts() {
    let user = TestUser::new();
    let mut daemon = exec(&user).prepare("mount -t tmpfs tmpfs /proc/sys/net/ipv6").ready();
    assert_eq!(daemon.inside("cat /proc/sys/net/ipv4/ip_forward"), "1");
    daemon.stop();
    assert_nothing_left(&user);
}

#[test]
fn certificates_behind_relative_links_can_be_opened_inside() {
    let user = TestUser::new();
    let daemon = exec(&user)
        .prepare(
            "mount -t tmpfs tmpfs /opt
             mkdir -p /opt/upper /opt/work /opt/ssl/certs /opt/certs
             mount -t overlay overlay -o lowerdir=/etc,upperdir=/opt/upper,workdir=/opt/work /etc
             rm -rf /etc/ssl
             ln -s ../opt/ssl /etc/ssl
             mkdir -p /etc/foo/deep
             ln -s ../../opt/certs /etc/foo/certs
             ln -s ../../../opt/certs /etc/foo/deep/certs
             echo tumbleweed >/opt/ssl/certs/ca.pem
             echo leap >/opt/certs/ca.pem
             mkdir -p /etc/cdi /etc/closed
             echo device >/etc/cdi/device.json
             chmod 0700 /etc/closed",
        )
        .ready();
    let expected = [
        ("/etc/ssl/certs/ca.pem", "tumbleweed"),
        ("/etc/foo/certs/ca.pem", "leap"),
        ("/etc/foo/deep/certs/ca.pem", "leap"),
        // A directory of CDI is there as well, and one that nobody may read stops nothing.
        ("/etc/cdi/device.json", "device"),
    ];
    for (file, content) in expected {
        assert_eq!(daemon.inside(&format!("cat {file}")), content, "{file}");
    }
    // dockerd before 29.2 finds no devices behind a link.
    daemon.inside("test ! -L /etc/cdi");
}

#[test]
fn a_path_without_sbin_is_enough() {
    let user = TestUser::new();
    let daemon = Launch::new(&user, Launcher::Script).env("PATH", "/usr/bin:/bin").ready();
    daemon.docker.import_image();
    daemon.docker.assert_publishes(user.port(0), "");
}

#[test]
fn a_read_only_home_is_fine_when_the_data_are_elsewhere() {
    let user = TestUser::new();
    let data = user.home.join("data");
    user.make_dir(&data);
    // dockerd 20.10 writes a key into its configuration directory.
    let mut daemon = exec(&user)
        .prepare(format!(
            "mount --bind {0} {0}; mount --bind {0}/data {0}/data; mount -o remount,bind,ro {0}",
            user.home.display()
        ))
        .env("XDG_CONFIG_HOME", data.join("config"))
        .args([OsStr::new("--data-root"), data.as_os_str()])
        .ready();
    daemon.stop();
    assert_nothing_left(&user);
}

// --- Inside the namespaces ---

#[test]
fn forwarding_is_on_before_dockerd_could_do_it() {
    let user = TestUser::new();
    let daemon = exec(&user).args(["--ip-forward=false"]).ready();
    assert_eq!(daemon.inside("cat /proc/sys/net/ipv4/ip_forward"), "1");
    assert_eq!(daemon.inside("cat /proc/sys/net/ipv6/conf/all/forwarding"), "1");
}

#[test]
fn the_hosts_own_engines_are_hidden_and_its_later_mounts_appear() {
    let user = TestUser::new();
    let [shared, stage] = ["shared", "stage"].map(|name| user.home.join(name));
    user.make_dir(&shared);
    user.make_dir(&stage);
    let mut daemon = exec(&user)
        .prepare(format!(
            "mount -t tmpfs tmpfs {0}
             mount --make-shared {0}
             mkdir {0}/later
             mount --bind /run/user {1}
             mount -t tmpfs tmpfs /run
             mkdir /run/docker /run/containerd /run/nri /run/cdi /run/user
             mount --move {1} /run/user
             touch /run/docker/host /run/containerd/host /run/nri/host /run/xtables.lock /run/visible",
            shared.display(),
            stage.display()
        ))
        .ready();
    for test in [
        "-e /run/visible",
        "! -e /run/docker/host",
        "! -e /run/containerd/host",
        "! -e /run/nri/host",
        "! -L /run/xtables.lock",
        "-d /run/cdi",
        "! -L /run/cdi",
    ] {
        daemon.inside(&format!("test {test}"));
    }

    let (pid, later) = (daemon.pid(), shared.join("later"));
    run(Command::new("nsenter")
        .args([&format!("--target={pid}"), "--mount", "mount", "-t", "tmpfs", "later"])
        .arg(&later));
    let mounts = daemon.inside("cat /proc/self/mountinfo");
    assert!(mounts.contains(&format!("{} ", later.display())), "{mounts}");
    daemon.stop();
    assert_nothing_left(&user);
}

#[test]
fn networks_work_with_the_iptables_that_we_choose_and_with_the_one_in_path() {
    for iptables in ["auto", "path"] {
        let user = TestUser::new();
        let mut daemon = exec(&user).env("DOCKERD_ROOTLESS_IPTABLES", iptables).ready();
        daemon.docker.import_image();
        daemon.docker.run("network create --ipv6 --subnet fd00:d0c::/64 net");
        daemon.docker.assert_publishes(user.port(0), "--network net");
        daemon.docker.serve("other", "--network net");
        for (from, to) in [("web", "other"), ("other", "web")] {
            let address = "{{.NetworkSettings.Networks.net.GlobalIPv6Address}}";
            let ipv6 = daemon.docker.run(&format!("inspect --format {address} {to}"));
            for host in [to, &format!("[{ipv6}]")] {
                let page = daemon.docker.run(&format!("exec {from} wget -q -O - http://{host}/"));
                assert_eq!(page, PAGE, "{iptables}: {from} asks {host}");
            }
        }
        daemon.stop();
        assert_nothing_left(&user);
    }
}

// --- One at a time ---

#[test]
fn a_second_launch_names_the_first_and_leaves_it_alone() {
    let user = TestUser::new();
    let mut daemon = exec(&user).ready();
    let child = child_pid(&daemon.state_dir());
    for launcher in [Launcher::RunExec, Launcher::Script] {
        let (code, message) = Launch::new(&user, launcher).refusal();
        assert_eq!(code, Some(5), "{launcher:?}: {message}");
        assert!(
            message.contains(&daemon.pid().to_string()),
            "{launcher:?}: no {} in: {message}",
            daemon.pid()
        );
    }
    assert!(daemon.docker.answers());
    assert_eq!(child_pid(&daemon.state_dir()), child);
    daemon.stop();
    assert_nothing_left(&user);
}

#[test]
fn of_launches_at_once_one_wins() {
    let user = TestUser::new();
    let launch = exec(&user);
    let mut daemons: Vec<Daemon> = (0..8).map(|_| launch.start()).collect();
    while daemons.len() > 1 {
        let (loser, status) = wait::until("all but one give up", || {
            daemons.iter_mut().enumerate().find_map(|(n, daemon)| Some((n, daemon.ended()?)))
        });
        let log = daemons.remove(loser).log();
        // Who comes while the first is between its own look and rootlesskit's lock is refused by
        // that lock: in exec mode nothing of ours stays that could hold one.
        let by_rootlesskit =
            status.code() == Some(1) && log.contains("another RootlessKit is running");
        assert!(status.code() == Some(5) || by_rootlesskit, "{status}: {log}");
    }
    daemons[0].wait_ready();
    daemons[0].stop();
    assert_nothing_left(&user);
}

#[test]
fn a_live_containerd_rootless_is_refused_and_its_stale_directory_is_not() {
    let user = TestUser::new();
    let state_dir = user.runtime_dir.join("containerd-rootless");
    let containerd = Background::start(
        user.command("rootlesskit").arg("--state-dir").arg(&state_dir).args(["sleep", "infinity"]),
    );
    child_pid(&state_dir);
    let (code, message) = exec(&user).refusal();
    assert_eq!(code, Some(5), "{message}");
    assert!(
        message.contains(&containerd.pid().to_string()),
        "no {} in: {message}",
        containerd.pid()
    );
    drop(containerd);

    assert!(state_dir.join("lock").exists(), "SIGKILL leaves the directory");
    exec(&user).ready();
}

#[test]
fn pid_files_that_name_another_process_are_stale() {
    let user = TestUser::new();
    let other = Background::start(user.command("sleep").arg("infinity"));
    for pid in [other.pid(), 1] {
        for file in ["docker.pid", "docker/containerd/containerd.pid"] {
            user.write(&user.runtime_dir.join(file), pid.to_string());
        }
        let mut daemon = exec(&user).ready();
        daemon.stop();
    }
    drop(other);
    assert_nothing_left(&user);
}

// --- Refusals ---

#[test]
fn a_state_directory_that_holds_anything_else_is_refused_and_untouched() {
    let user = TestUser::new();
    let precious = user.home.join("precious");
    let link = user.home.join("link");
    for file in ["thesis", "lock", "deep/photo"] {
        user.write(&precious.join(file), file);
    }
    symlink(&precious, &link).expect("make the link");
    // Names of rootlesskit's, contents of somebody's; and links in it that lead out.
    let lookalike = user.home.join("lookalike-of-precious");
    for file in ["lock", "hosts", "resolv.conf"] {
        user.write(&lookalike.join(file), file);
    }
    user.make_dir(&user.home.join("away/inner"));
    symlink(user.home.join("away/inner"), user.home.join("elsewhere")).expect("make the link");
    let contents = || [tree(&precious), tree(&lookalike)];
    let before = contents();

    let state_dir = "DOCKERD_ROOTLESS_ROOTLESSKIT_STATE_DIR";
    let flags = "DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS";
    let (dir, link, home) = (precious.display(), link.display(), user.home.display());
    let ways = [
        (state_dir, format!("{dir}")),
        (state_dir, format!("{dir}/")),
        (state_dir, format!("{link}")),
        (state_dir, format!("{link}/")),
        (state_dir, format!("{link}/.")),
        (state_dir, format!("{home}/nonexistent/../precious")),
        (state_dir, format!("{home}/elsewhere/../precious")),
        (state_dir, format!("{}", lookalike.display())),
        (flags, format!("--state-dir={dir}")),
        (flags, format!("--state-dir {dir}")),
        (flags, format!("-state-dir={dir}")),
        (flags, format!("--debug --state-dir '{link}/'")),
        (flags, format!("--newer-switch --state-dir={dir}")),
        (flags, format!("--state-dir={home}/nonexistent/../precious")),
    ];
    for (variable, value) in ways {
        let (code, message) = Launch::new(&user, Launcher::Script)
            .env("DOCKERD", "sleep")
            .args(["infinity"])
            .env(variable, &value)
            .refusal();
        assert_eq!(code, Some(78), "{variable}={value}: {message}");
        assert!(
            message.contains("state directory") || message.contains("`--state-dir`"),
            "{variable}={value}: {message}"
        );
        assert_eq!(contents(), before, "{variable}={value}: {message}");
    }
}

#[test]
fn a_state_directory_above_the_daemons_data_or_the_session_is_refused() {
    let user = TestUser::new();
    let (home, runtime) = (user.home.display(), user.runtime_dir.display());
    for value in [
        format!("{home}"),
        format!("{home}/.local"),
        format!("{home}/.local/share/docker"),
        format!("{runtime}"),
        format!("{runtime}/docker"),
        "/".to_owned(),
    ] {
        let refused = exec(&user).env("DOCKERD_ROOTLESS_ROOTLESSKIT_STATE_DIR", &value).refusal();
        assert_eq!(refused.0, Some(78), "{value}: {}", refused.1);
        assert!(refused.1.contains("is or holds"), "{value}: {}", refused.1);
    }
    let refused = exec(&user)
        .env("DOCKERD_ROOTLESS_ROOTLESSKIT_STATE_DIR", user.home.join("data"))
        .args(["--data-root".as_ref(), user.home.join("data/root").as_os_str()])
        .refusal();
    assert_eq!(refused.0, Some(78), "{}", refused.1);
}

/// Every file below `dir` with its content.
fn tree(dir: &Path) -> BTreeMap<String, String> {
    let files = run(Command::new("find").arg(dir).args(["-type", "f"]));
    files
        .lines()
        .map(|file| (file.to_owned(), fs::read_to_string(file).expect("read a file")))
        .collect()
}

#[test]
fn without_a_runtime_directory_in_the_environment_the_users_own_is_taken() {
    let user = TestUser::new();
    let launch = exec(&user).env_remove("XDG_RUNTIME_DIR");
    launch.ready().stop();
    assert_nothing_left(&user);

    fs::remove_dir_all(&user.runtime_dir).expect("remove the runtime directory");
    let (code, message) = launch.refusal();
    assert_eq!(code, Some(4), "{message}");
    assert!(message.contains("XDG_RUNTIME_DIR") && message.contains("hint: "), "{message}");
}

// --- What only a later host can ---

#[test]
fn pasta_works_where_rootlesskit_knows_it_and_is_refused_where_it_does_not() {
    let user = TestUser::new();
    let launch = exec(&user).env("DOCKERD_ROOTLESS_ROOTLESSKIT_NET", "pasta");
    if rootlesskit_knows(&user, "pasta") {
        let mut daemon = launch.ready();
        daemon.docker.import_image();
        // Not on 127.0.0.1: since 2024_10_30 pasta takes what comes to the host's loopback to the namespace's outer address
        // unless told otherwise (`--host-lo-to-ns-lo`), which rootlesskit 2.0.2 does not do.
        let port = user.port(0);
        daemon.docker.serve("web", &format!("-p {port}:80"));
        Docker::assert_answers(port);
        assert_eq!(container_mtu(&daemon), "65520");
        daemon.stop();
        assert_nothing_left(&user);
        return;
    }
    let (code, message) = launch.refusal();
    assert_eq!(code, Some(78), "{message}");
    assert!(message.contains("pasta") && message.contains("rootlesskit"), "{message}");
}

#[test]
fn the_network_namespace_is_detached_where_both_rootlesskit_and_dockerd_can_do_that() {
    let user = TestUser::new();
    let version = run(user.command("dockerd").arg("--version"));
    let mut numbers = version
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse::<u32>().ok());
    let version = (numbers.next().expect("major"), numbers.next().expect("minor"));
    let both_can = rootlesskit_knows(&user, "--detach-netns") && version >= (29, 5);
    let daemon = exec(&user).ready();
    assert_eq!(daemon.state_dir().join("netns").exists(), both_can, "dockerd {version:?}");
}

fn rootlesskit_knows(user: &TestUser, word: &str) -> bool {
    run(user.command("rootlesskit").arg("--help")).contains(word)
}

// --- Plugins ---

/// dockerd binds the namespace's `/etc/hosts`, which lies in the state directory, into plugins. As
/// a part of the runtime directory that is on a `nosuid,nodev` file system (moby#47248).
#[test]
fn a_plugin_can_be_enabled_with_the_state_directory_on_a_nosuid_file_system() {
    let user = TestUser::new();
    let nosuid = user.home.join("nosuid");
    user.make_dir(&nosuid);
    let plugin = user.home.join("plugin");
    user.make_dir(&plugin.join("rootfs/run/docker/plugins"));
    // `cargo test` builds it, as it builds all examples.
    launcher::install(&launcher::built("examples/plugin"), &plugin.join("rootfs/plugin"));
    user.write(
        &plugin.join("config.json"),
        r#"{"description": "", "documentation": "", "entrypoint": ["/plugin"], "network": {"type": "host"},
            "interface": {"types": ["docker.dummy/1.0"], "socket": "plugin.sock"},
            "linux": {}, "mounts": [], "env": [], "args": {"name": "", "description": "", "settable": null, "value": null}}"#,
    );
    let mut daemon = exec(&user)
        .prepare(format!(
            "mount -t tmpfs -o nosuid,nodev,mode=0700,uid={0},gid={0} tmpfs {1}",
            user.uid,
            nosuid.display()
        ))
        .env("DOCKERD_ROOTLESS_ROOTLESSKIT_STATE_DIR", nosuid.join("state"))
        .ready();
    daemon.docker.run(&format!("plugin create test {}", plugin.display()));
    daemon.docker.run("plugin enable test");
    assert_eq!(daemon.docker.run("plugin ls --format {{.Enabled}}"), "true");
    daemon.docker.run("plugin rm --force test");
    daemon.stop();
    assert_nothing_left(&user);
}
