//! HTTP: one request, with a deadline for every wait and redirects by our own rule.

use std::io::{self, Read};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tracing::{debug, warn};
use ureq::http::header::{
    CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderName, IF_RANGE, LAST_MODIFIED, LOCATION, RANGE,
};
use ureq::http::{Response, StatusCode};
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, Body, Proxy, ProxyProtocol};

use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::fetch::names::Names;
use crate::fetch::{Policy, Url};

/// How long a connection may take to be made, TLS included.
const CONNECT: Duration = Duration::from_secs(10);

/// The most redirects that are followed.
const REDIRECTS_MAX: usize = 5;

/// What is sent as the name of the program.
const AGENT: &str = concat!("dockerd-rootless/", env!("CARGO_PKG_VERSION"));

/// Bytes that are read at once.
const BUFFER: usize = 256 * 1024;

/// Asks servers.
pub struct Client<'a> {
    environment: &'a Environment,
    policy: Policy,
    stall: Duration,
    tls: OnceLock<TlsConfig>,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// Another try may help.
    Passing(Error),
    /// No other try will.
    Lasting(Error),
    /// The server has no such file.
    Absent(Error),
}

impl Failure {
    /// The error, whichever it is.
    pub fn into_error(self) -> Error {
        match self {
            Self::Passing(error) | Self::Lasting(error) | Self::Absent(error) => error,
        }
    }
}

/// The rest of a file, or the whole.
pub struct Answer {
    /// Where its bytes begin in the file; 0 if the server sends all of it.
    pub offset: u64,
    /// How long the whole file is, if the server says so.
    pub length: Option<u64>,
    /// What identifies these very bytes, for `If-Range`.
    pub validator: Option<String>,
    body: Body,
}

impl Answer {
    /// The bytes. An error of `TimedOut` means that none came for too long.
    pub fn into_reader(self) -> impl Read {
        self.body.into_with_config().limit(u64::MAX).reader()
    }
}

impl<'a> Client<'a> {
    /// Nothing is asked yet. `stall` is how long a server may send no byte.
    pub fn new(environment: &'a Environment, policy: Policy, stall: Duration) -> Self {
        Self { environment, policy, stall, tls: OnceLock::new() }
    }

    /// Asks for `url`, from byte `offset` on. With a `validator` the server sends that rest only if
    /// the file is still the same, else the whole.
    ///
    /// # Errors
    /// Names the address and what is wrong; the kind says whether to try again.
    pub fn ask(&self, url: &Url, offset: u64, validator: Option<&str>) -> Result<Answer, Failure> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let response = self.request(&url, offset, validator)?;
            if !response.status().is_redirection() {
                return judge(&url, offset, response);
            }
            let location = header(&response, LOCATION).unwrap_or_default();
            let target = url.follow(&location).map_err(|why| {
                let what = format!("`{url}` redirects to `{location}`, which is no address: {why}");
                Failure::Lasting(Error::new(Exit::Failed, what))
            })?;
            if !url.may_lead_to(&target, self.policy) {
                let what = format!("`{url}` redirects to `{target}`, which is not https");
                let error = Error::new(Exit::Integrity, what).hint(
                    "take another mirror: --mirror URL; or, if you trust the network on the way: --insecure-http",
                );
                return Err(Failure::Lasting(error));
            }
            debug!("{url} redirects to {target}");
            url = target;
        }
        let what = format!("more than {REDIRECTS_MAX} redirects, the last to `{url}`");
        Err(Failure::Lasting(Error::new(Exit::Failed, what)))
    }

    /// The text at `url`, if it has at most `limit` bytes.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn text(&self, url: &Url, limit: u64) -> Result<String, Failure> {
        let answer = self.ask(url, 0, None)?;
        let mut bytes = Vec::new();
        let read = answer.into_reader().take(limit + 1).read_to_end(&mut bytes);
        read.map_err(|error| Failure::Passing(broken(url, &error)))?;
        if bytes.len() as u64 > limit {
            let what = format!("`{url}` has more than {limit} bytes");
            return Err(Failure::Lasting(Error::new(Exit::Failed, what)));
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn request(
        &self,
        url: &Url,
        offset: u64,
        validator: Option<&str>,
    ) -> Result<Response<Body>, Failure> {
        debug!("asks for {url} from byte {offset} on");
        let mut request = self.agent(url)?.get(url.uri().clone());
        if offset > 0 {
            request = request.header(RANGE, format!("bytes={offset}-"));
            if let Some(validator) = validator {
                request = request.header(IF_RANGE, validator);
            }
        }
        request.call().map_err(|error| {
            let what = format!("`{url}` cannot be asked");
            let failed = Error::new(Exit::Failed, what).because(&error);
            match error {
                ureq::Error::Rustls(_) | ureq::Error::Tls(_) | ureq::Error::Pem(_) => Failure::Lasting(
                    failed.hint("is the clock right, and are the certificates of authorities here (SSL_CERT_FILE)?"),
                ),
                ureq::Error::Io(inner) if inner.kind() == io::ErrorKind::InvalidData => Failure::Lasting(
                    failed.hint("is the clock right, and are the certificates of authorities here (SSL_CERT_FILE)?"),
                ),
                ureq::Error::BadUri(_) | ureq::Error::Http(_) => Failure::Lasting(failed),
                _ => Failure::Passing(failed.hint(format!("curl -I {url}"))),
            }
        })
    }

    fn agent(&self, url: &Url) -> Result<Agent, Failure> {
        let mut config = Agent::config_builder()
            .user_agent(AGENT)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(self.proxy(url)?)
            .timeout_connect(Some(CONNECT))
            .timeout_send_request(Some(self.stall))
            .timeout_recv_response(Some(self.stall))
            .timeout_per_read(Some(self.stall))
            .input_buffer_size(BUFFER);
        if url.is_https() {
            config = config.tls_config(self.tls.get_or_init(trusted).clone());
        }
        Ok(Agent::with_parts(config.build(), DefaultConnector::new(), Names))
    }

    /// The proxy that the environment names for `url`; never one for this very host.
    fn proxy(&self, url: &Url) -> Result<Option<Proxy>, Failure> {
        if url.is_loopback() {
            return Ok(None);
        }
        // As curl: HTTP_PROXY in capitals is not read, a web server's client could set that.
        let names: &[&str] = match url.is_https() {
            true => &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"],
            false => &["http_proxy", "all_proxy", "ALL_PROXY"],
        };
        let stated = names.iter().find_map(|name| Some((name, self.environment.get(name)?)));
        let Some((name, stated)) = stated else {
            return Ok(None);
        };
        let refuse = |error: &dyn std::error::Error| {
            let error =
                Error::new(Exit::Failed, format!("`{name}` names no proxy that can be used"))
                    .because(error)
                    .hint(format!("export {name}=http://HOST:PORT"));
            Failure::Lasting(error)
        };
        let read = Proxy::new(&stated.to_string_lossy()).map_err(|error| refuse(&error))?;
        if !matches!(read.protocol(), ProxyProtocol::Http | ProxyProtocol::Https) {
            return Err(refuse(&io::Error::other("only http proxies are known here")));
        }
        let mut proxy = Proxy::builder(read.protocol()).host(read.host()).port(read.port());
        if let Some(user) = read.username() {
            proxy = proxy.username(user);
        }
        if let Some(password) = read.password() {
            proxy = proxy.password(password);
        }
        let exceptions = ["no_proxy", "NO_PROXY"];
        let exceptions = exceptions.iter().find_map(|name| self.environment.get(name));
        for exception in exceptions.unwrap_or_default().to_string_lossy().split(',') {
            if !exception.trim().is_empty() {
                proxy = proxy.no_proxy(exception.trim());
            }
        }
        proxy.build().map(Some).map_err(|error| refuse(&error))
    }
}

/// TLS by the authorities that the system trusts, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`.
fn trusted() -> TlsConfig {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        warn!("certificates: {error}");
    }
    let certificates = found.certs.iter().map(|der| Certificate::from_der(der).to_owned());
    TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .root_certs(RootCerts::Specific(Arc::new(certificates.collect())))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build()
}

fn judge(url: &Url, offset: u64, response: Response<Body>) -> Result<Answer, Failure> {
    let status = response.status();
    let number = |text: Option<String>| text.and_then(|text| text.trim().parse::<u64>().ok());
    // A weak tag does not promise the same bytes.
    let tag = header(&response, ETAG).filter(|tag| !tag.starts_with("W/"));
    let validator = tag.or_else(|| header(&response, LAST_MODIFIED));
    let (offset, length) = match status {
        StatusCode::OK => (0, number(header(&response, CONTENT_LENGTH))),
        StatusCode::PARTIAL_CONTENT => {
            // `bytes 5-9/10`
            let range = header(&response, CONTENT_RANGE).unwrap_or_default();
            let parts = range.strip_prefix("bytes ").and_then(|range| range.split_once('/'));
            let start =
                parts.and_then(|(range, _)| number(Some(range.split('-').next()?.to_owned())));
            if start != Some(offset) {
                let what = format!("`{url}` sent `{range}` instead of the bytes from {offset} on");
                return Err(Failure::Passing(Error::new(Exit::Failed, what)));
            }
            (offset, parts.and_then(|(_, length)| number(Some(length.to_owned()))))
        }
        _ => return Err(refusal(url, status)),
    };
    Ok(Answer { offset, length, validator, body: response.into_body() })
}

fn refusal(url: &Url, status: StatusCode) -> Failure {
    let what = format!("`{url}`: the server answers {status}");
    let error = Error::new(Exit::Failed, what);
    let passing = status.is_server_error()
        || status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT
        || status == StatusCode::RANGE_NOT_SATISFIABLE;
    match status {
        StatusCode::NOT_FOUND | StatusCode::FORBIDDEN | StatusCode::GONE => Failure::Absent(error.hint(
            "is there such a version in this channel? --version latest takes the newest; --channel and --mirror take others",
        )),
        _ if passing => Failure::Passing(error),
        _ => Failure::Lasting(error),
    }
}

/// The error for a body that ended or stopped too early.
pub fn broken(url: &Url, error: &io::Error) -> Error {
    let what = format!("`{url}`: the rest did not come");
    Error::new(Exit::Failed, what).because(error)
}

fn header(response: &Response<Body>, name: HeaderName) -> Option<String> {
    let value = response.headers().get(name)?.to_str().ok()?;
    Some(value.to_owned())
}
