//! The upstream of the measurements. A step's id says what it is: `KIND-BYTES-MILLISECONDS-ANY`, as in
//! `live-590-20-7`: a live step of 590 bytes, 20 ms away. `KIND` is `live`, `done`, or `ends` for a step
//! that ends: `ends-590-20-1000-7` is live until 1,000 ms after it was first asked for.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

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

use crate::clock::now;

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

/// The same of answers that were final.
pub(crate) const FINALS: &str = "/count/final";

/// What it was asked for.
#[derive(Default)]
struct Asked {
    steps: AtomicU64,
    finals: AtomicU64,
    /// When a step that ends was first asked for, by its path.
    begun: Mutex<HashMap<String, Instant>>,
}

impl Asked {
    fn since(&self, path: &str) -> Duration {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        begun.entry(path.to_owned()).or_insert_with(now).elapsed()
    }
}

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
        let asked = Arc::<Asked>::default();
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

async fn converse<S>(stream: S, asked: Arc<Asked>, strict: bool)
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

async fn answer<B>(request: &Request<B>, asked: &Asked, strict: bool) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let count = match path {
        COUNT => Some(&asked.steps),
        FINALS => Some(&asked.finals),
        _ => None,
    };
    if let Some(count) = count {
        return Response::new(Full::from(count.load(Ordering::Relaxed).to_string()));
    }
    let Some(step) = Step::of_path(path) else {
        return refusal(StatusCode::NOT_FOUND);
    };
    if strict && !has_credentials(request.headers()) {
        return refusal(StatusCode::UNAUTHORIZED);
    }
    asked.steps.fetch_add(1, Ordering::Relaxed);
    let is_final = match step.end {
        End::Never => false,
        End::Before => true,
        End::After(length) => asked.since(path) >= length,
    };
    if is_final {
        asked.finals.fetch_add(1, Ordering::Relaxed);
    }
    if !step.away.is_zero() {
        tokio::time::sleep(step.away).await;
    }
    let mut answer = Response::new(Full::from(step.body(is_final)));
    let json = HeaderValue::from_static("application/json");
    answer.headers_mut().insert(CONTENT_TYPE, json);
    if strict {
        let says = if is_final {
            "max-age=86400"
        } else {
            "no-store"
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

/// What a step's path says of it.
pub(crate) struct Step<'p> {
    ids: [&'p str; 3],
    size: usize,
    away: Duration,
    end: End,
}

/// When a step ends.
enum End {
    Never,
    Before,
    /// It is first asked for.
    After(Duration),
}

impl<'p> Step<'p> {
    pub(crate) fn of_path(path: &'p str) -> Option<Self> {
        let mut parts = path.strip_prefix("/v1/threads/")?.split('/');
        let thread = parts.next()?;
        let run = parts.nth(1)?;
        let id = parts.nth(1)?;
        let mut said = id.split('-');
        let kind = said.next()?;
        let size = said.next()?.parse().ok()?;
        let mut milliseconds = || Some(Duration::from_millis(said.next()?.parse().ok()?));
        let away = milliseconds()?;
        let end = match kind {
            "live" => End::Never,
            "done" => End::Before,
            "ends" => End::After(milliseconds()?),
            _ => return None,
        };
        Some(Self {
            ids: [thread, run, id],
            size,
            away,
            end,
        })
    }

    pub(crate) fn body(&self, is_final: bool) -> String {
        let status = if is_final { "completed" } else { "in_progress" };
        step(self.ids, status, self.size)
    }
}

/// The body of the step with this path, which is live or final for good.
pub(crate) fn of_path(path: &str) -> Option<String> {
    let step = Step::of_path(path)?;
    Some(step.body(matches!(step.end, End::Before)))
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
