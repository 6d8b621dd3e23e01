//! What is tried inside of namespaces, where dockerd would be: network devices, firewall rules, an
//! overlay mount, certificates. All of it goes with the namespaces but the directories for the
//! overlay, which are below one that the watcher removes.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};
use serde::{Deserialize, Serialize};

use crate::check::trial::{succeeds, tried};
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::{Failure, Firewall, Inside, Outcome, Overlay};
use crate::plan::Stage;
use crate::stage::namespace;
use crate::sys::netlink;

/// What to try.
#[derive(Serialize, Deserialize)]
pub struct Subject {
    /// An empty directory on the file system of the data root; `None` if none can be made there.
    pub scratch: Option<PathBuf>,
    /// Files with certificates that open outside.
    pub certificates: Vec<PathBuf>,
}

/// The word before the others that asks for namespaces of our own.
pub const ALONE: &str = "alone";

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

/// Performs the steps of a launch's stage, tries everything, and prints what came of it.
///
/// # Errors
/// Fails if this is not the inside of a namespace, or a step fails.
pub fn run(words: &[OsString], environment: &Environment) -> Result<(), Error> {
    let alone = words.split_first().filter(|(first, _)| *first == ALONE);
    let mut stage = Stage::parse(alone.map_or(words, |(_, words)| words))?;
    if alone.is_some() {
        enter()?;
        // rootlesskit would have made it.
        stage.netns = None;
    }
    let fails = |what: &str, error: &dyn std::error::Error| {
        Error::new(Exit::Failed, what.to_owned()).because(error)
    };
    let subject: Subject = serde_json::from_slice(stage.daemon[0].as_encoded_bytes())
        .map_err(|error| fails("the trial's subject is not understood", &error))?;
    let prepared = namespace::prepare(&stage, environment)?;
    let search_path =
        prepared.path.as_deref().or_else(|| environment.get("PATH")).unwrap_or_default().to_owned();
    let mut inside = namespace::in_network(&stage, || network(&search_path))?;
    inside.overlay = subject.scratch.as_deref().map(overlay).unwrap_or_default();
    inside.certificates = subject
        .certificates
        .into_iter()
        .map(|path| (path.clone(), File::open(path).is_ok()))
        .collect();
    let text = serde_json::to_vec(&inside).map_err(|error| fails("no result", &error))?;
    crate::cli::output::print(text)
}

/// Makes namespaces of our own, where rootlesskit could make none: the user's id alone is mapped,
/// which is enough for all that is tried here.
fn enter() -> Result<(), Error> {
    let enter = || -> io::Result<()> {
        let (uid, gid) = (geteuid(), getegid());
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)?;
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
        fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
        let all = MsFlags::MS_REC | MsFlags::MS_SLAVE;
        mount(None::<&str>, "/", None::<&str>, all, None::<&str>)?;
        // For the lock of iptables, and for the links to it.
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
        Ok(())
    };
    enter().map_err(|error| Error::new(Exit::Failed, "no namespaces can be made").because(&error))
}

/// The trials that need the containers' network namespace.
fn network(search_path: &OsStr) -> Inside {
    let devices = ["bridge", "veth"].map(|kind| {
        let name = if kind == "bridge" { "drcheck0" } else { "drcheck1" };
        (kind.to_owned(), tried(netlink::add_device(name, kind)))
    });
    let find = |name: &str| which::which_in(name, Some(search_path), "/").ok();
    // The link in /run, if there is one, says that a legacy program was chosen.
    let called = |name: &str| find(name).and_then(|path| path.read_link().ok());
    let firewalls = FIREWALLS.iter().filter_map(|&name| {
        let own = name.trim_end_matches("-legacy");
        let path = which::which_in_all(name, Some(search_path), "/")
            .ok()?
            .find(|path| !path.starts_with("/run/dockerd-rootless-iptables"))?;
        let legacy_is_called =
            called(own).is_some_and(|target| target.ends_with(format!("{own}-legacy")));
        Some(Firewall {
            chosen: name != "nft" && legacy_is_called == name.ends_with("-legacy"),
            outcome: firewall(name, &path),
            name: name.to_owned(),
            path,
        })
    });
    Inside {
        devices: BTreeMap::from(devices),
        firewalls: firewalls.collect(),
        ipv6: Path::new("/proc/sys/net/ipv6").exists(),
        ..Inside::default()
    }
}

/// Gives a firewall program the rules that dockerd would.
fn firewall(name: &str, path: &Path) -> Outcome {
    if name == "nft" {
        return succeeds(Command::new(path).arg(NFT_RULES));
    }
    let address = if name.starts_with("ip6") { "2001:db8::9" } else { "203.0.113.9" };
    for rule in RULES {
        let rule = rule.replace("ADDRESS", address);
        let mut command = Command::new(path);
        command.arg("--wait").args(rule.split(' '));
        if let Outcome::Fails(failure) = succeeds(&mut command) {
            return Outcome::fails(format!("{name} {rule}: {}", failure.text));
        }
    }
    Outcome::Works
}

/// Mounts an overlay in `scratch`, with the options that dockerd would use and without.
fn overlay(scratch: &Path) -> Overlay {
    if let Err(error) = std::env::set_current_dir(scratch) {
        return Overlay {
            userxattr: Outcome::NotTried(format!("`{}`: {error}", scratch.display())),
            ..Overlay::default()
        };
    }
    let mut overlay = Overlay::default();
    match try_overlay("a", ",userxattr") {
        Ok(native) => {
            overlay.userxattr = Outcome::Works;
            overlay.native_diff = Some(native);
        }
        Err(failure) => {
            overlay.userxattr = Outcome::Fails(failure);
            match try_overlay("b", "") {
                Ok(native) => {
                    overlay.plain = Outcome::Works;
                    overlay.native_diff = Some(native);
                }
                Err(failure) => overlay.plain = Outcome::Fails(failure),
            }
        }
    }
    overlay
}

/// Mounts an overlay in the directory `name`, and uses it as a container does: writes to a file of
/// the layer below, removes one, and tries to rename a directory, which must be refused where
/// layers are compared natively (moby's `doesSupportNativeDiff`).
fn try_overlay(name: &str, option: &str) -> Result<bool, Failure> {
    let stage = |what: &str, error: io::Error| Failure {
        errno: error.raw_os_error().map(|code| format!("{:?}", Errno::from_raw(code))),
        text: format!("{what}: {error}"),
    };
    let [lower, upper, work, merged] =
        ["lower", "upper", "work", "merged"].map(|part| Path::new(name).join(part));
    let prepare = || -> io::Result<()> {
        for directory in [&lower.join("directory"), &upper, &work, &merged] {
            fs::create_dir_all(directory)?;
        }
        fs::write(lower.join("written"), "below")?;
        fs::write(lower.join("removed"), "below")
    };
    prepare().map_err(|error| stage("preparing the layers", error))?;
    let options = format!(
        "lowerdir={},upperdir={},workdir={}{option}",
        lower.display(),
        upper.display(),
        work.display()
    );
    let mounted =
        mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(options.as_str()));
    mounted.map_err(|errno| stage("mount", errno.into()))?;
    let used = use_overlay(&merged);
    let _ = umount2(&merged, MntFlags::MNT_DETACH);
    used.map_err(|error| stage("using the mount", error))
}

fn use_overlay(merged: &Path) -> io::Result<bool> {
    let mut file = OpenOptions::new().append(true).open(merged.join("written"))?;
    file.write_all(b" and above")?;
    fs::remove_file(merged.join("removed"))?;
    symlink("written", merged.join("link"))?;
    let renamed = fs::rename(merged.join("directory"), merged.join("renamed"));
    Ok(renamed.is_err_and(|error| error.raw_os_error() == Some(nix::libc::EXDEV)))
}
