//! `verify` on real daemons: what it finds, what it leaves alone, and how it ends.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_support::command::run;
use test_support::docker::IMAGE;
use test_support::process::Background;
use test_support::*;

/// A user with our program, and a daemon that runs.
struct Host<'u> {
    user: &'u TestUser,
    program: PathBuf,
    variables: &'static [(&'static str, &'static str)],
    daemon: Daemon<'u>,
}

impl<'u> Host<'u> {
    fn new(
        user: &'u TestUser,
        launcher: Launcher,
        variables: &'static [(&'static str, &'static str)],
    ) -> Self {
        let program = launcher::install_stripped(user);
        let launch = Launch::new(user, launcher);
        let launch = variables.iter().fold(launch, |launch, (name, value)| launch.env(name, value));
        Self { user, program, variables, daemon: launch.ready() }
    }

    fn command(&self, words: &str) -> Command {
        let mut command = self.user.brief_command(&self.program);
        command.arg("verify").args(words.split_whitespace()).envs(self.variables.iter().copied());
        command
    }

    fn verify(&self, words: &str) -> Told {
        Told::by(&mut self.command(&format!("--format json {words}")))
    }

    /// Makes one of each thing that a user has in a daemon.
    fn fill(&self) {
        let docker = &self.daemon.docker;
        docker.import_image();
        docker.run("network create mine");
        docker.run("volume create mine");
        docker.run(&format!("run --name ended --label mine {IMAGE} true"));
        docker.run("commit ended");
        docker.serve("busy", "--network mine -v mine:/volume");
    }

    /// What the user has in the daemon, and outside of its data.
    fn belongings(&self) -> String {
        let docker = [
            "images -a --no-trunc --format {{.ID}}:{{.Repository}}:{{.Tag}}",
            "ps -a --no-trunc --format {{.ID}}:{{.Names}}:{{.State}}",
            "inspect --format {{.State.Pid}}:{{.State.StartedAt}} busy",
            "network ls --no-trunc --format {{.ID}}:{{.Name}}",
            "volume ls --format {{.Name}}",
            "context ls --format {{.Name}}:{{.Current}}",
            "system df --format {{.Type}}:{{.TotalCount}}:{{.Size}}",
        ];
        let home = self.user.home.display().to_string();
        let data = format!("{home}/.local/share/docker");
        let mut find = Command::new("find");
        find.args([&home, "-path", &data, "-prune", "-o", "-not", "-name", "start-*.log"]);
        let files = run(find.args(["-printf", "%p %s %m %U\n"]));
        let docker = docker.map(|words| self.daemon.docker.run(words));
        format!("{}\n{files}", docker.join("\n--\n"))
    }

    /// The process of the user's that runs this program.
    fn pid(&self, program: &str) -> Pid {
        let mut all = process::list(self.user.uid, &self.user.subordinate).into_iter();
        let found = all.find(|process| {
            let own = process.command.split(' ').next().unwrap_or_default();
            own.rsplit('/').next() == Some(program)
        });
        Pid::from_raw(found.unwrap_or_else(|| panic!("no {program}")).pid)
    }

    /// Fails unless exactly these questions are answered badly, and the exit code goes with it.
    #[track_caller]
    fn assert_fails(&self, told: &Told, names: &[&str]) {
        assert_eq!(told.with_status("fail"), names, "{told:?}");
        assert_eq!(told.code, Some(i32::from(!names.is_empty())), "{told:?}");
    }
}

/// What dockerd cannot limit here, if it cannot.
fn unlimited(host: &Host<'_>) -> Vec<&'static str> {
    match &*host.daemon.docker.run("info --format {{.CgroupDriver}}") {
        "none" => vec!["memory", "cpu", "pids"],
        _ => Vec::new(),
    }
}

/// Answers all questions that `words` select, and fails unless none is answered badly or skipped.
fn assert_good(host: &Host<'_>, words: &str) {
    let listed = run(&mut host.command(&format!("--list {words}")));
    let names: Vec<&str> = listed.lines().filter_map(|line| line.split(' ').next()).collect();
    let told = host.verify(words);
    host.assert_fails(&told, &[]);
    let mut skipped = told.with_status("skip");
    // A host without a name server, or whose sysctl keeps users from ping, answers neither.
    skipped.retain(|name| !["dns", "ping"].contains(&&**name));
    let unlimited = unlimited(host).into_iter().filter(|name| names.contains(name));
    assert_eq!(skipped, unlimited.collect::<Vec<_>>(), "{told:?}");
    let report = told.json();
    let checks = report["checks"].as_array().expect("checks").iter();
    let answered: Vec<&str> = checks.filter_map(|check| check["name"].as_str()).collect();
    assert_eq!(answered, names, "every question is answered, in the order of the list");
}

fn all_is_good(host: &Host<'_>) {
    assert_good(host, "");
}

fn every_form_of_image_is_taken_or_refused_as_it_should_be(host: &Host<'_>) {
    assert_good(host, "--images all --skip speed,outside,names,dns,localhost,tcp4,tcp6,udp");
}

/// Each lie, and which of a few questions it makes fail; all others pass.
fn a_registry_that_lies_fails_what_it_lies_about(host: &Host<'_>) {
    let all = ["pull", "schema2-tag", "list-digest", "oci-digest", "index-tag"];
    let lies: [(&str, &[&str]); 6] = [
        ("digest", &["pull", "list-digest", "oci-digest"]),
        ("child", &["pull", "list-digest", "index-tag"]),
        ("layer", &all),
        ("config", &all),
        ("platform", &["pull", "list-digest", "index-tag"]),
        ("ambiguous", &["pull", "oci-digest", "index-tag"]),
    ];
    for (lie, fails) in lies {
        let told = host.verify(&format!("--lie {lie} --only load,push,run,{}", all.join(",")));
        host.assert_fails(&told, fails);
        assert_eq!(told.with_status("pass").len(), 3 + all.len() - fails.len(), "{told:?}");
        for name in fails {
            let said = told.check(name)["daemon_says"].as_str().unwrap_or_default().to_owned();
            assert!(!said.is_empty(), "{lie}, {name}: the daemon's own words: {told:?}");
        }
    }
}

/// The user's container is one of those that live on: its process is compared afterwards.
fn dockerd_is_killed_and_containers_live_on(host: &Host<'_>) {
    let before = host.pid("dockerd");
    assert_good(host, "--disruptive --only survival");
    assert_ne!(host.pid("dockerd"), before);
}

fn an_interrupt_leaves_nothing(host: &Host<'_>) {
    // Not below timeout(1), which sends a signal twice; the second one ends everything at once.
    let mut command = host.user.command(&host.program);
    let mut verify = Background::start(command.arg("verify").stdout(Stdio::null()));
    wait::until("a container of the run", || {
        let own = host.daemon.docker.run("ps -aq --filter label=dockerd-rootless.verify");
        (!own.is_empty()).then_some(())
    });
    assert_eq!(verify.end_by(Signal::SIGINT).code(), Some(130));
}

/// Every question is explained in a row of its page.
#[test]
fn the_page_explains_every_question() {
    let page = include_str!("../../docs/verify.md");
    let rows: String = page.lines().filter(|line| line.starts_with("| `")).collect();
    let mut list = Command::new(launcher::built("dockerd-rootless"));
    for line in run(list.args(["verify", "--list", "--disruptive"])).lines() {
        let name = line.split(' ').next().expect("a name");
        assert!(rows.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn a_daemon_proves_itself_and_keeps_all_that_is_the_users() {
    let user = TestUser::new();
    let mut host = Host::new(&user, Launcher::Run, &[]);
    host.fill();
    let before = host.belongings();
    let parts = [
        ("all is good", all_is_good as fn(&Host<'_>)),
        ("images", every_form_of_image_is_taken_or_refused_as_it_should_be),
        ("lies", a_registry_that_lies_fails_what_it_lies_about),
        ("an interrupt", an_interrupt_leaves_nothing),
        ("--disruptive", dockerd_is_killed_and_containers_live_on),
    ];
    for (what, part) in parts {
        let began = Instant::now();
        part(&host);
        eprintln!("{what}: {:?}", began.elapsed());
        assert_eq!(host.belongings(), before, "{what}");
    }
    assert_eq!(host.daemon.stop().code(), Some(0));
    let told = host.verify("");
    assert_eq!(told.code, Some(3), "{told:?}");
    assert!(told.stderr.contains("no daemon listens"), "{told:?}");
    assert_nothing_left(&user);
}

#[test]
fn each_fault_of_a_daemon_fails_the_questions_that_it_concerns() {
    let user = TestUser::new();
    // A log that cannot be read is the user's choice, and no fault.
    user.write(&user.home.join(".config/docker/daemon.json"), r#"{"log-driver": "none"}"#);
    let host = Host::new(
        &user,
        Launcher::RunExec,
        &[
            ("DOCKERD_ROOTLESS_ROOTLESSKIT_PORT_DRIVER", "slirp4netns"),
            ("DOCKERD_ROOTLESS_ROOTLESSKIT_MTU", "1500"),
        ],
    );
    let told = host.verify("");
    host.assert_fails(&told, &[]);
    assert_eq!(told.check("mtu")["answer"], "container eth0 1500, outside tap0 1500");

    kill(host.pid("slirp4netns"), Signal::SIGKILL).expect("it is there");
    let told = host.verify("");
    host.assert_fails(&told, &["outside", "speed", "localhost", "tcp4", "tcp6", "udp"]);

    kill(host.pid("dockerd"), Signal::SIGSTOP).expect("it is there");
    let began = Instant::now();
    let told = host.verify("");
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(told.stderr.contains("does not answer"), "{told:?}");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}
