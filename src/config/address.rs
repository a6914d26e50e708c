//! Addresses: where to listen, which names to answer to, where upstream is.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use hyper::http::uri::Authority;
use rustls_pki_types::ServerName;

use super::{Address, BaseUrl};

/// What `sockaddr_un` holds, less its closing zero.
pub(super) const LONGEST_SOCKET_PATH: usize = 107;

/// Reads `127.0.0.1:8180` or `unix:/run/stepgate/stepgate.sock`.
pub(super) fn parse_address(text: &str) -> Result<Address, String> {
    let Some(path) = text.strip_prefix("unix:") else {
        return parse_tcp(text, 8180)
            .map(Address::Tcp)
            .map_err(|problem| format!("{problem} or \"unix:/run/stepgate/stepgate.sock\""));
    };
    let plain = path.starts_with('/') && !path.ends_with('/') && !path.contains('\0');
    if !plain {
        return Err(format!(
            "{text:?} needs the full path of a socket, like \"unix:/run/stepgate/stepgate.sock\""
        ));
    }
    if path.len() > LONGEST_SOCKET_PATH {
        return Err(format!(
            "the path of a unix socket has at most {LONGEST_SOCKET_PATH} bytes, this one has {}",
            path.len()
        ));
    }
    Ok(Address::Unix(PathBuf::from(path)))
}

/// Reads the address of the admin listener, like `127.0.0.1:8181`.
pub(super) fn parse_admin(text: &str) -> Result<SocketAddr, String> {
    parse_tcp(text, 8181)
}

/// `usual` is suggested where the text names no port.
fn parse_tcp(text: &str, usual: u16) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        // Only the port, or with a name before it.
        let port = text.rsplit(':').next().and_then(|port| port.parse().ok());
        let port: u16 = port.unwrap_or(usual);
        format!(
            "{text:?} is not an address; write an IP address with a port, like \"127.0.0.1:{port}\""
        )
    })
}

/// Reads a host name that an open listener answers to: no scheme, no port.
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

/// Reads upstream's address.
///
/// No error repeats what may be a credential: userinfo, query, fragment.
pub(super) fn parse_base_url(text: &str) -> Result<BaseUrl, String> {
    const LIKE: &str = "write one like \"https://api.portkey.ai/v1\"";
    if text.contains('@') {
        return Err(
            "contains a user name or password; name credentials under [upstream.headers]"
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

/// Host (lower case, no brackets) and port, if one is given.
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
    // As TLS will want it: no empty label, none too long.
    ServerName::try_from(host.as_str()).ok()?;
    Some((host, port))
}

/// Nothing that a server could decode or resolve to something else.
fn is_plain(segment: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    !segment.is_empty() && !matches!(segment, "." | "..") && segment.bytes().all(plain)
}

impl Address {
    /// Whether only this machine can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => is_loopback(*address),
            Self::Unix(_) => true,
        }
    }
}

/// Whether only this machine can reach it; an IPv4 address written as IPv6 counts as IPv4.
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
    /// As it is written in the configuration; the port only where it is not the scheme's own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, usual) = if self.https {
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
        if self.port != usual {
            write!(f, ":{}", self.port)?;
        }
        f.write_str(&self.path)
    }
}
