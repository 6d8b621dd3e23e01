//! Whole hosts: trees of files as distributions have them below `tests/hosts`, what was tried on
//! them, and the report that is expected.
//!
//! `tests/hosts/NAME/` holds `tree/` (the files), `host.json` (what the host is and what differs
//! from one on which everything works) and `report.txt`. `UPDATE_HOSTS=1 cargo test --lib hosts`
//! writes the reports anew, to be read before they are committed.
//!
//! Git keeps no owners and few modes: what is a directory in the tree belongs to the user there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::check::survey::{Subject, survey};
use crate::check::tests::Sample;
use crate::check::trial::userns;
use crate::check::*;
use crate::cli::output;
use crate::facts::{
    Answer, DaemonJson, Directory, DockerdFacts, HostFacts, Outcome, RootlesskitFacts,
    Slirp4netnsFacts, Tool, Version,
};
use crate::plan::Trial;
use crate::settings::Layer;

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
    /// dockerd's words.
    #[serde(default)]
    words: Vec<String>,
    /// The user's config.toml.
    #[serde(default)]
    settings: String,
    #[serde(default)]
    tools: Tools,
    /// What differs in [`Trials`], object by object.
    #[serde(default)]
    trials: Map<String, Value>,
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
        answer: Answer::Known(facts(Version::find(&program.version).expect("a version"))),
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
    if let Some(path) = tools.iptables {
        own.iptables = path;
    }
    if let Some(path) = tools.iptables_legacy {
        own.ip6tables_legacy = path.as_ref().map(|path| path.with_file_name("ip6tables-legacy"));
        own.iptables_legacy = path;
    }
}

/// A session in the places that the tree has.
fn enter(sample: &mut Sample, tree: &Path, account: &Account) {
    let session = &mut sample.host.session;
    let person = &mut session.person;
    let there = |path: &Path| tree.join(path.strip_prefix("/").expect("absolute")).is_dir();
    let own = PathBuf::from(format!("/run/user/{}", account.uid));
    let stated = sample.environment.get("XDG_RUNTIME_DIR").map(PathBuf::from);
    person.uid = account.uid;
    person.home = Some((account.home.clone(), there(&account.home)));
    person.runtime_dir_guessed = stated.is_none();
    person.runtime_dir = stated.or_else(|| there(&own).then(|| own.clone())).map(|path| {
        let directory = match there(&path) {
            false => Directory::Missing,
            true => Directory::Present { owner: account.uid, mode: 0o700 },
        };
        (path, directory)
    });
    let runtime_dir = person.runtime_dir.as_ref().map_or(&own, |(path, _)| path);
    session.places.runtime_dir = runtime_dir.clone();
    session.places.exec_root = runtime_dir.join("docker");
    session.places.state_dir = runtime_dir.join("dockerd-rootless");
    session.places.containerd_rootless = runtime_dir.join("containerd-rootless");
    let json = account.home.join(".config/docker/daemon.json");
    let text = fs::read_to_string(tree.join(json.strip_prefix("/").expect("absolute")));
    let parsed = text.map_or(DaemonJson::Absent, |text| DaemonJson::parse(&text));
    let data_root = parsed.text("data-root").map(PathBuf::from);
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
        for outcome in [&mut trials.capabilities, &mut trials.uid_map, &mut trials.gid_map] {
            *outcome = Outcome::NotTried(userns::NONE.to_owned());
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

/// The host that the directory describes.
fn host(directory: &Path) -> Sample {
    let mut sample = Sample::healthy();
    let shown = directory.display();
    let text = fs::read_to_string(directory.join("host.json"))
        .unwrap_or_else(|error| panic!("{shown}: {error}"));
    let described: Described =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{shown}: {error}"));
    assert!(!described.why.is_empty(), "{shown}: `why` is empty");
    let tree = directory.join("tree");
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
    let layer = Layer::from_toml(
        &account.home.join(".config/dockerd-rootless/config.toml"),
        &described.settings,
    );
    let layers = [layer.unwrap_or_else(|error| panic!("{shown}: {error}"))];
    sample.settings = Settings::resolve(&layers).unwrap_or_else(|error| panic!("{shown}: {error}"));
    let args: Vec<std::ffi::OsString> = described.words.into_iter().map(Into::into).collect();
    sample.settings = sample.settings.with_args(&args);
    let docker = described.tools.docker.clone();
    change_tools(&mut sample.host, described.tools);
    enter(&mut sample, &tree, &account);

    let mut trials = serde_json::to_value(&sample.trials).expect("trials");
    overlay(&mut trials, described.trials.clone().into());
    sample.trials =
        serde_json::from_value(trials).unwrap_or_else(|error| panic!("{shown}: {error}"));
    correct(&mut sample, &tree, &described.trials, &account);

    let session = &sample.host.session;
    let own = PathBuf::from(format!("/run/user/{}", account.uid));
    let subject = Subject {
        uid: account.uid,
        gid: account.gid,
        name: account.name,
        own_runtime_dir: tree
            .join(own.strip_prefix("/").expect("absolute"))
            .is_dir()
            .then_some(own),
        data_root: session.places.data_root.clone(),
        daemon_json: session.places.daemon_json.clone(),
        containerd_rootless: session.places.containerd_rootless.clone(),
        docker_config: Some(account.home.join(".docker")),
        docker: docker.unwrap_or_else(|| Some("/usr/bin/docker".into())),
        rootlesskit: sample.host.tools.rootlesskit.path().map(Path::to_owned),
    };
    sample.survey = survey(&tree, &subject);
    sample.host.kernel.selinux = tree.join("sys/fs/selinux/enforce").exists();
    sample.host.kernel.ipv6 = tree.join("proc/sys/net/ipv6").exists();
    sample
}

/// The directories of all hosts, by name.
fn hosts() -> BTreeMap<String, PathBuf> {
    let hosts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts");
    let entries = fs::read_dir(hosts).expect("tests/hosts");
    entries
        .map(|entry| entry.expect("an entry"))
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .collect()
}

#[test]
fn every_host_has_the_report_that_is_expected() {
    let update = std::env::var_os("UPDATE_HOSTS").is_some();
    let mut unexpected = Vec::new();
    for (name, directory) in hosts() {
        let report = output::findings_text(&find_all(&host(&directory).evidence()), false);
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
/// Nobody else must be bothered with it.
const HINTS: &[(&[&str], &str, &[&str])] = &[
    (&["user-namespaces"], "default of Debian 9", &["debian-9"]),
    (&["user-namespaces"], "default of Debian 10", &["debian-10"]),
    (&["user-namespaces"], "default of Arch's hardened kernel", &["arch-hardened"]),
    (
        &["user-namespaces"],
        "99-zz-kernel.unprivileged_userns_clone.conf",
        &["arch-hardened", "debian-10", "debian-9"],
    ),
    (
        &["user-namespaces"],
        "boot.kernel.sysctl.\"kernel.unprivileged_userns_clone\"",
        &["nixos-hardened"],
    ),
    (
        &["user-namespaces", "user-namespace-quota"],
        "user.max_user_namespaces = 28633",
        &["centos-7.5", "centos-7.6", "centos-7.7"],
    ),
    (&["user-namespaces"], "user_namespace.enable=1", &["centos-7.5"]),
    (&["user-namespaces"], "/etc/apparmor.d/home.u.bin.rootlesskit", &["ubuntu-24.04"]),
    (&["user-namespaces"], "--privileged", &["container-docker"]),
    (&["user-namespaces"], "chroot(2)", &["chroot"]),
    (&["newuidmap", "newgidmap"], "vbatts/shadow-utils-newxidmap", &["centos-7.5", "centos-7.6"]),
    (&["newuidmap", "newgidmap"], "apk add shadow-uidmap", &["alpine"]),
    (&["newuidmap", "newgidmap"], "/run/wrappers/bin", &["nixos"]),
    (&["overlay"], "for Debian 9: `overlay2` is not possible", &["debian-9-switched-on"]),
    (&["overlay"], "permit_mounts_in_userns=1", &["debian-10-switched-on", "debian-11"]),
    (&["overlay"], "Ubuntu's own kernels do", &["ubuntu-20.04-mainline"]),
    (&["overlay"], "for RHEL and CentOS 7: `vfs`", &["centos-7.7-switched-on"]),
    (
        &["overlay"],
        "--storage-driver=vfs",
        &["centos-7.7-switched-on", "debian-9-switched-on", "fedora-31"],
    ),
    (&["overlay"], "--data-root=/var/lib", &["hpc-node"]),
    (&["cgroup"], "--args=systemd.unified_cgroup_hierarchy=0", &["fedora-31"]),
    (&["cgroup"], "rc-update add cgroups", &["alpine"]),
    (&["cgroup"], "cgroup_no_v1=all", &["wsl2", "wsl2-old-kernel"]),
    (
        &["systemd-user"],
        "`systemctl --user` does not work by default",
        &["centos-7.5", "centos-7.6", "centos-7.7", "centos-7.7-switched-on"],
    ),
    (&["systemd-user"], "`/etc/wsl.conf`", &["wsl2"]),
    (&["linger"], "users.users.u.linger = true", &["nixos", "nixos-hardened"]),
    (
        &["netfilter"],
        "modprobe -a ip_tables iptable_mangle iptable_nat iptable_filter",
        &["opensuse-15"],
    ),
    (&["netfilter"], "kernel-modules-extra", &["rhel-10"]),
    (&["netfilter"], "no legacy tables", &["almalinux-10-legacy"]),
    (&["netfilter"], "dnf install -y iptables-nft", &["almalinux-10-legacy", "rhel-9"]),
    (&["rootlesskit"], "moby-engine-rootless-extras", &["fedora-43"]),
    (&["resolv-conf"], "network.slirp4netns-sandbox false", &["wsl2"]),
];

#[test]
fn every_hint_stands_beside_its_failing_probe_and_nowhere_else() {
    let found: Vec<(String, Vec<Named>)> = hosts()
        .into_iter()
        .map(|(name, directory)| (name, find_all(&host(&directory).evidence())))
        .collect();
    for (checks, hint, expected) in HINTS {
        let mut shown = Vec::new();
        for (name, findings) in &found {
            let with_hint = findings.iter().filter(|(_, finding)| {
                let texts = [&finding.reasons, &finding.fix.root, &finding.fix.user];
                texts.into_iter().flatten().any(|text| text.contains(hint))
            });
            for (check, finding) in with_hint {
                assert!(checks.contains(check), "{name}: `{hint}` beside {check}");
                let is_fault = matches!(finding.status, Status::Warn | Status::Fail);
                assert!(is_fault, "{name}: `{hint}` beside {finding:?}");
                shown.push(name.as_str());
            }
        }
        shown.dedup();
        assert_eq!(shown, *expected, "`{hint}`");
    }
}

/// Where the manuals say that no preparation is needed.
#[test]
fn hosts_that_need_no_preparation_have_no_failure() {
    let names =
        ["debian-12", "debian-13", "fedora-30", "rhel-8", "ubuntu-18.04", "ubuntu-24.04-profile"];
    for name in names {
        let sample = host(&hosts()[name]);
        for (check, finding) in find_all(&sample.evidence()) {
            assert_ne!(finding.status, Status::Fail, "{name}: {check}: {finding:?}");
        }
    }
}
