//! What a registry answers (OCI distribution-spec 1.1), as far as daemons ask: tags, manifests,
//! blobs, uploads, referrers. It keeps all in memory and knows nothing of connections.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use crate::oci::manifest::{
    Content, Descriptor, Index, Kind, OCI_CONFIG, OCI_FOREIGN, OCI_FOREIGN_GZIP, OCI_LAYER,
    OCI_LAYER_GZIP, Refusal, Stored, canonical, digest,
};

/// The largest manifest in bytes.
pub const MANIFEST_MAX: usize = 4 << 20;

/// A request.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub method: String,
    /// The path without its query.
    pub path: String,
    /// The query, decoded.
    pub query: BTreeMap<String, String>,
    /// Names in lower case, in the order in which they came.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(own, _)| own == name)?;
        Some(&found.1)
    }

    /// Returns the kinds that the client accepts. Every line counts and every part of it; weights
    /// and wildcards do not.
    fn accepted(&self) -> BTreeSet<Kind> {
        let lines = self.headers.iter().filter(|(name, _)| name == "accept");
        lines.flat_map(|(_, line)| line.split(',')).filter_map(Kind::of).collect()
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Response {
    fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Answers with all that is wrong.
    fn errors(status: u16, errors: &[(&str, String)]) -> Self {
        let errors: Vec<_> = errors
            .iter()
            .map(|(code, message)| json!({"code": code, "message": message}))
            .collect();
        let body = json!({"errors": errors}).to_string().into_bytes();
        Self { body, ..Self::new(status).with("Content-Type", "application/json") }
    }

    fn error(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self::errors(status, &[(code, message.into())])
    }
}

/// What becomes of a manifest that a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Served {
    AsIs,
    /// The image of a list for this platform, for a client that does not know lists.
    Child,
    /// The client knows schema 1 only, which is not made any more.
    Schema1,
    NotFound(&'static str),
}

/// Decides how a manifest of this `kind` is served to a client that accepts these kinds. By its
/// digest, only the very bytes can be served.
pub fn negotiate(kind: Kind, accepted: &BTreeSet<Kind>, by_tag: bool) -> Served {
    match kind {
        _ if accepted.contains(&kind) => Served::AsIs,
        Kind::OciManifest => {
            Served::NotFound("OCI manifest found, but accept header does not support OCI manifests")
        }
        Kind::OciIndex => {
            Served::NotFound("OCI index found, but accept header does not support OCI indexes")
        }
        Kind::List if by_tag => Served::Child,
        Kind::Schema2 if by_tag => Served::Schema1,
        _ => Served::AsIs,
    }
}

/// Which addresses a layer may name, by the beginning of the address.
#[derive(Clone, Debug, Default)]
pub struct UrlRules {
    /// Empty allows all.
    pub allow: Vec<String>,
    pub deny: Vec<String>,
}

impl UrlRules {
    fn allows(&self, url: &str) -> bool {
        let begins = |rules: &[String]| rules.iter().any(|rule| url.starts_with(rule));
        let is_web = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
        is_web.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
            && !url.contains('#')
            && url.chars().all(|c| !c.is_control() && c != ' ')
            && (self.allow.is_empty() || begins(&self.allow))
            && !begins(&self.deny)
    }
}

/// What is wrong with a reference of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    InvalidUrl,
    /// The content of this digest is not there.
    Unknown(String),
}

/// A registry.
#[derive(Debug, Default)]
pub struct Registry {
    /// By digest. All repositories share them.
    blobs: BTreeMap<String, Vec<u8>>,
    /// By repository and digest.
    manifests: BTreeMap<(String, String), Stored>,
    /// By repository and tag.
    tags: BTreeMap<(String, String), String>,
    uploads: BTreeMap<u64, Vec<u8>>,
    next_upload: u64,
    pub urls: UrlRules,
    /// What is served for the content of a digest in its place.
    pub lies: BTreeMap<String, Vec<u8>>,
    /// Refuses OCI manifests whose config is not that of an image, as registries did before OCI 1.1.
    pub images_only: bool,
}

impl Registry {
    /// Keeps a blob, and returns its digest.
    pub fn put_blob(&mut self, bytes: Vec<u8>) -> String {
        let digest = digest(&bytes);
        self.blobs.insert(digest.clone(), bytes);
        digest
    }

    /// Returns a blob.
    pub fn bytes(&self, digest: &str) -> Option<&[u8]> {
        self.blobs.get(digest).map(Vec::as_slice)
    }

    /// Forgets a blob.
    pub fn forget(&mut self, digest: &str) {
        self.blobs.remove(digest);
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
    fn content(&self, media_type: &str, digest: String, bytes: &[u8]) -> Response {
        let bytes = self.lies.get(&digest).map_or(bytes, Vec::as_slice);
        let found = Response::new(200).with("Content-Type", media_type);
        Response { body: bytes.to_vec(), ..found.with("Docker-Content-Digest", digest) }
    }

    /// Verifies that what a manifest refers to is there, and returns every fault of it. A layer
    /// that names good addresses need not be there; any other fault of a reference is followed by
    /// the word that it is unknown, as in Docker's registry.
    pub fn verify(&self, repository: &str, manifest: &Stored) -> Vec<Fault> {
        let references = manifest.references();
        references
            .iter()
            .flat_map(|reference| self.verify_reference(repository, reference))
            .collect()
    }

    fn verify_reference(&self, repository: &str, reference: &Descriptor) -> Vec<Fault> {
        let unknown = || Fault::Unknown(reference.digest.clone());
        let is_layer = [OCI_LAYER, OCI_LAYER_GZIP, OCI_FOREIGN, OCI_FOREIGN_GZIP]
            .contains(&reference.media_type.as_str());
        let key = (repository.to_owned(), reference.digest.clone());
        let is_there = match Kind::of(&reference.media_type) {
            Some(_) => self.manifests.contains_key(&key),
            None => self.blobs.contains_key(&reference.digest),
        };
        if is_layer && reference.urls.iter().any(|url| !self.urls.allows(url)) {
            return vec![Fault::InvalidUrl, unknown()];
        }
        if is_there || !reference.urls.is_empty() { Vec::new() } else { vec![unknown()] }
    }

    /// Answers a request. HEAD is answered as GET; whoever sends it leaves out the body.
    pub fn answer(&mut self, request: &Request) -> Response {
        let Some(path) = request.path.strip_prefix("/v2/") else {
            return Response::error(404, "NOT_FOUND", "the path is not known");
        };
        if path.is_empty() {
            return Response {
                body: b"{}".to_vec(),
                ..Response::new(200).with("Content-Type", "application/json")
            };
        }
        let parts: Vec<&str> = path.split('/').collect();
        let method = if request.method == "HEAD" { "GET" } else { request.method.as_str() };
        let (repository, rest) =
            parts.split_at(parts.iter().rposition(|part| is_resource(part)).unwrap_or(0));
        let repository = repository.join("/");
        if !is_repository(&repository) {
            return Response::error(
                404,
                "NAME_INVALID",
                format!("invalid repository name `{repository}`"),
            );
        }
        match (method, rest) {
            ("GET", ["manifests", reference]) => self.manifest(&repository, reference, request),
            ("PUT", ["manifests", reference]) => self.put_manifest(&repository, reference, request),
            ("GET", ["blobs", digest]) => self.blob(digest),
            ("POST", ["blobs", "uploads", ""]) => self.begin_upload(&repository, request),
            ("PATCH", ["blobs", "uploads", id]) => {
                self.continue_upload(&repository, id, &request.body)
            }
            ("PUT", ["blobs", "uploads", id]) => self.end_upload(&repository, id, request),
            ("GET", ["referrers", subject]) => self.referrers(&repository, subject),
            ("GET", ["tags", "list"]) => self.list_tags(&repository),
            _ => Response::error(405, "UNSUPPORTED", "the operation is unsupported"),
        }
    }

    fn manifest(&self, repository: &str, reference: &str, request: &Request) -> Response {
        let unknown = |why: String| Response::error(404, "MANIFEST_UNKNOWN", why);
        let by_tag = !reference.contains(':');
        let Some(found) = self.find(repository, reference) else {
            return unknown(format!("{repository}:{reference} is unknown"));
        };
        let etag = request.header("if-none-match").map(|tag| tag.trim_matches('"'));
        if etag.is_some_and(|etag| etag == found.digest()) {
            return Response::new(304);
        }
        let accepted = request.accepted();
        let child = |found: &Stored| match &found.content {
            Content::Index(index) => self.find(repository, &index.find("linux", "amd64")?.digest),
            Content::Image(_) => None,
        };
        let served = match negotiate(found.kind, &accepted, by_tag) {
            Served::AsIs => found,
            Served::NotFound(why) => return unknown(why.to_owned()),
            Served::Schema1 => return unknown("schema1 not offered".to_owned()),
            Served::Child => match child(found) {
                Some(child) if accepted.contains(&child.kind) => child,
                Some(_) => return unknown("schema1 not offered".to_owned()),
                None => return unknown("the list has no image for linux/amd64".to_owned()),
            },
        };
        self.content(served.kind.media_type(), served.digest(), served.bytes())
    }

    fn put_manifest(&mut self, repository: &str, reference: &str, request: &Request) -> Response {
        let invalid = |why: String| Response::error(400, "MANIFEST_INVALID", why);
        if request.body.len() > MANIFEST_MAX {
            return invalid(format!("it is larger than {MANIFEST_MAX} bytes"));
        }
        let content_type = request.header("content-type").unwrap_or_default();
        let Some(kind) = Kind::of(content_type) else {
            return invalid(format!("unrecognized manifest content type {content_type}"));
        };
        let stored = match Stored::parse(kind, request.body.clone()) {
            Ok(stored) => stored,
            Err(refusal @ Refusal::Schema1) => {
                return Response::error(415, "UNSUPPORTED", refusal.to_string());
            }
            Err(refusal) => return invalid(refusal.to_string()),
        };
        let digest = stored.digest();
        if reference.contains(':') && reference != digest {
            return Response::error(400, "DIGEST_INVALID", format!("its digest is {digest}"));
        }
        if let Content::Image(image) = &stored.content
            && self.images_only
            && kind == Kind::OciManifest
            && image.config.media_type != OCI_CONFIG
        {
            let why = format!("unknown manifest class for {}", image.config.media_type);
            return Response::error(403, "DENIED", why);
        }
        let faults = self.verify(repository, &stored);
        if !faults.is_empty() {
            let errors: Vec<(&str, String)> = faults.iter().map(describe).collect();
            return Response::errors(400, &errors);
        }
        let mut response = Response::new(201)
            .with("Location", format!("/v2/{repository}/manifests/{digest}"))
            .with("Docker-Content-Digest", digest);
        if let Some(subject) = stored.subject() {
            response = response.with("OCI-Subject", subject.digest.clone());
        }
        self.keep(repository, (!reference.contains(':')).then_some(reference), stored);
        response
    }

    fn blob(&self, digest: &str) -> Response {
        match self.blobs.get(digest) {
            Some(bytes) => self.content("application/octet-stream", digest.to_owned(), bytes),
            None => Response::error(404, "BLOB_UNKNOWN", format!("{digest} is unknown")),
        }
    }

    /// Begins an upload; one that says its digest at once is complete, unless it would mount a blob.
    fn begin_upload(&mut self, repository: &str, request: &Request) -> Response {
        let id = self.next_upload;
        self.next_upload += 1;
        self.uploads.insert(id, Vec::new());
        match request.query.contains_key("digest") {
            true => self.end_upload(repository, &id.to_string(), request),
            false => accepted_upload(repository, id, 0),
        }
    }

    fn continue_upload(&mut self, repository: &str, id: &str, bytes: &[u8]) -> Response {
        let upload = id.parse().ok().and_then(|id| Some((id, self.uploads.get_mut(&id)?)));
        let Some((id, upload)) = upload else { return unknown_upload(id) };
        upload.extend_from_slice(bytes);
        accepted_upload(repository, id, upload.len())
    }

    fn end_upload(&mut self, repository: &str, id: &str, request: &Request) -> Response {
        let upload = id.parse().ok().and_then(|id| self.uploads.remove(&id));
        let Some(mut bytes) = upload else { return unknown_upload(id) };
        bytes.extend_from_slice(&request.body);
        let (explicit, own) = (request.query.get("digest"), digest(&bytes));
        if explicit != Some(&own) {
            return Response::error(400, "DIGEST_INVALID", format!("its digest is {own}"));
        }
        let digest = self.put_blob(bytes);
        Response::new(201)
            .with("Location", format!("/v2/{repository}/blobs/{digest}"))
            .with("Docker-Content-Digest", digest)
    }

    /// Lists the manifests about a subject: usually none, which is an answer too (OCI 1.1).
    fn referrers(&self, repository: &str, subject: &str) -> Response {
        let own = self.manifests.iter().filter(|((name, _), _)| name == repository);
        let about =
            own.filter(|(_, stored)| stored.subject().is_some_and(|own| own.digest == subject));
        let index = Index {
            media_type: Some(Kind::OciIndex.media_type().to_owned()),
            manifests: about.map(|(_, stored)| stored.referrer()).collect(),
            ..Index::new(Vec::new())
        };
        let body = canonical(&index);
        let found = Response::new(200).with("Content-Type", Kind::OciIndex.media_type());
        Response { body, ..found }
    }

    fn list_tags(&self, repository: &str) -> Response {
        let own = self.tags.keys().filter(|(name, _)| name == repository);
        let tags: Vec<&String> = own.map(|(_, tag)| tag).collect();
        let body = json!({"name": repository, "tags": tags}).to_string().into_bytes();
        Response { body, ..Response::new(200).with("Content-Type", "application/json") }
    }
}

fn describe(fault: &Fault) -> (&'static str, String) {
    match fault {
        Fault::InvalidUrl => ("MANIFEST_INVALID", "invalid URL on layer".to_owned()),
        Fault::Unknown(digest) => ("MANIFEST_BLOB_UNKNOWN", format!("{digest} is unknown")),
    }
}

fn accepted_upload(repository: &str, id: u64, length: usize) -> Response {
    Response::new(202)
        .with("Location", format!("/v2/{repository}/blobs/uploads/{id}"))
        .with("Range", format!("0-{}", length.saturating_sub(1)))
        .with("Docker-Upload-UUID", id.to_string())
}

fn unknown_upload(id: &str) -> Response {
    Response::error(404, "BLOB_UPLOAD_UNKNOWN", format!("the upload `{id}` is unknown"))
}

fn is_resource(part: &str) -> bool {
    matches!(part, "manifests" | "blobs" | "tags" | "referrers")
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
    use crate::oci::manifest::{EMPTY_CONFIG, Manifest};

    fn request(method: &str, path: &str) -> Request {
        Request { method: method.to_owned(), path: path.to_owned(), ..Request::default() }
    }

    fn accepting(path: &str, lines: &[&str]) -> Request {
        let headers = lines.iter().map(|line| ("accept".to_owned(), (*line).to_owned())).collect();
        Request { headers, ..request("GET", path) }
    }

    fn code(response: &Response) -> String {
        let body: serde_json::Value = serde_json::from_slice(&response.body).unwrap_or_default();
        let errors = body["errors"].as_array().cloned().unwrap_or_default();
        let codes = errors.iter().map(|error| error["code"].as_str().unwrap_or_default());
        codes.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn only_bytes_that_the_client_accepts_are_served() {
        use Served::*;
        let no_manifest =
            NotFound("OCI manifest found, but accept header does not support OCI manifests");
        let no_index = NotFound("OCI index found, but accept header does not support OCI indexes");
        let cases = [
            (Kind::Schema2, Schema1, AsIs),
            (Kind::List, Child, AsIs),
            (Kind::OciManifest, no_manifest.clone(), no_manifest),
            (Kind::OciIndex, no_index.clone(), no_index),
        ];
        for (kind, by_tag, by_digest) in cases {
            let others: BTreeSet<Kind> = Kind::ALL.into_iter().filter(|own| *own != kind).collect();
            assert_eq!(negotiate(kind, &others, true), by_tag, "{kind:?}");
            assert_eq!(negotiate(kind, &others, false), by_digest, "{kind:?}");
            for by_tag in [false, true] {
                assert_eq!(negotiate(kind, &BTreeSet::from([kind]), by_tag), AsIs, "{kind:?}");
            }
        }
    }

    /// The address rules of the registry's own test: what is allowed begins with `//foo`, and not
    /// with `//foo/nope`.
    fn registry() -> Registry {
        let both = |host: &str| vec![format!("http://{host}"), format!("https://{host}")];
        let urls = UrlRules { allow: both("foo"), deny: both("foo/nope") };
        Registry { urls, ..Registry::default() }
    }

    fn manifest(registry: &mut Registry, config_type: &str, layer: Descriptor) -> Stored {
        registry.put_blob(b"{}".to_vec());
        let manifest = Manifest {
            schema_version: 2,
            media_type: None,
            artifact_type: None,
            config: Descriptor::of(config_type, b"{}"),
            layers: vec![layer],
            subject: None,
            annotations: BTreeMap::new(),
        };
        Stored::image(Kind::OciManifest, manifest)
    }

    #[test]
    fn addresses_of_layers_are_judged_one_by_one() {
        let cases: [(bool, &[&str], bool, bool); 11] = [
            (false, &[], false, true),
            (true, &["http://foo/bar"], false, false),
            (false, &["file:///local/file"], true, true),
            (false, &["http://foo/bar#baz"], true, true),
            (false, &[""], true, true),
            (false, &["https://foo/bar", ""], true, true),
            (false, &["", "https://foo/bar"], true, true),
            (false, &["http://nope/bar"], true, true),
            (false, &["http://foo/nope"], true, true),
            (false, &["http://foo/bar"], false, false),
            (false, &["https://foo/bar"], false, false),
        ];
        for (is_stored, urls, is_invalid, is_unknown) in cases {
            let mut registry = registry();
            let mut layer = if is_stored {
                registry.put_blob(Vec::new());
                Descriptor::of("application/octet-stream", b"")
            } else {
                Descriptor::of(OCI_FOREIGN_GZIP, b"not here")
            };
            layer.urls = urls.iter().map(|url| (*url).to_owned()).collect();
            let mut expected = Vec::new();
            if is_invalid {
                expected.push(Fault::InvalidUrl);
            }
            if is_unknown {
                expected.push(Fault::Unknown(layer.digest.clone()));
            }
            let stored = manifest(&mut registry, OCI_CONFIG, layer);
            assert_eq!(registry.verify("a", &stored), expected, "{urls:?}");
        }
    }

    fn put(registry: &mut Registry, reference: &str, stored: &Stored) -> Response {
        let content_type = ("content-type".to_owned(), stored.kind.media_type().to_owned());
        let path = format!("/v2/a/b/manifests/{reference}");
        let body = stored.bytes().to_vec();
        registry.answer(&Request { headers: vec![content_type], body, ..request("PUT", &path) })
    }

    #[test]
    fn all_that_is_wrong_with_a_manifest_is_in_one_answer() {
        let mut registry = registry();
        let layer = Descriptor {
            urls: vec!["ftp://x".to_owned()],
            ..Descriptor::of(OCI_FOREIGN, b"not here")
        };
        let stored = manifest(&mut registry, OCI_CONFIG, layer);
        let answer = put(&mut registry, "latest", &stored);
        assert_eq!(
            (answer.status, &*code(&answer)),
            (400, "MANIFEST_INVALID MANIFEST_BLOB_UNKNOWN")
        );
    }

    #[test]
    fn a_pushed_manifest_is_served_by_tag_and_digest_in_the_same_bytes() {
        let mut registry = Registry::default();
        registry.put_blob(b"layer".to_vec());
        let stored = manifest(&mut registry, OCI_CONFIG, Descriptor::of(OCI_LAYER, b"layer"));
        let digest = stored.digest();
        let answer = put(&mut registry, "latest", &stored);
        assert_eq!(answer.status, 201);
        assert!(answer.headers.contains(&("Location", format!("/v2/a/b/manifests/{digest}"))));
        let oci = Kind::OciManifest.media_type();
        let six: Vec<&str> = Kind::ALL.iter().map(|kind| kind.media_type()).collect();
        let joined = format!("{}, {}, {oci}, */*", six[2], six[3]);
        let weighted = format!("{oci};q=0.5");
        let ways: [&[&str]; 4] = [&six, &[&joined], &[&weighted], &[oci]];
        for reference in ["latest", &digest] {
            for accept in ways {
                let path = format!("/v2/a/b/manifests/{reference}");
                let answer = registry.answer(&accepting(&path, accept));
                assert_eq!((answer.status, &*answer.body), (200, stored.bytes()), "{accept:?}");
            }
        }
        let mut same = accepting("/v2/a/b/manifests/latest", &[oci]);
        same.headers.push(("if-none-match".to_owned(), format!("\"{digest}\"")));
        assert_eq!(registry.answer(&same).status, 304);
        assert_eq!(
            code(&registry.answer(&accepting("/v2/a/b/manifests/latest", &[]))),
            "MANIFEST_UNKNOWN"
        );
        let tags = registry.answer(&request("GET", "/v2/a/b/tags/list"));
        assert_eq!(tags.body, br#"{"name":"a/b","tags":["latest"]}"#);
        assert_eq!(code(&put(&mut registry, "sha256:0", &stored)), "DIGEST_INVALID");
    }

    #[test]
    fn a_client_that_knows_no_lists_gets_the_image_for_amd64() {
        let mut registry = Registry::default();
        registry.put_blob(b"{}".to_vec());
        let image = Manifest {
            schema_version: 2,
            media_type: Some(Kind::Schema2.media_type().to_owned()),
            artifact_type: None,
            config: Descriptor::of("c", b"{}"),
            layers: Vec::new(),
            subject: None,
            annotations: BTreeMap::new(),
        };
        let image = Stored::image(Kind::Schema2, image);
        assert_eq!(put(&mut registry, "image", &image).status, 201);
        let mut entry = image.descriptor();
        entry.platform = serde_json::from_str(r#"{"os":"linux","architecture":"amd64"}"#).ok();
        let list = Stored::index(Kind::List, Index::new(vec![entry]));
        assert_eq!(put(&mut registry, "list", &list).status, 201);
        let path = "/v2/a/b/manifests/list";
        let answer = registry.answer(&accepting(path, &[Kind::Schema2.media_type()]));
        assert_eq!(answer.body, image.bytes());
        assert_eq!(code(&registry.answer(&accepting(path, &[]))), "MANIFEST_UNKNOWN");
    }

    #[test]
    fn artifacts_are_kept_and_listed_unless_only_images_are_wanted() {
        let mut registry = Registry::default();
        registry.put_blob(b"x".to_vec());
        let subject = Descriptor::of(Kind::OciManifest.media_type(), b"the image");
        let stored = manifest(&mut registry, EMPTY_CONFIG, Descriptor::of("text/x", b"x"));
        let Content::Image(mut image) = stored.content else { panic!("an image") };
        image.subject = Some(subject.clone());
        let stored = Stored::image(Kind::OciManifest, image);
        let path = format!("/v2/a/b/referrers/{}", subject.digest);
        let listed = |registry: &mut Registry| {
            let answer = registry.answer(&request("GET", &path));
            serde_json::from_slice::<Index>(&answer.body).expect("an index").manifests
        };
        assert_eq!(listed(&mut registry), []);
        registry.images_only = true;
        let refused = put(&mut registry, "sbom", &stored);
        assert_eq!((refused.status, &*code(&refused)), (403, "DENIED"));
        registry.images_only = false;
        assert_eq!(put(&mut registry, "sbom", &stored).status, 201);
        let listed = listed(&mut registry);
        assert_eq!(listed[0].artifact_type.as_deref(), Some(EMPTY_CONFIG));
    }

    #[test]
    fn blobs_are_uploaded_at_once_and_in_parts() {
        let mut registry = Registry::default();
        let uploads = "/v2/a/b/blobs/uploads/";
        let query = |bytes: &[u8]| BTreeMap::from([("digest".to_owned(), digest(bytes))]);
        let at = |response: &Response| {
            let location = response.headers.iter().find(|(name, _)| *name == "Location");
            location.expect("a location").1.clone()
        };
        for parts in [&[&b"hello "[..], b"world"][..], &[b"one"], &[]] {
            let begun = registry.answer(&request("POST", uploads));
            assert_eq!(begun.status, 202);
            let mut location = at(&begun);
            for part in parts {
                let patch = Request { body: part.to_vec(), ..request("PATCH", &location) };
                let answer = registry.answer(&patch);
                assert_eq!(answer.status, 202);
                location = at(&answer);
            }
            let whole = parts.concat();
            let end = Request { query: query(&whole), ..request("PUT", &location) };
            let answer = registry.answer(&end);
            assert_eq!(answer.status, 201);
            let blob = registry.answer(&request("HEAD", &at(&answer)));
            assert_eq!((blob.status, blob.body), (200, whole));
            assert_eq!(code(&registry.answer(&end)), "BLOB_UPLOAD_UNKNOWN", "it has ended");
        }
        let once = Request { query: query(b"x"), body: b"x".to_vec(), ..request("POST", uploads) };
        assert_eq!(registry.answer(&once).status, 201);
        let lie = Request { query: query(b"x"), body: b"y".to_vec(), ..request("POST", uploads) };
        assert_eq!(code(&registry.answer(&lie)), "DIGEST_INVALID");
    }

    #[test]
    fn what_is_not_offered_is_refused_with_a_code() {
        let cases = [
            ("GET", "/v1/", "NOT_FOUND"),
            ("GET", "/v2/oci:a/manifests/latest", "NAME_INVALID"),
            ("GET", "/v2/A/manifests/latest", "NAME_INVALID"),
            ("GET", "/v2/../manifests/latest", "NAME_INVALID"),
            ("GET", "/v2/a/manifests/missing", "MANIFEST_UNKNOWN"),
            ("GET", "/v2/a/blobs/sha256:00", "BLOB_UNKNOWN"),
            ("PUT", "/v2/a/blobs/uploads/7", "BLOB_UPLOAD_UNKNOWN"),
            ("DELETE", "/v2/a/manifests/sha256:00", "UNSUPPORTED"),
            ("PUT", "/v2/a/manifests/latest", "MANIFEST_INVALID"),
        ];
        for (method, path, expected) in cases {
            let answer = Registry::default().answer(&request(method, path));
            assert_eq!(code(&answer), expected, "{method} {path}: {}", answer.status);
        }
        assert_eq!(Registry::default().answer(&request("GET", "/v2/")).status, 200);
    }

    proptest::proptest! {
        #[test]
        fn any_request_is_answered(
            method in "[A-Z]{0,6}",
            path in "(/v2)?[/a-z:.0-9A-Z%]{0,60}",
            body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..100),
        ) {
            let status = Registry::default().answer(&Request { body, ..request(&method, &path) }).status;
            proptest::prop_assert!((200..500).contains(&status));
        }
    }
}
