//! An origin that speaks HTTP/2 over TLS, as ALPN has it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::step_json;
use super::tls::{Authority, Flaw};

/// What the origin does to the connection of the next request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Ending {
    /// GOAWAY behind the answer.
    GoAway,
    /// No answer, no goodbye.
    Cut,
}

#[derive(Default)]
struct Shared {
    connections: AtomicUsize,
    requests: Mutex<Vec<Request<()>>>,
    ending: Mutex<Option<Ending>>,
}

pub(crate) struct H2Origin {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    _accepts: JoinSet<()>,
}

impl H2Origin {
    pub(crate) async fn start(authority: &Authority) -> Self {
        let mut config = authority.server(Flaw::None);
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::<Shared>::default();
        let record = Arc::clone(&shared);
        let mut accepts = JoinSet::new();
        accepts.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, shared) = (acceptor.clone(), Arc::clone(&record));
                connections.spawn(async move {
                    if let Ok(tls) = acceptor.accept(tcp).await {
                        shared.connections.fetch_add(1, Ordering::Relaxed);
                        serve(TokioIo::new(tls), &shared).await;
                    }
                });
            }
        });
        Self {
            address,
            shared,
            _accepts: accepts,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}/v1", self.address)
    }

    /// To the connection of the next request.
    pub(crate) fn next(&self, ending: Ending) {
        *self.shared.ending.lock().unwrap() = Some(ending);
    }

    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    pub(crate) fn requests(&self) -> Vec<Request<()>> {
        self.shared.requests.lock().unwrap().clone()
    }
}

async fn serve(
    io: TokioIo<tokio_rustls::server::TlsStream<tokio::net::TcpStream>>,
    shared: &Arc<Shared>,
) {
    let (leave, cut) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let service = service_fn(|request: Request<Incoming>| {
        let ending = shared.ending.lock().unwrap().take();
        let request = request.map(|_| ());
        let path = request.uri().path().to_owned();
        shared.requests.lock().unwrap().push(request);
        let (leave, cut) = (Arc::clone(&leave), Arc::clone(&cut));
        async move {
            match ending {
                Some(Ending::GoAway) => leave.notify_one(),
                Some(Ending::Cut) => {
                    cut.notify_one();
                    std::future::pending::<()>().await;
                }
                None => {}
            }
            let ids: Vec<&str> = path.split('/').skip(3).step_by(2).collect();
            let body = step_json(ids[0], ids[1], ids[2], "in_progress");
            let answer = Response::builder().header("content-type", "application/json");
            Ok::<_, Infallible>(answer.body(Full::new(Bytes::from(body))).unwrap())
        }
    });
    let mut connection =
        pin!(http2::Builder::new(TokioExecutor::new()).serve_connection(io, service));
    loop {
        tokio::select! {
            _ = connection.as_mut() => return,
            () = cut.notified() => return,
            () = leave.notified() => connection.as_mut().graceful_shutdown(),
        }
    }
}
