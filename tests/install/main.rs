//! `install`, `upgrade`, `uninstall` and `nsenter` under a real `systemd --user`, as an unprivileged user with the real
//! programs.

mod client;
mod life;
mod manager;
mod setup_tool;
mod units;
mod verify;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use test_support::*;

/// A user who has our program in `~/bin`.
struct Home<'u> {
    user: &'u TestUser,
    program: PathBuf,
}

impl<'u> Home<'u> {
    fn new(user: &'u TestUser) -> Self {
        Self { user, program: Launcher::Run.install(user) }
    }

    /// Our program with `words`, split at blanks.
    fn command(&self, words: &str) -> Command {
        let mut command = self.user.brief_command(&self.program);
        command.args(words.split_whitespace());
        command
    }

    fn tell(&self, words: &str) -> Told {
        Told::by(&mut self.command(words))
    }

    /// The same in a room.
    fn tell_in(&self, room: &Room<'_>, words: &str) -> Told {
        let mut command = room.command(&self.program);
        Told::by(command.args(words.split_whitespace()))
    }

    /// The file of one of the user's units.
    fn unit(&self, name: &str) -> PathBuf {
        self.user.home.join(".config/systemd/user").join(name)
    }

    fn read_unit(&self, name: &str) -> String {
        let path = self.unit(name);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// The docker client without any variable, as the user would type it.
    fn docker(&self, words: &str) -> Told {
        let mut docker = self.user.brief_command("docker");
        docker.args(words.split_whitespace());
        Told::by(&mut docker)
    }

    fn context(&self) -> String {
        self.docker("context show").good().stdout.trim().to_owned()
    }

    /// Has the user's own `PATH` lead to these directories only.
    fn with_path(&self, words: &str, path: &str) -> Told {
        Told::by(self.command(words).env("PATH", path))
    }
}

/// Every file below `directory` with its bytes.
fn tree(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type().expect("a kind") {
            kind if kind.is_dir() => found.extend(tree(&path)),
            kind if kind.is_file() => found.push((path.clone(), fs::read(&path).expect("read"))),
            _ => found.push((path, Vec::new())),
        }
    }
    found.sort();
    found
}
