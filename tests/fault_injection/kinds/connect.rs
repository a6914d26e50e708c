//! At the upstream's door: TCP and TLS.

use crate::kind::{Harm, Kind, RIGHT, TIMEOUT, UNREACHABLE};
use crate::origin::{Door, Flaw, Move, script};

pub(crate) const KINDS: &[Kind] = &[
    Kind::plain("refused", Harm::Door(Door::Refused), UNREACHABLE),
    Kind::plain("syn_dropped", Harm::Door(Door::Full), TIMEOUT),
    Kind::plain("black_hole", Harm::Door(Door::Silent), TIMEOUT),
    Kind::plain("reset_on_accept", Harm::Door(Door::Reset), UNREACHABLE),
    Kind::plain("closed_on_accept", Harm::Door(Door::Closed), UNREACHABLE),
    Kind::plain("slow_accept", Harm::Door(Door::Slow), RIGHT),
    Kind::tls("tls_stalled", Harm::Door(Door::Silent), TIMEOUT),
    Kind::tls("tls_reset", Harm::Door(Door::Reset), UNREACHABLE),
    Kind::tls(
        "tls_reset_after_hello",
        Harm::Door(Door::HelloReset),
        UNREACHABLE,
    ),
    Kind::tls(
        "tls_closed_after_hello",
        Harm::Door(Door::HelloClosed),
        UNREACHABLE,
    ),
    Kind::tls(
        "tls_plain_answer",
        Harm::Door(Door::Says(PLAIN)),
        UNREACHABLE,
    ),
    Kind::tls(
        "tls_garbage",
        Harm::Door(Door::Says(&[0xfe; 64])),
        UNREACHABLE,
    ),
    Kind::tls("tls_alert", Harm::Door(Door::Says(ALERT)), UNREACHABLE),
    Kind::tls(
        "tls_old_version",
        Harm::Door(Door::Says(OLD_HELLO)),
        UNREACHABLE,
    ),
    Kind::tls(
        "tls_expired",
        Harm::Door(Door::Certificate(Flaw::Expired)),
        UNREACHABLE,
    ),
    Kind::tls(
        "tls_other_name",
        Harm::Door(Door::Certificate(Flaw::OtherName)),
        UNREACHABLE,
    ),
    Kind::tls(
        "tls_self_signed",
        Harm::Door(Door::Certificate(Flaw::SelfSigned)),
        UNREACHABLE,
    ),
    Kind::tls(
        "tls_unknown_authority",
        Harm::Door(Door::Certificate(Flaw::UnknownAuthority)),
        UNREACHABLE,
    ),
    Kind::tls(
        "tls_cut_body_no_goodbye",
        Harm::Answer(|m| {
            let mut answer = script::whole("200 OK", &[], &m.lie);
            answer.truncate(answer.len() - 9);
            vec![Move::Send(answer), Move::Hush]
        }),
        crate::kind::INVALID,
    ),
    Kind::tls(
        "tls_unframed_body_no_goodbye",
        Harm::Answer(|m| {
            let lines = ["connection: close"];
            vec![
                Move::Send([script::head("200 OK", &lines), m.lie.clone()].concat()),
                Move::Hush,
            ]
        }),
        crate::kind::INVALID,
    ),
    Kind::tls(
        "tls_reset_in_body",
        Harm::Answer(|m| {
            let mut answer = script::whole("200 OK", &[], &m.lie);
            answer.truncate(answer.len() / 2 + 60);
            vec![Move::Send(answer), Move::Reset]
        }),
        crate::kind::BROKEN,
    ),
];

/// What a plain HTTP server says to a ClientHello.
const PLAIN: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// A fatal handshake_failure (RFC 8446 section 6).
const ALERT: &[u8] = &[21, 3, 3, 0, 2, 2, 40];

/// A ServerHello of TLS 1.1: RFC 4346 section 7.4.1.3.
const OLD_HELLO: &[u8] = &[
    22, 3, 2, 0, 42, 2, 0, 0, 38, 3, 2, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 0, 0, 0x2f, 0,
];
