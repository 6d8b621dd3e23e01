//! Addresses of mirrors, and the rule on which of them may be asked: https, or http to this very
//! host, or anything if the user says so.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::IpAddr;

use ureq::http::Uri;

/// The address of a file or a directory on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url(Uri);

/// Which addresses may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// https, and http to loopback.
    HttpsOnly,
    /// http to any host as well.
    AnyHttp,
}

impl Url {
    /// Reads an absolute `http` or `https` address.
    ///
    /// # Errors
    /// Says in a few words what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|error| format!("{error}"))?;
        match uri.scheme_str() {
            Some("http" | "https") => Ok(Self(uri)),
            Some(other) => Err(format!("its scheme is `{other}`, not `https`")),
            None => Err("it does not begin with `https://`".to_owned()),
        }
    }

    /// The address of `name` below this directory.
    ///
    /// # Errors
    /// As [`Url::parse`].
    pub fn join(&self, name: &str) -> Result<Self, String> {
        let base = self.0.to_string();
        Self::parse(&format!("{}/{name}", base.trim_end_matches('/')))
    }

    /// Where a redirect from here to `location` leads, which may be relative (RFC 3986, 5.2,
    /// without queries and dots: a server that means another place says it in full).
    ///
    /// # Errors
    /// As [`Url::parse`].
    pub fn follow(&self, location: &str) -> Result<Self, String> {
        let scheme = self.0.scheme_str().unwrap_or("https");
        let authority = self.0.authority().map_or("", |authority| authority.as_str());
        let after_scheme =
            location.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || "+-.".contains(c));
        if after_scheme.starts_with("://") {
            Self::parse(location)
        } else if let Some(rest) = location.strip_prefix("//") {
            Self::parse(&format!("{scheme}://{rest}"))
        } else if location.starts_with('/') {
            Self::parse(&format!("{scheme}://{authority}{location}"))
        } else {
            let path = self.0.path();
            let directory = &path[..path.rfind('/').map_or(0, |at| at + 1)];
            Self::parse(&format!("{scheme}://{authority}{directory}{location}"))
        }
    }

    /// Whether the bytes are protected on their way.
    pub fn is_https(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    /// Whether the server is this very host, by its name or its number.
    pub fn is_loopback(&self) -> bool {
        let host = self.host();
        let number = host.trim_start_matches('[').trim_end_matches(']');
        match number.parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => host.eq_ignore_ascii_case("localhost"),
        }
    }

    /// Whether `policy` lets this address be asked.
    pub fn is_allowed(&self, policy: Policy) -> bool {
        self.is_https() || self.is_loopback() || policy == Policy::AnyHttp
    }

    /// Whether a redirect from here to `target` is followed: never from https to http.
    pub fn may_lead_to(&self, target: &Self, policy: Policy) -> bool {
        let downgrade = self.is_https() && !target.is_https();
        policy == Policy::AnyHttp || (target.is_allowed(policy) && !downgrade)
    }

    /// The name or number of the server.
    pub fn host(&self) -> &str {
        self.0.host().unwrap_or("")
    }

    /// As the HTTP client takes it.
    pub fn uri(&self) -> &Uri {
        &self.0
    }
}

/// Without the name and password that it may hold.
impl fmt::Display for Url {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.0.scheme_str().unwrap_or("https");
        let authority = self.0.authority().map_or("", |authority| authority.as_str());
        let server = authority.rsplit('@').next().unwrap_or(authority);
        write!(out, "{scheme}://{server}{}", self.0.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn http_is_for_this_host_alone_unless_asked_for() {
        for (text, https_only) in [
            ("https://mirror.example/", true),
            ("http://mirror.example/", false),
            ("http://127.0.0.1:80/", true),
            ("http://127.9.9.9/", true),
            ("http://[::1]:8000/", true),
            ("http://localhost:1/", true),
            ("http://localhost.example/", false),
            ("http://127.0.0.1.example/", false),
            ("http://127.0.0.1@mirror.example/", false),
        ] {
            assert_eq!(url(text).is_allowed(Policy::HttpsOnly), https_only, "{text}");
            assert!(url(text).is_allowed(Policy::AnyHttp), "{text}");
        }
    }

    #[test]
    fn a_redirect_never_leaves_https() {
        let https = url("https://mirror.example/a");
        let cases = [
            ("https://other.example/a", true),
            ("http://mirror.example/a", false),
            ("http://127.0.0.1/a", false),
        ];
        for (target, followed) in cases {
            let target = url(target);
            assert_eq!(https.may_lead_to(&target, Policy::HttpsOnly), followed, "{target}");
            assert!(https.may_lead_to(&target, Policy::AnyHttp), "{target}");
        }
    }

    #[test]
    fn a_redirect_may_be_relative() {
        let here = url("https://mirror.example:444/a/b");
        for (location, expected) in [
            ("c", "https://mirror.example:444/a/c"),
            ("/c/d", "https://mirror.example:444/c/d"),
            ("//other.example/c", "https://other.example/c"),
            ("http://other.example/c", "http://other.example/c"),
            (
                "/c?from=https://other.example/",
                "https://mirror.example:444/c?from=https://other.example/",
            ),
            (
                "c?from=https://other.example/",
                "https://mirror.example:444/a/c?from=https://other.example/",
            ),
        ] {
            assert_eq!(here.follow(location), Ok(url(expected)), "{location}");
        }
    }

    #[test]
    fn other_schemes_and_nonsense_are_refused() {
        for text in ["", "mirror.example", "/a", "ftp://a/b", "file:///etc/passwd", "https://a b/"]
        {
            assert!(Url::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        assert_eq!(url("https://me:secret@a.example/b").to_string(), "https://a.example/b");
    }
}
