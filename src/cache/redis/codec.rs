//! The format of an entry in Redis.
//!
//! Integers are little-endian. A value is a head of four bytes (`SG`, the version, whether it is sealed),
//! the record, and a guard of 16 bytes: the XXH3-128 of all bytes before it, or the tag of a sealed
//! record. A sealed record has its nonce between head and record.
//!
//! | part of the record | bytes |
//! |---|---|
//! | when it was stored and when it expires, in milliseconds of UNIX time | 8, 8 |
//! | lengths: primary key, variant, content type (all ones: none), body | 2, 4, 2, 4 |
//! | primary key (the partition first), variant, content type, body | as their lengths say |
//!
//! The checksum only detects damage: without a seal, anyone who can write to Redis can forge entries. A
//! sealed value opens only in the bucket and the field for which it was sealed. If the gateway has an
//! encryption key, it refuses plain values, because otherwise an attacker could write unsealed ones.
//!
//! Decoding arbitrary bytes neither panics nor allocates the lengths that they claim.

use std::ops::Range;

use bytes::{Buf, Bytes, TryGetError};
use thiserror::Error;
use twox_hash::XxHash3_128;

use super::keys::HASH_LEN;
use super::seal::{NONCE_LEN, Seal, TAG_LEN};

const MAGIC: [u8; 2] = *b"SG";
const VERSION: u8 = 1;
const PLAIN: u8 = 0;
const SEALED: u8 = 1;

/// The size of the head in bytes.
const HEAD: usize = 4;

/// The size of the checksum or tag in bytes.
const GUARD: usize = TAG_LEN;

/// Stands for the length of a content type if there is none.
const NONE: u16 = u16::MAX;

/// An entry: of slices to encode, and of `Bytes` after decoding. These are slices of one buffer. A decoded
/// record is intact, but nothing in it has been compared or judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryRecord<B> {
    /// The bytes of a [`PrimaryKey`](crate::policy::PrimaryKey), the partition first.
    pub primary_key: B,
    /// The variant of the cache key.
    pub variant: B,
    /// The upstream's `content-type`; after decoding not necessarily a valid header value.
    pub content_type: Option<B>,
    /// The bytes as the upstream sent them.
    pub body: B,
    /// When the body was stored, in milliseconds of UNIX time by the clock of the gateway that did.
    pub stored_at: u64,
    /// When the entry expires, in milliseconds of UNIX time.
    pub expires_at: u64,
}

/// Where in Redis a value is. A sealed value opens nowhere else.
#[derive(Debug, Clone, Copy)]
pub struct Location<'a> {
    /// The key of the bucket.
    pub bucket: &'a str,
    /// The field of the bucket.
    pub field: &'a [u8; HASH_LEN],
}

/// Why a value is no valid entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The value does not begin with `SG`.
    #[error("the value is no entry")]
    Foreign,
    /// The version is another one.
    #[error("the entry has an unknown version")]
    Version,
    /// The value is plain, but the gateway has a key.
    #[error("the entry is not sealed, but an encryption key is configured")]
    Unsealed,
    /// The value is sealed, but the gateway has no key.
    #[error("the entry is sealed, but no encryption key is configured")]
    Sealed,
    /// The checksum does not match.
    #[error("the checksum of the entry is wrong")]
    Checksum,
    /// The value was sealed with another key or for another location, or was changed.
    #[error("the seal of the entry does not open")]
    Seal,
    /// The value is shorter than a record or than its lengths say.
    #[error("the entry is truncated")]
    Truncated,
    /// The value is longer than its lengths say.
    #[error("the entry has excess bytes")]
    Excess,
    /// The body is above the limit.
    #[error("the body of the entry is too large")]
    TooLarge,
}

impl From<TryGetError> for DecodeError {
    fn from(_: TryGetError) -> Self {
        Self::Truncated
    }
}

/// Encodes `record` for `location`, sealed if there is a seal.
///
/// Returns `None` if a part is too long for its length field (a primary key of 65,536 bytes, a content
/// type of 65,535, a variant or a body of 4 GiB), or if the system has no random bytes for the seal.
pub fn encode<B: AsRef<[u8]>>(
    record: &EntryRecord<B>,
    seal: Option<&Seal>,
    location: Location<'_>,
) -> Option<Vec<u8>> {
    let content_type = record.content_type.as_ref().map(AsRef::as_ref);
    let type_length = match content_type {
        None => NONE,
        Some(text) => u16::try_from(text.len()).ok().filter(|n| *n != NONE)?,
    };
    let (primary_key, variant) = (record.primary_key.as_ref(), record.variant.as_ref());
    let body = record.body.as_ref();
    // The nonce is filled in when the record is sealed.
    let (kind, nonce) = match seal {
        None => (PLAIN, &[][..]),
        Some(_) => (SEALED, &[0; NONCE_LEN][..]),
    };
    let parts = [
        &MAGIC[..],
        &[VERSION, kind],
        nonce,
        &record.stored_at.to_le_bytes(),
        &record.expires_at.to_le_bytes(),
        &u16::try_from(primary_key.len()).ok()?.to_le_bytes(),
        &u32::try_from(variant.len()).ok()?.to_le_bytes(),
        &type_length.to_le_bytes(),
        &u32::try_from(body.len()).ok()?.to_le_bytes(),
        primary_key,
        variant,
        content_type.unwrap_or_default(),
        body,
    ];
    let size = parts.iter().map(|part| part.len()).sum::<usize>() + GUARD;
    let mut value = Vec::with_capacity(size);
    for part in parts {
        value.extend_from_slice(part);
    }
    let guard = match seal {
        None => checksum(&value),
        Some(seal) => encrypt(&mut value, seal, location)?,
    };
    value.extend_from_slice(&guard);
    Some(value)
}

/// Decodes the value found at `location`. With a seal, only a value that the seal opens is accepted. The
/// body may have at most `max_body` bytes.
///
/// # Errors
/// [`DecodeError`] if [`encode`] does not write such a value.
pub fn decode(
    mut value: Vec<u8>,
    seal: Option<&Seal>,
    location: Location<'_>,
    max_body: u64,
) -> Result<EntryRecord<Bytes>, DecodeError> {
    let [s, g, version, kind] = *value.first_chunk().ok_or(DecodeError::Truncated)?;
    if [s, g] != MAGIC {
        return Err(DecodeError::Foreign);
    }
    if version != VERSION {
        return Err(DecodeError::Version);
    }
    let record = match (kind, seal) {
        (PLAIN, None) => verify_checksum(&value)?,
        (SEALED, Some(seal)) => decrypt(&mut value, seal, location)?,
        (PLAIN, Some(_)) => return Err(DecodeError::Unsealed),
        (SEALED, None) => return Err(DecodeError::Sealed),
        _ => return Err(DecodeError::Version),
    };
    read_record(Bytes::from(value).slice(record), max_body)
}

fn read_record(mut record: Bytes, max_body: u64) -> Result<EntryRecord<Bytes>, DecodeError> {
    let stored_at = record.try_get_u64_le()?;
    let expires_at = record.try_get_u64_le()?;
    let primary_key = record.try_get_u16_le()?;
    let variant = record.try_get_u32_le()?;
    let content_type = record.try_get_u16_le()?;
    let body = record.try_get_u32_le()?;
    if u64::from(body) > max_body {
        return Err(DecodeError::TooLarge);
    }
    let mut take = |length: u32| {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let is_there = length <= record.len();
        is_there
            .then(|| record.split_to(length))
            .ok_or(DecodeError::Truncated)
    };
    let decoded = EntryRecord {
        stored_at,
        expires_at,
        primary_key: take(primary_key.into())?,
        variant: take(variant)?,
        content_type: match content_type {
            NONE => None,
            length => Some(take(length.into())?),
        },
        body: take(body)?,
    };
    if record.is_empty() {
        Ok(decoded)
    } else {
        Err(DecodeError::Excess)
    }
}

/// Verifies a plain value and returns the range of its record.
fn verify_checksum(value: &[u8]) -> Result<Range<usize>, DecodeError> {
    let (before, guard) = value.split_last_chunk().ok_or(DecodeError::Truncated)?;
    if before.len() < HEAD {
        return Err(DecodeError::Truncated);
    }
    if *guard != checksum(before) {
        return Err(DecodeError::Checksum);
    }
    Ok(HEAD..before.len())
}

fn checksum(bytes: &[u8]) -> [u8; GUARD] {
    XxHash3_128::oneshot(bytes).to_le_bytes()
}

/// Decrypts a sealed value in place and returns the range of its record.
fn decrypt(
    value: &mut [u8],
    seal: &Seal,
    location: Location<'_>,
) -> Result<Range<usize>, DecodeError> {
    let truncated = DecodeError::Truncated;
    let (head, behind) = value.split_first_chunk_mut().ok_or(truncated)?;
    let (nonce, behind) = behind.split_first_chunk_mut().ok_or(truncated)?;
    let (content, tag) = behind.split_last_chunk_mut().ok_or(truncated)?;
    seal.decrypt(&associated_data(head, location), (*nonce, *tag), content)
        .map_err(|_| DecodeError::Seal)?;
    let start = HEAD + NONCE_LEN;
    Ok(start..start + content.len())
}

/// Encrypts what follows the room for the nonce, fills in the nonce, and returns the tag.
fn encrypt(value: &mut [u8], seal: &Seal, location: Location<'_>) -> Option<[u8; GUARD]> {
    let (head, behind) = value.split_first_chunk_mut()?;
    let (room, content) = behind.split_first_chunk_mut()?;
    let (nonce, tag) = seal.encrypt(&associated_data(head, location), content)?;
    *room = nonce;
    Some(tag)
}

/// Returns what the tag authenticates in addition to the record. Only the bucket has no fixed length, so
/// two locations never have the same bytes.
fn associated_data(head: &[u8; HEAD], location: Location<'_>) -> Vec<u8> {
    [&head[..], location.bucket.as_bytes(), location.field].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    const LOCATION: Location<'_> = Location {
        bucket: "stepgate:t:00",
        field: &[7; 16],
    };

    const RECORD: EntryRecord<&[u8]> = EntryRecord {
        primary_key: b"partition.......run-step\nt\nr\ns\n",
        variant: b"a=1",
        content_type: Some(b"text/plain"),
        body: br#"{"id":"s"}"#,
        stored_at: 1_700_000_000_000,
        expires_at: u64::MAX,
    };

    const SHORT: EntryRecord<&[u8]> = EntryRecord {
        primary_key: b"step",
        variant: b"variant",
        content_type: Some(b"type"),
        body: b"body",
        stored_at: 1,
        expires_at: 2,
    };

    fn seal() -> Seal {
        Seal::new("a secret")
    }

    /// Runs a test for plain and for sealed values.
    fn plain_and_sealed(test: impl Fn(Option<&Seal>)) {
        test(None);
        test(Some(&seal()));
    }

    fn encoded(record: &EntryRecord<&[u8]>, seal: Option<&Seal>) -> Vec<u8> {
        encode(record, seal, LOCATION).unwrap()
    }

    fn decoded(value: &[u8], seal: Option<&Seal>) -> Result<EntryRecord<Bytes>, DecodeError> {
        decode(value.to_vec(), seal, LOCATION, MIB)
    }

    fn as_slices(record: &EntryRecord<Bytes>) -> EntryRecord<&[u8]> {
        EntryRecord {
            primary_key: &record.primary_key,
            variant: &record.variant,
            content_type: record.content_type.as_deref(),
            body: &record.body,
            stored_at: record.stored_at,
            expires_at: record.expires_at,
        }
    }

    /// Returns a value with a right checksum.
    fn with_checksum(before: &[u8]) -> Vec<u8> {
        [before, &checksum(before)].concat()
    }

    /// Returns a plain value of these bytes as its record.
    fn plain_value(record: &[u8]) -> Vec<u8> {
        with_checksum(&[&b"SG\x01\x00"[..], record].concat())
    }

    #[test]
    fn a_plain_record_has_the_documented_bytes() {
        // The checksum is from the reference implementation.
        let bytes = b"SG\x01\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x04\0\x07\0\0\0\x04\0\x04\0\0\0\
              stepvariant\
              typebody\
              \x5b\xde\x5e\xa3\x87\x49\x3a\x49\xc5\xe4\x7a\xa9\x1f\xb9\x87\xc4";
        assert_eq!(encoded(&SHORT, None), bytes);
    }

    #[test]
    fn a_record_sealed_by_libsodium_is_decoded() {
        // The nonce is 00 01 … 17.
        let value =
            b"\x53\x47\x01\x01\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\
              \x10\x11\x12\x13\x14\x15\x16\x17\x60\xc1\x16\xa1\x71\xe3\x47\xa7\xda\x41\x5c\x50\
              \x20\x67\x16\x3b\x30\xfb\xc5\xb8\xca\x10\x8c\x2c\x24\x45\x36\x7b\xc9\x35\xef\xe3\
              \x21\x9e\xea\x5e\x46\xcc\x8a\x84\x8c\xee\x03\x79\x9c\xce\xee\xc3\xba\xe1\x41\x51\
              \xb8\xe2\x3d\xe5\xd1\xa0\xaa\xe3\x63\xe3\x9c";
        let record = decoded(value, Some(&seal())).unwrap();
        assert_eq!(as_slices(&record), SHORT);
    }

    #[test]
    fn no_content_type_differs_from_an_empty_one() {
        plain_and_sealed(|seal| {
            for content_type in [None, Some(&b""[..])] {
                let record = EntryRecord {
                    content_type,
                    ..RECORD
                };
                let decoded = decoded(&encoded(&record, seal), seal).unwrap();
                assert_eq!(decoded.content_type.as_deref(), content_type);
            }
        });
    }

    #[test]
    fn a_part_longer_than_its_length_field_is_not_encoded() {
        let long = vec![b'x'; 0x1_0000];
        let (longest, too_long) = (&long[..0xFFFF], &long[..]);
        let with_key = |primary_key| {
            let record = EntryRecord {
                primary_key,
                ..RECORD
            };
            encode(&record, None, LOCATION)
        };
        assert!(with_key(longest).is_some());
        assert!(with_key(too_long).is_none());
        let with_type = |text| {
            let record = EntryRecord {
                content_type: Some(text),
                ..RECORD
            };
            encode(&record, None, LOCATION)
        };
        let value = with_type(&longest[1..]).unwrap();
        let record = decoded(&value, None).unwrap();
        assert_eq!(record.content_type.as_deref(), Some(&longest[1..]));
        assert!(with_type(longest).is_none(), "that length means none");
    }

    #[test]
    fn a_body_above_the_limit_is_refused() {
        plain_and_sealed(|seal| {
            let limit = RECORD.body.len() as u64;
            let read = |max| decode(encoded(&RECORD, seal), seal, LOCATION, max).map(|_| ());
            assert_eq!(read(limit), Ok(()));
            assert_eq!(read(limit - 1), Err(DecodeError::TooLarge));
        });
    }

    #[test]
    fn decoding_copies_nothing() {
        plain_and_sealed(|seal| {
            let value = encoded(&RECORD, seal);
            let buffer = value.as_ptr_range();
            let record = decode(value, seal, LOCATION, MIB).unwrap();
            for part in [&record.primary_key, &record.body] {
                assert!(buffer.contains(&part.as_ptr()));
            }
        });
    }

    #[test]
    fn a_value_with_a_changed_byte_is_refused() {
        plain_and_sealed(|seal| {
            let value = encoded(&RECORD, seal);
            for at in 0..value.len() {
                for change in 1..=u8::MAX {
                    let mut changed = value.clone();
                    changed[at] ^= change;
                    let read = decoded(&changed, seal);
                    assert!(read.is_err(), "byte {at}: {read:?}");
                }
            }
        });
    }

    #[test]
    fn a_truncated_or_extended_value_is_refused() {
        plain_and_sealed(|seal| {
            let value = encoded(&RECORD, seal);
            for length in 0..value.len() {
                assert!(decoded(&value[..length], seal).is_err(), "{length} bytes");
            }
            for more in [1, 16, 1000] {
                let longer = [&value[..], &vec![0; more]].concat();
                assert!(decoded(&longer, seal).is_err(), "{more} bytes more");
            }
        });
    }

    #[test]
    fn wrong_lengths_are_refused_even_with_a_right_checksum() {
        let value = encoded(&RECORD, None);
        let record = &value[HEAD..value.len() - GUARD];
        for length in 0..record.len() {
            let read = decoded(&plain_value(&record[..length]), None);
            assert_eq!(read, Err(DecodeError::Truncated), "{length} bytes");
        }
        let longer = plain_value(&[record, b"x"].concat());
        assert_eq!(decoded(&longer, None), Err(DecodeError::Excess));
        // Each of the four lengths claims its maximum.
        for range in [16..18, 18..22, 22..24, 24..28] {
            let mut huge = record.to_vec();
            huge[range.clone()].fill(0xFF);
            let read = decode(plain_value(&huge), None, LOCATION, u64::MAX);
            let error = if range == (22..24) {
                DecodeError::Excess
            } else {
                DecodeError::Truncated
            };
            assert_eq!(read, Err(error), "{range:?}");
        }
    }

    #[test]
    fn foreign_values_and_other_versions_are_refused_as_such() {
        let value = encoded(&RECORD, None);
        for (at, byte, error) in [
            (0, b's', DecodeError::Foreign),
            (1, b'g', DecodeError::Foreign),
            (2, 0, DecodeError::Version),
            (2, 2, DecodeError::Version),
            (3, 2, DecodeError::Version),
        ] {
            // The checksum is right, as in a value that another version wrote.
            let mut before = value[..value.len() - GUARD].to_vec();
            before[at] = byte;
            let other = with_checksum(&before);
            plain_and_sealed(|seal| assert_eq!(decoded(&other, seal), Err(error)));
        }
        plain_and_sealed(|seal| {
            for short in [&b""[..], b"S", b"SG\x01"] {
                assert_eq!(decoded(short, seal), Err(DecodeError::Truncated));
            }
            let foreign = decoded(b"{\"status\":\"completed\"}", seal);
            assert_eq!(foreign, Err(DecodeError::Foreign));
        });
    }

    #[test]
    fn a_plain_value_is_refused_if_there_is_a_key() {
        let (seal, plain) = (seal(), encoded(&RECORD, None));
        assert_eq!(decoded(&plain, Some(&seal)), Err(DecodeError::Unsealed));
        // A plain value that claims to be sealed is refused as well.
        let mut claimed = plain;
        claimed[3] = SEALED;
        assert_eq!(decoded(&claimed, Some(&seal)), Err(DecodeError::Seal));
    }

    #[test]
    fn a_sealed_value_is_refused_without_its_key() {
        let value = encoded(&RECORD, Some(&seal()));
        assert_eq!(decoded(&value, None), Err(DecodeError::Sealed));
        let other = Seal::new("another");
        assert_eq!(decoded(&value, Some(&other)), Err(DecodeError::Seal));
    }

    #[test]
    fn a_sealed_value_opens_only_at_its_location() {
        let seal = seal();
        let value = encoded(&RECORD, Some(&seal));
        for elsewhere in [
            Location {
                bucket: "stepgate:t:01",
                ..LOCATION
            },
            Location {
                field: &[8; 16],
                ..LOCATION
            },
        ] {
            let read = decode(value.clone(), Some(&seal), elsewhere, MIB);
            assert_eq!(read, Err(DecodeError::Seal), "{elsewhere:?}");
        }
    }

    #[test]
    fn a_sealed_value_contains_nothing_of_the_record_in_clear() {
        let value = encoded(&RECORD, Some(&seal()));
        let contains = |part: &[u8]| value.windows(part.len()).any(|bytes| bytes == part);
        for part in [&b"run-step"[..], RECORD.variant, b"text", br#"{"id""#] {
            assert!(!contains(part));
        }
        assert!(!contains(&RECORD.stored_at.to_le_bytes()));
    }

    proptest! {
        #[test]
        fn decoding_returns_what_was_encoded(
            primary_key in prop::collection::vec(any::<u8>(), 0..100),
            variant in prop::collection::vec(any::<u8>(), 0..100),
            content_type in prop::option::of(prop::collection::vec(any::<u8>(), 0..100)),
            body in prop::collection::vec(any::<u8>(), 0..1000),
            (stored_at, expires_at) in any::<(u64, u64)>(),
        ) {
            let record = EntryRecord {
                primary_key: &primary_key[..],
                variant: &variant,
                content_type: content_type.as_deref(),
                body: &body,
                stored_at,
                expires_at,
            };
            for seal in [None, Some(&seal())] {
                let decoded = decoded(&encoded(&record, seal), seal).unwrap();
                prop_assert_eq!(as_slices(&decoded), record);
            }
        }

        #[test]
        fn every_accepted_record_encodes_to_the_same_bytes(
            record in prop::collection::vec(prop_oneof![Just(0), 0..8_u8, any::<u8>()], 0..60),
        ) {
            let value = plain_value(&record);
            if let Ok(decoded) = decoded(&value, None) {
                prop_assert_eq!(encode(&decoded, None, LOCATION).unwrap(), value);
            }
        }
    }
}
