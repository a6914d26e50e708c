//! The section `[server.tls]`: the certificate that callers are shown, and whom of them to let in.
//!
//! The files are loaded with the configuration, so that a mistake in them is told like any other,
//! and what was found valid is what is used. Nothing of the private key's file is ever told.

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

use super::secret::{LONGEST_FILE, read_regular};
use super::secret_ref::References;
use super::table::Item;

/// TLS for callers, loaded.
///
/// Two are equal when they name the same files and read the same from them. Its `Debug` names the
/// files alone.
#[derive(Clone)]
pub struct Tls {
    /// PEM: the certificate that callers are shown, then those that lead to its root.
    pub cert: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
    /// PEM: who signs the certificates that callers must present; none: they need not have one.
    pub client_ca: Option<PathBuf>,
    identity: Arc<CertifiedKey>,
    callers: Option<Callers>,
}

/// Whom to let in.
#[derive(Clone)]
struct Callers {
    authorities: Vec<CertificateDer<'static>>,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Tls {
    /// The files that it was read from.
    pub(super) fn files(&self) -> impl Iterator<Item = PathBuf> {
        let Self { cert, key, .. } = self;
        let files = [Some(cert), Some(key), self.client_ca.as_ref()];
        files.into_iter().flatten().cloned()
    }

    /// The certificate with its key.
    pub(crate) fn identity(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.identity)
    }

    /// A hash of the roots of callers' certificates; none: callers need no certificate.
    pub(crate) fn client_ca_hash(&self) -> Option<blake3::Hash> {
        let mut hasher = blake3::Hasher::new();
        for authority in &self.callers.as_ref()?.authorities {
            hasher.update(&(authority.len() as u64).to_le_bytes());
            hasher.update(authority);
        }
        Some(hasher.finalize())
    }

    /// What a caller's certificate must pass, if it must have one.
    pub(crate) fn verifier(&self) -> Option<Arc<dyn ClientCertVerifier>> {
        let callers = self.callers.as_ref()?;
        Some(Arc::clone(&callers.verifier))
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
        let authorities = |tls: &Self| tls.callers.as_ref().map(|c| c.authorities.clone());
        // The key belongs to the first certificate: the same chain means the same key.
        files(self) == files(other)
            && self.identity.cert == other.identity.cert
            && authorities(self) == authorities(other)
    }
}

/// Reads `[server.tls]` and what it names.
pub(super) fn read(item: Item<'_>, references: &References<'_>) -> Option<Tls> {
    let mut table = item.table("a table, [server.tls]")?;
    let provider = Arc::new(default_provider());
    let cert = table.require("cert", "the PEM file of the certificate", |item| {
        chain(&item, references)
    });
    let key = table.require("key", "the PEM file of its private key", |item| {
        let (path, key) = private_key(&item, references, &provider)?;
        Some((path, key, item))
    });
    let client_ca = table.take("client_ca");
    let callers = client_ca.map(|item| callers(&item, references, &provider));
    table.finish();

    let ((cert, chain), (key, signing, item)) = (cert?, key?);
    let identity = CertifiedKey::new(chain, signing);
    match identity.keys_match() {
        // Some keys do not tell their public half; then the first handshake tells.
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        Err(_) => {
            return item.refuse(format!(
                "{} does not belong to the first certificate of {}",
                key.display(),
                cert.display()
            ));
        }
    }
    let (client_ca, callers) = match callers {
        None => (None, None),
        Some(read) => read.map(|(path, callers)| (Some(path), Some(callers)))?,
    };
    Some(Tls {
        cert,
        key,
        client_ca,
        identity: Arc::new(identity),
        callers,
    })
}

type Chain = Vec<CertificateDer<'static>>;

fn chain(item: &Item<'_>, references: &References<'_>) -> Option<(PathBuf, Chain)> {
    let (path, chain) = certificates(item, references)?;
    match ParsedCertificate::try_from(chain.first()?) {
        Ok(_) => Some((path, chain)),
        Err(_) => item.refuse(format!(
            "the first certificate of {} is damaged, or not of X.509 version 3",
            path.display()
        )),
    }
}

fn private_key(
    item: &Item<'_>,
    references: &References<'_>,
    provider: &CryptoProvider,
) -> Option<(PathBuf, Arc<dyn SigningKey>)> {
    let (path, text) = text(item, references)?;
    let shown = path.display();
    // No error of the parsers is passed on: some repeat what they could not read.
    let key = match PrivateKeyDer::from_pem_slice(text.expose_secret().as_bytes()) {
        Ok(key) => key,
        Err(pem::Error::NoItemsFound) => {
            return item.refuse(format!(
                "{shown} contains no PEM private key without password"
            ));
        }
        Err(_) => return item.refuse(format!("{shown} is not PEM")),
    };
    match provider.key_provider.load_private_key(key) {
        Ok(key) => Some((path, key)),
        Err(_) => item.refuse(format!(
            "the private key of {shown} is damaged or of a kind that is not known here; use RSA \
             (2048 bits and more), ECDSA (P-256, P-384) or Ed25519"
        )),
    }
}

fn callers(
    item: &Item<'_>,
    references: &References<'_>,
    provider: &Arc<CryptoProvider>,
) -> Option<(PathBuf, Callers)> {
    let (path, authorities, roots) = roots(item, references)?;
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .build()
            .expect("there is a root, and no revocation list");
    let callers = Callers {
        authorities,
        verifier,
    };
    Some((path, callers))
}

/// The roots of a PEM file, at least one; as they are in it, too.
pub(super) fn roots(
    item: &Item<'_>,
    references: &References<'_>,
) -> Option<(PathBuf, Chain, RootCertStore)> {
    let (path, authorities) = certificates(item, references)?;
    let mut roots = RootCertStore::empty();
    for authority in &authorities {
        if roots.add(authority.clone()).is_err() {
            return item.refuse(format!(
                "{} contains a certificate that cannot be a root",
                path.display()
            ));
        }
    }
    Some((path, authorities, roots))
}

/// The certificates of a PEM file, at least one.
pub(super) fn certificates(
    item: &Item<'_>,
    references: &References<'_>,
) -> Option<(PathBuf, Chain)> {
    let (path, text) = text(item, references)?;
    let found: Result<Chain, _> =
        CertificateDer::pem_slice_iter(text.expose_secret().as_bytes()).collect();
    match found {
        Ok(found) if !found.is_empty() => Some((path, found)),
        Ok(_) => item.refuse(format!("{} contains no PEM certificate", path.display())),
        // Not what the parser says: it repeats lines, and the file could be that of a key.
        Err(_) => item.refuse(format!("{} is not PEM", path.display())),
    }
}

/// A file that may hold a private key, by intention or mistake.
fn text(item: &Item<'_>, references: &References<'_>) -> Option<(PathBuf, SecretString)> {
    let path = references.path(item)?;
    match read_regular(&path, LONGEST_FILE) {
        Ok(text) => Some((path, SecretString::from(text))),
        Err(error) => item.refuse(format!("{} cannot be read: {error}", path.display())),
    }
}
