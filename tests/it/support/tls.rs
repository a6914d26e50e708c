//! Certificates, right and wrong, and an origin that knows no TLS after 1.1.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair,
    date_time_ymd,
};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;

use super::{Origin, within};

/// What is wrong with a certificate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Flaw {
    None,
    Expired,
    OtherName,
    /// Signed by itself: nobody vouches for it.
    SelfSigned,
    /// Signed by an authority that the gateway was not given.
    UnknownAuthority,
}

/// An authority whose certificate is in a file.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "stepgate tests");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    /// The configuration that trusts this authority.
    pub(crate) fn toml(&self) -> String {
        format!("[upstream]\nca_file = {:?}\n", self.file())
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// An origin for `https://127.0.0.1:…` whose certificate has this flaw.
    pub(crate) async fn origin(&self, flaw: Flaw) -> Origin {
        Origin::start_tls(TlsAcceptor::from(Arc::new(self.server(flaw)))).await
    }

    /// What a server for `https://127.0.0.1:…` needs.
    pub(crate) fn server(&self, flaw: Flaw) -> ServerConfig {
        let (certificate, key) = self.issue(flaw);
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap()
    }

    /// A certificate for 127.0.0.1 with its key, in files of this name.
    pub(crate) fn identity(&self, name: &str, flaw: Flaw) -> Identity {
        let (certificate, key) = self.issue(flaw);
        let file = |ending: &str| self.folder.path().join(format!("{name}.{ending}"));
        let identity = Identity {
            cert: file("crt"),
            key: file("key"),
        };
        std::fs::write(&identity.cert, certificate.pem()).unwrap();
        std::fs::write(&identity.key, key.serialize_pem()).unwrap();
        identity
    }

    fn issue(&self, flaw: Flaw) -> (Certificate, KeyPair) {
        let name = match flaw {
            Flaw::OtherName => "other.example",
            Flaw::None | Flaw::Expired | Flaw::SelfSigned | Flaw::UnknownAuthority => "127.0.0.1",
        };
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        if flaw == Flaw::Expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = match flaw {
            Flaw::SelfSigned => params.self_signed(&key),
            Flaw::UnknownAuthority => params.signed_by(&key, &Self::new().issuer),
            Flaw::None | Flaw::Expired | Flaw::OtherName => params.signed_by(&key, &self.issuer),
        };
        (certificate.unwrap(), key)
    }
}

/// A certificate and its key, as PEM files that live as long as their authority.
pub(crate) struct Identity {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Identity {
    /// The configuration that shows it to callers.
    pub(crate) fn toml(&self) -> String {
        let Self { cert, key } = self;
        format!("[server.tls]\ncert = {cert:?}\nkey = {key:?}\n")
    }
}

/// An origin that answers every hello with one of TLS 1.1 and records what comes after.
pub(crate) struct OldTls {
    pub(crate) address: SocketAddr,
    after: watch::Sender<Option<Vec<u8>>>,
    _accepts: JoinSet<()>,
}

impl OldTls {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let after = watch::Sender::new(None);
        let record = after.clone();
        let mut accepts = JoinSet::new();
        accepts.spawn(async move {
            while let Ok((mut io, _)) = listener.accept().await {
                let mut hello = [0; 5];
                let whole = io.read_exact(&mut hello).await;
                let length = u16::from_be_bytes([hello[3], hello[4]]);
                let mut rest = vec![0; usize::from(length)];
                if whole.is_ok() && io.read_exact(&mut rest).await.is_ok() {
                    let mut said = Vec::new();
                    // An early end is as good as a reset: what was said until then counts.
                    drop(io.write_all(&server_hello()).await);
                    drop(io.read_to_end(&mut said).await);
                    record.send_replace(Some(said));
                }
            }
        });
        Self {
            address,
            after,
            _accepts: accepts,
        }
    }

    /// What the client said after the hello, once it has hung up.
    pub(crate) async fn heard(&self) -> Vec<u8> {
        let mut heard = self.after.subscribe();
        let said = within("the client to hang up", heard.wait_for(Option::is_some)).await;
        said.unwrap().clone().expect("it was just seen")
    }
}

/// RFC 4346 section 7.4.1.3: version 3.2, no session, TLS_RSA_WITH_AES_128_CBC_SHA.
fn server_hello() -> Vec<u8> {
    let hello = [&[3, 2][..], &[7; 32], &[0], &[0, 0x2f], &[0]].concat();
    let length = u8::try_from(hello.len()).unwrap();
    let handshake = [&[2, 0, 0, length][..], &hello].concat();
    [&[22, 3, 2, 0, length + 4][..], &handshake].concat()
}
