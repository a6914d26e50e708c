//! What a request must fulfil before it is routed: one host, one framing, and on an open listener no
//! sign of a foreign web page.
//!
//! An open listener injects credentials for every request. A page of another site, or a name that was
//! rebound to loopback (DNS rebinding), can make a browser on the same machine send requests. Such a
//! request is refused.

use std::net::IpAddr;

use hyper::Version;
use hyper::header::{HeaderMap, ORIGIN, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use hyper::http::uri::Authority;

use super::error::GatewayError;
use super::request::RequestHeaders;
use super::runtime_config::Transport;

/// Returns the host that the request is for.
///
/// # Errors
/// [`GatewayError::InvalidRequest`] if it names none, two, or two different ones.
fn requested_host<'h>(
    head: &Parts,
    headers: &RequestHeaders<'h>,
) -> Result<Option<Host<'h>>, GatewayError> {
    if headers.has_two_hosts {
        return Err(GatewayError::InvalidRequest(
            "The request has more than one Host header.",
        ));
    }
    let host = headers.host.map(|host| Host::parse(host.as_bytes()));
    match (head.uri.authority(), host.transpose()?) {
        // RFC 9112 section 3.2: required in HTTP/1.1, in absolute form too.
        (_, None) if head.version == Version::HTTP_11 => Err(GatewayError::InvalidRequest(
            "The request has no Host header.",
        )),
        (Some(target), Some(host)) if !host.equals(target) => Err(GatewayError::InvalidRequest(
            "The request target and the Host header name different hosts.",
        )),
        (Some(target), _) => Host::parse_any(target.as_str().as_bytes()).map(Some),
        (None, host) => Ok(host),
    }
}

/// The host that a request is for.
#[derive(Debug)]
enum Host<'h> {
    /// A host of letters, digits, dots and hyphens, which needs no parser.
    Plain {
        /// With the port.
        authority: &'h [u8],
        /// Without the port.
        name: &'h [u8],
    },
    Any(Authority),
}

/// Returns whether it is a name that most clients use, which skips the parsing of an address.
fn is_common_loopback(name: &[u8]) -> bool {
    name == b"127.0.0.1" || name == b"localhost"
}

impl<'h> Host<'h> {
    fn parse(host: &'h [u8]) -> Result<Self, GatewayError> {
        Self::plain(host).map_or_else(|| Self::parse_any(host), Ok)
    }

    /// Returns `name` or `name:port`, if the name has only letters, digits, dots and hyphens.
    fn plain(authority: &'h [u8]) -> Option<Self> {
        let digits = authority.iter().rev().take_while(|b| b.is_ascii_digit());
        let name = match authority.split_at(authority.len() - digits.count()) {
            ([name @ .., b':'], [_, ..]) => name,
            _ => authority,
        };
        let in_a_name = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-');
        let plain = is_common_loopback(name) || (!name.is_empty() && name.iter().all(in_a_name));
        (plain && authority.len() - name.len() <= ":65535".len())
            .then_some(Self::Plain { authority, name })
    }

    fn parse_any(host: &[u8]) -> Result<Self, GatewayError> {
        Authority::try_from(host)
            .ok()
            .filter(|authority| !authority.as_str().contains('@'))
            .map(Self::Any)
            .ok_or(GatewayError::InvalidRequest(
                "The Host header is not a host name.",
            ))
    }

    fn equals(&self, target: &Authority) -> bool {
        let authority = match self {
            Self::Plain { authority, .. } => authority,
            Self::Any(authority) => authority.as_str().as_bytes(),
        };
        authority.eq_ignore_ascii_case(target.as_str().as_bytes())
    }

    /// Returns whether it is `localhost`, a loopback address, or one of `allowed_hosts`.
    fn is_allowed(&self, allowed_hosts: &[String]) -> bool {
        let name = match self {
            Self::Plain { name, .. } if is_common_loopback(name) => return true,
            Self::Plain { name, .. } => std::str::from_utf8(name).unwrap_or_default(),
            Self::Any(authority) => {
                let host = authority.host();
                host.trim_start_matches('[').trim_end_matches(']')
            }
        };
        let name = name.trim_end_matches('.');
        name.eq_ignore_ascii_case("localhost")
            || name
                .parse::<IpAddr>()
                .is_ok_and(|address| address.to_canonical().is_loopback())
            || allowed_hosts
                .iter()
                .any(|host| name.eq_ignore_ascii_case(host))
    }
}

/// Refuses every transfer coding but `chunked`. hyper accepts any list that ends in `chunked`; another
/// parser may read the list differently and find the next request elsewhere (request smuggling).
fn check_transfer_encoding(headers: &HeaderMap) -> Result<(), GatewayError> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let plain = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    };
    if plain {
        return Ok(());
    }
    Err(GatewayError::InvalidRequest(
        "The only Transfer-Encoding that is understood is `chunked`.",
    ))
}

/// Checks the request's host and framing and, on an open listener, its origin. `allowed_hosts` are the
/// names of an open listener beside loopback; `None` if the listener is not open.
///
/// # Errors
/// [`GatewayError::InvalidRequest`] or [`GatewayError::ForbiddenOrigin`].
pub(crate) fn check_request(
    head: &Parts,
    headers: &RequestHeaders<'_>,
    transport: Transport,
    allowed_hosts: Option<&[String]>,
) -> Result<(), GatewayError> {
    let host = requested_host(head, headers)?;
    if headers.has_transfer_encoding {
        check_transfer_encoding(&head.headers)?;
    }
    match (transport, allowed_hosts) {
        (Transport::Tcp | Transport::Tls(_), Some(allowed_hosts)) => {
            check_origin(&head.headers, headers, host.as_ref(), allowed_hosts)
        }
        (Transport::Tcp | Transport::Tls(_), None) | (Transport::Unix, _) => Ok(()),
    }
}

/// Refuses a request that a page of another site could have sent, or that is for a foreign host name.
fn check_origin(
    map: &HeaderMap,
    headers: &RequestHeaders<'_>,
    host: Option<&Host<'_>>,
    allowed_hosts: &[String],
) -> Result<(), GatewayError> {
    // HTTP/1.0 permits a request without Host. Then nothing shows that it is meant for this gateway.
    if !host.is_some_and(|host| host.is_allowed(allowed_hosts)) {
        return Err(GatewayError::ForbiddenOrigin(
            "This listener is open, so it answers only to localhost, loopback addresses and the \
             names in server.allowed_hosts.",
        ));
    }
    if !headers.from_browser {
        return Ok(());
    }
    let cross_site = map
        .get_all("sec-fetch-site")
        .iter()
        .any(|value| !matches!(value.as_bytes(), b"same-origin" | b"same-site" | b"none"));
    let foreign = map.get_all(ORIGIN).iter().any(|origin| {
        let host = origin
            .to_str()
            .ok()
            .and_then(|origin| origin.split_once("://"))
            .and_then(|(_, host)| Authority::try_from(host).ok());
        // A page of this machine is not foreign. The origin `null` can be any page.
        !host.is_some_and(|host| Host::Any(host).is_allowed(allowed_hosts))
    });
    if cross_site || foreign {
        return Err(GatewayError::ForbiddenOrigin(
            "This listener is open, so it refuses what a browser sends for another site.",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Request;

    fn is_refused(headers: &[(&'static str, &str)]) -> bool {
        let mut request = Request::new(());
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        let allowed_hosts = ["stepgate.internal".to_owned()];
        let (head, ()) = request.into_parts();
        check_request(
            &head,
            &RequestHeaders::of(&head.headers),
            Transport::Tcp,
            Some(&allowed_hosts),
        )
        .is_err()
    }

    #[test]
    fn loopback_and_allowed_hosts_are_answered() {
        for host in [
            "localhost",
            "LOCALHOST:8180",
            "localhost.",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:8180",
            "[::ffff:127.0.0.1]",
            "stepgate.internal:80",
            "Stepgate.Internal",
        ] {
            assert!(!is_refused(&[("host", host)]), "{host}");
            let origin = format!("http://{host}");
            assert!(
                !is_refused(&[("host", "localhost"), ("origin", &origin)]),
                "{origin}"
            );
        }
        for site in ["same-origin", "same-site", "none"] {
            assert!(
                !is_refused(&[("host", "localhost"), ("sec-fetch-site", site)]),
                "{site}"
            );
        }
    }

    #[test]
    fn dns_rebinding_and_cross_site_requests_are_refused() {
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "0.0.0.0",
            "[::]",
            "10.0.0.1",
            "x@localhost",
            "",
            "a b",
            "2130706433",
            "localhost:80:80",
        ] {
            assert!(is_refused(&[("host", host)]), "{host}");
        }
        assert!(is_refused(&[]), "HTTP/1.1 without Host");
        assert!(is_refused(&[("host", "localhost"), ("host", "localhost")]));
        for origin in [
            "null",
            "http://evil.example",
            "file://",
            "https://localhost.evil",
            "",
        ] {
            assert!(
                is_refused(&[("host", "localhost"), ("origin", origin)]),
                "{origin}"
            );
        }
        for site in ["cross-site", "", "Cross-Site"] {
            assert!(
                is_refused(&[("host", "localhost"), ("sec-fetch-site", site)]),
                "{site}"
            );
        }
    }

    #[test]
    fn the_target_and_the_host_header_agree() {
        let request = |uri: &str, host: &str| {
            let request = Request::builder().uri(uri).header("host", host);
            request.body(()).unwrap().into_parts().0
        };
        let named = |head: &Parts| match requested_host(head, &RequestHeaders::of(&head.headers)) {
            Ok(Some(Host::Any(authority))) => Some(authority.host().to_owned()),
            Ok(Some(Host::Plain { .. }) | None) | Err(_) => None,
        };
        assert!(named(&request("http://evil.example/v1", "localhost")).is_none());
        assert!(named(&request("http://u@localhost/v1", "u@localhost")).is_none());
        let both = request("http://LOCALHOST:1/v1", "localhost:1");
        assert_eq!(named(&both).as_deref(), Some("LOCALHOST"));
    }
}
