//! Header hygiene: the one place that strips, and the one that injects.
//!
//! Upwards nothing passes but a short list; downwards everything passes but a short list. What
//! `Connection` names is dropped before anything else is decided, so that nobody can name an
//! injected header away.

use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, EXPECT, FORWARDED, HOST,
    HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};

use smallvec::SmallVec;

use super::secret_scanner::SecretScanner;
use crate::config::{Header, Value, is_credential};

/// What a caller may say to the upstream: who it is and which trace this belongs to.
pub const PASSED_UP: [HeaderName; 5] = [
    USER_AGENT,
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-portkey-trace-id"),
];

/// Hop by hop: RFC 9110 section 7.6.1, and the non-standard ones seen in the wild.
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

/// What would hand one caller's session to another.
const SESSION: [HeaderName; 2] = [SET_COOKIE, HeaderName::from_static("set-cookie2")];

/// Where clients say which generation of the API they were written for.
const BETA: HeaderName = HeaderName::from_static("openai-beta");

/// Whether a caller's header may go up with a forwarded request: not what is about its connection (hop
/// by hop, its framing, its wish for a `100`), about who it is and where from, about how it gets in,
/// nor what tells Portkey where to go on whose account.
fn may_go_on(name: &HeaderName) -> bool {
    const STAYS: [HeaderName; 7] = [
        HeaderName::from_static("http2-settings"),
        CONTENT_LENGTH,
        EXPECT,
        HOST,
        FORWARDED,
        HeaderName::from_static("x-real-ip"),
        HeaderName::from_static("cookie2"),
    ];
    /// It names a key, and is none.
    const IDEMPOTENCY: HeaderName = HeaderName::from_static("idempotency-key");
    let word = name.as_str();
    let chooses = word.starts_with("x-portkey-") || word.starts_with("x-forwarded-");
    if PASSED_UP.contains(name) || name == IDEMPOTENCY {
        return true;
    }
    !chooses && !HOP_BY_HOP.contains(name) && !STAYS.contains(name) && !is_credential(word)
}

/// The headers that a fetch is sent with, but for the caller's few.
#[derive(Debug, Clone)]
pub struct HeaderPolicy {
    base: HeaderMap,
    passed_up: Vec<HeaderName>,
    /// Those among them that may change the answer, and so are part of the key.
    forwarded: Vec<HeaderName>,
}

impl HeaderPolicy {
    /// Injects `headers`, and lets `forward` pass beside [`PASSED_UP`].
    pub fn new<'h>(headers: impl IntoIterator<Item = &'h Header>, forward: &[HeaderName]) -> Self {
        let mut base = HeaderMap::new();
        // Identity: a body that we cannot read can be neither judged nor replayed to everybody.
        base.insert(ACCEPT, HeaderValue::from_static("application/json"));
        base.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        for header in headers {
            base.insert(header.name.clone(), value_of(&header.value));
        }
        let free = |names: &[HeaderName]| -> Vec<HeaderName> {
            names
                .iter()
                .filter(|name| !base.contains_key(*name))
                .cloned()
                .collect()
        };
        let forwarded = free(forward);
        let passed_up = [free(&PASSED_UP), forwarded.clone()].concat();
        Self {
            base,
            passed_up,
            forwarded,
        }
    }

    /// The same with the Host header that HTTP/1.1 wants.
    pub fn to(mut self, host: &HeaderValue) -> Self {
        self.base.insert(HOST, host.clone());
        self
    }

    /// The headers of a fetch for a caller that sent `caller`.
    pub fn upward(&self, caller: &HeaderMap) -> HeaderMap {
        self.with(&self.passing(caller))
    }

    /// What of `caller` goes up.
    pub fn passing(&self, caller: &HeaderMap) -> HeaderMap {
        let mut passing = HeaderMap::new();
        for (name, value) in caller {
            if self.passed_up.contains(name) && !is_nominated(caller, name) {
                passing.append(name.clone(), value.clone());
            }
        }
        passing
    }

    /// The headers of a fetch, with what of its caller's is [`HeaderPolicy::passing`].
    pub fn with(&self, passing: &HeaderMap) -> HeaderMap {
        let mut headers = self.base.clone();
        for (name, value) in passing {
            headers.append(name.clone(), value.clone());
        }
        headers
    }

    /// The headers of a forwarded request: all of the caller's, without what belongs to its connection,
    /// could spend another's credentials or choose another destination; and what is injected in place
    /// of the caller's own. A caller may ask for another beta of the API than the configuration does.
    pub fn around(&self, caller: &HeaderMap) -> HeaderMap {
        let mut headers = self.base.clone();
        // What the caller asks for; the encoding stays ours, else no echo of a secret could be found.
        headers.remove(ACCEPT);
        if caller.contains_key(BETA) && !is_nominated(caller, &BETA) {
            headers.remove(BETA);
        }
        for (name, value) in caller {
            let replaced = self.base.contains_key(name) && name != ACCEPT && name != BETA;
            if !replaced && may_go_on(name) && !is_nominated(caller, name) {
                headers.append(name.clone(), value.clone());
            }
        }
        headers
    }

    /// Whether headers of callers go up that may change the answer.
    pub fn forwards(&self) -> bool {
        !self.forwarded.is_empty()
    }

    /// What of it may change the answer: the same selection, so that the key is what goes up.
    pub fn keyed<'a>(
        &'a self,
        caller: &'a HeaderMap,
    ) -> impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)> {
        // In this order, whatever the caller's.
        self.forwarded
            .iter()
            .filter(|name| caller.contains_key(*name) && !is_nominated(caller, name))
            .flat_map(|name| caller.get_all(name).iter().map(move |value| (name, value)))
    }
}

fn value_of(value: &Value) -> HeaderValue {
    match value {
        Value::Literal(value) => value.clone(),
        Value::Secret(secret) => {
            let mut value = HeaderValue::from_str(secret.expose())
                .expect("validated: a secret that becomes a header has no control characters");
            // Kept out of HPACK's table and of every Debug.
            value.set_sensitive(true);
            value
        }
    }
}

/// Removes from an upstream's answer what belongs to its connection, to another caller, or to us.
pub fn clean_answer(headers: &mut HeaderMap, redactor: &SecretScanner) {
    let mut unfit = SmallVec::<[HeaderName; 4]>::new();
    let mut echoes = false;
    for (name, value) in &*headers {
        let echo = redactor.finds_in(value.as_bytes()) || redactor.finds_in_name(name.as_str());
        echoes |= echo;
        if echo || HOP_BY_HOP.contains(name) || SESSION.contains(name) {
            unfit.push(name.clone());
        }
        // RFC 9112 section 6.3: beside a transfer coding a length says nothing.
        if name == TRANSFER_ENCODING {
            unfit.push(CONTENT_LENGTH);
        }
    }
    if headers.contains_key(CONNECTION) {
        let named = nominated(headers).filter_map(|name| HeaderName::from_bytes(name).ok());
        unfit.extend(named);
    }
    for name in &unfit {
        headers.remove(name);
    }
    if echoes {
        // Not which: the name itself may hold it.
        tracing::warn!("dropped response headers that echo an injected secret");
    }
}

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

/// The token of `Authorization: Bearer …` or of `x-portkey-api-key`: both, where both are there.
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

    fn injection(forward: &[HeaderName]) -> HeaderPolicy {
        let secret = Secret::new(SecretSource::Env("K".into()), "injected").unwrap();
        let header = Header {
            name: HeaderName::from_static("x-portkey-api-key"),
            value: Value::Secret(secret),
        };
        HeaderPolicy::new([&header], forward)
    }

    #[test]
    fn nothing_of_a_caller_passes_up_but_the_list() {
        let caller = map(&[
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
        let up = injection(&[]).upward(&caller);
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
    fn connection_names_away_the_callers_headers_and_never_ours() {
        let caller = map(&[
            ("connection", "close, X-Portkey-Api-Key,user-agent , accept"),
            ("user-agent", "sdk/1"),
        ]);
        let up = injection(&[]).upward(&caller);
        assert_eq!(up["x-portkey-api-key"], "injected");
        assert!(up.contains_key("accept") && !up.contains_key("user-agent"));
    }

    #[test]
    fn forwarded_headers_pass_beside_the_list() {
        let up =
            injection(&[HeaderName::from_static("x-tenant")]).upward(&map(&[("x-tenant", "a")]));
        assert_eq!(up["x-tenant"], "a");
    }

    #[test]
    fn what_is_keyed_is_what_goes_up() {
        let injection = injection(&[HeaderName::from_static("x-tenant")]);
        for caller in [
            map(&[("x-tenant", "a"), ("user-agent", "sdk/1")]),
            map(&[("x-tenant", "a"), ("connection", "x-tenant")]),
        ] {
            let keyed: Vec<_> = injection
                .keyed(&caller)
                .map(|(_, value)| value.clone())
                .collect();
            let up = injection.upward(&caller);
            assert_eq!(
                keyed,
                up.get_all("x-tenant").iter().cloned().collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn an_answer_keeps_what_is_its_own() {
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
        clean_answer(&mut headers, &SecretScanner::new(["canary-secret-1"]));
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["retry-after", "x-request-id"]);
    }

    #[test]
    fn tokens_come_as_bearer_or_as_portkeys_key() {
        let headers = map(&[("authorization", "bearer  a "), ("x-portkey-api-key", "b")]);
        assert_eq!(presented_tokens(&headers).collect::<Vec<_>>(), [b"a", b"b"]);
        let basic = map(&[("authorization", "Basic x"), ("cookie", "a")]);
        assert_eq!(presented_tokens(&basic).count(), 0);
    }
}
