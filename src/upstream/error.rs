//! The errors of an upstream.

use std::error::Error;
use std::io;

use thiserror::Error;

/// The reason why an upstream cannot be used with this configuration.
#[derive(Debug, Error)]
pub enum SetupError {
    /// `upstream.ca_file` cannot be read or holds no certificate.
    #[error("upstream.ca_file: {path}: {source}")]
    CaFile {
        /// The path of the file.
        path: String,
        /// The error of the PEM reader.
        source: rustls_pki_types::pem::Error,
    },
    /// Neither the system nor `upstream.ca_file` has a root certificate.
    #[error("no root certificates: install ca-certificates, or set upstream.ca_file")]
    NoRoots,
    /// The host cannot be the name in a certificate.
    #[error("upstream.base_url: `{0}` is not a host name that TLS can verify")]
    HostName(String),
    /// The Redis client rejects `cache.redis`.
    #[error("cache.redis: {0}")]
    Redis(redis::RedisError),
}

/// The reason why a fetch or a forwarded request has no usable response.
#[derive(Debug, Error)]
pub enum FetchError {
    /// Name resolution or TCP failed.
    #[error("could not connect")]
    Connect(#[source] Box<dyn Error + Send + Sync>),
    /// The process or the system has no file descriptor left for a connection.
    #[error("out of file descriptors")]
    OutOfFileDescriptors(#[source] Box<dyn Error + Send + Sync>),
    /// The TLS handshake failed. Nothing of the request was sent.
    #[error("TLS handshake failed")]
    TlsHandshake(#[source] io::Error),
    /// Connecting took longer than `upstream.connect_timeout`.
    #[error("connecting took longer than upstream.connect_timeout")]
    ConnectTimeout(#[source] Option<Box<dyn Error + Send + Sync>>),
    /// The connection was lost before a response began.
    #[error("connection lost before a response")]
    ConnectionLost(#[source] hyper::Error),
    /// The upstream's bytes are not HTTP, or end within the response head.
    #[error("malformed response")]
    Malformed(#[source] hyper::Error),
    /// The response body ended before its end.
    #[error("truncated body")]
    Truncated(#[source] hyper::Error),
    /// The upstream sent a 101 that the request did not ask for.
    #[error("unexpected protocol upgrade")]
    UnexpectedUpgrade,
    /// The upstream applied a transfer coding other than `chunked`.
    #[error("unexpected transfer coding")]
    UnexpectedTransferCoding,
    /// The `Content-Length` of a response without a body is not a number, or occurs with two values.
    #[error("invalid Content-Length")]
    InvalidContentLength,
    /// The upstream sent a 304 although the fetch was unconditional. A client that sent a condition would
    /// take this 304 for its own.
    #[error("unexpected 304 Not Modified")]
    UnexpectedNotModified,
    /// The response contains an injected secret.
    #[error("response echoes an injected secret")]
    EchoedSecret,
    /// The deadline of `upstream.timeout` passed.
    #[error("deadline exceeded")]
    DeadlineExceeded,
    /// A forwarded body made no progress for `upstream.stream_idle_timeout`.
    #[error("no data for longer than upstream.stream_idle_timeout")]
    IdleTimeout,
    /// The client aborted its request body.
    #[error("the client aborted the request body")]
    RequestBodyAborted,
    /// The task of the fetch ended without a result, for instance by a panic.
    #[error("the task of the fetch ended without a result")]
    TaskFailed,
}

impl FetchError {
    /// Reports whether the upstream may have received the request.
    pub(crate) fn may_have_arrived(&self) -> bool {
        match self {
            Self::Connect(_)
            | Self::OutOfFileDescriptors(_)
            | Self::TlsHandshake(_)
            | Self::ConnectTimeout(_) => false,
            Self::ConnectionLost(_)
            | Self::Malformed(_)
            | Self::Truncated(_)
            | Self::UnexpectedUpgrade
            | Self::UnexpectedNotModified
            | Self::UnexpectedTransferCoding
            | Self::InvalidContentLength
            | Self::EchoedSecret
            | Self::DeadlineExceeded
            | Self::IdleTimeout
            | Self::RequestBodyAborted
            | Self::TaskFailed => true,
        }
    }
}
