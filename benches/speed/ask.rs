//! One question over a connection of its own, and its answer taken apart: for checks, not for load.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Far beyond any answer that comes at all.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// As it came, without the status line.
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The first header of that name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(':'));
        let found = fields.find(|(field, _)| field.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&bytes[..end]).ok()?;
        let (first, head) = head.split_once("\r\n").unwrap_or((head, ""));
        let mut answer = Self {
            status: first.split(' ').nth(1)?.parse().ok()?,
            head: head.to_owned(),
            body: Vec::new(),
        };
        let rest = &bytes[end + 4..];
        answer.body = if answer.header("transfer-encoding").is_some() {
            unchunked(rest)?
        } else if let Some(length) = answer.header("content-length") {
            rest.get(..length.parse().ok()?)?.to_owned()
        } else {
            rest.to_owned()
        };
        Some(answer)
    }
}

/// As wrk names the host, so that a cache that keys by it holds one entry for both.
pub(crate) fn ask(address: SocketAddr, path: &str) -> io::Result<Answer> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    ask_over(stream, &address.to_string(), path)
}

pub(crate) fn ask_over(
    mut stream: impl Read + Write,
    host: &str,
    path: &str,
) -> io::Result<Answer> {
    let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut bytes = Vec::new();
    // Not every peer ends TLS in order; what has come is looked at.
    let ended = stream.read_to_end(&mut bytes);
    let unreadable = || {
        ended
            .err()
            .unwrap_or_else(|| io::ErrorKind::InvalidData.into())
    };
    Answer::parse(&bytes).ok_or_else(unreadable)
}

fn unchunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|w| w == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..line]).ok()?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        let chunk = rest.get(line + 2..)?;
        body.extend_from_slice(chunk.get(..size)?);
        rest = chunk.get(size + 2..)?;
    }
}
