//! A connection to the gateway that says exactly what it is told.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::{Answer, Got, Read};

/// One connection; what came behind an answer is kept for the next.
pub(crate) struct Line {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Line {
    pub(crate) async fn connect(at: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(at).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
        })
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    pub(crate) async fn send(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
    ) -> io::Result<()> {
        self.write(&request(method, target, headers)).await
    }

    /// The next answer.
    pub(crate) async fn answer(&mut self, bodiless: bool, limit: Duration) -> Got {
        self.paced(bodiless, limit, 64 * 1024, Duration::ZERO).await
    }

    /// The next answer, read in pieces of `piece` bytes with a rest of `pause` between.
    pub(crate) async fn paced(
        &mut self,
        bodiless: bool,
        limit: Duration,
        piece: usize,
        pause: Duration,
    ) -> Got {
        let deadline = Instant::now() + limit;
        let mut chunk = vec![0; piece];
        let mut ended = None;
        loop {
            match Answer::read(&self.buffer, ended.is_some(), bodiless) {
                Read::Whole(answer, used) => {
                    self.buffer.drain(..used);
                    return Got::Whole(answer);
                }
                Read::Bad(why) => return Got::Garbled(why, std::mem::take(&mut self.buffer)),
                Read::Partial(head) => match (&ended, head) {
                    (Some(why), None) if self.buffer.is_empty() => {
                        return Got::Closed(String::clone(why));
                    }
                    (Some(_), None) => {
                        let raw = std::mem::take(&mut self.buffer);
                        return Got::Garbled("cut in the head".to_owned(), raw);
                    }
                    (Some(_), Some(mut answer)) => {
                        answer.raw = std::mem::take(&mut self.buffer);
                        return Got::Cut(answer);
                    }
                    (None, _) => {}
                },
            }
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            match timeout_at(deadline, self.stream.read(&mut chunk)).await {
                Ok(Ok(0)) => ended = Some("closed".to_owned()),
                Ok(Ok(read)) => self.buffer.extend_from_slice(&chunk[..read]),
                Ok(Err(error)) => ended = Some(error.to_string()),
                Err(_) => return Got::Late(std::mem::take(&mut self.buffer)),
            }
        }
    }

    /// Everything until the peer closes; None if it does not within `limit`.
    pub(crate) async fn rest(&mut self, limit: Duration) -> Option<Vec<u8>> {
        let deadline = Instant::now() + limit;
        let mut chunk = [0; 4096];
        loop {
            match timeout_at(deadline, self.stream.read(&mut chunk)).await {
                Ok(Ok(0) | Err(_)) => return Some(std::mem::take(&mut self.buffer)),
                Ok(Ok(read)) => self.buffer.extend_from_slice(&chunk[..read]),
                Err(_) => return None,
            }
        }
    }

    /// Ends it with a reset instead of a goodbye.
    pub(crate) fn reset(self) {
        // Without it the goodbye is a polite one, which is as good a fault.
        let _ = self.stream.set_zero_linger();
    }
}

/// A request head as it goes on the wire.
pub(crate) fn request(method: &str, target: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut head = format!("{method} {target} HTTP/1.1\r\nhost: localhost\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    head.into_bytes()
}
