//! A client that speaks raw bytes, and reads answers strictly.
//!
//! It forgives nothing that a caller's parser would not: a length that is not kept, a missing
//! last chunk and a connection that ends early are [`Broken`], never an answer.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::answer::{Answer, Broken};
use super::within;

pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// One connection.
pub(crate) struct Raw {
    io: Box<dyn Io>,
    unread: Vec<u8>,
}

/// One request on a connection of its own.
pub(crate) async fn ask(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
) -> Result<Answer, Broken> {
    let mut raw = Raw::connect(address).await;
    raw.send(head(method, target, &address.to_string(), headers))
        .await;
    raw.try_answer(method).await
}

/// A request head; `host` unless `headers` has one.
pub(crate) fn head(method: &str, target: &str, host: &str, headers: &[(&str, &str)]) -> String {
    let mut text = format!("{method} {target} HTTP/1.1\r\n");
    if !headers.iter().any(|(n, _)| n.eq_ignore_ascii_case("host")) {
        text += &format!("Host: {host}\r\n");
    }
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    text + "\r\n"
}

impl Raw {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let io = within("a connection", TcpStream::connect(address)).await;
        Self::over(io.unwrap())
    }

    pub(crate) async fn connect_unix(path: &Path) -> Self {
        let io = within("a connection", UnixStream::connect(path)).await;
        Self::over(io.unwrap())
    }

    pub(crate) fn over(io: impl Io + 'static) -> Self {
        Self {
            io: Box::new(io),
            unread: Vec::new(),
        }
    }

    /// A peer that has hung up already is no failure: its answer may be there to read.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let sent = within("room to send", self.io.write_all(bytes.as_ref())).await;
        if let Err(e) = sent {
            let hung_up = [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset];
            assert!(hung_up.contains(&e.kind()), "sending: {e}");
        }
    }

    pub(crate) async fn answer(&mut self) -> Answer {
        self.answer_to("GET").await
    }

    pub(crate) async fn answer_to(&mut self, method: &str) -> Answer {
        self.try_answer(method)
            .await
            .unwrap_or_else(|broken| panic!("no whole answer: {broken}"))
    }

    /// The next answer, interim ones skipped.
    pub(crate) async fn try_answer(&mut self, method: &str) -> Result<Answer, Broken> {
        within("the end of an answer", self.read_answer(method)).await
    }

    async fn read_answer(&mut self, method: &str) -> Result<Answer, Broken> {
        loop {
            let mut answer = self.head().await?;
            if (100..200).contains(&answer.status) && answer.status != 101 {
                continue;
            }
            let bodyless = method == "HEAD" || matches!(answer.status, 101 | 204 | 304);
            if !bodyless && let Err(why) = self.body(&mut answer).await {
                return Err(Broken {
                    status: Some(answer.status),
                    body: answer.body,
                    why,
                });
            }
            return Ok(answer);
        }
    }

    async fn head(&mut self) -> Result<Answer, Broken> {
        let broken = |why: String| Broken {
            status: None,
            body: Vec::new(),
            why,
        };
        let head = self.line(b"\r\n\r\n").await.map_err(broken)?;
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut lines = head.split("\r\n");
        let first = lines.next().unwrap_or_default();
        let status = first
            .strip_prefix("HTTP/1.")
            .and_then(|l| l.get(2..5)?.parse().ok());
        let status = status.ok_or_else(|| broken(format!("status line {first:?}")))?;
        let headers = lines.filter_map(|line| line.split_once(':'));
        Ok(Answer {
            status,
            headers: headers
                .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
                .collect(),
            body: Vec::new(),
        })
    }

    async fn body(&mut self, answer: &mut Answer) -> Result<(), String> {
        if answer.header("transfer-encoding").is_some() {
            return self.chunks(&mut answer.body).await;
        }
        let Some(length) = answer.header("content-length") else {
            answer.body = self.rest().await;
            return Ok(());
        };
        let length: usize = length.parse().map_err(|e| format!("length: {e}"))?;
        while self.unread.len() < length {
            if let Err(why) = self.more().await {
                answer.body = std::mem::take(&mut self.unread);
                return Err(why);
            }
        }
        answer.body = self.unread.drain(..length).collect();
        Ok(())
    }

    async fn chunks(&mut self, body: &mut Vec<u8>) -> Result<(), String> {
        loop {
            let line = self.line(b"\r\n").await?;
            let text = String::from_utf8_lossy(&line).into_owned();
            let size = text.split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(size, 16).map_err(|_| format!("chunk {text:?}"))?;
            if size == 0 {
                while !self.line(b"\r\n").await?.is_empty() {}
                return Ok(());
            }
            while self.unread.len() < size + 2 {
                self.more().await?;
            }
            body.extend(self.unread.drain(..size));
            self.unread.drain(..2);
        }
    }

    /// So many bytes.
    pub(crate) async fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.unread.len() < count {
            if let Err(why) = self.more().await {
                panic!("{why} with {} of {count} bytes", self.unread.len());
            }
        }
        self.unread.drain(..count).collect()
    }

    /// The text up to `end`, without it.
    pub(crate) async fn text_before(&mut self, end: &str) -> String {
        let line = self.line(end.as_bytes()).await;
        let line = line.unwrap_or_else(|why| panic!("{why} before {end:?}"));
        String::from_utf8_lossy(&line).into_owned()
    }

    /// Bytes up to `end`, without it.
    async fn line(&mut self, end: &[u8]) -> Result<Vec<u8>, String> {
        loop {
            let found = self.unread.windows(end.len()).position(|w| w == end);
            if let Some(at) = found {
                let line = self.unread.drain(..at).collect();
                self.unread.drain(..end.len());
                return Ok(line);
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> Result<(), String> {
        let mut chunk = vec![0; 64 * 1024];
        match within("more bytes", self.io.read(&mut chunk)).await {
            Ok(0) => Err("the connection was closed".to_owned()),
            Ok(n) => {
                self.unread.extend(&chunk[..n]);
                Ok(())
            }
            Err(e) => Err(format!("the connection broke: {e}")),
        }
    }

    /// Everything until the peer closes; that it does not is a failure.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        within("the connection to be closed", async {
            while self.more().await.is_ok() {}
        })
        .await;
        std::mem::take(&mut self.unread)
    }

    /// Whether the peer closes within this time; what it says until then is for nobody.
    pub(crate) async fn closes_within(&mut self, time: Duration) -> bool {
        let closed = async { while self.more().await.is_ok() {} };
        tokio::time::timeout(time, closed).await.is_ok()
    }

    /// Every answer until the peer closes; that it does not is a failure.
    pub(crate) async fn answers(&mut self) -> Vec<Answer> {
        let mut rest = Self::over(tokio::io::empty());
        rest.unread = self.rest().await;
        let mut answers = Vec::new();
        while !rest.unread.is_empty() {
            answers.push(rest.answer().await);
        }
        answers
    }

    /// Reads `count` body bytes after the head and throws them away: for bodies beyond memory.
    pub(crate) async fn discard(&mut self, count: u64) {
        let mut left = count.saturating_sub(self.unread.len() as u64);
        self.unread.clear();
        let mut chunk = vec![0; 256 * 1024];
        while left > 0 {
            let read = within("more of a large body", self.io.read(&mut chunk)).await;
            let read = read.unwrap() as u64;
            assert!(read > 0, "closed with {left} bytes missing");
            left = left.saturating_sub(read);
        }
    }
}
