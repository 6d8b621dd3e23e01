//! `overlay`: whether dockerd can store images in layers. It takes the first storage driver that
//! works, down to one that copies every layer, and only says so in its log.

use std::path::Path;

use crate::check::evidence::Evidence;
use crate::check::finding::{Finding, Status};
use crate::check::fix::{Fix, quoted};
use crate::check::packages::Package;
use crate::check::trials::Outcome;
use crate::facts::Version;
use crate::words;

/// From this dockerd on, nothing chooses fuse-overlayfs by itself (moby's
/// `determineImageStoreChoice`).
const SNAPSHOTTERS_SINCE: Version = Version(29, 0, 0);

/// The first kernel that lets every user mount overlays (2d2f2d7322ff, with `userxattr`).
const KERNEL_OVERLAY: (u32, u32) = (5, 11);

/// The drivers whose data dockerd looks for when none is stated (`scanPriorDrivers`): it takes
/// the one that it finds, and refuses to choose between two.
const FOUND_BY_DATA: [&str; 4] = ["overlay2", "fuse-overlayfs", "btrfs", "zfs"];

/// The drivers that cannot work without root.
const NEED_ROOT: [&str; 4] = ["aufs", "devicemapper", "overlay", "zfs"];

/// File systems that can hold the upper layer of an overlay, and are there after a reboot.
const GOOD: [&str; 4] = ["ext4", "ext3", "xfs", "btrfs"];

/// File systems whose server decides on owners: no subordinate ID can own a file there.
const REMOTE: [&str; 8] = ["nfs", "nfs4", "cifs", "smb3", "9p", "lustre", "afs", "fuse.sshfs"];

/// Fewer free bytes than this are none.
const FULL: u64 = 1 << 20;

/// Judges the data root and the storage driver that dockerd will take.
pub fn overlay(evidence: &Evidence<'_>) -> Finding {
    let (root, trials) = (&evidence.survey.data_root, evidence.trials);
    let kind = evidence.survey.mounts.of(&root.base).map_or("unknown", |mount| &mount.kind);
    let place = format!("`{}` ({kind})", root.base.display());
    if !trials.data_root_writable {
        let what = format!("the data root `{}` cannot be written", root.path.display());
        return Finding::failed_trial(what)
            .because("`dockerd-rootless ids PATH` shows who owns a directory")
            .tell("choose a data root of your own: a directory that you can write, with dockerd's `--data-root`");
    }
    if trials.data_root_free.is_some_and(|free| free < FULL) {
        return full(evidence, &place);
    }
    // dockerd takes this variable before its arguments.
    let stated = evidence.environment.get("DOCKER_DRIVER");
    let stated = stated.map(|driver| driver.to_string_lossy().into_owned());
    let stated = stated.or_else(|| evidence.daemon_option("storage-driver"));
    let stated = stated.filter(|driver| !driver.is_empty());
    let has_data = |driver: &&str| root.drivers_with_data.iter().any(|own| own == driver);
    let found: Vec<&str> = FOUND_BY_DATA.into_iter().filter(has_data).collect();
    if stated.is_none() && found.len() > 1 {
        let found = found.join(", ");
        return Finding::problem(format!("dockerd will not start: several storage drivers have data: {found}"))
            .tell("choose the one whose images you want with dockerd's `--storage-driver`; the others' stay where they are");
    }
    let driver = stated.as_deref().or(found.first().copied());
    let finding = match driver {
        Some(driver) if NEED_ROOT.contains(&driver) => Finding::problem(format!(
            "storage driver `{driver}` does not work without root"
        ))
        .tell("remove it from daemon.json or from dockerd's arguments, or unset DOCKER_DRIVER"),
        Some(copier @ ("vfs" | "native")) => {
            Finding::warn(format!("storage driver `{copier}` copies every layer"))
        }
        _ if REMOTE.contains(&kind) => {
            let what = format!("subordinate IDs cannot own files on {place}");
            elsewhere(evidence, Finding::problem(what))
        }
        Some("fuse-overlayfs") if has_fuse(evidence) => {
            Finding::ok("storage driver `fuse-overlayfs` has what it needs")
        }
        Some("fuse-overlayfs") => {
            let what = "fuse-overlayfs is not installed, or cannot open /dev/fuse";
            install_fuse(evidence, Finding::problem(what))
        }
        None | Some("overlay2" | "overlayfs") => native(evidence, driver, kind, &place),
        Some(other) => Finding::untried(format!("storage driver `{other}` was not tried")),
    };
    // dockerd never looks for data of this one.
    if finding.status == Status::Ok && has_data(&"vfs") {
        return Finding::warn(
            "images of storage driver vfs are not visible: dockerd takes another",
        )
        .tell("`--storage-driver=vfs` shows them, and `docker save` copies images");
    }
    finding
}

fn full(evidence: &Evidence<'_>, place: &str) -> Finding {
    let base = quoted(&evidence.survey.data_root.base);
    let finding = Finding::problem(format!("the disk of the data root is full: {place}"));
    finding.tell(format!(
        "free space there (`df -h {base}; df -i {base}`), or choose a data root on another disk"
    ))
}

fn has_fuse(evidence: &Evidence<'_>) -> bool {
    evidence.trials.fuse_overlayfs.is_some() && evidence.trials.fuse.failure().is_none()
}

/// Installs what fuse-overlayfs lacks.
fn install_fuse(evidence: &Evidence<'_>, finding: Finding) -> Finding {
    let finding = match evidence.trials.fuse_overlayfs {
        None => finding.fix(Fix::Package(Package::FuseOverlayfs)),
        Some(_) => finding,
    };
    match evidence.trials.fuse.failure() {
        None => finding,
        Some(_) => finding.root("modprobe fuse && chmod 0666 /dev/fuse"),
    }
}

/// Judges the kernel's own overlay mounts.
fn native(evidence: &Evidence<'_>, driver: Option<&str>, kind: &str, place: &str) -> Finding {
    let Some(inside) = &evidence.trials.inside else {
        return Finding::untried("no namespace to try an overlay mount in");
    };
    let takes_fuse = evidence.dockerd_version().is_some_and(|version| version < SNAPSHOTTERS_SINCE);
    let Outcome::Fails(failure) = &inside.overlay else {
        let finding = Finding::tried(&inside.overlay, format!("overlay mounts work on {place}"));
        return match evidence.host.kernel.selinux && takes_fuse && driver.is_none() {
            true => finding.because("dockerd takes `overlay2`; under upstream's script, which tells it of SELinux, it takes `fuse-overlayfs` or `vfs`, and refuses to start over the data of `overlay2`"),
            false => finding,
        };
    };
    let errno = failure.errno.as_deref();
    if matches!(errno, Some("ENOSPC" | "EDQUOT")) {
        return full(evidence, place);
    }
    if driver.is_none() && takes_fuse && has_fuse(evidence) {
        return Finding::ok("dockerd takes `fuse-overlayfs`, which is slower than overlay mounts")
            .because(&failure.text);
    }
    let result = match driver {
        Some(driver) => format!("dockerd will not start with `{driver}`"),
        None => "dockerd would silently copy every layer".to_owned(),
    };
    let finding = Finding::problem(format!("overlay mounts do not work on {place}: {result}"))
        .because(&failure.text);
    let kernel = &evidence.survey.kernel;
    match errno {
        Some("ENODEV") => finding.fix(Fix::Modules(&["overlay"])),
        Some("EPERM") if evidence.host.kernel.version < Some(KERNEL_OVERLAY) => {
            let why = format!("kernel {kernel} does not let users mount overlays; 5.11 and later do");
            install_fuse(evidence, finding.because(why))
                .tell("dockerd 29 and later also need `--storage-driver=fuse-overlayfs`")
        }
        _ if GOOD.contains(&kind) => finding.tell("look for a seccomp filter or a security module that denies it, and on xfs, whether `xfs_info` says `ftype=1`"),
        _ => elsewhere(evidence, finding),
    }
}

/// Offers a data root on a local file system.
fn elsewhere(evidence: &Evidence<'_>, finding: Finding) -> Finding {
    let survey = evidence.survey;
    let (uid, gid) = (survey.account.uid, survey.account.gid);
    let path = format!("/var/lib/dockerd-rootless/{uid}");
    let kind = survey.mounts.of(Path::new(&path)).map_or("", |mount| &mount.kind);
    let is_stated = evidence.daemon_option("data-root").is_some();
    if is_stated || !GOOD.contains(&kind) {
        return finding.tell(format!(
            "choose a directory on a local file system ({}) with dockerd's `--data-root`",
            GOOD.join(", ")
        ));
    }
    let mut args = evidence.settings.daemon_args.value.clone();
    args.push(format!("--data-root={path}").into());
    finding
        .because(format!(
            "images stay in `{}`; the new data root starts empty",
            survey.data_root.path.display()
        ))
        .root(format!("install -d -m 0700 -o {uid} -g {gid} {path}"))
        .fix(Fix::Set("daemon.args", words::join(&args).to_string_lossy().into_owned()))
}
