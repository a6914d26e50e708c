//! What can go wrong with an upstream.

use std::error::Error;
use std::io;

use thiserror::Error;

/// Why an upstream cannot be used at all.
#[derive(Debug, Error)]
pub enum SetupError {
    /// `upstream.ca_file` cannot be read or holds no certificate.
    #[error("upstream.ca_file: {path}: {source}")]
    CaFile {
        /// The file.
        path: String,
        /// What the PEM reader says.
        source: rustls_pki_types::pem::Error,
    },
    /// Neither the system nor `upstream.ca_file` has a root certificate.
    #[error("no root certificates: install ca-certificates, or set upstream.ca_file")]
    NoRoots,
    /// The host is no name that a certificate could be for.
    #[error("upstream.base_url: `{0}` is not a host name that TLS can verify")]
    HostName(String),
    /// `cache.redis` is not what its client takes.
    #[error("cache.redis: {0}")]
    Redis(redis::RedisError),
}

/// Why a fetch brought no answer.
#[derive(Debug, Error)]
pub enum FetchError {
    /// Name resolution or TCP.
    #[error("could not connect")]
    Connect(#[source] Box<dyn Error + Send + Sync>),
    /// No descriptor is left for a connection: the upstream has no part in it.
    #[error("no descriptor is left for a connection")]
    NoDescriptor(#[source] Box<dyn Error + Send + Sync>),
    /// The TLS handshake; nothing of the request was sent.
    #[error("TLS handshake failed")]
    Tls(#[source] io::Error),
    /// `upstream.connect_timeout` passed.
    #[error("connecting took longer than upstream.connect_timeout")]
    ConnectTimeout(#[source] Option<Box<dyn Error + Send + Sync>>),
    /// The connection was lost before an answer began.
    #[error("connection lost before an answer")]
    Lost(#[source] hyper::Error),
    /// What came is not HTTP, or is cut off in the head.
    #[error("malformed answer")]
    Malformed(#[source] hyper::Error),
    /// The body broke off.
    #[error("truncated body")]
    Truncated(#[source] hyper::Error),
    /// 101 without being asked.
    #[error("unrequested protocol switch")]
    Switched,
    /// A transfer coding that nobody asked for.
    #[error("unrequested transfer coding")]
    Coded,
    /// The length of a body that does not follow, in two ways or in none.
    #[error("malformed Content-Length")]
    Length,
    /// 304, although no condition goes up: a caller that has one would take it for its own answer.
    #[error("unrequested 304 Not Modified")]
    NotModified,
    /// The answer holds an injected secret.
    #[error("answer echoes an injected secret")]
    EchoedSecret,
    /// `upstream.timeout` passed.
    #[error("deadline passed")]
    Deadline,
    /// A forwarded body said nothing for longer than `upstream.stream_idle_timeout`.
    #[error("silent for longer than upstream.stream_idle_timeout")]
    Silent,
    /// The caller did not send all of its request.
    #[error("the request's body broke off")]
    BrokenOff,
    /// Its task ended without a word.
    #[error("the fetch was abandoned")]
    Abandoned,
}

impl FetchError {
    /// Whether the upstream may have had the request.
    pub(crate) fn may_have_arrived(&self) -> bool {
        match self {
            Self::Connect(_) | Self::NoDescriptor(_) | Self::Tls(_) | Self::ConnectTimeout(_) => {
                false
            }
            Self::Lost(_)
            | Self::Malformed(_)
            | Self::Truncated(_)
            | Self::Switched
            | Self::NotModified
            | Self::Coded
            | Self::Length
            | Self::EchoedSecret
            | Self::Deadline
            | Self::Silent
            | Self::BrokenOff
            | Self::Abandoned => true,
        }
    }
}
