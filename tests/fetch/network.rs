//! What servers do, and whom we believe.

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use dockerd_rootless::fetch::Package::{Docker, Extras};
use dockerd_rootless::fetch::{architecture, directory};

use super::release::{Release, sum};
use super::scene::{NEW, OLD, Scene, finish};
use test_support::command::run;
use test_support::mirror::Fault;

#[test]
fn a_first_fetch_links_programs_that_run_and_a_second_one_changes_nothing() {
    let scene = Scene::with(&[NEW]);
    let first = scene.fetch(&format!("--version {NEW} --format json"));
    assert_eq!(first.assert(0, "").json()["changed"], true);
    assert_eq!(scene.version().as_deref(), Some(NEW));
    let said = scene.user.command(scene.bin().join("dockerd")).output().expect("dockerd");
    assert_eq!(String::from_utf8_lossy(&said.stdout), format!("dockerd {NEW}\n"));
    let names: Vec<_> = scene.told().into_keys().collect();
    for absent in ["docker-novelty", "containerd-shim"] {
        assert!(!names.contains(&absent), "{names:?}");
    }
    assert!(
        first.stderr.contains("the unknown program `docker-novelty`, which is left out"),
        "{}",
        first.stderr
    );
    for ours in ["dockerd-rootless", "dockerd-rootless.sh", "dockerd-rootless-setuptool.sh"] {
        let link = fs::canonicalize(scene.bin().join(ours)).expect("a program");
        assert_eq!(link.file_name().expect("a name"), "dockerd-rootless", "{ours}");
    }

    let before = scene.tree();
    scene.mirror.requests();
    let second = scene.fetch(&format!("--version {NEW} --format json"));
    assert_eq!(second.assert(0, "").json()["changed"], false);
    assert_eq!(second.json()["actions"], serde_json::json!([]));
    assert_eq!(scene.tree(), before);
    let asked = scene.mirror.requests();
    assert!(asked.iter().all(|request| request.path.ends_with(".sha256")), "{asked:?}");
}

#[test]
fn real_programs_come_through_and_run() {
    let scene = Scene::new();
    let packed = scene.user.home.join("tool/packed");
    Release::real(NEW, &packed).publish(&scene.mirror);
    scene.fetch(&format!("--version {NEW}")).assert(0, NEW);
    for program in ["dockerd", "docker", "containerd", "runc", "rootlesskit"] {
        let [host, ours] = [program.into(), scene.bin().join(program)]
            .map(|program| run(scene.user.brief_command(program).arg("--version")));
        assert_eq!(ours, host, "{program}");
    }
    let version =
        run(scene.user.brief_command(scene.bin().join("dockerd-rootless")).arg("--version"));
    assert!(version.starts_with("dockerd-rootless "), "{version}");
}

#[test]
fn latest_is_the_newest_that_the_index_names() {
    let scene = Scene::with(&[OLD, NEW]);
    let index = [OLD, NEW, "28.0.0"].map(|version| {
        let [docker, extras] = [Docker, Extras].map(|package| Release::new(version).file(package));
        format!("<a href=\"{docker}\">{docker}</a>\n<a href=\"{extras}\">{extras}</a>\n")
    });
    scene.mirror.put(&format!("/{}/", directory("stable", architecture())), index.concat());
    scene.fetch("--version latest").assert(0, NEW);
    assert_eq!(scene.version().as_deref(), Some(NEW));
    scene.fetch("--version latest --channel test").assert(1, "does not have both tarballs");
}

#[test]
fn a_version_that_is_not_there_is_named_with_its_address_and_asked_for_once() {
    let scene = Scene::have(OLD);
    let before = scene.tree();
    let ended = scene.fetch("--version 99.0.0 --insecure-no-checksum");
    ended
        .assert(1, "docker-99.0.0.tgz`\ncause: The requested URL returned error: 404")
        .assert(1, "hint: ");
    assert_eq!(scene.tree(), before);
    let asked = scene.mirror.requests();
    let tarballs: Vec<_> =
        asked.iter().filter(|request| request.path.ends_with("/docker-99.0.0.tgz")).collect();
    assert_eq!(tarballs.len(), 1, "{asked:?}");
}

#[test]
fn a_server_that_fails_for_a_moment_is_asked_again_and_one_that_keeps_failing_changes_nothing() {
    let scene = Scene::have(OLD);
    let before = scene.tree();
    let path = Release::new(NEW).path(Docker);
    scene.mirror.fail(&path, Fault::Status(500), 99);
    scene.fetch(&format!("--version {NEW}")).assert(1, "returned error: 500");
    assert_eq!(scene.tree(), before);
    scene.mirror.fail(&path, Fault::Status(503), 1);
    scene.fetch(&format!("--version {NEW}")).assert(0, "trying again");
    assert_eq!(scene.version().as_deref(), Some(NEW));
}

#[test]
fn a_download_that_stalls_or_breaks_off_goes_on_where_it_ended() {
    for fault in [Fault::Stall(40_000), Fault::Cut(40_000)] {
        let scene = Scene::with(&[NEW]);
        scene.mirror.fail(&Release::new(NEW).path(Docker), fault, 1);
        scene.fetch(&format!("--version {NEW} --timeout 1")).assert(0, "trying again");
        assert_eq!(scene.version().as_deref(), Some(NEW));
        let asked = scene.mirror.requests();
        let ranges: Vec<_> = asked.into_iter().filter_map(|request| request.range).collect();
        assert_eq!(ranges, ["bytes=40000-"]);
    }
}

#[test]
fn a_server_that_always_stalls_is_given_up() {
    let scene = Scene::have(OLD);
    let before = scene.tree();
    scene.mirror.fail(&Release::new(NEW).path(Docker), Fault::Stall(10_000), 99);
    scene.fetch(&format!("--version {NEW} --timeout 1")).assert(1, "Operation too slow");
    assert_eq!(scene.tree(), before);
    assert_eq!(scene.version().as_deref(), Some(OLD));
}

#[test]
fn a_wrong_sum_is_an_error_of_its_own_and_changes_nothing() {
    for old in [None, Some(OLD)] {
        let scene = old.map_or_else(|| Scene::with(&[NEW]), Scene::have);
        scene.fetch("--remove --dry-run").assert(0, "");
        let release = Release::new(NEW);
        let wrong = "0".repeat(64);
        scene.mirror.put(&format!("{}.sha256", release.path(Extras)), wrong.clone());
        scene.fetch(&format!("--version {NEW}")).assert(6, &format!("instead of `{wrong}`"));
        assert_eq!(scene.version().as_deref(), old);
        // Nothing of it is left to be believed the next time.
        release.publish(&scene.mirror);
        scene.fetch(&format!("--version {NEW}")).assert(0, NEW);
        assert_eq!(scene.version().as_deref(), Some(NEW));
    }
}

#[test]
fn without_any_sum_nothing_is_taken_unless_it_is_said_out_loud() {
    let scene = Scene::with(&[NEW]);
    let release = Release::new(NEW);
    for package in [Docker, Extras] {
        scene.mirror.remove(&format!("{}.sha256", release.path(package)));
    }
    let refused = scene.fetch(&format!("--version {NEW}"));
    refused.assert(6, "no checksum of").assert(6, "--insecure-no-checksum");
    assert_eq!(scene.version(), None);
    scene.fetch(&format!("--version {NEW} --insecure-no-checksum")).assert(0, "WITHOUT A CHECKSUM");
    // All is downloaded again, for want of a sum to compare; and it is the same.
    let again = format!("--version {NEW} --insecure-no-checksum --format json");
    assert_eq!(scene.fetch(&again).assert(0, "").json()["changed"], false);
    assert_eq!(scene.version().as_deref(), Some(NEW));
}

#[test]
fn a_sum_in_words_wins_over_a_list_and_that_over_the_server() {
    let scene = Scene::with(&[NEW]);
    let release = Release::new(NEW);
    let wrong = "0".repeat(64);
    let [docker, extras] =
        [Docker, Extras].map(|package| (release.file(package), sum(release.bytes(package))));
    let list = scene.user.home.join("tool/sums");
    let write = |docker_sum: &str, extras_sum: &str| {
        scene
            .user
            .write(&list, format!("{docker_sum}  {}\n{extras_sum} *{}\n", docker.0, extras.0));
    };
    for package in [Docker, Extras] {
        scene.mirror.put(&format!("{}.sha256", release.path(package)), wrong.clone());
    }
    let listed = format!("--version {NEW} --checksums {}", list.display());
    write(&wrong, &extras.1);
    scene.fetch(&listed).assert(6, &docker.0);
    let words = format!("--sha256 {}={}", docker.0, docker.1.to_uppercase());
    let wrong_words = format!("--sha256 {}={wrong}", docker.0);
    write(&docker.1, &extras.1);
    scene.fetch(&format!("{listed} {wrong_words}")).assert(6, &docker.0);
    assert_eq!(scene.version(), None);
    write(&wrong, &extras.1);
    scene.fetch(&format!("{listed} {words}")).assert(0, NEW);
    assert_eq!(scene.version().as_deref(), Some(NEW));
    let asked = scene.mirror.requests();
    assert!(!asked.iter().any(|request| request.path.ends_with(".sha256")), "{asked:?}");
}

#[test]
fn a_version_that_is_not_in_the_list_is_taken_with_both_sums() {
    let scene = Scene::with(&[NEW]);
    let release = Release::new(NEW);
    let [docker, extras] = [Docker, Extras].map(|package| sum(release.bytes(package)));
    for package in [Docker, Extras] {
        scene.mirror.remove(&format!("{}.sha256", release.path(package)));
    }
    let words = format!("--version {NEW} --sha256");
    // The sums are of docker and of docker-rootless-extras, in this order.
    scene.fetch(&format!("{words} {extras},{docker}")).assert(6, "instead of");
    assert_eq!(scene.version(), None);
    let would = format!("with the SHA-256 sum {extras} of `--sha256`");
    scene.fetch(&format!("{words} {docker},{extras} --dry-run")).assert(0, &would);
    assert_eq!(scene.version(), None);
    scene.fetch(&format!("{words} {docker},{extras}")).assert(0, NEW);
    assert_eq!(scene.version().as_deref(), Some(NEW));
}

#[test]
fn the_tarballs_of_29_4_2_that_were_built_again_are_fetched() {
    let scene = Scene::with(&["29.4.2"]);
    assert!(Release::new("29.4.2").path(Docker).ends_with("/docker-29.4.2-2.tgz"));
    scene.fetch("--version 29.4.2").assert(0, "Docker 29.4.2 has known security holes: 29.9.0");
    assert_eq!(scene.version().as_deref(), Some("29.4.2"));
}

#[test]
fn a_download_directory_refreshes_the_list_and_changes_no_sum() {
    let directory = tempfile::tempdir().expect("a directory");
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/install");
    let (list, place) = (directory.path().join("list"), directory.path().join("stable/x86_64"));
    fs::copy(format!("{root}/checksums.txt"), &list).expect("a list");
    fs::create_dir_all(&place).expect("a directory");
    for name in ["docker-29.4.2-2.tgz", "docker-rootless-extras-77.1.0.tgz", "docker-77.1.0.tgz"] {
        fs::write(place.join(name), name).expect("a tarball");
    }
    let refresh = || {
        let mut script = Command::new(format!("{root}/checksums.sh"));
        finish(script.arg(directory.path()).arg(&list))
    };
    refresh().assert(0, "");
    let text = fs::read_to_string(&list).expect("a list");
    let files: Vec<_> = text.lines().filter_map(|line| Some(line.rsplit_once('/')?.1)).collect();
    let [.., docker, extras] = files[..] else { panic!("{text}") };
    assert_eq!([docker, extras], ["docker-77.1.0.tgz", "docker-rootless-extras-77.1.0.tgz"]);
    let at = |name: &str| files.iter().position(|own| *own == name).expect("a line");
    assert_eq!(at("docker-29.4.2-2.tgz") + 1, at("docker-29.4.3.tgz"), "in order of versions");
    let today = finish(Command::new("date").args(["--utc", "+%F"])).stdout;
    assert!(text.contains(&format!("# Brought up to date on {today}")), "{today}: {text}");
    refresh().assert(0, "");
    assert_eq!(fs::read_to_string(&list).expect("a list"), text, "the same again changes nothing");
    fs::write(place.join("docker-77.1.0.tgz"), "another").expect("a tarball");
    refresh().assert(1, "docker-77.1.0.tgz: the list has another sum");
    assert_eq!(fs::read_to_string(&list).expect("a list"), text);
}

#[test]
fn what_is_built_in_is_believed_rather_than_the_server() {
    if architecture() != "x86_64" && architecture() != "aarch64" {
        return;
    }
    let scene = Scene::with(&["29.6.1"]);
    scene.fetch("--version 29.6.1").assert(6, "instead of");
    assert_eq!(scene.version(), None);
    // The newest of those is what is fetched if nothing is said.
    let newest = scene.fetch("");
    newest.assert(1, "/docker-29.6.2.tgz`\ncause: The requested URL returned error: 404");
    newest.assert(1, "for a newer version: --version VERSION --sha256 SUM,SUM");
}

#[test]
fn words_that_make_no_sense_are_a_matter_of_usage() {
    let scene = Scene::with(&[NEW]);
    let sum = "0".repeat(64);
    for (words, says) in [
        ("--version banana".to_owned(), "`banana` is not a version"),
        ("--version ../../etc".to_owned(), "is not a version"),
        (format!("--version {NEW} --mirror ftp://a/"), "`ftp://a/` is not the address of a mirror"),
        (format!("--version {NEW} --mirror http://mirror.invalid/"), "is not https"),
        (format!("--version {NEW} --sha256 a"), "is neither the sums of both files nor one"),
        (format!("--version {NEW} --sha256 {sum},a"), "is neither the sums of both files nor one"),
        (
            format!("--version {NEW} --sha256 docker-1.tgz={sum}"),
            "is neither the sums of both files nor one of the files and its sum",
        ),
        (format!("--version {NEW} --bin-dir /a:b"), "colon"),
    ] {
        scene.fetch(&words).assert(2, says);
    }
    let mut command = scene.command(&format!("--version {NEW}"));
    let ended = finish(command.env("DOCKERD_ROOTLESS_MIRROR", "nonsense"));
    ended.assert(2, "`nonsense` is not the address of a mirror");
    assert!(scene.mirror.requests().is_empty());
}

#[test]
fn a_redirect_to_plain_http_is_followed_only_if_that_is_allowed() {
    let scene = Scene::have(OLD);
    let before = scene.tree();
    let release = Release::new(NEW);
    let path = release.path(Docker);
    scene.mirror.put("/elsewhere.tgz", release.docker.clone());
    for target in ["http://mirror.invalid/x.tgz", "/elsewhere.tgz", "file:///etc/passwd"] {
        scene.mirror.fail(&path, Fault::Redirect(target.to_owned()), 1);
        let ended = scene.fetch(&format!("--version {NEW}"));
        ended.assert(6, "redirects to an address that is not https");
        assert_eq!(scene.tree(), before);
    }
    let words = format!("--version {NEW} --insecure-http");
    scene.mirror.fail(&path, Fault::Redirect(path.clone()), 99);
    scene.fetch(&words).assert(1, "Maximum (5) redirects followed");
    assert_eq!(scene.tree(), before);
    scene.mirror.fail(&path, Fault::Redirect("/elsewhere.tgz".to_owned()), 1);
    scene.fetch(&words).assert(0, NEW);
    assert_eq!(scene.version().as_deref(), Some(NEW));
}

#[test]
fn a_proxy_is_not_asked_for_this_very_host() {
    let scene = Scene::with(&[NEW]);
    let mut command = scene.command(&format!("--version {NEW}"));
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"] {
        command.env(name, "http://127.0.0.1:1");
    }
    finish(&mut command).assert(0, NEW);
}

#[test]
fn plain_http_elsewhere_goes_through_the_proxy_if_it_is_allowed_at_all() {
    let scene = Scene::new();
    let release = Release::new(NEW);
    for package in [Docker, Extras] {
        // What is asked of a proxy is the whole address.
        let address = format!("http://mirror.invalid{}", release.path(package));
        scene.mirror.put(&address, release.bytes(package));
        scene.mirror.put(&format!("{address}.sha256"), sum(release.bytes(package)));
    }
    let words = format!("--version {NEW} --mirror http://mirror.invalid/ --insecure-http");
    let mut command = scene.command(&words);
    finish(command.env("http_proxy", scene.mirror.url())).assert(0, NEW);
    assert_eq!(scene.version().as_deref(), Some(NEW));
    let asked = scene.mirror.requests();
    assert!(asked.iter().all(|request| request.path.starts_with("http://mirror.invalid/")));
    assert!(!asked.is_empty());
}

#[test]
fn a_host_that_is_not_found_is_named_once_with_what_helps() {
    let scene = Scene::new();
    let ended = scene.fetch("--version 77.2.0 --mirror https://nowhere.invalid");
    ended.assert(1, "cause: Could not resolve host: nowhere.invalid");
    ended.assert(1, "https_proxy").assert(1, "fetch --offline DIR");
    assert_eq!(ended.stderr.matches("trying again").count(), 1, "{}", ended.stderr);
}

#[test]
fn a_mirror_may_be_named_with_or_without_the_directory_of_docker() {
    let scene = Scene::with(&[NEW]);
    let words = format!("--version {NEW} --dry-run --mirror {}", scene.mirror.url());
    let root = scene.fetch(&words);
    root.assert(0, "/linux/static/stable/");
    for directory in ["/linux/static", "/linux/static/"] {
        assert_eq!(scene.fetch(&format!("{words}{directory}")).assert(0, "").stdout, root.stdout);
    }
}

#[test]
fn wget_is_used_where_there_is_no_curl() {
    let scene = Scene::with(&[NEW]);
    let tools = scene.user.home.join("tool/bin");
    scene.user.make_dir(&tools);
    // These two start it.
    for name in ["setpriv", "timeout"] {
        symlink(format!("/usr/bin/{name}"), tools.join(name)).expect("a link");
    }
    let path = tools.display().to_string();
    let fetch = || finish(scene.command(&format!("--version {NEW}")).env("PATH", &path));
    fetch().assert(4, "neither curl nor wget is installed");
    symlink("/usr/bin/wget", tools.join("wget")).expect("a link");
    let release = Release::new(NEW).path(Docker);
    scene.mirror.fail(&release, Fault::Status(404), 1);
    fetch().assert(1, "404");
    scene.mirror.fail(&release, Fault::Redirect("/elsewhere.tgz".to_owned()), 1);
    fetch().assert(6, "takes curl to follow");
    scene.mirror.fail(&release, Fault::Cut(40_000), 1);
    fetch().assert(0, "trying again");
    assert_eq!(scene.version().as_deref(), Some(NEW));
}

#[test]
fn a_second_one_at_the_same_time_is_told_who_is_first() {
    let scene = Scene::with(&[NEW]);
    let (arrival, go) = scene.mirror.gate();
    let mut first = scene.command(&format!("--version {NEW}")).spawn().expect("started");
    arrival.recv().expect("a request");
    for words in [format!("--version {NEW}"), "--remove".to_owned(), "--rollback".to_owned()] {
        let second = scene.fetch(&words);
        second.assert(5, "is fetching or removing programs already");
        assert!(second.stderr.contains("error: process "), "{}", second.stderr);
    }
    drop(go);
    assert_eq!(first.wait().expect("ended").code(), Some(0));
    assert_eq!(scene.version().as_deref(), Some(NEW));
}

#[test]
fn a_terminal_sees_how_far_it_is() {
    let scene = Scene::new();
    let release = Release::new(NEW);
    release.publish(&scene.mirror);
    let sums = [Docker, Extras].map(|package| {
        format!("--sha256 {}={}", release.file(package), sum(release.bytes(package)))
    });
    let line = format!("{} fetch --version {NEW} {}", scene.program.display(), sums.join(" "));
    scene.mirror.fail(&release.path(Docker), Fault::Cut(40_000), 1);
    // script(1) gives it a terminal.
    let mut script = scene.user.brief_command("script");
    script
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .env("DOCKERD_ROOTLESS_MIRROR", scene.mirror.url());
    let mut process =
        script.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("script(1)");
    let mut screen = process.stdout.take().expect("a pipe");
    let mut seen = Vec::new();
    screen.read_to_end(&mut seen).expect("read");
    let seen = String::from_utf8_lossy(&seen).into_owned();
    assert!(process.wait().expect("ended").success(), "{seen}");
    assert!(seen.contains("#100.0%\r\n") || seen.contains("# 100.0%\r\n"), "{seen}");
    // What we say begins a line.
    let ours: Vec<_> = seen.lines().filter(|line| line.contains("warning: ")).collect();
    assert!(!ours.is_empty() && !ours.iter().any(|line| line.contains('#')), "{seen}");
    assert_eq!(scene.version().as_deref(), Some(NEW));
}

#[test]
fn a_directory_serves_as_well_and_nobody_is_asked() {
    let scene = Scene::new();
    let [old, new] = [OLD, NEW].map(Release::new);
    let directory = scene.user.home.join("tool/tarballs");
    for release in [&old, &new] {
        for package in [Docker, Extras] {
            let file = directory.join(release.file(package));
            scene.user.write(&file, release.bytes(package));
            scene.user.write(&file.with_extension("tgz.sha256"), sum(release.bytes(package)));
        }
    }
    let offline = format!("--offline {}", directory.display());
    scene.fetch(&offline).assert(0, NEW);
    assert_eq!(scene.version().as_deref(), Some(NEW));
    scene.fetch(&format!("{offline} --version {OLD}")).assert(0, OLD);
    assert_eq!(scene.version().as_deref(), Some(OLD));
    let missing = scene.fetch(&format!("{offline} --version 77.9.0"));
    missing.assert(1, "docker-77.9.0.tgz and docker-rootless-extras-77.9.0.tgz");
    for empty in [scene.user.home.join("tool"), "/nowhere".into()] {
        let ended = scene.fetch(&format!("--offline {}", empty.display()));
        ended.assert(1, "docker-VERSION.tgz and docker-rootless-extras-VERSION.tgz");
    }
    scene.user.write(&directory.join(new.file(Docker)), "not a tarball");
    scene.fetch("--remove").assert(0, "");
    scene.fetch(&offline).assert(6, "has the SHA-256 sum");
    assert_eq!(scene.version(), None);
    assert!(scene.mirror.requests().is_empty());
}

#[test]
fn a_dry_run_tells_and_does_nothing() {
    let scene = Scene::with(&[NEW]);
    let before = scene.tree();
    let ended =
        scene.fetch(&format!("--version {NEW} --dry-run --format json --install -- --no-start"));
    let object = ended.assert(0, "the mirror's own sum only").json();
    assert_eq!(
        (&object["schema"], &object["changed"], &object["dry_run"]),
        (&1.into(), &true.into(), &true.into())
    );
    let actions = object["actions"].to_string();
    for part in [
        "fetch `http://127.0.0.1:",
        "beside it",
        "switch to Docker 77.2.0",
        "/.profile",
        "dockerd-rootless install --no-start",
    ] {
        assert!(actions.contains(part), "no {part}: {actions}");
    }
    assert_eq!(scene.tree(), before);
}

#[test]
fn a_dry_run_prints_what_the_run_then_does() {
    let scene = super::kills::with_foreign();
    let update = format!("--version {NEW}");
    scene.fetch("--rollback --dry-run").assert(1, "there is no earlier version");
    for words in [&*update, "--rollback", &update, &update, "--remove", "--remove"] {
        let [would, done] = ["--dry-run", ""].map(|more| {
            let object = scene.fetch(&format!("{words} --format json {more}")).assert(0, "").json();
            let actions = object["actions"].as_array().expect("a list").clone();
            // What follows the verb.
            let objects = actions.iter().map(|action| {
                let action = action.as_str().expect("a sentence");
                action.split_once(' ').expect("a verb").1.to_owned()
            });
            objects.collect::<Vec<_>>()
        });
        assert_eq!(would, done, "{words}");
    }
}

#[test]
fn without_a_daemon_of_these_programs_nothing_is_verified_and_that_is_said() {
    let scene = Scene::have(OLD);
    let words = format!("--version {NEW} --verify");
    let would = "would test the daemon with `dockerd-rootless verify`";
    scene.fetch(&format!("{words} --dry-run")).assert(0, would);
    let ended = scene.fetch(&words);
    ended.assert(0, "nothing was verified: no daemon runs with these programs yet");
    ended.assert(0, "once it does: dockerd-rootless verify");
    assert_eq!(scene.version().as_deref(), Some(NEW));
    scene.fetch("--remove --verify").assert(2, "cannot be used with");
}
