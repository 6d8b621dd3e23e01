//! The launcher as a unit of a real `systemd --user`: socket activation, readiness, and the unit that upstream's
//! setuptool has written on many hosts.

use test_support::docker::PAGE;
use test_support::*;

const SOCKET: &str = "[Socket]\nListenStream=%t/docker.sock\nSocketMode=0600\nRemoveOnStop=yes\n";

#[test]
fn the_first_request_on_the_socket_starts_the_daemon_and_is_answered() {
    for arguments in ["-H fd://", ""] {
        let user = TestUser::new();
        let manager = UserManager::start(&user);
        let docker = Docker(&user);
        let launcher = Launcher::Script.install(&user);
        manager.write_unit("docker.socket", SOCKET);
        manager.write_unit(
            "docker.service",
            &format!(
                "[Unit]\nRequires=docker.socket\n\
                 [Service]\nExecStart={} {arguments}\nType=notify\nNotifyAccess=all\nKillMode=mixed\n\
                 Environment=PATH={}\n",
                launcher.display(),
                user::PATH
            ),
        );
        manager.systemctl(&["start", "docker.socket"]);
        assert_eq!(manager.property("docker.service", "ActiveState"), "inactive");

        let answer = http::get_unix(&docker.socket(), "/_ping")
            .unwrap_or_else(|e| panic!("`{arguments}`: {e}"));
        assert_eq!(answer.status, 200, "`{arguments}`");
        // Comes back when dockerd has said READY=1.
        manager.systemctl(&["start", "docker.service"]);
        assert_eq!(manager.property("docker.service", "ActiveState"), "active");
        assert_ne!(manager.property("docker.service", "MainPID"), "0");
        docker.import_image();
        assert_eq!(docker.container("cat /www/index.html"), PAGE);

        manager.systemctl(&["stop", "docker.service", "docker.socket"]);
        assert_eq!(manager.property("docker.service", "Result"), "success");
        manager.stop();
        assert_nothing_left(&user);
    }
}

#[test]
fn an_old_unit_of_upstreams_setuptool_runs_our_launcher_unchanged() {
    let user = TestUser::new();
    let manager = UserManager::start(&user);
    let docker = Docker(&user);
    let launcher = Launcher::Script.install(&user);
    // The directives of setuptool's docker.service as of 20.10 to 27.
    manager.write_unit(
        "docker.service",
        &format!(
            "[Unit]\nDescription=Docker Application Container Engine (Rootless)\n\
             [Service]\nEnvironment=PATH={}\nExecStart={}\nExecReload=/bin/kill -s HUP $MAINPID\n\
             TimeoutSec=0\nRestartSec=2\nRestart=always\nStartLimitBurst=3\nStartLimitInterval=60s\n\
             LimitNOFILE=infinity\nLimitNPROC=infinity\nLimitCORE=infinity\nTasksMax=infinity\nDelegate=yes\n\
             Type=simple\nKillMode=mixed\n\
             [Install]\nWantedBy=default.target\n",
            user::PATH,
            launcher.display()
        ),
    );
    manager.systemctl(&["start", "docker.service"]);
    assert_answers(&manager, &docker);
    docker.import_image();
    assert_eq!(docker.container("cat /www/index.html"), PAGE);

    let first = manager.property("docker.service", "MainPID");
    manager.systemctl(&["restart", "docker.service"]);
    assert_answers(&manager, &docker);
    assert_ne!(manager.property("docker.service", "MainPID"), first);
    assert_eq!(docker.container("echo again"), "again");

    manager.systemctl(&["stop", "docker.service"]);
    assert_eq!(manager.property("docker.service", "Result"), "success");
    assert_eq!(manager.property("docker.service", "NRestarts"), "0");
    manager.stop();
    assert_nothing_left(&user);
}

fn assert_answers(manager: &UserManager, docker: &Docker) {
    wait::until("the daemon answers", || docker.answers().then_some(()));
    assert_eq!(manager.property("docker.service", "ActiveState"), "active");
}
