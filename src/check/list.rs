//! The list of checks, and the runner that judges them in order.

use crate::check::Status::{Fail, Warn};
use crate::check::finding::{Category, Category::*, Evidence, Finding, Id, Id::*, Status, see};
use crate::check::fix::{self, Commands};
use crate::check::{
    clients, daemon, hints, idmap, limits, namespaces, netfilter, network, places, programs,
    session, storage, subids,
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
    /// Whether the user does not want it to count.
    pub ignored: bool,
}

/// Judges everything, in the order of [`CHECKS`].
pub fn run(evidence: &Evidence<'_>) -> Vec<Found> {
    let mut found = Vec::new();
    // For each check: itself if it failed, or those that explain why it was skipped.
    let mut blamed: Vec<(Id, Vec<Id>)> = Vec::new();
    for check in CHECKS {
        let mut finding = (check.find)(evidence);
        finding.status = finding.status.min(check.severity);
        let mut culprits =
            if finding.is_consequence { culprits(&blamed, check.needs) } else { vec![] };
        if !culprits.is_empty() {
            let said = finding.summary;
            finding = Finding { reasons: vec![said], ..Finding::skip(see(&culprits)) };
        } else if finding.status == Fail {
            culprits.push(check.id);
        }
        blamed.push((check.id, culprits));
        found.push(complete(evidence, check, finding));
    }
    found
}

/// Returns the failed checks behind those that are needed, each once.
fn culprits(blamed: &[(Id, Vec<Id>)], needs: &[Id]) -> Vec<Id> {
    let mut culprits = Vec::new();
    for id in blamed.iter().filter(|(id, _)| needs.contains(id)).flat_map(|(_, ids)| ids) {
        if !culprits.contains(id) {
            culprits.push(*id);
        }
    }
    culprits
}

/// Adds historical hints and renders the fixes.
fn complete(evidence: &Evidence<'_>, check: &Check, finding: Finding) -> Found {
    let Finding { status, summary, mut reasons, fixes, .. } = finding;
    let commands = fix::render(evidence, &fixes, &mut reasons);
    if status >= Warn {
        reasons.extend(hints::of(evidence.survey, check.id));
    }
    let (id, category) = (check.id, check.category);
    Found { id, category, status, summary, reasons, commands, ignored: false }
}
