//! The header policy: which headers go to the upstream, and which of its headers go to a client.
//!
//! A fetch takes a short list of the client's headers. A forwarded request takes all but a list. A response
//! keeps all but a list. A header that `Connection` nominates is dropped from the client's headers only, so a
//! client cannot remove an injected header by nominating it.

use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, EXPECT, FORWARDED, HOST,
    HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};

use smallvec::SmallVec;

use super::secret_scanner::SecretScanner;
use crate::config::{Header, Value, is_credential};

/// Lists the client's headers that go up with a fetch, besides `vary_headers`: who the client is, and which
/// trace the request belongs to.
pub const FORWARDABLE_HEADERS: [HeaderName; 5] = [
    USER_AGENT,
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-portkey-trace-id"),
];

/// Lists the hop-by-hop headers: RFC 9110 section 7.6.1, and the non-standard ones in use.
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Lists response headers that would give one client's session to another.
const SESSION: [HeaderName; 2] = [SET_COOKIE, HeaderName::from_static("set-cookie2")];

const OPENAI_BETA: HeaderName = HeaderName::from_static("openai-beta");

/// Reports whether a client's header may go up with a forwarded request. These stay behind: hop-by-hop and
/// framing headers, `Expect`, headers that say where the client is, its credentials, and headers that choose
/// a destination or an account at Portkey.
fn is_forwardable(name: &HeaderName) -> bool {
    const STRIPPED: [HeaderName; 7] = [
        HeaderName::from_static("http2-settings"),
        CONTENT_LENGTH,
        EXPECT,
        HOST,
        FORWARDED,
        HeaderName::from_static("x-real-ip"),
        HeaderName::from_static("cookie2"),
    ];
    // `is_credential` would match its name.
    const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
    if FORWARDABLE_HEADERS.contains(name) || name == IDEMPOTENCY_KEY {
        return true;
    }
    let text = name.as_str();
    !text.starts_with("x-portkey-")
        && !text.starts_with("x-forwarded-")
        && !HOP_BY_HOP.contains(name)
        && !STRIPPED.contains(name)
        && !is_credential(text)
}

/// Builds the request headers for one configured client.
#[derive(Debug, Clone)]
pub struct HeaderPolicy {
    injected: HeaderMap,
    forwardable: Vec<HeaderName>,
    /// The part of `forwardable` that may change the response, and so belongs to the coalescing key.
    vary: Vec<HeaderName>,
}

impl HeaderPolicy {
    /// Injects `headers`, and passes `vary` besides [`FORWARDABLE_HEADERS`].
    pub fn new<'h>(headers: impl IntoIterator<Item = &'h Header>, vary: &[HeaderName]) -> Self {
        let mut injected = HeaderMap::new();
        injected.insert(ACCEPT, HeaderValue::from_static("application/json"));
        // An encoded body could be neither checked nor replayed to every client.
        injected.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        for header in headers {
            injected.insert(header.name.clone(), value_of(&header.value));
        }
        let without_injected = |names: &[HeaderName]| -> Vec<HeaderName> {
            names
                .iter()
                .filter(|name| !injected.contains_key(*name))
                .cloned()
                .collect()
        };
        let vary = without_injected(vary);
        let forwardable = [without_injected(&FORWARDABLE_HEADERS), vary.clone()].concat();
        Self {
            injected,
            forwardable,
            vary,
        }
    }

    /// Adds the Host header that HTTP/1.1 requires.
    #[must_use]
    pub fn with_host(mut self, host: &HeaderValue) -> Self {
        self.injected.insert(HOST, host.clone());
        self
    }

    /// Returns the headers of a fetch for a client that sent `client`.
    pub fn fetch_headers(&self, client: &HeaderMap) -> HeaderMap {
        self.merge(&self.select_forwardable(client))
    }

    /// Returns the headers of `client` that go up with a fetch.
    pub fn select_forwardable(&self, client: &HeaderMap) -> HeaderMap {
        let mut selected = HeaderMap::new();
        for (name, value) in client {
            if self.forwardable.contains(name) && !is_nominated(client, name) {
                selected.append(name.clone(), value.clone());
            }
        }
        selected
    }

    /// Returns the headers of a fetch, from the result of [`HeaderPolicy::select_forwardable`].
    pub fn merge(&self, selected: &HeaderMap) -> HeaderMap {
        let mut headers = self.injected.clone();
        for (name, value) in selected {
            headers.append(name.clone(), value.clone());
        }
        headers
    }

    /// Returns the headers of a forwarded request: the client's forwardable ones and the injected ones. An
    /// injected header replaces the client's, except that the client's `Accept` and `OpenAI-Beta` win.
    pub fn forward_headers(&self, client: &HeaderMap) -> HeaderMap {
        let mut headers = self.injected.clone();
        // `Accept-Encoding` stays injected, because an encoded body could not be searched for secrets.
        headers.remove(ACCEPT);
        if client.contains_key(OPENAI_BETA) && !is_nominated(client, &OPENAI_BETA) {
            headers.remove(OPENAI_BETA);
        }
        for (name, value) in client {
            let is_replaced =
                self.injected.contains_key(name) && name != ACCEPT && name != OPENAI_BETA;
            if !is_replaced && is_forwardable(name) && !is_nominated(client, name) {
                headers.append(name.clone(), value.clone());
            }
        }
        headers
    }

    /// Reports whether `vary_headers` names any header that is not injected.
    pub fn has_vary_headers(&self) -> bool {
        !self.vary.is_empty()
    }

    /// Returns the headers of `client` that belong to the coalescing key. They are exactly the ones that go
    /// up, in the order of the configuration.
    pub fn vary_headers<'a>(
        &'a self,
        client: &'a HeaderMap,
    ) -> impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)> {
        self.vary
            .iter()
            .filter(|name| client.contains_key(*name) && !is_nominated(client, name))
            .flat_map(|name| client.get_all(name).iter().map(move |value| (name, value)))
    }
}

fn value_of(value: &Value) -> HeaderValue {
    match value {
        Value::Literal(value) => value.clone(),
        Value::Secret(secret) => {
            let mut value = HeaderValue::from_str(secret.expose())
                .expect("validated: a secret that becomes a header has no control characters");
            // A sensitive value is kept out of HPACK's table and of `Debug`.
            value.set_sensitive(true);
            value
        }
    }
}

/// Removes response headers that a client must not get: hop-by-hop and session headers, headers that
/// `Connection` nominates, and headers that echo an injected secret.
pub fn filter_response_headers(headers: &mut HeaderMap, scanner: &SecretScanner) {
    let mut removed = SmallVec::<[HeaderName; 4]>::new();
    let mut has_echo = false;
    for (name, value) in &*headers {
        let is_echo =
            scanner.finds_in(value.as_bytes()) || scanner.finds_in_header_name(name.as_str());
        has_echo |= is_echo;
        if is_echo || HOP_BY_HOP.contains(name) || SESSION.contains(name) {
            removed.push(name.clone());
        }
        // RFC 9112 section 6.3: a transfer coding overrides the length.
        if name == TRANSFER_ENCODING {
            removed.push(CONTENT_LENGTH);
        }
    }
    if headers.contains_key(CONNECTION) {
        let names = nominated(headers).filter_map(|name| HeaderName::from_bytes(name).ok());
        removed.extend(names);
    }
    for name in &removed {
        headers.remove(name);
    }
    if has_echo {
        // The log omits the header's name, because the name itself may contain the secret.
        tracing::warn!("dropped response headers that echo an injected secret");
    }
}

/// Returns the header names that `Connection` lists.
fn nominated(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
}

fn is_nominated(headers: &HeaderMap, name: &HeaderName) -> bool {
    nominated(headers).any(|found| found.eq_ignore_ascii_case(name.as_str().as_bytes()))
}

/// Returns the tokens in `Authorization: Bearer …` and in `x-portkey-api-key`.
pub(crate) fn presented_tokens(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let bearer = headers.get_all(AUTHORIZATION).iter().filter_map(|value| {
        let (scheme, token) = value.as_bytes().split_at_checked(7)?;
        scheme
            .eq_ignore_ascii_case(b"bearer ")
            .then(|| token.trim_ascii())
    });
    let keys = headers.get_all("x-portkey-api-key").iter();
    bearer.chain(keys.map(|value| value.as_bytes().trim_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Secret, SecretSource};

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)))
            .collect()
    }

    fn policy(vary: &[HeaderName]) -> HeaderPolicy {
        let secret = Secret::new(SecretSource::Env("K".into()), "injected").unwrap();
        let header = Header {
            name: HeaderName::from_static("x-portkey-api-key"),
            value: Value::Secret(secret),
        };
        HeaderPolicy::new([&header], vary)
    }

    #[test]
    fn only_forwardable_client_headers_go_up() {
        let client = map(&[
            ("authorization", "Bearer mine"),
            ("x-portkey-api-key", "mine"),
            ("x-portkey-custom-host", "http://evil"),
            ("cookie", "a=b"),
            ("accept", "text/html"),
            ("accept-encoding", "gzip"),
            ("range", "bytes=0-1"),
            ("if-none-match", "\"x\""),
            ("forwarded", "host=evil"),
            ("x-forwarded-host", "evil"),
            ("keep-alive", "timeout=5"),
            ("content-type", "application/json"),
            ("user-agent", "sdk/1"),
            ("traceparent", "00-1-2-03"),
            ("x-request-id", "mine"),
        ]);
        let up = policy(&[]).fetch_headers(&client);
        let mut names: Vec<_> = up
            .iter()
            .map(|(n, v)| (n.as_str(), v.to_str().unwrap()))
            .collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                ("accept", "application/json"),
                ("accept-encoding", "identity"),
                ("traceparent", "00-1-2-03"),
                ("user-agent", "sdk/1"),
                ("x-portkey-api-key", "injected"),
                ("x-request-id", "mine"),
            ]
        );
        assert!(up["x-portkey-api-key"].is_sensitive());
    }

    #[test]
    fn connection_nominates_client_headers_and_never_injected_ones() {
        let client = map(&[
            ("connection", "close, X-Portkey-Api-Key,user-agent , accept"),
            ("user-agent", "sdk/1"),
        ]);
        let up = policy(&[]).fetch_headers(&client);
        assert_eq!(up["x-portkey-api-key"], "injected");
        assert!(up.contains_key("accept") && !up.contains_key("user-agent"));
    }

    #[test]
    fn vary_headers_go_up() {
        let up = policy(&[HeaderName::from_static("x-tenant")])
            .fetch_headers(&map(&[("x-tenant", "a")]));
        assert_eq!(up["x-tenant"], "a");
    }

    #[test]
    fn key_contains_the_vary_headers_that_go_up() {
        let policy = policy(&[HeaderName::from_static("x-tenant")]);
        for client in [
            map(&[("x-tenant", "a"), ("user-agent", "sdk/1")]),
            map(&[("x-tenant", "a"), ("connection", "x-tenant")]),
        ] {
            let keyed: Vec<_> = policy
                .vary_headers(&client)
                .map(|(_, value)| value.clone())
                .collect();
            let up = policy.fetch_headers(&client);
            assert_eq!(
                keyed,
                up.get_all("x-tenant").iter().cloned().collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn response_headers_are_filtered() {
        let mut headers = map(&[
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("x-canary-secret-1", "1"),
            ("content-length", "5"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("set-cookie", "a=b"),
            ("upgrade", "h2c"),
            ("location", "https://x/?key=canary-secret-1"),
            ("retry-after", "3"),
            ("x-request-id", "req_1"),
        ]);
        filter_response_headers(&mut headers, &SecretScanner::new(["canary-secret-1"]));
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["retry-after", "x-request-id"]);
    }

    #[test]
    fn tokens_are_presented_as_bearer_or_portkey_key() {
        let headers = map(&[("authorization", "bearer  a "), ("x-portkey-api-key", "b")]);
        assert_eq!(presented_tokens(&headers).collect::<Vec<_>>(), [b"a", b"b"]);
        let basic = map(&[("authorization", "Basic x"), ("cookie", "a")]);
        assert_eq!(presented_tokens(&basic).count(), 0);
    }
}
