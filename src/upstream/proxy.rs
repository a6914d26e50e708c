//! A way through a proxy: CONNECT (RFC 9110 section 9.3.6). It is told the upstream's name and port,
//! and its own credentials; all else goes through it under TLS.

use std::convert::Infallible;
use std::error::Error;
use std::future::pending;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue, PROXY_AUTHORIZATION};
use hyper::http::uri::Authority;
use hyper::{Method, Request, StatusCode, Uri, upgrade};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;

use crate::config::Proxy;

type Io = TokioIo<TcpStream>;

/// Why there is no way through a proxy: its address, and what happened.
#[derive(Debug, Error)]
pub(super) enum TunnelError {
    #[error("the proxy {0} cannot be reached")]
    Unreachable(String, #[source] Box<dyn Error + Send + Sync>),
    #[error("the proxy {0} asks for credentials (407), or for others than its URL holds")]
    Unauthorized(String),
    #[error("the proxy {0} refuses to connect to the upstream: {1}")]
    Refused(String, StatusCode),
    #[error("the proxy {0} does not answer CONNECT as HTTP has it")]
    Invalid(String, #[source] hyper::Error),
    #[error("the proxy {0} speaks before TLS does")]
    Premature(String),
    #[error("the proxy {0} does not answer CONNECT")]
    Silent(String),
}

/// What a proxy is asked for.
#[derive(Debug, Clone)]
pub(super) struct Tunnel {
    /// Its own address, for errors.
    proxy: String,
    /// The upstream's `host:port`.
    destination: Authority,
    authorization: Option<HeaderValue>,
}

impl Tunnel {
    /// Through `proxy` to the socket that `upstream` names.
    pub(super) fn new(proxy: &Proxy, upstream: &Uri) -> Self {
        let destination = upstream.authority().cloned();
        Self {
            proxy: proxy.authority(),
            destination: destination.expect("a socket has a host"),
            authorization: proxy.authorization.clone(),
        }
    }

    /// Asks the proxy at the other end of `tcp`; what comes back leads to the upstream.
    pub(super) async fn open(&self, tcp: Io) -> Result<TcpStream, TunnelError> {
        let invalid = |error| TunnelError::Invalid(self.proxy.clone(), error);
        let (mut sender, connection) = http1::handshake(tcp).await.map_err(invalid)?;
        // Driven here, not by a task of its own: whoever gives it up ends it.
        let drive = async move {
            // Whoever waits for the answer learns of the error, too.
            drop(connection.with_upgrades().await);
            pending::<Infallible>().await
        };
        let ask = async {
            let answer = sender.send_request(self.request()).await.map_err(invalid)?;
            match answer.status() {
                status if status.is_success() => upgrade::on(answer).await.map_err(invalid),
                StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                    Err(TunnelError::Unauthorized(self.proxy.clone()))
                }
                status => Err(TunnelError::Refused(self.proxy.clone(), status)),
            }
        };
        let opened = tokio::select! {
            opened = ask => opened?,
            never = drive => match never {},
        };
        let parts = opened.downcast::<Io>().expect("it was made of one");
        // In TLS the client speaks first: this is no way to the upstream.
        if !parts.read_buf.is_empty() {
            return Err(TunnelError::Premature(self.proxy.clone()));
        }
        Ok(parts.io.into_inner())
    }

    fn request(&self) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = Uri::from(self.destination.clone());
        let host = HeaderValue::try_from(self.destination.as_str());
        let headers = request.headers_mut();
        headers.insert(HOST, host.expect("an authority is visible ASCII"));
        if let Some(authorization) = &self.authorization {
            headers.insert(PROXY_AUTHORIZATION, authorization.clone());
        }
        request
    }

    pub(super) fn unreachable(&self, error: Box<dyn Error + Send + Sync>) -> TunnelError {
        TunnelError::Unreachable(self.proxy.clone(), error)
    }

    pub(super) fn silent(&self) -> TunnelError {
        TunnelError::Silent(self.proxy.clone())
    }
}
