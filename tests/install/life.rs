//! A whole life: installed, used, hit, upgraded, removed.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use super::{Home, Told, tree};
use test_support::docker::{IMAGE, PAGE};
use test_support::*;

/// Waits until another process than `old` is the unit's, and answers.
fn wait_other(manager: &UserManager, docker: &Docker, old: &str) {
    wait::until("the unit is back", || {
        let pid = manager.property("docker.service", "MainPID");
        (pid != old && pid != "0" && docker.answers()).then_some(())
    });
}

/// Our program with `words` at a terminal, where somebody types `answer`.
fn at_terminal(home: &Home<'_>, words: &str, answer: &str) -> Told {
    let line = format!("{} {words}", home.program.display());
    let mut script = home.user.brief_command("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    let mut process = script
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("script(1)");
    let mut keys = process.stdin.take().expect("a pipe");
    keys.write_all(answer.as_bytes()).expect("type");
    Told::from(process.wait_with_output().expect("ended"))
}

#[test]
fn from_nothing_to_a_container_through_the_context_and_back_to_nothing() {
    let user = TestUser::new();
    let manager = UserManager::start(&user);
    let home = Home::new(&user);
    let config = user.home.join(".config/systemd");
    let before = tree(&config);

    let notes = user.home.join(".local/share/dockerd-rootless");
    let told = home.tell("install --format json").good();
    let socket = user.runtime_dir.join("docker.sock").display().to_string();
    assert_eq!(
        told.actions(),
        [
            format!("write {}", home.unit("docker.service").display()),
            format!("write {}", home.unit("docker.socket").display()),
            "run systemctl --user daemon-reload".to_owned(),
            "start docker.service".to_owned(),
            "run systemctl --user enable docker.service".to_owned(),
            format!("run docker context create rootless --docker host=unix://{socket}"),
            format!("write {}", notes.join("previous-context").display()),
            "run docker context use rootless".to_owned(),
        ]
    );
    assert_eq!(manager.property("docker.service", "ActiveState"), "active");
    assert_eq!(manager.property("docker.service", "UnitFileState"), "enabled");
    assert_eq!(manager.property("docker.service", "NeedDaemonReload"), "no");
    let mode = fs::metadata(home.unit("docker.service")).expect("a unit").permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
    let docker = Docker(&user);
    docker.import_image();
    let page = home.docker(&format!("run --rm {IMAGE} cat /www/index.html")).good();
    assert_eq!(page.stdout.trim_end(), PAGE);

    let again = home.tell("install --format json").good();
    assert_eq!(again.json()["changed"], false, "{again:?}");
    let text = home.tell("install").good();
    assert!(text.stdout.starts_with("Already up to date. Rootless Docker "), "{text:?}");
    assert_eq!(home.tell("upgrade --format json").good().json()["changed"], false);

    let first = manager.property("docker.service", "MainPID");
    manager.systemctl(&["restart", "docker"]);
    wait_other(&manager, &docker, &first);
    // The supervisor is killed: the manager starts it again.
    let second = manager.property("docker.service", "MainPID");
    manager.systemctl(&["kill", "--kill-who=main", "--signal=KILL", "docker"]);
    wait_other(&manager, &docker, &second);
    manager.systemctl(&["reload", "docker"]);
    assert_eq!(home.docker("info --format {{.OperatingSystem}}").good().code, Some(0));

    let told = home.tell("uninstall --format json").good();
    assert_eq!(
        told.actions(),
        [
            format!("remove {}", home.unit("docker.socket").display()),
            "run systemctl --user stop docker.service".to_owned(),
            format!("remove {}", home.unit("default.target.wants/docker.service").display()),
            format!("remove {}", home.unit("docker.service").display()),
            "run systemctl --user daemon-reload".to_owned(),
            "run docker context use default".to_owned(),
            "run docker context rm -f rootless".to_owned(),
            format!("remove {}", notes.join("previous-context").display()),
        ]
    );
    let data = user.home.join(".local/share/docker");
    assert!(data.join("image").exists(), "the data stay");
    assert!(told.json()["notes"][0].as_str().expect("a note").contains("--purge-data"), "{told:?}");
    assert_eq!(home.context(), "default");
    assert_eq!(manager.property("docker.service", "LoadState"), "not-found");
    assert_eq!(tree(&config), before);
    assert!(!notes.exists());
    let again = home.tell("uninstall --format json").good();
    assert_eq!(again.json()["changed"], false, "{again:?}");

    let refused = home.tell("uninstall --purge-data");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.stderr.contains("hint: dockerd-rootless uninstall --purge-data --yes"),
        "{refused:?}"
    );
    assert!(data.join("image").exists());
    let dry = home.tell("uninstall --purge-data --dry-run").good();
    assert!(dry.stdout.contains("would delete ~/.local/share/docker\n"), "{dry:?}");
    assert!(dry.stderr.contains("M\t/") && dry.stderr.contains("\ttotal\n"), "{dry:?}");
    assert!(data.join("image").exists());
    let told = at_terminal(&home, "uninstall --purge-data", "no\n");
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(
        told.stdout.contains("\ttotal") && told.stdout.contains("nothing is changed"),
        "{told:?}"
    );
    assert!(data.join("image").exists());
    at_terminal(&home, "uninstall --purge-data", "yes\n").good();
    assert!(!data.exists());
    assert!(!user.home.join(".cache/dockerd-rootless").exists());
    manager.stop();
    assert_nothing_left(&user);
}

#[test]
fn data_go_while_the_unit_runs_and_other_files_beside_them_stay() {
    let user = TestUser::new();
    let manager = UserManager::start(&user);
    let home = Home::new(&user);
    home.tell("install").good();
    Docker(&user).import_image();
    let data = user.home.join(".local/share/docker");
    let thesis = data.join("thesis.tex");
    user.write(&thesis, "years of work");
    let told = home.tell("uninstall --purge-data --yes").good();
    assert!(told.stderr.contains("Other files in "), "{told:?}");
    assert_eq!(fs::read_to_string(&thesis).expect("read"), "years of work");
    let left: Vec<_> = fs::read_dir(&data).expect("read").flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");

    // What is no data root is not touched, whoever calls it one.
    let notes = user.home.join("notes");
    user.write(&notes.join("image"), "a picture");
    home.tell(&format!("config set daemon.args --data-root={}", notes.display()));
    let refused = home.tell("uninstall --purge-data --yes");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("does not look like one"), "{refused:?}");
    assert!(notes.join("image").exists());
    manager.stop();
    assert_nothing_left(&user);
}

#[test]
fn on_demand_nothing_runs_until_somebody_connects() {
    let user = TestUser::new();
    let manager = UserManager::start(&user);
    let home = Home::new(&user);
    home.tell("config set supervise.idle-timeout 2").good();
    let told = home.tell("install --on-demand --format json").good();
    assert!(
        told.actions().contains(&"run systemctl --user enable docker.socket".to_owned()),
        "{told:?}"
    );
    assert!(!told.actions().iter().any(|action| action.contains("config set")), "{told:?}");
    let state = |unit: &str| manager.property(unit, "ActiveState");
    assert_eq!(manager.property("docker.socket", "UnitFileState"), "enabled");
    assert_eq!(manager.property("docker.service", "UnitFileState"), "disabled");
    wait::until("the idle daemon ends", || (state("docker.service") == "inactive").then_some(()));
    assert_eq!(state("docker.socket"), "active");
    let again = home.tell("install --format json").good();
    assert_eq!(again.json()["changed"], false, "{again:?}");
    assert_eq!(
        state("docker.service"),
        "inactive",
        "an installation that changes nothing starts nothing"
    );
    home.docker("info").good();
    assert_eq!(state("docker.service"), "active");

    home.tell("install --no-on-demand").good();
    assert_eq!(manager.property("docker.socket", "UnitFileState"), "disabled");
    assert_eq!(state("docker.socket"), "inactive");
    assert_eq!(state("docker.service"), "active");
    home.docker("info").good();
    home.tell("uninstall").good();
    manager.stop();
    assert_nothing_left(&user);
}

#[test]
fn people_may_restart_as_often_as_they_like_and_a_reload_restarts_nothing() {
    let user = TestUser::new();
    let manager = UserManager::start(&user);
    let home = Home::new(&user);
    home.tell("install").good();
    for _ in 0..20 {
        manager.systemctl(&["restart", "docker"]);
    }
    home.docker("info").good();
    let pid = manager.property("docker.service", "MainPID");
    manager.systemctl(&["reload", "docker"]);
    wait::until("dockerd reads its configuration", || {
        manager.log().contains("Reloaded configuration").then_some(())
    });
    assert_eq!(manager.property("docker.service", "MainPID"), pid);
    assert_eq!(manager.property("docker.service", "ActiveState"), "active");
    home.tell("uninstall").good();
    manager.stop();
    assert_nothing_left(&user);
}

#[test]
fn a_daemon_on_demand_that_cannot_start_is_not_started_for_ever() {
    let user = TestUser::new();
    let manager = UserManager::start(&user);
    let home = Home::new(&user);
    home.tell("install --on-demand --no-start").good();
    home.tell("config set daemon.binary /nowhere/dockerd").good();
    manager.systemctl(&["start", "docker.socket"]);
    // Nobody accepts it, and it starts the service again and again.
    let client = UnixStream::connect(Docker(&user).socket()).expect("a connection");
    wait::until("the socket gives up", || {
        (manager.property("docker.socket", "ActiveState") == "failed").then_some(())
    });
    let result = manager.property("docker.socket", "Result");
    assert_eq!(result, "trigger-limit-hit");
    drop(client);
    home.tell("uninstall").good();
    manager.stop();
    assert_nothing_left(&user);
}

#[test]
fn without_a_start_nothing_runs_and_a_dry_run_changes_nothing() {
    let user = TestUser::new();
    let manager = UserManager::start(&user);
    let home = Home::new(&user);
    let before = tree(&user.home);
    let dry = home.tell("install --dry-run").good();
    assert!(dry.stdout.lines().all(|line| line.starts_with("would ")), "{dry:?}");
    assert!(dry.stdout.contains("would start docker.service\n"), "{dry:?}");
    let told = home.tell("install --dry-run --format json --on-demand").good();
    assert_eq!(told.json()["dry_run"], true);
    let caches = |entry: &(std::path::PathBuf, Vec<u8>)| {
        !entry.0.starts_with(user.home.join(".cache")) && !entry.0.ends_with("systemd.log")
    };
    let same = |tree: Vec<_>| tree.into_iter().filter(caches).collect::<Vec<_>>();
    assert_eq!(same(tree(&user.home)), same(before));

    home.tell("install --no-start --no-context").good();
    assert_eq!(manager.property("docker.service", "ActiveState"), "inactive");
    assert_eq!(manager.property("docker.service", "UnitFileState"), "enabled");
    assert_eq!(home.context(), "default");
    manager.systemctl(&["start", "docker"]);
    assert!(Docker(&user).answers());
    let dry = home.tell("uninstall --dry-run").good();
    assert!(dry.stdout.contains("would run systemctl --user stop docker.service\n"), "{dry:?}");
    home.tell("uninstall").good();
    manager.stop();
    assert_nothing_left(&user);
}

#[test]
fn a_command_runs_in_the_daemons_namespaces() {
    let user = TestUser::new();
    let home = Home::new(&user);
    let refused = home.tell("nsenter -- true");
    assert_eq!(refused.code, Some(3), "{refused:?}");
    let mut daemon = Launch::new(&user, Launcher::Run).ready();
    assert_eq!(home.tell("nsenter id -u").good().stdout, "0\n");
    assert_eq!(home.tell("nsenter -- sh -c exit\\ 7").code, Some(127));
    let told = super::Told::by(
        home.command("nsenter -- sh -c").arg("pwd; ls /sys/class/net; exit 7").current_dir("/tmp"),
    );
    assert_eq!(told.code, Some(7), "{told:?}");
    assert!(told.stdout.starts_with("/tmp\n") && told.stdout.contains("tap0"), "{told:?}");
    let told = super::Told::by(home.command("nsenter").env("SHELL", "/bin/false"));
    assert_eq!(told.code, Some(1), "{told:?}");
    daemon.stop();
    assert_nothing_left(&user);
}

#[test]
fn data_of_a_daemon_that_cannot_be_asked_are_not_deleted() {
    let user = TestUser::new();
    let home = Home::new(&user);
    let data = user.home.join(".local/share/docker");
    let elsewhere = user.runtime_dir.join("elsewhere");
    user.make_dir(&elsewhere);
    fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o700)).expect("closed");
    let launches = [
        // Nothing of ours stays with it, and it listens elsewhere.
        Launch::new(&user, Launcher::RunExec)
            .args([format!("--host=unix://{}", elsewhere.join("d.sock").display())]),
        Launch::new(&user, Launcher::Run).env("XDG_RUNTIME_DIR", &elsewhere),
    ];
    for launch in launches {
        let mut daemon = launch.start();
        wait::until("the daemon uses its data", || {
            daemon.log().contains("API listen on").then_some(())
        });
        let refused = home.tell("uninstall --purge-data --yes");
        assert_eq!(refused.code, Some(5), "{refused:?}");
        assert!(refused.stderr.contains("uses them"), "{refused:?}");
        assert!(data.join("image").exists());
        daemon.stop();
    }
    home.tell("uninstall --purge-data --yes").good();
    assert!(!data.exists());
    fs::remove_dir_all(&elsewhere).expect("removed");
    assert_nothing_left(&user);
}
