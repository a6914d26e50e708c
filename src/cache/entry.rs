//! A stored body with what a hit needs to replay it.

use std::time::Duration;

use bytes::Bytes;
use hyper::header::HeaderValue;
use tokio::time::Instant;

/// One final body.
#[derive(Debug, Clone)]
pub struct Entry {
    body: Bytes,
    content_type: Option<HeaderValue>,
    etag: HeaderValue,
    /// The departure that brought it; 0 before it is stored.
    departed: u64,
    stored_at: Instant,
    expires_at: Instant,
}

impl Entry {
    /// Copies what it keeps: bodies and header values that hyper hands out are slices, and would keep
    /// the whole read buffer around them.
    pub fn new(body: &[u8], content_type: Option<&HeaderValue>) -> Self {
        let now = Instant::now();
        Self {
            etag: etag_of(body),
            body: Bytes::copy_from_slice(body),
            content_type: content_type.map(copied),
            departed: 0,
            stored_at: now,
            expires_at: now,
        }
    }

    pub(super) fn kept(mut self, departed: u64, now: Instant, ttl: Duration) -> Self {
        self.departed = departed;
        self.stored_at = now;
        self.expires_at = now + ttl;
        self
    }

    /// The bytes as the upstream sent them.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The upstream's `content-type`, the one header that a hit replays.
    pub fn content_type(&self) -> Option<&HeaderValue> {
        self.content_type.as_ref()
    }

    /// The strong validator of the bytes.
    pub fn etag(&self) -> &HeaderValue {
        &self.etag
    }

    /// How long it has been stored.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.stored_at)
    }

    /// How long it will be kept; zero once its time is over.
    pub fn rest(&self, now: Instant) -> Duration {
        self.expires_at.saturating_duration_since(now)
    }

    pub(super) fn departed(&self) -> u64 {
        self.departed
    }
}

fn copied(value: &HeaderValue) -> HeaderValue {
    const JSON: HeaderValue = HeaderValue::from_static("application/json");
    if value == JSON {
        return JSON;
    }
    HeaderValue::from_bytes(value.as_bytes()).expect("it was a header value already")
}

/// A strong entity tag (RFC 9110 section 8.8.3): half a BLAKE3 hash of the bytes, in hexadecimal,
/// the same on every gateway.
pub fn etag_of(body: &[u8]) -> HeaderValue {
    let hash = blake3::hash(body).to_hex();
    HeaderValue::from_str(&format!("\"{}\"", &hash[..32]))
        .expect("quotes and hexadecimal digits are a valid header value")
}
