//! The options of `check`, its streams and its exit codes.

use std::collections::BTreeSet;
use std::fs::File;
use std::process::Stdio;

use serde_json::Value;

use super::{check, check_with};
use test_support::*;

/// All names, in their order.
fn names(user: &TestUser) -> Vec<String> {
    let list = Told::by(&mut check(user, "--list --format json")).json();
    let checks = list["checks"].as_array().expect("checks").iter();
    checks.map(|check| check["name"].as_str().expect("a name").to_owned()).collect()
}

fn reported(told: &Told) -> Vec<String> {
    let report = told.json();
    let checks = report["checks"].as_array().expect("checks").iter();
    checks.map(|check| check["name"].as_str().expect("a name").to_owned()).collect()
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[test]
fn the_report_in_json_has_exactly_this_form() {
    let user = TestUser::new();
    let told = Told::by(&mut check(&user, "--format json"));
    assert_eq!((told.code, told.stderr.as_str()), (Some(0), ""), "{told:?}");
    assert!(told.stdout.ends_with("}\n"), "{told:?}");
    let report = told.json();
    assert_eq!(keys(&report), BTreeSet::from(["schema", "host", "checks", "counts"]));
    assert_eq!(report["schema"], 1);
    let host = BTreeSet::from(["os", "kernel", "user", "uid", "rootlesskit", "dockerd"]);
    assert_eq!(keys(&report["host"]), host);
    assert_eq!(report["host"]["user"], Value::from(user.name.clone()));
    assert_eq!(report["host"]["uid"], Value::from(user.uid));
    assert_eq!(keys(&report["host"]["rootlesskit"]), BTreeSet::from(["path", "version"]));
    for check in report["checks"].as_array().expect("checks") {
        let expected =
            BTreeSet::from(["name", "category", "status", "summary", "reason", "fix", "docs"]);
        assert_eq!(keys(check), expected, "{check:#}");
        assert_eq!(keys(&check["fix"]), BTreeSet::from(["root", "user"]), "{check:#}");
        for commands in [&check["fix"]["root"], &check["fix"]["user"]] {
            assert!(
                commands.as_array().expect("commands").iter().all(Value::is_string),
                "{check:#}"
            );
        }
        let text = |key: &str| check[key].as_str().unwrap_or_else(|| panic!("{key}: {check:#}"));
        assert!(["ok", "warn", "fail", "skip"].contains(&text("status")), "{check:#}");
        let is_sentence = !text("summary").is_empty()
            && !text("summary").contains('\n')
            && !text("summary").ends_with('.');
        assert!(is_sentence, "{check:#}");
        assert_eq!(text("docs"), format!("docs/checks.md#{}", text("name")));
        let _ = text("reason");
    }
    let counts = &report["counts"];
    assert_eq!(keys(counts), BTreeSet::from(["ok", "warn", "fail", "skip"]));
    for status in ["ok", "warn", "fail", "skip"] {
        assert_eq!(counts[status], Value::from(told.with_status(status).len()), "{status}");
    }
    assert_eq!(reported(&told), names(&user));
}

#[test]
fn the_list_names_all_checks_and_looks_at_nothing() {
    let user = TestUser::new();
    let names = names(&user);
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    for name in &names {
        let is_kebab = name.split('-').all(|word| {
            !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
        });
        assert!(is_kebab, "{name}");
    }
    let text = Told::by(&mut check(&user, "--list"));
    let listed: Vec<&str> =
        text.stdout.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!((text.code, listed), (Some(0), names.iter().map(String::as_str).collect()));
    let json = Told::by(&mut check(&user, "--list --format json")).json();
    assert_eq!(keys(&json), BTreeSet::from(["schema", "checks"]));
    for check in json["checks"].as_array().expect("checks") {
        assert_eq!(keys(check), BTreeSet::from(["name", "about", "docs"]));
    }
    // Even where nothing can be looked at.
    user.write(&user.home.join(".config/dockerd-rootless/config.toml"), "broken");
    assert_eq!(Told::by(&mut check_with(&user, &["PATH=/nowhere".into()], "--list")).code, Some(0));
}

#[test]
fn checks_are_chosen_by_name() {
    let user = TestUser::new();
    let all = names(&user);
    let without = |names: &[&str]| {
        let rest = all.iter().filter(|name| !names.contains(&name.as_str()));
        rest.cloned().collect::<Vec<_>>()
    };
    let cases = [
        ("--only overlay", vec!["overlay".to_owned()]),
        ("--only overlay --only subuid", vec!["subuid".to_owned(), "overlay".to_owned()]),
        ("--only=ping,subuid,ping", vec!["subuid".to_owned(), "ping".to_owned()]),
        ("--skip overlay", without(&["overlay"])),
        ("--skip overlay,ping --skip=subuid", without(&["overlay", "ping", "subuid"])),
    ];
    for (words, expected) in cases {
        let told = Told::by(&mut check(&user, &format!("--format json {words}")));
        assert_eq!((told.code, reported(&told)), (Some(0), expected), "{words}");
        let counted: u64 = told.json()["counts"]
            .as_object()
            .expect("counts")
            .values()
            .filter_map(Value::as_u64)
            .sum();
        assert_eq!(counted, reported(&told).len() as u64, "{words}");
    }
}

#[test]
fn the_exit_code_is_that_of_the_chosen_checks() {
    let user = TestUser::new();
    user.write(&user.home.join(".config/docker/daemon.json"), "{,}");
    let cases = [
        ("", 4),
        ("--format json", 4),
        ("--print-fix", 4),
        ("--only daemon-config", 4),
        ("--only overlay", 0),
        ("--skip daemon-config", 0),
        ("--skip overlay", 4),
        ("--ignore daemon-config", 0),
        ("--ignore daemon-config --only daemon-config --strict", 0),
        ("--ignore overlay --short", 4),
        ("--only docker-context", 0),
        ("--only docker-context --strict", 4),
        ("--only overlay --strict", 0),
    ];
    for (words, code) in cases {
        let told = Told::by(&mut check(&user, words));
        assert_eq!(told.code, Some(code), "{words}: {told:?}");
        assert_eq!(told.stderr, "", "{words}");
    }
    let text = Told::by(&mut check(&user, "")).stdout;
    let lines: Vec<&str> = text.lines().collect();
    let is_other = |line: &&str| ["ok  ", "skip", "warn"].iter().any(|word| line.starts_with(word));
    let failed = lines.iter().position(|line| line.starts_with("FAIL  daemon-config"));
    let others = lines.iter().rposition(is_other);
    assert!(failed > others, "a failure is last:\n{text}");
    assert!(text.contains(" 1 failed, "), "{text}");
}

#[test]
fn a_wrong_command_line_ends_in_2_and_says_what_is_meant() {
    let user = TestUser::new();
    let cases = [
        ("--only overlai", "a similar value exists: 'overlay'"),
        ("--skip subuids", "'subuid'"),
        ("--only overlay,nwuidmap", "'newuidmap'"),
        ("--ignore overlai", "a similar value exists: 'overlay'"),
        ("--only quite-another-thing", "possible values"),
        ("--only=", "a value is required"),
        ("--only overlay --skip ping", "cannot be used with"),
        ("--list --only overlay", "cannot be used with"),
        ("--list --skip overlay", "cannot be used with"),
        ("--list --print-fix", "cannot be used with"),
        ("--print-fix --format json", "cannot be used with"),
        ("--print-fix=nobody", "possible values"),
        ("--format yaml", "possible values"),
        ("--color sometimes", "possible values"),
        ("--only", "a value is required"),
    ];
    for (words, said) in cases {
        let told = Told::by(&mut check(&user, words));
        assert_eq!((told.code, told.stdout.as_str()), (Some(2), ""), "{words}: {told:?}");
        assert!(told.stderr.contains(said), "{words}: {told:?}");
    }
}

#[test]
fn colours_are_for_terminals_and_for_those_who_ask() {
    let user = TestUser::new();
    let binary = Launcher::Run.install(&user);
    let terminal = |variable: &str, words: &str| {
        let mut command = user.command("env");
        command.args([variable, "script", "--quiet", "--return", "--command"]);
        command
            .arg(format!("{} check --only ping,overlay {words}", binary.display()))
            .arg("/dev/null");
        command
    };
    let piped = |variable: &str, words: &str| {
        check_with(&user, &[variable.to_owned()], &format!("--only ping,overlay {words}"))
    };
    let cases = [
        (piped("A=1", ""), false),
        (piped("A=1", "--color always"), true),
        (piped("CLICOLOR_FORCE=1", ""), true),
        (piped("NO_COLOR=1", "--color=always"), true),
        (piped("CLICOLOR_FORCE=1", "--color never"), false),
        (piped("A=1", "--color always --format json"), false),
        (piped("A=1", "--color always --print-fix"), false),
        (terminal("TERM=xterm", ""), true),
        (terminal("NO_COLOR=1", ""), false),
        (terminal("NO_COLOR=", ""), true),
        (terminal("TERM=xterm", "--color never"), false),
    ];
    for (mut command, colored) in cases {
        let told = Told::by(&mut command);
        assert_eq!(told.code, Some(0), "{command:?}: {told:?}");
        assert_eq!(told.stdout.contains('\x1b'), colored, "{command:?}: {told:?}");
    }
}

#[test]
fn results_are_on_standard_output_and_messages_on_standard_error() {
    let user = TestUser::new();
    let told_of = |words: &str| Told::by(&mut check(&user, words));
    let quiet = told_of("--format json");
    let loud = told_of("--format json -vv");
    assert_eq!(
        quiet.json()["checks"].as_array().map(Vec::len),
        loud.json()["checks"].as_array().map(Vec::len)
    );
    assert_eq!(quiet.stderr, "");
    assert!(loud.stderr.contains("debug: "), "{loud:?}");
    let table = told_of("");
    assert!(table.stdout.starts_with("ok    ") && table.stderr.is_empty(), "{table:?}");
}

#[test]
fn a_setting_that_is_wrong_ends_in_78() {
    let user = TestUser::new();
    let file = user.home.join(".config/dockerd-rootless/config.toml");
    for text in ["[network\n", "[network]\nmtu = \"many\"\n", "[network]\nmtuu = 1\n"] {
        user.write(&file, text);
        let told = Told::by(&mut check(&user, "--format json"));
        assert_eq!((told.code, told.stdout.as_str()), (Some(78), ""), "{text}: {told:?}");
        assert!(told.stderr.contains("config.toml"), "{text}: {told:?}");
    }
    std::fs::remove_file(&file).expect("remove the file");
    assert_eq!(Told::by(&mut check(&user, "--set network.mtu=many")).code, Some(78));
    assert_eq!(
        Told::by(&mut check_with(&user, &["DOCKERD_ROOTLESS_IPV6=perhaps".into()], "")).code,
        Some(78)
    );
}

#[test]
fn a_reader_who_has_seen_enough_is_no_failure_and_a_full_disk_is_one() {
    let user = TestUser::new();
    for words in ["", "--format json", "--list", "--list --format json"] {
        for (what, code) in [("a closed pipe", 0), ("/dev/full", 1)] {
            let stdout: Stdio = match what {
                "/dev/full" => File::options().write(true).open(what).expect("/dev/full").into(),
                _ => std::io::pipe().expect("a pipe").1.into(),
            };
            let mut command = check(&user, words);
            let child = command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped()).spawn();
            let output =
                child.and_then(std::process::Child::wait_with_output).expect("start the check");
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{words} into {what}: {stderr}");
            assert_eq!(stderr.is_empty(), code == 0, "{words} into {what}: {stderr}");
        }
    }
}

#[test]
fn short_reports_hold_only_problems_and_timings_go_to_standard_error() {
    let user = TestUser::new();
    let told = Told::by(&mut check(&user, "--short --timings"));
    let (last, lines): (&str, Vec<&str>) =
        match told.stdout.lines().collect::<Vec<_>>().split_last() {
            Some((last, lines)) => (last, lines.to_vec()),
            None => panic!("{told:?}"),
        };
    assert!(last.contains(" ok, ") && last.contains(" skipped"), "{told:?}");
    assert!(
        lines.iter().all(|line| line.starts_with("warn  ") || line.starts_with("FAIL  ")),
        "{told:?}"
    );
    assert!(told.stderr.starts_with("time: ") && told.stderr.contains("trying "), "{told:?}");
}

#[test]
fn a_terminal_gets_categories_with_marks_and_one_verdict() {
    let user = TestUser::new();
    let binary = Launcher::Run.install(&user);
    let report = |words: &str| {
        let mut command = user.command("script");
        command.args(["--quiet", "--return", "--command"]);
        let line = format!("stty columns 80; {} check --color never {words}", binary.display());
        Told::by(command.arg(line).arg("/dev/null")).stdout.replace('\r', "")
    };
    let text = report("");
    assert!(text.contains("✓ Identity    subuid, subgid, newuidmap, newgidmap\n"), "{text}");
    assert!(
        text.contains("  ! docker-context: `docker` talks to the system-wide daemon"),
        "{text}"
    );
    assert!(text.contains("/docs/checks.md#docker-context\n"), "{text}");
    assert!(text.contains("\nRootless Docker will work. "), "{text}");
    assert!(text.contains("dockerd-rootless check --print-fix"), "{text}");
    // Commands and addresses stay whole, to be pasted.
    let wide = |line: &&str| {
        line.chars().count() > 80
            && !line.contains("https://")
            && !line.trim_start().starts_with("fix")
    };
    assert_eq!(text.lines().filter(wide).collect::<Vec<_>>(), [""; 0]);
    assert!(!text.contains("✓ subuid"), "{text}");
    assert!(report("-v").contains("  ✓ subuid: "), "{text}");
    assert!(!report("--short").contains("https://"), "{text}");
}
