//! What the session gives: control groups, a bus, a user manager that outlives the login.

use crate::check::distro::Package;
use crate::check::places::quoted;
use crate::check::{Evidence, Finding, distro};
use crate::facts::{Outcome, Version};

/// The first dockerd that knows cgroup v2 (moby's release notes of 20.10).
const CGROUP_2_SINCE: Version = Version(20, 10, 0);

/// The controllers that containers are limited by, and the flags of `docker run` that need them.
const CONTROLLERS: [(&str, &str); 5] = [
    ("cpu", "`--cpus`"),
    ("cpuset", "`--cpuset-cpus`"),
    ("io", "`--device-read-bps`"),
    ("memory", "`--memory`"),
    ("pids", "`--pids-limit`"),
];

/// Controllers that systemd's `user@.service` leaves out to this day, and few containers ask for.
const RARELY_ASKED_FOR: [&str; 2] = ["cpuset", "io"];

/// Whether limits hold. Rootless dockerd has them on cgroup v2 and through systemd alone (moby's
/// `UsingSystemd`); elsewhere its driver is `none`, and limits are dropped.
pub fn cgroup(evidence: &Evidence<'_>) -> Finding {
    let host = &evidence.survey.cgroup;
    let dockerd = evidence.host.tools.dockerd.known();
    let too_old =
        dockerd.and_then(|facts| facts.version).filter(|version| *version < CGROUP_2_SINCE);
    match (host.version, too_old) {
        (None, _) => no_cgroup(evidence),
        (Some(2), Some(version)) => too_new_for(evidence, version),
        (Some(2), None) => delegation(evidence),
        (Some(_), too_old) => old_hierarchy(evidence, too_old.is_none()),
    }
}

fn no_cgroup(evidence: &Evidence<'_>) -> Finding {
    let finding =
        Finding::warn("no control groups are mounted: limits such as `--memory` are ignored");
    if evidence.survey.release.is_like("alpine") && evidence.survey.surroundings.container.is_none()
    {
        return finding
            .because("Alpine mounts them in OpenRC's service `cgroups`")
            .root("rc-update add cgroups")
            .root("rc-service cgroups start");
    }
    finding
}

/// cgroup v2 below a dockerd that does not know it.
fn too_new_for(evidence: &Evidence<'_>, version: Version) -> Finding {
    let finding = Finding::fail(format!(
        "dockerd {version} does not know cgroup v2, which this host has: containers will not start"
    ))
    .because(format!("install dockerd {CGROUP_2_SINCE} or later"));
    let release = &evidence.survey.release;
    // From systemd 256 on, which Fedora 41 has, the word alone does not bring cgroup v1 back.
    let knows_1 = (Some((31, 0))..Some((41, 0))).contains(&release.version());
    if release.id == "fedora" && knows_1 {
        return finding
            .because("or, for Docker 19.03 on Fedora 31 to 40, boot with cgroup v1, which all programs of the host then have")
            .because("it holds from the next boot on")
            .root("grubby --update-kernel=ALL --args=systemd.unified_cgroup_hierarchy=0");
    }
    finding
}

/// cgroup v1: rootless dockerd does without (moby: `native.cgroupdriver=systemd` is refused).
fn old_hierarchy(evidence: &Evidence<'_>, dockerd_knows_2: bool) -> Finding {
    let survey = evidence.survey;
    let finding = Finding::warn(
        "this host has cgroup v1: `--cpus`, `--memory` and `--pids-limit` are ignored",
    )
    .because("rootless Docker sets limits with cgroup v2 and systemd only");
    if survey.surroundings.wsl {
        return finding.because(
            "WSL boots with cgroup v2 alone if `.wslconfig` in Windows says `kernelCommandLine = cgroup_no_v1=all` below `[wsl2]`",
        );
    }
    // runc asks for 4.15 at least (its docs/cgroup-v2.md).
    let kernel_knows_2 = survey.kernel_version() >= Some((4, 15));
    if !survey.systemd.booted
        || survey.surroundings.container.is_some()
        || !dockerd_knows_2
        || !kernel_knows_2
    {
        return finding;
    }
    boot_with_2(evidence, finding)
}

/// Adds what makes systemd mount cgroup v2, by the boot loader's tool of the distribution.
fn boot_with_2(evidence: &Evidence<'_>, finding: Finding) -> Finding {
    const WORD: &str = "systemd.unified_cgroup_hierarchy";
    let release = &evidence.survey.release;
    let finding = finding.because(
        "cgroup v2 holds from the next boot on, and for every program of the host: other container managers must know it, as rootful Docker does from 20.10 on",
    );
    if evidence.survey.boot_words.contains(&format!("{WORD}=1")) {
        return finding
            .because(format!("the kernel was booted with `{WORD}=1`, and systemd did not follow"));
    }
    let enterprise = release.is_like("rhel") && release.version() >= Some((8, 0));
    if enterprise || release.id == "fedora" {
        return finding.root(format!("grubby --update-kernel=ALL --args={WORD}=1"));
    }
    // The last word of a name counts, and GRUB_CMDLINE_LINUX_DEFAULT comes behind ours.
    if release.is_like("debian") && !evidence.survey.boot_words.contains(WORD) {
        return finding
            .root("install -d -m 0755 /etc/default/grub.d")
            .root(format!(
                "tee /etc/default/grub.d/dockerd-rootless.cfg >/dev/null <<'EOF'\nGRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX {WORD}=1\"\nEOF"
            ))
            .root("update-grub");
    }
    finding.because(format!("boot the kernel with the word `{WORD}=1`, and without `{WORD}=0`"))
}

/// cgroup v2: which controllers reach the user manager.
fn delegation(evidence: &Evidence<'_>) -> Finding {
    let survey = evidence.survey;
    if !survey.systemd.booted {
        return Finding::warn(
            "limits such as `--memory` are ignored, since this host was not booted with systemd",
        )
        .because("rootless Docker sets limits with cgroup v2 through systemd only");
    }
    if without_cgroups(evidence) {
        return Finding::warn(
            "limits such as `--memory` are ignored, since dockerd is told `native.cgroupdriver=cgroupfs`",
        );
    }
    if !survey.systemd.manager {
        return Finding::warn(
            "limits such as `--memory` cannot be set, since no user manager runs",
        )
        .because("the user manager holds the control groups of a user")
        .root(enable_linger(evidence));
    }
    let Some(delegated) = &survey.cgroup.delegated else {
        return Finding::skip("the controllers of the user manager cannot be read");
    };
    let missing: Vec<_> = CONTROLLERS
        .iter()
        .filter(|(name, _)| !delegated.iter().any(|delegated| delegated == name))
        .collect();
    let list = |names: Vec<&str>| names.join(", ");
    let names = list(missing.iter().map(|(name, _)| *name).collect());
    let finding = if missing.is_empty() {
        return Finding::ok("cgroup v2 with all controllers: cpu, cpuset, io, memory, pids");
    } else if missing.iter().all(|(name, _)| RARELY_ASKED_FOR.contains(name)) {
        Finding::ok(format!("cgroup v2 with cpu, memory and pids; not delegated: {names}"))
    } else {
        Finding::warn(format!("controllers are not delegated to you: {names}"))
    };
    let flags = list(missing.iter().map(|(_, flag)| *flag).collect());
    let finding = finding.because(format!("{flags} and the like need them"));
    let in_kernel = |name: &str| survey.cgroup.available.iter().any(|known| known == name);
    let absent: Vec<&str> =
        missing.iter().map(|(name, _)| *name).filter(|name| !in_kernel(name)).collect();
    let finding = match &absent[..] {
        [] => finding,
        absent => finding.because(format!("the kernel does not offer: {}", absent.join(", "))),
    };
    if absent.len() == missing.len() {
        return finding;
    }
    delegate(evidence, finding)
}

/// Adds the drop-in that delegates. `Delegate=` adds to what others delegate
/// (systemd.resource-control(5)), so a file of our own takes nothing away.
fn delegate(evidence: &Evidence<'_>, finding: Finding) -> Finding {
    let directory = "/etc/systemd/system/user@.service.d";
    let uid = evidence.survey.account.uid;
    if evidence.survey.release.is_like("nixos") {
        return finding.because(
            "on NixOS, set `systemd.services.\"user@\".serviceConfig.Delegate = \"cpu cpuset io memory pids\";` in configuration.nix",
        );
    }
    finding
        .because(format!(
            "a drop-in counts when your user manager starts anew: at a login after all your sessions ended, with lingering after a reboot; `systemctl restart user@{uid}.service` does it now and ends everything that you run"
        ))
        .root(format!("install -d -m 0755 {directory}"))
        .root(format!(
            "tee {directory}/dockerd-rootless-delegate.conf >/dev/null <<'EOF'\n[Service]\nDelegate=cpu cpuset io memory pids\nEOF"
        ))
        .root("systemctl daemon-reload")
}

/// Whether dockerd's words keep it from systemd's control groups.
fn without_cgroups(evidence: &Evidence<'_>) -> bool {
    let words = evidence.settings.args();
    let option = words.long("exec-opt").flatten();
    option.is_some_and(|option| option == "native.cgroupdriver=cgroupfs")
}

/// Whether there is a bus. On cgroup v2 below systemd, runc asks the user manager over it to make
/// each container's control group (moby#42793).
pub fn dbus(evidence: &Evidence<'_>) -> Finding {
    let survey = evidence.survey;
    if !survey.systemd.booted {
        return Finding::skip("this host was not booted with systemd, so nothing asks for a bus");
    }
    if has_no_user_managers(evidence) {
        return Finding::skip(
            "on RHEL and CentOS 7, no user manager runs that would want a bus; see `systemd-user`",
        );
    }
    let failure = match &evidence.trials.bus {
        Outcome::Works => return Finding::ok("the user's bus answers"),
        Outcome::NotTried(why) => {
            return Finding::skip(format!("the user's bus was not tried: {why}"));
        }
        Outcome::Fails(failure) => failure,
    };
    let needed = survey.cgroup.version == Some(2) && !without_cgroups(evidence);
    let finding = if needed {
        Finding::fail("there is no user bus, and without one no container starts")
            .because("on cgroup v2, each container's control group is made by the user manager, which is asked over the bus")
            .because("`--exec-opt=native.cgroupdriver=cgroupfs` in the daemon's words does without, and without limits")
    } else {
        Finding::warn("there is no user bus: units that require `dbus.socket` do not start")
            .because("the unit that upstream's tool writes for the daemon requires it")
    };
    let mut finding = finding.because(failure.text.clone());
    if !survey.systemd.manager {
        finding = finding.root(enable_linger(evidence));
    }
    let package = distro::install(&survey.release, Package::UserBus);
    match package.filter(|_| !survey.systemd.dbus_unit) {
        Some(command) => finding = finding.root(command),
        None if survey.systemd.dbus_unit => {}
        None => finding = finding.because("no user unit `dbus.socket` is installed"),
    }
    if let Some(command) = export_runtime_dir(evidence) {
        finding = finding.user(command);
    }
    if !survey.systemd.dbus_unit {
        finding = finding.user("systemctl --user daemon-reload");
    }
    finding.user("systemctl --user start dbus.socket")
}

/// Whether a user manager answers, under su(1) and sudo(8) as well.
pub fn systemd_user(evidence: &Evidence<'_>) -> Finding {
    let survey = evidence.survey;
    let shown = survey.account.shown();
    if !survey.systemd.booted {
        let what = "this host was not booted with systemd: start the daemon yourself with `dockerd-rootless run`";
        return if survey.surroundings.wsl {
            Finding::warn(what).because("WSL 0.67.6 and later boots systemd if `/etc/wsl.conf` says `systemd=true` below `[boot]`; `wsl.exe --shutdown` makes it look")
        } else {
            Finding::skip(what)
        };
    }
    let why = match &evidence.trials.manager {
        Outcome::Works => return manager_answers(evidence),
        Outcome::NotTried(why) if survey.systemd.manager => {
            return Finding::skip(format!("the user manager of `{shown}` was not tried: {why}"));
        }
        Outcome::NotTried(why) => why,
        Outcome::Fails(failure) => &failure.text,
    };
    if survey.systemd.manager {
        let uid = survey.account.uid;
        return Finding::warn(format!("the user manager of `{shown}` does not answer"))
            .because(why.clone())
            .because(format!("`systemctl restart user@{uid}.service` by root starts it anew, and ends everything that `{shown}` runs"));
    }
    let finding =
        Finding::warn(format!("no user manager runs for `{shown}`: no unit can start the daemon"))
            .because(why.clone());
    if has_no_user_managers(evidence) {
        return finding.because("on RHEL and CentOS 7, `systemctl --user` does not work by default: start the daemon yourself with `dockerd-rootless run`");
    }
    finding
        .because("a login through systemd-logind starts it: by ssh, at the console, or with `machinectl shell`; `su` and `sudo` do not")
        .root(enable_linger(evidence))
}

/// RHEL 7 starts none, and lingering changes nothing about that.
fn has_no_user_managers(evidence: &Evidence<'_>) -> bool {
    let survey = evidence.survey;
    distro::enterprise_linux(&survey.release) == Some(7) && !survey.systemd.manager
}

fn manager_answers(evidence: &Evidence<'_>) -> Finding {
    let shown = evidence.survey.account.shown();
    let finding = Finding::ok(format!("the user manager of `{shown}` answers"));
    match export_runtime_dir(evidence) {
        None => finding,
        Some(command) => finding
            .because("XDG_RUNTIME_DIR does not name its directory, as after `su` and `sudo`, and `systemctl --user` does not find it so")
            .user(command),
    }
}

/// Whether the user manager stays without a session.
pub fn linger(evidence: &Evidence<'_>) -> Finding {
    let systemd = &evidence.survey.systemd;
    let shown = evidence.survey.account.shown();
    match systemd.linger {
        _ if !systemd.booted => Finding::skip("this host was not booted with systemd"),
        None => Finding::skip(format!("whether `{shown}` lingers cannot be known")),
        Some(true) => Finding::ok(format!("`{shown}` lingers: the daemon outlives the session")),
        Some(false) if has_no_user_managers(evidence) => Finding::warn(format!(
            "`{shown}` does not linger: the runtime directory goes when you log out"
        ))
        .because("the daemon's socket and its state are in it")
        .root(enable_linger(evidence)),
        Some(false) if evidence.survey.release.is_like("nixos") => Finding::warn(format!(
            "`{shown}` does not linger: the daemon stops when you log out"
        ))
        .because(format!(
            "on NixOS, set `users.users.{shown}.linger = true;` in configuration.nix"
        )),
        Some(false) => Finding::warn(format!("`{shown}` does not linger: the daemon stops when you log out"))
            .because("the user manager ends with the last session, and starts with the first and not at boot")
            .root(enable_linger(evidence)),
    }
}

/// root's command that starts the user's manager, now and at boot.
pub fn enable_linger(evidence: &Evidence<'_>) -> String {
    let name = evidence.survey.account.shown();
    format!("loginctl enable-linger {}", quoted(name.as_ref()))
}

/// The command that lets `systemctl --user` find the manager, unless the environment does.
fn export_runtime_dir(evidence: &Evidence<'_>) -> Option<String> {
    let own = format!("/run/user/{}", evidence.survey.account.uid);
    let is_set =
        evidence.environment.get("XDG_RUNTIME_DIR").is_some_and(|stated| stated == own.as_str());
    (!is_set).then(|| format!("export XDG_RUNTIME_DIR={own}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status::*;
    use crate::check::tests::{Case, Sample, assert_finding};
    use crate::facts::{Answer, Release, Tool};

    fn dockerd(sample: &mut Sample, version: Version) {
        if let Tool::Found { answer: Answer::Known(facts), .. } = &mut sample.host.tools.dockerd {
            facts.version = Some(version);
        }
    }

    fn release(sample: &mut Sample, text: &str) {
        sample.survey.release = Release::parse(text);
    }

    const DELEGATE: &[&str] = &[
        "install -d -m 0755 /etc/systemd/system/user@.service.d",
        "tee /etc/systemd/system/user@.service.d/dockerd-rootless-delegate.conf >/dev/null <<'EOF'\n[Service]\nDelegate=cpu cpuset io memory pids\nEOF",
        "systemctl daemon-reload",
    ];

    #[test]
    fn limits_need_cgroup_2_systemd_and_delegated_controllers() {
        let ignored = "`--cpus`, `--memory` and `--pids-limit` are ignored";
        let cases: &[Case] = &[
            ("healthy", |_| {}, (Ok, "all controllers", &[])),
            (
                "the default of Debian 12",
                |sample| {
                    sample.survey.cgroup.delegated =
                        Some(["cpu", "memory", "pids"].map(str::to_owned).into())
                },
                (Ok, "not delegated: cpuset, io", DELEGATE),
            ),
            (
                "the default of systemd before 252",
                |sample| {
                    sample.survey.cgroup.delegated =
                        Some(["memory", "pids"].map(str::to_owned).into())
                },
                (Warn, "not delegated to you: cpu, cpuset, io", DELEGATE),
            ),
            (
                "a kernel without the memory controller",
                |sample| {
                    let four: Vec<String> =
                        ["cpu", "cpuset", "io", "pids"].map(str::to_owned).into();
                    sample.survey.cgroup.available.clone_from(&four);
                    sample.survey.cgroup.delegated = Some(four);
                },
                (Warn, "not delegated to you: memory", &[]),
            ),
            (
                "unread",
                |sample| sample.survey.cgroup.delegated = None,
                (Skip, "cannot be read", &[]),
            ),
            (
                "no manager",
                |sample| sample.survey.systemd.manager = false,
                (Warn, "no user manager runs", &["loginctl enable-linger u"]),
            ),
            (
                "no systemd",
                |sample| sample.survey.systemd.booted = false,
                (Warn, "not booted with systemd", &[]),
            ),
            (
                "told to do without",
                |sample| {
                    sample.settings.dockerd_args =
                        vec!["--exec-opt".into(), "native.cgroupdriver=cgroupfs".into()]
                },
                (Warn, "told `native.cgroupdriver=cgroupfs`", &[]),
            ),
            (
                "none",
                |sample| sample.survey.cgroup.version = None,
                (Warn, "no control groups", &[]),
            ),
            (
                "none on Alpine",
                |sample| {
                    sample.survey.cgroup.version = None;
                    release(sample, "ID=alpine\nVERSION_ID=3.20.1");
                },
                (Warn, "no control groups", &["rc-update add cgroups", "rc-service cgroups start"]),
            ),
            (
                "version 1 on Ubuntu 20.04",
                |sample| {
                    sample.survey.cgroup.version = Some(1);
                    release(sample, "ID=ubuntu\nID_LIKE=debian\nVERSION_ID=20.04");
                },
                (
                    Warn,
                    ignored,
                    &[
                        "install -d -m 0755 /etc/default/grub.d",
                        "tee /etc/default/grub.d/dockerd-rootless.cfg >/dev/null <<'EOF'\nGRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX systemd.unified_cgroup_hierarchy=1\"\nEOF",
                        "update-grub",
                    ],
                ),
            ),
            (
                "version 1 on RHEL 8",
                |sample| {
                    sample.survey.cgroup.version = Some(1);
                    sample.survey.kernel = "4.18.0-553.el8.x86_64".to_owned();
                    release(sample, "ID=rocky\nID_LIKE='rhel centos fedora'\nVERSION_ID=8.10");
                },
                (
                    Warn,
                    ignored,
                    &["grubby --update-kernel=ALL --args=systemd.unified_cgroup_hierarchy=1"],
                ),
            ),
            (
                "version 1 on CentOS 7, whose kernel has no other",
                |sample| {
                    sample.survey.cgroup.version = Some(1);
                    sample.survey.kernel = "3.10.0-1160.el7.x86_64".to_owned();
                    release(sample, "ID=centos\nID_LIKE='rhel fedora'\nVERSION_ID=7");
                },
                (Warn, ignored, &[]),
            ),
            (
                "version 1, and somebody asked for it",
                |sample| {
                    sample.survey.cgroup.version = Some(1);
                    sample.survey.boot_words = "ro systemd.unified_cgroup_hierarchy=0".to_owned();
                },
                (Warn, ignored, &[]),
            ),
            (
                "version 1 without systemd",
                |sample| {
                    sample.survey.cgroup.version = Some(1);
                    sample.survey.systemd.booted = false;
                },
                (Warn, ignored, &[]),
            ),
            (
                "version 1 below a dockerd that knows no other",
                |sample| {
                    sample.survey.cgroup.version = Some(1);
                    dockerd(sample, Version(19, 3, 15));
                },
                (Warn, ignored, &[]),
            ),
            (
                "version 2 below a dockerd that does not know it",
                |sample| dockerd(sample, Version(19, 3, 15)),
                (Fail, "dockerd 19.3.15 does not know cgroup v2", &[]),
            ),
            (
                "the same on Fedora 31",
                |sample| {
                    dockerd(sample, Version(19, 3, 15));
                    release(sample, "ID=fedora\nVERSION_ID=31");
                },
                (
                    Fail,
                    "does not know cgroup v2",
                    &["grubby --update-kernel=ALL --args=systemd.unified_cgroup_hierarchy=0"],
                ),
            ),
        ];
        for case in cases {
            assert_finding(cgroup, case);
        }
    }

    #[test]
    fn containers_need_a_bus_on_cgroup_2() {
        const START: &str = "systemctl --user start dbus.socket";
        fn no_bus(sample: &mut Sample) {
            sample.trials.bus = Outcome::fails("`/run/user/1000/bus`: no such file");
            sample.survey.systemd.bus = false;
        }
        let cases: &[Case] = &[
            ("healthy", |_| {}, (Ok, "answers", &[])),
            ("not started", no_bus, (Fail, "no container starts", &[START])),
            (
                "not installed",
                |sample| {
                    no_bus(sample);
                    sample.survey.systemd.dbus_unit = false;
                },
                (
                    Fail,
                    "no container starts",
                    &[
                        "apt-get install -y dbus-user-session",
                        "systemctl --user daemon-reload",
                        START,
                    ],
                ),
            ),
            (
                "after su, without a manager",
                |sample| {
                    no_bus(sample);
                    sample.survey.systemd.manager = false;
                    sample.environment = [("HOME", "/home/u")].into_iter().collect();
                },
                (
                    Fail,
                    "no container starts",
                    &["loginctl enable-linger u", "export XDG_RUNTIME_DIR=/run/user/1000", START],
                ),
            ),
            (
                "cgroup v1",
                |sample| {
                    no_bus(sample);
                    sample.survey.cgroup.version = Some(1);
                },
                (Warn, "units that require `dbus.socket`", &[START]),
            ),
            (
                "without systemd's control groups",
                |sample| {
                    no_bus(sample);
                    sample.settings.dockerd_args =
                        vec!["--exec-opt=native.cgroupdriver=cgroupfs".into()];
                },
                (Warn, "units that require `dbus.socket`", &[START]),
            ),
            (
                "no systemd",
                |sample| {
                    no_bus(sample);
                    sample.survey.systemd.booted = false;
                },
                (Skip, "not booted with systemd", &[]),
            ),
            (
                "CentOS 7, which has no user managers",
                |sample| {
                    no_bus(sample);
                    sample.survey.cgroup.version = Some(1);
                    sample.survey.systemd.manager = false;
                    release(sample, "ID=centos\nID_LIKE='rhel fedora'\nVERSION_ID=7");
                },
                (Skip, "no user manager runs that would want a bus", &[]),
            ),
            (
                "not tried",
                |sample| sample.trials.bus = Outcome::NotTried("no time".to_owned()),
                (Skip, "not tried: no time", &[]),
            ),
        ];
        for case in cases {
            assert_finding(dbus, case);
        }
    }

    #[test]
    fn a_user_manager_is_found_whatever_the_environment_says() {
        fn no_manager(sample: &mut Sample) {
            sample.trials.manager =
                Outcome::fails("`/run/user/1000/systemd/private`: no such file");
            sample.survey.systemd.manager = false;
        }
        let cases: &[Case] = &[
            ("healthy", |_| {}, (Ok, "the user manager of `u` answers", &[])),
            (
                "after su",
                |sample| {
                    sample.environment = [("XDG_RUNTIME_DIR", "/run/user/0")].into_iter().collect()
                },
                (Ok, "answers", &["export XDG_RUNTIME_DIR=/run/user/1000"]),
            ),
            (
                "none",
                no_manager,
                (Warn, "no user manager runs for `u`", &["loginctl enable-linger u"]),
            ),
            (
                "none, with a name of Samba's",
                |sample| {
                    no_manager(sample);
                    sample.survey.account.name = Some(r"AD\u".to_owned());
                },
                (Warn, r"for `AD\u`", &[r#"loginctl enable-linger "AD\\u""#]),
            ),
            (
                "none on CentOS 7",
                |sample| {
                    no_manager(sample);
                    release(sample, "ID=centos\nID_LIKE='rhel fedora'\nVERSION_ID=7");
                },
                (Warn, "no user manager runs", &[]),
            ),
            (
                "silent",
                |sample| sample.trials.manager = Outcome::fails("connection refused"),
                (Warn, "does not answer", &[]),
            ),
            (
                "not tried",
                |sample| sample.trials.manager = Outcome::NotTried("no time".to_owned()),
                (Skip, "not tried: no time", &[]),
            ),
            (
                "WSL without systemd",
                |sample| {
                    no_manager(sample);
                    sample.survey.systemd.booted = false;
                    sample.survey.surroundings.wsl = true;
                },
                (Warn, "start the daemon yourself", &[]),
            ),
            (
                "no systemd",
                |sample| {
                    no_manager(sample);
                    sample.survey.systemd.booted = false;
                },
                (Skip, "start the daemon yourself", &[]),
            ),
        ];
        for case in cases {
            assert_finding(systemd_user, case);
        }
    }

    #[test]
    fn hints_name_the_version_that_they_are_for() {
        let mut sample = Sample::healthy();
        sample.survey.systemd.manager = false;
        sample.trials.manager = Outcome::fails("no such file");
        release(&mut sample, "ID=centos\nID_LIKE='rhel fedora'\nVERSION_ID=7");
        let reasons = systemd_user(&sample.evidence()).reasons.join("\n");
        assert!(reasons.contains("RHEL and CentOS 7"), "{reasons}");
        release(&mut sample, "ID=rocky\nID_LIKE='rhel fedora'\nVERSION_ID=9.4");
        let reasons = systemd_user(&sample.evidence()).reasons.join("\n");
        assert!(!reasons.contains("CentOS 7"), "{reasons}");
        sample.survey.systemd.booted = false;
        sample.survey.surroundings.wsl = true;
        let reasons = systemd_user(&sample.evidence()).reasons.join("\n");
        assert!(reasons.contains("`/etc/wsl.conf`"), "{reasons}");
    }

    #[test]
    fn the_daemon_stays_with_a_user_who_lingers() {
        let cases: &[Case] = &[
            ("healthy", |_| {}, (Ok, "outlives the session", &[])),
            (
                "not",
                |sample| sample.survey.systemd.linger = Some(false),
                (Warn, "stops when you log out", &["loginctl enable-linger u"]),
            ),
            (
                "not, on CentOS 7, where it keeps no more than a directory",
                |sample| {
                    sample.survey.systemd.linger = Some(false);
                    sample.survey.systemd.manager = false;
                    release(sample, "ID=centos\nID_LIKE='rhel fedora'\nVERSION_ID=7");
                },
                (
                    Warn,
                    "the runtime directory goes when you log out",
                    &["loginctl enable-linger u"],
                ),
            ),
            (
                "not, on NixOS, which takes it back",
                |sample| {
                    sample.survey.systemd.linger = Some(false);
                    release(sample, "ID=nixos\nVERSION_ID=25.05");
                },
                (Warn, "stops when you log out", &[]),
            ),
            (
                "unknown",
                |sample| sample.survey.systemd.linger = None,
                (Skip, "cannot be known", &[]),
            ),
            (
                "no systemd",
                |sample| sample.survey.systemd.booted = false,
                (Skip, "not booted with systemd", &[]),
            ),
        ];
        for case in cases {
            assert_finding(linger, case);
        }
    }
}
