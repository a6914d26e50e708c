//! A tunnel through an HTTP proxy by CONNECT (RFC 9110 section 9.3.6).
//!
//! The proxy learns the upstream's host and port and its own credentials. Everything else goes through it under
//! TLS.

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

/// The reason why a proxy opened no tunnel, with the address of the proxy.
#[derive(Debug, Error)]
pub(super) enum TunnelError {
    #[error("the proxy {0} cannot be reached")]
    Unreachable(String, #[source] Box<dyn Error + Send + Sync>),
    #[error("the proxy {0} asks for credentials (407), or for others than its URL holds")]
    Unauthorized(String),
    #[error("the proxy {0} refuses to connect to the upstream: {1}")]
    Refused(String, StatusCode),
    #[error("the proxy {0} does not answer CONNECT with a valid HTTP response")]
    Invalid(String, #[source] hyper::Error),
    #[error("the proxy {0} sends data before the TLS handshake")]
    UnexpectedData(String),
    #[error("the proxy {0} does not answer CONNECT")]
    NoResponse(String),
}

/// The tunnel that a proxy is to open.
#[derive(Debug, Clone)]
pub(super) struct Tunnel {
    /// The address of the proxy, for errors.
    proxy: String,
    /// The upstream's `host:port`.
    destination: Authority,
    authorization: Option<HeaderValue>,
}

impl Tunnel {
    /// Describes a tunnel through `proxy` to the socket that `upstream` names.
    pub(super) fn new(proxy: &Proxy, upstream: &Uri) -> Self {
        let destination = upstream.authority().cloned();
        Self {
            proxy: proxy.authority(),
            destination: destination.expect("a socket has a host"),
            authorization: proxy.authorization.clone(),
        }
    }

    /// Sends CONNECT over `tcp`, and returns the stream to the upstream.
    pub(super) async fn open(&self, tcp: Io) -> Result<TcpStream, TunnelError> {
        let invalid = |error| TunnelError::Invalid(self.proxy.clone(), error);
        let (mut sender, connection) = http1::handshake(tcp).await.map_err(invalid)?;
        // The connection is driven by this future, so that dropping it closes the connection.
        let drive = async move {
            // The error also reaches `connect` below.
            drop(connection.with_upgrades().await);
            pending::<Infallible>().await
        };
        let connect = async {
            let response = sender.send_request(self.request()).await.map_err(invalid)?;
            match response.status() {
                status if status.is_success() => upgrade::on(response).await.map_err(invalid),
                StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                    Err(TunnelError::Unauthorized(self.proxy.clone()))
                }
                status => Err(TunnelError::Refused(self.proxy.clone(), status)),
            }
        };
        let opened = tokio::select! {
            opened = connect => opened?,
            never = drive => match never {},
        };
        let parts = opened
            .downcast::<Io>()
            .expect("the connection was made of this type");
        // In TLS the client speaks first, so these bytes are not the upstream's.
        if !parts.read_buf.is_empty() {
            return Err(TunnelError::UnexpectedData(self.proxy.clone()));
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

    pub(super) fn no_response(&self) -> TunnelError {
        TunnelError::NoResponse(self.proxy.clone())
    }
}
