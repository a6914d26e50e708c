//! The section `[server.tls]`: the server certificate, and the roots for client certificates.
//!
//! The files are loaded with the configuration, so that their problems are reported with all others, and
//! the validated content is the one that is used. No error repeats any part of the private key's file.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{Error, InconsistentKeys};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::{ExposeSecret, SecretString};

use super::secret::{MAX_FILE_LEN, read_regular};
use super::secret_ref::SecretResolver;
use super::table::Item;

/// Holds the loaded TLS settings of the data listener.
///
/// Two are equal if they name the same files with the same content. `Debug` shows the paths only.
#[derive(Clone)]
pub struct Tls {
    /// Names the PEM file of the server certificate and its intermediate certificates.
    pub cert: PathBuf,
    /// Names the PEM file of the private key.
    pub key: PathBuf,
    /// Names the PEM file of the roots for client certificates. `None` if clients need no certificate.
    pub client_ca: Option<PathBuf>,
    identity: Arc<CertifiedKey>,
    client_auth: Option<ClientAuth>,
}

/// Holds what verifies client certificates.
#[derive(Clone)]
struct ClientAuth {
    roots: Vec<CertificateDer<'static>>,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Tls {
    /// Returns the files that the settings were read from.
    pub(super) fn files(&self) -> impl Iterator<Item = PathBuf> {
        let Self { cert, key, .. } = self;
        let files = [Some(cert), Some(key), self.client_ca.as_ref()];
        files.into_iter().flatten().cloned()
    }

    /// Returns the certificate with its key.
    pub(crate) fn identity(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.identity)
    }

    /// Returns a hash of the roots for client certificates. `None` if clients need no certificate.
    pub(crate) fn client_ca_hash(&self) -> Option<blake3::Hash> {
        let mut hasher = blake3::Hasher::new();
        for root in &self.client_auth.as_ref()?.roots {
            hasher.update(&(root.len() as u64).to_le_bytes());
            hasher.update(root);
        }
        Some(hasher.finalize())
    }

    /// Returns the verifier of client certificates. `None` if clients need no certificate.
    pub(crate) fn verifier(&self) -> Option<Arc<dyn ClientCertVerifier>> {
        let client_auth = self.client_auth.as_ref()?;
        Some(Arc::clone(&client_auth.verifier))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("cert", &self.cert)
            .field("key", &self.key)
            .field("client_ca", &self.client_ca)
            .finish_non_exhaustive()
    }
}

impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        let files = |tls: &Self| (tls.cert.clone(), tls.key.clone(), tls.client_ca.clone());
        let roots = |tls: &Self| tls.client_auth.as_ref().map(|auth| auth.roots.clone());
        // The key belongs to the first certificate, so equal chains have equal keys.
        files(self) == files(other)
            && self.identity.cert == other.identity.cert
            && roots(self) == roots(other)
    }
}

/// Reads `[server.tls]` and the files that it names.
pub(super) fn read(item: Item<'_>, secrets: &SecretResolver<'_>) -> Option<Tls> {
    let mut table = item.table("a table, [server.tls]")?;
    let provider = Arc::new(default_provider());
    let cert = table.require(
        "cert",
        "write the path of the certificate's PEM file",
        |item| chain(&item, secrets),
    );
    let key = table.require(
        "key",
        "write the path of the private key's PEM file",
        |item| {
            let (path, key) = private_key(&item, secrets, &provider)?;
            Some((path, key, item))
        },
    );
    let client_ca = table.take("client_ca");
    let client_auth = client_ca.map(|item| client_auth(&item, secrets, &provider));
    table.finish();

    let ((cert, chain), (key, signing, item)) = (cert?, key?);
    let identity = CertifiedKey::new(chain, signing);
    match identity.keys_match() {
        // Some keys do not reveal their public part. A mismatch then fails the first handshake.
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        Err(_) => {
            return item.reject(format!(
                "{} does not belong to the first certificate of {}",
                key.display(),
                cert.display()
            ));
        }
    }
    let (client_ca, client_auth) = match client_auth {
        None => (None, None),
        Some(read) => read.map(|(path, auth)| (Some(path), Some(auth)))?,
    };
    Some(Tls {
        cert,
        key,
        client_ca,
        identity: Arc::new(identity),
        client_auth,
    })
}

type Chain = Vec<CertificateDer<'static>>;

fn chain(item: &Item<'_>, secrets: &SecretResolver<'_>) -> Option<(PathBuf, Chain)> {
    let (path, chain) = certificates(item, secrets)?;
    match ParsedCertificate::try_from(chain.first()?) {
        Ok(_) => Some((path, chain)),
        Err(_) => item.reject(format!(
            "the first certificate of {} is damaged, or not X.509 version 3",
            path.display()
        )),
    }
}

fn private_key(
    item: &Item<'_>,
    secrets: &SecretResolver<'_>,
    provider: &CryptoProvider,
) -> Option<(PathBuf, Arc<dyn SigningKey>)> {
    let (path, text) = text(item, secrets)?;
    let shown = path.display();
    // The errors of the parsers are dropped, because some repeat the input.
    let key = match PrivateKeyDer::from_pem_slice(text.expose_secret().as_bytes()) {
        Ok(key) => key,
        Err(pem::Error::NoItemsFound) => {
            return item.reject(format!(
                "{shown} contains no PEM private key without password"
            ));
        }
        Err(_) => return item.reject(format!("{shown} is not PEM")),
    };
    match provider.key_provider.load_private_key(key) {
        Ok(key) => Some((path, key)),
        Err(_) => item.reject(format!(
            "the private key of {shown} is damaged or of an unsupported type; use RSA (2048 bits \
             and more), ECDSA (P-256, P-384) or Ed25519"
        )),
    }
}

fn client_auth(
    item: &Item<'_>,
    secrets: &SecretResolver<'_>,
    provider: &Arc<CryptoProvider>,
) -> Option<(PathBuf, ClientAuth)> {
    let (path, roots, store) = roots(item, secrets)?;
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider))
            .build()
            .expect("the store has a root, and there is no revocation list");
    Some((path, ClientAuth { roots, verifier }))
}

/// Reads the roots of a PEM file, at least one. Returns them as they are written, and as a store.
pub(super) fn roots(
    item: &Item<'_>,
    secrets: &SecretResolver<'_>,
) -> Option<(PathBuf, Chain, RootCertStore)> {
    let (path, roots) = certificates(item, secrets)?;
    let mut store = RootCertStore::empty();
    for root in &roots {
        if store.add(root.clone()).is_err() {
            return item.reject(format!(
                "{} contains a certificate that cannot be a root",
                path.display()
            ));
        }
    }
    Some((path, roots, store))
}

/// Reads the certificates of a PEM file, at least one.
pub(super) fn certificates(
    item: &Item<'_>,
    secrets: &SecretResolver<'_>,
) -> Option<(PathBuf, Chain)> {
    let (path, text) = text(item, secrets)?;
    let found: Result<Chain, _> =
        CertificateDer::pem_slice_iter(text.expose_secret().as_bytes()).collect();
    match found {
        Ok(found) if !found.is_empty() => Some((path, found)),
        Ok(_) => item.reject(format!("{} contains no PEM certificate", path.display())),
        // The error of the parser is dropped, because it repeats lines, and the file may hold a key.
        Err(_) => item.reject(format!("{} is not PEM", path.display())),
    }
}

/// Reads a file that may hold a private key, even by mistake.
fn text(item: &Item<'_>, secrets: &SecretResolver<'_>) -> Option<(PathBuf, SecretString)> {
    let path = secrets.path(item)?;
    match read_regular(&path, MAX_FILE_LEN) {
        Ok(text) => Some((path, SecretString::from(text))),
        Err(error) => item.reject(format!("{} cannot be read: {error}", path.display())),
    }
}
