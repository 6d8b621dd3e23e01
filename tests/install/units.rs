//! The units: what is written, what is rewritten, and what is left alone.

use std::fs;
use std::os::unix::fs::symlink;

use super::{Home, Told};
use test_support::launcher::install;
use test_support::*;

/// The unit of upstream's setup tool, of 20.10 to 27, for the script at this path.
fn upstreams(script: &str) -> String {
    include_str!("upstream.service")
        .replace("@PATH@", user::PATH)
        .replace("@SCRIPT@", &format!("{script} "))
}

fn verify(home: &Home<'_>) {
    let mut verify = home.user.brief_command("systemd-analyze");
    verify.args(["--user", "--recursive-errors=no", "verify"]);
    verify.args(["docker.service", "docker.socket"].map(|name| home.unit(name)));
    let told = Told::by(&mut verify).good();
    assert_eq!((told.stdout.as_str(), told.stderr.as_str()), ("", ""));
}

#[test]
fn the_units_are_clean_whatever_stands_in_path() {
    let user = TestUser::new();
    let manager = UserManager::start(&user);
    let home = Home::new(&user);
    let odd = user.home.join("100% $HOME \"quoted\" \\ back/über");
    user.make_dir(&odd);
    let path = format!("{}:{}:/mnt/c/Program Files:.:x", user::PATH, odd.display());
    home.with_path("install --format json", &path).good();
    verify(&home);
    let environment = manager.property("docker.service", "Environment");
    assert!(environment.contains("/mnt/c/Program Files"), "{environment}");
    // What the process really gets.
    let pid = manager.property("docker.service", "MainPID");
    let variables = fs::read(format!("/proc/{pid}/environ")).expect("read");
    let variables = String::from_utf8_lossy(&variables).into_owned();
    let own =
        variables.split('\0').find_map(|variable| variable.strip_prefix("PATH=")).expect("a PATH");
    let expected = format!(
        "{}:{}:{}:/mnt/c/Program Files",
        user.home.join("bin").display(),
        user::PATH,
        odd.display()
    );
    assert_eq!(own, expected);
    // Neither this shell's PATH nor another's changes it.
    for path in [path.as_str(), user::PATH, "/usr/bin:/bin"] {
        let again = home.with_path("install --format json", path).good();
        assert_eq!(again.json()["changed"], false, "{again:?}");
    }
    home.tell("uninstall").good();
    manager.stop();
    assert_nothing_left(&user);
}

#[test]
fn a_program_in_a_directory_with_an_odd_name_is_started_from_there() {
    let user = TestUser::new();
    let manager = UserManager::start(&user);
    let home = Home::new(&user);
    let odd = user.home.join("my 100% $HOME/bin");
    user.make_dir(&odd);
    let program = odd.join("dockerd-rootless");
    install(&home.program, &program);
    let mut command = user.brief_command(&program);
    Told::by(command.arg("install")).good();
    verify(&home);
    assert!(Docker(&user).answers());
    let mut command = user.brief_command(&program);
    Told::by(command.arg("uninstall")).good();

    let quoted = user.home.join("a\"b");
    user.make_dir(&quoted);
    let program = quoted.join("dockerd-rootless");
    install(&home.program, &program);
    let mut command = user.brief_command(&program);
    let told = Told::by(command.arg("install"));
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(told.stderr.contains("no unit can start the program"), "{told:?}");
    assert!(!home.unit("docker.service").exists());
    manager.stop();
    assert_nothing_left(&user);
}

#[test]
fn a_link_is_what_the_unit_starts_so_that_it_can_be_led_elsewhere() {
    let user = TestUser::new();
    let manager = UserManager::start(&user);
    let home = Home::new(&user);
    let link = user.home.join("current");
    symlink(&home.program, &link).expect("link");
    let mut command = user.brief_command(&link);
    Told::by(command.args(["install", "--no-start", "--no-context"])).good();
    let line = format!("ExecStart=\"{}\"", link.display());
    assert!(home.read_unit("docker.service").contains(&line));
    manager.stop();
}

#[test]
fn upstreams_unit_is_upgraded_and_its_edited_one_is_not() {
    let user = TestUser::new();
    let manager = UserManager::start(&user);
    let home = Home::new(&user);
    let docker = Docker(&user);
    let script = Launcher::Script.install(&user);
    let text = upstreams(&script.display().to_string());
    manager.write_unit("docker.service", &text);
    manager.systemctl(&["enable", "docker.service"]);
    manager.systemctl(&["start", "docker.service"]);
    wait::until("the daemon answers", || docker.answers().then_some(()));
    docker.import_image();
    docker.run("run -d --name busy busybox sleep infinity");

    let told = home.tell("upgrade --format json").good();
    assert!(!told.actions().contains(&"restart docker.service".to_owned()), "{told:?}");
    assert!(told.json()["notes"].to_string().contains("Containers run"), "{told:?}");
    assert!(home.read_unit("docker.service").starts_with("# Written by dockerd-rootless "));
    verify(&home);
    let old = manager.property("docker.service", "MainPID");
    home.tell("upgrade --restart").good();
    assert_ne!(manager.property("docker.service", "MainPID"), old);
    assert_eq!(manager.property("docker.service", "Type"), "notify");
    assert!(home.tell("status").good().stdout.starts_with("● ready for "));

    let edited = text.replace("RestartSec=2", "RestartSec=5");
    manager.write_unit("docker.service", &edited);
    let drop_in = home.unit("docker.service.d/override.conf");
    user.write(&drop_in, "[Service]\nEnvironment=FOO=1\n");
    manager.systemctl(&["daemon-reload"]);
    for words in ["upgrade", "install"] {
        let told = home.tell(words).good();
        assert!(told.stderr.contains("was edited or is a link, and is kept"), "{told:?}");
        assert_eq!(home.read_unit("docker.service"), edited);
    }
    let told = home.tell("uninstall").good();
    assert!(told.stderr.contains("is kept"), "{told:?}");
    assert_eq!(home.read_unit("docker.service"), edited);
    assert!(drop_in.exists());
    assert_eq!(manager.property("docker.service", "ActiveState"), "inactive");
    assert_eq!(manager.property("docker.service", "UnitFileState"), "disabled");
    manager.stop();
    assert_nothing_left(&user);
}

#[test]
fn a_newer_program_restarts_the_daemon_at_an_upgrade() {
    let user = TestUser::new();
    let manager = UserManager::start(&user);
    let home = Home::new(&user);
    home.tell("install").good();
    assert_eq!(home.tell("upgrade --format json").good().json()["changed"], false);
    // As a package does it: another file of the same name.
    let beside = user.home.join("bin/next");
    install(&home.program, &beside);
    fs::rename(&beside, &home.program).expect("rename");
    let old = manager.property("docker.service", "MainPID");
    assert_eq!(home.tell("upgrade --format json").good().actions(), ["restart docker.service"]);
    assert_ne!(manager.property("docker.service", "MainPID"), old);
    home.tell("uninstall").good();
    let none = home.tell("upgrade");
    assert_eq!(none.code, Some(1), "{none:?}");
    assert!(none.stderr.contains("hint: dockerd-rootless install"), "{none:?}");
    manager.stop();
    assert_nothing_left(&user);
}

#[test]
fn a_unit_that_is_masked_or_a_link_is_not_written() {
    let user = TestUser::new();
    let manager = UserManager::start(&user);
    let home = Home::new(&user);
    manager.systemctl(&["mask", "docker.service"]);
    let told = home.tell("install");
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(told.stderr.contains("docker.service is masked"), "{told:?}");
    manager.systemctl(&["unmask", "docker.service"]);

    let kept = user.home.join("dotfiles/docker.service");
    user.write(&kept, upstreams(&Launcher::Script.install(&user).display().to_string()));
    symlink(&kept, home.unit("docker.service")).expect("link");
    let before = fs::read(&kept).expect("read");
    let told = home.tell("install").good();
    assert!(told.stderr.contains("is a link, and is kept"), "{told:?}");
    assert_eq!(fs::read(&kept).expect("read"), before);
    assert!(Docker(&user).answers());
    home.tell("uninstall").good();
    assert_eq!(fs::read(&kept).expect("read"), before);
    manager.stop();
    assert_nothing_left(&user);
}

#[test]
fn a_packages_units_are_used_as_they_are() {
    let user = TestUser::new();
    let home = Home::new(&user);
    // What a package's build makes of the templates, in a directory that the manager reads after the user's own.
    let packaged = user.home.join(".local/share/systemd/user");
    let template = |name: &str| {
        let path = format!("{}/systemd/{name}.in", env!("CARGO_MANIFEST_DIR"));
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
    };
    let service = template("docker.service")
        .replace("@ENVIRONMENT@\n", "")
        .replace("@EXEC@", &home.program.display().to_string());
    user.write(&packaged.join("docker.service"), service);
    user.write(&packaged.join("docker.socket"), template("docker.socket"));
    let manager = UserManager::start_with(&user, &packaged);
    let told = home.tell("install --format json").good();
    let writes_unit = |action: &String| action.starts_with("write ") && action.contains("systemd");
    assert!(!told.actions().iter().any(writes_unit), "{told:?}");
    assert_eq!(manager.property("docker.service", "ActiveState"), "active");
    assert!(!home.unit("docker.service").exists());
    let mut verify = user.brief_command("systemd-analyze");
    verify.args(["--user", "--recursive-errors=no", "verify"]).arg(packaged.join("docker.service"));
    let told = Told::by(&mut verify).good();
    assert_eq!(told.stderr, "");
    home.tell("uninstall").good();
    assert_eq!(manager.property("docker.service", "ActiveState"), "inactive");
    assert!(packaged.join("docker.service").exists());
    manager.stop();
    assert_nothing_left(&user);
}

#[test]
fn a_daemon_with_containers_that_listens_elsewhere_is_not_restarted() {
    let user = TestUser::new();
    let manager = UserManager::start(&user);
    let home = Home::new(&user);
    let socket = user.runtime_dir.join("elsewhere.sock");
    let host = format!("--host=unix://{}", socket.display());
    home.tell(&format!("config set daemon.args {host}")).good();
    home.tell("install --no-context").good();
    // Where the image is imported from, the daemon is asked at the usual socket.
    symlink(&socket, Docker(&user).socket()).expect("link");
    Docker(&user).import_image();
    fs::remove_file(Docker(&user).socket()).expect("removed");
    let docker = |words: &str| home.docker(&format!("{host} {words}")).good();
    docker("run -d --name busy busybox sleep infinity");
    let renew = || {
        let beside = user.home.join("bin/next");
        install(&home.program, &beside);
        fs::rename(&beside, &home.program).expect("rename");
    };
    renew();
    let old = manager.property("docker.service", "MainPID");
    let begin = || docker("inspect --format {{.State.StartedAt}} busy").stdout;
    let began = begin();
    let told = home.tell("upgrade --format json").good();
    assert_eq!(told.actions(), ["replace dockerd; containers keep running"]);
    assert_eq!(manager.property("docker.service", "MainPID"), old);
    assert_eq!(begin(), began);
    docker("rm -f busy");
    renew();
    let told = home.tell("upgrade --format json").good();
    assert_eq!(told.actions(), ["restart docker.service"]);
    home.tell("uninstall").good();
    manager.stop();
    assert_nothing_left(&user);
}
