//! In the status: an upstream that says no, and lies about the step while it does.

use crate::kind::{Expect, HELD, Harm, INVALID, Kind, PASSED};
use crate::origin::script::{head, whole};
use crate::origin::{Material, Move};

const fn answer(word: &'static str, make: fn(&Material) -> Vec<Move>, expect: Expect) -> Kind {
    Kind::plain(word, Harm::Answer(make), expect)
}

/// An error as the upstream words it.
fn says(status: &str, lines: &[&str]) -> Vec<Move> {
    let body = br#"{"error":{"message":"no","type":"rig","param":null,"code":"rig"}}"#;
    vec![Move::Send(whole(status, lines, body))]
}

/// A body that claims to be final, under a status that says otherwise.
fn lying(status: &str, m: &Material) -> Vec<Move> {
    vec![Move::Send(whole(status, &[], &m.lie))]
}

pub(crate) const KINDS: &[Kind] = &[
    answer(
        "429_retry_after",
        |_| says("429 Too Many Requests", &["retry-after: 1"]),
        HELD,
    ),
    answer(
        "429_retry_after_ms",
        |_| says("429 Too Many Requests", &["retry-after-ms: 100"]),
        HELD,
    ),
    answer(
        "429_retry_after_far",
        |_| says("429 Too Many Requests", &["retry-after: 86400"]),
        HELD,
    ),
    answer("429_plain", |_| says("429 Too Many Requests", &[]), PASSED),
    answer(
        "429_nonsense",
        |_| says("429 Too Many Requests", &["retry-after: soon"]),
        PASSED,
    ),
    answer(
        "429_too_large",
        |_| {
            let body = vec![b'x'; 150_000];
            vec![Move::Send(whole(
                "429 Too Many Requests",
                &["retry-after-ms: 50"],
                &body,
            ))]
        },
        HELD,
    ),
    answer(
        "503_retry_after",
        |_| says("503 Service Unavailable", &["retry-after: 1"]),
        PASSED,
    ),
    answer("503", |_| says("503 Service Unavailable", &[]), PASSED),
    answer(
        "500",
        |_| says("500 Internal Server Error", &["x-should-retry: false"]),
        PASSED,
    ),
    answer(
        "502_page",
        |_| {
            vec![Move::Send(whole(
                "502 Bad Gateway",
                &["server: x"],
                b"<html>Bad Gateway</html>",
            ))]
        },
        PASSED,
    ),
    answer("404", |_| says("404 Not Found", &[]), PASSED),
    answer("410", |_| says("410 Gone", &[]), PASSED),
    answer(
        "401",
        |_| says("401 Unauthorized", &["www-authenticate: Bearer"]),
        PASSED,
    ),
    answer("403", |_| says("403 Forbidden", &[]), PASSED),
    answer(
        "408",
        |_| says("408 Request Timeout", &["connection: close"]),
        PASSED,
    ),
    answer(
        "412_budget",
        |_| says("412 Precondition Failed", &[]),
        PASSED,
    ),
    answer(
        "302_elsewhere",
        |m| {
            says(
                "302 Found",
                &[&format!("location: http://{}/v1/x", m.elsewhere)],
            )
        },
        PASSED,
    ),
    answer(
        "307_elsewhere",
        |m| {
            says(
                "307 Temporary Redirect",
                &[&format!("location: http://{}/v1/x", m.elsewhere)],
            )
        },
        PASSED,
    ),
    answer("201_final", |m| lying("201 Created", m), PASSED),
    answer(
        "203_final",
        |m| lying("203 Non-Authoritative Information", m),
        PASSED,
    ),
    answer("206_final", |m| lying("206 Partial Content", m), PASSED),
    answer("404_final", |m| lying("404 Not Found", m), PASSED),
    answer(
        "500_final",
        |m| lying("500 Internal Server Error", m),
        PASSED,
    ),
    answer(
        "204",
        |_| vec![Move::Send(head("204 No Content", &[]))],
        PASSED,
    ),
    answer(
        "304_unasked",
        |_| vec![Move::Send(head("304 Not Modified", &["etag: \"x\""]))],
        INVALID,
    ),
    answer("999", |_| says("999 Odd", &[]), PASSED),
];
