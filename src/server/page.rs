//! The status page: a few files that hold no figures. What they show, they ask `/status` for.

use bytes::Bytes;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::http::request::Parts;
use hyper::{Method, Response};

use crate::upstream::Body;

/// Nothing but its own files and the figures; in no frame; no form is ever sent.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// The file at this path, if it is one of the page's.
pub(super) fn file(path: &str) -> Option<Response<Body>> {
    let (content_type, text) = match path {
        "/" => ("text/html; charset=utf-8", include_str!("page/index.html")),
        "/page.css" => ("text/css; charset=utf-8", include_str!("page/page.css")),
        "/page.js" => (SCRIPT, include_str!("page/page.js")),
        "/chart.js" => (SCRIPT, include_str!("page/chart.js")),
        "/format.js" => (SCRIPT, include_str!("page/format.js")),
        _ => return None,
    };
    let mut answer = Response::new(Body::Full(Bytes::from_static(text.as_bytes())));
    let said: [(HeaderName, &str); 5] = [
        (CONTENT_TYPE, content_type),
        // After an upgrade they must fit each other.
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in said {
        answer
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    Some(answer)
}

/// Whether a browser opens the page itself, not a script, a frame or an image on another page.
pub(super) fn is_visit(head: &Parts) -> bool {
    let says = |name, value: &str| head.headers.get(name).is_some_and(|said| said == value);
    head.method == Method::GET
        && head.uri.path() == "/"
        && says("sec-fetch-mode", "navigate")
        && says("sec-fetch-dest", "document")
}
