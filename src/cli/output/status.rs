//! The status, for people and for programs.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::cli::output::{SCHEMA, json_line};
use crate::supervise::Status;

/// The status for people; `None` if nothing runs.
pub fn status_text(status: Option<&Status>, needs_restart: bool) -> Vec<u8> {
    let Some(status) = status else {
        return b"state           not running\n".to_vec();
    };
    let pid = |pid: Option<u32>| pid.map(|pid| format!("PID {pid}"));
    let program = |pid: Option<u32>, version: &Option<String>| {
        let parts = [version.clone(), pid.map(|pid| format!("PID {pid}"))];
        let told: Vec<String> = parts.into_iter().flatten().collect();
        (!told.is_empty()).then(|| told.join(", "))
    };
    let socket = status.socket.as_ref().map(|path| path.display().to_string());
    let failure = status.last_failure.as_ref().map(|what| {
        let when = status.last_failure_at.map(|at| format!(" ({} ago)", ago(at)));
        format!("{what}{}", when.unwrap_or_default())
    });
    let newer = "the programs on disk are newer than those that run: dockerd-rootless restart";
    let rows = [
        ("state", Some(format!("{} since {}", status.state, ago(status.since)))),
        ("supervisor", pid(Some(status.supervisor))),
        ("dockerd", program(status.dockerd, &status.dockerd_version)),
        ("rootlesskit", program(status.rootlesskit, &status.rootlesskit_version)),
        ("containerd", pid(status.containerd)),
        ("network helper", pid(status.helper)),
        ("network driver", Some(status.network_driver.clone())),
        ("port driver", Some(status.port_driver.clone())),
        ("socket", socket),
        ("socket kept by", Some(status.socket_of.clone())),
        ("containers", Some(keeps(status.keeps_containers).to_owned())),
        ("replaced", Some(status.replaced.to_string())),
        ("restarts", Some(status.restarts.to_string())),
        ("network heals", Some(status.heals.to_string())),
        ("last failure", failure),
        ("restart needed", needs_restart.then(|| newer.to_owned())),
    ];
    let problems = status.problems.iter().map(|problem| ("problem", Some(problem.clone())));
    let lines = rows.into_iter().chain(problems).filter_map(|(name, value)| {
        value.filter(|value| !value.is_empty()).map(|value| format!("{name:<15} {value}\n"))
    });
    lines.collect::<String>().into_bytes()
}

/// What becomes of containers when dockerd is replaced.
fn keeps(keeps: bool) -> &'static str {
    match keeps {
        true => "go on running while dockerd is replaced",
        false => "stop with dockerd",
    }
}

/// How long ago a time in seconds since 1970 is.
fn ago(at: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(at, |now| now.as_secs());
    match now.saturating_sub(at) {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86400),
    }
}

/// The status for programs.
pub fn status_json(status: Option<&Status>, needs_restart: bool) -> Vec<u8> {
    let mut value = match status {
        Some(status) => json!(status),
        None => json!({"state": "not running"}),
    };
    if let Value::Object(fields) = &mut value {
        fields.insert("schema".to_owned(), json!(SCHEMA));
        fields.insert("restart_needed".to_owned(), json!(needs_restart));
    }
    json_line(value)
}
