//! Parses paths and queries, and writes headers and errors as the real service does.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, SET_COOKIE};
use hyper::{Response, StatusCode, Uri};
use percent_encoding::percent_decode_str;
use serde::Serialize;

use super::body::{Ids, to_json};
use crate::demo::seeded_rng::SeededRng;

/// The headers that the gateway must inject.
const CREDENTIALS: [&str; 2] = ["x-portkey-api-key", "x-portkey-virtual-key"];

/// The only value of `include[]` that the upstream accepts.
const CONTENT: &str = "step_details.tool_calls[*].file_search.results[*].content";

pub(super) enum Route<'a> {
    Step(Ids<'a>),
    List { thread: &'a str, run: &'a str },
    Unknown,
}

impl<'a> Route<'a> {
    pub(super) fn of(path: &'a str) -> Self {
        let parts: Vec<&str> = path.split('/').collect();
        match parts[..] {
            ["", "v1", "threads", thread, "runs", run, "steps", step]
                if [thread, run, step].into_iter().all(is_id) =>
            {
                Self::Step(Ids { thread, run, step })
            }
            ["", "v1", "threads", thread, "runs", run, "steps"]
                if [thread, run].into_iter().all(is_id) =>
            {
                Self::List { thread, run }
            }
            _ => Self::Unknown,
        }
    }
}

fn is_id(id: &str) -> bool {
    !id.is_empty()
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

/// Holds the parameters of the query. Unknown parameters are ignored.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) include: bool,
    pub(super) limit: usize,
    pub(super) oldest_first: bool,
    /// The list begins after this step.
    pub(super) after: Option<String>,
}

impl Query {
    /// # Errors
    /// Returns an [`ApiError`] for a value that the upstream refuses.
    pub(super) fn of(uri: &Uri) -> Result<Self, ApiError> {
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let mut query = Self {
            include: false,
            limit: 20,
            oldest_first: false,
            after: None,
        };
        for pair in uri.query().unwrap_or_default().split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(value);
            match (&*decoded(name), &*value) {
                ("include[]", CONTENT) => query.include = true,
                ("order", "asc") => query.oldest_first = true,
                ("order", "desc") => query.oldest_first = false,
                ("after", _) => query.after = Some(value),
                ("limit", number) => match number.parse() {
                    Ok(limit @ 1..=100) => query.limit = limit,
                    Ok(_) | Err(_) => return Err(ApiError::Value("limit")),
                },
                ("include[]", _) => return Err(ApiError::Value("include[]")),
                ("order", _) => return Err(ApiError::Value("order")),
                (_, _) => {}
            }
        }
        Ok(query)
    }
}

/// Says why there is no step in the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ApiError {
    Unauthorized,
    UnknownUrl,
    Method,
    Value(&'static str),
}

#[derive(Serialize)]
struct Envelope {
    error: Error,
}

/// Has its members in OpenAI's order.
#[derive(Serialize)]
struct Error {
    message: String,
    r#type: &'static str,
    param: Option<&'static str>,
    code: Option<&'static str>,
}

impl ApiError {
    /// Returns the error response. It repeats nothing of the request, because tests search bodies for
    /// secrets.
    pub(super) fn response(self) -> Response<Full<Bytes>> {
        let (status, message, param, code) = match self {
            Self::Unauthorized => (
                StatusCode::UNAUTHORIZED,
                format!("Missing credentials: {}.", CREDENTIALS.join(", ")),
                None,
                Some("invalid_api_key"),
            ),
            Self::UnknownUrl => (
                StatusCode::NOT_FOUND,
                "Unknown request URL. Please check the URL for typos.".to_owned(),
                None,
                Some("unknown_url"),
            ),
            Self::Method => (
                StatusCode::METHOD_NOT_ALLOWED,
                "Only GET is allowed here.".to_owned(),
                None,
                Some("method_not_supported"),
            ),
            Self::Value(param) => (
                StatusCode::BAD_REQUEST,
                format!("Invalid value for '{param}'."),
                Some(param),
                Some("invalid_value"),
            ),
        };
        let error = Error {
            message,
            r#type: "invalid_request_error",
            param,
            code,
        };
        let mut response = Response::new(Full::new(to_json(&Envelope { error })));
        *response.status_mut() = status;
        response
    }
}

/// Returns whether both injected credentials are present. Any value is accepted.
pub(super) fn is_authorized(headers: &HeaderMap) -> bool {
    CREDENTIALS
        .iter()
        .all(|name| headers.get(*name).is_some_and(|value| !value.is_empty()))
}

/// Adds the headers of the real service. `number` counts requests from 1.
pub(super) fn add_headers(response: &mut Response<Full<Bytes>>, number: u64, processing_ms: u128) {
    let mut rng = SeededRng::of(&["headers", &number.to_string()]);
    let headers = response.headers_mut();
    for (name, value) in [
        ("openai-organization", "org-sandbox"),
        ("openai-project", "proj_sandbox"),
        ("openai-version", "2020-10-01"),
        ("cf-cache-status", "DYNAMIC"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let mut add = |name: &'static str, text: String| {
        let value = HeaderValue::try_from(text).expect("letters, digits and punctuation");
        headers.insert(HeaderName::from_static(name), value);
    };
    add("openai-processing-ms", processing_ms.to_string());
    add("x-request-id", rng.id("req_"));
    add("cf-ray", format!("{:x}-FRA", rng.below(u32::MAX)));
    // The real service sets its cookie only sometimes, and a cache must drop it then.
    if number.is_multiple_of(8) {
        let cookie = rng.id("__cf_bm=") + "; path=/; HttpOnly; Secure";
        add(SET_COOKIE.as_str(), cookie);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn include_is_parsed_in_every_encoding() {
        for query in [
            "include[]=step_details.tool_calls[*].file_search.results[*].content",
            "include[]=step_details.tool_calls%5B%2A%5D.file_search.results%5B%2A%5D.content",
            "x=1&include%5B%5D=step_details.tool_calls[*].file_search.results[*].content",
        ] {
            let uri = format!("/v1/x?{query}").parse().unwrap();
            assert!(Query::of(&uri).unwrap().include, "{query}");
        }
    }

    #[test]
    fn invalid_values_are_refused() {
        for (query, param) in [
            ("include[]=all", "include[]"),
            ("limit=0", "limit"),
            ("limit=101", "limit"),
            ("order=up", "order"),
        ] {
            let uri = format!("/v1/x?{query}").parse().unwrap();
            assert_eq!(Query::of(&uri), Err(ApiError::Value(param)), "{query}");
        }
    }
}
