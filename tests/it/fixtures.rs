//! The fixtures themselves, against each other: a broken fixture must not look like a broken
//! gateway.

use crate::support::raw::{ask, head};
use crate::support::{Act, Gate, Origin, Raw, STEP, body, respond};

#[tokio::test]
async fn the_origin_answers_well_and_records_what_came() {
    let origin = Origin::start().await;
    let answer = ask(origin.address, "GET", STEP, &[("X-A", "b")]).await;
    let answer = answer.unwrap();
    assert_eq!((answer.status, answer.body), (200, body("completed")));
    assert_eq!(origin.last().line(), format!("GET {STEP}"));
    assert_eq!(origin.last().all("x-a"), ["b"]);
}

#[tokio::test]
async fn scripts_go_first_then_the_standing_one() {
    let origin = Origin::start().await;
    origin.next(vec![Act::Step("failed")]);
    origin.always(vec![Act::Send(respond("418 Teapot", &[], "{}"))]);
    let mut raw = Raw::connect(origin.address).await;
    for expected in [200, 418, 418] {
        raw.send(head("GET", STEP, "origin", &[])).await;
        assert_eq!(raw.answer().await.status, expected);
    }
    let seen = origin.requests();
    let places: Vec<_> = seen.iter().map(|r| (r.connection, r.nth)).collect();
    assert_eq!(places, [(0, 0), (0, 1), (0, 2)]);
}

#[tokio::test]
async fn an_answer_that_is_not_whole_is_no_answer() {
    let short = respond("200 OK", &[("content-length", "9")], "four");
    let chunked = respond(
        "200 OK",
        &[("transfer-encoding", "chunked")],
        "4\r\nfour\r\n",
    );
    let cases = [
        (vec![Act::Send(short), Act::Close], Some(200)),
        (vec![Act::Send(chunked), Act::Close], Some(200)),
        (vec![Act::Send(b"HTTP/1.1 200".to_vec()), Act::Cut], None),
        (vec![Act::Reset], None),
    ];
    for (script, status) in cases {
        let origin = Origin::start().await;
        origin.next(script);
        let broken = ask(origin.address, "GET", STEP, &[]).await.unwrap_err();
        assert_eq!(broken.status, status, "{broken}");
    }
}

#[tokio::test]
async fn chunked_bodies_and_interim_answers_are_read() {
    let origin = Origin::start().await;
    let chunks = respond(
        "200 OK",
        &[("transfer-encoding", "chunked")],
        "3;x=y\r\nfou\r\n1\r\nr\r\n0\r\nt: railer\r\n\r\n",
    );
    origin.next(vec![
        Act::Send(b"HTTP/1.1 103 Early\r\nlink: a\r\n\r\n".to_vec()),
        Act::Send(chunks),
    ]);
    let answer = ask(origin.address, "GET", STEP, &[]).await.unwrap();
    assert_eq!(answer.text(), "four");
}

#[tokio::test]
async fn a_gate_holds_an_answer_back() {
    let origin = Origin::start().await;
    let gate = Gate::closed();
    origin.next(vec![Act::Wait(gate.clone()), Act::Default]);
    let asked = ask(origin.address, "GET", STEP, &[]);
    let opened = async {
        origin.arrived(1).await;
        origin.status("expired");
        gate.open();
    };
    let (answer, ()) = tokio::join!(asked, opened);
    assert_eq!(answer.unwrap().body, body("expired"));
}

#[tokio::test]
async fn a_numbered_answer_is_as_old_as_its_request() {
    let origin = Origin::start().await;
    let gate = Gate::closed();
    origin.always(vec![Act::Wait(gate.clone()), Act::Numbered]);
    let first = ask(origin.address, "GET", STEP, &[]);
    let second = async {
        origin.arrived(1).await;
        origin.status("failed");
        let second = ask(origin.address, "GET", STEP, &[]);
        let open = async {
            origin.arrived(2).await;
            gate.open();
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
async fn a_peer_that_hangs_up_on_a_hold_is_seen() {
    let origin = Origin::start().await;
    origin.next(vec![Act::Hold]);
    let mut raw = Raw::connect(origin.address).await;
    raw.send(head("GET", STEP, "origin", &[])).await;
    origin.arrived(1).await;
    drop(raw);
    origin.abandoned(1).await;
}
