//! Hosts for tests.

use std::collections::BTreeMap;

use crate::facts::*;

/// A host on which everything is as Debian 12 has it: rootlesskit 1.1.0, dockerd 20.10.24.
pub fn debian_12() -> HostFacts {
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
            iptables_legacy: Some("/usr/sbin/iptables-legacy".into()),
            ip6tables_legacy: Some("/usr/sbin/ip6tables-legacy".into()),
            ip: Some("/usr/sbin/ip".into()),
            sysctl: Some("/usr/sbin/sysctl".into()),
            has_sudo: true,
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
