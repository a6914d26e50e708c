//! What a connection meets before its first request.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::connection::{self, Io};
use super::{Flaw, Shared, streams};
use crate::kind::Wire;
use crate::ledger::{Verdict, shows_secret};

/// A connection's welcome.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Door {
    Open,
    /// Nobody listens.
    Refused,
    /// The kernel's queue is full: no answer to a SYN.
    Full,
    /// Accepted, and never a word.
    Silent,
    Reset,
    Closed,
    /// Accepted late.
    Slow,
    /// After the first bytes.
    HelloReset,
    HelloClosed,
    /// After the first bytes, these, and a goodbye.
    Says(&'static [u8]),
    /// A certificate with this flaw.
    Certificate(Flaw),
}

/// Late, and well before any deadline.
const LATE: Duration = Duration::from_millis(80);

/// Serves a connection until it ends or all are cut.
pub(super) async fn meet(
    stream: TcpStream,
    door: Door,
    mut cuts: watch::Receiver<u64>,
    shared: Arc<Shared>,
) {
    tokio::select! {
        () = welcome(stream, door, &shared) => {}
        _ = cuts.changed() => {}
    }
    shared.open.send_modify(|open| *open -= 1);
}

async fn welcome(mut stream: TcpStream, door: Door, shared: &Arc<Shared>) {
    // Fails on a connection that is gone already, which reading tells.
    let _ = stream.set_nodelay(true);
    match door {
        Door::Open => serve(stream, None, shared).await,
        Door::Slow => {
            tokio::time::sleep(LATE).await;
            serve(stream, None, shared).await;
        }
        Door::Certificate(flaw) => serve(stream, Some(flaw), shared).await,
        Door::Refused | Door::Full | Door::Silent => {
            let mut heard = Vec::new();
            let _ = stream.read_to_end(&mut heard).await;
            overhear(&heard, shared);
        }
        Door::Reset => drop(stream.set_zero_linger()),
        Door::Closed => {}
        Door::HelloReset => {
            hello(&mut stream, shared).await;
            let _ = stream.set_zero_linger();
        }
        Door::HelloClosed => hello(&mut stream, shared).await,
        Door::Says(bytes) => {
            hello(&mut stream, shared).await;
            let _ = stream.write_all(bytes).await;
            let _ = stream.shutdown().await;
            let mut heard = Vec::new();
            let _ = stream.read_to_end(&mut heard).await;
            overhear(&heard, shared);
        }
    }
}

async fn serve(stream: TcpStream, flaw: Option<Flaw>, shared: &Arc<Shared>) {
    if shared.wire == Wire::Plain {
        return connection::serve(Io::Left(stream), shared).await;
    }
    let acceptor = shared.authority.acceptor(flaw, shared.wire);
    let Ok(tls) = acceptor.accept(stream).await else {
        return;
    };
    let mut io = Io::Right(Box::new(tls));
    if flaw.is_some() {
        // With TLS 1.3 the server is done before the client has judged: what counts is whether
        // anything is said to it.
        let mut heard = [0; 1024];
        if let Ok(read) = io.read(&mut heard).await
            && read > 0
        {
            let why = "a request was sent in spite of the certificate".to_owned();
            shared.complain(&Verdict::Leaked(why), &heard[..read]);
        }
        return;
    }
    match (io, shared.wire) {
        (Io::Right(tls), Wire::Http2) => streams::serve(tls, shared).await,
        (io, _) => connection::serve(io, shared).await,
    }
}

/// Reads what comes first.
async fn hello(stream: &mut TcpStream, shared: &Shared) {
    let mut heard = [0; 4096];
    if let Ok(read) = stream.read(&mut heard).await {
        overhear(&heard[..read], shared);
    }
}

/// Over TLS no secret is said in the clear.
fn overhear(heard: &[u8], shared: &Shared) {
    if shared.wire != Wire::Plain && shows_secret(heard) {
        let why = "a secret in the clear".to_owned();
        shared.complain(&Verdict::Leaked(why), heard);
    }
}
