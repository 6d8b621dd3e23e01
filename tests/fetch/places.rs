//! Where things go: directories with odd names, shell files of every kind, programs that were there before, full disks.

use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use dockerd_rootless::fetch::Package::{Docker, Extras};

use super::kills::with_foreign;
use super::release::{Release, script};
use super::scene::{NEW, OLD, Scene, finish};
use test_support::command::run;

#[test]
fn a_rollback_goes_back_and_a_second_one_forward() {
    let scene = Scene::have(OLD);
    scene.fetch("--rollback").assert(1, "there is no earlier version");
    scene.fetch(&format!("--version {NEW}")).assert(0, NEW);
    for expected in [OLD, NEW, OLD] {
        scene.fetch("--rollback").assert(0, "switched to");
        assert_eq!(scene.version().as_deref(), Some(expected));
    }
}

#[test]
fn only_two_versions_are_kept() {
    let scene = Scene::have(OLD);
    Release::new("77.3.0").publish(&scene.mirror);
    for version in [NEW, "77.3.0"] {
        scene.fetch(&format!("--version {version}")).assert(0, version);
    }
    let sets = fs::read_dir(scene.store().join("versions")).expect("sets").flatten();
    let mut sets: Vec<_> =
        sets.map(|set| set.file_name().to_string_lossy()[..6].to_owned()).collect();
    sets.sort();
    assert_eq!(sets, [NEW, "77.3.0"]);
}

#[test]
fn the_previous_version_is_kept_if_it_is_fetched_again_without_a_checksum() {
    let scene = Scene::have(OLD);
    scene.fetch(&format!("--version {NEW}")).assert(0, NEW);
    let release = Release::new(OLD);
    for package in [Docker, Extras] {
        scene.mirror.remove(&format!("{}.sha256", release.path(package)));
    }
    scene.fetch(&format!("--version {OLD} --insecure-no-checksum")).assert(0, "switched to");
    assert_eq!(scene.version().as_deref(), Some(OLD));
    scene.fetch("--rollback").assert(0, "switched to");
    assert_eq!(scene.version().as_deref(), Some(NEW));
}

#[test]
fn removal_leaves_the_home_as_it_was_and_a_second_one_finds_nothing() {
    let scene = Scene::with(&[OLD, NEW]);
    let before = scene.tree();
    for version in [OLD, NEW] {
        scene.fetch(&format!("--version {version}")).assert(0, version);
    }
    let would = scene.fetch("--remove --dry-run");
    would.assert(0, "would remove links: ").assert(0, "our lines in").assert(0, "would delete `");
    assert_eq!(scene.version().as_deref(), Some(NEW));
    scene.fetch("--remove").assert(0, "removed links: ");
    let mut after = scene.tree();
    // These directories may serve others by now.
    for made in ["bin", ".local", ".local/share"] {
        after.remove(std::path::Path::new(made));
    }
    assert_eq!(after, before);
    let again = scene.fetch("--remove --format json");
    assert_eq!(again.assert(0, "").json()["changed"], false);
}

#[test]
fn programs_that_were_there_are_taken_over_and_given_back() {
    let scene = with_foreign();
    let other = scene.user.home.join("other-docker");
    scene.user.write(&other, script("docker", OLD));
    fs::remove_file(scene.bin().join("docker")).expect("removed");
    let link = scene.bin().join("docker");
    run(scene.user.command("ln").args(["-s", "../other-docker"]).arg(link));
    fs::set_permissions(scene.bin().join("runc"), Permissions::from_mode(0o700)).expect("a mode");
    scene.user.write(&scene.bin().join("my-own"), "mine");
    let before = scene.tree();

    scene.fetch(&format!("--version {NEW}")).assert(0, "renamed ");
    assert_eq!(scene.version().as_deref(), Some(NEW));
    assert!(scene.bin().join("runc.before-dockerd-rootless").exists());
    scene.fetch("--rollback").assert(0, "switched to the programs that were in");
    assert_eq!(scene.version().as_deref(), Some(OLD));
    scene.fetch("--rollback").assert(0, NEW);
    assert_eq!(scene.version().as_deref(), Some(NEW));
    scene.fetch("--remove").assert(0, "restored ");
    let mut after = scene.tree();
    for made in [".local", ".local/share"] {
        after.remove(std::path::Path::new(made));
    }
    assert_eq!(after, before);
}

#[test]
fn programs_put_over_our_links_are_taken_over_again() {
    let scene = Scene::have(NEW);
    // As tar does it: the link goes, the file comes.
    for name in ["dockerd", "docker"] {
        fs::remove_file(scene.bin().join(name)).expect("removed");
        scene.user.write(&scene.bin().join(name), script(name, OLD));
    }
    scene
        .fetch(&format!("--version {NEW}"))
        .assert(0, "renamed docker, dockerd to NAME.before-dockerd-rootless");
    assert_eq!(scene.version().as_deref(), Some(NEW));
    scene.fetch("--remove").assert(0, "");
    let left: Vec<_> = scene.told().into_iter().collect();
    assert_eq!(left, [("docker", OLD.to_owned()), ("dockerd", OLD.to_owned())]);
}

#[test]
fn what_is_neither_file_nor_link_is_not_touched() {
    let scene = Scene::with(&[NEW]);
    scene.user.make_dir(&scene.bin().join("dockerd"));
    let before = scene.tree();
    scene.fetch(&format!("--version {NEW}")).assert(1, "is neither a file nor a link");
    let mut after = scene.tree();
    after.retain(|path, _| !path.starts_with(".local"));
    assert_eq!(after, before);
}

#[test]
fn links_are_in_one_directory_at_a_time() {
    let scene = Scene::have(NEW);
    scene
        .fetch(&format!("--version {NEW} --bin-dir {}/elsewhere", scene.user.home.display()))
        .assert(2, "hint: dockerd-rootless fetch --remove\n");
}

#[test]
fn a_directory_with_an_odd_name_is_found_by_a_new_shell() {
    for name in ["a b", "it's", "\"$HOME\" `id` *?", "-x \\", "\u{e4}"] {
        let scene = Scene::with(&[NEW]);
        let directory = scene.user.home.join(name);
        for file in [".bash_profile", ".bashrc", ".zshrc"] {
            scene.user.write(&scene.user.home.join(file), "true");
        }
        let before = scene.tree();
        let mut command = scene.command(&format!("--version {NEW}"));
        finish(command.env("DOCKER_BIN", &directory)).assert(0, "to PATH in");
        for shell in [["sh", "-lc"], ["bash", "-lc"], ["dash", "-lc"]] {
            let mut command = scene.user.command(shell[0]);
            let said = finish(
                command.args([shell[1], "dockerd; echo $PATH"]).env("PATH", "/usr/bin:/bin"),
            );
            said.assert(0, &format!("dockerd {NEW}\n"));
            let count = said.stdout.matches(&*directory.to_string_lossy()).count();
            assert_eq!(count, 1, "{}", said.stdout);
        }
        let mut command = scene.command(&format!("--version {NEW} --format json"));
        let again = finish(command.env("DOCKER_BIN", &directory));
        assert_eq!(again.assert(0, "").json()["changed"], false);
        scene.fetch("--remove").assert(0, "");
        let mut after = scene.tree();
        after.retain(|path, _| {
            !path.starts_with(".local")
                && *path != directory.strip_prefix(&scene.user.home).expect("below")
        });
        assert_eq!(after, before);
    }
}

#[test]
fn a_directory_that_path_or_the_state_cannot_hold_is_refused() {
    let scene = Scene::with(&[NEW]);
    for name in [&b"/a:b"[..], b"/a\nb", b"/\xff"] {
        let mut command = scene.command(&format!("--version {NEW}"));
        let ended = finish(command.env("DOCKER_BIN", std::ffi::OsStr::from_bytes(name)));
        ended.assert(2, "cannot be in PATH");
    }
    assert!(scene.mirror.requests().is_empty());
}

#[test]
fn shell_files_are_edited_where_they_are_kept_and_only_if_they_need_to_be() {
    let scene = Scene::with(&[NEW]);
    let home = &scene.user.home;
    scene.user.write(&home.join("dotfiles/profile"), b"# \xff no newline".as_slice());
    fs::remove_file(home.join(".profile")).expect("Debian's");
    symlink("dotfiles/profile", home.join(".profile")).expect("a link");
    run(Command::new("chown").arg("-R").arg(&scene.user.name).arg(home.join("dotfiles")));
    fs::set_permissions(home.join("dotfiles/profile"), Permissions::from_mode(0o640))
        .expect("a mode");
    scene.user.make_dir(&home.join(".config/fish"));
    let before = scene.tree();

    let words = format!("--version {NEW}");
    let in_path = format!("{}:/usr/bin:/bin", scene.bin().display());
    finish(scene.command(&words).env("PATH", in_path)).assert(0, "");
    scene.fetch(&format!("{words} --no-modify-path")).assert(0, "");
    let profile = || fs::read(home.join("dotfiles/profile")).expect("a file");
    assert_eq!(profile(), b"# \xff no newline");

    scene.fetch(&words).assert(0, "to PATH in");
    assert!(home.join(".profile").is_symlink());
    assert!(profile().starts_with(b"# \xff no newline\n# >>> dockerd-rootless"));
    assert!(home.join(".config/fish/conf.d/dockerd-rootless.fish").exists());
    assert!(!home.join(".zshrc").exists() && !home.join(".bash_profile").exists());
    scene.fetch("--remove").assert(0, "");
    let mut after = scene.tree();
    after.retain(|path, _| {
        !path.starts_with(".local") && !path.ends_with("conf.d") && !path.ends_with("bin")
    });
    assert_eq!(after, before);
}

#[test]
fn a_shell_file_that_cannot_be_written_is_a_warning_with_the_line_to_add() {
    let scene = Scene::with(&[NEW]);
    let profile = scene.user.home.join(".profile");
    fs::set_permissions(&profile, Permissions::from_mode(0o444)).expect("a mode");
    let ended = scene.fetch(&format!("--version {NEW}"));
    ended.assert(0, "add this line to it yourself: case \":$PATH:\"");
    let edited = fs::read_to_string(&profile).expect("a file");
    assert!(!edited.contains("dockerd-rootless"), "{edited}");
    assert_eq!(scene.version().as_deref(), Some(NEW));
}

#[test]
fn a_profile_that_was_not_there_goes_again() {
    let scene = Scene::with(&[NEW]);
    for file in [".profile", ".bashrc"] {
        let _ = fs::remove_file(scene.user.home.join(file));
    }
    scene.fetch(&format!("--version {NEW}")).assert(0, "/.profile`");
    assert!(scene.user.home.join(".profile").exists());
    scene.fetch("--remove").assert(0, "/.profile`");
    assert!(!scene.user.home.join(".profile").exists());
}

#[test]
fn a_home_that_cannot_be_written_is_named_before_anything_is_downloaded() {
    let scene = Scene::with(&[NEW]);
    let home = scene.user.home.display();
    let before = scene.tree();
    let read_only = format!("mount --bind {home} {home}; mount -o remount,ro,bind {home}");
    let ended = scene.fetch_after(&read_only, &format!("--version {NEW}"));
    ended.assert(1, &format!("cannot use `{home}`")).assert(1, "Read-only file system");
    assert_eq!(scene.tree(), before);
    assert!(scene.mirror.requests().is_empty());
}

#[test]
fn a_full_disk_changes_nothing_wherever_it_is_full() {
    let scene = Scene::have(OLD);
    let home = scene.user.home.display().to_string();
    let uid = scene.user.uid;
    let before = scene.tree();
    let small = |place: &str, kilobytes: u32| {
        format!(
            "mount -t tmpfs -o size={kilobytes}k,mode=0755,uid={uid},gid={uid} tmpfs {home}/{place}"
        )
    };
    let words = format!("--version {NEW}");
    // No room for the download, then none for the programs, where nothing of the try is left either.
    let ended = scene.fetch_after(&small(".local/share", 60), &words);
    ended.assert(1, "No space left on device").assert(1, "df -h");
    let look = format!("ls -A {home}/.local/share/dockerd-rootless");
    let prepare = small(".local/share", 200);
    let script = "\"$@\" || { code=$?; $LOOK; exit $code; }";
    let mut command = scene.user.command_after(&prepare, "sh");
    command.args(["-c", script, "sh"]).arg(&scene.program).arg("fetch").args(words.split(' '));
    command.env("LOOK", look).env("DOCKERD_ROOTLESS_MIRROR", scene.mirror.url());
    let ended = finish(&mut command);
    ended.assert(1, "No space left on device");
    assert!(ended.stdout.ends_with("beside it\nlock\n"), "{}", ended.stdout);
    assert_eq!(scene.tree(), before);
    assert_eq!(scene.version().as_deref(), Some(OLD));
}
