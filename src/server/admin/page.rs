//! The files of the status page. They contain no figures: the page requests `/status`.

use bytes::Bytes;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::http::request::Parts;
use hyper::{Method, Response};

use crate::upstream::Body;

/// Allows the page its own files and requests, and neither frames nor forms.
const SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Returns the file of the page at `path`, or `None` if there is none.
pub(super) fn file(path: &str) -> Option<Response<Body>> {
    let (content_type, text) = match path {
        "/" => ("text/html; charset=utf-8", include_str!("page/index.html")),
        "/page.css" => ("text/css; charset=utf-8", include_str!("page/page.css")),
        "/page.js" => (SCRIPT, include_str!("page/page.js")),
        "/chart.js" => (SCRIPT, include_str!("page/chart.js")),
        "/format.js" => (SCRIPT, include_str!("page/format.js")),
        _ => return None,
    };
    let mut response = Response::new(Body::Full(Bytes::from_static(text.as_bytes())));
    let headers: [(HeaderName, &str); 5] = [
        (CONTENT_TYPE, content_type),
        // After an upgrade, all files must be of the same version.
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, SECURITY_POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in headers {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    Some(response)
}

/// Reports whether a browser opens the page itself, rather than a script, frame or image of another page.
pub(super) fn is_navigation(head: &Parts) -> bool {
    let has = |name, value: &str| head.headers.get(name).is_some_and(|found| found == value);
    head.method == Method::GET
        && head.uri.path() == "/"
        && has("sec-fetch-mode", "navigate")
        && has("sec-fetch-dest", "document")
}
