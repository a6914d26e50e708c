//! Answers: from memory, from a fetch, `304`, and bare JSON.

use std::cell::RefCell;
use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{
    AGE, CACHE_CONTROL, CACHE_STATUS, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue,
    RETRY_AFTER, VARY,
};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};
use tokio::time::Instant;

use super::heading::RequestHeaders;
use super::news::{Arrived, Larger};
use super::outcome::Forward;
use crate::cache::CacheHit;
use crate::policy::NoStoreReason;
use crate::upstream::Body;

/// An answer on its way to the caller.
pub type Answer = Response<Body>;

/// A final body is for this caller, and every use of it is to be asked for: stepgate is the cache.
const FINAL: HeaderValue = HeaderValue::from_static("private, no-cache");
const LIVE: HeaderValue = HeaderValue::from_static("no-store");

/// The caller's method and headers, as far as they shape an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) method: &'a Method,
    pub(super) headers: &'a HeaderMap,
}

/// What was said last on a connection, where the next answer mostly says the same: numbers that
/// change once a second.
#[derive(Debug)]
pub(super) struct Said {
    age: Counted,
    hit: Counted,
}

impl Default for Said {
    fn default() -> Self {
        Self {
            age: Counted::new(""),
            hit: Counted::new("stepgate; hit; ttl="),
        }
    }
}

/// A number behind a text.
#[derive(Debug)]
struct Counted {
    text: &'static str,
    last: Option<(u64, HeaderValue)>,
}

impl Counted {
    fn new(text: &'static str) -> Self {
        Self { text, last: None }
    }

    fn with(&mut self, number: u64) -> HeaderValue {
        match &self.last {
            Some((last, value)) if *last == number => value.clone(),
            _ => {
                let value = header_value(format!("{}{number}", self.text));
                self.last = Some((number, value.clone()));
                value
            }
        }
    }
}

/// A stored body, for somebody who asks for it.
pub(super) struct Hit {
    found: CacheHit,
    /// The caller has these bytes already.
    is_known: bool,
    /// Another gateway had fetched it.
    is_shared: bool,
}

impl Hit {
    pub(super) fn new(found: CacheHit, heading: &RequestHeaders<'_>) -> Self {
        let is_known = heading.knows(found.etag());
        Self {
            found,
            is_known,
            is_shared: false,
        }
    }

    pub(super) fn shared(found: CacheHit, heading: &RequestHeaders<'_>) -> Self {
        Self {
            is_shared: true,
            ..Self::new(found, heading)
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        if self.is_known {
            StatusCode::NOT_MODIFIED
        } else {
            StatusCode::OK
        }
    }

    /// The answer takes over the request's map of headers: it has the room.
    pub(super) fn answer(self, head: Parts, said: &mut Said) -> Answer {
        let status = self.status();
        let (age, left) = (self.found.age(), self.found.remaining_ttl());
        let replay = self.found.into_response();
        let mut headers = head.headers;
        headers.clear();
        let body = match head.method {
            // RFC 9110 section 15.4.5: nothing that describes the bytes that are not sent.
            _ if self.is_known => Body::Empty,
            Method::HEAD => {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(replay.body.len()));
                Body::Empty
            }
            // hyper says its length.
            _ => Body::Full(replay.body),
        };
        if let Some(content_type) = replay.content_type.filter(|_| !self.is_known) {
            headers.insert(CONTENT_TYPE, content_type);
        }
        headers.insert(AGE, said.age.with(age.as_secs()));
        headers.insert(ETAG, replay.etag);
        headers.insert(CACHE_CONTROL, FINAL);
        let hit = if self.is_shared {
            header_value(format!(
                "stepgate; hit; ttl={}; detail=shared",
                left.as_secs()
            ))
        } else {
            said.hit.with(left.as_secs())
        };
        headers.insert(CACHE_STATUS, hit);
        let mut answer = Response::new(body);
        *answer.status_mut() = status;
        *answer.headers_mut() = headers;
        answer
    }
}

/// What a fetch brought; `collapsed`: it was another request's fetch.
pub(super) fn arrived(
    arrived: Arc<Arrived>,
    forward: Forward,
    collapsed: bool,
    asked: Asked<'_>,
) -> Answer {
    let (status, stored) = (arrived.status, arrived.stored);
    // Whoever rode alone need not leave it to others.
    let (mut headers, body, etag) = match Arc::try_unwrap(arrived) {
        Ok(alone) => (alone.headers, alone.body, alone.etag),
        Err(shared) => (
            shared.headers.clone(),
            shared.body.clone(),
            shared.etag.clone(),
        ),
    };
    if let Some(etag) = etag {
        headers.insert(ETAG, etag);
    }
    headers.insert(CACHE_CONTROL, if stored.is_ok() { FINAL } else { LIVE });
    say_forwarded(&mut headers, forward, status, stored, collapsed);
    let mut answer = Response::new(Body::Full(body));
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    conclude(answer, asked)
}

/// What is too large to be held.
pub(super) fn larger(larger: Larger, forward: Forward, asked: Asked<'_>) -> Answer {
    let length = larger.passage.content_length();
    let mut answer = Response::new(Body::Streaming(larger.passage));
    *answer.status_mut() = larger.status;
    *answer.headers_mut() = larger.headers;
    // What the framing says, whatever a header said.
    answer.headers_mut().remove(CONTENT_LENGTH);
    if let Some(length) = length {
        answer
            .headers_mut()
            .insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    answer.headers_mut().insert(CACHE_CONTROL, LIVE);
    say_forwarded(
        answer.headers_mut(),
        forward,
        larger.status,
        Err(larger.stored),
        false,
    );
    finish(answer, asked.method)
}

/// What the upstream said to somebody else, with what is left of its time.
pub(super) fn held(said: &Arrived, until: Instant, asked: Asked<'_>) -> Answer {
    let mut answer = Response::new(Body::Full(said.body.clone()));
    *answer.status_mut() = said.status;
    *answer.headers_mut() = said.headers.clone();
    let headers = answer.headers_mut();
    for name in ["x-request-id", "retry-after-ms"] {
        headers.remove(name);
    }
    // Rounded up: whoever comes back then is not too early.
    let left = until
        .saturating_duration_since(Instant::now())
        .as_secs_f64()
        .ceil();
    headers.insert(RETRY_AFTER, header_value(left.max(1.0).to_string()));
    headers.insert(CACHE_CONTROL, LIVE);
    headers.append(
        CACHE_STATUS,
        HeaderValue::from_static("stepgate; detail=rate_limited"),
    );
    finish(answer, asked.method)
}

/// Says that a request was held for its `wait` preference, of so many seconds (RFC 7240).
pub(super) fn say_waited(answer: &mut Answer, seconds: u64) {
    let applied = header_value(format!("wait={seconds}"));
    answer.headers_mut().insert("preference-applied", applied);
    answer
        .headers_mut()
        .append(VARY, HeaderValue::from_static("Prefer"));
}

/// Says that the cache had no part in it (RFC 9211 section 2.2).
pub(super) fn say_bypassed(headers: &mut HeaderMap, status: StatusCode) {
    let said = format!("stepgate; fwd=bypass; fwd-status={}", status.as_str());
    headers.append(CACHE_STATUS, header_value(said));
}

fn say_forwarded(
    headers: &mut HeaderMap,
    forward: Forward,
    status: StatusCode,
    stored: Result<(), NoStoreReason>,
    collapsed: bool,
) {
    // Behind the upstream's own members: the last one is the closest to the caller.
    let said = Forwarded(forward, status, stored, collapsed);
    headers.append(CACHE_STATUS, said.spelt());
}

/// How a fetch went, as `Cache-Status` says it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Forwarded(Forward, StatusCode, Result<(), NoStoreReason>, bool);

thread_local! {
    /// What was said last: most fetches go alike.
    static LAST: RefCell<Option<(Forwarded, HeaderValue)>> = const { RefCell::new(None) };
}

impl Forwarded {
    fn spelt(self) -> HeaderValue {
        LAST.with_borrow_mut(|last| match last {
            Some((same, value)) if *same == self => value.clone(),
            _ => last.insert((self, self.spell())).1.clone(),
        })
    }

    fn spell(self) -> HeaderValue {
        let Self(forward, status, stored, collapsed) = self;
        let parts = [
            "stepgate; fwd=",
            forward.as_str(),
            "; fwd-status=",
            status.as_str(),
            if stored.is_ok() { "; stored" } else { "" },
            if collapsed { "; collapsed" } else { "" },
            if stored.is_err() { "; detail=" } else { "" },
            stored.err().map_or("", NoStoreReason::as_str),
        ];
        header_value(parts.concat())
    }
}

/// A JSON text of the gateway's own.
pub(crate) fn json_answer(status: StatusCode, value: &serde_json::Value) -> Answer {
    let mut answer = Response::new(Body::Full(Bytes::from(value.to_string())));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// `304` where the caller has these bytes already, then [`finish`].
fn conclude(mut answer: Answer, asked: Asked<'_>) -> Answer {
    let knows = |etag: &HeaderValue| RequestHeaders::of(asked.headers).knows(etag.as_bytes());
    if answer.status() == StatusCode::OK && answer.headers().get(ETAG).is_some_and(knows) {
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        // RFC 9110 section 15.4.5: nothing that describes the bytes that are not sent.
        for name in [CONTENT_LENGTH, CONTENT_TYPE] {
            answer.headers_mut().remove(name);
        }
    }
    finish(answer, asked.method)
}

/// Leaves the body out for HEAD, and says its length there (hyper's HTTP/2 server would send it);
/// elsewhere hyper says what it sends.
pub(super) fn finish(mut answer: Answer, method: &Method) -> Answer {
    let status = answer.status();
    let bodiless = status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    if let Body::Full(bytes) = answer.body()
        && !bodiless
    {
        let length = bytes.len();
        if method == Method::HEAD {
            let length = HeaderValue::from(length);
            answer.headers_mut().insert(CONTENT_LENGTH, length);
        } else {
            answer.headers_mut().remove(CONTENT_LENGTH);
        }
    }
    if method == Method::HEAD || bodiless {
        *answer.body_mut() = Body::Empty;
    }
    answer
}

fn header_value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("words and numbers are a valid header value")
}
