//! `HEAD`, entity tags and `If-None-Match`, from memory and from a fetch.

use crate::support::H2Client;
use crate::support::client::head;
use crate::support::{Action, Gateway, Origin, STEP, body, client::Response, respond};

fn etag(response: &Response) -> String {
    response.header("etag").expect("an entity tag").to_owned()
}

#[tokio::test]
async fn head_is_a_get_without_the_body() {
    for status in ["completed", "in_progress"] {
        let origin = Origin::start().await;
        origin.set_status(status);
        let gateway = Gateway::start(&origin, "").await;
        let mut client = gateway.connect().await;
        for _fetch_then_perhaps_hit in 0..2 {
            client.send(head("HEAD", STEP, "127.0.0.1", &[])).await;
            let without = client.response_to("HEAD").await;
            client.send(head("GET", STEP, "127.0.0.1", &[])).await;
            let with = client.response().await;
            assert_eq!(with.body, body(status), "the response to HEAD had a body");
            let length = with.body.len().to_string();
            assert_eq!(without.status, 200);
            assert_eq!(without.header("content-length"), Some(length.as_str()));
            assert_eq!(etag(&without), etag(&with));
            assert_eq!(without.header("content-type"), with.header("content-type"));
        }
        assert!(
            origin
                .requests()
                .iter()
                .all(|r| r.line().starts_with("GET "))
        );
    }
}

#[tokio::test]
async fn head_stores_what_it_fetched() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let fetched = gateway.request("HEAD", STEP, &[]).await;
    assert!(fetched.is_stored());
    let hit = gateway.get(STEP).await;
    assert_eq!((hit.is_hit(), hit.body), (true, body("completed")));
    assert!(gateway.request("HEAD", STEP, &[]).await.is_hit());
}

#[tokio::test]
async fn head_over_http_2_has_the_length_and_no_body() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let h2 = H2Client::connect(gateway.address()).await;
    for _fetch_then_hit in 0..2 {
        let response = h2.send(gateway.h2_request("HEAD", STEP)).await;
        let length = body("completed").len().to_string();
        assert_eq!(response.header("content-length"), Some(length.as_str()));
        assert!(response.body.is_empty());
    }
}

#[tokio::test]
async fn if_none_match_is_answered_304_from_memory_and_from_a_fetch() {
    for (status, fetches) in [("completed", 1), ("in_progress", 9)] {
        let origin = Origin::start().await;
        origin.set_status(status);
        let gateway = Gateway::start(&origin, "").await;
        let tag = etag(&gateway.get(STEP).await);
        for (method, value) in [
            ("GET", tag.clone()),
            ("GET", format!("W/{tag}")),
            ("GET", format!("\"other\", {tag}")),
            ("GET", format!("\"a,b\",W/\"x\" , W/{tag}")),
            ("GET", "*".to_owned()),
            ("HEAD", tag.clone()),
            ("HEAD", "*".to_owned()),
        ] {
            let headers = [("If-None-Match", value.as_str())];
            let response = gateway.request(method, STEP, &headers).await;
            assert_eq!(response.status, 304, "{status}: {value}");
            assert_eq!(etag(&response), tag, "{status}: {value}");
            assert!(!response.cache_status().is_empty());
        }
        let two_lines = [
            ("If-None-Match", "\"other\""),
            ("If-None-Match", tag.as_str()),
        ];
        assert_eq!(
            gateway.get_with(STEP, &two_lines).await.status,
            304,
            "{status}"
        );
        assert_eq!(origin.count(), fetches, "{status}");
    }
}

#[tokio::test]
async fn a_304_has_no_body() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let mut client = gateway.connect().await;
    for _fetch_then_hit in 0..2 {
        client
            .send(head("GET", STEP, "127.0.0.1", &[("If-None-Match", "*")]))
            .await;
        assert_eq!(client.response().await.status, 304);
    }
    client.send(head("GET", STEP, "127.0.0.1", &[])).await;
    assert_eq!(client.response().await.body, body("completed"));
}

#[tokio::test]
async fn an_entity_tag_that_does_not_match_is_answered_with_the_body() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    let tag = etag(&gateway.get(STEP).await);
    let unquoted = tag.trim_matches('"').to_owned();
    for value in ["\"other\"", &unquoted, "", "\"*\"", "W/\"other\", \"more\""] {
        let response = gateway.get_with(STEP, &[("If-None-Match", value)]).await;
        assert_eq!(
            (response.status, response.body),
            (200, body("completed")),
            "{value}"
        );
    }
}

#[tokio::test]
async fn only_a_200_is_answered_304() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    for status in ["404 Not Found", "500 Oh", "302 Found"] {
        origin.next(vec![Action::Send(respond(status, &[], "{}"))]);
        let response = gateway.get_with(STEP, &[("If-None-Match", "*")]).await;
        assert_eq!(response.status.to_string(), status[..3]);
    }
}

#[tokio::test]
async fn a_fetch_answered_with_304_stores_a_final_body() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(&origin, "").await;
    gateway.get_with(STEP, &[("If-None-Match", "*")]).await;
    let hit = gateway.get(STEP).await;
    assert_eq!((hit.is_hit(), hit.body), (true, body("completed")));
}

#[tokio::test]
async fn an_entity_tag_depends_on_the_body_only() {
    let origin = Origin::start().await;
    origin.set_status("in_progress");
    let one = Gateway::start(&origin, "").await;
    let two = Gateway::start(&origin, "[upstream.query]\nv = \"2\"\n").await;
    let live = etag(&one.get(STEP).await);
    assert_eq!(
        etag(&two.get(STEP).await),
        live,
        "another gateway gives the same bytes another entity tag"
    );
    origin.next(vec![Action::Send(respond(
        "200 OK",
        &[("etag", "\"theirs\""), ("x-a", "b")],
        body("in_progress"),
    ))]);
    assert_eq!(
        etag(&one.get(STEP).await),
        live,
        "other headers give the same bytes another entity tag"
    );
    origin.set_status("completed");
    assert_ne!(
        etag(&one.get(STEP).await),
        live,
        "other bytes have the same entity tag"
    );
}
