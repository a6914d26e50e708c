//! In the head of the upstream's answer.

use super::{DRIP, LONG, SHORT};
use crate::kind::{BROKEN, Harm, INVALID, Kind, LENIENT, RIGHT, TIMEOUT, UNREACHABLE};
use crate::origin::script::{chunked, head, whole};
use crate::origin::{Material, Move};

const fn answer(
    word: &'static str,
    make: fn(&Material) -> Vec<Move>,
    expect: crate::kind::Expect,
) -> Kind {
    Kind::plain(word, Harm::Answer(make), expect)
}

/// Text in front of the lie, as if it were an answer's head.
fn raw(text: &str, m: &Material) -> Vec<Move> {
    vec![Move::Send([text.as_bytes(), &m.lie].concat())]
}

/// The lie, with this line in its head.
fn with_line(line: &str, m: &Material) -> Vec<Move> {
    vec![Move::Send(whole("200 OK", &[line], &m.lie))]
}

/// Half of a good head.
fn half() -> Move {
    let mut half = head("200 OK", &["content-length: 300"]);
    half.truncate(40);
    Move::Send(half)
}

pub(crate) const KINDS: &[Kind] = &[
    answer("reset_before_head", |_| vec![Move::Reset], UNREACHABLE),
    answer("closed_before_head", |_| vec![Move::Close], UNREACHABLE),
    answer("silent_before_head", |_| vec![Move::Stall], TIMEOUT),
    answer(
        "slower_than_deadline",
        |m| vec![Move::Pause(LONG), Move::Send(whole("200 OK", &[], &m.good))],
        TIMEOUT,
    ),
    answer(
        "slow_but_in_time",
        |m| {
            vec![
                Move::Pause(SHORT),
                Move::Send(whole("200 OK", &[], &m.good)),
            ]
        },
        RIGHT,
    ),
    answer("reset_in_head", |_| vec![half(), Move::Reset], BROKEN),
    answer("closed_in_head", |_| vec![half(), Move::Close], BROKEN),
    answer("silent_in_head", |_| vec![half(), Move::Stall], TIMEOUT),
    answer(
        "dripped_head",
        |m| vec![Move::Drip(whole("200 OK", &[], &m.lie), DRIP)],
        TIMEOUT,
    ),
    answer(
        "status_not_a_number",
        |m| raw("HTTP/1.1 2x0 OK\r\n\r\n", m),
        INVALID,
    ),
    answer("status_missing", |m| raw("HTTP/1.1\r\n\r\n", m), INVALID),
    answer(
        "no_head",
        |m| vec![Move::Send(m.lie.clone()), Move::Close],
        INVALID,
    ),
    answer(
        "http09",
        |_| vec![Move::Send(b"<html>hello</html>\r\n".to_vec()), Move::Close],
        INVALID,
    ),
    answer(
        "another_protocol",
        |_| vec![Move::Send(b"SSH-2.0-OpenSSH_9.9\r\n".to_vec())],
        INVALID,
    ),
    answer(
        "wrong_version",
        |m| raw("HTTP/3.7 200 OK\r\ncontent-length: 10\r\n\r\n", m),
        INVALID,
    ),
    answer(
        "bare_line_feeds",
        |m| {
            let head = format!("HTTP/1.1 200 OK\ncontent-length: {}\n\n", m.good.len());
            vec![Move::Send([head.as_bytes(), &m.good].concat())]
        },
        LENIENT,
    ),
    answer("cr_in_value", |m| with_line("x-note: a\rb: c", m), INVALID),
    answer("nul_in_value", |m| with_line("x-note: a\0b", m), INVALID),
    answer(
        "space_before_colon",
        |m| with_line("x-note : a", m),
        INVALID,
    ),
    answer("folded_line", |m| with_line("x-note: a\r\n b", m), INVALID),
    answer("line_without_colon", |m| with_line("nonsense", m), INVALID),
    answer(
        "two_lengths",
        |m| with_line("content-length: 7", m),
        INVALID,
    ),
    answer(
        "negative_length",
        |m| raw("HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n", m),
        INVALID,
    ),
    answer(
        "hexadecimal_length",
        |m| raw("HTTP/1.1 200 OK\r\ncontent-length: 0x40\r\n\r\n", m),
        INVALID,
    ),
    answer(
        "length_and_chunked",
        |m| vec![Move::Send(chunked(&["content-length: 5"], &m.good))],
        RIGHT,
    ),
    answer(
        "interim_answers",
        |m| {
            let hints =
                "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n";
            vec![Move::Send(
                [hints.as_bytes(), &whole("200 OK", &[], &m.good)].concat(),
            )]
        },
        RIGHT,
    ),
    answer(
        "interim_flood",
        |_| {
            let hint = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".repeat(50);
            vec![Move::Repeat(hint, DRIP)]
        },
        TIMEOUT,
    ),
    answer(
        "switching_protocols",
        |_| {
            let lines = ["upgrade: websocket", "connection: upgrade"];
            vec![
                Move::Send(head("101 Switching Protocols", &lines)),
                Move::Stall,
            ]
        },
        INVALID,
    ),
    answer(
        "large_head",
        |m| with_line(&format!("x-note: {}", "a".repeat(600_000)), m),
        INVALID,
    ),
    answer(
        "many_headers",
        |m| {
            let many = (0..300)
                .map(|n| format!("x-note-{n}: a\r\n"))
                .collect::<String>();
            with_line(many.trim_end(), m)
        },
        INVALID,
    ),
    answer(
        "bytes_of_a_head_above_ascii",
        |m| {
            let mut bytes = whole("200 OK", &["x-note: @@@"], &m.good);
            bytes
                .iter_mut()
                .filter(|b| **b == b'@')
                .for_each(|b| *b = 0xe9);
            vec![Move::Send(bytes)]
        },
        RIGHT,
    ),
];
