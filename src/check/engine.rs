//! Whether rootlesskit, dockerd and what carries the network are there and work together.

use std::ffi::OsStr;

use crate::check::distro;
use crate::check::distro::Package;
use crate::check::{Evidence, Finding, cut, failing, see};
use crate::facts::{Answer, Outcome, Tool, Tools, Version};
use crate::plan::{Fault, Network, Refusal};
use crate::settings::RootlesskitFlags;
use crate::settings::{Choice, NetworkDriver, Origin, PortDriver};

/// How long a program's own words may get in a summary, and in a reason.
const GIST: usize = 80;
const SAID: usize = 480;

/// What rootlesskit's own errors mean: a part of the error in lowercase, what it says, and the
/// checks that look into it. From the sources of rootlesskit (`pkg/parent`, `pkg/network`) and
/// slirp4netns (`sandbox.c`).
const MEANINGS: &[(&str, &str, &[&str])] = &[
    ("newuidmap", "the user ids could not be mapped", &["newuidmap", "subuid"]),
    ("newgidmap", "the group ids could not be mapped", &["newgidmap", "subgid"]),
    ("no subuid", "there are no subordinate user ids", &["subuid"]),
    ("no subgid", "there are no subordinate group ids", &["subgid"]),
    (
        "subuid/gid parsing",
        "a line of the subordinate ids is not understood",
        &["subuid", "subgid"],
    ),
    ("open /etc/subuid", "there are no subordinate user ids", &["subuid"]),
    ("open /etc/subgid", "there are no subordinate group ids", &["subgid"]),
    (
        "fork/exec",
        "the user namespace could not be made",
        &["user-namespaces", "user-namespace-quota"],
    ),
    ("/dev/net/tun", "the network driver could not open the tun device", &["tun-device"]),
    (
        "failed to setup network",
        "the network driver did not start",
        &["network-driver", "tun-device"],
    ),
    ("setting up tap", "the network interface could not be made", &["tun-device"]),
    ("slirp4netns failed", "the network driver ended at once", &["network-driver", "tun-device"]),
    ("pasta failed", "the network driver ended at once", &["network-driver", "tun-device"]),
    (
        "flag provided but not defined",
        "this rootlesskit does not know a flag that it is given, and \
         `dockerd-rootless config explain rootlesskit.flags` shows who gives it",
        &["network-driver"],
    ),
    (
        "another rootlesskit is running",
        "rootless Docker runs already, with the same state directory",
        &["state-dir"],
    ),
    ("bind: invalid argument", "a socket's path is too long", &["socket-path"]),
    (
        "no space left on device",
        "a quota or a file system is full",
        &["user-namespace-quota", "runtime-dir"],
    ),
    (
        "did not end within",
        "rootlesskit waits without a deadline when its child dies early or a socket's path is too long",
        &["user-namespaces", "socket-path", "runtime-dir"],
    ),
];

/// `rootlesskit`: there, and able to run a command in namespaces as the plan has them.
pub fn rootlesskit(evidence: &Evidence<'_>) -> Finding {
    let Evidence { settings, trials, .. } = evidence;
    let (path, answer) = match &evidence.host.tools.rootlesskit {
        Tool::Found { path, answer } => (path.display(), answer),
        other => {
            let named = settings.rootlesskit_binary.value.as_deref();
            return not_there(evidence, other, named, Package::Rootlesskit);
        }
    };
    if let Some(fault) = flags(evidence).fault {
        return Finding::fail(format!("rootlesskit.flags cannot be used: {fault}"))
            .because("`dockerd-rootless config explain rootlesskit.flags` shows who sets them");
    }
    let (version, silent) = match answer {
        Answer::Known(facts) => (shown(facts.version), None),
        Answer::Unknown(reason) => (String::new(), Some(reason)),
    };
    let what = format!("rootlesskit{version} at `{path}`");
    let finding = match &trials.rootlesskit {
        Outcome::Works => Finding::ok(format!("{what} runs a command in its namespaces")),
        Outcome::NotTried(why) => not_tried(evidence, &what, why),
        Outcome::Fails(failure) => fails(evidence, &what, &failure.text),
    };
    match silent {
        Some(reason) => finding.because(format!("it does not tell its version: {reason}")),
        None => finding,
    }
}

/// The checks whose failures are refusals of a launch: nothing is tried then.
const REFUSALS: [&str; 5] = ["runtime-dir", "home", "network-driver", "port-driver", "socket-path"];

/// A trial that was not made: the check that fails says why.
fn not_tried(evidence: &Evidence<'_>, what: &str, why: &str) -> Finding {
    match &failing(evidence, &REFUSALS)[..] {
        [] => Finding::skip(format!("{what} was not tried: {why}")),
        culprits => Finding::skip(format!("{what} was not tried: {}", see(culprits))).because(why),
    }
}

/// A trial that failed. Where another check fails for the same cause and mends it, this one only
/// points there.
fn fails(evidence: &Evidence<'_>, what: &str, text: &str) -> Finding {
    let lower = text.to_lowercase();
    let meanings = MEANINGS.iter().filter(|(part, ..)| lower.contains(part));
    let mut checks: Vec<&str> =
        meanings.clone().flat_map(|(.., checks)| *checks).copied().collect();
    checks.sort_unstable();
    checks.dedup();
    let culprits = failing(evidence, &checks);
    let gist = gist(text);
    let said = cut(&without_values(text), SAID);
    if !culprits.is_empty() {
        return Finding::fail(format!("{what} does not get to work: {}", see(&culprits)))
            .because(format!("it said: {said}"));
    }
    let mut finding = Finding::fail(format!("{what} fails: {gist}"));
    if said != gist {
        finding = finding.because(format!("it said: {said}"));
    }
    let mut meanings: Vec<String> =
        meanings.map(|(_, meaning, checks)| format!("{meaning}: {}", see(checks))).collect();
    meanings.dedup();
    meanings.into_iter().fold(finding, Finding::because)
}

/// The telling part of what rootlesskit and its network driver say: the parent's error, or the last
/// line, without the values that Go prints and within [`GIST`] characters.
pub(super) fn gist(text: &str) -> String {
    let parts: Vec<&str> = text
        .split('\n')
        .flat_map(|line| line.split("; [rootlesskit:"))
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .collect();
    let is_parents = |part: &&&str| {
        let part = part.trim_start_matches("[rootlesskit:");
        part.starts_with("parent] error:") && !part.contains("child exited")
    };
    let told = parts.iter().find(is_parents).or(parts.last());
    let told = told.map_or("no word of why", |part| {
        part.split_once("] error: ").map_or(*part, |(_, error)| error)
    });
    let told = told.split(" (it ended with").next().unwrap_or(told);
    cut(&without_values(told), GIST)
}

/// `text` without what Go prints of values, `&{…}` with all that is in it: rootlesskit names its
/// network driver so.
fn without_values(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some((before, value)) = rest.split_once("&{") {
        let mut depth = 1;
        let end = value.find(|c| {
            depth += match c {
                '{' => 1,
                '}' => -1,
                _ => 0,
            };
            depth == 0
        });
        kept.push_str(before.trim_end());
        rest = end.map_or("", |at| &value[at + 1..]);
    }
    kept + rest
}

/// `dockerd`: there, and known.
pub fn dockerd(evidence: &Evidence<'_>) -> Finding {
    match &evidence.host.tools.dockerd {
        Tool::Found { path, answer: Answer::Known(facts) } => {
            Finding::ok(format!("dockerd{} at `{}`", shown(facts.version), path.display()))
        }
        Tool::Found { path, answer: Answer::Unknown(reason) } => Finding::skip(format!(
            "`{}` is there, and does not tell what it can do: {reason}",
            path.display()
        )),
        other => {
            let named = Some(evidence.settings.daemon_binary.value.as_os_str());
            not_there(evidence, other, named, Package::Dockerd)
        }
    }
}

/// A program that is absent, or is no program.
fn not_there<T>(
    evidence: &Evidence<'_>,
    tool: &Tool<T>,
    named: Option<&OsStr>,
    package: Package,
) -> Finding {
    let settings = evidence.settings;
    let (program, key, origin) = match package {
        Package::Dockerd => ("dockerd", "daemon.binary", &settings.daemon_binary.origin),
        _ => ("rootlesskit", "rootlesskit.binary", &settings.rootlesskit_binary.origin),
    };
    if let Tool::NotExecutable(path) = tool {
        let finding = Finding::fail(format!("`{}` cannot be executed", path.display()))
            .because(format!("{key} names it ({origin})"));
        return set(finding, origin, key, program);
    }
    match named.filter(|name| *name != program) {
        Some(name) => {
            let finding = Finding::fail(format!("the program `{}` does not exist", name.display()))
                .because(format!("{key} names it ({origin})"));
            set(finding, origin, key, program)
        }
        None => package_of(
            evidence,
            Finding::fail(format!("no program `{program}` is in PATH")),
            package,
        ),
    }
}

/// `network-driver`: one is chosen, its program is there, and rootlesskit runs with it.
pub fn network_driver(evidence: &Evidence<'_>) -> Finding {
    let Evidence { settings, host, .. } = evidence;
    let network = match Network::decide(settings, &host.tools) {
        Ok(network) => network,
        Err(error) => return package_of(evidence, refused(&error), Package::Slirp4netns),
    };
    let driver = &network.driver;
    let refusal = network
        .refuse_network(&host.tools)
        .and_then(|()| network.refuse_missing_program(&host.tools));
    if let Err(refusal) = refusal {
        let finding = refused(&refusal);
        return match (&refusal.fault, driver) {
            (Fault::Program { .. }, NetworkDriver::Slirp4netns) => {
                package_of(evidence, finding, Package::Slirp4netns)
            }
            (Fault::Program { .. }, NetworkDriver::Pasta) => {
                package_of(evidence, finding, Package::Passt)
            }
            _ => refused_setting(finding, &refusal),
        };
    }
    let why = network
        .reasons
        .iter()
        .find(|reason| reason.key == "network.driver")
        .map(|reason| reason.why.clone());
    let word = driver.word().display().to_string();
    let finding = match &evidence.trials.rootlesskit {
        Outcome::Works => Finding::ok(format!("network driver `{word}` starts")),
        Outcome::Fails(failure) if blames_network(&failure.text) => {
            return network_failure(evidence, driver, &failure.text);
        }
        _ => Finding::skip(format!(
            "network driver `{word}` is chosen and was not tried: see `rootlesskit`"
        )),
    };
    match why {
        Some(why) => finding.because(why),
        None => finding,
    }
}

/// Whether rootlesskit's error is that of its network driver.
fn blames_network(text: &str) -> bool {
    ["failed to setup network", "slirp4netns failed", "pasta failed", "create_sandbox failed"]
        .iter()
        .any(|part| text.contains(part))
}

/// A failed run, explained by what the driver said and by versions that are known to be bad.
fn network_failure(evidence: &Evidence<'_>, driver: &NetworkDriver, text: &str) -> Finding {
    let Evidence { settings, host, survey, trials, .. } = evidence;
    let word = driver.word().display().to_string();
    if trials.tun.failure().is_some() && needs_tun(driver) == Some(true) {
        return Finding::skip(format!(
            "network driver `{word}` cannot start without `/dev/net/tun`: see `tun-device`"
        ));
    }
    let finding = Finding::fail(format!("network driver `{word}` does not start: {}", gist(text)))
        .because(format!("rootlesskit said: {}", cut(text, SAID)));
    let says = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    match driver {
        NetworkDriver::Slirp4netns => {
            let root = survey.mounts.of("/".as_ref());
            let ram_root =
                root.is_some_and(|root| matches!(root.kind.as_str(), "rootfs" | "tmpfs" | "ramfs"));
            let lxc = survey
                .surroundings
                .container
                .as_deref()
                .is_some_and(|kind| kind.starts_with("lxc") || kind == "lxd");
            if says(&["pivot_root", "create_sandbox", "cannot mount tmpfs on /tmp"])
                || ram_root
                || lxc
            {
                // moby#47803, slirp4netns#348 and #155, podman#8852
                let finding = finding.because(
                    "slirp4netns confines itself by pivot_root(2), which a root file system in \
                     memory and LXD's AppArmor profile do not allow (moby#47803, slirp4netns#348)",
                );
                let origin = &settings.slirp4netns_sandbox.origin;
                return set(finding, origin, "network.slirp4netns-sandbox", "false");
            }
            if says(&["seccomp"]) {
                let origin = &settings.slirp4netns_seccomp.origin;
                return set(
                    finding.because("slirp4netns cannot install its seccomp filter"),
                    origin,
                    "network.slirp4netns-seccomp",
                    "false",
                );
            }
            finding
        }
        NetworkDriver::Pasta => {
            let finding = if says(&["Dual stack forward", "Unable to add rule"]) {
                finding.because(
                    "pasta of 2026-05-07 cannot forward ports automatically the way that rootlesskit asks \
                     for it (rootlesskit#591)",
                )
            } else if says(&["Couldn't open user namespace"]) {
                // rootlesskit's docs/network.md
                finding.because(
                    "AppArmor keeps pasta from the user namespace: the packages of Ubuntu 23.10 and \
                     24.04 lack its profile (Launchpad bug 2077158)",
                )
            } else if pasta_date(&host.tools).is_some_and(|date| date < 20_230_625) {
                finding.because("rootlesskit needs pasta of 2023-06-25 or later")
            } else {
                finding
            };
            instead_of_pasta(evidence, finding)
        }
        _ => finding,
    }
}

/// Advises slirp4netns, if it is there and rootlesskit knows it.
fn instead_of_pasta(evidence: &Evidence<'_>, finding: Finding) -> Finding {
    let tools = &evidence.host.tools;
    let usable = tools.slirp4netns.known().is_some_and(|facts| facts.netns_type)
        && tools
            .rootlesskit
            .known()
            .is_some_and(|facts| facts.network_drivers.iter().any(|name| name == "slirp4netns"))
        && flags(evidence).value("net").is_none();
    if !usable {
        return package_of(evidence, finding, Package::Slirp4netns)
            .because("slirp4netns is taken before pasta where it is installed");
    }
    let settings = evidence.settings;
    let finding = set(finding, &settings.network_driver.origin, "network.driver", "slirp4netns");
    // `implicit` and `pesto` are pasta's and would be refused.
    match settings.port_driver.value {
        Choice::Auto => finding,
        Choice::Fixed(_) => {
            set(finding, &settings.port_driver.origin, "network.port-driver", "auto")
        }
    }
}

/// Whether a network driver opens `/dev/net/tun`; `None` if nobody here knows it. vpnkit and
/// gvisor-tap-vsock make their tap inside rootlesskit (`water.New`), lxc-user-nic makes a veth pair.
fn needs_tun(driver: &NetworkDriver) -> Option<bool> {
    match driver {
        NetworkDriver::Slirp4netns
        | NetworkDriver::Pasta
        | NetworkDriver::Vpnkit
        | NetworkDriver::GvisorTapVsock => Some(true),
        NetworkDriver::LxcUserNic | NetworkDriver::Host => Some(false),
        NetworkDriver::Other(word) if word == "none" => Some(false),
        NetworkDriver::Other(_) => None,
    }
}

/// `tun-device`: `/dev/net/tun` opens, if the network driver needs it.
pub fn tun_device(evidence: &Evidence<'_>) -> Finding {
    // Every driver but lxc-user-nic needs it, also one that is still to be installed.
    let driver = network(evidence).map(|network| network.driver);
    if let Ok(driver) = &driver {
        let word = driver.word().display();
        match needs_tun(driver) {
            Some(true) => {}
            Some(false) => {
                return Finding::skip(format!("network driver `{word}` does without it"));
            }
            None => {
                return Finding::skip(format!(
                    "it is not known whether network driver `{word}` needs it"
                ));
            }
        }
    }
    let failure = match &evidence.trials.tun {
        Outcome::Works => return Finding::ok("`/dev/net/tun` opens"),
        Outcome::NotTried(why) => {
            return Finding::skip(format!("`/dev/net/tun` was not opened: {why}"));
        }
        Outcome::Fails(failure) => failure,
    };
    let finding = Finding::fail(format!("`/dev/net/tun` does not open: {}", failure.text))
        .because("the network driver makes its interface with it");
    let container = evidence.survey.surroundings.container.as_deref();
    match (failure.errno.as_deref(), container) {
        (Some("EACCES"), _) => finding
            .because(
                "mode 0666 is the kernel's own default: with the device alone, nobody can do anything to the host's \
                 network",
            )
            .root("chmod 0666 /dev/net/tun")
            .root(
                "if [ -d /etc/udev/rules.d ]; then \
                 echo 'KERNEL==\"tun\", MODE=\"0666\", OPTIONS+=\"static_node=net/tun\"' \
                 >/etc/udev/rules.d/90-dockerd-rootless-tun.rules; fi",
            ),
        (_, Some(manager)) => finding.because(format!(
            "this is a container of {manager}: it must be given the device from outside \
             (`--device /dev/net/tun` with docker run)"
        )),
        (Some("ENOENT" | "ENODEV" | "ENXIO"), None) => finding
            .because("the module `tun` is not loaded, or the device's file is missing")
            // A kernel without modules may have tun built in: only the file is missing then.
            .root("modprobe tun || [ -e /sys/class/misc/tun ]")
            .root("[ -c /dev/net/tun ] || { mkdir -p /dev/net && mknod -m 0666 /dev/net/tun c 10 200; }")
            .root("mkdir -p /etc/modules-load.d && echo tun >/etc/modules-load.d/dockerd-rootless-tun.conf"),
        _ => finding,
    }
}

/// What a pair of versions breaks.
struct Regression {
    /// Whether these tools have it.
    applies: fn(&Tools, &Network) -> bool,
    /// Whether no port at all can be published.
    total: bool,
    /// What is broken, with the issue.
    what: &'static str,
    /// What is better.
    mend: Mend,
}

/// How a regression is avoided.
enum Mend {
    /// The port driver `builtin`, at the cost of the source address.
    Builtin,
    /// Another network driver than pasta.
    NotPasta,
}

/// Regressions of publishing ports, each with its issue; those without a version that mends them
/// (moby#52903, moby#53153: a race for ephemeral ports) are not here.
const REGRESSIONS: &[Regression] = &[
    Regression {
        applies: |tools, network| {
            let rootlesskit = tools.rootlesskit.known().and_then(|facts| facts.version);
            port_driver_is_slirp4netns(network)
                && dockerd_in(tools, Version(20, 10, 6), Version(28, 0, 0))
                && rootlesskit.is_some_and(|version| version < Version(0, 14, 3))
        },
        total: true,
        what: "dockerd 20.10.6 and later asks for IPv6 ports too, at which the docker-proxy of rootlesskit \
               before 0.14.3 fails (moby#42355, rootlesskit#249)",
        mend: Mend::Builtin,
    },
    Regression {
        applies: |tools, network| {
            port_driver_is_slirp4netns(network)
                && dockerd_in(tools, Version(28, 0, 0), Version(28, 0, 1))
        },
        total: true,
        what: "dockerd 28.0.0 publishes no ports with it; 28.0.1 does (moby#49499)",
        mend: Mend::Builtin,
    },
    Regression {
        applies: |tools, network| {
            port_driver_is_slirp4netns(network)
                && dockerd_in(tools, Version(29, 0, 0), Version(29, 1, 2))
        },
        total: true,
        what: "dockerd from 29.0.0 on fails with `address already in use` for every port; 29.1.2 mends it \
               (moby#51591)",
        mend: Mend::Builtin,
    },
    Regression {
        applies: |tools, network| {
            let rootlesskit = tools.rootlesskit.known().and_then(|facts| facts.version);
            network.driver == NetworkDriver::Pasta
                && pasta_date(tools).is_some_and(|date| date >= 20_241_030)
                && rootlesskit.is_some_and(|version| version < Version(2, 3, 2))
        },
        total: false,
        what: "connections to a port that is published on 127.0.0.1 alone are reset: pasta of 2024-10-30 \
               and later needs rootlesskit 2.3.2 (rootlesskit#482, moby#48838)",
        mend: Mend::NotPasta,
    },
];

fn port_driver_is_slirp4netns(network: &Network) -> bool {
    network.port_driver == PortDriver::Slirp4netns
}

/// Whether dockerd's version is known and `first` or later, but before `mended`.
fn dockerd_in(tools: &Tools, first: Version, mended: Version) -> bool {
    let version = tools.dockerd.known().and_then(|facts| facts.version);
    version.is_some_and(|version| first <= version && version < mended)
}

/// The date in pasta's version as a number such as 20241030. Upstream writes `2024_10_30.ee7d0b6`,
/// Debian `0.0~git20230309.7c7625d-1`, Fedora `0^20241030.gee7d0b6-1.fc41`.
fn pasta_date(tools: &Tools) -> Option<u32> {
    let version = tools.pasta_version.as_deref()?.replace('_', "");
    let mut runs = version.split(|c: char| !c.is_ascii_digit());
    runs.find(|run| run.len() == 8 && run.starts_with("20"))?.parse().ok()
}

/// `port-driver`: goes with the network driver, and these versions publish ports with it.
pub fn port_driver(evidence: &Evidence<'_>) -> Finding {
    let Evidence { settings, host, .. } = evidence;
    let flags = flags(evidence);
    let Ok(network) = Network::decide(settings, &host.tools) else {
        return Finding::skip("no network driver is known to go with: see `network-driver`");
    };
    // Its default follows the network driver, and goes with it.
    if settings.port_driver.value == Choice::Auto
        && flags.value("port-driver").is_none()
        && network.refuse_network(&host.tools).is_err()
    {
        return Finding::skip("it follows a network driver that is refused: see `network-driver`");
    }
    if let Err(error) = network.refuse_ports(&host.tools) {
        let finding = refused(&error);
        if flags.value("port-driver").is_some() || flags.value("net").is_some() {
            return finding.because("rootlesskit.flags name a driver, and they count last");
        }
        return set(finding, &settings.port_driver.origin, "network.port-driver", "auto");
    }
    let (net, port) = (network.driver.word().display(), network.port_driver.word().display());
    let what = format!("port driver `{port}` with network driver `{net}`");
    let Some(bad) =
        REGRESSIONS.iter().find(|regression| (regression.applies)(&host.tools, &network))
    else {
        return Finding::ok(what);
    };
    let finding = match bad.total {
        true => Finding::fail(format!("{what} publishes no ports with these versions")),
        false => Finding::warn(format!("{what} does not publish all ports with these versions")),
    };
    let finding = finding.because(bad.what);
    match bad.mend {
        Mend::NotPasta => instead_of_pasta(evidence, finding),
        Mend::Builtin if flags.value("port-driver").is_some() => {
            finding.because("rootlesskit.flags name the driver: take `--port-driver` out there")
        }
        Mend::Builtin => set(
            finding.because("with `builtin`, containers do not see the address of who connects"),
            &settings.port_driver.origin,
            "network.port-driver",
            "builtin",
        ),
    }
}

/// The user's own flags for rootlesskit.
pub(super) fn flags<'a>(evidence: &Evidence<'a>) -> RootlesskitFlags<'a> {
    evidence.host.tools.flags(evidence.settings)
}

/// The network that a launch would have.
pub(super) fn network(evidence: &Evidence<'_>) -> Result<Network, Refusal> {
    Network::decide(evidence.settings, &evidence.host.tools)
}

/// Adds the command that sets `key` in the user's `config.toml`, and takes away what counts more.
pub(super) fn set(finding: Finding, origin: &Origin, key: &str, value: &str) -> Finding {
    let value = crate::words::quote(value.as_ref());
    let finding = match origin {
        Origin::Variable(name) => finding
            .because(format!(
                "`{name}` sets {key} and counts more than config.toml: take it out of the \
                 environment of whatever starts the daemon, too"
            ))
            .user(format!("unset {name}")),
        Origin::CommandLine => {
            return finding
                .because(format!("`--set` sets it: say `--set {key}={}`", value.display()));
        }
        Origin::Flag(flag) => {
            return finding.because(format!(
                "rootlesskit.flags hold `{flag}`, and they count last: take it out there"
            ));
        }
        Origin::Default | Origin::File(..) => finding,
    };
    finding.user(format!("dockerd-rootless config set {key} {}", value.display()))
}

/// The refusal of a launch, as a finding.
fn refused(refusal: &Refusal) -> Finding {
    Finding::fail(refusal.what.clone())
}

/// Adds what takes back the setting that a launch is refused for.
fn refused_setting(finding: Finding, refusal: &Refusal) -> Finding {
    match &refusal.fault {
        Fault::Setting { key, origin, instead } => set(finding, origin, key, instead),
        Fault::Program { key, origin, .. } => set(finding, origin, key, "auto"),
    }
}

/// Adds what brings `package`.
pub(super) fn package_of(evidence: &Evidence<'_>, finding: Finding, package: Package) -> Finding {
    distro::install_for(finding, &evidence.survey.release, package)
}

fn shown(version: Option<Version>) -> String {
    version.map_or_else(String::new, |version| format!(" {version}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;
    use crate::check::tests::Sample;
    use crate::facts::{DockerdFacts, Failure, RootlesskitFacts, Surroundings};
    use crate::settings::{Layer, Settings};

    fn settings(variables: &[(&str, &str)]) -> Settings {
        let environment = variables.iter().copied().collect();
        Settings::resolve(&[Layer::from_environment(&environment)]).expect("settings")
    }

    fn with(variables: &[(&str, &str)]) -> Sample {
        Sample { settings: settings(variables), ..Sample::healthy() }
    }

    fn rootlesskit_of(sample: &mut Sample) -> &mut RootlesskitFacts {
        let Tool::Found { answer: Answer::Known(facts), .. } = &mut sample.host.tools.rootlesskit
        else {
            panic!("the sample has a rootlesskit");
        };
        facts
    }

    fn set_dockerd(sample: &mut Sample, version: Version) {
        sample.host.tools.dockerd = Tool::Found {
            path: "/usr/bin/dockerd".into(),
            answer: Answer::Known(DockerdFacts { version: Some(version), flags: Vec::new() }),
        };
    }

    /// rootlesskit 2 with pasta of `date` and no slirp4netns.
    fn pasta(rootlesskit: Version, pasta: &str) -> Sample {
        let mut sample = Sample::healthy();
        let facts = rootlesskit_of(&mut sample);
        facts.version = Some(rootlesskit);
        facts.network_drivers = ["host", "pasta", "slirp4netns"].map(str::to_owned).into();
        facts.port_drivers = ["none", "implicit", "builtin"].map(str::to_owned).into();
        sample.host.tools.slirp4netns = Tool::Absent;
        sample.host.tools.pasta = Some("/usr/bin/pasta".into());
        sample.host.tools.pasta_version = Some(pasta.to_owned());
        sample
    }

    #[test]
    fn a_healthy_host_is_fine() {
        let sample = Sample::healthy();
        let evidence = sample.evidence();
        for (finding, summary) in [
            (
                rootlesskit(&evidence),
                "rootlesskit 1.1.0 at `/usr/bin/rootlesskit` runs a command in its namespaces",
            ),
            (dockerd(&evidence), "dockerd 20.10.24 at `/usr/sbin/dockerd`"),
            (network_driver(&evidence), "network driver `slirp4netns` starts"),
            (tun_device(&evidence), "`/dev/net/tun` opens"),
            (port_driver(&evidence), "port driver `builtin` with network driver `slirp4netns`"),
        ] {
            assert_eq!((finding.status, finding.summary.as_str()), (Status::Ok, summary));
            assert_eq!(finding.fix, Default::default(), "{summary}");
        }
    }

    #[test]
    fn absent_programs_are_installed() {
        let mut sample = Sample::healthy();
        sample.host.tools.rootlesskit = Tool::Absent;
        sample.host.tools.dockerd = Tool::Absent;
        let finding = rootlesskit(&sample.evidence());
        assert_eq!(finding.status, Status::Fail);
        assert_eq!(finding.fix.root, ["apt-get install -y rootlesskit"]);
        let finding = dockerd(&sample.evidence());
        assert_eq!(finding.summary, "no program `dockerd` is in PATH");
        assert_eq!(finding.fix.root, ["apt-get install -y docker.io"]);
    }

    #[test]
    fn a_program_that_a_setting_names_in_vain_is_taken_back() {
        let mut sample = with(&[("DOCKERD", "/opt/dockerd")]);
        sample.host.tools.dockerd = Tool::Absent;
        let finding = dockerd(&sample.evidence());
        assert_eq!(finding.summary, "the program `/opt/dockerd` does not exist");
        assert_eq!(
            finding.fix.user,
            ["unset DOCKERD", "dockerd-rootless config set daemon.binary dockerd"]
        );
        sample.host.tools.rootlesskit = Tool::NotExecutable("/opt/rk".into());
        let finding = rootlesskit(&sample.evidence());
        assert_eq!(finding.summary, "`/opt/rk` cannot be executed");
        assert_eq!(finding.status, Status::Fail);
    }

    #[test]
    fn what_was_not_tried_or_not_told_is_no_ok() {
        let mut sample = Sample::healthy();
        sample.trials.rootlesskit = Outcome::NotTried("no user namespace".to_owned());
        assert_eq!(rootlesskit(&sample.evidence()).status, Status::Skip);
        sample.host.tools.dockerd = Tool::Found {
            path: "/opt/d".into(),
            answer: Answer::Unknown("it is a script, which is not asked".to_owned()),
        };
        let finding = dockerd(&sample.evidence());
        assert_eq!(finding.status, Status::Skip);
        assert!(finding.summary.ends_with("it is a script, which is not asked"));
        sample.trials.tun = Outcome::NotTried("x".to_owned());
        assert_eq!(tun_device(&sample.evidence()).status, Status::Skip);
    }

    #[test]
    fn rootlesskits_error_names_the_check_that_explains_it() {
        let cases = [
            (
                "failed to setup UID/GID map: newuidmap 7 [0 1000 1] failed: exit status 1",
                "`newuidmap`",
            ),
            (
                "failed to start the child: fork/exec /proc/self/exe: operation not permitted",
                "`user-namespaces`",
            ),
            ("fork/exec /proc/self/exe: no space left on device", "`user-namespace-quota`"),
            ("open(\"/dev/net/tun\"): Permission denied", "`tun-device`"),
            ("flag provided but not defined: -detach-netns", "`network-driver`"),
            ("listen unix /x/.bp.sock: bind: invalid argument", "`socket-path`"),
            ("it did not end within 8 s", "`socket-path`"),
        ];
        for (text, check) in cases {
            let mut sample = Sample::healthy();
            sample.trials.rootlesskit =
                Outcome::fails(format!("[rootlesskit:parent] warning\n{text}\n"));
            let finding = rootlesskit(&sample.evidence());
            assert_eq!(finding.status, Status::Fail, "{text}");
            assert!(finding.summary.ends_with(text), "{}", finding.summary);
            assert!(
                finding.reasons.iter().any(|reason| reason.contains(check)),
                "{text}: {:?}",
                finding.reasons
            );
        }
        let mut sample = Sample::healthy();
        sample.trials.rootlesskit = Outcome::fails("the moon is full");
        let finding = rootlesskit(&sample.evidence());
        assert!(finding.summary.ends_with("fails: the moon is full"));
        assert!(finding.reasons.is_empty(), "{:?}", finding.reasons);
    }

    #[test]
    fn a_cause_is_reported_once_and_pointed_at() {
        type Spoil = fn(&mut Sample);
        let network = "failed to setup network &{}: slirp4netns failed";
        let cases: [(&str, Spoil, &str); 5] = [
            (network, |sample| sample.trials.tun = Outcome::fails("x"), "see `tun-device`"),
            (network, |_| {}, "see `network-driver`"),
            (
                "newuidmap 7 [0 1000 1] failed: newuidmap: write to uid_map failed",
                |sample| sample.trials.newuidmap = None,
                "see `newuidmap`",
            ),
            (
                "String to int conversion failed during subuid/gid parsing of /etc/subuid",
                |sample| {
                    sample.survey.subuid = crate::facts::TextFile::Text("u:100000:x\n".to_owned());
                },
                "see `subuid`",
            ),
            (
                "write /x: no space left on device",
                |sample| sample.trials.runtime_dir_free = Some(0),
                "see `runtime-dir`",
            ),
        ];
        for (text, spoil, pointer) in cases {
            let mut sample = Sample::healthy();
            sample.trials.rootlesskit = Outcome::fails(text);
            sample.trials.uid_map = Outcome::NotTried("x".to_owned());
            spoil(&mut sample);
            let finding = rootlesskit(&sample.evidence());
            assert_eq!(finding.status, Status::Fail, "{text}");
            assert!(finding.summary.ends_with(pointer), "{}", finding.summary);
            let said = text.replace(" &{}", "");
            assert!(finding.reasons[0].contains(&said), "{:?}", finding.reasons);
        }
        let mut sample = Sample::healthy();
        sample.trials.rootlesskit = Outcome::NotTried("HOME is not set".to_owned());
        sample.host.session.person.home = None;
        let finding = rootlesskit(&sample.evidence());
        assert!(finding.summary.ends_with("not tried: see `home`"), "{}", finding.summary);
    }

    #[test]
    fn a_flood_of_words_becomes_a_sentence() {
        let cases = [
            (
                "open: Permission denied; [rootlesskit:parent] error: failed to setup network &{logWriter:0xc0 \
                 infoMu:{w:{state:0} readerWait:0} info:<nil>}: setting up tap tap0: exit status 1; \
                 [rootlesskit:child ] error: parsing message from fd 3: EOF (it ended with exit code 1)",
                "failed to setup network: setting up tap tap0: exit status 1",
            ),
            (
                "cause: No space left on device; [rootlesskit:child ] error: command x exited; \
                 [rootlesskit:parent] error: child exited: exit status 1 (it ended with exit code 1)",
                "child exited: exit status 1",
            ),
            ("\n", "no word of why"),
            ("half a value &{x", "half a value"),
        ];
        for (text, expected) in cases {
            assert_eq!(gist(text), expected);
        }
        assert_eq!(gist(&"ä".repeat(200)).chars().count(), GIST);
    }

    #[test]
    fn flags_that_cannot_be_used_fail() {
        let sample = with(&[("DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS", "--debug evil")]);
        let finding = rootlesskit(&sample.evidence());
        assert_eq!(finding.status, Status::Fail);
        assert!(finding.summary.contains("`evil` is no flag"));
    }

    #[test]
    fn without_a_network_driver_one_is_installed() {
        let mut sample = Sample::healthy();
        sample.host.tools.slirp4netns = Tool::Absent;
        let finding = network_driver(&sample.evidence());
        assert_eq!(finding.status, Status::Fail);
        assert!(finding.summary.starts_with("no network driver can be used"));
        assert_eq!(finding.fix.root, ["apt-get install -y slirp4netns"]);
        assert_eq!(port_driver(&sample.evidence()).status, Status::Skip);
    }

    #[test]
    fn a_driver_that_is_stated_and_impossible_is_taken_back() {
        let net = "DOCKERD_ROOTLESS_ROOTLESSKIT_NET";
        for driver in ["host", "pasta"] {
            let finding = network_driver(&with(&[(net, driver)]).evidence());
            assert_eq!(finding.status, Status::Fail, "{driver}");
            assert_eq!(
                finding.fix.user,
                [
                    format!("unset {net}"),
                    "dockerd-rootless config set network.driver auto".to_owned()
                ],
                "{driver}"
            );
        }
        let mut sample = pasta(Version(2, 3, 2), "pasta 2024_12_11.09478d5");
        sample.settings = settings(&[(net, "pasta")]);
        sample.host.tools.pasta = None;
        let finding = network_driver(&sample.evidence());
        assert_eq!(finding.fix.root, ["apt-get install -y passt"]);
        let sample = with(&[("DOCKERD_ROOTLESS_ROOTLESSKIT_DETACH_NETNS", "true")]);
        let finding = network_driver(&sample.evidence());
        assert_eq!(finding.fix.user[1], "dockerd-rootless config set network.detach-netns auto");
        let sample = with(&[("DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS", "--net=host")]);
        let finding = network_driver(&sample.evidence());
        assert_eq!(finding.fix, Default::default());
        assert!(finding.reasons[0].contains("`--net`"), "{:?}", finding.reasons);
    }

    #[test]
    fn a_sandbox_that_cannot_be_is_turned_off() {
        let failure = "failed to setup network: slirp4netns failed";
        type Spoil = fn(&mut Sample);
        let cases: [(&str, Spoil); 3] = [
            ("failed to setup network: cannot pivot_root to /tmp\ncreate_sandbox failed", |_| {}),
            (failure, |sample| {
                sample.survey.mounts =
                    crate::facts::Mounts::parse("1 1 0:2 / / rw - rootfs rootfs rw\n");
            }),
            (failure, |sample| {
                sample.survey.surroundings =
                    Surroundings { container: Some("lxc".to_owned()), ..Surroundings::default() };
            }),
        ];
        for (text, spoil) in cases {
            let mut sample = Sample::healthy();
            sample.trials.rootlesskit = Outcome::fails(text);
            spoil(&mut sample);
            let finding = network_driver(&sample.evidence());
            assert_eq!(finding.status, Status::Fail, "{text}");
            assert_eq!(
                finding.fix.user,
                ["dockerd-rootless config set network.slirp4netns-sandbox false"],
                "{text}"
            );
        }
        let mut sample = Sample::healthy();
        sample.trials.rootlesskit = Outcome::fails(failure);
        assert_eq!(network_driver(&sample.evidence()).fix, Default::default());
        sample.trials.tun = Outcome::fails("permission denied");
        let finding = network_driver(&sample.evidence());
        assert_eq!(finding.status, Status::Skip);
        assert!(finding.summary.ends_with("see `tun-device`"), "{}", finding.summary);
        sample.trials.rootlesskit = Outcome::fails("newuidmap failed");
        let finding = network_driver(&sample.evidence());
        assert_eq!(finding.status, Status::Skip);
        assert!(finding.summary.ends_with("see `rootlesskit`"), "{}", finding.summary);
    }

    #[test]
    fn a_pasta_that_fails_gives_way_to_slirp4netns() {
        let cases = [
            (
                "pasta failed with exit code 1:\nDual stack forward, but IPv6 not enabled",
                "rootlesskit#591",
            ),
            (
                "pasta failed with exit code 1:\nCouldn't open user namespace /proc/7/ns/user: Permission denied",
                "2077158",
            ),
        ];
        for (text, source) in cases {
            let mut sample = pasta(Version(3, 0, 0), "pasta 2026_05_07.1afd4ed");
            sample.trials.rootlesskit = Outcome::fails(text);
            let finding = network_driver(&sample.evidence());
            let explains = |reason: &String| reason.contains(source);
            assert!(finding.reasons.iter().any(explains), "{:?}", finding.reasons);
            assert_eq!(finding.fix.root, ["apt-get install -y slirp4netns"]);
            sample.host.tools.slirp4netns = Sample::healthy().host.tools.slirp4netns;
            sample.settings = settings(&[("DOCKERD_ROOTLESS_ROOTLESSKIT_NET", "pasta")]);
            let finding = network_driver(&sample.evidence());
            assert_eq!(
                finding.fix.user[1],
                "dockerd-rootless config set network.driver slirp4netns"
            );
        }
    }

    #[test]
    fn a_tun_device_that_does_not_open_is_mended_by_its_error() {
        let failing = |errno: &str| {
            let mut sample = Sample::healthy();
            sample.trials.tun =
                Outcome::Fails(Failure { errno: Some(errno.to_owned()), text: errno.to_owned() });
            sample
        };
        let finding = tun_device(&failing("EACCES").evidence());
        assert_eq!(finding.status, Status::Fail);
        assert_eq!(finding.fix.root[0], "chmod 0666 /dev/net/tun");
        assert!(finding.fix.root[1].starts_with("if [ -d /etc/udev/rules.d ]; then"));
        let finding = tun_device(&failing("ENOENT").evidence());
        assert!(finding.fix.root[0].starts_with("modprobe tun"), "{:?}", finding.fix);
        let mut contained = failing("ENOENT");
        contained.survey.surroundings.container = Some("docker".to_owned());
        let finding = tun_device(&contained.evidence());
        assert_eq!((finding.status, finding.fix), (Status::Fail, Default::default()));
        assert_eq!(tun_device(&failing("EIO").evidence()).fix, Default::default());
        let mut unneeded = failing("EACCES");
        unneeded.settings = settings(&[("DOCKERD_ROOTLESS_ROOTLESSKIT_NET", "lxc-user-nic")]);
        assert_eq!(tun_device(&unneeded.evidence()).status, Status::Skip);
    }

    #[test]
    fn port_drivers_that_do_not_go_with_the_network_are_taken_back() {
        let port = "DOCKERD_ROOTLESS_ROOTLESSKIT_PORT_DRIVER";
        for driver in ["implicit", "gvisor-tap-vsock", "bogus"] {
            let finding = port_driver(&with(&[(port, driver)]).evidence());
            assert_eq!(finding.status, Status::Fail, "{driver}");
            assert_eq!(
                finding.fix.user[1], "dockerd-rootless config set network.port-driver auto",
                "{driver}"
            );
        }
        let mut sample = pasta(Version(2, 0, 2), "pasta 2023_12_04.b86afe3");
        sample.settings = settings(&[(port, "builtin")]);
        let finding = port_driver(&sample.evidence());
        assert!(finding.summary.contains("does not go with network driver `pasta`"));
        assert_eq!(network_driver(&sample.evidence()).status, Status::Ok);
        let sample = with(&[("DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS", "--port-driver=implicit")]);
        let finding = port_driver(&sample.evidence());
        assert_eq!((finding.status, finding.fix), (Status::Fail, Default::default()));
    }

    #[test]
    fn versions_that_do_not_publish_with_slirp4netns_are_known() {
        let cases = [
            (Version(20, 10, 24), Version(1, 1, 0), None),
            (Version(20, 10, 5), Version(0, 14, 2), None),
            (Version(20, 10, 6), Version(0, 14, 2), Some("rootlesskit#249")),
            (Version(20, 10, 6), Version(0, 14, 3), None),
            (Version(27, 5, 1), Version(2, 3, 2), None),
            (Version(28, 0, 0), Version(2, 3, 2), Some("moby#49499")),
            (Version(28, 0, 1), Version(2, 3, 2), None),
            (Version(29, 0, 0), Version(2, 3, 2), Some("moby#51591")),
            (Version(29, 1, 1), Version(2, 3, 2), Some("moby#51591")),
            (Version(29, 1, 2), Version(2, 3, 2), None),
        ];
        for (dockerd, rootlesskit, issue) in cases {
            let mut sample = with(&[("DOCKERD_ROOTLESS_ROOTLESSKIT_PORT_DRIVER", "slirp4netns")]);
            set_dockerd(&mut sample, dockerd);
            rootlesskit_of(&mut sample).version = Some(rootlesskit);
            let finding = port_driver(&sample.evidence());
            let Some(issue) = issue else {
                assert_eq!(
                    finding.status,
                    Status::Ok,
                    "dockerd {dockerd}, rootlesskit {rootlesskit}"
                );
                continue;
            };
            assert_eq!(finding.status, Status::Fail, "{issue}");
            assert!(finding.reasons[0].contains(issue), "{:?}", finding.reasons);
            assert_eq!(
                finding.fix.user[1],
                "dockerd-rootless config set network.port-driver builtin"
            );
            sample.settings = settings(&[]);
            assert_eq!(port_driver(&sample.evidence()).status, Status::Ok, "builtin, {issue}");
        }
    }

    #[test]
    fn a_late_pasta_with_an_early_rootlesskit_resets_what_is_local() {
        let cases = [
            (Version(2, 0, 2), "pasta 2024_10_30.ee7d0b6", Status::Warn),
            (Version(2, 0, 2), "pasta 0.0~git20250503.587980c-2", Status::Warn),
            (Version(2, 3, 1), "pasta 0^20241030.gee7d0b6-1.fc41", Status::Warn),
            (Version(2, 3, 2), "pasta 2024_10_30.ee7d0b6", Status::Ok),
            (Version(2, 0, 2), "pasta 2024_09_06.6b38f07", Status::Ok),
            (Version(2, 0, 2), "pasta unknown", Status::Ok),
        ];
        for (rootlesskit, version, status) in cases {
            let finding = port_driver(&pasta(rootlesskit, version).evidence());
            assert_eq!(finding.status, status, "rootlesskit {rootlesskit}, {version}");
        }
    }
}
