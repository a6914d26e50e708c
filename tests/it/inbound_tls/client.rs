//! A client with TLS.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::support::H2Client;
use crate::support::certificates::{Authority, Identity};
use crate::support::client::head;
use crate::support::{Gateway, RawClient, within};

/// Returns the name of the gateway in its certificate.
pub(super) fn server_name() -> ServerName<'static> {
    ServerName::try_from("127.0.0.1").unwrap()
}

/// The certificate and the protocols of a client.
#[derive(Clone, Copy, Default)]
pub(super) struct ClientOptions<'a> {
    pub(super) identity: Option<&'a Identity>,
    pub(super) alpn: &'a [&'a str],
    pub(super) only_tls_1_2: bool,
}

/// A client that trusts one authority. Its connections share their TLS sessions.
#[derive(Clone)]
pub(super) struct TlsClient(pub(super) Arc<ClientConfig>);

impl TlsClient {
    pub(super) fn new(authority: &Authority, with: ClientOptions<'_>) -> Self {
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_file(authority.file()).unwrap();
        roots.add(root).unwrap();
        let versions: &[_] = if with.only_tls_1_2 {
            &[&TLS12]
        } else {
            &[&TLS13, &TLS12]
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match with.identity {
            None => builder.with_no_client_auth(),
            Some(Identity { cert, key }) => {
                let chain = CertificateDer::pem_file_iter(cert).unwrap();
                let key = PrivateKeyDer::from_pem_file(key).unwrap();
                let chain = chain.collect::<Result<_, _>>().unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = with.alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        Self(Arc::new(config))
    }

    pub(super) async fn try_connect(
        &self,
        address: SocketAddr,
    ) -> io::Result<TlsStream<TcpStream>> {
        let tcp = within("a connection", TcpStream::connect(address)).await?;
        let connector = TlsConnector::from(Arc::clone(&self.0));
        within("a handshake", connector.connect(server_name(), tcp)).await
    }

    pub(super) async fn connect(&self, gateway: &Gateway) -> TlsStream<TcpStream> {
        self.try_connect(gateway.address()).await.unwrap()
    }

    pub(super) async fn raw(&self, gateway: &Gateway) -> RawClient {
        RawClient::over(self.connect(gateway).await)
    }

    pub(super) async fn h2(&self, gateway: &Gateway) -> H2Client {
        H2Client::over(self.connect(gateway).await).await
    }

    /// Sends a request on a new connection. Returns all received bytes, and how the connection ended.
    pub(super) async fn request(
        &self,
        address: SocketAddr,
        path: &str,
    ) -> (Vec<u8>, io::Result<()>) {
        match within("a connection", TcpStream::connect(address)).await {
            Ok(tcp) => self.request_on(tcp, path).await,
            Err(error) => (Vec::new(), Err(error)),
        }
    }

    /// Does the same as [`TlsClient::request`] on a TCP connection.
    pub(super) async fn request_on(&self, tcp: TcpStream, path: &str) -> (Vec<u8>, io::Result<()>) {
        let mut received = Vec::new();
        let ended = async {
            let connector = TlsConnector::from(Arc::clone(&self.0));
            let mut stream = connector.connect(server_name(), tcp).await?;
            let request = head("GET", path, "127.0.0.1", &[("connection", "close")]);
            stream.write_all(request.as_bytes()).await?;
            stream.read_to_end(&mut received).await.map(drop)
        };
        let ended = within("an end", ended).await;
        (received, ended)
    }

    /// Returns the ClientHello.
    pub(super) fn hello(&self) -> Vec<u8> {
        let mut connection = ClientConnection::new(Arc::clone(&self.0), server_name()).unwrap();
        let mut hello = Vec::new();
        connection.write_tls(&mut hello).unwrap();
        hello
    }
}
