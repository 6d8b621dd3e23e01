//! Whether dockerd can store images in layers. It takes the first storage driver that works, down
//! to `vfs`, which copies every layer, and says so in its log alone.

use std::path::PathBuf;

use crate::check::distro;
use crate::check::distro::Package;
use crate::check::netfilter::from_kernel;
use crate::check::places::quoted;
use crate::check::{Evidence, Finding, Status, failing};
use crate::facts::{Failure, Mount, Outcome, Overlay, Version};
use crate::settings::Origin;

/// The first dockerd that mounts with `userxattr` (moby 11ef8d3ba9).
const USERXATTR_SINCE: Version = Version(20, 10, 6);

/// The first dockerd that has the driver fuse-overlayfs (moby#40483).
const FUSE_SINCE: Version = Version(20, 10, 0);

/// From this dockerd on, images go to containerd's store unless a driver has data already or is
/// stated: with the snapshotter `overlayfs`, else `native` (moby's `determineImageStoreChoice`).
const SNAPSHOTTERS_SINCE: Version = Version(29, 0, 0);

/// The first kernel that lets every user mount overlays (2d2f2d7322ff, with `userxattr`).
const KERNEL_OVERLAY: (u32, u32) = (5, 11);

/// The first kernel that lets every user mount with FUSE in a namespace.
const KERNEL_FUSE: (u32, u32) = (4, 18);

/// The drivers whose data dockerd looks for when none is stated (`scanPriorDrivers`): it takes
/// the one that it finds, and refuses to choose between two. `vfs` does not count there.
const FOUND_BY_DATA: [&str; 4] = ["overlay2", "fuse-overlayfs", "btrfs", "zfs"];

/// File systems that take the upper layer of an overlay, and are there after a reboot.
const GOOD: [&str; 4] = ["ext4", "ext3", "xfs", "btrfs"];

/// File systems whose server decides on owners: no subordinate id can own a file there.
const REMOTE: [&str; 8] = ["nfs", "nfs4", "cifs", "smb3", "9p", "lustre", "afs", "fuse.sshfs"];

/// Judges the storage driver that dockerd will take.
pub fn overlay(evidence: &Evidence<'_>) -> Finding {
    if !evidence.trials.data_root_writable {
        return unwritable(evidence);
    }
    let Some(inside) = &evidence.trials.inside else {
        let why = evidence.why_not_inside();
        return Finding::skip(format!("there is no namespace to try an overlay mount in: {why}"));
    };
    let stated = stated_driver(evidence);
    let prior: Vec<&str> =
        with_data(evidence).filter(|driver| FOUND_BY_DATA.contains(driver)).collect();
    let driver = match (&stated, &prior[..]) {
        (Some(stated), _) => Some(stated.as_str()),
        (None, [_, _, ..]) => return ambiguous(evidence, &prior),
        (None, prior) => prior.first().copied(),
    };
    let finding = match driver {
        Some(copier @ ("vfs" | "native")) => Finding::warn(format!(
            "storage driver `{copier}` is stated: every layer is a whole copy of the one below"
        ))
        .because("it takes many times the space and time of overlay mounts"),
        Some("fuse-overlayfs") => fuse(evidence),
        None | Some("overlay2" | "overlayfs") => native(evidence, &inside.overlay, driver),
        Some(other) => Finding::skip(format!("storage driver `{other}` was not tried")),
    };
    vanished(evidence, driver, finding)
}

/// The driver that somebody names, in dockerd's order.
fn stated_driver(evidence: &Evidence<'_>) -> Option<String> {
    let words = evidence.settings.args();
    let by_word = words.value("storage-driver", Some(b's'));
    let by_variable = evidence.environment.get("DOCKER_DRIVER");
    let by_file = || evidence.host.session.daemon_json.text("storage-driver");
    by_variable
        .or(by_word)
        .map(|driver| driver.to_string_lossy().into_owned())
        .or_else(|| by_file().map(str::to_owned))
        .filter(|driver| !driver.is_empty())
}

fn with_data<'a>(evidence: &Evidence<'a>) -> impl Iterator<Item = &'a str> + use<'a> {
    let drivers = &evidence.survey.data_root.drivers_with_data;
    drivers.iter().map(String::as_str)
}

/// Whether dockerd is older than `since`; one of an unknown version is taken for a later one.
fn is_before(evidence: &Evidence<'_>, since: Version) -> bool {
    let dockerd = evidence.host.tools.dockerd.known();
    let version = dockerd.and_then(|facts| facts.version);
    version.is_some_and(|version| version < since)
}

/// The file system of the data root.
fn file_system<'a>(evidence: &Evidence<'a>) -> Option<&'a Mount> {
    evidence.survey.mounts.of(&evidence.survey.data_root.base)
}

/// The data root and its file system, for people.
fn place(evidence: &Evidence<'_>) -> String {
    let base = evidence.survey.data_root.base.display();
    file_system(evidence)
        .map_or_else(|| format!("`{base}`"), |mount| format!("`{base}` ({})", mount.kind))
}

fn is_on(evidence: &Evidence<'_>, kinds: &[&str]) -> bool {
    file_system(evidence).is_some_and(|mount| kinds.contains(&mount.kind.as_str()))
}

/// The kernel's own overlay mounts, for a `driver` that is stated or found, or for none.
fn native(evidence: &Evidence<'_>, overlay: &Overlay, driver: Option<&str>) -> Finding {
    let failure = match decisive(evidence, overlay) {
        Outcome::Works => {
            let finding = Finding::ok(format!("overlay mounts work on {}", place(evidence)));
            return if overlay.native_diff == Some(false) {
                finding.because(
                    "layers cannot be compared natively: building and committing images is slower",
                )
            } else {
                finding
            };
        }
        Outcome::NotTried(why) => {
            return Finding::skip(format!(
                "an overlay mount on {} was not tried: {why}",
                place(evidence)
            ));
        }
        Outcome::Fails(failure) => failure,
    };
    let takes_snapshotters = !is_before(evidence, SNAPSHOTTERS_SINCE);
    if driver.is_none() && !takes_snapshotters && fuse_fault(evidence).is_none() {
        return Finding::ok("no overlay mount works, and dockerd takes `fuse-overlayfs` instead")
            .because(failure.text.clone())
            .because("it is slower than the kernel's own overlays");
    }
    let what = format!("no overlay mount works on {}", place(evidence));
    let finding = match driver {
        Some(driver) => Finding::fail(format!("{what}: dockerd will not start with `{driver}`")),
        None => {
            let copier = if takes_snapshotters { "native" } else { "vfs" };
            Finding::fail(format!("{what}: dockerd would fall to `{copier}` in silence"))
                .because("every layer is a whole copy of the one below there")
        }
    };
    mend(evidence, failure, finding.because(failure.text.clone()))
}

/// The trial that this dockerd's mounts are like. It asks for `userxattr` on kernels that are
/// known to have it, and elsewhere if a mount with it works (`NeedsUserXAttr`).
fn decisive<'a>(evidence: &Evidence<'_>, overlay: &'a Overlay) -> &'a Outcome {
    let kernel_has_it = evidence.survey.kernel_version() >= Some(KERNEL_OVERLAY);
    if is_before(evidence, USERXATTR_SINCE) || !(kernel_has_it || overlay.userxattr.works()) {
        &overlay.plain
    } else {
        &overlay.userxattr
    }
}

/// Adds what mends an overlay mount that failed: another file system, another kernel setting, or
/// another driver.
fn mend(evidence: &Evidence<'_>, failure: &Failure, finding: Finding) -> Finding {
    let errno = failure.errno.as_deref();
    let kernel_is_old = evidence.survey.kernel_version() < Some(KERNEL_OVERLAY);
    if errno == Some("ENODEV") {
        let finding = finding.because("the kernel's module is not loaded, or this kernel has none");
        return from_kernel(evidence, finding, "overlay", &["overlay"]);
    }
    let is_kernels = kernel_is_old && errno == Some("EPERM");
    if !is_kernels && !is_on(evidence, &GOOD) {
        return elsewhere(evidence, finding);
    }
    if !kernel_is_old {
        let finding = finding.because("this kernel and this file system have overlays for users: look for a seccomp filter or a security module in the way, and for xfs, whether `xfs_info` says `ftype=1`");
        return if is_before(evidence, USERXATTR_SINCE) {
            finding.because(format!("dockerd before {USERXATTR_SINCE} does not mount with `userxattr`: install a later one"))
        } else {
            finding
        };
    }
    old_kernel(evidence, finding)
}

/// Adds what helps on kernels before 5.11, which let nobody but root mount overlays unless the
/// distribution has changed them.
fn old_kernel(evidence: &Evidence<'_>, finding: Finding) -> Finding {
    let survey = evidence.survey;
    let kernel = &survey.kernel;
    let mut finding =
        finding.because(format!("kernel {kernel} lets users mount no overlays; 5.11 and later do"));
    // It has Windows' kernel, and not the distribution's.
    let wsl = survey.surroundings.wsl;
    let debian = survey.release.id == "debian" && !wsl;
    if wsl {
        finding = finding.because(
            "Windows brings the kernel: `wsl --update` and then `wsl --shutdown` there bring a later one",
        );
    }
    if survey.release.id == "ubuntu" && !wsl {
        finding = finding
            .because("for Ubuntu before 22.04: Ubuntu's own kernels do, and this one is another");
    }
    if debian && survey.release.version() < Some((10, 0)) {
        finding = finding.because("for Debian 9: `overlay2` is not possible with its kernel");
    }
    if debian && (Some((10, 0))..Some((12, 0))).contains(&survey.release.version()) {
        let state = survey.overlay_permit_mounts.as_deref().unwrap_or("not set");
        finding = finding.because(format!(
            "for Debian 10 and 11: `options overlay permit_mounts_in_userns=1` in /etc/modprobe.d allows them (it is {state}), for all users, and some images then fail to unpack (moby#42302): `fuse-overlayfs` is the better way"
        ));
    }
    let enterprise_7 = survey.release.is_like("rhel") && survey.release.version() < Some((8, 0));
    if enterprise_7 {
        finding = finding.because("for RHEL and CentOS 7: `vfs` is the only storage driver");
    }
    let kernel_has_fuse = survey.kernel_version() >= Some(KERNEL_FUSE);
    if kernel_has_fuse && is_before(evidence, FUSE_SINCE) {
        finding =
            finding.because(format!("dockerd {FUSE_SINCE} and later can use `fuse-overlayfs`"));
    }
    if !kernel_has_fuse || is_before(evidence, FUSE_SINCE) {
        finding = finding.because("`vfs`, stated, works everywhere, with a copy for every layer");
        return state(evidence, finding, "storage-driver", Some(b's'), "vfs");
    }
    let finding = install_fuse(evidence, finding);
    if is_before(evidence, SNAPSHOTTERS_SINCE) && stated_driver(evidence).is_none() {
        return finding;
    }
    state(evidence, finding, "storage-driver", Some(b's'), "fuse-overlayfs")
}

/// The driver fuse-overlayfs, stated or found by its data.
fn fuse(evidence: &Evidence<'_>) -> Finding {
    let Some(fault) = fuse_fault(evidence) else {
        return Finding::ok("storage driver `fuse-overlayfs` has what it needs")
            .because("it is slower than the kernel's own overlays, which kernels have for users from 5.11 on");
    };
    let finding =
        Finding::fail("storage driver `fuse-overlayfs` is chosen and cannot work").because(fault);
    if is_on(evidence, &REMOTE) {
        return elsewhere(evidence, finding);
    }
    if evidence.survey.kernel_version() < Some(KERNEL_FUSE) {
        return finding;
    }
    install_fuse(evidence, finding)
}

/// Why fuse-overlayfs cannot work here.
fn fuse_fault(evidence: &Evidence<'_>) -> Option<String> {
    let kernel = &evidence.survey.kernel;
    if evidence.survey.kernel_version() < Some(KERNEL_FUSE) {
        return Some(format!("kernel {kernel} is older than 4.18"));
    }
    if is_on(evidence, &REMOTE) {
        return Some(format!("on {} no file can be given to a subordinate id", place(evidence)));
    }
    if evidence.trials.fuse_overlayfs.is_none() {
        return Some("the program `fuse-overlayfs` is not installed".to_owned());
    }
    let failure = evidence.trials.fuse.failure()?;
    Some(format!("/dev/fuse does not open: {}", failure.text))
}

/// Adds the program and the device that fuse-overlayfs lacks.
fn install_fuse(evidence: &Evidence<'_>, mut finding: Finding) -> Finding {
    if evidence.trials.fuse_overlayfs.is_none() {
        finding = distro::install_for(finding, &evidence.survey.release, Package::FuseOverlayfs);
    }
    match evidence.trials.fuse.failure().map(|failure| failure.errno.as_deref()) {
        None => finding,
        Some(Some("EACCES" | "EPERM")) => finding
            .because("/dev/fuse is open to all users elsewhere (mode 0666)")
            .root("chmod 0666 /dev/fuse"),
        Some(_) => finding.root("modprobe fuse"),
    }
}

/// Adds a data root on another file system.
fn elsewhere(evidence: &Evidence<'_>, finding: Finding) -> Finding {
    let survey = evidence.survey;
    let (uid, gid) = (survey.account.uid, survey.account.gid);
    let finding = finding.because(format!(
        "overlays and subordinate ids need a local file system, such as {}",
        GOOD.join(", ")
    ));
    // A name of a directory service may hold anything.
    let name = survey.account.shown();
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    let name = if is_plain { name } else { uid.to_string() };
    let path = PathBuf::from(format!("/var/lib/dockerd-rootless/{name}"));
    let is_usable = |mount: &Mount| {
        GOOD.contains(&mount.kind.as_str()) && !mount.options.iter().any(|option| option == "ro")
    };
    if !survey.mounts.of(&path).is_some_and(is_usable) {
        return finding.because("dockerd's `--data-root` names a directory on one");
    }
    let finding = finding
        .because(format!(
            "images and containers stay in `{}` and are not seen from the new data root; restart the daemon for it",
            survey.data_root.path.display()
        ))
        .root(format!("install -d -m 0700 -o {uid} -g {gid} {}", quoted(&path)));
    state(evidence, finding, "data-root", Some(b'g'), &path.to_string_lossy())
}

/// Adds the user's command that gives dockerd `--name=value`, beside the words that `daemon.args`
/// has; where it is given already, dockerd would refuse it or take the other.
fn state(
    evidence: &Evidence<'_>,
    finding: Finding,
    name: &str,
    letter: Option<u8>,
    value: &str,
) -> Finding {
    let words = evidence.settings.args();
    let (json_path, json) =
        (&evidence.host.session.places.daemon_json, &evidence.host.session.daemon_json);
    if json.may_set(name) {
        return finding.because(format!("set `{name}` to `{value}` in `{}`", json_path.display()));
    }
    if words.value(name, letter).is_some() {
        return finding.because(format!(
            "give dockerd `--{name}={value}` in place of its present `--{name}`"
        ));
    }
    let args = &evidence.settings.daemon_args;
    let is_in_file = matches!(args.origin, Origin::Default | Origin::File(..));
    let is_text = args.value.iter().all(|word| word.to_str().is_some());
    if !is_in_file || !is_text {
        return finding.because(format!(
            "add `--{name}={value}` to daemon.args, which is set by: {}",
            args.origin
        ));
    }
    let mut list = args.value.clone();
    list.push(format!("--{name}={value}").into());
    // One value that is a list, split as a shell splits words.
    let list = crate::words::quote(&crate::words::join(&list));
    finding.user(format!("dockerd-rootless config set daemon.args -- {}", list.display()))
}

/// Two drivers have data and none is stated.
fn ambiguous(evidence: &Evidence<'_>, prior: &[&str]) -> Finding {
    let names: Vec<String> = prior.iter().map(|driver| format!("`{driver}`")).collect();
    let chosen =
        FOUND_BY_DATA.into_iter().find(|driver| prior.contains(driver)).unwrap_or(prior[0]);
    let finding = Finding::fail(format!(
        "dockerd will not start: several storage drivers have data: {}",
        names.join(", ")
    ))
    .because(format!("state the one whose images you want, such as `{chosen}`; the others' stay where they are, unseen"));
    state(evidence, finding, "storage-driver", Some(b's'), chosen)
}

/// Turns what is well into a warning if images of other drivers are not seen.
fn vanished(evidence: &Evidence<'_>, driver: Option<&str>, finding: Finding) -> Finding {
    let unseen: Vec<&str> = with_data(evidence)
        .filter(|other| Some(*other) != driver && !matches!(*other, "overlayfs" | "native"))
        .collect();
    if unseen.is_empty() {
        return finding;
    }
    let names = unseen.join("`, `");
    let finding = finding.because(format!(
        "`{}` holds images and containers of `{names}`: `--storage-driver={}` shows them, and `docker save` carries images over",
        evidence.survey.data_root.path.display(),
        unseen[0]
    ));
    if finding.status != Status::Ok {
        return finding;
    }
    let taken = driver.map_or("another".to_owned(), |driver| format!("`{driver}`"));
    Finding {
        status: Status::Warn,
        summary: format!("images of storage driver `{names}` are not seen: dockerd takes {taken}"),
        ..finding
    }
}

/// The data root, or the directory that it would be made in, is not the user's.
fn unwritable(evidence: &Evidence<'_>) -> Finding {
    let survey = evidence.survey;
    let (path, base) = (&survey.data_root.path, &survey.data_root.base);
    let home = evidence.environment.absolute("HOME");
    let is_at_home = home.is_none_or(|home| path.starts_with(home));
    if is_at_home && !failing(evidence, &["home"]).is_empty() {
        return Finding::skip(format!(
            "the data root `{}` was not tried, since there is no home: see `home`",
            path.display()
        ));
    }
    if path.is_relative() {
        return Finding::skip(format!(
            "the data root `{}` is no absolute path, and was not tried",
            path.display()
        ));
    }
    let finding = Finding::fail(format!("the data root `{}` cannot be written", path.display()));
    if file_system(evidence).is_some_and(|mount| mount.options.iter().any(|option| option == "ro"))
    {
        return finding.because(format!("{} is mounted read-only", place(evidence)));
    }
    // What is there already may be another daemon's, and a home another user's.
    if path == base || is_at_home {
        return finding.because(format!(
            "`ls -ld {}` shows whose it is; after `su` or `sudo`, HOME may be another user's",
            quoted(base)
        ));
    }
    let (uid, gid) = (survey.account.uid, survey.account.gid);
    finding.root(format!("install -d -m 0700 -o {uid} -g {gid} {}", quoted(path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status::*;
    use crate::check::tests::{Case, Sample, assert_finding};
    use crate::facts::{Answer, DaemonJson, Mounts, Release, Tool};
    use crate::settings::{Layer, Settings};

    fn dockerd(sample: &mut Sample, version: Version) {
        if let Tool::Found { answer: Answer::Known(facts), .. } = &mut sample.host.tools.dockerd {
            facts.version = Some(version);
        }
    }

    fn failing(sample: &mut Sample, errno: &str) {
        let outcome = Outcome::Fails(Failure {
            errno: Some(errno.to_owned()),
            text: format!("mount: {errno}"),
        });
        let overlay = &mut sample.trials.inside.as_mut().expect("inside").overlay;
        overlay.userxattr = outcome.clone();
        overlay.plain = outcome;
    }

    fn home_on(sample: &mut Sample, kind: &str) {
        sample.survey.mounts = Mounts::parse(&format!(
            "27 1 254:0 / / rw - ext4 /dev/vda rw\n30 27 0:50 / /home rw - {kind} x rw\n"
        ));
    }

    fn system(sample: &mut Sample, kernel: &str, release: &str) {
        sample.survey.kernel = kernel.to_owned();
        sample.survey.release = Release::parse(release);
    }

    fn data(sample: &mut Sample, drivers: &[&str]) {
        sample.survey.data_root.drivers_with_data =
            drivers.iter().map(|name| (*name).to_owned()).collect();
    }

    fn set_args(sample: &mut Sample, args: &str) {
        let toml = format!("[daemon]\nargs = {args}\n");
        let layer = Layer::from_toml("/home/u/c.toml".as_ref(), &toml).expect("TOML");
        sample.settings = Settings::resolve(&[layer]).expect("valid");
    }

    #[test]
    fn an_overlay_mount_is_tried_as_this_dockerd_makes_it() {
        let cases: &[Case] = &[
            ("healthy", |_| {}, (Ok, "overlay mounts work on `/home/u` (ext4)", &[])),
            (
                "Ubuntu 20.04, whose kernel allows plain mounts",
                |sample| {
                    failing(sample, "EINVAL");
                    sample.trials.inside.as_mut().expect("inside").overlay.plain = Outcome::Works;
                    system(
                        sample,
                        "5.4.0-150-generic",
                        "ID=ubuntu\nID_LIKE=debian\nVERSION_ID=20.04",
                    );
                },
                (Ok, "overlay mounts work", &[]),
            ),
            (
                "userxattr backported to RHEL 8",
                |sample| system(sample, "4.18.0-553.el8.x86_64", "ID=rhel\nVERSION_ID=8.10"),
                (Ok, "overlay mounts work", &[]),
            ),
            (
                "a dockerd that does not know userxattr",
                |sample| dockerd(sample, Version(20, 10, 5)),
                (Fail, "no overlay mount works", &[]),
            ),
            (
                "not tried",
                |sample| {
                    let inside = sample.trials.inside.as_mut().expect("inside");
                    inside.overlay.userxattr = Outcome::NotTried("no room".to_owned());
                },
                (Skip, "was not tried: no room", &[]),
            ),
            (
                "no namespaces",
                |sample| sample.trials.inside = None,
                (Skip, "there is no namespace", &[]),
            ),
        ];
        for case in cases {
            assert_finding(overlay, case);
        }
    }

    #[test]
    fn a_file_system_without_overlays_is_left() {
        const MAKE: &str = "install -d -m 0700 -o 1000 -g 1000 /var/lib/dockerd-rootless/u";
        const SET: &str =
            "dockerd-rootless config set daemon.args -- --data-root=/var/lib/dockerd-rootless/u";
        let cases: &[Case] = &[
            (
                "NFS",
                |sample| {
                    failing(sample, "EINVAL");
                    home_on(sample, "nfs4");
                },
                (
                    Fail,
                    "works on `/home/u` (nfs4): dockerd would fall to `vfs` in silence",
                    &[MAKE, SET],
                ),
            ),
            (
                "NFS, where fuse-overlayfs does not help",
                |sample| {
                    failing(sample, "EINVAL");
                    home_on(sample, "nfs");
                    sample.trials.fuse_overlayfs = Some("/usr/bin/fuse-overlayfs".into());
                },
                (Fail, "fall to `vfs`", &[MAKE, SET]),
            ),
            (
                "an overlay below dockerd 29",
                |sample| {
                    failing(sample, "EINVAL");
                    home_on(sample, "overlay");
                    dockerd(sample, Version(29, 1, 0));
                },
                (Fail, "fall to `native` in silence", &[MAKE, SET]),
            ),
            (
                "a driver that is stated",
                |sample| {
                    failing(sample, "EINVAL");
                    home_on(sample, "ecryptfs");
                    sample.settings.dockerd_args = vec!["-s".into(), "overlay2".into()];
                },
                (Fail, "dockerd will not start with `overlay2`", &[MAKE, SET]),
            ),
            (
                "words in a file are kept",
                |sample| {
                    failing(sample, "EINVAL");
                    home_on(sample, "nfs4");
                    set_args(sample, "[\"--label=where=it's\"]");
                },
                (
                    Fail,
                    "fall to `vfs`",
                    &[
                        MAKE,
                        "dockerd-rootless config set daemon.args -- \"\\\"--label=where=it's\\\" --data-root=/var/lib/dockerd-rootless/u\"",
                    ],
                ),
            ),
            (
                "a data root that is stated already",
                |sample| {
                    failing(sample, "EINVAL");
                    home_on(sample, "nfs4");
                    set_args(sample, "[\"--data-root=/home/u/d\"]");
                },
                (Fail, "fall to `vfs`", &[MAKE]),
            ),
            (
                "one that daemon.json states",
                |sample| {
                    failing(sample, "EINVAL");
                    home_on(sample, "nfs4");
                    sample.host.session.daemon_json =
                        DaemonJson::parse(r#"{"data-root": "/home/u/d"}"#);
                },
                (Fail, "fall to `vfs`", &[MAKE]),
            ),
            (
                "words of the command line",
                |sample| {
                    failing(sample, "EINVAL");
                    home_on(sample, "nfs4");
                    sample.settings.daemon_args.origin = Origin::CommandLine;
                },
                (Fail, "fall to `vfs`", &[MAKE]),
            ),
            (
                "no other file system",
                |sample| {
                    failing(sample, "EINVAL");
                    sample.survey.mounts = Mounts::parse("27 1 0:50 / / rw - nfs4 x rw\n");
                },
                (Fail, "fall to `vfs`", &[]),
            ),
            (
                "a name of Samba's",
                |sample| {
                    failing(sample, "EINVAL");
                    home_on(sample, "nfs4");
                    sample.survey.account.name = Some(r"AD\u".to_owned());
                },
                (
                    Fail,
                    "fall to `vfs`",
                    &[
                        "install -d -m 0700 -o 1000 -g 1000 /var/lib/dockerd-rootless/1000",
                        "dockerd-rootless config set daemon.args -- --data-root=/var/lib/dockerd-rootless/1000",
                    ],
                ),
            ),
            (
                "a local file system that should work",
                |sample| failing(sample, "EINVAL"),
                (Fail, "works on `/home/u` (ext4)", &[]),
            ),
        ];
        for case in cases {
            assert_finding(overlay, case);
        }
    }

    #[test]
    fn old_kernels_get_what_their_distribution_has() {
        const VFS: &str = "dockerd-rootless config set daemon.args -- --storage-driver=vfs";
        const FUSE: &str = "apt-get install -y fuse-overlayfs";
        let cases: &[(Case, &str)] = &[
            (
                (
                    "Debian 10",
                    |sample| {
                        failing(sample, "EPERM");
                        system(sample, "4.19.0-27-amd64", "ID=debian\nVERSION_ID=10");
                        sample.survey.overlay_permit_mounts = Some("N".to_owned());
                    },
                    (Fail, "fall to `vfs`", &[FUSE]),
                ),
                "for Debian 10 and 11: `options overlay permit_mounts_in_userns=1` in /etc/modprobe.d allows them (it is N)",
            ),
            (
                (
                    "Debian 9",
                    |sample| {
                        failing(sample, "EPERM");
                        system(sample, "4.9.0-19-amd64", "ID=debian\nVERSION_ID=9");
                    },
                    (Fail, "fall to `vfs`", &[VFS]),
                ),
                "for Debian 9: `overlay2` is not possible",
            ),
            (
                (
                    "CentOS 7",
                    |sample| {
                        failing(sample, "EPERM");
                        system(
                            sample,
                            "3.10.0-1160.el7.x86_64",
                            "ID=centos\nID_LIKE='rhel fedora'\nVERSION_ID=7",
                        );
                    },
                    (Fail, "fall to `vfs`", &[VFS]),
                ),
                "for RHEL and CentOS 7",
            ),
            (
                (
                    "Ubuntu 20.04 with a kernel of somebody else",
                    |sample| {
                        failing(sample, "EPERM");
                        system(
                            sample,
                            "5.4.0-custom",
                            "ID=ubuntu\nID_LIKE=debian\nVERSION_ID=20.04",
                        );
                    },
                    (Fail, "fall to `vfs`", &[FUSE]),
                ),
                "Ubuntu's own kernels do",
            ),
            (
                (
                    "dockerd 29, which does not find fuse-overlayfs by itself",
                    |sample| {
                        failing(sample, "EPERM");
                        system(sample, "5.10.0-30-amd64", "ID=debian\nVERSION_ID=11");
                        dockerd(sample, Version(29, 1, 0));
                    },
                    (
                        Fail,
                        "fall to `native`",
                        &[
                            FUSE,
                            "dockerd-rootless config set daemon.args -- --storage-driver=fuse-overlayfs",
                        ],
                    ),
                ),
                "5.11 and later do",
            ),
            (
                (
                    "Debian 11 with Windows' kernel",
                    |sample| {
                        failing(sample, "EPERM");
                        system(
                            sample,
                            "5.10.16.3-microsoft-standard-WSL2",
                            "ID=debian\nVERSION_ID=11",
                        );
                        sample.survey.surroundings.wsl = true;
                    },
                    (Fail, "fall to `vfs`", &[FUSE]),
                ),
                "`wsl --update`",
            ),
            (
                (
                    "dockerd 19.03, which knows no fuse-overlayfs",
                    |sample| {
                        failing(sample, "EPERM");
                        system(sample, "5.3.7-301.fc31.x86_64", "ID=fedora\nVERSION_ID=31");
                        dockerd(sample, Version(19, 3, 15));
                    },
                    (
                        Fail,
                        "fall to `vfs`",
                        &["dockerd-rootless config set daemon.args -- --storage-driver=vfs"],
                    ),
                ),
                "20.10.0 and later can use",
            ),
            (
                (
                    "no module",
                    |sample| failing(sample, "ENODEV"),
                    (
                        Fail,
                        "fall to `vfs`",
                        &[
                            "tee /etc/modules-load.d/rootless-overlay.conf >/dev/null <<'EOT'\noverlay\nEOT",
                            "modprobe -a overlay",
                        ],
                    ),
                ),
                "module is not loaded",
            ),
        ];
        for (case, reason) in cases {
            let finding = assert_finding(overlay, case);
            let reasons = finding.reasons.join("\n");
            assert!(reasons.contains(reason), "{}: {reasons}", case.0);
        }
    }

    #[test]
    fn fuse_overlayfs_and_vfs_are_judged_when_they_are_taken() {
        fn with_fuse(sample: &mut Sample) {
            failing(sample, "EPERM");
            system(sample, "4.19.0-27-amd64", "ID=debian\nVERSION_ID=10");
            sample.trials.fuse_overlayfs = Some("/usr/bin/fuse-overlayfs".into());
        }
        let cases: &[Case] = &[
            ("by itself", with_fuse, (Ok, "dockerd takes `fuse-overlayfs` instead", &[])),
            (
                "stated",
                |sample| {
                    with_fuse(sample);
                    dockerd(sample, Version(29, 1, 0));
                    set_args(sample, "[\"--storage-driver=fuse-overlayfs\"]");
                },
                (Ok, "`fuse-overlayfs` has what it needs", &[]),
            ),
            (
                "by its data, and it is gone",
                |sample| data(sample, &["fuse-overlayfs"]),
                (
                    Fail,
                    "`fuse-overlayfs` is chosen and cannot work",
                    &["apt-get install -y fuse-overlayfs"],
                ),
            ),
            (
                "no access to the device",
                |sample| {
                    with_fuse(sample);
                    sample.environment =
                        [("DOCKER_DRIVER", "fuse-overlayfs")].into_iter().collect();
                    sample.trials.fuse = Outcome::Fails(Failure {
                        errno: Some("EACCES".to_owned()),
                        text: "permission denied".to_owned(),
                    });
                },
                (Fail, "cannot work", &["chmod 0666 /dev/fuse"]),
            ),
            (
                "vfs by a word",
                |sample| sample.settings.dockerd_args = vec!["--storage-driver=vfs".into()],
                (Warn, "`vfs` is stated", &[]),
            ),
            (
                "vfs by daemon.json",
                |sample| {
                    failing(sample, "EINVAL");
                    sample.host.session.daemon_json =
                        DaemonJson::parse(r#"{"storage-driver": "vfs"}"#);
                },
                (Warn, "`vfs` is stated", &[]),
            ),
            (
                "another",
                |sample| sample.settings.dockerd_args = vec!["-s=btrfs".into()],
                (Skip, "`btrfs` was not tried", &[]),
            ),
        ];
        for case in cases {
            assert_finding(overlay, case);
        }
    }

    #[test]
    fn images_of_another_driver_are_missed_before_they_vanish() {
        let cases: &[Case] = &[
            ("its own", |sample| data(sample, &["overlay2"]), (Ok, "overlay mounts work", &[])),
            (
                "containerd's",
                |sample| data(sample, &["overlayfs"]),
                (Ok, "overlay mounts work", &[]),
            ),
            (
                "vfs, which dockerd does not look for",
                |sample| data(sample, &["vfs"]),
                (Warn, "images of storage driver `vfs` are not seen: dockerd takes another", &[]),
            ),
            (
                "two",
                |sample| data(sample, &["fuse-overlayfs", "overlay2"]),
                (
                    Fail,
                    "several storage drivers have data: `fuse-overlayfs`, `overlay2`",
                    &["dockerd-rootless config set daemon.args -- --storage-driver=overlay2"],
                ),
            ),
            (
                "two, and one is stated",
                |sample| {
                    data(sample, &["fuse-overlayfs", "overlay2"]);
                    sample.settings.dockerd_args = vec!["--storage-driver=overlay2".into()];
                },
                (Warn, "images of storage driver `fuse-overlayfs` are not seen", &[]),
            ),
            (
                "the one that cannot work any more",
                |sample| {
                    data(sample, &["overlay2"]);
                    failing(sample, "EINVAL");
                },
                (Fail, "dockerd will not start with `overlay2`", &[]),
            ),
        ];
        for case in cases {
            assert_finding(overlay, case);
        }
    }

    #[test]
    fn a_data_root_that_cannot_be_written_is_made_only_where_nothing_is() {
        let cases: &[Case] = &[
            (
                "in the home",
                |sample| sample.trials.data_root_writable = false,
                (Fail, "`/home/u/.local/share/docker` cannot be written", &[]),
            ),
            (
                "elsewhere, new",
                |sample| {
                    sample.trials.data_root_writable = false;
                    sample.survey.data_root.path = "/srv/docker u".into();
                    sample.survey.data_root.base = "/srv".into();
                },
                (
                    Fail,
                    "cannot be written",
                    &["install -d -m 0700 -o 1000 -g 1000 '/srv/docker u'"],
                ),
            ),
            (
                "elsewhere, somebody's",
                |sample| {
                    sample.trials.data_root_writable = false;
                    sample.survey.data_root.path = "/var/lib/docker".into();
                    sample.survey.data_root.base = "/var/lib/docker".into();
                },
                (Fail, "cannot be written", &[]),
            ),
            (
                "on a disk that cannot be written",
                |sample| {
                    sample.trials.data_root_writable = false;
                    sample.survey.mounts = Mounts::parse("27 1 254:0 / / ro - ext4 /dev/vda rw\n");
                    sample.survey.data_root.path = "/srv/docker".into();
                    sample.survey.data_root.base = "/srv".into();
                },
                (Fail, "cannot be written", &[]),
            ),
        ];
        for case in cases {
            assert_finding(overlay, case);
        }
    }

    #[test]
    fn slow_comparison_of_layers_is_no_more_than_a_reason() {
        let mut sample = Sample::healthy();
        sample.trials.inside.as_mut().expect("inside").overlay.native_diff = Some(false);
        let finding = overlay(&sample.evidence());
        assert_eq!((finding.status, finding.reasons.len()), (Ok, 1));
    }
}
