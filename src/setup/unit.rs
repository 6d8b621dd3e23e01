//! The units: rendered, stamped, and recognised. The templates lie in `systemd/`.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, Exit};
use crate::words;

/// The name of the service.
pub const SERVICE: &str = "docker.service";

/// The name of the socket.
pub const SOCKET: &str = "docker.socket";

const SERVICE_TEMPLATE: &str = include_str!("../../systemd/docker.service.in");
const SOCKET_TEMPLATE: &str = include_str!("../../systemd/docker.socket.in");

/// How the first two lines of a unit of ours begin.
const STAMP: &str = "# Written by dockerd-rootless ";
const HASH: &str = "# sha256 of the lines below: ";

/// The directives of the units that `dockerd-rootless-setuptool.sh install` has written, from 20.10
/// to 29, but for the two that depend on the host.
const UPSTREAM: [&str; 23] = [
    "[Unit]",
    "Description=Docker Application Container Engine (Rootless)",
    "Documentation=https://docs.docker.com/go/rootless/",
    "Documentation=https://docs.docker.com/engine/security/rootless/",
    "Documentation=https://docs.docker.com",
    "Requires=dbus.socket",
    "[Service]",
    "ExecReload=/bin/kill -s HUP $MAINPID",
    "TimeoutSec=0",
    "RestartSec=2",
    "Restart=always",
    "StartLimitBurst=3",
    "StartLimitInterval=60s",
    "LimitNOFILE=infinity",
    "LimitNPROC=infinity",
    "LimitCORE=infinity",
    "TasksMax=infinity",
    "Delegate=yes",
    "Type=simple",
    "Type=notify",
    "NotifyAccess=all",
    "KillMode=mixed",
    "[Install]",
];
const UPSTREAM_WANTED: &str = "WantedBy=default.target";

/// What differs between the services of two users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// The program, absolute.
    pub program: PathBuf,
    /// Words for dockerd.
    pub words: Vec<OsString>,
    /// The PATH that the program gets.
    pub path: String,
    /// Whether there is a `dbus.socket` to require.
    pub has_dbus: bool,
}

/// Who has written a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Author {
    /// We, and nobody has touched it since.
    Us,
    /// Upstream's setup tool, and nobody has touched it since.
    Upstream,
    /// Somebody who may miss it.
    Somebody,
}

/// Tells who has written `text`.
pub fn identify(text: &str) -> Author {
    if unstamped(text).is_some() {
        return Author::Us;
    }
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    let is_upstreams = |line: &str| {
        UPSTREAM.contains(&line)
            || line == UPSTREAM_WANTED
            || line.starts_with("Environment=PATH=")
            || line.starts_with("ExecStart=")
    };
    let programs: Vec<&str> = lines().filter_map(|line| line.strip_prefix("ExecStart=")).collect();
    let is_script = |value: &str| {
        let program = value.split_whitespace().next().unwrap_or_default();
        program.ends_with("/dockerd-rootless.sh")
    };
    match programs[..] {
        [program] if is_script(program) && lines().all(is_upstreams) => Author::Upstream,
        _ => Author::Somebody,
    }
}

/// What is below the stamp, if that is what was stamped.
fn unstamped(text: &str) -> Option<&str> {
    let (first, rest) = text.split_once('\n')?;
    let (second, body) = rest.split_once('\n')?;
    let is_ours = first.starts_with(STAMP) && second.strip_prefix(HASH)? == hash(body);
    is_ours.then_some(body)
}

fn hash(body: &str) -> String {
    let digest = Sha256::digest(body.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn stamp(body: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!("{STAMP}{version}\n{HASH}{}\n{body}", hash(body))
}

/// The service.
///
/// # Errors
/// Says what no unit can hold: systemd refuses programs with quotes, backslashes or control
/// characters in their names, and lines that are not UTF-8.
pub fn render_service(parameters: &Parameters) -> Result<String, Error> {
    let program = &parameters.program;
    let unit_safe = |text: &&str| !text.contains(|c: char| c.is_control() || "\"'\\".contains(c));
    let Some(text) = program.to_str().filter(unit_safe) else {
        let what = format!(
            "no unit can name the program `{}`: systemd takes no quotes, backslashes, control characters or bytes that are not UTF-8",
            program.display()
        );
        return Err(Error::new(Exit::Failed, what)
            .hint("move the program to a directory with a plain name, such as ~/bin"));
    };
    let mut exec = quote(text, false);
    for word in &parameters.words {
        exec.push(' ');
        exec.push_str(&quote(&word.to_string_lossy(), true));
    }
    let path = format!("PATH={}", parameters.path);
    let dbus = match parameters.has_dbus {
        true => "Requires=dbus.socket\nAfter=dbus.socket",
        false => "# (There is no dbus.socket here to require.)",
    };
    let body = SERVICE_TEMPLATE
        .replace("@DBUS@", dbus)
        .replace("@ENVIRONMENT@", &format!("Environment={}", quote(&path, false)))
        .replace("@EXEC@", &exec);
    Ok(stamp(&body))
}

/// The socket.
pub fn render_socket() -> String {
    stamp(SOCKET_TEMPLATE)
}

/// A word as systemd splits words (systemd.syntax(7)): in double quotes with C's escapes, percent
/// signs twice, and dollar signs twice where `variables` count. That is so in every word of
/// `ExecStart=` but the first (systemd.service(5)).
fn quote(word: &str, variables: bool) -> String {
    let mut quoted = String::from('"');
    for character in word.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '%' => quoted.push_str("%%"),
            '$' if variables => quoted.push_str("$$"),
            '\0'..=' ' if character != ' ' => {
                let _ = write!(quoted, "\\x{:02x}", u32::from(character));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

/// The PATH and dockerd's words that the service `text` of ours or of upstream's holds.
pub fn kept_parameters(text: &str) -> (Option<String>, Vec<OsString>) {
    let value = |name: &str| text.lines().find_map(|line| line.trim().strip_prefix(name));
    let exec = value("ExecStart=").unwrap_or_default();
    match unstamped(text) {
        Some(_) => {
            let environment = unquote(value("Environment=").unwrap_or_default(), false);
            let path = environment.first().and_then(|word| word.strip_prefix("PATH="));
            let words = unquote(exec, true).into_iter().skip(1);
            (path.map(str::to_owned), words.map(OsString::from).collect())
        }
        // Upstream's tool quotes nothing.
        None => {
            let path = value("Environment=PATH=").map(str::to_owned);
            let words = words::split(exec.as_ref()).unwrap_or_default();
            (path, words.into_iter().skip(1).collect())
        }
    }
}

/// Undoes [`quote`], for words with a blank between.
fn unquote(text: &str, variables: bool) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut inside = false;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match (character, words.last_mut()) {
            ('"', _) => {
                inside = !inside;
                if inside {
                    words.push(String::new());
                }
            }
            (_, Some(word)) if inside => match character {
                '\\' => match characters.next() {
                    Some('x') => {
                        let code: String = characters.by_ref().take(2).collect();
                        let code = u8::from_str_radix(&code, 16).ok();
                        word.extend(code.map(char::from));
                    }
                    other => word.extend(other),
                },
                '%' | '$' if character == '%' || variables => {
                    characters.next_if_eq(&character);
                    word.push(character);
                }
                other => word.push(other),
            },
            _ => {}
        }
    }
    words
}

/// The PATH to put into the unit: what is absolute and can stand there, each once, with the
/// directory of `program` first and the sbin directories last. Returns what cannot stand there, too.
pub fn unit_path(program: &Path, stated: &OsStr) -> (String, Vec<PathBuf>) {
    let own = program.parent().map(Path::to_owned);
    let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let stated = std::env::split_paths(stated).filter(|path| !path.as_os_str().is_empty());
    let mut kept: Vec<String> = Vec::new();
    let mut dropped = Vec::new();
    for directory in own.into_iter().chain(stated).chain(sbin) {
        // systemd passes over an assignment that is not UTF-8 or holds control characters, and an
        // entry that depends on the working directory means another one in a unit.
        let text = directory.to_str().filter(|text| !text.contains(char::is_control));
        match text.filter(|_| directory.is_absolute()) {
            Some(text) if kept.iter().any(|known| known == text) => {}
            Some(text) => kept.push(text.to_owned()),
            None => dropped.push(directory),
        }
    }
    (kept.join(":"), dropped)
}
