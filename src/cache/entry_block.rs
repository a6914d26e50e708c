//! A stored body as one allocation.
//!
//! Bodies are small and many, so the bytes beside each of them count. A block holds, in this order: its
//! seq and times; four lengths; the entity tag; the spans of its primary key; the variant; the content
//! type; the parts of the key that the body does not contain; the body.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use hyper::header::HeaderValue;
use twox_hash::XxHash3_128;

use super::key_encoding::{self, EncodedKey};
use crate::policy::CacheKey;

/// The length of an entity tag: 32 hexadecimal digits between quotes.
const ETAG_LEN: usize = 34;

/// The size of what has a fixed offset: seq, times and lengths.
const HEAD: usize = 3 * 8 + 2 * 2 + 2 * 4;
const ETAG: Range<usize> = HEAD..HEAD + ETAG_LEN;

/// The content type of nearly all bodies. A block does not contain its text.
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Stands for the length of a content type that is [`JSON`].
const IS_JSON: u32 = u32::MAX;

/// Stands for the length of a content type if the upstream sent none.
const NONE: u32 = u32::MAX - 1;

/// A final body to be stored. It borrows, and storing copies: the bodies and header values that hyper
/// returns are slices that keep their whole read buffer alive.
#[derive(Debug)]
pub struct Entry<'a> {
    body: &'a [u8],
    content_type: Option<&'a HeaderValue>,
}

impl<'a> Entry<'a> {
    /// Creates an entry from a body and the upstream's `content-type`, the one header that a hit repeats.
    pub fn new(body: &'a [u8], content_type: Option<&'a HeaderValue>) -> Self {
        Self { body, content_type }
    }

    /// Returns the size of the body in bytes.
    pub(super) fn len(&self) -> usize {
        self.body.len()
    }
}

/// Returns the strong entity tag of a body (RFC 9110 section 8.8.3).
///
/// It is the 128-bit XXH3 of the bytes without a seed, in hexadecimal and in the canonical form of
/// xxHash's specification (`doc/xxhash_spec.md`, version 0.2.0). So the tag is the same on every gateway
/// and in every version. XXH3 is no cryptographic hash: only the upstream, which is trusted, chooses the
/// bytes.
pub fn etag_of(body: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(&etag_text(body))
        .expect("quotes and hexadecimal digits are a valid header value")
}

fn etag_text(body: &[u8]) -> [u8; ETAG_LEN] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'"'; ETAG_LEN];
    let hash = XxHash3_128::oneshot(body).to_be_bytes();
    for (byte, digits) in hash.iter().zip(text[1..].chunks_exact_mut(2)) {
        digits[0] = DIGITS[usize::from(byte >> 4)];
        digits[1] = DIGITS[usize::from(byte & 15)];
    }
    text
}

/// When a body was fetched and when it expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    /// The sequence number of the fetch.
    pub(super) seq: u64,
    /// In nanoseconds since the cache's epoch, like `expires_at`; 64 bits are 584 years.
    pub(super) stored_at: u64,
    pub(super) expires_at: u64,
}

/// A stored body with its key and times. A clone shares the allocation.
#[derive(Debug, Clone)]
pub(super) struct EntryBlock(Arc<[u8]>);

impl AsRef<[u8]> for EntryBlock {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The offsets at which the parts of a block end and the next ones begin.
struct Ends {
    spans: usize,
    variant: usize,
    content_type: usize,
    extra: usize,
}

/// What a hit sends. Its parts are slices of the block and keep nothing else alive.
#[derive(Debug, Clone)]
pub struct StoredResponse {
    /// The bytes as the upstream sent them.
    pub body: Bytes,
    /// The strong validator of the body.
    pub etag: HeaderValue,
    /// The upstream's `content-type`.
    pub content_type: Option<HeaderValue>,
}

impl EntryBlock {
    /// Copies an entry into a block. Returns `None` if the key or the content type is too long.
    pub(super) fn new(key: &CacheKey, entry: &Entry<'_>, times: Times) -> Option<Self> {
        let EncodedKey { spans, extra } = EncodedKey::new(&key.primary, entry.body)?;
        let etag = etag_text(entry.body);
        let (type_length, content_type) = match entry.content_type {
            None => (NONE, &[][..]),
            Some(value) if value == JSON => (IS_JSON, &[][..]),
            Some(value) => (u32::try_from(value.len()).ok()?, value.as_bytes()),
        };
        let parts = [
            &times.seq.to_le_bytes()[..],
            &times.stored_at.to_le_bytes(),
            &times.expires_at.to_le_bytes(),
            &u16::try_from(spans.len()).ok()?.to_le_bytes(),
            &u16::try_from(extra.len()).ok()?.to_le_bytes(),
            &u32::try_from(key.variant.len()).ok()?.to_le_bytes(),
            &type_length.to_le_bytes(),
            &etag,
            &spans,
            key.variant.as_bytes(),
            content_type,
            &extra,
            entry.body,
        ];
        let size = parts.iter().map(|part| part.len()).sum();
        // The block is zeroed and then filled in place: building it in a `Vec` would cost a second
        // allocation and a copy.
        let mut block: Arc<[u8]> = std::iter::repeat_n(0, size).collect();
        let mut rest = Arc::get_mut(&mut block).expect("the block has no second owner yet");
        for part in parts {
            let (target, behind) = rest.split_at_mut(part.len());
            target.copy_from_slice(part);
            rest = behind;
        }
        Some(Self(block))
    }

    /// Returns the size of the block in bytes.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn times(&self) -> Times {
        Times {
            seq: self.seq(),
            stored_at: u64::from_le_bytes(self.head(8)),
            expires_at: u64::from_le_bytes(self.head(16)),
        }
    }

    /// Returns the sequence number of the fetch that returned the body.
    pub(super) fn seq(&self) -> u64 {
        u64::from_le_bytes(self.head(0))
    }

    pub(super) fn etag(&self) -> &[u8] {
        &self.0[ETAG]
    }

    pub(super) fn variant(&self) -> &[u8] {
        let ends = self.ends();
        &self.0[ends.spans..ends.variant]
    }

    pub(super) fn body(&self) -> &[u8] {
        &self.0[self.ends().extra..]
    }

    /// Returns whether the body is one of this primary key, given as bytes.
    pub(super) fn has_primary_key(&self, key: &[u8]) -> bool {
        let ends = self.ends();
        let spans = &self.0[ETAG.end..ends.spans];
        key_encoding::matches(spans, &self.0[ends.content_type..], key)
    }

    /// Writes the primary key of the body into `key`, whose content it replaces.
    pub(super) fn write_primary_key(&self, key: &mut Vec<u8>) {
        let ends = self.ends();
        let spans = &self.0[ETAG.end..ends.spans];
        key_encoding::decode_into(spans, &self.0[ends.content_type..], key);
    }

    pub(super) fn into_response(self) -> StoredResponse {
        let (ends, type_length) = (self.ends(), self.type_length());
        let mut block = Bytes::from_owner(self);
        let header = |range| {
            HeaderValue::from_maybe_shared(block.slice(range))
                .expect("it was copied from a header value")
        };
        let etag = header(ETAG);
        let content_type = match type_length {
            NONE => None,
            IS_JSON => Some(JSON),
            _ => Some(header(ends.variant..ends.content_type)),
        };
        block.advance(ends.extra);
        StoredResponse {
            body: block,
            etag,
            content_type,
        }
    }

    fn ends(&self) -> Ends {
        let spans = ETAG.end + usize::from(u16::from_le_bytes(self.head(24)));
        let variant = spans + u32::from_le_bytes(self.head(28)) as usize;
        let content_type = match self.type_length() {
            NONE | IS_JSON => variant,
            length => variant + length as usize,
        };
        let extra = content_type + usize::from(u16::from_le_bytes(self.head(26)));
        Ends {
            spans,
            variant,
            content_type,
            extra,
        }
    }

    /// Returns the length of the content type, or [`NONE`] or [`IS_JSON`].
    fn type_length(&self) -> u32 {
        u32::from_le_bytes(self.head(32))
    }

    fn head<const N: usize>(&self, offset: usize) -> [u8; N] {
        let head: &[u8; HEAD] = self.0.first_chunk().expect("every block has a head");
        *head[offset..]
            .first_chunk()
            .expect("the field lies within the head")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Partition;

    const TIMES: Times = Times {
        seq: 7,
        stored_at: 1 << 40,
        expires_at: u64::MAX,
    };

    fn key(variant: &str) -> CacheKey {
        let ids = ["thread_abc123", "run_abc123", "step_abc123"];
        CacheKey::new(Partition::of(["p"]), "run-step", &ids, variant)
    }

    fn block(variant: &str, body: &[u8], content_type: Option<&HeaderValue>) -> EntryBlock {
        EntryBlock::new(&key(variant), &Entry::new(body, content_type), TIMES).unwrap()
    }

    #[test]
    fn a_block_returns_what_was_stored_in_it() {
        let body = br#"{"thread_id":"thread_abc123"}"#;
        for variant in ["", "include[]=a\nx-tenant=\u{e9}"] {
            let block = block(variant, body, None);
            assert_eq!(block.times(), TIMES);
            assert_eq!(block.seq(), TIMES.seq);
            assert_eq!(block.variant(), variant.as_bytes());
            assert_eq!(block.body(), body);
            assert_eq!(block.etag(), etag_of(body).as_bytes());
            assert!(block.has_primary_key(key("").primary.as_ref()));
        }
    }

    #[test]
    fn a_block_adds_less_than_a_hundred_bytes_to_body_and_key() {
        let json = HeaderValue::from_static("application/json");
        let without_ids = block("", b"{}", Some(&json));
        let added = without_ids.len() - b"{}".len() - key("").primary.len();
        assert!(added < 100, "{added}");
        // Ids that the body contains are not stored twice.
        let body = br#"["thread_abc123","run_abc123","step_abc123"]"#;
        let with_ids = block("", body, Some(&json));
        assert!(with_ids.len() - body.len() < without_ids.len() - b"{}".len());
    }

    #[test]
    fn a_response_repeats_the_content_type_byte_for_byte() {
        let long = "x".repeat(100_000);
        for text in [
            &b"application/json"[..],
            b"application/json; charset=utf-8",
            b"Application/JSON",
            b"text/plain",
            b"",
            b"opaque \xe9",
            long.as_bytes(),
        ] {
            let value = HeaderValue::from_bytes(text).unwrap();
            let response = block("", b"{}", Some(&value)).into_response();
            assert_eq!(response.content_type, Some(value));
            assert_eq!(response.body, "{}");
        }
        let response = block("", b"{}", None).into_response();
        assert_eq!(
            (response.content_type, &response.body[..]),
            (None, &b"{}"[..])
        );
        assert_eq!(response.etag, etag_of(b"{}"));
    }

    #[test]
    fn every_part_of_a_response_keeps_its_block_alive() {
        let text = HeaderValue::from_static("text/plain");
        for kept in ["body", "etag", "content type"] {
            let block = block("", b"{}", Some(&text));
            let weak = Arc::downgrade(&block.0);
            let response = block.into_response();
            let body = Some(response.body).filter(|_| kept == "body");
            let etag = Some(response.etag).filter(|_| kept == "etag");
            let content_type = response.content_type.filter(|_| kept == "content type");
            assert!(weak.upgrade().is_some(), "{kept} is left");
            drop((body, etag, content_type));
            assert!(weak.upgrade().is_none(), "nothing is left");
        }
    }

    /// Returns the bytes that the self-test of the xxHash reference implementation hashes.
    fn reference(len: usize) -> Vec<u8> {
        let grow = |n: &u64| Some(n.wrapping_mul(11_400_714_785_074_694_797));
        std::iter::successors(Some(2_654_435_761), grow)
            .map(|n: u64| n.to_be_bytes()[0])
            .take(len)
            .collect()
    }

    #[test]
    fn an_etag_is_the_xxh3_of_the_reference_implementation() {
        // XXH3 has one algorithm for up to 16 bytes, one for up to 240, and one for more.
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
