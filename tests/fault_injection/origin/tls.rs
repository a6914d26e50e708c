//! Certificates, right and wrong.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;

use crate::kind::Wire;

/// What is wrong with a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Flaw {
    Expired,
    OtherName,
    SelfSigned,
    UnknownAuthority,
}

const FLAWS: [Option<Flaw>; 5] = [
    None,
    Some(Flaw::Expired),
    Some(Flaw::OtherName),
    Some(Flaw::SelfSigned),
    Some(Flaw::UnknownAuthority),
];

/// An authority that the gateways trust, and servers with certificates of every flaw.
pub(crate) struct Authority {
    acceptors: HashMap<(Option<Flaw>, Wire), TlsAcceptor>,
    folder: TempDir,
}

type Issuer = CertifiedIssuer<'static, KeyPair>;

impl Authority {
    pub(crate) fn new() -> Result<Self, Box<dyn std::error::Error>> {
        let (trusted, unknown) = (issuer()?, issuer()?);
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("ca.pem"), trusted.pem())?;
        let mut acceptors = HashMap::new();
        for flaw in FLAWS {
            for (wire, alpn) in [(Wire::Tls, "http/1.1"), (Wire::Http2, "h2")] {
                let mut config = server(&trusted, &unknown, flaw)?;
                config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
                acceptors.insert((flaw, wire), TlsAcceptor::from(Arc::new(config)));
            }
        }
        Ok(Self { acceptors, folder })
    }

    pub(super) fn acceptor(&self, flaw: Option<Flaw>, wire: Wire) -> TlsAcceptor {
        let found = self.acceptors.get(&(flaw, wire));
        found.expect("made for every flaw and both wires").clone()
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }
}

fn issuer() -> Result<Issuer, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let name = &mut params.distinguished_name;
    name.push(DnType::CommonName, "stepgate rig");
    CertifiedIssuer::self_signed(params, KeyPair::generate()?)
}

fn server(
    trusted: &Issuer,
    unknown: &Issuer,
    flaw: Option<Flaw>,
) -> Result<ServerConfig, Box<dyn std::error::Error>> {
    let name = match flaw {
        Some(Flaw::OtherName) => "other.example",
        _ => "127.0.0.1",
    };
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    if flaw == Some(Flaw::Expired) {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    }
    let key = KeyPair::generate()?;
    let certificate = match flaw {
        Some(Flaw::SelfSigned) => params.self_signed(&key)?,
        Some(Flaw::UnknownAuthority) => params.signed_by(&key, unknown)?,
        None | Some(Flaw::Expired | Flaw::OtherName) => params.signed_by(&key, trusted)?,
    };
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok(
        ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)?,
    )
}
