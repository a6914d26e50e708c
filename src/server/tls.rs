//! TLS on the data listeners. A reload replaces the certificate, and open connections keep theirs.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config;

/// The ALPN name of HTTP/2.
pub(super) const H2: &[u8] = b"h2";

/// The ALPN name of HTTP/1.1.
const HTTP_1_1: &[u8] = b"http/1.1";

/// Performs handshakes with the current certificate.
pub(super) struct Tls {
    current: watch::Sender<TlsConfig>,
}

#[derive(Clone)]
struct TlsConfig {
    server: Arc<ServerConfig>,
    /// The hash of the roots in `client_ca`, or `None` if none is required.
    client_ca: Option<blake3::Hash>,
}

/// A connection after its handshake.
#[derive(Debug)]
pub(super) struct TlsConnection {
    pub(super) stream: TlsStream<TcpStream>,
    /// The hash of the roots against which the client's certificate was verified.
    pub(super) client_ca: Option<blake3::Hash>,
}

impl Tls {
    pub(super) fn new(tls: &config::Tls) -> Self {
        Self {
            current: watch::Sender::new(TlsConfig::new(tls)),
        }
    }

    /// Replaces the certificate and the client roots, for handshakes that begin from now on. An open connection
    /// lives on until [`Tls::rejected`] returns for it.
    pub(super) fn replace(&self, tls: &config::Tls) {
        self.current.send_replace(TlsConfig::new(tls));
    }

    /// Returns once client certificates must be verified against other roots than `client_ca`.
    pub(super) async fn rejected(&self, client_ca: Option<blake3::Hash>) {
        let mut current = self.current.subscribe();
        // An error means that the configuration can no longer change.
        let rejected = |now: &TlsConfig| now.client_ca.is_some() && now.client_ca != client_ca;
        if current.wait_for(rejected).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Performs the server's side of the handshake, without a time limit.
    pub(super) async fn handshake(&self, stream: TcpStream) -> io::Result<TlsConnection> {
        let TlsConfig { server, client_ca } = self.current.borrow().clone();
        let stream = TlsAcceptor::from(server).accept(stream).await?;
        Ok(TlsConnection { stream, client_ca })
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

impl TlsConfig {
    fn new(tls: &config::Tls) -> Self {
        Self {
            server: server_config(tls),
            client_ca: tls.client_ca_hash(),
        }
    }
}

fn server_config(tls: &config::Tls) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring supports TLS 1.2 and 1.3");
    let verifier = tls.verifier();
    let may_resume = verifier.is_none();
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let identity = SingleCertAndKey::from(tls.identity());
    let mut server = builder.with_cert_resolver(Arc::new(identity));
    server.alpn_protocols = vec![H2.to_vec(), HTTP_1_1.to_vec()];
    if !may_resume {
        // A resumed session would not verify the client's certificate again, even if it has expired.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
    }
    Arc::new(server)
}
