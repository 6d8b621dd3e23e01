//! Whole hosts: trees of files as distributions have them below `tests/hosts`, what was tried on
//! them, and the report that is expected.
//!
//! `tests/hosts/NAME/` holds `tree/` (the files), `host.json` (what differs from a host on which
//! everything works: `tools`, `trials`, and `why`) and `report.txt`. `UPDATE_HOSTS=1 cargo test
//! --lib hosts` writes the reports anew, to be read before they are committed.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::tests::Sample;
use super::*;
use crate::host::{Answer, Tool, Version};
use crate::os::survey::{Subject, survey};
use crate::report;

/// Puts `changes` over `value`, objects key by key.
fn overlay(value: &mut Value, changes: Value) {
    match (value, changes) {
        (Value::Object(value), Value::Object(changes)) => {
            for (key, change) in changes {
                overlay(value.entry(key).or_insert(Value::Null), change);
            }
        }
        (value, change) => *value = change,
    }
}

/// The version that `tools` gives to a program: text, or null for one that is not installed.
fn set_version<T>(
    tool: &mut Tool<T>,
    stated: Option<&Value>,
    version: fn(&mut T) -> &mut Option<Version>,
) {
    match stated {
        None => {}
        Some(Value::String(text)) => {
            if let Tool::Found {
                answer: Answer::Known(facts),
                ..
            } = tool
            {
                *version(facts) = Version::find(text);
            }
        }
        Some(_) => *tool = Tool::Absent,
    }
}

/// The host that the directory describes.
fn host(directory: &Path) -> Sample {
    let mut sample = Sample::healthy();
    let read = |name: &str| {
        fs::read_to_string(directory.join(name))
            .unwrap_or_else(|error| panic!("{}: {error}", directory.join(name).display()))
    };
    let json: Value = serde_json::from_str(&read("host.json"))
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    assert!(
        json["why"].is_string(),
        "{}: `why` is missing",
        directory.display()
    );
    let mut trials = serde_json::to_value(&sample.trials).expect("trials");
    if let Some(changes) = json.get("trials") {
        overlay(&mut trials, changes.clone());
    }
    sample.trials = serde_json::from_value(trials)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let tools = &mut sample.host.tools;
    set_version(
        &mut tools.rootlesskit,
        json["tools"].get("rootlesskit"),
        |facts| &mut facts.version,
    );
    set_version(&mut tools.dockerd, json["tools"].get("dockerd"), |facts| {
        &mut facts.version
    });
    set_version(
        &mut tools.slirp4netns,
        json["tools"].get("slirp4netns"),
        |facts| &mut facts.version,
    );
    let account = &sample.survey.account;
    let subject = Subject {
        uid: account.uid,
        gid: account.gid,
        name: None,
        own_runtime_dir: directory
            .join("tree/run/user/1000")
            .is_dir()
            .then(|| PathBuf::from("/run/user/1000")),
        data_root: sample.host.session.data_root.clone(),
        daemon_json: sample.host.session.daemon_json.0.clone(),
        containerd_rootless: sample.host.session.containerd_rootless.0.clone(),
        docker_config: Some(PathBuf::from("/home/u/.docker")),
        docker: Some(PathBuf::from("/usr/bin/docker")),
        rootlesskit: tools.rootlesskit.path().map(Path::to_owned),
    };
    sample.survey = survey(&directory.join("tree"), &subject);
    sample.host.kernel.selinux = directory.join("tree/sys/fs/selinux/enforce").exists();
    sample.host.kernel.ipv6 = directory.join("tree/proc/sys/net/ipv6").exists();
    sample
}

#[test]
fn every_host_has_the_report_that_is_expected() {
    let hosts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts");
    let update = std::env::var_os("UPDATE_HOSTS").is_some();
    let mut count = 0;
    for entry in fs::read_dir(&hosts).expect("tests/hosts") {
        let directory = entry.expect("an entry").path();
        let sample = host(&directory);
        let report = report::findings_text(&find_all(&sample.evidence()), false);
        let file = directory.join("report.txt");
        if update {
            fs::write(&file, &report).expect("write the report");
        }
        let expected =
            fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert_eq!(report, expected, "{}", directory.display());
        count += 1;
    }
    assert!(count > 0, "no host in {}", hosts.display());
}
