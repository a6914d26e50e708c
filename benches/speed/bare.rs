//! The least that this stack can do for an answer: hyper's HTTP/1.1 server on one thread, which gives
//! every request the body and the headers of a hit.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::ExitCode;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{AGE, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::LocalSet;

use crate::origin::step;

#[derive(clap::Args)]
pub(crate) struct Bare {
    #[arg(long)]
    listen: SocketAddr,
    /// Bytes of the body.
    #[arg(long)]
    size: usize,
}

impl Bare {
    pub(crate) fn run(self) -> ExitCode {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        LocalSet::new().block_on(&runtime, self.serve());
        ExitCode::SUCCESS
    }

    async fn serve(self) {
        let body = Bytes::from(step(
            ["thread_1", "run_1", "step_1"],
            "completed",
            self.size,
        ));
        let listener = TcpListener::bind(self.listen).await.expect("the address");
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                continue;
            };
            let _ = stream.set_nodelay(true);
            let body = body.clone();
            let answer = service_fn(move |_: Request<Incoming>| {
                let body = body.clone();
                async move {
                    let mut answer = Response::new(Full::new(body));
                    stamp(answer.headers_mut());
                    Ok::<_, Infallible>(answer)
                }
            });
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
            tokio::task::spawn_local(connection);
        }
    }
}

/// A hit's headers; hyper adds `content-length` and `date`.
fn stamp(headers: &mut HeaderMap) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(AGE, HeaderValue::from_static("12"));
    headers.insert(
        ETAG,
        HeaderValue::from_static("\"f928d7b43baea4669c45a878583b1a0b\""),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    headers.insert(
        "cache-status",
        HeaderValue::from_static("stepgate; hit; ttl=86387"),
    );
}
