//! HTTP by the host's curl, or by its GNU wget where there is no curl. Both know the host's
//! certificates, proxies and name servers.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Read, Seek, SeekFrom, Write};
use std::net::IpAddr;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tracing::{info, warn};

use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::fetch::archive::sum_of;
use crate::fetch::checksum::Sum;
use crate::fetch::store::failed;
use crate::sys::{files, process};

/// The largest tarball in bytes; Docker's have less than 100 MB.
const TARBALL_MAX: u64 = 1 << 30;

/// The largest list of sums or index of a directory in bytes.
const TEXT_MAX: u64 = 4 << 20;

/// How many bytes a second have to come, as curl's `--speed-limit` has it.
const SPEED_MIN: u64 = 1024;

/// What is sent as the name of the program.
const AGENT: &str = concat!("dockerd-rootless/", env!("CARGO_PKG_VERSION"));

/// Pauses before each further try in milliseconds.
const PAUSES: [u64; 3] = [200, 600, 1800];

// Hints.
const NETWORK: &str = "is the network up? Behind a proxy, set https_proxy. With the tarballs in DIR: dockerd-rootless fetch --offline DIR";
const ELSEWHERE: &str = "nothing was changed; try another mirror: --mirror URL";
const TLS: &str = "check the clock and the host's CA certificates (or set SSL_CERT_FILE)";
const VERSION: &str = "dockerd-rootless fetch --version latest";

/// The address of a file or a directory on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url(String);

impl Url {
    /// Reads an `http` or `https` address, or says what is wrong with it. What curl or its
    /// configuration could read in another way is refused.
    pub fn parse(text: &str) -> Result<Self, String> {
        let is_plain = |c: char| c.is_ascii_graphic() && !"\\\"'`<>{}|^".contains(c);
        match text.split_once("://") {
            Some(("http" | "https", rest))
                if rest.starts_with(['/', '?', '#']) || rest.is_empty() =>
            {
                Err("it names no host".to_owned())
            }
            Some(("http" | "https", _)) if text.chars().all(is_plain) => Ok(Self(text.to_owned())),
            Some(("http" | "https", _)) => Err("it has characters that no address has".to_owned()),
            Some((other, _)) => Err(format!("its scheme is `{other}`, not `https`")),
            None => Err("it does not begin with `https://`".to_owned()),
        }
    }

    /// Returns the address with `suffix` at its end.
    pub fn with(&self, suffix: &str) -> Self {
        Self(format!("{}{suffix}", self.0))
    }

    pub fn is_https(&self) -> bool {
        self.0.starts_with("https:")
    }

    /// Splits the address into what precedes the name and password, these, and the rest.
    fn parts(&self) -> (&str, &str, &str) {
        let start = self.0.find("://").map_or(0, |at| at + 3);
        let end = self.0[start..].find(['/', '?', '#']).map_or(self.0.len(), |at| start + at);
        let host = self.0[start..end].rfind('@').map_or(start, |at| start + at + 1);
        (&self.0[..start], &self.0[host..end], &self.0[end..])
    }

    /// Says whether the server is this very host, by its name or its number.
    pub fn is_loopback(&self) -> bool {
        let (_, authority, _) = self.parts();
        let (host, _) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some(bracketed) => bracketed,
            None => authority.split_once(':').unwrap_or((authority, "")),
        };
        match host.parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => host.eq_ignore_ascii_case("localhost"),
        }
    }
}

/// Without the name and password that it may hold.
impl fmt::Display for Url {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, authority, rest) = self.parts();
        write!(out, "{scheme}{authority}{rest}")
    }
}

/// Why there is no file.
#[derive(Debug, Default)]
struct Failure {
    why: String,
    hint: &'static str,
    /// Whether another try may help.
    may_pass: bool,
    /// Whether the server has no such file.
    is_absent: bool,
    /// How the program ends, unless it just failed.
    exit: Option<Exit>,
    /// What the system says if the file cannot be written.
    disk: Option<io::Error>,
}

impl Failure {
    fn of_disk(error: io::Error) -> Self {
        Self { disk: Some(error), ..Self::default() }
    }

    fn explain(self, url: &Url, path: &Path) -> Error {
        if let Some(error) = self.disk {
            return failed(path, "cannot be written", &error);
        }
        let error =
            Error::new(self.exit.unwrap_or(Exit::Failed), format!("cannot download `{url}`"));
        error.because(&io::Error::other(self.why)).hint(self.hint)
    }
}

/// Downloads from servers.
pub struct Client {
    program: Option<PathBuf>,
    is_curl: bool,
    /// Whether http is allowed everywhere, not only from this host.
    any_http: bool,
    /// How many seconds a server may be silent.
    timeout: u16,
    certificates: [Option<OsString>; 2],
}

impl Client {
    /// Finds curl or wget.
    pub fn find(environment: &Environment, any_http: bool, timeout: u16) -> Self {
        let path = environment.get("PATH");
        let find = |name| which::which_in(name, path, "/").ok();
        let curl = find("curl");
        let certificates =
            ["SSL_CERT_FILE", "SSL_CERT_DIR"].map(|name| environment.get(name).map(Into::into));
        let is_curl = curl.is_some();
        Self { program: curl.or_else(|| find("wget")), is_curl, any_http, timeout, certificates }
    }

    /// Returns the text at `url`, `None` if the server has none.
    pub fn text(&self, url: &Url) -> Result<Option<String>, Error> {
        let memory = Path::new("/memfd");
        let cannot = |error| failed(memory, "cannot be used", &error);
        let made = memfd_create(c"text", MFdFlags::MFD_CLOEXEC);
        let mut file = File::from(made.map_err(|error| cannot(error.into()))?);
        match self.get(url, &mut file, false, TEXT_MAX) {
            Err(failure) if failure.is_absent => return Ok(None),
            other => other.map_err(|failure| failure.explain(url, memory))?,
        }
        let mut bytes = Vec::new();
        file.rewind().and_then(|()| file.read_to_end(&mut bytes)).map_err(cannot)?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Downloads into `path`, where an earlier run may have left a beginning. What is here when the
    /// network fails stays for the next run. Fails with exit 6 if the sum is wrong.
    pub fn tarball(&self, url: &Url, path: &Path, sum: Option<&Sum>) -> Result<(File, Sum), Error> {
        let cannot = |error| failed(path, "cannot be written", &error);
        let mut file = files::open_own(path).map_err(cannot)?;
        let mut is_inherited = file.metadata().map_err(cannot)?.len() > 0;
        loop {
            // Only a sum tells whether what is here belongs to the rest.
            let is_here = is_inherited && sum == Some(&sum_of(&file).map_err(cannot)?);
            if !is_here {
                self.get(url, &mut file, sum.is_some(), TARBALL_MAX).map_err(|failure| {
                    // On a full disk it would only be in the way.
                    if failure.disk.is_some() {
                        let _ = file.set_len(0);
                    }
                    failure.explain(url, path)
                })?;
            }
            let found = sum_of(&file).map_err(cannot)?;
            let Some(expected) = sum.filter(|sum| **sum != found) else {
                return Ok((file, found));
            };
            file.set_len(0).map_err(cannot)?;
            if !is_inherited {
                let what = format!("`{url}` has the SHA-256 sum `{found}` instead of `{expected}`");
                let hint = "nothing was changed; try another mirror: --mirror URL";
                return Err(Error::new(Exit::Integrity, what).hint(hint));
            }
            warn!("what an earlier run left of `{url}` does not match; downloading all of it");
            is_inherited = false;
        }
    }

    /// Tries up to four times to get `url`, or what is missing of it, into `file`.
    fn get(&self, url: &Url, file: &mut File, resume: bool, limit: u64) -> Result<(), Failure> {
        let mut pauses = PAUSES.iter();
        loop {
            if !resume {
                file.set_len(0).map_err(Failure::of_disk)?;
            }
            let Err(failure) = self.attempt(url, file, limit) else {
                return Ok(());
            };
            let Some(pause) = pauses.next().filter(|_| failure.may_pass) else {
                return Err(failure);
            };
            if *pause == PAUSES[0] {
                warn!("{}; trying again", failure.why);
            }
            thread::sleep(Duration::from_millis(*pause));
        }
    }

    fn attempt(&self, url: &Url, file: &mut File, limit: u64) -> Result<(), Failure> {
        let mut offset = file.seek(SeekFrom::End(0)).map_err(Failure::of_disk)?;
        // wget cannot go on in a file that is open already.
        if offset > 0 && !self.is_curl {
            file.set_len(0).and_then(|()| file.rewind()).map_err(Failure::of_disk)?;
            offset = 0;
        }
        if offset > 0 {
            info!("going on with `{url}` at byte {offset}");
        }
        let has_bar = limit == TARBALL_MAX && io::stderr().is_terminal();
        let Some(program) = &self.program else {
            let why = "neither curl nor wget is installed".to_owned();
            return Err(Failure {
                exit: Some(Exit::Prerequisite),
                why,
                hint: NETWORK,
                ..Failure::default()
            });
        };
        let mut command = self.command(program, url, offset, has_bar);
        let output = file.try_clone().map_err(Failure::of_disk)?;
        // curl does this itself; in this time wget's own deadlines have passed.
        let window = (!self.is_curl).then(|| Duration::from_secs(u64::from(self.timeout) * 2));
        let ran = run(&mut command, url, output, limit, has_bar, window);
        let (status, said) = ran.map_err(|error| {
            let why = format!("`{}` cannot be run: {error}", program.display());
            Failure { why, hint: "install curl", ..Failure::default() }
        })?;
        if status.success() {
            return Ok(());
        }
        let failure = self.judge(status, &said, file, limit);
        if failure.why.contains("range") {
            file.set_len(0).map_err(Failure::of_disk)?;
        }
        Err(failure)
    }

    /// Returns the command, which gets the address on its input: that may hold a password.
    fn command(&self, program: &Path, url: &Url, offset: u64, has_bar: bool) -> Command {
        let timeout = self.timeout.to_string();
        let mut command = Command::new(program);
        let [file, directory] = if self.is_curl {
            // From a server on this host, too, redirects lead to https alone: it may be a tunnel.
            let [first, redirect] = match (self.any_http, url.is_https()) {
                (true, _) => ["=http,https"; 2],
                (false, true) => ["=https"; 2],
                (false, false) => ["=http", "=https"],
            };
            command.args(["-q", "--globoff", "--tlsv1.2", "--fail", "--location"]);
            command.args(["--proto", first, "--proto-redir", redirect, "--max-redirs", "5"]);
            command.args(["--connect-timeout", "10", "--speed-limit"]);
            command.arg(SPEED_MIN.to_string());
            command.args(["--speed-time", &timeout, "--user-agent", AGENT, "--config", "-"]);
            command.args(if has_bar {
                ["--progress-bar"].as_slice()
            } else {
                &["--silent", "--show-error"]
            });
            if offset > 0 {
                command.args(["--continue-at", &offset.to_string()]);
            }
            if url.is_loopback() {
                command.args(["--noproxy", "*"]);
            }
            ["--cacert", "--capath"]
        } else {
            let redirects = if self.any_http { "5" } else { "0" };
            command.args([
                "--no-config",
                "--no-hsts",
                "--no-verbose",
                "--tries=1",
                "--input-file=-",
            ]);
            command.args([
                "--output-document=-",
                "--secure-protocol=TLSv1_2",
                "--user-agent",
                AGENT,
            ]);
            command.args(["--timeout", &timeout, "--max-redirect", redirects]);
            if url.is_loopback() {
                command.arg("--no-proxy");
            }
            ["--ca-certificate", "--ca-directory"]
        };
        for (option, value) in [file, directory].into_iter().zip(&self.certificates) {
            if let Some(value) = value {
                command.arg(option).arg(value);
            }
        }
        command
    }

    /// Says what went wrong by the exit codes of curl and wget, and by the server's answer.
    fn judge(&self, status: ExitStatus, said: &str, file: &mut File, limit: u64) -> Failure {
        let last = said.lines().rfind(|line| line.contains(':')).unwrap_or("it failed");
        let last = last.rsplit_once(") ").map_or(last, |(_, message)| message);
        let new = |why: &str, hint| Failure { why: why.to_owned(), hint, ..Failure::default() };
        let passing = |why: &str| Failure { may_pass: true, ..new(why, NETWORK) };
        let hostile = |why: &str| Failure { exit: Some(Exit::Integrity), ..new(why, ELSEWHERE) };
        let slow = || passing(&format!("next to nothing came for {} s", self.timeout));
        // Some versions of curl end with 56 where the documented code is 22.
        let has_answer =
            matches!((self.is_curl, status.code()), (true, Some(22 | 56)) | (_, Some(8)));
        let answer = server_status(said).filter(|_| has_answer);
        match (self.is_curl, status.code(), answer) {
            (_, None, _) if status.signal() == Some(Signal::SIGXFSZ as i32) => {
                // The user's own limit may be lower.
                if file.metadata().is_ok_and(|file| file.len() < limit) {
                    return Failure::of_disk(Errno::EFBIG.into());
                }
                let _ = file.set_len(0);
                hostile("it is larger than any such file")
            }
            (false, None, _) if status.signal() == Some(Signal::SIGKILL as i32) => slow(),
            (true, Some(1), _) => hostile("the server redirects to an address that is not https"),
            (false, Some(8), None) => hostile("the server redirects, which takes curl to follow"),
            (true, Some(47), _) => new("the server redirects more than 5 times", ELSEWHERE),
            (true, Some(35 | 51 | 58 | 60 | 77), _) => new(last, TLS),
            (false, Some(5), _) => new("the server's certificate is not trusted", TLS),
            (true, Some(23), _) | (false, Some(3), _) => match file.write_all(&[0; 1 << 16]) {
                Err(error) => Failure::of_disk(error),
                Ok(()) => new(last, NETWORK),
            },
            (_, _, Some(code @ (403 | 404 | 410))) => {
                let why = format!("the server answers {code}");
                Failure { is_absent: true, ..new(&why, VERSION) }
            }
            (_, _, Some(416)) | (true, Some(33), _) => passing("the server refuses this range"),
            (_, _, Some(code @ (408 | 429 | 500..))) => {
                passing(&format!("the server answers {code}"))
            }
            (_, _, Some(code)) => new(&format!("the server answers {code}"), ELSEWHERE),
            (true, Some(5), _) => passing("the name of the proxy cannot be resolved"),
            (true, Some(6), _) => passing("the name of the server cannot be resolved"),
            (true, Some(7), _) => passing("no connection is possible"),
            (true, Some(28), _) => slow(),
            (true, Some(18 | 52 | 56), _) | (false, Some(4), _) => {
                passing("the connection broke off")
            }
            _ => passing(last),
        }
    }
}

/// Runs `command` with `url` on its input, and returns how it ended and what it said. In a terminal
/// its progress bar is shown, and only that. With a `window`, too little in so much time ends it.
fn run(
    command: &mut Command,
    url: &Url,
    output: File,
    limit: u64,
    has_bar: bool,
    window: Option<Duration>,
) -> io::Result<(ExitStatus, String)> {
    let is_curl = command.get_program().as_encoded_bytes().ends_with(b"curl");
    let bound = move || {
        let (_, most) = getrlimit(Resource::RLIMIT_FSIZE)?;
        Ok(setrlimit(Resource::RLIMIT_FSIZE, limit.min(most), limit.min(most))?)
    };
    // SAFETY: between fork and exec only system calls are made.
    unsafe { process::tie(command).pre_exec(bound) };
    let growing = output.try_clone()?;
    let command = command.env("LC_ALL", "C").stdin(Stdio::piped()).stdout(output);
    let mut child = command.stderr(Stdio::piped()).spawn()?;
    let line = if is_curl { format!("url = \"{}\"\n", url.0) } else { format!("{}\n", url.0) };
    // A program that ends at once reads nothing, and says why.
    let _ = child.stdin.take().map(|mut input| input.write_all(line.as_bytes()));
    let pid = Pid::from_raw(child.id().cast_signed());
    let said = thread::scope(|scope| {
        let (_ended, ending) = mpsc::channel::<()>();
        if let Some(window) = window {
            scope.spawn(move || watch(pid, &growing, window, &ending));
        }
        child.stderr.take().map_or(Ok(Vec::new()), |stderr| listen(stderr, has_bar))
    })?;
    Ok((child.wait()?, String::from_utf8_lossy(&said).into_owned()))
}

/// Returns all that a program says, and shows its progress bar.
fn listen(stderr: impl Read, has_bar: bool) -> io::Result<Vec<u8>> {
    let (mut said, mut piece) = (Vec::new(), Vec::new());
    // Each state of the bar begins with a carriage return; a message is a line.
    for byte in BufReader::new(stderr).bytes().chain([Ok(b'\n')]) {
        let byte = byte?;
        if byte == b'\r' || byte == b'\n' {
            if has_bar && !piece.starts_with(b"curl: ") {
                let _ = io::stderr().write_all(&piece);
            }
            said.append(&mut piece);
        }
        piece.push(byte);
    }
    Ok(said)
}

/// Kills the child `pid`, which nobody has waited for yet, when `file` grows too slowly in a
/// `window`; returns when the other end of `ending` is gone.
fn watch(pid: Pid, file: &File, window: Duration, ending: &Receiver<()>) {
    let mut before = 0;
    while ending.recv_timeout(window) == Err(RecvTimeoutError::Timeout) {
        let now = file.metadata().map_or(0, |file| file.len());
        if now.saturating_sub(before) < SPEED_MIN * window.as_secs() {
            let _ = kill(pid, Signal::SIGKILL);
            return;
        }
        before = now;
    }
}

/// Finds the server's answer in a message: `returned error: 404`, `ERROR 404: Not Found`, or
/// `HTTP ERROR response 404` of wget2.
fn server_status(said: &str) -> Option<u16> {
    let said = said.to_ascii_lowercase();
    let mut after = said.split("error").skip(1);
    after.find_map(|rest| {
        let rest = rest.trim_start_matches([':', ' ']);
        let rest = rest.strip_prefix("response ").unwrap_or(rest);
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok().filter(|code| (100..=599).contains(code))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn only_this_very_host_is_loopback() {
        for (text, is_loopback) in [
            ("https://mirror.example/", false),
            ("http://127.0.0.1:80/", true),
            ("http://127.9.9.9", true),
            ("http://[::1]:8000/", true),
            ("http://[::2]:8000/", false),
            ("http://LocalHost:1/", true),
            ("http://localhost.example/", false),
            ("http://127.0.0.1.example/", false),
            ("http://127.0.0.1@mirror.example/", false),
            ("http://127.0.0.1:80@mirror.example/", false),
            ("http://mirror.example#@127.0.0.1/", false),
            ("http://mirror.example?@127.0.0.1/", false),
        ] {
            assert_eq!(url(text).is_loopback(), is_loopback, "{text}");
        }
    }

    #[test]
    fn other_schemes_and_odd_characters_are_refused() {
        for text in [
            "",
            "mirror.example",
            "/a",
            "ftp://a/b",
            "file:///etc/passwd",
            "https://",
            "https:///a",
            "https://a b/",
            "https://a\\@b/",
            "https://a/\"",
            "https://a\n-o /etc/passwd",
            "https://a/{b,c}",
            "HTTPS://a/",
            "https://ä/",
        ] {
            assert!(Url::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_password_is_not_printed() {
        assert_eq!(url("https://me:secret@a.example/b").to_string(), "https://a.example/b");
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

    /// Runs a shell as if it were wget, and returns why it failed and how much is left.
    fn ran_by_shell(script: &str, limit: u64, window: Option<Duration>) -> (Failure, u64) {
        let client = Client {
            program: None,
            is_curl: false,
            any_http: false,
            timeout: 1,
            certificates: [None, None],
        };
        let mut file = tempfile::tempfile().expect("a file");
        let mut shell = Command::new("sh");
        let output = file.try_clone().expect("a copy");
        let shell = shell.args(["-c", script]);
        let ran = run(shell, &url("https://a.example/"), output, limit, false, window);
        let (status, said) = ran.expect("run");
        let failure = client.judge(status, &said, &mut file, TEXT_MAX);
        (failure, file.metadata().expect("a file").len())
    }

    #[test]
    fn a_file_that_is_too_large_does_not_stay() {
        let script = "exec head -c 5000000 /dev/zero";
        let (failure, left) = ran_by_shell(script, TEXT_MAX, None);
        assert_eq!((failure.exit, left), (Some(Exit::Integrity), 0), "{failure:?}");
    }

    #[test]
    fn a_lower_limit_of_the_user_is_kept_and_not_blamed_on_the_server() {
        let (failure, _) = ran_by_shell("exec head -c 5000000 /dev/zero", 1 << 16, None);
        assert!(failure.disk.is_some(), "{failure:?}");
    }

    #[test]
    fn a_download_that_drips_ends() {
        let window = Some(Duration::from_secs(1));
        let (failure, _) = ran_by_shell("echo drop; exec sleep 60", TEXT_MAX, window);
        assert!(failure.may_pass && failure.why.contains("next to nothing"), "{failure:?}");
    }

    #[test]
    fn only_a_program_that_says_so_has_an_answer_of_the_server() {
        let (failure, _) = ran_by_shell("echo ERROR 404: Odd. >&2; exit 8", TEXT_MAX, None);
        assert!(failure.is_absent, "{failure:?}");
        let (failure, _) = ran_by_shell("echo ERROR 404: Odd. >&2; exit 7", TEXT_MAX, None);
        assert!(!failure.is_absent, "{failure:?}");
    }
}
