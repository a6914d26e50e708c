//! An HTTP/2 client with prior knowledge.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::raw::Io;
use super::{until, within};

pub(crate) struct H2 {
    requests: SendRequest<Empty<Bytes>>,
    _connection: Arc<JoinSet<()>>,
}

impl H2 {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap()).await
    }

    pub(crate) async fn over(io: impl Io + 'static) -> Self {
        let shaken = handshake(TokioExecutor::new(), TokioIo::new(io));
        let (requests, connection) = within("a handshake", shaken).await.unwrap();
        let mut driver = JoinSet::new();
        // How the connection ends is seen by the requests on it.
        driver.spawn(async move { drop(connection.await) });
        Self {
            requests,
            _connection: Arc::new(driver),
        }
    }

    /// To ask on the same connection at the same time.
    pub(crate) fn another(&self) -> Self {
        Self {
            requests: self.requests.clone(),
            _connection: Arc::clone(&self._connection),
        }
    }

    /// Waits for the peer to end the connection.
    pub(crate) async fn closed(&self) {
        let closed = async || self.requests.is_closed();
        until("the end of the connection", closed).await;
    }

    pub(crate) async fn send(&mut self, request: hyper::http::request::Builder) -> Response<Bytes> {
        let request: Request<Empty<Bytes>> = request.body(Empty::new()).unwrap();
        let answer = within("an answer", self.requests.send_request(request)).await;
        let (head, body) = answer.unwrap().into_parts();
        let body = within("a body", body.collect()).await.unwrap().to_bytes();
        Response::from_parts(head, body)
    }
}
