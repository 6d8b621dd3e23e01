//! A scene: something is wrong with the host, `check` says what and how to mend it, and that is done.
//!
//! Faults of the host are made in a mount namespace with an `/etc` of its own, and go with it; `scene.sh` is what runs
//! there. What the user's side is (home, runtime directory) goes with the user.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::{Launcher, TestUser, UserManager, user, wait};

/// For a scene that installs a package from a mirror.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where a scene is played.
pub enum Stage<'m> {
    /// In a mount namespace.
    Mounts,
    /// In a network namespace too, for fixes that set `net.*`.
    Network,
    /// In a user namespace too, with all ids of the host, for fixes that set `user.*`.
    Users,
    /// Where this user manager is.
    Manager(&'m UserManager<'m>),
}

/// What is wrong, and for whom.
pub struct Scene<'s> {
    user: &'s TestUser,
    fault: String,
    profile: String,
    privileges: &'static str,
    stage: Stage<'s>,
}

/// What came of it.
pub struct Story {
    pub before: Report,
    pub after: Report,
    dir: PathBuf,
}

/// A check's report and exit code.
pub struct Report {
    pub exit: i32,
    pub json: Value,
}

impl<'s> Scene<'s> {
    /// Nothing is wrong yet.
    pub fn new(user: &'s TestUser) -> Self {
        Launcher::Run.install(user);
        user.make_dir(&user.home.join("scene"));
        Self {
            user,
            fault: String::new(),
            profile: String::new(),
            privileges: "",
            stage: Stage::Mounts,
        }
    }

    /// What root does to the host, in shell; it may use the functions of `scene.sh`.
    pub fn fault(mut self, script: impl Into<String>) -> Self {
        self.fault = script.into();
        self
    }

    /// What each of the user's shells does first.
    pub fn profile(mut self, script: impl Into<String>) -> Self {
        self.profile = script.into();
        self
    }

    /// Options of setpriv(1) for the user's shells.
    pub fn privileges(mut self, options: &'static str) -> Self {
        self.privileges = options;
        self
    }

    pub fn on(mut self, stage: Stage<'s>) -> Self {
        self.stage = stage;
        self
    }

    /// Plays it with the fixes that `words` choose, and fails unless the check called `name` sees the fault with `status`
    /// and a summary that holds `says`, the second run of each fix changes nothing, and the check is content then.
    pub fn assert_mended(&self, name: &str, status: &str, says: &str, words: &[&str]) -> Story {
        let story = self.play("apart", words);
        story.before.assert(name, status, says);
        story.assert_idle_twice();
        story.assert_content(&[name]);
        story
    }

    /// The same with the fixes of this check alone: none that is for the whole of a developer's host.
    pub fn assert_mended_alone(&self, name: &str, status: &str, says: &str) -> Story {
        self.assert_mended(name, status, says, &["--only", name])
    }

    /// Plays it; `mend` is the way of mending.
    pub fn play(&self, mend: &str, words: &[&str]) -> Story {
        let dir = self.user.home.join("scene");
        let script = dir.join("scene.sh");
        self.user.write(&script, include_str!("../scene.sh"));
        let mut command = self.stage.command();
        command
            .arg("sh")
            .arg(&script)
            .env_clear()
            .env("PATH", user::PATH)
            .env("HOME", &self.user.home)
            .env("USER", &self.user.name)
            .env("XDG_RUNTIME_DIR", &self.user.runtime_dir)
            .env("LOCK", user::LOCK)
            .env("FAULT", &self.fault)
            .env("PROFILE", &self.profile)
            .env("PRIVILEGES", self.privileges)
            .env("WORDS", words.join(" "))
            .env("MEND", mend)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = Process(command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}")));
        if matches!(self.stage, Stage::Users) {
            process.map_all_ids();
        }
        let status = wait::poll(PATIENCE, || process.0.try_wait().expect("wait for the scene"));
        let story = |before, after| Story { before, after, dir: dir.clone() };
        let played = status.is_some_and(|status| status.success());
        let (Some(before), Some(after), true) =
            (Report::read(&dir, "before"), Report::read(&dir, "after"), played)
        else {
            let nothing = || Report { exit: -1, json: Value::Null };
            panic!("the scene ended early: {status:?}\n{}", story(nothing(), nothing()).told());
        };
        story(before, after)
    }
}

impl Stage<'_> {
    fn command(&self) -> Command {
        const UNSHARE: [&str; 4] = ["unshare", "--mount", "--propagation", "private"];
        let pid;
        let words: &[&str] = match self {
            Stage::Mounts => &UNSHARE,
            Stage::Network => &[&UNSHARE[..], &["--net"]].concat(),
            // The first word says that the namespace is there, and the answer that its ids are.
            Stage::Users => {
                &[&UNSHARE[..], &["--user", "sh", "-c", "echo; read -r _; exec \"$@\"", "sh"]]
                    .concat()
            }
            Stage::Manager(manager) => {
                pid = manager.pid().to_string();
                &[&["nsenter", "--mount", "--target", &pid][..], &UNSHARE].concat()
            }
        };
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command
    }
}

/// The process that plays; it is killed if the test fails meanwhile, and the user's end kills what it has started.
struct Process(Child);

impl Process {
    fn map_all_ids(&mut self) {
        let said = self.0.stdout.take().expect("a pipe");
        BufReader::new(said).read_line(&mut String::new()).expect("a line");
        for map in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{}/{map}", self.0.id()), "0 0 4294967295\n")
                .expect("map all ids");
        }
        self.0.stdin.take().expect("a pipe").write_all(b"\n").expect("a pipe");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Story {
    /// A file of the scene: `fix.root`, `fix.user`, `fix.both` as printed, `root.1` to `user.2` as what they said.
    pub fn file(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.join(name)).unwrap_or_default()).into_owned()
    }

    /// Fails unless the scripts hold something, and running them again changed nothing.
    pub fn assert_idle_twice(&self) {
        let scripts = ["root", "user"].map(|whose| self.file(&format!("fix.{whose}")));
        assert!(scripts.concat().lines().count() > 1, "no fix was printed\n{}", self.told());
        for whose in ["root", "user"] {
            let [first, second] = ["1", "2"].map(|run| self.file(&format!("state.{whose}.{run}")));
            assert!(first.lines().count() > 100, "the state was not looked at: {first}");
            let only_in = |one: &str, other: &str| -> Vec<String> {
                let other: Vec<&str> = other.lines().collect();
                one.lines().filter(|line| !other.contains(line)).map(str::to_owned).collect()
            };
            let (lost, new) = (only_in(&first, &second), only_in(&second, &first));
            assert!(
                lost.is_empty() && new.is_empty(),
                "{whose}'s second run changed {lost:#?} to {new:#?}\n{}",
                self.told()
            );
        }
    }

    /// Fails unless these checks, and with them the whole, are content in the end.
    pub fn assert_content(&self, names: &[&str]) {
        for name in names {
            assert_eq!(self.after.finding(name)["status"], "ok", "{name}\n{}", self.told());
        }
        assert_eq!(self.after.failed(), [""; 0], "{}", self.told());
        assert_eq!(self.after.exit, 0, "{}", self.told());
    }

    /// What happened, for one who has to find out why.
    fn told(&self) -> String {
        let files = [
            "fix.root", "fix.user", "fix.both", "root.1", "root.2", "user.1", "user.2", "both.1",
            "log",
        ];
        let told = files.map(|name| format!("--- {name}\n{}", self.file(name)));
        format!(
            "{}--- before\n{}\n--- after\n{}",
            told.concat(),
            self.before.told(),
            self.after.told()
        )
    }
}

impl Report {
    fn read(dir: &std::path::Path, name: &str) -> Option<Self> {
        let text = |ending: &str| fs::read_to_string(dir.join(format!("{name}.{ending}"))).ok();
        Some(Self {
            exit: text("code")?.trim().parse().ok()?,
            json: serde_json::from_str(&text("json")?).ok()?,
        })
    }

    /// What the check called `name` found.
    pub fn finding(&self, name: &str) -> &Value {
        let checks = self.json["checks"].as_array().map_or(&[][..], |checks| checks);
        checks.iter().find(|check| check["name"] == name).unwrap_or(&Value::Null)
    }

    /// The names of the checks that fail.
    pub fn failed(&self) -> Vec<&str> {
        let checks = self.json["checks"].as_array().map_or(&[][..], |checks| checks);
        checks
            .iter()
            .filter(|check| check["status"] == "fail")
            .filter_map(|check| check["name"].as_str())
            .collect()
    }

    /// Fails unless the check called `name` found this, and the exit code goes with it.
    pub fn assert(&self, name: &str, status: &str, says: &str) {
        let finding = self.finding(name);
        assert_eq!(finding["status"], status, "{name}: {finding:#}");
        let summary = finding["summary"].as_str().unwrap_or_default();
        assert!(summary.contains(says), "{name}: {summary}");
        assert_eq!(self.json["counts"]["fail"], self.failed().len());
        let exit = if self.failed().is_empty() { 0 } else { 4 };
        assert_eq!(self.exit, exit, "{:?}", self.failed());
    }

    /// All findings but those with which nothing is wrong.
    fn told(&self) -> String {
        let checks = self.json["checks"].as_array().map_or(&[][..], |checks| checks);
        let wrong =
            checks.iter().filter(|check| check["status"] == "warn" || check["status"] == "fail");
        wrong.map(|check| format!("{check}\n")).collect()
    }
}
