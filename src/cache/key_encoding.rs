//! The compact encoding of a primary key next to its body.
//!
//! A final body contains its ids (otherwise it would not be stored), and the ids are most of a key. So
//! each part of the key is encoded as a span of a text: 16 bits of offset and 16 bits of length. The text
//! is the parts that the body does not contain, then the body. A span takes four bytes where an id takes
//! some thirty. Decoding returns the key byte for byte.

use memchr::memchr_iter;
use smallvec::SmallVec;

use crate::policy::{PrimaryKey, TERMINATOR};

/// The number of bytes of a body that are searched for ids. It bounds the work, and it is half of what
/// an offset can address; the other half is left for the parts that the body does not contain.
const SEARCHED: usize = 32 * 1024;

/// The size of a span in bytes.
const SPAN: usize = 4;

/// A primary key as spans of a text.
#[derive(Debug)]
pub(super) struct EncodedKey {
    /// [`SPAN`] bytes for each part of the key.
    pub(super) spans: SmallVec<[u8; 4 * SPAN]>,
    /// The parts of the key that the body does not contain. The text begins with them.
    pub(super) extra: Vec<u8>,
}

impl EncodedKey {
    /// Encodes `key` for `body`. Returns `None` if the key is too long for 16-bit offsets.
    pub(super) fn new(key: &PrimaryKey, body: &[u8]) -> Option<Self> {
        let body = &body[..body.len().min(SEARCHED)];
        let mut extra = Vec::with_capacity(key.len());
        let mut found: SmallVec<[_; 4]> = SmallVec::new();
        for (index, part) in key.parts().enumerate() {
            // The first part is the partition and the rule, which no body contains.
            let in_body = (index > 0).then(|| find(part, body)).flatten();
            found.push((in_body, extra.len(), part.len()));
            if in_body.is_none() {
                extra.extend_from_slice(part);
            }
        }
        let mut spans = SmallVec::new();
        for (in_body, in_extra, length) in found {
            let offset = in_body.map_or(in_extra, |offset| extra.len() + offset);
            for number in [offset, length] {
                spans.extend(u16::try_from(number).ok()?.to_le_bytes());
            }
        }
        Some(Self { spans, extra })
    }
}

/// Returns the offset of `part` in `body`. Ids are JSON strings or the beginning of one, so only the
/// bytes after a quote are compared.
fn find(part: &[u8], body: &[u8]) -> Option<usize> {
    memchr_iter(b'"', body)
        .map(|quote| quote + 1)
        .find(|offset| body[*offset..].starts_with(part))
}

/// Returns whether `spans` of `text` decode to `key`, the bytes of a [`PrimaryKey`].
pub(super) fn matches(spans: &[u8], text: &[u8], key: &[u8]) -> bool {
    let mut rest = key;
    for part in parts(spans, text) {
        match rest.strip_prefix(part).and_then(<[u8]>::split_first) {
            Some((&TERMINATOR, behind)) => rest = behind,
            _ => return false,
        }
    }
    rest.is_empty()
}

/// Decodes `spans` of `text` into `key`, whose content it replaces.
pub(super) fn decode_into(spans: &[u8], text: &[u8], key: &mut Vec<u8>) {
    key.clear();
    for part in parts(spans, text) {
        key.extend_from_slice(part);
        key.push(TERMINATOR);
    }
}

fn parts<'t>(spans: &[u8], text: &'t [u8]) -> impl Iterator<Item = &'t [u8]> {
    let (spans, _) = spans.as_chunks::<SPAN>();
    spans.iter().map(|[offset @ .., low, high]| {
        let offset = usize::from(u16::from_le_bytes(*offset));
        let length = usize::from(u16::from_le_bytes([*low, *high]));
        &text[offset..offset + length]
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{CacheKey, Partition};
    use proptest::prelude::*;

    const IDS: [&str; 3] = ["thread_abc123", "run_abc123", "step_abc123"];

    fn key(rule: &str, ids: &[&str]) -> PrimaryKey {
        CacheKey::new(Partition::of(["p"]), rule, ids, "").primary
    }

    /// Encodes `key` and returns it with its text.
    fn encoded(key: &PrimaryKey, body: &str) -> (EncodedKey, Vec<u8>) {
        let encoded = EncodedKey::new(key, body.as_bytes()).unwrap();
        let text = [&encoded.extra, body.as_bytes()].concat();
        (encoded, text)
    }

    fn decoded((encoded, text): &(EncodedKey, Vec<u8>)) -> Vec<u8> {
        let mut key = b"replaced".to_vec();
        decode_into(&encoded.spans, text, &mut key);
        key
    }

    #[test]
    fn ids_that_the_body_contains_take_four_bytes_each() {
        let key = key("run-step", &IDS);
        let (encoded, text) = encoded(&key, &format!("{IDS:?}"));
        assert_eq!(encoded.extra, key.parts().next().unwrap());
        assert_eq!(encoded.spans.len(), SPAN * 4);
        assert!(matches(&encoded.spans, &text, key.as_ref()));
        assert_eq!(decoded(&(encoded, text)), key.as_ref());
    }

    #[test]
    fn ids_that_the_searched_bytes_do_not_contain_are_stored_beside_the_body() {
        let beyond = format!("{:SEARCHED$}{IDS:?}", "");
        let across = format!("{:1$}{IDS:?}", "", SEARCHED - 20);
        for body in [
            "",
            "{}",
            "\"",
            "thread_abc123",
            r#""thread_abc12" "un_abc123""#,
            &beyond,
            &across,
        ] {
            let key = key("run-step", &IDS);
            let encoded = encoded(&key, body);
            assert!(matches(&encoded.0.spans, &encoded.1, key.as_ref()));
            assert_eq!(decoded(&encoded), key.as_ref());
        }
    }

    #[test]
    fn a_key_longer_than_16_bits_is_not_encoded() {
        let long = key(&"a".repeat(30_000), &IDS);
        let body = format!("{IDS:?}");
        assert_eq!(decoded(&encoded(&long, &body)), long.as_ref());
        let too_long = key(&"a".repeat(100_000), &IDS);
        assert!(EncodedKey::new(&too_long, b"{}").is_none());
    }

    proptest! {
        #[test]
        fn an_encoded_key_matches_itself_and_no_other(
            ids in prop::collection::vec("[ab]{1,3}", 1..4),
            others in prop::collection::vec("[ab]{1,3}", 1..4),
            body in "[ab\"]{0,60}",
        ) {
            let key = |ids: &[String]| {
                key("run-step", &ids.iter().map(String::as_str).collect::<Vec<_>>())
            };
            let (own, other) = (key(&ids), key(&others));
            let encoded = encoded(&own, &body);
            prop_assert_eq!(decoded(&encoded), own.as_ref());
            let matches = |key: &[u8]| matches(&encoded.0.spans, &encoded.1, key);
            prop_assert!(matches(own.as_ref()));
            prop_assert_eq!(matches(other.as_ref()), own == other);
            prop_assert!(!matches(own.as_ref().split_last().unwrap().1));
            prop_assert!(!matches(&[own.as_ref(), b"a\n"].concat()));
        }
    }
}
