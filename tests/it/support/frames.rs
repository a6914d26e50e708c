//! An HTTP/2 client that sends raw frames, since a client library would be too polite.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

/// A flag of HEADERS and DATA.
pub(crate) const END_STREAM: u8 = 1;
/// A flag of HEADERS and CONTINUATION.
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Returns the connection preface, with this initial window for the responses.
pub(crate) fn preface(window: u32) -> Vec<u8> {
    let setting = [&[0, 4][..], &window.to_be_bytes()].concat();
    let settings = frame(SETTINGS, 0, 0, &setting);
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &*settings].concat()
}

/// Returns a header block: the names and the scheme are indexed, the values are literal.
pub(crate) fn header_block(method: &str, path: &str) -> Vec<u8> {
    let plain = |name: u8, value: &str| {
        let length = u8::try_from(value.len()).unwrap();
        [&[name, length][..], value.as_bytes()].concat()
    };
    [
        plain(2, method),
        vec![0x86],
        plain(4, path),
        plain(1, "localhost"),
    ]
    .concat()
}

/// Returns a whole request on that stream.
pub(crate) fn request_frame(method: &str, path: &str, stream: u32) -> Vec<u8> {
    frame(
        HEADERS,
        END_STREAM | END_HEADERS,
        stream,
        &header_block(method, path),
    )
}

/// A frame that was received.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// A client that answers pings as it must, and reads all that it is sent.
pub(crate) struct FrameClient {
    pub(crate) io: TcpStream,
    unread: Vec<u8>,
    pub(crate) received: Vec<Frame>,
}

impl FrameClient {
    pub(crate) async fn connect(address: SocketAddr, window: u32) -> Self {
        let mut io = TcpStream::connect(address).await.unwrap();
        io.write_all(&preface(window)).await.unwrap();
        Self {
            io,
            unread: Vec::new(),
            received: Vec::new(),
        }
    }

    /// Sends these frames, and returns whether the connection was still open.
    pub(crate) async fn send(&mut self, frames: &[u8]) -> bool {
        self.io.write_all(frames).await.is_ok()
    }

    /// Reads until the gateway closes.
    pub(crate) async fn read_to_end(&mut self) {
        self.read_until(|_| false).await;
    }

    /// Reads until the gateway closes, or has sent such a frame.
    pub(crate) async fn read_until(&mut self, enough: impl Fn(&Frame) -> bool) {
        while matches!(self.io.read_buf(&mut self.unread).await, Ok(1..)) {
            let before = self.received.len();
            self.take_frames().await;
            if self.received[before..].iter().any(&enough) {
                return;
            }
        }
    }

    async fn take_frames(&mut self) {
        while let Some((head, rest)) = self.unread.split_at_checked(9) {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let (kind, flags) = (head[3], head[4]);
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let Some(payload) = rest.get(..usize::try_from(length).unwrap()) else {
                break;
            };
            let payload = payload.to_vec();
            self.unread.drain(..9 + payload.len());
            if (kind, flags & 1) == (PING, 0) {
                // If the gateway has closed meanwhile, reading shows it.
                self.send(&frame(PING, 1, 0, &payload)).await;
            }
            self.received.push(Frame {
                kind,
                stream,
                payload,
            });
        }
    }

    /// Reads for at most `time`, and returns whether the gateway closed within it.
    pub(crate) async fn is_closed_within(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.read_to_end()).await.is_ok()
    }

    /// Returns the payloads of that kind of frame on that stream.
    pub(crate) fn payloads(&self, kind: u8, stream: u32) -> Vec<&[u8]> {
        let ours = self
            .received
            .iter()
            .filter(|frame| (frame.kind, frame.stream) == (kind, stream));
        ours.map(|frame| frame.payload.as_slice()).collect()
    }
}
