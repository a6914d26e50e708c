//! In the life of a connection: reuse, goodbyes, streams.

use super::SHORT;
use crate::kind::{Expect, Harm, INVALID, Kind, RIGHT, TIMEOUT, UNREACHABLE};
use crate::origin::script::whole;
use crate::origin::{Material, Move, Stream};

const fn reused(word: &'static str, make: fn(&Material) -> Vec<Move>, expect: Expect) -> Kind {
    Kind::plain(word, Harm::Reused(make), expect)
}

const fn answer(word: &'static str, make: fn(&Material) -> Vec<Move>) -> Kind {
    Kind::plain(word, Harm::Answer(make), RIGHT)
}

const fn stream(word: &'static str, stream: Stream, expect: Expect) -> Kind {
    Kind::http2(word, Harm::Stream(stream), expect)
}

/// Behind these answers more is said. A request that is under way by then cannot tell it from its
/// own answer, so nobody may be: not even a right gateway could keep the others untouched.
pub(crate) const UNASKED: [&str; 2] = ["speaks_unasked", "lies_unasked"];

/// The good answer, whole.
fn good(m: &Material) -> Move {
    Move::Send(whole("200 OK", &[], &m.good))
}

pub(crate) const KINDS: &[Kind] = &[
    reused("closed_on_reuse", |_| vec![Move::Close], RIGHT),
    reused("reset_on_reuse", |_| vec![Move::Reset], RIGHT),
    reused(
        "closed_on_reuse_after_a_byte",
        |_| vec![Move::Send(b"H".to_vec()), Move::Close],
        UNREACHABLE,
    ),
    reused(
        "closed_on_reuse_late",
        |_| vec![Move::Pause(SHORT), Move::Close],
        RIGHT,
    ),
    Kind::tls(
        "tls_closed_on_reuse",
        Harm::Reused(|_| vec![Move::Close]),
        RIGHT,
    ),
    Kind::tls(
        "tls_hushed_on_reuse",
        Harm::Reused(|_| vec![Move::Hush]),
        RIGHT,
    ),
    answer("closed_behind_answer", |m| vec![good(m), Move::Close]),
    answer("reset_behind_answer", |m| {
        vec![good(m), Move::Pause(SHORT), Move::Reset]
    }),
    answer("closes_as_it_said", |m| {
        vec![
            Move::Send(whole("200 OK", &["connection: close"], &m.good)),
            Move::Close,
        ]
    }),
    answer("keeps_open_though_it_said", |m| {
        vec![
            Move::Send(whole("200 OK", &["connection: close"], &m.good)),
            Move::Stall,
        ]
    }),
    answer("speaks_unasked", |m| {
        let late = whole("408 Request Timeout", &["connection: close"], &m.lie);
        vec![good(m), Move::Pause(SHORT), Move::Send(late), Move::Close]
    }),
    answer("lies_unasked", |m| {
        vec![
            good(m),
            Move::Pause(SHORT),
            Move::Send(whole("200 OK", &[], &m.lie)),
        ]
    }),
    stream("h2_goodbye_behind_answer", Stream::GoodbyeBehind, RIGHT),
    stream("h2_goodbye_unprocessed", Stream::GoodbyeBefore, RIGHT),
    stream("h2_enhance_your_calm", Stream::Calm, RIGHT),
    stream("h2_refused_stream", Stream::Refused, RIGHT),
    stream("h2_reset_stream", Stream::Reset, RIGHT),
    stream("h2_reset_in_body", Stream::ResetInBody, INVALID),
    stream("h2_cut", Stream::Cut, RIGHT),
    stream("h2_cut_in_body", Stream::CutInBody, INVALID),
    stream("h2_stalled", Stream::Stalled, TIMEOUT),
    stream("h2_stalled_in_body", Stream::StalledInBody, TIMEOUT),
    stream("h2_shorter_than_length", Stream::Short, INVALID),
    stream("h2_interim_then_answer", Stream::Interim, RIGHT),
    stream("h2_trailers", Stream::Trailers, RIGHT),
    stream("h2_refused_always", Stream::RefusedAlways, UNREACHABLE),
];
