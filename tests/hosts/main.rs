//! Whole hosts and single changes of one, what was tried on them, and the report that is expected.
//!
//! `tests/hosts/NAME/` holds `tree/` (files as the distribution has them), `host.json` (what the host is and how it
//! differs from one on which everything works) and `report.txt`. `UPDATE_HOSTS=1 cargo test --test hosts` writes the
//! reports again, to be read before they are committed. `tests/check/cases.toml` holds changes of `debian-12` and what
//! one check says to each.
//!
//! Git keeps no owners and few modes: what is a directory in the tree belongs to the user there.

mod sample;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use dockerd_rootless::check::survey::survey;
use dockerd_rootless::check::trial::parts;
use dockerd_rootless::check::trials::Outcome;
use dockerd_rootless::check::{self, CHECKS, Found, Status};
use dockerd_rootless::cli::output::{self, CheckStyle};
use dockerd_rootless::facts::look::addresses;
use dockerd_rootless::facts::{
    DaemonJson, Directory, DockerdFacts, HostFacts, Kernel, Lock, RootlesskitFacts,
    Slirp4netnsFacts, Told, Tool, Version,
};
use dockerd_rootless::plan::Trial;
use dockerd_rootless::settings::{Layer, Settings};
use serde::Deserialize;
use serde_json::{Map, Value};

use sample::Sample;

/// `host.json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Described {
    /// What the host is, and what is wrong with it.
    why: String,
    #[serde(default)]
    account: Account,
    /// Variables, of which null takes one away.
    #[serde(default)]
    environment: BTreeMap<String, Option<String>>,
    /// dockerd's arguments.
    #[serde(default)]
    args: Vec<String>,
    /// The user's config.toml.
    #[serde(default)]
    settings: String,
    #[serde(default)]
    tools: Tools,
    #[serde(default)]
    session: Session,
    /// What differs in what was tried, object by object.
    #[serde(default)]
    trials: Map<String, Value>,
}

/// What lies in the places of a launch, where that is not as it should be.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Session {
    runtime_dir_mode: Option<u32>,
    runtime_dir_owner: Option<u32>,
    /// The process that holds the lock of a containerd-rootless.
    containerd_lock: Option<u32>,
    /// The process that holds the lock of the state directory.
    state_lock: Option<u32>,
    /// Names in the state directory that are not rootlesskit's.
    foreign: Vec<String>,
    /// SELinux is on.
    selinux: bool,
}

/// Whose session it is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Account {
    uid: u32,
    gid: u32,
    /// The name, if `/etc/passwd` does not have it.
    name: Option<String>,
    home: PathBuf,
}

impl Default for Account {
    fn default() -> Self {
        Self { uid: 1000, gid: 1000, name: None, home: "/home/u".into() }
    }
}

/// The programs. Null is one that is not installed, and what is not named is Debian 12's.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Tools {
    #[serde(deserialize_with = "stated")]
    rootlesskit: Option<Option<Program>>,
    #[serde(deserialize_with = "stated")]
    dockerd: Option<Option<Program>>,
    #[serde(deserialize_with = "stated")]
    slirp4netns: Option<Option<Program>>,
    /// The docker client, Debian's if it is not named.
    #[serde(deserialize_with = "stated")]
    docker: Option<Option<PathBuf>>,
    pasta: Option<PathBuf>,
    pasta_version: Option<String>,
    vpnkit: Option<PathBuf>,
    #[serde(deserialize_with = "stated")]
    iptables: Option<Option<PathBuf>>,
    #[serde(deserialize_with = "stated")]
    iptables_legacy: Option<Option<PathBuf>>,
    #[serde(deserialize_with = "stated")]
    nsenter: Option<Option<PathBuf>>,
    /// Of dockerd, containerd and runc in this order: the path, and the line that tells the version.
    told: Vec<(PathBuf, String)>,
}

/// A program that tells its version.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Program {
    version: String,
    /// Where it is, if not where Debian has it.
    path: Option<PathBuf>,
}

/// Tells null from nothing.
fn stated<'de, D, T>(value: D) -> Result<Option<Option<T>>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(value).map(Some)
}

/// Puts `changes` over `value`, objects key by key but for those that are one of several variants.
fn overlay(value: &mut Value, changes: Value) {
    let is_variant = |object: &Map<String, Value>| {
        let variants = ["fails", "not-tried", "Ok", "Err"];
        variants.iter().any(|name| object.contains_key(*name))
    };
    match (value, changes) {
        (Value::Object(value), Value::Object(changes)) if !is_variant(&changes) => {
            for (key, change) in changes {
                overlay(value.entry(key).or_insert(Value::Null), change);
            }
        }
        (value, change) => *value = change,
    }
}

/// What differs of `tool`, with the `facts` that its version brings.
fn change<T>(
    tool: &mut Tool<T>,
    stated: Option<Option<Program>>,
    facts: impl FnOnce(Version) -> T,
) {
    let Some(stated) = stated else { return };
    let debian = tool.path().map(Path::to_owned);
    *tool = stated.map_or(Tool::Absent, |program| Tool::Found {
        path: program.path.or(debian).expect("a path"),
        facts: facts(Version::find(&program.version).expect("a version")),
    });
}

/// What a rootlesskit of this version says of itself (its `cmd/rootlesskit/main.go`).
fn rootlesskit(version: Version) -> RootlesskitFacts {
    let names = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let flag = |name: &str, takes_value| (name.to_owned(), takes_value);
    let mut facts = RootlesskitFacts {
        version: Some(version),
        flags: [flag("net", true), flag("debug", false)].into(),
        network_drivers: names("host slirp4netns vpnkit lxc-user-nic"),
        port_drivers: names("none builtin slirp4netns"),
    };
    if version >= Version(2, 0, 0) {
        facts.network_drivers.push("pasta".to_owned());
        facts.port_drivers.push("implicit".to_owned());
        facts.flags.extend([flag("detach-netns", false)]);
    }
    if version >= Version(3, 0, 0) {
        facts.network_drivers.push("gvisor-tap-vsock".to_owned());
        facts.port_drivers.push("gvisor-tap-vsock".to_owned());
        facts.flags.extend([flag("source-ip-transparent", false)]);
    }
    facts
}

fn change_tools(host: &mut HostFacts, tools: Tools) {
    let own = &mut host.tools;
    change(&mut own.rootlesskit, tools.rootlesskit, rootlesskit);
    change(&mut own.dockerd, tools.dockerd, |version| DockerdFacts {
        version: Some(version),
        flags: ["data-root", "exec-root", "host", "mtu", "storage-driver"]
            .map(str::to_owned)
            .into(),
    });
    change(&mut own.slirp4netns, tools.slirp4netns, |version| Slirp4netnsFacts {
        version: Some(version),
        netns_type: version >= Version(0, 4, 0),
    });
    own.pasta = tools.pasta;
    own.pasta_version = tools.pasta_version;
    own.vpnkit = tools.vpnkit;
    let told = ["dockerd", "containerd", "runc"].into_iter().zip(tools.told);
    own.told = told.map(|(program, (path, line))| Told { program, path, line }).collect();
    if let Some(path) = tools.iptables {
        own.iptables = path;
    }
    if let Some(path) = tools.nsenter {
        own.nsenter = path;
    }
    if let Some(path) = tools.iptables_legacy {
        own.ip6tables_legacy = path.as_ref().map(|path| path.with_file_name("ip6tables-legacy"));
        own.iptables_legacy = path;
    }
}

/// A session in the places that the tree has.
fn enter(sample: &mut Sample, tree: &Path, account: &Account, described: &Session) {
    let session = &mut sample.host.session;
    let person = &mut session.person;
    let there = |path: &Path| tree.join(path.strip_prefix("/").expect("absolute")).is_dir();
    let own = PathBuf::from(format!("/run/user/{}", account.uid));
    let stated = sample.environment.get("XDG_RUNTIME_DIR").map(PathBuf::from);
    person.uid = account.uid;
    let home = sample.environment.get("HOME").map(PathBuf::from);
    person.home = home.map(|home| (home.clone(), there(&home)));
    person.runtime_dir_guessed = stated.is_none();
    person.runtime_dir = stated.or_else(|| there(&own).then(|| own.clone())).map(|path| {
        let directory = match there(&path) {
            false => Directory::Missing,
            true => Directory::Present {
                owner: described.runtime_dir_owner.unwrap_or(account.uid),
                mode: described.runtime_dir_mode.unwrap_or(0o700),
            },
        };
        (path, directory)
    });
    let runtime_dir = person.runtime_dir.as_ref().map_or(&own, |(path, _)| path);
    session.places.runtime_dir = runtime_dir.clone();
    session.places.exec_root = runtime_dir.join("docker");
    session.places.state_dir = runtime_dir.join("dockerd-rootless");
    session.places.containerd_rootless = runtime_dir.join("containerd-rootless");
    session.state_dir.lock = described.state_lock.map_or(Lock::Free, Lock::Held);
    if !described.foreign.is_empty() {
        session.state_dir.directory = Directory::Present { owner: account.uid, mode: 0o700 };
        session.state_dir.foreign = described.foreign.iter().map(Into::into).collect();
    }
    session.containerd_rootless = described.containerd_lock.map_or(Lock::Free, Lock::Held);
    let json = account.home.join(".config/docker/daemon.json");
    let text = fs::read_to_string(tree.join(json.strip_prefix("/").expect("absolute")));
    let parsed = text.map_or(DaemonJson::Absent, |text| DaemonJson::parse(&text));
    let by_arg = sample
        .settings
        .dockerd_args
        .iter()
        .find_map(|arg| arg.to_str()?.strip_prefix("--data-root="));
    let data_root = by_arg.or(parsed.text("data-root")).map(PathBuf::from);
    session.places.data_root =
        data_root.unwrap_or_else(|| account.home.join(".local/share/docker"));
    session.places.daemon_json = json;
    session.daemon_json = parsed;
}

/// Takes out of the trials what such a host leaves no room for.
fn correct(sample: &mut Sample, tree: &Path, changes: &Map<String, Value>, account: &Account) {
    let trials = &mut sample.trials;
    let is_stated = |name: &str| changes.contains_key(name);
    let own = PathBuf::from(format!("/run/user/{}", account.uid));
    for (name, place, outcome) in
        [("bus", "bus", &mut trials.bus), ("manager", "systemd/private", &mut trials.manager)]
    {
        let path = own.join(place);
        if !is_stated(name) && !tree.join(path.strip_prefix("/").expect("absolute")).exists() {
            *outcome = Outcome::fails(format!("`{}` does not exist", path.display()));
        }
    }
    if trials.user_namespace.failure().is_some() {
        for outcome in [&mut trials.uid_map, &mut trials.gid_map] {
            *outcome = Outcome::NotTried(parts::NONE.to_owned());
        }
    }
    let built = Trial::build(
        &sample.settings,
        &sample.host,
        &sample.environment,
        "/run/user/1000/trial/s".as_ref(),
        "{}".into(),
    );
    if let Err(error) = built {
        trials.rootlesskit = Outcome::NotTried(error.to_string());
        trials.inside = None;
    }
}

/// Returns the host that the directory describes.
fn host(directory: &Path) -> Sample {
    let shown = directory.display();
    let text = fs::read_to_string(directory.join("host.json"))
        .unwrap_or_else(|error| panic!("{shown}: {error}"));
    let described: Described =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{shown}: {error}"));
    assert!(!described.why.is_empty(), "{shown}: `why` is empty");
    build(&directory.join("tree"), described)
}

/// Returns the host with these files and this description.
fn build(tree: &Path, described: Described) -> Sample {
    let mut sample = Sample::healthy();
    let shown = tree.display();
    let account = described.account;
    let usual = [
        ("HOME".to_owned(), account.home.display().to_string()),
        ("XDG_RUNTIME_DIR".to_owned(), format!("/run/user/{}", account.uid)),
    ];
    let mut variables = BTreeMap::from(usual);
    for (name, value) in described.environment {
        match value {
            Some(value) => variables.insert(name, value),
            None => variables.remove(&name),
        };
    }
    sample.environment =
        variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let args: Vec<std::ffi::OsString> = described.args.into_iter().map(Into::into).collect();
    let layer = Layer::from_toml(
        &account.home.join(".config/dockerd-rootless/config.toml"),
        &described.settings,
    );
    let layer = layer.unwrap_or_else(|error| panic!("{shown}: {error}"));
    let layers = [layer, Layer::from_environment(&sample.environment)];
    sample.settings = Settings::resolve(&layers).unwrap_or_else(|error| panic!("{shown}: {error}"));
    sample.settings = sample.settings.with_args(&args);
    let docker = described.tools.docker.clone();
    change_tools(&mut sample.host, described.tools);
    enter(&mut sample, tree, &account, &described.session);

    let mut trials = serde_json::to_value(&sample.trials).expect("trials");
    overlay(&mut trials, described.trials.clone().into());
    sample.trials =
        serde_json::from_value(trials).unwrap_or_else(|error| panic!("{shown}: {error}"));
    correct(&mut sample, tree, &described.trials, &account);

    let own = PathBuf::from(format!("/run/user/{}", account.uid));
    sample.survey = survey(tree, &sample.host, &sample.environment, account.gid, account.name);
    let is_there = tree.join(own.strip_prefix("/").expect("absolute")).is_dir();
    sample.survey.own_runtime_dir = is_there.then_some(own);
    sample.survey.now = SystemTime::UNIX_EPOCH;
    sample.host.kernel.version = Kernel::parse_version(&sample.survey.kernel);
    sample.survey.docker_client.program = docker.unwrap_or_else(|| Some("/usr/bin/docker".into()));
    sample.host.kernel.selinux =
        described.session.selinux || tree.join("sys/fs/selinux/enforce").exists();
    // A tree without a routing table is a host with free addresses.
    sample.host.addresses = addresses(tree).or(sample.host.addresses);
    sample.host.kernel.ipv6 = tree.join("proc/sys/net/ipv6").exists();
    sample
}

/// The directories of all hosts, by name.
fn hosts() -> BTreeMap<String, PathBuf> {
    let hosts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts");
    let entries = fs::read_dir(hosts).expect("tests/hosts");
    entries
        .map(|entry| entry.expect("an entry"))
        .filter(|entry| entry.path().is_dir())
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .collect()
}

#[test]
fn every_host_has_the_report_that_is_expected() {
    let update = std::env::var_os("UPDATE_HOSTS").is_some();
    let style = CheckStyle {
        colored: false,
        width: None,
        short: false,
        verbose: false,
        whole: true,
        print_fix: "dockerd-rootless check --print-fix".to_owned(),
    };
    let mut unexpected = Vec::new();
    for (name, directory) in hosts() {
        let report = output::findings_text(&check::run(&host(&directory).evidence()), &style);
        let file = directory.join("report.txt");
        if update {
            fs::write(&file, &report).expect("write the report");
        }
        let expected =
            fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let pairs = report.lines().zip(expected.lines());
        if let Some((line, own)) = pairs.into_iter().find(|(line, own)| line != own) {
            unexpected.push(format!("{name}: `{line}` instead of `{own}`"));
        } else if report != expected {
            unexpected.push(format!("{name}: one report is longer than the other"));
        }
    }
    assert!(unexpected.is_empty(), "{}", unexpected.join("\n"));
}

/// What distributions need: the checks that say it, a part of it, and the hosts on which they do.
const HINTS: &[(&[&str], &str, &[&str])] = &[
    (&["user-namespaces"], "99-zz-kernel.unprivileged_userns_clone.conf", &["arch-hardened"]),
    (
        &["user-namespaces"],
        "boot.kernel.sysctl.\"kernel.unprivileged_userns_clone\"",
        &["nixos-hardened"],
    ),
    (&["user-namespaces"], "/etc/apparmor.d/home.u.bin.rootlesskit", &["ubuntu-24.04"]),
    (&["user-namespaces"], "--privileged", &["container-docker"]),
    (&["user-namespaces"], "chroot(2)", &["chroot"]),
    (&["newuidmap", "newgidmap"], "apk add shadow-uidmap", &["alpine"]),
    (&["newuidmap", "newgidmap"], "comes later in PATH", &["nixos"]),
    (&["overlay"], "--data-root=/var/lib", &["hpc-node"]),
    (&["cgroup"], "rc-update add cgroups", &["alpine"]),
    (&["cgroup"], "cgroup_no_v1=all", &["wsl2", "wsl2-old-kernel"]),
    (&["systemd-user"], "`/etc/wsl.conf`", &["wsl2"]),
    (&["linger"], "users.users.u.linger = true", &["nixos", "nixos-hardened"]),
    (
        &["netfilter"],
        "modprobe -a ip_tables iptable_mangle iptable_nat iptable_filter",
        &["opensuse-15"],
    ),
    (&["netfilter"], "kernel-modules-extra", &["rhel-10"]),
    (&["netfilter"], "dnf install -y iptables-nft", &["rhel-9"]),
    (&["rootlesskit"], "moby-engine-rootless-extras", &["fedora-43"]),
    (&["resolv-conf"], "network.slirp4netns-sandbox false", &["wsl2"]),
];

/// Returns whether a finding's reasons or commands contain `text`.
fn says(found: &Found, text: &str) -> bool {
    let texts = [&found.reasons, &found.commands.root, &found.commands.user];
    texts.into_iter().flatten().any(|own| own.contains(text))
}

#[test]
fn every_hint_is_beside_its_failing_check_and_nowhere_else() {
    let found: Vec<(String, Vec<Found>)> = hosts()
        .into_iter()
        .map(|(name, directory)| (name, check::run(&host(&directory).evidence())))
        .collect();
    for (checks, hint, expected) in HINTS {
        let mut shown = Vec::new();
        for (name, findings) in &found {
            for found in findings.iter().filter(|found| says(found, hint)) {
                assert!(
                    checks.contains(&found.id.to_string().as_str()),
                    "{name}: `{hint}` beside {}",
                    found.id
                );
                assert!(found.status >= Status::Warn, "{name}: `{hint}` beside {found:?}");
                shown.push(name.as_str());
            }
        }
        shown.dedup();
        assert_eq!(shown, *expected, "`{hint}`");
    }
}

#[test]
fn hosts_that_need_no_preparation_have_no_failure() {
    for name in ["debian-12", "debian-13", "rhel-8", "ubuntu-24.04-profile"] {
        for found in check::run(&host(&hosts()[name]).evidence()) {
            assert_ne!(found.status, Status::Fail, "{name}: {found:?}");
        }
    }
}

/// `cases.toml`.
#[derive(Deserialize)]
struct Cases {
    case: Vec<Map<String, Value>>,
}

/// A change of `debian-12`, and what one check says to it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    check: String,
    /// The status and a part of the summary.
    expect: String,
    /// Parts of the reasons.
    #[serde(default)]
    says: Vec<String>,
    /// All commands.
    #[serde(default)]
    root: Vec<String>,
    #[serde(default)]
    user: Vec<String>,
    /// Files, of which null takes one away.
    #[serde(default)]
    files: BTreeMap<PathBuf, Option<String>>,
}

/// Makes null of the word, which TOML does not have.
fn with_null(value: &mut Value) {
    match value {
        Value::String(text) if text == "null" => *value = Value::Null,
        Value::Array(values) => values.iter_mut().for_each(with_null),
        Value::Object(values) => values.values_mut().for_each(with_null),
        _ => {}
    }
}

/// Takes apart what is expected and what describes the host.
fn case(mut row: Map<String, Value>) -> (Case, Described) {
    let mut of_case = Map::new();
    for key in ["check", "expect", "says", "root", "user", "files"] {
        of_case.extend(row.remove(key).map(|value| (key.to_owned(), value)));
    }
    let shown = Value::from(of_case.clone()).to_string();
    let case: Case =
        serde_json::from_value(of_case.into()).unwrap_or_else(|error| panic!("{shown}: {error}"));
    row.entry("why").or_insert(case.expect.clone().into());
    let described =
        serde_json::from_value(row.into()).unwrap_or_else(|error| panic!("{shown}: {error}"));
    (case, described)
}

/// Returns a tree of Debian 12 with these files.
fn tree(files: &BTreeMap<PathBuf, Option<String>>) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(hosts()["debian-12"].join("tree/.")).arg(directory.path());
    assert!(copy.status().expect("cp").success());
    for (path, text) in files {
        let path = directory.path().join(path.strip_prefix("/").expect("absolute"));
        match text {
            None => drop(fs::remove_file(&path)),
            Some(text) => {
                fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
                match text.strip_prefix("-> ") {
                    Some(target) => {
                        let _ = fs::remove_file(&path);
                        std::os::unix::fs::symlink(target, &path).expect("a link");
                    }
                    None => fs::write(&path, text).expect("a file"),
                }
            }
        }
    }
    directory
}

#[test]
fn every_case_has_the_finding_that_is_expected() {
    let text = include_str!("../check/cases.toml");
    let mut cases: Value = toml::from_str(text).expect("cases.toml");
    with_null(&mut cases);
    let cases: Cases = serde_json::from_value(cases).expect("cases");
    let mut wrong = Vec::new();
    let mut seen = Vec::new();
    for row in cases.case {
        let (case, described) = case(row);
        let tree = tree(&case.files);
        let found = check::run(&build(tree.path(), described).evidence());
        let Some(found) = found.into_iter().find(|found| found.id.to_string() == case.check) else {
            panic!("no check is called `{}`", case.check);
        };
        let status = match found.status {
            Status::Ok => "ok",
            Status::Skip => "skip",
            Status::Warn => "warn",
            Status::Fail => "FAIL",
        };
        let (expected, summary) = case.expect.split_once(' ').expect("a status and a summary");
        let is_expected = status == expected
            && found.summary.contains(summary.trim())
            && case
                .says
                .iter()
                .all(|part| found.reasons.iter().any(|reason| reason.contains(part)))
            && found.commands.root == case.root
            && found.commands.user == case.user;
        if !is_expected {
            wrong.push(format!("{}: `{}`: {status} {found:#?}", case.check, case.expect));
        }
        seen.push(case.check);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let unseen =
        CHECKS.iter().map(|check| check.id.to_string()).filter(|name| !seen.contains(name));
    assert_eq!(unseen.collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn every_check_is_behind_those_that_it_needs_and_has_its_section_in_the_documentation() {
    let page = include_str!("../../docs/checks.md");
    let headings: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    for (at, check) in CHECKS.iter().enumerate() {
        assert!(headings.contains(&check.id.to_string().as_str()), "{}", check.id);
        for need in check.needs {
            assert!(
                CHECKS[..at].iter().any(|before| before.id == *need),
                "{} needs {need}",
                check.id
            );
        }
    }
}
