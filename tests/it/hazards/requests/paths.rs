//! Which paths and queries name which resource (items 11 to 13): a resource never has two cache keys,
//! and a cache key never names two resources.

use crate::support::hyper_server::HyperServer;
use crate::support::{Gateway, LIST, Origin, STEP, client};

const INVALID_IDS: [&str; 23] = [
    ".",
    "..",
    "..%2f",
    "%2e%2e",
    "%252e%252e",
    "%2E",
    "%00",
    "%0d%0aX:y",
    "a%20b",
    "a%",
    ";",
    "a;b",
    "\\",
    "..\\..",
    "",
    "a.b",
    "a:b",
    "a@b",
    "a+b",
    "a*b",
    "a,b",
    "a~b",
    "a!b",
];

#[tokio::test]
async fn c11_path_traversal_ids_are_rejected_and_nothing_is_fetched() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let (long, just_too_long) = ("a".repeat(10 * 1024), "a".repeat(129));
    for id in INVALID_IDS.into_iter().chain([&*long, &just_too_long]) {
        for path in [
            format!("/v1/threads/{id}/runs/run_1/steps/step_1"),
            format!("/v1/threads/thread_1/runs/{id}/steps/step_1"),
            format!("/v1/threads/thread_1/runs/run_1/steps/{id}"),
            format!("/v1/threads/{id}/runs/run_1/steps"),
        ] {
            let response = gateway.get(&path).await;
            assert_eq!(response.status, 400, "{path}");
            assert_eq!(response.code().as_deref(), Some("invalid_path"), "{path}");
        }
    }
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn c11_bare_hyper_accepts_path_traversal() {
    let bare = HyperServer::start().await;
    for id in INVALID_IDS {
        let path = format!("{LIST}/{id}");
        let response = client::send(bare.address, "GET", &path, &[]).await.unwrap();
        assert_eq!(response.status, 200, "{path}");
    }
}

#[tokio::test]
async fn c11_non_ascii_and_control_bytes_in_an_id_are_rejected() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    for id in [
        "ä",
        "step\u{2028}1",
        "\u{ff0e}\u{ff0e}",
        "a\0b",
        "a\tb",
        "a\x7fb",
    ] {
        // If hyper's parser rejects the request, the 400 has no body and thus no code.
        let response = gateway.get(&format!("{LIST}/{id}")).await;
        assert_eq!(response.status, 400, "{id:?}");
        let code = response.code();
        assert!(
            code.is_none() || code.as_deref() == Some("invalid_path"),
            "{id:?}"
        );
    }
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn c11_valid_ids_of_up_to_128_characters_are_accepted() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    for id in ["a", "-", "_", "AZaz09_-", &"a".repeat(128)] {
        let response = gateway.get(&format!("{LIST}/{id}")).await;
        assert_eq!((response.status, response.is_stored()), (200, true), "{id}");
    }
}

#[tokio::test]
async fn c12_cache_key_confusion_a_resource_has_one_path() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    for (path, status, code) in [
        (
            "/v1/threads/thread_1/runs/run_1/steps/step_1/",
            400,
            "invalid_path",
        ),
        (
            "/v1/threads/thread_1/runs/run_1/steps/",
            400,
            "invalid_path",
        ),
        (
            "/v1/threads/thread_1/runs/run_1/steps/%73tep_1",
            400,
            "invalid_path",
        ),
        (
            "/v1/threads/%74hread_1/runs/run_1/steps/step_1",
            400,
            "invalid_path",
        ),
        (
            "/v1/threads/thread_1/./runs/run_1/steps/step_1",
            400,
            "invalid_path",
        ),
        (
            "/v1/x/../threads/thread_1/runs/run_1/steps/step_1",
            400,
            "invalid_path",
        ),
        (
            "/v1/threads/thread_1/runs/run_1/Steps/step_1",
            404,
            "route_not_found",
        ),
        (
            "/V1/threads/thread_1/runs/run_1/steps/step_1",
            404,
            "route_not_found",
        ),
        (
            "/threads/thread_1/runs/run_1/steps/step_1",
            404,
            "route_not_found",
        ),
        (
            "/v2/threads/thread_1/runs/run_1/steps/step_1",
            404,
            "route_not_found",
        ),
    ] {
        let response = gateway.get(path).await;
        assert_eq!(response.status, status, "{path}");
        assert_eq!(response.code().as_deref(), Some(code), "{path}");
    }
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn c12_encoded_literal_segment_matches_no_rule() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    for path in [
        "/v1/threads/thread_1/runs/run_1/%73teps/step_1",
        "/v1/%74hreads/thread_1/runs/run_1/steps/step_1",
        "/%761/threads/thread_1/runs/run_1/steps/step_1",
        "/v1%2fthreads/thread_1/runs/run_1/steps/step_1",
        "//v1/threads/thread_1/runs/run_1/steps/step_1",
        "/v1//threads/thread_1/runs/run_1/steps/step_1",
    ] {
        let status = gateway.get(path).await.status;
        assert!([400, 404].contains(&status), "{path}: {status}");
    }
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn c12_ids_that_differ_in_case_are_two_resources() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    for id in ["step_1", "STEP_1"] {
        let response = gateway.get(&format!("{LIST}/{id}")).await;
        assert_eq!(response.json()["id"], id);
    }
    assert_eq!(origin.count(), 2);
}

#[tokio::test]
async fn c13_equivalent_queries_have_one_cache_key() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    for spellings in [
        &["", "?"][..],
        &[
            "?include[]=a[*].b&include[]=c",
            "?include[]=c&include[]=a[*].b",
            "?include%5B%5D=c&include%5b%5d=a%5B%2A%5D.b",
            "?include[]=%61[*].b&include[]=c&include[]=c",
        ],
        &["?include[]=a%2Bb", "?include%5B%5D=a%2bb"],
        &["?include[]=", "?include%5B%5D="],
    ] {
        let before = origin.count();
        for query in spellings {
            let response = gateway.get(&format!("{STEP}{query}")).await;
            assert_eq!(response.status, 200, "{query}");
        }
        assert_eq!(origin.count() - before, 1, "{spellings:?}");
    }
}

#[tokio::test]
async fn c13_different_queries_have_different_cache_keys() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let queries = [
        "",
        "?include[]=",
        "?include[]=a",
        "?include[]=A",
        "?include[]=a&include[]=b",
        "?include[]=a%26include[]=b",
        "?include[]=a,b",
        "?include[]=a%20b",
        "?include[]=a%2Bb",
        "?include[]=a%252Bb",
    ];
    for query in queries {
        assert!(
            gateway.get(&format!("{STEP}{query}")).await.is_stored(),
            "{query}"
        );
    }
    assert_eq!(origin.count(), queries.len());
}

#[tokio::test]
async fn c13_requested_query_goes_upstream() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    gateway
        .get(&format!("{STEP}?include%5B%5D=a%5B%2A%5D.b%26c%3Dd"))
        .await;
    let target = origin.last().target();
    let query = target.split_once('?').expect("a query").1;
    let decoded = percent_encoding::percent_decode_str(query).decode_utf8();
    assert_eq!(decoded.unwrap(), "include[]=a[*].b&c=d");
    assert_eq!(query.matches('&').count(), 0, "{query}");
}

#[tokio::test]
async fn c13_unknown_query_parameter_is_forwarded_and_the_response_not_stored() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    gateway.get(STEP).await;
    for query in [
        "?x=1",
        "?include[]=a&x=1",
        "?INCLUDE[]=a",
        "?include=a",
        "?x",
    ] {
        for _ in 0..2 {
            let before = origin.count();
            let response = gateway.get(&format!("{STEP}{query}")).await;
            assert_eq!(response.status, 200, "{query}");
            let status = response.cache_status();
            assert!(status.contains("detail=unknown_query"), "{query}: {status}");
            assert_eq!(origin.count(), before + 1, "{query}");
        }
        assert!(origin.last().target().contains('?'), "{query}");
    }
    assert!(gateway.get(STEP).await.is_hit());
}
