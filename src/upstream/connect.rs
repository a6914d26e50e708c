//! Opens connections: TCP with happy eyeballs, through a proxy if one is configured, then TLS with ALPN.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tower_service::Service;

use super::error::{FetchError, SetupError};
use super::proxy::Tunnel;
use crate::config;

#[derive(Clone)]
pub(super) struct Connector {
    tcp: HttpConnector,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// The socket to connect to, which is the upstream's or the proxy's.
    socket: Uri,
    tunnel: Option<Tunnel>,
    timeout: Duration,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connector({})", self.socket)
    }
}

impl Connector {
    pub(super) fn new(config: &config::Upstream) -> Result<Self, SetupError> {
        let base = &config.base_url;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        // The addresses of a name share this timeout. `timeout` below limits all of connecting.
        tcp.set_connect_timeout(Some(config.connect_timeout));
        let tls = if base.https { Some(tls(config)?) } else { None };
        let upstream = socket_uri(&base.host, base.port);
        let proxy = config.proxy.as_ref();
        Ok(Self {
            tcp,
            tls,
            socket: proxy.map_or(upstream.clone(), |proxy| {
                socket_uri(&proxy.host, proxy.port)
            }),
            tunnel: proxy.map(|proxy| Tunnel::new(proxy, &upstream)),
            timeout: config.connect_timeout,
        })
    }

    pub(super) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Returns `upstream.connect_timeout`, which covers everything up to an open connection.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(super) async fn connect(&self) -> Result<UpstreamIo, FetchError> {
        let started = Instant::now();
        let tcp = self.tcp.clone().call(self.socket.clone()).await;
        let tcp = match (tcp, &self.tunnel) {
            (Ok(tcp), None) => tcp.into_inner(),
            (Ok(tcp), Some(tunnel)) => {
                // This timeout ends just before the one of the whole, because only this error names the proxy.
                let end = started + self.timeout.saturating_sub(Duration::from_millis(1));
                match timeout_at(end, tunnel.open(tcp)).await {
                    Ok(Ok(tcp)) => tcp,
                    Ok(Err(error)) => return Err(connect_failed(error.into())),
                    Err(_) => {
                        return Err(FetchError::ConnectTimeout(Some(
                            tunnel.no_response().into(),
                        )));
                    }
                }
            }
            (Err(error), None) => return Err(connect_failed(error.into())),
            (Err(error), Some(tunnel)) => {
                return Err(connect_failed(tunnel.unreachable(error.into()).into()));
            }
        };
        let Some((connector, name)) = &self.tls else {
            return Ok(UpstreamIo::new(tcp, false));
        };
        let stream = connector.connect(name.clone(), tcp).await;
        let stream = stream.map_err(FetchError::TlsHandshake)?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(UpstreamIo::new(stream, is_http2))
    }
}

/// Returns a URI with the port, even if it is the default, because it names a socket.
fn socket_uri(host: &str, port: u16) -> Uri {
    let host = match host.contains(':') {
        true => format!("[{host}]"),
        false => host.to_owned(),
    };
    let uri = format!("http://{host}:{port}/").parse();
    uri.expect("a validated URL has a valid host")
}

/// EMFILE and ENFILE, which have these numbers on every Unix. std has no `ErrorKind` for them.
const OUT_OF_FILE_DESCRIPTORS: [i32; 2] = [24, 23];

/// Returns the error of a connection that could not be opened. An address that does not respond is a timeout,
/// whether its share of the time or the time of the whole ended first.
fn connect_failed(error: Box<dyn Error + Send + Sync>) -> FetchError {
    let causes = || {
        let first: &(dyn Error + 'static) = &*error;
        std::iter::successors(Some(first), |&cause| cause.source())
            .filter_map(|cause| cause.downcast_ref::<io::Error>())
    };
    let is_out_of_descriptors = |cause: &io::Error| {
        let code = cause.raw_os_error();
        code.is_some_and(|code| OUT_OF_FILE_DESCRIPTORS.contains(&code))
    };
    if causes().any(is_out_of_descriptors) {
        FetchError::OutOfFileDescriptors(error)
    } else if causes().any(|cause| cause.kind() == io::ErrorKind::TimedOut) {
        FetchError::ConnectTimeout(Some(error))
    } else {
        FetchError::Connect(error)
    }
}

fn tls(config: &config::Upstream) -> Result<(TlsConnector, ServerName<'static>), SetupError> {
    let mut roots = RootCertStore::empty();
    // A system certificate that cannot be read or parsed is skipped. An error follows only if none is left.
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::warn!(%error, "a system root certificate cannot be used");
    }
    roots.add_parsable_certificates(system.certs);
    if let Some(path) = &config.ca_file {
        let failed = |source| SetupError::CaFile {
            path: path.display().to_string(),
            source,
        };
        let certs: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect)
            .map_err(failed)?;
        if roots.add_parsable_certificates(certs).0 == 0 {
            return Err(failed(rustls_pki_types::pem::Error::NoItemsFound));
        }
    }
    if roots.is_empty() {
        return Err(SetupError::NoRoots);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring supports TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let host = config.base_url.host.clone();
    let name = ServerName::try_from(host.clone()).map_err(|_| SetupError::HostName(host))?;
    Ok((TlsConnector::from(Arc::new(client)), name))
}

/// An open connection that counts the bytes received since the last request.
pub(super) struct UpstreamIo {
    stream: Box<dyn Stream>,
    received: Arc<ReceiveTracker>,
    is_http2: bool,
}

/// A TCP or TLS stream.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Limits the bytes of a response head with all interim responses before it. Without this limit, endless
/// interim responses would keep a worker busy until the deadline.
const MAX_HEAD: usize = 512 * 1024;

/// Counts the bytes that were received on an HTTP/1.1 connection since a request was sent.
#[derive(Debug, Default)]
pub(super) struct ReceiveTracker {
    bytes: AtomicUsize,
    /// Whether the response head is complete, so that further bytes belong to the body.
    has_head: AtomicBool,
}

impl ReceiveTracker {
    /// Starts the count anew, before a request is sent.
    pub(super) fn begin_request(&self) {
        self.bytes.store(0, Ordering::Relaxed);
        self.has_head.store(false, Ordering::Relaxed);
    }

    /// Notes that the response head is complete.
    pub(super) fn end_head(&self) {
        self.has_head.store(true, Ordering::Relaxed);
    }

    /// Reports whether any byte was received. Before the first byte, an idempotent request can be retried.
    pub(super) fn has_received(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > 0
    }

    fn is_head_too_long(&self) -> bool {
        !self.has_head.load(Ordering::Relaxed) && self.bytes.load(Ordering::Relaxed) > MAX_HEAD
    }
}

impl UpstreamIo {
    pub(super) fn receive_tracker(&self) -> Arc<ReceiveTracker> {
        Arc::clone(&self.received)
    }

    fn new(stream: impl Stream + 'static, is_http2: bool) -> Self {
        Self {
            stream: Box::new(stream),
            received: Arc::default(),
            is_http2,
        }
    }

    /// Reports whether ALPN chose HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        self.is_http2
    }
}

impl AsyncRead for UpstreamIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.is_http2 && self.received.is_head_too_long() {
            // The connection is not read any more, and the deadline of the fetch ends it.
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let read = buf.filled().len() - before;
        self.received.bytes.fetch_add(read, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for UpstreamIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
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
    use super::*;

    #[test]
    fn socket_uri_has_ipv6_brackets_and_the_default_port() {
        for (host, port, expected) in [
            ("::1", 8787, "http://[::1]:8787/"),
            ("a.example", 80, "http://a.example:80/"),
        ] {
            let mut config = config::Upstream::default();
            config.base_url.https = false;
            config.base_url.host = host.to_owned();
            config.base_url.port = port;
            let connector = Connector::new(&config).unwrap();
            assert_eq!(connector.socket, expected);
            assert_eq!(format!("{connector:?}"), format!("Connector({expected})"));
            assert!(!connector.is_tls());
        }
    }

    #[test]
    fn received_bytes_are_counted_for_each_request() {
        let received = ReceiveTracker::default();
        received.bytes.store(MAX_HEAD, Ordering::Relaxed);
        assert!(received.has_received() && !received.is_head_too_long());
        received.bytes.store(MAX_HEAD + 1, Ordering::Relaxed);
        assert!(received.is_head_too_long());
        received.end_head();
        assert!(
            !received.is_head_too_long(),
            "bytes after the head belong to the body"
        );
        received.begin_request();
        assert!(!received.has_received() && !received.is_head_too_long());
        received.bytes.store(MAX_HEAD + 1, Ordering::Relaxed);
        assert!(
            received.is_head_too_long(),
            "each response has its own head"
        );
    }
}
