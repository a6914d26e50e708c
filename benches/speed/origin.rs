//! The upstream of the measurements. A step's id says what it is: `KIND-BYTES-MILLISECONDS-ANY`, as in
//! `live-590-20-7`: a live step of 590 bytes, 20 ms away. `KIND` is `live` or `done`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::LocalSet;
use tokio_rustls::TlsAcceptor;

#[derive(clap::Args)]
pub(crate) struct Origin {
    #[arg(long)]
    listen: SocketAddr,
    /// TLS with this certificate.
    #[arg(long, requires = "key")]
    cert: Option<PathBuf>,
    /// The certificate's key.
    #[arg(long, requires = "cert")]
    key: Option<PathBuf>,
    /// Refuses whoever comes without the credentials, and says in `Cache-Control` what may be kept: a
    /// cache that does not read bodies needs to be told.
    #[arg(long)]
    strict: bool,
}

/// Where it says how many steps it was asked for.
pub(crate) const COUNT: &str = "/count";

/// Only a live step's path has it.
const LIVE: &str = "/live-";

/// What a gateway adds to a request, and what it must say.
pub(crate) const CREDENTIALS: [(&str, &str); 2] = [
    ("x-portkey-api-key", "pk-0123456789abcdef0123456789ab"),
    ("x-portkey-virtual-key", "openai-0123456789abcdef"),
];

impl Origin {
    pub(crate) fn run(self) -> ExitCode {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        LocalSet::new().block_on(&runtime, self.serve());
        ExitCode::SUCCESS
    }

    async fn serve(self) {
        let tls = self.tls();
        let asked = Arc::new(AtomicU64::new(0));
        let listener = TcpListener::bind(self.listen).await.expect("the address");
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                continue;
            };
            let _ = stream.set_nodelay(true);
            let (tls, asked) = (tls.clone(), Arc::clone(&asked));
            let strict = self.strict;
            tokio::task::spawn_local(async move {
                match tls {
                    None => converse(stream, asked, strict).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            converse(stream, asked, strict).await;
                        }
                    }
                }
            });
        }
    }

    fn tls(&self) -> Option<TlsAcceptor> {
        let (cert, key) = (self.cert.as_ref()?, self.key.as_ref()?);
        let certs: Result<Vec<_>, _> = CertificateDer::pem_file_iter(cert)
            .expect("the certificate's file")
            .collect();
        let key = PrivateKeyDer::from_pem_file(key).expect("the key's file");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has them")
            .with_no_client_auth()
            .with_single_cert(certs.expect("PEM"), key)
            .expect("a certificate and its key");
        // As the peers speak it upwards.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Some(TlsAcceptor::from(Arc::new(config)))
    }
}

async fn converse<S>(stream: S, asked: Arc<AtomicU64>, strict: bool)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let answer = service_fn(move |request: Request<Incoming>| {
        let asked = Arc::clone(&asked);
        async move { Ok::<_, Infallible>(answer(&request, &asked, strict).await) }
    });
    // A peer that leaves is its own affair.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), answer)
        .await;
}

async fn answer<B>(request: &Request<B>, asked: &AtomicU64, strict: bool) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if path == COUNT {
        return Response::new(Full::from(asked.load(Ordering::Relaxed).to_string()));
    }
    let Some((body, delay)) = of_path(path) else {
        return refusal(StatusCode::NOT_FOUND);
    };
    if strict && !has_credentials(request.headers()) {
        return refusal(StatusCode::UNAUTHORIZED);
    }
    asked.fetch_add(1, Ordering::Relaxed);
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let mut answer = Response::new(Full::from(body));
    let json = HeaderValue::from_static("application/json");
    answer.headers_mut().insert(CONTENT_TYPE, json);
    if strict {
        let says = if path.contains(LIVE) {
            "no-store"
        } else {
            "max-age=86400"
        };
        let says = HeaderValue::from_static(says);
        answer.headers_mut().insert(CACHE_CONTROL, says);
    }
    answer
}

fn refusal(status: StatusCode) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from("{}"));
    *answer.status_mut() = status;
    answer
}

fn has_credentials(headers: &HeaderMap) -> bool {
    CREDENTIALS.iter().all(|(name, value)| {
        let mut sent = headers.get_all(*name).iter();
        sent.next().is_some_and(|sent| sent == value) && sent.next().is_none()
    })
}

/// The body of the step with this path, and how far away it is.
pub(crate) fn of_path(path: &str) -> Option<(String, Duration)> {
    let mut parts = path.strip_prefix("/v1/threads/")?.split('/');
    let thread = parts.next()?;
    let run = parts.nth(1)?;
    let id = parts.nth(1)?;
    let mut said = id.split('-');
    let status = match said.next()? {
        "live" => "in_progress",
        "done" => "completed",
        _ => return None,
    };
    let size = said.next()?.parse().ok()?;
    let delay = Duration::from_millis(said.next()?.parse().ok()?);
    Some((step([thread, run, id], status, size), delay))
}

/// A step of about so many bytes (exactly, from 600 on), written as upstreams write them.
pub(crate) fn step([thread, run, id]: [&str; 3], status: &str, size: usize) -> String {
    let head = format!(
        "{{\n  \"id\": \"{id}\",\n  \"object\": \"thread.run.step\",\n  \"created_at\": 1699063291,\n  \
         \"run_id\": \"{run}\",\n  \"assistant_id\": \"asst_abc123\",\n  \"thread_id\": \"{thread}\",\n  \
         \"type\": \"message_creation\",\n  \"status\": \"{status}\",\n  \"cancelled_at\": null,\n  \
         \"completed_at\": null,\n  \"expires_at\": 1699063891,\n  \"failed_at\": null,\n  \
         \"last_error\": null,\n  \"step_details\": {{\n    \"type\": \"message_creation\",\n    \
         \"message_creation\": {{\n      \"message_id\": \"msg_"
    );
    let tail = "\"\n    }\n  },\n  \"usage\": {\n    \"prompt_tokens\": 123,\n    \
                \"completion_tokens\": 456,\n    \"total_tokens\": 579\n  }\n}\n";
    let padding = size.saturating_sub(head.len() + tail.len());
    [&head, &"a".repeat(padding), tail].concat()
}
