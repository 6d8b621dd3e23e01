//! Docker's two tarballs, of the programs that this host has.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::run;
use crate::user::PATH;

/// The programs of `docker-VERSION.tgz` that Debian's packages have.
const DOCKER: [&str; 8] = [
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "docker",
    "docker-init",
    "docker-proxy",
    "dockerd",
    "runc",
];

/// The tarball of `package` in `directory`, as large as Docker's own.
pub fn pack(package: &str, directory: &Path) -> PathBuf {
    let programs = match package {
        "docker" => &DOCKER[..],
        "docker-rootless-extras" => &["rootlesskit"],
        other => panic!("no tarball {other}"),
    };
    let inside = directory.join(package);
    fs::create_dir_all(&inside).expect("a directory");
    for program in programs {
        let path = which::which_in(program, Some(PATH), "/")
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        fs::copy(path, inside.join(program)).expect("a copy");
    }
    let tarball = directory.join(format!("{}.tgz", package));
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(directory).args(["--owner=0", "--group=0", "-czf"]).arg(&tarball);
    run(tar.arg(package));
    tarball
}
