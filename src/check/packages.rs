//! What the distributions call the packages that rootless Docker needs.

use std::ops::Range;

use crate::check::survey::Release;

/// A package by what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Package {
    Uidmap,
    Rootlesskit,
    Dockerd,
    DockerCli,
    Slirp4netns,
    Passt,
    Iptables,
    Nftables,
    UtilLinux,
    FuseOverlayfs,
    UserBus,
    CaCertificates,
}
use Package::*;

/// The distributions and the commands that install a package, in the order of the columns below.
const MANAGERS: [(&str, &str); 6] = [
    ("debian", "apt-get install -y"),
    ("rhel", "dnf install -y"),
    ("fedora", "dnf install -y"),
    ("suse", "zypper --non-interactive install"),
    ("arch", "pacman -S --needed --noconfirm"),
    ("alpine", "apk add"),
];

/// Debian and Ubuntu, RHEL, Fedora, openSUSE, Arch, Alpine; nothing where only Docker's own
/// repository has it, or none. Last, what to do on NixOS.
#[rustfmt::skip]
const PACKAGES: [(Package, [&str; 6], &str); 12] = [
    (Uidmap, ["uidmap", "shadow-utils", "shadow-utils", "shadow", "shadow", "shadow-uidmap"], "put /run/wrappers/bin before everything else in PATH"),
    (Rootlesskit, ["rootlesskit", "", "moby-engine-rootless-extras", "rootlesskit", "rootlesskit", "rootlesskit"], ENABLE),
    (Dockerd, ["docker.io", "", "moby-engine", "docker", "docker", "docker-engine"], ENABLE),
    (DockerCli, ["docker.io", "", "docker-cli", "docker", "docker", "docker-cli"], ENABLE),
    (Slirp4netns, ["slirp4netns", "slirp4netns", "slirp4netns", "slirp4netns", "slirp4netns", "slirp4netns"], ENABLE),
    (Passt, ["passt", "passt", "passt", "passt", "passt", "passt"], "add `pkgs.passt` to `environment.systemPackages` in configuration.nix"),
    (Iptables, ["iptables", "iptables-nft", "iptables-nft", "iptables", "iptables", "iptables"], ENABLE),
    (Nftables, ["nftables", "nftables", "nftables", "nftables", "nftables", "nftables"], "add `pkgs.nftables` to `environment.systemPackages` in configuration.nix"),
    (UtilLinux, ["util-linux", "util-linux", "util-linux", "util-linux", "util-linux", "util-linux-misc"], "add `pkgs.util-linux` to `environment.systemPackages` in configuration.nix"),
    (FuseOverlayfs, ["fuse-overlayfs", "fuse-overlayfs", "fuse-overlayfs", "fuse-overlayfs", "fuse-overlayfs", "fuse-overlayfs"], "add `pkgs.fuse-overlayfs` to `environment.systemPackages` in configuration.nix"),
    (UserBus, ["dbus-user-session", "dbus", "dbus", "dbus-1", "dbus-broker-units", ""], "log in through PAM instead of `su`: the user's bus is always there"),
    (CaCertificates, ["ca-certificates", "ca-certificates", "ca-certificates", "ca-certificates-mozilla", "ca-certificates", "ca-certificates"], "set `security.pki.installCACerts = true;` in configuration.nix"),
];

const ENABLE: &str = "set `virtualisation.docker.rootless.enable = true;` in configuration.nix";

/// Distribution, package, versions, name.
type Exception = (&'static str, Package, Range<(u32, u32)>, &'static str);

/// Where a release differs from its row.
const EXCEPTIONS: [Exception; 4] = [
    ("debian", DockerCli, (13, 0)..NEWEST, "docker-cli"),
    ("ubuntu", Passt, (0, 0)..(23, 4), ""),
    ("rhel", Passt, (0, 0)..(9, 0), ""),
    ("rhel", Iptables, (0, 0)..(9, 0), "iptables"),
];

const NEWEST: (u32, u32) = (u32::MAX, 0);

/// Returns root's command that installs `package`, or a sentence where there is none.
pub fn install(release: &Release, package: Package) -> Result<String, String> {
    let (_, names, on_nixos) = &PACKAGES[package as usize];
    if release.is_like("nixos") {
        return Err(format!("on NixOS, {on_nixos}"));
    }
    let Some(column) = MANAGERS.iter().position(|(like, _)| is(release, like)) else {
        return Err(elsewhere(package).to_owned());
    };
    // Testing and sid name no version: they are newer than every release.
    let version = release.version().unwrap_or((u32::MAX - 1, 0));
    let exception = EXCEPTIONS.iter().find(|(id, known, versions, _)| {
        let is_here = release.id == *id || (*id == "rhel" && is(release, id));
        is_here && *known == package && versions.contains(&version)
    });
    match exception.map_or(names[column], |(.., name)| name) {
        "" => Err(elsewhere(package).to_owned()),
        name => Ok(format!("{} {name}", MANAGERS[column].1)),
    }
}

/// Returns whether `release` is one of the family `like`.
fn is(release: &Release, like: &str) -> bool {
    match like {
        "rhel" => release.enterprise_linux().is_some(),
        // Amazon Linux says that it is like Fedora.
        "fedora" => release.id == "fedora",
        _ => release.is_like(like),
    }
}

/// Says where `package` comes from on a distribution that does not have it.
fn elsewhere(package: Package) -> &'static str {
    match package {
        Uidmap => "install the package uidmap, shadow-uidmap, shadow-utils or shadow",
        Rootlesskit | Dockerd | DockerCli => {
            "install Docker's own packages: https://docs.docker.com/engine/install/"
        }
        _ => "no package of this distribution is known to provide it",
    }
}
