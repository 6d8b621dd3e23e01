//! What is scarce or cut off: ports, ping, IPv6, keys, files, SELinux, a proxy on the loopback.

use std::net::Ipv4Addr;

use crate::check::finding::{Evidence, Finding};
use crate::check::fix::{Fix, quoted};
use crate::check::trials::Firewall;
use crate::facts::Version;
use crate::settings::NetworkDriver;

/// The share of a quota, in percent, from which on it is scarce.
const SCARCE: u64 = 80;

/// A daemon with some containers needs more open files than this; systemd allows 524288, a bare
/// kernel 4096.
const FEW_FILES: u64 = 16_384;

/// The kernel's default of `fs.inotify.max_user_instances` (inotify(7)).
const INOTIFY_INSTANCES: u64 = 128;

/// From this rootlesskit on pasta is told to close the host's loopback (rootlesskit#612).
const PASTA_CLOSES_LOOPBACK: Version = Version(3, 1, 0);

/// `privileged-ports`; never a fault.
pub fn privileged_ports(evidence: &Evidence<'_>) -> Finding {
    let name = "net.ipv4.ip_unprivileged_port_start";
    let Some(start) = evidence.survey.sysctl_number(name) else {
        return Finding::ok("ports from 1024 on can be published");
    };
    if start <= 1 {
        return Finding::ok("every port can be published");
    }
    let finding = Finding::ok(format!("ports from {start} on can be published ({name})"));
    let finding = match evidence.host.tools.rootlesskit.path() {
        Some(path) => finding.because(format!("`setcap cap_net_bind_service=ep {}` opens lower ports for rootlesskit alone, until it is upgraded", quoted(path))),
        None => finding,
    };
    finding
        .because("the kernel's setting opens lower ports for every user of this host")
        .fix(Fix::Sysctl(name, "0".to_owned()))
}

/// `ping`. slirp4netns and pasta send ICMP by unprivileged sockets of the user (slirp4netns(1),
/// passt(1)), vpnkit and gvisor-tap-vsock do not (rootlesskit's `docs/network.md`).
pub fn ping(evidence: &Evidence<'_>) -> Finding {
    let name = "net.ipv4.ping_group_range";
    match evidence.network().map(|network| network.driver) {
        Ok(NetworkDriver::Vpnkit) => {
            return Finding::ok("network driver `vpnkit` does not carry ping");
        }
        Ok(NetworkDriver::LxcUserNic) => {
            return Finding::ok("network driver `lxc-user-nic` carries ping");
        }
        _ => {}
    }
    let range = evidence.survey.sysctl(name).unwrap_or_default();
    let mut bounds = range.split_whitespace().map(str::parse::<u64>);
    let (Some(Ok(first)), Some(Ok(last))) = (bounds.next(), bounds.next()) else {
        return Finding::skip(format!("`{name}` cannot be read"));
    };
    let gid = evidence.survey.account.gid;
    if (first..=last).contains(&u64::from(gid)) {
        return Finding::ok("containers can ping");
    }
    Finding::problem(format!(
        "containers cannot ping other hosts: {name} ({first} {last}) excludes your group {gid}"
    ))
    .fix(Fix::Sysctl(name, "0 2147483647".to_owned()))
}

/// `ipv6`: what was asked for is available.
pub fn ipv6(evidence: &Evidence<'_>) -> Finding {
    let by_flag = evidence.flags().switch("ipv6");
    if !by_flag.unwrap_or(evidence.settings.ipv6.value) {
        return Finding::skip("network.ipv6 is off: containers reach IPv4 hosts only");
    }
    let off = |why: &str| {
        let finding = Finding::problem(format!("network.ipv6 is on, and {why}"));
        match by_flag {
            Some(_) => finding.tell("remove `--ipv6` from rootlesskit.flags"),
            None => finding.fix(Fix::Set("network.ipv6", "false".to_owned())),
        }
    };
    match evidence.network().map(|network| network.driver) {
        _ if !evidence.host.kernel.ipv6 => return off("this kernel has no IPv6"),
        Err(_) => return Finding::untried("no network driver is chosen"),
        Ok(
            driver @ (NetworkDriver::GvisorTapVsock
            | NetworkDriver::Vpnkit
            | NetworkDriver::LxcUserNic),
        ) => {
            return off(&format!(
                "network driver `{}` does not support it",
                driver.word().display()
            ));
        }
        Ok(_) => {}
    }
    match &evidence.trials.inside {
        None => Finding::untried("no namespace to look into"),
        Some(inside) if !inside.ipv6 => off("a new network namespace has no IPv6"),
        Some(_) => Finding::ok("network.ipv6 is on, and the namespace has IPv6"),
    }
}

/// `limits`: quotas whose end looks like a full disk or a broken kernel.
pub fn limits(evidence: &Evidence<'_>) -> Finding {
    let (survey, trials) = (evidence.survey, evidence.trials);
    let mut scarce = Vec::new();
    let mut finding = Finding::problem("");
    if let Some([keys, max_keys, bytes, max_bytes]) = survey.keys {
        let is_scarce = |used: u64, max: u64| max > 0 && used.saturating_mul(100) >= max * SCARCE;
        if is_scarce(keys, max_keys) || is_scarce(bytes, max_bytes) {
            scarce.push(format!(
                "{keys} of {max_keys} kernel keys and {bytes} of their {max_bytes} bytes are in use"
            ));
            // podman#13363
            finding = finding
                .because(
                    "each container takes a key; without one, it fails with `disk quota exceeded`",
                )
                .fix(Fix::Sysctl("kernel.keys.maxkeys", (max_keys * 10).max(2_000).to_string()))
                .fix(Fix::Sysctl(
                    "kernel.keys.maxbytes",
                    (max_bytes * 10).max(200_000).to_string(),
                ));
        }
    }
    let instances = "fs.inotify.max_user_instances";
    if let Some(max) = survey.sysctl_number(instances).filter(|max| *max < INOTIFY_INSTANCES) {
        scarce.push(format!("{instances} is {max}"));
        finding = finding.fix(Fix::Sysctl(instances, "1024".to_owned()));
    }
    if let Some(max) = trials.open_files.filter(|max| *max < FEW_FILES) {
        scarce.push(format!("a process may open {max} files at most"));
        finding = match &survey.account.name {
            _ if survey.release.is_like("alpine") => finding.tell(
                "in a service of OpenRC, set `rc_ulimit=\"-n 524288\"` in its file in /etc/conf.d",
            ),
            Some(name) => {
                finding.because("a new limit applies from the next login on").fix(Fix::File(
                    "/etc/security/limits.d/90-dockerd-rootless.conf".to_owned(),
                    format!("{name} hard nofile 524288"),
                ))
            }
            None => finding,
        };
    }
    if scarce.is_empty() {
        return Finding::ok("keys, inotify instances and open files suffice");
    }
    finding.summary = scarce.join("; ");
    finding
}

/// `selinux`: it allows what a launch does.
pub fn selinux(evidence: &Evidence<'_>) -> Finding {
    if !evidence.host.kernel.selinux {
        return Finding::skip("SELinux is off");
    }
    let copied = evidence.settings.copies_up("/run");
    let mut chosen =
        evidence.trials.inside.iter().flat_map(|inside| &inside.firewalls).filter(|own| own.chosen);
    let is_locked_out = |own: &&Firewall| {
        let text =
            own.outcome.failure().map_or(String::new(), |failure| failure.text.to_lowercase());
        text.contains("xtables.lock") && text.contains("denied")
    };
    let finding = match chosen.find(is_locked_out) {
        Some(own) => Finding::problem(format!("SELinux denies `{}` its lock", own.path.display())),
        None if copied => {
            return Finding::ok(
                "SELinux is on, and `/run` in the namespace gets a label of its own",
            );
        }
        None => Finding::warn("SELinux is on, and `/run` in the namespace is the host's"),
    };
    let finding = finding
        .because("iptables may not write a lock that has the label of a user's files (moby#41230)");
    if copied { finding } else { finding.tell("add `/run` to rootlesskit.copy-up") }
}

/// `proxy`: a proxy on the host's loopback cannot be reached from another network namespace.
pub fn proxy(evidence: &Evidence<'_>) -> Finding {
    let settings = evidence.settings;
    let proxies = [("proxy.http", &settings.http_proxy), ("proxy.https", &settings.https_proxy)];
    let hosts: Vec<(&str, String)> = proxies
        .iter()
        .filter_map(|(key, url)| Some((*key, host(&url.value.as_ref()?.0.to_string_lossy()))))
        .collect();
    let local: Vec<&str> =
        hosts.iter().filter(|(_, host)| is_loopback(host)).map(|(key, _)| *key).collect();
    if hosts.is_empty() {
        return Finding::skip("no proxy is set");
    }
    if local.is_empty() {
        let hosts: Vec<String> =
            hosts.iter().map(|(key, host)| format!("{key} is at `{host}`")).collect();
        return Finding::ok(hosts.join(", "));
    }
    let Ok(network) = evidence.network() else {
        return Finding::untried("no network driver is chosen");
    };
    let is_pasta = network.driver == NetworkDriver::Pasta;
    // pasta forwards connections to the namespace's own loopback (passt(1), -T).
    let is_open = settings.host_loopback.value
        || evidence.rootlesskit_version().is_some_and(|version| version < PASTA_CLOSES_LOOPBACK);
    if network.detach_netns || (is_pasta && is_open) {
        return Finding::ok("the proxy is on the host's loopback, which the daemon reaches");
    }
    let finding = Finding::problem(format!(
        "{} is on the host's loopback, which the daemon's namespace does not reach",
        local.join(" and ")
    ))
    .because("network.host-loopback opens it, also to containers");
    let finding = match settings.host_loopback.value {
        true => finding,
        false => finding.fix(Fix::Set("network.host-loopback", "true".to_owned())),
    };
    if is_pasta {
        finding
    } else {
        finding.tell("then name the gateway of the namespace in the proxy's URL: 10.0.2.2 with slirp4netns, 10.0.2.1 with gvisor-tap-vsock, 192.168.65.2 with vpnkit")
    }
}

/// Returns the host in a URL.
fn host(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or(rest);
    let server = authority.rsplit('@').next().unwrap_or(authority);
    match server.split_once(']') {
        Some((ipv6, _)) => ipv6.trim_start_matches('[').to_owned(),
        None => server.split(':').next().unwrap_or(server).to_owned(),
    }
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host == "::1"
        || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}
