//! An HTTP/1.1 connection, plain or over TLS: requests read and checked, answers good or harmful.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::inspect::Inspected;
use super::script::{chunked, whole};
use super::{Material, Move, PATIENCE, Shared};
use crate::dice::Dice;
use crate::kind::Harm;
use crate::step::{Edition, Step};

/// Plain, or over TLS.
pub(super) type Io = Either<TcpStream, Box<TlsStream<TcpStream>>>;

fn tcp(io: &Io) -> &TcpStream {
    match io {
        Io::Left(tcp) => tcp,
        Io::Right(tls) => tls.get_ref().0,
    }
}

/// Whether the connection goes on.
#[derive(PartialEq)]
enum After {
    On,
    Over,
}

pub(super) async fn serve(mut io: Io, shared: &Shared) {
    let mut buffer = Vec::new();
    let mut reused = false;
    while let Some(head) = next_head(&mut io, &mut buffer).await {
        let Some((target, headers)) = parse(&head) else {
            return;
        };
        let Some(inspected) = shared.inspect(&target, &headers, &head) else {
            return;
        };
        let Inspected { step, account, key } = inspected;
        let edition = shared.shelf.fetch(&account, &step);
        let good = step.body(&account, edition);
        let after = match shared.harm(&step, reused) {
            Some(Harm::Answer(make) | Harm::Reused(make)) => {
                let moves = make(&shared.material(&step, good, key));
                let said = said(&moves);
                if said.starts_with(b"HTTP/1.1 429") {
                    shared.note_wait(&account);
                }
                shared.told(&step, &said);
                let after = perform_all(&mut io, moves).await;
                shared.done(&step);
                after
            }
            _ => perform_all(&mut io, vec![Move::Send(framed(&step, edition, &good))]).await,
        };
        if after == After::Over {
            return;
        }
        reused = true;
    }
}

impl Shared {
    fn material(&self, step: &Step, good: Vec<u8>, secret: String) -> Material {
        Material {
            lie: step.lie(),
            good,
            secret,
            elsewhere: self.elsewhere,
        }
    }
}

/// A good answer, framed in one of several ways.
fn framed(step: &Step, edition: Edition, good: &[u8]) -> Vec<u8> {
    let id = format!("x-request-id: req_{}", edition.version);
    let lines = [id.as_str(), "openai-processing-ms: 12"];
    match Dice::of(edition.version, &[&step.thread, "framing"]).below(3) {
        0 => chunked(&lines, good),
        _ => whole("200 OK", &lines, good),
    }
}

/// The bytes of all moves, as they would be read.
fn said(moves: &[Move]) -> Vec<u8> {
    let bytes = moves.iter().filter_map(|next| match next {
        Move::Send(bytes) | Move::Drip(bytes, _) => Some(bytes.clone()),
        Move::Pause(_)
        | Move::Repeat(..)
        | Move::Stall
        | Move::Settle
        | Move::Reset
        | Move::Close
        | Move::Hush => None,
    });
    bytes.flatten().collect()
}

async fn perform_all(io: &mut Io, moves: Vec<Move>) -> After {
    for next in moves {
        match perform(io, next).await {
            Ok(After::On) => {}
            // What is cut short by the gateway is over, too.
            Ok(After::Over) | Err(_) => return After::Over,
        }
    }
    After::On
}

async fn perform(io: &mut Io, next: Move) -> io::Result<After> {
    match next {
        Move::Send(bytes) => io.write_all(&bytes).await?,
        Move::Drip(bytes, pause) => {
            for byte in bytes {
                io.write_all(&[byte]).await?;
                io.flush().await?;
                sleep(pause).await;
            }
        }
        Move::Pause(pause) => {
            io.flush().await?;
            sleep(pause).await;
        }
        Move::Repeat(bytes, pause) => loop {
            io.write_all(&bytes).await?;
            io.flush().await?;
            sleep(pause).await;
        },
        Move::Stall => {
            io.flush().await?;
            let mut ignored = [0; 1024];
            while io.read(&mut ignored).await? > 0 {}
            return Ok(After::Over);
        }
        Move::Settle => {
            io.flush().await?;
            arrived(tcp(io)).await?;
        }
        Move::Reset => {
            io.flush().await?;
            tcp(io).set_zero_linger()?;
            return Ok(After::Over);
        }
        Move::Close => {
            io.shutdown().await?;
            return Ok(After::Over);
        }
        Move::Hush => {
            io.flush().await?;
            return Ok(After::Over);
        }
    }
    io.flush().await?;
    Ok(After::On)
}

/// Waits until nothing that was sent is unread at the other end, which is on this machine, or until
/// that takes too long.
async fn arrived(tcp: &TcpStream) -> io::Result<()> {
    let (near, far) = (hex(tcp.local_addr()?), hex(tcp.peer_addr()?));
    let ends = [format!("{near} {far} "), format!("{far} {near} ")];
    let unread = async {
        loop {
            let sockets = tokio::fs::read_to_string("/proc/net/tcp").await?;
            // Of both ends: neither still to be sent here, nor to be read there.
            let waiting = sockets
                .lines()
                .filter(|line| ends.iter().any(|both| line.contains(both)))
                .filter_map(|line| line.split_whitespace().nth(4))
                .any(|queues| queues != "00000000:00000000");
            if !waiting {
                return Ok(());
            }
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, unread).await.unwrap_or(Ok(()))
}

/// As `/proc/net/tcp` has it: the address in the machine's order of bytes.
fn hex(address: SocketAddr) -> String {
    let SocketAddr::V4(address) = address else {
        return String::new();
    };
    let ip = u32::from_ne_bytes(address.ip().octets());
    format!("{ip:08X}:{:04X}", address.port())
}

/// The next head with its empty line; None where the connection ends. Nothing but GET comes up, so
/// there are no bodies.
async fn next_head(io: &mut Io, buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let mut chunk = [0; 4096];
    loop {
        if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            return Some(buffer.drain(..end + 4).collect());
        }
        match io.read(&mut chunk).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => buffer.extend_from_slice(&chunk[..read]),
        }
    }
}

/// Target and headers, names in lower case.
fn parse(head: &[u8]) -> Option<(String, Vec<(String, String)>)> {
    let text = std::str::from_utf8(head).ok()?;
    let mut lines = text.trim_end().split("\r\n");
    let target = lines.next()?.strip_prefix("GET ")?;
    let target = target.strip_suffix(" HTTP/1.1")?;
    let headers = lines.map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    });
    Some((target.to_owned(), headers.collect::<Option<_>>()?))
}
