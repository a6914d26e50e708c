//! Who may speak to us: HTTP's rules about the host, and a web page's attempts.
//!
//! An open listener injects keys for whoever asks. A browser on the same machine can be made to
//! ask, by a page of another site or by a name that was rebound to loopback; neither gets through.

use std::net::IpAddr;

use hyper::Version;
use hyper::header::{HeaderMap, ORIGIN, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use hyper::http::uri::Authority;

use super::heading::RequestHeaders;
use super::refusal::GatewayError;

/// What kind of door a request came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP, where a browser could knock.
    Tcp,
    /// TCP with TLS; the roots that the caller's certificate passed, if it was asked for one.
    Tls(Option<blake3::Hash>),
    /// A unix socket, where none can.
    Unix,
}

/// Checks that the request names one host, in one way.
fn names_one_host<'h>(
    head: &Parts,
    heading: &RequestHeaders<'h>,
) -> Result<Option<Host<'h>>, GatewayError> {
    if heading.has_two_hosts {
        return Err(GatewayError::InvalidRequest(
            "The request has more than one Host header.",
        ));
    }
    let host = heading.host.map(|host| Host::parse(host.as_bytes()));
    match (head.uri.authority(), host.transpose()?) {
        // RFC 9112 section 3.2: required in HTTP/1.1, in absolute form too.
        (_, None) if head.version == Version::HTTP_11 => Err(GatewayError::InvalidRequest(
            "The request has no Host header.",
        )),
        (Some(target), Some(host)) if !host.is(target) => Err(GatewayError::InvalidRequest(
            "The request target and the Host header name different hosts.",
        )),
        (Some(target), _) => Host::parse_any(target.as_str().as_bytes()).map(Some),
        (None, host) => Ok(host),
    }
}

/// Whom a request is for.
#[derive(Debug)]
enum Host<'h> {
    /// Spelled so plainly that no parser could read it in two ways.
    Plain {
        whole: &'h [u8],
        /// Without the port.
        name: &'h [u8],
    },
    Any(Authority),
}

/// What most callers say.
fn is_usual(name: &[u8]) -> bool {
    name == b"127.0.0.1" || name == b"localhost"
}

impl<'h> Host<'h> {
    fn parse(host: &'h [u8]) -> Result<Self, GatewayError> {
        Self::plain(host).map_or_else(|| Self::parse_any(host), Ok)
    }

    /// `name` or `name:port` of letters, digits, dots and hyphens.
    fn plain(whole: &'h [u8]) -> Option<Self> {
        let digits = whole.iter().rev().take_while(|b| b.is_ascii_digit());
        let name = match whole.split_at(whole.len() - digits.count()) {
            ([name @ .., b':'], [_, ..]) => name,
            _ => whole,
        };
        let in_a_name = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-');
        let plain = is_usual(name) || (!name.is_empty() && name.iter().all(in_a_name));
        (plain && whole.len() - name.len() <= ":65535".len()).then_some(Self::Plain { whole, name })
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

    fn is(&self, target: &Authority) -> bool {
        let whole = match self {
            Self::Plain { whole, .. } => whole,
            Self::Any(authority) => authority.as_str().as_bytes(),
        };
        whole.eq_ignore_ascii_case(target.as_str().as_bytes())
    }

    /// Whether it is `localhost`, an address of the loopback network, or one of `hosts`.
    fn is_ours(&self, hosts: &[String]) -> bool {
        let name = match self {
            Self::Plain { name, .. } if is_usual(name) => return true,
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
            || hosts.iter().any(|host| name.eq_ignore_ascii_case(host))
    }
}

/// hyper takes any list that ends in `chunked`; others may read it differently, and find the next
/// request elsewhere.
fn ends_in_one_place(headers: &HeaderMap) -> Result<(), GatewayError> {
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

/// Admits what names one host in one way and, on an open listener (`hosts` are its names), could
/// not have been sent by a web page.
pub(crate) fn admit(
    head: &Parts,
    heading: &RequestHeaders<'_>,
    door: Transport,
    hosts: Option<&[String]>,
) -> Result<(), GatewayError> {
    let host = names_one_host(head, heading)?;
    if heading.has_transfer_encoding {
        ends_in_one_place(&head.headers)?;
    }
    match (door, hosts) {
        (Transport::Tcp | Transport::Tls(_), Some(hosts)) => {
            refuse_strangers(&head.headers, heading, host.as_ref(), hosts)
        }
        (Transport::Tcp | Transport::Tls(_), None) | (Transport::Unix, _) => Ok(()),
    }
}

/// Refuses what a web page could have sent, and names that are not ours.
fn refuse_strangers(
    headers: &HeaderMap,
    heading: &RequestHeaders<'_>,
    host: Option<&Host<'_>>,
    hosts: &[String],
) -> Result<(), GatewayError> {
    // HTTP/1.0 may leave it out; then nothing says that we were meant.
    if !host.is_some_and(|host| host.is_ours(hosts)) {
        return Err(GatewayError::ForbiddenOrigin(
            "This listener is open, so it answers only to localhost, loopback addresses and the \
             names in server.allowed_hosts.",
        ));
    }
    if !heading.is_a_browsers {
        return Ok(());
    }
    let cross_site = headers
        .get_all("sec-fetch-site")
        .iter()
        .any(|value| !matches!(value.as_bytes(), b"same-origin" | b"same-site" | b"none"));
    let foreign = headers.get_all(ORIGIN).iter().any(|origin| {
        let host = origin
            .to_str()
            .ok()
            .and_then(|origin| origin.split_once("://"))
            .and_then(|(_, host)| Authority::try_from(host).ok());
        // A page of this machine's own is no stranger; `null` is anybody.
        !host.is_some_and(|host| Host::Any(host).is_ours(hosts))
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

    fn refused(headers: &[(&'static str, &str)]) -> bool {
        let mut request = Request::new(());
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        let hosts = ["stepgate.internal".to_owned()];
        let (head, ()) = request.into_parts();
        admit(
            &head,
            &RequestHeaders::of(&head.headers),
            Transport::Tcp,
            Some(&hosts),
        )
        .is_err()
    }

    #[test]
    fn our_own_names_are_answered() {
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
            assert!(!refused(&[("host", host)]), "{host}");
            let origin = format!("http://{host}");
            assert!(
                !refused(&[("host", "localhost"), ("origin", &origin)]),
                "{origin}"
            );
        }
        for site in ["same-origin", "same-site", "none"] {
            assert!(
                !refused(&[("host", "localhost"), ("sec-fetch-site", site)]),
                "{site}"
            );
        }
    }

    #[test]
    fn strangers_are_not() {
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
            assert!(refused(&[("host", host)]), "{host}");
        }
        assert!(refused(&[]), "HTTP/1.1 without Host");
        assert!(refused(&[("host", "localhost"), ("host", "localhost")]));
        for origin in [
            "null",
            "http://evil.example",
            "file://",
            "https://localhost.evil",
            "",
        ] {
            assert!(
                refused(&[("host", "localhost"), ("origin", origin)]),
                "{origin}"
            );
        }
        for site in ["cross-site", "", "Cross-Site"] {
            assert!(
                refused(&[("host", "localhost"), ("sec-fetch-site", site)]),
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
        let named = |head: &Parts| match names_one_host(head, &RequestHeaders::of(&head.headers)) {
            Ok(Some(Host::Any(authority))) => Some(authority.host().to_owned()),
            Ok(Some(Host::Plain { .. }) | None) | Err(_) => None,
        };
        assert!(named(&request("http://evil.example/v1", "localhost")).is_none());
        assert!(named(&request("http://u@localhost/v1", "u@localhost")).is_none());
        let both = request("http://LOCALHOST:1/v1", "localhost:1");
        assert_eq!(named(&both).as_deref(), Some("LOCALHOST"));
    }
}
