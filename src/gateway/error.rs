//! The gateway's own errors, and the one place where an error becomes HTTP.

use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE,
};
use hyper::header::{HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::json;

use super::telemetry::outcome::Outcome;
use crate::upstream::{Body, FetchError};

/// Why a request gets an error of the gateway's.
#[derive(Debug, Clone)]
pub(crate) enum GatewayError {
    /// A path that another parser could read in another way.
    InvalidPath(&'static str),
    /// A request that breaks HTTP's rules.
    InvalidRequest(&'static str),
    /// No token, an unknown one, or tokens of two clients.
    Unauthorized,
    /// A request to an open listener that a web page could have sent.
    ForbiddenOrigin(&'static str),
    /// A path that no rule names, and that is not forwarded.
    RouteNotFound,
    /// A path that is not below the prefix.
    NotBelowPrefix,
    /// Another method than GET and HEAD on a rule's path.
    MethodNotAllowed,
    /// `only-if-cached`, and memory cannot answer.
    NotCached,
    /// A limit on fetches, on requests that wait for one, or on forwarded requests is reached.
    Overloaded,
    /// The gateway is about to exit.
    Draining,
    /// The certificates that clients need have changed since the connection was opened.
    Reconnect,
    /// The fetch failed.
    Fetch(Arc<FetchError>),
}

/// What all errors with one code have in common.
struct ErrorCode {
    code: &'static str,
    status: StatusCode,
    /// The member `type` of the body.
    kind: &'static str,
    outcome: Outcome,
    header: Option<(HeaderName, &'static str)>,
    /// The header `x-should-retry: false`, which the SDKs heed.
    never_retry: bool,
    /// How the message begins if a fetch failed.
    fetch_failed: &'static str,
}

/// One row for each code.
#[rustfmt::skip]
impl ErrorCode {
    const INVALID_PATH: Self = row("invalid_path", StatusCode::BAD_REQUEST, REQUEST, Outcome::Rejected, None, false, "");
    const INVALID_REQUEST: Self = row("invalid_request", StatusCode::BAD_REQUEST, REQUEST, Outcome::Rejected, None, false, "The request cannot be forwarded");
    const UNAUTHORIZED: Self = row("unauthorized", StatusCode::UNAUTHORIZED, "authentication_error", Outcome::Rejected, Some((WWW_AUTHENTICATE, "Bearer")), true, "");
    const FORBIDDEN_ORIGIN: Self = row("forbidden_origin", StatusCode::FORBIDDEN, "permission_error", Outcome::Rejected, None, false, "");
    const ROUTE_NOT_FOUND: Self = row("route_not_found", StatusCode::NOT_FOUND, REQUEST, Outcome::Rejected, None, false, "");
    const METHOD_NOT_ALLOWED: Self = row("method_not_allowed", StatusCode::METHOD_NOT_ALLOWED, REQUEST, Outcome::Rejected, Some((ALLOW, "GET, HEAD")), false, "");
    const UPSTREAM_UNREACHABLE: Self = row("upstream_unreachable", StatusCode::BAD_GATEWAY, UPSTREAM, Outcome::Error, None, false, "The upstream did not answer");
    const UPSTREAM_INVALID: Self = row("upstream_invalid", StatusCode::BAD_GATEWAY, UPSTREAM, Outcome::Error, None, false, "The upstream's response cannot be used");
    const OVERLOADED: Self = row("overloaded", StatusCode::SERVICE_UNAVAILABLE, BUSY, Outcome::Error, Some((RETRY_AFTER, "1")), false, "The upstream was not asked");
    const DRAINING: Self = row("draining", StatusCode::SERVICE_UNAVAILABLE, BUSY, Outcome::Error, Some((RETRY_AFTER, "1")), false, "");
    const UPSTREAM_TIMEOUT: Self = row("upstream_timeout", StatusCode::GATEWAY_TIMEOUT, UPSTREAM, Outcome::Error, None, false, "The upstream did not answer");
    const NOT_CACHED: Self = row("not_cached", StatusCode::GATEWAY_TIMEOUT, "cache_error", Outcome::Rejected, None, true, "");
}

const REQUEST: &str = "invalid_request_error";
const BUSY: &str = "overloaded_error";
const UPSTREAM: &str = "upstream_error";

const fn row(
    code: &'static str,
    status: StatusCode,
    kind: &'static str,
    outcome: Outcome,
    header: Option<(HeaderName, &'static str)>,
    never_retry: bool,
    fetch_failed: &'static str,
) -> ErrorCode {
    ErrorCode {
        code,
        status,
        kind,
        outcome,
        header,
        never_retry,
        fetch_failed,
    }
}

impl GatewayError {
    /// A path with a query that is longer than a target may be.
    pub(crate) const TARGET_TOO_LONG: Self =
        Self::InvalidRequest("The path and the query are too long.");

    fn row(&self) -> ErrorCode {
        match self {
            Self::InvalidPath(_) => ErrorCode::INVALID_PATH,
            Self::InvalidRequest(_) => ErrorCode::INVALID_REQUEST,
            Self::Unauthorized => ErrorCode::UNAUTHORIZED,
            Self::ForbiddenOrigin(_) => ErrorCode::FORBIDDEN_ORIGIN,
            Self::RouteNotFound | Self::NotBelowPrefix => ErrorCode::ROUTE_NOT_FOUND,
            Self::MethodNotAllowed => ErrorCode::METHOD_NOT_ALLOWED,
            Self::NotCached => ErrorCode::NOT_CACHED,
            Self::Overloaded => ErrorCode::OVERLOADED,
            Self::Draining | Self::Reconnect => ErrorCode::DRAINING,
            Self::Fetch(error) => match &**error {
                FetchError::Connect(_)
                | FetchError::TlsHandshake(_)
                | FetchError::ConnectionLost(_)
                | FetchError::TaskFailed => ErrorCode::UPSTREAM_UNREACHABLE,
                FetchError::Malformed(_)
                | FetchError::Truncated(_)
                | FetchError::UnexpectedUpgrade
                | FetchError::UnexpectedNotModified
                | FetchError::UnexpectedTransferCoding
                | FetchError::InvalidContentLength
                | FetchError::EchoedSecret => ErrorCode::UPSTREAM_INVALID,
                FetchError::OutOfFileDescriptors(_) => ErrorCode::OVERLOADED,
                FetchError::ConnectTimeout(_)
                | FetchError::DeadlineExceeded
                | FetchError::IdleTimeout => ErrorCode::UPSTREAM_TIMEOUT,
                FetchError::RequestBodyAborted => ErrorCode::INVALID_REQUEST,
            },
        }
    }

    /// Returns the stable code that clients can rely on.
    pub(crate) fn code(&self) -> &'static str {
        self.row().code
    }

    pub(crate) fn outcome(&self) -> Outcome {
        self.row().outcome
    }

    /// Returns what went wrong with the fetch, for the log: it may hold what the client must not see.
    pub(super) fn fetch_error(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Fetch(error) => Some(&**error),
            Self::InvalidPath(_)
            | Self::InvalidRequest(_)
            | Self::Unauthorized
            | Self::ForbiddenOrigin(_)
            | Self::RouteNotFound
            | Self::NotBelowPrefix
            | Self::MethodNotAllowed
            | Self::NotCached
            | Self::Overloaded
            | Self::Draining
            | Self::Reconnect => None,
        }
    }

    fn message(&self) -> String {
        let text = match self {
            Self::InvalidPath(reason)
            | Self::InvalidRequest(reason)
            | Self::ForbiddenOrigin(reason) => reason,
            Self::Unauthorized => {
                "No client of this gateway has this token; present one as `Authorization: Bearer` or \
                 as `x-portkey-api-key`."
            }
            Self::RouteNotFound => {
                "No rule of this gateway names this path, and the gateway forwards nothing else. Is \
                 the base URL right (http://HOST:PORT/v1)? If so, set server.forward = \"all\", add a \
                 [[rule]] for the path, or ask the upstream directly."
            }
            Self::NotBelowPrefix => {
                "This gateway answers, and with server.forward = \"all\" forwards, paths below /v1/. Is \
                 the base URL right (http://HOST:PORT/v1)?"
            }
            Self::MethodNotAllowed => {
                "This gateway answers GET and HEAD on this path. With server.forward = \"all\" it \
                 forwards the other methods, except CONNECT and TRACE."
            }
            Self::NotCached => {
                "This cannot be answered from memory, and `only-if-cached` forbids a fetch."
            }
            Self::Overloaded => {
                "Too many fetches are in flight (upstream.max_in_flight), too many requests wait for \
                 one (server.max_connections), or too many are forwarded (1,024)."
            }
            Self::Draining => "This gateway is shutting down.",
            Self::Reconnect => {
                "The certificates that clients need have changed since this connection was opened; \
                 open another."
            }
            // The error's text says what happened. Its sources may hold what the client must not see.
            Self::Fetch(error) => return format!("{}: {error}.", self.row().fetch_failed),
        };
        text.to_owned()
    }

    /// Returns the response, in the form that the SDKs parse.
    pub(crate) fn response(&self) -> Response<Body> {
        let row = self.row();
        let error = json!({
            "error": {
                "message": self.message(),
                "type": row.kind,
                "param": null,
                "code": row.code,
            }
        });
        let mut response = json_response(row.status, &error);
        let headers: &mut HeaderMap = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some((name, value)) = row.header {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if row.never_retry {
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        if matches!(self, Self::Reconnect) {
            // A new connection can have its response at once.
            headers.insert(RETRY_AFTER, HeaderValue::from_static("0"));
        }
        response
    }
}

/// Returns a response with a JSON text of the gateway's own.
fn json_response(status: StatusCode, value: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Body::Full(Bytes::from(value.to_string())));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
