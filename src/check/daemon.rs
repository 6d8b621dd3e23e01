//! `daemon-config`: whether dockerd accepts its `daemon.json`, and what in it cannot work.

use serde_json::Value;

use crate::check::evidence::Evidence;
use crate::check::finding::Finding;
use crate::check::fix::Fix;
use crate::check::trials::Outcome;
use crate::facts::DaemonJson;

/// Judges the file. dockerd itself does where it has the flag `--validate`.
pub fn daemon_config(evidence: &Evidence<'_>) -> Finding {
    let (session, survey) = (&evidence.host.session, evidence.survey);
    let path = session.places.daemon_json.display();
    let has_bridge_filter = survey.sysctl("net.bridge.bridge-nf-call-iptables").is_some();
    if evidence.daemon_turns_off("icc") && !has_bridge_filter {
        // moby#41913, moby#50635
        return Finding::problem("`icc` is false, and dockerd does not start without the kernel module br_netfilter, which it cannot load")
            .fix(Fix::Modules(&["br_netfilter"]));
    }
    let json = match &session.daemon_json {
        DaemonJson::Absent => return Finding::ok(format!("`{path}` is not present or empty")),
        DaemonJson::Unknown(reason) => {
            return Finding::problem(format!("`{path}` cannot be read: {reason}"));
        }
        DaemonJson::Read(json) => json,
    };
    if let Outcome::Fails(failure) = &evidence.trials.validate {
        return Finding::problem(format!("dockerd refuses `{path}`: {}", failure.text));
    }
    if json.get("graph").is_some() {
        let what = "`graph` is not supported any more: rename it to `data-root`";
        return Finding::problem(format!("`{path}`: {what}"));
    }
    let list = |key: &str| json.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let wants_systemd = list("exec-opts").iter().any(|own| own == "native.cgroupdriver=systemd");
    if wants_systemd && survey.cgroup.version == Some(1) {
        let what = "`native.cgroupdriver=systemd` needs cgroup v2: remove the option";
        return Finding::problem(format!("`{path}`: {what}"));
    }
    let ours = format!("unix://{}", session.places.runtime_dir.join("docker.sock").display());
    let hosts = list("hosts");
    let is_ours = |host: &Value| host == &ours || host == "unix://" || host == "fd://";
    if !hosts.is_empty() && !hosts.iter().any(is_ours) {
        return Finding::warn(format!(
            "`{path}`: `hosts` does not contain `{ours}`, where the client looks for the daemon"
        ));
    }
    Finding::ok(format!("`{path}` is valid"))
}
