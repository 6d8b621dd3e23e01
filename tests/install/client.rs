//! The docker client's context.

use std::fs;
use std::os::unix::fs::symlink;

use super::Home;
use test_support::*;

fn host(user: &TestUser) -> String {
    format!("unix://{}/docker.sock", user.runtime_dir.display())
}

#[test]
fn a_context_for_another_daemon_is_kept_and_the_previous_one_comes_back() {
    let user = TestUser::new();
    let manager = UserManager::start(&user);
    let home = Home::new(&user);
    home.docker("context create lab --docker host=tcp://127.0.0.1:1").good();
    home.docker("context create rootless --docker host=tcp://127.0.0.1:2").good();
    home.docker("context use lab").good();
    let told = home.tell("install --format json").good();
    let kept = "`rootless` is for tcp://127.0.0.1:2, and is kept";
    assert!(told.stdout.contains(&format!("{kept}; this daemon's is `rootless-2`")), "{told:?}");
    home.docker("info").good();
    assert_eq!(home.context(), "rootless-2");
    let address = |context: &str| {
        let line = format!("context inspect {context} --format {{{{.Endpoints.docker.Host}}}}");
        home.docker(&line).good().stdout.trim().to_owned()
    };
    assert_eq!(address("rootless-2"), host(&user));
    home.tell("uninstall").good();
    assert_eq!(home.context(), "lab");
    let told = home.tell("uninstall").good();
    assert!(told.stderr.contains(kept), "{told:?}");
    assert_eq!(address("rootless"), "tcp://127.0.0.1:2");
    assert!(home.docker("context inspect rootless-2").code != Some(0));
    manager.stop();
    assert_nothing_left(&user);
}

#[test]
fn variables_that_name_another_daemon_are_not_asked_for_the_context() {
    let user = TestUser::new();
    let manager = UserManager::start(&user);
    let home = Home::new(&user);
    let told = super::Told::by(
        home.command("install")
            .env("DOCKER_HOST", "tcp://127.0.0.1:1")
            .env("DOCKER_CONTEXT", "missing"),
    )
    .good();
    assert!(told.stderr.contains("DOCKER_HOST"), "{told:?}");
    assert_eq!(home.context(), "rootless");
    home.tell("uninstall").good();
    manager.stop();
    assert_nothing_left(&user);
}

#[test]
fn a_client_elsewhere_in_path_is_used_and_none_is_no_failure() {
    let user = TestUser::new();
    let manager = UserManager::start(&user);
    let home = Home::new(&user);
    let elsewhere = user.home.join("client");
    user.make_dir(&elsewhere);
    symlink("/usr/bin/docker", elsewhere.join("docker")).expect("link");
    // All of the host's programs but the client.
    let tools = user.home.join("tools");
    user.make_dir(&tools);
    let programs =
        ["/usr/sbin", "/usr/bin"].map(|directory| fs::read_dir(directory).expect("read"));
    for entry in programs.into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name != "docker" && !tools.join(&name).exists() {
            symlink(entry.path(), tools.join(name)).expect("link");
        }
    }
    let path = tools.display().to_string();
    let told = home.with_path("install", &path).good();
    assert!(told.stderr.contains("there is no docker client in PATH"), "{told:?}");
    assert!(told.stderr.contains(&format!("export DOCKER_HOST={}", host(&user))), "{told:?}");
    assert_eq!(home.context(), "default");
    home.with_path("install", &format!("{path}:{}", elsewhere.display())).good();
    assert_eq!(home.context(), "rootless");
    home.tell("uninstall").good();
    manager.stop();
    assert_nothing_left(&user);
}

#[test]
fn settings_of_the_client_that_are_not_understood_are_left_alone() {
    let user = TestUser::new();
    let manager = UserManager::start(&user);
    let home = Home::new(&user);
    let config = user.home.join(".docker/config.json");
    user.write(&config, "{ not json");
    let told = home.tell("install").good();
    assert!(told.stderr.contains("config.json is not valid"), "{told:?}");
    assert_eq!(fs::read_to_string(&config).expect("read"), "{ not json");
    home.tell("uninstall").good();
    manager.stop();
    assert_nothing_left(&user);
}
