//! What a registry answers (OCI distribution-spec 1.1), as far as daemons ask: tags, manifests,
//! blobs, uploads, referrers. It keeps all in memory and knows nothing of connections.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use hyper::Uri;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, IF_NONE_MATCH, LOCATION, RANGE};
use hyper::http::request::Parts;
use serde_json::json;

use crate::oci::manifest::{
    Descriptor, Kind, OCI_CONFIG, OCI_FOREIGN, OCI_FOREIGN_GZIP, OCI_LAYER, OCI_LAYER_GZIP,
    Refusal, Stored, digest,
};

const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const UPLOAD: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// The largest manifest in bytes.
const MANIFEST_MAX: usize = 4 << 20;

/// An answer.
pub type Response = hyper::Response<Vec<u8>>;

/// The code of an error, and what is wrong.
type Fault = (&'static str, String);

fn respond(status: u16, headers: &[(HeaderName, &str)], body: impl Into<Vec<u8>>) -> Response {
    let mut response = hyper::Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, *value);
    }
    response.body(body.into()).unwrap_or_default()
}

/// Answers with all that is wrong.
fn refuse(status: u16, faults: &[Fault]) -> Response {
    let error = |(code, message): &Fault| json!({"code": code, "message": message});
    let errors: Vec<_> = faults.iter().map(error).collect();
    let body = json!({"errors": errors}).to_string();
    respond(status, &[(CONTENT_TYPE, "application/json")], body)
}

fn error(status: u16, code: &'static str, message: impl Into<String>) -> Response {
    refuse(status, &[(code, message.into())])
}

/// Returns the kinds that the client accepts, of all lines; weights and wildcards do not count.
fn accepted(headers: &HeaderMap) -> BTreeSet<Kind> {
    let lines = headers.get_all(ACCEPT).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).filter_map(Kind::of).collect()
}

fn header(headers: &HeaderMap, name: HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Returns the digest that a query names. Clients escape its colon.
fn digest_asked(uri: &Uri) -> Option<String> {
    let mut pairs = uri.query()?.split('&');
    let digest = pairs.find_map(|pair| pair.strip_prefix("digest="))?;
    Some(digest.replace("%3A", ":").replace("%3a", ":"))
}

/// What becomes of a manifest that a client asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Served {
    AsIs,
    /// The image of a list for this platform, for a client that does not know lists.
    Child,
    NotFound(&'static str),
}

/// The answer to a client that knows schema 1 only, which is not made any more.
const NO_SCHEMA1: &str = "schema1 not offered";
const NO_MANIFEST: &str = "OCI manifest found, but accept header does not support OCI manifests";
const NO_INDEX: &str = "OCI index found, but accept header does not support OCI indexes";

/// Decides how a client that accepts these kinds gets this one: by digest only in its own bytes.
pub fn negotiate(kind: Kind, accepted: &BTreeSet<Kind>, by_tag: bool) -> Served {
    match kind {
        _ if accepted.contains(&kind) => Served::AsIs,
        Kind::OciManifest => Served::NotFound(NO_MANIFEST),
        Kind::OciIndex => Served::NotFound(NO_INDEX),
        Kind::List if by_tag => Served::Child,
        Kind::Schema2 if by_tag => Served::NotFound(NO_SCHEMA1),
        _ => Served::AsIs,
    }
}

/// A registry.
#[derive(Debug, Default)]
pub struct Registry {
    /// By digest. All repositories share them.
    pub blobs: BTreeMap<String, Vec<u8>>,
    /// By repository and digest.
    manifests: BTreeMap<(String, String), Stored>,
    /// By repository and tag.
    tags: BTreeMap<(String, String), String>,
    uploads: BTreeMap<String, Vec<u8>>,
    /// What it was asked so far, such as `GET /v2/`.
    pub asked: Vec<String>,
    /// How the address of a layer may begin; empty allows all.
    pub allow: Vec<String>,
    pub deny: Vec<String>,
    /// What is served for the content of a digest in its place.
    pub lies: BTreeMap<String, Vec<u8>>,
    /// Refuses OCI manifests whose config is not that of an image, as registries did before OCI 1.1.
    pub images_only: bool,
}

impl Registry {
    /// Keeps a blob.
    pub fn put_blob(&mut self, bytes: Vec<u8>) {
        self.blobs.insert(digest(&bytes), bytes);
    }

    /// Keeps a manifest, unverified, under its digest and a tag.
    pub fn keep(&mut self, repository: &str, tag: Option<&str>, stored: Stored) {
        let digest = stored.digest();
        if let Some(tag) = tag {
            self.tags.insert((repository.to_owned(), tag.to_owned()), digest.clone());
        }
        self.manifests.insert((repository.to_owned(), digest), stored);
    }

    /// Finds a manifest by its tag or its digest.
    pub fn find(&self, repository: &str, reference: &str) -> Option<&Stored> {
        let tagged = self.tags.get(&(repository.to_owned(), reference.to_owned()));
        let digest = if reference.contains(':') { reference } else { tagged? };
        self.manifests.get(&(repository.to_owned(), digest.to_owned()))
    }

    /// Serves the content of a digest.
    fn content(&self, media_type: &str, digest: &str, bytes: &[u8]) -> Response {
        let bytes = self.lies.get(digest).map_or(bytes, Vec::as_slice);
        respond(200, &[(CONTENT_TYPE, media_type), (DIGEST, digest)], bytes)
    }

    fn allows(&self, url: &str) -> bool {
        let begins = |rules: &[String]| rules.iter().any(|rule| url.starts_with(rule));
        let is_web = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
        is_web.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
            && url.chars().all(|c| !c.is_control() && c != ' ' && c != '#')
            && (self.allow.is_empty() || begins(&self.allow))
            && !begins(&self.deny)
    }

    /// Returns what is wrong with a reference. A layer that names good addresses need not be there;
    /// any other fault is followed by the word that it is unknown, as in Docker's registry.
    fn verify(&self, repository: &str, reference: &Descriptor) -> Vec<Fault> {
        let digest = &reference.digest;
        let unknown = ("MANIFEST_BLOB_UNKNOWN", format!("{digest} is unknown"));
        let is_layer = [OCI_LAYER, OCI_LAYER_GZIP, OCI_FOREIGN, OCI_FOREIGN_GZIP]
            .contains(&reference.media_type.as_str());
        if is_layer && reference.urls.iter().any(|url| !self.allows(url)) {
            return vec![("MANIFEST_INVALID", "invalid URL on layer".to_owned()), unknown];
        }
        let is_there = match Kind::of(&reference.media_type) {
            Some(_) => self.find(repository, digest).is_some(),
            None => self.blobs.contains_key(digest),
        };
        if is_there || !reference.urls.is_empty() { Vec::new() } else { vec![unknown] }
    }

    /// Answers a request. HEAD is answered as GET; the caller leaves out the body.
    pub fn answer(&mut self, head: &Parts, body: &[u8]) -> Response {
        self.asked.push(format!("{} {}", head.method, head.uri.path()));
        let Some(path) = head.uri.path().strip_prefix("/v2/") else {
            return error(404, "NOT_FOUND", "the path is not known");
        };
        if path.is_empty() {
            return respond(200, &[(CONTENT_TYPE, "application/json")], "{}");
        }
        let parts: Vec<&str> = path.split('/').collect();
        let method = if head.method == "HEAD" { "GET" } else { head.method.as_str() };
        let is_resource = |part: &&str| ["manifests", "blobs", "referrers"].contains(part);
        let (repository, rest) = parts.split_at(parts.iter().rposition(is_resource).unwrap_or(0));
        let repository = repository.join("/");
        if !is_repository(&repository) {
            let why = format!("invalid repository name `{repository}`");
            return error(404, "NAME_INVALID", why);
        }
        match (method, rest) {
            ("GET", ["manifests", reference]) => {
                self.manifest(&repository, reference, &head.headers)
            }
            ("PUT", ["manifests", reference]) => self.put(&repository, reference, head, body),
            ("GET", ["blobs", digest]) => self.blob(digest),
            ("POST", ["blobs", "uploads", ""]) => self.begin_upload(&repository),
            ("PATCH", ["blobs", "uploads", id]) => self.continue_upload(&repository, id, body),
            ("PUT", ["blobs", "uploads", id]) => self.end_upload(&repository, id, &head.uri, body),
            // Nothing refers to anything here, which is an answer (OCI 1.1).
            ("GET", ["referrers", _]) => {
                let own = Kind::OciIndex.media_type();
                let index = json!({"schemaVersion": 2, "mediaType": own, "manifests": []});
                respond(200, &[(CONTENT_TYPE, own)], index.to_string())
            }
            _ => error(405, "UNSUPPORTED", "the operation is unsupported"),
        }
    }

    fn manifest(&self, repository: &str, reference: &str, headers: &HeaderMap) -> Response {
        let unknown = |why: String| error(404, "MANIFEST_UNKNOWN", why);
        let by_tag = !reference.contains(':');
        let Some(found) = self.find(repository, reference) else {
            return unknown(format!("{repository}:{reference} is unknown"));
        };
        if header(headers, IF_NONE_MATCH).trim_matches('"') == found.digest() {
            return respond(304, &[], "");
        }
        let accepted = accepted(headers);
        let child = || self.find(repository, &found.content.find("linux", "amd64")?.digest);
        let served = match negotiate(found.kind, &accepted, by_tag) {
            Served::AsIs => found,
            Served::NotFound(why) => return unknown(why.to_owned()),
            Served::Child => match child() {
                Some(child) if accepted.contains(&child.kind) => child,
                Some(_) => return unknown(NO_SCHEMA1.to_owned()),
                None => return unknown("the list has no image for linux/amd64".to_owned()),
            },
        };
        self.content(served.kind.media_type(), &served.digest(), &served.bytes)
    }

    fn put(&mut self, repository: &str, reference: &str, head: &Parts, body: &[u8]) -> Response {
        let invalid = |why: String| error(400, "MANIFEST_INVALID", why);
        if body.len() > MANIFEST_MAX {
            return invalid(format!("it is larger than {MANIFEST_MAX} bytes"));
        }
        let content_type = header(&head.headers, CONTENT_TYPE);
        let Some(kind) = Kind::of(content_type) else {
            return invalid(format!("unrecognized manifest content type {content_type}"));
        };
        let stored = match Stored::parse(kind, body.to_vec()) {
            Ok(stored) => stored,
            Err(Refusal::Schema1) => {
                return error(415, "UNSUPPORTED", "manifests of schema 1 are not supported");
            }
            Err(Refusal::Invalid(why)) => return invalid(why),
        };
        let digest = stored.digest();
        if reference.contains(':') && reference != digest {
            return error(400, "DIGEST_INVALID", format!("its digest is {digest}"));
        }
        let config = stored.content.config.as_ref().map_or("", |config| &config.media_type);
        if self.images_only && kind == Kind::OciManifest && config != OCI_CONFIG {
            return error(403, "DENIED", format!("unknown manifest class for {config}"));
        }
        let references = stored.content.references();
        let faults: Vec<Fault> =
            references.iter().flat_map(|own| self.verify(repository, own)).collect();
        if !faults.is_empty() {
            return refuse(400, &faults);
        }
        self.keep(repository, (!reference.contains(':')).then_some(reference), stored);
        created(&format!("/v2/{repository}/manifests/{digest}"), &digest)
    }

    fn blob(&self, digest: &str) -> Response {
        match self.blobs.get(digest) {
            Some(bytes) => self.content("application/octet-stream", digest, bytes),
            None => error(404, "BLOB_UNKNOWN", format!("{digest} is unknown")),
        }
    }

    /// Begins an upload under the number of this request. No daemon sends a blob with it.
    fn begin_upload(&mut self, repository: &str) -> Response {
        let id = self.asked.len().to_string();
        self.uploads.insert(id.clone(), Vec::new());
        accepted_upload(repository, &id, 0)
    }

    fn continue_upload(&mut self, repository: &str, id: &str, bytes: &[u8]) -> Response {
        let Some(upload) = self.uploads.get_mut(id) else { return unknown_upload(id) };
        upload.extend_from_slice(bytes);
        accepted_upload(repository, id, upload.len())
    }

    fn end_upload(&mut self, repository: &str, id: &str, uri: &Uri, body: &[u8]) -> Response {
        let Some(mut bytes) = self.uploads.remove(id) else { return unknown_upload(id) };
        bytes.extend_from_slice(body);
        let digest = digest(&bytes);
        if digest_asked(uri).as_ref() != Some(&digest) {
            return error(400, "DIGEST_INVALID", format!("its digest is {digest}"));
        }
        self.put_blob(bytes);
        created(&format!("/v2/{repository}/blobs/{digest}"), &digest)
    }
}

fn created(location: &str, digest: &str) -> Response {
    respond(201, &[(LOCATION, location), (DIGEST, digest)], "")
}

fn accepted_upload(repository: &str, id: &str, length: usize) -> Response {
    let location = format!("/v2/{repository}/blobs/uploads/{id}");
    let range = format!("0-{}", length.saturating_sub(1));
    respond(202, &[(LOCATION, &location), (RANGE, &range), (UPLOAD, id)], "")
}

fn unknown_upload(id: &str) -> Response {
    error(404, "BLOB_UPLOAD_UNKNOWN", format!("the upload `{id}` is unknown"))
}

/// Says whether it is a name of the distribution-spec: no colon, no schemes.
fn is_repository(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_part = |part: &str| {
        part.starts_with(is_plain)
            && part.ends_with(is_plain)
            && part.chars().all(|c| is_plain(c) || "._-".contains(c))
    };
    name.len() <= 255 && name.split('/').all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::manifest::EMPTY_CONFIG;

    type Headers<'h> = &'h [(HeaderName, &'h str)];

    fn ask(own: &mut Registry, asked: &str, headers: Headers<'_>, body: &[u8]) -> Response {
        let (method, path) = asked.split_once(' ').expect("a method and a path");
        let mut request = hyper::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        own.answer(&request.body(()).expect("a request").into_parts().0, body)
    }

    fn code(response: &Response) -> String {
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap_or_default();
        let errors = body["errors"].as_array().cloned().unwrap_or_default();
        let codes = errors.iter().map(|error| error["code"].as_str().unwrap_or_default());
        codes.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn only_bytes_that_the_client_accepts_are_served() {
        use Served::*;
        for (kind, by_tag, expected) in [
            (Kind::Schema2, true, NotFound(NO_SCHEMA1)),
            (Kind::Schema2, false, AsIs),
            (Kind::List, true, Child),
            (Kind::List, false, AsIs),
            (Kind::OciManifest, true, NotFound(NO_MANIFEST)),
            (Kind::OciManifest, false, NotFound(NO_MANIFEST)),
            (Kind::OciIndex, true, NotFound(NO_INDEX)),
            (Kind::OciIndex, false, NotFound(NO_INDEX)),
        ] {
            let others = Kind::ALL.into_iter().filter(|own| *own != kind).collect();
            assert_eq!(negotiate(kind, &others, by_tag), expected, "{kind:?}");
            assert_eq!(negotiate(kind, &BTreeSet::from([kind]), by_tag), AsIs, "{kind:?}");
        }
    }

    fn manifest(config_type: &str, layer: Descriptor) -> Stored {
        let config = Descriptor::of(config_type, b"{}");
        Stored::image(Kind::OciManifest, config, vec![layer])
    }

    fn put(registry: &mut Registry, reference: &str, stored: &Stored) -> Response {
        registry.put_blob(b"{}".to_vec());
        let headers = [(CONTENT_TYPE, stored.kind.media_type())];
        let asked = format!("PUT /v2/a/b/manifests/{reference}");
        ask(registry, &asked, &headers, &stored.bytes)
    }

    #[test]
    fn addresses_of_layers_are_judged_one_by_one_and_all_faults_are_in_one_answer() {
        const UNKNOWN: &str = "MANIFEST_BLOB_UNKNOWN";
        const INVALID: &str = "MANIFEST_INVALID MANIFEST_BLOB_UNKNOWN";
        let cases: [(bool, &[&str], &str); 11] = [
            (false, &[], UNKNOWN),
            (true, &["http://foo/bar"], ""),
            (false, &["file:///local/file"], INVALID),
            (false, &["http://foo/bar#baz"], INVALID),
            (false, &[""], INVALID),
            (false, &["https://foo/bar", ""], INVALID),
            (false, &["", "https://foo/bar"], INVALID),
            (false, &["http://nope/bar"], INVALID),
            (false, &["http://foo/nope"], INVALID),
            (false, &["http://foo/bar"], ""),
            (false, &["https://foo/bar"], ""),
        ];
        let both = |host: &str| vec![format!("http://{host}"), format!("https://{host}")];
        let (allow, deny) = (both("foo"), both("foo/nope"));
        let mut registry = Registry { allow, deny, ..Registry::default() };
        let stored = Descriptor::of("application/octet-stream", b"");
        registry.put_blob(Vec::new());
        for (is_stored, urls, expected) in cases {
            let foreign = Descriptor::of(OCI_FOREIGN_GZIP, b"not here");
            let layer = if is_stored { stored.clone() } else { foreign };
            let urls = urls.iter().map(|url| (*url).to_owned()).collect();
            let manifest = manifest(OCI_CONFIG, Descriptor { urls, ..layer });
            assert_eq!(code(&put(&mut registry, "latest", &manifest)), expected, "{manifest:?}");
        }
    }

    #[test]
    fn a_client_that_knows_no_lists_gets_the_image_for_amd64() {
        let mut registry = Registry::default();
        let image = Stored::image(Kind::Schema2, Descriptor::of("c", b"{}"), Vec::new());
        assert_eq!(put(&mut registry, "image", &image).status(), 201);
        let list = Stored::list(vec![image.descriptor().on("linux", "amd64")]);
        assert_eq!(put(&mut registry, "list", &list).status(), 201);
        assert_eq!(code(&put(&mut registry, "sha256:0", &list)), "DIGEST_INVALID");
        let mut get =
            |headers: Headers<'_>| ask(&mut registry, "GET /v2/a/b/manifests/list", headers, b"");
        assert_eq!(get(&[(ACCEPT, Kind::Schema2.media_type())]).body(), &image.bytes);
        assert_eq!(code(&get(&[])), "MANIFEST_UNKNOWN");
    }

    #[test]
    fn artifacts_are_kept_unless_only_images_are_wanted() {
        let mut registry = Registry { images_only: true, ..Registry::default() };
        registry.put_blob(b"x".to_vec());
        let stored = manifest(EMPTY_CONFIG, Descriptor::of("text/x", b"x"));
        assert_eq!(code(&put(&mut registry, "sbom", &stored)), "DENIED");
        registry.images_only = false;
        assert_eq!(put(&mut registry, "sbom", &stored).status(), 201);
        let answer = ask(&mut registry, "GET /v2/a/referrers/sha256:0", &[], b"");
        assert!(Stored::parse(Kind::OciIndex, answer.into_body()).is_ok());
    }

    #[test]
    fn an_upload_must_have_the_digest_that_it_says() {
        for (said, expected) in [(&b""[..], ""), (b"y", "DIGEST_INVALID")] {
            let mut registry = Registry::default();
            ask(&mut registry, "POST /v2/a/blobs/uploads/", &[], b"");
            let asked = format!("PUT /v2/a/blobs/uploads/1?digest={}", digest(said));
            assert_eq!(code(&ask(&mut registry, &asked, &[], b"")), expected);
            assert_eq!(registry.blobs.contains_key(&digest(said)), expected.is_empty());
        }
    }

    #[test]
    fn what_is_not_offered_is_refused_with_a_code() {
        let cases = [
            ("GET /v1/", "NOT_FOUND"),
            ("GET /v2/oci:a/manifests/latest", "NAME_INVALID"),
            ("GET /v2/A/manifests/latest", "NAME_INVALID"),
            ("GET /v2/../manifests/latest", "NAME_INVALID"),
            ("GET /v2/a/manifests/missing", "MANIFEST_UNKNOWN"),
            ("GET /v2/a/blobs/sha256:00", "BLOB_UNKNOWN"),
            ("PUT /v2/a/blobs/uploads/7", "BLOB_UPLOAD_UNKNOWN"),
            ("DELETE /v2/a/manifests/sha256:00", "UNSUPPORTED"),
            ("PUT /v2/a/manifests/latest", "MANIFEST_INVALID"),
        ];
        for (asked, expected) in cases {
            let answer = ask(&mut Registry::default(), asked, &[], b"");
            assert_eq!(code(&answer), expected, "{asked}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_request_is_answered(
            asked in "(GET|HEAD|POST|PUT|PATCH|[A-Z]{1,6}) /(v2/)?[/a-z:.0-9A-Z%?=&]{0,60}",
            body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..100),
        ) {
            let status = ask(&mut Registry::default(), &asked, &[], &body).status();
            proptest::prop_assert!((200..500).contains(&status.as_u16()));
        }
    }
}
