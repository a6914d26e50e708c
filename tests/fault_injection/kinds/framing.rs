//! How the upstream frames its body, and where it breaks off.

use std::time::Duration;

use super::{DRIP, SHORT};
use crate::kind::{CUT, Expect, Harm, INVALID, Kind, PASSED, RIGHT, TIMEOUT};
use crate::origin::script::{chunk, chunked, head, whole};
use crate::origin::{Material, Move};

const fn answer(word: &'static str, make: fn(&Material) -> Vec<Move>, expect: Expect) -> Kind {
    Kind::plain(word, Harm::Answer(make), expect)
}

/// More than `cache.max_entry_bytes` of the rig's gateways.
const LARGE: usize = 200_000;

const CHUNKED: &[&str] = &["transfer-encoding: chunked"];

/// The lie's answer without its last bytes.
fn short(m: &Material) -> Move {
    let mut answer = whole("200 OK", &[], &m.lie);
    answer.truncate(answer.len() - 20);
    Move::Send(answer)
}

/// Chunks of the lie, and no end.
fn endless_start(m: &Material) -> Move {
    Move::Send([head("200 OK", CHUNKED), chunk(&m.lie)].concat())
}

/// A final body for these ids, and large.
fn large(m: &Material) -> Vec<u8> {
    let text = String::from_utf8_lossy(&m.lie).into_owned();
    let filler = "x".repeat(LARGE);
    text.replace("\"lie\":true", &format!("\"lie\":\"{filler}\""))
        .into_bytes()
}

fn large_front(m: &Material) -> Move {
    let mut answer = whole("200 OK", &[], &large(m));
    answer.truncate(LARGE / 2);
    Move::Send(answer)
}

pub(crate) const KINDS: &[Kind] = &[
    answer("truncated_length", |m| vec![short(m), Move::Close], INVALID),
    answer(
        "truncated_by_reset",
        |m| vec![short(m), Move::Reset],
        INVALID,
    ),
    answer("body_stalls", |m| vec![short(m), Move::Stall], TIMEOUT),
    answer(
        "dripped_body",
        |m| {
            let length = format!("content-length: {}", m.lie.len());
            vec![
                Move::Send(head("200 OK", &[&length])),
                Move::Drip(m.lie.clone(), DRIP),
            ]
        },
        TIMEOUT,
    ),
    answer(
        "slow_body_in_time",
        |m| {
            let answer = whole("200 OK", &[], &m.good);
            let (front, back) = answer.split_at(answer.len() - 100);
            vec![
                Move::Send(front.to_vec()),
                Move::Pause(SHORT),
                Move::Send(back.to_vec()),
            ]
        },
        RIGHT,
    ),
    answer(
        "no_last_chunk",
        |m| vec![endless_start(m), Move::Close],
        INVALID,
    ),
    answer(
        "reset_between_chunks",
        |m| vec![endless_start(m), Move::Reset],
        INVALID,
    ),
    answer(
        "chunks_stall",
        |m| vec![endless_start(m), Move::Stall],
        TIMEOUT,
    ),
    answer(
        "bad_chunk_size",
        |m| vec![endless_start(m), Move::Send(b"zz\r\nxx".to_vec())],
        INVALID,
    ),
    answer(
        "huge_chunk_size",
        |m| {
            vec![
                endless_start(m),
                Move::Send(b"fffffffffffffffff\r\nxx".to_vec()),
            ]
        },
        INVALID,
    ),
    answer(
        "chunk_without_its_end",
        |m| {
            vec![
                endless_start(m),
                Move::Send(b"3\r\nabcdef\r\n0\r\n\r\n".to_vec()),
            ]
        },
        INVALID,
    ),
    answer(
        "chunk_extensions",
        |m| {
            let size = format!("{:x};note=\"a\"\r\n", m.good.len());
            vec![Move::Send(
                [
                    &head("200 OK", CHUNKED)[..],
                    size.as_bytes(),
                    &m.good,
                    b"\r\n0;end\r\n\r\n",
                ]
                .concat(),
            )]
        },
        RIGHT,
    ),
    answer(
        "trailers",
        |m| {
            let mut answer = chunked(&["trailer: x-note"], &m.good);
            answer.truncate(answer.len() - 2);
            vec![Move::Send(
                [&answer[..], b"x-note: 1\r\nstatus: completed\r\n\r\n"].concat(),
            )]
        },
        RIGHT,
    ),
    answer(
        "no_length_then_closed",
        |m| {
            vec![
                Move::Send([head("200 OK", &["connection: close"]), m.good.clone()].concat()),
                Move::Close,
            ]
        },
        RIGHT,
    ),
    answer(
        "longer_than_its_length",
        |m| {
            vec![Move::Send(
                [whole("200 OK", &[], &m.good), b"surplus".to_vec()].concat(),
            )]
        },
        RIGHT,
    ),
    answer(
        "another_answer_behind",
        |m| {
            vec![Move::Send(
                [whole("200 OK", &[], &m.good), whole("200 OK", &[], &m.lie)].concat(),
            )]
        },
        RIGHT,
    ),
    answer(
        "endless_chunks",
        |m| {
            vec![
                endless_start(m),
                Move::Repeat(chunk(&[b'x'; 16_000]), Duration::from_millis(10)),
            ]
        },
        CUT,
    ),
    answer(
        "too_large",
        |m| vec![Move::Send(whole("200 OK", &[], &large(m)))],
        PASSED,
    ),
    answer(
        "too_large_in_chunks",
        |m| vec![Move::Send(chunked(&[], &large(m)))],
        PASSED,
    ),
    answer(
        "too_large_truncated",
        |m| vec![large_front(m), Move::Close],
        CUT,
    ),
    answer(
        "too_large_reset",
        |m| vec![large_front(m), Move::Settle, Move::Reset],
        CUT,
    ),
    answer(
        "too_large_stalls",
        |m| vec![large_front(m), Move::Stall],
        CUT,
    ),
    answer(
        "too_large_without_end",
        |m| {
            vec![
                Move::Send([head("200 OK", CHUNKED), chunk(&large(m))].concat()),
                Move::Close,
            ]
        },
        CUT,
    ),
];
