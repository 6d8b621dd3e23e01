//! Manifests and indexes: Docker's schema 2 and manifest list, OCI's image manifest and index.
//!
//! Their bytes are what counts: a digest is of the bytes received, never of bytes written again.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

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

    /// Says what a client takes a manifest with this Content-Type for: `text/plain` for schema 1.
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

    /// Says what it runs on.
    pub fn on(self, os: &str, architecture: &str) -> Self {
        let (os, architecture) = (os.to_owned(), architecture.to_owned());
        Self { platform: Some(Platform { os, architecture, ..Platform::default() }), ..self }
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

/// A manifest: of one image, with a config and layers, or a list of those for several platforms.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Manifest {
    pub schema_version: u32,
    /// OCI lets it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What it is, if it is no image (OCI 1.1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<Descriptor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<Descriptor>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifests: Option<Vec<Descriptor>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// Begins a manifest of this `kind`.
    fn begin(kind: Kind) -> Self {
        let media_type = Some(kind.media_type().to_owned());
        Self { schema_version: 2, media_type, ..Self::default() }
    }

    /// Finds the image for this platform in a list. An attestation is for `unknown/unknown`.
    pub fn find(&self, os: &str, architecture: &str) -> Option<&Descriptor> {
        self.manifests.iter().flatten().find(|entry| {
            let platform = entry.platform.as_ref();
            platform.is_some_and(|own| own.os == os && own.architecture == architecture)
        })
    }

    /// Returns the config and then the layers in order, or a list's entries without platforms.
    pub fn references(&self) -> Vec<Descriptor> {
        let bare = |entry: &Descriptor| Descriptor { platform: None, ..entry.clone() };
        let entries = self.manifests.iter().flatten();
        self.config.iter().chain(self.layers.iter().flatten()).chain(entries).map(bare).collect()
    }
}

/// A manifest with the bytes that it was read from, or written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub kind: Kind,
    pub content: Manifest,
    pub bytes: Vec<u8>,
}

/// The reason why bytes are no manifest of the kind that they should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Schema 1 is a thing of the past: dockerd 28.2 and later refuse it as well.
    Schema1,
    /// It is no manifest that we know, and why.
    Invalid(String),
}

impl Stored {
    /// Reads `bytes`, which are of this `kind`.
    pub fn parse(kind: Kind, bytes: Vec<u8>) -> Result<Self, Refusal> {
        if matches!(kind, Kind::Schema1 | Kind::Schema1Signed) {
            return Err(Refusal::Schema1);
        }
        let invalid = |why: String| Err(Refusal::Invalid(why));
        let content: Manifest = match serde_json::from_slice(&bytes) {
            Ok(content) => content,
            Err(error) => return invalid(error.to_string()),
        };
        let (version, expected) = (content.schema_version, kind.media_type());
        let has = (content.config.is_some(), content.layers.is_some(), content.manifests.is_some());
        match content.media_type.as_deref() {
            _ if version != 2 => invalid(format!("schemaVersion is {version} instead of 2")),
            // What is both, a daemon could read in its own way. They refuse it, too.
            _ if has != (!kind.is_list(), !kind.is_list(), kind.is_list()) => {
                invalid(format!("its fields are not those of '{expected}'"))
            }
            None if matches!(kind, Kind::Schema2 | Kind::List) => {
                invalid(format!("mediaType is missing: it is '{expected}'"))
            }
            Some(other) if other != expected => invalid(format!(
                "if present, mediaType in manifest should be '{expected}' not '{other}'"
            )),
            _ => Ok(Self { kind, content, bytes }),
        }
    }

    /// Writes a manifest of this `kind` canonically.
    pub fn new(kind: Kind, content: Manifest) -> Self {
        Self { kind, bytes: canonical(&content), content }
    }

    /// Makes the manifest of an image.
    pub fn image(kind: Kind, config: Descriptor, layers: Vec<Descriptor>) -> Self {
        let (config, layers) = (Some(config), Some(layers));
        Self::new(kind, Manifest { config, layers, ..Manifest::begin(kind) })
    }

    /// Lists these, each with its platform, in Docker's form unless the first is an OCI manifest.
    pub fn list(mut entries: Vec<Descriptor>) -> Self {
        let first = entries.first().and_then(|first| Kind::of(&first.media_type));
        let kind = if first == Some(Kind::OciManifest) { Kind::OciIndex } else { Kind::List };
        for entry in &mut entries {
            entry.platform.get_or_insert_default();
        }
        Self::new(kind, Manifest { manifests: Some(entries), ..Manifest::begin(kind) })
    }

    /// Returns the digest of these bytes.
    pub fn digest(&self) -> String {
        digest(&self.bytes)
    }

    /// Describes it, as an entry of a list does.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::of(self.kind.media_type(), &self.bytes)
    }
}

/// Returns the digest of `bytes`.
pub fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// Writes `value` as Docker's tools do, by Go's `json.MarshalIndent`: daemons hash these bytes.
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

/// Guesses the kind of a manifest that came without a media type, as containers/image does.
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
    fn what_is_read_is_written_again_but_the_digest_is_of_the_bytes_received() {
        for (kind, bytes) in [(Kind::OciManifest, MANIFEST), (Kind::OciIndex, INDEX)] {
            let stored = Stored::parse(kind, bytes.to_vec()).expect("it is good");
            assert_eq!(Stored::new(kind, stored.content.clone()), stored);
            let compact: Value = serde_json::from_slice(bytes).expect("JSON");
            let compact = compact.to_string().into_bytes();
            let stored = Stored::parse(kind, compact.clone()).expect("it is good");
            assert_eq!((stored.digest(), stored.bytes), (digest(&compact), compact));
        }
        let windows = r#"{"schemaVersion":2,"manifests":[{"mediaType":"m","size":1,"digest":"d",
            "platform":{"architecture":"amd64","os":"windows","os.version":"10","os.features":["w"],
            "variant":"v1","features":["f"]}}]}"#;
        let artifact = format!(
            r#"{{"schemaVersion":2,"artifactType":"text/x","config":{{"mediaType":"{EMPTY_CONFIG}",
            "size":2,"digest":"d"}},"layers":[]}}"#
        );
        for text in [windows, &artifact] {
            let read: Manifest = serde_json::from_str(text).expect("a manifest");
            let written: Value = serde_json::from_slice(&canonical(&read)).expect("JSON");
            assert_eq!(serde_json::from_str::<Value>(text).expect("JSON"), written);
        }
    }

    #[test]
    fn a_manifest_refers_to_its_config_first_and_a_list_to_its_entries_without_platforms() {
        for (kind, bytes, sizes) in [
            (Kind::OciManifest, MANIFEST, &[985, 153_263][..]),
            (Kind::OciIndex, INDEX, &[985, 985, 2392]),
        ] {
            let references =
                Stored::parse(kind, bytes.to_vec()).expect("good").content.references();
            assert!(references.iter().map(|own| own.size).eq(sizes.iter().copied()));
            assert!(references.iter().all(|own| own.platform.is_none()));
        }
    }

    #[test]
    fn go_escapes_what_a_browser_could_take_for_markup() {
        let text = canonical(&serde_json::json!({"a": "<b> & \u{2028}ä\""}));
        let expected = "{\n   \"a\": \"\\u003cb\\u003e \\u0026 \\u2028ä\\\"\"\n}";
        assert_eq!(String::from_utf8_lossy(&text), expected);
    }

    #[test]
    fn what_a_kind_of_manifest_must_say() {
        use Kind::*;
        const LIST: &str = r#""manifests":[]"#;
        const IMAGE: &str = r#""config":{},"layers":[]"#;
        const OTHER: &str = "if present, mediaType in manifest should be";
        let cases = [
            (Schema2, 2, Some(Schema2), IMAGE, None),
            (Schema2, 2, None, IMAGE, Some("mediaType is missing")),
            (Schema2, 2, Some(OciManifest), IMAGE, Some(OTHER)),
            (OciManifest, 2, None, IMAGE, None),
            (OciManifest, 2, Some(OciManifest), IMAGE, None),
            (OciManifest, 2, Some(Schema2), IMAGE, Some(OTHER)),
            (OciManifest, 0, None, IMAGE, Some("schemaVersion is 0 instead of 2")),
            (OciManifest, 3, None, IMAGE, Some("schemaVersion is 3 instead of 2")),
            (OciManifest, 2, None, r#""config":7"#, Some("invalid type")),
            (OciManifest, 2, None, LIST, Some("its fields are not")),
            (OciIndex, 2, None, LIST, None),
            (OciIndex, 2, None, r#""manifests":[],"layers":[]"#, Some("its fields are not")),
            (List, 2, None, LIST, Some("mediaType is missing")),
            (List, 2, Some(List), LIST, None),
            (Schema1, 1, None, IMAGE, Some("schema 1")),
            (Schema1Signed, 1, None, IMAGE, Some("schema 1")),
        ];
        for (kind, version, media_type, fields, expected) in cases {
            let media_type =
                media_type.map(|own| format!(r#""mediaType":"{}","#, own.media_type()));
            let media_type = media_type.unwrap_or_default();
            let text = format!(r#"{{"schemaVersion":{version},{media_type}{fields}}}"#);
            let refused = Stored::parse(kind, text.clone().into_bytes()).err();
            let is_expected = match (&refused, expected) {
                (Some(Refusal::Schema1), Some(expected)) => expected == "schema 1",
                (Some(Refusal::Invalid(why)), Some(expected)) => why.contains(expected),
                (refused, expected) => refused.is_none() && expected.is_none(),
            };
            assert!(is_expected, "{kind:?} {text}: {refused:?}");
        }
    }

    #[test]
    fn a_list_is_dockers_unless_its_first_entry_is_an_oci_manifest() {
        let entry = |kind: Kind| Descriptor::of(kind.media_type(), b"x");
        let (docker, oci) = (entry(Kind::Schema2), entry(Kind::OciManifest));
        for (entries, kind) in [
            (vec![], Kind::List),
            (vec![docker.clone(), oci.clone()], Kind::List),
            (vec![oci, docker], Kind::OciIndex),
        ] {
            let list = Stored::list(entries);
            assert_eq!(Stored::parse(kind, list.bytes.clone()), Ok(list.clone()));
            assert!(list.content.manifests.iter().flatten().all(|own| own.platform.is_some()));
        }
    }

    #[test]
    fn the_image_of_a_platform_is_found_behind_those_of_others() {
        let platforms = [("unknown", "unknown"), ("linux", "s390x"), ("linux", "amd64")];
        let entries = platforms.map(|(os, own)| Descriptor::of(own, b"x").on(os, own));
        let list = Stored::list(entries.to_vec()).content;
        assert_eq!(list.find("linux", "amd64"), Some(&entries[2]));
        assert_eq!(list.find("linux", "arm64"), None);
    }

    #[test]
    fn a_kind_is_guessed_as_containers_image_does() {
        use Kind::*;
        let cases = [
            (r#""mediaType":"S2""#, Some(Schema2)),
            (r#""mediaType":"S2","schemaVersion":1"#, Some(Schema2)),
            (r#""mediaType":"LIST","schemaVersion":7"#, Some(List)),
            (r#""schemaVersion":1"#, Some(Schema1)),
            (r#""schemaVersion":1,"signatures":null"#, Some(Schema1)),
            (r#""schemaVersion":1,"signatures":[]"#, Some(Schema1Signed)),
            (
                r#""schemaVersion":2,"config":{"mediaType":"CONFIG"},"layers":[{}]"#,
                Some(OciManifest),
            ),
            (r#""schemaVersion":2,"config":{"mediaType":"CONFIG"},"layers":[]"#, Some(Schema2)),
            (r#""schemaVersion":2,"config":{"mediaType":"CONFIG"}"#, Some(Schema2)),
            (r#""schemaVersion":2,"layers":[{}]"#, Some(Schema2)),
            (r#""schemaVersion":2,"mediaType":"OCI""#, Some(Schema2)),
            (r#""mediaType":"OCI""#, None),
            (r#""schemaVersion":2,"manifests":[{"mediaType":"OCI"}]"#, Some(OciIndex)),
            (r#""schemaVersion":2,"manifests":[{"mediaType":"S2"}]"#, Some(Schema2)),
            (r#""schemaVersion":2,"manifests":[{"mediaType":"INDEX"}]"#, Some(Schema2)),
            (r#""schemaVersion":2,"manifests":[]"#, Some(Schema2)),
            (r#""schemaVersion":2,"layers":"x""#, None),
            (r#""schemaVersion":2,"manifests":{}"#, None),
            (r#""schemaVersion":"2""#, None),
            (r#""schemaVersion":3"#, None),
            ("", None),
            ("not JSON", None),
        ];
        let names = [
            ("S2", Schema2.media_type()),
            ("LIST", List.media_type()),
            ("OCI", OciManifest.media_type()),
            ("INDEX", OciIndex.media_type()),
            ("CONFIG", OCI_CONFIG),
        ];
        for (text, expected) in cases {
            let full = names.iter().fold(text.to_owned(), |text, (name, media_type)| {
                text.replace(&format!("\"{name}\""), &format!("\"{media_type}\""))
            });
            assert_eq!(guess(format!("{{{full}}}").as_bytes()), expected, "{text}");
        }
        assert_eq!(guess(b"[]"), None);
    }

    #[test]
    fn an_unknown_type_is_taken_for_signed_schema_1() {
        for kind in Kind::ALL {
            let with_parameter = format!("{}; charset=utf-8", kind.media_type());
            assert_eq!(Kind::of(&with_parameter), Some(kind));
            let expected = if kind == Kind::OciIndex { Kind::Schema1Signed } else { kind };
            assert_eq!(Kind::taken_for(&with_parameter), expected);
        }
        for unknown in ["application/json", "text/plain", ""] {
            assert_eq!(Kind::taken_for(unknown), Kind::Schema1Signed, "{unknown}");
        }
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
