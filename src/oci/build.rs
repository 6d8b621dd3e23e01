//! Builds images: layers, their config, their manifest, and an archive that every daemon loads.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use flate2::read::GzDecoder;
use flate2::{Compression, GzBuilder};
use serde_json::json;
use tar::{EntryType, Header};

use crate::oci::manifest::{
    DOCKER_CONFIG, DOCKER_LAYER, Descriptor, Kind, OCI_CONFIG, OCI_LAYER_GZIP, Stored, canonical,
    digest,
};

/// A file of a layer.
pub struct Entry<'a> {
    pub path: &'a str,
    pub mode: u32,
    pub bytes: &'a [u8],
}

/// A layer, compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// What a registry serves.
    pub blob: Vec<u8>,
    pub digest: String,
    /// The digest of the archive in it, which a config names.
    pub diff_id: String,
    /// How many images it is worth sharing with.
    pub rating: u64,
}

impl Layer {
    /// Packs files into a layer, always into the same bytes.
    pub fn pack(entries: &[Entry<'_>], rating: u64) -> io::Result<Self> {
        let archive = archive(entries)?;
        let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::fast());
        gzip.write_all(&archive)?;
        let blob = gzip.finish()?;
        Ok(Self { digest: digest(&blob), blob, diff_id: digest(&archive), rating })
    }

    /// Reads a blob that another program has packed.
    pub fn unpack(blob: &[u8]) -> io::Result<Self> {
        let mut archive = Vec::new();
        GzDecoder::new(blob).read_to_end(&mut archive)?;
        let diff_id = digest(&archive);
        Ok(Self { digest: digest(blob), blob: blob.to_vec(), diff_id, rating: 0 })
    }

    fn descriptor(&self, kind: Kind) -> Descriptor {
        let media_type = if kind == Kind::OciManifest { OCI_LAYER_GZIP } else { DOCKER_LAYER };
        Descriptor {
            media_type: media_type.to_owned(),
            size: self.blob.len() as u64,
            digest: self.digest.clone(),
            ..Descriptor::default()
        }
    }
}

/// Puts what is worth sharing the most at the bottom, from where images share; else keeps the order.
pub fn by_rating(mut layers: Vec<Layer>) -> Vec<Layer> {
    layers.sort_by_key(|layer| std::cmp::Reverse(layer.rating));
    layers
}

/// An image that is ready to be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    pub manifest: Stored,
    pub config: Vec<u8>,
    pub layers: Vec<Layer>,
}

impl Image {
    /// Builds the manifest of an image with this config, which may be any bytes.
    pub fn new(kind: Kind, config: Vec<u8>, layers: Vec<Layer>) -> Self {
        let config_type = if kind == Kind::OciManifest { OCI_CONFIG } else { DOCKER_CONFIG };
        let described = layers.iter().map(|layer| layer.descriptor(kind)).collect();
        let manifest = Stored::image(kind, Descriptor::of(config_type, &config), described);
        Self { manifest, config, layers }
    }

    /// Returns all its blobs.
    pub fn blobs(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(&*self.config).chain(self.layers.iter().map(|layer| &*layer.blob))
    }
}

/// Writes the config of an image that runs `command` on this architecture and carries `labels`.
pub fn config(command: &[&str], labels: &BTreeMap<&str, &str>, layers: &[Layer]) -> Vec<u8> {
    let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {"Entrypoint": command, "Labels": labels},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    config.to_string().into_bytes()
}

/// Returns the architecture of this program as Go names it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        "powerpc64" => "ppc64",
        "loongarch64" => "loong64",
        other => other,
    }
}

/// Packs an image as an OCI layout and as Docker's own archive in one: every image store loads it.
pub fn archive_of(image: &Image, tag: &str) -> io::Result<Vec<u8>> {
    let path = |bytes: &[u8]| format!("blobs/{}", digest(bytes).replace(':', "/"));
    let annotations = BTreeMap::from([("io.containerd.image.name", tag)]);
    let mut entry = json!(image.manifest.descriptor());
    entry["annotations"] = json!(annotations);
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    let layers: Vec<String> = image.layers.iter().map(|layer| path(&layer.blob)).collect();
    let docker = json!([{"Config": path(&image.config), "RepoTags": [tag], "Layers": layers}]);
    let mut files = BTreeMap::from([
        ("index.json".to_owned(), canonical(&index)),
        ("manifest.json".to_owned(), docker.to_string().into_bytes()),
        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
    ]);
    files.insert(path(&image.manifest.bytes), image.manifest.bytes.clone());
    files.extend(image.blobs().map(|blob| (path(blob), blob.to_vec())));
    let entries: Vec<Entry<'_>> =
        files.iter().map(|(path, bytes)| Entry { path, mode: 0o644, bytes }).collect();
    archive(&entries)
}

/// Packs files of root, without times.
fn archive(entries: &[Entry<'_>]) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = Header::new_ustar();
        let is_directory = entry.path.ends_with('/');
        header.set_entry_type(if is_directory { EntryType::Directory } else { EntryType::Regular });
        header.set_mode(entry.mode);
        header.set_size(entry.bytes.len() as u64);
        header.set_mtime(0);
        archive.append_data(&mut header, entry.path, entry.bytes)?;
    }
    archive.into_inner()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn layer(name: &str, rating: u64) -> Layer {
        let entry = Entry { path: name, mode: 0o755, bytes: name.as_bytes() };
        Layer::pack(&[entry], rating).expect("a layer")
    }

    #[test]
    fn a_layer_is_the_same_each_time_and_its_diff_id_is_of_what_is_inside() {
        let packed = layer("a", 0);
        assert_eq!(packed, layer("a", 0));
        assert_eq!(packed, Layer::unpack(&packed.blob).expect("gzip"));
        assert_ne!(packed.digest, packed.diff_id);
    }

    #[test]
    fn layers_worth_sharing_come_first_and_others_stay_in_order() {
        let layers = [("a", 1), ("b", 9), ("c", 1), ("d", 9), ("e", 0)];
        let sorted = by_rating(layers.map(|(name, rating)| layer(name, rating)).to_vec());
        let expected = ["b", "d", "a", "c", "e"].map(|name| layer(name, 0).digest);
        assert!(sorted.iter().map(|layer| &layer.digest).eq(&expected));
    }

    #[test]
    fn a_manifest_names_its_config_and_layers_in_order_whatever_the_config_is() {
        let layers = vec![layer("a", 0), layer("b", 0), layer("a", 0)];
        let config = b"{\"not\": \"JSON\" \"at all\"".to_vec();
        for (kind, config_type) in [(Kind::OciManifest, OCI_CONFIG), (Kind::Schema2, DOCKER_CONFIG)]
        {
            let image = Image::new(kind, config.clone(), layers.clone());
            let references = image.manifest.content.references();
            assert_eq!(references[0], Descriptor::of(config_type, &config));
            let digests: Vec<String> = image.blobs().map(digest).collect();
            assert!(references.iter().map(|reference| &reference.digest).eq(&digests));
        }
    }

    #[test]
    fn an_archive_holds_both_forms_over_the_same_blobs() {
        let config = config(&[], &BTreeMap::new(), &[layer("a", 0)]);
        let text = String::from_utf8_lossy(&config);
        assert!(text.contains(r#""config":{"#), "Kubernetes takes no null: {text}");
        assert!(text.contains(&layer("a", 0).diff_id), "{text}");
        let image = Image::new(Kind::Schema2, config, vec![layer("a", 0)]);
        let packed = archive_of(&image, "x.localhost/y:z").expect("an archive");
        let mut archive = tar::Archive::new(&*packed);
        let name = |entry: io::Result<tar::Entry<'_, &[u8]>>| {
            entry.expect("an entry").path().expect("a path").display().to_string()
        };
        let names: Vec<String> = archive.entries().expect("entries").map(name).collect();
        let blobs = image.blobs().chain([&*image.manifest.bytes]);
        let blobs = blobs.map(|blob| format!("blobs/{}", digest(blob).replace(':', "/")));
        let rest = ["index.json", "manifest.json", "oci-layout"].map(str::to_owned);
        let expected: BTreeSet<String> = blobs.chain(rest).collect();
        assert!(names.iter().eq(&expected), "{names:?}");
    }
}
