//! `status`: what users of the daemon feel.

use std::collections::BTreeSet;
use std::process::Output;

use serde_json::Value;
use test_support::docker::IMAGE;
use test_support::*;

/// The exit code of our program with `words`, and what it printed.
fn tell(user: &TestUser, words: &str) -> (Option<i32>, String) {
    let mut command = user.brief_command(Launcher::Run.install(user));
    let Output { status, stdout, stderr } =
        command.args(words.split_whitespace()).output().expect("started");
    assert!(stderr.is_empty(), "{words}: {}", String::from_utf8_lossy(&stderr));
    (status.code(), String::from_utf8_lossy(&stdout).into_owned())
}

fn keys(text: &str) -> BTreeSet<String> {
    let value: Value = serde_json::from_str(text).expect("JSON");
    value.as_object().expect("an object").keys().cloned().collect()
}

#[test]
fn status_tells_what_users_feel_and_how_to_use_the_daemon() {
    let user = TestUser::new();
    let (code, text) = tell(&user, "status");
    let nothing = "○ not running            start: dockerd-rootless          as a service: dockerd-rootless install\n";
    assert_eq!((code, &*text), (Some(3), nothing));
    let (_, nothing) = tell(&user, "status --format json");

    let mut daemon = Launch::new(&user, Launcher::Run).ready();
    daemon.docker.import_image();
    let port = user.port(0);
    daemon.docker.run(&format!(
        "run --detach --name web --stop-timeout=1 --publish {port}:80 {IMAGE} sleep 600"
    ));
    let (code, text) = tell(&user, "status");
    let socket = daemon.docker.socket();
    for part in [
        "● ready for ",
        &format!(
            "\n  address     unix://{}\n  client      `docker` uses context `default`, not this\n",
            socket.display()
        ),
        "\n  network     slirp4netns, ports: builtin; MTU 65520, containers 65520\n",
        "\n  images      overlay2 (dockerd image store)\n",
        &format!("\n  data        {}/.local/share/docker; file system: ", user.home.display()),
        "\n  containers  1 running; ",
        &format!("\n  ports       {port}->80/tcp (web)\n"),
        "\n  limits      ",
        "\n  restarted   0 times\n",
    ] {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
    assert!(code == Some(0) && !text.contains("PID") && !text.contains("note"), "{text}");
    let (_, text) = tell(&user, "status -v");
    assert!(text.contains("\n  supervisor  PID "), "{text}");
    let (_, ready) = tell(&user, "status --format json");
    assert_eq!(keys(&ready), keys(&nothing), "each key is always there");

    let mut command = user.brief_command(Launcher::Run.install(&user));
    let output =
        command.args(["config", "set", "daemon.args", "--", "-D"]).output().expect("started");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "To apply it: dockerd-rootless restart\n");
    let (_, text) = tell(&user, "status");
    assert!(
        text.contains("config.toml` changed after the start: dockerd-rootless restart"),
        "{text}"
    );
    assert_eq!(tell(&user, "restart").0, Some(0));
    let (_, text) = tell(&user, "status --wait=30");
    let (_, text) = if text.contains("ready") { tell(&user, "status") } else { panic!("{text}") };
    assert!(!text.contains("note"), "{text}");
    daemon.stop();
    assert_nothing_left(&user);
}

#[test]
fn status_finds_a_daemon_without_a_supervisor() {
    for launcher in [Launcher::RunExec, Launcher::Script] {
        let user = TestUser::new();
        let mut daemon = Launch::new(&user, launcher).ready();
        let (code, text) = tell(&user, "status");
        let first = format!("● running (PID {}), not supervised", daemon.pid());
        assert!(code == Some(0) && text.starts_with(&first), "{code:?} {text}");
        assert!(text.contains("\n  network     slirp4netns, ports: builtin; MTU 65520"), "{text}");
        assert_eq!(tell(&user, "nsenter -- id -u"), (Some(0), "0\n".to_owned()));
        daemon.stop();
        assert_eq!(tell(&user, "status").0, Some(3));
    }
}
