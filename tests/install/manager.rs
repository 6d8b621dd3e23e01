//! The user manager: found under su and sudo, missed where there is none, and never guessed.

use std::process::Command;

use super::{Home, Told};
use test_support::room::OWN_RUN;
use test_support::*;

/// The host looks as if systemd had booted it.
const BOOTED: &str = "mkdir -p /run/systemd/system\n";

#[test]
fn it_is_found_with_an_empty_environment_and_under_su() {
    let user = TestUser::new();
    let manager = UserManager::start(&user);
    let home = Home::new(&user);
    let mut bare = home.command("install --format json");
    bare.env_clear();
    let told = Told::by(&mut bare).good();
    assert_eq!(told.json()["changed"], true, "{told:?}");
    assert_eq!(manager.property("docker.service", "ActiveState"), "active");
    assert_eq!(home.context(), "rootless");

    // root's variables, as `su` without a dash leaves them.
    let mut su = Command::new("su");
    su.args([&user.name, "-c", &format!("{} install --format json", home.program.display())])
        .env("XDG_RUNTIME_DIR", "/run/user/0")
        .env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/run/user/0/bus");
    let told = Told::by(&mut su).good();
    assert!(told.stderr.contains("XDG_RUNTIME_DIR `/run/user/0` is not yours"), "{told:?}");
    let mut su = Command::new("su");
    su.args([&user.name, "-c", &format!("{} uninstall", home.program.display())])
        .env("XDG_RUNTIME_DIR", "/run/user/0");
    Told::by(&mut su).good();
    assert!(!home.unit("docker.service").exists());
    manager.stop();
    assert_nothing_left(&user);
}

#[test]
fn its_directories_count_and_not_those_of_a_shell() {
    let user = TestUser::new();
    let manager = UserManager::start(&user);
    let home = Home::new(&user);
    let mut odd = home.command("install --no-start --no-context");
    // As after `sudo -E`, and in a shell whose variables the manager does not have.
    odd.env("HOME", "/root")
        .env("XDG_CONFIG_HOME", user.home.join("elsewhere"))
        .env("DOCKERD_ROOTLESS_ROOTLESSKIT_NET", "bogus");
    let told = Told::by(&mut odd).good();
    assert!(told.stderr.contains("HOME `/root` is not yours"), "{told:?}");
    let unseen = "DOCKERD_ROOTLESS_ROOTLESSKIT_NET is set in this shell only";
    assert!(told.stderr.contains(unseen), "{told:?}");
    assert_eq!(manager.property("docker.service", "UnitFileState"), "enabled");
    home.tell("uninstall").good();
    manager.stop();
    assert_nothing_left(&user);
}

#[test]
fn without_iptables_the_daemon_is_told_to_do_without() {
    let user = TestUser::new();
    let manager = UserManager::start(&user);
    let home = Home::new(&user);
    let room = Room::new(
        &user,
        "for program in nft legacy; do mount --bind /dev/null /usr/sbin/xtables-$program-multi; done",
    );
    let tell = |words: &str| home.tell_in(&room, words);
    let told = tell("install");
    assert_eq!(told.code, Some(4), "{told:?}");
    assert!(told.stderr.contains("check `netfilter`"), "{told:?}");
    tell("install --skip-iptables").good();
    let line = format!("ExecStart=\"{}\" \"--iptables=false\"", home.program.display());
    assert!(home.read_unit("docker.service").contains(&line));
    assert!(Docker(&user).answers());
    home.tell("uninstall").good();
    manager.stop();
    assert_nothing_left(&user);
}

#[test]
fn where_systemd_has_booted_and_none_runs_roots_command_is_named() {
    let user = TestUser::new();
    let home = Home::new(&user);
    let room = Room::new(&user, &format!("{OWN_RUN}{BOOTED}"));
    let tell = |words: &str| home.tell_in(&room, words);
    for words in ["install", "install --dry-run", "install --enable-linger"] {
        let told = tell(words);
        assert_eq!(told.code, Some(4), "{told:?}");
        let hint = format!("loginctl enable-linger {}", user.name);
        assert!(told.stderr.contains("hint: s") && told.stderr.contains(&hint), "{told:?}");
        assert!(!home.unit("docker.service").exists());
    }
    assert_eq!(tell("upgrade").code, Some(1));
    tell("uninstall").good();
}

#[test]
fn without_systemd_the_line_that_starts_the_daemon_is_printed_and_starts_it() {
    let user = TestUser::new();
    let home = Home::new(&user);
    let told = home.tell("install").good();
    assert!(told.stderr.contains("This host has no systemd"), "{told:?}");
    assert_eq!(home.context(), "rootless");
    let (_, line) = told.stderr.split_once("To start it: ").expect("a line");
    let line = line.lines().next().expect("a line");
    let mut shell = user.command("sh");
    let mut daemon = shell.args(["-c", &format!("exec env {line}")]).spawn().expect("start");
    let docker = Docker(&user);
    wait::until("the daemon answers", || docker.answers().then_some(()));
    home.docker("info").good();
    // One that nobody has started by a unit is not ended either.
    let told = home.tell("uninstall").good();
    assert!(told.stderr.contains(&format!("To stop it: kill {}", daemon.id())), "{told:?}");
    let refused = home.tell("uninstall --purge-data --yes");
    assert_eq!(refused.code, Some(5), "{refused:?}");
    assert!(docker.answers());
    command::run(Command::new("kill").arg(daemon.id().to_string()));
    assert!(daemon.wait().expect("wait").success());
    assert_nothing_left(&user);
}

#[test]
fn a_host_that_is_not_ready_is_refused_and_uninstalled_all_the_same() {
    let user = TestUser::new();
    let manager = UserManager::start(&user);
    let home = Home::new(&user);
    home.tell("install").good();
    // newuidmap is gone.
    let room = Room::new(&user, "mount --bind /dev/null /usr/bin/newuidmap");
    let tell = |words: &str| home.tell_in(&room, words);
    let told = tell("install");
    assert_eq!(told.code, Some(4), "{told:?}");
    assert!(told.stderr.contains("hint: dockerd-rootless check --print-fix"), "{told:?}");
    let told = tell("install --force").good();
    assert!(told.stderr.contains("! newuidmap: "), "{told:?}");
    let told = tell("uninstall --purge-data --yes");
    assert_eq!(told.code, Some(4), "{told:?}");
    assert!(told.stderr.contains("hint: dockerd-rootless check\n"), "{told:?}");
    assert_eq!(manager.property("docker.service", "ActiveState"), "active", "nothing has changed");
    tell("uninstall").good();
    assert!(!home.unit("docker.service").exists());
    assert_eq!(home.context(), "default");
    manager.stop();
    assert_nothing_left(&user);
}

#[test]
fn a_service_that_does_not_start_ends_in_its_own_code_and_is_not_enabled() {
    let user = TestUser::new();
    let manager = UserManager::start(&user);
    let home = Home::new(&user);
    user.write(&user.home.join(".config/docker/daemon.json"), "{,}");
    let told = home.tell("install --force");
    assert_eq!(told.code, Some(78), "{told:?}\n{}", manager.log());
    assert!(told.stderr.contains("could not start docker.service"), "{told:?}");
    assert_eq!(manager.property("docker.service", "UnitFileState"), "disabled");
    assert_eq!(manager.property("docker.service", "NRestarts"), "0");
    assert_eq!(home.context(), "default");
    user.write(&user.home.join(".config/docker/daemon.json"), "{}");
    home.tell("install").good();
    assert_eq!(manager.property("docker.service", "UnitFileState"), "enabled");
    home.tell("uninstall").good();
    manager.stop();
    assert_nothing_left(&user);
}
