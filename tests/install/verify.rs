//! `--verify` of `install` and `upgrade`.

use super::Home;
use test_support::*;

#[test]
fn the_daemon_that_runs_afterwards_is_verified_and_its_faults_are_those_of_the_command() {
    let user = TestUser::new();
    let manager = UserManager::start(&user);
    launcher::install_stripped(&user);
    let home = Home::new(&user);

    let told = home.tell("install --no-start --verify").good();
    assert!(told.stderr.contains("nothing was verified"), "{told:?}");
    assert!(told.stderr.contains("once it does: dockerd-rootless verify"), "{told:?}");

    let told = home.tell("install --verify").good();
    assert!(told.stdout.contains("Rootless Docker is ready."), "{told:?}");
    assert!(told.stdout.contains(" passed, 0 failed, "), "{told:?}");

    // Containers send what is too large for the way outside.
    home.tell("config set network.container-mtu 65521").good();
    home.tell("restart").good();
    let told = home.tell("upgrade --verify");
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(told.stdout.contains("FAIL  mtu "), "{told:?}");

    home.tell("uninstall").good();
    manager.stop();
}
