//! The files of the status page, their headers, and who may load them. `tests/page` uses a browser.

use crate::support::{Gateway, Origin, client, client::Response};

const FILES: [(&str, &str); 5] = [
    ("/", "text/html; charset=utf-8"),
    ("/page.css", "text/css; charset=utf-8"),
    ("/page.js", "text/javascript; charset=utf-8"),
    ("/chart.js", "text/javascript; charset=utf-8"),
    ("/format.js", "text/javascript; charset=utf-8"),
];

const HEADERS: [(&str, &str); 4] = [
    (
        "content-security-policy",
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
];

/// The headers that a browser sends when a user follows a link on another site.
const CROSS_SITE_NAVIGATION: [(&str, &str); 3] = [
    ("Sec-Fetch-Site", "cross-site"),
    ("Sec-Fetch-Mode", "navigate"),
    ("Sec-Fetch-Dest", "document"),
];

async fn send(gateway: &Gateway, path: &str, headers: &[(&str, &str)]) -> Response {
    let response = client::send(gateway.admin_address(), "GET", path, headers).await;
    response.unwrap_or_else(|broken| panic!("{path}: {broken}"))
}

#[tokio::test]
async fn page_files_have_their_type_and_security_headers() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let mut bytes = 0;
    for (path, content_type) in FILES {
        let get = gateway.admin("GET", path).await;
        let head = gateway.admin("HEAD", path).await;
        for response in [&get, &head] {
            assert_eq!(response.status, 200, "{path}");
            assert_eq!(
                response.header("content-type"),
                Some(content_type),
                "{path}"
            );
            for (name, value) in HEADERS {
                assert_eq!(response.header(name), Some(value), "{path}");
            }
        }
        assert!(!get.body.is_empty(), "{path}");
        bytes += get.body.len();
    }
    assert!(bytes < 30_000, "the page is too large: {bytes} bytes");
}

#[tokio::test]
async fn page_files_accept_get_and_head_only() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    for (path, _) in FILES {
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let response = gateway.admin(method, path).await;
            assert_eq!(response.status, 405, "{method} {path}");
            assert_eq!(
                response.header("allow"),
                Some("GET, HEAD"),
                "{method} {path}"
            );
        }
    }
    for path in ["/index.html", "/page", "/page.css/", "//", "/page/page.js"] {
        assert_eq!(gateway.admin("GET", path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn page_is_not_on_the_data_listener() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    for (path, _) in FILES {
        assert_eq!(gateway.get(path).await.status, 404, "{path}");
    }
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn page_needs_no_token_and_status_does() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "[admin]\ntoken = { env = \"BILLING_TOKEN\" }\n").await;
    for (path, _) in FILES {
        assert_eq!(gateway.admin("GET", path).await.status, 200, "{path}");
    }
    let unauthorized = gateway.admin("GET", "/status").await;
    assert_eq!(unauthorized.status, 401);
    assert_eq!(unauthorized.header("www-authenticate"), Some("Bearer"));
}

/// The content security policy would block inline code and other hosts, and the page would not work.
#[tokio::test]
async fn page_has_nothing_inline_and_requests_no_other_host() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let html = gateway.admin("GET", "/").await.text();
    for inline in [
        "style=",
        "<style",
        "javascript:",
        "onclick=",
        "onload=",
        "onsubmit=",
    ] {
        assert!(!html.contains(inline), "{inline}");
    }
    let scripts = html.matches("<script").count();
    assert_eq!(scripts, html.matches("src=\"/page.js\"></script>").count());
    for (path, _) in FILES {
        let text = gateway.admin("GET", path).await.text();
        let text = text
            .replace("http://www.w3.org/2000/svg", "")
            .replace("http://localhost", "");
        for forbidden in ["http://", "https://", "\"//", "innerHTML", "url("] {
            assert!(!text.contains(forbidden), "{forbidden} in {path}");
        }
    }
}

#[tokio::test]
async fn cross_site_navigation_may_open_the_page_and_nothing_else() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    assert_eq!(
        send(&gateway, "/", &CROSS_SITE_NAVIGATION).await.status,
        200
    );
    for path in ["/status", "/metrics", "/page.js"] {
        let response = send(&gateway, path, &CROSS_SITE_NAVIGATION).await;
        assert_eq!(response.status, 403, "{path}");
    }
    let [site, mode, dest] = CROSS_SITE_NAVIGATION;
    for headers in [
        &[site][..],
        &[site, mode, ("Sec-Fetch-Dest", "iframe")],
        &[site, dest, ("Sec-Fetch-Mode", "no-cors")],
        &[site, mode, dest, ("Host", "rebound.example")],
        &[site, mode, dest, ("Origin", "https://elsewhere.example")],
    ] {
        assert_eq!(
            send(&gateway, "/", headers).await.status,
            403,
            "{headers:?}"
        );
    }
}
