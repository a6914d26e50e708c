//! Is the least that this stack can do: hyper without stepgate, as processes to be measured.

use std::convert::Infallible;
use std::hint::black_box;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{Empty, Full};
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, AGE, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HOST,
    HeaderMap, HeaderName, HeaderValue,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use stepgate::policy::{Rule, check};
use tokio::net::TcpListener;

use crate::Result;
use crate::http::{Client, run, serve};
use crate::origin::CREDENTIALS;
use crate::run_step::{SMALL, body_of, done};
use crate::samples::step_body;

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Responds to every request with the body and the headers of a hit.
pub(crate) fn bare(listen: SocketAddr, size: usize) -> Result<()> {
    let body = Bytes::from(body_of(&done(size, "1")).ok_or("not a path of a step")?);
    run::<()>(async {
        let listener = TcpListener::bind(listen).await?;
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                continue;
            };
            stream.set_nodelay(true)?;
            let body = body.clone();
            // `serve` would add its own handler to what is counted.
            let service = service_fn(move |_: Request<Incoming>| {
                let body = body.clone();
                async move {
                    let mut response = Response::new(Full::new(body));
                    insert_hit_headers(response.headers_mut());
                    Ok::<_, Infallible>(response)
                }
            });
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::task::spawn_local(connection);
        }
    })
}

/// Inserts the headers of a hit; hyper adds `content-length` and `date`. Each value stands by itself, so that
/// the compiler checks it, and not every request.
fn insert_hit_headers(headers: &mut HeaderMap) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(AGE, HeaderValue::from_static("12"));
    headers.insert(
        ETAG,
        HeaderValue::from_static("\"f928d7b43baea4669c45a878583b1a0b\""),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    headers.insert(
        CACHE_STATUS,
        HeaderValue::from_static("stepgate; hit; ttl=86387"),
    );
}

/// Sends every request's path upstream with the headers that a gateway injects, reads the response
/// whole, and returns it. It matches, shares, checks, filters and counts nothing.
pub(crate) fn relay(listen: SocketAddr, upstream: SocketAddr) -> Result<()> {
    let mut injected = HeaderMap::new();
    injected.insert(HOST, HeaderValue::try_from(upstream.to_string())?);
    injected.insert(ACCEPT, HeaderValue::from_static("application/json"));
    injected.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    injected.insert("openai-beta", HeaderValue::from_static("assistants=v2"));
    for (name, value) in CREDENTIALS {
        injected.insert(name, HeaderValue::from_static(value));
    }
    let client = Client::new(upstream);
    run(async {
        let respond = async move |request: Request<_>| {
            let mut fetch = Request::new(Empty::new());
            *fetch.uri_mut() = request.into_parts().0.uri;
            *fetch.headers_mut() = injected.clone();
            let mut response = client.send(fetch).await?;
            response.headers_mut().remove(CONTENT_LENGTH);
            Ok(response.map(Full::new))
        };
        serve(TcpListener::bind(listen).await?, None, respond).await
    })
}

/// Checks a final body for cacheability so many times, with no server around it.
pub(crate) fn cacheability(times: u64) -> Result<()> {
    let (rule, ids) = (Rule::run_step(), ["thread_1", "run_1", "step_1"]);
    let body = step_body(ids, "completed", SMALL);
    let json = HeaderValue::from_static("application/json");
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, json)]);
    for _ in 0..times {
        let body = black_box(body.as_bytes());
        let result = check(&rule, &ids, StatusCode::OK, &headers, body, true);
        assert_eq!(result, Ok(()));
    }
    Ok(())
}
