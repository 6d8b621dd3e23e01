//! What real daemons send, byte for byte, and what our registry answers.
//!
//! The requests are those of dockerd 20.10 and of containerd's image store in dockerd 28.

use dockerd_rootless::oci::manifest::{Kind, digest};

use super::served::{Served, image};

/// What dockerd's own image store accepts: a line each, in an order that changes from one request to
/// the next.
const ACCEPTED: [&str; 6] = [
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
    "application/json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
];

/// What containerd accepts, on one line.
const JOINED: &str = "application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*";

/// The first bytes of a TLS connection by Go: a record with a ClientHello, up to its random bytes.
const CLIENT_HELLO: &[u8] = b"\x16\x03\x01\x00\x2b\x01\x00\x00\x27\x03\x03\
    0123456789abcdef0123456789abcdef\x00\x00\x02\x13\x01\x01\x00";

/// Writes a request. `lines` are further lines of its head.
fn request(first: &str, lines: &[String], body: &[u8]) -> Vec<u8> {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    let head = format!(
        "{first} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: docker/20.10.24+dfsg1 go/go1.19.8\r\n\
         {lines}Connection: close\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// Sends it and fails unless the status is this; returns the answer.
#[track_caller]
fn assert_status(served: &Served, status: u16, request: &[u8]) -> String {
    let answer = served.send(request);
    let shown = String::from_utf8_lossy(request);
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{shown}\n{answer}");
    answer
}

fn header<'a>(answer: &'a str, name: &str) -> &'a str {
    let mut lines = answer.lines().take_while(|line| !line.is_empty());
    let found = lines.find_map(|line| {
        let (own, value) = line.split_once(": ")?;
        own.eq_ignore_ascii_case(name).then_some(value)
    });
    found.unwrap_or_else(|| panic!("no {name} in {answer}"))
}

/// Pushes a blob as dockerd does: a part in chunks without a range, then the digest, of which the
/// colon is escaped.
fn push_in_chunks(served: &Served, blob: &[u8]) {
    let digest = digest(blob);
    assert_status(served, 404, &request(&format!("HEAD /v2/a/b/blobs/{digest}"), &[], b""));
    let none = ["Content-Length: 0".to_owned()];
    let begun = assert_status(served, 202, &request("POST /v2/a/b/blobs/uploads/", &none, b""));
    let (first, rest) = blob.split_at(blob.len() / 2);
    let chunk = |part: &[u8]| [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat();
    let body = [chunk(first), chunk(rest), b"0\r\n\r\n".to_vec()].concat();
    let chunked = ["Transfer-Encoding: chunked".to_owned()];
    let patch = format!("PATCH {}", header(&begun, "Location"));
    let patched = assert_status(served, 202, &request(&patch, &chunked, &body));
    assert_eq!(header(&patched, "Range"), format!("0-{}", blob.len() - 1));
    let digest = digest.replace(':', "%3A");
    let put = format!("PUT {}?digest={digest}", header(&patched, "Location"));
    assert_status(served, 201, &request(&put, &none, b""));
}

/// Pushes a blob as containerd does: all of it with the digest.
fn push_at_once(served: &Served, blob: &[u8]) {
    let none = ["Content-Length: 0".to_owned()];
    let begun = assert_status(served, 202, &request("POST /v2/a/b/blobs/uploads/", &none, b""));
    let digest = digest(blob).replace(':', "%3A");
    let put = format!("PUT {}?digest={digest}", header(&begun, "Location"));
    let lines = [
        format!("Content-Length: {}", blob.len()),
        "Content-Type: application/octet-stream".into(),
    ];
    assert_status(served, 201, &request(&put, &lines, blob));
}

#[test]
fn a_daemon_that_tries_tls_first_is_answered_in_plain_http() {
    let served = Served::start();
    let answer = served.send(CLIENT_HELLO);
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[test]
fn what_a_daemon_pushes_it_pulls_again_whatever_the_form_of_its_requests() {
    for (kind, push) in
        [(Kind::Schema2, push_in_chunks as fn(&Served, &[u8])), (Kind::OciManifest, push_at_once)]
    {
        let served = Served::start();
        let image = image(kind);
        let media_type = kind.media_type();
        image.blobs().for_each(|blob| push(&served, blob));
        let manifest = &*image.manifest.bytes;
        let lines =
            [format!("Content-Length: {}", manifest.len()), format!("Content-Type: {media_type}")];
        let put = request("PUT /v2/a/b/manifests/latest", &lines, manifest);
        assert_status(&served, 201, &put);

        let version = assert_status(&served, 200, &request("GET /v2/", &[], b""));
        assert_eq!(header(&version, "Docker-Distribution-Api-Version"), "registry/2.0");
        let accept = |value: &str| format!("Accept: {value}");
        let mut ways: Vec<Vec<String>> = (0..ACCEPTED.len())
            .flat_map(|first| {
                let mut lines = ACCEPTED.map(accept);
                lines.rotate_left(first);
                let turned: Vec<String> = lines.iter().rev().cloned().collect();
                [lines.to_vec(), turned]
            })
            .collect();
        ways.push(vec![accept(JOINED)]);
        ways.push(vec![accept(&format!("{media_type}, */*"))]);
        let own = image.manifest.digest();
        for mut way in ways {
            for reference in ["latest", &own] {
                let path = format!("/v2/a/b/manifests/{reference}");
                let head =
                    assert_status(&served, 200, &request(&format!("HEAD {path}"), &way, b""));
                assert_eq!(header(&head, "Docker-Content-Digest"), own);
                assert_eq!(header(&head, "Content-Length"), manifest.len().to_string());
                assert!(head.ends_with("\r\n\r\n"), "{head}");
                let got = assert_status(&served, 200, &request(&format!("GET {path}"), &way, b""));
                assert_eq!(header(&got, "Content-Type"), media_type);
                assert!(got.as_bytes().ends_with(manifest), "{got}");
                way.push(format!("If-None-Match: \"{own}\""));
                assert_status(&served, 304, &request(&format!("HEAD {path}"), &way, b""));
                way.pop();
            }
        }
        for blob in image.blobs() {
            let path = format!("GET /v2/a/b/blobs/{}", digest(blob));
            let got = assert_status(&served, 200, &request(&path, &[], b""));
            assert_eq!(header(&got, "Content-Length"), blob.len().to_string());
        }
    }
}
