//! The real `skopeo` copies images into and out of our registry.

use std::fs;
use std::path::{Path, PathBuf};

use dockerd_rootless::oci::build::Image;
use dockerd_rootless::oci::manifest::{Kind, Stored, digest};
use test_support::TestUser;
use test_support::command::run;

use super::served::{Served, image, list_of};

/// Writes an image, and a list of it, as skopeo's directories have them.
fn write(user: &TestUser, path: &Path, top: &Stored, image: &Image) {
    let name = |digest: &str| path.join(digest.trim_start_matches("sha256:"));
    user.write(&path.join("version"), "Directory Transport Version: 1.1\n");
    user.write(&path.join("manifest.json"), &*top.bytes);
    if top != &image.manifest {
        let child = format!("{}.manifest.json", image.manifest.digest());
        user.write(&name(&child), &image.manifest.bytes);
    }
    image.blobs().for_each(|blob| user.write(&name(&digest(blob)), blob));
}

#[test]
fn skopeo_copies_all_four_kinds_in_and_out_and_reads_the_bytes_that_are_stored() {
    let user = TestUser::new();
    let served = Served::start();
    let skopeo = |words: &str| {
        let mut command = user.brief_command("skopeo");
        run(command.args(["--insecure-policy"]).args(words.split(' ')))
    };
    for (kind, image) in [
        (Kind::Schema2, image(Kind::Schema2)),
        (Kind::OciManifest, image(Kind::OciManifest)),
        (Kind::List, image(Kind::Schema2)),
        (Kind::OciIndex, image(Kind::OciManifest)),
    ] {
        let top = if kind.is_list() { list_of(&image) } else { image.manifest.clone() };
        assert_eq!(top.kind, kind);
        let [from, to]: [PathBuf; 2] =
            ["from", "to"].map(|name| user.home.join(format!("{name}-{kind:?}")));
        write(&user, &from, &top, &image);
        let there = format!(
            "docker://{}/skopeo/{}:tag",
            served.address,
            format!("{kind:?}").to_lowercase()
        );
        let copy = "copy --all --preserve-digests";
        skopeo(&format!("{copy} --dest-tls-verify=false dir:{} {there}", from.display()));
        let raw = skopeo(&format!("inspect --tls-verify=false --raw {there}"));
        assert_eq!(raw.as_bytes(), top.bytes, "{kind:?}");
        let by_digest = there.replace(":tag", &format!("@{}", top.digest()));
        for place in [&there, &by_digest] {
            skopeo(&format!("{copy} --src-tls-verify=false {place} dir:{}", to.display()));
            for entry in fs::read_dir(&from).expect("a directory").flatten() {
                let read =
                    |path: PathBuf| fs::read(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
                assert!(read(entry.path()) == read(to.join(entry.file_name())), "{entry:?}");
            }
            fs::remove_dir_all(&to).expect("remove the copy");
        }
        let layout = format!("oci:{}:tag", to.display());
        skopeo(&format!("copy --src-tls-verify=false {there} {layout}"));
        skopeo(&format!("copy --dest-tls-verify=false {layout} {there}-again"));
    }
}
