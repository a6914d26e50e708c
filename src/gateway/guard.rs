//! Who may speak to us: HTTP's rules about the host, and a web page's attempts.
//!
//! An open listener injects keys for whoever asks. A browser on the same machine can be made to
//! ask, by a page of another site or by a name that was rebound to loopback; neither gets through.

use std::net::IpAddr;

use hyper::Version;
use hyper::header::{HOST, HeaderMap, ORIGIN, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use hyper::http::uri::Authority;

use super::refusal::Refusal;

/// What kind of door a request came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// TCP, where a browser could knock.
    Tcp,
    /// TCP with TLS; the roots that the caller's certificate passed, if it was asked for one.
    Tls(Option<blake3::Hash>),
    /// A unix socket, where none can.
    Unix,
}

/// Checks that the request names one host, in one way.
fn names_one_host(head: &Parts) -> Result<Option<Authority>, Refusal> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => {
            return Err(Refusal::InvalidRequest(
                "The request has more than one Host header.",
            ));
        }
        (Some(host), None) => Some(parse(host.as_bytes())?),
        (None, _) => None,
    };
    match (head.uri.authority(), host) {
        // RFC 9112 section 3.2: required in HTTP/1.1, in absolute form too.
        (_, None) if head.version == Version::HTTP_11 => {
            Err(Refusal::InvalidRequest("The request has no Host header."))
        }
        (Some(target), Some(host)) if !same(target, &host) => Err(Refusal::InvalidRequest(
            "The request target and the Host header name different hosts.",
        )),
        (Some(target), _) => parse(target.as_str().as_bytes()).map(Some),
        (None, host) => Ok(host),
    }
}

/// hyper takes any list that ends in `chunked`; others may read it differently, and find the next
/// request elsewhere.
fn ends_in_one_place(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let plain = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    };
    if plain {
        return Ok(());
    }
    Err(Refusal::InvalidRequest(
        "The only Transfer-Encoding that is understood is `chunked`.",
    ))
}

fn parse(host: &[u8]) -> Result<Authority, Refusal> {
    Authority::try_from(host)
        .ok()
        .filter(|authority| !authority.as_str().contains('@'))
        .ok_or(Refusal::InvalidRequest(
            "The Host header is not a host name.",
        ))
}

fn same(a: &Authority, b: &Authority) -> bool {
    a.as_str().eq_ignore_ascii_case(b.as_str())
}

/// Admits what names one host in one way and, on an open listener (`hosts` are its names), could
/// not have been sent by a web page.
pub(crate) fn admit(head: &Parts, door: Door, hosts: Option<&[String]>) -> Result<(), Refusal> {
    let host = names_one_host(head)?;
    ends_in_one_place(&head.headers)?;
    match (door, hosts) {
        (Door::Tcp | Door::Tls(_), Some(hosts)) => {
            refuse_strangers(&head.headers, host.as_ref(), hosts)
        }
        (Door::Tcp | Door::Tls(_), None) | (Door::Unix, _) => Ok(()),
    }
}

/// Refuses what a web page could have sent, and names that are not ours.
fn refuse_strangers(
    headers: &HeaderMap,
    host: Option<&Authority>,
    hosts: &[String],
) -> Result<(), Refusal> {
    let ours = |authority: &Authority| {
        let name = bare_name(authority);
        is_loopback(&name) || hosts.contains(&name)
    };
    // HTTP/1.0 may leave it out; then nothing says that we were meant.
    if !host.is_some_and(ours) {
        return Err(Refusal::ForbiddenOrigin(
            "This listener is open, so it answers only to localhost, loopback addresses and the \
             names in server.hosts.",
        ));
    }
    let cross_site = headers
        .get_all("sec-fetch-site")
        .iter()
        .any(|value| !matches!(value.as_bytes(), b"same-origin" | b"same-site" | b"none"));
    let foreign = headers.get_all(ORIGIN).iter().any(|origin| {
        let authority = origin
            .to_str()
            .ok()
            .and_then(|origin| origin.split_once("://"))
            .and_then(|(_, authority)| Authority::try_from(authority).ok());
        // A page of this machine's own is no stranger; `null` is anybody.
        !authority.is_some_and(|authority| ours(&authority))
    });
    if cross_site || foreign {
        return Err(Refusal::ForbiddenOrigin(
            "This listener is open, so it refuses what a browser sends for another site.",
        ));
    }
    Ok(())
}

fn bare_name(authority: &Authority) -> String {
    let host = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']');
    host.trim_end_matches('.').to_ascii_lowercase()
}

/// `localhost`, or an address of the loopback network.
fn is_loopback(name: &str) -> bool {
    name == "localhost"
        || name
            .parse::<IpAddr>()
            .is_ok_and(|address| address.to_canonical().is_loopback())
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
        names_one_host(&head)
            .and_then(|host| refuse_strangers(&head.headers, host.as_ref(), &hosts))
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
        assert!(names_one_host(&request("http://evil.example/v1", "localhost")).is_err());
        assert!(names_one_host(&request("http://u@localhost/v1", "u@localhost")).is_err());
        let host = names_one_host(&request("http://LOCALHOST:1/v1", "localhost:1")).unwrap();
        assert_eq!(host.unwrap().host(), "LOCALHOST");
    }
}
