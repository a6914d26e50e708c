//! Responses: from memory, from a fetch, and 304.

use std::cell::RefCell;
use std::sync::Arc;

use hyper::header::{
    AGE, CACHE_CONTROL, CACHE_STATUS, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue,
    RETRY_AFTER, VARY,
};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};
use tokio::time::Instant;

use super::fetched_response::{FetchedResponse, StreamingResponse};
use super::request::{FwdReason, RequestHeaders};
use crate::cache::CacheHit;
use crate::policy::NoStoreReason;
use crate::upstream::Body;

/// `Cache-Control` of a stored body: stepgate is the only cache, so others must ask again each time.
const FINAL: HeaderValue = HeaderValue::from_static("private, no-cache");
const LIVE: HeaderValue = HeaderValue::from_static("no-store");

/// The last header values of a connection. They hold numbers that change once a second, so the next
/// response can usually repeat them.
#[derive(Debug)]
pub(super) struct HeaderCache {
    age: NumberedValue,
    cache_status: NumberedValue,
}

impl Default for HeaderCache {
    fn default() -> Self {
        Self {
            age: NumberedValue::new(""),
            cache_status: NumberedValue::new("stepgate; hit; ttl="),
        }
    }
}

/// A header value that consists of a fixed text and a number.
#[derive(Debug)]
struct NumberedValue {
    text: &'static str,
    last: Option<(u64, HeaderValue)>,
}

impl NumberedValue {
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

/// A stored response, for a request.
pub(super) struct CachedResponse {
    hit: CacheHit,
    /// Whether `If-None-Match` says that the client has the body.
    not_modified: bool,
    /// Whether it comes from the shared tier.
    shared: bool,
}

impl CachedResponse {
    pub(super) fn new(hit: CacheHit, headers: &RequestHeaders<'_>, shared: bool) -> Self {
        let not_modified = headers.matches(hit.etag());
        Self {
            hit,
            not_modified,
            shared,
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        if self.not_modified {
            StatusCode::NOT_MODIFIED
        } else {
            StatusCode::OK
        }
    }

    /// Returns the response to `head`. It reuses the request's header map, which has the room.
    pub(super) fn into_response(self, head: Parts, values: &mut HeaderCache) -> Response<Body> {
        let status = self.status();
        let (age, ttl) = (self.hit.age().as_secs(), self.hit.remaining_ttl().as_secs());
        let stored = self.hit.into_response();
        let mut headers = head.headers;
        headers.clear();
        let body = match head.method {
            // RFC 9110 section 15.4.5: a 304 describes no bytes.
            _ if self.not_modified => Body::Empty,
            Method::HEAD => {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(stored.body.len()));
                Body::Empty
            }
            // hyper adds the length.
            _ => Body::Full(stored.body),
        };
        if let Some(content_type) = stored.content_type.filter(|_| !self.not_modified) {
            headers.insert(CONTENT_TYPE, content_type);
        }
        headers.insert(AGE, values.age.with(age));
        headers.insert(ETAG, stored.etag);
        headers.insert(CACHE_CONTROL, FINAL);
        let cache_status = if self.shared {
            header_value(format!("stepgate; hit; ttl={ttl}; detail=shared"))
        } else {
            values.cache_status.with(ttl)
        };
        headers.insert(CACHE_STATUS, cache_status);
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}

/// Returns the response of a fetch. `collapsed` says that another request started the fetch.
pub(super) fn from_fetch(
    fetched: Arc<FetchedResponse>,
    fwd_reason: FwdReason,
    collapsed: bool,
    head: &Parts,
) -> Response<Body> {
    let (status, stored) = (fetched.status, fetched.stored);
    // The last owner takes the parts; the others clone them.
    let (mut headers, body, etag) = match Arc::try_unwrap(fetched) {
        Ok(fetched) => (fetched.headers, fetched.body, fetched.etag),
        Err(shared) => (
            shared.headers.clone(),
            shared.body.clone(),
            shared.etag.clone(),
        ),
    };
    let known = etag
        .as_ref()
        .is_some_and(|etag| RequestHeaders::of(&head.headers).matches(etag.as_bytes()));
    if let Some(etag) = etag {
        headers.insert(ETAG, etag);
    }
    headers.insert(CACHE_CONTROL, if stored.is_ok() { FINAL } else { LIVE });
    append_cache_status(&mut headers, fwd_reason, status, stored, collapsed);
    let mut response = Response::new(Body::Full(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    if known && status == StatusCode::OK {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        // RFC 9110 section 15.4.5: a 304 describes no bytes.
        for name in [CONTENT_LENGTH, CONTENT_TYPE] {
            response.headers_mut().remove(name);
        }
    }
    finish(response, &head.method)
}

/// Returns a response that streams, because its body is too large to buffer.
pub(super) fn streaming(
    fetched: StreamingResponse,
    fwd_reason: FwdReason,
    head: &Parts,
) -> Response<Body> {
    let (status, length) = (fetched.status, fetched.body.content_length());
    let mut headers = fetched.headers;
    // The framing decides the length, whatever a header says.
    headers.remove(CONTENT_LENGTH);
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    headers.insert(CACHE_CONTROL, LIVE);
    let stored = Err(fetched.not_stored);
    append_cache_status(&mut headers, fwd_reason, status, stored, false);
    let mut response = Response::new(Body::Streaming(fetched.body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    finish(response, &head.method)
}

/// Returns the 429 that the upstream sent to another request, with the seconds until `until`.
pub(super) fn rate_limited(
    fetched: &FetchedResponse,
    until: Instant,
    head: &Parts,
) -> Response<Body> {
    let mut headers = fetched.headers.clone();
    for name in ["x-request-id", "retry-after-ms"] {
        headers.remove(name);
    }
    // Rounded up, so that a client that waits so long does not come too early.
    let left = until.saturating_duration_since(Instant::now());
    let seconds = left.as_secs_f64().ceil().max(1.0);
    headers.insert(RETRY_AFTER, header_value(seconds.to_string()));
    headers.insert(CACHE_CONTROL, LIVE);
    let cache_status = HeaderValue::from_static("stepgate; detail=rate_limited");
    headers.append(CACHE_STATUS, cache_status);
    let mut response = Response::new(Body::Full(fetched.body.clone()));
    *response.status_mut() = fetched.status;
    *response.headers_mut() = headers;
    finish(response, &head.method)
}

/// Adds the headers of a response for which the request waited (RFC 7240).
pub(super) fn add_preference_applied(headers: &mut HeaderMap, seconds: u64) {
    let applied = header_value(format!("wait={seconds}"));
    headers.insert("preference-applied", applied);
    headers.append(VARY, HeaderValue::from_static("Prefer"));
}

/// Adds the `Cache-Status` of a forwarded request (RFC 9211 section 2.2).
pub(super) fn add_bypass_status(headers: &mut HeaderMap, status: StatusCode) {
    let value = format!("stepgate; fwd=bypass; fwd-status={}", status.as_str());
    headers.append(CACHE_STATUS, header_value(value));
}

type FetchStatus = (FwdReason, StatusCode, Result<(), NoStoreReason>, bool);

thread_local! {
    /// The last `Cache-Status` of a fetch: most fetches have the same.
    static LAST_STATUS: RefCell<Option<(FetchStatus, HeaderValue)>> = const { RefCell::new(None) };
}

/// Appends the gateway's `Cache-Status` to the upstream's own. The last member is the cache that is
/// closest to the client.
fn append_cache_status(
    headers: &mut HeaderMap,
    fwd_reason: FwdReason,
    status: StatusCode,
    stored: Result<(), NoStoreReason>,
    collapsed: bool,
) {
    let key = (fwd_reason, status, stored, collapsed);
    let value = LAST_STATUS.with_borrow_mut(|last| match last {
        Some((same, value)) if *same == key => value.clone(),
        _ => {
            let parts = [
                "stepgate; fwd=",
                fwd_reason.as_str(),
                "; fwd-status=",
                status.as_str(),
                if stored.is_ok() { "; stored" } else { "" },
                if collapsed { "; collapsed" } else { "" },
                if stored.is_err() { "; detail=" } else { "" },
                stored.err().map_or("", NoStoreReason::as_str),
            ];
            last.insert((key, header_value(parts.concat()))).1.clone()
        }
    });
    headers.append(CACHE_STATUS, value);
}

/// Removes the body of a response to HEAD and states its length, because hyper's HTTP/2 server would send
/// the body. In every other response hyper states the length.
pub(super) fn finish(mut response: Response<Body>, method: &Method) -> Response<Body> {
    let status = response.status();
    let bodiless = status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    if let Body::Full(bytes) = response.body()
        && !bodiless
    {
        let length = HeaderValue::from(bytes.len());
        if method == Method::HEAD {
            response.headers_mut().insert(CONTENT_LENGTH, length);
        } else {
            response.headers_mut().remove(CONTENT_LENGTH);
        }
    }
    if method == Method::HEAD || bodiless {
        *response.body_mut() = Body::Empty;
    }
    response
}

fn header_value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("words and numbers are a valid header value")
}
