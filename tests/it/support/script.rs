//! What the origin does to a connection, act by act.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::server::TlsStream;

use super::bodies::{respond, well_formed};

/// One thing that the origin does to a connection.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// The well-formed answer, with the status that is set when its turn comes.
    Default,
    /// The well-formed answer with this step status.
    Step(&'static str),
    /// The well-formed answer with the status that was set when the request came, and which of
    /// all requests it was, from 1, as `fetch`: what a fetch brings is as old as its departure.
    Numbered,
    /// These bytes.
    Send(Vec<u8>),
    /// These bytes, one at a time, with a pause before each.
    Drip(Vec<u8>, Duration),
    /// These bytes, so many times.
    Repeat(Vec<u8>, usize),
    /// These bytes until nobody takes them any more.
    Flood(Vec<u8>),
    /// Nothing for so long: the upstream's latency.
    Pause(Duration),
    /// Nothing until the gate is opened.
    Wait(Gate),
    /// Nothing until the peer hangs up; see [`super::Origin::abandoned`].
    Hold,
    /// A clean end (TLS: with close_notify).
    Close,
    /// An end without goodbye (TLS: no close_notify).
    Cut,
    /// RST.
    Reset,
}

/// A live answer that asks to be polled again so soon.
pub(crate) fn poll_after(milliseconds: &str) -> Vec<Act> {
    let pace = [("openai-poll-after-ms", milliseconds)];
    vec![Act::Send(respond(
        "200 OK",
        &pace,
        super::body("in_progress"),
    ))]
}

/// What a script waits at.
#[derive(Debug, Clone)]
pub(crate) struct Gate(Arc<Semaphore>);

impl Gate {
    pub(crate) fn closed() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    /// For those who wait and those who come.
    pub(crate) fn open(&self) {
        self.0.add_permits(1);
    }

    async fn pass(&self) {
        drop(self.0.acquire().await);
    }
}

/// A connection, plain or under TLS.
pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {
    fn tcp(&self) -> &TcpStream;
}

impl Wire for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Wire for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// What an act may need to know of the request that it answers.
pub(super) struct Turn {
    pub(super) target: String,
    /// Which of all requests, from 1.
    pub(super) number: usize,
    /// The status that was set when it came.
    pub(super) status: &'static str,
}

/// Whether the connection goes on.
///
/// `now` is the status that is set now, for [`Act::Default`].
pub(super) async fn perform(io: &mut impl Wire, act: Act, turn: &Turn, now: &str) -> bool {
    let Turn {
        target,
        number,
        status,
    } = turn;
    match act {
        Act::Default => io.write_all(&well_formed(target, now, None)).await.is_ok(),
        Act::Step(status) => io
            .write_all(&well_formed(target, status, None))
            .await
            .is_ok(),
        Act::Numbered => {
            let bytes = well_formed(target, status, Some(*number));
            io.write_all(&bytes).await.is_ok()
        }
        Act::Pause(latency) => {
            tokio::time::sleep(latency).await;
            true
        }
        Act::Send(bytes) => io.write_all(&bytes).await.is_ok() && io.flush().await.is_ok(),
        Act::Drip(bytes, pause) => {
            for byte in bytes {
                tokio::time::sleep(pause).await;
                if io.write_all(&[byte]).await.is_err() || io.flush().await.is_err() {
                    return false;
                }
            }
            true
        }
        Act::Repeat(bytes, times) => {
            for _ in 0..times {
                if io.write_all(&bytes).await.is_err() {
                    return false;
                }
            }
            true
        }
        Act::Flood(bytes) => {
            // Endless is what matters: unpaced it would only fill the reader's memory.
            while io.write_all(&bytes).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            false
        }
        Act::Wait(gate) => {
            gate.pass().await;
            true
        }
        Act::Hold => {
            // Whatever else comes on this connection is nobody's request.
            while matches!(io.read(&mut [0; 1024]).await, Ok(1..)) {}
            false
        }
        Act::Close => {
            // The peer may be gone already, which is an end as well.
            drop(io.shutdown().await);
            false
        }
        Act::Cut => false,
        Act::Reset => {
            io.tcp().set_zero_linger().unwrap();
            false
        }
    }
}
