//! Is the upstream of the measurements: a thread of this process that is cheap to run and counts
//! what it is asked for.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Request, Response, StatusCode};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsAcceptor;

use crate::Result;
use crate::certificates::{Authority, Flaw};
use crate::http;
use crate::process::pause;
use crate::run_step::RunStep;

/// Are the headers that a gateway injects.
pub(crate) const CREDENTIALS: [(&str, &str); 2] = [
    ("x-portkey-api-key", "pk-0123456789abcdef0123456789ab"),
    ("x-portkey-virtual-key", "openai-0123456789abcdef"),
];

/// Is a name in the certificate.
pub(crate) const NAME: &str = "localhost";

/// Is how long no request arrives once load has ended.
const SETTLED: Duration = Duration::from_millis(20);

/// Runs until it is dropped.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    pub(crate) has_tls: bool,
    counts: Arc<Counts>,
    _stop: oneshot::Sender<()>,
}

#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    finals: AtomicU64,
}

impl Origin {
    /// Starts an origin that requires the credentials, and sends in `Cache-Control` what may be
    /// stored, because most caches do not read bodies. It has TLS if there is an authority for it.
    pub(crate) fn start(authority: Option<&Authority>) -> Result<Self> {
        Self::start_with(
            true,
            authority.map(|authority| authority.acceptor(Flaw::None, &["http/1.1"])),
        )
    }

    /// Starts an origin that requires nothing and sends no `Cache-Control`, as real upstreams.
    pub(crate) fn start_lenient() -> Result<Self> {
        Self::start_with(false, None)
    }

    fn start_with(is_strict: bool, tls: Option<TlsAcceptor>) -> Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let (stop, stopped) = oneshot::channel();
        let origin = Self {
            address: listener.local_addr()?,
            has_tls: tls.is_some(),
            counts: Arc::default(),
            _stop: stop,
        };
        let service = Service {
            is_strict,
            counts: Arc::clone(&origin.counts),
            first_requests: RefCell::default(),
        };
        thread::spawn(move || {
            http::run(async {
                let listener = TcpListener::from_std(listener)?;
                let respond = async move |request| Ok(service.respond(&request).await);
                tokio::select! {
                    served = http::serve(listener, tls, respond) => served,
                    _ = stopped => Ok(()),
                }
            })
        });
        Ok(origin)
    }

    /// Returns how many requests for steps it has received.
    pub(crate) fn requests(&self) -> u64 {
        self.counts.requests.load(Ordering::Relaxed)
    }

    /// Returns the same once it no longer grows: load that has ended leaves some requests behind.
    pub(crate) fn settled_requests(&self) -> u64 {
        let mut before = self.requests();
        loop {
            pause(SETTLED);
            let now = self.requests();
            if now == before {
                return now;
            }
            before = now;
        }
    }

    /// Returns to how many requests the response was final.
    pub(crate) fn finals(&self) -> u64 {
        self.counts.finals.load(Ordering::Relaxed)
    }
}

struct Service {
    is_strict: bool,
    counts: Arc<Counts>,
    /// Holds when each step that ends was first requested, by its path.
    first_requests: RefCell<HashMap<String, Instant>>,
}

impl Service {
    async fn respond(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let Some(step) = RunStep::parse(path) else {
            return error(StatusCode::NOT_FOUND);
        };
        if self.is_strict && !has_credentials(request.headers()) {
            return error(StatusCode::UNAUTHORIZED);
        }
        self.counts.requests.fetch_add(1, Ordering::Relaxed);
        let is_final = match step.lifetime {
            None => false,
            Some(Duration::ZERO) => true,
            Some(lifetime) => self.age(path) >= lifetime,
        };
        if is_final {
            self.counts.finals.fetch_add(1, Ordering::Relaxed);
        }
        if !step.delay.is_zero() {
            sleep(step.delay).await;
        }
        let mut response = Response::new(Full::from(step.body(is_final)));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self.is_strict {
            let value = if is_final {
                "max-age=86400"
            } else {
                "no-store"
            };
            headers.insert(CACHE_CONTROL, HeaderValue::from_static(value));
        }
        response
    }

    /// Returns the time since the first request for this path.
    fn age(&self, path: &str) -> Duration {
        let mut first_requests = self.first_requests.borrow_mut();
        first_requests
            .entry(path.to_owned())
            .or_insert_with(Instant::now)
            .elapsed()
    }
}

fn error(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from("{}"));
    *response.status_mut() = status;
    response
}

/// Returns whether each credential arrives exactly once.
fn has_credentials(headers: &HeaderMap) -> bool {
    let mut all = CREDENTIALS.iter();
    all.all(|(name, value)| headers.get_all(*name).iter().eq([value]))
}
