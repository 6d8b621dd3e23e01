//! `overlay`: whether dockerd can store images in layers. It takes the first storage driver that
//! works, down to `vfs`, which copies every layer, and only says so in its log.

use std::path::Path;

use crate::check::finding::{Evidence, Finding, Status};
use crate::check::fix::{Fix, quoted};
use crate::check::packages::Package;
use crate::check::trials::{Failure, Inside, Outcome};
use crate::facts::{Mount, Version};
use crate::words;

/// From this dockerd on, images go to containerd's store unless a driver has data already or is
/// stated: with the snapshotter `overlayfs`, else `native` (moby's `determineImageStoreChoice`).
const SNAPSHOTTERS_SINCE: Version = Version(29, 0, 0);

/// The first kernel that lets every user mount overlays (2d2f2d7322ff, with `userxattr`).
const KERNEL_OVERLAY: (u32, u32) = (5, 11);

/// The drivers whose data dockerd looks for when none is stated (`scanPriorDrivers`): it takes
/// the one that it finds, and refuses to choose between two.
const FOUND_BY_DATA: [&str; 4] = ["overlay2", "fuse-overlayfs", "btrfs", "zfs"];

/// The drivers that cannot work without root.
pub const NEED_ROOT: [&str; 4] = ["aufs", "devicemapper", "overlay", "zfs"];

/// File systems that can hold the upper layer of an overlay, and are there after a reboot.
const GOOD: [&str; 4] = ["ext4", "ext3", "xfs", "btrfs"];

/// File systems whose server decides on owners: no subordinate ID can own a file there.
const REMOTE: [&str; 8] = ["nfs", "nfs4", "cifs", "smb3", "9p", "lustre", "afs", "fuse.sshfs"];

/// Fewer free bytes than this are none.
const FULL: u64 = 1 << 20;

/// Judges the storage driver that dockerd will take.
pub fn overlay(evidence: &Evidence<'_>) -> Finding {
    if !evidence.trials.data_root_writable {
        return unwritable(evidence);
    }
    if evidence.trials.data_root_free.is_some_and(|free| free < FULL) {
        return full(evidence);
    }
    let stated = evidence
        .environment
        .get("DOCKER_DRIVER")
        .map(|driver| driver.to_string_lossy().into_owned());
    let stated = stated.or_else(|| evidence.daemon_option("storage-driver", Some(b's')));
    let data = &evidence.survey.data_root.drivers_with_data;
    let prior: Vec<&str> =
        data.iter().map(String::as_str).filter(|driver| FOUND_BY_DATA.contains(driver)).collect();
    let driver = match (stated.as_deref().filter(|driver| !driver.is_empty()), &prior[..]) {
        (Some(stated), _) => Some(stated),
        (None, [_, _, ..]) => return ambiguous(evidence, &prior),
        (None, prior) => prior.first().copied(),
    };
    let finding = match (driver, &evidence.trials.inside) {
        (Some(driver), _) if NEED_ROOT.contains(&driver) => {
            Finding::problem(format!("storage driver `{driver}` does not work without root"))
                .tell("remove it from daemon.json or from dockerd's arguments")
        }
        (Some(copier @ ("vfs" | "native")), _) => {
            Finding::warn(format!("storage driver `{copier}` copies every layer"))
        }
        (Some("fuse-overlayfs"), _) => fuse(evidence),
        (None | Some("overlay2" | "overlayfs"), Some(inside)) => native(evidence, inside, driver),
        (None | Some("overlay2" | "overlayfs"), None) => {
            Finding::untried("no namespace to try an overlay mount in")
        }
        (Some(other), _) => Finding::untried(format!("storage driver `{other}` was not tried")),
    };
    vanished(evidence, driver, finding)
}

/// Returns the file system of the data root.
fn file_system<'a>(evidence: &Evidence<'a>) -> Option<&'a Mount> {
    evidence.survey.mounts.of(&evidence.survey.data_root.base)
}

/// Returns the data root and its file system, for people.
fn place(evidence: &Evidence<'_>) -> String {
    let base = evidence.survey.data_root.base.display();
    file_system(evidence)
        .map_or_else(|| format!("`{base}`"), |mount| format!("`{base}` ({})", mount.kind))
}

fn is_on(evidence: &Evidence<'_>, kinds: &[&str]) -> bool {
    file_system(evidence).is_some_and(|mount| kinds.contains(&mount.kind.as_str()))
}

fn has_snapshotters(evidence: &Evidence<'_>) -> bool {
    evidence.dockerd_version().is_none_or(|version| version >= SNAPSHOTTERS_SINCE)
}

fn full(evidence: &Evidence<'_>) -> Finding {
    let base = quoted(&evidence.survey.data_root.base);
    Finding::problem(format!("the disk of the data root is full: {}", place(evidence))).tell(
        format!(
            "free space there (`df -h {base}; df -i {base}`), or choose a data root on another disk"
        ),
    )
}

/// Judges the kernel's own overlay mounts.
fn native(evidence: &Evidence<'_>, inside: &Inside, driver: Option<&str>) -> Finding {
    let overlay = &inside.overlay;
    // dockerd asks for `userxattr` where the kernel or a mount shows that it works (`NeedsUserXAttr`).
    let kernel_has_it = evidence.survey.kernel_version() >= Some(KERNEL_OVERLAY);
    let with_xattr = kernel_has_it || overlay.userxattr.works();
    let failure = match if with_xattr { &overlay.userxattr } else { &overlay.plain } {
        Outcome::Works => {
            let finding = Finding::ok(format!("overlay mounts work on {}", place(evidence)));
            return match overlay.native_diff {
                Some(false) => finding.because(
                    "layers cannot be compared natively: building and committing images is slower",
                ),
                _ => finding,
            };
        }
        Outcome::NotTried(why) => {
            return Finding::untried(format!(
                "an overlay mount on {} was not tried: {why}",
                place(evidence)
            ));
        }
        Outcome::Fails(failure) => failure,
    };
    if matches!(failure.errno.as_deref(), Some("ENOSPC" | "EDQUOT")) {
        return full(evidence);
    }
    if driver.is_none() && !has_snapshotters(evidence) && has_fuse(evidence) {
        return Finding::ok(
            "overlay mounts do not work, and dockerd takes `fuse-overlayfs`, which is slower",
        )
        .because(failure.text.clone());
    }
    let what = format!("overlay mounts do not work on {}", place(evidence));
    let finding = match driver {
        Some(driver) => Finding::problem(format!("{what}: dockerd will not start with `{driver}`")),
        None => {
            let copier = if has_snapshotters(evidence) { "native" } else { "vfs" };
            Finding::problem(format!(
                "{what}: dockerd would silently use `{copier}`, which copies every layer"
            ))
        }
    };
    instead(evidence, failure, finding.because(failure.text.clone()))
}

/// Offers another file system, a module, or another driver.
fn instead(evidence: &Evidence<'_>, failure: &Failure, finding: Finding) -> Finding {
    let errno = failure.errno.as_deref();
    let is_old = evidence.survey.kernel_version() < Some(KERNEL_OVERLAY);
    if errno == Some("ENODEV") {
        return finding.fix(Fix::Modules(&["overlay"]));
    }
    if !(is_on(evidence, &GOOD) || is_old && errno == Some("EPERM")) {
        return elsewhere(evidence, finding);
    }
    if !is_old {
        return finding.tell("look for a seccomp filter or a security module that denies it, and on xfs, whether `xfs_info` says `ftype=1`");
    }
    let finding = finding.because(format!(
        "kernel {} does not let users mount overlays; 5.11 and later do",
        evidence.survey.kernel
    ));
    if evidence.survey.surroundings.wsl {
        return finding.tell(
            "run `wsl --update` and then `wsl --shutdown` in Windows, which provides the kernel",
        );
    }
    install_fuse(evidence, finding)
}

/// Judges the driver fuse-overlayfs, stated or found by its data.
fn fuse(evidence: &Evidence<'_>) -> Finding {
    if is_on(evidence, &REMOTE) {
        let what = format!("subordinate IDs cannot own files on {}", place(evidence));
        return elsewhere(evidence, Finding::problem(what));
    }
    match has_fuse(evidence) {
        true => Finding::ok("storage driver `fuse-overlayfs` has what it needs"),
        false => install_fuse(
            evidence,
            Finding::problem("fuse-overlayfs is not installed, or cannot open /dev/fuse"),
        ),
    }
}

fn has_fuse(evidence: &Evidence<'_>) -> bool {
    let trials = evidence.trials;
    trials.fuse_overlayfs.is_some() && trials.fuse.failure().is_none() && !is_on(evidence, &REMOTE)
}

/// Installs what fuse-overlayfs lacks, and chooses it where dockerd would not.
fn install_fuse(evidence: &Evidence<'_>, finding: Finding) -> Finding {
    let finding = match evidence.trials.fuse.failure() {
        None => finding.fix(Fix::Package(Package::FuseOverlayfs)),
        Some(_) => finding
            .fix(Fix::Package(Package::FuseOverlayfs))
            .root("modprobe fuse && chmod 0666 /dev/fuse"),
    };
    match has_snapshotters(evidence) {
        true => state(evidence, finding, "storage-driver", Some(b's'), "fuse-overlayfs"),
        false => finding,
    }
}

/// Offers a data root on another file system.
fn elsewhere(evidence: &Evidence<'_>, finding: Finding) -> Finding {
    let survey = evidence.survey;
    let (uid, gid) = (survey.account.uid, survey.account.gid);
    let finding = finding.because(format!(
        "overlays and subordinate IDs need a local file system: {}",
        GOOD.join(", ")
    ));
    // A name of a directory service may hold anything.
    let name = survey.account.display_name();
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    let path =
        format!("/var/lib/dockerd-rootless/{}", if is_plain { name } else { uid.to_string() });
    let is_usable = |mount: &Mount| {
        GOOD.contains(&mount.kind.as_str()) && !mount.options.iter().any(|option| option == "ro")
    };
    if !survey.mounts.of(Path::new(&path)).is_some_and(is_usable) {
        return finding.tell("choose a directory on one with dockerd's `--data-root`");
    }
    let finding = finding
        .because(format!(
            "images stay in `{}`; the new data root starts empty",
            survey.data_root.path.display()
        ))
        .root(format!("install -d -m 0700 -o {uid} -g {gid} {path}"));
    state(evidence, finding, "data-root", Some(b'g'), &path)
}

/// Gives dockerd `--name=value` beside the arguments that daemon.args has. Where it is given
/// already, dockerd would refuse it or take the other.
fn state(
    evidence: &Evidence<'_>,
    finding: Finding,
    name: &str,
    letter: Option<u8>,
    value: &str,
) -> Finding {
    if evidence.daemon_option(name, letter).is_some() {
        return finding
            .tell(format!("give dockerd `--{name}={value}` instead of its present `{name}`"));
    }
    let mut args = evidence.settings.daemon_args.value.clone();
    args.push(format!("--{name}={value}").into());
    finding.fix(Fix::Set("daemon.args", words::join(&args).to_string_lossy().into_owned()))
}

/// Reports that two drivers have data and none is stated.
fn ambiguous(evidence: &Evidence<'_>, prior: &[&str]) -> Finding {
    let chosen =
        FOUND_BY_DATA.into_iter().find(|driver| prior.contains(driver)).unwrap_or(prior[0]);
    let finding = Finding::problem(format!(
        "dockerd will not start: several storage drivers have data: {}",
        prior.join(", ")
    ))
    .because(format!(
        "choose the one whose images you want, such as `{chosen}`; the others' stay where they are"
    ));
    state(evidence, finding, "storage-driver", Some(b's'), chosen)
}

/// Warns if images of other drivers are not visible.
fn vanished(evidence: &Evidence<'_>, driver: Option<&str>, mut finding: Finding) -> Finding {
    let hidden: Vec<&str> = evidence
        .survey
        .data_root
        .drivers_with_data
        .iter()
        .map(String::as_str)
        .filter(|other| Some(*other) != driver)
        .collect();
    let [first, ..] = hidden[..] else { return finding };
    let names = hidden.join(", ");
    if finding.status == Status::Ok {
        finding.status = Status::Warn;
        finding.summary = format!(
            "images of storage driver {names} are not visible: dockerd takes {}",
            driver.unwrap_or("another")
        );
    }
    finding
        .because(format!("`--storage-driver={first}` shows them, and `docker save` copies images"))
}

/// Reports a data root, or a directory that it would be created in, that is not the user's.
fn unwritable(evidence: &Evidence<'_>) -> Finding {
    let path = &evidence.survey.data_root.path;
    if path.is_relative() {
        return Finding::untried(format!(
            "the data root `{}` is not an absolute path",
            path.display()
        ));
    }
    let is_at_home =
        evidence.environment.absolute("HOME").is_none_or(|home| path.starts_with(home));
    let what = format!("the data root `{}` cannot be written", path.display());
    let finding = if is_at_home { Finding::failed_trial(what) } else { Finding::problem(what) };
    let is_read_only = |mount: &Mount| mount.options.iter().any(|option| option == "ro");
    if file_system(evidence).is_some_and(is_read_only) {
        return finding.because(format!("{} is mounted read-only", place(evidence)));
    }
    finding.tell("choose a data root of your own: a directory that you can write, with dockerd's `--data-root`")
}
