//! What it takes to get Docker's programs from a server on this host: upstream's steps (curl, tar) and ours, in turn. Ours
//! checks sums and has the disk take the programs before anything leads to them; upstream's does neither.

use std::fs;
use std::process::Command;
use std::time::Instant;

use dockerd_rootless::fetch::{Package, architecture, directory};

use super::{Bar, median, row};
use test_support::command::run;
use test_support::mirror::Mirror;
use test_support::*;

/// How often each side gets all programs.
const ROUNDS: usize = 7;

/// A version that no table knows, so that the sums come from the server.
const VERSION: &str = "77.1.0";

/// What rootless-install.sh of docker-install does.
const UPSTREAM: &str = "set -e; mkdir -p \"$HOME/bin\" \"$HOME/tmp\"; cd \"$HOME/tmp\"
    curl -sL -o docker.tgz \"$1/docker-$2.tgz\"; curl -sL -o rootless.tgz \"$1/docker-rootless-extras-$2.tgz\"
    cd \"$HOME/bin\"; tar zxf \"$HOME/tmp/docker.tgz\" --strip-components=1
    tar zxf \"$HOME/tmp/rootless.tgz\" --strip-components=1; rm -rf \"$HOME/tmp\"";

/// All rows of the section.
pub fn measure() {
    let user = TestUser::new();
    let program = Launcher::Run.install(&user);
    let tool = user.home.join("tool");
    fs::rename(&program, &tool).expect("moved");
    let mirror = Mirror::new();
    let packed = user.home.join("tarballs");
    let place = format!("/{}", directory("stable", architecture()));
    let mut size = 0;
    for package in Package::ALL {
        let tarball = tarballs::pack(package.name(), &packed);
        let name = format!("{place}/{}-{VERSION}.tgz", package.name());
        let sum = run(Command::new("sha256sum").arg(&tarball));
        let bytes = fs::read(&tarball).expect("a tarball");
        size += bytes.len();
        mirror.put(&format!("{name}.sha256"), sum.split(' ').next().expect("a sum"));
        mirror.put(&name, bytes);
    }
    fs::remove_dir_all(&packed).expect("removed");

    let url = format!("{}{place}", mirror.url());
    let bin = user.home.join("bin");
    let upstream = || {
        run(user.command("sh").args(["-c", UPSTREAM, "sh", &url, VERSION]));
    };
    let fetch = |words: &[&str]| {
        let mut command = user.command(&tool);
        command
            .args(["fetch", "--mirror", &mirror.url(), "--no-modify-path", "--bin-dir"])
            .arg(&bin)
            .args(words);
        run(&mut command)
    };
    let mut seconds = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        seconds[0].push(timed(upstream));
        fs::remove_dir_all(&bin).expect("removed");
        seconds[1].push(timed(|| drop(fetch(&["--version", VERSION]))));
        seconds[2].push(timed(|| drop(fetch(&["--version", VERSION]))));
        fetch(&["--remove"]);
        fs::remove_dir_all(&bin).expect("removed");
    }
    let [theirs, ours, again] = seconds.map(median);
    let what = format!("get and unpack {} MB, checked by ours alone", size / 1_000_000);
    row(&what, "s", theirs, ours, Bar::AtMost(1.0));
    row("the same once more, which ours finds done", "s", theirs, again, Bar::None);
}

fn timed(act: impl Fn()) -> f64 {
    // What the other side has written is not ours to wait for.
    nix::unistd::sync();
    let start = Instant::now();
    act();
    start.elapsed().as_secs_f64()
}
