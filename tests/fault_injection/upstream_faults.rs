//! The faults of the upstream, as tables: one row for each.

use std::time::Duration;

use crate::fault::{
    CORRECT, DRIP, Effect, Fault, INVALID, LENIENT, LONG, LOST, PASSED, RATE_LIMITED, SHORT,
    TIMEOUT, TRUNCATED, UNREACHABLE, faults,
};
use crate::fixtures::certificates::{Flaw, TLS_1_1_SERVER_HELLO};
use crate::fixtures::origin::Action::{
    Close, Cut, Drip, Flood, Pause, Reset, Send, Stall, WaitUntilRead,
};
use crate::fixtures::origin::{Action, Connections, Protocol, StreamFault};
use crate::fixtures::response::chunk;
use crate::upstream::Material;

/// More than `cache.max_entry_bytes` of the gateways under test.
const LARGE: usize = 200_000;

/// The status line of a fault that is not in the status.
const OK: &str = "200 OK";

/// The response of a plain HTTP server to a ClientHello.
const PLAIN: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// A fatal handshake_failure (RFC 8446 section 6).
const ALERT: &[u8] = &[21, 3, 3, 0, 2, 2, 40];

const CHUNKED: &str = "transfer-encoding: chunked";
const CLOSING: &str = "connection: close";

/// Faults with these names send more behind a response. A request that is sent by then cannot tell
/// it from its own response, so none may be: not even a correct gateway could protect it.
pub(crate) const UNSOLICITED: [&str; 2] = ["unsolicited_408", "unsolicited_response"];

/// Returns a status line, header lines, and the empty line.
fn head(status: &str, lines: &[&str]) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\n");
    for line in lines {
        head.push_str(line);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// Returns a whole response with its length.
pub(crate) fn whole(status: &str, lines: &[&str], body: &[u8]) -> Vec<u8> {
    let length = format!("content-length: {}", body.len());
    [head(status, &[lines, &[&length]].concat()), body.to_vec()].concat()
}

/// Returns a whole 200 in three chunks.
pub(crate) fn chunked(lines: &[&str], body: &[u8]) -> Vec<u8> {
    let (front, back) = body.split_at(body.len() / 3);
    let (middle, back) = back.split_at(back.len() / 2);
    let chunks = [front, middle, back, b""].map(chunk).concat();
    [head(OK, &[lines, &[CHUNKED]].concat()), chunks].concat()
}

/// Sends this status and this body.
fn send(status: &str, lines: &[&str], body: &[u8]) -> Action {
    Send(whole(status, lines, body))
}

/// Sends an error as the upstream words it.
fn error(status: &str, lines: &[&str]) -> [Action; 1] {
    let body = br#"{"error":{"message":"no","type":"fault","param":null,"code":"fault"}}"#;
    [send(status, lines, body)]
}

/// Sends a 401 that contains this text.
fn unauthorized(text: &str) -> [Action; 1] {
    let body = format!(r#"{{"error":{{"message":"bad key {text}"}}}}"#);
    [send("401 Unauthorized", &[], body.as_bytes())]
}

/// Sends these bytes, and then a body that claims to be final.
fn raw(text: &str, m: &Material) -> [Action; 1] {
    [Send([text.as_bytes(), &m.false_final].concat())]
}

impl Material {
    /// Sends the right body, with this line in its head.
    fn good_with(&self, line: &str) -> [Action; 1] {
        [send(OK, &[line], &self.good)]
    }

    /// Sends a body that claims to be final, with this line in its head.
    fn false_with(&self, line: &str) -> [Action; 1] {
        [send(OK, &[line], &self.false_final)]
    }

    /// Sends a body that claims to be final, with a part of it replaced.
    fn replaced(&self, from: &str, to: &str) -> [Action; 1] {
        let text = String::from_utf8_lossy(&self.false_final);
        assert!(text.contains(from), "{from} in {text}");
        [send(OK, &[], text.replace(from, to).as_bytes())]
    }

    /// Adds a member to a body that claims to be final.
    fn with_member(&self, member: &str) -> [Action; 1] {
        self.replaced("\"version\"", &format!("{member},\"version\""))
    }

    /// Sends the head and a part of a body that claims to be final.
    fn short(&self, missing: usize) -> Action {
        let mut response = whole(OK, &[], &self.false_final);
        response.truncate(response.len() - missing);
        Send(response)
    }

    /// Sends a chunk of a body that claims to be final, and not the last chunk.
    fn first_chunk(&self) -> Action {
        Send([head(OK, &[CHUNKED]), chunk(&self.false_final)].concat())
    }

    /// Returns a large body that claims to be final.
    fn large(&self) -> Vec<u8> {
        let text = String::from_utf8_lossy(&self.false_final);
        let filler = format!("\"false\":\"{}\"", "x".repeat(LARGE));
        text.replace("\"false\":true", &filler).into_bytes()
    }

    /// Sends the head and a part of a large body.
    fn large_front(&self) -> Action {
        let mut response = whole(OK, &[], &self.large());
        response.truncate(LARGE / 2);
        Send(response)
    }

    /// Sends the right body in one chunk with this extension, and this line as the last chunk.
    fn chunk_with(&self, extension: &str, last: &str) -> [Action; 1] {
        let size = format!("{:x};{extension}\r\n", self.good.len());
        let end = format!("\r\n{last}\r\n\r\n");
        let head = head(OK, &[CHUNKED]);
        [Send(
            [&head, size.as_bytes(), &self.good, end.as_bytes()].concat(),
        )]
    }
}

/// Sends the first half of a head.
fn half_head() -> Action {
    let mut half = head(OK, &["content-length: 300"]);
    half.truncate(40);
    Send(half)
}

/// Returns the bytes of a body that is not UTF-8.
fn invalid_utf8(m: &Material) -> Vec<u8> {
    let mut body = m.false_final.clone();
    let at = body.len() - 4;
    body.splice(at..at, *b",\"x\":\"\xff\xfe\"");
    body
}

fn utf16(m: &Material) -> Vec<u8> {
    let text = String::from_utf8_lossy(&m.false_final).into_owned();
    text.encode_utf16().flat_map(u16::to_be_bytes).collect()
}

/// Returns a whole response whose head has bytes above ASCII.
fn above_ascii(m: &Material) -> Vec<u8> {
    let mut bytes = whole(OK, &["x-note: @@@"], &m.good);
    for byte in bytes.iter_mut().filter(|byte| **byte == b'@') {
        *byte = 0xe9;
    }
    bytes
}

pub(crate) const CONNECTIONS: &[Fault] = faults! {
    "refused" => UNREACHABLE, Http1, Connections Connections::Refuse;
    "syn_dropped" => TIMEOUT, Http1, Connections Connections::DropSyn;
    "black_hole" => TIMEOUT, Http1, Connections Connections::Stall;
    "reset_on_accept" => UNREACHABLE, Http1, Connections Connections::Reset;
    "closed_on_accept" => UNREACHABLE, Http1, Connections Connections::Close;
    "slow_accept" => CORRECT, Http1, Connections Connections::Delay;
    "tls_stalled" => TIMEOUT, Http1Tls, Connections Connections::Stall;
    "tls_reset" => UNREACHABLE, Http1Tls, Connections Connections::Reset;
    "tls_reset_after_hello" => UNREACHABLE, Http1Tls, Connections Connections::ResetAfterHello;
    "tls_closed_after_hello" => UNREACHABLE, Http1Tls, Connections Connections::CloseAfterHello;
    "tls_plain_response" => UNREACHABLE, Http1Tls, Connections Connections::SendAfterHello(PLAIN);
    "tls_garbage" => UNREACHABLE, Http1Tls, Connections Connections::SendAfterHello(&[0xfe; 64]);
    "tls_alert" => UNREACHABLE, Http1Tls, Connections Connections::SendAfterHello(ALERT);
    "tls_old_version" => UNREACHABLE, Http1Tls,
        Connections Connections::SendAfterHello(TLS_1_1_SERVER_HELLO);
    "tls_expired" => UNREACHABLE, Http1Tls, Connections Connections::Certificate(Flaw::Expired);
    "tls_other_name" => UNREACHABLE, Http1Tls,
        Connections Connections::Certificate(Flaw::OtherName);
    "tls_self_signed" => UNREACHABLE, Http1Tls,
        Connections Connections::Certificate(Flaw::SelfSigned);
    "tls_unknown_authority" => UNREACHABLE, Http1Tls,
        Connections Connections::Certificate(Flaw::UnknownAuthority);
};

pub(crate) const TLS_RESPONSES: &[Fault] = faults! { Http1Tls Response:
    "tls_truncated_without_close_notify" => INVALID, |m| [m.short(9), Cut];
    "tls_unframed_without_close_notify" => INVALID,
        |m| [Send([head(OK, &[CLOSING]), m.false_final.clone()].concat()), Cut];
    "tls_reset_in_body" => LOST, |m| [m.short(m.false_final.len() / 2), Reset];
};

pub(crate) const RESPONSES: &[Fault] = faults! { Http1 Response:
    // The head.
    "reset_before_head" => UNREACHABLE, |_| [Reset];
    "closed_before_head" => UNREACHABLE, |_| [Close];
    "silent_before_head" => TIMEOUT, |_| [Stall];
    "slower_than_deadline" => TIMEOUT, |m| [Pause(LONG), send(OK, &[], &m.good)];
    "slow_but_in_time" => CORRECT, |m| [Pause(SHORT), send(OK, &[], &m.good)];
    "reset_in_head" => LOST, |_| [half_head(), Reset];
    "closed_in_head" => LOST, |_| [half_head(), Close];
    "silent_in_head" => TIMEOUT, |_| [half_head(), Stall];
    "dripped_head" => TIMEOUT, |m| [Drip(whole(OK, &[], &m.false_final), DRIP)];
    "status_not_a_number" => INVALID, |m| raw("HTTP/1.1 2x0 OK\r\n\r\n", m);
    "status_missing" => INVALID, |m| raw("HTTP/1.1\r\n\r\n", m);
    "no_head" => INVALID, |m| [Send(m.false_final.clone()), Close];
    "http09" => INVALID, |_| [Send(b"<html>hello</html>\r\n".to_vec()), Close];
    "another_protocol" => INVALID, |_| [Send(b"SSH-2.0-OpenSSH_9.9\r\n".to_vec())];
    "wrong_version" => INVALID, |m| raw("HTTP/3.7 200 OK\r\ncontent-length: 10\r\n\r\n", m);
    "bare_line_feeds" => LENIENT, |m| {
        let head = format!("HTTP/1.1 200 OK\ncontent-length: {}\n\n", m.good.len());
        [Send([head.as_bytes(), &m.good].concat())]
    };
    "cr_in_value" => INVALID, |m| m.false_with("x-note: a\rb: c");
    "nul_in_value" => INVALID, |m| m.false_with("x-note: a\0b");
    "space_before_colon" => INVALID, |m| m.false_with("x-note : a");
    "obsolete_line_folding" => INVALID, |m| m.false_with("x-note: a\r\n b");
    "line_without_colon" => INVALID, |m| m.false_with("nonsense");
    "two_content_lengths" => INVALID, |m| m.false_with("content-length: 7");
    "negative_content_length" => INVALID,
        |m| raw("HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n", m);
    "hexadecimal_content_length" => INVALID,
        |m| raw("HTTP/1.1 200 OK\r\ncontent-length: 0x40\r\n\r\n", m);
    "content_length_and_chunked" => CORRECT, |m| [Send(chunked(&["content-length: 5"], &m.good))];
    "interim_responses" => CORRECT, |m| {
        let hints = "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n";
        [Send([hints.as_bytes(), &whole(OK, &[], &m.good)].concat())]
    };
    "interim_flood" => TIMEOUT,
        |_| [Flood(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".repeat(50), DRIP)];
    "switching_protocols" => INVALID, |_| {
        let lines = ["upgrade: websocket", "connection: upgrade"];
        [Send(head("101 Switching Protocols", &lines)), Stall]
    };
    "large_head" => INVALID, |m| m.false_with(&format!("x-note: {}", "a".repeat(600_000)));
    "many_headers" => INVALID, |m| {
        let many: String = (0..300).map(|n| format!("x-note-{n}: a\r\n")).collect();
        m.false_with(many.trim_end())
    };
    "head_above_ascii" => CORRECT, |m| [Send(above_ascii(m))];

    // The framing of the body.
    "truncated_length" => INVALID, |m| [m.short(20), Close];
    "truncated_by_reset" => INVALID, |m| [m.short(20), Reset];
    "body_stalls" => TIMEOUT, |m| [m.short(20), Stall];
    "dripped_body" => TIMEOUT, |m| {
        let length = format!("content-length: {}", m.false_final.len());
        [Send(head(OK, &[&length])), Drip(m.false_final.clone(), DRIP)]
    };
    "slow_body_in_time" => CORRECT, |m| {
        let response = whole(OK, &[], &m.good);
        let (front, back) = response.split_at(response.len() - 100);
        [Send(front.to_vec()), Pause(SHORT), Send(back.to_vec())]
    };
    "no_last_chunk" => INVALID, |m| [m.first_chunk(), Close];
    "reset_between_chunks" => INVALID, |m| [m.first_chunk(), Reset];
    "chunks_stall" => TIMEOUT, |m| [m.first_chunk(), Stall];
    "bad_chunk_size" => INVALID, |m| [m.first_chunk(), Send(b"zz\r\nxx".to_vec())];
    "huge_chunk_size" => INVALID,
        |m| [m.first_chunk(), Send(b"fffffffffffffffff\r\nxx".to_vec())];
    "chunk_longer_than_its_size" => INVALID,
        |m| [m.first_chunk(), Send(b"3\r\nabcdef\r\n0\r\n\r\n".to_vec())];
    "chunk_extensions" => CORRECT, |m| m.chunk_with("note=\"a\"", "0;end");
    "trailers" => CORRECT, |m| {
        let mut response = chunked(&["trailer: x-note"], &m.good);
        response.truncate(response.len() - 2);
        [Send([&response[..], b"x-note: 1\r\nstatus: completed\r\n\r\n"].concat())]
    };
    "no_length_then_closed" => CORRECT,
        |m| [Send([head(OK, &[CLOSING]), m.good.clone()].concat()), Close];
    "longer_than_its_length" => CORRECT,
        |m| [Send([whole(OK, &[], &m.good), b"surplus".to_vec()].concat())];
    "another_response_behind" => CORRECT,
        |m| [Send([whole(OK, &[], &m.good), whole(OK, &[], &m.false_final)].concat())];
    "endless_chunks" => TRUNCATED,
        |m| [m.first_chunk(), Flood(chunk(&[b'x'; 16_000]), Duration::from_millis(10))];
    "too_large" => PASSED, |m| [send(OK, &[], &m.large())];
    "too_large_in_chunks" => PASSED, |m| [Send(chunked(&[], &m.large()))];
    "too_large_truncated" => TRUNCATED, |m| [m.large_front(), Close];
    "too_large_reset" => TRUNCATED, |m| [m.large_front(), WaitUntilRead, Reset];
    "too_large_stalls" => TRUNCATED, |m| [m.large_front(), Stall];
    "too_large_without_end" => TRUNCATED,
        |m| [Send([head(OK, &[CHUNKED]), chunk(&m.large())].concat()), Close];

    // The body.
    "gzip" => PASSED, |m| {
        let body = [&[0x1f, 0x8b, 8, 0][..], &m.false_final].concat();
        [send(OK, &["content-encoding: gzip"], &body)]
    };
    "gzip_said_of_plain" => PASSED, |m| m.false_with("content-encoding: gzip");
    "empty" => PASSED, |_| [send(OK, &[], b"")];
    "byte_order_mark" => PASSED,
        |m| [send(OK, &[], &[b"\xef\xbb\xbf", &m.false_final[..]].concat())];
    "invalid_utf8" => PASSED, |m| [send(OK, &[], &invalid_utf8(m))];
    "utf16" => PASSED, |m| [send(OK, &[], &utf16(m))];
    "deep_nesting" => PASSED, |m| {
        let (open, close) = ("[".repeat(30_000), "]".repeat(30_000));
        m.replaced("completed", &format!("in_progress\",\"deep\":{open}{close},\"x\":\""))
    };
    "opened_and_never_closed" => PASSED, |_| [send(OK, &[], "[".repeat(60_000).as_bytes())];
    "duplicate_status" => PASSED, |m| m.with_member("\"status\":\"in_progress\"");
    "duplicate_escaped" => PASSED, |m| m.with_member("\"st\\u0061tus\":\"in_progress\"");
    "duplicate_id" => PASSED, |m| m.with_member("\"id\":\"step_other\"");
    "wrong_id" => PASSED, |m| m.replaced("\"id\":\"step", "\"id\":\"pets");
    "wrong_run" => PASSED, |m| m.replaced("\"run_id\":\"run", "\"run_id\":\"nur");
    "wrong_thread" => PASSED, |m| m.replaced("\"thread_id\":\"t", "\"thread_id\":\"d");
    "wrong_object" => PASSED, |m| m.replaced("thread.run.step", "thread.run");
    "status_in_capitals" => PASSED, |m| m.replaced("completed", "COMPLETED");
    "status_null" => PASSED, |m| m.replaced("\"completed\"", "null");
    "status_nested" => PASSED,
        |m| m.replaced("\"status\":\"completed\"", "\"x\":{\"status\":\"completed\"}");
    "status_of_a_run" => PASSED, |m| m.replaced("completed", "requires_action");
    "array" => PASSED, |m| [send(OK, &[], &[b"[", &m.false_final[..], b"]"].concat())];
    "trailing_bytes" => PASSED, |m| [send(OK, &[], &[&m.false_final[..], b" {}"].concat())];
    "aged" => PASSED, |m| m.false_with("age: 5");
    "no_store" => PASSED, |m| m.false_with("cache-control: no-store");
    "cached_upstream" => PASSED, |m| m.false_with("x-portkey-cache-status: HIT");

    // The status.
    "429_retry_after" => RATE_LIMITED, |_| error("429 Too Many Requests", &["retry-after: 1"]);
    "429_retry_after_ms" => RATE_LIMITED,
        |_| error("429 Too Many Requests", &["retry-after-ms: 100"]);
    "429_retry_after_far" => RATE_LIMITED,
        |_| error("429 Too Many Requests", &["retry-after: 86400"]);
    "429_plain" => PASSED, |_| error("429 Too Many Requests", &[]);
    "429_nonsense" => PASSED, |_| error("429 Too Many Requests", &["retry-after: soon"]);
    "429_too_large" => RATE_LIMITED,
        |_| [send("429 Too Many Requests", &["retry-after-ms: 50"], &[b'x'; 150_000])];
    "503_retry_after" => PASSED, |_| error("503 Service Unavailable", &["retry-after: 1"]);
    "503" => PASSED, |_| error("503 Service Unavailable", &[]);
    "500" => PASSED, |_| error("500 Internal Server Error", &["x-should-retry: false"]);
    "502_page" => PASSED,
        |_| [send("502 Bad Gateway", &["server: x"], b"<html>Bad Gateway</html>")];
    "404" => PASSED, |_| error("404 Not Found", &[]);
    "410" => PASSED, |_| error("410 Gone", &[]);
    "401" => PASSED, |_| error("401 Unauthorized", &["www-authenticate: Bearer"]);
    "403" => PASSED, |_| error("403 Forbidden", &[]);
    "408" => PASSED, |_| error("408 Request Timeout", &[CLOSING]);
    "412_budget" => PASSED, |_| error("412 Precondition Failed", &[]);
    "302_elsewhere" => PASSED,
        |m| error("302 Found", &[&format!("location: http://{}/v1/x", m.elsewhere)]);
    "307_elsewhere" => PASSED,
        |m| error("307 Temporary Redirect", &[&format!("location: http://{}/v1/x", m.elsewhere)]);
    "201_final" => PASSED, |m| [send("201 Created", &[], &m.false_final)];
    "203_final" => PASSED,
        |m| [send("203 Non-Authoritative Information", &[], &m.false_final)];
    "206_final" => PASSED, |m| [send("206 Partial Content", &[], &m.false_final)];
    "404_final" => PASSED, |m| [send("404 Not Found", &[], &m.false_final)];
    "500_final" => PASSED, |m| [send("500 Internal Server Error", &[], &m.false_final)];
    "204" => PASSED, |_| [Send(head("204 No Content", &[]))];
    "304_unasked" => INVALID, |_| [Send(head("304 Not Modified", &["etag: \"x\""]))];
    "999" => PASSED, |_| error("999 Odd", &[]);

    // Echoes of the injected secret.
    "secret_in_header" => CORRECT, |m| m.good_with(&format!("x-debug: key={}", m.secret));
    "secret_in_header_name" => CORRECT, |m| m.good_with(&format!("x-{}: 1", m.secret));
    "secret_in_cookie" => CORRECT, |m| m.good_with(&format!("set-cookie: k={}", m.secret));
    "secret_in_content_type" => CORRECT,
        |m| m.good_with(&format!("content-type: x/{}", m.secret));
    "secret_in_reason" => CORRECT, |m| [send(&format!("200 {}", m.secret), &[], &m.good)];
    "secret_in_trailer" => CORRECT, |m| {
        let mut response = chunked(&[], &m.good);
        response.truncate(response.len() - 2);
        [Send([response, format!("x-key: {}\r\n\r\n", m.secret).into_bytes()].concat())]
    };
    "secret_in_chunk_extension" => CORRECT,
        |m| m.chunk_with(&format!("key={}", m.secret), "0");
    "secret_in_redirect" => PASSED, |m| {
        let line = format!("location: http://{}/?key={}", m.elsewhere, m.secret);
        [send("302 Found", &[&line], b"{}")]
    };
    "secret_in_error" => INVALID, |m| unauthorized(&m.secret);
    "secret_escaped_in_error" => INVALID, |m| unauthorized(&format!("\\u0063{}", &m.secret[1..]));
    "secret_percent_coded_in_error" => INVALID, |m| unauthorized(&m.secret.replace('c', "%63"));
    "secret_in_large_error" => INVALID, |m| {
        let body = format!("{} {}", m.secret, "x".repeat(150_000));
        [send("500 Internal Server Error", &[], body.as_bytes())]
    };
    "secret_in_429" => INVALID, |m| {
        let body = format!("slow down, {}", m.secret);
        [send("429 Too Many Requests", &["retry-after-ms: 30"], body.as_bytes())]
    };
    "secret_in_malformed_head" => INVALID,
        |m| [Send(format!("HTTP/1.1 200 OK\r\n{}\r\n\r\n", m.secret).into_bytes())];

    // The end of the connection behind a response.
    "closed_behind_response" => CORRECT, |m| [send(OK, &[], &m.good), Close];
    "reset_behind_response" => CORRECT, |m| [send(OK, &[], &m.good), Pause(SHORT), Reset];
    "closes_as_announced" => CORRECT, |m| [send(OK, &[CLOSING], &m.good), Close];
    "stays_open_though_announced" => CORRECT, |m| [send(OK, &[CLOSING], &m.good), Stall];
    "unsolicited_408" => CORRECT, |m| {
        let late = send("408 Request Timeout", &[CLOSING], &m.false_final);
        [send(OK, &[], &m.good), Pause(SHORT), late, Close]
    };
    "unsolicited_response" => CORRECT,
        |m| [send(OK, &[], &m.good), Pause(SHORT), send(OK, &[], &m.false_final)];
};

pub(crate) const REUSED: &[Fault] = faults! {
    "closed_on_reuse" => CORRECT, Http1, Reused |_| vec![Close];
    "reset_on_reuse" => CORRECT, Http1, Reused |_| vec![Reset];
    "closed_on_reuse_after_a_byte" => UNREACHABLE, Http1, Reused |_| vec![Send(b"H".to_vec()), Close];
    "closed_on_reuse_late" => CORRECT, Http1, Reused |_| vec![Pause(SHORT), Close];
    "tls_closed_on_reuse" => CORRECT, Http1Tls, Reused |_| vec![Close];
    "tls_cut_on_reuse" => CORRECT, Http1Tls, Reused |_| vec![Cut];
};

pub(crate) const STREAMS: &[Fault] = faults! {
    "h2_goaway_behind_response" => CORRECT, Http2, Stream StreamFault::GoAwayAfterResponse;
    "h2_goaway_unprocessed" => CORRECT, Http2, ReusedStream StreamFault::GoAwayUnprocessed;
    "h2_enhance_your_calm" => CORRECT, Http2, ReusedStream StreamFault::EnhanceYourCalm;
    "h2_refused_stream" => CORRECT, Http2, ReusedStream StreamFault::Refused;
    "h2_reset_stream" => CORRECT, Http2, ReusedStream StreamFault::Reset;
    "h2_reset_in_body" => INVALID, Http2, Stream StreamFault::ResetInBody;
    "h2_cut" => CORRECT, Http2, ReusedStream StreamFault::Cut;
    "h2_cut_in_body" => INVALID, Http2, Stream StreamFault::CutInBody;
    "h2_stalled" => TIMEOUT, Http2, Stream StreamFault::Stall;
    "h2_stalled_in_body" => TIMEOUT, Http2, Stream StreamFault::StallInBody;
    "h2_shorter_than_length" => INVALID, Http2, Stream StreamFault::Short;
    "h2_interim_response" => CORRECT, Http2, Stream StreamFault::Interim;
    "h2_trailers" => CORRECT, Http2, Stream StreamFault::Trailers;
    "h2_refused_always" => UNREACHABLE, Http2, Stream StreamFault::Refused;
};
