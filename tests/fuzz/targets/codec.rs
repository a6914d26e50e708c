//! What is found in Redis, against a slow reader of the documented form.
//!
//! A plain value is read where the slow reader takes it, as the same, and is written again as the same
//! bytes. With a key nothing is read that was not sealed with it, for that place, and is unchanged since.
//! What is written is read back.

#![no_main]

use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use stepgate::cache::redis::codec::{Corrupt, Decoded, Place, Record, decode, encode};
use stepgate::cache::redis::seal::Seal;
use twox_hash::XxHash3_128;

/// A limit that small inputs reach, too.
const MAX_BODY: u64 = 64;

const PLACE: Place<'_> = Place {
    thread: "stepgate:t:0123456789abcdef0123456789abcdef",
    field: b"a field of these",
};

/// What a record says, in an order of its own.
#[derive(Debug, PartialEq, Eq, Arbitrary)]
struct Content {
    step: Vec<u8>,
    variant: Vec<u8>,
    content_type: Option<Vec<u8>>,
    body: Vec<u8>,
    stored_at: u64,
    expires_at: u64,
}

impl Content {
    fn of(decoded: &Decoded) -> Self {
        Self {
            step: decoded.step.to_vec(),
            variant: decoded.variant.to_vec(),
            content_type: decoded.content_type.as_deref().map(<[u8]>::to_vec),
            body: decoded.body.to_vec(),
            stored_at: decoded.stored_at,
            expires_at: decoded.expires_at,
        }
    }

    fn record(&self) -> Record<'_> {
        Record {
            step: &self.step,
            variant: &self.variant,
            content_type: self.content_type.as_deref(),
            body: &self.body,
            stored_at: self.stored_at,
            expires_at: self.expires_at,
        }
    }

    fn written(&self, seal: Option<&Seal>) -> Vec<u8> {
        encode(&self.record(), seal, PLACE).expect("nothing here is that long")
    }
}

/// The first so many bytes, taken away.
fn taken<'a>(bytes: &mut &'a [u8], length: u64) -> Option<&'a [u8]> {
    let length = usize::try_from(length).ok()?;
    let (first, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(first)
}

fn number(bytes: &mut &[u8], length: u64) -> Option<u64> {
    let digits = taken(bytes, length)?.iter().rev();
    Some(digits.fold(0, |sum, digit| sum << 8 | u64::from(*digit)))
}

/// The slow reader of a record.
fn slowly_read(mut bytes: &[u8]) -> Option<Content> {
    let bytes = &mut bytes;
    let (stored_at, expires_at) = (number(bytes, 8)?, number(bytes, 8)?);
    let lengths = [2, 4, 2, 4].map(|size| number(bytes, size));
    let [step, variant, content_type, body] = lengths;
    let (step, variant) = (taken(bytes, step?)?, taken(bytes, variant?)?);
    let content_type = match content_type? {
        0xFFFF => None,
        length => Some(taken(bytes, length)?.to_vec()),
    };
    let body = taken(bytes, body?)?;
    let fits = bytes.is_empty() && body.len() as u64 <= MAX_BODY;
    fits.then(|| Content {
        step: step.to_vec(),
        variant: variant.to_vec(),
        content_type,
        body: body.to_vec(),
        stored_at,
        expires_at,
    })
}

/// The slow reader of a plain value.
fn slowly_read_value(value: &[u8]) -> Option<Content> {
    let record_end = value.len().checked_sub(16)?;
    let record = value[..record_end].strip_prefix(b"SG\x01\x00")?;
    let checksum = XxHash3_128::oneshot(&value[..record_end]).to_le_bytes();
    (value[record_end..] == checksum).then(|| slowly_read(record))?
}

fn check_plain(value: &[u8]) {
    let read = decode(value.to_vec(), None, PLACE, MAX_BODY);
    let read = read.as_ref().map(Content::of).ok();
    assert_eq!(read, slowly_read_value(value));
    if let Some(content) = read {
        assert_eq!(content.written(None), value);
    }
}

fn check_any(value: &[u8], seal: &Seal) {
    check_plain(value);
    let read = decode(value.to_vec(), Some(seal), PLACE, MAX_BODY);
    assert!(read.is_err(), "it was never sealed: {read:?}");
}

fn check_written(u: &mut Unstructured<'_>, seal: &Seal) -> Result<()> {
    let content = Content::arbitrary(u)?;
    let seal = u.arbitrary::<bool>()?.then_some(seal);
    let value = content.written(seal);
    let read = |value: Vec<u8>, place| decode(value, seal, place, MAX_BODY);
    match read(value.clone(), PLACE) {
        Ok(decoded) => assert_eq!(Content::of(&decoded), content),
        Err(why) => {
            assert_eq!(why, Corrupt::TooLarge);
            assert!(content.body.len() as u64 > MAX_BODY);
        }
    }
    let mut other = value.clone();
    match u.int_in_range(0..=3)? {
        0 => other.truncate(u.choose_index(value.len())?),
        1 => other.extend_from_slice(&u.arbitrary::<[u8; 3]>()?),
        _ => {
            for _ in 0..u.int_in_range(1..=3)? {
                let at = u.choose_index(other.len())?;
                other[at] ^= u.arbitrary::<u8>()?;
            }
        }
    }
    if other != value {
        let read = read(other, PLACE);
        assert!(read.is_err(), "it was changed: {read:?}");
    }
    // Another thread, another field, or both.
    let (mut elsewhere, field) = (PLACE, u.arbitrary()?);
    let which = u.int_in_range(0..=2)?;
    if which != 0 {
        elsewhere.field = &field;
    }
    if which != 1 {
        elsewhere.thread = u.arbitrary()?;
    }
    let differs = (elsewhere.thread, elsewhere.field) != (PLACE.thread, PLACE.field);
    if seal.is_some() && differs {
        assert_eq!(read(value, elsewhere).err(), Some(Corrupt::Seal));
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
        // With a checksum that is right: no fuzzer would find one.
        1 => {
            let mut value = [b"SG\x01\x00", rest].concat();
            let checksum = XxHash3_128::oneshot(&value).to_le_bytes();
            value.extend_from_slice(&checksum);
            check_any(&value, &seal);
        }
        // Too few bytes for a whole case are no finding.
        _ => drop(check_written(&mut Unstructured::new(rest), &seal)),
    }
});
