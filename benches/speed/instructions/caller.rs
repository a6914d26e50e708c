//! A caller that sends what it is told, byte for byte, and takes no answer for right unread.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Failure;

/// Callgrind makes a server fifty times slower, and the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// What openai-python 3.54.0 sends beside the host.
const SDK: &str = "Accept-Encoding: gzip, deflate\r\n\
                   Connection: keep-alive\r\n\
                   authorization: Bearer unused\r\n\
                   accept: application/json\r\n\
                   user-agent: OpenAI/Python 3.54.0\r\n\
                   x-stainless-lang: python\r\n\
                   x-stainless-package-version: 3.54.0\r\n\
                   x-stainless-os: Linux\r\n\
                   x-stainless-arch: x64\r\n\
                   x-stainless-runtime: CPython\r\n\
                   x-stainless-runtime-version: 3.11.7\r\n\
                   x-stainless-async: false\r\n\
                   openai-beta: assistants=v2\r\n\
                   x-stainless-retry-count: 0\r\n\
                   x-stainless-read-timeout: 600\r\n";

/// Who seems to call.
#[derive(Clone, Copy)]
pub(super) enum Head {
    /// Nothing but the host, as wrk has it.
    Bare,
    /// An SDK.
    Sdk,
}

/// A connection that is kept.
pub(super) struct Line {
    stream: TcpStream,
    to: SocketAddr,
    read: Vec<u8>,
}

impl Line {
    pub(super) async fn connect(to: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            to,
            read: Vec::new(),
        })
    }

    pub(super) async fn ask(&mut self, path: &str, head: Head) -> Result<(), Failure> {
        let more = match head {
            Head::Bare => "",
            Head::Sdk => SDK,
        };
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{more}\r\n", self.to);
        Ok(self.stream.write_all(request.as_bytes()).await?)
    }

    /// The next answer's body; it must be a 200, with `said` in its head.
    pub(super) async fn answer(&mut self, said: &str) -> Result<Vec<u8>, Failure> {
        timeout(PATIENCE, self.read_answer(said))
            .await
            .map_err(|_| format!("no answer within {} s", PATIENCE.as_secs()))?
    }

    async fn read_answer(&mut self, said: &str) -> Result<Vec<u8>, Failure> {
        let end = loop {
            match memchr::memmem::find(&self.read, b"\r\n\r\n") {
                Some(at) => break at + 4,
                None => self.fill().await?,
            }
        };
        let head = String::from_utf8_lossy(&self.read[..end]).into_owned();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        let (true, true, Some(length)) = (
            head.starts_with("HTTP/1.1 200 "),
            head.contains(said),
            length,
        ) else {
            return Err(format!("not a 200 of a known length that says `{said}`:\n{head}").into());
        };
        while self.read.len() < end + length {
            self.fill().await?;
        }
        let body = self.read[end..end + length].to_vec();
        self.read.drain(..end + length);
        Ok(body)
    }

    async fn fill(&mut self) -> Result<(), Failure> {
        if self.stream.read_buf(&mut self.read).await? == 0 {
            return Err("closed before a whole answer".into());
        }
        Ok(())
    }
}
