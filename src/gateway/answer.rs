//! Answers: from memory, from upstream, `304`, and bare JSON.

use std::fmt::Write;

use bytes::Bytes;
use hyper::header::{
    AGE, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue,
};
use hyper::{Method, Response, StatusCode};
use tokio::time::Instant;

use super::outcome::Forward;
use crate::cache::{Entry, etag_of};
use crate::step::{NotStored, none_match};
use crate::upstream::{Body, Gathered};

/// An answer on its way to the caller.
pub type Answer = Response<Body>;

/// RFC 9211.
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
/// A final body is for this caller, and every use of it is to be asked for: stepgate is the cache.
const FINAL: HeaderValue = HeaderValue::from_static("private, no-cache");
const LIVE: HeaderValue = HeaderValue::from_static("no-store");

/// The caller's method and headers, as far as they shape an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) method: &'a Method,
    pub(super) headers: &'a HeaderMap,
}

/// A stored body.
pub(super) fn hit(entry: &Entry, asked: Asked<'_>, now: Instant) -> Answer {
    let mut answer = Response::new(Body::Full(entry.body().clone()));
    let headers = answer.headers_mut();
    if let Some(content_type) = entry.content_type() {
        headers.insert(CONTENT_TYPE, content_type.clone());
    }
    headers.insert(AGE, HeaderValue::from(entry.age(now).as_secs()));
    headers.insert(ETAG, entry.etag().clone());
    headers.insert(CACHE_CONTROL, FINAL);
    let status = format!("stepgate; hit; ttl={}", entry.rest(now).as_secs());
    headers.insert(CACHE_STATUS, header_value(&status));
    conclude(answer, asked)
}

/// What a fetch brought, its headers cleaned.
pub(super) fn fetched(
    status: StatusCode,
    mut headers: HeaderMap,
    body: Gathered,
    forward: Forward,
    stored: Result<(), NotStored>,
    asked: Asked<'_>,
) -> Answer {
    let body = match body {
        Gathered::Whole(bytes) => {
            if status == StatusCode::OK {
                headers.insert(ETAG, etag_of(&bytes));
            }
            Body::Full(bytes)
        }
        Gathered::Larger(passage) => Body::Passing(passage),
    };
    headers.insert(CACHE_CONTROL, if stored.is_ok() { FINAL } else { LIVE });
    let mut said = format!(
        "stepgate; fwd={}; fwd-status={}",
        forward.as_str(),
        status.as_u16()
    );
    let said = match stored {
        Ok(()) => said + "; stored",
        Err(reason) => {
            // Writing to a String cannot fail.
            let _ = write!(said, "; detail={}", reason.as_str());
            said
        }
    };
    // Behind the upstream's own members: the last one is the closest to the caller.
    headers.append(CACHE_STATUS, header_value(&said));
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    conclude(answer, asked)
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
    let known = answer.status() == StatusCode::OK
        && answer
            .headers()
            .get(ETAG)
            .and_then(|etag| etag.to_str().ok())
            .is_some_and(|etag| none_match(asked.headers, etag));
    if known && matches!(answer.body(), Body::Full(_)) {
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        *answer.body_mut() = Body::Empty;
        // RFC 9110 section 15.4.5: nothing that describes the bytes that are not sent.
        for name in [CONTENT_LENGTH, CONTENT_TYPE] {
            answer.headers_mut().remove(name);
        }
    }
    finish(answer, asked.method)
}

/// Says the length, and leaves the body out for HEAD (hyper's HTTP/2 server would send it).
pub(super) fn finish(mut answer: Answer, method: &Method) -> Answer {
    let status = answer.status();
    let bodiless = status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    if let Body::Full(bytes) = answer.body()
        && !bodiless
    {
        let length = HeaderValue::from(bytes.len());
        answer.headers_mut().insert(CONTENT_LENGTH, length);
    }
    if method == Method::HEAD || bodiless {
        *answer.body_mut() = Body::Empty;
    }
    answer
}

fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("words and numbers are a valid header value")
}
