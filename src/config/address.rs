//! Addresses: the ones to listen on, the host names to accept, and the base URL of the upstream.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use hyper::http::uri::Authority;
use rustls_pki_types::ServerName;

/// Holds an address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// Holds a TCP address, such as `127.0.0.1:8180`.
    Tcp(SocketAddr),
    /// Holds the path of a unix socket. It is written `unix:/run/stepgate/stepgate.sock`.
    Unix(PathBuf),
}

/// Holds the upstream's address: scheme, host, port and path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl {
    /// Whether the upstream speaks TLS.
    pub https: bool,
    /// Holds the host in lower case. An IPv6 address has no brackets.
    pub host: String,
    /// Holds the port, also if it is the default of the scheme.
    pub port: u16,
    /// Holds the path without a trailing slash, such as `/v1`. It may be empty.
    pub path: String,
}

/// Limits the path of a unix socket, in bytes: the size of `sun_path` without its final zero.
pub(super) const MAX_SOCKET_PATH_LEN: usize = 107;

/// Parses `127.0.0.1:8180` or `unix:/run/stepgate/stepgate.sock`.
pub(super) fn parse_address(text: &str) -> Result<Address, String> {
    let Some(path) = text.strip_prefix("unix:") else {
        return parse_tcp(text, 8180)
            .map(Address::Tcp)
            .map_err(|problem| format!("{problem} or \"unix:/run/stepgate/stepgate.sock\""));
    };
    let is_full = path.starts_with('/') && !path.ends_with('/') && !path.contains('\0');
    if !is_full {
        return Err(format!(
            "{text:?} needs the full path of a socket, like \"unix:/run/stepgate/stepgate.sock\""
        ));
    }
    if path.len() > MAX_SOCKET_PATH_LEN {
        return Err(format!(
            "the path of a unix socket has at most {MAX_SOCKET_PATH_LEN} bytes, but this one has {}",
            path.len()
        ));
    }
    Ok(Address::Unix(PathBuf::from(path)))
}

/// Parses the address of the admin listener, like `127.0.0.1:8181`.
pub(super) fn parse_admin(text: &str) -> Result<SocketAddr, String> {
    parse_tcp(text, 8181)
}

/// Parses an IP address with a port. The error suggests `default_port` if the text has no port.
fn parse_tcp(text: &str, default_port: u16) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        // The text may be a port alone, or a host name with a port.
        let port = text.rsplit(':').next().and_then(|port| port.parse().ok());
        let port: u16 = port.unwrap_or(default_port);
        format!(
            "{text:?} is not an address; write an IP address with a port, like \"127.0.0.1:{port}\""
        )
    })
}

/// Parses a host name, without scheme and port.
pub(super) fn parse_host(text: &str) -> Result<String, String> {
    let host = text.to_ascii_lowercase();
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let is_name = !host.is_empty() && host.len() <= 253 && host.bytes().all(plain);
    if is_name || host.parse::<IpAddr>().is_ok() {
        return Ok(host);
    }
    Err(format!(
        "{text:?} is not a host name; write one like \"stepgate.internal\", without scheme and port"
    ))
}

/// Parses the base URL of the upstream.
///
/// No error repeats userinfo, query or fragment, because they may hold a credential.
pub(super) fn parse_base_url(text: &str) -> Result<BaseUrl, String> {
    const LIKE: &str = "write one like \"https://api.portkey.ai/v1\"";
    if text.contains('@') {
        return Err(
            "contains a user name or password; write credentials under [upstream.headers]"
                .to_owned(),
        );
    }
    if text.contains('?') {
        return Err("contains a query; write it under [upstream.query]".to_owned());
    }
    if text.contains('#') {
        return Err("contains a fragment, which is never sent; leave it out".to_owned());
    }
    let Some((scheme, rest)) = text.split_once(':') else {
        return Err(format!("has no scheme; {LIKE}"));
    };
    let https = match scheme.to_ascii_lowercase().as_str() {
        "https" => true,
        "http" => false,
        other => return Err(format!("the scheme {other:?} is not http or https; {LIKE}")),
    };
    let Some(rest) = rest.strip_prefix("//") else {
        return Err(format!("has no host; {LIKE}"));
    };
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, ""),
    };
    if authority.is_empty() {
        return Err(format!("has no host; {LIKE}"));
    }
    let (host, port) = parse_authority(authority)
        .ok_or_else(|| format!("{authority:?} is not a host with an optional port; {LIKE}"))?;
    let path = path.trim_end_matches('/');
    if let Some(segment) = path.split('/').skip(1).find(|segment| !is_plain(segment)) {
        return Err(format!(
            "the path segment {segment:?} is not plain; use letters, digits, `-`, `_`, `.` and `~`"
        ));
    }
    Ok(BaseUrl {
        https,
        host,
        port: port.unwrap_or(if https { 443 } else { 80 }),
        path: path.to_owned(),
    })
}

/// Parses host and port. The host is in lower case and without brackets.
pub(super) fn parse_authority(text: &str) -> Option<(String, Option<u16>)> {
    let authority: Authority = text.parse().ok()?;
    let written = authority.host();
    let port = match text.get(written.len()..)? {
        "" => None,
        rest => Some(
            rest.strip_prefix(':')?
                .parse()
                .ok()
                .filter(|port| *port != 0)?,
        ),
    };
    let host = match written.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().ok()?.to_string(),
        None => parse_host(written)
            .ok()
            .filter(|host| !host.contains(':'))?,
    };
    // TLS needs a host without empty or overlong labels.
    ServerName::try_from(host.as_str()).ok()?;
    Some((host, port))
}

/// Returns whether no server decodes or resolves the segment to another one.
fn is_plain(segment: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    !segment.is_empty() && !matches!(segment, "." | "..") && segment.bytes().all(plain)
}

impl Address {
    /// Returns whether only this machine can reach the address.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => is_loopback(*address),
            Self::Unix(_) => true,
        }
    }
}

/// Returns whether only this machine can reach the address. An IPv4-mapped IPv6 address is IPv4.
pub(super) fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for BaseUrl {
    /// Writes the URL as in the configuration, without a port that is the default of its scheme.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, default_port) = if self.https {
            ("https", 443)
        } else {
            ("http", 80)
        };
        write!(f, "{scheme}://")?;
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?;
        } else {
            f.write_str(&self.host)?;
        }
        if self.port != default_port {
            write!(f, ":{}", self.port)?;
        }
        f.write_str(&self.path)
    }
}
