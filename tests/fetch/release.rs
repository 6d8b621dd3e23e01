//! Tarballs as Docker makes them, of scripts that tell their version, and others that nobody should make.

use std::fs;
use std::io::Write;
use std::path::Path;

use dockerd_rootless::fetch::{Package, Version, architecture, directory};
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use test_support::mirror::Mirror;
use test_support::tarballs;

/// The programs of `docker-VERSION.tgz`, with one that some versions have and one that nobody knows.
pub const DOCKER: [&str; 9] = [
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "docker",
    "docker-init",
    "docker-novelty",
    "docker-proxy",
    "dockerd",
    "runc",
];
const EXTRAS: [&str; 5] = [
    "dockerd-rootless-setuptool.sh",
    "dockerd-rootless.sh",
    "rootlesskit",
    "rootlesskit-docker-proxy",
    "vpnkit",
];

/// One version's two tarballs.
pub struct Release {
    pub version: String,
    pub docker: Vec<u8>,
    pub extras: Vec<u8>,
}

impl Release {
    pub fn new(version: &str) -> Self {
        let build = |package: Package, programs: &[&str]| {
            let mut tarball = Tarball::new();
            tarball.directory(&format!("{}/", package.name()));
            for program in programs {
                tarball.file(&format!("{}/{program}", package.name()), &script(program, version));
            }
            tarball.finish()
        };
        Self {
            version: version.to_owned(),
            docker: build(Package::Docker, &DOCKER),
            extras: build(Package::Extras, &EXTRAS),
        }
    }

    /// Of the programs that this host has, packed in `directory`.
    pub fn real(version: &str, directory: &Path) -> Self {
        let pack = |package: Package| {
            fs::read(tarballs::pack(package.name(), directory)).expect("a tarball")
        };
        Self {
            version: version.to_owned(),
            docker: pack(Package::Docker),
            extras: pack(Package::Extras),
        }
    }

    /// With this host's dockerd, beside which no program works.
    pub fn lame(version: &str) -> Self {
        let mut docker = Tarball::new();
        for program in DOCKER {
            let content: &[u8] = match program {
                "dockerd" => b"#!/bin/sh\nexec /usr/sbin/dockerd \"$@\"\n",
                _ => b"#!/bin/sh\nexit 1\n",
            };
            docker.file(&format!("docker/{program}"), content);
        }
        Self { docker: docker.finish(), ..Self::new(version) }
    }

    pub fn file(&self, package: Package) -> String {
        package.file(&Version::parse(&self.version).expect("a version"))
    }

    pub fn path(&self, package: Package) -> String {
        format!("/{}/{}", directory("stable", architecture()), self.file(package))
    }

    pub fn bytes(&self, package: Package) -> &[u8] {
        match package {
            Package::Docker => &self.docker,
            Package::Extras => &self.extras,
        }
    }

    /// Puts both tarballs and their sums on the server.
    pub fn publish(&self, mirror: &Mirror) {
        for package in Package::ALL {
            let (path, bytes) = (self.path(package), self.bytes(package));
            mirror.put(&path, bytes);
            mirror.put(
                &format!("{path}.sha256"),
                format!("{}  {}\n", sum(bytes), self.file(package)),
            );
        }
    }
}

/// A program that tells its name and version. The padding, which no compression takes away, makes it long enough to break
/// off in the middle.
pub fn script(name: &str, version: &str) -> Vec<u8> {
    let mut padding = String::new();
    let mut seed = Sha256::digest(format!("{name} {version}"));
    while padding.len() < 8 * 1024 {
        padding.push_str(&seed.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        seed = Sha256::digest(seed);
    }
    format!("#!/bin/sh\necho {name} {version}\nexit\n{padding}\n").into_bytes()
}

pub fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("compressed");
    encoder.finish().expect("compressed")
}

/// A tarball, entry by entry, with headers that tar itself would not write.
#[derive(Default)]
pub struct Tarball(Vec<u8>);

impl Tarball {
    pub fn new() -> Self {
        Self::default()
    }

    /// All that a good docker tarball has but `without`.
    pub fn good_but(without: &str) -> Self {
        let mut tarball = Self::new();
        for program in DOCKER.into_iter().filter(|program| *program != without) {
            tarball.file(&format!("docker/{program}"), b"x");
        }
        tarball
    }

    pub fn directory(&mut self, name: &str) {
        self.entry(name, EntryType::Directory, 0o755, "", 0, b"");
    }

    pub fn file(&mut self, name: &str, content: &[u8]) {
        self.entry(name, EntryType::Regular, 0o755, "", content.len() as u64, content);
    }

    pub fn entry(
        &mut self,
        name: &str,
        kind: EntryType,
        mode: u32,
        link: &str,
        size: u64,
        content: &[u8],
    ) {
        let mut header = Header::new_gnu();
        {
            let raw = header.as_old_mut();
            raw.name[..name.len()].copy_from_slice(name.as_bytes());
            raw.linkname[..link.len()].copy_from_slice(link.as_bytes());
        }
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    pub fn raw(self) -> Vec<u8> {
        let mut bytes = self.0;
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }

    pub fn finish(self) -> Vec<u8> {
        gzip(&self.raw())
    }
}
