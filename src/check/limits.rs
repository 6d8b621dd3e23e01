//! What is in short supply or is cut off: ports, ping, IPv6, keys, files, a proxy on the loopback.

use crate::check::distro::{load_modules, set_sysctl, write_file};
use crate::check::engine::{flags, network, set};
use crate::check::{Evidence, Finding};
use crate::facts::Version;
use crate::settings::{NetworkDriver, Origin, ProxyUrl};

/// The share of a quota, in percent, from which on it is scarce.
const SCARCE: u64 = 80;

/// Fewer open files than this are too few for a daemon with some containers; systemd gives 524288,
/// a bare kernel 4096.
const FEW_FILES: u64 = 16_384;

/// The kernel's default of `fs.inotify.max_user_instances` (inotify(7)).
const INOTIFY_INSTANCES: u64 = 128;

/// pasta is told to leave the host's loopback alone from this rootlesskit on (rootlesskit#612).
const PASTA_CLOSES_LOOPBACK: Version = Version(3, 1, 0);

/// `privileged-ports`: which ports can be published; never a fault.
pub fn privileged_ports(evidence: &Evidence<'_>) -> Finding {
    let name = "net.ipv4.ip_unprivileged_port_start";
    // Kernels before 4.11 have no such setting.
    let start = evidence.survey.sysctl_number(name).unwrap_or(1024);
    if start <= 1 {
        return Finding::ok(format!("every port can be published (`{name}` is {start})"));
    }
    let finding =
        Finding::ok(format!("ports from {start} on can be published (`{name}` is {start})"));
    if evidence.survey.sysctl(name).is_none() {
        return finding.because("this kernel does not let it be changed");
    }
    let rootlesskit = evidence.host.tools.rootlesskit.path();
    let finding = match rootlesskit {
        Some(path) => finding.because(format!(
            "`setcap cap_net_bind_service=ep {}` opens lower ports for rootlesskit alone; it is lost when \
             that file is replaced, as an upgrade does",
            crate::words::quote(path.as_os_str()).display()
        )),
        None => finding,
    };
    set_sysctl(
        finding.because("the kernel's setting opens lower ports for every user of this host"),
        &evidence.survey.release,
        name,
        "0",
    )
}

/// `ping`: whether containers can ping beyond the host; never a fault. slirp4netns and pasta send
/// ICMP by unprivileged sockets of the user (slirp4netns(1), passt(1)), vpnkit and
/// gvisor-tap-vsock do not (rootlesskit's `docs/network.md`).
pub fn ping(evidence: &Evidence<'_>) -> Finding {
    let name = "net.ipv4.ping_group_range";
    let driver = network(evidence).map(|network| network.driver);
    match driver {
        Ok(NetworkDriver::Vpnkit) => {
            return Finding::ok("network driver `vpnkit` does not carry ping");
        }
        Ok(NetworkDriver::LxcUserNic) => {
            return Finding::ok("network driver `lxc-user-nic` carries ping");
        }
        _ => {}
    }
    let Some(range) = evidence.survey.sysctl(name) else {
        return Finding::skip(format!("`{name}` cannot be read"));
    };
    let mut bounds = range.split_whitespace().map(str::parse::<u64>);
    let (Some(Ok(first)), Some(Ok(last))) = (bounds.next(), bounds.next()) else {
        return Finding::skip(format!("`{name}` is not understood: `{range}`"));
    };
    let gid = evidence.survey.account.gid;
    if (first..=last).contains(&u64::from(gid)) {
        return Finding::ok(format!("containers can ping (`{name}` is {first} to {last})"));
    }
    let finding = Finding::warn(format!(
        "containers cannot ping other hosts: `{name}` ({first} to {last}) leaves out your group {gid}"
    ))
    .because("the network driver sends their pings by sockets of yours");
    set_sysctl(finding, &evidence.survey.release, name, "0 2147483647")
}

/// `ipv6`: what was asked for can be had.
pub fn ipv6(evidence: &Evidence<'_>) -> Finding {
    let Evidence { settings, host, trials, .. } = evidence;
    let by_flag = flags(evidence).switch("ipv6");
    if !by_flag.unwrap_or(settings.ipv6.value) {
        return Finding::skip("network.ipv6 is off, so that containers reach IPv4 hosts only");
    }
    let off = |finding: Finding| match by_flag {
        Some(_) => finding.because("rootlesskit.flags hold `--ipv6`: take it out there"),
        None => set(finding, &settings.ipv6.origin, "network.ipv6", "false"),
    };
    if !host.kernel.ipv6 {
        return off(Finding::warn("network.ipv6 is on, and this host's kernel has no IPv6"));
    }
    match network(evidence).map(|network| network.driver) {
        Err(_) => return Finding::skip("no network driver is known: see `network-driver`"),
        Ok(NetworkDriver::GvisorTapVsock) => {
            // rootlesskit refuses the pair, and so does a launch.
            return off(Finding::fail(
                "network.ipv6 is on, which network driver `gvisor-tap-vsock` does not have",
            ));
        }
        Ok(driver @ (NetworkDriver::Vpnkit | NetworkDriver::LxcUserNic)) => {
            return off(Finding::warn(format!(
                "network.ipv6 is on, and has no effect with network driver `{}`",
                driver.word().display()
            )));
        }
        Ok(_) => {}
    }
    match &trials.inside {
        None => {
            let why = evidence.why_not_inside();
            Finding::skip(format!("there is no namespace to look into: {why}"))
        }
        Some(inside) if !inside.ipv6 => {
            off(Finding::warn("network.ipv6 is on, and a new network namespace has no IPv6")
                .because(
                    "the kernel was started with IPv6 turned off (`ipv6.disable=1`), or lacks it",
                ))
        }
        Some(_) => Finding::ok("network.ipv6 is on, and the namespace has IPv6"),
    }
}

/// `limits`: quotas whose end looks like a full disk or a broken kernel.
pub fn limits(evidence: &Evidence<'_>) -> Finding {
    if let Some(finding) = isolation(evidence) {
        return finding;
    }
    let Evidence { survey, trials, .. } = evidence;
    let mut scarce = Vec::new();
    let mut finding = Finding::warn("");
    if let Some((keys, max_keys, bytes, max_bytes)) = survey.keys {
        let is_scarce = |used: u64, max: u64| max > 0 && used.saturating_mul(100) >= max * SCARCE;
        if is_scarce(keys, max_keys) || is_scarce(bytes, max_bytes) {
            scarce.push(format!(
                "{keys} of {max_keys} kernel keys and {bytes} of their {max_bytes} bytes are used"
            ));
            // podman#13363
            finding = finding.because(
                "each container takes a key; without one left, a start fails with `disk quota exceeded`",
            );
            for (name, max, least) in [
                ("kernel.keys.maxkeys", max_keys, 2_000),
                ("kernel.keys.maxbytes", max_bytes, 200_000),
            ] {
                let more = max.saturating_mul(10).max(least).to_string();
                finding = set_sysctl(finding, &survey.release, name, &more);
            }
        }
    }
    let instances = "fs.inotify.max_user_instances";
    if let Some(max) = survey.sysctl_number(instances).filter(|max| *max < INOTIFY_INSTANCES) {
        scarce.push(format!("`{instances}` is {max}"));
        finding = finding.because(format!(
            "all containers share it; the kernel's default is {INOTIFY_INSTANCES}"
        ));
        finding = set_sysctl(finding, &survey.release, instances, "1024");
    }
    if let Some(max) = trials.open_files.filter(|max| *max < FEW_FILES) {
        scarce.push(format!("a process may open {max} files at most"));
        finding = finding.because("the daemon and its containers inherit it");
        if survey.release.is_like("alpine") {
            finding = finding.because(
                "Alpine's logins have no PAM that raises it: a service of OpenRC gets more by \
                 `rc_ulimit=\"-n 524288\"` in its file in /etc/conf.d",
            );
        } else if let Some(name) = &survey.account.name {
            finding =
                finding.because("a higher number counts from the next login on").root(write_file(
                    "/etc/security/limits.d/90-dockerd-rootless.conf",
                    &format!("{name} hard nofile 524288"),
                ));
        }
    }
    if scarce.is_empty() {
        return match (survey.keys, trials.open_files) {
            (None, None) => Finding::skip("neither keys nor open files could be counted"),
            _ => Finding::ok("keys, inotify instances and open files suffice"),
        };
    }
    finding.summary = scarce.join("; ");
    finding
}

/// `icc: false` needs a module that a user cannot load: without it dockerd does not start
/// (moby#41913, moby#50635).
fn isolation(evidence: &Evidence<'_>) -> Option<Finding> {
    let words = evidence.settings.args();
    let json = &evidence.host.session.daemon_json;
    let asked = json.turns_off("icc") || words.turns_off("icc");
    let filtered = evidence.survey.sysctl("net.bridge.bridge-nf-call-iptables");
    if !asked || filtered.is_some() {
        return None;
    }
    let finding = Finding::fail(
        "`icc` is false, and the kernel's module `br_netfilter` is not loaded",
    )
    .because(
        "dockerd keeps containers apart by it, cannot load it without root, and does not start \
             (moby#41913)",
    );
    let release = &evidence.survey.release;
    Some(load_modules(finding, release, "icc", &["br_netfilter"]))
}

/// `selinux`: whether it is in the way of what a launch does about it.
pub fn selinux(evidence: &Evidence<'_>) -> Finding {
    let Evidence { settings, host, trials, .. } = evidence;
    if !host.kernel.selinux {
        return Finding::skip("SELinux is off");
    }
    let firewalls = trials.inside.iter().flat_map(|inside| &inside.firewalls);
    let locked_out = firewalls.filter(|firewall| firewall.chosen).find_map(|firewall| {
        let failure = firewall.outcome.failure()?;
        let text = failure.text.to_lowercase();
        (text.contains("xtables.lock") && text.contains("denied")).then_some((firewall, failure))
    });
    let finding = match locked_out {
        Some((firewall, failure)) => Finding::fail(format!(
            "SELinux keeps `{}` from its lock: {}",
            firewall.path.display(),
            failure.text
        )),
        None if settings.copies_up("/run") => {
            return Finding::ok(
                "SELinux is on, and `/run` inside of the namespace gets its own label",
            )
            .because("iptables could not take its lock there otherwise (moby#41230)");
        }
        None => Finding::warn("SELinux is on, and `/run` inside of the namespace is the host's"),
    };
    let finding = finding.because(
        "iptables may not write a lock that has the label of a user's files; a launch labels `/run` \
         where rootlesskit copies it up (moby#41230)",
    );
    if settings.copies_up("/run") {
        return finding;
    }
    finding.because("add `/run` to rootlesskit.copy-up")
}

/// `proxy`: a proxy on the host's loopback is out of reach from another network namespace.
pub fn proxy(evidence: &Evidence<'_>) -> Finding {
    let Evidence { settings, host, .. } = evidence;
    let proxies = [("proxy.http", &settings.http_proxy), ("proxy.https", &settings.https_proxy)]
        .map(|(key, url)| Some((key, url.value.as_ref()?, &url.origin)));
    let proxies: Vec<(&str, &ProxyUrl, &Origin)> = proxies.into_iter().flatten().collect();
    if proxies.is_empty() {
        return Finding::skip("no proxy is set");
    }
    let on_loopback: Vec<_> =
        proxies.iter().filter(|(_, url, _)| is_loopback(&authority(url).0)).collect();
    if on_loopback.is_empty() {
        let hosts: Vec<String> = proxies
            .iter()
            .map(|(key, url, _)| format!("{key} is at `{}`", authority(url).0))
            .collect();
        return Finding::ok(hosts.join(", "));
    }
    let Ok(network) = network(evidence) else {
        return Finding::skip("no network driver is known: see `network-driver`");
    };
    if network.detach_netns {
        return Finding::ok(
            "the proxy is on the host's loopback, and the daemon is in the host's network namespace",
        );
    }
    let flags = flags(evidence);
    let driver = &network.driver;
    let version = host.tools.rootlesskit.known().and_then(|facts| facts.version);
    let word = driver.word().display();
    // The host's loopback as the namespace sees it, with rootlesskit's default of `--cidr`.
    let gateway = match driver {
        NetworkDriver::Slirp4netns => "10.0.2.2",
        NetworkDriver::GvisorTapVsock => "10.0.2.1",
        NetworkDriver::Vpnkit => "192.168.65.2",
        // pasta hands on connections to the namespace's own loopback by itself (passt(1), -T), which
        // rootlesskit turns off with --disable-host-loopback from rootlesskit#612 on.
        NetworkDriver::Pasta if settings.host_loopback.value => {
            return Finding::ok("the proxy is on the host's loopback, which pasta leads to");
        }
        NetworkDriver::Pasta => {
            return match version {
                None => Finding::skip(
                    "the proxy is on the host's loopback; whether pasta leads to it depends on \
                     rootlesskit's version, which is not known",
                ),
                Some(version) if version < PASTA_CLOSES_LOOPBACK => {
                    Finding::ok("the proxy is on the host's loopback, which pasta leads to")
                }
                Some(_) => set(
                    Finding::fail(
                        "the proxy is on the host's loopback, which is closed to the namespace",
                    )
                    .because("every container reaches all of the host's 127.0.0.1 once it is open"),
                    &settings.host_loopback.origin,
                    "network.host-loopback",
                    "true",
                ),
            };
        }
        _ => {
            return Finding::skip(format!(
                "the proxy is on the host's loopback; it is not known how network driver `{word}` leads there"
            ));
        }
    };
    let keys: Vec<&str> = on_loopback.iter().map(|(key, ..)| *key).collect();
    let mut finding = Finding::fail(format!(
        "{} is on the loopback, which is another one in the daemon's network namespace",
        keys.join(" and ")
    ))
    .because("the daemon would look for the proxy inside of its namespace and pull nothing");
    if flags.value("cidr").is_some() {
        return finding.because(
            "rootlesskit.flags hold `--cidr`: the host's loopback is the gateway of that network, with \
             network.host-loopback true",
        );
    }
    finding = finding.because(format!(
        "with network driver `{word}`, the host's loopback is {gateway} there if network.host-loopback is \
         true; every container reaches all of the host's 127.0.0.1 then"
    ));
    if !settings.host_loopback.value {
        finding = set(finding, &settings.host_loopback.origin, "network.host-loopback", "true");
    }
    for (key, url, origin) in on_loopback {
        let (_, plain) = authority(url);
        finding = match plain.as_ref().map(|(before, after)| format!("{before}{gateway}{after}")) {
            Some(url) => set(finding, origin, key, &url),
            // A password does not belong into a report.
            None => finding.because(format!(
                "{key} must name {gateway} in place of its host; it holds a password, so that it is not shown"
            )),
        };
    }
    finding
}

/// The host in a proxy's address and, if there is no user in it, what stands before and after.
fn authority(url: &ProxyUrl) -> (String, Option<(String, String)>) {
    let url = url.0.to_string_lossy();
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find('/').map_or(url.len(), |at| start + at);
    let (user, at) = match url[start..end].rfind('@') {
        Some(at) => (true, start + at + 1),
        None => (false, start),
    };
    let server = &url[at..end];
    let host = match server.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => &server[..host.len() + 2],
        None => server.split(':').next().unwrap_or(server),
    };
    let around = (url[..at].to_owned(), url[at + host.len()..].to_owned());
    (host.to_owned(), (!user).then_some(around))
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host == "[::1]"
        || host.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::check::Status;
    use crate::check::tests::Sample;
    use crate::facts::{Answer, DaemonJson, Firewall, Outcome, Tool};
    use crate::settings::{Layer, Settings};

    fn with(variables: &[(&str, &str)]) -> Sample {
        let environment = variables.iter().copied().collect();
        Sample {
            settings: Settings::resolve(&[Layer::from_environment(&environment)])
                .expect("settings"),
            ..Sample::healthy()
        }
    }

    fn spoil_sysctl(sample: &mut Sample, name: &str, value: &str) {
        sample.survey.sysctls.insert(name.to_owned(), value.to_owned());
    }

    #[test]
    fn a_healthy_host_is_fine() {
        let sample = Sample::healthy();
        let evidence = sample.evidence();
        for (finding, status) in [
            (privileged_ports(&evidence), Status::Ok),
            (ping(&evidence), Status::Ok),
            (ipv6(&evidence), Status::Skip),
            (limits(&evidence), Status::Ok),
            (selinux(&evidence), Status::Skip),
            (proxy(&evidence), Status::Skip),
        ] {
            assert_eq!(finding.status, status, "{}", finding.summary);
        }
    }

    #[test]
    fn low_ports_are_an_option() {
        let name = "net.ipv4.ip_unprivileged_port_start";
        let mut sample = Sample::healthy();
        let finding = privileged_ports(&sample.evidence());
        assert!(finding.summary.starts_with("ports from 1024 on"));
        assert_eq!(
            finding.fix.root,
            [
                format!("tee /etc/sysctl.d/99-zz-{name}.conf >/dev/null <<'EOT'\n{name} = 0\nEOT"),
                format!("sysctl -p /etc/sysctl.d/99-zz-{name}.conf")
            ]
        );
        assert!(
            finding.reasons.iter().any(
                |reason| reason.contains("setcap cap_net_bind_service=ep /usr/bin/rootlesskit")
            )
        );
        spoil_sysctl(&mut sample, name, "0");
        let finding = privileged_ports(&sample.evidence());
        assert!(finding.summary.starts_with("every port"));
        assert_eq!(finding.fix, Default::default());
    }

    #[test]
    fn ping_needs_the_users_group_in_the_range() {
        let name = "net.ipv4.ping_group_range";
        let cases = [
            ("0\t2147483647", "containers can ping", false),
            ("1000 1000", "containers can ping", false),
            ("1\t0", "containers cannot ping", true),
            ("0 999", "containers cannot ping", true),
        ];
        for (range, summary, has_fix) in cases {
            let mut sample = Sample::healthy();
            spoil_sysctl(&mut sample, name, range);
            let finding = ping(&sample.evidence());
            let status = if has_fix { Status::Warn } else { Status::Ok };
            assert_eq!(finding.status, status, "{range}");
            assert!(finding.summary.starts_with(summary), "{range}: {}", finding.summary);
            assert_eq!(!finding.fix.root.is_empty(), has_fix, "{range}");
        }
        let mut sample = Sample::healthy();
        sample.survey.sysctls.remove(name);
        assert_eq!(ping(&sample.evidence()).status, Status::Skip);
    }

    #[test]
    fn ipv6_is_had_or_turned_off() {
        type Spoil = fn(&mut Sample);
        let cases: [(Spoil, Status); 4] = [
            (|_| {}, Status::Ok),
            (|sample| sample.host.kernel.ipv6 = false, Status::Warn),
            (|sample| sample.trials.inside.as_mut().expect("made").ipv6 = false, Status::Warn),
            (|sample| sample.trials.inside = None, Status::Skip),
        ];
        for (at, (spoil, status)) in cases.into_iter().enumerate() {
            let mut sample = with(&[("DOCKERD_ROOTLESS_IPV6", "true")]);
            sample.host.kernel.ipv6 = true;
            spoil(&mut sample);
            let finding = ipv6(&sample.evidence());
            assert_eq!(finding.status, status, "case {at}");
            let off = finding.fix.user.get(1).map(String::as_str);
            let expected = "dockerd-rootless config set network.ipv6 false";
            assert_eq!(off, (status == Status::Warn).then_some(expected), "case {at}");
        }
        for (driver, status) in [("vpnkit", Status::Warn), ("gvisor-tap-vsock", Status::Fail)] {
            let mut sample = with(&[
                ("DOCKERD_ROOTLESS_IPV6", "true"),
                ("DOCKERD_ROOTLESS_ROOTLESSKIT_NET", driver),
            ]);
            sample.host.kernel.ipv6 = true;
            assert_eq!(ipv6(&sample.evidence()).status, status, "{driver}");
        }
    }

    #[test]
    fn what_runs_out_is_named() {
        type Case<'a> = (fn(&mut Sample), &'a str, &'a str);
        let cases: [Case<'_>; 4] = [
            (
                |sample| sample.survey.keys = Some((160, 200, 0, 20_000)),
                "160 of 200 kernel keys",
                "kernel.keys.maxkeys = 2000",
            ),
            (
                |sample| sample.survey.keys = Some((1, 200, 16_000, 20_000)),
                "16000 of their 20000 bytes",
                "kernel.keys.maxbytes = 200000",
            ),
            (
                |sample| spoil_sysctl(sample, "fs.inotify.max_user_instances", "127"),
                "`fs.inotify.max_user_instances` is 127",
                "fs.inotify.max_user_instances = 1024",
            ),
            (|sample| sample.trials.open_files = Some(4096), "4096 files", "u hard nofile 524288"),
        ];
        for (spoil, summary, command) in cases {
            let mut sample = Sample::healthy();
            spoil(&mut sample);
            let finding = limits(&sample.evidence());
            assert_eq!(finding.status, Status::Warn, "{summary}");
            assert!(finding.summary.contains(summary), "{}", finding.summary);
            assert!(finding.fix.root.concat().contains(command), "{:?}", finding.fix.root);
        }
        let mut sample = Sample::healthy();
        sample.survey.keys = Some((159, 200, 15_999, 20_000));
        assert_eq!(limits(&sample.evidence()).status, Status::Ok);
        sample.survey.keys = None;
        sample.trials.open_files = None;
        assert_eq!(limits(&sample.evidence()).status, Status::Skip);
    }

    #[test]
    fn containers_are_kept_apart_by_a_module() {
        let mut sample = Sample::healthy();
        sample.host.session.daemon_json = DaemonJson::parse(r#"{"icc": false}"#);
        let finding = limits(&sample.evidence());
        assert_eq!(finding.status, Status::Fail);
        assert_eq!(finding.fix.root[1], "modprobe -a br_netfilter");
        spoil_sysctl(&mut sample, "net.bridge.bridge-nf-call-iptables", "1");
        assert_eq!(limits(&sample.evidence()).status, Status::Ok);
        let mut sample = Sample::healthy();
        sample.settings.dockerd_args = vec![OsString::from("--icc=false")];
        assert_eq!(limits(&sample.evidence()).status, Status::Fail);
    }

    #[test]
    fn selinux_fails_only_where_a_trial_does() {
        let mut sample = Sample::healthy();
        sample.host.kernel.selinux = true;
        assert_eq!(selinux(&sample.evidence()).status, Status::Ok);
        let firewalls = &mut sample.trials.inside.as_mut().expect("made").firewalls;
        firewalls.push(Firewall {
            name: "iptables".to_owned(),
            path: "/usr/sbin/iptables".into(),
            chosen: true,
            outcome: Outcome::fails("can't open lock file /run/xtables.lock: Permission denied"),
        });
        assert_eq!(selinux(&sample.evidence()).status, Status::Fail);
        let layers =
            [Layer::from_assignments(&["rootlesskit.copy-up=/etc".into()]).expect("layer")];
        let mut sample =
            Sample { settings: Settings::resolve(&layers).expect("settings"), ..Sample::healthy() };
        sample.host.kernel.selinux = true;
        assert_eq!(selinux(&sample.evidence()).status, Status::Warn);
    }

    #[test]
    fn a_proxy_on_the_loopback_is_out_of_reach() {
        for (url, status) in [
            ("http://proxy:3128", Status::Ok),
            ("http://127.0.0.1:3128", Status::Fail),
            ("http://LOCALHOST", Status::Fail),
            ("http://[::1]:3128/", Status::Fail),
            ("127.1.2.3:80", Status::Fail),
            ("http://u:p@127.0.0.1:80", Status::Fail),
            ("http://localhost.example:80", Status::Ok),
        ] {
            let finding = proxy(&with(&[("HTTP_PROXY", url)]).evidence());
            assert_eq!(finding.status, status, "{url}");
        }
        let finding = proxy(&with(&[("HTTPS_PROXY", "http://127.0.0.1:3128/x")]).evidence());
        assert_eq!(
            finding.fix.user,
            [
                "dockerd-rootless config set network.host-loopback true",
                "unset HTTPS_PROXY",
                "dockerd-rootless config set proxy.https http://10.0.2.2:3128/x"
            ]
        );
    }

    #[test]
    fn a_proxys_password_is_never_shown() {
        for url in ["http://u:secret@127.0.0.1:80", "http://u:secret@proxy:80"] {
            let finding = proxy(&with(&[("http_proxy", url)]).evidence());
            let all = format!("{finding:?}");
            assert!(!all.contains("secret"), "{all}");
        }
    }

    #[test]
    fn the_network_driver_decides_how_a_proxy_is_reached() {
        let cases = [
            (Version(3, 0, 2), false, Status::Ok),
            (Version(3, 1, 0), false, Status::Fail),
            (Version(3, 1, 0), true, Status::Ok),
        ];
        for (version, open, status) in cases {
            let closed = if open { "false" } else { "true" };
            let mut sample = with(&[
                ("HTTP_PROXY", "http://127.0.0.1:1"),
                ("DOCKERD_ROOTLESS_ROOTLESSKIT_NET", "pasta"),
                ("DOCKERD_ROOTLESS_ROOTLESSKIT_DISABLE_HOST_LOOPBACK", closed),
            ]);
            let Tool::Found { answer: Answer::Known(facts), .. } =
                &mut sample.host.tools.rootlesskit
            else {
                panic!("the sample has a rootlesskit");
            };
            facts.version = Some(version);
            let finding = proxy(&sample.evidence());
            assert_eq!(finding.status, status, "{version}, open {open}");
        }
        for (driver, gateway) in [("vpnkit", "192.168.65.2"), ("gvisor-tap-vsock", "10.0.2.1")] {
            let sample = with(&[
                ("HTTP_PROXY", "http://127.0.0.1:1"),
                ("DOCKERD_ROOTLESS_ROOTLESSKIT_NET", driver),
            ]);
            let command = format!("dockerd-rootless config set proxy.http http://{gateway}:1");
            assert_eq!(proxy(&sample.evidence()).fix.user.last(), Some(&command));
        }
        let flags = with(&[
            ("HTTP_PROXY", "http://127.0.0.1:1"),
            ("DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS", "--cidr=10.9.0.0/24"),
        ]);
        assert_eq!(proxy(&flags.evidence()).fix, Default::default());
        let detached = with(&[
            ("HTTP_PROXY", "http://127.0.0.1:1"),
            ("DOCKERD_ROOTLESS_ROOTLESSKIT_DETACH_NETNS", "true"),
        ]);
        assert_eq!(proxy(&detached.evidence()).status, Status::Ok);
    }
}
