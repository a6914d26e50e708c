//! The least that this stack can do for a forward: hyper's HTTP/1.1 server and client on one thread.
//! It takes the path up with the headers that are injected, reads the answer whole, and gives it back;
//! nothing is matched, shared, judged, cleaned or counted.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_LENGTH, HOST, HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use crate::origin::CREDENTIALS;

#[derive(clap::Args)]
pub(crate) struct Relay {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    upstream: SocketAddr,
}

impl Relay {
    pub(crate) fn run(self) -> ExitCode {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        LocalSet::new().block_on(&runtime, self.serve());
        ExitCode::SUCCESS
    }

    async fn serve(self) {
        let client = Rc::new(Client {
            upstream: self.upstream,
            idle: RefCell::default(),
            injected: injected(self.upstream),
        });
        let listener = TcpListener::bind(self.listen).await.expect("the address");
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                continue;
            };
            let _ = stream.set_nodelay(true);
            let client = Rc::clone(&client);
            let relay = service_fn(move |request: Request<Incoming>| {
                let client = Rc::clone(&client);
                async move { client.fetch(request).await }
            });
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), relay);
            tokio::task::spawn_local(connection);
        }
    }
}

struct Client {
    upstream: SocketAddr,
    idle: RefCell<Vec<SendRequest<Empty<Bytes>>>>,
    injected: HeaderMap,
}

impl Client {
    async fn fetch(&self, request: Request<Incoming>) -> hyper::Result<Response<Full<Bytes>>> {
        let mut up = Request::new(Empty::new());
        *up.uri_mut() = request.into_parts().0.uri;
        *up.headers_mut() = self.injected.clone();
        let idle = self.idle.borrow_mut().pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        connection.ready().await?;
        let (mut head, body) = connection.send_request(up).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        self.idle.borrow_mut().push(connection);
        head.headers.remove(CONTENT_LENGTH);
        Ok(Response::from_parts(head, Full::new(body)))
    }

    async fn connect(&self) -> hyper::Result<SendRequest<Empty<Bytes>>> {
        let stream = TcpStream::connect(self.upstream)
            .await
            .expect("the upstream");
        let _ = stream.set_nodelay(true);
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::task::spawn_local(connection);
        Ok(sender)
    }
}

/// What a gateway sends up with every fetch.
fn injected(upstream: SocketAddr) -> HeaderMap {
    let [(_, api_key), (_, virtual_key)] = CREDENTIALS;
    let mut headers = HeaderMap::new();
    headers.insert(
        HOST,
        HeaderValue::try_from(upstream.to_string()).expect("an address"),
    );
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert("openai-beta", HeaderValue::from_static("assistants=v2"));
    headers.insert("x-portkey-api-key", HeaderValue::from_static(api_key));
    headers.insert(
        "x-portkey-virtual-key",
        HeaderValue::from_static(virtual_key),
    );
    headers
}
