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
    /// The bytes of a [`PrimaryKey`](crate::policy::PrimaryKey), the partition first.
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
    /// The bytes of a [`PrimaryKey`](crate::policy::PrimaryKey), if they are any.
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
mod tests;
