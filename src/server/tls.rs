//! TLS on the data listeners: what a connection is secured with, replaceable while others live on.

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

/// HTTP/2 as ALPN names it.
pub(super) const H2: &[u8] = b"h2";

/// HTTP/1.1 as ALPN names it.
const HTTP_1_1: &[u8] = b"http/1.1";

/// Secures connections with the certificate in force.
pub(super) struct Tls {
    current: watch::Sender<Current>,
}

#[derive(Clone)]
struct Current {
    server: Arc<ServerConfig>,
    /// Of callers' certificates; none: they need not have one.
    roots: Option<blake3::Hash>,
}

/// A connection after its handshake.
#[derive(Debug)]
pub(super) struct Secured {
    pub(super) stream: TlsStream<TcpStream>,
    /// What the caller's certificate passed.
    pub(super) roots: Option<blake3::Hash>,
}

impl Tls {
    pub(super) fn new(tls: &config::Tls) -> Self {
        Self {
            current: watch::Sender::new(current(tls)),
        }
    }

    /// Puts another certificate in force, and other roots for callers: for connections whose
    /// handshake begins from now on. Open ones live on, unless they are [`Tls::outgrown`].
    pub(super) fn replace(&self, tls: &config::Tls) {
        self.current.send_replace(current(tls));
    }

    /// Returns once callers need a certificate that passes other roots than these.
    pub(super) async fn outgrown(&self, roots: Option<blake3::Hash>) {
        let mut current = self.current.subscribe();
        // It fails only when nobody can replace anything any more.
        let outgrown = |now: &Current| now.roots.is_some() && now.roots != roots;
        if current.wait_for(outgrown).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The server's side of the handshake; it has no time limit of its own.
    pub(super) async fn handshake(&self, stream: TcpStream) -> io::Result<Secured> {
        let Current { server, roots } = self.current.borrow().clone();
        let stream = TlsAcceptor::from(server).accept(stream).await?;
        Ok(Secured { stream, roots })
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

fn current(tls: &config::Tls) -> Current {
    Current {
        server: server(tls),
        roots: tls.client_ca_hash(),
    }
}

fn server(tls: &config::Tls) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring supports TLS 1.2 and 1.3");
    let verifier = tls.verifier();
    let resumes = verifier.is_none();
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let identity = SingleCertAndKey::from(tls.identity());
    let mut server = builder.with_cert_resolver(Arc::new(identity));
    server.alpn_protocols = vec![H2.to_vec(), HTTP_1_1.to_vec()];
    if !resumes {
        // Who resumes a session is not asked for a certificate again, expired or not.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
    }
    Arc::new(server)
}
