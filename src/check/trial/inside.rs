//! What is tried inside of namespaces, where dockerd would be: network devices, firewall rules, an
//! overlay mount, certificates. All of it goes with the namespaces, except the directories for the
//! overlay, which are below the trial's own.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid, pause};

use crate::check::trial::{failure, succeeds, tried};
use crate::check::trials::{Firewall, Inside, Outcome};
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::plan::{Stage, TRIAL};
use crate::stage::namespace;
use crate::stage::source_ip::probe_source_ip;
use crate::sys::{netlink, stdout};

/// The argument before the others that asks for namespaces of our own.
pub const ALONE: &str = "alone";

/// The argument for which a container's /proc is mounted, and nothing else tried.
const PROC: &str = "proc";

/// Where distributions keep the certificates of authorities; Go looks in these places.
const CERTIFICATES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The firewall programs: those that dockerd may call, and those that could stand in for them.
const FIREWALLS: [&str; 5] =
    ["iptables", "iptables-legacy", "ip6tables", "ip6tables-legacy", "nft"];

/// Rules of the kinds that dockerd makes, with the targets and the matches that it needs. The
/// addresses are for documentation.
const RULES: [&str; 3] = [
    "-t nat -A POSTROUTING -s ADDRESS ! -o drcheck0 -j MASQUERADE",
    "-t nat -A PREROUTING -m addrtype --dst-type LOCAL -p tcp --dport 9 -j DNAT --to-destination ADDRESS",
    "-t filter -A FORWARD -o drcheck0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
];

/// The same for nft(8).
const NFT_RULES: &str = "table ip drcheck {
    chain post { type nat hook postrouting priority srcnat; oifname != \"drcheck0\" ip saddr 203.0.113.9 masquerade; }
    chain pre { type nat hook prerouting priority dstnat; fib daddr type local tcp dport 9 dnat to 203.0.113.9; }
    chain forward { type filter hook forward priority filter; oifname \"drcheck0\" ct state established,related accept; }
}";

/// Performs the steps of a launch's stage, tries everything, and prints what came of it on one line.
/// In the place of the daemon is an empty directory on the file system of the data root, if one
/// could be made there. Without arguments it only waits, in the namespaces that it was started in.
pub fn run(args: &[OsString], environment: &Environment) -> Result<(), Error> {
    let alone = args.split_first().filter(|(first, _)| *first == ALONE);
    let args = alone.map_or(args, |(_, args)| args);
    match args {
        [] => {
            pause();
        }
        [word] if word == PROC => return mount_proc(),
        _ => {}
    }
    let mut stage = Stage::parse(args)?;
    if alone.is_some() {
        enter().map_err(|error| {
            Error::new(Exit::Failed, "no namespaces can be created").because(&error)
        })?;
        // rootlesskit would have made it.
        stage.netns = None;
    }
    let prepared = namespace::prepare(&stage, environment)?;
    let search_path = prepared.path.as_deref().or_else(|| environment.get("PATH"));
    let search_path = search_path.unwrap_or_default().to_owned();
    let mut inside = namespace::in_network(&stage, || network(&search_path))?;
    let scratch = Path::new(&stage.daemon[0]);
    if !scratch.as_os_str().is_empty() {
        inside.overlay = overlay(scratch);
    }
    let certificates = CERTIFICATES.into_iter().map(PathBuf::from);
    inside.certificates =
        certificates.map(|path| (path.clone(), File::open(path).is_ok())).collect();
    inside.proc = own_proc();
    stdout::print(format!("{}\n", serde_json::json!(inside)))
}

/// Has a child mount the /proc of a new PID namespace: the first child enters it, and no other can
/// follow.
fn own_proc() -> Outcome {
    if let Err(error) = unshare(CloneFlags::CLONE_NEWPID) {
        // A quota, which has a check of its own.
        return Outcome::NotTried(error.to_string());
    }
    // Not by `process::brief`, whose child looks for its parent, and here sees none.
    match Command::new("/proc/self/exe").args([TRIAL, PROC]).output() {
        Err(error) => Outcome::NotTried(error.to_string()),
        Ok(output) if output.status.success() => Outcome::Works,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Outcome::fails(said.trim().trim_start_matches("error: "))
        }
    }
}

/// Mounts the /proc of this process's PID namespace, as runc does for a container.
fn mount_proc() -> Result<(), Error> {
    let (none, flags) = (None::<&str>, MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV);
    mount(Some("proc"), "/proc", Some("proc"), flags, none)
        .map_err(|error| Error::new(Exit::Failed, error.desc()))
}

/// Makes namespaces of our own, where rootlesskit could make none: only the user's ID is mapped,
/// which is enough for all that is tried here.
fn enter() -> io::Result<()> {
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
    // For the lock of iptables, and for the links to it.
    Ok(mount(none, "/run", Some("tmpfs"), MsFlags::empty(), none)?)
}

/// Tries what needs the containers' network namespace.
fn network(search_path: &OsStr) -> Inside {
    let devices = [("bridge", "drcheck0"), ("veth", "drcheck1")];
    let devices =
        devices.map(|(kind, name)| (kind.to_owned(), tried(netlink::add_device(name, kind))));
    Inside {
        devices: BTreeMap::from(devices),
        firewalls: FIREWALLS.iter().filter_map(|name| firewall(name, search_path)).collect(),
        source_ip: probe_source_ip().map_or_else(Outcome::fails, |()| Outcome::Works),
        ipv6: Path::new("/proc/sys/net/ipv6").exists(),
        ..Inside::default()
    }
}

/// Finds a firewall program and gives it the rules that dockerd would.
fn firewall(name: &str, search_path: &OsStr) -> Option<Firewall> {
    let is_real = |path: &PathBuf| !path.starts_with("/run/dockerd-rootless-iptables");
    let path = which::which_in_all(name, Some(search_path), "/").ok()?.find(is_real)?;
    // The link in /run, if there is one, says that a legacy program was chosen.
    let own = name.trim_end_matches("-legacy");
    let first = which::which_in(own, Some(search_path), "/").ok();
    let link = first.and_then(|path| path.read_link().ok()).unwrap_or_default();
    let is_legacy = link.ends_with(format!("{own}-legacy"));
    Some(Firewall {
        chosen: name != "nft" && is_legacy == name.ends_with("-legacy"),
        outcome: add_rules(name, &path),
        name: name.to_owned(),
        path,
    })
}

fn add_rules(name: &str, path: &Path) -> Outcome {
    if name == "nft" {
        return succeeds(Command::new(path).arg(NFT_RULES));
    }
    let address = if name.starts_with("ip6") { "2001:db8::9" } else { "203.0.113.9" };
    for rule in RULES {
        let rule = rule.replace("ADDRESS", address);
        let mut command = Command::new(path);
        if let Outcome::Fails(failure) = succeeds(command.arg("--wait").args(rule.split(' '))) {
            return Outcome::fails(format!("{name} {rule}: {}", failure.text));
        }
    }
    Outcome::Works
}

/// Mounts an overlay in `scratch`, with the option that dockerd would use, else without, which old
/// kernels of Ubuntu allow.
fn overlay(scratch: &Path) -> Outcome {
    match try_overlay(&scratch.join("a"), ",userxattr") {
        Err(error) if try_overlay(&scratch.join("b"), "").is_err() => failure(&error),
        _ => Outcome::Works,
    }
}

/// Mounts an overlay in the new directory `directory`, and uses it as a container does: writes to a
/// file of the layer below, and removes another.
fn try_overlay(directory: &Path, option: &str) -> io::Result<()> {
    // The mount's options cannot hold every path.
    fs::create_dir_all(directory)?;
    std::env::set_current_dir(directory)?;
    for part in ["lower", "upper", "work", "merged"] {
        fs::create_dir(part)?;
    }
    fs::write("lower/written", "below")?;
    fs::write("lower/removed", "below")?;
    let options = format!("lowerdir=lower,upperdir=upper,workdir=work{option}");
    let overlay = Some("overlay");
    mount(overlay, "merged", overlay, MsFlags::empty(), Some(options.as_str()))?;
    let used = use_overlay();
    let _ = umount2("merged", MntFlags::MNT_DETACH);
    used
}

fn use_overlay() -> io::Result<()> {
    OpenOptions::new().append(true).open("merged/written")?.write_all(b" and above")?;
    fs::remove_file("merged/removed")?;
    symlink("written", "merged/link")
}
