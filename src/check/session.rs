//! What the session provides: control groups, a bus, a user manager that outlives the login.

use crate::check::finding::{Evidence, Finding};
use crate::check::fix::Fix;
use crate::check::packages::Package;
use crate::check::trials::Outcome;
use crate::facts::Version;

/// The first dockerd that knows cgroup v2.
const CGROUP_2_SINCE: Version = Version(20, 10, 0);

/// The controllers that limit containers, and the flags of `docker run` that need them.
const CONTROLLERS: [(&str, &str); 5] = [
    ("cpu", "--cpus"),
    ("cpuset", "--cpuset-cpus"),
    ("io", "--device-read-bps"),
    ("memory", "--memory"),
    ("pids", "--pids-limit"),
];

/// Controllers that systemd's `user@.service` does not delegate, and few containers need.
const RARE: [&str; 2] = ["cpuset", "io"];

/// `cgroup`. Rootless dockerd sets limits on cgroup v2 and through systemd only (moby's
/// `UsingSystemd`); elsewhere it ignores them.
pub fn cgroup(evidence: &Evidence<'_>) -> Finding {
    let survey = evidence.survey;
    let too_old = evidence.dockerd_version().filter(|version| *version < CGROUP_2_SINCE);
    let ignored = |why: &str| Finding::warn(format!("limits such as --memory are ignored: {why}"));
    match survey.cgroup.version {
        None if survey.release.is_like("alpine") && survey.surroundings.container.is_none() => {
            ignored("no control groups are mounted")
                .root("rc-update add cgroups")
                .root("rc-service cgroups start")
        }
        None => ignored("no control groups are mounted"),
        Some(1) => cgroup_1(
            evidence,
            Finding::warn(
                "--cpus, --memory and --pids-limit have no effect: this host has cgroup v1",
            ),
        ),
        Some(_) if too_old.is_some() => {
            Finding::problem("containers will not start: this dockerd does not know cgroup v2")
                .tell("install dockerd 20.10 or later")
        }
        Some(_) if !survey.systemd.booted => ignored("this host was not booted with systemd"),
        Some(_) if without_cgroups(evidence) => {
            ignored("dockerd is told `native.cgroupdriver=cgroupfs`")
        }
        Some(_) if !survey.systemd.manager => ignored("no user manager runs").fix(Fix::Linger),
        Some(_) => delegation(evidence),
    }
}

/// Offers cgroup v2 from the next boot on.
fn cgroup_1(evidence: &Evidence<'_>, finding: Finding) -> Finding {
    const OPTION: &str = "systemd.unified_cgroup_hierarchy=1";
    let survey = evidence.survey;
    if survey.surroundings.wsl {
        return finding.tell("write `kernelCommandLine = cgroup_no_v1=all` below `[wsl2]` in `.wslconfig` in Windows");
    }
    if !survey.systemd.booted || survey.surroundings.container.is_some() {
        return finding;
    }
    let finding =
        finding.because("cgroup v2 needs a reboot, and applies to all programs of the host");
    match survey.release.enterprise_linux() {
        Some(8..) => finding.root(format!("grubby --update-kernel=ALL --args={OPTION}")),
        _ if survey.release.is_like("debian") => finding
            .fix(Fix::File(
                "/etc/default/grub.d/dockerd-rootless.cfg".to_owned(),
                format!("GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX {OPTION}\""),
            ))
            .root("update-grub"),
        _ => finding.tell(format!("boot the kernel with `{OPTION}`")),
    }
}

/// Judges which controllers of cgroup v2 reach the user manager.
fn delegation(evidence: &Evidence<'_>) -> Finding {
    let Some(delegated) = &evidence.survey.cgroup.delegated else {
        return Finding::skip("the controllers of the user manager cannot be read");
    };
    let missing = CONTROLLERS.iter().filter(|(name, _)| !delegated.iter().any(|own| own == name));
    let (names, flags): (Vec<&str>, Vec<&str>) = missing.copied().unzip();
    if names.is_empty() {
        return Finding::ok("cgroup v2 with all controllers: cpu, cpuset, io, memory, pids");
    }
    let list = names.join(", ");
    let finding = match names.iter().all(|name| RARE.contains(name)) {
        true => Finding::ok(format!("cgroup v2 with cpu, memory and pids; not delegated: {list}")),
        false => Finding::warn(format!("these controllers are not delegated to you: {list}")),
    };
    let text = "[Service]\nDelegate=cpu cpuset io memory pids";
    finding
        .because(format!("{} have no effect", flags.join(", ")))
        .because("it takes effect when your user manager restarts: at a login after all your sessions have ended, or after a reboot")
        .fix(Fix::File("/etc/systemd/system/user@.service.d/dockerd-rootless-delegate.conf".to_owned(), text.to_owned()))
        .root("systemctl daemon-reload")
}

/// Returns whether dockerd is told not to use systemd's control groups.
fn without_cgroups(evidence: &Evidence<'_>) -> bool {
    evidence.daemon_option("exec-opt", None).as_deref() == Some("native.cgroupdriver=cgroupfs")
}

/// `dbus`. On cgroup v2 with systemd, runc asks the user manager over the bus to create each
/// container's control group (moby#42793).
pub fn dbus(evidence: &Evidence<'_>) -> Finding {
    let systemd = &evidence.survey.systemd;
    if !systemd.booted {
        return Finding::skip("no systemd on this host, so no bus is needed");
    }
    let failure = match &evidence.trials.bus {
        Outcome::Works => return Finding::ok("the user's bus answers"),
        Outcome::NotTried(why) => {
            return Finding::skip(format!("the user's bus was not tried: {why}"));
        }
        Outcome::Fails(failure) => failure,
    };
    let needed = evidence.survey.cgroup.version == Some(2) && !without_cgroups(evidence);
    let mut finding = match needed {
        true => Finding::problem("there is no user bus, and without one no container starts"),
        false => {
            Finding::warn("there is no user bus: units that require `dbus.socket` do not start")
        }
    };
    finding = finding.because(failure.text.clone());
    if !systemd.manager {
        finding = finding.fix(Fix::Linger);
    }
    if !systemd.dbus_unit {
        finding = finding.fix(Fix::Package(Package::UserBus));
    }
    finding = export_runtime_dir(evidence, finding);
    if !systemd.dbus_unit {
        finding = finding.user("systemctl --user daemon-reload");
    }
    finding.user("systemctl --user start dbus.socket")
}

/// `systemd-user`: a user manager answers, under su(1) and sudo(8) as well.
pub fn systemd_user(evidence: &Evidence<'_>) -> Finding {
    let survey = evidence.survey;
    let user = survey.account.display_name();
    if !survey.systemd.booted {
        let what = "no systemd on this host: start the daemon with `dockerd-rootless run`";
        return match survey.surroundings.wsl {
            true => Finding::problem(what).tell("to boot systemd in WSL 0.67.6 and later, write `systemd=true` below `[boot]` in `/etc/wsl.conf`, then `wsl.exe --shutdown`"),
            false => Finding::skip(what),
        };
    }
    match &evidence.trials.manager {
        Outcome::Works => export_runtime_dir(evidence, Finding::ok(format!("the user manager of `{user}` answers"))),
        Outcome::NotTried(why) if survey.systemd.manager => {
            Finding::skip(format!("the user manager of `{user}` was not tried: {why}"))
        }
        Outcome::Fails(failure) if survey.systemd.manager => {
            Finding::problem(format!("the user manager of `{user}` does not answer"))
                .because(failure.text.clone())
                .tell(format!("`systemctl restart user@{}.service` by root restarts it, and ends everything that `{user}` runs", survey.account.uid))
        }
        _ => Finding::problem(format!("no user manager runs for `{user}`: no unit can start the daemon"))
            .because("a login by ssh, at the console or with `machinectl shell` starts it; `su` and `sudo` do not")
            .fix(Fix::Linger),
    }
}

/// `linger`: the user manager stays without a session.
pub fn linger(evidence: &Evidence<'_>) -> Finding {
    let user = evidence.survey.account.display_name();
    match evidence.survey.systemd.linger {
        _ if !evidence.survey.systemd.booted => Finding::skip("no systemd on this host"),
        None => Finding::skip(format!("it is unknown whether `{user}` lingers")),
        Some(true) => {
            Finding::ok(format!("`{user}` lingers: the daemon keeps running when you log out"))
        }
        Some(false) => {
            Finding::problem("the daemon stops when you log out, and does not start at boot")
                .fix(Fix::Linger)
        }
    }
}

/// Sets the variable by which `systemctl --user` finds the manager, unless it is set.
fn export_runtime_dir(evidence: &Evidence<'_>, finding: Finding) -> Finding {
    let own = format!("/run/user/{}", evidence.survey.account.uid);
    match evidence.environment.get("XDG_RUNTIME_DIR") {
        Some(stated) if stated == own.as_str() => finding,
        _ => finding
            .because("`systemctl --user` needs XDG_RUNTIME_DIR, which `su` and `sudo` do not set")
            .user(format!("export XDG_RUNTIME_DIR={own}")),
    }
}
