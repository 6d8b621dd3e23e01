//! The whole way: from nothing by `curl … | sh` to a running container, on to another version, and back to nothing.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::release::Release;
use super::scene::{Ended, NEW, OLD, Scene, finish};
use super::script::Site;
use test_support::docker::{IMAGE, PAGE};
use test_support::*;

/// A version with which a daemon comes up, and nothing else works.
const LAME: &str = "77.3.0";

/// `curl … | sh` as the user types it.
fn pipe(site: &Site, tarballs: &str, version: &str) -> Ended {
    let line = format!(
        "curl -fsSL {}/v1/install.sh | sh -s -- --version {version} --mirror {tarballs}",
        site.mirror.url()
    );
    let mut shell = site.user.brief_command("sh");
    finish(shell.args(["-c", &line]))
}

/// What a login shell of the user's makes of `line`.
fn login(user: &TestUser, line: &str) -> Ended {
    finish(user.brief_command("sh").args(["-l", "-c", line]))
}

/// The file that the unit's dockerd runs from.
fn running(user: &TestUser) -> String {
    program_of(user, "dockerd")
}

/// The file that this part of the daemon runs from.
fn program_of(user: &TestUser, part: &str) -> String {
    let status = login(user, "dockerd-rootless status --format json");
    let pid = status.assert(0, "ready").json()[part].clone();
    let program = fs::read_link(format!("/proc/{pid}/exe")).expect("a program");
    program.display().to_string()
}

/// All that is below `home` but caches and what other programs than ours keep.
fn files(home: &Path) -> String {
    let mut find = Command::new("find");
    find.arg(home).args(["-path", "*/.cache", "-prune", "-o"]);
    find.args([
        "(",
        "-path",
        "*/.config/docker",
        "-o",
        "-path",
        "*/.docker",
        "-o",
        "-name",
        "systemd.log",
        ")",
    ]);
    find.args(["-prune", "-o", "-type", "f", "-exec", "cksum", "{}", "+"]);
    let listed = command::run(&mut find);
    let mut lines: Vec<&str> = listed.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

#[test]
fn from_nothing_by_curl_and_sh_to_a_container_to_another_version_and_back_to_nothing() {
    let Scene { user, mirror, program } = Scene::new();
    let packed = user.home.join("tool/packed");
    let mut release = Release::real(OLD, &packed);
    release.publish(&mirror);
    release.version = NEW.to_owned();
    release.publish(&mirror);
    Release::lame(LAME).publish(&mirror);
    fs::remove_dir_all(&packed).expect("remove");
    let site = Site::of(user, &program);
    let user = &site.user;
    let manager = UserManager::start(user);
    let before = files(&user.home);

    let ended = pipe(&site, &mirror.url(), OLD);
    ended.assert(0, " is ready. ");
    assert_eq!(manager.property("docker.service", "ActiveState"), "active");
    assert!(running(user).contains(&format!("/versions/{OLD}-")), "{}", running(user));
    let bin = user.home.join("bin");
    for program in ["docker", "dockerd", "dockerd-rootless-setuptool.sh"] {
        login(user, &format!("command -v {program}"))
            .assert(0, &format!("{}\n", bin.join(program).display()));
    }
    let docker = Docker(user);
    docker.import_image();
    fs::remove_file(user.home.join("image.tar")).expect("remove");
    let run = login(user, &format!("docker run --rm {IMAGE} cat /www/index.html"));
    run.assert(0, PAGE);

    // Again: nothing is to be done, and nothing restarts.
    let main = || manager.property("docker.service", "MainPID");
    let first = main();
    pipe(&site, &mirror.url(), OLD).assert(0, "Already up to date");
    assert_eq!(main(), first);

    // A newer dockerd comes under containers that run, and the rest when there are none.
    docker.run(&format!("run -d --name busy --stop-signal KILL {IMAGE} sleep infinity"));
    let begin = || docker.run("inspect --format {{.State.StartedAt}} busy");
    let began = begin();
    pipe(&site, &mirror.url(), NEW).assert(0, "Replaced dockerd; containers keep running");
    assert_eq!(main(), first);
    assert_eq!(begin(), began);
    docker.run("rm -f busy");
    login(user, "dockerd-rootless upgrade").assert(0, "Restarted docker.service");
    assert!(running(user).contains(&format!("/versions/{NEW}-")), "{}", running(user));
    let told = login(user, "dockerd-rootless fetch --rollback --verify");
    told.assert(0, OLD).assert(0, " passed, 0 failed, ").assert(0, "tested the daemon");
    login(user, "dockerd-rootless upgrade").assert(0, "Restarted docker.service");
    assert!(running(user).contains(&format!("/versions/{OLD}-")), "{}", running(user));

    // A version with which no container starts does not stay, and containers keep running.
    docker.run(&format!("run -d --name busy --stop-signal KILL {IMAGE} sleep infinity"));
    let began = begin();
    let fetch = format!("dockerd-rootless fetch --version {LAME} --mirror {}", mirror.url());
    let told = login(user, &format!("{fetch} --verify"));
    told.assert(1, &format!("with Docker {LAME}; Docker {OLD} is in use again"));
    for part in ["dockerd", "supervisor"] {
        let program = program_of(user, part);
        assert!(program.contains(&format!("/versions/{OLD}-")), "{part}: {program}");
    }
    assert_eq!(begin(), began);
    login(user, "docker exec busy cat /www/index.html").assert(0, PAGE);
    docker.run("rm -f busy");
    // What was in use before stays, whatever is wrong: here containers send what is too large.
    login(user, "dockerd-rootless config set network.container-mtu 65521").assert(0, "");
    login(user, "dockerd-rootless restart").assert(0, "dockerd was replaced");
    let told = login(user, &format!("{} --verify", fetch.replace(LAME, OLD)));
    told.assert(1, "FAIL  mtu").assert(1, "which was in use before");
    let told = login(user, &format!("{} --verify", fetch.replace(LAME, NEW)));
    told.assert(1, &format!("fails with Docker {NEW}, as it did before"));
    fs::remove_dir_all(user.home.join(".config/dockerd-rootless")).expect("remove");
    assert!(running(user).contains(&format!("/versions/{NEW}-")), "{}", running(user));

    login(user, "dockerd-rootless fetch --remove").assert(5, "uninstall --remove-binaries");
    login(user, "dockerd-rootless uninstall --purge-data --yes --remove-binaries")
        .assert(0, "Rootless Docker is uninstalled");
    assert!(!bin.join("docker").exists());
    assert!(!user.home.join(".local/share/dockerd-rootless").exists());
    assert!(!user.home.join(".local/share/docker").exists());
    assert_eq!(files(&user.home), before);
    manager.stop();
    assert_nothing_left(user);
}
