//! The built binary as people and programs meet it: hostile files, results and messages, exit codes, the cache.
//!
//! No daemon runs here. Stubs stand in for rootlesskit, dockerd and slirp4netns and note that they were called; our program
//! is always run by a user without rights, and under a deadline. Its command lines are written as one would type them.

mod config_set;
mod files;
mod plan;
mod programs;
mod proxies;
mod streams;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::stat::Mode;
use nix::unistd::{geteuid, mkfifo};
use test_support::Told;
use test_support::stubs;

/// A user without rights, if the tests run as root: `run` and `plan` refuse root.
const NOBODY: u32 = 65534;

/// Neither root nor the one who runs our program.
const STRANGER: u32 = 1;

/// In seconds; what takes as long ends in exit 124 and fails the test.
const DEADLINE: &str = "30";

/// The commands that read settings.
const READERS: [&str; 4] = ["run", "plan", "config show", "config check"];

type Variables = BTreeMap<OsString, OsString>;

/// The folder of one test: our program under both names, stubs, a home, a runtime directory, what the stubs noted.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        let bench =
            Self(tempfile::Builder::new().prefix("drl-cli").tempdir().expect("a temporary folder"));
        chmod(bench.0.path(), 0o755);
        for folder in ["home", "home/.config", "home/.config/dockerd-rootless", "run", "record"] {
            bench.folder(folder);
        }
        bench.copy(env!("CARGO_BIN_EXE_dockerd-rootless"), "bin/dockerd-rootless");
        symlink("dockerd-rootless", bench.path("bin/dockerd-rootless.sh")).expect("a link");
        bench.stub("stubs/rootlesskit", &bench.rootlesskit("exit 1"));
        bench.stub("stubs/dockerd", "");
        bench.stub("stubs/slirp4netns", "echo slirp4netns --netns-type=TYPE");
        // No other program of the host is in PATH, so that none decides a test.
        fs::create_dir(bench.path("called")).expect("a folder");
        for program in ["sh", "cat", "sleep"] {
            symlink(Path::new("/bin").join(program), bench.path("called").join(program))
                .expect(program);
        }
        bench
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    /// Makes a folder of the user's own.
    fn folder(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).expect(name);
        chmod(&path, 0o700);
        give(&path, NOBODY);
        path
    }

    /// The user's configuration file with this text.
    fn configure(&self, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path("home/.config/dockerd-rootless/config.toml");
        write(&path, text);
        path
    }

    /// Makes a program that notes its name and first word, then does what `body` says.
    fn stub(&self, name: impl AsRef<Path>, body: &str) {
        let calls = self.path("record/calls");
        let script = format!("#!/bin/sh\necho \"${{0##*/}} $1\" >>{}\n{body}\n", calls.display());
        stubs::install("/dev/stdin", &self.path(name), script.as_bytes());
    }

    fn copy(&self, program: &str, name: &str) {
        stubs::install(program, &self.path(name), b"");
    }

    /// A rootlesskit that does `help` when it is asked, and else records its words and variables.
    fn rootlesskit(&self, help: &str) -> String {
        stubs::rootlesskit(&self.path("record"), help)
    }

    fn variables(&self) -> Variables {
        let search = [self.path("stubs"), self.path("called")];
        Variables::from([
            ("HOME".into(), self.path("home").into()),
            ("PATH".into(), std::env::join_paths(search).expect("a PATH")),
            ("PWD".into(), self.0.path().into()),
            ("XDG_RUNTIME_DIR".into(), self.path("run").into()),
        ])
    }

    /// Our program under `name`, started through the words of `wrapper`.
    fn program(&self, wrapper: &[&str], name: &str) -> Command {
        let mut command = Command::new("/usr/bin/timeout");
        command.args(["--kill-after=1", DEADLINE]).args(wrapper).arg(self.path("bin").join(name));
        command.env_clear().envs(self.variables()).current_dir(self.0.path()).stdin(Stdio::null());
        if geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// Our program as typed in `line`: variables, then words.
    fn command(&self, line: &str) -> Command {
        typed(self.program(&[], "dockerd-rootless"), line)
    }

    fn tell(&self, line: &str) -> Told {
        told(&mut self.command(line))
    }

    /// What was called since this was asked last, a line each.
    fn calls(&self) -> String {
        let path = self.path("record/calls");
        let calls = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(path);
        calls
    }

    /// The words that rootlesskit was started with, its own path first.
    fn recorded_words(&self) -> Vec<OsString> {
        stubs::words(&self.path("record")).expect("a record, as rootlesskit was started")
    }

    fn recorded_variables(&self) -> Variables {
        stubs::variables(&self.path("record")).expect("a record, as rootlesskit was started")
    }
}

/// `command` with what `line` says as one types it into a shell: variables first, then words.
fn typed(mut command: Command, line: &str) -> Command {
    let words = shlex::split(line).unwrap_or_else(|| panic!("{line}"));
    let is_variable = |word: &&String| {
        word.split('=').next().is_some_and(|name| name.len() < word.len() && !name.starts_with('-'))
    };
    let count = words.iter().take_while(is_variable).count();
    command
        .envs(words[..count].iter().filter_map(|word| word.split_once('=')))
        .args(&words[count..]);
    command
}

fn told(command: &mut Command) -> Told {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let told = Told::from(output);
    assert!(!told.stderr.contains("panicked"), "{command:?}: {told:?}");
    told
}

/// The programs and questions in the messages of level debug.
fn asked(told: &Told) -> Vec<&str> {
    let asked = told.stderr.lines().filter_map(|line| line.split_once("asking "));
    asked.map(|(_, what)| what.rsplit('/').next().unwrap_or(what)).collect()
}

/// The cases of a table that went wrong; all of them are named at the end.
#[derive(Default)]
struct Wrong(Vec<String>);

impl Wrong {
    fn unless(&mut self, right: bool, case: impl FnOnce() -> String) {
        if !right {
            self.0.push(case());
        }
    }

    fn end(self) {
        assert!(self.0.is_empty(), "{} wrong:\n{}", self.0.len(), self.0.join("\n"));
    }
}

/// Makes `path` itself, not what it links to, the property of `user`, if we can.
fn give(path: &Path, user: u32) {
    if geteuid().is_root() {
        lchown(path, Some(user), Some(user)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}

/// Writes a file of the user's own.
fn write(path: &Path, content: impl AsRef<[u8]>) {
    fs::write(path, content).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    give(path, NOBODY);
    chmod(path, 0o644);
}

fn write_mode(path: &Path, content: &str, mode: u32) {
    write(path, content);
    chmod(path, mode);
}

/// Writes a file of `user`'s.
fn write_as(path: &Path, content: &str, user: u32) {
    write(path, content);
    give(path, user);
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode))
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        .permissions()
        .mode()
        & 0o7777
}

fn fifo(path: &Path) {
    mkfifo(path, Mode::S_IRWXU).expect("mkfifo");
    give(path, NOBODY);
}

fn link(target: &str, path: &Path) {
    symlink(target, path).expect("a link");
}

/// The rows of a table of files, and those that only root can make if we are root.
fn with_those_of_root<T>(
    rows: &'static [T],
    of_root: &'static [T],
) -> impl Iterator<Item = &'static T> {
    let makes = geteuid().is_root();
    if !makes {
        println!("not root: files of other users and groups are not tried");
    }
    rows.iter().chain(of_root.iter().filter(move |_| makes))
}
