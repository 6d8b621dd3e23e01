//! A user, a server, our program, and the questions that every test asks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use dockerd_rootless::fetch::all_names;
use serde_json::Value;

use super::release::{Release, sum};
use test_support::TestUser;
use test_support::command::run;
use test_support::mirror::Mirror;

/// The versions that tests go from and to.
pub const OLD: &str = "77.1.0";
pub const NEW: &str = "77.2.0";

pub struct Scene {
    pub user: TestUser,
    pub mirror: Mirror,
    pub program: PathBuf,
}

/// How a run ended.
pub struct Ended {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    pub fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code(),
            signal: output.status.signal(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    #[track_caller]
    pub fn assert(&self, code: i32, says: &str) -> &Self {
        let said = format!("{}{}", self.stdout, self.stderr);
        assert_eq!((self.code, self.signal), (Some(code), None), "{said}");
        assert!(said.contains(says), "no `{says}` in:\n{said}");
        self
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}{}", self.stdout, self.stderr))
    }
}

impl Scene {
    pub fn new() -> Self {
        let user = TestUser::new();
        let program = user.home.join("tool/dockerd-rootless");
        user.make_dir(program.parent().expect("a directory"));
        run(Command::new("install").arg("--mode=0755").arg(stripped()).arg(&program));
        Self { user, mirror: Mirror::new(), program }
    }

    /// With these versions on the server.
    pub fn with(versions: &[&str]) -> Self {
        let scene = Self::new();
        for version in versions {
            Release::new(version).publish(&scene.mirror);
        }
        scene
    }

    /// `fetch` with these words, split at blanks.
    pub fn command(&self, words: &str) -> Command {
        let mut command = self.user.brief_command(&self.program);
        command.arg("fetch").args(words.split_whitespace());
        command.env("DOCKERD_ROOTLESS_MIRROR", self.mirror.url());
        command
    }

    pub fn fetch(&self, words: &str) -> Ended {
        finish(&mut self.command(words))
    }

    /// The same in a mount namespace that root has prepared.
    pub fn fetch_after(&self, prepare: &str, words: &str) -> Ended {
        let mut command = self.user.command_after(prepare, &self.program);
        command.arg("fetch").args(words.split_whitespace());
        command.env("DOCKERD_ROOTLESS_MIRROR", self.mirror.url());
        finish(&mut command)
    }

    /// The same with a list of the system calls of its main thread that change what a name leads to.
    pub fn traced(&self, words: &str) -> Vec<String> {
        let calls =
            "mkdir,mkdirat,rename,renameat,renameat2,rmdir,symlink,symlinkat,unlink,unlinkat";
        let list = self.user.home.join("tool/calls");
        self.user.write(&list, "");
        let mut command = self.user.brief_command("strace");
        command.arg("-qq").arg("-o").arg(&list).args(["-e", &format!("trace={calls}")]);
        command.arg(&self.program).arg("fetch").args(words.split_whitespace());
        command.env("DOCKERD_ROOTLESS_MIRROR", self.mirror.url());
        finish(&mut command).assert(0, "");
        let lines = fs::read_to_string(&list).expect("a list");
        lines.lines().filter_map(|line| Some(line.split_once('(')?.0.to_owned())).collect()
    }

    /// The same until its main thread begins one of the system calls `call`, the one with this number; there it is killed.
    /// Says whether it came there.
    pub fn fetch_until(&self, call: &str, number: usize, words: &str) -> bool {
        let mut command = self.user.brief_command("strace");
        command.arg("-qq").args(["-o", "/dev/null", "-e", &format!("trace={call}")]);
        command.args(["-e", &format!("inject={call}:signal=KILL:when={number}")]);
        command.arg(&self.program).arg("fetch").args(words.split_whitespace());
        command.env("DOCKERD_ROOTLESS_MIRROR", self.mirror.url());
        let ended = finish(&mut command);
        let is_killed = ended.signal == Some(9) || ended.code == Some(128 + 9);
        if !is_killed {
            ended.assert(0, "");
        }
        is_killed
    }

    #[track_caller]
    pub fn have(version: &str) -> Self {
        let scene = Self::with(&[OLD, NEW]);
        scene.fetch(&format!("--version {version}")).assert(0, version);
        scene.mirror.requests();
        scene
    }

    pub fn bin(&self) -> PathBuf {
        self.user.home.join("bin")
    }

    pub fn store(&self) -> PathBuf {
        self.user.home.join(".local/share/dockerd-rootless")
    }

    /// What each program in `~/bin` tells of its version.
    pub fn told(&self) -> BTreeMap<&'static str, String> {
        all_names()
            .filter_map(|name| {
                let text = fs::read(self.bin().join(name)).ok()?;
                let line = text.split(|byte| *byte == b'\n').nth(1).unwrap_or_default();
                let line = String::from_utf8_lossy(line).into_owned();
                let version = line.strip_prefix(&format!("echo {name} "));
                Some((name, version.unwrap_or("ours").to_owned()))
            })
            .collect()
    }

    /// The one version of all programs in `~/bin`; `None` if there are none. Fails if they are a mixture, or not all there.
    #[track_caller]
    pub fn version(&self) -> Option<String> {
        let told = self.told();
        let versions: BTreeSet<&String> =
            told.values().filter(|version| *version != "ours").collect();
        assert!(versions.len() <= 1, "a mixture: {told:?}");
        let version = versions.first().map(|version| version.to_string())?;
        for name in ["dockerd", "docker", "containerd", "runc", "rootlesskit"] {
            assert!(told.contains_key(name), "no {name}: {told:?}");
        }
        Some(version)
    }

    /// Every file below the home but our program, caches and the lock: its kind, mode, owner, and content or target.
    pub fn tree(&self) -> BTreeMap<PathBuf, String> {
        let mut tree = BTreeMap::new();
        walk(&self.user.home, &self.user.home, &mut tree);
        let ours = |path: &Path| path.starts_with("tool") || path.starts_with(".cache");
        // The lock holds the number of the last process.
        tree.retain(|path, _| !ours(path) && !path.ends_with("dockerd-rootless/lock"));
        tree
    }
}

/// Our program without the symbols that make it large in a debug build.
fn stripped() -> &'static Path {
    static STRIPPED: OnceLock<PathBuf> = OnceLock::new();
    STRIPPED.get_or_init(|| {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("dockerd-rootless.stripped");
        run(Command::new("strip").arg("-o").arg(&path).arg(env!("CARGO_BIN_EXE_dockerd-rootless")));
        path
    })
}

pub fn finish(command: &mut Command) -> Ended {
    Ended::of(
        &command
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|error| panic!("{command:?}: {error}")),
    )
}

fn walk(root: &Path, directory: &Path, tree: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(directory).expect("a directory").flatten() {
        let path = entry.path();
        let metadata = path.symlink_metadata().expect("metadata");
        let content = if metadata.is_symlink() {
            format!("link {}", fs::read_link(&path).expect("a link").display())
        } else if metadata.is_dir() {
            walk(root, &path, tree);
            "directory".to_owned()
        } else {
            sum(&fs::read(&path).expect("a file"))
        };
        let mode = metadata.permissions().mode();
        let place = path.strip_prefix(root).expect("below").to_owned();
        tree.insert(place, format!("{mode:o} {} {content}", metadata.uid()));
    }
}
