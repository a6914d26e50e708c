//! What the upstream's body says.

use crate::kind::{Expect, Harm, Kind, PASSED};
use crate::origin::script::whole;
use crate::origin::{Material, Move};

const fn answer(word: &'static str, make: fn(&Material) -> Vec<Move>, expect: Expect) -> Kind {
    Kind::plain(word, Harm::Answer(make), expect)
}

/// The lie with a part exchanged, as a whole answer.
fn lying(m: &Material, from: &str, to: &str) -> Vec<Move> {
    let text = String::from_utf8_lossy(&m.lie).replace(from, to);
    says(text.as_bytes())
}

/// The lie with this line in its head.
fn marked(m: &Material, line: &str) -> Vec<Move> {
    vec![Move::Send(whole("200 OK", &[line], &m.lie))]
}

fn says(body: &[u8]) -> Vec<Move> {
    vec![Move::Send(whole("200 OK", &[], body))]
}

pub(crate) const KINDS: &[Kind] = &[
    answer(
        "gzip",
        |m| {
            let lines = ["content-encoding: gzip"];
            vec![Move::Send(whole(
                "200 OK",
                &lines,
                &[&[0x1f, 0x8b, 8, 0][..], &m.lie].concat(),
            ))]
        },
        PASSED,
    ),
    answer(
        "gzip_said_of_plain",
        |m| marked(m, "content-encoding: gzip"),
        PASSED,
    ),
    answer("empty", |_| says(b""), PASSED),
    answer(
        "byte_order_mark",
        |m| says(&[b"\xef\xbb\xbf", &m.lie[..]].concat()),
        PASSED,
    ),
    answer(
        "invalid_utf8",
        |m| {
            let mut body = m.lie.clone();
            let at = body.len() - 4;
            body.splice(at..at, *b",\"x\":\"\xff\xfe\"");
            says(&body)
        },
        PASSED,
    ),
    answer(
        "utf16",
        |m| {
            let text = String::from_utf8_lossy(&m.lie).into_owned();
            says(
                &text
                    .encode_utf16()
                    .flat_map(u16::to_be_bytes)
                    .collect::<Vec<_>>(),
            )
        },
        PASSED,
    ),
    answer(
        "deep_nesting",
        |m| {
            let deep = format!(
                "in_progress\",\"deep\":{}{},\"x\":\"",
                "[".repeat(30_000),
                "]".repeat(30_000)
            );
            lying(m, "completed", &deep)
        },
        PASSED,
    ),
    answer(
        "opened_and_never_closed",
        |_| says("[".repeat(60_000).as_bytes()),
        PASSED,
    ),
    answer(
        "duplicate_status",
        |m| lying(m, "\"version\"", "\"status\":\"in_progress\",\"version\""),
        PASSED,
    ),
    answer(
        "duplicate_escaped",
        |m| {
            lying(
                m,
                "\"version\"",
                "\"st\\u0061tus\":\"in_progress\",\"version\"",
            )
        },
        PASSED,
    ),
    answer(
        "duplicate_id",
        |m| lying(m, "\"version\"", "\"id\":\"step_other\",\"version\""),
        PASSED,
    ),
    answer(
        "wrong_id",
        |m| lying(m, "\"id\":\"step", "\"id\":\"pets"),
        PASSED,
    ),
    answer(
        "wrong_run",
        |m| lying(m, "\"run_id\":\"run", "\"run_id\":\"nur"),
        PASSED,
    ),
    answer(
        "wrong_thread",
        |m| lying(m, "\"thread_id\":\"t", "\"thread_id\":\"d"),
        PASSED,
    ),
    answer(
        "wrong_object",
        |m| lying(m, "thread.run.step", "thread.run"),
        PASSED,
    ),
    answer(
        "status_in_capitals",
        |m| lying(m, "completed", "COMPLETED"),
        PASSED,
    ),
    answer("status_null", |m| lying(m, "\"completed\"", "null"), PASSED),
    answer(
        "status_nested",
        |m| {
            lying(
                m,
                "\"status\":\"completed\"",
                "\"x\":{\"status\":\"completed\"}",
            )
        },
        PASSED,
    ),
    answer(
        "status_of_a_run",
        |m| lying(m, "completed", "requires_action"),
        PASSED,
    ),
    answer(
        "array",
        |m| says(&[b"[", &m.lie[..], b"]"].concat()),
        PASSED,
    ),
    answer(
        "trailing_bytes",
        |m| says(&[&m.lie[..], b" {}"].concat()),
        PASSED,
    ),
    answer("aged", |m| marked(m, "age: 5"), PASSED),
    answer("no_store", |m| marked(m, "cache-control: no-store"), PASSED),
    answer(
        "cached_upstream",
        |m| marked(m, "x-portkey-cache-status: HIT"),
        PASSED,
    ),
];
