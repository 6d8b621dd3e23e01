//! `daemon-config`: whether dockerd accepts its `daemon.json`, and what in it cannot work without
//! root. dockerd itself judges it where it has the flag `--validate`.

use serde_json::{Map, Value};

use crate::check::finding::{Evidence, Finding};
use crate::check::fix::Fix;
use crate::check::storage::NEED_ROOT;
use crate::check::trials::Outcome;
use crate::facts::DaemonJson;

/// Judges the file.
pub fn daemon_config(evidence: &Evidence<'_>) -> Finding {
    if evidence.daemon_turns_off("icc")
        && evidence.survey.sysctl("net.bridge.bridge-nf-call-iptables").is_none()
    {
        // moby#41913, moby#50635
        return Finding::problem("`icc` is false, and dockerd does not start without the kernel module br_netfilter, which it cannot load")
            .fix(Fix::Modules(&["br_netfilter"]));
    }
    let (path, json) =
        (&evidence.host.session.places.daemon_json, &evidence.host.session.daemon_json);
    let path = path.display();
    if *json == DaemonJson::Absent {
        return Finding::ok(format!("`{path}` is not present or empty"));
    }
    let text = evidence.survey.daemon_json.as_deref().unwrap_or_default();
    let object: Map<String, Value> = match serde_json::from_str(text.trim_start_matches('\u{feff}'))
    {
        Ok(object) => object,
        Err(error) => {
            let reason = match json {
                DaemonJson::Unknown(reason) if text.is_empty() => reason.clone(),
                _ => error.to_string(),
            };
            return Finding::problem(format!("`{path}` is not valid JSON: {reason}"));
        }
    };
    if let Outcome::Fails(failure) = &evidence.trials.validate {
        return Finding::problem(format!("dockerd refuses `{path}`: {}", failure.text));
    }
    match fault(evidence, &object) {
        Some((true, what)) => Finding::problem(format!("`{path}`: {what}")),
        Some((false, what)) => Finding::warn(format!("`{path}`: {what}")),
        None => Finding::ok(format!("`{path}` is valid")),
    }
}

/// Returns what cannot work, and whether it keeps dockerd from starting.
fn fault(evidence: &Evidence<'_>, object: &Map<String, Value>) -> Option<(bool, String)> {
    let text = |key: &str| object.get(key).and_then(Value::as_str);
    let exec_opts = object.get("exec-opts").and_then(Value::as_array);
    let asks_systemd =
        exec_opts.is_some_and(|all| all.iter().any(|own| own == "native.cgroupdriver=systemd"));
    if object.contains_key("graph") {
        return Some((
            true,
            "`graph` is not supported any more: rename it to `data-root`".to_owned(),
        ));
    }
    if let Some(driver) = text("storage-driver").filter(|driver| NEED_ROOT.contains(driver)) {
        return Some((
            true,
            format!("storage driver `{driver}` does not work without root: remove the key"),
        ));
    }
    if object.get("rootless") == Some(&Value::Bool(false)) {
        return Some((true, "`rootless` is false: remove the key".to_owned()));
    }
    if asks_systemd && evidence.survey.cgroup.version == Some(1) {
        return Some((
            true,
            "`native.cgroupdriver=systemd` needs cgroup v2: remove the option".to_owned(),
        ));
    }
    if text("userns-remap").is_some_and(|name| !name.is_empty()) {
        return Some((
            false,
            "`userns-remap` maps IDs a second time, which needs IDs of the daemon's own namespace"
                .to_owned(),
        ));
    }
    if text("data-root").is_some_and(|root| !root.starts_with('/')) {
        return Some((
            false,
            "`data-root` is not an absolute path: it depends on where the daemon is started"
                .to_owned(),
        ));
    }
    let (runtime_dir, _) = evidence.host.session.person.runtime_dir.as_ref()?;
    let ours = format!("unix://{}", runtime_dir.join("docker.sock").display());
    let hosts = object.get("hosts")?.as_array()?;
    let is_ours = |host: &Value| host == &ours || host == "unix://" || host == "fd://";
    let elsewhere = !hosts.is_empty() && !hosts.iter().any(is_ours);
    elsewhere.then(|| {
        (false, format!("`hosts` does not contain `{ours}`, where the client looks for the daemon"))
    })
}
