//! The status page, as bytes: what it may do, to whom it is shown. `tests/page` looks at it in a browser.

use crate::support::{Gateway, Origin, client, client::Response};

const FILES: [(&str, &str); 5] = [
    ("/", "text/html; charset=utf-8"),
    ("/page.css", "text/css; charset=utf-8"),
    ("/page.js", "text/javascript; charset=utf-8"),
    ("/picture.js", "text/javascript; charset=utf-8"),
    ("/words.js", "text/javascript; charset=utf-8"),
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

/// What a browser sends when a link on another site is followed.
const FROM_ELSEWHERE: [(&str, &str); 3] = [
    ("Sec-Fetch-Site", "cross-site"),
    ("Sec-Fetch-Mode", "navigate"),
    ("Sec-Fetch-Dest", "document"),
];

async fn ask(gateway: &Gateway, path: &str, headers: &[(&str, &str)]) -> Response {
    let answer = client::send(gateway.admin_address(), "GET", path, headers).await;
    answer.unwrap_or_else(|broken| panic!("{path}: {broken}"))
}

#[tokio::test]
async fn its_files_say_what_they_are_and_what_they_may() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let mut bytes = 0;
    for (path, content_type) in FILES {
        let whole = gateway.admin("GET", path).await;
        let head = gateway.admin("HEAD", path).await;
        for answer in [&whole, &head] {
            assert_eq!(answer.status, 200, "{path}");
            assert_eq!(answer.header("content-type"), Some(content_type), "{path}");
            for (name, value) in HEADERS {
                assert_eq!(answer.header(name), Some(value), "{path}");
            }
        }
        assert!(!whole.body.is_empty(), "{path}");
        bytes += whole.body.len();
    }
    assert!(bytes < 30_000, "the page has become large: {bytes} bytes");
}

#[tokio::test]
async fn it_is_only_read() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    for (path, _) in FILES {
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let answer = gateway.admin(method, path).await;
            assert_eq!(answer.status, 405, "{method} {path}");
            assert_eq!(answer.header("allow"), Some("GET, HEAD"), "{method} {path}");
        }
    }
    for path in ["/index.html", "/page", "/page.css/", "//", "/page/page.js"] {
        assert_eq!(gateway.admin("GET", path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn nothing_of_it_is_on_the_data_listener() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    for (path, _) in FILES {
        assert_eq!(gateway.get(path).await.status, 404, "{path}");
    }
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn it_needs_no_token_and_the_figures_do() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "[admin]\ntoken = { env = \"BILLING_TOKEN\" }\n").await;
    for (path, _) in FILES {
        assert_eq!(gateway.admin("GET", path).await.status, 200, "{path}");
    }
    let refused = gateway.admin("GET", "/status").await;
    assert_eq!(refused.status, 401);
    assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
}

/// The policy would refuse it, and so the page would not work.
#[tokio::test]
async fn it_has_nothing_inline_and_asks_nobody_else() {
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
        for elsewhere in ["http://", "https://", "\"//", "innerHTML", "url("] {
            assert!(!text.contains(elsewhere), "{elsewhere} in {path}");
        }
    }
}

#[tokio::test]
async fn a_link_on_another_site_leads_to_the_page_and_nothing_else_gets_anything() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    assert_eq!(ask(&gateway, "/", &FROM_ELSEWHERE).await.status, 200);
    for path in ["/status", "/metrics", "/page.js"] {
        let answer = ask(&gateway, path, &FROM_ELSEWHERE).await;
        assert_eq!(answer.status, 403, "{path}");
    }
    let [site, mode, dest] = FROM_ELSEWHERE;
    for others in [
        &[site][..],
        &[site, mode, ("Sec-Fetch-Dest", "iframe")],
        &[site, dest, ("Sec-Fetch-Mode", "no-cors")],
        &[site, mode, dest, ("Host", "rebound.example")],
        &[site, mode, dest, ("Origin", "https://elsewhere.example")],
    ] {
        assert_eq!(ask(&gateway, "/", others).await.status, 403, "{others:?}");
    }
}
