//! Sends requests over kept-alive connections and serves them, both on one thread.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::HOST;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::task::LocalSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::Result;

/// Limits one response, also from a server that callgrind makes fifty times slower.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Holds as many connections as it has had requests in flight at once.
pub(crate) struct Client {
    server: SocketAddr,
    idle: RefCell<Vec<SendRequest<Empty<Bytes>>>>,
}

impl Client {
    pub(crate) fn new(server: SocketAddr) -> Self {
        Self {
            server,
            idle: RefCell::default(),
        }
    }

    /// Opens connections until `count` are idle.
    pub(crate) async fn open(&self, count: usize) -> Result<()> {
        while self.idle.borrow().len() < count {
            let connection = self.connect().await?;
            self.idle.borrow_mut().push(connection);
        }
        Ok(())
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Response<Bytes>> {
        self.get_with(path, &[]).await
    }

    /// Returns the response to a GET request, whatever its status.
    ///
    /// The Host is the one that wrk sends, so that a cache that keys by it holds one entry.
    pub(crate) async fn get_with(
        &self,
        path: &str,
        headers: &[(&'static str, &'static str)],
    ) -> Result<Response<Bytes>> {
        let mut request = Request::get(path).header(HOST, self.server.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = timeout(TIMEOUT, self.send(request.body(Empty::new())?)).await;
        response.map_err(|_| format!("no response to {path} within {TIMEOUT:?}"))?
    }

    pub(crate) async fn send(&self, request: Request<Empty<Bytes>>) -> Result<Response<Bytes>> {
        let idle = self.idle.borrow_mut().pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        connection.ready().await?;
        let (head, body) = connection.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        self.idle.borrow_mut().push(connection);
        Ok(Response::from_parts(head, body))
    }

    async fn connect(&self) -> Result<SendRequest<Empty<Bytes>>> {
        let stream = TcpStream::connect(self.server).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::task::spawn_local(connection);
        Ok(sender)
    }
}

/// Runs `work` on a runtime of its own, on this thread.
pub(crate) fn run<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    run_on(runtime::Builder::new_current_thread().enable_all(), work)
}

pub(crate) fn run_on<T>(
    runtime: &mut runtime::Builder,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    LocalSet::new().block_on(&runtime.build()?, work)
}

/// Returns the response to one request on a connection of its own, whatever its status.
pub(crate) fn get(server: SocketAddr, path: &str) -> Result<Response<Bytes>> {
    run(async { Client::new(server).get(path).await })
}

/// Serves HTTP/1.1 for ever, with TLS if there is an acceptor for it.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    respond: impl AsyncFn(Request<Incoming>) -> Result<Response<Full<Bytes>>> + 'static,
) -> Result<()> {
    let respond = Rc::new(respond);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        stream.set_nodelay(true)?;
        let (respond, tls) = (Rc::clone(&respond), tls.clone());
        let service = service_fn(move |request| {
            let respond = Rc::clone(&respond);
            async move { respond(request).await }
        });
        tokio::task::spawn_local(async move {
            let http = http1::Builder::new();
            // It fails if the client closes the connection, which is no error of the server.
            let _ = match tls {
                None => http.serve_connection(TokioIo::new(stream), service).await,
                Some(tls) => {
                    let Ok(stream) = tls.accept(stream).await else {
                        return;
                    };
                    http.serve_connection(TokioIo::new(stream), service).await
                }
            };
        });
    }
}
