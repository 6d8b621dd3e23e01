//! Parity with upstream's `dockerd-rootless.sh`: what rootlesskit is told, word by word.
//!
//! A stub in rootlesskit's place records its words and variables. The script that Debian's
//! `docker.io` installs and ours run over the same generated environments; what may differ is
//! listed in `docs/upstream-behaviour.md`, whose numbers (D1, D2, ...) stand here beside the code
//! that allows for them. What only the newest upstream knows is a table made from its source.
//!
//! The installed script may be of any age: 20.10 on Debian 12, 26.1 on Debian 13. What it knows it
//! is asked by its text, so that the more it knows, the more is compared.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use test_support::stubs;

const UPSTREAM: &str = "/usr/share/docker.io/contrib/dockerd-rootless.sh";
const CASES: u32 = 1000;

/// What the installed script knows.
static SCRIPT: LazyLock<Script> = LazyLock::new(|| {
    let text = fs::read_to_string(UPSTREAM).unwrap_or_else(|error| {
        panic!("{UPSTREAM}: {error}; install the packages of the tests (install/packages.sh test)")
    });
    Script {
        state_dir: text.contains("--state-dir=$DOCKERD_ROOTLESS_ROOTLESSKIT_STATE_DIR"),
        host_loopback: text.contains("$DOCKERD_ROOTLESS_ROOTLESSKIT_DISABLE_HOST_LOOPBACK"),
        quotes_words: text.contains(r#""$0" "$@""#),
    }
});

struct Script {
    /// It names the state directory, which `…_STATE_DIR` moves (25 and later).
    state_dir: bool,
    /// `…_DISABLE_HOST_LOOPBACK` opens the host's loopback (26 and later).
    host_loopback: bool,
    /// The daemon's words are not parsed again on their way to rootlesskit (24 and later).
    quotes_words: bool,
}

/// The programs that upstream's script and the stubs call. No other program of the host is in
/// PATH, so that a network driver that happens to be installed does not decide a test.
const CALLED: [&str; 4] = ["sh", "cat", "grep", "id"];

/// A user without rights, if the tests run as root: both launchers refuse root.
const NOBODY: u32 = 65534;

/// The folder of one test: stubs, a home, a runtime directory, the records.
struct Bench {
    root: tempfile::TempDir,
}

/// What the stub recorded of one launch.
#[derive(Debug, PartialEq)]
struct Record {
    words: Vec<OsString>,
    variables: BTreeMap<OsString, OsString>,
}

type Variables = BTreeMap<String, OsString>;

impl Bench {
    fn new() -> Self {
        let root =
            tempfile::Builder::new().prefix("drl-parity").tempdir().expect("a temporary folder");
        let bench = Self { root };
        fs::set_permissions(bench.path(""), fs::Permissions::from_mode(0o755)).expect("chmod");
        for folder in ["home", "run", "run dir", "record"] {
            fs::create_dir(bench.path(folder)).expect(folder);
            fs::set_permissions(bench.path(folder), fs::Permissions::from_mode(0o700))
                .expect(folder);
            if nix::unistd::geteuid().is_root() {
                chown(bench.path(folder), Some(NOBODY), Some(NOBODY)).expect(folder);
            }
        }
        let binary = env!("CARGO_BIN_EXE_dockerd-rootless");
        stubs::install(binary, &bench.path("dockerd-rootless.sh"), b"");
        for name in ["base/rootlesskit", "docker-rootlesskit/docker-rootlesskit"] {
            bench.stub(name, &stubs::rootlesskit(&bench.path("record"), "exit 1"));
        }
        bench.stub("base/dockerd", "exit 1");
        bench.stub(
            "slirp/slirp4netns",
            "echo 'Usage: slirp4netns [OPTION]...'; echo '--netns-type=TYPE'",
        );
        bench.stub("old-slirp/slirp4netns", "echo 'Usage: slirp4netns [OPTION]...'");
        bench.stub("vpnkit/vpnkit", "exit 1");
        bench.stub("pasta/pasta", "echo pasta 2025_05_03");
        fs::create_dir(bench.path("called")).expect("folder");
        for program in CALLED {
            symlink(Path::new("/bin").join(program), bench.path("called").join(program))
                .expect(program);
        }
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn stub(&self, name: &str, body: &str) {
        let script = format!("#!/bin/sh\n{body}\n");
        stubs::install("/dev/stdin", &self.path(name), script.as_bytes());
    }

    /// PATH with the stubs in `folders` and the base.
    fn search_path(&self, folders: &[&str]) -> OsString {
        let mut path = OsString::new();
        for folder in folders.iter().chain(&["base"]) {
            path.push(self.path(folder));
            path.push(":");
        }
        path.push(self.path("called"));
        path
    }

    /// Runs a launcher, as an unprivileged user, in just this environment.
    fn launch(
        &self,
        launcher: &Path,
        variables: &Variables,
        words: &[OsString],
    ) -> (Output, Option<Record>) {
        for record in ["words", "variables"] {
            let _ = fs::remove_file(self.path("record").join(record));
        }
        let mut command = Command::new(launcher);
        command.args(words).env_clear().envs(variables).current_dir(self.path(""));
        if nix::unistd::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        let output = command.output().expect("the launcher starts");
        let record = stubs::words(&self.path("record")).map(|mut words| Record {
            words: words.split_off(1),
            variables: stubs::variables(&self.path("record")).expect("variables beside the words"),
        });
        (output, record)
    }

    fn ours(&self, variables: &Variables, words: &[OsString]) -> (Output, Option<Record>) {
        self.launch(&self.path("dockerd-rootless.sh"), variables, words)
    }

    /// The variables that every launch has, changed by `more`.
    fn variables(&self, more: &[(&str, &str)]) -> Variables {
        let mut variables = Variables::from([
            ("HOME".to_owned(), self.path("home").into()),
            ("XDG_RUNTIME_DIR".to_owned(), self.path("run").into()),
            ("PATH".to_owned(), self.search_path(&["slirp"])),
        ]);
        variables
            .extend(more.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))));
        variables
    }

    /// What rootlesskit is told before the command that it runs, by ours.
    fn flags_of_ours(&self, variables: &Variables) -> Vec<String> {
        let (output, record) = self.ours(variables, &[]);
        let record = record.unwrap_or_else(|| {
            panic!("{variables:?}: {}", String::from_utf8_lossy(&output.stderr))
        });
        let (flags, _) = self.split(&record.words);
        flags.iter().map(|word| word.to_str().expect("UTF-8").to_owned()).collect()
    }

    /// The words before our own path, and the daemon's behind the stage's `--`.
    fn split<'a>(&self, words: &'a [OsString]) -> (&'a [OsString], &'a [OsString]) {
        let own = self.path("dockerd-rootless.sh").into_os_string();
        let at = words.iter().position(|word| *word == own).expect("our own path among the words");
        let end =
            at + words[at..].iter().position(|word| word == "--").expect("`--` behind the stage");
        (&words[..at], &words[end + 1..])
    }
}

/// A generated launch. Values that a shell would split or expand are held apart from the tokens
/// that stand for them in upstream's environment (D3): upstream is asked what it does with a
/// plain token, and the value must then stand in the token's place, as one word.
#[derive(Clone, Debug)]
struct Case {
    programs: Vec<&'static str>,
    runtime_dir: &'static str,
    /// Below the runtime directory, if it is not empty.
    state_dir: Option<&'static str>,
    net: Option<Text>,
    mtu: Option<&'static str>,
    port_driver: Option<Text>,
    sandbox: Option<&'static str>,
    seccomp: Option<&'static str>,
    host_loopback: Option<&'static str>,
    flags: Vec<Text>,
    words: Vec<Text>,
    leaked: bool,
}

/// A value and what stands for it in a shell script.
#[derive(Clone, Debug, PartialEq)]
struct Text {
    value: OsString,
    plain: bool,
}

impl Text {
    fn plain(value: &str) -> Self {
        Self { value: value.into(), plain: true }
    }

    fn token(&self, place: &str) -> OsString {
        if self.plain { self.value.clone() } else { format!("token-of-{place}").into() }
    }
}

/// Bytes that hurt shell scripts: blanks, globs, quotes, expansions, no UTF-8.
fn odd_text() -> impl Strategy<Value = Text> {
    let hostile = prop_oneof![
        Just(b"a b".to_vec()),
        Just(b"/et*".to_vec()),
        Just(b"$(id)`id`$HOME".to_vec()),
        Just(b"'\"\\".to_vec()),
        Just(b"line\nline".to_vec()),
        Just(b"\xff\xfe".to_vec()),
        proptest::collection::vec(1u8..=255, 1..16),
    ];
    hostile.prop_map(|bytes| Text { value: OsString::from_vec(bytes), plain: false })
}

fn any_case() -> impl Strategy<Value = Case> {
    let plain =
        |words: &'static [&'static str]| proptest::sample::select(words).prop_map(Text::plain);
    let net = prop_oneof![
        6 => plain(&["", "slirp4netns", "pasta", "vpnkit", "lxc-user-nic", "gvisor-tap-vsock", "host", "newer-driver"]),
        1 => odd_text(),
    ];
    let port_driver = prop_oneof![
        6 => plain(&["", "builtin", "slirp4netns", "implicit", "pesto", "none"]),
        1 => odd_text(),
    ];
    let flag = prop_oneof![
        plain(&["--debug", "--cidr=10.0.3.0/24", "--pidns", "-p=127.0.0.1:8080:80/tcp", "--ipv6"]),
        odd_text()
            .prop_map(|text| Text { value: assignment("--ifname=", &text.value), plain: false }),
    ];
    let word = prop_oneof![
        4 => plain(&["-D", "--experimental", "--data-root=/x", "-Hfd://", "fd://", "--", "install.sh", "--iptables=false"]),
        1 => odd_text(),
    ];
    let programs =
        proptest::sample::subsequence(vec!["docker-rootlesskit", "vpnkit", "pasta"], 0..=3);
    let slirp =
        proptest::sample::select(vec![Some("slirp"), Some("slirp"), Some("old-slirp"), None]);
    (
        (
            programs,
            slirp,
            proptest::sample::select(vec!["run", "run dir"]),
            known_values(SCRIPT.state_dir, &["", "mine", "deep/my state"]),
        ),
        (proptest::option::of(net), proptest::option::of(port_driver)),
        proptest::option::of(proptest::sample::select(vec!["", "1500", "65520", "0", "9000"])),
        (
            proptest::option::of(proptest::sample::select(vec!["", "auto", "true", "false"])),
            proptest::option::of(proptest::sample::select(vec!["", "auto", "true", "false"])),
            known_values(SCRIPT.host_loopback, &["", "true", "false", "0"]),
        ),
        (
            proptest::collection::vec(flag, 0..3),
            proptest::collection::vec(word, 0..4),
            any::<bool>(),
        ),
    )
        .prop_map(
            |(
                (programs, slirp, runtime_dir, state_dir),
                (net, port_driver),
                mtu,
                (sandbox, seccomp, host_loopback),
                (flags, words, leaked),
            )| {
                let programs = slirp.into_iter().chain(programs).collect();
                Case {
                    programs,
                    runtime_dir,
                    state_dir,
                    net,
                    mtu,
                    port_driver,
                    sandbox,
                    seccomp,
                    host_loopback,
                    flags,
                    words,
                    leaked,
                }
            },
        )
}

/// A value for a variable that the installed script may not know: it then stays unset.
fn known_values(
    known: bool,
    values: &'static [&'static str],
) -> impl Strategy<Value = Option<&'static str>> {
    proptest::option::of(proptest::sample::select(values))
        .prop_map(move |value| value.filter(|_| known))
}

impl Case {
    fn has(&self, program: &str) -> bool {
        self.programs.contains(&program)
    }

    /// A stated value, if it is not empty.
    fn stated(text: &Option<Text>) -> Option<&Text> {
        text.as_ref().filter(|text| !text.value.is_empty())
    }

    /// The driver that counts: the stated one, or the one that upstream's search finds.
    fn driver(&self) -> Option<OsString> {
        let found = || match () {
            () if self.has("slirp") => Some("slirp4netns".into()),
            () if self.has("vpnkit") => Some("vpnkit".into()),
            () => None,
        };
        Self::stated(&self.net).map(|text| text.value.clone()).or_else(found)
    }

    /// What ours refuses and upstream leaves to rootlesskit (D9).
    fn is_refused(&self) -> bool {
        let Some(driver) = self.driver() else {
            return true;
        };
        let port = Self::stated(&self.port_driver).map(|text| text.value.clone());
        let port_is = |names: &[&str]| {
            port.as_ref().is_some_and(|port| names.iter().any(|name| port == name))
        };
        let has_cidr = self.flags.contains(&Text::plain("--cidr=10.0.3.0/24"));
        match driver.to_str().unwrap_or_default() {
            "host" => true,
            // rootlesskit refuses these two with it.
            "vpnkit" | "lxc-user-nic" if has_cidr => true,
            "pasta" => !self.has("pasta") || port_is(&["builtin", "slirp4netns"]),
            "slirp4netns" => {
                !(self.has("slirp") || self.has("old-slirp")) || port_is(&["implicit", "pesto"])
            }
            "lxc-user-nic" if !Path::new("/usr/libexec/lxc/lxc-user-nic").exists() => true,
            "vpnkit" => !self.has("vpnkit") || port_is(&["implicit", "pesto", "slirp4netns"]),
            "gvisor-tap-vsock" => {
                port_is(&["implicit", "pesto", "slirp4netns"])
                    || self.flags.contains(&Text::plain("--ipv6"))
            }
            _ => port_is(&["implicit", "pesto", "slirp4netns"]),
        }
    }

    /// The state directory that counts: the stated one, or the default that ours has as the newest upstream.
    fn state_dir(&self, bench: &Bench) -> PathBuf {
        let stated = self.state_dir.filter(|name| !name.is_empty());
        bench.path(self.runtime_dir).join(stated.unwrap_or("dockerd-rootless"))
    }

    fn variables(&self, bench: &Bench, tokens: bool) -> Variables {
        let mut variables = bench.variables(&[]);
        variables.insert("XDG_RUNTIME_DIR".into(), bench.path(self.runtime_dir).into());
        variables.insert("PATH".into(), bench.search_path(&self.programs));
        variables.insert("UNRELATED".into(), "a *\nb".into());
        let mut set = |name: &str, value: OsString| {
            variables.insert(format!("DOCKERD_ROOTLESS_ROOTLESSKIT_{name}"), value)
        };
        for (name, text) in [("NET", &self.net), ("PORT_DRIVER", &self.port_driver)] {
            if let Some(text) = text {
                set(name, if tokens { text.token(name) } else { text.value.clone() });
            }
        }
        for (name, value) in [
            ("MTU", self.mtu),
            ("SLIRP4NETNS_SANDBOX", self.sandbox),
            ("SLIRP4NETNS_SECCOMP", self.seccomp),
            ("DISABLE_HOST_LOOPBACK", self.host_loopback),
        ] {
            if let Some(value) = value {
                set(name, value.into());
            }
        }
        let state_dir = self.state_dir(bench).into_os_string();
        if tokens && SCRIPT.state_dir && state_dir.as_bytes().contains(&b' ') {
            set("STATE_DIR", "token-of-STATE_DIR".into());
        } else if self.state_dir == Some("") {
            set("STATE_DIR", "".into());
        } else if self.state_dir.is_some() {
            set("STATE_DIR", state_dir);
        }
        if !self.flags.is_empty() {
            let words = self.flags.iter().enumerate();
            let words: Vec<OsString> =
                words
                    .map(|(at, text)| {
                        if tokens { text.token(&format!("flag-{at}")) } else { quoted(&text.value) }
                    })
                    .collect();
            set("FLAGS", words.join(OsStr::new(" ")));
        }
        if self.leaked {
            // Upstream takes it for its own mark and sets to work on the host (D4): it never sees it.
            if !tokens {
                variables.insert("_DOCKERD_ROOTLESS_CHILD".into(), "1".into());
            }
        }
        variables
    }

    /// The words of rootlesskit that upstream's `recorded` ones promise.
    fn expected_flags(&self, bench: &Bench, recorded: &[OsString]) -> Vec<OsString> {
        let at = recorded
            .iter()
            .position(|word| *word == UPSTREAM)
            .expect("upstream's own path among the words");
        let mut expected = Vec::new();
        // D1: the newest upstream names the state directory; an old script leaves it to rootlesskit.
        if !SCRIPT.state_dir {
            expected.push(assignment("--state-dir=", self.state_dir(bench)));
        }
        let is_pasta = self.driver().is_some_and(|driver| driver == "pasta");
        let unstated_mtu = self.mtu.unwrap_or_default().is_empty();
        let fast = ["slirp4netns", "pasta", "gvisor-tap-vsock"]
            .iter()
            .any(|name| self.driver().is_some_and(|driver| driver == *name));
        for word in &recorded[..at] {
            expected.push(match word.to_str() {
                // D6: the newest upstream's default for pasta.
                Some("--port-driver=builtin")
                    if is_pasta && Self::stated(&self.port_driver).is_none() =>
                {
                    "--port-driver=implicit".into()
                }
                // D7: the newest upstream's default however the driver was chosen.
                Some("--mtu=1500") if unstated_mtu && fast => "--mtu=65520".into(),
                Some("--state-dir=token-of-STATE_DIR") => {
                    assignment("--state-dir=", self.state_dir(bench))
                }
                _ => self.value_of_token(word),
            });
        }
        expected
    }

    /// `word` with a token replaced by the value that it stands for.
    fn value_of_token(&self, word: &OsStr) -> OsString {
        let text = word.to_str().expect("upstream's words are tokens");
        let replaced = |prefix: &str, text: &Option<Text>| -> Option<OsString> {
            let text = text.as_ref().filter(|text| !text.plain)?;
            Some(assignment(prefix, &text.value))
        };
        let value = match text {
            "--net=token-of-NET" => replaced("--net=", &self.net),
            "--port-driver=token-of-PORT_DRIVER" => replaced("--port-driver=", &self.port_driver),
            _ => text
                .strip_prefix("token-of-flag-")
                .map(|at| self.flags[at.parse::<usize>().expect("a number")].value.clone()),
        };
        value.unwrap_or_else(|| word.to_owned())
    }
}

fn assignment(prefix: &str, value: impl AsRef<OsStr>) -> OsString {
    [OsStr::new(prefix), value.as_ref()].into_iter().collect()
}

/// `value` in single quotes, as a user would protect it from a shell.
fn quoted(value: &OsStr) -> OsString {
    let mut quoted = b"'".to_vec();
    for byte in value.as_bytes() {
        match byte {
            b'\'' => quoted.extend(b"'\\''"),
            other => quoted.push(*other),
        }
    }
    quoted.push(b'\'');
    OsString::from_vec(quoted)
}

/// Variables that a shell makes, and upstream's mark (D5). A variable that was empty is given its
/// default by the script and stays empty with us.
fn comparable(record: &Record, given: &Variables) -> BTreeMap<OsString, OsString> {
    let made_by_shells = ["PWD", "OLDPWD", "SHLVL", "_", "_DOCKERD_ROOTLESS_CHILD"];
    let variables = record.variables.iter().filter(|(name, _)| {
        let name = name.to_string_lossy();
        let was_empty = given.get(&*name).is_some_and(|value| value.is_empty());
        !made_by_shells.contains(&&*name)
            && !was_empty
            && !name.starts_with("DOCKERD_ROOTLESS_ROOTLESSKIT_")
    });
    variables.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// PATH as ours extends it (D8).
fn with_sbin(mut variables: BTreeMap<OsString, OsString>) -> BTreeMap<OsString, OsString> {
    if let Some(path) = variables.get_mut(OsStr::new("PATH")) {
        path.push(":/usr/sbin:/sbin");
    }
    variables
}

#[test]
fn a_thousand_launches_tell_rootlesskit_what_upstreams_script_tells_it() {
    let bench = Bench::new();
    let compared = std::cell::Cell::new(0);
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&any_case(), |case| {
            let given = case.variables(&bench, false);
            let words: Vec<OsString> = case.words.iter().map(|text| text.value.clone()).collect();
            let tokens: Vec<OsString> = case
                .words
                .iter()
                .enumerate()
                .map(|(at, text)| match SCRIPT.quotes_words {
                    true => text.value.clone(),
                    false => text.token(&format!("word-{at}")),
                })
                .collect();
            let (output, ours) = bench.ours(&given, &words);
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            let given_upstream = case.variables(&bench, true);
            let (_, upstream) = bench.launch(Path::new(UPSTREAM), &given_upstream, &tokens);
            if case.is_refused() {
                prop_assert!(ours.is_none(), "rootlesskit was started: {told}");
                prop_assert!(
                    matches!(output.status.code(), Some(4 | 78)),
                    "{:?}: {told}",
                    output.status
                );
                prop_assert!(told.contains("error: ") && told.contains("hint: "), "{told}");
                return Ok(());
            }
            let ours = ours.ok_or_else(|| TestCaseError::fail(told))?;
            let upstream = upstream
                .ok_or_else(|| TestCaseError::fail("upstream did not start rootlesskit"))?;
            let (flags, daemon) = bench.split(&ours.words);
            let mut flags = flags.to_vec();
            let expected = case.expected_flags(&bench, &upstream.words);
            // D11: a host on 10.0.2.0/24 itself.
            flags
                .retain(|word| !word.as_bytes().starts_with(b"--cidr=") || expected.contains(word));
            prop_assert_eq!(flags, expected);

            // D2: what rootlesskit runs is our stage, which ends in the daemon and all its words.
            let at = upstream
                .words
                .iter()
                .position(|word| *word == UPSTREAM)
                .expect("upstream's own path");
            prop_assert_eq!(&upstream.words[at + 1..], &tokens[..]);
            prop_assert_eq!(&daemon[0], &bench.path("base/dockerd").into_os_string());
            prop_assert!(daemon.ends_with(&words), "{:?} ends in {:?}", daemon, words);
            // D10, D11: the containers' MTU is the only word that is added, and docker0 where the host has its network itself.
            let added = &daemon[1..daemon.len() - words.len()];
            let is_known = |word: &OsString| {
                [&b"--mtu="[..], b"--bip="].iter().any(|own| word.as_bytes().starts_with(own))
            };
            prop_assert!(added.iter().all(is_known), "{:?}", added);

            prop_assert_eq!(
                comparable(&ours, &given),
                with_sbin(comparable(&upstream, &given_upstream))
            );
            prop_assert!(!ours.variables.contains_key(OsStr::new("_DOCKERD_ROOTLESS_CHILD")));
            compared.set(compared.get() + 1);
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    println!(
        "{CASES} launches, {} of them compared word by word, the others refused",
        compared.get()
    );
    assert!(compared.get() > CASES / 4, "only {} launches were compared", compared.get());
}

/// The flags that ours hands over with `variables`, as one line without the state directory.
fn line(bench: &Bench, variables: &[(&str, &str)]) -> String {
    bench.flags_of_ours(&bench.variables(variables))[1..].join(" ")
}

const PREFIX: &str = "DOCKERD_ROOTLESS_ROOTLESSKIT_";

/// Made from `contrib/dockerd-rootless.sh` of moby b985e2313a (2026-08-23).
#[test]
fn variables_that_only_the_newest_upstream_knows() {
    let bench = Bench::new();
    // A rootlesskit of today, by what it says of itself.
    bench.stub(
        "today/rootlesskit",
        &stubs::rootlesskit(
            &bench.path("record"),
            "printf '%s\\n' 'VERSION:' '   3.1.0' 'OPTIONS:' \
             '    --net value  x [host, none, pasta(experimental), slirp4netns, vpnkit, lxc-user-nic(experimental), gvisor-tap-vsock(experimental)]' \
             '    --port-driver value  x [none, implicit (for pasta), builtin, slirp4netns, gvisor-tap-vsock(experimental), pesto]' \
             '    --detach-netns  x'",
        ),
    );
    let state_dir = bench.path("run/mine").display().to_string();
    let state_dir = state_dir.as_str();
    let default_dir = bench.path("run/dockerd-rootless").display().to_string();
    let rest = "--slirp4netns-sandbox=auto --slirp4netns-seccomp=auto";
    let tail = "--copy-up=/etc --copy-up=/run --propagation=rslave";
    let all = &["today", "slirp", "pasta", "vpnkit"][..];
    // Programs, variable, its value; the state directory, --net and --mtu, loopback and port driver, what follows.
    let table = [
        (
            all,
            "STATE_DIR",
            state_dir,
            state_dir,
            "--net=slirp4netns --mtu=65520",
            "--disable-host-loopback --port-driver=builtin",
            "",
        ),
        (
            all,
            "DISABLE_HOST_LOOPBACK",
            "false",
            &default_dir,
            "--net=slirp4netns --mtu=65520",
            "--port-driver=builtin",
            "",
        ),
        (
            all,
            "DISABLE_HOST_LOOPBACK",
            "true",
            &default_dir,
            "--net=slirp4netns --mtu=65520",
            "--disable-host-loopback --port-driver=builtin",
            "",
        ),
        (
            all,
            "DISABLE_HOST_LOOPBACK",
            "0",
            &default_dir,
            "--net=slirp4netns --mtu=65520",
            "--disable-host-loopback --port-driver=builtin",
            "",
        ),
        (
            all,
            "DETACH_NETNS",
            "1",
            &default_dir,
            "--net=slirp4netns --mtu=65520",
            "--disable-host-loopback --port-driver=builtin",
            " --detach-netns",
        ),
        (
            all,
            "DETACH_NETNS",
            "true",
            &default_dir,
            "--net=slirp4netns --mtu=65520",
            "--disable-host-loopback --port-driver=builtin",
            " --detach-netns",
        ),
        (
            all,
            "DETACH_NETNS",
            "0",
            &default_dir,
            "--net=slirp4netns --mtu=65520",
            "--disable-host-loopback --port-driver=builtin",
            "",
        ),
        (
            all,
            "DETACH_NETNS",
            "false",
            &default_dir,
            "--net=slirp4netns --mtu=65520",
            "--disable-host-loopback --port-driver=builtin",
            "",
        ),
        (
            all,
            "NET",
            "pasta",
            &default_dir,
            "--net=pasta --mtu=65520",
            "--disable-host-loopback --port-driver=implicit",
            "",
        ),
        (
            all,
            "NET",
            "gvisor-tap-vsock",
            &default_dir,
            "--net=gvisor-tap-vsock --mtu=65520",
            "--disable-host-loopback --port-driver=builtin",
            "",
        ),
        (
            all,
            "NET",
            "vpnkit",
            &default_dir,
            "--net=vpnkit --mtu=1500",
            "--disable-host-loopback --port-driver=builtin",
            "",
        ),
        (
            &["today", "old-slirp", "pasta", "vpnkit"],
            "NET",
            "",
            &default_dir,
            "--net=pasta --mtu=65520",
            "--disable-host-loopback --port-driver=implicit",
            "",
        ),
        (
            &["today", "vpnkit"],
            "NET",
            "",
            &default_dir,
            "--net=vpnkit --mtu=1500",
            "--disable-host-loopback --port-driver=builtin",
            "",
        ),
        (
            &["today"],
            "NET",
            "",
            &default_dir,
            "--net=gvisor-tap-vsock --mtu=65520",
            "--disable-host-loopback --port-driver=builtin",
            "",
        ),
    ];
    for (programs, name, value, state_dir, net, port, more) in table {
        let mut variables = bench.variables(&[(&format!("{PREFIX}{name}"), value)]);
        variables.insert("PATH".into(), bench.search_path(programs));
        let expected = format!("--state-dir={state_dir} {net} {rest} {port} {tail}{more}");
        assert_eq!(
            bench.flags_of_ours(&variables).join(" "),
            expected,
            "{name}={value} with {programs:?}"
        );
    }
    let mut pesto = bench.variables(&[
        ("DOCKERD_ROOTLESS_ROOTLESSKIT_NET", "pasta"),
        ("DOCKERD_ROOTLESS_ROOTLESSKIT_PORT_DRIVER", "pesto"),
    ]);
    pesto.insert("PATH".into(), bench.search_path(all));
    assert!(bench.flags_of_ours(&pesto).contains(&"--port-driver=pesto".to_owned()));

    let (output, record) =
        bench.ours(&bench.variables(&[("DOCKERD_ROOTLESS_ROOTLESSKIT_DETACH_NETNS", "yes")]), &[]);
    assert_eq!((output.status.code(), record), (Some(78), None), "DETACH_NETNS=yes");
}

#[test]
fn dockerd_replaces_the_daemon() {
    let bench = Bench::new();
    bench.stub("other dir/my daemon", "exit 1");
    let daemon = bench.path("other dir/my daemon");
    let (_, record) =
        bench.ours(&bench.variables(&[("DOCKERD", daemon.to_str().unwrap())]), &["-D".into()]);
    let record = record.expect("rootlesskit is started");
    let (_, words) = bench.split(&record.words);
    assert_eq!(words, [daemon.as_os_str(), OsStr::new("--mtu=65520"), OsStr::new("-D")]);
    let (output, record) = bench.ours(&bench.variables(&[("DOCKERD", "/nowhere/dockerd")]), &[]);
    assert_eq!((output.status.code(), record), (Some(127), None));
}

#[test]
fn a_word_of_the_setup_tool_gets_upstreams_hint() {
    let bench = Bench::new();
    for word in ["check", "install", "uninstall"] {
        let (output, record) = bench.ours(&bench.variables(&[]), &[word.into(), "--force".into()]);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), record), (Some(1), None), "{word}");
        assert!(
            told.contains(&format!("did you mean `dockerd-rootless-setuptool.sh {word} --force`?")),
            "{told}"
        );
    }
    assert!(
        bench.ours(&bench.variables(&[]), &["--check".into()]).1.is_some(),
        "an option is dockerd's"
    );
}

#[test]
fn sandbox_seccomp_and_port_driver_have_upstreams_defaults_and_can_be_overridden() {
    let bench = Bench::new();
    let default = line(&bench, &[]);
    assert!(default.contains("--slirp4netns-sandbox=auto --slirp4netns-seccomp=auto"), "{default}");
    assert!(default.contains("--port-driver=builtin"), "{default}");
    for (name, value, word) in [
        ("SLIRP4NETNS_SANDBOX", "false", "--slirp4netns-sandbox=false"),
        ("SLIRP4NETNS_SECCOMP", "true", "--slirp4netns-seccomp=true"),
        ("PORT_DRIVER", "slirp4netns", "--port-driver=slirp4netns"),
        ("MTU", "1400", "--mtu=1400"),
    ] {
        let told = line(&bench, &[(&format!("{PREFIX}{name}"), value)]);
        assert!(told.split(' ').any(|told| told == word), "{word} in {told}");
    }
}

#[test]
fn nothing_is_experimental_and_mounts_of_the_host_reach_inside() {
    let bench = Bench::new();
    let told = line(&bench, &[]);
    assert!(told.ends_with("--propagation=rslave"), "{told}");
    let (_, record) = bench.ours(&bench.variables(&[]), &[]);
    assert!(!record.expect("started").words.iter().any(|word| word == "--experimental"));
}

#[test]
fn works_without_which_id_and_grep() {
    let bench = Bench::new();
    for program in ["id", "grep"] {
        fs::remove_file(bench.path("called").join(program)).expect(program);
    }
    assert!(bench.ours(&bench.variables(&[]), &[]).1.is_some());
}

#[test]
fn a_missing_network_driver_ends_in_a_failure() {
    let bench = Bench::new();
    let mut variables = bench.variables(&[]);
    variables.insert("PATH".into(), bench.search_path(&["old-slirp"]));
    let (output, record) = bench.ours(&variables, &[]);
    assert_eq!((output.status.code(), record), (Some(4), None));
    assert!(String::from_utf8_lossy(&output.stderr).contains("older than 0.4.0"), "{output:?}");
}

#[test]
fn values_that_would_be_parsed_again_are_refused() {
    let bench = Bench::new();
    for (name, value) in [
        ("MTU", "1500 --net=host --"),
        ("MTU", "abc"),
        ("MTU", "65522"),
        ("SLIRP4NETNS_SANDBOX", "yes"),
        ("SLIRP4NETNS_SECCOMP", "auto auto"),
        ("FLAGS", "--debug evil"),
        ("FLAGS", "'unclosed"),
    ] {
        let (output, record) =
            bench.ours(&bench.variables(&[(&format!("{PREFIX}{name}"), value)]), &[]);
        assert_eq!((output.status.code(), record), (Some(78), None), "{name}={value}");
    }
}

#[test]
fn what_is_too_long_for_the_kernel_is_named_as_such() {
    let bench = Bench::new();
    let flags = format!("--ifname={}", "x".repeat(100 * 1024));
    let variables = bench.variables(&[("DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS", &flags)]);
    assert!(bench.ours(&variables, &[]).1.is_some(), "100 KiB are fine");
    // The kernel takes 2 MiB of words and variables (a quarter of the usual stack): these just
    // fit, and no longer do with the flags among rootlesskit's words as well.
    let words = vec![OsString::from("x".repeat(100 * 1024)); 19];
    let (output, record) = bench.ours(&variables, &words);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), record), (Some(126), None), "{told}");
    assert!(told.contains("hint: an argument or a variable is too long"), "{told}");
}
