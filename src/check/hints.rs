//! What was particular about releases that are old now, beside the checks that fail there.

use std::ops::Range;

use crate::check::finding::{Id, Id::*};
use crate::check::survey::{Release, Survey};

/// Distribution, versions, checks, text.
type Hint = (&'static str, Range<(u32, u32)>, &'static [Id], &'static str);

#[rustfmt::skip]
const HINTS: &[Hint] = &[
    ("debian", (9, 0)..(11, 0), &[UserNamespaces], "Debian 9 and 10 disable `kernel.unprivileged_userns_clone` by default"),
    ("debian", (9, 0)..(10, 0), &[Overlay], "Debian 9: `overlay2` is not possible with its kernel; use `--storage-driver=vfs`"),
    ("debian", (10, 0)..(12, 0), &[Overlay], "Debian 10 and 11: `fuse-overlayfs` is the better way; `options overlay permit_mounts_in_userns=1` in /etc/modprobe.d allows `overlay2`, for all users, and some images then cannot be unpacked (moby#42302)"),
    ("ubuntu", (18, 4)..(22, 4), &[Overlay], "Ubuntu before 22.04: Ubuntu's own kernels let users mount overlays, this kernel is another one"),
    ("rhel", (7, 0)..(8, 0), &[UserNamespaces, UserNamespaceQuota], "RHEL and CentOS 7 disable user namespaces by a quota of 0; 7.5 and older also need a boot option: `grubby --update-kernel=ALL --args=user_namespace.enable=1`, then reboot"),
    ("rhel", (7, 0)..(8, 0), &[Newuidmap, Newgidmap], "RHEL and CentOS 7.6 and older need the package shadow-utils46-newxidmap of the COPR repository vbatts/shadow-utils-newxidmap"),
    ("rhel", (7, 0)..(8, 0), &[Overlay], "RHEL and CentOS 7: `vfs` is the only storage driver; use `--storage-driver=vfs`"),
    ("rhel", (7, 0)..(8, 0), &[SystemdUser, Dbus, Linger], "RHEL and CentOS 7: `systemctl --user` does not work by default; start the daemon with `dockerd-rootless run`"),
    ("fedora", (30, 0)..(31, 0), &[Overlay], "Fedora 30: Docker 19.03 needs `--storage-driver=vfs`"),
    ("fedora", (31, 0)..(41, 0), &[Cgroup, Dbus], "Fedora 31 and later: Docker 19.03 does not know cgroup v2; install 20.10 or later, or boot with cgroup v1: `grubby --update-kernel=ALL --args=systemd.unified_cgroup_hierarchy=0`"),
];

/// Returns the hints for this host beside the check `id`.
pub fn of(survey: &Survey, id: Id) -> impl Iterator<Item = String> {
    let Release { id: name, .. } = &survey.release;
    let is_here = move |(like, versions, ids, _): &&Hint| {
        let is_like =
            name == like || (*like == "rhel" && survey.release.enterprise_linux().is_some());
        let version = survey.release.version();
        is_like
            && !survey.surroundings.wsl
            && ids.contains(&id)
            && version.is_some_and(|version| versions.contains(&version))
    };
    HINTS.iter().filter(is_here).map(|(.., text)| (*text).to_owned())
}
