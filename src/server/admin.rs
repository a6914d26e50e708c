//! The admin listener: probes, metrics, status, purges and the status page.

mod page;

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
use super::drain::{Phase, PhaseReceiver};
use crate::config::{Address, Admin, Secret};
use crate::gateway::{
    Gateway, Handled, Purge, PurgeError, RequestHeaders, Transport, check_request,
};
use crate::policy::route::is_id;
use crate::upstream::{Body, presented_tokens};

/// Limits the connections, so that many of them cannot use up the file descriptors of the data listeners. It is
/// enough for probes, scrapes and people.
pub(super) const MAX_CONNECTIONS: usize = 64;

/// Limits how long a purge waits for the fleet to know of it.
const PURGE_TIMEOUT: Duration = Duration::from_millis(500);

const TEXT: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const HELP: &str = "stepgate admin\n\n\
    GET /                           the status page\n\
    GET /live                       200 while the process responds\n\
    GET /ready                      200 while the gateway serves, 503 while it drains\n\
    GET /metrics                    OpenMetrics\n\
    GET /status                     figures as JSON\n\
    DELETE /cache/RULE[/ID...]      purge the resources below these leading path ids\n";

/// Answers the requests of the admin listener.
#[derive(Debug)]
pub(super) struct AdminService {
    gateway: Arc<Gateway>,
    phase: PhaseReceiver,
    token: ArcSwapOption<Secret>,
    is_loopback: bool,
    /// The data listeners, as URLs or `unix:` paths.
    listen: Vec<String>,
}

impl AdminService {
    /// Serves beside data listeners at `data`, which use TLS if `tls` is set.
    pub(super) fn new(
        admin: &Admin,
        gateway: Arc<Gateway>,
        phase: PhaseReceiver,
        data: &[Address],
        tls: bool,
    ) -> Self {
        let scheme = if tls { "https" } else { "http" };
        let url = |address: &Address| match address {
            Address::Tcp(address) => format!("{scheme}://{address}"),
            Address::Unix(path) => format!("unix:{}", path.display()),
        };
        Self {
            gateway,
            phase,
            token: ArcSwapOption::from_pointee(admin.token.clone()),
            is_loopback: admin.listen.ip().to_canonical().is_loopback(),
            listen: data.iter().map(url).collect(),
        }
    }

    /// Applies the admin token of another configuration.
    pub(super) fn apply_config(&self, admin: &Admin) {
        self.token.store(admin.token.clone().map(Arc::new));
    }

    /// Reports whether a request presents the admin token, or none is configured.
    fn is_authorized(&self, head: &Parts) -> bool {
        self.token.load().as_ref().is_none_or(|token| {
            presented_tokens(&head.headers)
                .any(|presented| bool::from(token.expose().as_bytes().ct_eq(presented)))
        })
    }

    fn respond(&self, head: &Parts) -> Response<Body> {
        // A listener beyond loopback has unknown host names. There the token protects figures and purges.
        let hosts: Option<&[String]> = self.is_loopback.then_some(&[]);
        let headers = RequestHeaders::of(&head.headers);
        if let Err(error) = check_request(head, &headers, Transport::Tcp, hosts) {
            return error.response();
        }
        let is_read = matches!(head.method, Method::GET | Method::HEAD);
        let is_delete = head.method == Method::DELETE;
        match head.uri.path() {
            "/live" if is_read => text(StatusCode::OK, TEXT, "live\n".to_owned()),
            "/ready" if is_read => self.ready(),
            "/metrics" if is_read => text(StatusCode::OK, OPEN_METRICS, self.gateway.metrics()),
            "/status" if is_read && self.is_authorized(head) => self.status(),
            path if is_delete && path.starts_with("/cache/") && self.is_authorized(head) => {
                self.purge(&path["/cache/".len()..], head.uri.query())
            }
            "/status" if is_read => unauthorized(),
            path if is_delete && path.starts_with("/cache/") => unauthorized(),
            path if path.starts_with("/cache/") => method_not_allowed("DELETE"),
            "/live" | "/ready" | "/metrics" | "/status" => method_not_allowed("GET, HEAD"),
            path => match page::file(path) {
                Some(response) if is_read => response,
                Some(_) => method_not_allowed("GET, HEAD"),
                None => text(StatusCode::NOT_FOUND, TEXT, HELP.to_owned()),
            },
        }
    }

    /// Responds with 200 while the gateway serves. Secrets are loaded before a listener opens, so nothing else
    /// is to be checked.
    fn ready(&self) -> Response<Body> {
        let phase = self.phase.phase();
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
        status["phase"] = self.phase.phase().as_str().into();
        status["listen"] = self.listen.as_slice().into();
        json(StatusCode::OK, &status)
    }

    /// Purges `path`, which is `RULE[/ID…]`.
    fn purge(&self, path: &str, query: Option<&str>) -> Response<Body> {
        if query.is_some() {
            // A query would look as if it narrowed the purge.
            let error = "a purge has no query; write /cache/RULE or /cache/RULE/ID[/ID…]";
            return json(StatusCode::BAD_REQUEST, &json!({ "error": error }));
        }
        let mut segments = path.split('/');
        let rule = segments.next().unwrap_or_default();
        let ids: Vec<&str> = segments.collect();
        if let Some(id) = ids.iter().find(|id| !is_id(id)) {
            let error = format!("`{id}` is not an id; write /cache/RULE or /cache/RULE/ID[/ID…]");
            return json(StatusCode::BAD_REQUEST, &json!({ "error": error }));
        }
        match self.gateway.purge(rule, &ids) {
            Ok(Purge { purged, shared }) => {
                let mut body = json!({ "purged": purged });
                if shared.is_some_and(|acknowledged| !is_acknowledged(acknowledged)) {
                    // The purge is sent later. Until then this gateway reads nothing from the shared tier.
                    body["shared"] = "pending".into();
                }
                json(StatusCode::OK, &body)
            }
            Err(error) => {
                let status = match error {
                    PurgeError::NoRule(_) => StatusCode::NOT_FOUND,
                    PurgeError::TooManyIds(_) => StatusCode::BAD_REQUEST,
                };
                json(status, &json!({ "error": error.to_string() }))
            }
        }
    }
}

/// Waits for the fleet to know of a purge, for at most [`PURGE_TIMEOUT`]. Blocks the thread.
fn is_acknowledged(acknowledged: oneshot::Receiver<()>) -> bool {
    let in_time = async { matches!(timeout(PURGE_TIMEOUT, acknowledged).await, Ok(Ok(()))) };
    Handle::current().block_on(in_time)
}

impl Handler for Arc<AdminService> {
    fn respond(&mut self, request: Request<Incoming>, _: Instant) -> Handled {
        let (mut head, _) = request.into_parts();
        if page::is_navigation(&head) {
            // The page contains no figures, so a link on another site may lead to it.
            head.headers.remove("sec-fetch-site");
        }
        let is_head = head.method == Method::HEAD;
        let finish = move |mut response: Response<Body>| {
            if is_head {
                *response.body_mut() = Body::Empty;
            }
            response
        };
        if matches!(head.uri.path(), "/live" | "/ready") {
            // A probe must not wait for a thread.
            return Handled::Ready(finish(AdminService::respond(self, &head)));
        }
        let service = Self::clone(self);
        Handled::Fetch(Box::pin(async move {
            // A purge visits all entries, and a scrape runs the cache's pending tasks. Both may block.
            let response =
                tokio::task::spawn_blocking(move || AdminService::respond(&service, &head)).await;
            finish(response.unwrap_or_else(|_| {
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                text(status, TEXT, "internal error\n".to_owned())
            }))
        }))
    }
}

fn text(status: StatusCode, content_type: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Body::Full(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn json(status: StatusCode, value: &serde_json::Value) -> Response<Body> {
    text(status, "application/json", value.to_string())
}

fn unauthorized() -> Response<Body> {
    let error = "present admin.token as `Authorization: Bearer`";
    let mut response = json(StatusCode::UNAUTHORIZED, &json!({ "error": error }));
    response
        .headers_mut()
        .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

fn method_not_allowed(methods: &'static str) -> Response<Body> {
    let mut response = text(
        StatusCode::METHOD_NOT_ALLOWED,
        TEXT,
        format!("allowed: {methods}\n"),
    );
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(methods));
    response
}
