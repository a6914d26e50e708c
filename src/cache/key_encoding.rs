//! How the key of a stored body is kept: without the ids, since the body has them, too.
//!
//! A final body names its ids (it would not be stored otherwise), and they are most of a key. So a key
//! is spelt by places: where each of its parts stands in a text, which is the body, and in front of it
//! the parts that the body does not have. Four bytes stand for some thirty, and what is read back is
//! the key, byte for byte, wherever its parts come from.

use memchr::memchr_iter;
use smallvec::SmallVec;

use crate::policy::{PrimaryKey, TERMINATOR};

/// Of a body, only so much is searched: a bound on the work, and half of what a place can say. The
/// other half is for what stands in front.
const SEARCHED: usize = 32 * 1024;

/// A part's place in the text and its length take 16 bits each.
const PLACE: usize = 4;

/// A key, spelt beside a body.
#[derive(Debug)]
pub(super) struct Spelling {
    /// [`PLACE`] bytes for each part.
    pub(super) places: SmallVec<[u8; 4 * PLACE]>,
    /// The parts that the body does not have.
    pub(super) front: Vec<u8>,
}

impl Spelling {
    /// None for a key so long that 16 bits do not do.
    pub(super) fn of(step: &PrimaryKey, body: &[u8]) -> Option<Self> {
        let body = &body[..body.len().min(SEARCHED)];
        let mut front = Vec::with_capacity(step.len());
        let mut found: SmallVec<[_; 4]> = SmallVec::new();
        for (index, part) in step.parts().enumerate() {
            // Partition and rule are in no body.
            let in_body = (index > 0).then(|| place_of(part, body)).flatten();
            found.push((in_body, front.len(), part.len()));
            if in_body.is_none() {
                front.extend_from_slice(part);
            }
        }
        let mut places = SmallVec::new();
        for (in_body, in_front, length) in found {
            let place = in_body.map_or(in_front, |place| front.len() + place);
            for number in [place, length] {
                places.extend(u16::try_from(number).ok()?.to_le_bytes());
            }
        }
        Some(Self { places, front })
    }
}

/// Ids are whole strings of a JSON text, or begin one.
fn place_of(part: &[u8], body: &[u8]) -> Option<usize> {
    memchr_iter(b'"', body)
        .map(|quote| quote + 1)
        .find(|place| body[*place..].starts_with(part))
}

/// Whether these places in this text spell `step`, the bytes of a [`PrimaryKey`].
pub(super) fn is_of(places: &[u8], text: &[u8], step: &[u8]) -> bool {
    let mut left = step;
    for part in parts(places, text) {
        match left.strip_prefix(part).and_then(<[u8]>::split_first) {
            Some((&TERMINATOR, behind)) => left = behind,
            _ => return false,
        }
    }
    left.is_empty()
}

/// Spells it out, in the place of what `step` was.
pub(super) fn write_out(places: &[u8], text: &[u8], step: &mut Vec<u8>) {
    step.clear();
    for part in parts(places, text) {
        step.extend_from_slice(part);
        step.push(TERMINATOR);
    }
}

fn parts<'t>(places: &[u8], text: &'t [u8]) -> impl Iterator<Item = &'t [u8]> {
    let (places, _) = places.as_chunks::<PLACE>();
    places.iter().map(|[place @ .., low, high]| {
        let place = usize::from(u16::from_le_bytes(*place));
        let length = usize::from(u16::from_le_bytes([*low, *high]));
        &text[place..place + length]
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{CacheKey, Partition};
    use proptest::prelude::*;

    const IDS: [&str; 3] = ["thread_abc123", "run_abc123", "step_abc123"];

    fn step(ids: &[&str]) -> PrimaryKey {
        CacheKey::new(Partition::of(["p"]), "run-step", ids, "").primary
    }

    fn spelt(step: &PrimaryKey, body: &str) -> (Spelling, Vec<u8>) {
        let spelling = Spelling::of(step, body.as_bytes()).unwrap();
        let text = [&spelling.front, body.as_bytes()].concat();
        (spelling, text)
    }

    fn spelt_out((spelling, text): &(Spelling, Vec<u8>)) -> Vec<u8> {
        let mut step = b"what was there".to_vec();
        write_out(&spelling.places, text, &mut step);
        step
    }

    #[test]
    fn ids_that_stand_in_the_body_take_four_bytes_each() {
        let key = step(&IDS);
        let (spelling, text) = spelt(&key, &format!("{IDS:?}"));
        assert_eq!(spelling.front, key.parts().next().unwrap());
        assert_eq!(spelling.places.len(), PLACE * 4);
        assert!(is_of(&spelling.places, &text, key.as_ref()));
        assert_eq!(spelt_out(&(spelling, text)), key.as_ref());
    }

    #[test]
    fn ids_that_do_not_are_spelt_out() {
        let far = format!("{:SEARCHED$}{IDS:?}", "");
        let cut = format!("{:1$}{IDS:?}", "", SEARCHED - 20);
        for body in [
            "",
            "{}",
            "\"",
            "thread_abc123",
            r#""thread_abc12" "un_abc123""#,
            &far,
            &cut,
        ] {
            let key = step(&IDS);
            let spelt = spelt(&key, body);
            assert!(is_of(&spelt.0.places, &spelt.1, key.as_ref()));
            assert_eq!(spelt_out(&spelt), key.as_ref());
        }
    }

    #[test]
    fn a_long_rule_is_spelt_and_one_beyond_measure_is_not() {
        let key =
            |length| CacheKey::new(Partition::of(["p"]), &"a".repeat(length), &IDS, "").primary;
        let long = key(30_000);
        assert_eq!(spelt_out(&spelt(&long, &format!("{IDS:?}"))), long.as_ref());
        assert!(Spelling::of(&key(100_000), b"{}").is_none());
    }

    proptest! {
        #[test]
        fn it_is_of_its_own_key_and_of_no_other(
            ids in prop::collection::vec("[ab]{1,3}", 1..4),
            others in prop::collection::vec("[ab]{1,3}", 1..4),
            body in "[ab\"]{0,60}",
        ) {
            let key = |ids: &[String]| {
                step(&ids.iter().map(String::as_str).collect::<Vec<_>>())
            };
            let (own, other) = (key(&ids), key(&others));
            let spelt = spelt(&own, &body);
            prop_assert_eq!(spelt_out(&spelt), own.as_ref());
            let is_of = |step: &[u8]| is_of(&spelt.0.places, &spelt.1, step);
            prop_assert!(is_of(own.as_ref()));
            prop_assert_eq!(is_of(other.as_ref()), own == other);
            prop_assert!(!is_of(own.as_ref().split_last().unwrap().1));
            prop_assert!(!is_of(&[own.as_ref(), b"a\n"].concat()));
        }
    }
}
