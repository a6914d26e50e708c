//! An upstream that echoes the injected secret.

use crate::kind::{Expect, Harm, INVALID, Kind, PASSED, RIGHT};
use crate::origin::script::{chunked, whole};
use crate::origin::{Material, Move};

const fn answer(word: &'static str, make: fn(&Material) -> Vec<Move>, expect: Expect) -> Kind {
    Kind::plain(word, Harm::Answer(make), expect)
}

fn good_with(m: &Material, line: &str) -> Vec<Move> {
    vec![Move::Send(whole("200 OK", &[line], &m.good))]
}

fn error_with(text: &str) -> Vec<Move> {
    let body = format!(r#"{{"error":{{"message":"bad key {text}"}}}}"#);
    vec![Move::Send(whole("401 Unauthorized", &[], body.as_bytes()))]
}

/// Its first letter written as JSON may write it.
fn escaped(secret: &str) -> String {
    format!("\\u0063{}", &secret[1..])
}

pub(crate) const KINDS: &[Kind] = &[
    answer(
        "secret_in_header",
        |m| good_with(m, &format!("x-debug: key={}", m.secret)),
        RIGHT,
    ),
    answer(
        "secret_in_header_name",
        |m| good_with(m, &format!("x-{}: 1", m.secret)),
        RIGHT,
    ),
    answer(
        "secret_in_cookie",
        |m| good_with(m, &format!("set-cookie: k={}", m.secret)),
        RIGHT,
    ),
    answer(
        "secret_in_content_type",
        |m| good_with(m, &format!("content-type: x/{}", m.secret)),
        RIGHT,
    ),
    answer(
        "secret_in_reason",
        |m| {
            vec![Move::Send(whole(
                &format!("200 {}", m.secret),
                &[],
                &m.good,
            ))]
        },
        RIGHT,
    ),
    answer(
        "secret_in_trailer",
        |m| {
            let mut answer = chunked(&[], &m.good);
            answer.truncate(answer.len() - 2);
            vec![Move::Send(
                [
                    &answer[..],
                    format!("x-key: {}\r\n\r\n", m.secret).as_bytes(),
                ]
                .concat(),
            )]
        },
        RIGHT,
    ),
    answer(
        "secret_in_chunk_extension",
        |m| {
            let size = format!("{:x};key={}\r\n", m.good.len(), m.secret);
            let head = crate::origin::script::head("200 OK", &["transfer-encoding: chunked"]);
            vec![Move::Send(
                [&head[..], size.as_bytes(), &m.good, b"\r\n0\r\n\r\n"].concat(),
            )]
        },
        RIGHT,
    ),
    answer(
        "secret_in_redirect",
        |m| {
            let line = format!("location: http://{}/?key={}", m.elsewhere, m.secret);
            vec![Move::Send(whole("302 Found", &[&line], b"{}"))]
        },
        PASSED,
    ),
    answer("secret_in_error", |m| error_with(&m.secret), INVALID),
    answer(
        "secret_escaped_in_error",
        |m| error_with(&escaped(&m.secret)),
        INVALID,
    ),
    answer(
        "secret_percent_coded_in_error",
        |m| error_with(&m.secret.replace('c', "%63")),
        INVALID,
    ),
    answer(
        "secret_in_large_error",
        |m| {
            let body = format!("{} {}", m.secret, "x".repeat(150_000));
            vec![Move::Send(whole(
                "500 Internal Server Error",
                &[],
                body.as_bytes(),
            ))]
        },
        INVALID,
    ),
    answer(
        "secret_in_429",
        |m| {
            let body = format!("slow down, {}", m.secret);
            vec![Move::Send(whole(
                "429 Too Many Requests",
                &["retry-after-ms: 30"],
                body.as_bytes(),
            ))]
        },
        INVALID,
    ),
    answer(
        "secret_in_malformed_head",
        |m| {
            vec![Move::Send(
                format!("HTTP/1.1 200 OK\r\n{}\r\n\r\n", m.secret).into_bytes(),
            )]
        },
        INVALID,
    ),
];
