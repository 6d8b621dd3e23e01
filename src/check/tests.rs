//! A healthy host, to be spoilt by tests.

use crate::check::*;
use crate::facts::samples::debian_12;
use crate::facts::{Account, DataRoot, IdMapper, Inside, Mounts, Outcome, Release, TextFile};

/// Evidence that owns what it shows.
pub struct Sample {
    pub settings: Settings,
    pub environment: Environment,
    pub host: HostFacts,
    pub survey: Survey,
    pub trials: Trials,
}

impl Sample {
    /// Debian 12 with systemd and cgroup v2, user `u` (1000), on which everything works.
    pub fn healthy() -> Self {
        let mapper = |name: &str| {
            Some(IdMapper {
                path: format!("/usr/bin/{name}").into(),
                owner: 0,
                mode: 0o4755,
                file_capability: false,
                nosuid: None,
                shadowed: None,
            })
        };
        let works = || Outcome::Works;
        let subids = || TextFile::Text("u:100000:65536\n".to_owned());
        let survey = Survey {
            release: Release::parse(
                "ID=debian\nVERSION_ID=12\nPRETTY_NAME='Debian GNU/Linux 12 (bookworm)'",
            ),
            kernel: "6.1.0-18-amd64".to_owned(),
            sysctls: [
                ("user.max_user_namespaces", "63000"),
                ("user.max_mnt_namespaces", "63000"),
                ("user.max_net_namespaces", "63000"),
                ("user.max_pid_namespaces", "63000"),
                ("kernel.unprivileged_userns_clone", "1"),
                ("net.ipv4.ip_unprivileged_port_start", "1024"),
                ("net.ipv4.ping_group_range", "0\t2147483647"),
                ("fs.inotify.max_user_instances", "128"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
            account: Account {
                uid: 1000,
                gid: 1000,
                name: Some("u".to_owned()),
                groups: vec!["u".to_owned()],
                users: [(0, "root".to_owned()), (1000, "u".to_owned())].into(),
                all_groups: [(0, "root".to_owned()), (1000, "u".to_owned())].into(),
            },
            subuid: subids(),
            subgid: subids(),
            modules: true,
            mounts: Mounts::parse("27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"),
            cgroup: crate::facts::Cgroup {
                version: Some(2),
                hybrid: false,
                available: ["cpuset", "cpu", "io", "memory", "pids"].map(str::to_owned).into(),
                delegated: Some(
                    ["cpuset", "cpu", "io", "memory", "pids"].map(str::to_owned).into(),
                ),
            },
            systemd: crate::facts::Systemd {
                booted: true,
                manager: true,
                bus: true,
                linger: Some(true),
                dbus_unit: true,
                awaited_mounts: Vec::new(),
            },
            own_runtime_dir: Some("/run/user/1000".into()),
            resolv_conf: crate::facts::LinkChain {
                hops: vec!["/etc/resolv.conf".into()],
                ends_in_file: true,
                text: Some("nameserver 192.0.2.53\n".to_owned()),
            },
            data_root: DataRoot {
                path: "/home/u/.local/share/docker".into(),
                base: "/home/u".into(),
                drivers_with_data: Vec::new(),
            },
            docker_client: crate::facts::DockerClient {
                program: Some("/usr/bin/docker".into()),
                current_context: Some("rootless".to_owned()),
                contexts: [("rootless".to_owned(), "unix:///run/user/1000/docker.sock".to_owned())]
                    .into(),
                ..Default::default()
            },
            keys: Some((3, 200, 40, 20_000)),
            ..Survey::default()
        };
        let trials = Trials {
            user_namespace: works(),
            capabilities: works(),
            newuidmap: mapper("newuidmap"),
            newgidmap: mapper("newgidmap"),
            uid_map: works(),
            gid_map: works(),
            getsubids_uid: Some(Ok("0: u 100000 65536\n".to_owned())),
            getsubids_gid: Some(Ok("0: u 100000 65536\n".to_owned())),
            rootlesskit: works(),
            inside: Some(Inside {
                devices: ["bridge", "veth"].map(|kind| (kind.to_owned(), works())).into(),
                firewalls: ["iptables", "iptables-legacy"]
                    .map(|name| crate::facts::Firewall {
                        name: name.to_owned(),
                        path: format!("/usr/sbin/{name}").into(),
                        chosen: name == "iptables-legacy",
                        outcome: works(),
                    })
                    .into(),
                overlay: crate::facts::Overlay {
                    userxattr: works(),
                    plain: Outcome::fails("mount: operation not permitted"),
                    native_diff: Some(true),
                },
                certificates: [("/etc/ssl/certs/ca-certificates.crt".into(), true)].into(),
                ipv6: true,
            }),
            tun: works(),
            fuse: works(),
            bus: works(),
            manager: works(),
            rootful_socket: None,
            home_writable: true,
            data_root_writable: true,
            runtime_dir_free: Some(100 << 20),
            open_files: Some(524_288),
            fuse_overlayfs: None,
        };
        Self {
            settings: Settings::resolve(&[]).expect("defaults"),
            environment: [("HOME", "/home/u"), ("XDG_RUNTIME_DIR", "/run/user/1000")]
                .into_iter()
                .collect(),
            host: debian_12(),
            survey,
            trials,
        }
    }

    /// What the checks see.
    pub fn evidence(&self) -> Evidence<'_> {
        Evidence {
            settings: &self.settings,
            environment: &self.environment,
            host: &self.host,
            survey: &self.survey,
            trials: &self.trials,
        }
    }
}

/// How a check must end: its status, a part of its summary, and all its commands, root's before
/// the user's.
pub type Expected = (Status, &'static str, &'static [&'static str]);

/// What is spoilt in words, how, and what the check must say to it.
pub type Case = (&'static str, fn(&mut Sample), Expected);

/// Asserts that `check` ends as expected on a healthy host that is spoilt, and returns what it
/// found.
pub fn assert_finding(check: fn(&Evidence<'_>) -> Finding, case: &Case) -> Finding {
    let (what, spoil, (status, summary, commands)) = case;
    let mut sample = Sample::healthy();
    spoil(&mut sample);
    let finding = check(&sample.evidence());
    assert_eq!(finding.status, *status, "{what}: {finding:?}");
    assert!(finding.summary.contains(summary), "{what}: {finding:?}");
    let all = [finding.fix.root.clone(), finding.fix.user.clone()].concat();
    assert_eq!(all, *commands, "{what}");
    finding
}

#[test]
fn every_check_has_its_section_in_the_documentation() {
    let page = include_str!("../../docs/checks.md");
    let headings: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .filter(|heading| *heading != "How it is tried")
        .collect();
    let names: Vec<&str> = CHECKS.iter().map(|check| check.name).collect();
    assert_eq!(headings, names);
}
