//! Performs the namespace stage, step by step, and becomes the daemon. Mirrors the second half of
//! upstream's `contrib/dockerd-rootless.sh`, without a shell and without `mount`, `rm`, `nsenter`
//! or `sysctl`.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Component, Path, PathBuf};
use std::process::Command;
use std::thread;

use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use tracing::{debug, warn};

use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::look;
use crate::plan::{DOCKER_SOCKET, Family, Stage, Step};
use crate::stage::{launch, netfilter, source_ip};
use crate::sys::sockets;

/// Where the links to the chosen iptables are made: on the namespace's own tmpfs.
const IPTABLES_LINKS: &str = "/run/dockerd-rootless-iptables";

/// How deep below a directory of /etc links are looked for.
const LINK_DEPTH: usize = 3;

/// The label that iptables needs on /run under SELinux, the one that upstream's script and podman
/// give (moby#41230).
const IPTABLES_LABEL: &CStr = c"system_u:object_r:iptables_var_run_t:s0";

/// What the steps have changed for the programs that are started behind them.
pub struct Prepared {
    /// PATH, if it is another.
    pub path: Option<OsString>,
    /// How many sockets are handed over, from descriptor 3 on.
    pub listen_fds: u32,
}

impl Prepared {
    /// The command of a program and its words.
    pub fn command(&self, words: &[OsString]) -> Command {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command.envs(self.path.iter().map(|path| ("PATH", path)));
        if self.listen_fds > 0 {
            // LISTEN_PID is set by the process that becomes the daemon.
            command.env("LISTEN_FDS", self.listen_fds.to_string());
        }
        command
    }
}

/// Becomes the daemon.
pub fn execute(mut command: Command) -> Error {
    if command.get_envs().any(|(name, _)| name == "LISTEN_FDS") {
        command.env("LISTEN_PID", std::process::id().to_string());
    }
    let program = command.get_program().to_owned();
    launch::exec_error(&program, &command.exec())
}

/// Performs the steps of `stage`. An error names the step.
pub fn prepare(stage: &Stage, environment: &Environment) -> Result<Prepared, Error> {
    prove_inside(stage.outside)?;
    let mut prepared = Prepared { path: None, listen_fds: 0 };
    let mut chosen = Vec::new();
    for step in &stage.steps {
        let failed = |error: io::Error| {
            Error::new(Exit::Failed, format!("the namespace stage could not {}", step.explain()))
                .because(&error)
        };
        match step {
            Step::DropLink(path) => drop_link(path).map(drop).map_err(failed)?,
            Step::LinkSocket(path) => link_socket(path).map_err(failed)?,
            Step::Label(path) => {
                if let Err(error) = label(path) {
                    warn!("{} is not labelled for iptables: {error}", path.display());
                }
            }
            Step::RebindBroken(path) => rebind_broken(path).map_err(failed)?,
            Step::BindOriginal(path) => {
                if let Err(error) = bind_original(path) {
                    warn!("{} stays a link: {error}", path.display());
                }
            }
            Step::Forward => in_network(stage, forward)?,
            Step::LocalPorts(first) => in_network(stage, || start_ports_at(*first))?,
            Step::LegacyIptables { family, program, required } => {
                match in_network(stage, || netfilter::probe_legacy(*family))? {
                    Ok(()) => chosen.push((*family, program)),
                    Err(reason) if *required => {
                        return Err(failed(io::Error::other(reason))
                            .hint("dockerd-rootless config explain daemon.iptables"));
                    }
                    Err(reason) => debug!("{} is not used: {reason}", program.display()),
                }
            }
            Step::RequireSourceIp => source_ip::probe_source_ip().map_err(|reason| {
                Error::new(Exit::Config, "containers would not see the addresses of clients")
                    .cause(reason)
                    .hint("dockerd-rootless config explain network.source-ip")
                    .check("port-driver")
            })?,
            Step::TakeSockets { count, from } => {
                sockets::take(*count, *from).map_err(|errno| failed(errno.into()))?;
                prepared.listen_fds = *count;
            }
        }
    }
    if !chosen.is_empty() {
        link_iptables(&chosen).map_err(|error| {
            Error::new(Exit::Failed, format!("`{IPTABLES_LINKS}` cannot be made")).because(&error)
        })?;
        let rest = environment.get("PATH");
        let parts = [Some(OsStr::new(IPTABLES_LINKS)), rest].into_iter().flatten();
        prepared.path = Some(parts.collect::<Vec<_>>().join(OsStr::new(":")));
    }
    Ok(prepared)
}

/// Proves through /proc that this process is inside: in another user namespace than the one that
/// the launcher was in, as its root, with a map that is not the host's, and able to mount. No
/// variable is trusted for that: upstream's script, told by a leaked variable that it is inside,
/// sets to work on the host.
fn prove_inside(outside: u64) -> Result<(), Error> {
    let why_not = || -> io::Result<Option<&str>> {
        let map = fs::read_to_string("/proc/self/uid_map")?;
        let can_mount = caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_ADMIN);
        Ok(if look::user_namespace()? == outside {
            Some("its user namespace is the launcher's")
        } else if look::uid() != 0 {
            Some("it does not run as the namespace's root")
        } else if map.split_whitespace().take(2).eq(["0", "0"]) {
            Some("its root is the host's root")
        } else if !can_mount.unwrap_or(false) {
            Some("it lacks CAP_SYS_ADMIN")
        } else {
            None
        })
    };
    let why = match why_not() {
        Ok(None) => return Ok(()),
        Ok(Some(why)) => why.to_owned(),
        Err(error) => format!("/proc/self: {error}"),
    };
    let what = format!("the namespace stage is not inside rootlesskit's namespaces: {why}");
    Err(Error::new(Exit::Failed, what)
        .hint("this command is run by rootlesskit, not by hand: use `dockerd-rootless run`"))
}

/// Unlinks `path` if it is a link on a tmpfs, which is what copy-up makes of an entry, and says
/// whether it was.
fn drop_link(path: &Path) -> io::Result<bool> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let is_one = statfs(parent)?.filesystem_type() == TMPFS_MAGIC && path.is_symlink();
    is_one.then(|| fs::remove_file(path)).transpose().map(|done| done.is_some())
}

/// Links [`DOCKER_SOCKET`] to `socket`. What copy-up has not made is left.
fn link_socket(socket: &Path) -> io::Result<()> {
    drop_link(Path::new(DOCKER_SOCKET))?;
    if statfs("/run")?.filesystem_type() != TMPFS_MAGIC {
        return Ok(());
    }
    match symlink(socket, DOCKER_SOCKET) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    }
}

/// Sets the SELinux label of `path`.
fn label(path: &Path) -> nix::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    let (name, value) = (c"security.selinux".as_ptr(), IPTABLES_LABEL);
    // SAFETY: all strings end in NUL and outlive the call; the kernel reads as many bytes of the
    // value as it has, its NUL included, as libselinux writes it.
    let result = unsafe {
        libc::lsetxattr(path.as_ptr(), name, value.as_ptr().cast(), value.count_bytes() + 1, 0)
    };
    Errno::result(result).map(drop)
}

/// Binds the original over each directory in `root` that copy-up replaced by a link and that does
/// not work any more.
///
/// Copy-up moves what was in `root` one level down, into `root/.roNNN`, and links to it. A
/// relative link that climbs out of `root` then leads elsewhere: on openSUSE
/// `/etc/ssl/certs -> ../../var/lib/ca-certificates/pem` (rootlesskit#225). `/etc/ssl` itself is
/// bound whenever it is a link, as upstream's script does.
fn rebind_broken(root: &Path) -> io::Result<()> {
    if statfs(root)?.filesystem_type() != TMPFS_MAGIC {
        return Ok(());
    }
    for entry in fs::read_dir(root)? {
        let link = entry?.path();
        let Ok(target) = fs::read_link(&link) else { continue };
        let is_copied_up = target.as_os_str().as_bytes().starts_with(b".ro");
        if link != Path::new("/etc/ssl") && !(is_copied_up && climbs_out(&link, 1)) {
            continue;
        }
        bind_original(&link)?;
    }
    Ok(())
}

/// Binds the directory that `link` leads to over it, if it is a link on a tmpfs, as copy-up makes them.
/// If that fails, the link is there again.
fn bind_original(link: &Path) -> io::Result<()> {
    // A link that leads nowhere was broken before.
    let (Ok(original), Ok(target)) = (link.canonicalize(), link.read_link()) else { return Ok(()) };
    if !original.is_dir() || !drop_link(link)? {
        return Ok(());
    }
    debug!("binding {} over {}", original.display(), link.display());
    let (none, flags) = (None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC);
    let bind = || -> io::Result<()> {
        fs::create_dir(link)?;
        mount(Some(&original), link, none, flags, none)
            .inspect_err(|_| drop(fs::remove_dir(link)))?;
        Ok(())
    };
    bind().or_else(|error| symlink(target, link).and(Err(error)))
}

/// Whether a relative link in `directory`, which is `depth` levels below the copied-up root,
/// leaves that root. What cannot be read cannot be judged, and is left as it is.
fn climbs_out(directory: &Path, depth: usize) -> bool {
    let mut entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.any(|entry| match entry.file_type() {
        Ok(kind) if kind.is_symlink() => fs::read_link(entry.path()).is_ok_and(|target| {
            let leading = target.components().take_while(|part| *part == Component::ParentDir);
            leading.count() > depth
        }),
        Ok(kind) if kind.is_dir() && depth < LINK_DEPTH => climbs_out(&entry.path(), depth + 1),
        _ => false,
    })
}

/// Runs `act` in the containers' network namespace. A detached one is entered by a thread that
/// ends with it: there is no way back into the host's (setns(2) would need its capabilities).
pub fn in_network<T: Send>(stage: &Stage, act: impl FnOnce() -> T + Send) -> Result<T, Error> {
    let Some(path) = &stage.netns else { return Ok(act()) };
    let enter = || -> io::Result<T> {
        setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?;
        Ok(act())
    };
    let entered = thread::scope(|scope| scope.spawn(enter).join());
    let entered = entered.unwrap_or_else(|_| Err(io::Error::other("the thread in it panicked")));
    entered.map_err(|error| {
        let what = format!("the network namespace `{}` cannot be entered", path.display());
        Error::new(Exit::Failed, what).because(&error)
    })
}

/// Lets the network namespace forward: dockerd's nftables backend expects to find it on, its
/// iptables backend turns it on by itself. Whether it is needed is dockerd's to say, so a failure
/// does not stop the launch; a host without IPv6 is no news at all (moby 5c9f2e0388).
fn forward() {
    if let Err(error) = turn_on("/proc/sys/net/ipv4/ip_forward") {
        warn!("/proc/sys/net/ipv4/ip_forward cannot be set to 1: {error}");
    }
    if let Err(error) = turn_on("/proc/sys/net/ipv6/conf/all/forwarding") {
        debug!("IPv6 is not forwarded: {error}");
    }
}

/// Lets the kernel, and dockerd with it, choose ports from `first` on. dockerd works without that.
fn start_ports_at(first: u16) {
    let path = "/proc/sys/net/ipv4/ip_local_port_range";
    if let Err(error) = fs::write(path, format!("{first} {}\n", u16::MAX)) {
        warn!(
            "random published ports may be those of other users: `{path}` cannot be set: {error}"
        );
    }
    let Some(kept) = Step::ports_kept_free(first) else { return };
    let path = "/proc/sys/net/ipv4/ip_local_reserved_ports";
    if let Err(error) = fs::write(path, kept) {
        warn!(
            "connections may take ports that are published later: `{path}` cannot be set: {error}"
        );
    }
}

/// Writes `1`, unless it is there: /proc/sys may be read-only, and right already.
fn turn_on(switch: &str) -> io::Result<()> {
    if fs::read_to_string(switch)?.trim() == "1" {
        return Ok(());
    }
    fs::write(switch, "1\n")
}

/// Links the chosen programs under the names that dockerd looks for.
fn link_iptables(chosen: &[(Family, &PathBuf)]) -> io::Result<()> {
    fs::create_dir(IPTABLES_LINKS)?;
    chosen.iter().try_for_each(|(family, program)| {
        let name = match family {
            Family::Ipv4 => "iptables",
            Family::Ipv6 => "ip6tables",
        };
        debug!("{name} is {}", program.display());
        symlink(program, Path::new(IPTABLES_LINKS).join(name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_there_again_if_nothing_can_be_mounted() {
        let place = tempfile::tempdir_in("/dev/shm").unwrap();
        let [link, original] = ["link", "original"].map(|name| place.path().join(name));
        fs::create_dir(&original).unwrap();
        symlink("original", &link).unwrap();
        let bound = thread::scope(|scope| {
            let bind = || {
                caps::drop(None, CapSet::Effective, Capability::CAP_SYS_ADMIN).unwrap();
                bind_original(&link)
            };
            scope.spawn(bind).join().unwrap()
        });
        assert_eq!(bound.unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("original"));
    }
}
