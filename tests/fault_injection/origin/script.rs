//! What an upstream says, byte by byte, and how it ends.

use std::net::SocketAddr;
use std::time::Duration;

/// One move of a harmful answer. Behind the last one the connection stays open for more requests.
#[derive(Debug, Clone)]
pub(crate) enum Move {
    Send(Vec<u8>),
    /// A byte at a time, so long between.
    Drip(Vec<u8>, Duration),
    Pause(Duration),
    /// The same again and again, until the gateway leaves.
    Repeat(Vec<u8>, Duration),
    /// Silence, until the gateway leaves.
    Stall,
    /// Until the gateway has read all that was sent: a reset takes along what is still on its way.
    Settle,
    /// RST.
    Reset,
    /// A goodbye: FIN, over TLS after close_notify.
    Close,
    /// FIN without close_notify.
    Hush,
}

/// What a harmful answer is made from.
#[derive(Debug)]
pub(crate) struct Material {
    /// The body that is right.
    pub(crate) good: Vec<u8>,
    /// One that claims to be final and is not: it must never be stored.
    pub(crate) lie: Vec<u8>,
    /// The injected secret, as it came.
    pub(crate) secret: String,
    /// Where a redirect leads: nobody may ever go there.
    pub(crate) elsewhere: SocketAddr,
}

/// A status line and header lines, each with its CRLF, and the empty line.
pub(crate) fn head(status: &str, lines: &[&str]) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\n");
    for line in lines {
        head.push_str(line);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// A whole answer with its length.
pub(crate) fn whole(status: &str, lines: &[&str], body: &[u8]) -> Vec<u8> {
    let length = format!("content-length: {}", body.len());
    let mut lines = lines.to_vec();
    lines.push(&length);
    [head(status, &lines), body.to_vec()].concat()
}

/// One chunk.
pub(crate) fn chunk(data: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}

/// The same bytes in three chunks and the last one.
pub(crate) fn chunked(lines: &[&str], body: &[u8]) -> Vec<u8> {
    let mut lines = lines.to_vec();
    lines.push("transfer-encoding: chunked");
    let (front, back) = body.split_at(body.len() / 3);
    let (middle, back) = back.split_at(back.len() / 2);
    let parts = [front, middle, back].map(chunk).concat();
    [head("200 OK", &lines), parts, b"0\r\n\r\n".to_vec()].concat()
}
