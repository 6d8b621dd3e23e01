//! The way of images: load, push, pull and run, with a registry of our own.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use crate::oci::build::{self, Entry, Image, Layer};
use crate::oci::manifest::{Descriptor, Kind, Manifest, Stored, digest};
use crate::oci::serve::Registry;
use crate::verify::checks::{CHECKS, LABEL, Rows, Run, Step};
use crate::verify::engine::{Failure, Fault};
use crate::verify::is_containerd;
use crate::verify::probe::{PROBE, PROGRAM, WORD};
use crate::verify::registry::Shared;
use crate::verify::report::Row;

/// The tag of all images of a run.
const TAG: &str = "latest";

/// A form in which a registry offers an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    pub kind: Kind,
    /// Whether the manifest says its media type itself, which OCI leaves open.
    pub has_type: bool,
    pub by_digest: bool,
}

/// The form that is taken where any is good.
const PLAIN: Form = Form { kind: Kind::OciManifest, has_type: true, by_digest: false };

/// What a registry does wrong. With `--lie=NAME`, the questions fail whose form it [`Lie::fits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Lie {
    /// It serves other bytes than those of the digest that is asked for.
    Digest,
    /// It serves other bytes than those of the entry of a list.
    Child,
    Layer,
    Config,
    /// The list has no image for this platform.
    Platform,
    /// The manifest could be read as an image and as a list.
    Ambiguous,
}

impl Lie {
    /// Says whether it can be told in this form: some daemons take any bytes for those of a tag.
    fn fits(self, form: Form) -> bool {
        match self {
            Self::Digest => form.by_digest,
            Self::Child | Self::Platform => form.kind.is_list(),
            Self::Layer | Self::Config => true,
            Self::Ambiguous => matches!(form.kind, Kind::OciManifest | Kind::OciIndex),
        }
    }

    /// Returns a digest, and the bytes to be served for it. They read as well as the right ones.
    fn bytes(self, image: &Image, manifest: &Stored, nonce: &str) -> Option<(String, Vec<u8>)> {
        let longer = |own: &Stored| Some((own.digest(), [&*own.bytes, b"\n"].concat()));
        match self {
            Self::Digest => longer(manifest),
            Self::Child => longer(&image.manifest),
            Self::Layer => {
                let Layer { digest, blob, .. } = image.layers.last()?;
                let (last, rest) = blob.split_last()?;
                Some((digest.clone(), [rest, &[last ^ 1]].concat()))
            }
            Self::Config => {
                let backwards: String = nonce.chars().rev().collect();
                let text = String::from_utf8_lossy(&image.config).replace(nonce, &backwards);
                Some((digest(&image.config), text.into_bytes()))
            }
            Self::Platform | Self::Ambiguous => None,
        }
    }
}

/// What the images of a run have in common.
pub struct Kit {
    /// The layer with our own program, which all of them share.
    pub program: Layer,
    pub nonce: String,
}

impl Kit {
    /// Packs this very program.
    pub fn new(nonce: String) -> io::Result<Self> {
        if !cfg!(target_feature = "crt-static") {
            let what = "this build of dockerd-rootless is not static: it runs in no container";
            return Err(io::Error::other(what));
        }
        let program = std::fs::read("/proc/self/exe")?;
        let entry = |path, mode, bytes| Entry { path, mode, bytes };
        let entries = [
            entry(PROGRAM.trim_start_matches('/'), 0o755, &*program),
            // A file for a container to change.
            entry("lower/", 0o755, b""),
            entry("lower/file", 0o644, b"lower\n"),
        ];
        let program = Layer::pack(&entries, 1)?;
        Ok(Self { program, nonce })
    }

    /// Builds an image that says `word`, and that no other run has.
    pub fn image(&self, kind: Kind, word: &str) -> io::Result<Image> {
        let entry =
            Entry { path: WORD.trim_start_matches('/'), mode: 0o644, bytes: word.as_bytes() };
        let layers = build::by_rating(vec![Layer::pack(&[entry], 0)?, self.program.clone()]);
        let labels = BTreeMap::from([(LABEL, &*self.nonce)]);
        let config = build::config(&[PROGRAM, PROBE], &labels, &layers);
        Ok(Image::new(kind, config, layers))
    }
}

/// A question of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Pull,
    Push,
    Reuse,
    Run,
    /// An image in this form is pulled and runs.
    Accept(Form),
    /// An image in this form is refused, since something is wrong with it.
    Refuse(Form, Lie),
}

/// The registry of a run.
pub struct Chain {
    pub address: SocketAddr,
    pub shared: Shared,
    /// What it does wrong where images should be accepted.
    pub lie: Option<Lie>,
}

/// An image in the registry.
struct Offer {
    repository: String,
    /// How the daemon is asked for it.
    reference: String,
    word: String,
    image: Image,
    manifest: Stored,
}

/// Lists an image behind one for another platform and behind an attestation, as BuildKit writes it.
fn list(image: &Stored, has_own: bool) -> Stored {
    let other = |word: &[u8]| Descriptor::of(image.kind.media_type(), word);
    let foreign = if build::architecture() == "s390x" { "ppc64le" } else { "s390x" };
    let mut entries = vec![
        other(b"of another platform").on("linux", foreign),
        other(b"an attestation").on("unknown", "unknown"),
    ];
    if has_own {
        entries.push(image.descriptor().on("linux", build::architecture()));
    }
    Stored::list(entries)
}

/// Makes a manifest that is an image and a list.
fn ambiguous(Stored { kind, mut content, .. }: Stored) -> Stored {
    let entries = Some(content.references());
    content.manifests = content.manifests.or(entries.clone());
    content.layers = content.layers.or(entries);
    Stored::new(kind, content)
}

fn short(digest: &str) -> &str {
    digest.get(..19).unwrap_or(digest)
}

fn packing(error: io::Error) -> Failure {
    Failure::own("build an image", &error)
}

/// Answers a question of the group.
pub async fn answer(run: &Run<'_>, name: &'static str, link: Link) -> Rows {
    let chain = match &run.chain {
        Ok(chain) => chain,
        Err(why) => return Ok(vec![Row::skip(name, why)]),
    };
    let question = Question { run, chain, name };
    let told = |form: Form| chain.lie.filter(|lie| lie.fits(form));
    let row = match link {
        Link::Run => question.run(PLAIN, None).await?,
        Link::Accept(form) => question.run(form, told(form)).await?,
        Link::Refuse(form, lie) => question.refuse(form, lie).await?,
        Link::Pull => question.pull(told).await?,
        Link::Push => question.push().await?,
        Link::Reuse => question.reuse().await?,
    };
    Ok(vec![row])
}

/// Says whether our image has the ID that was predicted, which depends on the image store.
pub async fn load(run: &Run<'_>) -> Rows {
    let found = run.engine.get("inspect the image", &format!("/images/{}/json", run.image)).await?;
    let found = found["Id"].as_str().unwrap_or_default();
    let image = run.kit.image(Kind::Schema2, &run.kit.nonce).map_err(packing)?;
    let expected = match is_containerd(&run.info) {
        true => image.manifest.digest(),
        false => digest(&image.config),
    };
    let answer = format!("its ID is {}", short(found));
    Ok(vec![Row::judge("load", found == expected, answer, short(&expected))])
}

/// A question that takes the registry.
struct Question<'r> {
    run: &'r Run<'r>,
    chain: &'r Chain,
    name: &'static str,
}

impl Question<'_> {
    fn offer(&self, name: &str, form: Form, lie: Option<Lie>) -> Result<Offer, Failure> {
        let (kit, chain) = (&self.run.kit, self.chain);
        let word = format!("{}-{name}", kit.nonce);
        let repository = format!("verify/{word}");
        let child = if form.kind == Kind::List { Kind::Schema2 } else { form.kind };
        let child = if form.kind == Kind::OciIndex { Kind::OciManifest } else { child };
        let image = kit.image(child, &word).map_err(packing)?;
        let mut manifest = match form.kind.is_list() {
            true => list(&image.manifest, lie != Some(Lie::Platform)),
            false => image.manifest.clone(),
        };
        if !form.has_type {
            let content = Manifest { media_type: None, ..manifest.content };
            manifest = Stored::new(form.kind, content);
        }
        if lie == Some(Lie::Ambiguous) {
            manifest = ambiguous(manifest);
        }
        chain.shared.with(|registry| {
            registry.put_blob(image.layers[1].blob.clone());
            registry.put_blob(image.config.clone());
            registry.keep(&repository, None, image.manifest.clone());
            registry.keep(&repository, Some(TAG), manifest.clone());
            registry.lies.extend(lie.and_then(|lie| lie.bytes(&image, &manifest, &kit.nonce)));
        });
        let reference = match form.by_digest {
            true => format!("{}/{repository}@{}", chain.address, manifest.digest()),
            false => format!("{}/{repository}:{TAG}", chain.address),
        };
        Ok(Offer { repository, reference, word, image, manifest })
    }

    /// Pulls an image, and returns the daemon's words if it refuses it.
    async fn refusal(&self, offer: &Offer) -> Result<Option<String>, Failure> {
        match self.run.engine.pull(&offer.reference).await {
            Ok(()) => Ok(None),
            Err(Failure { fault: Fault::Refused | Fault::Missing, said, .. }) => Ok(Some(said)),
            Err(failure) => Err(failure),
        }
    }

    /// Pulls and runs an image: it says its word.
    async fn run(&self, form: Form, lie: Option<Lie>) -> Result<Row, Failure> {
        let offer = self.offer(self.name, form, lie)?;
        self.run.engine.pull(&offer.reference).await?;
        let began = Instant::now();
        let said = self.run.say(self.name, &offer.reference).await?;
        let took = began.elapsed().as_millis();
        Ok(match said == offer.word {
            true => Row::pass(self.name, format!("yes, it starts, runs and ends in {took} ms")),
            false => Row::fail(self.name, format!("it says `{said}`"), offer.word),
        })
    }

    /// Pulls an image that is wrong: the daemon refuses it, and has none of that name afterwards.
    async fn refuse(&self, form: Form, lie: Lie) -> Result<Row, Failure> {
        let offer = self.offer(self.name, form, Some(lie))?;
        let Some(said) = self.refusal(&offer).await? else {
            return Ok(Row::fail(self.name, "it is pulled", "the daemon refuses it"));
        };
        let path = format!("/images/{}/json", offer.reference);
        match self.run.engine.get("inspect the image", &path).await {
            Ok(_) => {
                Ok(Row::fail(self.name, "an image is left", "no image of this name").said(said))
            }
            Err(failure) if failure.fault == Fault::Missing => {
                Ok(Row::pass(self.name, "yes").said(said))
            }
            Err(failure) => Err(failure),
        }
    }

    /// Pulls an image of every form.
    async fn pull(&self, told: impl Fn(Form) -> Option<Lie>) -> Result<Row, Failure> {
        let (mut refused, mut words, mut count) = (Vec::new(), String::new(), 0);
        let began = Instant::now();
        for check in CHECKS {
            let Step::Chain(Link::Accept(form)) = check.step else { continue };
            let offer = self.offer(&format!("pull-{}", check.name), form, told(form))?;
            count += 1;
            if let Some(said) = self.refusal(&offer).await? {
                refused.push(check.name);
                words = said;
            }
        }
        let each = began.elapsed().as_millis() / count.max(1);
        Ok(match refused.is_empty() {
            true => Row::pass("pull", format!("yes, all {count} forms, {each} ms each")),
            false => Row::fail("pull", refused.join(", ") + ": no", "all forms").said(words),
        })
    }

    /// Pushes an image that came from here, but without the blobs that are its own.
    async fn push(&self) -> Result<Row, Failure> {
        let (engine, shared) = (&self.run.engine, &self.chain.shared);
        let offer = self.offer("push", PLAIN, None)?;
        engine.pull(&offer.reference).await?;
        shared.with(|registry| {
            registry.blobs.remove(&offer.image.layers[1].digest);
            registry.blobs.remove(&digest(&offer.image.config));
        });
        let pushed = format!("{}-again", offer.repository);
        let repository = format!("{}/{pushed}", self.chain.address);
        engine.tag(&offer.reference, &repository, TAG).await?;
        engine.push(&repository, TAG).await?;
        let found = shared.with(|registry| Some(registry.find(&pushed, TAG)?.digest()));
        let expected = match is_containerd(&self.run.info) {
            true => Some(offer.manifest.digest()),
            false => shared.with(|registry| converted(&offer.image, registry, &pushed)),
        };
        let is_good = found.is_some() && found == expected;
        let [found, expected] = [&found, &expected].map(|digest| digest.as_deref().map(short));
        let answer = format!("{} arrives", found.unwrap_or("no image"));
        Ok(Row::judge("push", is_good, answer, expected.unwrap_or("the layer that was pulled")))
    }

    /// Pulls two images that share a layer.
    async fn reuse(&self) -> Result<Row, Failure> {
        let mut fetched = Vec::new();
        for name in ["reuse-1", "reuse-2"] {
            let offer = self.offer(name, PLAIN, None)?;
            self.run.engine.pull(&offer.reference).await?;
            let count = |layer: &Layer| {
                let is_fetch =
                    |line: &&String| line.starts_with("GET ") && line.ends_with(&layer.digest);
                self.chain.shared.with(|registry| registry.asked.iter().filter(is_fetch).count())
            };
            fetched.push([0, 1].map(|at| count(&offer.image.layers[at])));
        }
        let size = self.run.kit.program.blob.len() as f64 / 1e6;
        let fetches = ["never fetched", "fetched once"].get(fetched[1][0]);
        let fetches = fetches.unwrap_or(&"fetched more than once");
        let answer = format!("the {size:.1} MB that two images share are {fetches}");
        let is_good = matches!(fetched[..], [[0 | 1, 1], [0 | 1, 1]]);
        Ok(Row::judge("layer-reuse", is_good, answer, "once at most, and each own layer once"))
    }
}

/// Predicts the digest of an image that a daemon with graph drivers has pushed: it writes the
/// manifest as schema 2, and compresses each layer that the registry has not in its own way.
fn converted(image: &Image, registry: &Registry, pushed: &str) -> Option<String> {
    let layer = registry.find(pushed, TAG)?.content.references().pop()?;
    let layer = Layer::unpack(registry.blobs.get(&layer.digest)?).ok()?;
    let [program, own] = image.layers.as_slice() else { return None };
    let is_same = layer.diff_id == own.diff_id;
    let image = Image::new(Kind::Schema2, image.config.clone(), vec![program.clone(), layer]);
    is_same.then(|| image.manifest.digest())
}
