//! Accepts TCP and unix connections, up to a limit. TLS handshakes run in the task of each connection.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::drain::{Phase, PhaseReceiver};
use super::workers::Workers;
use crate::config::Address;

/// The pause after an error that the next accept would meet again, such as exhausted file descriptors. It is
/// long enough not to spin, and short enough to recover well within a second.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The length of the kernel's queue of connections to accept, if the kernel's own limit allows it (Linux:
/// `net.core.somaxconn`, 4,096). A client that finds the queue full tries again after a second. Therefore
/// many clients that connect at once, or while no permit is free, should fit.
const BACKLOG: u32 = 4096;

/// An open listener. Dropping it removes the file of a unix socket.
#[derive(Debug)]
pub(super) struct Listener {
    address: Address,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// An accepted connection that belongs to no runtime yet.
#[derive(Debug)]
pub(super) enum Accepted {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Listener {
    pub(super) fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => {
                let socket = match address {
                    SocketAddr::V4(_) => TcpSocket::new_v4()?,
                    SocketAddr::V6(_) => TcpSocket::new_v6()?,
                };
                // Closed connections of an earlier process must not keep the port.
                socket.set_reuseaddr(true)?;
                socket.bind(*address)?;
                let socket = socket.listen(BACKLOG)?;
                Ok(Self {
                    address: Address::Tcp(socket.local_addr()?),
                    socket: Socket::Tcp(socket),
                })
            }
            Address::Unix(path) => {
                remove_stale(path)?;
                let socket = UnixListener::bind(path)?;
                Ok(Self {
                    address: address.clone(),
                    socket: Socket::Unix(socket),
                })
            }
        }
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// Runs `serve` on a worker for each connection, until the drain begins. While no permit is free, new
    /// connections wait in the kernel's queue.
    pub(super) async fn accept<F>(
        self,
        workers: Workers,
        permits: Arc<Semaphore>,
        phase: PhaseReceiver,
        tasks: TaskTracker,
        serve: impl Fn(Accepted) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let spawn = |accepted, permit: OwnedSemaphorePermit| {
            let connection = serve(accepted);
            let connection = async move {
                connection.await;
                drop(permit);
            };
            tasks.spawn_on(connection, workers.next());
        };
        loop {
            // The permit is acquired after the connection, so that an idle listener keeps none from others.
            let accepted = tokio::select! {
                accepted = self.next() => accepted,
                () = phase.reached(Phase::Draining) => break,
            };
            // Permits are also released during a drain, and an accepted connection is always served.
            let permit = Arc::clone(&permits)
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            spawn(accepted, permit);
        }
        // Clients of connections in the kernel's queue may have sent requests already.
        while let Ok(permit) = Arc::clone(&permits).try_acquire_owned()
            && let Ok(accepted) = timeout(Duration::ZERO, self.next()).await
        {
            spawn(accepted, permit);
        }
    }

    /// Accepts the next connection. No error ends a listener.
    async fn next(&self) -> Accepted {
        let mut is_logged = false;
        loop {
            let accepted = match &self.socket {
                Socket::Tcp(socket) => socket.accept().await.and_then(|(stream, _)| {
                    // This fails only on a closed socket, which the next read reports.
                    let _ = stream.set_nodelay(true);
                    stream.into_std().map(Accepted::Tcp)
                }),
                Socket::Unix(socket) => socket
                    .accept()
                    .await
                    .and_then(|(stream, _)| stream.into_std().map(Accepted::Unix)),
            };
            match accepted {
                Ok(accepted) => return accepted,
                // The client has closed this connection already.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
                    ) => {}
                Err(error) => {
                    // A lasting error is logged once.
                    if !std::mem::replace(&mut is_logged, true) {
                        tracing::warn!(%error, "cannot accept a connection; trying again");
                    }
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Address::Unix(path) = &self.address {
            // If this fails, the next start removes the stale socket.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Removes a socket on which no process listens. Any other file stays, so that binding fails.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = path
        .symlink_metadata()
        .is_ok_and(|meta| meta.file_type().is_socket());
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    Ok(())
}
