//! A host on which everything works, to be changed by a description.

use std::collections::BTreeMap;

use dockerd_rootless::check::Evidence;
use dockerd_rootless::check::survey::{Survey, survey};
use dockerd_rootless::check::trials::{Firewall, IdMapper, Inside, Outcome, Trials};
use dockerd_rootless::environment::Environment;
use dockerd_rootless::facts::*;
use dockerd_rootless::settings::Settings;

/// Evidence that owns what it shows.
pub struct Sample {
    pub settings: Settings,
    pub environment: Environment,
    pub host: HostFacts,
    pub survey: Survey,
    pub trials: Trials,
}

impl Sample {
    /// Returns a host with Debian 12's programs and user 1000, on which everything works; what lies in files is
    /// still to be read.
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
        let trials = Trials {
            user_namespace: works(),
            newuidmap: mapper("newuidmap"),
            newgidmap: mapper("newgidmap"),
            uid_map: works(),
            gid_map: works(),
            getsubids_uid: Some("0: u 100000 65536\n".to_owned()),
            getsubids_gid: Some("0: u 100000 65536\n".to_owned()),
            rootlesskit: works(),
            inside: Some(Inside {
                devices: ["bridge", "veth"].map(|kind| (kind.to_owned(), works())).into(),
                firewalls: ["iptables", "iptables-legacy"]
                    .map(|name| Firewall {
                        name: name.to_owned(),
                        path: format!("/usr/sbin/{name}").into(),
                        chosen: name == "iptables-legacy",
                        outcome: works(),
                    })
                    .into(),
                source_ip: works(),
                proc: works(),
                overlay: works(),
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
            data_root_free: Some(100 << 30),
            runtime_dir_free: Some(100 << 20),
            open_files: Some(524_288),
            fuse_overlayfs: None,
            validate: Outcome::default(),
        };
        let environment = [("HOME", "/home/u"), ("XDG_RUNTIME_DIR", "/run/user/1000")];
        let (host, environment) = (debian_12(), environment.into_iter().collect());
        let survey = survey("/nowhere".as_ref(), &host, &environment, 1000, None);
        let settings = Settings::resolve(&[]).expect("defaults");
        Self { settings, environment, host, survey, trials }
    }

    /// Returns what the checks see.
    pub fn evidence(&self) -> Evidence<'_> {
        let Self { settings, environment, host, survey, trials } = self;
        Evidence { settings, environment, host, survey, trials }
    }
}

/// Returns the facts of a launch: rootlesskit 1.1.0, dockerd 20.10.24.
fn debian_12() -> HostFacts {
    let found = |path: &str, version| Tool::Found { path: path.into(), facts: version };
    let names = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    HostFacts {
        exposed: Vec::new(),
        tools: Tools {
            rootlesskit: found(
                "/usr/bin/rootlesskit",
                RootlesskitFacts {
                    version: Some(Version(1, 1, 0)),
                    flags: BTreeMap::from([("net".to_owned(), true), ("debug".to_owned(), false)]),
                    network_drivers: names("host slirp4netns vpnkit lxc-user-nic"),
                    port_drivers: names("none builtin slirp4netns"),
                },
            ),
            dockerd: Tool::Found {
                path: "/usr/sbin/dockerd".into(),
                facts: DockerdFacts {
                    version: Some(Version(20, 10, 24)),
                    flags: names("bip exec-root host host-gateway-ip mtu"),
                },
            },
            containerd: Some("/usr/bin/containerd".into()),
            slirp4netns: Tool::Found {
                path: "/usr/bin/slirp4netns".into(),
                facts: Slirp4netnsFacts { version: Some(Version(1, 2, 0)), netns_type: true },
            },
            iptables: Some("/usr/sbin/xtables-nft-multi".into()),
            nsenter: Some("/usr/bin/nsenter".into()),
            ip: Some("/usr/sbin/ip".into()),
            sysctl: Some("/usr/sbin/sysctl".into()),
            iptables_legacy: Some("/usr/sbin/iptables-legacy".into()),
            ip6tables_legacy: Some("/usr/sbin/ip6tables-legacy".into()),
            ..Tools::default()
        },
        session: Session {
            person: Person {
                uid: 1000,
                home: Some(("/home/u".into(), true)),
                own_home: None,
                runtime_dir: Some((
                    "/run/user/1000".into(),
                    Directory::Present { owner: 1000, mode: 0o700 },
                )),
                runtime_dir_guessed: false,
                runtime_dir_holds_home: false,
                ancestors: Vec::new(),
            },
            places: Places {
                runtime_dir: "/run/user/1000".into(),
                state_dir: "/run/user/1000/dockerd-rootless".into(),
                containerd_rootless: "/run/user/1000/containerd-rootless".into(),
                daemon_json: "/home/u/.config/docker/daemon.json".into(),
                pid_file: "/run/user/1000/docker.pid".into(),
                exec_root: "/run/user/1000/docker".into(),
                data_root: "/home/u/.local/share/docker".into(),
            },
            state_dir: StateDir {
                directory: Directory::Missing,
                holds: None,
                foreign: Vec::new(),
                lock: Lock::Free,
            },
            containerd_rootless: Lock::Free,
            pid_files: Vec::new(),
            daemon_json: DaemonJson::Absent,
            certificates: Certificates::default(),
            has_swarm: false,
            listen_fds: None,
            keeper_fd: None,
            user_namespace: 4026531837,
            own_path: "/usr/bin/dockerd-rootless".into(),
        },
        kernel: Kernel { bridge_netfilter: true, ..Kernel::default() },
        addresses: Some(Vec::new()),
    }
}
