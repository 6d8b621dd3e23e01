//! The list of checks, and the runner that judges them in order.

use crate::check::Status::{Fail, Warn};
use crate::check::evidence::Evidence;
use crate::check::finding::{Category, Category::*, Finding, Id, Id::*, Status, see};
use crate::check::fix::{self, Commands};
use crate::check::{
    clients, daemon, gpu, hints, idmap, known, limits, namespaces, netfilter, network, places,
    programs, session, storage, subids,
};

/// A check.
pub struct Check {
    pub id: Id,
    pub category: Category,
    /// How bad a problem is at most.
    pub severity: Status,
    /// What it is about, for `--list`.
    pub about: &'static str,
    /// The checks whose failure explains a skip or a failed trial of this one; they come before it.
    pub needs: &'static [Id],
    pub find: fn(&Evidence<'_>) -> Finding,
}

const fn check(
    id: Id,
    category: Category,
    severity: Status,
    about: &'static str,
    needs: &'static [Id],
    find: fn(&Evidence<'_>) -> Finding,
) -> Check {
    Check { id, category, severity, about, needs, find }
}

const INSIDE: &[Id] = &[UserNamespaces, Rootlesskit];
const DRIVER: &[Id] =
    &[UserNamespaces, Subuid, Subgid, Newuidmap, Newgidmap, RuntimeDir, Home, TunDevice];
const LAUNCH: &[Id] = &[
    UserNamespaces,
    UserNamespaceQuota,
    Subuid,
    Subgid,
    Newuidmap,
    Newgidmap,
    RuntimeDir,
    Home,
    TunDevice,
    NetworkDriver,
    PortDriver,
    SocketPath,
];

/// All checks, each behind those that it needs.
#[rustfmt::skip]
pub const CHECKS: &[Check] = &[
    check(UserNamespaces, Kernel, Fail, "user namespaces, with capabilities inside", &[], namespaces::user_namespaces),
    check(UserNamespaceQuota, Kernel, Fail, "how many namespaces you may create", &[], namespaces::user_namespace_quota),
    check(Subuid, Identity, Fail, "your subordinate user IDs", &[], subids::subuid),
    check(Subgid, Identity, Fail, "your subordinate group IDs", &[], subids::subgid),
    check(Newuidmap, Identity, Fail, "the program that maps subordinate user IDs", &[UserNamespaces, Subuid], idmap::newuidmap),
    check(Newgidmap, Identity, Fail, "the program that maps subordinate group IDs", &[UserNamespaces, Subgid], idmap::newgidmap),
    check(RuntimeDir, Places, Fail, "a runtime directory that is safe and has room", &[], places::runtime_dir),
    check(Home, Places, Fail, "a home directory that is there when the daemon starts", &[], places::home),
    check(StateDir, Places, Fail, "a state directory that rootlesskit may delete", &[RuntimeDir], places::state_dir),
    check(TunDevice, Network, Fail, "/dev/net/tun opens, which network drivers need", &[], network::tun_device),
    check(NetworkDriver, Network, Fail, "the connection of the namespace to the outside", DRIVER, network::network_driver),
    check(PortDriver, Network, Fail, "how published ports are forwarded", &[NetworkDriver], network::port_driver),
    check(Addresses, Network, Warn, "the host uses none of the containers' addresses itself", &[NetworkDriver], network::addresses),
    check(SocketPath, Places, Fail, "the paths of all sockets are short enough", &[RuntimeDir, NetworkDriver], places::socket_path),
    check(ContainerdRootless, Programs, Fail, "no rootless containerd of yours conflicts", &[], clients::containerd_rootless),
    check(Rootlesskit, Programs, Fail, "the program that creates the namespaces", LAUNCH, programs::rootlesskit),
    check(Dockerd, Programs, Fail, "the daemon's program", &[], programs::dockerd),
    check(DaemonConfig, Programs, Fail, "dockerd accepts its daemon.json", &[], daemon::daemon_config),
    check(Netfilter, Network, Fail, "the firewall rules and network devices that containers need", INSIDE, netfilter::netfilter),
    check(ResolvConf, Network, Fail, "host names are resolved in the namespace", &[], places::resolv_conf),
    check(PrivilegedPorts, Network, Warn, "the ports that can be published", &[], limits::privileged_ports),
    check(Ping, Network, Warn, "containers can ping", &[], limits::ping),
    check(Ipv6, Network, Warn, "IPv6 for containers", &[UserNamespaces, NetworkDriver], limits::ipv6),
    check(Proxy, Network, Fail, "the daemon reaches its proxy", &[NetworkDriver], limits::proxy),
    check(Overlay, Storage, Fail, "images can be stored in layers", &[UserNamespaces, Home, Rootlesskit], storage::overlay),
    check(EtcLinks, Storage, Fail, "CA certificates open in the namespace", INSIDE, places::etc_links),
    check(Cgroup, Resources, Fail, "limits of CPU, memory and processes take effect", &[], session::cgroup),
    check(Limits, Resources, Warn, "kernel keys and open files", &[], limits::limits),
    check(Gpu, Resources, Warn, "containers can use the GPU and other CDI devices", &[], gpu::gpu),
    check(Dbus, Service, Fail, "dockerd reaches your bus", &[], session::dbus),
    check(SystemdUser, Service, Warn, "a user manager that can start the daemon", &[], session::systemd_user),
    check(Linger, Service, Warn, "the daemon keeps running when you log out", &[], session::linger),
    check(RootfulDocker, Client, Warn, "you cannot control the system-wide Docker", &[], clients::rootful_docker),
    check(DockerCli, Client, Warn, "the program docker", &[], clients::docker_cli),
    check(DockerContext, Client, Warn, "the daemon that `docker` talks to", &[RuntimeDir], clients::docker_context),
];

/// A check and what it found, with the commands that fix it.
#[derive(Clone, Debug)]
pub struct Found {
    pub id: Id,
    pub category: Category,
    pub status: Status,
    pub summary: String,
    pub reasons: Vec<String>,
    pub commands: Commands,
    /// The check itself if it failed, or those that explain why it was not made.
    pub blamed: Vec<Id>,
}

/// Judges everything, in the order of [`CHECKS`].
pub fn run(evidence: &Evidence<'_>) -> Vec<Found> {
    let mut all: Vec<Found> = Vec::new();
    for check in CHECKS {
        let mut finding = known::with_regressions(evidence, check.id, (check.find)(evidence));
        finding.status = finding.status.min(check.severity);
        let mut blamed = Vec::new();
        if finding.is_consequence {
            let needed = all.iter().filter(|found| check.needs.contains(&found.id));
            for id in needed.flat_map(|found| &found.blamed) {
                if !blamed.contains(id) {
                    blamed.push(*id);
                }
            }
        }
        if !blamed.is_empty() {
            let reasons = vec![finding.summary];
            finding = Finding { reasons, ..Finding::skip(see(&blamed)) };
        } else if finding.status == Fail {
            blamed.push(check.id);
        }
        all.push(complete(evidence, check, finding, blamed));
    }
    all
}

/// Adds historical hints and renders the fixes.
fn complete(evidence: &Evidence<'_>, check: &Check, finding: Finding, blamed: Vec<Id>) -> Found {
    let Finding { status, summary, mut reasons, fixes, .. } = finding;
    let commands = fix::render(evidence, fixes, &mut reasons);
    if status >= Warn {
        reasons.extend(hints::of(evidence.survey, check.id));
    }
    Found { id: check.id, category: check.category, status, summary, reasons, commands, blamed }
}
