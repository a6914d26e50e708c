//! An origin on a raw listener. It answers well until it is told otherwise.
//!
//! For each request it takes the next script of its queue, else the standing one, else it gives
//! a well-formed body for the path. It records every request as the bytes that came.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::within;

/// One thing that the origin does to a connection.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// The well-formed answer, with the status that is set when its turn comes.
    Default,
    /// The well-formed answer with this step status.
    Step(&'static str),
    /// These bytes.
    Send(Vec<u8>),
    /// These bytes, one at a time, with a pause before each.
    Drip(Vec<u8>, Duration),
    /// These bytes, so many times.
    Repeat(Vec<u8>, usize),
    /// These bytes until nobody takes them any more.
    Flood(Vec<u8>),
    /// Nothing until the gate is opened.
    Wait(Gate),
    /// Nothing until the peer hangs up.
    Hold,
    /// A clean end (TLS: with close_notify).
    Close,
    /// An end without goodbye (TLS: no close_notify).
    Cut,
    /// RST.
    Reset,
}

/// What a script waits at.
#[derive(Debug, Clone)]
pub(crate) struct Gate(Arc<Semaphore>);

impl Gate {
    pub(crate) fn closed() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    /// For those who wait and those who come.
    pub(crate) fn open(&self) {
        self.0.add_permits(1);
    }

    async fn pass(&self) {
        drop(self.0.acquire().await);
    }
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Which connection, from 0.
    pub(crate) connection: usize,
    /// Which request on it, from 0.
    pub(crate) nth: usize,
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

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {
    fn tcp(&self) -> &TcpStream;
}

impl Wire for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Wire for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// Serves a connection to its end; errors end it, as they would a real origin.
async fn serve(mut io: impl Wire, connection: usize, shared: &Shared) {
    let mut nth = 0;
    while let Some(head) = read_head(&mut io).await {
        let request = Request {
            connection,
            nth,
            head,
        };
        nth += 1;
        let script = {
            let mut orders = shared.orders.lock().unwrap();
            let reused = orders.reused.clone().filter(|_| request.nth > 0);
            let queued = reused.or_else(|| orders.queue.pop_front());
            queued.or_else(|| orders.standing.clone())
        };
        let target = request.target();
        shared.requests.send_modify(|all| all.push(request));
        for act in script.unwrap_or_else(|| vec![Act::Default]) {
            if !perform(&mut io, act, &target, shared).await {
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

/// Whether the connection goes on.
async fn perform(io: &mut impl Wire, act: Act, target: &str, shared: &Shared) -> bool {
    match act {
        Act::Default => {
            let status = shared.orders.lock().unwrap().status;
            io.write_all(&well_formed(target, status)).await.is_ok()
        }
        Act::Step(status) => io.write_all(&well_formed(target, status)).await.is_ok(),
        Act::Send(bytes) => io.write_all(&bytes).await.is_ok() && io.flush().await.is_ok(),
        Act::Drip(bytes, pause) => {
            for byte in bytes {
                tokio::time::sleep(pause).await;
                if io.write_all(&[byte]).await.is_err() || io.flush().await.is_err() {
                    return false;
                }
            }
            true
        }
        Act::Repeat(bytes, times) => {
            for _ in 0..times {
                if io.write_all(&bytes).await.is_err() {
                    return false;
                }
            }
            true
        }
        Act::Flood(bytes) => {
            while io.write_all(&bytes).await.is_ok() {}
            false
        }
        Act::Wait(gate) => {
            gate.pass().await;
            true
        }
        Act::Hold => {
            // Whatever else comes on this connection is nobody's request.
            while matches!(io.read(&mut [0; 1024]).await, Ok(1..)) {}
            false
        }
        Act::Close => {
            // The peer may be gone already, which is an end as well.
            drop(io.shutdown().await);
            false
        }
        Act::Cut => false,
        Act::Reset => {
            io.tcp().set_zero_linger().unwrap();
            false
        }
    }
}

/// What a well-behaved upstream answers for this target.
fn well_formed(target: &str, status: &str) -> Vec<u8> {
    let path = target.split('?').next().unwrap_or_default();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let body = match *segments.as_slice() {
        ["v1", "threads", thread, "runs", run, "steps", step] => {
            step_json(thread, run, step, status)
        }
        ["v1", "responses", id] => {
            format!(r#"{{"id": "{id}", "object": "response", "status": "{status}"}}"#).into_bytes()
        }
        _ => br#"{"object": "list", "data": [], "has_more": false}"#.to_vec(),
    };
    respond("200 OK", &[("x-request-id", "req_origin")], &body)
}

/// A whole answer; `application/json` and its length unless `headers` says otherwise.
pub(crate) fn respond(status: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let has = |name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    let mut bytes = format!("HTTP/1.1 {status}\r\n");
    for (name, value) in headers {
        bytes += &format!("{name}: {value}\r\n");
    }
    if !has("content-type") {
        bytes += "content-type: application/json\r\n";
    }
    if !has("content-length") && !has("transfer-encoding") {
        bytes += &format!("content-length: {}\r\n", body.len());
    }
    [bytes.as_bytes(), b"\r\n", body].concat()
}

/// A step as the wire shows it: indented by two, members that no description knows.
pub(crate) fn step_json(thread: &str, run: &str, step: &str, status: &str) -> Vec<u8> {
    format!(
        r#"{{
  "id": "{step}",
  "object": "thread.run.step",
  "created_at": 1699063291,
  "run_id": "{run}",
  "assistant_id": "asst_1",
  "thread_id": "{thread}",
  "type": "message_creation",
  "status": "{status}",
  "cancelled_at": null,
  "expires_at": null,
  "last_error": null,
  "step_details": {{
    "type": "message_creation",
    "message_creation": {{ "message_id": "msg_1" }}
  }},
  "usage": {{ "prompt_tokens": 123, "prompt_token_details": {{}} }}
}}
"#
    )
    .into_bytes()
}
