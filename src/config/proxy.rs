//! The HTTP proxy for requests to the upstream, from the usual environment variables.
//!
//! Requests to an upstream without TLS never use a proxy, because it could read the injected headers.

use std::fmt;

use hyper::Uri;
use hyper::header::HeaderValue;
use hyper_util::client::proxy::matcher::Matcher;

use super::address::{BaseUrl, parse_authority};
use super::diagnostics::{Diagnostics, SourceSpan};
use super::secret_ref::SecretResolver;

/// Names the variables for the proxy. The first one that is set counts.
const PROXY_VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// Names the variables for the hosts that need no proxy. The first one that is set counts.
const NO_PROXY_VARIABLES: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// Describes a proxy. The gateway speaks plain HTTP to it, and asks for a tunnel with CONNECT.
///
/// `Display` and `Debug` show neither user nor password.
#[derive(Debug, Clone, PartialEq)]
pub struct Proxy {
    /// Holds the host in lower case. An IPv6 address has no brackets.
    pub host: String,
    /// Holds the port, also if it is the default of the scheme.
    pub port: u16,
    /// Holds the value of `Proxy-Authorization`, which is sent to the proxy only.
    pub authorization: Option<HeaderValue>,
    /// Names the variable that the proxy was read from.
    variable: &'static str,
}

impl Proxy {
    /// Reads the proxy for this upstream. `None` if the environment names none, or if none is needed.
    pub(super) fn read(
        upstream: &BaseUrl,
        diagnostics: &Diagnostics<'_>,
        secrets: &SecretResolver<'_>,
    ) -> Option<Self> {
        let first = |names: &[&'static str]| {
            let mut set = names.iter().map(|name| (*name, secrets.variable(name)));
            set.find_map(|(name, text)| Some((name, text?)))
        };
        let (variable, text) = first(&PROXY_VARIABLES)?;
        let exceptions = first(&NO_PROXY_VARIABLES).map_or_else(String::new, |(_, text)| text);
        if !upstream.https || is_excepted(upstream, &exceptions) {
            return None;
        }
        match parse(text.trim(), upstream) {
            Ok((host, port, authorization)) => Some(Self {
                host,
                port,
                authorization,
                variable,
            }),
            Err(problem) => {
                diagnostics.report(&SourceSpan::name(variable), problem);
                None
            }
        }
    }

    /// Returns `host:port`, with brackets around an IPv6 address.
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let credentials = self.authorization.as_ref().map_or("", |_| "***@");
        let (address, variable) = (self.authority(), self.variable);
        write!(f, "http://{credentials}{address} ({variable})")
    }
}

/// Returns whether `NO_PROXY` covers the upstream.
///
/// `exceptions` lists domains with their subdomains, addresses, networks (`10.0.0.0/8`), or `*`.
fn is_excepted(upstream: &BaseUrl, exceptions: &str) -> bool {
    // The matcher applies `*` to names only, not to addresses.
    if exceptions.split(',').any(|part| part.trim() == "*") {
        return true;
    }
    let all = Matcher::builder()
        .https("http://proxy")
        .no(exceptions)
        .build();
    uri(upstream).is_some_and(|uri| all.intercept(&uri).is_none())
}

/// Returns the upstream as the matcher needs it.
fn uri(upstream: &BaseUrl) -> Option<Uri> {
    upstream.to_string().parse().ok()
}

/// Parses host, port, and the value of `Proxy-Authorization`.
///
/// No error repeats any part of the text, because any part may be a password.
fn parse(text: &str, upstream: &BaseUrl) -> Result<(String, u16, Option<HeaderValue>), String> {
    const LIKE: &str = "write one like \"http://proxy.internal:3128\"";
    const SPECIAL: &str = "percent-encode special characters in a user name or password: `@` as \
                           %40, `/` as %2F, `#` as %23";
    // Like curl, accept a proxy without a scheme.
    let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
    match scheme.to_ascii_lowercase().as_str() {
        "http" => {}
        "https" => {
            return Err(format!(
                "needs TLS to the proxy itself, which is not supported; {LIKE} (the tunnel \
                 through the proxy uses TLS)"
            ));
        }
        "socks4" | "socks4a" | "socks5" | "socks5h" => {
            return Err(format!(
                "names a SOCKS proxy, which is not supported; {LIKE}"
            ));
        }
        _ => return Err(format!("has a scheme other than http:; {LIKE}")),
    }
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#']) {
        return Err(format!("has more than host and port ({SPECIAL}); {LIKE}"));
    }
    let (user, address) = authority
        .rsplit_once('@')
        .map_or(("", authority), |(user, address)| (user, address));
    if user.contains('@') {
        return Err(format!("contains two `@` ({SPECIAL}); {LIKE}"));
    }
    let (host, port) = parse_authority(address)
        .ok_or_else(|| format!("names no host with an optional port; {LIKE}"))?;
    let matcher = Matcher::builder()
        .https(format!("http://{authority}"))
        .build();
    let found = uri(upstream).and_then(|uri| matcher.intercept(&uri));
    let found = found.ok_or_else(|| format!("is not a valid URL ({SPECIAL}); {LIKE}"))?;
    Ok((host, port.unwrap_or(80), found.basic_auth().cloned()))
}
