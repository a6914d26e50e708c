//! Compares the decoder of entries in Redis with a slow decoder of the documented format.
//!
//! A plain value is decoded if and only if the slow decoder accepts it, to the same record, which encodes
//! to the same bytes. With a key, a value is decoded only if it was sealed with the key, for its location,
//! and is unchanged. What is encoded is decoded again.

#![no_main]

use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use stepgate::cache::redis::codec::{DecodeError, EntryRecord, Location, decode, encode};
use stepgate::cache::redis::seal::Seal;
use twox_hash::XxHash3_128;

/// Low enough for small inputs to exceed it.
const MAX_BODY: u64 = 64;

const LOCATION: Location<'_> = Location {
    bucket: "stepgate:t:0123456789abcdef0123456789abcdef",
    field: b"16 bytes, a hash",
};

type Record = EntryRecord<Vec<u8>>;

fn owned<B: AsRef<[u8]>>(record: &EntryRecord<B>) -> Record {
    EntryRecord {
        primary_key: record.primary_key.as_ref().to_vec(),
        variant: record.variant.as_ref().to_vec(),
        content_type: record.content_type.as_ref().map(|t| t.as_ref().to_vec()),
        body: record.body.as_ref().to_vec(),
        stored_at: record.stored_at,
        expires_at: record.expires_at,
    }
}

fn arbitrary_record(u: &mut Unstructured<'_>) -> Result<Record> {
    Ok(EntryRecord {
        primary_key: Vec::arbitrary(u)?,
        variant: Vec::arbitrary(u)?,
        content_type: Option::arbitrary(u)?,
        body: Vec::arbitrary(u)?,
        stored_at: u.arbitrary()?,
        expires_at: u.arbitrary()?,
    })
}

fn encoded(record: &Record, seal: Option<&Seal>) -> Vec<u8> {
    encode(record, seal, LOCATION).expect("no part is too long")
}

/// Splits off the first `length` bytes.
fn take<'a>(bytes: &mut &'a [u8], length: u64) -> Option<&'a [u8]> {
    let length = usize::try_from(length).ok()?;
    let (first, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(first)
}

fn number(bytes: &mut &[u8], length: u64) -> Option<u64> {
    let digits = take(bytes, length)?.iter().rev();
    Some(digits.fold(0, |sum, digit| sum << 8 | u64::from(*digit)))
}

/// Decodes a record, slowly.
fn slow_record(mut bytes: &[u8]) -> Option<Record> {
    let bytes = &mut bytes;
    let (stored_at, expires_at) = (number(bytes, 8)?, number(bytes, 8)?);
    let lengths = [2, 4, 2, 4].map(|size| number(bytes, size));
    let [primary_key, variant, content_type, body] = lengths;
    let (primary_key, variant) = (take(bytes, primary_key?)?, take(bytes, variant?)?);
    let content_type = match content_type? {
        0xFFFF => None,
        length => Some(take(bytes, length)?.to_vec()),
    };
    let body = take(bytes, body?)?;
    let fits = bytes.is_empty() && body.len() as u64 <= MAX_BODY;
    fits.then(|| EntryRecord {
        primary_key: primary_key.to_vec(),
        variant: variant.to_vec(),
        content_type,
        body: body.to_vec(),
        stored_at,
        expires_at,
    })
}

/// Decodes a plain value, slowly.
fn slow_value(value: &[u8]) -> Option<Record> {
    let record_end = value.len().checked_sub(16)?;
    let record = value[..record_end].strip_prefix(b"SG\x01\x00")?;
    let checksum = XxHash3_128::oneshot(&value[..record_end]).to_le_bytes();
    (value[record_end..] == checksum).then(|| slow_record(record))?
}

fn check_plain(value: &[u8]) {
    let decoded = decode(value.to_vec(), None, LOCATION, MAX_BODY);
    let decoded = decoded.as_ref().map(owned).ok();
    assert_eq!(decoded, slow_value(value));
    if let Some(record) = decoded {
        assert_eq!(encoded(&record, None), value);
    }
}

fn check_any(value: &[u8], seal: &Seal) {
    check_plain(value);
    let decoded = decode(value.to_vec(), Some(seal), LOCATION, MAX_BODY);
    assert!(decoded.is_err(), "the value was never sealed: {decoded:?}");
}

fn check_encoded(u: &mut Unstructured<'_>, seal: &Seal) -> Result<()> {
    let record = arbitrary_record(u)?;
    let seal = u.arbitrary::<bool>()?.then_some(seal);
    let value = encoded(&record, seal);
    let decode_at = |value: Vec<u8>, location| decode(value, seal, location, MAX_BODY);
    match decode_at(value.clone(), LOCATION) {
        Ok(decoded) => assert_eq!(owned(&decoded), record),
        Err(error) => {
            assert_eq!(error, DecodeError::TooLarge);
            assert!(record.body.len() as u64 > MAX_BODY);
        }
    }
    let mut changed = value.clone();
    match u.int_in_range(0..=3)? {
        0 => changed.truncate(u.choose_index(value.len())?),
        1 => changed.extend_from_slice(&u.arbitrary::<[u8; 3]>()?),
        _ => {
            for _ in 0..u.int_in_range(1..=3)? {
                let at = u.choose_index(changed.len())?;
                changed[at] ^= u.arbitrary::<u8>()?;
            }
        }
    }
    if changed != value {
        let decoded = decode_at(changed, LOCATION);
        assert!(decoded.is_err(), "the value was changed: {decoded:?}");
    }
    // Another bucket, another field, or both.
    let (mut elsewhere, field) = (LOCATION, u.arbitrary()?);
    let which = u.int_in_range(0..=2)?;
    if which != 0 {
        elsewhere.field = &field;
    }
    if which != 1 {
        elsewhere.bucket = u.arbitrary()?;
    }
    let differs = (elsewhere.bucket, elsewhere.field) != (LOCATION.bucket, LOCATION.field);
    if seal.is_some() && differs {
        assert_eq!(decode_at(value, elsewhere), Err(DecodeError::Seal));
    }
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    let seal = Seal::new("a secret");
    match kind % 3 {
        0 => check_any(rest, &seal),
        // The checksum is right, since a fuzzer would not find it.
        1 => {
            let mut value = [b"SG\x01\x00", rest].concat();
            let checksum = XxHash3_128::oneshot(&value).to_le_bytes();
            value.extend_from_slice(&checksum);
            check_any(&value, &seal);
        }
        // An input with too few bytes is no finding.
        _ => drop(check_encoded(&mut Unstructured::new(rest), &seal)),
    }
});
