//! What the distributions call things, and what each of them needs.

use crate::check::Finding;
use crate::facts::Release;

/// A package by what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Package {
    /// newuidmap and newgidmap.
    Uidmap,
    /// rootlesskit.
    Rootlesskit,
    /// dockerd.
    Dockerd,
    /// The docker client.
    DockerCli,
    /// slirp4netns.
    Slirp4netns,
    /// pasta.
    Passt,
    /// iptables.
    Iptables,
    /// nft.
    Nftables,
    /// fuse-overlayfs.
    FuseOverlayfs,
    /// A message bus for each user.
    UserBus,
    /// Certificates of authorities.
    CaCertificates,
}

/// The command for root that installs `package`; `None` where we know of none.
pub fn install(release: &Release, package: Package) -> Option<String> {
    let (manager, name) = if release.is_like("debian") || release.is_like("ubuntu") {
        ("apt-get install -y", debian(release, package)?)
    } else if let Some(major) = enterprise_linux(release) {
        let manager = if major >= 8 { "dnf" } else { "yum" };
        return Some(format!("{manager} install -y {}", red_hat(major, package)?));
    } else if release.id == "fedora" {
        ("dnf install -y", fedora(release, package)?)
    } else if release.is_like("suse") || release.is_like("opensuse") {
        ("zypper --non-interactive install", suse(release, package)?)
    } else if release.is_like("arch") {
        ("pacman -S --needed --noconfirm", arch(package))
    } else if release.is_like("alpine") {
        ("apk add", alpine(package)?)
    } else {
        return None;
    };
    Some(format!("{manager} {name}"))
}

/// `finding` with what brings `package`: a command, NixOS's option, or its name.
pub fn install_for(finding: Finding, release: &Release, package: Package) -> Finding {
    if let Some(command) = install(release, package) {
        return finding.root(command);
    }
    if release.is_like("nixos") {
        return finding.because(format!("on NixOS, {}", nixos(package)));
    }
    finding.because(match package {
        Package::Uidmap => {
            "the package that brings it is called uidmap, shadow-uidmap, shadow-utils or shadow"
                .to_owned()
        }
        Package::Iptables => {
            "the package that brings it is called iptables or iptables-nft".to_owned()
        }
        Package::Rootlesskit | Package::Dockerd | Package::DockerCli => format!(
            "Docker's own package `{}` brings it (https://docs.docker.com/engine/install/)",
            match package {
                Package::Rootlesskit => "docker-ce-rootless-extras",
                Package::Dockerd => "docker-ce",
                _ => "docker-ce-cli",
            }
        ),
        _ => "no package of this system is known that brings it".to_owned(),
    })
}

/// `finding` with the commands that set the kernel's setting `name` now and at each start.
pub fn set_sysctl(finding: Finding, release: &Release, name: &str, value: &str) -> Finding {
    if release.is_like("nixos") {
        return finding.because(format!(
            "on NixOS, set `boot.kernel.sysctl.\"{name}\" = {value};` in configuration.nix"
        ));
    }
    // Files are read in the order of their names and the last word counts, so that this one comes
    // behind `99-sysctl.conf` and what hardening guides write. One file for each name, so that no
    // command undoes another one; `sysctl -p FILE` sets nothing else.
    let file = format!("/etc/sysctl.d/99-zz-{name}.conf");
    finding.root(write_file(&file, &format!("{name} = {value}"))).root(format!("sysctl -p {file}"))
}

/// `finding` with the commands that load kernel modules now and at each start.
pub fn load_modules(
    finding: Finding,
    release: &Release,
    purpose: &str,
    modules: &[&str],
) -> Finding {
    if release.is_like("nixos") {
        let names: Vec<String> = modules.iter().map(|name| format!("\"{name}\"")).collect();
        return finding.because(format!(
            "on NixOS, set `boot.kernelModules = [ {} ];` in configuration.nix",
            names.join(" ")
        ));
    }
    // systemd and Alpine's OpenRC both read this directory.
    let file = format!("/etc/modules-load.d/rootless-{purpose}.conf");
    finding
        .root(write_file(&file, &modules.join("\n")))
        .root(format!("modprobe -a {}", modules.join(" ")))
}

/// The command that writes `text`, which has no final newline, to `file`.
pub fn write_file(file: &str, text: &str) -> String {
    format!("tee {file} >/dev/null <<'EOT'\n{text}\nEOT")
}

/// The major version, if it is RHEL or one of those that follow it.
pub fn enterprise_linux(release: &Release) -> Option<u32> {
    // Oracle Linux calls itself like Fedora only; Amazon Linux counts its versions by itself.
    let follows = release.is_like("rhel") || release.is_like("centos") || release.id == "ol";
    (follows && release.id != "amzn" && release.id != "fedora")
        .then(|| release.version().map(|(major, _)| major))
        .flatten()
}

/// The minor version of RHEL or CentOS 7, by the build of its `kernel`: CentOS itself says `7`.
pub fn enterprise_linux_7_minor(release: &Release, kernel: &str) -> Option<u32> {
    if enterprise_linux(release) != Some(7) {
        return None;
    }
    let (_, minor) = release.version()?;
    if minor > 0 {
        return Some(minor);
    }
    let build = kernel.strip_prefix("3.10.0-")?.split(['.', '-']).next()?;
    // The kernels that 7.5, 7.6 and 7.7 came with; later ones are later releases.
    Some(match build.parse::<u32>().ok()? {
        0..=862 => 5,
        863..=957 => 6,
        _ => 7,
    })
}

fn debian(release: &Release, package: Package) -> Option<&'static str> {
    use Package::*;
    // Testing and sid name no version: they have what the latest release has.
    let since =
        |id: &str, version| release.id != id || release.version().is_none_or(|own| own >= version);
    Some(match package {
        Uidmap => "uidmap",
        Rootlesskit if !since("debian", (11, 0)) => return None,
        Rootlesskit => "rootlesskit",
        Dockerd => "docker.io",
        // Debian 13 split the client off; before, docker.io holds it.
        DockerCli if release.id == "debian" && since("debian", (13, 0)) => "docker-cli",
        DockerCli => "docker.io",
        Slirp4netns => "slirp4netns",
        Passt if !since("debian", (12, 0)) || !since("ubuntu", (23, 4)) => return None,
        Passt => "passt",
        Iptables => "iptables",
        Nftables => "nftables",
        FuseOverlayfs => "fuse-overlayfs",
        UserBus => "dbus-user-session",
        CaCertificates => "ca-certificates",
    })
}

fn red_hat(major: u32, package: Package) -> Option<&'static str> {
    use Package::*;
    Some(match package {
        Uidmap => "shadow-utils",
        // Only Docker's own repository has them.
        Rootlesskit | Dockerd | DockerCli => return None,
        Slirp4netns => "slirp4netns",
        Passt if major < 9 => return None,
        Passt => "passt",
        Iptables if major < 9 => "iptables",
        Iptables => "iptables-nft",
        Nftables => "nftables",
        FuseOverlayfs => "fuse-overlayfs",
        UserBus if major < 8 => return None,
        UserBus => "dbus",
        CaCertificates => "ca-certificates",
    })
}

fn fedora(release: &Release, package: Package) -> Option<&'static str> {
    use Package::*;
    // moby-engine was split in Fedora 42.
    let split = release.version().is_none_or(|own| own >= (42, 0));
    Some(match package {
        Uidmap => "shadow-utils",
        Rootlesskit if !split => return None,
        Rootlesskit => "moby-engine-rootless-extras",
        DockerCli if split => "docker-cli",
        Dockerd | DockerCli => "moby-engine",
        Slirp4netns => "slirp4netns",
        Passt => "passt",
        Iptables => "iptables-nft",
        Nftables => "nftables",
        FuseOverlayfs => "fuse-overlayfs",
        UserBus => "dbus",
        CaCertificates => "ca-certificates",
    })
}

fn suse(release: &Release, package: Package) -> Option<&'static str> {
    use Package::*;
    // Their root is read-only, and zypper does not work there.
    if release.id.contains("micro") {
        return None;
    }
    let since_15_6 = release.version().is_none_or(|own| own >= (15, 6));
    Some(match package {
        Uidmap => "shadow",
        Rootlesskit => "rootlesskit",
        Dockerd | DockerCli => "docker",
        Slirp4netns => "slirp4netns",
        Passt if !since_15_6 => return None,
        Passt => "passt",
        Iptables => "iptables",
        Nftables => "nftables",
        FuseOverlayfs => "fuse-overlayfs",
        UserBus => "dbus-1",
        CaCertificates => "ca-certificates-mozilla",
    })
}

fn arch(package: Package) -> &'static str {
    use Package::*;
    match package {
        Uidmap => "shadow",
        Rootlesskit => "rootlesskit",
        Dockerd | DockerCli => "docker",
        Slirp4netns => "slirp4netns",
        Passt => "passt",
        Iptables => "iptables",
        Nftables => "nftables",
        FuseOverlayfs => "fuse-overlayfs",
        UserBus => "dbus-broker-units",
        CaCertificates => "ca-certificates",
    }
}

fn alpine(package: Package) -> Option<&'static str> {
    use Package::*;
    Some(match package {
        Uidmap => "shadow-uidmap",
        Rootlesskit => "rootlesskit",
        Dockerd => "docker-engine",
        DockerCli => "docker-cli",
        Slirp4netns => "slirp4netns",
        Passt => "passt",
        Iptables => "iptables",
        Nftables => "nftables",
        FuseOverlayfs => "fuse-overlayfs",
        // A bus for each user is systemd's.
        UserBus => return None,
        CaCertificates => "ca-certificates",
    })
}

/// What to write into NixOS's configuration.nix, as the end of a sentence.
fn nixos(package: Package) -> &'static str {
    use Package::*;
    match package {
        Uidmap => "it lies in /run/wrappers/bin, which belongs into PATH before everything else",
        Rootlesskit | Dockerd | DockerCli | Slirp4netns | Iptables => {
            "set `virtualisation.docker.rootless.enable = true;` in configuration.nix"
        }
        Passt => "add `pkgs.passt` to `environment.systemPackages` in configuration.nix",
        Nftables => "add `pkgs.nftables` to `environment.systemPackages` in configuration.nix",
        FuseOverlayfs => {
            "add `pkgs.fuse-overlayfs` to `environment.systemPackages` in configuration.nix"
        }
        UserBus => "the user's bus is always there: log in through PAM instead of `su`",
        CaCertificates => "set `security.pki.installCACerts = true;` in configuration.nix",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(text: &str) -> Release {
        Release::parse(text)
    }

    #[test]
    fn every_system_has_its_manager_and_its_names() {
        use Package::*;
        let cases = [
            ("ID=debian\nVERSION_ID=12", DockerCli, Some("apt-get install -y docker.io")),
            ("ID=debian\nVERSION_ID=13", DockerCli, Some("apt-get install -y docker-cli")),
            ("ID=debian", DockerCli, Some("apt-get install -y docker-cli")),
            ("ID=debian\nVERSION_ID=10", Rootlesskit, None),
            ("ID=debian\nVERSION_ID=11", Rootlesskit, Some("apt-get install -y rootlesskit")),
            ("ID=debian\nVERSION_ID=11", Passt, None),
            ("ID=debian\nVERSION_ID=12", Passt, Some("apt-get install -y passt")),
            ("ID=ubuntu\nID_LIKE=debian\nVERSION_ID=22.04", Passt, None),
            (
                "ID=ubuntu\nID_LIKE=debian\nVERSION_ID=24.04",
                Passt,
                Some("apt-get install -y passt"),
            ),
            (
                "ID=ubuntu\nID_LIKE=debian\nVERSION_ID=24.04",
                DockerCli,
                Some("apt-get install -y docker.io"),
            ),
            (
                "ID=linuxmint\nID_LIKE='ubuntu debian'\nVERSION_ID=22",
                Uidmap,
                Some("apt-get install -y uidmap"),
            ),
            (
                "ID=centos\nID_LIKE='rhel fedora'\nVERSION_ID=7",
                Uidmap,
                Some("yum install -y shadow-utils"),
            ),
            ("ID=rhel\nID_LIKE=fedora\nVERSION_ID=8.10", Iptables, Some("dnf install -y iptables")),
            (
                "ID=rocky\nID_LIKE='rhel centos fedora'\nVERSION_ID=9.4",
                Iptables,
                Some("dnf install -y iptables-nft"),
            ),
            ("ID=ol\nID_LIKE=fedora\nVERSION_ID=9.4", Passt, Some("dnf install -y passt")),
            ("ID=rhel\nVERSION_ID=8.10", Passt, None),
            ("ID=rhel\nVERSION_ID=10.0", Dockerd, None),
            ("ID=amzn\nID_LIKE='centos rhel fedora'\nVERSION_ID=2", Uidmap, None),
            (
                "ID=fedora\nVERSION_ID=43",
                Rootlesskit,
                Some("dnf install -y moby-engine-rootless-extras"),
            ),
            ("ID=fedora\nVERSION_ID=31", Rootlesskit, None),
            ("ID=fedora\nVERSION_ID=43", Iptables, Some("dnf install -y iptables-nft")),
            (
                "ID=opensuse-leap\nID_LIKE='suse opensuse'\nVERSION_ID=15.5",
                Uidmap,
                Some("zypper --non-interactive install shadow"),
            ),
            ("ID=opensuse-leap\nID_LIKE='suse opensuse'\nVERSION_ID=15.5", Passt, None),
            ("ID=opensuse-microos\nID_LIKE='suse opensuse'", Uidmap, None),
            ("ID=manjaro\nID_LIKE=arch", Iptables, Some("pacman -S --needed --noconfirm iptables")),
            ("ID=alpine\nVERSION_ID=3.23.0", Uidmap, Some("apk add shadow-uidmap")),
            ("ID=alpine\nVERSION_ID=3.23.0", UserBus, None),
            ("ID=nixos\nVERSION_ID=25.05", Uidmap, None),
            ("ID=gentoo", Uidmap, None),
        ];
        for (text, package, command) in cases {
            assert_eq!(
                install(&release(text), package).as_deref(),
                command,
                "{package:?} of {text:?}"
            );
        }
    }

    #[test]
    fn without_a_command_there_is_a_reason() {
        for (text, reason) in [("ID=nixos", "/run/wrappers/bin"), ("ID=gentoo", "shadow-utils")] {
            let finding = install_for(Finding::fail("x"), &release(text), Package::Uidmap);
            assert!(finding.fix.root.is_empty());
            assert!(finding.reasons[0].contains(reason), "{:?}", finding.reasons);
        }
    }

    #[test]
    fn what_only_docker_packages_is_named() {
        let finding = install_for(
            Finding::fail("x"),
            &release("ID=rhel\nVERSION_ID=9.6"),
            Package::Rootlesskit,
        );
        assert!(finding.fix.root.is_empty());
        assert!(finding.reasons[0].contains("docker-ce-rootless-extras"));
    }

    #[test]
    fn a_sysctl_and_modules_last_over_a_reboot() {
        let debian = release("ID=debian\nVERSION_ID=10");
        let finding = set_sysctl(Finding::fail("x"), &debian, "kernel.y", "1");
        assert_eq!(
            finding.fix.root,
            [
                "tee /etc/sysctl.d/99-zz-kernel.y.conf >/dev/null <<'EOT'\nkernel.y = 1\nEOT",
                "sysctl -p /etc/sysctl.d/99-zz-kernel.y.conf"
            ]
        );
        let finding = load_modules(Finding::fail("x"), &debian, "z", &["a", "b"]);
        assert_eq!(
            finding.fix.root,
            [
                "tee /etc/modules-load.d/rootless-z.conf >/dev/null <<'EOT'\na\nb\nEOT",
                "modprobe -a a b"
            ]
        );
        let nixos = release("ID=nixos");
        let finding = set_sysctl(Finding::fail("x"), &nixos, "kernel.y", "1");
        let finding = load_modules(finding, &nixos, "z", &["a", "b"]);
        assert!(finding.fix.root.is_empty());
        assert!(finding.reasons[0].contains("boot.kernel.sysctl.\"kernel.y\" = 1;"));
        assert!(finding.reasons[1].contains("boot.kernelModules = [ \"a\" \"b\" ];"));
    }

    #[test]
    fn the_minor_version_of_centos_7_is_known_by_the_kernel() {
        let centos = "ID=centos\nID_LIKE='rhel fedora'\nVERSION_ID=7";
        let cases = [
            (centos, "3.10.0-693.el7.x86_64", Some(5)),
            (centos, "3.10.0-862.14.4.el7.x86_64", Some(5)),
            (centos, "3.10.0-957.el7.x86_64", Some(6)),
            (centos, "3.10.0-1062.el7.x86_64", Some(7)),
            (centos, "5.4.1-elrepo", None),
            ("ID=rhel\nVERSION_ID=7.4", "x", Some(4)),
            ("ID=rhel\nVERSION_ID=8.4", "4.18.0-305.el8", None),
            ("ID=debian\nVERSION_ID=7", "3.10.0-1.el7", None),
        ];
        for (text, kernel, minor) in cases {
            assert_eq!(
                enterprise_linux_7_minor(&release(text), kernel),
                minor,
                "{text:?} {kernel}"
            );
        }
    }
}
