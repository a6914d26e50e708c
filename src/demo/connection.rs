//! Polls the gateway over one keep-alive connection, which is opened again after an error.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{HOST, HeaderMap};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

/// The deadline of a poll. Every answer of the sandbox takes less.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Request headers, sent with every poll.
pub(super) type Headers = &'static [(&'static str, &'static str)];

/// Says why a poll failed.
#[derive(Debug, Error)]
pub(super) enum PollError {
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    #[error("connection failed: {0}")]
    Http(#[from] hyper::Error),
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Timeout,
    #[error("status {0}")]
    Status(StatusCode),
}

/// Holds a response with status 200.
pub(super) struct Response {
    /// Whether the gateway answered from memory.
    pub(super) is_hit: bool,
    /// When the request was sent.
    pub(super) sent: Instant,
    /// When the body had arrived whole.
    pub(super) received: Instant,
    pub(super) body: Bytes,
}

pub(super) struct Connection {
    address: SocketAddr,
    headers: Headers,
    tracker: TaskTracker,
    sender: Option<SendRequest<Empty<Bytes>>>,
}

impl Connection {
    pub(super) fn new(address: SocketAddr, headers: Headers, tracker: TaskTracker) -> Self {
        Self {
            address,
            headers,
            tracker,
            sender: None,
        }
    }

    /// # Errors
    /// Returns a [`PollError`] for everything but a whole response with status 200. The next poll
    /// opens a new connection then.
    pub(super) async fn poll(&mut self, path: &str) -> Result<Response, PollError> {
        let result = timeout(TIMEOUT, self.exchange(path)).await;
        let result = result.unwrap_or(Err(PollError::Timeout));
        if result.is_err() {
            self.sender = None;
        }
        result
    }

    async fn exchange(&mut self, path: &str) -> Result<Response, PollError> {
        let mut request = Request::get(path)
            .header(HOST, self.address.to_string())
            .header("user-agent", "stepgate-demo");
        for (name, value) in self.headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(Empty::new())
            .expect("ids and headers are plain letters");
        let sender = self.sender().await?;
        let sent = Instant::now();
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        match head.status {
            StatusCode::OK => Ok(Response {
                is_hit: is_hit(&head.headers),
                sent,
                received: Instant::now(),
                body,
            }),
            status => Err(PollError::Status(status)),
        }
    }

    /// Returns the open connection, or a new one.
    async fn sender(&mut self) -> Result<&mut SendRequest<Empty<Bytes>>, PollError> {
        let open = match self.sender.take() {
            Some(mut sender) => sender.ready().await.is_ok().then_some(sender),
            None => None,
        };
        let sender = match open {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        Ok(self.sender.insert(sender))
    }

    async fn connect(&self) -> Result<SendRequest<Empty<Bytes>>, PollError> {
        let stream = TcpStream::connect(self.address)
            .await
            .map_err(PollError::Connect)?;
        stream.set_nodelay(true).map_err(PollError::Connect)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // The sender reports the end of the connection.
        self.tracker.spawn(connection);
        Ok(sender)
    }
}

/// Returns whether `Cache-Status` says that the gateway answered from memory. The last member is the
/// one of the cache nearest to the client (RFC 9211).
fn is_hit(headers: &HeaderMap) -> bool {
    let last = headers.get_all("cache-status").iter().next_back();
    let last = last.and_then(|value| value.to_str().ok());
    let member = last.and_then(|list| list.rsplit(',').next());
    member.is_some_and(|member| {
        let mut parts = member.split(';').map(str::trim);
        parts.next() == Some("stepgate") && parts.any(|part| part == "hit")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hit_is_a_hit_of_the_gateway() {
        for (value, hit) in [
            ("stepgate; hit; ttl=86340", true),
            ("stepgate;hit", true),
            ("edge; hit, stepgate; hit", true),
            (
                "edge; hit, stepgate; fwd=uri-miss; fwd-status=200; stored",
                false,
            ),
            ("stepgate; fwd=uri-miss; detail=not_final", false),
            ("edge; hit", false),
            ("", false),
        ] {
            let headers =
                HeaderMap::from_iter([("cache-status".parse().unwrap(), value.parse().unwrap())]);
            assert_eq!(is_hit(&headers), hit, "{value}");
        }
        assert!(!is_hit(&HeaderMap::new()));
    }
}
