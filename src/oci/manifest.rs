//! Manifests and indexes: Docker's schema 2 and manifest list, OCI's image manifest and index.
//!
//! Their bytes are what counts: a digest is of the bytes received, never of bytes written again.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::ser::{PrettyFormatter, Serializer};
use sha2::{Digest as _, Sha256};

pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const OCI_FOREIGN: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
pub const OCI_FOREIGN_GZIP: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";

/// The config of what is not an image (OCI image-spec 1.1): its bytes are `{}`.
pub const EMPTY_CONFIG: &str = "application/vnd.oci.empty.v1+json";

/// A kind of manifest, by its media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Schema1,
    Schema1Signed,
    Schema2,
    List,
    OciManifest,
    OciIndex,
}

impl Kind {
    pub const ALL: [Self; 6] = [
        Self::Schema1,
        Self::Schema1Signed,
        Self::Schema2,
        Self::List,
        Self::OciManifest,
        Self::OciIndex,
    ];

    /// The kinds that containers/image asks a registry for, the best first.
    pub const REQUESTED: [Self; 5] =
        [Self::OciManifest, Self::Schema2, Self::Schema1Signed, Self::Schema1, Self::List];

    /// Returns its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Schema1 => "application/vnd.docker.distribution.manifest.v1+json",
            Self::Schema1Signed => "application/vnd.docker.distribution.manifest.v1+prettyjws",
            Self::Schema2 => "application/vnd.docker.distribution.manifest.v2+json",
            Self::List => "application/vnd.docker.distribution.manifest.list.v2+json",
            Self::OciManifest => "application/vnd.oci.image.manifest.v1+json",
            Self::OciIndex => "application/vnd.oci.image.index.v1+json",
        }
    }

    /// Returns the kind of a media type, of which parameters do not count.
    pub fn of(media_type: &str) -> Option<Self> {
        let media_type = media_type.split(';').next().unwrap_or_default().trim();
        Self::ALL.into_iter().find(|kind| kind.media_type() == media_type)
    }

    /// Says whether it lists several images.
    pub fn is_list(self) -> bool {
        matches!(self, Self::List | Self::OciIndex)
    }

    /// Says what a client takes a manifest for that comes with this Content-Type: whatever it does
    /// not know, it takes for signed schema 1. That is why dockerd complains of a missing signature
    /// where a registry sends `text/plain`.
    pub fn taken_for(content_type: &str) -> Self {
        match Self::of(content_type) {
            Some(kind) if kind != Self::OciIndex => kind,
            _ => Self::Schema1Signed,
        }
    }
}

/// Where content is, and what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Descriptor {
    pub media_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// In bytes.
    pub size: u64,
    pub digest: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

impl Descriptor {
    /// Describes `bytes`.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self {
            media_type: media_type.to_owned(),
            size: bytes.len() as u64,
            digest: digest(bytes),
            ..Self::default()
        }
    }
}

/// What an image runs on. An index always says it, be it with empty names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
    pub architecture: String,
    pub os: String,
    #[serde(rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    #[serde(rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
}

impl Platform {
    /// Says whether an entry of an index is an attestation rather than an image, as BuildKit marks
    /// it.
    pub fn is_attestation(&self) -> bool {
        self.os == "unknown" && self.architecture == "unknown"
    }
}

/// The manifest of one image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub schema_version: u32,
    /// OCI lets it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What it is, if it is no image (OCI 1.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
    /// What it is about, such as the image that it signs (OCI 1.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// The manifests of images for several platforms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    pub manifests: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Index {
    /// Makes an index of these, which say their platform: Docker's manifest list, unless the first
    /// is an OCI manifest.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        let is_oci = manifests.first().and_then(|first| Kind::of(&first.media_type));
        let kind = if is_oci == Some(Kind::OciManifest) { Kind::OciIndex } else { Kind::List };
        let with_platform = |mut entry: Descriptor| {
            entry.platform.get_or_insert_default();
            entry
        };
        Self {
            schema_version: 2,
            media_type: Some(kind.media_type().to_owned()),
            artifact_type: None,
            manifests: manifests.into_iter().map(with_platform).collect(),
            subject: None,
            annotations: BTreeMap::new(),
        }
    }

    /// Finds the image for `os` and `architecture`. Attestations are passed over.
    pub fn find(&self, os: &str, architecture: &str) -> Option<&Descriptor> {
        self.manifests.iter().find(|entry| {
            let platform = entry.platform.as_ref();
            platform.is_some_and(|own| own.os == os && own.architecture == architecture)
        })
    }
}

/// A manifest of either form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Image(Manifest),
    Index(Index),
}

/// A manifest with the bytes that it was read from, or written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub kind: Kind,
    pub content: Content,
    bytes: Vec<u8>,
}

/// The reason why bytes are no manifest of the kind that they should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Schema 1 is a thing of the past: dockerd 28.2 and later refuse it as well.
    Schema1,
    /// It is no manifest that we know, and why.
    Invalid(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Schema1 => out.write_str("manifests of schema 1 are not supported"),
            Self::Invalid(why) => out.write_str(why),
        }
    }
}

impl std::error::Error for Refusal {}

impl Stored {
    /// Reads `bytes`, which are of this `kind`.
    pub fn parse(kind: Kind, bytes: Vec<u8>) -> Result<Self, Refusal> {
        let content = match kind {
            Kind::Schema1 | Kind::Schema1Signed => return Err(Refusal::Schema1),
            Kind::Schema2 | Kind::OciManifest => Content::Image(read(&bytes)?),
            Kind::List | Kind::OciIndex => Content::Index(read(&bytes)?),
        };
        let (version, media_type) = content.head();
        if version != 2 {
            return Err(Refusal::Invalid(format!("schemaVersion is {version} instead of 2")));
        }
        let expected = kind.media_type();
        match media_type {
            None if matches!(kind, Kind::Schema2 | Kind::List) => {
                return Err(Refusal::Invalid(format!("mediaType is missing: it is '{expected}'")));
            }
            Some(other) if other != expected => {
                let why = format!(
                    "if present, mediaType in manifest should be '{expected}' not '{other}'"
                );
                return Err(Refusal::Invalid(why));
            }
            _ => {}
        }
        Ok(Self { kind, content, bytes })
    }

    /// Writes `manifest` as one of `kind`, canonically.
    pub fn image(kind: Kind, manifest: Manifest) -> Self {
        let bytes = canonical(&manifest);
        Self { kind, content: Content::Image(manifest), bytes }
    }

    /// Writes `index` as one of `kind`, canonically.
    pub fn index(kind: Kind, index: Index) -> Self {
        let bytes = canonical(&index);
        Self { kind, content: Content::Index(index), bytes }
    }

    /// Leaves out the media type, as OCI allows.
    pub fn untyped(&self) -> Self {
        match self.content.clone() {
            Content::Image(image) => Self::image(self.kind, Manifest { media_type: None, ..image }),
            Content::Index(index) => Self::index(self.kind, Index { media_type: None, ..index }),
        }
    }

    /// Puts other bytes in place of those that were written.
    pub fn with_bytes(&self, bytes: Vec<u8>) -> Self {
        Self { bytes, ..self.clone() }
    }

    /// Returns the bytes as they were received or written.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the digest of these bytes.
    pub fn digest(&self) -> String {
        digest(&self.bytes)
    }

    /// Describes it, as an entry of an index does.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::of(self.kind.media_type(), &self.bytes)
    }

    /// Returns what it refers to: the config and then the layers in their order, or the entries of
    /// an index without their platforms.
    pub fn references(&self) -> Vec<Descriptor> {
        match &self.content {
            Content::Image(image) => {
                std::iter::once(&image.config).chain(&image.layers).cloned().collect()
            }
            Content::Index(index) => {
                let bare = |entry: &Descriptor| Descriptor { platform: None, ..entry.clone() };
                index.manifests.iter().map(bare).collect()
            }
        }
    }
}

impl Stored {
    /// Returns what it is about.
    pub fn subject(&self) -> Option<&Descriptor> {
        match &self.content {
            Content::Image(image) => image.subject.as_ref(),
            Content::Index(index) => index.subject.as_ref(),
        }
    }

    /// Describes it in the list of what refers to its subject. The type of an artifact is that of
    /// its config, unless it says another.
    pub fn referrer(&self) -> Descriptor {
        let (artifact_type, annotations) = match &self.content {
            Content::Image(image) => {
                let own = image.artifact_type.clone();
                (own.or_else(|| Some(image.config.media_type.clone())), &image.annotations)
            }
            Content::Index(index) => (index.artifact_type.clone(), &index.annotations),
        };
        Descriptor { artifact_type, annotations: annotations.clone(), ..self.descriptor() }
    }
}

impl Content {
    fn head(&self) -> (u32, Option<&str>) {
        match self {
            Self::Image(image) => (image.schema_version, image.media_type.as_deref()),
            Self::Index(index) => (index.schema_version, index.media_type.as_deref()),
        }
    }
}

/// Reads JSON that has the fields of `T` and not those of the other form: daemons refuse what is
/// both, since each of them could read it in its own way.
fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    let invalid = |error: serde_json::Error| Refusal::Invalid(error.to_string());
    let value: Value = serde_json::from_slice(bytes).map_err(invalid)?;
    if value.get("manifests").is_some() && (value.get("layers").or(value.get("config"))).is_some() {
        return Err(Refusal::Invalid("it has both layers and manifests".to_owned()));
    }
    serde_json::from_value(value).map_err(invalid)
}

/// Returns the digest of `bytes`.
pub fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// Writes `value` as Docker's tools do (Go's `json.MarshalIndent` with three blanks): daemons hash
/// these bytes.
pub fn canonical(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let pretty = PrettyFormatter::with_indent(b"   ");
    // These types hold nothing that JSON has not, and a vector takes all.
    let _ = value.serialize(&mut Serializer::with_formatter(&mut bytes, pretty));
    let text = String::from_utf8(bytes).unwrap_or_default();
    // Go escapes these, which stand nowhere but in strings.
    let escape = |c: char| match c {
        '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => format!("\\u{:04x}", u32::from(c)),
        _ => c.to_string(),
    };
    text.chars().map(escape).collect::<String>().into_bytes()
}

/// Guesses the kind of a manifest of which no media type is known, as containers/image does:
/// Docker's own types are believed, and OCI is told by what it holds. A registry never guesses.
pub fn guess(bytes: &[u8]) -> Option<Kind> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    let object = value.as_object()?;
    let field = |name: &str| object.get(name).filter(|value| !value.is_null());
    let explicit = field("mediaType").map_or(Some(""), Value::as_str)?;
    let version = field("schemaVersion").map_or(Some(0), Value::as_i64)?;
    if let Some(kind @ (Kind::Schema2 | Kind::List)) = Kind::of(explicit) {
        return Some(kind);
    }
    let list = |name: &str| field(name).map_or(Some(&[][..]), |value| Some(value.as_array()?));
    let media_type = |value: &Value| Some(value.get("mediaType")?.as_str()?.to_owned());
    match version {
        1 if field("signatures").is_some() => Some(Kind::Schema1Signed),
        1 => Some(Kind::Schema1),
        2 => {
            let has_layers = !list("layers")?.is_empty();
            let first = list("manifests")?.first().and_then(media_type);
            if has_layers && field("config").and_then(media_type).as_deref() == Some(OCI_CONFIG) {
                return Some(Kind::OciManifest);
            }
            let is_index = first.as_deref() == Some(Kind::OciManifest.media_type());
            Some(if is_index { Kind::OciIndex } else { Kind::Schema2 })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &[u8] = include_bytes!("../../tests/verify/manifest.json");
    const INDEX: &[u8] = include_bytes!("../../tests/verify/index.json");

    #[test]
    fn what_is_read_is_written_again_in_the_same_bytes() {
        for (kind, bytes, references) in
            [(Kind::OciManifest, MANIFEST, 2), (Kind::OciIndex, INDEX, 3)]
        {
            let stored = Stored::parse(kind, bytes.to_vec()).expect("it is good");
            let again = match stored.content.clone() {
                Content::Image(image) => Stored::image(kind, image),
                Content::Index(index) => Stored::index(kind, index),
            };
            assert_eq!(String::from_utf8_lossy(again.bytes()), String::from_utf8_lossy(bytes));
            assert_eq!(again, stored);
            let found = stored.references();
            assert_eq!(found.len(), references);
            assert!(found.iter().all(|reference| reference.platform.is_none()));
        }
    }

    #[test]
    fn a_manifest_refers_to_its_config_first_and_keeps_annotations() {
        let stored = Stored::parse(Kind::OciManifest, MANIFEST.to_vec()).expect("it is good");
        let references = stored.references();
        assert_eq!(references[0].media_type, OCI_CONFIG);
        assert_eq!((references[0].size, references[1].size), (985, 153_263));
        assert_eq!(references[0].annotations["apple"], "orange");
        assert_eq!(references[1].annotations["lettuce"], "wrap");
        let Content::Image(image) = stored.content else { panic!("an image") };
        assert_eq!(image.annotations["hot"], "potato");
    }

    #[test]
    fn the_digest_is_of_the_bytes_received() {
        let compact: Value = serde_json::from_slice(MANIFEST).expect("JSON");
        let compact = compact.to_string().into_bytes();
        let stored = Stored::parse(Kind::OciManifest, compact.clone()).expect("it is good");
        assert_eq!((stored.digest(), stored.bytes()), (digest(&compact), &*compact));
        assert_ne!(stored.digest(), digest(MANIFEST));
    }

    #[test]
    fn go_escapes_what_a_browser_could_take_for_markup() {
        let text = canonical(&serde_json::json!({"a": "<b> & \u{2028}ä\""}));
        let expected = "{\n   \"a\": \"\\u003cb\\u003e \\u0026 \\u2028ä\\\"\"\n}";
        assert_eq!(String::from_utf8_lossy(&text), expected);
    }

    #[test]
    fn what_a_kind_of_manifest_must_say() {
        let image = |version: u32, media_type: &str| {
            format!(r#"{{"schemaVersion":{version}{media_type},"config":{{}},"layers":[]}}"#)
        };
        let of = |kind: Kind| format!(r#","mediaType":"{}""#, kind.media_type());
        let (docker, oci, list) = (of(Kind::Schema2), of(Kind::OciManifest), of(Kind::List));
        let cases = [
            (Kind::Schema2, image(2, &docker), None),
            (Kind::Schema2, image(2, ""), Some("mediaType is missing")),
            (Kind::Schema2, image(2, &oci), Some("if present, mediaType in manifest should be")),
            (Kind::OciManifest, image(2, ""), None),
            (Kind::OciManifest, image(2, &oci), None),
            (Kind::OciManifest, image(2, &docker), Some("if present, mediaType in manifest")),
            (Kind::OciManifest, image(1, &oci), Some("schemaVersion is 1 instead of 2")),
            (Kind::OciManifest, image(3, &oci), Some("schemaVersion is 3 instead of 2")),
            (Kind::OciManifest, "hello".to_owned(), Some("expected value")),
            (Kind::OciManifest, "[]".to_owned(), Some("")),
            (Kind::OciIndex, r#"{"schemaVersion":2,"manifests":[]}"#.to_owned(), None),
            (Kind::List, r#"{"schemaVersion":2,"manifests":[]}"#.to_owned(), Some("mediaType is")),
            (Kind::List, format!(r#"{{"schemaVersion":2{list},"manifests":[]}}"#), None),
            (
                Kind::OciIndex,
                r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#.to_owned(),
                Some("both layers and manifests"),
            ),
            (Kind::Schema1, "{}".to_owned(), Some("schema 1")),
            (Kind::Schema1Signed, "{}".to_owned(), Some("schema 1")),
        ];
        for (kind, text, expected) in cases {
            let found = Stored::parse(kind, text.clone().into_bytes());
            let found = found.err().map(|refusal| refusal.to_string());
            let is_good = match expected {
                None => found.is_none(),
                Some(expected) => found.as_ref().is_some_and(|found| found.contains(expected)),
            };
            assert!(is_good, "{kind:?} {text}: {found:?}");
        }
    }

    #[test]
    fn an_index_is_dockers_unless_its_first_entry_is_an_oci_manifest() {
        let entry = |kind: Kind| Descriptor::of(kind.media_type(), b"x");
        let cases = [
            (vec![], Kind::List),
            (vec![entry(Kind::Schema2), entry(Kind::OciManifest)], Kind::List),
            (vec![entry(Kind::OciManifest), entry(Kind::Schema2)], Kind::OciIndex),
        ];
        for (entries, kind) in cases {
            let index = Index::new(entries);
            assert_eq!(index.media_type.as_deref(), Some(kind.media_type()));
            assert!(index.manifests.iter().all(|entry| entry.platform.is_some()));
        }
    }

    #[test]
    fn the_image_of_a_platform_is_found_behind_those_of_others() {
        let entry = |os: &str, architecture: &str| {
            let mut entry = Descriptor::of(Kind::OciManifest.media_type(), architecture.as_bytes());
            let (os, architecture) = (os.to_owned(), architecture.to_owned());
            entry.platform = Some(Platform { os, architecture, ..Platform::default() });
            entry
        };
        let own = entry("linux", "amd64");
        let index =
            Index::new(vec![entry("unknown", "unknown"), entry("linux", "s390x"), own.clone()]);
        assert_eq!(index.find("linux", "amd64"), Some(&own));
        assert_eq!(index.find("linux", "arm64"), None);
        let attestation = index.manifests[0].platform.as_ref().expect("a platform");
        assert!(attestation.is_attestation());
    }

    #[test]
    fn what_is_newer_than_docker_survives() {
        let text = r#"{"schemaVersion":2,"artifactType":"text/x","config":{"mediaType":
            "application/vnd.oci.empty.v1+json","size":2,"digest":"sha256:44"},"layers":[],
            "subject":{"mediaType":"m","size":1,"digest":"d"}}"#;
        let stored = Stored::parse(Kind::OciManifest, text.as_bytes().to_vec()).expect("good");
        let Content::Image(image) = &stored.content else { panic!("an image") };
        assert_eq!(image.artifact_type.as_deref(), Some("text/x"));
        assert_eq!(image.config.media_type, EMPTY_CONFIG);
        assert_eq!(stored.subject().map(|subject| &*subject.digest), Some("d"));
        let entry = r#"{"mediaType":"m","size":1,"digest":"d","platform":{"architecture":"amd64",
            "os":"windows","os.version":"10.0","os.features":["win32k"],"variant":"v1"}}"#;
        let entry: Descriptor = serde_json::from_str(entry).expect("a descriptor");
        let again: Descriptor = serde_json::from_slice(&canonical(&entry)).expect("the same");
        assert_eq!(again, entry);
        assert_eq!(again.platform.expect("a platform").os_version, "10.0");
    }

    #[test]
    fn a_kind_is_guessed_as_containers_image_does() {
        let (s2, list) = (Kind::Schema2.media_type(), Kind::List.media_type());
        let (oci, index) = (Kind::OciManifest.media_type(), Kind::OciIndex.media_type());
        let config = format!(r#""config":{{"mediaType":"{OCI_CONFIG}"}}"#);
        let cases = [
            (format!(r#"{{"mediaType":"{s2}"}}"#), Some(Kind::Schema2)),
            (format!(r#"{{"mediaType":"{s2}","schemaVersion":1}}"#), Some(Kind::Schema2)),
            (format!(r#"{{"mediaType":"{list}","schemaVersion":7}}"#), Some(Kind::List)),
            (r#"{"schemaVersion":1}"#.to_owned(), Some(Kind::Schema1)),
            (r#"{"schemaVersion":1,"signatures":null}"#.to_owned(), Some(Kind::Schema1)),
            (r#"{"schemaVersion":1,"signatures":[]}"#.to_owned(), Some(Kind::Schema1Signed)),
            (format!(r#"{{"schemaVersion":2,{config},"layers":[{{}}]}}"#), Some(Kind::OciManifest)),
            (format!(r#"{{"schemaVersion":2,{config},"layers":[]}}"#), Some(Kind::Schema2)),
            (format!(r#"{{"schemaVersion":2,{config}}}"#), Some(Kind::Schema2)),
            (r#"{"schemaVersion":2,"layers":[{}]}"#.to_owned(), Some(Kind::Schema2)),
            (format!(r#"{{"schemaVersion":2,"mediaType":"{oci}"}}"#), Some(Kind::Schema2)),
            (format!(r#"{{"mediaType":"{oci}"}}"#), None),
            (
                format!(r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{oci}"}}]}}"#),
                Some(Kind::OciIndex),
            ),
            (
                format!(r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{s2}"}}]}}"#),
                Some(Kind::Schema2),
            ),
            (
                format!(r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{index}"}}]}}"#),
                Some(Kind::Schema2),
            ),
            (r#"{"schemaVersion":2,"manifests":[]}"#.to_owned(), Some(Kind::Schema2)),
            (r#"{"schemaVersion":2,"layers":"x"}"#.to_owned(), None),
            (r#"{"schemaVersion":2,"manifests":{}}"#.to_owned(), None),
            (r#"{"schemaVersion":"2"}"#.to_owned(), None),
            (r#"{"schemaVersion":3}"#.to_owned(), None),
            ("{}".to_owned(), None),
            ("[]".to_owned(), None),
            ("not JSON".to_owned(), None),
        ];
        for (text, expected) in cases {
            assert_eq!(guess(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn an_unknown_type_is_taken_for_signed_schema_1() {
        for known in
            [Kind::Schema1, Kind::Schema1Signed, Kind::Schema2, Kind::List, Kind::OciManifest]
        {
            assert_eq!(Kind::taken_for(known.media_type()), known);
        }
        for unknown in ["application/json", "text/plain", "", Kind::OciIndex.media_type()] {
            assert_eq!(Kind::taken_for(unknown), Kind::Schema1Signed, "{unknown}");
        }
        let with_parameter = format!("{}; charset=utf-8", Kind::Schema2.media_type());
        assert_eq!(Kind::of(&with_parameter), Some(Kind::Schema2));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)
        ) {
            guess(&bytes);
            for kind in Kind::ALL {
                let _ = Stored::parse(kind, bytes.clone());
            }
        }
    }
}
