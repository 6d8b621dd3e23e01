//! The docker CLI, and an image that needs no registry.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::command::run;
use crate::{TestUser, http, wait};

/// The image that [`Docker::import_image`] makes.
pub const IMAGE: &str = "busybox";

/// What the image's `/www/index.html` holds.
pub const PAGE: &str = "it answers";

const BUSYBOX: &str = "/bin/busybox";
const APPLETS: [&str; 14] = [
    "cat", "chroot", "cp", "echo", "httpd", "ip", "ls", "nc", "ping", "sh", "sleep", "true",
    "wget", "yes",
];

/// The CLI as a user, on the socket in that user's runtime directory.
pub struct Docker<'u>(pub &'u TestUser);

impl Docker<'_> {
    pub fn socket(&self) -> PathBuf {
        self.0.runtime_dir.join("docker.sock")
    }

    pub fn answers(&self) -> bool {
        http::ping(&self.socket())
    }

    /// Runs the CLI with `words`, split at white space; it must succeed, and what it printed is returned.
    pub fn run(&self, words: &str) -> String {
        let mut command = self.0.brief_command(program());
        command
            .args(words.split_whitespace())
            .env("DOCKER_HOST", format!("unix://{}", self.socket().display()));
        run(&mut command)
    }

    /// Makes [`IMAGE`] from the host's busybox.
    pub fn import_image(&self) {
        self.run(&format!("import {} {IMAGE}", self.write_image().display()));
    }

    /// Writes what [`IMAGE`] is made from into the home.
    pub fn write_image(&self) -> PathBuf {
        let file = self.0.home.join("image.tar");
        self.0.write(&file, archive());
        file
    }

    /// Starts a web server named `name`; `words` are further options of `docker run`.
    pub fn serve(&self, name: &str, words: &str) {
        self.run(&format!(
            "run -d --stop-signal KILL --name {name} {words} {IMAGE} httpd -f -h /www"
        ));
    }

    /// Starts a web server behind a port of the host and waits for its page.
    pub fn assert_publishes(&self, port: u16, words: &str) {
        self.serve("web", &format!("-p 127.0.0.1:{port}:80 {words}"));
        Self::assert_answers(port);
    }

    /// Waits for the page of a web server behind a port of the host.
    pub fn assert_answers(port: u16) {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let body = wait::until("a published port answers", || {
            Some(http::get_tcp(address, "/").ok()?.body)
        });
        assert_eq!(body.trim_end(), PAGE);
    }

    /// Runs a command in a new container and returns what it printed.
    pub fn container(&self, words: &str) -> String {
        self.run(&format!("run --rm {IMAGE} {words}"))
    }
}

/// Debian's own CLI where it is: it has the daemon's age.
fn program() -> &'static str {
    let debians = "/usr/bin/docker";
    if Path::new(debians).exists() { debians } else { "docker" }
}

fn archive() -> &'static [u8] {
    static ARCHIVE: OnceLock<Vec<u8>> = OnceLock::new();
    ARCHIVE.get_or_init(|| {
        let root = tempfile::tempdir().expect("make a directory for the image");
        for dir in ["bin", "tmp", "www"] {
            fs::create_dir(root.path().join(dir)).expect("make a directory of the image");
        }
        fs::copy(BUSYBOX, root.path().join("bin/busybox"))
            .unwrap_or_else(|e| panic!("{BUSYBOX}: {e}; apt-get install busybox-static"));
        for applet in APPLETS {
            symlink("busybox", root.path().join("bin").join(applet)).expect("link an applet");
        }
        fs::write(root.path().join("www/index.html"), PAGE).expect("write the page");
        let file = tempfile::NamedTempFile::new().expect("make a file for the image");
        run(Command::new("tar")
            .args(["--owner=0", "--group=0", "-cf"])
            .arg(file.path())
            .arg("-C")
            .arg(root.path())
            .arg("."));
        fs::read(file.path()).expect("read the image")
    })
}
