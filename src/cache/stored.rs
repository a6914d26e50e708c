//! A stored body: one allocation for all that belongs to it.
//!
//! Small bodies are many, so what stands beside each of them counts. A block is, in this order: when it
//! came and how long it is kept; four lengths; the entity tag; the places that spell the step's key; the
//! variant's name; the content type; what the body lacks of the key; the body.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use hyper::header::HeaderValue;

use super::entry::{ETAG_LEN, Entry, etag_text};
use super::key_encoding::{self, Spelling};
use crate::policy::CacheKey;

/// Times and lengths: what has a fixed place.
const HEAD: usize = 3 * 8 + 2 * 2 + 2 * 4;
const ETAG: Range<usize> = HEAD..HEAD + ETAG_LEN;

/// What nearly all bodies are; it need not be written down.
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// In the place of a content type's length.
const IS_JSON: u32 = u32::MAX;
const NONE: u32 = u32::MAX - 1;

/// When a body came, and until when it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    /// The departure that brought it.
    pub(super) departed: u64,
    /// In nanoseconds from the cache's beginning, like what follows; 64 bits are 584 years.
    pub(super) stored_at: u64,
    pub(super) expires_at: u64,
}

/// A block. A clone is the same block.
#[derive(Debug, Clone)]
pub(super) struct Stored(Arc<[u8]>);

impl AsRef<[u8]> for Stored {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Where in a block something ends, and the next thing begins.
struct Ends {
    places: usize,
    variant: usize,
    content_type: usize,
    front: usize,
}

/// What a hit replays. Slices of the block, which they keep alive, and of nothing else.
#[derive(Debug, Clone)]
pub struct StoredResponse {
    /// The bytes as the upstream sent them.
    pub body: Bytes,
    /// Their strong validator.
    pub etag: HeaderValue,
    /// The upstream's `content-type`.
    pub content_type: Option<HeaderValue>,
}

impl Stored {
    /// None for a key or a content type beyond all measure.
    pub(super) fn new(key: &CacheKey, entry: &Entry<'_>, times: Times) -> Option<Self> {
        let Spelling { places, front } = Spelling::of(&key.primary, entry.body)?;
        let etag = etag_text(entry.body);
        let (mark, content_type) = match entry.content_type {
            None => (NONE, &[][..]),
            Some(value) if value == JSON => (IS_JSON, &[][..]),
            Some(value) => (u32::try_from(value.len()).ok()?, value.as_bytes()),
        };
        let parts = [
            &times.departed.to_le_bytes()[..],
            &times.stored_at.to_le_bytes(),
            &times.expires_at.to_le_bytes(),
            &u16::try_from(places.len()).ok()?.to_le_bytes(),
            &u16::try_from(front.len()).ok()?.to_le_bytes(),
            &u32::try_from(key.variant.len()).ok()?.to_le_bytes(),
            &mark.to_le_bytes(),
            &etag,
            &places,
            key.variant.as_bytes(),
            content_type,
            &front,
            entry.body,
        ];
        let size = parts.iter().map(|part| part.len()).sum();
        // Zeroes first, then in place: to put it together elsewhere would take another allocation.
        let mut block: Arc<[u8]> = std::iter::repeat_n(0, size).collect();
        let mut room = Arc::get_mut(&mut block).expect("nobody else has it yet");
        for part in parts {
            let (own, behind) = room.split_at_mut(part.len());
            own.copy_from_slice(part);
            room = behind;
        }
        Some(Self(block))
    }

    /// The size of the block.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn times(&self) -> Times {
        Times {
            departed: self.departed(),
            stored_at: u64::from_le_bytes(self.head(8)),
            expires_at: u64::from_le_bytes(self.head(16)),
        }
    }

    /// The departure that brought it.
    pub(super) fn departed(&self) -> u64 {
        u64::from_le_bytes(self.head(0))
    }

    pub(super) fn etag(&self) -> &[u8] {
        &self.0[ETAG]
    }

    pub(super) fn variant(&self) -> &[u8] {
        let ends = self.ends();
        &self.0[ends.places..ends.variant]
    }

    pub(super) fn body(&self) -> &[u8] {
        &self.0[self.ends().front..]
    }

    /// Whether it is a body of that step.
    pub(super) fn is_of(&self, step: &[u8]) -> bool {
        let ends = self.ends();
        let places = &self.0[ETAG.end..ends.places];
        key_encoding::is_of(places, &self.0[ends.content_type..], step)
    }

    /// Writes down whose body it is, in the place of what `step` was.
    pub(super) fn write_step(&self, step: &mut Vec<u8>) {
        let ends = self.ends();
        let places = &self.0[ETAG.end..ends.places];
        key_encoding::write_out(places, &self.0[ends.content_type..], step);
    }

    pub(super) fn into_response(self) -> StoredResponse {
        let (ends, mark) = (self.ends(), self.content_type_mark());
        let mut block = Bytes::from_owner(self);
        let header = |range| {
            HeaderValue::from_maybe_shared(block.slice(range)).expect("it was one when it came")
        };
        let etag = header(ETAG);
        let content_type = match mark {
            NONE => None,
            IS_JSON => Some(JSON),
            _ => Some(header(ends.variant..ends.content_type)),
        };
        block.advance(ends.front);
        StoredResponse {
            body: block,
            etag,
            content_type,
        }
    }

    fn ends(&self) -> Ends {
        let places = ETAG.end + usize::from(u16::from_le_bytes(self.head(24)));
        let variant = places + u32::from_le_bytes(self.head(28)) as usize;
        let content_type = match self.content_type_mark() {
            NONE | IS_JSON => variant,
            length => variant + length as usize,
        };
        let front = content_type + usize::from(u16::from_le_bytes(self.head(26)));
        Ends {
            places,
            variant,
            content_type,
            front,
        }
    }

    fn content_type_mark(&self) -> u32 {
        u32::from_le_bytes(self.head(32))
    }

    fn head<const N: usize>(&self, at: usize) -> [u8; N] {
        let head: &[u8; HEAD] = self.0.first_chunk().expect("a block has a head");
        *head[at..].first_chunk().expect("it is in the head")
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::etag_of;
    use super::*;
    use crate::policy::Partition;

    const TIMES: Times = Times {
        departed: 7,
        stored_at: 1 << 40,
        expires_at: u64::MAX,
    };

    fn key(variant: &str) -> CacheKey {
        let ids = ["thread_abc123", "run_abc123", "step_abc123"];
        CacheKey::new(Partition::of(["p"]), "run-step", &ids, variant)
    }

    fn stored(variant: &str, body: &[u8], content_type: Option<&HeaderValue>) -> Stored {
        Stored::new(&key(variant), &Entry::new(body, content_type), TIMES).unwrap()
    }

    #[test]
    fn a_block_says_what_was_put_into_it() {
        let body = br#"{"thread_id":"thread_abc123"}"#;
        for variant in ["", "include[]=a\nx-tenant=\u{e9}"] {
            let block = stored(variant, body, None);
            assert_eq!(block.times(), TIMES);
            assert_eq!(block.departed(), TIMES.departed);
            assert_eq!(block.variant(), variant.as_bytes());
            assert_eq!(block.body(), body);
            assert_eq!(block.etag(), etag_of(body).as_bytes());
            assert!(block.is_of(key("").primary.as_ref()));
        }
    }

    #[test]
    fn beside_body_and_key_a_block_has_less_than_a_hundred_bytes() {
        let json = HeaderValue::from_static("application/json");
        let key = key("");
        let block = Stored::new(&key, &Entry::new(b"{}", Some(&json)), TIMES).unwrap();
        let beside = block.len() - b"{}".len() - key.primary.len();
        assert!(beside < 100, "{beside}");
        // Ids that the body repeats are not kept twice.
        let body = br#"["thread_abc123","run_abc123","step_abc123"]"#;
        let shorter = Stored::new(&key, &Entry::new(body, Some(&json)), TIMES).unwrap();
        assert!(shorter.len() - body.len() < block.len() - b"{}".len());
    }

    #[test]
    fn a_content_type_is_replayed_as_it_came() {
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
            let replay = stored("", b"{}", Some(&value)).into_response();
            assert_eq!(replay.content_type, Some(value));
            assert_eq!(replay.body, "{}");
        }
        let replay = stored("", b"{}", None).into_response();
        assert_eq!((replay.content_type, &replay.body[..]), (None, &b"{}"[..]));
        assert_eq!(replay.etag, etag_of(b"{}"));
    }

    #[test]
    fn a_replay_keeps_its_block_alive_and_nothing_else() {
        let text = HeaderValue::from_static("text/plain");
        for last in ["body", "etag", "content type"] {
            let stored = stored("", b"{}", Some(&text));
            let block = Arc::downgrade(&stored.0);
            let StoredResponse {
                body,
                etag,
                content_type,
            } = stored.into_response();
            let (mut body, mut etag, mut content_type) = (Some(body), Some(etag), content_type);
            if last != "body" {
                body = None;
            }
            if last != "etag" {
                etag = None;
            }
            if last != "content type" {
                content_type = None;
            }
            assert!(block.upgrade().is_some(), "{last} is left");
            drop((body, etag, content_type));
            assert!(block.upgrade().is_none(), "nothing is left");
        }
    }
}
