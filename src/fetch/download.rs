//! HTTP by the host's curl, or by its GNU wget where there is no curl. Both know the host's
//! certificates, proxies and name servers.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use tracing::warn;

use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::fetch::Request;
use crate::sys::process;

/// The largest tarball in bytes; Docker's have less than 100 MB.
const TARBALL_MAX: u64 = 1 << 30;

/// The largest list of sums or index of a directory in bytes.
const TEXT_MAX: u64 = 4 << 20;

/// Pauses before each further try in milliseconds.
const PAUSES: [u64; 3] = [200, 600, 1800];

const HINT: &str = "check the network, https_proxy and the CA certificates (SSL_CERT_FILE); or try --mirror URL; or, with the tarballs in DIR: dockerd-rootless fetch --offline DIR";

/// What a failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The server has no such file.
    Absent,
    /// Another try may help.
    Passing,
    /// The server, or a proxy, does not go on in the middle of a file.
    NoRange,
    Final,
}

/// Says whether the server at `url` is this very host.
pub fn is_loopback(url: &str) -> bool {
    let host = url.trim_start_matches("https://").trim_start_matches("http://");
    ["127.0.0.1", "localhost", "[::1]"].iter().any(|name| {
        host.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/']))
    })
}

/// Downloads from servers.
pub struct Client {
    program: Option<PathBuf>,
    is_curl: bool,
    /// Whether http is allowed everywhere, not only from this host.
    any_http: bool,
    /// How many seconds a server may be silent.
    timeout: u16,
}

impl Client {
    /// Finds curl or wget.
    pub fn find(environment: &Environment, request: &Request) -> Self {
        let find = |name| which::which_in(name, environment.get("PATH"), "/").ok();
        let curl = find("curl");
        let is_curl = curl.is_some();
        let program = curl.or_else(|| find("wget"));
        Self { program, is_curl, any_http: request.insecure_http, timeout: request.timeout }
    }

    /// Returns the text at `url`, `None` if the server has none.
    pub fn text(&self, url: &str) -> Result<Option<String>, Error> {
        let mut bytes = Vec::new();
        let got = persist(|| {
            bytes.clear();
            self.attempt(url, 0, &mut bytes, TEXT_MAX)
        });
        match got {
            Err((Kind::Absent, _)) => Ok(None),
            Err((_, error)) => Err(error),
            Ok(()) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        }
    }

    /// Downloads into `file`, which is empty. curl continues what broke off.
    pub fn tarball(&self, url: &str, mut file: &File) -> Result<(), Error> {
        let got = persist(|| {
            if !self.is_curl {
                let _ = file.set_len(0);
            }
            let offset = file.seek(SeekFrom::End(0)).unwrap_or_default();
            let got = self.attempt(url, offset, &mut file, TARBALL_MAX);
            if matches!(got, Err((Kind::NoRange, _))) {
                let _ = file.set_len(0);
            }
            got
        });
        got.map_err(|(_, error)| error)
    }

    fn attempt(
        &self,
        url: &str,
        offset: u64,
        sink: &mut impl Write,
        limit: u64,
    ) -> Result<(), (Kind, Error)> {
        let cannot = |exit, why: &str| {
            Error::new(exit, format!("cannot download `{url}`")).cause(why).hint(HINT)
        };
        let Some(program) = &self.program else {
            let why = "neither curl nor wget is installed";
            return Err((Kind::Final, cannot(Exit::Prerequisite, why)));
        };
        // There, curl shows how far it is, and what goes wrong.
        let has_bar = self.is_curl && limit == TARBALL_MAX && io::stderr().is_terminal();
        let mut command = Command::new(program);
        command.args(self.options(url, has_bar).split(' '));
        if offset > 0 {
            command.args(["--continue-at", &offset.to_string()]);
        }
        command.arg(url).stderr(if has_bar { Stdio::inherit() } else { Stdio::piped() });
        let (code, said) = run(&mut command, sink, limit).map_err(|error| {
            let hint = if error.raw_os_error().is_some() { "df -h ~" } else { HINT };
            (Kind::Final, cannot(Exit::Failed, &error.to_string()).hint(hint))
        })?;
        if code == Some(0) {
            return Ok(());
        }
        let (kind, exit, why) = self.judge(code, &said);
        Err((kind, cannot(exit, why)))
    }

    fn options(&self, url: &str, has_bar: bool) -> String {
        let timeout = self.timeout;
        if !self.is_curl {
            let redirects = if self.any_http { 5 } else { 0 };
            let proxy = if is_loopback(url) { " --no-proxy" } else { "" };
            return format!(
                "--no-config --no-hsts --no-verbose --tries=1 --output-document=- \
                 --secure-protocol=TLSv1_2 --timeout={timeout} \
                 --max-redirect={redirects}{proxy}"
            );
        }
        // From a server on this host, too, redirects lead to https alone: it may be a tunnel.
        let (first, redirected) = match (self.any_http, url.starts_with("https:")) {
            (true, _) => ("=http,https", "=http,https"),
            (false, true) => ("=https", "=https"),
            (false, false) => ("=http", "=https"),
        };
        let bar = if has_bar { "--progress-bar" } else { "--silent --show-error" };
        let proxy = if is_loopback(url) { " --noproxy *" } else { "" };
        format!(
            "-q --globoff --tlsv1.2 --fail --location --proto {first} --proto-redir {redirected} \
             --max-redirs 5 --connect-timeout 10 --speed-limit 1024 --speed-time {timeout} \
             {bar}{proxy}"
        )
    }

    /// Says what went wrong by the exit codes of curl and wget, and by the server's answer.
    fn judge<'a>(&self, code: Option<i32>, said: &'a str) -> (Kind, Exit, &'a str) {
        let last = said.lines().rfind(|line| line.contains(':')).unwrap_or("it broke off");
        let message = last.strip_prefix("curl: (").and_then(|rest| rest.split_once(") "));
        let why = message.map_or(last, |(_, message)| message);
        let answer = match (self.is_curl, code) {
            // Some versions of curl end with 56 where the documented code is 22.
            (true, Some(22 | 56)) | (false, Some(8)) => server_status(said),
            _ => None,
        };
        match (self.is_curl, code, answer) {
            (true, Some(1), _) | (false, Some(8), None) => {
                let why =
                    "the server redirects to an address that is not https, or takes curl to follow";
                (Kind::Final, Exit::Integrity, why)
            }
            (_, _, Some(403 | 404 | 410)) => (Kind::Absent, Exit::Failed, why),
            (true, Some(33), _) | (_, _, Some(416)) => (Kind::NoRange, Exit::Failed, why),
            _ => (Kind::Passing, Exit::Failed, why),
        }
    }
}

/// Tries up to four times.
fn persist(mut attempt: impl FnMut() -> Result<(), (Kind, Error)>) -> Result<(), (Kind, Error)> {
    for pause in PAUSES {
        match attempt() {
            Err((Kind::Passing | Kind::NoRange, error)) => {
                if pause == PAUSES[0] {
                    warn!("{error}; trying again");
                }
            }
            other => return other,
        }
        thread::sleep(Duration::from_millis(pause));
    }
    attempt()
}

/// Runs `command`, copies its output into `sink`, and returns its exit code and what it said. Fails if the
/// sink does, or if there is more than `limit`.
fn run(
    command: &mut Command,
    sink: &mut impl Write,
    limit: u64,
) -> io::Result<(Option<i32>, String)> {
    command.env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = process::tie(command).spawn()?;
    // Closes the pipe in the end, which stops a program that has more.
    let copied = child.stdout.take().map(|output| io::copy(&mut output.take(limit + 1), sink));
    let mut said = Vec::new();
    let _ = child.stderr.take().map(|mut errors| errors.read_to_end(&mut said));
    let code = child.wait()?.code();
    if copied.transpose()?.unwrap_or_default() > limit {
        return Err(io::Error::other(format!("it is larger than {} MiB", limit >> 20)));
    }
    Ok((code, String::from_utf8_lossy(&said).into_owned()))
}

/// Finds the server's answer in a message: `returned error: 404`, `ERROR 404: Not Found`, or
/// `HTTP ERROR response 404` of wget2.
fn server_status(said: &str) -> Option<u16> {
    let said = said.to_ascii_lowercase();
    let (_, rest) = said.rsplit_once("error")?;
    rest.split(|c: char| !c.is_ascii_digit()).find(|digits| digits.len() == 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_very_host_is_loopback() {
        for (text, expected) in [
            ("https://mirror.example/", false),
            ("http://127.0.0.1:80/", true),
            ("https://127.0.0.1", true),
            ("http://[::1]:8000/", true),
            ("http://[::2]:8000/", false),
            ("http://localhost:1/", true),
            ("http://localhost.example/", false),
            ("http://127.0.0.1.example/", false),
            ("http://mirror.example/127.0.0.1/", false),
        ] {
            assert_eq!(is_loopback(text), expected, "{text}");
        }
    }

    #[test]
    fn the_answer_of_a_server_is_found_in_what_either_program_says() {
        for (said, status) in [
            ("curl: (22) The requested URL returned error: 404", Some(404)),
            ("http://127.0.0.1/x:\n2026-11-27 12:34:04 ERROR 503: Odd.", Some(503)),
            ("curl: (56) Recv failure: Connection reset by peer", None),
            ("0 redirections exceeded.", None),
            ("HTTP ERROR response 404  [https://a.example/x]", Some(404)),
            ("error:14094410:SSL routines:ssl3_read_bytes:handshake failure", None),
            ("error:99: odd; returned error: 416", Some(416)),
        ] {
            assert_eq!(server_status(said), status, "{said}");
        }
    }

    #[test]
    fn a_file_that_is_too_large_is_refused() {
        let mut command = Command::new("head");
        let endless = command.args(["-c", "1000000000", "/dev/zero"]);
        let error = run(endless, &mut io::sink(), TEXT_MAX).expect_err("too large");
        assert!(error.to_string().contains("larger than 4 MiB"), "{error}");
    }

    #[test]
    fn a_code_says_whether_a_server_has_answered_and_whether_it_goes_on_in_a_file() {
        let no_range = "curl: (33) HTTP server doesn't seem to support byte ranges. Cannot resume.";
        for (is_curl, code, said, kind) in [
            (false, 8, "ERROR 404: Odd.", Kind::Absent),
            (false, 7, "ERROR 404: Odd.", Kind::Passing),
            (true, 33, no_range, Kind::NoRange),
            (true, 22, "curl: (22) The requested URL returned error: 416", Kind::NoRange),
            (true, 22, "curl: (22) The requested URL returned error: 503", Kind::Passing),
        ] {
            let client = Client { program: None, is_curl, any_http: false, timeout: 1 };
            assert_eq!(client.judge(Some(code), said).0, kind, "{code} {said}");
        }
    }
}
