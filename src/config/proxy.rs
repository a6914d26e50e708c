//! The proxy that fetches go through, as the environment names it for every program.
//!
//! An upstream without TLS is never reached through one: the proxy would read what is injected.

use std::fmt;

use hyper::Uri;
use hyper::header::HeaderValue;
use hyper_util::client::proxy::matcher::Matcher;

use super::BaseUrl;
use super::address::parse_authority;
use super::diagnostics::{Notes, Place};
use super::secret_ref::References;

/// Which variables name it, the first that is set before the others.
const NAMES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// Which name the hosts that are reached without it.
const EXCEPTIONS: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// A proxy that is spoken to in plain HTTP, and asked for a tunnel (CONNECT).
///
/// `Display` and `Debug` show neither user nor password.
#[derive(Debug, Clone, PartialEq)]
pub struct Proxy {
    /// Lower case; an IPv6 address without its brackets.
    pub host: String,
    /// The port, also where it is the scheme's default.
    pub port: u16,
    /// `Proxy-Authorization`: for the proxy, nobody else.
    pub authorization: Option<HeaderValue>,
    /// The variable that names it.
    variable: &'static str,
}

impl Proxy {
    /// The proxy before this upstream, if the environment names one.
    pub(super) fn read(
        upstream: &BaseUrl,
        notes: &Notes<'_>,
        references: &References<'_>,
    ) -> Option<Self> {
        let first = |names: &[&'static str]| {
            let mut said = names.iter().map(|name| (*name, references.variable(name)));
            said.find_map(|(name, text)| Some((name, text?)))
        };
        let (variable, text) = first(&NAMES)?;
        let except = first(&EXCEPTIONS).map_or_else(String::new, |(_, text)| text);
        if !upstream.https || is_excepted(upstream, &except) {
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
                notes.note(&Place::name(variable), problem);
                None
            }
        }
    }

    /// `host:port`, an IPv6 address in brackets.
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

/// What `NO_PROXY` says: names with all below them, addresses, networks (`10.0.0.0/8`), or `*`.
fn is_excepted(upstream: &BaseUrl, except: &str) -> bool {
    // The matcher takes it for all names, but for no address.
    if except.split(',').any(|part| part.trim() == "*") {
        return true;
    }
    let all = Matcher::builder().https("http://proxy").no(except).build();
    uri(upstream).is_some_and(|uri| all.intercept(&uri).is_none())
}

/// As the matcher wants it.
fn uri(upstream: &BaseUrl) -> Option<Uri> {
    upstream.to_string().parse().ok()
}

/// Host, port, and what to send as `Proxy-Authorization`.
///
/// No error repeats any of it: every part may turn out to be a password.
fn parse(text: &str, upstream: &BaseUrl) -> Result<(String, u16, Option<HeaderValue>), String> {
    const LIKE: &str = "write one like \"http://proxy.internal:3128\"";
    const SPECIAL: &str = "what is special in a user name or password is percent-encoded: `@` is \
                           %40, `/` is %2F, `#` is %23";
    // Without a scheme, as curl has it.
    let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
    match scheme.to_ascii_lowercase().as_str() {
        "http" => {}
        "https" => {
            return Err(format!(
                "asks for TLS to the proxy itself, which is not supported; {LIKE} (what goes \
                 through it is TLS anyway)"
            ));
        }
        "socks4" | "socks4a" | "socks5" | "socks5h" => {
            return Err(format!(
                "names a SOCKS proxy, which is not supported; {LIKE}"
            ));
        }
        _ => return Err(format!("begins with another scheme than http:; {LIKE}")),
    }
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#']) {
        return Err(format!("goes on after host and port ({SPECIAL}); {LIKE}"));
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
