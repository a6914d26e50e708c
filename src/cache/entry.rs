//! A final body on its way into the cache.

use hyper::header::HeaderValue;
use twox_hash::XxHash3_128;

/// 32 hexadecimal digits between quotes.
pub(super) const ETAG_LEN: usize = 34;

/// A final body, and what of its answer is kept with it. It borrows: storing copies what is kept, since
/// bodies and header values that hyper hands out are slices that keep the whole read buffer alive.
#[derive(Debug)]
pub struct Entry<'a> {
    pub(super) body: &'a [u8],
    /// The one header of the upstream's that a hit replays.
    pub(super) content_type: Option<&'a HeaderValue>,
}

impl<'a> Entry<'a> {
    /// With the upstream's `content-type`.
    pub fn new(body: &'a [u8], content_type: Option<&'a HeaderValue>) -> Self {
        Self { body, content_type }
    }
}

/// A strong entity tag (RFC 9110 section 8.8.3): the 128-bit XXH3 of the bytes, without a seed, in the
/// canonical form of its specification (xxHash's `doc/xxhash_spec.md`, version 0.2.0), in hexadecimal.
/// The specification fixes it, so the tag is the same on every gateway and in every version. It is no
/// defence against whoever makes the bytes, and need not be: that is the upstream, which is believed.
pub fn etag_of(body: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(&etag_text(body))
        .expect("quotes and hexadecimal digits are a valid header value")
}

pub(super) fn etag_text(body: &[u8]) -> [u8; ETAG_LEN] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'"'; ETAG_LEN];
    let hash = XxHash3_128::oneshot(body).to_be_bytes();
    for (byte, digits) in hash.iter().zip(text[1..].chunks_exact_mut(2)) {
        digits[0] = DIGITS[usize::from(byte >> 4)];
        digits[1] = DIGITS[usize::from(byte & 15)];
    }
    text
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
