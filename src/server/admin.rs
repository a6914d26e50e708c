//! The admin listener: is it alive, is it ready, what did it do, forget this; and a page to look at.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;
use subtle::ConstantTimeEq;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::connection::Handler;
use super::drain::{Phase, Watch};
use super::page;
use crate::config::{Address, Admin, Secret};
use crate::gateway::{
    Gateway, Handled, Purge, PurgeError, RequestHeaders, Transport, check_request,
};
use crate::policy::route::is_id;
use crate::upstream::{Body, presented_tokens};

/// Enough for probes, scrapes and people; a crowd here must not cost the data listener descriptors.
pub(super) const MAX_CONNECTIONS: usize = 64;

const TEXT: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the admin listener answers from.
#[derive(Debug)]
pub(super) struct AdminService {
    gateway: Arc<Gateway>,
    watch: Watch,
    token: ArcSwapOption<Secret>,
    loopback: bool,
    /// Where callers knock: URLs, or the paths of sockets.
    listen: Vec<String>,
}

impl AdminService {
    pub(super) fn new(admin: &Admin, gateway: Arc<Gateway>, watch: Watch) -> Self {
        Self {
            gateway,
            watch,
            token: ArcSwapOption::from_pointee(admin.token.clone()),
            loopback: admin.listen.ip().to_canonical().is_loopback(),
            listen: Vec::new(),
        }
    }

    /// The same beside data listeners at these addresses, over TCP with or without TLS.
    pub(super) fn beside(mut self, data: &[Address], tls: bool) -> Self {
        let scheme = if tls { "https" } else { "http" };
        let spelled = |address: &Address| match address {
            Address::Tcp(address) => format!("{scheme}://{address}"),
            Address::Unix(path) => format!("unix:{}", path.display()),
        };
        self.listen = data.iter().map(spelled).collect();
        self
    }

    /// From now on it asks for this configuration's token.
    pub(super) fn take_up(&self, admin: &Admin) {
        self.token.store(admin.token.clone().map(Arc::new));
    }

    /// Whether the request may see `/status` and purge.
    fn trusts(&self, head: &Parts) -> bool {
        self.token.load().as_ref().is_none_or(|token| {
            presented_tokens(&head.headers)
                .any(|presented| bool::from(token.expose().as_bytes().ct_eq(presented)))
        })
    }

    fn answer(&self, head: &Parts) -> Response<Body> {
        // Beyond loopback the names are many, and the token guards what matters.
        let hosts: Option<&[String]> = self.loopback.then_some(&[]);
        let heading = RequestHeaders::of(&head.headers);
        if let Err(refusal) = check_request(head, &heading, Transport::Tcp, hosts) {
            return refusal.response();
        }
        let read = matches!(head.method, Method::GET | Method::HEAD);
        let purge = head.method == Method::DELETE;
        match head.uri.path() {
            "/live" if read => text(StatusCode::OK, TEXT, "live\n".to_owned()),
            "/ready" if read => self.ready(),
            "/metrics" if read => text(StatusCode::OK, OPEN_METRICS, self.gateway.metrics()),
            "/status" if read && self.trusts(head) => self.status(),
            path if purge && path.starts_with("/cache/") && self.trusts(head) => {
                self.purge(&path["/cache/".len()..], head.uri.query())
            }
            "/status" if read => unauthorized(),
            path if purge && path.starts_with("/cache/") => unauthorized(),
            path if path.starts_with("/cache/") => not_allowed("DELETE"),
            "/live" | "/ready" | "/metrics" | "/status" => not_allowed("GET, HEAD"),
            path => match page::file(path) {
                Some(answer) if read => answer,
                Some(_) => not_allowed("GET, HEAD"),
                None => text(StatusCode::NOT_FOUND, TEXT, CONTENTS.to_owned()),
            },
        }
    }

    /// Secrets are loaded before anything listens, so serving is ready.
    fn ready(&self) -> Response<Body> {
        let phase = self.watch.phase();
        if phase == Phase::Serving {
            text(StatusCode::OK, TEXT, "ready\n".to_owned())
        } else {
            text(
                StatusCode::SERVICE_UNAVAILABLE,
                TEXT,
                format!("{}\n", phase.as_str()),
            )
        }
    }

    fn status(&self) -> Response<Body> {
        let mut status = self.gateway.status();
        status["phase"] = self.watch.phase().as_str().into();
        status["listen"] = self.listen.as_slice().into();
        json_text(StatusCode::OK, &status)
    }

    /// `RULE[/ID…]`
    fn purge(&self, below: &str, query: Option<&str>) -> Response<Body> {
        if query.is_some() {
            // Who means to narrow it by a query must not purge more than that.
            let error = "a purge has no query; write /cache/RULE or /cache/RULE/ID[/ID…]";
            return json_text(StatusCode::BAD_REQUEST, &json!({ "error": error }));
        }
        let mut parts = below.split('/');
        let rule = parts.next().unwrap_or_default();
        let ids: Vec<&str> = parts.collect();
        if let Some(id) = ids.iter().find(|id| !is_id(id)) {
            let error = format!("`{id}` is not an id; write /cache/RULE or /cache/RULE/ID[/ID…]");
            return json_text(StatusCode::BAD_REQUEST, &json!({ "error": error }));
        }
        match self.gateway.purge(rule, &ids) {
            Ok(Purge { purged, shared }) => {
                let mut answer = json!({ "purged": purged });
                if shared.is_some_and(|shared| !is_told(shared)) {
                    // It goes on; until then this gateway takes nothing from the shared tier.
                    answer["shared"] = "pending".into();
                }
                json_text(StatusCode::OK, &answer)
            }
            Err(error) => {
                let status = match error {
                    PurgeError::NoRule(_) => StatusCode::NOT_FOUND,
                    PurgeError::TooManyIds(_) => StatusCode::BAD_REQUEST,
                };
                json_text(status, &json!({ "error": error.to_string() }))
            }
        }
    }
}

/// How long a purge waits for the fleet to know.
const TO_TELL: Duration = Duration::from_millis(500);

/// Waits until the fleet knows of a purge, not for long. Blocks.
fn is_told(told: oneshot::Receiver<()>) -> bool {
    let told = async { matches!(timeout(TO_TELL, told).await, Ok(Ok(()))) };
    Handle::current().block_on(told)
}

const CONTENTS: &str = "stepgate admin\n\n\
    GET /                           a page that shows the traffic cut, live\n\
    GET /live                       the process answers\n\
    GET /ready                      it takes requests (503 while draining)\n\
    GET /metrics                    OpenMetrics\n\
    GET /status                     figures as JSON\n\
    DELETE /cache/RULE[/ID...]      forget what lies below these leading path ids\n";

impl Handler for Arc<AdminService> {
    fn respond(&mut self, request: Request<Incoming>, _: Instant) -> Handled {
        let (mut head, _) = request.into_parts();
        if page::is_visit(&head) {
            // A link on another site may lead to the page: there are no figures in it.
            head.headers.remove("sec-fetch-site");
        }
        let bodiless = head.method == Method::HEAD;
        let finish = move |mut answer: Response<Body>| {
            if bodiless {
                *answer.body_mut() = Body::Empty;
            }
            answer
        };
        if matches!(head.uri.path(), "/live" | "/ready") {
            // A probe waits for nothing.
            return Handled::Ready(finish(self.answer(&head)));
        }
        let desk = Self::clone(self);
        Handled::Fetch(Box::pin(async move {
            // A purge walks all entries, a scrape settles the cache's books: not on a worker.
            let answer = tokio::task::spawn_blocking(move || desk.answer(&head)).await;
            finish(answer.unwrap_or_else(|_| {
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                text(status, TEXT, "internal error\n".to_owned())
            }))
        }))
    }
}

pub(super) fn service(desk: Arc<AdminService>) -> impl Handler {
    desk
}

fn text(status: StatusCode, content_type: &'static str, text: String) -> Response<Body> {
    let mut answer = Response::new(Body::Full(Bytes::from(text)));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

fn json_text(status: StatusCode, value: &serde_json::Value) -> Response<Body> {
    text(status, "application/json", value.to_string())
}

fn unauthorized() -> Response<Body> {
    let error = "present admin.token as `Authorization: Bearer`";
    let mut answer = json_text(StatusCode::UNAUTHORIZED, &json!({ "error": error }));
    answer
        .headers_mut()
        .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    answer
}

fn not_allowed(methods: &'static str) -> Response<Body> {
    let mut answer = text(
        StatusCode::METHOD_NOT_ALLOWED,
        TEXT,
        format!("allowed: {methods}\n"),
    );
    answer
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(methods));
    answer
}
