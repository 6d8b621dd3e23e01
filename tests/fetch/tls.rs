//! https, by openssl's server, which sends files that are whole answers.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;

use dockerd_rootless::fetch::Package::{Docker, Extras};

use super::release::{Release, sum};
use super::scene::{Ended, NEW, Scene, finish};
use test_support::command::run;
use test_support::wait::PATIENCE;

struct Server {
    child: Child,
    scene: Scene,
    certificate: PathBuf,
    url: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn new() -> Self {
        let scene = Scene::new();
        let root = scene.user.home.join("tool/site");
        scene.user.make_dir(&root);
        let [key, certificate] = ["key", "certificate"].map(|name| root.join(name));
        let mut request = Command::new("openssl");
        request.args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ]);
        request.args([
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost,IP:127.0.0.1",
        ]);
        request.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        run(request.arg("-keyout").arg(&key).arg("-out").arg(&certificate));
        run(Command::new("chmod").arg("0644").arg(&certificate));
        let mut server = Command::new("openssl");
        server
            .args(["s_server", "-accept", "127.0.0.1:0", "-HTTP", "-key"])
            .arg(&key)
            .arg("-cert")
            .arg(&certificate);
        let mut child = server
            .current_dir(&root)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let (tell, told) = channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                // `ACCEPT 127.0.0.1:PORT`
                if let Some(address) = line.strip_prefix("ACCEPT ") {
                    let _ = tell.send(address.trim().to_owned());
                }
            }
        });
        let address = told.recv_timeout(PATIENCE).expect("an address");
        Self { child, scene, certificate, url: format!("https://{address}") }
    }

    fn put(&self, path: &str, head: &str, body: &[u8]) {
        let file = self.scene.user.home.join("tool/site").join(path.trim_start_matches('/'));
        let head = format!(
            "HTTP/1.1 {head}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.scene.user.make_dir(file.parent().expect("a directory"));
        self.scene.user.write(&file, [head.as_bytes(), body].concat());
    }

    fn publish(&self, release: &Release) {
        for package in [Docker, Extras] {
            let bytes = release.bytes(package);
            self.put(&release.path(package), "200 OK", bytes);
            self.put(&format!("{}.sha256", release.path(package)), "200 OK", sum(bytes).as_bytes());
        }
    }

    fn fetch(&self, is_trusted: bool) -> Ended {
        let mut command = self.scene.command(&format!("--version {NEW} --mirror {}", self.url));
        if is_trusted {
            command.env("SSL_CERT_FILE", &self.certificate);
        }
        finish(&mut command)
    }
}

#[test]
fn https_is_asked_if_its_authority_is_trusted() {
    let server = Server::new();
    server.publish(&Release::new(NEW));
    server.fetch(false).assert(1, "certificate").assert(1, "SSL_CERT_FILE");
    assert_eq!(server.scene.version(), None);
    server.fetch(true).assert(0, NEW);
    assert_eq!(server.scene.version().as_deref(), Some(NEW));
}

#[test]
fn a_redirect_from_https_to_http_is_refused_even_on_this_host() {
    let server = Server::new();
    let release = Release::new(NEW);
    server.publish(&release);
    release.publish(&server.scene.mirror);
    let target = format!("{}{}", server.scene.mirror.url(), release.path(Docker));
    server.put(&release.path(Docker), &format!("302 Found\r\nLocation: {target}"), b"");
    server.fetch(true).assert(6, "redirects to an address that is not https");
    assert_eq!(server.scene.version(), None);
    assert!(server.scene.mirror.requests().is_empty());
}
