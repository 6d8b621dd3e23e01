//! Looks host names up by `getent`, as the host itself does. The C library's own function would load
//! modules of the host, which may belong to another version of that library than the one that is
//! linked into this static program, and crash it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use crate::sys::process;

/// How long to wait for name servers.
const LIMIT: Duration = Duration::from_secs(10);

/// How many addresses of a host are tried.
const ADDRESSES_MAX: usize = 8;

/// Asks the host.
#[derive(Debug)]
pub struct Names;

impl Resolver for Names {
    fn resolve(
        &self,
        uri: &Uri,
        _config: &Config,
        _timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().unwrap_or_default();
        let default = if uri.scheme_str() == Some("http") { 80 } else { 443 };
        let port = uri.port_u16().unwrap_or(default);
        let mut found = self.empty();
        for address in look_up(host)?.into_iter().take(ADDRESSES_MAX) {
            found.push(SocketAddr::new(address, port));
        }
        match found.is_empty() {
            true => Err(ureq::Error::HostNotFound),
            false => Ok(found),
        }
    }
}

fn look_up(host: &str) -> io::Result<Vec<IpAddr>> {
    let number = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = number.parse() {
        return Ok(vec![address]);
    }
    // This very host, whatever a name server says.
    if host.eq_ignore_ascii_case("localhost") {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let mut getent = Command::new("getent");
    let answer = process::within(getent.args(["ahosts", "--", host]), LIMIT);
    let (_, text) = answer.map_err(|error| {
        io::Error::new(error.kind(), format!("`getent ahosts {host}` cannot be asked: {error}"))
    })?;
    Ok(parse(&text))
}

/// The addresses at the beginnings of the lines, each once.
fn parse(text: &str) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    let words = text.lines().filter_map(|line| line.split_whitespace().next());
    for address in words.filter_map(|word| word.parse().ok()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_once_each_in_their_order() {
        let text = "2001:db8::1     STREAM mirror.example\n2001:db8::1     DGRAM\n\
                    192.0.2.1       STREAM\nfe80::1%eth0    STREAM\n\n";
        let [six, four] = ["2001:db8::1", "192.0.2.1"].map(|text| text.parse::<IpAddr>());
        assert_eq!(parse(text), [six.expect("an address"), four.expect("an address")]);
        assert!(parse("getent: nothing\n").is_empty());
    }

    #[test]
    fn this_very_host_and_numbers_need_nobody() {
        assert_eq!(look_up("[::1]").expect("itself"), [IpAddr::from(Ipv6Addr::LOCALHOST)]);
        assert_eq!(look_up("192.0.2.7").expect("itself"), [IpAddr::from([192, 0, 2, 7])]);
        assert_eq!(look_up("LocalHost").expect("itself").len(), 2);
    }
}
