//! A plain hyper server. What it accepts, the gateway itself has to reject.

use std::convert::Infallible;
use std::net::SocketAddr;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Answers 200 to whatever hyper takes for a request.
pub(crate) struct HyperServer {
    pub(crate) address: SocketAddr,
    _accepts: JoinSet<()>,
}

impl HyperServer {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut accepts = JoinSet::new();
        accepts.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                connections.spawn(async move {
                    let answer = service_fn(|_: Request<Incoming>| async {
                        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"{}"))))
                    });
                    let builder = auto::Builder::new(TokioExecutor::new());
                    // The peer sees how a connection ends.
                    drop(builder.serve_connection(TokioIo::new(tcp), answer).await);
                });
            }
        });
        Self {
            address,
            _accepts: accepts,
        }
    }
}
