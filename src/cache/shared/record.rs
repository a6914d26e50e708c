//! A stored body as it is kept in Redis.
//!
//! Integers are little-endian. A value is four bytes that say what it is (`SG`, the version, whether it
//! is sealed), then the record, and behind it 16 bytes that guard it: of a plain one the XXH3-128 of all
//! before them, of a sealed one the tag. Between the four bytes and a sealed record stands its nonce.
//!
//! | of the record | bytes |
//! |---|---|
//! | when it was stored, and until when it is kept, in milliseconds of UNIX time | 8, 8 |
//! | lengths: step, variant, content type (all ones: none), body | 2, 4, 2, 4 |
//! | step (as in its key, the partition first), variant, content type, body | those |
//!
//! The checksum finds damage and nothing else: without a seal, whoever can write to Redis can forge
//! entries. A sealed value opens only in the thread and the field that it was written to. Where there is
//! a key, what is not sealed is refused: otherwise a forger would just not seal.
//!
//! Whatever bytes come, reading them neither panics nor takes memory that they announce and do not have.

use std::ops::Range;

use bytes::{Buf, Bytes, TryGetError};
use thiserror::Error;
use twox_hash::XxHash3_128;

use super::seal::{Closed, NONCE, Seal, TAG};

const MAGIC: [u8; 2] = *b"SG";
const VERSION: u8 = 1;
const PLAIN: u8 = 0;
const SEALED: u8 = 1;

/// What a value is.
const HEAD: usize = 4;

/// What guards a record, behind it.
const GUARD: usize = TAG;

/// In the place of a content type's length.
const NONE: u16 = u16::MAX;

/// What is written down.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// The bytes of a [`StepKey`](crate::step::StepKey), the partition first.
    pub step: &'a [u8],
    /// How it was asked for: the variant of its key.
    pub variant: &'a [u8],
    /// The upstream's `content-type`.
    pub content_type: Option<&'a [u8]>,
    /// As the upstream sent it.
    pub body: &'a [u8],
    /// When it was stored, in milliseconds of UNIX time.
    pub stored_at: u64,
    /// Until when it is kept, in milliseconds of UNIX time.
    pub expires_at: u64,
}

/// Where in Redis a value is: a sealed one is good nowhere else.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The name of the thread's hash, as Redis has it.
    pub thread: &'a str,
    /// The field in it.
    pub field: &'a [u8; 16],
}

/// What was read. Slices of one buffer, which they keep alive. Nothing of it has been compared or
/// judged yet.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// The bytes of a [`StepKey`](crate::step::StepKey), if they are any.
    pub step: Bytes,
    /// The variant of its key.
    pub variant: Bytes,
    /// The upstream's `content-type`; whether it is a valid one is not known.
    pub content_type: Option<Bytes>,
    /// The body.
    pub body: Bytes,
    /// When it was stored, in milliseconds of UNIX time by the clock of who did.
    pub stored_at: u64,
    /// Until when it is kept, in milliseconds of UNIX time.
    pub expires_at: u64,
}

/// Why a value is no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Corrupt {
    /// It does not begin as entries do.
    #[error("it is not an entry")]
    Foreign,
    /// It is written in a way that is not known here.
    #[error("it is of another version")]
    Version,
    /// It is plain, and there is a key.
    #[error("it is not sealed, and must be")]
    Unsealed,
    /// It is sealed, and there is no key.
    #[error("it is sealed, and there is no key")]
    Sealed,
    /// Its checksum is that of other bytes.
    #[error("its checksum is wrong")]
    Checksum,
    /// It was sealed with another key or for another place, or was changed since.
    #[error("its seal does not open")]
    Seal,
    /// It is shorter than it must be, or than it says.
    #[error("it is truncated")]
    Truncated,
    /// It is longer than it says.
    #[error("something stands behind it")]
    Excess,
    /// Its body is above the limit.
    #[error("its body is too large")]
    TooLarge,
}

impl From<TryGetError> for Corrupt {
    fn from(_: TryGetError) -> Self {
        Self::Truncated
    }
}

/// Writes `record` down for `place`, sealed where there is a seal.
///
/// None for what its length has no room for (a step of 65,536 bytes, a content type of 65,535, a variant
/// or a body of 4 GiB), and where the system has no random bytes for the seal.
pub fn encode(record: &Record<'_>, seal: Option<&Seal>, place: Place<'_>) -> Option<Vec<u8>> {
    let type_length = match record.content_type {
        None => NONE,
        Some(text) => u16::try_from(text.len()).ok().filter(|n| *n != NONE)?,
    };
    // Room for the nonce, which comes with the seal.
    let (kind, nonce) = match seal {
        None => (PLAIN, &[][..]),
        Some(_) => (SEALED, &[0; NONCE][..]),
    };
    let parts = [
        &MAGIC[..],
        &[VERSION, kind],
        nonce,
        &record.stored_at.to_le_bytes(),
        &record.expires_at.to_le_bytes(),
        &u16::try_from(record.step.len()).ok()?.to_le_bytes(),
        &u32::try_from(record.variant.len()).ok()?.to_le_bytes(),
        &type_length.to_le_bytes(),
        &u32::try_from(record.body.len()).ok()?.to_le_bytes(),
        record.step,
        record.variant,
        record.content_type.unwrap_or_default(),
        record.body,
    ];
    let size = parts.iter().map(|part| part.len()).sum::<usize>() + GUARD;
    let mut value = Vec::with_capacity(size);
    for part in parts {
        value.extend_from_slice(part);
    }
    let guard = match seal {
        None => checksum(&value),
        Some(seal) => close(&mut value, seal, place)?,
    };
    value.extend_from_slice(&guard);
    Some(value)
}

/// Reads the value that was found in `place`: where there is a seal, only one that it opens, and of
/// either only one with a body of at most `max_body` bytes.
///
/// # Errors
/// [`Corrupt`]: it is not what [`encode`] writes.
pub fn decode(
    mut value: Vec<u8>,
    seal: Option<&Seal>,
    place: Place<'_>,
    max_body: u64,
) -> Result<Decoded, Corrupt> {
    let [s, g, version, kind] = *value.first_chunk().ok_or(Corrupt::Truncated)?;
    if [s, g] != MAGIC {
        return Err(Corrupt::Foreign);
    }
    if version != VERSION {
        return Err(Corrupt::Version);
    }
    let record = match (kind, seal) {
        (PLAIN, None) => verify(&value)?,
        (SEALED, Some(seal)) => open(&mut value, seal, place)?,
        (PLAIN, Some(_)) => return Err(Corrupt::Unsealed),
        (SEALED, None) => return Err(Corrupt::Sealed),
        _ => return Err(Corrupt::Version),
    };
    read(Bytes::from(value).slice(record), max_body)
}

fn read(mut record: Bytes, max_body: u64) -> Result<Decoded, Corrupt> {
    let stored_at = record.try_get_u64_le()?;
    let expires_at = record.try_get_u64_le()?;
    let step = record.try_get_u16_le()?;
    let variant = record.try_get_u32_le()?;
    let content_type = record.try_get_u16_le()?;
    let body = record.try_get_u32_le()?;
    if u64::from(body) > max_body {
        return Err(Corrupt::TooLarge);
    }
    let mut take = |length: u32| {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let is_there = length <= record.len();
        is_there
            .then(|| record.split_to(length))
            .ok_or(Corrupt::Truncated)
    };
    let decoded = Decoded {
        stored_at,
        expires_at,
        step: take(step.into())?,
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
        Err(Corrupt::Excess)
    }
}

/// Where in a plain value the record is.
fn verify(value: &[u8]) -> Result<Range<usize>, Corrupt> {
    let (before, guard) = value.split_last_chunk().ok_or(Corrupt::Truncated)?;
    if before.len() < HEAD {
        return Err(Corrupt::Truncated);
    }
    if *guard != checksum(before) {
        return Err(Corrupt::Checksum);
    }
    Ok(HEAD..before.len())
}

fn checksum(bytes: &[u8]) -> [u8; GUARD] {
    XxHash3_128::oneshot(bytes).to_le_bytes()
}

/// Where in a sealed value the record is: it is decrypted in its place.
fn open(value: &mut [u8], seal: &Seal, place: Place<'_>) -> Result<Range<usize>, Corrupt> {
    let (head, behind) = value.split_first_chunk_mut().ok_or(Corrupt::Truncated)?;
    let (nonce, behind) = behind.split_first_chunk_mut().ok_or(Corrupt::Truncated)?;
    let (content, tag) = behind.split_last_chunk_mut().ok_or(Corrupt::Truncated)?;
    let closed = Closed {
        nonce: *nonce,
        tag: *tag,
    };
    seal.open(&beside(head, place), &closed, content)
        .map_err(|_| Corrupt::Seal)?;
    let begin = HEAD + NONCE;
    Ok(begin..begin + content.len())
}

/// Encrypts what stands behind the room for the nonce, and returns the tag.
fn close(value: &mut [u8], seal: &Seal, place: Place<'_>) -> Option<[u8; GUARD]> {
    let (head, behind) = value.split_first_chunk_mut()?;
    let (nonce, content) = behind.split_first_chunk_mut()?;
    let closed = seal.close(&beside(head, place), content)?;
    *nonce = closed.nonce;
    Some(closed.tag)
}

/// What a seal guards without containing it. The thread stands between what has a fixed length, so no two
/// places say the same.
fn beside(head: &[u8; HEAD], place: Place<'_>) -> Vec<u8> {
    [&head[..], place.thread.as_bytes(), place.field].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    const PLACE: Place<'_> = Place {
        thread: "stepgate:t:00",
        field: &[7; 16],
    };

    const RECORD: Record<'_> = Record {
        step: b"partition.......run-step\nt\nr\ns\n",
        variant: b"a=1",
        content_type: Some(b"text/plain"),
        body: br#"{"id":"s"}"#,
        stored_at: 1_700_000_000_000,
        expires_at: u64::MAX,
    };

    const SHORT: Record<'_> = Record {
        step: b"step",
        variant: b"variant",
        content_type: Some(b"type"),
        body: b"body",
        stored_at: 1,
        expires_at: 2,
    };

    fn seal() -> Seal {
        Seal::new("a secret")
    }

    /// Plain, and sealed.
    fn both(test: impl Fn(Option<&Seal>)) {
        test(None);
        test(Some(&seal()));
    }

    fn written(record: &Record<'_>, seal: Option<&Seal>) -> Vec<u8> {
        encode(record, seal, PLACE).unwrap()
    }

    fn read_back(value: &[u8], seal: Option<&Seal>) -> Result<Decoded, Corrupt> {
        decode(value.to_vec(), seal, PLACE, MIB)
    }

    fn is(decoded: &Decoded, record: &Record<'_>) -> bool {
        let Decoded {
            step,
            variant,
            content_type,
            body,
            stored_at,
            expires_at,
        } = decoded;
        step == record.step
            && variant == record.variant
            && content_type.as_deref() == record.content_type
            && body == record.body
            && (*stored_at, *expires_at) == (record.stored_at, record.expires_at)
    }

    /// A plain value around `record`, whose checksum is right.
    fn around(record: &[u8]) -> Vec<u8> {
        let before = [&b"SG\x01\x00"[..], record].concat();
        [&before[..], &checksum(&before)].concat()
    }

    #[test]
    fn a_plain_record_is_written_as_documented() {
        // The checksum is that of the reference implementation.
        let spelt = b"SG\x01\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x04\0\x07\0\0\0\x04\0\x04\0\0\0\
              stepvariant\
              typebody\
              \x5b\xde\x5e\xa3\x87\x49\x3a\x49\xc5\xe4\x7a\xa9\x1f\xb9\x87\xc4";
        assert_eq!(written(&SHORT, None), spelt);
    }

    #[test]
    fn a_record_that_another_implementation_sealed_is_read() {
        // By libsodium, with the nonce 00 01 … 17.
        let value =
            b"\x53\x47\x01\x01\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\
              \x10\x11\x12\x13\x14\x15\x16\x17\x60\xc1\x16\xa1\x71\xe3\x47\xa7\xda\x41\x5c\x50\
              \x20\x67\x16\x3b\x30\xfb\xc5\xb8\xca\x10\x8c\x2c\x24\x45\x36\x7b\xc9\x35\xef\xe3\
              \x21\x9e\xea\x5e\x46\xcc\x8a\x84\x8c\xee\x03\x79\x9c\xce\xee\xc3\xba\xe1\x41\x51\
              \xb8\xe2\x3d\xe5\xd1\xa0\xaa\xe3\x63\xe3\x9c";
        let decoded = read_back(value, Some(&seal())).unwrap();
        assert!(is(&decoded, &SHORT), "{decoded:?}");
    }

    #[test]
    fn no_content_type_is_not_an_empty_one() {
        both(|seal| {
            for content_type in [None, Some(&b""[..])] {
                let record = Record {
                    content_type,
                    ..RECORD
                };
                let decoded = read_back(&written(&record, seal), seal).unwrap();
                assert_eq!(decoded.content_type.as_deref(), content_type);
            }
        });
    }

    #[test]
    fn what_is_beyond_its_length_is_not_written() {
        let long = vec![b'x'; 0x1_0000];
        let (most, too_much) = (&long[..0xFFFF], &long[..]);
        let with_step = |step| encode(&Record { step, ..RECORD }, None, PLACE);
        assert!(with_step(most).is_some());
        assert!(with_step(too_much).is_none());
        let with_type = |text| {
            let record = Record {
                content_type: Some(text),
                ..RECORD
            };
            encode(&record, None, PLACE)
        };
        let longest = with_type(&most[1..]).unwrap();
        let decoded = read_back(&longest, None).unwrap();
        assert_eq!(decoded.content_type.as_deref(), Some(&most[1..]));
        assert!(
            with_type(most).is_none(),
            "that length says that there is none"
        );
    }

    #[test]
    fn a_body_of_the_limit_is_read_and_a_larger_one_is_not() {
        both(|seal| {
            let limit = RECORD.body.len() as u64;
            let read = |max| decode(written(&RECORD, seal), seal, PLACE, max).map(|_| ());
            assert_eq!(read(limit), Ok(()));
            assert_eq!(read(limit - 1), Err(Corrupt::TooLarge));
        });
    }

    #[test]
    fn reading_copies_nothing() {
        both(|seal| {
            let value = written(&RECORD, seal);
            let buffer = value.as_ptr_range();
            let decoded = decode(value, seal, PLACE, MIB).unwrap();
            for part in [&decoded.step, &decoded.body] {
                assert!(buffer.contains(&part.as_ptr()));
            }
        });
    }

    #[test]
    fn a_value_with_a_changed_byte_is_refused() {
        both(|seal| {
            let value = written(&RECORD, seal);
            for at in 0..value.len() {
                for change in 1..=u8::MAX {
                    let mut changed = value.clone();
                    changed[at] ^= change;
                    let read = read_back(&changed, seal);
                    assert!(read.is_err(), "byte {at}: {read:?}");
                }
            }
        });
    }

    #[test]
    fn a_value_of_another_length_is_refused() {
        both(|seal| {
            let value = written(&RECORD, seal);
            for length in 0..value.len() {
                assert!(read_back(&value[..length], seal).is_err(), "{length} bytes");
            }
            for more in [1, 16, 1000] {
                let longer = [&value[..], &vec![0; more]].concat();
                assert!(read_back(&longer, seal).is_err(), "{more} bytes more");
            }
        });
    }

    #[test]
    fn lengths_must_fit_exactly_even_where_the_checksum_is_right() {
        let value = written(&RECORD, None);
        let record = &value[HEAD..value.len() - GUARD];
        for length in 0..record.len() {
            let read = read_back(&around(&record[..length]), None);
            assert_eq!(read.err(), Some(Corrupt::Truncated), "{length} bytes");
        }
        let longer = around(&[record, b"x"].concat());
        assert_eq!(read_back(&longer, None).err(), Some(Corrupt::Excess));
        // Each of the four lengths, at its most: nothing of that size is there.
        for range in [16..18, 18..22, 22..24, 24..28] {
            let mut huge = record.to_vec();
            huge[range.clone()].fill(0xFF);
            let read = decode(around(&huge), None, PLACE, u64::MAX);
            let why = if range == (22..24) {
                Corrupt::Excess
            } else {
                Corrupt::Truncated
            };
            assert_eq!(read.err(), Some(why), "{range:?}");
        }
    }

    #[test]
    fn what_is_not_ours_or_of_another_version_is_refused_as_that() {
        let value = written(&RECORD, None);
        for (at, byte, why) in [
            (0, b's', Corrupt::Foreign),
            (1, b'g', Corrupt::Foreign),
            (2, 0, Corrupt::Version),
            (2, 2, Corrupt::Version),
            (3, 2, Corrupt::Version),
        ] {
            // Its checksum is right: this is how another version would write it.
            let mut before = value[..value.len() - GUARD].to_vec();
            before[at] = byte;
            let other = [&before[..], &checksum(&before)].concat();
            both(|seal| assert_eq!(read_back(&other, seal).err(), Some(why)));
        }
        both(|seal| {
            for short in [&b""[..], b"S", b"SG\x01"] {
                assert_eq!(read_back(short, seal).err(), Some(Corrupt::Truncated));
            }
            let foreign = read_back(b"{\"status\":\"completed\"}", seal);
            assert_eq!(foreign.err(), Some(Corrupt::Foreign));
        });
    }

    #[test]
    fn where_there_is_a_key_a_plain_value_is_refused() {
        let (seal, plain) = (seal(), written(&RECORD, None));
        assert_eq!(
            read_back(&plain, Some(&seal)).err(),
            Some(Corrupt::Unsealed)
        );
        // Nor does a forger get further by saying that it is sealed.
        let mut claimed = plain;
        claimed[3] = SEALED;
        assert_eq!(read_back(&claimed, Some(&seal)).err(), Some(Corrupt::Seal));
    }

    #[test]
    fn a_sealed_value_is_refused_without_its_key() {
        let value = written(&RECORD, Some(&seal()));
        assert_eq!(read_back(&value, None).err(), Some(Corrupt::Sealed));
        let other = Seal::new("another");
        assert_eq!(read_back(&value, Some(&other)).err(), Some(Corrupt::Seal));
    }

    #[test]
    fn a_sealed_value_is_good_in_its_place_only() {
        let seal = seal();
        let value = written(&RECORD, Some(&seal));
        for elsewhere in [
            Place {
                thread: "stepgate:t:01",
                ..PLACE
            },
            Place {
                field: &[8; 16],
                ..PLACE
            },
        ] {
            let read = decode(value.clone(), Some(&seal), elsewhere, MIB);
            assert_eq!(read.err(), Some(Corrupt::Seal), "{elsewhere:?}");
        }
    }

    #[test]
    fn a_sealed_value_shows_nothing_of_the_record() {
        let value = written(&RECORD, Some(&seal()));
        let shows = |part: &[u8]| value.windows(part.len()).any(|bytes| bytes == part);
        for part in [&b"run-step"[..], RECORD.variant, b"text", br#"{"id""#] {
            assert!(!shows(part));
        }
        assert!(!shows(&RECORD.stored_at.to_le_bytes()));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            step in prop::collection::vec(any::<u8>(), 0..100),
            variant in prop::collection::vec(any::<u8>(), 0..100),
            content_type in prop::option::of(prop::collection::vec(any::<u8>(), 0..100)),
            body in prop::collection::vec(any::<u8>(), 0..1000),
            times in any::<(u64, u64)>(),
        ) {
            let record = Record {
                step: &step,
                variant: &variant,
                content_type: content_type.as_deref(),
                body: &body,
                stored_at: times.0,
                expires_at: times.1,
            };
            for seal in [None, Some(&seal())] {
                let decoded = read_back(&written(&record, seal), seal).unwrap();
                prop_assert!(is(&decoded, &record), "{decoded:?}");
            }
        }

        #[test]
        fn whatever_a_checked_record_says_it_is_refused_or_would_be_written_so(
            record in prop::collection::vec(prop_oneof![Just(0), 0..8_u8, any::<u8>()], 0..60),
        ) {
            let value = around(&record);
            if let Ok(decoded) = read_back(&value, None) {
                let again = Record {
                    step: &decoded.step,
                    variant: &decoded.variant,
                    content_type: decoded.content_type.as_deref(),
                    body: &decoded.body,
                    stored_at: decoded.stored_at,
                    expires_at: decoded.expires_at,
                };
                prop_assert_eq!(written(&again, None), value);
            }
        }
    }
}
