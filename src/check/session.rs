//! What the session provides: control groups, a bus, a user manager that outlives the login.

use crate::check::evidence::Evidence;
use crate::check::finding::Finding;
use crate::check::fix::Fix;
use crate::check::packages::Package;
use crate::check::trials::Outcome;
use crate::facts::places::user_runtime_dir;

/// The controllers that limit containers, and the flags of `docker run` that need them. Few
/// containers need the last two, which systemd's `user@.service` does not delegate.
const CONTROLLERS: [(&str, &str); 5] = [
    ("cpu", "--cpus"),
    ("memory", "--memory"),
    ("pids", "--pids-limit"),
    ("cpuset", "--cpuset-cpus"),
    ("io", "--device-read-bps"),
];

/// What limits containers where dockerd does not (tried with dockerd 28.5.2).
const INSTEAD: &str = "`docker run --ulimit` works, and a limit on the launcher's control group counts for all containers together";

/// `cgroup`. Rootless dockerd sets limits on cgroup v2 and through systemd only (moby's
/// `UsingSystemd`); elsewhere it ignores them.
pub fn cgroup(evidence: &Evidence<'_>) -> Finding {
    let survey = evidence.survey;
    let ignored = |why: &str| {
        Finding::warn(format!("limits such as --memory are ignored: {why}")).because(INSTEAD)
    };
    match survey.cgroup.version {
        None if survey.release.is_like("alpine") => ignored("no control groups are mounted")
            .root("rc-update add cgroups && rc-service cgroups start"),
        None => ignored("no control groups are mounted"),
        Some(1) => cgroup_1(evidence),
        Some(_) if !survey.systemd.booted => ignored("this host was not booted with systemd"),
        Some(_) if without_cgroups(evidence) => {
            ignored("dockerd is told `native.cgroupdriver=cgroupfs`")
        }
        Some(_) if !survey.systemd.manager => ignored("no user manager runs").fix(Fix::Linger),
        Some(_) => delegation(evidence),
    }
}

/// Offers cgroup v2 from the next boot on.
fn cgroup_1(evidence: &Evidence<'_>) -> Finding {
    const OPTION: &str = "systemd.unified_cgroup_hierarchy=1";
    let survey = evidence.survey;
    // moby#51111
    let finding =
        Finding::warn("--cpus, --memory and --pids-limit have no effect: this host has cgroup v1")
            .because(
                "dockerd 29 and later call cgroup v1 deprecated: it works until May 2029 at least",
            );
    if survey.surroundings.wsl {
        return finding.tell("write `kernelCommandLine = cgroup_no_v1=all` below `[wsl2]` in `.wslconfig` in Windows");
    }
    let finding = finding
        .because("cgroup v2 needs a reboot, and applies to all programs of the host")
        .because(INSTEAD);
    if survey.release.enterprise_linux().is_some() {
        return finding.root(format!("grubby --update-kernel=ALL --args={OPTION}"));
    }
    finding.tell(format!("boot the kernel with `{OPTION}`"))
}

/// Judges which controllers of cgroup v2 reach the user manager.
fn delegation(evidence: &Evidence<'_>) -> Finding {
    let Some(delegated) = &evidence.survey.cgroup.delegated else {
        return Finding::skip("the controllers of the user manager cannot be read");
    };
    let is_missing = |(name, _): &&(&str, &str)| !delegated.iter().any(|own| own == name);
    let (names, flags): (Vec<&str>, Vec<&str>) =
        CONTROLLERS.iter().filter(is_missing).copied().unzip();
    let list = names.join(", ");
    let finding = match names[..] {
        [] => return Finding::ok("cgroup v2 with cpu, memory, pids, cpuset and io"),
        ["cpuset" | "io", ..] => {
            Finding::ok(format!("cgroup v2 with cpu, memory and pids; not delegated: {list}"))
        }
        _ => Finding::warn(format!("these controllers are not delegated to you: {list}")),
    };
    finding
        .because(format!("{} have no effect", flags.join(", ")))
        .because("it takes effect when your user manager restarts: at a login after all your sessions have ended, or after a reboot")
        .fix(Fix::File(
            "/etc/systemd/system/user@.service.d/dockerd-rootless-delegate.conf".to_owned(),
            "[Service]\nDelegate=cpu cpuset io memory pids".to_owned(),
        ))
        .root("systemctl daemon-reload")
}

/// Returns whether dockerd is told not to use systemd's control groups.
fn without_cgroups(evidence: &Evidence<'_>) -> bool {
    evidence.daemon_option("exec-opt").as_deref() == Some("native.cgroupdriver=cgroupfs")
}

/// `dbus`. On cgroup v2 with systemd, runc asks the user manager over the bus to create each
/// container's control group (moby#42793).
pub fn dbus(evidence: &Evidence<'_>) -> Finding {
    let systemd = &evidence.survey.systemd;
    if !systemd.booted {
        return Finding::skip("no systemd on this host, so no bus is needed");
    }
    let Outcome::Fails(failure) = &evidence.trials.bus else {
        return Finding::tried(&evidence.trials.bus, "the user's bus answers");
    };
    let is_needed = evidence.survey.cgroup.version == Some(2) && !without_cgroups(evidence);
    let report = if is_needed { Finding::problem } else { Finding::warn };
    let finding =
        report("there is no user bus: containers or units that need it do not start".to_owned());
    let mut finding = export_runtime_dir(evidence, finding.because(&failure.text));
    if !systemd.manager {
        finding = finding.fix(Fix::Linger);
    }
    if !systemd.dbus_unit {
        finding =
            finding.fix(Fix::Package(Package::UserBus)).user("systemctl --user daemon-reload");
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
    if !survey.systemd.manager {
        return Finding::problem(format!("no user manager runs for `{user}`: no unit can start the daemon"))
            .because("a login by ssh, at the console or with `machinectl shell` starts it; `su` and `sudo` do not")
            .fix(Fix::Linger);
    }
    let Outcome::Fails(failure) = &evidence.trials.manager else {
        let works = format!("the user manager of `{user}` answers");
        return export_runtime_dir(evidence, Finding::tried(&evidence.trials.manager, works));
    };
    Finding::problem(format!("the user manager of `{user}` does not answer"))
        .because(&failure.text)
        .tell(format!("`systemctl restart user@{}.service` by root restarts it, and ends everything that `{user}` runs", survey.account.uid))
}

/// `linger`: the user manager stays without a session.
pub fn linger(evidence: &Evidence<'_>) -> Finding {
    let stops = "the daemon stops when you log out, and does not start at boot";
    match evidence.survey.systemd.linger {
        None => Finding::skip("no systemd on this host, or no name for your user ID"),
        Some(true) => Finding::ok("you linger: the daemon keeps running when you log out"),
        Some(false) => Finding::problem(stops).fix(Fix::Linger),
    }
}

/// Sets the variable by which `systemctl --user` finds the manager, unless it is set.
fn export_runtime_dir(evidence: &Evidence<'_>, finding: Finding) -> Finding {
    let own = user_runtime_dir(evidence.survey.account.uid);
    if evidence.environment.get("XDG_RUNTIME_DIR").is_some_and(|stated| own == stated) {
        return finding;
    }
    finding
        .because("`systemctl --user` needs XDG_RUNTIME_DIR, which `su` and `sudo` do not set")
        .user(format!("export XDG_RUNTIME_DIR={}", own.display()))
}
