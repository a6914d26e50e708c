//! One keep-alive connection to the gateway, opened again when it is gone.

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

/// Longer than any answer of the sandbox takes; a poll that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a poll has no answer.
#[derive(Debug, Error)]
pub(super) enum PollError {
    #[error("no connection: {0}")]
    Connect(#[source] io::Error),
    #[error("the connection failed: {0}")]
    Http(#[from] hyper::Error),
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Late,
    #[error("answered {0}")]
    Status(StatusCode),
}

/// An answer with status 200.
pub(super) struct Answer {
    pub(super) hit: bool,
    /// From the request's first byte to the body's last.
    pub(super) took: Duration,
    pub(super) body: Bytes,
}

pub(super) struct Line {
    address: SocketAddr,
    headers: &'static [(&'static str, &'static str)],
    tracker: TaskTracker,
    sender: Option<SendRequest<Empty<Bytes>>>,
}

impl Line {
    /// `headers` are sent with every request.
    pub(super) fn new(
        address: SocketAddr,
        headers: &'static [(&'static str, &'static str)],
        tracker: TaskTracker,
    ) -> Self {
        Self {
            address,
            headers,
            tracker,
            sender: None,
        }
    }

    /// # Errors
    /// Whatever is not a whole answer with status 200; the next poll starts on a new connection.
    pub(super) async fn poll(&mut self, path: &str) -> Result<Answer, PollError> {
        let answer = timeout(PATIENCE, self.exchange(path)).await;
        let answer = answer.unwrap_or(Err(PollError::Late));
        if answer.is_err() {
            self.sender = None;
        }
        answer
    }

    async fn exchange(&mut self, path: &str) -> Result<Answer, PollError> {
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
        let asked = Instant::now();
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        match head.status {
            StatusCode::OK => Ok(Answer {
                hit: is_hit(&head.headers),
                took: asked.elapsed(),
                body,
            }),
            status => Err(PollError::Status(status)),
        }
    }

    /// The connection, if it is still there, or a new one.
    async fn sender(&mut self) -> Result<&mut SendRequest<Empty<Bytes>>, PollError> {
        let usable = match self.sender.take() {
            Some(mut sender) => sender.ready().await.is_ok().then_some(sender),
            None => None,
        };
        let sender = match usable {
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
        // Its end shows up at the sender.
        self.tracker.spawn(connection);
        Ok(sender)
    }
}

/// Whether the gateway says that it answered from memory (RFC 9211: the member nearest to the
/// caller is the last).
fn is_hit(headers: &HeaderMap) -> bool {
    let nearest = headers.get_all("cache-status").iter().next_back();
    let nearest = nearest.and_then(|value| value.to_str().ok());
    nearest
        .and_then(|list| list.rsplit(',').next())
        .is_some_and(|member| {
            let mut parts = member.split(';').map(str::trim);
            parts.next() == Some("stepgate") && parts.any(|part| part == "hit")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hit_is_what_the_gateway_calls_one() {
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
