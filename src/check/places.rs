//! The places that a launch uses: the home, the runtime directory and the sockets in it,
//! rootlesskit's state directory, and what the namespace sees of `/etc`.

use std::path::{Path, PathBuf};

use crate::check::distro::Package;
use crate::check::session::enable_linger;
use crate::check::{Evidence, Finding, distro};
use crate::facts::{Directory, Lock, PidState};
use crate::plan;
use crate::plan::Network;
use crate::settings::{NetworkDriver, Origin};

/// Bytes that the runtime directory must have free. Where a file cannot be written, rootlesskit
/// waits for ever.
const ROOM: u64 = 1 << 20;

/// Whether the runtime directory is one that a launch takes, and has room.
pub fn runtime_dir(evidence: &Evidence<'_>) -> Finding {
    let person = &evidence.host.session.person;
    let path = match plan::refuse_runtime_dir(person)
        .and_then(|path| plan::refuse_shared_runtime_dir(person).map(|()| path))
    {
        Err(error) => return mend_runtime_dir(evidence, Finding::fail(error.to_string())),
        Ok(path) => path,
    };
    let shown = path.display();
    if let Some(free) = evidence.trials.runtime_dir_free.filter(|free| *free < ROOM) {
        return Finding::fail(format!("`{shown}` has only {free} bytes free: rootlesskit would hang"))
            .because(format!("take out what is not needed (`du -a {}` shows it), or have it made larger: `RuntimeDirectorySize=` in logind.conf(5)", quoted(path)));
    }
    let finding = Finding::ok(format!("`{shown}` belongs to you, and nobody else can write it"));
    if person.runtime_dir_guessed {
        return finding.because("XDG_RUNTIME_DIR is not set, and a launch takes this directory");
    }
    finding
}

/// Adds what makes a runtime directory, or another one.
fn mend_runtime_dir(evidence: &Evidence<'_>, finding: Finding) -> Finding {
    let (uid, gid) = (evidence.survey.account.uid, evidence.survey.account.gid);
    let own = PathBuf::from(format!("/run/user/{uid}"));
    let Some((path, directory)) = &evidence.host.session.person.runtime_dir else {
        return another_runtime_dir(evidence, finding);
    };
    let make = format!("install -d -m 0700 -o {uid} -g {gid} {}", quoted(path));
    match directory {
        Directory::Present { owner, mode } if *owner == uid && mode & 0o077 != 0 => {
            finding.user(format!("chmod 0700 {}", quoted(path)))
        }
        // What is called so is the user's, whoever made it.
        Directory::Present { owner, .. } if *path == own && *owner != uid => finding.root(make),
        Directory::Missing if *path == own && evidence.survey.systemd.booted => {
            finding.root(enable_linger(evidence))
        }
        Directory::Missing if *path == own => finding.root(make),
        Directory::Missing if is_at_home(evidence, path) => {
            finding.user(format!("mkdir -p -m 0700 {}", quoted(path)))
        }
        _ => another_runtime_dir(evidence, finding),
    }
}

fn is_at_home(evidence: &Evidence<'_>, path: &Path) -> bool {
    let home = &evidence.host.session.person.home;
    home.as_ref().is_some_and(|(home, _)| path.starts_with(home))
}

/// Adds the way to a runtime directory other than the one that XDG_RUNTIME_DIR names.
fn another_runtime_dir(evidence: &Evidence<'_>, finding: Finding) -> Finding {
    let own = format!("/run/user/{}", evidence.survey.account.uid);
    let finding = finding.because(if evidence.survey.systemd.booted {
        "`export` holds for this shell; a login through systemd-logind sets the variable by itself, and after `su` or `sudo` it may be another user's"
    } else {
        "`export` holds for this shell: write it into your shell's start-up file as well"
    });
    if evidence.survey.own_runtime_dir.is_some() {
        return finding.user(format!("export XDG_RUNTIME_DIR={own}"));
    }
    if evidence.survey.systemd.booted {
        return finding.root(enable_linger(evidence)).user(format!("export XDG_RUNTIME_DIR={own}"));
    }
    // Where upstream's tool puts it without systemd.
    finding
        .user("mkdir -p \"$HOME/.docker/run\"")
        .user("chmod 0700 \"$HOME/.docker/run\"")
        .user("export XDG_RUNTIME_DIR=\"$HOME/.docker/run\"")
}

/// Whether the home is there, also when the user manager starts before anybody logs in.
pub fn home(evidence: &Evidence<'_>) -> Finding {
    let uid = evidence.survey.account.uid;
    let person = &evidence.host.session.person;
    if let Err(error) = plan::refuse_home(person) {
        let finding = Finding::fail(error.to_string());
        return match &person.home {
            None => finding.user(format!("export HOME=\"$(getent passwd {uid} | cut -d: -f6)\"")),
            Some(_) => finding.because(format!(
                "`getent passwd {uid}` shows your home; it may not be mounted yet, and after `su` or `sudo` HOME may be another user's"
            )),
        };
    }
    let path = person.home.as_ref().map_or(Path::new("/"), |(path, _)| path);
    if !evidence.trials.home_writable {
        return unwritable_home(evidence, path);
    }
    let ok = Finding::ok(format!("`{}` is there and can be written", path.display()));
    let systemd = &evidence.survey.systemd;
    let Some(mount) = evidence.survey.mounts.of(path) else {
        return ok;
    };
    let at_login = mount.kind.starts_with("fuse.") || mount.kind == "ecryptfs";
    let late = at_login || matches!(&*mount.kind, "nfs" | "nfs4" | "cifs" | "smb3" | "autofs");
    // Without lingering, the user manager starts with a login, which has waited for the home.
    let starts_at_boot = systemd.booted && systemd.linger == Some(true);
    if !late || !starts_at_boot || systemd.awaited_mounts.iter().any(|awaited| awaited == path) {
        return ok;
    }
    let finding = Finding::warn(format!(
        "`{}` ({}) may be mounted after the user manager has started at boot",
        path.display(),
        mount.kind
    ))
    .because("the user manager looks for units once: those in a home that comes later are not found until `systemctl --user daemon-reload`");
    if at_login {
        return finding.because("it is mounted by a login, which nothing can wait for at boot: start the daemon after the login");
    }
    wait_for_home(uid, path, finding)
}

/// Adds root's drop-in. One of the user's own would lie in the home that is not there yet, and a
/// user manager mounts nothing; `%h` is root's home there.
fn wait_for_home(uid: u32, path: &Path, finding: Finding) -> Finding {
    let directory = format!("/etc/systemd/system/user@{uid}.service.d");
    let Some(path) = path.to_str().filter(|path| !path.contains(['"', '\\', '\n'])) else {
        return finding;
    };
    finding
        .root(format!("install -d -m 0755 {directory}"))
        .root(format!(
            "tee {directory}/dockerd-rootless-home.conf >/dev/null <<'EOF'\n[Unit]\nAfter=remote-fs.target autofs.service\nRequiresMountsFor=\"{}\"\nEOF",
            path.replace('%', "%%")
        ))
        .root("systemctl daemon-reload")
}

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
        return Finding::ok(format!(
            "`{shown}` cannot be written, and nothing is to be written there"
        ));
    }
    Finding::warn(format!("`{shown}` cannot be written: settings, units and docker's contexts cannot be kept"))
        .because(format!("`ls -ld {}` shows whose it is; after `su` or `sudo`, HOME may be another user's", quoted(path)))
        .because("XDG_CONFIG_HOME and DOCKER_CONFIG name other places for them, and `--data-root` one for images")
}

/// Whether every socket that a launch makes has a path that fits.
pub fn socket_path(evidence: &Evidence<'_>) -> Finding {
    let session = &evidence.host.session;
    let Some((runtime_dir, _)) = &session.person.runtime_dir else {
        return Finding::skip("there is no runtime directory: see `runtime-dir`");
    };
    let network = match decide_network(evidence) {
        Ok(network) => network,
        Err(_) => return Finding::skip("no network driver is decided: see `network-driver`"),
    };
    let sockets = plan::sockets(evidence.settings, session, &network);
    let Err(error) = plan::refuse_long_paths(&sockets) else {
        let lengths = sockets.iter().map(|(path, _)| path.as_os_str().len());
        let longest = lengths.max().unwrap_or(0);
        return Finding::ok(format!("the longest socket path has {longest} bytes"));
    };
    let finding = Finding::fail(error.to_string())
        .because("rootlesskit would wait for ever for a socket that cannot be made");
    let fits_or_moves = |(path, limit): &(PathBuf, usize)| {
        path.as_os_str().len() <= *limit || path.starts_with(runtime_dir)
    };
    let is_own = evidence.survey.own_runtime_dir.as_deref() == Some(runtime_dir);
    if !is_own && sockets.iter().all(fits_or_moves) {
        return another_runtime_dir(evidence, finding);
    }
    finding.because("name a shorter directory: rootlesskit.state-dir (`dockerd-rootless config explain rootlesskit.state-dir` shows who sets it), or dockerd's `--exec-root`")
}

fn decide_network(evidence: &Evidence<'_>) -> Result<Network, plan::Refusal> {
    Network::decide(evidence.settings, &evidence.host.tools)
}

/// Whether rootlesskit may have its state directory, which it deletes with all its contents. One
/// that a running daemon holds is as it should be.
pub fn state_dir(evidence: &Evidence<'_>) -> Finding {
    let session = &evidence.host.session;
    if session.person.runtime_dir.is_none() {
        return Finding::skip("there is no runtime directory: see `runtime-dir`");
    }
    let path = session.places.state_dir.display();
    if let Lock::Held(pid) = session.state_dir.lock {
        return Finding::ok(format!("rootless Docker is running (PID {pid}) with `{path}`"));
    }
    if let Err(error) = plan::refuse_foreign_state_dir(
        &session.places.state_dir,
        &session.state_dir,
        session.person.uid,
    ) {
        return Finding::fail(error.to_string()).because(
            "name a directory that does not exist yet, or none: `dockerd-rootless config explain rootlesskit.state-dir` shows who sets it",
        );
    }
    let running = session.pid_files.iter().find_map(|file| match file.state {
        PidState::Running(pid) => Some((pid, file.path.display())),
        PidState::Absent | PidState::Stale(_) | PidState::NoPid => None,
    });
    match running {
        Some((pid, file)) => {
            Finding::ok(format!("rootless Docker is running (PID {pid}), says `{file}`"))
        }
        None => Finding::ok(format!("`{path}` is free")),
    }
}

/// Whether names are resolved in the namespace. slirp4netns in its sandbox sees `/etc` and `/run`
/// alone, and follows the links one by one (slirp4netns#116, moby#52035).
pub fn resolv_conf(evidence: &Evidence<'_>) -> Finding {
    let chain = &evidence.survey.resolv_conf;
    let shown: Vec<String> = chain.hops.iter().map(|hop| format!("`{}`", hop.display())).collect();
    let shown = shown.join(" -> ");
    let end = chain.hops.last().map_or(Path::new("/etc/resolv.conf"), |hop| hop);
    if !chain.ends_in_file {
        let finding =
            Finding::fail(format!("`{}` does not exist: no name is resolved", end.display()));
        return if chain.hops.len() > 1 {
            finding.because(format!("links lead there: {shown}"))
        } else {
            finding
        };
    }
    if let Some(hop) = hidden_hop(evidence) {
        return disable_sandbox(
            evidence,
            Finding::fail(format!(
                "slirp4netns cannot see `{}` from its sandbox: no name is resolved",
                hop.display()
            ))
            .because(format!(
                "the sandbox holds `/etc` and `/run` only, and the links lead out of them: {shown}"
            )),
        );
    }
    let Some(text) = &chain.text else {
        return Finding::fail(format!(
            "`{}` cannot be read by you: no name is resolved",
            end.display()
        ))
        .because("the network driver runs as you and reads it");
    };
    let servers = text.lines().filter(|line| line.split_whitespace().next() == Some("nameserver"));
    match servers.count() {
        0 => Finding::warn(format!("`{}` names no nameserver", end.display())).because(
            "names are then asked of 127.0.0.1 (resolv.conf(5)), where a resolver is rarely found",
        ),
        1 => Finding::ok("`/etc/resolv.conf` names a nameserver"),
        count => Finding::ok(format!("`/etc/resolv.conf` names {count} nameservers")),
    }
}

/// The hop that slirp4netns cannot see, if it is used and sandboxed. rootlesskit's `auto` leaves
/// the sandbox off with a detached network namespace (slirp4netns#317).
fn hidden_hop<'a>(evidence: &Evidence<'a>) -> Option<&'a PathBuf> {
    let network = decide_network(evidence).ok()?;
    let sandboxed = match &*sandbox(evidence) {
        "false" => false,
        "true" => true,
        _ => !network.detach_netns,
    };
    if network.driver != NetworkDriver::Slirp4netns || !sandboxed {
        return None;
    }
    let seen = |hop: &PathBuf| hop.starts_with("/etc") || hop.starts_with("/run");
    evidence.survey.resolv_conf.hops.iter().find(|hop| !seen(hop))
}

/// The value of `--slirp4netns-sandbox` that holds: rootlesskit lets the last one count.
fn sandbox(evidence: &Evidence<'_>) -> String {
    let network = decide_network(evidence);
    network.map_or_else(
        |_| evidence.settings.slirp4netns_sandbox.value.word().to_owned(),
        |network| network.sandbox.to_string_lossy().into_owned(),
    )
}

/// Adds the setting that leaves the sandbox, or says where it is overruled.
fn disable_sandbox(evidence: &Evidence<'_>, finding: Finding) -> Finding {
    let setting = &evidence.settings.slirp4netns_sandbox;
    if sandbox(evidence) != setting.value.word() {
        return finding.because(
            "`--slirp4netns-sandbox` in rootlesskit.flags asks for the sandbox: say `false` there",
        );
    }
    match &setting.origin {
        origin @ (Origin::Variable(_) | Origin::CommandLine | Origin::Flag(_)) => finding.because(
            format!("network.slirp4netns-sandbox must be `false`; it is set by: {origin}"),
        ),
        Origin::Default | Origin::File(..) => {
            finding.user("dockerd-rootless config set network.slirp4netns-sandbox false")
        }
    }
}

/// Whether the files with CA certificates open behind rootlesskit's copy of `/etc`, in which
/// relative links may break (rootlesskit#225).
pub fn etc_links(evidence: &Evidence<'_>) -> Finding {
    let Some(inside) = &evidence.trials.inside else {
        let why = evidence.why_not_inside();
        return Finding::skip(format!("there is no namespace to look from: {why}"));
    };
    if inside.certificates.is_empty() {
        let finding = Finding::warn("no CA certificates are installed: no registry can be trusted");
        return distro::install_for(finding, &evidence.survey.release, Package::CaCertificates);
    }
    let broken: Vec<String> = inside
        .certificates
        .iter()
        .filter(|(_, opens)| !**opens)
        .map(|(path, _)| format!("`{}`", path.display()))
        .collect();
    if broken.is_empty() {
        return Finding::ok("CA certificates open in the namespace");
    }
    Finding::fail(format!("{} does not open in the namespace: no registry is trusted", broken.join(", ")))
        .because("rootlesskit puts links in place of the entries of `/etc`, and a link in there that leads out of `/etc` by a relative path breaks (rootlesskit#225)")
        .because("`dockerd-rootless config set rootlesskit.copy-up '[\"/run\"]'` leaves `/etc` as it is; names may then fail after the host changes its network")
}

/// `path` for a command to paste.
pub fn quoted(path: &Path) -> String {
    crate::words::quote(path.as_os_str()).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status::*;
    use crate::check::tests::{Case, Sample, assert_finding};
    use crate::facts::{LinkChain, Mounts, PidFile, Release, Tool};
    use crate::settings::{Layer, Settings};

    fn set_runtime_dir(sample: &mut Sample, path: &str, directory: Directory) {
        let session = &mut sample.host.session;
        session.person.runtime_dir = Some((path.into(), directory));
        session.places.state_dir = Path::new(path).join("dockerd-rootless");
    }

    fn present(owner: u32, mode: u32) -> Directory {
        Directory::Present { owner, mode }
    }

    fn without_systemd(sample: &mut Sample) {
        sample.survey.systemd.booted = false;
        sample.survey.own_runtime_dir = None;
    }

    fn set(sample: &mut Sample, name: &str, value: &str) {
        let toml = format!(
            "[{}]\n{} = {value}\n",
            name.split_once('.').unwrap().0,
            name.split_once('.').unwrap().1
        );
        let layer = Layer::from_toml(Path::new("/home/u/c.toml"), &toml).expect("TOML");
        sample.settings = Settings::resolve(&[layer]).expect("valid");
    }

    #[test]
    fn a_runtime_directory_that_a_launch_refuses_is_mended() {
        const EXPORT: &str = "export XDG_RUNTIME_DIR=/run/user/1000";
        const LINGER: &str = "loginctl enable-linger u";
        const MAKE: &str = "install -d -m 0700 -o 1000 -g 1000 /run/user/1000";
        let cases: &[Case] = &[
            ("healthy", |_| {}, (Ok, "`/run/user/1000` belongs to you", &[])),
            (
                "guessed",
                |sample| sample.host.session.person.runtime_dir_guessed = true,
                (Ok, "belongs to you", &[]),
            ),
            (
                "written by others",
                |sample| set_runtime_dir(sample, "/run/user/1000", present(1000, 0o1777)),
                (Fail, "mode 1777", &["chmod 0700 /run/user/1000"]),
            ),
            (
                "root's, under the user's name",
                |sample| set_runtime_dir(sample, "/run/user/1000", present(0, 0o1777)),
                (Fail, "belongs to user 0", &[MAKE]),
            ),
            (
                "another's after su",
                |sample| set_runtime_dir(sample, "/run/user/0", present(0, 0o700)),
                (Fail, "belongs to user 0", &[EXPORT]),
            ),
            (
                "another's, and no manager",
                |sample| {
                    set_runtime_dir(sample, "/run/user/0", present(0, 0o700));
                    sample.survey.own_runtime_dir = None;
                },
                (Fail, "belongs to user 0", &[LINGER, EXPORT]),
            ),
            (
                "another's without systemd",
                |sample| {
                    set_runtime_dir(sample, "/tmp", present(0, 0o1777));
                    without_systemd(sample);
                },
                (
                    Fail,
                    "belongs to user 0",
                    &[
                        "mkdir -p \"$HOME/.docker/run\"",
                        "chmod 0700 \"$HOME/.docker/run\"",
                        "export XDG_RUNTIME_DIR=\"$HOME/.docker/run\"",
                    ],
                ),
            ),
            (
                "unset",
                |sample| {
                    sample.host.session.person.runtime_dir = None;
                    sample.survey.own_runtime_dir = None;
                },
                (Fail, "XDG_RUNTIME_DIR is not set", &[LINGER, EXPORT]),
            ),
            (
                "missing",
                |sample| set_runtime_dir(sample, "/run/user/1000", Directory::Missing),
                (Fail, "does not exist", &[LINGER]),
            ),
            (
                "missing without systemd",
                |sample| {
                    set_runtime_dir(sample, "/run/user/1000", Directory::Missing);
                    without_systemd(sample);
                },
                (Fail, "does not exist", &[MAKE]),
            ),
            (
                "missing elsewhere",
                |sample| set_runtime_dir(sample, "/home/u/my run", Directory::Missing),
                (Fail, "does not exist", &["mkdir -p -m 0700 '/home/u/my run'"]),
            ),
            (
                "missing below another's",
                |sample| set_runtime_dir(sample, "/run/user/0/x", Directory::Missing),
                (Fail, "does not exist", &[EXPORT]),
            ),
            (
                "a link",
                |sample| set_runtime_dir(sample, "/home/u/run", Directory::Symlink),
                (Fail, "symbolic link", &[EXPORT]),
            ),
            (
                "full",
                |sample| sample.trials.runtime_dir_free = Some(ROOM - 1),
                (Fail, "has only 1048575 bytes free", &[]),
            ),
            (
                "just enough",
                |sample| sample.trials.runtime_dir_free = Some(ROOM),
                (Ok, "belongs to you", &[]),
            ),
        ];
        for case in cases {
            assert_finding(runtime_dir, case);
        }
    }

    #[test]
    fn a_home_that_comes_late_or_not_at_all_is_seen() {
        fn on(sample: &mut Sample, kind: &str) {
            sample.survey.mounts = Mounts::parse(&format!(
                "27 1 254:0 / / rw - ext4 /dev/vda rw\n30 27 0:50 / /home/u rw - {kind} x rw\n"
            ));
        }
        const WAIT: &[&str] = &[
            "install -d -m 0755 /etc/systemd/system/user@1000.service.d",
            "tee /etc/systemd/system/user@1000.service.d/dockerd-rootless-home.conf >/dev/null <<'EOF'\n[Unit]\nAfter=remote-fs.target autofs.service\nRequiresMountsFor=\"/home/u\"\nEOF",
            "systemctl daemon-reload",
        ];
        let cases: &[Case] = &[
            ("healthy", |_| {}, (Ok, "can be written", &[])),
            (
                "unset",
                |sample| sample.host.session.person.home = None,
                (Fail, "HOME is not set", &["export HOME=\"$(getent passwd 1000 | cut -d: -f6)\""]),
            ),
            (
                "missing",
                |sample| sample.host.session.person.home = Some(("/home/u".into(), false)),
                (Fail, "is not a directory", &[]),
            ),
            (
                "NFS",
                |sample| on(sample, "nfs4"),
                (Warn, "`/home/u` (nfs4) may be mounted after", WAIT),
            ),
            (
                "NFS, and the manager waits",
                |sample| {
                    on(sample, "nfs4");
                    sample.survey.systemd.awaited_mounts = vec!["/home/u".into()];
                },
                (Ok, "can be written", &[]),
            ),
            (
                "NFS without lingering",
                |sample| {
                    on(sample, "nfs4");
                    sample.survey.systemd.linger = Some(false);
                },
                (Ok, "can be written", &[]),
            ),
            (
                "encrypted",
                |sample| on(sample, "fuse.gocryptfs"),
                (Warn, "(fuse.gocryptfs) may be mounted after", &[]),
            ),
            ("a local disk", |sample| on(sample, "xfs"), (Ok, "can be written", &[])),
            (
                "read-only",
                |sample| sample.trials.home_writable = false,
                (Warn, "`/home/u` cannot be written", &[]),
            ),
            (
                "read-only, with all elsewhere",
                |sample| {
                    sample.trials.home_writable = false;
                    sample.environment = [
                        ("HOME", "/home/u"),
                        ("XDG_CONFIG_HOME", "/srv/u"),
                        ("DOCKER_CONFIG", "/srv/u/docker"),
                    ]
                    .into_iter()
                    .collect();
                },
                (Ok, "nothing is to be written there", &[]),
            ),
        ];
        for case in cases {
            assert_finding(home, case);
        }
    }

    #[test]
    fn socket_paths_of_108_bytes_are_seen_before_rootlesskit_hangs() {
        fn long(sample: &mut Sample, bytes: usize) {
            let directory =
                format!("/tmp/{}", "x".repeat(bytes - "/tmp//dockerd-rootless/.bp.sock".len()));
            set_runtime_dir(sample, &directory, present(1000, 0o700));
            // So that rootlesskit's socket is the longest.
            sample.settings.dockerd_args = vec!["--exec-root=/run/user/1000/docker".into()];
        }
        let cases: &[Case] = &[
            ("healthy", |_| {}, (Ok, "has 54 bytes", &[])),
            ("107", |sample| long(sample, 107), (Ok, "has 107 bytes", &[])),
            (
                "108",
                |sample| long(sample, 108),
                (
                    Fail,
                    "is too long: 108 bytes, the limit is 107",
                    &["export XDG_RUNTIME_DIR=/run/user/1000"],
                ),
            ),
            (
                "108 without systemd",
                |sample| {
                    long(sample, 108);
                    without_systemd(sample);
                },
                (
                    Fail,
                    "108 bytes",
                    &[
                        "mkdir -p \"$HOME/.docker/run\"",
                        "chmod 0700 \"$HOME/.docker/run\"",
                        "export XDG_RUNTIME_DIR=\"$HOME/.docker/run\"",
                    ],
                ),
            ),
            (
                "a state directory that was named",
                |sample| {
                    sample.host.session.places.state_dir =
                        format!("/tmp/{}", "x".repeat(100)).into()
                },
                (Fail, "the limit is 107", &[]),
            ),
            (
                "no driver",
                |sample| sample.host.tools.slirp4netns = Tool::Absent,
                (Skip, "no network driver is decided: see `network-driver`", &[]),
            ),
            (
                "no directory",
                |sample| sample.host.session.person.runtime_dir = None,
                (Skip, "no runtime directory", &[]),
            ),
        ];
        for case in cases {
            assert_finding(socket_path, case);
        }
    }

    #[test]
    fn a_running_daemon_may_hold_the_state_directory_and_nobody_else() {
        let cases: &[Case] = &[
            ("healthy", |_| {}, (Ok, "`/run/user/1000/dockerd-rootless` is free", &[])),
            (
                "held",
                |sample| {
                    sample.host.session.state_dir.lock = Lock::Held(42);
                    sample.host.session.state_dir.foreign = vec!["more".into()];
                },
                (Ok, "is running (PID 42) with `/run/user/1000/dockerd-rootless`", &[]),
            ),
            (
                "a daemon elsewhere",
                |sample| {
                    sample.host.session.pid_files = vec![PidFile {
                        path: "/run/user/1000/docker.pid".into(),
                        state: PidState::Running(43),
                        is_daemons: true,
                    }];
                },
                (Ok, "is running (PID 43), says `/run/user/1000/docker.pid`", &[]),
            ),
            (
                "somebody's files",
                |sample| {
                    sample.host.session.state_dir.directory = present(1000, 0o700);
                    sample.host.session.state_dir.foreign = vec!["thesis.tex".into()];
                },
                (Fail, "holds what rootlesskit did not make: `thesis.tex`", &[]),
            ),
            (
                "nowhere",
                |sample| sample.host.session.person.runtime_dir = None,
                (Skip, "no runtime directory", &[]),
            ),
        ];
        for case in cases {
            assert_finding(state_dir, case);
        }
    }

    #[test]
    fn names_are_resolved_where_slirp4netns_can_see_the_file() {
        const SET: &str = "dockerd-rootless config set network.slirp4netns-sandbox false";
        fn links(sample: &mut Sample, hops: &[&str]) {
            sample.survey.resolv_conf.hops = hops.iter().map(PathBuf::from).collect();
        }
        fn nixos(sample: &mut Sample) {
            links(
                sample,
                &["/etc/resolv.conf", "/etc/static/resolv.conf", "/nix/store/x/resolv.conf"],
            );
        }
        let cases: &[Case] = &[
            ("healthy", |_| {}, (Ok, "names a nameserver", &[])),
            (
                "systemd-resolved",
                |sample| {
                    links(sample, &["/etc/resolv.conf", "/run/systemd/resolve/stub-resolv.conf"]);
                    sample.survey.resolv_conf.text =
                        Some("nameserver 127.0.0.53\nnameserver ::1\n".to_owned());
                },
                (Ok, "names 2 nameservers", &[]),
            ),
            ("NixOS", nixos, (Fail, "cannot see `/nix/store/x/resolv.conf`", &[SET])),
            (
                "openSUSE, through the link /var/run",
                |sample| links(sample, &["/etc/resolv.conf", "/var/run/netconfig/resolv.conf"]),
                (Fail, "cannot see `/var/run/netconfig/resolv.conf`", &[SET]),
            ),
            (
                "without the sandbox",
                |sample| {
                    nixos(sample);
                    set(sample, "network.slirp4netns-sandbox", "false");
                },
                (Ok, "names a nameserver", &[]),
            ),
            (
                "the sandbox by a flag",
                |sample| {
                    nixos(sample);
                    set(sample, "rootlesskit.flags", "[\"--slirp4netns-sandbox=true\"]");
                },
                (Fail, "cannot see", &[]),
            ),
            (
                "the sandbox by a variable",
                |sample| {
                    nixos(sample);
                    sample.settings.slirp4netns_sandbox.origin =
                        Origin::Variable("DOCKERD_ROOTLESS_ROOTLESSKIT_SLIRP4NETNS_SANDBOX");
                },
                (Fail, "cannot see", &[]),
            ),
            (
                "another driver",
                |sample| {
                    nixos(sample);
                    set(sample, "network.driver", "\"vpnkit\"");
                },
                (Ok, "names a nameserver", &[]),
            ),
            (
                "a detached namespace",
                |sample| {
                    nixos(sample);
                    set(sample, "network.detach-netns", "true");
                },
                (Ok, "names a nameserver", &[]),
            ),
            (
                "missing",
                |sample| {
                    sample.survey.resolv_conf =
                        LinkChain { hops: vec!["/etc/resolv.conf".into()], ..LinkChain::default() };
                },
                (Fail, "`/etc/resolv.conf` does not exist", &[]),
            ),
            (
                "dangling",
                |sample| {
                    sample.survey.resolv_conf.ends_in_file = false;
                    links(sample, &["/etc/resolv.conf", "/run/gone"]);
                },
                (Fail, "`/run/gone` does not exist", &[]),
            ),
            (
                "unreadable",
                |sample| sample.survey.resolv_conf.text = None,
                (Fail, "cannot be read by you", &[]),
            ),
            (
                "empty",
                |sample| {
                    sample.survey.resolv_conf.text =
                        Some("search example.org\n#nameserver x\n".to_owned())
                },
                (Warn, "names no nameserver", &[]),
            ),
        ];
        for case in cases {
            assert_finding(resolv_conf, case);
        }
    }

    #[test]
    fn certificates_must_open_behind_the_copy_of_etc() {
        fn certificates(sample: &mut Sample, files: &[(&str, bool)]) {
            let inside = sample.trials.inside.as_mut().expect("inside");
            inside.certificates = files.iter().map(|(path, opens)| (path.into(), *opens)).collect();
        }
        let cases: &[Case] = &[
            ("healthy", |_| {}, (Ok, "open in the namespace", &[])),
            (
                "one of two",
                |sample| {
                    certificates(sample, &[("/etc/ssl/a.pem", true), ("/etc/ssl/b.pem", false)])
                },
                (Fail, "`/etc/ssl/b.pem` does not open", &[]),
            ),
            (
                "none",
                |sample| certificates(sample, &[]),
                (Warn, "no CA certificates are installed", &["apt-get install -y ca-certificates"]),
            ),
            (
                "none on an unknown system",
                |sample| {
                    certificates(sample, &[]);
                    sample.survey.release = Release::default();
                },
                (Warn, "no CA certificates are installed", &[]),
            ),
            (
                "no namespaces",
                |sample| sample.trials.inside = None,
                (Skip, "there is no namespace", &[]),
            ),
        ];
        for case in cases {
            assert_finding(etc_links, case);
        }
    }
}
