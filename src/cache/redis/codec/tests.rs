//! Records: what is written is read back, and nothing else.

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
    let value = b"\x53\x47\x01\x01\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\
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
