//! The bytes of an accepted connection, which update its timers.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::timeouts::ConnectionTimers;

/// A TCP, unix or TLS stream.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A stream that updates the timers of its connection.
pub(super) struct TrackedIo {
    pub(super) stream: Box<dyn Stream>,
    pub(super) timers: Arc<ConnectionTimers>,
}

impl TrackedIo {
    fn track(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(Ok(bytes)) => self.timers.sent(*bytes),
            Poll::Pending => self.timers.sent(0),
            Poll::Ready(Err(_)) => {}
        }
        written
    }
}

impl AsyncRead for TrackedIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.timers.received(&buf.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TrackedIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.track(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.track(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use rustls::crypto::ring::default_provider;
    use rustls::{ClientConfig, RootCertStore, ServerConfig};
    use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::super::timeouts::Timeouts;
    use super::*;

    /// Returns a connection after its TLS handshake, and its client.
    async fn tls_connection() -> (TrackedIo, impl AsyncRead) {
        let issued = rcgen::generate_simple_self_signed(["h".to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(issued.signing_key.serialize_der());
        let provider = Arc::new(default_provider());
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![issued.cert.der().clone()], PrivateKeyDer::from(key))
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(issued.cert.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (accepted, connected) = tokio::join!(listener.accept(), TcpStream::connect(address));
        let connector = TlsConnector::from(Arc::new(client));
        let name = ServerName::try_from("h").unwrap();
        let (stream, client) = tokio::join!(
            TlsAcceptor::from(Arc::new(server)).accept(accepted.unwrap().0),
            connector.connect(name, connected.unwrap())
        );
        let minute = Duration::from_secs(60);
        let io = TrackedIo {
            stream: Box::new(stream.unwrap()),
            timers: ConnectionTimers::new(Timeouts {
                header: minute,
                idle: minute,
            }),
        };
        (io, client.unwrap())
    }

    #[tokio::test]
    async fn flush_is_pending_while_tls_buffers_bytes() {
        let (mut io, _unread) = tls_connection().await;
        let flushed = poll_fn(|cx| {
            while let Poll::Ready(written) = Pin::new(&mut io).poll_write(cx, &[0; 4096]) {
                assert_ne!(written.unwrap(), 0);
            }
            Poll::Ready(Pin::new(&mut io).poll_flush(cx).is_ready())
        });
        assert!(!flushed.await);
    }
}
