//! Whether dockerd will take its `daemon.json`, and whether what it says can work without root.
//! Mirrors moby's `daemon/config/config.go` (`findConfigurationConflicts`) and
//! `daemon/daemon_unix.go` (`verifyDaemonSettings`).

use std::ffi::OsString;
use std::path::Path;

use serde_json::{Map, Value};

use crate::check::{Evidence, Finding};
use crate::facts::DaemonJson;
use crate::settings::DockerdArgs;

/// Keys whose value is an object that is one option; the keys in any other object count as options
/// themselves (moby's `flatOptions`, of all versions).
const OBJECTS: &[&str] = &[
    "builder",
    "cluster-store-opts",
    "default-network-opts",
    "default-ulimits",
    "features",
    "log-opts",
    "nri-opts",
    "runtimes",
];

/// Keys that have another name than their flag (moby's `opts.NamedOption`).
const RENAMED: &[(&str, &str)] = &[
    ("authorization-plugins", "authorization-plugin"),
    ("cdi-spec-dirs", "cdi-spec-dir"),
    ("default-address-pools", "default-address-pool"),
    ("default-network-opts", "default-network-opt"),
    ("default-ulimits", "default-ulimit"),
    ("dns-opts", "dns-opt"),
    ("exec-opts", "exec-opt"),
    ("features", "feature"),
    ("host-gateway-ips", "host-gateway-ip"),
    ("hosts", "host"),
    ("insecure-registries", "insecure-registry"),
    ("labels", "label"),
    ("log-opts", "log-opt"),
    ("node-generic-resources", "node-generic-resource"),
    ("registry-mirrors", "registry-mirror"),
    ("runtimes", "add-runtime"),
    ("storage-opts", "storage-opt"),
];

/// Keys that the help text does not show, or not in each version that takes them.
const NOT_IN_HELP: &[&str] = &[
    "allow-nondistributable-artifacts",
    "api-cors-header",
    "builder",
    "cluster-advertise",
    "cluster-store",
    "cluster-store-opts",
    "default-network-opts",
    "deprecated-key-path",
    "features",
    "graph",
    "min-api-version",
    "network-diagnostic-port",
    "nri-opts",
    "oom-score-adjust",
    "restart",
];

/// The short forms of flags that have one.
const SHORT: &[(&str, u8)] = &[
    ("bridge", b'b'),
    ("data-root", b'g'),
    ("group", b'G'),
    ("host", b'H'),
    ("log-level", b'l'),
    ("pidfile", b'p'),
    ("storage-driver", b's'),
];

/// Something that is wrong with the file.
struct Problem {
    /// Whether dockerd does not start.
    fatal: bool,
    /// What, as a part of a sentence.
    what: String,
    /// Why.
    why: String,
}

impl Problem {
    fn fatal(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { fatal: true, what: what.into(), why: why.into() }
    }

    fn drawback(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { fatal: false, ..Self::fatal(what, why) }
    }
}

/// `daemon-config`: `daemon.json` is understood, and can work without root.
pub fn daemon_config(evidence: &Evidence<'_>) -> Finding {
    let (path, json) =
        (&evidence.host.session.places.daemon_json, &evidence.host.session.daemon_json);
    let text = evidence.survey.daemon_json_text.as_deref();
    let shown = path.display();
    match (json, text) {
        (DaemonJson::Absent, _) => Finding::ok(format!("`{shown}` does not exist or says nothing")),
        (DaemonJson::Unknown(reason), None) => Finding::fail(format!("`{shown}`: {reason}"))
            .because("dockerd does not start with a file that it does not understand"),
        (DaemonJson::Unknown(reason), Some(text)) => not_json(path, text, reason),
        (DaemonJson::Keys { .. }, text) => match text.and_then(|text| parse(text).ok()) {
            Some(object) => judge(evidence, path, &object),
            None => Finding::skip(format!("`{shown}` was not read as a whole")),
        },
    }
}

fn parse(text: &str) -> Result<Map<String, Value>, serde_json::Error> {
    serde_json::from_str(text.trim_start_matches('\u{feff}'))
}

/// A file that is no JSON; superfluous commas are mended if nothing else is wrong.
fn not_json(path: &Path, text: &str, reason: &str) -> Finding {
    // Line and column as they are in the file, blank lines at its head included.
    let reason = parse(text).map_or_else(|error| error.to_string(), |_| reason.to_owned());
    let finding = Finding::fail(format!("`{}` is not valid JSON: {reason}", path.display()))
        .because("dockerd does not start with a file that it does not understand");
    let commas = superfluous_commas(text);
    let mut mended = text.as_bytes().to_vec();
    for at in commas.iter().rev() {
        mended.remove(*at);
    }
    let is_mended = std::str::from_utf8(&mended).is_ok_and(|text| parse(text).is_ok());
    match sed_script(text, &commas).filter(|_| is_mended) {
        Some(script) => {
            let file = quoted(path);
            let (new, backup) = (beside(path, ".new"), beside(path, ".bak"));
            // Written through, so that a link stays a link.
            finding.user(format!("[ -e {backup} ] || cp -p {file} {backup}")).user(format!(
                "LC_ALL=C sed -e '{script}' {file} >{new} && cat {new} >{file} && rm {new}"
            ))
        }
        None => finding,
    }
}

/// Where a comma stands before a closing bracket, outside of strings.
fn superfluous_commas(text: &str) -> Vec<usize> {
    let mut commas = Vec::new();
    let mut last = None;
    let mut in_string = false;
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match (in_string, byte) {
            (true, b'\\') => {
                bytes.next();
            }
            (_, b'"') => {
                in_string = !in_string;
                last = None;
            }
            (true, _) => {}
            (false, b'}' | b']') => commas.extend(last.take()),
            (false, b',') => last = Some(at),
            (false, byte) if byte.is_ascii_whitespace() => {}
            (false, _) => last = None,
        }
    }
    commas
}

/// The script for sed that removes the commas at these places and, run again, nothing more; `None`
/// if there are none or one is too far to the right for a regular expression of POSIX.
fn sed_script(text: &str, commas: &[usize]) -> Option<String> {
    // The last of a line comes first, so that the columns before it still hold.
    let steps: Option<Vec<String>> = commas
        .iter()
        .rev()
        .map(|at| {
            let start = text[..*at].rfind('\n').map_or(0, |newline| newline + 1);
            let line = text[..start].matches('\n').count() + 1;
            let column = at - start;
            (column <= 255).then(|| {
                format!(
                    r"{line}s/^\(.\{{{column}\}}\),\([[:space:]]*\)$/\1\2/; {line}s/^\(.\{{{column}\}}\),\([[:space:]]*[]}}]\)/\1\2/"
                )
            })
        })
        .collect();
    steps.filter(|steps| !steps.is_empty()).map(|steps| steps.join("; "))
}

/// What is wrong with a file that is understood.
fn judge(evidence: &Evidence<'_>, path: &Path, object: &Map<String, Value>) -> Finding {
    let shown = path.display();
    let words = evidence.settings.args();
    let words = words;
    let options = options(object);
    let mut problems: Vec<Problem> = [
        unknown(evidence, &options),
        said_twice(words, &options),
        turned_to_root(object),
        cgroup_driver(evidence, object),
        isolation(words, object),
    ]
    .into_iter()
    .flatten()
    .collect();
    problems.extend(drawbacks(evidence, object));
    if problems.is_empty() {
        return Finding::ok(format!("`{shown}` is valid, and nothing in it needs root"));
    }
    // A stable sort: what keeps dockerd from starting comes first.
    problems.sort_by_key(|problem| !problem.fatal);
    let (worst, rest) = (problems.remove(0), problems);
    let more = match rest.len() {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    let summary = format!("`{shown}`: {}{more}", worst.what);
    let finding = match worst.fatal {
        true => Finding::fail(summary),
        false => Finding::warn(summary),
    };
    rest.into_iter().fold(finding.because(worst.why), |finding, problem| {
        finding.because(format!("{}: {}", problem.what, problem.why))
    })
}

/// The options as dockerd counts them.
fn options(object: &Map<String, Value>) -> Vec<&str> {
    let mut options = Vec::new();
    for (key, value) in object {
        match value.as_object() {
            Some(inner) if !OBJECTS.contains(&key.as_str()) => {
                options.extend(inner.keys().map(String::as_str));
            }
            _ => options.push(key),
        }
    }
    options
}

fn flag_of(key: &str) -> &str {
    RENAMED.iter().find(|(renamed, _)| *renamed == key).map_or(key, |(_, flag)| flag)
}

/// Options that this dockerd does not have, by its own help.
fn unknown(evidence: &Evidence<'_>, options: &[&str]) -> Option<Problem> {
    let dockerd = evidence.host.tools.dockerd.known()?;
    let unknown: Vec<String> = options
        .iter()
        .filter(|key| !NOT_IN_HELP.contains(key) && !dockerd.has_flag(flag_of(key)))
        .map(|key| format!("`{key}`"))
        .collect();
    let version = dockerd.version.map_or_else(String::new, |version| format!(" {version}"));
    (!unknown.is_empty()).then(|| {
        Problem::fatal(
            format!("this dockerd{version} has no option {}", unknown.join(", ")),
            "dockerd refuses directives that it does not know",
        )
    })
}

/// Options that dockerd's words give as well, which it refuses.
fn said_twice(words: DockerdArgs<'_>, options: &[&str]) -> Option<Problem> {
    let is_said = |key: &&&str| {
        let flag = flag_of(key);
        let letter = SHORT.iter().find(|(long, _)| *long == flag);
        words.long(flag).is_some()
            || letter.is_some_and(|(_, letter)| words.short(*letter).is_some())
            || flag == "debug" && words.0.contains(&OsString::from("-D"))
    };
    // Runtimes from both places are put together (moby's `skipDuplicates`).
    let twice: Vec<String> = options
        .iter()
        .filter(|key| **key != "runtimes")
        .filter(is_said)
        .map(|key| format!("`{key}`"))
        .collect();
    (!twice.is_empty()).then(|| {
        Problem::fatal(
            format!("{} also stands in the daemon's words", twice.join(", ")),
            "dockerd refuses an option that is given as a flag and in the file: keep one of the two \
             (`dockerd-rootless config explain daemon.args` shows the words that a file gives)",
        )
    })
}

/// moby's `daemon/command/daemon.go`.
fn turned_to_root(object: &Map<String, Value>) -> Option<Problem> {
    (object.get("rootless") == Some(&Value::Bool(false))).then(|| {
        Problem::fatal(
            "`rootless` is false",
            "dockerd does not start inside of rootlesskit then: take the key out",
        )
    })
}

/// moby's `verifyDaemonSettings`.
fn cgroup_driver(evidence: &Evidence<'_>, object: &Map<String, Value>) -> Option<Problem> {
    let options = object.get("exec-opts")?.as_array()?;
    let asked = options.iter().any(|option| option == "native.cgroupdriver=systemd");
    (asked && evidence.survey.cgroup.version == Some(1)).then(|| {
        Problem::fatal(
            "`exec-opts` asks for the cgroup driver `systemd` on cgroup v1",
            "that driver needs cgroup v2 without root: take the option out, or boot with cgroup v2 \
             (see `cgroup`)",
        )
    })
}

/// moby's `verifyDaemonSettings`.
fn isolation(words: DockerdArgs<'_>, object: &Map<String, Value>) -> Option<Problem> {
    let off = |key: &str| object.get(key) == Some(&Value::Bool(false)) || words.turns_off(key);
    (off("icc") && off("iptables")).then(|| {
        Problem::fatal(
            "`icc` and `iptables` are both false",
            "containers are kept apart by iptables: dockerd refuses the pair",
        )
    })
}

/// What works, but not as one would think.
fn drawbacks(evidence: &Evidence<'_>, object: &Map<String, Value>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let text = |key: &str| object.get(key).and_then(Value::as_str);
    if text("userns-remap").is_some_and(|name| !name.is_empty() && name != "root") {
        problems.push(Problem::drawback(
            "`userns-remap` maps ids a second time",
            "only ids of the daemon's own namespace can be mapped on (user_namespaces(7)), and those in \
             `/etc/subuid` are mostly others; rootless containers are remapped already",
        ));
    }
    if object.get("live-restore") == Some(&Value::Bool(true)) && !evidence.settings.supervise.value
    {
        // moby's integration/container/restart_test.go leaves it out for rootless daemons.
        problems.push(Problem::drawback(
            "`live-restore` does nothing without the supervisor",
            "the namespaces that containers live in end with the daemon",
        ));
    }
    if text("data-root").is_some_and(|root| !root.starts_with('/')) {
        problems.push(Problem::drawback(
            "`data-root` is no absolute path",
            "it counts from where the daemon happens to be started: the next time, images may be gone",
        ));
    }
    let runtime_dir = &evidence.host.session.person.runtime_dir;
    let hosts = object.get("hosts").and_then(Value::as_array);
    if let (Some((directory, _)), Some(hosts)) = (runtime_dir, hosts) {
        let ours = format!("unix://{}", directory.join("docker.sock").display());
        // `unix://` alone is that socket as well, and `fd://` are sockets of the service manager.
        let is_ours = |host: &Value| host == &ours || host == "unix://" || host == "fd://";
        if !hosts.is_empty() && !hosts.iter().any(is_ours) {
            problems.push(Problem::drawback(
                format!("`hosts` leaves out `{ours}`"),
                "whoever looks for the daemon, such as the client's context `rootless`, looks there",
            ));
        }
    }
    problems
}

fn beside(path: &Path, ending: &str) -> String {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    quoted(Path::new(&name))
}

fn quoted(path: &Path) -> String {
    crate::words::quote(path.as_os_str()).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;
    use crate::check::tests::Sample;
    use crate::facts::{Answer, DockerdFacts, Tool, Version};

    /// A host with this file, and a dockerd with the flags that these tests need.
    fn with(text: &str) -> Sample {
        let mut sample = Sample::healthy();
        sample.host.session.daemon_json = DaemonJson::parse(text);
        sample.survey.daemon_json_text = Some(text.to_owned());
        let flags = "data-root debug exec-opt exec-root host http-proxy icc iptables live-restore log-opt mtu \
                     rootless userns-remap";
        sample.host.tools.dockerd = Tool::Found {
            path: "/usr/bin/dockerd".into(),
            answer: Answer::Known(DockerdFacts {
                version: Some(Version(29, 5, 0)),
                flags: flags.split_whitespace().map(str::to_owned).collect(),
            }),
        };
        sample
    }

    #[test]
    fn what_dockerd_takes_is_fine() {
        for text in [
            "{}",
            "",
            r#"{"data-root": "/d", "features": {"x": true}, "builder": {"gc": {}}}"#,
            r#"{"log-opts": {"max-size": "1m"}, "exec-opts": ["native.cgroupdriver=systemd"]}"#,
            r#"{"proxies": {"http-proxy": "x"}, "min-api-version": "1.24", "nri-opts": {"enable": true}}"#,
            r#"{"hosts": ["unix:///run/user/1000/docker.sock", "tcp://127.0.0.1:2376"]}"#,
            r#"{"icc": true, "iptables": false, "userns-remap": ""}"#,
        ] {
            let finding = daemon_config(&with(text).evidence());
            assert_eq!(finding.status, Status::Ok, "{text}: {}", finding.summary);
        }
    }

    #[test]
    fn what_dockerd_refuses_fails() {
        for (text, summary) in [
            (r#"{"bogus": 1, "mtu": 1400}"#, "this dockerd 29.5.0 has no option `bogus`"),
            (r#"{"proxies": {"htp-proxy": "x"}}"#, "has no option `htp-proxy`"),
            (r#"{"log-opt": {"max-size": "1m"}}"#, "has no option `max-size`"),
            (r#"{"rootless": false}"#, "`rootless` is false"),
            (r#"{"icc": false, "iptables": false}"#, "`icc` and `iptables` are both false"),
        ] {
            let finding = daemon_config(&with(text).evidence());
            assert_eq!(finding.status, Status::Fail, "{text}");
            assert!(finding.summary.contains(summary), "{}", finding.summary);
        }
        let mut sample = with(r#"{"exec-opts": ["native.cgroupdriver=systemd"]}"#);
        sample.survey.cgroup.version = Some(1);
        let finding = daemon_config(&sample.evidence());
        assert_eq!(finding.status, Status::Fail);
        assert!(finding.summary.contains("cgroup v1"), "{}", finding.summary);
    }

    #[test]
    fn an_option_is_said_once() {
        let cases = [
            (r#"{"mtu": 1400}"#, "--mtu=1400", Some("`mtu` also")),
            (r#"{"hosts": ["fd://"]}"#, "-Hfd://", Some("`hosts` also")),
            (r#"{"debug": true}"#, "-D", Some("`debug` also")),
            (r#"{"exec-opts": []}"#, "--exec-opt=x", Some("`exec-opts` also")),
            (r#"{"runtimes": {}}"#, "--add-runtime=x", None),
            (r#"{"mtu": 1400}"#, "--debug", None),
        ];
        for (text, word, summary) in cases {
            let mut sample = with(text);
            sample.settings.dockerd_args = vec![word.into()];
            // Whether this dockerd has `--add-runtime` is not the question here.
            if summary.is_none() {
                sample.host.tools.dockerd = Tool::Absent;
            }
            let finding = daemon_config(&sample.evidence());
            let expected = summary.map_or(Status::Ok, |_| Status::Fail);
            assert_eq!(finding.status, expected, "{text} {word}: {}", finding.summary);
            assert!(finding.summary.contains(summary.unwrap_or_default()), "{}", finding.summary);
        }
    }

    #[test]
    fn what_works_otherwise_than_one_would_think_is_a_drawback() {
        for (text, summary) in [
            (r#"{"userns-remap": "default"}"#, "`userns-remap`"),
            (r#"{"data-root": "images"}"#, "`data-root`"),
            (
                r#"{"hosts": ["tcp://127.0.0.1:2376"]}"#,
                "`hosts` leaves out `unix:///run/user/1000/docker.sock`",
            ),
        ] {
            let finding = daemon_config(&with(text).evidence());
            assert_eq!(finding.status, Status::Warn, "{text}: {}", finding.summary);
            assert!(finding.summary.contains(summary), "{}", finding.summary);
        }
    }

    #[test]
    fn a_file_without_its_text_is_not_judged() {
        let mut sample = with("{}");
        sample.survey.daemon_json_text = None;
        assert_eq!(daemon_config(&sample.evidence()).status, Status::Skip);
        sample.host.session.daemon_json = DaemonJson::Unknown("permission denied".to_owned());
        let finding = daemon_config(&sample.evidence());
        assert_eq!(finding.status, Status::Fail);
        assert!(finding.summary.ends_with("permission denied"));
    }

    #[test]
    fn other_faults_of_json_get_no_command() {
        for text in ["{", "[1]", r#"{"a": 1,, }"#, r#"{"a": 1, "b" 2, }"#, "{'a': 1}"] {
            let finding = daemon_config(&with(text).evidence());
            assert_eq!(finding.status, Status::Fail, "{text}");
            assert_eq!(finding.fix, Default::default(), "{text}");
        }
        let finding = daemon_config(&with("\n\n{\"a\" 1}").evidence());
        assert!(finding.summary.contains("at line 3"), "{}", finding.summary);
    }

    #[test]
    fn superfluous_commas_are_mended_by_what_is_printed() {
        let directory = std::env::temp_dir().join(format!("daemon json {}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("directory");
        let file = directory.join("daemon.json");
        for (text, mended) in [
            ("{\n  \"mtu\": 1400,\n}\n", "{\n  \"mtu\": 1400\n}\n"),
            ("{\"hosts\": [\"fd://\", ], }", "{\"hosts\": [\"fd://\" ] }"),
            (
                "\n{\"labels\": [\"a=ä,]\\\",}\",\n\n],\"mtu\": 1,  \n }",
                "\n{\"labels\": [\"a=ä,]\\\",}\"\n\n],\"mtu\": 1  \n }",
            ),
            ("{\r\n\"mtu\": 1,\r\n}\r\n", "{\r\n\"mtu\": 1\r\n}\r\n"),
        ] {
            std::fs::write(&file, text).expect("written");
            let mut sample = with(text);
            sample.host.session.places.daemon_json = file.clone();
            let finding = daemon_config(&sample.evidence());
            assert_eq!(finding.status, Status::Fail, "{text}");
            for time in ["once", "twice"] {
                let script = finding.fix.user.join("\n");
                let run =
                    std::process::Command::new("sh").args(["-euc", &script]).status().expect("sh");
                assert!(run.success(), "{script}");
                let now = std::fs::read_to_string(&file).expect("read");
                assert_eq!(now, mended, "{time}: {script}");
                assert!(parse(&now).is_ok(), "{now}");
            }
            let backup = directory.join("daemon.json.bak");
            assert_eq!(std::fs::read_to_string(&backup).expect("backup"), text);
            std::fs::remove_file(backup).expect("removed");
        }
        std::fs::remove_dir_all(directory).expect("removed");
    }
}
