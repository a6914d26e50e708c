//! One kept-alive connection that asks by hand: cheap enough to be timed by, and to fill a cache with.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;

use crate::Fallible;

/// Connections that fill a cache: enough to keep a gateway and its upstream busy.
const FILLERS: u32 = 16;

/// Above a head and a small body.
const CHUNK: usize = 4096;

pub(crate) struct Line {
    stream: TcpStream,
    host: String,
    /// What has come of the answer.
    come: Vec<u8>,
}

impl Line {
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            host: address.to_string(),
            come: Vec::with_capacity(CHUNK),
        })
    }

    /// From here on `receive` returns at once.
    pub(crate) fn never_wait(&self) -> io::Result<()> {
        self.stream.set_nonblocking(true)
    }

    pub(crate) fn send(&mut self, path: &str) -> io::Result<()> {
        let head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host);
        self.stream.write_all(head.as_bytes())
    }

    /// The answer's status once it is here whole; none if that would take waiting.
    pub(crate) fn receive(&mut self) -> io::Result<Option<u16>> {
        let mut chunk = [0; CHUNK];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.come.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
            if let Some(status) = self.whole()? {
                self.come.clear();
                return Ok(Some(status));
            }
        }
    }

    fn whole(&self) -> io::Result<Option<u16>> {
        let Some(end) = self.come.windows(4).position(|w| w == b"\r\n\r\n") else {
            return Ok(None);
        };
        let head = String::from_utf8_lossy(&self.come[..end]).to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"));
        let length = length.and_then(|length| length.trim().parse::<usize>().ok());
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
        match (status, length) {
            (Some(status), Some(length)) => {
                let is_whole = self.come.len() >= end + 4 + length;
                Ok(is_whole.then_some(status))
            }
            _ => Err(io::Error::other("an answer without a status or a length")),
        }
    }
}

/// Asks for `PREFIX1` to `PREFIXcount`, each once; every answer is to be 200.
pub(crate) fn ask_all(address: SocketAddr, prefix: &str, count: u32) -> Fallible<()> {
    let share = |first: u32| -> io::Result<()> {
        let mut line = Line::connect(address)?;
        for number in (first..=count).step_by(FILLERS as usize) {
            line.send(&format!("{prefix}{number}"))?;
            let status = line.receive()?;
            if status != Some(200) {
                return Err(io::Error::other(format!("{prefix}{number}: {status:?}")));
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let share = &share;
        let fillers: Vec<_> = (1..=FILLERS)
            .map(|first| scope.spawn(move || share(first)))
            .collect();
        for filler in fillers {
            filler.join().map_err(|_| "a filler panicked")??;
        }
        Ok(())
    })
}
