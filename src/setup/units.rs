//! The units: rendered, stamped and recognised. The templates are in `systemd/`.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Exit};
use crate::words;

pub const SERVICE: &str = "docker.service";
pub const SOCKET: &str = "docker.socket";

const SERVICE_TEMPLATE: &str = include_str!("../../systemd/docker.service.in");
const SOCKET_TEMPLATE: &str = include_str!("../../systemd/docker.socket.in");

/// How the first lines of a unit of ours begin. The hash covers the line with the parameters.
const STAMP: &str = "# Written by dockerd-rootless ";
const HASH: &str = "# sha256 of the lines below: ";
const PARAMETERS: &str = "# parameters: ";

/// The lines of the units that `dockerd-rootless-setuptool.sh install` has written, from 20.10 to
/// 29, except those that depend on the host.
const UPSTREAM: &str = "\
[Unit]
Description=Docker Application Container Engine (Rootless)
Documentation=https://docs.docker.com/go/rootless/
Documentation=https://docs.docker.com/engine/security/rootless/
Documentation=https://docs.docker.com
Requires=dbus.socket
[Service]
ExecReload=/bin/kill -s HUP $MAINPID
TimeoutSec=0
RestartSec=2
Restart=always
StartLimitBurst=3
StartLimitInterval=60s
LimitNOFILE=infinity
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
Delegate=yes
Type=simple
Type=notify
NotifyAccess=all
KillMode=mixed
[Install]
WantedBy=default.target";

/// What differs between two users' services, and is kept by an upgrade.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameters {
    pub path: Option<String>,
    /// Arguments for dockerd.
    pub args: Vec<String>,
}

/// Returns whether the user wrote or changed `text`: it is not as we or upstream's tool write it.
pub fn is_edited(text: &str) -> bool {
    !is_ours(text).unwrap_or(false) && !is_upstreams(text)
}

fn is_ours(text: &str) -> Option<bool> {
    let (first, rest) = text.split_once('\n')?;
    let (second, body) = rest.split_once('\n')?;
    Some(first.starts_with(STAMP) && second.strip_prefix(HASH)? == hash(body))
}

fn is_upstreams(text: &str) -> bool {
    let is_known = |line: &str| {
        let exec = line.strip_prefix("ExecStart=").and_then(|words| words.split(' ').next());
        exec.is_some_and(|program| program.ends_with("/dockerd-rootless.sh"))
            || line.starts_with("Environment=PATH=")
            || UPSTREAM.lines().any(|own| own == line)
    };
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    text.contains("\nExecStart=") && lines.all(is_known)
}

fn hash(body: &str) -> String {
    Sha256::digest(body.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn stamp(body: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!("{STAMP}{version}\n{HASH}{}\n{body}", hash(body))
}

/// Renders the service. Refuses a program that no unit can start.
pub fn render_service(program: &Path, path: &str, args: &[String]) -> Result<String, Error> {
    // systemd refuses such a path, and under a name of upstream's the program is another tool.
    let is_plain = |name: &&str| {
        !name.ends_with(".sh") && !name.contains(|c: char| c.is_control() || "\"'\\".contains(c))
    };
    let Some(name) = program.to_str().filter(is_plain) else {
        let what = format!("no unit can start the program `{}`", program.display());
        return Err(Error::new(Exit::Failed, what)
            .hint("move it to a directory with a plain name, such as ~/bin/dockerd-rootless"));
    };
    // systemd replaces variables in all words except the first (systemd.service(5)).
    let words = args.iter().map(|arg| format!(" {}", quote(&arg.replace('$', "$$"))));
    let exec = quote(name) + &words.collect::<String>();
    let environment = format!("Environment={}", quote(&format!("PATH={path}")));
    let body = SERVICE_TEMPLATE.replace("@ENVIRONMENT@", &environment).replace("@EXEC@", &exec);
    let parameters = Parameters { path: Some(path.to_owned()), args: args.to_vec() };
    Ok(stamp(&format!("{PARAMETERS}{}\n{body}", serde_json::json!(parameters))))
}

pub fn render_socket() -> String {
    stamp(SOCKET_TEMPLATE)
}

/// Quotes a word as systemd reads it (systemd.syntax(7)).
fn quote(word: &str) -> String {
    let escaped = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    format!("\"{escaped}\"")
}

/// Returns the parameters of the service `text` of ours or of upstream's.
pub fn parameters(text: &str) -> Parameters {
    let value = |name: &str| text.lines().find_map(|line| line.trim().strip_prefix(name));
    if let Some(own) = value(PARAMETERS).and_then(|json| serde_json::from_str(json).ok()) {
        return own;
    }
    let exec = words::split(value("ExecStart=").unwrap_or_default().as_ref()).unwrap_or_default();
    let args = exec.iter().skip(1).map(|word| word.to_string_lossy().into_owned());
    // Upstream's tool does not quote the assignment.
    Parameters { path: value("Environment=PATH=").map(str::to_owned), args: args.collect() }
}

/// Returns the PATH for a unit: the directory of `program`, then those of `search_path`, then the
/// sbin directories, each once. systemd ignores what is not UTF-8 or has control characters, and a
/// relative one means another directory in a unit.
pub fn unit_path(program: &Path, search_path: &OsStr) -> String {
    let own = program.parent().map(Path::to_owned);
    let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let mut kept: Vec<String> = Vec::new();
    for directory in own.into_iter().chain(std::env::split_paths(search_path)).chain(sbin) {
        match directory.into_os_string().into_string() {
            Ok(text) if kept.contains(&text) || !text.starts_with('/') => {}
            Ok(text) if !text.contains(char::is_control) => kept.push(text),
            _ => {}
        }
    }
    kept.join(":")
}
