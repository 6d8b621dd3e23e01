//! The program as PID 1 of a container, as an image like `docker:dind-rootless` has it: no user manager, no variables, a
//! user land of BusyBox. A system-wide daemon of the suite's own runs the container, without `--privileged`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::time::Duration;

use test_support::process::Background;
use test_support::*;

/// The least that rootless Docker needs in a container whose newuidmap has a file capability.
const LEAST: &str = "--security-opt seccomp=unconfined --security-opt apparmor=unconfined \
     --security-opt systempaths=unconfined --device /dev/net/tun";

const IMAGE: &str = "dind";

/// The runtime directory that nothing makes in the image.
const RUNTIME_DIR: &str = "/run/user/1000";

/// A system-wide dockerd apart from the host's, with the image.
struct Outer {
    dockerd: Option<Background>,
    name: String,
    directory: PathBuf,
}

impl Outer {
    fn start() -> Self {
        user::become_root();
        let name = format!("drl-container-{}", process::id());
        // Not a tmpfs: it holds the layers of an overlay.
        let directory = Path::new("/var/tmp").join(&name);
        fs::create_dir(&directory).expect("a directory");
        let dockerd =
            Background::start(Command::new(script("outer.sh")).arg(&directory).arg(&name));
        let outer = Self { dockerd: Some(dockerd), name, directory };
        let program = launcher::built("dockerd-rootless");
        let archive = fs::File::create(outer.directory.join("root.tar")).expect("a file");
        let mut make = Command::new(script("root.sh"));
        let made = make.arg(outer.directory.join("root")).arg(program).stdout(archive).status();
        assert!(made.is_ok_and(|status| status.success()), "root.sh");
        wait::until("the system-wide daemon answers", || {
            http::ping(&outer.directory.join("docker.sock")).then_some(())
        });
        outer.docker(&format!(
            "import --change 'USER rootless' --change 'ENTRYPOINT [\"dockerd-rootless\"]' \
             --change 'ENV DOCKER_HOST=unix://{RUNTIME_DIR}/docker.sock' \
             --change 'VOLUME /home/rootless/.local/share/docker' {}/root.tar {IMAGE}",
            outer.directory.display()
        ));
        outer
    }

    fn client(&self) -> Command {
        let mut client = Command::new("timeout");
        let socket = self.directory.join("docker.sock");
        client.args(["60", "docker"]).env("DOCKER_HOST", format!("unix://{}", socket.display()));
        client
    }

    /// Runs the client, which may fail, with `words` as a shell splits them.
    fn ask(&self, words: &str) -> Told {
        Told::by(self.client().args(shlex::split(words).expect("words")))
    }

    fn docker(&self, words: &str) -> String {
        self.ask(words).good().stdout.trim().to_owned()
    }

    /// Runs a line of shell in the container.
    fn inside(&self, script: &str) -> Told {
        Told::by(self.client().args(["exec", "pod", "sh", "-euc", script]))
    }

    /// Waits until the health check says `health`.
    fn wait_for(&self, health: &str) {
        let inspect = "inspect --format {{.State.Health.Status}} pod";
        let reached =
            wait::poll(Duration::from_secs(60), || (self.docker(inspect) == health).then_some(()));
        assert!(reached.is_some(), "{}", self.ask("logs pod").stderr);
    }
}

impl Drop for Outer {
    fn drop(&mut self) {
        drop(self.dockerd.take());
        let mut failures = user_manager::remove_cgroups(&self.name);
        // The kernel lets go of the mounts a moment after the last process.
        let removed = wait::poll(wait::PATIENCE, || fs::remove_dir_all(&self.directory).ok());
        if removed.is_none() {
            failures.push(format!("cannot remove {}", self.directory.display()));
        }
        assert!(std::thread::panicking() || failures.is_empty(), "{failures:?}");
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/container").join(name)
}

#[test]
fn a_container_without_privileges_runs_the_daemon_as_its_first_process() {
    let outer = Outer::start();
    checks_say_what_a_container_lacks(&outer);

    // No variables of a session, no /run/user/UID, and the first word is that of the image.
    outer.docker(&format!(
        "run --detach --name pod {LEAST} --health-interval 1s --health-retries 1 \
         --health-start-period 60s --health-cmd 'dockerd-rootless status' {IMAGE} dockerd --debug"
    ));
    outer.wait_for("healthy");
    let told = outer.inside(&format!("stat -c '%a %u' {RUNTIME_DIR}; cat /proc/1/comm")).good();
    assert_eq!(told.stdout, "700 1000\ndockerd-rootles\n");
    let told = outer.inside("dockerd-rootless check --format json").good();
    assert_eq!(told.with_status("fail"), [""; 0]);

    outer.inside("cd /; tar c bin www | docker import - busybox").good();
    outer
        .inside("docker run -d --stop-signal KILL --name web -p 8080:80 busybox httpd -f -h /www")
        .good();
    let told = outer.inside("wget -qO- http://127.0.0.1:8080").good();
    assert_eq!(told.stdout, "it answers\n");

    // A new dockerd under the running container; the health check waits for it.
    let since = outer.inside("docker inspect -f {{.State.StartedAt}} web").good().stdout;
    outer.inside("kill -9 $(pidof dockerd); dockerd-rootless status --wait").good();
    let now = outer.inside("docker inspect -f {{.State.StartedAt}} web").good().stdout;
    assert_eq!(now, since, "the container was restarted");

    orphans_are_reaped(&outer);

    outer.docker("stop --time 30 pod");
    let state = outer.docker("inspect --format {{.State.ExitCode}} pod");
    assert_eq!(state, "0", "{}", outer.ask("logs pod").stderr);
    // What a kill leaves in the container's file system is no hindrance.
    outer.docker("start pod");
    outer.wait_for("healthy");
    outer.docker("kill pod");
    outer.docker("start pod");
    outer.wait_for("healthy");
}

/// Each lacks one thing, and `check` names the option that gives it.
fn checks_say_what_a_container_lacks(outer: &Outer) {
    let without = |option: &str| LEAST.replace(option, "");
    let cases = [
        (String::new(), "user-namespaces", "seccomp=unconfined"),
        (
            without("--security-opt systempaths=unconfined"),
            "user-namespaces",
            "systempaths=unconfined",
        ),
        (without("--device /dev/net/tun"), "tun-device", "--device /dev/net/tun"),
        (format!("{LEAST} --cap-drop SETUID"), "newuidmap", ""),
    ];
    for (options, check, says) in cases {
        let told = outer.ask(&format!("run --rm {options} {IMAGE} check --format json"));
        assert_eq!(told.code, Some(4), "{options}: {told:?}");
        let found = told.check(check);
        assert_eq!(found["status"], "fail", "{options}: {found}");
        assert!(found.to_string().contains(says), "{options}: {found}");
    }
    let told = outer.docker(&format!(
        "run --rm {LEAST} --entrypoint sh {IMAGE} -c 'dockerd-rootless check; ls /run/user'"
    ));
    assert!(told.contains("a start makes `/run/user/1000`") && !told.ends_with("1000"), "{told}");
}

/// A storm of processes whose parents have ended leaves no zombie with PID 1.
fn orphans_are_reaped(outer: &Outer) {
    outer.inside("for n in $(seq 300); do (sleep 0.1 &); done").good();
    // All that is below it then is rootlesskit.
    wait::until("no orphan is left", || {
        let told = outer.inside("cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') [A-Z] 1 '").good();
        (told.stdout == "1\n").then_some(())
    });
}
