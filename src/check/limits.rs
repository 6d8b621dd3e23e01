//! What is scarce or cut off: ports, ping, IPv6, keys, files, a proxy on the loopback.

use crate::check::evidence::Evidence;
use crate::check::finding::Finding;
use crate::check::fix::{Fix, quoted};
use crate::facts::Version;
use crate::plan;
use crate::settings::NetworkDriver::{
    GvisorTapVsock, LxcUserNic, Other, Pasta, Slirp4netns, Vpnkit,
};
use crate::settings::ProxyUrl;

/// The share of a quota, in percent, from which on it is scarce.
const SCARCE: u64 = 80;

/// A daemon with some containers needs more open files than this; systemd allows 524288, a bare
/// kernel 4096.
const FEW_FILES: u64 = 16_384;

/// From this rootlesskit on pasta is told to close the host's loopback (rootlesskit#612).
const PASTA_CLOSES_LOOPBACK: Version = Version(3, 1, 0);

/// `privileged-ports`; never a fault.
pub fn privileged_ports(evidence: &Evidence<'_>) -> Finding {
    let name = "net.ipv4.ip_unprivileged_port_start";
    let start = evidence.survey.sysctl_number(name).unwrap_or(1024);
    if start <= 1 {
        return Finding::ok("every port can be published");
    }
    let rootlesskit = evidence.host.tools.rootlesskit.path();
    let rootlesskit = quoted(rootlesskit.unwrap_or("rootlesskit".as_ref()));
    Finding::ok(format!("ports from {start} on can be published ({name})"))
        .because(format!("`setcap cap_net_bind_service=ep {rootlesskit}` opens lower ports for rootlesskit alone, until it is upgraded"))
        .because("the kernel's setting opens lower ports for every user of this host")
        .because("`docker run -p` says `cannot expose privileged port` of a lower one")
        .fix(Fix::Sysctl(name, "0".to_owned()))
}

/// `ping`. slirp4netns and pasta send ICMP by unprivileged sockets of the user (slirp4netns(1),
/// passt(1)).
pub fn ping(evidence: &Evidence<'_>) -> Finding {
    let name = "net.ipv4.ping_group_range";
    let needs_range = |driver| matches!(driver, Slirp4netns | Pasta | Other(_));
    if evidence.network().is_ok_and(|network| !needs_range(network.driver)) {
        return Finding::skip(format!("this network driver does not need `{name}`"));
    }
    let range = evidence.survey.sysctl(name).unwrap_or_default();
    let bounds: Vec<u32> =
        range.split_whitespace().filter_map(|bound| bound.parse().ok()).collect();
    let [first, last] = bounds[..] else {
        return Finding::skip(format!("`{name}` cannot be read"));
    };
    let gid = evidence.survey.account.gid;
    if (first..=last).contains(&gid) {
        return Finding::ok("containers can ping");
    }
    Finding::problem(format!(
        "containers cannot ping other hosts: {name} ({first} {last}) excludes your group {gid}"
    ))
    .fix(Fix::Sysctl(name, "0 2147483647".to_owned()))
}

/// `ipv6`: what was asked for is available.
pub fn ipv6(evidence: &Evidence<'_>) -> Finding {
    let Ok(network) = evidence.network() else {
        return Finding::skip("no network driver is chosen");
    };
    if !network.settings.ipv6.value {
        return Finding::skip("network.ipv6 is off: containers reach IPv4 hosts only");
    }
    let why = match (&network.driver, &evidence.trials.inside) {
        _ if !evidence.host.kernel.ipv6 => "this kernel has no IPv6",
        (GvisorTapVsock | Vpnkit | LxcUserNic, _) => "this network driver does not support it",
        (_, None) => return Finding::untried("no namespace to look into"),
        (_, Some(inside)) if !inside.ipv6 => "a new network namespace has no IPv6",
        _ => return Finding::ok("network.ipv6 is on, and the namespace has IPv6"),
    };
    Finding::problem(format!("network.ipv6 is on, and {why}"))
        .fix(Fix::Set("network.ipv6", "false".to_owned()))
}

/// `limits`: quotas whose end looks like a full disk or a broken kernel.
pub fn limits(evidence: &Evidence<'_>) -> Finding {
    let survey = evidence.survey;
    let is_scarce = |used: u64, max: u64| used.saturating_mul(100) >= max.saturating_mul(SCARCE);
    if let Some([keys, max_keys, bytes, max_bytes]) = survey.keys
        && (is_scarce(keys, max_keys) || is_scarce(bytes, max_bytes))
    {
        // podman#13363
        return Finding::problem(format!(
            "{keys} of {max_keys} kernel keys and {bytes} of their {max_bytes} bytes are in use"
        ))
        .because("each container takes a key; without one, it fails with `disk quota exceeded`")
        .fix(Fix::Sysctl("kernel.keys.maxkeys", (max_keys * 10).to_string()))
        .fix(Fix::Sysctl("kernel.keys.maxbytes", (max_bytes * 10).to_string()));
    }
    let Some(max) = evidence.trials.open_files.filter(|max| *max < FEW_FILES) else {
        return Finding::ok("kernel keys and open files suffice");
    };
    let finding = Finding::problem(format!("a process may open {max} files at most"));
    if survey.release.is_like("alpine") {
        let advice =
            "in a service of OpenRC, set `rc_ulimit=\"-n 524288\"` in its file in /etc/conf.d";
        return finding.tell(advice);
    }
    let file = "/etc/security/limits.d/90-dockerd-rootless.conf".to_owned();
    let line = format!("{} hard nofile 524288", survey.account.display_name());
    finding.because("a new limit applies from the next login on").fix(Fix::File(file, line))
}

/// `proxy`: a proxy on the host's loopback cannot be reached from another network namespace.
pub fn proxy(evidence: &Evidence<'_>) -> Finding {
    let settings = evidence.settings;
    let proxies = [("proxy.http", &settings.http_proxy), ("proxy.https", &settings.https_proxy)];
    let is_local = |url: &ProxyUrl| is_on_loopback(&url.0.to_string_lossy());
    let mut local = proxies.iter().filter(|(_, url)| url.value.as_ref().is_some_and(is_local));
    let Some((key, _)) = local.next() else {
        return Finding::skip("no proxy is on the host's loopback");
    };
    let Ok(network) = evidence.network() else {
        return Finding::untried("no network driver is chosen");
    };
    let is_pasta = network.driver == Pasta;
    // pasta forwards connections to the namespace's own loopback (passt(1), -T).
    let is_open = settings.host_loopback.value
        || evidence.rootlesskit_version().is_some_and(|version| version < PASTA_CLOSES_LOOPBACK);
    if network.detach_netns || (is_pasta && is_open) {
        return Finding::ok("the proxy is on the host's loopback, which the daemon reaches");
    }
    let finding = Finding::problem(format!(
        "{key} is on the host's loopback, which the daemon's namespace does not reach"
    ))
    .because("network.host-loopback opens it, also to containers");
    let finding = match settings.host_loopback.value {
        true => finding,
        false => finding.fix(Fix::Set("network.host-loopback", "true".to_owned())),
    };
    if is_pasta {
        return finding;
    }
    match plan::host_address(&network.driver, network.subnet) {
        Some(address) => finding.tell(format!(
            "then name {address} in the proxy's URL: there it is the host's 127.0.0.1"
        )),
        None => finding,
    }
}

/// Returns whether the host in a URL is this one.
fn is_on_loopback(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let server = rest.rsplit('@').next().unwrap_or(rest);
    ["localhost", "127.", "[::1]"].iter().any(|own| server.starts_with(own))
}
