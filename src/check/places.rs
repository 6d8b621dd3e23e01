//! The places that a launch uses: the home, the runtime directory and the sockets in it,
//! rootlesskit's state directory, and what the namespace sees of `/etc`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::check::finding::{Evidence, Finding};
use crate::check::fix::{Fix, quoted};
use crate::check::packages::Package;
use crate::facts::{Directory, Lock, PidState};
use crate::plan;
use crate::settings::NetworkDriver;

/// Bytes that the runtime directory must have free. Where a file cannot be written, rootlesskit
/// hangs.
const ROOM: u64 = 1 << 20;

/// `runtime-dir`: a launch accepts it, and it has room.
pub fn runtime_dir(evidence: &Evidence<'_>) -> Finding {
    let person = &evidence.host.session.person;
    let accepted = plan::refuse_runtime_dir(person)
        .and_then(|path| plan::refuse_shared_runtime_dir(person).map(|()| path));
    let path = match accepted {
        Err(error) => return fix_runtime_dir(evidence, Finding::problem(error.to_string())),
        Ok(path) => path,
    };
    if let Some(free) = evidence.trials.runtime_dir_free.filter(|free| *free < ROOM) {
        return Finding::problem(format!("`{}` has only {free} bytes free: rootlesskit would hang", path.display()))
            .tell(format!("remove what is not needed (`du -a {}`), or raise `RuntimeDirectorySize=` in logind.conf(5)", quoted(path)));
    }
    Finding::ok(format!("`{}` is yours alone", path.display()))
}

/// Creates a runtime directory, or names another one.
fn fix_runtime_dir(evidence: &Evidence<'_>, finding: Finding) -> Finding {
    let (uid, gid) = (evidence.survey.account.uid, evidence.survey.account.gid);
    let person = &evidence.host.session.person;
    let own = PathBuf::from(format!("/run/user/{uid}"));
    let Some((path, directory)) = &person.runtime_dir else {
        return another_runtime_dir(evidence, finding);
    };
    let is_at_home = person.home.as_ref().is_some_and(|(home, _)| path.starts_with(home));
    let create = format!("install -d -m 0700 -o {uid} -g {gid} {}", quoted(path));
    match directory {
        Directory::Present { owner, mode } if *owner == uid && mode & 0o077 != 0 => {
            finding.user(format!("chmod 0700 {}", quoted(path)))
        }
        // What has this name is the user's, whoever created it.
        Directory::Present { owner, .. } if *path == own && *owner != uid => finding.root(create),
        Directory::Missing if *path == own && evidence.survey.systemd.booted => {
            finding.fix(Fix::Linger)
        }
        Directory::Missing if *path == own => finding.root(create),
        Directory::Missing if is_at_home => {
            finding.user(format!("mkdir -p -m 0700 {}", quoted(path)))
        }
        _ => another_runtime_dir(evidence, finding),
    }
}

/// Leads to a runtime directory other than the one that XDG_RUNTIME_DIR names.
fn another_runtime_dir(evidence: &Evidence<'_>, finding: Finding) -> Finding {
    let own = format!("/run/user/{}", evidence.survey.account.uid);
    let booted = evidence.survey.systemd.booted;
    let finding = finding.because(match booted {
        true => "a login through systemd-logind sets XDG_RUNTIME_DIR; after `su` or `sudo` it may be another user's",
        false => "`export` applies to this shell: add it to your shell's start-up file as well",
    });
    if evidence.survey.own_runtime_dir.is_some() {
        return finding.user(format!("export XDG_RUNTIME_DIR={own}"));
    }
    if booted {
        return finding.fix(Fix::Linger).user(format!("export XDG_RUNTIME_DIR={own}"));
    }
    // Where upstream's tool puts it without systemd.
    finding
        .user("mkdir -p \"$HOME/.docker/run\" && chmod 0700 \"$HOME/.docker/run\"")
        .user("export XDG_RUNTIME_DIR=\"$HOME/.docker/run\"")
}

/// `home`: it is there, also when the user manager starts before a login.
pub fn home(evidence: &Evidence<'_>) -> Finding {
    let uid = evidence.survey.account.uid;
    let person = &evidence.host.session.person;
    let Some((path, _)) = &person.home else {
        return Finding::problem("HOME is not set")
            .user(format!("export HOME=\"$(getent passwd {uid} | cut -d: -f6)\""));
    };
    if let Err(error) = plan::refuse_home(person) {
        return Finding::problem(error.to_string())
            .tell(format!("`getent passwd {uid}` shows your home: it may not be mounted yet, and after `su` or `sudo` HOME may be another user's"));
    }
    let ok = Finding::ok(format!("`{}` can be written", path.display()));
    if !evidence.trials.home_writable {
        return unwritable_home(evidence, path);
    }
    let systemd = &evidence.survey.systemd;
    let Some(mount) = evidence.survey.mounts.of(path) else { return ok };
    let at_login = mount.kind.starts_with("fuse.") || mount.kind == "ecryptfs";
    let late = at_login || matches!(&*mount.kind, "nfs" | "nfs4" | "cifs" | "smb3" | "autofs");
    // Without lingering, the user manager starts with a login, which has waited for the home.
    let starts_at_boot = systemd.booted && systemd.linger == Some(true);
    if !late || !starts_at_boot || systemd.awaits_mounts {
        return ok;
    }
    let finding = Finding::warn(format!(
        "`{}` ({}) may be mounted after the user manager has started at boot",
        path.display(),
        mount.kind
    ));
    match path.to_str().filter(|path| !path.contains(['"', '\\', '\n'])) {
        _ if at_login => finding.tell("start the daemon after a login, which mounts it"),
        None => finding,
        // A drop-in of the user's would lie in the home itself.
        Some(path) => finding
            .fix(Fix::File(
                format!("/etc/systemd/system/user@{uid}.service.d/dockerd-rootless-home.conf"),
                format!(
                    "[Unit]\nAfter=remote-fs.target autofs.service\nRequiresMountsFor=\"{}\"",
                    path.replace('%', "%%")
                ),
            ))
            .root("systemctl daemon-reload"),
    }
}

/// Reports a home that cannot be written, unless everything has another place.
fn unwritable_home(evidence: &Evidence<'_>, path: &Path) -> Finding {
    let elsewhere = |name: &str| {
        let stated = evidence.environment.absolute(name);
        stated.is_some_and(|stated| !stated.starts_with(path))
    };
    let shown = path.display();
    if evidence.trials.data_root_writable
        && elsewhere("XDG_CONFIG_HOME")
        && elsewhere("DOCKER_CONFIG")
    {
        return Finding::ok(format!("`{shown}` cannot be written, and nothing has to be"));
    }
    Finding::warn(format!(
        "`{shown}` cannot be written: settings, units and docker's contexts cannot be stored"
    ))
    .tell(format!(
        "`ls -ld {}` shows whose it is; after `su` or `sudo`, HOME may be another user's",
        quoted(path)
    ))
    .tell("XDG_CONFIG_HOME, DOCKER_CONFIG and `--data-root` name other places")
}

/// `socket-path`: every socket that a launch creates has a path that is short enough.
pub fn socket_path(evidence: &Evidence<'_>) -> Finding {
    let session = &evidence.host.session;
    let Some((runtime_dir, _)) = &session.person.runtime_dir else {
        return Finding::untried("there is no runtime directory");
    };
    let Ok(network) = evidence.network() else {
        return Finding::untried("no network driver is chosen");
    };
    let sockets = plan::sockets(evidence.settings, session, &network);
    let Err(error) = plan::refuse_long_paths(&sockets) else {
        let lengths = sockets.iter().map(|(path, _)| path.as_os_str().len());
        return Finding::ok(format!(
            "the longest socket path has {} bytes",
            lengths.max().unwrap_or(0)
        ));
    };
    let finding = Finding::problem(error.to_string());
    let fits_or_moves = |(path, limit): &(PathBuf, usize)| {
        path.as_os_str().len() <= *limit || path.starts_with(runtime_dir)
    };
    let is_own = evidence.survey.own_runtime_dir.as_deref() == Some(runtime_dir);
    if !is_own && sockets.iter().all(fits_or_moves) {
        return another_runtime_dir(evidence, finding);
    }
    finding.tell("choose a shorter rootlesskit.state-dir or, for dockerd, `--exec-root`")
}

/// `state-dir`: rootlesskit may delete it with all its contents.
pub fn state_dir(evidence: &Evidence<'_>) -> Finding {
    let session = &evidence.host.session;
    if session.person.runtime_dir.is_none() {
        return Finding::untried("there is no runtime directory");
    }
    if let Lock::Held(pid) = session.state_dir.lock {
        return Finding::ok(format!("rootless Docker is running (PID {pid})"));
    }
    if let Err(error) = plan::refuse_foreign_state_dir(
        &session.places.state_dir,
        &session.state_dir,
        session.person.uid,
    ) {
        return Finding::problem(error.to_string())
            .tell("choose a new directory, or none: `dockerd-rootless config explain rootlesskit.state-dir` shows what sets it");
    }
    let mut files = session.pid_files.iter();
    match files
        .find_map(|file| if let PidState::Running(pid) = file.state { Some(pid) } else { None })
    {
        Some(pid) => Finding::ok(format!("rootless Docker is running (PID {pid})")),
        None => Finding::ok(format!("`{}` is free", session.places.state_dir.display())),
    }
}

/// `resolv-conf`: names are resolved in the namespace. slirp4netns in its sandbox sees `/etc` and
/// `/run` only, and follows the links one by one (slirp4netns#116, moby#52035).
pub fn resolv_conf(evidence: &Evidence<'_>) -> Finding {
    let chain = &evidence.survey.resolv_conf;
    let end = chain.hops.last().map_or(Path::new("/etc/resolv.conf"), |hop| hop).display();
    if !chain.ends_in_file {
        return Finding::problem(format!("`{end}` does not exist: no host name is resolved"));
    }
    let seen = |hop: &&PathBuf| hop.starts_with("/etc") || hop.starts_with("/run");
    if let Some(hop) = chain.hops.iter().find(|hop| !seen(hop)).filter(|_| is_sandboxed(evidence)) {
        let finding = Finding::problem(format!(
            "slirp4netns cannot see `{}` from its sandbox: no host name is resolved",
            hop.display()
        ));
        return match evidence.flags().value("slirp4netns-sandbox") {
            Some(_) => finding.tell("set `--slirp4netns-sandbox=false` in rootlesskit.flags"),
            None => finding.fix(Fix::Set("network.slirp4netns-sandbox", "false".to_owned())),
        };
    }
    let Some(text) = &chain.text else {
        return Finding::problem(format!("you cannot read `{end}`: no host name is resolved"));
    };
    let servers = text.lines().filter(|line| line.split_whitespace().next() == Some("nameserver"));
    match servers.count() {
        0 => Finding::warn(format!("`{end}` contains no nameserver")),
        count => Finding::ok(format!(
            "`/etc/resolv.conf` contains {count} nameserver{}",
            if count == 1 { "" } else { "s" }
        )),
    }
}

/// Returns whether slirp4netns is used with its sandbox. rootlesskit's `auto` leaves it out with a
/// detached network namespace (slirp4netns#317).
fn is_sandboxed(evidence: &Evidence<'_>) -> bool {
    let Ok(network) = evidence.network() else { return false };
    let setting = OsStr::new(evidence.settings.slirp4netns_sandbox.value.word());
    let stated = evidence.flags().value("slirp4netns-sandbox").unwrap_or(setting);
    let sandboxed = stated == "true" || (stated != "false" && !network.detach_netns);
    sandboxed && network.driver == NetworkDriver::Slirp4netns
}

/// `etc-links`: the files with CA certificates open behind rootlesskit's copy of `/etc`, in which
/// relative links may break (rootlesskit#225).
pub fn etc_links(evidence: &Evidence<'_>) -> Finding {
    let Some(inside) = &evidence.trials.inside else {
        return Finding::untried("no namespace to look from");
    };
    if inside.certificates.is_empty() {
        return Finding::warn("no CA certificates are installed: no registry can be trusted")
            .fix(Fix::Package(Package::CaCertificates));
    }
    match inside.certificates.iter().find(|(_, opens)| !**opens) {
        None => Finding::ok("CA certificates open in the namespace"),
        Some((path, _)) => Finding::problem(format!("`{}` does not open in the namespace: no registry can be trusted", path.display()))
            .because("rootlesskit copies the links of `/etc`, and a relative link that leaves `/etc` breaks (rootlesskit#225)")
            .tell("`dockerd-rootless config set rootlesskit.copy-up '[\"/run\"]'` leaves `/etc` as it is; host names may then fail after the host changes its network"),
    }
}
