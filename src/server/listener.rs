//! Accepts connections, TCP and unix, up to a limit. (TLS comes later, in a connection's own task.)

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::drain::{Phase, Watch};
use super::tls::{H2, Secured};
use super::workers::Workers;
use crate::config::Address;
use crate::gateway::Transport;

/// After an error that the next accept would meet again (no descriptors left), long enough not to
/// spin and short enough to recover well within a second.
const PAUSE: Duration = Duration::from_millis(50);

/// Connections that the kernel keeps until they are accepted, if its own limit allows it (Linux:
/// `net.core.somaxconn`, 4,096). Who does not fit in tries again a second later, so a crowd that comes
/// at once, or finds every slot taken for a moment, should fit.
const QUEUE: u32 = 4096;

/// An open listener. A unix socket's file is removed with it.
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

/// An accepted connection, on its way to the runtime that will serve it.
#[derive(Debug)]
pub(super) enum Accepted {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Accepted {
    /// Hands it to the runtime that this is called on.
    pub(super) fn arrive(self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(stream) => Stream::Tcp(TcpStream::from_std(stream)?),
            Self::Unix(stream) => Stream::Unix(UnixStream::from_std(stream)?),
        })
    }
}

/// A connection that is served.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// A TCP one after its handshake; boxed, so that plain ones stay small.
    Tls(Box<Secured>),
}

impl Stream {
    /// Whether ALPN chose HTTP/2; none where there was no handshake and the first bytes tell.
    pub(super) fn is_http2(&self) -> Option<bool> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => None,
            Self::Tls(tls) => Some(tls.stream.get_ref().1.alpn_protocol() == Some(H2)),
        }
    }

    /// Which way its requests come in.
    pub(super) fn door(&self) -> Transport {
        match self {
            Self::Tcp(_) => Transport::Tcp,
            Self::Unix(_) => Transport::Unix,
            Self::Tls(tls) => Transport::Tls(tls.roots),
        }
    }
}

impl Listener {
    pub(super) fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => {
                let socket = match address {
                    SocketAddr::V4(_) => TcpSocket::new_v4()?,
                    SocketAddr::V6(_) => TcpSocket::new_v6()?,
                };
                // What is left of connections of an earlier run does not keep the port.
                socket.set_reuseaddr(true)?;
                socket.bind(*address)?;
                let socket = socket.listen(QUEUE)?;
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

    /// Has the crew run `serve` for every connection until the drain begins. Above the limit of
    /// `slots` newcomers wait in the kernel's queue.
    pub(super) async fn accept<F>(
        self,
        crew: Workers,
        slots: Arc<Semaphore>,
        watch: Watch,
        tasks: TaskTracker,
        serve: impl Fn(Accepted) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let take = |accepted, slot: OwnedSemaphorePermit| {
            let connection = serve(accepted);
            let connection = async move {
                connection.await;
                drop(slot);
            };
            tasks.spawn_on(connection, crew.next());
        };
        loop {
            // First the connection, then its slot: an idle listener holds none back from others.
            let stream = tokio::select! {
                stream = self.next() => stream,
                () = watch.reached(Phase::Draining) => break,
            };
            // In a drain, too, slots become free, and who was accepted is answered.
            let slot = Arc::clone(&slots)
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            take(stream, slot);
        }
        // Whom the kernel has let in by now may have asked already.
        while let Ok(slot) = Arc::clone(&slots).try_acquire_owned()
            && let Ok(stream) = timeout(Duration::ZERO, self.next()).await
        {
            take(stream, slot);
        }
    }

    /// The next connection; no error ends a listener.
    async fn next(&self) -> Accepted {
        let mut told = false;
        loop {
            let accepted = match &self.socket {
                Socket::Tcp(socket) => socket.accept().await.and_then(|(stream, _)| {
                    // Fails only on a socket that is gone already, which reading will tell.
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
                // The peer left before we came: the next one is waiting.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
                    ) => {}
                Err(error) => {
                    // Once, however long it lasts.
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(%error, "cannot accept a connection; trying again");
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Address::Unix(path) = &self.address {
            // Best effort: the next start removes a stale one itself.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Removes a socket that nobody listens on any more; leaves anything else for bind to refuse.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = path
        .symlink_metadata()
        .is_ok_and(|meta| meta.file_type().is_socket());
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(&mut tls.stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(&mut tls.stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(tls) => Pin::new(&mut tls.stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            // Neither kind of socket buffers.
            Self::Tcp(_) | Self::Unix(_) => Poll::Ready(Ok(())),
            Self::Tls(tls) => Pin::new(&mut tls.stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(&mut tls.stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use rustls::crypto::ring::default_provider;
    use rustls::{ClientConfig, RootCertStore, ServerConfig};
    use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    /// A secured stream, and its peer.
    async fn secured() -> (Stream, impl AsyncRead) {
        let made = rcgen::generate_simple_self_signed(["h".to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let provider = Arc::new(default_provider());
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], PrivateKeyDer::from(key))
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(listener.accept(), TcpStream::connect(address));
        let connector = TlsConnector::from(Arc::new(client));
        let name = ServerName::try_from("h").unwrap();
        let (near, far) = tokio::join!(
            TlsAcceptor::from(Arc::new(server)).accept(near.unwrap().0),
            connector.connect(name, far.unwrap())
        );
        let (stream, roots) = (near.unwrap(), None);
        (
            Stream::Tls(Box::new(Secured { stream, roots })),
            far.unwrap(),
        )
    }

    #[tokio::test]
    async fn what_tls_still_holds_is_not_flushed() {
        let (mut stream, _unread) = secured().await;
        let flushed = poll_fn(|cx| {
            while let Poll::Ready(written) = Pin::new(&mut stream).poll_write(cx, &[0; 4096]) {
                assert_ne!(written.unwrap(), 0);
            }
            Poll::Ready(Pin::new(&mut stream).poll_flush(cx).is_ready())
        });
        assert!(!flushed.await);
    }
}
