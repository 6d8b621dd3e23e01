//! `install/install.sh`, as `install/dist.sh` writes it, run by every shell that is here.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::release::sum;
use super::scene::{Ended, NEW, Scene};
use test_support::TestUser;
use test_support::command::run;
use test_support::mirror::{Fault, Mirror};

/// A program that stands for ours: it notes its words and what it can read.
const STUB: &str = "#!/bin/sh\nprintf '<%s>' \"$@\" >\"$HOME/words\"; cat >\"$HOME/input\"; exit ${STUB_EXIT:-0}\n";

/// A wget that knows the short options alone.
const WGET: &str = "#!/bin/sh\n[ \"$1\" = -q ] || exit 1\nexec /usr/bin/wget \"$@\"\n";

/// An installer without a release.
const PLAIN: &str = include_str!("../../install/install.sh");

const SHELLS: [&[&str]; 3] = [&["dash"], &["busybox", "sh"], &["bash", "--posix"]];

/// A release on a server, with an installer for it.
pub struct Site {
    pub user: TestUser,
    pub mirror: Mirror,
    script: String,
    file: String,
    directory: PathBuf,
}

impl Site {
    /// Of the program at `program`.
    pub fn of(user: TestUser, program: &Path) -> Self {
        let mirror = Mirror::new();
        let directory = user.home.join("dist");
        user.make_dir(&directory);
        let dist = concat!(env!("CARGO_MANIFEST_DIR"), "/install/dist.sh");
        run(Command::new("sh")
            .arg(dist)
            .arg(format!("{}/v1/", mirror.url()))
            .arg(&directory)
            .arg(program));
        for entry in fs::read_dir(&directory).expect("a release").flatten() {
            let bytes = fs::read(entry.path()).expect("a file");
            mirror.put(&format!("/v1/{}", entry.file_name().display()), bytes);
        }
        let script = fs::read_to_string(directory.join("install.sh")).expect("a script");
        let machine = run(Command::new("uname").arg("-m"));
        Self { user, mirror, script, file: format!("dockerd-rootless-{machine}"), directory }
    }

    fn new() -> Self {
        let user = TestUser::new();
        let stub = user.home.join("stub");
        user.write(&stub, STUB);
        Self::of(user, &stub)
    }

    /// `curl … | SHELL -s -- WORDS`
    fn pipe(
        &self,
        shell: &[&str],
        script: &str,
        words: &[&str],
        variables: &[(&str, &str)],
    ) -> Ended {
        let mut command = self.user.brief_command(shell[0]);
        command.args(&shell[1..]).arg("-s").arg("--").args(words).envs(variables.iter().copied());
        command.env("TMPDIR", self.user.home.join("tmp"));
        self.user.make_dir(&self.user.home.join("tmp"));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a shell");
        // A shell that has ended reads no more.
        let _ = child.stdin.take().expect("a pipe").write_all(script.as_bytes());
        let ended = Ended::of(&child.wait_with_output().expect("ended"));
        let left: Vec<_> =
            fs::read_dir(self.user.home.join("tmp")).expect("a directory").flatten().collect();
        assert!(left.is_empty(), "{left:?}");
        ended
    }

    fn noted(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.user.home.join(file)).ok()
    }
}

#[test]
fn every_shell_gets_the_program_checks_it_and_hands_its_words_over() {
    for shell in SHELLS {
        let site = Site::new();
        let words = ["--version", "29.2.0", "a b", "--", "--no-start"];
        site.pipe(shell, &site.script, &words, &[]).assert(0, "");
        assert_eq!(
            site.noted("words").as_deref(),
            Some("<fetch><--install><--version><29.2.0><a b><--><--no-start>"),
            "{shell:?}"
        );
        assert_eq!(site.noted("input").as_deref(), Some(""), "{shell:?}");
        site.pipe(shell, &site.script, &[], &[("STUB_EXIT", "6")]).assert(6, "");
    }
}

#[test]
fn a_script_that_is_cut_off_does_nothing() {
    let site = Site::new();
    let lines: Vec<_> = site.script.lines().collect();
    for shell in SHELLS {
        for end in (0..lines.len() - 1).step_by(7).chain([lines.len() - 1]) {
            let cut = lines[..end].join("\n");
            site.pipe(shell, &cut, &[], &[]);
            let inside = &site.script[..cut.len().saturating_sub(3)];
            site.pipe(shell, inside, &[], &[]);
        }
    }
    assert_eq!(site.noted("words"), None);
    assert!(site.mirror.requests().is_empty());
}

#[test]
fn another_program_than_the_released_one_is_not_run() {
    let site = Site::new();
    let evil = "#!/bin/sh\ntouch \"$HOME/words\"\n";
    site.mirror.put(&format!("/v1/{}", site.file), evil);
    // The file beside it says what whoever has the server wants it to say.
    site.mirror.put(
        &format!("/v1/{}.sha256", site.file),
        format!("{}  {}\n", sum(evil.as_bytes()), site.file),
    );
    site.pipe(SHELLS[0], &site.script, &[], &[]).assert(6, "nothing was changed");
    assert_eq!(site.noted("words"), None);
}

#[test]
fn a_program_that_the_release_does_not_know_is_not_run() {
    let site = Site::new();
    let script = site.script.replace(&site.file, "dockerd-rootless-vax");
    site.pipe(SHELLS[0], &script, &[], &[])
        .assert(4, "this release has no program for this machine");
    assert_eq!(site.noted("words"), None);
}

#[test]
fn a_directory_in_which_no_program_runs_is_named() {
    let site = Site::new();
    let directory = site.user.home.join("noexec");
    site.user.make_dir(&directory);
    let script = site.user.home.join("install.sh");
    site.user.write(&script, &site.script);
    let prepare = format!("mount -t tmpfs -o noexec,mode=1777 tmpfs {}", directory.display());
    let mut command = site.user.command_after(&prepare, "dash");
    command.arg(&script).env("TMPDIR", &directory);
    Ended::of(&command.output().expect("dash")).assert(1, "Set TMPDIR");
    assert_eq!(site.noted("words"), None);
}

#[test]
fn an_installer_without_a_release_needs_an_address_and_trusts_the_sum_beside_the_file() {
    let site = Site::new();
    site.pipe(SHELLS[0], PLAIN, &[], &[]).assert(1, "Set DOCKERD_ROOTLESS_URL");
    let url = format!("{}/v1", site.mirror.url());
    let address = [("DOCKERD_ROOTLESS_URL", &*url)];
    site.pipe(SHELLS[0], PLAIN, &[], &address).assert(0, "");
    assert!(site.noted("words").is_some());
    site.mirror.put(&format!("/v1/{}.sha256", site.file), format!("{}  x\n", "0".repeat(64)));
    site.pipe(SHELLS[0], PLAIN, &[], &address).assert(6, "instead of");
    site.mirror.remove(&format!("/v1/{}.sha256", site.file));
    site.pipe(SHELLS[0], PLAIN, &[], &address).assert(1, "cannot be downloaded");
    let elsewhere = [("DOCKERD_ROOTLESS_URL", "http://mirror.invalid/v1")];
    site.pipe(SHELLS[0], PLAIN, &[], &elsewhere).assert(1, "only https is trusted");
}

#[test]
fn a_download_that_fails_says_so_and_one_that_fails_for_a_moment_is_tried_again() {
    let site = Site::new();
    let path = format!("/v1/{}", site.file);
    site.mirror.fail(&path, Fault::Status(404), 1);
    site.pipe(SHELLS[0], &site.script, &[], &[]).assert(1, "cannot be downloaded");
    site.mirror.fail(&path, Fault::Redirect("file:///etc/passwd".to_owned()), 1);
    site.pipe(SHELLS[0], &site.script, &[], &[]).assert(1, "cannot be downloaded");
    assert_eq!(site.noted("words"), None);
    site.mirror.fail(&path, Fault::Status(503), 1);
    site.pipe(SHELLS[0], &site.script, &[], &[]).assert(0, "");
    assert!(site.noted("words").is_some());
}

#[test]
fn wget_does_where_there_is_no_curl_and_openssl_where_there_is_no_sha256sum() {
    let site = Site::new();
    let tools = site.user.home.join("tools");
    site.user.make_dir(&tools);
    for name in
        ["cat", "chmod", "cut", "id", "mktemp", "openssl", "rm", "sed", "sh", "uname", "wget"]
    {
        let target = Path::new("/usr/bin").join(name);
        assert!(target.exists(), "{} is missing", target.display());
        std::os::unix::fs::symlink(target, tools.join(name)).expect("a link");
    }
    let path = format!("PATH={}", tools.display());
    let shell = ["/usr/bin/env", &path, "sh"];
    site.pipe(&shell, &site.script, &[], &[]).assert(0, "");
    assert!(site.noted("words").is_some());
    // One that cannot be told to stay with https is for what the script knows the sum of.
    fs::remove_file(tools.join("wget")).expect("removed");
    site.user.write(&tools.join("wget"), WGET);
    fs::set_permissions(tools.join("wget"), fs::Permissions::from_mode(0o755)).expect("a mode");
    site.pipe(&shell, &site.script, &[], &[]).assert(0, "");
    let url = format!("{}/v1", site.mirror.url());
    site.pipe(&shell, PLAIN, &[], &[("DOCKERD_ROOTLESS_URL", &url)])
        .assert(4, "install curl or GNU wget");
    fs::remove_file(tools.join("openssl")).expect("removed");
    site.pipe(&shell, &site.script, &[], &[]).assert(4, "nothing here computes SHA-256 sums");
    fs::remove_file(tools.join("wget")).expect("removed");
    site.pipe(&shell, &site.script, &[], &[]).assert(4, "neither curl nor wget");
}

#[test]
fn root_is_sent_away() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/install/install.sh");
    let output = Command::new("sh")
        .arg(script)
        .env("DOCKERD_ROOTLESS_URL", "http://127.0.0.1:1/")
        .output()
        .expect("sh");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("not by root"), "{said}");
}

#[test]
fn the_real_program_comes_through_the_pipe_and_fetches() {
    let scene = Scene::with(&[NEW]);
    let Scene { user, mirror, program } = scene;
    let site = Site::of(user, &program);
    let tarballs = mirror.url();
    let words = ["--version", NEW, "--mirror", &tarballs, "--dry-run", "--", "--no-start"];
    let ended = site.pipe(SHELLS[0], &site.script, &words, &[("SKIP_IPTABLES", "1")]);
    ended.assert(0, "run `dockerd-rootless install --skip-iptables --no-start`");
    assert!(site.directory.join("install.sh").exists());
    assert!(!site.user.home.join("bin").exists());
}
