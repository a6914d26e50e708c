//! The upstream as the commands use it: `speed origin` as a process, plain or with TLS, and the
//! authority that vouches for it.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::{CertificateDer, ServerName};

use crate::Fallible;
use crate::ask::{ask, ask_over};
use crate::clock::pause;
use crate::origin::COUNT;
use crate::process::{LOAD, Process, free_address};

/// Nobody asks any more who has not asked for so long.
const QUIET: Duration = Duration::from_millis(20);

/// The name in its certificate, beside the address.
pub(crate) const NAME: &str = "localhost";

pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    _process: Process,
}

/// An authority, and what it certifies the upstream with: PEM files in the run's folder.
pub(crate) struct Authority {
    pub(crate) file: PathBuf,
    certificate: CertificateDer<'static>,
    cert: PathBuf,
    key: PathBuf,
}

impl Authority {
    pub(crate) fn new(folder: &Path) -> Fallible<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "stepgate benches");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let names = vec![NAME.to_owned(), "127.0.0.1".to_owned()];
        let leaf = CertificateParams::new(names)?.signed_by(&key, &issuer)?;
        let authority = Self {
            file: folder.join("ca.pem"),
            certificate: issuer.der().clone(),
            cert: folder.join("origin.crt"),
            key: folder.join("origin.key"),
        };
        std::fs::write(&authority.file, issuer.pem())?;
        std::fs::write(&authority.cert, leaf.pem())?;
        std::fs::write(&authority.key, key.serialize_pem())?;
        Ok(authority)
    }

    /// What trusts it, and nobody else.
    fn trusted(&self) -> Fallible<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::new(config))
    }
}

impl Upstream {
    pub(crate) fn plain() -> Fallible<Self> {
        Self::start(None)
    }

    pub(crate) fn with_tls(authority: &Authority) -> Fallible<Self> {
        Self::start(Some(authority))
    }

    fn start(authority: Option<&Authority>) -> Fallible<Self> {
        let address = free_address()?;
        let mut command = LOAD.command(std::env::current_exe()?);
        command
            .args(["origin", "--strict", "--listen"])
            .arg(address.to_string());
        if let Some(Authority { cert, key, .. }) = authority {
            command.arg("--cert").arg(cert).arg("--key").arg(key);
        }
        let tls = authority.map(Authority::trusted).transpose()?;
        let mut process = Process::start("origin", command)?;
        process.wait_until(|| asked(address, tls.as_ref()).is_ok())?;
        Ok(Self {
            address,
            tls,
            _process: process,
        })
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// How many steps it was asked for up to now.
    pub(crate) fn asked(&self) -> Fallible<u64> {
        asked(self.address, self.tls.as_ref())
    }

    /// The same once that no longer grows: load that has ended leaves some requests behind.
    pub(crate) fn asked_in_all(&self) -> Fallible<u64> {
        let mut before = self.asked()?;
        loop {
            pause(QUIET);
            let now = self.asked()?;
            if now == before {
                return Ok(now);
            }
            before = now;
        }
    }
}

fn asked(address: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> Fallible<u64> {
    let answer = match tls {
        None => ask(address, COUNT)?,
        Some(tls) => {
            let name = ServerName::try_from(NAME)?;
            let session = ClientConnection::new(Arc::clone(tls), name)?;
            let stream = StreamOwned::new(session, TcpStream::connect(address)?);
            ask_over(stream, NAME, COUNT)?
        }
    };
    Ok(answer.text().parse()?)
}
