//! What starts the daemon: our binary under its two names, or upstream's script as the yardstick.

use std::env;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::TestUser;
use crate::command::run;

/// Our other name, beside the program that [`Launcher::install`] returns.
pub const SETUP_TOOL: &str = "dockerd-rootless-setuptool.sh";

const UPSTREAM: &str = "/usr/share/docker.io/contrib/dockerd-rootless.sh";

/// `E2E_LAUNCHER=upstream` puts upstream's script in the place of ours, to see which of the tests it passes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Launcher {
    /// `dockerd-rootless`
    Run,
    /// `dockerd-rootless run --exec --`
    RunExec,
    /// `dockerd-rootless.sh`, a symlink to the binary as an installation makes it
    Script,
    /// Debian's copy of `dockerd-rootless.sh`
    Upstream,
}

impl Launcher {
    /// Puts the program where `user` can run it (the build directory may be root's alone) and returns its path.
    pub fn install(self, user: &TestUser) -> PathBuf {
        if self.replaced() == Self::Upstream {
            assert!(
                Path::new(UPSTREAM).exists(),
                "{UPSTREAM} is missing: apt-get install docker.io"
            );
            return UPSTREAM.into();
        }
        let binary = user.home.join("bin/dockerd-rootless");
        if !binary.exists() {
            place(user, || install(&built("dockerd-rootless"), &binary));
        }
        if self == Self::Script { binary.with_extension("sh") } else { binary }
    }

    /// The words between the program's name and dockerd's arguments.
    pub fn words(self) -> &'static [&'static str] {
        match self.replaced() {
            Self::RunExec => &["run", "--exec", "--"],
            Self::Run | Self::Script | Self::Upstream => &[],
        }
    }

    fn replaced(self) -> Self {
        match env::var("E2E_LAUNCHER").as_deref() {
            Ok("upstream") => Self::Upstream,
            Ok(other) => panic!("E2E_LAUNCHER: expected `upstream`, got `{other}`"),
            Err(_) => self,
        }
    }
}

/// Puts our program where `user` can run it, without the symbols that make it large in a debug build, and returns its path.
pub fn install_stripped(user: &TestUser) -> PathBuf {
    let program = user.home.join("bin/dockerd-rootless");
    place(user, || {
        run(Command::new("strip").arg("-o").args([&program, &built("dockerd-rootless")]));
    });
    program
}

/// Has `put` put our program into the user's `~/bin`, and links its other names.
fn place(user: &TestUser, put: impl FnOnce()) {
    let bin = user.home.join("bin");
    user.make_dir(&bin);
    put();
    for name in ["dockerd-rootless.sh", SETUP_TOOL] {
        symlink("dockerd-rootless", bin.join(name)).expect("link our other names");
    }
}

/// Returns the path of what cargo has built of this package: it lies beside the directory of the suite itself.
pub fn built(name: &str) -> PathBuf {
    let suite = env::current_exe().expect("the suite's own path");
    let path = suite.parent().expect("deps").with_file_name(name);
    assert!(path.exists(), "{} is missing: cargo builds it for `cargo test`", path.display());
    path
}

/// Copies a program by way of another process: a descriptor of ours that is open for writing would be inherited by what a
/// parallel test forks just then, and nobody can execute the copy before that has closed it ("Text file busy").
pub fn install(from: &Path, to: &Path) {
    run(Command::new("install").arg("--mode=0755").args([from, to]));
}
