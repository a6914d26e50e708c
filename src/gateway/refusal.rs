//! Every answer that is the gateway's own: the one place where an error becomes HTTP.

use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::{ALLOW, CACHE_CONTROL, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use serde_json::json;

use super::answer::{Answer, json_answer};
use super::outcome::Outcome;
use crate::upstream::FetchError;

/// Why a request got no answer from upstream or memory.
#[derive(Debug)]
pub(crate) enum GatewayError {
    /// A path that could mean something else than it says.
    InvalidPath(&'static str),
    /// A request that breaks HTTP's rules.
    InvalidRequest(&'static str),
    /// No token, an unknown one, or two of different clients.
    Unauthorized,
    /// A web page, or a name that is not ours, on an open listener.
    ForbiddenOrigin(&'static str),
    /// A path that no rule names, and that is not forwarded.
    RouteNotFound,
    /// A path that is none of the API.
    NotBelowPrefix,
    /// Another method than GET and HEAD.
    MethodNotAllowed,
    /// `only-if-cached`, and it is not.
    NotCached,
    /// More fetches than `upstream.max_in_flight`, or more requests that want one than may wait.
    Overloaded,
    /// The gateway is about to exit.
    Draining,
    /// The connection is from before the roots of callers' certificates changed.
    Reconnect,
    /// The fetch failed.
    Fetch(Arc<FetchError>),
}

impl GatewayError {
    /// Path and query, as they go up.
    pub(crate) const TARGET_TOO_LONG: Self =
        Self::InvalidRequest("The path and the query are too long.");

    /// The stable code that callers can rely on.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::InvalidPath(_) => "invalid_path",
            Self::InvalidRequest(_) => "invalid_request",
            Self::Unauthorized => "unauthorized",
            Self::ForbiddenOrigin(_) => "forbidden_origin",
            Self::RouteNotFound | Self::NotBelowPrefix => "route_not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::NotCached => "not_cached",
            Self::Overloaded => "overloaded",
            Self::Draining | Self::Reconnect => "draining",
            Self::Fetch(error) => match &**error {
                FetchError::Connect(_)
                | FetchError::TlsHandshake(_)
                | FetchError::ConnectionLost(_)
                | FetchError::TaskFailed => "upstream_unreachable",
                FetchError::Malformed(_)
                | FetchError::Truncated(_)
                | FetchError::UnexpectedUpgrade
                | FetchError::UnexpectedNotModified
                | FetchError::UnexpectedTransferCoding
                | FetchError::InvalidContentLength
                | FetchError::EchoedSecret => "upstream_invalid",
                FetchError::OutOfFileDescriptors(_) => "overloaded",
                FetchError::ConnectTimeout(_)
                | FetchError::DeadlineExceeded
                | FetchError::IdleTimeout => "upstream_timeout",
                FetchError::RequestBodyAborted => "invalid_request",
            },
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::InvalidPath(_) | Self::InvalidRequest(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::ForbiddenOrigin(_) => StatusCode::FORBIDDEN,
            Self::RouteNotFound | Self::NotBelowPrefix => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotCached => StatusCode::GATEWAY_TIMEOUT,
            Self::Overloaded | Self::Draining | Self::Reconnect => StatusCode::SERVICE_UNAVAILABLE,
            Self::Fetch(_) if self.code() == "invalid_request" => StatusCode::BAD_REQUEST,
            Self::Fetch(_) if self.code() == "upstream_timeout" => StatusCode::GATEWAY_TIMEOUT,
            Self::Fetch(_) if self.code() == "overloaded" => StatusCode::SERVICE_UNAVAILABLE,
            Self::Fetch(_) => StatusCode::BAD_GATEWAY,
        }
    }

    fn message(&self) -> String {
        match self {
            Self::InvalidPath(why) | Self::InvalidRequest(why) | Self::ForbiddenOrigin(why) => {
                (*why).to_owned()
            }
            Self::Unauthorized => "No client of this gateway has this token; present one as \
                                   `Authorization: Bearer` or as `x-portkey-api-key`."
                .to_owned(),
            Self::RouteNotFound => {
                "No rule of this gateway names this path, and it forwards nothing \
                                    else. Is the base URL right (http://HOST:PORT/v1)? If so, set \
                                    server.forward = \"all\", add a [[rule]] for it, or ask the \
                                    upstream directly."
                    .to_owned()
            }
            Self::NotBelowPrefix => "This gateway answers, and with server.forward = \"all\" \
                                     forwards, what is below /v1/. Is the base URL right \
                                     (http://HOST:PORT/v1)?"
                .to_owned(),
            Self::MethodNotAllowed => "This gateway answers GET and HEAD on this path; with \
                                       server.forward = \"all\" it forwards the other methods, but \
                                       CONNECT and TRACE."
                .to_owned(),
            Self::NotCached => {
                "Memory may not or cannot answer this, and `only-if-cached` forbids a \
                                fetch."
                    .to_owned()
            }
            Self::Overloaded => {
                "Too many fetches are under way (upstream.max_in_flight), too many requests \
                 wait for one (server.max_connections), or too many are forwarded (1,024)."
                    .to_owned()
            }
            Self::Draining => "This gateway is shutting down.".to_owned(),
            Self::Reconnect => "The certificates that callers need have changed since this \
                                connection was opened; open another."
                .to_owned(),
            // The variant says what happened; the source may hold what the caller must not see.
            Self::Fetch(error) if self.code() == "upstream_invalid" => {
                format!("The upstream's answer cannot be used: {error}.")
            }
            Self::Fetch(error) if self.code() == "invalid_request" => {
                format!("The request cannot be forwarded: {error}.")
            }
            Self::Fetch(error) if self.code() == "overloaded" => {
                format!("The upstream was not asked: {error}.")
            }
            Self::Fetch(error) => format!("The upstream did not answer: {error}."),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::InvalidPath(_)
            | Self::InvalidRequest(_)
            | Self::RouteNotFound
            | Self::NotBelowPrefix
            | Self::MethodNotAllowed => "invalid_request_error",
            Self::Unauthorized => "authentication_error",
            Self::ForbiddenOrigin(_) => "permission_error",
            Self::NotCached => "cache_error",
            Self::Overloaded | Self::Draining | Self::Reconnect => "overloaded_error",
            Self::Fetch(_) if self.code() == "invalid_request" => "invalid_request_error",
            Self::Fetch(_) if self.code() == "overloaded" => "overloaded_error",
            Self::Fetch(_) => "upstream_error",
        }
    }

    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::InvalidPath(_)
            | Self::InvalidRequest(_)
            | Self::Unauthorized
            | Self::ForbiddenOrigin(_)
            | Self::RouteNotFound
            | Self::NotBelowPrefix
            | Self::MethodNotAllowed
            | Self::NotCached => Outcome::Rejected,
            Self::Fetch(_) if self.code() == "invalid_request" => Outcome::Rejected,
            Self::Overloaded | Self::Draining | Self::Reconnect | Self::Fetch(_) => Outcome::Error,
        }
    }

    /// The answer, in the form that the SDKs parse.
    pub(crate) fn answer(&self) -> Answer {
        let error = json!({
            "error": {
                "message": self.message(),
                "type": self.kind(),
                "param": null,
                "code": self.code(),
            }
        });
        let mut answer = json_answer(self.status(), &error);
        let headers = answer.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match self {
            Self::Unauthorized => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                headers.insert("x-should-retry", HeaderValue::from_static("false"));
            }
            Self::MethodNotAllowed => {
                headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            }
            Self::NotCached => {
                headers.insert("x-should-retry", HeaderValue::from_static("false"));
            }
            Self::Overloaded | Self::Draining => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Self::Reconnect => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("0"));
            }
            Self::Fetch(_) if self.code() == "overloaded" => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Self::InvalidPath(_)
            | Self::InvalidRequest(_)
            | Self::ForbiddenOrigin(_)
            | Self::RouteNotFound
            | Self::NotBelowPrefix
            | Self::Fetch(_) => {}
        }
        answer
    }
}
