//! An origin on a raw listener. It answers well until it is told otherwise.
//!
//! For each request it takes the next script of its queue, else the standing one, else it gives
//! a well-formed body for the path. It records every request as the bytes that came.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::script::{Act, Turn, Wire, perform};
use super::within;

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Which connection, from 0.
    pub(crate) connection: usize,
    /// Which request on it, from 0.
    pub(crate) nth: usize,
    /// When its head was whole.
    pub(crate) at: Instant,
    pub(crate) head: Vec<u8>,
}

impl Request {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.head).into_owned()
    }

    /// `GET /v1/…`
    pub(crate) fn line(&self) -> String {
        let text = self.text();
        let line = text.lines().next().unwrap_or_default();
        line.strip_suffix(" HTTP/1.1").unwrap_or(line).to_owned()
    }

    pub(crate) fn target(&self) -> String {
        let line = self.line();
        line.split(' ').nth(1).unwrap_or_default().to_owned()
    }

    /// Every value of that header, in order.
    pub(crate) fn all(&self, name: &str) -> Vec<String> {
        let text = self.text();
        let pairs = text.lines().skip(1).filter_map(|l| l.split_once(':'));
        pairs
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim().to_owned())
            .collect()
    }
}

#[derive(Default)]
struct Orders {
    queue: VecDeque<Vec<Act>>,
    standing: Option<Vec<Act>>,
    /// For requests on a connection that has served one before.
    reused: Option<Vec<Act>>,
    status: &'static str,
}

struct Shared {
    orders: Mutex<Orders>,
    requests: watch::Sender<Vec<Request>>,
    connections: watch::Sender<usize>,
    abandoned: watch::Sender<usize>,
}

pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    _accepts: JoinSet<()>,
}

impl Origin {
    pub(crate) async fn start() -> Self {
        Self::listen(None).await
    }

    pub(crate) async fn start_tls(acceptor: TlsAcceptor) -> Self {
        Self::listen(Some(acceptor)).await
    }

    async fn listen(acceptor: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            orders: Mutex::new(Orders {
                status: "completed",
                ..Orders::default()
            }),
            requests: watch::Sender::default(),
            connections: watch::Sender::default(),
            abandoned: watch::Sender::default(),
        });
        let mut accepts = JoinSet::new();
        accepts.spawn(accept(listener, acceptor, Arc::clone(&shared)));
        Self {
            address,
            shared,
            _accepts: accepts,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The status of the well-formed bodies from now on; `completed` at first.
    pub(crate) fn status(&self, status: &'static str) {
        self.shared.orders.lock().unwrap().status = status;
    }

    /// Whether that status is set.
    pub(crate) fn is(&self, status: &str) -> bool {
        self.shared.orders.lock().unwrap().status == status
    }

    /// What happens to the next request that no earlier script is for.
    pub(crate) fn next(&self, script: Vec<Act>) {
        self.shared.orders.lock().unwrap().queue.push_back(script);
    }

    /// What happens to every request that no queued script is for.
    pub(crate) fn always(&self, script: Vec<Act>) {
        self.shared.orders.lock().unwrap().standing = Some(script);
    }

    /// What happens to every request on a connection that served one before.
    pub(crate) fn on_reuse(&self, script: Vec<Act>) {
        self.shared.orders.lock().unwrap().reused = Some(script);
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.requests.borrow().clone()
    }

    pub(crate) fn last(&self) -> Request {
        self.requests().last().expect("no request came").clone()
    }

    /// How many requests came.
    pub(crate) fn count(&self) -> usize {
        self.shared.requests.borrow().len()
    }

    /// How many connections were accepted.
    pub(crate) fn connections(&self) -> usize {
        *self.shared.connections.borrow()
    }

    /// Waits until so many requests have come.
    pub(crate) async fn arrived(&self, count: usize) {
        let mut seen = self.shared.requests.subscribe();
        let enough = seen.wait_for(|requests| requests.len() >= count);
        drop(within("a request at the origin", enough).await.unwrap());
    }

    /// Waits until so many peers have hung up on an [`Act::Hold`].
    pub(crate) async fn abandoned(&self, count: usize) {
        let mut seen = self.shared.abandoned.subscribe();
        let enough = seen.wait_for(|abandoned| *abandoned >= count);
        drop(within("a peer to hang up", enough).await.unwrap());
    }
}

async fn accept(listener: TcpListener, acceptor: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut open = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        let connection = *shared.connections.borrow();
        shared.connections.send_modify(|n| *n += 1);
        tcp.set_nodelay(true).unwrap();
        let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
        open.spawn(async move {
            match acceptor {
                None => serve(tcp, connection, &shared).await,
                // A client that refuses the certificate is what some tests are about.
                Some(acceptor) => {
                    if let Ok(tls) = acceptor.accept(tcp).await {
                        serve(tls, connection, &shared).await;
                    }
                }
            }
        });
    }
}

/// Serves a connection to its end; errors end it, as they would a real origin.
async fn serve(mut io: impl Wire, connection: usize, shared: &Shared) {
    let mut nth = 0;
    while let Some(head) = read_head(&mut io).await {
        let request = Request {
            connection,
            nth,
            at: Instant::now(),
            head,
        };
        nth += 1;
        let (script, status) = {
            let mut orders = shared.orders.lock().unwrap();
            let reused = orders.reused.clone().filter(|_| request.nth > 0);
            let queued = reused.or_else(|| orders.queue.pop_front());
            let script = queued.or_else(|| orders.standing.clone());
            (script, orders.status)
        };
        let mut turn = Turn {
            target: request.target(),
            number: 0,
            status,
        };
        shared.requests.send_modify(|all| {
            all.push(request);
            turn.number = all.len();
        });
        for act in script.unwrap_or_else(|| vec![Act::Default]) {
            let now = shared.orders.lock().unwrap().status;
            let held = matches!(act, Act::Hold);
            if !perform(&mut io, act, &turn, now).await {
                shared.abandoned.send_modify(|n| *n += usize::from(held));
                return;
            }
        }
    }
}

async fn read_head(io: &mut impl Wire) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.ok()?);
    }
    Some(head)
}
