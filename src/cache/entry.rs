//! A stored body with what a hit needs to replay it.

use std::time::Duration;

use bytes::Bytes;
use hyper::header::HeaderValue;
use tokio::time::Instant;
use twox_hash::XxHash3_128;

/// 32 hexadecimal digits between quotes.
const ETAG_LEN: usize = 34;

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

/// A strong entity tag (RFC 9110 section 8.8.3): the 128-bit XXH3 of the bytes, without a seed, in the
/// canonical form of its specification (xxHash's `doc/xxhash_spec.md`, version 0.2.0), in hexadecimal.
/// The specification fixes it, so the tag is the same on every gateway and in every version. It is no
/// defence against whoever makes the bytes, and need not be: that is the upstream, which is believed.
pub fn etag_of(body: &[u8]) -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'"'; ETAG_LEN];
    let hash = XxHash3_128::oneshot(body).to_be_bytes();
    for (byte, digits) in hash.iter().zip(text[1..].chunks_exact_mut(2)) {
        digits[0] = DIGITS[usize::from(byte >> 4)];
        digits[1] = DIGITS[usize::from(byte & 15)];
    }
    HeaderValue::from_bytes(&text).expect("quotes and hexadecimal digits are a valid header value")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes that the xxHash reference implementation's own check hashes.
    fn reference(len: usize) -> Vec<u8> {
        let grow = |n: &u64| Some(n.wrapping_mul(11_400_714_785_074_694_797));
        std::iter::successors(Some(2_654_435_761), grow)
            .map(|n: u64| n.to_be_bytes()[0])
            .take(len)
            .collect()
    }

    #[test]
    fn an_etag_is_the_xxh3_of_the_bytes_as_the_reference_has_it() {
        // The specification has three ways: up to 16 bytes, up to 240, and more.
        for (len, tag) in [
            (0, "\"99aa06d3014798d86001c324468d497f\""),
            (6, "\"082afe0b8162d12a3e7039bdda43cfc6\""),
            (81, "\"4952f58181ab00425e8bafb9f95fb803\""),
            (222, "\"337e09641b948717f1aebd597cec6b3a\""),
            (403, "\"1b6de21e332dd73dcdeb804d65c6dea4\""),
            (2367, "\"e89c0f6ff369b427cb37aeb9e5d361ed\""),
        ] {
            assert_eq!(etag_of(&reference(len)), tag, "{len} bytes");
        }
    }
}
