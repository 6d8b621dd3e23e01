use std::process::Command;

use proptest::prelude::*;

use crate::check::subids::mend::free_range;
use crate::check::subids::*;
use crate::check::tests::Sample;
use crate::facts::{Answer, Release};

/// Where the ids of `u` come from, and whether a launch goes well.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// getsubids, and rootlesskit works.
    Works,
    /// getsubids, and rootlesskit fails.
    Fails,
    /// The file, and rootlesskit fails.
    FailsWithFile,
}

fn with_text(text: &str, way: Way) -> Sample {
    let mut sample = Sample::healthy();
    sample.survey.subuid = TextFile::Text(text.to_owned());
    if way != Way::Works {
        sample.trials.rootlesskit = Outcome::fails("no");
    }
    if way == Way::FailsWithFile {
        sample.trials.getsubids_uid = None;
    }
    let users = &mut sample.survey.account.users;
    users.insert(7000, "old".to_owned());
    users.insert(700_000, "new".to_owned());
    sample
}

fn reasons(finding: &Finding) -> String {
    finding.reasons.join("\n")
}

#[test]
fn names_what_is_wrong_with_its_line() {
    use Status::*;
    use Way::*;
    let few = "`u` has 1000 subordinate user ids instead of 65536, in line 1 of `/etc/subuid`, `u:100000:1000`";
    for (text, way, status, summary) in [
        (
            "u:100000:65536",
            Works,
            Ok,
            "`u` has 65536 subordinate user ids in line 1 of `/etc/subuid`, `u:100000:65536`",
        ),
        ("#\n\n1000:100000:65536\n", Works, Ok, "line 3 of `/etc/subuid`, `1000:100000:65536`"),
        (
            "u:100000:1000\nu:200000:64536\n",
            Fails,
            Ok,
            "has 65536 subordinate user ids in lines 1 and 2 of",
        ),
        ("u:100000:65536\ncontainers:2147483647:2147483648\n", Works, Ok, "65536"),
        ("", FailsWithFile, Fail, "`/etc/subuid` has no line for `u`"),
        (
            "uu:100000:65536\n#u:200000:65536\n",
            FailsWithFile,
            Fail,
            "`/etc/subuid` has no line for `u`",
        ),
        ("u:100000:1000\n", Works, Fail, few),
        ("u:100000:65535\n", Works, Fail, "65535 subordinate user ids instead of 65536"),
        (
            "u:100000:65536\n1000:100000:65536\n",
            Fails,
            Fail,
            "line 2 of `/etc/subuid`, `1000:100000:65536`, repeats line 1, `u:100000:65536`",
        ),
        ("u:100000:65536\nu:100000:65536\n", Works, Warn, "repeats line 1"),
        (
            "u:100000:65536\nu:165535:65536\n",
            Works,
            Fail,
            "line 2 of `/etc/subuid`, `u:165535:65536`, overlaps line 1",
        ),
        (
            "u:100000:5\nu:100000:65536\n",
            Works,
            Fail,
            "line 1 of `/etc/subuid`, `u:100000:5`, overlaps line 2",
        ),
        (
            "u:100000:65536\nbob:165535:65536\n",
            Works,
            Warn,
            "line 1 of `/etc/subuid`, `u:100000:65536`, shares 1 of its ids with `bob` (line 2, `bob:165535:65536`)",
        ),
        ("u:100000:65536\nbob:165536:65536\n", Works, Ok, "65536"),
        ("u:1000:65536\n", Works, Fail, "`u:1000:65536`, holds the user's own id 1000"),
        ("u:1001:65536\n", Works, Warn, "`u:1001:65536`, holds the real user 7000, `old`"),
        ("u:10000:65536\n", Works, Warn, "holds ids below 65536"),
        ("u:655360:65536\n", Works, Warn, "holds the real user 700000, `new`"),
        ("u:4294901760:65536\n", Works, Fail, "reaches beyond the last id, 4294967294"),
        ("u:4294901759:65536\n", Works, Ok, "65536"),
        (
            "u:100000:65536\nu:200000:0\n",
            Works,
            Fail,
            "line 2 of `/etc/subuid`, `u:200000:0`, grants no ids",
        ),
        (
            "u:100000:65536\r\n",
            Fails,
            Fail,
            "line 1 of `/etc/subuid`, `u:100000:65536\\r`, has blanks at its ends",
        ),
        ("u:0x186A0:65536\n", Works, Warn, "holds a number that is not plainly decimal"),
        ("u:0x186A0:65536\n", Fails, Fail, "holds a number that is not plainly decimal"),
        ("u:100000:65536:\n", Fails, Fail, "has 4 fields instead of 3"),
        (
            "u:100000:65536\nu:x:1\n",
            Works,
            Warn,
            "line 2 of `/etc/subuid`, `u:x:1`, is damaged: `x` is no number",
        ),
        (
            "bob\nu:100000:65536\n",
            FailsWithFile,
            Fail,
            "line 1 of `/etc/subuid`, `bob`, is damaged: it has 1 field instead of 3",
        ),
        (
            "bob\nu:100000:65536\n",
            Fails,
            Warn,
            "line 1 of `/etc/subuid`, `bob`, is damaged: it has 1 field instead of 3",
        ),
        (
            "bob:x:1\nu:100000:65536\n",
            FailsWithFile,
            Warn,
            "line 1 of `/etc/subuid`, `bob:x:1`, is damaged",
        ),
        ("1000:100000:65536\n", Fails, Fail, "names the user by number"),
        ("1000:100000:65536\n", FailsWithFile, Ok, "65536"),
    ] {
        let finding = subuid(&with_text(text, way).evidence());
        assert_eq!(finding.status, status, "{text:?} {finding:?}");
        assert!(finding.summary.contains(summary), "{text:?} {finding:?}");
        assert_eq!(finding.fix.root.is_empty(), status == Ok, "{text:?} {finding:?}");
    }
}

#[test]
fn judges_groups_by_their_own_file() {
    let mut sample = Sample::healthy();
    sample.survey.subgid = TextFile::Text("u:100000:65536\nu:170000:65536\n".to_owned());
    assert_eq!(subuid(&sample.evidence()).status, Status::Ok);
    assert_eq!(subgid(&sample.evidence()).status, Status::Ok);
    let groups = &mut sample.survey.account.all_groups;
    groups.insert(170_000, "staff".to_owned());
    let finding = subgid(&sample.evidence());
    assert_eq!(finding.status, Status::Warn);
    assert!(finding.summary.starts_with("line 2 of `/etc/subgid`"));
    assert!(finding.summary.ends_with("the real group 170000, `staff`"));
    assert_eq!(
        finding.fix.root,
        [r"LC_ALL=C sed -i -e '2s/^[[:space:]]*u:170000:65536[[:space:]]*$/# &/' /etc/subgid"]
    );
}

#[test]
fn proposes_a_range_that_is_free_in_both_files() {
    let mut sample = with_text("bob:100000:65536", Way::FailsWithFile);
    sample.survey.subgid = TextFile::Text("eve:165536:65536\nu:231072:65536\nbob:xx\n".to_owned());
    let finding = subuid(&sample.evidence());
    assert_eq!(finding.fix.root, ["usermod --add-subuids 231072-296607 u"]);
    sample.survey.account.all_groups.insert(296_607, "g".to_owned());
    let finding = subuid(&sample.evidence());
    assert_eq!(finding.fix.root, ["usermod --add-subuids 296608-362143 u"]);
}

#[test]
fn grants_without_usermod_where_that_cannot_be() {
    let line = r"'D\u:100000:65536'";
    let mut sample = with_text("bob:300000:1", Way::FailsWithFile);
    sample.survey.subgid = TextFile::Absent;
    sample.survey.account.name = Some("D\\u".to_owned());
    sample.survey.account.users.remove(&1000);
    let finding = subuid(&sample.evidence());
    let append =
        format!(r"grep -qxF -e {line} /etc/subuid || printf '\n%s\n' {line} >>/etc/subuid");
    assert_eq!(finding.fix.root, [append]);
    assert!(reasons(&finding).contains("100000 to 165535 has to be free"));

    let mut sample = with_text("", Way::FailsWithFile);
    sample.survey.subuid = TextFile::Absent;
    sample.survey.release = Release::parse("ID=alpine");
    let finding = subuid(&sample.evidence());
    assert_eq!(finding.summary, "`/etc/subuid` does not exist");
    assert_eq!(
        finding.fix.root,
        [
            "[ -e /etc/subuid ] || install -m 0644 /dev/null /etc/subuid",
            "grep -qxF -e u:100000:65536 /etc/subuid || printf '%s\\n' u:100000:65536 >>/etc/subuid"
        ]
    );
    // usermod of RHEL 7.6 has no such option either.
    let commands = finding.fix.root;
    sample.survey.release = Release::parse("ID=centos\nID_LIKE='rhel fedora'\nVERSION_ID=7");
    for (kernel, is_appended) in [("3.10.0-957.el7", true), ("3.10.0-1062.el7", false)] {
        sample.survey.kernel = kernel.to_owned();
        let own = subuid(&sample.evidence()).fix.root;
        assert_eq!(own == commands, is_appended, "{kernel}: {own:?}");
    }

    sample.survey.release = Release::parse("ID=nixos");
    let finding = subuid(&sample.evidence());
    assert!(finding.fix.root.is_empty());
    assert!(reasons(&finding).contains("`users.users.u.autoSubUidGidRange = true`"));
}

#[test]
fn keeps_a_range_that_works_and_holds_data() {
    let mut sample = with_text("u:100000:65536\nbob:100000:65536\n", Way::Works);
    assert_eq!(subuid(&sample.evidence()).fix.root.len(), 2);
    sample.survey.data_root.drivers_with_data = vec!["overlay2".to_owned()];
    let finding = subuid(&sample.evidence());
    assert_eq!(finding.status, Status::Warn);
    assert!(finding.fix.root.is_empty(), "{finding:?}");
    assert!(reasons(&finding).contains("holds data of `overlay2`, which another range"));

    sample.survey.subuid = TextFile::Text(String::new());
    sample.trials.getsubids_uid = None;
    let finding = subuid(&sample.evidence());
    assert_eq!(finding.fix.root.len(), 1);
    assert!(reasons(&finding).contains("only the range that it was made with"));
}

#[test]
fn could_not_read_is_not_ok() {
    let mut sample = with_text("", Way::FailsWithFile);
    sample.survey.subuid = TextFile::Unreadable("Permission denied (os error 13)".to_owned());
    let finding = subuid(&sample.evidence());
    assert_eq!(finding.status, Status::Fail);
    assert_eq!(finding.fix.root, ["chmod 0644 /etc/subuid"]);
    sample.trials.rootlesskit = Outcome::Works;
    assert_eq!(subuid(&sample.evidence()).status, Status::Skip);
}

#[test]
fn believes_getsubids_where_the_file_counts_for_nothing() {
    for (said, works, status, summary) in [
        (
            Some(Ok("0: u 100000 65536\n")),
            true,
            Status::Ok,
            "65536 subordinate user ids in line 1 of `getsubids u`, `0: u 100000 65536`",
        ),
        (
            Some(Ok("0: u 100000 1000\n")),
            true,
            Status::Fail,
            "1000 subordinate user ids instead of 65536",
        ),
        (Some(Ok("0: u 900 65536\n")), false, Status::Fail, "holds the user's own id 1000"),
        (
            Some(Err("Error fetching ranges\n")),
            false,
            Status::Fail,
            "`u` gets no subordinate user ids from `sss` of `/etc/nsswitch.conf`",
        ),
        (
            Some(Ok("")),
            false,
            Status::Fail,
            "`u` gets no subordinate user ids from `sss` of `/etc/nsswitch.conf`",
        ),
        (None, true, Status::Skip, "there is no `getsubids` to count them"),
        (None, false, Status::Fail, "there is no `getsubids` to ask for them"),
    ] {
        let mut sample = with_text("u:1:2:3\nbob\n", if works { Way::Works } else { Way::Fails });
        sample.survey.subids_from_elsewhere = Some("sss".to_owned());
        sample.trials.getsubids_uid =
            said.map(|said| said.map(str::to_owned).map_err(str::to_owned));
        let finding = subuid(&sample.evidence());
        assert_eq!(finding.status, status, "{said:?} {finding:?}");
        assert!(finding.summary.contains(summary), "{said:?} {finding:?}");
        let installs = said.is_none() && !works;
        assert_eq!(!finding.fix.root.is_empty(), installs, "{finding:?}");
    }
    let unknown = subuid(&with_text("", Way::Works).evidence());
    assert_eq!(unknown.status, Status::Ok, "{unknown:?}");
}

#[test]
fn knows_when_rootlesskit_reads_the_file_itself() {
    let old = |version| {
        let mut sample = with_text("bob\nu:100000:65536\n", Way::Fails);
        if let Tool::Found { answer: Answer::Known(facts), .. } = &mut sample.host.tools.rootlesskit
        {
            facts.version = version;
        }
        subuid(&sample.evidence()).status
    };
    assert_eq!(old(Some(Version(1, 0, 1))), Status::Fail);
    assert_eq!(old(Some(Version(1, 1, 0))), Status::Warn);
    assert_eq!(old(None), Status::Warn);
}

#[test]
fn tells_the_worst_first_and_all_the_rest() {
    let text = "u:100000:100\nbob:100050:5\na\nb\nc\nd\ne:1\nu:200000:0\n";
    let mut sample = with_text(text, Way::Fails);
    sample.trials.uid_map = Outcome::fails("newuidmap: no");
    let finding = subuid(&sample.evidence());
    assert!(finding.summary.contains("`u:200000:0`, grants no ids"));
    let reasons = reasons(&finding);
    for part in [
        "100 subordinate user ids instead of 65536",
        "shares 5 of its ids with `bob` (line 2, `bob:100050:5`)",
        "line 3 of `/etc/subuid`, `a`,",
        "line 5 of `/etc/subuid`, `c`,",
        "damaged lines of `/etc/subuid` beyond these: 2",
        "a trial ended so: newuidmap: no",
    ] {
        assert!(reasons.contains(part), "{part}: {reasons}");
    }
    assert!(!reasons.contains("line 6"), "{reasons}");
}

/// Runs the commands twice on a copy, and gives back what is in it then.
fn mended(text: &[u8], commands: &[String]) -> Vec<u8> {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("subuid");
    std::fs::write(&file, text).expect("a copy");
    let script =
        commands.join("\n").replace("/etc/subuid", file.to_str().expect("a path in UTF-8"));
    let run = || {
        let status = Command::new("sh").args(["-eu", "-c", &script]).status().expect("a shell");
        assert!(status.success(), "{script}");
        std::fs::read(&file).expect("the copy")
    };
    let once = run();
    assert_eq!(once, run(), "{script}");
    once
}

#[test]
fn what_is_printed_mends_and_harms_no_other_line() {
    for (text, expected) in [
        (&b""[..], "u:100000:65536\n"),
        (b"bob:100000:65536", "bob:100000:65536\nu:165536:65536\n"),
        (b"u:100000:1000\n", "u:100000:1000\nu:165536:65536\n"),
        (
            b"u:100000:65536\nu:100000:65536\nu:100000:65536",
            "u:100000:65536\n# u:100000:65536\n# u:100000:65536",
        ),
        (
            b"u:100000:65536\nbob:xx\n1000:100000:65536\nbob:200000:1\n",
            "u:100000:65536\n# bob:xx\n# 1000:100000:65536\nbob:200000:1\n",
        ),
        (
            b"u:100000:65536\nbob:120000:65536\n",
            "# u:100000:65536\nbob:120000:65536\nu:231072:65536\n",
        ),
        (b"u:1000:65536\nu:300000:65536\n", "# u:1000:65536\nu:300000:65536\n"),
        (
            b"D\\b.o&/*[:200000:65536:x\r\nu:100000:65536\r\n",
            "D\\b.o&/*[:200000:65536\nu:100000:65536\n",
        ),
        (
            b"it's $HOME `id`\n \t b:0x30D40:0200000 \nu:100000:65536\n",
            "# it's $HOME `id`\nb:200000:65536\nu:100000:65536\n",
        ),
        (b"u:0:4294967295\n", "# u:0:4294967295\nu:100000:65536\n"),
        (b"1000:100000:65536\n", "u:100000:65536\n"),
    ] {
        let sample = |text: &[u8]| {
            let mut sample = with_text(&String::from_utf8_lossy(text), Way::Fails);
            // Nothing but what everybody may run on a copy.
            sample.survey.release = Release::parse("ID=alpine");
            if !text.starts_with(b"1000") {
                sample.trials.getsubids_uid = None;
            }
            sample
        };
        let finding = subuid(&sample(text).evidence());
        let result = mended(text, &finding.fix.root);
        assert_eq!(String::from_utf8_lossy(&result), expected, "{finding:?}");
        let after = subuid(&sample(&result).evidence());
        assert_eq!(after.status, Status::Ok, "{expected:?} {after:?}");
    }
}

#[test]
fn mends_lines_that_hold_any_bytes() {
    let text = b"\xff\xfe:1\n\x00\nm\xc3\xbcller:1 \nu:100000:65536\n\x1b[0m:\xe2\x82:5:6\n";
    let sample = with_text(&String::from_utf8_lossy(text), Way::FailsWithFile);
    let finding = subuid(&sample.evidence());
    let commands = finding.fix.root;
    assert!(commands[0].bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()));
    assert_eq!(
        mended(text, &commands),
        b"# \xff\xfe:1\n# \x00\n# m\xc3\xbcller:1 \nu:100000:65536\n# \x1b[0m:\xe2\x82:5:6\n"
    );
}

proptest! {
    #[test]
    fn judges_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let text = String::from_utf8_lossy(&bytes);
        subuid(&with_text(&text, Way::FailsWithFile).evidence());
    }

    #[test]
    fn proposes_nothing_that_overlaps(
        taken in proptest::collection::vec((0u64..2_000_000, 0u64..300_000), 0..40)
    ) {
        let taken: Vec<_> = taken.into_iter().map(|(first, count)| first..first + count).collect();
        let ids = free_range(taken.clone()).expect("room");
        prop_assert_eq!(size(&ids), ENOUGH);
        prop_assert!(taken.iter().all(|other| shared(&ids, other) == 0), "{:?}", ids);
    }

    #[test]
    fn leaves_a_file_in_which_nothing_is_wrong(
        lines in proptest::collection::vec("(u|1000|b|#|é| ){0,2}:?[0-3]00{2,4}[:x\r]?[0-9]{0,6}[: ]?", 0..6)
    ) {
        let text = lines.join("\n");
        let sample = |text: &str| {
            let mut sample = with_text(text, Way::FailsWithFile);
            sample.survey.release = Release::parse("ID=alpine");
            sample
        };
        let commands = subuid(&sample(&text).evidence()).fix.root;
        let result = mended(text.as_bytes(), &commands);
        let after = subuid(&sample(&String::from_utf8_lossy(&result)).evidence());
        prop_assert_eq!(after.status, Status::Ok, "{:?} {:?}", commands, after);
    }
}

#[test]
fn finds_room_until_there_is_none() {
    assert_eq!(free_range(vec![]), Some(100_000..165_536));
    assert_eq!(free_range(vec![0..100_001, 165_536..165_537]), Some(231_072..296_608));
    assert_eq!(free_range(vec![0..100_000, 150_000..150_000]), Some(100_000..165_536));
    assert_eq!(free_range(vec![0..u64::MAX, 5..u64::MAX]), None);
}
