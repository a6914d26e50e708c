//! Opens connections: TCP with happy eyeballs, perhaps through a proxy, TLS with ALPN.

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
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower_service::Service;

use super::proxy::Tunnel;
use super::{FetchError, SetupError};
use crate::config;

#[derive(Clone)]
pub(super) struct Connector {
    tcp: HttpConnector,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// The socket to connect to: the upstream's, or the proxy's.
    target: Uri,
    tunnel: Option<Tunnel>,
    timeout: Duration,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connector({})", self.target)
    }
}

impl Connector {
    pub(super) fn new(config: &config::Upstream) -> Result<Self, SetupError> {
        let base = &config.base_url;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        // Each address gets its share of this; the whole is limited by `timeout` below.
        tcp.set_connect_timeout(Some(config.connect_timeout));
        let tls = if base.https { Some(tls(config)?) } else { None };
        let upstream = socket(&base.host, base.port);
        let proxy = config.proxy.as_ref();
        Ok(Self {
            tcp,
            tls,
            target: proxy.map_or(upstream.clone(), |proxy| socket(&proxy.host, proxy.port)),
            tunnel: proxy.map(|proxy| Tunnel::new(proxy, &upstream)),
            timeout: config.connect_timeout,
        })
    }

    pub(super) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// `upstream.connect_timeout`, for everything that opening takes.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(super) async fn connect(&self) -> Result<UpstreamIo, FetchError> {
        let began = Instant::now();
        let tcp = self.tcp.clone().call(self.target.clone()).await;
        let tcp = match (tcp, &self.tunnel) {
            (Ok(tcp), None) => tcp.into_inner(),
            (Ok(tcp), Some(tunnel)) => {
                // A moment before all of it is over: this one knows who is silent.
                let end = began + self.timeout.saturating_sub(Duration::from_millis(1));
                match timeout_at(end, tunnel.open(tcp)).await {
                    Ok(Ok(through)) => through,
                    Ok(Err(error)) => return Err(unconnected(error.into())),
                    Err(_) => return Err(FetchError::ConnectTimeout(Some(tunnel.silent().into()))),
                }
            }
            (Err(error), None) => return Err(unconnected(error.into())),
            (Err(error), Some(tunnel)) => {
                return Err(unconnected(tunnel.unreachable(error.into()).into()));
            }
        };
        let stream = match &self.tls {
            None => Stream::Plain(tcp),
            Some((connector, name)) => {
                let stream = connector
                    .connect(name.clone(), tcp)
                    .await
                    .map_err(FetchError::Tls)?;
                Stream::Tls(Box::new(stream))
            }
        };
        Ok(UpstreamIo::new(stream))
    }
}

/// With the port, also where it is the default: this names a socket, not a resource.
fn socket(host: &str, port: u16) -> Uri {
    let host = match host.contains(':') {
        true => format!("[{host}]"),
        false => host.to_owned(),
    };
    let uri = format!("http://{host}:{port}/").parse();
    uri.expect("a validated URL has a plain host")
}

/// EMFILE and ENFILE: this process, or the whole system, has as many files open as it may. The same
/// numbers on every Unix; std has no kind for them.
const NO_DESCRIPTOR: [i32; 2] = [24, 23];

/// What kept a connection from being opened. Each address has its share of the time; with one address
/// that is all of it, so the same wait ends here or at the limit of the whole: either way a timeout.
fn unconnected(error: Box<dyn Error + Send + Sync>) -> FetchError {
    let causes = || {
        let first: &(dyn Error + 'static) = &*error;
        std::iter::successors(Some(first), |&cause| cause.source())
            .filter_map(|cause| cause.downcast_ref::<io::Error>())
    };
    let no_descriptor = |cause: &io::Error| {
        let code = cause.raw_os_error();
        code.is_some_and(|code| NO_DESCRIPTOR.contains(&code))
    };
    if causes().any(no_descriptor) {
        FetchError::NoDescriptor(error)
    } else if causes().any(|cause| cause.kind() == io::ErrorKind::TimedOut) {
        FetchError::ConnectTimeout(Some(error))
    } else {
        FetchError::Connect(error)
    }
}

fn tls(config: &config::Upstream) -> Result<(TlsConnector, ServerName<'static>), SetupError> {
    let mut roots = RootCertStore::empty();
    // What of the system's store cannot be read or parsed is left out; what is left must do.
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

/// An open connection that remembers whether anything was received since it was last asked.
pub(super) struct UpstreamIo {
    stream: Stream,
    heard: Arc<ReceiveTracker>,
    /// HTTP/1.1: one answer at a time, so bytes can be told to belong to it.
    exclusive: bool,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Bytes that an answer may take before its head is complete. An upstream that sends interim answers
/// without end would otherwise keep a worker busy with reading them until the deadline.
const MAX_BEFORE_HEAD: usize = 512 * 1024;

/// What was received since a request was sent.
#[derive(Debug, Default)]
pub(super) struct ReceiveTracker {
    bytes: AtomicUsize,
    /// The head of the answer has come: what follows is its body.
    answered: AtomicBool,
}

impl ReceiveTracker {
    /// A request is about to be sent.
    pub(super) fn reset(&self) {
        self.bytes.store(0, Ordering::Relaxed);
        self.answered.store(false, Ordering::Relaxed);
    }

    /// The head of the answer has come.
    pub(super) fn head(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// Before the first byte, a request can be repeated safely.
    pub(super) fn anything(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > 0
    }

    fn too_much(&self) -> bool {
        !self.answered.load(Ordering::Relaxed)
            && self.bytes.load(Ordering::Relaxed) > MAX_BEFORE_HEAD
    }
}

impl UpstreamIo {
    pub(super) fn heard(&self) -> Arc<ReceiveTracker> {
        Arc::clone(&self.heard)
    }

    fn new(stream: Stream) -> Self {
        let exclusive = match &stream {
            Stream::Plain(_) => true,
            Stream::Tls(stream) => stream.get_ref().1.alpn_protocol() != Some(b"h2"),
        };
        Self {
            stream,
            heard: Arc::default(),
            exclusive,
        }
    }

    /// Whether ALPN chose HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        !self.exclusive
    }

    fn stream(&mut self) -> Pin<&mut (dyn ReadWrite + 'static)> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream),
            Stream::Tls(stream) => Pin::new(&mut **stream),
        }
    }
}

trait ReadWrite: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> ReadWrite for T {}

impl AsyncRead for UpstreamIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.exclusive && self.heard.too_much() {
            // Not read any more: the deadline of the fetch ends it.
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(self.stream().poll_read(cx, buf))?;
        let read = buf.filled().len() - before;
        self.heard.bytes.fetch_add(read, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for UpstreamIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_address_and_a_default_port_make_a_socket_to_connect_to() {
        for (host, port, expected) in [
            ("::1", 8787, "http://[::1]:8787/"),
            ("a.example", 80, "http://a.example:80/"),
        ] {
            let mut config = config::Upstream::default();
            config.base_url.https = false;
            config.base_url.host = host.to_owned();
            config.base_url.port = port;
            let connector = Connector::new(&config).unwrap();
            assert_eq!(connector.target, expected);
            assert_eq!(format!("{connector:?}"), format!("Connector({expected})"));
            assert!(!connector.is_tls());
        }
    }

    #[test]
    fn bytes_are_counted_from_one_request_to_the_next() {
        let heard = ReceiveTracker::default();
        heard.bytes.store(MAX_BEFORE_HEAD, Ordering::Relaxed);
        assert!(heard.anything() && !heard.too_much());
        heard.bytes.store(MAX_BEFORE_HEAD + 1, Ordering::Relaxed);
        assert!(heard.too_much());
        heard.head();
        assert!(!heard.too_much(), "what follows is its body");
        heard.reset();
        assert!(!heard.anything() && !heard.too_much());
        heard.bytes.store(MAX_BEFORE_HEAD + 1, Ordering::Relaxed);
        assert!(heard.too_much(), "another answer, with a head of its own");
    }
}
