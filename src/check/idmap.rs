//! newuidmap and newgidmap: whether they are there, have their power, and map ids.

use std::path::Path;

use crate::check::distro;
use crate::check::distro::Package;
use crate::check::{Evidence, Finding};
use crate::facts::{Failure, IdMapper, Outcome};

/// Where only root puts programs.
const SYSTEM_DIRECTORIES: [&str; 6] =
    ["/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/local/sbin"];

/// One of the two programs, and what came of it.
struct Side<'a> {
    /// Its name.
    name: &'static str,
    /// The check that judges the ids that it may map.
    ids: &'static str,
    /// The capability that it needs.
    capability: &'static str,
    /// What is there.
    mapper: &'a Option<IdMapper>,
    /// Whether it maps.
    map: &'a Outcome,
}

/// `newuidmap`: it is there, has its power, and maps.
pub fn newuidmap(evidence: &Evidence<'_>) -> Finding {
    Side {
        name: "newuidmap",
        ids: "subuid",
        capability: "cap_setuid",
        mapper: &evidence.trials.newuidmap,
        map: &evidence.trials.uid_map,
    }
    .judge(evidence)
}

/// `newgidmap`: the same for groups.
pub fn newgidmap(evidence: &Evidence<'_>) -> Finding {
    Side {
        name: "newgidmap",
        ids: "subgid",
        capability: "cap_setgid",
        mapper: &evidence.trials.newgidmap,
        map: &evidence.trials.gid_map,
    }
    .judge(evidence)
}

impl Side<'_> {
    fn judge(&self, evidence: &Evidence<'_>) -> Finding {
        let Some(mapper) = self.mapper else {
            return self.missing(evidence);
        };
        let shown = mapper.path.display();
        match self.map {
            Outcome::Works => Finding::ok(format!("`{shown}` maps ids{}", by_what(mapper))),
            _ if evidence.survey.surroundings.no_new_privs => no_new_privs(evidence, mapper),
            _ if !has_power(mapper) || mapper.nosuid.is_some() => self.powerless(evidence, mapper),
            Outcome::Fails(failure) => self.refused(evidence, mapper, failure),
            Outcome::NotTried(why) => Finding::skip(format!(
                "`{shown}` has its power{}, but was not tried: {why}",
                by_what(mapper)
            )),
        }
    }

    fn missing(&self, evidence: &Evidence<'_>) -> Finding {
        let finding = Finding::fail(format!("no `{}` is in PATH", self.name))
            .because("rootlesskit maps the subordinate ids by it");
        install(evidence, finding)
    }

    /// It is there and cannot do what it is for.
    fn powerless(&self, evidence: &Evidence<'_>, mapper: &IdMapper) -> Finding {
        let shown = mapper.path.display();
        let mut finding = Finding::fail(format!("`{shown}` has no power to map ids"));
        if !has_power(mapper) {
            finding = finding.because(format!(
                "it needs to be set-user-ID root or to have the file capability {}, but belongs \
                 to user {} with mode {:04o}",
                self.capability, mapper.owner, mapper.mode
            ));
        }
        if let Some(point) = &mapper.nosuid {
            finding = finding.because(format!(
                "`{}` is mounted nosuid, which takes such powers away",
                point.display()
            ));
        }
        if !is_systems_own(mapper) {
            return self.step_aside(evidence, mapper, finding);
        }
        if !has_power(mapper) {
            let path = quoted(&mapper.path);
            finding =
                finding.root(format!("chown root:root {path}")).root(format!("chmod 4755 {path}"));
        }
        match &mapper.nosuid {
            None => finding,
            Some(point) => finding
                .because("take `nosuid` out of its line in /etc/fstab as well, or it comes back")
                .root(format!("mount -o remount,suid {}", quoted(point))),
        }
    }

    /// A copy of somebody's own can never have the power; it only stands before one that has.
    fn step_aside(&self, evidence: &Evidence<'_>, mapper: &IdMapper, finding: Finding) -> Finding {
        let finding = match &mapper.shadowed {
            Some(good) => finding
                .because(format!("it stands before `{}` in PATH, which would do", good.display())),
            None => install(evidence, finding.because("a copy of one's own can never have it")),
        };
        if mapper.owner == evidence.survey.account.uid {
            // Neither shells nor rootlesskit take what is not executable; the file stays.
            return finding.user(format!("chmod a-x {}", quoted(&mapper.path)));
        }
        let directory = |path: &Path| path.parent().unwrap_or(path).display().to_string();
        match &mapper.shadowed {
            Some(good) => finding.because(format!(
                "put `{}` before `{}` in PATH",
                directory(good),
                directory(&mapper.path)
            )),
            None => finding.because(format!(
                "then take `{}` out of the front of PATH",
                directory(&mapper.path)
            )),
        }
    }

    /// It has its power, and the map was refused all the same.
    fn refused(&self, evidence: &Evidence<'_>, mapper: &IdMapper, failure: &Failure) -> Finding {
        let (shown, text) = (mapper.path.display(), &failure.text);
        // `uid range [0-1) -> [100000-100001) not allowed`: no such range is granted. EINVAL: the
        // ranges cover one another (user_namespaces(7)).
        if ["not allowed", "Invalid argument"].iter().any(|ids| text.contains(ids)) {
            return Finding::skip(format!(
                "`{shown}` has its power{}, but the ids are refused; see `{}`",
                by_what(mapper),
                self.ids
            ))
            .because(text.clone());
        }
        let surroundings = &evidence.survey.surroundings;
        let finding = Finding::fail(format!("`{shown}` maps no ids: {text}"));
        if surroundings.nested {
            return finding.because(
                "this session is in a user namespace itself, which has to contain the ids: \
                 compare /proc/self/uid_map and give the outer one more of them",
            );
        }
        if surroundings.container.is_some() {
            return finding.because(format!(
                "the container has to be started with the capabilities setuid and setgid, of \
                 which {} is needed here",
                self.capability
            ));
        }
        if evidence.host.kernel.selinux {
            return finding
                .because("SELinux may refuse it: `ausearch -m AVC -ts recent` shows it to root");
        }
        finding.because(format!("its power is there{}", by_what(mapper)))
    }
}

/// Set-user-ID root, or the file capability.
fn has_power(mapper: &IdMapper) -> bool {
    mapper.file_capability || (mapper.owner == 0 && mapper.mode & 0o4000 != 0)
}

/// By which power it maps, as the end of a sentence.
fn by_what(mapper: &IdMapper) -> &'static str {
    match (mapper.file_capability, has_power(mapper)) {
        (true, _) => " by its file capability",
        (false, true) => " by being set-user-ID root",
        (false, false) => "",
    }
}

/// Whether root put it where it is, so that giving it root's power trusts nobody new.
fn is_systems_own(mapper: &IdMapper) -> bool {
    let in_directory = SYSTEM_DIRECTORIES
        .iter()
        .any(|directory| mapper.path.parent() == Some(Path::new(directory)));
    in_directory && (mapper.owner == 0 || !mapper.path.starts_with("/usr/local"))
}

/// `finding` with what brings newuidmap and newgidmap.
fn install(evidence: &Evidence<'_>, finding: Finding) -> Finding {
    let survey = evidence.survey;
    // Red Hat's shadow-utils have them from 7.7 on.
    if distro::enterprise_linux_7_minor(&survey.release, &survey.kernel)
        .is_some_and(|minor| minor <= 6)
    {
        let repository = "vbatts-shadow-utils-newxidmap-epel-7.repo";
        return finding
            .because("RHEL and CentOS 7.6 and older need them from the COPR repository vbatts/shadow-utils-newxidmap")
            .root(format!(
                "curl -fsSL -o /etc/yum.repos.d/{repository} https://copr.fedorainfracloud.org/coprs/vbatts/shadow-utils-newxidmap/repo/epel-7/{repository}"
            ))
            .root("yum install -y shadow-utils46-newxidmap");
    }
    distro::install_for(finding, &survey.release, Package::Uidmap)
}

/// What has no new privileges keeps it so, with all its children (PR_SET_NO_NEW_PRIVS(2const)):
/// only another session helps.
fn no_new_privs(evidence: &Evidence<'_>, mapper: &IdMapper) -> Finding {
    let finding = Finding::fail(format!(
        "`{}` has no power in this session: no_new_privs is set",
        mapper.path.display()
    ))
    .because("it cannot be undone: Docker has to be started from a session without it")
    .because(
        "it comes from a unit with `NoNewPrivileges=` or with what implies it (`SystemCallFilter=`, \
         `RestrictNamespaces=`, `ProtectKernelTunables=`, `LockPersonality=` and others), from a \
         container with `no-new-privileges`, or from a wrapper such as setpriv",
    );
    let check = format!("{} check", quoted(&evidence.host.session.own_path));
    if evidence.survey.systemd.manager {
        return finding
            .because("what the user manager starts does not inherit it")
            .user(format!("systemd-run --user --wait --pipe --quiet {check}"));
    }
    match &evidence.survey.account.name {
        Some(name) => finding.root(format!(
            "su -l {} -c {}",
            quoted(Path::new(name)),
            quoted(Path::new(&check))
        )),
        None => finding,
    }
}

/// `path` as one would type it.
fn quoted(path: &Path) -> String {
    crate::words::quote(path.as_os_str()).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;
    use crate::check::tests::Sample;
    use crate::facts::Release;

    /// newuidmap as `change` makes it, on a host where it then maps nothing.
    fn spoilt(change: impl FnOnce(&mut IdMapper)) -> Sample {
        let mut sample = Sample::healthy();
        change(sample.trials.newuidmap.as_mut().expect("healthy"));
        sample.trials.uid_map =
            Outcome::fails("newuidmap: write to uid_map failed: Operation not permitted");
        sample
    }

    fn own_copy(mapper: &mut IdMapper) {
        mapper.path = "/home/u/my bin/newuidmap".into();
        mapper.owner = 1000;
        mapper.mode = 0o755;
    }

    #[test]
    fn both_work_on_a_healthy_host_and_say_how() {
        let mut sample = Sample::healthy();
        let finding = newuidmap(&sample.evidence());
        assert_eq!(finding, Finding::ok("`/usr/bin/newuidmap` maps ids by being set-user-ID root"));
        let mapper = sample.trials.newgidmap.as_mut().expect("healthy");
        mapper.mode = 0o755;
        mapper.file_capability = true;
        let finding = newgidmap(&sample.evidence());
        assert_eq!(finding, Finding::ok("`/usr/bin/newgidmap` maps ids by its file capability"));
    }

    #[test]
    fn a_missing_program_is_installed() {
        let cases = [
            ("ID=debian\nVERSION_ID=12", "", vec!["apt-get install -y uidmap"]),
            ("ID=alpine\nVERSION_ID=3.22", "", vec!["apk add shadow-uidmap"]),
            ("ID=nixos", "", vec![]),
            (
                "ID=centos\nID_LIKE='rhel fedora'\nVERSION_ID=7",
                "3.10.0-1160.el7",
                vec!["yum install -y shadow-utils"],
            ),
            (
                "ID=centos\nID_LIKE='rhel fedora'\nVERSION_ID=7",
                "3.10.0-957.el7",
                vec![
                    "curl -fsSL -o /etc/yum.repos.d/vbatts-shadow-utils-newxidmap-epel-7.repo https://copr.fedorainfracloud.org/coprs/vbatts/shadow-utils-newxidmap/repo/epel-7/vbatts-shadow-utils-newxidmap-epel-7.repo",
                    "yum install -y shadow-utils46-newxidmap",
                ],
            ),
        ];
        for (release, kernel, commands) in cases {
            let mut sample = Sample::healthy();
            sample.trials.newgidmap = None;
            sample.survey.release = Release::parse(release);
            sample.survey.kernel = kernel.to_owned();
            let finding = newgidmap(&sample.evidence());
            assert_eq!(finding.status, Status::Fail);
            assert_eq!(finding.summary, "no `newgidmap` is in PATH");
            assert_eq!(finding.fix.root, commands, "{release:?} {kernel}");
        }
    }

    #[test]
    fn the_systems_powerless_program_gets_its_power_back() {
        let chmod = ["chown root:root /usr/bin/newuidmap", "chmod 4755 /usr/bin/newuidmap"];
        for (owner, mode) in [(0, 0o755), (1000, 0o4755), (1000, 0o755)] {
            let sample = spoilt(|mapper| {
                mapper.owner = owner;
                mapper.mode = mode;
            });
            let finding = newuidmap(&sample.evidence());
            assert_eq!(finding.status, Status::Fail);
            assert!(finding.reasons[0].contains("set-user-ID root"), "{finding:?}");
            assert_eq!(finding.fix.root, chmod, "{owner} {mode:o}");
        }
        let sample = spoilt(|mapper| mapper.nosuid = Some("/usr".into()));
        let finding = newuidmap(&sample.evidence());
        assert_eq!(finding.fix.root, ["mount -o remount,suid /usr"]);
        assert!(finding.reasons[0].contains("nosuid"));
    }

    #[test]
    fn a_users_own_copy_never_becomes_roots() {
        let sample = spoilt(|mapper| {
            own_copy(mapper);
            mapper.nosuid = Some("/home".into());
            mapper.shadowed = Some("/usr/bin/newuidmap".into());
        });
        let finding = newuidmap(&sample.evidence());
        assert_eq!(finding.status, Status::Fail);
        assert!(finding.fix.root.is_empty(), "{finding:?}");
        assert_eq!(finding.fix.user, ["chmod a-x '/home/u/my bin/newuidmap'"]);

        let sample = spoilt(own_copy);
        let finding = newuidmap(&sample.evidence());
        assert_eq!(finding.fix.root, ["apt-get install -y uidmap"]);
        assert_eq!(finding.fix.user, ["chmod a-x '/home/u/my bin/newuidmap'"]);

        let sample = spoilt(|mapper| {
            own_copy(mapper);
            mapper.path = "/usr/local/bin/newuidmap".into();
        });
        assert_eq!(newuidmap(&sample.evidence()).fix.root, ["apt-get install -y uidmap"]);

        let sample = spoilt(|mapper| {
            mapper.mode = 0o555;
            mapper.path = "/nix/store/x-shadow/bin/newuidmap".into();
            mapper.shadowed = Some("/run/wrappers/bin/newuidmap".into());
        });
        let finding = newuidmap(&sample.evidence());
        assert_eq!(finding.fix, Default::default());
        assert!(finding.reasons.contains(
            &"put `/run/wrappers/bin` before `/nix/store/x-shadow/bin` in PATH".to_owned()
        ));
    }

    #[test]
    fn no_new_privs_is_left_by_another_session() {
        let mut sample = spoilt(|_| ());
        sample.survey.surroundings.no_new_privs = true;
        let finding = newuidmap(&sample.evidence());
        assert_eq!(finding.status, Status::Fail);
        assert_eq!(
            finding.fix.user,
            ["systemd-run --user --wait --pipe --quiet /usr/bin/dockerd-rootless check"]
        );
        assert!(finding.fix.root.is_empty());
        sample.survey.systemd.manager = false;
        sample.survey.account.name = Some("DOM\\u".to_owned());
        let finding = newuidmap(&sample.evidence());
        assert!(finding.fix.user.is_empty());
        assert_eq!(finding.fix.root, ["su -l \"DOM\\\\u\" -c '/usr/bin/dockerd-rootless check'"]);
        sample.trials.uid_map = Outcome::Works;
        assert_eq!(newuidmap(&sample.evidence()).status, Status::Ok);
    }

    #[test]
    fn ids_that_are_refused_are_the_business_of_another_check() {
        for text in [
            "newuidmap: uid range [1-65537) -> [100000-165536) not allowed",
            "newuidmap: write to uid_map failed: Invalid argument",
        ] {
            let mut sample = Sample::healthy();
            sample.trials.uid_map = Outcome::fails(text);
            let finding = newuidmap(&sample.evidence());
            assert_eq!(finding.status, Status::Skip);
            assert!(finding.summary.ends_with("see `subuid`"), "{finding:?}");
            assert_eq!(finding.reasons, [text]);
        }
        let mut sample = Sample::healthy();
        sample.trials.gid_map = Outcome::NotTried("no namespace".to_owned());
        let finding = newgidmap(&sample.evidence());
        assert_eq!(finding.status, Status::Skip);
        assert!(finding.summary.ends_with("was not tried: no namespace"));
    }

    #[test]
    fn a_refusal_in_spite_of_power_is_explained_by_the_surroundings() {
        type Case = (fn(&mut Sample), &'static str);
        let cases: [Case; 4] = [
            (|s| s.survey.surroundings.nested = true, "/proc/self/uid_map"),
            (|s| s.survey.surroundings.container = Some("docker".to_owned()), "cap_setuid"),
            (|s| s.host.kernel.selinux = true, "ausearch"),
            (|_| (), "set-user-ID root"),
        ];
        for (spoil, reason) in cases {
            let mut sample = spoilt(|_| ());
            spoil(&mut sample);
            let finding = newuidmap(&sample.evidence());
            assert_eq!(finding.status, Status::Fail);
            assert!(finding.summary.contains("Operation not permitted"));
            assert!(finding.reasons[0].contains(reason), "{finding:?}");
            assert_eq!(finding.fix, Default::default());
        }
    }
}
