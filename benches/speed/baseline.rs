//! Is the least that this stack can do: hyper without stepgate, as processes to be measured.

use std::hint::black_box;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use http_body_util::{Empty, Full};
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, AGE, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HOST,
    HeaderMap, HeaderName, HeaderValue,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use stepgate::policy::{Rule, check};
use tokio::net::TcpListener;

use crate::Result;
use crate::client::{self, Client};
use crate::origin::CREDENTIALS;
use crate::run_step::{self, SMALL};

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Responds to every request with the body and the headers of a hit.
#[derive(clap::Args)]
pub(crate) struct Bare {
    #[arg(long)]
    listen: SocketAddr,
    /// Bytes of the body
    #[arg(long)]
    size: usize,
}

impl Bare {
    pub(crate) fn run(self) -> Result<()> {
        let body = Bytes::from(bare_body(self.size));
        // hyper adds `content-length` and `date`.
        let headers = [
            (CONTENT_TYPE, "application/json"),
            (AGE, "12"),
            (ETAG, "\"f928d7b43baea4669c45a878583b1a0b\""),
            (CACHE_CONTROL, "private, no-cache"),
            (CACHE_STATUS, "stepgate; hit; ttl=86387"),
        ];
        client::run(serve(self.listen, async move |_| {
            let mut response = Response::new(Full::new(body.clone()));
            for (name, value) in &headers {
                let value = HeaderValue::from_static(value);
                response.headers_mut().insert(name.clone(), value);
            }
            Ok(response)
        }))
    }
}

pub(crate) fn bare_body(size: usize) -> String {
    run_step::body(["thread_1", "run_1", "step_1"], "completed", size)
}

/// Sends every request's path upstream with the headers that a gateway injects, reads the response
/// whole, and returns it. It matches, shares, checks, filters and counts nothing.
#[derive(clap::Args)]
pub(crate) struct Relay {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    upstream: SocketAddr,
}

impl Relay {
    pub(crate) fn run(self) -> Result<()> {
        let mut injected = HeaderMap::new();
        injected.insert(HOST, HeaderValue::try_from(self.upstream.to_string())?);
        injected.insert(ACCEPT, HeaderValue::from_static("application/json"));
        injected.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        injected.insert("openai-beta", HeaderValue::from_static("assistants=v2"));
        for (name, value) in CREDENTIALS {
            injected.insert(name, HeaderValue::from_static(value));
        }
        let client = Client::new(self.upstream);
        client::run(serve(self.listen, async move |path| {
            let mut request = Request::new(Empty::new());
            *request.uri_mut() = path;
            *request.headers_mut() = injected.clone();
            let mut response = client.send(request).await?;
            response.headers_mut().remove(CONTENT_LENGTH);
            Ok(response.map(Full::new))
        }))
    }
}

/// Serves HTTP/1.1 on this thread, for ever.
async fn serve(
    address: SocketAddr,
    respond: impl AsyncFn(Uri) -> Result<Response<Full<Bytes>>> + 'static,
) -> Result<()> {
    let respond = Rc::new(respond);
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let respond = Rc::clone(&respond);
        let service = service_fn(move |request: Request<Incoming>| {
            let respond = Rc::clone(&respond);
            async move { respond(request.into_parts().0.uri).await }
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::task::spawn_local(connection);
    }
}

/// Checks a final body for cacheability so many times, with no server around it.
#[derive(clap::Args)]
pub(crate) struct Cacheability {
    #[arg(long)]
    times: u64,
}

impl Cacheability {
    pub(crate) fn run(self) -> Result<()> {
        let (rule, ids) = (Rule::run_step(), ["thread_1", "run_1", "step_1"]);
        let body = run_step::body(ids, "completed", SMALL);
        let json = HeaderValue::from_static("application/json");
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, json)]);
        for _ in 0..self.times {
            let body = black_box(body.as_bytes());
            let result = check(&rule, &ids, StatusCode::OK, &headers, body, true);
            assert_eq!(result, Ok(()));
        }
        Ok(())
    }
}
