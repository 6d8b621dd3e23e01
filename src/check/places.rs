//! The places that a launch uses: the home, the runtime directory and the sockets in it,
//! rootlesskit's state directory, and what the namespace sees of `/etc`.

use std::path::{Path, PathBuf};

use crate::check::evidence::Evidence;
use crate::check::finding::Finding;
use crate::check::fix::{Fix, quoted};
use crate::check::packages::Package;
use crate::facts::Directory;
use crate::facts::places::user_runtime_dir;
use crate::plan;
use crate::settings::{Choice, NetworkDriver};

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
    let shown = path.display();
    match &person.runtime_dir {
        Some((_, Directory::Makeable)) => Finding::ok(format!("a start makes `{shown}`")),
        _ => Finding::ok(format!("`{shown}` is yours alone")),
    }
}

/// Creates the runtime directory, or leads to another one.
fn fix_runtime_dir(evidence: &Evidence<'_>, finding: Finding) -> Finding {
    let account = &evidence.survey.account;
    let (uid, gid) = (account.uid, account.gid);
    let person = &evidence.host.session.person;
    let own = user_runtime_dir(uid);
    let is_booted = evidence.survey.systemd.booted;
    let home = person.home.as_ref().map(|(home, _)| home);
    match &person.runtime_dir {
        Some((path, Directory::Present { owner, mode })) if *owner == uid && mode & 0o077 != 0 => {
            finding.user(format!("chmod 0700 {}", quoted(path)))
        }
        Some((path, Directory::Missing)) if home.is_some_and(|home| path.starts_with(home)) => {
            finding.user(format!("mkdir -p -m 0700 {}", quoted(path)))
        }
        // What has this name is the user's.
        Some((path, found)) if *path == own && (*found != Directory::Missing || !is_booted) => {
            finding.root(format!("install -d -m 0700 -o {uid} -g {gid} {}", quoted(path)))
        }
        _ => another_runtime_dir(evidence, finding),
    }
}

/// Leads to a runtime directory other than the one that XDG_RUNTIME_DIR names.
fn another_runtime_dir(evidence: &Evidence<'_>, finding: Finding) -> Finding {
    let survey = evidence.survey;
    let finding = finding.because("after `su` or `sudo`, XDG_RUNTIME_DIR may be another user's; `export` applies to this shell only");
    if survey.own_runtime_dir.is_none() && !survey.systemd.booted {
        // Where upstream's tool puts it without systemd.
        return finding
            .user("mkdir -p \"$HOME/.docker/run\" && chmod 0700 \"$HOME/.docker/run\"")
            .user("export XDG_RUNTIME_DIR=\"$HOME/.docker/run\"");
    }
    let finding = if survey.own_runtime_dir.is_some() { finding } else { finding.fix(Fix::Linger) };
    finding
        .user(format!("export XDG_RUNTIME_DIR={}", user_runtime_dir(survey.account.uid).display()))
}

/// `home`: it is there, also when the user manager starts before a login.
pub fn home(evidence: &Evidence<'_>) -> Finding {
    let uid = evidence.survey.account.uid;
    let person = &evidence.host.session.person;
    if let Err(error) = plan::refuse_home(person) {
        return Finding::problem(error.to_string())
            .because("a home may not be mounted yet, and after `su` or `sudo` HOME may be another user's")
            .user(format!("export HOME=\"$(getent passwd {uid} | cut -d: -f6)\""));
    }
    let path = person.home.as_ref().map_or(Path::new("/"), |(home, _)| home);
    let shown = path.display();
    if !evidence.trials.home_writable {
        return Finding::warn(format!(
            "`{shown}` cannot be written: settings, units and docker's contexts cannot be stored"
        ))
        .tell("XDG_CONFIG_HOME, DOCKER_CONFIG and `--data-root` name other places");
    }
    let kind = evidence.survey.mounts.of(path).map_or("", |mount| &mount.kind);
    let is_late = kind.starts_with("fuse.")
        || ["nfs", "nfs4", "cifs", "smb3", "autofs", "ecryptfs"].contains(&kind);
    // Without lingering, the user manager starts with a login, which has waited for the home.
    if is_late && evidence.survey.systemd.linger == Some(true) {
        return Finding::warn(format!("`{shown}` ({kind}) may be mounted after the user manager has started at boot"))
            .tell(format!("if it is, give the unit user@{uid}.service `RequiresMountsFor={shown}`, or start the daemon after a login"));
    }
    Finding::ok(format!("`{shown}` can be written"))
}

/// `socket-path`: every socket that a launch creates has a path that is short enough.
pub fn socket_path(evidence: &Evidence<'_>) -> Finding {
    let session = &evidence.host.session;
    let (Some((runtime_dir, _)), Ok(network)) = (&session.person.runtime_dir, evidence.network())
    else {
        return Finding::untried("there is no runtime directory, or no network driver");
    };
    let sockets = plan::sockets(evidence.settings, session, &network);
    if let Err(error) = plan::refuse_long_paths(&sockets) {
        let finding = Finding::problem(error.to_string());
        return match evidence.survey.own_runtime_dir.as_ref() == Some(runtime_dir) {
            true => finding
                .tell("choose a shorter rootlesskit.state-dir or, for dockerd, `--exec-root`"),
            false => another_runtime_dir(evidence, finding),
        };
    }
    let longest = sockets.iter().map(|(path, _)| path.as_os_str().len()).max().unwrap_or(0);
    Finding::ok(format!("the longest socket path has {longest} bytes"))
}

/// `state-dir`: rootlesskit may delete it with all its contents.
pub fn state_dir(evidence: &Evidence<'_>) -> Finding {
    let session = &evidence.host.session;
    let path = &session.places.state_dir;
    match plan::refuse_foreign_state_dir(path, &session.state_dir, session.person.uid) {
        Ok(()) => Finding::ok(format!("`{}` holds no files of yours", path.display())),
        Err(error) => Finding::problem(error.to_string())
            .tell("choose a new directory, or none: `dockerd-rootless config explain rootlesskit.state-dir` shows what sets it"),
    }
}

/// `resolv-conf`: names are resolved in the namespace. slirp4netns in its sandbox sees `/etc` and
/// `/run` only, and follows the links one by one (slirp4netns#116, moby#52035).
pub fn resolv_conf(evidence: &Evidence<'_>) -> Finding {
    let chain = &evidence.survey.resolv_conf;
    let end = chain.hops.last().map_or(Path::new("/etc/resolv.conf"), |hop| hop).display();
    let is_hidden = |hop: &&PathBuf| !hop.starts_with("/etc") && !hop.starts_with("/run");
    if chain.text.is_none() {
        return Finding::problem(format!("`{end}` cannot be read: no host name is resolved"));
    }
    let hidden = chain.hops.iter().find(is_hidden).filter(|_| is_sandboxed(evidence));
    if let Some(hop) = hidden {
        let hop = hop.display();
        return Finding::problem(format!(
            "slirp4netns cannot see `{hop}` from its sandbox: no host name is resolved"
        ))
        .fix(Fix::Set("network.slirp4netns-sandbox", "false".to_owned()));
    }
    Finding::ok("`/etc/resolv.conf` can be read")
}

/// Returns whether slirp4netns is used with its sandbox. rootlesskit's `auto` leaves it out with a
/// detached network namespace (slirp4netns#317).
fn is_sandboxed(evidence: &Evidence<'_>) -> bool {
    evidence.network().is_ok_and(|network| {
        let explicit = network.settings.slirp4netns_sandbox.value;
        network.driver == NetworkDriver::Slirp4netns
            && (explicit == Choice::Fixed(true)
                || explicit == Choice::Auto && !network.detach_netns)
    })
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
            .tell("`dockerd-rootless config set rootlesskit.copy-up /run` leaves `/etc` as it is; host names may then fail after the host changes its network"),
    }
}
