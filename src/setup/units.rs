//! The units: rendered, stamped and recognised. The templates are in `systemd/`.
#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
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
#[serde(default)]
pub struct Parameters {
    pub path: Option<String>,
    /// Arguments for dockerd.
    pub args: Vec<String>,
}

/// Who wrote a unit. One that was changed since is the user's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Author {
    Us,
    /// Docker's setup tool.
    Upstream,
    User,
}

/// Tells who wrote `text`.
pub fn identify(text: &str) -> Author {
    if unstamped(text).is_some() {
        return Author::Us;
    }
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let is_upstreams = |line: &&str| {
        let depends_on_host = ["Environment=PATH=", "ExecStart="];
        UPSTREAM.lines().any(|own| own == *line)
            || depends_on_host.iter().any(|start| line.starts_with(start))
    };
    let mut programs = lines.iter().filter_map(|line| line.strip_prefix("ExecStart="));
    let program = programs.next().and_then(|words| words.split_whitespace().next());
    let is_script = program.is_some_and(|program| program.ends_with("/dockerd-rootless.sh"));
    if is_script && programs.next().is_none() && lines.iter().all(is_upstreams) {
        Author::Upstream
    } else {
        Author::User
    }
}

/// Returns what is below the stamp, if it is unchanged.
fn unstamped(text: &str) -> Option<&str> {
    let (first, rest) = text.split_once('\n')?;
    let (second, body) = rest.split_once('\n')?;
    let is_ours = first.starts_with(STAMP) && second.strip_prefix(HASH)? == hash(body);
    is_ours.then_some(body)
}

fn hash(body: &str) -> String {
    Sha256::digest(body.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn stamp(body: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!("{STAMP}{version}\n{HASH}{}\n{body}", hash(body))
}

/// Renders the service. Refuses a program that no unit can name.
pub fn render_service(
    program: &Path,
    path: &str,
    args: &[String],
    has_dbus: bool,
) -> Result<String, Error> {
    let unit_safe = |text: &&str| !text.contains(|c: char| c.is_control() || "\"'\\".contains(c));
    let Some(name) = program.to_str().filter(unit_safe) else {
        let what = format!(
            "no unit can name the program `{}`: systemd refuses quotes, backslashes, control characters and bytes that are not UTF-8",
            program.display()
        );
        return Err(Error::new(Exit::Failed, what)
            .hint("move the program to a directory with a plain name, such as ~/bin"));
    };
    let mut exec = quote(name, false);
    args.iter().for_each(|arg| exec += &format!(" {}", quote(arg, true)));
    let dbus = if has_dbus {
        "Requires=dbus.socket\nAfter=dbus.socket"
    } else {
        "# (There is no dbus.socket here to require.)"
    };
    let body = SERVICE_TEMPLATE
        .replace("@DBUS@", dbus)
        .replace("@ENVIRONMENT@", &format!("Environment={}", quote(&format!("PATH={path}"), false)))
        .replace("@EXEC@", &exec);
    let parameters = Parameters { path: Some(path.to_owned()), args: args.to_vec() };
    let parameters = serde_json::to_string(&parameters).unwrap_or_default();
    Ok(stamp(&format!("{PARAMETERS}{parameters}\n{body}")))
}

/// Renders the socket.
pub fn render_socket() -> String {
    stamp(SOCKET_TEMPLATE)
}

/// Quotes a word as systemd splits words (systemd.syntax(7)): in double quotes with C's escapes,
/// percent signs twice, and dollar signs twice where variables are replaced: in every word of
/// `ExecStart=` except the first (systemd.service(5)).
fn quote(word: &str, has_variables: bool) -> String {
    let mut quoted = String::from('"');
    for character in word.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '%' => quoted.push_str("%%"),
            '$' if has_variables => quoted.push_str("$$"),
            '\0'..='\x1f' => {
                let _ = write!(quoted, "\\x{:02x}", u32::from(character));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

/// Returns the parameters of the service `text` of ours or of upstream's.
pub fn parameters(text: &str) -> Parameters {
    let value = |name: &str| text.lines().find_map(|line| line.trim().strip_prefix(name));
    let body = unstamped(text);
    let stamped = body.and_then(|body| body.lines().next()?.strip_prefix(PARAMETERS));
    if let Some(parameters) = stamped.and_then(|json| serde_json::from_str(json).ok()) {
        return parameters;
    }
    // Up to 0.1 no parameters were in the stamp, but systemd's quoting is nearly a shell's.
    let is_ours = body.is_some();
    let single = |word: String| if is_ours { word.replace("%%", "%") } else { word };
    let split = |line: &str| words::split(line.as_ref()).unwrap_or_default().into_iter();
    let text = |word: OsString| single(word.to_string_lossy().into_owned());
    let args = split(value("ExecStart=").unwrap_or_default()).skip(1).map(text);
    let args = args.map(|arg| if is_ours { arg.replace("$$", "$") } else { arg }).collect();
    let path = if is_ours {
        let word = value("Environment=").and_then(|line| split(line).next()).map(text);
        word.and_then(|word| word.strip_prefix("PATH=").map(str::to_owned))
    } else {
        // Upstream's tool quotes nothing.
        value("Environment=PATH=").map(str::to_owned)
    };
    Parameters { path, args }
}

/// Returns the PATH for a unit: what is absolute and can stand there, each once, with the directory
/// of `program` first and the sbin directories last. Returns what cannot stand there, too.
pub fn unit_path(program: &Path, search_path: &OsStr) -> (String, Vec<PathBuf>) {
    let own = program.parent().map(Path::to_owned);
    let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let listed = search_path.as_bytes().split(|byte| *byte == b':');
    let listed = listed.filter(|path| !path.is_empty()).map(OsStr::from_bytes).map(PathBuf::from);
    let mut kept: Vec<String> = Vec::new();
    let mut dropped = Vec::new();
    for directory in own.into_iter().chain(listed).chain(sbin) {
        // systemd ignores an assignment that is not UTF-8 or has control characters, and an entry
        // that depends on the working directory means another one in a unit.
        let text = directory.to_str().filter(|text| !text.contains(char::is_control));
        match text.filter(|_| directory.is_absolute()) {
            Some(text) if kept.iter().any(|known| known == text) => {}
            Some(text) => kept.push(text.to_owned()),
            None => dropped.push(directory),
        }
    }
    (kept.join(":"), dropped)
}
