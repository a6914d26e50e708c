//! Tests the fixtures against each other, since a broken fixture must not look like a broken gateway.

use crate::support::client::{self, head};
use crate::support::{Action, Latch, Origin, RawClient, STEP, body, respond};

#[tokio::test]
async fn the_origin_is_healthy_and_records_its_requests() {
    let origin = Origin::start().await;
    let response = client::send(origin.address, "GET", STEP, &[("X-A", "b")]).await;
    let response = response.unwrap();
    assert_eq!((response.status, response.body), (200, body("completed")));
    assert_eq!(origin.last().line(), format!("GET {STEP}"));
    assert_eq!(origin.last().all("x-a"), ["b"]);
}

#[tokio::test]
async fn queued_scripts_precede_the_standing_script() {
    let origin = Origin::start().await;
    origin.next(vec![Action::RespondStatus("failed")]);
    origin.always(vec![Action::Send(respond("418 Teapot", &[], "{}"))]);
    let mut client = RawClient::connect(origin.address).await;
    for expected in [200, 418, 418] {
        client.send(head("GET", STEP, "origin", &[])).await;
        assert_eq!(client.response().await.status, expected);
    }
    let requests = origin.requests();
    let numbers: Vec<_> = requests.iter().map(|r| (r.connection, r.nth)).collect();
    assert_eq!(numbers, [(0, 0), (0, 1), (0, 2)]);
}

#[tokio::test]
async fn a_truncated_response_is_an_error() {
    let short = respond("200 OK", &[("content-length", "9")], "four");
    let chunked = respond(
        "200 OK",
        &[("transfer-encoding", "chunked")],
        "4\r\nfour\r\n",
    );
    let cases = [
        (vec![Action::Send(short), Action::Close], Some(200)),
        (vec![Action::Send(chunked), Action::Close], Some(200)),
        (
            vec![Action::Send(b"HTTP/1.1 200".to_vec()), Action::Cut],
            None,
        ),
        (vec![Action::Reset], None),
    ];
    for (script, status) in cases {
        let origin = Origin::start().await;
        origin.next(script);
        let error = client::send(origin.address, "GET", STEP, &[])
            .await
            .unwrap_err();
        assert_eq!(error.status, status, "{error}");
    }
}

#[tokio::test]
async fn chunked_bodies_and_interim_responses_are_read() {
    let origin = Origin::start().await;
    let chunks = respond(
        "200 OK",
        &[("transfer-encoding", "chunked")],
        "3;x=y\r\nfou\r\n1\r\nr\r\n0\r\nt: railer\r\n\r\n",
    );
    origin.next(vec![
        Action::Send(b"HTTP/1.1 103 Early\r\nlink: a\r\n\r\n".to_vec()),
        Action::Send(chunks),
    ]);
    let response = client::send(origin.address, "GET", STEP, &[])
        .await
        .unwrap();
    assert_eq!(response.text(), "four");
}

#[tokio::test]
async fn a_latch_delays_a_response() {
    let origin = Origin::start().await;
    let latch = Latch::closed();
    origin.next(vec![Action::Wait(latch.clone()), Action::Respond]);
    let request = client::send(origin.address, "GET", STEP, &[]);
    let opened = async {
        origin.wait_for_requests(1).await;
        origin.set_status("expired");
        latch.open();
    };
    let (response, ()) = tokio::join!(request, opened);
    assert_eq!(response.unwrap().body, body("expired"));
}

#[tokio::test]
async fn a_numbered_response_is_as_old_as_its_request() {
    let origin = Origin::start().await;
    let latch = Latch::closed();
    origin.always(vec![Action::Wait(latch.clone()), Action::RespondNumbered]);
    let first = client::send(origin.address, "GET", STEP, &[]);
    let second = async {
        origin.wait_for_requests(1).await;
        origin.set_status("failed");
        let second = client::send(origin.address, "GET", STEP, &[]);
        let open = async {
            origin.wait_for_requests(2).await;
            latch.open();
        };
        tokio::join!(second, open).0
    };
    let (first, second) = tokio::join!(first, second);
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!((first.fetch(), second.fetch()), (1, 2));
    assert_eq!(first.json()["status"], "completed");
    assert_eq!(second.json()["status"], "failed");
}

#[tokio::test]
async fn a_peer_that_hangs_up_on_a_stall_is_seen() {
    let origin = Origin::start().await;
    origin.next(vec![Action::Stall]);
    let mut client = RawClient::connect(origin.address).await;
    client.send(head("GET", STEP, "origin", &[])).await;
    origin.wait_for_requests(1).await;
    drop(client);
    origin.wait_for_hangups(1).await;
}
