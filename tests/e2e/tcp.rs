//! The API on TCP: with certificates, and refused without; and a dockerd behind a wrapper.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;

use test_support::command::{Told, run};
use test_support::*;

/// Makes a certificate that is good for both sides.
const CERTIFICATES: &str = "set -e; mkdir -p ~/.docker; cd ~/.docker; \
    key='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2'; \
    openssl req -x509 $key -keyout ca-key.pem -out ca.pem -subj /CN=ca; \
    openssl req $key -keyout key.pem -out request.pem -subj /CN=localhost; \
    printf 'subjectAltName=IP:127.0.0.1\\nextendedKeyUsage=serverAuth,clientAuth\\n' >more; \
    openssl x509 -req -in request.pem -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 2 \
        -extfile more -out cert.pem";

fn configure(user: &TestUser, lines: &str) {
    let file = user.home.join(".config/dockerd-rootless/config.toml");
    user.make_dir(file.parent().expect("a directory"));
    user.write(&file, format!("[daemon]\n{lines}\n"));
}

/// The certificate opens the API, and what comes without one is turned away.
fn assert_serves_tls(user: &TestUser, daemon: &Daemon, port: u16) {
    let ask = |words: &[&str]| {
        let mut client = user.brief_command("docker");
        client.arg("-H").arg(format!("tcp://127.0.0.1:{port}")).args(words);
        Told::by(client.args(["version", "--format", "{{.Server.Version}}"]))
    };
    let own = daemon.docker.run("version --format {{.Server.Version}}");
    assert_eq!(ask(&["--tlsverify"]).good().stdout.trim(), own);
    let stranger = ask(&["--tls", "--tlscert=", "--tlskey="]);
    assert_ne!(stranger.code, Some(0), "{stranger:?}");
    let plain = http::get_tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), "/_ping");
    assert_eq!(plain.expect("an answer").status, 400);
}

#[test]
fn the_api_on_tcp_wants_a_certificate_and_the_socket_stays() {
    let user = TestUser::new();
    let port = user.port(0);
    configure(&user, &format!("tcp = '127.0.0.1:{port}'"));
    let (code, said) = Launch::new(&user, Launcher::Run).refusal();
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("/.docker/ca.pem`, which does not exist"), "{said}");

    run(user.command("sh").args(["-c", CERTIFICATES]));
    for launcher in [Launcher::Run, Launcher::RunExec] {
        let mut daemon = Launch::new(&user, launcher).ready();
        assert_serves_tls(&user, &daemon, port);
        assert_eq!(daemon.stop().code(), Some(0));
    }
    assert_nothing_left(&user);
}

#[test]
fn the_flags_that_upstream_documents_serve_tls_and_nothing_else_to_other_hosts() {
    let user = TestUser::new();
    let port = user.port(0);
    run(user.command("sh").args(["-c", CERTIFICATES]));
    let socket = format!("unix://{}", Docker(&user).socket().display());
    let tcp = format!("tcp://0.0.0.0:{port}");
    let launch = |address: &str, more: &[&str]| {
        Launch::new(&user, Launcher::Script)
            .env("DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS", format!("-p {address}:{port}:{port}/tcp"))
            .args(["-H", &socket, "-H", &tcp])
            .args(more)
    };
    let mut daemon = launch("127.0.0.1", &["--tlsverify"]).ready();
    assert_serves_tls(&user, &daemon, port);
    assert_eq!(daemon.stop().code(), Some(0));

    let (code, said) = launch("0.0.0.0", &[]).refusal();
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("other hosts reach the API on TCP port"), "{said}");
    assert_nothing_left(&user);
}

#[test]
fn a_dockerd_behind_a_wrapper_is_known() {
    let user = TestUser::new();
    let wrapper = user.home.join("dockerd");
    let dockerd = run(user.command("sh").args(["-c", "command -v dockerd"]));
    let script = format!(
        "#! /bin/sh -e\nPATH=${{PATH:+':'$PATH':'}}\nexport WRAPPED=1\nPATH=${{PATH#':'}}\nexport PATH\n\
         exec \"{}\"  \"$@\" \n",
        dockerd.trim()
    );
    user.write(&wrapper, script);
    std::fs::set_permissions(&wrapper, PermissionsExt::from_mode(0o755)).expect("chmod");
    let mut daemon = Launch::new(&user, Launcher::Run).env("DOCKERD", &wrapper).ready();
    let mut check = user.command(Launcher::Run.install(&user));
    let found = Told::by(check.args(["check", "--only", "dockerd", "-v"]).env("DOCKERD", &wrapper));
    let version = daemon.docker.run("version --format {{.Server.Version}}");
    let version = version.split(['+', '-']).next().expect("a version");
    assert!(
        found.stdout.contains(&format!("dockerd {version} at `{}`", wrapper.display())),
        "{found:?}"
    );
    assert_eq!(daemon.stop().code(), Some(0));
    assert_nothing_left(&user);
}
