//! `dockerd-rootless-setuptool.sh`: upstream's words, output and exit codes.

use super::{Home, Told};
use test_support::launcher::SETUP_TOOL;
use test_support::*;

fn tool(home: &Home<'_>, words: &str) -> Told {
    let mut command = home.user.brief_command(home.program.with_file_name(SETUP_TOOL));
    Told::by(command.args(words.split_whitespace()))
}

/// The lines of upstream's among what was said.
fn lines(told: &Told) -> Vec<&str> {
    let ours = told
        .stdout
        .lines()
        .filter(|line| line.starts_with("[INFO]") || line.starts_with("export "));
    ours.collect()
}

#[test]
fn it_installs_and_uninstalls_in_upstreams_words() {
    let user = TestUser::new();
    let manager = UserManager::start(&user);
    let home = Home::new(&user);
    let told = tool(&home, "install").good();
    let unit = home.unit("docker.service");
    let note = user.home.join(".local/share/dockerd-rootless/previous-context");
    let host = format!("unix://{}/docker.sock", user.runtime_dir.display());
    let expected = [
        format!("[INFO] Wrote {}", unit.display()),
        format!("[INFO] Wrote {}", home.unit("docker.socket").display()),
        "[INFO] Ran systemctl --user daemon-reload".to_owned(),
        "[INFO] Started docker.service".to_owned(),
        "[INFO] Ran systemctl --user enable docker.service".to_owned(),
        format!("[INFO] Ran docker context create rootless --docker host={host}"),
        format!("[INFO] Wrote {}", note.display()),
        "[INFO] Ran docker context use rootless".to_owned(),
        "[INFO] Installed docker.service successfully.".to_owned(),
        "[INFO] To control docker.service, run: `systemctl --user (start|stop|restart) docker.service`".to_owned(),
        "[INFO] Make sure the following environment variable(s) are set (or add them to ~/.bashrc):".to_owned(),
        format!("export PATH={}:$PATH", user.home.join("bin").display()),
        "[INFO] Some applications may require the following environment variable too:".to_owned(),
        format!("export DOCKER_HOST={host}"),
    ];
    // It says how to become root here.
    let (linger, others): (Vec<_>, Vec<_>) =
        lines(&told).into_iter().partition(|line| line.contains("on system startup, run: `su"));
    assert_eq!(others, expected);
    assert!(linger[0].contains(&format!("loginctl enable-linger {}", user.name)), "{linger:?}");
    // The unit starts the program under the name by which it supervises.
    assert!(
        home.read_unit("docker.service")
            .contains(&format!("ExecStart=\"{}\"", home.program.display()))
    );
    assert_eq!(manager.property("docker.service", "ActiveState"), "active");
    let again = tool(&home, "--force install").good();
    assert!(!again.stdout.contains("Wrote"), "{again:?}");
    assert_eq!(tool(&home, "nsenter -- id -u").good().stdout, "0\n");

    let told = tool(&home, "uninstall").good();
    assert!(lines(&told).contains(&"[INFO] Ran docker context rm -f rootless"), "{told:?}");
    assert!(lines(&told).contains(&"[INFO] Uninstalled docker.service"), "{told:?}");
    assert!(told.stdout.contains("does NOT remove Docker binaries and data"), "{told:?}");
    assert_eq!(tool(&home, "nsenter true").code, Some(1));
    manager.stop();
    assert_nothing_left(&user);
}

#[test]
fn without_systemd_it_says_how_to_start() {
    let user = TestUser::new();
    let home = Home::new(&user);
    let told = tool(&home, "install").good();
    assert!(told.stderr.contains("[WARNING] This host has no systemd"), "{told:?}");
    assert!(told.stderr.contains("To start it: PATH="), "{told:?}");
    assert_eq!(home.context(), "rootless");
    let told = tool(&home, "uninstall").good();
    assert!(told.stdout.contains("[INFO] Uninstalled docker.service"), "{told:?}");
    assert_eq!(home.context(), "default");
    assert_eq!(tool(&home, "frobnicate").code, Some(1));
}
