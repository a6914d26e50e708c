//! A TCP proxy between a gateway and its Redis: slow, silent or gone on command.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

#[derive(Debug, Clone, Copy, Default)]
struct Mode {
    reply_delay: Duration,
    command_delay: Duration,
    /// Whether nothing passes in either direction.
    is_stalled: bool,
    /// Whether new connections are closed at once.
    is_refusing: bool,
    /// The number of times that all connections were ended.
    cuts: usize,
}

pub(crate) struct RedisProxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    _connections: JoinSet<()>,
}

impl RedisProxy {
    /// Starts a proxy to this loopback port.
    pub(crate) async fn start(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mode = watch::Sender::default();
        let mut connections = JoinSet::new();
        connections.spawn(accept(listener, port, mode.subscribe()));
        Self {
            address,
            mode,
            _connections: connections,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Delays replies from now on. The delays of replies that follow each other do not add up.
    pub(crate) fn delay_replies(&self, delay: Duration) {
        self.mode.send_modify(|mode| mode.reply_delay = delay);
    }

    /// Delays commands from now on.
    pub(crate) fn delay_commands(&self, delay: Duration) {
        self.mode.send_modify(|mode| mode.command_delay = delay);
    }

    /// Keeps all bytes, in both directions, until [`Self::resume`].
    pub(crate) fn stall(&self) {
        self.mode.send_modify(|mode| mode.is_stalled = true);
    }

    pub(crate) fn resume(&self) {
        self.mode.send_modify(|mode| mode.is_stalled = false);
    }

    /// Ends every connection, and accepts new ones.
    pub(crate) fn cut(&self) {
        self.mode.send_modify(|mode| mode.cuts += 1);
    }

    /// Ends every connection, and closes new ones until [`Self::accept`].
    pub(crate) fn refuse(&self) {
        self.mode.send_modify(|mode| {
            mode.is_refusing = true;
            mode.cuts += 1;
        });
    }

    pub(crate) fn accept(&self) {
        self.mode.send_modify(|mode| mode.is_refusing = false);
    }
}

async fn accept(listener: TcpListener, port: u16, mode: watch::Receiver<Mode>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        if !mode.borrow().is_refusing {
            connections.spawn(copy(client, port, mode.clone()));
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Copies in both directions until one end closes, or all connections are ended.
async fn copy(client: TcpStream, port: u16, mut mode: watch::Receiver<Mode>) {
    let cuts = mode.borrow().cuts;
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else {
        return;
    };
    for end in [&client, &server] {
        end.set_nodelay(true).unwrap();
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = copy_one_way(from_client, to_server, mode.clone(), |mode| mode.command_delay) => {}
        () = copy_one_way(from_server, to_client, mode.clone(), |mode| mode.reply_delay) => {}
        _ = mode.wait_for(|mode| mode.cuts != cuts) => {}
    }
}

async fn copy_one_way(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    delay: fn(&Mode) -> Duration,
) {
    let (due, mut dues) = mpsc::channel::<(Instant, Vec<u8>)>(1024);
    let modes = mode.clone();
    let read = async move {
        let mut chunk = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from.read(&mut chunk).await {
            let at = Instant::now() + delay(&modes.borrow());
            if due.send((at, chunk[..length].to_vec())).await.is_err() {
                break;
            }
        }
        drop(due);
        // The other half still has to write what was read.
        std::future::pending::<()>().await;
    };
    let write = async {
        while let Some((at, chunk)) = dues.recv().await {
            tokio::time::sleep_until(at).await;
            if mode.wait_for(|mode| !mode.is_stalled).await.is_err()
                || to.write_all(&chunk).await.is_err()
            {
                break;
            }
        }
    };
    tokio::select! {
        () = read => {}
        () = write => {}
    }
}
