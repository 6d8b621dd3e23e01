use proptest::prelude::*;

use crate::facts::samples::debian_12;
use crate::facts::*;
use crate::plan::*;
use crate::settings::Layer;

/// The same with what Docker's own repository has: rootlesskit 3.0.1, dockerd 29.5.2.
fn docker_29_5() -> HostFacts {
    let mut host = debian_12();
    if let Tool::Found { facts, .. } = &mut host.tools.rootlesskit {
        facts.version = Some(Version(3, 0, 1));
        facts.flags.insert("detach-netns".to_owned(), false);
        facts.flags.insert("source-ip-transparent".to_owned(), false);
        facts.network_drivers.extend(["none", "pasta", "gvisor-tap-vsock"].map(str::to_owned));
        facts.port_drivers.extend(["implicit", "gvisor-tap-vsock"].map(str::to_owned));
    }
    if let Tool::Found { facts, .. } = &mut host.tools.dockerd {
        facts.version = Some(Version(29, 5, 2));
        facts.flags.insert(0, "default-network-opt".to_owned());
    }
    host
}

/// Returns `host` after a `change`.
fn with(mut host: HostFacts, change: impl FnOnce(&mut HostFacts)) -> HostFacts {
    change(&mut host);
    host
}

fn with_pasta(host: HostFacts) -> HostFacts {
    with(host, |host| host.tools.pasta = Some("/usr/bin/pasta".into()))
}

fn words(line: &str) -> Vec<OsString> {
    line.split(' ').filter(|word| !word.is_empty()).map(OsString::from).collect()
}

/// Plans with the `assignments` of settings and the daemon's `line`.
fn plan(host: &HostFacts, assignments: &[&str], line: &str) -> Result<LaunchPlan, Error> {
    build(host, assignments, line, false)
}

fn build(
    host: &HostFacts,
    assignments: &[&str],
    line: &str,
    supervised: bool,
) -> Result<LaunchPlan, Error> {
    let assignments: Vec<OsString> = assignments.iter().map(OsString::from).collect();
    let settings = Settings::resolve(&[Layer::from_assignments(&assignments)?])?;
    let environment = Environment::from_iter([("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")]);
    LaunchPlan::build(&settings.with_args(&words(line)), host, &environment, supervised)
}

fn refusal(host: &HostFacts, assignments: &[&str]) -> (Exit, String) {
    match build(host, assignments, "", true) {
        Ok(plan) => panic!("{assignments:?} is planned: {plan:?}"),
        Err(error) => (error.exit(), error.to_string()),
    }
}

/// rootlesskit's words before the command that it runs.
fn rootlesskit_line(plan: &LaunchPlan) -> String {
    let line = plan.args.join(OsStr::new(" ")).into_string().expect("UTF-8");
    line.split(" /usr/bin/dockerd-rootless ").next().expect("our own path").to_owned()
}

fn daemon_line(plan: &LaunchPlan) -> String {
    plan.stage.daemon.join(OsStr::new(" ")).into_string().expect("UTF-8")
}

fn reason(plan: &LaunchPlan, key: &str) -> String {
    let reason = plan.reasons.iter().find(|reason| reason.key == key).expect(key);
    format!("{}: {}", reason.value, reason.why)
}

#[test]
fn the_plan_of_debian_12_is_upstreams_and_a_little_more() {
    let plan = plan(&debian_12(), &[], "-D --label x").unwrap();
    assert_eq!(
        rootlesskit_line(&plan),
        "--state-dir=/run/user/1000/dockerd-rootless --net=slirp4netns --mtu=65520 --slirp4netns-sandbox=auto \
         --slirp4netns-seccomp=auto --disable-host-loopback --port-driver=builtin --copy-up=/etc --copy-up=/run \
         --propagation=rslave"
    );
    assert_eq!(daemon_line(&plan), "/usr/sbin/dockerd --mtu=65520 -D --label x");
    let stage: Vec<OsString> = plan.stage.words();
    assert!(plan.args.ends_with(&stage), "the stage's words close rootlesskit's");
    assert_eq!(
        plan.stage.steps.iter().map(|step| step.word().into_string().unwrap()).collect::<Vec<_>>(),
        [
            "drop-link=/run/docker",
            "drop-link=/run/containerd",
            "drop-link=/run/xtables.lock",
            "drop-link=/run/nri",
            "link-socket=/run/user/1000/docker.sock",
            "rebind-broken=/etc",
            "bind-original=/etc/cdi",
            "bind-original=/run/cdi",
            "forward=ipv4,ipv6",
            "local-ports=33046-65535",
            "prefer-iptables=/usr/sbin/iptables-legacy",
            "prefer-ip6tables=/usr/sbin/ip6tables-legacy",
        ]
    );
    assert_eq!(plan.environment, EnvironmentChanges::default());
    assert_eq!(plan.warnings, []);
}

#[test]
fn detach_netns_is_on_when_both_sides_know_it() {
    let plan29 = plan(&docker_29_5(), &[], "").unwrap();
    assert!(rootlesskit_line(&plan29).ends_with("--propagation=rslave --detach-netns"));
    let netns = Path::new("/run/user/1000/dockerd-rootless/netns");
    assert_eq!(plan29.stage.netns.as_deref(), Some(netns));

    let mut older = docker_29_5();
    if let Tool::Found { facts, .. } = &mut older.tools.dockerd {
        facts.version = Some(Version(29, 4, 3));
    }
    // A supervisor would start it again and again; upstream's script starts it once.
    let (exit, message) = refusal(&older, &["network.detach-netns=true"]);
    assert_eq!(exit, Exit::Config);
    assert!(message.contains("dockerd 29.4.3"), "{message}");
    assert!(plan(&older, &["network.detach-netns=true"], "").is_ok());
    let mut unknown = docker_29_5();
    unknown.tools.dockerd =
        Tool::Unknown { path: "/x/dockerd".into(), why: "it is a script".into() };
    for (host, why) in [
        (debian_12(), "false: this rootlesskit has no --detach-netns"),
        (older, "false: dockerd 29.4.3 is older than 29.5.0"),
        (unknown, "false: the version of dockerd is not known: it is a script"),
    ] {
        let plan = plan(&host, &[], "").unwrap();
        assert_eq!(reason(&plan, "network.detach-netns"), why);
        assert!(!rootlesskit_line(&plan).contains("detach"), "{why}");
        assert_eq!(plan.stage.netns, None, "{why}");
    }
    let forced = plan(&docker_29_5(), &["network.detach-netns=false"], "").unwrap();
    assert_eq!(reason(&forced, "network.detach-netns"), "false: command line");
    let by_flag = plan(&docker_29_5(), &["rootlesskit.flags=--detach-netns=false"], "").unwrap();
    assert_eq!(by_flag.stage.netns, None, "the user's own flag comes last and counts");
}

#[test]
fn the_network_driver_is_the_first_that_is_there_and_known() {
    let slirp4netns = |host, slirp4netns| with(host, |host| host.tools.slirp4netns = slirp4netns);
    let path = || "/s/slirp4netns".into();
    let facts = Slirp4netnsFacts { version: None, netns_type: false };
    let old = slirp4netns(with_pasta(docker_29_5()), Tool::Found { path: path(), facts });
    let why = "it did not answer".into();
    let mute = slirp4netns(with_pasta(docker_29_5()), Tool::Unknown { path: path(), why });
    let nothing = slirp4netns(docker_29_5(), Tool::Absent);
    let none = slirp4netns(with_pasta(debian_12()), Tool::Absent);
    let vpnkit = with(none.clone(), |host| host.tools.vpnkit = Some("/usr/bin/vpnkit".into()));
    let cases = [
        (with_pasta(docker_29_5()), "slirp4netns", "65520", "builtin"),
        (old, "pasta", "65520", "implicit"),
        (mute, "pasta", "65520", "implicit"),
        (nothing, "gvisor-tap-vsock", "65520", "builtin"),
        (vpnkit, "vpnkit", "1500", "builtin"),
    ];
    for (host, driver, mtu, port_driver) in cases {
        let line = rootlesskit_line(&plan(&host, &[], "").unwrap());
        let port_driver = format!("--port-driver={port_driver} ");
        assert!(line.contains(&format!("--net={driver} --mtu={mtu} ")), "{driver}: {line}");
        assert!(line.contains(&port_driver), "{port_driver}: {line}");
    }
    let (exit, message) = refusal(&none, &[]);
    assert_eq!(exit, Exit::Prerequisite);
    assert_eq!(
        message,
        "no network driver can be used: no slirp4netns in PATH; this rootlesskit does not know pasta; no vpnkit \
         in PATH"
    );
}

#[test]
fn a_driver_that_the_user_states_is_passed_on() {
    let lxc = with(debian_12(), |host| {
        host.tools.lxc_user_nic = Some("/usr/libexec/lxc/lxc-user-nic".into());
    });
    let mute = with(debian_12(), |host| {
        let why = "it did not answer".into();
        host.tools.rootlesskit = Tool::Unknown { path: "/x/rootlesskit".into(), why };
    });
    for (host, driver) in [(lxc, "lxc-user-nic"), (mute, "new-driver")] {
        let plan = plan(&host, &[&format!("network.driver={driver}")], "").unwrap();
        let expected = format!("--net={driver} --mtu=1500");
        assert!(rootlesskit_line(&plan).contains(&expected), "{expected}: {:?}", plan.args);
        assert_eq!(daemon_line(&plan), "/usr/sbin/dockerd", "dockerd's own MTU is right");
    }
}

#[rustfmt::skip]
#[test]
fn what_rootlesskit_would_refuse_is_refused_first() {
    let host = with_pasta(docker_29_5());
    let cases: &[(&[&str], &str)] = &[
        (&["network.driver=host"], "network driver `host` gives dockerd no network namespace"),
        (&["rootlesskit.flags=--net=host"], "network driver `host` gives dockerd no network namespace"),
        (&["rootlesskit.flags=--debug evil"], "rootlesskit.flags (command line): `evil` is no flag"),
        (
            &["network.driver=bogus"],
            "rootlesskit 3.0.1 does not know network driver `bogus`, only slirp4netns, vpnkit, lxc-user-nic, none,",
        ),
        (&["network.port-driver=pesto"], "rootlesskit 3.0.1 does not know port driver `pesto`, only none,"),
        (&["network.port-driver=implicit"], "port driver `implicit` needs network driver `pasta`, not `slirp4netns`"),
        (&["network.driver=pasta", "network.port-driver=builtin"], "port driver `builtin` does not go with network driver `pasta`"),
        (
            &["network.driver=lxc-user-nic", "network.port-driver=slirp4netns"],
            "port driver `slirp4netns` needs network driver `slirp4netns`, not `lxc-user-nic`",
        ),
        (&["network.driver=none", "network.port-driver=implicit"], "port driver `implicit` needs network driver `pasta`, not `none`"),
        (
            &["network.driver=none", "network.port-driver=gvisor-tap-vsock"],
            "port driver `gvisor-tap-vsock` needs network driver `gvisor-tap-vsock`, not `none`",
        ),
        (&["network.port-driver=gvisor-tap-vsock"], "port driver `gvisor-tap-vsock` needs network driver `gvisor-tap-vsock`, not"),
        (&["network.slirp4netns-sandbox=true"], "network.slirp4netns-sandbox `true` does not go with"),
        (&["network.driver=gvisor-tap-vsock", "network.ipv6=true"], "network driver `gvisor-tap-vsock` has no IPv6"),
    ];
    for (assignments, message) in cases {
        let (exit, refused) = refusal(&host, assignments);
        assert_eq!(exit, Exit::Config, "{assignments:?}");
        assert!(refused.starts_with(message), "{assignments:?}: {refused}");
    }
    let (_, message) = refusal(&debian_12(), &["network.detach-netns=true"]);
    assert!(message.starts_with("rootlesskit 1.1.0 does not know `--detach-netns`"), "{message}");
    for missing in ["network.driver=vpnkit", "network.driver=lxc-user-nic"] {
        assert_eq!(refusal(&debian_12(), &[missing]).0, Exit::Prerequisite, "{missing}");
    }
}

#[rustfmt::skip]
#[test]
fn a_refused_value_is_taken_back_where_it_stands() {
    let variables =
        Environment::from_iter([("DOCKERD_ROOTLESS_ROOTLESSKIT_PORT_DRIVER", "implicit")]);
    let text = "[network]\nport-driver = 'implicit'\n";
    let assignments = |words: &[&str]| {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        Layer::from_assignments(&words).expect("assignments")
    };
    let slirp = "network.driver=slirp4netns";
    let cases = [
        (Layer::from_environment(&variables), "unset DOCKERD_ROOTLESS_ROOTLESSKIT_PORT_DRIVER"),
        (Layer::from_toml(Path::new("/home/u/config.toml"), text).expect("a file"), "dockerd-rootless config set network.port-driver auto"),
        (assignments(&["network.port-driver=implicit"]), "say `--set network.port-driver=auto`"),
        (assignments(&["rootlesskit.flags=--port-driver=implicit"]), "take `--port-driver` out of rootlesskit.flags"),
    ];
    for (layer, hint) in cases {
        let settings = Settings::resolve(&[layer, assignments(&[slirp])]).expect("settings");
        let refused = LaunchPlan::build(&settings, &docker_29_5(), &Environment::default(), false);
        let said = refused.expect_err("refused").render();
        assert!(said.contains(&format!("hint: {hint}\n")), "{said}");
    }
}

#[rustfmt::skip]
#[test]
fn containers_get_the_mtu_of_the_namespace_unless_the_user_says_otherwise() {
    let json = |host, text| with(host, |host| host.session.daemon_json = DaemonJson::parse(text));
    let configured = json(debian_12(), r#"{"mtu": 1400}"#);
    let broken = json(debian_12(), "{");
    let opts = json(docker_29_5(), r#"{"default-network-opts": {}}"#);
    let cases: &[(&HostFacts, &[&str], &str, &str)] = &[
        (&debian_12(), &[], "", " --mtu=65520"),
        (&docker_29_5(), &[], "", " --mtu=65520 --default-network-opt=bridge=com.docker.network.driver.mtu=65520"),
        (&debian_12(), &["network.container-mtu=1500"], "", ""),
        (&debian_12(), &["network.container-mtu=0"], "", ""),
        (&debian_12(), &["network.container-mtu=9000"], "", " --mtu=9000"),
        (&debian_12(), &["network.mtu=1500"], "", ""),
        (&debian_12(), &["network.mtu=0"], "", " --mtu=65520"),
        (&debian_12(), &["rootlesskit.flags=--mtu=4000"], "", " --mtu=4000"),
        (&debian_12(), &[], "--mtu 1300", " --mtu 1300"),
        (&debian_12(), &["daemon.args=--mtu=1300"], "-D", " --mtu=1300 -D"),
        (&configured, &[], "", ""),
        (&broken, &[], "", ""),
        (&opts, &[], "", " --mtu=65520"),
    ];
    for (host, assignments, line, expected) in cases {
        let plan = plan(host, assignments, line).unwrap();
        assert_eq!(
            daemon_line(&plan),
            format!("/usr/sbin/dockerd{expected}"),
            "{assignments:?} {line:?}"
        );
    }
}

/// Returns `host` where it uses the networks in `line` itself.
fn using(host: HostFacts, line: &str) -> HostFacts {
    let used = line.split(' ').filter_map(|word| word.parse().ok()).collect();
    with(host, |host| host.addresses = Some(used))
}

#[rustfmt::skip]
#[test]
fn the_network_is_one_that_the_host_does_not_use() {
    let pasta = |host| with_pasta(with(host, |host| host.tools.slirp4netns = Tool::Absent));
    let vpnkit = |host: HostFacts| with(host, |host| host.tools.vpnkit = Some("/usr/bin/vpnkit".into()));
    let unknown = with(debian_12(), |host| host.addresses = None);
    let all = "10.0.0.0/8 172.16.0.0/12 198.18.0.0/15";
    let cases: &[(HostFacts, &[&str], &str, &str)] = &[
        (debian_12(), &[], "", "10.0.2.0/24: the driver's own, and the host does not use it"),
        (using(debian_12(), "10.0.2.0/24"), &[], "--cidr=10.190.2.0/24", "10.190.2.0/24: the host uses 10.0.2.0/24 itself"),
        (using(debian_12(), "10.0.2.53/32"), &[], "--cidr=10.190.2.0/24", "10.190.2.0/24: the host uses 10.0.2.53/32 itself"),
        (using(debian_12(), "10.0.0.0/8"), &[], "--cidr=172.16.2.0/24", "172.16.2.0/24: the host uses 10.0.0.0/8 itself"),
        (using(pasta(docker_29_5()), "10.0.2.0/24"), &[], "--cidr=10.190.2.0/24", "10.190.2.0/24: the host uses 10.0.2.0/24 itself"),
        (using(debian_12(), all), &[], "", "10.0.2.0/24: the host uses every alternative network, too"),
        (unknown, &[], "", "10.0.2.0/24: the host's routes cannot be read"),
        (using(debian_12(), "10.0.2.0/24"), &["network.cidr=10.0.2.0/24"], "--cidr=10.0.2.0/24", "10.0.2.0/24: command line"),
        (using(debian_12(), "10.0.2.0/24"), &["rootlesskit.flags=--cidr=10.9.0.0/16"], "--cidr=10.9.0.0/16", "10.9.0.0/16: flag --cidr in rootlesskit.flags"),
        (using(vpnkit(debian_12()), "192.168.0.0/16"), &["network.driver=vpnkit"], "", "192.168.65.0/24: the only one of vpnkit"),
    ];
    for (host, assignments, flag, why) in cases {
        let plan = plan(host, assignments, "").unwrap();
        let line = rootlesskit_line(&plan);
        let told: Vec<&str> = line.split(' ').filter(|word| word.starts_with("--cidr")).collect();
        assert_eq!((told.join(" ").as_str(), reason(&plan, "network.cidr").as_str()), (*flag, *why), "{assignments:?}");
    }
    let moved = plan(&using(debian_12(), "10.0.2.0/24"), &[], "").unwrap();
    let warned = |plan: &LaunchPlan| plan.warnings.iter().any(|Warning(text)| text.contains("what was 10.0.2.2 is 10.190.2.2"));
    assert!(warned(&moved), "{:?}", moved.warnings);
    assert!(!warned(&plan(&using(debian_12(), "10.0.2.0/24"), &["network.cidr=10.190.2.0/24"], "").unwrap()));
    let (exit, message) = refusal(&vpnkit(debian_12()), &["network.driver=vpnkit", "network.cidr=10.0.3.0/24"]);
    assert_eq!((exit, message.as_str()), (Exit::Config, "network driver `vpnkit` does not take network.cidr"));
}

#[rustfmt::skip]
#[test]
fn dockerd_gets_bip_and_host_gateway_ip_only_where_needed() {
    let json = |host, text| with(host, |host| host.session.daemon_json = DaemonJson::parse(text));
    let vpn = |line: &str| using(debian_12(), line);
    let bare = with(debian_12(), |host| if let Tool::Found { facts, .. } = &mut host.tools.dockerd { facts.flags.clear() });
    let open = "network.host-loopback=true";
    let gvisor = with(docker_29_5(), |host| host.tools.slirp4netns = Tool::Absent);
    let cases: &[(HostFacts, &[&str], &str, &str)] = &[
        (vpn("172.16.0.0/12"), &[], "", "--bip=10.191.0.1/16"),
        (vpn("172.17.4.0/24"), &[], "", "--bip=10.191.0.1/16"),
        (vpn("172.17.4.0/24"), &["network.cidr=10.191.8.0/24"], "", "--bip=198.19.0.1/16"),
        (vpn("172.18.0.0/16"), &[], "", ""),
        (vpn("172.16.0.0/12 10.0.0.0/8 198.18.0.0/15"), &[], "", ""),
        (vpn("172.17.0.0/16"), &[], "--bip 172.17.0.1/24", "--bip 172.17.0.1/24"),
        (vpn("172.17.0.0/16"), &[], "-b none", "-b none"),
        (json(vpn("172.17.0.0/16"), r#"{"default-address-pools": []}"#), &[], "", ""),
        (json(vpn("172.17.0.0/16"), r#"{"bip": "10.1.0.1/24"}"#), &[], "", ""),
        (debian_12(), &[open], "", "--host-gateway-ip=10.0.2.2"),
        (debian_12(), &[open, "network.cidr=10.7.0.0/16"], "", "--host-gateway-ip=10.7.0.2"),
        (debian_12(), &[open, "rootlesskit.flags=--disable-host-loopback"], "", ""),
        (debian_12(), &["rootlesskit.flags=--disable-host-loopback=false"], "", "--host-gateway-ip=10.0.2.2"),
        (debian_12(), &[open], "--host-gateway-ip=1.2.3.4", "--host-gateway-ip=1.2.3.4"),
        (json(debian_12(), r#"{"host-gateway-ips": ["1.2.3.4"]}"#), &[open], "", ""),
        (bare, &[open], "", ""),
        (gvisor, &[open, "network.cidr=10.7.0.0/16"], "", "--host-gateway-ip=10.0.2.1"),
    ];
    for (host, assignments, line, expected) in cases {
        let told = daemon_line(&plan(host, &[assignments, &["network.container-mtu=1500"][..]].concat(), line).unwrap());
        assert_eq!(told.split_once(' ').map_or("", |(_, told)| told), *expected, "{assignments:?} {line:?}");
    }
    let unread = "rootlesskit.flags=--cidr=10.7.0.0/26";
    let unread = plan(&debian_12(), &[open, unread], "").unwrap();
    assert!(!daemon_line(&unread).contains("host-gateway-ip"), "no guess at addresses");
    let detached = plan(&docker_29_5(), &[], "").unwrap();
    assert!(reason(&detached, "docker run --net=host").contains("the host's 127.0.0.1"));
}

#[rustfmt::skip]
#[test]
fn the_address_of_a_client_is_kept_where_it_can_be_or_a_start_is_refused() {
    let json = |host, text| with(host, |host| host.session.daemon_json = DaemonJson::parse(text));
    let old = with(docker_29_5(), |host| {
        if let Tool::Found { facts, .. } = &mut host.tools.dockerd {
            facts.version = Some(Version(27, 5, 1));
        }
    });
    let unloaded = with(docker_29_5(), |host| host.kernel.bridge_netfilter = false);
    let bare = with(docker_29_5(), |host| host.tools.ip = None);
    let nft = with(docker_29_5(), |host| host.tools.iptables = None);
    let silent = |host| with(host, |host| {
        if let Tool::Found { facts, .. } = &mut host.tools.dockerd {
            facts.version = None;
        }
    });
    let unknown = silent(docker_29_5());
    let told = json(docker_29_5(), r#"{"userland-proxy": true}"#);
    let direct = json(docker_29_5(), r#"{"userland-proxy": false}"#);
    let (new, pasta) = (docker_29_5(), with_pasta(docker_29_5()));
    let preserve = "network.source-ip=preserve";
    let builtin = [preserve, "network.port-driver=builtin"];
    let own = "kept: containers see the client's own address: port driver";
    let bridge = "lost: containers see the bridge's address, not the client's:";
    let tcp = "kept: containers see the client's own address over TCP, the bridge's over UDP: rootlesskit connects from it";
    // A host, settings, dockerd's words; the port driver, what dockerd gets, and the reason's beginning.
    type Case<'c> = (&'c HostFacts, &'c [&'c str], &'c str, &'c str, &'c str, String);
    let cases: &[Case<'_>] = &[
        (&debian_12(), &[], "", "builtin", "", format!("{bridge} this rootlesskit has no --source-ip-transparent")),
        (&debian_12(), &["network.port-driver=slirp4netns"], "", "slirp4netns", "", format!("{own} slirp4netns")),
        (&debian_12(), &[preserve], "", "slirp4netns", "", format!("{own} slirp4netns")),
        (&new, &[], "", "builtin", "", format!("{bridge} docker-proxy forwards the connection")),
        (&new, &[], "--userland-proxy=false", "builtin", "", tcp.to_owned()),
        (&direct, &[], "", "builtin", "", tcp.to_owned()),
        (&direct, &[preserve], "", "builtin", "", tcp.to_owned()),
        (&new, &[preserve], "", "builtin", "--userland-proxy=false", tcp.to_owned()),
        (&new, &["network.source-ip=off"], "", "builtin --source-ip-transparent=false", "", format!("{bridge} command line")),
        (&pasta, &["network.driver=pasta", preserve], "", "implicit", "", format!("{own} implicit")),
        (&old, &[preserve], "", "slirp4netns", "", format!("{own} slirp4netns")),
        (&unloaded, &[preserve], "", "slirp4netns", "", format!("{own} slirp4netns")),
        (&bare, &[preserve], "", "slirp4netns", "", format!("{own} slirp4netns")),
        (&told, &[preserve], "", "slirp4netns", "", format!("{own} slirp4netns")),
    ];
    for (host, assignments, line, driver, arg, why) in cases {
        let detached = [&["network.detach-netns=false"], *assignments].concat();
        let plan = plan(host, &detached, line).unwrap();
        let seen = reason(&plan, "network.source-ip");
        assert!(seen.starts_with(why), "{assignments:?} {line:?}: {seen}");
        let args = rootlesskit_line(&plan);
        assert!(args.contains(&format!("--port-driver={driver} --copy-up")), "{assignments:?}: {args}");
        let added = daemon_line(&plan).contains("--userland-proxy=false") && line.is_empty();
        assert_eq!(added, !arg.is_empty(), "{assignments:?}: {}", daemon_line(&plan));
        let is_tried = plan.stage.steps.contains(&Step::RequireSourceIp);
        assert_eq!(is_tried, assignments.contains(&preserve) && *driver == "builtin", "{assignments:?}");
    }
    for (host, assignments, why) in [
        (&debian_12(), &builtin[..], "this rootlesskit has no --source-ip-transparent"),
        (&old, &builtin, "dockerd 27.5.1 opens ports only by docker-proxy"),
        (&unloaded, &builtin, "dockerd does not start without docker-proxy as long as br_netfilter is not loaded"),
        (&bare, &builtin, "there is no `ip`"),
        (&nft, &builtin, "there is no iptables"),
        (&unknown, &builtin, "dockerd does not tell its version"),
        (&told, &builtin, "dockerd is told to use docker-proxy"),
        (&new, &[preserve, "network.driver=gvisor-tap-vsock", "network.port-driver=gvisor-tap-vsock"], "port driver gvisor-tap-vsock does not pass it on"),
        (&new, &[preserve, "network.port-driver=none"], "no port is published"),
        (&new, &[preserve, "network.port-driver=builtin", "rootlesskit.flags=--source-ip-transparent=false"], "rootlesskit.flags turn it off"),
    ] {
        let (exit, message) = refusal(host, &[&["network.detach-netns=false"], assignments].concat());
        assert_eq!(exit, Exit::Config, "{assignments:?}");
        assert!(message.starts_with("network.source-ip is `preserve`, but port driver `") && message.contains(why), "{message}");
    }
    for (host, count) in [(&debian_12(), 1), (&silent(debian_12()), 0), (&new, 0)] {
        let warnings = plan(host, &[], "--userland-proxy=false").unwrap().warnings;
        assert_eq!(warnings.len(), count, "{warnings:?}");
    }
}

#[rustfmt::skip]
#[test]
fn iptables_is_left_alone_wherever_another_choice_is_made() {
    let off = with(debian_12(), |host| host.session.daemon_json = DaemonJson::parse(r#"{"iptables": false}"#));
    let legacy = with(debian_12(), |host| host.tools.iptables = Some("/usr/sbin/xtables-legacy-multi".into()));
    let lacking = with(debian_12(), |host| host.tools.iptables_legacy = None);
    let cases: &[(&HostFacts, &[&str], &str, &str)] = &[
        (&debian_12(), &["daemon.iptables=path"], "", "path: command line"),
        (&debian_12(), &[], "--iptables=false", "path: dockerd runs with `--iptables=false`"),
        (&debian_12(), &[], "--firewall-backend=nftables", "path: dockerd is told which firewall backend to use"),
        (&debian_12(), &["rootlesskit.copy-up=/etc"], "", "path: /run is not copied up, so there is no place of our own for the links"),
        (&off, &[], "", "path: dockerd runs with `--iptables=false`"),
        (&legacy, &[], "", "path: PATH has another iptables than the nft backend first"),
        (&lacking, &[], "", "path: no iptables-legacy is installed"),
    ];
    for (host, assignments, line, why) in cases {
        let plan = plan(host, assignments, line).unwrap();
        assert_eq!(reason(&plan, "daemon.iptables"), *why);
        let touched =
            plan.stage.steps.iter().any(|step| matches!(step, Step::LegacyIptables { .. }));
        assert!(!touched, "{why}");
    }
    assert_eq!(refusal(&lacking, &["daemon.iptables=legacy"]).0, Exit::Prerequisite);
}

#[test]
fn passed_sockets_reach_dockerd_unless_it_has_hosts_already() {
    let mut host = debian_12();
    host.session.listen_fds = Some(ListenFds { count: 1, shelter: 200, is_own: false, path: None });
    let environment = Environment::from_iter([
        ("PATH", "/usr/sbin:/sbin"),
        ("LISTEN_FDS", "1"),
        ("LISTEN_PID", "7"),
        ("LISTEN_PIDFDID", "77"),
        ("LISTEN_FDNAMES", "docker.socket"),
    ]);
    let settings = Settings::resolve(&[]).unwrap();
    let plan_of = |host: &HostFacts, line| {
        LaunchPlan::build(&settings.clone().with_args(&words(line)), host, &environment, false)
            .unwrap()
    };

    let plan = plan_of(&host, "-D");
    assert_eq!(daemon_line(&plan), "/usr/sbin/dockerd --mtu=65520 -H fd:// -D");
    assert_eq!(plan.stage.steps.last(), Some(&Step::TakeSockets { count: 1, from: 200 }));
    assert_eq!(
        plan.environment.unset.keys().collect::<Vec<_>>(),
        [&"LISTEN_FDNAMES", &"LISTEN_FDS", &"LISTEN_PID", &"LISTEN_PIDFDID"]
    );

    assert_eq!(daemon_line(&plan_of(&host, "-H fd://")), "/usr/sbin/dockerd --mtu=65520 -H fd://");
    host.session.daemon_json = DaemonJson::parse(r#"{"hosts": ["unix:///x"]}"#);
    let plan = plan_of(&host, "");
    assert_eq!(daemon_line(&plan), "/usr/sbin/dockerd --mtu=65520");
    assert_eq!(plan.warnings.len(), 1, "{:?}", plan.warnings);
}

/// The link never leads to a system-wide daemon.
#[test]
fn the_pasted_socket_is_the_one_at_which_this_daemon_listens() {
    let nothing = "drop-link=/run/docker.sock";
    let cases = [
        ("", "{}", None, "link-socket=/run/user/1000/docker.sock"),
        ("-H unix:///a.sock", "{}", None, "link-socket=/a.sock"),
        ("-H tcp://[::1]:1 -H unix:///a.sock -H fd://", "{}", None, "link-socket=/a.sock"),
        ("", r#"{"hosts": ["tcp://[::1]:1", "unix:///a.sock"]}"#, None, "link-socket=/a.sock"),
        ("", "{}", Some("/p.sock"), "link-socket=/p.sock"),
        ("-H fd:// -H unix:///a.sock", "{}", Some("/p.sock"), "link-socket=/p.sock"),
        ("-H unix:///a.sock", "{}", Some("/p.sock"), "link-socket=/a.sock"),
        ("", "{}", Some(""), nothing),
        ("-H tcp://[::1]:1", "{}", None, nothing),
        ("-H unix://", "{}", None, nothing),
        ("-H unix:///var/run/docker.sock", "{}", None, nothing),
        ("-H unix:///run/docker.sock", "{}", None, nothing),
        ("", "{", None, nothing),
    ];
    for (line, json, passed, expected) in cases {
        let mut host = debian_12();
        host.session.daemon_json = DaemonJson::parse(json);
        host.session.listen_fds = passed.map(|path| ListenFds {
            count: 1,
            shelter: 200,
            is_own: false,
            path: Some(path.into()).filter(|_| !path.is_empty()),
        });
        let leads = |assignments| {
            let steps = plan(&host, assignments, line).unwrap().stage.steps;
            let words = steps.iter().map(|step| step.word().into_string().unwrap());
            let named = |word: &String| word.starts_with("link-socket=") || word.ends_with(".sock");
            words.filter(named).collect::<Vec<_>>()
        };
        assert_eq!(leads(&[]), [expected], "{line} {json} {passed:?}");
        assert_eq!(leads(&["rootlesskit.copy-up=/etc"]), [""; 0], "/run is the host's");
    }
}

#[rustfmt::skip]
#[test]
fn a_session_that_is_not_safe_is_refused() {
    let with = |change: &dyn Fn(&mut Session)| with(debian_12(), |host| change(&mut host.session));
    let runtime = |path: &str, directory: Directory| {
        with(&|session| session.person.runtime_dir = Some((path.into(), directory.clone())))
    };
    let present = |owner, mode| Directory::Present { owner, mode };
    let cases = [
        (with(&|session| session.person.uid = 0), Exit::Failed, "rootless Docker must be started by an unprivileged user"),
        (with(&|session| session.person.home = None), Exit::Prerequisite, "HOME is not set"),
        (with(&|session| session.person.home = Some(("/nowhere".into(), false))), Exit::Prerequisite, "HOME `/nowhere` is not a directory"),
        (with(&|session| session.person.runtime_dir = None), Exit::Prerequisite, "XDG_RUNTIME_DIR is not set, and /run/user/1000"),
        (runtime("run", present(1000, 0o700)), Exit::Prerequisite, "XDG_RUNTIME_DIR `run` is not an absolute path"),
        (runtime("/r", Directory::Missing), Exit::Prerequisite, "XDG_RUNTIME_DIR `/r` does not exist"),
        (runtime("/r", Directory::Symlink), Exit::Prerequisite, "XDG_RUNTIME_DIR `/r` is a symbolic link"),
        (runtime("/r", Directory::NotADirectory), Exit::Prerequisite, "XDG_RUNTIME_DIR `/r` is not a directory"),
        (runtime("/r", present(0, 0o1777)), Exit::Prerequisite, "XDG_RUNTIME_DIR `/r` belongs to user 0, not to you"),
        (runtime("/r", present(1000, 0o1777)), Exit::Prerequisite, "XDG_RUNTIME_DIR `/r` can be written by others (mode 1777)"),
        (runtime("/r", present(1000, 0o770)), Exit::Prerequisite, "XDG_RUNTIME_DIR `/r` can be written by others (mode 0770)"),
        (runtime("/r", present(1000, 0o755)), Exit::Prerequisite, "XDG_RUNTIME_DIR `/r` is open to others (mode 0755)"),
        (with(&|session| session.person.runtime_dir_holds_home = true), Exit::Prerequisite, "XDG_RUNTIME_DIR `/run/user/1000` is or holds your home"),
        (
            with(&|session| {
                session.person.runtime_dir = Some(("/run/user/1000".into(), Directory::Makeable));
                session.person.ancestors = vec![Ancestor {
                    path: "/run/user".into(),
                    owner: Some(0),
                    group: 0,
                    mode: 0o777,
                }]
            }),
            Exit::Prerequisite,
            "`/run/user` above XDG_RUNTIME_DIR `/run/user/1000` can be written by others (mode 0777)",
        ),
    ];
    for (host, exit, message) in cases {
        let refused = refusal(&host, &[]);
        assert!(refused.0 == exit && refused.1.starts_with(message), "{refused:?}, not {message}");
    }
}

#[test]
fn a_runtime_directory_that_a_launch_makes_is_accepted() {
    let mut host = debian_12();
    host.session.person.runtime_dir = Some(("/run/user/1000".into(), Directory::Makeable));
    plan(&host, &[], "").expect("accepted");
}

#[test]
fn a_runtime_directory_of_ones_own_that_is_missing_can_be_made() {
    for own in ["/run/user/1000", "/r"] {
        let mut host = debian_12();
        host.session.person.runtime_dir = Some((own.into(), Directory::Missing));
        let said = plan(&host, &[], "").expect_err("refused").render();
        assert!(said.contains(&format!("hint: mkdir -m 0700 {own}\n")), "{said}");
    }
}

#[rustfmt::skip]
#[test]
fn a_state_directory_that_rootlesskit_may_not_delete_is_refused() {
    let present = Directory::Present { owner: 1000, mode: 0o755 };
    let foreign = |names: &[&str]| names.iter().map(OsString::from).collect::<Vec<_>>();
    let cases = [
        ("/home/u/precious", present.clone(), foreign(&["a", "b"]), "holds what rootlesskit did not make: `a`;"),
        ("/home/u", present.clone(), vec![], "is or holds `/home/u`;"),
        ("/x", Directory::Symlink, vec![], "is a symbolic link;"),
        ("/x", Directory::NotADirectory, vec![], "is not a directory;"),
        ("/x", Directory::Present { owner: 0, mode: 0o777 }, vec![], "belongs to user 0, not to you (user 1000);"),
        ("/x", Directory::Unknown("denied".into()), vec![], "cannot be judged: denied;"),
    ];
    for (path, directory, foreign, message) in cases {
        let mut host = debian_12();
        host.session.places.state_dir = path.into();
        host.session.state_dir = StateDir {
            directory,
            holds: message.starts_with("is or holds").then(|| "/home/u".into()),
            foreign,
            lock: Lock::Free,
        };
        let refused = refusal(&host, &[]);
        let expected = format!("the state directory `{path}` {message}");
        assert!(
            refused.0 == Exit::Config && refused.1.starts_with(&expected),
            "{refused:?}, not {expected}"
        );
    }
    let mut left_over = debian_12();
    left_over.session.state_dir.directory = present;
    assert!(plan(&left_over, &[], "").is_ok(), "what rootlesskit left is its own");
}

#[rustfmt::skip]
#[test]
fn a_second_instance_is_refused_and_the_first_named() {
    let change = |change: &dyn Fn(&mut Session)| with(debian_12(), |host| change(&mut host.session));
    let pid_file =
        |state| PidFile { path: "/run/user/1000/docker.pid".into(), state, is_daemons: true };
    let cases = [
        (change(&|session| session.state_dir.lock = Lock::Held(42)), "rootless Docker is already running (PID 42) with the state directory"),
        (
            change(&|session| session.pid_files = vec![pid_file(PidState::Running(43))]),
            "the daemon is already running (PID 43), says `/run/user/1000/docker.pid`",
        ),
        (
            change(&|session| session.containerd_rootless = Lock::Held(44)),
            "containerd-rootless is running (PID 44) on `/run/user/1000/containerd-rootless`",
        ),
    ];
    for (host, message) in cases {
        let refused = refusal(&host, &[]);
        assert!(
            refused.0 == Exit::AlreadyRunning && refused.1.starts_with(message),
            "{refused:?}, not {message}"
        );
    }
    let stale = change(&|session| {
        session.pid_files =
            vec![pid_file(PidState::Stale("gone".into())), pid_file(PidState::Absent)]
    });
    let elsewhere = change(&|session| {
        let state = PidState::Stale("gone".into());
        session.pid_files =
            vec![PidFile { path: "/home/u/my.pid".into(), state, is_daemons: false }];
    });
    let elsewhere = plan(&elsewhere, &[], "").unwrap();
    assert_eq!(elsewhere.removals, [], "what is not in the runtime directory is not ours to remove");
    assert_eq!(
        elsewhere.warnings,
        [Warning("`/home/u/my.pid` is stale (gone), and dockerd may not start over it: remove it".into())]
    );
    assert_eq!(
        plan(&stale, &[], "").unwrap().removals,
        [("/run/user/1000/docker.pid".into(), "gone".to_owned())]
    );
}

#[test]
fn socket_paths_may_have_107_bytes() {
    let host_with = |length: usize| {
        let mut host = debian_12();
        host.session.places.state_dir = format!("/{}", "s".repeat(length - 1)).into();
        host
    };
    // `/.bp.sock` and `/api.sock` have nine bytes.
    assert!(plan(&host_with(98), &[], "").is_ok());
    let (exit, message) = refusal(&host_with(99), &[]);
    assert_eq!(exit, Exit::Config);
    assert!(message.ends_with("is too long: 108 bytes, the limit is 107"), "{message}");
    // `/docker/containerd/containerd-debug.sock` has 40 bytes, and containerd takes 104.
    let deep = |length: usize| {
        let mut host = debian_12();
        let path = std::path::PathBuf::from(format!("/{}", "r".repeat(length - 1)));
        host.session.places.exec_root = path.join("docker");
        host.session.places.runtime_dir = path.clone();
        host.session.person.runtime_dir =
            Some((path, Directory::Present { owner: 1000, mode: 0o700 }));
        host
    };
    assert!(plan(&deep(64), &[], "").is_ok());
    let (_, message) = refusal(&deep(65), &[]);
    assert!(
        message.contains("containerd-debug.sock")
            && message.ends_with("is too long: 105 bytes, the limit is 104"),
        "{message}"
    );
    let mut moved = deep(65);
    moved.session.places.exec_root = "/run/x".into();
    assert!(plan(&moved, &[], "").is_ok());
}

#[test]
fn a_missing_program_is_named() {
    let mut host = debian_12();
    host.tools.rootlesskit = Tool::Absent;
    assert_eq!(
        refusal(&host, &[]),
        (Exit::Prerequisite, "no program `rootlesskit` is in PATH".to_owned())
    );
    let refused = refusal(&host, &["rootlesskit.binary=/x"]);
    assert_eq!(refused, (Exit::NotFound, "the program `/x` does not exist".to_owned()));
    let mut host = debian_12();
    host.tools.dockerd = Tool::Absent;
    assert_eq!(refusal(&host, &[]).0, Exit::Prerequisite);
    assert_eq!(refusal(&host, &["daemon.binary=dockerd-dev"]).0, Exit::NotFound);
}

#[test]
fn the_environment_gets_sbin_proxies_and_no_marks_of_upstream() {
    let mut host = debian_12();
    host.session.person.runtime_dir_guessed = true;
    let layer =
        Layer::from_assignments(&["proxy.http=http://p".into(), "proxy.no=localhost".into()])
            .unwrap();
    let variables = Environment::from_iter([
        ("PATH", "/usr/bin:/bin"),
        ("_DOCKERD_ROOTLESS_CHILD", "1"),
        ("LISTEN_PID", ""),
    ]);
    let settings = Settings::resolve(&[layer, Layer::from_environment(&variables)]).unwrap();
    let changes = LaunchPlan::build(&settings, &host, &variables, false).unwrap().environment;
    let set: Vec<(&str, &str)> =
        changes.set.iter().map(|(name, (value, _))| (*name, value.to_str().unwrap())).collect();
    assert_eq!(
        set,
        [
            ("HTTP_PROXY", "http://p"),
            ("NO_PROXY", "localhost"),
            ("PATH", "/usr/bin:/bin:/usr/sbin:/sbin"),
            ("XDG_RUNTIME_DIR", "/run/user/1000"),
        ]
    );
    assert_eq!(
        changes.unset.keys().collect::<Vec<_>>(),
        [&"LISTEN_PID", &"_DOCKERD_ROOTLESS_CHILD"]
    );

    let variables =
        Environment::from_iter([("HTTP_PROXY", "http://mine"), ("PATH", "/sbin:/usr/sbin")]);
    let settings = Settings::resolve(&[Layer::from_environment(&variables)]).unwrap();
    let changes =
        LaunchPlan::build(&settings, &debian_12(), &variables, false).unwrap().environment;
    assert_eq!(changes, EnvironmentChanges::default(), "a variable that is there needs no change");
}

#[test]
fn selinux_and_copy_up_decide_on_the_steps_in_run() {
    let mut host = debian_12();
    host.kernel.selinux = true;
    let labelled = plan(&host, &[], "").unwrap();
    assert!(labelled.stage.steps.contains(&Step::Label("/run".into())));
    let bare = plan(&host, &["rootlesskit.copy-up="], "").unwrap();
    assert_eq!(
        bare.stage.steps,
        [Step::Forward, Step::LocalPorts(33046)],
        "without copy-up nothing of the host is touched"
    );
}

#[test]
fn dockerd_is_told_of_selinux_where_overlay_mounts_fail_under_it() {
    let mark = "_DOCKERD_ROOTLESS_SELINUX";
    let variables = Environment::from_iter([(mark, "1"), ("PATH", "/sbin:/usr/sbin")]);
    for (release, selinux, is_set) in [
        ("4.18.0-553.el8_10.x86_64", true, false),
        ("5.10.16.3-microsoft-standard-WSL2", true, false),
        ("5.11.12-300.fc34.x86_64", true, true),
        ("5.11.12-300.fc34.x86_64", false, false),
        ("5.12.19-300.fc34.x86_64", true, true),
        ("5.13.4-200.fc34.x86_64", true, false),
        ("6.17.8-300.fc43.x86_64", true, false),
        ("", true, false),
    ] {
        let mut host = debian_12();
        (host.kernel.selinux, host.kernel.version) = (selinux, Kernel::parse_version(release));
        let settings = Settings::resolve(&[]).unwrap();
        let changes = LaunchPlan::build(&settings, &host, &variables, false).unwrap().environment;
        let set = changes.set.get(mark).map(|(value, _)| value.to_str());
        assert_eq!(set, is_set.then_some(Some("1")), "{release}");
        assert_eq!(changes.unset.contains_key(mark), !is_set, "{release}");
    }
}

#[test]
fn the_host_loopback_and_ipv6_are_flags() {
    let line =
        |assignments: &[&str]| rootlesskit_line(&plan(&debian_12(), assignments, "").unwrap());
    assert!(line(&[]).contains("--disable-host-loopback"));
    assert!(!line(&["network.host-loopback=true"]).contains("loopback"));
    assert!(line(&["network.ipv6=true"]).ends_with("--propagation=rslave --ipv6"));
}

proptest! {
    #[test]
    fn every_value_is_one_word_and_the_daemons_words_arrive(
        state_dir in "/[a-zA-Z0-9 *$'\"\\\\;|\n-]{1,30}",
        daemon_words in proptest::collection::vec(proptest::collection::vec(1u8..=255, 0..12), 0..6),
        mtu in 0u32..=65521,
    ) {
        use std::os::unix::ffi::OsStringExt;
        let daemon_words: Vec<OsString> = daemon_words.into_iter().map(OsString::from_vec).collect();
        let mut host = debian_12();
        host.session.places.state_dir = state_dir.clone().into();
        let layer = Layer::from_assignments(&[
            format!("rootlesskit.state-dir={state_dir}").into(),
            format!("network.mtu={mtu}").into(),
        ]).unwrap();
        let settings = Settings::resolve(&[layer]).unwrap();
        let environment = Environment::from_iter([("PATH", "/usr/sbin:/sbin")]);
        let plan = LaunchPlan::build(&settings.clone().with_args(&daemon_words), &host, &environment, false).unwrap();
        prop_assert_eq!(&plan.args[0], &OsString::from(format!("--state-dir={state_dir}")));
        prop_assert_eq!(&plan.args[2], &OsString::from(format!("--mtu={mtu}")));
        prop_assert!(plan.args.ends_with(&daemon_words));
        let plain = LaunchPlan::build(&settings, &host, &environment, false).unwrap();
        // A daemon's word may be `--mtu`, and then ours goes; nothing else may come or go.
        let added = plan.args.len() - daemon_words.len();
        prop_assert!(added == plain.args.len() || added + 1 == plain.args.len());
    }
}

#[test]
fn what_may_do_harm_or_cannot_be_judged_is_said() {
    let texts = |host: &HostFacts, assignments: &[&str], line: &str| -> Vec<String> {
        let warnings = plan(host, assignments, line).expect("a plan").warnings;
        warnings.into_iter().map(|Warning(text)| text).collect()
    };
    let mute = with(debian_12(), |host| {
        let why = "it does not answer".to_owned();
        host.tools.rootlesskit = Tool::Unknown { path: "/x/rootlesskit".into(), why };
    });
    let unknown = ["network driver `new` is unknown to us; rootlesskit decides"];
    assert_eq!(texts(&mute, &["network.driver=new"], ""), unknown);
}

#[rustfmt::skip]
#[test]
fn the_api_on_tcp_needs_certificates_if_others_reach_it() {
    let detached = docker_29_5();
    let json = |text| with(debian_12(), |host| host.session.daemon_json = DaemonJson::parse(text));
    let bare = with(debian_12(), |host| host.session.certificates.missing = vec!["/c/ca.pem".into()]);
    let pasta = "network.driver=pasta";
    let open = "rootlesskit.flags=-p 0.0.0.0:2376:2376/tcp";
    let local = "rootlesskit.flags=-p 127.0.0.1:2376:2376/tcp";
    let listens = "-H tcp://0.0.0.0:2376";
    let hosts = "other hosts reach the API on TCP port 2376 without --tlsverify, and can act as you";
    let users = "warning: all users of this host reach the API on TCP port 2376 without --tlsverify, and can act as you";
    let both = "warning: containers and all users of this host reach the API on TCP port 2376 without --tlsverify, and can act as you";
    let containers = "warning: containers reach the API on TCP port 2376 without --tlsverify, and can act as you";
    let cases: &[(&HostFacts, &[&str], &str, &str)] = &[
        (&debian_12(), &[open], "-H tcp://0.0.0.0:2376 --tlsverify", ""),
        (&debian_12(), &[open], "-H tcp://0.0.0.0:2376 --tls", ""),
        (&json(r#"{"tlsverify": true, "hosts": ["tcp://0.0.0.0:2376"]}"#), &[open], "", ""),
        (&bare, &[open], "-H tcp://:2376 --tlsverify", "the API on TCP needs `/c/ca.pem`, which does not exist"),
        (&debian_12(), &[open], listens, hosts),
        (&debian_12(), &[open], "-H :2376", hosts),
        (&json(r#"{"hosts": ["tcp://0.0.0.0:2376"]}"#), &[open], "", hosts),
        (&with_pasta(detached.clone()), &[pasta, "network.detach-netns=false"], listens, hosts),
        (&detached, &[], listens, hosts),
        (&detached, &[], "-H tcp://127.0.0.1:2376", users),
        (&debian_12(), &[local], "-H tcp://127.0.0.1:2376", users),
        (&debian_12(), &[local], listens, both),
        (&debian_12(), &[&format!("{local} -p 192.0.2.1:2376:2376/tcp")], listens, hosts),
        (&debian_12(), &[], listens, containers),
        (&debian_12(), &["rootlesskit.flags=-p :2376:2376/tcp"], listens, hosts),
        (&detached, &[], "-H tcp://0.0.0.0:2376/path", hosts),
        (&detached, &[], "-H tcp://0.0.0.0:", "other hosts reach the API on TCP port 2375 without --tlsverify, and can act as you"),
        (&debian_12(), &[], "-H tcp://127.0.0.1:2376", ""),
        (&debian_12(), &[], "-H unix:///x", ""),
        (&debian_12(), &[open, "daemon.tcp-insecure=true"], listens, "warning: other hosts reach the API on TCP port 2376 without --tlsverify, and can act as you"),
        (&debian_12(), &[open], "-H tcp://0.0.0.0:2376 --tls=false", "warning: other hosts reach the API on TCP port 2376 without --tlsverify, and can act as you"),
        (&json(r#"{"hosts": ["fd://"]}"#), &["daemon.tcp=0.0.0.0:2376"], "", "daemon.tcp is set, and `/home/u/.config/docker/daemon.json` sets hosts, or cannot be read"),
        (&detached, &["network.detach-netns=true", open], "-H tcp://0.0.0.0:2376 --tls", "the network namespace is detached, so dockerd itself listens on the host, and rootlesskit.flags publish the same port: 0.0.0.0:2376:2376/tcp"),
        (&detached, &[open], "-H tcp://0.0.0.0:2376 --tls", ""),
        (&detached, &["network.detach-netns=true", "rootlesskit.flags=-p 0.0.0.0:8443:2376/tcp"], "-H tcp://0.0.0.0:2376 --tls", ""),
        (&detached, &["network.detach-netns=true", local], "-H tcp://192.0.2.1:2376 --tls", ""),
        (&with_pasta(detached.clone()), &[pasta, "network.detach-netns=false", "daemon.tcp=192.0.2.1:2376"], "", "daemon.tcp is 192.0.2.1:2376, and pasta opens the port on every address of the host"),
    ];
    for (host, assignments, line, expected) in cases {
        let said = match plan(host, assignments, line) {
            Ok(plan) => plan.warnings.iter().map(|Warning(text)| format!("warning: {text}")).collect(),
            Err(error) => error.to_string(),
        };
        assert_eq!(said, *expected, "{assignments:?} {line}");
    }
    let both = plan(&detached, &[open], "-H tcp://0.0.0.0:2376 --tls").unwrap();
    assert_eq!(
        reason(&both, "network.detach-netns"),
        "false: rootlesskit publishes the API's port, as rootlesskit.flags say: 0.0.0.0:2376:2376/tcp"
    );
}

#[rustfmt::skip]
#[test]
fn one_setting_puts_the_api_on_tcp() {
    let detached = docker_29_5();
    let with_pasta = with_pasta(with(docker_29_5(), |host| host.tools.dockerd = debian_12().tools.dockerd));
    let socket = "-H unix:///run/user/1000/docker.sock";
    let cases: &[(&HostFacts, &[&str], &str, &str, &str)] = &[
        (&debian_12(), &[], "", "-H tcp://127.0.0.1:2376 --tlsverify", "--publish=192.0.2.1:2376:127.0.0.1:2376/tcp"),
        (&debian_12(), &["network.port-driver=slirp4netns"], "", "-H tcp://0.0.0.0:2376 --tlsverify", "--publish=192.0.2.1:2376:2376/tcp"),
        (&debian_12(), &[], "--tlsverify", "-H tcp://127.0.0.1:2376", "--publish=192.0.2.1:2376:127.0.0.1:2376/tcp"),
        (&debian_12(), &["daemon.tcp-insecure=true"], "", "-H tcp://127.0.0.1:2376 --tls=false", "--publish=192.0.2.1:2376:127.0.0.1:2376/tcp"),
        (&debian_12(), &["rootlesskit.flags=-p=192.0.2.1:2376:2376/tcp"], "", "-H tcp://127.0.0.1:2376 --tlsverify", "-p=192.0.2.1:2376:2376/tcp"),
        (&with_pasta, &["network.driver=pasta", "daemon.tcp=0.0.0.0:2376"], "", "-H tcp://0.0.0.0:2376 --tlsverify", ""),
        (&detached, &[], "", "-H tcp://192.0.2.1:2376 --tlsverify", ""),
    ];
    for (host, assignments, line, words, publish) in cases {
        let assignments = [&["daemon.tcp=192.0.2.1:2376"], *assignments].concat();
        let plan = plan(host, &assignments, line).unwrap();
        let daemon = daemon_line(&plan);
        assert!(daemon.contains(&format!("{socket} {words}")), "{assignments:?}: {daemon}");
        let line = rootlesskit_line(&plan);
        let published: Vec<_> = line.split(' ').filter(|word| word.contains(":2376/tcp")).collect();
        assert_eq!(published.join(" "), *publish, "{assignments:?}");
    }
    let own = plan(&debian_12(), &["daemon.tcp=192.0.2.1:2376"], "-H unix:///x").unwrap();
    assert!(daemon_line(&own).contains(" -H tcp://127.0.0.1:2376 --tlsverify -H unix:///x"), "{:?}", own.stage.daemon);
}
