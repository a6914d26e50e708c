//! The check of `stepgate health`: requests `/ready` of a running gateway.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;

/// Limits the check. It is below the usual limits of container health checks (1 s and more).
const TIMEOUT: Duration = Duration::from_millis(900);

/// The reason why a gateway is not ready.
#[derive(Debug, Error)]
pub enum HealthError {
    /// No process listens on the address.
    #[error("no gateway answers at the admin address {0}")]
    Connect(SocketAddr, #[source] std::io::Error),
    /// The response is not HTTP.
    #[error("the admin address {0} gives no HTTP answer")]
    Http(SocketAddr, #[source] hyper::Error),
    /// The gateway responded that it is not ready.
    #[error("the gateway at {0} is not ready: {1}")]
    NotReady(SocketAddr, StatusCode),
    /// The gateway did not respond in time.
    #[error("the gateway at {0} did not answer within 900 ms")]
    Slow(SocketAddr),
}

/// Requests `/ready` at the admin address. For an unspecified address (`0.0.0.0`) it connects to loopback.
///
/// # Errors
/// [`HealthError`], within a second.
pub async fn check_ready(admin: SocketAddr) -> Result<(), HealthError> {
    let mut address = admin;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    tokio::time::timeout(TIMEOUT, request_ready(address))
        .await
        .unwrap_or(Err(HealthError::Slow(address)))
}

async fn request_ready(address: SocketAddr) -> Result<(), HealthError> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| HealthError::Connect(address, error))?;
    let http = |error| HealthError::Http(address, error);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(http)?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = hyper::Uri::from_static("/ready");
    let host = address
        .to_string()
        .try_into()
        .expect("an address is a valid header value");
    request.headers_mut().insert(HOST, host);
    let response = tokio::select! {
        response = sender.send_request(request) => response.map_err(http)?,
        // The connection ends first only with an error, which the request would also meet.
        Err(error) = connection => return Err(http(error)),
    };
    match response.status() {
        StatusCode::OK => Ok(()),
        status => Err(HealthError::NotReady(address, status)),
    }
}
