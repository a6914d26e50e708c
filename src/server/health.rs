//! `stepgate health`: asks a running gateway whether it is ready.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;

/// Below the usual limit of a container's health check (a second and more).
const LIMIT: Duration = Duration::from_millis(900);

/// Why it is not healthy.
#[derive(Debug, Error)]
pub enum HealthError {
    /// Nobody listens there.
    #[error("no gateway answers at the admin address {0}")]
    Connect(SocketAddr, #[source] std::io::Error),
    /// What answered is no HTTP server.
    #[error("the admin address {0} gives no HTTP answer")]
    Http(SocketAddr, #[source] hyper::Error),
    /// It answered, and is not ready.
    #[error("the gateway at {0} is not ready: {1}")]
    NotReady(SocketAddr, StatusCode),
    /// No answer in time.
    #[error("the gateway at {0} did not answer within 900 ms")]
    Slow(SocketAddr),
}

/// Asks `/ready` at the admin address; an unspecified one (`0.0.0.0`) is asked on loopback.
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
    tokio::time::timeout(LIMIT, ask(address))
        .await
        .unwrap_or(Err(HealthError::Slow(address)))
}

async fn ask(address: SocketAddr) -> Result<(), HealthError> {
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
        // Ends only with an error that the request would meet, too.
        Err(error) = connection => return Err(http(error)),
    };
    match response.status() {
        StatusCode::OK => Ok(()),
        status => Err(HealthError::NotReady(address, status)),
    }
}
